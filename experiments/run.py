"""The command line: ``llm-bandits [study=NAME] [key=value ...]``, a Hydra application."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from envs.errors import InputError, nearest
from experiments import compiler, launch
from experiments.config import SHORT_AXES, StudyConfig, study_from

if TYPE_CHECKING:
    from experiments.cells import Cell
    from experiments.trackers import WandbSettings

SHORT_AXIS = {path: axis for axis, path in SHORT_AXES.items()}
SWEPT_GROUPS = ("policy", "demand", "forecaster", "env")
FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
    *("-h", "-c", "-p", "-r", "-i", "-sc", "-cp", "-cn", "-cd"),
    *launch.FLAGS,
)
FREE_TEXT = ("out", "name", "env.catalogue", "demand.path")  # may hold what Hydra's grammar would stumble on
GROUPS = ("env", "demand", "policy", "forecaster", "sweep", "tracker", "study")


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 some cells failed, 2 bad input, 130 interrupted, 143 terminated."""
    compiler.prepare()
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors reach us instead of Hydra's own printer
    try:
        sys.argv[1:] = open_overrides(sys.argv[1:])
        if launch.is_asked_for(sys.argv[1:]):
            _launch()
        else:
            _app()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        raise SystemExit(_refused(error)) from None
    except KeyboardInterrupt:  # before anything was begun
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def open_overrides(arguments: Sequence[str]) -> list[str]:
    """Make ``key=value`` mean what people expect.

    Every key is let through to our own validation, which knows the nearest right one, also where Hydra has none of that
    name. A value given directly (``horizon=500``) takes the place of a study's sweep over it.
    """
    opened, given = [], {argument.partition("=")[0] for argument in arguments}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not key or (key.startswith("-") and key not in FLAGS):
            raise InputError(f"cannot read the argument {argument!r}; write key=value, or --help for what there is")
        if key in GROUPS and (value == "null" or not re.fullmatch(r"\w*[A-Za-z]\w*", value)):
            raise InputError(f"{argument}: {key} must be the name of a file in conf/{key}; --help lists them")
        own = equals and re.fullmatch(r"[A-Za-z_][\w.]*", key) and key not in GROUPS and not key.startswith("hydra.")
        opened.append(f"++{key}={launch.quoted(value) if key in FREE_TEXT else value}" if own else argument)
        axis = f"sweep.{SHORT_AXIS.get(key, key)}"
        sweepable = key in SHORT_AXIS or (key.count(".") == 1 and key.partition(".")[0] in SWEPT_GROUPS)
        if own and sweepable and axis not in given:
            opened.append(f"++{axis}=null")
    return opened


def _refused(error: Exception) -> int:
    print(f"error: {sentence(error)}", file=sys.stderr)
    return 2


