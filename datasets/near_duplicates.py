"""One picture twice: found though it was re-encoded, resized, made a little brighter, or cropped at its edges.

Every image is reduced to a fingerprint, its means over 12 x 12 cells, brightness whole and colour halved, as a JPEG
keeps them. Images with near fingerprints are laid over each other and compared: see `same_picture`. A hash of 64
bits would be smaller, but drawings are symmetric and have few shades: in one of ten a crop of 2 % flips a quarter
of the bits of a DCT hash, and two drawings may differ in eight.

Measured on 192 parts of photographs and 300 emoji, prepared at 64 px. Found again were: a JPEG of quality 50 of the
original 97 and 100 %, of the prepared pixels 97 and 97 %; resized by way of 48 px 97 and 100 %; 5 % brighter or darker
97 and 98 %; cropped by 2 % in the middle or at a corner 91 to 94 and 94 to 97 %. The photographs missing are nearly
flat. At 32 px the crops are 86 to 92 and 50 to 77 %. Of 26,000 drawn scenes 189 pairs were found, and all of them
agree in background, shapes, colours, sizes and textures, and to a pixel in their places.
"""

from collections.abc import Callable, Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Pairs = NDArray[np.int64]
"""[P, 2]: numbers of images, the first smaller than the second."""

VERSION = 3
"""Raised when other pairs are found than before."""

CELLS = 12
FINE_CELLS = 32
FLAT = 4.0
"""Grey levels of contrast below which an image shows too little to be told from another."""
RADIUS = 12.0
"""Grey levels, in the root of the mean square, by which fingerprints at half their resolution may differ."""
NEAREST = 16
"""Images with which one is compared at most; hardly any has so many within the radius."""
LEAF = 2048
"""Images that are compared each with each."""
CROP = 0.025
"""The part of the side that may be missing at an edge."""
BRIGHTNESS = 0.06
"""The part by which the whole image may be brighter or darker."""
TOLERANCE = 9.0
"""Grey levels by which a cell may differ when the images lie over each other."""
DIFFERENCE = 0.2
"""The part of the contrast that the difference may be, when the images lie over each other."""
UNALIGNED_DIFFERENCE = 0.75
"""The same before they do."""
GATHERED = 0.65
"""The part of the squared difference in the worst 2 % of the fine cells that makes it one of content."""
VISIBLE = 20.0
"""Grey levels in a fine cell below which a gathered difference does not count."""
STEPS = 4
AT_ONCE = 128

# ITU-R BT.601 as in JPEG, the two rows of colour halved.
_COLOUR = np.array([[0.299, 0.587, 0.114], [-0.0844, -0.1656, 0.25], [0.25, -0.2093, -0.0407]], np.float32)
_WHOLE = np.array([[0.0, 1.0], [0.0, 1.0]], np.float32)


def fingerprints(images: NDArray[np.uint8]) -> NDArray[np.float16]:
    """Return the means over cells of images uint8 [N, 3, S, S]: float16 [N, 3, 12, 12], brightness and colour."""
    return _cells(images, _WHOLE[None], CELLS).astype(np.float16)


def near_duplicates(
    prints: NDArray[np.float16], images: Callable[[NDArray[np.int64]], NDArray[np.uint8]]
) -> Pairs:
    """Return the pairs of images that show the same picture, in order.

    `prints` are the fingerprints of all images; `images` returns those of some numbers as uint8 [K, 3, S, S].
    Images that are nearly flat are left out. No table of all pairs is made: 20,000 parts of photographs take 7
    seconds on one core, 100,000 take 90.
    """
    busy = np.flatnonzero(_contrast(prints) >= FLAT)
    pairs = busy[candidates(prints[busy])]
    pairs = _kept(pairs, 4096, lambda some: plausible(prints[some[:, 0]], prints[some[:, 1]]))
    return _kept(pairs, AT_ONCE, lambda some: same_picture(images(some[:, 0]), images(some[:, 1])))


