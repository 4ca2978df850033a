"""Model catalogues: how well real language models answer, what an answer costs and how long it takes.

A catalogue is a CSV file with one model a line. Columns (any order; further columns are kept in ``extras``):

| column | unit |
|---|---|
| ``model`` | a name, unique in the file |
| ``tier`` | ``edge`` or ``cloud`` |
| ``quality`` | mean quality of an answer, in [0, 1] |
| ``cost_usd`` | mean cost of a query in USD, >= 0; 0 for a model that is free |
| ``latency_s`` | mean time to the whole answer in seconds, > 0 |
| ``cost_cv``, ``latency_cv`` | coefficients of variation (standard deviation / mean) of the two, >= 0 |
| ``released``, ``retired`` | ISO dates, may be empty; ``retired`` may be left out |
| ``cost_max_usd`` | largest possible cost of a query in USD, >= ``cost_usd``; may be empty or left out |

``find("routerbench")`` reads a shipped catalogue, ``find("mine.csv")`` a user's own; where the shipped figures come
from is told in ``catalogues/SOURCES.md``. Runs on the host, float64.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from datetime import date
from difflib import get_close_matches
from importlib import resources
from pathlib import Path

import numpy as np

from envs import csv_table, files
from envs.csv_table import Table, finite
from envs.errors import InputError, nearest

COLUMNS = ("model", "tier", "quality", "cost_usd", "cost_cv", "latency_s", "latency_cv", "released")
OPTIONAL_COLUMNS = ("retired", "cost_max_usd")
GENERATED = ("stairs", "needle")
TIERS = ("edge", "cloud")

_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "quality": (lambda value: 0 <= value <= 1, "in [0, 1]"),
    "cost_usd": (lambda value: value >= 0, ">= 0"),
    "cost_cv": (lambda value: value >= 0, ">= 0"),
    "latency_s": (lambda value: value > 0, "> 0"),
    "latency_cv": (lambda value: value >= 0, ">= 0"),
}
_EPOCH = date(1970, 1, 1).toordinal()


@dataclass(frozen=True, kw_only=True)
class Catalogue:
    """N models, in the order of the file: every head of a shipped catalogue is a sensible choice of models."""

    names: tuple[str, ...]  # N
    tier_cloud: np.ndarray  # [N] bool, true for cloud and false for edge
    quality: np.ndarray  # [N] mean in [0, 1]
    cost_usd: np.ndarray  # [N] mean USD a query; 0 for a model that is free
    cost_cv: np.ndarray  # [N] standard deviation / mean
    cost_max_usd: np.ndarray  # [N] largest possible cost of a query in USD, NaN where unknown
    latency_s: np.ndarray  # [N] mean seconds to the whole answer, without the network
    latency_cv: np.ndarray  # [N] standard deviation / mean
    released: np.ndarray  # [N] days since 1970-01-01, NaN where unknown
    retired: np.ndarray  # [N] days since 1970-01-01, NaN where not retired
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # further columns: [N] float64, or [N] text
    path: str  # where it was read

    @property
    def num_models(self) -> int:
        """N."""
        return len(self.names)

    def first(self, num_models: int) -> "Catalogue":
        """The first ``num_models`` models; InputError where there are fewer."""
        if not 1 <= num_models <= self.num_models:
            raise InputError(f"num_models must be between 1 and the {self.num_models} of {self.path}, not {num_models}")
        return self.take(range(num_models))

    def take(self, rows: Sequence[int]) -> "Catalogue":
        """The models at these rows, in this order."""
        index = np.asarray(rows, dtype=int)
        others = ("names", "extras", "path")
        arrays = {entry.name: getattr(self, entry.name)[index] for entry in fields(self) if entry.name not in others}
        return Catalogue(
            names=tuple(self.names[i] for i in index),
            extras={name: values[index] for name, values in self.extras.items()},
            path=self.path,
            **arrays,
        )


def shipped() -> list[str]:
    """Names of the catalogues that come with the package."""
    folder = resources.files("envs") / "catalogues"
    return sorted(entry.name.removesuffix(".csv") for entry in folder.iterdir() if entry.name.endswith(".csv"))


def find(name_or_path: str | Path) -> Catalogue:
    """A shipped catalogue by its name, or anybody's by its path.

    >>> find("routerbench").num_models
    11
    """
    if str(name_or_path) in shipped():
        file = resources.files("envs") / "catalogues" / f"{name_or_path}.csv"
        return _parse(file.read_bytes(), f"{name_or_path}.csv")
    return read(name_or_path)


def generated(kind: str, num_models: int, first_quality: float, quality_gap: float) -> Catalogue:
    """Made-up models that differ in quality alone, for instances with a known answer.

    ``stairs``: each model is better than the one before by ``quality_gap``. ``needle``: all are alike but the last one,
    which is better by ``quality_gap``; as ties go to the lower number, it is found last. All are cloud models that cost
    1e-4 USD and take a second. InputError where a quality would pass 1.
    """
    steps = np.arange(num_models) if kind == "stairs" else (np.arange(num_models) == num_models - 1).astype(float)
    quality = first_quality + quality_gap * steps
    if quality.max() > 1.0 + 1e-9 or quality.min() < 0.0:
        raise InputError(
            f"env: {num_models} models from first_quality={first_quality:g} by quality_gap={quality_gap:g} would reach "
            f"{quality.max():g}; qualities must lie in [0, 1]"
        )
    same = np.ones(num_models)
    return Catalogue(
        names=tuple(f"model {m + 1}" for m in range(num_models)),
        tier_cloud=np.ones(num_models, bool),
        quality=np.clip(quality, 0.0, 1.0),
        cost_usd=1e-4 * same,
        cost_cv=0.5 * same,
        cost_max_usd=np.nan * same,
        latency_s=same,
        latency_cv=0.5 * same,
        released=np.nan * same,
        retired=np.nan * same,
        path=kind,
    )


def read(path: str | Path) -> Catalogue:
    """Read and check a catalogue file. InputError names the file, the line and the column of the first fault."""
    if not os.path.lexists(os.path.expanduser(path)):
        hint = nearest(str(path), shipped())
        raise InputError(f"env.catalogue: no catalogue {str(path)!r}: neither a file nor shipped; {hint}")
    content = files.content(path, "the catalogue", "a CSV file")
    return _parse(content, str(path))


def _parse(content: bytes, path: str) -> Catalogue:
    table = csv_table.parse(content, path, COLUMNS, row="model")
    _refuse_misspelt(table)
    required = {column: table.numbers(column, holds, wanted) for column, (holds, wanted) in _RANGES.items()}
    names = _unique_names(table)
    known = (*COLUMNS, *OPTIONAL_COLUMNS)
    return Catalogue(
        names=names,
        tier_cloud=_tiers(table),
        **required,
        cost_max_usd=_largest_costs(table, required["cost_usd"]),
        **_dates(table),
        extras={name: _numbers_or_text(cells) for name, cells in table.columns.items() if name not in known},
        path=path,
    )


def _refuse_misspelt(table: Table) -> None:
    """A further column that is nearly an optional one would be kept as an extra and change nothing."""
    optional = (*OPTIONAL_COLUMNS, "throughput")
    for column in table.columns:
        meant = get_close_matches(column.lower(), optional, n=1, cutoff=0.85)
        if meant and column not in optional:
            raise InputError(f"{table.path}: column {column!r} is not known; did you mean {meant[0]!r}?")


def _unique_names(table: Table) -> tuple[str, ...]:
    seen: dict[str, int] = {}
    for row, name in enumerate(table.columns["model"]):
        if not name:
            raise table.fault(row, "model", "a model needs a name")
        if name in seen:
            raise table.fault(row, "model", f"{name!r} is already on line {table.lines[seen[name]]}; names are unique")
        seen[name] = row
    return tuple(seen)


def _tiers(table: Table) -> np.ndarray:
    for row, tier in enumerate(table.columns["tier"]):
        if tier not in TIERS:
            raise table.fault(row, "tier", f"{tier!r} must be one of {', '.join(TIERS)}")
    return np.array([tier == "cloud" for tier in table.columns["tier"]])


def _largest_costs(table: Table, mean: np.ndarray) -> np.ndarray:
    """[N] the column ``cost_max_usd``, NaN where a cell is empty or the column is missing; ``mean`` [N] USD."""
    cells = table.columns.get("cost_max_usd", [""] * len(mean))
    numbers = np.full(len(cells), np.nan)
    for row, cell in enumerate(cells):
        if not cell:
            continue
        number = csv_table.finite(cell)
        if number is None:
            raise table.fault(row, "cost_max_usd", f"{cell!r} is not a finite number (or empty if unknown)")
        if number < mean[row]:
            raise table.fault(row, "cost_max_usd", f"{cell} must be at least the mean cost_usd, {mean[row]:g}")
        numbers[row] = number
    return numbers


def _dates(table: Table) -> dict[str, np.ndarray]:
    released = [_day(table, row, "released", cell) for row, cell in enumerate(table.columns["released"])]
    cells = table.columns.get("retired", [""] * len(released))
    retired = [_day(table, row, "retired", cell) for row, cell in enumerate(cells)]
    for row, (start, end) in enumerate(zip(released, retired, strict=True)):
        if end < start:
            raise table.fault(row, "retired", f"{cells[row]} is before the release on {table.columns['released'][row]}")
    return {"released": np.array(released), "retired": np.array(retired)}


def _day(table: Table, row: int, column: str, cell: str) -> float:
    """Days since 1970-01-01, NaN for an empty cell."""
    if not cell:
        return float("nan")
    try:
        return float(date.fromisoformat(cell).toordinal() - _EPOCH)
    except ValueError:
        raise table.fault(row, column, f"{cell!r} is not a date like 2023-11-06 (or empty if unknown)") from None


def _numbers_or_text(cells: list[str]) -> np.ndarray:
    numbers = [finite(cell) for cell in cells]
    return np.array(cells) if None in numbers else np.array(numbers, dtype=np.float64)
