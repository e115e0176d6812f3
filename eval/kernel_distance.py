"""Distances between two sets of images by a kernel: KID and CMMD, over all pairs, with their standard errors."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch.nn.functional import normalize

from ..errors import UserError
from .metric import Estimate, checked_rows

IMAGES = 4
"""Images that a side needs, for the variance among pairs to be known."""
ROWS_A_BLOCK = 512
"""Rows, and columns, of the inner products that are at hand at a time: few enough for the cache of a processor."""

Kernel = Callable[[torch.Tensor], torch.Tensor]
"""Takes inner products to values of the kernel, in their place."""


class Within(NamedTuple):
    """Sums of a kernel over the pairs of one set, those of an image with itself left out."""

    sums: torch.Tensor
    """float64 [N], of each image with the others."""
    squares: float
    """Of all pairs' squares."""


def kid_within(features: torch.Tensor) -> Within:
    """Return what `kernel_distance` needs of the pairs within one set of features [N, D]."""
    rows = checked_rows(features, None, "KID").cpu()
    return _within(rows, _cubic(rows.shape[1]))


def cmmd_within(embeddings: torch.Tensor) -> Within:
    """Return what `cmmd` needs of the pairs within one set of embeddings [N, E]."""
    return _within(normalize(checked_rows(embeddings, None, "CMMD").cpu(), dim=1), _gaussian)


def kernel_distance(real: torch.Tensor, fake: torch.Tensor, known: Within | None = None) -> Estimate:
    """Return KID, the unbiased squared MMD with k(x, y) = (x.y / D + 1)^3, of features [M, D] and [N, D].

    It is over all pairs. The mean over random subsets of the literature estimates the same with more variance, and
    its +- is the spread of one subset, which shrinks with no number of them. A value below 0 is as it should be where
    both laws are equal. The standard error is over both sets, see `_variance`. `known`: `kid_within` of the real
    images, where it is at hand.

    Raises UserError on fewer than 4 images, features that differ in number, NaN or infinity.
    Bińkowski et al. 2018, arXiv 1801.01401.
    """
    real, fake = _checked(real, fake, "KID")
    sums = _sums(real, fake, _cubic(real.shape[1]), known)
    (m, n), (within_real, within_fake, across) = sums.sizes, sums.totals
    value = within_real / (m * (m - 1)) + within_fake / (n * (n - 1)) - 2 * across / (m * n)
    return Estimate(value=value, stderr=_variance(sums).sqrt(), n=torch.tensor(n))


def cmmd(real_embeddings: torch.Tensor, fake_embeddings: torch.Tensor, known: Within | None = None) -> Estimate:
    """Return CMMD, 1000 times the squared MMD with k(x, y) = exp(-|x - y|^2 / 200), of CLIP's embeddings.

    [M, E] and [N, E] are brought to unit length. As in the authors' code an image is paired with itself too, so the
    value is at least 0 and above the truth by some 1000 (1 - k) (1 / M + 1 / N) of the mean k: compare equal numbers.
    The standard error knows nothing of that. `known`: `cmmd_within` of the real images.

    Raises UserError as `kernel_distance`. Jayasumana et al. 2024, arXiv 2401.09603.
    """
    real, fake = _checked(real_embeddings, fake_embeddings, "CMMD")
    sums = _sums(normalize(real, dim=1), normalize(fake, dim=1), _gaussian, known)
    (m, n), (within_real, within_fake, across) = sums.sizes, sums.totals
    value = within_real / m**2 + within_fake / n**2 - 2 * across / (m * n)
    return Estimate(value=1000 * value.clamp(min=0), stderr=1000 * _variance(sums).sqrt(), n=torch.tensor(n))


def _cubic(width: int) -> Kernel:
    return lambda products: products.div_(width).add_(1).pow_(3)


def _gaussian(cosines: torch.Tensor) -> torch.Tensor:
    # Less 1, the kernel's value where both are equal: the pairs of an image with itself add 0, and no digit is lost.
    return cosines.sub_(1).div_(100).expm1_()


def _checked(real: torch.Tensor, fake: torch.Tensor, what: str) -> tuple[torch.Tensor, torch.Tensor]:
    real = checked_rows(real, None, f"{what}, real images").cpu()
    fake = checked_rows(fake, real.shape[1], f"{what}, generated images").cpu()
    if min(len(real), len(fake)) < IMAGES:
        raise UserError(f"{what} needs at least {IMAGES} images on each side, got {len(real)} and {len(fake)}")
    return real, fake


