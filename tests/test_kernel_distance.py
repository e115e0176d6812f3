"""KID and CMMD against loops, other libraries, closed forms; their errors against simulated experiments."""

import math

import pytest
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from t2ibench.errors import UserError
from t2ibench.eval import kernel_distance as module
from t2ibench.eval.kernel_distance import cmmd, kernel_distance
from t2ibench.eval.metric import Estimate


def normal(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_kid_agrees_with_torchmetrics_over_all_images() -> None:
    real, fake = normal(60, 24, 0).relu(), normal(60, 24, 1, shift=0.2).relu()
    network = torch.nn.Identity()
    network.num_features = 24
    theirs = KernelInceptionDistance(feature=network, subsets=1, subset_size=60).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert kernel_distance(real, fake).value.item() == pytest.approx(theirs.compute()[0].item(), rel=1e-6)


def test_kid_by_pairs() -> None:
    real, fake = normal(7, 3, 2), normal(5, 3, 3, shift=0.5)

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return (float(x @ y) / 3 + 1) ** 3

    within = [sum(k(x, y) for i, x in enumerate(rows) for j, y in enumerate(rows) if i != j) / len(rows)
              / (len(rows) - 1) for rows in (real, fake)]  # fmt: skip
    across = sum(k(x, y) for x in real for y in fake) / 35
    got = kernel_distance(real, fake)
    assert got.value.item() == pytest.approx(sum(within) - 2 * across, rel=1e-12)
    assert got.n == 5


def test_cmmd_is_the_official_arithmetic() -> None:
    real, fake = normal(30, 16, 4, shift=0.3), normal(20, 16, 5)
    x, y = (rows / rows.norm(dim=1, keepdim=True) for rows in (real, fake))

    def mean_kernel(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch.exp(-(a[:, None] - b).square().sum(dim=2) / (2 * 10**2)).mean()

    want = 1000 * (mean_kernel(x, x) + mean_kernel(y, y) - 2 * mean_kernel(x, y))
    assert cmmd(x, y).value.item() == pytest.approx(want.item(), rel=1e-9)
    assert cmmd(3 * x, y).value.item() == pytest.approx(want.item(), rel=1e-9)


def test_kid_of_shifted_normals_is_the_closed_form() -> None:
    # In one dimension E k = E (x y + 1)^3 is a sum over the moments of x and y up to the third.
    shift = 0.4
    moments = {"real": (1, 0, 1, 0), "fake": (1, shift, 1 + shift**2, 3 * shift + shift**3)}

    def mean_kernel(a: str, b: str) -> float:
        return sum(math.comb(3, p) * moments[a][p] * moments[b][p] for p in range(4))

    truth = mean_kernel("real", "real") + mean_kernel("fake", "fake") - 2 * mean_kernel("real", "fake")
    got = kernel_distance(normal(3000, 1, 6), normal(3000, 1, 7, shift=shift))
    assert abs(got.value.item() - truth) < 2.5 * got.stderr.item() < 0.6 * truth


EXPERIMENTS = 250
SIDES = {"equal laws": (150, 70, 1.0, 0.0), "near": (150, 120, 1.0, 0.08), "far": (120, 120, 1.1, 0.3)}


@pytest.mark.parametrize("sides", SIDES)
def test_the_interval_holds_the_truth_in_19_of_20_experiments(sides: str) -> None:
    m, n, scale, shift = SIDES[sides]
    got = [kernel_distance(normal(m, 48, 2 * seed), normal(n, 48, 2 * seed + 1, scale, shift))
           for seed in range(EXPERIMENTS)]  # fmt: skip
    values = torch.stack([estimate.value for estimate in got])
    errors = torch.stack([estimate.stderr for estimate in got])
    truth = 0.0 if sides.startswith("equal") else values.mean().item()
    assert values.mean().item() == pytest.approx(truth, abs=4 * values.std().item() / EXPERIMENTS**0.5)
    assert errors.square().mean().sqrt().item() == pytest.approx(values.std().item(), rel=0.15)
    held = ((values - truth).abs() <= 1.96 * errors).double().mean().item()
    assert 0.92 <= held <= 0.99


def test_the_error_of_cmmd_is_its_spread() -> None:
    got = [cmmd(normal(80, 16, 2 * seed), normal(60, 16, 2 * seed + 1, shift=0.1)) for seed in range(200)]
    values = torch.stack([estimate.value for estimate in got])
    errors = torch.stack([estimate.stderr for estimate in got])
    assert errors.mean().item() == pytest.approx(values.std().item(), rel=0.15)


def test_identical_sets() -> None:
    # KID leaves out each image with itself on each side but not across, so a set is nearer to itself than to another.
    x = normal(50, 32, 8)
    kernel = (x @ x.T / 32 + 1) ** 3
    others = (kernel.sum() - kernel.trace()) / (50 * 49)
    assert cmmd(x, x).value.item() == pytest.approx(0, abs=1e-12)
    assert kernel_distance(x, x).value.item() == pytest.approx((others - kernel.trace() / 50).item() * 2 / 50, rel=1e-9)


@pytest.mark.parametrize("metric", [kernel_distance, cmmd])
def test_neither_direction_nor_order_nor_blocks_matter(metric, monkeypatch: pytest.MonkeyPatch) -> None:
    real, fake = normal(130, 16, 9), normal(110, 16, 10, shift=0.2)
    want = metric(real, fake)

    def same(got: Estimate) -> bool:
        return all(torch.isclose(*pair, rtol=1e-9) for pair in zip(got[:2], want[:2], strict=True))

    assert same(metric(fake, real)) and same(metric(real.flip(0), fake.roll(7, 0)))
    monkeypatch.setattr(module, "ROWS_A_BLOCK", 37)
    assert same(metric(real, fake))


@pytest.mark.parametrize("metric", [kernel_distance, cmmd])
def test_damage_and_dropped_modes_cost_more_and_more(metric) -> None:
    centres = 2 * normal(8, 16, 11)
    real, fake = (centres.repeat(40, 1) + normal(320, 16, seed, 0.3) for seed in (12, 13))
    noisy = [metric(real, fake + scale * normal(320, 16, 14)).value.item() for scale in (0, 1, 2, 4)]
    dropped = [metric(real, fake[torch.arange(320) % 8 < modes]).value.item() for modes in (8, 4, 2, 1)]
    assert noisy == sorted(noisy) and dropped == sorted(dropped)


@pytest.mark.parametrize(("metric", "name"), [(kernel_distance, "KID"), (cmmd, "CMMD")])
def test_bad_features_are_named(metric, name: str) -> None:
    good, broken = torch.rand(6, 3), torch.rand(6, 3)
    broken[2, 1] = torch.nan
    with pytest.raises(UserError, match=f"{name}, generated images: 1 of 6 images give NaN"):
        metric(good, broken)
    with pytest.raises(UserError, match=r"expected shape \[N, 3\], got \[6, 2\]"):
        metric(good, torch.rand(6, 2))
    with pytest.raises(UserError, match=f"{name} needs at least 4 images on each side, got 6 and 3"):
        metric(good, good[:3])
