"""Results as tables: one row a run, and the summary."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments import interrupt

if TYPE_CHECKING:
    import pyarrow as pa
from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo
from experiments.results.disk import write_atomically, write_informing
from experiments.results.layout import flat
from experiments.results.metrics import METRICS
from experiments.results.metrics.base import MONEY

DESCRIBED = {  # column: what it holds
    "cell": "id: a hash of everything the cell's results depend on",
    "policy": "name of the policy",
    "routing": "routing rule",
    "deployment": "deployment rule",
    "env": "the world's name, else its catalogue",
    "demand": "demand process, or the demand's name in the study",
    "forecaster": "demand forecaster",
    "num_models": "models of the catalogue",
    "horizon": "rounds",
    "budget": "money budget of the whole run in USD; empty without one",
    "budget_per_task": "money budget in USD per expected task; empty without one",
    "target": "wanted share of tasks within the latency limit; empty without a latency target",
    "benchmark_feasible": "whether budget and targets can be met at all; else the benchmark violates least",
}


_NAMES = ("routing.name", "deployment.name", "forecaster.name", "demand.process")  # which the info has itself


_VOLATILE = ("versions.git_dirty",)  # of the moment, not of the results


_FORMULA = r"^[=+\-@\t\r]"  # the beginnings of text that spreadsheets run, or that hide such a beginning


def described(info: CellInfo) -> dict[str, Any]:
    """What a cell is, flat: ``policy``, ``routing.eta``, ``env.target``, ``sources.routing.sha256`` and so on.

    A swept axis has its whole path as its name, so that no parameter of a rule is taken for something else. Lists
    become JSON. The text of sources is left out: it would stand in every row.
    """
    found = {name: getattr(info, name) for name in DESCRIBED}
    groups = {**info.parameters, "sources": info.sources}
    made_of = flat(groups | {"versions": info.versions})
    skipped = (
        *_NAMES,
        *_VOLATILE,
        *(f"sources.{kind}.{key}" for kind in groups["sources"] for key in ("name", "text")),
    )
    found |= {name: value for name, value in made_of.items() if name not in (*found, *skipped) and value != {}}
    found |= {axis: value for axis, value in info.swept.items() if axis not in found}
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in found.items()}


def write_results(folder: Path, cells: Sequence[CellResult]) -> None:
    """``results.parquet`` and ``results.csv``: the rows of :func:`rows`.

    In the CSV file alone, text that a spreadsheet would run as a formula begins with an apostrophe (:data:`_FORMULA`).
    """
    import pyarrow as pa  # not before there are results: it takes a while, and a study begins without it
    import pyarrow.csv
    import pyarrow.parquet

    table = rows(cells)
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    write_atomically(folder / "results.parquet", sink.getvalue().to_pybytes())
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(_without_formulas(table), sink)
    write_atomically(folder / "results.csv", sink.getvalue().to_pybytes())


def rows(cells: Sequence[CellResult]) -> "pa.Table":
    """One row a run, at its horizon. Columns whose values are of different kinds, as numbers and words, hold text."""
    import pyarrow as pa

    about = [described(cell.info) for cell in cells]
    names = list(dict.fromkeys(name for entry in about for name in entry))
    words = [name for name in names if _is_mixed([entry.get(name) for entry in about])]
    for entry in about:
        entry |= {name: _spelt(entry[name]) for name in words if entry.get(name) is not None}
    described_cells = zip(interrupt.looking(cells), about, strict=True)
    tables = [_table(cell, {name: entry.get(name) for name in names}) for cell, entry in described_cells]
    return pa.concat_tables(tables, promote_options="permissive")


def _is_mixed(values: Sequence[Any]) -> bool:
    """Whether a column holds words and numbers: two rules may call a choice and a number alike."""
    kinds = {type(value) for value in values if value is not None}
    return len({"number" if kind in (int, float) else kind for kind in kinds}) > 1


def _spelt(value: Any) -> str:
    """A value as text: words as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _without_formulas(table: "pa.Table") -> "pa.Table":
    """A table whose texts begin with an apostrophe where they would begin like a formula; numbers stay as they are."""
    import pyarrow as pa
    import pyarrow.compute

    for place, column in enumerate(table.columns):
        if pa.types.is_string(column.type):
            safe = pa.compute.replace_substring_regex(column, _FORMULA, r"'\0")
            table = table.set_column(place, table.column_names[place], safe)
    return table


def _table(cell: CellResult, about: Mapping[str, Any]) -> "pa.Table":
    import pyarrow as pa

    runs = len(cell.seeds)
    columns: dict[str, Any] = {name: [value] * runs for name, value in about.items()}
    return pa.table(columns | {"seed": cell.seeds} | run_columns(cell))


def run_columns(cell: CellResult) -> dict[str, np.ndarray]:
    """[R] of every measured metric at the horizon under the name of its column in the tables of runs, and ``spent``."""
    columns = {METRICS.find(name).column or name: cell.final(name) for name in cell.metrics}
    return columns | {"spent": columns.get(f"spent_{MONEY}", np.zeros(len(cell.seeds)))}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """``summary.json``."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    write_informing(folder / "summary.json", text.encode())
