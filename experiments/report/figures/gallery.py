"""Pictures of a study, drawn from stored results only.

Every figure takes the cells of one study and returns a matplotlib figure on the Agg canvas; pyplot is never imported,
so worker processes and servers may draw. Each policy keeps its colour and marker in all figures of a study; clairvoyant
policies are dashed and grey. Where a study has more policies, models or budgets than stay legible, a rule chooses and
the figure's footnote states it; policies that are not chosen stay visible in light grey.
"""

import io
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import (
    LogLocator,
    MaxNLocator,
    NullLocator,
    PercentFormatter,
    StrMethodFormatter,
)

from experiments import interrupt
from experiments.report.figures.growth import StageView, draw_regret_by_horizon, draw_stage_count, stage_views
from experiments.report.figures.published import draw_published
from experiments.report.figures.staged import draw_decomposition, draw_deployment, draw_traffic_maps
from experiments.report.figures.style import (
    DASHES,
    LEVEL,
    POLICY_COLOURS,
    LineStyle,
    NothingToDrawError,
    add_legend,
    add_line_legend,
    add_title,
    bar_handle,
    compact_count,
    draw_band,
    draw_point,
    focus_note,
    house_style,
    interval_note,
    legend_width,
    line_styles,
    log_spaced,
    panel_grid,
    rank_score,
    safe_text,
    scale_rounds,
    shared_y_scale,
    short_names,
    spread,
    thin_ticks,
)
from experiments.report.figures.views import (
    MAX_PANELS,
    ResultsView,
    at_budget,
    budget_note,
    interval_share,
    make_view,
    spell_budget,
    styles_of,
    violates,
)
from experiments.report.summary import label_cells, metric_curve, metric_interval, metric_values
from experiments.results.cell_file import CellResult
from experiments.results.disk import write_atomically, write_informing
from experiments.results.layout import DamagedError, read_json
from experiments.results.metrics import METRICS
from experiments.results.metrics.derived import money_metric
from experiments.results.metrics.measured import has_target

INDEX = "index.json"
MAX_MODELS = 8  # models with an area of their own
MAX_BELIEFS = 12  # models whose intervals are drawn
MAX_LEARNERS = 4  # policies whose beliefs are drawn
MAX_SETTINGS = 6  # worlds drawn by write_all
_MODEL_COLOURS = ("#77AADD", "#EE8866", "#44BB99", "#EEDD88", "#FFAABB", "#99DDFF", "#BBCC33", "#AA99CC")


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished figure with what is said about it."""

    name: str  # the file's stem
    caption: str  # one paragraph; serves as the alternative text
    figure: Figure


@dataclass(frozen=True, kw_only=True)
class Written:
    """A figure on disk."""

    name: str
    caption: str
    png: Path
    svg: Path


def regret_by_round(cells: Sequence[CellResult]) -> Figure:
    """Regret and violation against rounds at the longest horizon; a column a budget, a line a policy."""
    return _render(_regret_by_round, cells)


def regret_by_horizon(cells: Sequence[CellResult]) -> Figure:
    """Regret and violation against the horizon on logarithmic axes, with fitted slopes."""
    return _render(draw_regret_by_horizon, cells)


def reward_by_budget(cells: Sequence[CellResult]) -> Figure:
    """Reward share of the benchmark and violation per task against the budget; by policy if there is one budget."""
    return _render(_reward_by_budget, cells)


def spend(cells: Sequence[CellResult]) -> Figure:
    """Share of the budget spent, against the budget and against the horizon."""
    return _render(_spend, cells)


def demand_forecast(cells: Sequence[CellResult]) -> Figure:
    """Realised demand and its forecast against rounds, and the forecast's error; a column a forecaster."""
    return _render(_demand_forecast, cells)


def traffic(cells: Sequence[CellResult]) -> Figure:
    """Which model served when: share of demand per evaluation interval, beside the benchmark's.

    Areas where all models are always live; a map with a row a model where they come and go or some must stay out.
    """
    return _render(_traffic, cells)


def deployment(cells: Sequence[CellResult]) -> Figure:
    """Which model is live when, with arrivals, retirements and the starts of stages."""
    return _render(draw_deployment, cells)


