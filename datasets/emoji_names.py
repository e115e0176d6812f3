"""What an emoji is called: its name, family and keywords, by rules that every source of emoji shares."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

GROUPS = (
    "Smileys & Emotion", "People & Body", "Animals & Nature", "Food & Drink", "Travel & Places",
    "Activities", "Objects", "Symbols", "Flags",
)  # fmt: skip
TONES = {f"1f3f{letter}" for letter in "bcdef"}

_GENDERS = {
    **dict.fromkeys(("man", "men", "boy"), "man"),
    **dict.fromkeys(("woman", "women", "girl"), "woman"),
    **dict.fromkeys(("person", "people", "child"), "person"),
}
# Names of one family whose words do not show it.
_SAME_FAMILY = {
    **dict.fromkeys(("prince", "princess"), "with crown"),
    **dict.fromkeys(("merman", "mermaid"), "merperson"),
    **dict.fromkeys(("mrs. claus", "mx claus", "santa claus"), "claus"),
    "older": "old",
}
_FAMILIES = {
    "clock": re.compile(r"o'clock$|-thirty$"),
    "moon": re.compile(r"\bmoon( face)?$"),
    "couple": re.compile(r"^family\b|^couple with|^kiss(:|$)|(holding hands|bunny ears|wrestling)$"),
    "keycap": re.compile(r"^keycap"),
}


@dataclass(frozen=True, kw_only=True)
class Emoji:
    """One emoji, whoever draws it; `key` is its code points in hex without variation selectors: "1f600"."""

    key: str
    concept: str
    """The key without skin tones: what is drawn, in whatever tone."""
    name: str
    """Without the skin tones, which are in `tones`."""
    tones: tuple[str, ...]
    group: str
    keywords: tuple[str, ...]
    second_name: str
    """The formal Unicode name where it differs, else empty."""

    @property
    def gender(self) -> str:
        """Return "man", "woman" or "person", as the name says."""
        return next((_GENDERS[word] for word in self.name.split() if word in _GENDERS), "person")

    @property
    def family(self) -> str:
        """What never straddles train and test: a role of any gender, all clocks, moons, pairs, keycaps."""
        name = self.name.lower()
        for family, pattern in _FAMILIES.items():
            if pattern.search(name):
                return family
        name = _SAME_FAMILY.get(name, name).removesuffix(" facing right")
        words = (_SAME_FAMILY.get(word, word) for word in name.split() if word not in _GENDERS)
        return " ".join(words) or "person"


def described(
    key: str, concept: str, name: str, tones: tuple[str, ...], group: str, *,
    keywords: Iterable[str], formal_name: str, names: AbstractSet[str],
) -> Emoji:  # fmt: skip
    """Return the emoji with five keywords at most and the formal name, where these say more than the name.

    `names` are the `letters` of all emoji's names: a formal name that is another emoji's name is left out.
    """
    words = set(re.findall(r"\w+", name.lower()))
    # Formal names of sequences are made up; "black" and "white" in them mean filled and outlined.
    misleading = {"black", "white", "negative"} & set(formal_name.split()) - words
    if "-" in concept or misleading or letters(formal_name) in names:
        formal_name = ""
    return Emoji(
        key=key, concept=concept, name=name, tones=tones, group=group, second_name=formal_name,
        keywords=tuple(new for new in keywords if not words.issuperset(new.split()))[:5],
    )  # fmt: skip


def plain_keywords(listed: Mapping[str, Sequence[str]], left_out: AbstractSet[str]) -> dict[str, list[str]]:
    """Return each emoji's keywords that are plain words, used thrice at least, and not `left_out`."""
    uses = Counter(word for words in listed.values() for word in words)
    plain = {word for word in uses if uses[word] >= 3 and re.fullmatch("[a-z][a-z -]{2,}(?<! square)", word)}
    plain -= left_out
    return {key: [word for word in words if word in plain] for key, words in listed.items()}


def key_of(code_points: Iterable[str]) -> str:
    """Return the key of code points in hex; raise ValueError when one is not hex."""
    numbers = (f"{int(code, 16):x}" for code in code_points)
    return "-".join(number for number in numbers if number != "fe0f")


def without_tones(key: str) -> str:
    """Return a key without its skin tones."""
    return "-".join(part for part in key.split("-") if part not in TONES)


def letters(name: str) -> str:
    """Return only the letters a to z and digits of a name, to compare names however they are spelled."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
