"""Small faithful copies of COCO, Flickr8k, Flickr30k and tar shards: coloured shapes whose captions say the colour."""

import csv
import io
import json
import random
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

COLOURS = {
    "red": (220, 30, 30),
    "green": (30, 160, 60),
    "blue": (30, 60, 220),
    "yellow": (235, 220, 40),
    "purple": (150, 30, 170),
    "grey": (128, 128, 128),
}
BROKEN_LINE = "2199200615.jpg| 4   A dog runs across the grass ."
NO_IMAGE = "2258277193_586949ec62.jpg.1"


def colour(number: int) -> str:
    """Return the colour of the image of this number."""
    return list(COLOURS)[number % len(COLOURS)]


def captions(number: int, count: int) -> list[str]:
    """Return what is said of the image of this number."""
    return [f"a {colour(number)} circle, number {number} , look {look} ." for look in range(count)]


def picture(number: int, kind: str = "JPEG") -> bytes:
    """Return an image file with a circle of its colour in the middle of blocks; the grey one has a single channel."""
    name = colour(number)
    # Each has a ground of its own, or images of one colour would be duplicates.
    ground = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
    image = Image.fromarray(ground).resize((40, 32), Image.Resampling.NEAREST)
    ImageDraw.Draw(image).ellipse((10, 6, 30, 26), fill=COLOURS[name])
    file = io.BytesIO()
    (image.convert("L") if name == "grey" else image).save(file, kind)
    return file.getvalue()


def colour_in(pixels: NDArray[np.uint8]) -> str:
    """Return the colour in the middle of an image [3, H, W]."""
    middle = pixels.shape[1] // 2
    seen = pixels[:, middle - 1 : middle + 1, middle - 1 : middle + 1].mean((1, 2))
    return min(COLOURS, key=lambda name: float(np.abs(seen - COLOURS[name]).sum()))


