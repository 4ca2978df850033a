"""The summary holds the right numbers, and the page shows them to anyone, offline, whatever things are called."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import escape

from experiments.cli.findings import exponents
from experiments.report.headlines import headlines
from experiments.report.page import write
from experiments.report.scaling import fit_exponent, mean_interval
from experiments.report.summary import horizon_groups, label_cells, metric_curve, summarise
from experiments.report.tables import latex_tables, markdown_tables
from experiments.results.cell_file import CellResult
from experiments.results.metrics import METRICS, Table
from tests.synthetic import PARTS, make_cell, make_staged_cell, make_study, without_stages

CONFIG = {"name": "a study", "seeds": 8, "env": {"catalogue": "x", "floors": {"latency": 0.8}}, "policies": ["ucb"]}
RECORD = {"config": CONFIG, "versions": {"jax": "0.10.2", "git": "0123456789abcdef"}}
EXPECTED = {"ucb": {"regret": 0.5}}
NASTY = "<script>alert(1)</script>|_$&%\"'"


@pytest.fixture(scope="module")
def study() -> list:
    return make_study(budgets=(0.001, 0.002), horizons=(1000, 4000, 16000), runs=6)


@pytest.fixture(scope="module")
def page(study: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(study, RECORD, summarise(study, expected=EXPECTED), tmp_path_factory.mktemp("report"))


def change(cell: CellResult, metric: str, values: np.ndarray) -> CellResult:
    """The cell with other values of a metric at its horizon."""
    curves = cell.curves.copy()
    curves[:, -1, cell.metrics.index(metric)] = values
    return replace(cell, curves=curves)


def test_summary_agrees_with_the_curves(study: list) -> None:
    summary = summarise(study)
    for cell, entry in zip(study, summary.cells, strict=True):
        assert entry.info.cell == cell.info.cell
        share = cell.final("reward_expected") / cell.final("benchmark")
        spent = cell.final("spent_money") / cell.info.budget
        ranges = (("reward_share", share, np.inf), ("spent_share", spent, 1.0), ("regret", cell.final("regret"), None))
        for name, values, most in ranges:
            found = entry.metrics[name]
            assert (found.mean, found.low, found.high) == pytest.approx(mean_interval(values, most=most))
        assert entry.mean("violation_per_task") == pytest.approx(
            float((cell.final("violation") / cell.final("demand")).mean())
        )
        assert {metric.name for metric in METRICS.summarised()} <= set(entry.to_json())
    plain = summary.to_json()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_forecast_error_is_that_of_half_time() -> None:
    cell = make_cell(horizon=1000)
    mark = int(np.flatnonzero(cell.eval_rounds <= 500)[-1])
    entry = summarise([cell]).cells[0]
    assert entry.mean("forecast_error") == pytest.approx(float(cell.curve("forecast_error")[:, mark].mean()))


def test_exponents_are_those_of_the_cells(study: list) -> None:
    entries = summarise(study, expected=EXPECTED).exponents
    assert len(entries) == 10
    entry = next(e for e in entries if (e.info.policy, e.budget_per_task) == ("ucb", 0.002))
    cells = [c for c in study if c.info.policy == "ucb" and c.info.budget_per_task == 0.002]
    horizons = [c.info.horizon for c in cells]
    wanted = fit_exponent(horizons, [c.final("regret") for c in cells], expected=0.5)
    assert entry.regret.to_dict() == entry.to_json()["regret"] == wanted.to_dict()
    assert entry.violation.verdict is None
    oracle = next(e for e in entries if e.info.policy == "oracle")
    assert oracle.regret.expected is None


def test_violation_counts_its_positive_part_only() -> None:
    cell = change(make_cell(runs=4), "violation", np.array([-5.0, -3.0, 2.0, 4.0]))
    entry = summarise([cell]).cells[0]
    assert entry.mean("violation") == pytest.approx(1.5)
    assert entry.violation_positive_share == 0.5


def test_what_does_not_apply_is_none() -> None:
    cell = make_cell(budget_per_task=None, runs=1)
    entry = summarise([cell]).cells[0]
    assert entry.mean("spent_share") is None
    assert entry.mean("overspend") is None
    assert entry.mean("spent") > 0
    assert entry.metrics["regret"].low is None
    bare = [name for name in cell.metrics if not name.startswith("violation")]
    picks = [cell.metrics.index(name) for name in bare]
    without = replace(cell, metrics=tuple(bare), curves=cell.curves[:, :, picks])
    assert summarise([without]).cells[0].mean("violation_per_task") is None


def test_failed_runs_are_counted_and_left_out() -> None:
    cell = make_cell(runs=5)
    curves = cell.curves.copy()
    curves[2] = np.nan
    entry = summarise([replace(cell, curves=curves)]).cells[0]
    assert entry.runs_failed == 1
    assert entry.mean("regret") == pytest.approx(float(np.delete(cell.final("regret"), 2).mean()))


def test_labels_spell_out_only_what_differs() -> None:
    cells = [
        make_cell("ucb", swept={"policy.eta": 0.1, "horizon": 10}),
        make_cell("ucb", swept={"policy.eta": 0.2, "horizon": 20}),
        make_cell("greedy", demand="diurnal", swept={"demand.rate": 3.0}),
        make_cell("greedy", demand="diurnal", swept={"demand.rate": 5.0}),
    ]
    labels = label_cells(cells)
    assert [label.line for label in labels] == ["ucb (eta=0.1)", "ucb (eta=0.2)", "greedy", "greedy"]
    assert labels[0].setting == labels[1].setting == "poisson, no rate"
    assert labels[2].setting == "diurnal, rate=3"
    # Where the demand says what the rate is, the rate is not said.
    assert [label.setting for label in label_cells(cells[:3])] == ["poisson", "poisson", "diurnal"]


def test_stages_tell_cells_apart_where_they_were_swept_only() -> None:
    grown = [make_staged_cell(horizon=horizon, runs=3) for horizon in (100, 1000, 10000)]
    assert [cell.info.stages for cell in grown] == [5, 10, 22]
    (group,) = horizon_groups(grown)
    assert group.label.setting == "" and len(group.cells) == 3
    assert summarise(grown).exponents[0].regret.slope == pytest.approx(0.5, abs=0.1)
    for axis in ("stages", "env.stages", "env.stage_exponent"):
        swept = [
            make_staged_cell(horizon=horizon, stages=stages, swept={axis: value, "horizon": horizon})
            for stages, value in ((4, 0.25), (9, 0.5))
            for horizon in (100, 200, 400)
        ]
        name = axis.split(".")[-1]
        assert [label.line for label in label_cells(swept)] == ["ucb"] * 6
        assert [label.setting for label in label_cells(swept)] == [f"{name}=0.25"] * 3 + [f"{name}=0.5"] * 3
        assert [label.setting for label in label_cells(swept, stages=False)] == [""] * 6
        assert [len(group.cells) for group in horizon_groups(swept)] == [3, 3]
        assert [entry.setting for entry in summarise(swept).exponents] == [f"{name}=0.25", f"{name}=0.5"]


def test_a_number_of_stages_may_be_left_to_the_rule() -> None:
    cells = [make_staged_cell(swept={"env.stages": None}), make_staged_cell(stages=4, swept={"env.stages": 4})]
    assert [label.setting for label in label_cells(cells)] == ["default stages", "stages=4"]


def test_inventory_and_cap_belong_to_the_setting_and_deployment_to_the_line() -> None:
    cells = [
        make_staged_cell(max_deployed=3, swept={"env.max_deployed": 3}),
        make_staged_cell(max_deployed=None, swept={"env.max_deployed": None}),
        make_staged_cell(max_deployed=3, arrivals="poisson", deployment="greedy"),
        make_staged_cell(max_deployed=3, routing="other"),
    ]
    labels = label_cells(cells)
    assert [label.setting for label in labels] == [
        "max_deployed=3, arrivals even",
        "no max_deployed, arrivals even",
        "max_deployed=3, arrivals poisson",
        "max_deployed=3, arrivals even",
    ]
    assert [label.line for label in labels] == [
        "ucb (ucb, stageroute)",
        "ucb (ucb, stageroute)",
        "ucb (ucb, greedy)",
        "ucb (other, stageroute)",
    ]


def test_deployment_is_summed_up_with_the_right_numbers() -> None:
    cell = make_staged_cell(horizon=1000, stages=10, runs=4, models=7)
    first = np.array([[0, 0, 0, 0, 0, 300, 500], [0, 0, 0, 0, 0, 400, -1], [0] * 5 + [-1, -1], [0] * 5 + [260, 900]])
    best = np.where(first > 800, -1, first)
    arrival = np.array([0, 0, 0, 0, 0, 250, 500])
    cell = replace(cell, extras=cell.extras | {"arrival": arrival, "first_live": first, "first_best": best})
    entry = summarise([cell]).cells[0]
    assert entry.deployment_matters and entry.to_json()["staged"] is True
    assert entry.to_json()["rounds_to_live"] == dict(
        zip(("mean", "low", "high"), mean_interval([25.0, 150.0, 205.0], most=1000.0), strict=True)
    )
    assert entry.mean("never_live_share") == pytest.approx((0 + 0.5 + 1 + 0) / 4)
    assert entry.mean("rounds_to_best") == pytest.approx((25 + 150 + 10) / 3)
    assert entry.mean("never_best_share") == pytest.approx((0 + 0.5 + 1 + 0.5) / 4)
    assert entry.mean("activations_per_stage") == pytest.approx((4 + 0.5 * 10) / 10)
    assert entry.mean("evictions_per_stage") == pytest.approx(0.25)
    assert entry.mean("deployment_gap") == pytest.approx(0.01)
    assert entry.mean("pace") == pytest.approx(1.2)
    parts = [entry.mean(name) for name in PARTS]
    assert parts == pytest.approx([share * entry.mean("regret") for share in (0.2, 0.3, 0.5)])


def test_failed_runs_and_models_that_never_come_are_no_newcomers() -> None:
    cell = make_staged_cell(horizon=1000, stages=10, runs=2, models=7)
    curves = cell.curves.copy()
    curves[1] = np.nan
    first = np.array([[0] * 5 + [300, -1], [0] * 7])
    extras = cell.extras | {"arrival": np.array([0, 0, 0, 0, 0, 250, 1000]), "first_live": first}
    entry = summarise([replace(cell, curves=curves, extras=extras)]).cells[0]
    assert entry.mean("rounds_to_live") == 50.0
    assert entry.mean("never_live_share") == 0.0


def test_counts_are_taken_over_the_stages_begun_so_far() -> None:
    cell = make_staged_cell(horizon=1000, stages=3, runs=2)  # stages start at rounds 0, 334 and 667
    cell = replace(cell, eval_rounds=np.array([1, 334, 335, 667, 668, 1000]), curves=cell.curves[:, :6])
    curve = metric_curve(cell, "activations_per_stage")
    np.testing.assert_allclose(curve * [1, 1, 2, 2, 3, 3], cell.curve("activations"))


def test_cells_from_before_there_were_stages_say_nothing_of_them() -> None:
    entry = summarise([without_stages(make_staged_cell())]).cells[0]
    assert not entry.deployment_matters and entry.to_json()["staged"] is False
    assert not any(metric.name in entry.metrics for metric in METRICS.summarised(Table.DEPLOYMENT))
    assert entry.mean("regret") > 0


def test_groups_survive_rounding_and_refuse_repeats() -> None:
    cells = [make_cell(horizon=h, budget_per_task=0.002 * (1 + 1e-12 * h)) for h in (100, 1000, 10000)]
    assert [len(group.cells) for group in horizon_groups(cells)] == [3]
    entry = summarise([*cells, cells[0]]).exponents[0]
    assert entry.regret is None
    assert "share a horizon" in entry.note


def test_headlines_report_trouble() -> None:
    cell = make_cell(benchmark_feasible=False, runs=4)
    cell = change(cell, "overspend", np.array([0.0, 0.0, 0.1, 0.0]))
    cell = change(cell, "regret", np.array([-5.0, -5.1, -5.2, -5.3]))
    cell = change(cell, "invalid", np.array([0.0, 1.0, 0.0, 0.0]))
    said = " ".join(headlines(summarise([cell])))
    for words in ("Runs overspent in 1 cell", "Regret is negative", "nobody can meet the target", "not finite"):
        assert words in said
    assert headlines(summarise([])) == ["The study holds no cells."]


def test_headlines_name_the_best(study: list) -> None:
    said = headlines(summarise(study, expected=EXPECTED))
    assert said[0].startswith("30 cells with 180 runs: 5 policies, 2 budgets, 3 horizons (1,000 to 16,000 rounds)")
    assert "No run spent more than its budget." in said
    assert any("ucb earned most among 4 policies" in sentence for sentence in said)
    assert [sentence for sentence in said if "Expected of" in sentence] == [
        "Expected of ucb: regret grows no faster than T^0.5: 1 consistent, 1 undecided."
    ]


def test_exponents_are_expected_of_the_policies_named_and_of_no_others(study: list) -> None:
    expected = {"ucb": {"regret": 0.5, "violation": 0.6}, "greedy": {"regret": 0.5}, "elsewhere": {"regret": 0.5}}
    for entry in summarise(study, expected=expected).exponents:
        for metric in ("regret", "violation"):
            wanted = expected.get(entry.info.policy, {}).get(metric)
            fit = entry.fits[metric]
            assert fit is None or fit.expected == wanted
            assert fit is None or (fit.verdict is None) == (wanted is None)
    said = " ".join(headlines(summarise(study, expected=expected)))
    assert "Expected of greedy: regret grows no faster than T^0.5: 2 exceeds." in said
    assert said.count("Expected of") == 3
    assert "Expected of" not in " ".join(headlines(summarise(study)))


def vanishing() -> list[CellResult]:
    """Violation in all runs at the shortest horizon, none from the second on."""
    cells = make_study(policies=("ucb",), budgets=(0.002,), horizons=(1000, 4000, 16000, 64000), runs=4, oracle=False)
    return [cells[0], *(change(cell, "violation", np.zeros(4)) for cell in cells[1:])]


def test_words_stand_in_every_table_where_there_is_no_slope(tmp_path: Path) -> None:
    cells = vanishing()
    summary = summarise(cells, expected={"ucb": {"violation": 0.5}})
    fit = summary.exponents[0].violation
    assert (fit.has_slope, fit.in_words, fit.verdict) == (False, "zero from T = 4,000 on", "consistent")
    row = [line for line in markdown_tables(summary).splitlines() if line.startswith("| ucb")][-1]
    assert row.endswith("| zero from T = 4,000 on | — | consistent (expected 0.5) |")
    assert "zero from T = 4,000 on" in latex_tables(summary)
    section = write(cells, RECORD, summary, tmp_path).read_text(encoding="utf-8").split('<h2 id="exponents">')[1]
    assert "<td>zero from T = 4,000 on</td><td>—</td>" in section
    table = exponents(summary)
    (cell,) = table.columns[-1].cells
    assert cell.plain.replace("\N{NO-BREAK SPACE}", " ") == "zero from T = 4,000 on"
    assert "Tail slope of violation" not in " ".join(headlines(summary))


RATIOS = ("declined", "refused", "violation", "violation_worst")


@pytest.mark.parametrize("runs", [2, 3, 8])
def test_intervals_stay_in_their_range(runs: int) -> None:
    """One run declines everything, violates everywhere and spends it all; the others do next to nothing."""
    cell = make_cell(runs=runs)
    one = np.arange(runs) == 0
    for metric in RATIOS:
        cell = change(cell, metric, np.where(one, 1.0, 1e-6) * cell.final("demand"))
    cell = change(cell, "spent_money", np.where(one, 0.2, 1.0) * cell.info.budget)
    cell = change(cell, "reward_expected", np.where(one, 0.0, 1.0) * cell.final("benchmark"))
    entry = summarise([cell]).cells[0]
    shares = ("declined_share", "refused_share", "violation_per_task", "violation_worst_per_task", "spent_share")
    for name in (*shares, "reward_share"):
        found = entry.metrics[name]
        assert 0 <= found.low < found.mean < found.high
        assert found.high <= 1 or name == "reward_share"
    assert entry.metrics["spent"].high <= cell.info.budget
    page = markdown_tables(summarise([cell]))
    assert not re.search(r"\[−", page.split("Regret (tasks)")[0])
    for name, found in entry.metrics.items():
        assert found.low >= 0 or name.startswith("regret"), name


def test_spending_beyond_the_budget_has_no_upper_end() -> None:
    cell = make_cell(runs=4)
    cell = change(cell, "spent_money", np.array([0.9, 1.0, 1.1, 1.2]) * cell.info.budget)
    entry = summarise([cell]).cells[0].metrics["spent_share"]
    assert entry.mean == pytest.approx(1.05)
    assert entry.high > 1.05


def test_a_benchmark_that_earns_nothing_has_no_shares() -> None:
    cell = make_cell(runs=4)
    benchmark = cell.final("benchmark") * [0.0, 1e-12, 1.0, 1.0]
    summary = summarise([change(cell, "benchmark", benchmark)])
    entry = summary.cells[0]
    assert entry.runs_without_benchmark == 2
    assert 0.9 < entry.mean("reward_share") < 1
    assert "The benchmark of 2 runs earns nothing; these runs have no share of it." in headlines(summary)
    summary = summarise([change(cell, "benchmark", np.zeros(4))])
    assert summary.cells[0].mean("reward_share") is None
    assert not any("earned most" in sentence for sentence in headlines(summary))


def test_a_reward_beyond_the_benchmark_is_remarked() -> None:
    cell = make_cell(runs=4)
    more = change(cell, "reward_expected", 1.25 * cell.final("benchmark"))
    summary = summarise([more, make_cell("greedy")])
    assert any("exceeds the benchmark (marked ‡)" in sentence for sentence in headlines(summary))
    assert "125.0 % ‡ " in markdown_tables(summary) and "125.0 % ‡ " not in markdown_tables(summarise([cell]))


def test_a_series_does_not_mix_benchmarks() -> None:
    cells = [make_cell(horizon=horizon, benchmark_feasible=horizon > 100) for horizon in (100, 1000, 10000)]
    (entry,) = summarise(cells).exponents
    assert entry.regret is entry.violation is None
    assert "some horizons only" in entry.note


def test_who_is_best_is_asked_at_each_budget() -> None:
    """A mean over budgets would call the policy best that is only best at the richest one."""
    rewards = {("poor", 0.001): 0.5, ("rich", 0.001): 0.1, ("poor", 0.002): 0.6, ("rich", 0.002): 0.4}
    rewards |= {("poor", 0.004): 0.6, ("rich", 0.004): 1.0}
    cells = [
        change(
            cell := make_cell(name, budget_per_task=budget, runs=3), "reward_expected", share * cell.final("benchmark")
        )
        for (name, budget), share in rewards.items()
    ]
    said = headlines(summarise(cells))
    assert any(
        " poor earned most among 2 policies" in text and "at 2 of 3 budgets: 50.0 to 60.0 %" in text for text in said
    )
    assert any(text.startswith("rich earned most at 1 of 3 budgets: 100.0 %") for text in said)


class Checker(HTMLParser):
    """Collects tags, and fails on tags that do not match."""

    void = ("meta", "img", "wbr", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_needs_no_network(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert not any(tag in ("link", "iframe", "object") for tag, _ in checker.tags)
    sources = [attrs[name] for _, attrs in checker.tags for name in ("src", "href") if name in attrs]
    sources.remove("#asked")
    assert len(sources) == 7
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"@import|url\(", text)
    images = [attrs for tag, attrs in checker.tags if tag == "img"]
    assert all(attrs["alt"] for attrs in images)
    heads = [attrs for tag, attrs in checker.tags if tag == "th"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in heads)
    assert "floors.latency" in text


def test_page_says_what_was_asked(tmp_path: Path, page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "<title>Study a study</title>" in text and "0123456789abcdef" in text
    assert "Asked: models of <b>x</b>; runs a cell <b>8</b>." in text
    asked = CONFIG | {
        "env": {"catalogue": "x", "target": 0.8},
        "demand": {"process": "walk"},
        "sweep": {"mode": "product", "horizon": [10, 20], "policy": {"eta": [0.1], NASTY: [NASTY]}, "target": None},
    }
    text = write([make_cell()], {"config": asked}, summarise([make_cell()]), tmp_path).read_text(encoding="utf-8")
    name = escape(NASTY)
    lead = (
        "Asked: models of <b>x</b>; demand <b>walk</b>; latency target <b>0.8</b>; horizon <b>10, 20</b>; "
        f"policy.eta <b>0.1</b>; policy.{name} <b>{name}</b>; runs a cell <b>8</b>."
    )
    assert lead in text


def test_a_part_of_a_study_says_so(study: list) -> None:
    said = headlines(summarise(study[:12], planned=30))
    assert said[1] == "The study is not complete: 12 of 30 cells are there."
    assert not any("not complete" in sentence for sentence in headlines(summarise(study, planned=30)))
    assert summarise(study).planned == 30


def test_files_lie_beside_the_page(page: Path) -> None:
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"report.html", "tables.md", "tables.tex", "figures"}
    assert len(list((page.parent / "figures").iterdir())) == 1 + 14  # the index, and seven figures in two formats


def test_every_name_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "experiments.report.page.write_all", lambda cells, folder: []
    )  # figures have their own test of names
    cells = make_study(
        policies=(NASTY, "plain"), budgets=(0.002,), horizons=(50, 100, 200), env=NASTY, models=(NASTY, "m"), runs=2
    )
    cells += make_study(policies=(NASTY,), budgets=(0.002,), horizons=(50,), env="other", runs=2)
    summary = summarise(cells)
    path = write(
        cells, {"config": {"name": NASTY, NASTY: {NASTY: NASTY}}, "versions": {NASTY: NASTY}}, summary, tmp_path
    )
    text = path.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert escape(NASTY) in text
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    assert NASTY in {attrs.get("data-policy") for _, attrs in checker.tags}


def test_markdown_is_escaped_and_rectangular() -> None:
    cells = [make_cell(NASTY, horizon=h) for h in (50, 100, 200)]
    lines = markdown_tables(summarise(cells)).splitlines()
    tables = "\n".join(lines).split("\n## ")[1:]
    assert len(tables) == 2
    for table in tables:
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "<script>" not in "\n".join(lines)
    assert "\\|\\_\\$" in "\n".join(lines)


def staged_cells() -> list[CellResult]:
    return [
        make_staged_cell(policy, horizon=horizon, runs=3, deployment=rule)
        for horizon in (1000, 2000)
        for policy, rule in (("ucb", "stageroute"), ("greedy", "everything"))
    ]


def test_deployment_has_a_section_where_it_matters_only(tmp_path: Path, page: Path, study: list) -> None:
    plain = page.read_text(encoding="utf-8")
    older = [without_stages(cell) for cell in study]
    for text in (plain, markdown_tables(summarise(study)), latex_tables(summarise(study))):
        assert "eployment" not in text.replace(escape(str(CONFIG)), "")
        assert "stage" not in text.lower()
        assert "ewcomer" not in text
    assert markdown_tables(summarise(older)) == markdown_tables(summarise(study))
    cells = staged_cells()
    summary = summarise(cells)
    text = write(cells, RECORD, summary, tmp_path).read_text(encoding="utf-8")
    checker = Checker()
    checker.feed(text)
    assert checker.open == []
    section = text.split('<h2 id="deployment">')[1].split("</section>")[0]
    rows = re.findall(r"<tr data-policy.*?</tr>", section)
    assert len(rows) == 4
    heads = re.findall(r'<button type="button">(.*?)</button>', section)
    for row, entry in zip(rows, summary.cells, strict=True):
        values = re.findall(r'<t[dh](?: data-value="([^"]*)")?', row)
        assert len(values) == len(heads)
        found = dict(zip(heads, values, strict=True))
        assert float(found["Stages"]) == entry.info.stages == round(entry.info.horizon ** (1 / 3))
        assert float(found["Cap on live models"]) == 4
        assert float(found["Regret, waiting (tasks)"]) == pytest.approx(0.2 * entry.mean("regret"))
        assert float(found["Rounds until a newcomer is live"]) == pytest.approx(entry.mean("rounds_to_live"))
        assert float(found["Newcomers never live"]) == pytest.approx(1 / 6)
        assert f"<td>{entry.info.deployment}</td>" in row


def test_deployment_is_in_the_plain_tables() -> None:
    roomy = make_cell("roomy", models=[f"m{number}" for number in range(11)], max_deployed=11, arrivals="even")
    summary = summarise([*staged_cells(), roomy])
    table = markdown_tables(summary).split("\n## Deployment")[1].split("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 4  # the cell in which all may be live is left out
    assert len({row.count("|") for row in rows}) == 1
    assert "| ucb | max\\_deployed=4 | stageroute | 0.002 | 1,000 | 10 | 4 |" in rows[2]
    latex = latex_tables(summary)
    heads = re.findall(r"\\begin\{tabular\}\{(l+r+)\}", latex)
    assert [head.count("l") for head in heads] == [2, 3]
    for head, body in zip(heads, re.findall(r"\\toprule\n(.*?)\\bottomrule", latex, flags=re.DOTALL), strict=True):
        lines = [line for line in body.splitlines() if line.endswith("\\\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {len(head) - 1}


def test_latex_is_escaped_and_balanced() -> None:
    cells = make_study(policies=(NASTY, "a\\b{c}~^#"), horizons=(50, 100, 200), runs=2)
    text = latex_tables(summarise(cells))
    assert text.count("\\begin{longtable}") + text.count("\\begin{tabular}") == 2
    assert text.count("\\end{longtable}") + text.count("\\end{tabular}") == 2
    assert r"\textless{}script\textgreater{}" in text
    assert r"a\textbackslash{}b\{c\}\textasciitilde{}\textasciicircum{}\#" in text
    for table in re.findall(r"\\toprule\n(.*?)\\bottomrule", text, flags=re.DOTALL):
        counts = {len(re.findall(r"(?<!\\)&", line)) for line in table.splitlines() if line.endswith(r"\\")}
        assert len(counts) == 1


def test_a_study_of_one_cell_and_none(tmp_path: Path) -> None:
    for number, cells in enumerate(([make_cell(runs=1, target=None, budget_per_task=None)], [])):
        path = write(cells, {}, summarise(cells), tmp_path / str(number))
        assert "Study report" in path.read_text(encoding="utf-8")
