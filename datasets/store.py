"""The store: one prepared split as memory-mapped arrays, written whole or not at all, and gone on with after a stop."""

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..files import cache_folder, digest_of, read_json, write_json
from .captioned import Batch, Chunk, Published, Source
from .card import write_card

FORMAT = 2
Progress = Callable[[int], None]

RESIDENT_BYTES = 64 << 20
"""Pixels read before a store gives back what is mapped, which is some times as much; the system caches it still."""
SAVE_SECONDS = 2.0
JOURNAL = "progress.json"
NAMES = ("captions.bin", "caption_ends.bin", "caption_counts.bin", "labels.bin", "embeddings.bin", "ids.jsonl",
         "scenes.jsonl", "digests.bin")  # fmt: skip


class Store:
    """A prepared split: a `CaptionedDataset` whose arrays lie in files and are mapped, not read.

    `images-S.npy` uint8 [N, 3, S, S] for each side S; `captions.bin`, the UTF-8 of all captions end to end, cut
    by the int64s of `caption_ends.bin`; `caption_counts.bin` int64 [N]; `labels.bin` int64 [N] or empty;
    `embeddings.bin` float32 [captions, D] or empty; `ids.jsonl`; `scenes.jsonl`, empty without ground truth;
    `digests.bin`, sha256 of each image with its captions, label and id; `manifest.json`; the data card.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_json(folder / "manifest.json")
        if manifest.get("format") != FORMAT:
            raise UserError(f"{folder}: a store of another version; remove the folder and prepare it again")
        self.folder = folder
        self.name: str = manifest["name"]
        self.split: str = manifest["split"]
        self.sides: tuple[int, ...] = tuple(manifest["sides"])
        self.image_size = self.sides[0]
        self.digest: str = manifest["digest"]
        self.class_names: tuple[str, ...] = tuple(manifest["class_names"])
        self.expected: int | None = manifest["expected"]
        self.zero_shot: bool = manifest["zero_shot"]
        self._images = {side: _MappedImages(folder / f"images-{side}.npy") for side in self.sides}
        text = folder / "captions.bin"
        self._text = np.asarray(np.memmap(text, mode="r")) if text.stat().st_size else np.zeros(0, np.uint8)
        self._ends = np.fromfile(folder / "caption_ends.bin", np.int64)
        counts = np.fromfile(folder / "caption_counts.bin", np.int64)
        self._first = np.concatenate([np.zeros(1, np.int64), counts.cumsum()])
        self._labels = np.fromfile(folder / "labels.bin", np.int64)
        width = manifest["embedding_width"]
        path = folder / "embeddings.bin"
        self._embeddings = np.memmap(path, np.float32, "r").reshape(-1, width) if width else None
        self.ids: list[str] = [json.loads(line) for line in _lines(folder / "ids.jsonl")]
        self._scene_lines: list[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"<{self.name}/{self.split}: {len(self):,} images of {self.image_size} px, {self.digest[:12]}>"

    @property
    def images(self) -> NDArray[np.uint8]:
        """The pixels at the largest side: uint8 [N, 3, S, S], mapped."""
        return self._images[self.image_size].array

    def batch(self, indices: Sequence[int] | NDArray[np.int64], draws: NDArray[np.float64] | None = None) -> Batch:
        """Return the images at `indices`, one caption each: by `draws` in [0, 1), or the first; "" if it has none."""
        at = np.asarray(indices, dtype=np.int64)
        counts = self._first[at + 1] - self._first[at]
        numbers = self._first[at] + (0 if draws is None else (draws * counts).astype(np.int64))
        captions = [self._caption(n) if k else "" for n, k in zip(numbers, counts, strict=True)]
        pixels = {side: torch.from_numpy(images.take(at)) for side, images in self._images.items()}
        return Batch(
            images=pixels.pop(self.image_size), captions=captions, ids=[self.ids[i] for i in at],
            labels=torch.from_numpy(self._labels[at]) if len(self._labels) else None, smaller=pixels,
            embeddings=None if self._embeddings is None else self._embedded(numbers, counts),
        )  # fmt: skip

    def labels(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the labels of the images at `indices`; empty where there are no classes."""
        return self._labels[indices] if len(self._labels) else self._labels

    def captions(self, index: int) -> list[str]:
        """Return all captions of one image."""
        return [self._caption(n) for n in range(self._first[index], self._first[index + 1])]

    def scene(self, index: int) -> dict[str, Any] | None:
        """Return the ground truth of one image, or None."""
        if self._scene_lines is None:
            self._scene_lines = _lines(self.folder / "scenes.jsonl")
        if not self._scene_lines:
            return None
        scene: dict[str, Any] = json.loads(self._scene_lines[index])
        return scene

    def _caption(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return bytes(self._text[start : self._ends[number]]).decode()

    def _embedded(self, numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> torch.Tensor:
        """Return the embeddings of the captions `numbers`; zeros for an image without any."""
        assert self._embeddings is not None
        rows = np.zeros((len(numbers), self._embeddings.shape[1]), np.float32)
        rows[counts > 0] = self._embeddings[numbers[counts > 0]]
        return torch.from_numpy(rows)


class _MappedImages:
    """An array of images in a file, whose mapped pages are given back now and then, so that memory stays flat."""

    def __init__(self, path: Path) -> None:
        mapped = np.load(path, mmap_mode="r")
        self.array: NDArray[np.uint8] = np.asarray(mapped)
        self._mmap: mmap.mmap = mapped._mmap
        self._touched = 0

    def take(self, at: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return copies of the images at `at`."""
        taken = self.array[at]
        self._touched += taken.nbytes
        if self._touched > RESIDENT_BYTES:
            self._touched = 0
            self._mmap.madvise(mmap.MADV_DONTNEED)
        return taken


def store_path(source: Source, split: str, image_size: int, smaller: Sequence[int] = ()) -> Path:
    """Return where the store of this source, split and sides lies or will lie."""
    if split not in source.splits:
        raise UserError(f"{source.name} has no split {split!r}; it has {', '.join(source.splits)}")
    sides = _sides(image_size, smaller)
    key = digest_of([FORMAT, source.name, split, sides, source.fingerprint(split)])[:12]
    return cache_folder() / "stores" / f"{source.name}-{split}-{'+'.join(map(str, sides))}-{key}"


def prepare(
    source: Source, split: str, image_size: int, progress: Progress = lambda done: None, smaller: Sequence[int] = ()
) -> Store:
    """Return the split as a store, decoding it now unless it was prepared before.

    The images are squares of `image_size`, and of each of the `smaller` sides, each dividing the next: means of
    whole blocks of its pixels, so all from one decode. `progress` is called with the number of images done. What an
    interrupted call wrote lies beside in a folder `.partial`, with which the next call goes on.
    """
    folder = store_path(source, split, image_size, smaller)
    if not (folder / "manifest.json").exists():
        partial = folder.with_name(f"{folder.name}.partial")
        with _alone(partial):
            if not (folder / "manifest.json").exists():
                _fill(partial, source, split, _sides(image_size, smaller), progress)
                # A folder without its manifest is none of ours, and no store.
                shutil.rmtree(folder, ignore_errors=True)
                os.rename(partial, folder)
                (folder / JOURNAL).unlink()
    return Store(folder)


def _sides(image_size: int, smaller: Sequence[int]) -> list[int]:
    sides = sorted({image_size, *smaller}, reverse=True)
    for larger, side in pairwise(sides):
        if side < 1 or larger % side:
            raise UserError(f"side {side}: must divide the next larger, {larger}, without a rest")
    return sides


@contextlib.contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """Wait until no other process prepares this store."""
    partial.parent.mkdir(parents=True, exist_ok=True)
    with open(partial.with_name(f".{partial.stem}.lock"), "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Growing:
    """Files that are only appended to, and a journal of how long each was when last all was well."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        folder.mkdir(exist_ok=True)
        self.journal = folder / JOURNAL
        kept: dict[str, Any] = read_json(self.journal) if self.journal.exists() else {"images": 0, "bytes": {}}
        if any(not (folder / name).exists() or (folder / name).stat().st_size < kept["bytes"][name]
               for name in kept["bytes"]):  # fmt: skip
            kept = {"images": 0, "bytes": {}}
        self.images: int = kept["images"]
        self.files: dict[str, BinaryIO] = {}
        for name in names:
            file = open(folder / name, "ab")
            file.truncate(kept["bytes"].get(name, 0))
            file.seek(0, os.SEEK_END)
            self.files[name] = file
        self._saved = time.monotonic()

    def save(self) -> None:
        """Note that `images` images are written whole, now and again; what is noted survives a loss of power."""
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.sync()

    def sync(self) -> None:
        """Write everything through to the disk, then the journal."""
        for file in self.files.values():
            file.flush()
            os.fsync(file.fileno())
        lengths = {name: file.tell() for name, file in self.files.items()}
        write_json(self.journal, {"images": self.images, "bytes": lengths})
        self._saved = time.monotonic()

    def close(self) -> None:
        """Close the files; what was not noted is cut off by the next call."""
        for file in self.files.values():
            file.close()


def _fill(folder: Path, source: Source, split: str, sides: list[int], progress: Progress) -> None:
    """Write what is missing of a split into `folder`; bad input leaves nothing behind."""
    total = source.size(split)
    if not total:
        raise UserError(f"{source.name}: the split {split!r} holds no images")
    growing = _Growing(folder, [*NAMES, *(f"images-{side}.npy" for side in sides)])
    try:
        if not growing.images:
            _write_headers(growing, sides, total)
        for chunk in source.chunks(split, sides[0], growing.images):
            _refuse_gaps(growing, _checked(chunk, source, sides[0]), source)
            _append(growing, chunk, sides)
            progress(growing.images)
            growing.save()
        if growing.images != total:
            raise UserError(f"{source.name}/{split}: {total} images were announced and {growing.images} came")
        growing.sync()
        _finish(folder, source, split, sides, total)
    except UserError:
        shutil.rmtree(folder)
        raise
    finally:
        growing.close()


def _write_headers(growing: _Growing, sides: list[int], total: int) -> None:
    for side in sides:
        header = {"descr": "|u1", "fortran_order": False, "shape": (total, 3, side, side)}
        np.lib.format.write_array_header_1_0(growing.files[f"images-{side}.npy"], header)


def _append(growing: _Growing, chunk: Chunk, sides: list[int]) -> None:
    files = growing.files
    pixels = [_block_means(chunk.images, side) for side in sides]
    for side, images in zip(sides, pixels, strict=True):
        files[f"images-{side}.npy"].write(images.data)
    encoded = [caption.encode() for captions in chunk.captions for caption in captions]
    counts = np.array([len(captions) for captions in chunk.captions], np.int64)
    ends = files["captions.bin"].tell() + np.array([len(caption) for caption in encoded], np.int64).cumsum()
    files["captions.bin"].write(b"".join(encoded))
    files["caption_ends.bin"].write(ends.tobytes())
    files["caption_counts.bin"].write(counts.tobytes())
    files["labels.bin"].write(np.array(chunk.labels, np.int64).tobytes())
    files["ids.jsonl"].write(b"".join(json.dumps(name).encode() + b"\n" for name in chunk.ids))
    files["scenes.jsonl"].write(b"".join(json.dumps(scene).encode() + b"\n" for scene in chunk.scenes))
    if chunk.embeddings is not None:
        files["embeddings.bin"].write(chunk.embeddings.tobytes())
    files["digests.bin"].write(b"".join(_image_digests(chunk, pixels, counts)))
    growing.images += len(chunk.ids)


def _refuse_gaps(growing: _Growing, chunk: Chunk, source: Source) -> None:
    """Raise UserError where some images have what others have not: which is whose would be lost."""
    for name, rows in (("labels.bin", chunk.labels), ("scenes.jsonl", chunk.scenes)):
        if growing.images and bool(rows) != bool(growing.files[name].tell()):
            what = name.partition(".")[0]
            raise UserError(f"{source.name}: all images must have {what}, or none; {chunk.ids[0]} begins to differ")
    before, floats = growing.files["caption_ends.bin"].tell() // 8, growing.files["embeddings.bin"].tell() // 4
    width = 0 if chunk.embeddings is None else chunk.embeddings.shape[1]
    if before and any(chunk.captions) and before * width != floats:
        widths = f"from {chunk.ids[0]} on they are {width} wide, before it {floats // before}"
        raise UserError(f"{source.name}: all captions must have embeddings of one width, or none; {widths}")


def _image_digests(
    chunk: Chunk, pixels: Sequence[NDArray[np.uint8]], counts: NDArray[np.int64]
) -> Iterator[bytes]:
    """Yield the sha256 of each image at all sides, with its captions, label, id and embeddings."""
    ends = counts.cumsum()
    for number, (captions, name) in enumerate(zip(chunk.captions, chunk.ids, strict=True)):
        content = hashlib.sha256(json.dumps([captions, chunk.labels[number : number + 1], name]).encode())
        for images in pixels:
            content.update(images[number].data)
        if chunk.embeddings is not None:
            content.update(chunk.embeddings[ends[number] - counts[number] : ends[number]].tobytes())
        yield content.digest()


def _block_means(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Return images [N, 3, S, S] at a side that divides S: the mean of each block, rounded half up."""
    factor = images.shape[-1] // side
    if factor == 1:
        return np.ascontiguousarray(images)
    blocks = images.reshape(len(images), 3, side, factor, side, factor)
    sums = blocks.sum((3, 5), dtype=np.uint32)
    means: NDArray[np.uint8] = ((sums + factor**2 // 2) // factor**2).astype(np.uint8)
    return means


def _checked(chunk: Chunk, source: Source, side: int) -> Chunk:
    """Return a source's chunk; raise UserError unless it is what the interface promises."""
    number = len(chunk.ids)
    wanted = (number, 3, side, side)
    if chunk.images.dtype != np.uint8 or chunk.images.shape != wanted:
        got = f"{chunk.images.dtype} {list(chunk.images.shape)}"
        raise UserError(f"{source.name}: expected images uint8 {list(wanted)}, got {got}")
    labels = len(chunk.labels)
    if len(chunk.captions) != number or labels not in (0, number) or len(chunk.scenes) not in (0, number):
        got = f"{len(chunk.captions)} lists of captions, {labels} labels, {len(chunk.scenes)} scenes"
        raise UserError(f"{source.name}: {number} images came with {got}")
    if labels and not 0 <= min(chunk.labels) <= max(chunk.labels) < len(source.class_names):
        wrong = next(label for label in chunk.labels if not 0 <= label < len(source.class_names))
        raise UserError(f"{source.name}: the label {wrong} is none of the {len(source.class_names)} classes")
    if chunk.embeddings is not None:
        given, captions = chunk.embeddings, sum(map(len, chunk.captions))
        plain = given.dtype == np.float32 and given.ndim == 2 and len(given) == captions
        if not plain or not np.isfinite(given).all():
            got = f"{given.dtype} {list(given.shape)}{' with NaN or infinity' if plain else ''}"
            raise UserError(f"{source.name}: expected finite embeddings float32 [{captions}, D], got {got}")
    return chunk


def _finish(folder: Path, source: Source, split: str, sides: list[int], total: int) -> None:
    """Write the manifest and the data card, the last of a store's files."""
    ids = _lines(folder / "ids.jsonl")
    if len(set(ids)) < len(ids):
        twice = next(name for name, uses in Counter(ids).items() if uses > 1)
        raise UserError(f"{source.name}/{split}: the id {twice} stands for two images")
    captions = (folder / "caption_ends.bin").stat().st_size // 8
    published = source if isinstance(source, Published) else None
    manifest = {
        "format": FORMAT, "name": source.name, "split": split, "sides": sides, "images": total, "captions": captions,
        "class_names": list(source.class_names),
        "digest": hashlib.sha256((folder / "digests.bin").read_bytes()).hexdigest(),
        "embedding_width": (folder / "embeddings.bin").stat().st_size // 4 // max(captions, 1),
        "expected": published.expected.get(split) if published else None,
        "zero_shot": published is not None and published.zero_shot,
    }  # fmt: skip
    write_json(folder / "manifest.json", manifest)
    write_card(Store(folder), folder)


def _lines(path: Path) -> list[str]:
    # Not splitlines(): a caption or an id may hold other characters that end a line.
    return path.read_text(encoding="utf-8").split("\n")[:-1]
