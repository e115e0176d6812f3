"""The record: what a finished run leaves behind, with a schema version, read and written only here."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ..errors import UserError
from ..files import canonical_json, read_json, write_json

SCHEMA = 2

SPEC_FIELDS = {"model": str, "preset": str, "config": dict, "dataset": str, "image_size": int, "data": dict,
               "seed": int, "budget": int, "evaluation": dict}
"""What every specification has, whatever else is in it."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """One number of one metric as one judge sees it."""

    metric: str
    judge: str
    value: float
    stderr: float | None
    """Standard error over the images or captions scored; None where no sound one is known (FID)."""
    n: int
    """Number of generated images behind it."""
    higher_is_better: bool

    @property
    def name(self) -> str:
        """Return `metric@judge`, the only name under which a score is shown."""
        return f"{self.metric}@{self.judge}"


@dataclass(frozen=True, kw_only=True)
class Probe:
    """What a model can do of one category of the capability probes."""

    category: str
    value: float | None
    """Share of prompts drawn as asked; None where the data cannot answer, and `about` says why."""
    stderr: float | None
    n: int
    """Prompts asked."""
    real: float | None
    """The same share of real images: what the reader can find at most."""
    about: str
    """What is asked, and of whom; or why nothing is."""


@dataclass(frozen=True, kw_only=True)
class GalleryItem:
    """One drawn image kept for the page: the same captions and seeds for every run on a data set."""

    caption: str
    caption_id: str
    seed: int
    file: str
    """PNG, relative to the run's folder."""


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """What one stage of the training took."""

    stage: str
    images: int
    steps: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Record:
    """Everything a reader needs of a run, and enough to make it again."""

    spec: dict[str, Any]
    """The run's specification as resolved: `SPEC_FIELDS`, and whatever else decides the result."""
    passed: dict[str, Any]
    """What the user typed."""
    scores: tuple[Score, ...]
    stages: tuple[StageCost, ...]
    parameters: dict[str, int]
    sample_images_per_second: float
    gallery: tuple[GalleryItem, ...]
    environment: dict[str, Any]
    """Versions, device, threads, code revision."""
    controls: dict[str, tuple[Score, ...]] = field(default_factory=dict)
    """The same scores of what no model need surpass, and of what each should: real images, shuffled captions, the
    untrained network; of real images made of a model's codes also how near they come."""
    cost: dict[str, float] = field(default_factory=dict)
    """What drawing takes, by name with its unit; what the machine does not tell is left out."""
    probes: tuple[Probe, ...] = ()
    notes: tuple[str, ...] = ()
    """How accurate the judges are, and what was left out of the scores and why."""
    schema: int = SCHEMA

    @property
    def label(self) -> str:
        """Return the short name of the method: model and preset."""
        return f"{self.spec['model']}/{self.spec['preset']}"

    def score(self, name: str) -> Score | None:
        """Return the score called `metric@judge`, or None."""
        return next((score for score in self.scores if score.name == name), None)


_Part = TypeVar("_Part")


def scores_json(scores: tuple[Score, ...]) -> dict[str, dict[str, Any]]:
    """Return scores as the JSON that scripts rely on: name -> value, stderr, n, higher_is_better."""
    return {
        score.name: {"value": score.value, "stderr": score.stderr, "n": score.n,
                     "higher_is_better": score.higher_is_better}
        for score in scores
    }


def save(folder: Path, record: Record) -> None:
    """Write the record as `record.json` in the run's folder; it is the last file a run writes."""
    document = dataclasses.asdict(record)
    document["scores"] = scores_json(record.scores)
    document["controls"] = {name: scores_json(scores) for name, scores in record.controls.items()}
    write_json(folder / "record.json", document)


def load(folder: Path) -> Record:
    """Return the record of a run's folder; raise UserError when there is none or it is not of this schema."""
    path = folder / "record.json"
    if not path.exists():
        raise UserError(f"{folder}: no record.json there; a run's folder has one once the run is finished")
    document = read_json(path)
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        found = document.get("schema") if isinstance(document, Mapping) else None
        wanted = f"this version reads {SCHEMA}; `t2ibench score` writes it anew"
        raise UserError(f"{path}: written with record schema {found!r}, {wanted}")
    try:
        return _from_json(document)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: not a complete record ({type(error).__name__}: {error})") from error


def _from_json(document: Mapping[str, Any]) -> Record:
    canonical_json(document).encode()  # NaN or half a character: no report could be written of it
    fields = dict(document)
    fields["scores"] = _scores(document["scores"])
    fields["controls"] = {name: _scores(scores) for name, scores in document["controls"].items()}
    fields["probes"] = tuple(_checked(Probe(**probe)) for probe in document["probes"])
    fields["stages"] = tuple(_checked(StageCost(**stage)) for stage in document["stages"])
    fields["notes"] = tuple(document["notes"])
    fields["gallery"] = tuple(_checked(GalleryItem(**item)) for item in document["gallery"])
    record = _checked(Record(**fields))
    for name, kind in SPEC_FIELDS.items():
        if not isinstance(record.spec[name], kind):
            raise TypeError(f"spec.{name} is {record.spec[name]!r}, not {kind.__name__}")
    return record


def _scores(document: Mapping[str, Any]) -> tuple[Score, ...]:
    named = [(*name.split("@"), entry) for name, entry in document.items()]
    return tuple(_checked(Score(metric=metric, judge=judge, **entry)) for metric, judge, entry in named)


def _checked(made: _Part) -> _Part:
    """Return `made` if each of its fields is of the type it declares; raise TypeError for another."""
    for name, hint in get_type_hints(type(made)).items():
        if not _fits(getattr(made, name), hint):
            raise TypeError(f"{name} is {getattr(made, name)!r}, not {getattr(hint, '__name__', hint)}")
    return made


def _fits(value: Any, hint: Any) -> bool:
    if hint is Any:
        return True
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(inner, get_args(hint)[1]) for inner in value.values())
    if hint in (float, float | None) and isinstance(value, int):
        return not isinstance(value, bool)
    return isinstance(value, hint if isinstance(hint, UnionType) else get_origin(hint) or hint)


VALIDATION = "_validation"
"""Ends the names of losses on images that are not trained on: from their lowest point on a model over-fits."""


@dataclass(frozen=True, kw_only=True)
class LogRow:
    """One line of `train.jsonl`: losses are means over the steps since the line before."""

    stage: str
    step: int
    images: int
    """Training images seen so far, over all stages."""
    seconds: float
    losses: dict[str, float]


def read_log(folder: Path) -> list[LogRow]:
    """Return the training log of a run's folder; a line cut off by a crash ends it."""
    path = folder / "train.jsonl"
    text = path.read_bytes().decode(errors="replace") if path.exists() else ""
    rows = []
    for line in text.splitlines():
        try:
            rows.append(_checked(LogRow(**json.loads(line))))
        except (ValueError, TypeError):
            break
    return rows


def overfitting_notes(rows: Sequence[LogRow]) -> list[str]:
    """Return a line for each loss on unseen images that ends more than a hundredth above its lowest value."""
    losses: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for row in rows:
        for name, value in row.losses.items():
            if name.endswith(VALIDATION):
                losses.setdefault((row.stage, name), []).append((value, row.images))
    notes = []
    for (stage, name), values in losses.items():
        (lowest, images), (last, _) = min(values), values[-1]
        if last - lowest > 0.01 * abs(lowest):
            notes.append(f"over-fitting: {name} of stage {stage} was lowest, {lowest:.4g}, after {images:,} images "
                         f"of all stages and is {last:.4g} at the end")  # fmt: skip
    return notes
