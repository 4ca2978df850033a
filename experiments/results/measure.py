"""From snapshots to a ``CellResult``: totals, benchmarks and metrics, in float64 on the host."""

from typing import Any

import numpy as np

from envs import ledger
from envs.build import MONEY, Instance
from envs.timeline import stage_start
from experiments.config import sources
from experiments.config.cells import Cell
from experiments.engine.rollout import Snapshot
from experiments.results import benchmark
from experiments.results.benchmark import Epochs
from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo
from experiments.results.metrics import METRICS
from experiments.results.metrics.measured import Deployed, Ideal, Totals


def cell_result(
    cell: Cell, snapshot: Snapshot, marks: np.ndarray, seeds: np.ndarray, wall_seconds: float, cache: dict[Any, Any]
) -> CellResult:
    """The result of one cell.

    ``snapshot`` holds the cell's runs along axis 1 of the books [E, R, ...] and means over runs of its beliefs
    [E, M, D]. ``cache`` keeps benchmarks between the policies of one world.
    """
    instance = cell.instance
    per_model = ledger.host_value(snapshot.world.served, instance.world.scale)  # [E, R, M]
    totals = _totals(cell, snapshot, per_model, cache)
    found = curves(totals)
    number = len(instance.models)
    unit = np.concatenate([[1.0], instance.unit, np.ones(len(instance.services))])
    demand = np.maximum(totals.demand.mean(axis=1), 1e-300)[:, None]
    return CellResult(
        info=_info(cell, totals.ideal.feasible, wall_seconds),
        seeds=seeds,
        eval_rounds=np.asarray(marks),
        metrics=tuple(found),
        curves=np.stack(list(found.values()), axis=-1).transpose(1, 0, 2),
        models=instance.models,
        estimates=("reward", *instance.resources, *instance.services),
        share=per_model.mean(axis=1)[:, :number] / demand,
        lower=np.asarray(snapshot.lower)[:, :number] * unit,
        upper=np.asarray(snapshot.upper)[:, :number] * unit,
        coverage=np.asarray(snapshot.covered[:, :number], np.float64),
        truth=_truth(instance)[:number] * unit,
        benchmark_share=totals.ideal.share[-1],
        extras=_deployment_extras(cell, snapshot, totals.ideal),
    )


def _totals(cell: Cell, snapshot: Snapshot, per_model: np.ndarray, cache: dict[Any, Any]) -> Totals:
    """What the runs came to; ``per_model`` [E, R, M] are the tasks that each model served."""
    instance, seen = cell.instance, snapshot.world
    world = instance.world
    books = {name: ledger.host_value(getattr(seen, name), world.scale) for name in ("demand", "refused", "reward")}
    demand = books["demand"]
    # Served tasks are counted without the lowest digit: what is missing to the demand is taken without it, too.
    arrived = ledger.host_units(ledger.Total(digits=seen.demand.digits[1:]))
    missing = arrived - ledger.host_units(seen.served).sum(axis=-1)
    return Totals(
        resources=instance.resources,
        services=instance.services,
        target=np.asarray(world.problem.target, np.float64),
        budget_per_task=instance.budget / instance.expected_demand,
        demand=demand,
        served=per_model.sum(axis=-1),
        declined=missing / ledger.quanta(seen.served, world.scale),
        refused=books["refused"],
        reward=books["reward"],
        reward_expected=per_model @ np.asarray(world.reward_mean, np.float64),
        service=ledger.host_value(seen.service, world.scale),
        violation_worst=np.asarray(seen.violation_worst, np.float64),
        spent=ledger.host_value(seen.spent, world.consumption_scale) * instance.unit,
        quanta_spent=ledger.host_units(seen.spent),
        quanta_budget=ledger.host_units(world.budget),
        forecast_total=np.asarray(snapshot.forecast_total, np.float64),
        duals=np.asarray(snapshot.duals, np.float64),
        invalid=np.asarray(snapshot.invalid, np.float64),
        clipped=np.asarray(seen.clipped, np.float64),
        ideal=_ideal(cell, snapshot, demand, cache),
        deployed=_deployed(snapshot),
    )


def _deployed(snapshot: Snapshot) -> Deployed | None:
    """What deployment came to, where what is live can change."""
    if snapshot.books is None:
        return None
    return Deployed(
        value=np.asarray(snapshot.books.deployed_value, np.float64),
        activations=np.asarray(snapshot.world.activations, np.float64),
        evictions=np.asarray(snapshot.world.evictions, np.float64),
        gap=np.asarray(snapshot.deployment_gap, np.float64),
    )


def curves(totals: Totals) -> dict[str, np.ndarray]:
    """Every measured metric [E, R] under the name of its column."""
    found: dict[str, np.ndarray] = {}
    for metric in METRICS.measured():
        values = metric.compute(totals)
        if metric.each:
            members = totals.members(metric.each)
            found |= {metric.member(name): values[..., place] for place, name in enumerate(members)}
        elif values is not None:
            found[metric.name] = values
    return found


def _truth(instance: Instance) -> np.ndarray:
    """[M, D] true means, normalised units."""
    world = instance.world
    columns = [world.reward_mean[:, None], world.consumption_mean, world.service_mean]
    return np.concatenate(columns, axis=1).astype(np.float64)


