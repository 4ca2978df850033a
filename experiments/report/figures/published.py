"""The picture of a reproduction: curves beside published end points, on linear axes as papers draw them."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.report.figures.style import (
    LineStyle,
    NothingToDrawError,
    add_line_legend,
    add_title,
    draw_band,
    interval_note,
    legend_width,
    panel_grid,
)
from experiments.report.figures.views import ResultsView
from experiments.report.published import regret_from, signed_violation
from experiments.results.cell_file import CellResult

_Curve = Callable[[CellResult], np.ndarray | None]


def _forecast_error(cell: CellResult) -> np.ndarray | None:
    return np.asarray(np.abs(cell.curve("forecast_total") - cell.curve("demand")[:, -1:]))


_PANELS: tuple[tuple[str, str | None, _Curve], ...] = (
    ("Error of the forecast total (tasks)", None, _forecast_error),
    ("Regret from the LP (tasks)", "regret", lambda cell: regret_from(cell, "benchmark")),
    ("Regret from the best model (tasks)", "regret", lambda cell: regret_from(cell, "benchmark_unconstrained")),
    ("Violation per round (tasks, signed)", "violation_per_round", signed_violation),
)


def draw_published(view: ResultsView) -> Figure:
    """Forecast error, regret from two benchmarks and signed violation against rounds, crosses at published ends."""
    row = [(style, cell) for style, cell in view.row(view.budget, view.horizon) if cell.info.published is not None]
    if not row:
        raise NothingToDrawError("no cell has published end points")
    styles = [style for style, _ in row]
    figure, grid = panel_grid(2, 2, width=3.2, legend=legend_width([style.text for style in styles]), sharex=True)
    for axes, (title, quantity, curve) in zip(grid.flat, _PANELS, strict=True):
        for style, cell in row:
            _draw(axes, style, cell, quantity, curve(cell))
        axes.set_title(title)
        axes.set_ylim(*_range(axes))
    for axes in grid[-1]:
        axes.set_xlabel("Rounds")
    add_line_legend(figure, styles)
    notes = [
        interval_note([cell for _, cell in row]),
        "Crosses: published end points, in both panels of regret, as the publication does not name its benchmark.",
    ]
    return add_title(figure, view.setting, "Beside published end points", notes)


def _draw(axes: Axes, style: LineStyle, cell: CellResult, quantity: str | None, curves: np.ndarray | None) -> None:
    if curves is not None:
        draw_band(axes, cell, "regret", curves, style)  # of any sign
    end = (cell.info.published or {}).get(quantity or "")
    if end is not None:
        axes.plot([cell.eval_rounds[-1]], [end], marker="x", color=style.colour, markersize=7, zorder=4, clip_on=False)


def _range(axes: Axes) -> tuple[float, float]:
    low, high = float(axes.dataLim.y0), float(axes.dataLim.y1)
    margin = 0.05 * max(high - low, 1e-9)
    return low - margin, high + margin
