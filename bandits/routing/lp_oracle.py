"""The static LP oracle: the best mix for known means and known total demand, played every round."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits import mix
from bandits.parameters import number
from bandits.routing.base import RoutingRule, View, routing_rule
from envs.types import Problem, Truth


@routing_rule("lp_oracle")
class LPOracle(RoutingRule):
    """Clairvoyant: the best mix of the live models, as in the benchmarks (see ``experiments.benchmark``).

    It changes only when what is live does. It is not above the benchmark: noise makes it run out a little early, or
    leave a little unspent.

    >>> LPOracle().clairvoyant
    True
    """

    clairvoyant = True

    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of a target that cannot be met

    def init(self, problem: Problem, truth: Truth | None) -> jax.Array:
        """[M] the mix, before it is known what is live."""
        return jnp.zeros_like(problem.throughput)

    def decide(self, state: jax.Array, view: View) -> tuple[jax.Array, Any]:
        """The optimal mix."""
        shares = jax.lax.cond(view.resolve, lambda: self._mix(view), lambda: state)
        return jnp.minimum(shares, view.caps), shares

    def _mix(self, view: View) -> jax.Array:
        truth = view.truth
        assert truth is not None
        spending = jnp.clip(view.problem.budget / jnp.maximum(truth.total_demand, 1.0), 0.0, 1.0)
        penalty = jnp.asarray(self.penalty, view.caps.dtype)
        means = truth.reward, truth.consumption, truth.service
        return mix.elastic_mix(*means, spending, view.problem.target, view.caps, penalty)[0]
