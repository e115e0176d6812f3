"""What drawing takes: time of single images, memory, FLOPs, energy."""

import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..baselines.interface import TextToImage
from ..eval.prompts import Prompt

SINGLE = 20
"""Images drawn one by one; two more before them are not timed."""
POWERCAP = Path("/sys/class/powercap")
"""Where Linux counts the energy of processors, if it tells."""


def measure(model: TextToImage, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the cost of drawing one image at a time, by name with its unit.

    `latency_p50_ms` and `latency_p95_ms` over `SINGLE` images; `peak_memory_mib`, of the accelerator, or of the whole
    process so far; `joules_per_image` of all processors together where the machine tells.
    """
    cuda = torch.get_default_device().type == "cuda"
    chosen = [prompts[number % len(prompts)] for number in range(SINGLE + 2)]
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = [_timed(model, prompt, cuda) for prompt in chosen[:2]]
    before = joules()
    seconds = [_timed(model, prompt, cuda) for prompt in chosen[2:]]
    after = joules()
    p50, p95 = np.percentile(seconds, (50, 95))
    cost = {"latency_p50_ms": 1e3 * float(p50), "latency_p95_ms": 1e3 * float(p95),
            "peak_memory_mib": _peak_bytes(cuda) / 2**20}  # fmt: skip
    if before is not None and after is not None and after >= before:
        cost["joules_per_image"] = (after - before) / SINGLE
    return cost


def _timed(model: TextToImage, prompt: Prompt, cuda: bool) -> float:
    started = time.perf_counter()
    model.sample([prompt.caption], seeds=[prompt.seed])
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _peak_bytes(cuda: bool) -> int:
    if cuda:
        return torch.cuda.max_memory_allocated()
    # Linux counts in KiB, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def joules(folder: Path = POWERCAP) -> float | None:
    """Return what the processors' packages have used up so far, or None where they are not to be read."""
    try:
        files = [zone / "energy_uj" for zone in folder.glob("*-rapl:*") if zone.name.count(":") == 1]
        return sum(int(file.read_text()) for file in files) / 1e6 if files else None
    except (OSError, ValueError):
        return None
