"""One row of a table, read and written through a mask.

Which row it is differs from run to run. Masks and sums vectorise over runs, where gathers and scatters do not.
"""

import jax
import jax.numpy as jnp


def pick(number: jax.Array, rows: jax.Array) -> jax.Array:
    """[] int32, [M, ...] -> [...]: the row of that number, or zeros where there is none."""
    return jnp.sum(jnp.where(_here(number, rows), rows, jnp.zeros((), rows.dtype)), axis=0, dtype=rows.dtype)


def put(number: jax.Array, row: jax.Array, rows: jax.Array) -> jax.Array:
    """[] int32, [...], [M, ...] -> [M, ...]: ``rows`` with ``row`` in place of that number's, if there is one."""
    return jnp.where(_here(number, rows), row[None], rows)


def _here(number: jax.Array, rows: jax.Array) -> jax.Array:
    return jnp.expand_dims(jnp.arange(rows.shape[0]) == number, tuple(range(1, rows.ndim)))
