"""Processes that share one cell: each simulates some of its seeds, and one merges their parts."""

import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from experiments.cli import status
from experiments.config import cells
from experiments.engine import batch
from experiments.jobs import checkpoint, parts, replay
from experiments.jobs.parts import Part
from experiments.jobs.queue import Task, Work, WorkItem
from experiments.results.leases import Leases
from tests import studies, worlds
from tests.processes import Child, Nursery, nursery
from tests.studies import CommandLine

# One cell of four chunks, the last of which is padded.
STUDY = studies.merged("demand.counts=poisson", "horizon=600", "seeds=7", "chunk_rows=2", "eval_rounds=4")
SLOWLY = """
from experiments.engine import batch
import time
batch.StepBudget.took = lambda pace, *_: vars(pace).update(rounds=64, slept=time.sleep(0.05))
"""
# The first chunk takes until two processes are at work.
TOGETHER = """
from experiments.engine import batch
import time
def took(pace, *_):
    pace.rounds = 64
    while open("out/events.jsonl").read().count('"event": "study"') < 2:
        time.sleep(0.01)
    time.sleep(0.05)
batch.StepBudget.took = took
"""


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
    both = [start(children, tmp_path, f"shard={number}", prepare=TOGETHER) for number in (0, 1)]
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


@pytest.mark.parametrize("instant", range(46, 112, 11))
def test_a_process_killed_at_any_change_of_the_disk_loses_no_part(
    children: Nursery, alone: Path, tmp_path: Path, instant: int
) -> None:
    out = tmp_path / "out"
    killed = start(children, tmp_path, prepare=f"die_at({instant})")
    assert killed.ended() is None
    again = start(children, tmp_path, prepare="")
    assert again.ended() == 0, again.said.read_text()
    assert_same(out, alone)


def test_parts_without_a_cell_are_merged_without_a_program(call: CommandLine) -> None:
    """Who completed them was killed before it merged."""
    out = kept(call)
    call.monkeypatch.setattr(batch, "compile_program", lambda *_: 1 / 0)
    ran = call.exactly(*STUDY, "out=out")
    assert ran.code == 0 and ran.outcome is not None and ran.outcome.decisions == 0
    assert not list(out.glob("checkpoints/*"))


def test_force_makes_all_parts_anew(call: CommandLine, alone: Path) -> None:
    out = call.folder / "out"
    for _ in range(2):
        ran = call.exactly(*STUDY, "out=out", "force=true")
        assert ran.code == 0 and ran.outcome is not None and ran.outcome.decisions == 7 * 600
        assert_same(out, alone)


def kept(call: CommandLine) -> Path:
    """A study that has all parts and no cell."""
    with call.monkeypatch.context() as patch:
        patch.setattr("experiments.jobs.runner._Runner._merge", lambda self, item: self.work.stop() or False)
        call.exactly(*STUDY, "out=out")
    assert len(manifests(call.folder / "out")) == 4
    return call.folder / "out"


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.with_suffix(".npz").write_bytes(path.with_suffix(".npz").read_bytes()[:-1]),
    "no arrays": lambda path: path.with_suffix(".npz").unlink(),
    "a list": lambda path: path.write_text("[]"),
    "another's": lambda path: path.write_bytes(manifests(path.parents[2])[0].read_bytes()),
    "nested": lambda path: path.write_text("[" * 100_000),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("movable", [True, False])
def test_a_damaged_part_is_simulated_again(call: CommandLine, alone: Path, damage: str, movable: bool) -> None:
    out = kept(call)
    DAMAGES[damage](manifests(out)[2])
    if not movable:
        call.monkeypatch.setattr(checkpoint, "set_aside", lambda *_: None)
    ran = call.exactly(*STUDY, "out=out")
    assert ran.code == 0 and ran.outcome is not None and ran.outcome.decisions in (2 * 600, 600), ran.err
    assert len(events(out, "part_damaged")) == 1
    assert_same(out, alone)


def test_parts_that_cannot_be_written_cost_nothing(call: CommandLine, alone: Path) -> None:
    out = call.folder / "out"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    call.monkeypatch.setattr(parts, "save", full)
    ran = call.exactly(*STUDY, "out=out")
    assert (ran.code, ran.err) == (0, "")
    assert {event["error"] for event in events(out, "part_failed")} == {"No space left on device"}
    assert_same(out, alone)


def test_a_cell_that_cannot_be_written_is_merged_by_the_next_command(call: CommandLine, alone: Path) -> None:
    out = call.folder / "out"

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with call.monkeypatch.context() as patch:
        patch.setattr("experiments.results.cell_file.write_cell", full)
        ran = call.exactly(*STUDY, "out=out")
    assert ran.code == 1 and "No space left on device" in ran.err
    assert call.exactly(*STUDY, "out=out").outcome.decisions == 0  # type: ignore[union-attr]
    assert_same(out, alone)


def test_another_program_s_parts_are_left_alone(call: CommandLine, alone: Path) -> None:
    out = kept(call)
    call.monkeypatch.setattr(checkpoint.sources, "everything", lambda: "another")
    assert call.exactly(*STUDY, "out=out").outcome.decisions == 7 * 600  # type: ignore[union-attr]
    assert_same(out, alone)


def test_a_run_of_a_shared_cell_is_made_again(alone: Path) -> None:
    (cell,) = (path.stem for path in (alone / "cells").glob("*.npz"))
    for seed in (0, 6):
        assert replay.replay(alone, cell, seed).equal


