"""The environment: language models at the edge and in the cloud serving demand under hard budgets and soft targets.

``World`` is data (a pytree of arrays for one cell), so one compiled program serves every catalogue, budget, target and
horizon of the same shapes. ``reset``, ``observe`` and ``step`` are pure functions of one run.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from envs import ledger, outcomes
from envs.demand import Demand
from envs.types import Feedback, Observation, Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class World:
    """One world. Consumption is in normalised units (see ``envs.types``)."""

    problem: Problem
    demand: Demand
    demand_seen: jax.Array  # [] bool, whether q_t is revealed before choosing
    stop_when_refused: jax.Array  # [] bool, the `stop` rule; otherwise `skip`
    quanta: jax.Array  # [] quanta per task, see envs.ledger
    budget: ledger.Total  # [P] the budget in quanta
    reward_mean: jax.Array  # [M] true mean reward
    consumption_mean: jax.Array  # [M, P] true mean consumption
    service_mean: jax.Array  # [M, C] true mean service
    consumption_table: jax.Array  # [M, P, G] quantiles of one task's consumption
    reward_table: jax.Array | None  # [M, G] quantiles of quality, or None for Bernoulli quality
    service_is_reward: jax.Array  # [C] bool, true where the covering metric is quality itself


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class WorldState:
    """Everything of a run that the world remembers; totals are exact."""

    demand_state: Any
    stopped: jax.Array  # [] bool, the stop rule has fired
    demand: ledger.Total  # [] tasks arrived
    served: ledger.Total  # [M] tasks each model served
    refused: ledger.Total  # [] tasks declined because their worst case did not fit
    reward: ledger.Total  # [] realised reward
    reward_expected: ledger.Total  # [] sum of q_t times the true mean reward
    spent: ledger.Total  # [P]
    service: ledger.Total  # [C]
    violation_worst: jax.Array  # [C] largest shortfall so far


def reset(world: World, key: jax.Array) -> WorldState:
    """The state before the first round."""
    num_models, num_resources = world.consumption_mean.shape
    num_services = world.service_mean.shape[1]
    return WorldState(
        demand_state=world.demand.init(key),
        stopped=jnp.zeros((), bool),
        demand=ledger.zero(),
        served=ledger.zero((num_models,)),
        refused=ledger.zero(),
        reward=ledger.zero(),
        reward_expected=ledger.zero(),
        spent=ledger.zero((num_resources,)),
        service=ledger.zero((num_services,)),
        violation_worst=jnp.zeros(num_services, world.service_mean.dtype),
    )


def arrivals(world: World, state: WorldState, t: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
    """(next demand state, q_t): the demand of round t, which no decision influences."""
    demand_state, demand = world.demand.step(state.demand_state, t, world.problem.horizon, key)
    return demand_state, demand.astype(world.reward_mean.dtype)


def observe(world: World, state: WorldState, t: jax.Array, demand: jax.Array) -> Observation:
    """What the learner is shown at the start of round t."""
    dtype = world.reward_mean.dtype
    return Observation(
        t=t,
        demand=jnp.where(world.demand_seen, demand, 0.0),
        demand_seen=world.demand_seen,
        profile=world.demand.profile(t, world.problem.horizon).astype(dtype),
        available=world.problem.exists,
        demand_so_far=ledger.value(state.demand, world.quanta),
        spent=ledger.value(state.spent, world.quanta),
        remaining=ledger.value(ledger.left(state.spent, world.budget), world.quanta),
        service_so_far=ledger.value(state.service, world.quanta),
    )


def step(
    world: World, state: WorldState, demand_state: Any, demand: jax.Array, shares: jax.Array, key: jax.Array
) -> tuple[WorldState, Feedback]:
    """Serve one round: draw the model from ``shares`` [M], guard the budget, draw its outcome, keep the books.

    Shares are clipped to the throughput caps; what they leave below 1 is the null action. One model serves the whole
    round (its share is a probability), and one outcome per task is drawn for it: the demand scales it.
    """
    uniform = jax.random.uniform(key, (3 + world.service_mean.shape[1],), world.reward_mean.dtype)
    chosen = _draw_model(world, shares, uniform[0])
    worst = ledger.charge_quanta(demand * _pick(chosen, world.problem.consumption_bound), world.quanta)
    allowed = jnp.all(ledger.fits(state.spent, worst, world.budget)) & ~state.stopped
    refused = jnp.any(chosen > 0) & ~allowed
    chosen = jnp.where(allowed & (demand > 0), chosen, 0.0)
    feedback = _outcome(world, chosen, demand, uniform[1:])
    return _book(world, state, demand_state, feedback, refused), feedback


def _pick(weights: jax.Array, rows: jax.Array) -> jax.Array:
    """[M], [M, D] -> [D]. A sum, not a matrix product: those may run in reduced precision on an accelerator."""
    return jnp.sum(weights[:, None] * rows, axis=0)


def _draw_model(world: World, shares: jax.Array, uniform: jax.Array) -> jax.Array:
    """[M] one-hot of the drawn model, all zero for the null action."""
    capped = jnp.clip(shares, 0.0, jnp.where(world.problem.exists, world.problem.throughput, 0.0))
    capped = capped / jnp.maximum(capped.sum(), 1.0)
    upto = jnp.cumsum(capped)
    inside = (upto - capped <= uniform) & (uniform < upto)
    # Rounding may let two neighbours overlap by an ulp: the first one serves.
    return (inside & (jnp.cumsum(inside) == 1)).astype(shares.dtype)


def _outcome(world: World, chosen: jax.Array, demand: jax.Array, uniform: jax.Array) -> Feedback:
    """The served model's outcome per task, dense over models.

    All resources share one uniform: money and energy both follow the number of tokens, so they rise together.
    """
    model = jnp.argmax(chosen)
    drawn = outcomes.sample(world.consumption_table, model, uniform[1])
    consumption = jnp.minimum(drawn, world.problem.consumption_bound[model])
    if world.reward_table is None:
        reward = (uniform[0] < world.reward_mean[model]).astype(chosen.dtype)
    else:
        reward = outcomes.sample(world.reward_table, model, uniform[0])
    met = (uniform[2:] < world.service_mean[model]).astype(chosen.dtype)
    service = jnp.where(world.service_is_reward, reward, met)
    return Feedback(
        demand=demand,
        served=chosen * demand,
        reward=chosen * reward,
        consumption=chosen[:, None] * consumption[None],
        service=chosen[:, None] * service[None],
    )


def _book(world: World, state: WorldState, demand_state: Any, feedback: Feedback, refused: jax.Array) -> WorldState:
    """Enter one round into the books."""
    quanta = world.quanta
    served = feedback.served
    demand = ledger.add(state.demand, ledger.to_quanta(feedback.demand, quanta))
    service = ledger.add(state.service, ledger.to_quanta(_pick(served, feedback.service), quanta))
    shortfall = world.problem.target * ledger.value(demand, quanta) - ledger.value(service, quanta)
    expected = jnp.sum(served * world.reward_mean)
    return WorldState(
        demand_state=demand_state,
        stopped=state.stopped | (refused & world.stop_when_refused),
        demand=demand,
        served=ledger.add(state.served, ledger.to_quanta(served, quanta)),
        refused=ledger.add(state.refused, ledger.to_quanta(jnp.where(refused, feedback.demand, 0.0), quanta)),
        reward=ledger.add(state.reward, ledger.to_quanta(jnp.sum(served * feedback.reward), quanta)),
        reward_expected=ledger.add(state.reward_expected, ledger.to_quanta(expected, quanta)),
        spent=ledger.add(state.spent, ledger.charge_quanta(_pick(served, feedback.consumption), quanta)),
        service=service,
        violation_worst=jnp.maximum(state.violation_worst, shortfall),
    )
