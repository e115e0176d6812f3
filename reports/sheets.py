"""The tables that a reader sees of one protocol, the same on the page and in Markdown."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .tables import Asked, Cell, Row, Table, column_order
from .wording import NONE, budget, decimals_of, figures, label, notes, number, protocol_line, short, spread

HEADLINES = frozenset({"fid", "kid", "is", "clip_score", "r_precision", "diversity", "all"})
"""Metrics of the first table; the other scores stand in the second."""

_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "generator_parameters": ("Generator parameters", short),
    "training_minutes": ("Training minutes", "{:.1f}".format),
    "sample_images_per_second": ("Images/s sampling", figures),
}
_MORE_COSTS: Mapping[str, tuple[str, Callable[[float], str]]] = {
    "parameters": ("All parameters", short),
    "training_images": ("Training images", "{:,.0f}".format),
    "training_images_per_second": ("Images/s training", figures),
    "latency_p50_ms": ("Latency p50, ms", figures),
    "latency_p95_ms": ("Latency p95, ms", figures),
    "peak_memory_mib": ("Peak memory, MiB", figures),
    "joules_per_image": ("Joules/image", figures),
}
_CONTROLS = {"untrained": "untrained", "shuffled": "captions shuffled", "reconstructed": "real images by its codes"}
REAL = "real images"
"""The name of the row of the floor, which is no method."""


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
    value: float | None = None
    spread: str = ""
    """What stands behind the number: ± and seeds that it lacks."""
    groups: str = ""
    """Letters of the groups that cannot be told apart."""

    @property
    def whole(self) -> str:
        """Return everything in one line."""
        return " ".join(part for part in (self.text, self.spread, f"[{self.groups}]" if self.groups else "") if part)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a sheet: its name, an entry a column, and a sentence about it, if any."""

    name: str
    entries: tuple[Entry, ...]
    about: str = ""


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """One table as it is read."""

    title: str
    corner: str
    """The heading of the names."""
    headings: tuple[Heading, ...]
    lines: tuple[Line, ...]
    beside: tuple[Line, ...] = ()
    """What is no method and never sorted among them; stands after the lines."""
    notes: tuple[str, ...] = ()

    @property
    def empty(self) -> bool:
        """Return whether there is nothing to show."""
        return not (self.lines and self.headings)


def main(table: Table) -> Sheet:
    """Return the scores that a reader looks for first, with the costs; a line a row of the table, in their order."""
    columns = [key for key in table.columns if _is_headline(key)]
    lines = []
    for row in table.rows:
        counts = (Entry(text=budget(row), value=row.facts["budget"]),
                  Entry(text=str(len(row.runs)), value=len(row.runs)))  # fmt: skip
        scores = _scores(table, row.cells, columns)
        lines.append(Line(name=row.method, entries=(*counts, *scores, *_costs(row, _COSTS))))
    return Sheet(title="Results", corner="Method", lines=tuple(lines), notes=tuple(notes(table)),
                 headings=(Heading(text="Budget"), Heading(text="Seeds"), *_headings(table, columns),
                           *(Heading(text=text) for text, _ in _COSTS.values())),
                 beside=_real(table, columns, before=2, after=len(_COSTS)))  # fmt: skip


def more(table: Table) -> Sheet:
    """Return the scores and costs that `main` leaves out; costs that no machine told are left out here too."""
    columns = [key for key in table.columns if not _is_headline(key)]
    costs = {name: cost for name, cost in _MORE_COSTS.items() if any(row.facts[name] is not None for row in table.rows)}
    lines = [Line(name=name, entries=(*_scores(table, row.cells, columns), *_costs(row, costs)))
             for name, row in _named(table)]  # fmt: skip
    return Sheet(title="More scores and costs", corner="Method", lines=tuple(lines),
                 headings=(*_headings(table, columns), *(Heading(text=text) for text, _ in costs.values())),
                 beside=_real(table, columns, before=0, after=len(costs)))  # fmt: skip


def controls(table: Table) -> Sheet:
    """Return what scores make of real images, untrained networks and images with others' captions.

    Shown are the headlines, every score that captions play a part in, and what codes keep of real images.
    """
    lines = [(f"{name}, {text}", row.controls[control]) for name, row in _named(table)
             for control, text in _CONTROLS.items() if control in row.controls]  # fmt: skip
    lines = [(REAL, table.real)] * bool(table.real) + lines
    own = {key for row in table.rows for name in ("shuffled", "reconstructed") for key in row.controls.get(name, {})}
    there = {key for _, cells in lines for key in cells}
    columns = sorted((key for key in there if _is_headline(key) or key in own), key=column_order)
    said = ("Untrained: the same network before training. Captions shuffled: each drawn image with the caption of "
            "another. A score that means anything tells both from the trained network.")  # fmt: skip
    return Sheet(title="Controls", corner="Images", headings=tuple(_headings(table, columns)), notes=(said,),
                 lines=tuple(Line(name=name, entries=tuple(_scores(table, cells, columns))) for name, cells in lines))


