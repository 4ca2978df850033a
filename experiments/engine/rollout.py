"""One run: a policy in a world, stage by stage and round by round; ``experiments.engine.batch`` makes it many.

Nothing is stacked over rounds: totals live in the carry and are read at evaluation rounds. Randomness of round t comes
from ``fold_in(key_run, t)`` alone, so a trajectory does not depend on batch, chunk, padding or where a run was resumed.
Books that are summed in floating point are entered at boundaries of the timeline alone: where a run stops leaves no
trace.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from bandits import policy as policies
from bandits.deployment.everything import Everything
from bandits.estimators.statistics import stack
from bandits.forecasting.base import Hint
from bandits.policy import Policy, PolicyState
from envs import ledger
from envs import timeline as timelines
from envs import world as worlds
from envs.timeline import Timeline
from envs.types import Truth
from envs.world import World, WorldState
from experiments.engine import deployment_regret
from experiments.engine.deployment_regret import DeploymentBooks

_KEY_DEMAND, _KEY_LEARNER, _KEY_DEPLOYMENT = 0, 1, 2
_KEY_START = 2**32 - 1  # no round has this number


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class RunState:
    """The whole state of a run between two rounds."""

    world: WorldState
    policy: PolicyState
    books: DeploymentBooks | None  # only where what is live can change
    total_demand: jax.Array | None  # [] realised total, only where it must be known ahead
    forecast_total: jax.Array  # [] the policy's latest prediction of the total
    invalid: (
        jax.Array
    )  # [] int32, rounds whose decision was not finite and so was declined, or comes from a program that was
    # left undecided, and stages whose deployment was larger than it may be and so was cut


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What is measured at a evaluation round."""

    world: WorldState  # the totals; demand_state is dropped (None)
    books: DeploymentBooks | None
    forecast_total: jax.Array  # []
    invalid: jax.Array  # [] int32
    deployment_gap: jax.Array  # [] largest optimality gap of a deployment so far
    duals: jax.Array  # [P + C]
    lower: jax.Array  # [M, D]
    upper: jax.Array  # [M, D]
    covered: jax.Array  # [M, D] 1 where the interval holds the true mean


def deployment_matters(world: World, policy: Policy) -> bool:
    """Whether what is live can change in this world with this policy."""
    return world.deployment_matters or not isinstance(policy.deployment, Everything)


def start(world: World, policy: Policy, key_run: jax.Array, horizon: jax.Array) -> RunState:
    """The state before the first round."""
    key_start = jax.random.fold_in(key_run, _KEY_START)
    known = policy.needs_total or deployment_matters(world, policy)
    total = _total_demand(world, key_start, key_run, horizon) if known else None
    return RunState(
        world=worlds.reset(world, key_start, deployment_matters=deployment_matters(world, policy)),
        books=deployment_regret.open_books(world) if deployment_matters(world, policy) else None,
        policy=policies.init(policy, world.problem, _truth(world, total)),
        total_demand=total,
        forecast_total=jnp.asarray(world.problem.expected_demand, world.reward_mean.dtype),
        invalid=jnp.zeros((), jnp.int32),
    )


def advance(
    world: World,
    policy: Policy,
    key_run: jax.Array,
    state: RunState,
    timeline: Timeline,
    first: jax.Array,
    stop: jax.Array,
) -> RunState:
    """Play rounds first, ..., stop - 1; timeline and bounds are traced and shared by all runs of a batch."""

    def play(state: RunState, first: jax.Array, stop: jax.Array, origin: jax.Array) -> RunState:
        def one(t: jax.Array, state: RunState) -> RunState:
            return _round(world, policy, key_run, state, t, (t - origin) % timeline.resolve_every == 0)

        return jax.lax.fori_loop(first, stop, one, state)

    if not deployment_matters(world, policy):
        return play(state, first, stop, jnp.zeros_like(first))

    def segment(carry: tuple[jax.Array, RunState]) -> tuple[jax.Array, RunState]:
        t, state = carry
        origin = timelines.epoch_began(timeline, t)
        state = jax.lax.cond(t == origin, lambda: _boundary(world, policy, key_run, state, timeline, t), lambda: state)
        boundary = timelines.next_boundary(timeline, t)
        end = jnp.minimum(boundary, stop)
        state = play(state, t, end, origin)
        return end, replace(state, books=_entered(world, state, timeline, end, end == boundary))

    return jax.lax.while_loop(lambda carry: carry[0] < stop, segment, (first, state))[1]


