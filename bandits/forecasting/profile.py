"""The world's own demand profile, scaled to what was seen."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Now, Number, forecaster, nominal_demand
from bandits.sums import CompensatedSum
from envs.parameters import number
from envs.types import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class ProfileState:
    """What came, and what a planner had expected to come."""

    demand: CompensatedSum
    profile: CompensatedSum


@forecaster("profile")
class Profile(Forecaster):
    """A planner's known profile, scaled by demand so far over profile so far (a ratio estimator).

    The scale starts at 1, worth ``prior_rounds`` nominal rounds of data. The profile still to come is
    ``expected_demand`` less the profile so far: the profile must sum to it over the horizon.
    """

    prior_rounds: Number = number(1.0, low=0.0)

    def init(self, problem: Problem) -> ProfileState:
        """Nothing seen."""
        empty = CompensatedSum.zero(nominal_demand(problem))
        return ProfileState(demand=empty, profile=empty)

    def outlook(self, state: ProfileState, now: Now) -> Forecast:
        """The scaled profile; the floor at this round's own repairs the rounding of the total at the end."""
        prior = self.prior_rounds * now.nominal
        expected = state.profile.total + prior
        known = expected > 0
        scale = jnp.where(known, (state.demand.total + prior) / jnp.where(known, expected, 1.0), 1.0)
        to_come = jnp.maximum(state.profile.short_of(now.expected_demand), now.profile)
        return Forecast(next=scale * now.profile, remaining=scale * to_come)

    def learn(self, state: ProfileState, demand: jax.Array, profile: jax.Array) -> ProfileState:
        """One more round."""
        return ProfileState(demand=state.demand.add(demand), profile=state.profile.add(profile))
