"""A study's cells beside published end points: how far each is from them, and from which benchmark regret was taken.

A study lists points under ``published``: mappings that name the cells they belong to (``policy``, ``routing``,
``demand``, ``env``) and what was published of them at the horizon: ``regret`` in tasks, ``violation_per_round`` in
tasks per round, signed: negative where more tasks met the target than had to.

Distance: the root of the mean of the squared errors, with the error of regret as a share of the published regret and
that of the violation in tasks per round. Where the publication does not say from which benchmark its regret is taken,
all of ``BENCHMARKS`` are tried.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from experiments.config.schema import POINT_NAMES, POINT_QUANTITIES
from experiments.report.summary import label_cells
from experiments.results.cell_file import CellResult

BENCHMARKS = {
    "benchmark": "LP with the null action",
    "benchmark_serving_all": "LP, every task served",
    "benchmark_unconstrained": "best model, no constraints",
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One cell beside the published points, means over its runs at the horizon."""

    label: str
    setting: str
    regret: dict[str, float]  # by benchmark; NaN where the benchmark does not exist
    violation_per_round: float  # NaN where there is no target
    published: Mapping[str, float]
    distance: dict[str, float]  # by benchmark

    @property
    def benchmark(self) -> str:
        """The benchmark with the least distance."""
        return min(self.distance, key=lambda name: (math.isnan(self.distance[name]), self.distance[name]))

    @property
    def nearest(self) -> float:
        """The least distance; infinite where there is none."""
        least = self.distance[self.benchmark]
        return math.inf if math.isnan(least) else least


def annotated(cells: Sequence[CellResult], points: Sequence[Mapping[str, Any]]) -> list[CellResult]:
    """The cells, those with a published point holding it as ``info.published``."""
    return [_annotated(cell, points) for cell in cells]


def _annotated(cell: CellResult, points: Sequence[Mapping[str, Any]]) -> CellResult:
    for point in points:
        if all(getattr(cell.info, name) == point[name] for name in POINT_NAMES if name in point):
            published = {name: float(point[name]) for name in POINT_QUANTITIES if name in point}
            return replace(cell, info=replace(cell.info, published=published))
    return cell


def signed_violation(cell: CellResult) -> np.ndarray | None:
    """[R, E] tasks per round that were missing to the latency target so far; negative where there were more."""
    target = cell.info.target
    if target is None or "service_latency" not in cell.metrics:
        return None
    return np.asarray((target * cell.curve("demand") - cell.curve("service_latency")) / cell.eval_rounds)


def regret_from(cell: CellResult, benchmark: str) -> np.ndarray | None:
    """[R, E] regret from one of ``BENCHMARKS``; None where the cell does not hold it."""
    if benchmark not in cell.metrics:
        return None
    return np.asarray(cell.curve(benchmark) - cell.curve("reward_expected"))


def compare(cells: Sequence[CellResult]) -> list[Comparison]:
    """The cells with published points, the nearest first."""
    labels = label_cells(cells)
    found = [
        _comparison(cell, label.line, label.setting)
        for cell, label in zip(cells, labels, strict=True)
        if cell.info.published is not None
    ]
    return sorted(found, key=lambda one: (one.nearest, one.label, one.setting))


def _comparison(cell: CellResult, label: str, setting: str) -> Comparison:
    regret = {}
    for name in BENCHMARKS:
        curve = regret_from(cell, name)
        regret[name] = math.nan if curve is None else float(curve[:, -1].mean())
    missing = signed_violation(cell)
    violation = math.nan if missing is None else float(missing[:, -1].mean())
    published = cell.info.published or {}
    return Comparison(
        label=label,
        setting=setting,
        regret=regret,
        violation_per_round=violation,
        published=published,
        distance={name: _distance(value, violation, published) for name, value in regret.items()},
    )


def _distance(regret: float, violation: float, published: Mapping[str, float]) -> float:
    errors = []
    if "regret" in published:
        errors.append((regret - published["regret"]) / published["regret"])
    if "violation_per_round" in published:
        errors.append(violation - published["violation_per_round"])
    return math.sqrt(sum(error**2 for error in errors) / len(errors))


def markdown(compared: Sequence[Comparison]) -> str:
    """The comparison as a Markdown table, the nearest cell first."""
    names = list(BENCHMARKS.values())
    head = ["cell", *(f"regret, {name}" for name in names), "published regret", "violation per round", "published"]
    rows = [[*head, "nearest benchmark", "distance"]]
    for one in compared:
        where = f"{one.label}; {one.setting}" if one.setting else one.label
        rows.append(
            [
                where.replace("|", "\\|"),
                *(_number(value, 0) for value in one.regret.values()),
                _number(one.published.get("regret", math.nan), 0),
                _number(one.violation_per_round, 2),
                _number(one.published.get("violation_per_round", math.nan), 2),
                BENCHMARKS[one.benchmark] if one.nearest < math.inf else "-",
                _number(one.nearest, 3),
            ]
        )
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|" + "---|" * len(rows[0]))
    return "\n".join(
        [
            "# Beside published end points",
            "",
            "Means over runs at the horizon. Distance: root of the mean of the squared errors, regret as a share of",
            "the published one, violation in tasks per round.",
            "",
            *lines,
            "",
        ]
    )


def _number(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}" if math.isfinite(value) else "-"
