"""Catalogue files: what is read, what is refused and in which words, and where the shipped figures come from."""

import csv
import doctest
from datetime import date
from pathlib import Path

import numpy as np
import pytest

from envs import catalogue
from envs.catalogue import find, read, shipped
from envs.errors import InputError

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
FOLDER = Path(catalogue.__file__).parent / "catalogues"
HEADER = "model,tier,quality,cost_usd,cost_cv,latency_s,latency_cv,released"
SMALL = "small,edge,0.5,1e-4,0.5,0.8,0.3,2023-09-27"
LARGE = "large,cloud,0.9,2e-3,0,4,0,"


@pytest.fixture
def write(tmp_path):
    def write_lines(*lines, name="mine.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write_lines


def raw(name):
    """Rows of a file of the real data, or skip where this checkout has none."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# What is read


def test_columns_become_arrays(write):
    models = read(write(HEADER, SMALL, LARGE))
    assert models.names == ("small", "large")
    assert models.num_models == 2
    np.testing.assert_array_equal(models.tier_cloud, [False, True])
    for values, wanted in (
        (models.quality, [0.5, 0.9]),
        (models.cost_usd, [1e-4, 2e-3]),
        (models.cost_cv, [0.5, 0]),
        (models.latency_s, [0.8, 4]),
        (models.latency_cv, [0.3, 0]),
    ):
        assert values.dtype == np.float64
        np.testing.assert_array_equal(values, wanted)
    assert models.released[0] == (date(2023, 9, 27) - date(1970, 1, 1)).days
    assert np.isnan(models.released[1])
    assert np.isnan(models.retired).all()
    assert models.path.endswith("mine.csv")
    assert models.extras == {}


def test_further_columns_are_kept_as_numbers_or_text(write):
    models = read(write(HEADER + ",retired,energy_wh,note", SMALL + ",2024-09-27,0.3,7", LARGE + ",,2,see below"))
    assert models.extras["energy_wh"].dtype == np.float64
    assert models.extras["energy_wh"].tolist() == [0.3, 2.0]
    assert models.extras["note"].tolist() == ["7", "see below"]
    assert models.retired[0] - models.released[0] == 366
    assert np.isnan(models.retired[1])


def test_layout_of_the_file_does_not_matter(write):
    """Column order, spaces, blank lines, quotes, a byte-order mark and Windows line ends."""
    plain = read(write(HEADER, SMALL, LARGE))
    columns = HEADER.split(",")
    rows = [dict(zip(columns, row.split(","), strict=True)) for row in (SMALL, LARGE)]
    turned = [",".join(f' "{row[c]}"'.strip() for c in reversed(columns)) + "\r" for row in rows]
    other = read(write(",".join(reversed(columns)) + "\r", "", turned[0], " , ", turned[1], "", encoding="utf-8-sig"))
    assert other.names == plain.names
    np.testing.assert_array_equal(other.cost_usd, plain.cost_usd)
    np.testing.assert_array_equal(other.released, plain.released)


def test_first_and_take(write):
    models = read(write(HEADER + ",note", SMALL + ",a", LARGE + ",b", SMALL.replace("small", "third") + ",c"))
    head = models.first(2)
    assert head.names == ("small", "large")
    assert head.extras["note"].tolist() == ["a", "b"]
    assert head.path == models.path
    turned = models.take([2, 0])
    assert turned.names == ("third", "small")
    assert turned.tier_cloud.shape == turned.retired.shape == (2,)
    for wrong in (0, -1, 4):
        with pytest.raises(InputError, match=f"between 1 and the 3 of .*mine.csv, not {wrong}"):
            models.first(wrong)


# What is refused


def edited(row, column, cell):
    cells = row.split(",")
    cells[HEADER.split(",").index(column)] = cell
    return ",".join(cells)


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("quality", "high", "'high' is not a finite number"),
        ("quality", "nan", "'nan' is not a finite number"),
        ("quality", "1.01", "1.01 must be in \\[0, 1\\]"),
        ("quality", "-0.1", "-0.1 must be in"),
        ("cost_usd", "", "a number is missing"),
        ("cost_usd", "inf", "'inf' is not a finite number"),
        ("cost_usd", "1_000", "'1_000' is not a finite number"),
        ("cost_usd", "-1e-9", "-1e-9 must be >= 0"),
        ("cost_cv", "-1", "-1 must be >= 0"),
        ("latency_s", "0", "0 must be > 0"),
        ("latency_cv", "-0.5", "-0.5 must be >= 0"),
        ("tier", "Cloud", "'Cloud' must be one of edge, cloud"),
        ("released", "11/2023", "'11/2023' is not a date like 2023-11-06"),
        ("released", "2023-02-30", "'2023-02-30' is not a date"),
        ("model", "small", "'small' is already on line 2"),
        ("model", "", "a model needs a name"),
    ],
)
def test_a_bad_cell_is_named_by_file_line_and_column(write, column, cell, message):
    with pytest.raises(InputError, match=f"mine.csv, line 4, column '{column}': {message}") as error:
        read(write(HEADER, SMALL, "", edited(LARGE, column, cell)))
    assert "\n" not in str(error.value)


def test_a_model_may_be_free_and_its_largest_cost_known(write):
    models = read(write(HEADER + ",cost_max_usd", edited(SMALL, "cost_usd", "0") + ",0", LARGE + ",0.5"))
    np.testing.assert_array_equal(models.cost_usd, [0.0, 2e-3])
    np.testing.assert_array_equal(models.cost_max_usd, [0.0, 0.5])
    some = read(write(HEADER + ",cost_max_usd", SMALL + ",", LARGE + ",2e-3"))
    np.testing.assert_array_equal(some.cost_max_usd, [np.nan, 2e-3])
    np.testing.assert_array_equal(read(write(HEADER, SMALL)).cost_max_usd, [np.nan])


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("much", "'much' is not a finite number \\(or empty if unknown\\)"),
        ("inf", "'inf' is not a finite number"),
        ("1.9e-3", "1.9e-3 must be at least the mean cost_usd, 0.002"),
        ("-1", "-1 must be at least the mean"),
    ],
)
def test_a_largest_cost_that_cannot_be_is_named(write, cell, message):
    with pytest.raises(InputError, match=f"mine.csv, line 3, column 'cost_max_usd': {message}"):
        read(write(HEADER + ",cost_max_usd", SMALL + ",", LARGE + f",{cell}"))


def test_retired_before_released(write):
    with pytest.raises(InputError, match="line 2, column 'retired': 2023-01-01 is before the release on 2023-09-27"):
        read(write(HEADER + ",retired", SMALL + ",2023-01-01"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (("",), "mine.csv is empty; it needs a header with the columns model, tier"),
        ((HEADER,), "has a header and no models"),
        (
            (HEADER.replace(",cost_cv", "").replace("tier,", ""), "x"),
            "lacks the column\\(s\\) tier, cost_cv; its header has model, q",
        ),
        (
            (HEADER.replace(",", ";"), SMALL.replace(",", ";")),
            "lacks the column\\(s\\) model, .*its header has model;tier",
        ),
        ((HEADER, SMALL, LARGE + ",extra"), "line 3: 9 cells where the header has 8"),
        ((HEADER, SMALL[: SMALL.rindex(",")]), "line 2: 7 cells where the header has 8"),
        ((HEADER + ",quality", SMALL + ",1"), "names the column 'quality' twice"),
        ((HEADER + ",", SMALL + ",1"), "column 9 has no name"),
        ((HEADER, '"small' + SMALL[5:]), "line 2: not a valid CSV line"),
    ],
)
def test_a_bad_file_is_refused(write, lines, message):
    with pytest.raises(InputError, match=message):
        read(write(*lines))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"no catalogue 'routerbensh'.* did you mean 'routerbench'"):
        find("routerbensh")
    with pytest.raises(InputError, match=r"no catalogue '.*nowhere.csv'"):
        read(tmp_path / "nowhere.csv")
    with pytest.raises(InputError, match="cannot read the catalogue"):
        read(tmp_path)
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\n\xe9\xff")
    with pytest.raises(InputError, match="not UTF-8"):
        read(tmp_path / "latin.csv")


# What is shipped


@pytest.mark.parametrize("name", shipped())
def test_shipped_catalogues_are_sound(name):
    models = find(name)
    assert np.isfinite(models.released).all()
    assert not models.tier_cloud.all()
    if name != "copac_paper":  # which is one experiment's four edge models
        assert models.num_models >= 10
        assert models.tier_cloud.any()
    assert all(text.strip() for text in models.extras["source"])
    np.testing.assert_array_equal(models.quality, find(FOLDER / f"{name}.csv").quality)


@pytest.mark.parametrize("name", sorted({*shipped()} - {"copac_paper"}))  # which keeps the order of its paper's table
def test_every_head_of_a_shipped_catalogue_mixes_cheap_and_strong(name):
    """The cheapest and the best model of the whole catalogue come first, then the rest of the cost-quality frontier."""
    models = find(name)
    assert models.cost_usd[0] == models.cost_usd.min()
    assert models.quality[1] == models.quality.max()
    frontier, gap = frontier_and_gap(models.cost_usd, models.quality)
    assert set(range(len(frontier))) == set(frontier)
    assert (np.diff(gap[len(frontier) :]) >= -1e-9).all()


def frontier_and_gap(cost, quality):
    """Models on the concave frontier of quality over cost, and how far below it each one lies."""
    frontier = [int(np.argmin(cost))]
    best = int(np.argmax(quality))
    while frontier[-1] != best:
        here = frontier[-1]
        dearer = [i for i in range(len(cost)) if cost[i] > cost[here] and quality[i] > quality[here]]
        frontier.append(max(dearer, key=lambda i: (quality[i] - quality[here]) / (cost[i] - cost[here])))
    return frontier, np.interp(cost, cost[frontier], quality[frontier]) - quality


def test_shipped_names():
    assert {"routerbench", "paretobandit"} <= set(shipped())
    assert find("routerbench").num_models == 11
    assert find("paretobandit").num_models >= 30


def test_routerbench_quality_and_cost_are_the_reported_means():
    models = find("routerbench")
    rows = {row["model"]: row for row in raw("routerbench_0shot_model_summary.csv")}
    assert set(models.names) == set(rows)
    for i, name in enumerate(models.names):
        assert models.quality[i] == float(rows[name]["mean_quality_reported"])
        assert models.cost_usd[i] == float(rows[name]["mean_cost_usd_per_query_reported"])
        assert models.extras["quality_variance"][i] == float(rows[name]["var_quality_from_counts"])
    assert (models.cost_cv == 0.5).all()


def test_frugalgpt_quality_and_cost_are_means_over_the_five_tasks():
    models = find("frugalgpt")
    rows = raw("frugalgpt2024_model_by_task.csv")
    for i, name in enumerate(models.names):
        mine = [row for row in rows if row["model"] == name]
        assert len(mine) == 5
        assert models.quality[i] == pytest.approx(np.mean([float(row["test_acc"]) for row in mine]), rel=1e-5)
        cost = np.mean([float(row["test_cost_usd_per_query"]) for row in mine])
        assert models.cost_usd[i] == pytest.approx(cost, rel=1e-5)


def azure_tokens():
    """Tokens in and out of the Azure 2023 conversation requests: the query every cost and latency here is for."""
    rows = raw("AzureLLMInferenceTrace_conv.csv")
    return np.array([[float(row["ContextTokens"]), float(row["GeneratedTokens"])] for row in rows]).T


def timing(name, pareto):
    """Mean and deviation of the time to first token, and tokens per second, of the model a row borrows from."""
    if not name.startswith("llmperf:"):
        row = pareto[name]
        columns = ("time_to_first_token_seconds", "time_to_first_token_std", "output_tokens_per_second")
        return [float(row[column]) for column in columns]
    provider, model = name.removeprefix("llmperf:").split("/")
    requests = [row for row in raw("llmperf2023_latency_requests.csv") if row["ok"] == "1"]
    mine = [row for row in requests if (row["provider"], row["model"]) == (provider, model)]
    first, whole, tokens = (
        np.array([float(row[column]) for row in mine]) for column in ("ttft_s", "end_to_end_latency_s", "output_tokens")
    )
    return [first.mean(), first.std(), tokens.sum() / (whole - first).sum()]


@pytest.mark.parametrize("name", ["routerbench", "frugalgpt", "paretobandit"])
def test_latencies_are_first_token_plus_answer_over_speed(name):
    models = find(name)
    _, tokens_out = azure_tokens()
    pareto = {row["model_id"]: row for row in raw("paretobandit_model_catalog.csv")}
    for i, like in enumerate(models.extras.get("latency_like", models.names)):
        first, first_deviation, speed = timing(str(like), pareto)
        mean = first + tokens_out.mean() / speed
        deviation = np.hypot(first_deviation, tokens_out.std() / speed)
        assert models.latency_s[i] == pytest.approx(mean, rel=1e-5), models.names[i]
        assert models.latency_cv[i] == pytest.approx(deviation / mean, rel=1e-5), models.names[i]


def test_paretobandit_quality_and_cost():
    models = find("paretobandit")
    tokens_in, tokens_out = azure_tokens()
    scores = ("mmlu_pro", "gpqa", "livecodebench", "math_500", "scicode")
    needed = (*scores, "input_cost_per_m", "output_cost_per_m", "time_to_first_token_std", "output_tokens_per_second")
    rows = {row["model_id"]: row for row in raw("paretobandit_model_catalog.csv") if all(row[c] for c in needed)}
    assert set(models.names) == set(rows)
    for i, name in enumerate(models.names):
        price_in, price_out = float(rows[name]["input_cost_per_m"]), float(rows[name]["output_cost_per_m"])
        cost = (price_in * tokens_in + price_out * tokens_out) / 1e6
        assert models.quality[i] == pytest.approx(np.mean([float(rows[name][score]) for score in scores]), rel=1e-5)
        assert models.cost_usd[i] == pytest.approx(cost.mean(), rel=1e-5)
        assert models.cost_cv[i] == pytest.approx(cost.std() / cost.mean(), rel=1e-5)


def test_examples():
    assert doctest.testmod(catalogue).failed == 0
