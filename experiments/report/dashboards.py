"""Where results are also told: JSON lines, always on, and Weights & Biases, written from stored results."""

import hashlib
import math
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from envs.errors import InputError, nearest
from experiments import interrupt
from experiments.report.scaling import ExponentFit
from experiments.report.summary import CellSummary, ExponentSummary, Interval, Summary, metric_band
from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo
from experiments.results.events import EventLog, plain
from experiments.results.layout import study_digest
from experiments.results.metrics import METRICS
from experiments.results.tables import described, run_columns

MODES = ("offline", "online", "disabled", "shared")


_OLD_MODES = {"dryrun": "offline", "run": "online"}  # that WANDB_MODE may still say


PATIENCE_SECONDS = 30  # with a server that does not answer


MOST_ROWS = 10_000  # of a W&B table, which becomes slow to look at beyond


MOST_MODELS = 20  # whose shares are drawn one by one


_TRACKERS = {"jsonl": {"name"}, "wandb": {"name", "project", "entity", "mode", "tags"}}


_LONGEST_NAME = 128  # that W&B takes, of a run or a group


class _NotWritableError(InputError):
    """W&B's files have no place."""


@dataclass(frozen=True, kw_only=True)
class WandbSettings:
    """Where and how W&B runs are written."""

    project: str = "llm-bandits"
    entity: str | None = None  # None: the account's default
    group: str = "study"  # begins the name of the W&B group; the study's digest ends it
    tags: tuple[str, ...] = ()
    mode: str | None = None  # of MODES; None: offline
    folder: Path | None = None  # W&B's files go to its subfolder "wandb"; None: the results folder


@dataclass(frozen=True, kw_only=True)
class WandbOutcome:
    """What came of writing to W&B."""

    mode: str | None  # None: it could not be made out
    runs: int  # finished
    folder: Path | None  # of W&B's own files; None where there are none
    sync_command: str | None  # uploads offline runs
    url: str | None  # of the project, when online
    error: str | None  # one sentence
    missing: str | None = None  # a clause about numbers that a sweep's search may be waiting for

    @property
    def sentence(self) -> str:
        """What to tell the user."""
        if self.error:
            return f"{self.error} (the results are complete without)"
        if self.mode == "disabled":
            return "switched off"
        runs = f"{self.runs} run{'s' if self.runs != 1 else ''}" + (f", {self.missing}" if self.missing else "")
        if self.sync_command:
            return f"{runs}; to upload: {self.sync_command}"
        return runs + (f": {self.url}" if self.url else "")


def settings_from(tracker_config: Mapping[str, Any], study: str, folder: Path) -> WandbSettings | None:
    """Validated settings of ``tracker=wandb``; None for ``tracker=jsonl``.

    Raises:
        InputError: an unknown tracker or key, a value of the wrong kind, or a mode that does not exist, in the
            configuration or in WANDB_MODE.
    """
    name = tracker_config.get("name")
    if not isinstance(name, str) or name not in _TRACKERS:
        raise InputError(f"tracker.name: there is no tracker {name!r}; {nearest(str(name), list(_TRACKERS))}")
    for key in tracker_config:
        if key not in _TRACKERS[name]:
            raise InputError(f"tracker: unknown key {key!r} for {name}; {nearest(str(key), sorted(_TRACKERS[name]))}")
    return wandb_settings(tracker_config, study, folder) if name == "wandb" else None


def wandb_settings(tracker_config: Mapping[str, Any], study: str, folder: Path) -> WandbSettings:
    """Validated settings of W&B; InputError for a value of the wrong kind or a mode that does not exist."""
    mode = tracker_config.get("mode")
    resolve_mode(mode, os.environ)
    return WandbSettings(
        project=_project(tracker_config.get("project", WandbSettings.project)),
        entity=_entity(tracker_config.get("entity")),
        group=study,
        tags=_configured_tags(tracker_config.get("tags")),
        mode=mode,
        folder=folder,
    )


