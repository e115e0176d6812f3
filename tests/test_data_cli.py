"""Every kind of data from the command line: prepare, check, train a step, score; and hostile data."""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts_birds import cub, cub_gan, oxford102, oxford102_gan
from layouts_scraped import coco, flickr8k, flickr8k_kaggle, flickr30k, flickr30k_kaggle, picture, shards

from t2ibench import cli

Call = Callable[..., tuple[int, str, str]]

TINY = ["--set", "generator_width=8", "--set", "discriminator_width=8", "--set", "text_encoder.channels=[8,8,8]",
        "--set", "text_encoder.recurrent_width=16", "--set", "text_encoder.image_width=8", "--set", "batch_size=4",
        "--set", "text_encoder.batch_size=4", "--set", "augmentation=crop-flip"]  # fmt: skip


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Call:
    """Return a function that runs the command line and gives exit code, stdout and stderr."""
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))

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


def imagefolder(root: Path) -> Path:
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        rows = []
        for number in range(6):
            (root / split / f"{number}.jpg").write_bytes(picture(number + 6 * (split == "test")))
            rows.append({"file_name": f"{number}.jpg", "text": [f"{split} picture {number}", "a circle"][: number % 3]})
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (root / split / "metadata.jsonl").write_text(text)
    return root


def side_files(root: Path) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(60):
        (root / f"{number}.jpg").write_bytes(picture(number))
        (root / f"{number}.txt").write_text(f"picture {number}\na circle\n")
    return root


def named_shards(root: Path) -> Path:
    return shards(root, names=("set-train-0.tar", "set-test-0.tar"))


def coco2017(root: Path) -> Path:
    return coco(root, year=2017)


LAYOUTS: list[tuple[str, Callable[[Path], Path]]] = [
    ("cub", cub), ("cub-crop-code", cub), ("cub-crop-paper", cub_gan), ("oxford102", oxford102),
    ("oxford102", oxford102_gan), ("coco", coco), ("coco2017", coco2017), ("flickr", flickr8k),
    ("flickr", partial(flickr8k_kaggle, images=150)), ("flickr", partial(flickr30k, images=60)),
    ("flickr", partial(flickr30k_kaggle, images=150)), ("webdataset", named_shards),
    ("imagefolder", imagefolder), ("imagefolder", side_files),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_from_files_to_scores(name: str, layout: Callable[[Path], Path], call: Call, tmp_path: Path) -> None:
    root = layout(tmp_path / "data")
    code, out, err = call("data", "prepare", name, "--root", root, "--size", "64,32", "--json")
    assert code == 0, out + err
    stores: dict[str, Any] = json.loads(out)
    assert {"train", "test"} <= set(stores)
    for store in stores.values():
        folder = Path(store["folder"])
        assert {"card.md", "card.json", "grid.png"} <= {path.name for path in folder.iterdir()}
        for side in (32, 64):
            assert np.load(folder / f"images-{side}.npy", mmap_mode="r").shape == (store["images"], 3, side, side)
    assert call("data", "check", name, "--root", root, "--size", "32")[0] in (0, 1)
    code, out, err = call(
        "run", "text-dcgan", "--data", name, "--root", root, "--budget", 16, "--judges", "scenes", "--samples", 2,
        "--runs", tmp_path / "runs", "--json", *TINY,
    )  # fmt: skip
    assert code == 0, out + err
    result = json.loads(out)
    assert {"fid@scenes", "clip_score@scenes"} <= set(result["scores"])
    steps = [json.loads(line) for line in (Path(result["run"]) / "train.jsonl").read_text().splitlines()]
    assert {row["stage"] for row in steps} == {"text_encoder", "gan"}
