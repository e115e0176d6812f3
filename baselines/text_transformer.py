"""CLIP's text transformer and its contrastive loss (Radford et al. 2021, arXiv:2103.00020).

They stand below the models, because GANs are conditioned on what the transformer reads. Parameters have the names of
OpenAI's published state dict, less the prefix `transformer.` of the blocks.
"""
import hashlib
from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn

from .precision import full_precision

MAX_LOGIT_SCALE = 4.6052
"""ln 100: the temperature is clipped so that logits are scaled by at most 100 (section 2.5)."""


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), the activation of the published weights."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return activations of the shape of `x`."""
        return x * torch.sigmoid(1.702 * x)


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            OrderedDict(c_fc=nn.Linear(width, 4 * width), gelu=QuickGELU(), c_proj=nn.Linear(4 * width, width))
        )

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        """Return states [N, T, width]; `mask` [T, T] is True where attention is forbidden; None forbids none."""
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, attn_mask=mask, need_weights=False)[0]
        out: torch.Tensor = x + self.mlp(self.ln_2(x))
        return out


class TextTransformer(nn.Module):
    """Tokens int64 [N, context] -> embeddings [N, embed_dim], read at the end-of-text token (section 2.4)."""

    def __init__(
        self, *, vocabulary: int, context: int, width: int, layers: int, heads: int, embed_dim: int, end: int
    ) -> None:
        super().__init__()
        self.end = end
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(context, width))
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.ln_final = nn.LayerNorm(width)
        self.text_projection = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))
        nn.init.normal_(self.token_embedding.weight, std=0.02)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return embeddings, not normalised; what follows the end token has no influence on them."""
        ends = (tokens == self.end).int().argmax(1)
        embeddings: torch.Tensor = self.read(tokens)[torch.arange(len(tokens), device=tokens.device), ends]
        return embeddings

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """Return the embedding of every token and those before it, [N, T, embed_dim]."""
        length = tokens.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=tokens.device).triu(1)
        x = self.token_embedding(tokens) + self.positional_embedding[:length]
        for block in self.resblocks:
            x = block(x, mask)
        embeddings: torch.Tensor = self.ln_final(x) @ self.text_projection
        return embeddings


def text_fingerprint(embedding: torch.Tensor) -> str:
    """Return 12 hex digits that stand for a CLIP, by its token embedding [V, D]: equal for copies in any layout.

    Compared in half precision, in which many copies are kept.
    """
    return hashlib.sha256(embedding.detach().half().cpu().contiguous().numpy().tobytes()).hexdigest()[:12]


def contrastive_loss(
    image: torch.Tensor, text: torch.Tensor, logit_scale: torch.Tensor, matching: torch.Tensor
) -> torch.Tensor:
    """Return the symmetric cross-entropy of matching N images with N captions (figure 3).

    `image`, `text` float [N, D], any length; `logit_scale` the log of the inverse temperature, clipped here.
    Pairs that `matching` (bool [N, N]) marks, say equal captions, are not counted as negatives of each other. Computed
    in float32: beside logits of a hundred, bfloat16 cannot tell a half.
    """
    with full_precision(image):
        scale = logit_scale.clamp(max=MAX_LOGIT_SCALE).exp()
        logits = scale * F.normalize(image.float(), dim=-1) @ F.normalize(text.float(), dim=-1).T
        twins = matching & ~torch.eye(len(matching), dtype=torch.bool, device=matching.device)
        logits = logits.masked_fill(twins, float("-inf"))
        at = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, at) + F.cross_entropy(logits.T, at)) / 2
