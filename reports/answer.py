"""How a comparison reads: one honest paragraph, and the numbers behind it."""

import math
from collections.abc import Callable, Sequence

from .comparison import Comparison, Difference
from .tables import READ
from .uncertainty import CLAIM_SEEDS
from .wording import label

SHARES = {"r_precision", "precision", "recall", "coverage", "copied"} | READ
"""Metrics from 0 to 1, said in per cent."""
QUOTED = 3
"""Scores of which the paragraph says the numbers; the others' are in the lines below it."""


def words(comparison: Comparison) -> str:
    """Return the answer in one paragraph: what holds of these networks, what of the methods, and what is not known."""
    parts = [_captions(comparison), _seeds(comparison)]
    if comparison.claims:
        parts.reverse()
    sides = {"a": comparison.a, "b": comparison.b}
    parts += [_heedless(side.name, comparison.heedless[key]) for key, side in sides.items()]
    return " ".join(part for part in (*parts, *comparison.notes) if part)


def _heedless(name: str, scores: Sequence[str]) -> str:
    if not scores:
        return ""
    return f"With the captions of other images {name} scores as well by {_listed([label(score) for score in scores])}."


def _captions(comparison: Comparison) -> str:
    """Return what is known of these very networks, from the same captions."""
    found = comparison.over_captions
    if not found:
        return ""
    captions, images = max(each.n for each in found)
    over = f"over the same {captions:,} captions" + (f" of {images:,} images" if images < captions else "")
    said = _verdicts(comparison, found, lambda each: _quoted(each, ""))
    return f"{said}, {over}. That is about these networks, not about the methods."


def _seeds(comparison: Comparison) -> str:
    """Return what is known of the methods, or how many seeds it takes to know anything."""
    first, second = (len(side.runs) for side in (comparison.a, comparison.b))
    found = comparison.over_seeds
    if comparison.claims and found:
        said = _verdicts(comparison, found, lambda each: _quoted(each, f", p {_p(each.adjusted)}"))
        return f"Over {first} training seeds {'each' if first == second else f'against {second}'}, {said}."
    if comparison.claims:
        return ""
    paired = {each.score for each in comparison.over_captions}
    leads = []
    for key, side in (("a", comparison.a), ("b", comparison.b)):
        if own := [label(each.score) for each in found if each.better == key and each.score not in paired]:
            leads.append(f"{side.name} has the better {_listed(own)}")
    counts = ["one seed" if count == 1 else f"{count} seeds" for count in (first, second)]
    seeds = f"{counts[0]} each" if first == second else f"{counts[0]} against {counts[1]}"
    numbers = f"By the plain numbers {', '.join(leads)}. " if leads else ""
    return (f"{numbers}With {seeds} nothing is claimed about the methods; {CLAIM_SEEDS} each are needed for an exact "
            "test to reach p = 0.05.")  # fmt: skip


def _verdicts(comparison: Comparison, found: Sequence[Difference], quote: Callable[[Difference], str]) -> str:
    """Return who is better in what, with the first scores quoted, and what does not tell them apart."""
    a, b = comparison.a.name, comparison.b.name
    said = []
    for key, better, worse in (("a", a, b), ("b", b, a)):
        ahead = [each for each in found if each.separated and each.better == key]
        heedless, untaught = comparison.heedless[key], comparison.untaught[key]
        own = [each for each in ahead if each.score not in (*heedless, *untaught)]
        if own:
            quotes = [quote(each) for each in own[:QUOTED]] + [label(each.score) for each in own[QUOTED:]]
            said.append(f"{better} scores better than {worse}: {_listed(quotes)}")
        if void := [label(each.score) for each in ahead if each.score in heedless]:
            said.append(f"{better} is ahead in {_listed(void)}, but no further than with captions of other images")
        if void := [label(each.score) for each in ahead if each.score in untaught and each.score not in heedless]:
            said.append(f"{better} is ahead in {_listed(void)}, but no better than before its training")
    if alike := [label(each.score) for each in found if not each.separated]:
        said.append(f"{a} and {b} cannot be told apart by {_listed(alike)}" if not said else
                    f"they cannot be told apart by {_listed(alike)}")  # fmt: skip
    return "; ".join(said)


def _quoted(each: Difference, more: str) -> str:
    low, high = _span(each)
    unit = " points" if _share(each) else ""
    return (f"{label(each.score)} {_amount(each, each.a)} against {_amount(each, each.b)} "
            f"({_gap(each, each.value)}{unit}, 95 % interval {low} to {high}{more})")


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:-1]) + " and " + texts[-1] if len(texts) > 1 else texts[0]


def sides(comparison: Comparison) -> list[str]:
    """Return a line for each side: its method, and each run's seed and folder."""
    return [f"{key}: {side.name}, " + ", ".join(f"seed {run.seed} ({run.folder})" for run in side.runs)
            for key, side in (("A", comparison.a), ("B", comparison.b))]  # fmt: skip


def lines(comparison: Comparison) -> list[str]:
    """Return the numbers as lines of aligned columns, the headings first."""
    rows: list[tuple[str, ...]] = [("Score", "A", "B", "A - B", "95 % interval", "p (adjusted)", "t detects", "over")]
    for each in comparison.over_seeds:
        rows.append((*_row(each), f"{each.n[0]} v {each.n[1]} seeds"))
    for each in comparison.over_captions:
        rows.append((*_row(each), f"{each.n[0]:,} captions"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) if column in (0, len(row) - 1) else text.rjust(width)
                      for column, (text, width) in enumerate(zip(row, widths, strict=True))).rstrip()
            for row in rows]  # fmt: skip


def _row(each: Difference) -> tuple[str, ...]:
    low, high = _span(each)
    arrow = "↑" if each.higher_is_better else "↓"
    return (f"{label(each.score)} {arrow}", _amount(each, each.a), _amount(each, each.b), _gap(each, each.value),
            f"{low} to {high}" if each.low is not None else "–", _p(each.adjusted),
            "–" if each.detectable is None else _gap(each, each.detectable).lstrip("+"))  # fmt: skip


def _span(each: Difference) -> tuple[str, str]:
    low, high = ("–" if end is None else _gap(each, end) for end in (each.low, each.high))
    return low, high


def _share(each: Difference) -> bool:
    return each.score.partition("@")[0] in SHARES


def _amount(each: Difference, value: float) -> str:
    return f"{100 * value:.1f} %" if _share(each) else f"{value:.{_decimals(each)}f}"


def _gap(each: Difference, value: float) -> str:
    """Return a difference with its sign, in points of per cent for shares."""
    scale, decimals = (100, 1) if _share(each) else (1, _decimals(each))
    return f"{round(scale * value, decimals) + 0.0:+.{decimals}f}"  # + 0.0, for there is no -0.0


def _decimals(each: Difference) -> int:
    """Return how many decimals show four digits of the larger side."""
    size = max(abs(each.a), abs(each.b))
    return min(max(3 - math.floor(math.log10(size)), 0), 8) if size else 4


def _p(value: float | None) -> str:
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.2g}"
