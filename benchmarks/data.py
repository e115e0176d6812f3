"""How fast prepared data is read, beside decoding the same files: python benchmarks/data.py

Photographs are stood in for by smooth noise, saved as JPEG of 500 x 375 pixels. `python benchmarks/data.py memory`
prepares and reads 100,000 images out of tar shards and prints the most memory that the process held.
"""

import io
import os
import resource
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from t2ibench.datasets import images, webdataset
from t2ibench.datasets.image_files import ImageFile, ImageFiles
from t2ibench.datasets.loader import Augmentation, Loader, stored_size
from t2ibench.datasets.store import prepare

SIDE, BATCH = 64, 64


def photograph(number: int, size: tuple[int, int] = (500, 375)) -> Image.Image:
    """Return smooth noise with the detail of a photograph."""
    dice = np.random.default_rng(number)
    coarse = Image.fromarray(dice.integers(0, 256, (12, 16, 3), np.uint8)).resize(size, Image.Resampling.BICUBIC)
    grain = dice.integers(-12, 13, (size[1], size[0], 1))
    return Image.fromarray((np.asarray(coarse).astype(np.int16) + grain).clip(0, 255).astype(np.uint8))


def rate(work: Callable[[], int], seconds: float = 3.0) -> float:
    """Return images a second of `work`, which returns how many it made, repeated for some time."""
    work()
    made, started = 0, time.perf_counter()
    while time.perf_counter() - started < seconds:
        made += work()
    return made / (time.perf_counter() - started)


def speed(number: int = 2000) -> None:
    """Print images/s of decoding files and of the loader over the store that was prepared from them."""
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index in range(number):
            path = Path(folder) / f"{index:05d}.jpg"
            photograph(index).save(path, quality=90)
            files.append(ImageFile(name=path.name, path=path, captions=(f"photograph {index}",) * 5))
        source = ImageFiles("photographs", {"train": files})
        turn = iter(range(10**9))

        def decoded() -> int:
            path = files[next(turn) % number].path
            images.decode(path, SIDE)
            return 1

        def decoded_by_two() -> int:
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(lambda file: images.decode(file.path, SIDE), files[:256]))
            return 256

        print(f"decoding JPEG of 500 x 375 px to {SIDE} px, one thread: {rate(decoded):,.0f} images/s")
        print(f"the same, two threads: {rate(decoded_by_two):,.0f} images/s")
        augmentations: tuple[Augmentation, ...] = ("none", "crop-flip")
        for augmentation in augmentations:
            data = prepare(source, "train", stored_size(SIDE, augmentation))
            batches = Loader(data, batch_size=BATCH, seed=0, augmentation=augmentation).batches(0, 10**9)

            read = rate(lambda: len(next(batches)))  # noqa: B023
            print(f"loader, batches of {BATCH}, augmentation {augmentation}: {read:,.0f} images/s")


def memory(number: int = 100_000, shards: int = 10) -> None:
    """Prepare and read `number` images out of tar shards; print the time and the most memory held."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        write_shards(Path(folder), number, shards)
        print(f"{number:,} images in {shards} shards written in {time.perf_counter() - started:.0f} s; {held()}")
        started = time.perf_counter()
        source = webdataset.open_source(Path(folder))
        data = {split: prepare(source, split, SIDE) for split in source.splits}
        print(f"prepared in {time.perf_counter() - started:.0f} s; {held()}")
        for store in data.values():
            pixels = (store.folder / f"images-{SIDE}.npy").stat().st_size
            print(f"{store.split}: {len(store):,} images, {pixels / len(store) / 1024:.3f} KiB of pixels an image")
        started, seen = time.perf_counter(), 0
        for batch in Loader(data["train"], batch_size=BATCH, seed=0).batches(0, 2 * len(data["train"]) // BATCH):
            seen += len(batch)
        print(f"{seen:,} read, {seen / (time.perf_counter() - started):,.0f} images/s; {held()}")


def write_shards(folder: Path, number: int, shards: int) -> None:
    """Write tar shards of small JPEGs with a caption each."""
    pictures = []
    for index in range(1000):
        buffer = io.BytesIO()
        photograph(index, (96, 96)).save(buffer, "JPEG", quality=85)
        pictures.append(buffer.getvalue())
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for index in range(number // shards):
                picture = pictures[index % 1000]
                for suffix, content in (("jpg", picture), ("txt", f"picture {index} of shard {shard}".encode())):
                    member = tarfile.TarInfo(f"{shard:05d}{index:05d}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))


def held() -> str:
    """Return the most memory this process has held, in words."""
    return f"at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB resident"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["T2IBENCH_CACHE"] = cache
        memory() if sys.argv[1:] == ["memory"] else speed()
