"""Random batches for training: which images step t sees, which captions, cropped and flipped how.

Everything is a function of (seed, name, step), nothing is remembered: a loader that starts at step t goes on
as one that came there, and the processes of one run each take their part of the same batch.
"""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..files import seed_of
from .captioned import Batch, CaptionedDataset

Augmentation = Literal["none", "flip", "crop", "crop-flip"]
"""`crop`: a random square of 64/76 of the side, as in the GANs since Reed et al. 2016; `flip`: half are mirrored."""

TOGETHER = 128
"""Images whose batches are made in one go: a small batch by itself, between two steps, takes three times as long."""

SIDED = re.compile(
    r"(?<![^\W_])((left|right)(most|wards?|-?hand(ed)?)?|(anti|counter)?-?clockwise)(?![^\W_])", re.IGNORECASE
)
"""A caption that would be false of the mirrored image."""


def stored_size(image_size: int, augmentation: Augmentation) -> int:
    """Return the side at which images are prepared, so that what is cropped from them has `image_size`."""
    if not augmentation.startswith("crop"):
        return image_size
    if image_size % 16:
        raise UserError(f"augmentation {augmentation}: the image size must be a multiple of 16, got {image_size}")
    return image_size * 19 // 16


class Loader:
    """Batches of `batch_size` images in all, of which process `rank` of `processes` gets its part."""

    def __init__(
        self, data: CaptionedDataset, *, batch_size: int, seed: int, name: str = "",
        augmentation: Augmentation = "none", rank: int = 0, processes: int = 1,
    ) -> None:  # fmt: skip
        if batch_size % processes:
            raise UserError(f"batch_size {batch_size}: cannot be shared evenly by {processes} processes")
        self.data, self.batch_size, self.seed, self.name = data, batch_size, seed, name
        self.crops, self.flips = augmentation.startswith("crop"), augmentation.endswith("flip")
        if self.crops and any(side % 19 for side in (data.image_size, *data.batch([0]).smaller)):
            raise UserError(f"augmentation {augmentation}: {data.name} must be prepared at `stored_size`")
        self.part = slice(rank * batch_size // processes, (rank + 1) * batch_size // processes)
        self._epoch = -1, np.zeros(0, np.int64)

    def indices(self, step: int) -> NDArray[np.int64]:
        """Return int64 [batch_size], the images of a step: epoch after epoch, each in an order of its own.

        A batch may reach over the end of an epoch.
        """
        wanted = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        images = len(self.data)
        parts = []
        for epoch in range(wanted[0] // images, wanted[-1] // images + 1):
            inside = wanted[wanted // images == epoch] % images
            parts.append(self._of_epoch(epoch)[inside])
        return np.concatenate(parts)

    def batch(self, step: int) -> Batch:
        """Return this process's part of the batch of a step."""
        draws = np.random.default_rng(seed_of(self.seed, "captions", self.name, step)).random(self.batch_size)
        batch = self.data.batch(self.indices(step)[self.part], draws[self.part])
        if not self.crops and not self.flips:
            return batch
        dice = np.random.default_rng(seed_of(self.seed, "augmentation", self.name, step))
        return self._augmented(batch, dice.random((3, self.batch_size))[:, self.part])

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        """Yield the batches of the steps `start` to `stop` - 1, made in a thread while those before are in use."""
        size = max(1, TOGETHER // self.batch_size)
        with ThreadPoolExecutor(max_workers=1) as worker:
            ready: list[Batch] = []
            for first in range(start, stop, size):
                following = worker.submit(self._some, range(first, min(first + size, stop)))
                yield from ready
                ready = following.result()
            yield from ready

    def _some(self, steps: range) -> list[Batch]:
        return [self.batch(step) for step in steps]

    def _of_epoch(self, epoch: int) -> NDArray[np.int64]:
        # Read and written whole: `batches` makes the next batches in another thread.
        known, images = self._epoch
        if epoch != known:
            order = seed_of(self.seed, "order", self.name)
            images = np.random.default_rng([order, epoch]).permutation(len(self.data))
            self._epoch = epoch, images
        return images

    def _augmented(self, batch: Batch, chances: NDArray[np.float64]) -> Batch:
        """Return the batch cropped and flipped by `chances` [3, N] in [0, 1), alike at all sides."""
        smallest = min([self.data.image_size, *batch.smaller])
        margin = smallest // 19 * 3 if self.crops else 0
        tops, lefts = (chances[:2] * (margin + 1)).astype(np.int64)
        flips = [self.flips and chance < 0.5 and not SIDED.search(text)
                 for chance, text in zip(chances[2], batch.captions, strict=True)]  # fmt: skip

        def cut(images: torch.Tensor) -> torch.Tensor:
            times = images.shape[-1] // smallest
            return _cut(images, tops * times, lefts * times, (smallest - margin) * times, flips)

        smaller = [cut(images) for images in batch.smaller.values()]
        return replace(batch, images=cut(batch.images), smaller={images.shape[-1]: images for images in smaller})


def _cut(
    images: torch.Tensor, tops: NDArray[np.int64], lefts: NDArray[np.int64], side: int, flips: list[bool]
) -> torch.Tensor:
    """Return a square of `side` from each image, at its own place, mirrored where `flips` says."""
    pixels = images.numpy()
    cut = np.empty((*pixels.shape[:2], side, side), np.uint8)
    for number, (top, left, flip) in enumerate(zip(tops.tolist(), lefts.tolist(), flips, strict=True)):
        square = pixels[number, :, top : top + side, left : left + side]
        cut[number] = square[:, :, ::-1] if flip else square
    return torch.from_numpy(cut)
