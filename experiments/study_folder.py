"""What a study's folder says about itself: its record, its plan, its events, and which cells are done.

For those who only look, also while others write. Neither JAX nor NumPy is imported here, so that looking is quick.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from envs.errors import InputError

if TYPE_CHECKING:
    from experiments.cells import Cell

PLAN = "plan.json"
JOBS = "jobs"  # what launchers write about their jobs
EVENTS = "events.jsonl"
STAMP, DIGEST = 16, 64  # hex digits of a cell's seal, its file's last ones (experiments.store)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_record(folder: Path) -> dict[str, Any]:
    """What ``config.yaml`` records: the resolved configuration under "config", versions under "versions".

    Raises:
        InputError: the folder holds no study.
    """
    path = folder / "config.yaml"
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; give the results folder of a study")
    try:
        record = yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)
    except FileNotFoundError:
        raise InputError(f"{folder} holds no study (no config.yaml); give the results folder of a study") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); it should be a study's record") from error
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise InputError(f"{path} is no study's record; give the results folder of a study")
    return record


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


def write_plan(folder: Path, planned: Sequence["Cell"], seeds: int) -> None:
    """Say which cells the study has, in its order; what an earlier study of the folder planned stays, in front.

    A full disk costs the plan, which only those who look need, and not the study.
    """
    from experiments.store import recorded_cells, write_atomically  # brings NumPy and Arrow with it

    before = read_plan(folder)
    mine = {cell.id: _planned(cell, seeds, before.get(cell.id, {}).get("swept", {})) for cell in planned}
    known = before | mine
    plan = {cell: known[cell] for cell in recorded_cells(folder) if cell in known} | mine
    lines = ",\n".join(json.dumps({"cell": cell} | entry, ensure_ascii=False) for cell, entry in plan.items())
    content = f"[\n{lines}\n]\n".encode()
    path = folder / PLAN
    with suppress(OSError):
        if not path.is_file() or path.read_bytes() != content:
            write_atomically(path, content)


def _planned(cell: "Cell", seeds: int, swept_before: Mapping[str, Any]) -> dict[str, Any]:
    config = cell.config
    swept = {**swept_before, **config.swept}
    return {"policy": config.policy.name, "horizon": config.horizon, "seeds": seeds, "swept": swept}


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """Cell id -> policy, horizon, seeds and swept values, in the order of the study; empty where there is no plan."""
    try:
        entries = json.loads((folder / PLAN).read_text(encoding="utf-8"))
        return {entry.pop("cell"): entry for entry in entries}
    except (OSError, ValueError, TypeError, AttributeError, KeyError):
        return {}


def stored(folder: Path) -> set[str]:
    """The ids of the cells whose results are there."""
    return {path.stem for path in _files(folder)}


def fresh(folder: Path) -> set[str]:
    """The ids of the cells whose results are there and are not to be replaced by a run with force=true."""
    try:
        old = dict(json.loads((folder / "redo.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return stored(folder)
    return {path.stem for path in _files(folder) if path.stem not in old or stamp(path) not in (None, old[path.stem])}


def stamp(path: Path) -> str | None:
    """What tells one writing of a cell's file from the next; None where there is no file."""
    try:
        with path.open("rb") as stream:
            stream.seek(-STAMP - DIGEST, os.SEEK_END)
            return stream.read(STAMP).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError:  # shorter than a seal
        return ""


def _files(folder: Path) -> list[Path]:
    return [path for path in (folder / "cells").glob("*.npz") if not path.name.startswith(".")]


def claimed(folder: Path) -> dict[str, str]:
    """Cell id -> the process, host:pid, that has claimed it, dead or alive."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in (folder / "claims").glob("*.*"):
        name, _, generation = path.name.rpartition(".")
        if generation.isdigit() and int(generation) >= newest.get(name, (0, path))[0]:
            newest[name] = int(generation), path
    owners: dict[str, str] = {}
    for _, path in newest.values():
        with suppress(OSError, ValueError, KeyError, TypeError):  # given back, or not yet whole
            claim = json.loads(path.read_text(encoding="utf-8"))
            owners |= dict.fromkeys(claim["cells"], f"{claim['host']}:{claim['pid']}")
    return owners


def in_order(cells: set[str], plan: Mapping[str, Any]) -> list[str]:
    """Cells in the order of the plan; what no plan knows comes last, by id."""
    return [cell for cell in plan if cell in cells] + sorted(cells - plan.keys())


def read_events(folder: Path) -> Iterator[dict[str, Any]]:
    """The lines of ``events.jsonl`` that are whole, in the order in which they were written."""
    try:
        stream = (folder / EVENTS).open(encoding="utf-8", errors="replace")
    except OSError:
        return
    with stream:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                continue  # torn by a full disk or a killed process, or not yet whole
            if isinstance(event, dict) and "event" in event:
                yield event
