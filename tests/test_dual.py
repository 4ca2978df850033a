"""Dual ascent: the prices of primal_dual_resolving against the equations, and the optimizers that may drive them."""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from bandits import dual
from bandits.routing.primal_dual_resolving import PrimalDualResolving
from bandits.targets import round_targets
from tests import oracles, twins, worlds

ROUNDS = 200


@pytest.fixture(scope="module")
def seen() -> Any:
    """Records [cells, rounds] of uniform play in four worlds with two constraints of each kind."""
    made = [
        worlds.world(models=5, horizon=horizon, budget_per_task=budget, target=target, **worlds.TWO_OF_EACH)
        for horizon, budget, target in ((200, 2e-4, 0.9), (900, 1e-4, 0.5), (200, 2e-3, 0.99), (200, 5e-5, 0.0))
    ]
    return worlds.record(made, worlds.policy("uniform"), ROUNDS)


def prices(rule: PrimalDualResolving, seen: Any) -> np.ndarray:
    """[cells, rounds, P + C] prices after each round, from the rule's own update."""

    @jax.jit
    def run(rule: PrimalDualResolving, views: Any, feedbacks: Any) -> jax.Array:
        def body(state: Any, item: Any) -> Any:
            state = rule.update(state, *item)
            return state, state.prices

        start = rule.init(jax.tree.map(lambda leaf: leaf[0], views.problem), None)
        return jax.lax.scan(body, start, (views, feedbacks))[1]

    return np.asarray(jax.vmap(run, (None, 0, 0))(rule, seen.view, seen.feedback))


@pytest.mark.parametrize("schedule", ["horizon", "anytime"])
def test_gradient_prices_are_the_equations(seen: Any, schedule: str) -> None:
    made = prices(PrimalDualResolving(schedule=schedule, eta=0.3), seen)
    for cell in range(4):
        view = jax.tree.map(lambda leaf, cell=cell: np.asarray(leaf[cell], np.float64), seen.view)
        feedback = jax.tree.map(lambda leaf, cell=cell: np.asarray(leaf[cell], np.float64), seen.feedback)
        ours = oracles.Prices(packing=np.zeros(2), covering=np.zeros(2))
        for t in range(ROUNDS):
            rho, wanted = oracles.resolving_targets(
                view.problem.budget[t],
                view.observation.spent[t],
                view.problem.target[t],
                view.observation.service_so_far[t],
                view.observation.demand_so_far[t],
                view.remaining_demand[t],
            )
            steps = view.problem.horizon[t] if schedule == "horizon" else t + 1
            ours.step(
                feedback.demand[t],
                feedback.consumption[t],
                feedback.service[t],
                np.maximum(rho, 1e-9),
                wanted,
                0.3 / np.sqrt(steps),
            )
            scale = np.concatenate([1 / np.clip(rho, 1e-9, 1), np.full(2, 5.0)])
            both = np.concatenate([ours.packing, ours.covering])
            np.testing.assert_allclose(made[cell, t] / scale, both / scale, atol=2e-4)
    assert made.max(axis=(0, 1)).min() > 0.01  # every price moved


@pytest.mark.parametrize("optimizer", ["adam", "exponentiated_gradient"])
def test_other_optimizers_stay_in_range_and_push_the_right_way(seen: Any, optimizer: str) -> None:
    made = prices(PrimalDualResolving(optimizer=optimizer, eta=1.0), seen)
    assert np.isfinite(made).all() and (made >= 0).all() and (made[..., 2:] <= 5).all()
    tight, loose = made[1, -50:, 0].mean(), made[2, -50:, 0].mean()
    assert tight > loose  # money is short in world 1 and ample in world 2
    assert made[2, -50:, 2].mean() > made[3, -50:, 2].mean()  # the latency target is 0.99 against none


