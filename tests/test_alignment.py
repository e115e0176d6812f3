"""CLIP score and R-precision on embeddings whose scores are known."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize
from torchmetrics.multimodal.clip_score import CLIPScore as TheirCLIPScore

from t2ibench.errors import UserError
from t2ibench.eval.alignment import CLIPScore, RPrecision, nearest_credit, other_numbers


def vectors(n, d=16, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def clip_score(images, captions, batch=1000):
    metric = CLIPScore()
    for pair in zip(images.split(batch), captions.split(batch), strict=True):
        metric.update(*pair)
    return metric.compute()


def r_precision(images, captions, texts, candidates=100, seed=0, batch=1000):
    metric = RPrecision(candidates=candidates, seed=seed)
    for start in range(0, len(images), batch):
        part = slice(start, start + batch)
        metric.update(images[part], captions[part], texts[part])
    return metric.compute()


class TheirModel(torch.nn.Module):
    """What torchmetrics asks of a CLIP, with pixels and token ids as embeddings."""

    config = SimpleNamespace(max_position_embeddings=77)

    def get_image_features(self, pixel_values):
        return pixel_values.flatten(1)

    def get_text_features(self, input_ids, attention_mask):
        return input_ids


def their_processor(captions):
    def process(text=None, images=None, **_):
        if images is not None:
            return {"pixel_values": torch.stack(list(images)).float()}
        rows = torch.stack([captions[int(t)] for t in text])
        return {"input_ids": rows, "attention_mask": torch.ones_like(rows)}

    return process


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_clip_score_is_torchmetrics_arithmetic(sign):
    captions = vectors(30, 12)
    images = sign * (captions + 0.5 * vectors(30, 12, seed=1))
    theirs = TheirCLIPScore(model_name_or_path=lambda: (TheirModel(), their_processor(captions)))
    theirs.update(images.reshape(30, 3, 2, 2), [str(i) for i in range(30)])
    got = clip_score(images, captions, batch=7)
    assert got.value.item() == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert (got.value.item() == 0) == (sign < 0)


def test_clip_score_clips_the_mean_and_not_the_pairs():
    images = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    captions = torch.tensor([[5.0, 0.0], [-2.0, 0.0], [0.0, 1.0]])
    got = clip_score(images, captions)
    assert got.value.item() == pytest.approx(0, abs=1e-12)
    assert got.stderr.item() == pytest.approx(100 / 3**0.5, rel=1e-9)
    assert got.n == 3


def test_clip_score_of_one_pair_has_no_error():
    assert clip_score(vectors(1), vectors(1)).stderr.isnan()


def test_clip_score_names_bad_embeddings():
    with pytest.raises(UserError, match="all zeros"):
        CLIPScore().update(vectors(3), torch.zeros(3, 16))
    with pytest.raises(UserError, match="3 images came with 2"):
        CLIPScore().update(vectors(3), vectors(2))
    with pytest.raises(UserError, match="3 of 3 images give NaN"):
        CLIPScore().update(vectors(3) / 0, vectors(3))
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no images"):
        CLIPScore().compute()


def test_perfect_embeddings_are_always_right():
    x = vectors(300)
    got = r_precision(x, x, [str(i) for i in range(300)])
    assert (got.value.item(), got.stderr.item(), int(got.n)) == (1.0, 0.0, 300)


def test_unrelated_embeddings_are_right_by_chance():
    n = 2000
    got = r_precision(vectors(n), vectors(n, seed=1), [str(i) for i in range(n)])
    chance_error = (0.01 * 0.99 / n) ** 0.5
    assert got.value.item() == pytest.approx(0.01, abs=4 * chance_error)
    assert got.stderr.item() == pytest.approx(chance_error, rel=0.5)


def test_the_draw_is_seeded_and_batches_do_not_matter():
    captions = vectors(400, 4)
    images, texts = captions + vectors(400, 4, seed=1), [str(i) for i in range(400)]
    torch.manual_seed(1)
    np.random.seed(1)
    first = r_precision(images, captions, texts)
    torch.manual_seed(2)
    np.random.seed(2)
    assert r_precision(images, captions, texts, batch=7).value == first.value
    assert r_precision(images, captions, texts, seed=1).value != first.value
    assert 0 < first.value < 1


def test_an_equal_caption_is_never_a_distractor():
    distinct = normalize(vectors(100), dim=1)
    captions = distinct.repeat(5, 1)
    texts = [f"caption {i}" for i in range(100)] * 5
    assert r_precision(captions, captions, texts).value == 1.0


def test_ties_share_the_credit():
    collapsed = torch.ones(200, 8)
    got = r_precision(vectors(200, 8), collapsed, [str(i) for i in range(200)])
    assert got.value.item() == pytest.approx(0.01, rel=1e-12)
    image = torch.tensor([[1.0, 0.0]])
    right, wrong = [1.0, 0.0], [0.0, 1.0]
    cases = {1: [right, wrong, wrong], 0.5: [right, right, wrong], 0: [wrong, right, wrong]}
    for credit, candidates in cases.items():
        assert nearest_credit(image, torch.tensor([candidates])).item() == credit


@pytest.mark.parametrize(("total", "draws"), [(5, 3), (5, 4), (200, 99)])
def test_drawn_numbers_are_distinct_others_and_evenly_spread(total, draws):
    own = np.arange(4000) % total
    drawn = other_numbers(own, total, draws, np.random.default_rng(0))
    assert drawn.shape == (4000, draws) and drawn.min() >= 0 and drawn.max() < total
    assert (drawn != own[:, None]).all()
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    share = draws / (total - 1)
    expected = np.array([(own != number).sum() for number in range(total)]) * share
    deviation = (np.bincount(drawn.ravel(), minlength=total) - expected) / np.sqrt(expected)
    assert np.abs(deviation).max() < 4.5


def test_too_few_captions_are_named():
    metric = RPrecision()
    metric.update(vectors(150), vectors(150), [str(i % 99) for i in range(150)])
    with pytest.raises(UserError, match="among 100 captions needs as many different ones, got 99"):
        metric.compute()
    with pytest.raises(UserError, match="3 images came with 2 captions"):
        metric.update(vectors(3), vectors(3), ["a", "b"])
    with pytest.warns(UserWarning), pytest.raises(UserError, match="no images"):
        RPrecision().compute()
