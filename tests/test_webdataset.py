import gzip
import io
import json
import os
import struct
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts_scraped import captions, colour_in, picture, shards, write_tar

from t2ibench.datasets import tar_samples, webdataset
from t2ibench.datasets.captioned import Salvageable, Source
from t2ibench.datasets.image_files import place_of
from t2ibench.datasets.store import prepare
from t2ibench.datasets.webdataset import WebDataset, open_source
from t2ibench.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("T2IBENCH_CACHE", str(folder))
    return folder


def listed(source: WebDataset) -> dict[str, dict[str, list[str]]]:
    """Return the captions by split and id, once the pixels agree with all of them."""
    found: dict[str, dict[str, list[str]]] = {}
    for split in source.splits:
        found[split] = {}
        for chunk in source.chunks(split, 16):
            for image, texts, name in zip(chunk.images, chunk.captions, chunk.ids, strict=True):
                assert all(colour_in(image) in text for text in texts)
                assert name not in found[split]
                found[split][name] = texts
    return found


def all_captions(source: WebDataset) -> dict[str, list[str]]:
    return {name: texts for part in listed(source).values() for name, texts in part.items()}


def of_shards(*numbers: int, images: int = 6) -> dict[str, list[str]]:
    found = (10_000 * shard + 5 * place for shard in numbers for place in range(images))
    return {f"{number:09}": captions(number, 1) for number in found}


def one_line_error(root: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        source = open_source(root)
        for split in source.splits:
            list(source.chunks(split, 4))
    message = str(caught.value)
    assert "\n" not in message and len(message) < 800
    return message


def test_captions_lie_with_their_images_and_dead_links_are_counted(tmp_path: Path) -> None:
    source = open_source(shards(tmp_path / "My Shards"))
    assert isinstance(source, Source) and isinstance(source, Salvageable)
    assert source.name == "webdataset-my-shards" and source.class_names == ()
    assert all_captions(source) == of_shards(0, 1)
    assert sum(source.skipped.values()) == 4
    assert source.splits == ("train", "val", "test")


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train/00000.tar", "val/00000.tar", "test/00000.tar"], ("train", "val", "test")),
        (["Train/00000.tar", "validation/00000.tar"], ("train", "val")),
        (["cc3m-train-0000.tar", "cc3m-validation-0000.tar"], ("train", "val")),
        (["x_test.0.tar", "x_train.0.tar"], ("test", "train")),
        (["cc3m-train-0000.tar"], ("train",)),
    ],
)
def test_splits_of_folders_and_of_names(tmp_path: Path, names: list[str], splits: tuple[str, ...]) -> None:
    source = open_source(shards(tmp_path, names))
    assert set(source.splits) == set(splits)
    assert listed(source) == {split: of_shards(number) for number, split in enumerate(splits)}
    assert source.skipped == dict.fromkeys(splits, 2)


def test_splits_may_share_keys(tmp_path: Path) -> None:
    for name in ("train-0.tar", "val-0.tar"):
        shards(tmp_path, [name])
    assert listed(open_source(tmp_path)) == {"train": of_shards(0), "val": of_shards(0)}


def test_shards_without_splits_are_divided_by_their_keys(tmp_path: Path) -> None:
    files = [(f"{key}.png", picture(key, "PNG")) for key in range(400)]
    write_tar(tmp_path / "0.tar", files)
    source = open_source(tmp_path)
    train, val, test = (set(keys(source, split)) for split in ("train", "val", "test"))
    places = {str(key): place_of(str(key)) for key in range(400)}
    assert train == {key for key, place in places.items() if place < 0.90}
    assert val == {key for key, place in places.items() if 0.90 <= place < 0.95}
    assert len(train) + len(val) + len(test) == 400 and min(len(val), len(test)) >= 8


def keys(source: WebDataset, split: str) -> list[str]:
    return [name for chunk in source.chunks(split, 4) for name in chunk.ids]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 7])
def test_few_samples_leave_no_split_empty(tmp_path: Path, number: int) -> None:
    write_tar(tmp_path / "0.tar", [(f"{key}.png", picture(key, "PNG")) for key in range(number)])
    source = open_source(tmp_path)
    assert len(source.splits) == (1 if number < 3 else 3)
    assert sorted(all_captions(source)) == [str(key) for key in range(number)]


FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


