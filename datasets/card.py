"""The data card of a prepared split: what is in it, in numbers and as a picture."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files import whole_file, write_json, write_text
from .caption_statistics import caption_statistics
from .images import grid

if TYPE_CHECKING:
    from .store import Store

GRID_IMAGES = 64
GRID_SIDE = 128
"""Side of the grid's images at most, where the store has one so small."""
EXAMPLES = 8


def write_card(store: "Store", folder: Path) -> None:
    """Write `card.json`, `card.md` and `grid.png` about a prepared split into `folder`."""
    card = describe(store)
    write_json(folder / "card.json", card)
    write_text(folder / "card.md", _markdown(card))
    shown = np.linspace(0, len(store) - 1, min(GRID_IMAGES, len(store))).astype(np.int64)
    batch = store.batch(shown)
    fitting = [side for side in store.sides if side <= GRID_SIDE] or [min(store.sides)]
    images = batch.images if fitting[0] == store.image_size else batch.smaller[fitting[0]]
    with whole_file(folder / "grid.png") as temporary:
        grid(images.numpy(), columns=min(len(images), 8)).save(temporary, format="PNG")


def describe(store: "Store") -> dict[str, Any]:
    """Return what a prepared split holds, JSON-able."""
    statistics = caption_statistics(store.captions(index) for index in range(len(store)))
    labels: Counter[str] = Counter()
    for start in range(0, len(store) if store.class_names else 0, 1024):
        found = store.labels(np.arange(start, min(start + 1024, len(store))))
        labels.update(store.class_names[label] for label in found)
    shown = dict.fromkeys(np.linspace(0, len(store) - 1, min(EXAMPLES, len(store))).astype(int).tolist())
    examples = [store.captions(index) for index in shown]
    return {
        "name": store.name, "split": store.split, "images": len(store), "published": store.expected,
        "sides": list(store.sides), "digest": store.digest,
        "bytes_of_pixels": sum(len(store) * 3 * side**2 for side in store.sides),
        **dataclasses.asdict(statistics), "classes": dict(labels.most_common()),
        "examples": [texts[0] for texts in examples if texts],
    }  # fmt: skip


def _markdown(card: dict[str, Any]) -> str:
    published = card["published"]
    part = f" of {published:,} published" if published not in (None, card["images"]) else ""
    scripts = ", ".join(f"{script} {count:,}" for script, count in card["scripts"].items())
    rows = {
        "images": f"{card['images']:,}{part}",
        "sides": ", ".join(f"{side} px" for side in card["sides"]),
        "pixels": f"{card['bytes_of_pixels'] / 2**20:,.1f} MiB",
        "captions": f"{card['captions']:,}; {card['captions_min']} to {card['captions_max']} an image, "
                    f"{card['captions_mean']:.1f} in the mean; {card['without_captions']:,} images have none",
        "words a caption": f"{card['words_min']} to {card['words_max']}, median {card['words_median']:g}",
        "vocabulary": f"{card['vocabulary']:,} words",
        "scripts": scripts or "none",
        "classes": _classes(card["classes"]),
        "digest": f"`{card['digest']}`",
    }  # fmt: skip
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    examples = "".join(f"- {_plain(text)}\n" for text in card["examples"])
    return f"# {card['name']}, {card['split']}\n\n| | |\n|---|---|\n{table}\n![](grid.png)\n\n{examples}"


def _classes(counts: dict[str, int]) -> str:
    if not counts:
        return "none"
    (most, largest), *_, (fewest, smallest) = [*counts.items()] * 2
    return f"{len(counts):,}; most images: {_plain(most)} ({largest:,}), fewest: {_plain(fewest)} ({smallest:,})"


def _plain(text: str) -> str:
    """Return a caption as a line of Markdown that shows it as it is."""
    shown = text if len(text) <= 200 else f"{text[:197]}..."
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>|" else letter for letter in " ".join(shown.split()))