def resolve_mode(configured: str | None, environ: Mapping[str, str]) -> str:
    """The mode: WANDB_MODE, else the configured one, else offline. Never changed later: W&B cannot fall back [1].

    A trial of a W&B sweep is online unless it is told otherwise: the sweep's server waits for it.

    [1] https://github.com/wandb/wandb/issues/9865

    Raises:
        InputError: either names a mode that does not exist.

    Example:
        >>> resolve_mode("online", {}), resolve_mode("online", {"WANDB_MODE": "dryrun"}), resolve_mode(None, {})
        ('online', 'offline', 'offline')
    """
    usual = "online" if environ.get("WANDB_SWEEP_ID") else "offline"
    configured = usual if configured is None else _mode(configured, "tracker.mode")
    return _mode(environ.get("WANDB_MODE") or configured, "WANDB_MODE")


def _mode(given: Any, where: str) -> str:
    if not isinstance(given, str) or given not in (*MODES, *_OLD_MODES):
        raise InputError(f"{where}: there is no mode {given!r}; {nearest(str(given), list(MODES))}")
    return _OLD_MODES.get(given, given)


def sync_wandb(
    cells: Sequence[CellResult],
    config: Mapping[str, Any],
    summary: Summary,
    results_folder: Path,
    settings: WandbSettings,
    log: EventLog,
) -> WandbOutcome:
    """Write one W&B run a cell and one for the whole study, from results alone.

    Runs have the same ids whenever this is called again, and offline the folders of the earlier call are replaced. No
    error of W&B's is raised: the first ends the writing, is logged and returned. KeyboardInterrupt passes through.

    Started by the agent of a W&B sweep, this process is one trial: the run of the whole study is written under the
    agent's id, and no others, because W&B gives every run of such a process that one id.

    Args:
        cells: all cells of the study.
        config: the resolved configuration; git revision under "versions", if known.
        summary: :func:`experiments.report.summary.summarise` of the cells.
        results_folder: holds the PNG files of figures/, results.parquet and summary.json, as far as they exist.
        settings: where to write.
        log: gets one event "wandb", with the error if there was one.
    """
    began = perf_counter()
    study = _Study(config=config, summary=summary, results_folder=Path(results_folder), settings=settings)
    mode, error = None, None
    try:
        mode = resolve_mode(settings.mode, os.environ)
        if mode != "disabled":
            _write_runs(study, cells, mode)
    except Exception as failure:  # whatever W&B does, the results are safe
        again = f"llm-bandits-sync {shlex.quote(str(results_folder))}"
        if isinstance(failure, _NotWritableError):
            error = f"{_sentence(failure)}; {again} --dir FOLDER writes the runs elsewhere"
        else:
            later = f"; {again} writes the runs later, with --mode offline also without a network"
            error = _sentence(failure) + (later if mode else "")
    outcome = WandbOutcome(
        mode=mode,
        runs=study.runs,
        folder=study.folder if study.runs else None,
        sync_command=sync_command(study.folder) if study.runs and mode == "offline" else None,
        url=study.url,
        error=error,
        missing=_missing(summary) if study.trial is not None else None,
    )
    log.write("wandb", **vars(outcome), seconds=round(perf_counter() - began, 3))
    return outcome


def sync_command(folder: Path) -> str:
    """The shell line that uploads all offline runs in a folder of W&B's, relative to the working directory if below."""
    shown = folder.resolve()
    with suppress(ValueError, OSError):
        shown = shown.relative_to(Path.cwd())
    text = str(shown)
    return f"wandb sync {shlex.quote(f'./{text}' if text.startswith('-') else text)}/offline-run-*"


def run_id(config: Mapping[str, Any], cell: str) -> str:
    """The W&B id of a cell's run: ``<study digest>-<first 12 of the cell id>``.

    Of cell ids that are not hex digits, whose beginnings may be equal, a digest is taken.
    """
    short = cell if re.fullmatch("[0-9a-f]{12,}", cell) else hashlib.sha256(cell.encode()).hexdigest()
    return f"{study_digest(config.get('config', config))}-{short[:12]}"


class _Study:
    """What all runs of one call share, and how far it got."""

    def __init__(self, *, config: Mapping[str, Any], summary: Summary, results_folder: Path, settings: WandbSettings):
        self.settings = settings
        self.results_folder = results_folder
        self.folder = Path(settings.folder or results_folder) / "wandb"
        self.config = config
        self.asked = config.get("config", config)
        self.digest = study_digest(config.get("config", config))
        self.summary = summary
        self.entries = {entry.info.cell: entry for entry in summary.cells}
        self.revision = _revision(config.get("versions"))
        self.trial = os.environ.get("WANDB_RUN_ID") if os.environ.get("WANDB_SWEEP_ID") else None
        self.runs = 0
        self.url: str | None = None