def sentence(error: Exception) -> str:
    """One sentence for a configuration error."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher":
            return f"there is no launcher called {name!r} here; {launch.WHERE_FROM}"
        return f"there is no {group or 'config'} called {name!r}; {nearest(name, list(error.options or []))}"
    if isinstance(error, OverrideParseException):
        argument = error.override.lstrip("+")
        return f"cannot read the argument {argument!r}; write key=value, a list as key=[1,2], odd text in quotes"
    if isinstance(error, InputError):
        return str(error)
    ambiguous = re.match(r"Ambiguous value for argument '\+*([^']*)'", str(error))
    if ambiguous:
        key, _, value = ambiguous[1].partition("=")
        return f"{ambiguous[1]} is ambiguous; a list is written {key}=[{value}]"
    if isinstance(error, OmegaConfBaseException):
        return str(error).splitlines()[0]
    if "requires --multirun" in str(error):
        return "a sweep is a list in brackets, as in sweep.horizon=[10,20]; several shards need -m, see docs/cluster.md"
    merging = re.match(r"Error merging override \+*(.*)", str(error))
    if merging:
        return f"{merging[1].strip()} does not fit what is there; --help shows every key and its kind"
    return " ".join(str(error).split())


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def _app(configuration: DictConfig) -> None:
    from experiments import interrupt

    compiler.prepare()  # a job's environment need not be that of the command
    try:
        with interrupt.signals(launch.notices(), _leave):
            from experiments import hosts

            plain: dict[str, Any] = OmegaConf.to_container(configuration, resolve=True)  # type: ignore[assignment]
            with hosts.joined(plain.get("distributed")):
                code = execute(plain)
    except (InputError, OmegaConfBaseException) as error:
        code = _refused(error)
    except KeyboardInterrupt:
        sys.stdout.flush()
        _leave()
    if code and HydraConfig.get().mode is not RunMode.MULTIRUN:  # a launcher takes a job that exits for lost
        raise SystemExit(code)


def _leave() -> NoReturn:
    """End an interrupted process at once: a compiled program cannot be told to stop. Every file is whole."""
    from experiments import interrupt

    kept = "finished cells and saved carries are kept"
    print(f"interrupted; {kept}, and the same command goes on from there", file=sys.stderr, flush=True)
    os._exit(launch.hand_back(interrupt.exit_code()))


def _launch() -> None:
    """Check everything, start a job for each shard, and wait for them. Exits with 1 where cells are missing then."""
    from experiments import study_folder

    asked = launch.read(sys.argv[1:])
    task = _understood(asked.plain)
    folder = task.folder.absolute()
    sys.argv[1:] = launch.completed(asked, folder)
    _begin_redo(task, folder)
    logs = folder / study_folder.JOBS
    print(f"jobs: {len(asked.shards)} with {asked.launcher}; what they say: {logs}; how far they are: status {folder}")
    try:
        with launch.troubles():
            _app()
    except launch.LostJobError as error:
        print(f"error: {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"no longer waiting for the jobs, which may go on; results: {folder}", file=sys.stderr)
        raise SystemExit(130) from None
    wanted = {cell.id for cell in task.planned}
    missing = wanted - study_folder.fresh(folder)
    print(f"{len(wanted) - len(missing)} of {len(wanted)} cells are stored in {folder}")
    if missing:
        print(f"error: {len(missing)} cells are missing; {logs} and status {folder} tell why", file=sys.stderr)
        raise SystemExit(1)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """A configuration, understood and found good."""

    settings: StudyConfig
    planned: "list[Cell]"
    folder: Path
    record: dict[str, Any]  # for the folder's config.yaml
    tracker: "WandbSettings | None"


def _understood(plain: dict[str, Any]) -> _Task:
    """InputError where something is wrong with the configuration, or with using its folder for it."""
    import jax

    from experiments import cells, hosts, store, trackers

    jax.config.update("jax_enable_x64", plain.get("precision") == "float64")
    settings = study_from(plain)
    planned = cells.build(settings)
    folder = Path(settings.out).expanduser() if settings.out else _default_folder(settings.name, plain)
    # What this command does is not what its study is.
    recorded = plain | {"force": False, "extend": False, "shard": None, "distributed": None}
    record = {"config": recorded, "versions": versions(), "cells": " ".join(cell.id for cell in planned)}
    if hosts.leads():  # the others see nothing of the folder
        store.is_open(folder, record, extend=settings.extend)
    return _Task(
        settings=settings,
        planned=planned,
        folder=folder,
        record=record,
        tracker=trackers.settings_from(settings.tracker, settings.name, folder),
    )


def _begin_redo(task: _Task, folder: Path) -> None:
    """With force=true: begun once, here, and gone on with by every job, also by one that is queued again."""
    from experiments import store, study
    from experiments.claims import Claims

    if task.settings.force:
        store.open_folder(folder, task.record, extend=task.settings.extend)
        with Claims(folder) as claims:
            study.begin_redo(task.planned, folder, claims)


def execute(plain: dict[str, Any]) -> int:
    """Validate, simulate what is missing, and make everything that is made from results."""
    from experiments import display, hosts, publish, store, study, study_folder, trackers, warned

    task = _understood(plain)
    settings, planned, folder = task.settings, task.planned, task.folder
    if not hosts.leads():
        study.follow(settings, planned, folder)
        return 0
    store.open_folder(folder, task.record, extend=settings.extend)
    log = trackers.EventLog(folder / "events.jsonl")
    console = display.console()
    study_folder.write_plan(folder, planned, settings.seeds)
    live = display.Live(console, log)
    published = True
    with warned.logged(log, live.warn):
        with live:
            outcome = study.run(settings, planned, folder, log, live)
            hosts.leave()
        if outcome.decisions:  # what vanished meanwhile is there again
            store.open_folder(folder, task.record, extend=settings.extend)
            study_folder.write_plan(folder, planned, settings.seeds)
        try:
            if outcome.left:
                log.write("left", cells=outcome.left)
                console.print(f"others are at work on {outcome.left} cells, and make tables and report after the last")
            elif outcome.cells:
                make = publish.publish if settings.shard is None else publish.publish_in_turn
                make(outcome, settings, folder, task.tracker, log, console)
        except OSError as error:
            published = False
            reason = f"tables and report could not be written ({error.strerror or error})"
            print(f"error: {reason}; the cells are safe, and the same command makes the rest", file=sys.stderr)
            log.write("unpublished", error=reason)
    names = {cell.id: cell.config.policy.name for cell in planned}
    for cell, text in outcome.failed.items():
        print(f"failed: {names[cell]}, cell {cell}: {text}", file=sys.stderr)
    return 1 if outcome.failed or not published else 0


def _default_folder(name: str, plain: dict[str, Any]) -> Path:
    from experiments import store

    return Path("results") / f"{name}-{store.study_digest(plain)}"


def versions() -> dict[str, str]:
    """What computed the results."""
    import jax

    found = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax", "scipy")}
    found |= {"python": sys.version.split()[0], "device": str(jax.devices()[0].device_kind)}
    try:
        found["llm_bandits"] = metadata.version("llm-bandits")
    except metadata.PackageNotFoundError:
        found["llm_bandits"] = "not installed"
    here = Path(__file__).resolve().parent.parent
    if (here / ".git").exists():
        asked = subprocess.run(["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=False)
        found["git"] = asked.stdout.strip()
    return found


if __name__ == "__main__":
    # Jobs look functions up by the name of their module, and this one has none when it is the program.
    from experiments.run import main as imported

    imported()
