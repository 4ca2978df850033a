"""Pictures of a study, drawn from stored results only.

Every figure takes the cells of one study and returns a matplotlib figure on the Agg canvas; pyplot is never imported, so
worker processes and servers may draw. Each policy keeps its colour and marker in all figures of a study, clairvoyant
policies are dashed and grey. Where a study has more policies, models or budgets than stay legible, a rule chooses and
the figure's footnote states it; policies that are not chosen stay visible in light grey.
"""

import functools
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from experiments.scaling import mean_band, mean_interval
from experiments.store import CellResult
from experiments.summary import (
    Group,
    Label,
    budget_of,
    fit_group,
    has_violation,
    label_cells,
    metric_curve,
    metric_values,
    money_metric,
)

MAX_LINES = 8  # policies in colour
MAX_PANELS = 4  # budgets or forecasters side by side
MAX_MODELS = 8  # models with an area of their own
MAX_BELIEFS = 12  # models whose intervals are drawn
MAX_LEARNERS = 4  # policies whose beliefs are drawn
MAX_SETTINGS = 6  # worlds drawn by write_all
LEVEL = 0.95

_POLICY_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255", "#7A7A00")
_CLAIRVOYANT_COLOURS = ("#444444", "#777777", "#999999")
_MODEL_COLOURS = ("#77AADD", "#EE8866", "#44BB99", "#EEDD88", "#FFAABB", "#99DDFF", "#BBCC33", "#AA99CC")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p")
_DASHES: tuple[Any, ...] = ((0, (4, 1.5)), (0, (1.5, 1.5)), (0, (6, 1.5, 1, 1.5)))
_OTHERS_COLOUR = "#C4C4C4"
_THEORY: tuple[tuple[float, str, Any], ...] = ((0.5, "$T^{1/2}$", ":"), (2 / 3, "$T^{2/3}$", "-."), (1.0, "$T$", "--"))
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


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished figure with what is said about it."""

    name: str  # the file's stem
    caption: str  # one paragraph; serves as the alternative text
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class _View:
    """The cells of one setting, looked up by line, budget and horizon."""

    table: dict[tuple[str, float | None, int], CellResult]
    styles: dict[str, LineStyle]  # in drawing order
    budgets: tuple[float | None, ...]
    horizons: tuple[int, ...]
    setting: str

    @property
    def horizon(self) -> int:
        """The longest."""
        return self.horizons[-1]

    @property
    def budget(self) -> float | None:
        """The middle one."""
        return self.budgets[len(self.budgets) // 2]

    def row(self, budget: float | None, horizon: int) -> list[tuple[LineStyle, CellResult]]:
        """Each line's cell at one budget and horizon, in drawing order."""
        found = [(style, self.table.get((line, budget, horizon))) for line, style in self.styles.items()]
        return [(style, cell) for style, cell in found if cell is not None]


def regret_by_round(cells: Sequence[CellResult]) -> Figure:
    """Regret and violation against rounds at the longest horizon; a column a budget, a line a policy."""
    return _render(_regret_by_round, cells)


def regret_by_horizon(cells: Sequence[CellResult]) -> Figure:
    """Regret and violation against the horizon on logarithmic axes, with fitted slopes."""
    return _render(_regret_by_horizon, cells)


def reward_by_budget(cells: Sequence[CellResult]) -> Figure:
    """Reward share of the benchmark and violation per task against the budget per task, or by policy if there is one."""
    return _render(_reward_by_budget, cells)


def demand_forecast(cells: Sequence[CellResult]) -> Figure:
    """Realised demand and its forecast against rounds, and the forecast's error; a column a forecaster."""
    return _render(_demand_forecast, cells)


def traffic(cells: Sequence[CellResult]) -> Figure:
    """Which model served when: share of demand per checkpoint interval, beside the benchmark's mix."""
    return _render(_traffic, cells)


def beliefs(cells: Sequence[CellResult]) -> Figure:
    """Confidence intervals at the end against the true means, with coverage."""
    return _render(_beliefs, cells)


def draw_all(cells: Sequence[CellResult]) -> Iterator[Drawing]:
    """Every figure that applies, one setting after the other. The figure is cleared when the next one is asked for."""
    cells = list(cells)
    if not cells:
        return
    labels = label_cells(cells)
    styles = line_styles(cells, labels)
    settings = list(dict.fromkeys(label.setting for label in labels))
    slugs = _slugs(settings)
    for setting in settings[:MAX_SETTINGS]:
        view = _make_view(cells, labels, styles, setting)
        for name, (draw, caption) in _FIGURES.items():
            try:
                figure = _draw(draw, view)
            except NothingToDrawError:
                continue
            where = f" Setting: {setting}." if setting else ""
            left = len(settings) - MAX_SETTINGS
            where += f" {left} further settings are not drawn." if left > 0 else ""
            yield Drawing(name=name + slugs[setting], caption=caption + where, figure=figure)
            figure.clear()


def write_all(cells: Sequence[CellResult], folder: str | Path) -> list[Path]:
    """Write every figure that applies as PNG (150 dpi) and SVG; returns the files. Files of equal results are equal."""
    return [path for drawing in draw_all(cells) for path in save(drawing, folder)]


