"""StackGAN-v2: the published sizes, the losses by hand, the tree, and drawing without captions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from t2ibench.baselines.blocks import shrink
from t2ibench.baselines.interface import DrawsUnconditionally, from_uint8
from t2ibench.baselines.mismatch import matching_pairs, mismatched_order
from t2ibench.baselines.stabilise import STABILISED, Track
from t2ibench.baselines.stackgan_v2 import (
    PAPER,
    PRESETS,
    TINY,
    GANStage,
    Generator,
    Logits,
    StackGANv2,
    colour_loss,
    colours,
    discriminator_loss,
    generator_loss,
)
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.suite.describe import describe

NARROW = replace(TINY, generator_width=8, discriminator_width=8, condition_dim=8)
FREE = replace(NARROW, conditional=False, colour_weight=50.0)


def test_published_parameter_counts() -> None:
    parameters = describe("stackgan-v2", "paper", {}).parameters
    assert parameters["generator"] == pytest.approx(21.24e6, rel=0.005)
    assert parameters["discriminator"] == pytest.approx(95.8e6, rel=0.005)
    parameters = describe("stackgan-v2", "paper-unconditional", {}).parameters
    assert parameters["generator"] == pytest.approx(16.47e6, rel=0.005)
    assert parameters["discriminator"] == pytest.approx(86.96e6, rel=0.005)


def test_published_counts_of_each_discriminator() -> None:
    with torch.device("meta"):
        scales = StackGANv2(PAPER).scales
    counts = [sum(p.numel() for p in network.parameters()) for network in scales]
    assert counts == [pytest.approx(millions * 1e6, rel=0.005) for millions in (5.72, 18.83, 71.27)]


@pytest.mark.parametrize(("branches", "size"), [(1, 8), (1, 32), (2, 32), (3, 32), (3, 64), (4, 64), (2, 128)])
@pytest.mark.parametrize("config", [NARROW, FREE])
def test_any_number_of_branches(config: object, branches: int, size: int) -> None:
    config = replace(config, branches=branches, image_size=size)
    model = StackGANv2(config)
    drawn = model.generator(torch.randn(2, config.code_dim), torch.randn(2, config.text_encoder.text_dim))
    sides = [size // 2**level for level in reversed(range(branches))]
    assert [tuple(images.shape) for images in drawn.images] == [(2, 3, side, side) for side in sides]
    for discriminator, images in zip(model.scales, drawn.images, strict=True):
        assert discriminator.alone(discriminator(images)).shape == (2,)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def logits(*values: float) -> torch.Tensor:
    return torch.tensor(values)


REAL, WRONG, FAKE = (
    Logits(logits(1.0, -2.0), logits(2.0, 0.0)),
    Logits(logits(0.5, 1.5), logits(-0.5, 0.25)),
    Logits(logits(-1.0, 3.0), logits(0.75, -2.0)),
)


def mean(*values: float) -> float:
    return sum(values) / len(values)


def test_discriminator_loss_by_hand() -> None:
    alone = mean(softplus(-1), softplus(2)) + mean(softplus(-1), softplus(3))
    real, wrong, fake = mean(softplus(-2), softplus(0)), mean(softplus(-0.5), softplus(0.25)), 0.0
    fake = mean(softplus(0.75), softplus(-2))
    wrong_image = mean(softplus(-0.5), softplus(-1.5))
    six = discriminator_loss(REAL, WRONG, FAKE, "bce", wrong_image_is_real=True)
    assert six.item() == pytest.approx(alone + real + wrong + fake + wrong_image, rel=1e-6)
    five = discriminator_loss(REAL, WRONG, FAKE, "bce", wrong_image_is_real=False)
    assert five.item() == pytest.approx(alone + real + wrong + fake, rel=1e-6)
    pairs = [Logits(None, kind.paired) for kind in (REAL, WRONG, FAKE)]
    only_pairs = discriminator_loss(*pairs, "bce", wrong_image_is_real=True)
    assert only_pairs.item() == pytest.approx(real + (wrong + fake) / 2, rel=1e-6)
    images = [Logits(REAL.alone, None), Logits(None, None), Logits(FAKE.alone, None)]
    assert discriminator_loss(*images, "bce", wrong_image_is_real=True).item() == pytest.approx(alone, rel=1e-6)
    hinge = discriminator_loss(REAL, WRONG, FAKE, "hinge", wrong_image_is_real=True)
    expected = [mean(0, 3), mean(0, 4), mean(0.5, 0), mean(0, 1), mean(0.5, 1.25), mean(1.75, 0)]
    assert hinge.item() == pytest.approx(sum(expected), rel=1e-6)


def test_generator_loss_by_hand() -> None:
    expected = mean(softplus(1), softplus(-3)) + mean(softplus(-0.75), softplus(2))
    assert generator_loss([FAKE], "bce").item() == pytest.approx(expected, rel=1e-6)
    coarse = Logits(logits(0.0, 0.0), None)
    assert generator_loss([coarse, FAKE], "bce").item() == pytest.approx(expected + math.log(2), rel=1e-6)


def test_colours_by_hand() -> None:
    images = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    average, covariance = colours(images)
    pixels = images.flatten(2).double().numpy()
    np.testing.assert_allclose(average, pixels.mean(2), atol=1e-6)
    np.testing.assert_allclose(covariance, [np.cov(one, bias=True) for one in pixels], atol=1e-5)


def test_colour_loss_by_hand() -> None:
    """A grey scale of 0.5 above a black-and-white one: means differ by 0.5, all 9 covariances by 1."""
    coarse = torch.full((1, 3, 2, 2), 0.5, requires_grad=True)
    fine = torch.tensor([1.0, -1.0]).repeat(1, 3, 4, 2).requires_grad_()
    loss = colour_loss([coarse, fine], 5.0)
    assert loss.item() == pytest.approx(0.25 + 5.0 * 1.0)
    assert torch.autograd.grad(loss, (coarse, fine), allow_unused=True)[0] is None
    assert colour_loss([coarse], 5.0).item() == 0
    assert colour_loss([coarse, fine, coarse], 5.0).item() == pytest.approx(2 * 5.25)


def gan_stage(config: object = NARROW, **settings: object) -> tuple[StackGANv2, GANStage]:
    torch.manual_seed(0)
    model = StackGANv2(replace(config, **settings))
    stage = model.stages(None)[-1]
    assert isinstance(stage, GANStage)
    return model, stage


def weights(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in network.parameters()])


@pytest.mark.parametrize(
    ("setting", "values", "same"),
    [
        ("condition_learns_from_discriminators", (False, True), {"discriminator"}),
        ("divergence_weight", (0.0, 2.0), {"discriminator"}),
        ("discriminators_read", ("mean", "embedding"), set()),
        ("colour_weight", (0.0, 50.0), {"discriminator"}),
        ("wrong_image_is_real", (False, True), set()),
        ("joint", (False, True), set()),
    ],
)
def test_a_setting_teaches_otherwise(
    setting: str, values: tuple[object, object], same: set[str], world: Store
) -> None:
    learned: dict[str, list[torch.Tensor]] = {"generator": [], "discriminator": []}
    for value in values:
        model, stage = gan_stage(**{setting: value})
        torch.manual_seed(1)
        stage.train_step(world.batch(range(16)))
        for name, kept in learned.items():
            kept.append(weights(model.networks()[name]))
    assert {name for name, kept in learned.items() if torch.equal(*kept)} == same


def test_losses_of_a_step_by_hand(world: Store) -> None:
    still = Track(discriminator_learning_rate=0.0, generator_learning_rate=0.0)
    model, stage = gan_stage(track=still, colour_weight=50.0)
    # Captions that say so much that it shows whether a pair is wrong.
    model.generator.conditioning.layers[0].weight.data *= 30
    batch = world.batch(range(16))
    images = {"real": from_uint8(batch.images)}
    images["wrong"] = images["real"][mismatched_order(matching_pairs(batch, "image"))]
    torch.manual_seed(3)
    losses = stage.train_step(batch)
    torch.manual_seed(3)
    with torch.no_grad():
        text = model.text.encoder.eval().encode(batch.captions).sentence
        drawn = model.generator(torch.randn(16, 108), text)
        fooling = 0.0
        for size, discriminator, fake in zip((16, 32), model.scales, drawn.images, strict=True):
            loss = 0.0
            for kind, signs in (("real", (-1, -1)), ("wrong", (-1, 1)), ("fake", (1, 1))):
                seen = discriminator(fake if kind == "fake" else shrink(images[kind], size))
                alone, paired = discriminator.alone(seen), discriminator.with_caption(seen, drawn.mean)
                loss += sum(softplus(signs[0] * a) + softplus(signs[1] * p) for a, p in zip(alone, paired, strict=True))
            assert float(losses[f"discriminator_{size}"]) == pytest.approx(loss / 16, rel=1e-4)
            fooling += sum(softplus(-logit) for logit in [*alone.tolist(), *paired.tolist()]) / 16
    divergence = (-drawn.log_std + ((2 * drawn.log_std).exp() + drawn.mean**2 - 1) / 2).mean()
    assert float(losses["generator"]) == pytest.approx(fooling, rel=1e-4)
    assert float(losses["divergence"]) == pytest.approx(float(divergence), rel=1e-4)
    assert float(losses["colour"]) == pytest.approx(float(colour_loss(drawn.images, 5.0)), rel=1e-4)
    assert float(losses["discriminator"]) == pytest.approx(
        float(losses["discriminator_16"]) + float(losses["discriminator_32"]), rel=1e-5
    )


def test_every_discriminator_learns_in_a_step(world: Store) -> None:
    model, stage = gan_stage(branches=3)
    before = [weights(discriminator) for discriminator in model.scales]
    stage.train_step(world.batch(range(16)))
    assert not any(torch.equal(kept, weights(now)) for kept, now in zip(before, model.scales, strict=True))


def test_text_encoder_is_frozen_and_the_condition_is_drawn_once_for_all_scales(world: Store) -> None:
    model, stage = gan_stage()
    before = {key: value.clone() for key, value in model.text.encoder.state_dict().items()}
    stage.train_step(world.batch(range(16)))
    assert all(torch.equal(before[key], value) for key, value in model.text.encoder.state_dict().items())
    noise, text = torch.randn(2, 108), torch.randn(2, 128)
    drawn = model.generator.eval()(noise, text)
    other = noise.clone()
    other[:, 100:] += 1.0
    for images, others in zip(drawn.images, model.generator(other, text).images, strict=True):
        assert not torch.equal(images, others)


def test_without_captions(world: Store) -> None:
    model, stage = gan_stage(FREE)
    assert set(model.networks()) == {"generator", "discriminator"} and not model.tokenizers
    assert len(model.stages(world)) == 1 and stage.share == 1
    losses = stage.train_step(world.batch(range(16)))
    assert "colour" in losses and "divergence" not in losses
    assert all(math.isfinite(float(value)) for value in losses.values())
    assert isinstance(model, DrawsUnconditionally)
    drawn = model.sample_unconditional(5, seeds=range(5))
    assert drawn.shape == (5, 3, 32, 32) and drawn.dtype == torch.uint8
    assert torch.equal(drawn, model.sample(["a circle"] * 5, seeds=range(5)))
    assert torch.equal(drawn[3:4], model.sample_unconditional(1, seeds=[3]))


def test_a_model_of_captions_does_not_draw_without() -> None:
    with pytest.raises(UserError, match="conditional"):
        StackGANv2(NARROW).sample_unconditional(1, seeds=[0])


def test_without_captions_every_branch_is_given_the_noise() -> None:
    generator = Generator(FREE)
    assert generator.branches[0].layers[0].in_channels == FREE.generator_width + FREE.noise_dim
    assert Generator(NARROW).branches[0].layers[0].in_channels == NARROW.generator_width + NARROW.condition_dim


@pytest.mark.parametrize(
    "settings",
    [{"image_size": 48}, {"branches": 0}, {"branches": 4, "image_size": 32}, {"batch_size": 1},
     {"branches": 2, "generator_width": 1}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError) as error:
        replace(TINY, **settings)
    assert "\n" not in str(error.value) and list(settings)[-1] in str(error.value)
    with pytest.raises(UserError, match="ma-gp"):
        replace(FREE, track=Track(gradient_penalty="ma-gp"))


def test_presets_differ_in_what_their_names_say() -> None:
    for size in ("tiny", "small", "paper"):
        told = replace(PRESETS[size], track=STABILISED, discriminators_read="embedding", divergence_weight=0.1)
        assert PRESETS[f"{size}-stabilised"] == told
    for size in ("tiny", "paper"):
        free = replace(PRESETS[size], conditional=False, colour_weight=50.0)
        assert PRESETS[f"{size}-unconditional"] == free
