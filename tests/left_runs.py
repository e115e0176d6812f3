"""Finished runs as a run leaves them, with scores of one's choice."""

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from t2ibench.reports import tables
from t2ibench.reports.records import GalleryItem, Probe, Record, Score, StageCost, save

SPEC: dict[str, Any] = {
    "model": "toy", "preset": "tiny", "config": {"width": 8}, "dataset": "scenes", "image_size": 32,
    "data": {"train": "ab" * 32}, "seed": 0, "budget": 1000,
    "evaluation": {"split": "test", "images": 500, "judges": ["scenes"], "seed": 0},
}


def fid(value: float, n: int = 500, judge: str = "scenes") -> Score:
    return Score(metric="fid", judge=judge, value=value, stderr=None, n=n, higher_is_better=False)


def precision(value: float, stderr: float | None = 0.25) -> Score:
    return Score(metric="r_precision", judge="scenes", value=value, stderr=stderr, n=500,
                 higher_is_better=True)


def score(name: str, value: float, stderr: float | None = None, n: int = 500) -> Score:
    metric, judge = name.split("@")
    return Score(metric=metric, judge=judge, value=value, stderr=stderr, n=n, higher_is_better=metric != "fid")


def probe(category: str, value: float | None, about: str = "asked") -> Probe:
    stderr, n, real = (None, 0, None) if value is None else (0.05, 40, 0.95)
    return Probe(category=category, value=value, stderr=stderr, n=n, real=real, about=about)


def leave(folder: Path, scores: Sequence[Score] = (), captions: Sequence[str] = (), steps: int = 3,
          passed: dict[str, Any] | None = None, notes: Sequence[str] = (), probes: Sequence[Probe] = (),
          controls: dict[str, Sequence[Score]] | None = None, cost: dict[str, float] | None = None,
          **spec: Any) -> Path:
    """Leave a finished run in `folder`: its record, a log of `steps` lines, and a noise image a caption."""
    folder.mkdir(parents=True)
    noise = np.random.default_rng(zlib.crc32(folder.name.encode()))
    gallery = []
    for number, caption in enumerate(captions):
        Image.fromarray(noise.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(folder / f"{number}.png")
        gallery.append(GalleryItem(caption=caption, caption_id=f"test-{number}", seed=number,
                                   file=f"{number}.png"))
    rows = [{"stage": "gan", "step": step, "images": step, "seconds": 0.1, "losses": {"g": 1 / (step + 1)}}
            for step in range(steps)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save(folder, Record(
        spec={**SPEC, **spec}, passed=passed or {}, scores=tuple(scores), gallery=tuple(gallery),
        stages=(StageCost(stage="text", images=200, steps=2, seconds=30.0),
                StageCost(stage="gan", images=800, steps=8, seconds=90.0)),
        parameters={"generator": 1_500_000, "discriminator": 500_000}, sample_images_per_second=100.0,
        environment={"torch": "2.13.0"}, notes=tuple(notes), probes=tuple(probes), cost=cost or {},
        controls={name: tuple(found) for name, found in (controls or {}).items()}))
    return folder


def read(folders: Iterable[Path]) -> list[tables.Table]:
    return tables.tables(tables.load_runs(folders))
