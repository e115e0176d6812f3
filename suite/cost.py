"""What drawing takes: time of single images, memory, FLOPs, energy."""

import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ..baselines.interface import TextToImage
from ..eval.prompts import Prompt

SINGLE = 20
"""Images drawn one by one; two more before them are not timed."""
PROCESS = Path("/proc/self")
POWERCAP = Path("/sys/class/powercap")
"""Where Linux counts the energy of processors, if it tells."""


def measure(model: TextToImage, prompts: Sequence[Prompt]) -> dict[str, float]:
    """Return the cost of drawing one image at a time, by name with its unit.

    `latency_p50_ms` and `latency_p95_ms` over `SINGLE` images; `peak_memory_mib` meanwhile, of the accelerator, or of
    the whole process; `joules_per_image` of all processors together. What the machine does not tell is left out.
    """
    cuda = torch.get_default_device().type == "cuda"
    chosen = [prompts[number % len(prompts)] for number in range(SINGLE + 2)]
    _forget_peak(cuda)
    seconds = [_timed(model, prompt, cuda) for prompt in chosen[:2]]
    before = joules()
    seconds = [_timed(model, prompt, cuda) for prompt in chosen[2:]]
    after = joules()
    p50, p95 = np.percentile(seconds, (50, 95))
    cost = {"latency_p50_ms": 1e3 * float(p50), "latency_p95_ms": 1e3 * float(p95)}
    if (peak := _peak_bytes(cuda)) is not None:
        cost["peak_memory_mib"] = peak / 2**20
    if before is not None and after is not None and after >= before:
        cost["joules_per_image"] = (after - before) / SINGLE
    return cost


def _timed(model: TextToImage, prompt: Prompt, cuda: bool) -> float:
    started = time.perf_counter()
    model.sample([prompt.caption], seeds=[prompt.seed])
    if cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _forget_peak(cuda: bool) -> None:
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    elif PROCESS.exists():
        # Linux: the peak of the resident memory begins anew.
        (PROCESS / "clear_refs").write_text("5")


def _peak_bytes(cuda: bool) -> int | None:
    if cuda:
        return torch.cuda.max_memory_allocated()
    found = re.search(r"VmHWM:\s*(\d+) kB", (PROCESS / "status").read_text()) if PROCESS.exists() else None
    return int(found[1]) * 1024 if found else None


def joules(folder: Path = POWERCAP) -> float | None:
    """Return what the processors' packages have used up so far, or None where they are not to be read."""
    try:
        files = [zone / "energy_uj" for zone in folder.glob("*-rapl:*") if zone.name.count(":") == 1]
        return sum(int(file.read_text()) for file in files) / 1e6 if files else None
    except (OSError, ValueError):
        return None
