"""The scenes world: the same everywhere, held-out combinations kept out, captions true, pictures exact."""

import hashlib
import json
import math
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from t2ibench.datasets.captioned import Source
from t2ibench.datasets.scene_render import BACKGROUND_RGB, COLOUR_RGB, LINE_RGB, SHADE
from t2ibench.datasets.scenes import (
    BACKGROUNDS,
    CLASS_NAMES,
    COLOURS,
    HELD_OUT_COLOUR_TEXTURES,
    HELD_OUT_RELATIONS,
    HELD_OUT_SHAPE_COLOURS,
    RELATIONS,
    SHAPES,
    SIZES,
    SPLITS,
    TEXTURES,
    WORLDS,
    Scenes,
    describe,
    open_100k,
    open_source,
    render,
)
from t2ibench.errors import UserError

Scene = dict[str, Any]
World = dict[str, list[tuple[Scene, list[str], int]]]
SEEN = ("train", "val", "test")
GOLDEN = "ff88a6bea86e80f6a6a150c62191bbfd2f38620beaa9b050fc40d895b67e937a"
INVERSE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@pytest.fixture(scope="module")
def world() -> World:
    """Some scenes of each split: (graph, captions, label)."""
    source = Scenes(sizes={"train": 3000, "val": 400, "test": 400, "compose": 600})
    return {
        split: [
            row
            for chunk in source.chunks(split, 32)
            for row in zip(chunk.scenes, chunk.captions, chunk.labels, strict=True)
        ]
        for split in SPLITS
    }


def one(shape: str = "circle", texture: str = "solid", colour: str = "red", **place: float) -> Scene:
    """Return a scene of one object on black, in the middle where `place` (x, y, radius) says nothing else."""
    thing: Scene = {"shape": shape, "colour": colour, "size": "large", "texture": texture}
    thing |= {"x": 0.5, "y": 0.5, "radius": 0.22, **place}
    return {"kind": "single", "background": "black", "objects": [thing], "relation": None, "change": None}


def digest(source: Scenes, chunk_size: int) -> str:
    content = hashlib.sha256()
    for split in SPLITS:
        chunks = list(source.chunks(split, 32, 0, chunk_size))
        content.update(np.concatenate([chunk.images for chunk in chunks]).tobytes())
        for field in ("captions", "ids", "labels", "scenes"):
            content.update(json.dumps([row for chunk in chunks for row in getattr(chunk, field)]).encode())
    return content.hexdigest()


def test_the_world_is_the_same_on_any_machine_and_in_chunks_of_any_size() -> None:
    tiny = Scenes(sizes=dict.fromkeys(SPLITS, 8))
    assert digest(tiny, 512) == GOLDEN, "the world changed: raise WORLD_VERSION, pin the new digest"
    assert digest(tiny, 3) == GOLDEN


def test_a_scene_depends_on_seed_and_split_but_not_on_the_size_of_the_split() -> None:
    def graphs(seed: int, split: str, size: int) -> list[Scene]:
        return next(Scenes(seed, {split: size}).chunks(split, 32)).scenes

    assert graphs(0, "train", 5) == graphs(0, "train", 9)[:5]
    others = [graphs(1, "train", 5), graphs(0, "val", 5), graphs(-1, "train", 5)]
    assert all(scene not in graphs(0, "train", 300) for other in others for scene in other)


def test_source_contract() -> None:
    source = open_source(None)
    assert isinstance(source, Source) and source.name == "scenes" and source.splits == SPLITS
    assert [source.size(split) for split in SPLITS] == [20_000, 2_000, 2_000, 2_000]
    keys = {Scenes(seed, {"val": size}).fingerprint(split)
            for seed in (0, 1) for size in (5, 6) for split in ("val", "test")}
    assert len(keys) == 6, "the test split is the same whatever the size of val"
    chunk = next(Scenes(sizes={"val": 7}).chunks("val", 48))
    assert chunk.images.shape == (7, 3, 48, 48) and chunk.images.dtype == np.uint8
    assert chunk.ids[:2] == ["val-000000", "val-000001"]
    assert all(len(captions) == 5 for captions in chunk.captions)


