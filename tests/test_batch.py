"""Batches: a run is the same run whoever it is simulated with, and one program serves a whole group of cells.

The last tests hold whole runs of the engine against whole runs of an independent simulation.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs import ledger
from envs.world import World
from experiments.config import cells
from experiments.config.cells import Cell
from experiments.config.study import CellConfig, PolicyConfig, StudyConfig
from experiments.engine import batch
from experiments.engine.rollout import Snapshot
from tests import oracles, worlds

RULE = "primal_dual_resolving"
CELLS, RUNS, HORIZON = 3, 4, 200
BOOKS = ("demand", "served", "refused", "reward", "spent", "service")
SIGMAS = float(stats.norm.isf(1e-4 / 2))


def worlds_of(horizon: int = HORIZON, **overrides: Any) -> list[World]:
    return [worlds.world(horizon=horizon, budget_per_task=budget, **overrides) for budget in (1e-4, 3e-4, 1e-3)]


def books(snapshot: Snapshot, at: Any = np.s_[-1]) -> dict[str, np.ndarray]:
    """Whole quanta [cells, runs, ...] at one evaluation round."""
    return {name: ledger.host_units(getattr(snapshot.world, name))[at] for name in BOOKS}


def assert_same(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    for name in BOOKS:
        assert np.all(left[name] == right[name]), name


@pytest.fixture(scope="module")
def whole() -> Snapshot:
    return worlds.play(worlds_of(), worlds.policy(RULE), runs=RUNS, marks=(60, HORIZON))


def test_runs_are_not_all_the_same(whole: Snapshot) -> None:
    reward = books(whole)["reward"]
    assert len(set(reward.ravel().tolist())) == CELLS * RUNS


def test_a_run_of_a_batch_is_that_run_alone(whole: Snapshot) -> None:
    alone = worlds.play(worlds_of()[1], worlds.policy(RULE), runs=1, marks=(60, HORIZON), streams=[1], first_seed=2)
    for mark in range(2):
        assert_same(books(alone, np.s_[mark, 0, 0]), books(whole, np.s_[mark, 1, 2]))


def test_a_run_does_not_depend_on_its_place_in_the_batch(whole: Snapshot) -> None:
    moved = worlds.play(worlds_of()[::-1], worlds.policy(RULE), runs=RUNS, streams=[2, 1, 0], first_seed=2)
    assert_same(books(moved, np.s_[-1, :, :2]), books(whole, np.s_[-1, ::-1, 2:]))


def test_padding_changes_nothing(whole: Snapshot) -> None:
    padded = books(worlds.play(worlds_of(padded=7), worlds.policy(RULE), runs=RUNS, marks=(HORIZON,)))
    assert not padded["served"][:, :, 4:].any()
    assert_same({**padded, "served": padded["served"][:, :, :4]}, books(whole))


def test_checkpoints_change_nothing(whole: Snapshot) -> None:
    straight = worlds.play(worlds_of(), worlds.policy(RULE), runs=RUNS, marks=(HORIZON,))
    often = worlds.play(worlds_of(), worlds.policy(RULE), runs=RUNS, marks=(1, 7, 60, 61, HORIZON))
    assert_same(books(straight), books(whole))
    assert_same(books(often), books(whole))
    assert_same(books(often, np.s_[2]), books(whole, np.s_[0]))
    np.testing.assert_array_equal(straight.upper[-1], often.upper[-1])


def test_blocks_change_nothing(whole: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six runs, two at a time, are another shape than anything traced with blocks of the usual size."""
    monkeypatch.setattr(batch, "_LANES", 2)
    assert batch.tile_shape(3, 6) == (1, 2)
    parted = worlds.play(worlds_of(), worlds.policy(RULE), runs=6, marks=(HORIZON,))
    assert_same(books(parted, np.s_[-1, :, :RUNS]), books(whole))
    np.testing.assert_allclose(parted.world.violation_worst[-1, :, :RUNS], whole.world.violation_worst[-1], rtol=1e-6)


