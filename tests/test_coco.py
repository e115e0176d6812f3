import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts_scraped import captions, coco, colour, colour_in

from t2ibench.datasets.captioned import Published, Source
from t2ibench.datasets.coco import open_2014, open_2017, open_source
from t2ibench.datasets.image_files import ImageFiles
from t2ibench.datasets.store import prepare
from t2ibench.errors import UserError


def listed(source: ImageFiles, split: str) -> list[tuple[str, list[str]]]:
    """Return each id with its captions, once the pixels agree with all of them."""
    found = []
    for chunk in source.chunks(split, 16):
        for image, texts, name in zip(chunk.images, chunk.captions, chunk.ids, strict=True):
            assert all(colour_in(image) in text for text in texts)
            found.append((name, texts))
    return found


def expected(year: int, part: str, first: int, counts: tuple[int, ...] = (5, 6, 7)) -> list[tuple[str, list[str]]]:
    prefix = f"COCO_{part}2014_" if year == 2014 else ""
    numbers = range(first, first + 42, 7)
    return [
        (f"{prefix}{number:012}.jpg", captions(number, counts[place % len(counts)]))
        for place, number in enumerate(numbers)
    ]


@pytest.mark.parametrize("year", [2014, 2017])
@pytest.mark.parametrize("place", ["{part}{year}", "images/{part}{year}", "images"])
def test_every_layout_keeps_captions_with_their_images(tmp_path: Path, year: int, place: str) -> None:
    source = open_source(coco(tmp_path, year, place))
    assert isinstance(source, Source) and isinstance(source, Published)
    assert source.name == f"coco{year}" and source.splits == ("train", "test")
    assert listed(source, "train") == expected(year, "train", 3)
    assert listed(source, "test") == expected(year, "val", 1003)
    assert source.expected["train"] > 80_000


def test_all_colours_occur(tmp_path: Path) -> None:
    names = {texts[0].split()[1] for _, texts in listed(open_source(coco(tmp_path)), "train")}
    assert names == {colour(number) for number in range(6)}


def test_captions_of_any_number(tmp_path: Path) -> None:
    counts = (0, 1, 12)
    source = open_source(coco(tmp_path, counts=counts))
    assert listed(source, "train") == expected(2014, "train", 3, counts)
    store = prepare(source, "train", 16)
    assert [store.captions(index) for index in range(6)] == [texts for _, texts in listed(source, "train")]


def test_resuming_yields_the_rest(tmp_path: Path) -> None:
    source = open_source(coco(tmp_path))
    ids = [name for chunk in source.chunks("train", 8, start=4) for name in chunk.ids]
    assert ids == [name for name, _ in expected(2014, "train", 3)[4:]]


def test_two_years_are_told_apart_by_name(tmp_path: Path) -> None:
    coco(tmp_path, 2014)
    coco(tmp_path, 2017)
    assert "--data coco2014 or --data coco2017" in one_line_error(tmp_path)
    assert open_2014(tmp_path).name == "coco2014"
    assert listed(open_2017(tmp_path), "test") == expected(2017, "val", 1003)


