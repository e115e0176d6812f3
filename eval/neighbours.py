"""Scores by nearest neighbours in a judge's features: precision, recall, density, coverage, and copied images."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch

from ..errors import UserError
from .metric import Estimate, checked_rows, on_cpu, share_error

NEIGHBOURS = 5
"""Which neighbour of an image is the edge of its ball."""
AROUND = 50
"""Training images whose mean distance an image's nearest one is compared with."""
EXPECTED = 0.01
"""Share of held-out real images that count as copied."""
HELD_OUT = 99
"""Held-out images that it takes to know where so few of them lie."""
ROWS_A_BLOCK = 256


class Neighbourhoods(NamedTuple):
    """What the balls around images hold; each ball reaches to its image's k-th neighbour of the same set."""

    precision: Estimate
    """Share of generated images inside a ball of a real one; standard error over them, given the real ones."""
    recall: Estimate
    """Share of real images inside a ball of a generated one; no standard error: all depend on the same balls."""
    density: Estimate
    """Number of real images' balls that hold a generated one, over k; its error is as that of precision."""
    coverage: Estimate
    """Share of real images whose ball holds a generated one; no standard error, as for recall."""


def ball_edges(features: torch.Tensor, k: int = NEIGHBOURS) -> torch.Tensor:
    """Return the squared radius of the ball around each of features [N, D], float64 [N]; N must be above `k`."""
    [rows] = _centred(features)
    return _edges(rows, k) + _rounding(rows)


@on_cpu
def neighbourhoods(
    real: torch.Tensor, fake: torch.Tensor, k: int = NEIGHBOURS, real_edges: torch.Tensor | None = None
) -> Neighbourhoods:
    """Return precision, recall, density and coverage of features [M, D] and [N, D], all from exact distances.

    They depend on M and N: compare scores of equal numbers only. A ball holds its edge (`<=`, as in the papers of
    precision and recall; the density and coverage of others use `<`): a copy of one of several equal real images,
    whose ball has no width, is inside. Kynkäänniemi et al. 2019 (arXiv 1904.06991) take k = 3, Naeem et al. 2020
    (2002.09797) k = 5. `ball_edges` of the real images may be given where they are known.

    Raises UserError on k images or fewer, features that differ in number, NaN or infinity.
    """
    real, fake = _centred(real, fake)
    if min(len(real), len(fake)) <= k:
        raise UserError(f"precision and recall need more than {k} images on each side, got {len(real)} and {len(fake)}")
    slack = _rounding(real)
    real_edges, fake_edges = _edges(real, k) + slack if real_edges is None else real_edges, _edges(fake, k) + slack
    holders = torch.zeros(len(fake), dtype=torch.float64)
    recalled, covered = torch.zeros(2, len(real), dtype=torch.float64)
    for rows, distances in _squared_distances(real, fake):
        held = distances <= real_edges[rows, None]
        # No column of a block holds more than this type counts, and it is summed the fastest.
        holders += held.sum(dim=0, dtype=torch.int16)
        covered[rows] = held.any(dim=1).double()
        recalled[rows] = (distances <= fake_edges).any(dim=1).double()
    n, unknown = torch.tensor(len(fake)), torch.tensor(torch.nan, dtype=torch.float64)
    return Neighbourhoods(
        precision=_mean((holders > 0).double(), share_error(len(fake))), recall=Estimate(recalled.mean(), unknown, n),
        density=_mean(holders / k, torch.nan), coverage=Estimate(covered.mean(), unknown, n),
    )  # fmt: skip


class Copied(NamedTuple):
    """How many images a model copied, and where to look."""

    share: Estimate
    """Share of generated images as near to one training image as 1 % of held-out real images are: 0.01 says no more."""
    nearest: torch.Tensor
    """int64 [N], the training image nearest to each generated one."""
    relative: torch.Tensor
    """float64 [N], how near it is, 0 for a copy to 1: its distance over the mean one of the nearest training images."""


