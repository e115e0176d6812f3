"""The report: every table, curve and picture of some runs in one HTML file that needs nothing else."""

import base64
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from .. import __version__
from ..files import write_json, write_text
from . import plots, sheets, tables, wording
from .records import GalleryItem, read_log
from .tables import Run, Table

MAX_CAPTIONS = 16
"""Rows of one gallery."""

NEAREST = "nearest.png"
"""The file in a run's folder with rows of drawn images, each above a row of the nearest training images."""

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_WIDTH = slice(16, 20)


@dataclass(frozen=True, kw_only=True)
class Report:
    """The files that `report` wrote."""

    page: Path
    markdown: Path
    csv: Path
    json: Path


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One run's image for one caption, as a data URI."""

    uri: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class GalleryColumn:
    """One run of the gallery; `first` marks the first seed of a method."""

    method: str
    seed: int
    budget: str
    first: bool


@dataclass(frozen=True, kw_only=True)
class GalleryRow:
    """One caption with one seed of the noise; None where a run has no such image."""

    caption: str
    seed: int
    pictures: tuple[Picture | None, ...]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The same captions and seeds drawn by every run of a table, and what is missing."""

    columns: tuple[GalleryColumn, ...]
    rows: tuple[GalleryRow, ...]
    notes: tuple[str, ...]
    width: int
    """Pixels on screen: a whole multiple of the images' own, so that pixels stay square."""


