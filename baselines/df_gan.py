"""DF-GAN: one generator for the whole size, the caption fused into every block, a discriminator with one way out.

Tao, Tang, Wu, Jing, Bao and Xu 2022, "DF-GAN: A Simple and Effective Baseline for Text-to-Image Synthesis"
(arXiv:2008.05865), with the layers of the official code. What differs from that code:

- It draws with truncated noise, for its FID too; here noise is drawn as it is taught.
- Its mismatched captions are those of the next image of the batch, which may be true of this one; here they are not.
- It makes a 1x1 shortcut for every block of the discriminator, and uses it where the number of channels changes; here
  every block uses its own, so that all the parameters that are published as its size learn.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.loader import Augmentation
from ..errors import UserError
from .blocks import LeakyReLU, check_widths
from .interface import Stage, from_uint8, sample_in_chunks, seeded_normal
from .losses import fooling_loss, matching_aware_loss
from .mismatch import MismatchBy, matching_pairs, mismatched_order
from .reading import read_frozen
from .stabilise import STABILISED, AdversarialStage, Track, normalise
from .text_encoders import SMALL_TEXT, TINY_TEXT, TextEncoderConfig, open_text_encoder, text_stage

MISMATCH_WEIGHT = 0.5
"""Weight of the wrong pair in the discriminator's loss; the fake pair has the rest (equation 1)."""
WIDEST = 8
"""Channels of the widest layers of both networks, in widths."""

PUBLISHED = Track(
    adversarial="hinge", discriminator_norm="none", gradient_penalty="ma-gp",
    generator_learning_rate=1e-4, discriminator_learning_rate=4e-4, adam_betas=(0.0, 0.9),
)  # fmt: skip
"""How the published networks are taught."""


@dataclass(frozen=True, kw_only=True)
class DFGANConfig:
    """Settings of the model; the defaults are the published ones for birds."""

    image_size: int = 256
    """Side of the images, a power of two from 16; each doubling adds a block to both networks."""
    generator_width: int = 32
    """Channels of the generator's last block (nf)."""
    discriminator_width: int = 32
    """Channels of the discriminator's first layer (nf)."""
    noise_dim: int = 100
    """Length of the noise z."""
    text_encoder: TextEncoderConfig = field(default_factory=lambda: TextEncoderConfig(kind="damsm"))
    """What reads the captions: the DAMSM's bi-LSTM, taught first and then frozen."""
    mismatch: MismatchBy = "class"
    """What makes a caption wrong for an image: another "class", or just another "image"."""
    batch_size: int = 32
    """Pairs in a step of the GAN."""
    track: Track = PUBLISHED
    """How both networks are taught; the published one already has a hinge, MA-GP and two rates."""
    augmentation: Augmentation = "crop-flip"
    """What the loader does to the images, as in the official code."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if self.image_size < 16 or self.image_size & (self.image_size - 1):
            raise UserError(f"image_size={self.image_size}: expected a power of two from 16")
        if self.batch_size < 2:
            raise UserError(f"batch_size={self.batch_size}: expected 2 pairs or more, a caption needs a wrong image")
        check_widths(self.generator_width, self.discriminator_width, least=1)
        if self.track.discriminator_norm == "batch":
            raise UserError('track.discriminator_norm=batch: not in this discriminator; expected "none" or "spectral"')


TINY = DFGANConfig(
    image_size=32, generator_width=16, discriminator_width=16, mismatch="image",
    text_encoder=replace(TINY_TEXT, kind="damsm", share=0.25, standardise=True), batch_size=16, augmentation="none",
    track=replace(PUBLISHED, generator_learning_rate=2e-4, ema_kimg=5.0),
)  # fmt: skip
SMALL = DFGANConfig(
    image_size=64, text_encoder=replace(SMALL_TEXT, kind="damsm", standardise=True), mismatch="image",
    augmentation="none", track=replace(PUBLISHED, ema_kimg=5.0),
)  # fmt: skip
PAPER = DFGANConfig()
PRESETS: Mapping[str, DFGANConfig] = {
    "tiny": TINY,
    "tiny-stabilised": replace(TINY, track=STABILISED),
    "small": SMALL,
    "small-stabilised": replace(SMALL, track=STABILISED),
    "paper": PAPER,
    "paper-stabilised": replace(PAPER, track=STABILISED),
}
# `tiny` and `small` average the generator's weights, which the official code does not: runs of some hundred thousand
# images end before the weights settle. In `tiny` the generator takes larger steps; under MA-GP the networks collapse at
# the stabilised track's rates, 5e-4 and 1e-3.


class Affine(nn.Module):
    """Scale and shift every channel by what two perceptrons make of the condition [N, D] (section 3.4)."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        scale, shift = nn.Linear(channels, channels), nn.Linear(channels, channels)
        for last, start in ((scale, 1.0), (shift, 0.0)):
            nn.init.zeros_(last.weight)
            nn.init.constant_(last.bias, start)
        self.scale = nn.Sequential(nn.Linear(condition_dim, channels), nn.ReLU(), scale)
        self.shift = nn.Sequential(nn.Linear(condition_dim, channels), nn.ReLU(), shift)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x` [N, C, S, S]."""
        out: torch.Tensor = self.scale(condition)[:, :, None, None] * x + self.shift(condition)[:, :, None, None]
        return out


class Fusion(nn.Module):
    """Affine, leaky ReLU, affine, leaky ReLU: the deep text-image fusion of section 3.4."""

    def __init__(self, condition_dim: int, channels: int) -> None:
        super().__init__()
        self.first = Affine(condition_dim, channels)
        self.second = Affine(condition_dim, channels)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x` [N, C, S, S]."""
        x = F.leaky_relu(self.first(x, condition), 0.2)
        return F.leaky_relu(self.second(x, condition), 0.2)


class UpBlock(nn.Module):
    """Twice the side, then (fusion, 3x3) twice, beside a 1x1 shortcut."""

    def __init__(self, condition_dim: int, before: int, after: int) -> None:
        super().__init__()
        self.fusions = nn.ModuleList([Fusion(condition_dim, before), Fusion(condition_dim, after)])
        self.layers = nn.ModuleList([nn.Conv2d(before, after, 3, 1, 1), nn.Conv2d(after, after, 3, 1, 1)])
        self.short = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return [N, after, 2 S, 2 S] of `x` [N, before, S, S]."""
        x = F.interpolate(x, scale_factor=2)
        short: torch.Tensor = self.short(x)
        for fusion, layer in zip(self.fusions, self.layers, strict=True):
            x = layer(fusion(x, condition))
        return short + x


