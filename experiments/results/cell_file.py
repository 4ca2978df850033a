"""One cell's results: in memory, and as a file with a checksum."""

import hashlib
import io
import json
import os
import secrets
import zipfile
import zlib
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from experiments.results import layout
from experiments.results.cell_info import CellInfo
from experiments.results.disk import write_atomically
from experiments.results.layout import CELLS, DAMAGED, DIGEST, VERSION_ID


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """One cell: a policy in a world at one horizon, over R runs.

    ``metrics`` names the last axis of ``curves``: the measured ones of :mod:`experiments.results.metrics`, which
    ``docs/results-format.md`` lists with their units. Money is in USD. All sums are cumulative up to the evaluation
    round.

    Where what is live can change, ``extras`` holds arrival and retirement [M] (rounds; 2^31 - 1 for never), live [E, M]
    (share of runs in which the model is live), oracle_share [E, M] (share of all demand so far that the benchmark gives
    the model), first_live [R, M] (round) and first_best [R, M] (first round of the first stage in which the model
    served the most tasks), both -1 for never.
    """

    info: CellInfo
    seeds: np.ndarray  # [R] int
    eval_rounds: np.ndarray  # [E] int, rounds completed; the last one is the horizon
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


def told_study(path: Path) -> dict[str, Any] | None:
    """What a cell's file tells of its study; None where it is damaged, or was written before cells told it."""
    try:
        with np.load(io.BytesIO(_verified(path.read_bytes())), allow_pickle=False) as data:
            return dict(json.loads(zlib.decompress(data["study"].tobytes())))
    except (OSError, *_UNREADABLE):
        return None


def cell_path(folder: Path, cell: str) -> Path:
    """Where a cell's results lie."""
    return folder / CELLS / f"{cell}.npz"


def write_cell(folder: Path, result: CellResult) -> None:
    """One cell's file, atomically."""
    others = ("info", "extras", "study")
    arrays = {f.name: getattr(result, f.name) for f in fields(result) if f.name not in others}
    arrays = {name: np.asarray(value) for name, value in arrays.items()}
    arrays |= {f"extra_{name}": value for name, value in result.extras.items()}
    arrays |= {"study": np.frombuffer(result.study, np.uint8)}
    buffer = io.BytesIO()
    np.savez(buffer, description=np.array(json.dumps(result.info.to_json())), **arrays)
    write_atomically(cell_path(folder, result.info.cell), _with_checksum(buffer.getvalue()))


_UNREADABLE = (EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile, zlib.error)


def read_cell(path: Path) -> CellResult:
    """A cell's results; ValueError names the file where it is damaged, OSError where it cannot be read."""
    try:
        return _parse_cell(_verified(path.read_bytes()))
    except IsADirectoryError as error:
        raise ValueError(f"{path} is damaged (it is a folder)") from error
    except _UNREADABLE as error:
        raise ValueError(f"{path} is damaged ({error})") from error


def version_id(folder: Path, cell: str) -> str | None:
    """What tells one writing of a cell's file from the next; None where there is no file."""
    return layout.version_id(cell_path(folder, cell))


def set_aside(folder: Path, cell: str) -> Path | None:
    """Move a cell's damaged file to where it is out of the way; None where it is no longer there."""
    return set_file_aside(cell_path(folder, cell), folder / CELLS / DAMAGED)


def set_file_aside(path: Path, folder: Path) -> Path | None:
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


def _with_checksum(archive: bytes) -> bytes:
    """An archive with its checksum as the comment, whose length is an archive's last two bytes."""
    body = archive[:-2] + (VERSION_ID + DIGEST).to_bytes(2, "little") + secrets.token_hex(VERSION_ID // 2).encode()
    return body + hashlib.sha256(body).hexdigest().encode()


def _verified(content: bytes) -> bytes:
    """The same bytes; ValueError where they are not those that the checksum was made of."""
    if hashlib.sha256(content[:-DIGEST]).hexdigest().encode() != content[-DIGEST:]:
        raise ValueError("its checksum is wrong")
    return content


def _parse_cell(content: bytes) -> CellResult:
    with np.load(io.BytesIO(content), allow_pickle=False) as data:
        arrays = {name: data[name] for name in data.files}
    extras = {name.removeprefix("extra_"): arrays.pop(name) for name in list(arrays) if name.startswith("extra_")}
    info = CellInfo.from_json(json.loads(str(arrays.pop("description"))))
    study = arrays.pop("study").tobytes() if "study" in arrays else b""
    if "checkpoints" in arrays:  # the name of the evaluation rounds up to format 5
        arrays["eval_rounds"] = arrays.pop("checkpoints")
    words: dict[str, Any] = {key: tuple(str(w) for w in arrays.pop(key)) for key in ("metrics", "models", "estimates")}
    return CellResult(info=info, extras=extras, study=study, **words, **arrays)
