"""What a cell was made of is stored with it; what other code made is kept and not shown; a run can be made again."""

import csv
import hashlib
import io
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from experiments.cli import commands, status
from experiments.config import sources
from experiments.report import dashboards
from experiments.report.summary import Summary, label_cells
from experiments.results import cell_file, layout, study_folder, tables
from tests import studies
from tests.studies import RULE, CommandLine
from tests.synthetic import make_cell

NOTHING = Summary(level=0.95, planned=0, cells=(), exponents=())
OWN = (
    RULE.replace("warmth", "horizon")
    + """

from envs.demand.base import Process, demand_process


@demand_process("surge")
class Surge(Process):
    mean: float = number(20.0, low=0.0, above=True)
"""
)
POLICIES = "policies=[uniform,{name: a, routing: mine, horizon: 0.5, confidence: 0.05}]"
WORLD = ("demand=constant", "demand.process=surge", "demand.counts=none", "root_seed=7", "env.target=0.5")


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    studies.write(tmp_path, {"mine.py": OWN})
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A command in this process: exit code, standard output, standard error."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", [f"llm-bandits-{name}", *map(str, arguments)])
        with pytest.raises(SystemExit) as left:
            commands.COMMANDS[name]()
        said = capfd.readouterr()
        return int(str(left.value.code)), said.out, said.err

    return run


def study(*more: str) -> tuple[str, ...]:
    return ("rules=[mine.py]", POLICIES, *WORLD, "out=out", *more)


def cells(folder: Path) -> dict[str, cell_file.CellResult]:
    """The shown cells by policy."""
    found = [cell_file.read_cell(cell_file.cell_path(folder, cell)) for cell in study_folder.shown(folder)]
    return {cell.info.policy: cell for cell in found}


def published(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("results.parquet", "results.csv", "summary.json")}


def test_every_cell_says_what_it_was_made_of_wherever_it_is_shown(call: CommandLine) -> None:
    call.done(*study())
    folder, digest = call.folder / "out", hashlib.sha256(OWN.encode()).hexdigest()
    mine = cells(folder)["a"]
    made_of, source = mine.info.parameters, mine.info.sources
    assert made_of["routing"] == {"name": "mine", "horizon": 0.5}
    assert made_of["confidence"] == {"confidence": 0.05, "kappa": 1.0, "radius": "mean"}
    assert made_of["deployment"] == {"name": "everything"}
    assert made_of["forecaster"].items() >= {"name": "running_mean", "upward_bias": 0.0}.items()
    assert made_of["demand"] == {"process": "surge", "mean": 20.0} | {
        "counts": "none",
        "dispersion": 0.0,
        "maximum": None,
    }
    assert (made_of["env"]["target"], made_of["env"]["catalogue"], made_of["root_seed"]) == (0.5, "routerbench", 7)
    for kind in ("routing", "demand"):
        assert (source[kind]["sha256"], source[kind]["text"]) == (digest, OWN)
    assert source["deployment"]["text"] is None
    assert {"jax", "numpy", "llm_bandits"} <= mine.info.versions.keys()
    wanted = {"routing.horizon": 0.5, "confidence.confidence": 0.05, "demand.mean": 20.0, "env.target": 0.5}
    wanted |= {"root_seed": 7, "sources.routing.sha256": digest, "versions.jax": sources.versions()["jax"]}
    (row, *_) = [row for row in studies.rows(folder) if row["policy"] == "a"]
    assert {name: row[name] for name in wanted} == wanted and row["horizon"] == 20
    (other, *_) = [row for row in studies.rows(folder) if row["policy"] == "uniform"]
    assert other["routing.horizon"] is None and other["confidence.confidence"] == 0.25
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        assert {row["routing.horizon"] for row in csv.DictReader(file)} == {"", "0.5"}
    (entry,) = [e for e in json.loads((folder / "summary.json").read_text())["cells"] if e["policy"] == "a"]
    assert entry["parameters"] == made_of and "text" not in entry["sources"]["routing"]
    record = yaml.safe_load((folder / "config.yaml").read_text())
    run = dashboards._cell_identity(
        dashboards._Study(config=record, summary=NOTHING, results_folder=folder, settings=dashboards.WandbSettings()),
        mine,
    )["config"]
    assert {name: run[name] for name in wanted} == wanted
    assert run["sources.routing.text"] == OWN and run["asked"]["root_seed"] == 7 and "study" not in run


