"""Captions in numbers: how many, how long, of which words and scripts."""

import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, kw_only=True)
class CaptionStatistics:
    """What `caption_statistics` counts; all is 0 where there are no captions."""

    captions: int
    without_captions: int
    """Images that have none."""
    captions_min: int
    """The captions of an image: fewest, mean, most."""
    captions_mean: float
    captions_max: int
    words_min: int
    """The words of a caption, between blanks: fewest, median, most."""
    words_median: float
    words_max: int
    characters_max: int
    vocabulary: int
    """Different words, in lower case and without punctuation."""
    scripts: Mapping[str, int]
    """In how many captions letters of each script occur, most frequent first; "none" counts those without letters."""


def caption_statistics(captions: Iterable[Sequence[str]]) -> CaptionStatistics:
    """Return the statistics of the captions of images, given as one sequence an image."""
    counts: list[int] = []
    lengths: list[int] = []
    characters = 0
    vocabulary: set[str] = set()
    scripts: Counter[str] = Counter()
    for texts in captions:
        counts.append(len(texts))
        for text in texts:
            lengths.append(len(text.split()))
            characters = max(characters, len(text))
            vocabulary.update(re.findall(r"\w+", text.lower()))
            scripts.update(scripts_of(text))
    return CaptionStatistics(
        captions=len(lengths), without_captions=counts.count(0), captions_min=min(counts, default=0),
        captions_mean=len(lengths) / max(len(counts), 1), captions_max=max(counts, default=0),
        words_min=min(lengths, default=0), words_median=float(statistics.median(lengths or [0])),
        words_max=max(lengths, default=0), characters_max=characters, vocabulary=len(vocabulary),
        scripts=dict(scripts.most_common()),
    )  # fmt: skip


def scripts_of(text: str) -> set[str]:
    """Return the scripts of the letters in a text, such as {"latin", "cyrillic"}; {"none"} where it has no letter."""
    return set(map(_script, set(text))) - {""} or {"none"}


@cache
def _script(letter: str) -> str:
    """Return the script of a letter, "" for any other character."""
    if not letter.isalpha():
        return ""
    # Python has no table of scripts; the formal name of a letter begins with the name of its script.
    words = unicodedata.name(letter, "unnamed").lower().replace("-", " ").split()
    return "latin" if words[0] in ("fullwidth", "feminine", "masculine", "micro") else words[0]
