"""The best single model that meets budget and targets, known in advance: what a careful operator would pin."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, routing_rule
from envs.types import Problem, Truth

_LEAST_BUDGET = 1e-30  # per task, of the dearest model's worst case: what divides must not vanish


@routing_rule("best_fixed")
class BestFixed(RoutingRule):
    """Clairvoyant: of the live models whose mean consumption and service keep every constraint, that of most reward.

    A cap below 1 leaves the rest of the demand declined, and counts against reward and service alike. Where no model
    keeps all constraints, the one that misses them least. The choice changes only when what is live does.

    >>> BestFixed().clairvoyant
    True
    """

    clairvoyant = True

    def init(self, problem: Problem, truth: Truth | None) -> jax.Array:
        """[M] the fixed shares, before it is known what is live."""
        return jnp.zeros_like(problem.throughput)

    def decide(self, state: jax.Array, view: RoutingView) -> tuple[jax.Array, Any]:
        """The fixed shares."""
        shares = jax.lax.cond(view.resolve, lambda: _shares(view), lambda: state)
        return jnp.minimum(shares, view.caps), shares


def _shares(view: RoutingView) -> jax.Array:
    """[M] all to the best model, up to its cap."""
    truth, size = view.truth, view.caps
    assert truth is not None
    per_task = view.problem.budget / jnp.maximum(truth.total_demand, 1.0)
    spending = jnp.maximum(per_task, _LEAST_BUDGET)
    over = jnp.max(size[:, None] * truth.consumption / spending[None] - 1.0, axis=1, initial=0.0)
    under = jnp.max(view.problem.target[None] - size[:, None] * truth.service, axis=1, initial=0.0)
    miss = jnp.maximum(jnp.maximum(over, under), 0.0)
    # Rewards are at most 1, so one unit of a miss above rounding always decides.
    score = jnp.where(size > 0, size * truth.reward - 1e4 * jnp.where(miss > 1e-6, miss, 0.0), -jnp.inf)
    best = jnp.argmax(score) == jnp.arange(size.shape[0])
    return jnp.where(best, size, 0.0)
