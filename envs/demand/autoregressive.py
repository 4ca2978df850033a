"""A first-order autoregression."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

import jax
import jax.numpy as jnp

from envs.demand.base import (
    NOT_NEGATIVE,
    POSITIVE,
    SIGNED_FRACTION,
    Process,
    State,
    demand_process,
    mean_above_zero,
    normal_peak,
)
from envs.errors import InputError


@demand_process("autoregressive")
class AutoregressiveDemand(Process):
    """x_t = constant + coefficient x_{t-1} + noise z_t, cut at 0 where it becomes demand: q_t = max(x_t, 0).

    The recursion goes on with the uncut value. So every x_t is normal, and ``profile`` is the exact expected rate of
    each round; where cuts are rare, as at the default numbers (one round in 10^11), q_t follows the recursion itself.
    Without a ``start`` the first value is drawn from the stationary law N(constant / (1 - coefficient), noise^2 /
    (1 - coefficient^2)); else x_0 is ``start``.
    """

    constant: jax.Array = field(metadata=POSITIVE)  # [] tasks
    coefficient: jax.Array = field(metadata=SIGNED_FRACTION)  # [] share of the last round's value; not 1 or -1
    noise: jax.Array = field(metadata=NOT_NEGATIVE)  # [] standard deviation of a round's noise, tasks
    start: jax.Array = field(metadata=NOT_NEGATIVE)  # [] x_0; below 0: drawn from the stationary law

    def _level(self) -> jax.Array:
        """[] stationary mean of x."""
        return self.constant / (1 - self.coefficient)

    def _deviation(self) -> jax.Array:
        """[] stationary standard deviation of x."""
        return self.noise / jnp.sqrt((1 - self.coefficient) * (1 + self.coefficient))

    def init(self, key: jax.Array) -> State:
        """x_0 []."""
        drawn = self._level() + self._deviation() * jax.random.normal(key, dtype=jnp.result_type(self.constant, float))
        return jnp.where(self.start < 0, drawn, self.start)

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        t = jnp.asarray(t)
        # coefficient^t with the sign from the whole number: a float loses whether t is odd after 2^24 rounds.
        kept = jnp.abs(self.coefficient) ** t * jnp.where((self.coefficient < 0) & (t % 2 == 1), -1.0, 1.0)
        given = self.start >= 0
        kept = jnp.where(given, kept, 0.0)
        distance = jnp.where(given, self.start, self._level()) - self._level()
        deviation = self._deviation() * jnp.sqrt((1 - kept) * (1 + kept))
        return mean_above_zero(self._level() + kept * distance, deviation)

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        following = self.constant + self.coefficient * state + self.noise * jax.random.normal(key, dtype=state.dtype)
        return following, jnp.maximum(state, 0)

    def peak(self) -> float:
        """See ``Process.peak``."""
        level, start = float(self._level()), float(self.start)
        if start >= 0:
            swing = abs(level - start) if float(self.coefficient) < 0 else 0.0
            level = max(start, level + swing)
        return level + normal_peak(float(self._deviation()))

    def average(self) -> float:
        """See ``Process.average``."""
        return float(mean_above_zero(jnp.asarray(self._level(), float), self._deviation()))

    def check(self) -> None:
        """See ``Process.check``."""
        if abs(self.coefficient) == 1:
            raise InputError(
                f"demand.coefficient is {self.coefficient:g}, but it must lie between -1 and 1 and be neither: demand "
                "would have no mean."
            )

    @classmethod
    def resolve(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Process.resolve``; ``start`` may be None."""
        start = given.get("start")
        found = super().resolve({**given, "start": 0.0 if start is None else start})
        return found | {"start": None if start is None else found["start"]}

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any]) -> "Process":
        """See ``Process.from_parameters``."""
        return super().from_parameters({**values, "start": -1.0 if values["start"] is None else values["start"]})
