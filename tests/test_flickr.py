import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts_scraped import (
    BROKEN_LINE,
    NO_IMAGE,
    captions,
    colour_in,
    flickr8k,
    flickr8k_kaggle,
    flickr30k,
    flickr30k_kaggle,
    karpathy,
    save,
)

from t2ibench.datasets.captioned import Source
from t2ibench.datasets.flickr import open_source
from t2ibench.datasets.image_files import ImageFiles, divide
from t2ibench.errors import UserError


def listed(source: ImageFiles) -> dict[str, dict[str, list[str]]]:
    """Return the captions by split and id, once the pixels agree with all of them."""
    found: dict[str, dict[str, list[str]]] = {}
    for split in source.splits:
        found[split] = {}
        for chunk in source.chunks(split, 16):
            for image, texts, name in zip(chunk.images, chunk.captions, chunk.ids, strict=True):
                assert all(colour_in(image) in text for text in texts if text != "A dog runs across the grass .")
                found[split][name] = texts
    return found


def name8(number: int) -> str:
    return f"{1000268201 + number}_693b08cb0e.jpg"


def name30(number: int) -> str:
    return f"{1000092795 + number}.jpg"


def five(names: Callable[[int], str], numbers: range) -> dict[str, list[str]]:
    return {names(number): captions(number, 5) for number in numbers}


def one_line_error(root: Path | None) -> str:
    with pytest.raises(UserError) as caught:
        open_source(root)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 1200
    return message


@pytest.mark.parametrize("place", [".", "Flickr8k"])
def test_8k_as_published_has_the_splits_of_its_lists(tmp_path: Path, place: str) -> None:
    flickr8k(tmp_path / place)
    source = open_source(tmp_path)
    assert isinstance(source, Source) and source.name == "flickr8k"
    assert source.expected == {"train": 6000, "val": 1000, "test": 1000}
    assert listed(source) == {
        "train": five(name8, range(6)),
        "val": five(name8, range(6, 8)),
        "test": five(name8, range(8, 10)),
    }


def test_8k_with_text_and_images_in_folders_of_their_own(tmp_path: Path) -> None:
    flickr8k(tmp_path)
    (tmp_path / "Flickr8k_text").mkdir()
    for path in tmp_path.glob("Flickr*.txt"):
        path.rename(tmp_path / "Flickr8k_text" / path.name)
    (tmp_path / "Flickr8k_Dataset").mkdir()
    (tmp_path / "Flicker8k_Dataset").rename(tmp_path / "Flickr8k_Dataset" / "Flicker8k_Dataset")
    source = open_source(tmp_path)
    assert source.splits == ("train", "val", "test") and source.size("train") == 6


def test_8k_of_kaggle_is_divided(tmp_path: Path) -> None:
    source = open_source(flickr8k_kaggle(tmp_path, images=24))
    assert source.name == "flickr8k" and source.expected == {}
    found = listed(source)
    assert {name: texts for part in found.values() for name, texts in part.items()} == five(name8, range(24))
    files = [file for part in source.files.values() for file in part]
    parts = divide(sorted(files, key=lambda file: file.name))
    assert {split: list(part) for split, part in found.items()} == {
        split: [file.name for file in part] for split, part in parts.items()
    }
    assert list(found) == ["train", "val", "test"] and all(found.values())


def test_30k_as_published_is_divided(tmp_path: Path) -> None:
    source = open_source(flickr30k(tmp_path))
    assert source.name == "flickr30k" and source.splits == ("train", "val", "test")
    found = {name: texts for part in listed(source).values() for name, texts in part.items()}
    assert found == five(name30, range(12))


@pytest.mark.parametrize("inner", [False, True])
def test_30k_of_kaggle_with_its_broken_line(tmp_path: Path, inner: bool) -> None:
    flickr30k_kaggle(tmp_path)
    source = open_source(tmp_path / "flickr30k_images" if inner else tmp_path)
    assert source.name == "flickr30k"
    found = {name: texts for part in listed(source).values() for name, texts in part.items()}
    assert found.pop("2199200615.jpg") == [*captions(0, 4), "A dog runs across the grass ."]
    assert found == five(name30, range(12))


def test_karpathy_decides_splits_and_captions(tmp_path: Path) -> None:
    flickr8k(tmp_path)
    splits = {name8(3): "test", name8(1): "train", name8(2): "val", name8(0): "train"}
    karpathy(tmp_path, "flickr8k", splits, {name8(number): number for number in range(12)})
    # His archive brings the file of the other edition too.
    karpathy(tmp_path, "flickr30k", {name30(0): "train"}, {name30(0): 0})
    source = open_source(tmp_path)
    assert source.name == "flickr8k" and source.expected["train"] == 6000
    assert listed(source) == {
        "train": five(name8, range(2)), "val": five(name8, range(2, 3)), "test": five(name8, range(3, 4))
    }  # fmt: skip


