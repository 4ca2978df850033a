"""The environment: language models at the edge and in the cloud serving demand under hard budgets and soft targets.

``World`` is data (a pytree of arrays for one cell), so one compiled program serves every catalogue, budget, target,
inventory and horizon of the same shapes. All functions are pure and for one run. Rounds are played with ``arrivals``,
``observe`` and ``step``; where the inventory changes comes ``retire``, and at a stage's start ``deploy``.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp

from envs import inventory, keys, ledger, outcomes
from envs.demand.arrivals import Demand
from envs.inventory import Inventory
from envs.rows import pick
from envs.types import Feedback, Observation, Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class World:
    """One world. Consumption is in normalised units (see ``envs.types``)."""

    problem: Problem
    demand: Demand
    inventory: Inventory
    deployment_matters: bool = field(metadata={"static": True})  # whether what can serve ever changes or is capped
    demand_seen: jax.Array  # [] bool, whether q_t is revealed before choosing
    stop_when_refused: jax.Array  # [] bool, the `stop` rule; otherwise `skip`
    stop_when_crossed: jax.Array  # [] bool, the `cross` rule: nothing is refused until a budget is overspent
    scale: jax.Array  # [] of totals of tasks, reward and service; see envs.ledger
    consumption_scale: jax.Array  # [P] of totals of consumption
    budget: ledger.Total  # [P]
    deployment_cost: ledger.Total  # [P] what switching a model on costs
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
    served: ledger.Total  # [M] tasks each model served, without the lowest digit
    refused: ledger.Total  # [] tasks declined because their worst case did not fit
    clipped: jax.Array  # [] int32, rounds whose shares were cut: negative, above the caps, or more than 1 in sum
    reward: ledger.Total  # [] realised reward
    spent: ledger.Total  # [P]
    service: ledger.Total  # [C]
    violation_worst: jax.Array  # [C] largest shortfall so far
    deployed: jax.Array  # [M] bool, models that are live
    activations: jax.Array  # [] int32, models switched on so far
    evictions: jax.Array  # [] int32, models switched off so far, by choice or because they retired
    first_live: jax.Array  # [M] int32, round in which a model was first live, -1 for never


def reset(world: World, key: jax.Array, *, deployment_matters: bool) -> WorldState:
    """The state before the first round; where it is not ``best_deployment``, all models are live throughout."""
    num_models, num_resources = world.consumption_mean.shape
    num_services = world.service_mean.shape[1]
    return WorldState(
        demand_state=world.demand.init(key),
        stopped=jnp.zeros((), bool),
        demand=ledger.zero(),
        served=ledger.zero((num_models,), digits=ledger.TASK_DIGITS - 1),
        refused=ledger.zero(),
        clipped=jnp.zeros((), jnp.int32),
        reward=ledger.zero(),
        spent=ledger.zero((num_resources,), digits=ledger.CONSUMPTION_DIGITS),
        service=ledger.zero((num_services,)),
        violation_worst=jnp.zeros(num_services, world.service_mean.dtype),
        deployed=jnp.zeros(num_models, bool) if deployment_matters else world.problem.exists,
        activations=jnp.zeros((), jnp.int32),
        evictions=jnp.zeros((), jnp.int32),
        first_live=jnp.full(num_models, -1, jnp.int32)
        if deployment_matters
        else jnp.where(world.problem.exists, 0, -1),
    )


def retire(world: World, state: WorldState, t: jax.Array) -> WorldState:
    """The state at the start of round t without the live models that are gone by then."""
    remaining = state.deployed & inventory.available(world.inventory, t)
    gone = jnp.sum(state.deployed & ~remaining, dtype=jnp.int32)
    return replace(state, deployed=remaining, evictions=state.evictions + gone)


def deploy(world: World, state: WorldState, t: jax.Array, wanted: jax.Array, most: jax.Array) -> WorldState:
    """Make the models ``wanted`` [M] bool live from round t on, and no others; at most the first ``most`` of them.

    Only available models count. Each model that was not live pays the deployment cost, in the order of their numbers;
    one whose cost does not fit in what remains of a hard budget stays off, as do all after a budget was crossed.
    Once the stop rule has fired or a budget was crossed, nothing changes.
    """
    able = wanted & inventory.available(world.inventory, t)
    stopped = state.stopped | crossed(world, state.spent)
    able = jnp.where(stopped, state.deployed, able & (jnp.cumsum(able) <= most))

    def switch_on(m: jax.Array, carry: tuple[ledger.Total, jax.Array]) -> tuple[ledger.Total, jax.Array]:
        spent, live = carry
        charged = ledger.add(spent, world.deployment_cost)
        affordable = jnp.all(ledger.at_most(charged, world.budget)) | ~world.problem.budget_hard
        affordable = affordable & ~crossed(world, spent)
        new = able[m] & ~state.deployed[m]
        pays = new & affordable
        live = live.at[m].set((able[m] & state.deployed[m]) | pays)
        return ledger.where(pays, charged, spent), live

    spent, live = jax.lax.fori_loop(0, able.shape[0], switch_on, (state.spent, jnp.zeros_like(able)))
    return replace(
        state,
        spent=spent,
        deployed=live,
        activations=state.activations + jnp.sum(live & ~state.deployed, dtype=jnp.int32),
        evictions=state.evictions + jnp.sum(state.deployed & ~live, dtype=jnp.int32),
        first_live=jnp.where(live & (state.first_live < 0), t, state.first_live),
    )


def arrivals(world: World, state: WorldState, t: jax.Array, key: jax.Array) -> tuple[Any, jax.Array]:
    """(next demand state, q_t): the demand of round t, which no decision influences."""
    demand_state, demand = world.demand.step(state.demand_state, t, world.problem.horizon, key)
    return demand_state, demand.astype(world.reward_mean.dtype)


def observe(world: World, state: WorldState, t: jax.Array, demand: jax.Array) -> Observation:
    """What the policy is shown at the start of round t."""
    dtype = world.reward_mean.dtype
    return Observation(
        t=t,
        demand=jnp.where(world.demand_seen, demand, 0.0),
        demand_seen=world.demand_seen,
        profile=world.demand.profile(t, world.problem.horizon).astype(dtype),
        available=inventory.available(world.inventory, t),
        deployed=state.deployed,
        demand_so_far=ledger.value(state.demand, world.scale),
        spent=ledger.value(state.spent, world.consumption_scale),
        remaining=_remaining(world, state),
        service_so_far=ledger.value(state.service, world.scale),
    )


def _remaining(world: World, state: WorldState) -> jax.Array:
    """[P] what is left of the budget, rounded down: a worst case fits if and only if it is at most this."""
    return ledger.value_below(ledger.left(state.spent, world.budget), world.consumption_scale)


def step(
    world: World,
    state: WorldState,
    demand_state: Any,
    demand: jax.Array,
    shares: jax.Array,
    t: jax.Array,
    key: jax.Array,
) -> tuple[WorldState, Feedback]:
    """Serve round t: draw the model from ``shares`` [M], guard the budget, draw its outcome, keep the books.

    Shares are clipped to the live models' throughput caps; what they leave below 1 is the null action. One model serves
    the whole round (its share is a probability), and one outcome per task is drawn for it: the demand scales it.
    ``key`` is the run's.
    """
    uniform = keys.uniforms(key, t, 3 + world.service_mean.shape[1], world.reward_mean.dtype)
    drawn, cut = _draw_model(world, state.deployed, shares, uniform[0])
    num_models = shares.shape[0]
    bound = pick(drawn, world.problem.consumption_bound)
    fits = jnp.all(demand * bound <= _remaining(world, state)) | ~world.problem.budget_hard
    allowed = fits & ~state.stopped & ~crossed(world, state.spent)
    refused = (drawn < num_models) & ~allowed
    chosen = jnp.where((drawn < num_models) & allowed & (demand > 0), drawn, -1)
    feedback = _outcome(world, chosen, bound, demand, uniform[1:])
    state = replace(state, demand_state=demand_state, clipped=state.clipped + cut.astype(jnp.int32))
    return _book(world, state, feedback, refused), feedback


def crossed(world: World, spent: ledger.Total) -> jax.Array:
    """[] bool: under the `cross` rule, a budget is overspent, so that nothing is served any more."""
    return world.stop_when_crossed & ~jnp.all(ledger.at_most(spent, world.budget))


def _draw_model(world: World, live: jax.Array, shares: jax.Array, uniform: jax.Array) -> tuple[jax.Array, jax.Array]:
    """([] int32 the drawn model, M for the null action; [] bool whether shares were cut).

    What is negative, above a live model's cap or, in sum, above 1 is cut. It counts where it is beyond rounding, to
    which half of the dtype's digits are left (3.5e-4 in float32): normalised weights are right to some 1e-6 and linear
    programs to some 1e-4. What is not counted changes who serves with no more probability than that.
    """
    caps = world.problem.throughput
    capped = jnp.where(live & (shares > 0), jnp.where(shares < caps, shares, caps), 0.0)
    total = jnp.sum(capped)
    # Model m is drawn where u lies from the sum of the shares before it up to its own, all scaled to at most 1.
    drawn = jnp.sum(jnp.cumsum(capped) <= uniform * jnp.maximum(total, 1.0), dtype=jnp.int32)
    rounding = float(jnp.finfo(shares.dtype).eps) ** 0.5
    return drawn, jnp.maximum(jnp.sum(jnp.abs(shares)) - total, total - 1.0) > rounding


def _outcome(world: World, model: jax.Array, bound: jax.Array, demand: jax.Array, uniform: jax.Array) -> Feedback:
    """The served model's outcome per task; zeros where ``model`` is -1.

    All resources share one uniform: money and energy both follow the number of tokens, so they rise together.
    """
    served = model >= 0
    row = jnp.maximum(model, 0)
    consumption = jnp.minimum(outcomes.sample(world.consumption_table, row, uniform[1]), bound)
    if world.reward_table is None:
        reward = (uniform[0] < pick(model, world.reward_mean)).astype(demand.dtype)
    else:
        reward = outcomes.sample(world.reward_table, row, uniform[0])
    met = (uniform[2:] < pick(model, world.service_mean)).astype(demand.dtype)
    return Feedback(
        demand=demand,
        model=model,
        reward=jnp.where(served, reward, 0.0),
        consumption=jnp.where(served, consumption, 0.0),
        service=jnp.where(served, jnp.where(world.service_is_reward, reward, met), 0.0),
    )


def _book(world: World, state: WorldState, feedback: Feedback, refused: jax.Array) -> WorldState:
    """Enter one round into the books; what was not served has outcomes of zero.

    The round that crosses a budget is charged and its service counts, but it earns nothing: its tasks are not among
    those served.
    """
    demand, nothing = feedback.demand, ledger.zero()
    arrived = ledger.record(demand, world.scale)
    spent = ledger.add(state.spent, ledger.charge(demand * feedback.consumption, world.consumption_scale))
    earns = ~crossed(world, spent)

    def counted(outcome: jax.Array) -> ledger.Total:
        """The round's tasks times an outcome per task, which is 0 or 1 where quality is."""
        if world.reward_table is None:
            return ledger.where(outcome > 0, arrived, nothing)
        return ledger.record(demand * outcome, world.scale)

    total, service = ledger.add(state.demand, arrived), ledger.add(state.service, counted(feedback.service))
    shortfall = world.problem.target * ledger.value(total, world.scale) - ledger.value(service, world.scale)
    serving = (jnp.arange(world.reward_mean.shape[0]) == feedback.model) & earns
    coarsely = ledger.where(serving, ledger.highest(state.demand, arrived), ledger.zero(digits=ledger.TASK_DIGITS - 1))
    return replace(
        state,
        stopped=state.stopped | (refused & world.stop_when_refused),
        demand=total,
        served=ledger.add(state.served, coarsely),
        refused=ledger.add(state.refused, ledger.where(refused, arrived, nothing)),
        reward=ledger.add(state.reward, ledger.where(earns, counted(feedback.reward), nothing)),
        spent=spent,
        service=service,
        violation_worst=jnp.maximum(state.violation_worst, shortfall),
    )
