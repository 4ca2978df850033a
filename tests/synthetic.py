"""Made-up results with plausible curves: what figures and reports are tested on, without simulating anything."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.store import CellResult

METRICS = (
    "reward",
    "reward_expected",
    "benchmark",
    "regret",
    "regret_realised",
    "violation",
    "violation_worst",
    "overspend",
    "declined",
    "refused",
    "invalid",
    "served",
    "demand",
    "forecast_total",
    "forecast_error",
    "spent_money",
    "violation_latency",
    "dual_money",
    "dual_latency",
)
POWERS = {"ucb": 0.5, "thompson": 0.52, "explore_first": 0.67, "greedy": 0.9, "random": 1.0, "oracle": 0.0}
MEAN_DEMAND = 3.0


def make_cell(
    policy: str = "ucb",
    *,
    horizon: int = 1000,
    budget_per_task: float | None = 0.002,
    target: float | None = 0.8,
    runs: int = 8,
    marks: int = 25,
    models: Sequence[str] = ("edge-small", "edge-large", "cloud-mini", "cloud-pro"),
    clairvoyant: bool = False,
    seed: int = 0,
    **description: Any,
) -> CellResult:
    """One cell whose regret grows like t to the policy's power (:data:`POWERS`, 0.6 for other names)."""
    budget_digits = 0 if budget_per_task is None else round(1e7 * budget_per_task)
    generator = np.random.default_rng([seed, horizon, budget_digits, *policy.encode()])
    checkpoints = np.unique(np.round(np.geomspace(1, horizon, marks)).astype(int))
    truth = _truth(len(models))
    return CellResult(
        description=_description(policy, horizon, budget_per_task, target, clairvoyant, len(models)) | description,
        seeds=np.arange(runs),
        checkpoints=checkpoints,
        metrics=METRICS,
        curves=_curves(generator, policy, checkpoints, budget_per_task, target, runs, horizon),
        models=tuple(models),
        estimates=("reward", "money", "latency"),
        benchmark_share=_mix(len(models), 0.0),
        truth=truth,
        **_beliefs(generator, checkpoints, truth),
    )


def make_study(
    policies: Sequence[str] = ("ucb", "thompson", "explore_first", "greedy"),
    budgets: Sequence[float | None] = (0.001, 0.002, 0.004),
    horizons: Sequence[int] = (1000, 4000, 16000, 64000),
    *,
    oracle: bool = True,
    **options: Any,
) -> list[CellResult]:
    """Every policy at every budget and horizon, and a clairvoyant one."""
    names = [*policies, "oracle"] if oracle else policies
    return [
        make_cell(name, budget_per_task=budget, horizon=horizon, clairvoyant=name == "oracle", **options)
        for budget in budgets
        for horizon in horizons
        for name in names
    ]


def _description(
    policy: str, horizon: int, budget: float | None, target: float | None, clairvoyant: bool, num_models: int
) -> dict[str, Any]:
    return {
        "cell": f"{policy}-{horizon}-{budget}",
        "policy": policy,
        "deployment": "all",
        "env": "edge_cloud",
        "demand": "poisson",
        "forecaster": "ewma",
        "num_models": num_models,
        "horizon": horizon,
        "budget": None if budget is None else budget * MEAN_DEMAND * horizon,
        "budget_per_task": budget,
        "target": target,
        "clairvoyant": clairvoyant,
        "benchmark_feasible": True,
        "wall_s": 0.25,
        "swept": {"horizon": horizon, "budget_per_task": budget},
    }


def _curves(
    generator: np.random.Generator,
    policy: str,
    checkpoints: np.ndarray,
    budget: float | None,
    target: float | None,
    runs: int,
    horizon: int,
) -> np.ndarray:
    """[R, E, K]"""
    power = POWERS.get(policy, 0.6)
    rounds = np.broadcast_to(checkpoints.astype(float), (runs, len(checkpoints)))
    wiggle = 1 + 0.15 * generator.standard_normal((runs, 1)) + 0.01 * generator.standard_normal(rounds.shape)
    demand = MEAN_DEMAND * rounds + np.sqrt(rounds) * generator.standard_normal((runs, 1))
    demand = np.maximum.accumulate(np.maximum(demand, 0.5), axis=1)
    value = 0.6 + 0.3 * min(1.0, (0.002 if budget is None else budget) / 0.004)
    benchmark = value * demand
    regret = np.minimum(0.8 * rounds**power * wiggle, 0.9 * benchmark)
    if power == 0.0:
        regret = 0.3 * np.sqrt(rounds) * generator.standard_normal((runs, 1)) * 0.1
    reward = benchmark - regret
    noise = np.sqrt(rounds) * 0.2 * generator.standard_normal((runs, 1))
    worst = 0.0 if target is None else 1.0
    violation = worst * np.maximum(0.0, 0.3 * rounds ** min(power, 0.7) * wiggle - 0.2 * generator.random((runs, 1)))
    spend = (0.002 if budget is None else 0.96 * budget) * demand * np.clip(wiggle, 0.8, 1.0)
    error = 0.6 * rounds**-0.35 * np.abs(1 + 0.5 * generator.standard_normal((runs, 1)))
    total = demand[:, -1:] * (1 + error * np.sign(generator.standard_normal((runs, 1))))
    declined = 0.01 * demand
    columns = {
        "reward": reward + noise,
        "reward_expected": reward,
        "benchmark": benchmark,
        "regret": regret,
        "regret_realised": regret - noise,
        "violation": violation,
        "violation_worst": 1.1 * violation,
        "overspend": np.zeros(rounds.shape),
        "declined": declined,
        "refused": 0.5 * declined,
        "invalid": np.zeros(rounds.shape),
        "served": demand - declined,
        "demand": demand,
        "forecast_total": total,
        "forecast_error": error,
        "spent_money": spend,
        "violation_latency": violation,
        "dual_money": 0.5 * (1 - np.exp(-rounds / horizon)),
        "dual_latency": np.full(rounds.shape, np.nan),
    }
    return np.stack([columns[name] for name in METRICS], axis=-1)


def _truth(num_models: int) -> np.ndarray:
    """[M, 3] mean reward, cost in USD and service."""
    rank = (np.arange(num_models) + 1) / num_models
    return np.stack([0.35 + 0.55 * rank, 2e-4 * 40.0**rank, 1.0 - 0.4 * rank], axis=1)


def _mix(num_models: int, blur: float) -> np.ndarray:
    """[M] shares that sum to 0.98: some demand is declined."""
    weight = np.exp(-np.abs(np.arange(num_models) - 0.6 * num_models))
    mix = (1 - blur) * weight / weight.sum() + blur / num_models
    return 0.98 * mix


def _beliefs(generator: np.random.Generator, checkpoints: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    blur = checkpoints[:, None] ** -0.3
    share = np.stack([_mix(len(truth), float(value)) for value in blur[:, 0]])
    radius = np.minimum(1.0, 1.5 / np.sqrt(1 + checkpoints[:, None] * share))[:, :, None] * truth[None] * 0.6
    centre = truth[None] + 0.4 * radius * generator.standard_normal(radius.shape)
    return {
        "share": share,
        "lower": np.maximum(centre - radius, 0.0),
        "upper": centre + radius,
        "coverage": np.clip(1 - 0.05 * generator.random(radius.shape), 0, 1),
    }
