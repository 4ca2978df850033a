"""Independent normal rates, cut at 0."""

import math
from dataclasses import field

import jax
import jax.numpy as jnp

from envs.demand.base import NOT_NEGATIVE, POSITIVE, Process, State, demand_process, mean_above_zero, normal_peak


@demand_process("normal")
class Normal(Process):
    """Independent rounds max(X, 0), X ~ N(mean, variance), as in COPAC's experiments (arXiv 2606.17489).

    Cutting at 0 raises the expected rate above ``mean``; ``profile`` is that exact value.
    """

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round, before the cut at 0
    variance: jax.Array = field(metadata=NOT_NEGATIVE)  # [] of a round's tasks, before the cut at 0

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        return mean_above_zero(jnp.asarray(self.mean, jnp.result_type(self.mean, float)), jnp.sqrt(self.variance))

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        deviate = jax.random.normal(key, dtype=jnp.result_type(self.mean, float))
        return state, jnp.maximum(self.mean + jnp.sqrt(self.variance) * deviate, 0)

    def peak(self) -> float:
        """See ``Process.peak``."""
        return float(self.mean) + normal_peak(math.sqrt(self.variance))

    def average(self) -> float:
        """See ``Process.average``."""
        return float(self.profile(jnp.int32(0), jnp.int32(1)))
