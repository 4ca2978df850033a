"""UCB1, whose index is blind to budget and targets (Auer, Cesa-Bianchi, Fischer, 2002)."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, fill, routing_rule, try_each_once
from envs.parameters import number


@routing_rule("ucb1")
class UCB1(RoutingRule):
    """argmax mean + sqrt(width · log(t) / n): what a router does that looks at quality alone.

    The index knows neither prices nor what is left of the budget, so money goes to the best models as long as there is
    any. The candidates are the models that the world would accept: those whose worst case still fits. With a model that
    never fits among them, the rule would propose it for ever and serve nobody, which says nothing about the index.

    >>> UCB1().width
    2.0
    """

    width: float | jax.Array = number(2.0, low=0.0)  # 2 in the paper

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        """All to the largest index, up to its cap."""
        caps = view.affordable_caps
        tried = jnp.maximum(view.statistics.count, 1).astype(caps.dtype)
        rounds = jnp.maximum(view.observation.t, 1).astype(caps.dtype)
        index = view.reward_mean + jnp.sqrt(self.width * jnp.log(rounds) / tried)
        return try_each_once(view, fill(index, caps), caps), state
