"""The kit: penalties in closed form, spectral norm, DiffAugment, the losses by hand, and the two rates."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from t2ibench.baselines.blocks import JointDiscriminator
from t2ibench.baselines.losses import (
    divergence_from_normal,
    fake_loss,
    fooling_loss,
    matching_aware_loss,
    real_loss,
)
from t2ibench.baselines.stabilise import STABILISED, Adversaries, Track, diff_augment, gradient_penalty, normalise
from t2ibench.dalle.image_tokenizer import Teaching
from t2ibench.dalle.prior import PriorConfig
from t2ibench.errors import UserError


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_losses_by_hand() -> None:
    logits = torch.tensor([2.0, -0.5])
    assert real_loss(logits, "bce").tolist() == pytest.approx([softplus(-2), softplus(0.5)])
    assert fake_loss(logits, "bce").tolist() == pytest.approx([softplus(2), softplus(-0.5)])
    assert fooling_loss(logits, "bce").tolist() == pytest.approx([softplus(-2), softplus(0.5)])
    assert real_loss(logits, "hinge").tolist() == pytest.approx([0, 1.5])
    assert fake_loss(logits, "hinge").tolist() == pytest.approx([3, 0.5])
    assert fooling_loss(logits, "hinge").tolist() == pytest.approx([-2, 0.5])


def test_matching_aware_loss_by_hand() -> None:
    real, wrong, fake = torch.tensor([1.0, -2.0]), torch.tensor([0.5, 0.0]), torch.tensor([-1.0, 3.0])
    real_term = (softplus(-1) + softplus(2)) / 2
    wrong_term = (softplus(0.5) + softplus(0)) / 2
    fake_term = (softplus(-1) + softplus(3)) / 2
    weighted = matching_aware_loss(real, wrong, fake, 0.25, "bce").item()
    assert weighted == pytest.approx(real_term + 0.25 * wrong_term + 0.75 * fake_term, rel=1e-6)
    assert matching_aware_loss(real, None, fake, 0.25, "bce").item() == pytest.approx(real_term + fake_term, rel=1e-6)
    hinge = matching_aware_loss(real, wrong, fake, 0.25, "hinge").item()
    assert hinge == pytest.approx((0 + 3) / 2 + 0.25 * (1.5 + 1) / 2 + 0.75 * (0 + 4) / 2)


def test_divergence_agrees_with_torch_distributions() -> None:
    mean, log_std = torch.randn(3, 5), 0.3 * torch.randn(3, 5)
    theirs = torch.distributions.kl_divergence(torch.distributions.Normal(mean, log_std.exp()),
                                               torch.distributions.Normal(0.0, 1.0))  # fmt: skip
    assert divergence_from_normal(mean, log_std).item() == pytest.approx(theirs.mean().item(), rel=1e-5)


def test_penalties_of_a_linear_discriminator() -> None:
    """The gradient of <w, image> + <v, text> is (w, v) everywhere."""
    w, v = torch.randn(3, 4, 4), torch.randn(6)
    images, text = torch.randn(5, 3, 4, 4, requires_grad=True), torch.randn(5, 6, requires_grad=True)
    logits = (images * w).sum((1, 2, 3)) + text @ v
    r1 = gradient_penalty(Track(gradient_penalty="r1", penalty_weight=10.0), logits, images, text)
    assert r1.item() == pytest.approx(5 * w.square().sum().item(), rel=1e-5)
    logits = (images * w).sum((1, 2, 3)) + text @ v
    track = Track(gradient_penalty="ma-gp", penalty_weight=2.0, penalty_power=6.0)
    norm = (w.square().sum() + v.square().sum()).sqrt().item()
    assert gradient_penalty(track, logits, images, text).item() == pytest.approx(2 * norm**6, rel=1e-4)


def test_lazy_penalty_comes_in_time_and_weighs_as_much() -> None:
    track = Track(gradient_penalty="r1", penalty_weight=2.0, penalty_every=3)
    adversaries = Adversaries(track, nn.Linear(1, 1), nn.Linear(1, 1))
    seen = []
    for _ in range(6):
        adversaries.begin_step(4)
        images = torch.ones(2, 1, requires_grad=True)
        seen.append(adversaries.penalty((images * 3).sum(1), images, images).item())
    assert seen == pytest.approx([0, 0, 27, 0, 0, 27])


def test_spectral_norm_leaves_no_batch_norm_and_norms_of_one() -> None:
    torch.manual_seed(0)
    network = JointDiscriminator(32, 8, 6, "spectral", conditional=True)
    normalise(network, "spectral")
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    for _ in range(30):
        network.with_caption(network(torch.randn(2, 3, 32, 32)), torch.randn(2, 6))
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for layer in layers:
        assert torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() == pytest.approx(1, abs=0.05)


def test_translation_moves_every_image_by_itself_and_no_further_than_an_eighth() -> None:
    torch.manual_seed(0)
    images = torch.zeros(200, 3, 16, 16)
    images[:, :, 8, 8] = 1
    moved = diff_augment(images, ["translation"])
    assert torch.equal(moved.sum((1, 2, 3)), torch.full((200,), 3.0))
    places = moved[:, 0].flatten(1).argmax(1)
    rows, columns = places // 16 - 8, places % 16 - 8
    assert set(rows.tolist()) == set(columns.tolist()) == {-2, -1, 0, 1, 2}
    assert not torch.equal(rows, columns)


def test_cutout_blanks_at_most_a_quarter_anywhere() -> None:
    torch.manual_seed(0)
    blanked = (diff_augment(torch.ones(400, 3, 16, 16), ["cutout"]) == 0)[:, 0]
    assert blanked.sum((1, 2)).max() == 64 and blanked.sum((1, 2)).min() >= 16
    assert blanked.any(0).all() and not blanked.all(0).any()


def test_colour_keeps_grey_grey_and_gradients_flow() -> None:
    torch.manual_seed(0)
    grey = torch.rand(4, 1, 8, 8).expand(4, 3, 8, 8)
    changed = diff_augment(grey, ["colour"])
    torch.testing.assert_close(changed[:, 0], changed[:, 2])
    assert not torch.allclose(changed, grey)
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    diff_augment(images, ["colour", "translation", "cutout"]).sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0


def test_no_policy_changes_nothing() -> None:
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(diff_augment(images, ()), images)


def test_two_rates_and_their_halving() -> None:
    track = replace(STABILISED, halve_every_kimg=0.01)
    adversaries = Adversaries(track, nn.Linear(1, 1), nn.Linear(1, 1))
    rates = []
    for _ in range(3):
        adversaries.begin_step(5)
        rates.append([optimiser.param_groups[0]["lr"] for optimiser in
                      (adversaries.generator_optimiser, adversaries.discriminator_optimiser)])  # fmt: skip
    g, d = track.generator_learning_rate, track.discriminator_learning_rate
    assert rates == [[g, d], [g / 2, d / 2], [g / 2, d / 2]] and g != d


def test_what_is_restored_goes_on_at_the_same_rates_and_penalties() -> None:
    track = replace(STABILISED, halve_every_kimg=0.01, penalty_every=3)
    kept, restored = (Adversaries(track, nn.Linear(1, 1), nn.Linear(1, 1)) for _ in range(2))
    for _ in range(2):
        kept.begin_step(9)
    restored.load_state_dict(kept.state_dict())
    for adversaries in (kept, restored):
        adversaries.begin_step(2)
        assert adversaries.penalty_is_due()
        assert adversaries.generator_optimiser.param_groups[0]["lr"] == track.generator_learning_rate / 4
        assert adversaries.discriminator_optimiser.param_groups[0]["lr"] == track.discriminator_learning_rate / 4


def test_a_penalty_every_no_step_is_refused() -> None:
    with pytest.raises(UserError, match="penalty_every=0"):
        Track(penalty_every=0)


@pytest.mark.parametrize(("make", "name"), [(Track, "track"), (PriorConfig, "prior"), (Teaching, "teaching")])
@pytest.mark.parametrize("betas", [(0.5, 1.5), (-0.1, 0.9), (0.5, 1.0), (math.nan, 0.9)])
def test_moments_that_adam_has_not_are_refused(make: Any, name: str, betas: tuple[float, float]) -> None:
    with pytest.raises(UserError, match=rf"{name}\.adam_betas=.*: expected two numbers from 0 to below 1"):
        make(adam_betas=betas)


@pytest.mark.parametrize("name", ["penalty_weight", "generator_learning_rate", "halve_every_kimg", "ema_kimg"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf])
def test_rates_and_weights_that_are_none_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=rf"track\.{name}="):
        replace(STABILISED, **{name: value})
