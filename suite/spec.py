"""What a run is: a frozen specification whose digest names its folder."""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..datasets.scenes import WORLDS
from ..errors import UserError, unknown
from ..files import canonical_json, digest_of

VERSION = 1
"""Raised when the loop or the interface changes what a specification trains to."""


@dataclass(frozen=True, kw_only=True)
class TrainSpec:
    """Everything that decides the trained weights; equal specifications share one run folder.

    Left out, because they change nothing but time or place: the device and its threads (the same code
    runs everywhere; on the CPU the weights are bit-identical for one number of threads), the folders, how
    often checkpoints are written, and how many images are drawn at once. The evaluation is left out
    because it comes after the training: it has a key of its own and never asks for training again.
    """

    model: str
    code: str
    """Digest of the file of a model that is not built in; of a built-in one empty, `version` stands for it."""
    preset: str
    config: dict[str, Any]
    """The model's config, every field, presets and overrides applied."""
    dataset: str
    image_size: int
    data: dict[str, str]
    """Digest of each split that training sees."""
    seed: int
    budget: int
    """Training images, over all stages together."""
    precision: str
    version: int = VERSION

    def to_json(self) -> dict[str, Any]:
        """Return the specification as it reads back from JSON."""
        document: dict[str, Any] = json.loads(canonical_json(dataclasses.asdict(self)))
        return document

    @property
    def folder_name(self) -> str:
        """Return `<model>-<preset>-<dataset>-s<seed>-<12 hex of the digest>`."""
        name = f"{self.model}-{self.preset}-{self.dataset}-s{self.seed}-{digest_of(self.to_json())[:12]}"
        return re.sub(r"[^\w.=-]+", "_", name)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The protocol: which captions are drawn, from which seeds, and who looks at the images."""

    split: str = "test"
    images: int = 2000
    """Images to draw; where the split has fewer, captions come again with other seeds."""
    judges: tuple[str, ...] = ("in-domain",)
    seed: int = 0
    """Chooses the captions and, with each caption's id, the noise; the same for every model, so that runs pair up."""

    train_images: int = 10_000
    """Real training images that the judges look at: the floor of the scores, and what drawn ones may be copies of."""
    probes: bool = True
    """Ask the categories of the capability probes too, where a suite is written for the data set."""

    @classmethod
    def of(cls, data: str) -> "Evaluation":
        """Return the protocol that a data set is scored by when nothing else is asked for."""
        return cls(judges=("scenes", "reader")) if data in WORLDS else cls()


def resolve_config(preset: Any, overrides: Mapping[str, Any]) -> Any:
    """Return the frozen dataclass `preset` with `overrides` (dotted names for nested ones) put in.

    Text is read as JSON where it can be ("3", "true", "[1, 2]") and must fit the field's type. Raises
    UserError for an unknown field, naming the nearest, and for a value of another type.
    """
    return _replace(preset, overrides, "")


def parse_overrides(settings: Sequence[str]) -> dict[str, str]:
    """Return `field=value` settings as a dict; raise UserError for one without an equals sign."""
    overrides = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name.strip():
            raise UserError(f"--set {setting!r}: expected field=value, for example --set batch_size=32")
        overrides[name.strip()] = value.strip()
    return overrides


def _replace(config: Any, overrides: Mapping[str, Any], prefix: str) -> Any:
    """Return `config` with all overrides put in at once: some are valid only together."""
    fields = {field.name: field for field in dataclasses.fields(config)}
    kinds = typing.get_type_hints(type(config))
    changes: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for name, value in overrides.items():
        field, _, rest = name.partition(".")
        if field not in fields:
            raise unknown("setting", prefix + name, (prefix + known for known in fields))
        if not rest:
            changes[field] = _fit(_read(value), kinds[field], prefix + name)
        elif not dataclasses.is_dataclass(getattr(config, field)):
            raise UserError(f"setting {prefix + name!r}: {field} has no fields inside")
        else:
            inside.setdefault(field, {})[rest] = value
    for field, own in inside.items():
        changes[field] = _replace(getattr(config, field), own, f"{prefix}{field}.")
    return dataclasses.replace(config, **changes)


def _read(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        return value


def _fit(value: Any, kind: Any, name: str) -> Any:
    """Return `value` as the annotated type, or raise UserError."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if value in arguments:
            return value
        raise unknown(f"value of {name}", str(value), map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            if (value is None) == (option is type(None)):
                return None if value is None else _fit(value, option, name)
    if origin is tuple and isinstance(value, list | tuple):
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) == len(value):
            return tuple(_fit(entry, entry_kind, name) for entry, entry_kind in zip(value, kinds, strict=True))
    if kind is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if kind is not float and type(value) is kind:
        return value
    raise UserError(f"setting {name}={value!r}: expected {_wanted(kind, name)}")


def _wanted(kind: Any, name: str) -> str:
    """Return what a setting of the annotated type is to be, as one would type it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return f"its fields one by one, {name}.FIELD"
    if kind is bool:
        return "true or false"
    if origin is typing.Literal:
        return " or ".join(map(json.dumps, arguments))
    if origin is tuple:
        entries = [_wanted(entry, name) for entry in arguments if entry is not Ellipsis]
        return f"a list [...] of {entries[0]}" if arguments[-1] is Ellipsis else f"[{', '.join(entries)}]"
    return getattr(kind, "__name__", str(kind)) if origin is None else str(kind)


def parse_budget(text: str | int) -> int:
    """Return a number of images from `200000`, `200k` or `1.5M`; raise UserError for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKmM]?)", str(text).strip())
    if not match:
        raise UserError(f"budget {text!r}: expected a number of training images such as 50000, 200k or 1M")
    return round(float(match[1]) * {"": 1, "k": 1_000, "m": 1_000_000}[match[2].lower()])
