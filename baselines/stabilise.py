"""How a GAN is taught, whatever it draws with: the papers' settings, and one kit that stabilises them all.

Every part is a field of `Track`, so that leaving one out is an ablation. DiffAugment: Zhao et al. 2020
(arXiv:2006.10738). Spectral norm: Miyato et al. 2018 (arXiv:1802.05957). R1: Mescheder et al. 2018
(arXiv:1801.04406), as in StyleGAN2 (arXiv:1912.04958) every few steps only, but together with the loss. MA-GP: Tao et
al. 2022 (arXiv:2008.05865). TTUR: Heusel et al. 2017 (arXiv:1706.08500).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from ..errors import UserError
from .interface import check_adam_betas, optimiser_step
from .losses import Adversarial

DiscriminatorNorm = Literal["batch", "spectral", "none"]
GradientPenalty = Literal["none", "r1", "ma-gp"]
Augment = Literal["colour", "translation", "cutout"]


@dataclass(frozen=True, kw_only=True)
class Track:
    """How generator and discriminator are taught; the defaults are those of the GANs from Reed et al. 2016 on."""

    adversarial: Adversarial = "bce"
    """The loss on logits."""
    discriminator_norm: DiscriminatorNorm = "batch"
    """Batch norm in the discriminators, or spectral norm of their weights, or neither."""
    gradient_penalty: GradientPenalty = "none"
    """R1 holds down the gradient at real images; MA-GP, at real images with their captions. Meant for discriminators
    without batch norm, through which an image's logit depends on the others."""
    penalty_weight: float = 2.0
    """Of the gradient penalty: gamma of R1, k of MA-GP."""
    penalty_power: float = 6.0
    """p of MA-GP, the power of the gradient's norm."""
    penalty_every: int = 1
    """Steps from one gradient penalty to the next, each weighted by as much."""
    augment: tuple[Augment, ...] = ()
    """DiffAugment of what a discriminator sees, real, wrong and fake alike."""
    generator_learning_rate: float = 2e-4
    """Of Adam."""
    discriminator_learning_rate: float = 2e-4
    """Of Adam; another than the generator's is TTUR."""
    adam_betas: tuple[float, float] = (0.5, 0.999)
    """Moments of both Adam optimisers."""
    halve_every_kimg: float = 0.0
    """Both learning rates halve after this many thousand images; 0 never halves them."""
    ema_kimg: float = 0.0
    """Half-life of the generator's average in thousands of images; 0 draws with the last weights."""

    def __post_init__(self) -> None:
        """Refuse a schedule that cannot be kept, and moments that Adam has not."""
        check_adam_betas("track.adam_betas", self.adam_betas)
        if self.penalty_every < 1:
            raise UserError(f"track.penalty_every={self.penalty_every}: expected 1 or more")
        for name in ("penalty_weight", "generator_learning_rate", "discriminator_learning_rate", "halve_every_kimg",
                     "ema_kimg"):  # fmt: skip
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"track.{name}={getattr(self, name):g}: expected 0 or more")


STABILISED = Track(
    adversarial="hinge", discriminator_norm="none", gradient_penalty="r1", penalty_weight=1.0, penalty_every=4,
    generator_learning_rate=5e-4, discriminator_learning_rate=1e-3, adam_betas=(0.0, 0.99), ema_kimg=5.0,
)  # fmt: skip
"""The shared kit, chosen by short runs of text-dcgan on `scenes`: with R1 captions were learnt sooner than with
spectral norm. DiffAugment is left out, because with it they were learnt later; it is meant for sets of few images, as
`track.augment=["translation"]`. Colours and cutouts change what captions name."""


def normalise(discriminator: nn.Module, norm: DiscriminatorNorm) -> None:
    """Put spectral norm on every convolution and linear layer of an initialised network where `norm` says so."""
    if norm == "spectral":
        for layer in [module for module in discriminator.modules() if isinstance(module, nn.Conv2d | nn.Linear)]:
            spectral_norm(layer)


def diff_augment(images: torch.Tensor, policy: Sequence[Augment]) -> torch.Tensor:
    """Return images float [N, 3, S, S], each changed by chances of its own, through which gradients flow."""
    for name in policy:
        images = {"colour": _colour, "translation": _translation, "cutout": _cutout}[name](images)
    return images


def _colour(images: torch.Tensor) -> torch.Tensor:
    """Return the images with brightness +-0.5, saturation times 0 to 2, contrast times 0.5 to 1.5."""
    brightness, saturation, contrast = torch.rand(3, len(images), 1, 1, 1, device=images.device)
    images = images + (brightness - 0.5)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    mean = images.mean((1, 2, 3), keepdim=True)
    changed: torch.Tensor = mean + (images - mean) * (contrast + 0.5)
    return changed


def _translation(images: torch.Tensor) -> torch.Tensor:
    """Return the images moved by up to an eighth of the side both ways, zeros where they leave."""
    count, _, side, _ = images.shape
    reach = (side + 4) // 8
    down, right = torch.randint(-reach, reach + 1, (2, count, 1), device=images.device)
    at = torch.arange(side, device=images.device)
    rows, columns = (at + down + reach)[:, :, None], (at + right + reach)[:, None]
    padded = F.pad(images, (reach, reach, reach, reach)).permute(0, 2, 3, 1)
    moved = padded[torch.arange(count, device=images.device)[:, None, None], rows, columns]
    return moved.permute(0, 3, 1, 2)


