"""SW-UCB: the optimistic linear program on what was seen lately, for worlds whose means drift.

Source: Liu, Jiang, Li, *Non-stationary Bandits with Knapsacks* (NeurIPS 2022, arXiv 2205.12427), algorithm 1, with the
constants as recalled from the published paper.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, routing_rule
from bandits.solvers import mix
from bandits.targets import round_targets
from envs.parameters import number
from envs.types import Feedback, Problem, Truth


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class State:
    """Discounted counts and sums; the reward and the other quantities forget at different rates."""

    reward_count: jax.Array  # [M]
    reward_sum: jax.Array  # [M]
    other_count: jax.Array  # [M]
    consumption_sum: jax.Array  # [M, P]
    service_sum: jax.Array  # [M, C]
    undecided: jax.Array  # [] bool, whether the last LP was left undecided


@routing_rule("sw_ucb")
class SwUCB(RoutingRule):
    """x_t = argmax U·x s.t. L_i·x <= B_i/Q̂, Σ x <= 1, on recent means; the round's model is drawn from x_t.

    U = min(1, mean + √(2 log(12 K T³)/(n + 1))) and L_i = max(0, mean - √(2 log(12 K d T³)/(n + 1))), d the number of
    resources, times ``radius_scale``; a model not seen has U = 1 and L = 0. The windows are w = K^(1/3) V^(-2/3)
    T^(2/3), at most T, with V the total variation of the means over the run.

    Ours: a discount 1 - 1/w per round in place of a window of w rounds, since it needs no memory of w rounds (Garivier,
    Moulines 2011), and none where w = T; covering rows with upper bounds and a ``penalty`` on what is missed; B/Q̂ per
    task, where the paper has B/T per round of one task. The forecaster ``running_mean`` gives the form without demand
    prediction.

    >>> SwUCB(reward_variation=0.0).radius_scale
    1.0
    """

    radius_scale: float | jax.Array = number(1.0, low=0.0)  # multiple of the published radius
    reward_variation: float | jax.Array = number(0.0, low=0.0)  # 0: the means do not move, so nothing is forgotten
    consumption_variation: float | jax.Array = number(0.0, low=0.0)  # of consumption and service
    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of missed target

    def init(self, problem: Problem, truth: Truth | None) -> State:
        """Nothing seen."""
        none = jnp.zeros_like(problem.throughput)
        resources, metrics = problem.budget.shape[0], problem.target.shape[0]
        return State(
            reward_count=none,
            reward_sum=none,
            other_count=none,
            consumption_sum=jnp.zeros((none.shape[0], resources), none.dtype),
            service_sum=jnp.zeros((none.shape[0], metrics), none.dtype),
            undecided=jnp.zeros((), bool),
        )

    def decide(self, state: State, view: RoutingView) -> tuple[jax.Array, State]:
        """The mix [M] of this round's LP."""
        view = view.blind
        number, rounds = _size(view.problem)
        level = jnp.log(12.0 * number) + 3.0 * jnp.log(rounds)
        own, other = state.reward_count[:, None], state.other_count[:, None]
        reward = _mean(state.reward_sum[:, None], own) + self._radius(level, own)
        limited = jnp.maximum(jnp.sum(jnp.isfinite(view.problem.budget)), 1).astype(level.dtype)
        wide = self._radius(level + jnp.log(limited), other)
        lower = jnp.maximum(_mean(state.consumption_sum, other) - wide, 0.0)
        upper = jnp.minimum(_mean(state.service_sum, other) + wide, 1.0)
        spending, wanted = round_targets(view, "static")
        best = mix.elastic_mix(
            jnp.where(own > 0, jnp.minimum(reward, 1.0), 1.0)[:, 0],
            jnp.where(other > 0, lower, 0.0),
            jnp.where(other > 0, upper, 1.0),
            spending,
            wanted,
            view.affordable_caps,
            jnp.asarray(self.penalty, wanted.dtype),
        )
        return best.shares, replace(state, undecided=best.undecided)

    def undecided(self, state: State) -> jax.Array:
        """[] bool, whether the last LP was left undecided."""
        return state.undecided

    def update(self, state: State, view: RoutingView, feedback: Feedback) -> State:
        """Forget a little of everything, then add the round."""
        served = (jnp.arange(state.reward_count.shape[0]) == feedback.model).astype(state.reward_count.dtype)
        keep, others_keep = (self._kept(view.problem, v) for v in (self.reward_variation, self.consumption_variation))
        return State(
            reward_count=keep * state.reward_count + served,
            reward_sum=keep * state.reward_sum + served * feedback.reward,
            other_count=others_keep * state.other_count + served,
            consumption_sum=others_keep * state.consumption_sum + served[:, None] * feedback.consumption[None],
            service_sum=others_keep * state.service_sum + served[:, None] * feedback.service[None],
            undecided=state.undecided,
        )

    def _radius(self, level: jax.Array, count: jax.Array) -> jax.Array:
        return self.radius_scale * jnp.sqrt(2.0 * level / (count + 1.0))

    def _kept(self, problem: Problem, variation: float | jax.Array) -> jax.Array:
        """[] what a round leaves of a count: 1 - 1/w, or 1 where the window is the whole run."""
        number, rounds = _size(problem)
        moving = jnp.maximum(jnp.asarray(variation, rounds.dtype), jnp.finfo(rounds.dtype).tiny)
        window = jnp.cbrt(number * (rounds / moving) ** 2)
        return jnp.where(window >= rounds, 1.0, 1.0 - 1.0 / jnp.maximum(window, 1.0))


def _size(problem: Problem) -> tuple[jax.Array, jax.Array]:
    """(K, T) as floats."""
    dtype = problem.throughput.dtype
    return jnp.sum(problem.exists).astype(dtype), problem.horizon.astype(dtype)


def _mean(total: jax.Array, count: jax.Array) -> jax.Array:
    return total / jnp.where(count > 0, count, 1.0)
