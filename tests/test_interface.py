"""The tools that every model shares: noise from seeds, mismatched pairs, tokens, the quantiser."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from t2ibench.baselines.interface import (
    from_uint8,
    optimiser_step,
    sample_in_chunks,
    seeded_normal,
    seeded_uniform,
    to_uint8,
)
from t2ibench.baselines.mismatch import matching_pairs, mismatched_order
from t2ibench.datasets.captioned import Batch
from t2ibench.datasets.tokenizers import ALPHABET, CharacterTokenizer, WordTokenizer


def test_noise_of_a_seed_is_its_own() -> None:
    whole = seeded_normal([3, 2**62, 0, -5], 100)
    assert torch.equal(whole[1], seeded_normal([2**62], 100)[0])
    assert len({tuple(row.tolist()) for row in whole}) == 4


def test_noise_is_normal_and_uncorrelated() -> None:
    noise = seeded_normal(range(2000), 50).double().numpy()
    assert stats.kstest(noise.ravel(), "norm").pvalue > 0.001
    assert np.abs(np.corrcoef(noise.T) - np.eye(50)).max() < 0.1
    assert np.abs(np.corrcoef(noise[:200]) - np.eye(200)).max() < 0.75
    uniform = seeded_uniform([7], 10)
    assert ((uniform > 0) & (uniform < 1)).all()


def test_quantiser_round_trips_every_level() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(from_uint8(levels)), levels)
    assert to_uint8(torch.tensor([-9.0, 9.0])).tolist() == [0, 255]


def test_chunks_are_always_full_and_in_order() -> None:
    seen = []

    def draw(captions: object, seeds: object) -> torch.Tensor:
        seen.append(len(list(captions)))  # type: ignore[call-overload]
        return torch.tensor([float(len(c)) for c in captions])[:, None, None, None] / 127.5 - 1  # type: ignore[attr-defined]

    drawn = sample_in_chunks(draw, ["x" * n for n in range(5)], range(5), chunk=3)
    assert seen == [3, 3] and drawn.flatten().tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="one seed a caption"):
        sample_in_chunks(draw, ["a"], [1, 2])


def test_optimiser_step_is_gradient_descent_and_clips() -> None:
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    unused = torch.nn.Parameter(torch.ones(1))
    optimiser = torch.optim.SGD([weight, unused], lr=0.1)
    optimiser_step(optimiser, (weight * torch.tensor([3.0, 4.0])).sum(), clip_norm=1.0)
    assert weight.tolist() == pytest.approx([3 - 0.06, 4 - 0.08])
    assert unused.item() == 1


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12))
@settings(deadline=None, max_examples=60)
def test_mismatched_order_never_pairs_what_matches_where_it_can(groups: list[int]) -> None:
    labels = torch.tensor(groups)
    order = mismatched_order(labels[:, None] == labels[None]).tolist()
    for place, partner in enumerate(order):
        assert partner != place
        if len(set(groups)) > 1:
            assert groups[partner] != groups[place]
            between = [groups[(place + step) % len(groups)] for step in range((partner - place) % len(groups))]
            assert set(between) == {groups[place]}, "the nearest that does not match"


def test_matching_pairs_by_class_or_by_caption_and_image() -> None:
    images = torch.zeros(4, 3, 4, 4, dtype=torch.uint8)
    captions, ids = ["a", "b", "a", "c"], ["0", "1", "2", "1"]
    batch = Batch(images=images, captions=captions, ids=ids, labels=torch.tensor([5, 5, 6, 7]))
    same = torch.eye(4, dtype=torch.bool)
    by_class, by_image = same.clone(), same.clone()
    by_class[0, 1] = by_class[1, 0] = True
    by_image[0, 2] = by_image[2, 0] = by_image[1, 3] = by_image[3, 1] = True
    assert torch.equal(matching_pairs(batch, "class"), by_class)
    assert torch.equal(matching_pairs(batch, "image"), by_image)
    assert torch.equal(matching_pairs(Batch(images=images, captions=captions, ids=ids), "class"), by_image)


def test_characters_are_numbered_as_published() -> None:
    assert len(ALPHABET) == 70
    tokens = CharacterTokenizer(8)(["aZ -é€🦊", "longer than eight"])
    assert tokens.tolist()[0] == [1, 26, 70, 60, 0, 0, 0, 0]
    assert tokens.shape == (2, 8) and tokens[1].tolist() == [ALPHABET.index(c) + 1 for c in "longer t"]


@given(st.lists(st.text(max_size=30), max_size=6))
@settings(deadline=None, max_examples=60)
def test_characters_of_any_text_stay_in_the_vocabulary(captions: list[str]) -> None:
    tokenizer = CharacterTokenizer(20)
    tokens = tokenizer(captions)
    assert tokens.shape == (len(captions), 20)
    assert not len(captions) or 0 <= int(tokens.min()) and int(tokens.max()) < tokenizer.vocabulary_size


def test_words_are_learnt_by_frequency_and_cut_before_the_end() -> None:
    tokenizer = WordTokenizer.learn(["b a a", "a, c"], length=4, size=3)
    assert tokenizer.words == ("a", ",", "b")
    assert tokenizer(["A c b", "b b b b b b", ""]).tolist() == [[3, 1, 5, 2], [5, 5, 5, 2], [2, 0, 0, 0]]
