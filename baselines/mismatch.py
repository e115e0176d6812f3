"""Mismatched pairs: which captions of a batch do not belong to which images."""

from collections.abc import Sequence
from typing import Literal

import torch

from ..datasets.captioned import Batch

MismatchBy = Literal["class", "image"]


def matching_pairs(batch: Batch, by: MismatchBy) -> torch.Tensor:
    """Return bool [N, N], on the images' device: whether caption j belongs to image i as well as its own does.

    By "class" that is so for equal labels, where the data set has labels. By "image", and without labels, for
    equal captions and for two captions of one image.
    """
    device = batch.images.device
    if by == "class" and batch.labels is not None:
        return _equal(batch.labels.to(device))
    return _equal(_numbers(batch.captions).to(device)) | _equal(_numbers(batch.ids).to(device))


def mismatched_order(matching: torch.Tensor) -> torch.Tensor:
    """Return int64 [N]: a partner for each pair that does not match it, wherever the batch has one, else the next.

    Pair i takes i + k for the smallest k >= 1 that `matching` (bool [N, N]) does not mark.
    """
    count = len(matching)
    at = torch.arange(count, device=matching.device)
    following = (at[:, None] + at[None]) % count
    marked = matching.gather(1, following)
    marked[:, 0] = True
    first = (~marked).int().argmax(1)
    return (at + first.where(~marked.all(1), torch.ones_like(first))) % count


def _equal(numbers: torch.Tensor) -> torch.Tensor:
    return numbers[:, None] == numbers[None]


def _numbers(values: Sequence[str]) -> torch.Tensor:
    seen: dict[str, int] = {}
    return torch.tensor([seen.setdefault(value, len(seen)) for value in values])
