"""Precision, recall, density, coverage and copied images: by brute force, in closed form, and their invariances."""

import pytest
import torch

from t2ibench.errors import UserError
from t2ibench.eval import neighbours as module
from t2ibench.eval.neighbours import copied, neighbourhoods


def normal(n: int, d: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def scores(real: torch.Tensor, fake: torch.Tensor, k: int = 5) -> list[float]:
    return [estimate.value.item() for estimate in neighbourhoods(real, fake, k)]


def brute_force(real: torch.Tensor, fake: torch.Tensor, k: int) -> list[float]:
    """Every distance by its differences, every ball by itself."""
    far, real, fake = torch.linalg.vector_norm, real.double(), fake.double()
    real_edges = [far(real - x, dim=1).sort().values[k] for x in real]
    fake_edges = [far(fake - y, dim=1).sort().values[k] for y in fake]
    inside_real = [[far(x - y) <= edge for x, edge in zip(real, real_edges, strict=True)] for y in fake]
    inside_fake = [[far(x - y) <= edge for y, edge in zip(fake, fake_edges, strict=True)] for x in real]
    held = torch.tensor(inside_real).double()
    precision, recall = held.amax(dim=1).mean(), torch.tensor(inside_fake).double().amax(dim=1).mean()
    return [precision.item(), recall.item(), held.sum(dim=1).mean().item() / k, held.amax(dim=0).mean().item()]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_agrees_with_brute_force(k: int) -> None:
    real, fake = normal(40, 6, 0), normal(50, 6, 1, 0.8) + 0.3
    assert scores(real, fake, k) == pytest.approx(brute_force(real, fake, k), abs=1e-12)


def test_far_from_the_origin_distances_lose_nothing() -> None:
    real, fake = normal(60, 6, 2).double(), normal(60, 6, 3).double()
    assert scores(real + 1e5, fake + 1e5) == scores(real, fake)


def test_the_error_of_precision_and_density_is_their_spread_over_draws() -> None:
    real = normal(300, 8, 4)
    drawn = [neighbourhoods(real, normal(100, 8, seed, 1.3)) for seed in range(100, 200)]
    for metric in ("precision", "density"):
        values = torch.stack([getattr(one, metric).value for one in drawn])
        errors = torch.stack([getattr(one, metric).stderr for one in drawn])
        assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.15)
    assert drawn[0].recall.stderr.isnan() and drawn[0].coverage.stderr.isnan()
    assert {int(estimate.n) for estimate in drawn[0]} == {100}


def test_no_image_inside_leaves_a_doubt() -> None:
    found = neighbourhoods(torch.randn(20, 4), torch.randn(30, 4) + 1e3)
    # Wilson's interval of 0 of 30 ends at z^2 / (30 + z^2) = 0.1135.
    assert found.precision.value == 0 and float(found.precision.stderr) == pytest.approx(0.1135 / 1.96, abs=1e-4)
    assert found.density.value == 0 and found.density.stderr.isnan()


def test_coverage_of_the_same_law_is_the_closed_form() -> None:
    n, k = 2000, 5
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (n - i) / (2 * n - i)
    precision, recall, density, coverage = scores(normal(n, 64, 5), normal(n, 64, 6), k)
    assert coverage == pytest.approx(1 - missed, abs=0.02)
    assert density == pytest.approx(1, abs=0.25) and precision == pytest.approx(recall, abs=0.1)


def test_identical_sets_hold_each_other_and_every_edge() -> None:
    # Each ball holds its own centre and all of its k neighbours, the last on the edge, wherever it stands in a block.
    x = normal(700, 12, 7)
    assert scores(x, x) == [1, 1, 1.2, 1]
    assert scores(x, x.flip(0)) == [1, 1, 1.2, 1]


def test_a_copy_of_equal_real_images_is_inside_their_balls_of_no_width() -> None:
    real = torch.cat([normal(1, 5, 8).expand(6, 5), normal(30, 5, 9) + 50])
    precision, _, _, coverage = scores(real, real[:6], k=3)
    assert (precision, coverage) == (1, 6 / 36)


def test_swapped_sets_swap_precision_and_recall_only() -> None:
    wide, tight = normal(400, 8, 10, 2.0), normal(400, 8, 11, 0.3)
    precision, recall, density, _ = scores(wide, tight)
    assert precision > 0.9 and recall < 0.1 and density > 1
    assert scores(tight, wide)[:2] == [recall, precision]


