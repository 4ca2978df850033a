"""Seasonal indices in a buffer of constant size."""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Number, nominal_demand
from bandits.sums import CompensatedSum
from envs.errors import InputError
from envs.types import Problem


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Season:
    """One value per round of a season, with the sums a forecast needs, each kept by O(1) work a round.

    The rounds left are some full seasons and a last piece. The end of the run being fixed, that piece loses one round
    at its near end every round, and is a whole season less a round after it was empty.

    The present round's value is carried beside the others: a round then writes the array once and reads it once, in
    that order, which XLA does in place. Reading before writing made it copy the array every round.
    """

    values: jax.Array  # [season_capacity] zero where not yet set; only the first ``period`` are used
    current: jax.Array  # [] the value of the present round
    phase: jax.Array  # [] int32, the present round's place in the season
    piece_rounds: jax.Array  # [] int32, rounds left modulo the period
    total: CompensatedSum  # of a whole season
    piece: CompensatedSum  # of the rounds from the present one through the last piece

    @classmethod
    def start(cls, capacity: int, period: jax.Array, problem: Problem) -> "Season":
        """A season of zeros, at its first round."""
        zero = jnp.zeros_like(nominal_demand(problem))
        return cls(
            values=jnp.zeros((capacity,), zero.dtype),
            current=zero,
            phase=jnp.zeros((), jnp.int32),
            piece_rounds=jnp.asarray(problem.horizon, jnp.int32) % period,
            total=CompensatedSum.zero(zero),
            piece=CompensatedSum.zero(zero),
        )

    def replace(self, value: jax.Array, period: jax.Array) -> "Season":
        """Set the present round's value [] and go on to the next round."""
        value = value.astype(self.values.dtype)
        values = jax.lax.dynamic_update_index_in_dim(self.values, value, self.phase, axis=0)
        phase = jnp.where(self.phase + 1 == period, 0, self.phase + 1)
        whole_next = self.piece_rounds == 0
        piece = jax.tree.map(functools.partial(jnp.where, whole_next), self.total, self.piece)
        return Season(
            values=values,
            current=jax.lax.dynamic_index_in_dim(values, phase, keepdims=False),
            phase=phase,
            piece_rounds=jnp.where(whole_next, period, self.piece_rounds) - 1,
            total=self.total.add(-self.current).add(value),
            piece=piece.add(-self.current),
        )

    def sum(self, rounds_left: jax.Array, period: jax.Array) -> jax.Array:
        """[] the values of all ``rounds_left`` [] int32 rounds."""
        return (rounds_left // period) * self.total.total + self.piece.total


def check_period(period: Number, season_capacity: int) -> None:
    """InputError where a period is longer than the buffer that holds it."""
    if period > season_capacity:
        raise InputError(
            f"forecaster.period is {period}; it must not exceed forecaster.season_capacity, which is {season_capacity}"
        )


def traced_period(period: Number, season_capacity: int) -> jax.Array:
    """[] int32: leaves travel as floats, and a sweep cannot leave the buffer."""
    return jnp.clip(jnp.round(jnp.asarray(period)).astype(jnp.int32), 1, season_capacity)
