"""`scenes`: a world drawn by the suite itself, with captions and the ground truth of every image.

A scene graph is a JSON-able dict::

    {"kind": "single" | "pair" | "count" | "several" | "panels", "background": word,
     "objects": [{"shape", "colour", "size", "texture": words, "x", "y", "radius": of the image's side}],
     "relation": word or None, "change": "colour" | "texture" | "size" or None}

`y` grows downwards; an object lies within the square of half-side `radius` about (x, y), and these squares
never overlap. A pair reads objects[0] RELATION objects[1]. Panels show one object twice, objects[0] in the
upper half of the image and objects[1] in the lower, alike but for `change`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, unknown
from ..files import digest_of
from .captioned import Chunk
from .scene_captions import INVERSE, describe
from .scene_render import BACKGROUND_RGB, COLOUR_RGB, LINE_WIDTH, SHAPE_DISTANCE, TEXTURE_DISTANCE, render
from .splitmix import STEP, splitmix64

__all__ = [
    "BACKGROUNDS",
    "CLASS_NAMES",
    "COLOURS",
    "DEFAULT_SIZES",
    "HELD_OUT_COLOUR_TEXTURES",
    "HELD_OUT_RELATIONS",
    "HELD_OUT_SHAPE_COLOURS",
    "RELATIONS",
    "SHAPES",
    "SIZES",
    "SPLITS",
    "TEXTURES",
    "WORLDS",
    "Scenes",
    "describe",
    "label_of",
    "open_100k",
    "open_source",
    "render",
]

T = TypeVar("T")
Scene = dict[str, Any]

WORLD_VERSION = 1
"""Raise it with any change of graphs, captions or pixels: it enters the fingerprint of every store."""

SHAPES = tuple(SHAPE_DISTANCE)
COLOURS = tuple(COLOUR_RGB)
TEXTURES = tuple(TEXTURE_DISTANCE)
BACKGROUNDS = tuple(BACKGROUND_RGB)
RELATIONS = tuple(INVERSE)
RADII: Mapping[str, tuple[float, float]] = {"small": (0.125, 0.14), "large": (0.2, 0.216)}
"""Of the image's side: 4 pixels of 32 at least, and at most what fits a panel with its line and margins."""
SIZES = tuple(RADII)
CLASS_NAMES = tuple(f"{colour} {shape}" for shape in SHAPES for colour in COLOURS)
"""Index = shape index * 8 + colour index, of objects[0]."""

KINDS = ("single",) * 6 + ("pair",) * 6 + ("count",) * 3 + ("several",) * 3 + ("panels",) * 2
"""A scene's kind is one of these 20 with equal chance: 30, 30, 15, 15 and 10 %."""

HELD_OUT_SHAPE_COLOURS = (
    ("circle", "purple"),
    ("square", "orange"),
    ("triangle", "cyan"),
    ("diamond", "red"),
    ("star", "pink"),
    ("cross", "yellow"),
    ("ring", "green"),
    ("heart", "blue"),
)
HELD_OUT_COLOUR_TEXTURES = (("red", "dotted"), ("green", "striped"), ("blue", "dotted"))
HELD_OUT_RELATIONS = (
    ("star", "above", "ring"),
    ("square", "left of", "heart"),
    ("triangle", "below", "cross"),
)
"""(shape, relation, shape) of a pair, held out in the inverse reading too; no scene of more objects holds
both shapes, lest it show the relation unsaid."""

WORLDS = ("scenes", "scenes-100k")
"""Names of data sets that are this world, in whatever number."""

SPLITS = ("train", "val", "test", "compose")
DEFAULT_SIZES: Mapping[str, int] = {"train": 20_000, "val": 2_000, "test": 2_000, "compose": 2_000}
CAPTIONS_PER_SCENE = 5
CHUNK = 512

_MARGIN = 1 / 64
_GAP = 1 / 32
_DRAWS = 40
"""Numbers a scene may use up, more than any does."""
_STYLES = 8
"""Captions drawn for a scene at most, until five differ; else some come twice."""