def decomposition(cells: Sequence[CellResult]) -> Figure:
    """Regret at the horizon in its parts: waiting for a stage, deployment, routing."""
    return _render(draw_decomposition, cells)


def stage_count(cells: Sequence[CellResult]) -> Figure:
    """Regret at the horizon against the number of stages on logarithmic axes, of the setting with most cells."""
    views = stage_views(cells)
    if not views:
        raise NothingToDrawError("no cells differ in the number of stages alone, at three numbers or more")
    return _draw(draw_stage_count, max(views, key=lambda view: sum(map(len, view.table.values()))))


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
    yield from _draw_stage_counts(cells)
    slugs = _slugs(settings)
    for setting in settings[:MAX_SETTINGS]:
        view = make_view(cells, labels, styles, setting)
        for name, (draw, caption) in _FIGURES.items():
            try:
                figure = _draw(draw, view)
            except NothingToDrawError:
                continue
            where = _spell_setting(setting, len(settings))
            yield Drawing(name=name + slugs[setting], caption=caption + where, figure=figure)
            figure.clear()


def _draw_stage_counts(cells: Sequence[CellResult]) -> Iterator[Drawing]:
    """Regret by number of stages: the one figure that looks across settings."""
    views = stage_views(cells)
    slugs = _slugs([view.setting for view in views])
    for view in views[:MAX_SETTINGS]:
        figure = _draw(draw_stage_count, view)
        caption = "Regret at the horizon against the number of stages, on logarithmic axes, a line a policy."
        where = _spell_setting(view.setting, len(views))
        yield Drawing(name="stage_count" + slugs[view.setting], caption=caption + where, figure=figure)
        figure.clear()


def _spell_setting(setting: str, count: int) -> str:
    """What a caption says about the setting drawn, and about those that are not."""
    where = f" Setting: {setting}." if setting else ""
    return where + (f" {count - MAX_SETTINGS} further settings are not drawn." if count > MAX_SETTINGS else "")


def write_all(cells: Sequence[CellResult], folder: str | Path) -> list[Written]:
    """Write every figure that applies as PNG (150 dpi) and SVG. Files of equal results are equal.

    ``index.json`` says which figures these are; those that an earlier one named and this one does not are removed,
    for example because a label changed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    before = {path for figure in read_index(folder) for path in (figure.png, figure.svg)}
    written = [save(drawing, folder) for drawing in interrupt.looking(draw_all(cells))]
    index = [{"name": figure.name, "caption": figure.caption} for figure in written]
    write_informing(folder / INDEX, json.dumps(index, indent=1, ensure_ascii=False).encode())
    for path in before - {path for figure in written for path in (figure.png, figure.svg)}:
        with suppress(OSError):
            path.unlink(missing_ok=True)
    return written


def read_index(folder: Path) -> list[Written]:
    """The figures that were written into a folder; none where it does not say."""
    try:
        entries = read_json(folder / INDEX)
        names = [(Path(entry["name"]).name, str(entry["caption"])) for entry in entries]
    except (OSError, DamagedError, TypeError, KeyError):
        return []
    return [_written(folder, name, caption) for name, caption in names if name.isprintable()]


def save(drawing: Drawing, folder: Path) -> Written:
    """Write one figure as ``<folder>/<name>.png`` and ``.svg``."""
    written = _written(folder, drawing.name, drawing.caption)
    options: tuple[tuple[Path, dict[str, Any]], ...] = (
        (written.png, {"format": "png", "dpi": 150, "metadata": {"Software": None}}),
        (written.svg, {"format": "svg", "metadata": {"Date": None}}),
    )
    with house_style():
        for path, how in options:
            content = io.BytesIO()
            drawing.figure.savefig(content, **how)
            write_atomically(path, content.getvalue())
    return written


def _written(folder: Path, name: str, caption: str) -> Written:
    return Written(name=name, caption=caption, png=folder / f"{name}.png", svg=folder / f"{name}.svg")


def _render(draw: Callable[[ResultsView], Figure], cells: Sequence[CellResult]) -> Figure:
    """One figure of the setting that has most cells."""
    if not cells:
        raise NothingToDrawError("there are no cells")
    labels = label_cells(cells)
    settings = [label.setting for label in labels]
    return _draw(draw, make_view(cells, labels, line_styles(cells, labels), max(settings, key=settings.count)))


def _draw(draw: Callable[[Any], Figure], view: ResultsView | StageView) -> Figure:
    with house_style():
        figure = draw(view)
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # the layout is settled: saving twice need not search for it again
        return figure


def _slugs(settings: Sequence[str]) -> dict[str, str]:
    """What a setting adds to its files' names: nothing if there is one, else something distinct."""
    if len(settings) == 1:
        return {settings[0]: ""}
    slugs = {}
    for position, setting in enumerate(settings):
        words = re.sub(r"[^a-z0-9.]+", "-", setting.lower()).strip("-.")[:40]
        slugs[setting] = f"--{position + 1}-{words}".rstrip("-.")
    return slugs


