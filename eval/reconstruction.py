"""What a model's image tokenizer keeps of real images: the ceiling of each image that it can draw.

Peak signal-to-noise ratio and structural similarity (Wang et al. 2004) by `torchmetrics`, the Fréchet distance of
reconstructions in a judge's features, and how much of the codebook is in use.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torchmetrics.functional.image import structural_similarity_index_measure

from ..dalle.image_tokenizer import CodebookUse, ImageTokenizer
from ..datasets.captioned import CaptionedDataset
from .frechet import FID
from .judges import Judge
from .reference import BATCH, reference

IMAGES = 2000
"""That are looked at, at most."""


def reconstruction_notes(tokenizer: ImageTokenizer, data: CaptionedDataset, judges: Sequence[Judge]) -> list[str]:
    """Return a line on what the codes keep of the images of `data`, and one more if the codebook collapsed."""
    images = data.batch(np.arange(min(len(data), IMAGES))).images
    codes = tokenizer.encode(images)
    made, use = tokenizer.decode(codes), CodebookUse(tokenizer)
    use.add(codes)
    squares = (made.float() - images.float()).square().mean((1, 2, 3)).clamp(min=1e-2)
    psnr = float((10 * torch.log10(255**2 / squares)).mean())
    parts = list(zip(torch.split(made, BATCH), torch.split(images, BATCH), strict=True))
    ssim = np.average([similarity(*part) for part in parts], weights=[len(part[0]) for part in parts])
    kept = [f"PSNR {psnr:.1f} dB", f"SSIM {ssim:.3f}"]
    kept += [f"FID@{judge.name} {reconstruction_fid(made, data, judge):.4g}" for judge in judges]
    shares = ", ".join(f"{share:.0%}" for share in use.used)
    kept += [f"{shares} of {tokenizer.num_codes:,} codes used, perplexity {use.perplexity:.0f}"]
    return [f"reconstructions of real {data.split} images by their codes: {', '.join(kept)}", *use.collapses()]


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
