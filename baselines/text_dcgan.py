"""Text-conditional DCGAN: GAN-CLS, GAN-INT and GAN-INT-CLS.

Reed, Akata, Yan, Logeswaran, Schiele and Lee 2016, "Generative Adversarial Text to Image Synthesis"
(arXiv:1605.05396), with the layers of the official code: the paper has neither its residual blocks nor the batch norm
of what the discriminator reads in captions. The official code conditions on the mean of four captions in training and
on one in drawing; here, as in the paper, one caption conditions one image both times. Wrong images are others of the
batch, where the official code loads some more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.loader import Augmentation
from ..errors import UserError
from .blocks import Bottleneck, LeakyReLU, check_widths, convolution, from_pixels, initialise
from .interface import Stage, from_uint8, sample_in_chunks, seeded_normal
from .losses import fooling_loss, matching_aware_loss
from .mismatch import MismatchBy, matching_pairs, mismatched_order
from .reading import read_frozen
from .stabilise import STABILISED, AdversarialStage, Track, normalise
from .text_encoders import SMALL_TEXT, TINY_TEXT, TextEncoderConfig, open_text_encoder, text_stage


@dataclass(frozen=True, kw_only=True)
class TextDCGANConfig:
    """Settings of the model; the defaults are the published ones for birds and flowers."""

    objective: Literal["gan-cls", "gan-int", "gan-int-cls"] = "gan-int-cls"
    """CLS: the discriminator also rejects real images with a wrong caption. INT: the generator also
    learns from captions half-way between two (section 4.3)."""
    image_size: int = 64
    """Side of the images, a power of two from 16; each doubling adds a layer to both networks."""
    generator_width: int = 128
    """Channels of the generator's last hidden layer (ngf)."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer (ndf)."""
    noise_dim: int = 100
    """Length of the noise z."""
    condition_dim: int = 128
    """Length to which both networks project the caption's embedding."""
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    """What reads the captions: the char-CNN-RNN, taught first and then frozen."""
    mismatch: MismatchBy = "class"
    """What makes a caption wrong for an image: another "class" (birds, flowers) or just another "image" (COCO)."""
    mismatch_weight: float = 0.5
    """Weight of the wrong pair in the discriminator's loss (cls_weight); the fake pair has the rest."""
    interpolation_weight: float = 1.0
    """Weight of the interpolated captions in the generator's loss (interp_weight)."""
    normalise_text: bool = False
    """Batch norm after the generator's projection of the caption, as the discriminator has it. The published
    network has none; embeddings of an encoder taught on few images are so short that noise drowns them."""
    third_layer_activation: bool = True
    """Leaky ReLU after the discriminator's third convolution, from 64 px on: in the paper and in main_cls.lua, missing
    in main_cls_int.lua alone."""
    batch_size: int = 64
    """Pairs in a step of the GAN."""
    track: Track = Track(halve_every_kimg=885.0)
    """How both networks are taught. The published rates halve every 100 epochs, of 8,855 birds each."""
    augmentation: Augmentation = "crop-flip"
    """What the loader does to the images, as in the official code; captions that say left or right keep theirs."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if self.image_size < 16 or self.image_size & (self.image_size - 1):
            raise UserError(f"image_size={self.image_size}: expected a power of two from 16")
        if self.batch_size < 2:
            raise UserError(f"batch_size={self.batch_size}: expected 2 pairs or more, batch norm needs them")
        check_widths(self.generator_width, self.discriminator_width, least=4)


TINY = TextDCGANConfig(
    image_size=32, generator_width=32, discriminator_width=32, condition_dim=64, mismatch="image",
    text_encoder=TINY_TEXT, normalise_text=True, batch_size=16, augmentation="none",
    track=Track(generator_learning_rate=5e-4, discriminator_learning_rate=5e-4, ema_kimg=5.0),
)  # fmt: skip
SMALL = TextDCGANConfig(
    generator_width=64, mismatch="image", text_encoder=SMALL_TEXT, normalise_text=True, augmentation="none",
    track=Track(ema_kimg=5.0),
)  # fmt: skip
PAPER = TextDCGANConfig()
PRESETS: Mapping[str, TextDCGANConfig] = {
    "tiny": TINY,
    "tiny-gan-cls": replace(TINY, objective="gan-cls"),
    "tiny-gan-int": replace(TINY, objective="gan-int"),
    "tiny-stabilised": replace(TINY, track=STABILISED),
    "small": SMALL,
    "small-stabilised": replace(SMALL, track=STABILISED),
    "paper": PAPER,
    "paper-gan-cls": replace(PAPER, objective="gan-cls"),
    "paper-gan-int": replace(PAPER, objective="gan-int"),
    "paper-stabilised": replace(PAPER, track=STABILISED),
}
# The published schedule counts epochs of a small data set; runs of some hundred thousand images end before the
# first halving, so `tiny` and `small` leave it out, and average the weights instead of waiting for them to settle.
# `tiny` takes more and larger steps from as many images: with 64 a step the discriminator runs away from it.


class Generator(nn.Module):
    """Noise [N, noise_dim] and embedding [N, text_dim] -> image [N, 3, S, S] in [-1, 1]."""

    def __init__(self, config: TextDCGANConfig) -> None:
        super().__init__()
        doublings = (config.image_size // 4).bit_length() - 1
        width = config.generator_width
        channels = [width * 2 ** (doublings - 1 - level) for level in range(doublings)]
        norm = [nn.BatchNorm1d(config.condition_dim)] if config.normalise_text else []
        read = nn.Linear(config.text_encoder.text_dim, config.condition_dim)
        self.project = nn.Sequential(read, *norm, LeakyReLU())
        start = config.noise_dim + config.condition_dim
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(start, channels[0], 4, bias=False), nn.BatchNorm2d(channels[0]),
            Bottleneck(channels[0], channels[0] // 4, nn.ReLU),
        ]  # fmt: skip
        for level, (before, after) in enumerate(zip(channels, channels[1:], strict=False)):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers += [Bottleneck(after, after // 4, nn.ReLU) if level == 0 else nn.ReLU()]
        layers += [nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(initialise)

    def forward(self, noise: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return images [N, 3, S, S]."""
        code = torch.cat([noise, self.project(text)], 1)[:, :, None, None]
        images: torch.Tensor = self.layers(code)
        return images


