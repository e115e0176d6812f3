"""CUB-200-2011: birds of 200 classes with Reed's captions, divided by classes for zero-shot text-to-image."""

import math
from collections.abc import Callable, Iterator, Set
from pathlib import Path

from ..errors import UserError
from .image_files import ImageFiles
from .images import Box
from .reed_captions import HOME_PAGE as REED_PAGE
from .reed_captions import ListedImage, Listing, Places, captioned_splits, entries
from .user_files import inside, opened_root, read_text, short

HOME_PAGE = "Caltech-UCSD Birds-200-2011, https://www.vision.caltech.edu/datasets/cub_200_2011/"
EXPECTED = {"train": 8_855, "test": 2_933}

BirdBox = tuple[int, int, int, int]
"""Left, top, width and height in whole pixels."""


def open_source(root: Path | None) -> ImageFiles:
    """Return the birds as a source, whole images; raise UserError naming file and line of what is wrong.

    `root` is the publisher's folder `CUB_200_2011`, the folder that holds it, or the parent of a `birds/` that
    does (the GAN repositories' `data/`). Beside it, or in `cvpr2016_cub/` beside it, lie Reed's `text_c10/`,
    `trainvalclasses.txt` and `testclasses.txt`, or the GAN repositories' `text/`, `train/*.pickle` and
    `test/*.pickle`; see `captioned_splits`. The publisher's `train_test_split.txt` divides every class and is
    not used: 150 classes train and 50 others test (Reed et al., ICML 2016, section 5).
    """
    return _open("cub", root, None)


def open_code_crop(root: Path | None) -> ImageFiles:
    """Return the birds cut out as in the code of StackGAN, AttnGAN and DF-GAN; see `code_crop` and `open_source`."""
    return _open("cub-crop-code", root, code_crop)


def open_paper_crop(root: Path | None) -> ImageFiles:
    """Return the birds cut out as the StackGAN paper says; see `paper_crop` and `open_source`."""
    return _open("cub-crop-paper", root, paper_crop)


