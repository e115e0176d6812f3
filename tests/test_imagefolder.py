import json
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2ibench.datasets.captioned import Source
from t2ibench.datasets.image_files import ImageFiles, divide
from t2ibench.datasets.imagefolder import open_source
from t2ibench.datasets.store import Store, prepare
from t2ibench.errors import UserError


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def draw(path: Path, level: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), (level % 256, 50, 100)).save(path)


def folder_of(root: Path, rows: Iterable[dict[str, Any]], metadata: str = "metadata.jsonl") -> Path:
    """Write an image for each row and the rows themselves as `metadata`."""
    target = root / metadata
    target.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for level, row in enumerate(rows):
        draw(target.parent / row["file_name"], level)
        lines.append(json.dumps(row, ensure_ascii=False))
    target.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return root


def all_captions(source: ImageFiles) -> dict[str, list[str]]:
    return {
        name: captions
        for split in source.splits
        for chunk in source.chunks(split, 4)
        for name, captions in zip(chunk.ids, chunk.captions, strict=True)
    }


def one_line_error(root: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        source = open_source(root)
        for split in source.splits:
            list(source.chunks(split, 4))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_metadata_text_is_a_caption_or_a_list_of_them(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "a.png", "text": "one"},
        {"file_name": "deep/b.png", "text": ["two", " three\n"]},
        {"file_name": "./c.png", "text": []},
    ]
    source = open_source(folder_of(tmp_path / "My Set", rows))
    assert isinstance(source, Source) and source.name == "folder-my-set"
    assert all_captions(source) == {"a.png": ["one"], "deep/b.png": ["two", "three"], "c.png": []}


def test_side_files_hold_one_caption_a_line(tmp_path: Path) -> None:
    texts = {"a.png": "one\n\n  two  \r\n", "in/b.jpg": "\ufeffthree", ".hidden/c.png": "x"}
    for name, text in texts.items():
        draw(tmp_path / name)
        (tmp_path / name).with_suffix(".txt").write_bytes(text.encode())
    draw(tmp_path / ".d.png")
    assert all_captions(open_source(tmp_path)) == {"a.png": ["one", "two"], "in/b.jpg": ["three"]}


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    rows = [{"file_name": "a.png", "text": "one\u2028two"}, {"file_name": "b.png", "text": "three"}]
    root = folder_of(tmp_path, rows)
    (root / "metadata.jsonl").write_bytes((root / "metadata.jsonl").read_bytes().replace(b"\n", b"\r\n\n"))
    assert all_captions(open_source(root)) == {"a.png": ["one\u2028two"], "b.png": ["three"]}


def test_images_match_their_captions_at_any_number_of_chunks(tmp_path: Path) -> None:
    rows = [{"file_name": f"{level}.png", "text": f"level {level % 256}"} for level in range(700)]
    source = open_source(folder_of(tmp_path, rows))
    assert sum(source.size(split) for split in source.splits) == 700
    for split in source.splits:
        chunks = list(source.chunks(split, 4))
        assert [len(chunk.ids) for chunk in chunks[:-1]] == [256] * (len(chunks) - 1)
        for chunk in chunks:
            assert [f"level {image[0, 0, 0]}" for image in chunk.images] == [c[0] for c in chunk.captions]


@pytest.mark.parametrize(
    ("folders", "splits"),
    [
        (["train", "val", "test"], ("train", "val", "test")),
        (["Test", "validation"], ("val", "test")),
        (["dev", "train"], ("train", "val")),
    ],
)
def test_split_folders_are_normalised(tmp_path: Path, folders: list[str], splits: tuple[str, ...]) -> None:
    for folder in folders:
        folder_of(tmp_path, [{"file_name": "a.png", "text": folder}], f"{folder}/metadata.jsonl")
    source = open_source(tmp_path)
    assert source.splits == splits
    assert all_captions(source) == {f"{folder}/a.png": [folder] for folder in folders}


def test_splits_of_side_files(tmp_path: Path) -> None:
    for split in ("train", "test"):
        draw(tmp_path / split / "a.png")
        (tmp_path / split / "a.txt").write_text(split)
    assert all_captions(open_source(tmp_path)) == {"train/a.png": ["train"], "test/a.png": ["test"]}


