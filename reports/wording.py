"""How a table reads: headings, numbers, the sentences around it, and the whole as Markdown."""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from .tables import METRICS, Cell, Row, Table, typed

CLAIM_SEEDS = 4
"""With fewer, an exact two-sided permutation test of two methods cannot reach p < 0.05 (3 v 3: 0.10)."""

_NAMES = dict(zip(METRICS, ("FID", "IS", "CLIP score", "R-precision", "Diversity"), strict=True))
_PLAIN = {"fid@inception", "is@inception", "clip_score@clip"}
"""The scores that the literature means by the bare name: the 2015 Inception weights and OpenAI's CLIP."""

_NONE = "–"
_LONE = "†"


@dataclass(frozen=True, kw_only=True)
class Heading:
    """A column's heading; `higher_is_better` is None where neither is."""

    text: str
    higher_is_better: bool | None = None

    @property
    def arrow(self) -> str:
        """Return the arrow towards the better scores, if any."""
        return {None: "", True: "↑", False: "↓"}[self.higher_is_better]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What one place of a table shows, and the number it is sorted by (None: last)."""

    text: str
    value: float | None


def label(key: str) -> str:
    """Return the name people know a score by: `fid@scenes` -> `FID@scenes`, `fid@inception` -> `FID`."""
    name, _, size = key.partition(" ")
    metric, _, judge = name.partition("@")
    heading = _NAMES.get(metric, metric)
    heading = heading if name in _PLAIN else f"{heading}@{judge}"
    return f"{heading} ({size})" if size else heading


def headings(table: Table) -> list[Heading]:
    """Return the headings of `entries`, in their order; the method's own column comes before them."""
    costs = ("Generator parameters", "All parameters", "Training images", "Training minutes",
             "Images/s sampling")
    scores = [Heading(text=label(key), higher_is_better=_cells(table, key)[0].higher_is_better)
              for key in table.columns]
    return [Heading(text="Budget"), Heading(text="Seeds"), *scores, *(Heading(text=text) for text in costs)]


def entries(table: Table, row: Row) -> list[Entry]:
    """Return what a row shows under each of `headings`."""
    facts = row.facts
    texts = {
        "budget": budget(row),
        "seeds": str(len(row.runs)),
        "training_images": f"{facts['training_images']:,.0f}",
        "training_minutes": f"{facts['training_minutes']:.1f}",
        "sample_images_per_second": f"{facts['sample_images_per_second']:,.0f}",
    }
    first, second, *costs = (Entry(text=texts.get(name) or short(value), value=value)
                             for name, value in facts.items())
    scores = [_score(row.cells.get(key), _decimals(_cells(table, key))) for key in table.columns]
    return [first, second, *scores, *costs]


def _cells(table: Table, key: str) -> list[Cell]:
    return [row.cells[key] for row in table.rows if key in row.cells]


def _decimals(cells: Sequence[Cell]) -> int:
    """Return how many decimals a column shows: four digits of its smallest mean, at most four decimals."""
    sizes = [abs(cell.mean) for cell in cells if cell.mean]
    return min(max(3 - math.floor(math.log10(min(sizes))), 0), 4) if sizes else 4


def _score(cell: Cell | None, decimals: int) -> Entry:
    if cell is None:
        return Entry(text=_NONE, value=None)
    text = _number(cell.mean, decimals)
    if cell.sd is not None:
        text += f" ± {_number(cell.sd, decimals)}"
    elif cell.stderr is not None:
        text += f" ± {_number(cell.stderr, decimals)}{_LONE}"
    if len(cell.present) < len(cell.values):
        text += f" ({len(cell.present)} of {len(cell.values)} seeds)"
    return Entry(text=text, value=cell.mean)


def _number(value: float, decimals: int) -> str:
    tiny = value != 0 and abs(value) < 0.5 * 10**-decimals
    return f"{value:.2g}" if tiny or abs(value) >= 1e7 else f"{value:.{decimals}f}"


