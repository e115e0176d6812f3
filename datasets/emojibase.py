"""The emoji of Unicode with their English names and keywords, as the npm package emojibase-data lists them."""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from .emoji import LEFT_OUT
from .emoji_names import GROUPS, Emoji, described, key_of, letters, plain_keywords
from .npm_packages import Package
from .user_files import checked_caption, parse_json, read_text, short

PACKAGE = Package("emojibase-data", "17.0.0", ("en/data.json",))

# Group 2 are components, which are no pictures of their own.
_GROUPS = dict(zip((0, 1, 3, 4, 5, 6, 7, 8, 9), GROUPS, strict=True))
_COMPONENTS = 2
_TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
# On top of those that `emoji` leaves out: words of chats, and who it is, where "woman walking" is tagged "man" too.
_LEFT_OUT = LEFT_OUT | set(
    "adult boy child girl man men people person woman women "
    "adorbs again babe bae beg bestie bff bro chuck counterpart date dunno forgot guess hehe here homie hurl idk "
    "ignorance ily know knows like lmao lob mwah omg pga pick please probing rofl seriously smh tbt ugh what "
    "whatever white-collar who whoa woah xoxo yes yogi yolo you zzz".split()
)
# Unicode's version in the oldest Python that can run this; later ones name more characters.
_LAST_VERSION = 14


@dataclass(frozen=True, kw_only=True)
class Emojibase:
    """Every emoji, with skin tones and flags."""

    emojis: dict[str, Emoji]
    """By key."""
    keys: dict[str, str]
    """The key of the emoji that a name means, by the name's `spelling`: labels, then formal Unicode names."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One emoji, or one of its variants with skin tones."""

    key: str
    label: str
    tones: tuple[str, ...]
    base: str
    """The key of the emoji without tones."""
    name: str
    group: str
    tags: Sequence[str]
    formal_name: str


def read_emojibase(folder: Path) -> Emojibase:
    """Return the emoji of the unpacked package; raise UserError naming file and entry of what is wrong."""
    path = folder / "en" / "data.json"
    listed = parse_json(read_text(folder, path), str(path))
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UserError(f"{path}: expected a list of emoji, got {short(repr(listed))}")
    rows = [
        row
        for number, entry in enumerate(listed, start=1)
        if entry.get("group", _COMPONENTS) != _COMPONENTS
        for row in _read_entry(entry, f"{path}, emoji {number}")
    ]
    if twice := [key for key, uses in Counter(row.key for row in rows).items() if uses > 1]:
        raise UserError(f"{path}: the emoji {twice[0]} is listed twice")
    keywords = _keywords(rows)
    names = {letters(row.name) for row in rows}
    emojis = {
        row.key: described(
            row.key, row.base, row.name, row.tones, row.group, keywords=keywords[row.base],
            formal_name=row.formal_name, names=names,
        )
        for row in rows
    }  # fmt: skip
    return Emojibase(emojis=emojis, keys=_keys(rows))


def spelling(name: str) -> str:
    """Return the letters and digits of a name, without accents: equal however packages write names of icons."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("&", "and").replace("*", "asterisk"))
    return re.sub("[^a-z0-9]", "", plain)


def _keys(rows: Sequence[_Row]) -> dict[str, str]:
    keys: dict[str, str] = {}
    for name, key in [*((row.label, row.key) for row in rows), *((row.formal_name, row.base) for row in rows)]:
        keys.setdefault(spelling(name), key)
    keys.pop("", None)
    return keys


def _keywords(rows: Sequence[_Row]) -> dict[str, list[str]]:
    """Return the keywords of each emoji without tones, those of the most emoji first: they are the plainest."""
    tags = {row.base: row.tags for row in rows}
    uses = Counter(tag for words in tags.values() for tag in words)
    by_use = {key: sorted(words, key=lambda tag: (-uses[tag], tag)) for key, words in tags.items()}
    return plain_keywords(by_use, _LEFT_OUT)


def _read_entry(entry: dict[str, Any], where: str) -> list[_Row]:
    """Return the rows of an entry: the emoji, and each of its variants with skin tones."""
    group, tags, skins = entry["group"], entry.get("tags", []), entry.get("skins", [])
    if not isinstance(group, int) or group not in _GROUPS:
        raise UserError(f"{where}: `group` must be one of {list(_GROUPS)}, got {short(repr(group))}")
    if not isinstance(tags, list) or not all(isinstance(tag, str) for tag in tags):
        raise UserError(f"{where}: `tags` must be a list of words, got {short(repr(tags))}")
    if not isinstance(skins, list) or not all(isinstance(skin, dict) for skin in skins):
        raise UserError(f"{where}: `skins` must be a list of emoji, got {short(repr(skins))}")
    base = _key(entry, where)
    name = _name(_label(entry, where))
    formal_name = _formal_name(base, entry.get("version"))
    return [
        _Row(
            key=_key(row, where), label=_label(row, where), tones=_tones(row.get("tone", []), where), base=base,
            name=name, group=_GROUPS[group], tags=tags, formal_name=formal_name,
        )
        for row in (entry, *skins)
    ]  # fmt: skip


def _key(row: dict[str, Any], where: str) -> str:
    code = row.get("hexcode")
    if isinstance(code, str) and re.fullmatch(r"[0-9A-Fa-f]{1,5}(-[0-9A-Fa-f]{1,5}){0,15}", code):
        if key := key_of(code.split("-")):
            return key
    raise UserError(f"{where}: `hexcode` must be code points in hex, got {short(repr(code))}")


def _label(row: dict[str, Any], where: str) -> str:
    label = row.get("label")
    if not isinstance(label, str):
        raise UserError(f"{where}: `label` must be the name of the emoji, got {short(repr(label))}")
    return checked_caption(label, where)


def _tones(tone: Any, where: str) -> tuple[str, ...]:
    numbers = tone if isinstance(tone, list) else [tone]
    if not all(isinstance(number, int) and 1 <= number <= len(_TONES) for number in numbers):
        raise UserError(f"{where}: `tone` must be 1 to {len(_TONES)} or a list of them, got {short(repr(tone))}")
    return tuple(f"{_TONES[number - 1]} skin tone" for number in numbers)


def _name(label: str) -> str:
    """Return a label such as "man: red hair" as one says it."""
    name = re.sub("[“”]", "", label.replace("’", "'"))
    name = re.sub(r"^flag: ", "flag of ", name)
    name = re.sub(r"^keycap: ", "keycap ", name)
    name = re.sub(r": facing right$", " facing right", name)
    name = re.sub(r"^(man|woman|person): (\w+ hair|beard)$", r"\1 with \2", name)
    return re.sub(r"^(man|woman|person): bald$", r"bald \1", name)


def _formal_name(key: str, version: Any) -> str:
    """Return the Unicode name of a single character that is old enough to have one everywhere, else nothing."""
    if "-" in key or not isinstance(version, int | float) or not version <= _LAST_VERSION:
        return ""
    return unicodedata.name(chr(int(key, 16)), "").lower()
