"""CONTRIBUTING.md done word for word: its examples are written to files and run as it says."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.results.metrics import METRICS
from tests import studies
from tests.studies import CommandLine

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The code of a language, without the indentation that it has in a list."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(code) for _, code in found]


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as found:
        yield found


def test_its_rules_and_its_demand_run_as_it_says(call: CommandLine) -> None:
    """A file for each block that registers something; each one alone makes what it adds available."""
    names = {"routing_rule": "price_averse.py", "deployment_rule": "best_first.py", "demand_process": "surge.py"}
    files = {names[decorator]: code for code in blocks("python") for decorator in names if f"@{decorator}(" in code}
    assert sorted(files) == sorted(names.values())
    studies.write(call.folder, files)
    (command,) = [line for code in blocks("bash") for line in code.splitlines() if "surge.py" in line]
    program, *arguments = shlex.split(command)
    assert program == "scripts/run" and arguments[0] == "rules=[surge.py]"
    own = "policies=[{name: mine, routing: price_averse, aversion: 2, deployment: best_first}]"
    everything = "rules=[surge.py,price_averse.py,best_first.py]"
    call.done(*arguments[1:], everything, own, "env.max_deployed=2", "env.stages=2", "out=out")
    row = studies.rows(call.folder / "out")[0]
    assert row["routing.aversion"] == 2.0 and row["demand.height"] == 3.0
    assert row["deployment"] == "best_first" and row["invalid"] == 0


def test_its_metric_registers() -> None:
    (code,) = [code for code in blocks("python") if code.startswith("@metric(")]
    from experiments.results.metrics import derived

    before = dict(METRICS)
    try:
        exec(code, vars(derived).copy())
        assert METRICS["idle_share"].says == "(declined − refused) / demand."
        assert METRICS["idle_share"] in METRICS.summarised()
    finally:
        METRICS.clear()
        METRICS.update(before)
