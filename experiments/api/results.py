"""The results of a study: labelled, in memory, as tables, and compared run by run."""

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from envs.errors import InputError, nearest
from experiments.config import sources
from experiments.report.scaling import mean_interval
from experiments.report.summary import Summary, summarise
from experiments.results import tables
from experiments.results.cell_file import CellResult
from experiments.results.metrics import METRICS

if TYPE_CHECKING:
    import pandas
    import xarray

_PAIRED = ("env", "demand", "horizon", "root_seed", "precision")  # parameters that paired cells share
_PAIRED_FILES = ("catalogue", "trace")  # and files
_LABELS = ("policy", "routing", "deployment", "env", "demand", "forecaster")
_NUMBERS = ("num_models", "horizon", "budget", "budget_per_task", "target")
_UNITS = {"budget": "USD", "budget_per_task": "USD/task", "horizon": "rounds", "num_models": "models", "target": "1"}


@dataclass(frozen=True, kw_only=True)
class Difference:
    """By how much policy ``a`` is above policy ``b`` in a metric, on the same demand and luck."""

    a: str
    b: str
    metric: str
    horizon: int  # rounds
    mean: float  # of a - b over the seeds, in the metric's unit
    low: float  # ends of the interval of that mean (Student's t); NaN for a single seed
    high: float
    level: float
    n: int  # pairs of runs

    def __str__(self) -> str:
        interval = f"[{self.low:,.4g}, {self.high:,.4g}]"
        where = f"{self.metric} at {self.horizon:,} rounds, {self.n} paired seeds"
        return f"{self.a} - {self.b}: {self.mean:,.4g} {interval} ({self.level:.0%}), {where}"


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Results:
    """What a study gave; made by ``simulate``, ``run_study`` and ``load_study``."""

    cells: tuple[CellResult, ...]  # in the order of the study; each holds its curves [runs, evaluation rounds, metrics]
    configuration: Mapping[str, Any]  # resolved, as the study was asked for
    versions: Mapping[str, Any]  # of what computed it
    planned: int | None  # cells of the whole study; None where nobody knows
    folder: Path | None  # None for results in memory alone

    def __len__(self) -> int:
        """How many cells."""
        return len(self.cells)

    def __repr__(self) -> str:
        missing = f" of {self.planned}" if self.planned not in (None, len(self)) else ""
        horizons = _spanned([cell.info.horizon for cell in self.cells])
        seeds = _spanned([len(cell.seeds) for cell in self.cells])
        where = f", {self.folder}" if self.folder else ""
        policies = ", ".join(self._column("policy"))
        return f"<Results: {len(self)}{missing} cells of {policies}; {horizons} rounds, {seeds} seeds{where}>"

    def select(self, **where: Any) -> "Results":
        """The cells whose columns have these values, e.g. ``policy="ucb1", horizon=1000``; a list means any of them.

        Columns are those of ``to_arrow``; one with a dot in its name is given as ``**{"env.target": 0.9}``. InputError
        where there is no such column or value.
        """
        self._refuse_empty()
        about = [{**tables.described(cell.info), **cell.info.swept} for cell in self.cells]
        chosen = [True] * len(self)
        for name, wanted in where.items():
            among = wanted if isinstance(wanted, list | tuple | set | np.ndarray) else [wanted]
            there = [entry.get(name) for entry in about]
            if not any(name in entry for entry in about):
                known = dict.fromkeys(column for entry in about for column in entry)
                raise InputError(f"there is no column {name!r}; {nearest(name, list(known))}")
            for value in among:
                if not any(_equal(value, other) for other in there):
                    hint = nearest(str(value), sorted({str(other) for other in there}))
                    raise InputError(f"there is no cell whose {name} is {value!r}; {hint}")
            fits = [any(_equal(value, other) for value in among) for other in there]
            chosen = [before and now for before, now in zip(chosen, fits, strict=True)]
        left = tuple(cell for cell, fits_all in zip(self.cells, chosen, strict=True) if fits_all)
        return Results(
            cells=left,
            configuration=self.configuration,
            versions=self.versions,
            planned=None if self.planned is None else len(left),
            folder=self.folder,
        )

    def to_arrow(self) -> pa.Table:
        """One row a run, at its horizon: the rows of ``results.parquet``. InputError without any cell."""
        self._refuse_empty()
        return tables.rows(self.cells)

    def to_pandas(self) -> "pandas.DataFrame":
        """``to_arrow`` as a data frame; ModuleNotFoundError where pandas is not installed."""
        _installed("pandas", "to_pandas")
        return self.to_arrow().to_pandas()

    def to_xarray(self) -> "xarray.Dataset":
        """The curves of every metric, NaN where a cell has none; ModuleNotFoundError where xarray is not installed.

        Variables are called like the columns of ``to_arrow``. Dimensions are (cell, seed, rounds) where all cells were
        measured at the same rounds. Elsewhere they are (cell, seed, evaluation), with the rounds in the coordinate
        ``rounds`` (cell, evaluation); the last evaluation is always the horizon, and cells with fewer ones begin with
        NaN. Coordinates along ``cell`` tell the cells apart: policy, horizon, budget_per_task, ... and every swept
        parameter. Units are in ``attrs["units"]``.
        """
        xr = _installed("xarray", "to_xarray")
        self._refuse_empty()
        last, marks = _rounds(self.cells)
        seeds = np.unique(np.concatenate([cell.seeds for cell in self.cells]))
        dimensions = ("cell", "seed", last)
        curves = {
            METRICS.find(name).column or name: (
                dimensions,
                _curves(self.cells, name, seeds),
                {"units": METRICS.find(name).unit},
            )
            for name in dict.fromkeys(name for cell in self.cells for name in cell.metrics)
        }
        found: xarray.Dataset = xr.Dataset(
            curves,
            coords={"seed": seeds, "rounds": (*marks, {"units": "rounds"}), **_cell_coordinates(self.cells)},
            attrs={"title": str(self.configuration.get("name")), **_spelt(self.versions)},
        )
        return found

    def difference(self, a: str, b: str, *, metric: str = "reward", level: float = 0.95, **where: Any) -> Difference:
        """By how much policy ``a`` is above ``b`` at the horizon, as a mean over paired runs.

        Policies of a study meet the same demand and luck, seed by seed, so their runs are compared in pairs: the
        interval is that of the mean difference, and narrower than the two policies' own intervals tell.

        Args:
            a: a policy's name.
            b: another's.
            metric: a metric of the cells, or one of ``summary``, such as "reward_share" or "violation_per_task".
            level: of the interval.
            where: what else selects one cell of each, as in ``select``: ``horizon=10_000``, ``budget_per_task=3e-4``.

        Raises:
            InputError: no cell, or several, of a policy; cells that are not paired; an unknown metric.

        """
        one, other = self._single(a, where), self._single(b, where)
        _refuse_unpaired(one, other)
        apart = _final(one, metric) - _final(other, metric)
        apart = apart[np.isfinite(apart)]
        if not len(apart):
            raise InputError(f"{metric} is not defined in any run of both {a} and {b}")
        mean, low, high = mean_interval(apart, level)
        return Difference(
            a=a,
            b=b,
            metric=metric,
            horizon=one.info.horizon,
            mean=mean,
            low=low,
            high=high,
            level=level,
            n=len(apart),
        )

    def summary(self, *, level: float = 0.95) -> Summary:
        """What ``summary.json`` holds: means of the cells with intervals, and exponents of growth with the horizon."""
        expected = self.configuration.get("expected_exponents")
        return summarise(self.cells, expected=expected, planned=self.planned, level=level)

    @property
    def provenance(self) -> dict[str, Any]:
        """What the results were made by and of.

        ``versions`` (packages, Python, device, git revision), ``configuration``, ``code`` (what any cell depends on ->
        SHA-256) and ``cells``: id -> ``policy``, ``parameters`` (every value, given or default) and ``sources``
        (digests of code and files, and the text of the user's own).
        """
        code: dict[str, str] = {}
        for cell in self.cells:
            code |= sources.components(cell.info.sources)
        return {
            "versions": dict(self.versions),
            "configuration": dict(self.configuration),
            "code": dict(sorted(code.items())),
            "cells": {
                cell.info.cell: {name: getattr(cell.info, name) for name in ("policy", "parameters", "sources")}
                for cell in self.cells
            },
        }

    def _column(self, name: str) -> list[str]:
        return list(dict.fromkeys(str(getattr(cell.info, name)) for cell in self.cells))

    def _refuse_empty(self) -> None:
        if not self.cells:
            raise InputError("there are no results: no cell is selected, or none is finished")

    def _single(self, policy: str, where: Mapping[str, Any]) -> CellResult:
        """The one cell of a policy; InputError says by what its cells can be told apart."""
        found = self.select(**{**where, "policy": policy}).cells
        if len(found) == 1:
            return found[0]
        if not found:
            raise InputError(f"no cell of {policy} has {', '.join(f'{key}={value!r}' for key, value in where.items())}")
        about = [tables.described(cell.info) for cell in found]
        columns = dict.fromkeys(name for entry in about for name in entry if name != "cell" and "sha256" not in name)
        differing = {name: [entry.get(name) for entry in about] for name in columns}
        telling = {name: values for name, values in differing.items() if len({str(value) for value in values}) > 1}
        name, values = next(iter(telling.items()), ("cell", []))
        raise InputError(
            f"{len(found)} cells of {policy} differ in {', '.join(list(telling)[:4]) or 'nothing'}; say which, "
            f"e.g. {name}={values[0] if values else found[0].info.cell!r}"
        )


