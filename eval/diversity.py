"""Do the images drawn of one caption differ? Their spread, as a share of the spread of real images."""

import torch
from torchmetrics.utilities import dim_zero_cat

from ..errors import UserError
from .frechet import FeatureMoments
from .metric import Estimate, ExactMetric, checked_rows

COLLAPSED = 0.1
"""Below this share of the real images' spread, the images of a caption are near to one and the same."""


class Diversity(ExactMetric):
    """Spread within a caption over the spread of real images, both in a judge's features.

    A spread is the root of the trace of the unbiased covariance, so the root mean square distance of two images but
    for a factor that both share. Few sets have many real images of one caption, so the real spread is over all: 1 is
    reached by a model that does not heed its captions, 0 by one that draws one image for each.
    """

    higher_is_better = True

    variances: list[torch.Tensor]
    images: torch.Tensor

    def __init__(self, real: FeatureMoments) -> None:
        super().__init__()
        self.real = float(real.covariance.trace())
        self.add_state("variances", [], dist_reduce_fx="cat")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, features: torch.Tensor) -> None:
        """Add features [C, R, D] of R >= 2 images of each of C captions; raise UserError on NaN or infinity."""
        captions, images, width = features.shape
        rows = checked_rows(features.flatten(0, 1), width, "diversity").view(captions, images, width)
        self.variances.append(rows.var(dim=1).sum(dim=1).to(self.device))
        self.images = self.images + captions * images

    def compute(self) -> Estimate:
        """Return the share with its standard error over captions."""
        if not len(self.variances):
            raise UserError("diversity: no images were scored")
        shares = dim_zero_cat(self.variances) / self.real
        value = shares.mean().sqrt()
        # Of a root r of a mean m, the error is that of m over 2 r.
        stderr = shares.std() / len(shares) ** 0.5 / (2 * value) if value else value
        return Estimate(value=value, stderr=stderr, n=self.images)


def collapse_note(name: str, value: float) -> str | None:
    """Return a warning when `value`, the score `name`, says that the images of a caption hardly differ."""
    if not value < COLLAPSED:
        return None
    return (f"mode collapse: images of one caption differ {value:.1%} as much as real images do "
            f"({name}; expected {COLLAPSED:.0%} or more)")  # fmt: skip
