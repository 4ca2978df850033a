"""Results in one dictionary: what every cell scored, with intervals, and how regret and violation grow."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.timeline import stage_start
from experiments.report.scaling import fit_exponent, mean_band, mean_interval
from experiments.results.cell_file import CellResult

DEPLOYMENT_METRICS = (  # what changing inventories and capped deployment are judged by
    "regret_waiting",
    "regret_deployment",
    "regret_routing",
    "activations_per_stage",
    "evictions_per_stage",
    "deployment_gap",
    "pace",
    "rounds_to_live",
    "never_live_share",
    "rounds_to_best",
    "never_best_share",
)
METRICS = (
    "reward_share",
    "regret",
    "regret_realised",
    "violation",
    "violation_per_task",
    "violation_worst_per_task",
    "spent",
    "spent_share",
    "overspend",
    "declined_share",
    "refused_share",
    "invalid",
    "clipped",
    "forecast_error",
    *DEPLOYMENT_METRICS,
)
LINE_FIELDS = ("routing", "deployment", "forecaster")  # with the policy: what tells one line of a figure from another
SETTING_FIELDS = (  # what tells one world from another, besides the budget
    *("env", "demand", "num_models", "target"),
    *("max_deployed", "arrivals"),
)
_STAGE_AXES = {"stages", "stage_exponent"}  # tell cells apart where swept: the number of stages follows T elsewhere
_PER_STAGE = {"activations_per_stage": "activations", "evictions_per_stage": "evictions"}
_NEWCOMERS = {  # metric: when it happened [R, M], and whether it is the share of newcomers it never happened to
    "rounds_to_live": ("first_live", False),
    "never_live_share": ("first_live", True),
    "rounds_to_best": ("first_best", False),
    "never_best_share": ("first_best", True),
}
_WITHIN_ONE = {  # shares that cannot exceed the whole
    *("violation_per_task", "violation_worst_per_task", "declined_share", "refused_share", "spent_share"),
    *("never_live_share", "never_best_share"),
}
_ROUNDING = 1e-12  # of a share
_NOTHING = 1e-9  # reward per task of a benchmark that earns nothing, but for the rounding of its linear program
_WORLD_GROUPS = {"env", "demand", "inventory", "outcomes", "problem", "tracker", "study"}
_FIELDS = {*LINE_FIELDS, *SETTING_FIELDS, "policy", "horizon", "budget", "budget_per_task", "cell", "seed", "seeds"}
_DESCRIBED_AXES = {  # whose value the description names
    *("horizon", "budget_per_task", "num_models", "target", "env.max_deployed", "env.arrivals"),
    *("demand.process", "forecaster.name"),
}


@dataclass(frozen=True, kw_only=True)
class Label:
    """How people are told which cell this is: only what differs within the study is spelt out."""

    line: str  # the policy, and in brackets what tells its variants apart
    setting: str  # the world; empty where the study has one


@dataclass(frozen=True, kw_only=True)
class Group:
    """Cells that differ in the horizon only, in increasing order of horizon."""

    label: Label
    budget_per_task: float | None  # USD, to six digits
    cells: tuple[CellResult, ...]

    @property
    def trouble(self) -> str:
        """Why these cells are no series over the horizon, in a sentence; empty where they are one."""
        if len({cell.description["horizon"] for cell in self.cells}) < len(self.cells):
            return "Several cells share a horizon, so something that the description does not name differs: no fit."
        if len({cell.description.get("benchmark_feasible") for cell in self.cells}) > 1:
            return "The target can be met at some horizons only, so the benchmark changes its meaning: no fit."
        return ""


def summarise(
    cells: Sequence[CellResult],
    *,
    expected: Mapping[str, Mapping[str, float]] | None = None,
    planned: int | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """What ``summary.json`` holds.

    Args:
        cells: all cells of one study, in the order of the study.
        expected: the exponents to check, by policy: ``{policy: {"regret": 0.5, "violation": 0.5}}``, either key
            optional. Nothing is checked for policies that are not named.
        planned: how many cells the study has, of which these may be a part; None where nobody knows.
        level: confidence level of all intervals.
        seed: of the bootstrap of the exponents.

    Returns:
        ``{"level", "planned", "cells", "exponents"}`` of plain JSON values. A cell holds its description, ``label``,
        ``setting``, ``runs``, ``runs_failed`` (runs without a finite regret, left out), ``runs_without_benchmark``
        (runs whose benchmark earns nothing, which have no share of it), ``staged``
        (:func:`deployment_matters`),
        ``violation_positive_share`` (share of runs with any violation) and for each name in :data:`METRICS`
        ``{"mean", "low", "high"}`` or None where it does not apply; intervals stay within :func:`most`. Exponents exist
        for groups of at least three horizons; each holds the fields of the group and, under "regret" and "violation",
        :meth:`experiments.report.scaling.ExponentFit.to_dict` or None.

    """
    labelled = label_cells(cells)
    return {
        "level": level,
        "planned": len(cells) if planned is None else planned,
        "cells": [_cell_entry(cell, label, level) for cell, label in zip(cells, labelled, strict=True)],
        "exponents": [
            _exponent_entry(group, expected or {}, level, seed)
            for group in horizon_groups(cells)
            if len(group.cells) > 2
        ],
    }


def label_cells(cells: Sequence[CellResult], *, stages: bool = True) -> list[Label]:
    """A label a cell; two cells have equal labels when they differ in budget and horizon only.

    The number of stages tells cells apart where it was swept, not where it follows from the horizon; without ``stages``
    it never does.
    """
    settings = [_setting(cell, stages=stages) for cell in cells]
    differing = _differing(settings)
    variants: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        variants.setdefault(str(cell.description["policy"]), []).append(_variant(cell))
    told_apart = {policy: _differing(entries) for policy, entries in variants.items()}
    labels = []
    for cell, setting in zip(cells, settings, strict=True):
        policy, variant = str(cell.description["policy"]), _variant(cell)
        details = _spelled(told_apart[policy], variant)
        line = f"{policy} ({', '.join(details)})" if details else policy
        labels.append(Label(line=line, setting=", ".join(_spelled(differing, setting))))
    return labels


def horizon_groups(cells: Sequence[CellResult]) -> Iterator[Group]:
    """Cells gathered by everything but the horizon (and what follows from it), in order of first appearance."""
    gathered: dict[tuple[Label, float | None], list[CellResult]] = {}
    for cell, label in zip(cells, label_cells(cells), strict=True):
        gathered.setdefault((label, budget_of(cell)), []).append(cell)
    for (label, budget), members in gathered.items():
        ordered = sorted(members, key=lambda cell: float(cell.description["horizon"]))
        yield Group(label=label, budget_per_task=budget, cells=tuple(ordered))


def budget_of(cell: CellResult) -> float | None:
    """Budget in USD a task, to six digits so that totals divided by different horizons still agree."""
    value = cell.description.get("budget_per_task")
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def deployment_matters(cell: CellResult) -> bool:
    """Whether deployment matters here: models arrive or retire, or not all of them may be live at once."""
    horizon, cap = cell.description["horizon"], cell.description.get("max_deployed")
    arrival, retirement = cell.extras.get("arrival"), cell.extras.get("retirement")
    changing = (arrival is not None and (arrival > 0).any()) or (
        retirement is not None and (retirement < horizon).any()
    )
    return bool(changing) or (cap is not None and cap < len(cell.models))


def stage_starts(cell: CellResult) -> np.ndarray:
    """[K] first round of each stage; empty where the cell does not say how many stages there are."""
    stages = int(cell.description.get("stages") or 0)
    if not stages:
        return np.zeros(0, int)
    return np.asarray(stage_start(int(cell.description["horizon"]), stages, np.arange(stages)))


def has_violation(cell: CellResult) -> bool:
    """Whether this cell has a service target at all."""
    if "violation" not in cell.metrics:
        return False
    per_metric = [name for name in cell.metrics if name.startswith("violation_") and name != "violation_worst"]
    return cell.description.get("target") is not None or len(per_metric) > 0


def money_metric(cell: CellResult) -> str | None:
    """The metric of money spent: ``spent_money`` if there is one, else the first resource."""
    spends = [name for name in cell.metrics if name.startswith("spent_")]
    return "spent_money" if "spent_money" in spends else next(iter(spends), None)


def metric_values(cell: CellResult, name: str) -> np.ndarray | None:
    """[R'] values at the horizon of a metric of :data:`METRICS`, finite runs only; None where it does not apply.

    The forecast's error is taken at half time: at the horizon nothing is left to forecast.
    Shares are of the same run's benchmark, budget or demand. Violation is its positive part. What concerns newcomers
    (models that arrive within the run) is averaged within the run: rounds over those it happened to, the share of
    those it never happened to over all of them.
    """
    if name in _NEWCOMERS:
        return _newcomer_values(cell, *_NEWCOMERS[name])
    curve = metric_curve(cell, name)
    if curve is None:
        return None
    final: np.ndarray = curve[:, _half(cell) if name == "forecast_error" else -1]
    return final[np.isfinite(final)]


def _newcomer_values(cell: CellResult, event: str, never: bool) -> np.ndarray | None:
    """[R'] mean rounds from arrival to an event, or the share of newcomers without it; None without newcomers."""
    first, arrival = cell.extras.get(event), cell.extras.get("arrival")
    if first is None or arrival is None:
        return None
    newcomers = np.flatnonzero((arrival > 0) & (arrival < cell.description["horizon"]))
    if len(newcomers) == 0:
        return None
    if "regret" in cell.metrics:
        first = first[np.isfinite(cell.final("regret"))]
    happened = first[:, newcomers] >= 0
    if never:
        return np.asarray(1.0 - happened.mean(axis=1))
    waited = np.where(happened, first[:, newcomers] - arrival[newcomers], 0).sum(axis=1)
    counts = happened.sum(axis=1)
    return np.asarray(waited[counts > 0] / counts[counts > 0])


def _half(cell: CellResult) -> int:
    """The last evaluation round in the first half of the run, or the first one."""
    return max(0, int(np.searchsorted(cell.eval_rounds, cell.eval_rounds[-1] / 2, side="right")) - 1)


def metric_curve(cell: CellResult, name: str) -> np.ndarray | None:
    """[R, E] of a metric of :data:`METRICS` or of the curves, NaN where a denominator is zero; None without it.

    What concerns newcomers has no curve.
    """
    if name.startswith("violation") and not has_violation(cell):
        return None
    if name in ("violation", "violation_worst"):
        return _positive_part(cell.curve(name))
    if name in ("spent", "spent_share"):
        return _spending(cell, name)
    if name == "overspend" and cell.description.get("budget") is None:
        return None
    if name in _PER_STAGE:
        return _per_stage(cell, _PER_STAGE[name])
    shares = {
        "reward_share": ("reward_expected", "benchmark"),
        "violation_per_task": ("violation", "demand"),
        "violation_worst_per_task": ("violation_worst", "demand"),
        "declined_share": ("declined", "demand"),
        "refused_share": ("refused", "demand"),
    }
    if name not in shares:
        return cell.curve(name) if name in cell.metrics else None
    above, below = shares[name]
    if above not in cell.metrics or below not in cell.metrics:
        return None
    numerator = _positive_part(cell.curve(above)) if above.startswith("violation") else cell.curve(above)
    least = _NOTHING * cell.curve("demand") if below == "benchmark" and "demand" in cell.metrics else 0.0
    return _ratio(numerator, cell.curve(below), least)


def _per_stage(cell: CellResult, count: str) -> np.ndarray | None:
    """[R, E] of a count so far, a stage that has begun."""
    begun = np.searchsorted(stage_starts(cell), cell.eval_rounds, side="left")
    if count not in cell.metrics or not begun.any():
        return None
    return np.asarray(cell.curve(count) / np.maximum(begun, 1))


def _spending(cell: CellResult, name: str) -> np.ndarray | None:
    """[R, E] of money spent, in USD or as a share of the whole budget."""
    money, budget = money_metric(cell), cell.description.get("budget")
    if money is None:
        return None
    spent = cell.curve(money)
    if name == "spent":
        return spent
    if budget is None or not math.isfinite(budget):
        return None
    if not budget > 0:
        return None
    return _rounded(spent / budget)


def _positive_part(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(values, 0.0))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, least: np.ndarray | float) -> np.ndarray:
    """[R, E], NaN where the denominator is not above ``least``."""
    positive = denominator > least
    return np.where(positive, _rounded(numerator / np.where(positive, denominator, 1.0)), np.nan)


def _rounded(share: np.ndarray) -> np.ndarray:
    """Nothing as 0 and the whole as 1, whatever floating point made of them."""
    near = np.round(share)
    return np.where((np.abs(share - near) < _ROUNDING) & (np.abs(near) <= 1), near + 0.0, share)


def _variant(cell: CellResult) -> dict[str, Any]:
    swept = {name: value for name, value in _swept(cell).items() if not _of_world(name)}
    return {name: cell.description.get(name) for name in LINE_FIELDS} | swept


def _setting(cell: CellResult, *, stages: bool) -> dict[str, Any]:
    swept = {name: value for name, value in _swept(cell).items() if _of_world(name)}
    if not stages:
        swept = {name: value for name, value in swept.items() if name.split(".")[-1] not in _STAGE_AXES}
    return {name: cell.description.get(name) for name in SETTING_FIELDS} | swept


def _of_world(name: str) -> bool:
    """Whether a swept parameter belongs to the world, not to the policy."""
    return name.split(".")[0] in _WORLD_GROUPS or name in _STAGE_AXES


def _swept(cell: CellResult) -> dict[str, Any]:
    """Swept parameters that the description does not already name."""
    swept = cell.description.get("swept") or {}
    return {str(name): value for name, value in swept.items() if name not in _DESCRIBED_AXES}


def _differing(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """The names it takes to tell all entries apart (absent counts as None), in order of first appearance.

    A name is left out where the earlier ones already say what its value is.
    """
    told: list[str] = []
    known = 1
    for name in dict.fromkeys(name for entry in entries for name in entry):
        apart = len({json.dumps([entry.get(other) for other in (*told, name)], default=str) for entry in entries})
        if apart > known:
            told.append(name)
            known = apart
    return told


def _spelled(names: Sequence[str], values: Mapping[str, Any]) -> list[str]:
    """Named values, each under the last word of its name; a rule's parameter with its rule where that could mislead."""
    words = [name.split(".")[-1] for name in names]
    found = []
    for name, word in zip(names, words, strict=True):
        misleads = words.count(word) > 1 or word in _FIELDS
        found.append(_spell(name.removeprefix("policy.") if misleads and "." in name else word, values.get(name)))
    return found


def _spell(short: str, value: Any) -> str:
    """A named number, or a bare word: "greedy", "step_size=0.1", "no target"; arrivals share words with demands."""
    if value is None:
        return f"default {short}" if short in _STAGE_AXES else f"no {short}"
    if short == "arrivals":
        return f"arrivals {value}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    return f"{short}={value:.6g}"


def _cell_entry(cell: CellResult, label: Label, level: float) -> dict[str, Any]:
    entry: dict[str, Any] = {str(name): _plain(value) for name, value in cell.description.items()}
    for source in entry.get("sources", {}).values():
        source.pop("text", None)
    entry |= {"label": label.line, "setting": label.setting, "runs": int(cell.curves.shape[0])}
    regret = metric_values(cell, "regret")
    entry["staged"] = deployment_matters(cell)
    entry["runs_failed"] = 0 if regret is None else entry["runs"] - len(regret)
    violation = metric_values(cell, "violation")
    has_any = violation is not None and len(violation) > 0
    entry["violation_positive_share"] = float((violation > 0).mean()) if violation is not None and has_any else None
    entry["runs_without_benchmark"] = _without_benchmark(cell)
    for name in METRICS:
        values = metric_values(cell, name)
        entry[name] = None if values is None or len(values) == 0 else _interval(cell, name, values, level)
    return entry


def _interval(cell: CellResult, metric: str, values: np.ndarray, level: float) -> dict[str, float | None]:
    ends = metric_interval(cell, metric, values, level)
    return {name: _plain(value) for name, value in zip(("mean", "low", "high"), ends, strict=True)}


def _without_benchmark(cell: CellResult) -> int:
    """Runs that did not fail and whose benchmark earns nothing."""
    if not {"benchmark", "demand"} <= set(cell.metrics):
        return 0
    benchmark, demand = cell.final("benchmark"), cell.final("demand")
    return int((np.isfinite(benchmark) & ~(benchmark > _NOTHING * demand)).sum())


def metric_interval(
    cell: CellResult, metric: str, values: np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean, low and high of a metric's values [R]; the interval stays within the metric's range (:func:`most`)."""
    return mean_interval(values, level, most=most(cell, metric, values))


def metric_band(
    cell: CellResult, metric: str, curves: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`metric_interval` of each column of [R, E]: three arrays [E]."""
    return mean_band(curves, level, most=most(cell, metric, curves))


def most(cell: CellResult, metric: str, values: np.ndarray) -> float | None:
    """The upper end of a metric's range, whose lower end is zero: a number, infinity, or None for any sign.

    Regret and its parts have any sign, and so has whatever is negative in some run. Shares of the demand or the budget
    end at 1, money at the budget, rounds at the horizon; where some run is beyond that, as spending may be under
    ``budget_rule: average``, there is no upper end. A share of the benchmark has none either.
    """
    if metric.startswith("regret") or bool((values < 0).any()):
        return None
    ends: dict[str, float | None] = dict.fromkeys(_WITHIN_ONE, 1.0)
    ends |= dict.fromkeys(("invalid", "rounds_to_live", "rounds_to_best"), float(cell.description["horizon"]))
    ends |= dict.fromkeys(("spent", money_metric(cell) or "spent"), cell.description.get("budget"))
    end = ends.get(metric)
    return math.inf if end is None or not bool((values <= end).all()) else end


def _exponent_entry(
    group: Group, expected: Mapping[str, Mapping[str, float]], level: float, seed: int
) -> dict[str, Any]:
    first = group.cells[0].description
    names = ("policy", *LINE_FIELDS, *SETTING_FIELDS, "clairvoyant")
    entry = {name: _plain(first.get(name)) for name in names}
    entry |= {"budget_per_task": group.budget_per_task, "label": group.label.line, "setting": group.label.setting}
    entry["swept"] = {name: _plain(value) for name, value in _swept(group.cells[0]).items()}
    entry["horizons"] = [_plain(cell.description["horizon"]) for cell in group.cells]
    entry["note"] = group.trouble
    own = expected.get(str(first["policy"]), {})
    for metric in ("regret", "violation"):
        entry[metric] = fit_group(group, metric, expected=own.get(metric), level=level, seed=seed)
    return entry


def fit_group(
    group: Group, metric: str, *, expected: float | None = None, level: float = 0.95, seed: int = 0
) -> dict[str, Any] | None:
    """The exponent of a metric over the horizons of a group as plain values, or None where it cannot be asked."""
    values = [metric_values(cell, metric) for cell in group.cells]
    samples = [found for found in values if found is not None and len(found) > 0]
    if len(samples) < max(2, len(values)) or group.trouble:
        return None
    horizons = [float(cell.description["horizon"]) for cell in group.cells]
    return fit_exponent(horizons, samples, expected=expected, level=level, seed=seed).to_dict()


def _plain(value: Any) -> Any:
    """Values that strict JSON can hold."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(name): _plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
