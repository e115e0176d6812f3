"""The losses that GANs share: on logits, one number a pair, in float32 whatever the precision of the step."""

from typing import Literal

import torch
import torch.nn.functional as F

Adversarial = Literal["bce", "hinge"]
"""`bce`: cross-entropy, the generator's non-saturating (Goodfellow et al. 2014, arXiv:1406.2661, section 3);
`hinge`: Lim and Ye 2017 (arXiv:1705.02894), as in Miyato et al. 2018 (arXiv:1802.05957)."""


def real_loss(logits: torch.Tensor, kind: Adversarial) -> torch.Tensor:
    """Return the discriminator's loss [N] on `logits` [N] that should say real: -log D, or max(0, 1 - logit)."""
    return F.softplus(-logits.float()) if kind == "bce" else F.relu(1 - logits.float())


def fake_loss(logits: torch.Tensor, kind: Adversarial) -> torch.Tensor:
    """Return the discriminator's loss [N] on `logits` [N] that should say fake: -log(1 - D), or max(0, 1 + logit)."""
    return F.softplus(logits.float()) if kind == "bce" else F.relu(1 + logits.float())


def fooling_loss(logits: torch.Tensor, kind: Adversarial) -> torch.Tensor:
    """Return the generator's loss [N] on the `logits` [N] of its images: -log D, or -logit."""
    return F.softplus(-logits.float()) if kind == "bce" else -logits.float()


def matching_aware_loss(
    real: torch.Tensor, wrong: torch.Tensor | None, fake: torch.Tensor, mismatch_weight: float, kind: Adversarial
) -> torch.Tensor:
    """Return the discriminator's loss of real pairs and, weighted, of wrong and fake ones, on logits [N] of each.

    Reed et al. 2016 (arXiv:1605.05396, Algorithm 1, line 9). Without wrong pairs the fake ones have the whole weight.
    """
    loss, weight = real_loss(real, kind).mean(), 1.0
    if wrong is not None:
        loss, weight = loss + mismatch_weight * fake_loss(wrong, kind).mean(), 1 - mismatch_weight
    return loss + weight * fake_loss(fake, kind).mean()


def divergence_from_normal(mean: torch.Tensor, log_std: torch.Tensor) -> torch.Tensor:
    """Return KL(N(mean, std) || N(0, 1)) averaged over pairs *and* dimensions of both [N, D].

    The official code of StackGAN and its heirs averages over both; the sum over dimensions of the papers is D times
    as much, so that their weights of this term mean different things.
    """
    mean, log_std = mean.float(), log_std.float()
    return (-log_std + 0.5 * ((2 * log_std).exp() + mean.square() - 1)).mean()
