"""What an image tokenizer is: images to grids of codes and back; where codes stand, how many are in use, one stage.

Kinds of it are in `dvae`, `vqvae2` and `fsq`; `tokenizers_of_images` chooses among them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from ..baselines.interface import check_adam_betas, optimiser_step, to_uint8
from ..datasets.captioned import Batch
from ..errors import UserError
from .schedule import cosine

CHUNK = 64
CHUNK_PIXELS = CHUNK * 64 * 64
COLLAPSED = 0.1
"""Under this share of codes in use a codebook is said to have collapsed."""


class ImageTokenizer(Protocol):
    """Images to codes and back; the stream of an image's codes goes level after level, each in raster order."""

    num_codes: int
    """Every code is from 0 to below this, on every level."""
    image_size: int
    """Side of whole images."""
    grids: tuple[int, ...]
    """Side of each level's grid of codes, the coarsest first."""

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return codes int64 [N, T] of images uint8 [N, 3, H, W].

        H and W are multiples of the coarsest cell up to `image_size`: a part of an image is encoded by itself.
        """
        ...

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return whole images uint8 [N, 3, S, S] of codes int64 [N, T]."""
        ...


@runtime_checkable
class DrawsByCodes(Protocol):
    """A model that draws by way of codes."""

    def image_tokenizer(self) -> ImageTokenizer:
        """Return what turns images into codes and back."""
        ...


