"""COPAC-UCB as published: one index per model, prices by projected gradient steps on confidence bounds.

Source: Huang, Liu, Xu, *Online LLM Selection via Constrained Bandits with Time-Varying Demand* (arXiv 2606.17489v1).
"""

import jax
import jax.numpy as jnp

from bandits import dual
from bandits.estimators.confidence import Bounds, unit_bounds
from bandits.estimators.statistics import Statistics
from bandits.routing.base import RoutingRule, RoutingView, fill, routing_rule
from envs.parameters import choice, number
from envs.rows import pick
from envs.types import Feedback, Problem, Truth

_LEAST_TARGET = 1e-3  # of what remains: a target already met makes its row's factor large, not infinite


@routing_rule("copac_ucb")
class CopacUCB(RoutingRule):
    """Plays argmax UCB_r - Σ_i λ_i F_i zc_i for every task, before the round's demand is known.

    zc_i is LCB_i for a packing row and -UCB_i for a covering row, in units of the dearest model's worst case, so in
    [0, 1] as in the paper; F_i = Q̂/B_i with Q̂ the forecast total, and 1/α for the covering of a share α of all tasks.
    The radius is sqrt(``radius_variance`` v L/N) + ``radius_linear`` L/N with v the mean, N the rounds that the model
    was played and L = log(1/``delta``). A model never played has UCB 1 and LCB 0.

    After the round, with s_i = 1 (packing) or -1 (covering), g_i = q_t (s_i - F_i zc_i(a_t)), from the bounds that the
    played model a_t had, and λ ← Π_S(λ - η_t g) with S = {λ >= 0, ‖λ‖₁ <= T^(1/4)}, λ_1 = 1/d,
    η_t = ``eta_scale`` · 2/(M √t) and M = q̄ + q̄²/b. Once a packing total is above its budget, everything is declined
    for ever. Under a hard budget that moment never comes; there, models whose worst case no longer fits are left out.
    Declined rounds move no price.

    What the paper leaves open, and is decided here: b is the least of B_i/T and α q̄, which makes M a bound on each
    |g_i|; a row without a limit (an unlimited budget, a target of 0) is no row; ties go to the lower number; caps below
    1 give the rest of the round to the next best indices. The paper gives δ no value: with the default, its bounds hold
    with a probability 1 - 3KTdδ of .76 in its own experiment (K = 4, T = 10,000, d = 2).

    Readings and changes: ``targets`` are what F divides. ``static``: as in the proofs, above. ``literal``: F = Q̂/(B_i -
    spent), as the listing prints it. ``resolving`` (ours): the rest of Q̂ over the rest of the budget, and the share of
    what remains that reaches the target. ``dual_signal`` ``realised`` (ours) puts what was used in place of its bound.

    >>> rule = CopacUCB(targets="static", eta_scale=1.0, radius_variance=2.0, radius_linear=4.0)
    >>> rule.dual_signal
    'bounds'
    """

    eta_scale: float | jax.Array = number(1.0, low=0.0)  # multiple of the published step
    radius_variance: float | jax.Array = number(2.0, low=0.0)  # constant under the root
    radius_linear: float | jax.Array = number(4.0, low=0.0)  # constant of the term in 1/N
    delta: float | jax.Array = number(1e-6, low=1e-30, high=1.0)  # chance that one bound fails
    targets: str = choice("static", ("static", "literal", "resolving"))
    dual_signal: str = choice("bounds", ("bounds", "realised"))

    def init(self, problem: Problem, truth: Truth | None) -> jax.Array:
        """[P + C] prices λ: 1/d for each of the d rows."""
        rows = self._rows(problem)
        share = 1.0 / jnp.maximum(jnp.sum(rows), 1).astype(problem.throughput.dtype)
        return jnp.where(rows, share, 0.0)

    def decide(self, state: jax.Array, view: RoutingView) -> tuple[jax.Array, jax.Array]:
        """All to the best index, up to its cap; nothing once a budget is overspent."""
        view = view.blind
        bounds = self._bounds(view.statistics)
        signed = _signed(bounds, view.num_resources)
        index = bounds.upper[:, 0] - dual.valued(state * self._factors(view), signed)
        crossed = jnp.any(view.observation.spent > view.problem.budget)
        caps = jnp.where(crossed, 0.0, view.affordable_caps)
        return fill(index, caps, decline=False), state

    def update(self, state: jax.Array, view: RoutingView, feedback: Feedback) -> jax.Array:
        """One projected gradient step, unless nothing was served."""
        view = view.blind
        problem = view.problem
        if self.dual_signal == "bounds":
            played = jax.tree.map(lambda leaf: pick(feedback.model, leaf), view.statistics)
            used = _signed(self._bounds(played), view.num_resources)
        else:
            used = jnp.concatenate([feedback.consumption, -feedback.service])
        sign = jnp.where(jnp.arange(state.shape[0]) < view.num_resources, 1.0, -1.0).astype(state.dtype)
        gradient = feedback.demand * (sign - self._factors(view) * used)
        step = self.eta_scale * 2.0 / (self._gradient_bound(problem) * jnp.sqrt(view.observation.t + 1.0))
        moved = jnp.where(self._rows(problem), state - step * gradient, 0.0)
        return jnp.where(feedback.model >= 0, dual.project(moved, self._reach(problem)), state)

    def duals(self, state: jax.Array, problem: Problem) -> jax.Array:
        """[P + C] λ."""
        return state

    def _rows(self, problem: Problem) -> jax.Array:
        """[P + C] bool: the constraints that limit anything."""
        return jnp.concatenate([jnp.isfinite(problem.budget), problem.target > 0])

    def _reach(self, problem: Problem) -> jax.Array:
        """[] the largest sum of the prices, T^(1/4)."""
        return jnp.sqrt(jnp.sqrt(problem.horizon.astype(problem.throughput.dtype)))

    def _bounds(self, statistics: Statistics) -> Bounds:
        level = -jnp.log(jnp.asarray(self.delta, statistics.mean.dtype))
        return unit_bounds(statistics, self.radius_variance * level, self.radius_linear * level)

    def _gradient_bound(self, problem: Problem) -> jax.Array:
        """[] M."""
        most = problem.demand_bound
        per_round = jnp.concatenate([problem.budget / problem.horizon, problem.target * most])
        least = jnp.min(jnp.where(self._rows(problem), per_round, jnp.inf), initial=jnp.inf)
        return most + most * most / least

    def _factors(self, view: RoutingView) -> jax.Array:
        """[P + C] F; 0 for a covering row without a target."""
        problem, observation = view.problem, view.observation
        numbers = jnp.finfo(problem.budget.dtype)
        tasks, budget, wanted = view.total_demand, problem.budget, problem.target
        if self.targets != "static":
            budget = jnp.maximum(budget - observation.spent, numbers.eps * budget)
        if self.targets == "resolving":
            tasks = view.remaining_demand
            missing = wanted * (observation.demand_so_far + tasks) - observation.service_so_far
            wanted = jnp.clip(missing / jnp.maximum(tasks, numbers.tiny), _LEAST_TARGET, 1.0)
        covering = jnp.where(problem.target > 0, 1.0 / jnp.maximum(wanted, numbers.tiny), 0.0)
        return jnp.concatenate([tasks / budget, covering])


def _signed(bounds: Bounds, num_resources: int) -> jax.Array:
    """[..., P + C] zc: lower bounds of consumption, and upper bounds of service with a minus."""
    packing = bounds.lower[..., 1 : 1 + num_resources]
    return jnp.concatenate([packing, -bounds.upper[..., 1 + num_resources :]], axis=-1)
