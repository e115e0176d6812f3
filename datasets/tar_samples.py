"""The captioned images in a tar shard: which files belong together, and what their captions are."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from ..errors import UserError
from .publishers import tidy_caption
from .tar_members import Member, described, members, refused
from .user_files import parse_json, short

IMAGES = frozenset(("jpg", "jpeg", "png", "webp"))
TEXTS = ("json", "txt", "caption", "cls")
"""Where captions may stand; the first that gives any counts."""
MAX_TEXT_BYTES = 1 << 20
MAX_IMAGE_BYTES = 1 << 27


class Sample(NamedTuple):
    """The files of one key: where the image lies, if there is one, and its captions."""

    key: str
    image: Member | None
    captions: list[str]


def samples(shard: Path) -> Iterator[Sample]:
    """Yield the samples of a shard in its order; raise UserError naming shard and member of what is wrong.

    A sample is the adjacent files of one key, the name up to the first dot after the last slash. Hidden files and
    those of other kinds are passed over. The captions of a sample without an image are not looked at.
    """
    with open(shard, "rb") as file:
        named = ((*_key_and_extension(member.name), member) for member in members(file))
        kinds = (found for found in named if found[0] and (found[1] in IMAGES or found[1] in TEXTS))
        for key, group in groupby(kinds, key=lambda found: found[0]):
            yield _sample(file, key, ((extension, member) for _, extension, member in group))


def _key_and_extension(name: str) -> tuple[str, str]:
    folder, slash, file = name.rpartition("/")
    stem, _, extension = file.partition(".")
    return (folder + slash + stem if stem else ""), extension.lower()


def _sample(file: BinaryIO, key: str, files: Iterable[tuple[str, Member]]) -> Sample:
    found: dict[str, Member] = {}
    texts: dict[str, str] = {}
    for extension, member in files:
        kind = "image" if extension in IMAGES else extension
        most = MAX_IMAGE_BYTES if kind == "image" else MAX_TEXT_BYTES
        if kind in found:
            raise refused(file, member.name, f"a second {kind} of the key {short(repr(key))}")
        if member.size > most:
            raise refused(file, member.name, f"{member.size:,} bytes are too many for one {kind}; at most {most:,}")
        found[kind] = member
        if kind != "image":
            texts[kind] = _read(file, member)
    if "image" not in found:
        return Sample(key, None, [])
    return Sample(key, found["image"], _captions(file, found, texts))


def _read(file: BinaryIO, member: Member) -> str:
    file.seek(member.at)
    content = file.read(member.size)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"not UTF-8 (byte {content[error.start]:#04x} at {error.start:,})"
        raise refused(file, member.name, what) from error


def _captions(file: BinaryIO, found: Mapping[str, Member], texts: Mapping[str, str]) -> list[str]:
    for extension in TEXTS:
        if extension in texts:
            where = described(file, found[extension].name)
            text = texts[extension]
            listed = _listed(text, where) if extension == "json" else text.split("\n")
            if captions := [words for caption in listed if (words := tidy_caption(caption, where))]:
                return captions
    return []


def _listed(content: str, where: str) -> list[str]:
    """Return the `caption`, or else the `text`, of a JSON object, one text or a list of them; empty without."""
    row = parse_json(content, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: expected an object with `caption`, got {short(repr(row))}")
    captions = row.get("caption", row.get("text"))
    captions = [captions] if isinstance(captions, str) else captions or []
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise UserError(f"{where}: `caption` must be a text or a list of texts, got {short(repr(captions))}")
    return captions
