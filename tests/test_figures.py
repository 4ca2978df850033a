"""Figures hold what they claim, stay legible for large studies, and survive what studies lack and users name."""

import subprocess
import sys
from dataclasses import replace
from itertools import combinations, islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from experiments.report.figures import gallery
from experiments.report.figures import style as figure_style
from experiments.report.figures.style import NothingToDrawError, line_styles, log_spaced, short_names, thin_ticks
from experiments.report.figures.views import interval_share
from experiments.report.scaling import mean_interval
from experiments.report.summary import label_cells
from experiments.results.cell_file import CellResult
from experiments.results.metrics.derived import stage_starts
from tests.synthetic import PARTS, make_cell, make_staged_cell, make_study, without_stages

NAMES = {"regret_by_round", "regret_by_horizon", "reward_by_budget", "spend", "traffic", "demand_forecast", "beliefs"}
ARRIVES, RETIRES = "#d55e00", "#111111"
AWKWARD = ("_hidden", "$a_b$ % <&> {x}^2", "模型 café", "back\\slash $", "new\nline", "x" * 80)


def texts(figure: Figure) -> str:
    """Every text that a figure draws, line breaks undone."""
    return " ".join(" ".join(artist.get_text().split()) for artist in figure.findobj(Text) if isinstance(artist, Text))


@pytest.fixture(scope="module")
def study() -> list:
    return make_study(budgets=(0.001, 0.002), horizons=(1000, 4000, 16000), runs=6)


def test_all_figures_are_written_and_equal_on_rewriting(study: list, tmp_path: Path) -> None:
    first = gallery.write_all(study, tmp_path / "one")
    assert {figure.name for figure in first} == NAMES
    for figure in first:
        assert figure.png.stat().st_size > 5000 and figure.svg.stat().st_size > 5000
    picture = imread(tmp_path / "one" / "traffic.png")
    assert picture.shape[1] > 600
    drawn = next(iter(gallery.draw_all(study)))
    again = gallery.save(drawn, tmp_path)
    for path in (again.png, again.svg):
        assert path.read_bytes() == (tmp_path / "one" / path.name).read_bytes()


def test_figures_of_an_earlier_publication_go_and_others_stay(study: list, tmp_path: Path) -> None:
    (tmp_path / "mine.png").touch()
    settings = [make_cell(policy, demand=demand, horizon=100) for policy in ("ucb",) for demand in ("a", "b")]
    earlier = gallery.write_all(settings, tmp_path)
    assert {"traffic--1-a", "traffic--2-b"} <= {figure.name for figure in earlier}
    (tmp_path / "traffic--1-a.svg").unlink()  # somebody tidied up
    kept = gallery.write_all(settings[:1], tmp_path)
    assert gallery.read_index(tmp_path) == kept
    files = {path.name for figure in kept for path in (figure.png, figure.svg)}
    assert {path.name for path in tmp_path.iterdir()} == files | {"mine.png", gallery.INDEX}
    (tmp_path / gallery.INDEX).write_text("[{]")
    assert gallery.read_index(tmp_path) == []


def test_slopes_beneath_the_panels_are_neither_cut_nor_on_top_of_each_other(study: list) -> None:
    wild = [replace(cell, curves=cell.curves * np.random.default_rng(3).normal(1, 3, (6, 1, 1))) for cell in study]
    for cells in (study, wild):
        figure = gallery.regret_by_horizon(cells)
        width = figure.get_size_inches()[0] * figure.dpi
        boxes = [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
        assert len(boxes) == 4
        assert all(box.x0 >= 0 and box.x1 <= width for box in boxes)
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))


def test_spending_is_drawn_against_budget_and_horizon(study: list) -> None:
    by_budget, by_horizon = gallery.spend(study).axes
    ucb = {
        (cell.info.budget_per_task, cell.info.horizon): cell.final("spent_money").mean() / cell.info.budget
        for cell in study
        if cell.info.policy == "ucb"
    }
    for axes, places in (
        (by_budget, [(0.001, 16000), (0.002, 16000)]),
        (by_horizon, [(0.002, 1000), (0.002, 4000), (0.002, 16000)]),
    ):
        blue = [np.asarray(line.get_ydata()) for line in axes.lines if to_hex(line.get_color()) == "#0072b2"]
        wanted = [ucb[place] for place in places]
        assert any(len(values) == len(wanted) and np.allclose(values, wanted) for values in blue)
    with pytest.raises(NothingToDrawError, match="two budgets"):
        gallery.spend([make_cell(budget_per_task=None)])


