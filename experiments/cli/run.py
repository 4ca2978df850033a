"""The command line: ``llm-bandits [study=NAME] [key=value ...]``, a Hydra application."""

import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from envs import files
from envs.errors import InputError, nearest
from experiments.cli import display, opening, variables
from experiments.config.axes import SHORT_AXES, SWEPT_GROUPS
from experiments.jobs import launch
from experiments.results import layout, study_folder

if TYPE_CHECKING:
    from experiments.config.cells import Cell
    from experiments.config.study import StudyConfig
    from experiments.report.dashboards import WandbSettings

FLAGS = (
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
    *("-h", "-c", "-p", "-r", "-i", "-sc", "-cp", "-cn", "-cd"),
    *launch.FLAGS,
)
_VALUES: dict[str, tuple[str, ...]] = {  # that flags take; () for any
    **dict.fromkeys(("--cfg", "-c"), ("job", "hydra", "all")),
    **dict.fromkeys(("--info", "-i"), ("", "all", "config", "defaults", "defaults-tree", "plugins", "searchpath")),
    **dict.fromkeys(("--config-path", "-cp", "--config-name", "-cn", "--config-dir", "-cd"), ()),
    **dict.fromkeys(("--package", "-p", "--experimental-rerun"), ()),
}
# Names and paths, which Hydra's grammar would stumble on or read as numbers; those with a True may also be null.
FREE_TEXT = {
    **{"out": True, "demand.path": True, "tracker.entity": True},
    **{"name": False, "env.catalogue": False, "demand.column": False, "tracker.project": False},
}
GROUPS = ("env", "demand", "forecaster", "sweep", "tracker", "study")
_MOST_NAMED = 4  # cells that failed alike
_NO_NAMES = ("null", "true", "false", "nan", "inf")  # to Hydra

_LONGEST = 400  # characters of a sentence about arguments
# What Hydra says, and what we say; {0} and so on are the pattern's groups.
_HYDRA = {
    r"Ambiguous value for argument '\+*(([^=']*)=([^']*))'": "{0} is ambiguous; a list is written {1}=[{2}]",
    r"(.)requires --multirun": "a sweep is a list in brackets, as in sweep.horizon=[10,20]; several shards need -m, "
    "see docs/cluster.md",
    r"Error merging override \+*(.*?)( [A-Z].*)?$": "{0} does not fit what is there; {hint}",
    r"An item is already at '([^']*)'": "+{0}: there is such a key already; write {0}=VALUE, without the +",
    r"Could not delete from config\. '([^']*)' does not exist": "~{0}: there is no such key; {hint}",
    r"Multiple values for ([\w/@]+(?:\.\w+)*)": "{0} is given more than once; write {0}=NAME, once and without a +",
    r"config groups is not supported: '\+\+([\w/@.]+)=": "{0} is the name of a file in conf; write {0}=NAME",
    r"Could not override '([\w/.]+@[\w.]+)'": "{0}: there is none to replace; another world is +env@worlds.NAME=FILE, "
    "another demand +demand@demands.NAME=FILE",
    r"Could not override '(hydra[./][^']*)'": "{0}: Hydra has no such key; its documentation lists them",
    r"Could not override '([^']*)'": "{0}: there is no such key; {hint}",
    r"Could not delete '([^']*)'\. No match": "~{0}: there is none to remove; --help lists what there is",
    r"Config group override must be a string or a list\. Got (\w+)": "the name of a file in conf is text, not {0}",
}


