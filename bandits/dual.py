"""Dual ascent through optax: prices of the packing and covering constraints.

The prices are kept in *relative* form, each divided by its largest sensible value, so that one step size suits all and
an adaptive optimizer compares like with like. Optimizers are built inside the traced function from traced step sizes,
so sweeping the step size never recompiles.
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
