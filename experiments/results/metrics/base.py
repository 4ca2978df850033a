"""What a metric is, and the registry of all metrics."""

import importlib
import inspect
import math
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Required, TypedDict, TypeVar, Unpack

import numpy as np

from envs.errors import InputError
from experiments.results.cell_file import CellResult

MONEY = "money"  # the resource whose budget is in USD
LAST = 1000  # the order of a metric that does not say its place
_FAMILY = "*"  # ends the name of a family, in the place of a resource's or service's name

Function = TypeVar("Function", bound=Callable[..., Any])


class Kind(Enum):
    """How values follow from rounds."""

    SUM = "sum over the rounds so far"
    SHARE = "share of a whole"
    MEAN = "average within the run"
    LEVEL = "state at the round"


class Range(Enum):
    """Which values are possible; intervals of means stay within."""

    SIGNED = "any sign"
    NONNEGATIVE = "at least 0"
    ONE = "0 to 1"
    ROUNDS = "0 to the horizon"
    BUDGET = "0 to the money budget"


class Read(Enum):
    """Which round a run is judged by."""

    HORIZON = "the horizon"
    HALF = "half time"  # the last evaluation round in the first half of the run, or the first one
    RUN = "the whole run"  # there is no curve: the function returns one value a run


class Table(Enum):
    """The table of cells that has a column for the metric."""

    CELLS = "cells"
    DEPLOYMENT = "deployment"


def _always(_cell: CellResult) -> bool:
    return True


@dataclass(frozen=True, kw_only=True)
class Metric:
    """One metric: what it is, how it is computed, and where it is shown."""

    name: str  # of the column; a family's ends with "_*"
    title: str  # as headings and axes have it, without the unit
    unit: str
    kind: Kind
    compute: Callable[[Any], Any]  # measured: Totals -> [E, R], or [E, R, N] of a family; derived: CellResult -> [R, E]
    says: str  # what it is, in a sentence
    measured: bool  # whether cells store it; else it follows from what they store
    range: Range = Range.NONNEGATIVE
    read: Read = Read.HORIZON
    applies: Callable[[CellResult], bool] = _always  # whether it means anything for a cell
    positive_part: bool = False  # a stored value below zero counts as zero
    money_unit: str = ""  # of a family's member called money, where it differs from the others' unit
    each: str = ""  # a family has a member for each of the cell's "resources", "services" or "quantities" (both)
    summarised: bool = False  # whether summary.json and the tables made of it hold its mean and interval
    table: Table | None = None
    order: int = LAST  # among those that are summarised
    percent: bool = False  # tables and axes show 100 times the value
    terminal: tuple[str, str] | None = None  # its heading and number format in the terminal's table of findings
    column: str = ""  # in the tables of runs, where it is not the name

    @property
    def label(self) -> str:
        """The title, with the unit where values add up: "Regret (tasks)"."""
        return f"{self.title} ({self.unit})" if self.kind is Kind.SUM else self.title

    @property
    def heading(self) -> str:
        """The label of a table's column, which says which round it is about where that is not the horizon."""
        return self.label + (f" at {self.read.value}" if self.read is Read.HALF else "")

    @property
    def mean_name(self) -> str:
        """The name of the mean over runs in dashboards: a share keeps its name, other metrics say that it is a mean."""
        return self.name if self.kind is Kind.SHARE else f"{self.name}_mean"

    def member(self, name: str) -> str:
        """The column of a family's member."""
        return self.name.removesuffix(_FAMILY) + name

    def curve(self, cell: CellResult) -> np.ndarray | None:
        """[R, E], NaN where a denominator is zero; None where the metric does not apply or has no curve."""
        if self.read is Read.RUN or not self.applies(cell):
            return None
        if not self.measured:
            found: np.ndarray | None = self.compute(cell)
            return found
        if self.name not in cell.metrics:
            return None
        return np.maximum(cell.curve(self.name), 0.0) if self.positive_part else cell.curve(self.name)

    def values(self, cell: CellResult) -> np.ndarray | None:
        """[R'] the value a run is judged by, of the runs where it is finite; None where the metric does not apply."""
        if self.read is Read.RUN:
            found: np.ndarray | None = self.compute(cell) if self.applies(cell) else None
            return found
        final = self.finals(cell)
        return None if final is None else np.asarray(final[np.isfinite(final)])

    def finals(self, cell: CellResult) -> np.ndarray | None:
        """[R] the value each run is judged by, NaN where it has none; None where there is no curve to read it from."""
        curve = self.curve(cell)
        return None if curve is None else np.asarray(curve[:, _half(cell) if self.read is Read.HALF else -1])

    def most(self, cell: CellResult, values: np.ndarray) -> float | None:
        """The upper end of the range of some values, whose lower end is zero: a number, infinity, or None for any sign.

        Whatever is negative in some run has any sign. Where some run is beyond the end, as spending may be under
        ``budget_rule: average``, there is no upper end.
        """
        if self.range is Range.SIGNED or bool((values < 0).any()):
            return None
        end = self._end(cell)
        return math.inf if end is None or not bool((values <= end).all()) else end

    def _end(self, cell: CellResult) -> float | None:
        if self.range is Range.ONE:
            return 1.0
        if self.range is Range.ROUNDS:
            return float(cell.info.horizon)
        return cell.info.budget if self.range is Range.BUDGET else None


