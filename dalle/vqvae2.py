"""VQ-VAE-2: codes are the nearest vectors of two learned codebooks, a coarse grid and a fine one that knows it.

Razavi, van den Oord and Vinyals 2019, "Generating Diverse High-Fidelity Images with VQ-VAE-2" (arXiv:1906.00446),
section 3.1, on van den Oord et al. 2017 (arXiv:1711.00937). Codebooks follow what is assigned to them by moving
averages. What differs, since few images and short runs leave codes unused: a codebook begins as vectors of the first
batch, and a code that is hardly used is put where a vector of the batch is.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..baselines.interface import from_uint8
from ..baselines.precision import full_precision
from ..errors import UserError
from .image_tokenizer import GridTokenizer, Teaching, TokenizerStage, share_used
from .resnet_codec import in_float32

FINE_CELL, COARSE_CELL = 4, 8
"""Sides in pixels of the cells of both levels."""
EPSILON = 1e-5
"""Added to every count before they are scaled to the same sum: no code is divided by nothing."""


@dataclass(frozen=True, kw_only=True)
class VQVAE2Config:
    """Settings of the tokenizer; the defaults are the published ones for 256 px."""

    num_codes: int = 512
    """K: vectors in each of the two codebooks."""
    code_dim: int = 64
    """Length of a vector."""
    width: int = 128
    """Channels of all layers but the outermost, which have half."""
    blocks: int = 2
    """Residual blocks of each part."""
    block_width: int = 64
    """Channels inside a block."""
    commitment: float = 0.25
    """Weight of the distance from the encoder's vectors to their codes."""
    decay: float = 0.99
    """Gamma: of the averages that the codebooks are made of, a step."""
    restart_below: float = 0.02
    """A code with less than this part of the mean count of all is put elsewhere; 0 leaves it, as published."""
    teaching: Teaching = field(
        default_factory=lambda: Teaching(
            batch_size=128, learning_rate=3e-4, last_learning_rate=3e-4, rate_falls_over=1.0, weight_decay=0.0,
            ema_kimg=0.0,
        )  # fmt: skip
    )
    """How the networks are taught: Adam at a constant rate."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to choose."""
        if self.num_codes < 2 or self.width % 2:
            raise UserError(f"vqvae2.num_codes={self.num_codes}, width={self.width}: expected 2 or more, and even")
        if min(self.code_dim, self.width, self.block_width) < 1 or min(self.blocks, self.commitment) < 0:
            raise UserError(
                f"vqvae2.code_dim={self.code_dim}, width={self.width}, block_width={self.block_width}, blocks="
                f"{self.blocks}, commitment={self.commitment:g}: expected three of 1 or more, and two of 0 or more"
            )
        if not 0 <= self.decay < 1 or not 0 <= self.restart_below < 1:
            raise UserError(
                f"vqvae2.decay={self.decay:g}, restart_below={self.restart_below:g}: expected from 0 to below 1"
            )


