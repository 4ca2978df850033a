"""A study's folder is read while others write, and everything made of results is made again from it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.cli import commands, status
from experiments.report import dashboards
from experiments.report.dashboards import run_id
from experiments.results import cell_file, layout, study_folder
from experiments.results.cell_file import CellResult
from experiments.results.layout import study_digest
from tests import studies
from tests.synthetic import make_study

ROOT = Path(__file__).resolve().parent.parent
AWKWARD = "ein Ordner für 模型 [1]"
CONFIG = {"name": "pilot", "seeds": 3, "expected_exponents": {"ucb": {"regret": 0.5}}, "tracker": {"name": "jsonl"}}
RECORD = {"config": CONFIG, "versions": {"git": "0123456789abcdef"}}
HERE, GONE, ELSEWHERE = f"{socket.gethostname()}:{os.getpid()}", f"{socket.gethostname()}:4999999", "elsewhere:1"


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command in this process: exit code, standard output, standard error."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [f"llm-bandits-{name}", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            commands.COMMANDS[name]()
        said = capsys.readouterr()
        return int(str(left.value.code)), said.out, said.err

    return run


def cells() -> list[CellResult]:
    return make_study(policies=("ucb", "greedy"), budgets=(0.001,), horizons=(500, 1000, 2000), oracle=False, runs=3)


def plan(folder: Path, members: list[CellResult]) -> None:
    entries = [
        {"cell": about.cell, "policy": about.policy, "horizon": about.horizon, "seeds": 3, "swept": {}}
        for about in (cell.info for cell in members)
    ]
    (folder / layout.PLAN).write_text(json.dumps(entries), encoding="utf-8")


def make_folder(folder: Path, there: list[CellResult], planned: list[CellResult] | None = None) -> Path:
    """A folder as a study leaves it when it stops: cells, record, plan."""
    (folder / "cells").mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(RECORD), encoding="utf-8")
    plan(folder, planned or there)
    for cell in there:
        cell_file.write_cell(folder, cell)
    return folder


def write_events(folder: Path, *events: dict[str, Any]) -> None:
    """Lines as the log writes them; ``ago`` seconds before now."""
    lines = []
    for event in events:
        ago = event.pop("ago", 0.0)
        version_id = (datetime.now(UTC) - timedelta(seconds=ago)).isoformat(timespec="milliseconds")
        lines.append(json.dumps({"time": version_id} | event))
    with (folder / layout.EVENTS).open("a", encoding="utf-8") as log:
        log.write("\n".join(lines) + "\n")


def beat(process: str, uptime: float, decisions: int, **more: Any) -> dict[str, Any]:
    told = {"decisions": decisions, "of": 10_000, "doing": "ucb: 3 cells"}
    return {"event": "progress", "process": process, "uptime_s": uptime} | told | more


def begin(process: str = HERE) -> dict[str, Any]:
    return {"event": "study", "process": process, "uptime_s": 0.0, "cells": 6}


def stored(process: str, uptime: float) -> dict[str, Any]:
    return {"event": "cell", "cell": "x", "process": process, "uptime_s": uptime}


# How far a study is


def test_a_study_under_way(tmp_path: Path, call: Callable) -> None:
    members = cells()
    folder = make_folder(tmp_path / AWKWARD, members[:2], members)
    ids = [cell.info.cell for cell in members]
    write_events(
        folder,
        *(begin(), beat(HERE, 0.0, 0), stored(HERE, 20.0), beat(HERE, 30.0, 1000), stored(HERE, 50.0)),
        {"event": "failed", "cells": [ids[3]], "policy": "greedy", "error": "RuntimeError: [no] hope"},
        *(beat(HERE, 90.0, 4000), {"event": "warning", "text": "odd"}, {"event": "damaged", "cell": ids[0]}),
    )
    (folder / "leases").mkdir()
    for name, owner in (("item.0", GONE), ("item.1", HERE), ("other.0", GONE)):
        host, _, pid = owner.partition(":")
        lease = {"token": "t", "host": host, "pid": int(pid), "cells": [ids[4]] if "item" in name else [ids[5]]}
        (folder / "leases" / name).write_text(json.dumps(lease))
    (folder / "leases" / "torn.0").write_text("{")
    (folder / "leases" / "t.beat").write_text("000000000003")
    found = status.read(folder)
    assert (found.cells, found.done, found.running, found.missing, len(found.failed)) == (6, 2, 1, 3, 1)
    assert found.decisions_per_minute == pytest.approx(3000)  # between 30 s and 90 s
    assert found.cells_per_minute == pytest.approx(1)
    left = sum(3 * cell.info.horizon for cell in (members[2], members[4], members[5]))
    assert found.seconds_left == pytest.approx(60 * min(left, 6000) / 3000)
    assert (found.damaged, found.warnings, found.at_work) == (1, 1, True)
    assert [(part.policy, part.cells, part.done, part.failed) for part in found.parts] == [
        ("ucb", 3, 1, 0),
        ("greedy", 3, 1, 1),
    ]
    code, out, err = call("status", folder)
    assert (code, err) == (status.FAILED, "")
    assert "2 of 6 cells done, 1 failed, 1 being simulated, 2 to do" in out
    assert "RuntimeError: [no] hope" in out and ids[3] in out and "3 k decisions a minute" in out
    code, out, err = call("status", "--json", folder)
    told = json.loads(out)
    assert code == told["code"] == 1 and told["failed"][0]["policy"] == "greedy" and told["at_work"]


def test_a_study_of_which_only_the_report_is_missing(tmp_path: Path, call: Callable) -> None:
    folder = make_folder(tmp_path / "out", cells())
    write_events(folder, begin(), beat(HERE, 9.0, 10_000, doing="making tables, figures and report"))
    code, out, _ = call("status", folder)
    assert code == status.DONE and "making tables" in out and "rate" not in out and "a minute" not in out


def test_failures_are_forgotten_when_the_study_is_begun_again_or_the_cell_is_there(tmp_path: Path) -> None:
    members = cells()
    folder = make_folder(tmp_path / "out", members[:1], members)
    ids = [cell.info.cell for cell in members]
    failure = {"event": "failed", "cells": ids[:2], "policy": "ucb", "error": "no"}
    write_events(folder, begin(), failure)
    assert [found.cell for found in status.read(folder).failed] == [ids[1]]
    write_events(folder, begin())
    assert status.read(folder).failed == () and status.read(folder).code == status.INCOMPLETE


def test_clocks_that_jump_give_no_nonsense(tmp_path: Path, call: Callable) -> None:
    folder = make_folder(tmp_path / "out", cells()[:1], cells())
    ahead = {"ago": -7200.0}  # the timeline stood two hours ahead, and was then put back
    write_events(folder, begin() | ahead, beat(HERE, 1.0, 10) | ahead, beat(HERE, 31.0, 31, ago=5.0))
    found = status.read(folder)
    assert found.decisions_per_minute == pytest.approx(60)
    write_events(folder, beat(HERE, 41.0, 41) | ahead)
    found = status.read(folder)
    assert found.decisions_per_minute == pytest.approx(60)
    assert found.processes[0].silent_s is None and found.at_work
    assert found.seconds_left is not None and found.seconds_left > 0
    write_events(folder, begin(), beat(HERE, 0.0, 5))  # no time has passed, as far as anybody knows
    found = status.read(folder)
    assert found.decisions_per_minute is None and found.seconds_left is None
    assert "unknown" in call("status", folder)[1]


@pytest.mark.parametrize(
    ("process", "ago", "alive"),
    [(HERE, 9999.0, True), (GONE, 0.0, False), (ELSEWHERE, 30.0, True), (ELSEWHERE, 9999.0, False)],
    ids=["this process", "gone", "elsewhere", "elsewhere and silent"],  # the same in every worker
)
def test_who_is_at_work(tmp_path: Path, call: Callable, process: str, ago: float, alive: bool) -> None:
    folder = make_folder(tmp_path / "out", cells()[:1], cells())
    write_events(folder, begin(process) | {"ago": ago}, beat(process, 1.0, 10, ago=ago))
    assert status.read(folder).at_work == alive
    assert ("nobody is at work" in call("status", folder)[1]) == (not alive)
    write_events(folder, {"event": "finished", "process": process, "uptime_s": 3.0})
    assert not status.read(folder).at_work


def test_rates_of_several_processes_add_up(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "out", cells()[:1], cells())
    for process, fast in ((HERE, 60), (ELSEWHERE, 120), (GONE, 1000)):
        write_events(folder, begin(process), beat(process, 0.0, 0), beat(process, 60.0, fast))
    found = status.read(folder)
    assert found.decisions_per_minute == pytest.approx(180)
    assert [process.alive for process in found.processes] == [True, True, False]


def test_a_forced_run_counts_what_it_has_replaced(tmp_path: Path) -> None:
    members = cells()
    folder = make_folder(tmp_path / "out", members)
    ids = [cell.info.cell for cell in members]
    stamps = {cell: cell_file.version_id(folder, cell) for cell in ids[:4]}
    (folder / "overwrite.json").write_text(json.dumps(stamps))
    cell_file.write_cell(folder, members[0])
    assert status.read(folder).done == 3  # one made anew, two that stay
    (folder / "overwrite.json").write_text("{")
    assert status.read(folder).done == 6


def test_a_folder_that_says_little_is_enough(tmp_path: Path, call: Callable) -> None:
    folder = make_folder(tmp_path / "out", cells()[:2])
    (folder / layout.PLAN).unlink()
    assert call("status", folder)[0] == status.INCOMPLETE
    (folder / layout.EVENTS).write_text('{"time": "2026-01-01", "event": "study", "cells": 2}\n[1]\n{"event": "ce')
    code, out, _ = call("status", folder)
    assert code == status.DONE and "2 of 2 cells done" in out


@pytest.mark.parametrize("name", ["status", "report", "sync"])
def test_what_is_no_study_is_refused_in_one_sentence(tmp_path: Path, call: Callable, name: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for content in ("[", "a: 1", "config: 3"):
        folder = tmp_path / f"odd {content}"
        folder.mkdir()
        (folder / "config.yaml").write_text(content)
    wrong: list[tuple[object, ...]] = [(path,) for path in [*tmp_path.iterdir(), tmp_path / "nowhere"]]
    for arguments in [*wrong, (), ("--nonsense", tmp_path), (tmp_path, "more")]:
        code, out, err = call(name, *arguments)
        assert (code, out) == (2, ""), arguments
        assert err.startswith("error: ") and err.count("\n") == 1, err


def test_status_is_quick_because_it_imports_little() -> None:
    heavy = "{'jax', 'numpy', 'pyarrow', 'matplotlib', 'wandb', 'scipy'}"
    script = (
        f"import sys, experiments.cli.commands, experiments.cli.status; sys.exit(bool({heavy} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


def test_watching_ends_when_nobody_is_at_work(tmp_path: Path, call: Callable) -> None:
    folder = make_folder(tmp_path / "out", cells()[:1], cells())
    write_events(folder, begin(), beat(HERE, 1.0, 10))
    sleep, naps = time.sleep, []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            write_events(folder, {"event": "finished", "process": HERE, "uptime_s": 9.0})
        sleep(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(status.time, "sleep", nap)
        code, out, _ = call("status", folder, "--watch", "7")
    assert (code, naps, out.count("1 of 6 cells done")) == (status.INCOMPLETE, [7.0, 7.0], 3)
    assert call("status", folder, "--watch", "-3")[0] == 2


# Everything again, from the folder alone


def files(folder: Path) -> dict[str, bytes]:
    """What was published."""
    names = [path for path in folder.rglob("*") if path.is_file() and "wandb" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in names if path.name != layout.EVENTS}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of a study, reported once."""
    members = cells()
    folder = make_folder(tmp_path_factory.mktemp("reported") / AWKWARD, members[:5], members)
    assert commands._report([str(folder)]) == 0
    return folder


