"""What the published CLIPs are given: images as they were normalised, captions as they were cut up.

Radford et al. 2021, arXiv:2103.00020.
"""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch.nn.functional import interpolate

from ..errors import UserError

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
"""Of red, green and blue in the training images, in [0, 1]."""
END = "<|endoftext|>"


def prepare(images: torch.Tensor, side: int) -> torch.Tensor:
    """Return images uint8 [N, 3, H, W] as float [N, 3, side, side]: resized, centre cut out, normalised."""
    height, width = images.shape[-2:]
    scale = side / min(height, width)
    high, wide = max(side, round(height * scale)), max(side, round(width * scale))
    top, left = (high - side) // 2, (wide - side) // 2
    pixels = images.float()
    if (high, wide) != (height, width):
        pixels = interpolate(pixels, (high, wide), mode="bicubic", antialias=True).clamp(0, 255)
    mean, std = (torch.tensor(values, device=images.device).view(3, 1, 1) for values in (MEAN, STD))
    return (pixels[:, :, top : top + side, left : left + side] / 255 - mean) / std


def open_tokenizer(path: Path, context: int) -> Tokenizer:
    """Return the tokenizer in `path`, a tokenizer.json, cutting captions before their end token and padding with it.

    Rows are at most `context` long and as long as the longest. Raises UserError when it is not that of a CLIP.
    """
    try:
        tokenizer = Tokenizer.from_file(str(path))
        last = tokenizer.encode("").ids[-1:]
    except Exception as error:  # nothing narrower is raised
        raise UserError(f"{path}: not a tokenizer; fetch the tokenizer.json of the published CLIP") from error
    end = tokenizer.token_to_id(END)
    if end is None or last != [end]:
        raise UserError(f"{path}: not the tokenizer of a CLIP, it ends no caption with {END}; fetch the published one")
    tokenizer.enable_truncation(context)
    tokenizer.enable_padding(pad_id=end, pad_token=END)
    return tokenizer
