"""How fast the scores are computed.

    python benchmarks/eval.py frechet
    python benchmarks/eval.py score --judge efficientnet-lite0 --images 10000 --through 1000

`frechet`: the Fréchet distance at 2,048 features beside SciPy's matrix root and the eigenvalues of the product, as
torchmetrics takes them, with the error of each against the singular values in full. 5,000 images a side give
covariances of full rank, 1,000 do not. Ours of features begins at the kept moments of the real images and the features
of the generated ones, and of moments at those of both sides; the others are given both covariances for nothing. The
ratios are of processor time, which others on the machine change least.

`score`: all metrics of one judge of as many scenes as real ones, beside the time that its network takes for them. With
`--through` only the first images pass the network; the others get features of these, with noise, and the network's time
is scaled. What is known of the real images alone is kept with the reference and not timed again; the row `first` is
the time with that. `inception` has random weights here.
"""

import argparse
import dataclasses
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import scipy.linalg
import torch

from t2ibench.baselines.inception_network import InceptionV3
from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import Store, prepare
from t2ibench.errors import UserError
from t2ibench.eval.frechet import FeatureMoments, frechet_distance, frechet_distance_of_features
from t2ibench.eval.harness import Drawn, evaluate
from t2ibench.eval.inception import InceptionJudge
from t2ibench.eval.judges import Judge, Look, Training
from t2ibench.eval.reference import make_reference, parts_of
from t2ibench.suite.plugins import find_judge

WIDTH = 2048


def main() -> None:
    """Run the sub-command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)
    routes = commands.add_parser("frechet")
    routes.add_argument("--images", type=int, nargs="+", default=(5000, 1000))
    score = commands.add_parser("score")
    score.add_argument("--judge", choices=("efficientnet-lite0", "scenes", "inception"), default="efficientnet-lite0")
    score.add_argument("--images", type=int, default=10_000)
    score.add_argument("--through", type=int)
    score.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, scipy {scipy.__version__}, {torch.get_num_threads()} threads")
    if options.what == "score":
        time_scoring(options.judge, options.images, options.through or options.images, options.size)
        return
    print(f"{'images':>7}  {'route':<34}{'seconds':>9}{'of CPU':>9}{'sqrtm takes':>13}{'relative error':>16}")
    for images in options.images:
        time_routes(images)


class Watched:
    """A judge whose network is timed, and sees the first `through` images of a set only."""

    def __init__(self, judge: Judge, images: int, through: int) -> None:
        self.judge, self.name, self.id = judge, judge.name, judge.id
        self.images, self.through = images, through
        self.begin()

    def begin(self) -> None:
        """Begin a set of images."""
        self.done, self.at_images, self.at_captions = 0, np.zeros(2), np.zeros(2)
        self.looks: list[Look] = []

    def look(self, images: torch.Tensor) -> Look:
        """Return what the judge sees, or some of what it saw with noise of a hundredth."""
        if self.done >= self.through:
            return self.again(len(images))
        begun = now()
        seen = self.judge.look(images)
        self.at_images += now() - begun
        self.done += len(images)
        self.looks.append(seen)
        return seen

    def again(self, count: int) -> Look:
        """Return `count` rows of what was seen, moved a little."""
        noise = torch.Generator().manual_seed(self.done)
        self.done += count
        known = self.looks[self.done % len(self.looks)]
        at = torch.randint(len(known.features), (count,), generator=noise)
        rows = {name: part[at] for name, part in parts_of(known).items()}
        moved = rows["features"] * (1 + 0.01 * torch.randn(rows["features"].shape, generator=noise))
        return dataclasses.replace(known, **(rows | {"features": moved}))

    def network_takes(self) -> np.ndarray:
        """Return the seconds of the network for all images, by the clock and of the processor's."""
        passed = sum(len(look.features) for look in self.looks)
        return self.at_images * self.images / passed

    def caption_embeddings(self, captions: Sequence[str]) -> torch.Tensor | None:
        """Return the judge's."""
        begun = now()
        embeddings = self.judge.caption_embeddings(captions)
        self.at_captions += now() - begun
        return embeddings


def now() -> np.ndarray:
    """Return the seconds by the clock and of the processor's."""
    return np.array([time.perf_counter(), time.process_time()])


def time_scoring(name: str, images: int, through: int, size: int) -> None:
    """Print how long the network takes for so many images, and how long everything after it."""
    sets = [prepare(Scenes(sizes={split: images}), split, size) for split in ("val", "test")]
    judge = Watched(opened(name), images, through)
    real = make_reference(judge, sets[0], lambda what, done, total: None)
    batch = sets[1].batch(np.arange(images))
    drawn = Drawn(images=batch.images, captions=batch.captions, image_ids=batch.ids,
                  references=[[caption] for caption in batch.captions])  # fmt: skip
    print(f"{name}: {images} images of {size} pixels, {min(through, images)} through the network")
    print(f"{'':<7}{'':<9}{'at images':>11}{'at captions':>13}{'the rest':>10}{'all over images':>17}{'over both':>11}")
    for row in ("first", "kept"):
        judge.begin()
        begun = now()
        found = evaluate(drawn, [judge], lambda _: real)
        rest = now() - begun - judge.at_images - judge.at_captions
        looking, reading = judge.network_takes(), judge.at_captions
        for at, what in enumerate(("seconds", "of CPU")):
            whole = looking[at] + reading[at] + rest[at]
            print(f"{row:<7}{what:<9}{looking[at]:>11.1f}{reading[at]:>13.1f}{rest[at]:>10.1f}"
                  f"{whole / looking[at]:>17.3f}{whole / (looking[at] + reading[at]):>11.3f}", flush=True)  # fmt: skip
    print("metrics:", ", ".join(f"{score.metric} {score.value:.6g}" for score in found.scores))
    print(f"peak resident memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


def opened(name: str) -> Judge:
    """Return a judge; `inception` with random weights."""
    if name != "inception":
        judge: Judge = find_judge(name)(Training(train=untaught, held_out=lambda: None))
        return judge
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(InceptionV3().state_dict(), Path(folder) / "random.pth")
        return InceptionJudge(Path(folder) / "random.pth")


def untaught() -> Store:
    """Raise UserError: these judges learn nothing here."""
    raise UserError("no judge that is timed here learns")


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
