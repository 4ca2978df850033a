"""The static LP oracle: the best mix for known means and known total demand, played every round."""

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, routing_rule
from bandits.solvers import mix
from envs.parameters import number
from envs.types import Problem, Truth


@routing_rule("lp_oracle")
class LPOracle(RoutingRule):
    """Clairvoyant: the best mix of the live models, as in the benchmarks (see ``experiments.results.benchmark``).

    It changes only when what is live does. It is not above the benchmark: noise makes it run out a little early, or
    leave a little unspent.

    >>> LPOracle().clairvoyant
    True
    """

    clairvoyant = True

    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of a target that cannot be met

    def init(self, problem: Problem, truth: Truth | None) -> mix.Mix:
        """The mix, before it is known what is live."""
        return mix.nothing(problem)

    def decide(self, state: mix.Mix, view: RoutingView) -> tuple[jax.Array, mix.Mix]:
        """The optimal mix."""
        best = jax.lax.cond(view.resolve, lambda: self._mix(view), lambda: state)
        return jnp.minimum(best.shares, view.caps), best

    def undecided(self, state: mix.Mix) -> jax.Array:
        """[] bool, whether the last LP was left undecided."""
        return state.undecided

    def _mix(self, view: RoutingView) -> mix.Mix:
        truth = view.truth
        assert truth is not None
        spending = jnp.clip(view.problem.budget / jnp.maximum(truth.total_demand, 1.0), 0.0, 1.0)
        penalty = jnp.asarray(self.penalty, view.caps.dtype)
        means = truth.reward, truth.consumption, truth.service
        return mix.elastic_mix(*means, spending, view.problem.target, view.caps, penalty)
