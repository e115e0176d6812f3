"""How a table reads: names, numbers, and the sentences around it."""

import math
from collections import defaultdict
from collections.abc import Sequence

from .tables import METRICS, Cell, Row, Table, typed
from .uncertainty import CLAIM_SEEDS, seeds_needed

_PLAIN = {"fid@inception", "is@inception", "clip_score@clip"}
"""The scores that the literature means by the bare name: the 2015 Inception weights and OpenAI's CLIP."""

NONE = "–"
LONE = "†"
"""Marks a standard error over images, of a single seed."""


def label(key: str) -> str:
    """Return the name people know a score by: `fid@scenes` -> `FID@scenes`, `fid@inception` -> `FID`."""
    name, _, size = key.partition(" ")
    metric, _, judge = name.partition("@")
    heading = METRICS.get(metric, metric)
    heading = heading if name in _PLAIN else f"{heading}@{judge}"
    return f"{heading} ({size})" if size else heading


def decimals_of(cells: Sequence[Cell]) -> int:
    """Return how many decimals a column shows: four digits of its smallest mean, at most four decimals."""
    sizes = [abs(cell.mean) for cell in cells if cell.mean]
    return min(max(3 - math.floor(math.log10(min(sizes))), 0), 4) if sizes else 4


def number(value: float, decimals: int) -> str:
    """Return a value with so many decimals, or with two digits where they would not show it."""
    tiny = value != 0 and abs(value) < 0.5 * 10**-decimals
    return f"{value:.2g}" if tiny or abs(value) >= 1e7 else f"{value:.{decimals}f}"


def spread(cell: Cell, decimals: int) -> str:
    """Return what stands behind a cell's mean: its deviation over seeds or marked error, and the seeds it lacks."""
    error, mark = (cell.sd, "") if cell.sd is not None else (cell.stderr, LONE)
    parts = [] if error is None else [f"± {number(error, decimals)}{mark}"]
    if len(cell.present) < len(cell.values):
        parts.append(f"({len(cell.present)} of {len(cell.values)} seeds)")
    return " ".join(parts)


def budget(row: Row) -> str:
    """Return the training images that the method was given, in few digits."""
    images = int(row.spec["budget"])
    return short(images) if images else "0 (untrained)"


def short(count: float | None) -> str:
    """Return a count in few digits: 950, 1.5k, 200k, 18.9M; a dash for None."""
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count is not None and abs(count) >= size:
            return f"{count / size:.3g}{unit}" if count < 1000 * size else f"{count / size:,.0f}{unit}"
    return NONE if count is None else f"{count:g}"


def figures(value: float) -> str:
    """Return a rate, a time or a size in three digits or more: 0.35, 12.5, 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2g}"


def protocol_line(table: Table) -> str:
    """Return the protocol in words: split, images, judges and their ids, seed, and the data's digests."""
    evaluation = dict(table.protocol["evaluation"])
    split, images, judges, ids, seed, version, known = (
        evaluation.pop(field, None) for field in
        ("split", "images", "judges", "judge_ids", "seed", "version", "train_images"))  # fmt: skip
    evaluation.pop("data", None)  # the digest of the split, which the data's digests name too
    parts = [
        f"{split} split" if split is not None else "",
        f"{images:,} generated images" if isinstance(images, int) else "",
        f"{known:,} training images beside them" if isinstance(known, int) else "",
        f"judged by {_listed(judges)}{f' ({_listed(ids)})' if ids else ''}" if judges else "",
        "evaluation " + ", ".join(f"{name} {value}" for name, value in (("version", version), ("seed", seed))
                                  if value is not None),  # fmt: skip
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
        said.append(f"{LONE} One seed: ± is the standard error over the images or captions scored; "
                    "how much another seed would change the score is not in it.")
    if any(cell.sd is None and cell.stderr is None for cell in cells):
        said.append("A score without ± is of one seed and has no standard error.")
    said += _claims(table)
    if any(row.spec["budget"] == 0 for row in table.rows):
        said.append("Budget 0 is the untrained network.")
    if table.real:
        said.append("Real images: training images scored in place of drawn ones; no model need do better.")
    if table.repeats:
        said.append(f"Not counted, being the same run as another in the table: {', '.join(table.repeats)}.")
    return [*said, *_left_out(table)]


def _claims(table: Table) -> list[str]:
    """Return what the letters mean, or why there are none."""
    few = any(len(row.runs) < CLAIM_SEEDS for row in table.rows)
    shown = [cell.groups for row in table.rows for cell in row.cells.values()]
    if any(shown):
        said = ["Letters: rows with one in common cannot be told apart by that score; a has the best (exact "
                "permutation tests of all pairs of rows over their seeds, Holm, 5 %)."]
        return said + ["Scores without a letter have too few seeds: nothing is claimed of them."] * (None in shown)
    claiming = sum(len(row.runs) >= CLAIM_SEEDS for row in table.rows)
    if claiming > 1:
        pairs = claiming * (claiming - 1) // 2
        return [f"No significance is claimed: exact tests of {claiming} rows in all pairs cannot reach p = 0.05 (Holm) "
                f"with these seeds, however far the rows are apart; {seeds_needed(pairs)} seeds each can."]
    return [f"No significance is claimed: some rows have fewer than {CLAIM_SEEDS} seeds "
            "(an exact test of three against three cannot reach p = 0.05)."] * few


def _left_out(table: Table) -> list[str]:
    """Return the runs' own notes, each once with the runs that have it."""
    owners: dict[str, list[str]] = defaultdict(list)
    for run in table.runs:
        for note in run.record.notes:
            owners[note].append(run.name)
    return [note if len(names) == len(table.runs) else f"{note} ({', '.join(names)})"
            for note, names in owners.items()]
