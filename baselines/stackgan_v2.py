"""StackGAN-v2: a tree of generators draws one image at several scales at once, each with a discriminator of its own.

Zhang, Xu, Li, Zhang, Wang, Huang and Metaxas 2018, "StackGAN++: Realistic Image Synthesis with Stacked Generative
Adversarial Networks" (arXiv:1710.10916), after the official code: scales (section 4.1), with
captions or without (4.2), colours kept alike from scale to scale (4.3). Other than there:
- Training goes on from its own weights after a checkpoint; the official code goes on from their average.
- Wrong images are others of the batch, where the official code loads some more.
- The coarser scales' real images are means over squares of pixels.
- The average holds batch norm's statistics too; the official one holds parameters only.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.loader import Augmentation
from ..datasets.tokenizers import Tokenizer
from ..errors import UserError
from .blocks import (
    GLU,
    GatedConditioning,
    GatedResidual,
    GatedStem,
    ImageHead,
    JointDiscriminator,
    UpConvolution,
    convolution,
    initialise_orthogonal,
    shrink,
)
from .interface import Stage, from_uint8, sample_in_chunks, seeded_normal
from .losses import Adversarial, divergence_from_normal, fake_loss, fooling_loss, real_loss
from .mismatch import MismatchBy, matching_pairs, mismatched_order
from .precision import full_precision
from .reading import read_frozen
from .stabilise import STABILISED, AdversarialStage, Track, normalise
from .text_encoders import SMALL_TEXT, TINY_TEXT, TextEncoderConfig, open_text_encoder, text_stage


@dataclass(frozen=True, kw_only=True)
class StackGANv2Config:
    """Settings of the model; the defaults are the published ones for birds."""

    conditional: bool = True
    """Draw captions. A model without (as published for cats, dogs, bedrooms and churches) has no text encoder."""
    image_size: int = 256
    """Side of the finest branch's images, a power of two."""
    branches: int = 3
    """Scales that are drawn, each half the side of the next; the coarsest has a side of 8 or more."""
    generator_width: int = 64
    """Channels of the coarsest branch's last features, halved from branch to branch (GF_DIM)."""
    discriminator_width: int = 64
    """Channels of each discriminator's first layer (DF_DIM)."""
    residual_blocks: int = 2
    """Of each branch but the coarsest (R_NUM)."""
    noise_dim: int = 100
    """Length of the noise z."""
    condition_dim: int = 128
    """Length of the condition c that is drawn around a caption."""
    divergence_weight: float = 2.0
    """Of the divergence of c from N(0, 1) as a mean over pairs and dimensions, as in the official code; the paper's
    is a sum over dimensions."""
    joint: bool = True
    """Judge images with and without their caption (JCU, section 4.2). Without, only with: the loss is then
    real + (wrong + fake) / 2, as in the official code."""
    wrong_image_is_real: bool = True
    """The discriminator is to call the image of a wrong pair real where it judges images alone, as in the official
    code: so it is, but the paper has no such term. The wrong images being others of the batch, real ones then count
    twice."""
    condition_learns_from_discriminators: bool = True
    """In the generator's step, gradients also reach the condition's mean by way of the discriminators that read it,
    as in the official code. In their own step they never do."""
    discriminators_read: Literal["mean", "embedding"] = "mean"
    """What discriminators know of a caption: the mean of c, as in the official code, or the embedding itself, as in
    AttnGAN. The generator makes the mean and its divergence pulls it to 0: where no caption moves it, no discriminator
    can ask for one."""
    colour_weight: float = 0.0
    """Of the loss that keeps colours alike from scale to scale (alpha, section 4.3): published as 50 without captions,
    0 with."""
    colour_covariance_weight: float = 5.0
    """Of the covariance of colours in that loss (lambda 2); their mean has 1 (lambda 1)."""
    mismatch: MismatchBy = "class"
    """What makes a caption wrong for an image: another "class" (birds) or just another "image" (COCO)."""
    text_encoder: TextEncoderConfig = field(default_factory=TextEncoderConfig)
    """The text encoder, taught first and then frozen; unused without captions."""
    track: Track = Track(ema_kimg=16.6)
    """How the networks are taught. A published decay of 0.999 a step of 24 images is a half-life of 16.6 thousand;
    in the first 20 half-lives the loop's is shorter."""
    batch_size: int = 24
    """Pairs in a step of the GAN."""
    augmentation: Augmentation = "crop-flip"
    """What the loader does to the images, as in the official code; captions that say left or right keep theirs."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no networks."""
        if self.branches < 1:
            raise UserError(f"branches={self.branches}: expected 1 or more")
        least = 8 << self.branches - 1
        if self.image_size < least or self.image_size & (self.image_size - 1):
            raise UserError(f"image_size={self.image_size}: expected a power of two from {least}, the coarsest has 8")
        if self.batch_size < 2:
            raise UserError(f"batch_size={self.batch_size}: expected 2 pairs or more, batch norm needs them")
        if self.generator_width < 1 << self.branches - 1 or self.discriminator_width < 1:
            raise UserError(
                f"generator_width={self.generator_width}, discriminator_width={self.discriminator_width}: expected "
                f"{1 << self.branches - 1} or more, branches halve it, and 1 or more"
            )
        if self.track.gradient_penalty == "ma-gp" and not self.conditional:
            raise UserError('track.gradient_penalty=ma-gp: needs captions; without, expected "r1" or "none"')

    @property
    def read_dim(self) -> int:
        """Return the length of what the discriminators know of a caption."""
        return self.condition_dim if self.discriminators_read == "mean" else self.text_encoder.text_dim

    @property
    def sizes(self) -> tuple[int, ...]:
        """Return the sides of the images that the branches draw, coarsest first."""
        return tuple(self.image_size >> level for level in reversed(range(self.branches)))

    @property
    def code_dim(self) -> int:
        """Return the length of the noise that draws an image: z, and with captions that of c."""
        return self.noise_dim + self.condition_dim * self.conditional


