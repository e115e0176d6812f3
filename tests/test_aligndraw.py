"""alignDRAW: the published sizes, the losses and filters by hand, what each caption and each step sees."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from t2ibench.baselines.aligndraw import (
    PAPER,
    TINY,
    AlignDRAW,
    ClippedRMSprop,
    Decoder,
    Gaussian,
    PaintingStage,
    Text,
    TextEncoder,
    divergence,
    place_grid,
    reconstruction_loss,
)
from t2ibench.baselines.reading import reversed_order
from t2ibench.datasets.store import Store
from t2ibench.datasets.tokenizers import WordTokenizer
from t2ibench.errors import UserError
from t2ibench.suite.describe import describe

SMALL = replace(TINY, steps=3, read_window=4, write_window=5, encoder_width=8, decoder_width=8, latent_dim=4,
                text_width=6, align_dim=5, words=10, vocabulary=40, batch_size=8, initial_deviation=0.3)  # fmt: skip


def model(**settings: object) -> AlignDRAW:
    torch.manual_seed(0)
    return AlignDRAW(replace(SMALL, **settings))


def test_published_parameter_counts() -> None:
    coco = describe("aligndraw", "paper", {}).parameters
    assert sum(coco.values()) == pytest.approx(33.10e6, rel=1e-3)
    assert coco["text_encoder"] == 2 * (25_323 * 512 + 128 * 512 + 512) + 128
    assert sum(describe("aligndraw", "paper-mnist", {}).parameters.values()) == pytest.approx(2.37e6, rel=3e-3)


def test_grid_by_hand() -> None:
    """Centre in the middle, stride 2, variance 1/2, strength 3: filters at pixels 1.5, 3.5, 5.5 of 6."""
    parameters = torch.tensor([[0.0, 0.0, math.log(2 / 2.5), math.log(0.5), math.log(3)]])
    grid = place_grid(parameters, 3, 6)
    for row, centre in enumerate((1.5, 3.5, 5.5)):
        heights = [math.exp(-((pixel - centre) ** 2)) for pixel in range(1, 7)]
        expected = torch.tensor([height / (sum(heights) + 1e-4) for height in heights])
        torch.testing.assert_close(grid.rows[0, row], expected)
    torch.testing.assert_close(grid.rows, grid.columns)
    assert grid.strength.item() == pytest.approx(3)


def test_first_offset_moves_columns_and_second_rows() -> None:
    middle, moved = place_grid(torch.zeros(1, 5), 3, 8), place_grid(torch.tensor([[0.5, 0, 0, 0, 0]]), 3, 8)
    assert torch.equal(middle.rows, moved.rows) and not torch.equal(middle.columns, moved.columns)


def test_reading_and_writing_are_the_filters_applied_channel_by_channel() -> None:
    torch.manual_seed(0)
    grid, images, strokes = place_grid(torch.randn(2, 5), 3, 6), torch.rand(2, 6, 3, 6), torch.rand(2, 3, 3, 3)
    read, written = grid.read(images), grid.write(strokes)
    for n in range(2):
        strength = grid.strength[n].item()
        for c in range(3):
            one = grid.rows[n] @ images[n, :, c] @ grid.columns[n].T
            torch.testing.assert_close(read[n, :, c], strength * one)
            back = grid.rows[n].T @ strokes[n, :, c] @ grid.columns[n]
            torch.testing.assert_close(written[n, :, c], back / strength)


def test_divergence_by_hand() -> None:
    posterior = Gaussian(torch.tensor([[[1.0]], [[0.0]]]), torch.tensor([[[0.0]], [[math.log(2.0)]]]))
    prior = Gaussian(torch.tensor([[[0.0]], [[1.0]]]), torch.tensor([[[0.0]], [[math.log(0.5)]]]))
    second = math.log(0.5 / 2) + (4 + 1) / (2 * 0.25) - 0.5
    assert divergence(posterior, prior).item() == pytest.approx(0.5 + second)
    wide = [Gaussian(g.mean.expand(2, 3, 5), g.log_std.expand(2, 3, 5)) for g in (posterior, prior)]
    assert divergence(*wide).item() == pytest.approx(5 * (0.5 + second))


def test_divergence_is_that_of_torch() -> None:
    torch.manual_seed(0)
    mean, log_std, prior_mean, prior_log_std = torch.randn(4, 3, 2, 5)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(prior_mean, prior_log_std.exp())
    )
    ours = divergence(Gaussian(mean, log_std), Gaussian(prior_mean, prior_log_std))
    torch.testing.assert_close(ours, expected.sum((0, 2)).mean())


def test_reconstruction_by_hand() -> None:
    canvas, images = torch.tensor([[0.0, 2.0], [-1.0, 0.0]]), torch.tensor([[0.25, 1.0], [0.0, 1.0]])
    expected = (math.log(2) + math.log1p(math.exp(-2)) + math.log1p(math.exp(-1)) + math.log(2)) / 2
    assert reconstruction_loss(canvas, images).item() == pytest.approx(expected)


def test_bound_is_the_sum_of_its_terms_and_the_divergence_sees_every_step() -> None:
    made = model(steps=2)
    made.tokenizers["words"] = WordTokenizer(["a", "red"], 10)
    images, text = torch.rand(3, 32, 3, 32), made.read(["a red", "red", ""])
    torch.manual_seed(1)
    losses = PaintingStage(made).losses(images, text)
    assert losses["bound"].item() == pytest.approx((losses["reconstruction"] + losses["divergence"]).item())
    torch.manual_seed(1)
    noise, painting, hidden = torch.randn(2, 3, 4), made.decoder.begin(3), made.encoder.lstm.begin(3)
    expected = 0.0
    for step in range(2):
        posterior, hidden = made.encoder(images, painting, hidden)
        one = [Gaussian(g.mean[None], g.log_std[None]) for g in (posterior, painting.prior)]
        expected += divergence(*one).item()
        painting = made.decoder(posterior.mean + posterior.log_std.exp() * noise[step], text, painting)
    assert losses["divergence"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["reconstruction"].item() == pytest.approx(reconstruction_loss(painting.canvas, images).item())


def test_first_latent_is_from_the_normal_and_the_prior_is_bounded() -> None:
    made = model(initial_deviation=5.0)
    painting = made.decoder.begin(2)
    assert not painting.prior.mean.any() and not painting.prior.log_std.any()
    text = Text(torch.randn(2, 4, 12), torch.randn(2, 4, 5), torch.ones(2, 4, dtype=torch.bool))
    prior = made.decoder(torch.randn(2, 4), text, painting).prior
    assert max(prior.mean.abs().max(), prior.log_std.abs().max()) <= 1 and prior.mean.any()


def test_reversal_is_within_each_caption() -> None:
    mask = torch.tensor([[True, True, True, False], [True, False, False, False], [True] * 4])
    order = reversed_order(mask)
    assert order.tolist() == [[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]]
    assert torch.equal(order.gather(1, order), torch.arange(4).expand(3, 4))


def test_reader_is_a_bidirectional_lstm() -> None:
    """PyTorch's own, on one-hot words, with the gates in its order, reads a caption without padding alike."""
    torch.manual_seed(0)
    encoder = model().text_encoder
    nn.init.normal_(encoder.bias)
    nn.init.normal_(encoder.first)
    reference = nn.LSTM(43, 6, batch_first=True, bidirectional=True)
    for direction, end in enumerate(("l0", "l0_reverse")):
        getattr(reference, f"weight_ih_{end}").data = encoder.tables[direction].weight.detach().T
        getattr(reference, f"weight_hh_{end}").data = encoder.recurrent[direction].detach().T
        getattr(reference, f"bias_ih_{end}").data = encoder.bias[direction, 0].detach()
        getattr(reference, f"bias_hh_{end}").data.zero_()
    first = encoder.first.detach().expand(2, 1, -1).contiguous()
    for length in (1, 4, 10):
        tokens = torch.randint(1, 43, (1, length))
        padded = torch.cat([tokens, torch.zeros(1, 10 - length, dtype=torch.int64)], 1)
        expected = reference(nn.functional.one_hot(tokens, 43).float(), (first, torch.zeros_like(first)))[0]
        torch.testing.assert_close(encoder(padded)[:, :length], expected)


