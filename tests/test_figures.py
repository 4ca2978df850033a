"""Figures hold what they claim, stay legible for large studies, and survive what studies lack and users name."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from experiments import drawing, figures
from experiments.drawing import NothingToDrawError, apart, line_styles, log_spaced, short_names
from experiments.summary import label_cells
from tests.synthetic import make_cell, make_study

pytestmark = pytest.mark.slow  # one pass of the suite is enough for these

NAMES = {"regret_by_round", "regret_by_horizon", "reward_by_budget", "traffic", "demand_forecast", "beliefs"}
AWKWARD = ("_hidden", "$a_b$ % <&> {x}^2", "模型 café", "back\\slash $", "new\nline", "x" * 80)


def texts(figure: Figure) -> str:
    """Every text that a figure draws, line breaks undone."""
    return " ".join(" ".join(artist.get_text().split()) for artist in figure.findobj(Text) if isinstance(artist, Text))


@pytest.fixture(scope="module")
def study() -> list:
    return make_study(budgets=(0.001, 0.002), horizons=(1000, 4000, 16000), runs=6)


def test_all_figures_are_written_and_equal_on_rewriting(study: list, tmp_path: Path) -> None:
    first = figures.write_all(study, tmp_path / "one")
    assert {path.name for path in first} == {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    for path in first:
        assert path.stat().st_size > 5000
    picture = imread(tmp_path / "one" / "traffic.png")
    assert picture.shape[1] > 600
    drawn = next(iter(figures.draw_all(study)))
    for path in figures.save(drawn, tmp_path / "two"):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_pyplot_is_never_imported() -> None:
    program = "import sys, experiments.figures, experiments.report; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_figures_are_cleared_as_the_next_is_drawn(study: list) -> None:
    drawings = figures.draw_all(study)
    first = next(drawings)
    assert first.figure.axes
    next(drawings)
    assert not first.figure.axes


def test_bands_show_mean_and_interval(study: list) -> None:
    figure = figures.regret_by_round(study)
    cell = next(c for c in study if c.description["horizon"] == 16000 and c.description["policy"] == "ucb")
    line = next(line for line in figure.axes[0].lines if to_hex(line.get_color()) == "#0072b2")
    np.testing.assert_allclose(np.asarray(line.get_xdata()), cell.checkpoints)
    np.testing.assert_allclose(np.asarray(line.get_ydata()), cell.curve("regret").mean(axis=0))
    assert figure.axes[0].get_xscale() == "log"
    assert "95%" in texts(figure)


def test_slopes_theory_and_nonpositive_means_are_shown(study: list) -> None:
    figure = figures.regret_by_horizon(study)
    drawn = texts(figure)
    assert "T^{1/2}" in drawn
    assert "one point" in drawn
    assert "mean ≤ 0" in drawn
    markers = [line.get_marker() for axes in figure.axes for line in axes.lines]
    nonpositive = [c for c in study if c.final("regret").mean() <= 0]
    assert markers.count(r"$\downarrow$") == len(nonpositive) > 0


def test_theory_lines_meet_in_one_point(study: list) -> None:
    axes = figures.regret_by_horizon(study).axes[0]
    grey = [np.asarray(line.get_xydata()) for line in axes.lines if to_hex(line.get_color()) == "#999999"]
    theory = [np.log(ends) for ends in grey if len(ends) == 2]
    assert len(theory) == 3
    assert len({round(float(ends[0, 1]), 6) for ends in theory}) == 1
    slopes = [(ends[1, 1] - ends[0, 1]) / (ends[1, 0] - ends[0, 0]) for ends in theory]
    np.testing.assert_allclose(slopes, [1 / 2, 2 / 3, 1])


def test_a_policy_keeps_its_colour(study: list) -> None:
    styles = line_styles(study, label_cells(study))
    learners = [style for style in styles.values() if not style.clairvoyant]
    assert len({style.colour for style in learners}) == len(learners) == 4
    assert styles["oracle"].dashes != "-"
    for draw in (figures.regret_by_round, figures.regret_by_horizon, figures.reward_by_budget):
        colours = {to_hex(line.get_color()) for axes in draw(study).axes for line in axes.lines}
        assert {style.colour.lower() for style in learners} <= colours


def test_interval_shares_recover_each_interval() -> None:
    cell = make_cell(horizon=100)
    demand = cell.curve("demand").mean(axis=0)
    served = np.random.default_rng(0).dirichlet(np.ones(5), len(demand))[:, :4]
    so_far = np.cumsum(served * np.diff(demand, prepend=0.0)[:, None], axis=0) / demand[:, None]
    np.testing.assert_allclose(figures._interval_share(replace(cell, share=so_far)), served, atol=1e-9)


def test_beliefs_print_coverage(study: list) -> None:
    figure = figures.beliefs(study)
    cell = next(
        c
        for c in study
        if (c.description["policy"], c.description["horizon"], c.description["budget_per_task"])
        == ("ucb", 16000, 0.002)
    )
    assert f"{cell.coverage[-1, :, 0].mean():.1%} covered" in texts(figure)


def test_large_studies_choose_by_a_stated_rule() -> None:
    cells = make_study(
        policies=[f"policy_{i}" for i in range(10)] + list(AWKWARD[:2]),
        budgets=[0.001 * (i + 1) for i in range(20)],
        horizons=(100, 400),
        models=[f"model {i}" for i in range(64)],
        runs=3,
    )
    stated = {
        "regret_by_round": ["4 of 20 budgets", "4 others", "In colour: the 8 policies"],
        "regret_by_horizon": ["4 of 20 budgets", "4 others"],
        "traffic": ["56 other models", "Shown: the 8 policies"],
        "beliefs": ["12 of 64 models", "4 of 8 learning policies"],
    }
    for name, rules in stated.items():
        figure = getattr(figures, name)(cells)
        assert all(rule in texts(figure) for rule in rules)
        width, height = figure.get_size_inches()
        assert max(width, height) < 16
        for axes in figure.axes:
            ticks = [tick for tick in axes.get_xticklabels() if tick.get_text()]
            boxes = [tick.get_window_extent() for tick in ticks]
            assert all(a.x1 <= b.x0 or b.x1 <= a.x0 for a, b in pairwise(boxes))


def test_names_of_users_are_drawn_as_they_are(tmp_path: Path) -> None:
    cells = make_study(policies=AWKWARD, budgets=(0.002,), horizons=(100, 1000), models=AWKWARD, runs=3, env="$e_1$ 世")
    for drawn in figures.draw_all(cells):
        assert len(figures.save(drawn, tmp_path)) == 2
    names = short_names(AWKWARD)
    assert names["_hidden"] == "_hidden"
    assert names["$a_b$ % <&> {x}^2"] == r"\$a_b\$ % <&> {x}^2"
    assert names["模型 café"] == "\\u6a21\\u578b café"
    assert names["new\nline"] == "new line"
    assert len(names["x" * 80]) <= 30
    assert "_hidden" in texts(figures.regret_by_round(cells))


def test_shortened_names_stay_distinct() -> None:
    names = short_names(["a" * 20 + "1" + "b" * 20, "a" * 20 + "2" + "b" * 20])
    assert len(set(names.values())) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"horizons": (500,)},
        {"budgets": (None,), "target": None},
        {"budgets": (None, 0.002), "horizons": (100, 200)},
        {"runs": 1},
        {"policies": (), "horizons": (100, 1000)},
        {"oracle": False, "marks": 2, "horizons": (5,)},
        {"models": ("only",), "horizons": (100,)},
    ],
)
def test_studies_may_lack_axes(options: dict) -> None:
    cells = make_study(**{"budgets": (0.002,), "horizons": (100, 1000), "policies": ("ucb", "greedy")} | options)
    names = {drawn.name for drawn in figures.draw_all(cells)}
    assert {"regret_by_round", "reward_by_budget", "traffic", "demand_forecast"} <= names
    assert ("regret_by_horizon" in names) == (len({c.description["horizon"] for c in cells}) > 1)
    assert ("beliefs" in names) == bool(options.get("policies", True))


def test_no_violation_row_where_nothing_is_violated() -> None:
    cells = make_study(budgets=(0.002,), horizons=(100,), target=None)
    figure = figures.regret_by_round(cells)
    assert len(figure.axes) == 1
    assert "Violation" not in texts(figure)


def test_failed_runs_and_missing_beliefs_do_not_break_figures() -> None:
    cells = make_study(budgets=(0.002,), horizons=(100, 1000), policies=("ucb", "greedy"))
    broken = []
    for cell in cells:
        curves = cell.curves.copy()
        curves[0] = np.nan
        nothing = np.full_like(cell.lower, np.nan)
        broken.append(replace(cell, curves=curves, lower=nothing, upper=nothing, coverage=nothing))
    names = {drawn.name for drawn in figures.draw_all(broken)}
    assert names == NAMES - {"beliefs"}


def test_no_cells_and_one_horizon_say_so(tmp_path: Path) -> None:
    assert figures.write_all([], tmp_path) == []
    with pytest.raises(NothingToDrawError, match="no cells"):
        figures.regret_by_round([])
    with pytest.raises(NothingToDrawError, match="two horizons"):
        figures.regret_by_horizon([make_cell()])


def test_each_setting_has_its_own_files() -> None:
    cells = [
        make_cell(policy, demand=demand, horizon=100) for policy in ("ucb", "greedy") for demand in ("a/b", "../c")
    ]
    names = {drawn.name for drawn in figures.draw_all(cells)}
    assert {name for name in names if name.startswith("traffic")} == {"traffic--1-a-b", "traffic--2-c"}


def test_tick_labels_keep_apart() -> None:
    assert apart([1, 10, 11, 100, 1000], logarithmic=True) == [1, 11, 100, 1000]
    assert apart([1, 2, 50, 99, 100], logarithmic=False) == [2, 50, 100]
    assert apart([7], logarithmic=True) == [7]


@pytest.mark.parametrize("points", [[1, 10, 100, 1000], [1, 2, 4, 9, 20, 45, 100]])
def test_logarithmic_spacing_is_recognised(points: list[int]) -> None:
    assert log_spaced(np.array(points))
    assert not log_spaced(np.arange(1, 101))
    assert not log_spaced(np.array([1, 100]))


def test_matplotlib_settings_of_the_user_are_ignored_and_kept(study: list) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 40.0, "axes.grid": False}):
        figure = figures.reward_by_budget(study)
        assert matplotlib.rcParams["font.size"] == 40.0
        assert figure.axes[0].xaxis.label.get_fontsize() == drawing._STYLE["axes.labelsize"]
