"""Offline full-information benchmarks: what a planner who knows every mean would have earned.

Linear programs in float64 with HiGHS. One run's program is tiny (M variables) and a call to HiGHS costs as much as
some fifty of them, so many runs are solved as one block-diagonal program; runs that share a per-task budget are solved
once. ``fluid`` is for a fixed inventory. For one that changes there are ``fluid_epochs``, which plans the whole run,
and ``best_deployment``, which deploys a limited number of models and spends evenly.

Axes: R runs, M models, G availability epochs (maximal spans of rounds with the same models available), P packing
resources, C covering metrics; N programs solved together, K share rows of each.
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
_LEAST_UPPER = 1e-6  # a share's bound is taken for no less where it divides
_UNUSED = 1e-10  # a share below this is the solver's rounding
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
class Epochs:
    """A benchmark's result for each run and availability epoch."""

    value: np.ndarray  # [R, G] expected reward of one task of the epoch
    share: np.ndarray  # [R, G, M] share of the epoch's tasks that each model gets; what is missing to 1 is declined
    feasible: np.ndarray  # [R, G] bool, every target can be met within the budget
    demand: np.ndarray  # [R, G] tasks of the epoch, as given

    @property
    def total(self) -> np.ndarray:
        """[R] expected total reward of the run."""
        return (self.demand * self.value).sum(axis=1)


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
    tasks, per_task = _per_task_budget(world, budget, demand, "[R]")
    served = tasks > 0
    distinct, which = _distinct(per_task[served])
    solution = _least_violating(world, _one_sum(distinct, np.tile(world.throughput, (len(distinct), 1))))

    share = np.zeros((len(tasks), len(world.reward)))
    share[served] = _at_most_one(solution.share[which])
    feasible = np.ones(len(tasks), dtype=bool)
    feasible[served] = solution.shortfall[which] <= _REACHED
    return Benchmark(
        value=tasks * (share @ world.reward),
        share=share,
        feasible=feasible,
        spend=tasks[:, None] * (share @ world.consumption),
        service=tasks[:, None] * (share @ world.service),
    )


def serving_all(
    reward: ArrayLike,
    consumption: ArrayLike,
    service: ArrayLike,
    budget: ArrayLike,
    target: ArrayLike,
    throughput: ArrayLike,
    demand: ArrayLike,
) -> np.ndarray:
    """[R] the fluid benchmark without the null action: as ``fluid``, but every task is served, sum x = 1.

    COPAC's benchmark (Huang, Liu, Xu, arXiv 2606.17489) has no null action. NaN where no such mix exists: the budget is
    below the cost of the cheapest mix that meets the targets, or the throughput caps sum to less than 1. A run without
    demand is worth 0.

    >>> with_null = dict(consumption=[[0.2], [1.0]], service=np.zeros((2, 0)), target=[], throughput=[1.0, 1.0])
    >>> serving_all([0.2, 0.8], budget=[[60.0], [10.0]], demand=[100.0, 100.0], **with_null).round(9).tolist()
    [50.0, nan]
    """
    everybody = _with_everybody_served(np.asarray(service, float), np.asarray(target, float))
    plan = fluid(reward, consumption, everybody[0], budget, everybody[1], throughput, demand)
    return np.where(plan.feasible, plan.value, np.nan)


def unconstrained(reward: ArrayLike, throughput: ArrayLike, demand: ArrayLike) -> np.ndarray:
    """[R] the reward of the best models by quality alone, up to their caps, whatever budgets and targets say.

    >>> unconstrained([0.2, 0.8], [1.0, 0.5], [10.0]).round(9).tolist()
    [5.0]
    """
    quality, caps = np.asarray(reward, float), np.asarray(throughput, float)
    order = np.argsort(-quality, kind="stable")
    left = np.maximum(1.0 - np.concatenate([[0.0], np.cumsum(caps[order])[:-1]]), 0.0)
    return np.asarray(np.asarray(demand, float) * (quality[order] * np.minimum(caps[order], left)).sum())