def test_scenes_100k_begins_with_the_scenes_and_asks_the_same_captions() -> None:
    more, some = open_100k(), open_source()
    assert more.name in WORLDS and some.name in WORLDS
    assert [more.size(split) for split in SPLITS] == [100_000, 2_000, 2_000, 2_000]
    for split in SPLITS:
        ours, theirs = (next(source.chunks(split, 32)) for source in (more, some))
        assert np.array_equal(ours.images, theirs.images) and ours.captions == theirs.captions
    with pytest.raises(UserError, match="leave --root out"):
        open_100k(Path("here"))


def test_labels_name_the_first_object(world: World) -> None:
    assert len(CLASS_NAMES) == 64 and CLASS_NAMES[8 * 1 + 5] == f"{COLOURS[5]} {SHAPES[1]}"
    for scene, _, label in world["train"]:
        assert CLASS_NAMES[label] == "{colour} {shape}".format(**scene["objects"][0])


@pytest.mark.parametrize("call", [
    lambda: open_source(Path("here")),
    lambda: Scenes(sizes={"trian": 3}),
    lambda: Scenes(sizes={"train": 0}),
    lambda: Scenes().size("dev"),
    lambda: next(Scenes().chunks("train", 16)),
    lambda: next(Scenes().chunks("train", 512)),
])
def test_a_users_mistake_is_one_line(call: Any) -> None:
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        call()


# What a scene holds out.


def held_out_combinations(scene: Scene) -> set[object]:
    things = scene["objects"]
    found: set[object] = set()
    found |= {(t["shape"], t["colour"]) for t in things} & set(HELD_OUT_SHAPE_COLOURS)
    found |= {(t["colour"], t["texture"]) for t in things} & set(HELD_OUT_COLOUR_TEXTURES)
    if scene["kind"] == "pair":
        a, b = (t["shape"] for t in things)
        readings = {(a, scene["relation"], b), (b, INVERSE[scene["relation"]], a)}
        found |= readings & set(HELD_OUT_RELATIONS)
    return found


def test_compose_holds_what_the_other_splits_never_do(world: World) -> None:
    every = {*HELD_OUT_SHAPE_COLOURS, *HELD_OUT_COLOUR_TEXTURES, *HELD_OUT_RELATIONS}
    assert all(not held_out_combinations(scene) for split in SEEN for scene, _, _ in world[split])
    composed = [held_out_combinations(scene) for scene, _, _ in world["compose"]]
    assert all(composed) and set().union(*composed) == every
    rivals = [{a, b} for a, _, b in HELD_OUT_RELATIONS]
    for scene, _, _ in (row for split in SEEN for row in world[split] if row[0]["kind"] == "several"):
        shapes = {thing["shape"] for thing in scene["objects"]}
        assert not any(pair <= shapes for pair in rivals)


def test_training_shows_every_part_often(world: World) -> None:
    scenes = [scene for scene, _, _ in world["train"]]
    things = [thing for scene in scenes for thing in scene["objects"]]
    assert {s for s, _ in HELD_OUT_SHAPE_COLOURS} == set(SHAPES)
    assert {c for _, c in HELD_OUT_SHAPE_COLOURS} == set(COLOURS)
    for attribute, words in (("shape", SHAPES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES)):
        for word in words:
            assert sum(thing[attribute] == word for thing in things) > len(things) / len(words) / 2, word
    assert len({(t["shape"], t["colour"]) for t in things}) == 64 - len(HELD_OUT_SHAPE_COLOURS)
    assert len({(t["colour"], t["texture"]) for t in things}) == 24 - len(HELD_OUT_COLOUR_TEXTURES)
    for word in RELATIONS:
        assert sum(scene["relation"] == word for scene in scenes) > 150
    shares = {"single": 0.3, "pair": 0.3, "count": 0.15, "several": 0.15, "panels": 0.1}
    for kind, share in shares.items():
        found = sum(scene["kind"] == kind for scene in scenes) / len(scenes)
        assert abs(found - share) < 4 * math.sqrt(share / len(scenes)), "four standard deviations"
    assert {len(scene["objects"]) for scene in scenes if scene["kind"] == "count"} == {2, 3, 4}
    assert {scene["change"] for scene in scenes} == {None, "colour", "texture", "size"}
    assert {scene["background"] for scene in scenes} == set(BACKGROUNDS)


# Where things are.