def main() -> None:
    """Entry point. Exit codes: 0 done, 1 some cells failed, 2 bad input, 130 interrupted, 143 terminated."""
    try:
        variables.check()
        sys.argv[1:] = open_overrides(sys.argv[1:])
        if any(flag in sys.argv[1:] for flag in ("--help", "-h")):
            variables.import_jax()
            from experiments.cli import help as help_page  # brings JAX with it

            print(help_page.page())
        elif launch.is_asked_for(sys.argv[1:]):
            _launch()
        else:
            _app()
    except (InputError, HydraException, OmegaConfBaseException) as error:
        raise SystemExit(_refused(error)) from None
    except Exception as error:
        if not _raised_by_hydra(error):
            raise
        raise SystemExit(_refused(error)) from None
    except KeyboardInterrupt:  # before anything was begun
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def open_overrides(arguments: Sequence[str]) -> list[str]:
    """Make ``key=value`` mean what people expect.

    Every key is let through to our own validation, which knows the nearest right one, also where Hydra has none of that
    name. A value given directly (``horizon=500``) takes the place of a study's sweep over it.
    """
    short_axis = {path: axis for axis, path in SHORT_AXES.items()}
    opened, given = [], {argument.partition("=")[0] for argument in arguments}
    for argument, following in zip(arguments, (*arguments[1:], ""), strict=False):
        key, equals, value = argument.partition("=")
        if key in _VALUES:
            _check_flag(key, value if equals else following)
        if not key or len(key) > _LONGEST or (key.startswith("-") and key not in FLAGS):
            shown = _bounded(argument)
            raise InputError(f"cannot read the argument {shown!r}; write key=value, or --help for what there is")
        if re.search(rf"\d{{{_LONGEST}}}", value):
            raise InputError(f"{key} holds a number of more than {_LONGEST} digits; write it as 1e6")
        if key == "hydra":
            raise InputError(f"{argument}: Hydra's own keys have a dot, as in hydra.verbose=true")
        if key in GROUPS and (value.lower() in _NO_NAMES or not re.fullmatch(r"[A-Za-z_]\w*", value)):
            raise InputError(f"{argument}: {key} must be the name of a file in conf/{key}; --help lists them")
        own = equals and re.fullmatch(r"[A-Za-z_][\w.]*", key) and key not in GROUPS and not key.startswith("hydra.")
        verbatim = key not in FREE_TEXT or value == "" or (value == "null" and FREE_TEXT[key])
        opened.append(f"++{key}={value if verbatim else launch.quoted(value)}" if own else argument)
        axis = f"sweep.{short_axis.get(key, key)}"
        group, dots = key.partition(".")[0], key.count(".")
        sweepable = key in short_axis or (group in SWEPT_GROUPS and dots == (2 if group == "policy" else 1))
        if own and sweepable and axis not in given:
            opened.append(f"++{axis}=null")
    return opened


def _check_flag(flag: str, value: str) -> None:
    """InputError where the value of a flag is missing or none that it takes."""
    options = _VALUES[flag]
    if "" in options and value.startswith("-"):
        return
    if options and value not in options:
        raise InputError(f"{flag} {value}: {flag} takes one of {', '.join(filter(None, options))}")
    if (not value and not options) or value.startswith("-"):
        raise InputError(f"{flag} needs a value, as --help shows")


def _refused(error: Exception) -> int:
    try:
        said = sentence(error)
    except InputError as other:  # hints need JAX, whose variables may be wrong, too
        said = str(other)
    # A path, say, may hold a line break or a terminal's control characters.
    text = re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], said)
    print(f"error: {text}", file=sys.stderr)
    return 2


