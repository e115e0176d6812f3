"""The harness: which captions are drawn, one pass of every judge over the images, and the scores."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..datasets.captioned import CaptionedDataset
from ..errors import UserError
from ..files import cache_folder, digest_of, seed_of
from ..reports.records import Score
from .alignment import CLIPScore, RPrecision
from .frechet import FID, FeatureMoments, load_moments, save_moments
from .inception_score import InceptionScore
from .judges import Judge, Look
from .metric import Estimate

BATCH = 256
CANDIDATES = 100
"""Captions among which R-precision looks for the right one."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the images done, and their total."""


class Prompt(NamedTuple):
    """A caption to draw, with the seed of its noise."""

    caption: str
    caption_id: str
    """Id of the image that the caption describes, `#` and the caption's number there."""
    seed: int


def choose_prompts(data: CaptionedDataset, images: int, seed: int) -> list[Prompt]:
    """Return `images` captions of `data`, one an image in a seeded order, then another of each, and so on.

    The noise of a prompt is a hash of `seed`, the caption's id and how often the caption came before, so
    that it is the same for every model.
    """
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    captions = [data.captions(index) for index in order]
    described = [(index, own) for index, own in zip(order, captions, strict=True) if own]
    if not described:
        raise UserError(f"{data.name}/{data.split}: none of its {len(data)} images has a caption to draw")
    names = data.batch(np.array([index for index, _ in described])).ids
    prompts = []
    for number in range(images):
        turn, place = divmod(number, len(described))
        own = described[place][1]
        which = (seed_of(seed, names[place]) + turn) % len(own)
        caption_id = f"{names[place]}#{which}"
        prompts.append(Prompt(own[which], caption_id, seed_of("noise", seed, caption_id, turn // len(own))))
    return prompts


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Scores, and notes on those that could not be had."""

    scores: tuple[Score, ...]
    notes: tuple[str, ...]


def evaluate(
    images: torch.Tensor,
    captions: Sequence[str],
    reference: CaptionedDataset,
    judges: Sequence[Judge],
    progress: Progress = lambda what, done, total: None,
) -> Evaluated:
    """Score images uint8 [N, 3, H, W], drawn for `captions`, against the real images of `reference`.

    Every judge sees each image once. Raises UserError when the numbers of images and captions differ.
    """
    if len(images) != len(captions):
        raise UserError(f"{len(images)} images and {len(captions)} captions came; expected as many of each")
    panels = [Panel(judge, reference_moments(judge, reference, progress)) for judge in judges]
    for start in range(0, len(images), BATCH):
        some, texts = images[start : start + BATCH], captions[start : start + BATCH]
        for panel in panels:
            panel.update(some, texts)
        progress("look at the images", start + len(some), len(images))
    enough = len(set(captions)) >= CANDIDATES
    scores = [score for panel in panels for score in panel.scores(r_precision=enough)]
    note = f"r_precision: left out, {len(set(captions))} different captions came and {CANDIDATES} are needed"
    return Evaluated(scores=tuple(scores), notes=() if enough else (note,))


class Panel:
    """The metrics of one judge."""

    def __init__(self, judge: Judge, real: FeatureMoments) -> None:
        self.judge = judge
        self.fid = FID(len(real.total))
        self.fid.include(real, real=True)
        self.inception_score: InceptionScore | None = None
        self.clip_score = CLIPScore()
        self.r_precision = RPrecision(CANDIDATES)
        self.n = 0

    def update(self, images: torch.Tensor, captions: Sequence[str]) -> None:
        """Look at some images and add them to every metric the judge can serve."""
        look = self.judge.look(images)
        self.n += len(images)
        self.fid.update(look.features, real=False)
        if look.class_probabilities is not None:
            if self.inception_score is None:
                self.inception_score = InceptionScore(look.class_probabilities.shape[1])
            self.inception_score.update(look.class_probabilities)
        self._align(look, captions)

    def _align(self, look: Look, captions: Sequence[str]) -> None:
        texts = self.judge.caption_embeddings(captions)
        if look.embeddings is not None and texts is not None:
            self.clip_score.update(look.embeddings, texts)
            self.r_precision.update(look.embeddings, texts, captions)

    def scores(self, *, r_precision: bool) -> list[Score]:
        """Return what the judge's metrics say of all images seen."""
        scores = [self._score("fid", float(self.fid.compute()), None, self.fid.higher_is_better)]
        if self.inception_score is not None:
            scores.append(self._estimate("is", self.inception_score.compute(), self.inception_score.higher_is_better))
        if self.clip_score.n:
            scores.append(self._estimate("clip_score", self.clip_score.compute(), self.clip_score.higher_is_better))
            if r_precision:
                found = self.r_precision.compute()
                scores.append(self._estimate("r_precision", found, self.r_precision.higher_is_better))
        return scores

    def _estimate(self, metric: str, estimate: Estimate, higher_is_better: bool | None) -> Score:
        error = float(estimate.stderr)
        return self._score(metric, float(estimate.value), None if np.isnan(error) else error, higher_is_better)

    def _score(self, metric: str, value: float, stderr: float | None, higher_is_better: bool | None) -> Score:
        return Score(metric=metric, judge=self.judge.name, value=value, stderr=stderr, n=self.n,
                     higher_is_better=bool(higher_is_better))  # fmt: skip


def reference_moments(judge: Judge, data: CaptionedDataset, progress: Progress) -> FeatureMoments:
    """Return the moments of the judge's features of all real images, kept by judge id and data digest."""
    path = cache_folder() / "moments" / f"{digest_of([judge.id, data.digest])[:16]}.npz"
    if path.exists():
        return load_moments(path)
    moments: FeatureMoments | None = None
    for start in range(0, len(data), BATCH):
        at = np.arange(start, min(start + BATCH, len(data)))
        some = FeatureMoments.from_features(judge.look(data.batch(at).images).features)
        moments = some if moments is None else moments + some
        progress(f"look at the real images ({judge.name})", int(at[-1]) + 1, len(data))
    if moments is None:
        raise UserError(f"{data.name}/{data.split}: holds no images to compare with")
    save_moments(path, moments)
    return moments
