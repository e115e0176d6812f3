"""Text encoders: networks that turn captions into vectors, and the stages that teach them.

Char-CNN-RNN: Reed, Akata, Lee and Schiele 2016, "Learning Deep Representations of Fine-Grained Visual
Descriptions" (arXiv:1605.05395), in the variant that conditions the GANs of Reed et al. 2016
(arXiv:1605.05396): three convolutions, a recurrent network, its states averaged over time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..datasets.captioned import Batch
from ..datasets.tokenizers import CharacterTokenizer
from .interface import from_uint8, optimiser_step
from .mismatch import MismatchBy, matching_pairs


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
    learning_rate: float = 7e-4
    """Of RMSprop, constant. The official code multiplies it by 0.98 after as many steps as there are classes."""
    image_width: int = 64
    """Channels of the image encoder's first layer. The official code used GoogLeNet features
    trained on ImageNet; this network is trained from scratch together with the text encoder."""


class CharCNNRNN(nn.Module):
    """Caption -> embedding [N, text_dim]: characters, 3 x (convolution, ReLU, pool), GRU, mean over time, linear."""

    def __init__(self, config: CharCNNRNNConfig) -> None:
        super().__init__()
        self.tokenizer = CharacterTokenizer(config.characters)
        first, second, third = config.channels
        # A convolution over one-hot characters; row 0 of the one-hot code (padding, unknown) is dropped.
        self.symbols = self.tokenizer.vocabulary_size - 1
        self.convolutions = nn.Sequential(
            nn.Conv1d(self.symbols, first, 4), nn.ReLU(), nn.MaxPool1d(3, 3),
            nn.Conv1d(first, second, 4), nn.ReLU(), nn.MaxPool1d(3, 3),
            nn.Conv1d(second, third, 4), nn.ReLU(),
        )  # fmt: skip
        self.recurrent = nn.GRU(third, config.recurrent_width, batch_first=True)
        self.project = nn.Linear(config.recurrent_width, config.text_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embeddings float [N, text_dim] of tokens int64 [N, characters]."""
        one_hot = F.one_hot(tokens, self.symbols + 1)[..., 1:].transpose(1, 2).to(self.project.weight.dtype)
        states, _ = self.recurrent(self.convolutions(one_hot).transpose(1, 2))
        embeddings: torch.Tensor = self.project(states.mean(1))
        return embeddings

    def encode(self, captions: Sequence[str]) -> torch.Tensor:
        """Return the embeddings float [N, text_dim] of captions."""
        embeddings: torch.Tensor = self(self.tokenizer(captions).to(self.project.weight.device))
        return embeddings


class ImageEncoder(nn.Module):
    """Image -> embedding [N, text_dim]: stride-2 convolutions down to 4 x 4, then linear."""

    def __init__(self, image_size: int, width: int, text_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels, size = 3, image_size
        while size > 4:
            layers += [nn.Conv2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels, width, size = width, min(2 * width, 512), size // 2
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * size**2, text_dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the embeddings float [N, text_dim] of images float [N, 3, S, S] in [-1, 1]."""
        embeddings: torch.Tensor = self.layers(images)
        return embeddings


def joint_embedding_loss(image: torch.Tensor, text: torch.Tensor, matching: torch.Tensor) -> torch.Tensor:
    """Return the symmetric structured joint embedding loss (arXiv:1605.05395, section 3.1).

    Scores are inner products of image [N, D] and text [N, D]; a mismatched pair costs the hinge of
    1 + its score - the matching pair's score, in both directions, averaged over the N x N pairs.
    Pairs that `matching` (bool [N, N]) marks are no mismatch. Computed in float32: beside scores of a
    hundred, bfloat16 cannot tell a margin of 1.
    """
    with torch.autocast(image.device.type, enabled=False):
        scores = image.float() @ text.float().T
        right = scores.diag()
        hinges = (1 + scores - right[:, None]).relu() + (1 + scores - right[None]).relu()
        return (hinges * ~matching).sum() / matching.numel()


class JointEmbeddingStage:
    """Teach a char-CNN-RNN by matching captions with images; drawing has no use for the image encoder."""

    name = "text_encoder"
    draws = False
    ema_kimg = 0.0

    def __init__(
        self,
        text_encoder: CharCNNRNN,
        image_encoder: ImageEncoder,
        config: CharCNNRNNConfig,
        *,
        share: float,
        mismatch: MismatchBy,
    ) -> None:
        self.text_encoder, self.image_encoder = text_encoder, image_encoder
        self.share, self.batch_size, self.mismatch = share, config.batch_size, mismatch
        self.averaged: Mapping[str, nn.Module] = {}
        parameters = [*text_encoder.parameters(), *image_encoder.parameters()]
        self.optimiser = torch.optim.RMSprop(parameters, lr=config.learning_rate)

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Match the batch's captions with its images."""
        self.text_encoder.train()
        self.image_encoder.train()
        image = self.image_encoder(from_uint8(batch.images))
        text = self.text_encoder.encode(batch.captions)
        loss = joint_embedding_loss(image, text, matching_pairs(batch, self.mismatch))
        optimiser_step(self.optimiser, loss)
        matched = ((image @ text.T).argmax(1) == torch.arange(len(text), device=text.device)).float().mean()
        return {"joint_embedding": loss.detach(), "matched": matched}

    def state_dict(self) -> dict[str, Any]:
        """Return the networks and the optimiser."""
        return {"text_encoder": self.text_encoder.state_dict(), "image_encoder": self.image_encoder.state_dict(),
                "optimiser": self.optimiser.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the networks and the optimiser."""
        self.text_encoder.load_state_dict(state["text_encoder"])
        self.image_encoder.load_state_dict(state["image_encoder"])
        self.optimiser.load_state_dict(state["optimiser"])
