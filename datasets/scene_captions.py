"""The captions of a scene: a grammar with paraphrases and varying detail, in which every sentence is true."""

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import Any, TypeVar

T = TypeVar("T")
Thing = Mapping[str, Any]
"""An object of a scene graph."""

INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
NUMERALS = ("zero", "one", "two", "three", "four")
PLURALS = {"cross": "crosses"}

SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
TEXTURED = {
    "solid": ("solid {} {}", "plain {} {}"),
    "striped": ("striped {} {}", "{} striped {}", "{} {} with stripes"),
    "dotted": ("dotted {} {}", "{} dotted {}", "{} {} with dots"),
}
"""Ways to say a thing with its texture; the blanks are colour and shape."""
PLAIN = ("{} {}", "{} {}")
"""Ways to say a solid thing without its texture, twice as it is twice as likely."""
RELATION_WORDS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "directly above"),
    "below": ("below", "under", "directly below"),
}
GROUNDS = ("", "", "", " on a {} background", " on {}", " against a {} background")
"""Endings that say the background, or do not."""
SINGLE = ("{}", "there is {}", "a picture of {}", "an image of {}", "just {}")
PAIR = (
    "{a} {relation} {b}",
    "{a} is {relation} {b}",
    "there is {a} {relation} {b}",
    "a picture of {a} {relation} {b}",
    "an image of {a} {relation} {b}",
    "{a} with {b} {inverse} it",
)
"""Sentences of two things; `inverse` is the relation of the second to the first."""
COUNT = ("{}", "there are {}", "a picture of {}", "an image of {}", "a group of {}")
"""Sentences of several things alike."""
SEVERAL = (
    "{list}",
    "there is {list}",
    "a picture of {list}",
    "{number} shapes: {list}",
    "an image with {list}",
)
"""Sentences of several things that differ."""
PANELS = (
    "{top} on the top and the exact same {shape} {new} on the bottom",
    "the exact same {top_bare} on the top, {new}, on the bottom",
    "{top} on the top, the same {shape} {new} on the bottom",
    "two panels: {top} on the top and the same {shape} {new} on the bottom",
    "the same {shape} twice: {top} on the top and {bottom} on the bottom",
)
"""Sentences of two panels; `new` says what is changed in the lower one."""
NEW = {
    "solid": ("in a solid colour", "without a pattern"),
    "striped": ("with stripes", "made striped"),
    "dotted": ("with dots", "made dotted"),
    "small": ("made small", "but smaller"),
    "large": ("made large", "but larger"),
}
"""How a new texture or size is said."""


class _Choices:
    """Choices read off a number, one mixed-radix digit each; 0 always chooses the first option."""

    def __init__(self, style: int) -> None:
        self._rest = style

    def pick(self, options: Sequence[T]) -> T:
        self._rest, digit = divmod(self._rest, len(options))
        return options[digit]


def describe(scene: Mapping[str, Any], style: int = 0) -> str:
    """Return one true caption of a scene graph; every `style` >= 0 gives one, 0 the plainest.

    Every caption names the shapes, the colours and the relation, the number or the change between the panels;
    sizes, textures and the background appear in some.
    """
    choices = _Choices(style)
    sentence = _SENTENCES[scene["kind"]](scene, choices)
    return sentence + choices.pick(GROUNDS).format(scene["background"])


def _single(scene: Mapping[str, Any], choices: _Choices) -> str:
    return choices.pick(SINGLE).format(_one(scene["objects"][0], choices))


def _pair(scene: Mapping[str, Any], choices: _Choices) -> str:
    template = choices.pick(PAIR)
    first, second = scene["objects"]
    relation = scene["relation"]
    if choices.pick((False, True)):
        first, second, relation = second, first, INVERSE[relation]
    return template.format(
        a=_one(first, choices),
        b=_one(second, choices),
        relation=choices.pick(RELATION_WORDS[relation]),
        inverse=choices.pick(RELATION_WORDS[INVERSE[relation]]),
    )


def _count(scene: Mapping[str, Any], choices: _Choices) -> str:
    things = scene["objects"]
    return choices.pick(COUNT).format(f"{NUMERALS[len(things)]} {_words(things[0], choices, plural=True)}")


def _several(scene: Mapping[str, Any], choices: _Choices) -> str:
    template = choices.pick(SEVERAL)
    things = choices.pick(list(permutations(scene["objects"])))
    *most, last = (_one(thing, choices) for thing in things)
    return template.format(list=f"{', '.join(most)} and {last}", number=NUMERALS[len(things)])


def _panels(scene: Mapping[str, Any], choices: _Choices) -> str:
    template = choices.pick(PANELS)
    top, bottom = scene["objects"]
    change = scene["change"]
    new = (f"in {bottom['colour']}",) if change == "colour" else NEW[bottom[change]]
    words = _words(top, choices, must=change)
    return template.format(
        top=_article(words),
        top_bare=words,
        bottom=_article(_words(bottom, choices, must=change)),
        shape=top["shape"],
        new=choices.pick(new),
    )


_SENTENCES = {"single": _single, "pair": _pair, "count": _count, "several": _several, "panels": _panels}


def _one(thing: Thing, choices: _Choices) -> str:
    return _article(_words(thing, choices))


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _words(thing: Thing, choices: _Choices, *, plural: bool = False, must: str = "") -> str:
    """Return the noun phrase without an article; size and texture are left to chance unless one is `must`."""
    shape = thing["shape"]
    noun = PLURALS.get(shape, shape + "s") if plural else shape
    textured = TEXTURED[thing["texture"]]
    if must != "texture":
        textured = (*PLAIN, *textured)
    words = choices.pick(textured).format(thing["colour"], noun)
    sizes = SIZE_WORDS[thing["size"]]
    size = choices.pick(sizes if must == "size" else ("", *sizes))
    return f"{size} {words}" if size else words
