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
from dataclasses import MISSING, dataclass, field, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import csv_table, files, parameters
from envs.errors import InputError, nearest
from envs.parameters import span
from envs.registry import Registry

State = Any
"""What a process remembers between rounds: a pytree of constant size, ``()`` where there is nothing to remember."""

COUNTS = ("none", "poisson", "negative_binomial")
NEGLIGIBLE = 30.0
"""A chance of exp(-30) a round, about 1e-13, counts as never: default caps are passed that often."""
LARGEST_COUNT = 2.0**24
"""Above this float32 no longer holds every whole number, so no round has more counted tasks."""


# The ranges of parameters.
POSITIVE = span(low=0.0, above=True)
NOT_NEGATIVE = span(low=0.0)
FRACTION = span(low=0.0, high=1.0)
POSITIVE_FRACTION = span(low=0.0, high=1.0, above=True)
SIGNED_FRACTION = span(low=-1.0, high=1.0)
AT_LEAST_ONE = span(low=1.0)


# Shared mathematics.
def _unit_mean_exp(exponent: jax.Array, variance: jax.Array) -> jax.Array:
    """exp of a centred Gaussian, scaled to mean 1: E exp(x - v/2) = 1 for x ~ N(0, v)."""
    return jnp.exp(exponent - variance / 2)


def _mean_above_zero(mean: jax.Array, deviation: jax.Array) -> jax.Array:
    """[] E max(X, 0) for X ~ N(mean, deviation^2): mean Phi(mean / deviation) + deviation phi(mean / deviation)."""
    ratio = mean / jnp.where(deviation > 0, deviation, 1)
    below = jnp.exp(-ratio * ratio / 2) * deviation / math.sqrt(2 * math.pi)
    return jnp.where(deviation > 0, mean * jax.lax.erfc(-ratio / math.sqrt(2)) / 2 + below, jnp.maximum(mean, 0))


def _normal_peak(deviation: float) -> float:
    """What a centred normal variate passes with a chance of at most exp(-NEGLIGIBLE)."""
    return deviation * math.sqrt(2 * NEGLIGIBLE)


def _unit_mean_exp_peak(deviation: float) -> float:
    """The value that ``_unit_mean_exp`` passes with a chance of at most exp(-NEGLIGIBLE)."""
    return math.exp(_normal_peak(deviation) - deviation**2 / 2)


def turns_per_round(rounds: float, periods: int = 1) -> np.ndarray:
    """[6] 1 / (``periods`` ``rounds``) modulo 1, rounded up to 2^-96: its digits of 16 bits, which any float holds.

    ``rounds`` is taken for the decimal number that it prints as. Rounding up puts a round at which a period begins at
    its beginning, never at the end of the one before.

    >>> turns_per_round(4.0).tolist()
    [16384.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    """
    units = math.ceil((1 << 96) / (periods * Fraction(repr(float(rounds)))))
    return np.array([float(units >> shift & 0xFFFF) for shift in range(80, -1, -16)])


Turn = tuple[jax.Array, jax.Array]
"""Where a round lies within its period, in units of 2^-64 of the period: two limbs [] uint32, the high one first."""


def _turn(t: jax.Array, frequency: jax.Array) -> Turn:
    """t ``frequency`` modulo 1 for a frequency [6] as ``turns_per_round`` gives it.

    In whole numbers, so that the result is within 2^-64 of a period of the true place whatever the period, where
    float32 would lose the phase after 2^24 rounds.
    """
    t, digits = jnp.asarray(t).astype(jnp.uint32), frequency.astype(jnp.uint32)
    high, middle, low = (digits[place] << 16 | digits[place + 1] for place in (0, 2, 4))
    carried = _high_product(t, low)
    below = t * middle + carried
    return t * high + _high_product(t, middle) + (below < carried), below


def _times(turn: Turn, number: int) -> Turn:
    """``turn`` times a small whole number, modulo 1."""
    high, low = turn
    factor = jnp.uint32(number)
    return high * factor + _high_product(low, factor), low * factor


def _at_least(turn: Turn, bound: int) -> jax.Array:
    """[] bool, whether ``turn`` is at least ``bound`` 2^-64 of a period."""
    high, low = jnp.uint32(bound >> 32), jnp.uint32(bound & 0xFFFFFFFF)
    return (turn[0] > high) | ((turn[0] == high) & (turn[1] >= low))