def save(drawing: Drawing, folder: str | Path) -> list[Path]:
    """Write one figure as ``<folder>/<name>.png`` and ``.svg``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{drawing.name}.png", folder / f"{drawing.name}.svg"]
    with _style():
        drawing.figure.savefig(paths[0], format="png", dpi=150, metadata={"Software": None})
        drawing.figure.savefig(paths[1], format="svg", metadata={"Date": None})
    return paths


def line_styles(cells: Sequence[CellResult], labels: Sequence[Label]) -> dict[str, LineStyle]:
    """A style a line, in the order of the study, clairvoyant lines last.

    At most :data:`MAX_LINES` learning policies get a colour: those with the smallest regret plus violation per task,
    averaged over all their cells.
    """
    badness: dict[str, list[float]] = {}
    clairvoyant: dict[str, bool] = {}
    for cell, label in zip(cells, labels, strict=True):
        badness.setdefault(label.line, []).append(_badness(cell))
        clairvoyant[label.line] = bool(cell.description.get("clairvoyant"))
    learners = [line for line in badness if not clairvoyant[line]]
    best = set(sorted(learners, key=lambda line: _mean(badness[line]))[:MAX_LINES])
    names = _short_names(list(badness))
    chosen = [line for line in learners if line in best]
    styles = {}
    for line in [*(line for line in learners if line not in best), *chosen]:
        position = chosen.index(line) if line in best else 0
        styles[line] = LineStyle(
            text=names[line],
            colour=_POLICY_COLOURS[position] if line in best else _OTHERS_COLOUR,
            dashes="-",
            marker=_MARKERS[position] if line in best else "",
            focus=line in best,
            clairvoyant=False,
        )
    for position, line in enumerate(line for line in badness if clairvoyant[line]):
        styles[line] = LineStyle(
            text=names[line],
            colour=_CLAIRVOYANT_COLOURS[position % len(_CLAIRVOYANT_COLOURS)],
            dashes=_DASHES[position % len(_DASHES)],
            marker="",
            focus=position < len(_CLAIRVOYANT_COLOURS),
            clairvoyant=True,
        )
    return styles


def _render(draw: Callable[[_View], Figure], cells: Sequence[CellResult]) -> Figure:
    """One figure of the setting that has most cells."""
    if not cells:
        raise NothingToDrawError("there are no cells")
    labels = label_cells(cells)
    settings = [label.setting for label in labels]
    return _draw(draw, _make_view(cells, labels, line_styles(cells, labels), max(settings, key=settings.count)))


def _draw(draw: Callable[[_View], Figure], view: _View) -> Figure:
    with _style():
        return draw(view)


def _make_view(
    cells: Sequence[CellResult], labels: Sequence[Label], styles: dict[str, LineStyle], setting: str
) -> _View:
    chosen = [(cell, label.line) for cell, label in zip(cells, labels, strict=True) if label.setting == setting]
    table: dict[tuple[str, float | None, int], CellResult] = {}
    for cell, line in chosen:
        table.setdefault((line, budget_of(cell), int(cell.description["horizon"])), cell)
    budgets = {budget for _, budget, _ in table}
    present = {line for line, _, _ in table}
    return _View(
        table=table,
        styles={line: style for line, style in styles.items() if line in present},
        budgets=tuple(sorted(budgets, key=lambda budget: (budget is None, budget or 0.0))),
        horizons=tuple(sorted({horizon for _, _, horizon in table})),
        setting=setting,
    )


@contextmanager
def _style() -> Iterator[None]:
    """The house style, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def _badness(cell: CellResult) -> float:
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


def _slugs(settings: Sequence[str]) -> dict[str, str]:
    """What a setting adds to its files' names: nothing if there is one, else something distinct on every file system."""
    if len(settings) == 1:
        return {settings[0]: ""}
    slugs = {}
    for position, setting in enumerate(settings):
        words = re.sub(r"[^a-z0-9.]+", "-", setting.lower()).strip("-.")[:40]
        slugs[setting] = f"--{position + 1}-{words}".rstrip("-.")
    return slugs


@functools.cache
def _drawable() -> frozenset[int]:
    """Code points that matplotlib's own font has."""
    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())


def _safe(name: object) -> str:
    """A user's text as matplotlib should draw it: no mathematics, one line, only glyphs that there are."""
    words = " ".join(str(name).split())
    drawn = "".join(
        letter if ord(letter) in _drawable() and letter.isprintable() else f"\\u{ord(letter):04x}" for letter in words
    )
    return drawn.replace("$", r"\$")


def _short_names(names: Sequence[str], length: int = 30) -> dict[str, str]:
    """Safe names of at most about ``length`` letters, still distinct."""
    shortened: dict[str, str] = {}
    for name in names:
        text = " ".join(name.split())
        if len(text) > length:
            text = f"{text[: length // 2]}…{text[-(length // 2 - 1) :]}"
        text = _safe(text)
        if text in shortened.values():
            text = f"{text} #{len(shortened) + 1}"
        shortened[name] = text
    return shortened


def _spread(values: Sequence[Any], count: int) -> list[Any]:
    """At most ``count`` of the values, evenly spaced, first and last included."""
    if len(values) <= count:
        return list(values)
    return [values[round(position)] for position in np.linspace(0, len(values) - 1, count)]


