"""The harness: prompts that pair runs up, one pass a judge, scores that move the right way."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import Store, prepare
from t2ibench.errors import UserError
from t2ibench.eval.harness import Drawn, Evaluated, evaluate, untrained_notes
from t2ibench.eval.joint_judge import (
    JointJudge,
    JointNetwork,
    class_targets,
    held_out_accuracy,
    in_domain_judge,
    save_judge,
    scenes_judge,
    trim,
)
from t2ibench.eval.judges import Comparison, Judge, Look, Reader, Training
from t2ibench.eval.prompts import choose_prompts
from t2ibench.eval.reference import reference
from t2ibench.reports.records import Score


@pytest.fixture(scope="module")
def judge(world: Store) -> JointJudge:
    return scenes_judge(Training(train=lambda: world, held_out=lambda: world))


def scores(evaluated: Sequence[Score]) -> dict[str, float]:
    return {score.metric: score.value for score in evaluated}


def score(images: torch.Tensor, captions: Sequence[str], real: Store, judges: Sequence[Judge | Reader],
          image_ids: Sequence[str] | None = None, **more: Any) -> Evaluated:
    ids = image_ids or [str(number) for number in range(len(images))]
    references = [[caption, "another"] for caption in captions]
    drawn = Drawn(images=images, captions=captions, image_ids=ids, references=references,
                  untrained=more.pop("untrained", None))
    return evaluate(drawn, judges, lambda judge: reference(judge, real), **more)


def test_prompts_are_the_same_for_every_model_and_cover_the_split(held_out: Store) -> None:
    prompts = choose_prompts(held_out, 300, seed=0)
    assert prompts == choose_prompts(held_out, 300, seed=0)
    assert prompts[:100] == choose_prompts(held_out, 100, seed=0)
    assert {prompt.image_id for prompt in prompts} == set(held_out.ids)
    for prompt in prompts[:20]:
        assert held_out.captions(held_out.ids.index(prompt.image_id))[prompt.number] == prompt.caption
    assert choose_prompts(held_out, 300, seed=1) != prompts


def test_more_prompts_than_images_repeat_none(held_out: Store) -> None:
    prompts = choose_prompts(held_out, 300 * 7, seed=0)
    assert len({(prompt.caption_id, prompt.seed) for prompt in prompts}) == 300 * 7
    assert len({prompt.caption_id for prompt in prompts}) == 300 * 5


def test_real_images_score_well_and_damage_shows(judge: JointJudge, held_out: Store) -> None:
    other = prepare(Scenes(sizes={"val": 300}), "val", 32)
    batch = other.batch(np.arange(300))
    good = scores(score(batch.images, batch.captions, held_out, [judge]).scores)
    noise = torch.from_numpy(np.random.default_rng(0).normal(0, 40, batch.images.shape))
    noisy = (batch.images + noise).clamp(0, 255).to(torch.uint8)
    bad = scores(score(noisy, batch.captions, held_out, [judge]).scores)
    shuffled = scores(score(batch.images, batch.captions[1:] + batch.captions[:1], held_out, [judge]).scores)
    assert good["r_precision"] > 0.8 and good["clip_score"] > shuffled["clip_score"] + 20
    assert bad["fid"] > 3 * good["fid"] and bad["clip_score"] < good["clip_score"]
    assert shuffled["r_precision"] < 0.06
    assert shuffled["fid"] == pytest.approx(good["fid"])


def test_the_batch_of_the_judge_does_not_matter(judge: JointJudge, held_out: Store) -> None:
    images = held_out.batch(range(40)).images
    whole = judge.look(images)
    parts = torch.cat([judge.look(images[at : at + 7]).features for at in range(0, 40, 7)])
    torch.testing.assert_close(whole.features, parts, atol=1e-4, rtol=1e-4)


def test_an_image_of_another_size_is_resized(judge: JointJudge) -> None:
    small, large = (prepare(Scenes(sizes={"val": 100}), "val", size).batch(range(100)) for size in (32, 128))
    a, b = judge.look(small.images), judge.look(large.images)
    assert a.embeddings is not None and b.embeddings is not None
    assert float((a.embeddings * b.embeddings).sum(1).mean()) > 0.8


class Counting:
    """A judge that counts how often it is asked to look."""

    name, id = "counting", "counting:1"

    def __init__(self) -> None:
        self.seen = 0

    def look(self, images: torch.Tensor) -> Look:
        self.seen += len(images)
        return Look(features=images.float().mean((2, 3)))

    def caption_embeddings(self, captions: Sequence[str]) -> None:
        return None


def test_every_judge_sees_every_image_once(held_out: Store) -> None:
    first, second = Counting(), Counting()
    second.id = "counting:2"
    batch = held_out.batch(range(300))
    found = score(batch.images, batch.captions, held_out, [first, second])
    assert first.seen == second.seen == 600  # 300 drawn and 300 real
    assert [one.judge for one in found.scores if one.metric == "fid"] == ["counting", "counting"]
    assert scores(found.scores)["fid"] == pytest.approx(0, abs=1e-6)
    score(batch.images, batch.captions, held_out, [first])
    assert first.seen == 900, "the real images' moments are kept"


def test_too_few_captions_for_r_precision_are_noted(judge: JointJudge, held_out: Store) -> None:
    batch = held_out.batch(range(60))
    found = score(batch.images, batch.captions, held_out, [judge])
    assert "r_precision" not in scores(found.scores)
    assert "r_precision@scenes: left out, 60 different captions came and 100 are needed" in found.notes
    assert found.notes[0].startswith("judge scenes: right on held-out real images in classes 9")


def test_two_captions_of_one_image_are_no_rivals(judge: JointJudge, held_out: Store) -> None:
    """R-precision has the first caption of each image only, however many are drawn."""
    at = list(range(120)) * 2
    batch = held_out.batch(at)
    captions = [held_out.captions(index)[number // 120] for number, index in enumerate(at)]
    found = score(batch.images, captions, held_out, [judge], batch.ids)
    [r_precision] = [one for one in found.scores if one.metric == "r_precision"]
    alone = score(batch.images[:120], captions[:120], held_out, [judge])
    assert r_precision.n == 120 and r_precision.value == scores(alone.scores)["r_precision"]


def test_controls_bracket_the_scores(judge: JointJudge, held_out: Store, world: Store) -> None:
    """Drawn images that are real ones: as good as the floor, far from shuffled captions and an untrained network."""
    other = prepare(Scenes(sizes={"val": 300}), "val", 32)
    batch = other.batch(np.arange(300))
    grey = torch.full_like(batch.images, 128)
    found = score(batch.images, batch.captions, held_out, [judge], train=lambda judge: reference(judge, world),
                  untrained=lambda: grey)
    own, floor, shuffled, untrained = (scores(some) for some in (found.scores, *(
        found.controls[name] for name in ("real", "shuffled", "untrained"))))
    assert own["fid"] == pytest.approx(floor["fid"], rel=0.5) and untrained["fid"] > 20 * own["fid"]
    assert own["kid"] < untrained["kid"] / 20 and own["coverage"] > 0.8 and untrained["coverage"] < 0.1
    assert shuffled["r_precision"] < 0.06 and own["r_precision"] > 0.8 and floor["r_precision"] > 0.8
    assert set(shuffled) == {"clip_score", "r_precision"}, "captions play no part in the others"
    assert not [note for note in found.notes if "before its training" in note]
    assert own["copied"] < 0.05 and len(found.nearest) == 300 and set(found.nearest) <= set(world.ids)


def test_a_network_that_was_better_before_its_training_is_noted(judge: JointJudge, held_out: Store) -> None:
    batch = prepare(Scenes(sizes={"val": 300}), "val", 32).batch(np.arange(300))
    grey = torch.full_like(batch.images, 128)
    found = score(grey, batch.captions, held_out, [judge], untrained=lambda: batch.images)
    (note,) = [note for note in found.notes if "scored better before its training" in note]
    assert {"fid@scenes", "kid@scenes", "r_precision@scenes"} <= set(note.partition(" in ")[2].split(", "))
    one = Score(metric="is", judge="a", value=2.0, stderr=0.3, n=9, higher_is_better=True)
    assert untrained_notes([one], [replace(one, value=2.8)]) == [], "within two standard errors of the difference"
    assert untrained_notes([one], [replace(one, value=2.9)]) == [
        "the network scored better before its training in is@a"]  # fmt: skip


def test_real_images_meet_their_captions_without_training_images(judge: JointJudge, held_out: Store) -> None:
    batch = held_out.batch(np.arange(120))
    found = score(batch.images, batch.captions, held_out, [judge])
    assert set(scores(found.controls["real"])) == {"clip_score", "r_precision"}
    assert sum("no training images" in note for note in found.notes) == 1


def test_captions_of_the_same_image_are_never_taken_for_anothers(judge: JointJudge, held_out: Store) -> None:
    """However often the captions come again, and half the set away too."""
    at = list(range(120)) * 2
    batch = held_out.batch(at)
    found = score(batch.images, batch.captions, held_out, [judge], batch.ids)
    assert scores(found.controls["shuffled"])["r_precision"] < 0.06 < 0.8 < scores(found.scores)["r_precision"]
    alone = score(batch.images[:4], ["a"] * 4, held_out, [judge], ["0"] * 4)
    assert "shuffled" not in alone.controls, "there is no other caption"


def test_copies_of_training_images_are_seen(judge: JointJudge, held_out: Store, world: Store) -> None:
    batch = world.batch(np.arange(300))
    found = score(batch.images, batch.captions, held_out, [judge], train=lambda judge: reference(judge, world))
    assert scores(found.scores)["copied"] > 0.95 and list(found.nearest) == batch.ids


def test_values_of_single_images_average_to_the_scores(judge: JointJudge, held_out: Store) -> None:
    batch = held_out.batch(np.arange(300))
    found = score(batch.images, batch.captions, held_out, [judge])
    assert set(found.values) == {"clip_score@scenes", "r_precision@scenes"}
    for name, values in found.values.items():
        assert np.nanmean(values) == pytest.approx(scores(found.scores)[name.split("@")[0]])


class Lengths:
    """A reader that finds long captions well drawn, and asks nothing of those without an `a`."""

    name, id = "lengths", "lengths:1"
    held_out, tried_on = {"length": 9.0}, 50

    def read(self, images: torch.Tensor) -> int:
        return len(images)

    def compare(self, readings: int, captions: Sequence[str], references: Sequence[Sequence[str]]) -> Comparison:
        assert readings == len(captions)
        assert all(own[0] == caption for own, caption in zip(references, captions, strict=True))
        at = np.arange(len(captions))
        values = np.array([len(caption) if "a" in caption else np.nan for caption in captions]) + 10 * at
        return Comparison({"length": values, "silent": np.full(len(captions), np.nan)}, {})


def test_readers_score_what_they_are_asked(held_out: Store) -> None:
    images = held_out.batch(range(4)).images
    found = score(images, ["aa", "aaaa", "b", "aaa"], held_out, [Lengths()], image_ids=["0", "0", "1", "2"])
    [one] = found.scores
    assert (one.name, one.value, one.n, one.higher_is_better) == ("length@lengths", 49 / 3, 3, True)
    [shuffled], [real] = found.controls["shuffled"], found.controls["real"]
    # Of the images 0, 1 and 2, each has the caption of the next; that of 1 asks nothing.
    assert shuffled.value == pytest.approx((23 + 32) / 2)
    assert found.notes == ("lengths: 1 of 4 captions are left out, as they ask nothing that it knows how to read",)
    assert (real.value, real.n) == (9.0, 50) and one.stderr is not None and list(found.values) == ["length@lengths"]


def test_without_real_images_only_what_needs_none_is_scored(judge: JointJudge, held_out: Store) -> None:
    batch = held_out.batch(np.arange(120))
    drawn = Drawn(images=batch.images, captions=batch.captions, image_ids=batch.ids,
                  references=[[caption] for caption in batch.captions])
    assert set(scores(evaluate(drawn, [judge]).scores)) == {"is", "clip_score", "r_precision"}


def test_images_and_captions_must_pair_up(judge: JointJudge, held_out: Store) -> None:
    with pytest.raises(UserError, match="2 images and 1 captions"):
        score(held_out.batch([0, 1]).images, ["one"], held_out, [judge])


def test_the_shipped_judge_reports_its_accuracy(judge: JointJudge, held_out: Store) -> None:
    assert judge.held_out["classes"] > 0.9 and judge.held_out["caption_of_100"] > 0.85
    measured = held_out_accuracy(judge, held_out)
    assert measured["caption_of_100"] == pytest.approx(judge.held_out["caption_of_100"], abs=0.05)


def test_the_shipped_judge_knows_held_out_combinations(judge: JointJudge) -> None:
    compose = prepare(Scenes(sizes={"compose": 300}), "compose", 32)
    assert held_out_accuracy(judge, compose)["caption_of_100"] > 0.8


def test_an_in_domain_judge_learns_and_is_kept(
    world: Store, held_out: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("t2ibench.eval.joint_judge.IN_DOMAIN_IMAGES", 3840)
    heard: list[int] = []
    training = Training(train=lambda: world, held_out=lambda: held_out, progress=lambda done, total: heard.append(done))
    first = in_domain_judge(training)
    assert heard[-1] == 3840 and first.held_out["caption_of_100"] > 0.02
    again = in_domain_judge(training)
    assert len(heard) == 30 and again.id == first.id and again.name == "in-domain"


def test_a_judge_of_data_without_labels(tmp_path: Path, held_out: Store) -> None:
    class Unlabelled:
        class_names: tuple[str, ...] = ()

        def __getattr__(self, name: str) -> object:
            return getattr(held_out, name)

        def __len__(self) -> int:
            return len(held_out)

    data = Unlabelled()
    save_judge(tmp_path / "j", [data], data, images=128, progress=lambda done, total: None)  # type: ignore[list-item, arg-type]
    look = JointJudge("j", tmp_path / "j").look(held_out.batch([0]).images)
    assert look.class_probabilities is None and look.embeddings is not None


def test_targets_are_spread_over_the_kinds_shown(held_out: Store) -> None:
    targets = class_targets(held_out)
    assert targets.sum(1) == pytest.approx(1)
    for index in range(50):
        scene = held_out.scene(index)
        assert scene is not None
        kinds = {f"{thing['colour']} {thing['shape']}" for thing in scene["objects"]}
        assert {held_out.class_names[at] for at in np.flatnonzero(targets[index])} == kinds


def test_a_damaged_judge_is_named(tmp_path: Path) -> None:
    path = tmp_path / "judge.safetensors"
    path.write_bytes(b"not a judge")
    with pytest.raises(UserError, match=r"judge\.safetensors: not a judge of this version"):
        JointJudge("x", path)


def test_trimmed_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    network = JointNetwork(classes=0, vocabulary=10).eval()
    tokens = torch.tensor([[3, 4, 2, 0, 0, 0], [5, 6, 7, 2, 0, 0]])
    torch.testing.assert_close(network.text(tokens), network.text(trim(tokens)), atol=1e-5, rtol=1e-5)
