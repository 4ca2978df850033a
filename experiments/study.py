"""Running a study: groups, chunks, results as they come, and what is made of them at the end."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import jax
import numpy as np

from experiments import batch, cells, measure, store
from experiments.batch import Program
from experiments.cells import Cell
from experiments.config import StudyConfig
from experiments.rollout import Snapshot
from experiments.store import CellResult
from experiments.trackers import EventLog


class Progress(Protocol):
    """What a display of a running study is told."""

    def begin(self, cells_done: int, cells_total: int, decisions: int) -> None: ...

    def note(self, text: str) -> None: ...

    def played(self, decisions: int) -> None: ...

    def cell_done(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What running a study gave."""

    cells: list[CellResult]  # in the order of the study; failed ones are missing
    failed: dict[str, str]  # cell id -> error
    compilations: int
    compile_seconds: float
    run_seconds: float
    decisions: int


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """A block of cells and seeds that is simulated in one go; padding repeats and does not count."""

    cells: list[Cell]
    seeds: np.ndarray  # [S] padded
    real_seeds: int


def run(study: StudyConfig, planned: list[Cell], folder: Path, log: EventLog, progress: Progress) -> Outcome:
    """Simulate what is missing in ``folder`` and read the rest; every cell is stored as soon as it is done."""
    finished = {cell.id for cell in planned if store.cell_path(folder, cell.id).is_file()}
    missing = [cell for cell in planned if cell.id not in finished]
    grouped = cells.groups(missing)
    decisions = sum(cell.config.horizon for cell in missing) * study.seeds
    progress.begin(len(finished), len(planned), decisions)
    log.write("study", name=study.name, cells=len(planned), done=len(finished), groups=len(grouped))
    failed: dict[str, str] = {}
    benchmarks: dict[Any, Any] = {}
    compile_seconds, compilations, began = 0.0, 0, perf_counter()
    with ThreadPoolExecutor(1) as compiler:
        waiting = [(group, compiler.submit(_compile, study, group)) for group in grouped]
        for group, future in waiting:
            try:
                compile_seconds += _run_group(study, group, future, folder, log, progress, benchmarks)
                compilations += 1
            except Exception as error:
                failed |= _failure(group, error, folder, log, progress)
    results = [store.read_cell(store.cell_path(folder, cell.id)) for cell in planned if cell.id not in failed]
    return Outcome(
        cells=results,
        failed=failed,
        compilations=compilations,
        compile_seconds=compile_seconds,
        run_seconds=perf_counter() - began,
        decisions=decisions,
    )


def _failure(group: list[Cell], error: Exception, folder: Path, log: EventLog, progress: Progress) -> dict[str, str]:
    """One group's error costs that group's unfinished cells and nothing else."""
    lost = [cell for cell in group if not store.cell_path(folder, cell.id).is_file()]
    text = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    log.write("failed", cells=[cell.id for cell in lost], policy=group[0].config.policy.name, error=text)
    progress.note(f"{group[0].config.policy.name}: {text}")
    return {cell.id: text for cell in lost}


