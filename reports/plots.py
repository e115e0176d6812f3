"""Loss curves of training logs as small SVG charts, readable on light and on dark pages."""

import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from .records import VALIDATION, LogRow

# Okabe and Ito 2008, told apart with any colour vision, less the two that vanish on white or on black.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
_DASHES = ("-", "--", ":", "-.")
_INK = "#808080"
"""Grey with a contrast of about 4 on white and on near-black."""

_POINTS_A_LINE = 160
_POINTS_A_CHART = 4000


@dataclass(frozen=True, kw_only=True)
class Curves:
    """One run's training log, and the method that it is a replicate of."""

    method: str
    log: Sequence[LogRow]


@dataclass(frozen=True, kw_only=True)
class Chart:
    """The losses of one stage: a small plot a loss, a line a run, a colour a method."""

    stage: str
    svg: str
    alt: str


@dataclass(frozen=True, kw_only=True)
class _Line:
    method: str
    images: NDArray[np.float64]
    values: NDArray[np.float64]


def loss_charts(curves: Sequence[Curves]) -> list[Chart]:
    """Return one chart a stage, in the order in which the logs name the stages; logs may be empty.

    A loss that is 0 throughout, say a penalty that a method does without, is left out. Long logs are averaged over
    equal stretches of training, so a chart stays under 200 kB.
    """
    stages: dict[str, dict[str, list[_Line]]] = defaultdict(lambda: defaultdict(list))
    for run in curves:
        for stage in dict.fromkeys(row.stage for row in run.log):
            rows = [row for row in run.log if row.stage == stage]
            for loss in sorted({loss for row in rows for loss, value in row.losses.items() if value}):
                stages[stage][loss].append(_line(run.method, rows, loss))
    styles = _styles(list(dict.fromkeys(run.method for run in curves if run.log)))
    return [_chart(stage, losses, styles) for stage, losses in stages.items()]


def _line(method: str, rows: Sequence[LogRow], loss: str) -> _Line:
    logged = [row for row in rows if loss in row.losses]
    return _Line(method=method, images=np.array([row.images for row in logged], dtype=np.float64),
                 values=np.array([row.losses[loss] for row in logged], dtype=np.float64))


def _styles(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    return {method: (_COLOURS[place % len(_COLOURS)], _DASHES[place // len(_COLOURS) % len(_DASHES)])
            for place, method in enumerate(methods)}


def _chart(stage: str, losses: Mapping[str, Sequence[_Line]], styles: Mapping[str, tuple[str, str]]) -> Chart:
    points = min(_POINTS_A_LINE, max(_POINTS_A_CHART // sum(map(len, losses.values())), 12))
    columns = min(len(losses), 3)
    rows = -(-len(losses) // columns)
    methods = [method for method in styles
               if any(line.method == method for lines in losses.values() for line in lines)]
    legend = 0.25 * len(methods) + 0.1
    figure = Figure(figsize=(3.2 * columns, 2.2 * rows + legend), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.1, rect=(0, 0, 1, 1 - legend / (2.2 * rows + legend)))  # type: ignore[union-attr,call-arg]
    grid = figure.subplots(rows, columns, squeeze=False).flat
    for axes, (loss, lines) in zip(grid, losses.items(), strict=False):
        _draw(axes, loss, lines, points, styles)
    for axes in list(figure.axes)[len(losses):]:
        axes.set_axis_off()
    handles = {line.get_label(): line for axes in figure.axes for line in axes.get_lines()}
    figure.legend([handles[method] for method in methods], [_literal(method) for method in methods],
                  loc="upper left", frameon=False, fontsize=8, labelcolor=_INK)
    names = ", ".join(losses)
    return Chart(stage=stage, svg=_svg(figure),
                 alt=f"Training losses of stage {stage} ({names}) against thousands of training images seen")


def _draw(axes: Axes, loss: str, lines: Sequence[_Line], points: int, styles: Mapping[str, tuple[str, str]]) -> None:
    for line in lines:
        colour, dash = styles[line.method]
        if loss.endswith(VALIDATION) and len(line.values) > 3:
            # Of the untrained network; beside it the others are a flat line, and no rise would show.
            line = _Line(method=line.method, images=line.images[1:], values=line.values[1:])
        drawn = _thinned(line, points)
        axes.plot(drawn.images / 1000, drawn.values, color=colour, linestyle=dash, linewidth=1.1,
                  marker="." if len(drawn.values) == 1 else None, label=line.method)
        if loss.endswith(VALIDATION) and np.isfinite(line.values).any():
            best = np.nanargmin(line.values)
            axes.plot(line.images[best] / 1000, line.values[best], color=colour, marker="o", markersize=4)
    title = f"{loss} (dot: lowest)" if loss.endswith(VALIDATION) else loss
    axes.set_title(_literal(title), fontsize=9, color=_INK, loc="left")
    axes.set_xlabel("training images, thousands", fontsize=8, color=_INK)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=8, colors=_INK)
    axes.grid(color=_INK, alpha=0.2, linewidth=0.6)
    axes.patch.set_alpha(0)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_INK)


def _thinned(line: _Line, points: int) -> _Line:
    """Return the line with at most `points` points, each the mean of a stretch of it."""
    if len(line.values) <= points:
        return line
    starts = np.linspace(0, len(line.values), points, endpoint=False).astype(np.int64)
    finite = np.isfinite(line.values)
    counts = np.add.reduceat(finite.astype(np.float64), starts)
    sums = np.add.reduceat(np.where(finite, line.values, 0.0), starts)
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    lengths = np.diff(np.append(starts, len(line.values)))
    return _Line(method=line.method, images=np.add.reduceat(line.images, starts) / lengths, values=means)


def _literal(text: str) -> str:
    """Return text that matplotlib draws as it is, dollar signs included."""
    return text.replace("$", r"\$")


def _svg(figure: Figure) -> str:
    # The salt and the absent date make equal logs give equal bytes.
    with matplotlib.rc_context({"svg.hashsalt": "t2ibench"}):
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return file.getvalue()
