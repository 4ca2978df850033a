"""Everything that exists: what a provider without a cap would do."""

from typing import Any

import jax

from bandits.deployment.base import DeploymentRule, DeploymentView, deployment_rule


@deployment_rule("everything")
class Everything(DeploymentRule):
    """All available models, whatever ``max_deployed`` says; newcomers still wait for the next stage.

    >>> Everything().capped
    False
    """

    capped = False

    def decide(self, state: Any, view: DeploymentView) -> tuple[jax.Array, Any]:
        """All available models."""
        return view.available, state
