"""Text-conditional DCGAN: GAN-CLS, GAN-INT and GAN-INT-CLS.

Reed, Akata, Yan, Logeswaran, Schiele and Lee 2016, "Generative Adversarial Text to Image Synthesis"
(arXiv:1605.05396), with the layers of the official code, whose residual blocks the paper's figure omits.
The official code conditions on the mean of four captions in training and on one in drawing; here, as in the
paper, one caption conditions one image both times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.loader import Augmentation
from ..datasets.tokenizers import Tokenizer
from ..errors import UserError
from .interface import Stage, from_uint8, optimiser_step, sample_in_chunks, seeded_normal
from .mismatch import MismatchBy, matching_pairs, mismatched_order
from .text_encoders import CharCNNRNN, CharCNNRNNConfig, ImageEncoder, JointEmbeddingStage


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
    projected_dim: int = 128
    """Length to which both networks project the caption's embedding."""
    text_encoder: CharCNNRNNConfig = field(default_factory=CharCNNRNNConfig)
    """The char-CNN-RNN, taught first and then frozen."""
    text_share: float = 0.2
    """Part of the training budget that goes to the text encoder."""
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
    """Leaky ReLU after the discriminator's third convolution, from 64 px on: in main_cls.lua, missing in
    main_cls_int.lua."""
    batch_size: int = 64
    """Pairs in a step of the GAN."""
    learning_rate: float = 2e-4
    """Of both Adam optimisers."""
    adam_beta1: float = 0.5
    """First moment of both Adam optimisers."""
    halve_every_kimg: float = 885.0
    """The learning rate halves after this many thousand images: 100 epochs of 8,855 birds; 0 never halves it."""
    augmentation: Augmentation = "crop-flip"
    """What the loader does to the images, as in the official code; captions that say left or right keep theirs."""
    ema_kimg: float = 0.0
    """Half-life of the generator's average in thousands of images; 0 draws with the last weights, as published."""

    def __post_init__(self) -> None:
        """Refuse sizes and shares that make no network or no budget."""
        if self.image_size < 16 or self.image_size & (self.image_size - 1):
            raise UserError(f"image_size={self.image_size}: expected a power of two from 16")
        if self.batch_size < 2 or self.text_encoder.batch_size < 2:
            raise UserError("batch_size: expected 2 pairs or more, batch norm needs them")
        if not 0 <= self.text_share <= 1:
            raise UserError(f"text_share={self.text_share:g}: expected 0 to 1")
        if self.text_encoder.characters < 40:
            raise UserError(f"text_encoder.characters={self.text_encoder.characters}: expected 40 or more")
        if min(self.generator_width, self.discriminator_width, *self.text_encoder.channels) < 4:
            raise UserError("generator_width, discriminator_width and text_encoder.channels: expected 4 or more")


TINY = TextDCGANConfig(
    image_size=32, generator_width=32, discriminator_width=32, projected_dim=64, mismatch="image",
    text_encoder=CharCNNRNNConfig(
        channels=(64, 96, 128), recurrent_width=128, text_dim=128, learning_rate=1.5e-3, image_width=32
    ),
    text_share=0.4, normalise_text=True, batch_size=16, learning_rate=5e-4, halve_every_kimg=0.0,
    augmentation="none", ema_kimg=5.0,
)  # fmt: skip
SMALL = TextDCGANConfig(
    generator_width=64, projected_dim=128, mismatch="image", normalise_text=True,
    text_encoder=CharCNNRNNConfig(
        channels=(128, 192, 256), recurrent_width=256, text_dim=256, learning_rate=1.5e-3, image_width=32
    ),
    augmentation="none", text_share=0.3,
    halve_every_kimg=0.0, ema_kimg=5.0,
)  # fmt: skip
PAPER = TextDCGANConfig()
PRESETS: Mapping[str, TextDCGANConfig] = {
    "tiny": TINY,
    "tiny-gan-cls": replace(TINY, objective="gan-cls"),
    "tiny-gan-int": replace(TINY, objective="gan-int"),
    "small": SMALL,
    "paper": PAPER,
    "paper-gan-cls": replace(PAPER, objective="gan-cls"),
    "paper-gan-int": replace(PAPER, objective="gan-int"),
}
# The published schedule counts epochs of a small data set; runs of some hundred thousand images end before the
# first halving, so `tiny` and `small` leave it out, and average the weights instead of waiting for them to settle.
# `tiny` takes more and larger steps from as many images: with 64 a step the discriminator runs away from it.
# At the published rate the text encoder would know backgrounds and layouts by the end of its share, but no colours.


