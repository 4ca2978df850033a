"""Outcome distributions: what one answer is worth, uses and takes.

A bounded distribution is carried as a *quantile table*: ``knots`` values at equally spaced probabilities, sampled by
linear interpolation between neighbouring knots with one uniform. Each knot is the exact mean of the distribution over
the cell of probability around it (half a cell at either end). The trapezoid weights of the interpolated quantile
function are these cells' probabilities, so the table's mean *is* the distribution's mean, whatever the number of
knots, and a knot can leave neither the support nor the order.

Tables are built on the host in float64, once per world, and sampled on the device in float32 or float64. ``table_mean``
of the table that is sampled is the mean of what is sampled, whatever the dtype rounded.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from envs.errors import InputError

KNOTS = 1025

_CONSTANT_BELOW_CV = 1e-5  # a spread this small is lost in float32, and the incomplete gamma function's own error shows
_CONSTANT_WITHIN = 1e-9  # relative distance of mean and bound: nothing but the mean itself fits
_CONSTANT_ABOVE_CONCENTRATION = 1e9  # the same for the Beta: a standard deviation below 2e-5
_SMALLEST_REACH = 1e-280
_BISECTIONS = 70


def bounded_gamma_table(mean: ArrayLike, cv: ArrayLike, bound: ArrayLike, knots: int = KNOTS) -> np.ndarray:
    """Quantile table of min(X, bound), X Gamma, of mean ``mean`` exactly: what the bound cuts off is made up for.

    X has the coefficient of variation ``cv`` >= 0 and a mean that is ``mean`` or more, so min(X, bound) spreads less
    than ``cv`` says. ``mean`` >= 0 and ``bound`` >= ``mean`` (finite) are scalars or [N], in the outcome's unit; the
    result is [knots] or [N, knots], non-decreasing, in [0, bound]. ``cv`` 0, ``mean`` 0 and ``bound`` = ``mean`` give
    the constant ``mean``. InputError names the argument that is out of range.

    >>> table = bounded_gamma_table(0.2, 1.5, 0.5)
    >>> round(float(table.max()), 6), round(float(table_mean(table)), 9)
    (0.5, 0.2)
    """
    _require(mean, "mean", lambda value: value >= 0, ">= 0")
    _require(cv, "cv", lambda value: value >= 0, ">= 0")
    _require(bound, "bound", lambda value: value >= np.asarray(mean, float), ">= the mean")
    mean_, cv_, bound_ = _columns(mean, cv, bound)
    constant = (mean_ >= bound_ * (1 - _CONSTANT_WITHIN)) | (mean_ == 0) | (cv_ < _CONSTANT_BELOW_CV)
    shape = 1 / np.where(constant, 1.0, cv_) ** 2
    share = np.where(constant, 0.5, mean_ / np.where(constant, 1.0, bound_))  # of the bound, in (0, 1)
    reach = _reach(shape, share)  # the bound, in units of the Gamma's scale

    edges = _cell_edges(knots)
    quantile = np.minimum(special.gammaincinv(shape, edges), reach)
    below = shape * special.gammainc(shape + 1, quantile)  # E[X; X <= quantile]
    table = _cell_means(edges, quantile, below, special.gammainc(shape, quantile)) / reach
    table = np.where(quantile[..., :-1] >= reach, 1.0, np.minimum(table, 1.0))
    # So wide a spread that nearly all is next to 0 or at the bound: the limit of the law is a coin flip.
    flip = np.diff(np.maximum(edges - (1 - share), 0.0), axis=-1) / np.diff(edges)
    table = np.where(reach <= _SMALLEST_REACH, flip, table)
    return np.where(constant, mean_, bound_ * table)


def _reach(shape: np.ndarray, share: np.ndarray) -> np.ndarray:
    """z with E[min(G, z)] = share · z, G Gamma of this shape and scale 1; by bisection, as the ratio falls in z.

    Where no z above ``_SMALLEST_REACH`` is small enough, that.
    """
    low = np.full(np.broadcast_shapes(shape.shape, share.shape), np.log(_SMALLEST_REACH))
    high = np.log(shape / share) + 1e-3  # E[min(G, z)] <= E[G] = shape
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        reach = np.exp(middle)
        ratio = shape / reach * special.gammainc(shape + 1, reach) + special.gammaincc(shape, reach)
        low, high = np.where(ratio > share, middle, low), np.where(ratio > share, high, middle)
    return np.exp(low)


def beta_table(mean: ArrayLike, concentration: ArrayLike, knots: int = KNOTS) -> np.ndarray:
    """Quantile table of a Beta with this mean and concentration a + b: an answer's quality in [0, 1].

    The variance is mean (1 - mean) / (1 + concentration): towards 0 the Beta becomes a coin flip, towards infinity a
    constant. ``mean`` in [0, 1] and ``concentration`` > 0 are scalars or [N]; the result is [knots] or [N, knots]. A
    mean of 0 or 1 gives a constant. InputError names the argument that is out of range.

    >>> round(float(table_mean(beta_table(0.7, 3.0))), 6)
    0.7
    """
    _require(mean, "mean", lambda value: (value >= 0) & (value <= 1), "in [0, 1]")
    _require(concentration, "concentration", lambda value: value > 0, "> 0")
    mean_, concentration_ = _columns(mean, concentration)
    constant = (mean_ == 0) | (mean_ == 1) | (concentration_ > _CONSTANT_ABOVE_CONCENTRATION)
    inner = np.where(constant, 0.5, mean_)
    spread = np.where(constant, 1.0, concentration_)
    first, second = inner * spread, (1 - inner) * spread

    edges = _cell_edges(knots)
    quantile = special.betaincinv(first, second, edges)
    below = inner * special.betainc(first + 1, second, quantile)
    table = _cell_means(edges, quantile, below, special.betainc(first, second, quantile))
    table = np.where(quantile[..., :-1] >= 1, 1.0, np.minimum(table, 1.0))
    return np.where(constant, mean_, table)


def table_mean(table: np.ndarray) -> np.ndarray:
    """[...] float64 mean of what a quantile table [..., knots] samples: the "true mean" of the world."""
    exact = np.asarray(table, np.float64)
    return (exact[..., 1:] + exact[..., :-1]).mean(axis=-1) / 2


def service_probability(
    latency_mean: ArrayLike, latency_cv: ArrayLike, network_s: ArrayLike, slo_s: ArrayLike
) -> np.ndarray:
    """P(latency + network <= slo) for a log-normal latency with this mean (seconds) and coefficient of variation.

    All arguments broadcast against each other (seconds; ``slo_s`` may be inf); ``latency_cv`` 0 is a step.

    >>> [round(float(p), 3) for p in service_probability(2.0, [0.0, 0.5], 0.1, 2.1)]
    [1.0, 0.593]
    """
    _require(latency_mean, "latency_mean", lambda value: value > 0, "> 0")
    _require(latency_cv, "latency_cv", lambda value: value >= 0, ">= 0")
    arguments = (latency_mean, latency_cv, network_s, slo_s)
    mean, cv, network, slo = np.broadcast_arrays(*(np.asarray(value, float) for value in arguments))
    allowed = slo - network
    step = (mean + network <= slo).astype(float)
    log_variance = np.log1p(np.where(cv > 0, cv, 1.0) ** 2)
    log_mean = np.log(mean) - log_variance / 2
    distance = np.log(np.where(allowed > 0, allowed, 1.0)) - log_mean
    smooth = np.where(allowed > 0, special.ndtr(distance / np.sqrt(log_variance)), 0.0)
    return np.where(cv > 0, smooth, step)


def _cell_edges(knots: int) -> np.ndarray:
    """[knots + 1] probabilities: the cells are centred on the knots' probabilities and cut at 0 and 1."""
    if knots < 2:
        raise InputError(f"a quantile table needs at least 2 knots, not {knots}")
    centres = np.arange(knots) / (knots - 1)
    return np.concatenate([[0.0], (centres[1:] + centres[:-1]) / 2, [1.0]])


