"""What is made from stored results: tables, summary, figures, report, dashboards, and the words on the terminal."""

from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from experiments import display, report, store, summary, trackers
from experiments.config import StudyConfig
from experiments.study import Outcome
from experiments.trackers import EventLog, WandbSettings


def publish(
    outcome: Outcome,
    study: StudyConfig,
    folder: Path,
    tracker: WandbSettings | None,
    log: EventLog,
    console: Console,
) -> None:
    """Everything below the simulation. Reads results and nothing else, so that it can be done again at any time."""
    found = summary.summarise(outcome.cells, claims=study.claims)
    store.write_results(folder, outcome.cells)
    store.write_summary(folder, found)
    for table in (display.findings(outcome.cells, found), display.exponents(found)):
        if table is not None:
            console.print(table)
    _say_speed(outcome, console)
    record: dict[str, Any] = yaml.safe_load((folder / store.CONFIG).read_text(encoding="utf-8"))
    page = report.write(outcome.cells, record, found, folder)
    console.print(f"results, figures and report: {folder}/  (open {page})", soft_wrap=True)
    if tracker is not None:
        sent = trackers.sync_wandb(outcome.cells, record, found, folder, tracker, log)
        console.print(f"Weights & Biases: {sent.sentence}", soft_wrap=True)
    log.write("finished", cells=len(outcome.cells), failed=len(outcome.failed))


def _say_speed(outcome: Outcome, console: Console) -> None:
    if not outcome.decisions:
        console.print(
            "nothing was missing; everything was read back" if not outcome.failed else "nothing was simulated"
        )
        return
    console.print(
        f"{outcome.decisions:,} decisions in {outcome.run_seconds:.1f} s including "
        f"{outcome.compilations} compilations ({outcome.compile_seconds:.1f} s, partly beside the simulation)"
    )
