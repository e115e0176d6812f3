"""The networks of the dVAE, which `dvae` and `fsq` share: bottleneck ResNets without any normalisation.

Ramesh et al. 2021 (arXiv:2102.12092), appendix A.1, with the sizes of the released weights. ReLU comes before every
convolution; the encoder shrinks by max-pooling, which gave the better bound, and the decoder grows by nearest
neighbours; the first and last layers on the side of the codes are 1x1, so that what the codes are made from stays near.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from ..baselines.precision import full_precision
from ..errors import UserError


@dataclass(frozen=True, kw_only=True)
class CodecConfig:
    """Sizes of encoder and decoder; the defaults are those of the released dVAE."""

    width: int = 256
    """Channels of the layers that see the image's own pixels; every halving doubles them."""
    first_decoder_width: int = 128
    """Length of the vector that a code is turned into."""
    blocks: int = 2
    """Residual blocks of each size."""
    stride: int = 8
    """Side in pixels of a code's cell, a power of two."""
    unshuffle: int = 1
    """Side of the squares of pixels that are read and written as the channels of one. The released networks have none
    (1); at 2 a small network spends a quarter on its largest grids, and `width` is of the next size."""
    kernel: int = 7
    """Side of the first convolution."""
    gain: float | None = None
    """Of every residual branch; None is the published 1 / (blocks in all)^2."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if min(self.width, self.first_decoder_width, self.kernel, self.unshuffle) < 1:
            raise UserError(
                f"codec.width={self.width}, first_decoder_width={self.first_decoder_width}, kernel={self.kernel}, "
                f"unshuffle={self.unshuffle}: expected 1 or more of each"
            )
        if self.stride < 1 or self.stride & (self.stride - 1) or self.stride % self.unshuffle:
            raise UserError(
                f"codec.stride={self.stride}, unshuffle={self.unshuffle}: expected a power of two, and a divisor of it"
            )
        if self.width % 4 or self.blocks < 1 or self.kernel % 2 == 0:
            raise UserError(
                f"codec.width={self.width}, blocks={self.blocks}, kernel={self.kernel}: expected a multiple of 4, 1 or "
                "more, and odd"
            )

    @property
    def widths(self) -> list[int]:
        """Return the channels of each size, from pixels to codes."""
        sizes = (self.stride // self.unshuffle).bit_length()
        return [self.width * 2**size for size in range(sizes)]

    @property
    def branch_gain(self) -> float:
        """Return what every residual branch is multiplied by."""
        return 1 / (len(self.widths) * self.blocks) ** 2 if self.gain is None else self.gain


def convolution(before: int, after: int, side: int) -> nn.Conv2d:
    """Return a convolution that keeps the size, drawn from N(0, 1 / fan-in), its bias 0."""
    layer = nn.Conv2d(before, after, side, padding=side // 2)
    nn.init.normal_(layer.weight, std=1 / math.sqrt(before * side * side))
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Block(nn.Module):
    """x + gain * four convolutions of x through a quarter of the channels, `sides` their sides."""

    def __init__(self, before: int, after: int, sides: tuple[int, ...], gain: float) -> None:
        super().__init__()
        inner = after // 4
        channels = [before, inner, inner, inner, after]
        self.gain = gain
        self.short = convolution(before, after, 1) if before != after else nn.Identity()
        self.layers = nn.ModuleList(
            convolution(*sizes) for sizes in zip(channels[:-1], channels[1:], sides, strict=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [N, after, H, W] of `x` [N, before, H, W]."""
        branch = x
        for layer in self.layers:
            branch = layer(F.relu(branch))
        out: torch.Tensor = self.short(x) + self.gain * branch
        return out


class Encoder(nn.Module):
    """Images float [N, 3, H, W] -> float32 [N, outputs, H / stride, W / stride]."""

    def __init__(self, config: CodecConfig, outputs: int) -> None:
        super().__init__()
        self.unshuffle, widths = config.unshuffle, config.widths
        self.first = convolution(3 * config.unshuffle**2, widths[0], config.kernel)
        self.groups = nn.ModuleList()
        before = widths[0]
        for width in widths:
            self.groups.append(_blocks(config, before, width, (3, 3, 3, 1)))
            before = width
        self.head = convolution(before, outputs, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the codes are chosen by."""
        x: torch.Tensor = self.first(F.pixel_unshuffle(images, self.unshuffle))
        for number, group in enumerate(self.groups):
            x = group(F.max_pool2d(x, 2) if number else x)
        return in_float32(self.head, F.relu(x))


class Decoder(nn.Module):
    """What stands for the codes, float [N, inputs, h, w] -> float32 [N, outputs, h stride, w stride]."""

    def __init__(self, config: CodecConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.unshuffle, widths = config.unshuffle, config.widths[::-1]
        self.first = convolution(inputs, config.first_decoder_width, 1)
        self.groups = nn.ModuleList()
        before = config.first_decoder_width
        for width in widths:
            self.groups.append(_blocks(config, before, width, (1, 3, 3, 3)))
            before = width
        self.head = convolution(before, outputs * config.unshuffle**2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return one map for each output."""
        return self.grow(in_float32(self.first, x))

    def grow(self, x: torch.Tensor) -> torch.Tensor:
        """Return the maps from what the first layer makes of the codes [N, first_decoder_width, h, w]."""
        for number, group in enumerate(self.groups):
            x = group(F.interpolate(x, scale_factor=2) if number else x)
        return F.pixel_shuffle(in_float32(self.head, F.relu(x)), self.unshuffle)


def _blocks(config: CodecConfig, before: int, width: int, sides: tuple[int, ...]) -> nn.Sequential:
    inputs = [before] + [width] * (config.blocks - 1)
    return nn.Sequential(*(Block(some, width, sides, config.branch_gain) for some in inputs))


def in_float32(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Return `layer(x)` in float32 whatever the precision of the step: codes hang on small differences."""
    with full_precision(x):
        out: torch.Tensor = layer(x.float())
        return out


def codes_side(config: CodecConfig, image_size: int) -> int:
    """Return the side of the grid of codes; raise UserError where an image is not cut into whole cells."""
    if image_size < config.stride or image_size % config.stride:
        raise UserError(f"codec.stride={config.stride}: does not divide image_size={image_size}")
    return image_size // config.stride
