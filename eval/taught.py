"""What the judges share that are taught on a data set's train split when they are first asked for, and then kept."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from ..datasets.captioned import Batch, CaptionedDataset
from ..errors import UserError
from ..files import cache_folder, digest_of

LARGEST_SIDE = 64
"""Images are looked at with the side they are learnt from, but no larger than this."""

UNREADABLE = (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError)
"""What opening a damaged or foreign file raises."""


def kept_at(train: CaptionedDataset, kind: str, recipe: int, images: int) -> Path:
    """Return where a judge of this `kind` is kept that learnt from `images` images of `train`.

    `recipe` is raised when the network or its training changes, so that no older one is taken for a new one.
    """
    key = digest_of([kind, recipe, train.digest, images])[:12]
    return cache_folder() / "judges" / f"{train.name}-{kind}-{key}.safetensors"


def side_for(train: CaptionedDataset) -> int:
    """Return the power of two, from 16 to `LARGEST_SIDE`, to which images are resized: the next above their own."""
    return int(min(max(16, 2 ** (train.image_size - 1).bit_length()), LARGEST_SIDE))


def drawn_batches(train: CaptionedDataset, size: int, steps: int, device: torch.device) -> Iterator[Batch]:
    """Yield for each step `size` different images with a caption each, drawn from those that have one.

    Step i is the same in every run. Raises UserError when no image has a caption.
    """
    described = np.array([index for index in range(len(train)) if train.captions(index)], np.int64)
    if len(described) < 2:
        raise UserError(f"{train.name}/{train.split}: {len(described)} images have captions, a judge needs 2 to learn")
    for step in range(steps):
        rng = np.random.default_rng([0, step])
        at = rng.choice(described, size=min(size, len(described)), replace=False)
        yield train.batch(at, rng.random(len(at))).to(device)


def save_taught(path: Path, networks: Mapping[str, torch.nn.Module], notes: Mapping[str, Any]) -> None:
    """Write the weights of `networks`, in half precision, with `notes`, anything that JSON can hold."""
    weights = {
        f"{name}.{key}": (value.half() if value.is_floating_point() else value).contiguous()
        for name, network in networks.items()
        for key, value in network.state_dict().items()
    }
    safetensors.torch.save_file(weights, path, metadata={"notes": json.dumps(notes)})


def notes_of(path: Path) -> dict[str, Any]:
    """Return the notes that were written with the weights; raises one of `UNREADABLE` if there are none."""
    with safetensors.safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
    if not isinstance(notes, dict):
        raise ValueError("no notes")
    return notes


def load_taught(path: Path, networks: Mapping[str, torch.nn.Module]) -> None:
    """Load what `save_taught` wrote into `networks`, and freeze them; raises one of `UNREADABLE`."""
    weights = safetensors.torch.load_file(path)
    for name, network in networks.items():
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(f"{name}.")}
        network.load_state_dict(own)
        network.eval().requires_grad_(False)


def foreign(path: Path, error: Exception) -> UserError:
    """Return what to say of a file in the cache that is no judge of this version."""
    return UserError(f"{path}: not a judge of this version ({type(error).__name__}); remove it")
