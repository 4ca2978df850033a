"""Published end points beside a study's cells, and several demands in one study."""

import math
from dataclasses import replace

import numpy as np
import pytest

from envs.errors import InputError
from experiments.config import schema
from experiments.report import published
from experiments.report.figures import gallery
from experiments.results.cell_file import CellResult
from tests.studies import ids, planned
from tests.synthetic import make_cell


def cell(policy: str, regret: float, violation: float, *, serving_all: float = math.nan) -> CellResult:
    """A cell of two runs whose regret (from the LP) and signed violation per round end here."""
    made = make_cell(policy, horizon=100, target=0.8, runs=2)
    ends = {"demand": 400.0, "reward_expected": 100.0, "benchmark": 100.0 + regret}
    ends |= {"service_latency": 0.8 * 400.0 - 100.0 * violation, "benchmark_unconstrained": 500.0}
    ends |= {"benchmark_serving_all": serving_all}
    known = [name for name in made.metrics if name not in ends]
    curves = [made.curve(name) for name in known]
    shape = made.curves.shape[:2]
    rising = made.eval_rounds / made.eval_rounds[-1]
    curves += [np.broadcast_to(end * rising, shape) for end in ends.values()]
    return replace(made, metrics=(*known, *ends), curves=np.stack(curves, axis=-1))


POINTS = [{"policy": "a", "regret": 50.0, "violation_per_round": 0.5}, {"routing": "b", "regret": 400.0}]


def test_the_nearest_cell_comes_first_with_the_benchmark_that_fits_best() -> None:
    cells = published.annotated([cell("b", 100.0, 0.0), cell("a", 60.0, 0.3), cell("c", 0.0, 0.0)], POINTS)
    first, second = published.compare(cells)
    assert (first.label, second.label) == ("b", "a")
    assert first.benchmark == "benchmark_unconstrained"  # 500 - 100 is the published 400
    assert first.distance["benchmark_unconstrained"] == pytest.approx(0.0, abs=1e-12)
    assert math.isnan(first.distance["benchmark_serving_all"])
    assert second.benchmark == "benchmark"
    assert second.distance["benchmark"] == pytest.approx(math.sqrt((0.2**2 + 0.2**2) / 2))
    assert second.violation_per_round == pytest.approx(0.3)
    lines = published.markdown([first, second]).splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")] == ["| cell", "| b", "| a"]
    assert "best model, no constraints | 0.000" in lines[-2]


def test_the_figure_is_drawn_where_there_are_end_points() -> None:
    cells = [cell("b", 100.0, 0.0), cell("a", 60.0, 0.3)]
    assert "published" not in [drawing.name for drawing in gallery.draw_all(cells)]
    drawn = {drawing.name: drawing for drawing in gallery.draw_all(published.annotated(cells, POINTS))}
    assert "published" in drawn


@pytest.mark.parametrize(
    ("point", "wanted"),
    [
        ({"policy": "a"}, "regret or violation_per_round"),
        ({"regret": "many"}, "published.regret is 'many'"),
        ({"regret": 1.0, "polcy": "a"}, "'policy'"),
        (3, "must be a mapping"),
    ],
)
def test_a_point_is_names_and_numbers(point: object, wanted: str) -> None:
    with pytest.raises(InputError, match="published") as refused:
        schema.TOP["published"].read([point], "published")
    assert wanted in str(refused.value)


def test_demands_are_told_apart_and_keep_their_own_parameters() -> None:
    both = "demands={calm: {process: constant, mean: 2}, busy: {process: constant, mean: 4}}"
    found = planned(both, "demand.counts=none")
    assert [cell.config.demand_name for cell in found] == ["calm", "busy"]
    assert [cell.instance.expected_demand for cell in found] == [40.0, 80.0]
    assert len(ids(both)) == 2
