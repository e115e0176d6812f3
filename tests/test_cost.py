"""What drawing takes: one image at a time, in the machine's own units."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from t2ibench.eval.prompts import Prompt
from t2ibench.suite.cost import SINGLE, joules, measure


class Slow:
    """A model that takes 2 ms an image, and 30 ms for every tenth."""

    def __init__(self) -> None:
        self.drawn: list[str] = []

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        assert len(captions) == len(seeds) == 1
        self.drawn += captions
        time.sleep(0.03 if len(self.drawn) % 10 == 0 else 0.002)
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8)


def test_latency_is_of_single_images_and_the_tail_shows() -> None:
    model = Slow()
    cost = measure(model, [Prompt("a", "0", 0, 1), Prompt("b", "1", 0, 2)])
    assert len(model.drawn) == SINGLE + 2 and set(model.drawn) == {"a", "b"}
    assert 2 <= cost["latency_p50_ms"] < 20 < cost["latency_p95_ms"]
    assert cost["peak_memory_mib"] > 50


def counters(folder: Path, **micro: int) -> None:
    for name, value in micro.items():
        zone = folder / name.replace("_", ":")
        zone.mkdir()
        (zone / "energy_uj").write_text(f"{value}\n")


def test_energy_is_the_sum_over_packages_and_not_over_their_parts(tmp_path: Path) -> None:
    counters(tmp_path, **{"intel-rapl_0": 3_000_000, "intel-rapl_1": 500_000, "intel-rapl_0_0": 2_000_000})
    assert joules(tmp_path) == pytest.approx(3.5)


def test_a_machine_that_does_not_tell_has_no_energy(tmp_path: Path) -> None:
    assert joules(tmp_path) is None
    (tmp_path / "intel-rapl:0").mkdir()
    assert joules(tmp_path) is None, "the counter is not to be read"
