"""The tables of a study: built once, written as Markdown and LaTeX here and as HTML by the page."""

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from experiments.report.headlines import has_settings, headlines
from experiments.report.numbers import (
    budget_key,
    budget_text,
    exponent,
    exponent_interval,
    level_text,
    percent,
    rounded,
    whole,
)
from experiments.report.scaling import ExponentFit
from experiments.report.summary import CellSummary, ExponentSummary, Summary
from experiments.results.metrics import METRICS, Metric, Table

MAX_TABULAR_ROWS = 40  # a longer LaTeX table is a longtable
NOTHING = "—"
_BUDGET = "Budget (USD a task)"  # the heading of the first column that holds numbers
_COMPARED = ("reward_share", "regret")  # metrics that compare with the benchmark


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What stands in one place of a table."""

    text: str
    beneath: str = ""  # an interval or a remark, behind the text where a table has one line a row
    value: float | None = None  # what the page sorts by; None: by the text
    verdict: str = ""  # on an exponent

    @property
    def line(self) -> str:
        """Everything in one line."""
        return f"{self.text} {self.beneath}".strip()


@dataclass(frozen=True, kw_only=True)
class Row:
    """One cell of the study, or one fit."""

    label: str
    setting: str
    budget: str  # as filters compare it
    horizon: str | None  # likewise; None: of a fit
    entries: tuple[Entry, ...]  # of every column but the first, which holds the label

    @property
    def lines(self) -> list[str]:
        """Every column in one line."""
        return [self.label, *(entry.line for entry in self.entries)]


@dataclass(frozen=True, kw_only=True)
class ReportTable:
    """Headings and rows; without rows it is not shown."""

    title: str
    caption: str  # how to read it
    head: tuple[str, ...]
    rows: tuple[Row, ...]

    @property
    def words(self) -> int:
        """How many columns hold words: those before the budget."""
        return self.head.index(_BUDGET)


def tables(summary: Summary) -> list[ReportTable]:
    """The tables that have rows: cells, deployment, growth exponents."""
    made = (cell_table(summary), deployment_table(summary), exponent_table(summary))
    return [table for table in made if table.rows]


def cell_table(summary: Summary) -> ReportTable:
    """What every cell scored."""
    cells = summary.cells
    columns, with_setting = _filled(METRICS.summarised(Table.CELLS), cells), has_settings(cells)
    head = ["Policy", *(["Setting"] if with_setting else []), _BUDGET, "Horizon"]
    rows = []
    for cell in cells:
        entries = [*_setting(cell, with_setting), _budget(cell), _horizon(cell)]
        entries += [_mean(cell, column) for column in columns]
        rows.append(_row(cell, [*entries, Entry(text=str(cell.runs), value=cell.runs)]))
    return ReportTable(
        title=f"Cells: mean [{level_text(summary.level)} interval of the mean]",
        caption=_mean_caption(summary),
        head=(*head, *(column.heading for column in columns), "Runs"),
        rows=tuple(rows),
    )


def deployment_table(summary: Summary) -> ReportTable:
    """What deployment cost and did, of the cells in which it matters."""
    cells = [cell for cell in summary.cells if cell.deployment_matters]
    columns, with_setting = _filled(METRICS.summarised(Table.DEPLOYMENT), cells), has_settings(cells)
    head = ["Policy", *(["Setting"] if with_setting else []), "Deployment", _BUDGET, "Horizon"]
    rows = []
    for cell in cells:
        entries = [
            *_setting(cell, with_setting),
            Entry(text=str(cell.info.deployment)),
            _budget(cell),
            _horizon(cell),
        ]
        stages, cap = cell.info.stages, cell.info.max_deployed
        entries.append(Entry(text=NOTHING if stages is None else whole(stages), value=stages))
        entries.append(Entry(text="none" if cap is None else whole(cap), value=cap))
        rows.append(_row(cell, [*entries, *(_mean(cell, column) for column in columns)]))
    return ReportTable(
        title=f"Deployment: mean [{level_text(summary.level)} interval of the mean]",
        caption=_mean_caption(summary),
        head=(*head, "Stages", "Cap on live models", *(column.heading for column in columns)),
        rows=tuple(rows),
    )


def exponent_table(summary: Summary) -> ReportTable:
    """How regret and violation grow with the horizon."""
    fits = summary.exponents
    level, with_setting = level_text(summary.level), has_settings(fits)
    head = ["Policy", *(["Setting"] if with_setting else []), _BUDGET]
    for name in ("Regret", "Violation"):
        head += [f"{name}, all horizons", f"{name}, tail", f"{name}, verdict"]
    rows = []
    for fit in fits:
        entries = [*_setting(fit, with_setting), _budget(fit), *_fit(fit.regret), *_fit(fit.violation)]
        rows.append(_row(fit, entries))
    return ReportTable(
        title=f"Growth exponents: slope [{level} bootstrap interval]",
        caption=f"Slope of log(mean over runs) on log(horizon), {level} bootstrap interval over runs. A slope needs "
        "three horizons, the longest among them, that are distinguishable from zero; else words say what is known.",
        head=tuple(head),
        rows=tuple(rows),
    )


def fit_notes(summary: Summary) -> list[str]:
    """What the fits have to say of themselves, each with its policy, budget and setting."""
    return sorted({note for fit in summary.exponents for note in _notes(fit)})


def markdown_tables(summary: Summary) -> str:
    """The findings, the table of cells and the table of exponents in Markdown."""
    parts = ["# Results", "", *(f"- {escape_item(sentence)}" for sentence in headlines(summary)), ""]
    for table in tables(summary):
        parts += [f"## {table.title}", ""]
        for number, row in enumerate([table.head, *(row.lines for row in table.rows)]):
            parts.append("| " + " | ".join(escape_markdown(text) for text in row) + " |")
            if number == 0:
                parts.append("|" + "---|" * len(row))
        parts.append("")
    return "\n".join(parts)


def latex_tables(summary: Summary) -> str:
    """The same tables in LaTeX; needs the packages booktabs and, for long ones, longtable."""
    parts = ["% \\usepackage{booktabs,longtable}; names outside ASCII need XeLaTeX or LuaLaTeX"]
    for table in tables(summary):
        environment = "longtable" if len(table.rows) > MAX_TABULAR_ROWS else "tabular"
        columns = "l" * table.words + "r" * (len(table.head) - table.words)
        parts += [f"% {escape_latex(table.title)}", f"\\begin{{{environment}}}{{{columns}}}", "\\toprule"]
        parts += [_latex_row(table.head), "\\midrule", *(["\\endhead"] if environment == "longtable" else [])]
        parts += [_latex_row(row.lines) for row in table.rows]
        parts += ["\\bottomrule", f"\\end{{{environment}}}", ""]
    return "\n".join(parts)


def _filled(columns: Sequence[Metric], cells: Sequence[CellSummary]) -> list[Metric]:
    """Columns that hold anything."""
    return [column for column in columns if any(column.name in cell.metrics for cell in cells)]


def _row(shown: CellSummary | ExponentSummary, entries: Sequence[Entry]) -> Row:
    return Row(
        label=shown.label,
        setting=shown.setting,
        budget=budget_key(_budget_of(shown)),
        horizon=f"{shown.info.horizon:.0f}" if isinstance(shown, CellSummary) else None,
        entries=tuple(entries),
    )


def _budget_of(shown: CellSummary | ExponentSummary) -> float | None:
    return shown.info.budget_per_task if isinstance(shown, CellSummary) else shown.budget_per_task


def _setting(shown: CellSummary | ExponentSummary, with_setting: bool) -> list[Entry]:
    return [Entry(text=shown.setting)] if with_setting else []


def _budget(shown: CellSummary | ExponentSummary) -> Entry:
    budget = _budget_of(shown)
    return Entry(text=budget_text(budget), value=budget)


def _horizon(cell: CellSummary) -> Entry:
    return Entry(text=whole(cell.info.horizon), value=cell.info.horizon)


def _mean(cell: CellSummary, column: Metric) -> Entry:
    """A mean with its unit and its interval, and with the cell's marks where it compares with the benchmark."""
    found = cell.metrics.get(column.name)
    if found is None:
        return Entry(text=NOTHING)
    spell = percent if column.percent else rounded
    text = spell(found.mean) + (" %" if column.percent else "")
    return Entry(
        text=text + (_mark(cell) if column.name in _COMPARED else ""),
        beneath="" if found.low is None or found.high is None else f"[{spell(found.low)}, {spell(found.high)}]",
        value=found.mean,
    )


