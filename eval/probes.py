"""Capability probes: the categories of the DALL-E announcement, as far as a data set can answer them.

Which category is asked of which captions stands in `probes.json`. What no reader or judge can tell is said to be
missing, with the reason. Ramesh et al. 2021, openai.com/research/dall-e.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.scenes import WORLDS
from ..datasets.store import Store
from ..files import kept, seed_of
from ..reports.records import Probe
from .judges import Judge
from .metric import mean_of
from .panel_reader import read_lower_panels
from .prompts import Prompt
from .scene_reader import VERSION as SCENE_READER
from .scene_reader import verdicts

PROMPTS = 100
"""A category asks at most."""
VERSION = 1
"""Raised when other captions are asked or answers are read otherwise."""
LOWER_PANEL = "lower panel"
"""What is asked of models that go on with an image prompt."""


class Question(NamedTuple):
    """A category with the real images whose captions are asked."""

    row: Mapping[str, Any]
    """As in `probes.json`."""
    at: NDArray[np.int64]
    """Places in the split's store."""
    prompts: list[Prompt]


@cache
def suite(data: str) -> tuple[Mapping[str, Any], ...]:
    """Return the categories asked of a data set by name; none where no suite is written for it."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    return tuple(json.loads(text).get("scenes" if data in WORLDS else data, ()))


def question(row: Mapping[str, Any], data: Store) -> Question:
    """Return the prompts of a category, at most `PROMPTS` in a seeded order, one an image."""
    order = np.random.default_rng(seed_of("probe", row["category"])).permutation(len(data)).tolist()
    found = [(at, number) for at in order if (number := _number(row, data, at)) is not None][:PROMPTS]
    names = [data.ids[at] for at, _ in found]
    prompts = [Prompt(data.captions(at)[number], name, number, seed_of("probe", row["category"], name, number))
               for (at, number), name in zip(found, names, strict=True)]  # fmt: skip
    return Question(row, np.array([at for at, _ in found], np.int64), prompts)


def _number(row: Mapping[str, Any], data: Store, at: int) -> int | None:
    """Return which caption of an image belongs to the category, or None."""
    captions = data.captions(at)
    if "kinds" in row:
        scene = data.scene(at)
        return seed_of("probe", data.ids[at]) % len(captions) if scene and scene["kind"] in row["kinds"] else None
    if "classes" in row and data.class_names[int(data.labels(np.array([at]))[0])] not in row["classes"]:
        return None
    return next((number for number, caption in enumerate(captions) if re.search(row["captions"], caption)), None)


def answer(asked: Question, images: torch.Tensor, data: Store, judge: Judge | None) -> Probe:
    """Return how many images uint8 [N, 3, H, W], drawn of the prompts, are as asked, beside the real images.

    `judge` reads captions; scenes need none.
    """
    estimate = mean_of(_right(asked, images, data, judge), [prompt.image_id for prompt in asked.prompts])
    by = f"scene reader {SCENE_READER}" if judge is None else judge.id
    real = kept(["probe", VERSION, dict(asked.row), data.digest, by, len(asked.prompts)],
                lambda: float(np.nanmean(_right(asked, data.batch(asked.at).images, data, judge))))  # fmt: skip
    error = float(estimate.stderr)
    return Probe(category=asked.row["category"], value=float(estimate.value), n=int(estimate.n),
                 stderr=None if np.isnan(error) else error, real=real, about=asked.row["about"])  # fmt: skip


def missing(row: Mapping[str, Any], why: str) -> Probe:
    """Return a category that is not asked, and why."""
    return Probe(category=row["category"], value=None, stderr=None, n=0, real=None, about=why)


def _right(asked: Question, images: torch.Tensor, data: Store, judge: Judge | None) -> NDArray[np.float64]:
    """Return float64 [N]: whether each image is as asked; NaN where its caption does not ask."""
    captions, ask = [prompt.caption for prompt in asked.prompts], asked.row["ask"]
    if ask == LOWER_PANEL:
        scenes = [data.scene(int(at)) or {} for at in asked.at]
        return read_lower_panels(images.numpy(), scenes).right("shape", "colour").astype(np.float64)
    if "kinds" in asked.row:
        return verdicts(images.numpy(), captions)[ask]
    assert judge is not None
    if ask == "own style":
        return _nearer(images, captions, [_restyled(caption, asked.row["styles"]) for caption in captions], judge)
    return _nearest(images, captions, judge)


def _restyled(caption: str, styles: Sequence[str]) -> str:
    own, other = styles if styles[0] in caption else styles[::-1]
    return caption.replace(own, other)


def _nearer(images: torch.Tensor, own: Sequence[str], other: Sequence[str], judge: Judge) -> NDArray[np.float64]:
    seen = judge.look(images).embeddings
    mine, theirs = judge.caption_embeddings(own), judge.caption_embeddings(other)
    assert seen is not None and mine is not None and theirs is not None
    return ((seen * mine).sum(1) > (seen * theirs).sum(1)).numpy().astype(np.float64)


def _nearest(images: torch.Tensor, captions: Sequence[str], judge: Judge) -> NDArray[np.float64]:
    """Return whether each image is nearest to its own caption among all different ones."""
    seen, texts = judge.look(images).embeddings, judge.caption_embeddings(list(dict.fromkeys(captions)))
    assert seen is not None and texts is not None
    places = {caption: at for at, caption in enumerate(dict.fromkeys(captions))}
    own = np.array([places[caption] for caption in captions])
    nearest: NDArray[np.int64] = (seen @ texts.T).argmax(1).numpy()
    return np.asarray(nearest == own, dtype=np.float64)
