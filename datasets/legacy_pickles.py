"""The pickles of the old GAN repositories: names, classes, captions and embeddings, checked, and never executed."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from .plain_pickle import Array, kind_of, parse, text_of

MAX_BYTES = 4 << 30
MAX_NAME_LENGTH = 1000
TEXT_PER_BYTE = 16
"""Characters of captions that a byte of `captions.pickle` may stand for, spelled out; about 3 in the real ones."""


def read_filenames(path: Path) -> list[str]:
    """Return a `filenames.pickle` (StackGAN, AttnGAN): names of images without suffix, in the order of the split.

    Raises UserError naming the file and the entry when it is anything but a list of text.
    """
    names = _list(_load(path)[0], path, "names")
    return [_word(name, f"{path}, entry {number}") for number, name in enumerate(names)]


def read_class_info(path: Path) -> list[int]:
    """Return a `class_info.pickle`: the class of each name in `filenames.pickle`, counted from 1 by its writers.

    Raises UserError naming the file and the entry when it is anything but a list or array of whole numbers.
    """
    value = _load(path)[0]
    if isinstance(value, Array) and value.values.ndim == 1:
        value = value.values.tolist()
    classes = _list(value, path, "class numbers")
    return [_integer(number, f"{path}, entry {entry}") for entry, number in enumerate(classes)]


def read_captions(path: Path, num_images: Mapping[str, int]) -> dict[str, list[tuple[str, ...]]]:
    """Return the captions of each image of `train` and `test`, from a `captions.pickle` (AttnGAN).

    The file holds a list of four: the captions of the train split and of the test split, each caption a list of
    word numbers, equally many an image and in the order of `filenames.pickle`; the word of each number; and the
    number of each word. Number 0, which ends and fills up captions, is dropped; the words come back with single
    spaces between. Raises UserError when the captions do not divide by `num_images` or a number has no word.
    """
    value, size = _load(path)
    parts = _list(value, path, "four (train captions, test captions, ixtoword, wordtoix)")
    if len(parts) != 4:
        raise UserError(f"{path}: expected a list of four (train, test, ixtoword, wordtoix), got {len(parts)} parts")
    words = _vocabulary(parts[2], parts[3], path)
    captions = {}
    for split, part in zip(("train", "test"), parts[:2], strict=True):
        numbers = _list(part, path, f"captions of the {split} split")
        images = num_images[split]
        if not images or len(numbers) % images:
            raise UserError(f"{path}: {len(numbers)} captions of the {split} split do not divide by {images} images")
        each = max(len(numbers) // images, 1)
        spelled = list(_spelled(numbers, words, f"{path}, {split} caption", size))
        captions[split] = [tuple(spelled[at : at + each]) for at in range(0, each * images, each)]
    return captions


def read_embeddings(path: Path) -> NDArray[np.float32]:
    """Return a `char-CNN-RNN-embeddings.pickle` (StackGAN): float32 [N, K, D], finite, K captions an image.

    The file holds a list of N arrays [K, D] or one array. Raises UserError naming the image when shapes differ
    or a number is not finite.
    """
    value, size = _load(path)
    if isinstance(value, Array):
        stacked = value.values
    else:
        stacked = _stacked(_list(value, path, "arrays"), path, size)
    if stacked.ndim != 3 or stacked.dtype.kind != "f":
        got = f"{stacked.dtype} {list(stacked.shape)}"
        raise UserError(f"{path}: expected embeddings float32 [images, captions, D], got {got}")
    with np.errstate(over="ignore"):
        embeddings = stacked.astype(np.float32, copy=False)
    finite = np.isfinite(embeddings).all(axis=(1, 2))
    if not finite.all():
        raise UserError(f"{path}, image {int(finite.argmin())}: its embeddings are not all finite numbers")
    return embeddings


def _load(path: Path) -> tuple[object, int]:
    """Return the value in a pickle, and the file's size."""
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise UserError(f"{path}: {size:,} bytes; at most {MAX_BYTES:,} are read")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: not readable ({error.strerror})") from error
    try:
        return parse(data), len(data)
    except ValueError as error:
        raise UserError(f"{path}: not a pickle of plain data ({error})") from error


def _list(value: object, path: Path, what: str) -> list[object]:
    if not isinstance(value, list):
        raise UserError(f"{path}: expected a list of {what}, got {kind_of(value)}")
    return value


def _word(value: object, where: str) -> str:
    if not isinstance(value, str | bytes | memoryview):
        raise UserError(f"{where}: expected text, got {kind_of(value)}")
    if not 0 < len(value) <= MAX_NAME_LENGTH:
        raise UserError(f"{where}: expected text of 1 to {MAX_NAME_LENGTH} characters, got {len(value):,}")
    return text_of(value)


def _integer(value: object, where: str) -> int:
    if type(value) is not int:
        raise UserError(f"{where}: expected a whole number, got {kind_of(value)}")
    return value


def _vocabulary(ixtoword: object, wordtoix: object, path: Path) -> dict[int, str]:
    """Return the word of each number; raise UserError unless the two dictionaries say the same."""
    if not isinstance(ixtoword, dict) or not isinstance(wordtoix, dict):
        raise UserError(f"{path}: expected two dictionaries of words, got {kind_of(ixtoword)}, {kind_of(wordtoix)}")
    words = {
        _integer(number, f"{path}, ixtoword"): _word(word, f"{path}, word {number}")
        for number, word in ixtoword.items()
    }
    if len(words) != len(wordtoix) or any(wordtoix.get(word) != number for number, word in words.items()):
        raise UserError(f"{path}: its two dictionaries, ixtoword and wordtoix, do not say the same")
    return words


def _spelled(captions: Sequence[object], words: Mapping[int, str], where: str, size: int) -> Iterator[str]:
    """Yield captions as text; raise UserError at a number without a word, and at text out of all proportion."""
    left = TEXT_PER_BYTE * size
    for place, caption in enumerate(captions):
        if not isinstance(caption, list):
            raise UserError(f"{where} {place}: expected a list of word numbers, got {kind_of(caption)}")
        numbers = [_integer(number, f"{where} {place}") for number in caption]
        if missing := [number for number in numbers if number not in words]:
            raise UserError(f"{where} {place}: no word has the number {missing[0]}")
        spelled = [words[number] for number in numbers if number]
        left -= sum(map(len, spelled)) + len(spelled)
        if left < 0:
            raise UserError(f"{where} {place}: over {TEXT_PER_BYTE} characters of text for each byte of the file")
        yield " ".join(spelled)


def _values(value: object, where: str) -> NDArray[np.generic]:
    if not isinstance(value, Array):
        raise UserError(f"{where}: expected an array of embeddings, got {kind_of(value)}")
    return value.values


def _stacked(items: Sequence[object], path: Path, size: int) -> NDArray[np.generic]:
    """Return arrays of one shape as one array, which has no more bytes than the file."""
    arrays = [_values(item, f"{path}, image {number}") for number, item in enumerate(items)]
    if not arrays:
        raise UserError(f"{path}: an empty list; expected an array of embeddings for each image")
    for number, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            got = f"{list(array.shape)}, where the first has {list(arrays[0].shape)}"
            raise UserError(f"{path}, image {number}: embeddings of the shape {got}")
    if sum(array.nbytes for array in arrays) > size:
        raise UserError(f"{path}: its arrays share their bytes; together they are larger than the file")
    return np.stack(arrays)
