"""What the peers get wrong: scores that move the right way under damage, and not at all under what must not matter."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import Store, prepare
from t2ibench.eval import harness
from t2ibench.eval import reference as references
from t2ibench.eval.harness import Drawn, Evaluated, evaluate
from t2ibench.eval.joint_judge import JointJudge, scenes_judge
from t2ibench.eval.judges import Training
from t2ibench.eval.reference import reference
from t2ibench.eval.scene_objects import read

N = 400
BETTER_LOWER = ("fid", "kid", "cmmd")


@pytest.fixture(scope="module")
def judge(world: Store) -> JointJudge:
    return scenes_judge(Training(train=lambda: world, held_out=lambda: None))


@pytest.fixture(scope="module")
def real() -> Store:
    return prepare(Scenes(sizes={"test": N}), "test", 32)


@pytest.fixture(scope="module")
def drawn() -> Drawn:
    """Return perfect images of their captions, which the reference does not hold."""
    batch = prepare(Scenes(sizes={"val": N}), "val", 32).batch(np.arange(N))
    return Drawn(images=batch.images, captions=batch.captions, image_ids=batch.ids,
                 references=[[caption] for caption in batch.captions])


def scored(judge: JointJudge, real: Store, drawn: Drawn) -> dict[str, float]:
    return values(evaluate(drawn, [judge], lambda judge: reference(judge, real)))


def values(found: Evaluated) -> dict[str, float]:
    return {score.metric: score.value for score in found.scores}


def with_images(drawn: Drawn, images: torch.Tensor) -> Drawn:
    return Drawn(images=images, captions=drawn.captions, image_ids=drawn.image_ids, references=drawn.references)


def blurred(images: torch.Tensor, strength: int) -> torch.Tensor:
    soft = images.float()
    for _ in range(strength):
        soft = avg_pool2d(soft, 3, 1, 1, count_include_pad=False)
    return soft.round().to(torch.uint8)


def noisy(images: torch.Tensor, strength: int) -> torch.Tensor:
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return (images + 10 * strength * noise).clamp(0, 255).to(torch.uint8)


def fewer(images: torch.Tensor, strength: int) -> torch.Tensor:
    """Return as many images, but of so few different ones."""
    return images[torch.arange(len(images)) % (len(images) // 4**strength)]


@pytest.mark.parametrize("damage", [blurred, noisy, fewer])
def test_the_more_damage_the_worse(damage: Callable[[torch.Tensor, int], torch.Tensor], judge: JointJudge, real: Store,
                                   drawn: Drawn) -> None:
    found = [scored(judge, real, with_images(drawn, damage(drawn.images, strength) if strength else drawn.images))
             for strength in range(4)]
    steps = list(zip(found, found[1:], strict=False))
    for name in BETTER_LOWER:
        # KID has no bias to grow with: of so few images, one draw of modes may lie nearer than a larger one.
        assert all(a[name] < b[name] for a, b in steps) or (damage, name) == (fewer, "kid"), name
        assert found[0][name] < found[3][name]
    assert found[3]["coverage"] < found[0]["coverage"]
    if damage is fewer:
        assert found[3]["precision"] > 0.9 > 5 * found[3]["recall"], "dropped modes are no matter of precision"
    else:
        assert all(a["r_precision"] > b["r_precision"] for a, b in steps)


def test_the_more_captions_are_shuffled_the_worse_they_fit_and_nothing_else_moves(
    judge: JointJudge, real: Store, drawn: Drawn
) -> None:
    def shuffled(share: float) -> Drawn:
        away = round(share * N)
        captions = [*np.roll(drawn.captions[:away], 1).tolist(), *drawn.captions[away:]] if away else drawn.captions
        return Drawn(images=drawn.images, captions=captions, image_ids=drawn.image_ids, references=drawn.references)

    found = [scored(judge, real, shuffled(share)) for share in (0.0, 0.3, 0.6, 1.0)]
    for name in ("clip_score", "r_precision"):
        assert all(a[name] > b[name] + 0.2 * found[0][name] for a, b in zip(found, found[1:], strict=False)), name
    assert found[3]["r_precision"] < 0.04
    others = set(found[0]) - {"clip_score", "r_precision"}
    assert all(own[name] == found[0][name] for own in found for name in others)


def test_identical_sets_are_at_no_distance(judge: JointJudge, real: Store, drawn: Drawn) -> None:
    found = scored(judge, real, with_images(drawn, real.batch(np.arange(N)).images))
    assert found["fid"] == pytest.approx(0, abs=1e-6) and found["cmmd"] == pytest.approx(0, abs=1e-6)
    assert found["precision"] == found["recall"] == found["coverage"] == 1
    other = scored(judge, real, drawn)
    assert found["kid"] < 0 < other["fid"], "unbiased: equal sets are nearer than two draws of one law"


def test_order_and_batches_do_not_matter(
    judge: JointJudge, real: Store, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R-precision draws rivals by place and IS splits by it; all other scores are of the set."""
    order = np.random.default_rng(0).permutation(N).tolist()
    moved = Drawn(images=drawn.images[order], captions=[drawn.captions[at] for at in order],
                  image_ids=[drawn.image_ids[at] for at in order], references=[drawn.references[at] for at in order])
    before, after = scored(judge, real, drawn), scored(judge, real, moved)
    for name in set(before) - {"is", "r_precision"}:
        assert after[name] == pytest.approx(before[name], rel=1e-5), name
    assert after["r_precision"] == pytest.approx(before["r_precision"], abs=0.02)
    monkeypatch.setattr(references, "BATCH", 37)
    assert scored(judge, real, drawn) == pytest.approx(before, rel=1e-5)


def test_swapped_sides_swap_precision_and_recall(judge: JointJudge, real: Store, drawn: Drawn) -> None:
    few = with_images(drawn, fewer(drawn.images, 2))
    there = scored(judge, real, few)
    back = evaluate(with_images(drawn, real.batch(np.arange(N)).images), [judge],
                    lambda judge: _made(judge, few))
    assert values(back)["recall"] == pytest.approx(there["precision"])
    assert values(back)["precision"] == pytest.approx(there["recall"])


def _made(judge: JointJudge, drawn: Drawn) -> references.Reference:
    seen = references.see(judge, references.blocks_of(drawn.images, drawn.captions, drawn.image_ids))
    return references.Reference(about={}, moments=seen.moments, seen=seen)


def test_scores_do_not_depend_on_the_default_device(judge: JointJudge, real: Store, drawn: Drawn) -> None:
    """Where an accelerator is the default, features are on the CPU all the same; meta tensors have no values."""
    made, others = _made(judge, drawn), reference(judge, real)
    before = harness._scores("scenes", made.seen, others)[0]
    torch.set_default_device("meta")
    try:
        after = harness._scores("scenes", made.seen, others)[0]
        shown = read(drawn.images.numpy()[:8])
    finally:
        torch.set_default_device("cpu")
    assert after == before and shown.there.any(1).all()
