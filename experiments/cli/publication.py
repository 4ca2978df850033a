"""Publishing results, and saying on the terminal what was published and where it lies."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from experiments import interrupt
from experiments.cli import display, findings
from experiments.config.study import StudyConfig
from experiments.jobs.runner import Outcome
from experiments.report import dashboards
from experiments.report.dashboards import WandbOutcome, WandbSettings
from experiments.report.publish import Publication, as_planned, made_again, make, stored_cells
from experiments.results import layout, study_folder
from experiments.results.cell_file import CellResult
from experiments.results.events import EventLog
from experiments.results.leases import Leases

_TURN = "publish"  # a lease


def publish(
    outcome: Outcome,
    study: StudyConfig,
    folder: Path,
    tracker: WandbSettings | None,
    log: EventLog,
    console: Console,
) -> None:
    """Everything below the simulation. Reads results and nothing else, so that it can be done again at any time."""
    plan = layout.read_plan(folder)
    made = make([as_planned(cell, plan) for cell in outcome.cells], folder)
    for table in (findings.findings(made.found), findings.exponents(made.found)):
        if table is not None:
            console.print(table)
    _say_speed(outcome, console)
    _say_page(made, console)
    if tracker is not None:
        _say_wandb(_send(made, folder, tracker, log), console)
    log.write("finished", cells=len(outcome.cells), failed=len(outcome.failed))


def publish_in_turn(
    outcome: Outcome,
    study: StudyConfig,
    folder: Path,
    tracker: WandbSettings | None,
    log: EventLog,
    console: Console,
) -> None:
    """``publish`` once for all shards: of those that end together one does it, with the cells of all."""
    if _is_published(folder):
        display.say(console, "tables and report are there already")
        return
    with Leases(folder) as leases:
        while _is_my_turn(leases):
            publish(outcome, study, folder, tracker, log, console)
            leases.release(_TURN)
            # Who stored a cell after we read them, and then found us publishing, has left that to us.
            if study_folder.shown(folder) <= _ids(outcome.cells):
                return
            cells = stored_cells(folder)
            if _ids(cells) <= _ids(outcome.cells):
                return
            outcome = replace(outcome, cells=cells)
    display.say(console, "another process makes tables and report")


def _is_published(folder: Path) -> bool:
    """Whether somebody has published what is to be shown now, as far as events and summary tell."""
    told = [event["event"] for event in study_folder.read_events(folder) if event["event"] in ("cell", "finished")]
    return told[-1:] == ["finished"] and study_folder.summarised(folder) == study_folder.shown(folder)


def _is_my_turn(leases: Leases) -> bool:
    """Whether no other living process publishes; where its life is in doubt, wait until that is known."""
    while not leases.acquire(_TURN):
        if leases.is_at_work(_TURN):
            return False
        interrupt.pause(0.5)
    return True


def _ids(cells: Sequence[CellResult]) -> set[str]:
    return {cell.info.cell for cell in cells}


def rebuild(folder: Path) -> int:
    """Make everything but the dashboards again, from the folder alone; returns the exit code."""
    _say_page(made_again(folder), display.console())
    return 0


def sync(folder: Path, options: Mapping[str, str], elsewhere: Path | None = None) -> int:
    """Write the W&B runs of a study again, from the folder alone; returns the exit code.

    Args:
        folder: holds the study.
        options: of the tracker, in place of the study's own.
        elsewhere: where W&B's files go in place of ``folder``, which may be read-only.

    Raises:
        InputError: no study, nothing finished in it, or options that do not exist.
    """
    config = study_folder.read_record(folder)["config"]
    own = config.get("tracker")
    chosen = {**(own if isinstance(own, dict) and own.get("name") == "wandb" else {"name": "wandb"}), **options}
    tracker = dashboards.wandb_settings(chosen, str(config.get("name")), elsewhere or folder)
    made = made_again(folder)  # so that what is sent belongs together
    sent = _send(made, folder, tracker, EventLog(folder / layout.EVENTS))
    _say_wandb(sent, display.console())
    return 1 if sent.error else 0


def _send(made: Publication, folder: Path, tracker: WandbSettings, log: EventLog) -> WandbOutcome:
    return dashboards.sync_wandb(made.cells, made.record, made.found, folder, tracker, log)


def _say_page(made: Publication, console: Console) -> None:
    folder = made.page.parent
    for sentence in study_folder.kept(folder, made.record):
        display.say(console, sentence)
    display.say(console, f"results, figures and report: {folder}/  (open {made.page})")


def _say_wandb(sent: WandbOutcome, console: Console) -> None:
    display.say(console, f"Weights & Biases: {sent.sentence}")


def _say_speed(outcome: Outcome, console: Console) -> None:
    if not outcome.decisions:
        nothing = "nothing was simulated" if outcome.failed else "nothing was missing; everything was read back"
        display.say(console, nothing)
        return
    display.say(
        console,
        f"{outcome.decisions:,} decisions in {outcome.run_seconds:.1f} s including {outcome.compilations} compilations "
        f"({outcome.compile_seconds:.1f} s, partly beside the simulation; {outcome.cached} read from the cache)",
    )
