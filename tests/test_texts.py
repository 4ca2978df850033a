"""Names are text, from the command line to the last table: never numbers, markup, formulas or paths."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml
from rich.console import Console

from envs.errors import InputError
from experiments.cli import display, findings, status
from experiments.config import study as study_config
from experiments.config.study import study_from
from experiments.config.texts import readable, text
from experiments.report import page
from experiments.report import tables as report_tables
from experiments.report.figures import gallery
from experiments.report.figures.style import add_title, house_style, panel_grid, short_names
from experiments.report.summary import summarise
from experiments.results import layout, tables
from experiments.results.events import EventLog
from tests import studies
from tests.synthetic import make_cell, make_study

HOSTILE = (
    *(
        "[/x]",
        "[red]a",
        "[bold",
        ":smile:",
        "a\\",
        "[link=https://x.y]z[/link]",
        "-",
        "=1+1",
        "+1",
        "-40 %",
        "@SUM(A1)",
    ),
    *(
        "<b>&\"'",
        "a|b",
        "*a",
        "a_b$c_d$",
        "$",
        "../x",
        "a/b",
        "1",
        "1e3",
        "true",
        "null",
        "2024-01-01",
        "café 世",
        "  a ",
    ),
)


@pytest.mark.parametrize(
    ("value", "wanted"), [(20240601, "20240601"), (1, "1"), (1000.0, "1000.0"), (True, "true"), ("yes", "yes")]
)
def test_scalars_are_text_where_names_are_meant(value: object, wanted: str) -> None:
    assert text(value, "name") == wanted


@pytest.mark.parametrize("value", [None, "", [], ["a"], {"a": 1}])
def test_what_is_no_scalar_is_no_name(value: object) -> None:
    with pytest.raises(InputError, match=r"^name is .*; it must be a name$"):
        text(value, "name")


@pytest.mark.parametrize("letter", ["\x00", "\x07", "\t", "\n", "\x7f", "\x85", "\u2028", "\ufeff", "\uffff", "\ud800"])
def test_characters_that_files_do_not_keep_are_refused(letter: str) -> None:
    for value, where in (({"a": {"b": [f"x{letter}"]}}, "a.b"), ({f"x{letter}": 1}, "a key")):
        with pytest.raises(InputError, match=re.escape(f"U+{ord(letter):04X}")) as caught:
            readable(value)
        assert str(caught.value).startswith(where) and str(caught.value).isascii()


def test_what_is_not_refused_comes_back_from_every_file() -> None:
    kept = []
    for number in [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFE00, 0x10100), *range(0x1F600, 0x1F610)]:
        try:
            kept.append(readable(f"a{chr(number)}b"))
        except InputError:
            continue
    assert len(kept) > 12000
    record = {"config": {"names": [*kept, *HOSTILE], **dict.fromkeys(HOSTILE, 1)}}
    dumped = yaml.safe_dump(record, sort_keys=False, allow_unicode=True).encode().decode()
    assert yaml.load(dumped, Loader=layout._LOADER) == record
    assert json.loads(json.dumps(record, ensure_ascii=False).encode()) == record


def test_keys_are_text_at_every_depth() -> None:
    assert readable({"env": {"floors": {2: 0.5, True: 0.5}}}) == {"env": {"floors": {"2": 0.5, "true": 0.5}}}


@pytest.mark.parametrize(
    "value", ["20240601", "1e3", "007", "1_000", "0x1F", "yes", "true", "null", "2024-01-01", "1.50"]
)
def test_the_command_line_keeps_the_spelling_of_names_and_paths(value: str) -> None:
    plain = studies.plain(
        f"name={value}", f"env.catalogue={value}", f"demand.column={value}", f"tracker.project={value}"
    )
    found = (plain["name"], plain["env"]["catalogue"], plain["demand"]["column"], plain["tracker"]["project"])
    assert found == (value,) * 4
    if value != "null":
        assert studies.plain(f"out={value}", "demand=trace", f"demand.path={value}")["out"] == value
    assert study_from(studies.plain(f"name={value}")).name == value


@pytest.mark.parametrize("path", ["a\\", "it's", "\\'", "a,b=[c]{d}", "' '", "ä ö", "-x", "a'b\\\\'c"])
def test_the_command_line_keeps_odd_paths(path: str) -> None:
    wanted = path[1:-1] if path == "' '" else path  # quoted already
    assert studies.plain(f"out={path}")["out"] == wanted


def test_out_may_still_be_null() -> None:
    assert studies.plain("out=null")["out"] is None


def test_numbers_name_policies_columns_and_floors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header, *rows = studies.CATALOGUE.splitlines()
    numbered = [f"{header},1", *(f"{row},0.5" for row in rows)]
    studies.write(tmp_path, {"cat.csv": "\n".join(numbered) + "\n", "trace.csv": "1,yes\n3,4\n"})
    monkeypatch.chdir(tmp_path)
    cells = studies.planned(
        *("env.catalogue=cat.csv", "env.floors={1: 0.4}", "demand=trace", "demand.path=trace.csv", "demand.column=1"),
        "policies=[{name: 1, routing: uniform}, {name: true, routing: uniform}, {name: 2.5, routing: uniform}]",
        "expected_exponents={1: {regret: 0.5}}",
    )
    assert [cell.config.policy.name for cell in cells] == ["1", "true", "2.5"]
    assert all(cell.config.env.floors == {"1": 0.4} and cell.config.demand["column"] == "1" for cell in cells)
    with pytest.raises(InputError, match="two are called '1'"):
        studies.planned("policies=[{name: 1, routing: uniform}, {name: '1', routing: uniform}]")


def test_what_is_recorded_of_a_name_is_text() -> None:
    assert study_from({**studies.plain(), "name": 2024}).plain["name"] == "2024"


def test_expectations_belong_to_policies_of_the_study_or_to_rules() -> None:
    named = "policies=[{name: lp exact, routing: uniform}]"
    found = study_from(
        studies.plain(named, "expected_exponents={lp exact: {regret: 0.5}, lp_resolving: {violation: 0.5}}")
    )
    assert found.expected_exponents["lp exact"] == {"regret": 0.5}
    assert study_from(studies.plain("expected_exponents=null")).expected_exponents == {}
    with pytest.raises(InputError, match=r"expected_exponents.lp exac: .*'lp exact'"):
        study_from(studies.plain(named, "expected_exponents={lp exac: {regret: 0.5}}"))


def printed(thing: object) -> str:
    """What an ordinary terminal would show, without its frames."""
    screen = Console(file=io.StringIO(), width=300, force_terminal=True, color_system=None)
    screen.print(thing)
    return screen.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_tables_on_the_terminal_show_names_as_they_are() -> None:
    cells = [make_cell(name, horizon=horizon, runs=3) for name in HOSTILE for horizon in (100, 200, 400)]
    found = summarise(cells)
    for table in (findings.findings(found), findings.exponents(found)):
        shown = printed(table)
        for name in HOSTILE:
            assert name.strip() in shown, name


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_names_as_they_are(terminal: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "_PLAIN_SECONDS", 0.0)
    screen = Console(file=io.StringIO(), width=200, force_terminal=terminal, color_system=None)
    with display.Live(screen, EventLog(tmp_path / "events.jsonl")) as live:
        live.begin(0, 1, 10)
        for name in HOSTILE:
            live.note(f"{name}: compiling")
            if live.live is not None:
                live.live.refresh()
            live.warn(name)
    shown = screen.file.getvalue()  # type: ignore[attr-defined]
    for name in HOSTILE:
        assert f"{name.strip()}: compiling" in shown and f"warning: {name}" in shown, name


def test_the_status_shows_names_as_they_are() -> None:
    failure = status.Failure(cell="c", policy="[/x]", error="[red] :smile: \\")
    parts = tuple(status.Part(policy=name, cells=1, done=1, failed=0) for name in HOSTILE)
    process = status.Process(
        name="[/h]:1", alive=True, silent_s=None, doing="[/y]: a\\", decisions_left=None, decisions_per_minute=None,
        cells_per_minute=None,
    )  # fmt: skip
    found = status.Status(
        name="[/n]", folder="x", cells=30, done=29, running=0, failed=(failure,), damaged=0, warnings=0, parts=parts,
        processes=(process,), cells_per_minute=None, decisions_per_minute=None, seconds_left=None, kept=(),
        troubles=(),
    )  # fmt: skip
    shown = printed(status.show(found))
    assert "[/n]: 29 of 30 cells done, 1 failed" in shown
    assert "failed: [/x], cell c: [red] :smile: \\" in shown
    assert "at work: [/h]:1, [/y]: a\\" in shown
    assert all(name.strip() in shown for name in HOSTILE)


def csv_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_spreadsheets_run_no_name(tmp_path: Path) -> None:
    cells = [make_cell(name, runs=1, swept={"policy.rule": name, "policy.step": -0.5}) for name in HOSTILE]
    tables.write_results(tmp_path, cells)
    exact = pyarrow.parquet.read_table(tmp_path / "results.parquet").to_pylist()
    for name, row, kept in zip(HOSTILE, csv_rows(tmp_path), exact, strict=True):
        shown = f"'{name}" if name[0] in "=+-@" else name
        assert row["policy"] == row["policy.rule"] == shown
        assert kept["policy"] == kept["policy.rule"] == name
        assert float(row["policy.step"]) == kept["policy.step"] == -0.5
        assert float(row["regret"]) == kept["regret"]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((0.5, "auto"), ["0.5", "auto"]),
        ((1, True), ["1", "true"]),
        ((1, 0.5), [1.0, 0.5]),
        ((None, "auto"), [None, "auto"]),
        (({"latency": 0.8}, {"quality": 0.5}), ['{"latency": 0.8}', '{"quality": 0.5}']),
        (([1, 2], None), ["[1, 2]", None]),
    ],
)
def test_a_swept_column_may_hold_any_kinds(values: tuple, wanted: list, tmp_path: Path) -> None:
    tables.write_results(tmp_path, [make_cell(runs=1, swept={"policy.x": value}) for value in values])
    assert pyarrow.parquet.read_table(tmp_path / "results.parquet")["policy.x"].to_pylist() == wanted
    assert len(csv_rows(tmp_path)) == len(values)


def test_markdown_reads_no_name_as_markup() -> None:
    cells = [make_cell(name, runs=2, horizon=horizon) for name in HOSTILE for horizon in (50, 100, 200)]
    text = report_tables.markdown_tables(summarise(cells))
    for table in text.split("\n## ")[1:]:
        rows = [line for line in table.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", row)) for row in rows}) == 1
    assert "| a\\|b |" in text and "| \\*a |" in text and "&lt;b&gt;&amp;" in text
    for name, item in (("- a", "- \\- a"), ("1. a", "- 1\\. a"), ("+ a", "- \\+ a"), ("2024 a", "- 2024 a")):
        assert f"- {report_tables.escape_item(name)}" == item


def test_a_row_of_latex_may_start_with_any_name() -> None:
    rows = [
        line
        for line in report_tables.latex_tables(summarise([make_cell("*a"), make_cell("[a]")])).splitlines()
        if " & " in line
    ]
    assert [row.split(" & ")[0] for row in rows[1:]] == ["{*}a", "{[}a{]}"]
    assert report_tables.escape_latex("100 † ‡") == r"100 \dag{} \ddag{}"


def test_figures_lie_in_their_folder_whatever_settings_are_called(tmp_path: Path) -> None:
    names = ("../x", "..", "a/b", "A/B", "a-b", "/etc/x", "x" * 400, "con", "$a_b$", "[/x]")
    cells = [make_cell(runs=2, env=name, horizon=20) for name in names]
    before = gallery.MAX_SETTINGS
    assert before < len(names)
    slugs = gallery._slugs(names)
    assert len(set(slugs.values())) == len(names)
    assert all(re.fullmatch(r"--\d+(-[a-z0-9.-]+)?", slug) and len(slug) < 60 for slug in slugs.values())
    written = [gallery.save(drawing, tmp_path) for drawing in gallery.draw_all(cells[:2])]
    assert written and {path.parent for figure in written for path in (figure.png, figure.svg)} == {tmp_path}


def test_long_settings_are_wrapped_before_they_are_escaped() -> None:
    with house_style():
        figure, _ = panel_grid(1, 1)
        add_title(figure, "$" * 400, "title", [])
        figure.draw_without_rendering()
    assert figure.get_suptitle().count(r"\$") == 400


def test_short_names_stay_apart_from_those_that_look_like_them() -> None:
    names = ["a\tb", "a b", "a b #2", "a b #3", "$", "\\$"]
    assert len(set(short_names(names).values())) == len(names)


def test_one_page_holds_every_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "write_all", lambda cells, folder: [])
    cells = make_study(policies=HOSTILE, budgets=(0.002,), horizons=(50, 100, 200), runs=2)
    record = {"config": {"name": 2024, "env": {"floors": {1: 0.5}}, "expected_exponents": {"<b>": {"regret": 0.5}}}}
    text = page.write(cells, record, summarise(cells), tmp_path).read_text(encoding="utf-8")
    assert "<title>Study 2024</title>" in text
    assert "<b>&" not in text and "floors.1" in text


def test_names_of_studies_fit_a_folder() -> None:
    assert study_from({**studies.plain(), "name": "x" * 200}).name == "x" * 200
    for name in ("x" * 201, "世" * 67, "a/b"):
        with pytest.raises(InputError, match="no slash and at most 200 bytes"):
            study_from({**studies.plain(), "name": name})


def test_the_old_word_names_the_new_one() -> None:
    with pytest.raises(InputError, match=r"^claims is now called expected_exponents and is given by policy, e\.g\. "):
        study_config.study_from({**studies.plain(), "claims": {"regret": 0.5}})


def test_a_number_in_a_file_of_a_study_is_text_where_a_name_is_meant() -> None:
    plain = studies.plain()
    plain |= {"policies": [{"name": 7, "routing": "uniform", "forecaster": "ewma"}], "out": 20240601}
    found = study_from(plain)
    assert found.out == "20240601" and [cell.policy.name for cell in found.cells] == ["7"]
    assert np.all([isinstance(key, str) for key in found.plain])
