"""What a study's folder says about itself: its record, its plan, its events, and which cells are done.

For those who only look, also while others write. Neither JAX nor NumPy is imported here, so that looking is quick.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from envs.errors import InputError
from experiments.config import texts
from experiments.results.layout import (
    EVENTS,
    OVERWRITE,
    PLAN,
    RECORD,
    DamagedError,
    cell_files,
    read_overwrite,
    stored,
    study_digest,
    version_id,
    whole_plan,
    whole_record,
)

_LONGEST = 1 << 20  # bytes of a line of events


def default(config: Mapping[str, Any]) -> Path:
    """The folder of a study that names none; ``config`` is as it was given, before it is validated."""
    given = texts.readable(config)
    return Path("results") / f"{texts.text(given['name'], 'name')}-{study_digest(given)}"


def read_record(folder: Path) -> dict[str, Any]:
    """The record of ``find_record``."""
    return find_record(folder)[0]


def find_record(folder: Path) -> tuple[dict[str, Any], str | None]:
    """(record, trouble): the resolved configuration under "config", versions under "versions".

    Where ``config.yaml`` is damaged or missing, the record comes from the stored cells and ``trouble`` is one sentence
    that says so; else that is None.

    Raises:
        InputError: the folder holds no study, or its record cannot be read or rebuilt.
    """
    path = folder / RECORD
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the results folder of a study")
    try:
        record, wrong = whole_record(folder), "is missing"
    except DamagedError as error:
        record, wrong = None, f"is damaged ({error})"
    if record is not None:
        return record, None
    from experiments.results import rebuild  # brings NumPy and Arrow with it

    if (rebuilt := rebuild.rebuilt(folder)) is not None:
        return rebuilt, f"{path} {wrong}; what it recorded is taken from the stored cells"
    if wrong == "is missing":
        raise InputError(f"{folder} holds no study (no {RECORD}); give the results folder of a study")
    raise InputError(f"{path} {wrong}, and no stored cell says what it recorded; give the results folder of a study")


def current(record: Mapping[str, Any]) -> list[str]:
    """The ids of the cells that a record's studies consist of, the oldest study first; none where it names none.

    What is stored besides has been computed by other code, or from other files: it is kept, and not shown.
    """
    studies = [*record.get("earlier", []), record]
    return list(dict.fromkeys(cell for study in studies for cell in str(study.get("cells", "")).split()))


def shown(folder: Path) -> set[str]:
    """The ids of the cells whose results are there and belong to what the folder records."""
    mine = current(read_record(folder))
    return stored(folder) & set(mine) if mine else stored(folder)


def summarised(folder: Path) -> set[str]:
    """The ids of the cells that ``summary.json`` tells of; none where it cannot be read."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        return {entry["cell"] for entry in summary["cells"]}
    except (OSError, ValueError, TypeError, KeyError):
        return set()


def kept(folder: Path, record: Mapping[str, Any]) -> list[str]:
    """A sentence for each kind of cells that are stored and not shown."""
    mine = set(current(record))
    if not mine:
        return []
    left, sentences = stored(folder) - mine, []
    for what, cells in record.get("superseded", {}).items():
        there = left & set(cells.split())
        left -= there
        if there:
            sentences.append(f"{_count(there)} of an earlier version of {what} {_are(there)} kept in cells/, not shown")
    if left:
        sentences.append(
            f"{_count(left)} that no study of this folder consists of {_are(left)} kept in cells/, not shown"
        )
    return sentences


def _count(cells: set[str]) -> str:
    return "1 cell" if len(cells) == 1 else f"{len(cells):,} cells"


def _are(cells: set[str]) -> str:
    return "is" if len(cells) == 1 else "are"


def troubles(folder: Path) -> list[str]:
    """A sentence about each file that is there and cannot be used, of those that only say how far a study is."""
    found = []
    for name, read in ((PLAN, whole_plan), (OVERWRITE, read_overwrite)):
        try:
            read(folder)
        except FileNotFoundError:
            continue
        except (OSError, DamagedError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            found.append(f"{folder / name} is damaged ({why}); going on without")
    return found


def fresh(folder: Path) -> set[str]:
    """The ids of the cells whose results are there and are not to be replaced by a run with force=true."""
    try:
        old = read_overwrite(folder)
    except (OSError, DamagedError):
        return stored(folder)
    return {
        path.stem
        for path in cell_files(folder)
        if path.stem not in old or version_id(path) not in (None, old[path.stem])
    }


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of ``events.jsonl`` that are whole and have an event's form, in the order in which they were written.

    What a full disk, a killed process or anybody else left there beside them is passed over.
    """
    path = folder / EVENTS
    try:
        if not path.is_file():  # a pipe would make us wait
            return
        with path.open("rb") as stream:
            while line := stream.readline(_LONGEST):
                if (event := _event(line)) is not None:
                    yield event
    except OSError:
        return


def _event(line: bytes) -> dict[str, Any] | None:
    if line.lstrip()[:1] != b"{":  # quickly past what is none, however much of it there is
        return None
    try:
        event = json.loads(line.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(event, dict) or not isinstance(event.get("event"), str):
        return None
    numbers = ("uptime_s", "decisions", "of") if event["event"] == "progress" else ("uptime_s",)
    if "process" in event and not (isinstance(event["process"], str) and all(_is_count(event.get(n)) for n in numbers)):
        return None
    if event["event"] == "failed":
        cells = event.get("cells")
        return event if isinstance(cells, list) and all(isinstance(cell, str) for cell in cells) else None
    return event


def _is_count(value: Any) -> bool:
    """Whether it can be reckoned with: a finite number, and none of those that only long integers can hold."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e18


def recorded_cells(folder: Path) -> list[str]:
    """The ids of all cells of all studies that a folder records, the oldest study first."""
    return current(recorded(folder) or {})


def recorded(folder: Path) -> dict[str, Any] | None:
    """What a folder records of its studies, rebuilt where need be; None where it holds none."""
    try:
        return find_record(folder)[0]
    except InputError:
        return None
