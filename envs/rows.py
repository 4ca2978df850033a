"""One row of a table, read and written through a mask.

Which row it is differs from run to run. Masks and sums vectorise over runs, where gathers and scatters do not.
"""

import jax
import jax.numpy as jnp


def pick(chosen: jax.Array, rows: jax.Array) -> jax.Array:
    """[M] bool with at most one true, [M, ...] -> [...]: the row that is true, or zeros."""
    return jnp.sum(jnp.where(_mask(chosen, rows), rows, jnp.zeros((), rows.dtype)), axis=0, dtype=rows.dtype)


def put(chosen: jax.Array, row: jax.Array, rows: jax.Array) -> jax.Array:
    """[M] bool with at most one true, [...], [M, ...] -> [M, ...]: ``rows`` with ``row`` in place of the one chosen."""
    return jnp.where(_mask(chosen, rows), row[None], rows)


def _mask(chosen: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.expand_dims(chosen, tuple(range(1, rows.ndim)))
