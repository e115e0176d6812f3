"""The judges `dinov2` and `dinov2-vitb14`: networks that learnt to see without labels, so that no classes bias them.

Oquab et al. 2023, "DINOv2" (arXiv:2304.07193), ViT-L/14 and ViT-B/14 without registers. FD-DINOv2 of Stein et al. 2023
(arXiv:2306.04675) is the Fréchet distance of the features of `dinov2`; others' numbers with ViT-B/14 or with images
resized otherwise compare with neither.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from ..baselines.published_weights import fill
from ..files import digest_of_file
from .judges import Look, Training, at_once
from .resize import bicubic
from .weights import find_weights

SIDE = 224
"""Images are resized to this side, which is a multiple of the patches'."""
PATCH = 14
TAUGHT_GRID = 37
"""Positions were learnt for this many patches a side, 518 pixels."""
HEAD_WIDTH = 64
"""Of each attention head, in both sizes."""
EXPANSION = 4
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Of red, green and blue in ImageNet, in [0, 1]."""
PUBLISHED = "backbone without registers of github.com/facebookresearch/dinov2"


class Attention(nn.Module):
    """Every token [N, T, width] attends to every other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, T, width]."""
        count, length, width = x.shape
        query, key, value = self.qkv(x).view(count, length, 3, self.heads, HEAD_WIDTH).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        out: torch.Tensor = self.proj(attended.transpose(1, 2).reshape(count, length, width))
        return out


class MLP(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, EXPANSION * width)
        self.fc2 = nn.Linear(EXPANSION * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, T, width]."""
        out: torch.Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class LayerScale(nn.Module):
    """A learnt gain for each channel of what a branch adds (Touvron et al. 2021, arXiv:2103.17239)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, T, width]."""
        return x * self.gamma


class Block(nn.Module):
    """Attention, then the MLP, each added to what it is given the normalised form of."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = Attention(width), MLP(width)
        self.ls1, self.ls2 = LayerScale(width), LayerScale(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, T, width]."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: torch.Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class PatchEmbedding(nn.Module):
    """Pixels [N, 3, S, S] -> tokens [N, (S / 14)^2, width], row by row."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the tokens."""
        tokens: torch.Tensor = self.proj(pixels).flatten(2).transpose(1, 2)
        return tokens


class DINOv2(nn.Module):
    """Pixels float [N, 3, S, S], normalised, S a multiple of 14 -> the class token [N, width] after the last norm."""

    def __init__(self, *, width: int, layers: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, TAUGHT_GRID**2 + 1, width))
        self.patch_embed = PatchEmbedding(width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the class token."""
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), self.patch_embed(pixels)], 1)
        x = tokens + positions(self.pos_embed, pixels.shape[-1] // PATCH)
        for block in self.blocks:
            x = block(x)
        seen: torch.Tensor = self.norm(x)[:, 0]
        return seen


def positions(learnt: torch.Tensor, grid: int) -> torch.Tensor:
    """Return the embeddings [1, 1 + grid^2, D] of the class token and of `grid` x `grid` patches.

    `learnt` [1, 1 + G^2, D] are those of G x G patches. They are resized as published: bicubic without anti-aliasing,
    taken at steps of G / (grid + 0.1), a guard against rounding that the published features were made with.
    """
    side = math.isqrt(learnt.shape[1] - 1)
    if grid == side:
        return learnt
    places = learnt[:, 1:].view(1, side, side, -1).permute(0, 3, 1, 2)
    scale = (grid + 0.1) / side
    resized = F.interpolate(places, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([learnt[:, :1], resized.flatten(2).transpose(1, 2)], 1)


class Size(NamedTuple):
    """A published network and the judge that looks through it."""

    judge: str
    network: str
    width: int
    layers: int


LARGE = Size("dinov2", "dinov2_vitl14", 1024, 24)
BASE = Size("dinov2-vitb14", "dinov2_vitb14", 768, 12)


class DINOv2Judge:
    """The class token's features; the network knows no classes and reads no text."""

    def __init__(self, size: Size, path: Path) -> None:
        self.name = size.judge
        self.network = DINOv2(width=size.width, layers=size.layers)
        fill(self.network, path)
        self.id = f"{size.network}:{digest_of_file(path)[:12]}:bicubic-antialias-{SIDE}"

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> Look:
        """Return features [N, width] of images uint8 [N, 3, H, W]."""
        device = self.network.cls_token.device
        parts = torch.split(images, at_once(device))
        return Look(features=torch.cat([self.network(prepare(some.to(device))) for some in parts]).cpu())

    def caption_embeddings(self, captions: Sequence[str]) -> None:
        """Return None: the network reads no text."""
        return None


def open_large(training: Training) -> DINOv2Judge:
    """Return `dinov2`, the ViT-L/14, with the published weights; raise UserError saying what to fetch for it."""
    return _open(LARGE)


def open_base(training: Training) -> DINOv2Judge:
    """Return `dinov2-vitb14` with the published weights; raise UserError saying what to fetch for it."""
    return _open(BASE)


def _open(size: Size) -> DINOv2Judge:
    names = [f"{size.network}_pretrain.{suffix}" for suffix in ("pth", "safetensors")]
    return DINOv2Judge(size, find_weights(size.judge, names, PUBLISHED))


def prepare(images: torch.Tensor) -> torch.Tensor:
    """Return images uint8 [N, 3, H, W] as the network knows them: float [N, 3, 224, 224], normalised."""
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (bicubic(images, SIDE, SIDE) / 255 - mean) / std
