"""A sweep: a TOML file of models, presets, data sets, seeds and settings, and every run it asks for."""

import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from ..reports.records import Record
from .plugins import find_model, find_preset
from .run import Request, default_evaluation, open_run, score_run, train_run
from .spec import Evaluation, parse_budget, resolve_config
from .training import Watch, silent

FIELDS = ("models", "presets", "datasets", "seeds", "budget", "precision", "root", "evaluation", "set", "model")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep."""

    request: Request
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run: its folder, or why it failed."""

    cell: Cell
    folder: Path | None = None
    record: Record | None = None
    error: str | None = None


def plan_sweep(path: Path, runs: Path) -> list[Cell]:
    """Return the runs that a sweep file asks for, in order; raise UserError for anything it should not say.

    Every list is a dimension of the grid; so is every list under `[set]` and `[model.NAME.set]`.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such sweep file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from error
    for name in document:
        if name not in FIELDS:
            raise UserError(f"{path}: {unknown('field', name, FIELDS)}")
    try:
        return list(_cells(document, runs))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _cells(document: Mapping[str, Any], runs: Path) -> Iterator[Cell]:
    models = _strings(document, "models")
    budget = parse_budget(document.get("budget", "200k"))
    root = Path(document["root"]) if "root" in document else None
    own = document.get("model", {})
    if foreign := set(own) - set(models):
        raise unknown("model under [model]", sorted(foreign)[0], models)
    dimensions = (models, _strings(document, "presets", ["tiny"]), _strings(document, "datasets", ["scenes"]))
    for model, preset, data in itertools.product(*dimensions):
        for settings in _grid(_settings(model, preset, document.get("set", {}), own.get(model, {}).get("set", {}))):
            for seed in _seeds(document):
                request = Request(model=model, preset=preset, data=data, root=root, seed=seed, budget=budget,
                                  settings=settings, precision=document.get("precision"), runs=runs)  # fmt: skip
                yield Cell(request=request, evaluation=_evaluation(document.get("evaluation", {}), data))


def _settings(model: str, preset: str, shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's settings: of the shared ones those it has a field for, and all of its own."""
    config = find_preset(find_model(model), preset)
    settings = {name: value for name, value in shared.items() if hasattr(config, name.split(".")[0])} | dict(own)
    for combination in _grid(settings):
        resolve_config(config, combination)
    return settings


def _grid(settings: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield every combination of the settings; a list is a choice."""
    choices = [value if isinstance(value, list) else [value] for value in settings.values()]
    for combination in itertools.product(*choices):
        yield dict(zip(settings, combination, strict=True))


def _strings(document: Mapping[str, Any], name: str, default: Sequence[str] = ()) -> list[str]:
    values = document.get(name, list(default))
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise UserError(f"{name} = {values!r}: expected a list of names")
    return values


def _seeds(document: Mapping[str, Any]) -> list[int]:
    seeds = document.get("seeds", [0])
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"seeds = {seeds!r}: expected a list of whole numbers")
    return seeds


def _evaluation(fields: Mapping[str, Any], data: str) -> Evaluation:
    default = default_evaluation(data)
    result: Evaluation = resolve_config(default, fields)
    return result


def run_sweep(
    cells: Sequence[Cell], watch: Watch = silent, begin: Callable[[int, Cell], None] = lambda number, cell: None
) -> list[Outcome]:
    """Run every cell, one after another; a user's mistake in one does not stop the others.

    `begin` hears the number of each cell before it starts.
    """
    outcomes = []
    for number, cell in enumerate(cells):
        begin(number, cell)
        try:
            opened = open_run(cell.request, watch)
            train_run(opened, watch)
            record = score_run(opened, cell.evaluation, watch)
            outcomes.append(Outcome(cell=cell, folder=opened.folder, record=record))
        except UserError as error:
            outcomes.append(Outcome(cell=cell, error=str(error)))
    return outcomes