def code_crop(bird: BirdBox) -> Box:
    """Return the square of 1.5 times the longer side of the bird's box, round its centre; it may leave the image."""
    left, top, width, height = bird
    return _square((2 * left + width) // 2, (2 * top + height) // 2, int(max(width, height) * 0.75))


def paper_crop(bird: BirdBox) -> Box:
    """Return the largest even square round the centre of the bird's box of which the bird's longer side is over 3/4.

    "Greater-than-0.75 object-image size ratio" (Zhang et al., StackGAN, ICCV 2017, section 4).
    """
    left, top, width, height = bird
    return _square((2 * left + width) // 2, (2 * top + height) // 2, (2 * max(width, height) - 1) // 3)


def _square(x: int, y: int, half: int) -> Box:
    return x - half, y - half, x + half, y + half


def _open(name: str, root: Path | None, crop: Callable[[BirdBox], Box] | None) -> ImageFiles:
    root = opened_root(name, root)
    try:
        return _read(name, root, crop)
    except OSError as error:
        raise UserError(f"{error.filename or root}: {error.strerror}") from error


def _read(name: str, root: Path, crop: Callable[[BirdBox], Box] | None) -> ImageFiles:
    folder, places = _locate(root)
    own = Places(places.root, (folder,))
    classes = _classes(own)
    images = _images(own, classes, crop)
    listing = Listing(
        places=places, archive="cvpr2016_cub", home_page=HOME_PAGE, images=images, present=_present(own),
        classes=classes,
    )  # fmt: skip
    return ImageFiles(name, captioned_splits(listing), class_names=classes, expected=EXPECTED, zero_shot=True)


def _locate(root: Path) -> tuple[Path, Places]:
    """Return the publisher's folder and where all else may lie."""
    if (root / "images.txt").exists():
        return root, Places(root.parent, (root.parent, root.parent / "cvpr2016_cub", root))
    homes = [home for home in (root, root / "birds") if (home / "CUB_200_2011").is_dir()]
    if not homes:
        reed = f"beside it belong Reed's captions and classes, cvpr2016_cub, from {REED_PAGE}"
        raise UserError(f"{root}: no folder CUB_200_2011 in it or in birds/, from {HOME_PAGE}; {reed}")
    if len(homes) > 1:
        raise UserError(f"{root}: it and {homes[1]} both have a folder CUB_200_2011; give one of them as root")
    home = homes[0]
    folders = [home, home / "cvpr2016_cub", home / "CUB_200_2011", root, root / "cvpr2016_cub"]
    return home / "CUB_200_2011", Places(root, tuple(dict.fromkeys(folders)))


def _classes(own: Places) -> tuple[str, ...]:
    names: list[str] = []
    for where, (number, name) in _rows(own, "classes.txt", 2):
        if number != str(len(names) + 1) or name in names:
            raise UserError(f"{where}: expected class {len(names) + 1} and a new name, got {short(f'{number} {name}')}")
        names.append(name)
    return tuple(names)


def _images(own: Places, classes: tuple[str, ...], crop: Callable[[BirdBox], Box] | None) -> list[ListedImage]:
    """Return all images in the order of `images.txt`, with their classes and, for a crop, their boxes."""
    folder = own.folders[0] / "images"
    names = _names(own)
    labels = {
        image: _label(number, names[image], classes, where)
        for image, where, (number,) in _per_image(own, "image_class_labels.txt", 1, names.keys())
    }
    boxes: dict[int, Box] = {}
    if crop:
        for image, where, fields in _per_image(own, "bounding_boxes.txt", 4, names.keys()):
            boxes[image] = crop(_bird_box(fields, where))
    return [
        ListedImage(
            key=name[:-4], name=name, path=folder / name, label=labels[image], text=name[:-4], box=boxes.get(image)
        )
        for image, name in names.items()
    ]


def _names(own: Places) -> dict[int, str]:
    """Return CLASS/IMAGE.jpg of each image's number."""
    names: dict[int, str] = {}
    seen: set[str] = set()
    for where, (number, name) in _rows(own, "images.txt", 2):
        inside(own.folders[0], name, where, "the image")
        if not name.endswith(".jpg") or name.count("/") != 1:
            raise UserError(f"{where}: expected CLASS/IMAGE.jpg, got {short(repr(name))}")
        image = _number(number, where)
        if image in names or name in seen:
            raise UserError(f"{where}: image {image}, {short(name, 200)}, is listed twice")
        names[image] = name
        seen.add(name)
    return names


def _label(number: str, name: str, classes: tuple[str, ...], where: str) -> int:
    label = _number(number, where) - 1
    if not 0 <= label < len(classes):
        raise UserError(f"{where}: class {label + 1} is none of 1 to {len(classes)}")
    if classes[label] != name.partition("/")[0]:
        raise UserError(f"{where}: class {label + 1} is {classes[label]}, but the image is {name}")
    return label


def _bird_box(fields: list[str], where: str) -> BirdBox:
    try:
        values = [float(field) for field in fields]
    except ValueError:
        values = [math.nan]
    if not all(0 <= value < 100_000 for value in values) or min(values[2:]) < 1 or max(values[2:]) < 2:
        raise UserError(f"{where}: expected left, top, width and height in pixels, got {short(' '.join(fields))}")
    left, top, width, height = map(int, values)
    return left, top, width, height


def _per_image(own: Places, file: str, columns: int, images: Set[int]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield image, place and fields of each line; raise UserError unless there is one line for each image."""
    seen: set[int] = set()
    for where, (number, *fields) in _rows(own, file, 1 + columns):
        image = _number(number, where)
        if image not in images or image in seen:
            problem = "stands here twice" if image in seen else "is not in images.txt"
            raise UserError(f"{where}: image {image} {problem}")
        seen.add(image)
        yield image, where, fields
    if missing := images - seen:
        raise UserError(f"{own.folders[0] / file}: no line for image {min(missing)}")


def _rows(own: Places, file: str, columns: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the place and the fields of each line of one of the publisher's tables."""
    path = own.need(f"{file} is", HOME_PAGE, file)
    for number, line in enumerate(read_text(own.root, path).split("\n"), start=1):
        fields = line.split()
        if fields and len(fields) != columns:
            raise UserError(f"{path}, line {number}: expected {columns} columns, got {short(repr(line))}")
        if fields:
            yield f"{path}, line {number}", fields


def _number(text: str, where: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise UserError(f"{where}: expected a number from 1 on, got {short(repr(text))}")
    return int(text)


def _present(own: Places) -> set[str]:
    """Return CLASS/IMAGE.jpg of all files that are there."""
    folder = own.need("the folder of images is", HOME_PAGE, "images")
    return {
        f"{group.name}/{entry.name}"
        for group in entries(own.root, folder)
        if group.is_dir()
        for entry in entries(own.root, Path(group.path))
    }
