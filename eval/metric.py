"""What the metrics share: states that stay in float64, and a value with its standard error."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torchmetrics import Metric

from ..errors import UserError
from ..reports.uncertainty import Z, clustered_mean, wilson_interval

P = ParamSpec("P")
T = TypeVar("T")


class Estimate(NamedTuple):
    """A mean over images with its standard error; scalars, float64 but for `n`."""

    value: torch.Tensor
    stderr: torch.Tensor
    """NaN where there is one observation only."""
    n: torch.Tensor
    """int64: number of images scored."""


def on_cpu(function: Callable[P, T]) -> Callable[P, T]:
    """Return the function with new tensors on the CPU, where features are, whatever PyTorch's default device is."""

    @functools.wraps(function)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return wrapped


def mean_of(values: NDArray[np.float64], clusters: Sequence[str]) -> Estimate:
    """Return the mean of values [N] that are not NaN, with its standard error over `clusters`, [N] names.

    Where all are 0, or all are 1, the error is as of `share_error`.
    """
    asked = ~np.isnan(values)
    own = [cluster for cluster, counts in zip(clusters, asked, strict=True) if counts]
    stderr = float(clustered_mean(values[asked], own).stderr) if len(set(own)) > 1 else np.nan
    mean = float(values[asked].mean())
    if stderr == 0 and mean in (0, 1):
        stderr = share_error(len(set(own)))
    value = torch.tensor(mean, dtype=torch.float64)
    return Estimate(value=value, stderr=torch.tensor(stderr, dtype=torch.float64), n=torch.tensor(int(asked.sum())))


def share_error(n: int) -> float:
    """Return the standard error of a share that none, or all, of n have, so that none of n leaves a doubt.

    1.96 of them reach from the share to the other end of Wilson's 95 % interval.
    """
    low, high = wilson_interval(0, n)
    return float(high - low) / Z


class ExactMetric(Metric):
    """A metric whose states follow it to another device, but never to another precision.

    `torchmetrics` guards the states against `.half()` and its kin, but not against `.to(torch.float32)` or
    `set_dtype`; sums over thousands of images must not lose their digits by any of them.
    """

    is_differentiable = False
    full_state_update = False

    def _apply(
        self, fn: Callable[[torch.Tensor], torch.Tensor], exclude_state: Sequence[str] = ""
    ) -> torch.nn.Module:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(fn(tensor.new_empty(0)).device)

        return super()._apply(move, exclude_state)


def checked_rows(rows: torch.Tensor, width: int | None, what: str) -> torch.Tensor:
    """Return rows [N, D] in float64; raise UserError unless the shape fits and all values are finite.

    `width` is the D expected, or None for any; `what` names the rows in the error.
    """
    if rows.ndim != 2 or (width is not None and rows.shape[1] != width):
        expected = "[N, D]" if width is None else f"[N, {width}]"
        raise UserError(f"{what}: expected shape {expected}, got {list(rows.shape)}")
    bad = int((~torch.isfinite(rows).all(dim=1)).sum())
    if bad:
        raise UserError(f"{what}: {bad} of {len(rows)} images give NaN or infinity; check images and weights")
    return rows.detach().to(torch.float64)