def _installed(name: str, method: str) -> Any:
    """An optional package; ModuleNotFoundError says in one sentence how to get it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{method} needs {name}, which is not installed; pip install {name}, or use to_arrow()", name=name
        ) from error


def _spanned(values: Sequence[int]) -> str:
    if not values:
        return "0"
    least, most = min(values), max(values)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _equal(left: Any, right: Any) -> bool:
    """Equal, numbers but for rounding."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (left, right))
    return math.isclose(left, right, rel_tol=1e-9) if numbers else bool(left == right)


def _final(cell: CellResult, metric: str) -> np.ndarray:
    """[R] of a metric at the horizon, NaN where a run has none."""
    known = {name: METRICS.find(name) for name in dict.fromkeys([*cell.metrics, *METRICS]) if not name.endswith("*")}
    values = known[metric].finals(cell) if metric in known else None
    if values is not None:
        return values
    offered = [name for name, other in known.items() if name != metric and other.finals(cell) is not None]
    raise InputError(f"{cell.info.policy} has no metric {metric!r}; {nearest(metric, offered)}")


def _refuse_unpaired(one: CellResult, other: CellResult) -> None:
    """InputError where two cells did not meet the same demand and luck."""
    a, b = one.info, other.info
    said = f"{a.policy} and {b.policy} are not paired"
    if not np.array_equal(one.seeds, other.seeds):
        raise InputError(f"{said}: one has {len(one.seeds)} seeds and the other {len(other.seeds)}; give them the same")
    for name in _PAIRED:
        if a.parameters.get(name) != b.parameters.get(name):
            raise InputError(f"{said}: their {name} differ; compare cells of one world, demand and horizon")
    for name in _PAIRED_FILES:
        if a.sources.get(name, {}).get("sha256") != b.sources.get(name, {}).get("sha256"):
            raise InputError(f"{said}: their {name} is another file; compare cells of one world and demand")


