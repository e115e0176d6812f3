"""Two sets of runs compared: what differs, how surely, and what may be said of the methods behind them.

Over seeds the question is about the methods: would other trainings come out the same way? Over captions, paired,
it is about these very networks: would other captions? The second answer never stands in for the first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError, unknown
from ..files import canonical_json
from . import tables, uncertainty
from .items import FILE, Items, load_items
from .tables import Run
from .uncertainty import ALPHA, CLAIM_SEEDS, Estimated

SEEDS_TEST = "exact permutation test over seeds"
SIGNS_TEST = "sign-flip permutation test over images"
MCNEMAR_TEST = "exact McNemar test"


@dataclass(frozen=True, kw_only=True)
class Side:
    """One side of a comparison: the runs of one method, which differ in the training seed alone."""

    name: str
    runs: tuple[Run, ...]
    """Ordered by seed."""


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One score of both sides, A - B; None stands where it takes more seeds to know."""

    score: str
    higher_is_better: bool
    a: float
    b: float
    """Means over seeds, or over images."""
    n: tuple[int, int]
    """Seeds of either side, or (captions, clusters of captions that are of one image)."""
    low: float | None = None
    high: float | None = None
    """95 % interval of the difference."""
    p: float | None = None
    adjusted: float | None = None
    """p, raised for the number of scores that are compared."""
    test: str | None = None
    detectable: float | None = None
    """The smallest true difference that a t-test of this score alone shows with 80 % power.

    The permutation tests that claims rest on, and the correction for the number of scores, take more.
    """

    @property
    def value(self) -> float:
        """Return A - B."""
        return self.a - self.b

    @property
    def better(self) -> str | None:
        """Return which side has the better number, `a` or `b`, claimed or not; None where they are equal."""
        if self.a == self.b:
            return None
        return "a" if (self.a > self.b) == self.higher_is_better else "b"

    @property
    def separated(self) -> bool:
        """Return whether the sides can be told apart by this score."""
        return self.adjusted is not None and self.adjusted <= ALPHA


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Everything that two sets of runs, scored by one protocol, say of each other."""

    a: Side
    b: Side
    over_seeds: tuple[Difference, ...]
    """About the methods: a score that all runs have."""
    over_captions: tuple[Difference, ...]
    """About these networks: scores of which each image's value was kept."""
    heedless: Mapping[str, tuple[str, ...]]
    """Scores by which the images of side `a` or `b` fit their captions no better than those of other images."""
    untaught: Mapping[str, tuple[str, ...]]
    """Scores in which side `a` or `b` is no better than its own networks before their training."""
    notes: tuple[str, ...]

    @property
    def claims(self) -> bool:
        """Return whether there are seeds enough to say anything about the methods."""
        return min(len(self.a.runs), len(self.b.runs)) >= CLAIM_SEEDS

    def document(self) -> dict[str, Any]:
        """Return the comparison as the JSON that scripts rely on."""
        sides = {name: {"method": side.name, "seeds": [run.seed for run in side.runs],
                        "runs": [run.name for run in side.runs]}
                 for name, side in (("a", self.a), ("b", self.b))}  # fmt: skip
        return {"schema": 1, **sides, "protocol": tables.protocol(self.a.runs[0]), "claims": self.claims,
                "over_seeds": {each.score: _document(each, "seeds") for each in self.over_seeds},
                "over_captions": {each.score: _document(each, "captions") for each in self.over_captions},
                "heedless": {side: list(names) for side, names in self.heedless.items()},
                "untaught": {side: list(names) for side, names in self.untaught.items()},
                "notes": list(self.notes)}  # fmt: skip


def _document(difference: Difference, over: str) -> dict[str, Any]:
    first, second = difference.n
    counts = {"seeds_a": first, "seeds_b": second} if over == "seeds" else {"captions": first, "images": second}
    return {"a": difference.a, "b": difference.b, "difference": difference.value, "better": difference.better,
            "higher_is_better": difference.higher_is_better, "low": difference.low, "high": difference.high,
            "p": difference.p, "p_adjusted": difference.adjusted, "test": difference.test,
            "separated": difference.separated, "detectable": difference.detectable, **counts}  # fmt: skip


def chosen_runs(text: str, runs: Path) -> list[Run]:
    """Return the run in folder `text`, or those in `runs` of the method `text`: `model` or `model/preset`, all seeds.

    Raises UserError for neither, and for a name that several methods, budgets or protocols go by.
    """
    # Not any folder: of the names of models some are those of folders that happen to lie there.
    if any((Path(text) / file).exists() for file in ("run.json", "record.json")):
        return tables.load_runs([Path(text)])
    folders = sorted(path.parent for path in runs.glob("*/record.json"))
    found = tables.load_runs(folders) if folders else []
    named = [run for run in found if text in (run.record.spec["model"], run.record.label)]
    if not found:
        raise UserError(f"{text}: no folder of a run, and {runs} holds no finished runs; `t2ibench run` makes one, "
                        "--runs names another folder")  # fmt: skip
    if not named:
        labels = {run.record.label for run in found}
        namesakes = {label for label in labels if label.partition("/")[0] == text.partition("/")[0]}
        raise unknown(f"run or model (finished ones in {runs})", text, namesakes or labels)
    rows = [(table, row) for table in tables.tables(named) for row in table.rows]
    if len(rows) > 1:
        each = "; ".join(f"{row.method}, budget {row.spec['budget']}, {table.title} ({row.runs[0].name})"
                         for table, row in rows)  # fmt: skip
        raise UserError(f"{text}: {len(rows)} sets of runs in {runs} go by that name, give a folder of one: {each}")
    return list(rows[0][1].runs)


