"""Scenes read back: real ones, soft ones, and what is changed in an image shows in its category and no other."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import conv2d, pad

from t2ibench.datasets.scene_captions import describe
from t2ibench.datasets.scenes import BACKGROUNDS, COLOURS, RADII, SHAPES, SIZES, TEXTURES, Scenes, render
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.eval.scene_objects import Seen, read
from t2ibench.eval.scene_reader import CATEGORIES, reading_accuracy, verdicts

Scene = dict[str, Any]


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    """64 scenes of the compose split: combinations that no network was taught."""
    return next(Scenes(sizes={"compose": 64}).chunks("compose", 32)).scenes


@pytest.fixture(scope="module")
def pairs() -> list[Scene]:
    """24 pairs of different colours and shapes."""
    world = next(Scenes(sizes={"test": 250}).chunks("test", 32)).scenes
    both = [(scene, *scene["objects"]) for scene in world if scene["kind"] == "pair"]
    return [scene for scene, a, b in both if a["shape"] != b["shape"] and a["colour"] != b["colour"]][:20]


def things(seen: Seen, at: int) -> list[tuple[str, ...]]:
    """Return the objects of one image in words, sorted."""
    words = {"shape": SHAPES, "colour": COLOURS, "size": SIZES, "texture": TEXTURES}
    return sorted(tuple(options[getattr(seen, name)[at, slot]] for name, options in words.items())
                  for slot in np.flatnonzero(seen.there[at]))  # fmt: skip


def drawn(scene: Scene) -> list[tuple[str, ...]]:
    return sorted(tuple(thing[name] for name in ("shape", "colour", "size", "texture")) for thing in scene["objects"])


def share_read(images: NDArray[np.uint8], scenes: list[Scene]) -> float:
    """Return the share of images of which everything is read as drawn."""
    seen = read(images)
    right = [things(seen, at) == drawn(scene) and BACKGROUNDS[seen.background[at]] == scene["background"]
             and seen.line[at] == (scene["kind"] == "panels") for at, scene in enumerate(scenes)]  # fmt: skip
    return float(np.mean(right))


def blurred(images: NDArray[np.uint8], sigma: float) -> NDArray[np.float32]:
    steps = torch.arange(-4, 5)
    weights = torch.exp(-(steps**2) / (2 * sigma**2))
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    rows = pad(torch.from_numpy(images).float(), (4, 4, 4, 4), mode="replicate")
    return conv2d(rows.flatten(0, 1)[:, None], kernel[None, None]).view(images.shape).numpy()


def is_about(value: NDArray[np.float64], expected: float) -> bool:
    """Return whether all that is stated has this verdict, and something is stated."""
    stated = value[~np.isnan(value)]
    return len(stated) > 0 and bool((stated == expected).all())


@pytest.mark.parametrize("side", [32, 64])
def test_real_scenes_are_read_as_drawn(scenes: list[Scene], side: int) -> None:
    assert share_read(render(scenes, side), scenes) >= 0.98


def test_soft_and_noisy_scenes_too(scenes: list[Scene]) -> None:
    soft = blurred(render(scenes, 32), 1) + np.random.default_rng(0).normal(0, 16, (len(scenes), 3, 32, 32))
    assert share_read(np.clip(soft + 0.5, 0, 255).astype(np.uint8), scenes) >= 0.9


def test_places_are_right_to_half_a_pixel(scenes: list[Scene]) -> None:
    singles = [scene for scene in scenes if scene["kind"] == "single"]
    seen = read(render(singles, 32))
    for at, scene in enumerate(singles):
        slot, thing = seen.there[at].argmax(), scene["objects"][0]
        assert abs(seen.x[at, slot] - thing["x"]) < 0.5 / 32 and abs(seen.y[at, slot] - thing["y"]) < 0.5 / 32


def test_an_image_is_read_alone_as_among_others(scenes: list[Scene]) -> None:
    images = render(scenes[:36], 32)
    together, turned = read(images), read(images[::-1])
    alone = [read(images[at : at + 1]) for at in range(6)]
    for one, back, parts in zip(together, turned, zip(*alone, strict=True), strict=True):
        assert np.array_equal(one, back[::-1]) and np.array_equal(one[:6], np.concatenate(parts))


def test_every_true_caption_is_right_and_anothers_is_not(scenes: list[Scene]) -> None:
    captions = [describe(scene, 7919 * number) for number, scene in enumerate(scenes)]
    images = render(scenes, 32)
    own, other = verdicts(images, captions), verdicts(images, captions[1:] + captions[:1])
    assert tuple(own) == CATEGORIES
    for name in CATEGORIES:
        assert np.nanmean(own[name]) >= 0.97
        assert np.nanmean(other[name]) < np.nanmean(own[name]) - 0.3
    assert np.array_equal(np.isnan(other["size"]), np.isnan(np.roll(own["size"], -1))), "NaN is up to the caption"


def test_swapped_colours_break_binding_but_not_objects(pairs: list[Scene]) -> None:
    swapped = [{**scene, "objects": [{**a, "colour": b["colour"]}, {**b, "colour": a["colour"]}]}
               for scene in pairs for a, b in [scene["objects"]]]  # fmt: skip
    answers = verdicts(render(swapped, 32), [describe(scene) for scene in pairs])
    assert is_about(answers["object"], 1) and is_about(answers["relation"], 1)
    assert is_about(answers["binding"], 0) and is_about(answers["colour"], 0) and is_about(answers["all"], 0)


def test_other_shapes_of_the_right_colours_break_objects_but_not_colours(pairs: list[Scene]) -> None:
    others = [{**scene, "objects": [{**thing, "shape": SHAPES[(SHAPES.index(thing["shape"]) + 4) % 8]}
              for thing in scene["objects"]]} for scene in pairs]  # fmt: skip
    answers = verdicts(render(others, 32), [describe(scene) for scene in pairs])
    apart = np.array([{t["shape"] for t in a["objects"]}.isdisjoint(t["shape"] for t in b["objects"])
                      for a, b in zip(others, pairs, strict=True)])  # fmt: skip
    assert is_about(answers["object"][apart], 0) and is_about(answers["binding"][apart], 0)
    assert is_about(answers["colour"][apart], 1) and is_about(answers["relation"][apart], 1)


def test_a_mirror_turns_left_to_right_and_nothing_else(pairs: list[Scene]) -> None:
    captions = [describe(scene) for scene in pairs]
    answers = verdicts(np.ascontiguousarray(render(pairs, 32)[..., ::-1]), captions)
    beside = np.array([scene["relation"] in ("left of", "right of") for scene in pairs])
    assert beside.any() and not beside.all()
    assert is_about(answers["relation"][beside], 0) and is_about(answers["relation"][~beside], 1)
    assert is_about(answers["object"], 1) and is_about(answers["colour"], 1)
    mirror = {"left of": "right of", "right of": "left of"}
    turned = [describe({**scene, "relation": mirror.get(scene["relation"], scene["relation"])}) for scene in pairs]
    assert is_about(verdicts(np.ascontiguousarray(render(pairs, 32)[..., ::-1]), turned)["all"], 1)


def test_a_blank_image_has_nothing_right(scenes: list[Scene]) -> None:
    captions = [describe(scene, 7919 * number) for number, scene in enumerate(scenes)]
    for ground in (0, 122, 255):
        answers = verdicts(np.full((len(scenes), 3, 32, 32), ground, np.uint8), captions)
        assert all(is_about(answers[name], 0) for name in CATEGORIES if name != "background")


def row(looks: list[tuple[str, str]], y: float = 0.5) -> Scene:
    """Return a scene of small objects, (colour, shape), side by side on white."""
    objects = [{"shape": shape, "colour": colour, "size": "small", "texture": "solid", "x": (at + 0.75) * 0.3, "y": y,
                "radius": RADII["small"][0]} for at, (colour, shape) in enumerate(looks)]  # fmt: skip
    return {"kind": "several", "background": "white", "objects": objects, "relation": None, "change": None}


@pytest.mark.parametrize(("looks", "caption", "expected"), [
    ([("red", "circle")] * 2, "three red circles", {"object": 0, "count": 0, "colour": 0, "all": 0}),
    ([("red", "circle")] * 3, "two red circles", {"object": 1, "count": 0, "colour": 1, "all": 0}),
    ([("red", "circle")] * 3, "a red circle", {"object": 1, "count": np.nan, "binding": np.nan, "all": 0}),
    ([("blue", "star")] * 3, "three red circles", {"object": 0, "count": 1, "colour": 0, "all": 0}),
    ([("red", "circle"), ("blue", "circle")], "a blue circle left of a red circle", {"object": 1, "relation": 0}),
    ([("red", "circle"), ("blue", "circle")], "a red circle left of a blue circle", {"binding": 1, "relation": 1}),
    ([("red", "circle"), ("red", "star")], "a red star right of a red circle", {"binding": np.nan, "all": 1}),
    # One object is there: which of the two it is, and where the other is, shows nowhere.
    ([("red", "circle")], "a red circle left of a red star", {"object": 0, "colour": 0, "relation": 0}),
    ([("red", "ring"), ("red", "ring")], "a red circle left of a red star", {"colour": 1, "relation": 0}),
    ([("pink", "ring"), ("blue", "ring")], "a red circle left of a green star", {"relation": 0}),
    ([("red", "circle")], "a large red circle on white", {"object": 1, "size": 0, "texture": np.nan, "background": 1}),
    ([("red", "circle")], "a dotted red circle on black", {"object": 1, "size": np.nan, "texture": 0, "background": 0}),
    ([("red", "circle")], "a photograph of a dog", dict.fromkeys(CATEGORIES, np.nan)),
])  # fmt: skip
def test_verdicts(looks: list[tuple[str, str]], caption: str, expected: dict[str, float]) -> None:
    answers = verdicts(render([row(looks)], 32), [caption])
    assert {name: answers[name][0] for name in expected} == pytest.approx(expected, nan_ok=True)


def test_panels_upside_down_are_wrong(scenes: list[Scene]) -> None:
    panels = [scene for scene in scenes if scene["kind"] == "panels"]
    captions = [describe(scene) for scene in panels]
    upside_down = [{**scene, "objects": [{**a, "y": a["y"] + 0.5}, {**b, "y": b["y"] - 0.5}]}
                   for scene in panels for a, b in [scene["objects"]]]  # fmt: skip
    assert is_about(verdicts(render(panels, 32), captions)["all"], 1)
    answers = verdicts(render(upside_down, 32), captions)
    assert is_about(answers["all"], 0) and is_about(answers["object"], 1)


def test_accuracy_on_real_images(held_out: Store) -> None:
    shares = reading_accuracy(held_out, 40)
    assert tuple(shares) == CATEGORIES and min(shares.values()) > 0.9


@pytest.mark.parametrize("images", [
    np.zeros((0, 3, 32, 32), np.uint8), np.zeros((1, 3, 16, 16), np.uint8), np.zeros((1, 3, 32, 48), np.uint8),
    np.zeros((1, 3, 32, 32), np.float32), np.zeros((3, 32, 32), np.uint8),
])  # fmt: skip
def test_other_arrays_are_refused(images: NDArray[Any]) -> None:
    with pytest.raises(UserError, match=r"^scenes to read: expected [^\n]+$"):
        read(images)


def test_captions_must_be_as_many(scenes: list[Scene]) -> None:
    with pytest.raises(UserError, match="2 images and 1 captions"):
        verdicts(render(scenes[:2], 32), ["a red circle"])
