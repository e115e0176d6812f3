"""The dVAE: its likelihood, divergence, relaxation, schedules and published size."""

import math
from dataclasses import replace

import pytest
import torch

from t2ibench.dalle.dvae import (
    DVAE,
    MARGIN,
    DVAEConfig,
    DVAEStage,
    Seen,
    bound,
    divergence_from_uniform,
    negative_log_likelihood,
    relax,
    to_unit,
)
from t2ibench.dalle.resnet_codec import Block, CodecConfig, Decoder, Encoder

CODEC = CodecConfig(width=8, first_decoder_width=8, blocks=1, stride=4)
CONFIG = DVAEConfig(num_codes=16, codec=CODEC)


def stage_of(config: DVAEConfig = CONFIG) -> DVAEStage:
    torch.manual_seed(0)
    return DVAEStage(DVAE(config, 32), share=0.3)


def some_images(number: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (number, 3, 32, 32), dtype=torch.uint8, generator=generator)


def test_published_sizes() -> None:
    """The released networks have 53.8 and 43.8 million parameters."""
    with torch.device("meta"):
        dvae = DVAE(DVAEConfig(), 256)
        logits = dvae.logits(torch.zeros(1, 3, 256, 256, dtype=torch.uint8))
        seen = dvae.seen(logits)
    counts = [sum(p.numel() for p in network.parameters()) for network in (dvae.encoder, dvae.decoder)]
    assert counts == [pytest.approx(53.8e6, rel=0.005), pytest.approx(43.8e6, rel=0.005)]
    assert logits.shape == (1, 8192, 32, 32) and seen.location.shape == (1, 3, 256, 256)
    gains = {module.gain for module in dvae.modules() if isinstance(module, Block)}
    assert gains == {1 / 64}


def test_likelihood_by_hand() -> None:
    """At x = 0.5, mu = 0, b = 1 the density is 2; at x = 0.7, mu = 1, b = 0.5 it is exp(-2 |ln(7/3) - 1|) / 0.21."""
    seen = Seen(torch.tensor([0.0, 1.0]), torch.tensor([0.0, math.log(0.5)]))
    nll = negative_log_likelihood(seen, torch.tensor([0.5, 0.7]))
    assert nll[0] == pytest.approx(-math.log(2))
    assert nll[1] == pytest.approx(-math.log(math.exp(-2 * abs(math.log(7 / 3) - 1)) / 0.21))


@pytest.mark.parametrize("location, log_scale", [(0.0, 0.0), (1.3, -1.0), (-2.0, 0.5)])
@pytest.mark.parametrize("least_scale", [0.0, 0.2])
def test_likelihood_integrates_to_one(location: float, log_scale: float, least_scale: float) -> None:
    logits = torch.linspace(-40, 40, 400_001, dtype=torch.float64)
    values = logits.sigmoid().clamp(1e-16, 1 - 1e-16)
    seen = Seen(torch.full_like(values, location), torch.full_like(values, log_scale))
    # The density of x times dx/dlogit = x (1 - x).
    density = (-negative_log_likelihood(seen, values, least_scale)).exp() * values * (1 - values)
    assert torch.trapezoid(density, logits) == pytest.approx(1, abs=1e-3)


def test_likelihood_is_broader_by_the_least_scale() -> None:
    """A floor of c makes the scale b + c."""
    seen, wider = (Seen(torch.tensor(0.3), torch.tensor(b).log()) for b in (0.4, 0.65))
    value = torch.tensor(0.8)
    torch.testing.assert_close(negative_log_likelihood(seen, value, 0.25), negative_log_likelihood(wider, value))


def test_pixels_keep_away_from_the_ends_and_come_back() -> None:
    pixels = torch.arange(256, dtype=torch.uint8)
    units = to_unit(pixels)
    assert units[0] == pytest.approx(MARGIN) and units[-1] == pytest.approx(1 - MARGIN)
    assert units[51] == pytest.approx(0.1 + 0.8 * 0.2)


def test_decoding_ignores_the_scale_and_undoes_the_map() -> None:
    """A decoder that says logit(phi(x)) everywhere paints x, whatever scale it says."""
    dvae = stage_of().dvae
    head = dvae.decoder.head
    assert head.bias is not None
    with torch.no_grad():
        head.weight.zero_()
        head.bias.copy_(torch.cat([to_unit(torch.tensor([0, 51, 255])).logit(), torch.tensor([3.0, -9.0, 0.0])]))
    decoded = dvae.decode(torch.zeros(1, 64, dtype=torch.long))
    assert torch.equal(decoded[0], torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None].expand(3, 32, 32))


