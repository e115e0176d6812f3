"""The two tracks, over every GAN: what the discriminators see, what is penalised, and what is learnt from."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from t2ibench.baselines.blocks import shrink
from t2ibench.baselines.interface import Stage, from_uint8
from t2ibench.baselines.stabilise import STABILISED, Track
from t2ibench.datasets.captioned import Batch
from t2ibench.datasets.store import Store
from t2ibench.suite.plugins import MODELS, find_model
from t2ibench.suite.spec import resolve_config
from t2ibench.tests.test_models import SMALL

gans = pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if "tiny-stabilised" in entry.presets])


ADDED = {"divergence_weight": ("divergence",), "colour_weight": ("colour",), "damsm_weight": ("words", "sentences")}
"""What a generator's loss may have besides the adversarial one, by the setting that weighs it."""


def gan_stages(name: str, track: Track, world: Store, **weights: float) -> list[Any]:
    """Return the stages of a GAN at its smallest, with those of `weights` that it knows."""
    found = find_model(name)
    settings = {key: value for key, value in SMALL[name].items() if not key.startswith("track.")}
    config = replace(resolve_config(found.presets["tiny"], settings), track=track)
    torch.manual_seed(0)
    model = found.make(replace(config, **{key: value for key, value in weights.items() if hasattr(config, key)}))
    return [stage for stage in model.stages(world) if stage.name != "text_encoder"]


def sizes_of(stage: Any) -> list[int]:
    """Return the sides of the images that a stage's discriminators see."""
    return [stage.size] if hasattr(stage, "size") else list(getattr(stage.config, "sizes", [stage.config.image_size]))


def learn(stage: Stage, batch: Batch) -> dict[str, float]:
    torch.manual_seed(1)
    return {name: float(value) for name, value in stage.train_step(batch).items()}


def listen(stage: Any, method: str, note: Callable[..., None]) -> None:
    """Have `note` called with what a stage's `Adversaries` is about to be asked by `method`."""
    through = getattr(stage.adversaries, method)

    def call(*inputs: Any) -> Any:
        note(*inputs)
        return through(*inputs)

    setattr(stage.adversaries, method, call)


@gans
@pytest.mark.parametrize("norm", ["spectral", "none"])
def test_discriminators_without_batch_norm(name: str, norm: str, world: Store) -> None:
    for stage in gan_stages(name, replace(STABILISED, discriminator_norm=norm), world):
        network = stage.adversaries.discriminator
        assert not any(isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d) for module in network.modules())
        layers = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
        assert layers and all(hasattr(layer, "parametrizations") == (norm == "spectral") for layer in layers)
        assert all(math.isfinite(value) for value in learn(stage, world.batch(range(16))).values())


@gans
def test_real_and_fake_images_are_augmented_alike_at_every_scale(name: str, world: Store) -> None:
    """Wrong pairs are made of what was seen of the real images, so they need no pass of their own."""
    batch = world.batch(range(16))
    for stage in gan_stages(name, replace(STABILISED, augment=("translation",)), world):
        seen: list[torch.Tensor] = []
        listen(stage, "augmented", seen.append)
        learn(stage, batch)
        for size in sizes_of(stage):
            real = shrink(from_uint8(batch.images), size)
            here = [images for images in seen if images.shape[-1] == size]
            assert sum(torch.equal(images, real) for images in here) == 1
            fakes = [images for images in here if not torch.equal(images, real)]
            assert [images.requires_grad for images in fakes] == [False, True], "for D without gradients, for G with"


@gans
@pytest.mark.parametrize("penalty", ["r1", "ma-gp"])
def test_the_penalty_is_of_real_images_with_their_own_captions(name: str, penalty: str, world: Store) -> None:
    batch = world.batch(range(16))
    track = replace(STABILISED, gradient_penalty=penalty, penalty_every=1)
    for stage in gan_stages(name, track, world):
        sides: list[int] = []

        def note(logits: torch.Tensor, images: torch.Tensor, text: torch.Tensor, sides: list[int] = sides) -> None:
            sides.append(images.shape[-1])
            assert torch.equal(images, shrink(from_uint8(batch.images), images.shape[-1]))
            for gradient in torch.autograd.grad(logits[3], (images, text), retain_graph=True):
                rows = gradient.flatten(1).abs().sum(1) > 0
                assert rows.tolist() == [row == 3 for row in range(16)], "of pair 3, and of nothing else"

        listen(stage, "penalty", note)
        assert learn(stage, batch)["penalty"] > 0
        assert sides == sizes_of(stage)


@gans
def test_the_penalty_moves_the_discriminator_and_its_weight_matters(name: str, world: Store) -> None:
    batch = world.batch(range(16))
    learned = []
    for weight in (0.0, 5.0):
        stage = gan_stages(name, replace(STABILISED, penalty_weight=weight, penalty_every=1), world)[-1]
        learn(stage, batch)
        parameters = stage.adversaries.discriminator.parameters()
        learned.append(torch.cat([parameter.detach().flatten() for parameter in parameters]))
    assert not torch.equal(*learned)


@gans
def test_what_is_learnt_from_is_what_is_reported(name: str, world: Store) -> None:
    weights = {"divergence_weight": 300.0, "colour_weight": 70.0, "damsm_weight": 1.9}
    track = replace(STABILISED, adversarial="bce", penalty_weight=1e4, penalty_every=1)
    for stage in gan_stages(name, track, world, **weights):
        given: dict[str, float] = {}
        listen(stage, "learn", lambda who, loss, given=given: given.update({who: loss.item()}))
        told = learn(stage, world.batch(range(16)))
        added = {part: weights[key] * told[part] for key, parts in ADDED.items() if hasattr(stage.config, key)
                 for part in parts}  # fmt: skip
        assert list(given) == ["discriminator", "generator"]
        assert given["discriminator"] == pytest.approx(told["discriminator"] + told["penalty"], rel=1e-5)
        assert given["generator"] == pytest.approx(told["generator"] + sum(added.values()), rel=1e-5)
        assert min([told["penalty"], *added.values()]) > 1e-3, "so much that it shows"


@gans
def test_every_parameter_of_both_networks_learns(name: str, world: Store) -> None:
    """In two steps: some of DF-GAN's are multiplied by zeros in the first. By a hinge a last bias may stand."""
    for stage in gan_stages(name, replace(STABILISED, adversarial="bce"), world):
        both = (stage.adversaries.generator, stage.adversaries.discriminator)
        before = [parameter.clone() for network in both for parameter in network.parameters()]
        for _ in range(2):
            learn(stage, world.batch(range(16)))
        names = [f"{type(network).__name__}.{key}" for network in both for key, _ in network.named_parameters()]
        after = [parameter for network in both for parameter in network.parameters()]
        assert [key for key, old, new in zip(names, before, after, strict=True) if torch.equal(old, new)] == []


@gans
@pytest.mark.parametrize("ema_kimg", [0.0, 7.0])
def test_what_is_averaged_is_the_generator(name: str, ema_kimg: float, world: Store) -> None:
    for stage in gan_stages(name, replace(STABILISED, ema_kimg=ema_kimg), world):
        generator = stage.adversaries.generator
        assert (stage.averaged, stage.ema_kimg) == ({"generator": generator} if ema_kimg else {}, ema_kimg)


@gans
def test_the_published_track_has_no_kit_but_the_papers_own(name: str, world: Store) -> None:
    track = find_model(name).presets["paper"].track
    published = name == "df-gan"
    assert (track.adversarial == "hinge", track.gradient_penalty == "ma-gp") == (published, published)
    assert track.augment == () and track.discriminator_norm == ("none" if published else "batch")
