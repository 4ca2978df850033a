"""One run: a learner in a world, round by round. Everything here is for one run; ``experiments.batch`` makes it many.

Nothing is stacked over rounds: totals live in the carry and are read at checkpoints. Randomness of round t comes from
``fold_in(key_run, t)`` alone, so a trajectory does not depend on batch, chunk, padding or where a run was resumed.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits import agent
from bandits.agent import Learner, LearnerState
from bandits.forecast import Hint
from bandits.statistics import stack
from envs import edge_cloud, ledger
from envs.edge_cloud import World, WorldState
from envs.types import Truth

_KEY_DEMAND, _KEY_OUTCOME, _KEY_LEARNER = 0, 1, 2
_KEY_START = 2**32 - 1  # no round has this number


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RunState:
    """The whole state of a run between two rounds."""

    world: WorldState
    learner: LearnerState
    total_demand: jax.Array | None  # [] realised total, only for learners that must be told
    forecast_total: jax.Array  # [] the learner's latest prediction of the total
    invalid: jax.Array  # [] int32, rounds whose decision was not finite and so was declined


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is measured at a checkpoint."""

    world: WorldState  # the books; demand_state is dropped (None)
    forecast_total: jax.Array  # []
    invalid: jax.Array  # [] int32
    duals: jax.Array  # [P + C]
    lower: jax.Array  # [M, D]
    upper: jax.Array  # [M, D]
    covered: jax.Array  # [M, D] 1 where the interval holds the true mean


def start(world: World, learner: Learner, key_run: jax.Array, horizon: jax.Array) -> RunState:
    """The state before the first round."""
    key_start = jax.random.fold_in(key_run, _KEY_START)
    total = _total_demand(world, key_start, key_run, horizon) if learner.needs_total else None
    return RunState(
        world=edge_cloud.reset(world, key_start),
        learner=agent.init(learner, world.problem, _truth(world, total)),
        total_demand=total,
        forecast_total=jnp.asarray(world.problem.expected_demand, world.reward_mean.dtype),
        invalid=jnp.zeros((), jnp.int32),
    )


def advance(
    world: World, learner: Learner, key_run: jax.Array, state: RunState, first: jax.Array, stop: jax.Array
) -> RunState:
    """Play rounds first, ..., stop - 1; both bounds are traced and shared by all runs of a batch."""
    return jax.lax.fori_loop(first, stop, lambda t, carry: _round(world, learner, key_run, carry, t), state)


def snapshot(world: World, learner: Learner, state: RunState) -> Snapshot:
    """Read the books and the learner's beliefs."""
    bounds = agent.current_bounds(learner, state.learner, world.problem)
    truth = stack(world.reward_mean, world.consumption_mean, world.service_mean)
    covered = (bounds.lower <= truth) & (truth <= bounds.upper)
    books = {**vars(state.world), "demand_state": None}
    return Snapshot(
        world=WorldState(**books),
        forecast_total=state.forecast_total,
        invalid=state.invalid,
        duals=learner.rule.duals(state.learner.rule, world.problem),
        lower=bounds.lower,
        upper=bounds.upper,
        covered=covered.astype(bounds.lower.dtype),
    )


def _round(world: World, learner: Learner, key_run: jax.Array, state: RunState, t: jax.Array) -> RunState:
    key = jax.random.fold_in(key_run, t)
    demand_state, demand = edge_cloud.arrivals(world, state.world, t, jax.random.fold_in(key, _KEY_DEMAND))
    observation = edge_cloud.observe(world, state.world, t, demand)
    hint = None
    if learner.forecaster.needs_hint:
        assert state.total_demand is not None
        hint = Hint(total=state.total_demand, next=demand, so_far=observation.demand_so_far)
    shares, learner_state, view = agent.decide(
        learner,
        state.learner,
        world.problem,
        observation,
        _truth(world, state.total_demand),
        hint,
        jax.random.fold_in(key, _KEY_LEARNER),
    )
    if shares.shape != world.reward_mean.shape:
        raise ValueError(f"decide returned shares of shape {shares.shape}; they must be one a model, {view.caps.shape}")
    usable = jnp.all(jnp.isfinite(shares))
    shares = jnp.where(usable, shares, 0.0)
    world_state, feedback = edge_cloud.step(
        world, state.world, demand_state, demand, shares, jax.random.fold_in(key, _KEY_OUTCOME)
    )
    return RunState(
        world=world_state,
        learner=agent.learn(learner, learner_state, view, feedback),
        total_demand=state.total_demand,
        forecast_total=view.total_demand,
        invalid=state.invalid + (~usable).astype(jnp.int32),
    )


def _truth(world: World, total: jax.Array | None) -> Truth | None:
    if total is None:
        return None
    return Truth(
        reward=world.reward_mean,
        consumption=world.consumption_mean,
        service=world.service_mean,
        total_demand=total,
    )


def _total_demand(world: World, key_start: jax.Array, key_run: jax.Array, horizon: jax.Array) -> jax.Array:
    """Play the demand alone, ahead of the run: no decision influences it."""

    def body(t: jax.Array, carry: WorldState) -> WorldState:
        key = jax.random.fold_in(jax.random.fold_in(key_run, t), _KEY_DEMAND)
        demand_state, demand = edge_cloud.arrivals(world, carry, t, key)
        total = ledger.add(carry.demand, ledger.to_quanta(demand, world.quanta))
        return WorldState(**{**vars(carry), "demand_state": demand_state, "demand": total})

    end = jax.lax.fori_loop(0, horizon, body, edge_cloud.reset(world, key_start))
    return ledger.value(end.demand, world.quanta)