def snapshot(world: World, policy: Policy, state: RunState, timeline: Timeline, t: jax.Array) -> Snapshot:
    """Read the books and the policy's beliefs after rounds 0, ..., t - 1, where t > 0."""
    bounds = state.policy.bounds
    truth = stack(world.reward_mean, world.consumption_mean, world.service_mean)
    covered = (bounds.lower <= truth) & (truth <= bounds.upper)
    return Snapshot(
        world=replace(state.world, demand_state=None),
        books=_entered(world, state, timeline, t, timelines.epoch_began(timeline, t) < t),
        forecast_total=state.forecast_total,
        invalid=state.invalid,
        deployment_gap=policy.deployment.gap(state.policy.deployment),
        duals=policies.duals(policy, state.policy, world.problem),
        lower=bounds.lower,
        upper=bounds.upper,
        covered=covered.astype(bounds.lower.dtype),
    )


def _entered(
    world: World, state: RunState, timeline: Timeline, end: jax.Array, pending: jax.Array
) -> DeploymentBooks | None:
    """The books with what is pending entered: the rounds since the last boundary up to ``end``."""
    if state.books is None:
        return None
    books = state.books
    return jax.lax.cond(
        pending, lambda: deployment_regret.enter(books, world, state.world, timeline, end), lambda: books
    )


def _boundary(
    world: World, policy: Policy, key_run: jax.Array, state: RunState, timeline: Timeline, t: jax.Array
) -> RunState:
    """Retire the models that are gone, deploy anew if a stage starts, and appraise what is live."""
    state = replace(state, world=worlds.retire(world, state.world, t))
    state = jax.lax.cond(
        timelines.stage_began(timeline, t) == t, lambda: _deploy(world, policy, key_run, state, t), lambda: state
    )
    assert state.books is not None and state.total_demand is not None
    books = deployment_regret.appraise(state.books, world, state.world.deployed, state.total_demand)
    return replace(state, books=books)


def _deploy(world: World, policy: Policy, key_run: jax.Array, state: RunState, t: jax.Array) -> RunState:
    """Let the policy choose what is live in the stage that starts with round t."""
    observation = worlds.observe(world, state.world, t, jnp.zeros_like(state.forecast_total))
    key = jax.random.fold_in(jax.random.fold_in(key_run, t), _KEY_DEPLOYMENT)
    wanted, learner_state = policies.deploy(
        policy, state.policy, world.problem, observation, _truth(world, state.total_demand), key
    )
    num_models = world.reward_mean.shape[0]
    most = world.problem.max_deployed if policy.deployment.capped else jnp.int32(num_models)
    excess = jnp.sum(wanted & observation.available) > most
    return replace(
        state,
        world=worlds.deploy(world, state.world, t, wanted, most),
        policy=learner_state,
        invalid=state.invalid + excess.astype(jnp.int32),
    )


def _round(
    world: World, policy: Policy, key_run: jax.Array, state: RunState, t: jax.Array, resolve: jax.Array
) -> RunState:
    key = jax.random.fold_in(key_run, t)
    demand_state, demand = worlds.arrivals(world, state.world, t, jax.random.fold_in(key, _KEY_DEMAND))
    observation = worlds.observe(world, state.world, t, demand)
    hint = None
    if policy.forecaster.needs_hint:
        assert state.total_demand is not None
        hint = Hint(total=state.total_demand, next=demand, so_far=observation.demand_so_far)
    shares, learner_state, view = policies.decide(
        policy,
        state.policy,
        world.problem,
        observation,
        _truth(world, state.total_demand),
        hint,
        resolve,
        jax.random.fold_in(key, _KEY_LEARNER),
    )
    usable = jnp.all(jnp.isfinite(shares))
    shares = jnp.where(usable, shares, 0.0)
    world_state, feedback = worlds.step(world, state.world, demand_state, demand, shares, t, key_run)
    return replace(
        state,
        world=world_state,
        policy=policies.learn(policy, state.policy, learner_state, view, feedback),
        forecast_total=view.total_demand,
        invalid=state.invalid + (~usable | policies.undecided(policy, learner_state)).astype(jnp.int32),
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
        demand_state, demand = worlds.arrivals(world, carry, t, key)
        total = ledger.add(carry.demand, ledger.record(demand, world.scale))
        return replace(carry, demand_state=demand_state, demand=total)

    end = jax.lax.fori_loop(0, horizon, body, worlds.reset(world, key_start, deployment_matters=False))
    return ledger.value(end.demand, world.scale)
