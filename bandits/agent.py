"""A learner: routing rule × forecaster × confidence. It owns the statistics and shows the rule what it may see."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bandits import confidence, statistics
from bandits.confidence import Bounds, Confidence
from bandits.forecast import Forecaster, Hint, remaining_demand
from bandits.routing.base import RoutingRule, View
from bandits.statistics import Statistics
from envs.types import Feedback, Observation, Problem, Truth

_KEY_FORECAST, _KEY_RULE = 0, 1


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Learner:
    """A policy's parts; every number in it is a traced leaf."""

    rule: RoutingRule
    forecaster: Forecaster
    confidence: Confidence

    @property
    def needs_total(self) -> bool:
        """Whether the realised total demand must be known before the run (clairvoyant parts only)."""
        return self.rule.clairvoyant or self.forecaster.needs_hint


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LearnerState:
    """What a learner remembers."""

    statistics: Statistics
    rule: Any
    forecaster: Any


def ceiling(problem: Problem) -> jax.Array:
    """[M, D] the known range of every quantity: 1, or the model's worst case for a consumption."""
    num_models, num_services = problem.exists.shape[0], problem.target.shape[0]
    ones = jnp.ones((num_models, 1 + num_services), problem.throughput.dtype)
    return statistics.stack(ones[:, 0], problem.consumption_bound, ones[:, 1:])


def init(learner: Learner, problem: Problem, truth: Truth | None) -> LearnerState:
    """The state before the first round; ``truth`` is None for all but clairvoyant rules."""
    num_quantities = 1 + problem.budget.shape[0] + problem.target.shape[0]
    seen = statistics.init(
        problem.exists.shape[0],
        num_quantities,
        problem.throughput.dtype,
        variance=learner.confidence.radius == "variance",
    )
    return LearnerState(
        statistics=seen,
        rule=learner.rule.init(problem, truth if learner.rule.clairvoyant else None),
        forecaster=learner.forecaster.init(problem),
    )


def current_bounds(learner: Learner, state: LearnerState, problem: Problem) -> Bounds:
    """The confidence bounds the learner holds now."""
    num_models = jnp.sum(problem.exists).astype(problem.throughput.dtype)
    level = confidence.gamma(learner.confidence, num_models, problem.horizon.astype(problem.throughput.dtype))
    return confidence.bounds(learner.confidence, state.statistics, ceiling(problem), level)


def decide(
    learner: Learner,
    state: LearnerState,
    problem: Problem,
    observation: Observation,
    truth: Truth | None,
    hint: Hint | None,
    key: jax.Array,
) -> tuple[jax.Array, LearnerState, View]:
    """(shares [M], state, view) of one round."""
    forecast = learner.forecaster.predict(
        state.forecaster, observation.t, problem, observation.profile, hint, jax.random.fold_in(key, _KEY_FORECAST)
    )
    demand = jnp.where(observation.demand_seen, observation.demand, forecast.next)
    remaining = remaining_demand(forecast, observation.demand, observation.demand_seen)
    view = View(
        problem=problem,
        observation=observation,
        statistics=state.statistics,
        bounds=current_bounds(learner, state, problem),
        demand=demand,
        total_demand=observation.demand_so_far + remaining,
        remaining_demand=remaining,
        key=jax.random.fold_in(key, _KEY_RULE),
        truth=truth if learner.rule.clairvoyant else None,
    )
    shares, rule_state = learner.rule.decide(state.rule, view)
    return shares, LearnerState(statistics=state.statistics, rule=rule_state, forecaster=state.forecaster), view


def learn(learner: Learner, state: LearnerState, view: View, feedback: Feedback) -> LearnerState:
    """The state after a round."""
    return LearnerState(
        statistics=statistics.update(state.statistics, feedback),
        rule=learner.rule.update(state.rule, view, feedback),
        forecaster=learner.forecaster.update(state.forecaster, feedback.demand, view.observation.profile),
    )
