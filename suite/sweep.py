"""A sweep: a TOML file of models, presets, data sets, seeds and settings, and every run it asks for."""

import dataclasses
import itertools
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, unknown
from .plugins import find_model, find_preset
from .run import Request, run
from .spec import Evaluation, parse_budget, resolve_config
from .training import Watch, silent

FIELDS: Mapping[str, Any] = {
    "models": list, "presets": list, "datasets": list, "seeds": list, "budget": str | int, "precision": str,
    "root": str, "evaluation": dict, "set": dict, "model": dict,
}  # fmt: skip
"""The fields of a sweep file and their types."""
OWN_FIELDS: Mapping[str, Any] = {"presets": list, "budget": str | int, "set": dict}
"""Those of `[model.NAME]`, in place of the file's; `set` adds to it."""


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One run of a sweep."""

    request: Request
    evaluation: Evaluation


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one run: its folder and the notes of its record, or why it failed."""

    cell: Cell
    folder: Path | None = None
    notes: tuple[str, ...] = ()
    error: str | None = None


def plan_sweep(path: Path, runs: Path) -> list[Cell]:
    """Return the runs that a sweep file asks for, in order; raise UserError for anything it should not say.

    Every list is a dimension of the grid; so is every list under `[set]` and `[model.NAME.set]`. A model may have
    presets and a budget of its own, under `[model.NAME]`.
    """
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such sweep file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: a folder, expected a sweep file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from error
    try:
        _check(document)
        return list(_cells(document, runs))
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _check(document: Mapping[str, Any]) -> None:
    """Raise UserError for a field that is unknown, of another type, or says nothing that can be run."""
    _check_fields(document, FIELDS)
    for model, own in document.get("model", {}).items():
        if not isinstance(own, dict) or not own:
            raise UserError(f"[model.{model}]: expected a table with {', '.join(OWN_FIELDS)}, or some of them")
        try:
            if higher := [name for name in own if name in FIELDS and name not in OWN_FIELDS]:
                raise UserError(f"{higher[0]}: holds for all models; expected it at the top of the file")
            _check_fields(own, OWN_FIELDS)
        except UserError as error:
            raise UserError(f"[model.{model}] {error}") from error


def _check_fields(table: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    for name, value in table.items():
        if name not in fields:
            raise unknown("field", name, fields)
        if not isinstance(value, fields[name]):
            wanted = {dict: "a table", list: "a list", str: "text"}.get(fields[name], "a number or text")
            raise UserError(f"{name} = {value!r}: expected {wanted}")
    parse_budget(table.get("budget", 0))
    _strings(table, "presets", ["tiny"])


def _cells(document: Mapping[str, Any], runs: Path) -> Iterator[Cell]:
    models = _strings(document, "models")
    root = Path(document["root"]) if "root" in document else None
    own = document.get("model", {})
    if foreign := set(own) - set(models):
        raise unknown("model under [model]", sorted(foreign)[0], models)
    default: dict[str, Any] = {"presets": ["tiny"], "budget": "200k"}
    asked = {model: {**default, **document, **own.get(model, {})} for model in models}
    shared = _dotted(document.get("set", {}))
    _check_shared(shared, {model: asked[model]["presets"] for model in models})
    for model in models:
        for preset, data in itertools.product(asked[model]["presets"], _strings(document, "datasets", ["scenes"])):
            grid = _grid(_settings(model, preset, shared, _dotted(own.get(model, {}).get("set", {}))))
            for settings, seed in itertools.product(grid, _seeds(document)):
                request = Request(model=model, preset=preset, data=data, root=root, seed=seed,
                                  budget=parse_budget(asked[model]["budget"]), settings=settings,
                                  precision=document.get("precision"), runs=runs)  # fmt: skip
                yield Cell(request=request, evaluation=_evaluation(document.get("evaluation", {}), data))


def _dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings in tables of tables, as TOML reads an unquoted `track.ema_kimg`, under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        flat |= _dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return flat


def _check_shared(shared: Mapping[str, Any], presets: Mapping[str, Sequence[str]]) -> None:
    """Raise UserError for a setting under [set] that no model has; `presets` are those of each model."""
    configs = [find_preset(find_model(model), preset) for model, names in presets.items() for preset in names]
    fields = {field.name for config in configs for field in dataclasses.fields(config)}
    for name in shared:
        if name.split(".")[0] not in fields:
            raise unknown("setting under [set], which no model here has,", name, fields)


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
    default = Evaluation.of(data)
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
            folder, record = run(cell.request, cell.evaluation, watch)
            outcomes.append(Outcome(cell=cell, folder=folder, notes=record.notes))
        except UserError as error:
            outcomes.append(Outcome(cell=cell, error=str(error)))
    return outcomes
