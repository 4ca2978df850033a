"""From snapshots to a ``CellResult``: names, units, benchmarks and regret, in float64 on the host."""

from typing import Any

import numpy as np

from envs import ledger
from envs.instance import MONEY, Instance
from experiments import benchmark
from experiments.benchmark import Benchmark
from experiments.cells import Cell
from experiments.rollout import Snapshot
from experiments.store import CellResult


def cell_result(
    cell: Cell, snapshot: Snapshot, marks: np.ndarray, seeds: np.ndarray, wall_seconds: float, cache: dict[Any, Any]
) -> CellResult:
    """The result of one cell.

    ``snapshot`` holds the cell's runs along axis 1 of the books [E, R, ...] and means over runs of its beliefs
    [E, M, D]. ``cache`` keeps benchmarks between the policies of one world.
    """
    instance = cell.instance
    world = instance.world
    quanta = np.asarray(world.quanta, np.float64)
    books = {
        name: ledger.host_value(getattr(snapshot.world, name), quanta)
        for name in ("demand", "served", "refused", "reward", "reward_expected", "spent", "service")
    }
    ideal = _benchmark(instance, books["demand"][-1], cache)
    curves = _curves(instance, snapshot, books, ideal)
    number = len(instance.models)
    unit = np.concatenate([[1.0], instance.unit, np.ones(len(instance.services))])
    per_model = books["served"].mean(axis=1)[:, :number]
    return CellResult(
        description=_description(cell, bool(ideal.feasible.all()), wall_seconds),
        seeds=seeds,
        checkpoints=np.asarray(marks),
        metrics=tuple(curves),
        curves=np.stack(list(curves.values()), axis=-1).transpose(1, 0, 2),
        models=instance.models,
        estimates=("reward", *instance.resources, *instance.services),
        share=per_model / np.maximum(books["demand"].mean(axis=1), 1e-300)[:, None],
        lower=np.asarray(snapshot.lower)[:, :number] * unit,
        upper=np.asarray(snapshot.upper)[:, :number] * unit,
        coverage=np.asarray(snapshot.covered[:, :number], np.float64),
        truth=_truth(instance)[:number] * unit,
        benchmark_share=ideal.share.mean(axis=0)[:number],
    )


def _truth(instance: Instance) -> np.ndarray:
    """[M, D] true means, normalised units."""
    world = instance.world
    columns = [world.reward_mean[:, None], world.consumption_mean, world.service_mean]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _benchmark(instance: Instance, demand: np.ndarray, cache: dict[Any, Any]) -> Benchmark:
    """The fluid benchmark for the realised total demand [R] of each run."""
    key = (id(instance), demand.tobytes())
    if key not in cache:
        world = instance.world
        number = len(instance.models)
        budget = np.broadcast_to(instance.budget / instance.unit, (len(demand), len(instance.unit)))
        cache[key] = benchmark.fluid(
            reward=np.asarray(world.reward_mean, np.float64)[:number],
            consumption=np.asarray(world.consumption_mean, np.float64)[:number],
            service=np.asarray(world.service_mean, np.float64)[:number],
            budget=budget,
            target=np.asarray(world.problem.target, np.float64),
            throughput=np.asarray(world.problem.throughput, np.float64)[:number],
            demand=demand,
        )
    return cache[key]


def _curves(
    instance: Instance, snapshot: Snapshot, books: dict[str, np.ndarray], ideal: Benchmark
) -> dict[str, np.ndarray]:
    """Every metric [E, R]; see ``CellResult``."""
    demand = books["demand"]
    total = demand[-1]
    so_far = ideal.value * demand / np.where(total > 0, total, 1.0)
    served = books["served"].sum(axis=-1)
    target = np.asarray(instance.world.problem.target, np.float64)
    violation = np.maximum(target * demand[..., None] - books["service"], 0.0)
    forecast_total = np.asarray(snapshot.forecast_total, np.float64)
    spent = books["spent"] * instance.unit
    curves = {
        "reward": books["reward"],
        "reward_expected": books["reward_expected"],
        "benchmark": so_far,
        "regret": so_far - books["reward_expected"],
        "regret_realised": so_far - books["reward"],
        "violation": violation.max(axis=-1, initial=0.0),
        "violation_worst": np.asarray(snapshot.world.violation_worst, np.float64).max(axis=-1, initial=0.0),
        "overspend": _overspend(instance, snapshot),
        "declined": demand - served,
        "refused": books["refused"],
        "served": served,
        "demand": demand,
        "forecast_total": forecast_total,
        "forecast_error": np.abs(forecast_total - total) / np.where(total > 0, total, 1.0),
        "invalid": np.asarray(snapshot.invalid, np.float64),
    }
    curves |= {f"spent_{name}": spent[..., i] for i, name in enumerate(instance.resources)}
    curves |= {f"violation_{name}": violation[..., j] for j, name in enumerate(instance.services)}
    names = (*instance.resources, *instance.services)
    duals = np.asarray(snapshot.duals, np.float64)
    return curves | {f"dual_{name}": duals[..., i] for i, name in enumerate(names)}


def _overspend(instance: Instance, snapshot: Snapshot) -> np.ndarray:
    """[E, R] largest relative overspend over the resources, from whole quanta: 0.0 says exactly none."""
    spent = ledger.host_units(snapshot.world.spent)
    budget = ledger.host_units(instance.world.budget)
    over = np.where(spent > budget, (spent - budget) / np.maximum(budget, 1), 0)
    return over.astype(np.float64).max(axis=-1, initial=0.0)


def _description(cell: Cell, feasible: bool, wall_seconds: float) -> dict[str, Any]:
    config, instance = cell.config, cell.instance
    money = instance.resources.index(MONEY) if MONEY in instance.resources else None
    return {
        "cell": cell.id,
        "policy": config.policy.name,
        "rule": config.policy.rule,
        "deployment": "everything",
        "env": config.catalogue,
        "demand": config.demand["process"],
        "forecaster": config.forecaster["name"],
        "num_models": len(instance.models),
        "horizon": config.horizon,
        "budget": None if money is None else float(instance.budget[money]),
        "budget_per_task": config.env.budget_per_task,
        "target": config.env.target,
        "clairvoyant": cell.learner.rule.clairvoyant,
        "benchmark_feasible": feasible,
        "wall_s": round(wall_seconds, 4),
        "swept": config.swept,
    }
