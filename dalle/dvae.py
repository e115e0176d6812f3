"""The dVAE: a variational autoencoder whose latents are grids of categorical variables.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation" (arXiv:2102.12092), section 2.1 and appendix A. Codes are
relaxed by Gumbel-softmax (Jang et al. 2016, arXiv:1611.01144) in the forward and the backward pass, and chosen by
argmax once it is taught. Images are scored by the logit-Laplace distribution, whose scale is learned for every pixel.
The divergence of codes from uniform is that of the encoder's own softmax, without noise. Images are not cropped at
random, as they are there.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from .image_tokenizer import GridTokenizer, Teaching, TokenizerStage, share_used
from .resnet_codec import CodecConfig, Decoder, Encoder, codes_side, in_float32
from .schedule import cosine

MARGIN = 0.1
"""Pixels are mapped to (MARGIN, 1 - MARGIN), away from where the distribution's density is infinite (equation 2)."""


@dataclass(frozen=True, kw_only=True)
class DVAEConfig:
    """Settings of the dVAE; the defaults are the published ones, whose 3,000,000 steps are the unit of the shares."""

    num_codes: int = 8192
    """K: values of a code."""
    codec: CodecConfig = field(default_factory=CodecConfig)
    """Sizes of encoder and decoder."""
    divergence_weight: float = 6.6
    """Beta: weight of the divergence of the codes from uniform, beside the sum over the image's values."""
    divergence_rises_over: float = 5000 / 3_000_000
    """Share of the steps over which that weight rises from 0."""
    temperature: float = 1.0
    """Of the relaxation, at the first step."""
    last_temperature: float = 1 / 16
    """Where half a cosine takes it."""
    temperature_falls_over: float = 150_000 / 3_000_000
    """Share of the steps after which the last temperature is reached."""
    logits_deviation: float | None = None
    """Batch norm on every code's logits, which begin with this deviation. The published encoder has none; taught by
    large steps it soon favours a few codes in all cells alike, and the others are never drawn again.
    """
    least_scale: float = 0.0
    """Added to the likelihood's scale of every pixel, in logits. The published one has no floor; flat areas, drawn or
    compressed, would make the density infinite and the rest of the image not worth learning."""
    teaching: Teaching = field(default_factory=Teaching)
    """How the networks are taught."""

    def __post_init__(self) -> None:
        """Refuse what leaves nothing to choose, and schedules without a length."""
        if self.num_codes < 2:
            raise UserError(f"dvae.num_codes={self.num_codes}: expected 2 or more")
        if min(self.temperature, self.last_temperature) <= 0 or self.least_scale < 0:
            raise UserError(
                f"dvae: temperature={self.temperature:g}, last_temperature={self.last_temperature:g}, least_scale="
                f"{self.least_scale:g}: expected above 0, above 0, and 0 or more"
            )
        if self.divergence_weight < 0 or (self.logits_deviation is not None and self.logits_deviation <= 0):
            raise UserError(
                f"dvae: divergence_weight={self.divergence_weight:g}, logits_deviation={self.logits_deviation}: "
                "expected 0 or more, and above 0 or null"
            )
        if min(self.divergence_rises_over, self.temperature_falls_over) <= 0:
            raise UserError("dvae: divergence_rises_over, temperature_falls_over: expected shares above 0")


class Seen(NamedTuple):
    """An image under the likelihood: `location` and `log_scale` of every value in logits, each [N, 3, H, W]."""

    location: torch.Tensor
    log_scale: torch.Tensor


