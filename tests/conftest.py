"""What every test may use: a cache of the session's own, and a small prepared world."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from t2ibench import cli
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


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command line and gives exit code, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["t2ibench", *map(str, arguments)])
        code = 0
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        said = capsys.readouterr()
        return code, said.out, said.err

    return run
