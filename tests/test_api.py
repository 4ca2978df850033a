"""The Python API: what it simulates is what the command line stores, and it leaves nothing behind but its results."""

import hashlib
import math
import re
import runpy
import shutil
import subprocess
import sys
import types
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hydra
import jax
import numpy as np
import pyarrow.parquet
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.version import VersionBase
from omegaconf import OmegaConf

import experiments
from bandits.deployment.uniform import Uniform as UniformDeployment
from bandits.routing import ROUTING, RoutingRule, RoutingView, fill
from envs.parameters import number
from experiments import FailedCellsError, InputError, Results, load_study, run_study, simulate
from experiments.api import llm_bandits, settings
from experiments.cli import run
from experiments.config import sources
from experiments.report import page
from experiments.report.scaling import mean_interval
from tests.conftest import ROOT

WORLD: dict[str, Any] = {"num_models": 3, "demand": "constant", "demand.counts": "none", "eval_rounds": 4}
ARGUMENTS = ("env.num_models=3", "demand=constant", "demand.counts=none", "eval_rounds=4", "tracker=jsonl", "seeds=3")
SWEEP = ("sweep.horizon=[20,40]", "sweep.budget_per_task=[3e-4]", "expected_exponents={}", "policies=[uniform]")


@dataclass(frozen=True, kw_only=True)
class Greedy(RoutingRule):
    """The best lower bound of the reward, less a price."""

    price: float = number(0.1, low=0.0)

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        index = 1.0 + view.reward_upper - self.price * view.consumption_lower[:, 0]
        return fill(index, view.affordable_caps), state


@dataclass(frozen=True, kw_only=True)
class Broken(RoutingRule):
    """Its decision cannot be traced."""

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        return (view.caps if view.demand > 0 else 0 * view.caps), state