class DVAE(GridTokenizer):
    """Encoder, decoder, and between them a choice among `num_codes` in every cell."""

    def __init__(self, config: DVAEConfig, image_size: int) -> None:
        side = codes_side(config.codec, image_size)
        super().__init__(image_size=image_size, num_codes=config.num_codes, grids=(side,))
        self.config = config
        self.encoder = Encoder(config.codec, config.num_codes)
        self.norm: nn.Module = nn.Identity()
        if config.logits_deviation is not None:
            self.norm = nn.BatchNorm2d(config.num_codes)
            nn.init.constant_(self.norm.weight, config.logits_deviation)
        self.decoder = Decoder(config.codec, config.num_codes, 6)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the codes' logits [N, K, h, w] for images uint8 [N, 3, H, W]."""
        logits = self.encoder(to_unit(images).contiguous(memory_format=torch.channels_last))
        return in_float32(self.norm, logits)

    def seen(self, codes: torch.Tensor) -> Seen:
        """Return what the decoder makes of weights over codes [N, K, h, w], which sum to 1 in every cell."""
        return Seen(*self.decoder(codes).chunk(2, 1))

    def codes_of(self, images: torch.Tensor) -> torch.Tensor:
        """Return the most probable codes."""
        return self.logits(images).argmax(1).flatten(1)

    def images_of(self, codes: torch.Tensor) -> torch.Tensor:
        """Return the likelihood's medians; its scale is ignored."""
        # A one-hot vector through a 1x1 convolution is a row of its weights.
        first = self.decoder.first
        assert first.bias is not None
        cells = codes.view(len(codes), self.grids[0], -1)
        vectors = F.embedding(cells, first.weight[:, :, 0, 0].T) + first.bias
        location = self.decoder.grow(vectors.permute(0, 3, 1, 2)).chunk(2, 1)[0]
        return 2 * (location.sigmoid() - MARGIN) / (1 - 2 * MARGIN) - 1


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Return images uint8 as float32 in [MARGIN, 1 - MARGIN] (equation 2)."""
    return images.float() * ((1 - 2 * MARGIN) / 255) + MARGIN


def relax(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Return a Gumbel-softmax sample of logits [N, K, h, w]: weights that sum to 1 over K, sharper when colder."""
    # -log(-log(uniform)) is a Gumbel variable; the smallest normal number keeps it finite.
    uniform = torch.rand_like(logits).clamp_(min=torch.finfo(logits.dtype).tiny)
    return ((logits - (-uniform.log()).log()) / temperature).softmax(1)


def negative_log_likelihood(seen: Seen, values: torch.Tensor, least_scale: float = 0.0) -> torch.Tensor:
    """Return -log of the logit-Laplace density of `values` in (0, 1), in nats, each by itself (equation 1)."""
    log_scale = seen.log_scale
    if least_scale:
        log_scale = torch.logaddexp(log_scale, log_scale.new_tensor(math.log(least_scale)))
    distance = (values.logit() - seen.location).abs()
    return math.log(2) + log_scale + values.log() + torch.log1p(-values) + distance * (-log_scale).exp()


def divergence_from_uniform(logits: torch.Tensor) -> torch.Tensor:
    """Return KL(softmax over dimension 1 || uniform) of logits [N, K, h, w] in nats, [N, h, w]: from 0 to log K."""
    logs = logits.log_softmax(1)
    return (logs.exp() * logs).sum(1) + math.log(logits.shape[1])


def bound(likelihoods: torch.Tensor, divergences: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the loss of a batch: both terms summed over an image, divided by its values, then the mean of images.

    `likelihoods` [N, 3, H, W] are negative and logarithmic, `divergences` are [N, h, w]. However many images there
    are, `weight` means the same.
    """
    values = likelihoods[0].numel()
    return ((likelihoods.flatten(1).sum(1) + weight * divergences.flatten(1).sum(1)) / values).mean()


class DVAEStage(TokenizerStage):
    """Teach encoder and decoder by the relaxed bound."""

    def __init__(self, tokenizer: DVAE, share: float) -> None:
        super().__init__(tokenizer, tokenizer.config.teaching, share)
        self.dvae, self.config = tokenizer, tokenizer.config

    @property
    def temperature(self) -> float:
        """Return the temperature of the step that is next."""
        config = self.config
        return cosine(self.progress / config.temperature_falls_over, config.temperature, config.last_temperature)

    @property
    def divergence_weight(self) -> float:
        """Return the weight of the divergence in the step that is next."""
        return cosine(self.progress / self.config.divergence_rises_over, 0.0, self.config.divergence_weight)

    def losses(self, images: torch.Tensor) -> dict[str, torch.Tensor | float]:
        """Return the loss and its terms: `nll` in nats a value, `divergence` in nats a code."""
        logits = self.dvae.logits(images)
        seen = self.dvae.seen(relax(logits, self.temperature))
        likelihoods = negative_log_likelihood(seen, to_unit(images), self.config.least_scale)
        divergences = divergence_from_uniform(logits)
        return {
            "loss": bound(likelihoods, divergences, self.divergence_weight),
            "nll": likelihoods.mean(), "divergence": divergences.mean(), "temperature": self.temperature,
            "codes_used": share_used(logits.argmax(1), self.dvae.num_codes),
        }  # fmt: skip
