"""The picture of a scene: anti-aliased shapes from signed distances, many objects at once.

Only `+ - * /`, `sqrt`, `floor`, `abs`, `min` and `max` in float32 touch a pixel: IEEE 754 rounds each of them
correctly, so the pixels are the same on every machine.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError

Field = NDArray[np.floating[Any]]
"""float32 [K, P, P]: one number a pixel of each of K patches (or what broadcasts to it)."""

COLOUR_RGB: Mapping[str, tuple[int, int, int]] = {
    "red": (214, 32, 36),
    "orange": (246, 132, 18),
    "yellow": (252, 218, 24),
    "green": (28, 150, 54),
    "cyan": (24, 206, 220),
    "blue": (36, 72, 222),
    "purple": (134, 40, 178),
    "pink": (252, 128, 190),
}
BACKGROUND_RGB: Mapping[str, tuple[int, int, int]] = {
    "white": (248, 248, 248),
    "gray": (122, 122, 122),
    "black": (14, 14, 14),
    "beige": (222, 206, 172),
}
LINE_RGB: Mapping[str, tuple[int, int, int]] = {
    "white": (60, 60, 60),
    "gray": (236, 236, 236),
    "black": (190, 190, 190),
    "beige": (70, 60, 44),
}
"""The line between two panels, by background."""

LINE_WIDTH = 1 / 32
"""Of the image's height; the line lies just below the middle, so that the upper half holds none of it."""

SMALLEST, LARGEST = 32, 256
SHADE = 0.36
"""Brightness of stripes and dots relative to the object's colour."""

_STRIPE_PERIOD = 0.8
_DOT_PERIOD = 1.0
_DOT_RADIUS = 0.23


def _circle(u: Field, v: Field) -> Field:
    return np.sqrt(u * u + v * v) - 1


def _square(u: Field, v: Field) -> Field:
    farther: Field = np.maximum(np.abs(u), np.abs(v))
    return farther - 0.8862  # sqrt(pi) / 2: the area of a circle


def _triangle(u: Field, v: Field) -> Field:
    flank = (np.abs(u) * 1.8 - (v + 0.9)) * (1 / math.sqrt(1 + 1.8 * 1.8))
    edge: Field = np.maximum(flank, v - 0.9)
    return edge


def _diamond(u: Field, v: Field) -> Field:
    return (np.abs(u) + np.abs(v) - 1) * math.sqrt(0.5)


def _star(u: Field, v: Field) -> Field:
    """Fold the plane into the tenth beside the upper tip: there the star is one straight edge."""
    cos36, sin36 = 0.80901699, 0.58778525
    tip, inner, lift = 1.05, 0.5, 0.1
    x, y = np.abs(u), lift - v
    for _ in range(2):
        beyond = np.maximum(x * cos36 - y * sin36, 0) * 2
        x, y = np.abs(x - beyond * cos36), y + beyond * sin36
    across, down = inner * sin36, tip - inner * cos36
    return (x * down + (y - tip) * across) * (1 / math.sqrt(across * across + down * down))


def _cross(u: Field, v: Field) -> Field:
    x, y = np.abs(u), np.abs(v)
    edge: Field = np.minimum(np.maximum(x - 0.97, y - 0.36), np.maximum(x - 0.36, y - 0.97))
    return edge


def _ring(u: Field, v: Field) -> Field:
    return np.abs(np.sqrt(u * u + v * v) - 0.74) - 0.26


def _heart(u: Field, v: Field) -> Field:
    """Join a square that stands on its corner and a circle on each of its upper sides."""
    h = 1 / (0.5 + math.sqrt(0.5))  # half the square's diagonal, so that the heart is 2 wide
    x, y = np.abs(u), v - (1 - h) / 2
    corner = (x + np.abs(y) - h) * math.sqrt(0.5)
    dx, dy = x - h / 2, y + h / 2
    edge: Field = np.minimum(corner, np.sqrt(dx * dx + dy * dy) - h * math.sqrt(0.5))
    return edge


SHAPE_DISTANCE: Mapping[str, Callable[[Field, Field], Field]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "diamond": _diamond,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
}
"""Signed distance to the shape's edge, negative inside, of points (u right, v down) in units of the radius:
the shape spans the square [-1, 1]² nearly or fully, and never leaves it."""


def _stripes(u: Field, v: Field) -> Field:
    """Leave the middle and the rims bright, so that outlines show on a dark background."""
    t = v * (1 / _STRIPE_PERIOD)
    from_middle: Field = np.abs(t - np.floor(t) - 0.5)
    return (from_middle - 0.25) * _STRIPE_PERIOD


