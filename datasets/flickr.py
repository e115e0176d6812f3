"""Flickr8k and Flickr30k, as their publishers ship them and as Kaggle and Karpathy pass them on."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .image_files import ImageFile, ImageFiles, divide
from .publishers import fields, file_names, folders_in, refuse_missing, tidy_caption
from .user_files import opened_root, parse_json, read_text, short

NO_IMAGE = "2258277193_586949ec62.jpg.1"
"""What Flickr8k's token file describes though there is no such image."""
BROKEN = "2199200615.jpg"
"""The image in whose caption 4 Kaggle's `results.csv` lacks a separator."""


class Row(NamedTuple):
    """One caption as a file gives it: of which image, which number of that image's, and where it stands."""

    image: str
    number: str
    caption: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Edition:
    """One of the two data sets: what its files are called and how many images they hold."""

    name: str
    captions: Mapping[str, Callable[[str, Path], Iterator[Row]]]
    """How to read each of the files that may hold the captions."""
    karpathy: str
    lists: Mapping[str, str] = field(default_factory=dict)
    """The publisher's list of the images of each split."""
    folders: tuple[str, ...]
    expected: Mapping[str, int]
    offered: str


def open_source(root: Path | None) -> ImageFiles:
    """Return Flickr8k or Flickr30k, by what lies in `root`; raise UserError naming file and line of what is wrong.

    Captions and images lie in the folder or in folders in it. For 8k: `Flickr8k.token.txt` and the publisher's
    lists of splits with `Flicker8k_Dataset/`, or Kaggle's `captions.txt` with `Images/`. For 30k:
    `results_20130124.token` with `flickr30k-images/`, or Kaggle's `results.csv` with `flickr30k_images/`. Where
    Karpathy's `dataset_flickr8k.json` or `dataset_flickr30k.json` is there, it gives both splits and captions.
    Without any list of splits the images with captions are divided 90 / 5 / 5 by a hash of their names (see
    `divide`), and how many to expect of each is not known. Images that no list names are left out.
    """
    root = opened_root("flickr", root)
    places = [root, *folders_in(root)]
    captioned = [(edition, path) for edition in EDITIONS if (path := _caption_file(edition, places))]
    if not captioned:
        wanted = " or ".join(name for edition in EDITIONS for name in (*edition.captions, edition.karpathy))
        offered = " and ".join(edition.offered for edition in EDITIONS)
        raise UserError(f"{root}: no captions there or one folder below: no {wanted}; they come with {offered}")
    # Karpathy's files come in one archive: the one without images does not count.
    complete = [found for found in captioned if _image_folder(found[0], root, places)]
    if len(complete) > 1:
        raise UserError(f"{root}: holds both Flickr8k and Flickr30k; give --root the folder of one")
    edition, path = (complete or captioned)[0]
    folder = _image_folder(edition, root, places)
    if folder is None:
        wanted = " or ".join(edition.folders)
        raise UserError(f"{root}: no images there or one folder below: no {wanted}; it comes with {edition.offered}")
    return _open(edition, root, places, path, folder)


def _open(edition: Edition, root: Path, places: Sequence[Path], path: Path, folder: Path) -> ImageFiles:
    text = read_text(root, path)
    if path.name == edition.karpathy:
        captions, splits = _read_karpathy(text, path)
    else:
        captions = _by_image(edition.captions[path.name](text, path))
        splits = _read_lists(edition, root, places)
    names = captions.keys() | {name for listed in splits.values() for name in listed}
    refuse_missing(root, folder, sorted(names), str(path), edition.offered)
    files = {
        name: ImageFile(name=name, path=folder / name, captions=tuple(captions.get(name, ()))) for name in sorted(names)
    }
    if not splits:
        return ImageFiles(edition.name, divide(list(files.values())))
    listed = {split: [files[name] for name in sorted(names)] for split, names in splits.items()}
    return ImageFiles(edition.name, listed, expected=edition.expected)


def _caption_file(edition: Edition, places: Sequence[Path]) -> Path | None:
    found = (_find(places, name) for name in (edition.karpathy, *edition.captions))
    return next(filter(None, found), None)


def _find(places: Sequence[Path], name: str) -> Path | None:
    """Return the file of that name in the first place, the root, or else in the only other place that has it."""
    root, *others = places
    if (root / name).exists():
        return root / name
    found = [place / name for place in others if (place / name).exists()]
    if len(found) > 1:
        raise UserError(f"{found[0]}: there is also {found[1]}; give --root the folder of one")
    return found[0] if found else None


def _image_folder(edition: Edition, root: Path, places: Sequence[Path]) -> Path | None:
    """Return the first folder of the edition's names that holds images: Kaggle nests it in one of the same name."""
    for folder in (place / name for place in places for name in edition.folders):
        if folder.is_dir() and any(name.endswith(".jpg") for name in file_names(root, folder)):
            return folder
    return None


def _by_image(rows: Iterator[Row]) -> dict[str, list[str]]:
    """Return the captions of each image in the order of the file; a blank one counts as none."""
    captions: dict[str, list[str]] = {}
    seen: set[tuple[str, str]] = set()
    for image, number, caption, where in rows:
        if (image, number) in seen:
            raise UserError(f"{where}: caption {number} of {short(image, 200)} is there twice")
        seen.add((image, number))
        words = tidy_caption(caption, where)
        captions.setdefault(image, []).extend([words] if words else [])
    return captions


