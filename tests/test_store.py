"""The store: whole or not at all, the same digest however it was cut, captions aligned."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.datasets.captioned import Chunk
from t2ibench.datasets.store import Store, prepare, store_path
from t2ibench.errors import UserError
from t2ibench.files import read_json, whole_file, write_json


class Toy:
    """Images whose every pixel is their number."""

    name, splits, class_names = "toy", ("train",), ("even", "odd")

    def __init__(self, captions: list[list[str]], cut: int = 2, mark: str = "", stop: int | None = None) -> None:
        self.texts, self.cut, self.mark, self.stop = captions, cut, mark, stop

    def size(self, split: str) -> int:
        return len(self.texts)

    def fingerprint(self, split: str) -> str:
        return repr(self.texts) + self.mark

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        for first in range(start, len(self.texts), self.cut):
            numbers = list(range(len(self.texts)))[first : first + self.cut]
            if self.stop is not None and first >= self.stop:
                raise UserError("toy: image 2 is broken")
            images = np.array(numbers, np.uint8)[:, None, None, None].repeat(3, 1)
            images = images.repeat(image_size, 2).repeat(image_size, 3)
            yield Chunk(images=images, captions=self.texts[first : first + self.cut],
                        ids=[f"n{n}" for n in numbers], labels=[n % 2 for n in numbers])  # fmt: skip


captions = st.lists(st.lists(st.text(max_size=12), max_size=12), min_size=1, max_size=8)


@given(captions)
@settings(deadline=None, max_examples=30)
def test_any_number_of_captions_stays_with_its_image(texts: list[list[str]]) -> None:
    texts = [[text.encode("utf-8", "replace").decode() for text in own] for own in texts]
    store = prepare(Toy(texts), "train", 2)
    assert [store.captions(index) for index in range(len(store))] == texts
    batch = store.batch(range(len(store)), np.random.default_rng(0).random(len(store)))
    for index, caption in enumerate(batch.captions):
        assert caption in texts[index] or (caption == "" and not texts[index])
    assert batch.images[:, 0, 0, 0].tolist() == list(range(len(texts)))
    assert batch.labels is not None and batch.labels.tolist() == [n % 2 for n in range(len(texts))]
    assert batch.ids == [f"n{n}" for n in range(len(texts))]


def test_every_caption_is_drawn_and_the_first_without_a_generator() -> None:
    store = prepare(Toy([["a", "b", "c"]]), "train", 2)
    drawn = store.batch([0] * 200, np.random.default_rng(0).random(200)).captions
    assert set(drawn) == {"a", "b", "c"} and min(map(drawn.count, "abc")) > 40
    assert store.batch([0, 0]).captions == ["a", "a"]


def test_digest_depends_on_content_and_not_on_the_cut() -> None:
    texts = [["a"], [], ["b", "c"], ["d"]]
    digests = {prepare(Toy(texts, cut=cut, mark=str(cut)), "train", 2).digest for cut in (1, 2, 3, 4)}
    assert len(digests) == 1
    moved = prepare(Toy([["a"], ["b"], ["c"], ["d"]]), "train", 2).digest
    assert moved not in digests


def test_prepared_once() -> None:
    source = Toy([["once"]])
    first = prepare(source, "train", 2)
    source.chunks = None  # type: ignore[method-assign, assignment]
    assert prepare(source, "train", 2).digest == first.digest


def test_a_broken_image_leaves_nothing_behind() -> None:
    source = Toy([["a"], ["b"], ["c"]], mark="broken", stop=2)
    with pytest.raises(UserError, match="image 2 is broken"):
        prepare(source, "train", 2)
    folder = store_path(source, "train", 2)
    assert not folder.exists() and not list(folder.parent.glob(f"{folder.name}*"))


def test_wrong_split_empty_split_and_other_formats_are_said() -> None:
    with pytest.raises(UserError, match="no split 'test'; it has train"):
        prepare(Toy([["a"]]), "test", 2)
    with pytest.raises(UserError, match="holds no images"):
        prepare(Toy([]), "train", 2)
    store = prepare(Toy([["old"]], mark="old"), "train", 2)
    write_json(store.folder / "manifest.json", read_json(store.folder / "manifest.json") | {"format": 99})
    with pytest.raises(UserError, match="a store of another version"):
        Store(store.folder)


def test_batches_are_copies(world: Store) -> None:
    batch = world.batch([0])
    batch.images.zero_()
    assert not torch.equal(world.batch([0]).images, batch.images)


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    with pytest.raises(RuntimeError), whole_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(path.parent.iterdir()) == []
    with whole_file(path) as temporary:
        temporary.write_text("whole")
    assert path.read_text() == "whole" and len(list(path.parent.iterdir())) == 1


class Odd(Toy):
    """Images whose chunks are changed by a function before they are handed over."""

    def __init__(self, change: Callable[[Chunk], Chunk], mark: str) -> None:
        super().__init__([["a"], ["b", "c"], []], mark=mark)
        self.change = change

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        return map(self.change, super().chunks(split, image_size, start))


ROW = np.zeros((3, 2), np.float32)
ODD: list[tuple[Callable[[Chunk], Chunk], str]] = [
    (lambda chunk: replace(chunk, images=chunk.images[:, :1]), r"expected images uint8 \[2, 3, 2, 2\]"),
    (lambda chunk: replace(chunk, images=chunk.images.astype(np.float32)), "got float32"),
    (lambda chunk: replace(chunk, captions=chunk.captions[1:]), "2 images came with 1 lists of captions"),
    (lambda chunk: replace(chunk, labels=chunk.labels[1:]), "2 lists of captions, 1 labels"),
    (lambda chunk: replace(chunk, labels=[2] * len(chunk.ids)), "the label 2 is none of the 2 classes"),
    (lambda chunk: replace(chunk, labels=[-1] * len(chunk.ids)), "the label -1 is none of the 2 classes"),
    (lambda chunk: replace(chunk, ids=["same"] * len(chunk.ids)), 'the id "same" stands for two images'),
    (lambda chunk: replace(chunk, embeddings=ROW[:1]), r"expected finite embeddings float32 \[3, D\]"),
    (lambda chunk: replace(chunk, embeddings=ROW[: sum(map(len, chunk.captions))] * np.nan), "with NaN or infinity"),
    (lambda chunk: replace(chunk, embeddings=np.full((3, 2), 1e300)), "got float64"),
    (lambda chunk: replace(chunk, labels=chunk.labels if "n0" in chunk.ids else []), "all images must have labels, or"),
    (lambda chunk: replace(chunk, scenes=[] if "n0" in chunk.ids else [{}]), "must have scenes, or none; n2 begins to"),
    (lambda c: Chunk(images=c.images[:1], captions=[["a"]], ids=c.ids[:1]), "3 images were announced and 2 came"),
]


@pytest.mark.parametrize(("change", "said"), ODD)
def test_what_a_source_must_not_hand_over_is_said(change: Callable[[Chunk], Chunk], said: str) -> None:
    source = Odd(change, mark=said)
    with pytest.raises(UserError, match=said):
        prepare(source, "train", 2)
    folder = store_path(source, "train", 2)
    assert not folder.exists() and not list(folder.parent.glob(f"{folder.name}*"))


def test_embeddings_of_some_captions_only_are_refused() -> None:
    source = Toy([["a"], ["b"], ["c"]], cut=1, mark="gaps")
    some = iter([ROW[:1], None, ROW[:1]])
    chunks = list(source.chunks("train", 2))
    source.chunks = lambda *_: (replace(c, embeddings=next(some)) for c in chunks)  # type: ignore[method-assign, assignment]
    with pytest.raises(UserError, match="from n1 on they are 0 wide, before it 2"):
        prepare(source, "train", 2)


def test_sides_that_do_not_divide_the_largest_are_refused() -> None:
    with pytest.raises(UserError, match="side 3: must divide the next larger, 4"):
        prepare(Toy([["a"]]), "train", 8, smaller=(4, 3))
