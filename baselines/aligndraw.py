"""alignDRAW: a recurrent variational autoencoder that paints on a canvas while it attends to the caption's words.

Mansimov, Parisotto, Ba and Salakhutdinov 2016, "Generating Images from Captions with Attention" (arXiv:1511.02793),
on DRAW (Gregor et al. 2015, arXiv:1502.04623). Bounds are in nats an image, as there. What differs:

- The official code reverses the batch instead of the words, so that its backward LSTM reads another caption from
  left to right; here each caption is reversed within its own length, as in the paper.
- The official code counts pixels and rows of the grid from 0, which moves every grid by a pixel and half a stride or
  more; here both count from 1, as in the paper, and a zero offset is the middle of the image.
- Its batches hold captions of one length; here they are padded, and no attention falls on the padding.
- The published rate drops to a tenth whenever the bound on the validation images worsens; here it is constant, so that
  a run is a function of the train split alone.
- The sharpening network (section 3.4), taught apart as a GAN after the fact, is left out: images are the blurry ones.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.tokenizers import Tokenizer, WordTokenizer
from ..errors import UserError
from .interface import Stage, optimiser_step, sample_in_chunks, seeded_normal
from .reading import learn_words, reversed_order


@dataclass(frozen=True, kw_only=True)
class AlignDRAWConfig:
    """Settings of the model; the defaults are the published ones for COCO."""

    image_size: int = 32
    """Side of the images."""
    channels: Literal[1, 3] = 3
    """3 paints in colour; 1 in grey, learning from the mean of red, green and blue."""
    steps: int = 32
    """T: glimpses of an image, and strokes on its canvas."""
    read_window: int = 9
    """Side of the grid of Gaussian filters through which the encoder looks at the image."""
    write_window: int = 9
    """Side of the grid of Gaussian filters through which the decoder paints."""
    encoder_width: int = 550
    """Of the LSTM that infers the latent variables from glimpses."""
    decoder_width: int = 550
    """Of the LSTM that paints."""
    latent_dim: int = 275
    """Latent variables a step."""
    vocabulary: int = 25_320
    """Most frequent words of the train split's captions that are told apart; padding, unknown and end come on top."""
    words: int = 30
    """Captions are cut after this many words, their end included; those of the paper have fewer than 30."""
    text_width: int = 128
    """Of the LSTM that reads the caption, each way."""
    align_dim: int = 512
    """Hidden units of the attention over words."""
    initial_deviation: float = 0.01
    """All weights are drawn from N(0, this); biases and first states begin at 0."""
    batch_size: int = 100
    """Images in a step."""
    learning_rate: float = 1e-3
    """Of RMSprop, constant."""
    clip_norm: float = 10.0
    """Largest norm of one parameter's gradient."""
    ema_kimg: float = 0.0
    """Half-life of the average of what draws, in thousands of images; 0 draws with the last weights, as published."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if not 2 <= min(self.read_window, self.write_window) <= max(self.read_window, self.write_window) <= (
            self.image_size
        ):
            raise UserError(
                f"read_window={self.read_window}, write_window={self.write_window}: expected 2 to image_size="
                f"{self.image_size}"
            )
        for name in ("steps", "encoder_width", "decoder_width", "latent_dim", "vocabulary", "text_width",
                     "align_dim", "batch_size"):  # fmt: skip
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)}: expected 1 or more")
        if self.words < 2:
            raise UserError(f"words={self.words}: expected 2 or more, a word and the end")


TINY = AlignDRAWConfig(
    steps=10, read_window=7, write_window=7, encoder_width=192, decoder_width=192, latent_dim=32, vocabulary=2000,
    words=32, text_width=64, align_dim=64, initial_deviation=0.05, batch_size=32, ema_kimg=5.0,
)  # fmt: skip
# Narrower layers pass less on: at the published deviation the bound stays longer at that of a mean image.
PAPER = AlignDRAWConfig()
PRESETS: Mapping[str, AlignDRAWConfig] = {
    "tiny": TINY,
    "small": replace(TINY, image_size=64, steps=16, encoder_width=320, decoder_width=320, latent_dim=64,
                     vocabulary=5450, text_width=128, align_dim=128, read_window=12, write_window=12),
    "paper": PAPER,
    "paper-mnist": replace(
        PAPER, image_size=60, channels=1, read_window=8, write_window=8, encoder_width=300, decoder_width=300,
        latent_dim=150, vocabulary=20, words=13,
    ),
}  # fmt: skip


class Text(NamedTuple):
    """A read caption: `words` float [N, L, 2 W]; their `keys` for the attention [N, L, A]; `mask` bool [N, L]."""

    words: torch.Tensor
    keys: torch.Tensor
    mask: torch.Tensor


class Gaussian(NamedTuple):
    """Normal distributions by mean and log of the standard deviation, each [..., D]."""

    mean: torch.Tensor
    log_std: torch.Tensor


class Hidden(NamedTuple):
    """What an LSTM carries: its output and its cell, each [N, W]."""

    output: torch.Tensor
    cell: torch.Tensor


class Painting(NamedTuple):
    """Where the decoder stands: its state, the canvas [N, S, C, S] in logits, the prior of the next latent [N, D]."""

    hidden: Hidden
    canvas: torch.Tensor
    prior: Gaussian


class Grid(NamedTuple):
    """Filters along rows and columns, each [N, n, S], and the strength [N, 1, 1, 1] of what passes."""

    rows: torch.Tensor
    columns: torch.Tensor
    strength: torch.Tensor

    def read(self, images: torch.Tensor) -> torch.Tensor:
        """Return the glimpse [N, n, C, n] of images [N, S, C, S] (rows, channels, columns)."""
        count, size, channels, _ = images.shape
        side = self.rows.shape[1]
        seen = self.rows @ images.reshape(count, size, channels * size)
        seen = seen.view(count, side * channels, size) @ self.columns.transpose(1, 2)
        return self.strength * seen.view(count, side, channels, side)

    def write(self, strokes: torch.Tensor) -> torch.Tensor:
        """Return what strokes [N, n, C, n] paint on a canvas [N, S, C, S]."""
        count, side, channels, _ = strokes.shape
        size = self.rows.shape[2]
        wide = strokes.reshape(count, side * channels, side) @ self.columns
        painted = self.rows.transpose(1, 2) @ wide.view(count, side, channels * size)
        return painted.view(count, size, channels, size) / self.strength


def place_grid(parameters: torch.Tensor, side: int, size: int) -> Grid:
    """Return the `side` x `side` grid that parameters [N, 5] lay over images of `size` (Gregor et al., section 3.2).

    They are the centre's x and y, -1 and 1 just beyond the edges, then logs of stride, variance and strength.
    """
    x, y, log_stride, log_variance, log_strength = parameters.float().unbind(1)
    centres = (size + 1) / 2 * (torch.stack([y, x], 1) + 1)
    stride = (size - 1) / (side - 1) * log_stride.exp()
    places = torch.arange(side, device=x.device) - (side - 1) / 2
    means = centres[:, :, None] + stride[:, None, None] * places
    pixels = torch.arange(1, size + 1, device=x.device)
    distances = (pixels - means[..., None]).square()
    filters = torch.exp(distances * (-0.5 * torch.exp(-log_variance))[:, None, None, None])
    rows, columns = (filters / (filters.sum(-1, keepdim=True) + 1e-4)).unbind(1)
    return Grid(rows, columns, log_strength.exp()[:, None, None, None])


class LSTM(nn.Module):
    """One step of an LSTM without peepholes."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.from_input = nn.Linear(inputs, 4 * width)
        self.from_output = nn.Linear(width, 4 * width, bias=False)
        self.first = nn.Parameter(torch.zeros(1, width))

    def begin(self, count: int) -> Hidden:
        """Return the first state; its output is learnt, its cell 0."""
        output = self.first.repeat(count, 1)
        return Hidden(output, torch.zeros_like(output))

    def forward(self, inputs: torch.Tensor, hidden: Hidden) -> Hidden:
        """Return the next state."""
        return gated(self.from_input(inputs) + self.from_output(hidden.output), hidden.cell)


