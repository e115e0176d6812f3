"""Values of single images: what was saved comes back, and nothing else is taken for it."""

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.errors import UserError
from t2ibench.reports.items import Items, load_items, save_items

IDS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=20)


def items(n: int = 3) -> Items:
    values = {"clip_score@scenes": np.linspace(0, 1, n), "r_precision@clip": np.array([np.nan] * n)}
    return Items(tuple(f"image-{i}#0" for i in range(n)), tuple(f"image-{i}" for i in range(n)), values)


@settings(deadline=None, max_examples=25)
@given(ids=st.lists(st.tuples(IDS, IDS, st.floats()), max_size=5))
def test_what_was_saved_comes_back(tmp_path_factory: pytest.TempPathFactory, ids: list[tuple[str, str, float]]) -> None:
    captions, images, values = zip(*ids, strict=True) if ids else ((), (), ())
    path = tmp_path_factory.mktemp("items") / "items.npz"
    saved = Items(captions, images, {"probe@a/b": np.array(values, dtype=np.float64)})
    save_items(path, saved)
    found = load_items(path)
    assert (found.caption_ids, found.image_ids, list(found.values)) == (captions, images, ["probe@a/b"])
    np.testing.assert_array_equal(found.values["probe@a/b"], saved.values["probe@a/b"])


def test_equal_items_give_equal_bytes_and_are_small(tmp_path: Path) -> None:
    for name in "ab":
        save_items(tmp_path / name, items(2000))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 60_000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(("captions", "images", "values", "said"), [
    (2, 3, {}, "2 caption ids came with 3 image ids"),
    (2, 2, {"fid": np.zeros(2)}, "metric@judge"),
    (2, 2, {"a@b": np.zeros(3)}, r"values of a@b: expected float64 \[2\]"),
    (2, 2, {"a@b": np.zeros(2, np.float32)}, "got float32"),
])  # fmt: skip
def test_values_belong_to_the_captions_one_to_one(
    captions: int, images: int, values: dict[str, np.ndarray], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        Items(("x",) * captions, ("y",) * images, values)


class Ran(Exception):
    """Raised where a file's pickle was run."""


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Ran, ("ran",)


def npz(**arrays: object) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def whole() -> bytes:
    return npz(caption_ids=np.array(["a"]), image_ids=np.array(["b"]), **{"x@y": np.zeros(1)})


@pytest.mark.parametrize("content", [
    b"", b"not a zip", pickle.dumps(Bomb()), whole()[:-40], whole()[:200], npz(caption_ids=np.array(["a"])),
    npz(caption_ids=np.array([1]), image_ids=np.array(["b"])), npz(caption_ids=np.array("a"), image_ids=np.array("a")),
    npz(caption_ids=np.array(["a"]), image_ids=np.array(["b", "c"])),
    npz(caption_ids=np.array(["a"]), image_ids=np.array(["b"]), **{"x@y": np.zeros(2)}),
    npz(caption_ids=np.array(["a"]), image_ids=np.array(["b"]), **{"x@y": np.array([Bomb()], dtype=object)}),
    whole().replace(b"descr", b"dexcr"),
])  # fmt: skip
def test_a_malformed_file_is_named_and_never_run(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "items.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="items.npz: no per-image values in it") as raised:
        load_items(path)
    assert "\n" not in str(raised.value)


def test_a_lone_array_and_a_missing_file_are_named(tmp_path: Path) -> None:
    np.save(tmp_path / "items.npy", np.zeros(3))
    for name, said in (("items.npy", "no per-image values"), ("none.npz", "no such file")):
        with pytest.raises(UserError, match=f"{name}: {said}"):
            load_items(tmp_path / name)


@settings(deadline=None, max_examples=50)
@given(at=st.integers(0, len(whole()) - 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_noticed_or_harmless(tmp_path_factory: pytest.TempPathFactory, at: int, bit: int) -> None:
    content = bytearray(whole())
    content[at] ^= 1 << bit
    path = tmp_path_factory.mktemp("items") / "items.npz"
    path.write_bytes(content)
    try:
        assert load_items(path).caption_ids == ("a",)
    except UserError:
        pass
