"""The metrics that follow from what cells store: shares, averages over stages, and what became of newcomers."""

import math

import numpy as np

from envs.timeline import stage_start
from experiments.results.cell_file import CellResult
from experiments.results.metrics.base import MONEY, Kind, Range, Read, Table, metric
from experiments.results.metrics.measured import has_target

NOTHING = 1e-9  # reward per task of a benchmark that earns nothing, but for the rounding of its linear program
_ROUNDING = 1e-12  # of a share


def stage_starts(cell: CellResult) -> np.ndarray:
    """[K] first round of each stage; empty where the cell does not say how many stages there are."""
    stages = int(cell.info.stages or 0)
    if not stages:
        return np.zeros(0, int)
    return np.asarray(stage_start(int(cell.info.horizon), stages, np.arange(stages)))


def money_metric(cell: CellResult) -> str | None:
    """The column of money spent: ``spent_money`` if there is one, else that of the first resource."""
    spends = [name for name in cell.metrics if name.startswith("spent_")]
    return f"spent_{MONEY}" if f"spent_{MONEY}" in spends else next(iter(spends), None)


@metric(
    "reward_share",
    title="Reward, share of benchmark",
    unit="share of the benchmark",
    kind=Kind.SHARE,
    table=Table.CELLS,
    order=10,
    percent=True,
    terminal=("reward / benchmark", ".3f"),
)
def _reward_share(cell: CellResult) -> np.ndarray | None:
    """reward_expected / benchmark; not of runs whose benchmark earns nothing."""
    least = NOTHING * cell.curve("demand") if "demand" in cell.metrics else 0.0
    return _share(cell, "reward_expected", "benchmark", least)


@metric(
    "violation_per_task",
    title="Violation per task",
    unit="share of the demand",
    kind=Kind.SHARE,
    range=Range.ONE,
    applies=has_target,
    table=Table.CELLS,
    order=31,
    terminal=("violation a task", ".4f"),
)
def _violation_per_task(cell: CellResult) -> np.ndarray | None:
    """violation / demand."""
    return _share(cell, "violation", "demand")


@metric(
    "violation_worst_per_task",
    title="Largest violation so far, per task",
    unit="share of the demand",
    kind=Kind.SHARE,
    range=Range.ONE,
    applies=has_target,
    order=32,
)
def _violation_worst_per_task(cell: CellResult) -> np.ndarray | None:
    """violation_worst / demand."""
    return _share(cell, "violation_worst", "demand")


@metric("spent", title="Spent", unit="USD", kind=Kind.SUM, range=Range.BUDGET, order=40)
def _spent(cell: CellResult) -> np.ndarray | None:
    """Money spent."""
    money = money_metric(cell)
    return None if money is None else cell.curve(money)


@metric(
    "spent_share",
    title="Spent, share of budget",
    unit="share of the budget",
    kind=Kind.SHARE,
    range=Range.ONE,
    table=Table.CELLS,
    order=41,
    percent=True,
    terminal=("spent", ".1%"),
)
def _spent_share(cell: CellResult) -> np.ndarray | None:
    """spent / budget of the whole run; more than 1 is possible where the budget binds on average only."""
    money, budget = money_metric(cell), cell.info.budget
    if money is None or budget is None or not math.isfinite(budget) or not budget > 0:
        return None
    return _rounded(cell.curve(money) / budget)


@metric(
    "declined_share",
    title="Declined, share of demand",
    unit="share of the demand",
    kind=Kind.SHARE,
    range=Range.ONE,
    table=Table.CELLS,
    order=60,
    percent=True,
    terminal=("declined", ".1%"),
)
def _declined_share(cell: CellResult) -> np.ndarray | None:
    """declined / demand."""
    return _share(cell, "declined", "demand")


@metric(
    "refused_share",
    title="Refused, share of demand",
    unit="share of the demand",
    kind=Kind.SHARE,
    range=Range.ONE,
    order=61,
)
def _refused_share(cell: CellResult) -> np.ndarray | None:
    """refused / demand."""
    return _share(cell, "refused", "demand")


@metric(
    "activations_per_stage",
    title="Switched on a stage",
    unit="models per stage",
    kind=Kind.MEAN,
    table=Table.DEPLOYMENT,
    order=110,
)
def _activations_per_stage(cell: CellResult) -> np.ndarray | None:
    """activations / stages begun so far."""
    return _per_stage(cell, "activations")


@metric(
    "evictions_per_stage",
    title="Switched off a stage",
    unit="models per stage",
    kind=Kind.MEAN,
    table=Table.DEPLOYMENT,
    order=111,
)
def _evictions_per_stage(cell: CellResult) -> np.ndarray | None:
    """evictions / stages begun so far."""
    return _per_stage(cell, "evictions")


