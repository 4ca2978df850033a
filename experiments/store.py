"""Results on disk: one atomic file a cell, and the tables made from them."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell: a policy in a world at one horizon, over R runs.

    ``description`` holds plain values only (str, int, float, bool, None): at least ``cell`` (id), ``policy``, ``deployment``,
    ``env``, ``demand``, ``forecaster``, ``num_models``, ``horizon``, ``budget`` (USD in total or None), ``budget_per_task``
    (USD or None), ``target`` (latency target or None), ``clairvoyant`` (bool), ``benchmark_feasible`` (bool),
    ``wall_s``, ``swept`` (dict of the swept numeric parameters of this cell).
    ``metrics`` names the last axis of ``curves``: reward, reward_expected, benchmark, regret (expected), regret_realised,
    violation (largest over metrics), violation_worst, declined, served, demand, forecast_total, forecast_error
    (|forecast total - realised total| / realised total), spent_<resource>, violation_<metric>, dual_<resource or metric>.
    Money is in USD. All sums are cumulative up to the checkpoint's round.
    """

    description: dict[str, Any]
    seeds: np.ndarray  # [R] int
    checkpoints: np.ndarray  # [E] int, rounds completed; the last one is the horizon
    metrics: tuple[str, ...]  # K names
    curves: np.ndarray  # [R, E, K] float64
    models: tuple[str, ...]  # M names
    estimates: tuple[str, ...]  # names of the quantities learned: reward, then the resources, then the covering metrics
    share: np.ndarray  # [E, M] share of all demand so far that each model served, mean over runs
    lower: np.ndarray  # [E, M, 1+P+C] confidence bounds, mean over runs, in each quantity's own unit (USD, [0, 1])
    upper: np.ndarray  # [E, M, 1+P+C]
    coverage: np.ndarray  # [E, M, 1+P+C] share of runs whose interval holds the true mean
    truth: np.ndarray  # [M, 1+P+C] true means
    benchmark_share: np.ndarray  # [M] the benchmark's mix, mean over runs
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # further named arrays

    def curve(self, metric: str) -> np.ndarray:
        """[R, E] of one metric; KeyError names the metrics there are."""
        if metric not in self.metrics:
            raise KeyError(f"no metric {metric!r}; this cell holds {', '.join(self.metrics)}")
        return self.curves[:, :, self.metrics.index(metric)]

    def final(self, metric: str) -> np.ndarray:
        """[R] of one metric at the horizon."""
        return self.curve(metric)[:, -1]
