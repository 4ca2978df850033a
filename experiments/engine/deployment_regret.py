"""What a run's deployments were worth: books that are kept from boundary to boundary of the timeline.

Regret against the `best_deployment` benchmark is split with three values of one task, all for true means:
V_now, the best deployment of the models available now; V_window, the best one of those that were available at the
stage's start and still are; V_deployed, the best mix of the models that are live. Then

    regret = Σ q (V_now - V_window)      waiting for the next window
           + Σ q (V_window - V_deployed)  wrong deployment
           + Σ q (V_deployed - μ)         routing within the deployment.

The first two values belong to the world alone, so only the demand that fell under each is counted here, in bins; the
third depends on the run and is summed as it goes.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from bandits.solvers import mix
from envs import ledger
from envs import timeline as timelines
from envs.timeline import Timeline
from envs.world import World, WorldState

_PENALTY = 100.0  # of a target that a deployment cannot meet, so that it meets it as well as it can


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class DeploymentBooks:
    """One run's books. G = 2M + 1 spans of constant inventory."""

    value: jax.Array  # [] V_deployed since the last boundary
    deployed_value: jax.Array  # [] Σ q V_deployed up to the last entry
    missing: jax.Array  # [] what rounding has kept out of that sum (Kahan, 1965)
    entered: ledger.Total  # [] demand up to the last entry
    span_demand: ledger.Total  # [G, 2] demand in each span, before and after the first stage that started within it
    stage_served: ledger.Total  # [M] what each model had served when the stage started
    first_best: jax.Array  # [M] int32, first round of the first stage in which the model served most, -1 for never


def open_books(world: World) -> DeploymentBooks:
    """The books before the first round."""
    num_models, zero = world.reward_mean.shape[0], jnp.zeros((), world.reward_mean.dtype)
    return DeploymentBooks(
        value=zero,
        deployed_value=zero,
        missing=zero,
        entered=ledger.zero(),
        span_demand=ledger.zero((2 * num_models + 1, 2)),
        stage_served=ledger.zero((num_models,), digits=ledger.TASK_DIGITS - 1),
        first_best=jnp.full(num_models, -1, jnp.int32),
    )


def appraise(books: DeploymentBooks, world: World, deployed: jax.Array, total_demand: jax.Array) -> DeploymentBooks:
    """The books with the worth of a task for the models [M] that are live now.

    It is NaN, as are then the run's parts of regret, where the linear program has no solution that can be relied on.
    """
    spending = jnp.clip(world.problem.budget / jnp.maximum(total_demand, 1.0), 0.0, 1.0)
    caps = jnp.where(deployed, world.problem.throughput, 0.0)
    means = world.reward_mean, world.consumption_mean, world.service_mean
    solution = mix.soft_mix(*means, spending, world.problem.target, caps, jnp.full((), _PENALTY, caps.dtype))
    value = jnp.sum(solution.x[: caps.shape[0]] * world.reward_mean)
    return replace(books, value=jnp.where(mix.usable(solution), value, jnp.nan))


def enter(
    books: DeploymentBooks, world: World, state: WorldState, timeline: Timeline, end: jax.Array
) -> DeploymentBooks:
    """The books after the rounds since the last entry, which all lie between two boundaries; ``end`` is the next."""
    new = ledger.left(books.entered, state.demand)
    amount = ledger.value(new, world.scale) * books.value - books.missing
    summed = books.deployed_value + amount
    span = timelines.epoch(timeline, end - 1)
    span_began = jnp.max(jnp.where(timeline.changes <= end - 1, timeline.changes, 0), initial=0)
    after = timelines.stage_began(timeline, end - 1) >= span_began
    spans = jnp.arange(books.span_demand.shape[0])
    here = (spans == span)[:, None] & (jnp.arange(2) == after)[None]
    added = ledger.add(books.span_demand, new)
    books = replace(
        books,
        deployed_value=summed,
        missing=(summed - books.deployed_value) - amount,
        entered=state.demand,
        span_demand=ledger.where(here, added, books.span_demand),
    )
    return jax.lax.cond(
        timelines.stage_began(timeline, end) == end,
        lambda: _end_stage(books, world, state, timeline, end),
        lambda: books,
    )


def _end_stage(
    books: DeploymentBooks, world: World, state: WorldState, timeline: Timeline, end: jax.Array
) -> DeploymentBooks:
    """The books after a stage's last round: which model served the most of its tasks."""
    served = ledger.value(ledger.left(books.stage_served, state.served), world.scale)
    best = (jnp.arange(served.shape[0]) == jnp.argmax(served)) & (served > 0)
    began = timelines.stage_began(timeline, end - 1)
    first = jnp.where(best & (books.first_best < 0), began, books.first_best)
    return replace(books, stage_served=state.served, first_best=first)