TINY = StackGANv2Config(
    image_size=32, branches=2, generator_width=16, discriminator_width=16, residual_blocks=1, condition_dim=32,
    mismatch="image", text_encoder=replace(TINY_TEXT, standardise=True), batch_size=16, augmentation="none",
    track=Track(generator_learning_rate=5e-4, discriminator_learning_rate=5e-4, ema_kimg=5.0),
)  # fmt: skip
SMALL = StackGANv2Config(
    image_size=64, generator_width=32, discriminator_width=24, residual_blocks=1, condition_dim=64, mismatch="image",
    text_encoder=replace(SMALL_TEXT, standardise=True), augmentation="none", track=Track(ema_kimg=5.0),
)  # fmt: skip
PAPER = StackGANv2Config()
STABILISED_PARTS: Mapping[str, Any] = {
    "track": STABILISED, "discriminators_read": "embedding", "divergence_weight": 0.1
}  # fmt: skip
"""The stabilised track, with discriminators that know the caption whatever the generator makes of it: by its mean, and
with the published divergence, few captions are heeded after some ten thousands of images."""
PRESETS: Mapping[str, StackGANv2Config] = {
    "tiny": TINY,
    "tiny-stabilised": replace(TINY, **STABILISED_PARTS),
    "tiny-unconditional": replace(TINY, conditional=False, colour_weight=50.0),
    "small": SMALL,
    "small-stabilised": replace(SMALL, **STABILISED_PARTS),
    "paper": PAPER,
    "paper-stabilised": replace(PAPER, **STABILISED_PARTS),
    "paper-unconditional": replace(PAPER, conditional=False, colour_weight=50.0),
}
# Runs of some hundred thousand images end before the published average has forgotten its start, so `tiny` and `small`
# have a shorter one. `tiny` takes more and larger steps from as many images.