def test_objects_lie_inside_and_apart(world: World) -> None:
    for scene, _, _ in (row for rows in world.values() for row in rows):
        things = scene["objects"]
        for t in things:
            margin = 0.5 / 32 - 1.01e-4
            assert min(t["x"], t["y"]) - t["radius"] >= margin
            assert max(t["x"], t["y"]) + t["radius"] <= 1 - margin
            assert 4 / 32 <= t["radius"] and (t["radius"] < 0.15) == (t["size"] == "small")
        for a, b in combinations(things, 2):
            assert max(abs(a["x"] - b["x"]), abs(a["y"] - b["y"])) > a["radius"] + b["radius"] + 0.02


def test_graphs_mean_what_they_say(world: World) -> None:
    for scene, _, _ in (row for rows in world.values() for row in rows):
        things = scene["objects"]
        looks = [tuple(t[key] for key in ("shape", "colour", "texture", "size")) for t in things]
        assert (scene["relation"] is None) == (scene["kind"] != "pair")
        assert (scene["change"] is None) == (scene["kind"] != "panels")
        if scene["kind"] == "pair":
            assert holds(scene["relation"], things[0], things[1])
        if scene["kind"] in ("pair", "several"):
            assert len({look[:2] for look in looks}) == len(things)
        if scene["kind"] == "count":
            assert len(set(looks)) == 1 and len({t["radius"] for t in things}) == 1
        if scene["kind"] == "panels":
            top, bottom = things
            changed = [key for key in ("shape", "colour", "texture", "size") if top[key] != bottom[key]]
            assert changed == [scene["change"]]
            assert scene["change"] == "size" or top["radius"] == bottom["radius"]
            assert top["y"] + top["radius"] < 0.5 and top["x"] == bottom["x"]
            assert bottom["y"] == pytest.approx(top["y"] + 0.5)


def holds(relation: str, a: Scene, b: Scene) -> bool:
    """Return whether `a` is clearly `relation` `b`: apart along the one axis, level on the other."""
    across, down = b["x"] - a["x"], b["y"] - a["y"]
    along, off = {"left of": (across, down), "right of": (-across, down),
                  "above": (down, across), "below": (-down, across)}[relation]
    return bool(along > a["radius"] + b["radius"] and abs(off) < 0.07)


# What the captions say: read by a grammar of the test's own.

NOUN = re.compile(
    r"(?:\b(?P<size>small|little|large|big) )?(?:\b(?P<before>solid|plain|striped|dotted) )?"
    rf"\b(?P<colour>{'|'.join(COLOURS)}) (?:(?P<between>striped|dotted) )?"
    rf"(?P<shape>{'|'.join(SHAPES)})(?P<plural>es|s)?\b(?: with (?P<after>stripes|dots))?(?! on the)?"
)
GROUND = re.compile(rf" (?:on|against)(?: a)? (?P<ground>{'|'.join(BACKGROUNDS)})(?: background)?$")
MEANS = {"little": "small", "big": "large", "under": "below"}
MEANS |= {"plain": "solid", "stripes": "striped", "dots": "dotted"}
NUMBERS = {"two": 2, "three": 3, "four": 4}
FILLER = set(
    "a an the is are there picture image of group just with it shapes and exact same twice two panels on top "
    "bottom in made but smaller larger without pattern solid colour stripes striped dots dotted large small "
    "to directly left right above below under three four".split()
)
RELATION = re.compile(r"\b(left of|right of|above|below|under)\b")


def claims(noun: re.Match[str]) -> dict[str, str]:
    said = {key: noun[key] for key in ("size", "colour", "shape") if noun[key]}
    texture = noun["before"] or noun["between"] or noun["after"]
    if texture:
        said["texture"] = texture
    return {key: MEANS.get(word, word) for key, word in said.items()}


def fits(said: dict[str, str], thing: Scene) -> bool:
    return all(thing[key] == word for key, word in said.items())


def is_true(caption: str, scene: Scene) -> bool:
    """Return whether a caption names what must be named and says nothing false of the scene."""
    ground = GROUND.search(caption)
    if ground and ground["ground"] != scene["background"]:
        return False
    text = caption[: ground.start()] if ground else caption
    nouns = list(NOUN.finditer(text))
    rest = NOUN.sub(" ", text)
    again = {scene["objects"][0]["shape"], *COLOURS} if scene["kind"] == "panels" else set()
    if not nouns or not set(re.findall(r"[^\s,:]+", rest)) <= FILLER | again:
        return False
    return READERS[scene["kind"]](text, rest, nouns, scene)


