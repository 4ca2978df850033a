"""AD-UCB: the optimistic linear program of bandits with knapsacks, solved every round, with three right-hand sides.

Source: Agrawal, Devanur, *Bandits with Concave Rewards and Convex Knapsacks* (EC 2014; Operations Research 2019).
"""

import jax
import jax.numpy as jnp

from bandits.routing.base import RoutingRule, RoutingView, routing_rule
from bandits.solvers import mix
from bandits.targets import round_targets
from envs.parameters import choice, number
from envs.types import Problem, Truth


@routing_rule("ad_ucb")
class AdUCB(RoutingRule):
    """x_t = argmax UCB_r·x s.t. LCB_c·x <= (1 - ε) ρ, Σ x <= 1; the round's model is drawn from x_t.

    ``targets`` are the right-hand sides. ``static_epsilon``: ρ = B/Q̂ with ε = √(γK/b) + log(T) γK/b, as published; b is
    the smallest budget in units of the largest round, B_i/q̄ (ours: a round here is q_t tasks and not one).
    ``static``: ε = 0. ``resolving`` (ours): ρ = (B - spent)/R_t, what remains over the demand that remains, and ε = 0.
    The forecaster ``running_mean`` gives the form without demand prediction, Q̂ = T times the mean demand so far.

    Ours: covering rows UCB_g·x + z >= α with a ``penalty`` on z; the radius is that of ``confidence``, where the paper
    has kappa = 2 and γ of the order log(KTd/δ). A model never tried has UCB 1 and LCB 0, which is what makes it tried.

    >>> AdUCB(targets="static").penalty
    5.0
    """

    gamma: float | jax.Array = number(1.0, low=0.0)  # γ in ε
    penalty: float | jax.Array = number(5.0, low=0.0)  # reward given up per unit of missed target
    targets: str = choice("static_epsilon", ("static_epsilon", "static", "resolving"))

    def init(self, problem: Problem, truth: Truth | None) -> mix.Mix:
        """The last mix."""
        return mix.nothing(problem)

    def decide(self, state: mix.Mix, view: RoutingView) -> tuple[jax.Array, mix.Mix]:
        """The mix [M] of this round's LP."""
        view = view.blind
        spending, wanted = round_targets(view, "resolving" if self.targets == "resolving" else "static")
        if self.targets == "static_epsilon":
            spending = (1.0 - self._epsilon(view.problem)) * spending
        best = mix.elastic_mix(
            view.reward_upper,
            view.consumption_lower,
            view.service_upper,
            spending,
            wanted,
            view.affordable_caps,
            jnp.asarray(self.penalty, wanted.dtype),
        )
        return best.shares, best

    def undecided(self, state: mix.Mix) -> jax.Array:
        """[] bool, whether the last LP was left undecided."""
        return state.undecided

    def _epsilon(self, problem: Problem) -> jax.Array:
        """[] ε, at most 1."""
        number = jnp.sum(problem.exists).astype(problem.budget.dtype)
        scarcity = self.gamma * number * problem.demand_bound / jnp.min(problem.budget, initial=jnp.inf)
        return jnp.minimum(jnp.sqrt(scarcity) + jnp.log(problem.horizon * 1.0) * scarcity, 1.0)