def _half(cell: CellResult) -> int:
    """The last evaluation round in the first half of the run, or the first one."""
    return max(0, int(np.searchsorted(cell.eval_rounds, cell.eval_rounds[-1] / 2, side="right")) - 1)


class Facts(TypedDict, total=False):
    """What a decorator is told of a metric; see :class:`Metric`."""

    title: Required[str]
    unit: Required[str]
    kind: Required[Kind]
    range: Range
    read: Read
    applies: Callable[[CellResult], bool]
    positive_part: bool
    money_unit: str
    each: str
    summarised: bool
    table: Table | None
    order: int
    percent: bool
    terminal: tuple[str, str] | None
    column: str


class Metrics(dict[str, Metric]):
    """Name -> metric, in the order of registration."""

    def register(self, name: str, *, measured: bool, **facts: Unpack[Facts]) -> Callable[[Function], Function]:
        """Decorator: register a function, whose docstring says what the metric is.

        InputError where the name is taken or cannot be one, or there is no docstring.
        """

        def enter(function: Function) -> Function:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name.removesuffix(f"_{_FAMILY}")):
                raise InputError(f"a metric cannot be called {name!r}; use lower-case letters, digits and _")
            if name in self:
                raise InputError(f"there is a metric called {name!r} already; choose another name")
            if name.endswith(_FAMILY) != bool(facts.get("each")):
                raise InputError(f"metric {name!r}: a family's name ends with _*, and `each` says whose it is")
            says = " ".join((inspect.getdoc(function) or "").split())
            if not says:
                raise InputError(f"metric {name!r}: the function's docstring must say what the metric is")
            self[name] = Metric(name=name, compute=function, says=says, measured=measured, **facts)
            return function

        return enter

    def discover(self, package: str) -> None:
        """Import every module of a package, whose decorators register what it holds."""
        for module in pkgutil.iter_modules(sys.modules[package].__path__):
            importlib.import_module(f"{package}.{module.name}")

    def find(self, name: str) -> Metric:
        """The metric of a column. One that nobody registered, of older results, is plain numbers under its name."""
        if name in self:
            return self[name]
        for family in self.values():
            prefix = family.name.removesuffix(_FAMILY)
            if family.each and name.startswith(prefix):
                member = name.removeprefix(prefix)
                known = family.range is not Range.BUDGET or member == MONEY
                title = f"{family.title}, {member}"
                unit = family.money_unit if family.money_unit and member == MONEY else family.unit
                values = family.range if known else Range.NONNEGATIVE
                return replace(family, name=name, title=title, unit=unit, range=values)
        return Metric(
            name=name, title=name, unit="", kind=Kind.LEVEL, compute=np.asarray, says="Not registered.", measured=True
        )

    def measured(self) -> list[Metric]:
        """What cells store, in the order of their columns."""
        return [metric for metric in self.values() if metric.measured]

    def summarised(self, table: Table | None = None) -> list[Metric]:
        """What summaries hold, all or those of one table, in the order of the tables."""
        chosen = [metric for metric in self.values() if metric.summarised and table in (None, metric.table)]
        return sorted(chosen, key=lambda metric: metric.order)

    def of(self, stored: Iterable[str]) -> list[Metric]:
        """Everything known of a cell that stores these columns: what summaries hold, then the other columns."""
        summarised = self.summarised()
        names = dict.fromkeys((*(metric.name for metric in summarised), *stored))
        return [self.find(name) for name in names]


METRICS = Metrics()


def metric(name: str, **facts: Unpack[Facts]) -> Callable[[Function], Function]:
    """Register a metric that follows from what cells store: a function ``CellResult`` -> [R, E], None without it.

    With ``read=Read.RUN`` the function returns one value for each run that has one, [R'].
    """
    facts.setdefault("summarised", True)
    return METRICS.register(name, measured=False, **facts)


def measured(name: str, **facts: Unpack[Facts]) -> Callable[[Function], Function]:
    """Register a metric that cells store: a function ``Totals`` -> [E, R], [E, R, N] of a family; None without it."""
    return METRICS.register(name, measured=True, **facts)
