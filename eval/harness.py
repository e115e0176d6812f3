"""The harness: which captions are drawn, one pass of every judge over the images, and the scores."""

import itertools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from ..datasets.captioned import CaptionedDataset
from ..errors import UserError
from ..files import cache_folder, digest_of, seed_of
from ..reports.records import Score
from .alignment import CLIPScore, RPrecision
from .diversity import Diversity, collapse_note
from .frechet import FID, FeatureMoments, load_moments, save_moments
from .inception_score import InceptionScore
from .judges import Judge, Look, ReportsAccuracy
from .metric import Estimate, ExactMetric

BATCH = 256
CANDIDATES = 100
"""Captions among which R-precision looks for the right one."""
SPLITS = 10
"""Parts of the images of which the Inception Score is the mean."""
REPEATED = (32, 8)
"""Captions drawn again to see whether their images differ, and how many images of each."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the images done, and their total."""


class Prompt(NamedTuple):
    """A caption to draw, with the seed of its noise."""

    caption: str
    image_id: str
    """Id of the image that the caption describes."""
    number: int
    """Which of that image's captions it is."""
    seed: int

    @property
    def caption_id(self) -> str:
        """Return the id of the caption: its image's, `#` and its number."""
        return f"{self.image_id}#{self.number}"


def choose_prompts(data: CaptionedDataset, images: int, seed: int) -> list[Prompt]:
    """Return `images` captions of `data`, one an image in a seeded order, then another of each, and so on.

    The noise of a prompt is a hash of `seed`, the caption's id and how often the caption came before, so
    that it is the same for every model.
    """
    order = np.random.default_rng(seed).permutation(len(data)).tolist()
    described = list(itertools.islice((index for index in order if data.captions(index)), images))
    if not described:
        raise UserError(f"{data.name}/{data.split}: none of its {len(data)} images has a caption to draw")
    names = [name for at in _blocks(described) for name in data.batch(at).ids]
    prompts = []
    for place in range(images):
        turn, at = divmod(place, len(described))
        own, name = data.captions(described[at]), names[at]
        number = (seed_of(seed, name) + turn) % len(own)
        noise = seed_of("noise", seed, name, number, turn // len(own))
        prompts.append(Prompt(caption=own[number], image_id=name, number=number, seed=noise))
    return prompts


def repeated_prompts(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the first captions of `prompts`, each in turn as often as `REPEATED` says, with noise of its own.

    Fewer captions are taken where `prompts` has fewer different ones.
    """
    captions, times = REPEATED
    firsts = [prompts[at] for at in first_places([prompt.caption for prompt in prompts])[:captions]]
    return [prompt._replace(seed=seed_of("again", prompt.seed, number)) for prompt in firsts for number in range(times)]


def _blocks(indices: Sequence[int]) -> Iterator[Sequence[int]]:
    return (indices[start : start + BATCH] for start in range(0, len(indices), BATCH))


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Scores, and notes on the judges' accuracy and on scores that could not be had."""

    scores: tuple[Score, ...]
    notes: tuple[str, ...]


def evaluate(
    images: torch.Tensor,
    captions: Sequence[str],
    reference: CaptionedDataset,
    judges: Sequence[Judge],
    progress: Progress = lambda what, done, total: None,
    *,
    described: Sequence[str] | None = None,
    repeated: torch.Tensor | None = None,
) -> Evaluated:
    """Score images uint8 [N, 3, H, W], drawn for `captions`, against the real images of `reference`.

    Every judge sees each image once. `described` names the real image that each caption was taken from: two
    captions of one image are both true of it, so R-precision has the first only. `repeated`, images of
    `repeated_prompts`, shows the diversity. Raises UserError when the numbers of images and captions differ.
    """
    if len(images) != len(captions):
        raise UserError(f"{len(images)} images and {len(captions)} captions came; expected as many of each")
    firsts = first_places(described or [str(number) for number in range(len(images))])
    panels = [Panel(judge, reference_moments(judge, reference, progress)) for judge in judges]
    for start in range(0, len(images), BATCH):
        some, texts = images[start : start + BATCH], captions[start : start + BATCH]
        for panel in panels:
            panel.update(some, texts, [at - start for at in firsts if start <= at < start + len(some)])
        progress("look at the images", start + len(some), len(images))
    if repeated is not None:
        for panel in panels:
            panel.update_diversity(repeated)
    missing = left_out(len(images), len({captions[at] for at in firsts}))
    scores = [score for panel in panels for score in panel.scores(leave_out=missing)]
    notes = [accuracy_note(judge) for judge in judges if isinstance(judge, ReportsAccuracy) and judge.held_out]
    notes += [f"{metric}: left out, {why}" for metric, why in missing.items()]
    notes += filter(None, (collapse_note(score.name, score.value) for score in scores if score.metric == "diversity"))
    return Evaluated(scores=tuple(scores), notes=tuple(notes))


def accuracy_note(judge: ReportsAccuracy) -> str:
    """Return a line that says how often the judge is right on held-out real images."""
    shares = ", ".join(f"{asked.replace('_', ' ')} {share:.1%}" for asked, share in judge.held_out.items())
    return f"judge {getattr(judge, 'name', '')}: right on held-out real images in {shares}"


def first_places(names: Sequence[str]) -> list[int]:
    """Return the places at which each name stands first, in order."""
    return sorted({name: at for at, name in reversed(list(enumerate(names)))}.values())


def left_out(images: int, captions: int) -> dict[str, str]:
    """Return the metrics that so few images and different captions cannot be scored by, and why."""
    notes = {}
    if images < 2 * SPLITS:
        notes["is"] = f"{images} images came and {2 * SPLITS} are needed"
    if captions < CANDIDATES:
        notes["r_precision"] = f"{captions} different captions came and {CANDIDATES} are needed"
    return notes


class Panel:
    """The metrics of one judge."""

    def __init__(self, judge: Judge, real: FeatureMoments) -> None:
        self.judge = judge
        self.fid = FID(len(real.total))
        self.fid.include(real, real=True)
        self.inception_score: InceptionScore | None = None
        self.clip_score = CLIPScore()
        self.r_precision = RPrecision(CANDIDATES)
        self.diversity = Diversity(real)
        self.n = 0

    def update(self, images: torch.Tensor, captions: Sequence[str], firsts: Sequence[int]) -> None:
        """Look at some images and add them to every metric the judge can serve; R-precision has `firsts` only."""
        look = self.judge.look(images)
        self.n += len(images)
        self.fid.update(look.features, real=False)
        if look.class_probabilities is not None:
            if self.inception_score is None:
                self.inception_score = InceptionScore(look.class_probabilities.shape[1], SPLITS)
            self.inception_score.update(look.class_probabilities)
        self._align(look, captions, firsts)

    def _align(self, look: Look, captions: Sequence[str], firsts: Sequence[int]) -> None:
        texts = self.judge.caption_embeddings(captions)
        if look.embeddings is not None and texts is not None:
            self.clip_score.update(look.embeddings, texts)
            at = torch.tensor(firsts, dtype=torch.int64, device=texts.device)
            self.r_precision.update(look.embeddings[at], texts[at], [captions[place] for place in firsts])

    def update_diversity(self, repeated: torch.Tensor) -> None:
        """Look at images of `repeated_prompts`."""
        features = torch.cat([self.judge.look(some).features for some in torch.split(repeated, BATCH)])
        self.diversity.update(features.view(-1, REPEATED[1], features.shape[1]))

    def scores(self, *, leave_out: Collection[str]) -> list[Score]:
        """Return what the judge's metrics say of all images seen, but for those to be left out."""
        fid = Estimate(value=self.fid.compute(), stderr=torch.tensor(torch.nan), n=torch.tensor(self.n))
        scores = [self._score("fid", fid, self.fid)]
        served: dict[str, ExactMetric] = {}
        if self.inception_score is not None:
            served["is"] = self.inception_score
        if self.clip_score.n:
            served |= {"clip_score": self.clip_score, "r_precision": self.r_precision}
        if self.diversity.variances:
            served["diversity"] = self.diversity
        return scores + [
            self._score(name, metric.compute(), metric) for name, metric in served.items() if name not in leave_out
        ]

    def _score(self, name: str, estimate: Estimate, metric: ExactMetric) -> Score:
        error = float(estimate.stderr)
        return Score(metric=name, judge=self.judge.name, value=float(estimate.value), n=int(estimate.n),
                     stderr=None if np.isnan(error) else error,
                     higher_is_better=bool(metric.higher_is_better))  # fmt: skip


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
