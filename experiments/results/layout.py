"""The files of a study's folder, each by itself: names, checksums, and what is read without NumPy."""

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import yaml

from envs.errors import InputError

RECORD = "config.yaml"


PLAN = "plan.json"


OVERWRITE = "overwrite.json"  # what a run with force=true has still to replace


JOBS = "jobs"  # what launchers write about their jobs


EVENTS = "events.jsonl"


CHECKPOINTS = "checkpoints"  # of cells that are not finished


PART = "part-"  # how the files of finished chunks of seeds begin, among the checkpoints


# Where results go and how they are computed, not what they are.
NOT_IDENTITY = (*("out", "tracker", "chunk_rows", "force", "extend", "shard", "checkpoint_minutes", "program_cache"),)


VERSION_ID, DIGEST = 16, 64  # hex digits of a cell's checksum, its file's last ones (experiments.results.study_record)


_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


CHECKSUM = "sha256"  # the name of a checksum of everything else in a file


_CHECKSUM_LINE = re.compile(rb"# sha256 of all lines below: ([0-9a-f]{64})\n")


_LARGEST = 1 << 28  # bytes of a file that is read whole


class DamagedError(Exception):
    """A file is not what was written; the text says how, and follows "it is damaged: "."""


def study_digest(config: Mapping[str, Any]) -> str:
    """Eight hex digits of what a study is: its resolved configuration without output folder and tracker."""
    identity = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]


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
    checksum_given = _CHECKSUM_LINE.match(content)
    if checksum_given and hashlib.sha256(content[checksum_given.end() :]).hexdigest().encode() != checksum_given[1]:
        raise DamagedError("its checksum is wrong")
    loader = _LOADER if checksum_given else yaml.SafeLoader  # libyaml itself crashes on deep nesting
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


def checksum(value: Any) -> str:
    """A checksum of plain values, whatever the spaces and the order of keys in the file that holds them."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def read_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """Cell id -> policy, horizon, seeds and swept values, in the order of the study; empty where there is no plan."""
    try:
        return whole_plan(folder)
    except (OSError, DamagedError):
        return {}


def whole_plan(folder: Path) -> dict[str, dict[str, Any]]:
    """What ``plan.json`` says; DamagedError or OSError where that cannot be used."""
    entries = read_json(folder / PLAN)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DamagedError("it is no plan")
    checksum_given = entries.pop()[CHECKSUM] if entries and CHECKSUM in entries[-1] else None
    if checksum_given not in (None, checksum(entries)):
        raise DamagedError("its checksum is wrong")
    if not all(map(_is_planned, entries)):
        raise DamagedError("it is no plan")
    return {entry.pop("cell"): entry for entry in entries}


def _is_planned(entry: dict[str, Any]) -> bool:
    kinds = {"cell": str, "policy": str, "horizon": int, "seeds": int, "swept": dict}
    return all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def stored(folder: Path) -> set[str]:
    """The ids of the cells whose results are there."""
    return {path.stem for path in cell_files(folder)}


def read_overwrite(folder: Path) -> dict[str, str | None]:
    """Cell id -> the version_id of what is to be replaced, None where nothing was there; empty where nothing is.

    Raises:
        DamagedError: the note was changed since it was written.
        OSError: it cannot be read.
    """
    try:
        noted = read_json(folder / OVERWRITE)
    except FileNotFoundError:
        return {}
    if not isinstance(noted, dict) or not all(value is None or isinstance(value, str) for value in noted.values()):
        raise DamagedError("it is no note of cells to replace")
    checksum_given = noted.pop(CHECKSUM, None)
    if checksum_given not in (None, checksum(noted)):
        raise DamagedError("its checksum is wrong")
    return noted


def overwrite_text(noted: Mapping[str, str | None]) -> bytes:
    """What ``read_overwrite`` reads."""
    return json.dumps({**noted, CHECKSUM: checksum(dict(noted))}, indent=0).encode()


def version_id(path: Path) -> str | None:
    """What tells one writing of a cell's file from the next; None where there is no file."""
    try:
        with path.open("rb") as stream:
            stream.seek(-VERSION_ID - DIGEST, os.SEEK_END)
            return stream.read(VERSION_ID).decode("ascii", "replace")
    except FileNotFoundError:
        return None
    except OSError:  # shorter than a checksum, or no file
        return ""


def cell_files(folder: Path) -> list[Path]:
    """The files of the stored cells."""
    return [path for path in (folder / "cells").glob("*.npz") if not path.name.startswith(".")]


def leased(folder: Path) -> dict[str, set[str]]:
    """Cell id -> the processes, host:pid, that have leased it or some of its seeds, dead or alive."""
    newest: dict[str, tuple[int, Path]] = {}
    for path in (folder / "leases").glob("*.*"):
        name, _, generation = path.name.rpartition(".")
        if generation.isascii() and generation.isdigit() and int(generation) >= newest.get(name, (0, path))[0]:
            newest[name] = int(generation), path
    owners: dict[str, set[str]] = {}
    for _, path in newest.values():
        with suppress(OSError, DamagedError, KeyError, TypeError):  # given back, or not yet whole
            lease = read_json(path)
            for cell in lease["cells"]:
                owners.setdefault(cell, set()).add(f"{lease['host']}:{lease['pid']}")
    return owners


def simulated(folder: Path) -> list[tuple[set[str], int]]:
    """(cells, decisions) of every chunk of seeds that is kept until its cells are finished."""
    found = []
    for path in (folder / CHECKPOINTS).glob(f"*/{PART}*.json"):
        if path.parent.name == DAMAGED:
            continue
        with suppress(OSError, DamagedError, KeyError, TypeError, ValueError):  # merged meanwhile, or damaged
            manifest = read_json(path)
            found.append((set(manifest["identity"]["cells"]), int(manifest["decisions"])))
    return found


def in_order(cells: set[str], plan: Mapping[str, Any]) -> list[str]:
    """Cells in the order of the plan; what no plan knows comes last, by id."""
    return [cell for cell in plan if cell in cells] + sorted(cells - plan.keys())


CELLS = "cells"


DAMAGED = "damaged"  # below cells and checkpoints: files that were found damaged


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as one of dotted keys."""
    if not isinstance(value, dict) or not value:
        return {prefix.rstrip("."): value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}{key}.").items()}
