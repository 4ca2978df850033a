"""Phases of a period, exact in every round."""

import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np


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


def turn(t: jax.Array, frequency: jax.Array) -> Turn:
    """t ``frequency`` modulo 1 for a frequency [6] as ``turns_per_round`` gives it.

    In whole numbers, so that the result is within 2^-64 of a period of the true place whatever the period, where
    float32 would lose the phase after 2^24 rounds.
    """
    t, digits = jnp.asarray(t).astype(jnp.uint32), frequency.astype(jnp.uint32)
    high, middle, low = (digits[place] << 16 | digits[place + 1] for place in (0, 2, 4))
    carried = _high_product(t, low)
    below = t * middle + carried
    return t * high + _high_product(t, middle) + (below < carried), below


def times(turn: Turn, number: int) -> Turn:
    """``turn`` times a small whole number, modulo 1."""
    high, low = turn
    factor = jnp.uint32(number)
    return high * factor + _high_product(low, factor), low * factor


def at_least(turn: Turn, bound: int) -> jax.Array:
    """[] bool, whether ``turn`` is at least ``bound`` 2^-64 of a period."""
    high, low = jnp.uint32(bound >> 32), jnp.uint32(bound & 0xFFFFFFFF)
    return (turn[0] > high) | ((turn[0] == high) & (turn[1] >= low))


def _high_product(a: jax.Array, b: jax.Array) -> jax.Array:
    """The upper 32 bits of the product of two uint32 numbers, from products of their halves."""
    a_high, a_low, b_high, b_low = a >> 16, a & 0xFFFF, b >> 16, b & 0xFFFF
    crossed, other = a_high * b_low, a_low * b_high
    middle = (a_low * b_low >> 16) + (crossed & 0xFFFF) + (other & 0xFFFF)
    return a_high * b_high + (crossed >> 16) + (other >> 16) + (middle >> 16)


def sine(turn: Turn, phase: jax.Array) -> jax.Array:
    """sin(2 pi (turn + phase)) [], ``phase`` as a fraction of the period."""
    # Signed, in [-1/2, 1/2): a float holds numbers near 0 most finely.
    high, low = (limb.astype(jnp.result_type(phase, float)) for limb in (turn[0].astype(jnp.int32), turn[1]))
    return jnp.sin(2 * jnp.pi * (high * 2.0**-32 + low * 2.0**-64 + phase))
