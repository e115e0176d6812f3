"""The interface of a model: what the suite asks of a text-to-image method, and the few tools every method shares."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.splitmix import STEP, splitmix64
from ..datasets.tokenizers import Tokenizer
from ..errors import UserError

SAMPLE_CHUNK = 32


class Stage(Protocol):
    """One thing that has to be learnt. It owns its networks and its optimisers; the loop owns time.

    The loop seeds PyTorch's global generator before every step from (seed, stage, step), so a step may
    draw its noise as usual and a resumed run still repeats an unbroken one.
    """

    name: str
    share: float
    """This stage's part of the training budget; the shares of a model's stages sum to 1."""
    batch_size: int
    draws: bool
    """Whether the model's `sample` makes sense while this stage learns (then the loop draws sample grids)."""
    averaged: Mapping[str, nn.Module]
    """Networks to average over the steps (EMA, buffers included); may be empty.

    Steps change their parameters and buffers in place; the loop looks them up once.
    """
    ema_kimg: float
    """Half-life of that average, in thousands of images."""

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Learn from one batch; return the losses by name, as numbers or 0-d tensors."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on: nested dicts and lists of tensors and plain numbers."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A stage whose rates or weights follow how much of it is done."""

    total_steps: int
    """Steps of the whole stage; the loop says so before the first."""


@runtime_checkable
class Validates(Protocol):
    """A stage that can say how well it does on images it does not learn from."""

    def validate(self, data: CaptionedDataset) -> Mapping[str, float]:
        """Return losses by name on held-out `data`, changing nothing."""
        ...


class TextToImage(Protocol):
    """A text-to-image method. Outsiders implement this and inherit nothing.

    It is made by calling it with its config; the device is PyTorch's default device at that moment.
    """

    config: Any
    """A frozen dataclass; it has a field `image_size`."""

    def networks(self) -> Mapping[str, nn.Module]:
        """Return the networks by the names of the paper; together they are what is saved, loaded and counted."""
        ...

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return what has to be learnt from `data`, in order."""
        ...

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, uint8 [N, 3, H, W]; on the CPU image i depends on caption i and seed i alone."""
        ...


@runtime_checkable
class DrawsOne(Protocol):
    """A model whose drawing can be counted in FLOPs."""

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image, on blank input; works on the meta device."""
        ...


@runtime_checkable
class DrawsUnconditionally(Protocol):
    """A model that can draw images of no caption."""

    def sample_unconditional(self, n: int, *, seeds: Sequence[int]) -> torch.Tensor:
        """Return `n` images, uint8 [N, 3, H, W]; on the CPU image i depends on seed i alone."""
        ...


@runtime_checkable
class Completes(Protocol):
    """A model that goes on with a given image."""

    def complete(
        self, captions: Sequence[str], images: torch.Tensor, keep_rows: int, keep_columns: int = 0, *,
        seeds: Sequence[int],
    ) -> torch.Tensor:  # fmt: skip
        """Return one image a caption, uint8 [N, 3, H, W], that goes on with `images`, uint8 of that shape.

        The top `keep_rows` rows of pixels and the left `keep_columns` columns are given, and nothing else is looked at.
        """
        ...


@runtime_checkable
class Tokenizes(Protocol):
    """A model that reads captions through tokenizers, which are kept with the run as `tokenizers.json`."""

    tokenizers: dict[str, Tokenizer]
    """By name. What the model makes from its config alone is there from the start; what is learned from the
    captions `stages(data)` adds, unless it is there already: a run that goes on, and one that draws, put the saved
    ones into this very dict before the weights are loaded."""


def check_adam_betas(name: str, betas: tuple[float, float]) -> None:
    """Raise UserError for moments of Adam, of the setting `name`, that are no numbers from 0 to below 1."""
    if not all(0 <= beta < 1 for beta in betas):
        raise UserError(f"{name}={list(betas)}: expected two numbers from 0 to below 1")


def optimiser_step(optimiser: torch.optim.Optimizer, loss: torch.Tensor, *, clip_norm: float | None = None) -> None:
    """Take one optimiser step on `loss`: gradients cleared, computed, clipped to `clip_norm`, applied.

    Every step of every model passes here, so that precision, clipping and distribution stand in one place.
    """
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    gradients = torch.autograd.grad(loss.float(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    if clip_norm is not None:
        nn.utils.clip_grad_norm_(parameters, clip_norm)
    optimiser.step()


def from_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return images uint8 [0, 255] as float32 [-1, 1]."""
    return images.float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> torch.Tensor:
    """Return images float [-1, 1] as uint8 on the CPU, rounded to the nearest: the one quantiser of the suite."""
    return (images.float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).cpu()


def seeded_normal(seeds: Sequence[int], width: int) -> torch.Tensor:
    """Return float32 [N, width] standard normals whose row i is a function of seed i alone.

    A counter-based generator (splitmix64 and Box-Muller) fills all rows at once.
    """
    uniforms = seeded_uniform(seeds, 2 * width)
    radius, angle = uniforms[:, :width], uniforms[:, width:]
    return torch.from_numpy((np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle)).astype(np.float32))


def seeded_uniform(seeds: Sequence[int], width: int) -> NDArray[np.float64]:
    """Return float64 [N, width] in (0, 1) whose row i is a function of seed i (any int) alone."""
    keys = np.array([seed & 0xFFFFFFFFFFFFFFFF for seed in seeds], dtype=np.uint64)
    counters = np.arange(1, width + 1, dtype=np.uint64) * STEP
    mixed = splitmix64(splitmix64(keys)[:, None] + counters[None])
    uniforms: NDArray[np.float64] = ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) / 2.0**53
    return uniforms


@torch.no_grad()
def sample_in_chunks(
    draw: Callable[[Sequence[str], Sequence[int]], torch.Tensor],
    captions: Sequence[str],
    seeds: Sequence[int],
    chunk: int = SAMPLE_CHUNK,
) -> torch.Tensor:
    """Draw images float [-1, 1] by `draw(captions, seeds)`, always `chunk` at a time; return uint8 [N, 3, H, W].

    The last chunk is filled up with empty captions: kernels may round differently for another batch
    size, so a constant one makes every pixel independent of how many images were asked for.
    """
    if len(captions) != len(seeds):
        raise ValueError(f"one seed a caption: {len(captions)} captions and {len(seeds)} seeds came")
    images = []
    for start in range(0, len(captions), chunk):
        some, some_seeds = list(captions[start : start + chunk]), list(seeds[start : start + chunk])
        padding = chunk - len(some)
        drawn = draw(some + [""] * padding, some_seeds + [0] * padding)
        images.append(to_uint8(drawn[: len(some)]))
    return torch.cat(images)
