"""Studies that are killed, starved of disk, damaged, shared and forced, and come out as if nothing had happened."""

import itertools
import json
import os
import re
import signal
import subprocess
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest

from experiments.engine import batch
from experiments.results import cell_file, tables
from tests import processes, studies
from tests.processes import Child, Nursery
from tests.studies import CommandLine

# Two programs, eight blocks of a cell each.
STUDY = studies.merged("policies=[uniform,ucb1]", "sweep.horizon=[20,40]", "sweep.target=[0.5,0.9]", "chunk_rows=2")
CELLS = 8
FOUR = studies.merged("policies=[uniform]", "sweep.horizon=[20,40]", "sweep.target=[0.5,0.9]", "chunk_rows=2")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with processes.nursery(tmp_path_factory.mktemp("nursery")) as found:
        yield found


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Python that children execute, so that of all of them only the first simulates."""
    return f"play_once({str(tmp_path_factory.mktemp('played') / 'kept')!r});"


@pytest.fixture(scope="module")
def whole(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """``results.parquet`` of a process that nobody disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    child = nursery.start(folder, *STUDY, "out=out")
    assert child.ended() == 0, child.said.read_text()
    return results(folder / "out")


def results(folder: Path) -> bytes:
    return (folder / "results.parquet").read_bytes()


def events(folder: Path) -> list[dict[str, Any]]:
    """Every line; one that a kill or a full disk has torn is none."""
    found = []
    for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            assert not line.endswith("}")
    return found


def events_of(folder: Path) -> list[dict[str, Any]]:
    return events(folder) if (folder / "events.jsonl").exists() else []


def announced(folder: Path) -> list[str]:
    return [event["cell"] for event in events_of(folder) if event["event"] == "cell"]


def assert_sound(folder: Path) -> None:
    """What is there is whole, and what was announced is there."""
    stored = {path.stem: cell_file.read_cell(path) for path in (folder / "cells").glob("*.npz")}
    assert set(announced(folder)) <= stored.keys()


def assert_tidy(folder: Path) -> None:
    """Nothing unfinished is left once a process has come to its end."""
    assert {path.suffix for path in (folder / "cells").iterdir()} == {".npz"}
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert not (folder / "leases").exists() and not (folder / "overwrite.json").exists()


def killed_at_every(stride: int, nursery: Nursery, folder: Path, played: str) -> list[str]:
    """Kill one process after another at later and later changes of the disk, until one ends; the kinds of change.

    What is on the disk is the same whether a process dies just before a change or long before it, so these are all
    instants that differ.
    """
    kinds: list[str] = []
    for number in itertools.count(1, stride):
        child = nursery.start(folder, *FOUR, "out=out", prepare=f"{played} die_at({number})")
        code, said = child.ended(), child.said.read_text()
        if (folder / "out").exists():
            assert_sound(folder / "out")
        if code is not None:
            assert code == 0, said
            return kinds
        kinds.append(said.splitlines()[-1].removeprefix("killed at "))
    raise AssertionError


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_at_its_changes_of_the_disk_a_study_comes_out_as_one_that_was_not(
    nursery: Nursery, played: str, tmp_path: Path, stride: int
) -> None:
    assert nursery.start(tmp_path, *FOUR, "out=undisturbed", prepare=played).ended() == 0
    kinds = killed_at_every(stride, nursery, tmp_path, played)
    assert len(kinds) >= 40 // stride
    assert stride > 1 or {"open", "write", "fsync", "replace", "unlink"} <= set(kinds)
    assert results(tmp_path / "out") == results(tmp_path / "undisturbed")
    assert_tidy(tmp_path / "out")


def test_two_processes_share_a_folder(nursery: Nursery, whole: bytes, played: str, tmp_path: Path) -> None:
    children = [nursery.start(tmp_path, *STUDY, "out=out", prepare=played) for _ in range(2)]
    assert [child.ended() for child in children] == [0, 0]
    assert Counter(announced(tmp_path / "out")).most_common(1)[0][1] == 1
    assert len(announced(tmp_path / "out")) == CELLS
    said = [re.search(r"([\d,]+) decisions in", child.said.read_text()) for child in children]
    assert sum(int(found[1]) for found in said if found) == 2 * (20 + 40) * 2 * 2  # nobody did another's work
    assert results(tmp_path / "out") == whole
    assert_tidy(tmp_path / "out")


