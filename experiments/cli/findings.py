"""Tables on the terminal: what a study found, and how regret and violation grow with the horizon."""

from collections.abc import Sequence
from math import isnan

from rich.table import Table
from rich.text import Text

from experiments.report.numbers import level_text
from experiments.report.scaling import ExponentFit
from experiments.report.summary import CellSummary, ExponentSummary, Summary
from experiments.results.metrics import METRICS


def findings(summary: Summary) -> Table:
    """What was found: a row for each policy and budget at the longest horizon."""
    cells = summary.longest
    shown = [(metric.name, *metric.terminal) for metric in METRICS.summarised() if metric.terminal is not None]
    rows = [
        [*_name(cell, cell.info.budget_per_task), *(_mean(cell, metric, form) for metric, _, form in shown)]
        for cell in cells
    ]
    title = f"At {cells[0].info.horizon:,} rounds, means over runs"
    return _table(title, [heading for _, heading, _ in shown], rows)


def exponents(summary: Summary) -> Table | None:
    """How regret and violation grow with the horizon; None where there are too few horizons."""
    rows = []
    for entry in summary.exponents:
        regret, violation = _slope(entry.regret), _slope(entry.violation)
        rows.append([*_name(entry, entry.budget_per_task), regret, _tail_slope(entry.regret), violation])
    names = ("regret", "regret, longest horizons", "violation")
    title = f"Growth with the horizon: exponents with {level_text(summary.level)} intervals"
    return _table(title, names, rows) if rows else None


def _table(title: str, numbers: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table without the columns that hold nothing."""
    table = Table(title=Text(title), title_justify="left")
    names = ("policy", "USD a task", *numbers)
    told = [place for place in range(len(names)) if place == 0 or any(row[place] != "-" for row in rows)]
    for place in told:
        table.add_column(names[place], justify="right" if place else "left", overflow="fold")
    for row in rows:
        # Numbers never break; where the terminal is narrow, the policy's name does.
        table.add_row(*(Text(row[place].replace(" ", "\N{NO-BREAK SPACE}") if place else row[place]) for place in told))
    return table


def _name(entry: CellSummary | ExponentSummary, budget: float | None) -> list[str]:
    return [f"{entry.label} {entry.setting}".strip(), "-" if budget is None else f"{budget:.3g}"]


def _mean(cell: CellSummary, metric: str, form: str) -> str:
    value = cell.mean(metric)
    return "-" if value is None else format(value, form)


def _slope(fit: ExponentFit | None) -> str:
    """The slope over all horizons with its interval; words where there is none."""
    if fit is None or not fit.has_slope:
        return (fit.in_words if fit else "") or "-"
    return _with_interval(fit.slope, fit.interval)


def _tail_slope(fit: ExponentFit | None) -> str:
    return "-" if fit is None or not fit.has_slope else _with_interval(fit.tail_slope, fit.tail_interval)


def _with_interval(slope: float, ends: tuple[float, float]) -> str:
    return f"{slope:.2f}" + ("" if isnan(ends[0]) or isnan(ends[1]) else f" [{ends[0]:.2f}, {ends[1]:.2f}]")