def _dots(u: Field, v: Field) -> Field:
    """Set the dots like the five of a die: on the middles and the corners of square cells."""
    x, y = u * (1 / _DOT_PERIOD), v * (1 / _DOT_PERIOD)
    x, y = np.abs(x - np.floor(x) - 0.5), np.abs(y - np.floor(y) - 0.5)
    to_middle = x * x + y * y
    to_corner = (0.5 - x) * (0.5 - x) + (0.5 - y) * (0.5 - y)
    nearest: Field = np.sqrt(np.minimum(to_middle, to_corner))
    return nearest * _DOT_PERIOD - _DOT_RADIUS


TEXTURE_DISTANCE: Mapping[str, Callable[[Field, Field], Field] | None] = {
    "solid": None,
    "striped": _stripes,
    "dotted": _dots,
}
"""Signed distance to the edge of the darker parts, in the units of `SHAPE_DISTANCE`."""


def render(scenes: Sequence[Mapping[str, Any]], image_size: int) -> NDArray[np.uint8]:
    """Draw scene graphs (as `datasets.scenes` describes them).

    Returns uint8 [N, 3, image_size, image_size] RGB. Objects must not overlap. Raises UserError when
    `image_size` is outside 32..256.
    """
    if not SMALLEST <= image_size <= LARGEST:
        raise UserError(f"image size {image_size}: scenes are drawn at {SMALLEST} to {LARGEST} pixels a side")
    images = np.empty((len(scenes), 3, image_size, image_size), np.uint8)
    if not scenes:
        return images
    grounds = np.array([BACKGROUND_RGB[scene["background"]] for scene in scenes], np.uint8)
    images[:] = grounds[:, :, None, None]
    groups: defaultdict[tuple[str, str, str], list[tuple[int, Mapping[str, Any]]]] = defaultdict(list)
    for number, scene in enumerate(scenes):
        if scene["kind"] == "panels":
            _draw_line(images[number], scene["background"])
        for thing in scene["objects"]:
            groups[thing["shape"], thing["texture"], thing["size"]].append((number, thing))
    for (shape, texture, _), members in groups.items():
        _draw_objects(images, members, grounds[[number for number, _ in members]], shape, texture)
    return images


def _draw_line(image: NDArray[np.uint8], background: str) -> None:
    size = image.shape[-1]
    top = (size + 1) // 2
    bottom = top + round(size * LINE_WIDTH)
    image[:, top:bottom] = np.array(LINE_RGB[background], np.uint8)[:, None, None]


def _draw_objects(
    images: NDArray[np.uint8],
    members: Sequence[tuple[int, Mapping[str, Any]]],
    grounds: NDArray[np.uint8],
    shape: str,
    texture: str,
) -> None:
    """Add K objects of one shape and texture, each (number of its image, object), on `grounds` [K, 3]."""
    size = images.shape[-1]
    place = np.array([(thing["x"], thing["y"], thing["radius"]) for _, thing in members], np.float32) * size
    colour = np.array([COLOUR_RGB[thing["colour"]] for _, thing in members], np.float32)
    side = min(size, math.ceil(2 * float(place[:, 2].max())) + 3)
    corner = np.clip(np.floor(place[:, :2] - side / 2), 0, size - side)
    pixel = np.arange(side, dtype=np.float32) + 0.5
    radius = place[:, 2, None, None]
    local = (corner[:, :, None] + pixel - place[:, :2, None]) / radius
    u, v = local[:, 0, None, :], local[:, 1, :, None]
    cover = coverage(SHAPE_DISTANCE[shape](u, v), radius)
    difference = (colour - grounds)[:, :, None, None] * cover[:, None]
    darker = TEXTURE_DISTANCE[texture]
    if darker is not None:
        shade = cover * coverage(darker(u, v), radius)
        difference -= (colour * (1 - SHADE))[:, :, None, None] * shade[:, None]
    # Adding differences lets the soft edges of neighbours share a pixel; in uint8 they wrap to the right sum.
    patches = np.floor(difference + 0.5).astype(np.int16).astype(np.uint8)
    for (number, _), (left, top), patch in zip(members, corner.astype(int).tolist(), patches, strict=True):
        images[number, :, top : top + side, left : left + side] += patch


def coverage(distance: Field, radius: Field) -> Field:
    """Return how much of each pixel lies inside, 0..1, taking the edge as straight within a pixel.

    `distance` is to the edge, negative inside, over the `radius`, which is in pixels; both broadcast.
    """
    inside: Field = np.clip(0.5 - distance * radius, 0, 1)
    return inside
