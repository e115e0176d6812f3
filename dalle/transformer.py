"""DALL-E's transformer: one stream of text and image tokens, each predicted from those before it.

Ramesh et al. 2021, "Zero-Shot Text-to-Image Generation" (arXiv:2102.12092), sections 2.2 to 2.4 and appendix B.1;
attention patterns after Child et al. 2019 (arXiv:1904.10509). Other than there:
- Sparse patterns are masks on dense attention.
- The text loss leaves out padding: it is the mean over the caption's own tokens.
- The rate falls as a cosine to the published last value, where the authors halved it by hand.
- One scale of gradients, no 16-bit optimiser states and no clipping of the running variance: bfloat16 needs none.
- Nothing predicts the first piece of a caption: it has the first place in the stream.
"""

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..baselines.precision import full_precision
from ..errors import UserError

Pattern = Literal["full", "row", "column", "convolution"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of the transformer; the defaults are those of the published 12 billion parameters."""

    vocabulary: int = 16384
    """Pieces of words that are told apart."""
    text_length: int = 256
    """Pieces of a caption that are read; the rest of the row is padding, with an embedding for each place."""
    width: int = 3968
    """Length of a state."""
    layers: int = 64
    """Of attention and of a perceptron."""
    heads: int = 62
    """Of each layer's attention."""
    attention: Literal["sparse", "full"] = "sparse"
    """What an image token sees of those before it: `sparse` as published, rows, columns and in the last layer a
    neighbourhood; `full` everything."""
    kernel: int = 11
    """Side of that neighbourhood."""
    share_digits: bool = False
    """Whether codes that are made of digits, as those of FSQ, share a part of their logits with codes of the same
    digit. Codes of other tokenizers, as the published, have no digits to share."""

    def __post_init__(self) -> None:
        """Refuse sizes that make no network."""
        for name, least in (("vocabulary", 2), ("text_length", 2), ("width", 1), ("layers", 1), ("heads", 1)):
            if getattr(self, name) < least:
                raise UserError(f"transformer.{name}={getattr(self, name)}: expected {least} or more")
        if self.width % self.heads:
            raise UserError(f"transformer.heads={self.heads}: does not divide transformer.width={self.width}")
        if self.kernel < 1 or self.kernel % 2 == 0:
            raise UserError(f"transformer.kernel={self.kernel}: expected an odd number from 1")


def pattern_of(layer: int, layers: int, attention: Literal["sparse", "full"]) -> Pattern:
    """Return the pattern of layer 1, 2, ...: row, column, row, row and so on, the last one the neighbourhood."""
    if attention == "full":
        return "full"
    if layer == layers:
        return "convolution"
    return "column" if (layer - 2) % 4 == 0 else "row"


def attention_mask(pattern: Pattern, text_length: int, grids: tuple[int, ...], kernel: int) -> torch.Tensor:
    """Return bool [T, T], True where the state of a row may look at that of a column (appendix B.1, figure 11).

    T = text_length + the codes of an image: the caption, the start of the image, all codes but the last. Everything
    sees all of the text before it. An image token sees itself and, in raster order before it, on a grid of side S:
    `row`, S tokens; `column`, those of its column; `convolution`, those of a square of side `kernel` around it.
    """
    codes = sum(side * side for side in grids)
    mask = torch.ones(text_length + codes, text_length + codes, dtype=torch.bool).tril()
    if pattern == "full":
        return mask
    (side,) = grids
    at = torch.arange(codes - 1)
    row, column = at // side, at % side
    if pattern == "row":
        near = at[:, None] - at[None] <= side
    elif pattern == "column":
        near = column[:, None] == column[None]
    else:
        reach = kernel // 2
        near = ((row[:, None] - row[None]) <= reach) & ((column[:, None] - column[None]).abs() <= reach)
    image = text_length + 1
    mask[image:, image:] &= near
    return mask


def attend(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Return what attention reads, [N, heads, T, D / heads], from queries, keys and values of that shape.

    `mask` [T, T] is True where attention is allowed; None is causal.
    """
    if queries.dtype == torch.bfloat16 and queries.device.type == "cpu":
        # There its backward pass takes twice as long in bfloat16 as in float32.
        with full_precision(queries):
            return attend(queries.float(), keys.float(), values.float(), mask).bfloat16()
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, is_causal=mask is None)


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + perceptron(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.mix_heads = nn.Linear(width, width)
        self.widen, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def project(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return queries, keys and values, each [N, heads, T, width / heads], of states [N, T, width]."""
        queries, keys, values = self.projected(x).permute(2, 0, 3, 1, 4)
        return queries, keys, values

    def projected(self, x: torch.Tensor) -> torch.Tensor:
        """Return queries, keys and values as they come, [N, T, 3, heads, width / heads]."""
        both: torch.Tensor = self.queries_keys_values(self.norm_attention(x))
        return both.view(*x.shape[:2], 3, self.heads, -1)

    def finish(self, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """Return the layer's states [N, T, width] from its input and what attention [N, heads, T, ...] has read."""
        x = x + self.mix_heads(attended.transpose(1, 2).flatten(2))
        out: torch.Tensor = x + self.narrow(F.gelu(self.widen(self.norm_perceptron(x))))
        return out

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return states [N, T, width]; `mask` [T, T] is True where attention is allowed, None is causal."""
        return self.finish(x, attend(*self.project(x), mask))


class Losses(NamedTuple):
    """Cross-entropies in nats a token: of the captions' own pieces, and of the images' codes."""

    text: torch.Tensor
    image: torch.Tensor


class Transformer(nn.Module):
    """The decoder over text tokens [N, text_length] (0 is padding) and codes [N, M] of grids one after another.

    `radices` are those of the tokenizer whose codes they are. Raises UserError for a pattern that does not fit the
    grids, ValueError for radices that do not make `num_codes`.
    """

    def __init__(
        self, config: TransformerConfig, *, num_codes: int, grids: tuple[int, ...],
        radices: tuple[int, ...] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if config.attention == "sparse" and len(grids) > 1:
            raise UserError("transformer.attention=sparse: needs codes on one grid; for more expected full")
        self.config, self.grids, self.num_codes = config, grids, num_codes
        self.text_length, self.codes = config.text_length, sum(side * side for side in grids)
        width = config.width
        self.piece_embedding = nn.Embedding(config.vocabulary, width)
        self.padding_embedding = nn.Embedding(config.text_length, width)
        self.place_embedding = nn.Embedding(config.text_length, width)
        self.start_of_image = nn.Parameter(torch.empty(width))
        self.code_embedding = nn.Embedding(len(grids) * num_codes, width)
        self.row_embedding, self.column_embedding = nn.Embedding(sum(grids), width), nn.Embedding(sum(grids), width)
        self.layers = [Block(width, config.heads) for _ in range(config.layers)]
        self.blocks = nn.ModuleList(self.layers)
        self.norm = nn.LayerNorm(width)
        self.text_head = nn.Linear(width, config.vocabulary, bias=False)
        self.image_head = nn.Linear(width, num_codes, bias=False)
        self.digit_head: nn.Linear | None = None
        if config.share_digits and radices is not None and len(radices) > 1:
            if math.prod(radices) != num_codes:
                raise ValueError(f"radices {radices}: make {math.prod(radices)} codes, expected {num_codes}")
            self.digit_head = nn.Linear(width, sum(radices), bias=False)
            self.register_buffer("digits", _digits(radices), persistent=False)
        self.patterns = [pattern_of(layer, config.layers, config.attention) for layer in range(1, config.layers + 1)]
        for pattern in sorted(set(self.patterns) - {"full"}):
            mask = attention_mask(pattern, self.text_length, grids, config.kernel)
            self.register_buffer(f"mask_{pattern}", mask, persistent=False)
        self.register_buffer("places", _places(grids), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.start_of_image, std=0.02)
        for block in self.layers:
            for weight in (block.mix_heads.weight, block.narrow.weight):
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * len(self.layers)))

    def mask(self, pattern: Pattern) -> torch.Tensor | None:
        """Return the mask of a pattern, or None for plain causal attention."""
        return None if pattern == "full" else self.get_buffer(f"mask_{pattern}")

    def embed_text(self, text: torch.Tensor) -> torch.Tensor:
        """Return [N, text_length + 1, width]: the pieces, padding in its places, and the start of the image."""
        places = torch.arange(self.text_length, device=text.device)
        pieces = torch.where((text == 0)[:, :, None], self.padding_embedding(places), self.piece_embedding(text))
        start = self.start_of_image.expand(len(text), 1, -1)
        return torch.cat([pieces + self.place_embedding(places), start], 1)

    def embed_codes(self, codes: torch.Tensor, first: int = 0) -> torch.Tensor:
        """Return [N, K, width] of codes int64 [N, K] that stand in the stream of codes from `first` on."""
        level, row, column = self.get_buffer("places")[:, first : first + codes.shape[1]]
        places = self.row_embedding(row) + self.column_embedding(column)
        embedded: torch.Tensor = self.code_embedding(codes + self.num_codes * level) + places
        return embedded

    def states(self, text: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Return the last states [N, text_length + M, width]; the last of the codes is only to be predicted."""
        x = torch.cat([self.embed_text(text), self.embed_codes(codes[:, :-1])], 1)
        for pattern, block in zip(self.patterns, self.layers, strict=True):
            x = block(x, self.mask(pattern))
        normed: torch.Tensor = self.norm(x)
        return normed

    def forward(self, text: torch.Tensor, codes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the logits of the pieces after each piece [N, text_length - 1, V], and of the codes [N, M, K]."""
        states = self.states(text, codes)
        text_states, image_states = states[:, : self.text_length - 1], states[:, self.text_length :]
        return self.logits(text_states, self.text_head.weight), self.logits(image_states, self.code_weights())

    def logits(self, states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Return the logits [..., K] of states [..., width] for weights [K, width], in float32 as published."""
        with full_precision(states):
            return F.linear(states.float(), weights.float())

    def code_weights(self) -> torch.Tensor:
        """Return what each code's logit weighs, [K, width]: by itself, and by its digits where it shares them."""
        own = self.image_head.weight
        if self.digit_head is None:
            return own
        return own + F.embedding(self.get_buffer("digits"), self.digit_head.weight).sum(1)

    def losses(self, text: torch.Tensor, codes: torch.Tensor) -> Losses:
        """Return both cross-entropies; where every caption has one token at most, that of the text is 0."""
        states = self.states(text, codes)
        told = text[:, 1:] != 0
        pieces = self.logits(states[:, : self.text_length - 1][told], self.text_head.weight)
        images = self.logits(states[:, self.text_length :], self.code_weights())
        text_loss = F.cross_entropy(pieces, text[:, 1:][told], reduction="sum") / told.sum().clamp(min=1)
        return Losses(text_loss, F.cross_entropy(images.flatten(0, 1), codes.flatten()))


def _places(grids: tuple[int, ...]) -> torch.Tensor:
    """Return int64 [3, M], each code's level, row and column; rows and columns of all levels are told apart."""
    parts, before = [], 0
    for level, side in enumerate(grids):
        at = torch.arange(side * side)
        parts.append(torch.stack([torch.full_like(at, level), before + at // side, before + at % side]))
        before += side
    return torch.cat(parts, 1)


def _digits(radices: tuple[int, ...]) -> torch.Tensor:
    """Return int64 [K, D]: the digits of each code in mixed radix, the first the fastest, each in rows of its own."""
    codes, columns, before = torch.arange(math.prod(radices)), [], 0
    for radix in radices:
        columns.append(before + codes % radix)
        codes, before = codes // radix, before + radix
    return torch.stack(columns, 1)
