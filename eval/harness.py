"""The harness: every judge looks once at the images, every reader reads them, and controls stand beside the scores."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..reports.records import Score
from . import panel
from .diversity import collapse_note
from .judges import Cautions, Judge, Reader, ReportsAccuracy
from .metric import mean_of, on_cpu
from .neighbours import copied
from .prompts import first_places
from .reference import BATCH, Progress, Reference, Seen, blocks_of, see

FLOOR, SHUFFLED, UNTRAINED = "real", "shuffled", "untrained"
"""The controls: real images in place of drawn ones, of training for likeness, and the ones compared with for their
captions; each image with the caption of another; images of the same network before it was trained."""

Known = Callable[[Judge], Reference]
"""Gives the real images of one split as a judge sees them."""


def unseen(what: str, done: int, total: int) -> None:
    """Show no progress."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """What is to be scored: images uint8 [N, 3, H, W], one a caption."""

    images: torch.Tensor
    captions: Sequence[str]
    image_ids: Sequence[str]
    """Of the real image that each caption was taken from; errors are clustered by it."""
    references: Sequence[Sequence[str]]
    """All captions of that image, for readers that compare captions."""
    repeated: torch.Tensor | None = None
    """Images of `repeated_prompts`, for the diversity within a caption."""
    untrained: Callable[[], torch.Tensor] | None = None
    """Draws the same captions with the network before its training."""

    def __post_init__(self) -> None:
        """Raise UserError when the numbers of images and captions differ."""
        if not len(self.images) == len(self.captions) == len(self.image_ids) == len(self.references):
            raise UserError(
                f"{len(self.images)} images and {len(self.captions)} captions came; expected as many of each"
            )


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """Scores, controls, what single images scored, and notes on what could not be had."""

    scores: tuple[Score, ...]
    controls: Mapping[str, tuple[Score, ...]]
    """The same scores of `FLOOR`, `SHUFFLED` and `UNTRAINED`, where they could be made."""
    values: Mapping[str, NDArray[np.float64]]
    """[N] by `metric@judge`, for scores that are means over images; NaN where an image does not count."""
    nearest: tuple[str, ...]
    """Ids of the training images that the first judge finds nearest to the drawn ones; empty where it had none."""
    notes: tuple[str, ...]


@dataclass(kw_only=True)
class _Findings:
    """What accumulates while judges and readers go over the images."""

    scores: list[Score] = field(default_factory=list)
    controls: dict[str, list[Score]] = field(default_factory=lambda: {FLOOR: [], SHUFFLED: [], UNTRAINED: []})
    values: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    nearest: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


def evaluate(
    drawn: Drawn, judges: Sequence[Judge | Reader], real: Known | None = None, train: Known | None = None,
    progress: Progress = unseen,
) -> Evaluated:  # fmt: skip
    """Score drawn images, and beside them the controls that can be had.

    `real` gives the real images that a judge compares with; without, only what needs none is scored. Those of `train`
    are scored in place of drawn ones, the floor, and drawn ones are searched for copies of them.
    """
    found = _Findings()
    looking = [judge for judge in judges if not isinstance(judge, Reader)]
    untrained = drawn.untrained() if drawn.untrained and looking else None
    for judge in judges:
        if isinstance(judge, Reader):
            _read(judge, drawn, found)
        else:
            others = None if real is None else real(judge)
            _judge(judge, drawn, untrained, others, train, found, progress)
    notes = [accuracy_note(judge) for judge in looking if isinstance(judge, ReportsAccuracy) and judge.held_out]
    notes += [judge.caveat for judge in judges if isinstance(judge, Cautions)]
    notes += found.notes
    notes += filter(None, (collapse_note(one.name, one.value) for one in found.scores if one.metric == "diversity"))
    return Evaluated(scores=tuple(found.scores), values=found.values, nearest=found.nearest, notes=tuple(notes),
                     controls={name: tuple(scores) for name, scores in found.controls.items() if scores})  # fmt: skip


def _judge(
    judge: Judge, drawn: Drawn, untrained: torch.Tensor | None, real: Reference | None, train: Known | None,
    found: _Findings, progress: Progress,
) -> None:  # fmt: skip
    total = len(drawn.images)
    seen = see(judge, blocks_of(drawn.images, drawn.captions, drawn.image_ids),
               lambda done: progress(f"look at the images ({judge.name})", done, total))  # fmt: skip
    missing = panel.left_out(seen, real)
    found.notes += [f"{metric}@{judge.name}: left out, {why}" for metric, why in missing.items()]
    scores, values = _scores(judge.name, seen, real)
    found.scores += scores
    found.values |= values
    found.controls[SHUFFLED] += _shuffled(judge.name, seen)
    if real is not None and drawn.repeated is not None:
        features = torch.cat([judge.look(some).features for some in torch.split(drawn.repeated, BATCH)])
        found.scores.append(panel.score("diversity", judge.name, panel.diversity(features, real)))
    if real is not None:
        # A judge taught on captions of training images knows them by heart: how well real images fit theirs is taken
        # where the drawn ones are asked too.
        found.controls[FLOOR] += _aligned(judge.name, real.seen.first(total))[0]
        if train is None:
            found.notes.append(f"{judge.name}: no training images are compared with, so it is not known what real "
                               "images score in FID and its kin, nor what is copied")  # fmt: skip
        else:
            _beside_training(judge, seen, real, train(judge), missing, found)
    if untrained is not None:
        before = see(judge, blocks_of(untrained, drawn.captions, drawn.image_ids))
        control = _scores(judge.name, before, real)[0]
        found.controls[UNTRAINED] += control
        found.notes += untrained_notes(scores, control)


def _beside_training(
    judge: Judge, seen: Seen, real: Reference, known: Reference, missing: Mapping[str, str], found: _Findings
) -> None:
    """Add what training images score in place of drawn ones, and how many drawn ones are copies of them."""
    found.controls[FLOOR] += _likeness(judge.name, known.seen.first(len(seen)), real)
    if "copied" in missing:
        return
    near = copied(seen.look.features, known.seen.look.features, real.seen.look.features)
    found.scores.append(panel.score("copied", judge.name, near.share))
    found.nearest = found.nearest or tuple(known.seen.image_ids[at] for at in near.nearest)
    if len(known.seen) < known.about["images"]:
        found.notes.append(f"copied@{judge.name}: searched among {len(known.seen):,} of "
                           f"{known.about['images']:,} training images")  # fmt: skip


def _scores(judge: str, seen: Seen, real: Reference | None) -> tuple[list[Score], Mapping[str, NDArray[np.float64]]]:
    """Return all scores of what was seen, and those that are means over images also image by image."""
    scores, values = _aligned(judge, seen)
    return [*_likeness(judge, seen, real), *scores], values


@on_cpu
def _likeness(judge: str, seen: Seen, real: Reference | None) -> list[Score]:
    return [panel.score(name, judge, estimate) for name, estimate in panel.likeness(seen, real)]


@on_cpu
def _aligned(judge: str, seen: Seen) -> tuple[list[Score], Mapping[str, NDArray[np.float64]]]:
    values = panel.alignment(seen)
    scores = [panel.score(name, judge, panel.aligned(name, own, seen.image_ids)) for name, own in values.items()]
    return scores, {f"{name}@{judge}": own for name, own in values.items()}


def _shuffled(judge: str, seen: Seen) -> list[Score]:
    """Return how well each image fits the caption of another."""
    places = others_places(seen.image_ids)
    if seen.caption_embeddings is None or places is None:
        return []
    moved = dataclasses.replace(seen, captions=tuple(seen.captions[at] for at in places),
                                caption_embeddings=seen.caption_embeddings[places])  # fmt: skip
    return _aligned(judge, moved)[0]


def _read(reader: Reader, drawn: Drawn, found: _Findings) -> None:
    readings = reader.read(drawn.images)
    scores, values = _compared(reader, readings, drawn)
    found.scores += scores
    found.values |= values
    unread = int(np.isnan(np.stack(list(values.values()))).all(axis=0).sum()) if values else len(drawn.captions)
    if unread:
        found.notes.append(f"{reader.name}: {unread:,} of {len(drawn.captions):,} captions are left out, as they ask "
                           "nothing that it knows how to read")  # fmt: skip
    if places := others_places(drawn.image_ids):
        moved = dataclasses.replace(drawn, captions=[drawn.captions[at] for at in places],
                                    references=[drawn.references[at] for at in places])  # fmt: skip
        found.controls[SHUFFLED] += _compared(reader, readings, moved)[0]
    found.controls[FLOOR] += [
        dataclasses.replace(score, value=reader.held_out[score.metric], stderr=None, n=reader.tried_on)
        for score in scores if score.metric in reader.held_out
    ]  # fmt: skip


def others_places(image_ids: Sequence[str]) -> list[int] | None:
    """Return for each place one of another image, some half of the images away; None where there is no other."""
    firsts = first_places(image_ids)
    if len(firsts) < 2:
        return None
    number = {image_ids[at]: turn for turn, at in enumerate(firsts)}
    return [firsts[(number[name] + len(firsts) // 2) % len(firsts)] for name in image_ids]


def _compared(
    reader: Reader, readings: Any, drawn: Drawn
) -> tuple[list[Score], Mapping[str, NDArray[np.float64]]]:
    """Return how what was read compares with the captions, in all and image by image."""
    values, whole = reader.compare(readings, drawn.captions, drawn.references)
    asked = {name: own for name, own in values.items() if not np.isnan(own).all()}
    scores = [panel.score(name, reader.name, mean_of(own, drawn.image_ids)) for name, own in asked.items()]
    scores += [panel.score(name, reader.name, estimate) for name, estimate in whole.items()]
    return scores, {f"{name}@{reader.name}": own for name, own in asked.items()}


def untrained_notes(scores: Sequence[Score], untrained: Sequence[Score]) -> list[str]:
    """Return a line on the scores in which the network was better before its training, if any.

    Where errors are known it is so by more than two of the difference.
    """
    before = {score.name: score for score in untrained}
    found = []
    for score in scores:
        control = before.get(score.name, score)
        gain = (score.value - control.value) * (1 if score.higher_is_better else -1)
        if gain < -2 * math.hypot(score.stderr or 0, control.stderr or 0):
            found.append(score.name)
    return [f"the network scored better before its training in {', '.join(found)}"] if found else []


def accuracy_note(judge: ReportsAccuracy) -> str:
    """Return a line that says how often the judge is right on held-out real images."""
    shares = ", ".join(f"{asked.replace('_', ' ')} {share:.1%}" for asked, share in judge.held_out.items())
    return f"judge {getattr(judge, 'name', '')}: right on held-out real images in {shares}"
