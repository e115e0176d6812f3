"""How fast the scores are computed: python benchmarks/eval.py frechet

`frechet`: the Fréchet distance at 2,048 features beside SciPy's matrix root and the eigenvalues of the product, as
torchmetrics takes them, with the error of each against the singular values in full. 5,000 images a side give
covariances of full rank, 1,000 do not. Ours of features begins at the kept moments of the real images and the features
of the generated ones, and of moments at those of both sides; the others are given both covariances for nothing. The
ratios are of processor time, which others on the machine change least.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
import scipy.linalg
import torch

from t2ibench.eval.frechet import FeatureMoments, frechet_distance, frechet_distance_of_features

WIDTH = 2048


def main() -> None:
    """Run the sub-command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("frechet",))
    parser.add_argument("--images", type=int, nargs="+", default=(5000, 1000))
    options = parser.parse_args()
    print(f"torch {torch.__version__}, scipy {scipy.__version__}, {torch.get_num_threads()} threads, {WIDTH} features")
    print(f"{'images':>7}  {'route':<34}{'seconds':>9}{'of CPU':>9}{'sqrtm takes':>13}{'relative error':>16}")
    for images in options.images:
        time_routes(images)


def time_routes(images: int) -> None:
    """Print the table's rows for so many images a side."""
    real, fake = features(images, seed=0), 1.1 * features(images, seed=1)
    a, b = FeatureMoments.from_features(real), FeatureMoments.from_features(fake)
    exact = by_singular_values(a, b, real, fake)

    def unprepared() -> float:
        a.__dict__.pop("factor", None)
        return frechet_distance(a, b)

    routes: list[tuple[str, Callable[[], float], int]] = [
        ("scipy.linalg.sqrtm", lambda: by_roots(a, b, matrix_root), 1),
        ("eigvals of the product", lambda: by_roots(a, b, eigenvalue_roots), 2),
        ("ours, of moments", unprepared, 3),
        ("ours, of moments, reference known", lambda: frechet_distance(a, b), 3),
        ("ours, of features", lambda: frechet_distance_of_features(a, fake), 3),
    ]
    slowest = 0.0
    for name, route, repeats in routes:
        (seconds, of_cpu), got = timed(route, repeats)
        slowest = slowest or of_cpu
        print(f"{images:>7}  {name:<34}{seconds:>9.3f}{of_cpu:>9.3f}{slowest / of_cpu:>12.1f}x{got / exact - 1:>16.1e}",
              flush=True)  # fmt: skip


def features(images: int, seed: int) -> torch.Tensor:
    """Return features as a network's, float32 [N, 2048]: not negative, of a decaying spectrum, in a fixed mixture."""
    mixture = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(99)) / WIDTH**0.5
    spectrum = 1 / torch.arange(1, WIDTH + 1) ** 0.5
    noise = torch.randn(images, WIDTH, generator=torch.Generator().manual_seed(seed))
    mixed: torch.Tensor = (noise * spectrum) @ mixture
    return mixed.relu()


def by_singular_values(a: FeatureMoments, b: FeatureMoments, real: torch.Tensor, fake: torch.Tensor) -> float:
    """Return the distance by the singular values of the product of both centred sets of features, in float64."""
    sides = [(rows.double() - rows.double().mean(dim=0)) / (len(rows) - 1) ** 0.5 for rows in (real, fake)]
    # R of a QR has the singular values of the centred set and no more rows than features.
    factors = [torch.linalg.qr(rows, mode="r").R for rows in sides]
    overlap = torch.linalg.svdvals(factors[0] @ factors[1].T).sum()
    traces = sides[0].square().sum() + sides[1].square().sum()
    return float((a.mean - b.mean).square().sum() + traces - 2 * overlap)


def by_roots(a: FeatureMoments, b: FeatureMoments, trace: Callable[[torch.Tensor], float]) -> float:
    """Return the distance with the trace of the root of the product taken by `trace`."""
    product = a.covariance @ b.covariance
    return float((a.mean - b.mean).square().sum()) + a.trace + b.trace - 2 * trace(product)


def eigenvalue_roots(product: torch.Tensor) -> float:
    """Return the trace of the root by the eigenvalues of an unsymmetric matrix."""
    return float(torch.linalg.eigvals(product).sqrt().real.sum())


def matrix_root(product: torch.Tensor) -> float:
    """Return the trace of SciPy's root."""
    return float(np.trace(scipy.linalg.sqrtm(product.numpy())).real)


def timed(route: Callable[[], float], repeats: int) -> tuple[tuple[float, float], float]:
    """Return the least seconds over `repeats` calls, by the clock and of the processor's, and what the route gives."""
    took = []
    for _ in range(repeats):
        begun, computed = time.perf_counter(), time.process_time()
        got = route()
        took.append((time.perf_counter() - begun, time.process_time() - computed))
    return (min(clock for clock, _ in took), min(own for _, own in took)), got


if __name__ == "__main__":
    main()
