"""Whole runs in which models come, go and are deployed by stage, against books kept in plain NumPy.

Every pair of rules is one compiled program: the scenarios differ in numbers alone. Compiling is what takes long, so the
pairs outside ``QUICK`` are ``slow``. Runs are watched round by round, so
what a snapshot says of a run can be recomputed from what was live, served and charged in each round.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.deployment import DeploymentRule, DeploymentView
from envs import catalogue as catalogues
from envs import ledger
from envs import world as edge_cloud
from envs.build import Instance
from envs.inventory import NEVER
from envs.world import World
from experiments.config.cells import Cell
from experiments.engine import batch, rollout
from experiments.engine.rollout import Snapshot
from experiments.results import measure
from experiments.results.cell_file import CellResult
from tests import oracles, test_batch, worlds
from tests.test_timeline import starts_of
from tests.worlds import Reckless

CELLS, RUNS, MODELS, PADDED = 2, 3, 4, 5
PAIRS: dict[str, tuple[str, Any]] = {
    "stageroute": ("stageroute", "stageroute"),
    "clairvoyant": ("clairvoyant", "lp_oracle"),
    "greedy": ("greedy", "best_fixed"),
    "uniform": ("uniform", Reckless()),
    "everything": ("everything", "primal_dual_resolving"),
}
QUICK = ("uniform", "everything")  # the others search for the best deployment or solve a program in every round
TOTALS = ("demand", "served", "refused", "reward", "spent", "service")
COUNTS = ("deployed", "activations", "evictions", "first_live", "stopped", "violation_worst")
DEMAND = {"process": "sinusoid", "mean": 3.0, "amplitude": 0.5, "period": 17.0, "phase": 0.1, "noise": 0.3}
STEADY = {"mean": 1.0, "amplitude": 0.0, "noise": 0.0}
QUALITY, COST = np.array([0.3, 0.5, 0.7, 0.8]), np.array([1e-4, 2e-4, 4e-4, 8e-4])
LATE_GONE = {"arrivals": "given", "arrival_at": (0.0, 0.13, 0.3, 0.51), "retirement_at": (0.6, None, 0.71, None)}


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What the two cells of a batch share, and in what they differ."""

    horizon: int
    stages: int
    shared: dict[str, Any]
    cells: tuple[dict[str, Any], dict[str, Any]]
    resolve_every: int = 1


SCENARIOS = {
    "even": Scenario(
        horizon=120,
        stages=5,
        shared={"arrivals": "even", "arrival_span": 0.8},
        cells=({"max_deployed": 2}, {"max_deployed": 3, "budget_per_task": 1e-3, "target": 0.0}),
        resolve_every=7,
    ),
    "retiring within stages": Scenario(
        horizon=100,
        stages=4,
        shared=LATE_GONE,
        cells=({"max_deployed": 2, "cloud_throughput": 0.7}, {"max_deployed": 1, "target": 0.999}),
    ),
    "dear to switch on": Scenario(  # a budget of 0.086 USD
        horizon=96,
        stages=8,
        shared={"arrivals": "poisson", "lifetime": 0.5, "arrival_seed": 3, "target": 0.0},
        cells=(
            {"max_deployed": 2, "deployment_cost_usd": 0.02},
            {"max_deployed": 4, "deployment_cost_usd": 0.05, "budget_rule": "stop"},
        ),
    ),
    "every round a stage": Scenario(
        horizon=60,
        stages=60,
        shared={"arrivals": "even", "initial_models": 2},
        cells=({"max_deployed": 2}, {"max_deployed": 3, "deployment_cost_usd": 1e-4}),
    ),
    "one stage, and then nobody": Scenario(
        horizon=97,
        stages=1,
        shared={"arrivals": "even", "lifetime": 0.3, "initial_models": 2, "target": 0.0},
        cells=({"max_deployed": 2}, {"max_deployed": 1}),
        resolve_every=1000,
    ),
    "tight": Scenario(
        horizon=97,
        stages=7,
        shared={"arrivals": "after_stage", "target": 0.0, "budget_per_task": 5e-5},
        cells=({"max_deployed": 2, "budget_rule": "stop"}, {"max_deployed": 2}),
    ),
    "on average": Scenario(
        horizon=97,
        stages=7,
        shared={"arrivals": "after_stage", "target": 0.0, "budget_per_task": 5e-5, "budget_rule": "average"},
        cells=({"max_deployed": 2}, {"max_deployed": 3, "deployment_cost_usd": 0.01}),
    ),
}


def models() -> catalogues.Catalogue:
    return worlds.catalogue_of(QUALITY, COST)


