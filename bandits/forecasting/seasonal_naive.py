"""The demand of one period ago."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Now, Number, forecaster
from bandits.forecasting.seasons import Season, check_period, traced_period
from envs.parameters import number
from envs.types import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SeasonalNaiveState:
    """The latest season."""

    season: Season
    rounds: jax.Array  # [] int32, rounds seen; no longer counted once a season is full


@forecaster("seasonal_naive")
class SeasonalNaive(Forecaster):
    """Every round left will be like the same round of the latest season (FPP 5.2).

    In the first season, the rounds not yet seen are expected to be like the mean of those that were. O(1) work a round;
    memory is ``season_capacity``, of which ``period`` is used.
    """

    period: Number = number(144, low=1, high=2**20, whole=True)
    season_capacity: int = number(144, low=1, high=2**20, whole=True, static=True)

    def check(self) -> None:
        """The season must fit."""
        check_period(self.period, self.season_capacity)

    def init(self, problem: Problem) -> SeasonalNaiveState:
        """Nothing seen."""
        period = traced_period(self.period, self.season_capacity)
        season = Season.start(self.season_capacity, period, problem)
        return SeasonalNaiveState(season=season, rounds=jnp.zeros((), jnp.int32))

    def outlook(self, state: SeasonalNaiveState, now: Now) -> Forecast:
        """The season's values, and the mean in the places still empty."""
        period = traced_period(self.period, self.season_capacity)
        mean = jnp.where(state.rounds > 0, state.season.total.total / jnp.maximum(state.rounds, 1), now.nominal)
        unseen = period - state.rounds
        unseen_ahead = (now.rounds_left // period) * unseen + jnp.minimum(state.season.piece_rounds, unseen)
        return Forecast(
            next=jnp.where(unseen > 0, mean, state.season.current),
            remaining=state.season.sum(now.rounds_left, period) + mean * unseen_ahead,
        )

    def learn(self, state: SeasonalNaiveState, demand: jax.Array, profile: jax.Array) -> SeasonalNaiveState:
        """Replace the oldest round by the newest."""
        period = traced_period(self.period, self.season_capacity)
        return SeasonalNaiveState(
            season=state.season.replace(demand, period), rounds=jnp.minimum(state.rounds + 1, period)
        )