def _write_runs(study: _Study, cells: Sequence[CellResult], mode: str) -> None:
    """All cells, then the aggregate. Every error is the caller's to catch."""
    _make_writable(study.folder)
    # Silent also means that W&B never asks for a key in a terminal that nobody looks at.
    with _environment(WANDB_SILENT="true", WANDB_CACHE_DIR=study.folder / "cache"):
        import wandb

        for cell in interrupt.looking(cells if study.trial is None else ()):
            with _open_run(wandb, study, mode, **_cell_identity(study, cell)) as run:
                run.define_metric("*", step_metric="t")
                for row in history(cell):
                    run.log(row)
                run.summary.update(finals(cell, study.entries.get(cell.info.cell)))
        with (
            _open_run(wandb, study, mode, **_aggregate_identity(study, cells)) as run,
            _environment(WANDB_DATA_DIR=Path(run.dir).parent),  # where files on their way to an artifact wait
        ):
            _write_aggregate(wandb, run, study, cells)


def _make_writable(folder: Path) -> None:
    """W&B itself would quietly write somewhere else."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise _NotWritableError(f"cannot write to {folder}: {error.strerror or error}") from error


@contextmanager
def _open_run(wandb: Any, study: _Study, mode: str, **identity: Any) -> Iterator[Any]:
    """A run that is finished whatever happens; an earlier offline copy of it is removed once this one is whole."""
    earlier = _offline_folders(study.folder, study.trial or identity["id"])
    if study.trial is None:
        identity |= {"project": study.settings.project, "entity": study.settings.entity}
    else:
        del identity["id"]  # the agent's, as are project and entity
    run = wandb.init(
        group=f"{study.settings.group[: _LONGEST_NAME - 9]}-{study.digest}",
        dir=str(study.folder.parent),
        mode=mode,
        reinit="create_new",  # leaves a run of the calling script alone
        settings=_quiet_settings(wandb),
        **identity,
    )
    try:
        yield run
        if mode in ("online", "shared") and run.url:
            study.url = run.url.rpartition("/runs/")[0] or run.url
    except BaseException:
        with suppress(Exception):
            run.finish(exit_code=1)
        raise
    run.finish()
    study.runs += 1
    for folder in earlier:
        if folder.resolve() != Path(run.dir).parent.resolve():  # older versions write twice into one within a second
            shutil.rmtree(folder, ignore_errors=True)


def _offline_folders(folder: Path, identity: str) -> list[Path]:
    pattern = re.compile(rf"offline-run-\d+_\d+-{re.escape(identity)}(-\d+)?")
    return [path for path in folder.iterdir() if pattern.fullmatch(path.name) and not path.is_symlink()]


def _quiet_settings(wandb: Any) -> Any:
    """No console capture, machine statistics, code or git: a run holds results, which know where they come from."""
    wanted = {
        "console": "off",
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "init_timeout": PATIENCE_SECONDS,
        "login_timeout": PATIENCE_SECONDS,
        "save_code": False,
        "silent": True,
        "x_disable_machine_info": True,
        "x_disable_stats": True,
        "x_save_requirements": False,
    }
    known = getattr(wandb.Settings, "model_fields", wanted)  # those that begin with x_ may go at any time
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


@contextmanager
def _environment(**values: object) -> Iterator[None]:
    """Environment variables for a while, where the user has not set them."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: str(values[name]) for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _cell_identity(study: _Study, cell: CellResult) -> dict[str, Any]:
    about = cell.info
    return {
        "id": run_id(study.config, about.cell),
        "job_type": "cell",
        "name": _cell_name(about, study.entries.get(about.cell)),
        "tags": _tags(about.policy, about.env, study.revision, *study.settings.tags),
        "config": _made_of(cell) | {"models": list(cell.models), "asked": plain(study.asked)},
    }


def _made_of(cell: CellResult) -> dict[str, Any]:
    """What a cell is and what it was made of, flat, with the text of a user's files."""
    groups = ("parameters", "sources", "versions", "swept")
    texts = {f"sources.{kind}.text": source.get("text") for kind, source in cell.info.sources.items()}
    found = {name: value for name, value in cell.info.to_json().items() if name not in groups} | described(cell.info)
    return plain(found | {name: text for name, text in texts.items() if text is not None} | {"runs": len(cell.seeds)})


