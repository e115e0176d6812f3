"""The files in a plain tar archive, found by its headers alone; nothing is unpacked, and tricks are refused.

The format is that of POSIX.1-1988 (ustar), with the extensions that writers use for long names: pax headers
(POSIX.1-2001) and GNU's `L`. Only regular files are given; folders are passed over; all else is an error.
"""

import os
import re
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from ..errors import UserError
from .user_files import UNPRINTABLE, short

BLOCK = 512
ZEROS = bytes(BLOCK)
MAX_EXTENSION = 1 << 16
"""Bytes of a header that extends another."""
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
KINDS = {b"1": "a hard link", b"2": "a symbolic link", b"3": "a device", b"4": "a device", b"6": "a pipe",
         b"S": "a sparse file"}  # fmt: skip
PAX_RECORD = re.compile(rb"([1-9][0-9]{0,5}) ([^=]+)=")
OCTAL = re.compile(rb"[ \0]*([0-7]+)[ \0]*")


class Member(NamedTuple):
    """A file in an archive: its name without a leading `./`, and the bytes it takes up."""

    name: str
    at: int
    size: int


class _Header(NamedTuple):
    name: bytes
    size: int
    kind: bytes


def members(file: BinaryIO) -> Iterator[Member]:
    """Yield the regular files of an opened archive in its order; the caller may read at other places in between.

    Raises UserError naming the archive and the member when the archive is compressed, cut off or no tar; when a name
    is absolute, holds `..` or control characters; at links, devices and sparse files; at sizes that an extension gives.
    """
    length = os.fstat(file.fileno()).st_size
    at, long_name = 0, b""
    while (header := _header(file, at)) is not None:
        raw = long_name or header.name
        content = at + BLOCK
        if content + header.size > length:
            missing = f"{content + header.size - length:,} bytes of it are missing"
            raise refused(file, raw, f"the archive is cut off, {missing}; write or download it again")
        at = content + -(-header.size // BLOCK) * BLOCK
        if header.kind in b"xgL":
            long_name = _long_name(file, content, header) or long_name
            continue
        long_name = b""
        name = _plain_name(file, raw)
        if header.kind not in b"05\0":
            kind = KINDS.get(header.kind, f"of the unknown kind {header.kind!r}")
            raise refused(file, raw, f"is {kind}; only plain files are read")
        if header.kind != b"5" and name[-1] != "/":
            yield Member(name.removeprefix("./"), content, header.size)
        elif header.size:
            raise refused(file, raw, f"is a folder with {header.size:,} bytes of its own")


def refused(file: BinaryIO, name: bytes | str, what: str) -> UserError:
    """Return the error that says what is wrong with a member of an archive."""
    return UserError(f"{described(file, name)}: {what}")


def described(file: BinaryIO, name: bytes | str) -> str:
    """Return how a message about a member of an archive begins."""
    text = name if isinstance(name, str) else name.decode(errors="replace")
    return f"{file.name}, member {short(repr(text), 200)}"


def _header(file: BinaryIO, at: int) -> _Header | None:
    """Return the header at a place, or None for the mark of the end: two blocks of zeros."""
    file.seek(at)
    block = file.read(BLOCK)
    if len(block) < BLOCK:
        raise UserError(f"{file.name}: the archive is cut off, its end is missing; write or download it again")
    if block == ZEROS:
        while not any(rest := file.read(1 << 20)) and rest:
            pass
        if rest:
            raise UserError(f"{file.name}: something follows the end of the archive, at byte {at + BLOCK:,}")
        return None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != _octal(block[148:156]):
        raise _no_header(file, at, block)
    name, size = _until_zero(block[:100]), _octal(block[124:136])
    if size < 0:
        raise refused(file, name, "its size is not a number below 8 GiB")
    # Only POSIX puts the head of a long name there; GNU has other things in its place.
    if block[257:263] == b"ustar\0" and (prefix := _until_zero(block[345:500])):
        name = prefix + b"/" + name
    return _Header(name, size, block[156:157])


def _no_header(file: BinaryIO, at: int, block: bytes) -> UserError:
    if at:
        return UserError(f"{file.name}: broken, there is no tar header at byte {at:,}; write or download it again")
    for magic, program in COMPRESSED.items():
        if block.startswith(magic):
            how = f"unpack it with {program} -d, and only that, so that a plain .tar is left"
            return UserError(f"{file.name}: compressed with {program}; {how}")
    return UserError(f"{file.name}: not a tar archive")


def _octal(field: bytes) -> int:
    """Return the number in a field of a header, or -1 when it is none; sizes from 8 GiB up are written otherwise."""
    found = OCTAL.fullmatch(field)
    return int(found[1], 8) if found else -1


def _long_name(file: BinaryIO, at: int, header: _Header) -> bytes:
    """Return the name that an extension gives the next member, b"" where it says something else."""
    if header.size > MAX_EXTENSION:
        raise refused(file, header.name, f"an extension of {header.size:,} bytes; at most {MAX_EXTENSION:,}")
    file.seek(at)
    content = file.read(header.size)
    if header.kind == b"L":
        return _until_zero(content)
    records = _pax_records(content)
    if records is None:
        raise refused(file, header.name, "a broken pax header")
    for key in records:
        if key == b"size" or key.startswith(b"GNU.sparse") or (header.kind == b"g" and key == b"path"):
            what = f"a pax header sets {short(repr(key.decode(errors='replace')))}"
            raise refused(file, header.name, f"{what}; write the archive without")
    return records.get(b"path", b"")


def _pax_records(content: bytes) -> dict[bytes, bytes] | None:
    """Return what a pax header says in lines `LENGTH KEY=VALUE`, the length counting the whole line; or None."""
    records, at = {}, 0
    while at < len(content):
        found = PAX_RECORD.match(content, at)
        end = at + int(found[1]) if found else 0
        if not found or not found.end() < end <= len(content) or content[end - 1] != ord("\n"):
            return None
        records[found[2]] = content[found.end() : end - 1]
        at = end
    return records


def _plain_name(file: BinaryIO, raw: bytes) -> str:
    try:
        name = raw.decode()
    except UnicodeDecodeError as error:
        raise refused(file, raw, "the name is not UTF-8") from error
    if not name or UNPRINTABLE.search(name):
        raise refused(file, raw, "the name is empty or holds control characters")
    if name[0] in "/\\" or (".." in name and ".." in re.split(r"[/\\]", name)):
        raise refused(file, raw, "the name is absolute or holds '..'; nothing of this archive is used")
    return name


def _until_zero(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
