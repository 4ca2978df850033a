"""COPAC, LP variant: the best mix under optimistic estimates, re-solved every round on what remains.

S1's full text was not available when this was written: the rule is reconstructed from its abstract and its nearest kin
(UCB for BwK, Agrawal, Devanur, EC 2014; UCB-LP, Liu, Xu, Wang, Fang, NeurIPS 2022; OA-UCB, Lyu, Cheung, ICML 2023).
"""

import jax
import jax.numpy as jnp

from bandits import lp
from bandits.parameters import choice, number
from bandits.routing.base import RoutingRule, View, routing_rule, try_each_once
from bandits.targets import round_targets
from envs.types import Problem, Truth

_NEGLIGIBLE = 1e-3  # relative violation of a row


def soft_mix(
    reward: jax.Array,
    consumption: jax.Array,
    service: jax.Array,
    spending: jax.Array,
    wanted: jax.Array,
    caps: jax.Array,
    penalty: jax.Array,
) -> lp.Solution:
    """max reward·x - penalty Σ z s.t. consumption_i·x <= spending_i, service_j·x + z_j >= wanted_j, Σ x <= 1, x <= α.

    Shapes [M], [M, P], [M, C], [P], [C], [M], []. The slack z_j <= wanted_j makes every target elastic, so that the
    problem is always feasible; the first M entries of the solution are the mix, the rows are ordered as above.
    """
    num_models, num_services = service.shape
    num_resources = spending.shape[0]
    objective = jnp.concatenate([reward, jnp.full(num_services, -1.0, reward.dtype) * penalty])
    slack_columns = jnp.zeros((num_resources, num_services), reward.dtype)
    matrix = jnp.concatenate(
        [
            jnp.concatenate([consumption.T, slack_columns], axis=1),
            jnp.concatenate([-service.T, -jnp.eye(num_services, dtype=reward.dtype)], axis=1),
            (jnp.arange(num_models + num_services) < num_models).astype(reward.dtype)[None, :],
        ]
    )
    bound = jnp.concatenate([spending, -wanted, jnp.ones(1, reward.dtype)])
    return lp.maximize(objective, matrix, bound, jnp.concatenate([caps, wanted]))


@routing_rule("copac_lp")
class CopacLP(RoutingRule):
    """x_t = argmax UCB_r·x - M Σ z s.t. LCB_c·x <= ρ, UCB_g·x + z >= min(g*, max UCB_g), 0 <= x <= α, Σ x <= 1, z >= 0.

    The round's model is drawn from x_t; what is missing to 1 is declined (S1, reconstructed). Models whose worst case
    no longer fits in the budget are left out, since the world would refuse them.

    >>> CopacLP(targets="static").penalty
    5.0
    """

    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of missed target
    targets: str = choice("resolving", ("resolving", "static"))
    covering: str = choice("optimistic", ("optimistic", "pessimistic"))

    def init(self, problem: Problem, truth: Truth | None) -> jax.Array:
        """[P + C] shadow prices of the last LP."""
        return jnp.zeros(problem.budget.shape[0] + problem.target.shape[0], problem.throughput.dtype)

    def decide(self, state: jax.Array, view: View) -> tuple[jax.Array, jax.Array]:
        """The mix [M] of this round's LP, and its shadow prices."""
        caps = view.affordable_caps
        spending, wanted = round_targets(view, self.targets)
        service = view.service_upper if self.covering == "optimistic" else view.service_lower
        reachable = jnp.max(jnp.where(caps[:, None] > 0, service, 0.0), axis=0, initial=0.0)
        solution = soft_mix(
            view.reward_upper,
            view.consumption_lower,
            service,
            spending,
            jnp.minimum(wanted, reachable),
            caps,
            jnp.asarray(self.penalty, wanted.dtype),
        )
        # Rounding can spoil a solve by a hair where two rows are nearly parallel. Targets are soft and the world guards
        # the budget, so such a mix is as good as another. Otherwise NaN says that the decision is unusable: the round
        # is declined and counted, for this run alone.
        solved = (solution.status == lp.Status.OPTIMAL) | (solution.residual < _NEGLIGIBLE)
        mix = jnp.where(solved, solution.x[: caps.shape[0]], jnp.nan)
        return try_each_once(view, mix, caps), solution.dual[: state.shape[0]]

    def duals(self, state: jax.Array, problem: Problem) -> jax.Array:
        """[P + C] shadow prices of the last LP."""
        return state
