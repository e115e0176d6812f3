"""The metrics across two processes: each scores its half, and both know the score of the whole."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from t2ibench.eval.alignment import CLIPScore, RPrecision
from t2ibench.eval.frechet import FID
from t2ibench.eval.inception_score import InceptionScore
from t2ibench.eval.metric import mean_of

N = 120


def scores(part: slice) -> list[float]:
    """Score rows `part` of the same N images by every metric."""
    generator = torch.Generator().manual_seed(0)
    captions = torch.randn(N, 6, generator=generator)
    images = captions + torch.randn(N, 6, generator=generator)
    fid, inception = FID(6), InceptionScore(6, splits=1)
    clip, precision = CLIPScore(), RPrecision(candidates=10)
    fid.update(captions[part], real=True)
    fid.update(images[part], real=False)
    inception.update(images[part].softmax(dim=1))
    clip.update(images[part], captions[part])
    precision.update(images[part], captions[part], [f"caption {i}" for i in range(N)][part])
    estimates = [metric.compute() for metric in (inception, clip, precision)]
    return [fid.compute().item()] + [e.value.item() for e in estimates] + [e.n.item() for e in estimates]


def work(rank, store, expected):
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    half = N // 2
    assert scores(slice(rank * half, (rank + 1) * half)) == pytest.approx(expected, rel=1e-9)
    dist.destroy_process_group()


def test_all_right_and_all_wrong_are_not_certain():
    alike = mean_of(np.ones(100), [str(number) for number in range(100)])
    # Wilson's interval of 100 of 100 begins at 1 / (1 + z^2 / 100) = 0.963.
    assert float(alike.value) == 1 and float(alike.stderr) == pytest.approx((1 - 0.96300) / 1.95996, abs=1e-5)
    two = mean_of(np.zeros(100), [str(number // 50) for number in range(100)])
    assert float(two.stderr) > 5 * float(alike.stderr), "a hundred captions of two images say little"
    assert float(mean_of(np.full(9, 0.5), list("abcdefghi")).stderr) == 0


def test_two_processes_agree_with_one(tmp_path):
    expected = scores(slice(0, N))
    torch.multiprocessing.spawn(work, args=(tmp_path / "store", expected), nprocs=2)