def instances(scenario: Scenario, **overrides: Any) -> list[Instance]:
    usual: dict[str, Any] = {
        "models": models(),
        "padded": PADDED,
        "horizon": scenario.horizon,
        "stages": scenario.stages,
        "demand": {**DEMAND, "counts": "none"},
        "target": 0.2,
    }
    return [worlds.instance(**{**usual, **scenario.shared, **cell, **overrides}) for cell in scenario.cells]


def policy(pair: str) -> Any:
    deployment, routing = PAIRS[pair]
    # Narrow intervals: in runs as short as these, wide ones would leave every bound at 0 or 1.
    return worlds.policy(routing, deployment=deployment, confidence={"confidence": 0.01})


def play(pair: str, scenario: Scenario, made: list[Instance], marks: Any, **options: Any) -> Snapshot:
    return worlds.play(
        [instance.world for instance in made],
        policy(pair),
        runs=RUNS,
        marks=tuple(marks),
        stages=scenario.stages,
        resolve_every=scenario.resolve_every,
        **options,
    )


@cache
def watched(pair: str, name: str) -> tuple[list[Instance], Snapshot]:
    """A scenario's instances, and snapshots [T, cells, runs, ...] after every round."""
    scenario = SCENARIOS[name]
    made = instances(scenario)
    return made, play(pair, scenario, made, range(1, scenario.horizon + 1))


pairs = pytest.mark.parametrize(
    "pair", [pytest.param(pair, marks=[] if pair in QUICK else pytest.mark.slow) for pair in PAIRS]
)
PROPERTIES: list[Callable[[str, str], None]] = []  # of every pair of rules in every scenario


def in_every_run(check: Callable[[str, str], None]) -> Callable[[str, str], None]:
    """Register a check of (pair, scenario) for ``test_a_run_has_every_property``."""
    PROPERTIES.append(check)
    return check


@pytest.mark.parametrize("name", SCENARIOS)
@pairs
def test_a_run_has_every_property(pair: str, name: str, subtests: pytest.Subtests) -> None:
    """One case for a run; each property that fails is reported under its own name."""
    for check in PROPERTIES:
        with subtests.test(check.__name__):
            check(pair, name)


# Books in plain NumPy.
@dataclass(frozen=True, kw_only=True)
class Rounds:
    """One run, round by round; amounts in ``worlds.FINE`` parts of a unit, as Python integers."""

    world: World
    stages: int
    deployed: np.ndarray  # [T, M] bool
    demand: np.ndarray  # [T]
    served: np.ndarray  # [T, M]
    spent: np.ndarray  # [T, P]

    @property
    def horizon(self) -> int:
        return len(self.demand)

    @property
    def available(self) -> np.ndarray:
        """[T, M] bool."""
        t = np.arange(self.horizon)[:, None]
        return (self.world.inventory.arrival <= t) & (t < self.world.inventory.retirement)

    @property
    def starts(self) -> list[int]:
        return starts_of(self.horizon, self.stages)

    @property
    def began(self) -> np.ndarray:
        """[T] the first round of each round's stage."""
        starts = np.array(self.starts)
        return starts[np.searchsorted(starts, np.arange(self.horizon), side="right") - 1]

    def new(self) -> np.ndarray:
        """[T, M] bool, switched on at the start of a round."""
        before = np.vstack([np.zeros(self.deployed.shape[1], bool), self.deployed[:-1]])
        return self.deployed & ~before

    def off(self) -> np.ndarray:
        """[T, M] bool, switched off at the start of a round."""
        before = np.vstack([np.zeros(self.deployed.shape[1], bool), self.deployed[:-1]])
        return before & ~self.deployed

    def changes(self) -> list[int]:
        there = self.world.inventory
        return sorted(int(t) for t in (*there.arrival, *there.retirement) if 0 < t < self.horizon)


def one_run(total: ledger.Total, cell: int, run: int) -> ledger.Total:
    """[T, ...] of [T, cells, runs, ...]."""
    return jax.tree.map(lambda digit: np.asarray(digit)[:, cell, run], total)


def rounds_of(made: list[Instance], seen: Snapshot, stages: int, cell: int, run: int) -> Rounds:
    world = made[cell].world
    scales = {"demand": world.scale, "served": world.scale, "spent": world.consumption_scale}

    def each(name: str) -> np.ndarray:
        total = worlds.exactly(one_run(getattr(seen.world, name), cell, run), scales[name])
        return np.diff(total, axis=0, prepend=np.zeros((1, *total.shape[1:]), object))

    return Rounds(
        world=world,
        stages=stages,
        deployed=np.asarray(seen.world.deployed)[:, cell, run],
        **{name: each(name) for name in scales},
    )


@cache
def all_rounds(pair: str, name: str) -> list[tuple[int, int, Rounds]]:
    """(cell, run, rounds) of every run."""
    made, seen = watched(pair, name)
    stages = SCENARIOS[name].stages
    return [(c, r, rounds_of(made, seen, stages, c, r)) for c in range(CELLS) for r in range(RUNS)]


