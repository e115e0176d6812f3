"""What an image of `scenes` shows, read without a learnt network: all that could be there is drawn and compared.

The background is the palette's that is nearest to most pixels. Objects are found one by one, each time where some
look explains most of what is left; there it is fitted by quarters of a pixel, and taken off. The drawings that are
fitted come in three degrees of blur, so that soft images are read too.
"""

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, pad

from ..datasets.scene_render import BACKGROUND_RGB, LINE_RGB
from ..errors import UserError
from .metric import on_cpu
from .scene_templates import PATCH, Bank, variants

SIDE = 32
"""Pixels a side at which images are read; larger ones are averaged down."""
MOST = 4
"""Objects found at most: the world has no more."""
LEAST = 0.35
"""Of its drawing's contrast, squared, an object must explain so much to count as one."""

_CHUNK = 32
_START = 0.25
"""As `LEAST`, before the place is known to less than a pixel."""
_APART = 0.75
"""Of the sum of their radii, two objects lie apart at least, across or down; drawn ones do by 1."""
_EDGE = 4
"""Pixels between an object's middle and the image's edge, at least: the smallest radius."""
_NEAR = 60.0
"""Distance in RGB up to which a pixel may be of the background."""
_LINE = 0.1
"""Contrast against the rows around it, of that of a drawn line, from which on the middle row is a line."""
_MIDDLE = SIDE // 2

_GROUNDS = torch.tensor(list(BACKGROUND_RGB.values()), dtype=torch.float32, device="cpu")
_LINES = torch.tensor([LINE_RGB[ground] for ground in BACKGROUND_RGB], dtype=torch.float32, device="cpu")


class Seen(NamedTuple):
    """What N images show; of an object slot that is not `there`, the rest means nothing.

    Words are places in `BACKGROUNDS`, `SHAPES`, `COLOURS`, `SIZES`, `TEXTURES` of `datasets.scenes`.
    """

    background: NDArray[np.int64]
    """[N]."""
    line: NDArray[np.bool_]
    """[N]: whether a line divides two panels."""
    there: NDArray[np.bool_]
    """[N, MOST], as all that follow."""
    shape: NDArray[np.int64]
    colour: NDArray[np.int64]
    size: NDArray[np.int64]
    texture: NDArray[np.int64]
    x: NDArray[np.float64]
    """Of the image's side, as in a scene graph."""
    y: NDArray[np.float64]

    def of(self, numbers: NDArray[np.int64]) -> "Seen":
        """Return what is seen in the images of these numbers."""
        return self._replace(**{name: column[numbers] for name, column in self._asdict().items()})