def test_karpathy_alone_is_enough(tmp_path: Path) -> None:
    numbers = {name30(number): number for number in range(3)}
    save(tmp_path / "flickr30k-images", numbers)
    root = karpathy(tmp_path, "flickr30k", dict.fromkeys(numbers, "train"), numbers)
    path = root / "dataset_flickr30k.json"
    content = json.loads(path.read_text())
    content["images"][0]["sentences"] = []
    content["images"][1]["sentences"] = [{"raw": f"look {look} \n"} for look in range(12)]
    path.write_text(json.dumps(content))
    files = open_source(root).files
    assert list(files) == ["train"]
    assert [list(file.captions) for file in files["train"]] == [
        [], [f"look {look}" for look in range(12)], captions(2, 5)
    ]  # fmt: skip


def test_an_image_in_a_list_may_have_no_captions(tmp_path: Path) -> None:
    path = flickr8k(tmp_path) / "Flickr8k.token.txt"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if not line.startswith(name8(1))))
    texts = [list(file.captions) for file in open_source(tmp_path).files["train"]]
    assert texts == [captions(0, 5), [], *(captions(number, 5) for number in range(2, 6))]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    message = one_line_error(tmp_path)
    assert "no Flickr8k.token.txt or captions.txt" in message and "https://hockenmaier.cs.illinois.edu" in message
    flickr8k(tmp_path)
    (tmp_path / "Flicker8k_Dataset").rename(tmp_path / "pictures")
    message = one_line_error(tmp_path)
    assert "no Flicker8k_Dataset or" in message and "https://" in message
    (tmp_path / "pictures").rename(tmp_path / "Flicker8k_Dataset")
    (tmp_path / "Flickr_8k.devImages.txt").unlink()
    assert "there is no Flickr_8k.devImages.txt with it" in one_line_error(tmp_path)
    assert "--root" in one_line_error(None)


def test_two_sets_in_one_folder_are_not_guessed(tmp_path: Path) -> None:
    flickr8k(tmp_path / "a")
    flickr30k(tmp_path / "b")
    assert "holds both Flickr8k and Flickr30k" in one_line_error(tmp_path)
    flickr8k(tmp_path / "c")
    assert "there is also" in one_line_error(tmp_path)


def test_missing_images_are_named(tmp_path: Path) -> None:
    root = flickr8k(tmp_path)
    (root / "Flicker8k_Dataset" / name8(11)).unlink()
    message = one_line_error(root)
    assert f"Flickr8k.token.txt: there is no image {name8(11)} in {root / 'Flicker8k_Dataset'}" in message
    with open(root / "Flickr8k.token.txt", "a") as file:
        file.write(f"{NO_IMAGE}.1#0\tA man .\n")
    assert "and 1 more that it lists" in one_line_error(root)


LONG = "x" * 10**6
OK8 = name8(0)
BAD_TOKENS = [
    ("no tab", "line 66: expected IMAGE#NUMBER, a tab and a caption, got 'no tab'"),
    (f"{OK8}\tno number", "line 66: expected IMAGE#NUMBER"),
    (f"{OK8}#x\tno number", "line 66: expected IMAGE#NUMBER"),
    (f"{OK8}#0\ttwice", f"line 66: caption 0 of {OK8} is there twice"),
    (f"{OK8}#9\ta\x00b", "line 66: control character '\\x00'"),
    (f"{OK8}#9\t{LONG}", "line 66: a caption of 1,000,000 characters"),
    ("../a.jpg#9\tout", "must be relative to this file and without '..', got '../a.jpg'"),
    ("/etc/passwd#9\tout", "must be relative"),
    ("a\x07.jpg#9\tout", "must be the name of a file"),
    (f"{LONG}#9\tlong", "there is no image xxx"),
    (b"a.jpg#9\tcaf\xe9", "line 66: not UTF-8 (byte 0xe9)"),
]


