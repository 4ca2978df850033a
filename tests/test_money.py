"""Money in every world: charged exactly and to the end of the budget; free models; rules that never stall."""

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.estimators.confidence import Confidence, bounds
from bandits.estimators.statistics import Statistics
from bandits.forecasting import base
from bandits.policy import ceiling
from envs import catalogue as catalogues
from envs import ledger
from envs import world as edge_cloud
from envs.build import Instance
from envs.catalogue import Catalogue
from envs.errors import InputError
from envs.world import World
from experiments.results import benchmark
from tests import worlds

ROUNDS = 200
ONE_BUDGET: dict[str, Any] = {"target": None, "edge_throughput": 1.0}


def priced(*cost_usd: float, cv: float = 0.0, largest: Sequence[float] | None = None) -> Catalogue:
    """Models of these prices, the better the dearer."""
    number = len(cost_usd)
    made = worlds.catalogue_of(np.linspace(0.3, 0.9, number), np.array(cost_usd), cost_cv=cv)
    return made if largest is None else replace(made, cost_max_usd=np.array(largest, float))


@jax.jit
def _play(many: World, shares: jax.Array, keys: jax.Array) -> Any:
    def one(world: World, shares: jax.Array, key: jax.Array) -> Any:
        def step(state: Any, t: jax.Array) -> Any:
            demand_state, demand = edge_cloud.arrivals(world, state, t, jax.random.fold_in(key, t))
            return edge_cloud.step(world, state, demand_state, demand, shares, t, key)

        return jax.lax.scan(
            step, edge_cloud.reset(world, key, deployment_matters=False), jnp.arange(ROUNDS, dtype=jnp.int32)
        )

    return jax.vmap(one)(many, shares, keys)


def play(made: Sequence[World], shares: Sequence[Sequence[float]]) -> tuple[Any, Any]:
    """(last states, feedback [worlds, rounds]) where each world is given the same shares [M] in every round."""
    keys = jax.random.split(jax.random.key(5), len(made))
    return jax.device_get(_play(worlds.stacked(made), jnp.asarray(shares, jnp.float32), keys))


def taken(total: ledger.Total, cell: int) -> ledger.Total:
    return jax.tree.map(lambda digit: digit[cell], total)


# Prices over many powers of ten, demands from a hundredth to a billion, horizons to 10^8.
PRICES = [(1e-6, 5.0), (1e-9, 1e3), (1e-12, 1.0), (2e-16, 0.7)]
DEMANDS = [(1.0, 1.0), (20.3, 1e9), (0.01, 1e9), (1e9, 1e9)]


@pytest.fixture(scope="module")
def extremes() -> tuple[list[Instance], list[int], Any, Any]:
    """(instances, which model serves alone, last states, feedback)."""
    cases = [
        (prices, demand, horizon, cv, model)
        for prices in PRICES
        for demand in DEMANDS
        for horizon, cv in ((ROUNDS, 0.0), (10**6, 1.56))
        for model in (0, 1)
    ]
    made = [
        worlds.instance(
            models=priced(*prices, cv=cv),
            horizon=horizon,
            demand={"mean": mean, "maximum": most, "counts": "none"},
            budget_per_task=100.0 * prices[1],
            **ONE_BUDGET,
        )
        for prices, (mean, most), horizon, cv, _ in cases
    ]
    chosen = [model for *_, model in cases]
    return made, chosen, *play([one.world for one in made], np.eye(2)[chosen])


def test_what_is_charged_is_what_was_consumed(extremes: tuple[list[Instance], list[int], Any, Any]) -> None:
    """Every charge in whole quanta, from the feedback alone; and rounding up adds less than 10^-9 of it."""
    made, _, end, seen = extremes
    for cell, instance in enumerate(made):
        quanta = Fraction(ledger.quanta(end.spent, instance.world.consumption_scale)[0])
        amounts = seen.demand[cell] * seen.consumption[cell, :, 0]
        assert amounts.dtype == np.float32 and (amounts > 0).any()
        exact = [Fraction(float(amount)) * quanta for amount in amounts]
        charged = sum(ceil(amount) for amount in exact)
        assert ledger.host_units(taken(end.spent, cell)).tolist() == [charged]
        assert 0 <= charged - sum(exact) <= Fraction(1, 10**9) * sum(exact)


def test_a_constant_price_is_charged_to_a_millionth(extremes: tuple[list[Instance], list[int], Any, Any]) -> None:
    made, chosen, end, seen = extremes
    compared = 0
    for cell, (instance, model) in enumerate(zip(made, chosen, strict=True)):
        price = float(instance.world.consumption_mean[model, 0]) * instance.unit[0]
        demand = seen.demand[cell].sum(dtype=np.float64)
        spent = ledger.host_value(taken(end.spent, cell), instance.world.consumption_scale)[0] * instance.unit[0]
        if instance.expected_demand / float(seen.demand[cell, 0]) < 2 * ROUNDS:  # the worlds without spread
            assert spent / demand == pytest.approx(price, rel=1e-6)
            compared += 1
    assert compared == len(made) // 2


