"""Several processes from one command: shards, who leaves and who publishes, launchers, a real SLURM."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from envs.errors import InputError
from experiments import interrupt
from experiments.cli import display, publication, run
from experiments.config import study as study_config
from experiments.jobs import launch, runner
from experiments.jobs.queue import Work, WorkItem
from experiments.results import leases
from experiments.results.events import EventLog
from experiments.results.leases import Leases
from tests import studies
from tests.studies import CommandLine

ROOT = Path(__file__).resolve().parent.parent
STUDY = ("policies=[uniform,ucb1]", "sweep.horizon=[20,40]", "chunk_rows=2")  # two programs, four items
LONG = ("sweep.target=[0.5,0.9]", "horizon=600000", "chunk_rows=2", "checkpoint_minutes=0")  # a program, two items


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


def events(folder: Path) -> list[dict[str, Any]]:
    path = folder / "events.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def told(folder: Path, event: str) -> list[dict[str, Any]]:
    return [line for line in events(folder) if line["event"] == event]


def each_once(folder: Path, cells: int, times: int = 1) -> None:
    assert list(Counter(line["cell"] for line in told(folder, "cell")).values()) == [times] * cells


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-m", "horizon=1,2"), ("horizon=1,2", "shard alone", "in brackets")),
        (("-m", "env=routerbench,routerbench"), ("env=routerbench,routerbench", "name of a file")),
        (("-m", "hydra/launcher=basic,joblib"), ("hydra/launcher=basic,joblib", "shard alone")),
        (("-m", "shard=a,b"), ("shard=a,b", "whole numbers")),
        (("-m", "shard=-1"), ("shard=-1", "whole numbers")),
        (("-m", "shard=range(3,3)"), ("range(3,3)", "whole numbers")),
        (("-m", "shard=interval(0,3)"), ("interval(0,3)", "whole numbers")),
        (("-m", "shard=0", "--cfg", "job"), ("-m does not go with --cfg",)),
        (("-m", "shard=0", "hydra/launcher=nowhere"), ("no launcher called 'nowhere'", "extra 'slurm'")),
        (("-m", "shard=0", "horizen=3"), ("horizen", "horizon")),
        (("-m", "shard=0", "hydra.launcher.nothing=3"), ("hydra.launcher.nothing",)),
        (("shard=0,1",), ("shard=0,1",)),
        (("shard=range(0,2)",), ("shards need -m",)),
        (("shard=-1",), ("shard is -1",)),
        (("hydra/launcher=joblib",), ("needs -m",)),
    ],
)
def test_what_is_refused_is_refused_before_any_job(
    call: CommandLine, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    ran = call.exactly(*arguments)
    assert ran.code == 2
    studies.one_sentence(ran.err, *words)
    assert not list(call.folder.iterdir())


def test_a_folder_of_another_study_is_refused_before_any_job(call: CommandLine) -> None:
    call.done("out=out")
    before = studies.tree(call.folder)
    ran = call("-m", "shard=0,1", "out=out", "root_seed=1")
    assert ran.code == 2
    studies.one_sentence(ran.err, "another study's results", "root_seed")
    assert studies.tree(call.folder) == before


def test_slurm_is_asked_for_where_there_is_none(call: CommandLine) -> None:
    needs("submitit")
    call.monkeypatch.setenv("PATH", str(call.folder))
    ran = call("-m", "shard=0,1", "hydra/launcher=submitit_slurm")
    assert ran.code == 2
    studies.one_sentence(ran.err, "no sbatch")


def test_shards_do_what_one_process_does(call: CommandLine) -> None:
    """Without a launcher they run one after another."""
    call.done(*STUDY, "out=whole")
    ran = call("-m", "shard=range(0,3)", *STUDY)
    assert (ran.code, ran.err) == (0, "")
    (out,) = (call.folder / "results").iterdir()
    assert f"4 of 4 cells are stored in {out}" in ran.out
    assert (out / "results.parquet").read_bytes() == (call.folder / "whole/results.parquet").read_bytes()
    each_once(out, 4)
    assert len(told(out, "finished")) == 1 and ran.out.count("tables and report are there already") == 2
    assert call.done(*STUDY).decisions == 0  # the same folder without shards, too


def test_force_makes_each_cell_anew_once(call: CommandLine) -> None:
    call.done(*STUDY, "out=out")
    ran = call("-m", "shard=0,1", *STUDY, "out=out", "force=true")
    assert (ran.code, ran.err) == (0, "")
    each_once(call.folder / "out", 4, times=2)


def test_cells_that_fail_are_missing_in_the_end(call: CommandLine) -> None:
    call.monkeypatch.setattr(runner.batch, "compile_program", lambda *_: 1 / 0)
    ran = call("-m", "shard=0", "out=out")
    assert ran.code == 1
    assert "error: 1 cells are missing" in ran.err and "Traceback" not in ran.err


@pytest.mark.parametrize("shard", ["null", "0", "1", "2", "5"])
def test_shards_begin_with_different_programs(call: CommandLine, shard: str) -> None:
    orders = []

    class Seen(Work):
        def __init__(self, items: list[WorkItem], *others: Any, **named: Any) -> None:
            orders.append([item.group for item in items])
            super().__init__(items, *others, **named)
            self.stop()

    call.monkeypatch.setattr(runner, "Work", Seen)
    call("policies=[uniform,ucb1,best_fixed]", "sweep.horizon=[20,40]", "chunk_rows=2", f"shard={shard}")
    first = 0 if shard == "null" else int(shard) % 3
    assert orders == [[(first + n) % 3 for n in (0, 0, 1, 1, 2, 2)]]


def items(*names: str) -> list[WorkItem]:
    return [WorkItem(id=name, group=0, cells=(name,)) for name in names]


def leaving(names: str, mine: Leases) -> Work:
    return Work(items(*names), mine, lambda item: list(item.cells), lambda cells: None, leaves=True)


def test_a_shard_leaves_what_others_hold(tmp_path: Path) -> None:
    with Leases(tmp_path) as other, Leases(tmp_path) as mine:
        assert other.acquire("a", ["a"]) and other.acquire("in items of another shape", ["b", "z"])
        work = leaving("abc", mine)
        task = work.take()
        assert task is not None and task.item.id == "c"
        work.give_back(task)
        began = time.monotonic()
        assert work.take() is None
        assert work.left == {"a", "b"} and time.monotonic() - began < 0.5


def test_a_shard_makes_sure_that_others_elsewhere_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "is_gone", lambda identity: False)
    monkeypatch.setattr(leases, "is_here", lambda identity: False)
    monkeypatch.setattr("experiments.jobs.queue._POLL_SECONDS", 0.02)
    counting = {"beat_seconds": 0.05, "stale_seconds": 0.6}
    with Leases(tmp_path, **counting) as alive, Leases(tmp_path, **counting) as dead:
        assert alive.acquire("a", ["a"]) and dead.acquire("b", ["b"])
        dead._stopped.set()  # as a machine that is switched off
        with Leases(tmp_path, **counting) as mine:
            work = leaving("ab", mine)
            task = work.take()
            assert task is not None and task.item.id == "b"
            work.give_back(task)
            assert work.take() is None and work.left == {"a"}


def test_the_last_shard_publishes(call: CommandLine) -> None:
    """What another process holds is left to it, and no table is made without it."""
    out = call.folder / "out"
    call.done("sweep.horizon=[20,40]", "chunk_rows=2", "out=out")
    _, lost = sorted((out / "cells").iterdir())
    lost.unlink()
    (out / "results.parquet").unlink()
    with Leases(out) as other:
        assert other.acquire("theirs", [lost.stem])
        ran = call("sweep.horizon=[20,40]", "chunk_rows=2", "out=out", "shard=0")
        assert (ran.code, ran.err) == (0, "")
        assert "others are at work on 1 cells" in ran.out
        assert told(out, "left")[-1]["cells"] == 1
        assert not (out / "results.parquet").exists() and not lost.exists()
    ran = call("sweep.horizon=[20,40]", "chunk_rows=2", "out=out", "shard=1")
    assert (ran.code, ran.err) == (0, "")
    assert lost.exists() and (out / "results.parquet").exists()


def test_of_shards_that_end_together_one_publishes_the_cells_of_all(call: CommandLine) -> None:
    outcome = call.done(*STUDY, "out=out")
    out = call.folder / "out"
    settings = study_config.study_from(studies.plain(*STUDY))
    log, console = EventLog(out / "events.jsonl"), display.console()

    def shard_ends(cells: int) -> list[int]:
        """How many cells were published, and published again."""
        made: list[int] = []
        call.monkeypatch.setattr(publication, "publish", lambda found, *_: made.append(len(found.cells)))
        some = replace(outcome, cells=outcome.cells[:cells])
        publication.publish_in_turn(some, settings, out, None, log, console)
        return made

    assert shard_ends(2) == []  # what is published is not published again
    (out / "events.jsonl").unlink()
    with Leases(out) as other:
        assert other.acquire("publish")
        assert shard_ends(4) == []
    assert shard_ends(2) == [2, 4]  # two were stored meanwhile, by one who left the publishing to us


# What a job of submitit does with the signals that submitit handles, and then submitit itself.


@pytest.fixture
def handlers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """submitit's: one ends the process to have it queued again, one does nothing. The signals that they were given."""
    given: list[int] = []

    def queued_again(number: int, frame: Any) -> None:
        given.append(number)
        raise SystemExit(-1)

    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(launch, "_NOTICE_SECONDS", 0.2)
    theirs = {signal.SIGUSR2: queued_again, signal.SIGTERM: lambda number, frame: given.append(number)}
    before = {number: signal.signal(number, handler) for number, handler in theirs.items()}
    yield given
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGUSR2, 255), (signal.SIGTERM, 143)])
def test_submitit_hears_of_a_signal_when_all_is_saved(handlers: list[int], number: int, code: int) -> None:
    with interrupt.signals(launch.notices()):
        signal.raise_signal(number)
        with pytest.raises(interrupt.Interrupted):
            interrupt.check()
        signal.raise_signal(signal.SIGTERM)  # does not disturb the saving
        assert not interrupt._state.hurried
    assert handlers == []
    assert launch.hand_back(interrupt.exit_code()) == code
    assert handlers == ([number] if number == signal.SIGUSR2 else [])


