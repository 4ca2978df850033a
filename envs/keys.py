"""The random numbers of a round, straight from the run's key and the round's number.

A counter-based generator needs no key of its own for every round: Threefry-2x32 (Salmon et al., SC 2011) turns the pair
(which, t) under the run's key into two words, and each word becomes a number.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.random import threefry2x32_p

_OURS = np.uint32(2**31)  # ``which`` starts here: jax.random.fold_in and split use words below


def uniforms(key: jax.Array, t: jax.Array, number: int, dtype: jnp.dtype) -> jax.Array:
    """[number] independent numbers in [0, 1) of round ``t`` [] int32: multiples of 2^-24 (float32) or 2^-53 (float64).

    ``key`` is the run's. It may be folded for other purposes, but a round's numbers may be asked for only once.
    """
    wide = dtype == jnp.float64
    which = _OURS + jnp.arange(number if wide else -(-number // 2), dtype=jnp.uint32)
    same = [jnp.broadcast_to(word.astype(jnp.uint32), which.shape) for word in (*jax.random.key_data(key), t)]
    first, second = threefry2x32_p.bind(*same[:2], which, same[2])
    if wide:
        return ((first >> 5).astype(dtype) * 2.0**26 + (second >> 6).astype(dtype)) * 2.0**-53
    words = jnp.concatenate([first, second])[:number]
    return (words >> 8).astype(dtype) * jnp.asarray(2.0**-24, dtype)