class Drawn(NamedTuple):
    """Images float [N, 3, S, S] in [-1, 1] by scale, coarsest first; with captions, mean and log std [N, D] of c."""

    images: list[torch.Tensor]
    mean: torch.Tensor | None
    log_std: torch.Tensor | None


class Branch(nn.Module):
    """Features [N, C, S, S] of the branch before and code [N, D] -> features [N, C / 2, 2 S, 2 S]."""

    def __init__(self, width: int, code_dim: int, residual_blocks: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(width + code_dim, 2 * width, 3, 1, 1, "batch", GLU),
            *(GatedResidual(width) for _ in range(residual_blocks)),
            UpConvolution(width, width // 2, GLU),
        )

    def forward(self, features: torch.Tensor, code: torch.Tensor) -> torch.Tensor:
        """Return the features of this branch."""
        everywhere = code[:, :, None, None].expand(-1, -1, *features.shape[2:])
        out: torch.Tensor = self.layers(torch.cat([features, everywhere], 1))
        return out


class Generator(nn.Module):
    """Noise [N, code_dim] and, with captions, embedding [N, text_dim] -> images at every scale.

    What every later branch is given beside the features is the condition, or without captions z.
    """

    def __init__(self, config: StackGANv2Config) -> None:
        super().__init__()
        widths = [config.generator_width >> level for level in range(config.branches)]
        given = config.condition_dim if config.conditional else config.noise_dim
        self.noise_dim = config.noise_dim
        self.conditioning = (
            GatedConditioning(config.text_encoder.text_dim, config.condition_dim) if config.conditional else None
        )
        self.stem = GatedStem(config.code_dim, widths[0], config.sizes[0])
        self.branches = nn.ModuleList(Branch(width, given, config.residual_blocks) for width in widths[:-1])
        self.heads = nn.ModuleList(ImageHead(width) for width in widths)
        self.apply(initialise_orthogonal)

    def forward(self, noise: torch.Tensor, text: torch.Tensor | None) -> Drawn:
        """Return the images and what they were drawn from."""
        given, mean, log_std = noise, None, None
        if self.conditioning is not None:
            mean, log_std = self.conditioning(text)
            given = mean + log_std.exp() * noise[:, self.noise_dim :]
            noise = torch.cat([noise[:, : self.noise_dim], given], 1)
        features = [self.stem(noise)]
        for branch in self.branches:
            features.append(branch(features[-1], given))
        return Drawn([head(seen) for head, seen in zip(self.heads, features, strict=True)], mean, log_std)


class Logits(NamedTuple):
    """What a discriminator says of images, each [N] or None where it is not asked: real? and with their captions?"""

    alone: torch.Tensor | None
    paired: torch.Tensor | None


def discriminator_loss(
    real: Logits, wrong: Logits, fake: Logits, kind: Adversarial, *, wrong_image_is_real: bool
) -> torch.Tensor:
    """Return one discriminator's loss: with both kinds of logits the plain sum of six terms (section 4.2).

    With one kind alone: real + fake of images, or real + (wrong + fake) / 2 of pairs.
    """
    terms = []
    if real.alone is not None and fake.alone is not None:
        terms += [real_loss(real.alone, kind), fake_loss(fake.alone, kind)]
        if wrong.alone is not None and wrong_image_is_real:
            terms += [real_loss(wrong.alone, kind)]
    if real.paired is not None and wrong.paired is not None and fake.paired is not None:
        weight = 0.5 if real.alone is None else 1.0
        terms += [real_loss(real.paired, kind), weight * fake_loss(wrong.paired, kind)]
        terms += [weight * fake_loss(fake.paired, kind)]
    return torch.stack([term.mean() for term in terms]).sum()


def generator_loss(fakes: Sequence[Logits], kind: Adversarial) -> torch.Tensor:
    """Return the sum over scales and kinds of logits of the loss of not being taken for real."""
    asked = [logits for scale in fakes for logits in scale if logits is not None]
    return torch.stack([fooling_loss(logits, kind).mean() for logits in asked]).sum()


def colours(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return mean [N, 3] and covariance [N, 3, 3] over the pixels of images float [N, 3, S, S], in float32."""
    with full_precision(images):
        pixels = images.float().flatten(2)
        mean = pixels.mean(2)
        centred = pixels - mean[:, :, None]
        return mean, centred @ centred.transpose(1, 2) / pixels.shape[2]


def colour_loss(images: Sequence[torch.Tensor], covariance_weight: float) -> torch.Tensor:
    """Return how far each scale's colours are from those of the next coarser one, which learns nothing of it.

    Mean squared errors over entries and images of the mean colour and, weighted, of the covariance (section 4.3).
    """
    loss = images[0].new_zeros((), dtype=torch.float32)
    for coarse, fine in zip(images, images[1:], strict=False):
        (mean, covariance), (goal, covariance_goal) = colours(fine), colours(coarse.detach())
        loss = loss + F.mse_loss(mean, goal) + covariance_weight * F.mse_loss(covariance, covariance_goal)
    return loss


class GANStage(AdversarialStage):
    """Teach the discriminators and then the generator, one step each, on the same fakes; the text encoder is frozen."""

    name = "gan"
    draws = True

    def __init__(self, model: "StackGANv2") -> None:
        config = self.config = model.config
        self.text, self.generator, self.scales = model.text, model.generator, model.scales
        super().__init__(config.track, self.generator, model.discriminator)
        self.share = 1 - config.text_encoder.share if config.conditional else 1.0
        self.batch_size = config.batch_size

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step of all discriminators and one of the generator."""
        self.adversaries.begin_step(len(batch))
        images = from_uint8(batch.images).contiguous(memory_format=torch.channels_last)
        text = read_frozen(self.text.encoder, batch.captions).sentence if self.text else None
        order = mismatched_order(matching_pairs(batch, self.config.mismatch))
        drawn = self.generator(torch.randn(len(images), self.config.code_dim, device=images.device), text)
        known = text if self.config.discriminators_read == "embedding" else drawn.mean
        parts = [self._scale_losses(scale, images, drawn, known, order) for scale in range(self.config.branches)]
        losses, penalties = (torch.stack(part) for part in zip(*parts, strict=True))
        self.adversaries.learn("discriminator", losses.sum() + penalties.sum())
        named = {f"discriminator_{size}": loss.detach() for size, loss in zip(self.config.sizes, losses, strict=True)}
        total = {"discriminator": losses.sum().detach(), "penalty": penalties.sum().detach()}
        return total | (named if len(named) > 1 else {}) | self._generator_step(drawn, known)

    def _scale_losses(
        self, scale: int, images: torch.Tensor, drawn: Drawn, known: torch.Tensor | None, order: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return one discriminator's loss, and the penalty on all that it says of the real pairs."""
        due, discriminator = self.adversaries.penalty_is_due(), self.scales[scale]
        real = shrink(images, self.config.sizes[scale]).detach().requires_grad_(due)
        fake = self.adversaries.augmented(drawn.images[scale].detach())
        known = None if known is None else known.detach().requires_grad_(due)
        # A wrong pair is another image of the batch: what was seen in it is known already.
        seen = discriminator(self.adversaries.augmented(real))
        logits = self._judge(discriminator, seen, known)
        wrong = self._judge(discriminator, seen[order], known) if self.config.conditional else Logits(None, None)
        fooled = self._judge(discriminator, discriminator(fake), known)
        loss = discriminator_loss(
            logits, wrong, fooled, self.config.track.adversarial, wrong_image_is_real=self.config.wrong_image_is_real
        )
        said = torch.stack([part for part in logits if part is not None]).sum(0)
        return loss, self.adversaries.penalty(said, real, real if known is None else known)

    def _generator_step(self, drawn: Drawn, known: torch.Tensor | None) -> dict[str, torch.Tensor]:
        config = self.config
        if known is not None and not config.condition_learns_from_discriminators:
            known = known.detach()
        judged = [
            self._judge(discriminator, discriminator(self.adversaries.augmented(images)), known)
            for discriminator, images in zip(self.scales, drawn.images, strict=True)
        ]
        parts = {"generator": generator_loss(judged, config.track.adversarial)}
        total = parts["generator"]
        if drawn.mean is not None and drawn.log_std is not None:
            parts["divergence"] = divergence_from_normal(drawn.mean, drawn.log_std)
            total = total + config.divergence_weight * parts["divergence"]
        if config.colour_weight:
            parts["colour"] = colour_loss(drawn.images, config.colour_covariance_weight)
            total = total + config.colour_weight * parts["colour"]
        self.adversaries.learn("generator", total)
        return {name: part.detach() for name, part in parts.items()}

    def _judge(
        self, discriminator: JointDiscriminator, seen: torch.Tensor, known: torch.Tensor | None
    ) -> Logits:
        alone = discriminator.alone(seen) if known is None or self.config.joint else None
        return Logits(alone, None if known is None else discriminator.with_caption(seen, known))


class StackGANv2:
    """The model: a text encoder reads the caption, the tree draws it at every scale; the finest is what is seen.

    Made without captions (`conditional=False`) it has no text encoder, and `sample` draws whatever the captions say.
    """

    def __init__(self, config: StackGANv2Config) -> None:
        self.config = config
        self.text = open_text_encoder(config.text_encoder, config.image_size) if config.conditional else None
        self.tokenizers: dict[str, Tokenizer] = self.text.encoder.tokenizers if self.text else {}
        self.generator = Generator(config)
        norm = config.track.discriminator_norm
        self.scales = [
            JointDiscriminator(
                size, config.discriminator_width, config.read_dim, norm, conditional=config.conditional
            )
            for size in config.sizes
        ]
        self.discriminator = nn.ModuleList(self.scales).apply(initialise_orthogonal)
        normalise(self.discriminator, norm)
        for network in (self.generator, self.discriminator):
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def networks(self) -> Mapping[str, nn.Module]:
        """Return the generators, the discriminators and, with captions, text encoder and its image encoder."""
        adversaries = {"generator": self.generator, "discriminator": self.discriminator}
        if self.text is None:
            return adversaries
        return adversaries | {"text_encoder": self.text.encoder, "image_encoder": self.text.image_encoder}

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return the text encoder's stage, where there are captions, then the GAN's."""
        if self.text is None:
            return [GANStage(self)]
        return [text_stage(self.text, self.config.text_encoder, data, self.config.mismatch), GANStage(self)]

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image."""
        return self._draw([""], torch.zeros(1, self.config.code_dim))

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, that of the finest branch, uint8 [N, 3, H, W]."""

        def draw(some: Sequence[str], some_seeds: Sequence[int]) -> torch.Tensor:
            return self._draw(some, seeded_normal(some_seeds, self.config.code_dim))

        return sample_in_chunks(draw, captions, seeds)

    def sample_unconditional(self, n: int, *, seeds: Sequence[int]) -> torch.Tensor:
        """Return `n` images of no caption, uint8 [N, 3, H, W]; raise UserError of a model made for captions."""
        if self.config.conditional:
            raise UserError("conditional=true: this model draws captions; expected one made with conditional=false")
        return self.sample([""] * n, seeds=seeds)

    def _draw(self, captions: Sequence[str], noise: torch.Tensor) -> torch.Tensor:
        text = read_frozen(self.text.encoder, captions).sentence if self.text else None
        drawn: Drawn = self.generator.eval()(noise.to(next(self.generator.parameters()).device), text)
        return drawn.images[-1]
