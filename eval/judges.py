"""The judge interface: what looks at images and gives the features that scores are computed from."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.captioned import CaptionedDataset
from ..errors import UserError
from .metric import Estimate


@dataclass(frozen=True, kw_only=True)
class Look:
    """What one pass of a judge's network over N images gives, in float32 on the CPU."""

    features: torch.Tensor
    """[N, D], for Fréchet distances."""
    class_probabilities: torch.Tensor | None = None
    """[N, C], rows sum to 1; None where the judge knows no classes."""
    embeddings: torch.Tensor | None = None
    """[N, E] of unit length, comparable with `caption_embeddings`; None where the judge reads no text."""


class Judge(Protocol):
    """A frozen network that looks at images, and may read captions."""

    name: str
    """Stands after the @ in a score's name."""
    id: str
    """Network, digest of the weights, and resize rule: equal ids give equal features."""

    def look(self, images: torch.Tensor) -> Look:
        """Return what the network sees in images uint8 [N, 3, H, W], of any size."""
        ...

    def caption_embeddings(self, captions: Sequence[str]) -> torch.Tensor | None:
        """Return float32 [N, E] of unit length, or None where the judge reads no text."""
        ...


class Comparison(NamedTuple):
    """How much of N captions their images show."""

    values: Mapping[str, NDArray[np.float64]]
    """[N] by metric, the higher the better; NaN where a caption does not ask. A score is the mean of the others."""
    whole: Mapping[str, Estimate]
    """Scores of all images together, which are no means."""


@runtime_checkable
class Reader(Protocol):
    """What puts in words what single images show, to be compared with their captions."""

    name: str
    id: str
    """Equal ids read equally."""
    held_out: Mapping[str, float]
    """What held-out real images score, by metric; empty where it was tried on none."""
    tried_on: int
    """How many those were."""

    def read(self, images: torch.Tensor) -> Any:
        """Return what images uint8 [N, 3, H, W] show, in the reader's own terms."""
        ...

    def compare(self, readings: Any, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Comparison:
        """Compare what N images show with a caption each; `references` are all captions of the real image meant."""
        ...


def at_once(device: torch.device) -> int:
    """Return how many images of some 300 pixels a large network looks at, at a time.

    Few on a processor: activations of more than 32 MB go back to the system after each layer, and to have them back
    takes longer than many a layer.
    """
    return 8 if device.type == "cpu" else 128


@dataclass(frozen=True, kw_only=True)
class Training:
    """What a judge may learn from when it is opened; a pretrained one has no need of it."""

    train: Callable[[], CaptionedDataset]
    """Prepares the data's train split, only when it is called."""
    held_out: Callable[[], CaptionedDataset | None]
    """Real images on which a judge that learns reports its accuracy; None where the data set has none."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Called with the images done and their total while a judge learns."""


@runtime_checkable
class ReadsCaptions(Protocol):
    """A judge whose network might also have chosen the images that it is to score."""

    fingerprint: str
    """That of its token embedding, as of `text_fingerprint`."""


def refuse_own_choice(judges: Sequence[Judge | Reader], ranked_by: Collection[str], where: str) -> None:
    """Raise UserError beginning with `where` if a judge is one of the networks by which images were chosen."""
    for judge in judges:
        if isinstance(judge, ReadsCaptions) and judge.fingerprint in ranked_by:
            raise UserError(
                f"{where}: its images were chosen by the network of judge {judge.name!r} ({judge.fingerprint}), which "
                "cannot score its own choice; take another of --judges"
            )


@runtime_checkable
class ReportsAccuracy(Protocol):
    """A judge that knows how often it is right on real images it never saw."""

    held_out: Mapping[str, float]
    """Shares by what was asked."""


@runtime_checkable
class Cautions(Protocol):
    """A judge whose scores need a word of warning wherever they are shown."""

    caveat: str