_UNEVEN = 0.03
"""How far the objects of a pair may stray from their common line."""
_READINGS = HELD_OUT_RELATIONS + tuple((b, INVERSE[relation], a) for a, relation, b in HELD_OUT_RELATIONS)
_SHAPE_COLOURS = tuple((s, c) for s in SHAPES for c in COLOURS if (s, c) not in HELD_OUT_SHAPE_COLOURS)
# Solid twice: half of the objects are solid, and captions without a texture word mean mostly these.
_TEXTURES_OF = {
    c: tuple(t for t in ("solid", *TEXTURES) if (c, t) not in HELD_OUT_COLOUR_TEXTURES) for c in COLOURS
}
_RIVALS = {s: {a for a, _, b in _READINGS if b == s} for s in SHAPES}


class Scenes:
    """The world as a `Source`: scene i of a split depends on `seed`, the split and i alone.

    `compose` scenes each hold one combination of `HELD_OUT_*` or more; the other splits hold none. `sizes`
    overrides the number of scenes a split, by its name; UserError when a split is unknown or a size below 1.
    """

    splits: tuple[str, ...] = SPLITS
    class_names: tuple[str, ...] = CLASS_NAMES

    def __init__(self, seed: int = 0, sizes: Mapping[str, int] = DEFAULT_SIZES, name: str = "scenes") -> None:
        for split, size in sizes.items():
            if split not in SPLITS:
                raise unknown("split of scenes", split, SPLITS)
            if size < 1:
                raise UserError(f"scenes: the size of split {split!r} must be at least 1, not {size}")
        self.seed = seed
        self.name = name
        self.sizes = {**DEFAULT_SIZES, **sizes}

    def size(self, split: str) -> int:
        """Return how many scenes the split has."""
        if split not in SPLITS:
            raise unknown("split of scenes", split, SPLITS)
        return self.sizes[split]

    def fingerprint(self, split: str) -> str:
        """Return a digest of the world's version, the seed, the split and its size."""
        return digest_of([self.name, WORLD_VERSION, self.seed, split, self.size(split)])

    def chunks(self, split: str, image_size: int, start: int = 0, chunk_size: int = CHUNK) -> Iterator[Chunk]:
        """Yield the split from scene `start` on, `chunk_size` at a time, `image_size` (32..256) pixels a side."""
        total = self.size(split)
        for first in range(start, total, chunk_size):
            numbers = range(first, min(first + chunk_size, total))
            dice = _hashes(self.seed, split, numbers, _DRAWS + _STYLES).tolist()
            scenes = [_draw_scene(_Dice(row), split == "compose") for row in dice]
            yield Chunk(
                images=render(scenes, image_size),
                captions=[_captions(scene, row[_DRAWS:]) for scene, row in zip(scenes, dice, strict=True)],
                ids=[f"{split}-{number:06d}" for number in numbers],
                labels=[label_of(scene) for scene in scenes],
                scenes=scenes,
            )


def open_source(root: Path | None = None) -> Scenes:
    """Return the default world; raise UserError when a root folder is given."""
    if root is not None:
        raise UserError(f"--root {root}: scenes is drawn, not read; leave --root out")
    return Scenes()


def open_100k(root: Path | None = None) -> Scenes:
    """Return the same world with five times the training scenes; raise UserError when a root folder is given."""
    return Scenes(sizes={"train": 100_000}, name="scenes-100k") if root is None else open_source(root)


def label_of(scene: Mapping[str, Any]) -> int:
    """Return the class of a scene, an index into `CLASS_NAMES`."""
    first = scene["objects"][0]
    return SHAPES.index(first["shape"]) * len(COLOURS) + COLOURS.index(first["colour"])


