"""Every metric that a judge can serve, of images as it saw them, beside real ones."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..reports.records import Score
from .alignment import RPrecision, pair_scores
from .diversity import Diversity
from .frechet import IMAGES_A_FEATURE, fid_infinity, frechet_distance_of_features
from .inception_score import InceptionScore
from .kernel_distance import IMAGES, cmmd, kernel_distance
from .metric import Estimate, mean_of, on_cpu
from .neighbours import HELD_OUT, NEIGHBOURS, Neighbourhoods, neighbourhoods
from .prompts import REPEATED, first_captions
from .reference import Reference, Seen

CANDIDATES = 100
"""Captions among which R-precision looks for the right one."""
SPLITS = 10
"""Parts of the images of which the Inception Score is the mean."""
LOWER_IS_BETTER = frozenset({"fid", "fid_infinity", "kid", "cmmd", "copied"})


def left_out(seen: Seen, real: Reference | None) -> dict[str, str]:
    """Return the metrics that so few images and different captions cannot be scored by, and why."""
    least, beside = {"is": 2 * SPLITS}, dict[str, int]()
    if real is not None:
        few = {"kid": IMAGES, "cmmd": IMAGES, **dict.fromkeys(Neighbourhoods._fields, NEIGHBOURS + 1)}
        least |= few | {"fid_infinity": IMAGES_A_FEATURE * seen.look.features.shape[1]}
        beside = few | {"copied": HELD_OUT}
    notes = {name: f"{len(seen)} images came and {needed} are needed" for name, needed in least.items()
             if len(seen) < needed}  # fmt: skip
    if real is not None:
        notes |= {name: f"{len(real.seen)} real images are there and {needed} are needed"
                  for name, needed in beside.items() if len(real.seen) < needed}  # fmt: skip
    captions = len({seen.captions[at] for at in first_captions(seen.captions, seen.image_ids)})
    if seen.caption_embeddings is not None and captions < CANDIDATES:
        notes["r_precision"] = f"{captions} different captions came and {CANDIDATES} are needed"
    return notes


def likeness(seen: Seen, real: Reference | None) -> Iterator[tuple[str, Estimate]]:
    """Yield by metric how good and how manifold the images are; captions play no part. Few need no real images."""
    missing = left_out(seen, real)
    probabilities = seen.look.class_probabilities
    if probabilities is not None and "is" not in missing:
        metric = InceptionScore(probabilities.shape[1], SPLITS)
        metric.update(probabilities)
        yield "is", metric.compute()
    if real is not None:
        yield from _distances(seen, real, missing)


def _distances(seen: Seen, real: Reference, missing: Mapping[str, str]) -> Iterator[tuple[str, Estimate]]:
    features, others = seen.look.features, real.seen.look.features
    distance = torch.tensor(frechet_distance_of_features(real.moments, features), dtype=torch.float64)
    yield "fid", Estimate(value=distance, stderr=torch.tensor(torch.nan), n=torch.tensor(len(seen)))
    if "fid_infinity" not in missing:
        yield "fid_infinity", fid_infinity(real.moments, features, seed=0)
    if "kid" not in missing:
        yield "kid", kernel_distance(others, features, real.kid_within)
    if "precision" not in missing:
        yield from neighbourhoods(others, features, real_edges=real.ball_edges)._asdict().items()
    if seen.look.embeddings is not None and real.seen.look.embeddings is not None and "cmmd" not in missing:
        yield "cmmd", cmmd(real.seen.look.embeddings, seen.look.embeddings, real.cmmd_within)


def alignment(seen: Seen) -> dict[str, NDArray[np.float64]]:
    """Return how well each image fits its caption, float64 [N] by metric, NaN where it does not count.

    R-precision has the first caption of each real image only, for another of it is no wrong answer. Empty
    where the judge reads no text; without R-precision where too few captions differ.
    """
    embeddings, texts = seen.look.embeddings, seen.caption_embeddings
    if embeddings is None or texts is None:
        return {}
    asked = np.array([bool(caption) for caption in seen.captions])
    if not asked.any():
        return {}
    found = {"clip_score": np.where(asked, pair_scores(embeddings, texts).numpy(), np.nan)}
    firsts = [at for at in first_captions(seen.captions, seen.image_ids) if asked[at]]
    captions = [seen.captions[at] for at in firsts]
    if len(set(captions)) >= CANDIDATES:
        metric = RPrecision(CANDIDATES)
        metric.update(embeddings[firsts], texts[firsts], captions)
        found["r_precision"] = np.full(len(seen), np.nan)
        found["r_precision"][firsts] = metric.credit().numpy()
    return found


def aligned(name: str, values: NDArray[np.float64], image_ids: Sequence[str]) -> Estimate:
    """Return the mean of an alignment's values; the CLIP score is 0 at least, as `torchmetrics` has it."""
    estimate = mean_of(values, image_ids)
    return estimate._replace(value=estimate.value.clamp(min=0)) if name == "clip_score" else estimate


@on_cpu
def diversity(repeated: torch.Tensor, real: Reference) -> Estimate:
    """Return the spread within a caption of features [C * R, D] of `repeated_prompts`."""
    metric = Diversity(real.moments)
    metric.update(repeated.view(-1, REPEATED[1], repeated.shape[1]))
    return metric.compute()


def score(metric: str, judge: str, estimate: Estimate) -> Score:
    """Return an estimate as the record has it."""
    error = float(estimate.stderr)
    return Score(metric=metric, judge=judge, value=float(estimate.value), n=int(estimate.n),
                 stderr=None if np.isnan(error) else error, higher_is_better=metric not in LOWER_IS_BETTER)  # fmt: skip
