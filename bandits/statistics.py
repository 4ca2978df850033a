"""What a learner has seen of each model: counts and running means, dense over models.

The quantities are stacked along one axis of length D = 1 + P + C: reward, then the packing resources, then the
covering metrics, so that one rule serves them all.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from envs.types import Feedback


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sufficient statistics of one run. One observation is one round a model served, whatever its demand."""

    count: jax.Array  # [M] int32 (float32 would stop counting at 2^24)
    mean: jax.Array  # [M, D] running means
    scatter: jax.Array | None  # [M, D] sums of squared deviations (Welford), only where the radius needs variances


def init(num_models: int, num_quantities: int, dtype: jnp.dtype, *, variance: bool) -> Statistics:
    """Nothing seen yet."""
    shape = (num_models, num_quantities)
    scatter = jnp.zeros(shape, dtype) if variance else None
    return Statistics(count=jnp.zeros(num_models, jnp.int32), mean=jnp.zeros(shape, dtype), scatter=scatter)


def stack(reward: jax.Array, consumption: jax.Array, service: jax.Array) -> jax.Array:
    """[M], [M, P], [M, C] -> [M, D]."""
    return jnp.concatenate([reward[:, None], consumption, service], axis=1)


def update(statistics: Statistics, feedback: Feedback) -> Statistics:
    """Welford's update for the models that served; the others keep theirs (zero rows change nothing)."""
    seen = feedback.served > 0
    count = statistics.count + seen.astype(jnp.int32)
    outcome = stack(feedback.reward, feedback.consumption, feedback.service)
    delta = jnp.where(seen[:, None], outcome - statistics.mean, 0.0)
    mean = statistics.mean + delta / jnp.maximum(count, 1).astype(delta.dtype)[:, None]
    scatter = statistics.scatter
    if scatter is not None:
        scatter = scatter + delta * jnp.where(seen[:, None], outcome - mean, 0.0)
    return Statistics(count=count, mean=mean, scatter=scatter)
