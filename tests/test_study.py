"""Studies run whole: what is compiled, what is resumed, what a user's own rule may do to the others."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.engine import batch
from experiments.results import cell_file
from tests import studies
from tests.studies import RULE, CommandLine

BOOKS = ("reward", "reward_expected", "served", "declined", "refused", "demand_total", "spent", "overspend", "invalid")
NEGATIVE = RULE.replace("self.warmth *", "-self.warmth *")
NAN_BELOW = RULE.replace("self.warmth *", "jnp.where(self.warmth < 0.5, jnp.nan, 1.0) *")
RAISES = RULE.replace("return self.warmth", "raise RuntimeError('no\\nhope'); return self.warmth")
WRONG_SHAPE = RULE.replace("return self.warmth * wanted(view)", "return self.warmth")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


def events(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line, parse_constant=lambda word: pytest.fail(f"{word} is not JSON")) for line in lines]


def cell_files(folder: Path) -> dict[str, bytes]:
    return {path.stem: path.read_bytes() for path in (folder / "cells").glob("*.npz")}


def own(call: CommandLine, source: str, name: str = "mine.py") -> str:
    studies.write(call.folder, {name: source})
    return f"rules=['{call.folder / name}']"


@pytest.mark.parametrize(
    ("policies", "programs"),
    [("uniform", 1), pytest.param("uniform,primal_dual_resolving", 3, marks=pytest.mark.slow)],
)
def test_a_study_compiles_once_a_static_group(call: CommandLine, policies: str, programs: int) -> None:
    """The optimizer of primal_dual_resolving is a choice; everything else that is swept is a number."""
    numbers = ("horizon=[10,20,20,10]", "budget_per_task=[1e-4,1e-3,1e-4,1e-3]", "num_models=[2,5,5,5]")
    more = (
        "policy.primal_dual_resolving.eta=[0.1,0.3,1,2]",
        "demand.mean=[5,9,9,9]",
        "env.latency_slo_s=[3,6,6,6]",
        "target=[0.1,0.2,0.3,1]",
    )
    choices = ("policy.primal_dual_resolving.optimizer=[sgd,adam,sgd,adam]", "policy.confidence.confidence=[0,1,2,3]")
    axes = [f"sweep.{axis}" for axis in (*numbers, *more, *choices)]
    axes = [axis for axis in axes if "primal_dual" in policies or "primal_dual" not in axis]
    mixed = ("out=out", f"policies=[{policies}]", "seeds=3", "sweep.mode=zip", *axes)
    before = batch.traces()
    outcome = call.done(*mixed)
    assert len(outcome.cells) == 4 * len(policies.split(","))
    assert outcome.compilations == batch.traces() - before == programs
    assert len([event for event in events(call.folder / "out") if event["event"] == "compiled"]) == programs


def test_a_lost_cell_alone_is_computed_again_and_equal(call: CommandLine) -> None:
    command = ("out=out", "sweep.horizon=[10,20]", "sweep.target=[0.5,0.9]")
    call.done(*command)
    rows, files = studies.rows(call.folder / "out"), cell_files(call.folder / "out")
    lost = sorted(files)[1]
    (call.folder / "out/cells" / f"{lost}.npz").unlink()
    marked = call.folder / "out/cells" / f"{sorted(files)[0]}.npz"
    before = marked.stat().st_mtime_ns
    outcome = call.done(*command)
    assert outcome.decisions in (40, 80)  # rounds times seeds of its block, which is simulated as it was
    assert [event["cell"] for event in events(call.folder / "out") if event["event"] == "cell"][4:] == [lost]
    assert marked.stat().st_mtime_ns == before
    assert studies.rows(call.folder / "out") == rows
    again = cell_files(call.folder / "out")
    assert again.keys() == files.keys()
    assert {name for name in files if again[name] != files[name]} <= {lost}


def test_a_finished_study_is_read_back(call: CommandLine) -> None:
    call.done("out=out", "seeds=3")
    rows = studies.rows(call.folder / "out")
    before, traced = studies.tree(call.folder / "out/cells"), batch.traces()
    ran = call("out=out", "seeds=3")
    assert (ran.code, ran.err) == (0, "")
    assert ran.outcome is not None
    assert (ran.outcome.compilations, ran.outcome.decisions) == (0, 0)
    assert "nothing was missing" in ran.out
    assert batch.traces() == traced
    assert studies.tree(call.folder / "out/cells") == before
    assert studies.rows(call.folder / "out") == rows


def test_a_damaged_cell_is_computed_again(call: CommandLine) -> None:
    call.done("out=out")
    rows = studies.rows(call.folder / "out")
    (path,) = (call.folder / "out/cells").iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    ran = call("out=out")
    assert (ran.code, ran.err) == (0, "")
    assert studies.rows(call.folder / "out") == rows
    cell_file.read_cell(path)
    assert ran.out.count("is damaged") == 1
    (event,) = (event for event in events(call.folder / "out") if event["event"] == "damaged")
    assert event["cell"] == path.stem
    aside = call.folder / "out/cells/damaged" / f"{path.stem}-1.npz"
    assert event["moved"] == f"out/cells/damaged/{aside.name}" and aside.stat().st_size == 1000


def test_a_longer_study_keeps_the_cells_it_shares_with_a_shorter_one(call: CommandLine) -> None:
    call.done("out=short", "sweep.target=[0.5]")
    call.done("out=long", "sweep.target=[0.5,0.9]")
    assert cell_files(call.folder / "short").keys() < cell_files(call.folder / "long").keys()


@pytest.mark.parametrize("chunks", [(7,), pytest.param((1, 3), marks=pytest.mark.slow)])
def test_chunks_change_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], chunks: tuple[int, ...]
) -> None:
    """Books are equal to the last quantum; averages of beliefs hold to rounding, being added in another order."""
    command = ("policies=[primal_dual_resolving]", "demand.counts=poisson", "seeds=3", "horizon=40")
    with studies.command_line(tmp_path, monkeypatch, capfd, optimized=True) as call:
        outcomes = {
            rows: call.done(*command, "sweep.target=[0.5,0.9]", f"chunk_rows={rows}", f"out=out{rows}")
            for rows in (*chunks, 10**6)
        }
    whole, expected = studies.rows(tmp_path / "out1000000"), outcomes[10**6].cells
    for chunk in chunks:
        for row, wanted in zip(studies.rows(tmp_path / f"out{chunk}"), whole, strict=True):
            assert {name: row[name] for name in BOOKS} == {name: wanted[name] for name in BOOKS}
            numbers = [name for name, value in wanted.items() if isinstance(value, float)]
            np.testing.assert_allclose([row[k] for k in numbers], [wanted[k] for k in numbers], rtol=1e-6, atol=1e-6)
        for cell, wanted_cell in zip(outcomes[chunk].cells, expected, strict=True):
            for name in ("lower", "upper", "coverage", "share"):
                np.testing.assert_allclose(getattr(cell, name), getattr(wanted_cell, name), rtol=1e-5, atol=1e-7)


def test_seeds_that_do_not_fill_their_chunks_are_all_there(call: CommandLine) -> None:
    call.done("out=whole", "seeds=5")
    call.done("out=chunks", "seeds=5", "chunk_rows=2")
    rows = studies.rows(call.folder / "chunks")
    assert [row["seed"] for row in rows] == [0, 1, 2, 3, 4]
    wanted = studies.rows(call.folder / "whole")
    assert [[row[name] for name in BOOKS] for row in rows] == [[row[name] for name in BOOKS] for row in wanted]


def test_a_rule_of_one_s_own_runs_beside_shipped_ones(call: CommandLine) -> None:
    rules = own(call, RULE, "a folder of größe/my rule.py")
    command = (rules, "policies=[uniform,mine]", "sweep.policy.mine.warmth=[0.1,0.9]", "out=out of größe")
    outcome = call.done(*command)
    rows = studies.rows(call.folder / "out of größe")
    found = {(row["policy"], row["policy.mine.warmth"]): row["served"] for row in rows}
    assert found.keys() == {("uniform", None), ("mine", 0.1), ("mine", 0.9)}
    assert outcome.compilations == 2
    assert call.done(*command).decisions == 0


def test_a_rule_that_raises_costs_its_own_cells_only(call: CommandLine) -> None:
    ran = call(own(call, RAISES), "policies=[mine,uniform]", "sweep.policy.mine.warmth=[0.1,0.9]", "out=out")
    assert ran.code == 1
    assert ran.outcome is not None
    assert [cell.info.policy for cell in ran.outcome.cells] == ["uniform"]
    lost = set(ran.outcome.failed)
    assert len(lost) == 2
    assert cell_files(call.folder / "out").keys() == {ran.outcome.cells[0].info.cell}
    assert {row["policy"] for row in studies.rows(call.folder / "out")} == {"uniform"}
    lines = ran.err.splitlines()
    assert "Traceback" not in ran.err
    for cell in lost:
        (line,) = (line for line in lines if cell in line)
        assert line.startswith("failed: ") and "mine" in line and "RuntimeError: no" in line
    assert len(lines) == 2
    (event,) = (event for event in events(call.folder / "out") if event["event"] == "failed")
    assert set(event["cells"]) == lost and event["policy"] == "mine" and "RuntimeError: no" in event["error"]


def test_a_repaired_rule_finishes_the_study(call: CommandLine) -> None:
    assert call(own(call, RAISES), "policies=[mine,uniform]", "out=out").code == 1
    outcome = call.done(own(call, RULE), "policies=[mine,uniform]", "out=out")
    assert [cell.info.policy for cell in outcome.cells] == ["mine", "uniform"]


def test_shares_of_a_wrong_shape_are_an_error(call: CommandLine) -> None:
    ran = call(own(call, WRONG_SHAPE), "policies=[mine,uniform]")
    assert ran.code == 1
    assert "shape" in ran.err and "mine" in ran.err


def test_a_rule_whose_shares_are_cut_is_named_once_and_counted_in_every_cell(call: CommandLine) -> None:
    arguments = ("policies=[uniform,mine]", "sweep.policy.mine.warmth=[0.1,0.9]", "sweep.horizon=[10,20]", "out=out")
    ran = call(own(call, NEGATIVE), *arguments)
    assert (ran.code, ran.err) == (0, "")
    told = [event for event in events(call.folder / "out") if event["event"] == "warning"]
    assert len(told) == 1 and told[0]["text"].startswith("mine: some of its shares were negative")
    assert ran.out.count(f"warning: {told[0]['text']}") == 1 == ran.out.count("they were cut")
    rows = studies.rows(call.folder / "out")
    (cell,) = told[0]["cells"]
    assert {row["policy"] for row in rows if row["cell"] == cell} == {"mine"}
    for row in rows:
        assert row["clipped"] == (row["horizon"] if row["policy"] == "mine" else 0)
        assert (row["served"] == 0) == (row["policy"] == "mine")


def test_a_decision_that_is_no_number_is_declined_and_counted(call: CommandLine) -> None:
    rules = own(call, NAN_BELOW)
    call.done(rules, "policies=[uniform,mine]", "sweep.policy.mine.warmth=[0.1,0.9]", "out=out")
    for row in studies.rows(call.folder / "out"):
        broken = row["policy"] == "mine" and row["policy.mine.warmth"] == 0.1
        assert row["invalid"] == (20 if broken else 0)
        assert (row["served"] == 0) == broken
        assert row["overspend"] == 0


def test_a_decision_from_an_undecided_program_is_served_and_counted(call: CommandLine) -> None:
    unsure = (
        RULE
        + """
    def undecided(self, state):
        return jnp.ones((), bool)
"""
    )
    call.done(own(call, unsure), "policies=[uniform,mine]", "out=out")
    for row in studies.rows(call.folder / "out"):
        assert row["invalid"] == (20 if row["policy"] == "mine" else 0)
        assert row["served"] > 0
