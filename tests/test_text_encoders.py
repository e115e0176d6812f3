"""Text encoders: sizes, losses by hand, and what every kind must keep to, under every GAN."""

from dataclasses import replace

import pytest
import torch

from t2ibench.baselines.char_cnn_rnn import CharCNNRNN, CharCNNRNNConfig, joint_embedding_loss
from t2ibench.baselines.clip_text import CLIPTextConfig
from t2ibench.baselines.damsm import DAMSMConfig
from t2ibench.baselines.mismatch import matching_pairs
from t2ibench.baselines.reading import MatchingStage, TextEncoder, read_frozen
from t2ibench.baselines.text_encoders import TextEncoderConfig, open_text_encoder, text_stage
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.suite.plugins import MODELS, find_model
from t2ibench.suite.spec import resolve_config

CONFIG = TextEncoderConfig(
    char_cnn_rnn=CharCNNRNNConfig(channels=(8, 8, 8), recurrent_width=16, text_dim=12, image_width=8,
                                  optimiser="adam", learning_rate=0.01),
    damsm=DAMSMConfig(vocabulary=200, words=12, word_dim=16, text_dim=12, image_width=8, batch_size=16, regions=4,
                      learning_rate=0.01),
    clip=CLIPTextConfig(vocabulary=200, words=12, width=16, layers=1, heads=2, text_dim=12, batch_size=16,
                        image_width=8, learning_rate=0.01),
)  # fmt: skip
KINDS = ("char-cnn-rnn", "damsm", "clip")
GANS = [name for name, entry in MODELS.items() if "tiny-stabilised" in entry.presets]

kinds = pytest.mark.parametrize("kind", KINDS)


def stage_of(kind: str, data: Store) -> MatchingStage:
    torch.manual_seed(0)
    config = replace(CONFIG, kind=kind)
    stage = text_stage(open_text_encoder(config, 32), config, data, "image")
    assert isinstance(stage, MatchingStage)
    return stage


def encoder_of(kind: str, data: Store) -> TextEncoder:
    return stage_of(kind, data).matching.encoder


@kinds
def test_a_caption_is_read_by_itself(kind: str, world: Store) -> None:
    """Neither the other captions of a batch nor the padding behind this one have any influence."""
    encoder = encoder_of(kind, world)
    captions = [*world.batch(range(6)).captions, "", "circle " * 90]
    together = read_frozen(encoder, captions)
    assert together.sentence.shape == (8, 12) and together.words.shape[::2] == (8, 12)
    assert together.mask.shape == together.words.shape[:2] and bool(together.mask.any(1).all())
    for row, caption in enumerate(captions):
        alone = read_frozen(encoder, [caption])
        torch.testing.assert_close(alone.sentence[0], together.sentence[row])
        torch.testing.assert_close(alone.words[0], together.words[row])
        assert torch.equal(alone.mask[0], together.mask[row])


@kinds
def test_reading_tells_captions_apart_and_the_order_of_words(kind: str, world: Store) -> None:
    encoder = encoder_of(kind, world)
    one, other, swapped = read_frozen(encoder, ["a red circle above a blue square", "a red circle",
                                                "a blue circle above a red square"]).sentence  # fmt: skip
    assert not torch.allclose(one, other) and not torch.allclose(one, swapped)


@kinds
def test_what_is_learned_is_matching(kind: str, world: Store) -> None:
    stage = stage_of(kind, world)
    batch = world.batch(range(stage.batch_size))
    first, *_, last = ({name: float(value) for name, value in stage.train_step(batch).items()} for _ in range(40))
    losses = [name for name in first if not name.startswith("matched")]
    assert sum(last[name] for name in losses) < 0.8 * sum(first[name] for name in losses)


@kinds
def test_matching_pairs_are_no_mismatch(kind: str, world: Store) -> None:
    """The same batch twice over teaches no more than once: twins are not told apart."""
    stage = stage_of(kind, world)
    matching = stage.matching
    batch = world.batch([0, 0, 0, 0])
    marked = matching_pairs(batch, "image")
    assert marked.all()
    matching.encoder.eval()
    matching.image_encoder.eval()
    images = torch.randn(4, 3, 32, 32)[[0, 0, 0, 0]]
    losses = matching.losses(images, batch.captions, marked)
    assert sum(value.item() for name, value in losses.items() if name != "matched") == pytest.approx(0, abs=1e-4)


