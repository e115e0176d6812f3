import contextlib
import io
import os
import pickle
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from layouts_birds import python2

from t2ibench.datasets import legacy_pickles, plain_pickle
from t2ibench.datasets.legacy_pickles import read_captions, read_class_info, read_embeddings, read_filenames
from t2ibench.datasets.plain_pickle import Array, parse
from t2ibench.errors import UserError


def touch(canary: Path) -> str:
    return f"touch {canary}"


class Evil:
    """What a stranger's pickle holds: loading it runs a command."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (touch(self.canary),)


def written(canary: Path) -> str:
    return f"open({str(canary)!r},'w').close()"


def short_text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text.encode())]) + text.encode()


# Each of these runs its command when the standard library loads it; the test shows that too.
LIVE: dict[str, Callable[[Path], bytes]] = {
    "GLOBAL os.system": lambda c: b"cposix\nsystem\n(S'%s'\ntR." % touch(c).encode(),
    "GLOBAL eval": lambda c: b'c__builtin__\neval\n(S"%s"\ntR.' % written(c).encode(),
    "GLOBAL exec": lambda c: b'\x80\x02cbuiltins\nexec\nX%s%s\x85R.'
    % (struct.pack("<I", len(written(c))), written(c).encode()),
    "STACK_GLOBAL": lambda c: b"\x80\x04" + short_text("os") + short_text("system") + b"\x93" + short_text(touch(c))
    + b"\x85R.",
    "INST": lambda c: b"(S'%s'\niposix\nsystem\n." % touch(c).encode(),
    "OBJ": lambda c: b"(cposix\nsystem\nS'%s'\no." % touch(c).encode(),
    "in a list": lambda c: b"(lp0\nVname\np1\nacposix\nsystem\n(S'%s'\ntRa." % touch(c).encode(),
    "as a dtype": lambda c: b"cnumpy\ndtype\n(cposix\nsystem\n(S'%s'\ntRI0\nI1\ntR." % touch(c).encode(),
    "numpy exec": lambda c: b'cnumpy.testing._private.utils\nrunstring\n(S"%s"\n}tR.' % written(c).encode(),
    "dotted name": lambda c: b"\x80\x04" + short_text("posixpath") + short_text("os.system") + b"\x93"
    + short_text(touch(c)) + b"\x85R.",
    **{f"reduced, protocol {p}": lambda c, p=p: pickle.dumps(Evil(c), p) for p in range(6)},  # type: ignore[misc]
    **{
        f"in an object array, protocol {p}": lambda c, p=p: pickle.dumps(np.array([Evil(c), 1], object), p)  # type: ignore[misc]
        for p in (0, 2, 5)
    },
}  # fmt: skip


@pytest.mark.parametrize("case", LIVE)
def test_a_pickle_that_runs_commands_is_refused_and_nothing_runs(case: str, tmp_path: Path) -> None:
    canary, path = tmp_path / "ran", tmp_path / "filenames.pickle"
    path.write_bytes(LIVE[case](canary))
    for read in READERS:
        assert "\n" not in refused(read, path)
    assert not canary.exists()
    with contextlib.suppress(TypeError):
        pickle.loads(path.read_bytes())
    assert canary.exists(), "this pickle would not have run anything: the case proves nothing"


READERS: list[Callable[[Path], Any]] = [
    read_filenames, read_class_info, read_embeddings, lambda path: read_captions(path, {"train": 1, "test": 1}),
]  # fmt: skip


def refused(read: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
FLOATS = b"cnumpy\ndtype\n(S'f4'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI0\ntb"


def array_of(shape: bytes, raw: bytes, dtype: bytes = FLOATS) -> bytes:
    return ARRAY + b"(I1\n(" + shape + b"t" + dtype + b"I00\n" + b"B" + struct.pack("<I", len(raw)) + raw + b"tb."


HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "cut off"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(100), "not a pickle of plain data"),
    "zeros": (bytes(1000), "instruction 0x0"),
    "EXT1": (b"\x80\x02\x82\x01.", "the instruction EXT1"),
    "EXT2": (b"\x80\x02\x83\x01\x00.", "the instruction EXT2"),
    "EXT4": (b"\x80\x02\x84\x01\x00\x00\x00.", "the instruction EXT4"),
    "PERSID": (b"Pfile\n.", "the instruction PERSID"),
    "BINPERSID": (b"\x80\x02U\x01xQ.", "the instruction BINPERSID"),
    "NEWOBJ": (b"\x80\x02cnumpy\nndarray\n)\x81.", "the instruction NEWOBJ"),
    "NEWOBJ_EX": (b"\x80\x04" + b"cnumpy\nndarray\n)}\x92.", "the instruction NEWOBJ_EX"),
    "NEXT_BUFFER": (b"\x80\x05\x97.", "the instruction NEXT_BUFFER"),
    "DUP": (b"]2a.", "the instruction DUP"),
    "a file of NumPy's": (b"cnumpy\nload\n(S'x.npy'\nI00\nI01\ntR.", "it asks for 'numpy.load'"),
    "memory of NumPy's": (b"cnumpy.core.multiarray\nfrombuffer\n.", "it asks for 'numpy.core.multiarray.frombuffer'"),
    "other class": (b"cnumpy.core.multiarray\n_reconstruct\n(cbuiltins\nlist\n(I0\ntS'b'\ntR.", "it asks for"),
    "matrix": (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nmatrix\n(I0\ntS'b'\ntR.", "it asks for 'numpy.matrix'"),
    "a name in two parts": (b"\x80\x04" + short_text("numpy") + short_text("ndarray.tofile") + b"\x93.", "it asks for"),
    "a name with a line's end": (b"\x80\x04" + short_text("a\nb") + short_text("c\x1b[2J") + b"\x93.", "it asks for"),
    "ndarray called": (b"cnumpy\nndarray\n(I1000000000000\ntR.", "something is called"),
    "no call": (b"cnumpy\nndarray\n]R.", "something is called"),
    "a string called": (b"S'eval'\n(S'1'\ntR.", "something is called"),
    "other codec": (b"c_codecs\nencode\n(Vx\nVzip\ntR.", "something is called"),
    "not Latin-1": (b"c_codecs\nencode\n(V\\u1234\nVlatin1\ntR.", "'latin-1' codec"),
    "objects": (b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.", "'O8'; only numbers"),
    "text array": (b"cnumpy\ndtype\n(S'S9'\nI0\nI1\ntR.", "'S9'; only numbers"),
    "record": (b"cnumpy\ndtype\n((S'a'\nS'O'\ntI0\nI1\ntR.", "a tuple where text"),
    "dtype's fields": (FLOATS.replace(b"NNN", b"N(S'a'\nt}") + b".", "something else than plain numbers"),
    "dtype's flags": (FLOATS.replace(b"I0\ntb", b"I63\ntb") + b".", "something else than plain numbers"),
    "dtype's order": (FLOATS.replace(b"S'<'", b"S'?'") + b".", "something else than plain numbers"),
    "state of a name": (b"cnumpy\nndarray\n(N}S'__doc__'\nI1\nstb.", "a state for"),
    "state of a list": (b"](N}S'append'\nI1\nstb.", "a state for a list"),
    "state of a dict": (b"\x80\x02}}U\x01aK\x01sb.", "a state for a dictionary"),
    "state that is none": (ARRAY + b"I1\nb.", "a state for"),
    "array's state": (ARRAY + b"(I1\nI2\ntb.", "state is not NumPy's"),
    "values of objects": (ARRAY + b"(I1\n(I1\nt" + FLOATS + b"I00\n(lp1\nI1\natb.", "an array without bytes"),
    "huge shape": (array_of(b"I1000000\nI1000000\n", bytes(8)), "in 8 bytes"),
    "negative shape": (array_of(b"I-1\nI-2\n", bytes(8)), "without a shape"),
    "no shape": (array_of(b"", bytes(4)), "without a shape"),
    "empty shape": (array_of(b"I0\nI99999999999\n", b""), "without a shape"),
    "many sides": (array_of(b"I1\n" * 33, bytes(4)), "without a shape"),
    "shape of text": (array_of(b"S'2'\n", bytes(8)), "without a shape"),
    "short array": (array_of(b"I3\n", bytes(8)), "in 8 bytes"),
    "2 GB of string": (b"\x80\x02T\xff\xff\xff\x7fabc.", "2147483647 were announced and 4 are there"),
    "negative length": (b"\x80\x02T\xff\xff\xff\xffabc.", "cut off"),
    "4 GB of bytes": (b"\x80\x03B\xff\xff\xff\xffabc.", "4294967295 were announced"),
    "endless bytes": (b"\x80\x04\x8e" + b"\xff" * 8 + b"abc.", "cut off"),
    "endless text": (b"\x80\x04\x8d" + b"\xff" * 8 + b"abc.", "cut off"),
    "endless bytearray": (b"\x80\x05\x96" + b"\xff" * 8 + b"abc.", "cut off"),
    "long number": (b"L" + b"9" * 100_000 + b"L\n.", "a number of 100000 digits"),
    "long binary number": (b"\x80\x02\x8a\xff" + b"\x01" * 255 + b".", "a number of 255 bytes"),
    "longer binary number": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "the instruction LONG4"),
    "no number": (b"Ix\n.", "invalid literal"),
    "no line": (b"Vabc", "cut off"),
    "no quotes": (b"Sabc\n.", "without quotes"),
    "one quote": (b"S'\n.", "without quotes"),
    "broken escape": (b"S'\\x1'\n.", "not a pickle of plain data"),
    "not UTF-8": (b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", "codec can't decode"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "stands in two places"),
    "a list in two places": (b"\x80\x02]q\x00(]q\x01h\x01e.", "stands in two places"),
    "not in the memo": (b"\x80\x02h\x07.", "stands in two places, or is not there"),
    "nothing to append to": (b"I1\nI2\na.", "appended to a number"),
    "nothing to append": (b"a.", "a value is missing"),
    "append beyond the mark": (b"](a.", "a value is missing"),
    "no mark": (b"]e.", "a beginning is missing"),
    "odd keys": (b"}(I1\nu.", "keys and values"),
    "two values": (b"]].", "not one value"),
    "no value": (b".", "not one value"),
    "open mark": (b"](].", "not one value"),
    "more behind": (b"].cposix\nsystem\n", "14 bytes behind it"),
    "bytes from nothing": (
        b"\x80\x02(X\xe8\x03\x00\x00" + b"x" * 1000 + b"q\x00X\x06\x00\x00\x00latin1q\x01"
        + b"c_codecs\nencode\nq\x02" + b"h\x02h\x00h\x01\x86R" * 50 + b"l.", "more bytes than the file holds",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_in_little_memory(case: str, tmp_path: Path) -> None:
    data, said = HOSTILE[case]
    path = tmp_path / "filenames.pickle"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        for read in READERS:
            message = refused(read, path)
            assert said in message and "\n" not in message and "\x1b" not in message and len(message) < 500
        assert tracemalloc.get_traced_memory()[1] < 40_000_000
    finally:
        tracemalloc.stop()


def test_a_huge_place_in_the_memo_costs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "filenames.pickle"
    path.write_bytes(b"\x80\x02]r\xff\xff\xff\x7f.")
    tracemalloc.start()
    assert read_filenames(path) == []
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


def test_a_deep_key_is_not_hashed(tmp_path: Path) -> None:
    path = tmp_path / "captions.pickle"
    path.write_bytes(b"\x80\x02})" + b"\x85" * 150_000 + b"Ns.")
    assert "a tuple where text was expected" in refused(read_class_info, path)


def test_deep_nesting_and_tuples_that_double_are_only_not_a_list_of_names(tmp_path: Path) -> None:
    path = tmp_path / "filenames.pickle"
    path.write_bytes(b"]" * 100_000 + b"a" * 99_999 + b".")
    assert "entry 0: expected text, got a list" in refused(read_filenames, path)
    path.write_bytes(b"\x80\x02)" + b"".join(b"q%ch%c\x86" % (n, n) for n in range(200)) + b".")
    assert "expected a list of names, got a tuple" in refused(read_filenames, path)


def test_instructions_and_bytes_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "filenames.pickle"
    path.write_bytes(pickle.dumps(["a"] * 100, 2))
    monkeypatch.setattr(plain_pickle, "MAX_STEPS", 50)
    assert "over 50 instructions" in refused(read_filenames, path)
    assert "Is a directory" in refused(read_filenames, tmp_path)
    monkeypatch.setattr(legacy_pickles, "MAX_BYTES", 100)
    assert "at most 100 are read" in refused(read_filenames, path)


def test_python_2_strings_are_latin_1(tmp_path: Path) -> None:
    path = tmp_path / "filenames.pickle"
    path.write_bytes(b"\x80\x02]q\x00(U\x04caf\xe9q\x01T\x03\x00\x00\x00abcq\x02X\x03\x00\x00\x00d\xc3\xa9q\x03h\x01e.")
    assert read_filenames(path) == ["café", "abc", "dé", "café"]
    path.write_bytes(b"(lp0\nS'caf\\xe9'\np1\naS\"it's\"\np2\nag1\na.")
    assert read_filenames(path) == ["café", "it's", "café"]


@pytest.mark.parametrize("protocol", range(6))
def test_what_python_3_writes_is_read(protocol: int, tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(["002.Laysan_Albatross/a_1", "é\n\\x41"], protocol))
    assert read_filenames(path) == ["002.Laysan_Albatross/a_1", "é\n\\x41"]
    for classes in ([1, 200, 70_000], np.array([1, 200, 7]), [np.int64(1), np.uint8(200)]):
        path.write_bytes(pickle.dumps(classes, protocol))
        assert read_class_info(path) == [int(number) for number in classes]
    numbers = np.arange(24).reshape(2, 3, 4) / 7
    forms: list[Any] = [numbers, list(numbers.astype(">f4")), np.asfortranarray(numbers), list(numbers.astype("f2"))]
    for form in forms:
        path.write_bytes(pickle.dumps(form, protocol))
        read = read_embeddings(path)
        assert read.dtype == np.float32 and np.array_equal(read, np.array(form, np.float32))


def test_python_2_arrays_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    arrays = [np.random.default_rng(n).standard_normal((10, 8)).astype(np.float32) for n in range(30)]
    path.write_bytes(python2(arrays))
    assert np.array_equal(pickle.loads(path.read_bytes(), encoding="latin1"), arrays)
    assert np.array_equal(read_embeddings(path), arrays)
    # Protocol 0, as Python 2's pickle.dump writes when it is not told otherwise.
    raw = np.arange(4, dtype="<f4").tobytes()
    escaped = repr(raw)[1:].encode()
    path.write_bytes(b"(lp0\n" + ARRAY + b"(I1\n(I2\nI2\nt" + FLOATS + b"I00\nS" + escaped + b"\ntba.")
    assert np.array_equal(read_embeddings(path), [[[0, 1], [2, 3]]])


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.integers(-9, 9**9) | st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)


@settings(deadline=None, max_examples=60)
@given(value=PLAIN, protocol=st.integers(1, 5))
def test_plain_values_come_back_as_they_were(value: object, protocol: int) -> None:
    assert parse(pickle.dumps(value, protocol)) == value


SEEDS = [
    python2([b"a name", "caf\xe9", 7, {1: b"x"}, np.ones((2, 3), np.float32)]),
    pickle.dumps([np.ones((2, 3)), "name", {"a": -1}], 0),
    pickle.dumps([np.ones((2, 3)), np.float32(1), (1, 2)], 5),
]


@settings(deadline=None, max_examples=300)
@given(data=st.data())
def test_mutated_pickles_are_read_or_refused(data: st.DataObject) -> None:
    mutated = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated) - 1))
        mutated[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        mutated.append(46)
    try:
        parse(bytes(mutated))
    except ValueError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("seed", range(len(SEEDS)))
def test_every_cut_is_noticed(seed: int) -> None:
    assert parse(SEEDS[seed])
    for end in range(len(SEEDS[seed])):
        with pytest.raises(ValueError):
            parse(SEEDS[seed][:end])


VALUES: list[tuple[Callable[[Path], Any], object, str]] = [
    (read_filenames, {"a": 1}, "expected a list of names, got a dictionary"),
    (read_filenames, ["a", 3], "entry 1: expected text, got a number"),
    (read_filenames, ["a", None], "entry 1: expected text, got nothing"),
    (read_filenames, ["a", ""], "entry 1: expected text of 1 to 1000 characters, got 0"),
    (read_filenames, ["x" * 10**6], "entry 0: expected text of 1 to 1000 characters, got 1,000,000"),
    (read_filenames, np.ones(3), "expected a list of names, got an array"),
    (read_class_info, "abc", "expected a list of class numbers, got text"),
    (read_class_info, [1, 2.0], "entry 1: expected a whole number, got a fraction"),
    (read_class_info, [True], "entry 0: expected a whole number, got a bool"),
    (read_class_info, np.ones(3), "entry 0: expected a whole number, got a fraction"),
    (read_class_info, np.ones((3, 3), int), "expected a list of class numbers, got an array"),
    (read_embeddings, [], "an empty list"),
    (read_embeddings, [[1.0, 2.0]], "image 0: expected an array of embeddings, got a list"),
    (read_embeddings, np.ones((3, 4)), "expected embeddings float32 [images, captions, D], got float64 [3, 4]"),
    (read_embeddings, [np.ones(4)], "got float64 [1, 4]"),
    (read_embeddings, np.ones((3, 4, 5), int), "got int64 [3, 4, 5]"),
    (read_embeddings, [np.ones((10, 4)), np.ones((9, 4))], "image 1: embeddings of the shape [9, 4], where the first"),
    (read_embeddings, [np.ones((2, 4)), np.full((2, 4), np.nan)], "image 1: its embeddings are not all finite"),
    (read_embeddings, [np.ones((2, 4)), np.full((2, 4), -np.inf)], "image 1: its embeddings are not all finite"),
    (read_embeddings, [np.full((2, 4), 1e300)], "image 0: its embeddings are not all finite"),
]


@pytest.mark.parametrize(("read", "value", "said"), VALUES, ids=range(len(VALUES)))
def test_other_values_are_named(read: Callable[[Path], Any], value: object, said: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(pickle.dumps(value, 2))
    message = refused(read, path)
    assert said in message and len(message) < 500


def test_an_array_that_is_only_announced_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    path.write_bytes(b"(lp0\n" + ARRAY + b"a.")
    assert "got float64 [1, 0]" in refused(read_embeddings, path)
    path.write_bytes(ARRAY.replace(b"(I0\nt", b"(I1000000000000\nt") + b".")
    assert read_class_info(path) == [] and "got float64 [0]" in refused(read_embeddings, path)


def test_arrays_that_share_their_bytes_do_not_multiply(tmp_path: Path) -> None:
    path = tmp_path / "x.pickle"
    raw = b"B" + struct.pack("<I", 4000) + bytes(4000)
    first = ARRAY + b"(I1\n(I10\nI100\nt" + FLOATS + b"p1\nI00\n" + raw + b"p2\ntba"
    again = ARRAY + b"(I1\n(I10\nI100\ntg1\nI00\ng2\ntba"
    path.write_bytes(b"(lp0\n" + first + b".")
    assert read_embeddings(path).shape == (1, 10, 100)
    path.write_bytes(b"(lp0\n" + first + again * 300 + b".")
    assert "share their bytes" in refused(read_embeddings, path)


WORDS = {0: "<end>", 1: "a", 2: "red", 3: "bird"}
NUMBERS = {word: number for number, word in WORDS.items()}


def test_captions_are_spelled_out_per_image(tmp_path: Path) -> None:
    path = tmp_path / "captions.pickle"
    train, test = [[1, 2, 3, 0, 0], [3], [2, 3], [0]], [[1], [2], [3]]
    for data in (pickle.dumps([train, test, WORDS, NUMBERS], 2), python2([train, test, WORDS, NUMBERS])):
        path.write_bytes(data)
        captions = read_captions(path, {"train": 2, "test": 3})
        assert captions == {"train": [("a red bird", "bird"), ("red bird", "")], "test": [("a",), ("red",), ("bird",)]}


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([[[1]], [[1]], WORDS], "expected a list of four (train, test, ixtoword, wordtoix), got 3 parts"),
        (([[1]], [[1]], WORDS, NUMBERS), "got a tuple"),
        ([[[1], [1], [1]], [[1]], WORDS, NUMBERS], "3 captions of the train split do not divide by 2 images"),
        ([[[1], [1]], [], WORDS, NUMBERS], None),
        ([[[1], [1]], "abc", WORDS, NUMBERS], "expected a list of captions of the test split, got text"),
        ([[[1], [4]], [[1]], WORDS, NUMBERS], "train caption 1: no word has the number 4"),
        ([[[1], [1]], [[-1]], WORDS, NUMBERS], "test caption 0: no word has the number -1"),
        ([[[1], [10**18]], [[1]], WORDS, NUMBERS], "no word has the number 1000000000000000000"),
        ([[[1], ["red"]], [[1]], WORDS, NUMBERS], "train caption 1: expected a whole number, got text"),
        ([[[1], "red"], [[1]], WORDS, NUMBERS], "train caption 1: expected a list of word numbers, got text"),
        ([[[1], [1]], [[1]], list(WORDS), NUMBERS], "expected two dictionaries of words, got a list, a dictionary"),
        ([[[1], [1]], [[1]], NUMBERS, WORDS], "ixtoword: expected a whole number, got text"),
        ([[[1], [1]], [[1]], WORDS | {3: 3}, NUMBERS], "word 3: expected text, got a number"),
        ([[[1], [1]], [[1]], WORDS, NUMBERS | {"red": 3}], "do not say the same"),
        ([[[1], [1]], [[1]], WORDS, NUMBERS | {"blue": 4}], "do not say the same"),
        ([[[1] * 99_999, [1]], [[1]], {1: "x" * 900}, {"x" * 900: 1}], "over 16 characters of text for each byte"),
    ],
)
def test_captions_that_do_not_fit_are_named(parts: Any, said: str | None, tmp_path: Path) -> None:
    path = tmp_path / "captions.pickle"
    path.write_bytes(pickle.dumps(parts, 2))
    if said is None:
        assert read_captions(path, {"train": 2, "test": 1})["test"] == [()]
        return
    message = refused(lambda path: read_captions(path, {"train": 2, "test": 1}), path)
    assert said in message and len(message) < 500


def test_no_module_is_loaded_by_reading() -> None:
    class Watching(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            found.add(f"{module}.{name}")
            return super().find_class(module, name)

    found: set[str] = set()
    data = pickle.dumps(np.ones((2, 3)), 2)
    Watching(io.BytesIO(data)).load()
    assert found == {"numpy._core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype", "_codecs.encode"}
    assert not hasattr(plain_pickle, "pickle") and not hasattr(legacy_pickles, "pickle")
    value = parse(data)
    assert isinstance(value, Array) and np.array_equal(value.values, np.ones((2, 3)))
