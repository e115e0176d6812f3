"""Byte-pair encoding of captions: pieces of words, learned from the train split, with BPE-dropout.

Sennrich, Haddow and Birch 2016, "Neural Machine Translation of Rare Words with Subword Units" (arXiv:1508.07909),
over bytes as in GPT-2, so that no text is unknown; lower-cased as in DALL-E (Ramesh et al. 2021, section 2.2).
Dropout: Provilkov, Emelianenko and Voita 2020, "BPE-Dropout: Simple and Effective Subword Regularization"
(arXiv:1910.13267), drawn from a seed, so that a resumed run meets the same pieces.
"""

import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer as Library
from tokenizers import models, pre_tokenizers, trainers

from ..errors import UserError
from .splitmix import STEP, splitmix64

PUNCTUATION = r"\x00-\x1f!-/:-@\[-`{-~\x7f\xa1-\xbf\u2010-\u205e\u3001-\u301f"
WORD = re.compile(rf" ?[^\s\d{PUNCTUATION}]{{1,32}}| ?\d{{1,3}}| ?[{PUNCTUATION}]{{1,32}}")
"""Pieces never reach over words: letters (emoji among them), up to 3 digits, or punctuation, with the space before.
A longer run is cut, so that no text, however odd, takes more than linear time."""
LONGEST = 129
"""Bytes of the longest word: a space and 32 characters of 4 bytes."""
WORDS_KEPT = 65_536
STATES_KEPT = 20_000
"""Words, and states of words under dropout, that are remembered: some 25 MB, whatever the captions."""
SPECIALS = 2
"""Padding and the end come before the bytes."""
_Pieces = tuple[int, ...]

# Bytes as visible letters, the alphabet of the library: what prints stands for itself, the rest follows from U+0100.
_VISIBLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_HIDDEN = [byte for byte in range(256) if byte not in _VISIBLE]
LETTERS = {byte: chr(byte) for byte in _VISIBLE} | {byte: chr(256 + n) for n, byte in enumerate(_HIDDEN)}
BYTES = {letter: byte for byte, letter in LETTERS.items()}


def words_of(caption: str) -> list[str]:
    """Return the words of a caption: lower-cased, in NFC, a space before the first and where there was any.

    Halves of surrogate pairs, which have no bytes, become question marks.
    """
    text = " ".join(unicodedata.normalize("NFC", caption.encode(errors="replace").decode().lower()).split())
    return WORD.findall(f" {text}" if text else "")