@metric(
    "rounds_to_live",
    title="Rounds until a newcomer is live",
    unit="rounds",
    kind=Kind.MEAN,
    range=Range.ROUNDS,
    read=Read.RUN,
    table=Table.DEPLOYMENT,
    order=120,
)
def _rounds_to_live(cell: CellResult) -> np.ndarray | None:
    """Rounds from a newcomer's arrival to the start of the stage it is first live in, mean over those that are."""
    return _waited(cell, "first_live")


@metric(
    "never_live_share",
    title="Newcomers never live",
    unit="share of the newcomers",
    kind=Kind.SHARE,
    range=Range.ONE,
    read=Read.RUN,
    table=Table.DEPLOYMENT,
    order=121,
    percent=True,
)
def _never_live_share(cell: CellResult) -> np.ndarray | None:
    """Share of the newcomers that are never live. Newcomers are models that arrive within the run."""
    return _never(cell, "first_live")


@metric(
    "rounds_to_best",
    title="Rounds until a newcomer serves most",
    unit="rounds",
    kind=Kind.MEAN,
    range=Range.ROUNDS,
    read=Read.RUN,
    table=Table.DEPLOYMENT,
    order=122,
)
def _rounds_to_best(cell: CellResult) -> np.ndarray | None:
    """Rounds from a newcomer's arrival to the start of the stage in which it first serves the most tasks, likewise."""
    return _waited(cell, "first_best")


@metric(
    "never_best_share",
    title="Newcomers never serving most",
    unit="share of the newcomers",
    kind=Kind.SHARE,
    range=Range.ONE,
    read=Read.RUN,
    table=Table.DEPLOYMENT,
    order=123,
    percent=True,
)
def _never_best_share(cell: CellResult) -> np.ndarray | None:
    """Share of the newcomers that never serve the most tasks of a stage."""
    return _never(cell, "first_best")


def _share(cell: CellResult, above: str, below: str, least: np.ndarray | float = 0.0) -> np.ndarray | None:
    """[R, E] of one column by another, NaN where that is not above ``least``; None where the cell lacks one of them."""
    if above not in cell.metrics or below not in cell.metrics:
        return None
    numerator, denominator = cell.curve(above), cell.curve(below)
    if above.startswith("violation"):
        numerator = np.maximum(numerator, 0.0)
    positive = denominator > least
    return np.where(positive, _rounded(numerator / np.where(positive, denominator, 1.0)), np.nan)


def _rounded(share: np.ndarray) -> np.ndarray:
    """Nothing as 0 and the whole as 1, whatever floating point made of them."""
    near = np.round(share)
    return np.where((np.abs(share - near) < _ROUNDING) & (np.abs(near) <= 1), near + 0.0, share)


def _per_stage(cell: CellResult, count: str) -> np.ndarray | None:
    """[R, E] of a count so far, a stage that has begun."""
    begun = np.searchsorted(stage_starts(cell), cell.eval_rounds, side="left")
    if count not in cell.metrics or not begun.any():
        return None
    return np.asarray(cell.curve(count) / np.maximum(begun, 1))


def _newcomers(cell: CellResult, event: str) -> tuple[np.ndarray, np.ndarray] | None:
    """The rounds [R', N] at which an event happened to each newcomer, -1 for never, and their arrivals [N].

    Newcomers are models that arrive within the run; None without them. Failed runs are left out.
    """
    first, arrival = cell.extras.get(event), cell.extras.get("arrival")
    if first is None or arrival is None:
        return None
    newcomers = np.flatnonzero((arrival > 0) & (arrival < cell.info.horizon))
    if len(newcomers) == 0:
        return None
    if "regret" in cell.metrics:
        first = first[np.isfinite(cell.final("regret"))]
    return first[:, newcomers], arrival[newcomers]


def _waited(cell: CellResult, event: str) -> np.ndarray | None:
    """[R'] mean rounds from arrival to an event, of the runs in which it happened to any newcomer."""
    found = _newcomers(cell, event)
    if found is None:
        return None
    first, arrival = found
    happened = first >= 0
    waited, counts = np.where(happened, first - arrival, 0).sum(axis=1), happened.sum(axis=1)
    return np.asarray(waited[counts > 0] / counts[counts > 0])


def _never(cell: CellResult, event: str) -> np.ndarray | None:
    """[R'] share of the newcomers to whom an event never happened."""
    found = _newcomers(cell, event)
    return None if found is None else np.asarray(1.0 - (found[0] >= 0).mean(axis=1))
