"""The loader: every image once an epoch, shared without duplicates, going on anywhere, pixels cut right."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from t2ibench.datasets.captioned import Batch
from t2ibench.datasets.loader import SIDED, TOGETHER, Loader, stored_size
from t2ibench.errors import UserError


class Ramps:
    """Images that hold in red their row, in green their column, in blue their number."""

    name, split, digest, class_names = "ramps", "train", "", ()

    def __init__(self, images: int, side: int = 4, smaller: tuple[int, ...] = (), text: str = "a ramp") -> None:
        self.number, self.image_size, self.smaller, self.text = images, side, smaller, text

    def __len__(self) -> int:
        return self.number

    def batch(self, indices: np.ndarray, draws: np.ndarray | None = None) -> Batch:
        texts = [f"{self.text} {draw:.6f}" for draw in (np.zeros(len(indices)) if draws is None else draws)]
        images = {side: self.drawn(indices, side) for side in (self.image_size, *self.smaller)}
        return Batch(images=images.pop(self.image_size), captions=texts, ids=[str(i) for i in indices], smaller=images)

    def drawn(self, indices: np.ndarray, side: int) -> torch.Tensor:
        times = self.image_size // side
        rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
        planes = [torch.stack([rows * times, columns * times, torch.full_like(rows, int(i) % 256)]) for i in indices]
        return torch.stack(planes).to(torch.uint8)


def test_an_epoch_is_a_permutation_and_every_epoch_another() -> None:
    loader = Loader(Ramps(25), batch_size=10, seed=3)
    steps = [loader.indices(step) for step in range(5)]
    seen = np.concatenate(steps)
    assert sorted(seen[:25]) == list(range(25)) and sorted(seen[25:50]) == list(range(25))
    assert not np.array_equal(seen[:25], seen[25:50])
    assert len(Loader(Ramps(3), batch_size=10, seed=0).indices(1)) == 10
    other = Loader(Ramps(25), batch_size=10, seed=3, name="other")
    assert not np.array_equal(other.indices(0), steps[0])


@given(st.integers(1, 40), st.integers(1, 6), st.integers(1, 5), st.integers(0, 8))
@settings(deadline=None, max_examples=30)
def test_processes_share_one_batch_without_duplicates(images: int, each: int, processes: int, step: int) -> None:
    data, size = Ramps(images, side=19), each * processes
    whole = Loader(data, batch_size=size, seed=1, augmentation="crop-flip").batch(step)
    parts = [
        Loader(data, batch_size=size, seed=1, augmentation="crop-flip", rank=rank, processes=processes).batch(step)
        for rank in range(processes)
    ]
    assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
    assert [caption for part in parts for caption in part.captions] == whole.captions
    assert [name for part in parts for name in part.ids] == whole.ids


def test_a_loader_that_begins_in_the_middle_goes_on_as_one_that_came_there() -> None:
    def loader() -> Loader:
        return Loader(Ramps(25, side=19), batch_size=4, seed=1, augmentation="crop-flip")

    whole = list(loader().batches(0, 75))
    rest = list(loader().batches(5, 75))
    assert len(whole) == 75 > 2 * TOGETHER // 4 and len(rest) == 70 and list(loader().batches(3, 3)) == []
    assert whole[40].ids == loader().batch(40).ids
    for a, b in zip(whole[5:], rest, strict=True):
        assert torch.equal(a.images, b.images) and a.captions == b.captions and a.ids == b.ids


def test_crops_are_squares_of_the_stored_image_at_every_place() -> None:
    loader = Loader(Ramps(64, side=38), batch_size=64, seed=0, augmentation="crop")
    batch = loader.batch(0)
    assert stored_size(32, "crop") == 38 and batch.images.shape == (64, 3, 32, 32)
    tops, lefts = batch.images[:, 0, 0, 0], batch.images[:, 1, 0, 0]
    rows = tops[:, None, None].int() + torch.arange(32)[None, :, None]
    columns = lefts[:, None, None].int() + torch.arange(32)[None, None, :]
    assert torch.equal(batch.images[:, 0].int(), rows.expand(64, 32, 32))
    assert torch.equal(batch.images[:, 1].int(), columns.expand(64, 32, 32))
    assert set(tops.tolist()) == set(lefts.tolist()) == set(range(7))
    assert batch.images[:, 2, 0, 0].tolist() == [int(name) for name in batch.ids]


def test_all_sides_show_the_same_part() -> None:
    loader = Loader(Ramps(64, side=152, smaller=(38, 76)), batch_size=64, seed=0, augmentation="crop-flip")
    batch = loader.batch(0)
    assert batch.images.shape[-1] == 128 and sorted(batch.smaller) == [32, 64]
    mirrored = batch.images[:, 1, 0, 0] > batch.images[:, 1, 0, -1]
    assert 20 < int(mirrored.sum()) < 44
    upright = torch.where(mirrored[:, None, None, None], batch.images.flip(-1), batch.images)
    for side, images in batch.smaller.items():
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        assert torch.equal(images[:, :2], upright[:, :2, :: 128 // side, :: 128 // side])


def test_what_says_left_or_right_is_not_mirrored() -> None:
    for text, sided in (
        ("a star left of a ring", True), ("facing Right", True), ("counterclockwise arrows", True),
        ("the leftmost star", True), ("a left_hand glove", True), ("right-handed", True), ("lefthand side", True),
        ("a leftover bright fright", False), ("an upright clock", False),
    ):  # fmt: skip
        assert bool(SIDED.search(text)) is sided
        batch = Loader(Ramps(64, text=text), batch_size=64, seed=0, augmentation="flip").batch(0)
        mirrored = batch.images[:, 1, 0, 0] > batch.images[:, 1, 0, -1]
        assert int(mirrored.sum()) == 0 if sided else 20 < int(mirrored.sum()) < 44


def test_without_augmentation_the_pixels_are_those_of_the_store() -> None:
    data = Ramps(9)
    batch = Loader(data, batch_size=4, seed=0).batch(2)
    assert torch.equal(batch.images, data.batch(Loader(data, batch_size=4, seed=0).indices(2)).images)


def test_what_cannot_be_shared_or_cropped_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be shared evenly by 3 processes"):
        Loader(Ramps(9), batch_size=4, seed=0, processes=3)
    with pytest.raises(UserError, match="prepared at `stored_size`"):
        Loader(Ramps(9, side=64), batch_size=4, seed=0, augmentation="crop")
    with pytest.raises(UserError, match="multiple of 16, got 40"):
        stored_size(40, "crop-flip")
    assert stored_size(40, "flip") == 40
