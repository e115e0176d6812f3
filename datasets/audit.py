"""What is wrong with a prepared data set: leaks between splits, duplicates, odd images, captions missing."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .caption_statistics import CaptionStatistics, caption_statistics
from .near_duplicates import fingerprints, near_duplicates
from .store import Store

AT_ONCE = 512
SHOWN = 5
"""Problems of one kind that the text shows; the JSON has all."""


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split by itself."""

    images: int
    published: int | None
    """How many images its publisher ships, where that is known."""
    skipped: int
    """Samples that the source left out, such as dead links."""
    captions: CaptionStatistics
    duplicates: tuple[tuple[str, ...], ...]
    """The ids of images with the same pixels, one tuple a picture."""
    near_duplicates: tuple[tuple[str, str], ...]
    """Ids of two images that show the same picture with other pixels."""
    flat: tuple[str, ...]
    """The ids of images of one colour."""
    grey: int
    """Images without colour."""


@dataclass(frozen=True, kw_only=True)
class PairReport:
    """What two splits have in common; of ids the first is of the first split."""

    splits: tuple[str, str]
    same_images: tuple[tuple[str, str], ...]
    """Ids of images with the same pixels, one pair a picture."""
    near_duplicates: tuple[tuple[str, str], ...]
    """Ids of two images that show the same picture with other pixels."""
    same_captions: int
    """How many different captions occur in both; no leak, for one caption may fit many images."""
    same_classes: tuple[str, ...]
    """The classes that occur in both, where the splits are meant to share none."""

    @property
    def leaks(self) -> list[str]:
        """Say, in a sentence for each kind, what is in both splits and should not be."""
        both = " and ".join(self.splits)
        found = []
        if self.same_images:
            number = "1 image is" if len(self.same_images) == 1 else f"{len(self.same_images)} images are"
            found.append(f"{number} in both {both}, such as {' and '.join(self.same_images[0])}")
        if self.near_duplicates:
            number = "1 pair" if len(self.near_duplicates) == 1 else f"{len(self.near_duplicates)} pairs"
            such = " and ".join(self.near_duplicates[0])
            found.append(f"{number} of near-duplicates between {both}, such as {such}")
        if self.same_classes:
            number = "1 class is" if len(self.same_classes) == 1 else f"{len(self.same_classes)} classes are"
            found.append(f"{number} in both {both}, which should share none, such as {self.same_classes[0]}")
        return found


