"""Whether images of `scenes` show what their captions state, by category, as `scene_objects` reads them."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.captioned import CaptionedDataset
from ..datasets.scene_questions import Asked, parse
from ..datasets.scenes import BACKGROUNDS, COLOURS, RELATIONS, SHAPES, SIZES, TEXTURES
from ..errors import UserError
from ..files import kept
from .judges import Comparison, Training
from .scene_objects import MOST, Seen, read

VERSION = 1
"""Raised when the same images are read otherwise, or verdicts change."""
HELD_OUT = 500
"""Real images on which the reader is tried."""
CATEGORIES = ("object", "colour", "size", "texture", "count", "relation", "binding", "background", "all")

_WORDS: Mapping[str, tuple[str, ...]] = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
_MATCHES = np.array(list(permutations(range(MOST))))
"""int64 [24, MOST]: every way to give the objects asked for their slots."""
_UNSAID = -1


def verdicts(images: NDArray[np.uint8], captions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return for each of `CATEGORIES` float64 [N]: 1 where the image is as its caption states, 0 where not.

    NaN where the caption states nothing of the kind, or is none of the grammar's. Images are uint8 [N, 3, S, S].

    Objects asked for are matched one to one with objects seen, so that as few shapes as can be are wrong; among such
    matches as few colours; then sizes; then textures. An object that finds none left has everything wrong. Then:

    - object: every object asked for is there, by its shape. More objects than asked for do no harm.
    - colour, size, texture: of every object of which one is stated, the match has it, whatever the match's shape.
    - count: as many objects are seen as a numeral says, whatever they look like.
    - relation: of a pair, both matches have the shape or the colour asked for, and lie as asked along the longer way
      between them. Where looks leave open which is which, the relation is not shown: 0.
    - binding: where two objects or more of different colours are named, every shape has its own colour.
    - background: it is the one stated.
    - all: everything stated is right, there are exactly the objects named, and of two panels the upper object is above.

    No verdict presumes another. Raises UserError when captions and images differ in number, or as `read` does.
    """
    if len(captions) != len(images):
        raise UserError(f"{len(images)} images and {len(captions)} captions came; expected as many of each")
    return _verdicts(read(images), captions)