def global_state() -> tuple[Any, ...]:
    """What belongs to the process, and not to a study."""
    names = ("jax_enable_x64", "jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    jax_settings = [jax.config.values[name] for name in names]
    return dict(ROUTING), jax_settings, GlobalHydra.instance().hydra, VersionBase.instance().getbase()


def simulated(**keys: Any) -> Results:
    given = {"seeds": 3, "overrides": WORLD, "horizon": [20, 40], "budget_per_task": [3e-4], **keys}
    return simulate(catalogue="routerbench", **given)


@pytest.fixture(scope="module")
def results() -> Results:
    before = global_state()
    found = simulated(policies=["uniform", Greedy(price=0.1), Greedy(price=2), ("dear", Greedy(price=9.0))])
    assert global_state() == before
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of the command line whose cells are the first ones of ``results``."""
    out = tmp_path_factory.mktemp("study") / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "write", lambda cells, record, found, folder: folder / "report.html")
        before = global_state()
        ran = run_study(out=out, overrides=[*ARGUMENTS, *SWEEP])
        assert global_state() == before
    assert (ran.folder, len(ran), ran.planned) == (out, 2, 2)
    return out


# Importing.
def test_importing_is_cheap() -> None:
    check = "import sys, experiments; assert not {'jax', 'numpy', 'hydra'} & set(sys.modules); print(dir(experiments))"
    said = subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(repr(name) in said for name in experiments.__all__)


def test_both_packages_have_the_same_names() -> None:
    assert llm_bandits.__all__ == experiments.__all__
    assert all(getattr(llm_bandits, name) == getattr(experiments, name) for name in experiments.__all__)
    assert re.fullmatch(r"\d+\.\d+.*", experiments.__version__)
    for module in (experiments, llm_bandits):
        with pytest.raises(AttributeError, match="has no attribute 'simulat'"):
            _ = module.simulat


def test_a_package_that_hides_one_of_ours_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "experiments" / "api" / "llm_bandits", tmp_path / "llm_bandits")
    (tmp_path / "envs").mkdir()
    (tmp_path / "envs" / "__init__.py").touch()
    command = [sys.executable, "-c", f"import sys; sys.path[:0] = ['.', {str(ROOT)!r}]; import llm_bandits"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "ImportError: llm_bandits needs its own package 'envs', and" in ended.stderr
    (tmp_path / "envs" / "__init__.py").unlink()  # without it, a folder hides nothing
    subprocess.run(command, cwd=tmp_path, check=True)


# Simulating.
def test_results_say_what_they_are(results: Results) -> None:
    assert len(results) == 8
    assert repr(results) == (
        "<Results: 8 cells of uniform, Greedy (price=0.1), Greedy (price=2), dear; 20 to 40 rounds, 3 seeds>"
    )
    rows = results.to_arrow().to_pylist()
    assert len(rows) == 8 * 3
    wanted = {"policy": "dear", "routing": "Greedy", "routing.price": 9.0, "horizon": 40, "seed": 2, "num_models": 3}
    assert rows[-1].items() >= wanted.items()
    assert [entry.label for entry in results.summary().cells][::4] == ["uniform", "uniform"]


def test_a_class_of_ones_own_is_identified_by_source_and_parameters(results: Results) -> None:
    assert "Greedy" not in ROUTING
    found = results.provenance["cells"]
    assert len({entry["parameters"]["routing"].get("price") for entry in found.values()}) == 4
    (one, *others) = [entry["sources"]["routing"] for entry in found.values() if entry["policy"] != "uniform"]
    assert one["sha256"] == hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    assert one["text"] == Path(__file__).read_text()
    assert all(other["sha256"] == one["sha256"] for other in others)
    assert "the program" in results.provenance["code"] and "jax" in results.provenance["versions"]


def test_a_class_typed_into_an_interpreter_is_identified_by_its_code() -> None:
    def typed(body: str) -> type:
        module = types.ModuleType("typed_in")
        text = f"class Mine(Base):\n    def decide(self, state, view):\n        return {body}, state\n"
        exec(text, module.__dict__ | {"Base": RoutingRule, "__name__": "typed_in"}, space := {})
        return space["Mine"]

    first, same, other = (sources._found(typed(body))["sha256"] for body in ("view.caps", "view.caps", "0 * view.caps"))
    assert first == same != other


def test_parts_of_a_policy_may_be_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    planned: list[Any] = []
    monkeypatch.setattr("experiments.api.studies._simulated", lambda study, cells, **_: planned.extend(cells) or 1 / 0)
    policies = [{"name": "both", "routing": Greedy(price=3.0), "deployment": UniformDeployment(), "kappa": 2}]
    with pytest.raises(ZeroDivisionError):
        simulated(policies=policies)
    assert planned[0].config.policy.parameters == {"price": 3.0}
    assert planned[0].config.policy.deployment == "uniform" and planned[0].config.policy.confidence["kappa"] == 2
    assert "Greedy" not in ROUTING


def test_cells_that_fail_are_told_with_their_place_and_cost_nothing_else(results: Results) -> None:
    with pytest.raises(
        FailedCellsError, match=r"Broken: .*test_api\.py, line \d+, in Broken\.decide: .*use jnp"
    ) as failed:
        simulated(policies=["uniform", Broken()])
    assert set(failed.value.failed) == {"Broken"}
    kept = failed.value.results
    assert (len(kept), kept.planned) == (2, 4)
    assert_same(kept, results)


def assert_same(some: Results, others: Results) -> None:
    """Cells of the same id, bit for bit."""
    known = {cell.info.cell: cell for cell in others.cells}
    for cell in some.cells:
        other = known[cell.info.cell]
        assert (cell.metrics, cell.models, cell.estimates) == (other.metrics, other.models, other.estimates)
        arrays = ("seeds", "eval_rounds", "curves", "share", "lower", "upper", "coverage", "truth", "benchmark_share")
        assert all(getattr(cell, name).tobytes() == getattr(other, name).tobytes() for name in arrays)
        ours, theirs = ({**found.info.to_json(), "wall_s": 0} for found in (cell, other))
        assert ours == theirs


# Folders.
def test_a_study_with_a_folder_has_the_same_bits(results: Results, folder: Path) -> None:
    stored = load_study(folder)
    assert_same(stored, results)
    assert results.select(policy="uniform").to_arrow().select(stored.to_arrow().column_names).equals(stored.to_arrow())
    assert stored.to_arrow().equals(pyarrow.parquet.read_table(folder / "results.parquet"))
    assert stored.summary().cells[0].info.cell == stored.cells[0].info.cell
    assert stored.provenance["versions"] == results.provenance["versions"]


def test_a_partial_folder_is_read_as_far_as_it_is(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "part")
    sorted((tmp_path / "part" / "cells").glob("*.npz"))[0].unlink()
    part = load_study(tmp_path / "part")
    assert (len(part), part.planned) == (1, 2) and "1 of 2 cells" in repr(part)
    sorted((tmp_path / "part" / "cells").glob("*.npz"))[0].unlink()
    empty = load_study(str(tmp_path / "part"))
    assert len(empty) == 0 and "0 of 2 cells" in repr(empty)
    with pytest.raises(InputError, match="no cell is selected, or none is finished"):
        empty.to_arrow()


def test_a_running_hydra_application_is_left_alone() -> None:
    with hydra.initialize_config_module("conf", version_base="1.2"):
        before = global_state()
        settings.composed(["~study"])
        assert global_state() == before and GlobalHydra.instance().is_initialized()


# Configurations.
def swept(axes: dict[str, Any]) -> dict[str, Any]:
    """Without the axes that a value given directly has set to null."""
    inner = {axis: swept(values) if isinstance(values, dict) else values for axis, values in axes.items()}
    return {axis: values for axis, values in inner.items() if values not in (None, {})}


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, []),
        ({"horizon": 7, "budget_per_task": None}, ["horizon=7", "env.budget_per_task=null"]),
        (
            {"horizon": [7, 9], "budget_per_task": (1e-4,), "target": np.array([0.5, 0.75])},
            ["sweep.horizon=[7,9]", "sweep.budget_per_task=[1e-4]", "sweep.target=[0.5,0.75]"],
        ),
        ({"catalogue": Path("a b.csv"), "env": "streaming"}, ["env=streaming", "env.catalogue=a b.csv"]),
        (
            {"demand": "mmpp", "demand.mean": [3, 4], "policy": {"ucb1": {"width": [0.5, 1.0]}}},
            ["demand=mmpp", "sweep.demand.mean=[3,4]", "sweep.policy.ucb1.width=[0.5,1.0]"],
        ),
        (
            {"env": {"arrival_at": [0.1], "resources": {"energy_wh": np.float64(0.3)}}, "sweep": {"mode": "zip"}},
            ["env.arrival_at=[0.1]", "env.resources={energy_wh: 0.3}", "sweep.mode=zip"],
        ),
        ({"policies": ["ucb1", {"routing": "uniform"}]}, ["policies=[ucb1,{routing: uniform}]"]),
    ],
)
def test_a_configuration_is_the_command_lines(given: Mapping[str, Any], arguments: list[str]) -> None:
    with hydra.initialize_config_module("conf", version_base="1.3"):
        composed = hydra.compose("config", overrides=run.open_overrides(["~study", *arguments]))
    asked: Any = OmegaConf.to_container(composed, resolve=True)
    asked["sweep"] = swept(asked["sweep"])
    assert settings.configuration(settings.collected(given, {})) == asked


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"hozizon": 3}, "unknown keyword hozizon; did you mean 'horizon'?"),
        ({"latency_slo_s": 3}, "unknown keyword latency_slo_s; did you mean 'env.latency_slo_s'?"),
        ({"env.targt": 3}, "unknown key env.targt; did you mean 'target'?"),
        ({"horizon": 3, "overrides": {"horizon": 4}}, "horizon is given twice; give it once"),
        ({"horizon.x": 4}, "unknown key horizon.x; horizon is no group of keys"),
        ({"horizon": 0}, "horizon is 0; it must be between 1 and 2147483646"),
        ({"horizon": []}, "sweep.horizon is empty; give at least one value, or leave the axis out"),
        ({"env": "streming"}, "there is no env called 'streming'; did you mean 'streaming'?"),
        ({"out": "x"}, "out is for studies with a folder, and simulate keeps results in memory; use run_study"),
        ({"study": "x"}, "study is for run_study, as in run_study('default', out=...); simulate takes its parts"),
        ({"overrides": "x"}, "overrides is 'x'; it must be a mapping of keys, as in overrides={'env.target': 0.9}"),
        ({"seeds": {1, 2}}, "seeds is a set, and must be a number, text, a list or a mapping"),
        ({"policies": "uniform"}, "policies is 'uniform'; it must be a list, e.g. policies=['uniform', MyRule()]"),
        ({"policies": [Greedy(price=-1.0)]}, "policies.Greedy.price is -1.0; it must lie in [0, inf]"),
        (
            {"policies": [Greedy(), Greedy()]},
            "policies: two are called 'Greedy'; give each mapping a `name` of its own",
        ),
        ({"policies": [{"routing": UniformDeployment()}]}, "policies: routing is a Uniform, which is no routing rule"),
    ],
)
def test_bad_input_is_one_sentence(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError) as refused:
        simulate(**keys)
    assert str(refused.value) == sentence


def test_bad_studies_are_one_sentence_and_never_an_exit(tmp_path: Path) -> None:
    for refused, sentence in (
        (lambda: run_study("defalt"), "there is no study called 'defalt'; did you mean 'default'?"),
        (lambda: run_study(overrides=["horizont=3"]), "unknown key horizont; did you mean 'horizon'?"),
        (lambda: run_study(overrides="seeds=3"), "must be a list of arguments"),
        (lambda: simulate(policies=[Greedy]), r"each must be an instance, Greedy\(...\)"),
        (lambda: load_study(tmp_path / "none"), "is no folder; give the results folder of a study"),
    ):
        with pytest.raises(InputError, match=sentence):
            refused()


# Selecting and comparing.
def test_a_difference_is_taken_seed_by_seed(results: Results) -> None:
    one, other = (results.select(policy=name, horizon=40).cells[0] for name in ("dear", "uniform"))
    apart = one.final("regret") - other.final("regret")
    found = results.difference("dear", "uniform", metric="regret", horizon=40)
    assert (found.mean, found.low, found.high) == mean_interval(apart)
    assert (found.n, found.horizon, found.a, found.b) == (3, 40, "dear", "uniform")
    assert str(found).startswith("dear - uniform: ") and "3 paired seeds" in str(found)
    same = results.difference("dear", "dear", metric="reward_share", horizon=20)
    assert (same.mean, same.low, same.high) == (0.0, 0.0, 0.0)


def test_what_cannot_be_compared_is_refused(results: Results) -> None:
    for refused, sentence in (
        (lambda: results.difference("dear", "uniform"), "2 cells of dear differ in horizon.*, e.g. horizon=20"),
        (
            lambda: results.difference("deer", "uniform", horizon=40),
            "no cell whose policy is 'deer'; did you mean 'dear'",
        ),
        (lambda: results.difference("dear", "uniform", horizon=41), "no cell whose horizon is 41"),
        (lambda: results.difference("dear", "uniform", horzon=40), "no column 'horzon'; did you mean 'horizon'"),
        (lambda: results.difference("dear", "uniform", horizon=40, metric="regert"), "did you mean 'regret'"),
    ):
        with pytest.raises(InputError, match=sentence):
            refused()
    short, long = (
        results.select(policy="uniform", horizon=20).cells[0],
        results.select(policy="dear", horizon=40).cells[0],
    )
    with pytest.raises(InputError, match="uniform and dear are not paired: their horizon differ"):
        replace(results, cells=(short, long)).difference("uniform", "dear")
    fewer = replace(long, seeds=long.seeds[:2], curves=long.curves[:2])
    with pytest.raises(InputError, match="not paired: one has 3 seeds and the other 2"):
        replace(results, cells=(short, fewer)).difference("uniform", "dear")


# Tables of others.
def test_what_is_not_installed_is_named(results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in (("pandas", results.to_pandas), ("xarray", results.to_xarray)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(ModuleNotFoundError, match=f"needs {name}, which is not installed; pip install {name}"):
            method()


def test_a_data_frame_has_the_rows_of_the_table(results: Results) -> None:
    pytest.importorskip("pandas")
    frame = results.to_pandas()
    assert len(frame) == 24 and set(frame["policy"]) == {cell.info.policy for cell in results.cells}


def test_a_dataset_has_labelled_curves(results: Results) -> None:
    pytest.importorskip("xarray")
    short = results.select(horizon=20).to_xarray()
    assert dict(short.sizes) == {"cell": 4, "seed": 3, "rounds": 4}
    cell = results.select(policy="dear", horizon=20).cells[0]
    chosen = short["regret"].where(short.policy == "dear", drop=True).sel(seed=1, rounds=20).item()
    assert chosen == cell.final("regret")[1] and short["spent_money"].attrs["units"] == "USD"
    whole = results.to_xarray()
    assert dict(whole.sizes) == {"cell": 8, "seed": 3, "evaluation": 4}
    assert whole["rounds"].isel(evaluation=-1).values.tolist() == whole["horizon"].values.tolist()
    assert math.isclose(whole["budget_per_task"].values[0], 3e-4)


# What documents it.
@pytest.mark.slow
def test_the_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "docs" / "example_api.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "<Results: 12 cells of uniform, PriceAverse, stingy;" in said and "stingy - uniform: " in said
