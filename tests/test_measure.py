"""Measures of a small run, recomputed by hand from its rounds."""

from typing import Any

import jax
import numpy as np
import pytest

from experiments.config.cells import Cell
from experiments.engine.rollout import Snapshot
from experiments.results import measure
from experiments.results.cell_file import CellResult
from tests import oracles, test_batch, worlds

RULE, RUNS, MARKS = "primal_dual_resolving", 4, np.array([60, 200])
BUDGETS, TARGETS = (1e-4, 3e-4, 1e-3), (0.9999, 0.7, 0.7)


def make_cell(budget: float, target: float) -> Cell:
    instance = worlds.instance(horizon=200, budget_per_task=budget, target=target)
    config = test_batch.cell_config(RULE, horizon=200, env=worlds.settings(budget_per_task=budget, target=target))
    policy = worlds.policy(RULE)
    timeline = worlds.timeline(instance.world, 200)
    return Cell(
        config=config, id="cell", stream=0, instance=instance, policy=policy, models_padded=4, timeline=timeline
    )


@pytest.fixture(scope="module")
def made() -> list[Cell]:
    return [make_cell(budget, target) for budget, target in zip(BUDGETS, TARGETS, strict=True)]


@pytest.fixture(scope="module")
def snapshot(made: list[Cell]) -> Snapshot:
    return worlds.play([cell.instance.world for cell in made], worlds.policy(RULE), runs=RUNS, marks=tuple(MARKS))


@pytest.fixture(scope="module")
def results(made: list[Cell], snapshot: Snapshot) -> list[CellResult]:
    cache: dict[Any, Any] = {}
    mine = [jax.tree.map(lambda leaf, number=number: leaf[:, number], snapshot) for number in range(len(made))]
    return [
        measure.cell_result(cell, seen, MARKS, np.arange(RUNS), 1.0, cache)
        for cell, seen in zip(made, mine, strict=True)
    ]


@pytest.fixture(scope="module")
def rounds(made: list[Cell]) -> Any:
    """The rounds of run 0 of each cell, in float64."""
    seen = worlds.record([cell.instance.world for cell in made], worlds.policy(RULE), 200)
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), (seen.feedback, seen.duals))


def test_sums_are_those_of_the_rounds(made: list[Cell], results: list[CellResult], rounds: Any) -> None:
    feedback, _ = rounds
    for number, (cell, result) in enumerate(zip(made, results, strict=True)):
        demand = feedback.demand[number]
        truth = np.asarray(cell.instance.world.reward_mean, float)
        served = worlds.tasks_served(feedback, len(truth))[number]
        served_all = served.sum(axis=1)
        service = (served_all * feedback.service[number, :, 0]).cumsum()
        shortfall = TARGETS[number] * demand.cumsum() - service
        expected = {
            "demand": demand.cumsum(),
            "served": served_all.cumsum(),
            "declined": (demand - served_all).cumsum(),
            "reward": (served_all * feedback.reward[number]).cumsum(),
            "reward_expected": (served @ truth).cumsum(),
            "spent_money": (served_all * feedback.consumption[number, :, 0]).cumsum() * cell.instance.unit[0],
            "violation": np.maximum(shortfall, 0),
            "violation_latency": np.maximum(shortfall, 0),
            "violation_worst": np.maximum.accumulate(np.maximum(shortfall, 0)),
        }
        for name, values in expected.items():
            np.testing.assert_allclose(result.curve(name)[0], values[MARKS - 1], rtol=1e-6, atol=1e-4, err_msg=name)


def test_the_benchmark_is_the_fluid_value_of_the_realised_demand(made: list[Cell], results: list[CellResult]) -> None:
    for cell, result in zip(made, results, strict=True):
        world = cell.instance.world
        means = [np.asarray(leaf, float) for leaf in (world.reward_mean, world.consumption_mean, world.service_mean)]
        target, caps = np.asarray(world.problem.target, float), np.asarray(world.problem.throughput, float)
        demand = result.curve("demand")
        for run in range(RUNS):
            total = demand[run, -1]
            value = oracles.hard_mix(*means, cell.instance.budget / cell.instance.unit / total, target, caps)
            if value is None:
                assert not result.info.benchmark_feasible
                continue
            np.testing.assert_allclose(result.curve("benchmark")[run], value * demand[run], rtol=1e-5)
    feasible = [result.info.benchmark_feasible for result in results]
    assert any(feasible) and not all(feasible)  # the first world's target is out of reach


def test_regret_is_benchmark_less_reward(results: list[CellResult]) -> None:
    for result in results:
        ideal = result.curve("benchmark")
        np.testing.assert_allclose(result.curve("regret"), ideal - result.curve("reward_expected"))
        np.testing.assert_allclose(result.curve("regret_realised"), ideal - result.curve("reward"))


