"""Demand: how many tasks arrive in each round.

A *process* gives the rate of every round, a ``Demand`` draws the tasks around that rate. Both are pytrees whose fields
are numeric leaves, written for ONE run (batching is outside), with a state of constant size. Round numbers are only
ever divided and compared in whole numbers, so that phases are as exact in the last of 2^31 - 2 rounds as in the first.

The expected average of a process's rate over a run is ``mean`` tasks a round: exactly for ``constant``,
``trend``, ``shocks``, ``walk``, ``mmpp`` and ``trace``; for ``sinusoid`` over whole periods and for ``diurnal`` over
whole weeks (seven periods), so a run that ends inside one is off by at most that part's share. ``normal`` and
``autoregressive`` say what their mean is. ``expected_total`` gives the exact figure for any process and horizon.

A new process is a class and a decorator, inside this package or outside it::

    @demand_process("surge")
    class Surge(Process):
        mean: jax.Array | float = number(20.0, low=0.0, above=True)  # tasks a round
        height: jax.Array | float = number(3.0, low=1.0)

        def profile(self, t, horizon):
            ...
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from envs import parameters
from envs.parameters import span
from envs.registry import Registry

State = Any
"""What a process remembers between rounds: a pytree of constant size, ``()`` where there is nothing to remember."""


NEGLIGIBLE = 30.0
"""A chance of exp(-30) a round, about 1e-13, counts as never: default caps are passed that often."""


# The ranges of parameters.
POSITIVE = span(low=0.0, above=True)


NOT_NEGATIVE = span(low=0.0)


FRACTION = span(low=0.0, high=1.0)


POSITIVE_FRACTION = span(low=0.0, high=1.0, above=True)


SIGNED_FRACTION = span(low=-1.0, high=1.0)


AT_LEAST_ONE = span(low=1.0)


# Shared mathematics.
def unit_mean_exp(exponent: jax.Array, variance: jax.Array) -> jax.Array:
    """exp of a centred Gaussian, scaled to mean 1: E exp(x - v/2) = 1 for x ~ N(0, v)."""
    return jnp.exp(exponent - variance / 2)


def mean_above_zero(mean: jax.Array, deviation: jax.Array) -> jax.Array:
    """[] E max(X, 0) for X ~ N(mean, deviation^2): mean Phi(mean / deviation) + deviation phi(mean / deviation)."""
    ratio = mean / jnp.where(deviation > 0, deviation, 1)
    below = jnp.exp(-ratio * ratio / 2) * deviation / math.sqrt(2 * math.pi)
    return jnp.where(deviation > 0, mean * jax.lax.erfc(-ratio / math.sqrt(2)) / 2 + below, jnp.maximum(mean, 0))


def normal_peak(deviation: float) -> float:
    """What a centred normal variate passes with a chance of at most exp(-NEGLIGIBLE)."""
    return deviation * math.sqrt(2 * NEGLIGIBLE)


def unit_mean_exp_peak(deviation: float) -> float:
    """The value that ``unit_mean_exp`` passes with a chance of at most exp(-NEGLIGIBLE)."""
    return math.exp(normal_peak(deviation) - deviation**2 / 2)


# Processes.
class Process:
    """What every process offers. As it stands: no state, and the rate is what the planner expects."""

    mean: jax.Array

    def init(self, key: jax.Array) -> State:
        """The state before round 0, drawn from the stationary law where there is one."""
        return ()

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """The expected rate of a round, which a planner would know.

        Args:
            t: [] int32, rounds completed so far.
            horizon: [] int32, rounds of the run.

        Returns:
            [] tasks a round.
        """
        return jnp.asarray(self.mean, jnp.result_type(self.mean, float))

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """The state after round t, and the round's realised rate [] in tasks a round, at least 0."""
        return state, self.profile(t, horizon)

    def peak(self) -> float:
        """Host only, fields as floats: a rate that is passed with a chance of at most exp(-NEGLIGIBLE) a round."""
        return float(self.mean)

    def average(self) -> float:
        """Host only, fields as floats: the expected rate in the long run."""
        return float(self.mean)

    def check(self) -> None:
        """Host only, fields as floats: raises InputError where parameters contradict each other."""

    def prepared(self) -> "Process":
        """Host only, fields as floats: the process with its fields as the program needs them."""
        return self

    @classmethod
    def keys(cls) -> list[str]:
        """The parameters that a config gives."""
        return parameters.names(cls)

    @classmethod
    def resolve(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Every parameter as a checked plain value, given or default."""
        return parameters.resolve(cls, given, "demand")

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any]) -> "Process":
        """The process with host numbers, as ``resolve`` gives them, as its fields."""
        process = cls(**values)
        process.check()
        return process


OPTIONS: dict[str, Any] = {"counts": "poisson", "dispersion": 0.0, "maximum": None}
"""The keys that every process shares, with their defaults."""


PROCESSES: Registry = Registry("demand process", Process, keys=("process", *OPTIONS))
"""Every demand process under the name that configs use."""


demand_process = PROCESSES.register