@on_cpu
def read(images: NDArray[np.uint8]) -> Seen:
    """Read images uint8 [N, 3, S, S], S >= 32, each for itself: 10 ms an image on one core.

    Raises UserError for other arrays, and for none at all.
    """
    if images.ndim != 4 or images.dtype != np.uint8 or not len(images):
        raise UserError(f"scenes to read: expected uint8 [N, 3, S, S], not {images.dtype} {list(images.shape)}")
    if images.shape[1] != 3 or images.shape[2] != images.shape[3] or images.shape[2] < SIDE:
        raise UserError(f"scenes to read: expected squares of {SIDE} pixels or more in RGB, not {list(images.shape)}")
    parts = [_read(torch.from_numpy(images[at : at + _CHUNK].copy())) for at in range(0, len(images), _CHUNK)]
    return Seen(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@cache
def _banks() -> tuple[Bank, Bank]:
    """Return what objects are found by, and what they are fitted by."""
    quarters = [-0.5, -0.25, 0.0, 0.25, 0.5]
    return (
        Bank(variants(SIDE, offsets=[0.0], radii=1, blurs=[0.75])),
        Bank(variants(SIDE, offsets=quarters, radii=2, blurs=[0.0, 0.75, 1.5])),
    )


@torch.no_grad()
def _read(images: Tensor) -> Seen:
    pixels = interpolate(images.float(), (SIDE, SIDE), mode="area")
    background, ground = _ground(pixels)
    rest = pixels - ground[:, :, None, None]
    line = _take_line(rest, _LINES[background] - ground)
    board = _Board(rest, ground)
    for slot in range(MOST):
        board.find(slot)
    return board.seen(background, line)


def _ground(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the background, int64 [N], and its colour as it is in the image, float32 [N, 3]."""
    distance = ((pixels[:, None] - _GROUNDS[:, :, None, None]) ** 2).sum(2).flatten(2)
    background = distance.clamp(max=_NEAR**2).sum(-1).argmin(1)
    near = distance[torch.arange(len(pixels)), background] < _NEAR**2
    mean = (pixels.flatten(2) * near[:, None]).sum(-1) / near.sum(-1, keepdim=True).clamp(min=1)
    return background, torch.where(near.any(1, keepdim=True), mean, _GROUNDS[background])


def _take_line(rest: Tensor, contrast: Tensor) -> Tensor:
    """Find the line between two panels, bool [N], and take it off `rest` [N, 3, SIDE, SIDE] in place.

    `contrast` [N, 3] is that of a drawn line. Two large objects side by side may look like one: 1 image in 1,000.
    """
    share = (rest * contrast[:, :, None, None]).sum(1) / (contrast**2).sum(1)[:, None, None]
    above, at, below = (share[:, row] for row in (_MIDDLE - 2, _MIDDLE, _MIDDLE + 2))
    line: Tensor = (at - torch.maximum(above, below)).median(-1).values > _LINE
    rows = rest[line, :, _MIDDLE - 1 : _MIDDLE + 2]
    rest[line, :, _MIDDLE - 1 : _MIDDLE + 2] = rows - rows.median(-1, keepdim=True).values
    return line


class _Board:
    """Images of which the objects found are taken off."""

    def __init__(self, rest: Tensor, ground: Tensor) -> None:
        count = len(rest)
        self.coarse, self.fine = _banks()
        self.rest = pad(rest, (PATCH // 2,) * 4)
        self.ground = ground
        self.there = torch.zeros(count, MOST, dtype=torch.bool)
        self.look = torch.zeros(count, MOST, dtype=torch.int64)
        self.middle = torch.zeros(count, MOST, 2, dtype=torch.int64)
        """(y, x) of the patch's middle in the image, and so of its corner in the padded image."""
        self.share = torch.zeros(count, MOST)

    def find(self, slot: int) -> None:
        """Find the object that explains most of the rest, in images where the slots before are filled."""
        at = torch.nonzero(self.there[:, :slot].all(1))[:, 0]
        if not len(at):
            return
        inside = self.rest[at, :, _EDGE:-_EDGE, _EDGE:-_EDGE].flatten(0, 1)[:, None]
        inner = conv2d(inside, self.coarse.masks.flatten(0, 2)[:, None])
        places = inner.shape[-1]
        inner = inner.view(len(at), 3, *self.coarse.masks.shape[:3], places, places)
        inner.masked_fill_(self._taken(at, places)[:, None, None, None], 0)
        overlap, where = self.coarse.overlap(inner, self.ground[at]).flatten(5).max(-1)
        power = self.coarse.power(self.ground[at])
        gain = 2 * overlap - power
        best, look = gain.masked_fill_(gain < _START * power, 0).flatten(1).max(1)
        where = where.flatten(1).gather(1, look[:, None])[:, 0]
        at, where = at[best > 0], where[best > 0]
        self.there[at, slot] = True
        self.middle[at, slot] = torch.stack([where // places, where % places], 1) + _EDGE
        self._fit(at, slot)

    def _taken(self, at: Tensor, places: int) -> Tensor:
        """Return bool [N, sizes, places, places]: where an object of that size would lie on one found before."""
        reach = _APART * (self.coarse.variant[:, 1] + self._variant(at)[:, :, 1, None])
        grid = torch.arange(places) + _EDGE
        down, across = ((grid - self.middle[at][:, :, axis, None]).abs() for axis in (0, 1))
        near = torch.maximum(down[:, :, :, None], across[:, :, None, :])[:, :, None] < reach[..., None, None]
        return (near & self.there[at][:, :, None, None, None]).any(1)

    def _variant(self, at: Tensor) -> Tensor:
        """Return the `Variant`s of all slots, float32 [N, MOST, 5]."""
        return self.fine.variant[self.fine.unpack(self.look[at])[3]]

    def _patches(self, at: Tensor, slot: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the index of the object's patches [N, 3, PATCH, PATCH] in `rest`."""
        down, across = (self.middle[at, slot, axis, None] + torch.arange(PATCH) for axis in (0, 1))
        return at[:, None, None, None], torch.arange(3)[:, None, None], down[:, None, :, None], across[:, None, None]

    def _fit(self, at: Tensor, slot: int) -> None:
        """Choose the look that explains most of the patch, and take it off."""
        patches = self._patches(at, slot)
        inner = self.rest[patches].flatten(2) @ self.fine.masks.flatten(0, 2).flatten(1).T
        power = self.fine.power(self.ground[at])
        overlap = self.fine.overlap(inner.view(len(at), 3, *self.fine.masks.shape[:3]), self.ground[at])
        gain, look = (2 * overlap - power).flatten(1).max(1)
        self.look[at, slot] = look
        self.share[at, slot] = gain / power.flatten(1).gather(1, look[:, None])[:, 0]
        self.rest[patches] -= self.fine.draw(look, self.ground[at])

    def seen(self, background: Tensor, line: Tensor) -> Seen:
        """Return what was found, as arrays."""
        colour, texture, shape, number = (part.numpy() for part in self.fine.unpack(self.look))
        variant = self.fine.variant[torch.from_numpy(number)]
        y, x = ((self.middle + variant[..., [3, 2]]) / SIDE).double().numpy().transpose(2, 0, 1)
        there = (self.there & (self.share >= LEAST)).numpy()
        size = variant[..., 0].long().numpy()
        return Seen(background.numpy(), line.numpy(), there, shape, colour, size, texture, x, y)
