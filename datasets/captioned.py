"""The captioned-data interface: what a model sees (`CaptionedDataset`) and what a data set supplies (`Source`)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Captioned images: `images` uint8 [N, 3, H, W] RGB, one caption, label and id an image."""

    images: torch.Tensor
    captions: list[str]
    ids: list[str]
    labels: torch.Tensor | None = None
    """int64 [N], or None where the data set has no classes."""
    smaller: Mapping[int, torch.Tensor] = field(default_factory=dict)
    """The same images at the smaller sides that were prepared with them, uint8 [N, 3, side, side]."""
    embeddings: torch.Tensor | None = None
    """float32 [N, D]: the publisher's embedding of each caption, where the data set brings them."""

    def __len__(self) -> int:
        return len(self.captions)

    def to(self, device: torch.device) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return Batch(
            images=self.images.to(device), captions=self.captions, ids=self.ids,
            labels=None if self.labels is None else self.labels.to(device),
            smaller={side: images.to(device) for side, images in self.smaller.items()},
            embeddings=None if self.embeddings is None else self.embeddings.to(device),
        )  # fmt: skip


class CaptionedDataset(Protocol):
    """One split of a data set, ready to train on: random access, nothing decoded on the way."""

    name: str
    split: str
    image_size: int
    digest: str
    """sha256 of the pixels, captions and labels: equal digests mean equal data."""
    class_names: tuple[str, ...]
    """What the labels mean; empty where there are none."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int] | NDArray[np.int64], draws: NDArray[np.float64] | None = None) -> Batch:
        """Return the images at `indices`, each with one of its captions: by `draws`, [N] in [0, 1), or the first."""
        ...

    def captions(self, index: int) -> list[str]:
        """Return all captions of one image; their number varies and may be 0."""
        ...

    def scene(self, index: int) -> dict[str, Any] | None:
        """Return the ground truth of one image, or None where the source has none."""
        ...


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Some consecutive images of a source: `images` uint8 [N, 3, H, W]; the lists have length N."""

    images: NDArray[np.uint8]
    captions: list[list[str]]
    ids: list[str]
    labels: list[int] = field(default_factory=list)
    scenes: list[dict[str, Any]] = field(default_factory=list)
    embeddings: NDArray[np.float32] | None = None
    """float32 [number of captions in the chunk, D]: the publisher's embeddings of them, in order."""


@runtime_checkable
class Source(Protocol):
    """A data set as it is found: in files, in packages, or drawn. Prepared once into a store."""

    name: str
    splits: tuple[str, ...]
    class_names: tuple[str, ...]

    def size(self, split: str) -> int:
        """Return how many images the split has."""
        ...

    def fingerprint(self, split: str) -> str:
        """Return a digest that changes whenever the images or captions of the split may have changed."""
        ...

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split from image `start` on, in order, as squares of `image_size`; raise UserError on bad input."""
        ...


@runtime_checkable
class Published(Protocol):
    """A `Source` that says what its publisher ships, so that a part of it is not taken for the whole."""

    expected: Mapping[str, int]
    """How many images each split has as published."""
    zero_shot: bool
    """Whether no class of one split occurs in another; `data check` calls it a leak when one does."""


@runtime_checkable
class Salvageable(Protocol):
    """A `Source` whose images may be broken one by one, so that a check can name all of them at once."""

    def salvaged(self) -> tuple[Source, list[str]]:
        """Return the source without its unreadable images, and one line on each of those."""
        ...


@runtime_checkable
class Skipping(Protocol):
    """A `Source` that leaves out what is no captioned image, such as the dead links of a crawl."""

    skipped: Mapping[str, int]
    """How many samples each split left out."""