def test_words_depend_on_their_caption_alone() -> None:
    made = model()
    made.tokenizers["words"] = WordTokenizer(["a", "red", "circle"], 10)
    alone = made.read(["a red circle", "red"])
    beside = made.read(["a red circle", "a circle a circle a circle"])
    assert torch.equal(alone.words[0], beside.words[0])


def test_attention_sees_every_word_and_no_padding() -> None:
    made = model()
    words, keys = torch.randn(1, 4, 12), torch.randn(1, 4, 5)
    mask = torch.tensor([[True, True, True, False]])
    output = torch.randn(1, 8)
    seen = made.decoder.attend(output, Text(words, keys, mask))
    query = made.decoder.query(output)[0]
    energies = (torch.tanh(keys[0, :3] + query) @ made.decoder.energy.weight[0]).tolist()
    weights = [math.exp(energy) / sum(map(math.exp, energies)) for energy in energies]
    torch.testing.assert_close(seen[0], sum(weights[k] * words[0, k] for k in range(3)))
    words[0, 3] = 100.0
    assert torch.equal(seen, made.decoder.attend(output, Text(words, keys, mask)))


def test_more_padding_draws_the_same() -> None:
    drawn = []
    for length in (6, 10):
        made = model()
        made.tokenizers["words"] = WordTokenizer(["a", "red", "circle"], length)
        drawn.append(made.paint(made.read(["a red circle"]), torch.ones(1, 3, 4)))
    torch.testing.assert_close(*drawn)


