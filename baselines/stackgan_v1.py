"""StackGAN-v1: stage 1 sketches the caption at a low resolution, stage 2 reads it again and refines the sketch.

Zhang, Xu, Li, Zhang, Wang, Huang and Metaxas 2017, "StackGAN: Text to Photo-realistic Image Synthesis with Stacked
Generative Adversarial Networks" (arXiv:1612.03242), with the layers of the official code, whose bottlenecks the paper
does not mention. Other than there:
- Mean and log standard deviation of a condition come through a leaky ReLU, as in the official code; in the paper, from
  a linear layer.
- One caption conditions one image. The official code conditions on the mean of four in training and on one in drawing.
- Stage 2 sees the sketches as they are in drawing: of stage 1's averaged weights, where there are some, and with the
  running statistics of its batch norm. The official code has it sketch by the statistics of the batch.
- A step draws its fakes once, for the discriminator and then for the generator, as StackGAN-v2's official code does.
- Wrong images are others of the batch, where the official code loads some more.
- Convolutions are drawn from N(0, 0.02), linear layers as PyTorch does; the official code draws both from N(0, 0.02),
  truncated for convolutions.
- The sketches' real images are means over squares of pixels.
- The learning rates halve every 100 epochs in both stages, as in the paper; in stage 1 of the code, every 50.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.loader import Augmentation
from ..errors import UserError
from .blocks import (
    Bottleneck,
    ImageHead,
    LeakyReLU,
    UpConvolution,
    check_widths,
    convolution,
    from_pixels,
    initialise,
    shrink,
)
from .interface import Stage, from_uint8, sample_in_chunks, seeded_normal
from .losses import divergence_from_normal, fooling_loss, matching_aware_loss
from .mismatch import MismatchBy, matching_pairs, mismatched_order
from .reading import read_frozen
from .stabilise import STABILISED, AdversarialStage, Track, normalise
from .text_encoders import SMALL_TEXT, TINY_TEXT, TextEncoderConfig, open_text_encoder, text_stage


@dataclass(frozen=True, kw_only=True)
class StackGANv1Config:
    """Settings of the model; the defaults are the published ones for birds and flowers."""

    image_size: int = 256
    """Side of the images, a power of two above `stage1_size`."""
    stage1_size: int = 64
    """Side of stage 1's sketches, a power of two from 16."""
    stage1_share: float = 0.5
    """Stage 1's part of what the text encoder leaves of the training budget: 600 of 1,200 epochs."""
    generator_width: int = 128
    """Channels of stage 1's last hidden layer, and of stage 2's first (gf)."""
    discriminator_width: int = 64
    """Channels of both discriminators' first layer (df)."""
    residual_blocks: int = 4
    """Of stage 2, between reading the sketch and enlarging it."""
    noise_dim: int = 100
    """Length of the noise z, which only stage 1 has."""
    condition_dim: int = 128
    """Length of the condition c that is drawn around a caption, and of what a discriminator reads in one (ef)."""
    condition_noise: Literal["truncated", "normal"] = "truncated"
    """What c is drawn by: the official code draws anew what lies beyond two deviations, the paper does not."""
    divergence_weight: float = 2.0
    """Of the divergence of c from N(0, 1) as a mean over pairs and dimensions, as in the official code. The paper's
    lambda = 1 weighs the sum over dimensions, that is 128 on this scale."""
    mismatch: MismatchBy = "class"
    """What makes a caption wrong for an image: another "class" (birds, flowers) or just another "image" (COCO)."""
    mismatch_weight: float = 0.5
    """Weight of the wrong pair in the discriminator's loss; the fake pair has the rest. In the official code; the
    paper does not mention weights."""
    third_layer_activation: bool = True
    """Leaky ReLU after the third convolution of stage 1's discriminator, from 64 px on: in the paper, missing in the
    official code."""
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    """The text encoder, taught first and then frozen."""
    track: Track = Track(halve_every_kimg=885.0)
    """How both stages are taught; the learning rates halve every 100 epochs of 8,855 birds."""
    batch_size: int = 64
    """Pairs in a step of either stage."""
    augmentation: Augmentation = "crop-flip"
    """What the loader does to the images, as in the official code; captions that say left or right keep theirs."""

    def __post_init__(self) -> None:
        """Refuse sizes and shares that make no networks or no budget."""
        for name, size, least in (("stage1_size", self.stage1_size, 16), ("image_size", self.image_size, 32)):
            if size < least or size & (size - 1):
                raise UserError(f"{name}={size}: expected a power of two from {least}")
        if self.stage1_size >= self.image_size:
            raise UserError(f"stage1_size={self.stage1_size}: expected less than image_size={self.image_size}")
        if not 0 < self.stage1_share < 1:
            raise UserError(f"stage1_share={self.stage1_share:g}: expected above 0 and below 1")
        if self.batch_size < 2:
            raise UserError(f"batch_size={self.batch_size}: expected 2 pairs or more, batch norm needs them")
        least = max(4, self.image_size // self.stage1_size)
        check_widths(self.generator_width, self.discriminator_width, least=least)


TINY = StackGANv1Config(
    image_size=32, stage1_size=16, generator_width=24, discriminator_width=24, residual_blocks=2, condition_dim=32,
    mismatch="image", text_encoder=replace(TINY_TEXT, standardise=True), batch_size=16, augmentation="none",
    track=Track(generator_learning_rate=5e-4, discriminator_learning_rate=5e-4, ema_kimg=5.0),
)  # fmt: skip
SMALL = StackGANv1Config(
    image_size=64, stage1_size=32, generator_width=40, discriminator_width=32, residual_blocks=2, mismatch="image",
    text_encoder=replace(SMALL_TEXT, standardise=True), augmentation="none", track=Track(ema_kimg=5.0),
)  # fmt: skip
PAPER = StackGANv1Config()
STABILISED_PARTS: Mapping[str, Any] = {"track": STABILISED, "divergence_weight": 0.1}
"""The stabilised track. With the published divergence, few captions are heeded after some ten thousands of images."""
PRESETS: Mapping[str, StackGANv1Config] = {
    "tiny": TINY,
    "tiny-stabilised": replace(TINY, **STABILISED_PARTS),
    "small": SMALL,
    "small-stabilised": replace(SMALL, **STABILISED_PARTS),
    "paper": PAPER,
    "paper-stabilised": replace(PAPER, **STABILISED_PARTS),
}
# The published schedule counts epochs of a small data set; runs of some hundred thousand images end before the
# first halving, so `tiny` and `small` leave it out, and average the weights instead of waiting for them to settle.
# `tiny` takes more and larger steps from as many images.


class Condition(NamedTuple):
    """What Conditioning Augmentation makes of captions: `code` = `mean` + exp(`log_std`) x noise, each [N, D]."""

    code: torch.Tensor
    mean: torch.Tensor
    log_std: torch.Tensor


class Drawn(NamedTuple):
    """Images float [N, 3, S, S] in [-1, 1], and the condition that they were drawn from."""

    images: torch.Tensor
    condition: Condition


def truncated(noise: torch.Tensor) -> torch.Tensor:
    """Return standard normals as normals cut off at two deviations, by a map that keeps their order."""
    below = torch.special.ndtr(torch.tensor(-2.0, device=noise.device))
    cut: torch.Tensor = torch.special.ndtri(below + (1 - 2 * below) * torch.special.ndtr(noise))
    return cut


class Conditioning(nn.Module):
    """Conditioning Augmentation (section 3.2): embedding [N, T] and standard normals [N, D] -> condition."""

    def __init__(self, config: StackGANv1Config) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(config.text_encoder.text_dim, 2 * config.condition_dim), LeakyReLU())
        self.truncated = config.condition_noise == "truncated"

    def forward(self, text: torch.Tensor, noise: torch.Tensor) -> Condition:
        """Return the condition."""
        mean, log_std = self.layers(text).chunk(2, dim=1)
        return Condition(mean + log_std.exp() * (truncated(noise) if self.truncated else noise), mean, log_std)


