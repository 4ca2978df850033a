"""What a policy has seen of each model: counts and running means, dense over models.

The quantities are stacked along one axis of length D = 1 + P + C: reward, then the packing resources, then the
covering metrics, so that one rule serves them all.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.sums import CompensatedSum
from envs.rows import pick, put
from envs.types import Feedback


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Sufficient statistics of one run. One observation is one round a model served, whatever its demand."""

    count: jax.Array  # [M] int32 (float32 would stop counting at 2^24)
    mean: jax.Array  # [M, D] running means
    scatter: jax.Array | None  # [M, D] sums of squared deviations (Welford), only where the radius needs variances
    mean_lost: jax.Array | None = None  # [M, D] what rounding took from the means; None in statistics only read
    scatter_lost: jax.Array | None = None  # [M, D] and from the scatters


def init(num_models: int, num_quantities: int, dtype: jnp.dtype, *, variance: bool) -> Statistics:
    """Nothing seen yet."""
    shape = (num_models, num_quantities)
    return Statistics(
        count=jnp.zeros(num_models, jnp.int32),
        mean=jnp.zeros(shape, dtype),
        scatter=jnp.zeros(shape, dtype) if variance else None,
        mean_lost=jnp.zeros(shape, dtype),
        scatter_lost=jnp.zeros(shape, dtype) if variance else None,
    )


def stack(reward: jax.Array, consumption: jax.Array, service: jax.Array) -> jax.Array:
    """[M], [M, P], [M, C] -> [M, D]."""
    return jnp.concatenate([reward[:, None], consumption, service], axis=1)


def update(statistics: Statistics, feedback: Feedback) -> tuple[Statistics, Statistics]:
    """(all models' statistics, those of the model that served alone, [] and [D]) after a round, by Welford's update.

    Where none served, the first are as they were and the second mean nothing. Means and scatters are compensated sums:
    plain float32 drops steps of less than half a unit in the last place, first those towards the nearer end of the
    range, and a mean of 0.99 is then off by 0.01 after 10^6 observations.
    """
    assert statistics.mean_lost is not None, "made by hand, to be read only"
    one = jax.tree.map(lambda leaf: pick(feedback.model, leaf), statistics)
    outcome = jnp.concatenate([feedback.reward[None], feedback.consumption, feedback.service])
    count = one.count + 1
    delta = (outcome - one.mean) - one.mean_lost
    mean = CompensatedSum(total=one.mean, lost=one.mean_lost).add(delta / count.astype(delta.dtype))
    scatter = None
    if one.scatter is not None:
        scatter = CompensatedSum(total=one.scatter, lost=one.scatter_lost).add(delta * mean.short_of(outcome))
    seen = Statistics(
        count=count,
        mean=mean.total,
        mean_lost=mean.lost,
        scatter=None if scatter is None else scatter.total,
        scatter_lost=None if scatter is None else scatter.lost,
    )
    return jax.tree.map(lambda row, leaf: put(feedback.model, row, leaf), seen, statistics), seen