def _raised_by_hydra(error: Exception) -> bool:
    """Some of its errors about arguments have no class of their own."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] in ("hydra", "omegaconf", "antlr4", "yaml")


def sentence(error: Exception) -> str:
    """One sentence for a configuration error."""
    if isinstance(error, InputError):
        return str(error)
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        if group == "hydra/launcher":
            return f"there is no launcher called {name!r} here; {launch.WHERE_FROM}"
        known = nearest(name, list(error.options)) if error.options else "--help lists what there is"
        return f"there is no {group or 'config'} called {name!r}; {known}"
    if isinstance(error, OverrideParseException):
        argument = _bounded(error.override.lstrip("+"))
        return f"cannot read the argument {argument!r}; write key=value, a list as key=[1,2], odd text in quotes"
    if isinstance(error, RecursionError):
        return "the arguments are nested too deeply; write lists and mappings as conf/ shows them"
    said = " ".join(str(error).split())
    for pattern, words in _HYDRA.items():
        if found := re.search(pattern, said):
            return _bounded(words.format(*found.groups(), **{"hint": _hint_for(found[1])}))
    if isinstance(error, OmegaConfBaseException):
        place = f"{error.full_key}: " if error.full_key else ""
        return _bounded(f"{place}{str(error).splitlines()[0]}; ${{...}} must name a key with its full path")
    return _bounded(said)


def _hint_for(argument: str) -> str:
    """What may have been meant by a key that Hydra does not know, or what kind of value a key must have."""
    variables.import_jax()
    from experiments.config import hints, schema

    key, equals, _ = argument.partition("=")
    group, _, inner = key.partition(".")
    if not equals:
        return hints.hint(inner, schema.ENV, "env.") if group == "env" else hints.hint(key, schema.TOP)
    kind = schema.ENV.get(inner) if group == "env" else schema.TOP.get(key)
    return f"it must be {kind.wanted}" if kind else "--help shows every key and its kind"


def _bounded(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


@hydra.main(version_base="1.3", config_path="pkg://conf", config_name="config")
def _app(configuration: DictConfig) -> None:
    from experiments import interrupt

    try:
        variables.check()  # a job's environment need not be that of the command
        with interrupt.signals(launch.notices(), _leave):
            plain: dict[str, Any] = OmegaConf.to_container(configuration, resolve=True)  # type: ignore[assignment]
            _say_opening(plain)
            variables.import_jax()
            code = execute(plain).code
    except (InputError, OmegaConfBaseException) as error:
        code = _refused(error)
    except KeyboardInterrupt:
        sys.stdout.flush()
        _leave()
    if code and HydraConfig.get().mode is not RunMode.MULTIRUN:  # a launcher takes a job that exits for lost
        raise SystemExit(code)


def _say_opening(plain: Mapping[str, Any]) -> None:
    """What is about to be done, before the imports that take seconds."""
    # As a display prints it: a name may hold a terminal's control characters, or what a stream cannot encode.
    if (line := opening.line(plain)) is not None:
        display.say(display.console(), line)


def _leave() -> NoReturn:
    """End an interrupted process at once: a compiled program cannot be told to stop. Every file is whole."""
    from experiments import interrupt

    kept = "finished cells and checkpoints are kept"
    print(f"interrupted; {kept}, and the same command goes on from there", file=sys.stderr, flush=True)
    os._exit(launch.hand_back(interrupt.exit_code()))


def _launch() -> None:
    """Check everything, start a job for each shard, and wait for them. Exits with 1 where cells are missing then."""
    asked = launch.read(sys.argv[1:])
    _say_opening(asked.plain)
    variables.import_jax()
    task = _understood(asked.plain)
    folder = task.folder.absolute()
    sys.argv[1:] = launch.completed(asked, folder)
    _begin_overwrite(task, folder)
    logs = folder / layout.JOBS
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

    settings: "StudyConfig"
    planned: "list[Cell]"
    folder: Path
    record: dict[str, Any]  # for the folder's config.yaml
    tracker: "WandbSettings | None"


def _understood(plain: dict[str, Any]) -> _Task:
    """InputError where something is wrong with the configuration, or with using its folder for it."""
    import jax

    from experiments.config import cells, rule_errors, sizes, sources
    from experiments.config.study import study_from
    from experiments.report import dashboards
    from experiments.results import study_record

    variables.use_devices()
    jax.config.update("jax_enable_x64", plain.get("precision") == "float64")
    with rule_errors.refused():
        settings = study_from(plain)
        planned = cells.build(settings)
    sizes.check(settings, planned)
    if settings.out:
        folder = files.reachable(settings.out, "out")
    else:
        folder = files.reachable(study_folder.default(plain), "name")
    # What this command does is not what its study is.
    recorded = settings.plain | {"force": False, "extend": False, "shard": None}
    record = {"config": recorded, "versions": sources.versions(), **cells.record(planned)}
    study_record.is_open(folder, record, extend=settings.extend)
    return _Task(
        settings=settings,
        planned=planned,
        folder=folder,
        record=record,
        tracker=dashboards.settings_from(settings.tracker, settings.name, folder),
    )


def _begin_overwrite(task: _Task, folder: Path) -> None:
    """With force=true: begun once, here, and gone on with by every job, also by one that is queued again."""
    from experiments.jobs import runner
    from experiments.results import study_record
    from experiments.results.leases import Leases

    if task.settings.force:
        study_record.open_folder(folder, task.record, extend=task.settings.extend)
        with Leases(folder) as leases:
            runner.begin_overwrite(task.planned, folder, leases)


@dataclass(frozen=True, kw_only=True)
class Executed:
    """How a study ended, and where."""

    code: int  # exit code: 0 done, 1 where cells failed or nothing could be published
    folder: Path
    failed: dict[str, str]  # cell id -> error


def execute(plain: dict[str, Any]) -> Executed:
    """Validate, simulate what is missing, and make everything that is made from results."""
    from experiments.engine import program_cache
    from experiments.jobs import runner, warning_log
    from experiments.results import events, study_record

    task = _understood(plain)
    settings, planned, folder = task.settings, task.planned, task.folder
    study_record.open_folder(folder, task.record, extend=settings.extend)
    log = events.EventLog(folder / "events.jsonl")
    console = display.console()
    study_record.write_plan(folder, planned, settings.seeds)
    live = display.Live(console, log)
    if problem := program_cache.enable(settings.program_cache):
        live.warn(problem)
        log.write("warning", text=problem, cells=[])
    published = True
    with warning_log.logged(log, live.warn):
        with live:
            outcome = runner.run(settings, planned, folder, log, live)
        if outcome.decisions:  # what vanished meanwhile is there again
            study_record.open_folder(folder, task.record, extend=settings.extend)
            study_record.write_plan(folder, planned, settings.seeds)
        try:
            if outcome.left:
                log.write("left", cells=outcome.left)
                others = f"others are at work on {outcome.left} cells, and make tables and report after the last"
                display.say(console, others)
            elif outcome.cells:
                from experiments.cli import publication  # with all that draws: not before there is something to draw

                make = publication.publish if settings.shard is None else publication.publish_in_turn
                make(outcome, settings, folder, task.tracker, log, console)
        except OSError as error:
            published = False
            reason = f"tables and report could not be written ({error.strerror or error})"
            print(f"error: {reason}; the cells are safe, and the same command makes the rest", file=sys.stderr)
            log.write("unpublished", error=reason)
    names = {cell.id: cell.config.policy.name for cell in planned}
    for line in _failures(outcome.failed, names):
        print(line, file=sys.stderr)
    return Executed(code=1 if outcome.failed or not published else 0, folder=folder, failed=outcome.failed)


def _failures(failed: Mapping[str, str], names: Mapping[str, str]) -> list[str]:
    """A line per cell; one for all cells of a policy that failed alike, where they are many."""
    alike: dict[tuple[str, str], list[str]] = {}
    for cell, text in failed.items():
        alike.setdefault((names[cell], text), []).append(cell)
    lines = []
    for (name, text), cells in alike.items():
        shown = [f"cell {cell}" for cell in cells] if len(cells) <= _MOST_NAMED else [f"{len(cells)} cells"]
        lines += [f"failed: {name}, {which}: {text}" for which in shown]
    return lines


if __name__ == "__main__":
    # Jobs look functions up by the name of their module, and this one has none when it is the program.
    from experiments.cli.run import main as imported

    imported()