@pytest.mark.parametrize(
    ("cells", "seeds", "block", "padded"),
    [
        (84, 64, (1, 64), (84, 64)),
        (3, 512, (1, 64), (3, 512)),
        (5, 101, (1, 51), (5, 102)),
        (7, 10, (4, 10), (8, 10)),
        (1, 1, (1, 1), (1, 1)),
        (200, 1, (50, 1), (200, 1)),
    ],
)
def test_batches_are_made_of_whole_blocks(
    cells: int, seeds: int, block: tuple[int, int], padded: tuple[int, int]
) -> None:
    assert batch.tile_shape(cells, seeds) == block
    assert batch.whole_tiles(cells, seeds) == padded


def test_a_saved_run_goes_on_as_if_it_had_never_stopped(whole: Snapshot) -> None:
    made, policies, keys = worlds.arranged(worlds_of(), worlds.policy(RULE), RUNS)
    program = worlds.program(made, policies, keys)
    state = program.start(made, policies, keys, jnp.int32(HORIZON))
    timeline = jax.tree.map(jnp.asarray, worlds.timeline(worlds_of()[0], HORIZON))
    state, _ = program.advance(made, policies, keys, state, timeline, jnp.int32(0), jnp.int32(73))
    saved = jax.tree.map(lambda leaf: np.array(jax.device_get(leaf)), state)
    del state
    again = jax.tree.map(jnp.asarray, saved)
    _, seen = program.advance(made, policies, keys, again, timeline, jnp.int32(73), jnp.int32(HORIZON))
    seen = jax.device_get(seen)
    assert_same({name: ledger.host_units(getattr(seen.world, name)) for name in BOOKS}, books(whole))


def test_horizons_share_a_program(whole: Snapshot) -> None:
    """A shorter horizon is another budget, another step size and other loop bounds: all of them data."""
    before = batch.traces()
    made = worlds_of(horizon=90)
    short = worlds.play(made, worlds.policy(RULE), runs=RUNS, marks=(90,))
    demand = ledger.host_value(short.world.demand, made[0].scale)[-1]
    assert (np.abs(demand - 450) < SIGMAS * np.sqrt(450)).all()
    assert batch.traces() == before


# Recompilation.
def traced(made: Sequence[World], policies: Any) -> int:
    """Traces that simulating this batch takes, compiling left out."""
    arguments = worlds.arranged(made, policies, RUNS)
    before, rounds = batch.traces(), jnp.zeros((), jnp.int32)
    state = jax.eval_shape(batch._start, *arguments, rounds)
    timeline = worlds.timeline(made[0], 100)
    batch._advance.lower(*arguments, state, timeline, rounds, rounds)
    return batch.traces() - before


@pytest.mark.slow
def test_numbers_share_one_trace_and_choices_do_not() -> None:
    usual = worlds.policy(RULE)
    traced(worlds_of(), usual)
    assert traced(worlds_of(), usual) == 0
    varied = [
        worlds.world(horizon=90, budget_per_task=1.0, budget_rule="stop", demand_seen="after"),
        worlds.world(horizon=5000, models=3, padded=4, target=0.1, edge_throughput=0.2),
        worlds.world(demand={"mean": 4.0, "maximum": 16.0}, cost_bound_multiple=2.0),
    ]
    numbers = worlds.policy(RULE, eta=1.0, covering_gain=1.0, confidence={"confidence": 1.0, "kappa": 2.0})
    assert traced(varied, numbers) == 0
    for static in (
        worlds.policy(RULE, covering="pessimistic"),
        worlds.policy(RULE, confidence={"radius": "variance"}),
        worlds.policy(RULE, forecaster="last_value"),
    ):
        assert traced(varied, static) == 1
    assert traced(worlds_of(padded=5), usual) == 1


