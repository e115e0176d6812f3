"""StackGAN-v1: the published sizes, the losses by hand, and what each of its two stages learns."""

import math
from dataclasses import replace

import pytest
import torch
from scipy import stats

from t2ibench.baselines.interface import from_uint8
from t2ibench.baselines.mismatch import matching_pairs, mismatched_order
from t2ibench.baselines.stabilise import STABILISED, Track
from t2ibench.baselines.stackgan_v1 import (
    PAPER,
    PRESETS,
    TINY,
    Conditioning,
    Discriminator,
    GANStage,
    StackGANv1,
    Stage1Generator,
    Stage2Generator,
    truncated,
)
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.suite.describe import describe

NARROW = replace(TINY, generator_width=8, discriminator_width=8, condition_dim=8)


def test_published_parameter_counts() -> None:
    parameters = describe("stackgan-v1", "paper", {}).parameters
    assert parameters["stage1_generator"] == pytest.approx(14.26e6, rel=0.005)
    assert parameters["stage1_discriminator"] == pytest.approx(4.03e6, rel=0.005)
    assert parameters["stage2_generator"] == pytest.approx(26.29e6, rel=0.005)
    assert parameters["stage2_discriminator"] == pytest.approx(48.60e6, rel=0.005)


@pytest.mark.parametrize(("stage1", "size"), [(16, 32), (16, 64), (32, 64), (16, 128), (64, 128)])
def test_every_pair_of_sizes(stage1: int, size: int) -> None:
    config = replace(NARROW, stage1_size=stage1, image_size=size)
    text = torch.zeros(2, config.text_encoder.text_dim)
    sketches = Stage1Generator(config)(text, torch.randn(2, 108)).images
    images = Stage2Generator(config)(sketches, text, torch.randn(2, 8)).images
    assert sketches.shape == (2, 3, stage1, stage1) and images.shape == (2, 3, size, size)
    assert Discriminator(config, stage1, third_layer_activation=True)(sketches, text).shape == (2,)
    assert Discriminator(config, size, third_layer_activation=True)(images, text).shape == (2,)


def test_stage2_encodes_the_sketch_to_a_quarter_of_its_side() -> None:
    with torch.device("meta"):
        encoded = Stage2Generator(PAPER).encode(torch.zeros(1, 3, 64, 64))
    assert encoded.shape == (1, 512, 16, 16)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def test_truncated_noise_is_that_of_a_truncated_normal() -> None:
    normal = torch.linspace(-6, 6, 999)
    cut = truncated(normal)
    assert (cut.diff() >= 0).all() and cut.abs().max() <= 2.00001
    expected = stats.truncnorm(-2, 2).ppf(stats.norm.cdf(normal.double().numpy()))
    torch.testing.assert_close(cut, torch.from_numpy(expected).float(), atol=1e-4, rtol=1e-4)


def test_condition_by_hand() -> None:
    config = replace(NARROW, condition_dim=1, condition_noise="normal")
    conditioning = Conditioning(config)
    linear = conditioning.layers[0]
    torch.nn.init.constant_(linear.weight, 0.0)
    linear.bias.data = torch.tensor([3.0, -0.5])
    drawn = conditioning(torch.zeros(1, config.text_encoder.text_dim), torch.tensor([[5.0]]))
    assert drawn.mean.item() == pytest.approx(3.0) and drawn.log_std.item() == pytest.approx(-0.1)
    assert drawn.code.item() == pytest.approx(3.0 + math.exp(-0.1) * 5.0)


def stages(**settings: object) -> tuple[StackGANv1, GANStage, GANStage]:
    torch.manual_seed(0)
    model = StackGANv1(replace(NARROW, **settings))
    _, stage1, stage2 = model.stages(None)
    assert isinstance(stage1, GANStage) and isinstance(stage2, GANStage)
    return model, stage1, stage2


@pytest.mark.parametrize("number", [1, 2])
def test_a_stage_changes_its_own_two_networks_only(number: int, world: Store) -> None:
    model, *both = stages()
    before = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in model.networks().items()}
    both[number - 1].train_step(world.batch(range(16)))
    changed = {
        name for name, net in model.networks().items()
        if any(not torch.equal(before[name][key], value) for key, value in net.state_dict().items())
    }  # fmt: skip
    assert changed == {f"stage{number}_generator", f"stage{number}_discriminator"}


