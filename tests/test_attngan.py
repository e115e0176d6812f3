"""AttnGAN: its published sizes, its losses by hand, what attention may not see, what is frozen."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from t2ibench.baselines.attngan import (
    TINY,
    AttnGAN,
    AttnGANConfig,
    GANStage,
    WordAttention,
    discriminator_loss,
)
from t2ibench.baselines.damsm import DAMSM
from t2ibench.baselines.mismatch import matching_pairs, mismatched_order
from t2ibench.baselines.reading import Read, read_frozen
from t2ibench.baselines.stabilise import Track
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.suite.describe import describe


def small(**settings: Any) -> AttnGAN:
    torch.manual_seed(0)
    text = replace(TINY.text_encoder, damsm=replace(TINY.text_encoder.damsm, image_width=8))
    widths = {"generator_width": 4, "discriminator_width": 4, "text_encoder": text}
    return AttnGAN(replace(TINY, **(widths | settings)))


def gan(model: AttnGAN, data: Store) -> GANStage:
    stage = model.stages(data)[1]
    assert isinstance(stage, GANStage)
    return stage


SIZES = [("generator", 7.08), ("discriminator", 97.6), ("text_encoder", 2.08)]


@pytest.fixture(scope="module")
def published() -> dict[str, int]:
    return describe("attngan", "paper", {}).parameters


@pytest.mark.parametrize(("network", "millions"), SIZES)
def test_paper_has_the_published_sizes(published: dict[str, int], network: str, millions: float) -> None:
    assert published[network] == pytest.approx(millions * 1e6, rel=0.005)


def test_attention_by_hand() -> None:
    attention = WordAttention(2, 2)
    with torch.no_grad():
        attention.project.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    words = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    read = Read(sentence=torch.zeros(1, 2), words=words, mask=torch.tensor([[True, True, False]]))
    features = torch.zeros(1, 2, 2, 2)
    features[0, :, 0, 1] = torch.tensor([1.0, 3.0])
    seen = attention(features, read)
    # Scores of the words, (1, 0) and (0, 2) once projected: 1 and 6 at that place, 0 and 0 elsewhere.
    second = torch.tensor([1.0, 6.0]).softmax(0)[1].item()
    assert seen[0, :, 0, 1].tolist() == pytest.approx([1 - second, 2 * second], rel=1e-4)
    assert seen[0, :, 1, 1].tolist() == pytest.approx([0.5, 1.0])


def test_each_image_is_masked_by_its_own_caption() -> None:
    torch.manual_seed(0)
    attention = WordAttention(6, 4)
    features, words = torch.randn(3, 4, 8, 8), torch.randn(3, 5, 6)
    mask = torch.arange(5) < torch.tensor([[5], [1], [3]])
    whole = attention(features, Read(torch.zeros(3, 6), words, mask))
    for row, length in enumerate((5, 1, 3)):
        cut = Read(torch.zeros(1, 6), words[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
        torch.testing.assert_close(attention(features[row : row + 1], cut), whole[row : row + 1])


def test_padding_is_never_drawn(world: Store) -> None:
    model = small()
    gan(model, world)
    generator = model.generator.eval()
    read = read_frozen(model.text.encoder, world.batch(range(4)).captions)
    assert not read.mask.all()
    noise = torch.randn(4, 64)
    drawn = generator(noise[:, :32], noise[:, 32:], read)[0][-1]
    other = Read(read.sentence, torch.where(read.mask[:, :, None], read.words, torch.tensor(5.0)), read.mask)
    assert torch.equal(generator(noise[:, :32], noise[:, 32:], other)[0][-1], drawn)


def test_discriminator_loss_by_hand() -> None:
    real = (torch.tensor([2.0, 0.0]), torch.tensor([1.0, -0.5]))
    fake = (torch.tensor([-3.0, 0.5]), torch.tensor([0.0, 0.0]))
    wrong = torch.tensor([1.0, -2.0])

    def cross_entropy(logits: torch.Tensor, target: float) -> torch.Tensor:
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target))

    by_hand = (cross_entropy(real[0], 1) + cross_entropy(real[1], 1)) / 2
    by_hand += (cross_entropy(fake[0], 0) + cross_entropy(fake[1], 0) + cross_entropy(wrong, 0)) / 3
    torch.testing.assert_close(discriminator_loss(real, wrong, fake, "bce"), by_hand)
    hinges = (0 + 1) / 2 + (0 + 1.5) / 2, (0 + 1.5) / 2 + 1 + (2 + 0) / 2
    assert discriminator_loss(real, wrong, fake, "hinge").item() == pytest.approx(hinges[0] / 2 + hinges[1] / 3)


def replayed(model: AttnGAN, data: Store) -> tuple[dict[str, torch.Tensor], Callable[[], list[torch.Tensor]]]:
    """Return what a step of still networks reports, and a function that draws its images again."""
    stage, batch = gan(model, data), data.batch(range(16))
    torch.manual_seed(3)
    losses = stage.train_step(batch)

    def draw() -> list[torch.Tensor]:
        torch.manual_seed(3)
        noise, deviates = torch.randn(16, 32), torch.randn(16, 32)
        read = read_frozen(model.text.encoder, batch.captions)
        images: list[torch.Tensor] = model.generator(noise, deviates, read)[0]
        return images

    return {name: torch.as_tensor(value) for name, value in losses.items()}, draw


STILL = Track(generator_learning_rate=0.0, discriminator_learning_rate=0.0)


def test_the_losses_of_a_step_are_those_of_its_images_at_every_size(world: Store) -> None:
    model = small(track=STILL)
    losses, draw = replayed(model, world)
    batch = world.batch(range(16))
    sentence = read_frozen(model.text.encoder, batch.captions).sentence
    order = mismatched_order(matching_pairs(batch, "image"))
    fooled = taught = torch.zeros(())
    for network, fake in zip(model.discriminator, draw(), strict=True):
        real = F.interpolate(batch.images / 127.5 - 1, fake.shape[-2:], mode="area")
        seen, imagined = network(real), network(fake)
        pairs = network.alone(imagined), network.with_caption(imagined, sentence)
        fooled = fooled + sum(F.softplus(-logits).mean() for logits in pairs)
        matching = network.alone(seen), network.with_caption(seen, sentence)
        taught = taught + discriminator_loss(matching, network.with_caption(seen, sentence[order]), pairs, "bce")
    torch.testing.assert_close(losses["generator"], fooled.detach())
    torch.testing.assert_close(losses["discriminator"], taught.detach())
    mean, log_std = model.generator.condition(sentence)
    divergence = (mean.square() + log_std.exp().square() - 1) / 2 - log_std
    torch.testing.assert_close(losses["divergence"], divergence.mean().detach())


def test_the_damsm_sees_the_finest_images(world: Store) -> None:
    model = small(track=STILL)
    losses, draw = replayed(model, world)
    batch = world.batch(range(16))
    assert isinstance(model.text, DAMSM)
    read, matching = read_frozen(model.text.encoder, batch.captions), matching_pairs(batch, "image")
    parts = model.text.match(draw()[-1], read, matching)
    for name in ("words", "sentences"):
        torch.testing.assert_close(losses[name], parts[name].detach())


def test_both_encoders_stay_as_they_are(world: Store) -> None:
    model = small()
    stage = gan(model, world)
    networks = model.networks()
    before = {name: {key: value.clone() for key, value in net.state_dict().items()} for name, net in networks.items()}
    stage.train_step(world.batch(range(16)))
    for name, net in networks.items():
        same = [torch.equal(value, before[name][key]) for key, value in net.state_dict().items()]
        assert all(same) if name.endswith("_encoder") else not any(same[:2])


def test_damsm_weight_changes_what_the_generator_learns(world: Store) -> None:
    states = []
    for weight in (0.0, 5.0):
        model = small(damsm_weight=weight)
        torch.manual_seed(1)
        losses = gan(model, world).train_step(world.batch(range(16)))
        assert ("words" in losses) == (weight > 0)
        states.append(model.generator.heads[-1][0].weight.detach().clone())
    assert not torch.equal(*states)


@pytest.mark.parametrize("kind", ["char-cnn-rnn", "clip"])
def test_other_text_encoders_need_no_damsm(world: Store, kind: Any) -> None:
    text = replace(TINY.text_encoder, kind=kind)
    with pytest.raises(UserError, match="damsm_weight=5: expected 0"):
        replace(TINY, text_encoder=text)
    model = small(text_encoder=text, damsm_weight=0.0)
    losses = gan(model, world).train_step(world.batch(range(16)))
    assert all(torch.isfinite(torch.as_tensor(value)) for value in losses.values())
    assert model.sample(["a red circle"], seeds=[1]).shape == (1, 3, 32, 32)


def test_settings_that_make_no_network_are_a_users_mistake() -> None:
    for settings, named in (({"image_size": 48}, "image_size=48"), ({"branches": 0}, "branches=0"),
                            ({"image_size": 16, "branches": 3}, "branches=3"), ({"batch_size": 1}, "batch_size=1"),
                            ({"generator_width": 2}, "generator_width=2"), ({"damsm_weight": -5.0}, "damsm_weight=-5"),
                            ({"text_encoder": replace(TINY.text_encoder, standardise=True)}, "standardise=true"),
                            ):  # fmt: skip
        with pytest.raises(UserError, match=named) as caught:
            AttnGANConfig(**settings)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("branches", [1, 2])
def test_any_number_of_sizes_is_drawn(branches: int) -> None:
    model = small(branches=branches)
    assert len(model.discriminator) == branches
    assert model.sample(["a", "b"], seeds=[0, 1]).shape == (2, 3, 32, 32)
