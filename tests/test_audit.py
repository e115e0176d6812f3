import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from t2ibench import cli
from t2ibench.datasets.audit import Report, check
from t2ibench.datasets.captioned import Chunk
from t2ibench.datasets.image_files import ImageFile, ImageFiles
from t2ibench.datasets.store import prepare


class Levels:
    """A source of grey images, given as (level, captions) by split; ids are "split-number"."""

    name = "levels"
    class_names: tuple[str, ...] = ()

    def __init__(self, **splits: list[tuple[int, list[str]]]) -> None:
        self.content = splits
        self.splits = tuple(splits)

    def size(self, split: str) -> int:
        return len(self.content[split])

    def fingerprint(self, split: str) -> str:
        return json.dumps(self.content[split])

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        levels = np.array([level for level, _ in self.content[split]], np.uint8)
        yield Chunk(
            images=np.tile(levels[:, None, None, None], (1, 3, image_size, image_size)),
            captions=[captions for _, captions in self.content[split]],
            ids=[f"{split}-{number}" for number in range(len(levels))],
        )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path))


def audit(**splits: list[tuple[int, list[str]]]) -> Report:
    source = Levels(**splits)
    return check({split: prepare(source, split, 4) for split in source.splits})


def test_one_split_is_counted() -> None:
    content = [(1, ["a b c", "a"]), (2, []), (1, ["a b"]), (3, ["a  b\nc d"]), (1, ["e"]), (2, [])]
    report = audit(train=content)
    split = report.splits["train"]
    said = split.captions
    assert (split.images, said.captions, said.without_captions) == (6, 5, 2)
    assert (said.words_min, said.words_median, said.words_max) == (1, 2.0, 4)
    assert (said.captions_min, said.captions_max, said.vocabulary, said.scripts) == (0, 2, 5, {"latin": 5})
    assert split.duplicates == (("train-0", "train-2", "train-4"), ("train-1", "train-5"))
    assert report.pairs == () and report.leaks == []


def test_a_split_without_captions_has_no_lengths() -> None:
    split = audit(train=[(1, [])]).splits["train"].captions
    assert (split.captions, split.words_min, split.words_median, split.words_max) == (0, 0, 0.0, 0)


def test_images_in_two_splits_are_leaks() -> None:
    report = audit(
        train=[(1, ["a", "b"]), (2, ["c"]), (2, ["c"])],
        val=[(9, ["b", "b", "c"])],
        test=[(5, []), (2, ["a"]), (1, ["x"])],
    )
    assert [pair.splits for pair in report.pairs] == [("train", "val"), ("train", "test"), ("val", "test")]
    assert [pair.same_captions for pair in report.pairs] == [2, 1, 0]
    assert [pair.same_images for pair in report.pairs] == [
        (),
        (("train-0", "test-2"), ("train-1", "test-1")),
        (),
    ]
    assert report.leaks == ["2 images are in both train and test, such as train-0 and test-2"]


def test_one_grey_level_in_one_pixel_makes_another_image() -> None:
    class OnePixel(Levels):
        def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
            for chunk in super().chunks(split, image_size):
                chunk.images[0, 0, 0, 0] += split == "test"
                yield chunk

    source = OnePixel(train=[(1, [])], test=[(1, [])])
    assert not check({split: prepare(source, split, 4) for split in source.splits}).leaks


def test_the_report_is_json() -> None:
    report = audit(train=[(1, ["a"])], test=[(1, ["a"])])
    content = json.loads(json.dumps(report.to_json()))
    assert content["leaks"] == ["1 image is in both train and test, such as train-0 and test-0"]
    assert content["splits"]["test"]["images"] == 1
    assert content["pairs"][0]["same_captions"] == 1


def photograph(seed: int, side: int = 200) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def pictures(folder: Path, splits: Mapping[str, Mapping[str, Image.Image]], **about: Any) -> ImageFiles:
    """Return a source of pictures saved as PNG, or as JPEG of quality 50 where the name says so; a label each."""
    folder.mkdir()
    files = {}
    for split, drawn in splits.items():
        for name, image in drawn.items():
            image.save(folder / name, quality=50)
        files[split] = [
            ImageFile(name=name, path=folder / name, captions=("a picture",), label=number % 3)
            for number, name in enumerate(drawn)
        ]
    return ImageFiles("pictures", files, class_names=("cat", "dog", "owl"), **about)