def joined(nursery: Nursery, played: str, first: Child, folder: Path, cells: int, *arguments: str) -> Child:
    """A second process, started once the first one has announced so many cells of a folder and leased another."""
    while len(announced(folder)) < cells or not list((folder / "leases").glob("*.0")):
        assert first.is_there(), first.said.read_text()
        time.sleep(0.001)
    return nursery.start(folder.parent, *STUDY, f"out={folder.name}", *arguments, prepare=played)


@pytest.mark.parametrize("cell", [1, 3])
def test_of_two_processes_one_is_killed_as_it_stores_a_cell(
    nursery: Nursery, whole: bytes, played: str, tmp_path: Path, cell: int
) -> None:
    folder = tmp_path / "out"
    first = nursery.start(tmp_path, *STUDY, "out=out", prepare=f"{played} die_at({cell}, 'replace', '.npz')")
    second = joined(nursery, played, first, folder, cell - 1)
    assert first.ended() is None
    assert second.ended() == 0
    assert len(set(announced(folder)) | {path.stem for path in (folder / "cells").glob("*.npz")}) == CELLS
    assert results(folder) == whole
    assert_sound(folder)
    assert_tidy(folder)


def test_two_forced_processes_redo_each_cell_once_also_where_one_is_killed(
    nursery: Nursery, whole: bytes, played: str, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert nursery.start(tmp_path, *STUDY, "out=out", prepare=played).ended() == 0
    before = stamps(folder)
    dies = f"{played} die_at(3, 'replace', '.npz')"
    first = nursery.start(tmp_path, *STUDY, "out=out", "force=true", prepare=dies)
    second = joined(nursery, played, first, folder, CELLS + 1, "force=true")
    assert first.ended() is None
    assert results(folder) == whole  # of before, until the new ones are published
    assert second.ended() == 0
    assert max(Counter(announced(folder)[CELLS:]).values()) == 1
    assert not stamps(folder).items() & before.items()
    assert results(folder) == whole
    assert_tidy(folder)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is too small for the study, until it is mounted anew."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=120k")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def mount(folder: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "study", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"nothing can be mounted here: {error}")
    if done.returncode:
        pytest.skip(f"nothing can be mounted here: {done.stderr}")


def test_a_full_disk_costs_what_does_not_fit(nursery: Nursery, whole: bytes, played: str, small_disk: Path) -> None:
    folder = small_disk / "out"
    child = nursery.start(small_disk.parent, *STUDY, f"out={folder}", prepare=played)
    assert child.ended() == 1
    said = child.said.read_text()
    assert "Traceback" not in said, said
    stored = {path.stem for path in (folder / "cells").glob("*.npz")}
    lost = re.findall(r"^failed: \w+, cell (\w+): it could not be written \(No space left on device\)", said, re.M)
    assert 0 < len(stored) < CELLS and len(lost) == CELLS - len(stored) and not set(lost) & stored
    assert_sound(folder)
    assert_tidy(folder)
    mount(small_disk, "remount,size=10m")
    child = nursery.start(small_disk.parent, *STUDY, f"out={folder}", prepare=played)
    assert child.ended() == 0, child.said.read_text()
    assert f"{CELLS} cells, {len(stored)} of them done before" in child.said.read_text()
    assert results(folder) == whole


