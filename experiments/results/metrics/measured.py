"""The metrics that cells store: what the runs came to at every evaluation round, in USD, tasks and rounds.

This file decides numbers, so it counts for every cell's id (``experiments.config.sources``).
"""

from dataclasses import dataclass

import numpy as np

from experiments.results.cell_file import CellResult
from experiments.results.metrics.base import Kind, Range, Read, Table, measured


@dataclass(frozen=True, kw_only=True)
class Ideal:
    """The benchmarks along a cell's runs."""

    best_deployment: np.ndarray  # [E, R] reward of the best deployment at every instant, so far
    window: np.ndarray  # [E, R] of the best deployment at every window's start, so far
    fluid: np.ndarray  # [E, R] of the best plan for the whole run, so far
    serving_all: np.ndarray | None  # [E, R] of the best plan that serves every task; only for a fixed inventory
    unconstrained: np.ndarray | None  # [E, R] of the best models by quality alone; only for a fixed inventory
    share: np.ndarray  # [E, M] share of all demand so far that `best_deployment` gives each model, mean over runs
    feasible: bool


@dataclass(frozen=True, kw_only=True)
class Deployed:
    """What deployment came to, where what is live can change."""

    value: np.ndarray  # [E, R] reward of the best mix of the models that were live
    activations: np.ndarray  # [E, R] models switched on
    evictions: np.ndarray  # [E, R] models switched off
    gap: np.ndarray  # [E, R] largest proven gap of the deployment program


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What the runs of a cell came to by each evaluation round, in float64 on the host."""

    resources: tuple[str, ...]  # P names
    services: tuple[str, ...]  # C names
    target: np.ndarray  # [C] wanted share of the demand
    budget_per_task: np.ndarray  # [P] budget / expected demand, USD of money
    demand: np.ndarray  # [E, R] tasks
    served: np.ndarray  # [E, R] tasks
    declined: np.ndarray  # [E, R] tasks
    refused: np.ndarray  # [E, R] tasks
    reward: np.ndarray  # [E, R]
    reward_expected: np.ndarray  # [E, R]
    service: np.ndarray  # [E, R, C] tasks that met the target
    violation_worst: np.ndarray  # [E, R, C] tasks
    spent: np.ndarray  # [E, R, P] USD of money, else the resource's own unit
    quanta_spent: np.ndarray  # [E, R, P] whole numbers: exact
    quanta_budget: np.ndarray  # [P] whole numbers: exact
    forecast_total: np.ndarray  # [E, R] tasks
    duals: np.ndarray  # [E, R, P + C]
    invalid: np.ndarray  # [E, R] rounds
    clipped: np.ndarray  # [E, R] rounds
    ideal: Ideal
    deployed: Deployed | None

    def members(self, each: str) -> tuple[str, ...]:
        """The names that a family of metrics has members for."""
        return {
            "resources": self.resources,
            "services": self.services,
            "quantities": (*self.resources, *self.services),
        }[each]


def has_target(cell: CellResult) -> bool:
    """Whether a cell has any service target."""
    if "violation" not in cell.metrics:
        return False
    per_metric = [name for name in cell.metrics if name.startswith("violation_") and name != "violation_worst"]
    return cell.info.target is not None or len(per_metric) > 0


def has_budget(cell: CellResult) -> bool:
    """Whether a cell has a money budget."""
    return cell.info.budget is not None


@measured("reward", title="Reward", unit="tasks", kind=Kind.SUM)
def _reward(totals: Totals) -> np.ndarray:
    """Realised reward."""
    return totals.reward


@measured("reward_expected", title="Expected reward", unit="tasks", kind=Kind.SUM)
def _reward_expected(totals: Totals) -> np.ndarray:
    """Reward with each task's outcome replaced by its model's true mean."""
    return totals.reward_expected


@measured("benchmark", title="Benchmark", unit="tasks", kind=Kind.SUM)
def _benchmark(totals: Totals) -> np.ndarray:
    """Reward of the best mix that keeps budget and targets in expectation, all means and the total demand known.

    Where what is live can change, that of the best deployment at every instant.
    """
    return totals.ideal.best_deployment


@measured(
    "regret",
    title="Regret",
    unit="tasks",
    kind=Kind.SUM,
    range=Range.SIGNED,
    summarised=True,
    table=Table.CELLS,
    order=20,
    terminal=("regret", ",.0f"),
)
def _regret(totals: Totals) -> np.ndarray:
    """benchmark − reward_expected."""
    return totals.ideal.best_deployment - totals.reward_expected


@measured(
    "regret_realised",
    title="Realised regret",
    unit="tasks",
    kind=Kind.SUM,
    range=Range.SIGNED,
    summarised=True,
    order=21,
)
def _regret_realised(totals: Totals) -> np.ndarray:
    """benchmark − reward."""
    return totals.ideal.best_deployment - totals.reward


@measured(
    "violation",
    title="Violation",
    unit="tasks",
    kind=Kind.SUM,
    applies=has_target,
    positive_part=True,
    summarised=True,
    order=30,
)
def _violation(totals: Totals) -> np.ndarray:
    """Tasks missing to the service target that is missed most: the largest of the violation_* columns."""
    return np.asarray(_missing(totals).max(axis=-1, initial=0.0))


@measured(
    "violation_worst",
    title="Largest violation so far",
    unit="tasks",
    kind=Kind.LEVEL,
    applies=has_target,
    positive_part=True,
)
def _violation_worst(totals: Totals) -> np.ndarray:
    """The largest violation at any round so far."""
    return np.asarray(totals.violation_worst.max(axis=-1, initial=0.0))


@measured(
    "overspend",
    title="Overspend, share of budget",
    unit="share of the budget",
    kind=Kind.SHARE,
    applies=has_budget,
    summarised=True,
    table=Table.CELLS,
    order=50,
    terminal=("overspend", "g"),
)
def _overspend(totals: Totals) -> np.ndarray:
    """Largest share over resources of a budget spent beyond it, counted in whole quanta: 0.0 means exactly none."""
    spent, budget = totals.quanta_spent, totals.quanta_budget
    over = np.where(spent > budget, (spent - budget) / np.maximum(budget, 1), 0)
    return np.asarray(over.astype(np.float64).max(axis=-1, initial=0.0))


@measured("declined", title="Declined", unit="tasks", kind=Kind.SUM)
def _declined(totals: Totals) -> np.ndarray:
    """Tasks not served, refused ones included."""
    return totals.declined


@measured("refused", title="Refused", unit="tasks", kind=Kind.SUM)
def _refused(totals: Totals) -> np.ndarray:
    """Declined tasks that a hard budget refused."""
    return totals.refused


@measured("served", title="Served", unit="tasks", kind=Kind.SUM)
def _served(totals: Totals) -> np.ndarray:
    """Tasks that a model served."""
    return totals.served


@measured("demand", title="Demand", unit="tasks", kind=Kind.SUM, column="demand_total")
def _demand(totals: Totals) -> np.ndarray:
    """Tasks that arrived."""
    return totals.demand


@measured("forecast_total", title="Forecast of the total demand", unit="tasks", kind=Kind.LEVEL)
def _forecast_total(totals: Totals) -> np.ndarray:
    """The demand of the whole run as forecast at the round."""
    return totals.forecast_total


@measured(
    "forecast_error",
    title="Forecast error",
    unit="share of the total demand",
    kind=Kind.SHARE,
    read=Read.HALF,
    summarised=True,
    table=Table.CELLS,
    order=80,
    percent=True,
)
def _forecast_error(totals: Totals) -> np.ndarray:
    """|forecast_total − total demand| / total demand. At the horizon nothing is left to forecast."""
    total = totals.demand[-1]
    return np.asarray(np.abs(totals.forecast_total - total) / np.where(total > 0, total, 1.0))


@measured(
    "pace",
    title="Spent, multiple of the plan",
    unit="multiple",
    kind=Kind.LEVEL,
    summarised=True,
    table=Table.DEPLOYMENT,
    order=130,
)
def _pace(totals: Totals) -> np.ndarray:
    """Largest over resources of spent / (budget per task × demand so far): the plan spends the same on every task."""
    allowed = totals.budget_per_task * totals.demand[..., None]
    return np.asarray((totals.spent / np.where(allowed > 0, allowed, 1.0)).max(axis=-1, initial=0.0))


@measured(
    "invalid",
    title="Decisions that were not finite",
    unit="rounds",
    kind=Kind.SUM,
    range=Range.ROUNDS,
    summarised=True,
    order=70,
)
def _invalid(totals: Totals) -> np.ndarray:
    """Rounds that were declined because the decision was not finite."""
    return totals.invalid


@measured("clipped", title="Decisions that were cut", unit="rounds", kind=Kind.SUM, summarised=True, order=71)
def _clipped(totals: Totals) -> np.ndarray:
    """Rounds whose shares were negative, above the caps or more than 1 in sum, and so were cut."""
    return totals.clipped


@measured("benchmark_serving_all", title="Benchmark serving every task", unit="tasks", kind=Kind.SUM)
def _benchmark_serving_all(totals: Totals) -> np.ndarray | None:
    """Reward of the best mix that declines no task, NaN where the budget forbids that. Only with a fixed inventory."""
    return totals.ideal.serving_all


@measured("benchmark_unconstrained", title="Benchmark without constraints", unit="tasks", kind=Kind.SUM)
def _benchmark_unconstrained(totals: Totals) -> np.ndarray | None:
    """Reward of the best models by quality alone. Only with a fixed inventory."""
    return totals.ideal.unconstrained


@measured(
    "regret_waiting",
    title="Regret, waiting",
    unit="tasks",
    kind=Kind.SUM,
    range=Range.SIGNED,
    summarised=True,
    table=Table.DEPLOYMENT,
    order=100,
)
def _regret_waiting(totals: Totals) -> np.ndarray | None:
    """Part of regret: newcomers that wait for the next stage. Only where what is live can change."""
    return None if totals.deployed is None else totals.ideal.best_deployment - totals.ideal.window


@measured(
    "regret_deployment",
    title="Regret, deployment",
    unit="tasks",
    kind=Kind.SUM,
    range=Range.SIGNED,
    summarised=True,
    table=Table.DEPLOYMENT,
    order=101,
)
def _regret_deployment(totals: Totals) -> np.ndarray | None:
    """Part of regret: which models are live. Only where what is live can change."""
    return None if totals.deployed is None else totals.ideal.window - totals.deployed.value


@measured(
    "regret_routing",
    title="Regret, routing",
    unit="tasks",
    kind=Kind.SUM,
    range=Range.SIGNED,
    summarised=True,
    table=Table.DEPLOYMENT,
    order=102,
)
def _regret_routing(totals: Totals) -> np.ndarray | None:
    """Part of regret: which of the live models serve. Only where what is live can change."""
    return None if totals.deployed is None else totals.deployed.value - totals.reward_expected


@measured("benchmark_fluid", title="Benchmark for the whole run", unit="tasks", kind=Kind.SUM)
def _benchmark_fluid(totals: Totals) -> np.ndarray | None:
    """Reward of the best plan for the whole run, blind to max_deployed. Only where what is live can change."""
    return None if totals.deployed is None else totals.ideal.fluid


@measured("activations", title="Models switched on", unit="models", kind=Kind.SUM)
def _activations(totals: Totals) -> np.ndarray | None:
    """Models switched on. Only where what is live can change."""
    return None if totals.deployed is None else totals.deployed.activations


@measured("evictions", title="Models switched off", unit="models", kind=Kind.SUM)
def _evictions(totals: Totals) -> np.ndarray | None:
    """Models switched off. Only where what is live can change."""
    return None if totals.deployed is None else totals.deployed.evictions


@measured(
    "deployment_gap",
    title="Deployment gap, largest",
    unit="value of the deployment program",
    kind=Kind.LEVEL,
    summarised=True,
    table=Table.DEPLOYMENT,
    order=131,
)
def _deployment_gap(totals: Totals) -> np.ndarray | None:
    """The most so far by which a deployment was not proven to be the best. Only where what is live can change."""
    return None if totals.deployed is None else totals.deployed.gap


@measured(
    "spent_*",
    title="Spent",
    unit="the resource's own unit",
    money_unit="USD",
    kind=Kind.SUM,
    range=Range.BUDGET,
    each="resources",
)
def _spent(totals: Totals) -> np.ndarray:
    """Consumption of each resource."""
    return totals.spent


@measured("violation_*", title="Violation", unit="tasks", kind=Kind.SUM, applies=has_target, each="services")
def _violation_each(totals: Totals) -> np.ndarray:
    """max(0, target × demand − tasks that met the target), of each service metric."""
    return _missing(totals)


@measured("service_*", title="Tasks that met the target", unit="tasks", kind=Kind.SUM, each="services")
def _service(totals: Totals) -> np.ndarray:
    """Tasks that met the target, of each service metric."""
    return totals.service


@measured("dual_*", title="Price", unit="reward per normalised unit", kind=Kind.LEVEL, each="quantities")
def _duals(totals: Totals) -> np.ndarray:
    """Dual price of each constraint in the routing rule; NaN of a rule that has none."""
    return totals.duals


def _missing(totals: Totals) -> np.ndarray:
    """[E, R, C] tasks missing to each target."""
    return np.asarray(np.maximum(totals.target * totals.demand[..., None] - totals.service, 0.0))
