"""Offline full-information benchmarks: what a planner who knows every mean would have earned.

Linear programs in float64 with HiGHS. One run's program is tiny (M variables) and a call to HiGHS costs as much as
some fifty of them, so many runs are solved as one block-diagonal program; runs that share a per-task budget are solved
once.

Axes: R runs, M models, P packing resources, C covering metrics.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linprog
from scipy.sparse import csr_array

BLOCK_ENTRIES = 12_000  # matrix entries in one HiGHS call: near the least time a run for M = 11 to 60 (measured)

_REACHED = 1e-9  # a shortfall below this is rounding
_SHORTFALL_PRICE = 1e3  # first guess at what a unit of shortfall must cost; where it is too little we find out
_LEAST_BUDGET = 1e-6  # of the dearest model: budget rows are scaled by no less than this
_HIGHS = {"presolve": False, "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """The benchmark's result for each run: totals over the whole run, in the units they were given in."""

    value: np.ndarray  # [R] expected total reward
    share: np.ndarray  # [R, M] share of all tasks that each model gets; what is missing to 1 is declined
    feasible: np.ndarray  # [R] bool, every target can be met within the budget
    spend: np.ndarray  # [R, P] expected total consumption
    service: np.ndarray  # [R, C] expected total service


@dataclass(frozen=True, kw_only=True)
class Mix:
    """One task's best mix of models."""

    value: float  # expected reward of a task
    share: np.ndarray  # [M]
    feasible: bool


def fluid(
    reward: ArrayLike,
    consumption: ArrayLike,
    service: ArrayLike,
    budget: ArrayLike,
    target: ArrayLike,
    throughput: ArrayLike,
    demand: ArrayLike,
) -> Benchmark:
    """The fluid benchmark of R runs with a fixed inventory: Q_r V(B_r / Q_r, all models), Q_r the run's total demand.

    V(b) = max { reward.x : consumption_i.x <= b_i, service_j.x >= target_j, 0 <= x <= throughput, sum x <= 1 }.

    ``reward`` [M], ``consumption`` [M, P] and ``service`` [M, C] are true means of one task; ``budget`` [R, P] holds
    totals in the unit of ``consumption``, inf where unlimited; ``target`` [C] and ``throughput`` [M] lie in [0, 1];
    ``demand`` [R] counts tasks.

    Targets that nobody can meet are not an error: such a run gets the mix with the smallest largest shortfall
    max_j (target_j - service_j.x), of those the one of most reward, and ``feasible`` False. A run without demand is
    worth 0. ValueError where shapes disagree or a number is NaN; RuntimeError should HiGHS fail on a single run.

    >>> one = fluid([0.2, 0.8], [[0.1], [1.0]], np.zeros((2, 0)), [[55.0]], [], [1.0, 1.0], [100.0])
    >>> one.value.round(9).tolist(), one.share.round(9).tolist()
    ([50.0], [[0.5, 0.5]])
    """
    world = _world(reward, consumption, service, target, throughput)
    total_budget, tasks = np.asarray(budget, float), np.asarray(demand, float)
    if tasks.ndim != 1 or total_budget.shape != (len(tasks), world.consumption.shape[1]):
        raise ValueError(f"budget {total_budget.shape} must be [R, P] and demand {tasks.shape} [R]")
    if not (np.isfinite(tasks).all() and (tasks >= 0).all() and (total_budget >= 0).all()):
        raise ValueError("demand must be finite and >= 0, and budgets >= 0")

    served = tasks > 0
    per_task = total_budget[served] / tasks[served, None]
    # A task never uses more than the dearest model's mean, so every larger budget is the same program.
    per_task = np.minimum(per_task, world.consumption.max(axis=0, initial=0.0))
    distinct, which = np.unique(per_task, axis=0, return_inverse=True)
    solution = _least_violating(world, distinct)

    share = np.zeros((len(tasks), len(world.reward)))
    share[served] = solution.share[which.reshape(-1)]
    feasible = np.ones(len(tasks), dtype=bool)
    feasible[served] = solution.shortfall[which.reshape(-1)] <= _REACHED
    return Benchmark(
        value=tasks * (share @ world.reward),
        share=share,
        feasible=feasible,
        spend=tasks[:, None] * (share @ world.consumption),
        service=tasks[:, None] * (share @ world.service),
    )


def per_task_value(
    reward: ArrayLike,
    consumption: ArrayLike,
    service: ArrayLike,
    budget_per_task: ArrayLike,
    target: ArrayLike,
    throughput: ArrayLike,
    support: ArrayLike | None = None,
    serve_all: bool = False,
) -> Mix:
    """V(b, S): the best mix for one task at the per-task budget b [P], using only the models of ``support`` [M] bool.

    ``serve_all`` asks for sum x = 1 (StageRoute's form, Li and Li, arXiv 2506.17254) instead of sum x <= 1. It counts
    as one more target: where not every task can be served the result is the least-violating mix with ``feasible``
    False. Other arguments as in ``fluid``.
    """
    reward_, service_, target_ = (np.asarray(value, float) for value in (reward, service, target))
    caps = np.asarray(throughput, float)
    if support is not None:
        caps = np.where(np.asarray(support, bool), caps, 0.0)
    if serve_all:
        service_ = np.concatenate([service_, np.ones((len(reward_), 1))], axis=1)
        target_ = np.append(target_, 1.0)
    budget = np.asarray(budget_per_task, float)[None, :]
    result = fluid(reward_, consumption, service_, budget, target_, caps, [1.0])
    return Mix(value=float(result.value[0]), share=result.share[0], feasible=bool(result.feasible[0]))


