"""The codes that the transformer learns from: every training image encoded once, or a few times a little shifted.

The authors crop images at random (Ramesh et al. 2021, appendix B.2), which needs the encoder in every step. A picture
that is shifted by less than a code's cell is the same picture in other codes; a few such views are encoded once and
kept. They are the same for every seed of a run.
"""

import math

import numpy as np
import torch

from ..datasets.captioned import Batch, CaptionedDataset
from .image_tokenizer import GridTokenizer, patch

ENCODED_AT_ONCE = 512


class Codes:
    """The codes of every image of a data set, made once: batch -> int64 [N, M], one of an image's `views` by chance."""

    def __init__(self, tokenizer: GridTokenizer, data: CaptionedDataset, views: int = 1) -> None:
        parts, self.rows = [], dict[str, int]()
        for start in range(0, len(data), ENCODED_AT_ONCE):
            batch = data.batch(np.arange(start, min(start + ENCODED_AT_ONCE, len(data))))
            images = batch.images.cpu()
            seen = (shifted(images, patch(tokenizer) // 2 if view else 0, seed=start + view) for view in range(views))
            parts.append(torch.stack([tokenizer.encode(some).to(torch.int32).cpu() for some in seen]))
            self.rows |= {name: start + number for number, name in enumerate(batch.ids)}
        self.codes = torch.cat(parts, 1)
        """Int32 [views, images, M]; the first view is the image as it is."""

    def __call__(self, batch: Batch) -> torch.Tensor:
        """Return the codes of a batch of the data's images, by their ids."""
        rows = torch.tensor([self.rows[name] for name in batch.ids], device="cpu")
        return self.codes[torch.randint(len(self.codes), rows.shape, device="cpu"), rows].long()


def shifted(images: torch.Tensor, reach: int, seed: int) -> torch.Tensor:
    """Return images [N, 3, S, S] on the CPU, each shifted by up to `reach` pixels both ways; its edges are repeated."""
    count, channels, side, _ = images.shape
    generator = torch.Generator("cpu").manual_seed(seed)
    down, right = torch.randint(-reach, reach + 1, (2, count, 1), generator=generator, device="cpu")
    within = torch.arange(side, device="cpu")
    rows, columns = ((within - by).clamp(0, side - 1) for by in (down, right))
    image, channel = torch.arange(count, device="cpu"), torch.arange(channels, device="cpu")
    return images[image[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def corrupted(codes: torch.Tensor, radices: tuple[int, ...], share: float) -> torch.Tensor:
    """Return int64 codes of any shape, on the CPU, a `share` of them replaced: one digit, by chance, is one off.

    Codes of a single digit are in no order, and any code takes their place.
    """
    if len(radices) == 1:
        other = torch.randint(radices[0], codes.shape, device="cpu")
    else:
        which = torch.randint(len(radices), codes.shape, device="cpu")
        radix = torch.tensor(radices, device="cpu")[which]
        place = torch.tensor([math.prod(radices[:digit]) for digit in range(len(radices))], device="cpu")[which]
        digit = codes // place % radix
        up = torch.rand(codes.shape, device="cpu") < 0.5
        other = codes + torch.where((digit == 0) | up & (digit < radix - 1), place, -place)
    return torch.where(torch.rand(codes.shape, device="cpu") < share, other, codes)