class Residual(nn.Module):
    """Bottleneck x + (1x1, 3x3, 3x3) with batch norm, then an activation; used by both networks."""

    def __init__(self, channels: int, bottleneck: int, activation: type[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, bottleneck, 1, bias=False), nn.BatchNorm2d(bottleneck), activation(),
            nn.Conv2d(bottleneck, bottleneck, 3, padding=1, bias=False), nn.BatchNorm2d(bottleneck), activation(),
            nn.Conv2d(bottleneck, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip
        self.activation = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x`."""
        out: torch.Tensor = self.activation(x + self.layers(x))
        return out


class LeakyReLU(nn.LeakyReLU):
    """Leaky ReLU of slope 0.2, the paper's."""

    def __init__(self) -> None:
        super().__init__(0.2)


class Generator(nn.Module):
    """Noise [N, noise_dim] and embedding [N, text_dim] -> image [N, 3, S, S] in [-1, 1]."""

    def __init__(self, config: TextDCGANConfig) -> None:
        super().__init__()
        doublings = (config.image_size // 4).bit_length() - 1
        width = config.generator_width
        channels = [width * 2 ** max(doublings - 1 - level, 0) for level in range(doublings)]
        norm = [nn.BatchNorm1d(config.projected_dim)] if config.normalise_text else []
        read = nn.Linear(config.text_encoder.text_dim, config.projected_dim)
        self.project = nn.Sequential(read, *norm, LeakyReLU())
        start = config.noise_dim + config.projected_dim
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(start, channels[0], 4, bias=False), nn.BatchNorm2d(channels[0]),
            Residual(channels[0], channels[0] // 4, nn.ReLU),
        ]  # fmt: skip
        for level, (before, after) in enumerate(zip(channels, channels[1:], strict=False)):
            layers += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            layers += [Residual(after, after // 4, nn.ReLU) if level == 0 else nn.ReLU()]
        layers += [nn.ConvTranspose2d(channels[-1], 3, 4, 2, 1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)
        self.apply(_initialise)

    def forward(self, noise: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return images [N, 3, S, S]."""
        code = torch.cat([noise, self.project(text)], 1)[:, :, None, None]
        images: torch.Tensor = self.layers(code)
        return images


class Discriminator(nn.Module):
    """Image [N, 3, S, S] and embedding [N, text_dim] -> logit [N]: does the image look real and match the text?"""

    def __init__(self, config: TextDCGANConfig) -> None:
        super().__init__()
        halvings = (config.image_size // 4).bit_length() - 1
        channels = [config.discriminator_width * 2**level for level in range(halvings)]
        layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 4, 2, 1, bias=False), LeakyReLU()]
        for level, (before, after) in enumerate(zip(channels, channels[1:], strict=False), start=2):
            layers += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after)]
            if level < halvings and (level != 3 or config.third_layer_activation):
                layers += [LeakyReLU()]
        last = channels[-1]
        self.image = nn.Sequential(*layers, Residual(last, last // 4, LeakyReLU))
        read = config.projected_dim
        self.text = nn.Sequential(nn.Linear(config.text_encoder.text_dim, read), nn.BatchNorm1d(read), LeakyReLU())
        self.decide = nn.Sequential(
            nn.Conv2d(last + read, last, 1, bias=False), nn.BatchNorm2d(last), LeakyReLU(),
            nn.Conv2d(last, 1, 4, bias=False),
        )  # fmt: skip
        self.apply(_initialise)

    def forward(self, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return logits [N]."""
        return self.match(self.image(images), self.text(text))

    def match(self, seen: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Return logits [N] of what was seen in the images [N, C, 4, 4] and read in the captions [N, P]."""
        everywhere = read[:, :, None, None].expand(-1, -1, 4, 4)
        logits: torch.Tensor = self.decide(torch.cat([seen, everywhere], 1)).flatten()
        return logits


def _initialise(module: nn.Module) -> None:
    """Draw convolutions from N(0, 0.02) and norms' scales from N(1, 0.02), as the official code does."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
    elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def discriminator_loss(
    real: torch.Tensor, wrong: torch.Tensor | None, fake: torch.Tensor, mismatch_weight: float
) -> torch.Tensor:
    """Return BCE(real -> 1) + weighted BCE(wrong -> 0) and BCE(fake -> 0), on logits [N] (Algorithm 1, line 9).

    Without wrong pairs (GAN-INT) the fake pairs have the whole weight.
    """
    loss, weight = F.softplus(-real.float()).mean(), 1.0
    if wrong is not None:
        loss, weight = loss + mismatch_weight * F.softplus(wrong.float()).mean(), 1 - mismatch_weight
    return loss + weight * F.softplus(fake.float()).mean()


def generator_loss(logits: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the non-saturating loss -log D, weighted by pair, averaged over all pairs (equation 5)."""
    return (weights * F.softplus(-logits.float())).mean()


class GANStage:
    """Teach the generator and the discriminator, one step each, with the text encoder frozen."""

    name = "gan"
    draws = True

    def __init__(self, model: "TextDCGAN") -> None:
        self.config = config = model.config
        self.generator, self.discriminator = model.generator, model.discriminator
        self.text_encoder = model.text_encoder
        self.share, self.batch_size, self.ema_kimg = 1 - config.text_share, config.batch_size, config.ema_kimg
        self.averaged: Mapping[str, nn.Module] = {"generator": self.generator} if config.ema_kimg else {}
        self.images_seen = 0
        betas = (config.adam_beta1, 0.999)
        self.generator_optimiser = torch.optim.Adam(self.generator.parameters(), config.learning_rate, betas)
        self.discriminator_optimiser = torch.optim.Adam(self.discriminator.parameters(), config.learning_rate, betas)

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step of the discriminator, then one of the generator, on the same captions (Algorithm 1)."""
        self._schedule(len(batch))
        self.generator.train()
        self.discriminator.train()
        self.text_encoder.eval()
        images = from_uint8(batch.images).contiguous(memory_format=torch.channels_last)
        with torch.no_grad():
            text = self.text_encoder.encode(batch.captions)
        losses = self._discriminator_step(images, text, mismatched_order(matching_pairs(batch, self.config.mismatch)))
        return losses | self._generator_step(text)

    def _discriminator_step(
        self, images: torch.Tensor, text: torch.Tensor, order: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            fakes = self.generator(self._noise(text), text)
        network = self.discriminator
        # A wrong pair is another image of the batch: what was seen in it is known already.
        seen, read = network.image(images), network.text(text)
        real, fake = network.match(seen, read), network.match(network.image(fakes), read)
        wrong = network.match(seen[order], read) if self.config.objective != "gan-int" else None
        loss = discriminator_loss(real, wrong, fake, self.config.mismatch_weight)
        optimiser_step(self.discriminator_optimiser, loss)
        means = {"logit_real": real.detach().mean(), "logit_fake": fake.detach().mean()}
        return {"discriminator": loss.detach()} | means

    def _generator_step(self, text: torch.Tensor) -> dict[str, torch.Tensor]:
        weights = torch.ones(len(text), device=text.device)
        if self.config.objective != "gan-cls":
            half = len(text) // 2
            between = (text[:half] + text[half : 2 * half]) / 2
            text = torch.cat([text, between])
            weights = torch.cat([weights, weights.new_full((half,), self.config.interpolation_weight)])
        logits = self.discriminator(self.generator(self._noise(text), text), text)
        loss = generator_loss(logits, weights)
        optimiser_step(self.generator_optimiser, loss)
        return {"generator": loss.detach()}

    def _noise(self, text: torch.Tensor) -> torch.Tensor:
        return torch.randn(len(text), self.config.noise_dim, device=text.device)

    def _schedule(self, images: int) -> None:
        self.images_seen += images
        every = 1000 * self.config.halve_every_kimg
        rate = self.config.learning_rate * (0.5 ** (self.images_seen // every) if every else 1.0)
        for optimiser in (self.generator_optimiser, self.discriminator_optimiser):
            for group in optimiser.param_groups:
                group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """Return the networks, the optimisers and the images seen."""
        return {"generator": self.generator.state_dict(), "discriminator": self.discriminator.state_dict(),
                "generator_optimiser": self.generator_optimiser.state_dict(),
                "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
                "images_seen": self.images_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the networks, the optimisers and the images seen."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        self.images_seen = state["images_seen"]


class TextDCGAN:
    """The model: a char-CNN-RNN reads the caption, a DCGAN draws it."""

    def __init__(self, config: TextDCGANConfig) -> None:
        self.config = config
        self.text_encoder = CharCNNRNN(config.text_encoder)
        self.tokenizers: dict[str, Tokenizer] = {"caption": self.text_encoder.tokenizer}
        self.image_encoder = ImageEncoder(
            config.image_size, config.text_encoder.image_width, config.text_encoder.text_dim
        )
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self) -> Mapping[str, nn.Module]:
        """Return generator, discriminator, text encoder and the image encoder that taught it."""
        return {"generator": self.generator, "discriminator": self.discriminator,
                "text_encoder": self.text_encoder, "image_encoder": self.image_encoder}

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return the text encoder's stage, then the GAN's."""
        text = JointEmbeddingStage(
            self.text_encoder, self.image_encoder, self.config.text_encoder,
            share=self.config.text_share, mismatch=self.config.mismatch,
        )  # fmt: skip
        return [text, GANStage(self)]

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image."""
        text = self.text_encoder.eval()(torch.zeros(1, self.config.text_encoder.characters, dtype=torch.int64))
        images: torch.Tensor = self.generator.eval()(torch.zeros(1, self.config.noise_dim), text)
        return images

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, uint8 [N, 3, H, W]."""
        self.generator.eval()
        self.text_encoder.eval()

        def draw(some: Sequence[str], some_seeds: Sequence[int]) -> torch.Tensor:
            text = self.text_encoder.encode(some)
            noise = seeded_normal(some_seeds, self.config.noise_dim).to(text.device)
            images: torch.Tensor = self.generator(noise, text)
            return images

        return sample_in_chunks(draw, captions, seeds)