def gated(gates: torch.Tensor, cell: torch.Tensor) -> Hidden:
    """Return the next state of an LSTM by its gates [..., 4 W] before their nonlinearity, and its cell [..., W]."""
    enter, keep, new, leave = gates.chunk(4, -1)
    cell = keep.sigmoid() * cell + enter.sigmoid() * new.tanh()
    return Hidden(leave.sigmoid() * cell.tanh(), cell)


class TextEncoder(nn.Module):
    """Tokens int64 [N, L] -> words [N, L, 2 W], by an LSTM each way; a word goes straight into its gates."""

    def __init__(self, config: AlignDRAWConfig) -> None:
        super().__init__()
        width, rows = config.text_width, config.vocabulary + 3
        self.tables = nn.ModuleList(nn.Embedding(rows, 4 * width) for _ in range(2))
        self.recurrent = nn.Parameter(torch.empty(2, width, 4 * width))
        self.bias = nn.Parameter(torch.zeros(2, 1, 4 * width))
        self.first = nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the words; those in the padding mean nothing."""
        order = reversed_order(tokens != WordTokenizer.padding)
        forwards, backwards = self.tables
        gates = torch.stack([forwards(tokens), backwards(tokens.gather(1, order))]) + self.bias[:, None]
        output = self.first.repeat(2, len(tokens), 1)
        cell, outputs = torch.zeros_like(output), []
        for of_word in gates.unbind(2):
            output, cell = gated(torch.baddbmm(of_word, output, self.recurrent), cell)
            outputs.append(output)
        ahead, back = torch.stack(outputs, 2)
        return torch.cat([ahead, back.gather(1, order[:, :, None].expand_as(back))], 2)


class Encoder(nn.Module):
    """What is left to paint -> the latent variables of the next step (the inference network)."""

    def __init__(self, config: AlignDRAWConfig) -> None:
        super().__init__()
        self.window = config.read_window
        seen = 2 * config.channels * config.read_window**2
        self.place = nn.Linear(config.decoder_width, 5)
        self.lstm = LSTM(seen + config.decoder_width, config.encoder_width)
        self.posterior = nn.Linear(config.encoder_width, 2 * config.latent_dim)

    def forward(self, images: torch.Tensor, painting: Painting, hidden: Hidden) -> tuple[Gaussian, Hidden]:
        """Return the posterior of the next latent given images [N, S, C, S] in [0, 1], and the LSTM's next state."""
        grid = place_grid(self.place(painting.hidden.output), self.window, images.shape[1])
        both = torch.cat([images, images - painting.canvas.sigmoid()], 2)
        glimpse = grid.read(both).flatten(1)
        hidden = self.lstm(torch.cat([glimpse, painting.hidden.output], 1), hidden)
        mean, log_variance = self.posterior(hidden.output).float().chunk(2, 1)
        return Gaussian(mean, log_variance / 2), hidden


