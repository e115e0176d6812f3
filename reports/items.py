"""Per-image values of a run, kept beside its record: what paired comparisons of two runs are made from."""

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import UserError
from ..files import whole_file

FILE = "items.npz"
"""The name of the file in a run's folder."""

_IDS = ("caption_ids", "image_ids")
_UNREADABLE = (ValueError, KeyError, TypeError, EOFError, OSError, RuntimeError, MemoryError, OverflowError,
               zipfile.BadZipFile, zlib.error)  # fmt: skip


@dataclass(frozen=True)
class Items:
    """What each generated image scored, in the order of the prompts; raises UserError unless all are as long.

    Two runs drew the same captions where their `caption_ids` are equal; values that share an image id are one
    cluster, for the captions of one image are alike.
    """

    caption_ids: tuple[str, ...]
    image_ids: tuple[str, ...]
    values: Mapping[str, NDArray[np.float64]]
    """`metric@judge` -> float64 [N]; NaN where an image does not count."""

    def __post_init__(self) -> None:
        """Refuse values that do not belong to the captions one to one."""
        n = len(self.caption_ids)
        if len(self.image_ids) != n:
            raise UserError(f"{n} caption ids came with {len(self.image_ids)} image ids; expected as many")
        for name, values in self.values.items():
            if name.count("@") != 1:
                raise UserError(f"values called {name!r}: expected a name as metric@judge")
            if values.shape != (n,) or values.dtype != np.float64:
                raise UserError(f"values of {name}: expected float64 [{n}], got {values.dtype} {list(values.shape)}")


def save_items(path: Path, items: Items) -> None:
    """Write `items` as a compressed .npz, whole or not at all; equal items give equal bytes."""
    arrays: dict[str, Any] = {name: np.array(getattr(items, name), dtype=np.str_) for name in _IDS}
    arrays |= dict(sorted(items.values.items()))
    with whole_file(path) as temporary, open(temporary, "wb") as file:
        np.savez_compressed(file, **arrays)


def load_items(path: Path) -> Items:
    """Return the items in an .npz file; raise UserError naming it when it is missing or malformed."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
        caption_ids, image_ids = (_texts(found.pop(name)) for name in _IDS)
        return Items(caption_ids=caption_ids, image_ids=image_ids, values=found)
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except (*_UNREADABLE, AttributeError, UserError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: no per-image values in it; remove it and score again ({why})") from error


def _texts(array: NDArray[np.str_]) -> tuple[str, ...]:
    if array.ndim != 1 or array.dtype.kind != "U":
        raise ValueError(f"ids are {array.dtype} {list(array.shape)}, not text [N]")
    return tuple(array.tolist())
