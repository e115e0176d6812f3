"""Emoji as several artists draw them: captions, splits that hold families together, look-alikes left out."""

import hashlib
import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from ..files import cache_folder, read_json, write_json
from .captioned import Chunk
from .emoji_names import GROUPS, Emoji
from .near_duplicates import fingerprints, near_duplicates

SPLITS = ("train", "val", "test", "compose")
CHUNK_SIZE = 256
VAL_SHARE = 0.06
"""Of the pictures of known concepts, how many are held out for `val`."""

# Some cats' expressions are held out for `compose`; the other cats and the same expressions on human
# faces, which make their parts known, are always in training.
COMPOSED_CATS = ("1f639", "1f63b", "1f63f", "1f640")
THEIR_PARTS = ("1f638", "1f63a", "1f63c", "1f63d", "1f63e", "1f602", "1f60d", "1f622", "1f629", "1f62d")


@dataclass(frozen=True)
class Picture:
    """One artist's picture of an emoji."""

    artist: str
    style: str
    """How the artist draws, as captions say it."""
    emoji: Emoji
    drawing: int = 1
    """Counts the pictures of one emoji by one artist."""

    @property
    def id(self) -> str:
        """The artist and the key, as in "twemoji/1f600"; a second drawing is "streamline/1f600.2"."""
        return f"{self.artist}/{self.emoji.key}{f'.{self.drawing}' if self.drawing > 1 else ''}"

    def captions(self) -> list[str]:
        """Return two to four captions: the name, with the style, with keywords, and the formal name."""
        tones = "".join(f"{', ' if i == 0 else ' and '}{tone}" for i, tone in enumerate(self.emoji.tones))
        subject = f"{self.emoji.name}{tones}"
        captions = [subject, f"{subject}, {self.style}"]
        if self.emoji.keywords:
            captions.append(f"{subject} emoji: {', '.join(self.emoji.keywords)}")
        if self.emoji.second_name:
            captions.append(f"{self.emoji.second_name}{tones}")
        return captions


