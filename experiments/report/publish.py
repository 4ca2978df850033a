"""What is made from stored results: tables, summary, figures, report, dashboards, and the words on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from envs.errors import InputError
from experiments import interrupt
from experiments.report import page, published, summary
from experiments.report.summary import Summary
from experiments.results import cell_file, disk, layout, study_folder, study_record, tables
from experiments.results.cell_file import CellResult

PUBLISHED = "published.md"  # the cells beside published end points, where the study lists some


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What was made of a study's results."""

    cells: Sequence[CellResult]
    record: Mapping[str, Any]  # of config.yaml
    found: Summary
    page: Path


def make(cells: Sequence[CellResult], folder: Path) -> Publication:
    """Write tables, summary, figures and report. Equal results make equal files."""
    record = study_folder.read_record(folder)
    cells = published.annotated(cells, record["config"].get("published") or [])
    expected = record["config"].get("expected_exponents")
    found = summary.summarise(cells, expected=expected, planned=planned_cells(folder, record))
    interrupt.check()
    tables.write_results(folder, cells)
    tables.write_summary(folder, found.to_json())
    if compared := published.compare(cells):
        disk.write_atomically(folder / PUBLISHED, published.markdown(compared).encode())
    interrupt.check()
    path = page.write(cells, record, found, folder)
    return Publication(cells=cells, record=record, found=found, page=path)


def planned_cells(folder: Path, record: Mapping[str, Any]) -> int | None:
    """How many cells the folder's studies have; None where nobody knows."""
    return len(layout.read_plan(folder)) or len(study_folder.current(record)) or None


def made_again(folder: Path) -> Publication:
    """Tables, figures and report once more, from the folder alone; InputError where that cannot be."""
    study_record.mend_record(folder)
    for trouble in study_folder.troubles(folder):
        disk.warn(trouble)
    cells = stored_cells(folder)
    if not cells:
        raise InputError(f"{folder} holds no finished cell yet; llm-bandits-status tells how far the study is")
    try:
        return make(cells, folder)
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written ({error.strerror or error}); its results are untouched"
        ) from error


def stored_cells(folder: Path) -> list[CellResult]:
    """The results of a folder's studies that are whole, in their order; stderr names those that are not."""
    cells = []
    plan = layout.read_plan(folder)
    order = plan or dict.fromkeys(study_folder.recorded_cells(folder))
    for cell in interrupt.looking(layout.in_order(study_folder.shown(folder), order)):
        try:
            result = cell_file.read_cell(cell_file.cell_path(folder, cell))
        except (OSError, ValueError) as error:
            disk.warn(f"{error}; going on without")
            continue
        cells.append(as_planned(result, plan))
    return cells


def as_planned(cell: CellResult, plan: Mapping[str, Mapping[str, Any]]) -> CellResult:
    """A cell that one study of the folder stored may be swept over by another one, too."""
    swept = cell.info.swept | plan.get(cell.info.cell, {}).get("swept", {})
    return replace(cell, info=replace(cell.info, swept=swept))
