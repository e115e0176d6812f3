"""Every kind of data from the command line: prepare, check, train a step, score; and hostile data."""

import io
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from layouts_birds import cub, cub_gan, oxford102, oxford102_gan
from layouts_emoji import emoji_full
from layouts_scraped import coco, flickr8k, flickr8k_kaggle, flickr30k, flickr30k_kaggle, picture, shards, write_tar
from PIL import Image
from test_webdataset import BAD_MEMBERS, SAMPLE, Files

Call = Callable[..., tuple[int, str, str]]

TINY = ["--set", "generator_width=8", "--set", "discriminator_width=8",
        "--set", "text_encoder.char_cnn_rnn.channels=[8,8,8]", "--set", "text_encoder.char_cnn_rnn.recurrent_width=16",
        "--set", "text_encoder.char_cnn_rnn.image_width=8", "--set", "batch_size=4",
        "--set", "text_encoder.char_cnn_rnn.batch_size=4", "--set", "augmentation=crop-flip"]  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("T2IBENCH_CACHE", str(tmp_path / "cache"))


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
    ("flickr", partial(flickr8k_kaggle, images=150)), ("flickr", partial(flickr30k, images=150)),
    ("flickr", partial(flickr30k_kaggle, images=150)), ("webdataset", named_shards),
    ("imagefolder", imagefolder), ("imagefolder", side_files), ("emoji-full", emoji_full),
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


def os_system(command: str) -> bytes:
    return b"cposix\nsystem\n(V" + command.encode() + b"\ntR."


def pickled_call(root: Path) -> Path:
    home = cub_gan(root)
    marker = root.parent / "executed"
    (home / "train" / "filenames.pickle").write_bytes(os_system(f"touch {marker}"))
    return home


def embeddings_of_nan(root: Path) -> Path:
    home = cub_gan(root)
    path = home / "train" / "char-CNN-RNN-embeddings.pickle"
    path.write_bytes(path.read_bytes().replace(np.float32(1).tobytes(), np.float32(np.nan).tobytes()))
    return home


def spoiled(layout: Callable[..., Path], file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Path]:
    """Return a layout with one file (the first that matches) changed."""

    def write(root: Path) -> Path:
        root = layout(root)
        path = sorted(root.rglob(file))[0]
        path.write_bytes(change(path.read_bytes()))
        return root

    return write


def linked_out(root: Path) -> Path:
    root = imagefolder(root)
    secret = root.parent / "secret.png"
    secret.write_bytes(picture(0))
    (root / "train" / "0.jpg").unlink()
    (root / "train" / "0.jpg").symlink_to(secret)
    return root


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content.replace(old, new, 1)


def line(row: object) -> Callable[[bytes], bytes]:
    return lambda old: old + json.dumps(row).encode() + b"\n"


LONG = "x" * 10**6
def pipe(root: Path) -> Path:
    root = side_files(root)
    (root / "3.txt").unlink()
    os.mkfifo(root / "3.txt")
    return root


def bomb() -> bytes:
    """Return a PNG of a few kilobytes that unpacks to 100 million pixels."""
    file = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(file, "PNG")
    return file.getvalue()


