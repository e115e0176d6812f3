"""The metrics across two processes: each scores its half, and both know the score of the whole."""

import pytest
import torch
import torch.distributed as dist

from t2ibench.eval.alignment import CLIPScore, RPrecision
from t2ibench.eval.frechet import FID
from t2ibench.eval.inception_score import InceptionScore

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


def test_two_processes_agree_with_one(tmp_path):
    expected = scores(slice(0, N))
    torch.multiprocessing.spawn(work, args=(tmp_path / "store", expected), nprocs=2)
