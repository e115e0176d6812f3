"""CLIP's two image encoders, with the parameter names of the published weights.

Radford et al. 2021, arXiv:2103.00020, section 2.4: a vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929)
normalised once more before its blocks, and a ResNet-D (He et al. 2019, arXiv:1812.01187) whose strides are
anti-aliased by average pooling (Zhang 2019, arXiv:1904.11486) and that is read out by attention.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from ..baselines.text_transformer import Block

HEAD_WIDTH = 64
"""Of each attention head, in every published image encoder."""
EXPANSION = 4
"""Channels that leave a bottleneck, over those within."""
RESNET_STRIDE = 32


def initialise_blocks(blocks: Iterable[nn.Module], width: int) -> None:
    """Draw the weights of a transformer's blocks as published: those that write to the residual stream are smaller."""
    every = [block for block in blocks if isinstance(block, Block)]
    narrow = width**-0.5
    residual = narrow * (2 * len(every)) ** -0.5
    for block in every:
        deviations = {"attn.in_proj_weight": narrow, "attn.out_proj.weight": residual,
                      "mlp.c_fc.weight": (2 * width) ** -0.5, "mlp.c_proj.weight": residual}  # fmt: skip
        for name, deviation in deviations.items():
            nn.init.normal_(block.get_parameter(name), std=deviation)


class ImageTransformer(nn.Module):
    """The blocks of the vision transformer: every patch sees every other."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, width // HEAD_WIDTH) for _ in range(layers))
        initialise_blocks(self.resblocks, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return states [N, T, width]."""
        for block in self.resblocks:
            x = block(x, None)
        return x


class VisionTransformer(nn.Module):
    """Images float [N, 3, S, S] -> embeddings [N, embed_dim], read at a learnt class token before the patches."""

    def __init__(self, *, image_size: int, patch: int, width: int, layers: int, embed_dim: int) -> None:
        super().__init__()
        patches = (image_size // patch) ** 2
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(width**-0.5 * torch.randn(width))
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(patches + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = ImageTransformer(width, layers)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(width**-0.5 * torch.randn(width, embed_dim))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings, not normalised."""
        patches = self.conv1(images).flatten(2).transpose(1, 2)
        first = self.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
        x = torch.cat([first, patches], 1) + self.positional_embedding
        embeddings: torch.Tensor = self.ln_post(self.transformer(self.ln_pre(x))[:, 0]) @ self.proj
        return embeddings


class Bottleneck(nn.Module):
    """Residual block of the ResNet; a stride is an average pool before the last convolution, and in the shortcut."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        self.conv3, self.bn3 = nn.Conv2d(width, EXPANSION * width, 1, bias=False), nn.BatchNorm2d(EXPANSION * width)
        nn.init.zeros_(self.bn3.weight)
        self.downsample: nn.Module = nn.Identity()
        if stride > 1 or channels != EXPANSION * width:
            shortcut = nn.Conv2d(channels, EXPANSION * width, 1, bias=False)
            # The names "0" and "1" are those of the published weights.
            self.downsample = nn.Sequential(
                OrderedDict([("pool", nn.AvgPool2d(stride)), ("0", shortcut), ("1", nn.BatchNorm2d(EXPANSION * width))])
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, 4 width, H / stride, W / stride]."""
        inside = F.relu(self.bn1(self.conv1(x)))
        inside = self.pool(F.relu(self.bn2(self.conv2(inside))))
        return F.relu(self.bn3(self.conv3(inside)) + self.downsample(x))


class AttentionPool(nn.Module):
    """Feature map [N, C, H, W] -> [N, embed_dim]: its mean attends to every place and to itself."""

    def __init__(self, side: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.positional_embedding = nn.Parameter(width**-0.5 * torch.randn(side**2 + 1, width))
        self.k_proj, self.q_proj, self.v_proj = (nn.Linear(width, width) for _ in range(3))
        self.c_proj = nn.Linear(width, embed_dim)
        for projection in (self.k_proj, self.q_proj, self.v_proj, self.c_proj):
            nn.init.normal_(projection.weight, std=width**-0.5)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return embeddings, not normalised."""
        places = features.flatten(2).transpose(1, 2)
        x = torch.cat([places.mean(1, keepdim=True), places], 1) + self.positional_embedding
        q, k, v = self._by_head(self.q_proj(x[:, :1])), self._by_head(self.k_proj(x)), self._by_head(self.v_proj(x))
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1)
        embeddings: torch.Tensor = self.c_proj(attended)
        return embeddings

    def _by_head(self, x: torch.Tensor) -> torch.Tensor:
        """Return [N, heads, T, width of a head]."""
        return x.view(*x.shape[:2], self.heads, HEAD_WIDTH).transpose(1, 2)


class ModifiedResNet(nn.Module):
    """Images float [N, 3, S, S] -> embeddings [N, embed_dim]: a stem of three convolutions, four groups, attention."""

    def __init__(self, *, image_size: int, width: int, layers: Sequence[int], embed_dim: int) -> None:
        super().__init__()
        half = width // 2
        self.conv1, self.bn1 = nn.Conv2d(3, half, 3, 2, 1, bias=False), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = nn.Conv2d(half, half, 3, 1, 1, bias=False), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = nn.Conv2d(half, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.layer1 = _group(width, width, layers[0], 1)
        self.layer2 = _group(4 * width, 2 * width, layers[1], 2)
        self.layer3 = _group(8 * width, 4 * width, layers[2], 2)
        self.layer4 = _group(16 * width, 8 * width, layers[3], 2)
        self.attnpool = AttentionPool(image_size // RESNET_STRIDE, 32 * width, embed_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return embeddings, not normalised."""
        x = F.relu(self.bn1(self.conv1(images)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        embeddings: torch.Tensor = self.attnpool(self.layer4(self.layer3(self.layer2(self.layer1(x)))))
        return embeddings


def _group(channels: int, width: int, layers: int, stride: int) -> nn.Sequential:
    """Return blocks of one width, the first with the stride."""
    rest = (Bottleneck(EXPANSION * width, width, 1) for _ in range(layers - 1))
    return nn.Sequential(Bottleneck(channels, width, stride), *rest)