@pytest.mark.parametrize(("line", "said"), BAD_TOKENS, ids=range(len(BAD_TOKENS)))
def test_bad_tokens_are_named_by_file_and_line(tmp_path: Path, line: str | bytes, said: str) -> None:
    with open(flickr8k(tmp_path) / "Flickr8k.token.txt", "ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    message = one_line_error(tmp_path)
    assert "Flickr8k.token.txt" in message and said in message


OK30 = name30(0)
BAD_RESULTS = [
    (f"{OK30}| 4   A dog runs across the grass .", "line 67: expected image_name| comment_number| comment"),
    ("2199200615.jpg|4", "line 67: expected image_name| comment_number| comment"),
    (BROKEN_LINE, "line 67: caption 4 of 2199200615.jpg is there twice"),
    (f"{OK30}| x| a dog", "line 67: expected image_name| comment_number| comment"),
    (f"{OK30}", "line 67: expected image_name| comment_number| comment"),
    (f"{OK30}| 3| a dog", f"line 67: caption 3 of {OK30} is there twice"),
]


@pytest.mark.parametrize(("line", "said"), BAD_RESULTS, ids=range(len(BAD_RESULTS)))
def test_no_other_broken_line_of_results_is_mended(tmp_path: Path, line: str, said: str) -> None:
    with open(flickr30k_kaggle(tmp_path) / "flickr30k_images" / "results.csv", "a") as file:
        file.write(line)
    assert said in one_line_error(tmp_path)


def test_results_need_their_header(tmp_path: Path) -> None:
    path = flickr30k_kaggle(tmp_path) / "flickr30k_images" / "results.csv"
    path.write_text(path.read_text().partition("\n")[2])
    assert "line 1: expected image_name" in one_line_error(tmp_path)


BAD_CSV = [
    ("", "a.jpg", "line 62: expected the columns image,caption, got ['a.jpg']"),
    ("", "a.jpg,b,c", "line 62: expected the columns"),
    ("", f'{OK8},"open', "line 62: not CSV (unexpected end of data)"),
    ("", f'{OK8},"a"b', "line 62: not CSV"),
    ("", f"{OK8},{LONG}", "line 62: not CSV (field larger"),
    ("", f"{OK8},a\x00b", "line 62: control character '\\x00'"),
    ("x,y\n", "", "line 1: expected the columns image,caption, got ['x', 'y']"),
]


@pytest.mark.parametrize(("head", "tail", "said"), BAD_CSV, ids=range(len(BAD_CSV)))
def test_bad_csv_is_named_by_line(tmp_path: Path, head: str, tail: str, said: str) -> None:
    path = flickr8k_kaggle(tmp_path) / "captions.txt"
    path.write_text(head + path.read_text() + tail)
    assert said in one_line_error(tmp_path)


def test_an_image_is_in_one_split_only(tmp_path: Path) -> None:
    with open(flickr8k(tmp_path) / "Flickr_8k.testImages.txt", "a") as file:
        file.write(f"\n{OK8}\n")
    assert f"testImages.txt, line 4: {OK8} is already in the split 'train'" in one_line_error(tmp_path)


Content = dict[str, Any]
SPOILT: list[tuple[Callable[[Content], Any], str]] = [
    (lambda c: c.pop("images"), "expected an object with the list `images`"),
    (lambda c: c.update(images=3), "images: expected a list, got 3"),
    (lambda c: c["images"][0].pop("split"), "images[0]: `split` must be text, got nothing"),
    (lambda c: c["images"][0].update(split="all"), "`split` must be train, val or test, got 'all'"),
    (lambda c: c["images"][0].update(filename=float("nan")), "`filename` must be text, got nan"),
    (lambda c: c["images"][0].update(filename="../x.jpg"), "without '..'"),
    (lambda c: c["images"][0].update(sentences={}), "`sentences` must be a list, got {}"),
    (lambda c: c["images"][0]["sentences"][0].update(raw=1), "sentences[0]: `raw` must be text, got 1"),
    (lambda c: c["images"][0]["sentences"][0].update(raw="a\x01"), "control character '\\x01'"),
    (lambda c: c["images"].append(c["images"][0]), "images[1], '1000268201_693b08cb0e.jpg': the image is there twice"),
]


@pytest.mark.parametrize(("spoil", "said"), SPOILT, ids=range(len(SPOILT)))
def test_bad_karpathy_is_named(tmp_path: Path, spoil: Callable[[Content], Any], said: str) -> None:
    path = karpathy(flickr8k(tmp_path), "flickr8k", {OK8: "train"}, {OK8: 0}) / "dataset_flickr8k.json"
    content = json.loads(path.read_text())
    spoil(content)
    path.write_text(json.dumps(content))
    message = one_line_error(tmp_path)
    assert "dataset_flickr8k.json" in message and said in message


def test_links_may_not_leave_the_root(tmp_path: Path) -> None:
    root = flickr8k(tmp_path / "set")
    (root / "Flickr8k.token.txt").rename(tmp_path / "secret")
    (root / "Flickr8k.token.txt").symlink_to(tmp_path / "secret")
    assert "is a link that leaves" in one_line_error(root)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(["Flickr8k.token.txt", "captions.txt", "dataset_flickr8k.json"]),
    content=st.binary(max_size=60) | st.text(max_size=60).map(str.encode),
)
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes) -> None:
    root = tmp_path_factory.mktemp("any")
    save(root / "Images", {OK8: 0})
    (root / name).write_bytes(content)
    try:
        assert open_source(root).splits == ("train",)
    except UserError as error:
        assert name in str(error) and "\n" not in str(error)