def _headline(metrics: Sequence[str]) -> str:
    """What the rows or panels show: "Regret and violation"."""
    first = "Regret" if metrics[0] == "regret" else "Reward"
    return f"{first} and violation" if len(metrics) > 1 else first


def _violation_note(cells: Sequence[CellResult]) -> str:
    if any(violates(cell) for cell in cells):
        return ""
    return "No run violated the target." if any(has_target(cell) for cell in cells) else ""


def _regret_by_round(view: ResultsView) -> Figure:
    budgets = spread(view.budgets, MAX_PANELS)
    shown = [view.row(budget, view.horizon) for budget in budgets]
    drawn = [cell for row in shown for _, cell in row]
    metrics = ["regret"]
    if any(violates(cell) for cell in drawn):
        metrics.append("violation")
    styles = styles_of(shown)
    legend = legend_width([style.text for style in styles])
    figure, grid = panel_grid(len(metrics), len(budgets), legend=legend, sharex="col", sharey="row")
    for row, metric in enumerate(metrics):
        for column, (budget, members) in enumerate(zip(budgets, shown, strict=True)):
            axes = grid[row, column]
            for style, cell in members:
                curves = metric_curve(cell, metric)
                if curves is not None:
                    draw_band(axes, cell, metric, curves, style)
                    scale_rounds(axes, cell.eval_rounds)
            if row == 0:
                axes.set_title(spell_budget(budget))
        grid[row, 0].set_ylabel(METRICS.find(metric).label)
        shared_y_scale(list(grid[row]))
    for axes in grid[-1]:
        axes.set_xlabel("Rounds")
    add_line_legend(figure, styles)
    scale = "Vertical axes with powers of ten are linear between -1 and 1 task."
    notes = [interval_note(drawn), scale, _violation_note(drawn), budget_note(view, budgets), focus_note(styles)]
    return add_title(figure, view.setting, f"{_headline(metrics)} over {view.horizon:,} rounds", notes)


def _reward_by_budget(view: ResultsView) -> Figure:
    rows = [view.row(budget, view.horizon) for budget in view.budgets]
    cells = [cell for row in rows for _, cell in row]
    metrics = ["reward_share"]
    if any(violates(cell) for cell in cells):
        metrics.append("violation_per_task")
    styles = styles_of(rows)
    notes = [interval_note(cells), _violation_note(cells)]
    if len(view.budgets) == 1:
        figure, grid = panel_grid(1, len(metrics), width=2.8, height=0.6 + 0.18 * len(styles), legend=1.6, sharey=True)
        for axes, metric in zip(grid[0], metrics, strict=True):
            _by_policy(axes, rows[0], metric)
        title = f"{_headline(metrics)} {at_budget(view.budget)}, {view.horizon:,} rounds"
        return add_title(figure, view.setting, title, notes)
    legend = legend_width([style.text for style in styles])
    figure, grid = panel_grid(1, len(metrics), width=3.0, height=2.4, legend=legend)
    for axes, metric in zip(grid[0], metrics, strict=True):
        _by_budget(axes, view, metric)
        axes.set_ylabel(METRICS.find(metric).label)
    add_line_legend(figure, styles)
    missing = "Cells without a budget are not drawn." if None in view.budgets else ""
    return add_title(
        figure,
        view.setting,
        f"{_headline(metrics)} against the budget, {view.horizon:,} rounds",
        [*notes, missing, focus_note(styles)],
    )


