"""How sure a number is: intervals, exact tests, and what may be claimed after several of them.

Pure arithmetic on float64 arrays. Values stand on the last axis; leading axes are independent experiments, all
computed at once. There is no bootstrap of images here: it doubles the bias of FID and excludes its own estimate.
"""

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats

LEVEL = 0.95
"""Share of experiments whose interval holds the truth."""
Z = float(stats.norm.ppf((1 + LEVEL) / 2))
"""Standard errors that half of such an interval spans, where the law is normal."""
ALPHA = 0.05
"""Two-sided error below which a difference is claimed."""
POWER = 0.8
CLAIM_SEEDS = 4
"""With fewer, an exact two-sided permutation test of two methods cannot reach p < 0.05 (3 v 3: 0.10)."""
DRAWS = 10_000
"""Arrangements of a permutation test: all of them where there are no more, else as many drawn at random."""

_BLOCK = 1000
_TIE = 1e-12
"""Relative to the values: statistics nearer than this are equal, for they differ by rounding alone."""

Floats = NDArray[np.float64]


class Estimated(NamedTuple):
    """A mean or a difference of means, with its 95 % interval; arrays over the leading axes."""

    value: Floats
    stderr: Floats
    dof: Floats
    """Degrees of freedom of `stderr`."""
    low: Floats
    high: Floats


def _with_interval(value: ArrayLike, stderr: ArrayLike, dof: ArrayLike) -> Estimated:
    value, stderr, dof = (np.asarray(each, dtype=np.float64) for each in (value, stderr, dof))
    half = stats.t.ppf((1 + LEVEL) / 2, dof) * stderr
    return Estimated(value=value, stderr=stderr, dof=dof, low=value - half, high=value + half)


def mean_over_seeds(values: Floats) -> Estimated:
    """Return the mean of [..., n >= 2] independent values with Student's t interval (n - 1 degrees of freedom)."""
    n = values.shape[-1]
    return _with_interval(values.mean(-1), values.std(-1, ddof=1) / math.sqrt(n), n - 1)


def difference_over_seeds(a: Floats, b: Floats) -> Estimated:
    """Return mean(a) - mean(b) of [..., n >= 2] and [..., m >= 2] with Welch's t interval: spreads may differ.

    Welch 1947. Where no value differs from its own mean the interval is a point.
    """
    parts = [values.var(-1, ddof=1) / values.shape[-1] for values in (a, b)]
    square = parts[0] + parts[1]
    weights = [part**2 / (values.shape[-1] - 1) for part, values in zip(parts, (a, b), strict=True)]
    pooled = np.full_like(square, a.shape[-1] + b.shape[-1] - 2)
    dof = np.divide(square**2, weights[0] + weights[1], out=pooled, where=square > 0)
    return _with_interval(a.mean(-1) - b.mean(-1), np.sqrt(square), dof)


def clustered_mean(values: Floats, clusters: Sequence[str]) -> Estimated:
    """Return the mean of [..., N] items whose clusters [N] are independent, and the items of one are not.

    Miller 2024 (arXiv 2411.00640), section 2.2, with the correction G / (G - 1) and t of G - 1 degrees of freedom
    for G clusters (Cameron & Miller 2015, section VI). Give differences of two runs' values for a paired one.
    """
    mean = values.mean(-1)
    sums = cluster_sums(values - mean[..., None], clusters)
    count = sums.shape[-1]
    if count < 2:
        raise ValueError("a standard error over clusters needs two of them")
    variance = (sums**2).sum(-1) * count / (count - 1) / values.shape[-1] ** 2
    return _with_interval(mean, np.sqrt(variance), count - 1)


def cluster_sums(values: Floats, clusters: Sequence[str]) -> Floats:
    """Return the sum of [..., N] values in each cluster, [..., G], in the order of the clusters' sorted names."""
    _, own = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.argsort(own, kind="stable")
    starts = np.flatnonzero(np.diff(own[order], prepend=-1))
    return np.asarray(np.add.reduceat(values[..., order], starts, axis=-1), dtype=np.float64)