def test_reporting_twice_gives_the_same_files(reported: Path, call: Callable) -> None:
    before = files(reported)
    assert {"report.html", "summary.json", "tables.md", "tables.tex", "results.parquet", "results.csv"} <= before.keys()
    assert "The study is not complete: 5 of 6 cells are there." in before["report.html"].decode()
    assert json.loads(before["summary.json"])["planned"] == 6
    code, out, err = call("report", reported)
    assert (code, err) == (0, "") and str(reported / "report.html") in out
    assert files(reported) == before


def test_a_damaged_cell_is_left_out_and_named(reported: Path, tmp_path: Path, call: Callable) -> None:
    folder = shutil.copytree(reported, tmp_path / "copy")
    first, *others = sorted(layout.stored(folder))
    path = cell_file.cell_path(folder, first)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.report.page.write_all", lambda cells, folder: [])
        code, _, err = call("report", folder)
        assert code == 0 and first in err and err.startswith("warning: ") and err.count("\n") == 1
        for cell in others:
            cell_file.cell_path(folder, cell).unlink()
        path.unlink()
        code, _, err = call("report", folder)
        assert code == 2 and "no finished cell" in err


def test_a_folder_that_cannot_be_written_is_told(reported: Path, tmp_path: Path, call: Callable) -> None:
    folder = shutil.copytree(reported, tmp_path / "copy")
    (folder / "results.parquet").unlink()
    (folder / "results.parquet").mkdir()
    code, _, err = call("report", folder)
    assert code == 2 and "cannot be written" in err and err.count("\n") == 1


