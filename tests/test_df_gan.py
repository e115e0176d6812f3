"""DF-GAN: the published sizes, the loss by hand, fusion, and which pairs teach whom."""

from dataclasses import replace

import pytest
import torch

from t2ibench.baselines.df_gan import (
    DFGAN,
    PRESETS,
    TINY,
    Discriminator,
    DownBlock,
    Fusion,
    GANStage,
    Generator,
)
from t2ibench.baselines.interface import from_uint8
from t2ibench.baselines.mismatch import matching_pairs, mismatched_order
from t2ibench.baselines.reading import read_frozen
from t2ibench.baselines.stabilise import STABILISED, Track
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.suite.describe import describe


@pytest.mark.parametrize(("size", "generator", "discriminator"), [(256, 9.74e6, 6.92e6), (64, 4.87e6, 3.51e6)])
def test_published_parameter_counts(size: int, generator: float, discriminator: float) -> None:
    parameters = describe("df-gan", "paper", {"image_size": size}).parameters
    assert parameters["generator"] == pytest.approx(generator, rel=0.005)
    assert parameters["discriminator"] == pytest.approx(discriminator, rel=0.005)


def test_published_cost_of_drawing() -> None:
    """447 million multiply-adds at 64 px, without the text encoder."""
    with_text = describe("df-gan", "paper", {"image_size": 64}).flops_per_image
    assert with_text is not None and with_text / 2 == pytest.approx(447e6, rel=0.1)


def test_fusion_begins_as_the_identity_of_its_activations_and_then_depends_on_the_condition() -> None:
    fusion, x = Fusion(6, 4), torch.randn(3, 4, 2, 2)
    leaky = torch.nn.functional.leaky_relu
    torch.testing.assert_close(fusion(x, torch.randn(3, 6)), leaky(leaky(x, 0.2), 0.2))
    torch.nn.init.normal_(fusion.first.scale[2].weight)
    assert not torch.allclose(fusion(x, torch.randn(3, 6)), fusion(x, torch.randn(3, 6)))


def test_down_block_begins_as_its_shortcut_and_pooling_first_changes_nothing() -> None:
    block, x = DownBlock(3, 5), torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(block(x), torch.nn.functional.avg_pool2d(block.short(x), 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [16, 32, 128])
def test_every_size_of_image(size: int) -> None:
    config = replace(TINY, image_size=size, generator_width=4, discriminator_width=4)
    sentence = torch.zeros(2, config.text_encoder.text_dim)
    images = Generator(config)(torch.zeros(2, 100), sentence)
    assert images.shape == (2, 3, size, size)
    assert Discriminator(config)(images, sentence).shape == (2,)


def gan_stage(**settings: object) -> GANStage:
    torch.manual_seed(0)
    text = replace(TINY.text_encoder, kind="char-cnn-rnn")
    config = replace(TINY, generator_width=4, discriminator_width=4, text_encoder=text, **settings)
    stage = DFGAN(config).stages(None)[1]  # type: ignore[arg-type]
    assert isinstance(stage, GANStage)
    return stage


def test_losses_of_a_step_by_hand(world: Store) -> None:
    """With still weights, the fakes and both networks' losses are computed again from the parts."""
    still = Track(adversarial="hinge", discriminator_norm="none", discriminator_learning_rate=0.0,
                  generator_learning_rate=0.0)  # fmt: skip
    stage = gan_stage(track=still)
    batch = world.batch(range(16))
    # Captions that say so much that it shows whether a pair is wrong.
    stage.text_encoder.spread.momentum = 1.0
    stage.text_encoder.note_spread(batch.captions)
    stage.discriminator.decide[0].weight.data *= 10
    wrong_image = batch.images[mismatched_order(matching_pairs(batch, "image"))]
    torch.manual_seed(3)
    losses = stage.train_step(batch)
    torch.manual_seed(3)
    with torch.no_grad():
        sentence = read_frozen(stage.text_encoder, batch.captions).sentence
        fakes = stage.generator(torch.randn(16, 100), sentence)
        real, wrong, fake = (
            stage.discriminator(images, sentence)
            for images in (from_uint8(batch.images), from_uint8(wrong_image), fakes)
        )
    by_hand = ((1 - real).relu() + (1 + wrong).relu() / 2 + (1 + fake).relu() / 2).mean()
    assert float(losses["discriminator"]) == pytest.approx(float(by_hand), rel=1e-4)
    assert float(losses["generator"]) == pytest.approx(float(-fake.mean()), rel=1e-4)


def test_text_encoder_is_frozen_and_both_networks_learn(world: Store) -> None:
    stage = gan_stage()
    networks = (stage.text_encoder, stage.generator, stage.discriminator)
    before = [{key: value.clone() for key, value in network.state_dict().items()} for network in networks]
    stage.train_step(world.batch(range(16)))
    changed = [any(not torch.equal(old[key], value) for key, value in network.state_dict().items())
               for old, network in zip(before, networks, strict=True)]  # fmt: skip
    assert changed == [False, True, True]


def test_tracks_differ_in_nothing_else() -> None:
    for size in ("tiny", "small", "paper"):
        assert PRESETS[f"{size}-stabilised"] == replace(PRESETS[size], track=STABILISED)


def test_sizes_that_make_no_network_are_refused() -> None:
    with pytest.raises(UserError, match="image_size=48: expected a power of two from 16"):
        replace(TINY, image_size=48)
    with pytest.raises(UserError, match="discriminator_width=0: expected 1 or more"):
        replace(TINY, discriminator_width=0)
    with pytest.raises(UserError, match="discriminator_norm=batch: not in this discriminator"):
        replace(TINY, track=Track())
    with pytest.raises(UserError, match="batch_size=1"):
        replace(TINY, batch_size=1)
