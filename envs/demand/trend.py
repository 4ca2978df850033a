"""A straight line."""

from dataclasses import field

import jax
import jax.numpy as jnp

from envs.demand.base import NOT_NEGATIVE, POSITIVE, SIGNED_FRACTION, demand_process
from envs.demand.noisy import Noisy


@demand_process("trend")
class Trend(Noisy):
    """A straight line from mean (1 - slope) at the start to mean (1 + slope) at the end, times noise."""

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round
    slope: jax.Array = field(metadata=SIGNED_FRACTION)  # [] rise from the middle to the end, as a fraction of the mean
    noise: jax.Array = field(metadata=NOT_NEGATIVE)  # [] standard deviation of the log rate

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        # The middle of round t, from -1 to 1: these whole numbers add up to 0 over the run, so the mean is exact.
        # As a difference of two round numbers they fit into 32 bits.
        position = (t - (horizon - 1 - t)) / jnp.asarray(horizon, jnp.result_type(self.mean, float))
        return self.mean * (1 + self.slope * position)

    def profile_peak(self) -> float:
        """See ``Noisy.profile_peak``."""
        return float(self.mean * (1 + abs(self.slope)))
