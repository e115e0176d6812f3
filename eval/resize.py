"""The two resize rules of the pretrained judges; images uint8 [N, 3, H, W] in, float32 in 0..255 out."""

import torch
from torch.nn.functional import interpolate


def bicubic(images: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return images [N, 3, height, width] by anti-aliased bicubic filtering: Pillow's, unrounded."""
    pixels = images.float()
    if pixels.shape[-2:] == (height, width):
        return pixels
    return interpolate(pixels, (height, width), mode="bicubic", antialias=True).clamp(0, 255)


def tf1_bilinear(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images [N, 3, side, side] as TensorFlow 1 resized: bilinear, corners at 0, no anti-aliasing.

    Output pixel i is taken at input position i * in / out, without the half-pixel shift of later libraries.
    The published Inception statistics were all made so.
    """
    pixels = images.float()
    rows = _tf1_weights(pixels.shape[-2], side, pixels.device)
    columns = _tf1_weights(pixels.shape[-1], side, pixels.device)
    return rows @ pixels @ columns.T


def _tf1_weights(before: int, after: int, device: torch.device) -> torch.Tensor:
    """Return the [after, before] matrix that resizes one axis."""
    position = torch.arange(after, device=device, dtype=torch.float32) * (before / after)
    low = position.long()
    fraction = (position - low)[:, None]
    eye = torch.eye(before, device=device)
    return (1 - fraction) * eye[low] + fraction * eye[(low + 1).clamp(max=before - 1)]
