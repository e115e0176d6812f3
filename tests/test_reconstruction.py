"""What codes keep of real images: numbers by hand, and a codebook that collapsed."""

import math

import numpy as np
import pytest
import torch

from t2ibench.datasets.store import Store
from t2ibench.eval.joint_judge import scenes_judge
from t2ibench.eval.judges import Training
from t2ibench.eval.reconstruction import reconstruction, reconstruction_fid, similarity


class Rounding:
    """Codes are pixels of one channel, rounded down to multiples of a step."""

    image_size, grids = 32, (32,)

    def __init__(self, num_codes: int) -> None:
        self.num_codes, self.step = num_codes, 256 // num_codes

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return (images[:, 0] // self.step).flatten(1).long()

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes * self.step).view(-1, 1, 32, 32).expand(-1, 3, -1, -1).to(torch.uint8)


class Blank(Rounding):
    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return super().encode(images) * 0


class CoarseIsBlank(Rounding):
    """A level of 4 x 4 codes before it, which are all alike."""

    grids = (4, 32)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros(len(images), 16, dtype=torch.long), super().encode(images)], 1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        return super().decode(codes[:, 16:])


def test_a_line_says_what_is_kept_and_another_that_the_codebook_collapsed(held_out: Store) -> None:
    tokenizer = Rounding(64)
    images = held_out.batch(np.arange(len(held_out))).images
    made = tokenizer.decode(tokenizer.encode(images))
    scores, [line] = reconstruction(tokenizer, held_out, [])
    errors = ((made.double() - images.double()) ** 2).mean((1, 2, 3))
    psnr = float(sum(10 * math.log10(255**2 / float(error)) for error in errors)) / len(errors)
    assert f"PSNR {psnr:.1f} dB" in line and "SSIM 0." in line
    assert similarity(images, images) == pytest.approx(1) and similarity(images, images.flip(3)) < 0.9
    shares = np.bincount(tokenizer.encode(images).flatten(), minlength=64) / images[:, 0].numel()
    perplexity = math.exp(-sum(share * math.log(share) for share in shares if share))
    assert f"{(shares > 0).mean():.0%} of 64 codes used, perplexity {perplexity:.0f}" in line
    found = {score.name: score.value for score in scores}
    assert found["psnr@codes"] == pytest.approx(psnr, rel=1e-5) and 0 < found["ssim@codes"] < 1
    assert found["codes_used@codes"] == (shares > 0).mean()
    assert found["perplexity@codes"] == pytest.approx(perplexity) and {score.n for score in scores} == {len(held_out)}
    _, collapsed = reconstruction(Blank(64), held_out, []).notes
    assert collapsed.startswith("codebook collapse: 1.6% of 64 codes are in use on the grid of 32 x 32")
    line, collapsed = reconstruction(CoarseIsBlank(64), held_out, []).notes
    assert collapsed.startswith("codebook collapse: 1.6% of 64 codes are in use on the grid of 4 x 4")
    assert f"2%, {(shares > 0).mean():.0%} of 64 codes used" in line


def test_images_that_are_kept_whole_have_no_distance(held_out: Store) -> None:
    judge = scenes_judge(Training(train=lambda: held_out, held_out=lambda: None))
    images = held_out.batch(np.arange(len(held_out))).images
    assert abs(reconstruction_fid(images, held_out, judge)) < 1e-6
    assert reconstruction_fid(255 - images, held_out, judge) > 100
    scores, [line] = reconstruction(Rounding(4), held_out, [judge])
    distance = reconstruction_fid(Rounding(4).decode(Rounding(4).encode(images)), held_out, judge)
    assert scores[-1].name == "fid@scenes" and scores[-1].value == distance > 1 and not scores[-1].higher_is_better
    assert f"FID@scenes {distance:.4g}" in line
