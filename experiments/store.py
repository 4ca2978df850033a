"""Results on disk: one atomic file a cell, and the tables made from them.

A cell's file is written once, whole, under a temporary name that ``os.replace`` makes final: it is there or it is not.
The file is a NumPy archive whose comment is a seal: a stamp, drawn anew at every writing, and a SHA-256 of all before.
"""

import errno
import hashlib
import io
import json
import os
import re
import secrets
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
import yaml

from envs.errors import InputError
from experiments import claims, study_folder
from experiments.claims import CLAIMS, Claims
from experiments.study_folder import DIGEST, JOBS, STAMP

CELLS = "cells"
CONFIG = "config.yaml"
DAMAGED = "damaged"  # below the cells: files that were found damaged
REDO = "redo.json"  # what a run with force=true has still to replace
# Where results go and how they are computed, not what they are.
NOT_IDENTITY = (
    *("out", "tracker", "chunk_rows", "force", "extend", "shard", "checkpoint_minutes", "distributed"),
    "program_cache",
)


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell: a policy in a world at one horizon, over R runs.

    ``description`` holds plain values only (str, int, float, bool, None): at least ``cell`` (id), ``policy``,
    ``deployment``, ``env``, ``demand``, ``forecaster``, ``num_models``, ``horizon``, ``budget`` (USD in total or None),
    ``budget_per_task`` (USD or None), ``target`` (latency target or None), ``clairvoyant`` (bool),
    ``benchmark_feasible`` (bool), ``wall_s`` and ``swept`` (this cell's values of the swept parameters).
    ``metrics`` names the last axis of ``curves``: reward, reward_expected, benchmark, regret (expected),
    regret_realised, violation (largest over metrics), violation_worst, overspend (largest share of a budget spent
    beyond it, counted in whole quanta: 0.0 means exactly none), declined (all tasks not served), refused (those of
    them that a hard budget refused), invalid (rounds whose decision was not finite), served, demand, forecast_total,
    forecast_error (|forecast total - realised total| / realised total), pace (largest over resources of spent / (budget
    per task x demand so far)), spent_<resource>, violation_<metric>, service_<metric> (tasks that met the target),
    dual_<resource or metric>. Money is in USD. Where the inventory is fixed, also benchmark_serving_all (no task may be
    declined; NaN where the budget does not allow that) and benchmark_unconstrained (the best models by quality). All
    sums are cumulative up to the checkpoint's round.

    Where what is live can change, also regret_waiting, regret_deployment and regret_routing (see
    ``experiments.deployment_books``; they sum to regret), benchmark_fluid (the best plan for the whole run, blind to
    max_deployed, where ``benchmark`` is the best deployment at every instant), activations and evictions (models
    switched on and off) and deployment_gap (largest proven gap of the deployment program); and in ``extras``: arrival
    and retirement [M] (rounds; 2^31 - 1 for never), live [E, M] (share of runs in which the model is live),
    oracle_share [E, M] (share of all demand so far that the benchmark gives the model), first_live [R, M] (round) and
    first_best [R, M] (first round of the first stage in which the model served the most tasks), both -1 for never.
    """

    description: dict[str, Any]
    seeds: np.ndarray  # [R] int
    checkpoints: np.ndarray  # [E] int, rounds completed; the last one is the horizon
    metrics: tuple[str, ...]  # K names
    curves: np.ndarray  # [R, E, K] float64
    models: tuple[str, ...]  # M names
    estimates: tuple[str, ...]  # names of the quantities learned: reward, then the resources, then the covering metrics
    share: np.ndarray  # [E, M] share of all demand so far that each model served, mean over runs
    lower: np.ndarray  # [E, M, 1+P+C] confidence bounds, mean over runs, in each quantity's own unit (USD, [0, 1])
    upper: np.ndarray  # [E, M, 1+P+C]
    coverage: np.ndarray  # [E, M, 1+P+C] share of runs whose interval holds the true mean
    truth: np.ndarray  # [M, 1+P+C] true means
    benchmark_share: np.ndarray  # [M] the benchmark's mix, mean over runs
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # further named arrays

    def curve(self, metric: str) -> np.ndarray:
        """[R, E] of one metric; KeyError names the metrics there are."""
        if metric not in self.metrics:
            raise KeyError(f"no metric {metric!r}; this cell holds {', '.join(self.metrics)}")
        return self.curves[:, :, self.metrics.index(metric)]

    def final(self, metric: str) -> np.ndarray:
        """[R] of one metric at the horizon."""
        return self.curve(metric)[:, -1]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that a loss of power does not undo it either."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.{claims.process()}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _sync_folder(folder: Path) -> None:
    """Make a file's new name last, where the file system knows how."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}-\d+-\d+)\.[^.]+")


def tidy(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed."""
    for path in (*folder.glob(".*"), *(folder / CELLS).glob(".*")):
        found = _TEMPORARY.fullmatch(path.name)
        if found and claims.is_gone(found[1]):
            path.unlink(missing_ok=True)


def open_folder(folder: Path, record: Mapping[str, Any], *, extend: bool = False) -> None:
    """Make the results folder, or check that it belongs to this very study, or add this study to it with ``extend``.

    ``record`` is {"config": resolved configuration, "versions": ..., "cells": its cells' ids, with spaces between}.
    What a folder records is the newest study in this form, and under "earlier" a list of those before it. InputError
    where the folder holds another study's results, or files that are no study's.
    """
    if is_open(folder, record, extend=extend):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Claims(folder) as mine, mine.exclusively("config"):
            known = _recorded(folder)  # another process may have been quicker
            wanted = record if known is None else _with_study(known, record, folder, extend)
            (folder / CELLS).mkdir(exist_ok=True)
            if wanted != known:
                text = yaml.safe_dump(dict(wanted), sort_keys=False, allow_unicode=True)
                write_atomically(folder / CONFIG, text.encode())
    except OSError as error:
        raise InputError(f"out: {folder} cannot be written ({error.strerror}); give another folder") from error


def is_open(folder: Path, record: Mapping[str, Any], *, extend: bool = False) -> bool:
    """Whether the folder records this very study already. InputError where ``open_folder`` would refuse it."""
    known = _recorded(folder)
    if known is not None:
        return _with_study(known, record, folder, extend) == known
    if folder.exists() and (not folder.is_dir() or not all(map(_is_ours, folder.iterdir()))):
        raise InputError(f"out: {folder} is not empty and holds no study; give another folder with out=DIR")
    return False


def _is_ours(path: Path) -> bool:
    """What may be there of a study whose record was not, a moment ago: it was killed, or begins beside us."""
    return path.name in (CELLS, CLAIMS, CONFIG, JOBS) or _TEMPORARY.fullmatch(path.name) is not None


def _with_study(known: Mapping[str, Any], record: Mapping[str, Any], folder: Path, extend: bool) -> Mapping[str, Any]:
    """A folder's record with this study in it."""
    studies = [*known.get("earlier", []), {key: value for key, value in known.items() if key != "earlier"}]
    for place, study in enumerate(studies):
        if not _differences(study["config"], record["config"]):
            # The same configuration may mean other cells, where a file that it names has changed.
            if study.get("cells") != record.get("cells"):
                studies[place] = {**study, "versions": record["versions"], "cells": record["cells"]}
            break
    else:
        if not extend:
            differing = "; ".join(_differences(known["config"], record["config"]))
            raise InputError(
                f"out: {folder} holds another study's results ({differing}); add to them with extend=true, "
                "or give another folder with out=DIR"
            )
        studies.append(dict(record))
    return {**studies[-1], "earlier": studies[:-1]} if len(studies) > 1 else studies[-1]


def recorded_cells(folder: Path) -> list[str]:
    """The ids of all cells of all studies that a folder records, the oldest study first."""
    known = _recorded(folder) or {}
    studies = [*known.get("earlier", []), known]
    return list(dict.fromkeys(cell for study in studies for cell in study.get("cells", "").split()))


def _recorded(folder: Path) -> dict[str, Any] | None:
    """What a folder records of its studies; None where it holds none."""
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        known = dict(yaml.safe_load(path.read_text(encoding="utf-8")))
        return known | {"config": dict(known["config"])}
    except (UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"out: {path} is no study's record; give another folder with out=DIR") from error


def _differences(known: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Human sentences about the keys that differ, "there ... here ..."."""
    left, right = _flat(known), _flat(wanted)
    return [
        f"{key} is {left.get(key)!r} there and {right.get(key)!r} here"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and key.split(".")[0] not in NOT_IDENTITY
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix.rstrip("."): value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}


def study_digest(config: Mapping[str, Any]) -> str:
    """Eight hex digits of what a study is: its resolved configuration without output folder and tracker."""
    identity = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


def cell_path(folder: Path, cell: str) -> Path:
    """Where a cell's results lie."""
    return folder / CELLS / f"{cell}.npz"


def write_cell(folder: Path, result: CellResult) -> None:
    """One cell's file, atomically."""
    arrays = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in ("description", "extras")}
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    arrays |= {f"extra_{name}": value for name, value in result.extras.items()}
    buffer = io.BytesIO()
    np.savez(buffer, description=np.array(json.dumps(result.description)), **arrays)
    write_atomically(cell_path(folder, result.description["cell"]), _sealed(buffer.getvalue()))


def read_cell(path: Path) -> CellResult:
    """A cell's results; ValueError names the file where it is damaged."""
    content = path.read_bytes()
    try:
        return _parse_cell(_unsealed(content))
    except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def stamp(folder: Path, cell: str) -> str | None:
    """What tells one writing of a cell's file from the next; None where there is no file."""
    return study_folder.stamp(cell_path(folder, cell))


def set_aside(folder: Path, cell: str) -> Path | None:
    """Move a damaged file to where it is out of the way; None where it is no longer there."""
    (folder / CELLS / DAMAGED).mkdir(exist_ok=True)
    number = 1
    while (to := folder / CELLS / DAMAGED / f"{cell}-{number}.npz").exists():
        number += 1
    try:
        os.replace(cell_path(folder, cell), to)
    except FileNotFoundError:
        return None  # another process was quicker
    return to


def begin_redo(folder: Path, cells: Iterable[str], mine: Claims) -> bool:
    """Note which writing of each cell is to be replaced, unless that is noted already: a redo begun is gone on with.

    Whether something new was noted.
    """
    try:
        with mine.exclusively("redo"):
            known = redo(folder)
            noted = {cell: stamp(folder, cell) for cell in cells if cell not in known} | known
            if noted != known:
                write_atomically(folder / REDO, json.dumps(noted, indent=0).encode())
            return noted != known
    except OSError as error:
        raise InputError(f"out: {folder} cannot be written ({error.strerror}); give another folder") from error


def redo(folder: Path) -> dict[str, str | None]:
    """Cell id -> the stamp of what is to be replaced, None where nothing was there."""
    try:
        return dict(json.loads((folder / REDO).read_bytes()))
    except FileNotFoundError:
        return {}
    except (TypeError, ValueError) as error:
        raise InputError(f"out: {folder / REDO} is damaged; delete it, and give force=true to begin anew") from error


def end_redo(folder: Path) -> None:
    """Forget a redo that is complete."""
    if all(stamp(folder, cell) not in (None, old) for cell, old in redo(folder).items()):
        (folder / REDO).unlink(missing_ok=True)


def _sealed(archive: bytes) -> bytes:
    """An archive with its seal as the comment, whose length is an archive's last two bytes."""
    body = archive[:-2] + (STAMP + DIGEST).to_bytes(2, "little") + secrets.token_hex(STAMP // 2).encode()
    return body + hashlib.sha256(body).hexdigest().encode()


def _unsealed(content: bytes) -> bytes:
    """The same bytes; ValueError where they are not those that were sealed."""
    if hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != content[-DIGEST:]:
        raise ValueError("its checksum is wrong")
    return content


def _parse_cell(content: bytes) -> CellResult:
    with np.load(io.BytesIO(content), allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    extras = {name.removeprefix("extra_"): arrays.pop(name) for name in list(arrays) if name.startswith("extra_")}
    description = json.loads(str(arrays.pop("description")))
    words: dict[str, Any] = {key: tuple(str(w) for w in arrays.pop(key)) for key in ("metrics", "models", "estimates")}
    return CellResult(description=description, extras=extras, **words, **arrays)


def write_results(folder: Path, cells: Iterable[CellResult]) -> None:
    """``results.parquet`` and ``results.csv``: one row per run, at its horizon.

    Columns whose values are of different kinds, such as numbers and words, hold text in both files. In the CSV file
    alone, text that a spreadsheet would run as a formula begins with an apostrophe (:data:`_FORMULA`).
    """
    tables = _unified([_table(cell) for cell in cells])
    table = pa.concat_tables(tables, promote_options="permissive")
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    write_atomically(folder / "results.parquet", sink.getvalue().to_pybytes())
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(_without_formulas(table), sink)
    write_atomically(folder / "results.csv", sink.getvalue().to_pybytes())


_FORMULA = r"^[=+\-@\t\r]"  # the beginnings of text that spreadsheets run, or that hide such a beginning


def _without_formulas(table: pa.Table) -> pa.Table:
    """A table whose texts begin with an apostrophe where they would begin like a formula; numbers stay as they are."""
    for place, column in enumerate(table.columns):
        if pa.types.is_string(column.type):
            safe = pa.compute.replace_substring_regex(column, _FORMULA, r"'\0")
            table = table.set_column(place, table.column_names[place], safe)
    return table


def _unified(tables: list[pa.Table]) -> list[pa.Table]:
    """Tables whose columns of one name have types that go together: text where they would not."""
    kinds: dict[str, set[str]] = {}
    for table in tables:
        for column in table.schema:
            kinds.setdefault(column.name, set()).add(_kind(column.type))
    mixed = {name for name, found in kinds.items() if len(found - {"null"}) > 1 or "other" in found}
    return [
        pa.table({name: _spelt(table[name]) if name in mixed else table[name] for name in table.column_names})
        for table in tables
    ]


def _kind(kind: pa.DataType) -> str:
    """What goes together in one column."""
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return str(kind) if kind in (pa.null(), pa.string(), pa.bool_()) else "other"


def _spelt(column: pa.ChunkedArray) -> pa.Array:
    """A column as text: words as they are, everything else as JSON."""
    values = column.to_pylist()
    words = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
    return pa.array(words, pa.string())


_DESCRIBED = (
    *("cell", "policy", "deployment", "env", "demand", "forecaster", "num_models", "horizon"),
    *("budget", "budget_per_task", "target", "benchmark_feasible"),
)


def _table(cell: CellResult) -> pa.Table:
    runs = len(cell.seeds)
    columns: dict[str, Any] = {name: [cell.description[name]] * runs for name in _DESCRIBED}
    columns |= {axis: [value] * runs for axis, value in cell.description["swept"].items() if axis not in columns}
    columns["seed"] = cell.seeds
    renamed = {"demand": "demand_total"}
    columns |= {renamed.get(name, name): cell.final(name) for name in cell.metrics}
    columns["spent"] = cell.final("spent_money") if "spent_money" in cell.metrics else np.zeros(runs)
    return pa.table(columns)


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """``summary.json``."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / "summary.json", text.encode())
