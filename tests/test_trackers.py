"""Trackers lose no line and no result, whatever the disk, the network or W&B does."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import types
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from envs.errors import InputError
from experiments.config import study as study_config
from experiments.report import dashboards
from experiments.report.dashboards import (
    WandbOutcome,
    WandbSettings,
    finals,
    history,
    resolve_mode,
    run_id,
    run_table,
    settings_from,
    sync_command,
    sync_wandb,
)
from experiments.report.summary import Summary, summarise
from experiments.results.events import EventLog, plain
from experiments.results.layout import study_digest
from tests import studies
from tests.synthetic import make_cell, make_study

ROOT = Path(__file__).resolve().parent.parent
CONFIG = {
    "config": {"name": "pilot", "horizon": 1000, "out": None, "tracker": {"name": "wandb"}},
    "versions": {"jax": "0.10.2", "git": "0123456789abcdef0123456789abcdef01234567"},
}
NOTHING = Summary(level=0.95, planned=0, cells=(), exponents=())
FIGURE = (  # the smallest PNG: one white pixel
    "89504e470d0a1a0a0000000d49484452000000010000000108000000003a7e9b550000000a49444154789c63f80f00010101001bb6ee56"
    "0000000049454e44ae426082"
)


def lines(path: Path) -> list[dict]:
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / "events.jsonl")


# JSON lines


def test_lines_are_strict_json_with_time_and_event(log: EventLog) -> None:
    log.write(
        "cell", regret=np.float32(2.5), bad=[float("nan"), np.inf], text="Größe 模型\u2028\udcff", path=Path("a/b")
    )
    log.write("cell", time=3, event="inner", seeds=np.arange(3), flag=np.bool_(True), large=np.zeros((100, 2)))
    first, second = lines(log.path)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", first.pop("time"))
    assert first.pop("process").endswith(f":{os.getpid()}") and first.pop("uptime_s") >= 0
    assert first == {
        "event": "cell",
        "regret": 2.5,
        "bad": [None, None],
        "text": "Größe 模型\u2028\udcff",
        "path": "a/b",
    }
    assert second["event"] == "cell" and second["event_"] == "inner" and second["time_"] == 3
    assert second["seeds"] == [0, 1, 2] and second["flag"] is True
    assert second["large"] == {"shape": [100, 2], "dtype": "float64"}
    assert "Größe 模型" in log.path.read_text(encoding="utf-8")


def test_values_of_other_libraries_become_plain() -> None:
    import jax
    import jax.numpy as jnp

    assert plain(jnp.float32(0.5)) == 0.5
    assert plain(jnp.arange(2, dtype=jnp.bfloat16)) == [0.0, 1.0]
    assert isinstance(plain(jax.random.key(0)), str)
    assert isinstance(plain(np.longdouble(1)), str)
    assert plain({1: (np.int8(3), None, {"a"})}) == {"1": [3, None, ["a"]]}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_two_processes_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    script = (
        "import os, sys; from experiments.results.events import EventLog\n"
        "log, child = EventLog(sys.argv[1]), os.fork()\n"
        "for number in range(400): log.write('x', writer='ab'[child == 0], number=number, text='ä' * number * 10)\n"
        "if child: sys.exit(os.waitpid(child, 0)[1])\n"
    )
    subprocess.run([sys.executable, "-c", script, path], cwd=ROOT, check=True, timeout=60)
    found = lines(path)
    for name in "ab":
        assert [line["number"] for line in found if line["writer"] == name] == list(range(400))


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), BrokenPipeError(32, "Broken pipe")]
)
def test_a_failing_disk_is_told_once_and_costs_lines_only(log, error, monkeypatch, capsys) -> None:
    def fail(handle, content):
        raise error

    log.write("before")
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", fail)
        log.write("lost")
        log.write("lost")
    log.write("after")
    assert [line["event"] for line in lines(log.path)] == ["before", "after"]
    warning = capsys.readouterr().err
    assert warning.count("warning:") == 1 and error.strerror in warning and str(log.path) in warning


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_really_full_device_and_a_folder_that_cannot_be(tmp_path: Path, capsys) -> None:
    EventLog("/dev/full").write("lost")
    (tmp_path / "file").touch()
    EventLog(tmp_path / "file" / "events.jsonl").write("lost")
    assert capsys.readouterr().err.count("warning:") == 2


def test_a_closed_stderr_is_no_error(monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    EventLog("/proc/nowhere/events.jsonl").write("lost")


def test_a_torn_line_does_not_swallow_the_next(log: EventLog, monkeypatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, content: real(handle, content[: len(content) // 2]))
        log.write("torn", text="x" * 50)
    log.write("whole")
    torn, whole = log.path.read_text().splitlines()
    assert not torn.endswith("}") and json.loads(whole)["event"] == "whole"
    log.path.write_text("torn by a killed process")
    EventLog(log.path).write("whole")
    assert json.loads(log.path.read_text().splitlines()[1])["event"] == "whole"


# Settings


@pytest.mark.parametrize("name", ["jsonl", "wandb"])
def test_shipped_configurations_are_valid_and_every_key_is_commented(name: str, tmp_path: Path) -> None:
    text = (ROOT / "conf" / "tracker" / f"{name}.yaml").read_text(encoding="utf-8")
    assert all(" # " in line for line in text.splitlines())
    settings = settings_from(yaml.safe_load(text), "pilot", tmp_path)
    expected = WandbSettings(project="llm-bandits", group="pilot", folder=tmp_path)
    assert settings == (None if name == "jsonl" else expected)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"name": "wand"}, "did you mean 'wandb'?"),
        ({}, "there is no tracker None"),
        ({"name": "wandb", "projects": "x"}, "did you mean 'project'?"),
        ({"name": "jsonl", "project": "x"}, "unknown key 'project' for jsonl"),
        ({"name": "wandb", "mode": "ofline"}, "did you mean 'offline'?"),
        ({"name": "wandb", "mode": False}, "there is no mode False"),
        ({"name": "wandb", "project": "team/project"}, "no project name"),
        ({"name": "wandb", "project": None}, "no project name"),
        ({"name": "wandb", "entity": 3}, "no W&B user"),
        ({"name": "wandb", "tags": "pilot"}, "[pilot]"),
        ({"name": "wandb", "tags": [""]}, "no tag"),
        ({"name": "wandb", "tags": ["x" * 65]}, "no tag"),
        ({"name": "wandb", "tags": [3]}, "no tag"),
    ],
)
def test_bad_settings_are_refused_in_one_sentence(given: dict, wanted: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape(wanted)) as caught:
        settings_from(given, "pilot", tmp_path)
    assert str(caught.value).startswith("tracker") and "\n" not in str(caught.value)


def test_the_environment_wins_over_the_configuration() -> None:
    assert resolve_mode("online", {"WANDB_MODE": "offline"}) == "offline"
    assert resolve_mode("online", {"WANDB_MODE": ""}) == "online"
    assert resolve_mode("disabled", {}) == "disabled"
    assert resolve_mode(None, {"WANDB_API_KEY": "x"}) == "offline"
    with pytest.raises(InputError, match=r"WANDB_MODE: .* did you mean 'online'"):
        resolve_mode(None, {"WANDB_MODE": "onlin"})


def test_a_bad_variable_is_found_before_the_study_and_costs_nothing_after_it(tmp_path: Path, log, monkeypatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "onlin")
    with pytest.raises(InputError, match="WANDB_MODE"):
        settings_from({"name": "wandb"}, "pilot", tmp_path)
    assert settings_from({"name": "jsonl"}, "pilot", tmp_path) is None
    assert sync([make_cell()], tmp_path, log).error.startswith("WANDB_MODE: there is no mode 'onlin'")


# What is sent, with a made-up W&B


class FakeRun:
    def __init__(self, wandb, arguments):
        self.wandb, self.arguments = wandb, arguments
        self.url = "https://wandb.example/team/project/runs/x" if arguments["mode"] == "online" else None
        self.dir = str((wandb.folder or Path(arguments["dir"]) / "wandb" / f"run-{arguments['id']}") / "files")
        self.rows, self.summary, self.metrics, self.artifacts, self.exits = [], {}, [], [], []

    def define_metric(self, *names, **options):
        self.metrics.append((names, options))

    def log(self, row):
        self.wandb.maybe_fail("log")
        self.rows.append(row)

    def log_artifact(self, artifact):
        self.artifacts.append(artifact)

    def finish(self, exit_code=0):
        self.exits.append(exit_code)
        self.wandb.maybe_fail("finish")


class FakeWandb(types.ModuleType):
    """Fails at ``fail_at`` once ``patience`` calls of that name went well."""

    def __init__(self):
        super().__init__("wandb")
        self.folder = None
        self.runs, self.seen, self.fail_at, self.patience, self.error = [], [], None, 0, RuntimeError("no\nluck")

    def maybe_fail(self, where):
        if where == self.fail_at:
            self.patience -= 1
            if self.patience < 0:
                raise self.error

    def init(self, **arguments):
        self.maybe_fail("init")
        self.seen.append({name: os.environ.get(name) for name in ("WANDB_SILENT", "WANDB_CACHE_DIR")})
        self.runs.append(FakeRun(self, arguments))
        return self.runs[-1]

    def Settings(self, **options):
        return options

    def Table(self, columns, data):
        self.maybe_fail("Table")
        return types.SimpleNamespace(columns=columns, data=data, typical=data[0])

    def Image(self, path, caption):
        return f"image of {Path(path).name}: {caption}"

    def Artifact(self, name, type):
        artifact = types.SimpleNamespace(name=name, type=type, files=[])
        artifact.add_file = lambda path: artifact.files.append(Path(path).name)
        return artifact


@pytest.fixture
def wandb(monkeypatch) -> FakeWandb:
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def sync(cells, folder: Path, log: EventLog, summary=None, **settings) -> WandbOutcome:
    return sync_wandb(cells, CONFIG, summary or NOTHING, folder, WandbSettings(group="pilot", **settings), log)


def test_a_run_a_cell_and_an_aggregate(tmp_path: Path, log: EventLog, wandb: FakeWandb) -> None:
    cells = make_study(policies=("ucb",), budgets=(0.001, None), horizons=(500, 1000, 2000), runs=4, marks=6)
    (tmp_path / "figures").mkdir()
    for name in ("regret", "mine"):
        (tmp_path / "figures" / f"{name}.png").touch()
    (tmp_path / "figures" / "index.json").write_text('[{"name": "regret", "caption": "Regret."}]')
    (tmp_path / "summary.json").touch()
    outcome = sync(cells, tmp_path, log, summarise(cells), tags=("mine",), entity="team")
    *runs, aggregate = wandb.runs
    assert outcome.error is None and outcome.runs == len(wandb.runs) == len(cells) + 1
    assert {run.arguments["group"] for run in wandb.runs} == {f"pilot-{study_digest(CONFIG['config'])}"}
    assert {run.arguments["mode"] for run in wandb.runs} == {"offline"}
    assert {run.arguments["entity"] for run in wandb.runs} == {"team"}
    assert {run.arguments["dir"] for run in wandb.runs} == {str(tmp_path)}
    assert all(run.exits == [0] for run in wandb.runs)
    assert len({run.arguments["id"] for run in wandb.runs}) == len({run.arguments["name"] for run in wandb.runs})
    first = runs[0].arguments
    assert first["job_type"] == "cell" and first["tags"] == ["ucb", "edge_cloud", "0123456", "mine"]
    assert first["name"] == "ucb | T=500 | 0.001 USD a task"
    assert (
        first["config"]["policy"] == "ucb"
        and first["config"]["asked"] == CONFIG["config"]
        and first["config"]["runs"] == 4
    )
    assert runs[0].metrics == [(("*",), {"step_metric": "t"})]
    assert first["settings"]["x_disable_stats"] and first["settings"]["init_timeout"] == 30
    assert aggregate.arguments["job_type"] == "aggregate" and aggregate.arguments["tags"][0] == "edge_cloud"
    assert aggregate.rows[0]["figures/regret"] == "image of regret.png: Regret."
    assert "figures/mine" not in aggregate.rows[0]
    table = aggregate.rows[0]["cells"]
    assert len(table.data) == len(cells) and "overspend" in table.columns and "target" in table.columns
    means = [row[table.columns.index("regret")] for row in table.data]
    assert means == pytest.approx([cell.final("regret").mean() for cell in cells])
    assert aggregate.rows[0]["study/cells"] == aggregate.rows[0]["study/planned"] == 6 * 2
    assert aggregate.artifacts[0].files == ["summary.json"]
    assert len(aggregate.rows[0]["runs"].data) == 4 * len(cells)
    assert aggregate.summary["fit/ucb/0.001/regret/slope"] == pytest.approx(0.5, abs=0.2)
    assert len(aggregate.rows[0]["exponents"].data) == sum("/slope" in name[-6:] for name in aggregate.summary)


def test_history_and_finals_are_the_results_own_numbers(tmp_path: Path) -> None:
    cell = make_cell(runs=5, marks=7)
    rows = history(cell)
    assert [row["t"] for row in rows] == cell.eval_rounds.tolist()
    assert rows[-1]["regret/mean"] == pytest.approx(cell.final("regret").mean())
    assert rows[-1]["regret/ci_low"] < rows[-1]["regret/mean"] < rows[-1]["regret/ci_high"]
    assert rows[2]["share/edge-small"] == cell.share[2, 0]
    assert not any("dual_latency" in name for name in rows[0])  # it is NaN throughout
    entry = summarise([cell]).cells[0]
    values = finals(cell, entry)
    for name, part in (("regret_mean", "mean"), ("regret_low", "low"), ("regret_high", "high")):
        assert values[f"final/{name}"] == entry.to_json()["regret"][part]
    assert values["final/violation_mean"] == entry.mean("violation")
    assert values["final/reward_mean"] == pytest.approx(cell.final("reward").mean())
    for name in ("reward_share", "spent_share", "overspend"):
        assert values[f"final/{name}"] == entry.mean(name)
    assert values["coverage/latency"] == pytest.approx(cell.coverage[-1, :, 2].mean())
    assert values["wall_s"] == 0.25 and values["final/runs_failed"] == 0
    assert all(value is not None and np.isfinite(value) for value in values.values())
    # The summary measures the forecast half way, since it is always right at the end.
    without = {name: value for name, value in finals(cell, None).items() if "forecast_error" not in name}
    assert without == pytest.approx({name: values[name] for name in without})


def test_history_of_awkward_cells() -> None:
    single = history(make_cell(runs=1))[-1]
    assert "regret/mean" in single and "regret/ci_low" not in single
    many = make_cell(models=[f"m{number}" for number in range(21)])
    assert not any(name.startswith("share/") for name in history(many)[-1])
    cell = make_cell(runs=3, target=None, budget_per_task=None)
    curves = cell.curves.copy()
    curves[0, -1, :] = np.nan
    row = history(replace(cell, curves=curves))[-1]
    assert row["regret/mean"] == pytest.approx(cell.final("regret")[1:].mean())
    assert all(np.isfinite(value) for value in row.values())


def test_ids_stay_and_differ() -> None:
    digest = study_digest(CONFIG["config"])
    assert run_id(CONFIG, "0123456789abcdef") == f"{digest}-0123456789ab"
    assert run_id(CONFIG, "ucb-1000-0.001") != run_id(CONFIG, "ucb-1000-0.002")
    assert re.fullmatch("[0-9a-f]{8}-[0-9a-f]{12}", run_id(CONFIG, "any/thing at all"))
    elsewhere = CONFIG["config"] | {"out": "/x", "tracker": {"name": "jsonl"}}
    assert study_digest(elsewhere) == digest
    assert study_digest(CONFIG["config"] | {"horizon": 2000}) != digest


def test_large_tables_are_cut_evenly_and_say_so(tmp_path: Path, log, wandb: FakeWandb, monkeypatch) -> None:
    monkeypatch.setattr(dashboards, "MOST_ROWS", 10)
    cells = [make_cell(name, runs=6) for name in ("ucb", "greedy", "random")]
    sync(cells, tmp_path, log)
    aggregate = wandb.runs[-1]
    table = aggregate.rows[0]["runs"]
    assert [row[table.columns.index("policy")] for row in table.data] == ["ucb"] * 3 + ["greedy"] * 3 + ["random"] * 3
    assert aggregate.summary["table/runs_shown"] == 9 and aggregate.summary["table/runs_total"] == 18
    monkeypatch.setattr(dashboards, "MOST_ROWS", 2)
    assert len(run_table(cells)[1]) == 2


def test_table_columns_have_one_type_each(tmp_path: Path, log: EventLog, wandb: FakeWandb) -> None:
    cells = [make_cell(swept={"step": 0.5}), make_cell("greedy", swept={"step": "auto"}, target=None)]
    sync(cells, tmp_path, log)
    table = wandb.runs[-1].rows[0]["runs"]
    assert {row[table.columns.index("step")] for row in table.data} == {"0.5", "auto"}
    assert {row[table.columns.index("target")] for row in table.data} == {0.8, None}
    assert table.typical[table.columns.index("target")] == 0.8
    assert {"demand_total", "seed", "regret", "spent"} <= set(table.columns) and table.columns[0] == "cell"


def test_a_summary_that_lacks_the_cell_is_enough(tmp_path: Path, log, wandb: FakeWandb) -> None:
    cell = make_cell()
    assert sync([cell], tmp_path, log, NOTHING).error is None
    assert wandb.runs[0].summary["final/regret_mean"] == pytest.approx(cell.final("regret").mean())
    assert wandb.runs[0].arguments["name"].startswith("ucb | T=1000")


@pytest.mark.parametrize(
    ("fail_at", "patience", "opened", "finished"),
    [("init", 0, 0, 0), ("init", 2, 2, 2), ("log", 30, 2, 1), ("finish", 1, 2, 1), ("Table", 0, 4, 3)],
)
def test_an_error_of_wandb_ends_the_writing_and_nothing_else(
    tmp_path: Path, log, wandb: FakeWandb, fail_at: str, patience: int, opened: int, finished: int
) -> None:
    wandb.fail_at, wandb.patience = fail_at, patience
    cells = [make_cell(name, marks=20) for name in ("ucb", "greedy", "random")]
    outcome = sync(cells, tmp_path, log)
    assert outcome.error.startswith("RuntimeError: no luck; ") and outcome.runs == finished
    assert f"llm-bandits-sync {tmp_path} writes the runs later" in outcome.error
    assert len(wandb.runs) == opened and all(run.exits for run in wandb.runs)
    assert [run.exits[0] for run in wandb.runs].count(1) == (fail_at in ("log", "Table"))
    assert (outcome.sync_command is None) == (finished == 0)
    event = lines(log.path)
    assert len(event) == 1 and event[0]["event"] == "wandb" and event[0]["error"] == outcome.error
    assert "results are complete" in outcome.sentence


def test_interruption_passes_through_and_leaves_no_open_run(tmp_path: Path, log, wandb: FakeWandb) -> None:
    wandb.fail_at, wandb.error = "log", KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        sync([make_cell()], tmp_path, log)
    assert wandb.runs[0].exits == [1]
    assert "WANDB_CACHE_DIR" not in os.environ


def test_a_missing_or_broken_package_is_told(tmp_path: Path, log: EventLog, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert sync([make_cell()], tmp_path, log).error.startswith("wandb is not installed; pip install wandb")
    monkeypatch.delitem(sys.modules, "wandb")
    (tmp_path / "wandb.py").write_text("raise RuntimeError('broken installation')")
    monkeypatch.syspath_prepend(tmp_path)
    assert sync([make_cell()], tmp_path, log).error.startswith("RuntimeError: broken installation")


def test_a_folder_that_cannot_be_written_is_told_before_wandb_goes_elsewhere(tmp_path: Path, log, wandb) -> None:
    (tmp_path / "wandb").touch()
    outcome = sync([make_cell()], tmp_path, log)
    assert outcome.error.startswith(f"cannot write to {tmp_path / 'wandb'}: ") and not wandb.runs
    assert outcome.folder is None and outcome.sync_command is None


def test_a_read_only_folder_is_told(tmp_path: Path, log, wandb, monkeypatch) -> None:
    def refuse(**options):
        raise PermissionError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(dashboards.tempfile, "TemporaryFile", refuse)
    assert "wandb: Read-only file system" in sync([make_cell()], tmp_path, log).error


def test_results_may_lie_elsewhere_than_what_wandb_writes(tmp_path: Path, log, wandb: FakeWandb) -> None:
    settings = WandbSettings(folder=tmp_path / "own")
    outcome = sync_wandb([make_cell()], CONFIG, NOTHING, tmp_path / "results", settings, log)
    assert outcome.folder == tmp_path / "own" / "wandb" and not (tmp_path / "results").exists()


def test_online_gives_the_projects_address_and_no_command(tmp_path: Path, log, wandb, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    outcome = sync([make_cell()], tmp_path, log, mode="online")
    assert outcome.url == "https://wandb.example/team/project" and outcome.sync_command is None
    assert outcome.sentence == "2 runs: https://wandb.example/team/project"
    wandb.fail_at = "init"
    assert "--mode offline" in sync([make_cell()], tmp_path, log, mode="online").error


def test_disabled_does_not_even_import(tmp_path: Path, log: EventLog, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    outcome = sync([make_cell()], tmp_path, log, mode="online")
    assert outcome.mode == "disabled" and outcome.error is None and outcome.sentence == "switched off"
    assert not (tmp_path / "wandb").exists()


def test_only_earlier_offline_copies_of_the_same_run_are_removed(tmp_path: Path, log, wandb, monkeypatch) -> None:
    cell = make_cell()
    identity = run_id(CONFIG, cell.info.cell)
    version_id = "offline-run-20260101_000000"
    gone = [f"{version_id}-{identity}", f"{version_id}-{identity}-1"]
    kept = [
        f"{version_id}-{identity}x",
        f"{version_id}-x{identity}",
        f"run-20260101_000000-{identity}",
        f"{version_id}-other",
    ]
    for name in (*gone, *kept):
        (tmp_path / "wandb" / name).mkdir(parents=True)
    with monkeypatch.context() as patch:
        patch.setattr(wandb, "fail_at", "log")
        sync([cell], tmp_path, log)
        assert all((tmp_path / "wandb" / name).is_dir() for name in gone)
    sync([cell], tmp_path, log)
    assert sorted(path.name for path in (tmp_path / "wandb").iterdir()) == sorted(kept)
    same = tmp_path / "wandb" / gone[0] / "files"  # a second sync within the same second
    same.mkdir(parents=True)
    wandb.folder = same.parent
    sync([cell], tmp_path, log)
    assert same.is_dir()


def test_the_environment_is_set_for_wandb_and_put_back(tmp_path: Path, log, wandb, monkeypatch) -> None:
    monkeypatch.delenv("WANDB_SILENT", raising=False)
    monkeypatch.setenv("WANDB_CACHE_DIR", "/users/own")
    before = dict(os.environ)
    sync([make_cell()], tmp_path, log)
    assert wandb.seen[0] == {"WANDB_SILENT": "true", "WANDB_CACHE_DIR": "/users/own"}
    assert dict(os.environ) == before


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell here")
@pytest.mark.parametrize("name", ["plain", "with 'quotes' and $ spaces", "-dash", "ünï*"])
def test_the_printed_line_means_these_folders_to_a_shell(tmp_path: Path, monkeypatch, name: str) -> None:
    folder = tmp_path / name / "wandb"
    for number in (1, 2):
        (folder / f"offline-run-{number}").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    command = sync_command(folder)
    assert command.startswith("wandb sync ") and str(tmp_path) not in command
    script = 'wandb() { shift; for one in "$@"; do printf "%s\\n" "$one"; done; }; ' + command
    found = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.splitlines()
    assert [Path(path).resolve() for path in found] == [folder / "offline-run-1", folder / "offline-run-2"]
    monkeypatch.chdir("/")
    assert str(tmp_path) in sync_command(tmp_path / "x") or str(tmp_path)[1:] in sync_command(tmp_path / "x")


def test_wandb_is_imported_only_when_used() -> None:
    found = "any(name.split('.')[0] == 'wandb' for name in sys.modules)"
    script = f"import sys, experiments.report.dashboards; sys.exit({found})"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


# The real thing, offline

SCRIPT = """
import json, os, sys
from pathlib import Path
from experiments.report import dashboards
from experiments.report.summary import summarise
from experiments.results.events import EventLog; from experiments.report.dashboards import WandbSettings, sync_wandb
from tests.synthetic import make_study
folder = Path(sys.argv[1])
if os.environ.get("WANDB_MODE") == "online":
    dashboards.PATIENCE_SECONDS = 2