def test_metadata_at_the_root_serves_the_split_folders(tmp_path: Path) -> None:
    rows = [{"file_name": f"{split}/a.png", "text": split} for split in ("train", "dev")]
    source = open_source(folder_of(tmp_path, rows))
    assert source.splits == ("train", "val")
    assert all_captions(source) == {"train/a.png": ["train"], "dev/a.png": ["dev"]}


def test_labels_become_classes_where_every_line_has_one(tmp_path: Path) -> None:
    rows = [{"file_name": f"{i}.png", "text": "x", "label": label} for i, label in enumerate([10, 9, 10])]
    source = open_source(folder_of(tmp_path / "a", rows))
    assert source.class_names == ("9", "10")
    labels = {c.ids[0]: c.labels for split in source.splits for c in source.chunks(split, 4)}
    assert labels == {"0.png": [1], "1.png": [0], "2.png": [1]}
    del rows[1]["label"]
    source = open_source(folder_of(tmp_path / "b", rows))
    assert source.class_names == () and next(source.chunks("train", 4)).labels == []


def names(parts: dict[str, list[Any]]) -> dict[str, set[str]]:
    return {split: {file.name for file in files} for split, files in parts.items()}


def test_division_by_hash_is_stable_and_leaves_no_split_empty(tmp_path: Path) -> None:
    source = open_source(folder_of(tmp_path, ({"file_name": f"{i}.png", "text": "x"} for i in range(400))))
    files = sorted((file for part in source.files.values() for file in part), key=lambda file: file.name)
    few, many = names(divide(files[::2])), names(divide(files))
    assert set().union(*many.values()) == {file.name for file in files}
    assert all(few[split] <= many[split] for split in few)
    assert 8 <= len(many["val"]) <= 40 and 8 <= len(many["test"]) <= 40
    for number in range(3, 12):
        assert all(divide(files[number : 2 * number]).values())
    assert list(divide(files[:2])) == ["train"]


LONG = "x" * 100_001
BAD_LINES = [
    ('{"file_name": "a.png"', "not JSON"),
    ("[" * 100_000, "not JSON"),
    ('["a.png", "x"]', "expected an object"),
    ('{"file_name": "a.png", "text": "x", "label": 1.5}', "`label` must be a whole number or text, got 1.5"),
    ('{"text": "x"}', "no column `file_name`"),
    ('{"file_name": "a.png", "caption": "x"}', "no column `text`; the columns are 'file_name', 'caption'"),
    ('{"file_name": 3, "text": "x"}', "`file_name` must be the name of a file"),
    ('{"file_name": "", "text": "x"}', "`file_name` must be the name of a file"),
    ('{"file_name": "a\\u0000.png", "text": "x"}', "`file_name` must be the name of a file"),
    ('{"file_name": "a\\ud800.png", "text": "x"}', "`file_name` must be the name of a file"),
    ('{"file_name": "/etc/passwd", "text": "x"}', "must be relative"),
    ('{"file_name": "../a.png", "text": "x"}', "without '..'"),
    ('{"file_name": "in\\\\..\\\\..\\\\a.png", "text": "x"}', "without '..'"),
    ('{"file_name": "no.png", "text": "x"}', "there is no image 'no.png'"),
    ('{"file_name": "' + LONG + '", "text": "x"}', "there is no image"),
    ('{"file_name": ".", "text": "x"}', "there is no image"),
    ('{"file_name": "ok.png", "text": "x"}', "named twice"),
    ('{"file_name": "./ok.png", "text": "x"}', "named twice"),
    ('{"file_name": "a.png", "text": null}', "`text` must be a caption or a list"),
    ('{"file_name": "a.png", "text": ["x", 3]}', "`text` must be a caption or a list"),
    ('{"file_name": "a.png", "text": ""}', "empty caption"),
    ('{"file_name": "a.png", "text": ["x", " \\t"]}', "empty caption"),
    ('{"file_name": "a.png", "text": "a\\u0000b"}', "control character"),
    ('{"file_name": "a.png", "text": "a\\u0085b"}', "control character"),
    ('{"file_name": "a.png", "text": "a\\udc00b"}', "control character"),
    ('{"file_name": "a.png", "text": "' + LONG + '"}', "100,001 characters"),
    (b'{"file_name": "a.png", "text": "caf\xe9"}', "not UTF-8"),
]


