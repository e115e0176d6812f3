"""Drawing with a trained model: images for prompts, kept; grids and galleries."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from ..baselines.interface import TextToImage
from ..datasets.images import grid
from ..datasets.store import Store
from ..errors import UserError
from ..eval.prompts import Prompt
from ..files import digest_of, read_json, whole_file, whole_folder, write_json
from ..reports.records import GalleryItem
from .training import Watch

AT_ONCE = 256
GALLERY = 16
NEAREST_COLUMNS = 8


class Drawn(NamedTuple):
    """Images uint8 [N, 3, H, W], and how fast they came."""

    images: NDArray[np.uint8]
    images_per_second: float


def draw(
    model: TextToImage, weights: str, prompts: Sequence[Prompt], folder: Path, watch: Watch, settings: Mapping[str, Any]
) -> Drawn:
    """Draw one image a prompt, kept in `folder` under a key of the prompts, the settings and what names the weights."""
    key = [weights, [list(prompt) for prompt in prompts], *([dict(settings)] if settings else [])]
    kept = folder / digest_of(key)[:12]
    if not kept.exists():
        images, started = [], time.monotonic()
        watch("draw", 0, len(prompts))
        for start in range(0, len(prompts), AT_ONCE):
            some = prompts[start : start + AT_ONCE]
            drawn = model.sample([p.caption for p in some], seeds=[p.seed for p in some])
            images.append(_checked(model, drawn, len(some)))
            watch("draw", start + len(some), len(prompts))
        seconds = time.monotonic() - started
        with whole_folder(kept) as temporary:
            np.save(temporary / "images.npy", np.concatenate(images))
            write_json(temporary / "drawn.json", {"images_per_second": len(prompts) / seconds})
    return Drawn(np.load(kept / "images.npy"), read_json(kept / "drawn.json")["images_per_second"])


def _checked(model: TextToImage, images: torch.Tensor, number: int) -> NDArray[np.uint8]:
    """Return drawn images as an array; raise UserError unless they are what the interface promises."""
    wanted = (number, 3, model.config.image_size, model.config.image_size)
    if images.dtype != torch.uint8 or tuple(images.shape) != wanted:
        raise UserError(
            f"{type(model).__name__}.sample: expected uint8 {list(wanted)}, got {images.dtype} {list(images.shape)}"
        )
    pixels: NDArray[np.uint8] = images.numpy()
    return pixels


def save_grid(path: Path, images: NDArray[np.uint8], columns: int = 8) -> None:
    """Write images uint8 [N, 3, H, W] as one PNG, `columns` a row, with a white line between."""
    with whole_file(path) as temporary:
        grid(images, columns).save(temporary, format="PNG")


def save_nearest(path: Path, images: NDArray[np.uint8], nearest: Sequence[str], train: Store) -> None:
    """Write the first images uint8 [N, 3, H, W], each row above a row of the training images named by `nearest`."""
    places = {name: at for at, name in enumerate(train.ids)}
    shown = min(GALLERY, len(nearest))
    known = train.batch([places[name] for name in nearest[:shown]]).images.numpy()
    rows = [part for at in range(0, shown, NEAREST_COLUMNS)
            for part in (images[at : at + NEAREST_COLUMNS], known[at : at + NEAREST_COLUMNS])]  # fmt: skip
    save_grid(path, np.concatenate(rows), NEAREST_COLUMNS)


def save_gallery(
    run: Path, gallery: Path, images: NDArray[np.uint8], prompts: Sequence[Prompt]
) -> tuple[GalleryItem, ...]:
    """Write the first images as PNGs into `gallery`, inside the folder `run`; return what the record says of them."""
    items = []
    for number, (image, prompt) in enumerate(zip(images[:GALLERY], prompts[:GALLERY], strict=True)):
        file = gallery / f"{number:02d}.png"
        save_png(file, image.transpose(1, 2, 0))
        items.append(GalleryItem(caption=prompt.caption, caption_id=prompt.caption_id, seed=prompt.seed,
                                 file=file.relative_to(run).as_posix()))  # fmt: skip
    return tuple(items)


def save_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write pixels uint8 [H, W, 3]."""
    with whole_file(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