@pytest.mark.parametrize("form", FORMATS)
def test_names_of_any_length_in_any_format(tmp_path: Path, form: int) -> None:
    names = ["./00.jpg", "./00.txt", "in/01.JPG", "in/01.txt", f"{'deep/' * 28}02.jpg", f"{'deep/' * 28}02.txt"]
    if form != tarfile.USTAR_FORMAT:
        names += [f"{'long' * 60}.jpg", f"{'long' * 60}.txt", "04.jpg", "04.txt"]
    with tarfile.open(tmp_path / "0.tar", "w", format=form) as tar:
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
        for place, name in enumerate(names):
            content = captions(place // 2, 1)[0].encode() if name.endswith("txt") else picture(place // 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    expected = {name.removeprefix("./").removesuffix(".txt"): captions(n, 1) for n, name in enumerate(names[1::2])}
    assert all_captions(open_source(tmp_path)) == expected


def test_hidden_files_and_other_kinds_are_passed_over(tmp_path: Path) -> None:
    names = [".DS_Store", "._0.jpg", "0.jpg", "._0.txt", "0.seg.png", "0.npy", "0.txt", "README", "notes.md"]
    contents = {"0.jpg": picture(0), "0.txt": b"a red circle"}
    write_tar(tmp_path / "0.tar", [(name, contents.get(name, b"junk")) for name in names])
    source = open_source(tmp_path)
    assert all_captions(source) == {"0": ["a red circle"]} and sum(source.skipped.values()) == 0


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({}, []),
        ({"txt": "one\n\n  two  words \r\n"}, ["one", "two words"]),
        ({"json": {"caption": "one\ntwo"}, "txt": "else"}, ["one two"]),
        ({"json": {"caption": ["one", " ", "two"]}}, ["one", "two"]),
        ({"json": {"caption": None}, "txt": "three"}, ["three"]),
        ({"json": {"key": 1}, "caption": "four", "cls": "817"}, ["four"]),
        ({"cls": "817"}, ["817"]),
        ({"txt": "\ufefffive"}, ["five"]),
        ({"json": {"caption": []}}, []),
        ({"json": {"text": ["five", "six"]}, "txt": "else"}, ["five", "six"]),
        ({"json": {"caption": [f"look {look}" for look in range(12)]}}, [f"look {look}" for look in range(12)]),
    ],
)
def test_where_captions_stand(tmp_path: Path, texts: dict[str, Any], said: list[str]) -> None:
    files = [(f"a.{kind}", (text if kind != "json" else json.dumps(text)).encode()) for kind, text in texts.items()]
    write_tar(tmp_path / "0.tar", [*files, ("a.png", picture(0, "PNG"))])
    (chunk,) = open_source(tmp_path).chunks("train", 4)
    assert chunk.ids == ["a"] and chunk.captions == [said]


lines = st.text(st.characters(exclude_categories=["Cc", "Cs", "Z"]), min_size=1, max_size=9)


@settings(max_examples=8, deadline=None)
@given(texts=st.lists(st.lists(lines, max_size=12), min_size=1, max_size=9), order=st.randoms(use_true_random=False))
def test_captions_of_any_number_stay_with_their_images(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]], order: Any
) -> None:
    root = tmp_path_factory.mktemp("any")
    files = []
    for number, said in enumerate(texts):
        text = (".txt", "\n".join(said).encode()) if number % 2 else (".json", json.dumps({"caption": said}).encode())
        sample = [(f"{number}{end}", content) for end, content in (text, (".png", picture(number, "PNG")))]
        order.shuffle(sample)
        files += sample
    write_tar(root / "0.tar", files)
    found = {}
    source = open_source(root)
    for split in source.splits:
        store = prepare(source, split, 16)
        for index, image in enumerate(store.images):
            number = int(store.ids[index])
            assert colour_in(image) in captions(number, 1)[0]
            found[number] = store.captions(index)
    assert found == dict(enumerate(texts))


def test_resuming_yields_the_rest(tmp_path: Path) -> None:
    files = [(f"{key:03}.png", picture(key, "PNG")) for key in range(300)]
    write_tar(tmp_path / "train-0.tar", files[:150])
    write_tar(tmp_path / "train-1.tar", files[150:])
    source = open_source(tmp_path)
    for start in (0, 1, 43, 150, 256, 299, 300):
        rest = list(source.chunks("train", 4, start))
        assert [name for chunk in rest for name in chunk.ids] == [f"{key:03}" for key in range(start, 300)]
        colours = [colour_in(image) for chunk in rest for image in chunk.images]
        assert all(name in captions(key, 1)[0] for key, name in zip(range(start, 300), colours, strict=True))


