"""The contract of a routing rule, and the registry that finds rules by name.

A rule is one file and one decorator, inside this package or outside it::

    @routing_rule("mine")
    class Mine(RoutingRule):
        temperature: float | jax.Array = number(0.1, low=0.0)

        def decide(self, state, view):
            return fill(view.reward_upper / self.temperature, view.affordable_caps), state
"""

import dataclasses
from typing import Any, ClassVar, TypeAlias

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast
from bandits.view import Estimates
from envs.registry import Registry
from envs.rows import pick, put
from envs.types import Feedback, Problem, Truth

_Filling: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array]  # top worth [], worth [M], shares [M], left []


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class RoutingView(Estimates):
    """All that a routing rule may use to decide one round."""

    demand: jax.Array  # [] q_t, or its forecast where it is revealed after choosing
    total_demand: jax.Array  # [] predicted total over the horizon
    remaining_demand: jax.Array  # [] predicted demand from this round on, this round included
    forecast: Forecast  # what the earlier rounds alone predict, whether or not this round's demand is seen
    resolve: jax.Array  # [] bool, never batched: whether rules that solve now and then should solve in this round

    @property
    def caps(self) -> jax.Array:
        """[M] the largest share each model may get this round; 0 where it is not live."""
        return jnp.where(self.observation.deployed, self.problem.throughput, 0.0)

    @property
    def affordable_caps(self) -> jax.Array:
        """[M] ``caps``, and 0 where the round's worst case no longer fits in a hard budget: the world would refuse it.

        A refused round teaches nothing, so a rule that keeps proposing such a model never moves on. Where the demand is
        revealed after choosing, it is taken for no less than the mean so far: a forecast that is always too low would
        have the same model proposed and refused for ever.
        """
        now = self.observation
        so_far = now.demand_so_far / jnp.maximum(now.t, 1).astype(now.demand_so_far.dtype)
        demand = jnp.where(now.demand_seen, self.demand, jnp.maximum(self.demand, so_far))
        worst = demand * self.problem.consumption_bound
        fits = jnp.all(worst <= self.observation.remaining[None], axis=1) | ~self.problem.budget_hard
        return jnp.where(fits, self.caps, 0.0)

    @property
    def blind(self) -> "RoutingView":
        """This view before the round's demand is seen, which is when the published rules choose."""
        return dataclasses.replace(
            self,
            demand=self.forecast.next,
            total_demand=self.observation.demand_so_far + self.forecast.remaining,
            remaining_demand=jnp.maximum(self.forecast.remaining, self.forecast.next),
        )


class RoutingRule:
    """Decides, each round, which share of the tasks each model gets. Subclasses become frozen pytrees when registered.

    Fields made with ``number`` are traced and sweepable without recompiling, those made with ``choice`` are static.
    All methods are pure, for one run, and work under jit and vmap.
    """

    clairvoyant: ClassVar[bool] = False  # whether the rule is shown the true means and the realised total demand

    def init(self, problem: Problem, truth: Truth | None) -> Any:
        """The rule's own state before the first round (any pytree of arrays of fixed shapes)."""
        return ()

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        """(shares [M], state): the share of the round's tasks for each model, and what to remember of the decision.

        Shares are nonnegative, at most ``view.caps`` and sum to at most 1; what is missing to 1 is declined. The
        environment serves the round by one model drawn from them. Shares beyond these limits are cut, and the round is
        counted as ``clipped``. A share that is not finite makes the whole decision unusable: the round is declined and
        counted as ``invalid`` for this run alone. A round drawn for a model outside ``view.affordable_caps`` is
        declined, so a rule that always insists on such a model stands still.
        """
        raise NotImplementedError

    def update(self, state: Any, view: RoutingView, feedback: Feedback) -> Any:
        """The state after the round; ``state`` comes from ``decide`` and ``view`` is the one it decided on.

        Structure, shapes and types are those that ``init`` returned; ``decide`` may have added what only this needs.
        """
        return state

    def duals(self, state: Any, problem: Problem) -> jax.Array:
        """[P + C] current dual variables (prices of the constraints), zero for rules that have none."""
        return jnp.zeros(problem.budget.shape[0] + problem.target.shape[0], problem.throughput.dtype)

    def undecided(self, state: Any) -> jax.Array:
        """[] bool, whether the last decision comes from a program that the solver left undecided.

        Such a round is served, and counted as ``invalid``.
        """
        return jnp.zeros((), bool)


ROUTING: Registry = Registry(
    "routing rule",
    RoutingRule,
    reserved=("confidence",),
    renamed={"copac_lp": "lp_resolving", "copac_primal_dual": "primal_dual_resolving"},
)
routing_rule = ROUTING.register


def fill(index: jax.Array, caps: jax.Array, *, decline: bool = True) -> jax.Array:
    """[M] shares that maximise index·x over 0 <= x <= caps, sum x <= 1; nothing goes to an index <= 0.

    The best model gets its cap, the next one what is left, and so on; ties go to the lower number. With caps of 1 this
    is the argmax, and one turn of the loop. Without ``decline``, for rules that serve every task, models with an index
    <= 0 are used like the others: sum x is the lesser of 1 and the sum of the caps.
    """
    number = jnp.arange(index.shape[0])
    useful = index > (0.0 if decline else -jnp.inf)
    worth = jnp.where(useful & (caps > 0), index, -jnp.inf)

    def wanting(carry: _Filling) -> jax.Array:
        top, _, _, left = carry
        return (left > 0) & (top > -jnp.inf)

    def serve_best(carry: _Filling) -> _Filling:
        top, worth, shares, left = carry
        best = jnp.min(jnp.where(worth == top, number, number.size))
        given = jnp.minimum(pick(best, caps), left)
        worth = put(best, jnp.full_like(top, -jnp.inf), worth)
        return jnp.max(worth), worth, put(best, given, shares), left - given

    start = (jnp.max(worth), worth, jnp.zeros_like(caps), jnp.ones((), caps.dtype))
    return jax.lax.while_loop(wanting, serve_best, start)[2]


def try_each_once(view: RoutingView, shares: jax.Array, caps: jax.Array | None = None) -> jax.Array:
    """[M] ``shares``, unless some model was never tried: then all to the first of those, up to its cap.

    ``caps`` [M] are ``view.affordable_caps`` unless given; models with a cap of 0 are not tried, for the time being.
    """
    caps = view.affordable_caps if caps is None else caps
    number = jnp.arange(caps.shape[0])
    first = jnp.min(jnp.where((view.statistics.count == 0) & (caps > 0), number, number.size))
    return jnp.where(first < number.size, jnp.where(number == first, caps, 0.0), shares)
