"""The command line from end to end."""

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
import jax
import numpy as np
import pytest
import yaml
from omegaconf import OmegaConf

from bandits.forecasting.base import FORECASTERS
from envs.demand.base import PROCESSES
from experiments.cli import help as help_page
from experiments.cli import run
from experiments.config import cells, schema
from experiments.config import study as study_config
from tests import studies
from tests.processes import usual_signals
from tests.studies import CATALOGUE, RULE, TRACE, CommandLine

ROOT = Path(__file__).resolve().parent.parent
PAIRS = [
    ("constant", "last_value"),
    ("sinusoid", "noisy_oracle"),
    ("diurnal", "holt_winters"),
    ("trend", "profile"),
    ("shocks", "ar"),
    ("walk", "seasonal_naive"),
    ("mmpp", "holt"),
    ("trace", "oracle"),
    ("constant", "ewma"),
    ("normal", "running_mean"),
    ("autoregressive", "past_only"),
]
QUICK = ("diurnal", "trace", "autoregressive")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


def process(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "NO_COLOR": "1"}
    command = [sys.executable, "-m", "experiments.cli.run", *arguments]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with usual_signals():
        return subprocess.Popen(command, cwd=folder, env=environment, **streams)


def test_help_is_quick_and_makes_nothing(tmp_path: Path) -> None:
    began = time.monotonic()
    started = process(tmp_path, "--help")
    out, err = started.communicate(timeout=60)
    assert (started.returncode, err) == (0, "")
    assert "demand" in out
    assert time.monotonic() - began < 30
    assert not list(tmp_path.iterdir())


def test_help_lists_every_key_and_every_rule_with_its_parameters() -> None:
    page = help_page.page()
    for key in schema.TOP.keys() - set(run.GROUPS):
        assert re.search(rf"^{key}: .*#", page, re.MULTILINE), key
    for registry in study_config.REGISTRIES.values():
        for member in registry.describe():
            assert f"\n{member.name}: {member.summary.split()[0]}" in page
            assert all(f".{parameter.name}: " in page for parameter in member.parameters)
    assert "policy.ucb1.width: 2.0 # must lie in [0, inf]" in page
    assert "env.budget_rule: skip # " in page and "demand.period: 144.0 " in page


def test_the_default_study_has_all_policies_budgets_and_horizons() -> None:
    """Its rules are run elsewhere; here each finds its parameters."""
    with hydra.initialize_config_module("conf", version_base="1.3"):
        plain = OmegaConf.to_container(hydra.compose("config"), resolve=True)
    settings = study_config.study_from(plain)
    assert len(cells.build(settings)) == 6 * 3 * 3
    assert settings.tracker["name"] == "wandb"


