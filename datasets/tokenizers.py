"""Text as numbers: Reed's characters and words of a vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789-,;.!?:'\"/\\|_@#$%^&*~`+-=<>()[]{} "
"""The 70 symbols of Reed et al. 2016; '-' stands twice, as in the official code, and the later place counts."""


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


def _words(caption: str) -> list[str]:
    return re.findall(r"\w+|[^\w\s]", caption.lower())