@dataclass(frozen=True, kw_only=True)
class Curves:
    """The loss charts of a table by stage, and what is missing."""

    charts: Mapping[str, Picture]
    notes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Nearest:
    """One method's drawn images, each above the training image nearest to it."""

    title: str
    picture: Picture
    width: int
    """Pixels on screen."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """All that the page shows of one protocol."""

    table: Table
    main: sheets.Sheet
    more: sheets.Sheet
    controls: sheets.Sheet
    probes: sheets.Sheet
    curves: Curves
    gallery: Gallery
    nearest: tuple[Nearest, ...]


def report(folders: Sequence[Path], out: Path) -> Report:
    """Write `index.html`, `table.md`, `table.csv` and `report.json` about finished runs into `out`.

    Raises UserError when there are no runs, or a folder has no record of this version.
    """
    found = tables.tables(tables.load_runs(folders))
    written = Report(page=out / "index.html", markdown=out / "table.md", csv=out / "table.csv",
                     json=out / "report.json")
    write_text(written.markdown, sheets.markdown(found))
    write_text(written.csv, tables.csv(found))
    write_json(written.json, tables.document(found))
    write_text(written.page, render(found))
    return written


def render(found: Sequence[Table]) -> str:
    """Return the page about `found`: one HTML document that fetches nothing."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True,
                              undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals |= {"protocol_line": wording.protocol_line, "command": command}
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, ensure_ascii=False)
    sections = [Section(table=table, main=sheets.main(table), more=sheets.more(table), controls=sheets.controls(table),
                        probes=sheets.probes(table), curves=_curves(table), gallery=_gallery(table),
                        nearest=_nearest(table)) for table in found]  # fmt: skip
    return environment.get_template("page.html.jinja").render(
        sections=sections, runs=sum(len(table.runs) for table in found), version=__version__,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC")


def command(run: Run) -> str:
    """Return the commands that make a run again and score it by the same protocol."""
    spec, passed = run.record.spec, run.record.passed
    words = ["t2ibench", "run", passed.get("model", spec["model"])]
    options = {"data": spec["dataset"], "root": None, "preset": spec["preset"], "seed": spec["seed"],
               "budget": spec["budget"], "precision": None}
    for option, resolved in options.items():
        value = passed.get(option, resolved)
        words += [] if value is None else [f"--{option}", tables.typed(value)]
    settings = passed.get("settings")
    for field, value in (settings if isinstance(settings, dict) else spec["config"]).items():
        words += ["--set", f"{field}={tables.typed(value)}"]
    protocol = spec["evaluation"]
    how = ["--split", protocol["split"], "--samples", protocol["images"], "--judges", ",".join(protocol["judges"])]
    made = shlex.join(map(str, words + how))
    if "drawn_with" not in protocol:
        return made
    for field, value in protocol["drawn_with"].items():
        how += ["--set", f"{field}={tables.typed(value)}"]
    return f"{made} && {shlex.join(['t2ibench', 'score', run.name, *map(str, how)])}"


def _curves(table: Table) -> Curves:
    logs = [(row.method, run, read_log(run.folder)) for row in table.rows for run in row.runs]
    charts = plots.loss_charts([plots.Curves(method=method, log=log) for method, _, log in logs])
    missing = [run.name for _, run, log in logs if not log and run.record.spec["budget"]]
    return Curves(
        charts={chart.stage: Picture(uri=_uri("image/svg+xml", chart.svg.encode()), alt=chart.alt)
                for chart in charts},
        notes=(f"No training log: {', '.join(missing)}.",) if missing else ())


def _gallery(table: Table) -> Gallery:
    columns, runs, notes = [], [], []
    for row in table.rows:
        drawn = [run for run in row.runs if run.record.gallery]
        notes += [f"No gallery: {run.name}." for run in row.runs if not run.record.gallery]
        columns += [GalleryColumn(method=row.method, seed=run.seed, budget=wording.budget(row),
                                  first=run is drawn[0]) for run in drawn]
        runs += drawn
    captions = _shared_captions(runs)
    ids = Counter((caption_id, seed) for caption_id, seed, _ in captions)
    notes += [f"The runs do not agree on which caption {caption_id} is: it has a row for each."
              for (caption_id, _), meanings in ids.items() if meanings > 1]
    rows = [GalleryRow(caption=caption, seed=seed,
                       pictures=tuple(_picture(run, caption, caption_id, seed, notes) for run in runs))
            for caption_id, seed, caption in captions]
    size = int(table.protocol["image_size"])
    return Gallery(columns=tuple(columns), rows=tuple(rows), notes=tuple(notes),
                   width=size * max(1, round(96 / max(size, 1))))


def _shared_captions(runs: Sequence[Run]) -> list[tuple[str, int, str]]:
    """Return (caption id, seed, caption) of the gallery's rows: those that most runs drew come first.

    An id stands beside its caption, so that runs which mean different captions by one id never share a row.
    """
    counts = Counter(key for run in runs for key in dict.fromkeys(map(_key, run.record.gallery)))
    return [key for key, _ in counts.most_common(MAX_CAPTIONS)]


def _key(item: GalleryItem) -> tuple[str, int, str]:
    return (item.caption_id, item.seed, item.caption)


def _picture(run: Run, caption: str, caption_id: str, seed: int, notes: list[str]) -> Picture | None:
    """Return a run's image as a data URI, or None with a note where there is none to show."""
    item = next((item for item in run.record.gallery if _key(item) == (caption_id, seed, caption)), None)
    if item is None:
        return None
    content = _png(run, item.file, notes)
    return None if content is None else Picture(
        uri=_uri("image/png", content), alt=f"{caption}, drawn by {run.record.label}, training seed {run.seed}")


def _png(run: Run, file: str, notes: list[str]) -> bytes | None:
    """Return a PNG in the run's folder, or None with a note where there is none."""
    path = (run.folder / file).resolve()
    if not path.is_relative_to(run.folder.resolve()) or not path.is_file():
        notes.append(f"No image: {run.name}/{file}.")
        return None
    content = path.read_bytes()
    if not content.startswith(_PNG):
        notes.append(f"Not a PNG: {run.name}/{file}.")
        return None
    return content


def _nearest(table: Table) -> tuple[Nearest, ...]:
    """Return what the first run of each method left of it; methods that left nothing are left out."""
    size = max(int(table.protocol["image_size"]), 1)
    found = []
    for row in table.rows:
        content = _png(row.runs[0], NEAREST, [])
        if content is not None:
            title = f"{row.method} · budget {wording.budget(row)} · seed {row.runs[0].seed}"
            width = int.from_bytes(content[_PNG_WIDTH], "big")
            found.append(Nearest(title=title, width=width * max(1, round(64 / size)), picture=Picture(
                uri=_uri("image/png", content), alt=f"Drawn images above the nearest training images: {title}")))
    return tuple(found)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