def _captions(scene: Scene, styles: Sequence[int]) -> list[str]:
    different: list[str] = []
    for style in styles:
        caption = describe(scene, style)
        if caption not in different:
            different.append(caption)
        if len(different) == CAPTIONS_PER_SCENE:
            break
    return (different * CAPTIONS_PER_SCENE)[:CAPTIONS_PER_SCENE]


def _hashes(seed: int, split: str, numbers: range, fields: int) -> NDArray[np.uint64]:
    """Return uint64 [len(numbers), fields]: for each scene its own sequence, the same on any machine."""
    world = splitmix64(np.array([seed % 2**64, SPLITS.index(split)], np.uint64) * STEP + STEP)
    counters = np.arange(numbers.start, numbers.stop, dtype=np.uint64) * STEP
    scene = splitmix64(splitmix64(world[:1]) + world[1:] + counters)
    return splitmix64(scene[:, None] + np.arange(1, fields + 1, dtype=np.uint64) * STEP)


class _Dice:
    """The numbers of one scene, used up in order."""

    def __init__(self, row: Sequence[int]) -> None:
        self._row = iter(row[:_DRAWS])

    def pick(self, options: Sequence[T]) -> T:
        return options[next(self._row) % len(options)]

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * ((next(self._row) >> 11) * 2.0**-53)


def _draw_scene(dice: _Dice, compose: bool) -> Scene:
    kind = dice.pick(KINDS)
    background = dice.pick(BACKGROUNDS)
    held_out = ""
    if compose:
        held_out = dice.pick(_HELD_OUT[: 3 if kind == "pair" else 2])
    parts = _ARRANGEMENTS[kind](dice, held_out)
    return {"kind": kind, "background": background, "relation": None, "change": None, **parts}


def _single(dice: _Dice, held_out: str) -> Scene:
    look = _look(dice, held_out)
    radius = _radius(dice, look["size"])
    reach = radius + _MARGIN
    return {"objects": [_at(look, dice.uniform(reach, 1 - reach), dice.uniform(reach, 1 - reach), radius)]}


def _pair(dice: _Dice, held_out: str) -> Scene:
    if held_out == "relation":
        shape, relation, other = dice.pick(_READINGS)
        looks = [_look(dice, among=[pair for pair in _SHAPE_COLOURS if pair[0] == s]) for s in (shape, other)]
    else:
        looks = _different_looks(dice, held_out, 2)
        shape, other = looks[0]["shape"], looks[1]["shape"]
        relation = dice.pick([word for word in RELATIONS if (shape, word, other) not in _READINGS])
    radii = [_radius(dice, look["size"]) for look in looks]
    before = 0 if relation in ("left of", "above") else 1
    low, high = _MARGIN + radii[before], 1 - _MARGIN - radii[1 - before]
    slack = dice.uniform(0, high - low - radii[0] - radii[1] - _GAP)
    start = dice.uniform(0, slack)
    along = (low + start, high - slack + start)
    reach = max(radii) + _MARGIN + _UNEVEN
    level = dice.uniform(reach, 1 - reach)
    objects = []
    for number, (look, radius) in enumerate(zip(looks, radii, strict=True)):
        place = along[number != before], level + dice.uniform(-_UNEVEN, _UNEVEN)
        x, y = place if relation in ("left of", "right of") else place[::-1]
        objects.append(_at(look, x, y, radius))
    return {"objects": objects, "relation": relation}


def _count(dice: _Dice, held_out: str) -> Scene:
    look = _look(dice, held_out)
    radius = _radius(dice, look["size"])
    cells = _cells(dice, dice.pick((2, 3, 4)))
    return {"objects": [_in_cell(dice, look, cell, radius) for cell in cells]}


def _several(dice: _Dice, held_out: str) -> Scene:
    looks = _different_looks(dice, held_out, dice.pick((3, 4)), rivals=False)
    cells = _cells(dice, len(looks))
    radii = [_radius(dice, look["size"]) for look in looks]
    return {"objects": [_in_cell(dice, *place) for place in zip(looks, cells, radii, strict=True)]}


