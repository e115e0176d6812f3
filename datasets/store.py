"""The store: one prepared split as memory-mapped arrays, written whole or not at all."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import UserError
from ..files import cache_folder, digest_of, read_json, whole_folder, write_json
from .captioned import Batch, Chunk, Source

FORMAT = 1
Progress = Callable[[int], None]


class Store:
    """A prepared split: a `CaptionedDataset` whose arrays lie in files and are mapped, not read.

    `images.npy` uint8 [N, 3, S, S]; `captions.bin`, the UTF-8 of all captions end to end, cut by
    `caption_ends.npy`; `first_caption.npy` int64 [N + 1], where the captions of each image begin;
    `labels.npy`; `ids.json`; `scenes.jsonl` where there is ground truth; `manifest.json`.
    """

    def __init__(self, folder: Path) -> None:
        manifest = read_json(folder / "manifest.json")
        if manifest.get("format") != FORMAT:
            raise UserError(f"{folder}: a store of another version; remove the folder and prepare it again")
        self.folder = folder
        self.name: str = manifest["name"]
        self.split: str = manifest["split"]
        self.image_size: int = manifest["image_size"]
        self.digest: str = manifest["digest"]
        self.class_names: tuple[str, ...] = tuple(manifest["class_names"])
        self.images: NDArray[np.uint8] = np.load(folder / "images.npy", mmap_mode="r")
        text = folder / "captions.bin"
        self._text = np.memmap(text, mode="r") if text.stat().st_size else np.zeros(0, np.uint8)
        self._ends: NDArray[np.int64] = np.load(folder / "caption_ends.npy", mmap_mode="r")
        self._first: NDArray[np.int64] = np.load(folder / "first_caption.npy", mmap_mode="r")
        self._labels: NDArray[np.int64] = np.load(folder / "labels.npy", mmap_mode="r")
        self.ids: list[str] = read_json(folder / "ids.json")
        self._scene_lines: list[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"<{self.name}/{self.split}: {len(self):,} images of {self.image_size} px, {self.digest[:12]}>"

    def batch(self, indices: Sequence[int] | NDArray[np.int64], rng: np.random.Generator | None = None) -> Batch:
        """Return the images at `indices` with one caption each: drawn by `rng`, or the first; "" where it has none."""
        at = np.asarray(indices, dtype=np.int64)
        counts = self._first[at + 1] - self._first[at]
        chosen = np.zeros_like(at) if rng is None else (rng.random(len(at)) * counts).astype(np.int64)
        numbers = self._first[at] + chosen
        captions = [self._caption(n) if k else "" for n, k in zip(numbers, counts, strict=True)]
        labels = torch.from_numpy(np.array(self._labels[at])) if len(self._labels) else None
        ids = [self.ids[i] for i in at]
        return Batch(images=torch.from_numpy(self.images[at]), captions=captions, ids=ids, labels=labels)

    def captions(self, index: int) -> list[str]:
        """Return all captions of one image."""
        return [self._caption(n) for n in range(self._first[index], self._first[index + 1])]

    def scene(self, index: int) -> dict[str, Any] | None:
        """Return the ground truth of one image, or None."""
        path = self.folder / "scenes.jsonl"
        if self._scene_lines is None:
            self._scene_lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        if not self._scene_lines:
            return None
        scene: dict[str, Any] = json.loads(self._scene_lines[index])
        return scene

    def _caption(self, number: int) -> str:
        start = self._ends[number - 1] if number else 0
        return bytes(self._text[start : self._ends[number]]).decode()


def store_path(source: Source, split: str, image_size: int) -> Path:
    """Return where the store of this source, split and size lies or will lie."""
    if split not in source.splits:
        raise UserError(f"{source.name} has no split {split!r}; it has {', '.join(source.splits)}")
    key = digest_of([FORMAT, source.name, split, image_size, source.fingerprint(split)])[:12]
    return cache_folder() / "stores" / f"{source.name}-{split}-{image_size}-{key}"


def prepare(source: Source, split: str, image_size: int, progress: Progress = lambda done: None) -> Store:
    """Return the split as a store, decoding it now unless it was prepared before.

    `progress` is called with the number of images done. An interrupted call leaves nothing behind.
    """
    folder = store_path(source, split, image_size)
    if not (folder / "manifest.json").exists():
        with whole_folder(folder) as temporary:
            _write(temporary, source, split, image_size, progress)
    return Store(folder)


def _write(folder: Path, source: Source, split: str, image_size: int, progress: Progress) -> None:
    total = source.size(split)
    if not total:
        raise UserError(f"{source.name}: the split {split!r} holds no images")
    shape = (total, 3, image_size, image_size)
    images = np.lib.format.open_memmap(folder / "images.npy", mode="w+", dtype=np.uint8, shape=shape)
    content = hashlib.sha256()
    ends: list[int] = []
    first: list[int] = [0]
    labels: list[int] = []
    ids: list[str] = []
    text_bytes = 0
    with open(folder / "captions.bin", "wb") as text, open(folder / "scenes.jsonl", "w", encoding="utf-8") as truth:
        for chunk in source.chunks(split, image_size):
            images[len(ids) : len(ids) + len(chunk.ids)] = chunk.images
            content.update(_chunk_bytes(chunk))
            for captions in chunk.captions:
                for encoded in (caption.encode() for caption in captions):
                    text.write(encoded)
                    text_bytes += len(encoded)
                    ends.append(text_bytes)
                first.append(len(ends))
            labels.extend(chunk.labels)
            ids.extend(chunk.ids)
            truth.writelines(json.dumps(scene) + "\n" for scene in chunk.scenes)
            progress(len(ids))
    if len(ids) != total:
        raise UserError(f"{source.name}/{split}: {total} images were announced and {len(ids)} came")
    images.flush()
    if not (folder / "scenes.jsonl").stat().st_size:
        (folder / "scenes.jsonl").unlink()
    np.save(folder / "caption_ends.npy", np.array(ends, np.int64))
    np.save(folder / "first_caption.npy", np.array(first, np.int64))
    np.save(folder / "labels.npy", np.array(labels, np.int64))
    write_json(folder / "ids.json", ids)
    manifest = {"format": FORMAT, "name": source.name, "split": split, "image_size": image_size, "images": total,
                "captions": len(ends), "class_names": list(source.class_names), "digest": content.hexdigest()}
    write_json(folder / "manifest.json", manifest)


def _chunk_bytes(chunk: Chunk) -> bytes:
    """Return what the digest covers, one image after another, so that the size of the chunks does not matter."""
    labels: list[int | None] = list(chunk.labels) or [None] * len(chunk.ids)
    rows = zip(chunk.images, chunk.captions, labels, chunk.ids, strict=True)
    return b"".join(
        image.tobytes() + json.dumps([captions, label, name]).encode() for image, captions, label, name in rows
    )
