"""Confidence bounds shared by all rules.

radius(v, n) = sqrt(gamma v / n) + gamma / n, with v the empirical *mean*: for variables in [0, 1] the variance is at
most the mean, which makes this a Bernstein-type bound that is tight for small means. Source: Badanidiyuru, Kleinberg,
Slivkins, *Bandits with Knapsacks*, section 2; factor kappa = 2 in Agrawal, Devanur (EC 2014) and StageRoute
(arXiv 2506.17254). A switch offers the empirical variance in its place.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.estimators.statistics import Statistics
from envs.parameters import choice, number


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Confidence:
    """How wide the intervals are: gamma = confidence * log(3 M T)."""

    confidence: float | jax.Array = number(0.25, low=0.0)  # theory wants about 1, practice 0.25
    kappa: float | jax.Array = number(1.0, low=0.0)  # multiple of the radius: 1 in BwK, 2 in StageRoute
    radius: str = choice("mean", ("mean", "variance"))  # what v is


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Lower and upper confidence bounds, stacked as in ``bandits.estimators.statistics``."""

    lower: jax.Array  # [M, D], or [D] of one model
    upper: jax.Array  # [M, D]


def gamma(confidence: Confidence, num_models: jax.Array, horizon: jax.Array) -> jax.Array:
    """[] the exploration level confidence * log(3 M T)."""
    return confidence.confidence * jnp.log(3.0 * num_models * horizon)


def confidence_radius(
    spread: jax.Array, count: jax.Array, level: jax.Array, linear: jax.Array | None = None
) -> jax.Array:
    """sqrt(level * spread / count) + linear / count, where ``linear`` may be left out: ``level``. Shapes broadcast."""
    return jnp.sqrt(level * spread / count) + (level if linear is None else linear) / count


def bounds(confidence: Confidence, statistics: Statistics, ceiling: jax.Array, level: jax.Array) -> Bounds:
    """Clipped bounds of every quantity, of all models [M, D] or of one [D]; a model never tried has [0, ceiling].

    ``ceiling``, of the same shape, is each quantity's known range: 1, or the model's worst case for a consumption (0 if
    the model is free). The radius is taken on the quantity divided by its range, which is what [0, 1] variables call
    for.
    """
    count = jnp.maximum(statistics.count, 1).astype(ceiling.dtype)[..., None]
    divisor = jnp.where(ceiling > 0, ceiling, 1.0)
    spread = statistics.mean / divisor
    if statistics.scatter is not None:
        spread = statistics.scatter / divisor / divisor / count
    margin = confidence.kappa * ceiling * confidence_radius(spread, count, level)
    return _clipped(statistics, margin, ceiling)


def unit_bounds(statistics: Statistics, level: jax.Array, linear: jax.Array) -> Bounds:
    """Bounds of quantities in [0, 1] whose radius has two constants: sqrt(level mean / count) + linear / count.

    Of all models [M, D] or of one [D]; a model never tried has [0, 1]. Unlike ``bounds``, this makes no use of a cheap
    model's smaller worst case.
    """
    count = jnp.maximum(statistics.count, 1).astype(statistics.mean.dtype)[..., None]
    margin = confidence_radius(statistics.mean, count, level, linear)
    return _clipped(statistics, margin, jnp.ones_like(statistics.mean))


def _clipped(statistics: Statistics, margin: jax.Array, ceiling: jax.Array) -> Bounds:
    """mean -/+ margin within [0, ceiling], which is all that is known of a model never tried."""
    tried = statistics.count[..., None] > 0
    lower = jnp.where(tried, jnp.maximum(statistics.mean - margin, 0.0), 0.0)
    upper = jnp.where(tried, jnp.minimum(statistics.mean + margin, ceiling), ceiling)
    return Bounds(lower=lower, upper=upper)