def first_runs(pair: str, name: str) -> list[tuple[int, int, Rounds]]:
    """(cell, run, rounds) of the first run of each cell, for checks that are slow in Python."""
    return [found for found in all_rounds(pair, name) if found[1] == 0]


def means(world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    reward, consumption, service = world.reward_mean, world.consumption_mean, world.service_mean
    return np.asarray(reward, float), np.asarray(consumption, float), np.asarray(service, float)


def per_task_budget(world: World, demand: np.ndarray) -> np.ndarray:
    return np.asarray(world.problem.budget, float) / (float(demand.sum()) / worlds.FINE)


def deployed_worth(rounds: Rounds) -> np.ndarray:
    """[T] the value of a task for what is live in each round: HiGHS, with targets met as well as can be."""
    world, known = rounds.world, {}
    b, (reward, consumption, service) = per_task_budget(rounds.world, rounds.demand), means(rounds.world)
    for live in rounds.deployed:
        if live.tobytes() not in known:
            caps = np.where(live, np.asarray(world.problem.throughput, float), 0.0)
            target = np.asarray(world.problem.target, float)
            _, mix = oracles.soft_mix(reward, consumption, service, b, target, caps, penalty=100.0)
            known[live.tobytes()] = reward @ mix
    return np.array([known[live.tobytes()] for live in rounds.deployed])


def best_worth(rounds: Rounds, present: np.ndarray) -> np.ndarray:
    """[T] the best deployment's value of a task of the models ``present`` [T, M], NaN where none meets the target."""
    world, known = rounds.world, {}
    b, slots = per_task_budget(world, rounds.demand), int(world.problem.max_deployed)
    for there in present:
        if there.tobytes() not in known:
            caps = np.where(there, np.asarray(world.problem.throughput, float), 0.0)
            found = oracles.best_value(*means(world), b, np.asarray(world.problem.target, float), caps, slots)
            known[there.tobytes()] = np.nan if found is None else found
    return np.array([known[there.tobytes()] for there in present])


# What is live.
@in_every_run
def what_is_live_follows_the_rules_of_stages(pair: str, name: str) -> None:
    for _, _, rounds in all_rounds(pair, name):
        assert not (rounds.deployed & ~rounds.available).any()
        at_a_start = np.isin(np.arange(rounds.horizon), rounds.starts)
        assert not rounds.new()[~at_a_start].any()
        gone = rounds.off()[~at_a_start]
        assert not (gone & rounds.available[~at_a_start]).any()  # within a stage only what retires is switched off
        if pair != "everything":
            assert (rounds.deployed.sum(axis=1) <= rounds.world.problem.max_deployed).all()
        elif not ledger.host_units(rounds.world.deployment_cost).any():
            assert (rounds.deployed[at_a_start] == rounds.available[at_a_start]).all()
        assert not rounds.deployed[:, MODELS:].any()
        assert rounds.deployed[0].any() or ledger.host_units(rounds.world.deployment_cost).any()


@in_every_run
def only_what_is_live_serves(pair: str, name: str) -> None:
    for _, _, rounds in all_rounds(pair, name):
        assert not (rounds.served > 0)[~rounds.deployed].any()
        assert ((rounds.served > 0).sum(axis=1) <= 1).all()
        assert (rounds.served.sum(axis=1) <= rounds.demand).all()


@in_every_run
def a_hard_budget_is_never_overspent_whatever_switching_on_costs(pair: str, name: str) -> None:
    """Spend of a round is what the models switched on cost, and at most the worst case of what was served."""
    for _, _, rounds in all_rounds(pair, name):
        world = rounds.world
        if world.problem.budget_hard:
            assert (rounds.spent.cumsum(axis=0) <= worlds.exactly(world.budget, world.consumption_scale)).all()
        fee = worlds.exactly(world.deployment_cost, world.consumption_scale)
        served = rounds.spent - rounds.new().sum(axis=1)[:, None] * fee[None]
        worst = (rounds.served @ np.asarray(world.problem.consumption_bound, float)).astype(float)
        assert (served >= 0).all() and (served.astype(float) <= worst * (1 + 1e-7)).all()


def test_the_scenarios_put_budgets_and_costs_to_the_test() -> None:
    made, seen = watched("uniform", "dear to switch on")
    spent, budget = (ledger.host_units(part) for part in (seen.world.spent, made[0].world.budget))
    assert (spent[-1, 0] > 0.9 * budget).all() and ledger.host_units(seen.world.refused)[-1, 0].max() > 0
    live = np.asarray(seen.world.deployed).sum(axis=-1)
    assert (live[1:] == 0).any() and np.asarray(seen.world.activations)[-1].max() >= 3
    paid = ledger.host_units(made[0].world.deployment_cost) * np.asarray(seen.world.activations)[-1, 0, :, None]
    assert (paid > 0.3 * budget).all()


def overspent(pair: str, name: str) -> np.ndarray:
    """[cells, runs, P] whether more than the budget was spent."""
    made, seen = watched(pair, name)
    budget = np.stack([ledger.host_units(instance.world.budget) for instance in made])[:, None]
    return np.asarray(ledger.host_units(seen.world.spent)[-1] > budget)


@in_every_run
def nothing_is_refused_on_average_and_nothing_overspent_otherwise(pair: str, name: str) -> None:
    world = watched(pair, name)[1].world
    if SCENARIOS[name].shared.get("budget_rule") == "average":
        assert not ledger.host_units(world.refused).any() and not np.asarray(world.stopped).any()
    else:
        assert not overspent(pair, name).any()
        assert all((result_of(pair, name, cell).curve("overspend") == 0.0).all() for cell in range(CELLS))


def test_on_average_a_budget_may_be_overspent() -> None:
    assert overspent("uniform", "on average").sum() + overspent("everything", "on average").sum() >= 2 * RUNS
    assert result_of("uniform", "on average", 1).final("overspend").min() > 0.5
    assert ledger.host_units(watched("uniform", "tight")[1].world.refused)[-1].min() > 0


@in_every_run
def no_decision_is_invalid(pair: str, name: str) -> None:
    assert not np.asarray(watched(pair, name)[1].invalid).any()


def test_uniform_deployments_differ_between_stages_and_runs() -> None:
    live = np.asarray(watched("uniform", "even")[1].world.deployed)
    late = live[72::24, 0]  # [stages, runs, M]
    assert len(np.unique(late.reshape(-1, PADDED), axis=0)) > 2


# The books.
@in_every_run
def counts_of_deployments_are_those_of_the_rounds(pair: str, name: str) -> None:
    _, seen = watched(pair, name)
    for cell, run, rounds in all_rounds(pair, name):
        for counter, events in (("activations", rounds.new()), ("evictions", rounds.off())):
            found = np.asarray(getattr(seen.world, counter))[:, cell, run]
            np.testing.assert_array_equal(found, events.sum(axis=1).cumsum())
        ever = np.maximum.accumulate(rounds.deployed, axis=0)
        first = np.where(ever, np.argmax(rounds.deployed, axis=0), -1)
        np.testing.assert_array_equal(np.asarray(seen.world.first_live)[:, cell, run], first)


@in_every_run
def the_model_that_served_most_of_a_stage_is_first_best_from_its_start(pair: str, name: str) -> None:
    _, seen = watched(pair, name)
    for cell, run, rounds in all_rounds(pair, name):
        first, ends = np.full(PADDED, -1), [*rounds.starts[1:], rounds.horizon]
        for t in range(rounds.horizon):
            if t + 1 in ends:
                began = rounds.starts[ends.index(t + 1)]
                served = rounds.served[began : t + 1].sum(axis=0)
                best = int(np.argmax(served))
                if served[best] > 0 and first[best] < 0:
                    first[best] = began
            np.testing.assert_array_equal(np.asarray(seen.books.first_best)[t, cell, run], first)


@in_every_run
def demand_is_counted_in_its_span_before_and_after_the_first_stage_within_it(pair: str, name: str) -> None:
    made, seen = watched(pair, name)
    for cell, run, rounds in first_runs(pair, name):
        found = worlds.exactly(one_run(seen.books.span_demand, cell, run), made[cell].world.scale)
        changes, bins = rounds.changes(), np.zeros((2 * PADDED + 1, 2), object)
        for t in range(rounds.horizon):
            span = sum(change <= t for change in changes)
            span_began = max((change for change in changes if change <= t), default=0)
            bins[span, int(rounds.began[t] >= span_began)] += rounds.demand[t]
            assert (found[t] == bins).all(), t


@in_every_run
def what_deployments_are_worth_is_what_highs_says(pair: str, name: str) -> None:
    _, seen = watched(pair, name)
    for cell, run, rounds in first_runs(pair, name):
        demand = rounds.demand.astype(float) / worlds.FINE
        expected = (demand * deployed_worth(rounds)).cumsum()
        found = np.asarray(seen.books.deployed_value, float)[:, cell, run]
        np.testing.assert_allclose(found, expected, rtol=5e-5, atol=1e-4)


# Regret.
@cache
def result_of(pair: str, name: str, cell: int) -> CellResult:
    made, seen = watched(pair, name)
    return measured(pair, SCENARIOS[name], made, seen, cell, range(1, SCENARIOS[name].horizon + 1))


def measured(pair: str, scenario: Scenario, made: list[Instance], seen: Snapshot, cell: int, marks: Any) -> CellResult:
    config = test_batch.cell_config("uniform", horizon=scenario.horizon)
    timeline = worlds.timeline(made[cell].world, scenario.horizon, stages=scenario.stages)
    one = Cell(
        config=config,
        id="cell",
        stream=0,
        instance=made[cell],
        policy=policy(pair),
        models_padded=PADDED,
        timeline=timeline,
    )
    mine = jax.tree.map(lambda leaf: leaf[:, cell], seen)
    return measure.cell_result(one, mine, np.array(marks), np.arange(RUNS), 1.0, {})


PARTS = ("regret_waiting", "regret_deployment", "regret_routing")


@in_every_run
def regret_is_waiting_and_deployment_and_routing(pair: str, name: str) -> None:
    for cell in range(CELLS):
        result = result_of(pair, name, cell)
        total = sum(result.curve(part) for part in PARTS)
        np.testing.assert_allclose(total, result.curve("regret"), rtol=1e-9, atol=1e-6)
        assert np.isfinite(result.curves).all()


@in_every_run
def each_part_is_that_of_the_rounds(pair: str, name: str) -> None:
    if pair not in ("stageroute", "uniform"):  # HiGHS solves for every combination of models that was live
        return
    compared = 0
    for cell, run, rounds in first_runs(pair, name):
        demand = rounds.demand.astype(float) / worlds.FINE
        present = rounds.available
        waited_for = present & (np.asarray(rounds.world.inventory.arrival)[None] <= rounds.began[:, None])
        now, window = best_worth(rounds, present), best_worth(rounds, waited_for)
        result, live = result_of(pair, name, cell), deployed_worth(rounds)
        if np.isnan(now).any() or np.isnan(window).any():
            assert result.info.benchmark_feasible == (not np.isnan(now).any())
            continue
        compared += 1
        reward = rounds.served.astype(float) / worlds.FINE @ np.asarray(rounds.world.reward_mean, float)
        expected = {
            "benchmark": demand * now,
            "regret_waiting": demand * (now - window),
            "regret_deployment": demand * (window - live),
            "regret_routing": demand * live - reward,
        }
        for part, values in expected.items():
            np.testing.assert_allclose(result.curve(part)[run], values.cumsum(), rtol=5e-5, atol=3e-3, err_msg=part)
    assert compared >= 1


def test_the_scenarios_have_regret_of_every_kind() -> None:
    found = {part: max(result_of("uniform", name, 0).final(part).min() for name in SCENARIOS) for part in PARTS}
    assert min(found.values()) > 1.0, found


CALM = {  # budgets that serve everyone, no cost, nobody retires within a stage
    "even": {"arrivals": "even", "arrival_span": 0.8},
    "poisson": {"arrivals": "poisson", "arrival_seed": 5, "initial_models": 2},
    "retiring as a stage starts": {
        "arrivals": "given",
        "arrival_at": (0.0, 0.1, 0.35, 0.5),
        "retirement_at": (None, 0.6, None, 0.8),
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CALM)
def test_the_clairvoyant_deployment_leaves_waiting_and_routing_alone(name: str) -> None:
    scenario = Scenario(
        horizon=120,
        stages=5,
        shared={"budget_per_task": 4e-4, **CALM[name]},
        cells=({"max_deployed": 2, "target": 0.0}, {"max_deployed": 3, "cloud_throughput": 0.5}),
    )
    made = instances(scenario)
    seen = play("clairvoyant", scenario, made, (40, 120))
    for cell in range(CELLS):
        result = measured("clairvoyant", scenario, made, seen, cell, (40, 120))
        assert result.info.benchmark_feasible
        ideal = result.curve("benchmark")
        assert (np.abs(result.curve("regret_deployment")) <= 1e-3 * ideal).all()
        assert (result.final("regret_waiting") > 0.01 * result.final("benchmark")).all()


@pairs
def test_who_arrives_as_a_stage_starts_is_not_waited_for(pair: str) -> None:
    scenario = Scenario(
        horizon=120,
        stages=5,
        shared={"arrivals": "given", "arrival_at": (0.0, 0.2, 0.4, 0.8)},
        cells=({"max_deployed": 2, "target": 0.0}, {"max_deployed": 3, "target": 0.0}),
    )
    made = instances(scenario)
    seen = play(pair, scenario, made, (30, 120))
    for cell in range(CELLS):
        result = measured(pair, scenario, made, seen, cell, (30, 120))
        assert (np.abs(result.curve("regret_waiting")) <= 1e-9 * result.curve("benchmark")).all()
        if pair == "everything":
            np.testing.assert_array_equal(result.extras["first_live"], np.tile([0, 24, 48, 96], (RUNS, 1)))


HARD = {  # (T, K): (rounds that newcomers are waited for, those newcomers' rounds of first deployment)
    # Stages of 20: arrivals 21, 41, 61 and windows 40, 60, 80.
    (100, 5): (19 + 19 + 19, [40, 60, 80]),
    # Stages of 30: arrivals 1, 31, 31; the last two are waited for together, with twice the gap.
    (60, 2): (29 + 29 * 2, [30, -1, -1]),
    # One stage: all come at round 1 and never go live.
    (90, 1): (89 * 3, [-1, -1, -1]),
    # Stages of 7, 7, 6, 6, ... (7 of 7, then of 6 each): T = 50, K = 8, two of 7 and six of 6.
    (50, 8): (5 + 5 + 5, [20, 32, 44]),
    # Every round is a stage: nobody waits.
    (60, 60): (0, [16, 31, 46]),
}


@pytest.mark.slow
@pytest.mark.parametrize("shape", HARD)
def test_waiting_on_the_hard_stream_by_hand(shape: tuple[int, int]) -> None:
    """One task a round; each newcomer is better by 0.2 and arrives one round after a stage's start."""
    horizon, stages = shape
    scenario = Scenario(
        horizon=horizon,
        stages=stages,
        shared={
            "models": catalogues.generated("stairs", MODELS, 0.3, 0.2),
            "arrivals": "after_stage",
            "budget_per_task": 1e-3,
            "target": 0.0,
            "demand": {**DEMAND, **STEADY, "counts": "none"},
        },
        cells=({"max_deployed": 2}, {"max_deployed": 3}),
    )
    made = instances(scenario)
    seen = play("clairvoyant", scenario, made, (horizon,))
    rounds, deployed = HARD[shape]
    for cell in range(CELLS):
        result = measured("clairvoyant", scenario, made, seen, cell, (horizon,))
        assert (result.final("demand") == horizon).all()
        np.testing.assert_allclose(result.final("regret_waiting"), 0.2 * rounds, atol=1e-5)
        np.testing.assert_allclose(result.final("regret_deployment"), 0.0, atol=1e-3)
        np.testing.assert_allclose(result.final("regret"), 0.2 * rounds, atol=1e-3)
        np.testing.assert_array_equal(result.extras["first_live"], np.tile([0, *deployed], (RUNS, 1)))
        np.testing.assert_array_equal(result.extras["first_best"], np.tile([0, *deployed], (RUNS, 1)))


# StageRoute's decisions within a run, from what it knew.
@pytest.mark.slow
def test_stageroute_deploys_the_best_support_for_its_own_bounds() -> None:
    scenario = Scenario(
        horizon=900,
        stages=6,
        shared={"arrivals": "even", "arrival_span": 0.4},
        cells=({"max_deployed": 2}, {"max_deployed": 3, "budget_per_task": 2e-4, "cloud_throughput": 0.5}),
        resolve_every=5,
    )
    made, starts = instances(scenario), starts_of(scenario.horizon, scenario.stages)[1:]
    arguments = worlds.arranged([instance.world for instance in made], policy("stageroute"), RUNS)
    timeline = worlds.timeline(made[0].world, scenario.horizon, stages=scenario.stages, resolve_every=5)
    only_first = np.eye(RUNS)[0]  # beliefs are means over runs: here, those of run 0
    marks = np.array(sorted({*starts, *(t + 1 for t in starts), scenario.horizon}))
    seen = batch.simulate(worlds.program(*arguments), *arguments, only_first, timeline, marks)
    chosen, idle = [], 0
    for t in starts:
        before, after = (int(np.flatnonzero(marks == mark)[0]) for mark in (t, t + 1))
        for cell, instance in enumerate(made):
            problem, there = instance.world.problem, instance.world.inventory
            caps = np.where(there.arrival <= t, np.asarray(problem.throughput, float), 0.0)
            upper, lower = (np.asarray(bound[before, cell], float) for bound in (seen.upper, seen.lower))
            b = np.asarray(problem.budget, float) / float(problem.expected_demand)
            target, slots = np.asarray(problem.target, float), int(problem.max_deployed)
            limits = upper[:, 0], lower[:, 1:2], upper[:, 2:]
            best = oracles.best_deployment(*limits, b, target, caps, slots)
            deployed = np.asarray(seen.world.deployed)[after, cell, 0]
            assert deployed.sum() == min(slots, (caps > 0).sum())
            assert best is not None
            ours = oracles.full_mix(*limits, b + 1e-6, target - 1e-6, np.where(deployed, caps, 0.0))
            assert ours is not None and ours[0] == pytest.approx(best[0], abs=1e-5)
            chosen.append(tuple(np.flatnonzero(deployed)))
            idle += (lower[:, 1] @ best[1] < b[0] - 1e-6) and (best[0] > 1 - 1e-6)
    assert len(set(chosen)) > 3 and idle < len(chosen) / 2  # there was something to weigh up


@pytest.mark.slow
@pytest.mark.parametrize("name", ["even", "retiring within stages", "one stage, and then nobody"])
def test_stageroute_solves_at_boundaries_and_every_so_often_after(name: str) -> None:
    """Its shadow prices, which estimates move all the time, stand still between two solves."""
    scenario = SCENARIOS[name]
    _, seen = watched("stageroute", name)
    moved = 0
    for cell, run, rounds in all_rounds("stageroute", name):
        boundaries = sorted({*rounds.starts, *rounds.changes()})
        prices = np.asarray(seen.duals)[:, cell, run]
        for t in range(1, scenario.horizon):
            origin = max(boundary for boundary in boundaries if boundary <= t)
            if (t - origin) % scenario.resolve_every:
                np.testing.assert_array_equal(prices[t], prices[t - 1])
            moved += bool((prices[t] != prices[t - 1]).any())
    assert moved > 0 or name == "one stage, and then nobody"


def test_a_cell_s_clock_is_that_of_its_world_and_its_rule() -> None:
    env = worlds.settings(arrivals="even", arrival_span=0.5, stages=7, lifetime=0.4)
    usual, other = (test_batch.cell_config(rule, env=env) for rule in ("stageroute", "uniform"))
    seldom = replace(usual, policy=replace(usual.policy, parameters={"resolve_every": 10}))
    made = test_batch.build(usual, seldom, other)
    assert [int(cell.timeline.resolve_every) for cell in made] == [1, 10, NEVER]
    for cell in made:
        assert (int(cell.timeline.horizon), int(cell.timeline.stages)) == (100, 7)
        assert cell.timeline.changes.tolist() == [25, 40, 50, 65, 90, NEVER]


# A run is the same run.
def final(seen: Snapshot, at: Any = np.s_[-1]) -> dict[str, np.ndarray]:
    """Everything of a run."""
    found = {name: ledger.host_units(getattr(seen.world, name))[at] for name in TOTALS}
    found |= {name: np.asarray(getattr(seen.world, name))[at] for name in COUNTS}
    found |= {name: ledger.host_units(getattr(seen.books, name))[at] for name in ("span_demand", "stage_served")}
    return found | {name: np.asarray(getattr(seen.books, name))[at] for name in ("first_best", "deployed_value")}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    for name, values in left.items():
        assert np.all(values == right[name]), name


@in_every_run
def checkpoints_change_nothing(pair: str, name: str) -> None:
    scenario, (made, often) = SCENARIOS[name], watched(pair, name)
    horizon = scenario.horizon
    straight = play(pair, scenario, made, (horizon,))
    boundaries = sorted({t for t in (1, 13, 24, 25, 48, horizon // 2) if t < horizon})
    some = play(pair, scenario, made, (*boundaries, horizon))
    for seen in (often, some):
        assert_same(final(seen), final(straight))
        np.testing.assert_array_equal(seen.upper[-1], straight.upper[-1])
        np.testing.assert_array_equal(seen.duals[-1], straight.duals[-1])
    for i, mark in enumerate(boundaries):
        assert_same(final(some, i), final(often, mark - 1))


@pairs
def test_a_run_does_not_depend_on_its_place_in_the_batch(pair: str) -> None:
    scenario, (made, whole) = SCENARIOS["retiring within stages"], watched(pair, "retiring within stages")
    moved = play(pair, scenario, made[::-1], (scenario.horizon,), streams=[1, 0], first_seed=1)
    assert_same(final(moved, np.s_[-1, :, :2]), final(whole, np.s_[-1, ::-1, 1:]))


@pytest.mark.slow
def test_padding_changes_nothing() -> None:
    scenario, (_, whole) = SCENARIOS["retiring within stages"], watched("greedy", "retiring within stages")
    wider = play("greedy", scenario, instances(scenario, padded=PADDED + 1), (scenario.horizon,))
    left, right = final(wider), final(whole)
    assert not left["served"][..., PADDED:].any() and not left["deployed"][..., PADDED:].any()
    for name, values in left.items():
        cut = tuple(slice(size) for size in right[name].shape)
        assert np.all(values[cut] == right[name]), name
    np.testing.assert_allclose(wider.books.deployed_value[-1], whole.books.deployed_value[-1], rtol=2e-6)


def test_scenarios_are_numbers_and_share_one_program() -> None:
    """Horizons, arrivals, stages, caps, budgets, their rules, costs, targets and ``resolve_every``."""
    watched("everything", "even")
    before = batch.traces()
    for scenario in SCENARIOS.values():
        play("everything", scenario, instances(scenario), (scenario.horizon,))
    assert batch.traces() == before


# Where nothing ever changes.
FIXED = Scenario(
    horizon=100, stages=1, shared={"target": 0.5}, cells=({"budget_per_task": 1e-4}, {"budget_per_task": 6e-4})
)


def test_where_nothing_changes_nothing_is_tracked() -> None:
    made = instances(FIXED)
    assert not any(instance.world.deployment_matters for instance in made)
    untracked = play("everything", FIXED, made, (37, 100))
    assert untracked.books is None
    result = measured("everything", FIXED, made, untracked, 0, (37, 100))
    assert not set(result.metrics) & {*PARTS, "activations", "deployment_gap"} and not result.extras
    tracked_worlds = [replace(instance, world=replace(instance.world, deployment_matters=True)) for instance in made]
    tracked = play("everything", FIXED, tracked_worlds, (37, 100))
    for name in TOTALS:
        left, right = (ledger.host_units(getattr(seen.world, name)) for seen in (untracked, tracked))
        assert (left == right).all(), name
    np.testing.assert_array_equal(untracked.upper, tracked.upper)
    regret = [measured("everything", FIXED, made, seen, 1, (37, 100)).curve("regret") for seen in (untracked, tracked)]
    np.testing.assert_allclose(regret[0], regret[1], rtol=1e-6, atol=1e-6)


# Rules of somebody's own.
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Fixed(DeploymentRule):
    """Always these models, available or not."""

    wanted: jax.Array

    def decide(self, state: Any, view: DeploymentView) -> tuple[jax.Array, Any]:
        return self.wanted > 0, state


def stage_start(world: World, wanted: list[int], t: int = 0, state: Any = None) -> Any:
    """The state after the deployment at round t, outside of any batch."""
    world = jax.tree.map(jnp.asarray, world)
    rule = Fixed(wanted=jnp.isin(jnp.arange(world.reward_mean.shape[0]), jnp.array(wanted)).astype(jnp.float32))
    made = worlds.policy("uniform", deployment=rule)
    state = rollout.start(world, made, jax.random.key(0), jnp.int32(100)) if state is None else state
    return rollout._deploy(world, made, jax.random.key(1), state, jnp.int32(t))


def test_what_is_first_live_and_switched_on_does_not_depend_on_whether_anything_else_can_change() -> None:
    """Models 1 and 3 of four, where all exist throughout and as many may be live: the rest never was."""
    for fixed in (instances(FIXED)[0].world, replace(instances(FIXED)[0].world, deployment_matters=True)):
        state = stage_start(fixed, [1, 3]).world
        assert np.asarray(state.deployed).tolist() == [False, True, False, True, False]
        assert np.asarray(state.first_live).tolist() == [-1, 0, -1, 0, -1]
        assert (int(state.activations), int(state.evictions)) == (2, 0)


def test_a_deployment_larger_than_may_be_is_cut_and_counted() -> None:
    world = instances(SCENARIOS["every round a stage"])[0].world  # two may be live, models 0 and 1 are there
    state = stage_start(world, [0, 1, 2, 3])
    assert np.asarray(state.world.deployed).tolist() == [True, True, False, False, False]
    assert int(state.invalid) == 0  # models that are not there do not count
    later = stage_start(world, [1, 2, 3], t=59, state=state)
    assert np.asarray(later.world.deployed).tolist() == [False, True, True, False, False]
    assert int(later.invalid) == 1
    assert (int(later.world.activations), int(later.world.evictions)) == (3, 1)


@pytest.mark.parametrize(("rule", "paying"), [("skip", [0, 1]), ("stop", [0, 1]), ("average", [0, 1, 3])])
def test_what_cannot_be_paid_for_stays_off(rule: str, paying: list[int]) -> None:
    """A budget for two and a half models: the first two wanted go live; who is live already pays nothing."""
    made = instances(FIXED, budget_rule=rule, deployment_cost_usd=0.4 * 3.0 * 100 * 1e-4)[0]
    world = jax.tree.map(jnp.asarray, made.world)
    state = edge_cloud.reset(world, jax.random.key(0), deployment_matters=True)
    all_but_one = jnp.array([True, True, False, True, False])
    first = edge_cloud.deploy(world, state, jnp.int32(0), all_but_one, jnp.int32(4))
    assert np.flatnonzero(first.deployed).tolist() == paying
    cost = ledger.host_units(world.deployment_cost)
    assert (ledger.host_units(first.spent) == len(paying) * cost).all()
    again = edge_cloud.deploy(world, first, jnp.int32(9), all_but_one, jnp.int32(4))
    assert (ledger.host_units(again.spent) == len(paying) * cost).all()
    assert np.flatnonzero(again.deployed).tolist() == paying
    assert np.asarray(again.first_live).tolist() == [0 if m in paying else -1 for m in range(PADDED)]