def _high_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The upper 32 bits of the product of two uint32 numbers, from products of their halves."""
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    crossed, other = a_high * b_low, a_low * b_high
    middle = (a_low * b_low >> 16) + (crossed & 0xFFFF) + (other & 0xFFFF)
    return a_high * b_high + (crossed >> 16) + (other >> 16) + (middle >> 16)


def _wave(turn: Turn, phase: jax.Array) -> jax.Array:
    """sin(2 pi (turn + phase)) [], ``phase`` as a fraction of the period."""
    # Signed, in [-1/2, 1/2): a float holds numbers near 0 most finely.
    high, low = (limb.astype(jnp.result_type(phase, float)) for limb in (turn[0].astype(jnp.int32), turn[1]))
    return jnp.sin(2 * jnp.pi * (high * 2.0**-32 + low * 2.0**-64 + phase))


Search = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array]
"""Of a search outwards from the mode: distance so far, mass left, chances above and below, and the count if found."""


def poisson(key: jax.Array, rate: jax.Array) -> jax.Array:
    """One Poisson count by inverse transform, in the dtype of ``rate``.

    Probabilities are subtracted from one uniform number outwards from the mode (mode, mode + 1, mode - 1, ...), each
    got from its neighbour by p(k + 1) = p(k) rate / (k + 1): the search from the mode of C. D. Kemp and A. W. Kemp,
    "Poisson random variate generation", Applied Statistics 40 (1991). The law is exact within rounding: in float32 the
    uniform number has steps of 1.2e-7, so means below 1e-3 and tails beyond 1e-7 are resolved no finer than that.

    ``jax.random.poisson`` is a rejection sampler: its loop draws new keys until the unluckiest run accepts. For 192
    runs at mean 20 on two CPU cores it takes 116 us a round and this search 18 us, 9 of which are the uniform number.
    The search takes some sqrt(rate) steps and stays ahead up to a mean of several thousand.

    Args:
        key: a key for this draw alone.
        rate: [] mean of the count, at least 0; above LARGEST_COUNT it is taken as that.

    Returns:
        [] a whole number, at least 0; NaN where ``rate`` is NaN.
    """
    rate = jnp.minimum(rate, LARGEST_COUNT)
    remaining = jax.random.uniform(key, dtype=rate.dtype)
    mode, chance = _poisson_start(rate)
    divisor = jnp.maximum(rate, 1e-30)  # at rate 0 every chance above and below the mode is 0, not 0 / 0
    tiny = float(np.finfo(rate.dtype).eps) / 256

    def unfinished(carry: Search) -> jax.Array:
        _, remaining, above, below, _ = carry
        return (remaining >= 0) & (above + below > tiny)

    def search(carry: Search) -> Search:
        distance, remaining, above, below, count = carry
        # Eight steps a turn: vectorised over runs, a turn's fixed cost outweighs the steps that the search overshoots.
        for _ in range(8):
            distance = distance + 1
            above = above * (rate / (mode + distance))
            below = below * (jnp.maximum(mode - distance + 1, 0) / divisor)
            after_above = remaining - above
            after_both = after_above - below
            count = jnp.where((remaining >= 0) & (after_above < 0), mode + distance, count)
            count = jnp.where((after_above >= 0) & (after_both < 0), mode - distance, count)
            remaining = after_both
        return distance, remaining, above, below, count

    # What rounding leaves over (about 1e-7 of the mass) falls on the mode, where it does least harm.
    start = (jnp.zeros_like(rate), remaining - chance, chance, chance, mode)
    return jnp.where(jnp.isnan(rate), rate, jax.lax.while_loop(unfinished, search, start)[-1])


def _poisson_start(rate: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Where the search begins and the probability there: the mode, or 0 below a rate of 16.

    p(k) = exp(-stirling(k) - deviance(k)) / sqrt(2 pi k) keeps full relative accuracy where k log(rate) - rate -
    log(k!) would cancel (C. Loader, "Fast and accurate computation of binomial probabilities", 2000).
    """
    mode = jnp.where(rate < 16, 0, jnp.floor(rate)).astype(rate.dtype)
    near = jnp.maximum(mode, 16)
    stirling = (1 / 12 - (1 / 360 - 1 / (1260 * near**2)) / near**2) / near
    excess = (rate - near) / near
    deviance = near * (excess - jnp.log1p(excess))
    chance = jnp.exp(-stirling - deviance) * jax.lax.rsqrt(2 * jnp.pi * near)
    return mode, jnp.where(rate < 16, jnp.exp(-rate), chance)


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


