"""Image prompts: which codes of an image are given, read from the given pixels alone.

Codes are drawn in raster order, so what is drawn is a rectangle that reaches the bottom-right corner, and what is given
are rows above and columns left of it (OpenAI 2021, "DALL-E: Creating Images from Text"). An encoder sees beyond a
code's own pixels: it is shown the given strips and nothing else of the image, or it would tell what is to be drawn.
"""

from typing import NamedTuple

import torch

from ..errors import UserError
from .image_tokenizer import ImageTokenizer, patch, positions_within


class ImagePrompt(NamedTuple):
    """The given part of images uint8 [N, 3, S, S]: rows of pixels at the top, columns at the left."""

    images: torch.Tensor
    keep_rows: int
    keep_columns: int = 0


def forced_codes(tokenizer: ImageTokenizer, prompt: ImagePrompt) -> torch.Tensor:
    """Return int64 [N, M] on the CPU: the codes of what is given, -1 where one is to be drawn.

    Raises UserError unless what is kept are multiples of the tokenizer's coarsest cell, less than the whole.
    """
    images, keep_rows, keep_columns = prompt
    size, cell = tokenizer.image_size, patch(tokenizer)
    if tuple(images.shape[1:]) != (3, size, size) or images.dtype != torch.uint8:
        raise UserError(
            f"image prompt: expected RGB of {size} x {size} pixels, got {images.dtype} {list(images.shape[1:])}"
        )
    for name, kept in (("rows", keep_rows), ("columns", keep_columns)):
        if kept % cell or not 0 <= kept < size:
            raise UserError(
                f"image prompt: keeps {kept} {name} of pixels; expected a multiple of {cell} from 0 to {size - cell}"
            )
    if not keep_rows and not keep_columns:
        raise UserError("image prompt: keeps nothing of the image; expected some rows or columns of pixels")
    codes = torch.full((len(images), sum(side * side for side in tokenizer.grids)), -1, device="cpu")
    for top, left, height, width in ((0, 0, keep_rows, size), (keep_rows, 0, size - keep_rows, keep_columns)):
        if height and width:
            strip = images[:, :, top : top + height, left : left + width]
            codes[:, positions_within(tokenizer, top, left, height, width)] = tokenizer.encode(strip).cpu()
    return codes
