"""A study's record: opening its folder, and rebuilding the record from the cells."""

import json
import os
import re
import secrets
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from envs.errors import InputError
from experiments.config import sources
from experiments.config.cells import Cell
from experiments.results import layout, leases, study_folder
from experiments.results.cell_file import cell_path, read_cell, set_file_aside
from experiments.results.disk import warn, write_atomically
from experiments.results.layout import (
    CELLS,
    CHECKPOINTS,
    CHECKSUM,
    DAMAGED,
    JOBS,
    NOT_IDENTITY,
    PLAN,
    RECORD,
    DamagedError,
    checksum,
    flat,
    read_plan,
)
from experiments.results.leases import LEASES, Leases
from experiments.results.rebuild import rebuilt
from experiments.results.study_folder import recorded, recorded_cells

_FOLDERS = (CELLS, f"{CELLS}/{DAMAGED}", LEASES, CHECKPOINTS, "figures", JOBS)  # that a study may make


_FILES = ("results.parquet", "results.csv", "report.html", "tables.md", "tables.tex")  # that it cannot do without


_PROBE = 4096  # bytes written to see whether a folder can be written


TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}-\d+-\d+)\.[^.]+")


def tidy(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed, where that is possible."""
    places = (folder, *(folder / name for name in _FOLDERS))  # wherever ``check_writable`` leaves a probe, too
    for path in (path for place in places for path in place.glob(".*")):
        found = TEMPORARY.fullmatch(path.name)
        if found and leases.is_gone(found[1]):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def check_places(folder: Path) -> None:
    """InputError where a file stands in the way of a folder that results need, or a folder in that of a file."""
    for name in _FOLDERS:
        if os.path.lexists(folder / name) and not (folder / name).is_dir():
            raise InputError(
                f"out: {folder / name} is no folder, and one is needed there; move it, or give another folder"
            )
    for name in _FILES:
        if (folder / name).is_dir():
            raise InputError(f"out: {folder / name} is a folder, and a file is written there; move it")


def check_writable(folder: Path) -> None:
    """Make the folder of the cells and see that results can be written: a little is written, and forced to the disk.

    To be called before anything is simulated. InputError where that fails.
    """
    check_places(folder)
    there = [folder / name for name in _FOLDERS if (folder / name).is_dir()]
    for place in dict.fromkeys([folder, folder / CELLS, *there]):
        probe = place / f".probe.{leases.process()}.{secrets.token_hex(4)}"
        try:
            write_atomically(probe, bytes(_PROBE))
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(place, error) from error


def unwritable(folder: Path, error: OSError) -> InputError:
    """The error of a folder that cannot be written."""
    return InputError(f"out: {folder} cannot be written ({error.strerror or error}); give another folder with out=DIR")


def open_folder(folder: Path, record: Mapping[str, Any], *, extend: bool = False) -> None:
    """Make the results folder, or check that it belongs to this very study, or add this study to it with ``extend``.

    ``record`` is {"config": resolved configuration, "versions": ..., "cells": its cells' ids, with spaces between,
    "code": what they depend on, in words -> its digest}. What a folder records is the newest study in this form, and
    under "earlier" a list of those before it. The code of the study that was opened last counts: cells that were made
    by other code leave the "cells" of their studies, and "superseded" tells of what they are an earlier version (in
    words -> ids). A record that is damaged or missing is made again from the stored cells; the damaged one is set
    aside, and one line says so. InputError where the folder holds another study's results, or files that are no
    study's.
    """
    if is_open(folder, record, extend=extend):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with Leases(folder) as mine, mine.exclusively("config"):
            known, trouble = _known(folder, record)  # another process may have been quicker
            (folder / CELLS).mkdir(exist_ok=True)
            wanted = (
                record if known is None else _superseding(_with_study(known, record, folder, extend), record, folder)
            )
            if trouble:
                _mend(folder, wanted, trouble)
            elif wanted != known:
                write_atomically(folder / RECORD, layout.record_text(wanted))
    except OSError as error:
        raise unwritable(folder, error) from error


def is_open(folder: Path, record: Mapping[str, Any], *, extend: bool = False) -> bool:
    """Whether the folder records this very study already. InputError where ``open_folder`` would refuse it."""
    if folder.is_dir():
        check_places(folder)
    known, trouble = _known(folder, record)
    if known is not None:
        return _with_study(known, record, folder, extend) == known and trouble is None
    if folder.exists() and (not folder.is_dir() or not all(map(_is_ours, folder.iterdir()))):
        raise InputError(f"out: {folder} is not empty and holds no study; give another folder with out=DIR")
    return False


def mend_record(folder: Path) -> None:
    """Make a damaged or missing record again from the stored cells, where it can be written; one line says so."""
    record, trouble = study_folder.find_record(folder)
    if trouble is not None:
        try:
            _mend(folder, record, trouble)
        except OSError as error:
            warn(f"{trouble}; it could not be written again ({error.strerror or error})")


def _mend(folder: Path, record: Mapping[str, Any], trouble: str) -> None:
    aside = set_file_aside(folder / RECORD, folder) if os.path.lexists(folder / RECORD) else None
    write_atomically(folder / RECORD, layout.record_text(record))
    warn(f"{trouble}; it was written again" + (f", and the damaged one is now {aside}" if aside else ""))


def _known(folder: Path, record: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str | None]:
    """What the folder records, None for nothing, and a sentence where that is not what ``config.yaml`` says.

    A folder whose record cannot be rebuilt is this study's where it has stored or planned one of its cells: their ids
    are hashes of all that they depend on.
    """
    try:
        known, wrong = layout.whole_record(folder), "is missing"
        if known is not None:
            return known, None
    except DamagedError as error:
        wrong = f"is damaged ({error})"
    mine = layout.stored(folder) | layout.read_plan(folder).keys()
    known = rebuilt(folder) or (dict(record) if mine & set(record.get("cells", "").split()) else None)
    if known is not None:
        return known, f"{folder / RECORD} {wrong}; what it recorded is taken from the stored cells"
    if wrong != "is missing":
        raise InputError(
            f"out: {folder / RECORD} {wrong}, and no stored cell tells more; give another folder with out=DIR"
        )
    return None, None


def _is_ours(path: Path) -> bool:
    """What may be there of a study whose record was not, a moment ago: it was killed, or begins beside us."""
    return path.name in (CELLS, LEASES, RECORD, JOBS) or TEMPORARY.fullmatch(path.name) is not None


def _with_study(known: Mapping[str, Any], record: Mapping[str, Any], folder: Path, extend: bool) -> Mapping[str, Any]:
    """A folder's record with this study in it."""
    studies = _studies(known)
    for place, study in enumerate(studies):
        if not _differences(study["config"], record["config"]):
            # The same configuration may mean other cells, where a file that it names has changed.
            if study.get("cells") != record.get("cells"):
                studies[place] = {
                    **study,
                    **{key: record[key] for key in ("versions", "cells", "code") if key in record},
                }
            break
    else:
        if not extend:
            differing = "; ".join(_differences(known["config"], record["config"]))
            raise InputError(
                f"out: {folder} holds another study's results ({differing}); add to them with extend=true, "
                "or give another folder with out=DIR"
            )
        studies.append(dict(record))
    return {**studies[-1], "earlier": studies[:-1]} if len(studies) > 1 else studies[-1]


def _studies(known: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """All studies of a record, the oldest first."""
    return [*known.get("earlier", []), {key: value for key, value in known.items() if key != "earlier"}]


def _superseding(known: Mapping[str, Any], record: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """A folder's record without the stored cells that other code has made than that of the study ``record``."""
    code, mine = record.get("code", {}), set(record.get("cells", "").split())
    left: dict[str, list[str]] = {}
    for cell in sorted(layout.stored(folder) - mine) if code else ():
        if differing := _differing(folder, cell, code):
            left.setdefault(" and ".join(differing), []).append(cell)
    gone = {cell for cells in left.values() for cell in cells}

    def without(study: Mapping[str, Any]) -> dict[str, Any]:
        found = {key: value for key, value in study.items() if key != "superseded"}
        if "cells" in found:
            found["cells"] = " ".join(cell for cell in found["cells"].split() if cell not in gone)
        return found

    earlier = {"earlier": [without(study) for study in known["earlier"]]} if "earlier" in known else {}
    superseded = {what: " ".join(cells) for what, cells in left.items()}
    return without(known) | earlier | ({"superseded": superseded} if left else {})


def _differing(folder: Path, cell: str, code: Mapping[str, str]) -> list[str]:
    """In words, what a stored cell was made by in another version than ``code`` has."""
    try:
        found = read_cell(cell_path(folder, cell)).info.sources
    except (OSError, ValueError):  # it is set aside when it is needed
        return []
    made_by = sources.components(found) if found else {sources.PROGRAM: ""}
    return [what for what, digest in made_by.items() if code.get(what, digest) != digest]


def study_of(folder: Path, cells: Iterable[str]) -> bytes:
    """What each of a study's cells stores of it: its configuration, versions, and place among the folder's studies.

    The study is the one whose cells these are. Compressed JSON; empty where the folder records no such study.
    """
    wanted = set(cells)
    for place, study in enumerate(_studies(recorded(folder) or {})):
        if set(study.get("cells", "").split()) == wanted:
            about = {"config": study["config"], "versions": study.get("versions", {}), "place": place}
            about |= {"code": study["code"]} if "code" in study else {}
            return zlib.compress(json.dumps(about, default=str).encode())
    return b""


def _differences(known: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Human sentences about the keys that differ, "there ... here ..."."""
    left, right = flat(known), flat(wanted)
    return [
        f"{key} is {left.get(key)!r} there and {right.get(key)!r} here"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and key.split(".")[0] not in NOT_IDENTITY
    ]


def write_plan(folder: Path, planned: Sequence[Cell], seeds: int) -> None:
    """Say which cells the study has, in its order; what an earlier study of the folder planned stays, in front.

    A full disk costs the plan, which only those who look need, and not the study.
    """
    before = read_plan(folder)
    mine = {cell.id: _planned(cell, seeds, before.get(cell.id, {}).get("swept", {})) for cell in planned}
    known = before | mine
    plan = {cell: known[cell] for cell in recorded_cells(folder) if cell in known} | mine
    entries = [{"cell": cell} | entry for cell, entry in plan.items()]
    lines = ",\n".join(json.dumps(entry, ensure_ascii=False) for entry in [*entries, {CHECKSUM: checksum(entries)}])
    content = f"[\n{lines}\n]\n".encode()
    with suppress(OSError):
        write_atomically(folder / PLAN, content)


def _planned(cell: Cell, seeds: int, swept_before: Mapping[str, Any]) -> dict[str, Any]:
    config = cell.config
    swept = {**swept_before, **config.swept}
    return {"policy": config.policy.name, "horizon": config.horizon, "seeds": seeds, "swept": swept}