class Codebook(nn.Module):
    """Vectors [K, D], the means of what the encoder's vectors nearest to them were lately (1711.00937, appendix A.1).

    They learn in `follow` alone. Everything is a buffer, so all of it is saved with the weights.
    """

    vectors: torch.Tensor
    counts: torch.Tensor
    sums: torch.Tensor
    begun: torch.Tensor

    def __init__(self, num_codes: int, code_dim: int, decay: float, restart_below: float) -> None:
        super().__init__()
        self.decay, self.restart_below = decay, restart_below
        self.register_buffer("vectors", torch.randn(num_codes, code_dim))
        self.register_buffer("counts", torch.ones(num_codes))
        self.register_buffer("sums", self.vectors.clone())
        self.register_buffer("begun", torch.zeros((), dtype=torch.bool))

    def nearest(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return int64 [M]: the codes nearest to vectors float32 [M, D]."""
        # |v - c|^2 without |v|^2, which is the same for all codes.
        return (self.vectors.square().sum(1) - 2 * vectors @ self.vectors.T).argmin(1)

    @torch.no_grad()
    def begin(self, vectors: torch.Tensor) -> None:
        """Put the codes where some of the first batch's vectors [M, D] are; later do nothing."""
        if not self.begun:
            self.vectors.copy_(_drawn(vectors, len(self.vectors)))
            self.sums.copy_(self.vectors)
            self.begun.fill_(True)

    @torch.no_grad()
    def follow(self, vectors: torch.Tensor, codes: torch.Tensor) -> None:
        """Move the codes towards the vectors [M, D] assigned to them by `codes` [M], then restart what is dead."""
        # A product of matrices instead of adding row by row: that has no fixed order on a GPU.
        chosen = F.one_hot(codes, len(self.vectors)).to(vectors.dtype)
        self.counts.lerp_(chosen.sum(0), 1 - self.decay)
        with full_precision(vectors):
            self.sums.lerp_(chosen.T @ vectors, 1 - self.decay)
        self._restart(vectors)
        total = self.counts.sum()
        smoothed = (self.counts + EPSILON) / (total + len(self.counts) * EPSILON) * total
        self.vectors.copy_(self.sums / smoothed[:, None])

    def _restart(self, vectors: torch.Tensor) -> None:
        """Put each code whose count is too small where a vector of the batch is, with as much weight as the mean's."""
        # As many are drawn whether codes are dead or not: the device need not be asked.
        mean, somewhere = self.counts.mean(), _drawn(vectors, len(self.vectors))
        dead = self.counts < self.restart_below * mean
        self.counts.copy_(torch.where(dead, mean, self.counts))
        self.sums.copy_(torch.where(dead[:, None], mean * somewhere, self.sums))


def _drawn(vectors: torch.Tensor, number: int) -> torch.Tensor:
    """Return `number` of the vectors [M, D], drawn evenly; each at most once where there are enough."""
    order = torch.randperm(len(vectors), device=vectors.device)
    return vectors[order.repeat(-(-number // len(order)))[:number]]


class Residual(nn.Module):
    """x + (ReLU, 3x3 to `inner`, ReLU, 1x1)."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.ReLU(), nn.Conv2d(width, inner, 3, 1, 1), nn.ReLU(), nn.Conv2d(inner, width, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x` [N, width, H, W]."""
        out: torch.Tensor = x + self.layers(x)
        return out


def _residuals(config: VQVAE2Config) -> list[nn.Module]:
    return [*(Residual(config.width, config.block_width) for _ in range(config.blocks)), nn.ReLU()]


class Level(NamedTuple):
    """One level of some images: the encoder's `vectors` [M, D], all cells in a row; their `codes` int64 [N, h, w];
    `quantised`, the codes' vectors [N, D, h, w], whose gradient is that of the encoder's.
    """

    vectors: torch.Tensor
    codes: torch.Tensor
    quantised: torch.Tensor


def quantise(codebook: Codebook, vectors: torch.Tensor) -> Level:
    """Return the level that vectors [N, D, h, w] make with a codebook."""
    count, dim, height, width = vectors.shape
    rows = vectors.float().permute(0, 2, 3, 1).reshape(-1, dim)
    with torch.no_grad(), full_precision(rows):
        codes = codebook.nearest(rows)
    straight = rows + (codebook.vectors[codes] - rows).detach()
    quantised = straight.view(count, height, width, dim).permute(0, 3, 1, 2)
    return Level(rows, codes.view(count, height, width), quantised)


class VQVAE2(GridTokenizer):
    """Encoders and codebooks of a coarse and a fine level, and one decoder of both."""

    def __init__(self, config: VQVAE2Config, image_size: int) -> None:
        if image_size % COARSE_CELL:
            raise UserError(f"vqvae2: image_size={image_size}: expected a multiple of {COARSE_CELL}")
        grids = (image_size // COARSE_CELL, image_size // FINE_CELL)
        super().__init__(image_size=image_size, num_codes=config.num_codes, grids=grids)
        self.config = config
        width, half, dim = config.width, config.width // 2, config.code_dim
        self.encode_fine = nn.Sequential(
            nn.Conv2d(3, half, 4, 2, 1), nn.ReLU(), nn.Conv2d(half, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), *_residuals(config),
        )  # fmt: skip
        self.encode_coarse = nn.Sequential(
            nn.Conv2d(width, half, 4, 2, 1), nn.ReLU(), nn.Conv2d(half, width, 3, 1, 1), *_residuals(config)
        )
        self.to_coarse, self.to_fine = nn.Conv2d(width, dim, 1), nn.Conv2d(dim + width, dim, 1)
        self.decode_coarse = nn.Sequential(
            nn.Conv2d(dim, width, 3, 1, 1), *_residuals(config), nn.ConvTranspose2d(width, dim, 4, 2, 1)
        )
        self.grow_coarse = nn.ConvTranspose2d(dim, dim, 4, 2, 1)
        self.decode_both = nn.Sequential(
            nn.Conv2d(2 * dim, width, 3, 1, 1), *_residuals(config), nn.ConvTranspose2d(width, half, 4, 2, 1),
            nn.ReLU(), nn.ConvTranspose2d(half, 3, 4, 2, 1),
        )  # fmt: skip
        books = [Codebook(config.num_codes, dim, config.decay, config.restart_below) for _ in grids]
        self.coarse_codes, self.fine_codes = books
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def levels(self, images: torch.Tensor, *, learning: bool = False) -> tuple[Level, Level]:
        """Return the coarse and the fine level of images float [N, 3, H, W] in [-1, 1].

        While `learning`, a codebook that has not begun begins with these images.
        """
        features = self.encode_fine(images.contiguous(memory_format=torch.channels_last))
        vectors = in_float32(self.to_coarse, self.encode_coarse(features))
        coarse = self._level(self.coarse_codes, vectors, learning)
        known = torch.cat([self.decode_coarse(coarse.quantised), features], 1)
        return coarse, self._level(self.fine_codes, in_float32(self.to_fine, known), learning)

    def _level(self, codebook: Codebook, vectors: torch.Tensor, learning: bool) -> Level:
        if learning:
            codebook.begin(vectors.detach().permute(0, 2, 3, 1).flatten(0, 2))
        return quantise(codebook, vectors)

    def paint(self, coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
        """Return images float [N, 3, S, S] of the codes' vectors, coarse [N, D, h, w] and fine [N, D, 2 h, 2 w]."""
        both = torch.cat([self.grow_coarse(coarse), fine], 1)
        images: torch.Tensor = self.decode_both(both.contiguous(memory_format=torch.channels_last)).float()
        return images

    def codes_of(self, images: torch.Tensor) -> torch.Tensor:
        """Return the nearest codes, the coarse level first."""
        return torch.cat([level.codes.flatten(1) for level in self.levels(from_uint8(images))], 1)

    def images_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Return what the decoder makes of both levels' vectors."""
        top, bottom = self.grids
        coarse = self.coarse_codes.vectors[codes[:, : top * top].reshape(-1, top, top)]
        fine = self.fine_codes.vectors[codes[:, top * top :].reshape(-1, bottom, bottom)]
        return self.paint(coarse.permute(0, 3, 1, 2), fine.permute(0, 3, 1, 2))


class VQVAE2Stage(TokenizerStage):
    """Teach the networks by the squared error and the commitment; the codebooks follow what they are given."""

    def __init__(self, tokenizer: VQVAE2, share: float) -> None:
        super().__init__(tokenizer, tokenizer.config.teaching, share)
        self.vqvae2 = tokenizer

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor | float]:
        """Return the loss and its terms, the codebooks moved by the way."""
        model, values = self.vqvae2, from_uint8(images)
        coarse, fine = model.levels(values, learning=True)
        error = (model.paint(coarse.quantised, fine.quantised) - values).square().mean()
        distance = torch.zeros((), device=values.device)
        used = torch.zeros((), device=values.device)
        for codebook, level in ((model.coarse_codes, coarse), (model.fine_codes, fine)):
            codes = level.codes.flatten()
            distance = distance + (level.vectors - codebook.vectors[codes]).square().mean()
            used = used + share_used(codes, model.num_codes) / 2
        # Only now: the distances are to where the codes were.
        model.coarse_codes.follow(coarse.vectors.detach(), coarse.codes.flatten())
        model.fine_codes.follow(fine.vectors.detach(), fine.codes.flatten())
        loss = error + model.config.commitment * distance
        return {"loss": loss, "error": error, "commitment": distance, "codes_used": used}
