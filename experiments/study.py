"""Running a study: groups, chunks, results as they come, and what is made of them at the end."""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, Protocol

import jax
import numpy as np

from experiments import batch, carry, cells, interrupt, measure, store
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


_CPU_ROWS, _ACCELERATOR_ROWS = 2048, 65536  # runs of a chunk, for each device
_COPIES = 32  # of a run's state that a chunk may need at once; 5 (uniform) to 20 (stageroute) were measured


def run(study: StudyConfig, planned: list[Cell], folder: Path, log: EventLog, progress: Progress) -> Outcome:
    """Simulate what is missing in ``folder`` and read the rest; every cell is stored as soon as it is done."""
    finished = {cell.id: result for cell in planned if (result := _stored(folder, cell.id, log)) is not None}
    missing = [cell for cell in planned if cell.id not in finished]
    grouped = cells.groups(missing)
    decisions = sum(cell.config.horizon for cell in missing) * study.seeds
    progress.begin(len(finished), len(planned), decisions)
    log.write("study", name=study.name, cells=len(planned), done=len(finished), groups=len(grouped))
    began = perf_counter()
    runner = _Runner(study, folder, log, progress)
    # A program runs on one CPU core, and so does its compilation: several side by side use them all.
    workers = ThreadPoolExecutor(cores())
    try:
        failures = list(workers.map(runner.run_or_fail, grouped))
    except KeyboardInterrupt:
        for pool in (workers, runner.simulators):
            pool.shutdown(wait=False, cancel_futures=True)
        try:
            interrupt.settle()
        finally:  # also when a second signal comes
            runner.writing.acquire()  # never given back: a write under way is finished, no other one is begun
        raise
    workers.shutdown()
    runner.simulators.shutdown()
    failed = {cell: error for failure in failures for cell, error in failure.items()}
    found = {cell.id: finished.get(cell.id) or _stored(folder, cell.id, log) for cell in planned}
    results = [result for result in found.values() if result is not None]
    return Outcome(
        cells=results,
        failed=failed,
        compilations=runner.compilations,
        compile_seconds=runner.compile_seconds,
        run_seconds=perf_counter() - began,
        decisions=decisions,
    )