def test_decoding_codes_is_decoding_one_hot_weights() -> None:
    dvae = stage_of().dvae
    codes = torch.randint(0, 16, (3, 64), generator=torch.Generator().manual_seed(0))
    one_hot = torch.nn.functional.one_hot(codes.view(3, 8, 8), 16).permute(0, 3, 1, 2).float()
    with torch.no_grad():
        units = dvae.seen(one_hot).location.sigmoid()
    expected = ((units - 0.1) / 0.8 * 255).clamp(0, 255)
    assert (dvae.decode(codes).float() - expected).abs().max() < 0.51


def test_divergence_is_that_from_uniform() -> None:
    uniform, certain = torch.full((1, 8, 2, 2), 3.0), torch.zeros(1, 8, 2, 2)
    certain[:, 5] = 1000
    assert divergence_from_uniform(uniform).abs().max() < 1e-6
    assert divergence_from_uniform(certain).flatten().tolist() == pytest.approx([math.log(8)] * 4)
    torch.manual_seed(0)
    logits = torch.randn(4, 8, 3, 5)
    reference = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=logits.permute(0, 2, 3, 1)),
        torch.distributions.Categorical(logits=torch.zeros(8)),
    )
    divergences = divergence_from_uniform(logits)
    assert divergences.shape == (4, 3, 5) and divergences.min() >= 0
    torch.testing.assert_close(divergences, reference)


def test_bound_by_hand_and_for_any_number_of_images() -> None:
    likelihoods, divergences = torch.ones(1, 3, 4, 4), torch.full((1, 2, 2), 3.0)
    # (48 x 1 + 2 x 4 x 3) / 48
    assert bound(likelihoods, divergences, 2.0) == pytest.approx(1.5)
    stage = stage_of()
    logits = stage.dvae.logits(some_images(2)).detach()
    likelihoods = negative_log_likelihood(stage.dvae.seen(logits.softmax(1)), to_unit(some_images(2)))
    once = bound(likelihoods, divergence_from_uniform(logits), 6.6)
    for times in (2, 5):
        more = bound(likelihoods.repeat(times, 1, 1, 1), divergence_from_uniform(logits.repeat(times, 1, 1, 1)), 6.6)
        assert more.item() == pytest.approx(once.item(), rel=1e-6)


def test_published_weight_of_the_divergence_a_code() -> None:
    """At 256 px a code's divergence counts beta / 192 beside the mean over values."""
    likelihoods, divergences = torch.zeros(1, 3, 256, 256), torch.ones(1, 32, 32)
    assert bound(likelihoods, divergences, 6.6) == pytest.approx(6.6 / 192)


def test_colder_relaxation_is_nearer_to_one_hot() -> None:
    logits = torch.randn(8, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    largest = []
    for temperature in (4.0, 1.0, 1 / 16, 1e-4):
        torch.manual_seed(0)
        weights = relax(logits, temperature)
        assert torch.allclose(weights.sum(1), torch.ones(8, 4, 4), atol=1e-5)
        largest.append(float(weights.max(1).values.mean()))
    assert largest == sorted(largest) and largest[-1] > 0.999


def test_cold_relaxation_draws_from_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 200, 200)
    torch.manual_seed(0)
    shares = relax(logits, 1e-3).mean((0, 2, 3))
    torch.testing.assert_close(shares, torch.tensor([0.0, 1.0, 2.0]).softmax(0), atol=0.01, rtol=0)


def test_published_schedules() -> None:
    """Beta reaches 6.6 after 5,000 of 3,000,000 steps, the temperature 1/16 after 150,000, the rate after 1,200,000."""
    stage = stage_of()
    stage.total_steps = 3_000_000
    seen = {}
    for step in (0, 2500, 5000, 75_000, 150_000, 600_000, 1_200_000, 3_000_000):
        stage.steps = step
        seen[step] = (stage.divergence_weight, stage.temperature, stage.learning_rate)
    assert [seen[step][0] for step in (0, 2500, 5000, 3_000_000)] == pytest.approx([0, 3.3, 6.6, 6.6])
    assert [seen[step][1] for step in (0, 75_000, 150_000, 3_000_000)] == pytest.approx([1, 17 / 32, 1 / 16, 1 / 16])
    middle = (1e-4 + 1.25e-6) / 2
    assert [seen[step][2] for step in (0, 600_000, 1_200_000, 3_000_000)] == pytest.approx(
        [1e-4, middle, 1.25e-6, 1.25e-6]
    )


def test_published_average_has_decay_0_999_a_step() -> None:
    teaching = DVAEConfig().teaching
    assert 0.5 ** (teaching.batch_size / (1000 * teaching.ema_kimg)) == pytest.approx(0.999, abs=1e-6)


