"""What captions state, read back: never against the scene, all that is named in them, nothing of other text."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.datasets.scene_captions import INVERSE, describe
from t2ibench.datasets.scene_questions import ATTRIBUTES, Asked, Described, parse
from t2ibench.datasets.scenes import COLOURS, SHAPES, SIZES, SPLITS, TEXTURES, Scenes

Scene = dict[str, Any]
SYNONYMS = {"little": "small", "big": "large", "plain": "solid", "stripes": "striped", "dots": "dotted"}


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """1,200 scenes, of every split as many."""
    source = Scenes(sizes=dict.fromkeys(SPLITS, 300))
    return [scene for split in SPLITS for chunk in source.chunks(split, 32) for scene in chunk.scenes]


def agrees(said: Described, thing: Scene) -> bool:
    return all(value in (None, thing[name]) for name, value in zip(ATTRIBUTES, said, strict=True))


def holds(asked: Asked, scene: Scene) -> bool:
    """Return whether the scene is as asked in everything stated."""
    things = scene["objects"]
    if asked.relation == INVERSE.get(scene["relation"]) != scene["relation"]:
        things = things[::-1]
    elif asked.relation != scene["relation"]:
        return False
    if asked.kind == "several":
        things = sorted(things, key=lambda thing: [(said.shape, said.colour) for said in asked.objects].index(
            (thing["shape"], thing["colour"])))  # fmt: skip
    return (
        (asked.kind, asked.change) == (scene["kind"], scene["change"])
        and asked.number in (None, len(things))
        and asked.background in (None, scene["background"])
        and len(asked.objects) == len(things)
        and all(map(agrees, asked.objects, things))
    )


def words_of(asked: Asked) -> Counter[str]:
    """Return how often each size and texture is stated."""
    return Counter(value for said in asked.objects for value in (said.size, said.texture) if value)


def test_every_caption_is_read_and_true_of_its_scene(scenes: list[Scene]) -> None:
    wrong = [caption for number, scene in enumerate(scenes) for caption in (describe(scene, 7919 * number + style)
             for style in range(0, 10**7, 10**6 - 1)) if (asked := parse(caption)) is None or not holds(asked, scene)]
    assert not wrong  # fmt: skip


def test_all_that_a_caption_says_is_read(scenes: list[Scene]) -> None:
    """Count the words: of sizes and textures in what was read as many as in the caption; also of backgrounds."""
    for number, scene in enumerate(scenes):
        caption = describe(scene, 104729 * number)
        asked = parse(caption)
        assert asked is not None and (asked.background is not None) == (scene["background"] in caption)
        if scene["kind"] in ("single", "pair", "several"):
            words = [SYNONYMS.get(word, word) for word in re.findall(r"\w+", caption)]
            assert words_of(asked) == Counter(word for word in words if word in (*SIZES, *TEXTURES)), caption


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_scenes_that_the_world_never_draws_are_read_too(data: st.DataObject) -> None:
    """Held-out combinations, twins and any style: the grammar alone decides."""
    look = st.fixed_dictionaries({"shape": st.sampled_from(SHAPES), "colour": st.sampled_from(COLOURS),
                                  "size": st.sampled_from(SIZES), "texture": st.sampled_from(TEXTURES)})  # fmt: skip
    pair = [data.draw(look), data.draw(look)]
    scene = {"kind": "pair", "background": "gray", "objects": pair, "change": None,
             "relation": data.draw(st.sampled_from(sorted(INVERSE)))}  # fmt: skip
    asked = parse(describe(scene, data.draw(st.integers(0, 10**9))))
    assert asked is not None and asked.relation is not None
    things = pair if asked.relation == scene["relation"] else pair[::-1]
    assert asked.relation in (scene["relation"], INVERSE[scene["relation"]])
    assert all(map(agrees, asked.objects, things))


@pytest.mark.parametrize(("caption", "asked"), [
    ("just a big plain red circle on white",
     Asked(kind="single", objects=(Described("circle", "red", "large", "solid"),), background="white")),
    ("an orange star with dots with a little cyan ring with stripes under it",
     Asked(kind="pair", relation="above",
           objects=(Described("star", "orange", None, "dotted"), Described("ring", "cyan", "small", "striped")))),
    ("a orange star", Asked(kind="single", objects=(Described("star", "orange"),))),
    ("a group of three pink crosses", Asked(kind="count", objects=(Described("cross", "pink"),) * 3, number=3)),
    ("three shapes: a red ring, a blue ring and a pink heart", Asked(kind="several", number=3, objects=(
        Described("ring", "red"), Described("ring", "blue"), Described("heart", "pink")))),
    ("a little red star on the top, the same star in blue on the bottom", Asked(kind="panels", change="colour",
        objects=(Described("star", "red", "small"), Described("star", "blue", "small")))),
    ("the exact same red star with dots on the top, in a solid colour, on the bottom", Asked(
        kind="panels", change="texture",
        objects=(Described("star", "red", None, "dotted"), Described("star", "red", None, "solid")))),
    ("the same star twice: a big red star on the top and a dotted blue star on the bottom", Asked(
        kind="panels", change="colour",
        objects=(Described("star", "red", "large", "dotted"), Described("star", "blue", "large", "dotted")))),
])  # fmt: skip
def test_readings(caption: str, asked: Asked) -> None:
    assert parse(caption) == asked


@pytest.mark.parametrize("caption", [
    "", "red", "a crimson circle", "a red circle.", "two red circle", "one red circles", "a dog above a red circle",
    "four shapes: a red ring, a blue ring and a pink heart", "a red circle on a purple background",
    "a red star on the top, the same ring in blue on the bottom",
    "a red star on the top, the same star in red on the bottom",
    "the same star twice: a red star on the top and a blue ring on the bottom", "a red circle\n",
])  # fmt: skip
def test_other_text_is_not_read(caption: str) -> None:
    assert parse(caption) is None


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(), st.lists(st.sampled_from(
    ["a", "an", "red", "circle", "on", "the", "top", "same", "two", "above", "and", "with", "stripes", "it", ",", "in"]
)).map(" ".join)))  # fmt: skip
def test_parse_never_fails(text: str) -> None:
    asked = parse(text)
    assert asked is None or asked.objects
