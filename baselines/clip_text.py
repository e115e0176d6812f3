"""CLIP's text transformer as a text encoder, taught here with a small image encoder (Radford et al. 2021,
arXiv:2103.00020, section 2).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..datasets.captioned import CaptionedDataset
from ..datasets.tokenizers import WordTokenizer
from .reading import ImageEncoder, Read, TextEncoder, learn_words, matched
from .text_transformer import TextTransformer, contrastive_loss


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """Sizes of the transformer and how it is taught; width, layers and heads are those of the published ViT-B/32."""

    vocabulary: int = 5450
    """Most frequent words of the train split's captions that are told apart."""
    words: int = 32
    """Captions are cut after this many words, their end included."""
    width: int = 512
    """Of the transformer."""
    layers: int = 12
    """Of the transformer."""
    heads: int = 8
    """Of each layer's attention."""
    text_dim: int = 512
    """Length of an embedding."""
    batch_size: int = 128
    """Pairs in a step, each the others' mismatch. The published batch of 32,768 needs a cluster."""
    learning_rate: float = 5e-4
    """Of Adam, constant and without weight decay: a small network for some ten thousand pairs. Published are decoupled
    weight decay, a warm-up and a cosine, as `dalle` teaches its CLIP."""
    image_width: int = 64
    """Channels of the image encoder's first layer; it is trained from scratch together with the transformer."""


class CLIPText(TextEncoder):
    """Words of a caption -> embeddings by a causal transformer, the sentence's read at the end token."""

    def __init__(self, config: CLIPTextConfig) -> None:
        super().__init__(config.text_dim)
        self.config = config
        self.tokenizers = {}
        self.transformer = TextTransformer(
            vocabulary=config.vocabulary + 3, context=config.words, width=config.width, layers=config.layers,
            heads=config.heads, embed_dim=config.text_dim, end=WordTokenizer.end,
        )  # fmt: skip
        self.logit_scale = nn.Parameter(torch.tensor(2.66))

    def learn_vocabulary(self, data: CaptionedDataset) -> None:
        """Learn the most frequent words of the data's captions."""
        learn_words(self.tokenizers, data, length=self.config.words, size=self.config.vocabulary)

    def forward(self, tokens: torch.Tensor) -> Read:
        """Read tokens int64 [N, words]."""
        words = self.transformer.read(tokens)
        last = (tokens == WordTokenizer.end).int().argmax(1)
        mask = torch.arange(tokens.shape[1], device=tokens.device)[None] <= last[:, None]
        return Read(sentence=words[torch.arange(len(words), device=words.device), last], words=words, mask=mask)

    def encode(self, captions: Sequence[str]) -> Read:
        """Read captions; before a vocabulary is learned, all words are unknown."""
        tokenizer = self.tokenizers.get("words", WordTokenizer((), self.config.words))
        read: Read = self(tokenizer(captions).to(self.logit_scale.device))
        return read


class ContrastivePretraining:
    """CLIP's text transformer and an image encoder, taught by the symmetric cross-entropy."""

    clip_norm = None

    def __init__(self, config: CLIPTextConfig, image_size: int) -> None:
        self.config, self.batch_size = config, config.batch_size
        self.encoder = CLIPText(config)
        self.image_encoder = ImageEncoder(image_size, config.image_width, config.text_dim)

    def losses(
        self, images: torch.Tensor, captions: Sequence[str], matching: torch.Tensor
    ) -> Mapping[str, torch.Tensor]:
        """Return the loss of images float [N, 3, S, S] in [-1, 1] with captions, and the share matched."""
        image, text = self.image_encoder(images), self.encoder.encode(captions).sentence
        loss = contrastive_loss(image, text, self.encoder.logit_scale, matching)
        return {"contrastive": loss, "matched": matched(image, nn.functional.normalize(text, dim=1))}

    def optimiser(self) -> torch.optim.Optimizer:
        """Return a new optimiser of both encoders."""
        parameters = [*self.encoder.parameters(), *self.image_encoder.parameters()]
        return torch.optim.Adam(parameters, lr=self.config.learning_rate)