def test_tasks_are_counted_to_a_millionth(extremes: tuple[list[Instance], list[int], Any, Any]) -> None:
    made, chosen, end, seen = extremes
    for cell, (instance, model) in enumerate(zip(made, chosen, strict=True)):
        demand = seen.demand[cell].sum(dtype=np.float64)
        read = {
            name: ledger.host_value(taken(getattr(end, name), cell), instance.world.scale)
            for name in ("demand", "served", "reward")
        }
        rewarded = (seen.demand[cell] * seen.reward[cell]).sum(dtype=np.float64)
        assert read["demand"] == pytest.approx(demand, rel=1e-9)
        quantum = 1 / ledger.quanta(end.served, instance.world.scale)  # less than two may still wait to be counted
        assert read["served"][model] == pytest.approx(demand, rel=1e-9, abs=2 * float(quantum))
        assert read["reward"] == pytest.approx(rewarded, rel=1e-9) and rewarded > 0


@pytest.mark.parametrize("name", catalogues.shipped())
@pytest.mark.parametrize("multiple", [1.0, 1.5, 4.0, 1000.0])
def test_the_true_mean_of_a_model_is_its_price(name: str, multiple: float) -> None:
    found = catalogues.find(name)
    made = worlds.instance(models=found, cost_bound_multiple=multiple)
    np.testing.assert_allclose(made.world.consumption_mean[:, 0] * made.unit[0], found.cost_usd, rtol=1e-7)
    assert (made.world.consumption_table[:, 0] <= made.world.problem.consumption_bound).all()


# Budgets.
def test_a_budget_ends_where_it_should() -> None:
    """Half the tasks of a cheap model beside a dear one, constant prices: half the rounds are served, to the round."""
    made = [
        worlds.instance(
            models=priced(cheap, 5.0),
            horizon=ROUNDS,
            demand={"mean": mean, "maximum": most, "counts": "none"},
            budget_per_task=cheap / 2,
            cost_bound_multiple=1.0,
            **ONE_BUDGET,
        )
        for cheap in (1e-6, 3e-7, 1e-12)
        for mean, most in ((1.0, 1.0), (3.0, 1e9))
    ]
    end, seen = play([one.world for one in made], [[1.0, 0.0]] * len(made))
    for cell, instance in enumerate(made):
        served = (seen.model[cell] == 0).sum()
        spent, budget = ledger.host_units(taken(end.spent, cell)), ledger.host_units(instance.world.budget)
        # A price that float32 rounds up by 10^-8 makes the last round that would just fit one that just does not.
        assert ROUNDS // 2 - 1 <= served <= ROUNDS // 2
        assert (spent <= budget).all() and spent[0] / budget[0] == pytest.approx(served / (ROUNDS / 2), rel=1e-6)


def test_one_price_and_a_budget_for_every_round_serves_every_round() -> None:
    made = worlds.instance(
        models=priced(0.3, 0.3),
        horizon=ROUNDS,
        demand={"mean": 3.0, "counts": "none"},
        budget_per_task=0.3,
        cost_bound_multiple=1.0,
        **ONE_BUDGET,
    )
    end, seen = play([made.world], [[0.5, 0.5]])
    assert (seen.model >= 0).all()
    spent, budget = ledger.host_units(taken(end.spent, 0)), ledger.host_units(made.world.budget)
    assert (spent <= budget).all() and spent[0] / budget[0] == pytest.approx(1, rel=1e-12)


def test_a_known_largest_cost_takes_the_place_of_the_multiple() -> None:
    known = worlds.instance(models=priced(1e-3, 2e-3, 0.0, cv=0.9, largest=[0.5, np.nan, 0.0]), **ONE_BUDGET)
    assert known.unit[0] == 0.5
    np.testing.assert_allclose(known.world.problem.consumption_bound[:, 0] * 0.5, [0.5, 8e-3, 0.0], rtol=1e-6)
    np.testing.assert_allclose(known.world.consumption_mean[:, 0] * 0.5, [1e-3, 2e-3, 0.0], rtol=1e-6)


def test_prices_that_float32_cannot_hold_side_by_side_are_refused() -> None:
    with pytest.raises(
        InputError, match=r"model-0 needs 1e-40 of money, less than 1e-30 of the largest worst case, 4;"
    ):
        worlds.instance(models=priced(1e-40, 1.0), **ONE_BUDGET)