def test_the_folder_may_be_the_only_one_in_the_root(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    assert open_source(coco(tmp_path / "data").parent).size("train") == 6
    coco(tmp_path / "more")
    assert "data and more both hold COCO" in one_line_error(tmp_path)


def test_a_split_may_be_absent_as_a_whole(tmp_path: Path) -> None:
    root = coco(tmp_path, 2017)
    (root / "annotations" / "captions_train2017.json").unlink()
    message = one_line_error(root)
    assert f"{root / 'train2017'}: its captions are missing: no {root}/annotations/captions_train2017.json" in message
    (root / "train2017").rename(root / "elsewhere")
    assert open_source(root).splits == ("test",)
    (root / "val2017").rename(root / "elsewhere-too")
    message = one_line_error(root)
    assert f"no folder {root / 'val2017'}" in message and "https://cocodataset.org" in message
    assert "no captions_train2014.json" in one_line_error(root, open_2014)


def one_line_error(root: Path | None, open_it: Callable[[Path | None], ImageFiles] = open_source) -> str:
    with pytest.raises(UserError) as caught:
        open_it(root)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1200
    return message


def test_nothing_there_says_what_was_sought_where(tmp_path: Path) -> None:
    message = one_line_error(tmp_path)
    assert f"{tmp_path}/annotations: no captions_train2014.json" in message and "https://cocodataset.org" in message
    assert "--root" in one_line_error(None)
    assert "no such folder" in one_line_error(tmp_path / "no")


Content = dict[str, Any]


def first_image(content: Content, **changes: Any) -> None:
    content["images"][0].update(changes)


def first_annotation(content: Content, **changes: Any) -> None:
    content["annotations"][0].update(changes)


def twin_image(content: Content) -> None:
    content["images"].append({**content["images"][0], "file_name": "other.jpg"})


def twin_file(content: Content) -> None:
    content["images"].append({**content["images"][0], "id": 1})


def twin_annotation(content: Content) -> None:
    content["annotations"].append(dict(content["annotations"][0]))


NAN, HUGE = float("nan"), 10**30
SPOILT: list[tuple[Callable[[Content], Any], str]] = [
    (lambda c: c.pop("images"), "expected an object with the lists"),
    (lambda c: c.update(images={}), "images: expected a list, got {}"),
    (lambda c: c.update(annotations=None), "annotations: expected a list, got None"),
    (lambda c: c["images"].append([1, 2]), "images[6]: expected an object with id, file_name, got [1, 2]"),
    (lambda c: c["annotations"].insert(0, "text"), "annotations[0]: expected an object"),
    (lambda c: c["images"][0].pop("id"), "images[0]: `id` must be a whole number, got nothing"),
    (lambda c: first_image(c, id=NAN), "`id` must be a whole number, got nan"),
    (lambda c: first_image(c, id=True), "`id` must be a whole number, got True"),
    (lambda c: first_image(c, file_name=7), "id 38: `file_name` must be text, got 7"),
    (lambda c: first_image(c, file_name="../a.jpg"), "without '..', got '../a.jpg'"),
    (lambda c: first_image(c, file_name="/etc/passwd"), "must be relative"),
    (lambda c: first_image(c, file_name="a\x00.jpg"), "an image must be the name of a file"),
    (lambda c: first_image(c, file_name="no.jpg"), "there is no image no.jpg in"),
    (lambda c: first_image(c, file_name="x" * 10**6), "there is no image xxx"),
    (twin_image, "the id 38 stands for two images"),
    (twin_file, "images 38 and 1 have the same `file_name`"),
    (twin_annotation, "the id stands for two annotations"),
    (lambda c: first_annotation(c, id="x"), "annotations[0], id 'x': `id` must be a whole number, got 'x'"),
    (lambda c: first_annotation(c, image_id=NAN), "`image_id` must be a whole number, got nan"),
    (lambda c: first_annotation(c, id=5, image_id=HUGE), f"annotation 5: describes image {HUGE}, which is not among"),
    (lambda c: first_annotation(c, caption=["a"]), "`caption` must be text, got ['a']"),
    (lambda c: first_annotation(c, id=5, caption="a\x07b"), "annotation 5: control character '\\x07'"),
    (lambda c: first_annotation(c, id=5, caption="a\ud800b"), "annotation 5: control character '\\ud800'"),
    (lambda c: first_annotation(c, id=5, caption="x" * 10**6), "annotation 5: a caption of 1,000,000 characters"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT, ids=range(len(SPOILT)))
def test_bad_annotations_are_named(tmp_path: Path, spoil: Callable[[Content], Any], said: str) -> None:
    path = coco(tmp_path) / "annotations" / "captions_train2014.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    message = one_line_error(tmp_path)
    assert str(path) in message and said in message


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not JSON"),
        (b'{"images": [', "not JSON"),
        (b'{"images": [], "annotations": [' + b"1" * 5000 + b"]}", "not JSON that can be read"),
        (b"[" * 100_000, "not JSON"),
        (b'{"images": "caf\xe9"}', "not UTF-8 (byte 0xe9)"),
        (b"[]", "expected an object with the lists"),
    ],
)
def test_broken_json_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = coco(tmp_path) / "annotations" / "captions_val2014.json"
    path.write_bytes(content)
    message = one_line_error(tmp_path)
    assert str(path) in message and said in message


def test_blank_captions_count_as_none(tmp_path: Path) -> None:
    path = coco(tmp_path, counts=(2,)) / "annotations" / "captions_train2014.json"
    content = json.loads(path.read_text())
    for annotation in content["annotations"]:
        annotation["caption"] = " \n" if annotation["image_id"] == 3 else f"  {annotation['image_id']}\n is\tit "
    path.write_text(json.dumps(content))
    texts = [list(file.captions) for file in open_source(tmp_path).files["train"]]
    assert texts == [[], *([f"{number} is it"] * 2 for number in range(10, 45, 7))]


def test_missing_images_are_named_and_counted(tmp_path: Path) -> None:
    root = coco(tmp_path)
    for number in (10, 17):
        (root / "train2014" / f"COCO_train2014_{number:012}.jpg").unlink()
    message = one_line_error(root)
    assert f"COCO_train2014_{17:012}.jpg and 1 more that it lists in {root / 'train2014'}" in message


def test_links_may_not_leave_the_root(tmp_path: Path) -> None:
    root = coco(tmp_path / "coco")
    image = root / "train2014" / f"COCO_train2014_{3:012}.jpg"
    image.rename(tmp_path / "outside.jpg")
    image.symlink_to(tmp_path / "outside.jpg")
    assert "is a link that leaves" in one_line_error(root)
    image.unlink()
    os.link(tmp_path / "outside.jpg", image)
    assert open_source(root).size("train") == 6
    (root / "val2014").rename(tmp_path / "val")
    (root / "val2014").symlink_to(tmp_path / "val")
    assert "val2014 is a link that leaves" in one_line_error(root)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "image_id"]), inner),
    max_leaves=6,
)


@settings(max_examples=40, deadline=None)
@given(key=st.sampled_from(["images", "annotations"]), rows=json_values)
def test_any_json_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, key: str, rows: Any) -> None:
    root = tmp_path_factory.mktemp("coco")
    (root / "annotations").mkdir()
    (root / "train2017").mkdir()
    content = {"images": [], "annotations": [], key: rows}
    (root / "annotations" / "captions_train2017.json").write_text(json.dumps(content))
    if rows == []:
        assert open_source(root).size("train") == 0
    else:
        assert "captions_train2017.json" in one_line_error(root)