def test_the_configuration_as_asked_cannot_be_taken_for_what_ran(call: CommandLine) -> None:
    """Flat names of a run's configuration on the dashboard are resolved ones; all else is below ``asked``."""
    call.done("policies=[{name: a, routing: ucb1, width: 3, kappa: 2}]", "policy.ucb1.width=1", "out=out")
    (cell,) = cells(call.folder / "out").values()
    record = study_folder.read_record(call.folder / "out")
    given = dashboards._Study(
        config=record,
        summary=NOTHING,
        results_folder=call.folder,
        settings=dashboards.WandbSettings(),
    )
    run = dashboards._cell_identity(given, cell)["config"]
    assert (run["routing.width"], run["confidence.kappa"]) == (3.0, 2.0)
    assert run["asked"]["policy"] == {"ucb1": {"width": 1}}
    assert not [name for name, value in run.items() if isinstance(value, dict) and name != "asked"]


def test_a_choice_and_a_number_of_one_name_are_one_column_of_words(tmp_path: Path) -> None:
    made_of = ({"routing": {"name": "one", "mode": "fast", "size": 2}}, {"routing": {"name": "two", "mode": 3.0}})
    pair = [make_cell(name, parameters=made) for name, made in zip(("one", "two"), made_of, strict=True)]
    tables.write_results(tmp_path, pair)
    found = {(row["policy"], row["routing.mode"], row["routing.size"]) for row in studies.rows(tmp_path)}
    assert found == {("one", "fast", 2), ("two", "3.0", None)}


def test_swept_parameters_called_like_a_column_keep_their_rows_and_lines_apart(tmp_path: Path) -> None:
    swept = [{"policy.mine.horizon": value, "horizon": 500} for value in (3.0, 4.0)]
    pair = [make_cell("mine", swept=values, horizon=500) for values in swept]
    tables.write_results(tmp_path, pair)
    assert {(row["horizon"], row["policy.mine.horizon"]) for row in studies.rows(tmp_path)} == {(500, 3.0), (500, 4.0)}
    assert [label.line for label in label_cells(pair)] == ["mine (mine.horizon=3)", "mine (mine.horizon=4)"]
    columns, entries = dashboards.run_table(pair)
    assert {entry[columns.index("policy.mine.horizon")] for entry in entries} == {3.0, 4.0}
    assert {entry[columns.index("horizon")] for entry in entries} == {500}
    for name in ("budget", "seed", "policy", "env", "target", "demand", "num_models", "stages"):
        pair = [make_cell("mine", swept={f"policy.mine.{name}": value}) for value in (3.0, 4.0)]
        assert len({label.line for label in label_cells(pair)}) == 2
    both = [make_cell("mine", swept={"policy.mine.floor": a, "policy.greedy.floor": b}) for a, b in ((1, 2), (2, 1))]
    both.append(make_cell("mine", swept={"policy.mine.floor": 1, "policy.greedy.floor": 1}))
    assert label_cells(both)[0].line == "mine (mine.floor=1, greedy.floor=2)"


# Old and new.
def edit(call: CommandLine, old: str, new: str) -> None:
    studies.write(call.folder, {"mine.py": (call.folder / "mine.py").read_text().replace(old, new)})


def test_results_of_an_edited_rule_are_kept_and_named_and_not_shown(call: CommandLine, ask: Callable) -> None:
    rules = ("rules=[mine.py]", POLICIES, "out=out")
    call.done(*rules)
    first, before = published(call.folder / "out"), layout.stored(call.folder / "out")
    edit(call, "0.5 * view.caps", "0.4 * view.caps")
    ran = call(*rules)
    named = "1 cell of an earlier version of routing rule mine is kept in cells/, not shown"
    assert (ran.code, ran.err) == (0, "") and named in ran.out
    folder, second = call.folder / "out", published(call.folder / "out")
    assert len(layout.stored(folder)) == 3 and len(study_folder.shown(folder)) == 2
    assert [row["policy"] for row in studies.rows(folder)] == ["uniform", "uniform", "a", "a"]
    for name in ("report", "status"):
        code, out, err = ask(name, folder)
        assert (code, err) == (0, "") and named in out
        assert published(folder) == second != first
    assert status.read(folder).done == status.read(folder).cells == 2
    ran = call(*rules, "shard=0")
    assert (ran.code, ran.err) == (0, "")
    assert published(folder) == second
    # Undone, the first results are those of this code again, and nothing is simulated.
    edit(call, "0.4 * view.caps", "0.5 * view.caps")
    assert call.done(*rules, "shard=1").decisions == 0
    assert study_folder.shown(folder) == before and published(folder) == first
    assert "1 cell of an earlier version of routing rule mine" in ask("report", folder)[1]


