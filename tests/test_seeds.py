"""Processes that share one cell: each simulates some of its seeds, and one merges their parts."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cli import status
from experiments.engine import batch
from tests import studies
from tests.processes import Child, Nursery, nursery
from tests.studies import CommandLine

# One cell of four chunks, the last of which is padded.
STUDY = studies.merged("demand.counts=poisson", "horizon=600", "seeds=7", "chunk_rows=2", "eval_rounds=4")
SLOWLY = """
from experiments.engine import batch
import time
batch.StepBudget.took = lambda pace, *_: vars(pace).update(rounds=64, slept=time.sleep(0.05))
"""
# One chunk at a time, so that several processes come to have parts.
ONE_BY_ONE = "from experiments.jobs import runner; runner.cores = lambda: 0.5 and 1;"


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("processes")) as found:
        yield found


@pytest.fixture(scope="module")
def alone(children: Nursery) -> Path:
    """What one process makes of the study."""
    child = children.start(children.folder, *STUDY, "out=alone")
    assert child.ended() == 0, child.said.read_text()
    return children.folder / "alone"


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines() if (folder / "events.jsonl").exists() else []
    return [event for line in lines if (event := json.loads(line))["event"] == kind]


def arrays(folder: Path) -> dict[str, bytes]:
    """Every array of every cell, but neither how long it took nor where."""
    found = {}
    for path in sorted((folder / "cells").glob("*.npz")):
        with np.load(path) as cell:
            names = [name for name in cell.files if name not in ("description", "study")]
            found |= {f"{path.stem} {name}": cell[name].tobytes() for name in names}
    return found


def assert_same(out: Path, alone: Path) -> None:
    assert (out / "results.parquet").read_bytes() == (alone / "results.parquet").read_bytes()
    assert arrays(out) == arrays(alone)
    assert not (out / "leases").exists() and not list(out.glob("checkpoints/[!d]*"))


def manifests(out: Path) -> list[Path]:
    return sorted(out.glob("checkpoints/*/part-*.json"))


def until(wanted: Callable[[], Any], *children: Child) -> None:
    deadline = time.monotonic() + 60
    while not wanted():
        assert time.monotonic() < deadline and all(child.is_there() for child in children), [
            child.said.read_text() for child in children
        ]
        time.sleep(0.005)


def start(children: Nursery, folder: Path, *arguments: str, prepare: str = SLOWLY) -> Child:
    return children.start(folder, *STUDY, "out=out", *arguments, prepare=prepare)


def test_two_processes_share_the_seeds_of_a_cell(children: Nursery, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    both = [start(children, tmp_path, f"shard={number}") for number in (0, 1)]
    assert [child.ended() for child in both] == [0, 0], [child.said.read_text() for child in both]
    assert_same(out, alone)
    assert len(events(out, "cell")) == 1 and len(events(out, "finished")) == 1
    last = {event["process"]: event for event in events(out, "progress")}
    decisions = [event["decisions"] for event in last.values()]
    assert sum(decisions) == 7 * 600 and max(decisions) < 7 * 600  # no seed twice, and both were at work


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_ends_costs_its_chunks_at_most(
    children: Nursery, alone: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    first, second = (start(children, tmp_path, "checkpoint_minutes=null") for _ in range(2))
    until(lambda: manifests(out), first, second)
    first.kill(number)
    assert second.ended() == 0, second.said.read_text()
    assert_same(out, alone)


def test_a_study_that_was_stopped_goes_on_with_its_parts(children: Nursery, alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = start(children, tmp_path)
    until(lambda: manifests(out), child)
    child.kill(signal.SIGTERM)
    kept = len(manifests(out))
    assert 0 < kept < 4 and not list((out / "cells").glob("*.npz"))
    left = status.read(out)
    assert left.done == 0 and left.missing == 1
    again = start(children, tmp_path, prepare="")
    assert again.ended() == 0
    assert_same(out, alone)
    simulated = {event["process"]: event["of"] for event in events(out, "progress")}
    assert 7 * 600 - 2 * 600 * kept <= list(simulated.values())[-1] <= 7 * 600 - 600 * kept


KILLED_AT = {
    "a part's arrays": "processes.die_at(2, 'replace', '.npz')",
    "a part's manifest": "processes.die_at(3, 'replace', '.json')",
    "the cell": "processes.die_at(1, 'replace', '0.npz')",
    "the first removed": "processes.die_at(1, 'unlink', '.npz')",
    "the folder removed": "processes.die_at(1, 'rmdir')",
}


@pytest.mark.parametrize("instant", [*range(30, 110, 16)])
def test_a_process_killed_at_any_change_of_the_disk_loses_no_part(
    children: Nursery, alone: Path, tmp_path: Path, instant: int
) -> None:
    out = tmp_path / "out"
    killed = start(children, tmp_path, prepare=f"die_at({instant})")
    killed.ended()
    again = start(children, tmp_path, prepare="")
    assert again.ended() == 0, again.said.read_text()
    assert_same(out, alone)


def test_parts_without_a_cell_are_merged_without_a_program(call: CommandLine) -> None:
    """Who completed them was killed before it merged."""
    out, store = call.folder / "out", "experiments.jobs.runner._Runner._merge"
    with call.monkeypatch.context() as patch:
        patch.setattr(store, lambda self, item: self.work.stop() or False)
        call.exactly(*STUDY, "out=out")
    assert len(manifests(out)) == 4
    call.monkeypatch.setattr(batch, "compile_program", lambda *_: 1 / 0)
    ran = call.exactly(*STUDY, "out=out")
    assert ran.code == 0 and ran.outcome is not None and ran.outcome.decisions == 0
    assert not list(out.glob("checkpoints/*"))
