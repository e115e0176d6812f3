"""The Fréchet distance between two sets of images, from the float64 moments of their features."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..errors import UserError
from ..files import whole_file
from .metric import ExactMetric, checked_rows


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
        return cls(n=len(rows), total=rows.sum(dim=0), outer=rows.T @ rows)

    def __add__(self, other: "FeatureMoments") -> "FeatureMoments":
        total, outer = self.total + other.total, self.outer + other.outer
        return FeatureMoments(n=self.n + other.n, total=total, outer=outer)

    @property
    def mean(self) -> torch.Tensor:
        """The mean feature, [D]."""
        return self.total / self.n

    @property
    def covariance(self) -> torch.Tensor:
        """The unbiased covariance (divided by n - 1), [D, D], exactly symmetric."""
        scatter = self.outer - torch.outer(self.total, self.total) / self.n
        covariance: torch.Tensor = (scatter + scatter.T) / (2 * (self.n - 1))
        return covariance


def frechet_distance(a: FeatureMoments, b: FeatureMoments) -> float:
    """Return |mean_a - mean_b|^2 + tr(A) + tr(B) - 2 tr((AB)^(1/2)) for covariances A and B; at least 0.

    With A = F F^T and B = G G^T the last trace is the sum of the singular values of F^T G (the trace of the
    root of F^T B F), so no root of an unsymmetric product is ever taken, and sets of fewer images than
    features are as exact as others. Their upward bias (about 1/n, differently for each model: Chong & Forsyth
    2020, arXiv 1911.07023) is no matter of numerics and stays.

    Raises UserError when a side has fewer than 2 images or the features differ in number.
    Heusel et al. 2017, arXiv 1706.08500, equation 6; Dowson & Landau 1982.
    """
    if a.total.shape != b.total.shape:
        raise UserError(f"FID: {len(a.total)} features cannot be compared with {len(b.total)}; use one judge")
    if min(a.n, b.n) < 2:
        raise UserError(f"FID needs at least 2 images on each side, got {a.n} and {b.n}")
    shift = (a.mean - b.mean).square().sum()
    factor_a, factor_b = _covariance_factor(a), _covariance_factor(b)
    overlap = torch.linalg.svdvals(factor_a.T @ factor_b).sum()
    distance = shift + factor_a.square().sum() + factor_b.square().sum() - 2 * overlap
    return max(float(distance), 0.0)


def _covariance_factor(moments: FeatureMoments) -> torch.Tensor:
    """Return F [D, R] with F F^T the covariance and R = min(D, n - 1), the most that its rank can be.

    The eigenvalues beyond R are rounding noise of 1e-16, but their roots of 1e-8 would add up.
    """
    values, vectors = torch.linalg.eigh(moments.covariance)
    rank = min(len(values), moments.n - 1)
    factor: torch.Tensor = vectors[:, -rank:] * values[-rank:].clamp(min=0).sqrt()
    return factor


def save_moments(path: Path, moments: FeatureMoments) -> None:
    """Write moments as an .npz file that `load_moments` reads, whole or not at all."""
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, n=np.int64(moments.n), total=moments.total.numpy(), outer=moments.outer.numpy())


def load_moments(path: Path) -> FeatureMoments:
    """Return the moments in an .npz file; raise UserError when it is missing, malformed or not finite."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            n, total, outer = arrays["n"], arrays["total"], arrays["outer"]
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: no feature moments in it; remove it and score again ({error})") from error
    well_formed = (
        n.shape == () and n.dtype == np.int64 and n >= 1
        and total.ndim == 1 and outer.shape == (len(total), len(total))
        and total.dtype == outer.dtype == np.float64
        and bool(np.isfinite(total).all() and np.isfinite(outer).all())
    )
    if not well_formed:
        raise UserError(f"{path}: feature moments of a wrong shape or not finite; remove it, score again")
    return FeatureMoments(n=int(n), total=torch.from_numpy(total), outer=torch.from_numpy(outer))


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
