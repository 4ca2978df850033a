"""Greedy deployment by optimistic value per cost (a baseline of StageRoute, arXiv 2506.17254, section 5)."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.deployment.base import DeploymentRule, DeploymentView, deployment_rule, first
from envs.parameters import number


@deployment_rule("greedy")
class Greedy(DeploymentRule):
    """The ``max_deployed`` available models of the largest UCB_r / LCB_c.

    With several resources c is the one of which a task uses the largest share of the budget. Blind to throughput caps
    and to how models complement each other.

    >>> Greedy().floor > 0
    True
    """

    floor: float | jax.Array = number(1e-6, low=1e-12)  # smallest cost divided by, as a multiple of the budget per task

    def decide(self, state: Any, view: DeploymentView) -> tuple[jax.Array, Any]:
        """The best ratios."""
        share = (
            view.consumption_lower / jnp.maximum(view.budget_per_task, jnp.finfo(view.bounds.lower.dtype).tiny)[None]
        )
        cost = jnp.max(share, axis=1, initial=0.0)
        return first(view.reward_upper / jnp.maximum(cost, self.floor), view.available, view.max_deployed), state