def test_pyplot_is_never_imported() -> None:
    modules = "experiments.report.figures.gallery, experiments.report.page"
    program = f"import sys, {modules}; print('matplotlib.pyplot' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_figures_are_cleared_as_the_next_is_drawn(study: list) -> None:
    drawings = gallery.draw_all(study)
    first = next(drawings)
    assert first.figure.axes
    next(drawings)
    assert not first.figure.axes


def test_bands_show_mean_and_interval(study: list) -> None:
    figure = gallery.regret_by_round(study)
    cell = next(c for c in study if c.info.horizon == 16000 and c.info.policy == "ucb")
    line = next(line for line in figure.axes[0].lines if to_hex(line.get_color()) == "#0072b2")
    np.testing.assert_allclose(np.asarray(line.get_xdata()), cell.eval_rounds)
    np.testing.assert_allclose(np.asarray(line.get_ydata()), cell.curve("regret").mean(axis=0))
    assert figure.axes[0].get_xscale() == "log"
    assert "95%" in texts(figure)


def test_slopes_theory_and_nonpositive_means_are_shown(study: list) -> None:
    figure = gallery.regret_by_horizon(study)
    drawn = texts(figure)
    assert "T^{1/2}" in drawn
    assert "one point" in drawn
    assert "mean ≤ 0" in drawn
    markers = [line.get_marker() for axes in figure.axes for line in axes.lines]
    nonpositive = [c for c in study if c.final("regret").mean() <= 0]
    assert markers.count(r"$\downarrow$") == len(nonpositive) > 0


def test_theory_lines_meet_in_one_point(study: list) -> None:
    axes = gallery.regret_by_horizon(study).axes[0]
    grey = [np.asarray(line.get_xydata()) for line in axes.lines if to_hex(line.get_color()) == "#999999"]
    theory = [np.log(ends) for ends in grey if len(ends) == 2]
    assert len(theory) == 3
    assert len({round(float(ends[0, 1]), 6) for ends in theory}) == 1
    slopes = [(ends[1, 1] - ends[0, 1]) / (ends[1, 0] - ends[0, 0]) for ends in theory]
    np.testing.assert_allclose(slopes, [1 / 2, 2 / 3, 1])


def test_a_policy_keeps_its_colour(study: list) -> None:
    styles = line_styles(study, label_cells(study))
    policies = [style for style in styles.values() if not style.clairvoyant]
    assert len({style.colour for style in policies}) == len(policies) == 4
    assert styles["oracle"].dashes != "-"
    for draw in (gallery.regret_by_round, gallery.regret_by_horizon, gallery.reward_by_budget):
        colours = {to_hex(line.get_color()) for axes in draw(study).axes for line in axes.lines}
        assert {style.colour.lower() for style in policies} <= colours


def test_interval_shares_recover_each_interval() -> None:
    cell = make_cell(horizon=100)
    demand = cell.curve("demand").mean(axis=0)
    served = np.random.default_rng(0).dirichlet(np.ones(5), len(demand))[:, :4]
    so_far = np.cumsum(served * np.diff(demand, prepend=0.0)[:, None], axis=0) / demand[:, None]
    np.testing.assert_allclose(interval_share(cell, so_far), served, atol=1e-9)


def staged_study(policies: tuple[str, ...] = ("ucb", "greedy", "oracle"), **options: object) -> list[CellResult]:
    """The same staged world for several policies."""
    return [make_staged_cell(name, clairvoyant=name == "oracle", runs=5, **options) for name in policies]


def meshes(figure: Figure) -> list[tuple[Axes, QuadMesh]]:
    return [(axes, mesh) for axes in figure.axes for mesh in axes.collections if isinstance(mesh, QuadMesh)]


def marks(axes: Axes, colour: str) -> list[tuple[float, float]]:
    """(round, row) of the marks of a colour."""
    lines = [np.asarray(line.get_xydata()) for line in axes.lines if to_hex(line.get_color()) == colour]
    assert all(line[0, 0] == line[1, 0] and line[1, 1] - line[0, 1] == 1.0 for line in lines)
    return sorted((float(line[0, 0]), float(line[:, 1].mean())) for line in lines)


