"""Reed's captions and class splits of birds and flowers, laid out as in his archives or in the GAN repositories."""

import os
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .image_files import ImageFile
from .images import Box
from .legacy_pickles import read_captions, read_class_info, read_embeddings, read_filenames
from .user_files import checked_caption, read_text, relative_name, short

HOME_PAGE = "https://github.com/reedscot/cvpr2016"
CLASS_LISTS = {"train": "trainvalclasses.txt", "test": "testclasses.txt"}
EMBEDDINGS = "char-CNN-RNN-embeddings.pickle"


@dataclass(frozen=True)
class Places:
    """Where the parts of a data set may lie."""

    root: Path
    """Nothing that lies outside is read, not even through a link."""
    folders: tuple[Path, ...]
    """The folders in which a part is looked for; the first that has it counts."""

    def find(self, *names: str) -> Path | None:
        """Return the first part that is there; raise UserError where it is a link that leaves `root`."""
        for path in (folder / name for folder in self.folders for name in names):
            if path.exists():
                relative_name(self.root, path, str(path))
                return path
        return None

    def need(self, what: str, offered: str, *names: str) -> Path:
        """Return the first part that is there; raise UserError saying what is missing and where it was looked for."""
        if found := self.find(*names):
            return found
        raise UserError(
            f"{self.root}: {what} missing; expected {' or '.join(names)} in one of "
            f"{', '.join(map(str, self.folders))}; offered at {offered}"
        )


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """One image as its publisher lists it, before anything is known of its split and captions."""

    key: str
    """How `filenames.pickle` calls it."""
    name: str
    path: Path
    label: int
    text: str
    """CLASS/IMAGE, the name of its captions without `.txt`."""
    box: Box | None = None


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All images that a publisher lists, and what is there of them."""

    places: Places
    archive: str
    """What Reed's archive of captions and class lists is called."""
    home_page: str
    """The name of the data set and where its publisher offers the images."""
    images: Sequence[ListedImage]
    present: Set[str]
    """The names of the image files that are there."""
    classes: Sequence[str]
    """The names of the classes in folders and class lists, in the order of labels."""


class Captions(NamedTuple):
    """The captions of one image, and on which of its lines each stood."""

    texts: tuple[str, ...]
    lines: tuple[int, ...]
    num_lines: int


class _Split(NamedTuple):
    images: list[ListedImage]
    source: Path
    ordered: bool
    """Whether the order is that of `filenames.pickle`, in which other pickles are written."""


def captioned_splits(listing: Listing) -> dict[str, list[ImageFile]]:
    """Return the images of `train` and `test` with their captions; raise UserError naming what is wrong.

    A split is the list of its `filenames.pickle` where there is one, else all images of the classes in
    `trainvalclasses.txt` or `testclasses.txt`. Captions come from `text_c10/CLASS/IMAGE.txt` (or `text/...`),
    one a line, else from `captions.pickle`. Where a split has `char-CNN-RNN-embeddings.pickle`, each caption
    gets its row; rows stand for lines, so that of an empty line is left out.
    """
    splits = {split: _read_split(listing, split) for split in CLASS_LISTS}
    _check_images(listing, splits)
    captions = _read_captions(listing, splits)
    files = {}
    for split, listed in splits.items():
        embeddings = _read_embeddings(listing.places, split, listed, captions[split])
        files[split] = [
            ImageFile(
                name=image.name, path=image.path, captions=lines.texts, label=image.label, box=image.box,
                embeddings=rows,
            )
            for image, lines, rows in zip(listed.images, captions[split], embeddings, strict=True)
        ]  # fmt: skip
    return files


def entries(root: Path, folder: Path) -> list[os.DirEntry[str]]:
    """Return what lies in a folder, by name, without hidden files; raise UserError at a link that leaves `root`."""
    with os.scandir(folder) as found:
        listed = sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name)
    for entry in listed:
        if entry.is_symlink():
            relative_name(root, Path(entry.path), entry.path)
    return listed


def caption_files(root: Path, folder: Path) -> list[str]:
    """Return the names CLASS/IMAGE, without `.txt`, of the captions in a folder such as `text_c10`."""
    return [
        f"{group.name}/{entry.name.removesuffix('.txt')}"
        for group in entries(root, folder)
        if group.is_dir()
        for entry in entries(root, Path(group.path))
        if entry.name.endswith(".txt")
    ]


def _read_split(listing: Listing, split: str) -> _Split:
    names = listing.places.find(f"{split}/filenames.pickle")
    if names:
        return _Split(_images_by_name(listing, split, names), names, True)
    offered = f"{HOME_PAGE} ({listing.archive})"
    what = f"the {split} split of the zero-shot division by classes is"
    classes = listing.places.need(what, offered, f"{split}/filenames.pickle", CLASS_LISTS[split])
    labels = _class_list(listing, classes)
    return _Split([image for image in listing.images if image.label in labels], classes, False)


def _images_by_name(listing: Listing, split: str, path: Path) -> list[ListedImage]:
    """Return the images in the order of a `filenames.pickle`, their classes checked against `class_info.pickle`."""
    known = {image.key: image for image in listing.images}
    found: dict[str, ListedImage] = {}
    for number, key in enumerate(read_filenames(path)):
        if key not in known or key in found:
            problem = "names an image twice" if key in found else "names an image that is not in the data set"
            raise UserError(f"{path}, entry {number}: {problem}, {short(repr(key), 200)}")
        found[key] = known[key]
    if info := listing.places.find(f"{split}/class_info.pickle"):
        _check_classes(list(found.values()), read_class_info(info), info)
    return list(found.values())


