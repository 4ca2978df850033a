"""The summary holds the right numbers, and the page shows them to anyone, offline, whatever things are called."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from experiments.report import headlines, latex_tables, markdown_tables, write
from experiments.scaling import fit_exponent, mean_interval
from experiments.store import CellResult
from experiments.summary import METRICS, horizon_groups, label_cells, summarise
from tests.synthetic import make_cell, make_study

pytestmark = pytest.mark.slow  # one pass of the suite is enough for these

CONFIG = {"name": "a study", "seeds": 8, "env": {"catalogue": "x", "floors": {"latency": 0.8}}, "policies": ["ucb"]}
NASTY = "<script>alert(1)</script>|_$&%\"'"
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def study() -> list:
    return make_study(budgets=(0.001, 0.002), horizons=(1000, 4000, 16000), runs=6)


@pytest.fixture(scope="module")
def page(study: list, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(study, CONFIG, summarise(study, claims={"regret": 0.5}), tmp_path_factory.mktemp("report"))


def change(cell: CellResult, metric: str, values: np.ndarray) -> CellResult:
    """The cell with other values of a metric at its horizon."""
    curves = cell.curves.copy()
    curves[:, -1, cell.metrics.index(metric)] = values
    return replace(cell, curves=curves)


def test_summary_agrees_with_the_curves(study: list) -> None:
    summary = summarise(study)
    for cell, entry in zip(study, summary["cells"], strict=True):
        assert entry["cell"] == cell.description["cell"]
        share = cell.final("reward_expected") / cell.final("benchmark")
        spent = cell.final("spent_money") / cell.description["budget"]
        for name, values in (("reward_share", share), ("spent_share", spent), ("regret", cell.final("regret"))):
            assert tuple(entry[name].values()) == pytest.approx(mean_interval(values))
        assert entry["violation_per_task"]["mean"] == pytest.approx(
            float((cell.final("violation") / cell.final("demand")).mean())
        )
        assert set(METRICS) <= set(entry)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary


def test_forecast_error_is_that_of_half_time() -> None:
    cell = make_cell(horizon=1000)
    mark = int(np.flatnonzero(cell.checkpoints <= 500)[-1])
    entry = summarise([cell])["cells"][0]
    assert entry["forecast_error"]["mean"] == pytest.approx(float(cell.curve("forecast_error")[:, mark].mean()))


def test_exponents_are_those_of_the_cells(study: list) -> None:
    entries = summarise(study, claims={"regret": 0.5})["exponents"]
    assert len(entries) == 10
    entry = next(e for e in entries if (e["policy"], e["budget_per_task"]) == ("ucb", 0.002))
    cells = [c for c in study if c.description["policy"] == "ucb" and c.description["budget_per_task"] == 0.002]
    horizons = [c.description["horizon"] for c in cells]
    assert entry["regret"] == fit_exponent(horizons, [c.final("regret") for c in cells], claimed=0.5).to_dict()
    assert entry["violation"]["verdict"] is None
    oracle = next(e for e in entries if e["policy"] == "oracle")
    assert oracle["regret"]["claimed"] is None


def test_violation_counts_its_positive_part_only() -> None:
    cell = change(make_cell(runs=4), "violation", np.array([-5.0, -3.0, 2.0, 4.0]))
    entry = summarise([cell])["cells"][0]
    assert entry["violation"]["mean"] == pytest.approx(1.5)
    assert entry["violation_positive_share"] == 0.5


def test_what_does_not_apply_is_none() -> None:
    cell = make_cell(budget_per_task=None, runs=1)
    entry = summarise([cell])["cells"][0]
    assert entry["spent_share"] is None
    assert entry["overspend"] is None
    assert entry["spent"]["mean"] > 0
    assert entry["regret"]["low"] is None
    bare = [name for name in cell.metrics if not name.startswith("violation")]
    picks = [cell.metrics.index(name) for name in bare]
    without = replace(cell, metrics=tuple(bare), curves=cell.curves[:, :, picks])
    assert summarise([without])["cells"][0]["violation_per_task"] is None


def test_failed_runs_are_counted_and_left_out() -> None:
    cell = make_cell(runs=5)
    curves = cell.curves.copy()
    curves[2] = np.nan
    entry = summarise([replace(cell, curves=curves)])["cells"][0]
    assert entry["runs_failed"] == 1
    assert entry["regret"]["mean"] == pytest.approx(float(np.delete(cell.final("regret"), 2).mean()))


def test_labels_spell_out_only_what_differs() -> None:
    cells = [
        make_cell("ucb", swept={"policy.eta": 0.1, "horizon": 10}),
        make_cell("ucb", swept={"policy.eta": 0.2, "horizon": 20}),
        make_cell("greedy", demand="diurnal", swept={"demand.rate": 3.0}),
    ]
    labels = label_cells(cells)
    assert [label.line for label in labels] == ["ucb (eta=0.1)", "ucb (eta=0.2)", "greedy"]
    assert labels[0].setting == labels[1].setting == "poisson, no rate"
    assert labels[2].setting == "diurnal, rate=3"


def test_groups_survive_rounding_and_refuse_repeats() -> None:
    cells = [make_cell(horizon=h, budget_per_task=0.002 * (1 + 1e-12 * h)) for h in (100, 1000, 10000)]
    assert [len(group.cells) for group in horizon_groups(cells)] == [3]
    entry = summarise([*cells, cells[0]])["exponents"][0]
    assert entry["regret"] is None
    assert "share a horizon" in entry["note"]


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
    said = headlines(summarise(study, claims={"regret": 0.5}))
    assert said[0].startswith("30 cells with 180 runs: 5 policies, 2 budgets, 3 horizons (1,000 to 16,000 rounds)")
    assert "No run spent more than its budget." in said
    assert any("ucb earned most among 4 policies" in sentence for sentence in said)
    assert any("grows no faster than T^0.5" in sentence for sentence in said)


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
    assert len(sources) == 6
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"@import|url\(", text)
    images = [attrs for tag, attrs in checker.tags if tag == "img"]
    assert all(attrs["alt"] for attrs in images)
    heads = [attrs for tag, attrs in checker.tags if tag == "th"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in heads)
    assert "floors.latency" in text


def test_files_lie_beside_the_page(page: Path) -> None:
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"report.html", "tables.md", "tables.tex", "figures"}
    assert len(list((page.parent / "figures").iterdir())) == 12


def test_every_name_is_escaped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.report.draw_all", lambda cells: [])  # figures have their own test of names
    cells = make_study(
        policies=(NASTY, "plain"), budgets=(0.002,), horizons=(50, 100, 200), env=NASTY, models=(NASTY, "m"), runs=2
    )
    cells += make_study(policies=(NASTY,), budgets=(0.002,), horizons=(50,), env="other", runs=2)
    summary = summarise(cells)
    path = write(cells, {"name": NASTY, NASTY: {NASTY: NASTY}}, summary, tmp_path)
    text = path.read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert html.escape(NASTY) in text
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


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")
@pytest.mark.parametrize(("fragment", "shown"), [("all", 30), ("policy=ucb", 6), ("policy=ucb&horizon=4000", 2)])
def test_filters_work_in_a_browser(page: Path, tmp_path: Path, fragment: str, shown: int) -> None:
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    done = subprocess.run(
        [*command, "--dump-dom", f"{page.as_uri()}#{fragment}"], capture_output=True, text=True, timeout=60, check=True
    )
    assert f"{shown} of 30 cells" in done.stdout
    rows = re.findall(r"<tr data-policy[^>]*data-horizon[^>]*>", done.stdout)
    assert len(rows) == 30
    assert sum('hidden=""' not in row for row in rows) == shown
