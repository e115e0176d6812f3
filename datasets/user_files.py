"""Reading what lies in a user's folder: text, JSON and names that are checked, with errors naming file and line."""

import json
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UserError

MAX_CAPTION_LENGTH = 100_000

# Control characters, and halves of surrogate pairs, which no UTF-8 file can hold.
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


def opened_root(name: str, root: Path | None) -> Path:
    """Return the folder given by --root, resolved; raise UserError when there is none."""
    if root is None:
        raise UserError(f"{name}: which folder? give it with --root DIR")
    if not root.is_dir():
        raise UserError(f"{root}: {'is not a folder' if root.exists() else 'no such folder'}")
    return root.resolve()


def read_text(root: Path, path: Path) -> str:
    """Return a UTF-8 file's text; raise UserError naming the line that is not, or a link that leaves `root`."""
    relative_name(root, path, str(path))
    if not path.is_file():
        raise UserError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x})") from error
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from error


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text; raise UserError beginning with `where`."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}" if "\n" in text else f"column {error.colno}"
        raise UserError(f"{where}: not JSON ({error.msg} at {place})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON that can be read ({error})") from error


def inside(folder: Path, name: Any, where: str, what: str = "`file_name`") -> Path:
    """Return the path of `name` in `folder`; raise UserError unless it is a plain relative name of text."""
    if not isinstance(name, str) or not name or UNPRINTABLE.search(name):
        raise UserError(f"{where}: {what} must be the name of a file, got {short(repr(name))}")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in re.split(r"[/\\]", name):
        raise UserError(f"{where}: {what} must be relative to this file and without '..', got {short(repr(name))}")
    return folder / relative


def relative_name(root: Path, path: Path, where: str) -> str:
    """Return the name relative to `root`; raise UserError where a link leaves it or the name is no text."""
    name = path.relative_to(root).as_posix()
    if UNPRINTABLE.search(name):
        raise UserError(f"{root}: rename {name!r}; the name holds control characters or is not UTF-8")
    if not Path(os.path.realpath(path)).is_relative_to(root):
        raise UserError(f"{where}: {name} is a link that leaves {root}; put the file itself there")
    return name


def checked_caption(caption: str, where: str) -> str:
    """Return a caption stripped; raise UserError when it is empty, endless or holds control characters."""
    caption = caption.strip()
    if not caption:
        raise UserError(f'{where}: an empty caption; for an image without captions write "text": []')
    if len(caption) > MAX_CAPTION_LENGTH:
        raise UserError(f"{where}: a caption of {len(caption):,} characters; at most {MAX_CAPTION_LENGTH:,}")
    if found := UNPRINTABLE.search(caption):
        raise UserError(f"{where}: control character {found[0]!r} in the caption {short(repr(caption))}")
    return caption


def short(text: str, most: int = 60) -> str:
    """Return `text`, cut with dots when it is longer than `most`."""
    return text if len(text) <= most else f"{text[: most - 3]}..."
