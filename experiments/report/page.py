"""One self-contained page of a study, with its tables and figures beside it.

The page needs no network: styles, script and pictures are inside. Its filters and sorting are plain JavaScript; without
it every row is simply shown.
"""

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from experiments.report.figures.gallery import Written, write_all
from experiments.report.headlines import headlines
from experiments.report.numbers import budget_key, budget_text, whole
from experiments.report.summary import CellSummary, Summary
from experiments.report.tables import (
    ReportTable,
    cell_table,
    deployment_table,
    exponent_table,
    fit_notes,
    latex_tables,
    markdown_tables,
)
from experiments.results.cell_file import CellResult
from experiments.results.disk import write_atomically

MAX_SVG_BYTES = 1_500_000  # a larger picture goes into the page as PNG
MAX_ROWS_UNFILTERED = 30  # beyond it the page opens at the longest horizon
MAX_NOTES = 12  # of fits
_TEMPLATES = Path(__file__).parent / "templates"


def write(cells: Sequence[CellResult], record: Mapping[str, Any], summary: Summary, folder: str | Path) -> Path:
    """Write ``report.html``, ``tables.md``, ``tables.tex`` and ``figures/`` into a folder.

    Args:
        cells: all cells of one study, for the figures.
        record: what ``config.yaml`` holds: the resolved configuration under "config", versions under "versions".
        summary: what :func:`experiments.report.summary.summarise` returned for the same cells.
        folder: made if it does not exist; files of these names are replaced, each whole or not at all.

    Returns:
        The path of ``report.html``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "tables.md", markdown_tables(summary).encode())
    write_atomically(folder / "tables.tex", latex_tables(summary).encode())
    figures = write_all(cells, folder / "figures")
    page = folder / "report.html"
    write_atomically(page, render(record, summary, figures).encode())
    return page


def render(record: Mapping[str, Any], summary: Summary, figures: Sequence[Written]) -> str:
    """The page. Its template escapes every text; only our own style sheet and script are put in as they are."""
    config, cells = record.get("config") or {}, summary.cells
    template = _environment().get_template("report.html.j2")
    return template.render(
        title=_title(config),
        asked=_asked(config),
        found=headlines(summary),
        filters=_filters(cells),
        start=_start(cells),
        cells=cell_table(summary),
        deployment=_shown(deployment_table(summary)),
        exponents=_shown(exponent_table(summary)),
        notes=fit_notes(summary),
        max_notes=MAX_NOTES,
        figures=[(figure.caption, _data(figure)) for figure in figures],
        settings=_settings(record),
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["breakable"] = _breakable
    environment.globals["own_file"] = _own_file
    return environment


def _own_file(name: str) -> Markup:
    """A style sheet or script of ours, as it is."""
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _breakable(name: str) -> Markup:
    """A name that may break after its separators."""
    return Markup(re.sub(r"([_/,-])", r"\1<wbr>", str(escape(name))))


def _shown(table: ReportTable) -> ReportTable | None:
    return table if table.rows else None


def _title(config: Mapping[str, Any]) -> str:
    """The study's name where the configuration gives one."""
    name = config.get("name")
    return "Study report" if name in (None, "") else f"Study {name}"


def _asked(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was asked, in a line of names and values."""
    world, demand = config.get("env") or {}, config.get("demand") or {}
    axes = dict(_axes(config.get("sweep") or {}))
    parts = [
        ("models of", ", ".join(config.get("worlds") or ()) or world.get("catalogue")),
        ("demand", demand.get("process")),
        ("latency target", None if "target" in axes else world.get("target")),
        *((axis, ", ".join(str(value) for value in values)) for axis, values in axes.items()),
        ("runs a cell", config.get("seeds")),
    ]
    return [(name, str(value)) for name, value in parts if value is not None]


def _axes(sweep: Mapping[str, Any]) -> Iterator[tuple[str, Sequence[Any]]]:
    """Names and values of the axes that are swept."""
    for name, value in sweep.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}.{axis}", values) for axis, values in _axes(value))
        elif isinstance(value, (list, tuple)):
            yield str(name), value


def _filters(cells: Sequence[CellSummary]) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Name, title and options (value, text) of each drop-down list that has a choice; the script shows them."""
    axes = [
        ("policy", "Policy", [(cell.label, cell.label) for cell in cells]),
        ("setting", "Setting", [(cell.setting, cell.setting) for cell in cells]),
        ("budget", "Budget (USD a task)", [_budget_option(cell.info.budget_per_task) for cell in cells]),
        ("horizon", "Horizon", [(f"{cell.info.horizon:.0f}", whole(cell.info.horizon)) for cell in cells]),
    ]
    distinct = [(name, title, list(dict.fromkeys(options))) for name, title, options in axes]
    return [(name, title, options) for name, title, options in distinct if len(options) > 1]


def _budget_option(budget: float | None) -> tuple[str, str]:
    return budget_key(budget), budget_text(budget)


def _start(cells: Sequence[CellSummary]) -> str:
    """The horizon at which the page opens; empty: it shows all."""
    return f"{max(cell.info.horizon for cell in cells):.0f}" if len(cells) > MAX_ROWS_UNFILTERED else ""


def _data(figure: Written) -> str:
    """A picture as a URL. As an image, an SVG's styles and ids cannot meddle with the page's."""
    kind, path = ("svg+xml", figure.svg) if figure.svg.stat().st_size <= MAX_SVG_BYTES else ("png", figure.png)
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"


def _settings(record: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    """The configuration, a group a folding table, and the versions of what computed the results."""
    config, versions = record.get("config") or {}, record.get("versions") or {}
    plain = {name: value for name, value in config.items() if not isinstance(value, Mapping)}
    groups: list[tuple[str, Mapping[str, Any]]] = [("General", plain)] if plain else []
    groups += [(str(name), value) for name, value in config.items() if isinstance(value, Mapping)]
    groups += [("Computed with", versions)] if versions else []
    return [(name, list(_flatten(values))) for name, values in groups]


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and readable values."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, (list, tuple)):
            yield f"{prefix}{name}", ", ".join(str(entry) for entry in value) or "none"
        else:
            yield f"{prefix}{name}", "none" if value is None or value == {} else str(value)