def _log_spaced(points: np.ndarray) -> bool:
    """Whether equal steps of the logarithm describe these points better than equal steps."""
    if len(points) < 3 or points[0] <= 0 or points[-1] / points[0] < 10:
        return False
    steps, ratios = np.diff(points.astype(float)), np.diff(np.log(points))
    return bool(ratios.std() / ratios.mean() < steps.std() / steps.mean())


def _spell_budget(budget: float | None) -> str:
    return "no budget" if budget is None else f"budget {budget:.3g} USD a task"


def _grid(
    rows: int, columns: int, *, width: float = 2.5, height: float = 2.0, legend: float = 1.7, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure with [rows, columns] axes and room for a legend on the right."""
    figure = Figure(figsize=(max(4.0, width * columns + legend), height * rows + 0.75), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _finish(figure: Figure, view: _View, title: str, notes: Sequence[str]) -> Figure:
    """Title above, footnote below."""
    width = figure.get_size_inches()[0]
    where = f"\n{textwrap.fill(_safe(view.setting), int(width * 14))}" if view.setting else ""
    figure.suptitle(title + where, x=0.01, ha="left", fontsize=9.5, fontweight="bold")
    text = textwrap.fill(" ".join(note for note in notes if note), int(width * 20))
    figure.supxlabel(text, x=0.01, ha="left", fontsize=6.5, color="#555555")
    return figure


def _legend(owner: Figure | Axes, handles: Sequence[Any], texts: Sequence[str], **options: Any) -> None:
    """A legend whose texts may begin with an underscore, which matplotlib would drop."""
    legend = owner.legend(list(handles), [str(position) for position in range(len(texts))], **options)
    for drawn, text in zip(legend.get_texts(), texts, strict=True):
        drawn.set_text(text)


def _line_handle(style: LineStyle) -> Line2D:
    return Line2D([], [], color=style.colour, linestyle=style.dashes, marker=style.marker)


def _line_legend(figure: Figure, styles: Sequence[LineStyle], extra: Sequence[tuple[Any, str]] = ()) -> None:
    """The policies in colour, one entry for the others, and what else the figure needs, on the right."""
    entries: list[tuple[Any, str]] = [(_line_handle(style), style.text) for style in styles if style.focus]
    others = sum(not style.focus for style in styles)
    if others:
        entries.append((Line2D([], [], color=_OTHERS_COLOUR), f"{others} other{'s' if others > 1 else ''}"))
    entries += extra
    handles, texts = zip(*entries, strict=True)
    _legend(figure, handles, texts, loc="outside right upper")


def _focus_note(styles: Sequence[LineStyle]) -> str:
    if all(style.focus for style in styles):
        return ""
    return f"In colour: the {MAX_LINES} policies with the smallest regret plus violation per task over the whole study."


def _interval_note(cells: Sequence[CellResult]) -> str:
    counts = sorted({cell.curves.shape[0] for cell in cells})
    runs = f"{counts[0]} to {counts[-1]} runs" if len(counts) > 1 else f"{counts[0]} run{'s' if counts[0] > 1 else ''}"
    if counts == [1]:
        return "One run: no intervals."
    return f"Mean and {LEVEL:.0%} interval of the mean (Student t) over {runs}."


def _budget_note(view: _View, shown: Sequence[float | None]) -> str:
    if len(shown) == len(view.budgets):
        return ""
    return f"{len(shown)} of {len(view.budgets)} budgets, evenly spaced from the smallest to the largest."


def _band(axes: Axes, rounds: np.ndarray, curves: np.ndarray, style: LineStyle, *, fill: bool = True) -> None:
    """Mean and interval of [R, E] curves; runs that failed and marks that some run lacks are left out."""
    curves = curves[np.isfinite(curves[:, -1])]
    marks = np.isfinite(curves).all(axis=0)
    if len(curves) == 0 or not marks.any():
        return
    mean, low, high = mean_band(curves[:, marks], LEVEL)
    every = max(1, int(marks.sum()) // 5)
    order = 2.0 if style.focus else 1.0
    axes.plot(
        rounds[marks],
        mean,
        color=style.colour,
        linestyle=style.dashes,
        marker=style.marker,
        markevery=(every // 2, every),
        linewidth=1.4 if style.focus else 0.8,
        zorder=order,
    )
    if fill and style.focus:
        axes.fill_between(rounds[marks], low, high, color=style.colour, alpha=0.18, linewidth=0, zorder=order - 0.5)


def _tame(axes: Axes) -> None:
    """Logarithmic beyond one task either way where the values span much more than that; zero stays on the axis."""
    low, high = axes.get_ylim()
    if max(abs(low), abs(high)) > 30:
        axes.set_yscale("symlog", linthresh=1.0, linscale=0.4)
        axes.axhline(0.0, color="#888888", linewidth=0.6, zorder=0.5)
        axes.set_ylim(min(0.0, low if low < -1 else 0.0), high)


def _point(axes: Axes, x: float, values: np.ndarray, style: LineStyle, **options: Any) -> None:
    """A mean with its interval."""
    mean, low, high = mean_interval(values, LEVEL)
    if style.focus and math.isfinite(low):
        axes.plot([x, x], [low, high], color=style.colour, linewidth=1.0, zorder=2)
    marker = style.marker or ("o" if style.focus else ".")
    face = "white" if style.clairvoyant else style.colour
    axes.plot([x], [mean], marker=marker, color=style.colour, markerfacecolor=face, zorder=3, **options)


def _regret_by_round(view: _View) -> Figure:
    budgets = _spread(view.budgets, MAX_PANELS)
    shown = [view.row(budget, view.horizon) for budget in budgets]
    drawn = [cell for row in shown for _, cell in row]
    metrics = [("regret", "Regret (tasks)")]
    if any(has_violation(cell) for cell in drawn):
        metrics.append(("violation", "Violation (tasks)"))
    figure, grid = _grid(len(metrics), len(budgets), sharex="col", sharey="row")
    for row, (metric, text) in enumerate(metrics):
        for column, (budget, members) in enumerate(zip(budgets, shown, strict=True)):
            axes = grid[row, column]
            for style, cell in members:
                curves = metric_curve(cell, metric)
                if curves is not None:
                    _band(axes, cell.checkpoints, curves, style)
                    axes.set_xscale("log" if _log_spaced(cell.checkpoints) else "linear")
            if row == 0:
                axes.set_title(_spell_budget(budget))
        grid[row, 0].set_ylabel(text)
        _tame(grid[row, 0])
    for axes in grid[-1]:
        axes.set_xlabel("Rounds")
    styles = _styles_of(shown)
    _line_legend(figure, styles)
    scale = "Vertical axes with powers of ten are linear between -1 and 1 task."
    notes = [_interval_note(drawn), scale, _budget_note(view, budgets), _focus_note(styles)]
    return _finish(figure, view, f"Regret and violation over {view.horizon:,} rounds", notes)


def _styles_of(rows: Sequence[Sequence[tuple[LineStyle, CellResult]]]) -> list[LineStyle]:
    """Styles that occur, in drawing order."""
    return list({style.text: style for row in rows for style, _ in row}.values())


def _regret_by_horizon(view: _View) -> Figure:
    if len(view.horizons) < 2:
        raise NothingToDrawError("growth with the horizon needs at least two horizons")
    budgets = _spread(view.budgets, MAX_PANELS)
    metrics = [("regret", "Regret (tasks)")]
    if any(_positive(cell, "violation") for cell in view.table.values()):
        metrics.append(("violation", "Violation (tasks)"))
    lines = len([style for style in view.styles.values() if style.focus])
    height = 2.0 + 0.14 * lines
    figure, grid = _grid(len(metrics), len(budgets), height=height, legend=1.5, sharex="col")
    for row, (metric, text) in enumerate(metrics):
        for column, budget in enumerate(budgets):
            _growth_panel(grid[row, column], view, budget, metric)
            grid[row, column].set_title(_spell_budget(budget) if row == 0 else "")
            grid[row, column].tick_params(labelbottom=True)
            grid[row, column].set_xlabel("Horizon (rounds)")
        grid[row, 0].set_ylabel(text)
    theory = [(Line2D([], [], color="#999999", linestyle=dash, linewidth=1.0), name) for _, name, dash in _THEORY]
    below = Line2D([], [], color="#555555", marker=r"$\downarrow$", linestyle="", markersize=6)
    _line_legend(figure, list(view.styles.values()), [*theory, (below, "mean ≤ 0")])
    notes = [
        _interval_note(list(view.table.values())),
        f"Below each panel: slope of log(mean) on log(horizon), {LEVEL:.0%} bootstrap interval; lower-order terms bias it.",
        "Grey theory lines all pass through one point: the geometric mean of the coloured learning policies at the "
        "shortest horizon.",
        "Means that are zero or negative have no logarithm: arrows at the bottom, outside the fit.",
        _budget_note(view, budgets),
        _focus_note(list(view.styles.values())),
    ]
    return _finish(figure, view, "Growth with the horizon", notes)


def _positive(cell: CellResult, metric: str) -> bool:
    values = metric_values(cell, metric)
    return values is not None and len(values) > 0 and float(values.mean()) > 0


def _growth_panel(axes: Axes, view: _View, budget: float | None, metric: str) -> None:
    """One budget: points, fits, theory lines, and the slopes beneath."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    groups = [(style, _group(view, line, budget)) for line, style in view.styles.items()]
    groups = [(style, group) for style, group in groups if group.cells]
    floor = _growth_limits(axes, groups, metric)
    _theory_lines(axes, groups, metric)
    entries = []
    for position, (style, group) in enumerate(groups):
        shift = 1.03 ** (position - len(groups) / 2)
        for cell in group.cells:
            values = metric_values(cell, metric)
            if values is not None and len(values):
                _growth_point(axes, float(cell.description["horizon"]) * shift, values, style, floor)
        fit = fit_group(group, metric, level=LEVEL)
        if fit is not None and fit["slope"] is not None:
            ends = np.array([fit["horizons"][0], fit["horizons"][-1]])
            width = 1.2 if style.focus else 0.7
            axes.plot(
                ends,
                np.exp(fit["intercept"]) * ends ** fit["slope"],
                color=style.colour,
                linestyle=style.dashes,
                linewidth=width,
                zorder=1.5,
            )
        if style.focus:
            entries.append((_line_handle(style), _slope_text(style, fit)))
    if entries:
        handles, texts = zip(*entries, strict=True)
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.22), "fontsize": 6.5, "labelspacing": 0.25}
        _legend(axes, handles, texts, **place)