def test_text_reaches_the_latents_through_the_decoder_only() -> None:
    """The posterior of the first step knows nothing of the caption; that of the second does."""
    made = model()
    images, painting, hidden = torch.rand(1, 32, 3, 32), made.decoder.begin(1), made.encoder.lstm.begin(1)
    text = Text(torch.randn(1, 4, 12, requires_grad=True), torch.randn(1, 4, 5), torch.ones(1, 4, dtype=torch.bool))
    first, hidden = made.encoder(images, painting, hidden)
    painting = made.decoder(first.mean, text, painting)
    second, _ = made.encoder(images, painting, hidden)
    assert torch.autograd.grad(first.mean.sum(), text.words, allow_unused=True, retain_graph=True)[0] is None
    assert torch.autograd.grad(second.mean.sum(), text.words)[0].abs().sum() > 0


def test_rmsprop_by_hand() -> None:
    long, short = nn.Parameter(torch.tensor([1.0, 1.0])), nn.Parameter(torch.tensor([1.0]))
    optimiser = ClippedRMSprop([long, short], 0.1, clip_norm=5.0)
    expected, squares = [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]
    for _ in range(2):
        long.grad, short.grad = torch.tensor([6.0, 8.0]), torch.tensor([2.0])
        optimiser.step()
        for i, gradient in enumerate((3.0, 4.0, 2.0)):
            squares[i] = 0.9 * squares[i] + 0.1 * gradient**2
            expected[i] -= 0.1 * gradient / math.sqrt(squares[i] + 1e-6)
    assert [*long.tolist(), *short.tolist()] == pytest.approx(expected)


def test_epsilon_stands_under_the_root() -> None:
    weight = nn.Parameter(torch.zeros(1))
    optimiser = ClippedRMSprop([weight], 1.0, clip_norm=5.0)
    weight.grad = torch.tensor([1e-3])
    optimiser.step()
    assert weight.item() == pytest.approx(-1e-3 / math.sqrt(1e-7 + 1e-6))


def test_weights_begin_small_and_all_else_at_zero() -> None:
    made = AlignDRAW(replace(SMALL, decoder_width=64, initial_deviation=0.01))
    assert made.decoder.lstm.from_input.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert made.text_encoder.recurrent.std().item() == pytest.approx(0.01, rel=0.2)
    assert not made.text_encoder.bias.any() and not made.decoder.first.any() and not made.encoder.place.bias.any()


def test_latents_in_training_are_drawn_anew(world: Store) -> None:
    stage = model().stages(world)[0]
    images, text = torch.rand(8, 32, 3, 32), stage.model.read(world.batch(range(8)).captions)
    a, b = (stage.losses(images, text)["reconstruction"].item() for _ in range(2))
    assert a != b


def test_the_bound_falls(world: Store) -> None:
    stage = model(learning_rate=0.01).stages(world)[0]
    bounds = []
    for step in range(25):
        torch.manual_seed(step)
        bounds.append(float(stage.train_step(world.batch(range(8)))["bound"]))
    assert bounds[-1] < 0.95 * bounds[0]


def test_grey_is_learnt_and_drawn(world: Store) -> None:
    made = model(channels=1)
    made.stages(world)[0].train_step(world.batch(range(8)))
    images = made.sample(["a red circle"], seeds=[0])
    assert images.shape == (1, 3, 32, 32)
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])


def test_vocabulary_kept_with_the_run_is_not_learnt_again(world: Store) -> None:
    made = model()
    kept = made.tokenizers["words"] = WordTokenizer(["red"], 10)
    made.stages(world)
    assert made.tokenizers["words"] is kept


@pytest.mark.parametrize("settings", [{"read_window": 1}, {"write_window": 33}, {"steps": 0}, {"words": 1}])
def test_sizes_that_make_no_network(settings: dict[str, int]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        replace(PAPER, **settings)


def test_canvas_is_learnt_from_the_first_stroke() -> None:
    made = model()
    assert isinstance(made.decoder, Decoder) and isinstance(made.text_encoder, TextEncoder)
    nn.init.constant_(made.decoder.first, 2.0)
    assert torch.equal(made.decoder.begin(3).canvas, torch.full((3, 32, 3, 32), 2.0))


def test_encoder_sees_the_image_and_what_is_left_to_paint() -> None:
    made = model()
    painting, hidden, images = made.decoder.begin(2), made.encoder.lstm.begin(2), torch.rand(2, 32, 3, 32)
    painting = painting._replace(canvas=torch.randn(2, 32, 3, 32))
    grid = place_grid(made.encoder.place(painting.hidden.output), 4, 32)
    left = images - torch.sigmoid(painting.canvas)
    glimpse = torch.cat([grid.read(images), grid.read(left)], 2).flatten(1)
    output = made.encoder.lstm(torch.cat([glimpse, painting.hidden.output], 1), hidden).output
    mean, log_variance = made.encoder.posterior(output).chunk(2, 1)
    posterior, _ = made.encoder(images, painting, hidden)
    torch.testing.assert_close(posterior.mean, mean)
    torch.testing.assert_close(posterior.log_std.exp().square(), log_variance.exp())
