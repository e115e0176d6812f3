"""What is wrong with a prepared data set: images without captions, duplicates, leaks between splits."""

import hashlib
import statistics
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

from .store import Store


@dataclass(frozen=True, kw_only=True)
class SplitReport:
    """One split by itself."""

    images: int
    captions: int
    without_captions: int
    """Images that have none."""
    words_min: int
    """The words of a caption: fewest, median, most; 0 where there are no captions."""
    words_median: float
    words_max: int
    duplicates: tuple[tuple[str, ...], ...]
    """The ids of images with the same pixels, one tuple a picture."""


@dataclass(frozen=True, kw_only=True)
class PairReport:
    """What two splits have in common."""

    splits: tuple[str, str]
    same_images: tuple[tuple[str, str], ...]
    """Ids of images with the same pixels: of the first split, of the second; one pair a picture."""
    same_captions: int
    """How many different captions occur in both."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The audit of all splits of a data set."""

    splits: dict[str, SplitReport]
    pairs: tuple[PairReport, ...]

    @property
    def leaks(self) -> list[str]:
        """Say, in a sentence for each pair of splits, which images are in both; empty where all is well."""
        return [_sentence(pair) for pair in self.pairs if pair.same_images]

    def to_json(self) -> dict[str, Any]:
        """Return the report as a JSON-able dictionary, with the leaks."""
        return {**asdict(self), "leaks": self.leaks}

    def to_text(self) -> str:
        """Return the report for people: a line a split, a line for what two splits share, then the leaks."""
        lines = [
            f"{name}: {split.images:,} images, {split.captions:,} captions of {split.words_min} to "
            f"{split.words_max} words (median {split.words_median:g}), {split.without_captions} without a caption, "
            f"{sum(len(ids) - 1 for ids in split.duplicates)} duplicate images"
            for name, split in self.splits.items()
        ]
        lines += [
            f"{' and '.join(pair.splits)}: {len(pair.same_images)} images and {pair.same_captions:,} captions in both"
            for pair in self.pairs
        ]
        return "\n".join([*lines, *(f"LEAK: {leak}" for leak in self.leaks)])


def check(stores: Mapping[str, Store]) -> Report:
    """Return the audit of prepared splits, given by name at one size. Same images means: equal pixels."""
    ids_of = {split: _ids_by_pixels(store) for split, store in stores.items()}
    captions = {split: [store.captions(i) for i in range(len(store))] for split, store in stores.items()}
    distinct = {split: {text for texts in listed for text in texts} for split, listed in captions.items()}
    return Report(
        splits={split: _split_report(captions[split], ids_of[split]) for split in stores},
        pairs=tuple(
            PairReport(
                splits=(first, second),
                same_images=tuple(
                    (ids[0], ids_of[second][pixels][0])
                    for pixels, ids in ids_of[first].items()
                    if pixels in ids_of[second]
                ),
                same_captions=len(distinct[first] & distinct[second]),
            )
            for first, second in combinations(stores, 2)
        ),
    )


def _split_report(captions: list[list[str]], ids_of: Mapping[bytes, list[str]]) -> SplitReport:
    lengths = [len(caption.split()) for texts in captions for caption in texts] or [0]
    return SplitReport(
        images=len(captions),
        captions=sum(map(len, captions)),
        without_captions=sum(not texts for texts in captions),
        words_min=min(lengths),
        words_median=float(statistics.median(lengths)),
        words_max=max(lengths),
        duplicates=tuple(tuple(ids) for ids in ids_of.values() if len(ids) > 1),
    )


def _ids_by_pixels(store: Store) -> dict[bytes, list[str]]:
    """Return the ids of the images, by a digest of their pixels."""
    found: dict[bytes, list[str]] = defaultdict(list)
    for name, image in zip(store.ids, store.images, strict=True):
        found[hashlib.blake2b(image.tobytes(), digest_size=16).digest()].append(name)
    return found


def _sentence(pair: PairReport) -> str:
    number = len(pair.same_images)
    images = "1 image is" if number == 1 else f"{number} images are"
    first, second = pair.same_images[0]
    return f"{images} in both {pair.splits[0]} and {pair.splits[1]}, such as {first} and {second}"
