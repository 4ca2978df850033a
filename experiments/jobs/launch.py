"""A study as several processes, ``-m shard=range(0,16) hydra/launcher=...``: what there is to it besides Hydra.

The command checks everything before a job is submitted, and gives all jobs the same results folder. Shards divide the
work by their leases (``experiments.results.leases``), so a shard is one more process that begins at a place of its own.
"""

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import hydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from envs.errors import InputError
from experiments import interrupt
from experiments.results.layout import JOBS

FLAGS = ("-m", "--multirun")
WHERE_FROM = "the extra 'slurm' installs submitit_slurm and submitit_local, the extra 'joblib' joblib"
_SLURM = "submitit_slurm"
_MOST_SHARDS = 10_000
_TIMEOUTS = 1000  # after which submitit queues a job again
_NOTICE_SECONDS = 5.0  # in which submitit's signal may follow a SIGTERM


class LostJobError(RuntimeError):
    """A job came to no end of its own; the text is one sentence."""


@dataclass(frozen=True, kw_only=True)
class LaunchRequest:
    """What a command with ``-m`` asks for."""

    arguments: list[str]  # its overrides
    launcher: str
    shards: list[str]
    plain: dict[str, Any]  # the resolved configuration that all shards have


def is_asked_for(arguments: Sequence[str]) -> bool:
    """Whether these are arguments of several processes. InputError for a launcher without ``-m``."""
    if any(flag in arguments for flag in (*FLAGS, "hydra.mode=MULTIRUN")):
        return True
    given = [argument for argument in arguments if argument.startswith("hydra/launcher=")]
    if given:
        raise InputError(f"{given[0]} needs -m, as in -m 'shard=range(0,16)' {given[0]}")
    return False


def read(arguments: Sequence[str]) -> LaunchRequest:
    """Understand the arguments of a command with ``-m``; InputError where they ask for what it does not do."""
    own = [argument for argument in arguments if argument not in (*FLAGS, "hydra.mode=MULTIRUN")]
    flags = [argument for argument in own if argument.startswith("-")]
    if flags:
        raise InputError(f"-m does not go with {flags[0]}")
    parsed = OverridesParser.create().parse_overrides(own)
    shards, common = [""], []
    for override, argument in zip(parsed, own, strict=True):
        if _key(override) == "shard":
            shards = _shards(override)
        elif override.is_sweep_override():
            raise InputError(
                f"{_said(override)}: -m sweeps over shard alone; a sweep of anything else is a list in brackets, "
                "as in sweep.horizon=[10,20]"
            )
        else:
            common.append(argument)
    launchers = [_said(override).partition("=")[2] for override in parsed if _key(override) == "hydra/launcher"]
    with hydra.initialize_config_module("conf", version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("config", overrides=common), resolve=True)
    asked = LaunchRequest(
        arguments=own,
        launcher=launchers[-1] if launchers else "basic",
        shards=shards,
        plain=plain,  # type: ignore[arg-type]
    )
    if asked.launcher == _SLURM and not shutil.which("sbatch"):
        raise InputError(f"hydra/launcher={_SLURM} needs SLURM's commands, and there is no sbatch here")
    return asked


def _key(override: Override) -> str:
    return override.get_key_element().lstrip("+~")


def _said(override: Override) -> str:
    return (override.input_line or "").lstrip("+")


def _shards(override: Override) -> list[str]:
    if override.is_sweep_override():
        values = _listed(override) if override.is_discrete_sweep() else []
    else:
        values = [override.get_value_element_as_str()]
    if not values or not all(re.fullmatch(r"\d+", value) for value in values):
        raise InputError(f"{_said(override)}: shards are whole numbers from 0, as in shard=range(0,16) or shard=0,1,2")
    return values


def _listed(override: Override) -> list[str]:
    try:
        values = list(islice(override.sweep_string_iterator(), _MOST_SHARDS + 1))
    except ValueError as error:  # a step of 0
        raise InputError(f"{_said(override)} is no range of shards ({error}); write shard=range(0,16)") from error
    if len(values) > _MOST_SHARDS:
        raise InputError(f"{_said(override)}: at most {_MOST_SHARDS:,} shards can share a study")
    return values


def completed(asked: LaunchRequest, folder: Path) -> list[str]:
    """The arguments for Hydra: all jobs work in this absolute folder, and what is said about them lies in it, too."""
    if asked.launcher == _SLURM and "%" in str(folder):
        raise InputError(f"out: {folder} has a % in it, which SLURM reads as a pattern; give another folder")
    jobs = quoted(str(folder / JOBS))
    settings = {"hydra.sweep.dir": jobs, "hydra.sweep.subdir": "."}
    if asked.launcher.startswith("submitit"):
        settings["hydra.launcher.submitit_folder"] = quoted(str(folder / JOBS / "%j"))
    if asked.launcher == _SLURM:
        settings["hydra.launcher.max_num_timeout"] = str(_TIMEOUTS)
    given = {argument.partition("=")[0] for argument in asked.arguments}
    added = [f"{key}={value}" for key, value in settings.items() if key not in given]
    # The command has begun what these two ask for; a job that is queued again would begin it again.
    kept = [a for a in asked.arguments if a.partition("=")[0] not in ("++out", "++force")]
    return ["--multirun", *kept, f"++out={quoted(str(folder))}", *added]


def quoted(text: str) -> str:
    """Free text as Hydra's grammar reads it, unless it is quoted already."""
    if re.fullmatch(r"'(\\.|[^'\\])*'|\"(\\.|[^\"\\])*\"", text):
        return text
    escaped = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{escaped}'"


@contextmanager
def troubles() -> Iterator[None]:
    """What launchers raise, in a sentence: InputError where a job was refused, LostJobError where one was lost."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__module__.partition(".")[0] not in ("submitit", "joblib"):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        refused = [line for line in lines if line.startswith("sbatch: error:")]
        if refused:
            raise InputError(f"SLURM refused the jobs ({refused[0].removeprefix('sbatch: error:').strip()})") from error
        raise LostJobError(f"a job was lost ({lines[0]}); the same command goes on with what is missing") from error


def notices() -> tuple[int, ...]:
    """The signals that tell a job of submitit that it is to end; none in other processes.

    It has handlers of its own: one that queues the job again, and one that ignores SIGTERM, which announces it on some
    clusters. Both leave too little time to save anything, so we take the signals first.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ:
        return ()
    name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
    return signal.SIGTERM, getattr(signal, f"SIG{name}", signal.SIGUSR2)


def hand_back(exit_code: int) -> int:
    """Everything is saved: let submitit queue the job again if it was told to. The code to exit with.

    Its handlers are those before ours, wherever this is called.
    """
    number = exit_code - 128
    if number not in notices():
        return exit_code
    try:
        if number == signal.SIGTERM:
            time.sleep(_NOTICE_SECONDS)
        else:
            interrupt.handler_before(number)(number, None)
    except SystemExit as end:
        return int(end.code or 0) & 0xFF
    return exit_code
