"""A Markov-modulated rate: quiet and busy phases."""

from dataclasses import field

import jax
import jax.numpy as jnp

from envs.demand.base import AT_LEAST_ONE, FRACTION, POSITIVE, Process, State, demand_process
from envs.errors import InputError


@demand_process("mmpp")
class MarkovModulated(Process):
    """Two states, quiet and busy, with a constant rate in each; under Poisson counts an MMPP in discrete time.

    It starts from the stationary law, busy with probability rise / (rise + fall), which makes the mean exact.
    """

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round
    ratio: jax.Array = field(metadata=AT_LEAST_ONE)  # [] busy rate as a multiple of the quiet rate
    rise: jax.Array = field(metadata=FRACTION)  # [] chance a round that quiet turns busy
    fall: jax.Array = field(metadata=FRACTION)  # [] chance a round that busy turns quiet

    def _busy_share(self) -> jax.Array:
        """[] stationary probability of the busy state."""
        return self.rise / (self.rise + self.fall)

    def _quiet_rate(self) -> jax.Array:
        """[] tasks a round while quiet."""
        return self.mean / (1 + (self.ratio - 1) * self._busy_share())

    def init(self, key: jax.Array) -> State:
        """Whether the run starts busy, [] bool."""
        return jax.random.bernoulli(key, self._busy_share())

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        switches = jax.random.bernoulli(key, jnp.where(state, self.fall, self.rise))
        return state ^ switches, self._quiet_rate() * jnp.where(state, self.ratio, 1)

    def peak(self) -> float:
        """See ``Process.peak``."""
        return float(self._quiet_rate() * self.ratio)

    def check(self) -> None:
        """See ``Process.check``."""
        if self.rise + self.fall == 0:
            raise InputError("demand.rise and demand.fall are both 0, but one must be above 0 for a mean to exist.")
