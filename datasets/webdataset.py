"""Captioned images in tar shards, as img2dataset, the WebDataset library and DALLE-pytorch write them."""

import hashlib
import io
import json
import os
import re
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import cache_folder, digest_of, whole_folder
from . import images
from .captioned import Chunk
from .decoding import in_order
from .image_files import chunk_size, place_of
from .imagefolder import SPLIT_NAMES
from .publishers import folders_in
from .tar_samples import samples
from .user_files import opened_root, relative_name, short

FORMAT = 2

SAMPLE = np.dtype([("shard", "i4"), ("at", "i8"), ("size", "i8"), ("place", "f8"), ("text_end", "i8")])
"""One sample of the index: its shard, where its image lies in it (-1 without one), its place among the splits (see
`place_of`), and where its text ends: a JSON list of the key and the captions."""


@dataclass(frozen=True)
class Shard:
    """One tar file."""

    path: Path
    name: str
    """Relative to the root."""
    split: str
    """Empty where no name says it."""
    state: tuple[int, int, int]
    """Size, time of change, time of change of the entry."""

    def read(self, at: int, size: int) -> bytes:
        """Return `size` bytes of the file from `at` on; raise UserError when it is no longer what it was."""
        try:
            with open(self.path, "rb", buffering=0) as file:
                if _state(os.fstat(file.fileno())) == self.state:
                    return os.pread(file.fileno(), size, at)
        except OSError as error:
            raise UserError(f"{self.path}: not readable ({error.strerror})") from error
        raise UserError(f"{self.path}: has changed since it was opened; start again")


@dataclass(frozen=True)
class Index:
    """What lies where in the shards."""

    shards: list[Shard]
    samples: NDArray[np.void]
    """[N] of `SAMPLE`, in the order of the shards."""
    text: NDArray[np.uint8]

    def key_and_captions(self, row: int) -> tuple[str, list[str]]:
        """Return what the sample is called, and its captions."""
        start = self.samples["text_end"][row - 1] if row else 0
        key, *captions = json.loads(bytes(self.text[start : self.samples["text_end"][row]]))
        return key, captions

    def decode(self, row: int, image_size: int) -> NDArray[np.uint8]:
        """Return the image of a sample: uint8 [3, image_size, image_size]."""
        shard_number, at, size, *_ = self.samples[row].item()
        shard = self.shards[shard_number]
        content = _Content(shard.read(at, size))
        content.name = f"{shard.path}, image of {short(repr(self.key_and_captions(row)[0]))}"
        return images.decode(content, image_size)


class _Content(io.BytesIO):
    name = ""


