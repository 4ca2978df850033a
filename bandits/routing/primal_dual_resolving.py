"""One index per model, prices by online dual ascent on realised outcomes, targets on what remains; a rule of our own.

Near to OA-UCB (Lyu, Cheung, ICML 2023) and PrimalDualBwK (Badanidiyuru, Kleinberg, Slivkins, J. ACM 2018). It
differs from the COPAC paper's rule (``copac_ucb``) in the dual signal, which is what was used and not its bound, in the
step, the set of prices and their start, in targets on what remains, and in that it uses the round's demand where the
world shows it before the choice.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bandits import dual
from bandits.routing.base import RoutingRule, RoutingView, fill, routing_rule, try_each_once
from bandits.targets import round_targets
from envs.parameters import choice, number
from envs.types import Feedback, Problem, Truth


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class State:
    """Prices and what it takes to move them."""

    prices: jax.Array  # [P + C] λ then ν
    optimizer: Any


@routing_rule("primal_dual_resolving")
class PrimalDualResolving(RoutingRule):
    """Plays argmax UCB_r - λ·LCB_c + ν·UCB_g, or declines where that is not positive.

    Models whose worst case no longer fits in the budget are left out, since the world would refuse them.

    After the round, with w = q_t / mean demand so far and ρ, g* the round's targets,
    λ_i moves by (η/√T) w (c_i/ρ_i - 1)/ρ_i within [0, 1/ρ_i] and ν_j by 3 (η/√T) w (g*_j - g_j) within [0, 5].

    >>> PrimalDualResolving(eta=0.3, optimizer="sgd").covering_cap
    5.0
    """

    eta: float | jax.Array = number(0.3, low=0.0)  # dual step size
    covering_gain: float | jax.Array = number(3.0, low=0.0)  # how much faster the covering prices move
    covering_cap: float | jax.Array = number(5.0, low=1e-3)  # largest covering price
    optimizer: str = choice("sgd", dual.OPTIMIZERS)
    schedule: str = choice("horizon", dual.SCHEDULES)
    targets: str = choice("resolving", ("resolving", "static"))
    covering: str = choice("optimistic", ("optimistic", "pessimistic"))

    def init(self, problem: Problem, truth: Truth | None) -> State:
        """Prices start at zero."""
        dtype = problem.throughput.dtype
        prices = jnp.zeros(problem.budget.shape[0] + problem.target.shape[0], dtype)
        optimizer = self._transformation(problem).init(prices)
        return State(prices=prices, optimizer=optimizer)

    def decide(self, state: State, view: RoutingView) -> tuple[jax.Array, State]:
        """All to the best index, up to its cap."""
        service = view.service_upper if self.covering == "optimistic" else view.service_lower
        cost = jnp.sum(state.prices[None, : view.num_resources] * view.consumption_lower, axis=1)
        gain = jnp.sum(state.prices[None, view.num_resources :] * service, axis=1)
        caps = view.affordable_caps
        return try_each_once(view, fill(view.reward_upper - cost + gain, caps), caps), state

    def update(self, state: State, view: RoutingView, feedback: Feedback) -> State:
        """One dual step on the round's realised consumption and service per task."""
        spending, wanted = round_targets(view, self.targets)
        spending = jnp.maximum(spending, 1e-9)
        # From the exact total: moved by (q - mean) / t, a float32 mean stops once its steps fall below rounding.
        mean_demand = (view.observation.demand_so_far + feedback.demand) / (view.observation.t + 1)
        weight = feedback.demand / jnp.maximum(mean_demand, jnp.finfo(mean_demand.dtype).tiny)
        excess = feedback.consumption / spending - 1.0
        shortfall = wanted - feedback.service
        # In units of each price's largest value, which is what dual.ascend works in.
        largest = jnp.concatenate([1.0 / spending, jnp.full_like(wanted, self.covering_cap)])
        gradient = weight * jnp.concatenate([excess, self.covering_gain / self.covering_cap * shortfall])
        relative, optimizer = dual.ascend(
            self._transformation(view.problem), state.optimizer, state.prices / largest, gradient
        )
        return State(prices=relative * largest, optimizer=optimizer)

    def duals(self, state: State, problem: Problem) -> jax.Array:
        """[P + C] λ and ν."""
        return state.prices

    def _transformation(self, problem: Problem) -> Any:
        step_size = jnp.asarray(self.eta, problem.throughput.dtype)
        return dual.optimizer(self.optimizer, self.schedule, step_size, problem.horizon)
