"""The codes that the transformer learns from: made once, of views that are shifted a little, read with errors."""

from collections import Counter

import numpy as np
import pytest
import torch

from t2ibench.dalle.codes import Codes, corrupted, shifted
from t2ibench.dalle.fsq import Rounding
from t2ibench.dalle.prior import PriorStage
from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.tests.test_dalle import tiny_with

CELL = 4


@pytest.mark.parametrize("views", [1, 3])
def test_every_image_is_encoded_once_a_view(world: Store, monkeypatch: pytest.MonkeyPatch, views: int) -> None:
    model = tiny_with({"prior.views": views, "prior.batch_size": 32})
    stage = model.stages(world)[1]
    assert isinstance(stage, PriorStage)
    stage.total_steps = views * len(world) // 32
    stage.train_step(world.batch(range(32)))
    monkeypatch.setattr(model.tokenizer, "codes_of", None)
    stage.train_step(world.batch(range(100, 132)))
    assert len(stage.codes.codes) == views


def test_no_more_views_are_made_than_the_training_passes_over_the_data(world: Store) -> None:
    stage = tiny_with({"prior.views": 9, "prior.batch_size": 32}).stages(world)[1]
    assert isinstance(stage, PriorStage)
    stage.total_steps = len(world) // 32 + 1
    assert len(stage.codes.codes) == 2


def test_codes_are_those_of_an_images_views(world: Store) -> None:
    tokenizer = tiny_with({}).tokenizer
    codes, batch = Codes(tokenizer, world, views=3), world.batch([5, 280, 5])
    images = world.batch(range(len(world))).images
    assert torch.equal(codes.codes[0].long(), tokenizer.encode(images))
    first = shifted(images[:512], CELL // 2, seed=1)
    assert torch.equal(codes.codes[1, :512].long(), tokenizer.encode(first))
    of_each = [{tuple(view[row].tolist()) for view in codes.codes} for row in (5, 280, 5)]
    drawn = [codes(batch).tolist() for _ in range(60)]
    for number, views in enumerate(of_each):
        assert {tuple(rows[number]) for rows in drawn} == views


def test_an_image_is_shifted_by_whole_pixels_and_its_edges_are_repeated() -> None:
    images = torch.randint(256, (400, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="edge")
    seen = Counter[tuple[int, int]]()
    for image, there in zip(shifted(images, 2, seed=3).numpy(), padded, strict=True):
        [by] = [(down, right) for down in range(5) for right in range(5)
                if np.array_equal(image, there[:, down : down + 8, right : right + 8])]  # fmt: skip
        seen[by] += 1
    assert len(seen) == 25
    assert torch.equal(shifted(images, 2, seed=3), shifted(images, 2, seed=3))
    assert torch.equal(shifted(images, 0, seed=3), images)


def test_corrupted_codes_are_one_digit_one_off() -> None:
    radices = (8, 5, 5)
    codes = torch.randint(200, (400, 50))
    other = corrupted(codes, radices, 0.25)
    hit = other != codes
    assert hit.float().mean() == pytest.approx(0.25, abs=0.01)
    levels = Rounding(radices)
    halves = torch.tensor([radix // 2 for radix in radices])[:, None]
    before, after = ((levels.codes(some[hit][None]).squeeze(0) * halves).round() for some in (codes, other))
    changes = after - before
    assert ((changes != 0).sum(0) == 1).all() and (changes.abs().sum(0) == 1).all()
    assert {(digit, step) for digit in range(3) for step in changes[digit].unique().tolist()} == {
        (digit, step) for digit in range(3) for step in (-1, 0, 1)
    }
    assert torch.equal(corrupted(codes, radices, 0.0), codes)


def test_codes_of_a_single_digit_become_any() -> None:
    codes = torch.zeros(100, 100, dtype=torch.long)
    other = corrupted(codes, (6,), 0.5)
    assert set(other.unique().tolist()) == set(range(6))
    assert (other != 0).float().mean() == pytest.approx(0.5 * 5 / 6, abs=0.02)


@pytest.mark.parametrize(("field", "value"), [("views", 0), ("code_noise", 1.0), ("code_noise", -0.1)])
def test_settings_that_teach_nothing_are_refused(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"prior.{field}={value:g}: expected"):
        tiny_with({f"prior.{field}": value})
