"""What figures look at: the cells of one setting, and words about budgets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.report.figures.style import LineStyle, compact_count
from experiments.report.summary import Label, budget_of, deployment_matters, metric_curve, metric_values
from experiments.results.cell_file import CellResult

MAX_PANELS = 4  # budgets or forecasters side by side


@dataclass(frozen=True, kw_only=True)
class ResultsView:
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

    def staged(self, budget: float | None, horizon: int, *extras: str) -> list[tuple[LineStyle, CellResult]]:
        """The row's lines in focus where deployment matters and the cell holds these extras."""
        row = [(style, cell) for style, cell in self.row(budget, horizon) if style.focus and deployment_matters(cell)]
        return [(style, cell) for style, cell in row if all(name in cell.extras for name in extras)]

    def row(self, budget: float | None, horizon: int) -> list[tuple[LineStyle, CellResult]]:
        """Each line's cell at one budget and horizon, in drawing order."""
        found = [(style, self.table.get((line, budget, horizon))) for line, style in self.styles.items()]
        return [(style, cell) for style, cell in found if cell is not None]


def make_view(
    cells: Sequence[CellResult], labels: Sequence[Label], styles: dict[str, LineStyle], setting: str
) -> ResultsView:
    """The cells of a setting, ready to be looked up."""
    chosen = [(cell, label.line) for cell, label in zip(cells, labels, strict=True) if label.setting == setting]
    table: dict[tuple[str, float | None, int], CellResult] = {}
    for cell, line in chosen:
        table.setdefault((line, budget_of(cell), int(cell.info.horizon)), cell)
    budgets = {budget for _, budget, _ in table}
    present = {line for line, _, _ in table}
    return ResultsView(
        table=table,
        styles={line: style for line, style in styles.items() if line in present},
        budgets=tuple(sorted(budgets, key=lambda budget: (budget is None, budget or 0.0))),
        horizons=tuple(sorted({horizon for _, _, horizon in table})),
        setting=setting,
    )


def spell_budget(budget: float | None) -> str:
    """A budget as a title."""
    return "no budget" if budget is None else f"budget {budget:.3g} USD a task"


def at_budget(budget: float | None) -> str:
    """A budget within a sentence."""
    return "without a budget" if budget is None else f"at {spell_budget(budget)}"


def budget_note(view: ResultsView, shown: Sequence[float | None]) -> str:
    """Which budgets are shown, where not all are."""
    if len(shown) == len(view.budgets):
        return ""
    return f"{len(shown)} of {len(view.budgets)} budgets, evenly spaced from the smallest to the largest."


def violates(cell: CellResult) -> bool:
    """Whether any run ever fell short of its service target."""
    curve = metric_curve(cell, "violation")
    return curve is not None and bool((curve > 0).any())


def styles_of(rows: Sequence[Sequence[tuple[LineStyle, CellResult]]]) -> list[LineStyle]:
    """Styles that occur, in drawing order."""
    return list({style.text: style for row in rows for style, _ in row}.values())


def interval_share(cell: CellResult, so_far: np.ndarray) -> np.ndarray:
    """[E, M] share of the demand within each evaluation interval, from shares [E, M] of all demand so far.

    Uses the runs' mean demand, so it is exact when demand is equal over runs and close otherwise.
    """
    known = np.isfinite(cell.curve("demand"))
    demand = np.where(known, cell.curve("demand"), 0.0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    served = np.diff(np.nan_to_num(so_far) * demand[:, None], axis=0, prepend=0.0)
    arrived = np.diff(demand, prepend=0.0)[:, None]
    share = np.where(arrived > 0, served / np.where(arrived > 0, arrived, 1.0), 0.0)
    share = np.clip(share, 0.0, 1.0)
    return np.asarray(share / np.maximum(share.sum(axis=1, keepdims=True), 1.0))


def final_mean(cell: CellResult, metric: str) -> float | None:
    """A metric at the horizon; None where it does not apply."""
    values = metric_values(cell, metric)
    return None if values is None or len(values) == 0 else float(values.mean())


def short_number(value: float, _position: int | None = None) -> str:
    """12k, 0.5, -3M with a true minus sign."""
    size = compact_count(round(abs(value))) if abs(value) >= 1000 else f"{abs(value):.3g}"
    return f"−{size}" if value < 0 else size