HOSTILE: list[tuple[str, Callable[[Path], Path], str]] = [
    ("cub", pickled_call, "filenames.pickle"),
    ("cub", embeddings_of_nan, "char-CNN-RNN-embeddings.pickle"),
    ("cub", spoiled(cub_gan, "train/class_info.pickle", lambda old: old[: len(old) // 2]), "class_info.pickle"),
    ("cub", spoiled(cub, "image_class_labels.txt", swap(b" 1\n", b" 999\n")), "labels.txt"),
    ("cub", spoiled(cub, "images.txt", swap(b"1 001", b"1 ../../001")), "images.txt, line"),
    ("oxford102", spoiled(oxford102, "imagelabels.mat", lambda old: old[:64]), "imagelabels.mat"),
    ("coco", spoiled(coco, "captions_train2014.json", lambda old: old[:500]), "captions_train2014.json"),
    ("coco", spoiled(coco, "*.jpg", lambda old: old[:200]), "broken or unreadable image"),
    ("flickr", spoiled(flickr8k, "Flickr8k.token.txt", lambda old: old + b"no.jpg#0\tmissing\n"), "no.jpg"),
    ("flickr", spoiled(flickr8k, "Flickr8k.token.txt", swap(b"\ta ", b"\ta\x07")), "control"),
    ("webdataset", spoiled(named_shards, "*.tar", lambda old: old[:3000]), "cut off"),
    ("webdataset", spoiled(named_shards, "*.tar", swap(b"000010005.", b"../010005.")), ".tar"),
    ("imagefolder", spoiled(imagefolder, "metadata.jsonl", line({"file_name": "../x", "text": "x"})), "'..'"),
    ("imagefolder", spoiled(imagefolder, "metadata.jsonl", line({"file_name": "0.jpg", "text": LONG})), "1,000,000"),
    ("imagefolder", spoiled(imagefolder, "metadata.jsonl", lambda old: old[:-9]), "metadata.jsonl, line 6: not JSON"),
    ("imagefolder", spoiled(imagefolder, "*.jpg", lambda old: b"<svg/>"), "not an image of a known format"),
    ("imagefolder", linked_out, "a link that leaves"),
    ("imagefolder", pipe, "3.txt: is not a file"),
    ("imagefolder", spoiled(imagefolder, "*.jpg", lambda old: bomb()), "too many pixels"),
    ("imagefolder", spoiled(imagefolder, "metadata.jsonl", line({"file_name": "0.jpg", "text": "a"})), "named twice"),
    ("imagefolder", spoiled(imagefolder, "metadata.jsonl", line({"file_name": "n.jpg", "text": "a"})), "no image"),
    ("imagefolder", spoiled(imagefolder, "*.jpg", lambda old: b""), "the file is empty"),
    ("webdataset", spoiled(named_shards, "*.tar", lambda old: b"\x1f\x8b" + old), "compressed with gzip"),
    ("webdataset", spoiled(named_shards, "*.tar", lambda old: old + old), "something follows the end"),
    ("coco", spoiled(coco, "captions_val2014.json", swap(b'"image_id": ', b'"image_id": 9')), "describes"),
    ("coco", spoiled(coco, "captions_val2014.json", swap(b'"id": ', b'"id": NaN, "x": ')), "got nan"),
    ("oxford102", spoiled(oxford102, "class_*/*.txt", lambda old: b"\xff\xfe"), "not UTF-8"),
    ("cub-crop-code", spoiled(cub, "bounding_boxes.txt", swap(b"1 ", b"1 nan ")), "boxes.txt, line"),
    ("cub", spoiled(cub_gan, "train/char*.pickle", lambda old: old[:-40]), "cut off"),
    ("cub", spoiled(cub_gan, "train/filenames.pickle", lambda old: b"cos\nsystem\n."), "filenames.pickle"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layout", "said"), HOSTILE)
def test_hostile_data_is_one_line_and_exit_code_2(
    name: str, layout: Callable[[Path], Path], said: str, call: Call, tmp_path: Path
) -> None:
    refused(name, layout(tmp_path / "data"), said, call, tmp_path)


@pytest.mark.parametrize(("files", "said"), BAD_MEMBERS, ids=range(len(BAD_MEMBERS)))
def test_hostile_shards_are_one_line_and_exit_code_2(files: Files, said: str, call: Call, tmp_path: Path) -> None:
    write_tar(tmp_path / "data" / "0.tar", [*SAMPLE, *files])
    refused("webdataset", tmp_path / "data", said, call, tmp_path)


def refused(name: str, root: Path, said: str, call: Call, tmp_path: Path) -> None:
    """See `data prepare` end with one line and exit code 2, and no file outside the cache made or changed."""
    before = contents(tmp_path)
    code, out, err = call("data", "prepare", name, "--root", root, "--size", "32")
    errors = [text for text in err.splitlines() if text.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and said in errors[0] and "Traceback" not in err + out
    assert contents(tmp_path) == before
    assert not list(tmp_path.rglob("*.partial"))


def contents(folder: Path) -> dict[Path, bytes]:
    """Return every file outside the cache."""
    files = (path for path in folder.rglob("*") if path.is_file() and folder / "cache" not in path.parents)
    return {path: path.read_bytes() for path in files}
