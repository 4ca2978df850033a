"""Exact running totals and the hard-budget guard.

Sums over 10^7 rounds are wrong in float32, and "never overspent" is a statement about exact arithmetic. Every total is
therefore an unsigned 64-bit integer of *quanta*, held as two uint32 limbs (JAX has no 64-bit integers unless x64 is on,
and one way for all is simpler). One task's largest amount is 1, so a round adds at most ``demand.maximum``; ``quantum``
is the power of two for which that fits in 31 bits.
"""

from dataclasses import dataclass
from fractions import Fraction

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
    flat = [_LIMB**2 - 1 if np.isinf(a) else int(Fraction(float(a)) * Fraction(quanta)) for a in np.ravel(amount)]
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
    after = add(total, units)
    return (after.high < budget.high) | ((after.high == budget.high) & (after.low <= budget.low))


def left(total: Total, budget: Total) -> Total:
    """budget - total, exactly; the caller keeps total <= budget."""
    borrow = (total.low > budget.low).astype(jnp.uint32)
    return Total(high=budget.high - total.high - borrow, low=budget.low - total.low)


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
