"""The judge `damsm`: it learns, it is kept, and what it says does not hang on how it is asked."""

import pytest
import torch

from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import prepare
from t2ibench.errors import UserError
from t2ibench.eval import damsm_judge, taught
from t2ibench.eval.damsm_judge import DAMSMJudge, open_judge
from t2ibench.eval.judges import ReportsAccuracy, Training


@pytest.fixture(scope="module")
def judge(world, held_out):
    """A judge that saw 300 scenes some ten times, and what was heard of its training."""
    heard = []
    training = Training(
        train=lambda: world, held_out=lambda: held_out, progress=lambda done, total: heard.append((done, total))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(damsm_judge, "IMAGES", 1_920)
        opened = open_judge(training)
        assert heard[-1] == (1_920, 1_920) and len(heard) == 40
        assert open_judge(training).id == opened.id and len(heard) == 40
    return opened


def test_it_knows_the_captions_of_the_images_it_learnt_from(judge, world, held_out):
    batch = world.batch(range(100))
    cosines = judge.look(batch.images).embeddings @ judge.caption_embeddings(batch.captions).T
    ranks = (cosines > cosines.diag()[:, None]).float().sum(1)
    # By chance the mean rank of 100 among 100 is 49.5, give or take 2.9.
    assert ranks.mean() < 40
    assert isinstance(judge, ReportsAccuracy)
    assert judge.held_out == damsm_judge.held_out_precision(judge, held_out) != {}


def test_embeddings_are_of_unit_length_and_features_are_not(judge, world):
    batch = world.batch(range(20))
    look, texts = judge.look(batch.images), judge.caption_embeddings(batch.captions)
    assert look.features.shape == look.embeddings.shape == texts.shape == (20, damsm_judge.CONFIG.text_dim)
    for some in (look.embeddings, texts):
        torch.testing.assert_close(some.norm(dim=1), torch.ones(20))
    torch.testing.assert_close(torch.nn.functional.normalize(look.features, dim=1), look.embeddings)
    assert (look.features.norm(dim=1) - 1).abs().max() > 0.1


def test_neighbours_change_nothing(judge, world, monkeypatch):
    batch = world.batch(range(12))
    look, texts = judge.look(batch.images), judge.caption_embeddings(batch.captions)
    monkeypatch.setattr(DAMSMJudge, "BATCH", 5)
    order = [7, 0, 11, 3]
    torch.testing.assert_close(judge.look(batch.images[order]).features, look.features[order], rtol=1e-4, atol=1e-5)
    some = judge.caption_embeddings([batch.captions[at] for at in order])
    torch.testing.assert_close(some, texts[order], rtol=1e-4, atol=1e-5)


def test_images_of_another_size_are_resized(judge, world):
    images = world.batch(range(8)).images
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    near = (judge.look(images).embeddings * judge.look(doubled).embeddings).sum(1)
    assert near.min() > 0.8


def test_its_network_stands_in_its_id(judge):
    assert judge.id.startswith("damsm-r1:") and judge.id.endswith(":bicubic-antialias-32")


def test_all_that_it_learnt_from_and_was_tried_on_stands_in_its_place(world, held_out):
    other = prepare(Scenes(seed=1, sizes={"train": 3}), "train", 32)
    written = []

    def place(train, tried, kind, recipe, images):
        training = Training(train=lambda: train, held_out=lambda: tried)
        return taught.taught(training, kind, recipe, images, lambda path, *given, **how: written.append(path))

    places = [place(*asked) for asked in (
        (world, held_out, "damsm", 1, 9), (other, held_out, "damsm", 1, 9), (world, other, "damsm", 1, 9),
        (world, None, "damsm", 1, 9), (world, held_out, "captioner", 1, 9), (world, held_out, "damsm", 2, 9),
        (world, held_out, "damsm", 1, 8),
    )]  # fmt: skip
    assert len(set(places)) == 7 and written == places


def test_its_caveat_names_the_models_it_flatters():
    assert DAMSMJudge.caveat.startswith("judge damsm: ") and "attngan" in DAMSMJudge.caveat


@pytest.mark.parametrize("damage", ["truncated", "empty", "of another judge"])
def test_damaged_weights_are_named(tmp_path, damage):
    path = tmp_path / "judge.safetensors"
    network = torch.nn.ModuleDict({"text": torch.nn.Linear(2, 2)})
    taught.save_taught(path, network, {"words": [], "side": 32, "held_out": {}}, lambda written: {})
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-3])
    elif damage == "empty":
        path.write_bytes(b"")
    with pytest.raises(UserError, match="judge.safetensors: not a judge of this version") as caught:
        DAMSMJudge(path)
    assert "\n" not in str(caught.value)
