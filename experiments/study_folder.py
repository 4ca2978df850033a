"""What a study's folder says about itself: its record, its plan, its events, and which cells are done.

For those who only look, also while others write. Neither JAX nor NumPy is imported here, so that looking is quick.
"""

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from envs.errors import InputError
from experiments import texts

if TYPE_CHECKING:
    from experiments.cells import Cell

RECORD = "config.yaml"
PLAN = "plan.json"
REDO = "redo.json"  # what a run with force=true has still to replace
JOBS = "jobs"  # what launchers write about their jobs
EVENTS = "events.jsonl"
# Where results go and how they are computed, not what they are.
NOT_IDENTITY = (
    *("out", "tracker", "chunk_rows", "force", "extend", "shard", "checkpoint_minutes", "distributed"),
    "program_cache",
)
STAMP, DIGEST = 16, 64  # hex digits of a cell's seal, its file's last ones (experiments.store)
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SEAL = "sha256"  # the name of a checksum of everything else in a file
_SEALED = re.compile(rb"# sha256 of all lines below: ([0-9a-f]{64})\n")
_LARGEST = 1 << 28  # bytes of a file that is read whole
_LONGEST = 1 << 20  # bytes of a line of events


class DamagedError(Exception):
    """A file is not what was written; the text says how, and follows "it is damaged: "."""


def study_digest(config: Mapping[str, Any]) -> str:
    """Eight hex digits of what a study is: its resolved configuration without output folder and tracker."""
    identity = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


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
    from experiments import store  # brings NumPy and Arrow with it

    if (rebuilt := store.rebuilt(folder)) is not None:
        return rebuilt, f"{path} {wrong}; what it recorded is taken from the stored cells"
    if wrong == "is missing":
        raise InputError(f"{folder} holds no study (no {RECORD}); give the results folder of a study")
    raise InputError(f"{path} {wrong}, and no stored cell says what it recorded; give the results folder of a study")


def whole_record(folder: Path) -> dict[str, Any] | None:
    """What ``config.yaml`` records; None where there is no such file.

    Raises:
        DamagedError: the file was changed since it was written, or is no study's record.
        InputError: the file cannot be read.
    """
    path = folder / RECORD
    try:
        content = _content(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); it should be a study's record") from error
    sealed = _SEALED.match(content)
    if sealed and hashlib.sha256(content[sealed.end() :]).hexdigest().encode() != sealed[1]:
        raise DamagedError("its checksum is wrong")
    loader = _LOADER if sealed else yaml.SafeLoader  # libyaml itself crashes on deep nesting
    try:
        record = yaml.load(content.decode("utf-8"), Loader=loader)
    except Exception as error:  # PyYAML raises errors of many kinds for text that is no YAML
        raise DamagedError("it is no YAML") from error
    if not _is_record(record):
        raise DamagedError("it is no study's record")
    return dict(record)


def record_text(record: Mapping[str, Any]) -> bytes:
    """A record as ``config.yaml`` holds it. The checksum comes first, so that a file that was cut is known as such."""
    body = yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True).encode()
    return b"# sha256 of all lines below: " + hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _is_record(value: Any) -> bool:
    """Whether it has a record's form; what is recorded of earlier studies has the same."""
    if not isinstance(value, dict) or not isinstance(value.get("config"), dict):
        return False
    kinds = {"versions": dict, "cells": str, "earlier": list}
    if not all(isinstance(value[key], kind) for key, kind in kinds.items() if key in value):
        return False
    return all(map(_is_record, value.get("earlier", ())))


def _content(path: Path) -> bytes:
    """A file's bytes. DamagedError for what is no file, or too large to be ours; OSError where it cannot be read."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise DamagedError("it is no file")
    if found.st_size > _LARGEST:
        raise DamagedError("it is too large")
    return path.read_bytes()


def read_json(path: Path) -> Any:
    """What a JSON file holds. DamagedError where it holds none; OSError where it cannot be read."""
    try:
        return json.loads(_content(path).decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError("it is no JSON") from error


def seal(value: Any) -> str:
    """A checksum of plain values, whatever the spaces and the order of keys in the file that holds them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


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
    entries = [{"cell": cell} | entry for cell, entry in plan.items()]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in [*entries, {_SEAL: seal(entries)}])
    content = f"[\n{lines}\n]\n".encode()
    with suppress(OSError):
        write_atomically(folder / PLAN, content)