@pytest.mark.parametrize(("line", "said"), BAD_LINES, ids=range(len(BAD_LINES)))
def test_bad_metadata_is_named_by_file_and_line(tmp_path: Path, line: str | bytes, said: str) -> None:
    folder_of(tmp_path, [{"file_name": "ok.png", "text": "fine"}])
    draw(tmp_path / "a.png")
    with open(tmp_path / "metadata.jsonl", "ab") as file:
        file.write(b"\n" + (line.encode() if isinstance(line, str) else line))
    message = one_line_error(tmp_path)
    assert "metadata.jsonl, line 3:" in message and said in message
    assert len(message) < 1000


def orphan_text(root: Path) -> None:
    (root / "b.txt").write_text("x")


def image_without_text(root: Path) -> None:
    draw(root / "b.png")


def two_images_of_one_stem(root: Path) -> None:
    draw(root / "a.jpg")


def control_character(root: Path) -> None:
    (root / "a.txt").write_bytes(b"fine\nb\x07d\n")


def not_utf8(root: Path) -> None:
    (root / "a.txt").write_bytes(b"fine\ncaf\xe9\n")


def truncated_image(root: Path) -> None:
    (root / "a.png").write_bytes((root / "a.png").read_bytes()[:50])


def empty_image(root: Path) -> None:
    (root / "a.png").write_bytes(b"")


def file_linked_from_outside(root: Path) -> None:
    draw(root.parent / "outside.png")
    (root / "b.png").symlink_to(root.parent / "outside.png")
    (root / "b.txt").write_text("x")


def text_linked_from_outside(root: Path) -> None:
    (root.parent / "secret").write_text("secret")
    (root / "a.txt").unlink()
    (root / "a.txt").symlink_to(root.parent / "secret")


def folder_linked(root: Path) -> None:
    (root / "loop").symlink_to(root)


def split_twice(root: Path) -> None:
    (root / "val").mkdir()
    (root / "dev").mkdir()


def empty_split(root: Path) -> None:
    (root / "train").mkdir()


def nothing_left(root: Path) -> None:
    (root / "a.png").unlink()
    (root / "a.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (orphan_text, "b.txt: no image"),
        (image_without_text, "b.png: no captions; expected b.txt"),
        (two_images_of_one_stem, "a.png: has the stem of a.jpg"),
        (control_character, "a.txt, line 2: control character '\\x07'"),
        (not_utf8, "a.txt, line 2: not UTF-8 (byte 0xe9)"),
        (truncated_image, "a.png: broken"),
        (empty_image, "a.png: the file is empty"),
        (file_linked_from_outside, "b.png is a link that leaves"),
        (text_linked_from_outside, "a.txt is a link that leaves"),
        (folder_linked, "loop: links to folders are not followed"),
        (split_twice, "dev and val are both the split 'val'"),
        (empty_split, "train: no captioned images"),
        (nothing_left, "no captioned images"),
    ],
)
def test_bad_folders_are_named(tmp_path: Path, spoil: Callable[[Path], None], said: str) -> None:
    root = tmp_path / "set"
    draw(root / "a.png")
    (root / "a.txt").write_text("x")
    assert all_captions(open_source(root)) == {"a.png": ["x"]}
    spoil(root)
    assert said in one_line_error(root)


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    for name in (b"\xff.png", b"\xff.txt"):
        try:
            with open(os.path.join(os.fsencode(tmp_path), name), "wb"):
                pass
        except OSError:
            pytest.skip("this file system has no such names")
    assert "not UTF-8" in one_line_error(tmp_path)


def test_metadata_links_may_not_leave_the_root(tmp_path: Path) -> None:
    draw(tmp_path / "outside" / "a.png")
    root = folder_of(tmp_path / "set", [{"file_name": "ok.png", "text": "x"}])
    (root / "in").symlink_to(tmp_path / "outside")
    (root / "metadata.jsonl").write_text('{"file_name": "in/a.png", "text": "x"}')
    assert "line 1: in/a.png is a link that leaves" in one_line_error(root)