def fluid_epochs(
    reward: ArrayLike,
    consumption: ArrayLike,
    service: ArrayLike,
    budget: ArrayLike,
    target: ArrayLike,
    throughput: ArrayLike,
    available: ArrayLike,
    demand: ArrayLike,
) -> Epochs:
    """The fluid benchmark of R runs whose inventory changes: one linear program over the whole run.

    With D_g the tasks of epoch g and Q their sum,

        max sum_g D_g reward.x_g   s.t.   sum_g D_g consumption_i.x_g <= B_i,   sum_g D_g service_j.x_g >= target_j Q,
                                          0 <= x_g <= throughput on the available models, else 0,   sum x_g <= 1,

    so that the budget may wait for a better model, and a lean epoch's service be made up for in another.
    ``available`` [G, M] bool says which models exist in an epoch and ``demand`` [R, G] how many tasks arrive in it;
    other arguments, least-violating mixes and errors as in ``fluid``, to which it is equal where all epochs have the
    same models. Epochs of the same models share one mix, ``feasible`` is the run's, and where no task arrives in any
    epoch of the same models their share is 0.

    >>> inventory = [[True, False], [True, True]]  # a second model, twice as good at the same cost, comes halfway
    >>> plan = fluid_epochs([0.4, 0.8], [[1], [1]], np.zeros((2, 0)), [[1]], [], [1, 1], inventory, [[1, 1]])
    >>> plan.value.round(9).tolist(), plan.total.round(9).tolist()
    ([[0.0, 0.8]], [0.8])
    """
    world = _world(reward, consumption, service, target, throughput)
    tasks, per_task = _per_task_budget(world, budget, demand, "[R, G]")
    inventories, kind = _distinct(_availability(world, available, tasks))
    served = tasks.sum(axis=1) > 0
    weight = tasks[served] @ (kind[:, None] == np.arange(len(inventories)))
    weight /= weight.sum(axis=1, keepdims=True)

    distinct, which = _distinct(np.concatenate([per_task[served], weight], axis=1))
    per_task, weight = np.split(distinct, [per_task.shape[1]], axis=1)
    mix, shortfall = _whole_run(world, per_task, world.throughput * inventories, weight)
    share = np.zeros((*tasks.shape, len(world.reward)))
    share[served] = mix[which][:, kind]
    feasible = np.ones(tasks.shape, dtype=bool)
    feasible[served] = (shortfall[which] <= _REACHED)[:, None]
    return Epochs(value=share @ world.reward, share=share, feasible=feasible, demand=tasks)


def best_deployment(
    reward: ArrayLike,
    consumption: ArrayLike,
    service: ArrayLike,
    budget: ArrayLike,
    target: ArrayLike,
    throughput: ArrayLike,
    available: ArrayLike,
    demand: ArrayLike,
    max_deployed: int | None,
) -> Epochs:
    """The best deployment at every instant (StageRoute's oracle, Li and Li, arXiv 2506.17254, with sum x <= 1).

    A task of epoch g is worth max { V(b, S) : S within available_g, |S| <= max_deployed }, where b = B / Q is the
    run's per-task budget and V is as in ``fluid`` with x supported on S: budget and service are spread evenly, and a
    newcomer is deployed at once. ``max_deployed`` None is no limit. Arguments and errors as in ``fluid_epochs``.

    Exact, by branch and bound on the supports. Where none meets the targets: the support and mix of the smallest
    largest shortfall, of those one of most reward. An epoch without models or, in a run without any task, all epochs
    are worth 0; the former is ``feasible`` where no target is positive.

    >>> world = dict(reward=[0.2, 0.8, 0.9], consumption=np.zeros((3, 0)), service=np.zeros((3, 0)), target=[])
    >>> inventory = [[True, True, False], [True, True, True]]
    >>> world |= dict(budget=np.zeros((1, 0)), throughput=[0.5] * 3, available=inventory, demand=[[10, 30]])
    >>> best = best_deployment(**world, max_deployed=1)
    >>> best.value.round(9).tolist(), best.total.round(9).tolist()
    ([[0.4, 0.45]], [17.5])
    """
    world = _world(reward, consumption, service, target, throughput)
    tasks, per_task = _per_task_budget(world, budget, demand, "[R, G]")
    inventories, kind = _distinct(_availability(world, available, tasks))
    if max_deployed is not None and max_deployed < 1:
        raise ValueError(f"max_deployed must be None or at least 1, not {max_deployed}")
    slots = len(world.reward) if max_deployed is None else min(max_deployed, len(world.reward))
    served = tasks.sum(axis=1) > 0

    epochs = np.tile(kind, served.sum())[:, None]
    distinct, which = _distinct(np.concatenate([np.repeat(per_task[served], len(kind), axis=0), epochs], axis=1))
    upper = world.throughput * inventories[distinct[:, -1].astype(int)]
    solution = _best_deployments(world, distinct[:, :-1], upper, slots)

    which = which.reshape(served.sum(), len(kind))
    share = np.zeros((*tasks.shape, len(world.reward)))
    share[served] = _at_most_one(solution.share[which])
    feasible = np.ones(tasks.shape, dtype=bool)
    feasible[served] = solution.shortfall[which] <= _REACHED
    return Epochs(value=share @ world.reward, share=share, feasible=feasible, demand=tasks)


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
        service_, target_ = _with_everybody_served(service_, target_)
    budget = np.asarray(budget_per_task, float)[None, :]
    result = fluid(reward_, consumption, service_, budget, target_, caps, [1.0])
    return Mix(value=float(result.value[0]), share=result.share[0], feasible=bool(result.feasible[0]))


