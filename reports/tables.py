"""Comparison tables: a row is a method, its replicates are training seeds, and protocols never mix."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import UserError
from ..files import canonical_json
from . import records, uncertainty
from .records import Probe, Record, Score

PROTOCOL = ("dataset", "image_size", "data", "evaluation")
"""What two runs must share to stand in one table; `data` holds the digests, so equal names are not enough."""

METRICS: Mapping[str, str] = {
    "fid": "FID", "fid_infinity": "FID∞", "kid": "KID", "is": "IS", "precision": "Precision", "recall": "Recall",
    "density": "Density", "coverage": "Coverage", "cmmd": "CMMD", "clip_score": "CLIP score",
    "r_precision": "R-precision", "diversity": "Diversity", "copied": "Copied", "all": "All right", "object": "Object",
    "colour": "Colour", "size": "Size", "texture": "Texture", "count": "Count", "relation": "Relation",
    "binding": "Binding", "background": "Background", "bleu_4": "BLEU-4", "cider": "CIDEr",
    "psnr": "PSNR", "ssim": "SSIM", "codes_used": "Codes used", "perplexity": "Perplexity"}  # fmt: skip
"""What people call each metric, in the order of the columns; metrics unknown here come after them."""

READ = frozenset({"all", "object", "colour", "size", "texture", "count", "relation", "binding", "background"})
"""What a reader of scenes says of each image, from 0 to 1."""

OF_READERS = READ | {"bleu_4", "cider"}
"""What readers say; a control of another number of images, as their own error is, shares the column."""

COSTS = ("latency_p50_ms", "latency_p95_ms", "peak_memory_mib", "joules_per_image")
"""What a record may say of drawing single images."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run's folder and the record in it."""

    folder: Path
    record: Record

    @property
    def name(self) -> str:
        """Return the folder's name, by which tables and the page call the run."""
        return self.folder.name

    @property
    def seed(self) -> int:
        """Return the training seed."""
        return int(self.record.spec["seed"])

    @property
    def images(self) -> int:
        """Return the number of training images that all stages together saw."""
        return sum(stage.images for stage in self.record.stages)

    @property
    def minutes(self) -> float:
        """Return the minutes that all stages together trained."""
        return sum(stage.seconds for stage in self.record.stages) / 60

    @property
    def images_per_second(self) -> float | None:
        """Return the training images a second, over all stages; None where no time was taken."""
        return self.images / (60 * self.minutes) if self.minutes else None


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One score of one method: a value a run, in the order of the row's runs; None where a run lacks it."""

    values: tuple[float | None, ...]
    stderr: float | None
    """The standard error of the only value; None where there are several, or it has none."""
    higher_is_better: bool
    groups: str | None = None
    """Letters: rows with one in common cannot be told apart by this score; None where nothing is claimed."""

    @property
    def present(self) -> list[float]:
        """Return the values that are there."""
        return [value for value in self.values if value is not None]

    @property
    def mean(self) -> float:
        """Return the mean over training seeds."""
        return float(statistics.mean(self.present))

    @property
    def sd(self) -> float | None:
        """Return the sample standard deviation over training seeds (n - 1), or None for a single one."""
        return float(statistics.stdev(self.present)) if len(self.present) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Return the 95 % interval of the mean over training seeds (Student's t), or None for a single one."""
        if len(self.present) < 2:
            return None
        found = uncertainty.mean_over_seeds(np.array(self.present))
        return float(found.low), float(found.high)


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One category of the capability probes, as the runs of one method answer it."""

    cell: Cell | None
    """Shares of prompts drawn as asked; None where nothing was asked, and `about` says why."""
    real: float | None
    """The share of real images that are as asked."""
    n: int
    """Prompts asked of each run."""
    about: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one budget: its runs differ in the training seed alone."""

    method: str
    runs: tuple[Run, ...]
    """Ordered by seed."""
    cells: Mapping[str, Cell]
    controls: Mapping[str, Mapping[str, Cell]]
    """By control, as the runs' records name them: its scores under the same keys as `cells`."""

    @property
    def spec(self) -> dict[str, Any]:
        """Return the specification of the first run; the others' differ in the seed."""
        return self.runs[0].record.spec

    @property
    def seeds(self) -> list[int]:
        """Return the training seeds, ascending."""
        return [run.seed for run in self.runs]

    @property
    def facts(self) -> dict[str, float | None]:
        """Return what the method is and costs: counts as they are, times and rates as means over seeds."""
        networks = self.runs[0].record.parameters
        generators = [count for name, count in networks.items() if name.endswith("generator")]
        return {
            "budget": self.spec["budget"],
            "seeds": len(self.runs),
            "generator_parameters": sum(generators) if generators else None,
            "parameters": sum(networks.values()),
            "training_images": statistics.mean(run.images for run in self.runs),
            "training_minutes": statistics.mean(run.minutes for run in self.runs),
            "sample_images_per_second": _mean(run.record.sample_images_per_second for run in self.runs),
            "training_images_per_second": _mean(run.images_per_second for run in self.runs),
            **{name: _mean(run.record.cost.get(name) for run in self.runs) for name in COSTS},
        }

    @property
    def probes(self) -> dict[str, Asked]:
        """Return the capability probes by category, in the order of the runs' records."""
        found = [{probe.category: probe for probe in run.record.probes} for run in self.runs]
        categories = dict.fromkeys(category for own in found for category in own)
        return {category: _asked([own.get(category) for own in found]) for category in categories}


def _mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are there, or None when none is."""
    present = [value for value in values if value is not None]
    return statistics.mean(present) if present else None


def _asked(probes: Sequence[Probe | None]) -> Asked:
    there = [probe for probe in probes if probe is not None]
    answered = [probe for probe in there if probe.value is not None]
    first = there[0]
    cell = Cell(values=tuple(None if probe is None else probe.value for probe in probes), higher_is_better=True,
                stderr=first.stderr if len(answered) == 1 else None)  # fmt: skip
    return Asked(cell=cell if answered else None, real=first.real, n=first.n, about=first.about)


@dataclass(frozen=True, kw_only=True)
class Table:
    """The methods that were scored under one protocol."""

    protocol: Mapping[str, Any]
    columns: tuple[str, ...]
    """The keys of the scores that any row has, in the order of the columns."""
    rows: tuple[Row, ...]
    real: Mapping[str, Cell]
    """Scores of real images in place of drawn ones: of the first run that has them, as they are equal for all."""
    repeats: tuple[str, ...]
    """Folders that hold a run which is already in the table: no replicates, so not counted."""

    @property
    def title(self) -> str:
        """Return the heading: data set and image size."""
        return f"{self.protocol['dataset']}, {self.protocol['image_size']} px"

    @property
    def runs(self) -> list[Run]:
        """Return the runs of all rows, in the rows' order."""
        return [run for row in self.rows for run in row.runs]


def load_runs(folders: Iterable[Path]) -> list[Run]:
    """Return the finished runs in `folders`, each once, in order of path; raise UserError on none."""
    paths = sorted({folder.resolve() for folder in folders})
    if not paths:
        raise UserError("no runs to report on: expected the folders of finished runs, got none")
    return [Run(folder=path, record=records.load(path)) for path in paths]


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return one table a protocol, whatever the order of `runs`; methods are ordered by name, then budget."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: (run.seed, run.name)):
        groups[canonical_json(protocol(run))].append(run)
    made = [_table(group) for group in groups.values()]
    return sorted(made, key=lambda table: [str(table.protocol["dataset"]), int(table.protocol["image_size"]),
                                           canonical_json(table.protocol)])


def protocol(run: Run) -> dict[str, Any]:
    """Return what a run must share with another to be compared with it: `PROTOCOL`."""
    return {field: run.record.spec[field] for field in PROTOCOL}


def _table(runs: Sequence[Run]) -> Table:
    first: dict[str, Run] = {}
    for run in runs:
        first.setdefault(canonical_json(run.record.spec), run)
    kept = list(first.values())
    repeats = tuple(run.name for run in runs if not any(run is other for other in kept))
    methods: dict[str, list[Run]] = defaultdict(list)
    for run in kept:
        methods[canonical_json(_method(run.record.spec))].append(run)
    keys = _score_keys(kept)
    columns = sorted(set(keys.values()), key=column_order)
    names = method_names([group[0].record for group in methods.values()])
    rows = [_row(name, group, keys) for name, group in zip(names, methods.values(), strict=True)]
    rows.sort(key=lambda row: (row.method, int(row.spec["budget"])))
    real = next((run.record.controls["real"] for run in kept if "real" in run.record.controls), ())
    return Table(protocol=protocol(kept[0]), columns=tuple(columns), rows=tuple(_grouped(rows, columns)),
                 real=_cells([real], keys), repeats=repeats)


def _grouped(rows: Sequence[Row], columns: Sequence[str]) -> list[Row]:
    """Return the rows with, for each score, the groups that cannot be told apart among the rows with seeds enough."""
    cells: list[dict[str, Cell]] = [dict(row.cells) for row in rows]
    for key in columns:
        claiming = [own for own in cells if key in own and len(own[key].present) >= uncertainty.CLAIM_SEEDS]
        found = uncertainty.groups([np.array(own[key].present) for own in claiming],
                                   higher_is_better=all(own[key].higher_is_better for own in claiming))
        if found is not None:
            for own, letters in zip(claiming, found, strict=True):
                own[key] = replace(own[key], groups=letters)
    return [replace(row, cells=own) for row, own in zip(rows, cells, strict=True)]


def _method(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of a specification that makes the method: not its seed, nor how it is evaluated."""
    return {field: value for field, value in spec.items() if field != "seed" and field not in PROTOCOL}


def method_names(found: Sequence[Record]) -> list[str]:
    """Return each method's name: model/preset, the settings asked for, and those in which it differs from namesakes."""
    settings = [_settings(record.spec) for record in found]
    names = []
    for record, own in zip(found, settings, strict=True):
        namesakes = [other for peer, other in zip(found, settings, strict=True) if peer.label == record.label]
        varying = {key for key in {key for other in namesakes for key in other}
                   if any(other.get(key) != own.get(key) for other in namesakes)}
        asked = {key for key in record.passed.get("settings", {}) if key in own and key not in PROTOCOL}
        differences = ", ".join(f"{key}={typed(own.get(key))}" for key in sorted(varying | asked))
        names.append(f"{record.label} ({differences})" if differences else record.label)
    return names


def _settings(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's settings, nested ones under dotted names; its config needs no prefix."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), inner)
        else:
            flat[prefix] = value

    for field, value in _method(spec).items():
        if field not in ("model", "preset", "budget"):
            walk("" if field == "config" else field, value)
    return flat


def typed(value: Any) -> str:
    """Return a setting's value as one types it: text bare, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _score_keys(runs: Sequence[Run]) -> dict[tuple[str, int], str]:
    """Return the column of each (score, sample size): the score's name, with the size where sizes differ.

    FID and IS are biased by the sample size, so two sizes never share a column.
    """
    sizes: dict[str, set[int]] = defaultdict(set)
    directions: dict[str, bool] = {}
    for run in runs:
        for score in run.record.scores:
            sizes[score.name].add(score.n)
            if directions.setdefault(score.name, score.higher_is_better) != score.higher_is_better:
                raise UserError(f"{run.folder}: says of {score.name} the opposite of what other runs say "
                                "is better; score it again")
    return {(name, n): name if len(found) == 1 else f"{name} n={n}"
            for name, found in sizes.items() for n in sorted(found)}


def _column_of(score: Score, keys: Mapping[tuple[str, int], str]) -> str:
    """Return a score's column; a control of another sample size than the runs has its own, but for what readers say."""
    own = [key for (name, _), key in keys.items() if name == score.name]
    if (score.name, score.n) not in keys and score.metric in OF_READERS and len(own) == 1:
        return own[0]
    return keys.get((score.name, score.n), f"{score.name} n={score.n}")


def column_order(key: str) -> tuple[int, str]:
    """Return the key by which scores are sorted: the metric's place, then the name."""
    metric = key.split("@")[0]
    return ([*METRICS].index(metric) if metric in METRICS else len(METRICS), key)


def _row(method: str, runs: Sequence[Run], keys: Mapping[tuple[str, int], str]) -> Row:
    controls = dict.fromkeys(name for run in runs for name in run.record.controls)
    return Row(method=method, runs=tuple(runs), cells=_cells([run.record.scores for run in runs], keys),
               controls={name: _cells([run.record.controls.get(name, ()) for run in runs], keys) for name in controls})


def _cells(found: Sequence[Sequence[Score]], keys: Mapping[tuple[str, int], str]) -> dict[str, Cell]:
    """Return by column what one or more runs scored."""
    keyed = [{_column_of(score, keys): score for score in scores} for scores in found]
    columns = sorted({key for own in keyed for key in own}, key=column_order)
    return {key: _cell([own.get(key) for own in keyed]) for key in columns}


def _cell(scores: Sequence[Score | None]) -> Cell:
    present = [score for score in scores if score is not None]
    return Cell(values=tuple(None if score is None else score.value for score in scores),
                stderr=present[0].stderr if len(present) == 1 else None,
                higher_is_better=present[0].higher_is_better)


def csv(found: Sequence[Table]) -> str:
    """Return all tables as one CSV: a line a method, its protocol in the first columns, numbers unrounded.

    A score fills four columns: its mean, `... sd` over seeds, `... stderr` of the only seed's value, and `... seeds`
    with the number of values; where methods can be told apart also `... groups`.
    """
    lines = []
    for table in found:
        for row in table.rows:
            line = {**_flat_protocol(table), "method": row.method, "seed_list": " ".join(map(str, row.seeds)),
                    "runs": " ".join(run.name for run in row.runs), **row.facts}
            for key, cell in row.cells.items():
                line |= {key: cell.mean, f"{key} sd": cell.sd, f"{key} stderr": cell.stderr,
                         f"{key} seeds": len(cell.present)}  # fmt: skip
                line |= {f"{key} groups": cell.groups} if cell.groups else {}
            lines.append(line)
    # As objects, counts stay whole beside empty places, and floats keep every digit.
    return pd.DataFrame(lines, dtype=object).to_csv(index=False, lineterminator="\n")


def _flat_protocol(table: Table) -> dict[str, str]:
    return {field: value if isinstance(value, str) else canonical_json(value)
            for field, value in table.protocol.items()}


def document(found: Sequence[Table]) -> dict[str, Any]:
    """Return the tables as the JSON that scripts rely on; `values` are in the order of `seeds` and `runs`."""
    return {"schema": 1, "tables": [
        {"protocol": dict(table.protocol), "repeats": list(table.repeats),
         "rows": [_row_document(row) for row in table.rows]} for table in found]}


def _row_document(row: Row) -> dict[str, Any]:
    scores = {key: {"mean": cell.mean, "sd": cell.sd, "stderr": cell.stderr, "interval": cell.interval,
                    "values": list(cell.values), "higher_is_better": cell.higher_is_better, "groups": cell.groups}
              for key, cell in row.cells.items()}
    return {"method": row.method, "model": row.spec["model"], "preset": row.spec["preset"],
            **{name: value for name, value in row.facts.items() if name != "seeds"},
            "seeds": row.seeds, "runs": [run.name for run in row.runs], "scores": scores,
            "controls": {name: {key: cell.mean for key, cell in cells.items()} for name, cells in row.controls.items()},
            "probes": {category: _probe_document(asked) for category, asked in row.probes.items()}}


def _probe_document(asked: Asked) -> dict[str, Any]:
    cell = asked.cell
    answer = {"mean": cell and cell.mean, "sd": cell and cell.sd, "stderr": cell and cell.stderr,
              "values": list(cell.values) if cell else []}  # fmt: skip
    return {**answer, "real": asked.real, "n": asked.n, "about": asked.about}
