"""`prepare` killed at any point: the next call ends with the same store, and nothing half-written is ever used."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from t2ibench.datasets.captioned import Chunk
from t2ibench.datasets.store import Store, prepare, store_path

HERE = Path(__file__).parent
IMAGES, CUT = 60, 7
POINTS = ("before", "first", "middle", "end", "manifest", "renamed")


class Dying:
    """Images of noise that a process prepares until it kills itself at a point; `drawn` counts what was decoded."""

    name, splits, class_names = "dying", ("train",), ("even", "odd")

    def __init__(self, die: str = "", pause: float = 0.0) -> None:
        self.die, self.pause, self.drawn = die, pause, 0

    def size(self, split: str) -> int:
        return IMAGES

    def fingerprint(self, split: str) -> str:
        return "noise"

    def chunks(self, split: str, image_size: int, start: int = 0) -> Iterator[Chunk]:
        for first in range(start, IMAGES, CUT):
            self.kill_at("before", first == 0)
            self.kill_at("first", first == CUT)
            self.kill_at("middle", first > IMAGES // 2)
            numbers = range(first, min(first + CUT, IMAGES))
            self.drawn += len(numbers)
            time.sleep(self.pause)
            yield Chunk(
                images=np.stack([np.random.default_rng(n).integers(0, 256, (3, image_size, image_size), np.uint8)
                                 for n in numbers]),
                captions=[[f"{n} of {k}" for k in range(n % 5)] for n in numbers], ids=[f"i\u2028{n}" for n in numbers],
                labels=[n % 2 for n in numbers], scenes=[{"n": n} for n in numbers],
                embeddings=np.array([[n, k] for n in numbers for k in range(n % 5)], np.float32).reshape(-1, 2),
            )  # fmt: skip
        self.kill_at("end", True)

    def kill_at(self, point: str, here: bool) -> None:
        if here and self.die == point:
            os.kill(os.getpid(), signal.SIGKILL)


def dying_rename(point: str) -> None:
    rename = os.rename

    def instead(source: Path, target: Path) -> None:
        if point == "renamed":
            rename(source, target)
        os.kill(os.getpid(), signal.SIGKILL)

    if point in ("manifest", "renamed"):
        os.rename = instead  # type: ignore[assignment]


def killed(point: str, cache: Path) -> None:
    code = (
        "from t2ibench.datasets import store; store.SAVE_SECONDS = 0.0; from test_store_interrupted import *;"
        f"dying_rename({point!r}); prepare(Dying({point!r}), 'train', 8, smaller=(4,))"
    )
    environment = os.environ | {"T2IBENCH_CACHE": str(cache)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, cwd=HERE, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def contents(store: Store) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in store.folder.iterdir()}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Store:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T2IBENCH_CACHE", str(tmp_path_factory.mktemp("unbroken")))
        return prepare(Dying(), "train", 8, smaller=(4,))


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_preparation_goes_on_to_the_same_store(
    point: str, unbroken: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path))
    killed(point, tmp_path)
    folder = store_path(Dying(), "train", 8, (4,))
    assert (folder / "manifest.json").exists() == (point == "renamed")
    source = Dying()
    store = prepare(source, "train", 8, smaller=(4,))
    assert store.digest == unbroken.digest
    left = contents(store)
    left.pop("progress.json", None)
    assert left == contents(unbroken)
    decoded_again = {"before": IMAGES, "first": IMAGES - CUT, "middle": IMAGES - 5 * CUT}.get(point, 0)
    assert source.drawn == decoded_again
    assert not list(folder.parent.glob("*.partial"))


def test_what_was_written_after_the_journal_is_cut_off(
    unbroken: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path))
    killed("middle", tmp_path)
    (partial,) = (tmp_path / "stores").glob("*.partial")
    for path in partial.iterdir():
        if path.name != "progress.json":
            with open(path, "ab") as file:
                file.write(b"half a chunk")
    assert prepare(Dying(), "train", 8, smaller=(4,)).digest == unbroken.digest


def test_two_processes_prepare_one_store_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path))
    code = (
        "from test_store_interrupted import *; source = Dying(pause=0.05);"
        "print(prepare(source, 'train', 8).digest, source.drawn)"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], cwd=HERE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert said[0][0] == said[1][0] and sorted(int(drawn) for _, drawn in said) == [0, IMAGES]


def test_smaller_sides_are_block_means_and_all_arrays_are_aligned(unbroken: Store) -> None:
    batch = unbroken.batch(np.arange(IMAGES), np.full(IMAGES, 0.999))
    blocks = batch.images.double().reshape(IMAGES, 3, 4, 2, 4, 2).mean((3, 5))
    assert unbroken.sides == (8, 4) and (batch.smaller[4] - blocks).abs().max() <= 0.5
    assert batch.captions == [f"{n} of {n % 5 - 1}" if n % 5 else "" for n in range(IMAGES)]
    assert batch.embeddings is not None
    assert batch.embeddings.tolist() == [[n, n % 5 - 1] if n % 5 else [0, 0] for n in range(IMAGES)]
    assert [unbroken.scene(n) for n in range(IMAGES)] == [{"n": n} for n in range(IMAGES)]


def test_the_pixels_take_three_bytes_each_and_nothing_more(unbroken: Store) -> None:
    size = (unbroken.folder / "images-8.npy").stat().st_size
    assert 0 <= size - IMAGES * 3 * 8 * 8 <= 192
