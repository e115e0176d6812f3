"""What publishers' files have in common: folders of very many images, long JSON, captions with stray blanks."""

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .user_files import UNPRINTABLE, checked_caption, inside, relative_name, short

KINDS = {int: "a whole number", str: "text", list: "a list"}
SHORT = 1000
"""Characters of a caption that need no further look."""


def file_names(root: Path, folder: Path) -> frozenset[str]:
    """Return the names of the files in `folder`, by one listing, without those that hold control characters.

    Raises UserError for a link that leaves `root`.
    """
    if folder != root:
        relative_name(root, folder, str(folder))
    names = set()
    for entry in _entries(folder):
        if entry.is_file() and not UNPRINTABLE.search(entry.name):
            names.add(entry.name)
            if entry.is_symlink():
                relative_name(root, folder / entry.name, str(folder))
    return frozenset(names)


def refuse_missing(root: Path, folder: Path, names: Iterable[str], where: str, offered: str) -> None:
    """Raise UserError unless every name is that of a file in `folder`; it ends with where the images are offered."""
    there = file_names(root, folder)
    missing = [name for name in names if name not in there]
    if missing:
        inside(folder, missing[0], where, "an image")
        others = f" and {len(missing) - 1:,} more that it lists" if len(missing) > 1 else ""
        place = f"{where}: there is no image {short(missing[0], 200)}{others} in {folder}"
        raise UserError(f"{place}; they come with {offered}")


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in `folder` in order of names, without hidden ones."""
    return sorted(folder / entry.name for entry in _entries(folder) if entry.name[0] != "." and entry.is_dir())


def tidy_caption(caption: str, where: str) -> str:
    """Return a caption with single blanks for its blanks and newlines, "" where nothing is left.

    Raises UserError beginning with `where` when it is endless or holds control characters.
    """
    words = caption.strip()
    # Nearly all captions are tidy, which Python tells much faster than the full check does.
    if len(words) < SHORT and words.isprintable() and "  " not in words:
        return words
    words = " ".join(words.split())
    return checked_caption(words, where) if words else ""


def fields(rows: Any, wanted: Mapping[str, type], where: str) -> Iterator[list[Any]]:
    """Yield the wanted fields of each object in a list from JSON; raise UserError unless all are of these types."""
    if not isinstance(rows, list):
        raise UserError(f"{where}: expected a list, got {_shown(rows)}")
    kinds = list(wanted.values())
    for place, row in enumerate(rows):
        try:
            values = list(map(row.__getitem__, wanted))
        except (KeyError, TypeError, AttributeError):
            values = []
        # Not isinstance(): true and false are whole numbers to it.
        if list(map(type, values)) != kinds:
            raise _wrong_field(row, wanted, f"{where}[{place}]")
        yield values


def _wrong_field(row: Any, wanted: Mapping[str, type], where: str) -> UserError:
    if not isinstance(row, dict):
        return UserError(f"{where}: expected an object with {', '.join(wanted)}, got {_shown(row)}")
    key = next(key for key, kind in wanted.items() if type(row.get(key)) is not kind)
    got = _shown(row[key]) if key in row else "nothing"
    identity = f", id {_shown(row['id'])}" if "id" in row else ""
    return UserError(f"{where}{identity}: `{key}` must be {KINDS[wanted[key]]}, got {got}")


def _shown(value: Any) -> str:
    return short(repr(value))


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise UserError(f"{folder}: not readable ({error.strerror})") from error
