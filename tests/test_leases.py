"""Leases are owned by one process at a time, and the dead give theirs up."""

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from threading import Barrier

import pytest

from experiments.jobs.queue import Task, Work, WorkItem
from experiments.results import leases
from experiments.results.leases import Leases

ROOT = Path(__file__).resolve().parent.parent
HOLD = """
import sys, time
from pathlib import Path
from experiments.results.leases import Leases
mine = Leases(Path(sys.argv[1]))
assert mine.acquire("item", ["a"])
print("mine", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that owns "item" and never gives it back."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as started:
        assert started.stdout is not None and started.stdout.readline() == "mine\n"
        yield started
        started.kill()


def files(folder: Path) -> set[str]:
    return {path.name for path in (folder / "leases").iterdir() if path.suffix != ".beat"}


def test_one_owns_until_it_gives_back(tmp_path: Path) -> None:
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        assert one.acquire("a") and other.acquire("b")
        assert not other.acquire("a") and not one.acquire("b")
        assert one.others() == {"b"} and other.others() == {"a"}
        one.release("a")
        assert other.acquire("a")
        assert files(tmp_path) == {"a.0", "b.0"}
    assert not list(tmp_path.iterdir())


def test_an_error_gives_everything_back(tmp_path: Path) -> None:
    def interrupted() -> None:
        with Leases(tmp_path) as one:
            assert one.acquire("a")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(tmp_path.iterdir())


def test_a_killed_process_is_followed_at_once(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with Leases(tmp_path, stale_seconds=600.0) as mine:
        assert not mine.acquire("item")
        assert not mine.acquire("other item", ["b", "a"])  # of another shape, with a cell that is being made
        assert mine.acquire("elsewhere", ["c"])
        holder.kill()
        deadline = time.monotonic() + 20
        while not mine.acquire("item", ["a"]):  # also before anybody has waited for it
            assert time.monotonic() < deadline
        assert files(tmp_path) == {"item.0", "item.1", "elsewhere.0"}
        mine.release("item")
        assert files(tmp_path) == {"elsewhere.0"}


def test_what_the_dead_leave_is_tidied_and_nothing_else(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with Leases(tmp_path) as mine:
        assert mine.acquire("living")
        mine.tidy()
        assert files(tmp_path) == {"item.0", "living.0"}
        holder.kill()
        holder.wait()
        mine.tidy()
        assert files(tmp_path) == {"living.0"}
        assert [path.name for path in tmp_path.glob("leases/*.beat")] == [f"{mine.token}.beat"]
    assert not list(tmp_path.iterdir())


def test_who_counts_is_alive_and_who_stops_is_dead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On another machine, whose processes cannot be looked up, the count alone decides."""
    monkeypatch.setattr(leases, "is_gone", lambda identity: False)
    counting = {"beat_seconds": 0.02, "stale_seconds": 0.5}
    with Leases(tmp_path, **counting) as alive, Leases(tmp_path, **counting) as observer:
        assert alive.acquire("a")
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not observer.acquire("a")
            time.sleep(0.05)
        alive._stopped.set()  # as a machine that is switched off
        deadline = time.monotonic() + 20
        while not observer.acquire("a"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert files(tmp_path) == {"a.0", "a.1"}


def test_wall_clocks_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "is_gone", lambda identity: False)
    with Leases(tmp_path) as one, Leases(tmp_path) as other:
        assert one.acquire("a")
        for jump in (-1e6, 1e6):
            monkeypatch.setattr(time, "time", lambda jump=jump: 1.7e9 + jump)
            for path in (tmp_path / "leases").iterdir():
                os.utime(path, (1.7e9 - jump, 1.7e9 - jump))
            assert not other.acquire("a")


