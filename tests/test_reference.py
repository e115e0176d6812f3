"""Real images as judges see them: kept by what they are of, never met stale, refused when malformed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2ibench.datasets.store import Store
from t2ibench.errors import UserError
from t2ibench.eval import reference as module
from t2ibench.eval.frechet import FeatureMoments
from t2ibench.eval.judges import Look
from t2ibench.eval.reference import Reference, load_reference, make_reference, reference, save_reference


class Means:
    """A judge whose features are mean colours; it counts the images it sees."""

    name = "means"

    def __init__(self, weights: str) -> None:
        self.id, self.seen = f"means:{weights}", 0

    def look(self, images: torch.Tensor) -> Look:
        self.seen += len(images)
        features = images.float().mean((2, 3))
        return Look(features=features, class_probabilities=features.softmax(1), embeddings=features / features.norm())

    def caption_embeddings(self, captions: Sequence[str]) -> torch.Tensor:
        return torch.tensor([[len(caption), 1.0, 0.0] for caption in captions])


def silent(what: str, done: int, total: int) -> None:
    pass


def test_an_image_is_looked_at_once_and_what_was_seen_is_kept(held_out: Store, world: Store) -> None:
    judge = Means("kept")
    first, again = (reference(judge, held_out) for _ in range(2))
    assert judge.seen == len(held_out)
    assert torch.equal(first.seen.look.features, again.seen.look.features)
    assert first.seen.captions == again.seen.captions and first.about == again.about
    reference(judge, world)
    assert judge.seen == len(held_out) + len(world), "other images"
    other = Means("of another digest")
    reference(other, held_out)
    assert other.seen == len(held_out), "other weights"


def test_rows_captions_and_ids_belong_together(held_out: Store) -> None:
    made = make_reference(Means("rows"), held_out, silent)
    at = held_out.ids.index(made.seen.image_ids[7])
    batch = held_out.batch([at])
    assert made.seen.captions[7] == batch.captions[0]
    torch.testing.assert_close(made.seen.look.features[7], batch.images.float().mean((2, 3))[0])
    assert sorted(made.seen.image_ids) == sorted(held_out.ids)


def test_moments_are_of_all_images_where_only_some_are_kept(held_out: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make_reference(Means("a"), held_out, silent)
    monkeypatch.setattr(module, "KEPT", 50)
    judge = Means("b")
    some = make_reference(judge, held_out, silent)
    assert len(some.seen) == 50 and some.moments.n == len(held_out) == judge.seen
    torch.testing.assert_close(some.moments.outer, whole.moments.outer)
    assert some.seen.image_ids == whole.seen.image_ids[:50]


@pytest.fixture
def small() -> Reference:
    look = Look(features=torch.rand(4, 3), embeddings=torch.rand(4, 2))
    seen = module.Seen(look=look, captions=("é", "b", "c", "d"), image_ids=("0", "1", "2", "3"),
                       caption_embeddings=torch.rand(4, 2))
    about = {"data": "d", "split": "test", "image_size": 32, "digest": "x", "images": 4, "judge": "j",
             "judge_id": "j:1"}
    return Reference(about=about, moments=FeatureMoments.from_features(look.features), seen=seen)


def test_a_saved_reference_is_loaded_equal(small: Reference, tmp_path: Path) -> None:
    save_reference(tmp_path / "r.npz", small)
    loaded = load_reference(tmp_path / "r.npz")
    assert loaded.about == small.about and loaded.seen.captions == small.seen.captions
    assert torch.equal(loaded.moments.outer, small.moments.outer) and loaded.moments.n == 4
    assert loaded.seen.look.class_probabilities is None
    assert torch.equal(loaded.seen.caption_embeddings, small.seen.caption_embeddings)


@pytest.mark.parametrize(("name", "value"), [
    ("features", np.full((4, 3), np.nan, np.float32)), ("features", np.zeros((4, 2), np.float32)),
    ("features", np.zeros((4, 3), np.float64)), ("outer", np.zeros((2, 3))), ("n", np.int64(1)),
    ("embeddings", np.zeros((3, 2), np.float32)), ("texts", np.frombuffer(b"{}", np.uint8)),
    ("texts", np.frombuffer(b"no json", np.uint8)), ("more", np.zeros(3)),
    ("features", np.array([{"a": 1}], dtype=object)),
])
def test_a_malformed_reference_is_refused_in_one_line(name: str, value: Any, small: Reference, tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    save_reference(path, small)
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {name: value}))
    with pytest.raises(UserError, match=r"r\.npz: (damaged, or no reference|.*make it anew)"):
        load_reference(path)


def test_a_cut_off_reference_is_refused(small: Reference, tmp_path: Path) -> None:
    save_reference(tmp_path / "r.npz", small)
    (tmp_path / "r.npz").write_bytes((tmp_path / "r.npz").read_bytes()[:-300])
    with pytest.raises(UserError, match=r"r\.npz: damaged, or no reference"):
        load_reference(tmp_path / "r.npz")
    with pytest.raises(UserError, match="no such file"):
        load_reference(tmp_path / "none.npz")