class WebDataset:
    """Tar shards as a `Source`; each image is read from its shard when it is decoded. `Salvageable` too."""

    class_names: tuple[str, ...] = ()

    def __init__(
        self, name: str, index: Index, rows: Mapping[str, NDArray[np.int64]], skipped: Mapping[str, int]
    ) -> None:
        self.name = name
        self.splits = tuple(rows)
        self.skipped = skipped
        """How many samples of each split are left out: captions whose image is missing, such as dead links."""
        self._index = index
        self._rows = rows

    def size(self, split: str) -> int:
        """Return how many images the split has."""
        return len(self._rows[split])

    def fingerprint(self, split: str) -> str:
        """Return a digest of the names and states of the shards, and of which of their samples make up the split."""
        chosen = self._index.samples[self._rows[split]]
        used, numbers = np.unique(chosen["shard"], return_inverse=True)
        shards = [(self._index.shards[number].name, *self._index.shards[number].state) for number in used]
        which = hashlib.sha256(numbers.astype("<i8").tobytes() + chosen["at"].tobytes()).hexdigest()
        return digest_of([FORMAT, images.VERSION, shards, which])

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split in the order of its shards; raise UserError at the first bad image."""
        parts = self._parts(split, start, chunk_size(image_size))
        for rows, pixels in in_order(lambda row: self._index.decode(row, image_size), parts):
            texts = [self._index.key_and_captions(row) for row in rows]
            yield Chunk(
                images=np.stack(pixels), captions=[captions for _, captions in texts], ids=[key for key, _ in texts]
            )

    def salvaged(self) -> tuple["WebDataset", list[str]]:
        """Return the source without its unreadable images, and one line on each of those; every image is decoded."""
        problems: list[str] = []
        sound: dict[str, NDArray[np.int64]] = {}
        for split in self.splits:
            found = [found for _, chunk in in_order(self._problem, self._parts(split, 0, 256)) for found in chunk]
            problems.extend(filter(None, found))
            sound[split] = self._rows[split][[not problem for problem in found]]
        rows = {split: rows for split, rows in sound.items() if len(rows)}
        return WebDataset(self.name, self._index, rows, self.skipped), problems

    def _parts(self, split: str, start: int, size: int) -> Iterator[list[int]]:
        rows = self._rows[split]
        return (rows[at : at + size].tolist() for at in range(start, len(rows), size))

    def _problem(self, row: int) -> str:
        try:
            self._index.decode(row, 16)
        except UserError as error:
            return str(error)
        return ""


def open_source(root: Path | None) -> WebDataset:
    """Return a folder of tar shards as a source; raise UserError naming shard and member of what is wrong.

    A sample is the adjacent files of one key, the name up to its first dot: an image (`jpg`, `jpeg`, `png`, `webp`)
    with `KEY.json`, whose `caption` or `text` is a caption or a list of them, or else with `KEY.txt`, `KEY.caption`
    or `KEY.cls`, one caption a line. Other files are ignored; samples without an image are left out and counted.

    Sub-folders named train, val (validation, valid, dev) and test are the splits; without those, shards whose names
    say so (`cc3m-train-0000.tar`). Otherwise the samples are divided 90 / 5 / 5 by a hash of their keys, as `divide`
    does. Only headers and captions are read here, once: the index is kept in the cache. Nothing is ever unpacked.
    """
    root = opened_root("webdataset", root)
    try:
        shards = _shards(root)
        index = _indexed(shards)
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error
    rows, skipped = _split_rows(root, index)
    slug = re.sub(r"[^a-z0-9]+", "-", root.name.lower()).strip("-")
    return WebDataset(f"webdataset-{slug or 'shards'}", index, rows, skipped)


def _shards(root: Path) -> list[Shard]:
    """Return the shards in order of split and name."""
    folders = [folder for folder in folders_in(root) if folder.name.lower() in SPLIT_NAMES]
    inner = [(path, SPLIT_NAMES[folder.name.lower()]) for folder in folders for path in _tar_files(root, folder)]
    outer = [(path, _split_in(path.stem)) for path in _tar_files(root, root)]
    if inner and outer:
        raise UserError(f"{outer[0][0]}: lies beside the split folder {inner[0][0].parent.name}; put it in one")
    named = [split for _, split in outer if split]
    if named and len(named) < len(outer):
        path = next(path for path, split in outer if not split)
        raise UserError(f"{path}: its name says no split (train, val or test) and those of other shards do")
    if not inner and not outer:
        raise UserError(f"{root}: no shards; expected .tar files there or in folders named train, val and test")
    return [
        Shard(path, path.relative_to(root).as_posix(), split, _state(path.stat()))
        for path, split in sorted(inner + outer)
    ]


def _tar_files(root: Path, folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        name = path.name.lower()
        if name.startswith(".") or not re.search(r"\.(tar|tgz|tar\.(gz|bz2|xz|zst|lz4))$", name):
            continue
        relative_name(root, path, str(folder))
        if not path.is_file():
            raise UserError(f"{path}: is not a file")
        if not name.endswith(".tar"):
            raise UserError(f"{path}: compressed; unpack it so that a plain .tar is left, with gunzip for .gz and .tgz")
        yield path


def _split_in(stem: str) -> str:
    words = re.split(r"[^a-z]+", stem.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def _state(state: os.stat_result) -> tuple[int, int, int]:
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _split_rows(root: Path, index: Index) -> tuple[dict[str, NDArray[np.int64]], dict[str, int]]:
    """Return the samples of each split that have an image, and how many have none."""
    has_image = index.samples["at"] >= 0
    if not has_image.any():
        raise UserError(f"{root}: none of the {len(has_image):,} samples in {len(index.shards)} shards has an image")
    names = ("train", "val", "test")
    if index.shards[0].split:
        of_shard = np.array([names.index(shard.split) for shard in index.shards])
        split = of_shard[index.samples["shard"]]
    else:
        place = index.samples["place"]
        split = np.searchsorted(_bounds(np.sort(place[has_image])), place, side="right")
    rows = {name: np.flatnonzero(has_image & (split == number)) for number, name in enumerate(names)}
    skipped = {name: int((~has_image & (split == number)).sum()) for number, name in enumerate(names)}
    there = [name for name in names if len(rows[name])]
    return {name: rows[name] for name in there}, {name: skipped[name] for name in there}


def _bounds(places: NDArray[np.float64]) -> list[float]:
    """Return the places at which val and test begin, so that of three or more samples each split has one."""
    number = len(places)
    if number < 3:
        return [1.0, 1.0]
    train = min(max(int(np.searchsorted(places, 0.90)), 1), number - 2)
    val = min(max(int(np.searchsorted(places, 0.95)), train + 1), number - 1)
    return [places[train], places[val]]


def _indexed(shards: list[Shard]) -> Index:
    """Return the index of the shards, from the cache if they were indexed before."""
    key = digest_of([FORMAT, [(shard.name, *shard.state) for shard in shards]])
    folder = cache_folder() / "webdataset" / key[:24]
    if not folder.exists():
        with whole_folder(folder) as temporary:
            _write_index(temporary, shards)
    return _read_index(folder, shards)


def _write_index(folder: Path, shards: list[Shard]) -> None:
    # Arrays of numbers, and text that goes to the file at once: Python objects would take ten times the memory.
    columns: dict[str, array[Any]] = {name: array("d" if name == "place" else "q") for name in SAMPLE.names or ()}
    with open(folder / "text.bin", "wb") as text:
        for number, shard in enumerate(shards):
            for sample in samples(shard.path):
                text.write(json.dumps([sample.key, *sample.captions], ensure_ascii=False).encode())
                at, size = (sample.image.at, sample.image.size) if sample.image else (-1, 0)
                values = (number, at, size, place_of(sample.key), text.tell())
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(value)
    table = np.empty(len(columns["at"]), SAMPLE)
    for name, column in columns.items():
        table[name] = column
    np.save(folder / "samples.npy", table)
    _refuse_twins(_read_index(folder, shards))


def _read_index(folder: Path, shards: list[Shard]) -> Index:
    text = folder / "text.bin"
    mapped = np.memmap(text, mode="r") if text.stat().st_size else np.zeros(0, np.uint8)
    return Index(shards, np.load(folder / "samples.npy"), mapped)


def _refuse_twins(index: Index) -> None:
    """Raise UserError where a key stands for two samples of one split."""
    splits = sorted({shard.split for shard in index.shards})
    split = np.array([splits.index(shard.split) for shard in index.shards])[index.samples["shard"]]
    order = np.lexsort((index.samples["place"], split))
    place, split = index.samples["place"][order], split[order]
    for near in np.flatnonzero((place[1:] == place[:-1]) & (split[1:] == split[:-1])):
        first, second = sorted(int(row) for row in order[near : near + 2])
        (key, _), (other, _) = index.key_and_captions(first), index.key_and_captions(second)
        if key == other:
            path, again = (index.shards[number].path for number in index.samples["shard"][[first, second]])
            named = short(repr(key))
            if path == again:
                raise UserError(f"{path}: the files of {named} do not lie together, or two samples have this key")
            raise UserError(f"{again}: the key {named} is also in {path.name}; keys must differ within a split")
