"""A cell's identity holds everything its results depend on and nothing else."""

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments.config import cells, sources
from experiments.config import study as study_config
from tests import studies
from tests.studies import CATALOGUE, RULE, TRACE, ids, planned

BASE = ("policies=[primal_dual_resolving]", "env.catalogue=routerbench", "seeds=2")
FORECASTER = """
from bandits.forecasting.base import Forecaster, forecaster, nominal_demand, steady


@forecaster("expectant")
class Expectant(Forecaster):
    def init(self, problem):
        return 1.0 * nominal_demand(problem)

    def learn(self, state, demand, profile):
        return state

    def outlook(self, state, now):
        return steady(state, now)
"""


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What rule files register is forgotten after each test."""
    yield
    for registry in study_config.REGISTRIES.values():
        registry.forget(study_config.USER_MODULE)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["horizon=30", "seeds=3"], ["seeds=3", "horizon=30"]),
        (["policies=[uniform,primal_dual_resolving]"], ["policies=[primal_dual_resolving,uniform]"]),
        (
            ["policies=[{routing:lp_resolving,penalty:1,kappa:2}]"],
            ["policies=[{kappa:2,penalty:1,routing:lp_resolving}]"],
        ),
        (["sweep.horizon=[10,20]", "sweep.target=[0.5,0.6]"], ["sweep.target=[0.6,0.5]", "sweep.horizon=[20,10]"]),
        (["sweep.horizon=[20]"], ["horizon=20"]),
        (["sweep.target=[0.5,0.5]"], ["env.target=0.5"]),
        (["horizon=20"], ["horizon=20.0"]),
        (["out=null"], ["out=elsewhere"]),
        (["tracker=jsonl"], ["tracker=wandb"]),
        (["chunk_rows=1"], ["chunk_rows=1000000"]),
        (["name=one"], ["name=other"]),
        (["expected_exponents={}"], ["expected_exponents={uniform: {regret: 0.5}}"]),
        (["env.num_models=null"], ["env.num_models=11"]),
        (["policy.ucb1.width=1"], ["policy.ucb1.width=2"]),  # which no policy here has
    ],
    ids=lambda arguments: " ".join(arguments),
)
def test_the_identity_is_the_same_however_it_is_said(one: list[str], other: list[str]) -> None:
    assert ids(*BASE, *one) == ids(*BASE, *other)


@pytest.mark.parametrize(
    "argument",
    [
        *("horizon=21", "seeds=3", "root_seed=1", "eval_rounds=9", "precision=float64"),
        *("env=paretobandit", "env.num_models=3", "env.budget_per_task=2e-4", "env.budget_per_task=null"),
        *("env.budget_rule=stop", "env.target=0.8", "env.target=null", "env.latency_slo_s=5", "env.cloud_rtt_s=0.2"),
        *("env.floors={quality: 0.4}", "env.resources={quality_variance: 0.2}", "env.edge_throughput=0.5"),
        *("env.cloud_throughput=0.5", "env.quality_noise=beta", "env.quality_concentration=5"),
        *("env.cost_bound_multiple=5", "env.demand_seen=after", "env.cost_cv=0.3", "env.latency_cv=0.3"),
        *("demand=walk", "demand.mean=21", "demand.counts=poisson", "demand.maximum=100"),
        *("forecaster=ewma", "forecaster.upward_bias=0.1"),
        *("policy.confidence.confidence=0.5", "policy.confidence.kappa=2", "policy.confidence.radius=variance"),
        *("policy.primal_dual_resolving.eta=0.1", "policy.primal_dual_resolving.optimizer=adam"),
        *("policy.primal_dual_resolving.targets=static", "policy.primal_dual_resolving.covering=pessimistic"),
        "policies=[uniform]",
        "policies=[{routing:primal_dual_resolving,name:other}]",
        "policies=[{routing:primal_dual_resolving,forecaster:ewma}]",
    ],
)
def test_the_identity_changes_with_all_that_matters(argument: str) -> None:
    assert not ids(*BASE) & ids(*BASE, argument)


def test_a_catalogue_is_its_content_and_not_its_path(tmp_path: Path) -> None:
    studies.write(tmp_path, {"a.csv": CATALOGUE, "b/c.csv": CATALOGUE, "d.csv": CATALOGUE.replace("0.8", "0.81")})
    first, same, other = (ids(f"env.catalogue={tmp_path / name}") for name in ("a.csv", "b/c.csv", "d.csv"))
    assert first == same
    assert not first & other
    studies.write(tmp_path, {"a.csv": CATALOGUE.replace("0.4", "0.5")})
    assert not first & ids(f"env.catalogue={tmp_path / 'a.csv'}")


def test_a_trace_is_its_content_and_not_its_path(tmp_path: Path) -> None:
    studies.write(tmp_path, {"a.csv": TRACE, "b.csv": TRACE, "c.csv": TRACE.replace("5", "6")})
    first, same, other = (ids("demand=trace", f"demand.path={tmp_path / name}.csv") for name in "abc")
    assert first == same
    assert not first & other


def own(path: Path, policies: str = "[mine]") -> tuple[str, str]:
    return f"rules=['{path}']", f"policies={policies}"


@pytest.mark.parametrize("change", ["self.warmth * wanted", "0.5 * view.caps"], ids=["in the class", "beside it"])
def test_a_user_s_rule_is_its_source_and_not_its_path(tmp_path: Path, change: str) -> None:
    changed = RULE.replace(change, f"0.9 * {change}")
    studies.write(tmp_path, {"a.py": RULE, "b/a.py": RULE, "c.py": changed})
    first, same, other = (ids(*own(tmp_path / name)) for name in ("a.py", "b/a.py", "c.py"))
    assert first == same
    assert not first & other


def test_a_user_s_forecaster_is_its_source(tmp_path: Path) -> None:
    studies.write(tmp_path, {"a.py": FORECASTER, "b.py": FORECASTER.replace("1.0 *", "2.0 *")})
    first, other = (
        ids(f"rules=['{tmp_path / name}']", "~forecaster.upward_bias", "forecaster.name=expectant")
        for name in ("a.py", "b.py")
    )
    assert not first & other


DEMAND = """
from envs.parameters import number
from envs.demand.base import Process, demand_process