def test_syncing_twice_writes_the_same_runs(reported: Path, tmp_path: Path, call: Callable) -> None:
    """The study itself ran without W&B."""
    folder = shutil.copytree(reported, tmp_path / AWKWARD)
    wanted = {run_id(RECORD, cell) for cell in layout.stored(folder)} | {f"{study_digest(CONFIG)}-aggregate"}
    for _ in range(2):
        code, out, err = call("sync", folder, "--project", "mine", "--mode", "offline")
        assert (code, err) == (0, "") and "6 runs; to upload: wandb sync" in out
        found = [path.name.split("-", 3)[-1] for path in (folder / "wandb").glob("offline-run-*")]
        assert sorted(found) == sorted(wanted)
    assert files(folder) == files(reported)
    event = list(study_folder.read_events(folder))[-1]
    assert event["event"] == "wandb" and event["runs"] == 6


def test_what_a_sync_is_told_is_checked_before_anything_is_written(reported: Path, call: Callable) -> None:
    before = files(reported)
    for arguments, wanted in (
        (("--mode", "onlin"), "did you mean 'online'?"),
        (("--project", "a/b"), "no project name"),
    ):
        code, _, err = call("sync", reported, *arguments)
        assert code == 2 and wanted in err and err.count("\n") == 1
    assert files(reported) == before
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.report.page.write_all", lambda cells, folder: [])
        patch.setitem(sys.modules, "wandb", None)
        patch.setenv("WANDB_MODE", "disabled")
        code, out, _ = call("sync", reported)
        assert code == 0 and "switched off" in out
        patch.setenv("WANDB_MODE", "offline")
        code, out, _ = call("sync", reported)
        assert code == 1 and "wandb is not installed" in out and "results are complete" in out
    assert commands._report([str(reported)]) == 0