def test_near_duplicates_within_and_between_splits(tmp_path: Path) -> None:
    source = pictures(tmp_path / "pictures", {
        "train": {"a.png": photograph(0), "b.png": photograph(1), "b2.jpg": photograph(1)},
        "test": {"c.png": photograph(2), "a2.jpg": photograph(0, 140)},
    })  # fmt: skip
    report = check({split: prepare(source, split, 64) for split in source.splits})
    assert report.splits["train"].near_duplicates == (("b.png", "b2.jpg"),)
    assert report.splits["test"].near_duplicates == ()
    assert report.pairs[0].near_duplicates == (("a.png", "a2.jpg"),) and report.pairs[0].same_images == ()
    assert report.leaks == ["1 pair of near-duplicates between train and test, such as a.png and a2.jpg"]


def test_what_has_the_same_pixels_is_no_near_duplicate_too(tmp_path: Path) -> None:
    source = pictures(tmp_path / "pictures", {
        "train": {"a.png": photograph(0), "a2.png": photograph(0), "b.png": photograph(1), "b2.jpg": photograph(1)},
        "test": {"b3.png": photograph(1)},
    })  # fmt: skip
    report = check({split: prepare(source, split, 64) for split in source.splits})
    assert report.splits["train"].duplicates == (("a.png", "a2.png"),)
    assert report.splits["train"].near_duplicates == (("b.png", "b2.jpg"),)
    assert report.pairs[0].same_images == (("b.png", "b3.png"),)
    assert report.pairs[0].near_duplicates == (("b2.jpg", "b3.png"),)


def test_what_was_drawn_from_other_scenes_is_no_near_duplicate(tmp_path: Path) -> None:
    class Drawn(ImageFiles):
        def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
            for chunk in super().chunks(split, image_size, start):
                yield replace(chunk, scenes=[{"x": name} for name in chunk.ids])

    found = pictures(tmp_path / "pictures", {"train": {"a.png": photograph(0)}, "test": {"a2.jpg": photograph(0)}})
    for source, leaks in ((found, 1), (Drawn("drawn", found.files, class_names=found.class_names), 0)):
        report = check({split: prepare(source, split, 64) for split in source.splits})
        assert len(report.leaks) == leaks


def test_classes_of_zero_shot_splits_must_differ(tmp_path: Path) -> None:
    drawn = {"train": {"a.png": photograph(0), "b.png": photograph(1)}, "test": {"c.png": photograph(2)}}
    leaking = pictures(tmp_path / "pictures", drawn, zero_shot=True, expected={"train": 9})
    report = check({split: prepare(leaking, split, 16) for split in leaking.splits})
    assert report.pairs[0].same_classes == ("cat",)
    assert report.leaks == ["1 class is in both train and test, which should share none, such as cat"]
    assert "train: 2 images of 9 published" in report.to_text()
    usual = ImageFiles("usual", leaking.files, class_names=leaking.class_names)
    assert check({split: prepare(usual, split, 16) for split in usual.splits}).leaks == []


def test_flat_and_grey_images_are_noted_and_what_was_skipped() -> None:
    source = Levels(train=[(1, []), (2, [])])
    report = check({"train": prepare(source, "train", 16)}, skipped={"train": 7})
    assert report.splits["train"].flat == ("train-0", "train-1") and report.splits["train"].grey == 2
    assert "7 samples without an image, or captions without one, were left out" in report.to_text()


def test_every_unreadable_image_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    for number in range(8):
        photograph(number).save(root / f"{number}.png")
        (root / f"{number}.txt").write_text("a picture")
    for number in (2, 5):
        (root / f"{number}.png").write_bytes((root / f"{number}.png").read_bytes()[:90])
    monkeypatch.setattr(sys, "argv", ["t2ibench", "data", "check", "imagefolder", "--root", str(root), "--json"])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    said = capsys.readouterr()
    report = json.loads(said.out)
    assert stop.value.code == 2 and sum(split["images"] for split in report["splits"].values()) == 6
    assert [Path(line.split(": ")[0]).name for line in sorted(report["unreadable"])] == ["2.png", "5.png"]
    assert report["error"].startswith("2 unreadable images, the first is ")
