"""What a model's image tokenizer keeps of real images: the ceiling of each image that it can draw.

Peak signal-to-noise ratio and structural similarity (Wang et al. 2004) by `torchmetrics`, the Fréchet distance of
reconstructions in a judge's features, and how much of the codebook is in use.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from ..dalle.image_tokenizer import CodebookUse, ImageTokenizer
from ..datasets.captioned import CaptionedDataset
from ..reports.records import Score
from .frechet import FID
from .judges import Judge
from .reference import BATCH, reference

IMAGES = 2000
"""That are looked at, at most."""


class Reconstruction(NamedTuple):
    """What the codes keep: its numbers, `metric@codes` and `fid@` each judge, and the same in words."""

    scores: tuple[Score, ...]
    notes: list[str]


def reconstruction(tokenizer: ImageTokenizer, data: CaptionedDataset, judges: Sequence[Judge]) -> Reconstruction:
    """Look at the images of `data` through their codes; of a codebook that collapsed a second note warns."""
    images = data.batch(np.arange(min(len(data), IMAGES))).images
    codes = tokenizer.encode(images)
    made, use = tokenizer.decode(codes), CodebookUse(tokenizer)
    use.add(codes)
    squares = (made.float() - images.float()).square().mean((1, 2, 3)).clamp(min=1e-2)
    parts = list(zip(torch.split(made, BATCH), torch.split(images, BATCH), strict=True))
    found = {
        "psnr": float((10 * torch.log10(255**2 / squares)).mean()),
        "ssim": float(np.average([similarity(*part) for part in parts], weights=[len(part[0]) for part in parts])),
        "codes_used": float(np.mean(use.used)),
        "perplexity": use.perplexity,
    }
    distances = {judge.name: reconstruction_fid(made, data, judge) for judge in judges}
    kept = [f"PSNR {found['psnr']:.1f} dB", f"SSIM {found['ssim']:.3f}"]
    kept += [f"FID@{name} {distance:.4g}" for name, distance in distances.items()]
    shares = ", ".join(f"{share:.0%}" for share in use.used)
    kept += [f"{shares} of {tokenizer.num_codes:,} codes used, perplexity {found['perplexity']:.0f}"]

    def scored(metric: str, judge: str, value: float) -> Score:
        return Score(metric=metric, judge=judge, value=value, stderr=None, n=len(images),
                     higher_is_better=metric != "fid")  # fmt: skip

    return Reconstruction(
        scores=(*(scored(metric, "codes", value) for metric, value in found.items()),
                *(scored("fid", name, distance) for name, distance in distances.items())),
        notes=[f"reconstructions of real {data.split} images by their codes: {', '.join(kept)}", *use.collapses()],
    )  # fmt: skip


def similarity(made: torch.Tensor, images: torch.Tensor) -> float:
    """Return the structural similarity of images uint8 [N, 3, H, W], the mean over them."""
    found = structural_similarity_index_measure(made.float(), images.float(), data_range=255.0)
    assert isinstance(found, torch.Tensor)
    return float(found)


def reconstruction_fid(made: torch.Tensor, data: CaptionedDataset, judge: Judge) -> float:
    """Return the Fréchet distance of `made` from the images of `data` in the judge's features."""
    real = reference(judge, data).moments
    fid = FID(len(real.total))
    fid.include(real, real=True)
    for some in torch.split(made, BATCH):
        fid.update(judge.look(some).features, real=False)
    return float(fid.compute())