def probes(table: Table) -> Sheet:
    """Return what each method can do, a line a category of the capability probes, in per cent."""
    asked = [(name, row.probes) for name, row in _named(table)]
    categories = dict.fromkeys(category for _, own in asked for category in own)
    lines = [_probe(category, [own.get(category) for _, own in asked]) for category in categories]
    said = "Per cent of prompts drawn as asked, and of the real images of these captions; ± as in the scores."
    return Sheet(title="Capability probes", corner="Category", lines=tuple(lines), notes=(said,),
                 headings=(*(Heading(text=name) for name, _ in asked), Heading(text=REAL), Heading(text="Prompts")))


def _probe(category: str, found: Sequence[Asked | None]) -> Line:
    there = [asked for asked in found if asked is not None]
    answered = [asked for asked in there if asked.cell is not None]
    first = (answered or there)[0]
    reasons = {asked.about for asked in there if asked.cell is None}
    alike = not answered and len(reasons) == 1
    entries = [_share(asked, with_reason=not alike) for asked in found]
    real = NONE if first.real is None else f"{100 * first.real:.1f}"
    about = first.about if answered else f"n/a: {first.about}" if alike else ""
    return Line(name=category, about=about,
                entries=(*entries, Entry(text=real), Entry(text=f"{first.n:,}" if first.n else NONE)))  # fmt: skip


def _share(asked: Asked | None, with_reason: bool) -> Entry:
    if asked is None:
        return Entry(text=NONE)
    if asked.cell is None:
        return Entry(text="n/a:", spread=asked.about) if with_reason else Entry(text="n/a")
    scaled = Cell(values=tuple(None if value is None else 100 * value for value in asked.cell.values),
                  stderr=None if asked.cell.stderr is None else 100 * asked.cell.stderr, higher_is_better=True)
    return _entry(scaled, 1)


def _is_headline(key: str) -> bool:
    return key.partition("@")[0] in HEADLINES


def _named(table: Table) -> Iterator[tuple[str, Row]]:
    """Yield each row with its method's name, and the budget where the method has several."""
    methods = [row.method for row in table.rows]
    for row in table.rows:
        yield f"{row.method}, budget {budget(row)}" if methods.count(row.method) > 1 else row.method, row


def _headings(table: Table, columns: Sequence[str]) -> list[Heading]:
    return [Heading(text=label(key), higher_is_better=_column(table, key)[0].higher_is_better) for key in columns]


def _column(table: Table, key: str) -> list[Cell]:
    """Return the cells of a score: of the methods, or of controls where only those have it."""
    cells = [row.cells[key] for row in table.rows if key in row.cells]
    found = [table.real, *(own for row in table.rows for own in row.controls.values())]
    return cells or [own[key] for own in found if key in own]


def _scores(table: Table, cells: Mapping[str, Cell], columns: Sequence[str]) -> list[Entry]:
    return [_entry(cells[key], decimals_of(_column(table, key))) if key in cells else Entry(text=NONE)
            for key in columns]  # fmt: skip


def _entry(cell: Cell, decimals: int) -> Entry:
    return Entry(text=number(cell.mean, decimals), spread=spread(cell, decimals), value=cell.mean,
                 groups=cell.groups or "")  # fmt: skip


def _costs(row: Row, costs: Mapping[str, tuple[str, Callable[[float], str]]]) -> list[Entry]:
    values = [(row.facts[name], form) for name, (_, form) in costs.items()]
    return [Entry(text=NONE if value is None else form(value), value=value) for value, form in values]


def _real(table: Table, columns: Sequence[str], before: int, after: int) -> tuple[Line, ...]:
    """Return the line of the real images, empty under the columns that are no scores; none without such scores."""
    if not any(key in table.real for key in columns):
        return ()
    empty = Entry(text="")
    return (Line(name=REAL, entries=(*[empty] * before, *_scores(table, table.real, columns), *[empty] * after)),)


def markdown(found: Sequence[Table]) -> str:
    """Return the tables as Markdown, each under its title and protocol."""
    return "\n".join(_markdown(table) for table in found)


def _markdown(table: Table) -> str:
    lines = [f"## {_escaped(table.title)}", "", _escaped(protocol_line(table)), "", *_sheet(main(table))]
    for sheet in (more(table), controls(table), probes(table)):
        if not sheet.empty:
            lines += [f"### {sheet.title}", "", *_sheet(sheet)]
    return "\n".join(lines)


def _sheet(sheet: Sheet) -> list[str]:
    about = ["Asked"] * any(line.about for line in sheet.lines)
    rows = [(line.name, *(entry.whole for entry in line.entries), *[line.about] * len(about)) for line in sheet.lines]
    rows += [(f"*{line.name}*", *(f"*{entry.whole}*" if entry.text else "" for entry in line.entries))
             for line in sheet.beside]  # fmt: skip
    return [_line(sheet.corner, *(f"{heading.text} {heading.arrow}".strip() for heading in sheet.headings), *about),
            _line("---", *("---:" for _ in sheet.headings), *("---" for _ in about)), *(_line(*row) for row in rows),
            "", *(f"- {_escaped(note)}" for note in sheet.notes), *[""] * bool(sheet.notes)]  # fmt: skip


def _line(*texts: str) -> str:
    return f"| {' | '.join(_escaped(text) for text in texts)} |"


def _escaped(text: str) -> str:
    for mark, escape in (("&", "&amp;"), ("<", "&lt;"), ("|", "\\|"), ("\n", " ")):
        text = text.replace(mark, escape)
    return text