def _kept(pairs: Pairs, at_once: int, test: Callable[[Pairs], NDArray[np.bool_]]) -> Pairs:
    parts = [pairs[start : start + at_once] for start in range(0, len(pairs), at_once)]
    return np.concatenate([pairs[:0], *(part[test(part)] for part in parts)])


def candidates(prints: NDArray[np.float16]) -> Pairs:
    """Return the pairs of fingerprints that, at half their resolution, are within `RADIUS`."""
    if len(prints) < 2:
        return np.zeros((0, 2), np.int64)
    bright = prints[:, 0].reshape(-1, 6, 2, 6, 2).mean((2, 4), dtype=np.float32).reshape(len(prints), -1) / 6
    colour = prints[:, 1:].reshape(-1, 2, 3, 4, 3, 4).mean((3, 5), dtype=np.float32).reshape(len(prints), -1) / 3
    points = torch.from_numpy(np.concatenate([bright, colour], 1))
    points = points - points.mean(0)
    points = points @ torch.linalg.eigh(points.T @ points).eigenvectors
    found = [pairs for leaf in _leaves(points, torch.arange(len(points))) for pairs in _near(points[leaf], leaf)]
    codes = torch.cat([torch.zeros(0, dtype=torch.int64), *(first * len(points) + second for first, second in found)])
    return np.stack(np.divmod(torch.unique(codes).numpy(), len(points)), 1)


def _leaves(points: torch.Tensor, numbers: torch.Tensor) -> Iterator[torch.Tensor]:
    """Yield small sets of the numbers, such that any two points within `RADIUS` are together in one of them."""
    if len(numbers) <= LEAF:
        yield numbers
        return
    chosen = points[numbers]
    axes = chosen.var(0).topk(8).indices
    values = chosen[:, axes]
    middle = values.median(0).values
    below, above = values <= middle + RADIUS, values > middle
    larger = torch.maximum(below.sum(0), above.sum(0))
    axis = int(larger.argmin())
    if larger[axis] > 0.9 * len(numbers):
        yield numbers
        return
    yield from _leaves(points, numbers[below[:, axis]])
    yield from _leaves(points, numbers[above[:, axis]])