def test_a_study_is_followed_while_it_runs_and_made_again_after_it(tmp_path: Path, call: Callable) -> None:
    """A real one, in a process of its own."""
    out = tmp_path / AWKWARD
    command = [sys.executable, "-m", "experiments.cli.run", *studies.merged("sweep.horizon=[20,40]", f"out={out}")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    codes = set()
    try:
        while started.poll() is None:
            if (out / layout.PLAN).is_file():
                found = status.read(out)
                codes.add(found.code)
                assert found.cells == 2 and found.failed == ()
            time.sleep(0.1)
    finally:
        started.kill()
        said, _ = started.communicate()
    assert started.returncode == 0, said.decode()
    assert status.INCOMPLETE in codes
    code, told, _ = call("status", out, "--json")
    assert (code, json.loads(told)["at_work"]) == (0, False)
    before = files(out)
    code, _, err = call("report", out)
    assert (code, err) == (0, "")
    assert files(out) == before
    events = list(study_folder.read_events(out))
    kinds = [event["event"] for event in events]
    assert kinds[-1] == "finished" and {"study", "progress", "compiled", "cell"} <= set(kinds)
    last = [event for event in events if event["event"] == "progress"][-1]
    assert last["decisions"] == last["of"] == 2 * (20 + 40) and last["doing"].startswith("making tables")


def test_the_scripts_name_commands_that_exist() -> None:
    for name in commands.COMMANDS:
        assert f"-m experiments.cli.commands {name} " in (ROOT / "scripts" / name).read_text(encoding="utf-8")
        assert os.access(ROOT / "scripts" / name, os.X_OK)


def test_patience_is_finite() -> None:
    assert 0 < dashboards.PATIENCE_SECONDS <= 60
