"""What every test may use: a cache of the session's own, and a small prepared world."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from t2ibench.datasets.scenes import Scenes
from t2ibench.datasets.store import Store, prepare


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Point the cache of prepared data and judges at a folder of this session."""
    folder = tmp_path_factory.mktemp("cache")
    before = os.environ.get("T2IBENCH_CACHE")
    os.environ["T2IBENCH_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["T2IBENCH_CACHE"]
    else:
        os.environ["T2IBENCH_CACHE"] = before


@pytest.fixture(scope="session")
def world(cache: Path) -> Store:
    """Return 300 training scenes at 32 px."""
    return prepare(Scenes(sizes={"train": 300}), "train", 32)


@pytest.fixture(scope="session")
def held_out(cache: Path) -> Store:
    """Return 300 test scenes at 32 px."""
    return prepare(Scenes(sizes={"test": 300}), "test", 32)