class Decoder(nn.Module):
    """Latent variables and words -> strokes on the canvas (sections 3.1 and 3.2)."""

    def __init__(self, config: AlignDRAWConfig) -> None:
        super().__init__()
        self.config = config
        width, text = config.decoder_width, 2 * config.text_width
        self.key = nn.Linear(text, config.align_dim)
        self.query = nn.Linear(width, config.align_dim, bias=False)
        self.energy = nn.Linear(config.align_dim, 1, bias=False)
        self.lstm = LSTM(config.latent_dim + text, width)
        self.prior = nn.Linear(width, 2 * config.latent_dim)
        self.place = nn.Linear(width, 5)
        self.stroke = nn.Linear(width, config.channels * config.write_window**2)
        self.first = nn.Parameter(torch.zeros(1, config.image_size, config.channels, config.image_size))

    def begin(self, count: int) -> Painting:
        """Return the first canvas; the first latent is from N(0, 1)."""
        prior = torch.zeros(count, self.config.latent_dim, device=self.first.device)
        return Painting(self.lstm.begin(count), self.first.repeat(count, 1, 1, 1), Gaussian(prior, prior))

    def attend(self, output: torch.Tensor, text: Text) -> torch.Tensor:
        """Return the words' mean [N, 2 W], weighted by what the LSTM's output [N, W] looks for (equation 4)."""
        energies = self.energy(torch.tanh(text.keys + self.query(output)[:, None])).float()
        weights = energies.masked_fill(~text.mask[:, :, None], -math.inf).softmax(1)
        mean: torch.Tensor = (weights * text.words).sum(1)
        return mean

    def forward(self, latent: torch.Tensor, text: Text, painting: Painting) -> Painting:
        """Return the painting after one more step."""
        config, words = self.config, self.attend(painting.hidden.output, text)
        hidden = self.lstm(torch.cat([latent, words], 1), painting.hidden)
        mean, log_std = self.prior(hidden.output).float().tanh().chunk(2, 1)
        grid = place_grid(self.place(hidden.output), config.write_window, config.image_size)
        strokes = self.stroke(hidden.output).view(-1, config.write_window, config.channels, config.write_window)
        return Painting(hidden, painting.canvas + grid.write(strokes), Gaussian(mean, log_std))


