"""The Inception score on distributions whose score is known, and against torchmetrics."""

import pytest
import torch
from torchmetrics.image.inception import InceptionScore as TheirInceptionScore

from t2ibench.errors import UserError
from t2ibench.eval.inception_score import InceptionScore


def probabilities(n, classes, seed=0, sharpness=3.0):
    generator = torch.Generator().manual_seed(seed)
    return (sharpness * torch.randn(n, classes, generator=generator, dtype=torch.float64)).softmax(dim=1)


def score(p, splits=10, batch=None):
    metric = InceptionScore(p.shape[1], splits)
    for part in p.split(batch or len(p)):
        metric.update(part)
    return metric.compute()


def test_one_hot_images_of_k_classes_score_k_even_sorted_by_class():
    one_hot = torch.eye(7).repeat_interleave(70, dim=0)
    got = score(one_hot)
    assert got.value.item() == pytest.approx(7, rel=1e-12)
    assert got.stderr.item() == pytest.approx(0, abs=1e-12)
    assert got.n == 490


@pytest.mark.parametrize("p", [torch.full((40, 5), 0.2), torch.eye(5)[[3]].expand(40, 5)])
def test_a_classifier_that_tells_nothing_apart_scores_one(p):
    assert score(p, splits=4).value.item() == pytest.approx(1, abs=1e-7)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_one_split_agrees_with_torchmetrics():
    theirs = TheirInceptionScore(feature=torch.nn.Identity(), splits=1)
    p = probabilities(300, 20)
    theirs.update(p.log())
    got = score(p, splits=1)
    assert got.value.item() == pytest.approx(theirs.compute()[0].item(), rel=1e-6)
    assert got.stderr.isnan()


def test_splits_are_every_so_manieth_image():
    p = probabilities(103, 6)
    parts = torch.stack([score(p[start::5], splits=1).value for start in range(5)])
    got = score(p, splits=5)
    assert got.value.item() == pytest.approx(parts.mean().item(), rel=1e-12)
    assert got.stderr.item() == pytest.approx(parts.std().item() / 5**0.5, rel=1e-9)


@pytest.mark.parametrize("batch", [1, 7, 64])
def test_batches_do_not_matter(batch):
    p = probabilities(103, 6)
    assert score(p, batch=batch).value.item() == pytest.approx(score(p).value.item(), rel=1e-12)


def test_the_sums_stay_in_float64():
    p = probabilities(60, 6)
    metric = InceptionScore(6)
    metric.update(p)
    assert metric.to(torch.float32).compute().value.item() == score(p).value.item()


def test_bad_probabilities_are_named():
    metric = InceptionScore(4)
    with pytest.raises(UserError, match="rows >= 0 with sum 1"):
        metric.update(torch.randn(5, 4))
    with pytest.raises(UserError, match="rows >= 0 with sum 1"):
        metric.update(torch.full((5, 4), 0.3))
    with pytest.raises(UserError, match="5 of 5 images give NaN"):
        metric.update(torch.full((5, 4), torch.nan))
    with pytest.raises(UserError, match=r"expected shape \[N, 4\], got \[5, 3\]"):
        metric.update(torch.full((5, 3), 1 / 3))


def test_too_few_images_are_named():
    metric = InceptionScore(4)
    metric.update(torch.full((19, 4), 0.25))
    with pytest.raises(UserError, match="19 images are too few for 10 splits; score at least 20"):
        metric.compute()
