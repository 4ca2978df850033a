"""PrimalDualBwK: the most reward per price of what it uses, prices by multiplicative updates.

Source: Badanidiyuru, Kleinberg, Slivkins, *Bandits with Knapsacks* (Journal of the ACM 2018), algorithm 2.
"""

import jax
import jax.numpy as jnp

from bandits import dual
from bandits.routing.base import RoutingRule, RoutingView, fill, routing_rule, try_each_once
from envs.parameters import number
from envs.rows import pick
from envs.types import Feedback, Problem, Truth


@routing_rule("pd_bwk")
class PdBwK(RoutingRule):
    """Tries each model once, then plays argmax UCB_r / (v·L); after the round v_i ← v_i (1 + ε)^(L_i(a_t)).

    The rows are the resources, with the lower bound L of what a task uses of the budget; time, of which a task uses
    1/Q̂; and for each covering target α the *shortfall* 1 - g with a budget (1 - α) Q̂, whose exhaustion stops nothing
    (ours: it needs no new parameter and keeps the theorem). All are scaled to the smallest budget b, and
    ε = √(log(d)/b) for d rows, time among them.

    Ours, since a round here is q_t tasks and not one: b is counted in units of the largest round q̄, and a round uses
    q_t/q̄ times what a task does. The forecaster ``running_mean`` gives the form without demand prediction. The radius
    is that of ``confidence``, where the paper has kappa = 1 and a level of the order log(dTK).

    >>> PdBwK().least_shortfall
    0.001
    """

    least_shortfall: float | jax.Array = number(1e-3, low=1e-6)  # least budget per task of a shortfall row, for α = 1

    def init(self, problem: Problem, truth: Truth | None) -> jax.Array:
        """[P + 1 + C] logarithms of the prices v: packing, time, shortfall."""
        return jnp.zeros(problem.budget.shape[0] + 1 + problem.target.shape[0], problem.throughput.dtype)

    def decide(self, state: jax.Array, view: RoutingView) -> tuple[jax.Array, jax.Array]:
        """All to the best ratio, up to its cap."""
        view = view.blind
        used, _ = self._used(view)
        price = dual.valued(jnp.exp(state - jnp.max(state)), used)
        index = view.reward_upper / jnp.maximum(price, jnp.finfo(price.dtype).tiny)
        caps = view.affordable_caps
        return try_each_once(view, fill(index, caps), caps), state

    def update(self, state: jax.Array, view: RoutingView, feedback: Feedback) -> jax.Array:
        """Raise the price of what the round used."""
        used, budgets = self._used(view.blind)
        most = view.problem.demand_bound
        rows = jnp.maximum(jnp.sum(jnp.isfinite(budgets)), 2).astype(budgets.dtype)
        growth = jnp.sqrt(jnp.log(rows) * most / jnp.min(budgets))
        return state + jnp.log1p(growth) * (feedback.demand / most) * pick(feedback.model, used)

    def duals(self, state: jax.Array, problem: Problem) -> jax.Array:
        """[P + C] the prices of packing and shortfall as shares of all prices."""
        shares = jax.nn.softmax(state)
        return jnp.concatenate([shares[: problem.budget.shape[0]], shares[problem.budget.shape[0] + 1 :]])

    def _used(self, view: RoutingView) -> tuple[jax.Array, jax.Array]:
        """([M, P + 1 + C] the least that a task of each model uses, scaled to the smallest budget; the budgets).

        A row without a limit has an infinite budget; a forecast below the largest round is taken as that.
        """
        target = view.problem.target
        total = jnp.maximum(view.total_demand, view.problem.demand_bound)
        allowed = jnp.where(target > 0, jnp.maximum(1.0 - target, self.least_shortfall), jnp.inf)
        budgets = jnp.concatenate([view.problem.budget, total[None], allowed * total])
        time = jnp.ones_like(view.reward_upper)[:, None]
        lower = jnp.concatenate([view.consumption_lower, time, 1.0 - view.service_upper], axis=1)
        return lower * (jnp.min(budgets) / budgets)[None], budgets
