"""Uncertainty: intervals hold the truth as often as they say, and tests are wrong as seldom as they say."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

from t2ibench.eval.kernel_distance import kernel_distance
from t2ibench.reports import uncertainty as u

EXPERIMENTS = 1000
NOMINAL = 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / EXPERIMENTS)
"""The most false claims in 1,000 experiments that a test of 5 % makes, but in one of 200 suites."""

Floats = NDArray[np.float64]
Interval = tuple[Floats, Floats]


def of(found: u.Estimated) -> Interval:
    return found.low, found.high


# --- intervals: 95 % of 1,000 simulated experiments


def seeds(rng: np.random.Generator) -> tuple[Interval, float]:
    return of(u.mean_over_seeds(rng.normal(7, 2, (EXPERIMENTS, 5)))), 7


def seeds_of_two(rng: np.random.Generator) -> tuple[Interval, float]:
    a, b = rng.normal(7, 2, (EXPERIMENTS, 5)), rng.normal(4, 1, (EXPERIMENTS, 6))
    return of(u.difference_over_seeds(a, b)), 3


SIZES = np.random.default_rng(9).integers(1, 6, 150)
CLUSTERS = [f"image-{number:03d}" for number, size in enumerate(SIZES) for _ in range(size)]


def clustered(rng: np.random.Generator, spread: float = 1.0) -> Floats:
    """Return [1000, N] values with mean 0: skewed per image, shared by its captions, and noise of each caption."""
    shared = spread * (rng.gamma(2, 1, (EXPERIMENTS, len(SIZES))) - 2)
    return np.repeat(shared, SIZES, axis=1) + rng.normal(0, 1, (EXPERIMENTS, len(CLUSTERS)))


def captions(rng: np.random.Generator) -> tuple[Interval, float]:
    return of(u.clustered_mean(40 + clustered(rng), CLUSTERS)), 40


def paired_captions(rng: np.random.Generator) -> tuple[Interval, float]:
    a = clustered(rng, 3)
    b = a + 0.3 + clustered(rng, 0.5)  # one caption is as hard for both: the difference varies less than either
    return of(u.clustered_mean(a - b, CLUSTERS)), -0.3


def paired_answers(rng: np.random.Generator) -> tuple[Interval, float]:
    a, b = (rng.random((EXPERIMENTS, 300)) < rate for rate in (0.3, 0.2))
    return of(u.clustered_mean(a * 1.0 - b, [str(number) for number in range(300)])), 0.1


def rates(rng: np.random.Generator) -> tuple[Interval, Floats]:
    truth = rng.uniform(0.01, 0.99, EXPERIMENTS)
    return u.wilson_interval(rng.binomial(60, truth), 60), truth


def kernel_distances(rng: np.random.Generator) -> tuple[Interval, float]:
    """Draw both sets of images from finite worlds, whose distance is a sum over all pairs."""
    worlds = rng.normal(size=(400, 16)), rng.normal(0.5, 1.1, (400, 16))

    def mean(a: Floats, b: Floats) -> float:
        return float(((a @ b.T / 16 + 1) ** 3).mean())

    truth = mean(worlds[0], worlds[0]) + mean(worlds[1], worlds[1]) - 2 * mean(*worlds)
    found = []
    for _ in range(EXPERIMENTS):
        drawn = (world[rng.integers(0, 400, size)] for world, size in zip(worlds, (150, 120), strict=True))
        found.append(kernel_distance(*map(torch.from_numpy, drawn)))
    value, stderr = (np.array([float(each[part]) for each in found]) for part in (0, 1))
    half = stats.norm.ppf(0.975) * stderr
    return (value - half, value + half), truth


@pytest.mark.parametrize("simulate", [
    seeds, seeds_of_two, captions, paired_captions, paired_answers, rates, kernel_distances,
])  # fmt: skip
def test_intervals_hold_the_truth_in_95_of_100_experiments(
    simulate: Callable[[np.random.Generator], tuple[Interval, float | Floats]],
) -> None:
    (low, high), truth = simulate(np.random.default_rng(1))
    assert low.shape == (EXPERIMENTS,)
    held = float(((low <= truth) & (truth <= high)).mean())
    assert 0.93 <= held <= 0.97, held


def test_captions_of_one_image_are_not_independent() -> None:
    """The interval that takes each caption for itself holds the truth far less often than it says."""
    values = 40 + clustered(np.random.default_rng(1))
    low, high = of(u.clustered_mean(values, [str(number) for number in range(len(CLUSTERS))]))
    assert float(((low <= 40) & (high >= 40)).mean()) < 0.85


def test_clusters_of_one_item_give_the_plain_t_interval() -> None:
    values = np.random.default_rng(0).normal(size=12)
    plain, found = u.mean_over_seeds(values), u.clustered_mean(values, [str(number) for number in range(12)])
    assert np.array(found) == pytest.approx(np.array(plain), rel=1e-12)
    interval = stats.ttest_1samp(values, 0).confidence_interval()
    assert tuple(map(float, of(plain))) == pytest.approx((interval.low, interval.high), rel=1e-12)


def test_the_order_of_items_and_the_names_of_clusters_change_nothing() -> None:
    rng = np.random.default_rng(0)
    values, names = rng.normal(size=len(CLUSTERS)), np.array(CLUSTERS)
    order = rng.permutation(len(values))
    mixed = u.clustered_mean(values[order], ["x" + name for name in names[order]])
    assert np.array(mixed) == pytest.approx(np.array(u.clustered_mean(values, CLUSTERS)), rel=1e-10)
    sums = [values[names == name].sum() for name in sorted(set(CLUSTERS))]
    assert u.cluster_sums(values, CLUSTERS) == pytest.approx(np.array(sums), rel=1e-12)


def test_items_said_ten_times_over_add_no_certainty() -> None:
    values = np.random.default_rng(0).normal(size=30)
    names = [str(number) for number in range(30)]
    repeated = u.clustered_mean(np.repeat(values, 10), np.repeat(names, 10).tolist())
    assert np.array(repeated) == pytest.approx(np.array(u.clustered_mean(values, names)), rel=1e-10)


def test_welch_and_wilson_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=4), rng.normal(2, 3, 7)
    found, expected = u.difference_over_seeds(a, b), stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval()
    assert tuple(map(float, of(found))) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert float(found.dof) == pytest.approx(expected.df, rel=1e-12)
    for successes in (0, 3, 20):
        wilson = stats.binomtest(successes, 20).proportion_ci(method="wilson")
        found_rate = tuple(map(float, u.wilson_interval(successes, 20)))
        assert found_rate == pytest.approx((wilson.low, wilson.high), abs=1e-12)


def test_equal_values_give_a_point() -> None:
    assert of(u.difference_over_seeds(np.full(4, 2.0), np.full(4, 1.5))) == (0.5, 0.5)


# --- tests: seldom wrong where there is nothing, mostly right where there is something


def share_claimed(p: Floats) -> float:
    return float((p <= 0.05).mean())


def skewed(rng: np.random.Generator, *shape: int) -> Floats:
    """Return training runs of which some collapse: bimodal, as no t-test would have it."""
    return rng.normal(0, 0.1, shape) + 3.0 * (rng.random(shape) < 0.3)


@pytest.mark.parametrize("count", [4, 5, 10])
def test_seeds_of_one_method_seldom_differ(count: int) -> None:
    rng = np.random.default_rng(2)
    assert share_claimed(u.seeds_p(skewed(rng, EXPERIMENTS, count), skewed(rng, EXPERIMENTS, count))) <= NOMINAL


def test_seeds_of_different_methods_mostly_do() -> None:
    rng = np.random.default_rng(2)
    p = u.seeds_p(rng.normal(0, 1, (EXPERIMENTS, 5)), rng.normal(3, 1, (EXPERIMENTS, 5)))
    assert share_claimed(p) > 0.95


@pytest.mark.parametrize("images", [10, 60])
def test_captions_of_equal_networks_seldom_differ(images: int) -> None:
    """Over all signs (10) and over random ones (60), of differences that have a shared part an image."""
    sizes = SIZES[:images]
    rng = np.random.default_rng(3)
    values = np.repeat(rng.laplace(size=(EXPERIMENTS, images)), sizes, axis=1)
    values += rng.normal(size=values.shape)
    names = np.repeat([f"{number:03d}" for number in range(images)], sizes).tolist()
    assert share_claimed(u.sign_flip_p(u.cluster_sums(values, names))) <= NOMINAL
    assert share_claimed(u.sign_flip_p(u.cluster_sums(values + 2, names))) > 0.8


def test_answers_of_equal_networks_seldom_differ() -> None:
    rng = np.random.default_rng(4)
    only_a, only_b, much = (rng.binomial(100, rate, EXPERIMENTS) for rate in (0.2, 0.2, 0.5))
    assert share_claimed(u.mcnemar_p(only_a, only_b)) <= NOMINAL
    assert share_claimed(u.mcnemar_p(only_a, much)) > 0.9


def test_many_scores_of_equal_methods_seldom_give_one_that_differs() -> None:
    """Among eight scores that rise and fall together, one of which truly differs, no other is said to."""
    rng = np.random.default_rng(5)
    experiments = 400
    a, b = (rng.normal(size=(experiments, 1, 4)) + 1.5 * rng.normal(size=(experiments, 8, 4)) for _ in range(2))
    b[:, 0] += 30
    p = np.array([u.joint_seeds_p(one, other) for one, other in zip(a, b, strict=True)])
    assert (p[:, 0] <= 0.05).all(), "four seeds suffice, whatever the number of scores"
    allowed = 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / experiments)
    assert share_claimed(p[:, 1:].min(axis=1)) <= allowed
    plain = u.seeds_p(a[:, 1:], b[:, 1:]).min(axis=1)
    assert share_claimed(plain) > 1.5 * allowed, "unadjusted, it happens often"


def test_one_score_needs_no_adjustment() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(1, 4)), rng.normal(1, 1, (1, 5))
    assert u.joint_seeds_p(a, b) == pytest.approx(u.seeds_p(a, b), rel=1e-12)


def test_groups_of_equal_methods_seldom_part() -> None:
    rng = np.random.default_rng(6)
    parted = [u.groups(list(skewed(rng, 4, 5)), higher_is_better=True) != ["a"] * 4 for _ in range(400)]
    assert np.mean(parted) <= 0.05 + 2.6 * math.sqrt(0.05 * 0.95 / 400)


# --- what the tests are, in closed form


@pytest.mark.parametrize(("n", "m", "least"), [
    (2, 2, 1 / 3), (3, 3, 0.1), (4, 4, 2 / 70), (5, 5, 2 / 252), (3, 4, 1 / 35),
])  # fmt: skip
def test_the_smallest_p_of_so_many_seeds(n: int, m: int, least: float) -> None:
    rng = np.random.default_rng(0)
    apart = u.seeds_p(rng.normal(size=n), 100 + rng.normal(size=m))
    assert float(apart) == pytest.approx(least, rel=1e-12)
    assert u.least_seeds_p(n, m) == pytest.approx(least, rel=1e-12)


def test_the_exact_tests_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=5), rng.normal(1, 1, 4)
    expected = stats.permutation_test((a, b), lambda x, y: abs(x.mean() - y.mean()), alternative="greater")
    assert float(u.seeds_p(a, b)) == pytest.approx(expected.pvalue, rel=1e-12)
    flips = stats.permutation_test((a,), lambda x: abs(x.sum()), permutation_type="samples", alternative="greater")
    assert float(u.sign_flip_p(a)) == pytest.approx(flips.pvalue, rel=1e-12)


def test_random_signs_and_splits_come_near_the_exact_p(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(1, 1, 6)
    exact = float(u.seeds_p(a, b)), float(u.sign_flip_p(b))
    monkeypatch.setattr(u, "DRAWS", 60)
    monkeypatch.setattr(u, "_splits", u._splits.__wrapped__)
    assert (float(u.seeds_p(a, b)), float(u.sign_flip_p(b))) == pytest.approx(exact, abs=0.13)
    assert (float(u.seeds_p(a, b + 99)), float(u.sign_flip_p(b + 99))) == pytest.approx((1 / 60, 1 / 60), abs=0.02)
    assert float(u.sign_flip_p(b + 99)) > 0 and u.sign_flip_p(b, seed=1) == u.sign_flip_p(b, seed=1)


def test_no_difference_at_all_is_no_evidence() -> None:
    assert float(u.sign_flip_p(np.zeros(5))) == float(u.sign_flip_p(np.zeros(500))) == 1
    assert float(u.seeds_p(np.ones(4), np.ones(4))) == u.mcnemar_p(0, 0) == 1
    assert u.joint_seeds_p(np.ones((2, 4)), np.ones((2, 4))).tolist() == [1, 1]


def test_rounding_breaks_no_tie() -> None:
    """0.1 + 0.2 is not 0.3 in floats; splits that are equal on paper count as equal."""
    a, b = np.array([0.1, 0.2, 0.3, 0.6]), np.array([0.3, 0.3, 0.2, 0.4])
    assert float(u.seeds_p(a, b)) == float(u.seeds_p(np.round(10 * a), np.round(10 * b))) == 1
    assert float(u.joint_seeds_p(a[None], b[None])[0]) == 1


def test_holm_by_hand() -> None:
    assert u.holm([0.04, 0.01, 0.03, 0.5]) == pytest.approx([0.09, 0.04, 0.09, 0.5])
    assert u.holm([0.9, 0.8]).tolist() == [1, 1]
    assert u.holm([]).shape == (0,)


def test_mcnemar_by_hand() -> None:
    assert u.mcnemar_p(1, 9) == pytest.approx(2 * (1 + 10) / 2**10)


@pytest.mark.parametrize(("tests", "seeds_each"), [(1, 4), (3, 5), (6, 5), (7, 6), (21, 6), (22, 6), (24, 7)])
def test_more_tests_need_more_seeds(tests: int, seeds_each: int) -> None:
    assert u.seeds_needed(tests) == seeds_each
    assert u.least_seeds_p(seeds_each, seeds_each) * tests <= 0.05


def test_the_detectable_effect_is_detected_in_80_of_100_experiments() -> None:
    rng = np.random.default_rng(7)
    effect = u.detectable(stderr=math.sqrt(2 / 5), dof=8)
    a, b = rng.normal(size=(EXPERIMENTS, 5)), rng.normal(effect, 1, (EXPERIMENTS, 5))
    assert 0.76 <= share_claimed(np.asarray(stats.ttest_ind(a, b, axis=1).pvalue)) <= 0.84
    assert u.detectable(stderr=1, dof=10_000) == pytest.approx(stats.norm.ppf(0.975) + stats.norm.ppf(0.8), abs=1e-3)
    assert u.detectable(stderr=0, dof=3) == 0


# --- groups


def test_groups_share_a_letter_where_they_cannot_be_told_apart() -> None:
    methods = [np.arange(5.0) + shift for shift in (100, 0, 3, 6)]
    assert u.groups(methods, higher_is_better=True) == ["a", "c", "bc", "b"]
    assert u.groups(methods, higher_is_better=False) == ["c", "a", "ab", "b"]


@pytest.mark.parametrize(("methods", "count", "claimed"), [
    (2, 3, False), (2, 4, True), (3, 4, False), (4, 5, True), (5, 5, False), (7, 6, True), (1, 9, False), (0, 0, False),
])  # fmt: skip
def test_groups_need_seeds_enough_for_all_pairs(methods: int, count: int, claimed: bool) -> None:
    values = [np.random.default_rng(number).normal(100 * number, 1, count) for number in range(methods)]
    found = u.groups(values, higher_is_better=False)
    assert found == (list("abcdefg"[:methods]) if claimed else None)


def test_letters_are_the_largest_sets_of_rows_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    for size in [*range(1, 8)] * 20:
        alike = np.triu(rng.random((size, size)) < 0.6, 1)
        alike = alike | alike.T | np.eye(size, dtype=bool)
        found = u.letters(alike, rng.permutation(size).tolist())
        for i, j in itertools.product(range(size), repeat=2):
            assert bool(set(found[i]) & set(found[j])) == alike[i, j]
        sets = [{row for row in range(size) if mark in found[row]} for mark in set("".join(found))]
        assert not any(one < other for one, other in itertools.product(sets, repeat=2))
