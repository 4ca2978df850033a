"""The true demand, made wrong in a controlled way."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Now, Number, forecaster
from bandits.forecasting.oracle import given
from envs.parameters import number
from envs.types import Problem


@forecaster("noisy_oracle")
class NoisyOracle(Forecaster):
    """The true total Q times 1 + bias + noise · ξ_t / (t + 1)^decay, with a fresh error ξ_t each round.

    The advice of Lyu and Cheung, *Bandits with Knapsacks: Advice on Time-Varying Demands* (ICML 2023): decay 0 never
    improves, decay 1/2 does as data would make it. ξ is a standard normal truncated at ±2, or uniform on [-1, 1]. What
    remains is the estimated total less what has arrived; this round's demand is q_t times the same factor.
    """

    needs_hint: ClassVar[bool] = True

    bias: Number = number(0.0, low=-1.0)
    noise: Number = number(0.2, low=0.0)
    decay: Number = number(0.0, low=0.0)
    uniform: Number = number(0, low=0, high=1, whole=True)

    def init(self, problem: Problem) -> Any:
        """No state."""
        return ()

    def outlook(self, state: Any, now: Now) -> Forecast:
        """The perturbed truth."""
        hint = given(now.hint)
        shrink = (now.t + 1).astype(now.nominal.dtype) ** -jnp.asarray(self.decay, now.nominal.dtype)
        factor = jnp.maximum(1.0 + self.bias + self.noise * shrink * self._error(now), 0.0)
        return Forecast(next=factor * hint.next, remaining=factor * hint.total - hint.so_far)

    def _error(self, now: Now) -> jax.Array:
        """ξ_t []; both kinds come from one draw, the normal by inverting its distribution function."""
        draw = jax.random.uniform(now.key, dtype=now.nominal.dtype, minval=-1.0)
        root_two = 2.0**0.5
        normal = root_two * jax.lax.erf_inv(draw * jax.lax.erf(jnp.full_like(draw, root_two)))
        return jnp.where(jnp.asarray(self.uniform) > 0.5, draw, normal)
