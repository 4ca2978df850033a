"""What the bench measured, as rows: timed fairly, checked before they are timed, printed with their ratios."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from time import perf_counter
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way of doing one piece of work."""

    work: str  # what was done, the same for all rows that are compared
    who: str  # who did it
    rate: float  # pieces of work a second, warm
    unit: str  # what a piece is
    note: str = ""  # what was checked, or how much was timed


def seconds(work: Callable[[], Any], repeats: int) -> float:
    """Median wall seconds of ``work``, warm: one call goes before those that count."""
    work()
    taken = []
    for _ in range(repeats):
        began = perf_counter()
        work()
        taken.append(perf_counter() - began)
    return median(taken)


def show(rows: Sequence[Row], console: Console) -> None:
    """A table a piece of work: the first row is ours, the others say how many times faster we are."""
    for work in dict.fromkeys(row.work for row in rows):
        mine = [row for row in rows if row.work == work]
        table = Table(title=work, title_justify="left")
        for name in ("who", mine[0].unit, "ours / theirs", "checked"):
            table.add_column(name, justify="left" if name in ("who", "checked") else "right", overflow="fold")
        for row in mine:
            ratio = "" if row is mine[0] else f"{mine[0].rate / row.rate:,.3g} x"
            table.add_row(row.who, f"{row.rate:,.4g}", ratio, row.note)
        console.print(table)


def plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Rows for JSON, with our ratio to each."""
    first = {row.work: row for row in reversed(rows)}
    return [{**asdict(row), "ours_over_theirs": first[row.work].rate / row.rate} for row in rows]