def wilson_interval(successes: ArrayLike, n: int) -> tuple[Floats, Floats]:
    """Return the 95 % interval of a rate, from 0 to 1, of which `successes` of n >= 1 trials were seen.

    Wilson 1927; unlike mean ± 2 standard errors it holds near 0 and 1.
    """
    rate = np.asarray(successes, dtype=np.float64) / n
    centre = (rate + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(rate * (1 - rate) / n + Z**2 / (4 * n**2))
    return np.maximum(centre - half, 0), np.minimum(centre + half, 1)


def sign_flip_p(differences: Floats, seed: int = 0) -> Floats:
    """Return the two-sided p that the [..., G] independent differences are symmetric about 0.

    Give one number a cluster: its sum, so that the statistic is the mean over items. Exact over all 2^G signs
    where they are few, else over random ones, of which the signs seen count as one (Phipson & Smyth 2010).
    """
    seen = np.abs(differences.sum(-1))
    enough = seen - _TIE * np.abs(differences).sum(-1)
    count = differences.shape[-1]
    exact = 2**count <= DRAWS
    hits = np.zeros(seen.shape)
    for signs in _all_signs(count) if exact else _random_signs(count, np.random.default_rng(seed)):
        hits += (np.abs(differences @ signs.T) >= enough[..., None]).sum(-1)
    return hits / 2**count if exact else (hits + 1) / DRAWS


def _all_signs(count: int) -> Iterator[Floats]:
    yield np.array(list(itertools.product((-1.0, 1.0), repeat=count)))


def _random_signs(count: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Yield float64 [B, count] of -1 and 1, `DRAWS` - 1 rows in all."""
    for start in range(0, DRAWS - 1, _BLOCK):
        rows = min(_BLOCK, DRAWS - 1 - start)
        yield np.where(rng.integers(0, 2, (rows, count), dtype=np.int8), 1.0, -1.0)


def mcnemar_p(only_a: ArrayLike, only_b: ArrayLike) -> Floats:
    """Return the exact two-sided p of yes/no items: on how many A alone was right, and on how many B alone.

    McNemar 1947, by the binomial distribution; items on which both agree say nothing.
    """
    tail = stats.binom.cdf(np.minimum(only_a, only_b), np.add(only_a, only_b), 0.5)
    return np.asarray(np.minimum(2 * tail, 1), dtype=np.float64)


def seeds_p(a: Floats, b: Floats, seed: int = 0) -> Floats:
    """Return the two-sided p that [..., n] and [..., m] values, such as two methods' seeds, are exchangeable.

    The statistic is the difference of means; exact over all splits where they are few. Fisher 1935.
    """
    gaps = np.abs(_gaps(np.concatenate([a, b], axis=-1), a.shape[-1], seed))
    scale = _TIE * (np.abs(a).sum(-1) + np.abs(b).sum(-1))
    return np.asarray((gaps >= (gaps[..., 0] - scale)[..., None]).mean(-1), dtype=np.float64)


def joint_seeds_p(a: Floats, b: Floats, seed: int = 0) -> Floats:
    """Return `seeds_p` of each of K scores, adjusted for there being K: float64 [K] of a [K, n] and b [K, m].

    Column i of `a` holds one run's scores, which move together. As strict as Holm's, but scores that say the same
    count once, and four seeds suffice for any number of scores: the step-down procedure of the greatest standardised
    difference, Westfall & Young 1993.
    """
    both = np.concatenate([a, b], axis=-1)
    spread = both.std(-1, keepdims=True)
    scores = np.divide(both - both.mean(-1, keepdims=True), spread, out=np.zeros_like(both), where=spread > 0)
    gaps = np.abs(_gaps(scores, a.shape[-1], seed))
    order = np.argsort(-gaps[:, 0], kind="stable")
    greatest = np.maximum.accumulate(gaps[order][::-1], axis=0)[::-1]
    adjusted = np.maximum.accumulate((greatest >= gaps[order, :1] - _TIE).mean(-1))
    return np.asarray(adjusted[np.argsort(order, kind="stable")], dtype=np.float64)


def _gaps(values: Floats, n: int, seed: int) -> Floats:
    """Return the differences of means [..., S] of values [..., n + m] in each split; split 0 is the one seen."""
    return np.asarray(values @ _splits(n, values.shape[-1] - n, seed), dtype=np.float64)


@functools.lru_cache(maxsize=16)
def _splits(n: int, m: int, seed: int) -> Floats:
    """Return the weights [n + m, S] that make the difference of means in each split: all, or as many as `DRAWS`."""
    if math.comb(n + m, n) <= DRAWS:
        firsts = np.array(list(itertools.combinations(range(n + m), n)))
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.permuted(np.tile(np.arange(n + m), (DRAWS - 1, 1)), axis=1)[:, :n]
        firsts = np.concatenate([np.arange(n)[None], drawn])
    weights = np.full((n + m, len(firsts)), -1 / m)
    weights[firsts.T, np.arange(len(firsts))] = 1 / n
    weights.flags.writeable = False  # the cache hands out the same array again
    return weights


def least_seeds_p(n: int, m: int) -> float:
    """Return the smallest p that `seeds_p` can give for n against m seeds: 3 v 3 0.10, 4 v 4 0.029, 5 v 5 0.008."""
    return max((2 if n == m else 1) / math.comb(n + m, n), 1 / DRAWS)


def seeds_needed(tests: int) -> int:
    """Return how many seeds each method needs for one of `tests` exact tests to reach 0.05 after Holm."""
    enough = (n for n in range(CLAIM_SEEDS, 100) if least_seeds_p(n, n) * tests <= ALPHA)
    return next(enough)


def holm(p: Sequence[float] | Floats) -> Floats:
    """Return p-values [K] adjusted so that the chance of any false claim among them stays below 0.05. Holm 1979."""
    found = np.asarray(p, dtype=np.float64)
    order = np.argsort(found, kind="stable")
    raised = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    return np.asarray(np.minimum(raised, 1)[np.argsort(order, kind="stable")])


def detectable(stderr: float, dof: float) -> float:
    """Return the smallest true difference that a two-sided t-test at 5 % finds with 80 % power (its MDE)."""
    edge = float(stats.t.ppf(1 - ALPHA / 2, dof))

    def lacking(shift: float) -> float:
        return float(stats.nct.sf(edge, dof, shift)) - POWER  # the other tail holds next to nothing by then

    return float(stderr * optimize.brentq(lacking, 0, 10 * edge)) if stderr else 0.0


def groups(replicates: Sequence[Floats], *, higher_is_better: bool) -> list[str] | None:
    """Return the letters of each method: methods with one in common cannot be told apart, `a` has the best.

    `replicates` are each method's values over seeds. Exact tests of all pairs, Holm over them. Returns None where
    the seeds are too few for any pair to be told apart, however far it is: nothing is to be claimed.
    """
    pairs = list(itertools.combinations(range(len(replicates)), 2))
    sizes = [len(values) for values in replicates]
    least = min((least_seeds_p(sizes[i], sizes[j]) for i, j in pairs), default=1.0)
    if not pairs or min(sizes) < CLAIM_SEEDS or least * len(pairs) > ALPHA:
        return None
    p = holm([float(seeds_p(replicates[i], replicates[j])) for i, j in pairs])
    alike = np.ones((len(replicates), len(replicates)), bool)
    for (i, j), value in zip(pairs, p, strict=True):
        alike[i, j] = alike[j, i] = value > ALPHA
    means = [float(values.mean()) for values in replicates]
    return letters(alike, sorted(range(len(means)), key=means.__getitem__, reverse=higher_is_better))


def letters(alike: NDArray[np.bool_], order: Sequence[int]) -> list[str]:
    """Return a letter for each largest set of rows that are all alike, at each row in it; `order` names the best first.

    `alike` [R, R] is symmetric and need not be transitive.
    """
    ranks = {row: rank for rank, row in enumerate(order)}
    sets = sorted(sorted(ranks[row] for row in clique) for clique in _cliques(alike, [], list(order), []))
    marks = [_letter(number) for number in range(len(sets))]
    return ["".join(mark for mark, members in zip(marks, sets, strict=True) if ranks[row] in members)
            for row in range(len(alike))]  # fmt: skip


def _cliques(alike: NDArray[np.bool_], chosen: list[int], open_: list[int], done: list[int]) -> Iterator[list[int]]:
    """Yield the maximal sets of rows that are all alike. Bron & Kerbosch 1973, with a pivot."""
    if not open_ and not done:
        yield chosen
        return
    pivot = max(open_ + done, key=lambda row: sum(alike[row, other] for other in open_))
    for row in [row for row in open_ if row == pivot or not alike[pivot, row]]:
        yield from _cliques(alike, [*chosen, row], [other for other in open_ if other != row and alike[row, other]],
                            [other for other in done if alike[row, other]])  # fmt: skip
        open_.remove(row)
        done.append(row)


def _letter(number: int) -> str:
    """Return a, b, ..., z, then A to Z, then numbers in brackets."""
    names = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return names[number] if number < len(names) else f"({number})"
