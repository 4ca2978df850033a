"""Holt's linear trend, damped."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Now, Number, forecaster, nominal_demand
from envs.parameters import number
from envs.types import Problem

_SERIES_TERMS = 10  # of the damped trend's sum; with the argument below 1 the next term is under 1e-9


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrendState:
    """A smoothed level and its slope."""

    level: jax.Array  # [] tasks per round; nominal until the first demand replaces it
    trend: jax.Array  # [] tasks per round, per round
    seen: jax.Array  # [] bool, whether any demand has been seen


@forecaster("holt")
class Holt(Forecaster):
    """Holt's damped linear trend (Gardner and McKenzie, 1985; FPP 8.2), started flat at the first demand.

    h rounds ahead it expects level + trend (φ + φ² + ... + φ^h), φ the damping. The total over the rounds left is
    clipped at zero as a whole, not round by round.
    """

    smoothing: Number = number(0.3, low=0.0, high=1.0)
    trend_smoothing: Number = number(0.05, low=0.0, high=1.0)
    damping: Number = number(0.98, low=0.0, high=1.0)

    def init(self, problem: Problem) -> Any:
        """The nominal level, no trend."""
        nominal = nominal_demand(problem)
        return TrendState(level=nominal, trend=jnp.zeros_like(nominal), seen=jnp.zeros((), bool))

    def outlook(self, state: Any, now: Now) -> Forecast:
        """The damped line, summed in closed form."""
        rounds_left = now.rounds_left.astype(now.nominal.dtype)
        rise = damped_trend_sum(jnp.asarray(self.damping, now.nominal.dtype), rounds_left)
        return Forecast(
            next=state.level + self.damping * state.trend,
            remaining=state.level * rounds_left + state.trend * rise,
        )

    def learn(self, state: Any, demand: jax.Array, profile: jax.Array) -> Any:
        """The error-correction form, in which a constant demand gives no error and so, exactly, no trend."""
        damped = self.damping * state.trend
        correction = self.smoothing * (demand - state.level - damped)
        return TrendState(
            level=jnp.where(state.seen, state.level + damped + correction, demand),
            trend=jnp.where(state.seen, damped + self.trend_smoothing * correction, 0.0),
            seen=jnp.ones_like(state.seen),
        )


def damped_trend_sum(damping: jax.Array, rounds: jax.Array) -> jax.Array:
    """Σ_{h=1..H} (φ + ... + φ^h) [] for φ = ``damping`` in [0, 1] and H = ``rounds`` >= 0 as a float.

    With x = 1 - φ this is φ/x (H - φ (1 - φ^H)/x), whose differences cancel as x nears 0. Where H x < 1 the binomial
    series φ [C(H+1, 2) - C(H+1, 3) x + C(H+1, 4) x² - ...] is used instead: exact at φ = 1 and for small H.
    """
    complement = 1.0 - damping
    series = jnp.ones_like(rounds)
    for term in reversed(range(1, _SERIES_TERMS + 1)):
        series = 1.0 - complement * (rounds - term) / (term + 2) * series
    near_one = damping * rounds * (rounds + 1.0) / 2.0 * series
    divisor = jnp.where(complement > 0, complement, 1.0)
    elsewhere = damping / divisor * (rounds - damping * (1.0 - damping**rounds) / divisor)
    return jnp.where(rounds * complement < 1.0, near_one, elsewhere)