def test_metadata_at_the_root_may_neither_compete_nor_stray(tmp_path: Path) -> None:
    root = folder_of(tmp_path, [{"file_name": name, "text": "x"} for name in ("train/a.png", "b.png")])
    assert "'b.png' lies in none of train" in one_line_error(root)
    folder_of(root, [{"file_name": "a.png", "text": "x"}], "train/metadata.jsonl")
    assert "keep one or the other" in one_line_error(root)


def test_the_root_must_be_a_folder(tmp_path: Path) -> None:
    assert "--root" in one_line_error(None)
    assert "no such folder" in one_line_error(tmp_path / "no")
    (tmp_path / "file").touch()
    assert "is not a folder" in one_line_error(tmp_path / "file")


def stores(root: Path) -> dict[str, Store]:
    source = open_source(root)
    return {split: prepare(source, split, 4) for split in source.splits}


def digests(root: Path) -> dict[str, str]:
    return {split: store.digest for split, store in stores(root).items()}


def test_the_digest_is_that_of_the_content(tmp_path: Path) -> None:
    rows = [{"file_name": f"{split}/a.png", "text": split} for split in ("train", "test")]
    root = folder_of(tmp_path / "set", rows)
    before = digests(root)
    assert digests(root) == before
    assert digests(folder_of(tmp_path / "again" / "set", rows)) == before

    draw(root / "train" / "a.png", level=9)
    after = digests(root)
    assert after["train"] != before["train"] and after["test"] == before["test"]

    rows[1]["text"] = "other"
    assert digests(folder_of(root, rows))["test"] != before["test"]


def test_a_new_time_or_size_changes_the_fingerprint(tmp_path: Path) -> None:
    root = folder_of(tmp_path, [{"file_name": "a.png", "text": "x"}])
    before = open_source(root).fingerprint("train")
    assert open_source(root).fingerprint("train") == before
    os.utime(root / "a.png", ns=(0, 1))
    assert open_source(root).fingerprint("train") != before


captions = (
    st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)
    .map(str.strip)
    .filter(bool)
)


@settings(max_examples=25, deadline=None)
@given(texts=st.lists(st.lists(captions, max_size=12), min_size=1, max_size=9))
def test_captions_of_any_number_stay_with_their_images(
    tmp_path_factory: pytest.TempPathFactory, texts: list[list[str]]
) -> None:
    rows = [
        {"file_name": f"{level}.png", "text": text[0] if len(text) == 1 and level % 2 else text}
        for level, text in enumerate(texts)
    ]
    found = 0
    for store in stores(folder_of(tmp_path_factory.mktemp("set"), rows)).values():
        for index, image in enumerate(store.images):
            level = int(image[0, 0, 0])
            assert store.ids[index] == f"{level}.png"
            assert store.captions(index) == texts[level]
            assert store.batch([index]).captions == (texts[level][:1] or [""])
            found += 1
    assert found == len(texts)


@settings(max_examples=40, deadline=None)
@given(content=st.one_of(st.binary(max_size=60), st.text(max_size=60).map(str.encode)))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    metadata = tmp_path_factory.getbasetemp() / "any" / "metadata.jsonl"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_bytes(content)
    assert re.search(r"metadata\.jsonl, line \d+: |no captioned images", one_line_error(metadata.parent))


@settings(max_examples=60, deadline=None)
@given(
    row=st.dictionaries(
        st.sampled_from(["file_name", "text", "label"]),
        st.one_of(
            st.sampled_from(["a.png", "../a.png", "/a.png", "a.png/", "\\a.png"]),
            st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4),
        ),
    )
)
def test_any_object_is_read_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, row: dict[str, Any]
) -> None:
    root = tmp_path_factory.mktemp("set")
    draw(root / "a.png")
    (root / "metadata.jsonl").write_text(json.dumps(row))
    try:
        source = open_source(root)
    except UserError as error:
        assert "metadata.jsonl, line 1: " in str(error) and "\n" not in str(error)
    else:
        (chunk,) = source.chunks("train", 4)
        text = [row["text"]] if isinstance(row["text"], str) else row["text"]
        assert chunk.captions == [[caption.strip() for caption in text]]
        assert chunk.ids == ["a.png"] and np.array(chunk.images).shape == (1, 3, 4, 4)