@on_cpu
def copied(fake: torch.Tensor, train: torch.Tensor, held_out: torch.Tensor) -> Copied:
    """Return which generated images, features [N, D], lie nearer to one of train [T, D] than held_out [H, D] do.

    Nearness is relative: the distance to the nearest training image over the mean distance to the nearest 50 (Carlini
    et al. 2023, arXiv 2301.13188, section 4.2). A distance by itself, or one over that of the training image to its
    own neighbour (Alaa et al. 2022, arXiv 2102.08921), calls blurred images copies, which lie between all real ones
    and so nearer to each; of those, none stands out. The bound is the 1 % quantile of held_out, which the training
    never saw: a model that copies nothing scores 0.01 on average, and near-duplicates in the data set do not count.

    The standard error is that of a share with two successes and failures added (Agresti & Coull 1998), so that none
    of N is not certain, and of a bound from H images. Raises UserError on fewer than 99 held-out images, fewer than 2
    training images, features that differ in number, NaN or infinity.
    """
    train, fake, held_out = _centred(train, fake, held_out)
    if len(held_out) < HELD_OUT or len(train) < 2 or not len(fake):
        raise UserError(f"copied images need {HELD_OUT} held-out and 2 training images and a generated one, "
                        f"got {len(held_out)}, {len(train)} and {len(fake)}")  # fmt: skip
    # This rule's quantile is exceeded by its share on average, whatever H.
    bound = np.quantile(_nearness(held_out, train)[1].numpy(), EXPECTED, method="weibull")
    nearest, relative = _nearness(fake, train)
    count, n = float((relative <= bound).sum()), len(fake)
    likely = (count + 2) / (n + 4)
    variance = likely * (1 - likely) / (n + 4) + EXPECTED * (1 - EXPECTED) / (len(held_out) + 2)
    value, stderr = torch.tensor([count / n, variance**0.5], dtype=torch.float64)
    return Copied(Estimate(value=value, stderr=stderr, n=torch.tensor(n)), nearest, relative)


def _nearness(images: torch.Tensor, train: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the number of each image's nearest training image, [N], and its relative distance."""
    nearest, relative = torch.zeros(len(images), dtype=torch.int64), images.new_zeros(len(images))
    rounding = _rounding(train)
    for rows, squared in _squared_distances(images, train):
        around = squared.topk(min(AROUND, len(train)), dim=1, largest=False)
        distances = torch.where(around.values <= rounding, 0, around.values).sqrt()
        nearest[rows] = around.indices[:, 0]
        # Where all of them are equal to the image, it is a copy.
        relative[rows] = (distances[:, 0] / distances.mean(dim=1)).nan_to_num(nan=0)
    return nearest, relative


def _centred(first: torch.Tensor, *others: torch.Tensor) -> list[torch.Tensor]:
    """Return features [*, D] in float64 less the mean of `first`, where inner products lose the fewest digits."""
    # One set at a time, so that no more than one lies here twice.
    mean = checked_rows(first, None, "neighbours").mean(dim=0).cpu()
    return [checked_rows(rows, len(mean), "neighbours").cpu().sub(mean) for rows in (first, *others)]


def _squared_distances(a: torch.Tensor, b: torch.Tensor) -> Iterator[tuple[slice, torch.Tensor]]:
    """Yield the squared distances of some rows of a [M, D] to all of b [N, D], as rows and [R, N]."""
    lengths = b.square().sum(dim=1)
    for start in range(0, len(a), ROWS_A_BLOCK):
        some = a[start : start + ROWS_A_BLOCK]
        squared = torch.addmm(lengths, some, b.T, alpha=-2).add_(some.square().sum(dim=1, keepdim=True))
        yield slice(start, start + len(some)), squared.clamp_(min=0)


def _rounding(rows: torch.Tensor) -> float:
    """Return the squared distance below which images are equal: float64 products of float32 features err by less."""
    return 1e-12 * float(rows.square().sum(dim=1).mean())


def _edges(rows: torch.Tensor, k: int) -> torch.Tensor:
    """Return the squared distance of each row to its k-th neighbour but itself, [N]; each pair is computed once."""
    nearest = rows.new_full((len(rows), k), torch.inf)
    for start in range(0, len(rows), ROWS_A_BLOCK):
        [(_, distances)] = _squared_distances(rows[start : start + ROWS_A_BLOCK], rows[start:])
        stop = start + len(distances)
        distances.fill_diagonal_(torch.inf)
        _keep_nearest(nearest[start:stop], distances)
        _keep_nearest(nearest[stop:], distances[:, len(distances) :].T.contiguous())
    return nearest.amax(dim=1)


def _keep_nearest(nearest: torch.Tensor, distances: torch.Tensor) -> None:
    """Keep in nearest [R, K] the smallest of them and of distances [R, N]."""
    k = nearest.shape[1]
    some = distances.topk(min(k, distances.shape[1]), dim=1, largest=False, sorted=False).values
    nearest.copy_(torch.cat([nearest, some], dim=1).topk(k, dim=1, largest=False, sorted=False).values)


def _mean(values: torch.Tensor, if_alike: float) -> Estimate:
    """Return the mean with its standard error, which is `if_alike` where all values are equal."""
    stderr = values.std() / len(values) ** 0.5
    stderr = stderr if stderr else torch.tensor(if_alike, dtype=stderr.dtype)
    return Estimate(value=values.mean(), stderr=stderr, n=torch.tensor(len(values)))
