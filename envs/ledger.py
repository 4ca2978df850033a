"""Exact running totals and the hard-budget guard.

Sums over 10^7 rounds are wrong in float32, and "never overspent" is a statement about exact arithmetic. Every total is
therefore an unsigned 64-bit integer of *quanta*, held as two uint32 limbs (JAX has no 64-bit integers unless x64 is on,
and one way for all is simpler). One task's largest amount is 1, so a round adds at most ``demand.maximum``; ``quantum``
is the power of two for which that fits in 31 bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor

import jax
import jax.numpy as jnp
import numpy as np

_ROUND_BITS = 31
_LIMB = 2**32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Total:
    """An exact nonnegative sum in quanta: high * 2^32 + low."""

    high: jax.Array  # [...] uint32
    low: jax.Array  # [...] uint32


def quanta_per_task(maximum_demand: float) -> float:
    """How many quanta one task's largest amount is: the power of two that lets a round's sum fit in 31 bits."""
    return float(2.0 ** (_ROUND_BITS - int(np.ceil(np.log2(max(maximum_demand, 1.0))))))


def zero(shape: tuple[int, ...] = ()) -> Total:
    """An empty total of the given shape."""
    return Total(high=jnp.zeros(shape, jnp.uint32), low=jnp.zeros(shape, jnp.uint32))


def limit(amount: np.ndarray, quanta: float) -> Total:
    """A budget [...] in task units, rounded down to whole quanta exactly; infinity becomes the largest total."""
    return _whole(amount, quanta, floor)


def charge(amount: np.ndarray, quanta: float) -> Total:
    """A cost [...] in task units, rounded up to whole quanta exactly; infinity becomes the largest total."""
    return _whole(amount, quanta, ceil)


def _whole(amount: np.ndarray, quanta: float, rounding: Callable[[Fraction], int]) -> Total:
    exact = [None if np.isinf(a) else Fraction(float(a)) * Fraction(quanta) for a in np.ravel(amount)]
    flat = [_LIMB**2 - 1 if a is None else rounding(a) for a in exact]
    clipped = [min(units, _LIMB**2 - 1) for units in flat]
    high = np.array([units // _LIMB for units in clipped], np.uint32).reshape(np.shape(amount))
    low = np.array([units % _LIMB for units in clipped], np.uint32).reshape(np.shape(amount))
    return Total(high=high, low=low)  # type: ignore[arg-type]


def to_quanta(amount: jax.Array, quanta: jax.Array) -> jax.Array:
    """One round's amount [...] as uint32 quanta, rounded to nearest."""
    return jnp.round(amount * quanta).astype(jnp.uint32)


def charge_quanta(amount: jax.Array, quanta: jax.Array) -> jax.Array:
    """One round's charge [...] as uint32 quanta, rounded up: a budget is never undercharged."""
    return jnp.ceil(amount * quanta).astype(jnp.uint32)


def add(total: Total, units: jax.Array) -> Total:
    """total + units, with carry."""
    low = total.low + units
    return Total(high=total.high + (low < units).astype(jnp.uint32), low=low)


def fits(total: Total, units: jax.Array, budget: Total) -> jax.Array:
    """[...] bool: total + units <= budget, exactly."""
    return at_most(add(total, units), budget)


def merge(total: Total, other: Total) -> Total:
    """total + other."""
    summed = add(total, other.low)
    return Total(high=summed.high + other.high, low=summed.low)


def at_most(total: Total, budget: Total) -> jax.Array:
    """[...] bool: total <= budget, exactly."""
    return (total.high < budget.high) | ((total.high == budget.high) & (total.low <= budget.low))


def left(total: Total, budget: Total) -> Total:
    """budget - total, exactly, or 0 where total is larger."""
    borrow = (total.low > budget.low).astype(jnp.uint32)
    some = at_most(total, budget)
    high = jnp.where(some, budget.high - total.high - borrow, 0)
    return Total(high=high, low=jnp.where(some, budget.low - total.low, 0))


def where(condition: jax.Array, total: Total, other: Total) -> Total:
    """``total`` where the condition holds, else ``other``."""
    return jax.tree.map(lambda left, right: jnp.where(condition, left, right), total, other)


def value(total: Total, quanta: jax.Array) -> jax.Array:
    """The total in task units, rounded once to the dtype of ``quanta``."""
    return (total.high.astype(quanta.dtype) * float(_LIMB) + total.low.astype(quanta.dtype)) / quanta


def host_value(total: Total, quanta: np.ndarray) -> np.ndarray:
    """The total in task units, float64, for host arrays that came back from the device."""
    units = np.asarray(total.high).astype(np.float64) * _LIMB + np.asarray(total.low).astype(np.float64)
    return units / np.asarray(quanta, np.float64)


def host_units(total: Total) -> np.ndarray:
    """The total in whole quanta as Python integers (object array): for statements in exact arithmetic."""
    return np.asarray(total.high).astype(object) * _LIMB + np.asarray(total.low).astype(object)
