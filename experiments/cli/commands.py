"""The commands about a study's folder: ``llm-bandits-status``, ``-report``, ``-sync`` and ``-replay``."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from envs import files
from envs.errors import InputError
from experiments import interrupt

STATUS_CODES = "exit codes: 0 all done, 1 something failed, 2 bad input, 3 not all done yet"


class _Parser(argparse.ArgumentParser):
    """Refuses in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; --help shows what there is")


def status() -> NoReturn:
    """Entry point of ``llm-bandits-status``."""
    _leave(_status)


def report() -> NoReturn:
    """Entry point of ``llm-bandits-report``."""
    _leave(_report)


def sync() -> NoReturn:
    """Entry point of ``llm-bandits-sync``."""
    _leave(_sync)


def replay() -> NoReturn:
    """Entry point of ``llm-bandits-replay``."""
    _leave(_replay)


def _leave(command: Callable[[Sequence[str]], int]) -> NoReturn:
    """Run a command and leave with its exit code: 2 for bad input, 130 or 143 interrupted."""
    if hasattr(sys.stdout, "reconfigure"):  # what no encoding knows, in damaged files, is still shown
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        code = command(sys.argv[1:])
        sys.stdout.flush()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = interrupt.exit_code()
    except BrokenPipeError:  # whoever read has read enough
        sys.stderr.close()
        code = 0
    raise SystemExit(code)


def _leave_at_once() -> None:
    os._exit(interrupt.exit_code())


def _parser(name: str, description: str, epilog: str) -> _Parser:
    parser = _Parser(prog=f"llm-bandits-{name}", description=description, epilog=epilog, allow_abbrev=False)
    parser.add_argument("folder", type=_folder, metavar="DIR", help="the results folder of a study")
    return parser


def _status(arguments: Sequence[str]) -> int:
    from experiments.cli import status as states

    parser = _parser("status", "How far a study is, also while it runs, here or on another machine.", STATUS_CODES)
    parser.add_argument("--json", action="store_true", help="one JSON object, for scripts")
    parser.add_argument(
        *("--watch", "-w"), nargs="?", type=_seconds, const=2.0, metavar="SECONDS", help="again until nobody is at work"
    )
    given = parser.parse_args(arguments)
    folder, screen = given.folder, states.console()
    if given.watch is None:
        return states.tell(folder, screen, as_json=given.json).code
    return states.watch(folder, screen, given.watch, as_json=given.json).code


def _folder(text: str) -> Path:
    try:
        return files.reachable(text, "DIR")
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError("seconds must lie between 0.1 and 86400")
    return seconds


def _report(arguments: Sequence[str]) -> int:
    parser = _parser(
        "report",
        "Makes tables, summary, figures and report.html again from the stored results. No simulation, no network.",
        "exit codes: 0 done, 2 bad input; running it twice gives the same files",
    )
    folder = parser.parse_args(arguments).folder
    _import_jax()
    from experiments.cli import publication

    with interrupt.signals(leave=_leave_at_once):
        return publication.rebuild(folder)


def _import_jax() -> None:
    """Before what imports it; InputError names an environment variable that is wrong."""
    from experiments.cli import variables

    variables.check()
    variables.import_jax()


def _sync(arguments: Sequence[str]) -> int:
    parser = _parser(
        "sync",
        "Writes a study's Weights & Biases runs from the stored results; their ids never change.",
        "exit codes: 0 done, 1 Weights & Biases failed, 2 bad input; what is not given is taken from the study",
    )
    parser.add_argument("--mode", help="offline, online, disabled or shared; the environment variable WANDB_MODE wins")
    parser.add_argument("--project", help="the W&B project")
    parser.add_argument("--entity", help="W&B user or team")
    parser.add_argument("--dir", metavar="FOLDER", help="where the files of W&B go, if the results are read-only")
    given = parser.parse_args(arguments)
    elsewhere = None if given.dir is None else files.reachable(given.dir, "--dir")
    _import_jax()
    from experiments.cli import publication

    wanted = {name: getattr(given, name) for name in ("mode", "project", "entity")}
    options = {name: value for name, value in wanted.items() if value is not None}
    with interrupt.signals(leave=_leave_at_once):
        return publication.sync(given.folder, options, elsewhere)


def _replay(arguments: Sequence[str]) -> int:
    parser = _parser(
        "replay",
        "Simulates one run of a stored cell again and prints its final numbers and its curve, bit for bit as stored. "
        "The last bit may depend on the run's place in its batch, so the whole item of cells and seeds is simulated, "
        "as the study did it, and the run picked from it: this takes as long as the item took.",
        "exit codes: 0 every bit is as stored, 1 it is not (another jax, device or number of processes), 2 bad input, "
        "or code or files that are another version here",
    )
    parser.add_argument("cell", metavar="CELL", help="the cell's id, as in the tables and in cells/")
    parser.add_argument("--seed", type=int, required=True, help="which of its runs")
    parser.add_argument("--curve", type=Path, metavar="FILE", help="write the curve there, as CSV; else it is printed")
    given = parser.parse_args(arguments)
    from experiments.engine import compiler

    compiler.prepare()
    from experiments.jobs import replay

    if given.curve is not None:
        _write(given.curve.expanduser(), "")  # before anything is simulated
    found = replay.replay(given.folder.expanduser(), given.cell, given.seed)
    about = found.cell.info
    print(f"cell {given.cell}: {about.policy}, {about.horizon:,} rounds, seed {found.seed}")
    for name, value in found.final.items():
        print(f"{name} {value!r}")
    if given.curve is None:
        print(f"\n{found.curve_csv()}", end="")
    else:
        _write(given.curve.expanduser(), found.curve_csv())
    if found.equal:
        print("\nevery bit is as stored")
        return 0
    apart = ", ".join(f"{name} {there} there and {here} here" for name, (there, here) in found.versions.items())
    print(f"not every bit is as stored ({apart or 'versions are the same'})", file=sys.stderr)
    return 1


def _write(path: Path, text: str) -> None:
    try:
        with path.open("w" if text else "a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(f"--curve: {path} cannot be written ({error.strerror or error}); give another file") from error


COMMANDS = {"status": status, "report": report, "sync": sync, "replay": replay}

if __name__ == "__main__":  # scripts/status, scripts/report, scripts/sync and scripts/replay
    name = sys.argv.pop(1) if len(sys.argv) > 1 else ""
    if name not in COMMANDS:
        sys.exit(f"error: the first argument must be one of {', '.join(COMMANDS)}")
    COMMANDS[name]()
