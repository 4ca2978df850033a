"""How far a study is, read from its folder while others write there: ``llm-bandits-status DIR``.

Rates come from the lines of ``events.jsonl``, which count seconds since their process began; no two wall clocks are
compared for them, so a clock that jumps costs nothing.
"""

import json
import os
import socket
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from experiments.results import layout, study_folder

DONE, FAILED, INCOMPLETE = 0, 1, 3  # exit codes; 2 is bad input, as everywhere
_WINDOW_SECONDS = 60.0  # that a rate is taken over, at least, where there is as much
_SILENT_SECONDS = 120.0  # after which a process on another machine counts as gone
_MOST_FAILURES = 10  # told one by one


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A cell that could not be simulated, and that nobody has tried again since."""

    cell: str
    policy: str
    error: str


@dataclass(frozen=True, kw_only=True)
class Process:
    """One process that works, or worked, on the study."""

    name: str  # host:pid
    alive: bool
    silent_s: float | None  # since its last line; None where the clocks disagree
    doing: str
    decisions_left: int | None  # that it knows of
    decisions_per_minute: float | None
    cells_per_minute: float | None


@dataclass(frozen=True, kw_only=True)
class Part:
    """How far one policy is."""

    policy: str
    cells: int
    done: int
    failed: int


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a study is."""

    name: str
    folder: str
    cells: int | None  # planned; None where nobody said
    done: int
    running: int  # cells that somebody alive has leased
    failed: tuple[Failure, ...]
    damaged: int  # files that were found damaged and are computed anew
    warnings: int
    kept: tuple[str, ...]  # sentences about cells that are there and not shown
    parts: tuple[Part, ...]  # by policy, in the order of the study
    processes: tuple[Process, ...]  # since the study was last begun, those at work first
    cells_per_minute: float | None
    decisions_per_minute: float | None
    seconds_left: float | None
    troubles: tuple[str, ...]  # with the files that say so, a sentence each

    @property
    def missing(self) -> int | None:
        """Cells neither done nor failed."""
        return None if self.cells is None else max(0, self.cells - self.done - len(self.failed))

    @property
    def at_work(self) -> bool:
        """Whether anybody is at work on the study."""
        return any(process.alive for process in self.processes)

    @property
    def code(self) -> int:
        """The exit code: failed before incomplete before done."""
        if self.failed:
            return FAILED
        return DONE if self.cells is not None and self.done >= self.cells else INCOMPLETE

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return asdict(self) | {"missing": self.missing, "at_work": self.at_work, "code": self.code}


def read(folder: Path) -> Status:
    """Read how far a study is.

    Raises:
        InputError: the folder holds no study.
    """
    record, trouble = study_folder.find_record(folder)
    plan, there = layout.read_plan(folder), study_folder.fresh(folder) & study_folder.shown(folder)
    events = list(study_folder.read_events(folder))
    known = plan.keys() or _recorded(record)
    failures = {
        cell: found
        for cell, found in _failures(events, plan).items()
        if cell not in there and (cell in known or not known)
    }
    processes = _processes(events)
    alive = [process for process in processes if process.alive]
    speed = _total(process.decisions_per_minute for process in alive)
    left = _decisions_left(plan, there | failures.keys(), alive, layout.simulated(folder))
    owners, working = layout.leased(folder), {process.name for process in alive}
    return Status(
        name=str(record["config"].get("name")),
        folder=str(folder),
        cells=len(known) or _announced(events),
        done=len(there & plan.keys() if plan else there),
        running=sum(not working.isdisjoint(names) for cell, names in owners.items() if cell not in there),
        failed=tuple(failures.values()),
        damaged=sum(event["event"] == "damaged" for event in events),
        warnings=sum(event["event"] == "warning" for event in events),
        kept=tuple(study_folder.kept(folder, record)),
        parts=_parts(plan, there, failures),
        processes=tuple(sorted(processes, key=lambda process: not process.alive)),
        cells_per_minute=_total(process.cells_per_minute for process in alive),
        decisions_per_minute=speed,
        seconds_left=None if left is None or not speed else 60.0 * left / speed,
        troubles=(*([trouble] if trouble else ()), *study_folder.troubles(folder)),
    )


def _recorded(record: Mapping[str, Any]) -> set[str]:
    """The ids of the cells of the folder's studies, as its record tells; none where it does not."""
    studies = [record, *record.get("earlier", ())]
    return {cell for study in studies for cell in study.get("cells", "").split()}