def test_overspend_is_exactly_zero_and_spend_within_budget(made: list[Cell], results: list[CellResult]) -> None:
    for cell, result in zip(made, results, strict=True):
        assert (result.curve("overspend") == 0.0).all()
        assert (result.curve("spent_money") <= cell.instance.budget[0] * (1 + 1e-12)).all()
        assert (result.curve("invalid") == 0).all()
        assert cell.instance.budget[0] == pytest.approx(result.info.budget)
    assert results[0].final("spent_money").min() > 0.5 * made[0].instance.budget[0]


def test_overspend_would_show_a_single_quantum(made: list[Cell], snapshot: Snapshot) -> None:
    mine = jax.tree.map(lambda leaf: np.array(leaf[:, 0]), snapshot)
    budget = made[0].instance.world.budget
    for place, (digit, most) in enumerate(zip(mine.world.spent.digits, budget.digits, strict=True)):
        digit[-1, 2] = most + (place == 0)
    result = measure.cell_result(made[0], mine, MARKS, np.arange(RUNS), 1.0, {})
    over = result.curve("overspend")
    assert over[2, -1] > 0 and np.count_nonzero(over) == 1


def test_shares_and_the_declined_make_up_the_demand(results: list[CellResult]) -> None:
    for result in results:
        declined = result.curve("declined").mean(axis=0) / result.curve("demand").mean(axis=0)
        np.testing.assert_allclose(result.share.sum(axis=1) + declined, 1.0, rtol=1e-9)
        assert (result.curve("refused") <= result.curve("declined") + 1e-9).all()
        np.testing.assert_allclose(result.curve("served") + result.curve("declined"), result.curve("demand"))


def test_forecasts_duals_and_beliefs_carry_their_units(
    made: list[Cell], results: list[CellResult], snapshot: Snapshot, rounds: Any
) -> None:
    for number, (cell, result) in enumerate(zip(made, results, strict=True)):
        total = result.final("demand")
        error = np.abs(result.curve("forecast_total") - total[:, None]) / total[:, None]
        np.testing.assert_allclose(result.curve("forecast_error"), error)
        np.testing.assert_allclose(result.final("forecast_error"), 0.0, atol=1e-6)  # by the end all demand is known
        duals = rounds[1][number]
        np.testing.assert_allclose(result.curve("dual_money")[0, 0], duals[MARKS[0], 0], rtol=1e-4)
        # A price of latency near 0 is a difference of float32 numbers of order 1.
        np.testing.assert_allclose(result.curve("dual_latency")[0, 0], duals[MARKS[0], 1], rtol=1e-4, atol=1e-7)
        catalogue = worlds.catalogue(4)
        assert result.estimates == ("reward", "money", "latency") and result.models == catalogue.names
        np.testing.assert_allclose(result.truth[:, 0], catalogue.quality, rtol=1e-6)
        np.testing.assert_allclose(result.truth[:, 1], catalogue.cost_usd, rtol=1e-7)
        np.testing.assert_allclose(result.upper[:, :, 1], snapshot.upper[:, number, :, 1] * cell.instance.unit[0])
        assert ((result.lower <= result.upper) & (result.coverage >= 0) & (result.coverage <= 1)).all()


def test_curves_grow(results: list[CellResult]) -> None:
    for result in results:
        assert result.curves.shape == (RUNS, len(MARKS), len(result.metrics))
        for name in result.metrics:  # a plan that serves every task need not exist
            assert np.isfinite(result.curve(name)).all() or name == "benchmark_serving_all"
        for name in ("demand", "served", "reward", "spent_money", "refused", "violation_worst"):
            assert (np.diff(result.curve(name), axis=1) >= 0).all()


@pytest.mark.slow
def test_fixed_and_staged_runs_of_one_world_share_a_cache_and_nothing_in_it() -> None:
    """All models may be live throughout, so any full deployment has the benchmark of a fixed inventory."""
    world = worlds.instance(horizon=100, demand={"mean": 1.0, "counts": "none"})
    config = test_batch.cell_config("uniform", horizon=100)
    cache: dict[Any, Any] = {}
    found = []
    for deployment in ("everything", "greedy"):
        policy = worlds.policy("uniform", deployment=deployment)
        timeline = worlds.timeline(world.world, 100, stages=4)
        cell = Cell(
            config=config, id=deployment, stream=0, instance=world, policy=policy, models_padded=4, timeline=timeline
        )
        seen = worlds.play(world.world, policy, runs=2, marks=(50, 100), stages=4)
        mine = jax.tree.map(lambda leaf: leaf[:, 0], seen)
        found.append(measure.cell_result(cell, mine, np.array([50, 100]), np.arange(2), 1.0, cache))
    fixed, staged = found
    np.testing.assert_allclose(staged.curve("benchmark"), fixed.curve("benchmark"), rtol=1e-9)
    np.testing.assert_allclose(staged.curve("regret"), fixed.curve("regret"), atol=1e-6)
    np.testing.assert_allclose(staged.curve("regret_deployment"), 0, atol=1e-3)
