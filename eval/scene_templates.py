"""Everything that an object of `scenes` can look like, and how much of a picture each look explains.

An object drawn on a plain ground differs from it by T = c (colour - ground) - (1 - SHADE) s colour: c is how much of a
pixel the object covers, s how much of it its darker parts cover. Of a patch of difference D, T explains
|D|² - |D - T|² = 2 <D, T> - |T|²; the inner products with c and s serve all colours and grounds at once.
"""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..datasets.scene_render import COLOUR_RGB, SHADE, SHAPE_DISTANCE, TEXTURE_DISTANCE, coverage
from ..datasets.scenes import RADII, SIZES

PATCH = 18
"""Side of a patch in pixels: it holds a large object and its soft edge, wherever in the middle pixels it lies."""
_DARKER = 1 - SHADE
_COLOURS = torch.tensor(list(COLOUR_RGB.values()), dtype=torch.float32, device="cpu")


class Variant(NamedTuple):
    """How an object of a look lies in its patch: size (place in `SIZES`), radius and offset in pixels, blur's sigma."""

    size: int
    radius: float
    x: float
    y: float
    blur: float


class Bank:
    """Masks of all shapes and textures in some variants.

    A look is a place in the order colour, texture, shape, variant: `unpack` takes it apart.
    """

    def __init__(self, variants: list[Variant]) -> None:
        self.variant = torch.tensor(variants)
        """float32 [V, 5]."""
        self.masks = torch.stack([_masks(variant) for variant in variants], 2)
        """float32 [1 + 2, S, V, PATCH, PATCH]: coverage, and of what is striped and dotted the darker parts."""
        cover, dark = self.masks[0], torch.cat([torch.zeros_like(self.masks[:1]), self.masks[1:]])
        products = [(cover * cover).expand_as(dark), cover * dark, dark * dark]
        self._products = torch.stack([product.sum((-2, -1)) for product in products])

    def overlap(self, inner: Tensor, ground: Tensor) -> Tensor:
        """Return <D, T> of every look, float32 [N, C, T, S, V, ...].

        `inner` holds the products of patches with the masks, [N, 3 channels, 3 masks, S, V, ...]; `ground` [N, 3].
        """
        rest = inner.shape[3:]
        inner = inner.flatten(3)
        bright = inner.new_empty(len(inner), 4, *inner.shape[2:])
        bright[:, :3, 0] = inner[:, :, 0]
        torch.sub(inner[:, :, :1], inner[:, :, 1:], alpha=_DARKER, out=bright[:, :3, 1:])
        bright[:, 3] = torch.einsum("nk,nkp->np", ground, inner[:, :, 0])[:, None]
        weights = torch.cat([_COLOURS, -torch.ones(len(_COLOURS), 1)], 1)
        return (weights @ bright.flatten(2)).view(len(inner), len(_COLOURS), 3, *rest)

    def power(self, ground: Tensor) -> Tensor:
        """Return |T|² of every look on `ground` [N, 3]: float32 [N, C, T, S, V]."""
        contrast = _COLOURS - ground[:, None]
        own = (contrast * _COLOURS).sum(-1)
        parts = [(contrast**2).sum(-1), -2 * _DARKER * own, (_DARKER**2 * (_COLOURS**2).sum(-1)).expand_as(own)]
        power = torch.stack(parts, -1) @ self._products.flatten(1)
        return power.view(*own.shape, *self._products.shape[1:])

    def unpack(self, look: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return colour, texture, shape and variant of looks int64 [N]."""
        _, shapes, variants = self.masks.shape[:3]
        colour, rest = look // (3 * shapes * variants), look % (3 * shapes * variants)
        return colour, rest // (shapes * variants), rest // variants % shapes, rest % variants

    def draw(self, look: Tensor, ground: Tensor) -> Tensor:
        """Return the difference from `ground` [N, 3] that looks int64 [N] make: float32 [N, 3, PATCH, PATCH]."""
        colour, texture, shape, variant = self.unpack(look)
        cover, dark = self.masks[0, shape, variant], self.masks[texture, shape, variant]
        rgb = _COLOURS[colour][:, :, None, None]
        shade = _DARKER * rgb * dark[:, None] * (texture > 0)[:, None, None, None]
        return cover[:, None] * (rgb - ground[:, :, None, None]) - shade


def variants(side: int, *, offsets: Sequence[float], radii: int, blurs: Sequence[float]) -> list[Variant]:
    """Return the variants in images of `side` pixels: all these offsets both ways, so many radii a size."""
    return [
        Variant(number, side * (low + (high - low) * (step + 0.5) / radii), x, y, blur)
        for number, (low, high) in enumerate(RADII[size] for size in SIZES)
        for step, blur, x, y in product(range(radii), blurs, offsets, offsets)
    ]


def _masks(variant: Variant) -> Tensor:
    """Return float32 [3, S, PATCH, PATCH] of one variant, as `scene_render` draws it."""
    pixel = torch.arange(PATCH) + 0.5 - PATCH / 2
    u = ((pixel - variant.x) / variant.radius).numpy()[None, None, :]
    v = ((pixel - variant.y) / variant.radius).numpy()[None, :, None]
    radius = np.array(variant.radius)
    cover = np.concatenate([coverage(edge(u, v), radius) for edge in SHAPE_DISTANCE.values()])
    dark = [cover * coverage(edge(u, v), radius) for edge in TEXTURE_DISTANCE.values() if edge]
    masks = torch.from_numpy(np.stack([cover, *dark])).float()
    if variant.blur:
        weights = torch.exp(-((pixel[:, None] - pixel) ** 2) / (2 * variant.blur**2))
        smooth = weights / weights.sum(1).max()
        masks = smooth @ masks @ smooth.T
    return masks
