"""Uniform routing: the reference that learns nothing."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, routing_rule


@routing_rule("uniform")
class Uniform(RoutingRule):
    """Equal shares for all live models that the world would accept; a cap below the equal share declines the rest.

    Those whose worst case no longer fits in a hard budget are left out: their part of the tasks would be refused, and
    the reference would measure the refusals and not what comes of not learning.

    >>> Uniform().clairvoyant
    False
    """

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        """min(1 / number of candidates, cap)."""
        caps = view.affordable_caps
        number = jnp.maximum(jnp.sum(caps > 0), 1).astype(caps.dtype)
        return jnp.minimum(1.0 / number, caps), state