# Cells.
def cell_config(policy: str = "uniform", **overrides: Any) -> CellConfig:
    chosen = PolicyConfig(
        name=policy,
        deployment="everything",
        deployment_parameters={},
        routing=policy,
        parameters={},
        confidence={},
        forecaster=None,
    )
    usual = {
        "policy": chosen,
        "world": None,
        "demand_name": None,
        "first_quality": None,
        "quality_gap": None,
        "catalogue": "routerbench",
        "num_models": 3,
        "env": worlds.settings(),
        "demand": {**worlds.DEMAND, "dispersion": 0.0, "maximum": None},
        "forecaster": {"name": "running_mean"},
        "horizon": 100,
        "swept": {},
    }
    return CellConfig(**{**usual, **overrides})


def build(*configs: CellConfig, **overrides: Any) -> list[Cell]:
    usual: dict[str, Any] = {"seeds": 4, "root_seed": 0, "eval_rounds": 3, "eval_spacing": "log"}
    usual |= {
        "precision": "float32",
        "chunk_rows": 64,
        "checkpoint_minutes": 10.0,
        "program_cache": False,
        "out": None,
        "force": False,
        "extend": False,
        "shard": None,
    }
    rest = {"tracker": {}, "expected_exponents": {}, "rules": (), "plain": {}}
    return cells.build(StudyConfig(name="test", cells=configs, **{**usual, **rest, **overrides}))


def test_policies_budgets_and_targets_share_streams_and_demands_do_not() -> None:
    usual = cell_config()
    same = build(
        usual,
        cell_config("ucb1"),
        cell_config(env=worlds.settings(budget_per_task=1e-3)),
        cell_config(env=worlds.settings(target=0.1, budget_rule="stop")),
        cell_config(forecaster={"name": "last_value"}),
    )
    assert len({cell.stream for cell in same}) == 1
    other = build(
        usual,
        cell_config(demand={**usual.demand, "mean": 6.0}),
        cell_config(horizon=101),
        cell_config(num_models=2),
    )
    assert len({cell.stream for cell in other}) == 4 and other[0].stream == same[0].stream
    assert len({cell.id for cell in (*same, *other[1:])}) == 8


def test_groups_are_what_shares_a_trace() -> None:
    numbers = build(
        cell_config(),
        cell_config(env=worlds.settings(budget_per_task=1e-3, target=0.2, budget_rule="stop", demand_seen="after")),
        cell_config(horizon=999),
        cell_config(num_models=2),
    )
    assert len(cells.groups(numbers)) == 1
    static = build(cell_config(), cell_config("ucb1"), cell_config("best_fixed"), cell_config("greedy_value_per_cost"))
    assert len(cells.groups(static)) == 4
    fewer = build(
        cell_config(), cell_config(env=worlds.settings(target=None)), cell_config(forecaster={"name": "ewma"})
    )
    assert len(cells.groups(fewer)) == 3


def test_policies_meet_the_same_demand(whole: Snapshot) -> None:
    other = worlds.play(worlds_of(), worlds.policy("uniform"), runs=RUNS, marks=(60, HORIZON))
    for mark in range(2):
        left, right = books(other, mark), books(whole, mark)
        assert (left["demand"] == right["demand"]).all()
        assert (left["reward"] != right["reward"]).any()
    assert len(set(books(whole)["demand"].ravel().tolist())) > CELLS


# Against an independent simulation.
LONG, MANY = 600, 48


def routerbench(dtype: type = np.float32) -> World:
    return worlds.world(models=11, horizon=LONG, demand={"mean": 20.0}, target=0.85, dtype=dtype)


