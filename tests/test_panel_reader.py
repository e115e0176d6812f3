"""Lower panels read back: every look, also moved and noisy; what a copy of the upper one would be worth."""

import numpy as np
import pytest

from t2ibench.datasets.scenes import Scenes, render
from t2ibench.datasets.store import Store, prepare
from t2ibench.errors import UserError
from t2ibench.eval.panel_reader import ASKED, LOOKS, read_lower_panels


@pytest.fixture(scope="module")
def panels(cache: object) -> tuple[np.ndarray, list[dict[str, object]]]:
    data: Store = prepare(Scenes(sizes={"test": 300}), "test", 32)
    at = [index for index in range(len(data)) if (data.scene(index) or {})["kind"] == "panels"][:24]
    return data.batch(at).images.numpy(), [data.scene(index) or {} for index in at]


def test_real_panels_are_read_without_an_error(panels: tuple[np.ndarray, list[dict[str, object]]]) -> None:
    images, scenes = panels
    read = read_lower_panels(images, scenes)
    assert read.right(*ASKED).all() and read.error.max() < 1
    changed = np.array([scene["change"] for scene in scenes])
    for name in ("colour", "texture", "size"):
        assert np.array_equal(read.copied(name), changed != name)
    assert not read.copied(*ASKED).any() and read.copied("shape").all()


@pytest.mark.parametrize("move", [(0, 0), (1, -1), (-2, 2)])
def test_moved_and_noisy_panels_too(panels: tuple[np.ndarray, list[dict[str, object]]], move: tuple[int, int]) -> None:
    images, scenes = panels
    noise = np.random.default_rng(0).normal(0, 20, images.shape)
    drawn = np.clip(np.roll(images, move, (2, 3)) + noise, 0, 255).astype(np.uint8)
    assert read_lower_panels(drawn, scenes).right("shape", "colour").mean() > 0.95


def test_what_is_shown_is_read_and_not_what_was_asked(panels: tuple[np.ndarray, list[dict[str, object]]]) -> None:
    images, scenes = panels
    others = [{**scene, "objects": [scene["objects"][0], {**scene["objects"][1], "shape": "ring", "colour": "pink"}]}
              for scene in scenes]  # fmt: skip
    read = read_lower_panels(render(others, 32), scenes)
    assert {LOOKS[look][:2] for look in read.shown} == {("ring", "pink")}
    lower = [scene["objects"][1] for scene in scenes]
    asked = [(thing["shape"], thing["colour"]) == ("ring", "pink") for thing in lower]
    assert read.right("shape", "colour").tolist() == asked


def test_other_scenes_are_refused() -> None:
    with pytest.raises(UserError, match="two panels"):
        read_lower_panels(np.zeros((1, 3, 32, 32), np.uint8), [{"kind": "single"}])
