"""Captioned images as one judge sees them, and the real ones that drawn ones are compared with, kept as `.npz`."""

import dataclasses
import functools
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ..datasets.captioned import CaptionedDataset
from ..errors import UserError
from ..files import cache_folder, canonical_json, digest_of, whole_file
from .frechet import FeatureMoments
from .judges import Judge, Look
from .kernel_distance import Within, cmmd_within, kid_within
from .neighbours import ball_edges

BATCH = 256
KEPT = 10_000
"""Real images whose features are kept one by one, at most; the moments are of all."""
LAYOUT = 2
"""Raised when the arrays of the file change."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, the images done, and their total."""


class Block(NamedTuple):
    """Some images uint8 [N, 3, H, W], their captions, and the ids of the real images that these describe."""

    images: torch.Tensor
    captions: Sequence[str]
    image_ids: Sequence[str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """N captioned images as one judge sees them, in one order throughout."""

    look: Look
    captions: tuple[str, ...]
    caption_embeddings: torch.Tensor | None
    """float32 [N, E] of unit length; None where the judge reads no text."""
    image_ids: tuple[str, ...]
    """Of the real image that each caption was taken from."""

    def __len__(self) -> int:
        return len(self.look.features)

    @functools.cached_property
    def moments(self) -> FeatureMoments:
        """The sums over all features."""
        return FeatureMoments.from_features(self.look.features)

    def first(self, n: int) -> "Seen":
        """Return the first `n` images."""
        look = dataclasses.replace(self.look, **{name: rows[:n] for name, rows in parts_of(self.look).items()})
        texts = None if self.caption_embeddings is None else self.caption_embeddings[:n]
        return Seen(look=look, captions=self.captions[:n], caption_embeddings=texts, image_ids=self.image_ids[:n])


def see(judge: Judge, blocks: Iterable[Block], progress: Callable[[int], None] = lambda done: None) -> Seen:
    """Have the judge look once at each block of captioned images; `progress` is told the images done."""
    looks, texts, captions, image_ids = [], [], list[str](), list[str]()
    for block in blocks:
        looks.append(judge.look(block.images))
        texts.append(judge.caption_embeddings(block.captions))
        captions += block.captions
        image_ids += block.image_ids
        progress(len(captions))
    return Seen(
        look=_joined(looks), captions=tuple(captions), image_ids=tuple(image_ids),
        caption_embeddings=None if texts[0] is None else torch.cat([text for text in texts if text is not None]),
    )  # fmt: skip


def blocks_of(images: torch.Tensor, captions: Sequence[str], image_ids: Sequence[str]) -> Iterator[Block]:
    """Yield captioned images uint8 [N, 3, H, W] in blocks of `BATCH`."""
    for start in range(0, len(images), BATCH):
        part = slice(start, start + BATCH)
        yield Block(images[part], captions[part], image_ids[part])


def _joined(looks: Sequence[Look]) -> Look:
    parts = {name: torch.cat([getattr(look, name) for look in looks]) for name in parts_of(looks[0])}
    return dataclasses.replace(looks[0], **parts)


def parts_of(look: Look) -> dict[str, torch.Tensor]:
    """Return what a look has, by name: rows of one image each."""
    return {name: rows for name, rows in vars(look).items() if rows is not None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """The real images of a split as one judge sees them."""

    about: Mapping[str, Any]
    """What the arrays are of: `data`, `split`, `image_size`, `digest`, number of `images`, `judge`, `judge_id`."""
    moments: FeatureMoments
    """Of all images looked at."""
    seen: Seen
    """At most `KEPT` of them, each with its first caption, in an order that the digest decides."""

    @functools.cached_property
    def kid_within(self) -> Within:
        """What KID needs of the pairs of real features."""
        return kid_within(self.seen.look.features)

    @functools.cached_property
    def cmmd_within(self) -> Within:
        """What CMMD needs of the pairs of real embeddings; only for a judge that has them."""
        assert self.seen.look.embeddings is not None
        return cmmd_within(self.seen.look.embeddings)

    @functools.cached_property
    def ball_edges(self) -> torch.Tensor:
        """The squared radii of the balls around real features, float64 [N]; of more than `NEIGHBOURS` images only."""
        return ball_edges(self.seen.look.features)


def reference(
    judge: Judge, data: CaptionedDataset, progress: Progress = lambda what, done, total: None,
    at_most: int | None = None,
) -> Reference:  # fmt: skip
    """Return the real images of `data` as the judge sees them, kept in the cache by judge id and data digest.

    Of more than `at_most` images, as many are chosen in an order that the digest decides.
    """
    key = [LAYOUT, KEPT, judge.id, data.digest, *([] if at_most is None else [at_most])]
    path = cache_folder() / "references" / f"{digest_of(key)[:16]}.npz"
    if path.exists():
        return load_reference(path)
    made = make_reference(judge, data, progress, at_most)
    save_reference(path, made)
    return made


def make_reference(
    judge: Judge, data: CaptionedDataset, progress: Progress, at_most: int | None = None
) -> Reference:
    """Have the judge look at the images of `data`; raise UserError when it holds none."""
    if not len(data):
        raise UserError(f"{data.name}/{data.split}: holds no images to compare with")
    order = np.random.default_rng(int(data.digest[:8], 16)).permutation(len(data))[:at_most]
    what = f"look at the real {data.split} images ({judge.name})"
    kept = see(judge, _real_blocks(data, order[:KEPT]), lambda done: progress(what, done, len(order)))
    moments = kept.moments
    for start in range(KEPT, len(order), BATCH):
        images = data.batch(np.sort(order[start : start + BATCH])).images
        moments = moments + FeatureMoments.from_features(judge.look(images).features)
        progress(what, min(start + BATCH, len(order)), len(order))
    about = {"data": data.name, "split": data.split, "image_size": data.image_size, "digest": data.digest,
             "images": len(data), "judge": judge.name, "judge_id": judge.id}  # fmt: skip
    return Reference(about=about, moments=moments, seen=kept)


def _real_blocks(data: CaptionedDataset, order: NDArray[np.int64]) -> Iterator[Block]:
    for start in range(0, len(order), BATCH):
        batch = data.batch(order[start : start + BATCH])
        yield Block(batch.images, batch.captions, batch.ids)


def save_reference(path: Path, made: Reference) -> None:
    """Write a reference as an `.npz` file that `load_reference` reads, whole or not at all."""
    texts = {"about": dict(made.about), "captions": made.seen.captions, "image_ids": made.seen.image_ids}
    arrays: dict[str, Any] = {
        "texts": np.frombuffer(canonical_json(texts).encode(), np.uint8),
        "n": np.int64(made.moments.n), "total": made.moments.total.numpy(), "outer": made.moments.outer.numpy(),
    }  # fmt: skip
    arrays |= {name: rows.numpy() for name, rows in parts_of(made.seen.look).items()}
    if made.seen.caption_embeddings is not None:
        arrays["caption_embeddings"] = made.seen.caption_embeddings.numpy()
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def load_reference(path: Path) -> Reference:
    """Return the reference in an `.npz` file; raise UserError when it is missing, malformed or not finite."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        texts = json.loads(arrays.pop("texts").tobytes())
        moments = FeatureMoments(n=int(arrays.pop("n")), total=torch.from_numpy(arrays.pop("total")),
                                 outer=torch.from_numpy(arrays.pop("outer")))  # fmt: skip
        rows = {name: torch.from_numpy(array) for name, array in arrays.items()}
        embeddings = rows.pop("caption_embeddings", None)
        seen = Seen(look=Look(features=rows.pop("features"), **rows), caption_embeddings=embeddings,
                    captions=tuple(texts["captions"]), image_ids=tuple(texts["image_ids"]))  # fmt: skip
        made = Reference(about=texts["about"], moments=moments, seen=seen)
        fault = _fault(made)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (ValueError, KeyError, TypeError, EOFError, OSError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged, or no reference of this version ({type(error).__name__}); make it anew by "
                        "`t2ibench data reference`") from error  # fmt: skip
    if fault:
        raise UserError(f"{path}: {fault}; make it anew by `t2ibench data reference`")
    return made


def _fault(made: Reference) -> str:
    """Return what is wrong if an array is not finite or does not fit the others."""
    look, kept, width = made.seen.look, len(made.seen), len(made.moments.total)
    wanted: dict[str, tuple[torch.Tensor | None, tuple[int, ...], torch.dtype]] = {
        "total": (made.moments.total, (width,), torch.float64),
        "outer": (made.moments.outer, (width, width), torch.float64),
        "features": (look.features, (kept, width), torch.float32),
        "class_probabilities": (look.class_probabilities, (kept, -1), torch.float32),
        "embeddings": (look.embeddings, (kept, -1), torch.float32),
        "caption_embeddings": (made.seen.caption_embeddings, (kept, -1), torch.float32),
    }
    for name, (tensor, shape, dtype) in wanted.items():
        if tensor is None:
            continue
        fits = len(shape) == tensor.ndim and all(
            side in (-1, own) for side, own in zip(shape, tensor.shape, strict=True)
        )
        if not fits or tensor.dtype != dtype:
            return f"{name} is {tensor.dtype} {list(tensor.shape)}, expected {dtype} {list(shape)}"
        if not bool(torch.isfinite(tensor).all()):
            return f"{name} holds NaN or infinity"
    if not (made.moments.n >= kept >= 1 and len(made.seen.captions) == len(made.seen.image_ids) == kept):
        return "its captions, images and their number do not match"
    if missing := {"data", "split", "image_size", "digest", "images", "judge", "judge_id"} - set(made.about):
        return f"it does not say {sorted(missing)[0]}"
    return ""
