"""Published weights of frozen networks: where the user puts them."""

import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..files import cache_folder


def weights_folder() -> Path:
    """Return the folder of published weights: $T2IBENCH_WEIGHTS, else `weights` in the cache folder."""
    chosen = os.environ.get("T2IBENCH_WEIGHTS")
    return Path(chosen) if chosen else cache_folder() / "weights"


def find_weights(judge: str, names: Sequence[str], published: str) -> Path:
    """Return the first of `names` that is in the weights folder; raise UserError saying what to fetch."""
    folder = weights_folder()
    for name in names:
        if (folder / name).exists():
            return folder / name
    raise UserError(
        f"judge {judge!r} needs {names[0]}, published as {published}: "
        f"put it into {folder} or set T2IBENCH_WEIGHTS to its folder"
    )