def _rounds(cells: Sequence[CellResult]) -> tuple[str, tuple[Any, np.ndarray]]:
    """The name of the last dimension, and the evaluation rounds with their dimensions."""
    first = cells[0].eval_rounds
    if all(np.array_equal(cell.eval_rounds, first) for cell in cells):
        return "rounds", ("rounds", first)
    marks = np.full((len(cells), _most_eval_rounds(cells)), np.nan)
    for place, cell in enumerate(cells):
        marks[place, marks.shape[1] - len(cell.eval_rounds) :] = cell.eval_rounds
    return "evaluation", (("cell", "evaluation"), marks)


def _most_eval_rounds(cells: Sequence[CellResult]) -> int:
    return max(len(cell.eval_rounds) for cell in cells)


def _curves(cells: Sequence[CellResult], metric: str, seeds: np.ndarray) -> np.ndarray:
    """[cells, seeds, evaluations] of a metric, aligned at the horizon; NaN where a cell has none."""
    found = np.full((len(cells), len(seeds), _most_eval_rounds(cells)), np.nan)
    for place, cell in enumerate(cells):
        if metric in cell.metrics:
            found[place, np.searchsorted(seeds, cell.seeds), -len(cell.eval_rounds) :] = cell.curve(metric)
    return found


def _cell_coordinates(cells: Sequence[CellResult]) -> dict[str, Any]:
    """What tells cells apart, along the dimension ``cell``."""
    swept = dict.fromkeys(name for cell in cells for name in cell.info.swept)
    found: dict[str, Any] = {"cell": [cell.info.cell for cell in cells]}
    for name in dict.fromkeys([*_LABELS, *_NUMBERS, *swept]):
        values = [cell.info.swept.get(name, getattr(cell.info, name, None)) for cell in cells]
        attributes = {"units": _UNITS[name]} if name in _UNITS else {}
        found[name] = ("cell", _column_of(values), attributes)
    return found


def _column_of(values: Sequence[Any]) -> np.ndarray:
    """Numbers with NaN, or text with "", where there is no value."""
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return np.array([np.nan if value is None else value for value in values])
    return np.array(["" if value is None else str(value) for value in values])


def _spelt(versions: Mapping[str, Any]) -> dict[str, str]:
    return {f"version_{name}": str(value) for name, value in versions.items()}