def _aggregate_identity(study: _Study, cells: Sequence[CellResult]) -> dict[str, Any]:
    worlds = sorted({str(cell.info.env) for cell in cells})
    return {
        "id": f"{study.digest}-aggregate",
        "job_type": "aggregate",
        "name": f"{study.settings.group}: all cells"[:_LONGEST_NAME],
        "tags": _tags(*worlds, study.revision, *study.settings.tags),
        "config": {"cells": len(cells), "asked": plain(study.asked)},
    }


def _cell_name(about: CellInfo, entry: CellSummary | None) -> str:
    """For example "ucb (step_size=0.1) | no target | T=4000 | 0.002 USD a task"."""
    parts = [about.policy] if entry is None else [entry.label, entry.setting]
    parts.append(f"T={about.horizon}")
    budget = about.budget_per_task
    parts.append("no budget" if budget is None else f"{budget:.4g} USD a task")
    return " | ".join(part for part in parts if part)[:_LONGEST_NAME]


def _tags(*words: Any) -> list[str]:
    """Distinct tags of at most 64 characters, W&B's limit."""
    return list(dict.fromkeys(str(word)[:64] for word in words if word))


def _revision(versions: Any) -> str | None:
    """The first seven digits of the git revision among the versions."""
    for name, value in versions.items() if isinstance(versions, Mapping) else ():
        if re.search("git|revision|commit", str(name)) and re.match("[0-9a-f]{7}", str(value)):
            return str(value)[:7]
    return None


def history(cell: CellResult) -> list[dict[str, float]]:
    """A row a evaluation round: ``t``, ``<metric>/mean|ci_low|ci_high`` over runs, and ``share/<model>`` of few models.

    Values that are not finite are left out; runs that are not finite do not count.
    """
    columns: dict[str, np.ndarray] = {}
    for name, band in _bands(cell).items():
        columns |= {f"{name}/{end}": line for end, line in zip(("mean", "ci_low", "ci_high"), band, strict=True)}
    if len(cell.models) <= MOST_MODELS:
        columns |= {f"share/{model}": cell.share[:, number] for number, model in enumerate(cell.models)}
    rows = []
    for number, rounds in enumerate(cell.eval_rounds):
        row = {name: float(line[number]) for name, line in columns.items() if math.isfinite(line[number])}
        rows.append({"t": int(rounds)} | row)
    return rows


def finals(cell: CellResult, entry: CellSummary | None) -> dict[str, Any]:
    """The summary of a cell's run under stable names: ``final/...``, ``coverage/<quantity>`` and ``wall_s``.

    Sums are ``final/regret_mean``, shares ``final/reward_share``; both have ``_low`` and ``_high``. The numbers are
    those of ``summary.json``; without its entry they are made from the curves.
    """
    values: dict[str, Any] = {}
    for name, (mean, low, high) in _bands(cell).items():
        values |= _final_values(name, Interval(mean=mean[-1], low=low[-1], high=high[-1]))
    if entry is not None:
        for name, interval in entry.metrics.items():
            values |= _final_values(name, interval)
        values |= {"final/runs_failed": entry.runs_failed}
        values |= {"final/violation_positive_share": entry.violation_positive_share}
    for number, quantity in enumerate(cell.estimates):
        held = cell.coverage[-1, :, number]
        held = held[np.isfinite(held)]
        values[f"coverage/{quantity}"] = held.mean() if len(held) else None
    values["wall_s"] = cell.info.wall_s
    return {name: value for name, value in plain(values).items() if value is not None}


