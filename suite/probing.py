"""Drawing what the capability probes ask for."""

from collections.abc import Sequence
from typing import Any

import torch

from ..baselines.interface import Completes, TextToImage
from ..datasets.store import Store
from ..eval.judges import Judge, Reader
from ..eval.probes import LOWER_PANEL, Question, answer, missing, question, suite
from ..reports.records import Probe
from .trained import Run
from .training import Watch


def probe(opened: Run, model: TextToImage, judges: Sequence[Judge | Reader], watch: Watch) -> tuple[Probe, ...]:
    """Return what the model can do of each category that its data set can answer, and why not of the others."""
    looking = (judge for judge in judges if not isinstance(judge, Reader))
    judge = next((judge for judge in looking if judge.caption_embeddings(["a"]) is not None), None)
    return tuple(_ask(row, opened, model, judge, watch) for row in suite(opened.source.name))


def _ask(row: Any, opened: Run, model: TextToImage, judge: Judge | None, watch: Watch) -> Probe:
    if "missing" in row:
        return missing(row, row["missing"])
    if row["ask"] == LOWER_PANEL and not isinstance(model, Completes):
        return missing(row, "the model takes no image prompts")
    if "kinds" not in row and judge is None:
        return missing(row, "none of the judges reads captions")
    data = opened.store(row["split"], watch)
    asked = question(row, data)
    if len(asked.prompts) < 2:
        return missing(row, f"{len(asked.prompts)} captions of the split {row['split']!r} ask it")
    watch(f"probe {row['category']}", 0, len(asked.prompts))
    drawn = _draw(model, asked, data)
    watch(f"probe {row['category']}", len(asked.prompts), len(asked.prompts))
    return answer(asked, drawn, data, judge)


def _draw(model: TextToImage, asked: Question, data: Store) -> torch.Tensor:
    captions, seeds = [prompt.caption for prompt in asked.prompts], [prompt.seed for prompt in asked.prompts]
    if asked.row["ask"] == LOWER_PANEL and isinstance(model, Completes):
        return model.complete(captions, data.batch(asked.at).images, data.image_size // 2, seeds=seeds)
    return model.sample(captions, seeds=seeds)
