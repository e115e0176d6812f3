"""What a caption of `scenes` states, read back by the grammar that wrote it.

Every word comes from `scene_captions`: its own templates, filled with patterns of what may stand there.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from . import scene_captions as grammar
from .scene_render import BACKGROUND_RGB, COLOUR_RGB, SHAPE_DISTANCE

ATTRIBUTES = ("shape", "colour", "size", "texture")


class Described(NamedTuple):
    """An object as a caption describes it, in the words of the scene graph; None where nothing is said."""

    shape: str
    colour: str
    size: str | None = None
    texture: str | None = None


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caption states; attributes that it leaves out are None."""

    kind: str
    """As in a scene graph: single, pair, count, several or panels."""
    objects: tuple[Described, ...]
    """All of them, in the order of the caption; of panels, the upper one and the lower one."""
    number: int | None = None
    """How many objects there are, where a numeral says so."""
    relation: str | None = None
    """objects[0] RELATION objects[1], of a pair."""
    change: str | None = None
    """The attribute in which the panels differ; what is said of one holds for the other but for this."""
    background: str | None = None


def parse(caption: str) -> Asked | None:
    """Return what a caption of the grammar states, synonyms by their canonical names; None for any other text."""
    sentence, background = caption, None
    for ending, word in _ENDINGS.items():
        if caption.endswith(ending):
            sentence, background = caption.removesuffix(ending), word
    for kind, pattern in _PATTERNS:
        found = pattern.fullmatch(sentence)
        if found is not None:
            return _KINDS[kind](found.groupdict(), background)
    return None


def _single(said: Mapping[str, str], background: str | None) -> Asked | None:
    return Asked(kind="single", objects=(_WORDS[said["one"]],), background=background)


def _pair(said: Mapping[str, str], background: str | None) -> Asked | None:
    relation = _RELATIONS[said["relation"]] if "relation" in said else grammar.INVERSE[_RELATIONS[said["inverse"]]]
    objects = (_WORDS[said["a"]], _WORDS[said["b"]])
    return Asked(kind="pair", objects=objects, relation=relation, background=background)


def _count(said: Mapping[str, str], background: str | None) -> Asked | None:
    number = grammar.NUMERALS.index(said["number"])
    return Asked(kind="count", objects=(_PLURAL_WORDS[said["things"]],) * number, number=number, background=background)


def _several(said: Mapping[str, str], background: str | None) -> Asked | None:
    objects = tuple(_WORDS[words] for words in re.split("(?:^|, | and )an? ", said["list"])[1:])
    number = grammar.NUMERALS.index(said["number"]) if "number" in said else None
    if number not in (None, len(objects)):
        return None
    return Asked(kind="several", objects=objects, number=number, background=background)


def _panels(said: Mapping[str, str], background: str | None) -> Asked | None:
    top = _WORDS[said["top"]]
    if "bottom" in said:
        # Of "the same circle twice", what is said of one is said of the other.
        other = _WORDS[said["bottom"]]
        top, bottom = _with_words_of(top, other), _with_words_of(other, top)
    else:
        bottom = top._replace(**dict([_NEW[said["new"]]]))
    changes = [name for name, a, b in zip(ATTRIBUTES, top, bottom, strict=True) if a != b]
    if said.get("shape", top.shape) != top.shape or len(changes) != 1 or changes == ["shape"]:
        return None
    return Asked(kind="panels", objects=(top, bottom), change=changes[0], background=background)


def _with_words_of(one: Described, other: Described) -> Described:
    return one._replace(size=one.size or other.size, texture=one.texture or other.texture)


_KINDS = {"single": _single, "pair": _pair, "count": _count, "several": _several, "panels": _panels}


def _any(*words: str) -> str:
    return f"(?:{'|'.join(words)})"


def _phrases(nouns: Mapping[str, str]) -> dict[str, Described]:
    """Return every noun phrase without its article, given the noun of each shape."""
    sizes = [("", None), *((f"{word} ", size) for size, words in grammar.SIZE_WORDS.items() for word in words)]
    textures = [(text, name) for name, texts in grammar.TEXTURED.items() for text in texts]
    return {
        before + template.format(colour, noun): Described(shape, colour, size, texture)
        for (before, size), (template, texture) in product(sizes, [(grammar.PLAIN[0], None), *textures])
        for colour, (shape, noun) in product(COLOUR_RGB, nouns.items())
    }


def _phrase(nouns: Mapping[str, str]) -> str:
    """Return the pattern of the same phrases."""
    sizes = _any(*(word for words in grammar.SIZE_WORDS.values() for word in words))
    templates = [grammar.PLAIN[0], *(text for texts in grammar.TEXTURED.values() for text in texts)]
    return f"(?:{sizes} )?" + _any(*(text.format(_any(*COLOUR_RGB), _any(*nouns.values())) for text in templates))


_SINGULARS = {shape: shape for shape in SHAPE_DISTANCE}
_PLURALS = {shape: grammar.PLURALS.get(shape, shape + "s") for shape in SHAPE_DISTANCE}
_WORDS, _PLURAL_WORDS = _phrases(_SINGULARS), _phrases(_PLURALS)
_RELATIONS = {word: relation for relation, words in grammar.RELATION_WORDS.items() for word in words}
_ENDINGS = {text.format(word): word for text in grammar.GROUNDS if text for word in BACKGROUND_RGB}
_ATTRIBUTE = {**dict.fromkeys(grammar.TEXTURED, "texture"), **dict.fromkeys(grammar.SIZE_WORDS, "size")}
_NEW = {
    **{f"in {colour}": ("colour", colour) for colour in COLOUR_RGB},
    **{word: (_ATTRIBUTE[value], value) for value, words in grammar.NEW.items() for word in words},
}


def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    words, many = _phrase(_SINGULARS), _phrase(_PLURALS)
    numeral = f"(?P<number>{_any(*grammar.NUMERALS[2:])})"
    relation = _any(*_RELATIONS)
    blanks = {
        "a": f"an? (?P<a>{words})",
        "b": f"an? (?P<b>{words})",
        "relation": f"(?P<relation>{relation})",
        "inverse": f"(?P<inverse>{relation})",
        "list": f"(?P<list>an? {words}(?:, an? {words})* and an? {words})",
        "number": numeral,
        "top": f"an? (?P<top>{words})",
        "top_bare": f"(?P<top>{words})",
        "bottom": f"an? (?P<bottom>{words})",
        "shape": f"(?P<shape>{_any(*_SINGULARS)})",
        "new": f"(?P<new>{_any(*_NEW)})",
    }
    sentences = {
        "single": [template.format(f"an? (?P<one>{words})") for template in grammar.SINGLE],
        "count": [template.format(f"{numeral} (?P<things>{many})") for template in grammar.COUNT],
        "pair": [template.format(**blanks) for template in grammar.PAIR],
        "several": [template.format(**blanks) for template in grammar.SEVERAL],
        "panels": [template.format(**blanks) for template in grammar.PANELS],
    }
    return [(kind, re.compile(text)) for kind, texts in sentences.items() for text in texts]


_PATTERNS = _patterns()