def _planned(cell: "Cell", seeds: int, swept_before: Mapping[str, Any]) -> dict[str, Any]:
    config = cell.config
    swept = {**swept_before, **config.swept}
    return {"policy": config.policy.name, "horizon": config.horizon, "seeds": seeds, "swept": swept}


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """Cell id -> policy, horizon, seeds and swept values, in the order of the study; empty where there is no plan."""
    try:
        return _whole_plan(folder)
    except (OSError, DamagedError):
        return {}


def troubles(folder: Path) -> list[str]:
    """A sentence about each file that is there and cannot be used, of those that only say how far a study is."""
    found = []
    for name, read in ((PLAN, _whole_plan), (REDO, read_redo)):
        try:
            read(folder)
        except FileNotFoundError:
            continue
        except (OSError, DamagedError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            found.append(f"{folder / name} is damaged ({why}); going on without")
    return found


def _whole_plan(folder: Path) -> dict[str, dict[str, Any]]:
    entries = read_json(folder / PLAN)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DamagedError("it is no plan")
    sealed = entries.pop()[_SEAL] if entries and _SEAL in entries[-1] else None
    if sealed not in (None, seal(entries)):
        raise DamagedError("its checksum is wrong")
    if not all(map(_is_planned, entries)):
        raise DamagedError("it is no plan")
    return {entry.pop("cell"): entry for entry in entries}


def _is_planned(entry: dict[str, Any]) -> bool:
    kinds = {"cell": str, "policy": str, "horizon": int, "seeds": int, "swept": dict}
    return all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def stored(folder: Path) -> set[str]:
    """The ids of the cells whose results are there."""
    return {path.stem for path in _files(folder)}


def fresh(folder: Path) -> set[str]:
    """The ids of the cells whose results are there and are not to be replaced by a run with force=true."""
    try:
        old = read_redo(folder)
    except (OSError, DamagedError):
        return stored(folder)
    return {path.stem for path in _files(folder) if path.stem not in old or stamp(path) not in (None, old[path.stem])}


def read_redo(folder: Path) -> dict[str, str | None]:
    """Cell id -> the stamp of what is to be replaced, None where nothing was there; empty where nothing is.

    Raises:
        DamagedError: the note was changed since it was written.
        OSError: it cannot be read.
    """
    try:
        noted = read_json(folder / REDO)
    except FileNotFoundError:
        return {}
    if not isinstance(noted, dict) or not all(value is None or isinstance(value, str) for value in noted.values()):
        raise DamagedError("it is no note of cells to replace")
    sealed = noted.pop(_SEAL, None)
    if sealed not in (None, seal(noted)):
        raise DamagedError("its checksum is wrong")
    return noted


def redo_text(noted: Mapping[str, str | None]) -> bytes:
    """What ``read_redo`` reads."""
    return json.dumps({**noted, _SEAL: seal(dict(noted))}, indent=0).encode()


def stamp(path: Path) -> str | None:
    """What tells one writing of a cell's file from the next; None where there is no file."""
    try:
        with path.open("rb") as stream:
            stream.seek(-STAMP - DIGEST, os.SEEK_END)
            return stream.read(STAMP).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError:  # shorter than a seal, or no file
        return ""


def _files(folder: Path) -> list[Path]:
    return [path for path in (folder / "cells").glob("*.npz") if not path.name.startswith(".")]


def claimed(folder: Path) -> dict[str, str]:
    """Cell id -> the process, host:pid, that has claimed it, dead or alive."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in (folder / "claims").glob("*.*"):
        name, _, generation = path.name.rpartition(".")
        if generation.isascii() and generation.isdigit() and int(generation) >= newest.get(name, (0, path))[0]:
            newest[name] = int(generation), path
    owners: dict[str, str] = {}
    for _, path in newest.values():
        with suppress(OSError, DamagedError, KeyError, TypeError):  # given back, or not yet whole
            claim = read_json(path)
            owners |= dict.fromkeys(claim["cells"], f"{claim['host']}:{claim['pid']}")
    return owners


def in_order(cells: set[str], plan: Mapping[str, Any]) -> list[str]:
    """Cells in the order of the plan; what no plan knows comes last, by id."""
    return [cell for cell in plan if cell in cells] + sorted(cells - plan.keys())


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
