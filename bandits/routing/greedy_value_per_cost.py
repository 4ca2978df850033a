"""Greedy value per cost: the density order of budgeted bandits, without exploration (Tran-Thanh et al., AAAI 2012)."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, fill, routing_rule, try_each_once
from envs.parameters import number


@routing_rule("greedy_value_per_cost")
class GreedyValuePerCost(RoutingRule):
    """argmax mean reward / mean consumption (of the resource that weighs most) after trying each model once.

    Optimal only if the budget alone, and never demand, is scarce: an instructive failure where dear models belong in
    the mix. The ratio does not look at what is left of the budget; the candidates are the models that the world would
    accept, those whose worst case still fits. Of several free models it takes the best.

    >>> GreedyValuePerCost().floor > 0
    True
    """

    floor: float | jax.Array = number(1e-6, low=1e-12)  # smallest consumption divided by, of the scarcest resource

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        """All to the best ratio, up to its cap."""
        caps, budget = view.affordable_caps, view.problem.budget
        scarcest = jnp.min(budget, initial=jnp.inf)
        weight = jnp.where(budget > scarcest, scarcest / budget, 1.0)  # of the scarcest resource's unit
        cost = jnp.max(view.consumption_mean * weight[None], axis=1, initial=0.0)
        index = (view.reward_mean + self.floor) / jnp.maximum(cost, self.floor)
        return try_each_once(view, fill(index, caps), caps), state
