"""The icons of one npm package in Iconify's JSON, and which emoji each of them draws."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .emoji_names import key_of
from .emojibase import spelling
from .svg import ViewBox
from .user_files import parse_json, read_text, short

FILES = ("icons.json", "chars.json")
DEFAULT_SIDE = 16
"""Units of an icon's side where neither it nor its file says."""


@dataclass(frozen=True)
class Icon:
    """One picture: the body of an SVG, and the part of the plane that it fills."""

    name: str
    body: str
    box: ViewBox
    path: Path
    """The file it was read from."""


@dataclass(frozen=True, kw_only=True)
class IconSet:
    """The icons of one package by their names, with their other names, and by code points where it has those."""

    icons: dict[str, Icon]
    aliases: dict[str, list[str]]
    keys: dict[str, str]
    """The icon of an emoji by its key; empty in packages that know their icons by name only."""


def read_icons(folder: Path) -> IconSet:
    """Return the icons of the unpacked package; raise UserError naming the file and the icon of what is wrong."""
    path, codes = (folder / name for name in FILES)
    document = _object(folder, path)
    listed, aliases = document.get("icons"), document.get("aliases", {})
    for key, value in (("icons", listed), ("aliases", aliases)):
        if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
            raise UserError(f"{path}: `{key}` must be an object of objects, got {short(repr(value))}")
    assert isinstance(listed, dict)
    icons = {name: _read_icon(name, entry, document, path) for name, entry in listed.items()}
    names = defaultdict(list)
    for alias, entry in aliases.items():
        # Other aliases are drawn turned or mirrored.
        if entry.keys() == {"parent"} and isinstance(entry["parent"], str):
            names[entry["parent"]].append(alias)
    return IconSet(icons=icons, aliases=names, keys=_read_keys(_object(folder, codes), icons, codes))


def by_code_points(icons: IconSet, keys: Iterable[str]) -> dict[str, list[Icon]]:
    """Return the icon of each of the emoji that the package has, by key."""
    return {key: [icons.icons[icons.keys[key]]] for key in keys if key in icons.keys}


def by_names(icons: IconSet, keys: Mapping[str, str]) -> dict[str, list[Icon]]:
    """Return the icons of each emoji by its key, matched by name; `keys` maps spellings of names to keys.

    Several drawings of one emoji are numbered: "baby-1", "baby-2".
    """
    found: dict[str, list[Icon]] = {}
    numbered: dict[str, list[Icon]] = defaultdict(list)
    for name, icon in icons.icons.items():
        names = [name, *icons.aliases[name]] if name in icons.aliases else [name]
        if key := _key_of_any(names, keys):
            found.setdefault(key, [icon])
        elif key := _key_of_any([re.sub(r"-\d$", "", name)], keys):
            numbered[key].append(icon)
    return {**numbered, **found}


def names_of(icons: IconSet) -> dict[str, str]:
    """Return the keys of the package's icons by the spelling of all their names."""
    return {
        spelling(name): key for key, icon in icons.keys.items() for name in (icon, *icons.aliases.get(icon, ()))
    }


def _key_of_any(names: Iterable[str], keys: Mapping[str, str]) -> str | None:
    """Return the key of the first name that means an emoji; flags are called by country in many ways."""
    for name in names:
        for form in (re.sub(r"^flag-for-(flag-)?", "flag-", name), name, f"flag-{name}"):
            if key := keys.get(spelling(form)):
                return key
    return None


def _object(folder: Path, path: Path) -> dict[str, Any]:
    value = parse_json(read_text(folder, path), str(path))
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected an object, got {type(value).__name__}")
    return value


def _read_icon(name: str, entry: dict[str, Any], document: dict[str, Any], path: Path) -> Icon:
    body = entry.get("body")
    if not isinstance(body, str):
        raise UserError(f"{path}: icon {short(repr(name))}: `body` must be SVG text, got {short(repr(body))}")
    # What the icon says goes before what the file says for all.
    sides = {"left": 0, "top": 0, "width": DEFAULT_SIDE, "height": DEFAULT_SIDE}
    said = {side: entry.get(side, document.get(side, default)) for side, default in sides.items()}
    for side, value in said.items():
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise UserError(f"{path}: icon {short(repr(name))}: `{side}` must be a number, got {short(repr(value))}")
    return Icon(name, body, ViewBox(**said), path)


def _read_keys(codes: dict[str, Any], icons: Mapping[str, Icon], path: Path) -> dict[str, str]:
    keys = {}
    for code, name in codes.items():
        if not re.fullmatch("[0-9a-f]{1,6}(-[0-9a-f]{1,6}){0,15}", code):
            raise UserError(f"{path}: expected code points in hex, got {short(repr(code))}")
        if not isinstance(name, str) or name not in icons:
            raise UserError(f"{path}: {code}: there is no icon {short(repr(name))} in icons.json")
        keys[key_of(code.split("-"))] = name
    return keys