def test_a_sigterm_may_be_the_first_of_two(handlers: list[int]) -> None:
    with interrupt.signals(launch.notices()):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGUSR2)
        assert interrupt.requested()
    assert interrupt.exit_code() == 128 + signal.SIGUSR2
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGUSR2)).start()
    assert launch.hand_back(128 + signal.SIGTERM) == 255
    assert handlers == [signal.SIGUSR2]


def test_a_job_that_is_stuck_is_queued_again_all_the_same(handlers: list[int]) -> None:
    """By the thread that is the last resort, while the handlers are still ours."""
    with interrupt.signals(launch.notices()):
        signal.raise_signal(signal.SIGUSR2)
        assert launch.hand_back(interrupt.exit_code()) == 255
    assert handlers == [signal.SIGUSR2]


def test_other_processes_end_as_they_always_did(handlers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUBMITIT_EXECUTOR")
    assert launch.notices() == ()
    assert [launch.hand_back(code) for code in (130, 143, 128 + signal.SIGUSR2)] == [130, 143, 128 + signal.SIGUSR2]
    assert handlers == []


def test_what_launchers_raise_is_a_sentence() -> None:
    utils = pytest.importorskip("submitit.core.utils", reason="submitit is not installed")
    with pytest.raises(InputError, match=r"^SLURM refused the jobs \(invalid partition specified: nowhere\)$"):
        with launch.troubles():
            raise utils.FailedJobError("sbatch: error: invalid partition specified: nowhere\nsbatch: error: more")
    with pytest.raises(launch.LostJobError, match="a job was lost"), launch.troubles():
        raise utils.UncompletedJobError("Job 3 (task: 0) with path x\nhas not produced any output (state: CANCELLED)")
    with pytest.raises(RuntimeError, match="ours"), launch.troubles():
        raise RuntimeError("ours")


# Real launchers.


def needs(launcher: str) -> None:
    if find_spec("hydra_plugins") is None or find_spec(f"hydra_plugins.hydra_{launcher}_launcher") is None:
        pytest.skip(f"hydra-{launcher}-launcher is not installed")


@pytest.fixture(scope="module")
def long_study(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], bytes]:
    """(environment of jobs, results.parquet of ``LONG`` in one process)."""
    folder = tmp_path_factory.mktemp("long")
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "NO_COLOR": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    with started(folder, environment, "out=out") as alone:
        out, err = alone.communicate(timeout=120)
        assert alone.returncode == 0, out + err
    return environment, (folder / "out/results.parquet").read_bytes()