def test_losses_of_a_step_by_hand(world: Store) -> None:
    """With still weights, the fakes and both networks' losses are computed again from the parts."""
    model, _, stage = stages(track=Track(discriminator_learning_rate=0.0, generator_learning_rate=0.0))
    # Captions that say so much that it shows whether a pair is wrong.
    model.stage2_discriminator.text[0].weight.data *= 300
    batch = world.batch(range(16))
    wrong_image = batch.images[mismatched_order(matching_pairs(batch, "image"))]
    torch.manual_seed(3)
    losses = stage.train_step(batch)
    model.stage2_generator.train()
    torch.manual_seed(3)
    noise = torch.randn(16, 100 + 8 + 8)
    with torch.no_grad():
        text = model.text.encoder.eval().encode(batch.captions).sentence
        sketches = model.stage1_generator.eval()(text, noise[:, :108]).images
        drawn = model.stage2_generator(sketches, text, noise[:, 108:])
        logits = model.stage2_discriminator(drawn.images, text)
        mean, log_std = drawn.condition.mean, drawn.condition.log_std
        real, wrong = (
            model.stage2_discriminator(from_uint8(images), text) for images in (batch.images, wrong_image)
        )
    fooling = sum(softplus(-logit) for logit in logits.tolist()) / 16
    divergence = (-log_std + ((2 * log_std).exp() + mean**2 - 1) / 2).sum() / (16 * 8)
    assert float(losses["generator"]) == pytest.approx(fooling, rel=1e-5)
    terms = [softplus(-a) + (softplus(b) + softplus(c)) / 2 for a, b, c in zip(real, wrong, logits, strict=True)]
    assert float(losses["discriminator"]) == pytest.approx(sum(terms) / 16, rel=1e-4)
    assert float(losses["divergence"]) == pytest.approx(float(divergence), rel=1e-4)


@pytest.mark.parametrize(
    ("setting", "values", "network"),
    [
        ("mismatch_weight", (0.2, 0.8), "stage1_discriminator"),
        ("divergence_weight", (0.0, 2.0), "stage1_generator"),
        ("condition_noise", ("normal", "truncated"), "stage1_generator"),
    ],
)
def test_a_setting_teaches_otherwise(
    setting: str, values: tuple[object, object], network: str, world: Store
) -> None:
    learned = []
    for value in values:
        model, stage1, _ = stages(**{setting: value})
        torch.manual_seed(1)
        stage1.train_step(world.batch(range(16)))
        learned.append(torch.cat([p.detach().flatten() for p in model.networks()[network].parameters()]))
    assert not torch.equal(*learned)


def test_seen_once_equals_seen_again() -> None:
    """The wrong pairs reuse what was seen in the batch; the full pass over the permuted images agrees."""
    discriminator = Discriminator(NARROW, 32, third_layer_activation=True)
    images, text = torch.randn(6, 3, 32, 32), torch.randn(6, 128)
    order = torch.tensor([2, 0, 1, 5, 3, 4])
    short = discriminator.match(discriminator.image(images)[order], discriminator.text(text))
    torch.testing.assert_close(short, discriminator(images[order], text), atol=1e-4, rtol=1e-4)


def test_the_image_drawn_is_that_of_stage2_and_both_stages_have_noise_of_their_own() -> None:
    model, *_ = stages()
    text = torch.randn(2, 128)
    model.stage2_generator.eval()
    noise = torch.randn(2, 116)
    drawn = model.refine(text, noise).images
    assert drawn.shape == (2, 3, 32, 32)
    for part in (slice(0, 100), slice(100, 108), slice(108, 116)):
        other = noise.clone()
        other[:, part] += 1.0
        assert not torch.equal(model.refine(text, other).images, drawn)


def test_shares_and_who_draws() -> None:
    _, stage1, stage2 = stages(stage1_share=0.25)
    rest = 1 - NARROW.text_encoder.share
    assert (stage1.share, stage2.share) == (pytest.approx(0.25 * rest), pytest.approx(0.75 * rest))
    assert (stage1.draws, stage2.draws) == (False, True)


@pytest.mark.parametrize(
    "settings",
    [{"image_size": 48}, {"stage1_size": 32}, {"stage1_size": 8}, {"stage1_share": 1.0}, {"batch_size": 1},
     {"generator_width": 3}, {"image_size": 256, "generator_width": 8}],
)  # fmt: skip
def test_impossible_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(UserError) as error:
        replace(TINY, **settings)
    assert "\n" not in str(error.value) and next(reversed(settings)) in str(error.value)


def test_stabilised_presets_differ_in_track_and_divergence_only() -> None:
    for size in ("tiny", "small", "paper"):
        assert PRESETS[f"{size}-stabilised"] == replace(PRESETS[size], track=STABILISED, divergence_weight=0.1)
