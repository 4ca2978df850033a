"""The best deployment for known means: what is left of regret is waiting for windows, and routing."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.deployment.base import DeploymentView, SearchingRule, deployment_rule
from bandits.solvers.support import best_support
from envs.parameters import number


@deployment_rule("clairvoyant")
class Clairvoyant(SearchingRule):
    """The support of the best mix, for true means, of the models available at the stage's start.

    That of the `best_deployment` benchmark: where the budget makes it worth it, some tasks are declined.

    >>> Clairvoyant().clairvoyant
    True
    """

    clairvoyant = True

    max_nodes: int | jax.Array = number(
        1000, low=1, whole=True
    )  # of the search, after which it stops with a proven gap

    def decide(self, state: jax.Array, view: DeploymentView) -> tuple[jax.Array, Any]:
        """The best support."""
        truth, problem = view.truth, view.problem
        assert truth is not None
        support = best_support(
            truth.reward,
            truth.consumption,
            jnp.clip(problem.budget / jnp.maximum(truth.total_demand, 1.0), 0.0, 1.0),
            problem.throughput,
            view.available,
            view.max_deployed,
            service=truth.service,
            target=problem.target,
            serve_all=False,
            max_nodes=jnp.asarray(self.max_nodes, jnp.int32),
        )
        return support.deployed, jnp.maximum(state, support.gap)
