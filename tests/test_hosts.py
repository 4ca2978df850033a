"""Several processes that play one study together, on one machine."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.jobs import hosts
from tests import studies
from tests.processes import Child, Nursery, nursery

STUDY = studies.merged("demand.counts=poisson", "horizon=1000", "seeds=5", "eval_rounds=4")
TWO_DEVICES = 'import os; os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=2";'
SLOWLY = """
from experiments.engine import batch
import time
batch.StepBudget.took = lambda pace, *_: vars(pace).update(rounds=64, slept=time.sleep(0.1))
"""
BROKEN = "from experiments.engine import batch; batch.simulate = lambda *_, **__: 1 / 0;"
REFUSING = """
from experiments.jobs import runner
def follow(*_):
    from envs.errors import InputError
    raise InputError("no")
runner.follow = follow
"""
IMPATIENT = "from experiments.jobs import hosts; hosts.JOIN_SECONDS = 1;"


@pytest.fixture(scope="module")
def children(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    with nursery(tmp_path_factory.mktemp("processes")) as found:
        yield found


@pytest.fixture(scope="module")
def alone(children: Nursery) -> bytes:
    """What one process makes of the study."""
    child = children.start(children.folder, *STUDY, "out=alone")
    assert child.ended() == 0, child.said.read_text()
    return (children.folder / "alone/results.parquet").read_bytes()


def pair(children: Nursery, folder: Path, *arguments: str, prepare: str = "", second: str = "") -> list[Child]:
    """The study, played by two processes of two devices each; ``second`` prepares the second one alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    common = (*STUDY, f"out={folder / 'out'}", *arguments, f"distributed.coordinator={where}")
    return [
        children.start(
            folder,
            *(*common, "distributed.processes=2", f"distributed.process={number}"),
            prepare=TWO_DEVICES + prepare + second * number,
        )
        for number in (0, 1)
    ]


def events(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "out/events.jsonl").read_text().splitlines()]


def test_two_processes_make_what_one_makes_and_the_first_one_stores_it(
    children: Nursery, alone: bytes, tmp_path: Path
) -> None:
    both = pair(children, tmp_path)
    assert [child.ended() for child in both] == [0, 0], [child.said.read_text() for child in both]
    assert (tmp_path / "out/results.parquet").read_bytes() == alone
    assert both[1].said.read_text() == ""
    assert {event["process"] for event in events(tmp_path)} == {f"{socket.gethostname()}:{both[0].number}"}
    compiled = [event.get("sent_by") for event in events(tmp_path) if event["event"] == "compiled"]
    assert sorted(compiled, key=str) == [1, None]
    again = children.start(tmp_path, *STUDY, "out=out")  # the same study, for one process
    assert again.ended() == 0
    assert "nothing was missing" in again.said.read_text()


@pytest.mark.slow
def test_processes_that_are_stopped_go_on_together(children: Nursery, alone: bytes, tmp_path: Path) -> None:
    both = pair(children, tmp_path, "checkpoint_minutes=0", prepare=SLOWLY)
    until = time.monotonic() + 60
    while len({path.stem.partition("-")[0] for path in tmp_path.glob("out/checkpoints/*/*.json")}) < 2:
        assert time.monotonic() < until and both[0].is_there(), [child.said.read_text() for child in both]
        time.sleep(0.01)
    for child in both:
        os.kill(child.number, signal.SIGTERM)
    for child in both:
        child.ended()
        assert (
            child.said.read_text().splitlines()[-1].startswith("interrupted; finished cells and saved carries are kept")
        )
    assert not list(tmp_path.glob("out/cells/*.npz"))
    both = pair(children, tmp_path)
    assert [child.ended() for child in both] == [0, 0], [child.said.read_text() for child in both]
    resumed = [event.get("sent_by") for event in events(tmp_path) if event["event"] == "resumed"]
    assert sorted(resumed, key=str) == [1, None]
    assert (tmp_path / "out/results.parquet").read_bytes() == alone
    assert not (tmp_path / "out/carries").exists()


@pytest.mark.slow
def test_what_goes_wrong_in_another_process_is_told_by_the_first(children: Nursery, tmp_path: Path) -> None:
    first, second = pair(children, tmp_path, second=BROKEN)
    assert [first.ended(), second.ended()] == [1, 0]
    assert "process 1: ZeroDivisionError: division by zero" in first.said.read_text()


@pytest.mark.slow
def test_the_others_end_where_the_first_refuses_or_one_leaves(children: Nursery, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.tex").touch()
    first, second = pair(children, tmp_path)
    assert [first.ended(), second.ended()] == [2, 0]
    studies.one_sentence(first.said.read_text(), "holds no study")
    (tmp_path / "out/thesis.tex").unlink()
    first, second = pair(children, tmp_path, second=REFUSING)
    assert [first.ended(), second.ended()] == [1, 2], second.said.read_text()
    assert "process 1 has left: InputError: no" in first.said.read_text()


def test_a_process_whose_others_do_not_come_says_so(children: Nursery, tmp_path: Path) -> None:
    first, second = pair(children, tmp_path, prepare=IMPATIENT, second="import os; os._exit(0);")
    first.ended(), second.ended()
    studies.one_sentence(first.said.read_text(), "distributed", "not all processes were there within 1 s")


def test_seeds_are_shared_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    assert hosts.share(3, 7) == (3, 7)
    shares = []
    for process in range(4):
        monkeypatch.setattr(hosts, "_team", hosts._Team(process=process, processes=4, store=None))
        shares.append(hosts.share(10, 6))
    assert shares == [(10, 2), (12, 2), (14, 1), (15, 1)]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("2", ("distributed is 2", "must be null, true")),
        ("{coordinator: 'a:1'}", ("distributed.processes is missing",)),
        ("{coordinator: a,processes: 2,process: 0}", ("HOST:PORT",)),
        ("{coordinator: 'a:1',processes: 0,process: 0}", ("distributed.processes is 0",)),
        ("{coordinator: 'a:1',processes: 2,process: 2}", ("distributed.process is 2", "from 0 to 1")),
        ("{coordinater: 'a:1',processes: 2,process: 0}", ("distributed.coordinater", "coordinator")),
        ("true", ("no cluster was found", "coordinator: HOST:PORT")),
    ],
)
def test_what_makes_no_sense_is_refused(
    given: str,
    words: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def nowhere(**_: object) -> None:
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(hosts.jax.distributed, "initialize", nowhere)
    with studies.command_line(tmp_path, monkeypatch, capfd) as llm_bandits:
        ran = llm_bandits(f"distributed={given}", "out=out")
    assert ran.code == 2
    studies.one_sentence(ran.err, *words)
    assert not (tmp_path / "out").exists()
