"""How fast the DAMSM scores images by words, beside the official code's loop: python benchmarks/damsm.py

Forward and backward, at the published sizes (48 pairs, 18 words, 17 x 17 regions, 256 dimensions) and at those of
the preset `tiny`; both on the device of `--device` (default: cuda where there is one).
"""

import argparse
import time
from collections.abc import Callable

import torch

from t2ibench.baselines.damsm import word_scores
from t2ibench.tests.damsm_loop import loop_scores

SIZES = {"published": (48, 18, 289, 256), "tiny": (48, 24, 16, 128)}
Scores = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def batched(regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return this package's scores."""
    return word_scores(regions, words, mask, gamma1=4.0, gamma2=5.0)


def looped(regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return those of the loop."""
    return loop_scores(regions, words, mask, gamma1=4.0, gamma2=5.0)


def seconds(scores: Scores, regions: torch.Tensor, words: torch.Tensor, mask: torch.Tensor) -> float:
    """Return the time of one forward and backward pass."""
    started = time.perf_counter()
    torch.autograd.grad(scores(regions, words, mask).diag().sum(), (regions, words))
    if regions.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    """Print both times, the best of ten that take turns, and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(parser.parse_args().device)
    for name, (pairs, count, places, width) in SIZES.items():
        torch.manual_seed(0)
        regions = torch.randn(pairs, places, width, device=device, requires_grad=True)
        words = torch.randn(pairs, count, width, device=device, requires_grad=True)
        mask = torch.ones(pairs, count, dtype=torch.bool, device=device)
        times = [(seconds(batched, regions, words, mask), seconds(looped, regions, words, mask)) for _ in range(11)][1:]
        ours, theirs = (min(column) for column in zip(*times, strict=True))
        print(f"{name}: batched {1e3 * ours:.1f} ms, loop {1e3 * theirs:.1f} ms, {theirs / ours:.1f} times as fast")


if __name__ == "__main__":
    main()
