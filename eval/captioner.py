"""The judge `captioner`: it says in words what an image shows, so that the words can be compared with the prompt.

A CNN tells an LSTM what it sees, which goes on with a caption word by word: Vinyals, Toshev, Bengio and Erhan 2015,
"Show and Tell" (arXiv:1411.4555), and Karpathy and Fei-Fei 2015 (arXiv:1412.2306). Small, taught on the data set's
train split when it is first asked for, and kept. Other than there:
- The CNN is taught from scratch together with the LSTM.
- The LSTM is told what is seen at every word, not before the first alone: from so few images it learns far faster.
- A caption is the most probable word each time, not the best of a beam.
"""

from collections.abc import Callable, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..datasets.captioned import CaptionedDataset
from ..datasets.tokenizers import WordTokenizer
from ..files import digest_of_file
from .caption_scores import score_captions
from .joint_judge import Down, trim
from .judges import Comparison, Training
from .resize import bicubic
from .taught import UNREADABLE, drawn_batches, foreign, load_taught, notes_of, save_taught, side_for, taught

CONTEXT = 48
"""Captions are cut after this many words, their end included."""
MAX_WORDS = 4000
IMAGES = 60_000
"""Images it learns from, over several epochs."""
BATCH_SIZE = 64
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.02
WARM_UP = 0.05
"""Part of the steps in which the learning rate rises."""
WIDTH = 192
"""Of the LSTM's state and inputs."""
RECIPE = 2
"""Raised when the network or its training changes."""


