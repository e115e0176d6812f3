"""Text as numbers: the interface, Reed's characters, words of a vocabulary (pieces of words are in `bpe`)."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from ..errors import UserError
from .bpe import BPETokenizer, checked_merges
from .user_files import short

MOST_NUMBERS = 65_536
"""The longest row that a saved tokenizer may ask for."""

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
"""The 70 symbols of Reed et al. 2016; '-' stands twice, as in the official code, and the later place counts."""


class Tokenizer(Protocol):
    """Captions as rows of numbers; kept as JSON with the run, so that it draws with what it was taught with."""

    vocabulary_size: int
    """Numbers are below this; 0 is padding."""
    length: int

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return int64 [N, length]; a caption that is too long is cut."""
        ...

    def count(self, caption: str) -> int:
        """Return how many numbers the whole caption takes: one that takes more than `length` is cut."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what `tokenizer_from_json` makes the same tokenizer of."""
        ...


class CharacterTokenizer:
    """Characters of `ALPHABET`, 1-based; others and the rest of the row are 0 (Reed et al. 2016, section 5)."""

    vocabulary_size = len(ALPHABET) + 1

    def __init__(self, length: int = 201) -> None:
        self.length = length
        self._table = np.zeros(256, np.int64)
        for number, symbol in enumerate(ALPHABET, start=1):
            self._table[ord(symbol)] = number

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return int64 [N, length]; captions are lower-cased, and cut after `length` characters."""
        padded = "".join(caption.lower()[: self.length].ljust(self.length, "\0") for caption in captions)
        letters = np.frombuffer(padded.encode("utf-32-le", "replace"), np.uint32).reshape(len(captions), self.length)
        return torch.from_numpy(self._table[np.minimum(letters, len(self._table) - 1)])

    def count(self, caption: str) -> int:
        """Return how many characters the caption has."""
        return len(caption.lower())

    def to_json(self) -> dict[str, Any]:
        """Return the length; the symbols are always the same."""
        return {"kind": "character", "length": self.length}


class WordTokenizer:
    """Lower-case words of a vocabulary: 0 is padding, 1 an unknown word, 2 the end of the caption."""

    padding, unknown, end = 0, 1, 2

    def __init__(self, words: Sequence[str], length: int) -> None:
        self.words = tuple(words)
        self.length = length
        self.vocabulary_size = len(self.words) + 3
        self._numbers = {word: number for number, word in enumerate(self.words, start=3)}

    @classmethod
    def learn(cls, captions: Iterable[str], *, length: int, size: int) -> "WordTokenizer":
        """Return a tokenizer of the `size` most frequent words of `captions`, ties in alphabetical order."""
        counts = Counter(word for caption in captions for word in _words(caption))
        ranked = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(ranked[:size], length)

    def __call__(self, captions: Sequence[str]) -> torch.Tensor:
        """Return int64 [N, length]: the words, then the end; a caption that is too long loses words before its end."""
        tokens = np.zeros((len(captions), self.length), np.int64)
        for row, caption in zip(tokens, captions, strict=True):
            numbers = [self._numbers.get(word, self.unknown) for word in _words(caption)[: self.length - 1]]
            row[: len(numbers) + 1] = [*numbers, self.end]
        return torch.from_numpy(tokens)

    def count(self, caption: str) -> int:
        """Return how many words the caption has, and one for its end."""
        return len(_words(caption)) + 1

    def to_json(self) -> dict[str, Any]:
        """Return the words in the order of their numbers."""
        return {"kind": "word", "length": self.length, "words": list(self.words)}


FIELDS = {
    "character": {"kind", "length"},
    "word": {"kind", "length", "words"},
    "bpe": {"kind", "length", "merges"},
}


def tokenizer_from_json(document: Any, where: str) -> Tokenizer:
    """Return the tokenizer whose `to_json` gave `document`; raise UserError beginning with `where` if none can have."""
    kind = document.get("kind") if isinstance(document, dict) else None
    if not isinstance(kind, str) or kind not in FIELDS:
        raise UserError(f"{where}: expected a tokenizer of kind {', '.join(FIELDS)}; got {short(repr(kind))}")
    if set(document) != FIELDS[kind]:
        raise UserError(f"{where}: expected the keys {sorted(FIELDS[kind])}, got {short(repr(sorted(document)))}")
    length = document["length"]
    if type(length) is not int or not 1 <= length <= MOST_NUMBERS:
        raise UserError(f"{where}: `length` must be from 1 to {MOST_NUMBERS}, got {short(repr(length))}")
    if kind == "character":
        return CharacterTokenizer(length)
    if kind == "word":
        return WordTokenizer(_checked_words(document["words"], where), length)
    return BPETokenizer(checked_merges(document["merges"], where), length)


def _checked_words(words: Any, where: str) -> list[str]:
    if not isinstance(words, list):
        raise UserError(f"{where}: `words` must be a list, got {type(words).__name__}")
    seen = set()
    for number, word in enumerate(words):
        if not isinstance(word, str) or _words(word) != [word] or word in seen:
            raise UserError(f"{where}: word {number} must be one lower-case word, once; got {short(repr(word))}")
        seen.add(word)
    return words


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", caption.lower())