def _mark(cell: CellSummary) -> str:
    """What is behind numbers that compare with the benchmark: the signs that the headlines explain."""
    return (" †" if cell.info.benchmark_feasible is False else "") + (" ‡" if cell.is_beyond_benchmark else "")


def _mean_caption(summary: Summary) -> str:
    return (
        f"Mean over runs at the horizon; beneath it the {level_text(summary.level)} interval of the mean "
        "(Student t for regret; a score interval, which stays within the range, for what cannot be negative)."
    )


def _fit(fit: ExponentFit | None) -> tuple[Entry, Entry, Entry]:
    """Slope, tail slope and verdict; words where there is no slope."""
    nothing = Entry(text=NOTHING)
    if fit is None:
        return nothing, nothing, nothing
    verdict = nothing
    if fit.verdict is not None:
        verdict = Entry(text=fit.verdict, beneath=f"(expected {fit.expected:.3g})", verdict=fit.verdict)
    if not fit.has_slope:
        return Entry(text=fit.in_words or NOTHING), nothing, verdict
    return _slope(fit.slope, fit.interval), _slope(fit.tail_slope, fit.tail_interval), verdict


def _slope(slope: float, interval: tuple[float, float]) -> Entry:
    return Entry(text=exponent(slope), beneath=exponent_interval(interval), value=slope)


def _notes(shown: ExponentSummary) -> Iterator[str]:
    name = f"{shown.label}, budget {budget_text(shown.budget_per_task)}"
    name += f", {shown.setting}" if shown.setting else ""
    if shown.note:
        yield f"{name}: {shown.note}"
    for metric, fit in shown.fits.items():
        if fit is not None and fit.note:
            yield f"{name}, {metric}: {fit.note}"


def escape_markdown(text: str) -> str:
    """One line in which no letter is markup."""
    text = html.escape(" ".join(text.split()), quote=False)
    for letter in "\\`*_[]|~#$!":
        text = text.replace(letter, f"\\{letter}")
    return text


def escape_item(text: str) -> str:
    """A line of a list, whose beginning is no further bullet or number either."""
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", escape_markdown(text))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "−": "$-$",
    "—": "---",
    "[": "{[}",  # a row that starts with [ would be read as an argument of the line break before it
    "]": "{]}",
    "*": "{*}",  # and one that starts with * would make the line break another command
    "†": r"\dag{}",
    "‡": r"\ddag{}",
}


def escape_latex(text: str) -> str:
    """One line in which no letter is a command."""
    return "".join(_LATEX.get(letter, letter) for letter in " ".join(text.split()))


def _latex_row(texts: Sequence[str]) -> str:
    return " & ".join(escape_latex(text) for text in texts) + r" \\"