class CaptionNetwork(nn.Module):
    """Images uint8 [N, 3, H, W] and the words so far -> logits of the next word."""

    def __init__(self, *, vocabulary: int, side: int) -> None:
        super().__init__()
        self.side = side
        halvings = side.bit_length() - 4
        widths = [min(32 * 2**level, 128) for level in range(halvings + 1)]
        self.trunk = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 2, 1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU(),
            *[Down(before, after) for before, after in zip(widths, widths[1:], strict=False)],
            nn.Flatten(), nn.Linear(widths[-1] * 16, WIDTH), nn.BatchNorm1d(WIDTH),
        )  # fmt: skip
        self.embed = nn.Embedding(vocabulary, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDTH, batch_first=True)
        self.say = nn.Linear(WIDTH, vocabulary)

    def see(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the LSTM is told of images uint8 [N, 3, H, W]: float [N, WIDTH]."""
        pixels = bicubic(images, self.side, self.side) / 127.5 - 1
        seen: torch.Tensor = self.trunk(pixels.contiguous(memory_format=torch.channels_last))
        return seen

    def forward(self, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        """Return logits [N, T, V] of every word of `tokens`, int64 [N, T], given the image and the words before it."""
        start = torch.full_like(tokens[:, :1], WordTokenizer.end)
        before = self.embed(torch.cat([start, tokens[:, :-1]], 1))
        states, _ = self.lstm(before + self.see(images)[:, None])
        logits: torch.Tensor = self.say(states)
        return logits

    def write(self, images: torch.Tensor, longest: int) -> torch.Tensor:
        """Return the most probable word each time, int64 [N, T], T <= `longest`; what follows an end is void."""
        seen, state = self.see(images), None
        word = torch.full((len(images),), WordTokenizer.end, device=images.device)
        ended, words = torch.zeros_like(word, dtype=torch.bool), list[torch.Tensor]()
        while len(words) < longest and not ended.all():
            states, state = self.lstm((self.embed(word) + seen)[:, None], state)
            logits = self.say(states[:, 0])
            logits[:, [WordTokenizer.padding, WordTokenizer.unknown]] = float("-inf")
            word = logits.argmax(1)
            words.append(word)
            ended |= word == WordTokenizer.end
        return torch.stack(words, 1)


def word_losses(network: CaptionNetwork, images: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return each caption's mean cross-entropy per word, its end included: float [N]."""
    there = tokens != WordTokenizer.padding
    logits = network(images, tokens)
    losses = F.cross_entropy(logits.transpose(1, 2), tokens, reduction="none")
    return (losses * there).sum(1) / there.sum(1)


class Captioner:
    """A taught `CaptionNetwork` with its vocabulary, frozen."""

    name = "captioner"
    BATCH = 256

    def __init__(self, path: Path) -> None:
        try:
            notes = notes_of(path)
            self.tokenizer = WordTokenizer(notes["words"], CONTEXT)
            self.network = CaptionNetwork(vocabulary=self.tokenizer.vocabulary_size, side=notes["side"])
            load_taught(path, self.network)
            self.held_out: Mapping[str, float] = notes["held_out"]
            self.tried_on: int = notes["tried_on"]
            self.id = f"captioner-r{RECIPE}:{digest_of_file(path)[:12]}:bicubic-antialias-{self.network.side}"
        except UNREADABLE as error:
            raise foreign(path, error) from error
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = self.network.say.weight.device

    @torch.no_grad()
    def captions(self, images: torch.Tensor) -> list[str]:
        """Return what it says of images uint8 [N, 3, H, W]: lower-case words and marks, with spaces between them."""
        rows = [row for some in self._parts(images) for row in self.network.write(some, CONTEXT - 1).tolist()]
        words = ("", "", "", *self.tokenizer.words)
        return [" ".join(words[word] for word in takewhile(lambda word: word != WordTokenizer.end, row))
                for row in rows]  # fmt: skip

    @torch.no_grad()
    def log_likelihood(self, images: torch.Tensor, captions: Sequence[str]) -> torch.Tensor:
        """Return float32 [N]: the log probability of caption i given image i, in nats per word, its end included."""
        if len(captions) != len(images):
            raise ValueError(f"one caption an image: {len(captions)} captions and {len(images)} images came")
        rows = torch.split(self.tokenizer(captions).to(self.device), self.BATCH)
        parts = zip(self._parts(images), rows, strict=False)
        losses = [word_losses(self.network, some, trim(tokens)) for some, tokens in parts]
        return -torch.cat(losses).cpu() if losses else torch.zeros(0)

    def read(self, images: torch.Tensor) -> list[str]:
        """Return `captions`."""
        return self.captions(images)

    def compare(self, readings: list[str], captions: Sequence[str], references: Sequence[Sequence[str]]) -> Comparison:
        """Return CIDEr-D of each caption written, and BLEU-4 of all, against the references.

        Where an image has none, that is its own of `captions`.
        """
        known = [some or [caption] for some, caption in zip(references, captions, strict=True)]
        found = score_captions(readings, known)
        return Comparison(values=found.per_image, whole={"bleu_4": found.scores["bleu_4"]})

    def _parts(self, images: torch.Tensor) -> list[torch.Tensor]:
        return [some.to(self.device) for some in torch.split(images, self.BATCH) if len(some)]


def open_captioner(training: Training) -> Captioner:
    """Return the captioner of the data at hand, taught on its train split unless that was done before."""
    return Captioner(taught(training, "captioner", RECIPE, IMAGES, save_captioner))


def save_captioner(
    path: Path,
    train: CaptionedDataset,
    held_out: CaptionedDataset | None,
    *,
    images: int,
    progress: Callable[[int, int], None],
) -> None:
    """Teach a network on `train` for `images` images and write it with the scores of its held-out captions."""
    captions = (caption for index in range(len(train)) for caption in train.captions(index))
    tokenizer = WordTokenizer.learn(captions, length=CONTEXT, size=MAX_WORDS)
    torch.manual_seed(0)
    network = CaptionNetwork(vocabulary=tokenizer.vocabulary_size, side=side_for(train))
    _fit(network, tokenizer, train, images, progress)

    def trial(written: Path) -> Mapping[str, Any]:
        if held_out is None:
            return {}
        described = sum(bool(held_out.captions(index)) for index in range(len(held_out)))
        return {"held_out": held_out_scores(Captioner(written), held_out), "tried_on": described}

    save_taught(path, network, {"words": tokenizer.words, "side": network.side, "held_out": {}, "tried_on": 0}, trial)


def _fit(
    network: CaptionNetwork, tokenizer: WordTokenizer, train: CaptionedDataset, images: int,
    progress: Callable[[int, int], None],
) -> None:  # fmt: skip
    """Minimise the words' cross-entropy, by AdamW with warm-up and cosine decay."""
    steps = max(1, images // BATCH_SIZE)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, LEARNING_RATE, steps, pct_start=WARM_UP, cycle_momentum=False
    )
    device = network.say.weight.device
    for step, batch in enumerate(drawn_batches(train, BATCH_SIZE, steps, device)):
        loss = word_losses(network, batch.images, trim(tokenizer(batch.captions)).to(device)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        progress((step + 1) * BATCH_SIZE, steps * BATCH_SIZE)


def held_out_scores(captioner: Captioner, data: CaptionedDataset) -> dict[str, float]:
    """Return BLEU-4 (0 to 1), CIDEr-D (0 to 10) and nats per word of real images it never saw, against all captions."""
    described = [index for index in range(len(data)) if data.captions(index)]
    if len(described) < 2:
        return {}
    batch = data.batch(np.array(described))
    references = [data.captions(index) for index in described]
    scores = score_captions(captioner.captions(batch.images), references).scores
    likelihood = captioner.log_likelihood(batch.images, batch.captions)
    return {name: float(score.value) for name, score in scores.items()} | {"log_likelihood": float(likelihood.mean())}
