"""UCB1, blind to budget and targets (Auer, Cesa-Bianchi, Fischer, 2002)."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.parameters import number
from bandits.routing.base import RoutingRule, View, fill, routing_rule, try_each_once


@routing_rule("ucb1")
class UCB1(RoutingRule):
    """argmax mean + sqrt(width · log(t) / n): what a router does that looks at quality alone.

    >>> UCB1().width
    2.0
    """

    width: float | jax.Array = number(2.0, low=0.0)  # 2 in the paper

    def decide(self, state: Any, view: View) -> tuple[jax.Array, Any]:
        """All to the largest index, up to its cap."""
        tried = jnp.maximum(view.statistics.count, 1).astype(view.caps.dtype)
        rounds = jnp.maximum(view.observation.t, 1).astype(view.caps.dtype)
        index = view.reward_mean + jnp.sqrt(self.width * jnp.log(rounds) / tried)
        return try_each_once(view, fill(index, view.caps)), state
