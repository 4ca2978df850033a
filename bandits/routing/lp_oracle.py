"""The static LP oracle: the best mix for known means and known total demand, played every round."""

from typing import Any

import jax
import jax.numpy as jnp

from bandits.parameters import number
from bandits.routing.base import RoutingRule, View, routing_rule
from bandits.routing.copac_lp import soft_mix
from envs.types import Problem, Truth


@routing_rule("lp_oracle")
class LPOracle(RoutingRule):
    """Clairvoyant: the mix of the fluid benchmark (see problem.md), unchanged over the run.

    It is not above the benchmark: noise makes it run out a little early, or leave a little unspent.

    >>> LPOracle().clairvoyant
    True
    """

    clairvoyant = True

    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of a target that cannot be met

    def init(self, problem: Problem, truth: Truth | None) -> jax.Array:
        """[M] the optimal mix."""
        assert truth is not None
        spending = jnp.clip(problem.budget / jnp.maximum(truth.total_demand, 1.0), 0.0, 1.0)
        caps = jnp.where(problem.exists, problem.throughput, 0.0)
        penalty = jnp.asarray(self.penalty, caps.dtype)
        solution = soft_mix(truth.reward, truth.consumption, truth.service, spending, problem.target, caps, penalty)
        return solution.x[: caps.shape[0]]

    def decide(self, state: jax.Array, view: View) -> tuple[jax.Array, Any]:
        """The optimal mix."""
        return jnp.minimum(state, view.caps), state
