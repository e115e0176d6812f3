"""What the judges share that are taught on a data set's train split when they are first asked for, and then kept."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch

from ..datasets.captioned import Batch, CaptionedDataset
from ..errors import UserError
from ..files import cache_folder, digest_of, whole_file
from .judges import Training

LARGEST_SIDE = 64
"""Images are looked at with the side they are learnt from, but no larger than this."""

UNREADABLE = (OSError, KeyError, TypeError, ValueError, RuntimeError, safetensors.SafetensorError)
"""What opening a damaged or foreign file raises."""


def taught(training: Training, kind: str, recipe: int, images: int, save: Callable[..., None]) -> Path:
    """Return the file of a judge of this `kind`; `save` teaches and writes it unless that was done before.

    It is called with the path, the train split, the held-out one or None, and by name `images` and `progress`.

    `recipe` is raised when the network, its training or the file changes, so that no older one is taken for a new one.
    Another train split, number of `images` to learn from, or held-out split is another file.
    """
    train, held_out = training.train(), training.held_out()
    key = digest_of([kind, recipe, images, train.digest, held_out.digest if held_out else None])[:12]
    path = cache_folder() / "judges" / f"{train.name}-{kind}-{key}.safetensors"
    if not path.exists():
        save(path, train, held_out, images=images, progress=training.progress)
    return path


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


def save_taught(
    path: Path,
    network: torch.nn.Module,
    notes: Mapping[str, Any],
    trial: Callable[[Path], Mapping[str, Any]],
) -> None:
    """Write the weights of `network`, in half precision, with `notes`, anything that JSON can hold.

    `trial` opens the judge as it was written and returns what is to be noted of it besides.
    """
    weights = {
        key: (value.half() if value.is_floating_point() else value).contiguous()
        for key, value in network.state_dict().items()
    }
    with whole_file(path) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata={"notes": json.dumps(notes)})
        tried = {**notes, **trial(temporary)}
        safetensors.torch.save_file(weights, temporary, metadata={"notes": json.dumps(tried)})


def notes_of(path: Path) -> dict[str, Any]:
    """Return the notes that were written with the weights; raises one of `UNREADABLE` if there are none."""
    with safetensors.safe_open(path, framework="pt") as file:
        notes = json.loads(file.metadata()["notes"])
    if not isinstance(notes, dict):
        raise ValueError("no notes")
    return notes


def load_taught(path: Path, network: torch.nn.Module) -> None:
    """Load what `save_taught` wrote into `network`, and freeze it; raises one of `UNREADABLE`."""
    network.load_state_dict(safetensors.torch.load_file(path))
    network.eval().requires_grad_(False)


def foreign(path: Path, error: Exception) -> UserError:
    """Return what to say of a file in the cache that is no judge of this version."""
    return UserError(f"{path}: not a judge of this version ({type(error).__name__}); remove it")
