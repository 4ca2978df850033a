"""Pictures on logarithmic axes: how regret and violation grow with the horizon, or with the number of stages."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import (
    FuncFormatter,
    LogLocator,
    NullLocator,
)
from matplotlib.transforms import ScaledTranslation

from experiments.report.figures.style import (
    DASHES,
    LEVEL,
    LineStyle,
    NothingToDrawError,
    _mean,
    add_legend,
    add_line_legend,
    add_title,
    compact_count,
    focus_note,
    interval_note,
    legend_width,
    line_handle,
    line_styles,
    panel_grid,
    spread,
    thin_ticks,
)
from experiments.report.figures.views import (
    MAX_PANELS,
    ResultsView,
    budget_note,
    final_mean,
    short_number,
    spell_budget,
    violates,
)
from experiments.report.numbers import exponent, exponent_interval
from experiments.report.scaling import ExponentFit
from experiments.report.summary import Group, Label, budget_of, fit_group, label_cells, metric_interval, metric_values
from experiments.results.cell_file import CellResult
from experiments.results.metrics import METRICS

_THEORY: tuple[tuple[float, str, Any], ...] = ((0.5, "$T^{1/2}$", ":"), (2 / 3, "$T^{2/3}$", "-."), (1.0, "$T$", "--"))


@dataclass(frozen=True, kw_only=True)
class StageView:
    """Cells of one setting and horizon that differ in the number of stages, by line and budget."""

    table: dict[tuple[str, float | None], tuple[CellResult, ...]]  # in increasing order of stages
    styles: dict[str, LineStyle]
    horizon: int
    setting: str


def draw_regret_by_horizon(view: ResultsView) -> Figure:
    """Regret and violation against the horizon; a column a budget."""
    if len(view.horizons) < 2:
        raise NothingToDrawError("growth with the horizon needs at least two horizons")
    budgets = spread(view.budgets, MAX_PANELS)
    metrics = ["regret"]
    if any(violates(cell) for cell in view.table.values()):
        metrics.append("violation")
    names = [style.text for style in view.styles.values() if style.focus]
    height = 2.1 + 0.14 * math.ceil(len(names) / 2)
    figure, grid = panel_grid(len(metrics), len(budgets), height=height, legend=legend_width(names), sharex="col")
    for row, metric in enumerate(metrics):
        for column, budget in enumerate(budgets):
            _growth_panel(grid[row, column], view, budget, metric)
            grid[row, column].set_title(spell_budget(budget) if row == 0 else "")
            grid[row, column].tick_params(labelbottom=True)
            grid[row, column].set_xlabel("Horizon (rounds)")
        grid[row, 0].set_ylabel(METRICS.find(metric).label)
    theory = [(Line2D([], [], color="#999999", linestyle=dash, linewidth=1.0), name) for _, name, dash in _THEORY]
    below = Line2D([], [], color="#555555", marker=r"$\downarrow$", linestyle="", markersize=6)
    add_line_legend(figure, list(view.styles.values()), [*theory, (below, "mean ≤ 0")])
    notes = [
        interval_note(list(view.table.values())),
        f"Below each panel: slope of log(mean) on log(horizon) with its {LEVEL:.0%} bootstrap interval; "
        "lower-order terms bias it.",
        "Grey theory lines all pass through one point: the geometric mean of the coloured learning policies at the "
        "shortest horizon.",
        "A slope needs three horizons, the longest among them, that are distinguishable from zero; else words.",
        "Means that are zero or negative have no logarithm: arrows at the bottom.",
        budget_note(view, budgets),
        focus_note(list(view.styles.values())),
    ]
    return add_title(figure, view.setting, "Growth with the horizon", notes)


def _growth_panel(axes: Axes, view: ResultsView, budget: float | None, metric: str) -> None:
    """One budget: points, fits, theory lines, and the slopes beneath."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    ticks = thin_ticks(view.horizons, logarithmic=True, gap=0.15)
    axes.set_xticks(ticks, [compact_count(round(tick)) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    groups = [(style, _group(view, line, budget)) for line, style in view.styles.items()]
    groups = [(style, group) for style, group in groups if group.cells]
    floor = _growth_limits(axes, groups, metric)
    _theory_lines(axes, groups, metric)
    entries = []
    for position, (style, group) in enumerate(groups):
        shift = 1.03 ** (position - len(groups) / 2)
        for cell in group.cells:
            _growth_point(axes, float(cell.info.horizon) * shift, cell, metric, style, floor)
        fit = fit_group(group, metric, level=LEVEL)
        if fit is not None and fit.has_slope:
            ends = np.array([fit.horizons[0], fit.horizons[-1]])
            width = 1.2 if style.focus else 0.7
            axes.plot(
                ends,
                np.exp(fit.intercept) * ends**fit.slope,
                color=style.colour,
                linestyle=style.dashes,
                linewidth=width,
                zorder=1.5,
            )
        if style.focus:
            entries.append((line_handle(style), _slope_text(fit)))
    if entries:
        handles, texts = zip(*entries, strict=True)
        place = {
            "loc": "upper left",  # a wide one grows to the right, where there is room, and is never cut at the left
            "bbox_to_anchor": (0.0, 0.0),
            "bbox_transform": axes.transAxes + ScaledTranslation(-0.3, -0.42, axes.figure.dpi_scale_trans),
            "fontsize": 6.5,
            "labelspacing": 0.25,
            "handlelength": 1.5,
            "handletextpad": 0.5,
            "columnspacing": 1.0,
            "ncols": 2 if max(map(len, texts)) <= 19 else 1,
        }
        add_legend(axes, handles, texts, **place)


def _group(view: ResultsView, line: str, budget: float | None) -> Group:
    found = [view.table.get((line, budget, horizon)) for horizon in view.horizons]
    cells = tuple(cell for cell in found if cell is not None)
    return Group(label=Label(line=line, setting=view.setting), budget_per_task=budget, cells=cells)


def _slope_text(fit: ExponentFit | None) -> str:
    """The slope with its interval, or what is known in words where there is none."""
    if fit is None:
        return "no slope"
    return f"{exponent(fit.slope)} {exponent_interval(fit.interval)}".strip() if fit.has_slope else fit.in_words


def _growth_means(groups: Sequence[tuple[LineStyle, Group]], metric: str) -> list[tuple[LineStyle, float, float]]:
    """(style, horizon, mean) of every point above zero."""
    points = []
    for style, group in groups:
        for cell in group.cells:
            values = metric_values(cell, metric)
            if values is not None and len(values) and values.mean() > 0:
                points.append((style, float(cell.info.horizon), float(values.mean())))
    return points


def _growth_limits(axes: Axes, groups: Sequence[tuple[LineStyle, Group]], metric: str) -> float:
    """Set the vertical range from the means, so that no interval that reaches zero stretches it; returns its foot."""
    means = [mean for _, _, mean in _growth_means(groups, metric)] or [1.0]
    low, high = min(means) / 4.0, max(means) * 2.5
    axes.set_ylim(low, high)
    return low


def _growth_point(axes: Axes, place: float, cell: CellResult, metric: str, style: LineStyle, floor: float) -> None:
    """A mean with its interval, or an arrow at the bottom where the mean has no logarithm."""
    values = metric_values(cell, metric)
    if values is None or len(values) == 0:
        return
    mean, low, high = metric_interval(cell, metric, values, LEVEL)
    if mean <= 0:
        below = axes.get_xaxis_transform()
        axes.plot([place], [0.05], transform=below, marker=r"$\downarrow$", color=style.colour, markersize=7, zorder=3)
        return
    if style.focus and math.isfinite(low):
        axes.plot([place, place], [max(low, floor / 10), high], color=style.colour, linewidth=0.9, zorder=2)
    face = "white" if style.clairvoyant else style.colour
    marker = style.marker or "o"
    axes.plot([place], [mean], marker=marker, color=style.colour, markerfacecolor=face, markersize=3.5, zorder=3)


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


def stage_views(cells: Sequence[CellResult]) -> list[StageView]:
    """A setting's cells that differ in the number of stages alone, three or more, at the longest such horizon."""
    labels = label_cells(cells, stages=False)
    styles = line_styles(cells, labels)
    found: dict[str, dict[int, dict[tuple[str, float | None], dict[int, CellResult]]]] = {}
    for cell, label in zip(cells, labels, strict=True):
        stages, horizon = cell.info.stages, int(cell.info.horizon)
        if stages:
            members = found.setdefault(label.setting, {}).setdefault(horizon, {})
            members.setdefault((label.line, budget_of(cell)), {}).setdefault(int(stages), cell)
    views = []
    for setting, horizons in found.items():
        for horizon in sorted(horizons, reverse=True):
            table = {
                key: tuple(members[stages] for stages in sorted(members))
                for key, members in horizons[horizon].items()
                if len(members) >= 3
            }
            if table:
                lines = {line: style for line, style in styles.items() if any(line == key[0] for key in table)}
                views.append(StageView(table=table, styles=lines, horizon=horizon, setting=setting))
                break
    return views


def draw_stage_count(view: StageView) -> Figure:
    """Regret against the number of stages; a panel a budget."""
    known = sorted({budget for _, budget in view.table}, key=lambda budget: (budget is None, budget or 0.0))
    budgets = spread(known, MAX_PANELS)
    names = [style.text for style in view.styles.values() if style.focus]
    figure, grid = panel_grid(1, len(budgets), width=2.7, height=2.3, legend=legend_width([*names, "K = T^1/3 = 00"]))
    for axes, budget in zip(grid[0], budgets, strict=True):
        _stage_panel(axes, view, budget)
        axes.set_title(spell_budget(budget))
        axes.set_xlabel("Stages K")
    grid[0, 0].set_ylabel(f"Regret after {view.horizon:,} rounds (tasks)")
    rule = Line2D([], [], color="#555555", linestyle=DASHES[1], linewidth=1.0)
    extra: list[tuple[Any, str]] = [(rule, f"$K = T^{{1/3}}$ = {view.horizon ** (1 / 3):.3g}")]
    drawn = [cell for (_, budget), members in view.table.items() if budget in budgets for cell in members]
    below = any((final_mean(cell, "regret") or 0.0) <= 0 for cell in drawn)
    if below:
        extra.append((Line2D([], [], color="#555555", marker=r"$\downarrow$", linestyle="", markersize=6), "mean ≤ 0"))
    styles = list(view.styles.values())
    add_line_legend(figure, styles, extra)
    notes = [
        interval_note(drawn),
        "Cells that differ in the number of stages alone, at the longest horizon that has three such cells.",
        "Means that are zero or negative have no logarithm: arrows at the bottom." if below else "",
        f"{len(budgets)} of {len(known)} budgets." if len(budgets) < len(known) else "",
        focus_note(styles),
    ]
    return add_title(figure, view.setting, "Regret by number of stages", notes)


def _stage_panel(axes: Axes, view: StageView, budget: float | None) -> None:
    """One budget: a line a policy over the number of stages."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    groups = [
        (style, Group(label=Label(line=line, setting=view.setting), budget_per_task=budget, cells=cells))
        for line, style in view.styles.items()
        if (cells := view.table.get((line, budget), ()))
    ]
    counts = sorted({int(cell.info.stages or 0) for _, group in groups for cell in group.cells})
    ticks = thin_ticks(counts, logarithmic=True, gap=0.12)
    axes.set_xticks(ticks, [compact_count(round(tick)) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
    floor = _growth_limits(axes, groups, "regret")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if axes.get_ylim()[1] / floor < 100 else (1.0,)))
    axes.yaxis.set_major_formatter(FuncFormatter(short_number))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.axvline(view.horizon ** (1 / 3), color="#555555", linestyle=DASHES[1], linewidth=1.0, zorder=1)
    for position, (style, group) in enumerate(groups):
        shift = 1.015 ** (position - (len(groups) - 1) / 2)
        points = []
        for cell in group.cells:
            mean = final_mean(cell, "regret")
            if mean is not None:
                _growth_point(axes, cell.info.stages * shift, cell, "regret", style, floor)
                points += [(cell.info.stages * shift, mean)] * (mean > 0)
        if points:
            width = 1.2 if style.focus else 0.7
            axes.plot(
                *zip(*points, strict=True), color=style.colour, linestyle=style.dashes, linewidth=width, zorder=1.5
            )