def _verdicts(seen: Seen, captions: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    parsed = [parse(caption) for caption in captions]
    known = np.array([number for number, asked in enumerate(parsed) if asked is not None], np.int64)
    values = {name: np.full(len(captions), np.nan) for name in CATEGORIES}
    if len(known):
        answers = _answers(seen.of(known), [asked for asked in parsed if asked is not None])
        for name, answer in answers.items():
            values[name][known] = answer
    return values


def reading_accuracy(data: CaptionedDataset, n: int) -> dict[str, float]:
    """Return the mean verdict of each category on `n` real images, or all, with one of their own captions each.

    Categories that no caption states are left out. It is what a perfect model would score.
    """
    random = np.random.default_rng(0)
    at = random.permutation(len(data))[:n]
    batch = data.batch(at, random.random(len(at)))
    values = verdicts(batch.images.numpy(), batch.captions)
    stated = {name: each[~np.isnan(each)] for name, each in values.items()}
    return {name: float(each.mean()) for name, each in stated.items() if len(each)}


def _answers(seen: Seen, asked: Sequence[Asked]) -> dict[str, NDArray[np.float64]]:
    said = {name: _said(asked, name) for name in _WORDS}
    order = np.array([_word(RELATIONS, "above" if each.change else each.relation) for each in asked])
    right, ordered = _matched(seen, said, order)
    shown, named = seen.there.sum(1), np.array([len(each.objects) for each in asked])
    ground = np.array([_word(BACKGROUNDS, each.background) for each in asked])
    grounded = (ground == _UNSAID) | (ground == seen.background)
    every = np.logical_and.reduce([*right.values(), (order == _UNSAID) | ordered, shown == named, grounded])
    colours = np.array([len({thing.colour for thing in each.objects}) for each in asked])
    return {
        "object": right["shape"].astype(np.float64),
        **{name: _where((said[name] != _UNSAID).any(1), right[name]) for name in ("colour", "size", "texture")},
        "count": _where(np.array([each.number is not None for each in asked]), shown == named),
        "relation": _where(np.array([each.relation is not None for each in asked]), ordered),
        "binding": _where(colours > 1, right["shape"] & right["colour"]),
        "background": _where(ground != _UNSAID, grounded),
        "all": every.astype(np.float64),
    }


def _matched(
    seen: Seen, said: Mapping[str, NDArray[np.int64]], order: NDArray[np.int64]
) -> tuple[dict[str, NDArray[np.bool_]], NDArray[np.bool_]]:
    """Return, of the best match, where each attribute is right of all objects, and where the first two lie in order."""
    wrong = {name: _wrong(said[name], getattr(seen, name), seen.there) for name in _WORDS}
    ordered = _ordered(seen, wrong, order)
    rank = np.zeros(ordered.shape, np.int64)
    for name in _WORDS:
        rank = rank * (MOST + 1) + wrong[name].sum(-1)
    # Of matches that are alike in looks, one out of order is taken.
    best = np.arange(len(order)), (2 * rank + ordered).argmin(1)
    return {name: ~wrong[name][best].any(-1) for name in _WORDS}, ordered[best]


def _where(stated: NDArray[np.bool_], right: NDArray[np.bool_]) -> NDArray[np.float64]:
    return np.where(stated, right, np.nan)


def _word(words: Sequence[str], word: str | None) -> int:
    return _UNSAID if word is None else words.index(word)


def _said(asked: Sequence[Asked], name: str) -> NDArray[np.int64]:
    """Return what is stated of each object, int64 [N, MOST]: places among the attribute's words."""
    said = np.full((len(asked), MOST), _UNSAID)
    for row, one in zip(said, asked, strict=True):
        row[: len(one.objects)] = [_word(_WORDS[name], getattr(thing, name)) for thing in one.objects]
    return said


def _wrong(said: NDArray[np.int64], shown: NDArray[np.int64], there: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return bool [N, matches, MOST]: whether what is stated of each object asked for is not so."""
    absent = ~there[:, _MATCHES]
    wrong: NDArray[np.bool_] = (absent | (said[:, None] != shown[:, _MATCHES])) & (said != _UNSAID)[:, None]
    return wrong


def _ordered(seen: Seen, wrong: Mapping[str, NDArray[np.bool_]], order: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool [N, matches]: whether the first two objects are found by shape or colour, and lie in `order` [N]."""
    first, second = _MATCHES[:, 0], _MATCHES[:, 1]
    across, down = (place[:, second] - place[:, first] for place in (seen.x, seen.y))
    words = [RELATIONS.index(word) for word in ("left of", "right of", "above", "below")]
    level = np.where(across > 0, words[0], words[1])
    lies = np.where(np.abs(across) > np.abs(down), level, np.where(down > 0, words[2], words[3]))
    found = seen.there[:, first] & seen.there[:, second] & ~(wrong["shape"] & wrong["colour"])[:, :, :2].any(-1)
    ordered: NDArray[np.bool_] = found & (lies == order[:, None])
    return ordered


class SceneReader:
    """What reads scenes for the harness; opened as a judge is."""

    name, id = "reader", f"scene-reader-{VERSION}"

    def __init__(self, training: Training) -> None:
        self._training = training

    @property
    def tried_on(self) -> int:
        """How many real images `held_out` is of, at most `HELD_OUT`."""
        real = self._training.held_out()
        return 0 if real is None else min(len(real), HELD_OUT)

    @cached_property
    def held_out(self) -> Mapping[str, float]:
        """`reading_accuracy` on `HELD_OUT` real images, empty where there are none; kept."""
        real = self._training.held_out()
        if real is None:
            return {}
        accuracy: dict[str, float] = kept([self.id, real.digest, HELD_OUT], lambda: reading_accuracy(real, HELD_OUT))
        return accuracy

    def read(self, images: torch.Tensor) -> Seen:
        """Return what images uint8 [N, 3, S, S] show."""
        return read(images.numpy())

    def compare(self, seen: Seen, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Comparison:
        """Return `verdicts`, all NaN for captions that are not of `scenes`."""
        return Comparison(_verdicts(seen, captions), {})