def _cutout(images: torch.Tensor) -> torch.Tensor:
    """Return the images with a square of half the side blanked, its centre anywhere."""
    count, _, side, _ = images.shape
    half = side // 4
    top, left = torch.randint(-half, side + 1 - half, (2, count, 1), device=images.device)
    at = torch.arange(side, device=images.device)
    rows, columns = (at >= top) & (at < top + 2 * half), (at >= left) & (at < left + 2 * half)
    kept: torch.Tensor = images * ~(rows[:, None, :, None] & columns[:, None, None, :])
    return kept


def gradient_penalty(track: Track, logits: torch.Tensor, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the weighted penalty on the gradient of `logits` by real `images` and `text`, both requiring gradients.

    R1: weight / 2 x the mean square of the norm by the images. MA-GP: weight x the mean of norm^power of the
    gradient by images and text together. Norms and their powers, which leave bfloat16, are in float32; the gradient
    comes from the step's own pass, in its precision.
    """
    by = (images, text) if track.gradient_penalty == "ma-gp" else (images,)
    gradients = torch.autograd.grad(logits.float().sum(), by, create_graph=True)
    squares = torch.stack([gradient.float().flatten(1).square().sum(1) for gradient in gradients]).sum(0)
    if track.gradient_penalty == "r1":
        penalty: torch.Tensor = track.penalty_weight / 2 * squares.mean()
    else:
        penalty = track.penalty_weight * (squares + 1e-12).pow(track.penalty_power / 2).mean()
    return penalty


class Adversaries:
    """A generator and a discriminator with an Adam each: schedule, steps and state.

    Several discriminators in one `nn.ModuleList` are as independent here as with an Adam each.
    """

    def __init__(self, track: Track, generator: nn.Module, discriminator: nn.Module) -> None:
        self.track, self.generator, self.discriminator = track, generator, discriminator
        self.generator_optimiser = torch.optim.Adam(
            generator.parameters(), track.generator_learning_rate, track.adam_betas
        )
        self.discriminator_optimiser = torch.optim.Adam(
            discriminator.parameters(), track.discriminator_learning_rate, track.adam_betas
        )
        self.steps = self.images_seen = 0

    def begin_step(self, images: int) -> None:
        """Count a step on so many images, put both networks into training, and halve the rates when it is time."""
        self.generator.train()
        self.discriminator.train()
        self.steps += 1
        self.images_seen += images
        every = 1000 * self.track.halve_every_kimg
        factor = 0.5 ** (self.images_seen // every) if every else 1.0
        for optimiser, rate in (
            (self.generator_optimiser, self.track.generator_learning_rate),
            (self.discriminator_optimiser, self.track.discriminator_learning_rate),
        ):
            for group in optimiser.param_groups:
                group["lr"] = rate * factor

    def augmented(self, images: torch.Tensor) -> torch.Tensor:
        """Return images float [N, 3, S, S] as a discriminator is to see them."""
        return diff_augment(images, self.track.augment)

    def penalty_is_due(self) -> bool:
        """Return whether this step has a gradient penalty, for which real images and text must require gradients."""
        return self.track.gradient_penalty != "none" and self.steps % self.track.penalty_every == 0

    def penalty(self, logits: torch.Tensor, images: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """Return the gradient penalty of the real pairs' `logits`, or 0 in a step that has none."""
        if not self.penalty_is_due():
            return logits.new_zeros(())
        return self.track.penalty_every * gradient_penalty(self.track, logits, images, text)

    def learn(self, who: Literal["generator", "discriminator"], loss: torch.Tensor) -> None:
        """Take one step of one of the two optimisers."""
        optimiser_step(self.generator_optimiser if who == "generator" else self.discriminator_optimiser, loss)

    def state_dict(self) -> dict[str, Any]:
        """Return the networks, the optimisers and what was seen."""
        return {"generator": self.generator.state_dict(), "discriminator": self.discriminator.state_dict(),
                "generator_optimiser": self.generator_optimiser.state_dict(),
                "discriminator_optimiser": self.discriminator_optimiser.state_dict(),
                "steps": self.steps, "images_seen": self.images_seen}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.generator.load_state_dict(state["generator"])
        self.discriminator.load_state_dict(state["discriminator"])
        self.generator_optimiser.load_state_dict(state["generator_optimiser"])
        self.discriminator_optimiser.load_state_dict(state["discriminator_optimiser"])
        self.steps, self.images_seen = state["steps"], state["images_seen"]


class AdversarialStage:
    """What the stages that teach a GAN share: its `Adversaries`, the average that draws, and the state."""

    def __init__(self, track: Track, generator: nn.Module, discriminator: nn.Module) -> None:
        self.adversaries = Adversaries(track, generator, discriminator)
        self.ema_kimg = track.ema_kimg
        self.averaged: Mapping[str, nn.Module] = {"generator": generator} if track.ema_kimg else {}

    def state_dict(self) -> dict[str, Any]:
        """Return the networks, the optimisers and what was seen."""
        return self.adversaries.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.adversaries.load_state_dict(state)
