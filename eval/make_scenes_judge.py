"""Train the judge of `scenes` that is shipped: `python -m t2ibench.eval.make_scenes_judge [IMAGES]`.

It learns from another world than the models do (other seed), held-out combinations included, at 32 and
64 px, and is tested on the test and compose splits that the models are scored on.
"""

import sys
import time
from pathlib import Path

from ..datasets.scenes import Scenes, open_source
from ..datasets.store import prepare
from .joint_judge import JointJudge, held_out_accuracy, save_judge

SEED = 1000
SIZES = {"train": 60_000, "val": 1, "test": 1, "compose": 20_000}


def main() -> None:
    """Train, write `scenes_judge.safetensors` beside this file, and print its held-out accuracy."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 384_000
    world = Scenes(seed=SEED, sizes=SIZES)
    # One step in three shows held-out combinations, more than their part of the images, to make them as familiar.
    stores = [prepare(world, split, size) for size in (32, 64) for split in ("train", "train", "compose")]
    path = Path(__file__).parent / "scenes_judge.safetensors"
    started = time.monotonic()

    def progress(done: int, total: int) -> None:
        if done % 6400 == 0:
            print(f"{done:,} of {total:,} images, {done / (time.monotonic() - started):.0f} images/s", flush=True)

    source = open_source(None)
    save_judge(path, stores, prepare(source, "test", 32), images=images, progress=progress)
    judge = JointJudge("scenes", path)
    for size in (32, 64):
        for split in ("test", "compose"):
            print(split, size, held_out_accuracy(judge, prepare(source, split, size)))
    print(f"{judge.id}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
