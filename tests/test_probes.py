"""Capability probes: categories asked of the right captions, real images right, other images wrong, the rest n/a."""

import pytest

from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import Store, prepare
from t2ibench.eval.joint_judge import scenes_judge
from t2ibench.eval.judges import Training
from t2ibench.eval.probes import PROMPTS, answer, missing, question, suite

CATEGORIES = {"attributes", "several objects", "binding", "counting", "relations", "unrelated concepts combined",
              "image-to-image reasoning", "styles", "geographic knowledge", "temporal knowledge"}
SCENES = [row for row in suite("scenes") if "missing" not in row]
COLOURS = {"category": "colours", "split": "test", "captions": r"\bred\b", "ask": "own caption", "about": "red things"}


@pytest.fixture(scope="module")
def stores(held_out: Store) -> dict[str, Store]:
    return {"test": held_out, "compose": prepare(Scenes(sizes={"compose": 300}), "compose", 32)}


@pytest.mark.parametrize("data", ["scenes", "emoji"])
def test_every_category_is_asked_or_said_to_be_missing(data: str) -> None:
    assert CATEGORIES <= {row["category"] for row in suite(data)}
    for row in suite(data):
        assert ("missing" in row) != {"split", "ask", "about"}.issubset(row), row
        assert missing(row, "why").value is None and missing(row, "why").about == "why"


def test_no_suite_is_made_up_for_other_data() -> None:
    assert suite("coco") == ()
    assert suite("scenes-100k") == suite("scenes")


@pytest.mark.parametrize("row", SCENES, ids=lambda row: row["category"])
def test_scenes_are_asked_of_the_kinds_named_and_real_ones_are_right(row: dict, stores: dict[str, Store]) -> None:
    data = stores[row["split"]]
    asked = question(row, data)
    assert {data.scene(int(at))["kind"] for at in asked.at} <= set(row["kinds"])
    assert [data.ids[at] for at in asked.at] == [prompt.image_id for prompt in asked.prompts]
    assert all(prompt.caption == data.captions(int(at))[prompt.number]
               for at, prompt in zip(asked.at, asked.prompts, strict=True))
    assert question(row, data).prompts == asked.prompts and len(asked.prompts) <= PROMPTS
    real = data.batch(asked.at).images
    found = answer(asked, real, data, None)
    assert found.value == found.real and found.real > 0.85, found
    others = answer(asked, real.roll(1, 0), data, None)
    assert others.value < found.value - 0.2 and others.real == found.real


def test_a_judge_finds_real_images_own_captions(stores: dict[str, Store]) -> None:
    data = stores["test"]
    judge = scenes_judge(Training(train=lambda: data, held_out=lambda: None))
    asked = question(COLOURS, data)
    assert 10 < len(asked.prompts) and all("red" in prompt.caption for prompt in asked.prompts)
    real = data.batch(asked.at).images
    found, others = (answer(asked, images, data, judge) for images in (real, real.roll(1, 0)))
    assert found.value == found.real and found.value > 0.8 and others.value < 0.2


def test_a_style_is_right_where_its_own_caption_is_nearer(stores: dict[str, Store]) -> None:
    data = stores["test"]
    judge = scenes_judge(Training(train=lambda: data, held_out=lambda: None))
    row = COLOURS | {"category": "style", "ask": "own style", "styles": ["red", "blue"]}
    asked = question(row, data)
    real = data.batch(asked.at).images
    assert answer(asked, real, data, judge).value > 0.8
    assert answer(asked, real[:, [2, 1, 0]], data, judge).value < 0.3, "red and blue exchanged"