def test_the_status_counts_chunks(call: CommandLine) -> None:
    out = kept(call)
    (plan,) = json.loads((out / "plan.json").read_text())[:1]
    process = status.Process(
        name="here:1",
        alive=True,
        silent_s=0.0,
        doing="",
        decisions_left=None,
        decisions_per_minute=1.0,
        cells_per_minute=0.0,
    )
    for number, path in enumerate(manifests(out), 1):
        path.rename(path.with_name(f"{number}"))
    for number in range(1, 5):
        (path,) = out.glob(f"checkpoints/*/{number}")
        path.rename(path.with_name(f"part-{number}.json"))
        left = status._decisions_left({plan["cell"]: plan}, set(), [process], status.layout.simulated(out))
        assert left is not None and left % 600 == 0
        assert 7 * 600 - 1200 * number <= left <= 7 * 600 - 1200 * number + 600
    assert left == 0


def test_a_part_needs_no_program_to_be_read() -> None:
    group = studies.planned("env=streaming", "deployment=greedy", "env.max_deployed=4")
    stacked = cells.stack(group[:1])
    arguments = (*stacked, batch.run_keys(0, np.zeros(1, np.uint32), np.arange(2)))
    like, seen = batch.snapshot_like(*stacked), worlds.program(*arguments).seen
    assert jax.tree.structure(like) == jax.tree.structure(seen)
    assert [leaf.dtype for leaf in jax.tree.leaves(like)] == [leaf.dtype for leaf in jax.tree.leaves(seen)]


# Leases and the queue, by hand.


def test_seeds_are_leased_apart(tmp_path: Path) -> None:
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        assert one.acquire("item-0", ["a"], range(0, 2)) and other.acquire("item-1", ["a"], range(2, 4))
        assert not other.acquire("of another shape", ["a"], range(1, 3))
        assert not other.acquire("all", ["a"]) and other.acquire("elsewhere", ["b"])
        assert other.are_in_work(["a"]) and other.are_in_work(["a"], range(1, 9))
        assert not other.are_in_work(["a"], range(2, 9)) and not other.are_in_work(["b"])


def chunked() -> WorkItem:
    return WorkItem(id="item", group=0, cells=("a",), chunks=(range(0, 2), range(2, 4), range(4, 5)))


class Played:
    """Workers of two processes, one step of one of them after the other."""

    def __init__(self, folder: Path, generator: np.random.Generator) -> None:
        self.parts: set[int] = set()
        self.stored: set[str] = set()
        self.done: list[int | None] = []
        with Leases(folder) as one, Leases(folder) as other:
            works = [self.work(mine) for mine in (one, other) for _ in range(1)]
            hands: list[Task | None] = [None] * 4  # two workers each
            while "a" not in self.stored:
                place = int(generator.integers(4))
                work, task = works[place // 2], hands[place]
                hands[place] = work._take_now() if task is None else self.give_back(work, task)
            assert all(work.take() is None for work in works if not work._in_hand)

    def work(self, mine: Leases) -> Work:
        missing = lambda item: [cell for cell in item.cells if cell not in self.stored]  # noqa: E731
        return Work([chunked()], mine, missing, lambda cells: None, simulated=lambda item: set(self.parts))

    def give_back(self, work: Work, task: Task) -> None:
        work.compiled(0)
        self.done.append(task.chunk)
        if task.chunk is None:
            self.stored.update(task.item.cells)
        else:
            self.parts.add(task.chunk)
        work.give_back(task)


def test_each_chunk_is_simulated_once_and_merged_once(tmp_path: Path) -> None:
    for seed in range(20):
        done = Played(tmp_path, np.random.default_rng(seed)).done
        assert Counter(done) == dict.fromkeys((0, 1, 2, None), 1) and done[-1] is None


def test_a_process_takes_no_more_chunks_than_it_simulates(tmp_path: Path) -> None:
    with Leases(tmp_path) as mine:
        work = Work([chunked()], mine, lambda item: ["a"], lambda cells: None, slots=1)
        task = work._take_now()
        assert task is not None and task.chunk == 0
        work.compiled(0)
        assert work._take_now() is None
        work.played(task)
        following = work._take_now()
        assert following is not None and following.chunk == 1


def test_a_shard_leaves_when_others_hold_what_is_open(tmp_path: Path) -> None:
    there = {0}
    with Leases(tmp_path) as other, Leases(tmp_path) as mine:
        assert other.acquire("item-1", ["a"], range(2, 4))

        def work() -> Work:
            told = (lambda item: ["a"]), (lambda cells: None), (lambda: None), (lambda item: there)
            return Work([chunked()], mine, *told, leaves=True)

        first = work()
        task = first.take()
        assert task is not None and task.chunk == 2
        there.add(2)
        first.give_back(task)
        assert first.take() is None and first.left == {"a"}
        there.add(1)
        other.release("item-1")
        assert other.acquire("item-merge", ["a"])
        assert work().take() is None
        other.release("item-merge")
        merging = work().take()
        assert merging is not None and merging.chunk is None


def test_a_part_holds_what_the_chunk_gave(tmp_path: Path) -> None:
    seen: Any = {"mean": np.arange(6.0).reshape(3, 2), "none": np.zeros((0, 2))}
    identity = {"cells": ["a"], "seeds": [0, 1], "program": "p"}
    parts.save(tmp_path, identity, Part(seen=seen, seconds=1.5), 7)
    assert parts.there(tmp_path) == {parts.file_name(identity)}
    found = parts.read(tmp_path, identity, seen, print)
    assert found is not None and found.seconds == 1.5
    assert all(found.seen[name].tobytes() == seen[name].tobytes() for name in seen)  # type: ignore[index]
    assert parts.read(tmp_path, identity | {"program": "q"}, seen, print) is None