class BPETokenizer:
    """Pieces of words: 0 is padding, 1 the end of the caption, then the 256 bytes, then what the merges make."""

    padding, end = 0, 1

    def __init__(self, merges: Sequence[str], length: int) -> None:
        self.merges = tuple(merges)
        """Which neighbours become one piece, the most urgent first: "left right" in letters for bytes."""
        self.length = length
        pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
        numbers = {LETTERS[byte]: SPECIALS + byte for byte in range(256)}
        self._merged: dict[_Pieces, tuple[int, int]] = {}
        for rank, (left, right) in enumerate(pairs):
            number = numbers.setdefault(left + right, SPECIALS + len(numbers))
            self._merged[numbers[left], numbers[right]] = rank, number
        self.pieces = ("", "", *numbers)
        """What each number stands for, in letters for bytes."""
        self.vocabulary_size = len(self.pieces)
        self._states: dict[str | _Pieces, _State] = {}
        """By the whole word, or by its pieces so far."""
        self._library = models.BPE(vocab=numbers, merges=pairs)
        self._whole = lru_cache(WORDS_KEPT)(self._without_dropout)

    def __reduce__(self) -> tuple[type["BPETokenizer"], tuple[tuple[str, ...], int]]:
        """Copy without the words that were met."""
        return BPETokenizer, (self.merges, self.length)

    @classmethod
    def learn(cls, captions: Iterable[str], *, length: int, size: int) -> "BPETokenizer":
        """Return a tokenizer of at most `size` numbers, whatever the order of `captions`; pairs met once stay apart."""
        if size < SPECIALS + 256:
            raise UserError(f"BPE: a vocabulary of {size}; expected at least {SPECIALS + 256}: padding, end, 256 bytes")
        library = Library(models.BPE())
        # No normalised caption holds a line feed.
        library.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split("\n", "removed"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        ])  # fmt: skip
        trainer = trainers.BpeTrainer(
            vocab_size=size - SPECIALS, min_frequency=2, special_tokens=[], show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )  # fmt: skip
        library.train_from_iterator(("\n".join(words_of(caption)) for caption in captions), trainer)
        merges = json.loads(library.to_str())["model"]["merges"]
        # A merge is one text or two, by the library's version.
        return cls([merge if isinstance(merge, str) else " ".join(merge) for merge in merges], length)

    def __call__(self, captions: Sequence[str], *, dropout: float = 0.0, seed: int | None = None) -> torch.Tensor:
        """Return int64 [N, length]: the pieces, then the end; a caption that is too long loses pieces before its end.

        With `dropout` each possible merge is passed over with that probability at every step. The pieces of row i
        are then a function of (caption i, seed, i) alone; in a training step draw the seed from PyTorch's generator.
        """
        if not 0 <= dropout <= 1 or (dropout and seed is None):
            raise ValueError(f"expected dropout from 0 to 1, with a seed; got {dropout} and {seed}")
        words = [words_of(caption)[: self.length - 1] for caption in captions]
        if seed is None or not dropout:
            cut: Iterator[Iterable[_Pieces]] = (map(self._whole, own) for own in words)
        else:
            cut = self._with_dropout(words, dropout, seed)
        tokens = np.zeros((len(captions), self.length), np.int64)
        for row, pieces in zip(tokens, cut, strict=True):
            numbers = [*itertools.chain.from_iterable(pieces)][: self.length - 1]
            row[: len(numbers) + 1] = [*numbers, self.end]
        return torch.from_numpy(tokens)

    def count(self, caption: str) -> int:
        """Return how many numbers the whole caption takes without dropout, its end included."""
        return sum(len(self._whole(word)) for word in words_of(caption)) + 1

    def decode(self, tokens: Iterable[int]) -> str:
        """Return the text of one row: lower-cased, in NFC, single spaces; half a character becomes U+FFFD."""
        letters = "".join(self.pieces[number] for number in tokens)
        return bytes(BYTES[letter] for letter in letters).decode(errors="replace").removeprefix(" ")

    def to_json(self) -> dict[str, Any]:
        """Return what `tokenizer_from_json` makes the same tokenizer of."""
        return {"kind": "bpe", "length": self.length, "merges": list(self.merges)}

    def _with_dropout(self, words: Sequence[list[str]], dropout: float, seed: int) -> Iterator[Iterable[_Pieces]]:
        """Yield the pieces of each word of each caption."""
        sizes = np.array([len("".join(own).encode()) for own in words], np.int64)
        passed = _passed_over(sizes, dropout, seed).tolist()
        for own, stop, size in zip(words, sizes.cumsum().tolist(), sizes.tolist(), strict=True):
            draws = iter(passed[stop - size : stop])
            yield [self._cut(word, draws) for word in own]

    def _without_dropout(self, word: str) -> _Pieces:
        """Return the pieces of a word as the library finds them."""
        letters = "".join(LETTERS[byte] for byte in word.encode())
        return tuple(token.id for token in self._library.tokenize(letters))

    def _cut(self, word: str, passed: Iterator[int]) -> _Pieces:
        """Return the pieces of a word; `passed` says at each step how many of the possible merges are dropped.

        The library's own dropout draws from a generator that cannot be seeded, and drops fewer than the paper says.
        """
        state = self._states.get(word) or self._state(word, tuple(SPECIALS + byte for byte in word.encode()))
        for choice in passed:
            following = state.following
            if choice >= len(following):
                break
            state = following[choice] or self._merge(state, choice)
        return state.pieces

    def _merge(self, state: "_State", choice: int) -> "_State":
        place, pieces = state.places[choice], state.pieces
        _, number = self._merged[pieces[place : place + 2]]
        merged = (*pieces[:place], number, *pieces[place + 2 :])
        state.following[choice] = following = self._states.get(merged) or self._state(merged, merged)
        return following

    def _state(self, key: str | _Pieces, pieces: _Pieces) -> "_State":
        if len(self._states) >= STATES_KEPT:
            self._states.clear()
        pairs = enumerate(itertools.pairwise(pieces))
        ranked = sorted((self._merged[pair][0], place) for place, pair in pairs if pair in self._merged)
        state = self._states[key] = _State(pieces, [place for _, place in ranked])
        return state


class _State:
    """A word partly merged: where it may be merged next, the most urgent first, and what was found to follow."""

    __slots__ = ("following", "pieces", "places")

    def __init__(self, pieces: _Pieces, places: list[int]) -> None:
        self.pieces, self.places = pieces, places
        self.following: list[_State | None] = [None] * len(places)


def checked_merges(merges: Any, where: str) -> list[str]:
    """Return the merges of a saved tokenizer; raise UserError beginning with `where` unless each joins known pieces."""
    if not isinstance(merges, list):
        raise UserError(f"{where}: `merges` must be a list, got {type(merges).__name__}")
    known, seen = set(BYTES), set()
    for number, merge in enumerate(merges):
        parts = merge.split(" ") if isinstance(merge, str) else []
        if len(parts) != 2 or not known.issuperset(parts):
            raise UserError(f"{where}: merge {number} must join two pieces made before it, got {repr(merge)[:60]}")
        if merge in seen or len(merge) > LONGEST + 1:
            raise UserError(f"{where}: merge {number} {'is there twice' if merge in seen else 'is longer than a word'}")
        seen.add(merge)
        known.add("".join(parts))
    return merges


def _passed_over(sizes: NDArray[np.int64], dropout: float, seed: int) -> NDArray[np.int64]:
    """Return int64 [sum of sizes], geometric: how many merges in a row are dropped; row i by (seed, i) alone."""
    rows = np.arange(1, len(sizes) + 1, dtype=np.uint64) * STEP + np.uint64(seed & 0xFFFFFFFFFFFFFFFF)
    starts = np.repeat(sizes.cumsum() - sizes, sizes)
    counters = (np.arange(len(starts)) - starts + 1).astype(np.uint64) * STEP
    mixed = splitmix64(np.repeat(splitmix64(rows), sizes) + counters)
    uniforms = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    # Powers by multiplication and not a logarithm: the same on every machine.
    powers = np.cumprod(np.full(LONGEST, dropout))
    return LONGEST - np.searchsorted(powers[::-1], uniforms, side="right")
