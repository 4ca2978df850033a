"""What every cell scored, with intervals, and how regret and violation grow with the horizon."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.report.scaling import ExponentFit, fit_exponent, mean_band, mean_interval
from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo
from experiments.results.metrics import METRICS
from experiments.results.metrics.derived import NOTHING

LINE_FIELDS = ("routing", "deployment", "forecaster")  # with the policy: what tells one line of a figure from another
SETTING_FIELDS = (  # what tells one world from another, besides the budget
    *("env", "demand", "num_models", "target"),
    *("max_deployed", "arrivals"),
)
_STAGE_AXES = {"stages", "stage_exponent"}  # tell cells apart where swept: the number of stages follows T elsewhere
_WORLD_GROUPS = {"env", "demand", "inventory", "outcomes", "problem", "tracker", "study"}
_FIELDS = {*LINE_FIELDS, *SETTING_FIELDS, "policy", "horizon", "budget", "budget_per_task", "cell", "seed", "seeds"}
_DESCRIBED_AXES = {  # whose value the info names
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
        if len({cell.info.horizon for cell in self.cells}) < len(self.cells):
            return "Several cells share a horizon, so something that the description does not name differs: no fit."
        if len({cell.info.benchmark_feasible for cell in self.cells}) > 1:
            return "The target can be met at some horizons only, so the benchmark changes its meaning: no fit."
        return ""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """The mean of a metric over runs with its interval, which stays within the metric's range."""

    mean: float
    low: float | None  # None: one run has no interval
    high: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"mean": _plain(self.mean), "low": self.low, "high": self.high}


@dataclass(frozen=True, kw_only=True)
class CellSummary:
    """What one cell scored."""

    info: CellInfo
    label: str  # the line of its :class:`Label`
    setting: str
    runs: int
    deployment_matters: bool  # :func:`deployment_matters`
    runs_failed: int  # without a finite regret; they are left out
    runs_without_benchmark: int  # whose benchmark earns nothing; they have no share of it
    violation_positive_share: float | None  # share of the runs with any violation; None without a target
    metrics: dict[str, Interval]  # the summarised metrics that apply

    def mean(self, metric: str) -> float | None:
        """The mean of a metric; None where it does not apply."""
        return self.metrics[metric].mean if metric in self.metrics else None

    @property
    def is_beyond_benchmark(self) -> bool:
        """Whether the tables show more than the whole benchmark."""
        return round(self.mean("reward_share") or 0.0, 3) > 1

    def to_json(self) -> dict[str, Any]:
        """An entry of ``cells`` in ``summary.json``; the text of users' files is left out."""
        entry: dict[str, Any] = _plain(self.info.to_json())
        for source in entry["sources"].values():
            source.pop("text", None)
        entry |= {"label": self.label, "setting": self.setting, "runs": self.runs, "staged": self.deployment_matters}
        entry |= {"runs_failed": self.runs_failed, "violation_positive_share": self.violation_positive_share}
        entry |= {"runs_without_benchmark": self.runs_without_benchmark}
        known = {name: interval.to_json() for name, interval in self.metrics.items()}
        return entry | {metric.name: known.get(metric.name) for metric in METRICS.summarised()}