def test_a_report_that_cannot_be_written_leaves_the_cells(call: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(tables, "write_summary", full)
        ran = call("out=out")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert ran.err.startswith("error: tables and report could not be written (No space left on device)")
    assert ran.outcome is not None and not ran.outcome.failed
    assert call.done("out=out").decisions == 0


def test_a_cell_that_cannot_be_written_goes_on_from_its_carry(
    call: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch.StepBudget, "took", lambda pace, *_: vars(pace).update(rounds=64))
    command = ("horizon=1000", "checkpoint_minutes=0", "out=out")
    with monkeypatch.context() as patched:
        patched.setattr(cell_file, "write_cell", full)
        assert call(*command).code == 1
    assert list((call.folder / "out/checkpoints").glob("*/*.json"))
    call.done(*command)
    assert "resumed" in {event["event"] for event in events(call.folder / "out")}
    assert not (call.folder / "out/checkpoints").exists()


def full(*_: Any) -> None:
    raise OSError(28, "No space left on device")


def test_a_clock_that_jumps_back_changes_nothing(call: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ("sweep.horizon=[10,20]", "chunk_rows=2")
    call.done(*command, "out=usual")
    jumps = iter(range(10**6))

    class Jumping(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) - timedelta(days=next(jumps))

    monkeypatch.setattr("experiments.results.events.datetime", Jumping)
    monkeypatch.setattr(time, "time", lambda: 1e9 - 86400 * next(jumps))
    folder = "größe, ~ (2) 模型"
    call.done(*command, f"out={folder}")
    assert call.done(*command, f"out={folder}").decisions == 0
    assert results(call.folder / folder) == results(call.folder / "usual")
    times = [event["time"] for event in events(call.folder / folder)]
    assert times == sorted(times, reverse=True)


def stamps(folder: Path) -> dict[str, str | None]:
    return {path.stem: cell_file.version_id(folder, path.stem) for path in (folder / "cells").glob("*.npz")}


def test_force_makes_every_cell_anew(call: CommandLine) -> None:
    command = ("sweep.horizon=[10,20]", "out=out")
    call.done(*command, "force=true")  # where there is nothing, it does nothing else than without
    first, expected = stamps(call.folder / "out"), results(call.folder / "out")
    outcome = call.done(*command, "force=true")
    second = stamps(call.folder / "out")
    assert outcome.decisions == (10 + 20) * 2
    assert second.keys() == first.keys() and not second.items() & first.items()
    assert results(call.folder / "out") == expected
    assert_tidy(call.folder / "out")
    assert call.done(*command).decisions == 0


def test_a_forced_run_that_was_stopped_goes_on_and_loses_nothing(
    call: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("sweep.horizon=[10,20,30]", "out=out")
    call.done(*command)
    first, expected = stamps(call.folder / "out"), results(call.folder / "out")
    write, written = cell_file.write_cell, []

    def one(folder: Path, result: cell_file.CellResult) -> None:
        if written:
            full()
        written.append(result.info.cell)
        write(folder, result)

    with monkeypatch.context() as patched:
        patched.setattr(cell_file, "write_cell", one)
        ran = call(*command, "force=true")
    assert ran.code == 1 and ran.outcome is not None
    assert len(ran.outcome.failed) == 2 and ran.err.count("No space left on device") == 2
    assert results(call.folder / "out") == expected  # the old results are there until the new ones are
    second = stamps(call.folder / "out")
    assert {cell for cell in first if first[cell] != second[cell]} == set(written)
    went_on = call(*command)
    assert went_on.code == 0 and "3 cells, 1 of them done before" in went_on.out
    assert "going on with the 2 cells left to replace" in went_on.out
    third = stamps(call.folder / "out")
    assert {cell for cell in third if third[cell] != second[cell]} == first.keys() - set(written)
    assert results(call.folder / "out") == expected
    assert_tidy(call.folder / "out")


def test_a_study_is_added_to_another(call: CommandLine) -> None:
    first, second = ("sweep.horizon=[10,20]", "out=out"), ("sweep.horizon=[20,30]", "out=out")
    call.done(*first)
    before = studies.tree(call.folder / "out")
    refused = call(*second)
    assert refused.code == 2
    studies.one_sentence(refused.err, "sweep.horizon is [10, 20] there and [20, 30] here", "extend=true")
    assert studies.tree(call.folder / "out") == before
    assert call.done(*second, "extend=true").decisions == 30 * 2
    assert [row["horizon"] for row in studies.rows(call.folder / "out")] == [10, 10, 20, 20, 30, 30]
    (call.folder / "out/results.parquet").unlink()
    for command in (first, second):
        assert call.done(*command).decisions == 0
        assert [row["horizon"] for row in studies.rows(call.folder / "out")] == [10, 10, 20, 20, 30, 30]
    assert call("sweep.horizon=[20,40]", "out=out").code == 2


def test_a_cell_tells_what_is_swept_in_the_study_that_took_it_over(call: CommandLine) -> None:
    call.done("policies=[ucb1]", "policy.ucb1.width=0.3", "out=out")
    shared, swept = "policy.ucb1.width=0.3", "sweep.policy.ucb1.width=[0.3,0.6]"
    call.done("policies=[ucb1]", swept, shared, "out=out", "extend=true")
    assert [row["policy.ucb1.width"] for row in studies.rows(call.folder / "out")] == [0.3, 0.3, 0.6, 0.6]


@pytest.mark.parametrize("argument", ["force=maybe", "extend=1"])
def test_what_is_neither_true_nor_false_is_refused(call: CommandLine, argument: str) -> None:
    ran = call(argument)
    assert ran.code == 2
    studies.one_sentence(ran.err, argument.partition("=")[0], "true or false")


def test_a_warning_is_told_once_with_its_cell(call: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    write = cell_file.write_cell

    def warning(folder: Path, result: cell_file.CellResult) -> None:
        warnings.warn("a matter of taste", stacklevel=1)
        write(folder, result)

    monkeypatch.setattr(cell_file, "write_cell", warning)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        ran = call("sweep.horizon=[10,20]", "out=out")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.count("a matter of taste") == 1
    (event,) = (event for event in events(call.folder / "out") if event["event"] == "warning")
    assert event["text"] == "UserWarning: a matter of taste"
    assert event["cells"][0] in announced(call.folder / "out")
    assert re.fullmatch(r"test_faults\.py:\d+", event["where"])


def test_claims_that_cannot_be_written_stop_nobody(call: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    call.done("out=out", "sweep.horizon=[10,20]")
    expected = results(call.folder / "out")
    for path in (call.folder / "out/cells").glob("*.npz"):
        os.unlink(path)
    monkeypatch.setattr("experiments.results.leases.Leases._make", full)
    assert call.done("out=out", "sweep.horizon=[10,20]").decisions == 60
    assert results(call.folder / "out") == expected


# Where a signal comes at a bad moment. Each place is Python that is executed before the command.

SEND = """
import os, signal, time
def send(*_, **__): os.kill(os.getpid(), signal.SIGTERM)
"""
MOMENTS = {
    "a weak reference's callback in the main thread": """
import weakref
from experiments import interrupt
class Referred: pass
wait = interrupt.wait
def waiting(*given):
    referred = Referred()
    reference = weakref.ref(referred, send)
    del referred
    return wait(*given)
interrupt.wait = waiting
""",
    "compiling": """
from experiments.engine import batch
def compiling(*_):
    send()
    time.sleep(600)
batch.compile_program = compiling
""",
    "planning": """
from experiments.config import cells
cells._timeline = lambda *given, timeline=cells._timeline: (send(), timeline(*given))[1]
""",
    "tables": """
from experiments.report import summary
summary.summarise = lambda *given, make=summary.summarise, **named: (send(), make(*given, **named))[1]
""",
    "figures": """
from experiments.report.figures import gallery; from experiments.report import page
def write(cells, record, found, folder):
    gallery.draw_all = lambda cells: (send() for _ in range(600))
    gallery.save = lambda *_: time.sleep(1)
    gallery.write_all(cells, folder / "figures")
page.write = write
""",
    "waiting for another process": """
from pathlib import Path
from experiments.jobs import queue
from experiments.results.leases import Leases
other = Leases(Path("out"))
queue.Work._take_now = lambda self: None
queue.Work.compiled = send
from experiments.jobs import runner
runner._Runner._waiting = lambda self: send()
""",
    "a step that looks at nothing, twice": """
from experiments.results import tables
def stuck(*_):
    send()
    send()
    while True: pass
tables.write_results = stuck
""",
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_signal_is_lost_at_a_bad_moment(nursery: Nursery, tmp_path: Path, moment: str) -> None:
    command = studies.merged("sweep.horizon=[20,40]", "chunk_rows=2", "out=out")
    began = time.monotonic()
    child = nursery.start(tmp_path, *command, prepare=SEND + MOMENTS[moment])
    assert child.ended(60) == 143, child.said.read_text()
    assert time.monotonic() - began < 20
    said = child.said.read_text()
    assert said.count("interrupted; ") == 1 and "Traceback" not in said and "ignored" not in said, said
    if (tmp_path / "out").exists():
        assert_sound(tmp_path / "out")


def test_an_ignored_sigint_stays_ignored_and_sigterm_works(nursery: Nursery, tmp_path: Path) -> None:
    """As in a process that a script has started in the background."""
    prepare = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    child = nursery.start(tmp_path, *studies.merged("horizon=3000000", "out=out"), prepare=prepare)
    until = time.monotonic() + 60
    while "compiled" not in {event["event"] for event in events_of(tmp_path / "out")}:
        assert time.monotonic() < until and child.is_there()
        time.sleep(0.05)
    os.kill(child.number, signal.SIGINT)
    time.sleep(1.0)
    assert child.is_there()
    os.kill(child.number, signal.SIGTERM)
    assert child.ended() == 143
