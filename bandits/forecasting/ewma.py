"""Exponentially weighted moving average."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Now, Number, forecaster, nominal_demand, steady, toward
from envs.parameters import number
from envs.types import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LevelState:
    """A smoothed level."""

    level: jax.Array  # [] tasks per round; nominal until the first demand replaces it
    seen: jax.Array  # [] bool, whether any demand has been seen


@forecaster("ewma")
class Ewma(Forecaster):
    """Exponentially weighted moving average (simple exponential smoothing, FPP 8.1), started at the first demand."""

    smoothing: Number = number(0.3, low=0.0, high=1.0)

    def init(self, problem: Problem) -> LevelState:
        """The nominal level."""
        return LevelState(level=nominal_demand(problem), seen=jnp.zeros((), bool))

    def outlook(self, state: LevelState, now: Now) -> Forecast:
        """A flat line."""
        return steady(state.level, now)

    def learn(self, state: LevelState, demand: jax.Array, profile: jax.Array) -> LevelState:
        """Move the level toward the demand."""
        level = jnp.where(state.seen, toward(state.level, demand, self.smoothing), demand)
        return LevelState(level=level, seen=jnp.ones_like(state.seen))