def _announced(events: Sequence[Mapping[str, Any]]) -> int | None:
    """How many cells the study has, where there is no plan."""
    counts = [event.get("cells") for event in events if event["event"] == "study"]
    return counts[-1] if counts and type(counts[-1]) is int and counts[-1] >= 0 else None


def _failures(events: Iterable[Mapping[str, Any]], plan: Mapping[str, Mapping[str, Any]]) -> dict[str, Failure]:
    """Cell id -> failure; whoever begins the study anew tries them again."""
    found: dict[str, Failure] = {}
    for event in events:
        if event["event"] == "study":
            found.clear()
        elif event["event"] == "failed":
            for cell in event["cells"]:
                policy = plan.get(cell, {}).get("policy") or event.get("policy")
                found[cell] = Failure(cell=cell, policy=str(policy), error=str(event.get("error")))
    return found


def _parts(plan: Mapping[str, Mapping[str, Any]], there: set[str], failures: Mapping[str, Failure]) -> tuple[Part, ...]:
    counts = [
        Counter(str(plan[cell].get("policy")) for cell in plan if cell in among) for among in (plan, there, failures)
    ]
    return tuple(
        Part(policy=policy, cells=cells, done=counts[1][policy], failed=counts[2][policy])
        for policy, cells in counts[0].items()
    )


def _processes(events: Sequence[Mapping[str, Any]]) -> list[Process]:
    """Every process since each of them last began a study."""
    lines: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        name = event.get("process")
        if isinstance(name, str):
            if event["event"] == "study":
                lines[name] = []
            if name in lines:
                lines[name].append(event)
    return [_process(name, mine) for name, mine in lines.items()]


def _process(name: str, events: Sequence[Mapping[str, Any]]) -> Process:
    beats = [event for event in events if event["event"] == "progress"]
    last = beats[-1] if beats else {}
    played = [(event["uptime_s"], event.get("decisions", 0)) for event in (events[0], *beats)]  # none when it began
    silent = _age(events[-1])
    return Process(
        name=name,
        alive=events[-1]["event"] not in ("finished", "left") and _lives(name, silent),
        silent_s=silent,
        doing=str(last.get("doing", "")),
        decisions_left=max(0, last["of"] - last["decisions"]) if beats else None,
        decisions_per_minute=_rate(played),
        cells_per_minute=_rate(_stored_so_far(events)),
    )


def _stored_so_far(events: Sequence[Mapping[str, Any]]) -> list[tuple[float, int]]:
    """(seconds, cells stored by then) at every sign of life."""
    cells, points = 0, []
    for event in events:
        cells += event["event"] == "cell"
        if event["event"] in ("study", "progress"):
            points.append((event["uptime_s"], cells))
    return points


def _rate(points: Sequence[tuple[float, int]]) -> float | None:
    """Per minute, between the last point and the latest one at least a window before it; None where there is none."""
    if len(points) < 2:
        return None
    end, last = points[-1]
    start, first = next((point for point in reversed(points) if point[0] <= end - _WINDOW_SECONDS), points[0])
    return 60.0 * max(0, last - first) / (end - start) if end > start else None


def _lives(name: str, silent: float | None) -> bool:
    """Whether a process is there: asked of this machine where it runs here, else judged by its silence."""
    host, _, pid = name.rpartition(":")
    if host != socket.gethostname() or not (pid.isascii() and pid.isdigit()):
        return silent is None or silent < _SILENT_SECONDS
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True  # somebody else's
    return True


def _age(event: Mapping[str, Any]) -> float | None:
    """Seconds since a line was written; None where it was not written in the past."""
    try:
        seconds = (datetime.now(UTC) - datetime.fromisoformat(event["time"])).total_seconds()
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return seconds if seconds >= 0 else None


def _total(rates: Iterable[float | None]) -> float | None:
    known = [rate for rate in rates if rate is not None]
    return sum(known) if known else None


def _decisions_left(
    plan: Mapping[str, Mapping[str, Any]],
    settled: set[str],
    alive: Sequence[Process],
    simulated: Iterable[tuple[set[str], int]],
) -> int | None:
    """What neither a cell nor a chunk of seeds holds yet, or less where a single process has played part of it."""
    if not alive:
        return None
    left = [entry["horizon"] * entry["seeds"] for cell, entry in plan.items() if cell not in settled]
    left += [-decisions for cells, decisions in simulated if cells <= plan.keys() - settled]
    told = [process.decisions_left for process in alive if process.decisions_left is not None]
    candidates = ([max(0, sum(left))] if plan else []) + told
    return min(candidates, default=None)


