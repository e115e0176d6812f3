"""BLEU-4 and CIDEr-D: how well a captioner's words for an image agree with the captions it ought to have.

Papineni et al. 2002, "BLEU" (ACL 2002), not smoothed; Vedantam, Zitnick and Parikh 2015, "CIDEr" (arXiv:1411.5726), in
the variant D. Captions are taken apart as COCO's evaluation does: lower case, words only, no marks.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from .metric import Estimate

ORDERS = 4
"""Runs of 1 to 4 words are compared."""
SIGMA = 6.0
"""CIDEr-D: the standard deviation, in words, of the Gaussian by which another length is punished."""

Runs = Counter[tuple[str, ...]]


class CaptionScores(NamedTuple):
    """What captions are worth together, and each by itself."""

    scores: dict[str, Estimate]
    """`bleu_4`, 0 to 1, with the jackknife's standard error; `cider`, 0 to 10."""
    per_image: dict[str, NDArray[np.float64]]
    """`cider` [N]; BLEU has no value for one caption."""


def score_captions(generated: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionScores:
    """Score `generated` [N], one caption an image, each against its image's `references`, one or more.

    Raises UserError for fewer than 2 images, among which no word would be telling, and where numbers do not match.
    """
    if len(generated) != len(references):
        raise UserError(f"caption scores: {len(generated)} captions came for {len(references)} images")
    if len(generated) < 2:
        raise UserError(f"caption scores: {len(generated)} images came; expected 2 or more")
    if void := sum(not some for some in references):
        raise UserError(f"caption scores: {void} of {len(references)} images have no caption to compare with")
    said = [_words(caption) for caption in generated]
    known = [[_words(caption) for caption in some] for some in references]
    cider = cider_d(said, known)
    n = torch.tensor(len(cider))
    return CaptionScores(
        scores={"bleu_4": bleu_4(said, known),
                "cider": Estimate(torch.tensor(cider.mean()), torch.tensor(cider.std(ddof=1) / len(cider) ** 0.5), n)},
        per_image={"cider": cider},
    )  # fmt: skip


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+", caption.lower())


def runs_of(words: Sequence[str], order: int) -> Runs:
    """Return how often each run of `order` words occurs."""
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def bleu_4(said: Sequence[Sequence[str]], known: Sequence[Sequence[Sequence[str]]]) -> Estimate:
    """Return BLEU-4 of all captions together; of references equally near in length, the shorter counts.

    The standard error is the jackknife's over images.
    """
    counts = np.array([_bleu_counts(words, others) for words, others in zip(said, known, strict=True)])
    without = _bleu(counts.sum(0) - counts)
    n = len(counts)
    stderr = ((n - 1) * without.var()) ** 0.5
    value = torch.tensor(float(_bleu(counts.sum(0))), dtype=torch.float64)
    return Estimate(value, torch.tensor(stderr, dtype=torch.float64), torch.tensor(n))


def _bleu_counts(words: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """Return the length, that of the nearest reference, then for every order the runs that match and all runs."""
    nearest = min((len(reference) for reference in references), key=lambda length: (abs(length - len(words)), length))
    counts = [len(words), nearest]
    for order in range(1, ORDERS + 1):
        own, most = runs_of(words, order), Runs()
        for reference in references:
            most |= runs_of(reference, order)
        counts += [(own & most).total(), own.total()]
    return counts


def _bleu(totals: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return BLEU of sums of `_bleu_counts` [..., 2 + 2 x ORDERS]; 0 where an order has no match."""
    length, reference, matches, runs = totals[..., 0], totals[..., 1], totals[..., 2::2], totals[..., 3::2]
    # Without a match nothing is defined but the limit, 0.
    precision = np.log(np.maximum(matches, 1) / np.maximum(runs, 1)).mean(-1)
    brevity = np.minimum(0, 1 - reference / np.maximum(length, 1))
    bleu: NDArray[np.float64] = np.where((matches > 0).all(-1), np.exp(precision + brevity), 0.0)
    return bleu


def cider_d(said: Sequence[Sequence[str]], known: Sequence[Sequence[Sequence[str]]]) -> NDArray[np.float64]:
    """Return CIDEr-D of every caption, float64 [N], 0 to 10: the mean over references and over runs of 1 to 4 words.

    A run counts by the log of how few images' references have it. A caption repeats a run to no gain, and one of
    another length is worth less.
    """
    score = np.zeros(len(said))
    for order in range(1, ORDERS + 1):
        own = [runs_of(words, order) for words in said]
        others = [[runs_of(words, order) for words in references] for references in known]
        images = Counter(run for references in others for run in set().union(*references))
        rarity = {run: float(np.log(len(said) / count)) for run, count in images.items()}
        unseen = float(np.log(len(said)))
        for at, (runs, references) in enumerate(zip(own, others, strict=True)):
            vector = _weighted(runs, rarity, unseen)
            score[at] += sum(
                _cosine(vector, _weighted(reference, rarity, unseen)) * _likeness(len(said[at]), len(words))
                for reference, words in zip(references, known[at], strict=True)
            ) / len(references)
    return 10 * score / ORDERS


def _weighted(runs: Runs, rarity: Mapping[tuple[str, ...], float], unseen: float) -> dict[tuple[str, ...], float]:
    return {run: count * rarity.get(run, unseen) for run, count in runs.items()}


def _cosine(own: Mapping[tuple[str, ...], float], other: Mapping[tuple[str, ...], float]) -> float:
    """Return the cosine of two vectors, of the first no more than the second has of it; 0 where one is null."""
    lengths = sum(value**2 for value in own.values()) * sum(value**2 for value in other.values())
    shared = sum(min(value, other[run]) * other[run] for run, value in own.items() if run in other)
    return float(shared / lengths**0.5) if lengths else 0.0


def _likeness(length: int, other: int) -> float:
    return float(np.exp(-((length - other) ** 2) / (2 * SIGMA**2)))
