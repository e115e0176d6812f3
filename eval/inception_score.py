"""The Inception score: how sure a classifier is of each image, and how many classes it is sure of."""

import torch

from ..errors import UserError
from .metric import Estimate, ExactMetric, checked_rows

SUM_TOLERANCE = 1e-3
"""How far a row of probabilities may be from 1: float16 softmax over 1,008 classes stays well inside."""


def split_scores(
    probability_sums: torch.Tensor, negentropy_sums: torch.Tensor, counts: torch.Tensor
) -> torch.Tensor:
    """Return exp(mean over images of KL(p(y|x) || p(y))) for each split, float64 [S], from 1 to C.

    Takes the sums over a split's images of p (float64 [S, C]) and of sum_c p log p (float64 [S]), and the
    number of its images ([S], each at least 1). The mean KL is the mean negative entropy less that of the
    mean p.
    Salimans et al. 2016, arXiv 1606.03498, section 4.
    """
    marginals = probability_sums / counts[:, None]
    divergence: torch.Tensor = negentropy_sums / counts + torch.special.entr(marginals).sum(dim=1)
    return divergence.exp()


class InceptionScore(ExactMetric):
    """Mean over `splits` of the Inception score, with the standard error of that mean.

    Image i goes to split i mod `splits`, so images sorted by class do no harm. The splits are disjoint, so
    the error is std (n - 1) / sqrt(splits); published values carry the std itself. The value depends on the
    number of images a split: compare equal numbers only.
    """

    higher_is_better = True

    probability_sums: torch.Tensor
    negentropy_sums: torch.Tensor
    counts: torch.Tensor

    def __init__(self, num_classes: int, splits: int = 10) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.splits = splits
        sums = torch.zeros(splits, num_classes, dtype=torch.float64)
        self.add_state("probability_sums", sums, dist_reduce_fx="sum")
        self.add_state("negentropy_sums", torch.zeros(splits, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("counts", torch.zeros(splits, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, class_probabilities: torch.Tensor) -> None:
        """Add images by their class probabilities [N, C]; raise UserError if a row is none."""
        p = checked_rows(class_probabilities, self.num_classes, "Inception score").to(self.device)
        if len(p) and (p.min() < 0 or (p.sum(dim=1) - 1).abs().max() > SUM_TOLERANCE):
            raise UserError("Inception score: expected rows >= 0 with sum 1; apply the softmax first")
        split = (int(self.counts.sum()) + torch.arange(len(p), device=self.device)) % self.splits
        self.probability_sums = self.probability_sums.index_add(0, split, p)
        self.negentropy_sums = self.negentropy_sums.index_add(0, split, torch.xlogy(p, p).sum(dim=1))
        self.counts = self.counts + torch.bincount(split, minlength=self.splits)

    def compute(self) -> Estimate:
        """Return the score; with one split there is no standard error, and `stderr` is NaN.

        Raises UserError when a split has fewer than 2 images: the score of one is 1, whatever it shows.
        """
        n = int(self.counts.sum())
        if int(self.counts.min()) < 2:
            raise UserError(f"Inception score: {n} images are too few for {self.splits} splits; "
                            f"score at least {2 * self.splits} or ask for fewer splits")
        scores = split_scores(self.probability_sums, self.negentropy_sums, self.counts).cpu()
        stderr = scores.std() / self.splits**0.5 if self.splits > 1 else scores.new_tensor(torch.nan)
        return Estimate(value=scores.mean(), stderr=stderr, n=torch.tensor(n))
