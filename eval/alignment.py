"""Does the image show what its caption says: CLIP score and R-precision, from a judge's embeddings."""

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize
from torchmetrics.utilities import dim_zero_cat

from ..errors import UserError
from .metric import Estimate, ExactMetric, checked_rows

IMAGES_A_BLOCK = 128
TIE = 1e-9
"""Cosines nearer than this are equal: float32 embeddings tell nothing below."""


class CLIPScore(ExactMetric):
    """100 times the mean cosine between each image and its caption, clipped at 0 after the mean.

    That is `torchmetrics`' arithmetic; Hessel et al. 2021 (arXiv 2104.08718) clip each pair and scale by 2.5.
    """

    higher_is_better = True

    n: torch.Tensor
    total: torch.Tensor
    squares: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("n", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, image_embeddings: torch.Tensor, caption_embeddings: torch.Tensor) -> None:
        """Add pairs: row i of [N, E] is an image, of the other its caption; of any length but 0."""
        scores = pair_scores(image_embeddings, caption_embeddings).to(self.device)
        self.n = self.n + len(scores)
        self.total = self.total + scores.sum()
        self.squares = self.squares + scores.square().sum()

    def compute(self) -> Estimate:
        """Return the score, 0 to 100, with its standard error over pairs; raise UserError if none."""
        if not self.n:
            raise UserError("CLIP score: no images were scored")
        mean = self.total / self.n
        variance = (self.squares / self.n - mean.square()).clamp(min=0) / (self.n - 1)
        return Estimate(value=mean.clamp(min=0), stderr=variance.sqrt(), n=self.n)


def pair_scores(image_embeddings: torch.Tensor, caption_embeddings: torch.Tensor) -> torch.Tensor:
    """Return float64 [N]: 100 times the cosine of each pair of rows [N, E] of any length but 0."""
    images, captions = _checked_pairs(image_embeddings, caption_embeddings, "CLIP score")
    scores: torch.Tensor = 100 * (images * captions).sum(dim=1)
    return scores


class RPrecision(ExactMetric):
    """Share of images whose own caption is the nearest, by cosine, among `candidates` captions.

    The others are drawn for each image from all captions scored, without replacement and from `seed`, and
    differ in text from its own and from each other. Chance is 1 / candidates. A tie counts as 1 / (number
    tied). The draw depends on the order of the images. Xu et al. 2018 (AttnGAN, arXiv 1711.10485), section 4.
    """

    higher_is_better = True

    image_embeddings: list[torch.Tensor]
    caption_embeddings: list[torch.Tensor]
    texts: list[torch.Tensor]

    def __init__(self, candidates: int = 100, seed: int = 0) -> None:
        super().__init__()
        self.candidates = candidates
        self.seed = seed
        self.add_state("image_embeddings", [], dist_reduce_fx="cat")
        self.add_state("caption_embeddings", [], dist_reduce_fx="cat")
        self.add_state("texts", [], dist_reduce_fx="cat")

    def update(
        self, image_embeddings: torch.Tensor, caption_embeddings: torch.Tensor, captions: Sequence[str]
    ) -> None:
        """Add pairs: row i of both [N, E] and captions[i] belong together."""
        images, embedded = _checked_pairs(image_embeddings, caption_embeddings, "R-precision")
        if len(captions) != len(images):
            raise UserError(f"R-precision: {len(images)} images came with {len(captions)} captions")
        self.image_embeddings.append(images.to(self.device, torch.float32))
        self.caption_embeddings.append(embedded.to(self.device, torch.float32))
        numbers = [_text_number(caption) for caption in captions]
        self.texts.append(torch.tensor(numbers, dtype=torch.int64, device=self.device))

    def compute(self) -> Estimate:
        """Return the share with its standard error over images; raise UserError if captions are too few."""
        credit = self.credit()
        stderr = credit.std() / len(credit) ** 0.5
        return Estimate(value=credit.mean(), stderr=stderr, n=torch.tensor(len(credit)))

    def credit(self) -> torch.Tensor:
        """Return float64 [N]: of each image, 1 or its part of a tie; raise UserError if captions are too few."""
        if not len(self.texts):
            raise UserError("R-precision: no images were scored")
        images, captions = dim_zero_cat(self.image_embeddings), dim_zero_cat(self.caption_embeddings)
        texts = dim_zero_cat(self.texts).cpu().numpy()
        _, first, own = np.unique(texts, return_index=True, return_inverse=True)
        if len(first) < self.candidates:
            raise UserError(f"R-precision among {self.candidates} captions needs as many different ones, "
                            f"got {len(first)}; score more captions or choose fewer candidates")
        others = other_numbers(own, len(first), self.candidates - 1, np.random.default_rng(self.seed))
        drawn = torch.from_numpy(first[np.concatenate([own[:, None], others], axis=1)]).to(captions.device)
        blocks = [slice(start, start + IMAGES_A_BLOCK) for start in range(0, len(images), IMAGES_A_BLOCK)]
        return torch.cat([nearest_credit(images[block], captions[drawn[block]]) for block in blocks])


def nearest_credit(images: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return float64 [N]: 1 where candidate 0 is the nearest, 1/k where k tie for it, else 0.

    Takes unit images [N, E] and their candidates [N, K, E].
    """
    cosines = torch.einsum("nke,ne->nk", candidates.to(torch.float64), images.to(torch.float64))
    lead = cosines - cosines[:, :1]
    tied = (lead.abs() <= TIE).sum(dim=1).to(torch.float64)
    return torch.where(lead.max(dim=1).values > TIE, 0, 1 / tied)


def other_numbers(
    own: NDArray[np.int64], total: int, draws: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return int64 [N, draws]: for each of `own` [N], distinct numbers below `total` other than it.

    All sets are equally likely. Floyd's sampling without replacement, over all rows at once; needs
    draws < total. Bentley & Floyd 1987.
    """
    chosen = np.full((len(own), draws), -1, np.int64)
    for column, top in enumerate(range(total - 1 - draws, total - 1)):
        number = rng.integers(0, top + 1, size=len(own))
        taken = (chosen[:, :column] == number[:, None]).any(axis=1)
        chosen[:, column] = np.where(taken, top, number)
    return chosen + (chosen >= own[:, None])


def _text_number(caption: str) -> int:
    """Return a number that stands for the text in every process: captions as tensors can be gathered."""
    return int.from_bytes(hashlib.sha256(caption.encode()).digest()[:8], "big", signed=True)


def _checked_pairs(
    images: torch.Tensor, captions: torch.Tensor, what: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return both [N, E] in float64 and of unit length; raise UserError unless they pair up and none is 0."""
    images = checked_rows(images, None, what)
    captions = checked_rows(captions, images.shape[1], what)
    if len(images) != len(captions):
        raise UserError(f"{what}: {len(images)} images came with {len(captions)} caption embeddings")
    if not (images.any(dim=1).all() and captions.any(dim=1).all()):
        raise UserError(f"{what}: an embedding is all zeros and has no direction; check the judge's weights")
    return normalize(images, dim=1), normalize(captions, dim=1)
