"""Results on disk: one atomic file a cell, and the tables made from them.

A cell's file is written once, whole, under a temporary name that ``os.replace`` makes final: it is there or it is not.
"""

import hashlib
import io
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import yaml

from envs.errors import InputError

CELLS = "cells"
CONFIG = "config.yaml"
# Where results go and how they are computed, not what they are.
NOT_IDENTITY = ("out", "tracker", "chunk_rows", "checkpoint_minutes")


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
    per task x demand so far)), spent_<resource>, violation_<metric>, dual_<resource or metric>. Money is in USD. All
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
    """Write a file whole or not at all."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def open_folder(folder: Path, record: dict[str, Any]) -> None:
    """Make the results folder, or check that it belongs to this very study.

    ``record`` is {"config": resolved configuration, "versions": ...}. InputError where the folder holds another study's
    results, or files that are no study's.
    """
    recorded = folder / CONFIG
    if recorded.is_file():
        differing = _differences(_recorded_config(recorded), record["config"])
        if differing:
            raise InputError(
                f"out: {folder} holds another study's results ({differing[0]}); give another folder with out=DIR"
            )
        (folder / CELLS).mkdir(exist_ok=True)
        return
    if folder.exists() and (not folder.is_dir() or any(path.name != CELLS for path in folder.iterdir())):
        raise InputError(f"out: {folder} is not empty and holds no study; give another folder with out=DIR")
    text = yaml.safe_dump(record, sort_keys=False, allow_unicode=True)
    try:
        (folder / CELLS).mkdir(parents=True, exist_ok=True)
        write_atomically(recorded, text.encode())
    except OSError as error:
        raise InputError(f"out: {folder} cannot be written ({error.strerror}); give another folder") from error


def _recorded_config(recorded: Path) -> dict[str, Any]:
    """The configuration of the study that a folder holds."""
    try:
        known = yaml.safe_load(recorded.read_text(encoding="utf-8"))
        return dict(known["config"])
    except (UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, ValueError) as error:
        raise InputError(f"out: {recorded} is no study's record; give another folder with out=DIR") from error


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
    write_atomically(cell_path(folder, result.description["cell"]), buffer.getvalue())


def read_cell(path: Path) -> CellResult:
    """A cell's results; ValueError names the file where it is damaged."""
    try:
        return _parse_cell(path)
    except (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}); delete it and run the study again") from error


def _parse_cell(path: Path) -> CellResult:
    with path.open("rb") as stream, np.load(stream, allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    extras = {name.removeprefix("extra_"): arrays.pop(name) for name in list(arrays) if name.startswith("extra_")}
    description = json.loads(str(arrays.pop("description")))
    words: dict[str, Any] = {key: tuple(str(w) for w in arrays.pop(key)) for key in ("metrics", "models", "estimates")}
    return CellResult(description=description, extras=extras, **words, **arrays)


def write_results(folder: Path, cells: Iterable[CellResult]) -> None:
    """``results.parquet`` and ``results.csv``: one row a run, at its horizon."""
    tables = [_table(cell) for cell in cells]
    table = pa.concat_tables(tables, promote_options="permissive")
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    write_atomically(folder / "results.parquet", sink.getvalue().to_pybytes())
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(table, sink)
    write_atomically(folder / "results.csv", sink.getvalue().to_pybytes())


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
