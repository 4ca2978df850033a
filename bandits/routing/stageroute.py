"""StageRoute's routing rule: the optimistic best mix of the live models that serves every task.

Source: RouteOPT, eq. 7 of Li, Li, *Near-Optimal Online Deployment and Routing for Streaming LLMs* (arXiv 2506.17254,
ICLR 2026).
"""

from dataclasses import replace

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, fill, routing_rule
from bandits.solvers import lp, mix
from envs.parameters import number
from envs.types import Problem, Truth


@routing_rule("stageroute")
class StageRoute(RoutingRule):
    """p_t = argmax UCB_r·p s.t. LCB_c·p <= b, Σ p = 1, 0 <= p <= α over the live models; the round's model is ~ p_t.

    Where the budget allows no such mix, the cheapest one (of several resources, by the largest share of the budget
    that a task uses). Service targets add the rows UCB_g·p + z >= min(target, max UCB_g), with a price on z. b is the
    budget per task of the expected demand, as in the paper; a hard budget also leaves out models whose worst case no
    longer fits. A model never tried has UCB 1 and LCB 0, so it is tried without being told to.

    The mix is held for ``resolve_every`` rounds, or until what is live changes; 1 is the paper's.

    >>> StageRoute(resolve_every=10).penalty
    5.0
    """

    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of missed target
    resolve_every: int | jax.Array = number(
        1, low=1, whole=True
    )  # rounds between two solves, on the clock that all runs share

    def init(self, problem: Problem, truth: Truth | None) -> mix.Mix:
        """The last mix."""
        return mix.nothing(problem)

    def decide(self, state: mix.Mix, view: RoutingView) -> tuple[jax.Array, mix.Mix]:
        """The mix, solved anew where the clock says so."""
        best = jax.lax.cond(view.resolve, lambda: self._solve(view), lambda: state)
        return jnp.minimum(best.shares, view.affordable_caps), best

    def duals(self, state: mix.Mix, problem: Problem) -> jax.Array:
        """[P + C] shadow prices of the last LP."""
        return state.prices

    def undecided(self, state: mix.Mix) -> jax.Array:
        """[] bool, whether the last LP was left undecided."""
        return state.undecided

    def _solve(self, view: RoutingView) -> mix.Mix:
        caps, budget = view.affordable_caps, view.budget_per_task
        solution = mix.soft_mix(
            view.reward_upper,
            view.consumption_lower,
            view.service_upper,
            budget,
            mix.reachable(view.problem.target, view.service_upper, caps),
            caps,
            jnp.asarray(self.penalty, caps.dtype),
            serve_all=True,
        )
        share_of_budget = view.consumption_lower / jnp.maximum(budget, jnp.finfo(caps.dtype).tiny)[None]
        cost = jnp.max(share_of_budget, axis=1, initial=0.0)
        cheapest = fill(1.0 / (1.0 + cost), caps)
        best, infeasible = mix.chosen(solution, view.consumption_lower, budget), solution.status == lp.Status.INFEASIBLE
        shares = jnp.where(infeasible, cheapest, best.shares)
        return replace(best, shares=shares, undecided=best.undecided & ~infeasible)