def show(status: Status) -> RenderableType:
    """The status for people. Names are text, never markup."""
    parts: list[RenderableType] = [_headline(status)]
    if len(status.parts) > 1:
        parts.append(_table(status))
    parts += [_sentence(process) for process in status.processes if process.alive]
    if not status.at_work and status.code != DONE:
        parts.append("nobody is at work; the command that began the study goes on with it")
    if status.at_work and status.missing != 0:
        parts.append(_speed(status))
    parts += [
        Text.assemble(("failed:", "red"), f" {found.policy}, cell {found.cell}: {found.error}")
        for found in status.failed[:_MOST_FAILURES]
    ]
    if len(status.failed) > _MOST_FAILURES:
        parts.append(f"{len(status.failed) - _MOST_FAILURES} further cells failed; --json lists them all")
    parts += [Text(sentence) for sentence in status.kept]
    if status.damaged:
        parts.append(f"{status.damaged} damaged files were found; their cells are computed anew")
    if status.warnings:
        parts.append(f"{status.warnings} warnings are in {layout.EVENTS}")
    parts += [Text.assemble(("warning:", "yellow"), f" {trouble}") for trouble in status.troubles]
    return Group(*parts)


def _headline(status: Status) -> Text:
    of = "" if status.cells is None else f" of {status.cells:,}"
    failed = f"{len(status.failed)} failed" if status.failed else ""
    running = f", {status.running:,} being simulated" if status.running else ""
    waiting = max(0, (status.missing or 0) - status.running)
    missing = f", {waiting:,} to do" if waiting else ""
    done = f": {status.done:,}{of} cells done{', ' if failed else ''}"
    return Text.assemble((status.name, "bold"), done, (failed, "red"), f"{running}{missing}")


def _table(status: Status) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("policy", overflow="fold")
    for name in ("done", "failed", "to do"):
        table.add_column(name, justify="right")
    for part in status.parts:
        left = part.cells - part.done - part.failed
        table.add_row(Text(part.policy), *(f"{count:,}" if count else "-" for count in (part.done, part.failed, left)))
    return table


def _sentence(process: Process) -> Text:
    silent = "" if process.silent_s is None or process.silent_s < 30 else f", silent for {_duration(process.silent_s)}"
    speed = process.decisions_per_minute
    rate = "" if not speed or not process.decisions_left else f", {short(speed)} decisions a minute"
    return Text(f"at work: {process.name}, {process.doing}{rate}{silent}")


def _speed(status: Status) -> str:
    if status.decisions_per_minute is None:
        return "rate and time left: unknown yet"
    cells = f"{status.cells_per_minute or 0.0:.3g} cells and "
    left = "unknown" if status.seconds_left is None else f"about {_duration(status.seconds_left)}"
    return f"rate: {cells}{short(status.decisions_per_minute)} decisions a minute; time left: {left}"


def _duration(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def short(number: float) -> str:
    """Three digits and a letter: 12.3 k."""
    for limit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= limit:
            return f"{number / limit:.3g} {suffix}"
    return f"{number:.3g}"


def tell(folder: Path, screen: Console, *, as_json: bool = False) -> Status:
    """Print the status once."""
    status = read(folder)
    if as_json:
        screen.out(json.dumps(status.to_dict(), ensure_ascii=False), highlight=False)
    else:
        screen.print(show(status))
    return status


def watch(folder: Path, screen: Console, seconds: float, *, as_json: bool = False) -> Status:
    """Print the status again and again until nobody is at work."""
    if as_json or not screen.is_terminal:
        while (status := tell(folder, screen, as_json=as_json)).at_work:
            time.sleep(seconds)
        return status
    with Live(console=screen, auto_refresh=False) as live:
        while (status := read(folder)).at_work:
            live.update(show(status), refresh=True)
            time.sleep(seconds)
        live.update(show(status), refresh=True)
    return status


def console() -> Console:
    """A terminal as wide as it is; lines that nothing folds where there is none."""
    found = Console(highlight=False, soft_wrap=True)
    return found if found.is_terminal else Console(highlight=False, soft_wrap=True, width=200)
