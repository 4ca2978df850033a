"""Pictures of changing inventories and capped deployment: maps of models over rounds, and the parts of regret."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
)

from experiments.report.figures.style import (
    LEVEL,
    LineStyle,
    NothingToDrawError,
    add_legend,
    add_title,
    focus_note,
    interval_note,
    panel_grid,
    short_names,
    spread,
)
from experiments.report.figures.views import (
    MAX_PANELS,
    ResultsView,
    at_budget,
    budget_note,
    final_mean,
    interval_share,
    short_number,
    spell_budget,
    styles_of,
)
from experiments.report.summary import metric_interval, metric_values
from experiments.results.cell_file import CellResult
from experiments.results.metrics import METRICS
from experiments.results.metrics.derived import stage_starts

MAX_ROWS = 24  # models with a row in a map
MAX_STAGE_TICKS = 60  # beyond it the starts of stages are not drawn
_PARTS = (  # of regret, with looks
    ("regret_waiting", "waiting", "#BBBBBB"),
    ("regret_deployment", "deployment", "#EE8866"),
    ("regret_routing", "routing", "#77AADD"),
)
_SHADES = "Blues"
_AWAY: dict[str, Any] = {"facecolor": "#EDEDED", "edgecolor": "#C4C4C4", "hatch": "/////", "linewidth": 0.0}
_ARRIVES: dict[str, Any] = {"color": "#D55E00", "linewidth": 1.8, "solid_capstyle": "butt"}
_RETIRES: dict[str, Any] = {"color": "#111111", "linewidth": 1.8, "linestyle": (0, (1.2, 0.7)), "dash_capstyle": "butt"}


@dataclass(frozen=True, kw_only=True)
class _Map:
    """One panel of a map of models over rounds."""

    title: str
    cell: CellResult
    shade: np.ndarray  # [E, M] from 0 to 1


def draw_traffic_maps(view: ResultsView, row: Sequence[tuple[LineStyle, CellResult]]) -> Figure:
    """A map a policy, after the benchmark's."""
    first = row[0][1]
    maps = [_Map(title="Benchmark", cell=first, shade=interval_share(first, first.extras["oracle_share"]))]
    maps += [_Map(title=style.text, cell=cell, shade=interval_share(cell, cell.share)) for style, cell in row]
    figure, rows = _draw_maps(maps, "Share of demand")
    notes = [
        f"Share of the demand of each evaluation interval, mean over runs, {at_budget(view.budget)}.",
        "Benchmark: the best deployment at every instant, all means known.",
        "Models in order of arrival.",
        f"{len(rows)} of {len(first.models)} models: the largest shares." if len(rows) < len(first.models) else "",
        focus_note(list(view.styles.values()), "Shown"),
    ]
    return add_title(figure, view.setting, f"Which model served when, {view.horizon:,} rounds", notes)


def draw_deployment(view: ResultsView) -> Figure:
    """Which model is live when; a map a policy."""
    row = view.staged(view.budget, view.horizon, "live")
    if not row:
        raise NothingToDrawError("no policy chooses which models are live")
    first = row[0][1]
    maps = [_Map(title=style.text, cell=cell, shade=np.nan_to_num(cell.extras["live"])) for style, cell in row]
    figure, rows = _draw_maps(maps, "Share of runs in\nwhich it is live", ticks=True)
    counts = sorted({len(stage_starts(cell)) for _, cell in row})
    drawn = counts[-1] and counts[0] <= MAX_STAGE_TICKS
    stages = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    notes = [
        f"A column shows the state at the evaluation round where it ends, {at_budget(view.budget)}.",
        f"Ticks above a panel: starts of its {stages} stages." if drawn else "",
        "Models in order of arrival.",
        f"{len(rows)} of {len(first.models)} models: those live most." if len(rows) < len(first.models) else "",
        focus_note(list(view.styles.values()), "Shown"),
    ]
    return add_title(figure, view.setting, f"Which model is live when, {view.horizon:,} rounds", notes)