def budget(row: Row) -> str:
    """Return the training images that the method was given, in few digits."""
    images = int(row.spec["budget"])
    return short(images) if images else "0 (untrained)"


def short(count: float | None) -> str:
    """Return a count in few digits: 950, 1.5k, 200k, 18.9M; a dash for None."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count is not None and abs(count) >= size:
            return f"{count / size:.3g}{unit}" if count < 1000 * size else f"{count / size:,.0f}{unit}"
    return _NONE if count is None else f"{count:g}"


def protocol_line(table: Table) -> str:
    """Return the protocol in words: split, images, judges and their ids, seed, and the data's digests."""
    evaluation = dict(table.protocol["evaluation"])
    split, images, judges, ids, seed = (evaluation.pop(field, None)
                                        for field in ("split", "images", "judges", "judge_ids", "seed"))
    evaluation.pop("data", None)  # the digest of the split, which the data's digests name too
    parts = [
        f"{split} split" if split is not None else "",
        f"{images:,} generated images" if isinstance(images, int) else "",
        f"judged by {_listed(judges)}{f' ({_listed(ids)})' if ids else ''}" if judges else "",
        f"evaluation seed {seed}" if seed is not None else "",
        *(f"{name} {typed(value)}" for name, value in sorted(evaluation.items())),
        *(f"{name} data {typed(digest)[:12]}" for name, digest in sorted(table.protocol["data"].items())),
    ]
    return " · ".join(part for part in parts if part)


def _listed(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def notes(table: Table) -> list[str]:
    """Return the sentences that say what the table's numbers mean, and what they do not claim."""
    cells = [cell for row in table.rows for cell in row.cells.values()]
    said = []
    if any(cell.sd is not None for cell in cells):
        said.append("Scores are means over training seeds; ± is the sample standard deviation over them.")
    if any(cell.stderr is not None for cell in cells):
        said.append(f"{_LONE} One seed: ± is the standard error over the images or captions scored; "
                    "how much another seed would change the score is not in it.")
    if any(cell.sd is None and cell.stderr is None for cell in cells):
        said.append("A score without ± is of one seed and has no standard error.")
    if any(len(row.runs) < CLAIM_SEEDS for row in table.rows):
        said.append(f"No significance is claimed: some rows have fewer than {CLAIM_SEEDS} seeds "
                    "(an exact test of three against three cannot reach p = 0.05).")
    if any(row.spec["budget"] == 0 for row in table.rows):
        said.append("Budget 0 is the untrained network.")
    if table.repeats:
        said.append(f"Not counted, being the same run as another in the table: {', '.join(table.repeats)}.")
    return [*said, *_left_out(table)]


def _left_out(table: Table) -> list[str]:
    """Return the runs' own notes, each once with the runs that have it."""
    owners: dict[str, list[str]] = defaultdict(list)
    for run in table.runs:
        for note in run.record.notes:
            owners[note].append(run.name)
    return [note if len(names) == len(table.runs) else f"{note} ({', '.join(names)})"
            for note, names in owners.items()]


def markdown(found: Sequence[Table]) -> str:
    """Return the tables as Markdown, each under its title and protocol."""
    return "\n".join(_markdown(table) for table in found)


def _markdown(table: Table) -> str:
    columns = headings(table)
    lines = [f"## {_escaped(table.title)}", "", _escaped(protocol_line(table)), "",
             _line("Method", *(f"{heading.text} {heading.arrow}".strip() for heading in columns)),
             _line("---", *("---:" for _ in columns))]
    lines += [_line(row.method, *(entry.text for entry in entries(table, row))) for row in table.rows]
    lines += ["", *(f"- {_escaped(note)}" for note in notes(table)), ""]
    return "\n".join(lines)


def _line(*texts: str) -> str:
    return f"| {' | '.join(_escaped(text) for text in texts)} |"


def _escaped(text: str) -> str:
    for mark, escape in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(mark, escape)
    return text
