"""Tiny studies for tests: the command line in this process, and what a configuration plans."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import pyarrow.parquet
import pytest

from experiments.api import settings
from experiments.cli import run
from experiments.config import cells
from experiments.config import study as study_config
from experiments.config.cells import Cell
from experiments.jobs import runner
from experiments.jobs.runner import Outcome
from experiments.report import page

TINY = (
    *("tracker=jsonl", "horizon=20", "seeds=2", "policies=[uniform]", "sweep.budget_per_task=null"),
    *("demand=constant", "demand.counts=none"),
)
CATALOGUE = """model,tier,quality,cost_usd,cost_cv,latency_s,latency_cv,released,energy_wh
small,edge,0.5,1e-4,0.5,1.0,0.5,2024-01-01,0.05
large,cloud,0.8,1e-3,0.5,2.0,0.5,,0.4
"""
TRACE = "time,requests\n1,3\n2,5\n3,0\n"
RULE = '''
"""A rule of somebody's own."""

import jax.numpy as jnp

from envs.parameters import number
from bandits.routing import RoutingRule, routing_rule


def wanted(view):
    return 0.5 * view.caps


@routing_rule("mine")
class Mine(RoutingRule):
    """A share of what each model may get."""

    warmth: float = number(0.1, low=0.0, high=1.0)

    def decide(self, state, view):
        return self.warmth * wanted(view), state
'''


def merged(*arguments: str) -> list[str]:
    """``TINY`` and then these; the last of several values for a key counts, which Hydra would refuse for groups."""
    chosen = {argument.partition("=")[0]: argument for argument in (*TINY, *arguments)}
    return list(chosen.values())


def plain(*arguments: str) -> dict[str, Any]:
    """The resolved configuration that the command line would make of these."""
    return settings.composed(merged(*arguments))


def planned(*arguments: str) -> list[Cell]:
    """The cells of a study."""
    return cells.build(study_config.study_from(plain(*arguments)))


def ids(*arguments: str) -> set[str]:
    """The identities of a study's cells, which must not repeat."""
    found = [cell.id for cell in planned(*arguments)]
    assert len(set(found)) == len(found)
    return set(found)


def at_most_opening(said: str) -> None:
    """A refused command has said nothing on stdout but what it was asked for; that comes before the checks."""
    assert re.fullmatch(r"(.*: .*, .* each, up to [\d,.]+ rounds.*\n)?", said), said


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every file below a folder with its content, and every folder."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def rows(folder: Path) -> list[dict[str, Any]]:
    """``results.parquet``, a mapping a run."""
    return pyarrow.parquet.read_table(folder / "results.parquet").to_pylist()


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What a command said."""

    code: int
    out: str
    err: str
    outcome: Outcome | None  # of the simulation, where it came to that


@dataclass(kw_only=True)
class CommandLine:
    """``llm-bandits`` in this process, in a folder of its own."""

    folder: Path
    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]
    outcomes: list[Outcome]

    def __call__(self, *arguments: str) -> Ran:
        """A tiny study with these arguments."""
        return self.exactly(*merged(*arguments))

    def exactly(self, *arguments: str) -> Ran:
        """Exactly these arguments."""
        self.outcomes.clear()
        self.capture.readouterr()
        self.monkeypatch.setattr(sys, "argv", ["llm-bandits", *arguments])
        code = 0
        try:
            run.main()
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 1
        said = self.capture.readouterr()
        return Ran(code=code, out=said.out, err=said.err, outcome=self.outcomes[0] if self.outcomes else None)

    def done(self, *arguments: str) -> Outcome:
        """A tiny study that must succeed in silence."""
        ran = self(*arguments)
        assert (ran.code, ran.err) == (0, "")
        assert ran.outcome is not None
        return ran.outcome


@contextmanager
def command_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capture: pytest.CaptureFixture[str],
    *,
    drawn: bool = False,
    optimized: bool = False,
) -> Iterator[CommandLine]:
    """A command line, and afterwards everything as it was.

    Without ``drawn`` there are no figures and no report; without ``optimized`` the compiler hurries.
    """
    outcomes: list[Outcome] = []
    simulate = runner.run

    def watched(*arguments: Any) -> Outcome:
        outcomes.append(simulate(*arguments))
        return outcomes[-1]

    monkeypatch.setattr(runner, "run", watched)
    if not drawn:
        monkeypatch.setattr(page, "write", lambda cells, record, found, folder: folder / "report.html")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with ExitStack() as settings:
        for registry in study_config.REGISTRIES.values():
            settings.enter_context(_restored(registry))
        settings.enter_context(_jax_settings(optimized))
        yield CommandLine(folder=folder, monkeypatch=monkeypatch, capture=capture, outcomes=outcomes)


@contextmanager
def _restored(registry: dict[str, Any]) -> Iterator[None]:
    known = dict(registry)
    try:
        yield
    finally:
        registry.clear()
        registry.update(known)


@contextmanager
def _jax_settings(optimized: bool) -> Iterator[None]:
    names = ("jax_enable_x64", "jax_disable_most_optimizations")
    before = {name: jax.config.read(name) for name in names}
    jax.config.update("jax_disable_most_optimizations", not optimized)
    try:
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def one_sentence(text: str, *words: str) -> None:
    """Stderr is one line that says these words, and nothing of our insides."""
    assert text.startswith("error: "), text
    assert text.count("\n") == 1 and text.endswith("\n"), text
    assert not [inside for inside in ("Traceback", "++", "object has no", "Error executing") if inside in text], text
    assert not [word for word in words if word not in text], text


def write(folder: Path, files: dict[str, str]) -> None:
    """Text files in a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
