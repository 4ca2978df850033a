"""Metrics are one table: one that is registered anywhere is summed up, shown, stored and documented everywhere."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from envs.errors import InputError
from experiments.cli import findings
from experiments.report import dashboards, page
from experiments.report.summary import summarise
from experiments.report.tables import markdown_tables
from experiments.results import documentation, measure, tables
from experiments.results.cell_file import CellResult
from experiments.results.metrics import METRICS, Kind, Range, Read, Table
from experiments.results.metrics.base import LAST, measured, metric
from experiments.results.metrics.measured import Deployed, Ideal, Totals
from tests.synthetic import make_cell, make_study

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    """The registry as it was, whatever a test adds."""
    before = dict(METRICS)
    yield
    METRICS.clear()
    METRICS.update(before)


def totals(*, deployed: bool = False) -> Totals:
    """Made-up totals of 3 runs at 2 evaluation rounds: two resources and a service metric."""
    generator = np.random.default_rng(5)
    plane, space = generator.random((40, 2, 3)) + 1.0, generator.random((8, 2, 3, 2))
    names = (
        "demand",
        "served",
        "declined",
        "refused",
        "reward",
        "reward_expected",
        "forecast_total",
        "invalid",
        "clipped",
    )
    ideal = Ideal(
        best_deployment=plane[20], window=plane[21], fluid=plane[22], share=np.ones((2, 1)), feasible=True,
        serving_all=None if deployed else plane[23], unconstrained=None if deployed else plane[24],
    )  # fmt: skip
    parts = Deployed(value=plane[30], activations=plane[31], evictions=plane[32], gap=plane[33])
    return Totals(
        resources=("money", "seconds"),
        services=("latency",),
        target=np.array([0.9]),
        budget_per_task=np.array([0.1, 0.2]),
        service=space[0, ..., :1],
        violation_worst=space[1, ..., :1],
        spent=space[2],
        quanta_spent=np.array([[[5, 9]] * 3, [[11, 20]] * 3]),
        quanta_budget=np.array([10, 10]),
        duals=generator.random((2, 3, 3)),
        ideal=ideal,
        deployed=parts if deployed else None,
        **dict(zip(names, plane, strict=False)),
    )


def stored(made: Totals) -> CellResult:
    """A cell that stores these totals."""
    curves = measure.curves(made)
    cell = make_cell(runs=3, marks=2)
    return replace(cell, metrics=tuple(curves), curves=np.stack(list(curves.values()), axis=-1).transpose(1, 0, 2))


def test_a_metric_from_outside_is_shown_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @metric(
        "idle_share", title="Idle, share of demand", unit="share of the demand", kind=Kind.SHARE, range=Range.ONE,
        table=Table.CELLS, percent=True, terminal=("idle", ".2%"),
    )  # fmt: skip
    def _idle(cell: CellResult) -> np.ndarray:
        """Made up."""
        return 0.25 + 0.0 * cell.curve("demand")

    monkeypatch.setattr(page, "write_all", lambda cells, folder: [])
    cells = make_study(policies=("ucb",), budgets=(0.002,), horizons=(100, 200), runs=4, oracle=False)
    found = summarise(cells)
    assert [entry.mean("idle_share") for entry in found.cells] == [0.25, 0.25]
    assert "| Idle, share of demand |" in markdown_tables(found)
    text = page.write(cells, {}, found, tmp_path).read_text(encoding="utf-8")
    assert ">Idle, share of demand</button>" in text and ">25.0 %<" in text
    terminal = findings.findings(found)
    assert [str(column.header) for column in terminal.columns][-1] == "idle"
    assert [cell.plain for cell in terminal.columns[-1].cells] == ["25.00%"]
    assert dashboards.history(cells[0])[-1]["idle_share/mean"] == 0.25
    assert dashboards.finals(cells[0], found.cells[0])["final/idle_share"] == 0.25
    assert dashboards.study_values(found)["study/idle_share"] == 0.25
    assert "| `idle_share` | Idle, share of demand | share of the demand |" in documentation.page()


def test_a_measured_metric_from_outside_is_stored_and_shown(tmp_path: Path) -> None:
    @measured("kept", title="Kept", unit="tasks", kind=Kind.SUM, summarised=True)
    def _kept(made: Totals) -> np.ndarray:
        """Made up."""
        return made.demand - made.refused

    made = totals()
    cell = stored(made)
    assert cell.metrics[-1] == "kept"
    tables.write_results(tmp_path, [cell])
    column = pyarrow.parquet.read_table(tmp_path / "results.parquet")["kept"].to_pylist()
    np.testing.assert_array_equal(column, (made.demand - made.refused)[-1])
    assert summarise([cell]).cells[0].mean("kept") == pytest.approx(np.mean(column))
    assert dashboards.history(cell)[-1]["kept/mean"] == pytest.approx(np.mean(column))
    assert "| `kept` | tasks | sum over the rounds so far | Made up. |" in documentation.page()


def test_cells_store_what_applies_to_their_world() -> None:
    fixed, changing = set(measure.curves(totals())), set(measure.curves(totals(deployed=True)))
    assert fixed - changing == {"benchmark_serving_all", "benchmark_unconstrained"}
    parts = {"regret_waiting", "regret_deployment", "regret_routing"}
    counts = {"benchmark_fluid", "activations", "evictions", "deployment_gap"}
    assert changing - fixed == parts | counts
    curves = measure.curves(totals(deployed=True))
    np.testing.assert_allclose(sum(curves[name] for name in parts), curves["regret"])
    np.testing.assert_array_equal(
        curves["overspend"], [[0.0] * 3, [1.0] * 3]
    )  # the worse of 11 and 20 quanta, of 10 each
    assert {"spent_money", "spent_seconds", "violation_latency", "service_latency"} <= fixed
    assert {"dual_money", "dual_seconds", "dual_latency"} <= fixed


def test_the_documentation_is_up_to_date() -> None:
    """If not: ``python -m experiments.results.documentation > docs/results-format.md``."""
    assert (ROOT / "docs" / "results-format.md").read_text(encoding="utf-8") == documentation.page()


def test_every_column_of_the_tables_is_documented(tmp_path: Path) -> None:
    tables.write_results(tmp_path, [stored(totals()), stored(totals(deployed=True))])
    page = documentation.page()
    for name in pyarrow.parquet.read_schema(tmp_path / "results.parquet").names:
        family = METRICS.find(name)
        column = f"{name.partition('_')[0]}_<name>" if family.each else name
        assert f"| `{column}` |" in page or name == "seed", name


@pytest.mark.parametrize(
    ("name", "facts", "why"),
    [
        ("regret", {}, "there is a metric called 'regret' already"),
        ("Regret of mine", {}, "cannot be called"),
        ("mine_*", {}, "a family's name"),
        ("mine", {"each": "services"}, "a family's name"),
    ],
)
def test_what_cannot_be_a_metric_is_refused(name: str, facts: dict, why: str) -> None:
    def function(cell: CellResult) -> None:
        """Made up."""

    with pytest.raises(InputError, match=why):
        metric(name, title="x", unit="x", kind=Kind.SUM, **facts)(function)
    with pytest.raises(InputError, match="docstring"):
        metric("mine", title="x", unit="x", kind=Kind.SUM)(lambda cell: None)


def test_members_of_families_and_columns_that_nobody_registered_are_found() -> None:
    cell = make_cell(runs=4)
    assert METRICS.find("spent_money").most(cell, np.zeros(3)) == cell.info.budget
    assert METRICS.find("spent_seconds").most(cell, np.zeros(3)) == math.inf
    assert METRICS.find("violation_worst") is METRICS["violation_worst"]
    assert METRICS.find("violation_latency").label == "Violation, latency (tasks)"
    older = replace(cell, metrics=("once", *cell.metrics[1:]))
    np.testing.assert_array_equal(METRICS.find("once").values(older), older.final("once"))
    assert METRICS.find("once").curve(cell) is None


def test_labels_have_units_where_values_add_up() -> None:
    assert METRICS["regret"].label == METRICS["regret"].heading == "Regret (tasks)"
    assert METRICS["reward_share"].heading == "Reward, share of benchmark"
    assert (METRICS["forecast_error"].label, METRICS["forecast_error"].heading) == (
        "Forecast error",
        "Forecast error at half time",
    )


def test_the_table_of_metrics_is_in_order() -> None:
    orders = [entry.order for entry in METRICS.summarised()]
    assert orders == sorted(set(orders)) and orders[-1] < LAST
    for entry in METRICS.values():
        assert entry.table is None or entry.summarised
        assert entry.read is not Read.RUN or not entry.measured