def compare(runs_a: Sequence[Run], runs_b: Sequence[Run]) -> Comparison:
    """Compare two sets of runs, each of one method and its seeds, scored by one protocol.

    Over seeds: Welch's interval, an exact permutation test, its p adjusted for the number of scores. Over captions:
    the differences of per-image values, averaged over each side's seeds, clustered by image; Holm over the scores.
    Raises UserError when protocols differ, naming the field, or a side holds several methods, or sides share a run.
    """
    _check_protocols([*runs_a, *runs_b])
    shared = {canonical_json(run.record.spec) for run in runs_a} & {canonical_json(run.record.spec) for run in runs_b}
    if shared:
        raise UserError(f"{runs_a[0].folder}: the same run stands on both sides; give two different ones")
    a, b = _sides(_one_method(runs_a), _one_method(runs_b))
    over_seeds, notes = _over_seeds(a, b)
    over_captions, more = _over_captions(a, b)
    if not over_seeds and not over_captions:
        raise UserError(f"{runs_a[0].folder} and {runs_b[0].folder}: have no score in common; score them again")
    return Comparison(a=a, b=b, over_seeds=over_seeds, over_captions=over_captions,
                      heedless={"a": _no_better(a, "shuffled"), "b": _no_better(b, "shuffled")},
                      untaught={"a": _no_better(a, "untrained"), "b": _no_better(b, "untrained")},
                      notes=(*notes, *more))  # fmt: skip


