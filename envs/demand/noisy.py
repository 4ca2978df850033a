"""Log-normal noise around a profile."""

import jax

from envs.demand.base import Process, State, unit_mean_exp, unit_mean_exp_peak


class Noisy(Process):
    """A known profile times log-normal noise of mean 1: it keeps the mean, and the rate can never be negative."""

    noise: jax.Array

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        profile = self.profile(t, horizon)
        deviate = jax.random.normal(key, dtype=profile.dtype)
        return state, profile * unit_mean_exp(self.noise * deviate, self.noise * self.noise)

    def peak(self) -> float:
        """See ``Process.peak``."""
        return self.profile_peak() * unit_mean_exp_peak(float(self.noise))

    def profile_peak(self) -> float:
        """Host only: the largest value of the profile."""
        raise NotImplementedError