def _with_everybody_served(service: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Service [M, C + 1] and targets [C + 1] where being served at all is one more service, wanted of every task."""
    return np.concatenate([service, np.ones((len(service), 1))], axis=1), np.append(target, 1.0)


class _World(NamedTuple):
    """What all runs share."""

    reward: np.ndarray  # [M]
    consumption: np.ndarray  # [M, P]
    service: np.ndarray  # [M, C]
    target: np.ndarray  # [C]
    throughput: np.ndarray  # [M]


class _Programs(NamedTuple):
    """What differs between programs that are solved together."""

    budget: np.ndarray  # [N, P] of one task
    upper: np.ndarray  # [N, M] largest shares; 0 for a model that may not serve
    rows: np.ndarray  # [N, K, M] share rows, rows.x <= limit; [1, K, M] where they are the same in all programs
    limit: np.ndarray  # [N, K]

    def take(self, which: np.ndarray | slice) -> "_Programs":
        """Those programs."""
        rows = self.rows if len(self.rows) == 1 else self.rows[which]
        return _Programs(self.budget[which], self.upper[which], rows, self.limit[which])


class _Solution(NamedTuple):
    share: np.ndarray  # [N, M]
    shortfall: np.ndarray  # [N] largest over the targets


class _Nodes(NamedTuple):
    """Open nodes of the search for the best deployments, of all programs together."""

    program: np.ndarray  # [nodes] int
    upper: np.ndarray  # [nodes, M] 0 for a model that is out
    chosen: np.ndarray  # [nodes, M] bool, has a slot


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


def _per_task_budget(world: _World, budget: ArrayLike, demand: ArrayLike, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """Demand as an array with ``axes``, and the budget [R, P] of one task."""
    total_budget, tasks = np.asarray(budget, float), np.asarray(demand, float)
    if tasks.ndim != axes.count(",") + 1 or total_budget.shape != (len(tasks), world.consumption.shape[1]):
        raise ValueError(f"budget {total_budget.shape} must be [R, P] and demand {tasks.shape} {axes}")
    if not (np.isfinite(tasks).all() and (tasks >= 0).all() and (total_budget >= 0).all()):
        raise ValueError("demand must be finite and >= 0, and budgets >= 0")
    total = tasks.sum(axis=tuple(range(1, tasks.ndim)))
    per_task = total_budget / np.where(total > 0, total, 1.0)[:, None]
    # A task never uses more than the dearest model's mean, so every larger budget is the same program.
    return tasks, np.minimum(per_task, world.consumption.max(axis=0, initial=0.0))


def _availability(world: _World, available: ArrayLike, tasks: np.ndarray) -> np.ndarray:
    inventory = np.asarray(available)
    if inventory.dtype != bool or inventory.shape != (tasks.shape[1], len(world.reward)) or not len(inventory):
        raise ValueError(
            f"available {inventory.shape} {inventory.dtype} must be [G, M] bool, demand {tasks.shape} [R, G], G >= 1"
        )
    return inventory


def _distinct(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The distinct rows, and for each row which of them it is."""
    distinct, which = np.unique(rows, axis=0, return_inverse=True)
    return distinct, which.reshape(-1)


def _at_most_one(share: np.ndarray) -> np.ndarray:
    """Shares [..., M] without the rounding that takes their sum above 1."""
    return share / np.maximum(share.sum(axis=-1, keepdims=True), 1.0)


def _one_sum(budget: np.ndarray, upper: np.ndarray) -> _Programs:
    """Programs whose only share row is sum x <= 1."""
    return _Programs(budget, upper, np.ones((1, 1, upper.shape[1])), np.ones((len(budget), 1)))


def _whole_run(
    world: _World, budget: np.ndarray, upper: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The best mixes [N, I, M] and their shortfall [N] where a task meets inventory i with probability weight [N, I].

    ``upper`` [I, M] holds the largest shares of each inventory. The unknowns are shares of all tasks, y = weight x, so
    that programs differ in bounds and limits alone.
    """
    programs, inventories = weight.shape
    repeated = _World(
        reward=np.tile(world.reward, inventories),
        consumption=np.tile(world.consumption, (inventories, 1)),
        service=np.tile(world.service, (inventories, 1)),
        target=world.target,
        throughput=np.tile(world.throughput, inventories),
    )
    rows = np.repeat(np.eye(inventories), len(world.reward), axis=1)[None]
    bounds = (weight[:, :, None] * upper).reshape(programs, upper.size)
    solution = _least_violating(repeated, _Programs(budget, bounds, rows, weight))
    mix = solution.share.reshape(programs, *upper.shape) / np.where(weight > 0, weight, 1.0)[:, :, None]
    return _at_most_one(np.minimum(mix, upper)), solution.shortfall


def _best_deployments(world: _World, budget: np.ndarray, upper: np.ndarray, slots: int) -> _Solution:
    """The best mix of at most ``slots`` models for each per-task budget [N, P] and largest shares [N, M].

    Branch and bound (A. Land, A. Doig, 1960), breadth first and of all programs at once. It searches with the linear
    programs of the other benchmarks, to the same tolerances: HiGHS's own integer programs let a share pass with 1e-6
    of a slot and stop 1e-6 short, and SciPy offers no way to ask for less.
    """
    programs, models = upper.shape
    best = _Solution(np.zeros((programs, models)), np.full(programs, np.inf))
    nodes = _Nodes(np.arange(programs), upper, np.zeros((programs, models), dtype=bool))
    while len(nodes.program):
        relaxed = _least_violating(world, _relaxation(budget[nodes.program], nodes, slots))
        share = np.where(relaxed.share > _UNUSED, relaxed.share, 0.0)
        shortfall = np.where(relaxed.shortfall > _REACHED, relaxed.shortfall, 0.0)
        fits = np.count_nonzero(share, axis=1) <= slots
        for program, mix, missing in zip(nodes.program[fits], share[fits], shortfall[fits], strict=True):
            if _better(world.reward, mix, missing, best.share[program], best.shortfall[program]):
                best.share[program], best.shortfall[program] = mix, missing
        rivals = best.share[nodes.program], best.shortfall[nodes.program]
        promising = ~fits & _better(world.reward, share, shortfall, *rivals)
        nodes = _branch(_Nodes(*(value[promising] for value in nodes)), share[promising], slots)
    return best


def _better(
    reward: np.ndarray, share: np.ndarray, shortfall: np.ndarray, rival: np.ndarray, rival_shortfall: np.ndarray
) -> np.ndarray:
    """Whether shares [..., M] fall less short than the rival's or, where they do not differ in that, earn more."""
    earns_more = share @ reward > rival @ reward + _REACHED
    return (shortfall < rival_shortfall - _REACHED) | ((shortfall <= rival_shortfall + _REACHED) & earns_more)


def _relaxation(budget: np.ndarray, nodes: _Nodes, slots: int) -> _Programs:
    """A node's program without integers: the parts x / upper of slots that undecided models use fit in those left."""
    undecided = ~nodes.chosen & (nodes.upper > 0)
    parts = undecided / np.maximum(nodes.upper, _LEAST_UPPER)
    left = slots - np.count_nonzero(nodes.chosen, axis=1)
    return _Programs(
        budget,
        nodes.upper,
        rows=np.stack([np.ones_like(parts), parts], axis=1),
        limit=np.stack([np.ones(len(left)), left], axis=1),
    )


def _branch(nodes: _Nodes, share: np.ndarray, slots: int) -> _Nodes:
    """The children of nodes whose shares [nodes, M] use too many models.

    Let a node have s slots left and number its undecided models from 0 by falling share. Child i < s chooses the models
    before i and puts i out; child s chooses the models before s, puts all others out and is a good first guess. Every
    deployment that holds the node's chosen models and none that is out belongs to exactly one child.
    """
    rank = np.argsort(np.argsort(np.where(nodes.chosen, 1.0, -share), axis=1), axis=1)
    left = slots - np.count_nonzero(nodes.chosen, axis=1)
    children = []
    for i in range(slots + 1):
        last = (left == i)[:, None]
        child = _Nodes(
            nodes.program,
            upper=np.where(~nodes.chosen & ((rank == i) | (last & (rank > i))), 0.0, nodes.upper),
            chosen=nodes.chosen | (rank < i),
        )
        children.append(_Nodes(*(value[left >= i] for value in child)))
    return _Nodes(*(np.concatenate(values) for values in zip(*children, strict=True)))


def _least_violating(world: _World, programs: _Programs) -> _Solution:
    """The lexicographic optimum of each program: least shortfall first, then most reward.

    A priced shortfall settles most programs in one call: a solution that pays nothing is feasible, and its value
    is no less than that of the program without the extra variable. The rest are done in two exact steps.
    """
    solution = _solve(world, programs, world.reward, _SHORTFALL_PRICE, np.full(len(programs.budget), np.inf))
    doubtful = np.flatnonzero(solution.shortfall > _REACHED)
    if len(doubtful):
        rest = programs.take(doubtful)
        least = _solve(world, rest, np.zeros_like(world.reward), 1.0, np.full(len(doubtful), np.inf))
        best = _solve(world, rest, world.reward, 0.0, least.shortfall + _REACHED / 2)
        solution.share[doubtful] = best.share
        solution.shortfall[doubtful] = least.shortfall
    return solution


def _solve(world: _World, programs: _Programs, reward: np.ndarray, price: float, cap: np.ndarray) -> _Solution:
    """Maximise reward.x - price z with service.x + z >= target, 0 <= z <= cap, for each program and cap [N]."""
    models, metrics = world.service.shape
    entries = (models + 1) * (world.consumption.shape[1] + metrics + programs.limit.shape[1])
    size = max(1, BLOCK_ENTRIES // entries)
    blocks = [slice(i, i + size) for i in range(0, len(cap), size)]
    parts = [_solve_block(world, programs.take(block), reward, price, cap[block]) for block in blocks]
    values = np.concatenate([np.zeros((0, models + 1)), *parts])
    share = np.clip(values[:, :models], 0.0, programs.upper)
    return _Solution(share=share, shortfall=(world.target - share @ world.service).max(axis=1, initial=0.0))


def _solve_block(world: _World, programs: _Programs, reward: np.ndarray, price: float, cap: np.ndarray) -> np.ndarray:
    """One HiGHS call; [N, M + 1] values of (x, z). Should it fail, its halves are tried: only a single run can fail."""
    count = len(cap)
    matrix, limit = _rows(world, programs)
    upper = np.concatenate([programs.upper, cap[:, None]], axis=1).ravel()
    objective = np.tile(np.append(-reward, price), count)
    bounds = np.stack([np.zeros_like(upper), upper], axis=1)
    result = linprog(objective, A_ub=matrix, b_ub=limit, bounds=bounds, method="highs", options=_HIGHS)
    if result.status == 0:
        return result.x.reshape(count, -1)
    if count == 1:
        budget = programs.budget[0].tolist()
        raise RuntimeError(f"HiGHS failed on a benchmark at per-task budget {budget}: {result.message}")
    halves = slice(None, count // 2), slice(count // 2, None)
    return np.concatenate([_solve_block(world, programs.take(half), reward, price, cap[half]) for half in halves])


def _rows(world: _World, programs: _Programs) -> tuple[csr_array, np.ndarray]:
    """Block-diagonal rows ``matrix @ (x, z) <= limit``: P budgets, C targets and K share rows for each program.

    Budget rows are divided by the budget, so that the solver's tolerance means the same at every scale.
    """
    budget = programs.budget
    count, resources = budget.shape
    models, metrics = world.service.shape
    dearest = world.consumption.max(axis=0, initial=0.0)
    scale = np.maximum(budget, _LEAST_BUDGET * np.where(dearest > 0, dearest, 1.0))

    dense = np.zeros((count, resources + metrics + programs.limit.shape[1], models + 1))
    dense[:, :resources, :models] = world.consumption.T / scale[:, :, None]
    dense[:, resources : resources + metrics, :models] = -world.service.T
    dense[:, resources : resources + metrics, models] = -1.0
    dense[:, resources + metrics :, :models] = programs.rows
    limit = np.concatenate([budget / scale, np.tile(-world.target, (count, 1)), programs.limit], axis=1)

    columns = np.arange(count)[:, None, None] * (models + 1) + np.arange(models + 1)
    columns = np.broadcast_to(columns, dense.shape).flatten()
    starts = np.arange(count * dense.shape[1] + 1) * (models + 1)
    matrix = csr_array((dense.ravel(), columns, starts), shape=(count * dense.shape[1], count * (models + 1)))
    matrix.eliminate_zeros()
    return matrix, limit.ravel()