def test_an_image_of_endless_size_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tar_samples, "MAX_IMAGE_BYTES", 100)
    write_tar(tmp_path / "0.tar", SAMPLE)
    assert "bytes are too many for one image; at most 100" in one_line_error(tmp_path)


def test_the_index_is_kept_until_a_shard_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = shards(tmp_path)
    first = open_source(root)
    with monkeypatch.context() as patch:
        patch.setattr(webdataset, "samples", None)
        again = open_source(root)
    assert [again.fingerprint(split) for split in again.splits] == [first.fingerprint(split) for split in first.splits]
    assert all_captions(again) == of_shards(0, 1)
    os.utime(root / "00001.tar", ns=(0, 1))
    with pytest.raises(UserError, match="00001.tar: has changed since it was opened"):
        all_captions(again)
    changed = open_source(root)
    assert any(changed.fingerprint(split) != first.fingerprint(split) for split in first.splits)
    assert all_captions(changed) == of_shards(0, 1)


def test_memory_stays_flat_while_indexing(tmp_path: Path) -> None:
    def peak(number: int) -> int:
        jpg, txt = (".jpg", b"x" * 2000), (".txt", b"a thing")
        files = ((f"{key:06}{end}", content) for key in range(number) for end, content in (jpg, txt))
        write_tar(tmp_path / str(number) / "train.tar", files)
        tracemalloc.start()
        try:
            assert open_source(tmp_path / str(number)).size("train") == number
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    few, many = peak(300), peak(1500)
    assert (many - few) / 1200 < 200


def test_unreadable_images_are_salvaged_from(tmp_path: Path) -> None:
    files = [(f"{key}.png", picture(key, "PNG")) for key in range(5)]
    files[1] = ("1.png", files[1][1][:60])
    files[3] = ("3.png", b"")
    write_tar(tmp_path / "train.tar", files)
    source, problems = open_source(tmp_path).salvaged()
    assert [name for chunk in source.chunks("train", 4) for name in chunk.ids] == ["0", "2", "4"]
    assert len(problems) == 2 and "train.tar, image of '1': broken" in problems[0]
    assert "image of '3': the file is empty" in problems[1]
    assert source.fingerprint("train") != open_source(tmp_path).fingerprint("train")