# Models that are free.
@pytest.mark.parametrize("prices", [(0.0, 1e-3), (0.0, 0.0)])
def test_a_free_model_costs_nothing_and_breaks_nothing(prices: tuple[float, float]) -> None:
    made = worlds.instance(
        models=priced(*prices, cv=0.5), horizon=ROUNDS, demand={"counts": "none"}, budget_per_task=1e-6, **ONE_BUDGET
    )
    world = made.world
    for leaf in jax.tree.leaves((world.problem, world.consumption_table, world.consumption_mean, made.unit)):
        assert np.isfinite(leaf).all()
    assert world.problem.consumption_bound[0, 0] == 0
    end, seen = play([world], [[1.0, 0.0]])
    assert (seen.model == 0).all() and not ledger.host_units(taken(end.spent, 0)).any()
    known = [np.asarray(values, float) for values in (world.reward_mean, world.consumption_mean, world.service_mean)]
    ideal = benchmark.fluid(*known, (made.budget / made.unit)[None], [], np.ones(2), [float(ROUNDS)])
    assert np.isfinite(ideal.value).all() and ideal.feasible.all()


@pytest.mark.parametrize("radius", ["mean", "variance"])
def test_the_bounds_of_what_is_free_are_zero(radius: str) -> None:
    world = worlds.world(models=priced(0.0, 1e-3), **ONE_BUDGET)
    seen = Statistics(count=jnp.asarray([5, 0]), mean=jnp.asarray([[0.4, 0.0], [0.0, 0.0]]), scatter=jnp.zeros((2, 2)))
    seen = seen if radius == "variance" else replace(seen, scatter=None)
    made = bounds(
        Confidence(radius=radius), seen, ceiling(world.problem, world.problem.consumption_bound), jnp.ones(())
    )
    assert np.isfinite(made.lower).all() and np.isfinite(made.upper).all()
    assert (made.lower[0, 1], made.upper[0, 1]) == (0, 0) and made.upper[1, 1] == 1


# Nobody stands still.
@pytest.mark.parametrize("name", ["ucb1", "greedy_value_per_cost", "uniform"])
def test_a_model_that_never_fits_keeps_nobody_from_serving(name: str) -> None:
    """A round's worst case of the first model is twice the whole budget, which pays for half the tasks of the second.

    Where demand is revealed after choosing, the forecast is a tenth of it, by which the first model would fit.
    """
    made = [
        worlds.world(
            models=priced(0.05, 1e-3, cv=0.3),
            horizon=ROUNDS,
            demand={"mean": 3.0, "counts": "none"},
            budget_per_task=5e-4,
            demand_seen=moment,
            budget_rule=rule,
            **ONE_BUDGET,
        )
        for moment in ("before", "after")
        for rule in ("skip", "stop")
    ]
    policy = worlds.policy(name)
    policy = replace(policy, forecaster=base.build("noisy_oracle", {"bias": -0.9, "noise": 0.0}))
    seen = worlds.play(made, policy, runs=2, marks=(ROUNDS,))
    served = ledger.host_value(seen.world.served, made[0].scale)[-1]
    assert not served[..., 0].any()
    # The first forecast comes before any demand was seen: under `stop` the one refusal that it leads to is the last.
    lives = [world.demand_seen or not world.stop_when_refused for world in made]
    assert (served[lives, :, 1] > 0.45 * 3 * ROUNDS).all()
    assert not seen.world.clipped.any() and not seen.invalid.any()


# Shares that are not shares.
@pytest.mark.parametrize(
    ("shares", "cut"),
    [
        ([0.5, 0.5], False),
        ([0.0, 0.0], False),
        ([0.6 + 1e-5, 0.4 + 1e-5], False),  # rounding
        ([-1e-7, 1.0], False),
        ([0.7, 0.0], True),  # above its cap of 0.6
        ([0.6, 1.0], True),
        ([3.0, 3.0], True),
        ([-0.01, 0.5], True),
        ([1e30, 1e30], True),
    ],
)
def test_shares_that_had_to_be_cut_are_counted(shares: list[float], cut: bool) -> None:
    made = worlds.world(models=priced(1e-3, 2e-3), horizon=ROUNDS, target=None)
    world = replace(made, problem=replace(made.problem, throughput=np.array([0.6, 1.0], np.float32)))
    end, _ = play([world], [shares])
    assert end.clipped.tolist() == [ROUNDS * cut]


def test_a_share_of_a_model_that_is_not_live_is_counted() -> None:
    made = worlds.world(models=priced(1e-3, 2e-3), horizon=ROUNDS, **ONE_BUDGET)
    drawn, cut = edge_cloud._draw_model(made, np.array([True, False]), jnp.asarray([0.5, 0.5]), jnp.float32(0.9))
    assert (int(drawn), bool(cut)) == (2, True)