def _group(view: _View, line: str, budget: float | None) -> Group:
    found = [view.table.get((line, budget, horizon)) for horizon in view.horizons]
    cells = tuple(cell for cell in found if cell is not None)
    return Group(label=Label(line=line, setting=view.setting), budget_per_task=budget, cells=cells)


def _slope_text(style: LineStyle, fit: dict[str, Any] | None) -> str:
    """The slope with its interval, in words where there is none."""
    if fit is None or fit["slope"] is None:
        return f"{style.text}: no slope"
    low, high = fit["interval"]
    interval = "" if low is None else f" [{low:.2f}, {high:.2f}]"
    return f"{style.text}: {fit['slope']:.2f}{interval}"


def _growth_means(groups: Sequence[tuple[LineStyle, Group]], metric: str) -> list[tuple[LineStyle, float, float]]:
    """(style, horizon, mean) of every point above zero."""
    points = []
    for style, group in groups:
        for cell in group.cells:
            values = metric_values(cell, metric)
            if values is not None and len(values) and values.mean() > 0:
                points.append((style, float(cell.description["horizon"]), float(values.mean())))
    return points


def _growth_limits(axes: Axes, groups: Sequence[tuple[LineStyle, Group]], metric: str) -> float:
    """Set the vertical range from the means, so that no interval that reaches zero stretches it; returns its foot."""
    means = [mean for _, _, mean in _growth_means(groups, metric)] or [1.0]
    low, high = min(means) / 4.0, max(means) * 2.5
    axes.set_ylim(low, high)
    return low