def _by_policy(axes: Axes, row: Sequence[tuple[LineStyle, CellResult]], metric: str) -> None:
    """A dot a policy: there is one budget."""
    for position, (style, cell) in enumerate(reversed(row)):
        values = metric_values(cell, metric)
        if values is not None and len(values):
            mean, low, high = metric_interval(cell, metric, values, LEVEL)
            face = "white" if style.clairvoyant else style.colour
            axes.plot([low, high], [position, position], color=style.colour)
            axes.plot([mean], [position], marker=style.marker or "o", color=style.colour, markerfacecolor=face)
    axes.set_yticks(range(len(row)), [style.text for style, _ in reversed(row)])
    axes.set_ylim(-0.6, len(row) - 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    _share_axis(axes, metric, vertical=False)
    axes.set_xlabel(METRICS.find(metric).label)


def _share_axis(axes: Axes, metric: str, *, vertical: bool) -> None:
    """Percent and a line at the whole for shares; violation starts at zero."""
    if METRICS.find(metric).percent:
        line = axes.axhline if vertical else axes.axvline
        line(1.0, color="#888888", linewidth=0.8, zorder=0.5)
        (axes.yaxis if vertical else axes.xaxis).set_major_formatter(PercentFormatter(1.0))
        return
    low, high = axes.get_ylim() if vertical else axes.get_xlim()
    (axes.set_ylim if vertical else axes.set_xlim)(min(0.0, low + 0.05 * (high - low)) - 0.02 * high, high)


def _by_budget(axes: Axes, view: ResultsView, metric: str) -> None:
    """A line a policy over the budgets at the longest horizon."""
    budgets = [budget for budget in view.budgets if budget is not None]
    logarithmic = budgets[0] > 0 and budgets[-1] / budgets[0] >= 6
    ticks = thin_ticks(budgets, logarithmic=logarithmic)
    _lines(axes, view, metric, {budget: (budget, view.horizon) for budget in budgets}, logarithmic=logarithmic)
    axes.set_xticks(ticks, [f"{tick:.3g}" for tick in ticks])
    axes.set_xlabel("Budget (USD a task)")


def _by_horizon(axes: Axes, view: ResultsView, metric: str) -> None:
    """A line a policy over the horizons at the middle budget."""
    ticks = thin_ticks(view.horizons, logarithmic=True, gap=0.15)
    _lines(axes, view, metric, {horizon: (view.budget, horizon) for horizon in view.horizons}, logarithmic=True)
    axes.set_xticks(ticks, [compact_count(round(tick)) for tick in ticks])
    axes.set_xlabel("Horizon (rounds)")


def _lines(
    axes: Axes,
    view: ResultsView,
    metric: str,
    places: Mapping[float, tuple[float | None, int]],
    *,
    logarithmic: bool,
) -> None:
    """A line a policy through its means at (budget, horizon) of each place on the horizontal axis."""
    if logarithmic:
        axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    for line, style in view.styles.items():
        points = []
        for x, (budget, horizon) in places.items():
            cell = view.table.get((line, budget, horizon))
            size = 4 if len(places) <= 8 else 3
            mean = None if cell is None else draw_point(axes, x, cell, metric, style, markersize=size)
            if mean is not None:
                points.append((x, mean))
        if points:
            width = 1.3 if style.focus else 0.7
            axes.plot(
                *zip(*points, strict=True), color=style.colour, linestyle=style.dashes, linewidth=width, zorder=1.5
            )
    _share_axis(axes, metric, vertical=True)


def _spend(view: ResultsView) -> Figure:
    limited = [cell for cell in view.table.values() if metric_values(cell, "spent_share") is not None]
    panels: list[tuple[Callable[[Axes, ResultsView, str], None], str]] = []
    if len([budget for budget in view.budgets if budget is not None]) > 1:
        panels.append((_by_budget, f"After {view.horizon:,} rounds"))
    if len(view.horizons) > 1 and view.budget is not None:
        panels.append((_by_horizon, spell_budget(view.budget).capitalize().replace("usd", "USD")))
    if not limited or not panels:
        raise NothingToDrawError("spending against budget and horizon needs two budgets or two horizons")
    styles = list(view.styles.values())
    legend = legend_width([style.text for style in styles])
    figure, grid = panel_grid(1, len(panels), width=3.0, height=2.4, legend=legend, sharey=True)
    for axes, (draw, title) in zip(grid[0], panels, strict=True):
        draw(axes, view, "spent_share")
        axes.set_title(title)
    grid[0, 0].set_ylabel(METRICS.find("spent_share").label)
    add_line_legend(figure, styles)
    return add_title(figure, view.setting, "Money spent", [interval_note(limited), focus_note(styles)])


def _demand_forecast(view: ResultsView) -> Figure:
    chosen = _one_a_forecaster(view)
    if not chosen:
        raise NothingToDrawError("no cell holds a forecast")
    shown = spread(list(chosen), MAX_PANELS)
    figure, grid = panel_grid(2, len(shown), sharex="col", sharey="row", legend=1.9)
    for column, name in enumerate(shown):
        _forecast_panel(grid[0, column], chosen[name])
        _error_panel(grid[1, column], chosen[name])
        grid[0, column].set_title(f"forecaster {short_names([name])[name]}")
        grid[1, column].set_xlabel("Rounds")
    grid[0, 0].set_ylabel(METRICS.find("demand").label)
    grid[1, 0].set_ylabel(METRICS.find("forecast_error").label)
    entries = [
        (Line2D([], [], color=POLICY_COLOURS[0]), "arrived so far"),
        (Line2D([], [], color=POLICY_COLOURS[1], linestyle=DASHES[0]), "forecast of the total"),
        (Line2D([], [], color="#444444", linestyle=":"), "total in the end"),
        (Line2D([], [], color=POLICY_COLOURS[2]), "error |forecast - total|"),
    ]
    handles, texts = zip(*entries, strict=True)
    add_legend(figure, handles, texts, loc="outside right center")
    dropped = f"{len(shown)} of {len(chosen)} forecasters." if len(shown) < len(chosen) else ""
    notes = [
        "Lines: mean over runs; bands: from the 5 % to the 95 % quantile of the runs.",
        f"First policy of the study with each forecaster, {at_budget(view.budget)}.",
        dropped,
    ]
    return add_title(figure, view.setting, f"Demand and its forecast over {view.horizon:,} rounds", notes)


def _one_a_forecaster(view: ResultsView) -> dict[str, CellResult]:
    """For each forecaster the first cell of the longest horizon that holds a forecast."""
    chosen: dict[str, CellResult] = {}
    for budget in (view.budget, *view.budgets):
        for _, cell in view.row(budget, view.horizon):
            totals = metric_values(cell, "forecast_total")
            if totals is not None and len(totals) and (totals > 0).any():
                chosen.setdefault(str(cell.info.forecaster), cell)
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
    _quantile_band(axes, cell.eval_rounds, cell.curve("demand"), POLICY_COLOURS[0])
    _quantile_band(axes, cell.eval_rounds, cell.curve("forecast_total"), POLICY_COLOURS[1], DASHES[0])
    scale_rounds(axes, cell.eval_rounds)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _error_panel(axes: Axes, cell: CellResult) -> None:
    if "forecast_error" in cell.metrics:
        _quantile_band(axes, cell.eval_rounds, cell.curve("forecast_error"), POLICY_COLOURS[2])
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _traffic(view: ResultsView) -> Figure:
    staged = view.staged(view.budget, view.horizon, "oracle_share")
    return draw_traffic_maps(view, staged) if staged else _traffic_areas(view)


def _traffic_areas(view: ResultsView) -> Figure:
    row = [(style, cell) for style, cell in view.row(view.budget, view.horizon) if style.focus]
    if not row:
        raise NothingToDrawError("no policy has a cell at the middle budget and the longest horizon")
    models, areas = row[0][1].models, [interval_share(cell, cell.share) for _, cell in row]
    weight = np.mean([area.mean(axis=0) for area in areas] + [cell.benchmark_share for _, cell in row], axis=0)
    chosen = sorted(np.argsort(-weight, kind="stable")[:MAX_MODELS].tolist())
    names = list(short_names([models[i] for i in chosen], 28).values())
    figure, grid = _traffic_grid(len(row), legend_width(names))
    for position, ((style, cell), area) in enumerate(zip(row, areas, strict=True)):
        axes, bar = grid[position]
        _area(axes, cell.eval_rounds, _fold(area, chosen))
        _mix_bar(bar, _fold(cell.benchmark_share[None], chosen)[0])
        axes.set_title(style.text, loc="left", fontsize=7)
        if position % 3 == 0:
            axes.set_ylabel("Share of demand")
        else:
            axes.tick_params(labelleft=False)
        axes.set_xlabel("Rounds")
    _model_legend(figure, names, len(models) - len(chosen))
    notes = [
        f"Share of the demand of each evaluation interval, mean over runs, {at_budget(view.budget)}.",
        "Narrow bar: the benchmark's mix over the whole run.",
        f"Own area: the {MAX_MODELS} models that serve most." if len(models) > len(chosen) else "",
        focus_note(list(view.styles.values()), "Shown"),
    ]
    return add_title(figure, view.setting, f"Which model served when, {view.horizon:,} rounds", notes)


def _traffic_grid(count: int, legend: float) -> tuple[Figure, list[tuple[Axes, Axes]]]:
    """(area, bar) axes for each policy, three policies a row."""
    columns = min(3, count)
    rows = math.ceil(count / columns)
    size = (max(4.5, 2.3 * columns + legend + 0.3), 1.75 * rows + 0.75)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(rows, 2 * columns, width_ratios=[10, 1] * columns)
    places = [divmod(position, columns) for position in range(count)]
    return figure, [
        (figure.add_subplot(grid[row, 2 * column]), figure.add_subplot(grid[row, 2 * column + 1]))
        for row, column in places
    ]


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


def _area(axes: Axes, eval_rounds: np.ndarray, share: np.ndarray) -> None:
    """Stacked steps: each interval ends at its evaluation round."""
    log = log_spaced(eval_rounds)
    start = eval_rounds[0] ** 2 / eval_rounds[1] if log else 0.0
    edges = np.concatenate([[start], eval_rounds])
    tops = np.cumsum(share, axis=1)
    tops = np.concatenate([tops[:1], tops])
    below = np.zeros(len(edges))
    for top, fill in zip(tops.T, _fills(share.shape[1] - 2), strict=True):
        axes.fill_between(edges, below, top, step="pre", linewidth=0.3, **fill)
        below = top
    scale_rounds(axes, eval_rounds)
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
    axes.set_xticks([0], ["bench-\nmark"], fontsize=6)
    axes.set_yticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _model_legend(figure: Figure, names: Sequence[str], others: int) -> None:
    fills = _fills(len(names))
    entries = [(Patch(linewidth=0.5, **fill), name) for fill, name in zip(fills, names, strict=False)]
    if others:
        entries.append((Patch(linewidth=0.5, **fills[-2]), f"{others} other models"))
    entries.append((Patch(linewidth=0.5, **fills[-1]), "declined"))
    handles, texts = zip(*reversed(entries), strict=True)
    add_legend(figure, handles, texts, loc="outside right center")


def _beliefs(view: ResultsView) -> Figure:
    learners = [
        (style, cell)
        for style, cell in view.row(view.budget, view.horizon)
        if style.focus and not style.clairvoyant and np.isfinite(cell.lower[-1]).any()
    ]
    if not learners:
        raise NothingToDrawError("no learning policy holds confidence intervals")
    shown = sorted(learners, key=lambda pair: rank_score(pair[1]))[:MAX_LEARNERS]
    first = shown[0][1]
    served: np.ndarray = np.max([cell.share[-1] for _, cell in shown] + [first.benchmark_share], axis=0)
    models = sorted(np.argsort(-served, kind="stable")[:MAX_BELIEFS].tolist())
    quantities = range(min(3, len(first.estimates)))
    rows = max(1.0, len(models) * (0.13 + 0.075 * len(shown)))
    names = list(short_names([first.models[i] for i in models], 28).values())
    side = legend_width(names) + legend_width([style.text for style, _ in shown])
    figure, grid = panel_grid(1, len(quantities), height=rows + 0.9, width=2.4, legend=side, sharey=True)
    for axes, quantity in zip(grid[0], quantities, strict=True):
        _belief_panel(axes, shown, models, quantity, rows)
    grid[0, 0].set_yticks(range(len(models)), names)
    grid[0, 0].set_ylim(len(models) - 0.5, -0.5)
    truth = Line2D([], [], color="black", marker="|", linestyle="", markersize=8, markeredgewidth=1.3)
    entries = [(bar_handle(style), style.text) for style, _ in shown]
    handles, texts = zip(*entries, (truth, "true mean"), strict=True)
    add_legend(figure, handles, texts, loc="outside right center")
    best = (
        f"{len(shown)} of {len(learners)} learning policies: least regret plus violation." if len(learners) > 4 else ""
    )
    few = f"{len(models)} of {len(first.models)} models: those served most." if len(first.models) > len(models) else ""
    notes = [
        f"Ends of the confidence intervals, mean over runs, {at_budget(view.budget)}.",
        "Below: share of (run, model) pairs whose interval holds the true mean, over all models.",
        few,
        best,
    ]
    return add_title(figure, view.setting, f"What the learner believes after {view.horizon:,} rounds", notes)


def _belief_panel(
    axes: Axes, shown: Sequence[tuple[LineStyle, CellResult]], models: Sequence[int], quantity: int, height: float
) -> None:
    """Intervals of one quantity, a row a model, with the truth as a tick."""
    first = shown[0][1]
    truth = first.truth[models, quantity]
    logarithmic = bool(truth.min() > 0 and truth.max() / truth.min() > 10)
    lowest = min(float(np.nanmin(cell.lower[-1, models, quantity])) for _, cell in shown)
    foot = max(lowest, float(truth.min()) / 4) * 0.8 if logarithmic else -math.inf
    entries = []
    for position, (style, cell) in enumerate(shown):
        rows = np.arange(len(models)) + 0.7 * ((position + 0.5) / len(shown) - 0.5)
        low = np.maximum(cell.lower[-1, models, quantity], foot)
        axes.hlines(rows, low, cell.upper[-1, models, quantity], color=style.colour, linewidth=1.6)
        covered = cell.coverage[-1, :, quantity]
        text = f"{np.nanmean(covered):.1%} covered" if np.isfinite(covered).any() else "no coverage"
        entries.append((bar_handle(style), text))
    for row, value in enumerate(truth):
        axes.plot([value, value], [row - 0.42, row + 0.42], color="black", linewidth=0.9, zorder=1)
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(left=foot)
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:.0e}" if foot < 1e-4 else "{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(3))
    name = first.estimates[quantity]
    spends = {metric.removeprefix("spent_") for metric in first.metrics if metric.startswith("spent_")}
    money = (money_metric(first) or "").removeprefix("spent_")
    unit = "reward a task" if quantity == 0 else f"{name}, USD a task" if name == money else name
    axes.set_xlabel(safe_text(unit if name == money or name not in spends else f"{name} a task"))
    axes.grid(visible=False, axis="y")
    handles, texts = zip(*entries, strict=True)
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.45 / height), "ncols": 2, "fontsize": 6.5}
    add_legend(axes, handles, texts, **place)


_FIGURES: dict[str, tuple[Callable[[ResultsView], Figure], str]] = {
    "regret_by_round": (
        _regret_by_round,
        "Regret against the benchmark and violation of the service target as rounds go by, at the longest horizon.",
    ),
    "regret_by_horizon": (
        draw_regret_by_horizon,
        "Regret and violation against the horizon on logarithmic axes, with fitted slopes.",
    ),
    "reward_by_budget": (
        _reward_by_budget,
        "Reward as a share of the benchmark and violation per unit of demand, by budget, at the longest horizon.",
    ),
    "spend": (
        _spend,
        "Share of the money budget that was spent, by budget at the longest horizon and by horizon at one budget.",
    ),
    "published": (
        draw_published,
        "Forecast error, regret and signed violation as rounds go by, beside published end points.",
    ),
    "decomposition": (
        draw_decomposition,
        "Regret at the horizon in its parts, a bar a policy: waiting for a stage to start, deployment and routing.",
    ),
    "traffic": (
        _traffic,
        "Share of demand that each model served over time, one panel a policy, beside the benchmark's mix.",
    ),
    "deployment": (
        draw_deployment,
        "Which model is live when, one panel a policy, with arrivals, retirements and the starts of stages.",
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
