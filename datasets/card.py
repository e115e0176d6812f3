"""The data card of a prepared split: what is in it, in numbers and as a picture."""

from pathlib import Path

from .captioned import CaptionedDataset


def write_card(data: CaptionedDataset, folder: Path) -> None:
    """Write `card.json`, `card.md` and `grid.png` about `data` into `folder`."""