class _Sums(NamedTuple):
    """Sums of the kernel over pairs, those of an image with itself left out."""

    real: torch.Tensor
    """[M], of each real image with the other real ones."""
    fake: torch.Tensor
    """[N], of each generated image with the other generated ones."""
    real_across: torch.Tensor
    """[M], of each real image with the generated ones."""
    fake_across: torch.Tensor
    """[N], of each generated image with the real ones."""
    squares: tuple[float, float, float]
    """Sums of squares: within real, within generated, across."""

    @property
    def sizes(self) -> tuple[int, int]:
        return len(self.real), len(self.fake)

    @property
    def totals(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.real.sum(), self.fake.sum(), self.real_across.sum()


def _sums(real: torch.Tensor, fake: torch.Tensor, kernel: Kernel, known: Within | None) -> _Sums:
    of_real, of_fake = known or _within(real, kernel), _within(fake, kernel)
    real_across, fake_across, squares = real.new_zeros(len(real)), fake.new_zeros(len(fake)), 0.0
    for some in _slices(0, len(real)):
        for others in _slices(0, len(fake)):
            values = kernel(real[some] @ fake[others].T)
            real_across[some] += values.sum(dim=1)
            fake_across[others] += values.sum(dim=0)
            squares += _square_sum(values)
    return _Sums(of_real.sums, of_fake.sums, real_across, fake_across, (of_real.squares, of_fake.squares, squares))


def _within(rows: torch.Tensor, kernel: Kernel) -> Within:
    """Return the sums over pairs of rows [N, D]; each pair is computed once."""
    sums, squares = rows.new_zeros(len(rows)), 0.0
    for some in _slices(0, len(rows)):
        values = kernel(rows[some] @ rows[some].T).fill_diagonal_(0)
        sums[some] += values.sum(dim=1)
        squares += _square_sum(values)
        for others in _slices(some.stop, len(rows)):
            values = kernel(rows[some] @ rows[others].T)
            sums[some] += values.sum(dim=1)
            sums[others] += values.sum(dim=0)
            squares += 2 * _square_sum(values)
    return Within(sums, squares)


def _slices(start: int, stop: int) -> Iterator[slice]:
    for first in range(start, stop, ROWS_A_BLOCK):
        yield slice(first, min(first + ROWS_A_BLOCK, stop))


def _square_sum(values: torch.Tensor) -> float:
    return float(torch.dot(values.view(-1), values.view(-1)))


def _variance(sums: _Sums) -> torch.Tensor:
    """Return an estimate of the variance of the squared MMD over draws of both sets.

    By Hoeffding's decomposition it is 4/M of the variance of what a real image adds by itself, 4/N of that of a
    generated one, and the variances of what pairs add over their numbers, which are all that is left when both laws
    are equal. Those of pairs are unbiased; they are taken off those of single images, which hold a part of them, and
    the difference is kept at 0 at least. Bounliphone et al. 2016 (arXiv 1511.04581) have the first two terms,
    Sutherland & Deka 2019 (arXiv 1906.02104) all for M = N.
    """
    m, n = sums.sizes
    pair_real, pair_fake = _pair_variance(sums.real, sums.squares[0]), _pair_variance(sums.fake, sums.squares[1])
    residue = (sums.squares[2] - sums.real_across.square().sum() / n - sums.fake_across.square().sum() / m
               + sums.totals[2] ** 2 / (m * n))  # fmt: skip
    pair_across = residue.clamp(min=0) / ((m - 1) * (n - 1))
    single_real = (sums.real / (m - 1) - sums.real_across / n).var()
    single_real -= (m - 2) / (m - 1) ** 2 * pair_real + pair_across / n
    single_fake = (sums.fake / (n - 1) - sums.fake_across / m).var()
    single_fake -= (n - 2) / (n - 1) ** 2 * pair_fake + pair_across / m
    pairs = 2 * pair_real / (m * (m - 1)) + 2 * pair_fake / (n * (n - 1)) + 4 * pair_across / (m * n)
    return (4 * single_real / m + 4 * single_fake / n).clamp(min=0) + pairs


def _pair_variance(rows: torch.Tensor, squares: float) -> torch.Tensor:
    """Return the variance of the kernel of two images of a set beyond what each adds by itself.

    Takes the sums of `_within`. The U-centred matrix of Székely & Rizzo 2014 makes it unbiased.
    """
    n = len(rows)
    residue = squares - 2 * rows.square().sum() / (n - 2) + rows.sum() ** 2 / ((n - 1) * (n - 2))
    return residue.clamp(min=0) / (n * (n - 3))
