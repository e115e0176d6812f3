"""One picture twice: found though it was re-encoded, resized, made a little brighter, or cropped at its edges.

Every image is reduced to a fingerprint: its means over 12 x 12 cells, brightness whole and colour halved, as a JPEG
keeps them. Images with near fingerprints are then compared as `same_picture` says. A hash of 64 bits would be
smaller, but drawings are symmetric and have few shades: in them a crop of 2 % flips a quarter of the bits of a DCT
hash, as many as separate two drawings.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pairs = NDArray[np.int64]
"""[P, 2]: numbers of images, the first smaller than the second."""

CELLS = 12
FINE_CELLS = 32
RADIUS = 12.0
"""Grey levels, in the root of the mean square, by which fingerprints at half their resolution may differ."""
NEAREST = 16
"""Images with which one is compared at most; hardly any has so many within the radius."""
LEAF = 2048
"""Images that are compared each with each."""
CUTS = (0.007, 0.014, 0.02)
"""Parts of the side that are tried to be cut off, each at nine places."""
BRIGHTNESS = 0.06
"""How much brighter or darker, as a part, a whole image may be."""
TOLERANCE = 10.0
"""Grey levels by which a cell may differ between two images of one picture, once they are aligned."""
LEAST_CONTRAST = 5.0
"""The contrast of both images beside their difference: nearly flat images are all alike and say nothing."""
GATHERED = 0.55
"""The part of the squared difference in the worst 2 % of the fine cells that makes it one of content."""
VISIBLE = 20.0
"""Grey levels in a fine cell below which a gathered difference does not count."""
AT_ONCE = 64

# ITU-R BT.601 as in JPEG, the two rows of colour halved.
_COLOUR = np.array([[0.299, 0.587, 0.114], [-0.0844, -0.1656, 0.25], [0.25, -0.2093, -0.0407]], np.float32)


class Window(NamedTuple):
    """A square part of an image: `cut` of its side is missing, at the edges that `across` and `down` say (0 to 1)."""

    cut: float
    across: float
    down: float


WHOLE = Window(0, 0.5, 0.5)
_PLACES = (0.0, 0.5, 1.0)


def _alignments() -> Iterator[tuple[Window, Window]]:
    """Yield what may show the same: either image against a part of the other, or opposite parts of both."""
    yield WHOLE, WHOLE
    for cut in CUTS:
        for across in _PLACES:
            for down in _PLACES:
                part = Window(cut, across, down)
                yield part, WHOLE
                yield WHOLE, part
                if (across, down) != (0.5, 0.5):
                    yield part, Window(cut, 1 - across, 1 - down)


ALIGNMENTS = tuple(_alignments())
SPANS = tuple(dict.fromkeys((window.cut, place) for window, _ in ALIGNMENTS for place in window[1:]))
"""What the windows cover of one axis: the part cut off, and where."""


def fingerprints(images: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return the means over cells of images uint8 [N, 3, S, S]: float16 [N, 3, 12, 12], brightness and two of colour."""
    means = _averages(images.shape[-1], *_span(0, 0), CELLS)
    return _coloured(means @ images.astype(np.float32) @ means.T).astype(np.float16)


