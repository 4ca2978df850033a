"""Holt-Winters: trend and seasons."""

from dataclasses import dataclass

import jax

from bandits.forecasting.base import Forecast, Now, Number, forecaster, toward
from bandits.forecasting.holt import Holt, TrendState
from bandits.forecasting.seasons import Season, check_period, traced_period
from envs.parameters import number
from envs.types import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class HoltWintersState:
    """A trend line through the deseasonalised demand, and the season around it."""

    line: TrendState
    season: Season


@forecaster("holt_winters")
class HoltWinters(Holt):
    """Additive Holt-Winters (Winters, 1960; FPP 8.3) with a damped trend, off by default.

    The season starts at zero and its place p learns γ (q - level) + (1 - γ) s_p, with the level just updated. O(1) work
    a round, sums over the rounds left included; memory is ``season_capacity``, of which ``period`` is used.
    """

    trend_smoothing: Number = number(0.0, low=0.0, high=1.0)
    season_smoothing: Number = number(0.25, low=0.0, high=1.0)
    period: Number = number(144, low=1, high=2**20, whole=True)
    season_capacity: int = number(144, low=1, high=2**20, whole=True, static=True)

    def check(self) -> None:
        """The season must fit."""
        check_period(self.period, self.season_capacity)

    def init(self, problem: Problem) -> HoltWintersState:
        """The nominal level, no trend, no season."""
        period = traced_period(self.period, self.season_capacity)
        season = Season.start(self.season_capacity, period, problem)
        return HoltWintersState(line=super().init(problem), season=season)

    def outlook(self, state: HoltWintersState, now: Now) -> Forecast:
        """Line plus season."""
        line = super().outlook(state.line, now)
        seasonal = state.season.sum(now.rounds_left, traced_period(self.period, self.season_capacity))
        return Forecast(next=line.next + state.season.current, remaining=line.remaining + seasonal)

    def learn(self, state: HoltWintersState, demand: jax.Array, profile: jax.Array) -> HoltWintersState:
        """The line learns from demand less season, then the season from demand less level."""
        season = state.season.current
        line = super().learn(state.line, demand - season, profile)
        value = toward(season, demand - line.level, self.season_smoothing)
        period = traced_period(self.period, self.season_capacity)
        return HoltWintersState(line=line, season=state.season.replace(value, period))