@demand_process("surge")
class Surge(Process):
    mean: float = number(20.0, low=0.0, above=True)

    def step(self, state, t, horizon, key):
        return state, 1.0 * self.profile(t, horizon)
"""


def test_a_user_s_demand_is_its_source(tmp_path: Path) -> None:
    studies.write(tmp_path, {"a.py": DEMAND, "b/a.py": DEMAND, "c.py": DEMAND.replace("1.0 *", "0.9 *")})
    first, same, other = (
        ids(f"rules=['{tmp_path / name}']", "demand=constant", "demand.process=surge")
        for name in ("a.py", "b/a.py", "c.py")
    )
    assert first == same
    assert not first & other


HELPED = RULE.replace("import jax.numpy as jnp", "import jax.numpy as jnp\nimport helper_of_mine")


@pytest.fixture
def forgetful() -> Iterator[Callable[[], None]]:
    """Has every file read anew, as a new process does."""

    def forget() -> None:
        for remembered in (
            sources.engine,
            sources._engine_modules,
            sources._found,
            sources._imports,
            sources._imported,
        ):
            remembered.cache_clear()

    yield forget
    forget()


def test_what_a_user_s_rule_imports_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: Callable[[], None]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    found = []
    for helper in ("one = 1", "one = 2"):
        monkeypatch.delitem(sys.modules, "helper_of_mine", raising=False)
        forgetful()
        studies.write(tmp_path, {"a.py": HELPED, "helper_of_mine.py": helper})
        found.append(ids(*own(tmp_path / "a.py")))
    assert not found[0] & found[1]


def test_an_edited_shipped_rule_changes_its_own_cells_and_shared_code_changes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgetful: Callable[[], None]
) -> None:
    for package in ("bandits", "envs", "experiments"):
        shutil.copytree(sources.ROOT / package, tmp_path / package)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    wide, greedy = "{name: wide, routing: ucb1, width: 3}", "{name: a, routing: uniform, deployment: greedy}"

    def found(*edited: str) -> dict[str, str]:
        for name in edited:
            with (tmp_path / name).open("a", encoding="utf-8") as file:
                file.write("NEW = 1\n")
        forgetful()
        return {
            cell.config.policy.name: cell.id
            for cell in planned(f"policies=[uniform,ucb1,{wide},lp_resolving,{greedy}]")
        }

    before = found()
    assert found("experiments/report/page.py", "experiments/cli/display.py", "experiments/jobs/runner.py") == before
    rule = found("bandits/routing/ucb1.py")
    assert {name for name in before if rule[name] != before[name]} == {"ucb1", "wide"}
    deployment = found("bandits/deployment/greedy.py")
    assert {name for name in before if deployment[name] != rule[name]} == {"a"}
    for module in (
        "bandits/estimators/statistics.py",
        "envs/ledger.py",
        "experiments/engine/rollout.py",
        "bandits/solvers/support.py",
    ):
        shared = found(module)
        assert not [name for name in before if shared[name] == before[name]]
        before = shared


def test_a_user_s_rule_changes_no_other_policy(tmp_path: Path) -> None:
    studies.write(tmp_path, {"a.py": RULE})
    assert ids("policies=[uniform]") < ids(*own(tmp_path / "a.py", "[uniform,mine]"))


def test_two_files_of_the_same_name_are_two_rules(tmp_path: Path) -> None:
    ours = RULE.replace("mine", "ours").replace("Mine", "Ours")
    studies.write(tmp_path, {"one/rule.py": RULE, "other/rule.py": ours})
    files = f"rules=['{tmp_path}/one/rule.py','{tmp_path}/other/rule.py']"
    assert len(ids(files, "policies=[mine,ours]")) == 2


def test_policies_budgets_and_targets_share_their_luck_and_worlds_do_not() -> None:
    def streams(*arguments: str) -> set[int]:
        return {cell.stream for cell in planned(*BASE, *arguments)}

    shared = ("policies=[uniform,primal_dual_resolving]", "sweep.budget_per_task=[1e-4,1e-3]", "sweep.target=[0.5,0.9]")
    assert len(planned(*BASE, *shared)) == 8
    assert streams(*shared) == streams()
    for other in ("horizon=21", "demand.mean=21", "env.num_models=3"):
        assert streams(other).isdisjoint(streams())


def test_cells_of_one_structure_are_one_group_whatever_their_numbers() -> None:
    numbers = (
        "sweep.horizon=[10,20]",
        "sweep.target=[0.5,0.9]",
        "sweep.num_models=[2,11]",
        "sweep.policy.primal_dual_resolving.eta=[0.1,1]",
    )
    assert [len(group) for group in cells.groups(planned(*BASE, *numbers))] == [16]
    structures = (
        "sweep.policy.primal_dual_resolving.optimizer=[sgd,adam]",
        "sweep.policy.confidence.radius=[mean,variance]",
        "sweep.target=[0.5,null]",
    )
    assert [len(group) for group in cells.groups(planned(*BASE, *structures))] == [1] * 8


def test_a_group_is_stacked_cell_by_cell() -> None:
    found = planned(*BASE, "sweep.num_models=[2,11]", "sweep.target=[0.5,0.9]")
    worlds, policies = cells.stack(found)
    for number, cell in enumerate(found):
        alone = jax.tree.leaves((cell.instance.world, cell.policy))
        together = [leaf[number] for leaf in jax.tree.leaves((worlds, policies))]
        assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))
    assert worlds.problem.exists.sum(axis=1).tolist() == [cell.instance.world.problem.exists.sum() for cell in found]
    assert {cell.models_padded for cell in found} == {11}


@pytest.mark.parametrize(("precision", "dtype"), [("float32", np.float32), ("float64", np.float64)])
def test_numbers_have_the_precision_of_the_study(precision: str, dtype: type) -> None:
    (cell,) = planned(*BASE, f"precision={precision}")
    kinds = {leaf.dtype for leaf in jax.tree.leaves(cell.policy)}
    assert kinds == {np.dtype(dtype)}
    assert cell.instance.world.reward_mean.dtype == dtype
