"""The user's own images: a folder with `metadata.jsonl`, or with a `.txt` beside each image."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import digest_of
from . import images
from .captioned import Chunk

SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("val", "validation", "valid", "dev"), "val")
MAX_CAPTION_LENGTH = 100_000
CHUNK_SIZE = 256

# Control characters, and halves of surrogate pairs, which no UTF-8 file can hold.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class CaptionedFile:
    """One image on disk: its name relative to the root, its captions (maybe none), its class if any."""

    name: str
    path: Path
    captions: tuple[str, ...]
    label: int | str | None = None


class ImageFolder:
    """A folder of captioned images as a `Source`; see `open_source` for what it may look like."""

    def __init__(self, root: Path, files: dict[str, list[CaptionedFile]]) -> None:
        slug = re.sub(r"[^a-z0-9]+", "-", root.name.lower()).strip("-")
        self.name = f"folder-{slug or 'images'}"
        self.splits = tuple(files)
        self._files = files
        labels = {file.label for split in files.values() for file in split}
        order = [] if None in labels else sorted(labels, key=lambda label: (isinstance(label, str), label))
        self._class_numbers = {label: number for number, label in enumerate(order)}
        self.class_names = tuple(str(label) for label in order)

    def size(self, split: str) -> int:
        """Return how many images the split has."""
        return len(self._files[split])

    def fingerprint(self, split: str) -> str:
        """Return a digest of names, captions, labels, sizes and times of change; no image is opened."""
        rows = []
        for file in self._files[split]:
            state = file.path.stat()
            rows.append([file.name, file.captions, file.label, state.st_size, state.st_mtime_ns])
        return digest_of([images.VERSION, self.class_names, rows])

    def chunks(self, split: str, image_size: int) -> Iterator[Chunk]:
        """Yield the split in order of names, decoded by threads; raise UserError at the first bad image."""
        files = self._files[split]
        number = self._class_numbers
        with ThreadPoolExecutor(max_workers=min(os.cpu_count() or 1, 16)) as pool:
            for start in range(0, len(files), CHUNK_SIZE):
                part = files[start : start + CHUNK_SIZE]
                decoded = pool.map(lambda file: images.decode(file.path, image_size), part)
                yield Chunk(
                    images=np.stack(list(decoded)),
                    captions=[list(file.captions) for file in part],
                    ids=[file.name for file in part],
                    labels=[number[file.label] for file in part] if number else [],
                )


def open_source(root: Path | None) -> ImageFolder:
    """Return a folder of captioned images as a source; raise UserError naming file and line of what is wrong.

    Captions stand in `metadata.jsonl`, each line an object with `file_name` (relative to that file), `text`
    (a caption or a list of them) and optionally `label`; images it does not name are left out. Without
    that file every image needs a `.txt` of the same stem beside it, one caption a line.

    Sub-folders named train, val (validation, valid, dev) and test are the splits, each with its own
    `metadata.jsonl` (one at the root with `train/...` in `file_name` will do) or `.txt` files; what lies
    beside them is ignored. Without such folders the images are divided 90 / 5 / 5 by a hash of their names
    (see `divide`). Hidden files are ignored.
    """
    if root is None:
        raise UserError("imagefolder: which folder? give it with --root DIR")
    if not root.is_dir():
        raise UserError(f"{root}: {'is not a folder' if root.exists() else 'no such folder'}")
    try:
        return _open(root.resolve())
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error


def divide(files: Sequence[CaptionedFile]) -> dict[str, list[CaptionedFile]]:
    """Return the images divided into train, val and test, about 90 / 5 / 5, by a hash of their names.

    An image keeps its split when others come or go, save that of three or more images at least one falls
    to each split. Fewer than three are all train.
    """
    if len(files) < 3:
        return {"train": list(files)}
    place = {file.name: _place(file.name) for file in files}
    order = sorted(files, key=lambda file: place[file.name])
    train = min(max(sum(place[file.name] < 0.90 for file in files), 1), len(files) - 2)
    test = min(max(sum(place[file.name] < 0.95 for file in files), train + 1), len(files) - 1)
    parts = {"train": order[:train], "val": order[train:test], "test": order[test:]}
    return {split: sorted(part, key=lambda file: file.name) for split, part in parts.items()}


def _open(root: Path) -> ImageFolder:
    folders = _split_folders(root)
    if not folders:
        return ImageFolder(root, divide(_read_folder(root, root)))
    own = [folder / "metadata.jsonl" for folder in folders.values() if (folder / "metadata.jsonl").exists()]
    if not (root / "metadata.jsonl").exists():
        files = {split: _read_folder(root, folder) for split, folder in folders.items()}
    elif own:
        raise UserError(f"{root / 'metadata.jsonl'}: there is also {own[0]}; keep one or the other")
    else:
        files = _by_split(root, folders, _read_folder(root, root))
    return ImageFolder(root, files)


def _read_folder(root: Path, folder: Path) -> list[CaptionedFile]:
    """Return the captioned images of one folder in order of names, which are relative to `root`."""
    metadata = folder / "metadata.jsonl"
    files = _read_metadata(root, metadata) if metadata.exists() else _read_side_files(root, folder)
    if not files:
        raise UserError(f"{folder}: no captioned images; expected metadata.jsonl or a .txt beside each")
    return sorted(files, key=lambda file: file.name)


def _place(name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def _split_folders(root: Path) -> dict[str, Path]:
    """Return the sub-folders that are splits, in the order train, val, test."""
    found: dict[str, Path] = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        split = SPLIT_NAMES.get(folder.name.lower())
        if split in found:
            both = f"{found[split].name} and {folder.name}"
            raise UserError(f"{root}: {both} are both the split {split!r}; keep one")
        if split:
            found[split] = folder
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _by_split(
    root: Path, folders: dict[str, Path], files: Sequence[CaptionedFile]
) -> dict[str, list[CaptionedFile]]:
    """Return the images that one `metadata.jsonl` at the root names, by the split folder they lie in."""
    split_of = {folder.name: split for split, folder in folders.items()}
    parts: dict[str, list[CaptionedFile]] = {split: [] for split in folders}
    for file in files:
        first = PurePosixPath(file.name).parts[0]
        if first not in split_of:
            raise UserError(f"{root / 'metadata.jsonl'}: {file.name!r} lies in none of {', '.join(split_of)}")
        parts[split_of[first]].append(file)
    return {split: part for split, part in parts.items() if part}


def _read_metadata(root: Path, metadata: Path) -> list[CaptionedFile]:
    files: dict[str, CaptionedFile] = {}
    for number, line in enumerate(_read_text(root, metadata).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{metadata}, line {number}"
        row = _parse_object(line, where)
        file = _from_row(root, metadata.parent, row, where)
        if file.name in files:
            raise UserError(f"{where}: {file.name!r} is named twice; put all its captions in one `text`")
        files[file.name] = file
    return list(files.values())


def _parse_object(line: str, where: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not JSON that can be read ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with `file_name` and `text`, got {type(row).__name__}")
    return row


def _from_row(root: Path, folder: Path, row: dict[str, Any], where: str) -> CaptionedFile:
    for column in ("file_name", "text"):
        if column not in row:
            columns = ", ".join(map(repr, row)) or "none"
            raise UserError(f"{where}: there is no column `{column}`; the columns are {_short(columns, 200)}")
    name = row["file_name"]
    if not isinstance(name, str) or not name or _UNPRINTABLE.search(name):
        raise UserError(f"{where}: `file_name` must be the name of a file, got {_short(repr(name))}")
    relative = PurePosixPath(name)
    if relative.is_absolute() or ".." in re.split(r"[/\\]", name):
        wrong = _short(repr(name))
        raise UserError(f"{where}: `file_name` must be relative to this file and without '..', got {wrong}")
    path = folder / relative
    if not os.path.isfile(path):
        raise UserError(f"{where}: there is no image {_short(name, 200)!r} in {folder}")
    text = row["text"]
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: `text` must be a caption or a list of captions, got {_short(repr(text))}")
    label = row.get("label")
    return CaptionedFile(
        name=_relative_name(root, path, where),
        path=path,
        captions=tuple(_checked(caption, where) for caption in captions),
        label=label if isinstance(label, int | str) and not isinstance(label, bool) else None,
    )


def _read_side_files(root: Path, folder: Path) -> list[CaptionedFile]:
    found = list(_walk(root, folder))
    texts = {path.with_suffix(""): path for path in found if path.suffix.lower() == ".txt"}
    pictures: dict[Path, Path] = {}
    for path in (path for path in found if path.suffix.lower() in images.SUFFIXES):
        stem = path.with_suffix("")
        if stem in pictures:
            raise UserError(f"{path}: has the stem of {pictures[stem].name}; one .txt cannot describe both")
        pictures[stem] = path
        if stem not in texts:
            expected = f"{stem.name}.txt beside it, or metadata.jsonl in {folder}"
            raise UserError(f"{path}: no captions; expected {expected}")
    if orphans := texts.keys() - pictures.keys():
        raise UserError(f"{texts[min(orphans)]}: no image of this name beside it")
    return [
        CaptionedFile(_relative_name(root, path, str(path)), path, tuple(_side_captions(root, texts[stem])))
        for stem, path in pictures.items()
    ]


def _side_captions(root: Path, path: Path) -> Iterable[str]:
    lines = _read_text(root, path).split("\n")
    return [_checked(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]


def _walk(root: Path, folder: Path) -> Iterator[Path]:
    """Yield the files under `folder` in order of names, without the hidden ones."""
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if not path.is_dir():
            yield path
        elif path.is_symlink():
            raise UserError(f"{path}: links to folders are not followed; put the folder itself here")
        else:
            yield from _walk(root, path)


def _relative_name(root: Path, path: Path, where: str) -> str:
    """Return the name relative to the root; raise UserError where a link leaves it or the name is no text."""
    name = path.relative_to(root).as_posix()
    if _UNPRINTABLE.search(name):
        raise UserError(f"{root}: rename {name!r}; the name holds control characters or is not UTF-8")
    if not os.path.realpath(path).startswith(f"{root}{os.sep}"):
        raise UserError(f"{where}: {name} is a link that leaves {root}; put the file itself there")
    return name


def _read_text(root: Path, path: Path) -> str:
    _relative_name(root, path, str(path))
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: not UTF-8 (byte {error.object[error.start]:#04x})") from error
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from error


def _checked(caption: str, where: str) -> str:
    caption = caption.strip()
    if not caption:
        raise UserError(f'{where}: an empty caption; for an image without captions write "text": []')
    if len(caption) > MAX_CAPTION_LENGTH:
        raise UserError(f"{where}: a caption of {len(caption):,} characters; at most {MAX_CAPTION_LENGTH:,}")
    if found := _UNPRINTABLE.search(caption):
        raise UserError(f"{where}: control character {found[0]!r} in the caption {_short(repr(caption))}")
    return caption


def _short(text: str, most: int = 60) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."