def _read_lists(edition: Edition, root: Path, places: Sequence[Path]) -> dict[str, list[str]]:
    """Return the images of each split by the publisher's lists; empty without any."""
    found = {split: path for split, name in edition.lists.items() if (path := _find(places, name))}
    if found and len(found) < len(edition.lists):
        missing = next(name for split, name in edition.lists.items() if split not in found)
        raise UserError(f"{next(iter(found.values()))}: there is no {missing} with it; it comes with {edition.offered}")
    split_of: dict[str, str] = {}
    for split, path in found.items():
        for where, line in _lines(read_text(root, path), path):
            name = line.strip()
            if name in split_of:
                raise UserError(f"{where}: {short(name, 200)} is already in the split {split_of[name]!r}")
            split_of[name] = split
    return {split: [name for name, its in split_of.items() if its == split] for split in found}


def _read_karpathy(text: str, path: Path) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Return the captions of each image, and the images of each split."""
    content = parse_json(text, str(path))
    if not isinstance(content, dict) or "images" not in content:
        raise UserError(f"{path}: expected an object with the list `images`")
    captions: dict[str, list[str]] = {}
    splits: dict[str, list[str]] = {"train": [], "val": [], "test": []}
    wanted = {"filename": str, "split": str, "sentences": list}
    for place, (name, split, sentences) in enumerate(fields(content["images"], wanted, f"{path}: images")):
        where = f"{path}: images[{place}], {short(name, 200)!r}"
        if name in captions:
            raise UserError(f"{where}: the image is there twice")
        if split not in splits:
            raise UserError(f"{where}: `split` must be train, val or test, got {short(repr(split))}")
        raw = (tidy_caption(sentence, where) for (sentence,) in fields(sentences, {"raw": str}, f"{where}: sentences"))
        captions[name] = [caption for caption in raw if caption]
        splits[split].append(name)
    return captions, {split: names for split, names in splits.items() if names}


def _read_tokens(text: str, path: Path) -> Iterator[Row]:
    """Yield the captions of a publisher's token file: lines `IMAGE#NUMBER<TAB>caption`."""
    for where, line in _lines(text, path):
        label, tab, caption = line.partition("\t")
        image, mark, number = label.rpartition("#")
        if not tab or not mark or not number.isdecimal():
            raise UserError(f"{where}: expected IMAGE#NUMBER, a tab and a caption, got {short(repr(line))}")
        if image != NO_IMAGE:
            yield Row(image, number, caption, where)


def _read_results(text: str, path: Path) -> Iterator[Row]:
    """Yield the captions of Kaggle's Flickr30k: lines `image_name| comment_number| comment`, this one first."""
    for place, (where, line) in enumerate(_lines(text, path)):
        parts = [part.strip() for part in line.split("|", maxsplit=2)]
        if len(parts) == 2 and parts[0] == BROKEN:
            parts[1:] = parts[1].split(maxsplit=1)
        if len(parts) != 3 or parts[1].isdecimal() != (place > 0):
            raise UserError(f"{where}: expected image_name| comment_number| comment, got {short(repr(line))}")
        if place:
            image, number, caption = parts
            yield Row(image, number, caption, where)


def _read_captions(text: str, path: Path) -> Iterator[Row]:
    """Yield the captions of Kaggle's Flickr8k: a CSV with the columns image and caption."""
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        for number, row in enumerate(rows):
            where = f"{path}, line {rows.line_num}"
            if len(row) != 2 or (number == 0 and row != ["image", "caption"]):
                raise UserError(f"{where}: expected the columns image,caption, got {short(repr(row))}")
            if number:
                yield Row(row[0], str(number), row[1], where)
    except csv.Error as error:
        raise UserError(f"{path}, line {rows.line_num}: not CSV ({error})") from error


def _lines(text: str, path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", line


EDITIONS = (
    Edition(
        name="flickr8k",
        captions={"Flickr8k.token.txt": _read_tokens, "captions.txt": _read_captions},
        karpathy="dataset_flickr8k.json",
        lists={
            "train": "Flickr_8k.trainImages.txt",
            "val": "Flickr_8k.devImages.txt",
            "test": "Flickr_8k.testImages.txt",
        },
        folders=("Flicker8k_Dataset", "Flickr8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset", "Images", "images"),
        expected={"train": 6_000, "val": 1_000, "test": 1_000},
        offered="Flickr8k, https://hockenmaier.cs.illinois.edu/8k-pictures.html",
    ),
    Edition(
        name="flickr30k",
        captions={"results_20130124.token": _read_tokens, "results.csv": _read_results},
        karpathy="dataset_flickr30k.json",
        folders=("flickr30k-images", "flickr30k_images", "flickr30k_images/flickr30k_images"),
        expected={"train": 29_000, "val": 1_014, "test": 1_000},
        offered="Flickr30k, https://shannon.cs.illinois.edu/DenotationGraph/",
    ),
)