def _cell_means(edges: np.ndarray, quantile: np.ndarray, below: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """Mean of the quantile function over each cell, [..., knots].

    With q = ``quantile`` at an edge p, the quantile function's integral up to p is E[X; X <= q] + q (p - P(X <= q));
    ``below`` and ``reached`` are the expectation and the probability in it. The second term is the part of an atom at q
    (all probability beyond the bound), and it also repairs an inverse that rounded to the end of the support.
    """
    integral = below + quantile * (edges - reached)
    means = np.diff(integral, axis=-1) / np.diff(edges)
    return np.maximum.accumulate(np.maximum(means, 0.0), axis=-1)  # only ever moves rounding errors


def _columns(*values: ArrayLike) -> tuple[np.ndarray, ...]:
    """The arguments broadcast together, with a last axis of 1 for the knots."""
    return tuple(array[..., None] for array in np.broadcast_arrays(*(np.asarray(value, float) for value in values)))


def _require(value: ArrayLike, name: str, holds: Callable[[np.ndarray], np.ndarray], wanted: str) -> None:
    array = np.asarray(value, float)
    good = np.isfinite(array) & holds(array)
    if not good.all():
        raise InputError(f"{name} must be finite and {wanted}, not {array[~good].flat[0]:g}")


def sample(table: jax.Array, model: jax.Array, uniform: jax.Array) -> jax.Array:
    """[...] one draw from row ``model`` [] of the quantile tables [M, ..., knots], by one uniform [] in [0, 1).

    On the device; only the two knots around the uniform are read. The uniform stands for the middle of its step of
    2^-24 (2^-53): taken as its lower end, it would lower the mean by 2^-25 of the largest value.
    """
    cells = table.shape[-1] - 1
    position = uniform * cells
    below = jnp.minimum(jnp.floor(position).astype(jnp.int32), cells - 1)
    low, high = table[model, ..., below], table[model, ..., below + 1]
    half_a_step = float(jnp.finfo(uniform.dtype).eps) / 4 * cells
    return low + (high - low) * (position - below.astype(position.dtype) + half_a_step)