Files = list[tuple[str | tarfile.TarInfo, bytes]]


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def pax(name: str, **records: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.pax_headers = {key.replace("__", "."): value for key, value in records.items()}
    return info


SAMPLE: Files = [("0.jpg", picture(0)), ("0.txt", b"a red circle")]
MEGABYTE = 1 << 20
BOMB = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    for kind, body in ((b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)), (b"IDAT", b""))
)
BAD_MEMBERS: list[tuple[Files, str]] = [
    ([("/etc/passwd.jpg", b"x")], "member '/etc/passwd.jpg': the name is absolute or holds '..'"),
    ([("../1.jpg", b"x")], "member '../1.jpg': the name is absolute or holds '..'"),
    ([("in/../../1.jpg", b"x")], "holds '..'"),
    ([("in\\..\\1.jpg", b"x")], "holds '..'"),
    ([("..", b"x")], "holds '..'"),
    ([(pax("1.jpg", path="../1.jpg"), b"x")], "'../1.jpg': the name is absolute"),
    ([("../" * 60 + "1.jpg", b"x")], "the name is absolute or holds '..'"),
    ([("a\x07.jpg", b"x")], "the name is empty or holds control characters"),
    ([("", b"x")], "the name is empty or holds"),
    ([(special("1.jpg", tarfile.SYMTYPE, "/etc/passwd"), b"")], "member '1.jpg': is a symbolic link"),
    ([(special("1.jpg", tarfile.LNKTYPE, "0.jpg"), b"")], "member '1.jpg': is a hard link"),
    ([(special("1.jpg", tarfile.CHRTYPE), b"")], "member '1.jpg': is a device"),
    ([(special("1.jpg", tarfile.FIFOTYPE), b"")], "member '1.jpg': is a pipe"),
    ([(special("1.jpg", tarfile.GNUTYPE_SPARSE), b"")], "member '1.jpg': is a sparse file"),
    ([(special("1.jpg", b"V"), b"")], "is of the unknown kind b'V'"),
    ([(special("in", tarfile.DIRTYPE), b"x")], "is a folder with 1 bytes of its own"),
    ([(pax("1.jpg", size="1000000000000"), b"x")], "a pax header sets 'size'"),
    ([(pax("1.jpg", GNU__sparse__map="0,9"), b"x")], "a pax header sets 'GNU.sparse.map'"),
    ([(pax("1.jpg", comment="x" * 70_000), b"x")], "an extension of 70,0"),
    ([("1.jpg", b"x"), *SAMPLE], "the files of '0' do not lie together, or two samples have this key"),
    ([("0.jpg", b"x")], "member '0.jpg': a second image of the key '0'"),
    ([("0.png", b"x")], "member '0.png': a second image of the key '0'"),
    ([("0.TXT", b"x")], "member '0.TXT': a second txt of the key '0'"),
    ([("1.jpg", b"x"), ("0.json", b"{}")], "the files of '0' do not lie together"),
    ([("0.json", b'{"caption": ')], "member '0.json': not JSON"),
    ([("0.json", b"[" * 100_000)], "member '0.json': not JSON that can be read"),
    ([("0.json", b"[1]")], "member '0.json': expected an object with `caption`, got [1]"),
    ([("0.json", b'{"caption": NaN}')], "`caption` must be a text or a list of texts, got nan"),
    ([("0.json", b'{"caption": ["a", 1]}')], "`caption` must be a text or a list of texts"),
    ([("0.json", b'{"caption": {"a": 1}}')], "`caption` must be a text or a list of texts"),
    ([("0.json", b'{"caption": "a\\u0007"}')], "member '0.json': control character '\\x07'"),
    ([("0.json", b'{"caption": "' + b"x" * 10**6 + b'"}')], "member '0.json': a caption of 1,000,000 characters"),
    ([("0.json", b"x" * MEGABYTE + b"x")], "1,048,577 bytes are too many for one json; at most 1,048,576"),
    ([("1.jpg", b"x"), ("1.txt", b"caf\xe9")], "member '1.txt': not UTF-8 (byte 0xe9 at 3)"),
    ([("1.jpg", b"x"), ("1.txt", b"a\x00b")], "member '1.txt': control character '\\x00'"),
    ([("1.jpg", b"x")], "0.tar, image of '1': not an image of a known format"),
    ([("1.jpg", b"")], "0.tar, image of '1': the file is empty"),
    ([("1.jpg", picture(0)[:300])], "0.tar, image of '1': broken or unreadable"),
    ([("1.png", BOMB)], "0.tar, image of '1': too many pixels"),
]


@pytest.mark.parametrize(("files", "said"), BAD_MEMBERS, ids=range(len(BAD_MEMBERS)))
def test_bad_members_are_named(tmp_path: Path, own_cache: Path, files: Files, said: str) -> None:
    write_tar(tmp_path / "set" / "0.tar", [*SAMPLE, *files])
    message = one_line_error(tmp_path / "set")
    assert str(tmp_path / "set" / "0.tar") in message and said in message
    written = {path.relative_to(tmp_path) for path in tmp_path.rglob("*")}
    assert written == {Path("set"), Path("set/0.tar")}
    assert not list(own_cache.rglob("*.jpg"))


def header_of(path: Path, member: bytes, **fields: bytes) -> None:
    """Overwrite fields of a member's header, and mend its checksum."""
    content = bytearray(path.read_bytes())
    at = content.index(member.ljust(100, b"\0"))
    places = {"name": (0, 100), "size": (124, 136), "kind": (156, 157)}
    for field, value in fields.items():
        first, last = places[field]
        content[at + first : at + last] = value.ljust(last - first, b"\0")
    content[at + 148 : at + 156] = b" " * 8
    content[at + 148 : at + 156] = b"%06o\0 " % sum(content[at : at + 512])
    path.write_bytes(content)


def cut(size: int) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(path.read_bytes()[:size])


def without_end(path: Path) -> None:
    content = path.read_bytes().rstrip(b"\0")
    path.write_bytes(content + bytes(-len(content) % 512))


def packed(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))


def packed_and_named(path: Path) -> None:
    packed(path)
    path.rename(path.with_suffix(".tar.gz"))