def read_single(text: str, rest: str, nouns: list[re.Match[str]], scene: Scene) -> bool:
    return len(nouns) == 1 and not nouns[0]["plural"] and fits(claims(nouns[0]), scene["objects"][0])


def read_pair(text: str, rest: str, nouns: list[re.Match[str]], scene: Scene) -> bool:
    said = [t for noun in nouns for t in scene["objects"] if fits(claims(noun), t)]
    words = RELATION.findall(rest)
    if len(nouns) != 2 or len(said) != 2 or said[0] is said[1] or len(words) != 1:
        return False
    subject, other = reversed(said) if rest.endswith(" it") else said
    return holds(MEANS.get(words[0], words[0]), subject, other)


def read_count(text: str, rest: str, nouns: list[re.Match[str]], scene: Scene) -> bool:
    number = re.search(r"\b(two|three|four)\b", rest)
    counted = number is not None and NUMBERS[number[1]] == len(scene["objects"])
    fitting = [noun for noun in nouns if noun["plural"] and fits(claims(noun), scene["objects"][0])]
    return counted and len(nouns) == len(fitting) == 1


def read_several(text: str, rest: str, nouns: list[re.Match[str]], scene: Scene) -> bool:
    number = re.search(r"\b(two|three|four)\b", rest)
    said = [n for noun in nouns for n, t in enumerate(scene["objects"]) if fits(claims(noun), t)]
    return sorted(said) == list(range(len(scene["objects"]))) and (
        number is None or NUMBERS[number[1]] == len(scene["objects"])
    )


def read_panels(text: str, rest: str, nouns: list[re.Match[str]], scene: Scene) -> bool:
    top, bottom = scene["objects"]
    change = scene["change"]
    if not fits(claims(nouns[0]), top) or "same" not in rest or not text.endswith("on the bottom"):
        return False
    if len(nouns) == 2:
        return fits(claims(nouns[1]), bottom) and {"colour", change} <= set(claims(nouns[1]))
    ways = {"solid": "solid|without a pattern", "striped": "stripes|striped", "dotted": "dots|dotted",
            "small": "small|smaller", "large": "large|larger"}
    new = bottom[change]
    return re.search(rf"\b(?:{ways.get(new, new)})\b", text[nouns[0].end() :]) is not None


READERS = {"single": read_single, "pair": read_pair, "count": read_count, "several": read_several,
           "panels": read_panels}


def test_every_caption_is_true(world: World) -> None:
    for scene, captions, _ in (row for rows in world.values() for row in rows):
        for caption in (*captions, describe(scene)):
            assert is_true(caption, scene), (caption, scene)


def test_the_reader_of_captions_sees_lies(world: World) -> None:
    """A caption whose first object has another colour, or whose relation is turned, is false of its scene."""
    for scene, captions, _ in world["val"][:200]:
        first = scene["objects"][0]
        used = {thing["colour"] for thing in scene["objects"]}
        lie = next(colour for colour in COLOURS if colour not in used)
        for caption in captions:
            swapped = caption.replace(first["colour"], lie)
            assert not is_true(swapped, scene), swapped
            if scene["relation"]:
                turned = RELATION.sub(lambda word: INVERSE[MEANS.get(word[0], word[0])], caption)
                assert not is_true(turned, scene), turned


def test_captions_vary(world: World) -> None:
    rows = world["train"]
    assert sum(len(set(captions)) == 5 for _, captions, _ in rows) > 0.99 * len(rows)
    singles = [caption for scene, captions, _ in rows if scene["kind"] == "single" for caption in captions]
    lengths = [len(caption.split()) for caption in singles]
    assert min(lengths) == 3 and max(lengths) >= 10
    said = " ".join(caption for _, captions, _ in rows for caption in captions)
    assert len(set(re.findall(r"[a-z]+", said))) > 60


def test_the_plainest_caption() -> None:
    assert describe(one("star")) == "a red star"
    assert describe(one("ring", colour="orange")) == "an orange ring"


# What the pictures show.


def coverage(scene: Scene, size: int) -> NDArray[np.float64]:
    """Return how much of each pixel [size, size] a red object covers on black, 0..1."""
    red = render([scene], size)[0, 0].astype(float)
    black = BACKGROUND_RGB["black"][0]
    covered: NDArray[np.float64] = (red - black) / (COLOUR_RGB["red"][0] - black)
    return covered


