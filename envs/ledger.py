"""Exact running totals and the hard-budget guard.

Sums over 10^8 rounds are wrong in float32, and "never overspent" is a statement about exact arithmetic. A total is
therefore a whole number of *quanta*, held as a few digits of 29 bits: JAX has no 64-bit integers unless x64 is on, and
64 bits are too few, as 10^17 tasks may pay prices that differ by 10^12 and more. ``scale`` chooses the power of two by
which amounts are multiplied so that the largest sum of a whole run just fits in the highest digit, with one bit to
spare. A floating-point amount is scaled, cut into digits and rounded to whole quanta; only the last step changes it.

A digit has two bits more than it needs, and hands on what is in them with the *next* addition: no digit waits for the
carry of another, so that a loop over many runs adds all of them at once. Whatever reads a total sums the digits anyway.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor, frexp

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

TASK_DIGITS = 3  # of totals of tasks, reward and service: a quantum is 2^-88 of the largest sum
CONSUMPTION_DIGITS = 5  # of totals of consumption: 2^-146, as a cheap model's task may cost 10^-15 of a dear one's

_BITS = 29
_BASE = 2**_BITS
_MASK = _BASE - 1
_ALL_DIGITS = 2.0**90  # more than a dtype's bits and a digit's


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Total:
    """An exact nonnegative sum: digits[-1] + digits[-2] / 2^29 + digits[-3] / 2^58 + ..., each of at most 31 bits."""

    digits: tuple[jax.Array, ...]  # [...] int32 each

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what is counted, without the digits."""
        return self.digits[0].shape


def scale(largest: float) -> float:
    """How much of the highest digit a unit is, where no sum exceeds ``largest`` units: a power of two, at most 1."""
    _, exponent = frexp(largest)  # largest < 2^exponent
    return float(2.0 ** min(_BITS + 1 - exponent, 0))


def zero(shape: tuple[int, ...] = (), *, digits: int = TASK_DIGITS) -> Total:
    """An empty total of the given shape."""
    return Total(digits=tuple(jnp.zeros(shape, jnp.int32) for _ in range(digits)))


# On the host.
def limit(amount: Sequence[Fraction], scale: np.ndarray) -> Total:
    """Budgets [P] in units as totals of consumption, rounded down to whole quanta exactly.

    A budget beyond what any run can spend is cut to one that no run can spend either.
    """
    return _whole(amount, scale, floor)


def fee(amount: Sequence[Fraction], scale: np.ndarray) -> Total:
    """Fixed charges [P] in units as totals of consumption, rounded up to whole quanta exactly."""
    return _whole(amount, scale, ceil)


def _whole(amount: Sequence[Fraction], scale: np.ndarray, rounding: Callable[[Fraction], int]) -> Total:
    places = range(CONSUMPTION_DIGITS)
    unit = [Fraction(float(one)) * _BASE ** places[-1] for one in scale]
    most = 2 * _BASE ** (places[-1] + 1)
    units = [min(rounding(a * u), most) for a, u in zip(amount, unit, strict=True)]
    digits = [[number >> _BITS * j & (_MASK if j < places[-1] else -1) for number in units] for j in places]
    return Total(digits=tuple(np.array(digit, np.int32) for digit in digits))  # type: ignore[misc]


def host_value(total: Total, scale: ArrayLike) -> np.ndarray:
    """The total in units, float64, for host arrays that came back from the device; ``scale`` broadcasts."""
    value = np.zeros(np.broadcast_shapes(total.shape, np.shape(scale)))
    for digit in total.digits:
        value = value / _BASE + np.asarray(digit)
    return value / np.asarray(scale, np.float64)


def host_units(total: Total) -> np.ndarray:
    """The total in whole quanta, for statements in exact arithmetic: int64, or Python's integers where they need it."""
    kind = np.int64 if len(total.digits) <= 2 else object
    return np.asarray(sum(np.asarray(digit).astype(kind) * _BASE**j for j, digit in enumerate(total.digits)))


def quanta(total: Total, scale: ArrayLike) -> np.ndarray:
    """How many quanta of such a total a unit is, float64."""
    return np.asarray(scale, np.float64) * float(_BASE ** (len(total.digits) - 1))


# On the device.
def record(amount: jax.Array, scale: jax.Array) -> Total:
    """One round's amount [...] of tasks, reward or service, rounded to the nearest quantum."""
    return _cut(amount, scale, TASK_DIGITS, jnp.round)


