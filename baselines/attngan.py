"""AttnGAN: a generator that attends to the caption's words while it refines the image.

Xu, Zhang, Huang, Zhang, Gan, Huang and He 2018, "AttnGAN: Fine-Grained Text to Image Generation with Attentional
Generative Adversarial Networks" (arXiv:1711.10485). The padding of captions is masked out of the attention; the
official code tiles its mask in the wrong order, so that most images are drawn with the mask of another's caption. Wrong
pairs are drawn from what the batch holds of mismatches; the official code shifts the captions by one in a batch that is
sorted by their lengths, whatever they say. The average of the generator covers its buffers.
The generator's two adversarial terms of a size count whole, as in the official code, where the paper halves each
(equation 4). The coarser sizes' real images are means over squares of pixels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.loader import Augmentation
from ..errors import UserError
from .blocks import (
    GLU,
    GatedConditioning,
    GatedResidual,
    GatedStem,
    ImageHead,
    JointDiscriminator,
    UpConvolution,
    check_widths,
    initialise_orthogonal,
    shrink,
)
from .damsm import DAMSM
from .interface import Stage, from_uint8, sample_in_chunks, seeded_normal
from .losses import Adversarial, divergence_from_normal, fake_loss, fooling_loss, real_loss
from .mismatch import MismatchBy, matching_pairs, mismatched_order
from .reading import Read, read_frozen
from .stabilise import STABILISED, AdversarialStage, Track, normalise
from .text_encoders import SMALL_TEXT, TINY_TEXT, TextEncoderConfig, open_text_encoder, text_stage


@dataclass(frozen=True, kw_only=True)
class AttnGANConfig:
    """Settings of the model; the defaults are the published ones for birds."""

    image_size: int = 256
    """Side of the finest images, a power of two."""
    branches: int = 3
    """How many sizes are drawn, each half the next."""
    generator_width: int = 32
    """Channels of the generator's features at every size (ngf)."""
    discriminator_width: int = 64
    """Channels of each discriminator's first layer (ndf)."""
    residuals: int = 2
    """Residual blocks between two sizes."""
    noise_dim: int = 100
    """Length of the noise z."""
    condition_dim: int = 100
    """Length of the conditioning drawn around the sentence."""
    text_encoder: TextEncoderConfig = field(default_factory=lambda: TextEncoderConfig(kind="damsm", share=0.25))
    """What reads the captions: the DAMSM, taught first and then frozen. Any other needs damsm_weight 0."""
    damsm_weight: float = 5.0
    """Weight of the DAMSM's losses of the finest images (lambda): 5 for birds, 50 for COCO."""
    divergence_weight: float = 1.0
    """Weight of the conditioning's divergence from a standard normal, averaged over pairs and dimensions."""
    mismatch: MismatchBy = "class"
    """What makes a caption wrong for an image: another "class" (birds) or just another "image" (COCO)."""
    batch_size: int = 20
    """Pairs in a step of the GAN."""
    track: Track = Track(ema_kimg=13.9)
    """How the networks are taught. The published average keeps 0.999 of itself in a step of 20 images: a half-life of
    13.9 thousand; in the first 20 half-lives the loop's is shorter."""
    augmentation: Augmentation = "crop-flip"
    """What the loader does to the images, as in the official code; captions that say left or right keep theirs."""

    def __post_init__(self) -> None:
        """Refuse settings that make no network or no loss."""
        if self.image_size < 16 or self.image_size & (self.image_size - 1):
            raise UserError(f"image_size={self.image_size}: expected a power of two from 16")
        if self.branches < 1 or self.sizes[0] < 8:
            raise UserError(f"branches={self.branches}: expected 1 or more, the coarsest of 8 pixels or more")
        if self.batch_size < 2:
            raise UserError(f"batch_size={self.batch_size}: expected 2 pairs or more, batch norm needs them")
        check_widths(self.generator_width, self.discriminator_width, least=4)
        if min(self.damsm_weight, self.divergence_weight) < 0:
            raise UserError(
                f"damsm_weight={self.damsm_weight:g}, divergence_weight={self.divergence_weight:g}: expected 0 or more"
            )
        if self.damsm_weight and self.text_encoder.standardise:
            raise UserError(
                f"text_encoder.standardise=true: expected false with damsm_weight={self.damsm_weight:g}, the DAMSM "
                "matches sentences as it was taught to"
            )
        if self.damsm_weight and self.text_encoder.kind != "damsm":
            raise UserError(
                f"damsm_weight={self.damsm_weight:g}: expected 0 with text_encoder.kind={self.text_encoder.kind}, "
                "only damsm has regions to match words with"
            )

    @property
    def sizes(self) -> list[int]:
        """Return the sides of the images, coarsest first."""
        return [self.image_size >> level for level in reversed(range(self.branches))]