def independent() -> oracles.World:
    """The same world from the catalogue's columns."""
    found, given = worlds.catalogue(11), worlds.SETTINGS
    dearest = given["cost_bound_multiple"] * found.cost_usd.max()
    network = np.where(found.tier_cloud, given["cloud_rtt_s"], 0.0)
    return oracles.World(
        reward=found.quality,
        cost=found.cost_usd / dearest,
        cost_cv=found.cost_cv,
        bound=given["cost_bound_multiple"] * found.cost_usd / dearest,
        service=oracles.met_probability(found.latency_s, found.latency_cv, network, given["latency_slo_s"]),
        caps=np.where(found.tier_cloud, given["cloud_throughput"], given["edge_throughput"]),
        budget=given["budget_per_task"] * 20.0 * LONG / dearest,
        target=0.85,
        mean_demand=20.0,
        horizon=LONG,
    )


def per_task(snapshot: Snapshot, world: World) -> dict[str, np.ndarray]:
    """[runs] reward and shortfall of service per task, and the spent share of the expected budget per task."""
    scales = {"spent": world.consumption_scale}
    value = {
        name: ledger.host_value(getattr(snapshot.world, name), scales.get(name, world.scale))[-1, 0] for name in BOOKS
    }
    return summary(value["demand"], value["reward"], value["spent"][:, 0], value["service"][:, 0])


def summary(demand: np.ndarray, reward: np.ndarray, spent: np.ndarray, service: np.ndarray) -> dict[str, np.ndarray]:
    return {
        "reward": reward / demand,
        "spent": spent / independent().budget,
        "shortfall": 0.85 - service / demand,
        "violation": np.maximum(0.85 * demand - service, 0) / demand,
    }


def assert_alike(left: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Equal means within SIGMAS standard errors of their difference."""
    for name in left:
        error = np.sqrt(left[name].var(ddof=1) / len(left[name]) + right[name].var(ddof=1) / len(right[name]))
        assert abs(left[name].mean() - right[name].mean()) < SIGMAS * error + 1e-4, name


@pytest.fixture(scope="module", params=[RULE, pytest.param("lp_resolving", marks=pytest.mark.slow)])
def engine(request: pytest.FixtureRequest) -> tuple[str, dict[str, np.ndarray]]:
    world = routerbench()
    seen = worlds.play(world, worlds.policy(request.param), runs=MANY, marks=(LONG,))
    assert (seen.invalid == 0).all()
    assert (ledger.host_units(seen.world.spent) <= ledger.host_units(world.budget)).all()
    return request.param, per_task(seen, world)


def test_whole_runs_agree_with_an_independent_simulation(engine: tuple[str, dict[str, np.ndarray]]) -> None:
    """Eight comparisons, each with a chance of 1e-4 of a false alarm."""
    rule, ours = engine
    totals = oracles.simulate(independent(), rule, MANY, seed=7)
    theirs = summary(totals.demand, totals.reward, totals.spent, totals.service)
    assert_alike(ours, theirs)
    assert theirs["spent"].mean() > 0.8 and theirs["reward"].mean() > 0.15


def test_double_precision_tells_the_same_story() -> None:
    single = routerbench()
    ours = worlds.play(single, worlds.policy(RULE), runs=MANY, marks=(LONG,))
    with jax.enable_x64(True):
        double = routerbench(np.float64)
        theirs = worlds.play(double, worlds.policy(RULE, dtype=np.float64), runs=MANY, marks=(LONG,))
    assert theirs.lower.dtype == np.float64
    assert_alike(per_task(ours, single), per_task(theirs, double))


def test_the_independent_simulation_can_tell_a_difference() -> None:
    """The comparison above fails for a policy with another confidence or half the budget."""
    usual = independent()
    poorer = replace(usual, budget=0.5 * usual.budget)
    runs = [
        oracles.simulate(usual, RULE, MANY, seed=1),
        oracles.simulate(usual, RULE, MANY, seed=2, confidence=0.05),
        oracles.simulate(poorer, RULE, MANY, seed=3),
    ]
    left, *others = (summary(run.demand, run.reward, run.spent, run.service) for run in runs)
    for right in others:
        with pytest.raises(AssertionError):
            assert_alike(left, right)
