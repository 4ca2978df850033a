"""What all figures share: looks, safe texts, grids of panels, legends, bands."""

import functools
import math
import textwrap
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from experiments.report.summary import Label, metric_band, metric_interval, metric_values
from experiments.results.cell_file import CellResult

MAX_LINES = 8  # policies in colour
LEVEL = 0.95
POLICY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7A7A00")
_CLAIRVOYANT_COLOURS = ("#444444", "#777777", "#999999")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1, 1.5)))
_OTHERS_COLOUR = "#C4C4C4"
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.constrained_layout.w_pad": 0.06,
    "figure.dpi": 150,  # as saved, so that the layout measures texts as wide as they will be
    "font.size": 8,
    "grid.alpha": 0.5,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "legend.fontsize": 7.5,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "svg.fonttype": "path",
    "svg.hashsalt": "figures",
    "text.usetex": False,
    "xtick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.labelsize": 7,
    "ytick.major.width": 0.6,
}


class NothingToDrawError(ValueError):
    """The study lacks what this figure shows; the message says what."""


@dataclass(frozen=True, kw_only=True)
class LineStyle:
    """How one policy looks in every figure of a study."""

    text: str  # its name, safe to draw
    colour: str
    dashes: Any
    marker: str
    focus: bool  # in colour and in the legend
    clairvoyant: bool


def line_styles(cells: Sequence[CellResult], labels: Sequence[Label]) -> dict[str, LineStyle]:
    """A style a line, in the order of the study, clairvoyant lines last.

    At most :data:`MAX_LINES` learning policies get a colour: those with the smallest regret plus violation per task,
    averaged over all their cells.
    """
    scores: dict[str, list[float]] = {}
    clairvoyant: dict[str, bool] = {}
    for cell, label in zip(cells, labels, strict=True):
        scores.setdefault(label.line, []).append(rank_score(cell))
        clairvoyant[label.line] = bool(cell.info.clairvoyant)
    learners = [line for line in scores if not clairvoyant[line]]
    best = set(sorted(learners, key=lambda line: _mean(scores[line]))[:MAX_LINES])
    names = short_names(list(scores))
    chosen = [line for line in learners if line in best]
    styles = {}
    for line in [*(line for line in learners if line not in best), *chosen]:
        position = chosen.index(line) if line in best else 0
        styles[line] = LineStyle(
            text=names[line],
            colour=POLICY_COLOURS[position] if line in best else _OTHERS_COLOUR,
            dashes="-",
            marker=_MARKERS[position] if line in best else "",
            focus=line in best,
            clairvoyant=False,
        )
    for position, line in enumerate(line for line in scores if clairvoyant[line]):
        styles[line] = LineStyle(
            text=names[line],
            colour=_CLAIRVOYANT_COLOURS[position % len(_CLAIRVOYANT_COLOURS)],
            dashes=DASHES[position % len(DASHES)],
            marker="",
            focus=position < len(_CLAIRVOYANT_COLOURS),
            clairvoyant=True,
        )
    return styles


@contextmanager
def house_style() -> Iterator[None]:
    """The house style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def rank_score(cell: CellResult) -> float:
    """Regret plus violation per task: small is good."""
    total = 0.0
    demand = metric_values(cell, "demand")
    for name in ("regret", "violation"):
        values = metric_values(cell, name)
        if values is not None and len(values) and demand is not None and demand.mean() > 0:
            total += max(0.0, float(values.mean())) / float(demand.mean())
    return total


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


@functools.cache
def _drawable() -> frozenset[int]:
    """Code points that matplotlib's own font has."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def safe_text(name: object) -> str:
    """A user's text as matplotlib should draw it: no mathematics, one line, only glyphs that there are."""
    words = " ".join(str(name).split())
    drawn = "".join(
        letter if ord(letter) in _drawable() and letter.isprintable() else f"\\u{ord(letter):04x}" for letter in words
    )
    return drawn.replace("$", r"\$")


def short_names(names: Sequence[str], length: int = 30) -> dict[str, str]:
    """Safe names of at most about ``length`` letters, still distinct."""
    shortened: dict[str, str] = {}
    for name in names:
        text = " ".join(name.split())
        if len(text) > length:
            text = f"{text[: length // 2]}…{text[-(length // 2 - 1) :]}"
        text = safe_text(text)
        number = len(shortened) + 1
        while text in shortened.values():
            text, number = f"{text} #{number}", number + 1
        shortened[name] = text
    return shortened


def spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the values, evenly spaced, first and last included."""
    if len(values) <= count:
        return list(values)
    return [values[round(position)] for position in np.linspace(0, len(values) - 1, count)]


def thin_ticks(values: Sequence[float], *, logarithmic: bool, gap: float = 0.2) -> list[float]:
    """Those of some increasing values whose tick labels do not touch: each ``gap`` of the axis from the one before."""
    places = [math.log(value) if logarithmic else value for value in values]
    kept = [len(values) - 1]
    for position in reversed(range(len(values) - 1)):
        if places[kept[0]] - places[position] >= gap * (places[-1] - places[0]):
            kept.insert(0, position)
    return [values[position] for position in kept]


def log_spaced(points: np.ndarray) -> bool:
    """Whether equal steps of the logarithm describe these points better than equal steps."""
    if len(points) < 3 or points[0] <= 0 or points[-1] / points[0] < 10:
        return False
    steps, ratios = np.diff(points.astype(float)), np.diff(np.log(points))
    return bool(ratios.std() / ratios.mean() < steps.std() / steps.mean())


def scale_rounds(axes: Axes, eval_rounds: np.ndarray) -> None:
    """A logarithmic axis of rounds where the eval_rounds are spaced that way; decades only, minor ticks are slow."""
    if log_spaced(eval_rounds):
        axes.set_xscale("log")
        axes.xaxis.set_minor_locator(NullLocator())


def compact_count(count: int) -> str:
    """1000 as 1k, 2500000 as 2.5M."""
    for size, letter in ((1_000_000, "M"), (1_000, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return str(count)


def panel_grid(
    rows: int, columns: int, *, width: float = 2.5, height: float = 2.0, legend: float = 1.7, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with [rows, columns] axes and room for a legend on the right."""
    figure = Figure(figsize=(max(4.0, width * columns + legend), height * rows + 0.75), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def add_title(figure: Figure, setting: str, title: str, notes: Sequence[str]) -> Figure:
    """Title above, footnote below."""
    width = figure.get_size_inches()[0]
    where = "".join(f"\n{safe_text(line)}" for line in textwrap.wrap(setting, int(width * 14)))
    figure.suptitle(title + where, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    text = textwrap.fill(" ".join(note for note in notes if note), int(width * 20))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color="#555555")
    return figure


def add_legend(owner: Figure | Axes, handles: Sequence[Any], texts: Sequence[str], **options: Any) -> None:
    """A legend whose texts may begin with an underscore, which matplotlib would drop."""
    legend = owner.legend(list(handles), [str(position) for position in range(len(texts))], **options)
    for drawn, text in zip(legend.get_texts(), texts, strict=True):
        drawn.set_text(text)


def legend_width(texts: Sequence[str]) -> float:
    """Inches that a legend of these texts takes."""
    return 0.6 + 0.068 * max((len(text) for text in texts), default=0)


def line_handle(style: LineStyle) -> Line2D:
    """A legend's sample of a line."""
    return Line2D([], [], color=style.colour, linestyle=style.dashes, marker=style.marker)


def bar_handle(style: LineStyle) -> Line2D:
    """A legend's sample of an interval: the colour alone."""
    return Line2D([], [], color=style.colour, linewidth=1.6)


def add_line_legend(figure: Figure, styles: Sequence[LineStyle], extra: Sequence[tuple[Any, str]] = ()) -> None:
    """The policies in colour, one entry for the others, and what else the figure needs, on the right."""
    entries: list[tuple[Any, str]] = [(line_handle(style), style.text) for style in styles if style.focus]
    others = sum(not style.focus for style in styles)
    if others:
        entries.append((Line2D([], [], color=_OTHERS_COLOUR), f"{others} other{'s' if others > 1 else ''}"))
    entries += extra
    handles, texts = zip(*entries, strict=True)
    add_legend(figure, handles, texts, loc="outside right center")


def focus_note(styles: Sequence[LineStyle], verb: str = "In colour") -> str:
    """By which rule policies are in colour; empty if all are."""
    if all(style.focus for style in styles):
        return ""
    return f"{verb}: the {MAX_LINES} policies with the smallest regret plus violation per task over the whole study."


def interval_note(cells: Sequence[CellResult]) -> str:
    """What the bands are, over how many runs."""
    counts = sorted({cell.curves.shape[0] for cell in cells})
    runs = f"{counts[0]} to {counts[-1]} runs" if len(counts) > 1 else f"{counts[0]} run{'s' if counts[0] > 1 else ''}"
    if counts == [1]:
        return "One run: no intervals."
    return f"Mean and {LEVEL:.0%} interval of the mean over {runs}."


def draw_band(axes: Axes, cell: CellResult, metric: str, curves: np.ndarray, style: LineStyle) -> None:
    """Mean and interval of a metric's [R, E] curves without failed runs and marks that some run lacks."""
    rounds = cell.eval_rounds
    curves = curves[np.isfinite(curves[:, -1])]
    marks = np.isfinite(curves).all(axis=0)
    if len(curves) == 0 or not marks.any():
        return
    mean, low, high = metric_band(cell, metric, curves[:, marks], LEVEL)
    every = max(1, int(marks.sum()) // 5)
    order = 2.0 if style.focus else 1.0
    axes.plot(
        rounds[marks],
        mean,
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markevery=(_MARKERS.index(style.marker) % every if style.marker else 0, every),
        linewidth=1.4 if style.focus else 0.8,
        zorder=order,
    )
    if style.focus:
        axes.fill_between(rounds[marks], low, high, color=style.colour, alpha=0.18, linewidth=0, zorder=order - 0.5)


def shared_y_scale(row: Sequence[Axes]) -> None:
    """Share a vertical range; logarithmic beyond one task either way where it spans much more than that."""
    low = min(0.0, *(float(axes.dataLim.y0) for axes in row))
    high = max(1e-9, *(float(axes.dataLim.y1) for axes in row))
    if max(-low, high) <= 30:
        row[0].set_ylim(low - 0.03 * (high - low), high + 0.05 * (high - low))
        return
    for axes in row:
        axes.set_yscale("symlog", linthresh=1.0, linscale=0.4)
        axes.axhline(0.0, color="#888888", linewidth=0.6, zorder=0.5)
    row[0].set_ylim(low * 1.5 - 0.15, max(high * 1.5, 1.0))


def draw_point(axes: Axes, x: float, cell: CellResult, metric: str, style: LineStyle, **options: Any) -> float | None:
    """A metric's mean with its interval at a cell's horizon; the mean, or None where there is nothing to draw."""
    values = metric_values(cell, metric)
    if values is None or len(values) == 0:
        return None
    mean, low, high = metric_interval(cell, metric, values, LEVEL)
    if style.focus and math.isfinite(low):
        axes.plot([x, x], [low, high], color=style.colour, linewidth=1.0, zorder=2)
    marker = style.marker or ("o" if style.focus else ".")
    face = "white" if style.clairvoyant else style.colour
    axes.plot([x], [mean], marker=marker, color=style.colour, markerfacecolor=face, zorder=3, **options)
    return mean