class EmojiPictures(ABC):
    """Pictures of emoji as a `Source`. The first use finds duplicates, which takes a while, and keeps what it found.

    `test` holds whole families of concepts, so that some words of their names were never trained on; `val` an
    artist's pictures of concepts that are known from another artist; `compose` known parts in unseen combinations:
    role x gender x skin tone, and cat x expression. All is decided by hashes of names.
    """

    name: str
    splits: tuple[str, ...] = SPLITS
    class_names: tuple[str, ...] = GROUPS

    @abstractmethod
    def drawn(self) -> list[Picture]:
        """Return every picture of a named emoji, duplicates included, in an order decided by hash."""

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """Return a digest of what the pictures and captions are made of."""

    @abstractmethod
    def render(self, pictures: Sequence[Picture], image_size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures in order, drawn on white: uint8 [3, image_size, image_size]."""

    def size(self, split: str) -> int:
        """Return how many images the split has."""
        return len(self.pictures[split])

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split in an order decided by hash, so that any part of it is a fair sample."""
        pictures = self.pictures[split][start:]
        drawn = self.render(pictures, image_size)
        for first in range(0, len(pictures), CHUNK_SIZE):
            part = pictures[first : first + CHUNK_SIZE]
            yield Chunk(
                images=np.stack(list(islice(drawn, len(part)))),
                captions=[picture.captions() for picture in part],
                ids=[picture.id for picture in part],
                labels=[GROUPS.index(picture.emoji.group) for picture in part],
            )

    @cached_property
    def pictures(self) -> dict[str, list[Picture]]:
        """The pictures of each split, without duplicates."""
        drawn = self.drawn()
        path = cache_folder() / self.name / f"duplicates-{self.fingerprint('train')[:12]}.json"
        if not path.exists():
            write_json(path, self.duplicates(drawn))
        duplicates = set(read_json(path))
        return divide(picture for picture in drawn if picture.id not in duplicates)

    def look_alikes(self, pictures: Sequence[Picture]) -> set[tuple[int, int]]:
        """Return the pairs (i < j) that look the same: nearly equal thumbnails, or near-duplicates as `audit` says."""
        small, large = (np.stack(list(self.render(pictures, side))) for side in (32, 64))
        pairs = similar(small)
        for thumbnails in (small, large):
            prints = [fingerprints(thumbnails[at : at + 512]) for at in range(0, len(thumbnails), 512)]
            near = near_duplicates(np.concatenate(prints), thumbnails.__getitem__)
            pairs.update((int(first), int(second)) for first, second in near)
        return pairs

    def duplicates(self, pictures: Sequence[Picture]) -> list[str]:
        """Return the ids of pictures that look like another one that stays.

        What stays is the one that is of no gender (OpenMoji draws many men as the person), then the one
        with the shortest name (Norway, not Bouvet Island).
        """
        order = sorted(pictures, key=lambda p: (p.emoji.gender != "person", len(p.emoji.name), p.id))
        dropped: set[int] = set()
        for first, second in sorted(self.look_alikes(order)):
            if first not in dropped:
                dropped.add(second)
        return sorted(order[index].id for index in dropped)


def shuffled(pictures: Iterable[Picture]) -> list[Picture]:
    """Return the pictures in an order decided by a hash of their ids."""
    return sorted(pictures, key=lambda picture: _place(picture.id))


def similar(thumbnails: NDArray[np.uint8]) -> set[tuple[int, int]]:
    """Return the pairs (i < j) of thumbnails, uint8 [N, 3, 32, 32], that show the same picture.

    The same means: they differ by under 0.9 grey levels of 255 in the mean and by over 40 nowhere.
    """
    from scipy.spatial import cKDTree

    # Means over 8 x 8 pixels differ by no more than the pixels do, so nothing is missed.
    coarse = thumbnails.reshape(-1, 3, 4, 8, 4, 8).mean((3, 5)).reshape(len(thumbnails), 48)
    near = cKDTree(coarse).query_pairs(0.9 * 48, p=1, output_type="ndarray")
    pixels = thumbnails.astype(np.int16)
    same = set()
    for i, j in near.tolist():
        difference = np.abs(pixels[i] - pixels[j])
        if difference.mean() < 0.9 and difference.max() <= 40:
            same.add((min(i, j), max(i, j)))
    return same


def divide(pictures: Iterable[Picture]) -> dict[str, list[Picture]]:
    """Return the pictures by split, in the order given; `EmojiPictures` says what the splits mean."""
    pictures = list(pictures)
    composed = _composed(picture.emoji for picture in pictures)
    kept_in_train = {*COMPOSED_CATS, *THEIR_PARTS}
    split_of: dict[str, str] = {}
    artists: dict[str, set[str]] = defaultdict(set)
    for picture in pictures:
        emoji = picture.emoji
        if emoji.key in composed:
            split_of[picture.id] = "compose"
        elif emoji.key not in kept_in_train and _in_test(emoji.family):
            split_of[picture.id] = "test"
        else:
            split_of[picture.id] = "train"
            artists[emoji.concept].add(picture.artist)
    held = {concept: _held_artists(concept, artists[concept]) for concept in artists.keys() - kept_in_train}
    parts: dict[str, list[Picture]] = {split: [] for split in SPLITS}
    for picture in pictures:
        split = split_of[picture.id]
        known_from_others = split == "train" and picture.artist in held.get(picture.emoji.concept, ())
        parts["val" if known_from_others else split].append(picture)
    return parts


def _held_artists(concept: str, artists: Iterable[str]) -> list[str]:
    """Return the artists whose pictures of a concept go to `val`: `VAL_SHARE` of them in the mean, never all."""
    order = sorted(artists, key=lambda artist: _place(f"val/{concept}/{artist}"))
    number = math.ceil(len(order) * VAL_SHARE - _place(f"val/{concept}"))
    return order[: min(number, len(order) - 1)]


def _composed(emojis: Iterable[Emoji]) -> set[str]:
    """Return the keys held out as unseen combinations: a gender of every fifth role, some tones of all."""
    roles: dict[str, set[str]] = defaultdict(set)
    people = {emoji.key: emoji for emoji in emojis if emoji.group == "People & Body"}
    for emoji in people.values():
        if emoji.tones and emoji.family != "couple" and not _in_test(emoji.family):
            roles[emoji.family].add(emoji.gender)
    roles = {family: genders for family, genders in roles.items() if len(genders) > 1}
    held_gender = {
        family: min(genders, key=lambda gender: _place(f"compose/{family}/{gender}"))
        for family, genders in roles.items()
        if _place(f"compose/{family}") < 0.20
    }
    return set(COMPOSED_CATS) | {
        key
        for key, emoji in people.items()
        if emoji.family in roles
        and (
            held_gender.get(emoji.family) == emoji.gender
            or (emoji.tones and _place(f"compose/{emoji.family}/{emoji.gender}/{emoji.tones}") < 0.10)
        )
    }


def _in_test(family: str) -> bool:
    return _place(f"test/{family}") < 0.10


def _place(name: str) -> float:
    """Return a number in [0, 1) that depends on nothing but the name."""
    return int(hashlib.sha256(f"emoji/{name}".encode()).hexdigest()[:12], 16) / 16**12
