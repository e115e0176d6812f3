"""How fast the models train: images a second of a step alone and of the loop around it, and what the loop adds.

    python benchmarks/train.py                      # every model at `tiny`
    python benchmarks/train.py df-gan/small attngan/tiny-stabilised --seconds 20
    python benchmarks/train.py --layout contiguous  # convolutions on [N, C, H, W] in place of channels last

Of the loop's time, `step` is the share of the stage's steps (forward, backward, optimisers), `rest` all else over it:
seeds, average of the weights, logging, waiting for data. `data` is what making a batch takes, in a thread of its own
beside the step. There are no checkpoints and no grids.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import torch

from t2ibench.baselines.interface import Stage
from t2ibench.datasets.captioned import Batch
from t2ibench.datasets.loader import Augmentation, Loader, stored_size
from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import Store, prepare
from t2ibench.suite.plugins import MODELS, find_model, find_preset
from t2ibench.suite.trained import augmentation_of
from t2ibench.suite.training import Position, StageLoop, silent


class Timing(NamedTuple):
    """Seconds a step."""

    step: float
    loop: float
    data: float


def main() -> None:
    """Print a line a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=[f"{name}/tiny" for name in MODELS], metavar="MODEL/PRESET")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each stage, about")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--layout", choices=("channels_last", "contiguous"), default="channels_last")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    if options.layout == "contiguous":
        # The models ask for `torch.channels_last` by this name.
        torch.channels_last = torch.contiguous_format
    torch.set_default_device(options.device)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {options.precision}, {options.layout}")
    print(f"{'model/preset':<30}{'stage':<14}{'batch':>6}{'step img/s':>12}{'loop img/s':>12}{'data':>7}{'step':>8}"
          f"{'rest':>7}")  # fmt: skip
    for name in options.models:
        for stage, data, augmentation in stages(name):
            timing = measure(stage, data, augmentation, options.precision, options.seconds)
            size = stage.batch_size
            print(f"{name:<30}{stage.name:<14}{size:>6}{size / timing.step:>12.1f}{size / timing.loop:>12.1f}"
                  f"{timing.data / timing.loop:>7.1%}{timing.step / timing.loop:>8.1%}"
                  f"{timing.loop / timing.step - 1:>7.1%}", flush=True)  # fmt: skip


def stages(name: str) -> Iterator[tuple[Stage, Store, Augmentation]]:
    """Yield the stages of MODEL/PRESET with data of its size; images beyond the first thousands change nothing."""
    model, _, preset = name.partition("/")
    found = find_model(model)
    config = find_preset(found, preset or "tiny")
    augmentation = augmentation_of(config)
    data = prepare(Scenes(sizes={"train": 2000}), "train", stored_size(config.image_size, augmentation))
    for stage in found.make(config).stages(data):
        yield stage, data, augmentation


def measure(stage: Stage, data: Store, augmentation: Augmentation, precision: str, seconds: float) -> Timing:
    """Return the mean times of a stage's steps in the loop, of the loop around them, and of the making of a batch."""
    loader = Loader(data, batch_size=stage.batch_size, seed=0, name=stage.name, augmentation=augmentation)
    taken: list[float] = []
    step = stage.train_step

    def timed_step(batch: Batch) -> Mapping[str, float | torch.Tensor]:
        losses: list[Mapping[str, float | torch.Tensor]] = []
        taken.append(timed(lambda: losses.append(step(batch))))
        return losses[0]

    def loop(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            # From the second step on: the first one draws a grid.
            whole = StageLoop(
                stage, data, Path(folder), position=Position(step=1), steps=1 + steps, seed=0, precision=precision,
                costs=[], watch=silent, checkpoint_seconds=1e9, draw_grid=lambda images: None,
                augmentation=augmentation,
            )  # fmt: skip
            whole.grid_every = steps + 2
            return timed(whole.run)

    stage.train_step = timed_step  # type: ignore[method-assign]
    loop(4)
    steps = max(20, round(seconds / taken[-1]))
    taken.clear()
    whole = loop(steps)
    making = timed(lambda: [loader.batch(number) for number in range(20)])
    return Timing(step=sum(taken) / steps, loop=whole / steps, data=making / 20)


def timed(part: Callable[[], object]) -> float:
    """Return the seconds that `part` takes."""
    started = time.perf_counter()
    part()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