def _draw_maps(maps: Sequence[_Map], text: str, *, ticks: bool = False) -> tuple[Figure, list[int]]:
    """A panel a map with one scale of shades, and the models drawn, in order of arrival."""
    first = maps[0].cell
    weight = np.mean([entry.shade.mean(axis=0) for entry in maps], axis=0)
    arrival = first.extras.get("arrival", np.zeros(len(weight)))
    rows = sorted(np.argsort(-weight, kind="stable")[:MAX_ROWS].tolist(), key=lambda model: (arrival[model], model))
    names = list(short_names([first.models[model] for model in rows], 24).values())
    top = min(1.0, max(1, math.ceil(5 * max(float(entry.shade.max()) for entry in maps) - 1e-9)) / 5)
    lines = math.ceil(len(maps) / 4)
    columns = math.ceil(len(maps) / lines)
    size = (2.05 * columns + 0.055 * max(map(len, names)) + 2.0, (0.75 + 0.135 * len(rows)) * lines + 0.75)
    figure = Figure(figsize=(max(5.0, size[0]), max(3.2, size[1])), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(lines, columns, squeeze=False)
    for position, axes in enumerate(grid.flat):
        if position >= len(maps):
            axes.set_axis_off()
            continue
        _map_panel(axes, maps[position], rows, top)
        axes.set_title(maps[position].title, loc="left", fontsize=7.5, pad=6 if ticks else 4)
        axes.set_yticks(range(len(rows)), names if position % columns == 0 else [], fontsize=6)
        if position + columns >= len(maps):
            axes.set_xlabel("Rounds")
        if ticks:
            _stage_ticks(axes, maps[position].cell)
    _map_legend(figure, [_presence(entry.cell, model) for entry in maps for model in rows], text, top)
    return figure, rows


def _map_panel(axes: Axes, entry: _Map, rows: Sequence[int], top: float) -> None:
    """Shades up to ``top``, a row a model and a column a evaluation interval; hatched while the model is not there."""
    cell = entry.cell
    edges = np.concatenate([[0], cell.eval_rounds])  # stages are equally long, so rounds are never on logs here
    lines = np.arange(len(rows) + 1) - 0.5
    axes.pcolormesh(edges, lines, entry.shade[:, rows].T, cmap=_SHADES, vmin=0.0, vmax=top, rasterized=True)
    end = float(edges[-1])
    for place, model in enumerate(rows):
        arrival, retirement = _presence(cell, model)
        for left, right in ((0.0, min(arrival, end)), (retirement, end)):
            if right > left:
                axes.add_patch(Rectangle((left, place - 0.5), right - left, 1.0, zorder=1.5, **_AWAY))
        for when, look in ((arrival, _ARRIVES), (retirement, _RETIRES)):
            if 0 < when < end:
                axes.plot([when, when], [place - 0.5, place + 0.5], zorder=3, **look)
    axes.hlines(lines[1:-1], 0, end, color="white", linewidth=0.6, zorder=2)
    axes.set_xlim(0, end)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(short_number))
    axes.grid(visible=False)
    axes.tick_params(axis="y", length=0)
    axes.spines[:].set_visible(False)


def _presence(cell: CellResult, model: int) -> tuple[float, float]:
    """The rounds from which a model is there and is gone; infinity where that is not within the run."""
    arrival, retirement = cell.extras.get("arrival"), cell.extras.get("retirement")
    comes = 0.0 if arrival is None else float(arrival[model])
    goes = math.inf if retirement is None else float(retirement[model])
    end = cell.eval_rounds[-1]
    return comes if comes < end else math.inf, goes if goes < end else math.inf


def _stage_ticks(axes: Axes, cell: CellResult) -> None:
    """Where stages start, along the top."""
    starts = stage_starts(cell)
    if 0 < len(starts) <= MAX_STAGE_TICKS:
        axes.xaxis.remove_overlapping_locs = False  # a stage may start at a labelled round
        axes.xaxis.set_minor_locator(FixedLocator(starts.tolist()))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="x", which="minor", top=True, bottom=False, length=3, width=0.6, color="#555555")


def _map_legend(figure: Figure, presence: Sequence[tuple[float, float]], text: str, top: float) -> None:
    """Samples of the shades, and what the marks in the maps mean: those that occur."""
    step = 0.05 if top <= 0.2 else 0.1 if top <= 0.4 else 0.2
    shades = [(share, colormaps[_SHADES](share / top)) for share in np.arange(round(top / step), -1, -1) * step]
    entries: list[tuple[Any, str]] = [
        (Patch(facecolor=colour, edgecolor="#BBBBBB", linewidth=0.4), f"{share:.0%}") for share, colour in shades
    ]
    if any(0 < arrival < math.inf for arrival, _ in presence):
        entries.append((Line2D([], [], **_ARRIVES), "arrives"))
    if any(retirement < math.inf for _, retirement in presence):
        entries.append((Line2D([], [], **_RETIRES), "retires"))
    if any(arrival > 0 or retirement < math.inf for arrival, retirement in presence):
        entries.append((Patch(**_AWAY), "not available"))
    handles, texts = zip(*entries, strict=True)
    add_legend(figure, handles, texts, loc="outside right center", title=text, title_fontsize=7.5, alignment="left")


