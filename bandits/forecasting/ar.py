"""An autoregression, fitted by recursive least squares."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Now, Number, forecaster, nominal_demand
from envs.parameters import number
from envs.types import Problem

SIMULATED_STEPS = 50  # of an autoregression, before its long-run mean takes over


CEILING = 2.0  # no autoregression predicts a round above this multiple of the largest demand seen


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class AutoregressiveState:
    """Weights of an autoregression and what recursive least squares needs; p is its order."""

    weights: jax.Array  # [p + 1] the intercept in units of ``scale``, then lag 1, lag 2, ...
    covariance: jax.Array  # [p + 1, p + 1] of the weights, in units of the noise variance
    lags: jax.Array  # [p] the latest demands in units of ``scale``, newest first
    scale: jax.Array  # [] tasks, fixed for the run: keeps the numbers near 1
    peak: jax.Array  # [] tasks, the largest demand seen
    rounds: jax.Array  # [] int32, rounds seen; no longer counted once there are p lags


@forecaster("ar")
class Autoregressive(Forecaster):
    """AR(p) with intercept, fitted by recursive least squares with forgetting (Ljung and Söderström, 1983).

    The prior is "like the last round", of variance ``prior_variance``. The first ``SIMULATED_STEPS`` rounds are
    recursed one by one; later ones are at the long-run mean w_0 / (1 - Σ w), or, where Σ w is so near or above 1 that
    the recursion would not have got there, at the last recursed value. So that an unstable fit stays sensible, every
    recursed value and the mean lie in [0, ``CEILING`` times the largest demand seen].

    Forgetting without news would inflate the covariance for ever: its trace is kept at or below the prior's. A fit that
    overflows returns to the prior.
    """

    order: int = number(3, low=1, high=64, whole=True, static=True)
    forgetting: Number = number(0.995, low=0.5, high=1.0)
    prior_variance: Number = number(100.0, low=1e-6, high=1e6)

    def init(self, problem: Problem) -> AutoregressiveState:
        """The prior, with lags as if every earlier round had been nominal."""
        nominal = nominal_demand(problem)
        scale = jnp.where(nominal > 0, nominal, 1.0)
        return AutoregressiveState(
            weights=self._prior_weights(nominal),
            covariance=self._prior_covariance(nominal),
            lags=jnp.full((self.order,), nominal / scale),
            scale=scale,
            peak=nominal,
            rounds=jnp.zeros((), jnp.int32),
        )

    def _prior_weights(self, like: jax.Array) -> jax.Array:
        return jnp.zeros((self.order + 1,), like.dtype).at[1].set(1.0)

    def _prior_covariance(self, like: jax.Array) -> jax.Array:
        return jnp.asarray(self.prior_variance, like.dtype) * jnp.eye(self.order + 1, dtype=like.dtype)

    def outlook(self, state: AutoregressiveState, now: Now) -> Forecast:
        """Recursion, then the long run."""
        ceiling = CEILING * state.peak / state.scale
        persistence = jnp.sum(state.weights[1:])

        def step(index: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            lags, total = carry
            value = jnp.clip(state.weights[0] + jnp.sum(state.weights[1:] * lags), 0.0, ceiling)
            total = total + jnp.where(index < now.rounds_left, value, 0.0)
            return jnp.concatenate([value[None], lags[:-1]]), total

        first, _ = step(jnp.zeros((), jnp.int32), (state.lags, jnp.zeros_like(ceiling)))
        lags, total = jax.lax.fori_loop(0, SIMULATED_STEPS, step, (state.lags, jnp.zeros_like(ceiling)), unroll=10)
        reverts = (1.0 - persistence) * SIMULATED_STEPS >= 1.0
        mean = jnp.clip(state.weights[0] / jnp.where(reverts, 1.0 - persistence, 1.0), 0.0, ceiling)
        later = jnp.maximum(now.rounds_left - SIMULATED_STEPS, 0) * jnp.where(reverts, mean, lags[0])
        return Forecast(next=state.scale * first[0], remaining=state.scale * (total + later))

    def learn(self, state: AutoregressiveState, demand: jax.Array, profile: jax.Array) -> AutoregressiveState:
        """One step of least squares, once there are p lags to explain the demand by."""
        value = demand / state.scale
        features = jnp.concatenate([jnp.ones((1,), state.lags.dtype), state.lags])
        weights, covariance = recursive_least_squares(
            state.weights, state.covariance, features, value, jnp.asarray(self.forgetting, value.dtype)
        )
        largest_trace = self.prior_variance * (self.order + 1)
        covariance = covariance * jnp.minimum(largest_trace / jnp.maximum(jnp.trace(covariance), 1e-30), 1.0)
        sound = jnp.isfinite(jnp.sum(weights)) & jnp.isfinite(jnp.sum(covariance))
        fitted = state.rounds >= self.order

        def keep(new: jax.Array, old: jax.Array, prior: jax.Array) -> jax.Array:
            return jnp.where(fitted, jnp.where(sound, new, prior), old)

        return AutoregressiveState(
            weights=keep(weights, state.weights, self._prior_weights(state.scale)),
            covariance=keep(covariance, state.covariance, self._prior_covariance(state.scale)),
            lags=jnp.concatenate([value[None], state.lags[:-1]]),
            scale=state.scale,
            peak=jnp.where(state.rounds > 0, jnp.maximum(state.peak, demand), demand),
            rounds=jnp.minimum(state.rounds + 1, self.order),
        )


def recursive_least_squares(
    weights: jax.Array, covariance: jax.Array, features: jax.Array, outcome: jax.Array, forgetting: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(weights [n], covariance [n, n]) after explaining ``outcome`` [] by ``features`` [n].

    The covariance is updated in Joseph's form (Bucy and Joseph, 1968), which stays positive in float32 where the short
    form does not. Products are written as sums: a GPU would round the inputs of small matrix products to 10 bits.
    """
    direction = jnp.sum(covariance * features[None, :], axis=1)
    gain = direction / (forgetting + jnp.sum(features * direction))
    rest = jnp.eye(features.shape[0], dtype=features.dtype) - gain[:, None] * features[None, :]
    half = jnp.sum(rest[:, :, None] * covariance[None, :, :], axis=1)
    joseph = jnp.sum(half[:, None, :] * rest[None, :, :], axis=2) + forgetting * gain[:, None] * gain[None, :]
    error = outcome - jnp.sum(weights * features)
    return weights + gain * error, 0.5 * (joseph + joseph.T) / forgetting
