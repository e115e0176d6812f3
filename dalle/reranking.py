"""The best of many candidates of a caption, chosen by CLIP (Ramesh et al. 2021, arXiv:2102.12092, section 2.6)."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import torch

from .image_prompt import ImagePrompt


@runtime_checkable
class Reranks(Protocol):
    """A model that draws many candidates of a caption and says which fit it best."""

    def candidates(
        self, caption: str, seeds: Sequence[int], given: ImagePrompt | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield images uint8 [n, 3, H, W], one a seed, in parts; candidate k depends on seed k alone."""
        ...

    def rank(self, captions: Sequence[str], images: torch.Tensor) -> torch.Tensor:
        """Return float32 [N]: how well each image fits its caption, more being better."""
        ...

    def ranked_by(self) -> str:
        """Return the fingerprint of the network that ranks, as of `text_fingerprint`: it must not judge its choice."""
        ...


class Best(NamedTuple):
    """The chosen, best first: `images` uint8 [K, 3, H, W], `scores` float32 [K], `numbers` int64 [K] among all."""

    images: torch.Tensor
    scores: torch.Tensor
    numbers: torch.Tensor


def best_of(
    model: Reranks, caption: str, seeds: Sequence[int], keep: int, *, given: ImagePrompt | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Best:  # fmt: skip
    """Return the `keep` candidates that score best among one a seed; of equal scores the first drawn.

    Parts are drawn and scored one after another, and only the best are held. `progress` hears how many are done.
    """
    best = None
    done = 0
    for images in model.candidates(caption, seeds, given):
        numbers = torch.arange(done, done + len(images))
        part = Best(images, model.rank([caption] * len(images), images), numbers)
        both = part if best is None else Best(*(torch.cat(parts) for parts in zip(best, part, strict=True)))
        order = both.scores.argsort(descending=True, stable=True)[:keep]
        best = Best(*(column[order] for column in both))
        done += len(images)
        progress(done)
    if best is None:
        raise ValueError("best_of: expected one seed or more")
    return best
