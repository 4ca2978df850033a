"""The optimistic linear program of bandits with knapsacks, re-solved every round on what remains; a rule of our own.

It is the rule of Agrawal and Devanur (EC 2014; Operations Research 2019) with three additions of ours: what is left of
the budget over the demand that is left in place of fixed right-hand sides, elastic rows for service targets, and total
demand from a forecast. It is not the rule of the COPAC paper, which has no linear program; see ``copac_ucb``.
"""

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, routing_rule, try_each_once
from bandits.solvers import mix
from bandits.targets import round_targets
from envs.parameters import choice, number
from envs.types import Problem, Truth


@routing_rule("lp_resolving")
class LPResolving(RoutingRule):
    """x_t = argmax UCB_r·x - M Σ z s.t. LCB_c·x <= ρ, UCB_g·x + z >= min(g*, max UCB_g), 0 <= x <= α, Σ x <= 1, z >= 0.

    The round's model is drawn from x_t; what is missing to 1 is declined. Models whose worst case
    no longer fits in the budget are left out, since the world would refuse them.

    >>> LPResolving(targets="static").penalty
    5.0
    """

    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of missed target
    targets: str = choice("resolving", ("resolving", "static"))
    covering: str = choice("optimistic", ("optimistic", "pessimistic"))

    def init(self, problem: Problem, truth: Truth | None) -> mix.Mix:
        """The last mix."""
        return mix.nothing(problem)

    def decide(self, state: mix.Mix, view: RoutingView) -> tuple[jax.Array, mix.Mix]:
        """The mix [M] of this round's LP."""
        caps = view.affordable_caps
        spending, wanted = round_targets(view, self.targets)
        service = view.service_upper if self.covering == "optimistic" else view.service_lower
        best = mix.elastic_mix(
            view.reward_upper,
            view.consumption_lower,
            service,
            spending,
            wanted,
            caps,
            jnp.asarray(self.penalty, wanted.dtype),
        )
        return try_each_once(view, best.shares, caps), best

    def duals(self, state: mix.Mix, problem: Problem) -> jax.Array:
        """[P + C] shadow prices of the last LP."""
        return state.prices

    def undecided(self, state: mix.Mix) -> jax.Array:
        """[] bool, whether the last LP was left undecided."""
        return state.undecided