def test_a_claim_that_was_never_written_is_taken_over(tmp_path: Path) -> None:
    """Its maker was killed between making the file and writing into it, so that nobody knows who it was."""
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases/a.0").touch()
    with Leases(tmp_path, stale_seconds=0.2) as mine:
        assert not mine.acquire("a")
        time.sleep(0.3)
        assert mine.acquire("a")
        assert files(tmp_path) == {"a.0", "a.1"}


def test_of_many_one_takes_over(tmp_path: Path) -> None:
    number = 6
    dead = Leases(tmp_path)
    dead.token = "00000000-1-1-dead"
    for name in map(str, range(20)):
        assert dead.acquire(name)
    dead._stopped.set()
    ready = Barrier(number)

    def contend(mine: Leases) -> list[str]:
        names = list(map(str, range(20)))
        for name in names:
            assert not mine.acquire(name)
        time.sleep(0.1)
        ready.wait(timeout=20)
        return [name for name in names if mine.acquire(name)]

    with ExitStack() as stack:
        rivals = [stack.enter_context(Leases(tmp_path, stale_seconds=0.1)) for _ in range(number)]
        with ThreadPoolExecutor(number) as pool:
            won = [name for names in pool.map(contend, rivals) for name in names]
    assert sorted(won, key=int) == list(map(str, range(20)))


def test_a_process_number_used_again_is_another_process() -> None:
    mine = leases.process()
    machine, number, started = mine.split("-")
    assert not leases.is_gone(mine)
    assert leases.is_gone(f"{machine}-{number}-{int(started) + 1}-token")
    assert not leases.is_gone(f"ffffffff-{number}-{int(started) + 1}")  # of another machine: nobody knows
    assert not leases.is_gone("hello")


def test_a_disk_that_is_full_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Leases(tmp_path) as mine:
        assert mine.acquire("a")

        def full(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fdopen", full)
        with pytest.raises(OSError, match="No space"):
            mine.acquire("b")
        mine.release("b")  # nothing of ours


def items() -> list[WorkItem]:
    return [WorkItem(id=f"{group}{n}", group=group, cells=(f"c{group}{n}",)) for group in range(3) for n in range(4)]


def test_two_processes_share_the_blocks_and_do_each_once(tmp_path: Path) -> None:
    """Whatever their speeds: played by hand, one step of one of them after the other."""
    for seed in range(10):
        assert sorted(played_by_two(tmp_path, random.Random(seed))) == sorted(item.id for item in items())


def played_by_two(folder: Path, generator: random.Random) -> list[str]:
    """The ids of the items that were done."""
    stored: set[str] = set()
    done: list[str] = []

    def missing(item: WorkItem) -> list[str]:
        return [cell for cell in item.cells if cell not in stored]

    with ExitStack() as stack:
        leased = [stack.enter_context(Leases(folder)) for _ in range(2)]
        workers = [Work(items(), mine, missing, lambda cells: None) for mine in leased]
        hands: list[Task | None] = [None, None]
        while len(stored) < 12:
            one = generator.randrange(2)
            task, work = hands[one], workers[one]
            if task is None:
                hands[one] = work._take_now()
            else:
                work.compiled(task.item.group)
                stored.update(task.item.cells)
                done.append(task.item.id)
                work.give_back(task)
                hands[one] = None
        assert all(work.take() is None for work in workers)
    return done


def test_a_group_is_compiled_by_one_worker_while_the_others_go_elsewhere(tmp_path: Path) -> None:
    with Leases(tmp_path) as mine:
        work = Work(items(), mine, lambda item: list(item.cells), lambda cells: None)
        taken = [work.take() for _ in range(3)]
        assert [task.item.group for task in taken if task] == [0, 1, 2]
        assert work._take_now() is None  # all are being compiled
        work.compiled(1)
        assert [task.item.group for task in (work.take(), work.take()) if task] == [1, 1]
        work.drop(1)
        work.compiled(0)
        assert [task.item.group for task in (work.take(), work.take(), work.take()) if task] == [0, 0, 0]
        work.stop()
        assert work.take() is None
