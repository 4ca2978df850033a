"""The last round's demand, for ever."""

import jax

from bandits.forecasting.base import Forecast, Forecaster, Now, forecaster, nominal_demand, steady
from envs.types import Problem


@forecaster("last_value")
class LastValue(Forecaster):
    """Every round left will be like the last one (the naive method, FPP 5.2)."""

    def init(self, problem: Problem) -> jax.Array:
        """[] the last demand; nominal before there is one."""
        return nominal_demand(problem)

    def outlook(self, state: jax.Array, now: Now) -> Forecast:
        """A flat line."""
        return steady(state, now)

    def learn(self, state: jax.Array, demand: jax.Array, profile: jax.Array) -> jax.Array:
        """Only the newest counts."""
        return demand
