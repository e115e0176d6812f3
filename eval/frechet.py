"""The Fréchet distance between two sets of images, from the float64 moments of their features."""

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.linalg.lapack import dsygst

from ..errors import UserError
from .metric import Estimate, ExactMetric, checked_rows

SIZES = 15
"""Numbers of images between which the distance is extrapolated."""
IMAGES_A_FEATURE = 4
"""Images a feature that the extrapolation needs: with half of that it errs by a fourth of the bias."""
ROUNDING = 1e-8
"""Share of an overlap that rounding may cost at worst; what it does cost is a thousandth of that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureMoments:
    """All that a Fréchet distance needs of a set of images: float64 sums over features [N, D], on the CPU.

    Sums of parts add up to the sums of the whole, in any order and on any number of machines. Cancellation
    costs about 1e-16 * (mean / standard deviation)^2 of the variance: nothing for a network's features.
    """

    n: int
    total: torch.Tensor
    """[D], the sum of the features."""
    outer: torch.Tensor
    """[D, D], the sum of the features' outer products."""

    @classmethod
    def from_features(cls, features: torch.Tensor) -> "FeatureMoments":
        """Return the moments of features [N, D] of any float type; raise UserError on NaN or infinity."""
        rows = checked_rows(features, None, "features").cpu()
        made = cls(n=len(rows), total=rows.sum(dim=0), outer=rows.T @ rows)
        if 1 < len(rows) <= rows.shape[1]:
            # Of so few images the features themselves are a factor; found from the covariance it would take seconds.
            vars(made)["factor"] = centred(rows).T
        return made

    def __add__(self, other: "FeatureMoments") -> "FeatureMoments":
        total, outer = self.total + other.total, self.outer + other.outer
        return FeatureMoments(n=self.n + other.n, total=total, outer=outer)

    @property
    def mean(self) -> torch.Tensor:
        """The mean feature, [D]."""
        return self.total / self.n

    @functools.cached_property
    def covariance(self) -> torch.Tensor:
        """The unbiased covariance (divided by n - 1), [D, D], exactly symmetric."""
        scatter = self.outer - torch.outer(self.total, self.total) / self.n
        covariance: torch.Tensor = (scatter + scatter.T) / (2 * (self.n - 1))
        return covariance

    @property
    def trace(self) -> float:
        """The trace of the covariance, without the rest of it."""
        return float(self.outer.trace() - self.total.square().sum() / self.n) / (self.n - 1)

    @property
    def rank(self) -> int:
        """The most that the rank of the covariance can be."""
        return min(len(self.total), self.n - 1)

    @functools.cached_property
    def factor(self) -> torch.Tensor:
        """F [D, R] with F F^T the covariance, lower triangular or of `rank` columns, or one more."""
        covariance = self.covariance
        if self.rank == len(covariance):
            factor: torch.Tensor
            factor, failed = torch.linalg.cholesky_ex(covariance)
            if not failed:
                return factor
        # The eigenvalues beyond the rank are rounding noise of 1e-16, but their roots of 1e-8 would add up.
        values, vectors = torch.linalg.eigh(covariance)
        factor = vectors[:, -self.rank :] * values[-self.rank :].clamp(min=0).sqrt()
        return factor


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((AB)^(1/2)) for covariances A and B; at least 0.

    With A = F F^T and B = G G^T the last trace is the sum of the singular values of F^T G, so no root of an
    unsymmetric product is ever taken, and sets of fewer images than features are as exact as others. Their
    upward bias (about 1/n, differently for each model: Chong & Forsyth 2020, arXiv 1911.07023) is no matter of
    numerics and stays: `fid_infinity`. The factor F of `a` is kept for the next distance from it.

    Raises UserError when a side has fewer than 2 images or the features differ in number.
    Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson & Landau 1982.
    """
    _check_sides(a, b.n, len(b.total))
    factor, covariance = a.factor, b.covariance
    overlap = _sum_of_singular_values(
        _between(factor, covariance), min(a.rank, b.rank), lambda: factor.T @ b.factor)
    return _distance(a, b.mean, b.trace, overlap)


def frechet_distance_of_features(reference: FeatureMoments, features: torch.Tensor) -> float:
    """Return `frechet_distance` between a reference and features [N, D]; the faster, the fewer they are.

    Raises UserError as that does, and on NaN or infinity.
    """
    rows = checked_rows(features, None, "FID").cpu()
    _check_sides(reference, *rows.shape)
    if len(rows) > rows.shape[1]:
        return frechet_distance(reference, FeatureMoments.from_features(rows))
    factor = centred(rows)
    if "factor" in vars(reference):
        across = factor @ reference.factor
        square = across @ across.T
    else:
        square = factor @ reference.covariance @ factor.T
    overlap = _sum_of_singular_values(
        square, min(reference.rank, len(rows) - 1), lambda: factor @ reference.factor)
    return _distance(reference, rows.mean(dim=0), float(factor.square().sum()), overlap)


def centred(rows: torch.Tensor) -> torch.Tensor:
    """Return features [N, D] less their mean, over (N - 1)^(1/2): X with X^T X their covariance."""
    factor: torch.Tensor = (rows - rows.mean(dim=0)) / (len(rows) - 1) ** 0.5
    return factor


def fid_infinity(real: FeatureMoments, fake: torch.Tensor, seed: int) -> Estimate:
    """Return the distance that endlessly many generated images would have, from features [N, D].

    The distances of the first n of the shuffled images, for `SIZES` sizes n evenly from N / 10 to N, are fitted by a
    line in 1/n; its intercept is the value, which may be just below 0. Sets of fewer images than twice the features
    would bend the line, and are not taken: a change only to N below 20 D. The reference is taken as it is.
    No standard error: the sizes share their images. Chong & Forsyth 2020, arXiv 1911.07023, section 4.

    Raises UserError on fewer than `IMAGES_A_FEATURE` images a feature, NaN or infinity.
    """
    rows = checked_rows(fake, len(real.total), "FID extrapolated")
    n, width = rows.shape
    if n < IMAGES_A_FEATURE * width:
        raise UserError(f"FID extrapolated needs {IMAGES_A_FEATURE} images for each of {width} features, "
                        f"{IMAGES_A_FEATURE * width} in all, got {n}; generate more or take KID")  # fmt: skip
    rows = rows[torch.from_numpy(np.random.default_rng(seed).permutation(n))]
    sizes = np.linspace(max(n / 10, IMAGES_A_FEATURE * width / 2), n, SIZES).round().astype(int)
    # One at a time: the moments of 2,048 features take 34 MB.
    parts = map(FeatureMoments.from_features, rows.tensor_split(sizes[:-1].tolist()))
    distances = [frechet_distance(real, some) for some in itertools.accumulate(parts)]
    intercept = np.polynomial.Polynomial.fit(1 / sizes, distances, 1)(0.0)
    value, stderr = torch.tensor([intercept, torch.nan], dtype=torch.float64)
    return Estimate(value=value, stderr=stderr, n=torch.tensor(n))


def _check_sides(a: FeatureMoments, n: int, width: int) -> None:
    if len(a.total) != width:
        raise UserError(f"FID: {len(a.total)} features cannot be compared with {width}; use one judge")
    if min(a.n, n) < 2:
        raise UserError(f"FID needs at least 2 images on each side, got {a.n} and {n}")


def _distance(a: FeatureMoments, mean: torch.Tensor, trace: float, overlap: float) -> float:
    shift = float((a.mean - mean).square().sum())
    return max(shift + a.trace + trace - 2 * overlap, 0.0)


def _between(factor: torch.Tensor, covariance: torch.Tensor) -> torch.Tensor:
    """Return F^T B F of a factor F [D, R], its lower triangle at least."""
    if factor.shape[0] > factor.shape[1] or factor.triu(1).any():
        return factor.T @ covariance @ factor
    # For a triangular F LAPACK's reduction takes a quarter of the work of two products.
    reduced, _ = dsygst(covariance.numpy().T, factor.numpy().T, itype=2, lower=0)
    return torch.from_numpy(reduced.T)


def _sum_of_singular_values(square: torch.Tensor, rank: int, matrix: Callable[[], torch.Tensor]) -> float:
    """Return the sum of the singular values of a matrix M from the lower triangle of M^T M, of at most `rank`.

    The roots of the eigenvalues cost a quarter of the singular values' time, but rounding moves an eigenvalue by
    some 1e-16 of the largest one, and the root of a small one by far more. Only where that could show is M asked for.
    """
    values = torch.linalg.eigvalsh(square)[-rank:].clamp(min=0)
    roots = values.sqrt()
    rounding = 4 * torch.finfo(torch.float64).eps * values[-1]
    lost = torch.minimum(rounding.sqrt(), rounding / (2 * roots)).nan_to_num(nan=0).sum()
    if lost > ROUNDING * roots.sum():
        roots = torch.linalg.svdvals(matrix())
    return float(roots.sum())


class FID(ExactMetric):
    """Fréchet distance between the features of real and generated images, streaming, summed over processes.

    `update(features, real)`; `compute()` returns a float64 scalar. It has no standard error:
    resampling images moves its bias more than it shows its spread; report the spread over training seeds.
    """

    higher_is_better = False

    real_n: torch.Tensor
    real_total: torch.Tensor
    real_outer: torch.Tensor
    fake_n: torch.Tensor
    fake_total: torch.Tensor
    fake_outer: torch.Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_features = num_features
        for side in ("real", "fake"):
            zeros = torch.zeros(num_features, num_features, dtype=torch.float64)
            self.add_state(f"{side}_n", torch.tensor(0), dist_reduce_fx="sum")
            self.add_state(f"{side}_total", zeros[0].clone(), dist_reduce_fx="sum")
            self.add_state(f"{side}_outer", zeros, dist_reduce_fx="sum")

    def update(self, features: torch.Tensor, real: bool) -> None:
        """Add images by their features [N, D]; raise UserError on another D, NaN or infinity."""
        rows = checked_rows(features, self.num_features, "FID").to(self.device)
        self._add(real, len(rows), rows.sum(dim=0), rows.T @ rows)

    def include(self, moments: FeatureMoments, real: bool) -> None:
        """Add images by their moments, as kept from an earlier pass; raise UserError on another D."""
        if len(moments.total) != self.num_features:
            raise UserError(f"FID: expected {self.num_features} features, got {len(moments.total)}")
        self._add(real, moments.n, moments.total.to(self.device), moments.outer.to(self.device))

    def _add(self, real: bool, n: int, total: torch.Tensor, outer: torch.Tensor) -> None:
        if real:
            self.real_n, self.real_total, self.real_outer = (
                self.real_n + n, self.real_total + total, self.real_outer + outer)
        else:
            self.fake_n, self.fake_total, self.fake_outer = (
                self.fake_n + n, self.fake_total + total, self.fake_outer + outer)

    def compute(self) -> torch.Tensor:
        """Return the distance; raise UserError when a side has fewer than 2 images."""
        real = FeatureMoments(n=int(self.real_n), total=self.real_total.cpu(), outer=self.real_outer.cpu())
        fake = FeatureMoments(n=int(self.fake_n), total=self.fake_total.cpu(), outer=self.fake_outer.cpu())
        return torch.tensor(frechet_distance(real, fake), dtype=torch.float64)
