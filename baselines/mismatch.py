"""Mismatched pairs: which captions of a batch do not belong to which images."""

from typing import Literal

import torch

from ..datasets.captioned import Batch

MismatchBy = Literal["class", "image"]


def pair_groups(batch: Batch, by: MismatchBy) -> torch.Tensor:
    """Return int64 [N] on the images' device: pairs of one group count as matching each other.

    By "class" the group is the label, where the data set has labels. By "image", and without labels,
    only pairs with the same caption are of one group.
    """
    if by == "class" and batch.labels is not None:
        return batch.labels.to(batch.images.device)
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(caption, len(numbers)) for caption in batch.captions]
    return torch.tensor(groups, device=batch.images.device)


def mismatched_order(groups: torch.Tensor) -> torch.Tensor:
    """Return int64 [N] so that groups[order] != groups wherever the batch allows it, else the next pair.

    Pair i takes its partner from i + k for the smallest k >= 1 that is of another group.
    """
    count = len(groups)
    at = torch.arange(count, device=groups.device)
    order = (at + 1) % count
    for offset in range(2, count):
        same = groups[order] == groups
        if not same.any():
            break
        order = torch.where(same, (at + offset) % count, order)
    return torch.where(groups[order] == groups, (at + 1) % count, order)