@pytest.mark.parametrize("place", [(0.5, 0.5), (0.31, 0.47), (0.4013, 0.6622)])
def test_a_circle_has_its_area(place: tuple[float, float]) -> None:
    scene = one(x=place[0], y=place[1], radius=0.2)
    assert coverage(scene, 64).sum() == pytest.approx(math.pi * (0.2 * 64) ** 2, rel=0.01)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_fill_their_box_and_differ(shape: str) -> None:
    covered = coverage(one(shape, radius=0.25), 128)
    ys, xs = np.nonzero(covered)
    # The box is pixels 32..95; a soft edge may reach one pixel beyond it.
    assert min(xs.min(), ys.min()) >= 31 and max(xs.max(), ys.max()) <= 96
    assert np.ptp(xs) >= 54 and np.ptp(ys) >= 54
    assert np.abs(covered - covered[:, ::-1]).max() < 0.02, "every shape is its own mirror image"
    for other in (s for s in SHAPES if s != shape):
        assert np.abs(covered - coverage(one(other, radius=0.25), 128)).sum() > 0.1 * 64 * 64


@pytest.mark.parametrize("size", [32, 33, 64, 256])
def test_sizes_agree(size: int) -> None:
    covered = coverage(one("star", radius=0.2), size)
    reference = coverage(one("star", radius=0.2), 128)
    assert covered.sum() / size**2 == pytest.approx(reference.sum() / 128**2, rel=0.03)


def test_solid_objects_have_their_colour_at_the_centre(world: World) -> None:
    for scene, _, _ in world["test"]:
        image = render([scene], 64)[0]
        for thing in scene["objects"]:
            if thing["texture"] == "solid" and thing["shape"] != "ring":
                pixel = image[:, int(thing["y"] * 64), int(thing["x"] * 64)]
                assert tuple(pixel.tolist()) == COLOUR_RGB[thing["colour"]]


def test_textures_darken_a_part_and_differ() -> None:
    images = {texture: render([one("square", texture)], 64)[0, 0].astype(float) for texture in TEXTURES}
    inside = slice(24, 40)
    dark = COLOUR_RGB["red"][0] * SHADE
    for texture in ("striped", "dotted"):
        patch = images[texture][inside, inside]
        assert patch.min() == pytest.approx(dark, abs=1) and patch.max() == COLOUR_RGB["red"][0]
        assert 0.2 < (patch < 0.7 * COLOUR_RGB["red"][0]).mean() < 0.7
    assert np.ptp(images["striped"][inside, inside], axis=1).max() == 0
    assert np.ptp(images["dotted"][inside, inside], axis=1).max() > 100


def test_neighbours_do_not_disturb_each_other() -> None:
    """The picture of several objects is the sum of what each alone changes, at soft edges too."""
    scenes = next(Scenes(sizes={"train": 300}).chunks("train", 32)).scenes
    scenes = [scene for scene in scenes if len(scene["objects"]) > 2]
    together = render(scenes, 32).astype(int)
    for scene, image in zip(scenes, together, strict=True):
        empty = np.array(BACKGROUND_RGB[scene["background"]])[:, None, None]
        alone = render([{**scene, "objects": [thing]} for thing in scene["objects"]], 32).astype(int)
        assert np.array_equal(image, empty + (alone - empty).sum(0))


def test_the_upper_half_of_two_panels_holds_the_top_object_alone(
    world: World
) -> None:
    scenes = [scene for scene, _, _ in world["test"] if scene["kind"] == "panels"]
    for size in (32, 64):
        both = render(scenes, size)
        tops = [{**scene, "kind": "single", "objects": scene["objects"][:1]} for scene in scenes]
        single = render(tops, size)
        assert np.array_equal(both[:, :, : size // 2], single[:, :, : size // 2])
        empty = np.stack([np.array(BACKGROUND_RGB[scene["background"]]) for scene in scenes])
        assert (single[:, :, size // 2 :] == empty[:, :, None, None]).all()
        lines = np.stack([np.array(LINE_RGB[scene["background"]]) for scene in scenes])
        assert (both[:, :, size // 2] == lines[:, :, None]).all()


def test_colours_are_told_apart() -> None:
    named = {**COLOUR_RGB, **BACKGROUND_RGB}
    for a, b in combinations(named, 2):
        assert math.dist(named[a], named[b]) > 75, (a, b)


def test_no_scenes_give_no_images() -> None:
    assert render([], 64).shape == (0, 3, 64, 64)
