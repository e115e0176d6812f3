"""The two tracks, over every GAN: what the discriminators are made of, what they see, and what is penalised."""

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


def gan_stages(name: str, track: Track, world: Store) -> list[Any]:
    found = find_model(name)
    settings = {key: value for key, value in SMALL[name].items() if not key.startswith("track.")}
    torch.manual_seed(0)
    model = found.make(replace(resolve_config(found.presets["tiny"], settings), track=track))
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

    def call(*inputs: torch.Tensor) -> torch.Tensor:
        note(*inputs)
        answer: torch.Tensor = through(*inputs)
        return answer

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
def test_the_published_track_has_no_kit_but_the_papers_own(name: str, world: Store) -> None:
    track = find_model(name).presets["paper"].track
    published = name == "df-gan"
    assert (track.adversarial == "hinge", track.gradient_penalty == "ma-gp") == (published, published)
    assert track.augment == () and track.discriminator_norm == ("none" if published else "batch")