def cores() -> int:
    """How many programs run side by side: one a core where a core is all that a program uses, else one."""
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shape(study: StudyConfig, group: list[Cell]) -> tuple[int, int]:
    """(cells, seeds) of a chunk: one shape for a whole group, so that it compiles once.

    It depends on the study and the device alone, so that a study that is gone on with has the same chunks. Every device
    gets the same number of seeds.
    """
    rows = study.chunk_rows or _rows(group) * jax.local_device_count()
    seeds = _evenly(min(study.seeds, rows))
    widest = max(len(same) for same in _by_clock(group))
    return max(1, min(widest, rows // seeds)), seeds


def _rows(group: list[Cell]) -> int:
    """How many runs at once suit a device: what a core's cache holds, or what fills an accelerator and fits in it."""
    if jax.default_backend() == "cpu":
        return _CPU_ROWS
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if not memory:
        return _ACCELERATOR_ROWS
    fitting = max(1, memory // (_COPIES * batch.bytes_a_run(*cells.stack(group[:1]))))
    return min(_ACCELERATOR_ROWS, 1 << (fitting.bit_length() - 1))  # a power of two


def _by_clock(group: list[Cell]) -> list[list[Cell]]:
    """Cells that can be simulated side by side, shortest horizon first."""
    found: dict[Any, list[Cell]] = {}
    for cell in sorted(group, key=lambda cell: cell.config.horizon):
        key = tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(cell.clock))
        found.setdefault(key, []).append(cell)
    return list(found.values())


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


def _stored(folder: Path, cell: str, log: EventLog) -> CellResult | None:
    """A cell's results if they are there and whole; a damaged file is logged and will be written anew."""
    path = store.cell_path(folder, cell)
    if not path.is_file():
        return None
    try:
        return store.read_cell(path)
    except ValueError as error:
        log.write("damaged", cell=cell, error=str(error))
        return None


class _Runner:
    """Simulates groups; what several threads share is kept here, and every group stores its cells as they are done."""

    def __init__(self, study: StudyConfig, folder: Path, log: EventLog, progress: Progress) -> None:
        self.study, self.folder, self.log, self.progress = study, folder, log, progress
        self.benchmarks: dict[Any, Any] = {}
        self.compilations, self.compile_seconds = 0, 0.0
        self.lock, self.writing = Lock(), Lock()
        self.simulators = ThreadPoolExecutor(cores())

    def run_or_fail(self, group: list[Cell]) -> dict[str, str]:
        """Cell id -> error. One group's error costs that group's unfinished cells and nothing else."""
        try:
            self.run(group)
            return {}
        except Exception as error:
            lost = [cell for cell in group if _stored(self.folder, cell.id, self.log) is None]
            text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
            name = group[0].config.policy.name
            self.log.write("failed", cells=[cell.id for cell in lost], policy=name, error=text)
            self.progress.note(f"{name}: {text}")
            return {cell.id: text for cell in lost}

    def run(self, group: list[Cell]) -> None:
        """Compile one static group and simulate it, horizon by horizon."""
        name = group[0].config.policy.name
        wide, deep = _shape(self.study, group)
        self.progress.note(f"{name}: compiling")
        program = self._compile(group, wide, deep)
        self.progress.note(f"{name}: {len(group)} cells")
        # The longest first, so that no core is left with one at the end; what is done is stored as soon as it is.
        blocks = [chunks for same in _by_clock(group) for chunks in _chunks(self.study, same, wide, deep)][::-1]
        parts = [[self.simulators.submit(self._simulate, program, chunk, wide) for chunk in block] for block in blocks]
        owner = {part: number for number, mine in enumerate(parts) for part in mine}
        missing = [len(mine) for mine in parts]
        try:
            for part in as_completed(list(owner)):
                part.result()  # raises what it raised
                number = owner.pop(part)
                missing[number] -= 1
                if not missing[number]:
                    self._store_block(blocks[number], [done.result() for done in parts[number]])
                    parts[number] = []  # what is stored is not kept
        finally:
            for part in owner:
                part.cancel()

    def _compile(self, group: list[Cell], wide: int, deep: int) -> "_Programs":
        """The group's programs, the one for this shape compiled if memory allows; smaller ones follow when needed."""
        programs = _Programs(lambda wide, deep: self._compiled(group, wide, deep))
        try:
            programs.compiled(wide, deep)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not _out_of_memory(error):
                raise
        interrupt.check()
        return programs

    def _compiled(self, group: list[Cell], wide: int, deep: int) -> Program:
        worlds, learners = cells.stack(_padded(group, wide))
        keys = batch.run_keys(self.study.root_seed, np.zeros(wide, np.uint32), np.arange(deep))
        program = batch.compile_program(worlds, learners, keys)
        with self.lock:
            self.compilations += 1
            self.compile_seconds += program.compile_seconds
        name, seconds = group[0].config.policy.name, round(program.compile_seconds, 3)
        self.log.write("compiled", policy=name, seconds=seconds, cells=len(group))
        return program

    def _store_block(self, chunks: list[_Chunk], parts: list[tuple[Snapshot, float]]) -> None:
        """Store each cell of a block, all seeds simulated."""
        marks = self._marks(chunks[0])
        joined = _join([seen for seen, _ in parts])
        wall = sum(seconds for _, seconds in parts) / len(chunks[0].cells)
        for number, cell in enumerate(chunks[0].cells):
            mine = jax.tree.map(lambda leaf, number=number: leaf[:, number], joined)
            seeds = np.arange(self.study.seeds)
            with self.lock:
                result = measure.cell_result(cell, mine, marks, seeds, wall, self.benchmarks)
            with self.writing:
                store.write_cell(self.folder, result)
                self.log.write("cell", **_announcement(result))
            self.progress.cell_done()
        carry.discard(self.folder, [cell.id for cell in chunks[0].cells])

    def _marks(self, chunk: _Chunk) -> np.ndarray:
        return batch.checkpoints(chunk.cells[0].config.horizon, self.study.checkpoints, self.study.checkpoint_spacing)

    def _simulate(self, programs: "_Programs", chunk: _Chunk, wide: int) -> tuple[Snapshot, float]:
        """(snapshots [E, cells, seeds, ...] of a chunk, seconds it took).

        Padding seeds are cut off; beliefs weigh by this chunk's runs.
        """
        with interrupt.stoppable():
            began = perf_counter()
            folder = carry.block_folder(self.folder, [cell.id for cell in chunk.cells])
            return self._fitted(programs, chunk, wide, folder), perf_counter() - began

    def _fitted(self, programs: "_Programs", chunk: _Chunk, wide: int, folder: Path) -> Snapshot:
        """The snapshots of a chunk, which is simulated in halves where it does not fit in memory."""
        rows = wide * len(chunk.seeds)
        if rows <= programs.most_rows:
            try:
                return self._played(programs.compiled(wide, len(chunk.seeds)), chunk, wide, folder)
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            # The failed attempt's arrays are given back only now that its error is forgotten.
            if programs.reduce(rows):
                name = chunk.cells[0].config.policy.name
                self.log.write("chunk_halved", policy=name, rows=rows)
                self.progress.note(f"{name}: {rows} runs at once do not fit in memory; going on with half as many")
        if len(chunk.seeds) > jax.local_device_count():
            deep = _evenly(math.ceil(len(chunk.seeds) / 2))
            return _join([self._fitted(programs, half, wide, folder) for half in _seeds_halved(chunk, deep)])
        if wide > 1:
            halves = [replace(chunk, cells=some) for some in _split(chunk.cells, math.ceil(wide / 2))]
            return _beside([self._fitted(programs, half, math.ceil(wide / 2), folder) for half in halves])
        raise MemoryError("not even one run fits in the device's memory")

    def _played(self, program: Program, chunk: _Chunk, wide: int, folder: Path) -> Snapshot:
        marks, padded = self._marks(chunk), _padded(chunk.cells, wide)
        worlds, learners = cells.stack(padded)
        streams = np.array([cell.stream for cell in padded], np.uint32)
        keys = batch.run_keys(self.study.root_seed, streams, chunk.seeds)
        real = np.arange(len(chunk.seeds)) < chunk.real_seeds
        weights = np.where(real, 1.0 / self.study.seeds, 0.0)
        per_round = len(chunk.cells) * chunk.real_seeds
        clock, keeper = padded[0].clock, self._keeper(chunk, [cell.id for cell in padded], folder)
        seen = batch.simulate(
            *(program, worlds, learners, keys, weights, clock, marks),
            progress=lambda rounds: self.progress.played(rounds * per_round),
            keeper=keeper,
        )
        books = {name: value for name, value in vars(seen).items() if name not in batch.BELIEFS}
        kept = jax.tree.map(lambda leaf: leaf[:, :, : chunk.real_seeds], books)
        return replace(seen, **kept)

    def _keeper(self, chunk: _Chunk, padded: list[str], folder: Path) -> carry.Keeper:
        name = chunk.cells[0].config.policy.name

        def tell(event: str, **fields: Any) -> None:
            self.log.write(event, policy=name, cells=[cell.id for cell in chunk.cells], **fields)
            if "error" in fields:
                self.progress.note(f"{name}: {event.replace('_', ' ')}: {fields.get('carry', '')} {fields['error']}")

        whole = carry.block_folder(self.folder, [cell.id for cell in chunk.cells]) == folder
        part = not whole or chunk.real_seeds < self.study.seeds
        identity = carry.identity(padded, chunk.seeds)
        return carry.Keeper(folder, identity, self.study.checkpoint_minutes, part=part, tell=tell)


class _Programs:
    """The programs of a group, one a batch shape, each compiled when it is first needed; shared by threads."""

    def __init__(self, compile_shape: Callable[[int, int], Program]) -> None:
        self.compile_shape = compile_shape
        self.known: dict[tuple[int, int], Program] = {}
        self.most_rows: float = math.inf  # that are known to fit in memory, or not known not to
        self.lock = Lock()

    def compiled(self, wide: int, deep: int) -> Program:
        """The program for so many cells and seeds."""
        with self.lock:
            if (wide, deep) not in self.known:
                self.known[wide, deep] = self.compile_shape(wide, deep)
            return self.known[wide, deep]

    def reduce(self, rows: int) -> bool:
        """Note that so many rows do not fit; False if another thread was quicker."""
        with self.lock:
            smaller = rows <= self.most_rows
            self.most_rows = min(self.most_rows, rows - 1)
            return smaller


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)


def _evenly(seeds: int) -> int:
    """At least so many seeds, the same number for each device."""
    devices = jax.local_device_count()
    return devices * math.ceil(seeds / devices)


def _seeds_halved(chunk: _Chunk, deep: int) -> list[_Chunk]:
    """Chunks of ``deep`` seeds with all of a chunk's real ones."""
    first = int(chunk.seeds[0])
    lows = range(0, chunk.real_seeds, deep)
    return [
        replace(chunk, seeds=np.arange(first + low, first + low + deep), real_seeds=min(deep, chunk.real_seeds - low))
        for low in lows
    ]


def _split(some: list[Cell], wide: int) -> list[list[Cell]]:
    return [some[low : low + wide] for low in range(0, len(some), wide)]


def _beside(parts: list[Snapshot]) -> Snapshot:
    """Chunks of cells side by side, [E, cells, ...]."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *parts)


def _join(parts: list[Snapshot]) -> Snapshot:
    """Chunks of seeds side by side: books are concatenated, beliefs (already weighted) added."""
    if len(parts) == 1:
        return parts[0]
    joined: dict[str, Any] = {}
    for name in vars(parts[0]):
        values = [getattr(part, name) for part in parts]
        if name in batch.BELIEFS:
            joined[name] = np.sum(values, axis=0)
        else:
            joined[name] = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *values)
    return Snapshot(**joined)


def _announcement(result: CellResult) -> dict[str, Any]:
    """The line about a finished cell in ``events.jsonl``."""
    keys = ("cell", "policy", "horizon", "budget_per_task", "target", "num_models", "swept", "wall_s")
    final = {
        f"{name}_mean": float(result.final(name).mean()) for name in ("reward", "regret", "violation", "overspend")
    }
    return {key: result.description[key] for key in keys} | final