class GridTokenizer(nn.Module):
    """An `ImageTokenizer` made of a network, which runs over equal chunks: no image depends on how many come with it.

    A kind of it says what its network does, in `codes_of` and `images_of`. `radices` says of codes that are made of
    digits how many values each digit has, the first one the fastest; other codes are one digit.
    """

    def __init__(
        self, *, image_size: int, num_codes: int, grids: tuple[int, ...], radices: tuple[int, ...] | None = None
    ) -> None:
        super().__init__()
        self.image_size, self.num_codes, self.grids = image_size, num_codes, grids
        self.radices = radices or (num_codes,)

    def codes_of(self, images: torch.Tensor) -> torch.Tensor:
        """Return codes int64 [N, T] of images uint8 [N, 3, H, W]."""
        raise NotImplementedError

    def images_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Return images float [N, 3, S, S], [-1, 1] and beyond, of codes int64 [N, T]."""
        raise NotImplementedError

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return next(self.parameters()).device

    @torch.no_grad()
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Return codes int64 [N, T], on the network's device, of images uint8 [N, 3, H, W] or parts of some."""
        _check_images(self, images)
        self.eval()
        return _in_chunks(self.codes_of, images, self.device, images.shape[2] * images.shape[3])

    @torch.no_grad()
    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Return whole images uint8 [N, 3, S, S], on the CPU, of codes int64 [N, T]."""
        length = sum(side * side for side in self.grids)
        if codes.ndim != 2 or codes.shape[1] != length:
            raise ValueError(f"expected codes [N, {length}], got {list(codes.shape)}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.num_codes:
            raise ValueError(f"expected codes from 0 to {self.num_codes - 1}")
        return _in_chunks(lambda some: to_uint8(self.images_of(some)), codes, self.device, self.image_size**2)


def _check_images(tokenizer: ImageTokenizer, images: torch.Tensor) -> None:
    cell, size = patch(tokenizer), tokenizer.image_size
    plain = images.dtype == torch.uint8 and images.ndim == 4 and images.shape[1] == 3
    if not plain or any(side % cell or not 0 < side <= size for side in images.shape[2:]):
        raise ValueError(
            f"expected images uint8 [N, 3, H, W], H and W multiples of {cell} up to {size}, got {images.dtype} "
            f"{list(images.shape)}"
        )


def _in_chunks(
    run: Callable[[torch.Tensor], torch.Tensor], rows: torch.Tensor, device: torch.device, pixels: int
) -> torch.Tensor:
    """Return `run` of all rows, so many at a time as images of so many `pixels` allow.

    The last chunk is filled up: kernels may round differently for another number of rows.
    """
    chunk = max(1, min(CHUNK, CHUNK_PIXELS // pixels))
    if not len(rows):
        return run(rows.new_zeros(1, *rows.shape[1:]).to(device))[:0]
    parts = []
    # Codes hang on small differences: they are the same while a transformer learns in bfloat16.
    with torch.autocast(device.type, enabled=False):
        for some in torch.split(rows, chunk):
            padding = some.new_zeros(chunk - len(some), *some.shape[1:])
            parts.append(run(torch.cat([some, padding]).to(device))[: len(some)])
    return torch.cat(parts)


def patch(tokenizer: ImageTokenizer) -> int:
    """Return the side in pixels of the coarsest cell: parts of images are cut at its multiples."""
    return tokenizer.image_size // tokenizer.grids[0]


def positions_within(tokenizer: ImageTokenizer, top: int, left: int, height: int, width: int) -> torch.Tensor:
    """Return int64 [k] on the CPU: where the codes of a box of pixels stand in the stream of the whole image.

    They come in the order in which `encode` returns the codes of the box when it is cut out. Raises UserError
    unless the box is cut at multiples of the coarsest cell, within the image.
    """
    cell, size = patch(tokenizer), tokenizer.image_size
    if any(edge % cell for edge in (top, left, height, width)):
        raise UserError(
            f"box at row {top}, column {left} of {height} x {width} pixels: expected multiples of {cell}, the side of "
            "a cell of codes"
        )
    if min(top, left) < 0 or min(height, width) < 1 or top + height > size or left + width > size:
        raise UserError(
            f"box at row {top}, column {left} of {height} x {width} pixels: expected a part of {size} x {size} pixels"
        )
    levels, before = [], 0
    for grid in tokenizer.grids:
        side = size // grid
        rows = torch.arange(top // side, (top + height) // side, device="cpu")
        columns = torch.arange(left // side, (left + width) // side, device="cpu")
        levels.append((before + rows[:, None] * grid + columns[None]).flatten())
        before += grid * grid
    return torch.cat(levels)


class CodebookUse:
    """How often each code was seen, over any number of batches; levels are counted apart and weigh the same."""

    def __init__(self, tokenizer: ImageTokenizer) -> None:
        self.grids = tokenizer.grids
        self.lengths = [grid * grid for grid in tokenizer.grids]
        self.counts = torch.zeros(len(self.lengths), tokenizer.num_codes, dtype=torch.int64, device="cpu")

    def add(self, codes: torch.Tensor) -> None:
        """Count codes int64 [N, T] of whole images."""
        for counts, level in zip(self.counts, torch.split(codes.cpu(), self.lengths, 1), strict=True):
            counts += level.flatten().bincount(minlength=len(counts))

    @property
    def used(self) -> list[float]:
        """Return the share of each level's codes that were seen at all."""
        return [float((counts > 0).double().mean()) for counts in self.counts]

    @property
    def perplexity(self) -> float:
        """Return exp(entropy of the codes' frequencies), the mean over the levels: `num_codes` where all are even."""
        shares = self.counts.double() / self.counts.sum(1, keepdim=True).clamp(min=1)
        return float((-torch.xlogy(shares, shares).sum(1)).exp().mean())

    def collapses(self) -> list[str]:
        """Return a line on each level that uses hardly any of the codes that it could have used."""
        lines = []
        for share, counts, side in zip(self.used, self.counts, self.grids, strict=True):
            if share * len(counts) < COLLAPSED * min(len(counts), int(counts.sum())):
                lines.append(
                    f"codebook collapse: {share:.1%} of {len(counts):,} codes are in use on the grid of {side} x "
                    f"{side}; teach the tokenizer with more images, or take another kind of it"
                )
        return lines


