"""What is known of the real images' pairs alone: given or not, the scores are the same, and given it is used."""

import pytest
import torch

from t2ibench.eval import kernel_distance as kernels
from t2ibench.eval.judges import Look
from t2ibench.eval.neighbours import _edges, ball_edges, neighbourhoods
from t2ibench.eval.reference import Reference, Seen


def features(n: int, seed: int, width: int = 24) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed)).relu() + 0.1 * (seed % 3)


REAL, FAKE = features(700, 1), features(600, 2)


@pytest.mark.parametrize(("distance", "within"), [
    (kernels.kernel_distance, kernels.kid_within), (kernels.cmmd, kernels.cmmd_within),
])
def test_kernel_distances_by_known_pairs(distance, within):
    found, known = distance(REAL, FAKE), distance(REAL, FAKE, within(REAL))
    assert (found.value, found.stderr) == (known.value, known.stderr)
    sums, squares = within(REAL)
    assert distance(REAL, FAKE, kernels.Within(2 * sums, squares)).value != found.value


def test_neighbourhoods_by_known_balls():
    found, known = neighbourhoods(REAL, FAKE), neighbourhoods(REAL, FAKE, real_edges=ball_edges(REAL))
    assert [one.value for one in found] == [one.value for one in known]
    wide = neighbourhoods(REAL, FAKE, real_edges=torch.full((len(REAL),), torch.inf, dtype=torch.float64))
    assert wide.precision.value == 1 and wide.recall.value == found.recall.value


@pytest.mark.parametrize("n", [6, 255, 256, 257, 600])
def test_edges_are_those_of_all_distances(n):
    rows = features(n, n).double()
    distances = (rows[:, None] - rows[None]).square().sum(dim=2)
    distances.fill_diagonal_(torch.inf)
    expected = distances.sort(dim=1).values[:, 4]
    torch.testing.assert_close(_edges(rows, 5), expected, rtol=1e-10, atol=1e-10)


def test_a_reference_computes_its_pairs_once():
    seen = Seen(look=Look(features=REAL, embeddings=REAL), captions=("a",) * 700, caption_embeddings=None,
                image_ids=("a",) * 700)
    real = Reference(about={}, moments=seen.moments, seen=seen)
    assert real.kid_within is real.kid_within and real.cmmd_within is real.cmmd_within
    assert real.ball_edges is real.ball_edges
    assert torch.equal(real.kid_within.sums, kernels.kid_within(REAL).sums)
    assert torch.equal(real.ball_edges, ball_edges(REAL))