class Stage1Generator(nn.Module):
    """Noise [N, noise_dim + condition_dim] and embedding [N, text_dim] -> sketch [N, 3, S, S]."""

    def __init__(self, config: StackGANv1Config) -> None:
        super().__init__()
        doublings = (config.stage1_size // 4).bit_length() - 1
        channels = [config.generator_width << level for level in reversed(range(doublings))]
        self.noise_dim = config.noise_dim
        self.conditioning = Conditioning(config)
        first = 16 * channels[0]
        read = nn.Linear(config.noise_dim + config.condition_dim, first, bias=False)
        self.expand = nn.Sequential(read, nn.BatchNorm1d(first))
        layers: list[nn.Module] = [Bottleneck(channels[0], channels[0] // 4, nn.ReLU)]
        for level, (before, after) in enumerate(zip(channels, channels[1:], strict=False)):
            layers += [UpConvolution(before, after, nn.Identity if level == 0 else nn.ReLU)]
            layers += [Bottleneck(after, after // 4, nn.ReLU)] * (level == 0)
        self.up = nn.Sequential(*layers, nn.Upsample(scale_factor=2), ImageHead(channels[-1]))
        self.apply(initialise)

    def forward(self, text: torch.Tensor, noise: torch.Tensor) -> Drawn:
        """Return the sketches."""
        condition: Condition = self.conditioning(text, noise[:, self.noise_dim :])
        features = self.expand(torch.cat([noise[:, : self.noise_dim], condition.code], 1))
        return Drawn(self.up(features.view(len(features), -1, 4, 4)), condition)


class Residual(nn.Module):
    """ReLU of x + (3x3, 3x3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(channels, channels, 3, 1, 1, "batch", nn.ReLU),
            *convolution(channels, channels, 3, 1, 1, "batch", None),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x`."""
        out: torch.Tensor = (x + self.layers(x)).relu()
        return out


class Stage2Generator(nn.Module):
    """Sketch [N, 3, S1, S1], embedding [N, text_dim] and noise [N, condition_dim] -> image [N, 3, S, S].

    The sketch is encoded to a quarter of its side, joined there by a condition of stage 2's own, and enlarged.
    """

    def __init__(self, config: StackGANv1Config) -> None:
        super().__init__()
        width, inner = config.generator_width, 4 * config.generator_width
        doublings = (4 * config.image_size // config.stage1_size).bit_length() - 1
        self.conditioning = Conditioning(config)
        self.encode = nn.Sequential(
            nn.Conv2d(3, width, 3, padding=1, bias=False), nn.ReLU(),
            *convolution(width, 2 * width, 4, 2, 1, "batch", nn.ReLU),
            *convolution(2 * width, inner, 4, 2, 1, "batch", nn.ReLU),
        )  # fmt: skip
        self.refine = nn.Sequential(
            *convolution(inner + config.condition_dim, inner, 3, 1, 1, "batch", nn.ReLU),
            *(Residual(inner) for _ in range(config.residual_blocks)),
        )
        ups = [UpConvolution(inner >> level, inner >> level + 1, nn.ReLU) for level in range(doublings)]
        self.up = nn.Sequential(*ups, ImageHead(inner >> doublings))
        self.apply(initialise)

    def forward(self, sketches: torch.Tensor, text: torch.Tensor, noise: torch.Tensor) -> Drawn:
        """Return the refined images."""
        condition = self.conditioning(text, noise)
        encoded = self.encode(sketches)
        everywhere = condition.code[:, :, None, None].expand(-1, -1, *encoded.shape[2:])
        return Drawn(self.up(self.refine(torch.cat([encoded, everywhere], 1))), condition)


class Discriminator(nn.Module):
    """Image [N, 3, S, S] and embedding [N, text_dim] -> logit [N]: does the image look real and match the text?

    Convolutions of stride 2 down to 4 x 4, whose channels double; beyond 8 x width (S > 64) as many 1x1 convolutions
    bring them back.
    """

    def __init__(self, config: StackGANv1Config, size: int, *, third_layer_activation: bool) -> None:
        super().__init__()
        norm, read = config.track.discriminator_norm, config.condition_dim
        halvings = (size // 4).bit_length() - 1
        channels = [config.discriminator_width << level for level in range(halvings)]
        steps = [(before, after, 4, 2, 1) for before, after in zip(channels, channels[1:], strict=False)]
        steps += [(channels[level], channels[level - 1], 1, 1, 0) for level in range(halvings - 1, 3, -1)]
        layers = from_pixels(channels[0], norm)
        for number, step in enumerate(steps, start=2):
            silent = number == len(steps) + 1 or number == 3 and not third_layer_activation
            layers += convolution(*step, norm, None if silent else LeakyReLU)
        last = steps[-1][1]
        self.image = nn.Sequential(*layers, Bottleneck(last, last // 4, LeakyReLU, norm))
        self.text = nn.Sequential(nn.Linear(config.text_encoder.text_dim, read), LeakyReLU())
        self.decide = nn.Sequential(
            *convolution(last + read, last, 1, 1, 0, norm), nn.Conv2d(last, 1, 4, bias=norm != "batch")
        )
        if norm == "batch":
            self.apply(initialise)
        normalise(self, norm)

    def forward(self, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return logits [N]."""
        return self.match(self.image(images), self.text(text))

    def match(self, seen: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Return logits [N] of what was seen in the images [N, C, 4, 4] and read in the captions [N, D]."""
        everywhere = read[:, :, None, None].expand(-1, -1, 4, 4)
        logits: torch.Tensor = self.decide(torch.cat([seen, everywhere], 1)).flatten()
        return logits


class GANStage(AdversarialStage):
    """Teach one generator and its discriminator, a step each, with all that was taught before frozen."""

    def __init__(
        self, model: "StackGANv1", number: Literal[1, 2], draw: Callable[[torch.Tensor, torch.Tensor], Drawn]
    ) -> None:
        self.config, self.name, self.draw = model.config, f"stage{number}", draw
        config, first = model.config, number == 1
        generator = model.stage1_generator if first else model.stage2_generator
        self.discriminator = model.stage1_discriminator if first else model.stage2_discriminator
        super().__init__(config.track, generator, self.discriminator)
        self.text_encoder = model.text.encoder
        self.size = config.stage1_size if first else config.image_size
        self.noise_dim = config.noise_dim + (1 if first else 2) * config.condition_dim
        self.share = (1 - config.text_encoder.share) * (config.stage1_share if first else 1 - config.stage1_share)
        self.draws, self.batch_size = not first, config.batch_size

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step of the discriminator, then one of the generator, on the same captions and fakes."""
        self.adversaries.begin_step(len(batch))
        real = shrink(from_uint8(batch.images), self.size).contiguous(memory_format=torch.channels_last)
        text = read_frozen(self.text_encoder, batch.captions).sentence
        fake = self.draw(text, torch.randn(len(text), self.noise_dim, device=text.device))
        order = mismatched_order(matching_pairs(batch, self.config.mismatch))
        losses = self._discriminator_step(real, fake.images.detach(), text, order)
        return losses | self._generator_step(fake, text)

    def _discriminator_step(
        self, real: torch.Tensor, fake: torch.Tensor, text: torch.Tensor, order: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        network, track = self.discriminator, self.config.track
        due = self.adversaries.penalty_is_due()
        real, text = real.detach().requires_grad_(due), text.detach().requires_grad_(due)
        # A wrong pair is another image of the batch: what was seen in it is known already.
        seen, read = network.image(self.adversaries.augmented(real)), network.text(text)
        logits, wrong = network.match(seen, read), network.match(seen[order], read)
        fooled = network.match(network.image(self.adversaries.augmented(fake)), read)
        loss = matching_aware_loss(logits, wrong, fooled, self.config.mismatch_weight, track.adversarial)
        penalty = self.adversaries.penalty(logits, real, text)
        self.adversaries.learn("discriminator", loss + penalty)
        return {"discriminator": loss.detach(), "penalty": penalty.detach(),
                "logit_real": logits.detach().mean(), "logit_fake": fooled.detach().mean()}  # fmt: skip

    def _generator_step(self, fake: Drawn, text: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.discriminator(self.adversaries.augmented(fake.images), text)
        loss = fooling_loss(logits, self.config.track.adversarial).mean()
        divergence = divergence_from_normal(fake.condition.mean, fake.condition.log_std)
        self.adversaries.learn("generator", loss + self.config.divergence_weight * divergence)
        return {"generator": loss.detach(), "divergence": divergence.detach()}


class StackGANv1:
    """The model: a text encoder reads the caption, stage 1 sketches it, stage 2 draws what is seen."""

    def __init__(self, config: StackGANv1Config) -> None:
        self.config = config
        self.text = open_text_encoder(config.text_encoder, config.image_size)
        self.tokenizers = self.text.encoder.tokenizers
        self.stage1_generator, self.stage2_generator = Stage1Generator(config), Stage2Generator(config)
        self.stage1_discriminator = Discriminator(
            config, config.stage1_size, third_layer_activation=config.third_layer_activation
        )
        self.stage2_discriminator = Discriminator(config, config.image_size, third_layer_activation=True)
        for name, network in self.networks().items():
            if name.startswith("stage"):
                network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self) -> Mapping[str, nn.Module]:
        """Return generator and discriminator of each stage, the text encoder and the image encoder that taught it."""
        return {"stage1_generator": self.stage1_generator, "stage1_discriminator": self.stage1_discriminator,
                "stage2_generator": self.stage2_generator, "stage2_discriminator": self.stage2_discriminator,
                "text_encoder": self.text.encoder, "image_encoder": self.text.image_encoder}  # fmt: skip

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return the text encoder's stage, then stage 1 and stage 2."""
        text = text_stage(self.text, self.config.text_encoder, data, self.config.mismatch)
        return [text, GANStage(self, 1, self.stage1_generator), GANStage(self, 2, self.refine)]

    def refine(self, text: torch.Tensor, noise: torch.Tensor) -> Drawn:
        """Draw embeddings [N, text_dim] from noise [N, noise_dim + 2 condition_dim]; stage 1 learns nothing of it."""
        sketching = self.config.noise_dim + self.config.condition_dim
        with torch.no_grad():
            sketches = self.stage1_generator.eval()(text, noise[:, :sketching]).images
        drawn: Drawn = self.stage2_generator(sketches, text, noise[:, sketching:])
        return drawn

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image."""
        return self._draw([""], torch.zeros(1, self.config.noise_dim + 2 * self.config.condition_dim))

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, that of stage 2, uint8 [N, 3, H, W]."""
        width = self.config.noise_dim + 2 * self.config.condition_dim
        return sample_in_chunks(lambda some, numbers: self._draw(some, seeded_normal(numbers, width)), captions, seeds)

    def _draw(self, captions: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        self.stage2_generator.eval()
        text = read_frozen(self.text.encoder, captions).sentence
        return self.refine(text, noise.to(text.device)).images