class _World(NamedTuple):
    """What all runs share."""

    reward: np.ndarray  # [M]
    consumption: np.ndarray  # [M, P]
    service: np.ndarray  # [M, C]
    target: np.ndarray  # [C]
    throughput: np.ndarray  # [M]


class _Solution(NamedTuple):
    share: np.ndarray  # [R, M]
    shortfall: np.ndarray  # [R] largest over the targets


def _world(
    reward: ArrayLike, consumption: ArrayLike, service: ArrayLike, target: ArrayLike, throughput: ArrayLike
) -> _World:
    world = _World(*(np.asarray(value, float) for value in (reward, consumption, service, target, throughput)))
    models, metrics = world.reward.shape, world.target.shape
    if not (
        len(models) == len(metrics) == 1
        and world.consumption.shape[:-1] == models
        and world.service.shape == models + metrics
        and world.throughput.shape == models
    ):
        shapes = ", ".join(f"{name} {value.shape}" for name, value in world._asdict().items())
        raise ValueError(f"shapes disagree: {shapes}; wanted [M], [M, P], [M, C], [C], [M]")
    if not all(np.isfinite(value).all() for value in world):
        raise ValueError("reward, consumption, service, target and throughput must be finite")
    if (world.consumption < 0).any() or (world.throughput < 0).any():
        raise ValueError("consumption and throughput must be >= 0")
    return world


def _least_violating(world: _World, budget: np.ndarray) -> _Solution:
    """The lexicographic optimum at each per-task budget [R, P]: least shortfall first, then most reward.

    A priced shortfall settles most runs in one program: a solution that pays nothing is feasible, and its value
    is no less than that of the program without the extra variable. The rest are done in two exact steps.
    """
    runs = len(budget)
    solution = _solve(world, budget, world.reward, _SHORTFALL_PRICE, np.full(runs, np.inf))
    doubtful = np.flatnonzero(solution.shortfall > _REACHED)
    if len(doubtful):
        least = _solve(world, budget[doubtful], np.zeros_like(world.reward), 1.0, np.full(len(doubtful), np.inf))
        best = _solve(world, budget[doubtful], world.reward, 0.0, least.shortfall + _REACHED / 2)
        solution.share[doubtful] = best.share
        solution.shortfall[doubtful] = least.shortfall
    return solution


def _solve(world: _World, budget: np.ndarray, reward: np.ndarray, price: float, cap: np.ndarray) -> _Solution:
    """Maximise reward.x - price z with service.x + z >= target, 0 <= z <= cap, for each budget [R, P] and cap [R]."""
    models, metrics = world.service.shape
    entries = (models + 1) * (world.consumption.shape[1] + metrics + 1)
    size = max(1, BLOCK_ENTRIES // entries)
    starts = range(0, len(budget), size)
    parts = [_solve_block(world, budget[i : i + size], reward, price, cap[i : i + size]) for i in starts]
    values = np.concatenate([np.zeros((0, models + 1)), *parts])
    share = np.clip(values[:, :models], 0.0, world.throughput)
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1.0)
    return _Solution(share=share, shortfall=(world.target - share @ world.service).max(axis=1, initial=0.0))


def _solve_block(world: _World, budget: np.ndarray, reward: np.ndarray, price: float, cap: np.ndarray) -> np.ndarray:
    """One HiGHS call; [R, M + 1] values of (x, z). Should it fail, its halves are tried: only a single run can fail."""
    runs = len(budget)
    matrix, limit = _rows(world, budget)
    upper = np.concatenate([np.tile(world.throughput, (runs, 1)), cap[:, None]], axis=1).ravel()
    objective = np.tile(np.append(-reward, price), runs)
    bounds = np.stack([np.zeros_like(upper), upper], axis=1)
    result = linprog(objective, A_ub=matrix, b_ub=limit, bounds=bounds, method="highs", options=_HIGHS)
    if result.status == 0:
        return result.x.reshape(runs, -1)
    if runs == 1:
        raise RuntimeError(f"HiGHS failed on a benchmark at per-task budget {budget[0].tolist()}: {result.message}")
    half = runs // 2
    return np.concatenate([
        _solve_block(world, budget[:half], reward, price, cap[:half]),
        _solve_block(world, budget[half:], reward, price, cap[half:]),
    ])  # fmt: skip


def _rows(world: _World, budget: np.ndarray) -> tuple[csr_array, np.ndarray]:
    """Block-diagonal rows ``matrix @ (x, z) <= limit``: P budgets, C targets and the sum of shares for each run.

    Budget rows are divided by the budget, so that the solver's tolerance means the same at every scale.
    """
    runs, resources = budget.shape
    models, metrics = world.service.shape
    dearest = world.consumption.max(axis=0, initial=0.0)
    scale = np.maximum(budget, _LEAST_BUDGET * np.where(dearest > 0, dearest, 1.0))

    dense = np.zeros((runs, resources + metrics + 1, models + 1))
    dense[:, :resources, :models] = world.consumption.T / scale[:, :, None]
    dense[:, resources:-1, :models] = -world.service.T
    dense[:, resources:-1, models] = -1.0
    dense[:, -1, :models] = 1.0
    limit = np.concatenate([budget / scale, np.tile(-world.target, (runs, 1)), np.ones((runs, 1))], axis=1)

    columns = np.arange(runs)[:, None, None] * (models + 1) + np.arange(models + 1)
    columns = np.broadcast_to(columns, dense.shape).flatten()
    starts = np.arange(runs * dense.shape[1] + 1) * (models + 1)
    matrix = csr_array((dense.ravel(), columns, starts), shape=(runs * dense.shape[1], runs * (models + 1)))
    matrix.eliminate_zeros()
    return matrix, limit.ravel()