def test_results_of_an_edited_catalogue_are_not_shown(call: CommandLine) -> None:
    studies.write(call.folder, {"models.csv": studies.CATALOGUE})
    command = ("env.catalogue=models.csv", "out=out")
    call.done(*command)
    studies.write(call.folder, {"models.csv": studies.CATALOGUE.replace("0.8", "0.7")})
    ran = call(*command)
    assert "1 cell of an earlier version of catalogue models.csv is kept in cells/, not shown" in ran.out
    assert len(studies.rows(call.folder / "out")) == 2


def test_an_earlier_study_of_the_folder_loses_what_other_code_made(call: CommandLine) -> None:
    one = ("rules=[mine.py]", POLICIES, "out=out", "horizon=20")
    other = ("rules=[mine.py]", POLICIES, "out=out", "horizon=10", "extend=true")
    call.done(*one)
    call.done(*other)
    assert len(studies.rows(call.folder / "out")) == 8
    edit(call, "0.5 * view.caps", "0.4 * view.caps")
    ran = call(*other)
    assert "2 cells of an earlier version of routing rule mine are kept in cells/, not shown" in ran.out
    found = {(row["policy"], row["horizon"]) for row in studies.rows(call.folder / "out")}
    assert found == {("uniform", 10), ("uniform", 20), ("a", 10)}
    assert call.done(*one).decisions == 40  # rounds times seeds
    assert len(studies.rows(call.folder / "out")) == 8


# Again.
def values(out: str) -> dict[str, float]:
    lines = out.split("\n\n")[0].splitlines()[1:]
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines)}


def test_a_run_is_made_again_bit_for_bit(call: CommandLine, ask: Callable, tmp_path: Path) -> None:
    sweep = ("seeds=3", "sweep.target=[0.5,0.9]", "demand.counts=poisson", "chunk_rows=4")
    call.done("rules=[mine.py]", POLICIES, *WORLD, *sweep, "out=out")
    folder = call.folder / "out"
    cell = cells(folder)["a"]
    identity, path = cell.info.cell, tmp_path / "curve.csv"
    (row,) = [row for row in studies.rows(folder) if (row["cell"], row["seed"]) == (identity, 2)]
    before = studies.tree(folder)
    code, out, err = ask("replay", folder, identity, "--seed", 2, "--curve", path)
    assert (code, err) == (0, "") and "every bit is as stored" in out
    assert values(out) == {name: row[name] for name in values(out)} and "reward" in values(out)
    curve = list(csv.reader(io.StringIO(path.read_text())))
    assert curve[0] == ["rounds", *cell.metrics]
    np.testing.assert_array_equal(np.array([line[1:] for line in curve[1:]], float), cell.curves[2])
    assert [int(line[0]) for line in curve[1:]] == cell.eval_rounds.tolist()
    (call.folder / "mine.py").unlink()  # the cells have its text
    code, out, err = ask("replay", folder, identity, "--seed", 0)
    assert (code, err) == (0, "") and f"\n20,{cell.curves[0, -1, 0]!r}".replace("np.float64(", "").replace(
        ")", ""
    ) in out
    assert studies.tree(folder) == before


def test_what_cannot_be_made_again_is_refused_in_one_sentence(
    call: CommandLine, ask: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    studies.write(call.folder, {"models.csv": studies.CATALOGUE})
    call.done("rules=[mine.py]", POLICIES, *WORLD, "env.catalogue=models.csv", "out=out")
    folder = call.folder / "out"
    identity = cells(folder)["a"].info.cell

    def refused(*words: str, cell: str = identity, seed: object = 1) -> None:
        code, out, err = ask("replay", folder, cell, "--seed", seed)
        assert (code, out) == (2, "")
        studies.one_sentence(err, *words)

    refused("no cell '123'", cell="123")
    refused(identity, "no seed 2", "0 to 1", seed=2)
    refused("--seed", seed="x")
    code, out, err = ask("replay", folder, identity, "--seed", 1, "--curve", folder / "no" / "curve.csv")
    assert (code, out) == (2, "")
    studies.one_sentence(err, "--curve", "No such file or directory")
    edit(call, "0.5 * view.caps", "0.4 * view.caps")
    refused(identity, "routing rule mine is another version here", "demand process surge")
    edit(call, "0.4 * view.caps", "0.5 * view.caps")
    studies.write(call.folder, {"models.csv": studies.CATALOGUE.replace("0.8", "0.7")})
    refused(identity, "catalogue models.csv is another version here")
    studies.write(call.folder, {"models.csv": studies.CATALOGUE})
    monkeypatch.setattr(sources, "engine", lambda: "0" * 64)
    refused(identity, "the program is another version here (")
