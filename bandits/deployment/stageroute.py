"""StageRoute's deployment rule: the optimistic best support, with newcomers in the slots that it leaves empty.

Source: DeployOPT, eq. 3 of Li, Li, *Near-Optimal Online Deployment and Routing for Streaming LLMs* (arXiv 2506.17254,
ICLR 2026).
"""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.deployment.base import DeploymentView, SearchingRule, deployment_rule, first
from bandits.solvers import mix
from bandits.solvers.support import Support, best_support
from envs.parameters import number

__all__ = ["StageRoute", "Support", "best_support"]


_PENALTY = 100.0  # of a missed target: far above what any answer is worth


@deployment_rule("stageroute")
class StageRoute(SearchingRule):
    """The support of max UCB_r·d s.t. LCB_c·d <= b, UCB_g·d >= target, Σ d = 1, d <= α, ``max_deployed`` at most.

    Slots that d leaves empty go to the largest UCB_r - λ*·LCB_c + ν*·UCB_g, where λ* and ν* are the shadow prices of
    budgets and targets on the support, so newcomers get tried. d is used for the set only, never for routing. b is the
    budget per task of the expected demand.

    >>> StageRoute(max_nodes=200).capped
    True
    """

    max_nodes: int | jax.Array = number(
        1000, low=1, whole=True
    )  # of the search, after which it stops with a proven gap

    def decide(self, state: jax.Array, view: DeploymentView) -> tuple[jax.Array, Any]:
        """The support, filled up."""
        problem, caps = view.problem, jnp.where(view.available, view.problem.throughput, 0.0)
        means = view.reward_upper, view.consumption_lower, view.service_upper
        support = best_support(
            view.reward_upper,
            view.consumption_lower,
            view.budget_per_task,
            caps,
            view.available,
            view.max_deployed,
            service=view.service_upper,
            target=problem.target,
            max_nodes=jnp.asarray(self.max_nodes, jnp.int32),
        )
        on_support = jnp.where(support.deployed, caps, 0.0)
        wanted = mix.reachable(problem.target, view.service_upper, on_support)
        penalty = jnp.full((), _PENALTY, caps.dtype)
        chosen = mix.soft_mix(*means, view.budget_per_task, wanted, on_support, penalty, serve_all=True)
        prices = mix.prices(chosen)
        money, service = prices[: view.num_resources], prices[view.num_resources : -1]
        # Where the budget cannot serve all tasks there is no price; the whole budget is then worth one answer.
        money = jnp.where(mix.usable(chosen), money, 1.0 / view.budget_per_task)
        cost = jnp.sum(view.consumption_lower * money[None], axis=1)
        index = view.reward_upper - cost + jnp.sum(view.service_upper * service[None], axis=1)
        empty = view.max_deployed - jnp.sum(support.deployed, dtype=jnp.int32)
        filling = first(index, view.available & ~support.deployed, empty)
        return support.deployed | filling, jnp.maximum(state, support.gap)
