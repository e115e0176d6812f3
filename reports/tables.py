"""Comparison tables: a row is a method, its replicates are training seeds, and protocols never mix."""

import json
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import UserError
from ..files import canonical_json
from . import records
from .records import Record, Score

PROTOCOL = ("dataset", "image_size", "data", "evaluation")
"""What two runs must share to stand in one table; `data` holds the digests, so equal names are not enough."""

METRICS = ("fid", "is", "clip_score", "r_precision", "diversity")
"""The order of the columns; metrics unknown here come after them."""


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


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One score of one method: a value a run, in the order of the row's runs; None where a run lacks it."""

    values: tuple[float | None, ...]
    stderr: float | None
    """The standard error of the only value; None where there are several, or it has none."""
    higher_is_better: bool

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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one budget: its runs differ in the training seed alone."""

    method: str
    runs: tuple[Run, ...]
    """Ordered by seed."""
    cells: Mapping[str, Cell]

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
        rates = [run.record.sample_images_per_second for run in self.runs]
        return {
            "budget": self.spec["budget"],
            "seeds": len(self.runs),
            "generator_parameters": sum(generators) if generators else None,
            "parameters": sum(networks.values()),
            "training_images": statistics.mean(run.images for run in self.runs),
            "training_minutes": statistics.mean(run.minutes for run in self.runs),
            "sample_images_per_second": statistics.mean(rates),
        }


@dataclass(frozen=True, kw_only=True)
class Table:
    """The methods that were scored under one protocol."""

    protocol: Mapping[str, Any]
    columns: tuple[str, ...]
    """The keys of the scores that any row has, in the order of the columns."""
    rows: tuple[Row, ...]
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
        groups[canonical_json(_protocol(run))].append(run)
    made = [_table(group) for group in groups.values()]
    return sorted(made, key=lambda table: [str(table.protocol["dataset"]), int(table.protocol["image_size"]),
                                           canonical_json(table.protocol)])


def _protocol(run: Run) -> dict[str, Any]:
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
    columns = sorted(set(keys.values()), key=_column_order)
    names = _names([group[0].record for group in methods.values()])
    rows = [_row(name, group, keys, columns) for name, group in zip(names, methods.values(), strict=True)]
    rows.sort(key=lambda row: (row.method, int(row.spec["budget"])))
    return Table(protocol=_protocol(kept[0]), columns=tuple(columns), rows=tuple(rows), repeats=repeats)


def _method(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return all of a specification that makes the method: not its seed, nor how it is evaluated."""
    return {field: value for field, value in spec.items() if field != "seed" and field not in PROTOCOL}


def _names(found: Sequence[Record]) -> list[str]:
    """Return each method's name: model/preset, and the settings in which it differs from its namesakes."""
    settings = [_settings(record.spec) for record in found]
    names = []
    for record, own in zip(found, settings, strict=True):
        namesakes = [other for peer, other in zip(found, settings, strict=True) if peer.label == record.label]
        varying = sorted(key for key in {key for other in namesakes for key in other}
                         if any(other.get(key) != own.get(key) for other in namesakes))
        differences = ", ".join(f"{key}={typed(own.get(key))}" for key in varying)
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


def _column_order(key: str) -> tuple[int, str]:
    metric = key.split("@")[0]
    return (METRICS.index(metric) if metric in METRICS else len(METRICS), key)


def _row(method: str, runs: Sequence[Run], keys: Mapping[tuple[str, int], str],
         columns: Sequence[str]) -> Row:
    cells = {}
    for key in columns:
        scores = [next((score for score in run.record.scores if keys[score.name, score.n] == key), None)
                  for run in runs]
        if any(score is not None for score in scores):
            cells[key] = _cell(scores)
    return Row(method=method, runs=tuple(runs), cells=cells)


def _cell(scores: Sequence[Score | None]) -> Cell:
    present = [score for score in scores if score is not None]
    return Cell(values=tuple(None if score is None else score.value for score in scores),
                stderr=present[0].stderr if len(present) == 1 else None,
                higher_is_better=present[0].higher_is_better)


def csv(found: Sequence[Table]) -> str:
    """Return all tables as one CSV: a line a method, its protocol in the first columns, numbers unrounded.

    A score fills three columns: its mean, `... sd` over seeds, and `... seeds` with the number of values.
    """
    lines = []
    for table in found:
        for row in table.rows:
            line = {**_flat_protocol(table), "method": row.method, "seed_list": " ".join(map(str, row.seeds)),
                    "runs": " ".join(run.name for run in row.runs), **row.facts}
            for key, cell in row.cells.items():
                line |= {key: cell.mean, f"{key} sd": cell.sd, f"{key} seeds": len(cell.present)}
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
    scores = {key: {"mean": cell.mean, "sd": cell.sd, "stderr": cell.stderr, "values": list(cell.values),
                    "higher_is_better": cell.higher_is_better} for key, cell in row.cells.items()}
    return {"method": row.method, "model": row.spec["model"], "preset": row.spec["preset"],
            **{name: value for name, value in row.facts.items() if name != "seeds"},
            "seeds": row.seeds, "runs": [run.name for run in row.runs], "scores": scores}
