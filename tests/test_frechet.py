"""The Fréchet distance against closed forms, other formulas, other libraries, and its own invariances."""

import copy

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.fid import FrechetInceptionDistance

from t2ibench.errors import UserError
from t2ibench.eval.frechet import (
    FID,
    IMAGES_A_FEATURE,
    FeatureMoments,
    fid_infinity,
    frechet_distance,
    frechet_distance_of_features,
)


def normal(n, d, seed, scale=1.0, shift=0.0):
    """Features with the spread of a real network's: a decaying spectrum, mixed, in float64."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = scale / torch.arange(1, d + 1, dtype=torch.float64).sqrt()
    mix = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) * spectrum) @ mix + shift


def moments_of(mean, covariance, n=1000):
    """Moments whose mean and covariance are exactly these."""
    mean, covariance = torch.as_tensor(mean), torch.as_tensor(covariance)
    return FeatureMoments(n=n, total=n * mean, outer=(n - 1) * covariance + n * torch.outer(mean, mean))


def distance(a, b):
    return frechet_distance(FeatureMoments.from_features(a), FeatureMoments.from_features(b))


def orthogonal(d, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64)).Q


@pytest.mark.parametrize("n", [20, 500])
def test_a_set_is_at_distance_zero_from_itself(n):
    x = normal(n, 48, seed=0)
    assert distance(x, x) == pytest.approx(0, abs=1e-9)


def test_moments_are_numpys():
    x = normal(100, 7, seed=1, shift=1000.0)
    moments = FeatureMoments.from_features(x)
    np.testing.assert_allclose(moments.mean, x.numpy().mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(moments.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-6, atol=1e-9)
    assert torch.equal(moments.covariance, moments.covariance.T)


def test_commuting_covariances_follow_the_closed_form():
    rotation = orthogonal(16, seed=2)
    a, b = torch.rand(2, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64) + 0.1
    mean = torch.zeros(16, dtype=torch.float64)
    got = frechet_distance(
        moments_of(mean, rotation @ a.diag() @ rotation.T), moments_of(mean, rotation @ b.diag() @ rotation.T)
    )
    assert got == pytest.approx(((a.sqrt() - b.sqrt()) ** 2).sum().item(), rel=1e-9)


def test_a_shift_costs_its_squared_length():
    x = normal(200, 12, seed=4)
    shift = torch.linspace(-1, 2, 12, dtype=torch.float64)
    assert distance(x, x + shift) == pytest.approx(shift.square().sum().item(), rel=1e-9)


@pytest.mark.parametrize("c", [0.25, 3.0])
def test_a_scaled_covariance_costs_its_share_of_the_trace(c):
    x = normal(300, 12, seed=5)
    x = x - x.mean(dim=0)
    trace = FeatureMoments.from_features(x).covariance.trace().item()
    assert distance(x, c**0.5 * x) == pytest.approx((1 - c**0.5) ** 2 * trace, rel=1e-9)


@pytest.mark.parametrize("d", [1, 8, 64])
def test_agrees_with_the_matrix_square_root(d):
    a, b = normal(400, d, seed=6), normal(300, d, seed=7, scale=1.5, shift=0.2)
    first, second = (np.cov(x.numpy(), rowvar=False).reshape(d, d) for x in (a, b))
    root = scipy.linalg.sqrtm(first @ second)
    shift = (a.mean(dim=0) - b.mean(dim=0)).square().sum().item()
    assert distance(a, b) == pytest.approx(shift + np.trace(first + second - 2 * root.real), rel=1e-6)


def by_singular_values(a, b):
    """The distance from both centred sets of features, whose product is small where they are few."""
    centred_a, centred_b = a - a.mean(dim=0), b - b.mean(dim=0)
    overlap = torch.linalg.svdvals(centred_a @ centred_b.T).sum() / ((len(a) - 1) * (len(b) - 1)) ** 0.5
    traces = centred_a.square().sum() / (len(a) - 1) + centred_b.square().sum() / (len(b) - 1)
    return ((a.mean(dim=0) - b.mean(dim=0)).square().sum() + traces - 2 * overlap).item()


SIDES = [(20, 30), (20, 500), (500, 20), (99, 101), (100, 100), (101, 101), (102, 400), (400, 300), (2, 2)]


@pytest.mark.parametrize(("n_a", "n_b"), SIDES)
def test_of_features_agrees_with_singular_values_and_with_moments(n_a, n_b):
    a, b = normal(n_a, 100, seed=21).relu(), normal(n_b, 100, seed=22, scale=1.2, shift=0.1).relu()
    moments = FeatureMoments.from_features(a)
    got = frechet_distance_of_features(moments, b)
    assert got == pytest.approx(by_singular_values(a, b), rel=1e-9)
    assert got == pytest.approx(distance(a, b), rel=1e-9)
    assert frechet_distance_of_features(moments, a) == pytest.approx(0, abs=1e-9)


def test_of_features_takes_what_a_judge_gives():
    real, fake = normal(400, 24, seed=23).float(), normal(60, 24, seed=24).float()
    moments = FeatureMoments.from_features(real)
    assert frechet_distance_of_features(moments, fake) == pytest.approx(distance(real, fake), rel=1e-9)
    fake[3, 1] = torch.nan
    with pytest.raises(UserError, match="FID: 1 of 60 images give NaN"):
        frechet_distance_of_features(moments, fake)
    with pytest.raises(UserError, match="24 features cannot be compared with 7"):
        frechet_distance_of_features(moments, torch.rand(9, 7))
    with pytest.raises(UserError, match="at least 2 images on each side, got 400 and 1"):
        frechet_distance_of_features(moments, fake[:1])


@pytest.mark.parametrize("n_b", [30, 300])
def test_features_that_are_dead_or_repeated_cost_no_digits(n_b):
    # No triangular factor exists of such a covariance, and the roots of the eigenvalues' rounding noise would add up.
    a, b = normal(300, 40, seed=25), normal(n_b, 40, seed=26, scale=1.1)
    dead, twice = torch.zeros(1, 30, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    wide_a, wide_b = (torch.cat([x, dead.expand(len(x), 30)], dim=1) for x in (a, b))
    assert frechet_distance_of_features(FeatureMoments.from_features(wide_a), wide_b) == pytest.approx(
        by_singular_values(a, b), rel=1e-7)
    wide_a, wide_b = (torch.kron(x, twice) for x in (a, b))
    assert frechet_distance_of_features(FeatureMoments.from_features(wide_a), wide_b) == pytest.approx(
        2 * by_singular_values(a, b), rel=1e-6)


def test_where_rounding_could_show_the_singular_values_themselves_are_taken(monkeypatch):
    # Of a spectrum over 7 decades the squares run over 14, and the least roots are all rounding.
    rotation = orthogonal(40, seed=27)
    spectrum = torch.logspace(0, -7, 40, dtype=torch.float64)
    a, b = (normal(400, 40, seed=seed) @ rotation * spectrum for seed in (28, 29))
    want = by_singular_values(a, b)
    assert distance(a, b) == pytest.approx(want, rel=1e-10)
    took = []
    monkeypatch.setattr(torch.linalg, "svdvals", lambda matrix: took.append(1) or torch.linalg.svd(matrix).S)
    assert distance(a, b) == pytest.approx(want, rel=1e-10) and took
    distance(normal(400, 40, seed=28), normal(400, 40, seed=29))
    assert len(took) == 1


def test_the_factor_from_few_features_is_as_good_as_one_from_their_covariance():
    few, rows = FeatureMoments.from_features(normal(30, 50, seed=31)), normal(20, 50, seed=32)
    bare = FeatureMoments(n=few.n, total=few.total, outer=few.outer)
    other = FeatureMoments.from_features(rows)
    assert frechet_distance_of_features(few, rows) == pytest.approx(frechet_distance_of_features(bare, rows), rel=1e-10)
    assert frechet_distance(few, other) == pytest.approx(frechet_distance(bare, other), rel=1e-10)
    torch.testing.assert_close(bare.factor @ bare.factor.T, few.factor @ few.factor.T, rtol=1e-8, atol=1e-12)


def test_the_factor_is_a_root_of_the_covariance_and_made_once():
    for n in (30, 400):
        moments = FeatureMoments.from_features(normal(n, 50, seed=30))
        torch.testing.assert_close(moments.factor @ moments.factor.T, moments.covariance, rtol=1e-10, atol=1e-14)
        assert moments.factor is moments.factor and moments.factor.shape[1] == min(50, n) >= moments.rank
        assert moments.trace == pytest.approx(moments.covariance.trace().item(), rel=1e-12)


def scaled_sets(n, d=24, seed=31):
    """A reference of known moments, features [n, d] of another law, and the distance of the laws."""
    spread = 1 / torch.arange(1, d + 1, dtype=torch.float64).sqrt()
    real = moments_of(torch.zeros(d, dtype=torch.float64), (spread**2).diag(), n=10**6)
    noise = torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    truth = 0.2**2 * (spread**2).sum() + d * 0.05**2
    return real, 1.2 * noise * spread + 0.05, truth.item()


@pytest.mark.parametrize("n", [100, 400])
def test_the_bias_of_every_number_of_images_is_taken_off(n):
    errors = []
    for seed in range(40):
        real, fake, truth = scaled_sets(n, seed=seed)
        both = frechet_distance_of_features(real, fake), fid_infinity(real, fake, seed=0).value.item()
        errors.append([value - truth for value in both])
    plain, extrapolated = torch.tensor(errors).mean(dim=0).tolist()
    assert abs(extrapolated) < 0.3 * plain


def test_the_intercept_is_that_of_a_line_through_the_distances():
    real, fake, _ = scaled_sets(600)
    order = np.random.default_rng(5).permutation(600)
    sizes = [round(60 + 540 * step / 14) for step in range(15)]
    distances = [frechet_distance_of_features(real, fake[order[:n]]) for n in sizes]
    want = np.polyfit([1 / n for n in sizes], distances, 1)[1]
    got = fid_infinity(real, fake, seed=5)
    assert got.value.item() == pytest.approx(want, rel=1e-9)
    assert got.n == 600 and got.stderr.isnan() and got.value.dtype == torch.float64
    assert fid_infinity(real, fake, seed=6).value.item() != pytest.approx(want, rel=1e-9)


def test_too_few_images_are_not_extrapolated():
    real, fake, _ = scaled_sets(IMAGES_A_FEATURE * 24)
    fid_infinity(real, fake, seed=0)
    with pytest.raises(UserError, match=f"needs {IMAGES_A_FEATURE} images for each of 24 features, 96 in all, got 95"):
        fid_infinity(real, fake[1:], seed=0)
    fake[7] = torch.inf
    with pytest.raises(UserError, match="FID extrapolated: 1 of 96 images give NaN"):
        fid_infinity(real, fake, seed=0)


def test_noise_and_dropped_modes_cost_more_and_more():
    centres = normal(8, 16, seed=32, scale=3.0)
    real, fake = (centres.repeat(30, 1) + normal(240, 16, seed=seed) for seed in (33, 34))
    reference = FeatureMoments.from_features(real)
    noisy = [fake + scale * torch.randn(240, 16, dtype=torch.float64) for scale in (0, 0.5, 1, 2)]
    dropped = [fake[torch.arange(240) % 8 < modes] for modes in (8, 4, 2, 1)]
    for damaged in (noisy, dropped):
        distances = [frechet_distance_of_features(reference, x) for x in damaged]
        assert distances == sorted(distances) and distances[0] < distances[-1]


def test_constant_features_leave_the_distance_of_the_means():
    assert distance(torch.zeros(5, 3), torch.full((4, 3), 2.0)) == pytest.approx(12)


def test_rotation_order_and_direction_do_not_matter():
    a, b = normal(150, 20, seed=10), normal(120, 20, seed=11, shift=0.3)
    rotation = orthogonal(20, seed=12)
    want = distance(a, b)
    assert distance(a @ rotation, b @ rotation) == pytest.approx(want, rel=1e-9)
    assert distance(a.flip(0), b.roll(7, 0)) == pytest.approx(want, rel=1e-9)
    assert distance(b, a) == pytest.approx(want, rel=1e-9)


def test_the_metric_agrees_with_torchmetrics():
    reference = torch.nn.Identity()
    reference.num_features = 24
    theirs = FrechetInceptionDistance(feature=reference).set_dtype(torch.float64)
    ours = FID(24)
    for real, seed in ((True, 13), (False, 14)):
        for batch in normal(400, 24, seed).split(64):
            theirs.update(batch, real=real)
            ours.update(batch, real=real)
    assert ours.compute().dtype == torch.float64
    assert ours.compute().item() == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_streaming_and_merged_shards_give_what_one_batch_gives():
    a, b = normal(90, 10, seed=15), normal(70, 10, seed=16)
    streamed = FID(10)
    for real, x in ((True, a), (False, b)):
        for batch in x.split(13):
            streamed.update(batch, real=real)
    assert streamed.compute().item() == pytest.approx(distance(a, b), rel=1e-9)

    whole = FeatureMoments.from_features(a)
    merged = FeatureMoments.from_features(a[:40]) + FeatureMoments.from_features(a[40:])
    assert merged.n == whole.n
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-14)

    other = FID(10)
    other.update(a[50:], real=True)
    shard = FID(10)
    shard.update(a[:50], real=True)
    shard.update(b, real=False)
    shard.merge_state(other)
    assert shard.compute().item() == pytest.approx(distance(a, b), rel=1e-9)


def test_moments_stand_for_the_images():
    a, b = normal(60, 6, seed=17), normal(50, 6, seed=18)
    metric = FID(6)
    metric.include(FeatureMoments.from_features(a), real=True)
    metric.update(b, real=False)
    assert metric.compute().item() == distance(a, b)
    with pytest.raises(UserError, match="expected 7 features, got 6"):
        FID(7).include(FeatureMoments.from_features(a), real=True)


@pytest.mark.parametrize("degrade", [
    lambda metric: metric.to(torch.float32),
    lambda metric: metric.set_dtype(torch.float32),
    lambda metric: metric.half(),
    lambda metric: torch.nn.ModuleList([metric]).to(torch.bfloat16)[0],
])
def test_the_sums_stay_in_float64(degrade):
    a, b = normal(60, 6, seed=19), normal(50, 6, seed=20)
    metric = FID(6)
    metric.update(a, real=True)
    metric = degrade(metric)
    metric.update(b, real=False)
    assert {metric.real_outer.dtype, metric.fake_total.dtype} == {torch.float64}
    assert metric.compute().item() == distance(a, b)
    metric.reset()
    assert metric.real_outer.dtype == torch.float64


def test_reset_and_copies_are_clean():
    metric = FID(3)
    metric.update(torch.rand(5, 3), real=True)
    copied = copy.deepcopy(metric)
    metric.reset()
    assert int(metric.real_n) == 0 and not metric.real_outer.any()
    assert int(copied.real_n) == 5


def test_bad_features_are_named():
    metric = FID(3)
    broken = torch.ones(4, 3)
    broken[1, 2] = torch.nan
    broken[3, 0] = torch.inf
    with pytest.raises(UserError, match="2 of 4 images give NaN or infinity"):
        metric.update(broken, real=False)
    with pytest.raises(UserError, match=r"expected shape \[N, 3\], got \[4, 2\]"):
        metric.update(torch.ones(4, 2), real=False)
    metric.update(torch.rand(1, 3), real=True)
    metric.update(torch.rand(9, 3), real=False)
    with pytest.raises(UserError, match="at least 2 images on each side, got 1 and 9"):
        metric.compute()
    with pytest.raises(UserError, match="2 features cannot be compared with 3"):
        distance(torch.rand(4, 2), torch.rand(4, 3))
