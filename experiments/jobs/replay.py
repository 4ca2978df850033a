"""One run of a stored cell again: ``llm-bandits-replay DIR CELL --seed 17``.

The last bit of a result may depend on the run's place in its batch, so the whole item of cells and seeds is simulated
as the study did it, and the run is picked from it.
"""

import csv
import io
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from envs.errors import InputError, nearest
from experiments.config import cells, sources
from experiments.config.cells import Cell
from experiments.config.study import StudyConfig, study_from
from experiments.jobs import runner
from experiments.results import cell_file, layout, study_folder, tables
from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A run, made again."""

    cell: CellResult  # as stored
    seed: int
    final: dict[str, float]  # at the horizon, under the names of results.parquet
    curve: np.ndarray  # [E, K] at the cell's evaluation rounds, of the cell's metrics
    equal: bool  # whether every bit is as stored
    versions: dict[str, tuple[Any, Any]]  # what differs: name -> (there, here)

    def curve_csv(self) -> str:
        """The curve as CSV: rounds, then the metrics, with all their digits."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["rounds", *self.cell.metrics])
        for rounds, values in zip(self.cell.eval_rounds, self.curve, strict=True):
            writer.writerow([int(rounds), *(repr(float(value)) for value in values)])
        return stream.getvalue()


def replay(folder: Path, cell: str, seed: int) -> Replay:
    """Simulate one run of a cell again, from what the folder records.

    InputError where there is no such cell or seed, or where the code or a file that the cell was made by is another
    version here.
    """
    record = study_folder.read_record(folder)
    known = _stored(folder, cell)
    if seed not in known.seeds:
        raise InputError(f"cell {cell} has no seed {seed}; its seeds are {known.seeds.min()} to {known.seeds.max()}")
    with ExitStack() as kept:
        settings, planned = _study_of(record, known, folder, kept)
        again = runner.simulate_again(settings, planned, folder, cell)
    place = int(np.flatnonzero(known.seeds == seed)[0])
    curve, there = again.curves[place], known.curves[place]
    here, then = sources.versions(), known.info.versions
    return Replay(
        cell=known,
        seed=seed,
        final={name: float(values[place]) for name, values in tables.run_columns(again).items()},
        curve=curve,
        equal=again.metrics == known.metrics and curve.tobytes() == there.tobytes(),
        versions={name: (then.get(name), here[name]) for name in here if then.get(name) != here[name]},
    )


def _stored(folder: Path, cell: str) -> CellResult:
    there = layout.stored(folder)
    if cell not in there:
        hint = nearest(cell, sorted(there)[:10]) if there else "it holds no finished cell"
        raise InputError(f"{folder} holds no cell {cell!r}; {hint}")
    try:
        return cell_file.read_cell(cell_file.cell_path(folder, cell))
    except ValueError as error:
        raise InputError(f"{error}; the command that made the study makes it anew") from error


def _study_of(
    record: Mapping[str, Any], known: CellResult, folder: Path, kept: ExitStack
) -> tuple[StudyConfig, list[Cell]]:
    """The study of the folder that has this very cell, and all its cells."""
    studies = [record, *reversed(record.get("earlier", []))]
    cell = known.info.cell
    differing: list[str] = []
    for entry in sorted(studies, key=lambda entry: cell not in str(entry.get("cells", "")).split()):
        plain = entry["config"]
        jax.config.update("jax_enable_x64", plain.get("precision") == "float64")
        settings = study_from({**plain, "rules": _rules(plain.get("rules"), known, folder, kept)})
        planned = cells.build(settings)
        if any(candidate.id == cell for candidate in planned):
            return settings, planned
        differing = differing or _differing(known.info, planned)
    if differing:
        raise InputError(f"cell {cell} cannot be replayed: {'; '.join(differing)}")
    raise InputError(f"cell {cell} cannot be replayed: no configuration in {folder}/config.yaml gives it")


def _rules(paths: Any, known: CellResult, folder: Path, kept: ExitStack) -> Any:
    """A study's rule files; those that are gone from what the cells recorded of them."""
    if not isinstance(paths, list) or all(Path(str(path)).expanduser().is_file() for path in paths):
        return paths
    there = [path for path in paths if Path(str(path)).expanduser().is_file()]
    texts = dict.fromkeys(text for cell in (known, *_all(folder)) for text in _texts(cell))
    read = {Path(str(path)).expanduser().read_text(encoding="utf-8", errors="replace") for path in there}
    place = Path(kept.enter_context(tempfile.TemporaryDirectory()))
    for number, text in enumerate(text for text in texts if text not in read):
        (place / f"rules_{number}.py").write_bytes(text.encode())
        there.append(str(place / f"rules_{number}.py"))
    return there


def _all(folder: Path) -> list[CellResult]:
    found = []
    for cell in layout.in_order(study_folder.shown(folder), {}):
        try:
            found.append(cell_file.read_cell(cell_file.cell_path(folder, cell)))
        except ValueError:
            continue  # damaged: it tells nothing
    return found


def _texts(cell: CellResult) -> list[str]:
    return [source["text"] for source in cell.info.sources.values() if source.get("text")]


def _differing(about: CellInfo, planned: list[Cell]) -> list[str]:
    """What the planned cell in a stored one's place is made by in another version."""
    if not about.sources:
        return ["it was made by an earlier version of the program, which did not record what by"]
    was = sources.components(about.sources)
    for cell in planned:
        config = cell.config
        place = config.policy.name, config.horizon, config.world or config.catalogue
        if place != (about.policy, about.horizon, about.env):
            continue
        if all(config.swept.get(axis) == value for axis, value in about.swept.items()):
            here = sources.components(cell.sources)
            return [
                f"{what} is another version here ({here[what][:8]}, recorded {digest[:8]})"
                for what, digest in was.items()
                if here.get(what, digest) != digest
            ]
    return []