class Generator(nn.Module):
    """Noise [N, noise_dim] and sentence [N, text_dim] -> image [N, 3, S, S] in [-1, 1]."""

    def __init__(self, config: DFGANConfig) -> None:
        super().__init__()
        doublings = (config.image_size // 4).bit_length() - 1
        width = config.generator_width
        channels = [width * min(2 ** (doublings - level), WIDEST) for level in range(doublings + 1)]
        condition_dim = config.noise_dim + config.text_encoder.text_dim
        self.expand = nn.Linear(config.noise_dim, WIDEST * width * 16)
        channels[0] = WIDEST * width
        self.blocks = nn.ModuleList(
            UpBlock(condition_dim, before, after)
            for before, after in zip(channels, channels[1:], strict=False)
        )
        self.to_image = nn.Sequential(LeakyReLU(), nn.Conv2d(channels[-1], 3, 3, 1, 1), nn.Tanh())

    def forward(self, noise: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        """Return images [N, 3, S, S]."""
        condition = torch.cat([noise, sentence], 1)
        x = self.expand(noise).view(len(noise), -1, 4, 4)
        for block in self.blocks:
            x = block(x, condition)
        images: torch.Tensor = self.to_image(x)
        return images


class DownBlock(nn.Module):
    """(4x4 of stride 2, 3x3), scaled by a learned number that begins at 0, beside a pooled 1x1 shortcut."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, after, 4, 2, 1, bias=False), LeakyReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False), LeakyReLU(),
        )  # fmt: skip
        self.short = nn.Conv2d(before, after, 1)
        self.gain = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, after, S / 2, S / 2] of `x` [N, before, S, S]."""
        # A 1x1 convolution and a mean over pixels may change places; this way it sees a quarter of them.
        short: torch.Tensor = self.short(F.avg_pool2d(x, 2))
        out: torch.Tensor = short + self.gain * self.layers(x)
        return out


class Discriminator(nn.Module):
    """Image [N, 3, S, S] and sentence [N, text_dim] -> logit [N]: one way out, no logit without the caption."""

    def __init__(self, config: DFGANConfig) -> None:
        super().__init__()
        halvings = (config.image_size // 4).bit_length() - 1
        channels = [config.discriminator_width * min(2**level, WIDEST) for level in range(halvings + 1)]
        blocks = [DownBlock(before, after) for before, after in zip(channels, channels[1:], strict=False)]
        self.image = nn.Sequential(nn.Conv2d(3, channels[0], 3, 1, 1), *blocks)
        last, read = channels[-1], 2 * config.discriminator_width
        self.decide = nn.Sequential(
            nn.Conv2d(last + config.text_encoder.text_dim, read, 3, 1, 1, bias=False), LeakyReLU(),
            nn.Conv2d(read, 1, 4, bias=False),
        )  # fmt: skip
        normalise(self, config.track.discriminator_norm)

    def forward(self, images: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        """Return logits [N]."""
        return self.match(self.image(images), sentence)

    def match(self, seen: torch.Tensor, sentence: torch.Tensor) -> torch.Tensor:
        """Return logits [N] of what was seen in the images [N, C, 4, 4] and read in the captions [N, D]."""
        everywhere = sentence[:, :, None, None].expand(-1, -1, 4, 4)
        logits: torch.Tensor = self.decide(torch.cat([seen, everywhere], 1)).flatten()
        return logits


class GANStage(AdversarialStage):
    """Teach both networks, the text encoder frozen."""

    name = "gan"
    draws = True

    def __init__(self, model: "DFGAN") -> None:
        self.config = config = model.config
        self.generator, self.discriminator = model.generator, model.discriminator
        self.text_encoder = model.text.encoder
        self.share, self.batch_size = 1 - config.text_encoder.share, config.batch_size
        super().__init__(config.track, self.generator, self.discriminator)

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step of the discriminator, then one of the generator by the same fakes."""
        self.adversaries.begin_step(len(batch))
        images = from_uint8(batch.images).contiguous(memory_format=torch.channels_last)
        sentence = read_frozen(self.text_encoder, batch.captions).sentence
        noise = torch.randn(len(sentence), self.config.noise_dim, device=sentence.device)
        fakes = self.generator(noise, sentence)
        order = mismatched_order(matching_pairs(batch, self.config.mismatch))
        losses = self._discriminator_step(images, fakes.detach(), sentence, order)
        logits = self.discriminator(self.adversaries.augmented(fakes), sentence.detach())
        loss = fooling_loss(logits, self.config.track.adversarial).mean()
        self.adversaries.learn("generator", loss)
        return losses | {"generator": loss.detach()}

    def _discriminator_step(
        self, images: torch.Tensor, fakes: torch.Tensor, sentence: torch.Tensor, order: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        network, adversaries = self.discriminator, self.adversaries
        watched = sentence
        if adversaries.penalty_is_due():
            images, watched = images.requires_grad_(), sentence.detach().requires_grad_()
        seen = network.image(adversaries.augmented(images))
        real = network.match(seen, watched)
        # A wrong pair is another image of the batch: what was seen in it is known already.
        wrong = network.match(seen[order], sentence)
        fake = network(adversaries.augmented(fakes), sentence)
        loss = matching_aware_loss(real, wrong, fake, MISMATCH_WEIGHT, self.config.track.adversarial)
        penalty = adversaries.penalty(real, images, watched)
        adversaries.learn("discriminator", loss + penalty)
        return {"discriminator": loss.detach(), "penalty": penalty.detach(),
                "logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}  # fmt: skip


class DFGAN:
    """The model: a text encoder reads the caption, one generator draws it."""

    def __init__(self, config: DFGANConfig) -> None:
        self.config = config
        self.text = open_text_encoder(config.text_encoder, config.image_size)
        self.tokenizers = self.text.encoder.tokenizers
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self) -> Mapping[str, nn.Module]:
        """Return generator, discriminator, text encoder and the image encoder that taught it."""
        return {"generator": self.generator, "discriminator": self.discriminator,
                "text_encoder": self.text.encoder, "image_encoder": self.text.image_encoder}  # fmt: skip

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return the text encoder's stage, then the GAN's."""
        return [text_stage(self.text, self.config.text_encoder, data, self.config.mismatch), GANStage(self)]

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image."""
        sentence = read_frozen(self.text.encoder, [""]).sentence
        images: torch.Tensor = self.generator.eval()(torch.zeros(1, self.config.noise_dim), sentence)
        return images

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, uint8 [N, 3, H, W]."""
        self.generator.eval()

        def draw(some: Sequence[str], some_seeds: Sequence[int]) -> torch.Tensor:
            sentence = read_frozen(self.text.encoder, some).sentence
            noise = seeded_normal(some_seeds, self.config.noise_dim).to(sentence.device)
            images: torch.Tensor = self.generator(noise, sentence)
            return images

        return sample_in_chunks(draw, captions, seeds)
