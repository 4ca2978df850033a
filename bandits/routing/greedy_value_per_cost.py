"""Greedy value per cost: the density order of budgeted bandits, without exploration (Tran-Thanh et al., AAAI 2012)."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.parameters import number
from bandits.routing.base import RoutingRule, View, fill, routing_rule, try_each_once


@routing_rule("greedy_value_per_cost")
class GreedyValuePerCost(RoutingRule):
    """argmax mean reward / mean consumption (of the resource that weighs most) after trying each model once.

    Optimal only if the budget alone, and never demand, is scarce: an instructive failure where dear models belong in
    the mix.

    >>> GreedyValuePerCost().floor > 0
    True
    """

    floor: float | jax.Array = number(1e-6, low=1e-12)  # smallest consumption divided by

    def decide(self, state: Any, view: View) -> tuple[jax.Array, Any]:
        """All to the best ratio, up to its cap."""
        share_of_budget = view.consumption_mean / jnp.maximum(view.problem.budget, 1e-9)[None]
        cost = jnp.max(share_of_budget, axis=1, initial=0.0) * jnp.max(view.problem.budget, initial=1.0)
        index = (view.reward_mean + self.floor) / jnp.maximum(cost, self.floor)
        return try_each_once(view, fill(index, view.caps)), state
