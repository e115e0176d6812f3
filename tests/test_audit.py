import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from t2ibench.datasets.audit import Report, check
from t2ibench.datasets.captioned import Chunk
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
