"""What the lower panel of a two-panel scene shows, read by drawing everything that it could show and comparing.

For image prompts: the upper panel is given, the caption says what is to be changed, and the lower panel is drawn by a
model. Its object belongs at a known place, so shape, colour, texture and size can be read without a learnt judge.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..datasets.scenes import COLOURS, RADII, SHAPES, SIZES, TEXTURES, render
from ..errors import UserError

ASKED = ("shape", "colour", "texture", "size")
LOOKS = tuple(product(SHAPES, COLOURS, TEXTURES, SIZES))
"""Everything that an object can look like, in the order of `ASKED`."""
REACH = 2
"""Pixels of 32 by which a drawn object may have strayed, both ways."""


class Read(NamedTuple):
    """What was asked, read, and given above: places in `LOOKS`; and the pixels' root mean square error."""

    asked: NDArray[np.int64]
    shown: NDArray[np.int64]
    upper: NDArray[np.int64]
    error: NDArray[np.float64]

    def right(self, *attributes: str) -> NDArray[np.bool_]:
        """Return bool [N]: where all of these attributes of the lower object are as asked."""
        return _equal(self.asked, self.shown, attributes)

    def copied(self, *attributes: str) -> NDArray[np.bool_]:
        """Return bool [N]: where an exact copy of the upper object would have these attributes right."""
        return _equal(self.asked, self.upper, attributes)


def _equal(a: NDArray[np.int64], b: NDArray[np.int64], attributes: Sequence[str]) -> NDArray[np.bool_]:
    looks = np.array([[options.index(value) for options, value in zip(_OPTIONS, look, strict=True)] for look in LOOKS])
    columns = [ASKED.index(attribute) for attribute in attributes]
    return np.asarray((looks[a][:, columns] == looks[b][:, columns]).all(1))


_OPTIONS: tuple[tuple[str, ...], ...] = (SHAPES, COLOURS, TEXTURES, SIZES)


def read_lower_panels(images: NDArray[np.uint8], scenes: Sequence[Mapping[str, Any]]) -> Read:
    """Read the lower halves of images uint8 [N, 3, S, S] drawn for the captions of `scenes`, each of two panels.

    The look is the one whose drawing, at the place of the scene's lower object or up to `REACH` pixels beside it, has
    the least squared error. Raises UserError for a scene of another kind.
    """
    if any(scene["kind"] != "panels" for scene in scenes):
        raise UserError("lower panels: expected scenes of two panels only")
    nearest = [_nearest(image, scene) for image, scene in zip(images, scenes, strict=True)]
    asked, upper = ([LOOKS.index(tuple(scene["objects"][number][name] for name in ASKED)) for scene in scenes]
                    for number in (1, 0))  # fmt: skip
    return Read(np.array(asked), np.array([look for look, _ in nearest]), np.array(upper),
                np.array([error for _, error in nearest]))  # fmt: skip


def _nearest(image: NDArray[np.uint8], scene: Mapping[str, Any]) -> tuple[int, float]:
    """Return the number of the nearest look, and the root mean square error of its drawing."""
    size = image.shape[-1]
    drawn = render([_with_look(scene, look) for look in LOOKS], size)
    reach = max(1, REACH * size // 32)
    top = size // 2 + size // 32 + reach
    wanted = image[:, top : size - reach, reach : size - reach].astype(np.float32).ravel()
    best = (0, np.inf)
    for down, right in product(range(-reach, reach + 1), repeat=2):
        moved = drawn[:, :, top + down : size - reach + down, reach + right : size - reach + right]
        errors = ((moved.reshape(len(LOOKS), -1).astype(np.float32) - wanted) ** 2).mean(1)
        look = int(errors.argmin())
        if errors[look] < best[1]:
            best = look, float(errors[look])
    return best[0], float(np.sqrt(best[1]))


def _with_look(scene: Mapping[str, Any], look: tuple[str, ...]) -> dict[str, Any]:
    """Return the scene with another lower object; of another size, it has the middle radius of that size."""
    upper, lower = scene["objects"]
    changed = {**lower, **dict(zip(ASKED, look, strict=True))}
    if changed["size"] != lower["size"]:
        changed["radius"] = sum(RADII[changed["size"]]) / 2
    return {**scene, "objects": [upper, changed]}
