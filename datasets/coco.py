"""MS-COCO captions of 2014 and 2017, from the publisher's own annotation files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .image_files import ImageFile, ImageFiles
from .publishers import fields, folders_in, refuse_missing, tidy_caption
from .user_files import opened_root, parse_json, read_text, short

EXPECTED: Mapping[int, Mapping[str, int]] = {
    2014: {"train": 82_783, "test": 40_504},
    2017: {"train": 118_287, "test": 5_000},
}
PARTS = {"train": "train", "test": "val"}
"""What the publisher calls the splits."""
OFFERED = "Microsoft COCO, https://cocodataset.org/#download"


def open_source(root: Path | None) -> ImageFiles:
    """Return the COCO captions of the year that lies in `root`; raise UserError when both years do.

    The folder, or one folder in it, holds `annotations/captions_train2014.json` and `captions_val2014.json` (or
    those of 2017), and the images in `train2014/` and `val2014/`, in the same two under `images/`, or all in
    `images/`. The split "train" is the publisher's train; "test" is the publisher's val, because that is what the
    literature scores on (30,000 captions of val2014). A split is left out when neither its annotations nor its
    folder are there. Captions come in the order of their ids, an image may have none; a blank one counts as none.
    """
    home = _home("coco", root, tuple(EXPECTED))
    years = [year for year in EXPECTED if _annotation_files(home, year)]
    if len(years) > 1:
        raise UserError(f"{home}: holds captions of 2014 and of 2017; choose with --data coco2014 or --data coco2017")
    return _open(home, years[0])


def open_2014(root: Path | None) -> ImageFiles:
    """Return COCO 2014, also where 2017 lies beside it; see `open_source`."""
    return _open(_home("coco2014", root, (2014,)), 2014)


def open_2017(root: Path | None) -> ImageFiles:
    """Return COCO 2017, also where 2014 lies beside it; see `open_source`."""
    return _open(_home("coco2017", root, (2017,)), 2017)


def _home(name: str, root: Path | None, years: tuple[int, ...]) -> Path:
    """Return the folder with annotations of one of the years: `root`, or the only folder in it that has them."""
    root = opened_root(name, root)
    if any(_annotation_files(root, year) for year in years):
        return root
    homes = [folder for folder in folders_in(root) if any(_annotation_files(folder, year) for year in years)]
    if len(homes) > 1:
        raise UserError(f"{root}: {homes[0].name} and {homes[1].name} both hold COCO; give --root one of them")
    if not homes:
        wanted = " or ".join(f"captions_{part}{year}.json" for year in years for part in PARTS.values())
        raise UserError(f"{root / 'annotations'}: no {wanted}; they come with {OFFERED}")
    return homes[0]


def _annotation_files(home: Path, year: int) -> dict[str, Path]:
    """Return the annotation files of a year that exist, by split."""
    files = {split: home / "annotations" / f"captions_{part}{year}.json" for split, part in PARTS.items()}
    return {split: path for split, path in files.items() if path.exists()}


def _open(home: Path, year: int) -> ImageFiles:
    annotations = _annotation_files(home, year)
    splits = {}
    for split, part in PARTS.items():
        folder = _image_folder(home, part, year)
        if split in annotations:
            splits[split] = _read_split(home, annotations[split], folder)
        elif folder.name == f"{part}{year}" and folder.is_dir():
            wanted = home / "annotations" / f"captions_{part}{year}.json"
            raise UserError(f"{folder}: its captions are missing: no {wanted}; they come with {OFFERED}")
    return ImageFiles(f"coco{year}", splits, expected=EXPECTED[year])


def _image_folder(home: Path, part: str, year: int) -> Path:
    """Return where the images of a part lie: in its own folder, or with all others in `images`."""
    merged = home / "images"
    for folder in (home / f"{part}{year}", merged / f"{part}{year}"):
        if folder.is_dir():
            return folder
    divided = any((merged / f"{other}{year}").is_dir() for other in PARTS.values())
    return merged if merged.is_dir() and not divided else home / f"{part}{year}"


def _read_split(home: Path, annotations: Path, folder: Path) -> list[ImageFile]:
    if not folder.is_dir():
        places = f"no folder {folder}, none of that name in {home / 'images'}, and no images all in that one"
        raise UserError(
            f"{annotations}: its images are missing: {places}; they come with {OFFERED}, "
            "or move this file away to go without the split"
        )
    content = parse_json(read_text(home, annotations), str(annotations))
    if not isinstance(content, dict) or not {"images", "annotations"} <= content.keys():
        raise UserError(f"{annotations}: expected an object with the lists `images` and `annotations`")
    names = _file_names(content["images"], annotations)
    refuse_missing(home, folder, names.values(), str(annotations), OFFERED)
    captions = _captions(content["annotations"], annotations, names)
    return [
        ImageFile(name=name, path=folder / name, captions=tuple(captions[number]))
        for number, name in sorted(names.items())
    ]


def _file_names(images: Any, annotations: Path) -> dict[int, str]:
    """Return the name of each image's file, by its id."""
    names: dict[int, str] = {}
    number_of: dict[str, int] = {}
    for number, name in fields(images, {"id": int, "file_name": str}, f"{annotations}: images"):
        if number in names:
            raise UserError(f"{annotations}: the id {number} stands for two images")
        if name in number_of:
            both = f"{number_of[name]} and {number}"
            raise UserError(f"{annotations}: images {both} have the same `file_name`, {short(repr(name))}")
        names[number] = name
        number_of[name] = number
    return names


def _captions(rows: Any, annotations: Path, images: Mapping[int, str]) -> dict[int, list[str]]:
    """Return the captions of each image, in the order of their ids: the file's own order means nothing."""
    numbered: dict[int, list[tuple[int, str]]] = {image: [] for image in images}
    seen: set[int] = set()
    file = str(annotations)
    wanted = {"id": int, "image_id": int, "caption": str}
    for number, image, caption in fields(rows, wanted, f"{annotations}: annotations"):
        where = f"{file}: annotation {number}"
        if image not in numbered:
            raise UserError(f"{where}: describes image {image}, which is not among the images of this file")
        if number in seen:
            raise UserError(f"{where}: the id stands for two annotations")
        seen.add(number)
        if words := tidy_caption(caption, where):
            numbered[image].append((number, words))
    return {image: [words for _, words in sorted(captions)] for image, captions in numbered.items()}