def hatched(axes: Axes) -> set[tuple[float, float, float]]:
    """(from, to, row) of what is hatched."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle) and patch.get_hatch()]
    return {(box.get_x(), box.get_x() + box.get_width(), box.get_y() + 0.5) for box in boxes}


@pytest.mark.parametrize("linear", [False, True])
def test_traffic_of_a_changing_inventory_is_a_map_beside_the_benchmarks(linear: bool) -> None:
    cells = staged_study(horizon=6000, linear=linear)
    demand = cells[1].curve("demand").mean(axis=0)
    served = np.random.default_rng(1).dirichlet(np.ones(12), len(demand))[:, :11]
    arrival = np.array([0, 900, 0, 300, 6000, 0, 5000, 300, 0, 7, 0])
    order = [0, 2, 5, 8, 10, 9, 3, 7, 1, 6, 4]
    share = np.cumsum(served * np.diff(demand, prepend=0.0)[:, None], axis=0) / demand[:, None]
    cells = [replace(cell, extras=cell.extras | {"arrival": arrival}) for cell in cells]
    cells[1] = replace(cells[1], share=share)
    panels = meshes(gallery.traffic(cells))
    assert [axes.get_title(loc="left") for axes, _ in panels] == ["Benchmark", "ucb", "greedy", "oracle"]
    np.testing.assert_allclose(panels[2][1].get_array(), served[:, order].T, atol=1e-9)
    live = cells[0].extras["live"]
    ideal = (live / live.sum(axis=1, keepdims=True))[:, order].T
    own = interval_share(cells[0], cells[0].extras["oracle_share"])
    np.testing.assert_allclose(panels[0][1].get_array(), own[:, order].T)
    np.testing.assert_allclose(own[:, order].T, ideal, atol=1e-9)
    names = [tick.get_text() for tick in panels[0][0].get_yticklabels()]
    assert names == [gallery.short_names(cells[0].models, 24)[cells[0].models[model]] for model in order]
    for axes, mesh in panels:
        np.testing.assert_array_equal(mesh.get_coordinates()[0, :, 0], [0, *cells[0].eval_rounds])
        assert axes.get_xlim() == (0, 6000)
        assert marks(axes, ARRIVES) == [(7, 5), (300, 6), (300, 7), (900, 8), (5000, 9)]
        assert marks(axes, RETIRES) == [(4200, 0)]
        assert hatched(axes) == {
            *((0, 7, 5), (0, 300, 6), (0, 300, 7), (0, 900, 8), (0, 5000, 9), (0, 6000, 10), (4200, 6000, 0))
        }
        assert len({mesh.get_clim() for _, mesh in panels}) == 1


def test_traffic_stays_in_areas_where_all_are_always_live() -> None:
    plain = make_study(budgets=(0.002,), horizons=(1000,))
    older = [without_stages(cell) for cell in staged_study()]
    without = [replace(cell, extras={k: v for k, v in cell.extras.items() if k != "oracle_share"}) for cell in older]
    for cells in (plain, older, without):
        assert meshes(gallery.traffic(cells)) == []
        assert "bench- mark" in texts(gallery.traffic(cells))
        with pytest.raises(NothingToDrawError, match="which models are live"):
            gallery.deployment(cells)
        with pytest.raises(NothingToDrawError, match="parts of regret"):
            gallery.decomposition(cells)
    loose = [make_staged_cell(max_deployed=4, models=4, horizon=400)]  # a cap that all pass, and nothing moves
    loose[0].extras["arrival"][:] = 0
    loose[0].extras["retirement"][:] = 400
    assert {drawn.name for drawn in gallery.draw_all(loose)} == NAMES - {"regret_by_horizon", "spend"}


@pytest.mark.parametrize(("stages", "ticks"), [(33, 33), (60, 60), (61, 0)])
def test_deployment_shows_who_is_live_and_when_stages_start(stages: int, ticks: int) -> None:
    cells = staged_study(("ucb", "random"), horizon=6007, stages=stages, marks=40)
    figure = gallery.deployment(cells)
    panels = meshes(figure)
    assert [axes.get_title(loc="left") for axes, _ in panels] == ["ucb", "random"]
    for (axes, mesh), cell in zip(panels, cells, strict=True):
        np.testing.assert_array_equal(mesh.get_array(), cell.extras["live"].T)
        starts = [k * (6007 // stages) + min(k, 6007 % stages) for k in range(stages)]
        np.testing.assert_array_equal(stage_starts(cell), starts)
        assert list(axes.xaxis.get_minorticklocs()) == (starts if ticks else [])
        arrival = cell.extras["arrival"]
        assert marks(axes, ARRIVES) == [(arrival[model], model) for model in range(5, 11)]
    assert ("33 stages" in texts(figure)) == (stages == 33)
    assert ("Ticks above" in texts(figure)) == bool(ticks)
    assert {"100%", "0%", "arrives", "retires", "not available"} <= {
        text.get_text() for legend in figure.legends for text in legend.get_texts()
    }


def test_maps_keep_the_largest_models_and_say_so() -> None:
    cells = staged_study(("ucb",), models=70, horizon=4000, max_deployed=30)
    for figure in (gallery.traffic(cells), gallery.deployment(cells)):
        assert "24 of 70 models" in texts(figure)
        assert all(mesh.get_array().shape[0] == 24 for _, mesh in meshes(figure))
    weight = cells[0].extras["live"].mean(axis=0)
    shown = meshes(gallery.deployment(cells))[0][1].get_array().mean(axis=1)
    assert sorted(shown) == sorted(np.sort(weight)[-24:])


def bars(axes: Axes) -> list[tuple[float, float]]:
    """(left, right) of the bars, in the order in which they were drawn."""
    boxes = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
    return [(box.get_x(), box.get_x() + box.get_width()) for box in boxes]


def test_parts_of_regret_stack_to_the_total_on_both_sides_of_zero() -> None:
    cells = [
        make_staged_cell("ucb", parts=(0.25, 0.25, 0.5), runs=6),
        make_staged_cell("greedy", parts=(-0.5, 2.0, -0.5), runs=6),
    ]
    figure = gallery.decomposition(cells)
    (axes,) = figure.axes
    ucb, greedy = (cell.final("regret").mean() for cell in cells)
    expected = [(0, ucb / 4), (ucb / 4, ucb / 2), (ucb / 2, ucb), (0, -greedy / 2), (0, 2 * greedy)]
    np.testing.assert_allclose(bars(axes), [*expected, (-greedy / 2, -greedy)])
    for place, cell in enumerate(cells):
        sizes = [right - left for left, right in bars(axes)[3 * place : 3 * place + 3]]
        np.testing.assert_allclose(sizes, [cell.final(part).mean() for part in PARTS])
        lines = [np.asarray(line.get_xydata()) for line in axes.lines if line.get_marker() in ("D", "None")]
        mean, low, high = mean_interval(cell.final("regret"))
        assert any(line.tolist() == [[mean, place]] for line in lines)
        assert any(line.tolist() == [[low, place], [high, place]] for line in lines)
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["ucb", "greedy"]


def test_parts_of_regret_have_a_panel_a_budget_or_a_horizon() -> None:
    names = ("ucb", "greedy")
    by_budget = [
        c for b in (0.001, 0.002) for h in (500, 1000) for c in staged_study(names, budget_per_task=b, horizon=h)
    ]
    figure = gallery.decomposition(by_budget)
    assert [axes.get_title() for axes in figure.axes] == ["budget 0.001 USD a task", "budget 0.002 USD a task"]
    assert "After 1,000 rounds." in texts(figure)
    by_horizon = [cell for cell in by_budget if cell.info.budget_per_task == 0.001]
    figure = gallery.decomposition(by_horizon)
    assert [axes.get_title() for axes in figure.axes] == ["500 rounds", "1,000 rounds"]
    assert "At budget 0.001 USD a task." in texts(figure)


def stage_sweep(stages: tuple[int, ...], axis: str = "env.stages", **options: object) -> list[CellResult]:
    return [
        cell
        for count in stages
        for cell in staged_study(stages=count, swept={axis: count}, seed=count, **options)  # other luck, other regret
    ]


def test_regret_by_number_of_stages() -> None:
    cells = [*stage_sweep((4, 10, 32), horizon=1000), *stage_sweep((4, 10), horizon=8000)]
    figure = gallery.stage_count(cells)
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert "1,000 rounds" in texts(figure)
    assert "T^{1/3}$ = 10" in texts(figure)
    (rule,) = [line for line in axes.lines if to_hex(line.get_color()) == "#555555"]
    np.testing.assert_allclose(rule.get_xdata(), 1000 ** (1 / 3))
    blue = [np.asarray(line.get_xydata()) for line in axes.lines if to_hex(line.get_color()) == "#0072b2"]
    (line,) = [points for points in blue if len(points) == 3]
    ucb = [c for c in cells if c.info.policy == "ucb" and c.info.horizon == 1000]
    np.testing.assert_allclose(line[:, 0], [4, 10, 32], rtol=0.05)
    np.testing.assert_allclose(line[:, 1], [cell.final("regret").mean() for cell in ucb])
    whiskers = [points[:, 1].tolist() for points in blue if len(points) == 2]
    assert whiskers == [pytest.approx(mean_interval(cell.final("regret"))[1:]) for cell in ucb]


def test_stages_are_compared_only_where_nothing_else_differs() -> None:
    for cells in (
        [make_staged_cell(horizon=horizon) for horizon in (100, 1000, 10000)],  # the number follows the horizon
        stage_sweep((4, 10)),
        [make_staged_cell(stages=k, max_deployed=k, swept={"env.stages": k}) for k in (3, 4, 5)],
        [without_stages(cell) for cell in stage_sweep((4, 10, 32))],
    ):
        with pytest.raises(NothingToDrawError, match="number of stages"):
            gallery.stage_count(cells)
        first = next(gallery.draw_all(cells))  # where they come before all others
        assert not first.name.startswith("stage_count")
    cells = [cell for demand in ("a", "b") for cell in stage_sweep((4, 10, 32), demand=demand)]
    names = [drawn.name for drawn in islice(gallery.draw_all(cells), 3)]
    assert names[:2] == ["stage_count--1-a", "stage_count--2-b"] and not names[2].startswith("stage_count")


def test_staged_figures_survive_what_cells_lack(tmp_path: Path) -> None:
    cells = staged_study(AWKWARD, models=AWKWARD, horizon=300, marks=2, budget_per_task=None, target=None)
    broken = [replace(cell, curves=cell.curves * np.nan, share=cell.share * np.nan) for cell in cells[:1]]
    one = [make_staged_cell(horizon=300, stages=1, models=("only",), max_deployed=None, runs=1)]
    one[0].extras["arrival"][:] = 150
    for number, members in enumerate((cells, [*broken, *cells[1:]], one)):
        drawn = gallery.write_all(members, tmp_path / str(number))
        assert {"traffic", "deployment", "decomposition"} <= {figure.name for figure in drawn}
    assert "_hidden" in texts(gallery.deployment(cells))


@pytest.mark.parametrize("stages", [(80,), pytest.param((5, 20, 33, 80), marks=pytest.mark.slow)])
def test_maps_and_bars_keep_their_texts_apart(stages: tuple[int, ...]) -> None:
    cells = [cell for k in stages for cell in stage_sweep((k,), horizon=36000, marks=32, budget_per_task=0.001)]
    for drawn in gallery.draw_all(cells):
        if drawn.name.split("--")[0] in ("traffic", "deployment", "decomposition", "stage_count"):
            width, height = drawn.figure.get_size_inches() * drawn.figure.dpi
            for axes in drawn.figure.axes:
                for axis, ends, low, high in (
                    (axes.xaxis, axes.get_xlim(), "x0", "x1"),
                    (axes.yaxis, axes.get_ylim(), "y0", "y1"),
                ):
                    seen = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
                    shown = [tick for where, tick in seen if min(ends) <= where <= max(ends) and tick.get_text()]
                    boxes = [tick.get_window_extent() for tick in shown]
                    assert all(box.x0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
                    ordered = sorted(boxes, key=lambda box: getattr(box, low))
                    assert all(getattr(a, high) <= getattr(b, low) + 2 for a, b in pairwise(ordered))
            (legend,) = drawn.figure.legends
            box = legend.get_window_extent()
            assert not any(axes.get_window_extent().overlaps(box) for axes in drawn.figure.axes)
            assert not drawn.figure._supxlabel.get_window_extent().overlaps(box)


def test_beliefs_print_coverage(study: list) -> None:
    figure = gallery.beliefs(study)
    cell = next(c for c in study if (c.info.policy, c.info.horizon, c.info.budget_per_task) == ("ucb", 16000, 0.002))
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
        figure = getattr(gallery, name)(cells)
        assert all(rule in texts(figure) for rule in rules)
        width, height = figure.get_size_inches()
        assert max(width, height) < 16
        for axes in figure.axes:
            ticks = [tick for tick in axes.get_xticklabels() if tick.get_text()]
            boxes = [tick.get_window_extent() for tick in ticks]
            assert all(a.x1 <= b.x0 or b.x1 <= a.x0 for a, b in pairwise(boxes))


def test_names_of_users_are_drawn_as_they_are(tmp_path: Path) -> None:
    cells = make_study(policies=AWKWARD, budgets=(0.002,), horizons=(100, 1000), models=AWKWARD, runs=3, env="$e_1$ 世")
    for drawn in gallery.draw_all(cells):
        assert gallery.save(drawn, tmp_path).svg.is_file()
    names = short_names(AWKWARD)
    assert names["_hidden"] == "_hidden"
    assert names["$a_b$ % <&> {x}^2"] == r"\$a_b\$ % <&> {x}^2"
    assert names["模型 café"] == "\\u6a21\\u578b café"
    assert names["new\nline"] == "new line"
    assert len(names["x" * 80]) <= 30
    assert "_hidden" in texts(gallery.regret_by_round(cells))


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
    names = {drawn.name for drawn in gallery.draw_all(cells)}
    assert {"regret_by_round", "reward_by_budget", "traffic", "demand_forecast"} <= names
    assert ("regret_by_horizon" in names) == (len({c.info.horizon for c in cells}) > 1)
    assert ("beliefs" in names) == bool(options.get("policies", True))


def test_no_violation_row_where_nothing_is_violated() -> None:
    cells = make_study(budgets=(0.002,), horizons=(100,), target=None)
    figure = gallery.regret_by_round(cells)
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
    names = {drawn.name for drawn in gallery.draw_all(broken)}
    assert names == NAMES - {"beliefs"}


def test_no_cells_and_one_horizon_say_so(tmp_path: Path) -> None:
    assert gallery.write_all([], tmp_path) == []
    with pytest.raises(NothingToDrawError, match="no cells"):
        gallery.regret_by_round([])
    with pytest.raises(NothingToDrawError, match="two horizons"):
        gallery.regret_by_horizon([make_cell()])


def test_each_setting_has_its_own_files() -> None:
    cells = [
        make_cell(policy, demand=demand, horizon=100) for policy in ("ucb", "greedy") for demand in ("a/b", "../c")
    ]
    names = {drawn.name for drawn in gallery.draw_all(cells)}
    assert {name for name in names if name.startswith("traffic")} == {"traffic--1-a-b", "traffic--2-c"}


def test_tick_labels_keep_apart() -> None:
    assert thin_ticks([1, 10, 11, 100, 1000], logarithmic=True) == [1, 11, 100, 1000]
    assert thin_ticks([1, 2, 50, 99, 100], logarithmic=False) == [2, 50, 100]
    assert thin_ticks([7], logarithmic=True) == [7]


@pytest.mark.parametrize("points", [[1, 10, 100, 1000], [1, 2, 4, 9, 20, 45, 100]])
def test_logarithmic_spacing_is_recognised(points: list[int]) -> None:
    assert log_spaced(np.array(points))
    assert not log_spaced(np.arange(1, 101))
    assert not log_spaced(np.array([1, 100]))


def test_matplotlib_settings_of_the_user_are_ignored_and_kept(study: list) -> None:
    import matplotlib

    with matplotlib.rc_context({"font.size": 40.0, "axes.grid": False}):
        figure = gallery.reward_by_budget(study)
        assert matplotlib.rcParams["font.size"] == 40.0
        assert figure.axes[0].xaxis.label.get_fontsize() == figure_style._STYLE["axes.labelsize"]