cells = make_study(policies=("ucb",), budgets=(0.001,), horizons=(500, 1000, 2000), oracle=False, runs=4, marks=6)
for _ in range(int(sys.argv[2])):
    outcome = sync_wandb(
        cells, json.loads(sys.argv[3]), summarise(cells), folder,
        WandbSettings(group="pilot", tags=("mine",)), EventLog(folder / "events.jsonl"),
    )
    print(json.dumps([outcome.runs, outcome.error, outcome.sync_command]))
"""


def sync_really(folder: Path, times: int, prefix: tuple[str, ...] = (), **variables: str) -> list[list]:
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "regret.png").write_bytes(bytes.fromhex(FIGURE))
    (folder / "figures" / "index.json").write_text('[{"name": "regret", "caption": "Regret."}]')
    for name in ("results.parquet", "summary.json"):
        (folder / name).write_text(name)
    # Our oldest wandb is older than our pydantic, which warns about it.
    strict = ["-W", "error", "-W", "ignore:::pydantic._internal._generate_schema"]
    command = [*prefix, sys.executable, *strict, "-c", SCRIPT, str(folder), str(times), json.dumps(CONFIG)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    environment |= {"PYTHONPATH": str(ROOT)} | variables
    done = subprocess.run(
        command, cwd=folder.parent, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> tuple[Path, list[list]]:
    folder = tmp_path_factory.mktemp("real") / "a study"
    return folder, sync_really(folder, 2)


def run_folder(folder: Path, identity: str) -> Path:
    (found,) = (folder / "wandb").glob(f"offline-run-*-{identity}*")
    assert (found / f"run-{identity}.wandb").is_file()
    return found


def records(folder: Path) -> dict[str, list[dict]]:
    """What a .wandb file holds, by record type."""
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "No such command" in done.stderr:
        pytest.skip("this wandb cannot read its own files")
    assert done.returncode == 0, done.stderr
    found: dict[str, list[dict]] = {}
    for line in done.stdout.splitlines():
        record = json.loads(line)
        found.setdefault(record["type"], []).append(record.get(record["type"], {}))
    return found


def test_writing_twice_leaves_each_run_once(written) -> None:
    folder, outcomes = written
    assert [outcome[:2] for outcome in outcomes] == [[4, None], [4, None]]
    cells = make_study(policies=("ucb",), budgets=(0.001,), horizons=(500, 1000, 2000), oracle=False)
    wanted = [run_id(CONFIG, cell.info.cell) for cell in cells] + [f"{study_digest(CONFIG['config'])}-aggregate"]
    assert {run_folder(folder, identity) for identity in wanted} == set((folder / "wandb").glob("offline-run-*"))


def test_a_cells_file_holds_what_was_meant(written) -> None:
    folder, _ = written
    cell = make_cell("ucb", budget_per_task=0.001, horizon=2000, runs=4, marks=6)
    identity = run_id(CONFIG, cell.info.cell)
    found = records(run_folder(folder, identity))
    run = found["run"][0]
    assert run["run_id"] == identity and run["run_group"] == f"pilot-{study_digest(CONFIG['config'])}"
    assert run["job_type"] == "cell" and run["project"] == "llm-bandits"
    assert set(run["tags"]) == {"ucb", "edge_cloud", "0123456", "mine"}
    config = run["config"]["update"]
    assert config["horizon"] == 2000 and config["asked"]["name"] == "pilot"
    assert found["metric"][0]["glob_name"] == "*" and found["metric"][0]["step_metric"] == "t"
    rows = [entry["item"] for entry in found["history"]]
    assert [row["t"] for row in rows] == cell.eval_rounds.tolist()
    assert rows[-1]["regret/mean"] == pytest.approx(cell.final("regret").mean())
    assert rows[-1]["share/cloud-pro"] == pytest.approx(cell.share[-1, -1])
    summary = {name: value for entry in found["summary"] for name, value in entry["update"].items()}
    assert summary["final/regret_mean"] == pytest.approx(cell.final("regret").mean())
    assert summary["coverage/reward"] > 0.9
    assert found["exit"][0].get("exit_code", 0) == 0


def test_the_aggregates_file_holds_tables_figures_and_files(written) -> None:
    folder, _ = written
    path = run_folder(folder, f"{study_digest(CONFIG['config'])}-aggregate")
    (table,) = path.glob("files/media/table/runs_*.json")
    content = json.loads(table.read_text())
    assert len(content["data"]) == 12 and "regret" in content["columns"]
    assert list(path.glob("files/media/table/exponents_*.json"))
    (table,) = path.glob("files/media/table/cells_*.json")
    content = json.loads(table.read_text())
    assert len(content["data"]) == 3 and {"regret", "regret_low", "regret_high"} <= set(content["columns"])
    assert list(path.glob("files/media/images/figures/regret_*.png"))
    staged = [file.read_text() for file in path.glob("artifacts/staging/*") if file.stat().st_size < 100]
    assert {"results.parquet", "summary.json"} <= set(staged)
    found = records(path)
    assert found["run"][0]["job_type"] == "aggregate"
    assert any(entry["name"] == f"results-{study_digest(CONFIG['config'])}" for entry in found["artifact"])
    summary = {name: value for entry in found["summary"] for name, value in entry["update"].items()}
    assert summary["fit/ucb/0.001/regret/slope"] == pytest.approx(0.5, abs=0.2)
    assert summary["table/runs_shown"] == 12


@pytest.mark.skipif(shutil.which("sh") is None, reason="no shell here")
def test_wandb_understands_the_printed_line(written) -> None:
    folder, outcomes = written
    assert outcomes[-1][2] == "wandb sync 'a study/wandb'/offline-run-*"
    script = f'wandb() {{ "{sys.executable}" -m wandb "$@"; }}; {outcomes[-1][2]} --dry-run'
    environment = os.environ | {"WANDB_SILENT": "false"}
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder.parent, env=environment, capture_output=True, text=True, check=False
    )
    if "No such option" in done.stderr:
        pytest.skip("this wandb has no dry run")
    assert "Would sync 4 run(s)" in done.stdout + done.stderr


def test_neither_network_nor_home_is_needed(tmp_path: Path) -> None:
    isolated = ("unshare", "-rn")
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("cannot make a network namespace here")
    (tmp_path / "home").touch()
    assert sync_really(tmp_path / "study", 1, isolated, HOME=str(tmp_path / "home"))[0][:2] == [4, None]


def event(folder: Path) -> dict:
    (found,) = lines(folder / "events.jsonl")
    assert found["event"] == "wandb"
    return found


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, "No API key"),
        ({"WANDB_API_KEY": "0" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}, "connection refused"),
    ],
    ids=["logged out", "unreachable"],
)
def test_a_server_that_cannot_be_had_costs_one_sentence(tmp_path: Path, variables: dict, wanted: str) -> None:
    folder = tmp_path / "ein Ordner 模型"
    ((runs, error, command),) = sync_really(folder, 1, WANDB_MODE="online", HOME=str(tmp_path), **variables)
    assert (runs, command) == (0, None)
    assert wanted in error and "llm-bandits-sync" in error and "\n" not in error and len(error) < 500
    assert event(folder)["error"] == error


def test_a_folder_that_is_really_read_only_costs_one_sentence(tmp_path: Path) -> None:
    folder = tmp_path / "a study"
    mount = 'mkdir -p "$1/wandb" && mount --bind "$1/wandb" "$1/wandb" && mount -o remount,bind,ro "$1/wandb" && shift'
    isolated = ("unshare", "-rm", "sh", "-c", f'{mount} && exec "$@"', "sh", str(folder))
    if shutil.which("unshare") is None or subprocess.run([*isolated, "true"], capture_output=True).returncode:
        pytest.skip("cannot mount here")
    ((runs, error, _),) = sync_really(folder, 1, isolated)
    assert runs == 0 and "cannot write to" in error and "Read-only file system" in error
    assert event(folder)["error"] == error
    assert list((folder / "wandb").iterdir()) == []


def test_a_trial_of_a_sweep_is_the_agents_run_and_no_other(tmp_path: Path) -> None:
    folder, parameters = tmp_path / "trial", tmp_path / "config-trial001.yaml"
    parameters.write_text("wandb_version: 1\npolicy.eta:\n  value: 0.3\n")
    sweep = {"WANDB_SWEEP_ID": "sweep123", "WANDB_RUN_ID": "trial001", "WANDB_SWEEP_PARAM_PATH": str(parameters)}
    outcomes = sync_really(folder, 2, WANDB_MODE="offline", WANDB_PROJECT="theirs", WANDB_SILENT="true", **sweep)
    assert [outcome[:2] for outcome in outcomes] == [[1, None], [1, None]]
    (path,) = (folder / "wandb").glob("offline-run-*")
    found = records(path)
    run = found["run"][0]
    assert (run["run_id"], run["sweep_id"], run["project"]) == ("trial001", "sweep123", "theirs")
    assert run["job_type"] == "aggregate" and run["config"]["update"]["policy.eta"] == 0.3
    longest = make_cell("ucb", budget_per_task=0.001, horizon=2000, runs=4, marks=6)
    (row,) = [entry["item"] for entry in found["history"]]
    assert row["study/regret_mean"] == pytest.approx(longest.final("regret").mean())
    assert resolve_mode(None, sweep) == "online" and resolve_mode("offline", sweep) == "offline"


def test_numbers_of_a_whole_study_are_those_of_its_one_learner_at_the_longest_horizon() -> None:
    cells = make_study(policies=("ucb",), budgets=(0.001,), horizons=(100, 1000), runs=4)
    values = dashboards.study_values(summarise(cells, planned=20))
    (chosen,) = [cell for cell in cells if cell.info.horizon == 1000 and not cell.info.clairvoyant]
    assert values["study/regret_mean"] == pytest.approx(chosen.final("regret").mean())
    spent = chosen.final("spent_money").mean() / chosen.info.budget
    assert values["study/spent_share"] == pytest.approx(spent)
    assert (values["study/cells"], values["study/planned"]) == (4, 20)
    assert dashboards.study_values(NOTHING) == {"study/cells": 0, "study/planned": 0}


@pytest.mark.parametrize("axes", [{"policies": ("ucb", "greedy")}, {"budgets": (0.001, 0.002)}, {"policies": ()}])
def test_there_is_no_number_for_a_mixture(axes: dict, tmp_path: Path, log, wandb: FakeWandb, monkeypatch) -> None:
    cells = make_study(**({"policies": ("ucb",), "budgets": (0.001,), "horizons": (1000,), "runs": 4} | axes))
    found = summarise(cells)
    assert set(dashboards.study_values(found)) == {"study/cells", "study/planned"}
    assert "for the search" not in sync(cells, tmp_path, log, found).sentence
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep")
    monkeypatch.setenv("WANDB_RUN_ID", "trial")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.folder = tmp_path / "agent"  # which chooses the id
    count = sum(not cell.info.clairvoyant for cell in cells)
    assert f"without study/<metric> for the search: {count} cells learn" in sync(cells, tmp_path, log, found).sentence


def test_slashes_in_names_do_not_divide_keys(tmp_path: Path, log, wandb: FakeWandb) -> None:
    cells = make_study(policies=("a/b", "x" * 300), budgets=(0.001,), horizons=(500, 1000, 2000), runs=4, oracle=False)
    assert sync(cells, tmp_path, log, summarise(cells)).error is None
    assert {"fit/a%2Fb/0.001/regret/slope", f"fit/{'x' * 300}/0.001/regret/slope"} <= set(wandb.runs[-1].summary)
    assert all(len(run.arguments["name"]) <= 128 for run in wandb.runs)


def test_the_example_of_a_sweep_asks_for_what_there_is() -> None:
    example = yaml.safe_load((ROOT / "docs" / "wandb_sweep.yaml").read_text(encoding="utf-8"))
    asked = example["metric"]["name"]
    assert asked in dashboards.study_values(summarise([make_cell()]))
    assert f"`{asked}`" in (ROOT / "docs" / "dashboards.md").read_text(encoding="utf-8")
    tried = [f"{name}={values['min']}" for name, values in example["parameters"].items()]
    program, *arguments = [word for word in example["command"] if word != "${args_no_hyphens}"]
    assert program == "llm-bandits" and len(example["command"]) == len(arguments) + 2
    (cell,) = study_config.study_from(studies.plain(*arguments, *tried)).cells
    parts = {cell.policy.routing: cell.policy.parameters, "confidence": cell.policy.confidence}
    lowest = {f"policy.{p}.{name}" for p, values in parts.items() for name in values if values[name] in (0.01, 0.02)}
    assert lowest == set(example["parameters"])