@contextmanager
def started(folder: Path, environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "experiments.cli.run", *studies.merged(*LONG, *arguments)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=folder, env=environment, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def until(wanted: Callable[[], Any], process: subprocess.Popen[str], what: str) -> Any:
    deadline = time.monotonic() + 120
    while not (found := wanted()):
        assert process.poll() is None and time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


def finished(process: subprocess.Popen[str], folder: Path, expected: bytes) -> None:
    """The launching command ends well, and so did the study: as one process would have done it, no cell made twice."""
    out, err = process.communicate(timeout=240)
    said = "\n".join(path.read_text() for path in (folder / "jobs").rglob("*_log.*"))
    assert process.returncode == 0, out + err + said
    assert (folder / "results.parquet").read_bytes() == expected
    each_once(folder, 2)
    assert not (folder / "checkpoints").exists() and not (folder / "leases").exists()


@pytest.mark.slow
def test_joblib(long_study: tuple[dict[str, str], bytes], tmp_path: Path) -> None:
    needs("joblib")
    folder, (environment, expected) = tmp_path / "größe, 2 Läufe", long_study
    options = ("-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "shard=0,1")
    with started(tmp_path, environment, *options, f"out={folder.name}") as command:
        finished(command, folder, expected)
    assert len(told(folder, "study")) == 2


@pytest.mark.slow
def test_a_local_job_that_is_interrupted_goes_on(long_study: tuple[dict[str, str], bytes], tmp_path: Path) -> None:
    needs("submitit")
    folder, (environment, expected) = tmp_path / "größe 'zwei' Läufe", long_study
    options = ("-m", "hydra/launcher=submitit_local", "shard=0,1", "hydra.launcher.timeout_min=5")
    with started(tmp_path, environment, *options, f"out={folder.name}") as command:
        until(lambda: list(folder.glob("checkpoints/*/*.json")), command, "nothing was saved")
        process = told(folder, "compiled")[0]["process"]
        os.kill(int(process.partition(":")[2]), signal.SIGUSR2)
        finished(command, folder, expected)
    assert told(folder, "resumed")[0]["rounds"] > 0
    assert len(told(folder, "study")) == 3  # two shards, one of which was started again


# Engines other than Hydra's launchers: a command line for each process.


def test_the_kubernetes_job_runs_what_the_command_line_takes() -> None:
    job = yaml.safe_load((ROOT / "docs/kubernetes_job.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert spec["completionMode"] == "Indexed" and 1 <= spec["parallelism"] <= spec["completions"]
    assert pod["restartPolicy"] == "Never" and "podFailurePolicy" in spec  # which Kubernetes takes with Never alone
    assert pod["terminationGracePeriodSeconds"] > interrupt.PATIENCE + interrupt.GRACE
    (container,) = pod["containers"]
    assert spec["podFailurePolicy"]["rules"][0]["onExitCodes"]["containerName"] == container["name"]
    assert int(container["resources"]["limits"]["nvidia.com/gpu"]) >= 1
    assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
    (mount,) = container["volumeMounts"]
    assert container["command"] == ["llm-bandits"]
    for index in range(spec["completions"]):
        arguments = [text.replace("$(JOB_COMPLETION_INDEX)", str(index)) for text in container["args"]]
        assert not any("$(" in argument for argument in arguments)
        with hydra.initialize_config_module("conf", version_base="1.3"):
            composed = hydra.compose("config", overrides=run.open_overrides(arguments))
        settings = study_config.study_from(OmegaConf.to_container(composed, resolve=True))  # type: ignore[arg-type]
        assert settings.shard == index
        assert settings.out is not None and settings.out.startswith(f"{mount['mountPath']}/")


@pytest.mark.ray
def test_ray(call: CommandLine) -> None:
    if find_spec("ray") is None:
        pytest.skip("ray is not installed")
    call.done(*STUDY, "out=whole")
    shared = call.folder / "shared"
    command = [sys.executable, ROOT / "docs/ray_study.py", "--tasks", "2", *studies.merged(*STUDY, f"out={shared}")]
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": paths, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert (shared / "results.parquet").read_bytes() == (call.folder / "whole/results.parquet").read_bytes()
    each_once(shared, 4)
    assert {line["shard"] for line in told(shared, "study")} == {0, 1}


# A SLURM of one node.


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find it."""
    needs("submitit")
    missing = [name for name in ("slurmctld", "slurmd", "sbatch", "munged") if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"a SLURM of our own needs root, and programs that are not here: {', '.join(missing) or 'none'}")
    script, state = ROOT / "tests/slurm_one_node.sh", tmp_path / "slurm"
    try:
        subprocess.run([script, "start", state, free_port(), free_port()], check=True, timeout=60)
        yield {"SLURM_CONF": str(state / "slurm.conf")}
    finally:
        subprocess.run([script, "stop", state], check=True, timeout=60)


def scontrol(environment: dict[str, str], *arguments: str) -> str:
    asked = subprocess.run(["scontrol", *arguments], env=environment, check=True, capture_output=True, text=True)
    return asked.stdout


@pytest.mark.slurm
def test_jobs_that_are_preempted_go_on_after_their_requeue(
    slurm: dict[str, str], long_study: tuple[dict[str, str], bytes], tmp_path: Path
) -> None:
    """One hears submitit's signal, as it does before its time limit; one is put back by SLURM itself."""
    folder, (environment, expected) = tmp_path / "größe 'zwei' Läufe", long_study
    environment = environment | slurm
    options = ("-m", "hydra/launcher=submitit_slurm", "shard=range(0,2)", "hydra.launcher.timeout_min=5")
    with started(tmp_path, environment, *options, f"out={folder.name}") as command:
        until(
            lambda: len({path.parent for path in folder.glob("checkpoints/*/*.json")}) == 2,
            command,
            "nothing was saved",
        )
        shards = {line["process"]: line["shard"] for line in told(folder, "study")}
        (array,) = {path.name.partition("_")[0] for path in (folder / "jobs").glob("[0-9]*_*")}
        # Mostly two; on a busy machine the first shard may have taken everything before the second one came.
        first, *second = [f"{array}_{shards[line['process']]}" for line in told(folder, "compiled")]
        for number in ("TERM", "USR2"):  # as clusters do that announce a pre-emption
            subprocess.run(["scancel", f"--signal={number}", first], env=environment, check=True)
        for job in second:
            scontrol(environment, "requeue", job)
        finished(command, folder, expected)
    for job in (first, *second):
        assert re.search(r"JobState=COMPLETED(?s:.*)Restarts=1", scontrol(environment, "show", "job", job))
    rounds = [line["rounds"] for line in told(folder, "resumed")]
    assert len(rounds) >= 2 and min(rounds) > 0
    assert len(told(folder, "study")) == 3 + len(second)
