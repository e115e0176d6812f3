"""The verb `sample`: captions of the user's drawn by a trained run, as PNGs, their captions, and a grid."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..baselines.interface import Completes, TextToImage, Tokenizes
from ..dalle.image_prompt import ImagePrompt
from ..dalle.reranking import Reranks, best_of
from ..datasets.images import decode, size_of
from ..datasets.user_files import short
from ..errors import UserError
from ..files import seed_of, whole_file
from .drawing import save_grid, save_png
from .trained import load_model, reopen_run
from .training import Watch, silent

IMAGES = 16
"""That are drawn of a caption, unless told."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be drawn of each caption."""

    n: int = IMAGES
    """Images to draw, or to keep of `best_of`."""
    best_of: int = 0
    """Candidates to draw and choose from; 0 keeps every image that is drawn."""
    seed: int = 0
    """Of the noise."""
    image: Path | None = None
    """An image prompt: any square image file, brought to the model's size."""
    keep_rows: int = 0
    """Rows of pixels at the top of it that are given."""
    keep_columns: int = 0
    """Columns of pixels at the left of it that are given."""

    settings: Mapping[str, str] = field(default_factory=dict)
    """Fields of the config's `sampling` that are to be others than the run's."""

    def __post_init__(self) -> None:
        """Refuse what cannot be kept."""
        if self.best_of and self.n > self.best_of:
            raise UserError(f"--keep {self.n}: more than the --best-of {self.best_of} that it is chosen from")
        if self.image is None and (self.keep_rows or self.keep_columns):
            raise UserError("--keep-rows, --keep-columns: say what is kept of an --image-prompt, which was not given")


class Sample(NamedTuple):
    """One image to be written: pixels uint8 [3, H, W], and what `metadata.jsonl` says of it."""

    pixels: NDArray[np.uint8]
    facts: dict[str, str | int | float]


def sample_run(folder: Path, captions: Sequence[str], wish: Wish, *, out: Path, watch: Watch = silent) -> Path:
    """Draw captions with a run's model; return the folder of PNGs with `metadata.jsonl` and `grid.png`.

    Raises UserError, before anything is drawn, for an empty caption, for one that the model would cut, and for a
    wish that it cannot fulfil.
    """
    model = load_model(reopen_run(folder, watch), wish.settings)
    for caption in captions:
        check_caption(model, caption)
    samples = list(_drawn(model, captions, wish, watch))
    _clear(out)
    lines = []
    for number, sample in enumerate(samples):
        name = f"{number:04d}.png"
        save_png(out / name, sample.pixels.transpose(1, 2, 0))
        lines.append(json.dumps({"file_name": name, **sample.facts}, ensure_ascii=False) + "\n")
    save_grid(out / "grid.png", np.stack([sample.pixels for sample in samples]), columns=min(wish.n, 16))
    with whole_file(out / "metadata.jsonl") as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return out


def _clear(out: Path) -> None:
    """Take from a folder what an earlier call wrote there, so that all pictures in it are those of the metadata."""
    try:
        rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError):
        return
    for row in rows:
        # A folder of the user's own images has no seeds in its metadata.
        if isinstance(row, dict) and "seed" in row and re.fullmatch(r"\d{4,}\.png", str(row.get("file_name"))):
            (out / row["file_name"]).unlink(missing_ok=True)


def check_caption(model: TextToImage, caption: str) -> None:
    """Raise UserError for a caption that says nothing, or more than the model reads."""
    if not caption.strip():
        raise UserError("prompt '': says nothing; expected a caption such as \"a red circle above a blue square\"")
    for tokenizer in model.tokenizers.values() if isinstance(model, Tokenizes) else ():
        if (count := tokenizer.count(caption)) > tokenizer.length:
            raise UserError(
                f"prompt {short(repr(caption))}: takes {count} tokens, its end included, and the model reads "
                f"{tokenizer.length}; shorten it"
            )


def _drawn(model: TextToImage, captions: Sequence[str], wish: Wish, watch: Watch) -> Iterator[Sample]:
    """Yield the samples of each caption; noise is a hash of the seed, the caption and the candidate's number."""
    if wish.image is not None and not isinstance(model, Completes):
        raise UserError(f"--image-prompt: {type(model).__name__} cannot go on with an image; dalle can")
    if wish.best_of and not isinstance(model, Reranks):
        raise UserError(f"--best-of: {type(model).__name__} cannot rank what it draws; dalle can")
    if wish.best_of and isinstance(model, Reranks):
        # Before hours of drawing: a published CLIP may read less of a caption than the transformer does.
        model.rank(captions, torch.zeros(len(captions), 3, *[model.config.image_size] * 2, dtype=torch.uint8))
    given = None
    if wish.image is not None:
        pixels = torch.from_numpy(decode(wish.image, model.config.image_size))
        width, height = size_of(wish.image)
        if width != height:
            raise UserError(
                f"{wish.image}: {width} x {height} pixels, expected a square, which is brought to the model's size; "
                "what lies outside the rows and columns that are kept may be anything"
            )
        given = ImagePrompt(pixels[None], wish.keep_rows, wish.keep_columns)
    for number, caption in enumerate(captions):
        seeds = [seed_of("noise", wish.seed, caption, k) for k in range(wish.best_of or wish.n)]
        what = f"draw {number + 1} of {len(captions)}"
        if wish.best_of and isinstance(model, Reranks):
            chooser = model.ranked_by()
            best = best_of(model, caption, seeds, wish.n, given=given, progress=partial(watch, what, total=len(seeds)))
            for image, score, k in zip(*best, strict=True):
                facts = {"text": caption, "seed": seeds[k], "candidate": int(k), "score": round(float(score), 6),
                         "ranked_by": chooser}  # fmt: skip
                yield Sample(image.numpy(), facts)
            continue
        if given is not None and isinstance(model, Completes):
            images = model.complete([caption] * wish.n, given.images.expand(wish.n, -1, -1, -1), given.keep_rows,
                                    given.keep_columns, seeds=seeds)  # fmt: skip
        else:
            images = model.sample([caption] * wish.n, seeds=seeds)
        watch(what, len(seeds), len(seeds))
        for seed, image in zip(seeds, images, strict=True):
            yield Sample(image.numpy(), {"text": caption, "seed": seed})