def test_the_divergence_is_of_the_softmax_without_noise() -> None:
    stage, images = stage_of(), some_images(3)
    expected = float(divergence_from_uniform(stage.dvae.logits(images).detach()).mean())
    for seed in (0, 1):
        torch.manual_seed(seed)
        losses = stage.losses(images)
        losses = {name: torch.as_tensor(loss).detach() for name, loss in losses.items()}
        assert float(losses["divergence"]) == pytest.approx(expected, rel=1e-5)
        assert float(losses["loss"]) == pytest.approx(float(losses["nll"]), rel=1e-6)  # beta begins at 0
    stage.steps = stage.total_steps
    losses = {name: torch.as_tensor(loss).detach() for name, loss in stage.losses(images).items()}
    weighted = float(losses["nll"]) + 6.6 * 64 / 3072 * expected
    assert float(losses["loss"]) == pytest.approx(weighted, rel=1e-5)


def test_the_loss_is_the_likelihood_of_a_relaxed_sample_at_the_steps_temperature() -> None:
    stage, images = stage_of(replace(CONFIG, least_scale=0.2)), some_images(3)
    stage.total_steps, stage.steps = 1000, 25
    assert 0.2 < stage.temperature < 0.8, "between the ends of its fall"
    torch.manual_seed(5)
    relaxed = relax(stage.dvae.logits(images), stage.temperature)
    expected = negative_log_likelihood(stage.dvae.seen(relaxed), to_unit(images), 0.2).mean()
    torch.manual_seed(5)
    nll = torch.as_tensor(stage.losses(images)["nll"])
    assert nll.item() == pytest.approx(expected.item(), rel=1e-6)


def test_normed_logits_begin_even_and_encoding_uses_what_was_noted() -> None:
    stage = stage_of(replace(CONFIG, logits_deviation=3.0))
    images = some_images(16)
    with torch.no_grad():
        logits = stage.dvae.train().logits(images)
    torch.testing.assert_close(logits.mean((0, 2, 3)), torch.zeros(16), atol=1e-4, rtol=0)
    torch.testing.assert_close(logits.std((0, 2, 3)), torch.full((16,), 3.0), atol=0.01, rtol=0)
    noted = stage.dvae.norm.running_mean.clone()
    codes = stage.dvae.train().encode(images)
    assert torch.equal(stage.dvae.norm.running_mean, noted)
    assert torch.equal(stage.dvae.train().encode(images[:3]), codes[:3])


def test_relaxed_gradients_reach_every_weight() -> None:
    stage = stage_of()
    stage.steps = stage.total_steps
    loss = stage.losses(some_images(4))["loss"]
    assert isinstance(loss, torch.Tensor)
    loss.backward()
    for name, parameter in stage.dvae.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_encoding_takes_the_most_probable_code() -> None:
    dvae, images = stage_of().dvae, some_images(2)
    with torch.no_grad():
        logits = dvae.logits(torch.cat([images, images.new_zeros(62, 3, 32, 32)]))[:2]
    assert torch.equal(dvae.encode(images), logits.argmax(1).flatten(1))


@pytest.mark.parametrize("unshuffle", [1, 2, 4])
def test_codec_keeps_places(unshuffle: int) -> None:
    """The image grows back to its size, and a code's own pixels are those that move most with it."""
    config = CodecConfig(width=8, first_decoder_width=8, blocks=1, stride=4, unshuffle=unshuffle, kernel=3)
    torch.manual_seed(0)
    encoder, decoder = Encoder(config, 5), Decoder(config, 5, 3)
    features = encoder(torch.zeros(2, 3, 32, 24))
    assert features.shape == (2, 5, 8, 6)
    with torch.no_grad():
        plain = decoder(torch.zeros(1, 5, 8, 6))
        marked = torch.zeros(1, 5, 8, 6)
        marked[:, :, 2, 4] = 1.0
        moved = (decoder(marked) - plain).abs().sum((0, 1))
    assert plain.shape == (1, 3, 32, 24)
    cells = moved.view(8, 4, 6, 4).sum((1, 3))
    assert cells.argmax() == 2 * 6 + 4


def test_weights_begin_with_the_published_spread() -> None:
    torch.manual_seed(0)
    encoder = Encoder(CodecConfig(width=64, stride=2, blocks=1), 512)
    for layer, inputs in ((encoder.first, 3 * 7 * 7), (encoder.head, 128)):
        assert float(layer.weight.detach().std()) == pytest.approx(1 / math.sqrt(inputs), rel=0.02)
        assert layer.bias is not None and not layer.bias.any()


def test_a_block_adds_its_branch_times_the_gain() -> None:
    torch.manual_seed(0)
    block, x = Block(8, 8, (3, 3, 3, 1), 0.0), torch.randn(1, 8, 4, 4)
    assert torch.equal(block(x), x)
    block.gain = 2.0
    twice = block(x) - x
    block.gain = 1.0
    torch.testing.assert_close(twice, 2 * (block(x) - x))
    assert [tuple(layer.weight.shape) for layer in block.layers] == [
        (2, 8, 3, 3), (2, 2, 3, 3), (2, 2, 3, 3), (8, 2, 1, 1)
    ]  # fmt: skip