def test_adam_is_optax_and_exponentiated_gradient_is_its_formula() -> None:
    gradients = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    eta, horizon = jnp.float32(0.5), jnp.int32(100)
    reference = optax.adam(-0.05)  # a negative rate ascends
    start = jnp.full(3, 0.5)
    adam = dual.optimizer("adam", "horizon", eta, horizon)
    ours, theirs, state, other = start, start, adam.init(start), reference.init(start)
    multiplicative = dual.optimizer("exponentiated_gradient", "horizon", eta, horizon)
    grown, kept, expected = start, multiplicative.init(start), np.full(3, 0.5)
    for gradient in gradients:
        ours, state = dual.ascend(adam, state, ours, gradient)
        updates, other = reference.update(gradient, other, theirs)
        theirs = jnp.clip(optax.apply_updates(theirs, updates), 0, 1)
        grown, kept = dual.ascend(multiplicative, kept, grown, gradient)
        expected = np.clip(np.maximum(expected, 1e-3) * np.exp(0.05 * gradient), 0, 1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    np.testing.assert_allclose(grown, expected, rtol=1e-5)


def test_prices_that_start_at_zero_come_alive() -> None:
    for name in dual.OPTIMIZERS:
        rule = dual.optimizer(name, "anytime", jnp.float32(0.5), jnp.int32(100))
        value, state = jnp.zeros(2), rule.init(jnp.zeros(2))
        for _ in range(20):
            value, state = dual.ascend(rule, state, value, jnp.asarray([1.0, -1.0]))
        assert float(value[0]) > 0.005 and float(value[1]) < 0.005


def test_the_anytime_schedule_does_not_know_the_horizon_and_the_other_does() -> None:
    def first_steps(schedule: str, horizon: int) -> list[float]:
        rule = dual.optimizer("sgd", schedule, jnp.float32(0.4), jnp.int32(horizon))
        value, state, made = jnp.zeros(1), rule.init(jnp.zeros(1)), []
        for _ in range(4):
            after, state = dual.ascend(rule, state, value, jnp.asarray([0.1]))
            made.append(float(after[0] - value[0]))
            value = after
        return made

    np.testing.assert_allclose(first_steps("anytime", 10), 0.04 / np.sqrt([1, 2, 3, 4]), rtol=1e-5)
    np.testing.assert_allclose(first_steps("anytime", 10), first_steps("anytime", 9999), rtol=1e-6)
    np.testing.assert_allclose(first_steps("horizon", 100), np.full(4, 0.004), rtol=1e-4)


@pytest.mark.parametrize("kind", ["resolving", "static"])
def test_targets_are_the_equations(seen: Any, kind: str) -> None:
    views = jax.tree.map(lambda leaf: leaf[0], seen.view)
    made = jax.vmap(partial(round_targets, targets=kind))(views)
    for t in range(0, ROUNDS, 17):
        view = jax.tree.map(lambda leaf, t=t: np.asarray(leaf[t], np.float64), views)
        so_far, remaining = view.observation.demand_so_far, view.remaining_demand
        budget, target = view.problem.budget, view.problem.target
        if kind == "static":
            rho, wanted = oracles.static_targets(budget, target, so_far + remaining)
        else:
            now = view.observation
            rho, wanted = oracles.resolving_targets(budget, now.spent, target, now.service_so_far, so_far, remaining)
        np.testing.assert_allclose(made[0][t], np.minimum(rho, 1), rtol=1e-4, atol=1e-7)
        np.testing.assert_allclose(made[1][t], wanted, rtol=1e-4, atol=1e-4)


def test_an_unlimited_budget_and_an_exhausted_forecast_stay_finite(seen: Any) -> None:
    view = jax.tree.map(lambda leaf: jnp.asarray(leaf[0, 0]), seen.view)
    endless = replace(view, problem=replace(view.problem, budget=jnp.full(2, jnp.inf)), remaining_demand=jnp.float32(0))
    for kind in ("resolving", "static"):
        spending, wanted = round_targets(endless, kind)
        assert np.isfinite(spending).all() and (np.asarray(spending) <= 1).all() and np.isfinite(wanted).all()


def test_the_projection_is_the_nearest_point_with_a_bounded_sum() -> None:
    generator = np.random.default_rng(3)
    for size in (1, 2, 3, 4):
        points = np.concatenate([generator.normal(0, 2, (300, size)), generator.integers(-2, 3, (300, size))])
        radii = np.concatenate([generator.uniform(0.05, 4, 300), generator.integers(1, 4, 300)])  # and ties
        made = np.asarray(jax.vmap(dual.project)(jnp.asarray(points, jnp.float32), jnp.asarray(radii, jnp.float32)))
        ours = [twins.project(point, radius) for point, radius in zip(points, radii, strict=True)]
        np.testing.assert_allclose(made, ours, atol=2e-6)
        assert (made >= 0).all() and (made.sum(axis=1) <= radii + 2e-6).all()
    assert dual.project(jnp.zeros(0), jnp.float32(1.0)).shape == (0,)


def test_values_of_equal_amounts_are_equal_to_the_bit() -> None:
    generator = np.random.default_rng(4)
    prices = jnp.asarray(generator.random((400, 3)), jnp.float32)
    amounts = jnp.asarray(np.repeat(generator.random((400, 1, 3)), 7, axis=1), jnp.float32)
    made = np.asarray(jax.jit(jax.vmap(lambda p, a: 1.0 - dual.valued(p, a)))(prices, amounts))
    assert (made == made[:, :1]).all()
    np.testing.assert_allclose(made[:, 0], 1 - (np.asarray(prices) * np.asarray(amounts[:, 0])).sum(axis=1), atol=1e-6)