def save(folder: Path, numbers: Mapping[str, int]) -> None:
    """Write the images of these names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in numbers.items():
        (folder / name).write_bytes(picture(number))


def coco(
    root: Path, year: int = 2014, place: str = "{part}{year}", counts: Sequence[int] = (5, 6, 7), images: int = 6
) -> Path:
    """Write COCO captions of one year; `place` is also "images/{part}{year}", or "images" for both parts in one.

    As in the publisher's files the annotations are shuffled, some captions end in blanks and newlines, the images of
    2014 have a prefix. The numbers of the images, by which their colours go, are those of their ids: train has 3, 10,
    17 and so on, val has 1,003, 1,010.
    """
    (root / "annotations").mkdir(parents=True, exist_ok=True)
    for part, first in (("train", 3), ("val", 1003)):
        prefix = f"COCO_{part}2014_" if year == 2014 else ""
        numbers = {f"{prefix}{number:012}.jpg": number for number in range(first, first + 7 * images, 7)}
        save(root / place.format(part=part, year=year), numbers)
        described = [
            (number, caption)
            for place_, number in enumerate(numbers.values())
            for caption in captions(number, counts[place_ % len(counts)])
        ]
        ends = ("", " ", "\n", " \n\n", "  ")
        annotations: list[dict[str, Any]] = [
            {"image_id": number, "id": 100 + 7 * place_, "caption": caption + ends[place_ % len(ends)]}
            for place_, (number, caption) in enumerate(described)
        ]
        random.Random(0).shuffle(annotations)
        listed = [
            {"license": 3, "file_name": name, "coco_url": "", "height": 32, "width": 40, "date_captured": "",
             "flickr_url": "", "id": number}
            for name, number in reversed(numbers.items())
        ]  # fmt: skip
        content = {"info": {"year": year}, "images": listed, "licenses": [], "annotations": annotations}
        (root / "annotations" / f"captions_{part}{year}.json").write_text(json.dumps(content))
    return root


def flickr8k(root: Path, images: int = 12) -> Path:
    """Write Flickr8k as published: the token file with captions of an image that is not there, and lists of splits.

    Two images are in no list.
    """
    numbers = {f"{1000268201 + number}_693b08cb0e.jpg": number for number in range(images)}
    save(root / "Flicker8k_Dataset", numbers)
    save_tokens(root / "Flickr8k.token.txt", numbers)
    with open(root / "Flickr8k.token.txt", "a") as file:
        file.writelines(f"{NO_IMAGE}#{look}\tA man in a crowd .\n" for look in range(5))
    names = list(numbers)
    lists = {"train": names[: images - 6], "dev": names[images - 6 : -4], "test": names[-4:-2]}
    for split, listed in lists.items():
        (root / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}\n" for name in listed))
    return root


def flickr8k_kaggle(root: Path, images: int = 12) -> Path:
    """Write Flickr8k as on Kaggle: a CSV, with quotes round captions that hold commas, and no lists of splits."""
    numbers = {f"{1000268201 + number}_693b08cb0e.jpg": number for number in range(images)}
    save(root / "Images", numbers)
    with open(root / "captions.txt", "w", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(["image", "caption"])
        rows.writerows([name, caption] for name, number in numbers.items() for caption in captions(number, 5))
    return root


def flickr30k(root: Path, images: int = 12) -> Path:
    """Write Flickr30k as published: without lists of splits."""
    numbers = {f"{1000092795 + number}.jpg": number for number in range(images)}
    save(root / "flickr30k-images", numbers)
    save_tokens(root / "results_20130124.token", numbers)
    return root


def flickr30k_kaggle(root: Path, images: int = 12) -> Path:
    """Write Flickr30k as on Kaggle: the images in a folder within a folder, and one line short of a separator."""
    numbers = {f"{1000092795 + number}.jpg": number for number in range(images)} | {"2199200615.jpg": 0}
    save(root / "flickr30k_images" / "flickr30k_images", numbers)
    lines = ["image_name| comment_number| comment"]
    for name, number in numbers.items():
        lines += [f"{name}| {look}| {caption}" for look, caption in enumerate(captions(number, 5))]
    lines[-1] = BROKEN_LINE
    (root / "flickr30k_images" / "results.csv").write_text("\n".join(lines) + "\n")
    return root


def save_tokens(path: Path, numbers: Mapping[str, int]) -> None:
    """Write a token file with five captions an image."""
    lines = [f"{name}#{look}\t{caption}" for name, n in numbers.items() for look, caption in enumerate(captions(n, 5))]
    path.write_text("".join(f"{line}\n" for line in lines))


def karpathy(root: Path, name: str, splits: Mapping[str, str], numbers: Mapping[str, int]) -> Path:
    """Write Karpathy's JSON for the images of these names, splits and numbers; his captions are five each."""
    images = [
        {"sentids": [], "imgid": place, "filename": image, "split": split,
         "sentences": [{"tokens": caption.split(), "raw": caption, "imgid": place, "sentid": 0}
                       for caption in captions(numbers[image], 5)]}
        for place, (image, split) in enumerate(splits.items())
    ]  # fmt: skip
    (root / f"dataset_{name}.json").write_text(json.dumps({"images": images, "dataset": name}))
    return root


def shards(root: Path, names: Sequence[str] = ("00000.tar", "00001.tar"), images: int = 6) -> Path:
    """Write tar shards as img2dataset does: keys that leave gaps, files of a sample in any order, JSON beside text.

    Each shard has a dead link (a JSON without an image) and an orphan caption. The numbers of the images are their
    keys: those of the second shard begin at 10,000.
    """
    for shard, name in enumerate(names):
        files: list[tuple[str, bytes]] = []
        for place in range(images):
            number = 10_000 * shard + 5 * place
            key = f"{number:09}"
            kind = ("jpg", "jpeg", "png", "webp")[place % 4]
            said = captions(number, 1)[0]
            row = {"caption": said, "url": "", "key": key, "status": "success", "error_message": None, "width": 40}
            sample = [
                (f"{key}.{kind}", picture(number, {"jpg": "JPEG"}.get(kind, kind.upper()))),
                (f"{key}.json", json.dumps(row).encode()),
                (f"{key}.txt", said.encode()),
            ]
            files += sample[place % 3 :] + sample[: place % 3]
        dead = {"caption": "a lost thing", "status": "failed_to_download"}
        files.insert(3, (f"{10_000 * shard + 1:09}.json", json.dumps(dead).encode()))
        files.append((f"{10_000 * shard + 9_999:09}.txt", b"an orphan"))
        write_tar(root / name, files)
    return root


def write_tar(path: Path, files: Iterable[tuple[str | tarfile.TarInfo, bytes]]) -> Path:
    """Write a tar as Python does: with a pax header before each member, for the fraction of a second of its time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size, info.mtime = len(content), 1234567890.5  # type: ignore[assignment]
            tar.addfile(info, io.BytesIO(content))
    return path
