"""What a text encoder is, and the stage that teaches one by matching captions with images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import nn

from ..datasets.captioned import Batch, CaptionedDataset
from ..datasets.tokenizers import Tokenizer, WordTokenizer
from .interface import from_uint8, optimiser_step
from .mismatch import MismatchBy, matching_pairs


class Read(NamedTuple):
    """Captions as read: `sentence` float [N, D]; `words` float [N, T, D]; `mask` bool [N, T], True where a word is.

    T is the same whatever the captions; every caption has a word, were it only its end.
    """

    sentence: torch.Tensor
    words: torch.Tensor
    mask: torch.Tensor


class TextEncoder(nn.Module):
    """A network that reads captions; kinds of it are in files of their own."""

    tokenizers: dict[str, Tokenizer]
    """What the captions are cut up by; shared with the model, which keeps it with the run."""
    standardise = False
    """Whether a GAN reads sentences of mean 0 and variance 1 in every dimension."""

    def __init__(self, text_dim: int) -> None:
        super().__init__()
        self.text_dim = text_dim
        self.spread = nn.BatchNorm1d(text_dim, eps=1e-8, affine=False)

    def learn_vocabulary(self, data: CaptionedDataset) -> None:
        """Learn the words of the data's captions, unless they are known or the encoder has no use for them."""

    def encode(self, captions: Sequence[str]) -> Read:
        """Read captions; row i depends on caption i alone."""
        raise NotImplementedError

    @torch.no_grad()
    def note_spread(self, captions: Sequence[str]) -> None:
        """Note how the sentences of captions are spread, as they are read when nothing is learnt."""
        sentences = self.eval().encode(captions).sentence
        self.spread.train()
        self.spread(sentences)


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


class Matching(Protocol):
    """A text encoder with the image encoder that teaches it, and the loss by which it does."""

    @property
    def encoder(self) -> TextEncoder:
        """Return what reads captions."""
        ...

    @property
    def image_encoder(self) -> nn.Module:
        """Return what it is taught by; drawing has no use for it."""
        ...

    @property
    def batch_size(self) -> int:
        """Return the pairs in a step."""
        ...

    @property
    def clip_norm(self) -> float | None:
        """Return the largest norm of the gradients together."""
        ...

    def losses(
        self, images: torch.Tensor, captions: Sequence[str], matching: torch.Tensor
    ) -> Mapping[str, torch.Tensor]:
        """Return the losses of images float [N, 3, S, S] in [-1, 1] with captions; their sum is what is learnt from.

        Pairs that `matching` (bool [N, N]) marks are no mismatch. A name that begins with `matched` is no loss but the
        share of images whose own caption is the nearest in the batch.
        """
        ...

    def optimiser(self) -> torch.optim.Optimizer:
        """Return a new optimiser of both encoders."""
        ...


class MatchingStage:
    """Teach a text encoder by matching captions with images."""

    name = "text_encoder"
    draws = False
    ema_kimg = 0.0

    def __init__(self, matching: Matching, *, share: float, mismatch: MismatchBy) -> None:
        self.matching, self.share, self.mismatch = matching, share, mismatch
        self.batch_size = matching.batch_size
        self.averaged: Mapping[str, nn.Module] = {}
        self.optimiser = matching.optimiser()

    def train_step(self, batch: Batch) -> Mapping[str, float | torch.Tensor]:
        """Match the batch's captions with its images."""
        self.matching.encoder.train()
        self.matching.image_encoder.train()
        losses = self.matching.losses(
            from_uint8(batch.images), batch.captions, matching_pairs(batch, self.mismatch)
        )
        loss = torch.stack([value for name, value in losses.items() if not name.startswith("matched")]).sum()
        optimiser_step(self.optimiser, loss, clip_norm=self.matching.clip_norm)
        if self.matching.encoder.standardise:
            self.matching.encoder.note_spread(batch.captions)
        return {name: value.detach() for name, value in losses.items()}

    def state_dict(self) -> dict[str, Any]:
        """Return the networks and the optimiser."""
        return {"text_encoder": self.matching.encoder.state_dict(),
                "image_encoder": self.matching.image_encoder.state_dict(),
                "optimiser": self.optimiser.state_dict()}  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the networks and the optimiser."""
        self.matching.encoder.load_state_dict(state["text_encoder"])
        self.matching.image_encoder.load_state_dict(state["image_encoder"])
        self.optimiser.load_state_dict(state["optimiser"])


def matched(image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """Return the share of images [N, D] whose own caption [N, D] has the largest inner product of the batch."""
    own = torch.arange(len(text), device=text.device)
    return ((image @ text.T).argmax(1) == own).float().mean().detach()


def learn_words(tokenizers: dict[str, Tokenizer], data: CaptionedDataset, *, length: int, size: int) -> None:
    """Put a tokenizer of the `size` most frequent words of the data's captions into `tokenizers`, unless it has one."""
    if "words" not in tokenizers:
        captions = (caption for index in range(len(data)) for caption in data.captions(index))
        tokenizers["words"] = WordTokenizer.learn(captions, length=length, size=size)


@torch.no_grad()
def read_frozen(encoder: TextEncoder, captions: Sequence[str]) -> Read:
    """Read captions as a GAN reads them: without gradients, dropout off, standardised if the encoder says so."""
    read = encoder.eval().encode(captions)
    return read._replace(sentence=encoder.spread(read.sentence)) if encoder.standardise else read


def reversed_order(mask: torch.Tensor) -> torch.Tensor:
    """Return int64 [N, L]: where each place's word stands when the words in `mask` are reversed; its own inverse."""
    places = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return torch.where(mask, mask.sum(1, keepdim=True) - 1 - places, places)