def near_duplicates(
    prints: NDArray[np.float16], images: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> Pairs:
    """Return the pairs that show the same picture, in order.

    `images` returns the images uint8 [K, 3, S, S] of which the fingerprints `prints` were taken, by number.
    Time grows a little faster than the number of images; no table of all pairs is made.
    """
    pairs = candidates(prints)
    pairs = pairs[np.concatenate([plausible(prints, some) for some in _parts(pairs, 4096)] or [np.zeros(0, bool)])]
    same = [same_picture(images(some[:, 0]), images(some[:, 1])) for some in _parts(pairs, AT_ONCE)]
    return pairs[np.concatenate(same or [np.zeros(0, bool)])]


def candidates(prints: NDArray[np.float16]) -> Pairs:
    """Return the pairs whose fingerprints, at half their resolution, are within `RADIUS`."""
    bright = prints[:, 0].reshape(-1, 6, 2, 6, 2).mean((2, 4), dtype=np.float32).reshape(len(prints), -1) / 6
    colour = prints[:, 1:].reshape(-1, 2, 3, 4, 3, 4).mean((3, 5), dtype=np.float32).reshape(len(prints), -1) / 3
    points = np.concatenate([bright, colour], 1)
    points -= points.mean(0)
    _, axes = np.linalg.eigh(points.T @ points)
    leaves = _leaves(torch.from_numpy(points @ axes[:, ::-1].copy()), torch.arange(len(points)))
    found = [pairs for leaf, numbers in leaves for pairs in _near(leaf, numbers)]
    return np.unique(np.concatenate([np.zeros((0, 2), np.int64), *found]), axis=0)


def _leaves(points: torch.Tensor, numbers: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield small sets of points and their numbers, such that any two within `RADIUS` are together in one of them."""
    if len(points) > LEAF:
        axis = int(points.var(0).argmax())
        values = points[:, axis]
        middle = values.median()
        for side in (values <= middle + RADIUS, values > middle):
            if side.float().mean() > 0.8:
                break
        else:
            for side in (values <= middle + RADIUS, values > middle):
                yield from _leaves(points[side], numbers[side])
            return
    yield points, numbers


def _near(points: torch.Tensor, numbers: torch.Tensor) -> Iterator[Pairs]:
    """Yield the pairs of numbers of points within `RADIUS`, for each point the `NEAREST` of the later ones."""
    half_squares = points.square().sum(1, keepdim=True) / 2
    ones = torch.ones_like(half_squares)
    # The product of these rows is minus half the squared distance: one multiplication of matrices, nothing after it.
    rows, columns = torch.cat([points, -half_squares, -ones], 1), torch.cat([points, ones, half_squares], 1)
    for start in range(0, len(points), 512):
        nearness = rows[start : start + 512] @ columns[start:].T
        nearness.masked_fill_(torch.ones_like(nearness, dtype=torch.bool).tril(), -torch.inf)
        near = nearness >= -(RADIUS**2) / 2
        if near.sum() > NEAREST * len(near):
            nearest = nearness.topk(min(NEAREST, nearness.shape[1])).indices
            near &= torch.zeros_like(near).scatter_(1, nearest, True)
        first, second = near.nonzero().T + start
        pairs: Pairs = torch.stack([numbers[first], numbers[second]], 1).numpy()
        yield np.sort(pairs, axis=1)


def plausible(prints: NDArray[np.float16], pairs: Pairs) -> NDArray[np.bool_]:
    """Return, bool [P], which pairs differ in no cell by more than what a cut lets in from the cells beside it."""
    first, second = (prints[numbers].astype(np.float32) for numbers in pairs.T)
    beside = np.maximum(_spread(first), _spread(second))
    allowed = TOLERANCE + BRIGHTNESS * np.abs(first) + 2 * max(CUTS) * CELLS * beside
    result: NDArray[np.bool_] = (np.abs(first - second) <= allowed).all((1, 2, 3))
    return result


def _spread(cells: Floats) -> Floats:
    """Return, for each cell, the largest less the smallest value among it and the eight around it."""
    padded = np.pad(cells, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    spread: Floats = around.max((4, 5)) - around.min((4, 5))
    return spread


def same_picture(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return, bool [P], where two images uint8 [P, 3, S, S] show the same picture.

    They do if one of `ALIGNMENTS`, with the brightness made equal, leaves no cell more than `TOLERANCE` apart, if
    what is left is small beside the contrast, and if it is not gathered in few fine cells: re-encoding leaves a
    little at every edge, another mouth or another colour of a sleeve leaves much at one place.
    """
    best = np.full(len(first), np.inf, np.float32)
    chosen, gains = np.zeros(len(first), np.int64), np.ones(len(first), np.float32)
    one, other = _all_windows(first), _all_windows(second)
    for number, (window, opposite) in enumerate(ALIGNMENTS):
        a, b = _at(one, window), _at(other, opposite)
        gain = np.clip((a * b).sum((1, 2, 3)) / ((a * a).sum((1, 2, 3)) + 1), 1 - BRIGHTNESS, 1 + BRIGHTNESS)
        worst = np.abs(b - gain[:, None, None, None] * a).max((1, 2, 3))
        better = worst < best
        best[better], chosen[better], gains[better] = worst[better], number, gain[better]
    same: NDArray[np.bool_] = best <= TOLERANCE
    for number in np.unique(chosen[same]):
        at = np.flatnonzero(same & (chosen == number))
        same[at] = _little_left(first[at], second[at], gains[at], *ALIGNMENTS[number])
    return same


def _little_left(
    first: NDArray[np.uint8], second: NDArray[np.uint8], gains: Floats, window: Window, opposite: Window
) -> NDArray[np.bool_]:
    """Return where what differs between two windows is small beside the contrast, and spread over the image."""
    a, b = _fine(first, window), _fine(second, opposite)
    left = np.sort(((b - gains[:, None, None, None] * a) ** 2).sum(1).reshape(len(a), -1), axis=1)
    contrast = np.minimum(*(np.sqrt(x.var((2, 3)).sum(1)) for x in (a, b)))
    small = np.sqrt(left.mean(1)) * LEAST_CONTRAST <= contrast
    worst = left[:, -(FINE_CELLS**2 // 50) :].sum(1)
    gathered = (worst > GATHERED * left.sum(1)) & (left[:, -1] > VISIBLE**2)
    return small & ~gathered


def _all_windows(images: NDArray[np.uint8]) -> Floats:
    """Return the cells of images [P, 3, S, S] for all pairs of `SPANS`: [P, 3, spans, 12, spans, 12]."""
    side = images.shape[-1]
    means = np.concatenate([_averages(side, *_span(*span), CELLS) for span in SPANS])
    cells = _coloured(means @ images.astype(np.float32) @ means.T)
    return cells.reshape(len(images), 3, len(SPANS), CELLS, len(SPANS), CELLS)


def _at(windows: Floats, window: Window) -> Floats:
    down, across = SPANS.index((window.cut, window.down)), SPANS.index((window.cut, window.across))
    return windows[:, :, down, :, across]


def _fine(images: NDArray[np.uint8], window: Window) -> Floats:
    side = images.shape[-1]
    down = _averages(side, *_span(window.cut, window.down), FINE_CELLS)
    across = _averages(side, *_span(window.cut, window.across), FINE_CELLS)
    return _coloured(down @ images.astype(np.float32) @ across.T)


def _span(cut: float, place: float) -> tuple[float, float]:
    return cut * place, 1 - cut + cut * place


def _averages(side: int, start: float, stop: float, cells: int) -> Floats:
    """Return the matrix [cells, side] that averages the part from `start` to `stop` (of 1) of a row over cells."""
    edges = np.linspace(start * side, stop * side, cells + 1)
    pixels = np.arange(side)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    averages: Floats = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    return averages


def _coloured(rgb: Floats) -> Floats:
    """Return [N, 3, H, W] in red, green and blue as brightness and two differences of colour."""
    coloured: Floats = np.einsum("ij,njhw->nihw", _COLOUR, rgb, optimize=True)
    return coloured


def _parts(pairs: Pairs, size: int) -> Iterator[Pairs]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]