def _ideal(cell: Cell, snapshot: Snapshot, demand: np.ndarray, cache: dict[Any, Any]) -> Ideal:
    """The benchmarks of a cell, from the demand [E, R] so far."""
    if snapshot.books is None:
        return _fixed(cell.instance, demand, cache)
    spans, before = _spans(cell)
    bins = ledger.host_value(snapshot.books.span_demand, cell.instance.world.scale)[:, :, : len(spans)]  # [E, R, G, 2]
    known, total = _means(cell.instance, demand[-1]), bins[-1].sum(axis=-1)
    key = ("best_deployment", id(cell.instance), total.tobytes())
    if key not in cache:
        most = int(cell.instance.world.problem.max_deployed)
        cache[key] = (
            benchmark.best_deployment(**known, available=spans, demand=total, max_deployed=most),
            benchmark.best_deployment(**known, available=before, demand=total, max_deployed=most),
            benchmark.fluid_epochs(**known, available=spans, demand=total),
        )
    now, window, fluid = cache[key]
    so_far = bins.sum(axis=-1)
    share = np.einsum("erg,rgm->em", so_far, now.share) / np.maximum(so_far.sum(axis=(1, 2)), 1e-300)[:, None]
    return Ideal(
        best_deployment=_earned(so_far, now),
        window=_earned(bins[..., 0], window) + _earned(bins[..., 1], now),
        fluid=_earned(so_far, fluid),
        serving_all=None,
        unconstrained=None,
        share=share,
        feasible=bool(now.feasible[total > 0].all()),
    )


def _earned(demand: np.ndarray, ideal: Epochs) -> np.ndarray:
    """[E, R] from the demand [E, R, G] at each epoch's value of a task."""
    return np.asarray(np.einsum("erg,rg->er", demand, ideal.value))


def _spans(cell: Cell) -> tuple[np.ndarray, np.ndarray]:
    """The models of each span of constant inventory, and those of them that were there when its stage began, [G, M]."""
    timeline, number = cell.timeline, len(cell.instance.models)
    changes = np.asarray(timeline.changes)
    begins = np.concatenate([[0], changes[changes < timeline.horizon]]).astype(np.int64)
    starts = np.asarray(stage_start(int(timeline.horizon), int(timeline.stages), np.arange(int(timeline.stages))))
    began = starts[np.searchsorted(starts, begins, side="right") - 1]
    there = cell.instance.world.inventory
    arrival, retirement = np.asarray(there.arrival)[:number], np.asarray(there.retirement)[:number]
    spans = (arrival <= begins[:, None]) & (begins[:, None] < retirement)
    return spans, spans & (arrival <= began[:, None])


def _fixed(instance: Instance, demand: np.ndarray, cache: dict[Any, Any]) -> Ideal:
    """The benchmarks where all models are live throughout: they coincide."""
    key = ("fixed", id(instance), demand[-1].tobytes())
    if key not in cache:
        known = _means(instance, demand[-1])
        cache[key] = (
            benchmark.fluid(**known, demand=demand[-1]),
            benchmark.serving_all(**known, demand=demand[-1]),
            benchmark.unconstrained(known["reward"], known["throughput"], demand[-1]),
        )
    ideal, serving_all, unconstrained = cache[key]
    arrived = demand / np.where(demand[-1] > 0, demand[-1], 1.0)
    so_far = ideal.value * arrived
    return Ideal(
        best_deployment=so_far,
        window=so_far,
        fluid=so_far,
        serving_all=serving_all * arrived,
        unconstrained=unconstrained * arrived,
        share=np.broadcast_to(ideal.share.mean(axis=0), (len(demand), len(instance.models))),
        feasible=bool(ideal.feasible.all()),
    )


def _means(instance: Instance, demand: np.ndarray) -> dict[str, np.ndarray]:
    """What a benchmark is told of the world, for runs of this total demand [R]."""
    world, number = instance.world, len(instance.models)
    means = {"reward": world.reward_mean, "consumption": world.consumption_mean, "service": world.service_mean}
    means |= {"throughput": world.problem.throughput}
    known = {name: np.asarray(values, np.float64)[:number] for name, values in means.items()}
    budget = np.broadcast_to(instance.budget / instance.unit, (len(demand), len(instance.unit)))
    return known | {"budget": budget, "target": np.asarray(world.problem.target, np.float64)}


def _deployment_extras(cell: Cell, snapshot: Snapshot, ideal: Ideal) -> dict[str, np.ndarray]:
    """Which models were there, live and used when; see ``CellResult``."""
    if snapshot.books is None:
        return {}
    number = len(cell.instance.models)
    there = cell.instance.world.inventory
    return {
        "arrival": np.asarray(there.arrival, np.int64)[:number],
        "retirement": np.asarray(there.retirement, np.int64)[:number],
        "live": np.asarray(snapshot.world.deployed, np.float64).mean(axis=1)[:, :number],
        "oracle_share": ideal.share,
        "first_live": np.asarray(snapshot.world.first_live[-1], np.int64)[:, :number],
        "first_best": np.asarray(snapshot.books.first_best[-1], np.int64)[:, :number],
    }


def _info(cell: Cell, feasible: bool, wall_seconds: float) -> CellInfo:
    """What the cell is and was made of."""
    config, instance = cell.config, cell.instance
    money = instance.resources.index(MONEY) if MONEY in instance.resources else None
    return CellInfo(
        cell=cell.id,
        policy=config.policy.name,
        routing=config.policy.routing,
        deployment=config.policy.deployment,
        env=config.world or config.catalogue,
        demand=config.demand_name or config.demand["process"],
        forecaster=config.forecaster["name"],
        num_models=len(instance.models),
        horizon=config.horizon,
        budget=None if money is None else float(instance.budget[money]),
        budget_per_task=config.env.budget_per_task,
        target=config.env.target,
        stages=instance.stages,
        max_deployed=config.env.max_deployed,
        arrivals=config.env.arrival_pattern.arrivals,
        clairvoyant=cell.policy.clairvoyant,
        benchmark_feasible=feasible,
        wall_s=round(wall_seconds, 4),
        swept=config.swept,
        parameters=cell.parameters,
        sources=cell.sources,
        versions=sources.versions(),
    )
