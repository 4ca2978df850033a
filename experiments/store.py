"""Results on disk: one atomic file a cell, and the tables made from them.

A cell's file is written once, whole, under a temporary name that ``os.replace`` makes final: it is there or it is not.
The file is a NumPy archive whose comment is a seal: a stamp, drawn anew at every writing, and a SHA-256 of all before.
"""

import errno
import hashlib
import io
import json
import os
import re
import secrets
import sys
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.errors import InputError
from experiments import claims, interrupt, sources, study_folder
from experiments.claims import CLAIMS, Claims
from experiments.study_folder import DIGEST, JOBS, NOT_IDENTITY, RECORD, REDO, STAMP, DamagedError, study_digest

if TYPE_CHECKING:
    import pyarrow as pa

CELLS = "cells"
DAMAGED = "damaged"  # below the cells: files that were found damaged
_FOLDERS = (CELLS, f"{CELLS}/{DAMAGED}", CLAIMS, "carries", "figures", JOBS)  # that a study may make
_FILES = ("results.parquet", "results.csv", "report.html", "tables.md", "tables.tex")  # that it cannot do without
_PROBE = 4096  # bytes written to see whether a folder can be written


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell: a policy in a world at one horizon, over R runs.

    ``description`` holds plain values only (str, int, float, bool, None): at least ``cell`` (id), ``policy``,
    ``deployment``, ``env``, ``demand``, ``forecaster``, ``num_models``, ``horizon``, ``budget`` (USD in total or None),
    ``budget_per_task`` (USD or None), ``target`` (latency target or None), ``clairvoyant`` (bool),
    ``benchmark_feasible`` (bool), ``wall_s`` and ``swept`` (this cell's values of the swept parameters: axis -> value);
    and what the cell was made of, in groups: ``parameters`` (every value given or default, under "routing",
    "deployment", "confidence", "forecaster", "demand", "env", and beside them "root_seed" and what else the whole study
    shares), ``sources`` (see ``experiments.sources``: digests, and the text of a user's files) and ``versions``.
    ``metrics`` names the last axis of ``curves``: reward, reward_expected, benchmark, regret (expected),
    regret_realised, violation (largest over metrics), violation_worst, overspend (largest share of a budget spent
    beyond it, counted in whole quanta: 0.0 means exactly none), declined (all tasks not served), refused (those of
    them that a hard budget refused), invalid (rounds whose decision was not finite or comes from a linear program
    that was left undecided), clipped (rounds whose shares were negative, above the caps or more than 1 in sum, and
    so were cut), served, demand, forecast_total, forecast_error (|forecast total - realised total| / realised
    total), pace (largest over resources of spent / (budget per task x demand so far)), spent_<resource>,
    violation_<metric>, service_<metric> (tasks that met the target), dual_<resource or metric>. Money is in USD.
    Where the inventory is fixed, also benchmark_serving_all (no task may be declined; NaN where the budget does not
    allow that) and benchmark_unconstrained (the best models by quality). All sums are cumulative up to the
    checkpoint's round.

    Where what is live can change, also regret_waiting, regret_deployment and regret_routing (see
    ``experiments.deployment_books``; they sum to regret), benchmark_fluid (the best plan for the whole run, blind to
    max_deployed, where ``benchmark`` is the best deployment at every instant), activations and evictions (models
    switched on and off) and deployment_gap (largest proven gap of the deployment program); and in ``extras``: arrival
    and retirement [M] (rounds; 2^31 - 1 for never), live [E, M] (share of runs in which the model is live),
    oracle_share [E, M] (share of all demand so far that the benchmark gives the model), first_live [R, M] (round) and
    first_best [R, M] (first round of the first stage in which the model served the most tasks), both -1 for never.
    """

    description: dict[str, Any]
    seeds: np.ndarray  # [R] int
    checkpoints: np.ndarray  # [E] int, rounds completed; the last one is the horizon
    metrics: tuple[str, ...]  # K names
    curves: np.ndarray  # [R, E, K] float64
    models: tuple[str, ...]  # M names
    estimates: tuple[str, ...]  # names of the quantities learned: reward, then the resources, then the covering metrics
    share: np.ndarray  # [E, M] share of all demand so far that each model served, mean over runs
    lower: np.ndarray  # [E, M, 1+P+C] confidence bounds, mean over runs, in each quantity's own unit (USD, [0, 1])
    upper: np.ndarray  # [E, M, 1+P+C]
    coverage: np.ndarray  # [E, M, 1+P+C] share of runs whose interval holds the true mean
    truth: np.ndarray  # [M, 1+P+C] true means
    benchmark_share: np.ndarray  # [M] the benchmark's mix, mean over runs
    extras: dict[str, np.ndarray] = field(default_factory=dict)  # further named arrays
    study: bytes = b""  # ``study_of``: whose cell it is, from which a folder's record can be rebuilt; empty if unknown

    def curve(self, metric: str) -> np.ndarray:
        """[R, E] of one metric; KeyError names the metrics there are."""
        if metric not in self.metrics:
            raise KeyError(f"no metric {metric!r}; this cell holds {', '.join(self.metrics)}")
        return self.curves[:, :, self.metrics.index(metric)]

    def final(self, metric: str) -> np.ndarray:
        """[R] of one metric at the horizon."""
        return self.curve(metric)[:, -1]


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that a loss of power does not undo it either.

    A file that holds this already is left as it is, so that a folder that lacks nothing need not be writable. The
    file's folder is made again where it vanished. Permissions follow the process's umask.
    """
    if _holds(path, content):
        return
    temporary = path.parent / f".{path.name}.{claims.process()}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(_created(temporary), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.is_file() and path.read_bytes() == content
    except OSError:
        return False


def _created(path: Path) -> int:
    """A handle of a new file, its folder made where there is none."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def write_informing(path: Path, content: bytes) -> None:
    """``write_atomically`` for a file that only informs: a folder in its place costs the file and no more."""
    try:
        write_atomically(path, content)
    except IsADirectoryError:
        warn(f"{path} is a folder, where a file should be; going on without that file")


def warn(text: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        print(f"warning: {text}", file=sys.stderr)


def _sync_folder(folder: Path) -> None:
    """Make a file's new name last, where the file system knows how."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


_TEMPORARY = re.compile(r"\..+\.([0-9a-f]{8}-\d+-\d+)\.[^.]+")


def tidy(folder: Path) -> None:
    """Remove the unfinished files of processes that were killed, where that is possible."""
    places = (folder, *(folder / name for name in _FOLDERS))  # wherever ``check_writable`` leaves a probe, too
    for path in (path for place in places for path in place.glob(".*")):
        found = _TEMPORARY.fullmatch(path.name)
        if found and claims.is_gone(found[1]):
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
        probe = place / f".probe.{claims.process()}.{secrets.token_hex(4)}"
        try:
            write_atomically(probe, bytes(_PROBE))
            probe.unlink(missing_ok=True)
        except OSError as error:
            raise _unwritable(place, error) from error


def _unwritable(folder: Path, error: OSError) -> InputError:
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
        with Claims(folder) as mine, mine.exclusively("config"):
            known, trouble = _known(folder, record)  # another process may have been quicker
            (folder / CELLS).mkdir(exist_ok=True)
            wanted = (
                record if known is None else _superseding(_with_study(known, record, folder, extend), record, folder)
            )
            if trouble:
                _mend(folder, wanted, trouble)
            elif wanted != known:
                write_atomically(folder / RECORD, study_folder.record_text(wanted))
    except OSError as error:
        raise _unwritable(folder, error) from error


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
    aside = _set_aside(folder / RECORD, folder) if os.path.lexists(folder / RECORD) else None
    write_atomically(folder / RECORD, study_folder.record_text(record))
    warn(f"{trouble}; it was written again" + (f", and the damaged one is now {aside}" if aside else ""))


def _known(folder: Path, record: Mapping[str, Any]) -> tuple[Mapping[str, Any] | None, str | None]:
    """What the folder records, None for nothing, and a sentence where that is not what ``config.yaml`` says.

    A folder whose record cannot be rebuilt is this study's where it has stored or planned one of its cells: their ids
    are hashes of all that they depend on.
    """
    try:
        known, wrong = study_folder.whole_record(folder), "is missing"
        if known is not None:
            return known, None
    except DamagedError as error:
        wrong = f"is damaged ({error})"
    mine = study_folder.stored(folder) | study_folder.read_plan(folder).keys()
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
    return path.name in (CELLS, CLAIMS, RECORD, JOBS) or _TEMPORARY.fullmatch(path.name) is not None


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
    for cell in sorted(study_folder.stored(folder) - mine) if code else ():
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
        found = read_cell(cell_path(folder, cell)).description.get("sources")
    except (OSError, ValueError):  # it is set aside when it is needed
        return []
    made_by = sources.components(found) if found else {sources.PROGRAM: ""}
    return [what for what, digest in made_by.items() if code.get(what, digest) != digest]


def recorded_cells(folder: Path) -> list[str]:
    """The ids of all cells of all studies that a folder records, the oldest study first."""
    return study_folder.current(_recorded(folder) or {})


def study_of(folder: Path, cells: Iterable[str]) -> bytes:
    """What each of a study's cells stores of it: its configuration, versions, and place among the folder's studies.

    The study is the one whose cells these are. Compressed JSON; empty where the folder records no such study.
    """
    wanted = set(cells)
    for place, study in enumerate(_studies(_recorded(folder) or {})):
        if set(study.get("cells", "").split()) == wanted:
            about = {"config": study["config"], "versions": study.get("versions", {}), "place": place}
            about |= {"code": study["code"]} if "code" in study else {}
            return zlib.compress(json.dumps(about, default=str).encode())
    return b""


def rebuilt(folder: Path) -> dict[str, Any] | None:
    """A folder's record as its stored cells tell it; None where none of them does.

    Cells that are planned and not stored are taken for the newest study's; those that other code has computed than the
    newest of their study are left out.
    """
    plan = study_folder.read_plan(folder)
    studies: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in interrupt.looking(study_folder.in_order(study_folder.stored(folder), plan)):
        path = cell_path(folder, cell)
        if (about := _told_study(path)) is not None:
            key = study_digest(about["config"]), json.dumps(about.get("code"), sort_keys=True)
            study = studies.setdefault(key, about | {"cells": [], "written": 0.0})
            study["cells"].append(cell)
            study["written"] = max(study["written"], path.stat().st_mtime)
    if not studies:
        return None
    # Of one study that different code has computed, the newest counts.
    newest = {digest: study for (digest, _), study in sorted(studies.items(), key=lambda item: item[1]["written"])}
    ordered = sorted(newest.values(), key=lambda study: study["place"])
    told = {cell for study in studies.values() for cell in study["cells"]}
    ordered[-1]["cells"] = study_folder.in_order({*ordered[-1]["cells"], *(plan.keys() - told)}, plan)
    kept = ("config", "versions", "cells", "code")
    records = [
        {key: study[key] for key in kept if key in study} | {"cells": " ".join(study["cells"])} for study in ordered
    ]
    return records[-1] | ({"earlier": records[:-1]} if len(records) > 1 else {})


def _told_study(path: Path) -> dict[str, Any] | None:
    """What a cell's file tells of its study; None where it is damaged, or was written before cells told it."""
    try:
        with np.load(io.BytesIO(_unsealed(path.read_bytes())), allow_pickle=False) as data:
            return dict(json.loads(zlib.decompress(data["study"].tobytes())))
    except (OSError, *_UNREADABLE):
        return None


def _recorded(folder: Path) -> dict[str, Any] | None:
    """What a folder records of its studies, rebuilt where need be; None where it holds none."""
    try:
        return study_folder.find_record(folder)[0]
    except InputError:
        return None


def _differences(known: dict[str, Any], wanted: dict[str, Any]) -> list[str]:
    """Human sentences about the keys that differ, "there ... here ..."."""
    left, right = _flat(known), _flat(wanted)
    return [
        f"{key} is {left.get(key)!r} there and {right.get(key)!r} here"
        for key in sorted(left.keys() | right.keys())
        if left.get(key) != right.get(key) and key.split(".")[0] not in NOT_IDENTITY
    ]


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {prefix.rstrip("."): value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}{key}.").items()}


def cell_path(folder: Path, cell: str) -> Path:
    """Where a cell's results lie."""
    return folder / CELLS / f"{cell}.npz"


def write_cell(folder: Path, result: CellResult) -> None:
    """One cell's file, atomically."""
    others = ("description", "extras", "study")
    arrays = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in others}
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    arrays |= {f"extra_{name}": value for name, value in result.extras.items()}
    arrays |= {"study": np.frombuffer(result.study, np.uint8)}
    buffer = io.BytesIO()
    np.savez(buffer, description=np.array(json.dumps(result.description)), **arrays)
    write_atomically(cell_path(folder, result.description["cell"]), _sealed(buffer.getvalue()))


_UNREADABLE = (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def read_cell(path: Path) -> CellResult:
    """A cell's results; ValueError names the file where it is damaged, OSError where it cannot be read."""
    try:
        return _parse_cell(_unsealed(path.read_bytes()))
    except IsADirectoryError as error:
        raise ValueError(f"{path} is damaged (it is a folder)") from error
    except _UNREADABLE as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def stamp(folder: Path, cell: str) -> str | None:
    """What tells one writing of a cell's file from the next; None where there is no file."""
    return study_folder.stamp(cell_path(folder, cell))


def set_aside(folder: Path, cell: str) -> Path | None:
    """Move a cell's damaged file to where it is out of the way; None where it is no longer there."""
    return _set_aside(cell_path(folder, cell), folder / CELLS / DAMAGED)


def _set_aside(path: Path, folder: Path) -> Path | None:
    """Move what is damaged into a folder under a name that is free; None where it is no longer there.

    It is called ``<name>-<number>``, or ``<name>-damaged-<number>`` where it stays in its folder.
    """
    folder.mkdir(exist_ok=True)
    name = f"{path.stem}-{DAMAGED}" if folder == path.parent else path.stem
    number = 1
    while os.path.lexists(to := folder / f"{name}-{number}{path.suffix}"):
        number += 1
    try:
        os.replace(path, to)
    except FileNotFoundError:
        return None  # another process was quicker
    return to


def begin_redo(folder: Path, cells: Iterable[str], mine: Claims) -> bool:
    """Note which writing of each cell is to be replaced, unless that is noted already: a redo begun is gone on with.

    Whether something new was noted.
    """
    try:
        with mine.exclusively("redo"):
            known = redo(folder)
            noted = {cell: stamp(folder, cell) for cell in cells if cell not in known} | known
            if noted != known:
                write_atomically(folder / REDO, study_folder.redo_text(noted))
            return noted != known
    except OSError as error:
        raise _unwritable(folder, error) from error


def redo(folder: Path) -> dict[str, str | None]:
    """Cell id -> the stamp of what is to be replaced, None where nothing was there.

    InputError where the note is damaged: it decides which results are old, and nobody else knows.
    """
    try:
        return study_folder.read_redo(folder)
    except (DamagedError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        path = folder / REDO
        raise InputError(f"out: {path} is damaged ({why}); delete it, and give force=true to begin anew") from error


def end_redo(folder: Path) -> None:
    """Forget a redo that is complete."""
    noted = redo(folder)
    if noted and all(stamp(folder, cell) not in (None, old) for cell, old in noted.items()):
        (folder / REDO).unlink(missing_ok=True)


def _sealed(archive: bytes) -> bytes:
    """An archive with its seal as the comment, whose length is an archive's last two bytes."""
    body = archive[:-2] + (STAMP + DIGEST).to_bytes(2, "little") + secrets.token_hex(STAMP // 2).encode()
    return body + hashlib.sha256(body).hexdigest().encode()


def _unsealed(content: bytes) -> bytes:
    """The same bytes; ValueError where they are not those that were sealed."""
    if hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != content[-DIGEST:]:
        raise ValueError("its checksum is wrong")
    return content


def _parse_cell(content: bytes) -> CellResult:
    with np.load(io.BytesIO(content), allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    extras = {name.removeprefix("extra_"): arrays.pop(name) for name in list(arrays) if name.startswith("extra_")}
    description = json.loads(str(arrays.pop("description")))
    study = arrays.pop("study").tobytes() if "study" in arrays else b""
    words: dict[str, Any] = {key: tuple(str(w) for w in arrays.pop(key)) for key in ("metrics", "models", "estimates")}
    return CellResult(description=description, extras=extras, study=study, **words, **arrays)


_DESCRIBED = (
    *("cell", "policy", "routing", "deployment", "env", "demand", "forecaster", "num_models", "horizon"),
    *("budget", "budget_per_task", "target", "benchmark_feasible"),
)
_NAMES = ("routing.name", "deployment.name", "forecaster.name", "demand.process")  # which the description has itself
_VOLATILE = ("versions.git_dirty",)  # of the moment, not of the results
_FORMULA = r"^[=+\-@\t\r]"  # the beginnings of text that spreadsheets run, or that hide such a beginning


def described(description: Mapping[str, Any]) -> dict[str, Any]:
    """What a cell is, flat: ``policy``, ``routing.eta``, ``env.target``, ``sources.routing.sha256`` and so on.

    A swept axis has its whole path as its name, so that no parameter of a rule is taken for something else. Lists
    become JSON. The text of sources is left out: it would stand in every row.
    """
    found = {name: description.get(name) for name in _DESCRIBED}
    groups = {**description.get("parameters", {}), "sources": description.get("sources", {})}
    made_of = _flat(groups | {"versions": description.get("versions", {})})
    skipped = (
        *_NAMES,
        *_VOLATILE,
        *(f"sources.{kind}.{key}" for kind in groups["sources"] for key in ("name", "text")),
    )
    found |= {name: value for name, value in made_of.items() if name not in (*found, *skipped) and value != {}}
    found |= {axis: value for axis, value in description["swept"].items() if axis not in found}
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in found.items()}


def write_results(folder: Path, cells: Sequence[CellResult]) -> None:
    """``results.parquet`` and ``results.csv``: one row per run, at its horizon.

    Columns whose values are of different kinds, such as numbers and words, hold text in both files. In the CSV file
    alone, text that a spreadsheet would run as a formula begins with an apostrophe (:data:`_FORMULA`).
    """
    import pyarrow as pa  # not before there are results: it takes a while, and a study begins without it
    import pyarrow.csv
    import pyarrow.parquet

    about = [described(cell.description) for cell in cells]
    names = list(dict.fromkeys(name for entry in about for name in entry))
    words = [name for name in names if _is_mixed([entry.get(name) for entry in about])]
    for entry in about:
        entry |= {name: _spelt(entry[name]) for name in words if entry.get(name) is not None}
    rows = zip(interrupt.looking(cells), about, strict=True)
    tables = [_table(cell, {name: entry.get(name) for name in names}) for cell, entry in rows]
    table = pa.concat_tables(tables, promote_options="permissive")
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink)
    write_atomically(folder / "results.parquet", sink.getvalue().to_pybytes())
    sink = pa.BufferOutputStream()
    pa.csv.write_csv(_without_formulas(table), sink)
    write_atomically(folder / "results.csv", sink.getvalue().to_pybytes())


def _is_mixed(values: Sequence[Any]) -> bool:
    """Whether a column holds words and numbers: two rules may call a choice and a number alike."""
    kinds = {type(value) for value in values if value is not None}
    return len({"number" if kind in (int, float) else kind for kind in kinds}) > 1


def _spelt(value: Any) -> str:
    """A value as text: words as they are, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _without_formulas(table: "pa.Table") -> "pa.Table":
    """A table whose texts begin with an apostrophe where they would begin like a formula; numbers stay as they are."""
    import pyarrow as pa
    import pyarrow.compute

    for place, column in enumerate(table.columns):
        if pa.types.is_string(column.type):
            safe = pa.compute.replace_substring_regex(column, _FORMULA, r"'\0")
            table = table.set_column(place, table.column_names[place], safe)
    return table


def _table(cell: CellResult, about: Mapping[str, Any]) -> "pa.Table":
    import pyarrow as pa

    runs = len(cell.seeds)
    columns: dict[str, Any] = {name: [value] * runs for name, value in about.items()}
    return pa.table(columns | {"seed": cell.seeds} | finals(cell))


def finals(cell: CellResult) -> dict[str, np.ndarray]:
    """[R] of every metric at the horizon, under the name of its column in the tables."""
    renamed = {"demand": "demand_total"}
    columns = {renamed.get(name, name): cell.final(name) for name in cell.metrics}
    return columns | {"spent": columns.get("spent_money", np.zeros(len(cell.seeds)))}


def write_summary(folder: Path, summary: dict[str, Any]) -> None:
    """``summary.json``."""
    text = json.dumps(summary, indent=2, ensure_ascii=False, allow_nan=False)
    write_informing(folder / "summary.json", text.encode())
