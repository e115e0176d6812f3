"""Emoji by ten artists: real captioned pictures from npm packages, in their ten styles."""

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import digest_of, digest_of_file
from . import emojibase, images, svg
from .emoji import STYLES, require_extra
from .emoji_icons import FILES, Icon, IconSet, by_code_points, by_names, names_of, read_icons
from .emoji_names import Emoji, key_of
from .emoji_old_names import OLD_NAMES
from .emoji_pictures import EmojiPictures, Picture, shuffled
from .emojibase import Emojibase, read_emojibase, spelling
from .near_duplicates import VERSION as NEAR_VERSION
from .npm_packages import Package, located
from .svg_processes import Drawers
from .user_files import relative_name

VERSION = 1
"""Raised when the same packages give other pictures, captions or splits than before."""

MAX_PROCESSES = 16
MIN_EACH = 64
"""Pictures that make it worth to start another process."""
AHEAD = 256
"""Pictures that are drawn before they are asked for."""


@dataclass(frozen=True)
class Artist:
    """One artist, or one look of an artist's set."""

    package: Package
    style: str
    """As captions say it."""


def _iconify(name: str, release: str) -> Package:
    return Package(f"@iconify-json/{name}", release, FILES)


ARTISTS = {
    "noto": Artist(_iconify("noto", "1.2.9"), "Noto emoji style, softly shaded"),
    "noto-v1": Artist(_iconify("noto-v1", "1.2.5"), "old Noto emoji style, round blobs"),
    "twemoji": Artist(_iconify("twemoji", "1.2.5"), STYLES["twemoji"]),
    "openmoji": Artist(_iconify("openmoji", "1.2.29"), STYLES["openmoji"]),
    "fluent-flat": Artist(_iconify("fluent-emoji-flat", "1.2.6"), "Fluent flat emoji style, no outlines"),
    "fluent-3d": Artist(
        Package("@lobehub/fluent-emoji-3d", "1.1.0", ("assets/",)), "Fluent 3D emoji style, glossy render"
    ),
    "fxemoji": Artist(_iconify("fxemoji", "1.2.2"), "Firefox OS emoji style, bold flat shapes"),
    "emojione": Artist(_iconify("emojione", "1.2.3"), "EmojiOne style, flat with soft shadows"),
    "emojione-v1": Artist(_iconify("emojione-v1", "1.2.3"), "first EmojiOne style, shaded cartoon"),
    "streamline": Artist(
        _iconify("streamline-emojis", "1.2.4"), "Streamline emoji style, dark outlines and pastel fill"
    ),
}
PACKAGES = (emojibase.PACKAGE, *(artist.package for artist in ARTISTS.values()))

Art = Mapping[str, Mapping[str, list[Icon] | list[Path]]]
"""By artist and by key of the emoji: its drawings, one or more."""


class EmojiFull(EmojiPictures):
    """The emoji of ten artists as a `Source`. The first use finds duplicates (minutes) and keeps what it found."""

    name = "emoji-full"

    def __init__(self, emojis: Mapping[str, Emoji], art: Art, digest: str) -> None:
        self._emojis = emojis
        self._art = art
        self._digest = digest

    def fingerprint(self, split: str) -> str:
        """Return a digest of the packages' content, the renderer and the rules here."""
        return self._digest

    def drawn(self) -> list[Picture]:
        """Return every picture of a named emoji, duplicates included, in an order decided by hash."""
        return shuffled(
            Picture(artist, ARTISTS[artist].style, self._emojis[key], number)
            for artist, drawings in self._art.items()
            for key, several in drawings.items()
            for number in range(1, len(several) + 1)
        )

    def render(self, pictures: Sequence[Picture], image_size: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the pictures in order, drawn on white: uint8 [3, image_size, image_size]."""
        number = min(os.cpu_count() or 1, MAX_PROCESSES, 1 + len(pictures) // MIN_EACH)
        pending: deque[Future[NDArray[np.uint8]]] = deque()
        with Drawers(number) as drawers, ThreadPoolExecutor(number) as pool:
            try:
                for picture in pictures:
                    pending.append(pool.submit(self._draw, picture, image_size, drawers))
                    if len(pending) > AHEAD:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _draw(self, picture: Picture, image_size: int, drawers: Drawers) -> NDArray[np.uint8]:
        art = self._art[picture.artist][picture.emoji.key][picture.drawing - 1]
        if isinstance(art, Path):
            return images.decode(art, image_size)
        return drawers.draw(art.body, art.box, image_size, f"{art.path}: icon {art.name!r}")


def open_source(root: Path | None) -> EmojiFull:
    """Return the source, from packages below `root` or fetched by npm; raise UserError on what is missing or wrong."""
    require_extra("emoji-full", ["resvg_py"])
    try:
        return _open(located("emoji-full", PACKAGES, root))
    except OSError as error:
        raise UserError(f"emoji-full: {error.filename or root}: {error.strerror or error}") from error


def _open(folders: Mapping[str, Path]) -> EmojiFull:
    base = read_emojibase(folders[emojibase.PACKAGE.name])
    contents = {package.spec: _digest_of_package(folders[package.name], package) for package in PACKAGES}
    digest = digest_of([VERSION, NEAR_VERSION, images.VERSION, svg.VERSION, version("resvg_py"), contents])
    return EmojiFull(base.emojis, _match(folders, base), digest)


def _match(folders: Mapping[str, Path], base: Emojibase) -> Art:
    """Return each artist's drawings by the emoji they show: by code points where the package has them, else by name."""
    matched: dict[str, Mapping[str, list[Icon] | list[Path]]] = {}
    sets: dict[str, IconSet] = {}
    for artist, described in ARTISTS.items():
        folder = folders[described.package.name]
        if described.package.wanted == FILES:
            sets[artist] = read_icons(folder)
        else:
            matched[artist] = _files_by_code_points(folder, base)
    # Packages with code points also tell how emoji were called before.
    known = {name: key for icons in sets.values() for name, key in names_of(icons).items() if key in base.emojis}
    for artist, icons in sets.items():
        old = OLD_NAMES.get(artist, {}).items()
        own = {spelling(name): base.keys.get(spelling(label), "") for name, label in old}
        keys = {**known, **base.keys, **own}
        matched[artist] = by_code_points(icons, base.emojis) if icons.keys else by_names(icons, keys)
    return matched


def _files_by_code_points(folder: Path, base: Emojibase) -> dict[str, list[Path]]:
    """Return the pictures in assets/ by key; their names are code points: "1f468-200d-1f680.webp"."""
    found = {}
    for path in sorted((folder / "assets").iterdir()):
        if re.fullmatch(r"[0-9a-f]{1,6}(-[0-9a-f]{1,6}){0,15}\.webp", path.name):
            relative_name(folder, path, str(path))
            if (key := key_of(path.stem.split("-"))) in base.emojis:
                found[key] = [path]
    return found


def _digest_of_package(folder: Path, package: Package) -> str:
    """Return a digest of the content of the wanted files."""
    paths = [folder / entry for entry in package.wanted]
    files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
    return digest_of([[file.relative_to(folder).as_posix(), digest_of_file(file)] for file in files])
