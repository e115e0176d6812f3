"""The settings of every `paper` preset beside those that were published, each from its paper or its official code."""

from typing import Any

import pytest

from t2ibench.suite.plugins import find_model

REED = {
    "image_size": 64, "noise_dim": 100, "condition_dim": 128, "batch_size": 64, "mismatch": "class",
    "mismatch_weight": 0.5, "track.adversarial": "bce", "track.generator_learning_rate": 2e-4,
    "track.discriminator_learning_rate": 2e-4, "track.adam_betas": (0.5, 0.999), "track.ema_kimg": 0.0,
    # Birds: 8,855 training images; both rates halve every 100 epochs.
    "track.halve_every_kimg": 885.0, "text_encoder.kind": "char-cnn-rnn",
}  # fmt: skip
SEVERAL_SIZES = {
    "image_size": 256, "branches": 3, "noise_dim": 100, "discriminator_width": 64, "track.adversarial": "bce",
    "track.generator_learning_rate": 2e-4, "track.discriminator_learning_rate": 2e-4,
    "track.adam_betas": (0.5, 0.999), "track.halve_every_kimg": 0.0,
}  # fmt: skip
PUBLISHED: dict[str, dict[str, Any]] = {
    "aligndraw": {
        "image_size": 32, "steps": 32, "encoder_width": 550, "decoder_width": 550, "latent_dim": 275,
        "learning_rate": 1e-3, "clip_norm": 10.0, "batch_size": 100, "initial_deviation": 0.01,
    },
    "text-dcgan": REED | {"objective": "gan-int-cls", "interpolation_weight": 1.0, "normalise_text": False},
    "stackgan-v1": REED | {"image_size": 256, "stage1_size": 64, "stage1_share": 0.5, "residual_blocks": 4,
                           "divergence_weight": 2.0, "condition_noise": "truncated"},
    "stackgan-v2": SEVERAL_SIZES | {
        "generator_width": 64, "residual_blocks": 2, "condition_dim": 128, "batch_size": 24, "divergence_weight": 2.0,
        "joint": True, "condition_learns_from_discriminators": True, "discriminators_read": "mean",
        "colour_weight": 0.0, "text_encoder.kind": "char-cnn-rnn",
    },
    "attngan": SEVERAL_SIZES | {
        "generator_width": 32, "residuals": 2, "condition_dim": 100, "batch_size": 20, "divergence_weight": 1.0,
        "damsm_weight": 5.0, "text_encoder.kind": "damsm", "text_encoder.damsm.batch_size": 48,
        "text_encoder.damsm.learning_rate": 2e-3, "text_encoder.damsm.clip_norm": 0.25,
        "text_encoder.damsm.gamma1": 4.0, "text_encoder.damsm.gamma2": 5.0, "text_encoder.damsm.gamma3": 10.0,
        "text_encoder.damsm.words": 18, "text_encoder.damsm.dropout": 0.5,
    },
    "df-gan": {
        "image_size": 256, "generator_width": 32, "discriminator_width": 32, "noise_dim": 100, "batch_size": 32,
        "track.adversarial": "hinge", "track.gradient_penalty": "ma-gp", "track.penalty_weight": 2.0,
        "track.penalty_power": 6.0, "track.penalty_every": 1, "track.generator_learning_rate": 1e-4,
        "track.discriminator_learning_rate": 4e-4, "track.adam_betas": (0.0, 0.9), "track.ema_kimg": 0.0,
        "text_encoder.kind": "damsm",
    },
    "dalle": {
        "prior.batch_size": 1024, "prior.text_weight": 1 / 8, "prior.bpe_dropout": 0.1, "prior.learning_rate": 4.5e-4,
        "prior.adam_betas": (0.9, 0.96), "prior.weight_decay": 4.5e-2, "prior.clip_norm": 4.0,
        "prior.caption_dropout": 0.0, "transformer.attention": "sparse", "transformer.kernel": 11,
        "tokenizer.kind": "dvae", "tokenizer.dvae.num_codes": 8192, "tokenizer.dvae.divergence_weight": 6.6,
        "tokenizer.dvae.last_temperature": 1 / 16, "tokenizer.dvae.teaching.batch_size": 512,
        "tokenizer.dvae.teaching.learning_rate": 1e-4, "tokenizer.dvae.teaching.weight_decay": 1e-4,
        "sampling.guidance": 1.0,
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "setting", "value"), [
    (name, setting, value) for name, settings in PUBLISHED.items() for setting, value in settings.items()
])  # fmt: skip
def test_a_setting_is_the_published_one(name: str, setting: str, value: Any) -> None:
    found: Any = find_model(name).presets["paper"]
    for part in setting.split("."):
        found = getattr(found, part)
    assert found == value


@pytest.mark.parametrize(("name", "batch_size"), [("stackgan-v2", 24), ("attngan", 20)])
def test_the_published_average_keeps_999_of_1000_a_step(name: str, batch_size: int) -> None:
    """The published generators are averaged with a decay of 0.999 a step; here it is a half-life in images."""
    track = find_model(name).presets["paper"].track
    assert 0.5 ** (batch_size / (1000 * track.ema_kimg)) == pytest.approx(0.999, abs=1e-5)
