"""Days and weeks."""

from dataclasses import field, replace

import jax
import jax.numpy as jnp

from envs.demand.base import FRACTION, NOT_NEGATIVE, POSITIVE, Process, demand_process
from envs.demand.noisy import Noisy
from envs.demand.turns import at_least, sine, times, turn, turns_per_round
from envs.errors import InputError


@demand_process("diurnal")
class Diurnal(Noisy):
    """A daily and a half-daily wave, lower on the last two days of each seven, times noise.

    Harmonics 1 and 2 of the day carry most of the daily pattern of real request rates (ServeGen, arXiv 2505.09999).
    """

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round
    period: jax.Array = field(metadata=POSITIVE)  # rounds in a day; [6] ``turns_per_round`` of a week once prepared
    amplitude: jax.Array = field(metadata=FRACTION)  # [] daily swing as a fraction of the mean
    phase: jax.Array = field(metadata=FRACTION)  # [] head start of the daily wave, in days
    amplitude_second: jax.Array = field(metadata=FRACTION)  # [] half-daily swing as a fraction of the mean
    phase_second: jax.Array = field(metadata=FRACTION)  # [] head start of the half-daily wave, in half days
    weekend: jax.Array = field(metadata=NOT_NEGATIVE)  # [] rate of days 6 and 7 as a multiple of the other days'
    noise: jax.Array = field(metadata=NOT_NEGATIVE)  # [] standard deviation of the log rate

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        week = turn(t, self.period)
        daily = self.amplitude * sine(times(week, 7), self.phase)
        half_daily = self.amplitude_second * sine(times(week, 14), self.phase_second)
        resting = at_least(week, (5 << 64) // 7)
        wave = jnp.maximum(1 + daily + half_daily, 0)  # amplitudes that add up to 1 may round to just below 0
        return self.mean * wave * jnp.where(resting, self.weekend, 1) * self._weekday()

    def _weekday(self) -> jax.Array:
        """[] the factor of a working day that makes the week's average 1."""
        return 7 / (5 + 2 * self.weekend)

    def profile_peak(self) -> float:
        """See ``Noisy.profile_peak``."""
        busiest_day = self._weekday() * max(1.0, float(self.weekend))
        return float(self.mean * (1 + self.amplitude + self.amplitude_second) * busiest_day)

    def prepared(self) -> Process:
        """See ``Process.prepared``."""
        return replace(self, period=jnp.asarray(turns_per_round(float(self.period), 7)))  # type: ignore[type-var]

    def check(self) -> None:
        """See ``Process.check``."""
        total = float(self.amplitude + self.amplitude_second)
        if total > 1:
            raise InputError(
                f"demand.amplitude and demand.amplitude_second add up to {total:g}, but at most 1 keeps the rate from"
                " falling below zero."
            )