def draw_decomposition(view: ResultsView) -> Figure:
    """Bars of the parts of regret; a panel a budget or a horizon."""
    panels, rule = _decomposition_panels(view)
    panels = [(title, row) for title, row in panels if row]
    if not panels:
        raise NothingToDrawError("no cell holds the parts of regret")
    styles = [style for style in view.styles.values() if style in styles_of([row for _, row in panels])]
    wide = max(len(style.text) for style in styles)
    figure, grid = panel_grid(
        1, len(panels), width=2.4, height=max(1.5, 0.75 + 0.24 * len(styles)), legend=1.3 + 0.06 * wide, sharey=True
    )
    for axes, (title, row) in zip(grid[0], panels, strict=True):
        for style, cell in row:
            _stack(axes, styles.index(style), cell)
        axes.axvline(0.0, color="#444444", linewidth=0.8, zorder=2.5)
        axes.set_title(title)
        axes.set_xlabel(METRICS.find("regret").label)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(short_number))
        axes.grid(visible=False, axis="y")
    grid[0, 0].set_yticks(range(len(styles)), [style.text for style in styles])
    grid[0, 0].set_ylim(len(styles) - 0.4, -0.6)
    entries: list[tuple[Any, str]] = [(Patch(facecolor=colour), name) for _, name, colour in _PARTS]
    total = Line2D([], [], color="black", linewidth=1.0, marker="D", markersize=3.5, markerfacecolor="white")
    handles, texts = zip(*entries, (total, "total"), strict=True)
    add_legend(figure, handles, texts, loc="outside right center")
    notes = [
        "Bars: means of the parts; diamonds: the total with its interval.",
        interval_note([cell for _, row in panels for _, cell in row]),
        "Waiting: arrivals until the next stage; deployment: which models are live; routing: which of them serve.",
        "Parts below zero lie left of the line and count against the others.",
        rule,
        focus_note(list(view.styles.values()), "Shown"),
    ]
    return add_title(figure, view.setting, "Where regret comes from", notes)


def _decomposition_panels(view: ResultsView) -> tuple[list[tuple[str, list[tuple[LineStyle, CellResult]]]], str]:
    """Titles and rows of the panels: budgets at the longest horizon, or horizons where there is one budget."""
    if len(view.budgets) > 1:
        budgets = spread(view.budgets, MAX_PANELS)
        rule = f"After {view.horizon:,} rounds. {budget_note(view, budgets)}"
        return [(spell_budget(budget), _with_parts(view, budget, view.horizon)) for budget in budgets], rule.strip()
    horizons = spread(view.horizons, MAX_PANELS)
    few = f" {len(horizons)} of {len(view.horizons)} horizons." if len(horizons) < len(view.horizons) else ""
    panels = [(f"{horizon:,} rounds", _with_parts(view, view.budget, horizon)) for horizon in horizons]
    return panels, f"{at_budget(view.budget)}.{few}".capitalize().replace("usd", "USD")


def _with_parts(view: ResultsView, budget: float | None, horizon: int) -> list[tuple[LineStyle, CellResult]]:
    row = view.staged(budget, horizon)
    return [(style, cell) for style, cell in row if all(final_mean(cell, name) is not None for name, _, _ in _PARTS)]


def _stack(axes: Axes, place: int, cell: CellResult) -> None:
    """Parts above zero to the right of it, those below to the left, and the total with its interval."""
    ends = {True: 0.0, False: 0.0}
    for metric, _, colour in _PARTS:
        part = final_mean(cell, metric) or 0.0
        axes.barh([place], [part], left=ends[part > 0], height=0.62, color=colour, edgecolor="white", linewidth=0.4)
        ends[part > 0] += part
    values = metric_values(cell, "regret")
    if values is not None and len(values):
        mean, low, high = metric_interval(cell, "regret", values, LEVEL)
        axes.plot([low, high], [place, place], color="black", linewidth=1.0, zorder=3)
        axes.plot([mean], [place], color="black", marker="D", markersize=3.5, markerfacecolor="white", zorder=3.5)