def _near(points: torch.Tensor, numbers: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield numbers of points within `RADIUS` of each other, for each point the `NEAREST` of the later ones."""
    half_squares = points.square().sum(1, keepdim=True) / 2
    ones = torch.ones_like(half_squares)
    # The products of these rows are minus half the squared distances: one product of matrices and nothing after it.
    rows, columns = torch.cat([points, -half_squares, -ones], 1), torch.cat([points, ones, half_squares], 1)
    for start in range(0, len(points), 512):
        nearness = rows[start : start + 512] @ columns[start:].T
        near = (nearness >= -(RADIUS**2) / 2).triu(1)
        if near.sum() > NEAREST * len(near):
            nearness.masked_fill_(~near, -torch.inf)
            nearest = nearness.topk(min(NEAREST, nearness.shape[1])).indices
            near &= torch.zeros_like(near).scatter_(1, nearest, True)
        first, second = near.nonzero().T + start
        yield numbers[first], numbers[second]


def plausible(first: NDArray[np.float16], second: NDArray[np.float16]) -> NDArray[np.bool_]:
    """Return, bool [P], which fingerprints may be of one picture: cheap, and strict only where a crop cannot matter.

    No cell may differ by more than a crop lets in from the cells beside it, nor all by much of the contrast.
    """
    one, other = first.astype(np.float32), second.astype(np.float32)
    contrast = np.minimum(_contrast(one), _contrast(other))
    result: NDArray[np.bool_] = _contrast(one - other) <= UNALIGNED_DIFFERENCE * contrast
    one, other = one[result], other[result]
    beside = np.maximum(_largest_beside(one) + _largest_beside(-one), _largest_beside(other) + _largest_beside(-other))
    allowed = TOLERANCE + BRIGHTNESS * np.abs(one) + 2 * CROP * CELLS * beside
    result[result] = (np.abs(one - other) <= allowed).all((1, 2, 3))
    return result


def _largest_beside(cells: Floats) -> Floats:
    """Return, for each cell, the largest value among it and the eight around it."""
    for axis in (2, 3):
        padded = np.pad(cells, [(int(axis == at), int(axis == at)) for at in range(4)], mode="edge")
        parts = [padded.take(range(shift, shift + CELLS), axis) for shift in range(3)]
        cells = np.maximum(np.maximum(parts[0], parts[1]), parts[2])
    return cells


class Overlay(NamedTuple):
    """Two batches of images laid over each other."""

    first: Floats
    """[P, 2, 2]: the part of each first image, by (start, stop) of 1 down and across, that the second shows too."""
    second: Floats
    """The same of the second images."""
    gains: Floats
    """[P, 2]: by how much either must be made brighter to match the other; one of them is 1."""
    worst: Floats
    """[P]: the largest difference of a cell."""


def same_picture(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return, bool [P], where two images uint8 [P, 3, S, S] show the same picture.

    They do if, laid over each other, no cell differs by more than `TOLERANCE`, the difference is small beside the
    contrast, and it is not gathered in few fine cells: re-encoding leaves a little at every edge, another mouth or
    another emblem on a flag leaves much at one place.
    """
    # The darker one first, so that the answer is the same for either order.
    turn = (first.sum((1, 2, 3)) > second.sum((1, 2, 3)))[:, None, None, None]
    first, second = np.where(turn, second, first), np.where(turn, first, second)
    overlay = _overlaid(first, second)
    same: NDArray[np.bool_] = overlay.worst <= TOLERANCE
    at = np.flatnonzero(same)
    part = Overlay(*(values[at] for values in overlay))
    coarse = _differences(first[at], second[at], part, CELLS)
    fine = np.sort(_differences(first[at], second[at], part, FINE_CELLS))
    contrast = np.minimum(_contrast(fingerprints(first[at])), _contrast(fingerprints(second[at])))
    small = np.sqrt(coarse.mean(1)) <= DIFFERENCE * contrast
    gathered = fine[:, -(FINE_CELLS**2 // 50) :].sum(1) > GATHERED * fine.sum(1)
    same[at] = small & ~(gathered & (fine[:, -1] > VISIBLE**2))
    return same


def _overlaid(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Overlay:
    """Return how the images lie over each other best, found by least squares on their cells, step by step."""
    spans = np.tile(_WHOLE, (len(first), 1, 1))
    overlays = []
    for _ in range(STEPS + 1):
        one, other = _common(spans)
        a, b = _cells(first, one, CELLS), _cells(second, other, CELLS)
        overlays.append(_compared(a, b, one, other))
        spans = _moved(_step(a, b), one, other)
    return reduce(_better, overlays)


def _compared(a: Floats, b: Floats, first: Floats, second: Floats) -> Overlay:
    # White stays white when an image is made brighter, so the brightness is measured where there is room above.
    room = np.maximum(a[:, :1], b[:, :1]) < 240
    gain = ((a * b * room).sum((1, 2, 3)) + 1) / ((a * a * room).sum((1, 2, 3)) + 1)
    gains = np.stack([np.clip(gain, 1, 1 + BRIGHTNESS), np.clip(1 / np.maximum(gain, 0.5), 1, 1 + BRIGHTNESS)], 1)
    worst = np.abs(_lit(b, gains[:, 1]) - _lit(a, gains[:, 0])).max((1, 2, 3))
    return Overlay(first, second, gains, worst)


def _lit(cells: Floats, gain: Floats) -> Floats:
    """Return cells made brighter, at most white."""
    lit = cells * gain[:, None, None, None]
    lit[:, 0] = np.minimum(lit[:, 0], 255)
    return lit


def _better(one: Overlay, other: Overlay) -> Overlay:
    """Return, pair by pair, the overlay that leaves less."""
    take = other.worst < one.worst
    parts = zip(one, other, strict=True)
    return Overlay(*(np.where(take.reshape(-1, *[1] * (b.ndim - 1)), b, a) for a, b in parts))


def _common(spans: Floats) -> tuple[Floats, Floats]:
    """Return the parts that both show, where `spans` [P, 2, 2] of the first images, maybe beyond, fill the second."""
    start, size = spans[..., :1], spans[..., 1:] - spans[..., :1]
    second = np.concatenate([np.maximum(0, -start / size), np.minimum(1, (1 - start) / size)], -1)
    return start + size * second, second


def _step(a: Floats, b: Floats) -> Floats:
    """Return how to move and widen the first parts so that cells `a` come nearer to `b`: [P, 3], down, across, wider.

    In parts of their size, by one step of Gauss and Newton (Lucas and Kanade, IJCAI 1981), brightness included.
    """
    down, across = (slope * CELLS for slope in np.gradient((a + b) / 2, axis=(2, 3)))
    place = ((np.arange(CELLS) + 0.5) / CELLS - 0.5).astype(np.float32)
    wider = down * place[:, None] + across * place
    causes = np.stack([a, down, across, wider], 1).reshape(len(a), 4, -1)
    squares = causes @ causes.transpose(0, 2, 1)
    scale = np.trace(squares, axis1=1, axis2=2)[:, None, None]
    squares += np.eye(4, dtype=np.float32) * (scale * 2.5e-5 + 1e-3)
    solved: Floats = np.linalg.solve(squares, causes @ (b - a).reshape(len(a), -1, 1))
    return solved[:, 1:, 0]


def _moved(step: Floats, first: Floats, second: Floats) -> Floats:
    """Return the spans of the first images that fill the second ones, after a step from the parts given."""
    size = first[..., 1:] - first[..., :1]
    moved = first + size * (step[:, :2, None] + step[:, 2:, None] * np.array([-0.5, 0.5], np.float32))
    slope = (moved[..., 1:] - moved[..., :1]) / (second[..., 1:] - second[..., :1])
    spans = moved + slope * (_WHOLE - second)
    bounded: Floats = np.clip(spans, _WHOLE - CROP, _WHOLE + CROP)
    return bounded


def _differences(
    first: NDArray[np.uint8], second: NDArray[np.uint8], overlay: Overlay, cells: int
) -> Floats:
    """Return the squared differences of overlaid images: float32 [P, cells * cells]."""
    a = _lit(_cells(first, overlay.first, cells), overlay.gains[:, 0])
    b = _lit(_cells(second, overlay.second, cells), overlay.gains[:, 1])
    squares: Floats = ((b - a) ** 2).sum(1).reshape(len(a), cells * cells)
    return squares


def _contrast(prints: NDArray[np.floating]) -> Floats:
    """Return [N]: how far the cells stray from their mean, in grey levels, as root of the mean square."""
    contrast: Floats = np.sqrt(prints.var((2, 3), dtype=np.float32).sum(1))
    return contrast


def _cells(images: NDArray[np.uint8], spans: Floats, cells: int) -> Floats:
    """Return the means over `cells` x `cells` of the parts [P or 1, 2, 2] of images: [P, 3, cells, cells].

    They are of brightness and two differences of colour.
    """
    side = images.shape[-1]
    down, across = _averages(side, spans[:, 0], cells), _averages(side, spans[:, 1], cells)
    rgb = down[:, None] @ images.astype(np.float32) @ across[:, None].transpose(0, 1, 3, 2)
    coloured: Floats = np.einsum("ij,njhw->nihw", _COLOUR, rgb, optimize=True)
    return coloured


def _averages(side: int, spans: Floats, cells: int) -> Floats:
    """Return [P, cells, side], each of whose matrices averages the pixels in the span (start, stop of 1) over cells."""
    edges = (spans[:, :1] + (spans[:, 1:] - spans[:, :1]) * np.linspace(0, 1, cells + 1)) * side
    pixels = np.arange(side)
    overlap = np.minimum(edges[:, 1:, None], pixels + 1) - np.maximum(edges[:, :-1, None], pixels)
    weights = np.clip(overlap, 0, None)
    averages: Floats = (weights / weights.sum(2, keepdims=True)).astype(np.float32)
    return averages