@kinds
def test_a_known_vocabulary_is_kept(kind: str, world: Store, held_out: Store) -> None:
    encoder = encoder_of(kind, world)
    before = {name: tokenizer.to_json() for name, tokenizer in encoder.tokenizers.items()}
    encoder.learn_vocabulary(held_out)
    assert {name: tokenizer.to_json() for name, tokenizer in encoder.tokenizers.items()} == before


@pytest.mark.parametrize("name", GANS)
@kinds
def test_every_gan_draws_by_every_encoder(name: str, kind: str, world: Store) -> None:
    found = find_model(name)
    small = {"generator_width": 4, "discriminator_width": 4, "text_encoder": replace(CONFIG, kind=kind)}
    config = replace(found.presets["tiny"], **small | ({"damsm_weight": 0.0} if name == "attngan" else {}))
    torch.manual_seed(0)
    model = found.make(config)
    stages = model.stages(world)
    assert stages[0].name == "text_encoder" and stages[0].share == config.text_encoder.share
    for stage in stages[1:]:
        losses = stage.train_step(world.batch(range(stage.batch_size)))
        assert all(torch.isfinite(torch.as_tensor(value)) for value in losses.values())
    assert model.sample(["a red circle"], seeds=[0]).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("name", GANS)
def test_the_kind_is_a_setting(name: str) -> None:
    settings = {"text_encoder.kind": "clip", "text_encoder.clip.layers": "3"}
    if name == "attngan":
        settings["damsm_weight"] = "0"
    config = resolve_config(find_model(name).presets["tiny"], settings)
    assert config.text_encoder.kind == "clip" and config.text_encoder.clip.layers == 3


def test_char_cnn_rnn_sees_18_steps() -> None:
    with torch.device("meta"):
        encoder = CharCNNRNN(CharCNNRNNConfig())
        steps = encoder.convolutions(torch.zeros(1, 70, 201))
    assert steps.shape == (1, 512, 18)


def test_joint_embedding_loss_by_hand() -> None:
    image = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    text = torch.tensor([[0.5, 0.0], [0.25, 1.0]])
    # Scores [[0.5, 0.25], [0, 2]]: image->text hinges 0.75 and max(0, -1); text->image 0.5 and max(0, -0.75).
    expected = (0.75 + 0.0 + 0.5 + 0.0) / 4
    assert joint_embedding_loss(image, text, torch.eye(2, dtype=torch.bool)).item() == pytest.approx(expected)
    assert joint_embedding_loss(image, text, torch.ones(2, 2, dtype=torch.bool)).item() == 0


def test_settings_that_leave_no_budget_or_no_mismatch_are_refused() -> None:
    with pytest.raises(UserError, match="share=1"):
        TextEncoderConfig(share=1.0)
    with pytest.raises(UserError, match="share=0: expected more with text_encoder.standardise"):
        TextEncoderConfig(share=0.0, standardise=True)
    with pytest.raises(UserError, match="2 pairs or more"):
        TextEncoderConfig(damsm=DAMSMConfig(batch_size=1))


@kinds
def test_standardised_sentences_have_mean_0_and_variance_1(kind: str, world: Store) -> None:
    stage = stage_of(kind, world)
    encoder = stage.matching.encoder
    encoder.standardise = True
    for step in range(120):
        stage.train_step(world.batch(range(step % 6 * 40, step % 6 * 40 + stage.batch_size)))
    captions = world.batch(range(240)).captions
    sentences = read_frozen(encoder, captions).sentence
    assert sentences.mean(0).abs().median() < 0.3
    assert sentences.std(0).median().item() == pytest.approx(1, abs=0.25)
    encoder.standardise = False
    raw = read_frozen(encoder, captions).sentence
    assert abs(raw.std(0).median().item() - 1) > 0.25, "it makes a difference"
