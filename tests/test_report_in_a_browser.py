"""The report is looked at in a real browser, as large as a desk's and as small as a phone's."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.report.page import write
from experiments.report.summary import summarise
from experiments.results.cell_file import CellResult
from tests.browser import CHROMIUM, DRIVER, Browser, browser
from tests.synthetic import make_cell, make_staged_cell, make_study

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None or DRIVER is None, reason="needs chromium and chromedriver"),
]

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844, "mobile": True}
RECORD = {"config": {"name": "a study", "env": {"catalogue": "x" * 90}}, "versions": {"git": "0123456789" * 4}}
SHOWN = """
return Array.from(document.querySelectorAll(arguments[0] + ' tbody tr'))
    .filter(row => getComputedStyle(row).display !== 'none')
    .map(row => [row.dataset.policy, row.dataset.budget, row.dataset.horizon]);
"""
CHOOSE = """
var list = document.querySelector('select[name=' + arguments[0] + ']');
list.value = arguments[1];
list.dispatchEvent(new Event('change', { bubbles: true }));
"""
RESULTS = 'section[aria-labelledby="results"]'
EXPONENTS = 'section[aria-labelledby="exponents"]'


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("browser")) as found:
        yield found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 cells, without figures, in a folder of an awkward name."""
    cells = make_study(budgets=(0.001, 0.002), horizons=(1000, 4000, 16000, 64000), runs=3)
    return without_figures(cells, tmp_path_factory.mktemp("ein Blatt für 模型 #1"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few cells with long names and all their figures."""
    name = "a_policy_with_a_name_of_many_words" + "x" * 40
    cells = [make_staged_cell(name, horizon=horizon, runs=2) for horizon in (500, 1000, 2000)]
    return write(cells, RECORD, summarise(cells), tmp_path_factory.mktemp("drawn"))


def without_figures(cells: list[CellResult], folder: Path) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("experiments.report.page.write_all", lambda cells, folder: [])
        return write(cells, RECORD, summarise(cells), folder)


def said(window: Browser) -> str:
    return str(window.run("return document.querySelector('output').textContent"))


def pick(window: Browser, name: str, value: str) -> None:
    """Choose by hand: the list is clicked, its entry too."""
    window.click(f"select[name={name}]")
    window.click(f'select[name={name}] option[value="{value}"]')


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_a_filter_leaves_its_rows_and_the_rest_is_printed_all_the_same(window: Browser, page: Path, size: dict) -> None:
    window.resize(**size)
    window.open(page, "#all")
    assert len(window.run(SHOWN, RESULTS)) == 40 and said(window) == "40 of 40 cells"
    pick(window, "policy", "ucb")
    rows = window.run(SHOWN, RESULTS)
    assert len(rows) == 8 and {row[0] for row in rows} == {"ucb"} and said(window) == "8 of 40 cells"
    assert {row[0] for row in window.run(SHOWN, EXPONENTS)} == {"ucb"}
    pick(window, "horizon", "4000")
    pick(window, "budget", "0.002")
    assert window.run(SHOWN, RESULTS) == [["ucb", "0.002", "4000"]]
    assert window.run("return location.hash") == "#policy=ucb&budget=0.002&horizon=4000"
    window.developer("Emulation.setEmulatedMedia", media="print")
    assert len(window.run(SHOWN, RESULTS)) == 40
    assert window.run("return getComputedStyle(document.getElementById('filters')).display") == "none"
    window.developer("Emulation.setEmulatedMedia", media="")
    assert len(window.run(SHOWN, RESULTS)) == 1


@pytest.mark.parametrize("size", [DESK, PHONE], ids=["desk", "phone"])
def test_the_page_never_scrolls_sideways(window: Browser, drawn: Path, size: dict) -> None:
    window.resize(**size)
    window.open(drawn, "#all")
    assert window.run("return document.documentElement.scrollWidth") <= size["width"]
    for part in ("h1", "select", "table", "img", "summary"):
        assert window.run("return document.querySelector(arguments[0]).getBoundingClientRect().width", part) > 0
    window.run("document.querySelectorAll('figure')[0].scrollIntoView()")
    assert window.run("return document.images[0].decode().then(() => document.images[0].naturalWidth)") > 300


def test_tables_fit_on_paper(window: Browser, page: Path) -> None:
    window.resize(720, 1000)  # A4 between its margins
    window.developer("Emulation.setEmulatedMedia", media="print")
    window.open(page)
    assert window.run("return document.documentElement.scrollWidth") <= 720
    window.developer("Emulation.setEmulatedMedia", media="")


def test_filters_are_kept_in_the_address(window: Browser, page: Path) -> None:
    window.resize(**DESK)
    for fragment, shown in (("", 10), ("#all", 40), ("#policy=ucb&horizon=4000", 2), ("#policy=nobody", 40)):
        window.open(page, fragment)
        assert said(window) == f"{shown} of 40 cells"


def test_a_heading_sorts_by_number_and_back(window: Browser, page: Path) -> None:
    window.resize(**DESK)
    window.open(page, "#all")
    regret = "thead th:nth-child(5)"
    values = f"""
        return Array.from(document.querySelectorAll('{RESULTS} tbody tr')).map(row =>
            parseFloat(row.children[4].dataset.value));
    """
    assert "Regret" in window.run(f"return document.querySelector('{RESULTS} {regret}').textContent")
    for sign in (1, -1):
        window.click(f"{RESULTS} {regret} button")
        found = window.run(values)
        assert found == sorted(found, reverse=sign < 0)


def test_a_cell_is_counted_once_although_two_tables_show_it(window: Browser, tmp_path: Path) -> None:
    cells = [make_staged_cell(policy, horizon=h, runs=3) for h in (1000, 2000) for policy in ("ucb", "greedy")]
    window.open(without_figures(cells, tmp_path), "#policy=ucb")
    assert said(window) == "2 of 4 cells"
    assert len(window.run(SHOWN, 'section[aria-labelledby="deployment"]')) == 2


def test_no_name_is_ever_run(window: Browser, tmp_path: Path) -> None:
    nasty = "<img src=x onerror=\"document.title='run'\"><script>document.title='run'</script>'\"&"
    cells = [make_cell(nasty, horizon=horizon, env=nasty, runs=2) for horizon in (50, 100)]
    cells.append(make_cell("plain", horizon=50, env=nasty, runs=2))
    window.open(write(cells, {"config": {"name": nasty, nasty: {nasty: nasty}}}, summarise(cells), tmp_path), "#all")
    window.run(CHOOSE, "policy", nasty)
    assert said(window) == "2 of 3 cells"
    assert window.run("return document.title") == f"Study {nasty}"
    assert window.run("return document.querySelectorAll('img:not([src^=\"data:\"])').length") == 0