class Discriminator(nn.Module):
    """Image [N, 3, S, S] and embedding [N, text_dim] -> logit [N]: does the image look real and match the text?"""

    def __init__(self, config: TextDCGANConfig) -> None:
        super().__init__()
        norm = config.track.discriminator_norm
        halvings = (config.image_size // 4).bit_length() - 1
        channels = [config.discriminator_width * 2**level for level in range(halvings)]
        layers = from_pixels(channels[0], norm)
        for level, (before, after) in enumerate(zip(channels, channels[1:], strict=False), start=2):
            active = level < halvings and (level != 3 or config.third_layer_activation)
            layers += convolution(before, after, 4, 2, 1, norm, LeakyReLU if active else None)
        last, read = channels[-1], config.condition_dim
        self.image = nn.Sequential(*layers, Bottleneck(last, last // 4, LeakyReLU, norm))
        text_norm = [nn.BatchNorm1d(read)] if norm == "batch" else []
        self.text = nn.Sequential(nn.Linear(config.text_encoder.text_dim, read), *text_norm, LeakyReLU())
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
        """Return logits [N] of what was seen in the images [N, C, 4, 4] and read in the captions [N, P]."""
        everywhere = read[:, :, None, None].expand(-1, -1, 4, 4)
        logits: torch.Tensor = self.decide(torch.cat([seen, everywhere], 1)).flatten()
        return logits


class GANStage(AdversarialStage):
    """Teach the generator and the discriminator, one step each, with the text encoder frozen."""

    name = "gan"
    draws = True

    def __init__(self, model: "TextDCGAN") -> None:
        self.config = config = model.config
        self.generator, self.discriminator = model.generator, model.discriminator
        self.text_encoder = model.text.encoder
        self.share, self.batch_size = 1 - config.text_encoder.share, config.batch_size
        super().__init__(config.track, self.generator, self.discriminator)

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step of the discriminator, then one of the generator, on the same captions (Algorithm 1)."""
        self.adversaries.begin_step(len(batch))
        images = from_uint8(batch.images).contiguous(memory_format=torch.channels_last)
        text = read_frozen(self.text_encoder, batch.captions).sentence
        losses = self._discriminator_step(images, text, mismatched_order(matching_pairs(batch, self.config.mismatch)))
        return losses | self._generator_step(text)

    def _discriminator_step(
        self, images: torch.Tensor, text: torch.Tensor, order: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            fakes = self.generator(self._noise(text), text)
        network, adversaries = self.discriminator, self.adversaries
        if adversaries.penalty_is_due():
            images, text = images.requires_grad_(), text.requires_grad_()
        # A wrong pair is another image of the batch: what was seen in it is known already.
        seen, read = network.image(adversaries.augmented(images)), network.text(text)
        real, fake = network.match(seen, read), network.match(network.image(adversaries.augmented(fakes)), read)
        wrong = network.match(seen[order], read) if self.config.objective != "gan-int" else None
        loss = matching_aware_loss(real, wrong, fake, self.config.mismatch_weight, self.config.track.adversarial)
        penalty = adversaries.penalty(real, images, text)
        adversaries.learn("discriminator", loss + penalty)
        return {"discriminator": loss.detach(), "penalty": penalty.detach(),
                "logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}  # fmt: skip

    def _generator_step(self, text: torch.Tensor) -> dict[str, torch.Tensor]:
        text = text.detach()
        weights = torch.ones(len(text), device=text.device)
        if self.config.objective != "gan-cls":
            half = len(text) // 2
            between = (text[:half] + text[half : 2 * half]) / 2
            text = torch.cat([text, between])
            weights = torch.cat([weights, weights.new_full((half,), self.config.interpolation_weight)])
        images = self.adversaries.augmented(self.generator(self._noise(text), text))
        # Weighted by pair, averaged over all pairs (equation 5).
        loss = (weights * fooling_loss(self.discriminator(images, text), self.config.track.adversarial)).mean()
        self.adversaries.learn("generator", loss)
        return {"generator": loss.detach()}

    def _noise(self, text: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(text), self.config.noise_dim, device=text.device)


class TextDCGAN:
    """The model: a text encoder reads the caption, a DCGAN draws it."""

    def __init__(self, config: TextDCGANConfig) -> None:
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
        text = read_frozen(self.text.encoder, [""]).sentence
        images: torch.Tensor = self.generator.eval()(torch.zeros(1, self.config.noise_dim), text)
        return images

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, uint8 [N, 3, H, W]."""
        self.generator.eval()

        def draw(some: Sequence[str], some_seeds: Sequence[int]) -> torch.Tensor:
            text = read_frozen(self.text.encoder, some).sentence
            noise = seeded_normal(some_seeds, self.config.noise_dim).to(text.device)
            images: torch.Tensor = self.generator(noise, text)
            return images

        return sample_in_chunks(draw, captions, seeds)
