"""Char-CNN-RNN: Reed, Akata, Lee and Schiele 2016, "Learning Deep Representations of Fine-Grained Visual
Descriptions" (arXiv:1605.05395), in the variant that conditions the GANs of Reed et al. 2016
(arXiv:1605.05396): three convolutions, a recurrent network, its states averaged over time. Weights begin as PyTorch's
layers do, where the official code draws all from U(-0.08, 0.08).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import nn

from ..datasets.tokenizers import CharacterTokenizer
from ..errors import UserError
from .precision import full_precision
from .reading import ImageEncoder, Read, TextEncoder, matched


@dataclass(frozen=True, kw_only=True)
class CharCNNRNNConfig:
    """Sizes of the char-CNN-RNN and how it is taught; the defaults are the published ones."""

    channels: tuple[int, int, int] = (384, 512, 512)
    """Channels of the three convolutions, each 4 characters wide."""
    recurrent_width: int = 512
    """Width of the GRU."""
    text_dim: int = 1024
    """Length of a caption's embedding."""
    characters: int = 201
    """Captions are cut after this many characters."""
    batch_size: int = 40
    """Image-caption pairs in a step. The official code draws them from different classes; here pairs that
    match each other are no mismatch."""
    optimiser: Literal["rmsprop", "adam"] = "rmsprop"
    """RMSprop is the published one. It starts from averages of zero and leaps in its first steps, from which a
    short training does not always recover; Adam corrects for them."""
    learning_rate: float = 7e-4
    """Of the optimiser, constant. The official code multiplies it by 0.98 after as many steps as there are classes."""
    image_width: int = 64
    """Channels of the image encoder's first layer. The official code used GoogLeNet features
    trained on ImageNet; this network is trained from scratch together with the text encoder."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        if self.characters < 40:
            raise UserError(f"characters={self.characters}: expected 40 or more")
        if min(self.channels) < 4:
            raise UserError(f"channels={list(self.channels)}: expected 4 or more")


class CharCNNRNN(TextEncoder):
    """Caption -> embedding [N, text_dim]: characters, 3 x (convolution, ReLU, pool), GRU, mean over time, linear.

    Its words are the GRU's states, each of which stands for some ten characters.
    """

    def __init__(self, config: CharCNNRNNConfig) -> None:
        super().__init__(config.text_dim)
        self.tokenizers = {"characters": CharacterTokenizer(config.characters)}
        first, second, third = config.channels
        # A convolution over one-hot characters; row 0 of the one-hot code (padding, unknown) is dropped.
        self.symbols = CharacterTokenizer.vocabulary_size - 1
        self.convolutions = nn.Sequential(
            nn.Conv1d(self.symbols, first, 4), nn.ReLU(), nn.MaxPool1d(3, 3),
            nn.Conv1d(first, second, 4), nn.ReLU(), nn.MaxPool1d(3, 3),
            nn.Conv1d(second, third, 4), nn.ReLU(),
        )  # fmt: skip
        self.recurrent = nn.GRU(third, config.recurrent_width, batch_first=True)
        self.project = nn.Linear(config.recurrent_width, config.text_dim)

    def forward(self, tokens: torch.Tensor) -> Read:
        """Read tokens int64 [N, characters]."""
        one_hot = F.one_hot(tokens, self.symbols + 1)[..., 1:].transpose(1, 2).to(self.project.weight.dtype)
        states, _ = self.recurrent(self.convolutions(one_hot).transpose(1, 2))
        words = self.project(states)
        mask = torch.ones(words.shape[:2], dtype=torch.bool, device=words.device)
        return Read(sentence=words.mean(1), words=words, mask=mask)

    def encode(self, captions: Sequence[str]) -> Read:
        """Read captions."""
        read: Read = self(self.tokenizers["characters"](captions).to(self.project.weight.device))
        return read


class JointEmbedding:
    """A char-CNN-RNN and an image encoder, taught by the symmetric structured joint embedding."""

    clip_norm = None

    def __init__(self, config: CharCNNRNNConfig, image_size: int) -> None:
        self.config, self.batch_size = config, config.batch_size
        self.encoder = CharCNNRNN(config)
        self.image_encoder = ImageEncoder(image_size, config.image_width, config.text_dim)

    def losses(
        self, images: torch.Tensor, captions: Sequence[str], matching: torch.Tensor
    ) -> Mapping[str, torch.Tensor]:
        """Return the loss of images float [N, 3, S, S] in [-1, 1] with captions, and the share matched."""
        image, text = self.image_encoder(images), self.encoder.encode(captions).sentence
        return {"joint_embedding": joint_embedding_loss(image, text, matching), "matched": matched(image, text)}

    def optimiser(self) -> torch.optim.Optimizer:
        """Return a new optimiser of both encoders."""
        parameters = [*self.encoder.parameters(), *self.image_encoder.parameters()]
        kind = torch.optim.Adam if self.config.optimiser == "adam" else torch.optim.RMSprop
        return kind(parameters, lr=self.config.learning_rate)


def joint_embedding_loss(image: torch.Tensor, text: torch.Tensor, matching: torch.Tensor) -> torch.Tensor:
    """Return the symmetric structured joint embedding loss (arXiv:1605.05395, section 3.1).

    Scores are inner products of image [N, D] and text [N, D]; a mismatched pair costs the hinge of
    1 + its score - the matching pair's score, in both directions, averaged over the N x N pairs.
    Pairs that `matching` (bool [N, N]) marks are no mismatch. Computed in float32: beside scores of a
    hundred, bfloat16 cannot tell a margin of 1.
    """
    with full_precision(image):
        scores = image.float() @ text.float().T
        right = scores.diag()
        hinges = (1 + scores - right[:, None]).relu() + (1 + scores - right[None]).relu()
        return (hinges * ~matching).sum() / matching.numel()