def _check_protocols(runs: Sequence[Run]) -> None:
    first = _flat(tables.protocol(runs[0]))
    for run in runs[1:]:
        other = _flat(tables.protocol(run))
        for field in sorted(first.keys() | other.keys()):
            if first.get(field) != other.get(field):
                raise UserError(f"{run.folder}: scored by another protocol, {field} is {_shown(other.get(field))} and "
                                f"{_shown(first.get(field))} in {runs[0].folder}; `t2ibench score` with the same "
                                "options for both makes numbers that compare")


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flat(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return flat


def _shown(value: Any) -> str:
    return "not given" if value is None else tables.typed(value)


def _one_method(runs: Sequence[Run]) -> tuple[Run, ...]:
    """Return the runs of one side by seed, copies dropped; raise UserError unless the seed alone differs."""
    made = tables.tables(runs)
    rows = [row for table in made for row in table.rows]
    if len(rows) != 1:
        names = "; ".join(f"{row.method}, budget {row.spec['budget']}" for row in rows)
        raise UserError(f"{runs[0].folder}: one side of a comparison is one method at one budget, got {names}")
    return rows[0].runs


def _sides(runs_a: tuple[Run, ...], runs_b: tuple[Run, ...]) -> tuple[Side, Side]:
    """Return both sides under names that differ: by setting, else by budget, else by seed."""
    firsts = [runs_a[0], runs_b[0]]
    names = tables.method_names([run.record for run in firsts])
    for differ in ("budget", "seed"):
        if names[0] == names[1]:
            own = [f"{name}, {differ} {run.record.spec[differ]}" for name, run in zip(names, firsts, strict=True)]
            names = own if own[0] != own[1] else names
    return Side(name=names[0], runs=runs_a), Side(name=names[1], runs=runs_b)


def _over_seeds(a: Side, b: Side) -> tuple[tuple[Difference, ...], list[str]]:
    """Return what differs over seeds, for each score that all runs have for as many images, and what was left out."""
    found = [{(score.name, score.n): score for score in run.record.scores} for run in (*a.runs, *b.runs)]
    everywhere = [key for key in found[0] if all(key in scores for scores in found)]
    everywhere.sort(key=lambda key: tables.column_order(key[0]))
    partial = sorted({name for scores in found for name, _ in scores} - {name for name, _ in everywhere})
    notes = [f"Not compared, as not every run has it for as many images: {', '.join(partial)}."] if partial else []
    sides = [np.array([[scores[key].value for scores in part] for key in everywhere])
             for part in (found[: len(a.runs)], found[len(a.runs) :])]  # fmt: skip
    differences = [
        Difference(score=name, higher_is_better=found[0][name, n].higher_is_better, n=(len(a.runs), len(b.runs)),
                   a=float(mine.mean()), b=float(theirs.mean()))
        for (name, n), mine, theirs in zip(everywhere, *sides, strict=True)]  # fmt: skip
    if differences and min(len(a.runs), len(b.runs)) > 1:
        differences = _tested_over_seeds(differences, sides[0], sides[1])
    return tuple(differences), notes


def _no_better(side: Side, control: str) -> tuple[str, ...]:
    """Return the scores by which a side's images are no better than those of a control of its own."""
    found = []
    controls = [score for run in side.runs for score in run.record.controls.get(control, ())]
    for name in sorted({score.name for score in controls}, key=tables.column_order):
        own = [score for run in side.runs for score in run.record.scores if score.name == name]
        beside = [score for score in controls if score.name == name]
        if len(own) != len(side.runs) or len(beside) != len(side.runs):
            continue
        gain = np.mean([score.value for score in own]) - np.mean([score.value for score in beside])
        error = np.sqrt(sum((score.stderr or 0) ** 2 for score in own + beside)) / len(own)
        if gain * (1 if own[0].higher_is_better else -1) <= 2 * error:
            found.append(name)
    return tuple(found)


def _tested_over_seeds(differences: list[Difference], a: NDArray[np.float64],
                       b: NDArray[np.float64]) -> list[Difference]:  # fmt: skip
    """Return the differences of [K, n] and [K, m] with their intervals, and with their tests if seeds suffice."""
    intervals = uncertainty.difference_over_seeds(a, b)
    spread = [_with_interval(each, Estimated(*(part[k] for part in intervals))) for k, each in enumerate(differences)]
    if min(a.shape[1], b.shape[1]) < CLAIM_SEEDS:
        return spread
    p, adjusted = uncertainty.seeds_p(a, b), uncertainty.joint_seeds_p(a, b)
    return [replace(each, p=float(p[k]), adjusted=float(adjusted[k]), test=SEEDS_TEST) for k, each in enumerate(spread)]


def _over_captions(a: Side, b: Side) -> tuple[tuple[Difference, ...], list[str]]:
    """Return the paired differences of per-image values, and why there are none."""
    lacking = [run.name for run in (*a.runs, *b.runs) if not (run.folder / FILE).exists()]
    if lacking:
        return (), [f"No paired comparison: no values of single images were kept of {', '.join(lacking)}; "
                    "`t2ibench score` keeps them."]
    mine, theirs = ([load_items(run.folder / FILE) for run in side.runs] for side in (a, b))
    first = mine[0]
    if any((items.caption_ids, items.image_ids) != (first.caption_ids, first.image_ids) for items in mine + theirs):
        return (), ["No paired comparison: the runs drew different captions."]
    names = [name for name in first.values if all(name in items.values for items in mine + theirs)]
    directions = {score.name: score.higher_is_better for score in a.runs[0].record.scores}
    names = sorted((name for name in names if name in directions), key=tables.column_order)
    made = [each for name in names if (each := _paired(name, directions[name], mine, theirs)) is not None]
    adjusted = uncertainty.holm([each.p for each in made if each.p is not None])
    return tuple(replace(each, adjusted=float(p)) for each, p in zip(made, adjusted, strict=True)), []


def _paired(name: str, higher_is_better: bool, mine: Sequence[Items], theirs: Sequence[Items]) -> Difference | None:
    """Return how one score's values differ image by image, or None where fewer than two images count."""
    means = [np.mean([items.values[name] for items in side], axis=0) for side in (mine, theirs)]
    counted = np.isfinite(means[0]) & np.isfinite(means[1])
    a, b = (mean[counted] for mean in means)
    clusters = [name for name, counts in zip(mine[0].image_ids, counted, strict=True) if counts]
    if len(set(clusters)) < 2:
        return None
    found: Estimated = uncertainty.clustered_mean(a - b, clusters)
    p, test = _paired_p(a, b, clusters)
    difference = Difference(score=name, higher_is_better=higher_is_better, a=float(a.mean()), b=float(b.mean()),
                            n=(len(a), len(set(clusters))), p=p, test=test)  # fmt: skip
    return _with_interval(difference, found)


def _with_interval(difference: Difference, found: Estimated) -> Difference:
    """Return the difference with its interval; without, where no two seeds or images differed, which proves nothing."""
    if not found.stderr:
        return difference
    return replace(difference, low=float(found.low), high=float(found.high),
                   detectable=uncertainty.detectable(float(found.stderr), float(found.dof)))  # fmt: skip


def _paired_p(a: NDArray[np.float64], b: NDArray[np.float64], clusters: Sequence[str]) -> tuple[float, str]:
    answers = bool(np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all())
    if answers and len(set(clusters)) == len(clusters):
        return float(uncertainty.mcnemar_p((a > b).sum(), (b > a).sum())), MCNEMAR_TEST
    return float(uncertainty.sign_flip_p(uncertainty.cluster_sums(a - b, clusters))), SIGNS_TEST
