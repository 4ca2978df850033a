"""The mean demand of all rounds so far."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Now, forecaster, nominal_demand, steady
from bandits.sums import CompensatedSum
from envs.types import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MeanState:
    """All demand so far."""

    demand: CompensatedSum
    rounds: jax.Array  # [] int32


@forecaster("running_mean")
class RunningMean(Forecaster):
    """Every round left will be like the average so far (the mean method, FPP 5.2)."""

    def init(self, problem: Problem) -> MeanState:
        """Nothing seen."""
        return MeanState(demand=CompensatedSum.zero(nominal_demand(problem)), rounds=jnp.zeros((), jnp.int32))

    def outlook(self, state: MeanState, now: Now) -> Forecast:
        """A flat line; the total over the count, since averaging step by step stalls in float32."""
        return steady(self.average(state, now), now)

    def average(self, state: MeanState, now: Now) -> jax.Array:
        """[] the mean so far; nominal before there is one."""
        mean = state.demand.total / jnp.maximum(state.rounds, 1)
        return jnp.where(state.rounds > 0, mean, now.nominal)

    def learn(self, state: MeanState, demand: jax.Array, profile: jax.Array) -> MeanState:
        """One more round."""
        return MeanState(demand=state.demand.add(demand), rounds=state.rounds + 1)
