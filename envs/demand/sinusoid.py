"""A sine wave."""

from dataclasses import field, replace

import jax
import jax.numpy as jnp

from envs.demand.base import FRACTION, NOT_NEGATIVE, POSITIVE, Process, demand_process
from envs.demand.noisy import Noisy
from envs.demand.turns import sine, turn, turns_per_round


@demand_process("sinusoid")
class Sinusoid(Noisy):
    """mean (1 + amplitude sin(2 pi (t / period + phase))), times noise."""

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round
    amplitude: jax.Array = field(metadata=FRACTION)  # [] swing as a fraction of the mean
    period: jax.Array = field(metadata=POSITIVE)  # rounds; [6] ``turns_per_round`` once prepared
    phase: jax.Array = field(metadata=FRACTION)  # [] head start, as a fraction of the period
    noise: jax.Array = field(metadata=NOT_NEGATIVE)  # [] standard deviation of the log rate

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        return self.mean * (1 + self.amplitude * sine(turn(t, self.period), self.phase))

    def profile_peak(self) -> float:
        """See ``Noisy.profile_peak``."""
        return float(self.mean * (1 + self.amplitude))

    def prepared(self) -> Process:
        """See ``Process.prepared``."""
        return replace(self, period=jnp.asarray(turns_per_round(float(self.period))))  # type: ignore[type-var]