def initialise(network: nn.Module, deviation: float) -> None:
    """Draw every matrix from N(0, deviation); biases, first states and the first canvas stay or become 0."""
    for name, parameter in network.named_parameters():
        if name.endswith(("weight", "recurrent")):
            nn.init.normal_(parameter, 0.0, deviation)
        else:
            nn.init.zeros_(parameter)


def reconstruction_loss(canvas: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return -log p(image | latents): cross-entropy of a canvas in logits, summed over pixels, averaged over images."""
    return F.binary_cross_entropy_with_logits(canvas.float(), images, reduction="sum") / len(images)


def divergence(posterior: Gaussian, prior: Gaussian) -> torch.Tensor:
    """Return KL(posterior || prior), both [T, N, D], summed over steps and latents, averaged over images."""
    distance = (2 * posterior.log_std).exp() + (posterior.mean - prior.mean).square()
    each = prior.log_std - posterior.log_std + 0.5 * (distance * (-2 * prior.log_std).exp() - 1)
    return each.sum((0, 2)).mean()


class ClippedRMSprop(torch.optim.Optimizer):
    """RMSprop of the official code: each parameter's gradient clipped by its norm, epsilon under the root."""

    DECAY, EPSILON = 0.9, 1e-6

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float, clip_norm: float) -> None:
        super().__init__(parameters, {"lr": learning_rate, "clip_norm": clip_norm})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group["lr"], group["clip_norm"])

    def _update(self, parameter: nn.Parameter, gradient: torch.Tensor, rate: float, clip_norm: float) -> None:
        state = self.state[parameter]
        if not state:
            state["mean_square"] = torch.zeros_like(parameter)
        gradient = gradient * (clip_norm / gradient.norm()).clamp(max=1)
        square = state["mean_square"].mul_(self.DECAY).addcmul_(gradient, gradient, value=1 - self.DECAY)
        parameter.addcdiv_(gradient, (square + self.EPSILON).sqrt_(), value=-rate)


class PaintingStage:
    """Teach all three networks at once by the variational bound."""

    name = "aligndraw"
    share = 1.0
    draws = True

    def __init__(self, model: "AlignDRAW") -> None:
        self.model, config = model, model.config
        self.batch_size, self.ema_kimg = config.batch_size, config.ema_kimg
        drawing = {"text_encoder": model.text_encoder, "decoder": model.decoder}
        self.averaged: Mapping[str, nn.Module] = drawing if config.ema_kimg else {}
        parameters = [p for network in model.networks().values() for p in network.parameters()]
        self.optimiser = ClippedRMSprop(parameters, config.learning_rate, config.clip_norm)

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Take one step down the bound."""
        images = batch.images.float() / 255
        if self.model.config.channels == 1:
            images = images.mean(1, keepdim=True)
        losses = self.losses(images.permute(0, 2, 1, 3).contiguous(), self.model.read(batch.captions))
        optimiser_step(self.optimiser, losses["bound"])
        return {name: loss.detach() for name, loss in losses.items()}

    def losses(self, images: torch.Tensor, text: Text) -> dict[str, torch.Tensor]:
        """Return the bound and its two terms of images [N, S, C, S] in [0, 1] (equation 9)."""
        encoder, decoder = self.model.encoder, self.model.decoder
        painting, hidden = decoder.begin(len(images)), encoder.lstm.begin(len(images))
        posteriors, priors = [], []
        noise = torch.randn(self.model.config.steps, *painting.prior.mean.shape, device=images.device)
        for chance in noise:
            posterior, hidden = encoder(images, painting, hidden)
            posteriors.append(posterior)
            priors.append(painting.prior)
            painting = decoder(drawn(posterior, chance), text, painting)
        reconstruction = reconstruction_loss(painting.canvas, images)
        kl = divergence(_stacked(posteriors), _stacked(priors))
        return {"bound": reconstruction + kl, "reconstruction": reconstruction, "divergence": kl}

    def state_dict(self) -> dict[str, Any]:
        """Return the networks and the optimiser."""
        networks = {name: network.state_dict() for name, network in self.model.networks().items()}
        return networks | {"optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the networks and the optimiser."""
        for name, network in self.model.networks().items():
            network.load_state_dict(state[name])
        self.optimiser.load_state_dict(state["optimiser"])


