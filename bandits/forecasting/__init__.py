"""Demand forecasters, one a file, found by name in ``base.FORECASTERS``; importing this package registers them."""

from bandits.forecasting.base import FORECASTERS

FORECASTERS.discover(__name__)

__all__ = ["FORECASTERS"]