@demand_process("constant")
class Constant(Process):
    """The same rate in every round."""

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round


class Noisy(Process):
    """A known profile times log-normal noise of mean 1: it keeps the mean, and the rate can never be negative."""

    noise: jax.Array

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        profile = self.profile(t, horizon)
        deviate = jax.random.normal(key, dtype=profile.dtype)
        return state, profile * _unit_mean_exp(self.noise * deviate, self.noise * self.noise)

    def peak(self) -> float:
        """See ``Process.peak``."""
        return self.profile_peak() * _unit_mean_exp_peak(float(self.noise))

    def profile_peak(self) -> float:
        """Host only: the largest value of the profile."""
        raise NotImplementedError


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
        return self.mean * (1 + self.amplitude * _wave(_turn(t, self.period), self.phase))

    def profile_peak(self) -> float:
        """See ``Noisy.profile_peak``."""
        return float(self.mean * (1 + self.amplitude))

    def prepared(self) -> Process:
        """See ``Process.prepared``."""
        return replace(self, period=jnp.asarray(turns_per_round(float(self.period))))  # type: ignore[type-var]


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
        week = _turn(t, self.period)
        daily = self.amplitude * _wave(_times(week, 7), self.phase)
        half_daily = self.amplitude_second * _wave(_times(week, 14), self.phase_second)
        resting = _at_least(week, (5 << 64) // 7)
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
        return (1 - self.reversion) * state + change, self.mean * _unit_mean_exp(state, self._variance())

    def peak(self) -> float:
        """See ``Process.peak``."""
        return float(self.mean) * _unit_mean_exp_peak(math.sqrt(self._variance()))


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


@demand_process("normal")
class Normal(Process):
    """Independent rounds max(X, 0), X ~ N(mean, variance), as in COPAC's experiments (arXiv 2606.17489).

    Cutting at 0 raises the expected rate above ``mean``; ``profile`` is that exact value.
    """

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round, before the cut at 0
    variance: jax.Array = field(metadata=NOT_NEGATIVE)  # [] of a round's tasks, before the cut at 0

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        return _mean_above_zero(jnp.asarray(self.mean, jnp.result_type(self.mean, float)), jnp.sqrt(self.variance))

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """See ``Process.step``."""
        deviate = jax.random.normal(key, dtype=jnp.result_type(self.mean, float))
        return state, jnp.maximum(self.mean + jnp.sqrt(self.variance) * deviate, 0)

    def peak(self) -> float:
        """See ``Process.peak``."""
        return float(self.mean) + _normal_peak(math.sqrt(self.variance))

    def average(self) -> float:
        """See ``Process.average``."""
        return float(self.profile(jnp.int32(0), jnp.int32(1)))


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
        return _mean_above_zero(self._level() + kept * distance, deviation)

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
        return level + _normal_peak(float(self._deviation()))

    def average(self) -> float:
        """See ``Process.average``."""
        return float(_mean_above_zero(jnp.asarray(self._level(), float), self._deviation()))

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


@demand_process("trace")
class Trace(Process):
    """A recorded series of L counts stretched over the horizon: round t of T covers [t L / T, (t + 1) L / T).

    Within a row the rate is constant, and the whole is scaled so that the run's total is ``mean`` T. The rate of a
    round costs two look-ups, however many rows it covers. Build it with ``Trace.replay``.
    """

    mean: jax.Array  # [] tasks a round
    counts: jax.Array  # [L] the recorded rows, scaled to at most 1
    cumulative: jax.Array  # [2, L + 1] sum of the rows before each, as a float and what that float's rounding lost

    @classmethod
    def replay(cls, counts: np.ndarray, mean: float | None = None) -> "Trace":
        """A trace from host counts [L], not all zero; ``mean`` tasks a round, or None for the rows' own mean."""
        # Only ratios matter. A power of two changes no digit and keeps a series of any size within float32.
        scaled = np.ldexp(np.asarray(counts, np.float64), -int(np.frexp(np.max(counts))[1]))
        exact = np.concatenate([np.zeros(1), np.cumsum(scaled)])
        dtype = jnp.result_type(float)
        # Two floats a sum: one float32 alone would lose a row's worth of tasks in a sum over 10^4 rows.
        leading = exact.astype(dtype)
        cumulative = np.stack([leading, (exact - leading).astype(dtype)])
        return cls(  # type: ignore[call-arg]
            mean=jnp.asarray(np.mean(counts) if mean is None else mean, dtype),
            counts=jnp.asarray(scaled, dtype),
            cumulative=jnp.asarray(cumulative),
        )

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        rows = self.counts.shape[0]
        begin, begin_part = _position(t, horizon, rows)
        horizon = jnp.asarray(horizon).astype(jnp.uint32)
        end = begin + ((begin_part + rows) // horizon).astype(jnp.int32)
        end_part = (begin_part + rows) % horizon
        first, last = self.counts[begin], self.counts[jnp.minimum(end, rows - 1)]
        # Widths are in T-ths of a row, of which a round has L: whole numbers, so nothing is lost or counted twice.
        dtype = self.counts.dtype
        between = self.cumulative[:, end] - self.cumulative[:, jnp.minimum(begin + 1, end)]
        parts = first * (horizon - begin_part).astype(dtype) + last * end_part.astype(dtype)
        spanning = parts + jnp.sum(between) * jnp.asarray(horizon, dtype)
        tasks = jnp.where(begin == end, first * rows, spanning)
        return self.mean * (tasks / jnp.sum(self.cumulative[:, -1]))

    def peak(self) -> float:
        """See ``Process.peak``."""
        counts = np.asarray(self.counts, np.float64)
        return float(self.mean) * float(counts.max() / counts.mean())

    @classmethod
    def keys(cls) -> list[str]:
        """See ``Process.keys``."""
        return ["path", "column", "mean"]

    @classmethod
    def resolve(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Process.resolve``."""
        for key in ("path", "column"):
            if not isinstance(given[key], str | Path):
                wanted = "a CSV file" if key == "path" else "the name of a column of the file"
                raise InputError(f"demand.{key} is {given[key]!r}, but it must be {wanted}.")
        mean = given["mean"]
        return {
            "path": str(given["path"]),
            "column": str(given["column"]),
            "mean": None if mean is None else parameters.checked(POSITIVE, mean, "demand.mean"),
        }

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any]) -> "Process":
        """See ``Process.from_parameters``."""
        counts = read_trace(values["path"], values["column"])
        if values["mean"] is not None:
            return cls.replay(counts, values["mean"])
        mean = float(np.sum(counts / counts.size))
        if not 1e-30 <= mean <= 1e30:
            raise InputError(
                f"demand.mean is null, so it is the mean of column {values['column']!r} of {values['path']}, "
                f"which is {mean:g}; give demand.mean as a number of tasks per round."
            )
        return cls.replay(counts)


def _position(t: jax.Array, horizon: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """t rows / horizon as (whole rows [] int32, remainder [] uint32 in horizon-ths of a row), exact.

    t rows needs up to 62 bits, so the division goes through the bits of ``rows`` one by one; horizons below 2^31.
    """
    t, horizon = jnp.asarray(t).astype(jnp.uint32), jnp.asarray(horizon).astype(jnp.uint32)
    whole = rest = jnp.zeros_like(t)
    for bit in f"{rows:b}":
        whole, rest = _reduced(2 * whole, 2 * rest, horizon)
        if bit == "1":
            whole, rest = _reduced(whole, rest + t, horizon)
    return whole.astype(jnp.int32), rest


def _reduced(whole: jax.Array, rest: jax.Array, horizon: jax.Array) -> tuple[jax.Array, jax.Array]:
    """whole + rest / horizon with the rest below the horizon; it must be below twice the horizon."""
    over = rest >= horizon
    return whole + over, jnp.where(over, rest - horizon, rest)


# Demand.
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Demand:
    """Tasks a round: a process and the law of the counts around its rate."""

    process: Process
    counts: str = field(metadata={"static": True})  # one of COUNTS; "none" gives the rate itself
    dispersion: jax.Array  # [] negative binomial only: variance = rate + dispersion rate^2
    maximum: jax.Array  # [] cap on the tasks of a round, which fixed-point running totals need

    def init(self, key: jax.Array) -> State:
        """The process's state before round 0."""
        return self.process.init(key)

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """The planner's expected tasks [] of round t (see ``Process.profile``), ignoring the cap."""
        return self.process.profile(t, horizon)

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """One round.

        A run's tasks do not depend on the other runs of its batch, but for the last bit of a rate: XLA on a CPU rounds
        exp otherwise in batches that are no multiple of its vector width.

        Args:
            state: as ``init`` or the last ``step`` returned it.
            t: [] int32, rounds completed so far.
            horizon: [] int32, rounds of the run.
            key: a key for this round alone.

        Returns:
            The next state, and q_t [] tasks in [0, maximum]: whole numbers unless ``counts`` is "none".
        """
        # Folded in, not split: what a process or law leaves unused is dropped, and a key costs as much as a uniform.
        key_rate, key_mixing, key_count = (jax.random.fold_in(key, use) for use in range(3))
        state, tasks = self.process.step(state, t, horizon, key_rate)
        if self.counts == "none":
            return state, jnp.clip(tasks, 0, self.maximum)
        if self.counts == "negative_binomial":
            tasks = tasks * _gamma_factor(key_mixing, self.dispersion, tasks.dtype)
        return state, jnp.clip(poisson(key_count, tasks), 0, jnp.floor(self.maximum))


def _gamma_factor(key: jax.Array, dispersion: jax.Array, dtype: jnp.dtype[Any]) -> jax.Array:
    """[] a gamma variate of mean 1 and variance ``dispersion``: Poisson counts around it are negative binomial."""
    shape = 1 / jnp.where(dispersion > 0, dispersion, 1)
    return jnp.where(dispersion > 0, jax.random.gamma(key, shape, dtype=dtype) / shape, 1)


CHUNK = 1 << 16


@jax.jit
def _profile_chunk(demand: Demand, first: jax.Array, horizon: jax.Array) -> jax.Array:
    """[CHUNK] profiles of the rounds from ``first`` on; those past the horizon mean nothing."""
    return jax.vmap(demand.profile, in_axes=(0, None))(first + jnp.arange(CHUNK, dtype=jnp.int32), horizon)


def expected_total(demand: Demand, horizon: int) -> float:
    """The nominal tasks of a whole run: the sum of ``profile`` over its rounds, added in float64; the cap is ignored.

    Example:
        >>> expected_total(build("constant", {"mean": 20}), 1500)
        30000.0
    """
    total = 0.0
    for first in range(0, horizon, CHUNK):
        chunk = np.asarray(_profile_chunk(demand, jnp.int32(first), jnp.int32(horizon)), dtype=np.float64)
        total += float(chunk[: horizon - first].sum())
    return total


# Reading.
def resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """The process's name under "process", its parameters and the ``OPTIONS`` as plain values, given or default.

    ``maximum`` stays None where it is. InputError: an unknown process or key, a key missing, or a value that its key
    does not allow; what must fit together, and a trace's file, are looked at by ``build``.
    """
    kind: type[Process] = PROCESSES.find(values.get("process"), "demand.process")
    given = {**OPTIONS, **{key: value for key, value in values.items() if key != "process"}}
    _check_keys(str(values["process"]), kind, given)
    maximum = given["maximum"]
    return {
        "process": values["process"],
        **kind.resolve({key: value for key, value in given.items() if key not in OPTIONS}),
        "counts": _counts(given["counts"]),
        "dispersion": parameters.checked(NOT_NEGATIVE, given["dispersion"], "demand.dispersion"),
        "maximum": None if maximum is None else parameters.checked(POSITIVE, maximum, "demand.maximum"),
    }


def build(name: str, values: Mapping[str, Any]) -> Demand:
    """The demand that a config describes, checked on the host.

    A ``maximum`` of null is set where a round passes it with a chance of about exp(-30): the process's ``peak``, plus
    the sub-gamma tail bounds of the counts around it (Boucheron, Lugosi, Massart 2013, sections 2.4 and 2.8).

    Args:
        name: a key of ``PROCESSES``.
        values: every parameter of the process without a default, and any other of it and of ``counts``,
            ``dispersion``, ``maximum``. The config's own ``process`` entry may stay in.

    Raises:
        InputError: an unknown process or key, a key missing, or a value that its key does not allow.

    Example:
        >>> float(build("trend", {"mean": 20, "slope": 0.25, "noise": 0.0}).profile(0, 2))
        17.5
    """
    given = resolve({**values, "process": name})
    options = {key: given.pop(key) for key in OPTIONS}
    process = PROCESSES[given.pop("process")].from_parameters(given)
    if type(process).average is Process.average and getattr(process, "mean", None) is None:
        raise InputError(f"demand process {name!r} has no `mean`, the tasks a round that every process must tell")
    mixed = options["dispersion"] if options["counts"] == "negative_binomial" else 0.0
    maximum = _maximum(options, process, mixed)
    leaves: Process = jax.tree.map(_leaf, process.prepared())
    return Demand(
        process=leaves, counts=options["counts"], dispersion=_leaf(options["dispersion"]), maximum=_leaf(maximum)
    )


def _leaf(value: jax.Array | np.ndarray | float) -> jax.Array:
    """A number as an array of the default precision."""
    return jnp.asarray(value, jnp.result_type(float))


def _check_keys(name: str, kind: type[Process], given: Mapping[str, Any]) -> None:
    """Refuses keys that the process does not have and asks for those that are missing."""
    known = kind.keys()
    optional = [entry.name for entry in fields(kind) if entry.default is not MISSING]  # type: ignore[arg-type]
    for key in given:
        if key not in known and key not in OPTIONS:
            raise InputError(f"demand.{key} is no parameter of {name!r}; {nearest(str(key), [*known, *OPTIONS])}")
    for key in known:
        if key not in given and key not in optional:
            raise InputError(f"demand.{key} is missing; process {name!r} needs {', '.join(known)}.")


def _counts(value: Any) -> str:
    """The name of a law of counts, checked."""
    if value not in COUNTS:
        raise InputError(f"demand.counts is {value!r}, which is no law of counts; {nearest(str(value), list(COUNTS))}")
    return str(value)


def _maximum(given: Mapping[str, Any], process: Process, dispersion: float) -> float:
    """The cap on a round's tasks, checked, or the default one."""
    counted, mean = given["counts"] != "none", process.average()
    if given["maximum"] is not None:
        maximum = float(given["maximum"])
    elif counted and process.peak() > LARGEST_COUNT:
        raise InputError(
            f"demand.mean={mean:g} lets the rate of a round reach {process.peak():g} tasks, but a round can count at "
            f"most {LARGEST_COUNT:.0f}; lower it, or set demand.counts=none."
        )
    else:
        maximum = _practical_maximum(process.peak(), dispersion) if counted else math.ceil(process.peak())
        maximum = min(maximum, LARGEST_COUNT) if counted else maximum
    if maximum < mean:
        raise InputError(f"demand.maximum is {maximum:g}, but it must be at least the mean, {mean:g}.")
    if counted and maximum > LARGEST_COUNT:
        raise InputError(f"demand.maximum is {maximum:g}, but a round can count at most {LARGEST_COUNT:.0f} tasks.")
    return maximum


def _practical_maximum(peak: float, dispersion: float) -> float:
    """A cap that counts pass with a chance of about exp(-NEGLIGIBLE), at a rate of at most ``peak``."""
    mixed = peak * (1 + math.sqrt(2 * NEGLIGIBLE * dispersion) + NEGLIGIBLE * dispersion)
    return float(math.ceil(mixed + math.sqrt(2 * NEGLIGIBLE * mixed) + NEGLIGIBLE / 3))


def read_trace(path: str | Path, column: str) -> np.ndarray:
    """One column of counts [L] float64 from a CSV file with a header line, one row per interval, in order.

    Raises:
        InputError: a file that is no such table (see ``envs.csv_table``), a column that is not there, a cell that is no
            count, or nothing to replay.
    """
    content = files.content(path, "the trace of demand.path", "a CSV file")
    table = csv_table.parse(content, str(path), [column], row="interval", where="demand.column: ", skip_empty=False)
    counts = table.numbers(column, lambda count: count >= 0, "a count of at least 0")
    if not counts.any():
        raise InputError(f"demand.path: column {column!r} of {path} is zero in every row; one count must be above 0.")
    return counts
