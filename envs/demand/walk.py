"""A random walk of the rate."""

import math
from dataclasses import field

import jax
import jax.numpy as jnp

from envs.demand.base import (
    NOT_NEGATIVE,
    POSITIVE,
    POSITIVE_FRACTION,
    Process,
    State,
    demand_process,
    unit_mean_exp,
    unit_mean_exp_peak,
)


@demand_process("walk")
class Walk(Process):
    """A log rate that wanders and is drawn back: x' = (1 - reversion) x + step_size z, rate = mean exp(x - var / 2).

    It starts from the stationary law N(0, var), var = step_size^2 / (1 - (1 - reversion)^2), so the mean is exact.
    """

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round
    step_size: jax.Array = field(metadata=NOT_NEGATIVE)  # [] standard deviation of a round's change of the log rate
    reversion: jax.Array = field(metadata=POSITIVE_FRACTION)  # [] share of the distance from normal lost each round

    def _variance(self) -> jax.Array:
        """[] stationary variance of the log rate."""
        # 1 - (1 - r)^2 = r (2 - r) without the cancellation at a small r.
        return self.step_size * self.step_size / (self.reversion * (2 - self.reversion))

    def init(self, key: jax.Array) -> State:
        """The first log rate [], before scaling."""
        return jnp.sqrt(self._variance()) * jax.random.normal(key, dtype=jnp.result_type(self.mean, float))

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        change = self.step_size * jax.random.normal(key, dtype=state.dtype)
        return (1 - self.reversion) * state + change, self.mean * unit_mean_exp(state, self._variance())

    def peak(self) -> float:
        """See ``Process.peak``."""
        return float(self.mean) * unit_mean_exp_peak(math.sqrt(self._variance()))