@pytest.mark.slow
def test_the_default_study_leaves_every_file_of_the_architecture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with studies.command_line(tmp_path, monkeypatch, capfd, drawn=True) as call:
        policies = "policies=[lp_resolving,primal_dual_resolving,uniform,best_fixed]"
        ran = call.exactly("sweep.horizon=[10,15,20,30]", "seeds=2", "tracker=jsonl", policies)
    assert (ran.code, ran.err) == (0, "")
    assert ran.outcome is not None
    assert (len(ran.outcome.cells), ran.outcome.compilations) == (4 * 3 * 4, 4)
    (out,) = (tmp_path / "results").iterdir()
    assert out.name.startswith("default-")
    assert_complete(out, len(ran.outcome.cells))
    assert_plain(ran.out, out.relative_to(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def assert_complete(out: Path, cells: int) -> None:
    names = {path.name for path in out.iterdir()}
    files = {"config.yaml", "results.parquet", "results.csv", "summary.json", "report.html", "tables.md", "tables.tex"}
    assert names == {*files, "plan.json", "events.jsonl", "cells", "figures"}
    assert len(list((out / "cells").glob("*.npz"))) == len(list((out / "cells").iterdir())) == cells
    drawn = sorted(path.name for path in (out / "figures").iterdir() if path.name != "index.json")
    assert {Path(name).suffix for name in drawn} == {".png", ".svg"}
    assert len({Path(name).stem for name in drawn}) * 2 == len(drawn) >= 10
    record = yaml.safe_load((out / "config.yaml").read_text(encoding="utf-8"))
    assert record["config"]["sweep"]["horizon"] == [10, 15, 20, 30]
    assert record["config"]["env"]["catalogue"] == "routerbench"
    assert {"jax", "numpy", "python", "git", "device"} <= record["versions"].keys()
    kinds = [json.loads(line)["event"] for line in (out / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    assert (kinds[0], kinds[-1], kinds.count("cell")) == ("study", "finished", cells)
    assert_self_contained((out / "report.html").read_text(encoding="utf-8"))


def assert_self_contained(page: str) -> None:
    """Nothing is fetched: every source is inside the page, and links that leave it are for people."""
    fetched = re.findall(r"""<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=["']([^"']+)""", page)
    assert fetched
    assert all(address.startswith("data:") for address in fetched)
    assert not re.search(r"@import|url\((?!['\"]?(?:data:|#))", page)


def assert_plain(text: str, out: Path) -> None:
    assert "\x1b" not in text and "\r" not in text
    assert "48 cells, 0 of them done before" in text
    assert "primal_dual_resolving" in text and "4 compilations" in text
    assert re.match(r"\w+: 4 policies x 12 settings \(.*\), 2 runs each, up to 30 rounds; into ", text)
    begun = re.findall(r"^compiling (program [1-4] of 4 \(\w+\))$", text, re.MULTILINE)
    ended = re.findall(r"^(.*): (?:compiled|read from the cache) in [\d.]+ s$", text, re.MULTILINE)
    assert len(set(begun)) == 4 and sorted(begun) == sorted(ended)
    assert f"{out}/report.html" in text
    assert "nan s left" not in text


def test_a_terminal_gets_a_live_display(call: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = pty.openpty()
    read: list[bytes] = []

    def drain() -> None:
        try:
            while part := os.read(master, 4096):
                read.append(part)
        except OSError:  # how Linux says that the other side was closed
            pass

    reader = threading.Thread(target=drain)
    reader.start()
    for name in ("NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    with os.fdopen(slave, "w", encoding="utf-8") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", terminal)
        ran = call("sweep.horizon=[10,20]")
    reader.join(timeout=10)
    os.close(master)
    assert (ran.code, ran.err) == (0, "")
    shown = b"".join(read).decode()
    assert "\x1b[?25l" in shown and "\x1b[?25h" in shown  # the cursor is hidden, and is given back
    assert "decisions/s" in shown and "uniform" in shown
    assert "compiling program 1 of 1 (uniform), 0 s" in shown


def test_the_first_line_comes_before_jax_is_imported(tmp_path: Path) -> None:
    script = (
        "import sys; from experiments.cli import run, variables\n"
        "variables.import_jax = lambda: sys.exit(7 if 'jax' not in sys.modules else 'JAX was there')\n"
        "run.main()"
    )
    command = [sys.executable, "-c", script, "sweep.horizon=[10,2000]", "seeds=3", "policies=[ucb1,uniform]"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    asked = "default: 2 policies x 6 settings (budget_per_task, horizon), 3 runs each, up to 2,000 rounds; into results"
    assert (ran.returncode, ran.stderr) == (7, "")
    assert ran.stdout.startswith(asked) and ran.stdout.count("\n") == 1


def test_the_first_line_names_the_folder_that_is_used(call: CommandLine) -> None:
    ran = call("name=[x]", "seeds=1", "expected_exponents=null")
    assert (ran.code, ran.err) == (0, "")
    folder = re.findall(r"into (\S+)$", ran.out, re.MULTILINE)[0]
    assert folder.startswith("results/[x]-") and (call.folder / folder / "config.yaml").is_file()


@pytest.mark.parametrize(
    ("arguments", "columns", "missing"),
    [
        (["env.budget_per_task=null"], {"violation_latency", "dual_latency"}, {"spent_money", "dual_money"}),
        (["env.target=null"], {"spent_money", "dual_money"}, {"violation_latency", "dual_latency"}),
        (["env.budget_per_task=null", "env.target=null"], {"regret"}, {"spent_money", "violation_latency"}),
    ],
)
def test_a_world_may_lack_budgets_or_targets(
    call: CommandLine, arguments: list[str], columns: set[str], missing: set[str]
) -> None:
    call.done(*arguments, "policies=[primal_dual_resolving]", "out=out")
    rows = studies.rows(call.folder / "out")
    assert len(rows) == 2
    for row in rows:
        assert columns <= row.keys() and not missing & row.keys()
        assert row["overspend"] == 0
        assert row["served"] + row["declined"] == pytest.approx(row["demand_total"])
        assert ("env.target=null" not in arguments) or (row["violation"] == 0 and row["target"] is None)
        assert ("env.budget_per_task=null" not in arguments) or (row["spent"] == 0 and row["budget"] is None)


def test_a_catalogue_of_one_s_own_with_two_budgets_and_two_targets(call: CommandLine) -> None:
    studies.write(call.folder, {"my models.csv": CATALOGUE})
    call.done(
        *("env.catalogue='my models.csv'", "env.resources={energy_wh: 0.2}", "env.floors={quality: 0.4}", "out=out"),
        *("policies=[primal_dual_resolving]", "horizon=60"),
    )
    (first, second) = studies.rows(call.folder / "out")
    assert first["budget"] == pytest.approx(3e-4 * 20 * 60)  # USD: a task, tasks a round, rounds
    assert first["num_models"] == 2 and first["env"] == "my models.csv"
    for row in (first, second):
        assert row["overspend"] == 0
        assert 0 < row["spent_energy_wh"] <= 0.2 * 20 * 60
        assert 0 < row["spent"] == row["spent_money"] <= row["budget"]
        assert {"violation_quality", "violation_latency", "dual_energy_wh", "dual_quality"} <= row.keys()


def test_a_world_may_have_other_rules(call: CommandLine, subtests: pytest.Subtests) -> None:
    studies.write(call.folder, {"mine.py": RULE})
    # A rule that proposes what the budget cannot pay, and is refused.
    tight = ("horizon=60", "env.budget_per_task=5e-5", "rules=[mine.py]", "policies=[mine]")
    call.done("out=usual", *tight)
    usual = studies.rows(call.folder / "usual")
    assert all(row["refused"] > 0 for row in usual)
    for argument in ("env.demand_seen=after", "env.budget_rule=stop", "env.quality_noise=beta"):
        with subtests.test(argument):
            call.done(f"out={argument.partition('=')[2]}", *tight, argument)
            other = studies.rows(call.folder / argument.partition("=")[2])
            assert all(row["overspend"] == 0 and row["invalid"] == 0 for row in other)
            assert [row["demand_total"] for row in usual] == [row["demand_total"] for row in other]
            if argument == "env.budget_rule=stop":  # the first refusal is the last service
                assert all(row["served"] < before["served"] for row, before in zip(other, usual, strict=True))
            if argument == "env.quality_noise=beta":
                assert any(row["reward"] != round(row["reward"]) for row in other)


def test_every_demand_and_every_forecaster_has_a_test() -> None:
    assert {demand for demand, _ in PAIRS} == set(PROCESSES)
    assert {forecaster for _, forecaster in PAIRS} == set(FORECASTERS)
    for group, names in (("demand", PROCESSES), ("forecaster", FORECASTERS)):
        assert {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")} == set(names)


@pytest.mark.parametrize(
    ("demand", "forecaster"),
    [
        pytest.param(*pair, marks=[] if pair[0] in QUICK else pytest.mark.slow)  # each is a program of its own
        for pair in PAIRS
    ],
)
def test_every_demand_and_every_forecaster_runs(call: CommandLine, demand: str, forecaster: str) -> None:
    studies.write(call.folder, {"trace.csv": TRACE})
    replayed = ["demand.path=trace.csv"] if demand == "trace" else []
    call.done(f"demand={demand}", f"forecaster={forecaster}", *replayed, "out=out")
    for row in studies.rows(call.folder / "out"):
        assert (row["demand"], row["forecaster"]) == (demand, forecaster)
        assert row["demand_total"] > 0 and row["invalid"] == 0
        assert np.isfinite(row["forecast_total"])
        assert forecaster != "oracle" or row["forecast_error"] < 1e-5


def test_one_process_may_run_many_studies(call: CommandLine) -> None:
    """Hydra keeps global state, JAX its precision: neither leaks from one study into the next."""
    first = call("out=a")
    assert call("horizon=0").code == 2
    assert call.exactly("--help").code == 0
    assert call("precision=float64", "horizon=0").code == 2
    again = call("out=b")
    assert (first.code, again.code) == (0, 0)
    assert studies.rows(call.folder / "a") == studies.rows(call.folder / "b")
    assert not jax.config.read("jax_enable_x64")


def test_double_precision_in_a_process_of_its_own(tmp_path: Path) -> None:
    started = process(tmp_path, *studies.merged("precision=float64", "out=out"))
    _, err = started.communicate(timeout=120)
    assert (started.returncode, err) == (0, "")
    record = yaml.safe_load((tmp_path / "out/config.yaml").read_text(encoding="utf-8"))
    assert record["config"]["precision"] == "float64"
    assert [row["overspend"] for row in studies.rows(tmp_path / "out")] == [0.0, 0.0]


def test_control_c_keeps_what_is_done_and_the_next_run_goes_on(call: CommandLine) -> None:
    command = studies.merged("sweep.horizon=[20,200000]", "out=out")
    started = process(call.folder, *command)
    try:
        wait_for(call.folder / "out/cells", "*.npz", started)
        began = time.monotonic()
        started.send_signal(signal.SIGINT)
        _, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 130
    assert time.monotonic() - began < 5
    assert err.startswith("interrupted") and err.count("\n") == 1
    (kept,) = (call.folder / "out/cells").iterdir()
    before = kept.read_bytes()
    ran = call.exactly(*command)
    assert (ran.code, ran.err) == (0, "")
    assert "2 cells, 1 of them done before" in ran.out
    assert kept.read_bytes() == before


@pytest.mark.slow
def test_a_terminated_study_goes_on_within_its_cell(call: CommandLine) -> None:
    command = studies.merged("horizon=1000000", "checkpoint_minutes=0")
    started = process(call.folder, *command, "out=out")
    try:
        wait_for(call.folder / "out/checkpoints", "*/*.json", started)
        started.send_signal(signal.SIGTERM)
        _, err = started.communicate(timeout=60)
    finally:
        started.kill()
    assert started.returncode == 143
    assert err.startswith("interrupted") and err.count("\n") == 1
    for out in ("out", "straight"):
        ran = call.exactly(*command, f"out={out}")
        assert (ran.code, ran.err) == (0, "")
    lines = (call.folder / "out/events.jsonl").read_text(encoding="utf-8").splitlines()
    (resumed,) = (event for line in lines if (event := json.loads(line))["event"] == "resumed")
    assert 0 < resumed["rounds"] < 1000000
    assert studies.rows(call.folder / "out") == studies.rows(call.folder / "straight")
    assert not (call.folder / "out/checkpoints").exists()


def wait_for(folder: Path, pattern: str, started: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not (folder.is_dir() and list(folder.glob(pattern))):
        assert started.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("given", "opened"),
    [
        (["horizon=5"], ["++horizon=5", "++sweep.horizon=null"]),
        (["env.target=0.5"], ["++env.target=0.5", "++sweep.target=null"]),
        (["policy.ucb1.width=1"], ["++policy.ucb1.width=1", "++sweep.policy.ucb1.width=null"]),
        (["horizon=5", "sweep.horizon=[1,2]"], ["++horizon=5", "++sweep.horizon=[1,2]"]),
        ([], []),
        (["seeds=2"], ["++seeds=2"]),
        (["out=größe, ~ (2)", "out='it'"], ["++out='größe, ~ (2)'", "++out='it'"]),
        (["out=it's", "out=null"], ["++out='it\\'s'", "++out=null"]),
        (["study=default", "hydra.verbose=true", "--help"], ["study=default", "hydra.verbose=true", "--help"]),
        (["~sweep", "+a=1"], ["~sweep", "+a=1"]),
    ],
)
def test_arguments_are_opened_for_our_own_checks(given: list[str], opened: list[str]) -> None:
    assert run.open_overrides(given) == opened