def _panels(dice: _Dice, held_out: str) -> Scene:
    look = _look(dice, held_out)
    change = dice.pick(("colour", "texture", "size"))
    other = {**look, change: dice.pick(_alternatives(look, change))}
    pair = dice.pick(((look, other), (other, look)))
    radii = [_radius(dice, part["size"]) for part in pair]
    if change != "size":
        radii[1] = radii[0]
    reach = max(radii) + _MARGIN
    x, y = dice.uniform(reach, 1 - reach), dice.uniform(reach + LINE_WIDTH, 0.5 - reach)
    places = ((x, y), (x, y + 0.5))
    objects = [_at(part, *place, radius) for part, place, radius in zip(pair, places, radii, strict=True)]
    return {"objects": objects, "change": change}


_ARRANGEMENTS: Mapping[str, Callable[[_Dice, str], Scene]] = {
    "single": _single,
    "pair": _pair,
    "count": _count,
    "several": _several,
    "panels": _panels,
}
_HELD_OUT = ("shape-colour", "colour-texture", "relation")


def _look(dice: _Dice, held_out: str = "", among: Sequence[tuple[str, str]] = _SHAPE_COLOURS) -> Scene:
    """Draw shape and colour (one of `among`), texture and size with the held-out combination named."""
    if held_out == "shape-colour":
        among = HELD_OUT_SHAPE_COLOURS
    if held_out == "colour-texture":
        colour, texture = dice.pick(HELD_OUT_COLOUR_TEXTURES)
        shape = dice.pick([shape for shape, c in _SHAPE_COLOURS if c == colour])
    else:
        shape, colour = dice.pick(among)
        texture = dice.pick(_TEXTURES_OF[colour])
    return {"shape": shape, "colour": colour, "size": dice.pick(SIZES), "texture": texture}


def _different_looks(dice: _Dice, held_out: str, number: int, rivals: bool = True) -> list[Scene]:
    """Draw looks, no two of one shape and colour; without `rivals`, no shapes of a held-out relation."""
    looks = [_look(dice, held_out)]
    while len(looks) < number:
        taken = {(look["shape"], look["colour"]) for look in looks}
        barred = set() if rivals else set().union(*(_RIVALS[look["shape"]] for look in looks))
        among = [pair for pair in _SHAPE_COLOURS if pair not in taken and pair[0] not in barred]
        looks.append(_look(dice, among=among))
    start = dice.pick(range(number))
    return looks[start:] + looks[:start]


def _alternatives(look: Mapping[str, str], change: str) -> list[str]:
    """Return the other values of one attribute that make no held-out combination."""
    if change == "size":
        return [size for size in SIZES if size != look["size"]]
    if change == "texture":
        return [texture for texture in _TEXTURES_OF[look["colour"]] if texture != look["texture"]]
    return [
        colour
        for shape, colour in _SHAPE_COLOURS
        if shape == look["shape"] and colour != look["colour"] and look["texture"] in _TEXTURES_OF[colour]
    ]


def _radius(dice: _Dice, size: str) -> float:
    return dice.uniform(*RADII[size])


def _cells(dice: _Dice, number: int) -> list[tuple[float, float]]:
    """Choose quarters of the image, in random order, by their centres."""
    left = [(0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75)]
    return [left.pop(dice.pick(range(len(left)))) for _ in range(number)]


def _in_cell(dice: _Dice, look: Scene, cell: tuple[float, float], radius: float) -> Scene:
    play = 0.25 - _MARGIN - radius
    return _at(look, cell[0] + dice.uniform(-play, play), cell[1] + dice.uniform(-play, play), radius)


def _at(look: Scene, x: float, y: float, radius: float) -> Scene:
    # Four decimals keep the graph short; they move an object by less than a hundredth of a pixel.
    return {**look, "x": round(x, 4), "y": round(y, 4), "radius": round(radius, 4)}