def _final_values(name: str, interval: Interval) -> dict[str, Any]:
    names = {METRICS.find(name).mean_name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
    return {f"final/{name}": value for name, value in names.items()}


def _bands(cell: CellResult) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """[E] mean, low and high of every metric that applies to the cell."""
    curves = {metric.name: metric.curve(cell) for metric in METRICS.of(cell.metrics)}
    return {name: _finite_band(cell, name, curve) for name, curve in curves.items() if curve is not None}


def _finite_band(cell: CellResult, name: str, curve: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`metric_band` of [R, E] that passes over values that are not finite."""
    finite = np.isfinite(curve)
    if finite.all() and len(curve):
        return metric_band(cell, name, curve)
    bands = np.full((3, curve.shape[1]), np.nan)
    for column in np.flatnonzero(finite.any(axis=0)):
        bands[:, column] = np.ravel(metric_band(cell, name, curve[finite[:, column], column : column + 1]))
    return bands[0], bands[1], bands[2]


def _write_aggregate(wandb: Any, run: Any, study: _Study, cells: Sequence[CellResult]) -> None:
    """Tables, exponents, figures and files of the whole study."""
    from experiments.report.figures.gallery import read_index  # brings matplotlib with it

    columns, rows = run_table(cells)
    exponents = _exponents(study.summary)
    tables = {
        "runs": (columns, rows),
        "cells": _as_table(_cell_entries(study.summary)),
        "exponents": _as_table(exponents),
    }
    shown: dict[str, Any] = {name: _table(wandb, *table) for name, table in tables.items() if table[1]}
    for figure in read_index(study.results_folder / "figures"):
        if figure.png.is_file():
            shown[f"figures/{figure.name}"] = wandb.Image(str(figure.png), caption=figure.caption)
    run.log(shown | study_values(study.summary))
    total = sum(len(cell.seeds) for cell in cells)
    run.summary.update({"table/runs_shown": len(rows), "table/runs_total": total} | _fit_values(exponents))
    files = [study.results_folder / name for name in ("results.parquet", "summary.json", "report.html", "tables.md")]
    if any(file.is_file() for file in files):
        artifact = wandb.Artifact(f"results-{study.digest}", type="results")
        for file in files:
            if file.is_file():
                artifact.add_file(str(file))
        run.log_artifact(artifact)


def _table(wandb: Any, columns: list[str], rows: list[list[Any]]) -> Any:
    """A W&B table whose types are learned from one typical row: its own check of every row takes 0.3 ms each.

    Columns that mix words and numbers become words.
    """
    typical: list[Any] = []
    for number in range(len(columns)):
        found = [row[number] for row in rows if row[number] is not None]
        if len({str if isinstance(value, (str, list, dict)) else type(value) in (int, float) for value in found}) > 1:
            rows = [[*row[:number], str(row[number]), *row[number + 1 :]] for row in rows]
            found = ["words"]
        typical.append(found[0] if found else None)
    table = wandb.Table(columns=columns, data=[typical])
    table.data = rows
    return table


def study_values(summary: Summary) -> dict[str, Any]:
    """One number a metric for the whole study under stable names, ``study/regret_mean`` and so on.

    The means of the one cell of a learning policy at the longest horizon; what a W&B sweep may minimise or maximise.
    Where several policies, budgets or settings are learned in at that horizon there are none of these numbers: a mean
    over a mixture would compare nothing.
    """
    values: dict[str, Any] = {"study/cells": len(summary.cells), "study/planned": summary.planned}
    learning = _learning(summary)
    if len(learning) == 1:
        for metric in METRICS.summarised():
            values[f"study/{metric.mean_name}"] = learning[0].mean(metric.name)
    return {name: value for name, value in values.items() if value is not None}


def _missing(summary: Summary) -> str | None:
    """Why a sweep's search finds no ``study/<metric>``; None where it does."""
    count = len(_learning(summary))
    if count == 1:
        return None
    return f"without study/<metric> for the search: {count} cells learn at the longest horizon, and one can be compared"


def _learning(summary: Summary) -> list[CellSummary]:
    """The cells of learning policies at the longest horizon."""
    return [entry for entry in summary.longest if not entry.info.clairvoyant]


def _cell_entries(summary: Summary) -> list[dict[str, Any]]:
    """One flat entry a cell: what it is, and each metric's mean with its interval."""
    flat = []
    for entry in summary.cells:
        about = entry.info
        found: dict[str, Any] = {
            "cell": about.cell,
            "label": entry.label,
            "setting": entry.setting,
            "policy": about.policy,
        }
        found |= {"budget_per_task": about.budget_per_task, "horizon": about.horizon, "num_models": about.num_models}
        found |= {"target": about.target, "runs": entry.runs}
        for name in (metric.name for metric in METRICS.summarised()):
            interval = entry.metrics.get(name) or Interval(mean=math.nan, low=None, high=None)
            found |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        flat.append(plain(found))
    return flat


def _as_table(entries: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of entries with equal names, without the columns that hold nothing."""
    names = [name for name in (entries[0] if entries else ()) if any(entry[name] is not None for entry in entries)]
    return names, [[entry[name] for name in names] for entry in entries]


def run_table(cells: Sequence[CellResult]) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows of one run each, named as in ``results.parquet``.

    At most :data:`MOST_ROWS`: of larger studies the first runs of every cell, equally many of each.
    """
    if not cells:
        return ["cell"], []
    total = sum(len(cell.seeds) for cell in cells)
    most = None if total <= MOST_ROWS else max(1, MOST_ROWS // len(cells))
    entries = [entry for cell in cells for entry in _run_entries(cell, most)][:MOST_ROWS]
    columns = list(dict.fromkeys(name for entry in entries for name in entry))
    return columns, [[entry.get(name) for name in columns] for entry in entries]


def _run_entries(cell: CellResult, most: int | None) -> list[dict[str, Any]]:
    about = plain(described(cell.info))
    lines = run_columns(cell)
    return [
        about | {"seed": int(seed)} | {name: plain(line[run]) for name, line in lines.items()}
        for run, seed in enumerate(cell.seeds[:most])
    ]


def _exponents(summary: Summary) -> list[dict[str, Any]]:
    """One flat entry for each fit that has a slope."""
    flat = []
    for entry in summary.exponents:
        for metric, fit in entry.fits.items():
            if fit is not None and fit.has_slope:
                flat.append(plain(_exponent(entry, metric, fit)))
    return flat


def _exponent(entry: ExponentSummary, metric: str, fit: ExponentFit) -> dict[str, Any]:
    about = ("policy", "deployment", "forecaster", "env", "demand", "num_models", "target")
    found = {"label": entry.label} | {name: getattr(entry.info, name) for name in about}
    found |= {"setting": entry.setting, "budget_per_task": entry.budget_per_task, "metric": metric}
    for name, slope, ends in (("slope", fit.slope, fit.interval), ("tail_slope", fit.tail_slope, fit.tail_interval)):
        found |= {name: slope, f"{name}_low": ends[0], f"{name}_high": ends[1]}
    found |= {"expected": fit.expected, "verdict": fit.verdict}
    return found | {"horizons": len(fit.horizons), "note": fit.note}


def _fit_values(exponents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """``fit/<policy>[/<setting>][/<budget>]/<metric>/slope`` and its neighbours; a slash in a name becomes %2F."""
    values: dict[str, Any] = {}
    for fit in exponents:
        budget = fit["budget_per_task"]
        parts = [fit["label"] or fit["policy"], fit["setting"], None if budget is None else f"{budget:.6g}"]
        prefix = "/".join(["fit", *(_key_part(str(part)) for part in parts if part), fit["metric"]])
        for name in ("slope", "slope_low", "slope_high", "tail_slope", "tail_slope_low", "tail_slope_high", "verdict"):
            if fit[name] is not None:
                values[f"{prefix}/{name}"] = fit[name]
    return values


def _key_part(name: str) -> str:
    """A name within a key, whose slashes are W&B's separators."""
    return name.replace("%2F", "%252F").replace("/", "%2F")


def _sentence(error: Exception) -> str:
    """One line about an error that W&B, the disk or the network made."""
    if isinstance(error, ModuleNotFoundError) and error.name == "wandb":
        return "wandb is not installed; pip install wandb"
    text = " ".join(str(error).split())
    if isinstance(error, InputError):
        return text
    text = text.partition(" Consider increasing the init_timeout")[0]
    return f"{type(error).__name__}: {text}"[:300].rstrip(": .")


def _project(value: Any) -> str:
    if not isinstance(value, str) or not value or len(value) > 128 or re.search(r"[/\\#?%:]", value):
        raise InputError(f"tracker.project: {value!r} is no project name; up to 128 characters without / \\ # ? % :")
    return value


def _entity(value: Any) -> str | None:
    if value is not None and (not isinstance(value, str) or not value or "/" in value):
        raise InputError(f"tracker.entity: {value!r} is no W&B user or team; a name, or null for your default")
    return value


def _configured_tags(value: Any) -> tuple[str, ...]:
    tags = [] if value is None else value
    if isinstance(tags, str) or not isinstance(tags, Sequence):
        raise InputError(f"tracker.tags: {value!r} is no list; give it in brackets, e.g. [pilot]")
    for tag in tags:
        if not isinstance(tag, str) or not 1 <= len(tag) <= 64:
            raise InputError(f"tracker.tags: {tag!r} is no tag; tags are words of up to 64 characters")
    return tuple(tags)
