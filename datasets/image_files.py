"""Captioned images in files of their own: what every source that lies in the user's folders has in common."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import digest_of
from . import images
from .captioned import Chunk
from .decoding import in_order

CHUNK_BYTES = 32 << 20


def chunk_size(image_size: int) -> int:
    """Return how many images of a side make a chunk, so that memory stays flat."""
    return max(1, min(256, CHUNK_BYTES // (3 * image_size**2)))


@dataclass(frozen=True, kw_only=True)
class ImageFile:
    """One captioned image on disk."""

    name: str
    """What it is called in its data set; the same wherever the folder lies."""
    path: Path
    captions: tuple[str, ...]
    label: int | None = None
    """Index into the source's `class_names`; None where there are no classes."""
    box: images.Box | None = None
    """The part of the image to use; all of it where None."""
    embeddings: NDArray[np.float32] | None = None
    """float32 [number of captions, D], the publisher's."""


class ImageFiles:
    """Lists of `ImageFile` as a `Source`, decoded by threads; `Published` and `Salvageable` too."""

    def __init__(
        self, name: str, files: Mapping[str, Sequence[ImageFile]], *, class_names: tuple[str, ...] = (),
        expected: Mapping[str, int] | None = None, zero_shot: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.splits = tuple(files)
        self.class_names = class_names
        self.expected = expected or {}
        self.zero_shot = zero_shot
        self.files = files

    def size(self, split: str) -> int:
        """Return how many images the split has."""
        return len(self.files[split])

    def fingerprint(self, split: str) -> str:
        """Return a digest of names, captions, labels, boxes, embeddings and the state of each file; none is opened.

        The state is size, time of change and time of change of the file's entry: content that changes under a
        time that was set back is still noticed.
        """
        rows = []
        for file in self.files[split]:
            state = _state(file.path)
            embeddings = None if file.embeddings is None else hashlib.sha256(file.embeddings.tobytes()).hexdigest()
            rows.append([file.name, file.captions, file.label, file.box, embeddings, *state])
        return digest_of([images.VERSION, self.class_names, rows])

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split in the order of its list; raise UserError at the first bad image."""
        files, size = self.files[split], chunk_size(image_size)
        parts = (files[at : at + size] for at in range(start, len(files), size))
        for part, pixels in in_order(lambda file: images.decode(file.path, image_size, file.box), parts):
            yield _chunk(part, pixels)

    def salvaged(self) -> tuple["ImageFiles", list[str]]:
        """Return the source without its unreadable images, and one line on each of those; every image is decoded."""
        problems: list[str] = []
        sound: dict[str, list[ImageFile]] = {}
        for split, files in self.files.items():
            ((_, found),) = in_order(_problem, [files])
            problems.extend(problem for problem in found if problem)
            sound[split] = [file for file, problem in zip(files, found, strict=True) if not problem]
        return ImageFiles(
            self.name, {split: files for split, files in sound.items() if files}, class_names=self.class_names,
            expected=self.expected, zero_shot=self.zero_shot,
        ), problems  # fmt: skip


def divide(files: Sequence[ImageFile]) -> dict[str, list[ImageFile]]:
    """Return the images divided into train, val and test, about 90 / 5 / 5, by a hash of their names.

    An image keeps its split when others come or go, save that of three or more images at least one falls
    to each split. Fewer than three are all train.
    """
    if len(files) < 3:
        return {"train": list(files)}
    place = {file.name: place_of(file.name) for file in files}
    order = sorted(files, key=lambda file: place[file.name])
    train = min(max(sum(place[file.name] < 0.90 for file in files), 1), len(files) - 2)
    test = min(max(sum(place[file.name] < 0.95 for file in files), train + 1), len(files) - 1)
    parts = {"train": order[:train], "val": order[train:test], "test": order[test:]}
    return {split: sorted(part, key=lambda file: file.name) for split, part in parts.items()}


def place_of(name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the name."""
    return int(hashlib.sha256(name.encode()).hexdigest()[:12], 16) / 16**12


def _problem(file: ImageFile) -> str:
    try:
        images.decode(file.path, 16, file.box)
    except UserError as error:
        return str(error)
    return ""


def _state(path: Path) -> tuple[int, int, int]:
    try:
        state = path.stat()
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from error
    return state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _chunk(files: Sequence[ImageFile], pixels: Sequence[NDArray[np.uint8]]) -> Chunk:
    labels = [file.label for file in files if file.label is not None]
    embeddings = [file.embeddings for file in files if file.embeddings is not None]
    return Chunk(
        images=np.stack(pixels),
        captions=[list(file.captions) for file in files],
        ids=[file.name for file in files],
        labels=labels,
        embeddings=np.concatenate(embeddings) if embeddings else None,
    )
