"""The user's own images: a folder with `metadata.jsonl`, or with a `.txt` beside each image."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import UserError
from . import images
from .image_files import ImageFile, ImageFiles, divide
from .user_files import checked_caption, inside, opened_root, parse_json, read_text, relative_name, short

SPLIT_NAMES = {"train": "train", "test": "test"} | dict.fromkeys(("val", "validation", "valid", "dev"), "val")


@dataclass(frozen=True)
class CaptionedFile:
    """One image on disk: its name relative to the root, its captions (maybe none), its class if any."""

    name: str
    path: Path
    captions: tuple[str, ...]
    label: int | str | None = None


def open_source(root: Path | None) -> ImageFiles:
    """Return a folder of captioned images as a source; raise UserError naming file and line of what is wrong.

    Captions stand in `metadata.jsonl`, each line an object with `file_name` (relative to that file), `text`
    (a caption or a list of them) and optionally `label`; images it does not name are left out. Without
    that file every image needs a `.txt` of the same stem beside it, one caption a line.

    Sub-folders named train, val (validation, valid, dev) and test are the splits, each with its own
    `metadata.jsonl` (one at the root with `train/...` in `file_name` will do) or `.txt` files; what lies
    beside them is ignored. Without such folders the images are divided 90 / 5 / 5 by a hash of their names
    (see `divide`). Hidden files are ignored.
    """
    root = opened_root("imagefolder", root)
    try:
        return _open(root)
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error


def captioned_by(root: Path, captions: Path) -> ImageFiles:
    """Return all images of a folder with the captions of a file elsewhere, as one split; raise UserError on a mismatch.

    The file holds rows as of `metadata.jsonl`, their `file_name` relative to `root`, if it is called `.jsonl`; else
    a caption a line, in the order of the images' names.
    """
    root, captions = opened_root("images", root), captions.resolve()
    if captions.suffix.lower() == ".jsonl":
        files = _read_metadata(root, captions, root)
    else:
        found = [path for path in _walk(root, root) if path.suffix.lower() in images.SUFFIXES]
        text = read_text(captions.parent, captions).rstrip().split("\n")
        lines = [checked_caption(line, f"{captions}, line {number}") for number, line in enumerate(text, start=1)]
        if len(found) != len(lines):
            raise UserError(f"{captions}: {len(lines)} captions for {len(found)} images in {root}; "
                            "expected a line for each")  # fmt: skip
        files = [CaptionedFile(relative_name(root, path, str(path)), path, (line,))
                 for path, line in zip(found, lines, strict=True)]  # fmt: skip
    if not files:
        raise UserError(f"{root}: holds no images")
    return ImageFiles(_name(root), {"all": [ImageFile(name=one.name, path=one.path, captions=one.captions)
                                            for one in files]})  # fmt: skip


def _open(root: Path) -> ImageFiles:
    folders = _split_folders(root)
    if not folders:
        whole, class_names = _numbered({"all": _read_folder(root, root)})
        return ImageFiles(_name(root), divide(whole["all"]), class_names=class_names)
    own = [folder / "metadata.jsonl" for folder in folders.values() if (folder / "metadata.jsonl").exists()]
    if not (root / "metadata.jsonl").exists():
        files = {split: _read_folder(root, folder) for split, folder in folders.items()}
    elif own:
        raise UserError(f"{root / 'metadata.jsonl'}: there is also {own[0]}; keep one or the other")
    else:
        files = _by_split(root, folders, _read_folder(root, root))
    numbered, class_names = _numbered(files)
    return ImageFiles(_name(root), numbered, class_names=class_names)


def _name(root: Path) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", root.name.lower()).strip("-")
    return f"folder-{slug or 'images'}"


def _numbered(
    splits: Mapping[str, Sequence[CaptionedFile]],
) -> tuple[dict[str, list[ImageFile]], tuple[str, ...]]:
    """Return the images with their labels as numbers, and the names of the classes; none unless all have one."""
    labels = {file.label for files in splits.values() for file in files}
    order = [] if None in labels else sorted(labels, key=lambda label: (isinstance(label, str), label))
    number = {label: index for index, label in enumerate(order)}
    numbered = {
        split: [
            ImageFile(name=file.name, path=file.path, captions=file.captions, label=number.get(file.label))
            for file in files
        ]
        for split, files in splits.items()
    }
    return numbered, tuple(str(label) for label in order)


def _read_folder(root: Path, folder: Path) -> list[CaptionedFile]:
    """Return the captioned images of one folder in order of names, which are relative to `root`."""
    metadata = folder / "metadata.jsonl"
    files = _read_metadata(root, metadata, folder) if metadata.exists() else _read_side_files(root, folder)
    if not files:
        raise UserError(f"{folder}: no captioned images; expected metadata.jsonl or a .txt beside each")
    return sorted(files, key=lambda file: file.name)


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


def _read_metadata(root: Path, metadata: Path, folder: Path) -> list[CaptionedFile]:
    """Return what a file of captions says of the images in `folder`, inside `root`."""
    files: dict[str, CaptionedFile] = {}
    for number, line in enumerate(read_text(metadata.parent, metadata).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{metadata}, line {number}"
        row = _parse_object(line, where)
        file = _from_row(root, folder, row, where)
        if file.name in files:
            raise UserError(f"{where}: {file.name!r} is named twice; put all its captions in one `text`")
        files[file.name] = file
    return list(files.values())


def _parse_object(line: str, where: str) -> dict[str, Any]:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with `file_name` and `text`, got {type(row).__name__}")
    return row


def _from_row(root: Path, folder: Path, row: dict[str, Any], where: str) -> CaptionedFile:
    for column in ("file_name", "text"):
        if column not in row:
            columns = ", ".join(map(repr, row)) or "none"
            raise UserError(f"{where}: there is no column `{column}`; the columns are {short(columns, 200)}")
    path = inside(folder, row["file_name"], where)
    if not os.path.isfile(path):
        raise UserError(f"{where}: there is no image {short(row['file_name'], 200)!r} in {folder}")
    text = row["text"]
    captions = [text] if isinstance(text, str) else text
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: `text` must be a caption or a list of captions, got {short(repr(text))}")
    label = row.get("label")
    if label is not None and (isinstance(label, bool) or not isinstance(label, int | str)):
        raise UserError(f"{where}: `label` must be a whole number or text, got {short(repr(label))}")
    return CaptionedFile(
        name=relative_name(root, path, where),
        path=path,
        captions=tuple(checked_caption(caption, where) for caption in captions),
        label=label,
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
        CaptionedFile(relative_name(root, path, str(path)), path, tuple(_side_captions(root, texts[stem])))
        for stem, path in pictures.items()
    ]


def _side_captions(root: Path, path: Path) -> list[str]:
    lines = read_text(root, path).split("\n")
    return [checked_caption(line, f"{path}, line {n}") for n, line in enumerate(lines, start=1) if line.strip()]


def _walk(root: Path, folder: Path) -> Iterator[Path]:
    """Yield the files under `folder` in order of names, without the hidden ones."""
    for path in sorted(path for path in folder.iterdir() if not path.name.startswith(".")):
        if not path.is_dir():
            yield path
        elif path.is_symlink():
            raise UserError(f"{path}: links to folders are not followed; put the folder itself here")
        else:
            yield from _walk(root, path)