TINY = AttnGANConfig(
    image_size=32, branches=2, generator_width=16, discriminator_width=24, residuals=1, noise_dim=32, condition_dim=32,
    text_encoder=replace(TINY_TEXT, kind="damsm", share=0.25), mismatch="image", batch_size=16, augmentation="none",
    track=Track(generator_learning_rate=5e-4, discriminator_learning_rate=5e-4, ema_kimg=5.0),
)  # fmt: skip
SMALL = AttnGANConfig(
    image_size=64, branches=3, generator_width=16, discriminator_width=32, noise_dim=64, condition_dim=64,
    text_encoder=replace(SMALL_TEXT, kind="damsm"), mismatch="image", batch_size=16, augmentation="none",
    track=Track(ema_kimg=5.0),
)  # fmt: skip
PAPER = AttnGANConfig()
PRESETS: Mapping[str, AttnGANConfig] = {
    "tiny": TINY,
    "tiny-stabilised": replace(TINY, track=STABILISED),
    "small": SMALL,
    "small-stabilised": replace(SMALL, track=STABILISED),
    "paper": PAPER,
    "paper-stabilised": replace(PAPER, track=STABILISED),
}
# `tiny` takes larger steps than published: it sees some hundred thousand images, not five million.


class WordAttention(nn.Module):
    """Each place of the features [N, C, S, S] -> the caption's words averaged by what it attends to (equation 2)."""

    def __init__(self, text_dim: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Linear(text_dim, channels, bias=False)

    def forward(self, features: torch.Tensor, read: Read) -> torch.Tensor:
        """Return [N, C, S, S]; words that `read.mask` does not mark have no part in it."""
        side = features.shape[-1]
        words = self.project(read.words)
        places = features.flatten(2).transpose(1, 2)
        scores = torch.bmm(places, words.transpose(1, 2)).masked_fill(~read.mask[:, None], float("-inf"))
        attended = torch.bmm(scores.softmax(2), words)
        return attended.transpose(1, 2).reshape(len(words), -1, side, side)


class Refinement(nn.Module):
    """Features [N, C, S, S] and words -> features [N, C, 2S, 2S] (F_i with F^attn_i, equation 1)."""

    def __init__(self, text_dim: int, channels: int, residuals: int) -> None:
        super().__init__()
        self.attention = WordAttention(text_dim, channels)
        self.layers = nn.Sequential(
            *(GatedResidual(2 * channels) for _ in range(residuals)), UpConvolution(2 * channels, channels, GLU)
        )

    def forward(self, features: torch.Tensor, read: Read) -> torch.Tensor:
        """Return features of twice the side."""
        refined: torch.Tensor = self.layers(torch.cat([features, self.attention(features, read)], 1))
        return refined


class Generator(nn.Module):
    """Noise [N, noise_dim], deviates [N, condition_dim] and a read caption -> images [N, 3, S, S], S of every size."""

    def __init__(self, config: AttnGANConfig) -> None:
        super().__init__()
        text_dim, width = config.text_encoder.text_dim, config.generator_width
        self.condition = GatedConditioning(text_dim, config.condition_dim)
        self.stem = GatedStem(config.noise_dim + config.condition_dim, width, config.sizes[0])
        self.refine = nn.ModuleList(Refinement(text_dim, width, config.residuals) for _ in config.sizes[1:])
        self.heads = nn.ModuleList(ImageHead(width) for _ in config.sizes)
        self.apply(initialise_orthogonal)

    def forward(
        self, noise: torch.Tensor, deviates: torch.Tensor, read: Read
    ) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
        """Return the images in [-1, 1], coarsest first, and the conditioning's mean and log std."""
        mean, log_std = self.condition(read.sentence)
        features = self.stem(torch.cat([mean + log_std.exp() * deviates, noise], 1))
        images = [self.heads[0](features)]
        for refine, head in zip(self.refine, self.heads[1:], strict=True):
            features = refine(features, read)
            images.append(head(features))
        return images, mean, log_std


def make_discriminators(config: AttnGANConfig) -> nn.ModuleList:
    """Return a discriminator for every size, coarsest first, which see the sentence as it was read."""
    discriminators = nn.ModuleList(
        JointDiscriminator(
            size, config.discriminator_width, config.text_encoder.text_dim, config.track.discriminator_norm,
            conditional=True,
        )
        for size in config.sizes
    )  # fmt: skip
    discriminators.apply(initialise_orthogonal)
    normalise(discriminators, config.track.discriminator_norm)
    return discriminators


def discriminator_loss(
    real: Sequence[torch.Tensor], wrong: torch.Tensor, fake: Sequence[torch.Tensor], kind: Adversarial
) -> torch.Tensor:
    """Return the mean of the two losses on real images plus that of the three on what is to be rejected.

    `real` and `fake` are logits [N] of images alone and of images with their captions; `wrong`, of real images with
    others' captions. The paper's halves (equation 5) have no wrong pairs; these are the weights of the official code.
    """
    accepted = torch.stack([real_loss(logits, kind).mean() for logits in real]).mean()
    rejected = torch.stack([fake_loss(logits, kind).mean() for logits in (*fake, wrong)]).mean()
    return accepted + rejected


class GANStage(AdversarialStage):
    """Teach the generator and its discriminators, one step each, with both encoders frozen."""

    name = "gan"
    draws = True

    def __init__(self, model: "AttnGAN") -> None:
        self.config = config = model.config
        self.generator, self.discriminator = model.generator, model.discriminator
        self.discriminators = cast(list[JointDiscriminator], list(model.discriminator))
        self.text = model.text
        self.share, self.batch_size = 1 - config.text_encoder.share, config.batch_size
        super().__init__(config.track, self.generator, self.discriminator)

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step of every discriminator, then one of the generator, on the same images and captions."""
        self.adversaries.begin_step(len(batch))
        images = from_uint8(batch.images).contiguous(memory_format=torch.channels_last)
        reals = [shrink(images, size) for size in self.config.sizes]
        read = read_frozen(self.text.encoder, batch.captions)
        matching = matching_pairs(batch, self.config.mismatch)
        noise = torch.randn(len(batch), self.config.noise_dim, device=images.device)
        deviates = torch.randn(len(batch), self.config.condition_dim, device=images.device)
        fakes, mean, log_std = self.generator(noise, deviates, read)
        losses = self._discriminator_step(reals, fakes, read.sentence, mismatched_order(matching))
        return losses | self._generator_step(fakes, read, matching, divergence_from_normal(mean, log_std))

    def _discriminator_step(
        self, reals: list[torch.Tensor], fakes: list[torch.Tensor], sentence: torch.Tensor, order: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        adversaries, kind = self.adversaries, self.config.track.adversarial
        if adversaries.penalty_is_due():
            sentence = sentence.detach().requires_grad_()
            reals = [real.detach().requires_grad_() for real in reals]
        loss = penalty = sentence.new_zeros(())
        for network, real, fake in zip(self.discriminators, reals, fakes, strict=True):
            seen, imagined = network(adversaries.augmented(real)), network(adversaries.augmented(fake.detach()))
            alone, matched = network.alone(seen), network.with_caption(seen, sentence)
            # A wrong pair is a real image with another's caption: what was seen in it is known already.
            wrong = network.with_caption(seen, sentence[order])
            pairs = (network.alone(imagined), network.with_caption(imagined, sentence))
            loss = loss + discriminator_loss((alone, matched), wrong, pairs, kind)
            penalty = penalty + adversaries.penalty(alone + matched, real, sentence)
        adversaries.learn("discriminator", loss + penalty)
        # Those of the finest size.
        means = {"logit_real": matched.detach().mean(), "logit_fake": pairs[1].detach().mean()}
        return {"discriminator": loss.detach(), "penalty": penalty.detach()} | means

    def _generator_step(
        self, fakes: list[torch.Tensor], read: Read, matching: torch.Tensor, divergence: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        kind, parts = self.config.track.adversarial, {"divergence": divergence}
        adversarial = divergence.new_zeros(())
        for network, fake in zip(self.discriminators, fakes, strict=True):
            seen = network(self.adversaries.augmented(fake))
            alone, pair = network.alone(seen), network.with_caption(seen, read.sentence)
            adversarial = adversarial + fooling_loss(alone, kind).mean() + fooling_loss(pair, kind).mean()
        loss = adversarial + self.config.divergence_weight * divergence
        if self.config.damsm_weight:
            parts |= self._match(fakes[-1], read, matching)
            loss = loss + self.config.damsm_weight * (parts["words"] + parts["sentences"])
        self.adversaries.learn("generator", loss)
        return {"generator": adversarial.detach()} | {name: value.detach() for name, value in parts.items()}

    def _match(self, images: torch.Tensor, read: Read, matching: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return the DAMSM's losses of images, through which gradients flow into them and nowhere else."""
        assert isinstance(self.text, DAMSM), "the config refuses other text encoders"
        self.text.image_encoder.eval()
        return self.text.match(images, read, matching)


class AttnGAN:
    """The model: a DAMSM reads the caption, a generator with attention to its words draws it."""

    def __init__(self, config: AttnGANConfig) -> None:
        self.config = config
        self.text = open_text_encoder(config.text_encoder, config.image_size)
        self.tokenizers = self.text.encoder.tokenizers
        self.generator = Generator(config)
        self.discriminator = make_discriminators(config)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self) -> Mapping[str, nn.Module]:
        """Return the generator, the discriminators of all sizes, the text encoder and the image encoder."""
        return {"generator": self.generator, "discriminator": self.discriminator,
                "text_encoder": self.text.encoder, "image_encoder": self.text.image_encoder}  # fmt: skip

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return the text encoder's stage, then the GAN's."""
        return [text_stage(self.text, self.config.text_encoder, data, self.config.mismatch), GANStage(self)]

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image."""
        return self._draw([""], torch.zeros(1, self.config.noise_dim + self.config.condition_dim))

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, the finest, uint8 [N, 3, H, W]."""

        def draw(some: Sequence[str], some_seeds: Sequence[int]) -> torch.Tensor:
            return self._draw(some, seeded_normal(some_seeds, self.config.noise_dim + self.config.condition_dim))

        return sample_in_chunks(draw, captions, seeds)

    def _draw(self, captions: Sequence[str], chance: torch.Tensor) -> torch.Tensor:
        read = read_frozen(self.text.encoder, captions)
        noise, deviates = torch.tensor_split(chance.to(read.sentence.device), [self.config.noise_dim], dim=1)
        images: list[torch.Tensor] = self.generator.eval()(noise, deviates, read)[0]
        return images[-1]
