"""Keeping a compiler from computing the same thing many times over."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

Materialize: TypeAlias = Callable[[Callable[[], Any]], Any]


def materializer(always: jax.Array) -> Materialize:
    """A function that computes its argument once and stores the result.

    Left alone, XLA fuses chains of small sums and computes inner ones again for each use, which is exponential in the
    length of the chain, and may round differently each time, so that a maximum equals none of its elements.

    ``always`` [] bool is true, but the compiler must not be able to know; under ``vmap`` it must not be batched.
    """

    def stored(compute: Callable[[], Any]) -> Any:
        once = jax.jit(compute)  # traced once, for all the uses below
        shapes = jax.eval_shape(once)

        def branch() -> Any:  # the CPU compiler drops optimization barriers before it fuses, but keeps conditionals
            return jax.lax.cond(always, once, lambda: jax.tree.map(lambda s: jax.lax.full(s.shape, 0, s.dtype), shapes))

        return jax.lax.platform_dependent(cpu=branch, default=lambda: jax.lax.optimization_barrier(once()))

    return stored


def opaque_true(numbers: jax.Array) -> jax.Array:
    """[] bool: true whatever the numbers are, which the compiler cannot know."""
    return jnp.all((numbers <= jnp.inf) | jnp.isnan(numbers))
