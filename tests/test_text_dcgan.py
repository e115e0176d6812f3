"""Text-DCGAN: the published sizes, the losses by hand, and what its three objectives do."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import softplus

from t2ibench.baselines.interface import from_uint8
from t2ibench.baselines.mismatch import matching_pairs, mismatched_order
from t2ibench.baselines.reading import read_frozen
from t2ibench.baselines.stabilise import Track
from t2ibench.baselines.text_dcgan import (
    PRESETS,
    TINY,
    Discriminator,
    GANStage,
    Generator,
    TextDCGAN,
)
from t2ibench.datasets.store import Store
from t2ibench.suite.describe import describe


def test_published_parameter_counts() -> None:
    parameters = describe("text-dcgan", "paper", {}).parameters
    assert parameters["generator"] == pytest.approx(18.91e6, rel=0.005)
    assert parameters["discriminator"] == pytest.approx(4.03e6, rel=0.005)
    assert parameters["text_encoder"] == pytest.approx(4.05e6, rel=0.005)


@pytest.mark.parametrize("size", [16, 32, 64, 128])
def test_every_size_of_image(size: int) -> None:
    config = replace(TINY, image_size=size, generator_width=8, discriminator_width=8)
    text = torch.zeros(2, config.text_encoder.text_dim)
    images = Generator(config)(torch.zeros(2, 100), text)
    assert images.shape == (2, 3, size, size)
    assert Discriminator(config)(images, text).shape == (2,)


def gan_stage(objective: str, **settings: object) -> GANStage:
    torch.manual_seed(0)
    config = replace(TINY, objective=objective, generator_width=8, discriminator_width=8, batch_size=16, **settings)
    stage = TextDCGAN(config).stages(None)[1]
    assert isinstance(stage, GANStage)
    return stage


def test_losses_of_a_step_by_hand(world: Store) -> None:
    """With still weights, the fakes and both networks' losses are computed again from the parts."""
    still = Track(discriminator_learning_rate=0.0, generator_learning_rate=0.0)
    stage = gan_stage("gan-int-cls", mismatch_weight=0.3, interpolation_weight=0.7, track=still)
    # Captions that say so much that it shows which are whose.
    stage.text_encoder.project.weight.data *= 300
    batch = world.batch(range(16))
    wrong_image = batch.images[mismatched_order(matching_pairs(batch, "image"))]
    torch.manual_seed(3)
    losses = stage.train_step(batch)
    torch.manual_seed(3)
    with torch.no_grad():
        text = read_frozen(stage.text_encoder, batch.captions).sentence
        fakes = stage.generator(torch.randn(16, 100), text)
        real, wrong, fake = (
            stage.discriminator(images, text) for images in (from_uint8(batch.images), from_uint8(wrong_image), fakes)
        )
        drawn = torch.cat([text, (text[:8] + text[8:]) / 2])
        fooled = softplus(-stage.discriminator(stage.generator(torch.randn(24, 100), drawn), drawn))
    by_hand = (softplus(-real) + 0.3 * softplus(wrong) + 0.7 * softplus(fake)).mean()
    assert float(losses["discriminator"]) == pytest.approx(float(by_hand), rel=1e-4)
    by_hand = (fooled[:16].sum() + 0.7 * fooled[16:].sum()) / 24
    assert float(losses["generator"]) == pytest.approx(float(by_hand), rel=1e-4)


def test_wrong_pairs_teach_the_discriminator_only_in_cls(world: Store) -> None:
    batch = world.batch(range(16))
    moved = {}
    for objective in ("gan-cls", "gan-int"):
        weights = []
        for mismatch_weight in (0.2, 0.8):
            stage = gan_stage(objective, mismatch_weight=mismatch_weight)
            torch.manual_seed(1)
            stage.train_step(batch)
            weights.append(stage.discriminator.decide[0].weight.detach().clone())
        moved[objective] = not torch.equal(*weights)
    assert moved == {"gan-cls": True, "gan-int": False}


def test_interpolated_captions_teach_the_generator_only_in_int(world: Store) -> None:
    batch = world.batch(range(16))
    moved = {}
    for objective in ("gan-cls", "gan-int", "gan-int-cls"):
        losses = []
        for interpolation_weight in (0.0, 1.0):
            stage = gan_stage(objective, interpolation_weight=interpolation_weight)
            torch.manual_seed(1)
            losses.append(float(stage.train_step(batch)["generator"]))
        moved[objective] = losses[0] != losses[1]
    assert moved == {"gan-cls": False, "gan-int": True, "gan-int-cls": True}


def test_seen_once_equals_seen_again() -> None:
    """The wrong pairs reuse what was seen in the batch; the full pass over the permuted images agrees."""
    discriminator = gan_stage("gan-cls").discriminator.train()
    images, text = torch.randn(6, 3, 32, 32), torch.randn(6, 128)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    short = discriminator.match(discriminator.image(images)[order], discriminator.text(text))
    torch.testing.assert_close(short, discriminator(images[order], text), atol=1e-4, rtol=1e-4)


def test_text_encoder_is_frozen_in_the_gan_stage(world: Store) -> None:
    stage = gan_stage("gan-int-cls")
    before = {key: value.clone() for key, value in stage.text_encoder.state_dict().items()}
    stage.train_step(world.batch(range(16)))
    assert all(torch.equal(before[key], value) for key, value in stage.text_encoder.state_dict().items())


def test_learning_rate_halves_on_schedule(world: Store) -> None:
    stage = gan_stage("gan-cls", track=Track(halve_every_kimg=0.032))
    rates = []
    for _ in range(4):
        stage.train_step(world.batch(range(16)))
        rates.append(stage.adversaries.generator_optimiser.param_groups[0]["lr"])
    assert rates == pytest.approx([2e-4, 1e-4, 1e-4, 5e-5])


def test_presets_differ_in_objective_only() -> None:
    for size in ("tiny", "paper"):
        for objective in ("gan-cls", "gan-int"):
            assert PRESETS[f"{size}-{objective}"] == replace(PRESETS[size], objective=objective)
        assert PRESETS[size].objective == "gan-int-cls"
