"""FSQ: codes by rounding a few numbers to a few levels each; no codebook, nothing to collapse.

Mentzer, Minnen, Agustsson and Tschannen 2023, "Finite Scalar Quantization: VQ-VAE Made Simple" (arXiv:2309.15505),
section 3, between the networks of the dVAE and taught as they are, so that kinds of codes can be compared. The loss is
the plain squared error: the paper's perceptual and adversarial losses need other networks, and the dVAE's likelihood
is for a posterior, which rounding has none of.
"""

import math
from dataclasses import dataclass, field

import torch

from ..baselines.interface import from_uint8
from ..errors import UserError
from .image_tokenizer import GridTokenizer, Teaching, TokenizerStage, share_used
from .resnet_codec import CodecConfig, Decoder, Encoder, codes_side

STRETCH = 1e-3
"""The bounding tanh reaches so much beyond the outermost levels, in parts, that they can be reached at all."""


@dataclass(frozen=True, kw_only=True)
class FSQConfig:
    """Settings of the tokenizer; the levels are those that the paper recommends for 2^12 codes."""

    levels: tuple[int, ...] = (7, 5, 5, 5, 5)
    """Of each number of a code; the codes are as many as their product. Recommended: 5 or more each."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """Sizes of encoder and decoder."""
    teaching: Teaching = field(default_factory=Teaching)
    """How the networks are taught."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to choose."""
        if not self.levels or min(self.levels) < 2:
            raise UserError(f"fsq.levels={list(self.levels)}: expected one number or more, each 2 or more")

    @property
    def num_codes(self) -> int:
        """Return the product of the levels."""
        return math.prod(self.levels)


class Rounding:
    """Numbers to the nearest of `levels`, dimension 1 of a tensor [N, D, ...], and such codes to indices and back."""

    def __init__(self, levels: tuple[int, ...]) -> None:
        self.levels = levels

    def _each(self, numbers: list[float], like: torch.Tensor) -> torch.Tensor:
        """Return one number for each of the dimensions, to be broadcast with `like` [N, D, ...]."""
        return torch.tensor(numbers, device=like.device).view(1, -1, *[1] * (like.ndim - 2))

    def bound(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return numbers float [N, D, ...] squeezed so that rounding gives L whole numbers, -(L // 2) the least."""
        halves = [(level - 1) * (1 + STRETCH) / 2 for level in self.levels]
        offsets = [0.5 if level % 2 == 0 else 0.0 for level in self.levels]
        shifts = [math.atanh(offset / half) for offset, half in zip(offsets, halves, strict=True)]
        squeezed = (numbers.float() + self._each(shifts, numbers)).tanh() * self._each(halves, numbers)
        return squeezed - self._each(offsets, numbers)

    def quantise(self, numbers: torch.Tensor) -> torch.Tensor:
        """Return codes float32 [N, D, ...] in [-1, 1]; their gradient is that of the bounded numbers."""
        bounded = self.bound(numbers)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / self._each([level // 2 for level in self.levels], numbers)

    def indices(self, codes: torch.Tensor) -> torch.Tensor:
        """Return int64 [N, ...] of codes [N, D, ...], in mixed radix, the first dimension the fastest."""
        halves = self._each([level // 2 for level in self.levels], codes)
        digits = (codes * halves + halves).round().long()
        return (digits * self._each(self._places(), codes)).sum(1)

    def codes(self, indices: torch.Tensor) -> torch.Tensor:
        """Return codes float32 [N, D, ...] of indices int64 [N, ...]."""
        spread = indices.unsqueeze(1)
        digits = spread // self._each(self._places(), spread) % self._each(list(self.levels), spread)
        halves = self._each([level // 2 for level in self.levels], spread)
        return (digits - halves) / halves

    def _places(self) -> list[float]:
        return [math.prod(self.levels[:place]) for place in range(len(self.levels))]


class FSQ(GridTokenizer):
    """Encoder, rounding, decoder."""

    def __init__(self, config: FSQConfig, image_size: int) -> None:
        side = codes_side(config.codec, image_size)
        super().__init__(
            image_size=image_size, num_codes=config.num_codes, grids=(side,), radices=tuple(config.levels)
        )
        self.config, self.rounding = config, Rounding(config.levels)
        self.encoder = Encoder(config.codec, len(config.levels))
        self.decoder = Decoder(config.codec, len(config.levels), 3)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def quantised(self, images: torch.Tensor) -> torch.Tensor:
        """Return codes float32 [N, D, h, w] of images float [N, 3, H, W] in [-1, 1]."""
        return self.rounding.quantise(self.encoder(images.contiguous(memory_format=torch.channels_last)))

    def codes_of(self, images: torch.Tensor) -> torch.Tensor:
        """Return the indices of the nearest levels."""
        return self.rounding.indices(self.quantised(from_uint8(images))).flatten(1)

    def images_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Return what the decoder makes of the levels."""
        images: torch.Tensor = self.decoder(self.rounding.codes(codes.view(len(codes), self.grids[0], -1)))
        return images


class FSQStage(TokenizerStage):
    """Teach encoder and decoder by the squared error, its gradient straight through the rounding."""

    def __init__(self, tokenizer: FSQ, share: float) -> None:
        super().__init__(tokenizer, tokenizer.config.teaching, share)
        self.fsq = tokenizer

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor | float]:
        """Return the mean squared error of images in [-1, 1]."""
        values = from_uint8(images)
        codes = self.fsq.quantised(values)
        error = (self.fsq.decoder(codes) - values).square().mean()
        used = share_used(self.fsq.rounding.indices(codes.detach()), self.fsq.num_codes)
        return {"loss": error, "codes_used": used}
