"""The data card: its numbers are those of the split, its picture shows its images, captions stay what they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from t2ibench.datasets.caption_statistics import caption_statistics, scripts_of
from t2ibench.datasets.image_files import ImageFile, ImageFiles
from t2ibench.datasets.store import Store, prepare

TEXTS = [["a red square", "rot *und* <b>grün</b>"], [], ["красный квадрат, red"], ["🦊 42"]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))
    files = []
    for number, captions in enumerate(TEXTS):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (20, 20), (50 * number, 0, 0)).save(path)
        files.append(ImageFile(name=path.name, path=path, captions=tuple(captions), label=number % 2))
    source = ImageFiles("cards", {"train": files}, class_names=("even", "odd", "none"), expected={"train": 9})
    return prepare(source, "train", 16, smaller=(8,))


def test_the_numbers(store: Store) -> None:
    card = json.loads((store.folder / "card.json").read_text())
    assert (card["images"], card["published"], card["captions"], card["without_captions"]) == (4, 9, 4, 1)
    assert (card["captions_min"], card["captions_mean"], card["captions_max"]) == (0, 1.0, 2)
    assert (card["words_min"], card["words_median"], card["words_max"], card["characters_max"]) == (2, 3.0, 3, 21)
    assert card["vocabulary"] == len("a red square rot und b grün красный квадрат 42".split())
    assert card["scripts"] == {"latin": 3, "cyrillic": 1, "none": 1}
    assert card["classes"] == {"even": 2, "odd": 2} and card["sides"] == [16, 8]
    assert card["bytes_of_pixels"] == 4 * 3 * (16**2 + 8**2) and card["digest"] == store.digest


def test_the_page_for_people(store: Store) -> None:
    text = (store.folder / "card.md").read_text()
    assert "| images | 4 of 9 published |" in text and "![](grid.png)" in text
    assert "- a red square\n" in text and "<b>" not in text


def test_the_picture_shows_the_images(store: Store) -> None:
    picture = np.asarray(Image.open(store.folder / "grid.png"))
    assert picture.shape == (18, 4 * 18, 3)
    assert [picture[9, 9 + 18 * n].tolist() for n in range(4)] == [[50 * n, 0, 0] for n in range(4)]


@given(st.lists(st.lists(st.text(max_size=20), max_size=4), max_size=6))
@settings(deadline=None, max_examples=50)
def test_counts_add_up(captions: list[list[str]]) -> None:
    counted = caption_statistics(captions)
    texts = [text for own in captions for text in own]
    assert counted.captions == len(texts) and counted.without_captions == sum(not own for own in captions)
    assert counted.words_min <= counted.words_median <= counted.words_max
    assert all(0 < number <= len(texts) for number in counted.scripts.values())
    assert sum(counted.scripts.values()) >= len(texts)


def test_scripts_are_those_of_the_letters() -> None:
    assert scripts_of("red 7!") == {"latin"} and scripts_of("7!") == {"none"} and scripts_of("") == {"none"}
    assert scripts_of("日本 שלום ελ") == {"cjk", "hebrew", "greek"}
