"""Conformance: what the suite asks of every registered model."""

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from t2ibench.baselines.interface import Scheduled, TextToImage
from t2ibench.datasets.store import Store
from t2ibench.suite.checkpoint import (
    load_state,
    load_tokenizers,
    load_weights,
    save_state,
    save_tokenizers,
    save_weights,
)
from t2ibench.suite.plugins import MODELS, find_model
from t2ibench.suite.spec import resolve_config

FAST: Mapping[str, Any] = {"track.generator_learning_rate": 0.01, "track.discriminator_learning_rate": 0.01}
CHARACTERS: Mapping[str, Any] = {
    "text_encoder.char_cnn_rnn.channels": [8, 8, 8], "text_encoder.char_cnn_rnn.recurrent_width": 16,
    "text_encoder.char_cnn_rnn.image_width": 8,
}  # fmt: skip
SMALL: Mapping[str, Mapping[str, Any]] = {
    "aligndraw": {"steps": 3, "encoder_width": 16, "decoder_width": 16, "latent_dim": 8, "batch_size": 16,
                  "initial_deviation": 0.2, "learning_rate": 0.01},
    "text-dcgan": {"generator_width": 8, "discriminator_width": 8, "batch_size": 16, **FAST, **CHARACTERS},
    "stackgan-v1": {"generator_width": 8, "discriminator_width": 8, "batch_size": 16, **FAST, **CHARACTERS},
    "stackgan-v2": {"generator_width": 8, "discriminator_width": 8, "batch_size": 16, **FAST, **CHARACTERS},
    "attngan": {"generator_width": 4, "discriminator_width": 4, "batch_size": 16, **FAST,
                "text_encoder.damsm.image_width": 8},
    "df-gan": {"generator_width": 4, "discriminator_width": 4, "batch_size": 16, **FAST,
               "text_encoder.kind": "char-cnn-rnn", **CHARACTERS},
    "dalle": {"transformer.width": 32, "transformer.layers": 2, "transformer.heads": 2,
              "prior.learning_rate": 0.01, "prior.last_rate": 1.0,
              "tokenizer.fsq.codec.width": 8, "tokenizer.dvae.codec.width": 8,
              "tokenizer.dvae.codec.first_decoder_width": 8,
              "clip.image_width": 8, "clip.text_layers": 1, "clip.text_width": 32, "clip.batch_size": 32},
}  # fmt: skip
"""Settings with which a model trains in a moment; a new model adds its own row."""
HEEDFUL: Mapping[str, Any] = {
    "text_encoder.kind": "clip", "text_encoder.clip.width": 32, "text_encoder.clip.layers": 1,
    "text_encoder.clip.batch_size": 16, "text_encoder.clip.image_width": 8,
}  # fmt: skip
"""The encoder whose sentences differ from the start; what a char-CNN-RNN reads is nearly the same for long."""
BOTH = {"generator", "discriminator"}
LEARNERS: Mapping[tuple[str, str], set[str]] = {
    ("aligndraw", "aligndraw"): {"text_encoder", "encoder", "decoder"},
    ("stackgan-v1", "stage1"): {f"stage1_{network}" for network in BOTH},
    ("stackgan-v1", "stage2"): {f"stage2_{network}" for network in BOTH},
    ("dalle", "tokenizer"): {"tokenizer"}, ("dalle", "prior"): {"transformer"}, ("dalle", "clip"): {"clip"},
}  # fmt: skip
"""The networks that a stage teaches, where it is neither `text_encoder` nor `gan`."""

names = pytest.mark.parametrize("name", MODELS)
tracks = pytest.mark.parametrize(("name", "preset"), [
    (name, preset) for name, entry in MODELS.items()
    for preset in entry.presets if preset.startswith("tiny") and not preset.startswith("tiny-gan")
])  # fmt: skip


def make(name: str, preset: str = "tiny", seed: int = 0, **settings: Any) -> TextToImage:
    found = find_model(name)
    torch.manual_seed(seed)
    model: TextToImage = found.make(resolve_config(found.presets[preset], {**SMALL[name], **settings}))
    return model


def learn(model: TextToImage, data: Store, steps: int) -> None:
    for stage in model.stages(data):
        if isinstance(stage, Scheduled):
            stage.total_steps = steps
        for step in range(steps):
            torch.manual_seed(step)
            losses = stage.train_step(data.batch(range(step * 8, step * 8 + stage.batch_size)))
            assert losses and all(torch.isfinite(torch.as_tensor(value)) for value in losses.values())


def heedful(name: str, seed: int = 0) -> TextToImage:
    return make(name, seed=seed, **HEEDFUL if CHARACTERS.keys() <= SMALL[name].keys() else {})


@cache
def taught(name: str, world: Store) -> TextToImage:
    """Return a model after some steps of each stage, by which its captions show; only drawn with."""
    model = heedful(name)
    learn(model, world, steps=12)
    return model


@names
def test_the_table_names_the_presets_and_every_size_is_there(name: str) -> None:
    presets = find_model(name).presets
    assert MODELS[name].presets == tuple(presets)
    assert {"tiny", "small", "paper"} <= set(presets)
    assert presets["tiny"].image_size == 32 and presets["small"].image_size == 64


