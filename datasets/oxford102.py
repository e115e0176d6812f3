"""Oxford-102: flowers of 102 classes with Reed's captions, divided by classes for zero-shot text-to-image."""

import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from ..errors import UserError
from .image_files import ImageFiles
from .reed_captions import HOME_PAGE as REED_PAGE
from .reed_captions import ListedImage, Listing, Places, caption_files, captioned_splits, entries
from .user_files import opened_root, short

HOME_PAGE = "102 Category Flower Dataset, https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
EXPECTED = {"train": 7_034, "test": 1_155}
NUM_CLASSES = 102

MAX_LABELS_BYTES = 1 << 17
"""All 8,189 labels take 66 KB as doubles; packed zeros would unfold a thousandfold."""
IMAGE = re.compile(r"image_([0-9]{5})\.jpg")
CAPTIONS = re.compile(r"class_([0-9]{5})/image_([0-9]{5})")
PACKED = 15
"""MATLAB's number for a part that is packed with zlib."""
NUMERIC = frozenset("int8 uint8 int16 uint16 int32 uint32 int64 uint64 single double".split())


def open_source(root: Path | None) -> ImageFiles:
    """Return the flowers as a source; raise UserError naming the file and image of what is wrong.

    `root` holds the publisher's `jpg/` and `imagelabels.mat`, itself or in `flowers-102/` (torchvision) or
    `flowers/` (the GAN repositories' `Data/`). Beside them, or in `cvpr2016_flowers/` beside them, lie Reed's
    `text_c10/`, `trainvalclasses.txt` and `testclasses.txt`, or the GAN repositories' `train/*.pickle` and
    `test/*.pickle`; see `captioned_splits`. Without `imagelabels.mat` the folders of the captions say the
    classes. The publisher's `setid.mat` divides every class and is not used: 82 classes train and 20 others
    test (Reed et al., ICML 2016, section 5).
    """
    root = opened_root("oxford102", root)
    try:
        splits = captioned_splits(_listing(root))
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error
    names = tuple(f"class {number}" for number in range(1, NUM_CLASSES + 1))
    return ImageFiles("oxford102", splits, class_names=names, expected=EXPECTED, zero_shot=True)


def read_labels(path: Path) -> list[int]:
    """Return the class of each image, 1 to 102, from an `imagelabels.mat`; raise UserError at anything else.

    The file is MATLAB's, with a matrix `labels` of 1 x N whole numbers.
    """
    if path.stat().st_size > MAX_LABELS_BYTES:
        raise UserError(f"{path}: {path.stat().st_size:,} bytes; at most {MAX_LABELS_BYTES:,} are read")
    try:
        _check_unpacked(path)
        values = _matrix(path)
    except UserError:
        raise
    # Readers of broken files raise nearly anything: OSError, struct.error, zlib.error, NotImplementedError.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: not a MATLAB file that can be read ({short(reason, 200)})") from error
    wrong = ~np.isin(values, np.arange(1, NUM_CLASSES + 1))
    if wrong.any():
        image = int(wrong.argmax())
        raise UserError(f"{path}: image {image + 1} is of class {values[image]}; expected 1 to {NUM_CLASSES}")
    return [int(value) for value in values]


def _check_unpacked(path: Path) -> None:
    """Raise UserError where a packed part of a MATLAB file (version 5) is larger than all of it should be."""
    data = path.read_bytes()
    layout = struct.Struct("<II" if data[126:128] == b"IM" else ">II")
    at = 128
    while at + layout.size <= len(data):
        kind, size = layout.unpack_from(data, at)
        at += layout.size
        unpacker = zlib.decompressobj()
        if kind == PACKED and len(unpacker.decompress(data[at : at + size], MAX_LABELS_BYTES)) == MAX_LABELS_BYTES:
            raise UserError(f"{path}: unpacks to over {MAX_LABELS_BYTES:,} bytes")
        at += size


def _matrix(path: Path) -> NDArray[np.generic]:
    """Return `labels` as [N]; what the file announces is checked before anything is unpacked."""
    found = {name: (list(shape), kind) for name, shape, kind in whosmat(str(path), appendmat=False)}
    shape, kind = found.get("labels", ([], ""))
    if kind not in NUMERIC or len(shape) != 2 or shape[0] != 1 or not 1 <= shape[1] <= MAX_LABELS_BYTES:
        there = ", ".join(f"{name!r} {kind} {shape}" for name, (shape, kind) in found.items())
        raise UserError(f"{path}: expected `labels` of 1 x N numbers, got {short(there, 200) or 'nothing'}")
    values = loadmat(str(path), appendmat=False, variable_names=["labels"])["labels"]
    if values.dtype.kind not in "iuf" or list(values.shape) != shape:
        raise UserError(f"{path}: expected `labels` of 1 x N whole numbers, got {values.dtype} {list(values.shape)}")
    matrix: NDArray[np.generic] = values[0]
    return matrix


def _listing(root: Path) -> Listing:
    places = _locate(root)
    folder = places.need("the folder of images is", HOME_PAGE, "jpg")
    present = {entry.name for entry in entries(root, folder)}
    source = places.need("classes are", HOME_PAGE, "imagelabels.mat", "text_c10", "text")
    labelled = source.name == "imagelabels.mat"
    classes = dict(enumerate(read_labels(source), start=1)) if labelled else _by_folder(root, source)
    numbers = {name: int(found[1]) for name in present if (found := IMAGE.fullmatch(name))}
    if strays := sorted(name for name, number in numbers.items() if number not in classes):
        raise UserError(f"{folder / strays[0]}: {source} says no class for it")
    images = [
        ListedImage(
            key=f"jpg/image_{number:05}", name=f"image_{number:05}.jpg", path=folder / f"image_{number:05}.jpg",
            label=classes[number] - 1, text=f"class_{classes[number]:05}/image_{number:05}",
        )
        for number in sorted(classes)
    ]  # fmt: skip
    folders = [f"class_{number:05}" for number in range(1, NUM_CLASSES + 1)]
    return Listing(
        places=places, archive="cvpr2016_flowers", home_page=HOME_PAGE, images=images, present=present, classes=folders
    )  # fmt: skip


def _locate(root: Path) -> Places:
    """Return where everything may lie; the first place is the folder with `jpg/`."""
    homes = [home for home in (root, root / "flowers-102", root / "flowers") if (home / "jpg").is_dir()]
    if not homes:
        reed = f"beside it belong imagelabels.mat and Reed's cvpr2016_flowers, from {REED_PAGE}"
        raise UserError(f"{root}: no folder jpg in it, in flowers-102/ or in flowers/, from {HOME_PAGE}; {reed}")
    if len(homes) > 1:
        raise UserError(f"{root}: {' and '.join(map(str, homes))} both have a folder jpg; give one of them as root")
    folders = [homes[0], homes[0] / "cvpr2016_flowers", root, root / "cvpr2016_flowers"]
    return Places(root, tuple(dict.fromkeys(folders)))


def _by_folder(root: Path, text: Path) -> dict[int, int]:
    """Return the class of each image by the folder of its captions."""
    classes: dict[int, int] = {}
    for name in caption_files(root, text):
        found = CAPTIONS.fullmatch(name)
        if not found or not 1 <= int(found[1]) <= NUM_CLASSES:
            raise UserError(f"{text / name}.txt: expected class_00001 to class_{NUM_CLASSES:05} and image_00000.txt")
        group, number = int(found[1]), int(found[2])
        if number in classes:
            raise UserError(f"{text / name}.txt: image {number} is in the folder of class {classes[number]} too")
        classes[number] = group
    return classes
