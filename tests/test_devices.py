"""Chunks: seeds spread over several devices, those that do not fit in memory, and what is left of them at a stop."""

import json
import math
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from experiments import interrupt
from experiments.config import cells
from experiments.config import study as study_config
from experiments.engine import batch
from experiments.jobs import chunks, runner
from experiments.results import cell_file
from experiments.results.events import EventLog
from tests import studies
from tests.conftest import ROOT

STUDY = (
    *("policies=[uniform]", "demand.counts=poisson", "sweep.budget_per_task=[1e-4,1e-3]", "seeds=5"),
    *("env.target=null", "horizon=40", "eval_rounds=4"),  # no target: some arrays hold nothing
)
COLLECTIVES = ("all-reduce", "all-gather", "all-to-all", "collective-permute", "reduce-scatter", "collective-broadcast")


class Silent:
    """A display that remembers what it was told, and may ask to stop."""

    def __init__(self, patience: float) -> None:
        self.notes: list[str] = []
        self.patience = patience

    def begin(self, cells_done: int, cells_total: int, decisions: int) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)

    def compiling(self, program: str) -> None: ...

    def compiled(self, program: str, how: str) -> None: ...

    def played(self, decisions: int) -> None:
        self.patience -= 1
        if self.patience <= 0:
            interrupt.request()

    def cell_done(self) -> None: ...


def simulate(folder: Path, *arguments: str, patience: float = math.inf) -> tuple[runner.Outcome, list[str]]:
    """A study without anything made of its results, asked to stop after so many stops."""
    (folder / "cells").mkdir(parents=True, exist_ok=True)
    shown = Silent(patience)
    settings = study_config.study_from(studies.plain(*STUDY, *arguments))
    outcome = runner.run(
        settings, studies.planned(*STUDY, *arguments), folder, EventLog(folder / "events.jsonl"), shown
    )
    return outcome, shown.notes


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def arrays(folder: Path) -> dict[str, bytes]:
    """Every array of every cell, but not how long it took."""
    found = {}
    for path in sorted((folder / "cells").iterdir()):
        with np.load(path) as cell:
            found |= {f"{path.stem} {name}": cell[name].tobytes() for name in cell.files if name != "description"}
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study on one device, in one chunk."""
    folder = tmp_path_factory.mktemp("alone")
    outcome, _ = simulate(folder)
    assert not outcome.failed and outcome.compilations == 1
    return folder


# Several devices, in processes of their own: their number is fixed when a process starts.
def collectives(text: str) -> set[str]:
    """What a compiled program has its devices tell each other."""
    return {name for name in COLLECTIVES if name in text}


def in_this_process(folder: str) -> None:
    """Run the study on all devices, and look into its program."""
    compiled, compile_program = [], batch.compile_program

    def watched(*arguments: Any) -> batch.Program:
        compiled.append(compile_program(*arguments))
        return compiled[-1]

    batch.compile_program = watched
    outcome, _ = simulate(Path(folder))
    assert not outcome.failed, outcome.failed
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("runs",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("runs"))
    summed = jax.jit(lambda x: x.sum()).lower(jax.device_put(np.ones(8), spread)).compile()
    sharding = compiled[0].advance.input_shardings[0][2]
    found = {
        "devices": len(sharding.device_set),
        "ours": sorted(collectives(compiled[0].advance.as_text())),
        "a sum's": sorted(collectives(summed.as_text())),
    }
    Path(folder, "found.json").write_text(json.dumps(found))


@pytest.mark.parametrize("devices", [2, pytest.param(8, marks=pytest.mark.slow)])
def test_the_number_of_devices_changes_no_bit(alone: Path, tmp_path: Path, devices: int) -> None:
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    script = f"from tests import test_devices; test_devices.in_this_process({str(tmp_path / 'out')!r})"
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads((tmp_path / "out/found.json").read_text())
    assert found == {"devices": devices, "ours": [], "a sum's": ["all-reduce"]}
    assert arrays(tmp_path / "out") == arrays(alone)


# Memory.
class Small:
    """A device on which so many runs at once fit, and no more. Only programs that fit are compiled."""

    def __init__(self, rows: int, error: type[Exception]) -> None:
        self.rows, self.error, self.simulate, self.lock = rows, error, batch.simulate, threading.Lock()
        self.compile_program = batch.compile_program
        self.programs: dict[tuple[int, ...], batch.Program] = {}
        self.played: list[int] = []

    def __call__(self, program: Any, worlds: Any, policies: Any, keys: jax.Array, *rest: Any, **named: Any) -> Any:
        with self.lock:
            self.played.append(keys.size)
        if keys.size > self.rows:
            raise self.error("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.")
        with self.lock:
            if keys.shape not in self.programs:
                self.programs[keys.shape] = self.compile_program(worlds, policies, keys)
            program = self.programs[keys.shape]
        return self.simulate(program, worlds, policies, keys, *rest, **named)


def put(small: Small, monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate on that device."""
    monkeypatch.setattr(batch, "compile_program", lambda *_: SimpleNamespace(compile_seconds=0.0, cached=False))
    monkeypatch.setattr(batch, "simulate", small)