@names
def test_config_is_frozen_keyword_only_and_documented(name: str) -> None:
    import inspect

    config = type(find_model(name).presets["tiny"])
    with pytest.raises(TypeError):
        config(64)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config().image_size = 1
    source = inspect.getsource(config)
    for field in dataclasses.fields(config):
        after = source.split(f"    {field.name}:")[1].split("\n", 1)[1].lstrip()
        assert after.startswith('"""'), f"{field.name} has no line of doc under it"


@names
def test_stages_share_the_whole_budget(name: str, world: Store) -> None:
    stages = make(name).stages(world)
    assert sum(stage.share for stage in stages) == pytest.approx(1)
    assert len({stage.name for stage in stages}) == len(stages)


@names
def test_a_stage_moves_every_parameter_of_its_networks_and_no_other(name: str, world: Store) -> None:
    common = {"text_encoder": {"text_encoder", "image_encoder"}, "gan": BOTH}
    model = make(name)
    for stage in model.stages(world):
        if isinstance(stage, Scheduled):
            stage.total_steps = 4
        parameters = {(net, key): p for net, own in model.networks().items() for key, p in own.named_parameters()}
        before = {key: parameter.clone() for key, parameter in parameters.items()}
        for step in range(2):
            stage.train_step(world.batch(range(step * 8, step * 8 + stage.batch_size)))
        moved = {key for key, parameter in parameters.items() if not torch.equal(parameter, before[key])}
        learners = LEARNERS.get((name, stage.name)) or common[stage.name]
        assert moved == {key for key in parameters if key[0] in learners}


@names
def test_pixels_do_not_depend_on_the_batch_size(name: str, world: Store) -> None:
    model = make(name)
    learn(model, world, steps=2)
    captions, seeds = world.batch(range(64)).captions, list(range(64))
    whole = model.sample(captions, seeds=seeds)
    assert whole.dtype == torch.uint8 and whole.shape == (64, 3, 32, 32)
    for size in (1, 7):
        parts = [model.sample(captions[at : at + size], seeds=seeds[at : at + size]) for at in range(0, 64, size)]
        assert torch.equal(torch.cat(parts), whole)


@names
def test_captions_and_seeds_both_matter(name: str, world: Store) -> None:
    """By a tenth of a grey level in the mean; a model that does not heed the one or the other differs by nothing."""
    model, captions = taught(name, world), world.batch(range(8)).captions
    drawn = model.sample(captions, seeds=[1] * 8)
    for other in (model.sample(captions[1:] + captions[:1], seeds=[1] * 8), model.sample(captions, seeds=range(8))):
        assert (drawn.float() - other.float()).abs().mean() > 0.1
    assert torch.equal(drawn, model.sample(captions, seeds=[1] * 8))


@names
def test_odd_captions_are_drawn(name: str, world: Store) -> None:
    """Each alone as among others, no image blank; what is beyond the longest, upper case and blanks do not count."""
    model = taught(name, world)
    odd = ["", "a", "ünïcode 🦊 and zyzzyva", "word " * 2000, "A red circle on A white background"]
    drawn = model.sample(odd, seeds=[7] * 5)
    for image, caption in zip(drawn, odd, strict=True):
        assert image.unique().numel() > 1
        assert torch.equal(model.sample([caption], seeds=[7])[0], image)
    plain = ["  ", "a", odd[2], "word " * 300, odd[4].lower()]
    assert torch.equal(model.sample(plain, seeds=[7] * 5), drawn)


@names
def test_what_is_saved_draws_the_same(name: str, world: Store, tmp_path: Path) -> None:
    model, fresh = taught(name, world), heedful(name, seed=1)
    save_tokenizers(tmp_path / "tokenizers.json", model)
    save_weights(tmp_path / "weights", model.networks())
    load_tokenizers(tmp_path / "tokenizers.json", fresh)
    load_weights(tmp_path / "weights", fresh.networks())
    captions = world.batch(range(8)).captions
    assert torch.equal(fresh.sample(captions, seeds=range(8)), model.sample(captions, seeds=range(8)))


@names
def test_a_step_of_every_stage_in_bfloat16_is_finite(name: str, world: Store) -> None:
    """As the loop takes it where `--precision bfloat16` says so."""
    model = make(name)
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        learn(model, world, steps=1)
    assert all(parameter.isfinite().all() for net in model.networks().values() for parameter in net.parameters())


@tracks
def test_a_stage_restored_goes_on_bit_by_bit(name: str, preset: str, world: Store, tmp_path: Path) -> None:
    """In the fourth step, too, that the stabilised track's penalty comes in."""
    kept, fresh = make(name, preset), make(name, preset)
    for ours, theirs in zip(kept.stages(world), fresh.stages(world), strict=True):
        batches = [world.batch(range(at, at + ours.batch_size)) for at in (0, 40, 80, 120)]
        torch.manual_seed(5)
        for batch in batches[:3]:
            ours.train_step(batch)
        save_state(tmp_path / "stage", ours.state_dict())
        theirs.load_state_dict(load_state(tmp_path / "stage"))
        torch.manual_seed(6)
        ours.train_step(batches[3])
        torch.manual_seed(6)
        theirs.train_step(batches[3])
        a, b = ours.state_dict(), theirs.state_dict()
        assert flat(a) and all(torch.equal(x, y) for x, y in zip(flat(a), flat(b), strict=True))


def flat(state: Any) -> list[torch.Tensor]:
    """Return the tensors and numbers of a state, in order."""
    if isinstance(state, torch.Tensor | int | float):
        return [torch.as_tensor(state)]
    entries = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return [tensor for entry in entries for tensor in flat(entry)]