def share_used(codes: torch.Tensor, num_codes: int) -> torch.Tensor:
    """Return the share of the codes from 0 to below `num_codes` that occur in int64 `codes`, as a 0-d tensor."""
    seen = torch.zeros(num_codes, device=codes.device)
    return seen.index_fill_(0, codes.flatten(), 1.0).mean()


@dataclass(frozen=True, kw_only=True)
class Teaching:
    """How a tokenizer is taught; the defaults are those of the published dVAE (appendix A.2), in shares of its steps.

    Of 3,000,000 updates there the rate fell over 1,200,000.
    """

    batch_size: int = 512
    """Images in a step."""
    learning_rate: float = 1e-4
    """Of AdamW, at the first step."""
    last_learning_rate: float = 1.25e-6
    """Where half a cosine takes it."""
    rate_falls_over: float = 0.4
    """Share of the steps after which the last rate is reached."""
    adam_betas: tuple[float, float] = (0.9, 0.999)
    """Decays of AdamW's averages."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip_norm: float | None = None
    """Largest norm of the gradients together; the published dVAE is not clipped."""
    ema_kimg: float = 354.7
    """Half-life of the average of the weights, in thousands of images: 0.999 a step of 512. 0 averages nothing."""

    def __post_init__(self) -> None:
        """Refuse what teaches nothing."""
        check_adam_betas("teaching.adam_betas", self.adam_betas)
        if self.batch_size < 1 or not 0 < self.rate_falls_over <= 1:
            raise UserError(
                f"teaching: batch_size={self.batch_size}, rate_falls_over={self.rate_falls_over:g}: expected 1 or "
                "more, and above 0 up to 1"
            )
        if min(self.learning_rate, self.last_learning_rate, self.weight_decay, self.ema_kimg) < 0:
            raise UserError("teaching: expected learning_rate, last_learning_rate, weight_decay, ema_kimg of 0 or more")
        if self.clip_norm is not None and self.clip_norm <= 0:
            raise UserError(f"teaching.clip_norm={self.clip_norm:g}: expected above 0, or null, which clips nothing")


class TokenizerStage:
    """Teach a tokenizer by images alone; a kind of it says by which losses."""

    name = "tokenizer"
    draws = False
    total_steps: int = 1
    """Of the stage; the loop sets it, and the schedules go by it."""

    def __init__(self, tokenizer: GridTokenizer, teaching: Teaching, share: float) -> None:
        self.tokenizer, self.teaching, self.share = tokenizer, teaching, share
        self.batch_size, self.ema_kimg = teaching.batch_size, teaching.ema_kimg
        self.averaged: Mapping[str, nn.Module] = {"tokenizer": tokenizer} if teaching.ema_kimg else {}
        self.steps = 0
        self.optimiser = torch.optim.AdamW(
            tokenizer.parameters(), lr=teaching.learning_rate, betas=teaching.adam_betas,
            weight_decay=teaching.weight_decay,
        )  # fmt: skip

    @property
    def progress(self) -> float:
        """Return the share of the stage's steps that are taken."""
        return self.steps / self.total_steps

    @property
    def learning_rate(self) -> float:
        """Return the rate of the step that is next."""
        teaching = self.teaching
        return cosine(self.progress / teaching.rate_falls_over, teaching.learning_rate, teaching.last_learning_rate)

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor | float]:
        """Return by name what is logged of images uint8 [N, 3, S, S]; `loss` is what is learnt from."""
        raise NotImplementedError

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step down `loss`."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.learning_rate
        self.tokenizer.train()
        losses = self.losses(batch.images)
        loss = losses["loss"]
        assert isinstance(loss, torch.Tensor)
        optimiser_step(self.optimiser, loss, clip_norm=self.teaching.clip_norm)
        self.steps += 1
        return {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the tokenizer, the optimiser and the number of steps taken."""
        return {"tokenizer": self.tokenizer.state_dict(), "optimiser": self.optimiser.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.tokenizer.load_state_dict(state["tokenizer"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.steps = state["steps"]