def _growth_point(axes: Axes, horizon: float, values: np.ndarray, style: LineStyle, floor: float) -> None:
    """A mean with its interval, or an arrow at the bottom where the mean has no logarithm."""
    mean, low, high = mean_interval(values, LEVEL)
    if mean <= 0:
        place = axes.get_xaxis_transform()
        axes.plot(
            [horizon], [0.05], transform=place, marker=r"$\downarrow$", color=style.colour, markersize=7, zorder=3
        )
        return
    if style.focus and math.isfinite(low):
        axes.plot([horizon, horizon], [max(low, floor / 10), high], color=style.colour, linewidth=0.9, zorder=2)
    face = "white" if style.clairvoyant else style.colour
    marker = style.marker or "o"
    axes.plot([horizon], [mean], marker=marker, color=style.colour, markerfacecolor=face, markersize=3.5, zorder=3)


def _theory_lines(axes: Axes, groups: Sequence[tuple[LineStyle, Group]], metric: str) -> None:
    """Faint T^(1/2), T^(2/3) and T through one common point."""
    points = _growth_means(groups, metric)
    learning = [point for point in points if point[0].focus and not point[0].clairvoyant] or points
    if not learning:
        return
    start, end = min(horizon for _, horizon, _ in points), max(horizon for _, horizon, _ in points)
    first = min(horizon for _, horizon, _ in learning)
    anchor = math.exp(_mean([math.log(mean) for _, horizon, mean in learning if horizon == first]))
    ends = np.array([start, end])
    for power, _, dash in _THEORY:
        axes.plot(ends, anchor * (ends / first) ** power, color="#999999", linestyle=dash, linewidth=0.9, zorder=1)


def _reward_by_budget(view: _View) -> Figure:
    rows = [view.row(budget, view.horizon) for budget in view.budgets]
    cells = [cell for row in rows for _, cell in row]
    metrics = [("reward_share", "Reward, share of the benchmark")]
    if any(has_violation(cell) for cell in cells):
        metrics.append(("violation_per_task", "Violation per unit of demand"))
    styles = _styles_of(rows)
    notes = [_interval_note(cells)]
    if len(view.budgets) == 1:
        figure, grid = _grid(1, len(metrics), width=2.8, height=0.6 + 0.18 * len(styles), legend=1.6, sharey=True)
        for axes, (metric, text) in zip(grid[0], metrics, strict=True):
            _by_policy(axes, rows[0], metric, text)
        title = f"Reward and violation at {_spell_budget(view.budget)}, {view.horizon:,} rounds"
        return _finish(figure, view, title, notes)
    figure, grid = _grid(1, len(metrics), width=3.0, height=2.4)
    for axes, (metric, text) in zip(grid[0], metrics, strict=True):
        _by_budget(axes, view, metric)
        axes.set_ylabel(text)
    _line_legend(figure, styles)
    missing = "Cells without a budget are not drawn." if None in view.budgets else ""
    return _finish(
        figure,
        view,
        f"Reward and violation against the budget, {view.horizon:,} rounds",
        [*notes, missing, _focus_note(styles)],
    )


