"""Dual ascent: prices of the packing and covering constraints, through optax or by projected gradient steps.

``ascend`` keeps prices in *relative* form, each divided by its largest sensible value, so that one step size suits all
and an adaptive optimizer compares like with like. Optimizers are built inside the traced function from traced step
sizes, so sweeping the step size never recompiles.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

OPTIMIZERS = ("sgd", "adam", "exponentiated_gradient")
SCHEDULES = ("horizon", "anytime")


def exponentiated_gradient(learning_rate: jax.Array) -> optax.GradientTransformation:
    """Multiplicative updates p <- p exp(learning_rate * gradient), from Kivinen and Warmuth (1997).

    Prices start at zero elsewhere, which multiplicative updates would never leave; a floor keeps them alive.
    """
    floor = 1e-3

    def update(gradient: jax.Array, state: optax.EmptyState, params: jax.Array | None = None) -> Any:
        assert params is not None, "a multiplicative update needs the prices"
        exponent = jnp.clip(learning_rate * gradient, -20.0, 20.0)
        return jnp.maximum(params, floor) * jnp.exp(exponent) - params, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def optimizer(name: str, schedule: str, step_size: jax.Array, horizon: jax.Array) -> optax.GradientTransformation:
    """An *ascent* transformation; step size ``step_size`` / sqrt(T) (``horizon``) or / sqrt(t + 1) (``anytime``)."""
    at_horizon = step_size / jnp.sqrt(jnp.maximum(horizon, 1).astype(step_size.dtype))

    def rate(count: jax.Array) -> jax.Array:
        if schedule == "horizon":
            return at_horizon
        return step_size / jnp.sqrt((count + 1).astype(step_size.dtype))

    if name == "exponentiated_gradient":
        return optax.chain(optax.scale_by_schedule(rate), exponentiated_gradient(jnp.ones_like(step_size)))
    direction = optax.scale_by_adam() if name == "adam" else optax.identity()
    return optax.chain(direction, optax.scale_by_schedule(rate))


def ascend(
    transformation: optax.GradientTransformation, state: Any, prices: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, Any]:
    """One step on relative prices [P + C], kept in [0, 1]."""
    updates, state = transformation.update(gradient, state, prices)
    return jnp.clip(optax.apply_updates(prices, updates), 0.0, 1.0), state


def project(prices: jax.Array, radius: jax.Array) -> jax.Array:
    """[d] the nearest point to ``prices`` [d] with nonnegative entries that sum to at most ``radius`` [] > 0.

    Of w = max(prices, 0): max(w - θ, 0) with θ = max(0, max_j (sum of the j largest entries - radius) / j), which is
    Duchi, Shalev-Shwartz, Singer, Chandra (ICML 2008). As d is the number of constraints, the sums are taken by
    comparing all pairs; where entries are equal, only the sum over all of them counts, and no other one is larger.

    >>> project(jnp.asarray([3.0, 1.5, -2.0]), jnp.asarray(2.0)).tolist()
    [1.75, 0.25, 0.0]
    """
    nonnegative = jnp.maximum(prices, 0.0)
    at_least = nonnegative[None, :] >= nonnegative[:, None]
    count = jnp.sum(at_least, axis=1).astype(prices.dtype)
    excess = (jnp.sum(jnp.where(at_least, nonnegative[None, :], 0.0), axis=1) - radius) / count
    return jnp.maximum(nonnegative - jnp.max(excess, initial=0.0), 0.0)


def valued(prices: jax.Array, amounts: jax.Array) -> jax.Array:
    """[M] the sum of prices [d] times amounts [M, d], the same to the bit for models with the same amounts.

    Left alone, a compiler merges a product with the addition after it in some lanes of a vector loop and not in others.
    The sums of models that tie, as all do before they were tried, would then differ in the last bit, and a maximum
    would not take the first of them. Cutting one bit off each product keeps it apart.
    """
    numbers = jnp.finfo(amounts.dtype)
    products = jax.lax.reduce_precision(prices[None] * amounts, numbers.nexp, numbers.nmant - 1)
    return jnp.sum(products, axis=1)
