"""Uniform routing: the reference that learns nothing."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, View, routing_rule


@routing_rule("uniform")
class Uniform(RoutingRule):
    """Equal shares for all available models; a cap below the equal share leaves the rest declined.

    >>> Uniform().clairvoyant
    False
    """

    def decide(self, state: Any, view: View) -> tuple[jax.Array, Any]:
        """min(1 / number available, cap)."""
        number = jnp.maximum(jnp.sum(view.caps > 0), 1).astype(view.caps.dtype)
        return jnp.minimum(1.0 / number, view.caps), state