def _check_classes(images: Sequence[ListedImage], classes: Sequence[int], path: Path) -> None:
    if len(classes) != len(images):
        raise UserError(f"{path}: {len(classes)} classes for the {len(images)} images in filenames.pickle beside it")
    for number, (image, given) in enumerate(zip(images, classes, strict=True)):
        if given != image.label + 1:
            raise UserError(f"{path}, entry {number}: class {given}, but {image.name} is of class {image.label + 1}")


def _class_list(listing: Listing, path: Path) -> set[int]:
    label_of = {name: label for label, name in enumerate(listing.classes)}
    labels: set[int] = set()
    for number, line in enumerate(read_text(listing.places.root, path).split("\n"), start=1):
        name = line.strip()
        if not name:
            continue
        if name not in label_of or label_of[name] in labels:
            problem = "named twice" if name in label_of else f"none of the {len(label_of)} classes"
            raise UserError(f"{path}, line {number}: {short(repr(name))} is {problem}")
        labels.add(label_of[name])
    return labels


def _check_images(listing: Listing, splits: Mapping[str, _Split]) -> None:
    """Raise UserError where an image is missing or in both splits; equal classes are for `data check` to find."""
    train, test = splits["train"], splits["test"]
    names = {image.name for image in train.images}
    for image in test.images:
        if image.name in names:
            raise UserError(f"{test.source}: {image.name} is in the train split too, by {train.source}")
    for split in splits.values():
        if missing := [image for image in split.images if image.name not in listing.present]:
            others = f" and {len(missing) - 1:,} more are" if len(missing) > 1 else " is"
            place = f"{missing[0].path}: no such image, but it{others} in the split of {split.source}"
            raise UserError(f"{place}; they come with {listing.home_page}")


def _read_captions(listing: Listing, splits: Mapping[str, _Split]) -> dict[str, list[Captions]]:
    places = listing.places
    offered = f"{HOME_PAGE} ({listing.archive}, to be unpacked)"
    # Text before the pickle, wherever it lies: the words of the pickle have lost their punctuation.
    source = places.find("text_c10", "text") or places.need(
        "captions are", offered, "text_c10", "text", "captions.pickle"
    )
    if source.name != "captions.pickle":
        _check_caption_files(listing, splits, source)
        return {
            split: [_captions_of_lines(places.root, source / f"{image.text}.txt") for image in images]
            for split, (images, *_) in splits.items()
        }
    for split, (_, listed, ordered) in splits.items():
        _check_order(source, split, listed, ordered)
    pickled = read_captions(source, {split: len(images) for split, (images, *_) in splits.items()})
    return {
        split: [
            _captions(texts, [f"{source}, {image.name}"] * len(texts))
            for image, texts in zip(splits[split].images, pickled[split], strict=True)
        ]
        for split in splits
    }


def _check_caption_files(listing: Listing, splits: Mapping[str, _Split], folder: Path) -> None:
    there = caption_files(listing.places.root, folder)
    if unknown := sorted(set(there) - {image.text for image in listing.images}):
        raise UserError(f"{folder / unknown[0]}.txt: captions of an image that the data set does not list")
    for split, (images, *_) in splits.items():
        if missing := sorted({image.text for image in images}.difference(there)):
            lost = f"captions of {len(missing):,} {split} images are missing"
            raise UserError(f"{folder / missing[0]}.txt: no such file; {lost}, they come with {HOME_PAGE}")


def _check_order(path: Path, split: str, listed: Path, ordered: bool) -> None:
    if not ordered:
        raise UserError(
            f"{path}: is in the order of {split}/filenames.pickle, which is not there ({split} is by {listed.name}); "
            "add that file or move this one away"
        )


def _captions_of_lines(root: Path, path: Path) -> Captions:
    lines = read_text(root, path).removesuffix("\n").split("\n")
    return _captions(lines, [f"{path}, line {number}" for number in range(1, len(lines) + 1)])


def _captions(lines: Sequence[str], places: Sequence[str]) -> Captions:
    """Return the lines that are not empty; two U+FFFD in a row are what became of a space in the files."""
    clean = [line.replace("\ufffd\ufffd", " ").replace("\t", " ").strip() for line in lines]
    kept = tuple(number for number, line in enumerate(clean) if line)
    return Captions(tuple(checked_caption(clean[number], places[number]) for number in kept), kept, len(lines))


def _read_embeddings(
    places: Places, split: str, listed: _Split, captions: Sequence[Captions]
) -> Iterator[NDArray[np.float32] | None]:
    """Return the rows of each image's captions; None for all where there is no file of them."""
    path = places.find(f"{split}/{EMBEDDINGS}")
    if path is None:
        return iter([None] * len(captions))
    _check_order(path, split, listed.source, listed.ordered)
    embeddings = read_embeddings(path)
    if len(embeddings) != len(captions):
        raise UserError(f"{path}: embeddings of {len(embeddings)} images, but {split} has {len(captions)}")
    return (
        _rows(rows, texts, f"{path}, {image.name}")
        for rows, texts, image in zip(embeddings, captions, listed.images, strict=True)
    )


def _rows(embeddings: NDArray[np.float32], captions: Captions, where: str) -> NDArray[np.float32]:
    """Return [K, D] without the rows of empty lines, one row a caption."""
    if len(embeddings) == len(captions.texts):
        return embeddings
    if len(embeddings) == captions.num_lines:
        return embeddings[list(captions.lines)]
    raise UserError(
        f"{where}: {len(embeddings)} embeddings, but {len(captions.texts)} captions; "
        "move the file away to go on without embeddings"
    )