@pytest.fixture
def hurried() -> Iterator[None]:
    """The compiler hurries: these compile often, and compare counts alone."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("rows", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_a_chunk_that_does_not_fit_is_halved(
    alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    small = Small(rows, jax.errors.JaxRuntimeError)
    put(small, monkeypatch)
    outcome, notes = simulate(tmp_path / "out", "seeds=2")
    assert not outcome.failed
    assert small.played.count(rows) == 4 // rows  # two cells of two runs
    halved = [event["rows"] for event in events(tmp_path / "out", "chunk_halved")]
    assert halved == {2: [4], 1: [4, 2]}[rows]
    assert [note for note in notes if "fit" in note] == [
        f"uniform: {many} runs at once do not fit in memory; going on with half as many" for many in halved
    ]
    assert_same_counts(outcome, alone)


def assert_same_counts(outcome: runner.Outcome, alone: Path) -> None:
    """As many of the runs as there are."""
    assert len(outcome.cells) == 2
    wanted = [cell_file.read_cell(path) for path in (alone / "cells").iterdir()]
    for mine in outcome.cells:
        (other,) = (cell for cell in wanted if cell.info.budget == mine.info.budget)
        for metric in ("reward", "served", "demand", "spent_money", "declined", "invalid"):
            np.testing.assert_array_equal(mine.curve(metric), other.curve(metric)[: len(mine.seeds)], err_msg=metric)


@pytest.mark.usefixtures("hurried")
def test_where_not_even_one_run_fits_the_study_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(Small(0, MemoryError), monkeypatch)
    outcome, _ = simulate(tmp_path / "out", "seeds=1")
    assert set(outcome.failed.values()) == {"MemoryError: not even one run fits in the device's memory"}


@pytest.mark.usefixtures("hurried")
def test_another_error_is_not_taken_for_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise jax.errors.JaxRuntimeError("INTERNAL")

    monkeypatch.setattr(batch, "simulate", broken)
    outcome, _ = simulate(tmp_path / "out", "seeds=1")
    assert set(outcome.failed.values()) == {"JaxRuntimeError: INTERNAL"}


def test_a_chunk_suits_the_device_s_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    group, settings = studies.planned(*STUDY), study_config.study_from(studies.plain(*STUDY, "seeds=1000000"))
    one_run = batch.bytes_a_run(*cells.stack(group[:1]))
    assert 100 < one_run < 10_000
    assert chunks.shape(settings, group) == (1, 2048)
    memory: dict[str, int] = {}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [SimpleNamespace(memory_stats=lambda: memory)])
    assert chunks.shape(settings, group) == (1, 65536)
    memory["bytes_limit"] = 10_000_000
    wide, deep = chunks.shape(settings, group)
    assert wide == 1 and 20 * deep * one_run < 10_000_000 < 100 * deep * one_run
    memory["bytes_limit"] = 1
    assert chunks.shape(settings, group) == (1, 1)
    given = study_config.study_from(studies.plain(*STUDY, "chunk_rows=7"))
    assert chunks.shape(given, group) == (1, 5)
    monkeypatch.setattr(jax, "local_device_count", lambda: 4)
    assert chunks.shape(given, group) == (1, 8)


@pytest.mark.usefixtures("hurried")
def test_a_study_that_is_asked_to_stop_goes_on_within_its_chunks(alone: Path, tmp_path: Path) -> None:
    """Also with the chunks that are done, of cells that are not; one whose file is damaged is played again."""
    with interrupt.signals(), pytest.raises(interrupt.Interrupted):
        simulate(tmp_path, "chunk_rows=2", patience=9)  # of 6 chunks with 4 stops each
    saved = sorted((tmp_path / "checkpoints").glob("*/*.npz"))
    parts = [path for path in saved if path.name.startswith("part-")]
    stopped = {path.stem.partition("-")[0] for path in saved} - {"part"}
    assert parts
    damaged = parts[0]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    outcome, notes = simulate(tmp_path, "chunk_rows=2")
    assert not outcome.failed
    assert len(events(tmp_path, "resumed")) == len(stopped)
    (event,) = events(tmp_path, "part_damaged")
    assert event["checkpoint"] == str(damaged.with_suffix(".json"))
    assert [note for note in notes if "damaged" in note and event["checkpoint"] in note]
    assert {path.stem for path in (tmp_path / "checkpoints/damaged").iterdir()} == {f"{damaged.stem}.0"}
    assert_same_counts(outcome, alone)
    for cell in outcome.cells:
        np.testing.assert_allclose(
            cell.upper, cell_file.read_cell(cell_file.cell_path(alone, cell.info.cell)).upper, rtol=1e-5
        )