@dataclass(frozen=True, kw_only=True)
class ExponentSummary:
    """How regret and violation of one policy grow with the horizon, at one budget in one setting."""

    info: CellInfo  # of the cell of the shortest horizon
    label: str
    setting: str
    budget_per_task: float | None
    swept: dict[str, Any]
    horizons: tuple[int, ...]
    note: str  # why there is no fit
    regret: ExponentFit | None
    violation: ExponentFit | None

    @property
    def fits(self) -> dict[str, ExponentFit | None]:
        """The fits by metric."""
        return {"regret": self.regret, "violation": self.violation}

    def to_json(self) -> dict[str, Any]:
        """An entry of ``exponents`` in ``summary.json``."""
        names = ("policy", *LINE_FIELDS, *SETTING_FIELDS, "clairvoyant")
        entry = {name: _plain(getattr(self.info, name)) for name in names}
        entry |= {"budget_per_task": self.budget_per_task, "label": self.label, "setting": self.setting}
        entry |= {"swept": _plain(self.swept), "horizons": list(self.horizons), "note": self.note}
        return entry | {name: None if fit is None else fit.to_dict() for name, fit in self.fits.items()}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A study in numbers."""

    level: float  # confidence level of all intervals
    planned: int  # how many cells the study has, of which these may be a part
    cells: tuple[CellSummary, ...]
    exponents: tuple[ExponentSummary, ...]  # of groups of at least three horizons

    @property
    def longest(self) -> list[CellSummary]:
        """The cells of the longest horizon."""
        horizon = max((cell.info.horizon for cell in self.cells), default=0)
        return [cell for cell in self.cells if cell.info.horizon == horizon]

    def to_json(self) -> dict[str, Any]:
        """What ``summary.json`` holds."""
        cells, exponents = ([entry.to_json() for entry in entries] for entries in (self.cells, self.exponents))
        return {"level": self.level, "planned": self.planned, "cells": cells, "exponents": exponents}


def summarise(
    cells: Sequence[CellResult],
    *,
    expected: Mapping[str, Mapping[str, float]] | None = None,
    planned: int | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> Summary:
    """The summary of a study.

    Args:
        cells: all cells of one study, in the order of the study.
        expected: the exponents to check, by policy: ``{policy: {"regret": 0.5, "violation": 0.5}}``, either key
            optional. Nothing is checked for policies that are not named.
        planned: how many cells the study has, of which these may be a part; None where nobody knows.
        level: confidence level of all intervals.
        seed: of the bootstrap of the exponents.
    """
    labelled = label_cells(cells)
    groups = [group for group in horizon_groups(cells) if len(group.cells) > 2]
    return Summary(
        level=level,
        planned=len(cells) if planned is None else planned,
        cells=tuple(_cell_summary(cell, label, level) for cell, label in zip(cells, labelled, strict=True)),
        exponents=tuple(_exponent_summary(group, expected or {}, level, seed) for group in groups),
    )


def label_cells(cells: Sequence[CellResult], *, stages: bool = True) -> list[Label]:
    """A label a cell; two cells have equal labels when they differ in budget and horizon only.

    The number of stages tells cells apart where it was swept, not where it follows from the horizon; without ``stages``
    it never does.
    """
    settings = [_setting(cell, stages=stages) for cell in cells]
    differing = _differing(settings)
    variants: dict[str, list[dict[str, Any]]] = {}
    for cell in cells:
        variants.setdefault(str(cell.info.policy), []).append(_variant(cell))
    told_apart = {policy: _differing(entries) for policy, entries in variants.items()}
    labels = []
    for cell, setting in zip(cells, settings, strict=True):
        policy, variant = str(cell.info.policy), _variant(cell)
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
        ordered = sorted(members, key=lambda cell: float(cell.info.horizon))
        yield Group(label=label, budget_per_task=budget, cells=tuple(ordered))


def budget_of(cell: CellResult) -> float | None:
    """Budget in USD a task, to six digits so that totals divided by different horizons still agree."""
    value = cell.info.budget_per_task
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def deployment_matters(cell: CellResult) -> bool:
    """Whether deployment matters here: models arrive or retire, or not all of them may be live at once."""
    horizon, cap = cell.info.horizon, cell.info.max_deployed
    arrival, retirement = cell.extras.get("arrival"), cell.extras.get("retirement")
    changing = (arrival is not None and (arrival > 0).any()) or (
        retirement is not None and (retirement < horizon).any()
    )
    return bool(changing) or (cap is not None and cap < len(cell.models))


def metric_values(cell: CellResult, name: str) -> np.ndarray | None:
    """[R'] the values that a cell's runs are judged by; see :meth:`experiments.results.metrics.Metric.values`."""
    return METRICS.find(name).values(cell)


def metric_curve(cell: CellResult, name: str) -> np.ndarray | None:
    """[R, E] of a metric; see :meth:`experiments.results.metrics.Metric.curve`."""
    return METRICS.find(name).curve(cell)


def _variant(cell: CellResult) -> dict[str, Any]:
    swept = {name: value for name, value in _swept(cell).items() if not _of_world(name)}
    return {name: getattr(cell.info, name) for name in LINE_FIELDS} | swept


def _setting(cell: CellResult, *, stages: bool) -> dict[str, Any]:
    swept = {name: value for name, value in _swept(cell).items() if _of_world(name)}
    if not stages:
        swept = {name: value for name, value in swept.items() if name.split(".")[-1] not in _STAGE_AXES}
    return {name: getattr(cell.info, name) for name in SETTING_FIELDS} | swept


def _of_world(name: str) -> bool:
    """Whether a swept parameter belongs to the world, not to the policy."""
    return name.split(".")[0] in _WORLD_GROUPS or name in _STAGE_AXES


def _swept(cell: CellResult) -> dict[str, Any]:
    """Swept parameters that the info does not already name."""
    swept = cell.info.swept or {}
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


def _cell_summary(cell: CellResult, label: Label, level: float) -> CellSummary:
    runs, regret, violation = len(cell.curves), metric_values(cell, "regret"), metric_values(cell, "violation")
    judged = {metric.name: metric.values(cell) for metric in METRICS.summarised()}
    return CellSummary(
        info=cell.info,
        label=label.line,
        setting=label.setting,
        runs=runs,
        deployment_matters=deployment_matters(cell),
        runs_failed=0 if regret is None else runs - len(regret),
        runs_without_benchmark=_without_benchmark(cell),
        violation_positive_share=None if violation is None or len(violation) == 0 else float((violation > 0).mean()),
        metrics={
            name: _interval(cell, name, values, level)
            for name, values in judged.items()
            if values is not None and len(values) > 0
        },
    )


def _interval(cell: CellResult, metric: str, values: np.ndarray, level: float) -> Interval:
    mean, low, high = metric_interval(cell, metric, values, level)
    return Interval(mean=float(mean), low=_plain(low), high=_plain(high))


def _without_benchmark(cell: CellResult) -> int:
    """Runs that did not fail and whose benchmark earns nothing."""
    if not {"benchmark", "demand"} <= set(cell.metrics):
        return 0
    benchmark, demand = cell.final("benchmark"), cell.final("demand")
    return int((np.isfinite(benchmark) & ~(benchmark > NOTHING * demand)).sum())


def metric_interval(
    cell: CellResult, metric: str, values: np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean, low and high of a metric's values [R]; the interval stays within the metric's range."""
    return mean_interval(values, level, most=METRICS.find(metric).most(cell, values))


def metric_band(
    cell: CellResult, metric: str, curves: np.ndarray, level: float = 0.95
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`metric_interval` of each column of [R, E]: three arrays [E]."""
    return mean_band(curves, level, most=METRICS.find(metric).most(cell, curves))


def _exponent_summary(
    group: Group, expected: Mapping[str, Mapping[str, float]], level: float, seed: int
) -> ExponentSummary:
    first = group.cells[0]
    own = expected.get(first.info.policy, {})
    regret, violation = (
        fit_group(group, metric, expected=own.get(metric), level=level, seed=seed) for metric in ("regret", "violation")
    )
    return ExponentSummary(
        info=first.info,
        label=group.label.line,
        setting=group.label.setting,
        budget_per_task=group.budget_per_task,
        swept=_swept(first),
        horizons=tuple(int(cell.info.horizon) for cell in group.cells),
        note=group.trouble,
        regret=regret,
        violation=violation,
    )


def fit_group(
    group: Group, metric: str, *, expected: float | None = None, level: float = 0.95, seed: int = 0
) -> ExponentFit | None:
    """The exponent of a metric over the horizons of a group, or None where it cannot be asked."""
    values = [metric_values(cell, metric) for cell in group.cells]
    samples = [found for found in values if found is not None and len(found) > 0]
    if len(samples) < max(2, len(values)) or group.trouble:
        return None
    horizons = [float(cell.info.horizon) for cell in group.cells]
    return fit_exponent(horizons, samples, expected=expected, level=level, seed=seed)


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