def _by_policy(axes: Axes, row: Sequence[tuple[LineStyle, CellResult]], metric: str, text: str) -> None:
    """A dot a policy: there is one budget."""
    for position, (style, cell) in enumerate(reversed(row)):
        values = metric_values(cell, metric)
        if values is not None and len(values):
            mean, low, high = mean_interval(values, LEVEL)
            face = "white" if style.clairvoyant else style.colour
            axes.plot([low, high], [position, position], color=style.colour)
            axes.plot([mean], [position], marker=style.marker or "o", color=style.colour, markerfacecolor=face)
    axes.set_yticks(range(len(row)), [style.text for style, _ in reversed(row)])
    axes.set_ylim(-0.6, len(row) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _share_axis(axes, metric, vertical=False)
    axes.set_xlabel(text)


def _share_axis(axes: Axes, metric: str, *, vertical: bool) -> None:
    """Percent for shares; the benchmark's line; violation starts at zero."""
    if metric == "reward_share":
        line = axes.axhline if vertical else axes.axvline
        line(1.0, color="#888888", linewidth=0.8, zorder=0.5)
        (axes.yaxis if vertical else axes.xaxis).set_major_formatter(PercentFormatter(1.0))
        return
    low, high = axes.get_ylim() if vertical else axes.get_xlim()
    (axes.set_ylim if vertical else axes.set_xlim)(min(0.0, low + 0.05 * (high - low)) - 0.02 * high, high)


def _by_budget(axes: Axes, view: _View, metric: str) -> None:
    """A line a policy over the budgets at the longest horizon."""
    budgets = [budget for budget in view.budgets if budget is not None]
    if budgets[0] > 0 and budgets[-1] / budgets[0] >= 8:
        axes.set_xscale("log")
    for line, style in view.styles.items():
        points = []
        for budget in budgets:
            cell = view.table.get((line, budget, view.horizon))
            values = None if cell is None else metric_values(cell, metric)
            if values is not None and len(values):
                _point(axes, budget, values, style, markersize=4)
                points.append((budget, float(values.mean())))
        if points:
            width = 1.3 if style.focus else 0.7
            axes.plot(
                *zip(*points, strict=True), color=style.colour, linestyle=style.dashes, linewidth=width, zorder=1.5
            )
    _share_axis(axes, metric, vertical=True)
    axes.set_xlabel("Budget (USD a task)")


def _demand_forecast(view: _View) -> Figure:
    chosen = _one_a_forecaster(view)
    if not chosen:
        raise NothingToDrawError("no cell holds a forecast")
    shown = _spread(list(chosen), MAX_PANELS)
    figure, grid = _grid(2, len(shown), sharex="col", sharey="row", legend=1.9)
    for column, name in enumerate(shown):
        _forecast_panel(grid[0, column], chosen[name])
        _error_panel(grid[1, column], chosen[name])
        grid[0, column].set_title(f"forecaster {_short_names([name])[name]}")
        grid[1, column].set_xlabel("Rounds")
    grid[0, 0].set_ylabel("Demand (tasks)")
    grid[1, 0].set_ylabel("Forecast error,\nshare of the total")
    entries = [
        (Line2D([], [], color=_POLICY_COLOURS[0]), "arrived so far"),
        (Line2D([], [], color=_POLICY_COLOURS[1], linestyle=_DASHES[0]), "forecast of the total"),
        (Line2D([], [], color="#444444", linestyle=":"), "total in the end"),
        (Line2D([], [], color=_POLICY_COLOURS[2]), "error |forecast - total|"),
    ]
    handles, texts = zip(*entries, strict=True)
    _legend(figure, handles, texts, loc="outside right upper")
    dropped = f"{len(shown)} of {len(chosen)} forecasters." if len(shown) < len(chosen) else ""
    notes = [
        "Lines: mean over runs; bands: from the 5 % to the 95 % quantile of the runs.",
        f"First policy of the study with each forecaster, {_spell_budget(view.budget)}.",
        dropped,
    ]
    return _finish(figure, view, f"Demand and its forecast over {view.horizon:,} rounds", notes)


def _one_a_forecaster(view: _View) -> dict[str, CellResult]:
    """For each forecaster the first cell of the longest horizon that holds a forecast."""
    chosen: dict[str, CellResult] = {}
    for budget in (view.budget, *view.budgets):
        for _, cell in view.row(budget, view.horizon):
            totals = metric_values(cell, "forecast_total")
            if totals is not None and len(totals) and (totals > 0).any():
                chosen.setdefault(str(cell.description.get("forecaster")), cell)
    return chosen


def _quantile_band(axes: Axes, rounds: np.ndarray, curves: np.ndarray, colour: str, dashes: Any = "-") -> None:
    """Mean and 5-95 % range of the runs; marks without a value in some run are left out."""
    curves = curves[np.isfinite(curves[:, -1])]
    marks = np.isfinite(curves).all(axis=0)
    if len(curves) == 0 or not marks.any():
        return
    low, high = np.quantile(curves[:, marks], [0.05, 0.95], axis=0)
    axes.plot(rounds[marks], curves[:, marks].mean(axis=0), color=colour, linestyle=dashes)
    axes.fill_between(rounds[marks], low, high, color=colour, alpha=0.18, linewidth=0)


def _forecast_panel(axes: Axes, cell: CellResult) -> None:
    total = cell.final("demand")
    axes.axhline(float(total[np.isfinite(total)].mean()), color="#444444", linestyle=":", linewidth=1.0)
    _quantile_band(axes, cell.checkpoints, cell.curve("demand"), _POLICY_COLOURS[0])
    _quantile_band(axes, cell.checkpoints, cell.curve("forecast_total"), _POLICY_COLOURS[1], _DASHES[0])
    axes.set_xscale("log" if _log_spaced(cell.checkpoints) else "linear")
    axes.set_ylim(bottom=0)


def _error_panel(axes: Axes, cell: CellResult) -> None:
    if "forecast_error" in cell.metrics:
        _quantile_band(axes, cell.checkpoints, cell.curve("forecast_error"), _POLICY_COLOURS[2])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _traffic(view: _View) -> Figure:
    row = [(style, cell) for style, cell in view.row(view.budget, view.horizon) if style.focus]
    if not row:
        raise NothingToDrawError("no policy has a cell at the middle budget and the longest horizon")
    models, areas = row[0][1].models, [_interval_share(cell) for _, cell in row]
    weight = np.mean([area.mean(axis=0) for area in areas] + [cell.benchmark_share for _, cell in row], axis=0)
    chosen = sorted(np.argsort(-weight, kind="stable")[:MAX_MODELS].tolist())
    columns = min(3, len(row))
    rows = math.ceil(len(row) / columns)
    figure = Figure(figsize=(2.6 * columns + 1.9, 1.7 * rows + 0.75), layout="constrained")
    FigureCanvasAgg(figure)
    outer = figure.add_gridspec(rows, columns)
    for position, ((style, cell), area) in enumerate(zip(row, areas, strict=True)):
        inner = outer[position // columns, position % columns].subgridspec(1, 2, width_ratios=[11, 1], wspace=0.04)
        axes, bar = figure.add_subplot(inner[0]), figure.add_subplot(inner[1])
        _area(axes, cell.checkpoints, _fold(area, chosen))
        _mix_bar(bar, _fold(cell.benchmark_share[None], chosen)[0])
        axes.set_title(style.text, loc="left")
        if position % columns == 0:
            axes.set_ylabel("Share of demand")
        if position + columns >= len(row):
            axes.set_xlabel("Rounds")
    _model_legend(figure, [models[i] for i in chosen], len(models) - len(chosen))
    notes = [
        f"Share of the demand of each checkpoint interval, mean over runs, at {_spell_budget(view.budget)}.",
        "Narrow bar: the benchmark's mix.",
        f"Own area: the {MAX_MODELS} models that serve most." if len(models) > len(chosen) else "",
        _focus_note(list(view.styles.values())),
    ]
    return _finish(figure, view, f"Which model served when, {view.horizon:,} rounds", notes)


def _interval_share(cell: CellResult) -> np.ndarray:
    """[E, M] share of the demand within each checkpoint interval, from the shares of all demand so far.

    Uses the runs' mean demand, so it is exact when demand is equal over runs and close otherwise.
    """
    demand = np.nanmean(np.where(np.isfinite(cell.curve("demand")), cell.curve("demand"), np.nan), axis=0)
    served = np.diff(np.nan_to_num(cell.share) * demand[:, None], axis=0, prepend=0.0)
    arrived = np.diff(demand, prepend=0.0)[:, None]
    share = np.where(arrived > 0, served / np.where(arrived > 0, arrived, 1.0), 0.0)
    share = np.clip(share, 0.0, 1.0)
    return np.asarray(share / np.maximum(share.sum(axis=1, keepdims=True), 1.0))


def _fold(share: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """[E, chosen + 2]: chosen models, all other models, declined."""
    own = share[:, list(chosen)]
    others = share.sum(axis=1) - own.sum(axis=1)
    declined = np.maximum(0.0, 1.0 - share.sum(axis=1))
    return np.column_stack([own, np.maximum(0.0, others), declined])


def _fills(count: int) -> list[dict[str, Any]]:
    """Looks of the areas: models, others, declined."""
    models = [{"facecolor": colour, "edgecolor": "white"} for colour in _MODEL_COLOURS[:count]]
    return [
        *models,
        {"facecolor": "#BBBBBB", "edgecolor": "white"},
        {"facecolor": "white", "edgecolor": "#999999", "hatch": "////"},
    ]


def _area(axes: Axes, checkpoints: np.ndarray, share: np.ndarray) -> None:
    """Stacked steps: each interval ends at its checkpoint."""
    log = _log_spaced(checkpoints)
    start = checkpoints[0] ** 2 / checkpoints[1] if log else 0.0
    edges = np.concatenate([[start], checkpoints])
    tops = np.cumsum(share, axis=1)
    tops = np.concatenate([tops[:1], tops])
    below = np.zeros(len(edges))
    for top, fill in zip(tops.T, _fills(share.shape[1] - 2), strict=True):
        axes.fill_between(edges, below, top, step="pre", linewidth=0.3, **fill)
        below = top
    axes.set_xscale("log" if log else "linear")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(0, 1)
    axes.grid(visible=False)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _mix_bar(axes: Axes, share: np.ndarray) -> None:
    below = 0.0
    for part, fill in zip(share, _fills(len(share) - 2), strict=True):
        axes.bar([0], [part], bottom=below, width=1.0, linewidth=0.3, **fill)
        below += float(part)
    axes.set_xlim(-0.5, 0.5)
    axes.set_ylim(0, 1)
    axes.set_axis_off()


def _model_legend(figure: Figure, models: Sequence[str], others: int) -> None:
    names = list(_short_names(models, 24).values())
    fills = _fills(len(models))
    entries = [(Patch(linewidth=0.5, **fill), name) for fill, name in zip(fills, names, strict=False)]
    if others:
        entries.append((Patch(linewidth=0.5, **fills[-2]), f"{others} other models"))
    entries.append((Patch(linewidth=0.5, **fills[-1]), "declined"))
    handles, texts = zip(*reversed(entries), strict=True)
    _legend(figure, handles, texts, loc="outside right upper")


def _beliefs(view: _View) -> Figure:
    learners = [
        (style, cell)
        for style, cell in view.row(view.budget, view.horizon)
        if style.focus and not style.clairvoyant and np.isfinite(cell.lower[-1]).any()
    ]
    if not learners:
        raise NothingToDrawError("no learning policy holds confidence intervals")
    shown = sorted(learners, key=lambda pair: _badness(pair[1]))[:MAX_LEARNERS]
    first = shown[0][1]
    served = np.max([cell.share[-1] for _, cell in shown] + [first.benchmark_share], axis=0)
    models = sorted(np.argsort(-served, kind="stable")[:MAX_BELIEFS].tolist())
    quantities = range(min(3, len(first.estimates)))
    height = 0.5 + len(models) * (0.13 + 0.075 * len(shown)) + 0.14 * len(shown)
    figure, grid = _grid(1, len(quantities), height=height, width=2.6, legend=1.6, sharey=True)
    for axes, quantity in zip(grid[0], quantities, strict=True):
        _belief_panel(axes, shown, models, quantity)
    names = _short_names(first.models, 24)
    grid[0, 0].set_yticks(range(len(models)), [names[first.models[i]] for i in models])
    grid[0, 0].set_ylim(len(models) - 0.5, -0.5)
    truth = Line2D([], [], color="black", marker="|", linestyle="", markersize=8, markeredgewidth=1.3)
    entries = [(_line_handle(style), style.text) for style, _ in shown]
    handles, texts = zip(*entries, (truth, "true mean"), strict=True)
    _legend(figure, handles, texts, loc="outside right upper")
    best = (
        f"{len(shown)} of {len(learners)} learning policies: least regret plus violation." if len(learners) > 4 else ""
    )
    few = f"{len(models)} of {len(first.models)} models: those served most." if len(first.models) > len(models) else ""
    notes = [
        f"Ends of the confidence intervals, mean over runs, at {_spell_budget(view.budget)}.",
        "Below: share of (run, model) pairs whose interval holds the true mean, over all models.",
        few,
        best,
    ]
    return _finish(figure, view, f"What the learner believes after {view.horizon:,} rounds", notes)


def _belief_panel(
    axes: Axes, shown: Sequence[tuple[LineStyle, CellResult]], models: Sequence[int], quantity: int
) -> None:
    """Intervals of one quantity, a row a model, with the truth as a tick."""
    first = shown[0][1]
    truth = first.truth[models, quantity]
    logarithmic = bool(truth.min() > 0 and truth.max() / truth.min() > 20)
    foot = float(truth.min()) / 4 if logarithmic else -math.inf
    entries = []
    for position, (style, cell) in enumerate(shown):
        rows = np.arange(len(models)) + 0.7 * ((position + 0.5) / len(shown) - 0.5)
        low = np.maximum(cell.lower[-1, models, quantity], foot)
        axes.hlines(rows, low, cell.upper[-1, models, quantity], color=style.colour, linewidth=1.6)
        covered = cell.coverage[-1, :, quantity]
        text = f"{np.nanmean(covered):.1%} covered" if np.isfinite(covered).any() else "no coverage"
        entries.append((_line_handle(style), text))
    for row, value in enumerate(truth):
        axes.plot([value, value], [row - 0.42, row + 0.42], color="black", linewidth=1.2, zorder=3)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left=foot)
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    name = first.estimates[quantity]
    spends = {metric.removeprefix("spent_") for metric in first.metrics if metric.startswith("spent_")}
    money = (money_metric(first) or "").removeprefix("spent_")
    unit = "reward a task" if quantity == 0 else f"{name}, USD a task" if name == money else name
    axes.set_xlabel(_safe(unit if name == money or name not in spends else f"{name} a task"))
    axes.grid(visible=False, axis="y")
    handles, texts = zip(*entries, strict=True)
    _legend(
        axes, handles, texts, loc="upper center", bbox_to_anchor=(0.5, -0.4 / axes.figure.get_size_inches()[1] - 0.05)
    )


_FIGURES: dict[str, tuple[Callable[[_View], Figure], str]] = {
    "regret_by_round": (
        _regret_by_round,
        "Regret against the benchmark and violation of the service target as rounds go by, at the longest horizon.",
    ),
    "regret_by_horizon": (
        _regret_by_horizon,
        "Regret and violation against the horizon on logarithmic axes, with fitted slopes.",
    ),
    "reward_by_budget": (
        _reward_by_budget,
        "Reward as a share of the benchmark and violation per unit of demand, by budget, at the longest horizon.",
    ),
    "traffic": (
        _traffic,
        "Share of demand that each model served over time, one panel a policy, beside the benchmark's mix.",
    ),
    "demand_forecast": (
        _demand_forecast,
        "Demand so far, the forecast of its total, and the forecast's error, as rounds go by.",
    ),
    "beliefs": (
        _beliefs,
        "Confidence intervals of reward, cost and service per model at the end, against the true means.",
    ),
}