def drawn(gaussian: Gaussian, noise: torch.Tensor) -> torch.Tensor:
    """Return the sample that standard normal noise of the same shape makes."""
    return gaussian.mean + gaussian.log_std.exp() * noise


def _stacked(gaussians: Sequence[Gaussian]) -> Gaussian:
    return Gaussian(torch.stack([g.mean for g in gaussians]), torch.stack([g.log_std for g in gaussians]))


class AlignDRAW:
    """The model: a bidirectional LSTM reads the caption, a decoder paints it stroke by stroke."""

    def __init__(self, config: AlignDRAWConfig) -> None:
        self.config = config
        self.tokenizers: dict[str, Tokenizer] = {}
        self.text_encoder, self.encoder, self.decoder = TextEncoder(config), Encoder(config), Decoder(config)
        for network in self.networks().values():
            initialise(network, config.initial_deviation)

    def networks(self) -> Mapping[str, nn.Module]:
        """Return the reader of captions, the inference network and the one that paints."""
        return {"text_encoder": self.text_encoder, "encoder": self.encoder, "decoder": self.decoder}

    def stages(self, data: CaptionedDataset) -> Sequence[Stage]:
        """Return the one stage, the words of the data's captions learnt."""
        learn_words(self.tokenizers, data, length=self.config.words, size=self.config.vocabulary)
        return [PaintingStage(self)]

    def read(self, captions: Sequence[str]) -> Text:
        """Read captions; row i depends on caption i alone. Before a vocabulary is learned, all words are unknown."""
        tokenizer = self.tokenizers.get("words", WordTokenizer((), self.config.words))
        return self._attendable(tokenizer(captions).to(self.decoder.first.device))

    def _attendable(self, tokens: torch.Tensor) -> Text:
        words = self.text_encoder(tokens)
        return Text(words, self.decoder.key(words), tokens != WordTokenizer.padding)

    def paint(self, text: Text, noise: torch.Tensor) -> torch.Tensor:
        """Return images float [N, 3, S, S] in [-1, 1], latents drawn from the prior by noise [N, T, D]."""
        painting = self.decoder.begin(len(noise))
        for chance in noise.unbind(1):
            painting = self.decoder(drawn(painting.prior, chance), text, painting)
        images = 2 * painting.canvas.sigmoid() - 1
        return images.permute(0, 2, 1, 3).expand(-1, 3, -1, -1)

    def draw_one(self) -> torch.Tensor:
        """Run once the networks that draw one image."""
        text = self._attendable(torch.full((1, self.config.words), WordTokenizer.unknown))
        return self.paint(text, torch.zeros(1, self.config.steps, self.config.latent_dim))

    def sample(self, captions: Sequence[str], *, seeds: Sequence[int]) -> torch.Tensor:
        """Return one image a caption, uint8 [N, 3, H, W]."""
        steps, latent_dim = self.config.steps, self.config.latent_dim

        def draw(some: Sequence[str], some_seeds: Sequence[int]) -> torch.Tensor:
            noise = seeded_normal(some_seeds, steps * latent_dim).view(-1, steps, latent_dim)
            return self.paint(self.read(some), noise.to(self.decoder.first.device))

        return sample_in_chunks(draw, captions, seeds)