@dataclass(frozen=True, kw_only=True)
class Report:
    """The audit of all splits of a data set."""

    splits: dict[str, SplitReport]
    pairs: tuple[PairReport, ...]
    unreadable: tuple[str, ...] = ()
    """A line on each image that could not be read; the rest was audited without them."""

    @property
    def leaks(self) -> list[str]:
        """Say in sentences what is in two splits; empty where all is well."""
        return [leak for pair in self.pairs for leak in pair.leaks]

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON-able dictionary, with the leaks."""
        return {**asdict(self), "leaks": self.leaks}

    def to_text(self) -> str:
        """Return the report for people: some lines a split, a line for what two splits share, then what is wrong."""
        lines = [line for name, split in self.splits.items() for line in _split_lines(name, split)]
        lines += [
            f"{' and '.join(pair.splits)}: {len(pair.same_images):,} images, {len(pair.near_duplicates):,} "
            f"near-duplicates and {pair.same_captions:,} captions in both"
            for pair in self.pairs
        ]
        if any(pair.same_captions for pair in self.pairs):
            lines.append("(a caption in two splits is no leak: one caption may fit many images)")
        lines += _some("unreadable", self.unreadable)
        return "\n".join([*lines, *(f"LEAK: {leak}" for leak in self.leaks)])


def check(
    stores: Mapping[str, Store], unreadable: Sequence[str] = (), skipped: Mapping[str, int] = MappingProxyType({})
) -> Report:
    """Return the audit of prepared splits, given by name at one size.

    Same images have equal pixels; near-duplicates are as `near_duplicates.same_picture` says. `unreadable` and
    `skipped` are what the source says of what never came into a store.
    """
    looks = {split: _look(store) for split, store in stores.items()}
    near = _near(stores, looks)
    texts = {split: {text for i in range(len(store)) for text in store.captions(i)} for split, store in stores.items()}
    splits = {
        split: SplitReport(
            images=len(store), published=store.expected, skipped=skipped.get(split, 0),
            captions=caption_statistics(store.captions(index) for index in range(len(store))),
            duplicates=tuple(tuple(ids) for ids in looks[split].ids_of.values() if len(ids) > 1),
            near_duplicates=near[split, split], flat=looks[split].flat, grey=looks[split].grey,
        )
        for split, store in stores.items()
    }  # fmt: skip
    pairs = tuple(
        PairReport(
            splits=(first, second), same_images=_same_images(looks[first], looks[second]),
            near_duplicates=near[first, second], same_captions=len(texts[first] & texts[second]),
            same_classes=_same_classes(stores[first], stores[second]),
        )
        for first, second in combinations(stores, 2)
    )  # fmt: skip
    return Report(splits=splits, pairs=pairs, unreadable=tuple(unreadable))


@dataclass(frozen=True, kw_only=True)
class _Look:
    """One pass over the pixels of a split."""

    ids_of: Mapping[bytes, list[str]]
    """The ids of the images, by a digest of their pixels."""
    firsts: Mapping[int, bytes]
    """The digests of the first images with their pixels, by index."""
    prints: NDArray[np.float16]
    """The fingerprints of those."""
    flat: tuple[str, ...]
    grey: int


def _look(store: Store) -> _Look:
    ids_of: dict[bytes, list[str]] = defaultdict(list)
    firsts: dict[int, bytes] = {}
    prints, flat, grey = [], [], 0
    for at in _parts(len(store)):
        images = store.batch(at).images.numpy()
        for index, image in zip(at.tolist(), images, strict=True):
            digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            if digest not in ids_of:
                firsts[index] = digest
            ids_of[digest].append(store.ids[index])
        prints.append(fingerprints(images[[index in firsts for index in at.tolist()]]))
        flat += [store.ids[index] for index in at[(images.max((2, 3)) == images.min((2, 3))).all(1)]]
        grey += int((images == images[:, :1]).all((1, 2, 3)).sum())
    return _Look(ids_of=ids_of, firsts=firsts, prints=np.concatenate(prints), flat=tuple(flat), grey=grey)


def _near(
    stores: Mapping[str, Store], looks: Mapping[str, _Look]
) -> dict[tuple[str, str], tuple[tuple[str, str], ...]]:
    """Return the near-duplicates within and between splits, by the two splits in their order.

    None are sought where there is ground truth: of 20,000 drawn scenes some are alike to a pixel by chance, and
    their ground truth says they are two.
    """
    names = [name for name, store in stores.items() if store.scene(0) is None]
    places = [(name, index, digest) for name in names for index, digest in looks[name].firsts.items()]

    def images(numbers: NDArray[np.int64]) -> NDArray[np.uint8]:
        wanted = [places[number] for number in numbers.tolist()]
        return np.concatenate([stores[name].batch([index]).images.numpy() for name, index, _ in wanted])

    found: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    prints = [looks[name].prints for name in names]
    for first, second in near_duplicates(np.concatenate(prints), images).tolist() if prints else []:
        (a, i, one), (b, j, other) = places[first], places[second]
        if one != other:
            found[a, b].append((stores[a].ids[i], stores[b].ids[j]))
    return {(a, b): tuple(found[a, b]) for a in stores for b in stores}


def _same_images(first: _Look, second: _Look) -> tuple[tuple[str, str], ...]:
    return tuple((ids[0], second.ids_of[pixels][0]) for pixels, ids in first.ids_of.items() if pixels in second.ids_of)


def _same_classes(first: Store, second: Store) -> tuple[str, ...]:
    """Return the names of classes in both splits of a zero-shot data set."""
    if not (first.zero_shot and second.zero_shot and first.class_names):
        return ()
    one, other = (set(store.labels(np.arange(len(store))).tolist()) for store in (first, second))
    return tuple(first.class_names[label] for label in sorted(one & other))


def _split_lines(name: str, split: SplitReport) -> Iterator[str]:
    part = "" if split.published in (None, split.images) else f" of {split.published:,} published"
    said = split.captions
    yield (
        f"{name}: {split.images:,} images{part}, {said.captions:,} captions of {said.words_min} to "
        f"{said.words_max} words (median {said.words_median:g}), {said.without_captions:,} without a caption"
    )
    scripts = ", ".join(f"{script} {count:,}" for script, count in said.scripts.items()) or "none"
    yield f"  captions by the script of their letters: {scripts}; vocabulary {said.vocabulary:,} words"
    if split.skipped:
        yield f"  {split.skipped:,} samples without an image, or captions without one, were left out"
    if split.grey:
        yield f"  {split.grey:,} images without colour"
    problems = {
        "same pixels": [" = ".join(ids) for ids in split.duplicates],
        "near-duplicates": [" ~ ".join(ids) for ids in split.near_duplicates],
        "one flat colour": split.flat,
    }
    for what, lines in problems.items():
        yield from (f"  {line}" for line in _some(what, lines))


def _some(what: str, lines: Sequence[str]) -> list[str]:
    """Return the first of some problems, and how many more there are."""
    more = [f"{what}: {len(lines) - SHOWN:,} more, see --json"] if len(lines) > SHOWN else []
    return [f"{what}: {line}" for line in lines[:SHOWN]] + more


def _parts(number: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, number, AT_ONCE):
        yield np.arange(start, min(start + AT_ONCE, number))