def _shape(study: StudyConfig, group: list[Cell]) -> tuple[int, int]:
    """(cells, seeds) of a chunk: one shape for a whole group, so that it compiles once."""
    seeds = min(study.seeds, study.chunk_rows)
    widest = max(len(same) for same in _by_horizon(group).values())
    return max(1, min(widest, study.chunk_rows // seeds)), seeds


def _by_horizon(group: list[Cell]) -> dict[int, list[Cell]]:
    found: dict[int, list[Cell]] = {}
    for cell in group:
        found.setdefault(cell.config.horizon, []).append(cell)
    return found


def _compile(study: StudyConfig, group: list[Cell]) -> Program:
    wide, deep = _shape(study, group)
    worlds, learners = cells.stack(_padded(group, wide))
    streams = np.zeros(wide, np.uint32)
    return batch.compile_program(worlds, learners, batch.run_keys(study.root_seed, streams, np.arange(deep)))


def _padded(some: list[Cell], number: int) -> list[Cell]:
    return (some + [some[0]] * number)[:number]


def _chunks(study: StudyConfig, same_horizon: list[Cell], wide: int, deep: int) -> Iterator[list[_Chunk]]:
    """For each block of cells, the blocks of seeds it is run with."""
    for first in range(0, len(same_horizon), wide):
        block = same_horizon[first : first + wide]
        chunks = []
        for low in range(0, study.seeds, deep):
            seeds = np.arange(low, low + deep)
            chunks.append(_Chunk(cells=block, seeds=seeds, real_seeds=min(deep, study.seeds - low)))
        yield chunks


def _run_group(
    study: StudyConfig,
    group: list[Cell],
    future: "Future[Program]",
    folder: Path,
    log: EventLog,
    progress: Progress,
    benchmarks: dict[Any, Any],
) -> float:
    """Simulate one static group, horizon by horizon; returns its compile seconds."""
    name = group[0].config.policy.name
    progress.note(f"{name}: compiling")
    program = future.result()
    log.write("compiled", policy=name, seconds=round(program.compile_seconds, 3), cells=len(group))
    wide, deep = _shape(study, group)
    for horizon, same in sorted(_by_horizon(group).items()):
        progress.note(f"{name}: {horizon:,} rounds")
        marks = batch.checkpoints(horizon, study.checkpoints)
        for chunks in _chunks(study, same, wide, deep):
            began = perf_counter()
            parts = [_simulate(study, program, chunk, wide, marks, progress.played) for chunk in chunks]
            joined = _join(parts)
            wall = (perf_counter() - began) / len(chunks[0].cells)
            for number, cell in enumerate(chunks[0].cells):
                mine = jax.tree.map(lambda leaf, number=number: leaf[:, number], joined)
                result = measure.cell_result(cell, mine, marks, np.arange(study.seeds), wall, benchmarks)
                store.write_cell(folder, result)
                log.write("cell", **_announcement(result))
                progress.cell_done()
    return program.compile_seconds


def _simulate(
    study: StudyConfig, program: Program, chunk: _Chunk, wide: int, marks: np.ndarray, played: Callable[[int], None]
) -> Snapshot:
    """Snapshots [E, cells, seeds, ...] of a chunk, padding seeds cut off; beliefs weigh by this chunk's share of runs."""
    padded = _padded(chunk.cells, wide)
    worlds, learners = cells.stack(padded)
    streams = np.array([cell.stream for cell in padded], np.uint32)
    keys = batch.run_keys(study.root_seed, streams, chunk.seeds)
    weights = np.where(np.arange(len(chunk.seeds)) < chunk.real_seeds, 1.0 / study.seeds, 0.0)
    per_round = len(chunk.cells) * chunk.real_seeds
    seen = batch.simulate(program, worlds, learners, keys, weights, marks, lambda rounds: played(rounds * per_round))
    cut = {name: jax.tree.map(lambda leaf: leaf[:, :, : chunk.real_seeds], value) for name, value in vars(seen).items()}
    return replace(seen, **{name: cut[name] for name in cut if name not in _BELIEFS})


_BELIEFS = ("lower", "upper", "covered")


def _join(parts: list[Snapshot]) -> Snapshot:
    """Chunks of seeds side by side: books are concatenated, beliefs (already weighted) added."""
    if len(parts) == 1:
        return parts[0]
    joined = {}
    for name in vars(parts[0]):
        values = [getattr(part, name) for part in parts]
        if name in _BELIEFS:
            joined[name] = np.sum(values, axis=0)
        else:
            joined[name] = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *values)
    return Snapshot(**joined)


def _announcement(result: CellResult) -> dict[str, Any]:
    """The line about a finished cell in ``events.jsonl``."""
    keys = ("cell", "policy", "horizon", "budget_per_task", "target", "num_models", "swept", "wall_s")
    final = {f"{name}_mean": float(result.final(name).mean()) for name in ("reward", "regret", "violation", "overspend")}
    return {key: result.description[key] for key in keys} | final
