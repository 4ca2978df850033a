"""A random deployment: the reference that learns nothing (a baseline of StageRoute, arXiv 2506.17254)."""

from typing import Any

import jax

from bandits.deployment.base import DeploymentRule, DeploymentView, deployment_rule, first


@deployment_rule("uniform")
class Uniform(DeploymentRule):
    """``max_deployed`` available models, drawn anew at each stage, all subsets equally likely.

    >>> Uniform().clairvoyant
    False
    """

    def decide(self, state: Any, view: DeploymentView) -> tuple[jax.Array, Any]:
        """The models with the largest of independent uniform numbers."""
        return first(jax.random.uniform(view.key, view.available.shape), view.available, view.max_deployed), state
