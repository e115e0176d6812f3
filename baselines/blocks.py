"""Blocks that two models or more are built of."""

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import UserError
from .stabilise import DiscriminatorNorm


def check_widths(generator_width: int, discriminator_width: int, *, least: int) -> None:
    """Raise UserError for networks narrower than `least`."""
    if min(generator_width, discriminator_width) < least:
        raise UserError(
            f"generator_width={generator_width}, discriminator_width={discriminator_width}: expected {least} or more"
        )


class LeakyReLU(nn.LeakyReLU):
    """Leaky ReLU of slope 0.2, that of every discriminator here."""

    def __init__(self) -> None:
        super().__init__(0.2)


class Bottleneck(nn.Module):
    """Residual x + (1x1, 3x3, 3x3), then an activation (the official code of Reed et al. 2016 and StackGAN-v1)."""

    def __init__(
        self, channels: int, inner: int, activation: type[nn.Module], norm: DiscriminatorNorm = "batch"
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(channels, inner, 1, 1, 0, norm, activation),
            *convolution(inner, inner, 3, 1, 1, norm, activation),
            *convolution(inner, channels, 3, 1, 1, norm, None),
        )
        self.activation = activation()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x`."""
        out: torch.Tensor = self.activation(x + self.layers(x))
        return out


def convolution(
    before: int, after: int, kernel: int, stride: int, padding: int, norm: DiscriminatorNorm = "batch",
    activation: type[nn.Module] | None = LeakyReLU,
) -> list[nn.Module]:  # fmt: skip
    """Return a convolution, batch norm where `norm` says so, and the activation; without batch norm it has a bias."""
    batch = norm == "batch"
    layers: list[nn.Module] = [nn.Conv2d(before, after, kernel, stride, padding, bias=not batch)]
    return layers + [nn.BatchNorm2d(after)] * batch + ([activation()] if activation else [])


def from_pixels(width: int, norm: DiscriminatorNorm) -> list[nn.Module]:
    """Return a discriminator's first layers: [N, 3, S, S] -> [N, width, S / 2, S / 2], never with batch norm."""
    return [nn.Conv2d(3, width, 4, 2, 1, bias=norm != "batch"), LeakyReLU()]


class UpConvolution(nn.Sequential):
    """Twice the side by the nearest pixel, then a 3x3 convolution, batch norm and activation (StackGAN-v1 on).

    With `nn.GLU` the convolution makes twice the channels, of which half gate the other half (StackGAN-v2 on).
    """

    def __init__(self, before: int, after: int, activation: type[nn.Module]) -> None:
        made = 2 * after if activation is GLU else after
        super().__init__(nn.Upsample(scale_factor=2), *convolution(before, made, 3, 1, 1, "batch", activation))


class GLU(nn.GLU):
    """Gated linear unit over the channels (Dauphin et al. 2017, arXiv:1612.08083)."""

    def __init__(self) -> None:
        super().__init__(dim=1)


class GatedResidual(nn.Module):
    """x + (3x3 with a GLU, 3x3), no activation after (StackGAN-v2, AttnGAN)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *convolution(channels, 2 * channels, 3, 1, 1, "batch", GLU),
            *convolution(channels, channels, 3, 1, 1, "batch", None),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features of the shape of `x`."""
        out: torch.Tensor = x + self.layers(x)
        return out


class GatedStem(nn.Module):
    """Code [N, D] -> features [N, width, S, S]: linear to 4 x 4, then up-convolutions with GLU (StackGAN-v2, AttnGAN).

    The first features have width x S / 4 channels, and each doubling of the side halves them.
    """

    def __init__(self, code_dim: int, width: int, size: int) -> None:
        super().__init__()
        self.first = width * size // 4
        doublings = (size // 4).bit_length() - 1
        self.expand = nn.Sequential(
            nn.Linear(code_dim, 2 * self.first * 16, bias=False), nn.BatchNorm1d(2 * self.first * 16), nn.GLU(dim=1)
        )
        self.up = nn.Sequential(
            *(UpConvolution(self.first >> level, self.first >> level + 1, GLU) for level in range(doublings))
        )

    def forward(self, code: torch.Tensor) -> torch.Tensor:
        """Return features [N, width, S, S]."""
        features: torch.Tensor = self.up(self.expand(code).view(-1, self.first, 4, 4))
        return features


class GatedConditioning(nn.Module):
    """Conditioning Augmentation with a GLU: embedding [N, T] -> mean, log std, each [N, D] (StackGAN-v2, AttnGAN)."""

    def __init__(self, text_dim: int, condition_dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(text_dim, 4 * condition_dim), nn.GLU(dim=1))

    def forward(self, sentence: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and log of the standard deviation; the layer itself says the log of the variance."""
        mean, log_variance = self.layers(sentence).chunk(2, dim=1)
        return mean, log_variance / 2


class ImageHead(nn.Sequential):
    """Features [N, C, S, S] -> image [N, 3, S, S] in [-1, 1]."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.Conv2d(channels, 3, 3, padding=1, bias=False), nn.Tanh())


class JointDiscriminator(nn.Module):
    """Image [N, 3, S, S] -> features [N, C, 4, 4] -> two logits [N]: real? real and of this caption?

    That of StackGAN-v2 and AttnGAN. Convolutions of stride 2 down to 4 x 4, whose channels double; beyond 8 x width
    (S > 64) as many 3x3 convolutions bring them back.
    """

    def __init__(
        self, size: int, width: int, condition_dim: int, norm: DiscriminatorNorm, *, conditional: bool
    ) -> None:
        super().__init__()
        halvings = (size // 4).bit_length() - 1
        channels = [width << level for level in range(halvings)]
        layers = from_pixels(width, norm)
        for before, after in zip(channels, channels[1:], strict=False):
            layers += convolution(before, after, 4, 2, 1, norm)
        for level in range(halvings - 1, 3, -1):
            layers += convolution(channels[level], channels[level - 1], 3, 1, 1, norm)
        last = min(channels[-1], 8 * width)
        self.image = nn.Sequential(*layers)
        self.judge_image = nn.Conv2d(last, 1, 4)
        self.read = nn.Sequential(*convolution(last + condition_dim, last, 3, 1, 1, norm)) if conditional else None
        self.judge_pair = nn.Conv2d(last, 1, 4) if conditional else None

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return what is seen in the images, [N, C, 4, 4]."""
        seen: torch.Tensor = self.image(images)
        return seen

    def alone(self, seen: torch.Tensor) -> torch.Tensor:
        """Return logits [N]: is what was seen real?"""
        logits: torch.Tensor = self.judge_image(seen).flatten()
        return logits

    def with_caption(self, seen: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Return logits [N]: is what was seen real, and does it match the condition [N, D]?"""
        assert self.read is not None and self.judge_pair is not None, "made without captions"
        everywhere = condition[:, :, None, None].expand(-1, -1, 4, 4)
        logits: torch.Tensor = self.judge_pair(self.read(torch.cat([seen, everywhere], 1))).flatten()
        return logits


def shrink(images: torch.Tensor, size: int) -> torch.Tensor:
    """Return images float [N, 3, S, S] at the side `size`, a divisor of S, by the mean over squares of pixels."""
    return F.avg_pool2d(images, images.shape[-1] // size)


def initialise(module: nn.Module) -> None:
    """Draw convolutions from N(0, 0.02) and norms' scales from N(1, 0.02): for `network.apply` (DCGAN's rule).

    Of networks with batch norm, which the rule was made for; without it, layers start as PyTorch draws them. Signals
    fade in both, with no norm to raise them: a discriminator of many such layers starts nearly blind.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    _initialise_norm(module)


def initialise_orthogonal(module: nn.Module) -> None:
    """Draw convolutions and linear layers orthogonal, norms' scales from N(1, 0.02) (StackGAN-v2, AttnGAN)."""
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.orthogonal_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    _initialise_norm(module)


def _initialise_norm(module: nn.Module) -> None:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)
