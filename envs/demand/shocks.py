"""Sudden surges that die away."""

import math
from dataclasses import field

import jax
import jax.numpy as jnp

from envs.demand.base import FRACTION, POSITIVE, Process, State, demand_process
from envs.errors import InputError


@demand_process("shocks")
class Shocks(Process):
    """A level that jumps at random times and stays until the next jump.

    Each level is log-uniform on [low, high], divided by the mean of that law, so a level's multiple of ``mean`` lies in
    [low, high] / E. The first level is a draw from the same law, so the process is stationary.
    """

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round
    probability: jax.Array = field(metadata=FRACTION)  # [] chance a round that the level is drawn anew
    low: jax.Array = field(metadata=POSITIVE)  # [] smallest level before scaling to the mean
    high: jax.Array = field(metadata=POSITIVE)  # [] largest level before scaling to the mean

    def init(self, key: jax.Array) -> State:
        """The first level [], as a multiple of ``mean``."""
        dtype = jnp.result_type(self.mean, float)
        spread = jnp.log(self.high / self.low)
        # E = low expm1(spread) / spread, which is low where the two levels meet.
        safe = jnp.where(spread > 0, spread, 1)
        average = self.low * jnp.where(spread > 0, jnp.expm1(safe) / safe, 1)
        return self.low * jnp.exp(spread * jax.random.uniform(key, dtype=dtype)) / average

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        key_shock, key_level = jax.random.split(key)
        shock = jax.random.bernoulli(key_shock, self.probability)
        return jnp.where(shock, self.init(key_level), state), self.mean * state

    def peak(self) -> float:
        """See ``Process.peak``."""
        spread = math.log(self.high / self.low)
        average = self.low * math.expm1(spread) / spread if spread > 0 else self.low
        return float(self.mean * self.high / average)

    def check(self) -> None:
        """See ``Process.check``."""
        if self.low > self.high:
            raise InputError(f"demand.low is {self.low:g}, but it must be at most demand.high, which is {self.high:g}.")