def charge(amount: jax.Array, scale: jax.Array) -> Total:
    """One round's consumption [...], rounded up to a quantum: a budget is never undercharged."""
    return _cut(amount, scale, CONSUMPTION_DIGITS, jnp.ceil)


def _cut(amount: jax.Array, scale: jax.Array, number: int, rounding: Callable[[jax.Array], jax.Array]) -> Total:
    """Amounts [...] as totals. Only ``rounding`` changes a value: all else scales by powers of two or cuts off bits.

    Each digit comes from the amount itself, not from what is left of another one: chains are slow in a loop.
    """
    digits = [jnp.floor(amount * scale)]
    for j in range(1, number):
        unit = scale * float(_BASE**j)
        # Of so large an amount this digit is 0, and the next power of two might be beyond the dtype.
        small = jnp.minimum(amount, _ALL_DIGITS / unit)
        whole = rounding(small * unit) if j == number - 1 else jnp.floor(small * unit)
        digits.append(whole - jnp.floor(small * (unit / _BASE)) * float(_BASE))
    return Total(digits=tuple(digit.astype(jnp.int32) for digit in reversed(digits)))


def add(total: Total, amount: Total) -> Total:
    """total + amount; the digits of the latter, but for its highest, are below 2^29 or come of a cut."""
    places = range(len(total.digits))
    kept = [digit & _MASK if j < places[-1] else digit for j, digit in zip(places, total.digits, strict=True)]
    carried = [jnp.zeros_like(kept[0]), *(digit >> _BITS for digit in total.digits[:-1])]
    return Total(digits=tuple(k + a + c for k, a, c in zip(kept, amount.digits, carried, strict=True)))


def highest(before: Total, amount: Total) -> Total:
    """What adding ``amount`` moves into all digits but the lowest: a coarser amount, whose sums lose nothing for long.

    What is too small for it waits in the lowest digit of the total until it is not.
    """
    first, *others = amount.digits[1:]
    return Total(digits=(first + (before.digits[0] >> _BITS), *others))


def left(total: Total, budget: Total) -> Total:
    """budget - total, exactly, or 0 where total is larger. Its digits, but for the highest, are below 2^29."""
    digits, over = _difference(total, budget)
    return Total(digits=tuple(jnp.where(over, 0, digit) for digit in digits))


def at_most(total: Total, budget: Total) -> jax.Array:
    """[...] bool: total <= budget, exactly."""
    return ~_difference(total, budget)[1]


def _difference(total: Total, budget: Total) -> tuple[list[jax.Array], jax.Array]:
    """(digits of budget - total, whether that is negative)."""
    digits: list[jax.Array] = []
    carried = jnp.zeros((), jnp.int32)
    for spent, most in zip(total.digits, budget.digits, strict=True):
        difference = most - spent + carried
        digits.append(difference & _MASK)
        carried = difference >> _BITS  # rounds down: a borrow is negative
    return [*digits[:-1], difference], difference < 0


def where(condition: jax.Array, total: Total, other: Total) -> Total:
    """``total`` where the condition holds, else ``other``."""
    return jax.tree.map(lambda left, right: jnp.where(condition, left, right), total, other)


def value(total: Total, scale: jax.Array) -> jax.Array:
    """The total in units, in the dtype of ``scale``, within a few roundings; exact where that dtype can hold it."""
    unit = 1.0 / scale
    parts = [digit.astype(scale.dtype) * (unit * float(_BASE**-j)) for j, digit in enumerate(reversed(total.digits))]
    return sum(parts[1:], parts[0])


def value_below(total: Total, scale: jax.Array) -> jax.Array:
    """What is ``left``, in units, rounded down: the largest number of the dtype of ``scale`` that is not above it.

    An amount of that dtype, charged in whole quanta, fits in what is left if and only if it is at most this.
    """
    bits = jnp.finfo(scale.dtype).nmant + 1  # what the dtype can hold, from the first 1 on
    highest_first = list(enumerate(reversed(total.digits)))
    zeros = jnp.full_like(total.digits[0], _BITS * len(highest_first))  # before the first 1; -2 in the highest digit
    for j, digit in reversed(highest_first):
        zeros = jnp.where(digit > 0, jax.lax.clz(digit) + (_BITS * (j + 1) - 32), zeros)
    value, unit = jnp.zeros_like(scale), 1.0 / scale
    for j, digit in highest_first:
        beyond = jnp.clip(_BITS * (j + 1) - bits - zeros, 0, _BITS)  # bits of this digit that the dtype cannot hold
        value = value + ((digit >> beyond) << beyond).astype(scale.dtype) * (unit * float(_BASE**-j))
    return value