def second_archive(path: Path) -> None:
    whole = path.read_bytes()
    without_end(path)
    path.write_bytes(path.read_bytes() + bytes(512) + whole)


def link_from_outside(path: Path) -> None:
    path.rename(path.parent.parent / "outside.tar")
    path.symlink_to(path.parent.parent / "outside.tar")


def folder_of_that_name(path: Path) -> None:
    (path.parent / "1.tar").mkdir()


def pipe_of_that_name(path: Path) -> None:
    os.mkfifo(path.parent / "1.tar")


def broken_extension(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content.replace(b"mtime=", b"mtime ", 1))


SPOILT: list[tuple[Callable[[Path], Any], str]] = [
    (packed, "0.tar: compressed with gzip; unpack it with gzip -d"),
    (packed_and_named, "0.tar.gz: compressed; unpack it"),
    (lambda path: path.write_bytes(b"BZh91AY" * 200), "compressed with bzip2"),
    (lambda path: path.write_text("hello " * 200), "0.tar: not a tar archive"),
    (lambda path: path.write_bytes(b""), "0.tar: the archive is cut off, its end is missing"),
    (cut(400), "0.tar: the archive is cut off, its end is missing"),
    (cut(2000), "member '0.jpg': the archive is cut off, "),
    (without_end, "0.tar: the archive is cut off, its end is missing"),
    (second_archive, "0.tar: something follows the end of the archive"),
    (lambda path: header_of(path, b"0.jpg", size=b"77777777777"), "member '0.jpg': the archive is cut off"),
    (lambda path: header_of(path, b"0.jpg", size=b"\x80" + bytes(3) + b"\x01" * 8), "is not a number below 8 GiB"),
    (lambda path: header_of(path, b"0.jpg", size=b"-0000000100"), "is not a number below 8 GiB"),
    (lambda path: header_of(path, b"0.jpg", size=b"1_0"), "is not a number below 8 GiB"),
    (lambda path: header_of(path, b"0.jpg", name=b"caf\xe9.jpg"), "the name is not UTF-8"),
    (lambda path: header_of(path, b"0.jpg", size=b"00000000001"), "broken, there is no tar header at byte 2,048"),
    (lambda path: header_of(path, b"0.jpg", kind=b"x"), "a broken pax header"),
    (broken_extension, "a broken pax header"),
    (link_from_outside, "0.tar is a link that leaves"),
    (folder_of_that_name, "1.tar: is not a file"),
    (pipe_of_that_name, "1.tar: is not a file"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT, ids=range(len(SPOILT)))
def test_bad_archives_are_named(tmp_path: Path, spoil: Callable[[Path], Any], said: str) -> None:
    path = write_tar(tmp_path / "set" / "0.tar", SAMPLE)
    assert all_captions(open_source(path.parent)) == {"0": ["a red circle"]}
    spoil(path)
    message = one_line_error(path.parent)
    assert said in message and str(path.parent) in message


def test_the_root_holds_shards_of_one_kind(tmp_path: Path) -> None:
    assert "no shards; expected .tar files" in one_line_error(tmp_path)
    assert "--root" in one_line_error(None)
    shards(tmp_path, ["0.tar"])
    shards(tmp_path, ["train-1.tar"])
    assert "0.tar: its name says no split" in one_line_error(tmp_path)
    (tmp_path / "train-1.tar").rename(tmp_path / "1.tar")
    assert "is also in 0.tar; keys must differ within a split" in one_line_error(tmp_path)
    (tmp_path / "val").mkdir()
    (tmp_path / "1.tar").rename(tmp_path / "val" / "1.tar")
    assert "0.tar: lies beside the split folder val" in one_line_error(tmp_path)


def test_no_image_at_all_is_an_error(tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", [("a.txt", b"x"), ("b.txt", b"y")])
    assert "none of the 2 samples in 1 shards has an image" in one_line_error(tmp_path)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_damage_is_harmless_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    root = tmp_path_factory.mktemp("any")
    path = write_tar(root / "0.tar", SAMPLE)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, 5000))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.sampled_from([len(content), 1024, 3000]))])
    try:
        source = open_source(root)
        assert all(image.shape == (3, 4, 4) for chunk in source.chunks("train", 4) for image in chunk.images)
    except UserError as error:
        assert str(path) in str(error) or "none of the" in str(error)
        assert "\n" not in str(error)