def test_order_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake, held = normal(300, 8, 12), normal(280, 8, 13), normal(150, 8, 14)
    want, found = scores(real, fake), copied(fake, real, held)
    assert scores(real.flip(0), fake.roll(9, 0)) == pytest.approx(want, rel=1e-12)
    monkeypatch.setattr(module, "ROWS_A_BLOCK", 37)
    assert scores(real, fake) == want
    again = copied(fake, real.flip(0), held.flip(0))
    assert again.share == found.share and torch.equal(299 - again.nearest, found.nearest)


def test_damage_costs_precision_and_dropped_modes_recall() -> None:
    centres = normal(8, 16, 15, 6.0)
    real, fake = (centres.repeat(60, 1) + normal(480, 16, seed) for seed in (16, 17))
    noisy = [scores(real, fake + normal(480, 16, 18, scale)) for scale in (0, 0.3, 0.6, 1.5)]
    for metric in (0, 2, 3):
        values = [each[metric] for each in noisy]
        assert values == sorted(values, reverse=True) and values[0] > values[-1]
    dropped = [scores(real, fake[torch.arange(480) % 8 < modes]) for modes in (8, 4, 2, 1)]
    assert dropped[0][1] > dropped[1][1] > dropped[2][1] > dropped[3][1]
    assert dropped[0][3] > dropped[1][3] > dropped[2][3] > dropped[3][3]
    assert dropped[3][0] == pytest.approx(dropped[0][0], abs=0.1)


def test_copies_are_found_and_blurred_images_are_not() -> None:
    train, held = normal(1500, 32, 19), normal(400, 32, 20)
    fakes = {
        "exact": train[100:400], "noisy": train[100:400] + normal(300, 32, 21, 0.2),
        "blurred": normal(300, 32, 22, 0.1), "averaged": train.view(300, 5, 32).mean(dim=1), "new": normal(300, 32, 23),
    }  # fmt: skip
    found = {kind: copied(fake, train, held) for kind, fake in fakes.items()}
    shares = {kind: got.share.value.item() for kind, got in found.items()}
    assert shares["exact"] == shares["noisy"] == 1
    assert max(shares["blurred"], shares["averaged"], shares["new"]) < 0.04
    assert found["exact"].relative.max() == 0
    assert found["noisy"].nearest.tolist() == list(range(100, 400))
    mixed = copied(torch.cat([fakes["exact"][:60], fakes["new"][:240]]), train, held).share.value.item()
    assert mixed == pytest.approx(0.2 + 0.8 * 0.01, abs=0.02)


def test_one_in_a_hundred_new_images_counts_as_copied() -> None:
    drawn = [copied(normal(200, 8, seed), normal(150, 8, seed + 1), normal(120, 8, seed + 2)).share
             for seed in range(0, 600, 3)]  # fmt: skip
    values, errors = (torch.stack(column) for column in zip(*(share[:2] for share in drawn), strict=True))
    assert values.mean().item() == pytest.approx(0.01, abs=0.0025)
    assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.25)
    assert ((values - 0.01).abs() <= 1.96 * errors).double().mean() >= 0.93


def test_copies_of_a_repeated_training_image_are_copies() -> None:
    train = torch.cat([normal(1, 8, 24).expand(60, 8), normal(300, 8, 25)])
    found = copied(train[:5], train, normal(150, 8, 26))
    assert found.share.value == 1 and not found.relative.any()


def test_near_duplicates_of_the_data_set_itself_do_not_count() -> None:
    train = normal(400, 8, 27)
    held = torch.cat([train[:20], normal(180, 8, 28)])
    assert copied(train[:100] + normal(100, 8, 29, 0.1), train, held).share.value == 0


def test_bad_features_are_named() -> None:
    good, broken = torch.rand(120, 3), torch.rand(120, 3)
    broken[2, 1] = torch.nan
    for bad in ((good, broken), (broken, good)):
        with pytest.raises(UserError, match="1 of 120 images give NaN"):
            neighbourhoods(*bad)
    with pytest.raises(UserError, match="1 of 120 images give NaN"):
        copied(good, good, broken)
    with pytest.raises(UserError, match=r"expected shape \[N, 3\], got \[120, 2\]"):
        neighbourhoods(good, torch.rand(120, 2))
    with pytest.raises(UserError, match="more than 5 images on each side, got 120 and 5"):
        neighbourhoods(good, good[:5])
    with pytest.raises(UserError, match="need 99 held-out and 2 training images and a generated one, got 98, 120 and"):
        copied(good, good, good[:98])
