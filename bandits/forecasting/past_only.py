"""The mean of the past, kept between refreshes."""

import jax.numpy as jnp

from bandits.forecasting.base import Forecast, Now, forecaster
from bandits.forecasting.running_mean import MeanState, RunningMean


@forecaster("past_only")
class PastOnly(RunningMean):
    """The total is what has come so far, as if nothing remained: the forecast that COPAC's AR(1) figure plots.

    Of a steady demand it misses a share 1 - t/T. The next round is expected to be like the average so far.
    """

    def outlook(self, state: MeanState, now: Now) -> Forecast:
        """Nothing remains."""
        return Forecast(next=self.average(state, now), remaining=jnp.zeros_like(now.nominal))
