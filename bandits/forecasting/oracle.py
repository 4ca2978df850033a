"""The true demand of every round, for comparison."""

from typing import Any, ClassVar

import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Forecaster, Hint, Now, forecaster
from envs.types import Problem


@forecaster("oracle")
class Oracle(Forecaster):
    """The truth: this round's demand and the realised total less what has arrived."""

    needs_hint: ClassVar[bool] = True

    def init(self, problem: Problem) -> Any:
        """No state."""
        return ()

    def outlook(self, state: Any, now: Now) -> Forecast:
        """Exact but for one rounding of the total, which the floor at this round's own demand repairs at the end."""
        hint = given(now.hint)
        return Forecast(next=hint.next, remaining=jnp.maximum(hint.total - hint.so_far, hint.next))


def given(hint: Hint | None) -> Hint:
    """The hint; ValueError where there is none."""
    if hint is None:
        raise ValueError("an oracle forecaster needs a hint in every call of predict")
    return hint
