"""A policy: deployment rule × routing rule × forecaster × confidence.

It owns the statistics and shows the rules what they may see.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp

from bandits import contract
from bandits.deployment import DeploymentRule, DeploymentView
from bandits.estimators import confidence, statistics
from bandits.estimators.confidence import Bounds, Confidence
from bandits.estimators.statistics import Statistics
from bandits.forecasting.base import Forecaster, Hint, remaining_demand
from bandits.routing.base import RoutingRule, RoutingView
from envs.rows import pick, put
from envs.types import Feedback, Observation, Problem, Truth

_KEY_FORECAST, _KEY_RULE = 0, 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Policy:
    """A policy's parts; every number in it is a traced leaf."""

    deployment: DeploymentRule
    routing: RoutingRule
    forecaster: Forecaster
    confidence: Confidence

    @property
    def clairvoyant(self) -> bool:
        """Whether one of its rules is told the truth."""
        return self.deployment.clairvoyant or self.routing.clairvoyant

    @property
    def needs_total(self) -> bool:
        """Whether the realised total demand must be known before the run (clairvoyant parts only)."""
        return self.clairvoyant or self.forecaster.needs_hint


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """What a policy remembers."""

    statistics: Statistics
    bounds: Bounds  # what follows from the statistics; a round renews one model's
    deployment: Any
    routing: Any
    forecaster: Any
    forecast_total: jax.Array | None  # [] the forecaster's latest total, only where it is kept for several rounds


def ceiling(problem: Problem, bound: jax.Array) -> jax.Array:
    """[..., D] the known range of every quantity: 1, or the worst case for a consumption, ``bound`` [..., P]."""
    ones = jnp.ones((*bound.shape[:-1], 1 + problem.target.shape[0]), bound.dtype)
    return jnp.concatenate([ones[..., :1], bound, ones[..., 1:]], axis=-1)


def init(policy: Policy, problem: Problem, truth: Truth | None) -> PolicyState:
    """The state before the first round; ``truth`` is None for all but clairvoyant rules."""
    num_quantities = 1 + problem.budget.shape[0] + problem.target.shape[0]
    seen = statistics.init(
        problem.exists.shape[0],
        num_quantities,
        problem.throughput.dtype,
        variance=policy.confidence.radius == "variance",
    )
    known = ceiling(problem, problem.consumption_bound)
    deployment, routing = policy.deployment, policy.routing
    return PolicyState(
        statistics=seen,
        bounds=confidence.bounds(policy.confidence, seen, known, _level(policy, problem)),
        deployment=contract.begun(deployment, deployment.init(problem, truth if deployment.clairvoyant else None)),
        routing=contract.begun(routing, routing.init(problem, truth if routing.clairvoyant else None)),
        forecaster=contract.begun(policy.forecaster, policy.forecaster.init(problem)),
        forecast_total=None if policy.forecaster.refresh == "every" else jnp.zeros_like(problem.expected_demand),
    )


def _level(policy: Policy, problem: Problem) -> jax.Array:
    """[] the exploration level gamma."""
    num_models = jnp.sum(problem.exists).astype(problem.throughput.dtype)
    return confidence.gamma(policy.confidence, num_models, problem.horizon.astype(problem.throughput.dtype))


def deploy(
    policy: Policy,
    state: PolicyState,
    problem: Problem,
    observation: Observation,
    truth: Truth | None,
    key: jax.Array,
) -> tuple[jax.Array, PolicyState]:
    """(models [M] that are to be live, state) of one stage."""
    view = DeploymentView(
        problem=problem,
        observation=observation,
        statistics=state.statistics,
        bounds=state.bounds,
        key=key,
        truth=truth if policy.deployment.clairvoyant else None,
    )
    rule = policy.deployment
    wanted, rule_state = contract.decided(rule, rule.decide(state.deployment, view), "deployed")
    wanted = contract.array(rule, "decide", wanted, "what is deployed", problem.exists.shape, jnp.bool_)
    return wanted, replace(state, deployment=contract.kept(rule, "decide", state.deployment, rule_state))


def decide(
    policy: Policy,
    state: PolicyState,
    problem: Problem,
    observation: Observation,
    truth: Truth | None,
    hint: Hint | None,
    resolve: jax.Array,
    key: jax.Array,
) -> tuple[jax.Array, PolicyState, RoutingView]:
    """(shares [M], state, view) of one round; ``resolve`` [] bool is never batched."""
    forecast = policy.forecaster.predict(
        state.forecaster, observation.t, problem, observation.profile, hint, jax.random.fold_in(key, _KEY_FORECAST)
    )
    forecast, kept = policy.forecaster.keep(state.forecast_total, forecast, observation.t, observation.demand_so_far)
    demand = jnp.where(observation.demand_seen, observation.demand, forecast.next)
    remaining = remaining_demand(forecast, observation.demand, observation.demand_seen)
    improved = jnp.where(observation.demand_seen, remaining, forecast.remaining)  # by a demand that is seen
    view = RoutingView(
        problem=problem,
        observation=observation,
        statistics=state.statistics,
        bounds=state.bounds,
        demand=demand,
        total_demand=observation.demand_so_far + (forecast.remaining if kept is not None else improved),
        remaining_demand=remaining,
        forecast=forecast,
        resolve=resolve,
        key=jax.random.fold_in(key, _KEY_RULE),
        truth=truth if policy.routing.clairvoyant else None,
    )
    rule = policy.routing
    shares, rule_state = contract.decided(rule, rule.decide(state.routing, view), "shares")
    shares = contract.array(rule, "decide", shares, "shares", problem.exists.shape, jnp.floating)
    return shares, replace(state, routing=rule_state, forecast_total=kept), view


def undecided(policy: Policy, state: PolicyState) -> jax.Array:
    """[] bool, whether the last decision comes from a program that the solver left undecided."""
    rule = policy.routing
    return contract.array(rule, "undecided", rule.undecided(state.routing), "one flag", (), jnp.bool_)


def learn(
    policy: Policy, before: PolicyState, state: PolicyState, view: RoutingView, feedback: Feedback
) -> PolicyState:
    """The state after a round, from the ones ``before`` it and after its decision."""
    seen, one = statistics.update(state.statistics, feedback)
    model, problem, rule = feedback.model, view.problem, policy.routing
    known = ceiling(problem, pick(model, problem.consumption_bound))
    renewed = confidence.bounds(policy.confidence, one, known, _level(policy, problem))
    updated = rule.update(state.routing, view, feedback)
    return replace(
        state,
        statistics=seen,
        bounds=jax.tree.map(lambda row, rows: put(model, row, rows), renewed, state.bounds),
        routing=contract.kept_over_round(rule, before.routing, state.routing, updated),
        forecaster=policy.forecaster.update(state.forecaster, feedback.demand, view.observation.profile),
    )


def duals(policy: Policy, state: PolicyState, problem: Problem) -> jax.Array:
    """[P + C] the routing rule's prices of the constraints."""
    prices = policy.routing.duals(state.routing, problem)
    shape = (problem.budget.shape[0] + problem.target.shape[0],)
    return contract.array(policy.routing, "duals", prices, "one price per constraint", shape, jnp.floating)
