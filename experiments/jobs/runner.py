"""Running a study: groups, chunks, results as they come, and what is made of them at the end."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, Protocol

import jax
import numpy as np

from envs.errors import InputError
from experiments import interrupt
from experiments.config import cells, rule_errors
from experiments.config.cells import Cell
from experiments.config.study import StudyConfig
from experiments.engine import batch
from experiments.engine.batch import Program
from experiments.engine.rollout import Snapshot
from experiments.jobs import checkpoint, hosts, warning_log
from experiments.jobs.queue import Work, WorkItem
from experiments.jobs.warning_log import Log
from experiments.results import cell_file, measure, overwrite, study_folder, study_record
from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo
from experiments.results.events import EventLog
from experiments.results.leases import Leases


class Progress(Protocol):
    """What a display of a running study is told."""

    def begin(self, cells_done: int, cells_total: int, decisions: int) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def compiling(self, program: str) -> None: ...

    def compiled(self, program: str, how: str) -> None: ...

    def played(self, decisions: int) -> None: ...

    def cell_done(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What running a study gave."""

    cells: list[CellResult]  # of all studies of the folder, in their order; failed ones are missing
    failed: dict[str, str]  # cell id -> error
    left: int  # cells that other processes are still at work on; a shard does not wait for them
    compilations: int
    cached: int  # of these, read from the cache on disk
    compile_seconds: float
    run_seconds: float
    decisions: int  # simulated by this process


@dataclass(frozen=True, kw_only=True)
class _Chunk:
    """A item of cells and seeds that this process simulates in one go; padding repeats and does not count."""

    cells: list[Cell]
    seeds: np.ndarray  # [S] padded
    real_seeds: int


_CPU_ROWS, _ACCELERATOR_ROWS = 2048, 65536  # runs of a chunk, for each device
_COPIES = 32  # of a run's state that a chunk may need at once; 5 (uniform) to 20 (stageroute) were measured


def run(study: StudyConfig, planned: list[Cell], folder: Path, log: EventLog, progress: Progress) -> Outcome:
    """Simulate what is missing in ``folder`` and read the rest; every cell is stored as soon as it is done.

    Other processes may be at work in the same folder: each item of cells is simulated by one of them.
    """
    with Leases(folder) as leases:
        return _run(study, planned, folder, leases, log, progress)


def follow(study: StudyConfig, planned: list[Cell], folder: Path) -> None:
    """Simulate this process's seeds of what the first of several processes is at; see ``experiments.jobs.hosts``."""
    told = hosts.Told()
    runner = _Runner(study, _NoShelf(folder, told, told), Leases(folder), planned)
    runner.run(partial(hosts.follow, runner.followed, told))


def simulate_again(study: StudyConfig, planned: list[Cell], folder: Path, cell: str) -> CellResult:
    """What a study makes of one of its cells, whose whole item is simulated; nothing is read or stored."""
    silent = hosts.Told()
    alone = replace(study, checkpoint_minutes=None)
    runner = _Runner(alone, _NoShelf(folder, silent, silent), Leases(folder), planned)
    item = next(item for item in runner.items if cell in item.cells)
    try:
        joined = _join([seen for seen, _ in runner.followed(item.id)])
    finally:
        runner.simulators.shutdown()
    chunk, number = runner.chunks[item.id][0], item.cells.index(cell)
    mine = jax.tree.map(lambda leaf: leaf[:, number], joined)
    seeds = np.arange(study.seeds)
    return measure.cell_result(chunk.cells[number], mine, runner._marks(chunk), seeds, 0.0, {})


def run_in_memory(study: StudyConfig, planned: list[Cell], log: Log, progress: Progress) -> Outcome:
    """Simulate all cells of a study to the bits that ``run`` stores; nothing is read or written."""
    memory = _Memory(log, progress)
    runner = _Runner(replace(study, checkpoint_minutes=None), memory, _NoLeases(), planned)
    progress.begin(0, len(planned), runner.decisions_left())
    began = perf_counter()
    runner.run()
    results = [memory.results[cell.id] for cell in planned if memory.has(cell.id)]
    return runner.outcome(results, runner.failed, 0, perf_counter() - began)


def _run(
    study: StudyConfig, planned: list[Cell], folder: Path, leases: Leases, log: EventLog, progress: Progress
) -> Outcome:
    study_record.tidy(folder)
    shelf = _Shelf(folder, log, progress)
    shelf.about = study_record.study_of(folder, [cell.id for cell in planned])
    kept = {cell.id: result for cell in planned if (result := shelf.read(cell.id)) is not None}
    if study.force:
        begin_overwrite(planned, folder, leases)
    shelf.overwrite = overwrite.pending(folder)  # also without force: what was begun is gone on with
    old = len(kept)
    kept = {cell: result for cell, result in kept.items() if shelf.has(cell)}
    if len(kept) < old and not study.force and study.shard is None:
        progress.warn(
            f"a run with force=true was stopped here; going on with the {old - len(kept)} cells left to replace"
        )
    runner = _Runner(study, shelf, leases, planned)
    if runner.items:
        study_record.check_writable(folder)
    progress.begin(len(kept), len(planned), runner.decisions_left())
    counts = {"cells": len(planned), "done": len(kept), "groups": runner.groups_left()}
    log.write("study", name=study.name, shard=study.shard, **counts)
    began = perf_counter()
    runner.run()
    overwrite.end_overwrite(folder)
    leases.tidy()
    study_record.tidy(folder)  # again: others may have been killed since
    mine = [cell.id for cell in planned]
    recorded = study_folder.recorded_cells(folder)  # a process with other code may have taken the folder over
    whole = mine if set(recorded) <= set(mine) else recorded  # a record made again from the cells has lost their order
    # Looked at before the results are read: who stores one of these later looks later, and finds all of ours.
    left = {cell for cell in runner.work.left if not shelf.has(cell)}
    results = {cell: kept.get(cell) or shelf.read(cell) for cell in dict.fromkeys([*whole, *mine])}
    gone = [cell for cell in mine if not results[cell] and cell not in left]
    lost = dict.fromkeys(gone, "its file was lost or damaged; the same command makes it anew")
    there = [result for cell in whole if (result := results[cell]) is not None]
    failed = lost | {cell: error for cell, error in runner.failed.items() if not shelf.has(cell)}
    return runner.outcome(there, failed, len(left), perf_counter() - began)


def begin_overwrite(planned: list[Cell], folder: Path, leases: Leases) -> None:
    """Have all of these cells made anew, unless that was begun already. Saved checkpoints are forgotten."""
    if overwrite.begin_overwrite(folder, [cell.id for cell in planned], leases):
        checkpoint.discard_all(folder)


def cores() -> int:
    """How many programs run side by side: one a core where a core is all that a program uses, else one."""
    if jax.default_backend() != "cpu" or jax.local_device_count() > 1:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _shape(study: StudyConfig, group: list[Cell]) -> tuple[int, int]:
    """(cells, seeds) of a chunk: one shape for a whole group, so that it compiles once.

    It depends on the study and the device alone, so that a study that is gone on with has the same chunks. Every device
    gets the same number of seeds. On a CPU a chunk is no wider than one tile of ``experiments.engine.batch``, so that a
    study of fewer or more cells needs no other program than the one that is in the cache.
    """
    rows = study.chunk_rows or _rows(group) * jax.local_device_count()
    seeds = min(math.ceil(study.seeds / hosts.processes()), rows)
    widest = max(len(same) for same in _by_timeline(group))
    if study.chunk_rows is None:
        widest, _ = batch.tile_shape(widest, math.ceil(seeds / jax.local_device_count()))
    return _whole(max(1, min(widest, rows // seeds)), seeds)


def _rows(group: list[Cell]) -> int:
    """How many runs at once suit a device: what a core's cache holds, or what fills an accelerator and fits in it."""
    if jax.default_backend() == "cpu":
        return _CPU_ROWS
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    if not memory:
        return _ACCELERATOR_ROWS
    try:
        needed = batch.bytes_a_run(*cells.stack(group[:1]))
    except BaseException as error:  # of a user's rule, whose cells fail when its program is compiled
        if rule_errors.is_request_to_stop(error):
            raise
        return _ACCELERATOR_ROWS
    fitting = max(1, memory // (_COPIES * needed))
    return min(_ACCELERATOR_ROWS, 1 << (fitting.bit_length() - 1))  # a power of two


def _by_timeline(group: list[Cell]) -> list[list[Cell]]:
    """Cells that can be simulated side by side, shortest horizon first."""
    found: dict[Any, list[Cell]] = {}
    for cell in sorted(group, key=lambda cell: cell.config.horizon):
        key = tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(cell.timeline))
        found.setdefault(key, []).append(cell)
    return list(found.values())


def _padded(some: list[Cell], number: int) -> list[Cell]:
    return (some + [some[0]] * number)[:number]


def _chunks(study: StudyConfig, same_horizon: list[Cell], wide: int, deep: int) -> Iterator[list[_Chunk]]:
    """For each item of cells, the items of seeds it is run with: of each, this process's share."""
    together = deep * hosts.processes()
    for first in range(0, len(same_horizon), wide):
        item = same_horizon[first : first + wide]
        chunks = []
        for low in range(0, study.seeds, together):
            mine, number = hosts.share(low, min(together, study.seeds - low))
            chunks.append(_Chunk(cells=item, seeds=np.arange(mine, mine + deep), real_seeds=number))
        yield chunks


class _Shelf:
    """The stored cells of a folder, of which some may have to be made anew."""

    def __init__(self, folder: Path, log: Log, progress: Progress) -> None:
        self.folder, self.log, self.progress = folder, log, progress
        self.overwrite: dict[str, str | None] = {}  # cell -> the version_id of the file that is to be replaced
        self.about = b""  # what each cell stores of its study

    def has(self, cell: str) -> bool:
        """Whether it is stored, and not only what is to be replaced."""
        found = cell_file.version_id(self.folder, cell)
        return found is not None and found != self.overwrite.get(cell)

    def read(self, cell: str) -> CellResult | None:
        """A cell's results if they are there and whole; a damaged file is told of, set aside, and will be made anew."""
        interrupt.check()
        path = cell_file.cell_path(self.folder, cell)
        try:
            return cell_file.read_cell(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise InputError(f"out: {path} cannot be read ({error.strerror}); repair that, or remove it") from error
        except ValueError as error:
            aside = cell_file.set_aside(self.folder, cell)
            if aside is not None:
                self.log.write("damaged", cell=cell, error=str(error), moved=str(aside))
                self.progress.warn(f"{error}; it is now {aside.relative_to(self.folder)}, and the cell is made anew")
            return None

    def write(self, result: CellResult) -> None:
        """Store a cell's results; OSError where they cannot be written."""
        cell_file.write_cell(self.folder, result)

    def discard_checkpoints(self, cells: list[str]) -> None:
        """Remove the checkpoints of cells that were simulated side by side, which are stored."""
        checkpoint.discard(self.folder, cells)


class _Memory(_Shelf):
    """Results in memory alone."""

    def __init__(self, log: Log, progress: Progress) -> None:
        super().__init__(Path(), log, progress)
        self.results: dict[str, CellResult] = {}

    def has(self, cell: str) -> bool:
        """Whether it is done."""
        return cell in self.results

    def write(self, result: CellResult) -> None:
        """Keep a cell's results, with its info as a file holds it: lists in place of tuples."""
        info = CellInfo.from_json(json.loads(json.dumps(result.info.to_json())))
        self.results[info.cell] = replace(result, info=info)

    def discard_checkpoints(self, cells: list[str]) -> None:
        """Nothing was saved."""


class _NoLeases(Leases):
    """The leases of a process that shares its work with nobody."""

    def __init__(self) -> None:
        super().__init__(Path())

    def acquire(self, name: str, cells: Collection[str] = ()) -> bool:
        """Everything is ours."""
        return True

    def release(self, name: str) -> None:
        """Nobody waits for it."""

    def others(self) -> set[str]:
        """Nobody else leases anything."""
        return set()


class _NoShelf(_Shelf):
    """That of a process which follows another one: what is stored is not its business."""

    def has(self, cell: str) -> bool:
        """Never."""
        return False


class _Runner:
    """Simulates what is missing; what several threads share is kept here.

    What lies side by side in an item follows from the whole study and never from what happens to be missing, because
    the last bit of a result may depend on its place in a batch. A item with something missing is simulated whole.
    """

    def __init__(self, study: StudyConfig, shelf: _Shelf, leases: Leases, planned: list[Cell]) -> None:
        self.study, self.shelf = study, shelf
        self.folder, self.log, self.progress = shelf.folder, shelf.log, shelf.progress
        self.groups = cells.groups(planned)
        self.shapes = [_shape(study, group) for group in self.groups]
        self.chunks: dict[str, list[_Chunk]] = {}  # of each item that is to be simulated
        self.programs: dict[int, _Programs] = {}
        self.benchmarks: dict[Any, Any] = {}
        self.failed: dict[str, str] = {}  # cell id -> error
        self.clipping: set[str] = set()  # rules whose shares had to be cut, and which people know of
        self.compilations, self.cached, self.compile_seconds, self.decisions = 0, 0, 0.0, 0
        self.lock, self.preparing, self.writing = Lock(), Lock(), Lock()
        self.simulators = ThreadPoolExecutor(cores())
        # Shards that start together begin with different programs; from there on leases divide the items.
        first = (study.shard or 0) % len(self.groups)
        order = [*range(first, len(self.groups)), *range(first)]
        self.items = [item for number in order for item in self._items(number)]
        self.begun, self.programs_needed = 0, self.groups_left()
        leaves = study.shard is not None
        self.work = Work(self.items, leases, self._missing, self._found, self._waiting, leaves=leaves)

    def decisions_left(self) -> int:
        """How many decisions the missing items hold."""
        return sum(self._decisions(item) for item in self.items)

    def groups_left(self) -> int:
        """How many static groups have something missing."""
        return len({item.group for item in self.items})

    def outcome(self, results: list[CellResult], failed: dict[str, str], left: int, seconds: float) -> Outcome:
        """What running gave, with what this process has counted."""
        return Outcome(
            cells=results,
            failed=failed,
            left=left,
            compilations=self.compilations,
            cached=self.cached,
            compile_seconds=self.compile_seconds,
            run_seconds=seconds,
            decisions=self.decisions,
        )

    def run(self, work: Callable[[], None] | None = None) -> None:
        """Until nothing is left that this process could do; ``work`` in place of what a worker usually does."""
        # A program runs on one CPU core, and so does its compilation: several side by side use them all. One worker
        # more, so that a core has its next item while a worker stores its last one.
        # Of several processes, each plays one item at a time, the same.
        number = cores() + 1 if hosts.processes() == 1 else 1
        workers = ThreadPoolExecutor(number)
        try:
            for worker in [workers.submit(work or self._work) for _ in range(number)]:
                interrupt.awaited(worker)
        except KeyboardInterrupt:
            self.work.stop()
            for pool in (workers, self.simulators):
                pool.shutdown(wait=False, cancel_futures=True)
            try:
                interrupt.settle()
            finally:  # also when a second signal comes
                self.writing.acquire()  # never given back: a write under way is finished, no other one is begun
            raise
        workers.shutdown()
        self.simulators.shutdown()

    def followed(self, name: str) -> list[tuple[Snapshot, float]]:
        """This process's parts of an item that another process has named."""
        found = [item for item in self.items if item.id == name]
        if not found:
            raise InputError("it plans other cells; start all processes with the same command and the same files")
        for group in self.programs.keys() - {found[0].group}:
            del self.programs[group]
        return self._parts(found[0])

    def _items(self, number: int) -> list[WorkItem]:
        """The items of a group of which something is missing, the longest first, so that none is left at the end."""
        found = []
        wide, deep = self.shapes[number]
        for same in _by_timeline(self.groups[number]):
            for chunks in _chunks(self.study, same, wide, deep):
                ids = tuple(cell.id for cell in chunks[0].cells)
                digest = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]
                item = WorkItem(id=digest, group=number, cells=ids)
                if self._missing(item):
                    self.chunks[item.id] = chunks
                    found.append(item)
        return found[::-1]

    def _missing(self, item: WorkItem) -> list[str]:
        return [cell for cell in item.cells if not self.shelf.has(cell)]

    def _found(self, ids: list[str]) -> None:
        for _ in ids:
            self.progress.cell_done()

    def _waiting(self) -> None:
        self.progress.note("waiting for other processes, which are at work on what is left")

    def _decisions(self, item: WorkItem) -> int:
        return sum(cell.config.horizon for cell in self.chunks[item.id][0].cells) * self.study.seeds

    def _work(self) -> None:
        """What one worker does. One group's error costs that group's unfinished cells and nothing else."""
        while (item := self.work.take()) is not None:
            try:
                with warning_log.working_on(item.cells):
                    self._run_item(item)
            except BaseException as error:  # a user's rule may raise anything
                if rule_errors.is_request_to_stop(error):
                    raise
                self._give_up(item.group, error)
            finally:
                if self.work.give_back(item):
                    self.programs.pop(item.group, None)

    def _run_item(self, item: WorkItem) -> None:
        parts = hosts.together(item.id, partial(self._parts, item), self.log)
        with interrupt.finishing():  # what is simulated is not lost
            self._store_item(item, parts)

    def _parts(self, item: WorkItem) -> list[tuple[Snapshot, float]]:
        """What this process sees of an item, chunk by chunk."""
        group, (wide, deep) = self.groups[item.group], self.shapes[item.group]
        if item.group not in self.programs:  # only the group's first worker comes here then
            self.programs[item.group] = self._compile(group, wide, deep)
            self.work.compiled(item.group)
        self.progress.note(f"{group[0].config.policy.name}: {len(group)} cells")
        program = self.programs[item.group]
        chunks = [chunk for chunk in self.chunks[item.id] if chunk.real_seeds]  # one process may have none of them
        # Each in a copy of this thread's context, which knows whose warnings they are.
        simulate = [partial(copy_context().run, self._simulate, program, chunk, wide) for chunk in chunks]
        parts = [self.simulators.submit(part) for part in simulate]
        try:
            return [part.result() for part in parts]
        finally:
            for part in parts:
                part.cancel()

    def _give_up(self, number: int, error: BaseException) -> None:
        """Once a group: its other items are not begun any more."""
        self.work.drop(number)
        group = self.groups[number]
        text = rule_errors.sentence(error, _parts_of(group[0]))
        lost = [cell.id for cell in group if not self.shelf.has(cell.id)]
        with self.lock:
            fresh = [cell for cell in lost if cell not in self.failed]
            self.failed |= dict.fromkeys(fresh, text)
        if fresh:
            name = group[0].config.policy.name
            self.log.write("failed", cells=fresh, policy=name, error=text, traceback=rule_errors.record(error))
            self.progress.note(f"{name}: {text}")

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
        name = group[0].config.policy.name
        with self.preparing:  # in turn: programs are ready in the order of the study
            worlds, policies = cells.stack(_padded(group, wide))
            keys = batch.run_keys(self.study.root_seed, np.zeros(wide, np.uint32), np.arange(deep))
            self.begun += 1
            number, needed = self.begun, max(self.begun, self.programs_needed)  # more where memory is short
        announced, how = f"program {number} of {needed} ({name})", "not compiled"
        try:
            program = batch.compile_program(worlds, policies, keys, partial(self.progress.compiling, announced))
            did = "read from the cache" if program.cached else "compiled"
            how = f"{did} in {program.compile_seconds:.1f} s"
        finally:
            self.progress.compiled(announced, how)
        with self.lock:
            self.compilations += 1
            self.cached += program.cached
            self.compile_seconds += program.compile_seconds
        seconds, about = round(program.compile_seconds, 3), {"program": number, "of": needed, "cached": program.cached}
        self.log.write("compiled", policy=name, seconds=seconds, cells=len(group), **about)
        return program

    def _store_item(self, item: WorkItem, parts: list[tuple[Snapshot, float]]) -> None:
        """Store each cell of an item that is missing, all seeds simulated; the others stay as they are."""
        chunks = self.chunks[item.id]
        marks = self._marks(chunks[0])
        joined = _join([seen for seen, _ in parts])
        wall = sum(seconds for _, seconds in parts) / len(chunks[0].cells)
        missing = self._missing(item)
        with self.lock:
            self.decisions += self._decisions(item)
        for number, cell in enumerate(chunks[0].cells):
            if cell.id not in missing:
                continue
            mine = jax.tree.map(lambda leaf, number=number: leaf[:, number], joined)
            seeds = np.arange(self.study.seeds)
            with self.lock, warning_log.working_on([cell.id]):
                result = measure.cell_result(cell, mine, marks, seeds, wall, self.benchmarks)
            self._store(cell, replace(result, study=self.shelf.about))
        if not self._missing(item):  # what could not be written need not be simulated from its beginning again
            self.shelf.discard_checkpoints([cell.id for cell in chunks[0].cells])

    def _store(self, cell: Cell, result: CellResult) -> None:
        """A cell that cannot be written costs itself; what is announced is on the disk."""
        name = cell.config.policy.name
        try:
            with self.writing:
                self.shelf.write(result)
                self.log.write("cell", **_announcement(result))
        except OSError as error:
            text = f"it could not be written ({error.strerror or error}); once that is mended, the same command goes on"
            with self.lock:
                self.failed[cell.id] = text
            self.log.write("failed", cells=[cell.id], policy=name, error=text)
            self.progress.note(f"{name}: {text}")
            return
        self.progress.cell_done()
        invalid = result.final("invalid")
        if invalid.any():
            runs = int((invalid > 0).sum())
            text = (
                f"{name}: decisions not finite and declined, or from undecided linear programs, in {runs} of its runs"
            )
            self.log.write("warning", text=text, cells=[cell.id])
            self.progress.note(text)
        if result.final("clipped").any():
            self._clipped(cell)

    def _clipped(self, cell: Cell) -> None:
        """A rule whose shares had to be cut is named once; how often is in the column ``clipped`` of every cell."""
        rule = cell.config.policy.routing
        with self.lock:
            if rule in self.clipping:
                return
            self.clipping.add(rule)
        text = f"{rule}: some of its shares were negative, above the caps or more than 1 in sum; they were cut"
        self.log.write("warning", text=text, cells=[cell.id])
        self.progress.warn(text)

    def _marks(self, chunk: _Chunk) -> np.ndarray:
        return batch.eval_rounds(chunk.cells[0].config.horizon, self.study.eval_rounds, self.study.eval_spacing)

    def _simulate(self, programs: "_Programs", chunk: _Chunk, wide: int) -> tuple[Snapshot, float]:
        """(snapshots [E, cells, seeds, ...] of a chunk, seconds it took).

        Padding seeds are cut off; beliefs weigh by this chunk's runs.
        """
        with interrupt.stoppable():
            began = perf_counter()
            folder = checkpoint.item_folder(self.folder, [cell.id for cell in chunk.cells])
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
            _, deep = _whole(wide, math.ceil(len(chunk.seeds) / 2))
            return _join([self._fitted(programs, half, wide, folder) for half in _seeds_halved(chunk, deep)])
        if wide > 1:
            halves = [replace(chunk, cells=some) for some in _split(chunk.cells, math.ceil(wide / 2))]
            return _beside([self._fitted(programs, half, math.ceil(wide / 2), folder) for half in halves])
        raise MemoryError("not even one run fits in the device's memory")

    def _played(self, program: Program, chunk: _Chunk, wide: int, folder: Path) -> Snapshot:
        marks, padded = self._marks(chunk), _padded(chunk.cells, wide)
        worlds, policies = cells.stack(padded)
        streams = np.array([cell.stream for cell in padded], np.uint32)
        keys = batch.run_keys(self.study.root_seed, streams, chunk.seeds)
        real = np.arange(len(chunk.seeds)) < chunk.real_seeds
        weights = np.where(real, 1.0 / self.study.seeds, 0.0)
        per_round = len(chunk.cells) * chunk.real_seeds * hosts.processes()  # as if all were as fast
        timeline, checkpointer = padded[0].timeline, self._checkpointer(chunk, [cell.id for cell in padded], folder)
        seen = batch.simulate(
            *(program, worlds, policies, keys, weights, timeline, marks),
            progress=lambda rounds: self.progress.played(rounds * per_round),
            checkpointer=checkpointer,
        )
        books = {name: value for name, value in vars(seen).items() if name not in batch.BELIEFS}
        kept = jax.tree.map(lambda leaf: leaf[:, :, : chunk.real_seeds], books)
        return replace(seen, **kept)

    def _checkpointer(self, chunk: _Chunk, padded: list[str], folder: Path) -> checkpoint.Checkpointer:
        name = chunk.cells[0].config.policy.name

        def tell(event: str, **fields: Any) -> None:
            self.log.write(event, policy=name, cells=[cell.id for cell in chunk.cells], **fields)
            if "error" in fields:
                self.progress.note(
                    f"{name}: {event.replace('_', ' ')}: {fields.get('checkpoint', '')} {fields['error']}"
                )

        whole = checkpoint.item_folder(self.folder, [cell.id for cell in chunk.cells]) == folder
        part = not whole or chunk.real_seeds < self.study.seeds
        identity = checkpoint.identity(padded, chunk.seeds)
        return checkpoint.Checkpointer(folder, identity, self.study.checkpoint_minutes, part=part, tell=tell)


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
    return (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)) and not rule_errors.is_theirs(error)


def _parts_of(cell: Cell) -> list[Any]:
    """What of a cell a user may have written."""
    policy = cell.policy
    return [policy.routing, policy.deployment, policy.forecaster, cell.instance.world.demand.process]


def _whole(wide: int, seeds: int) -> tuple[int, int]:
    """At least so many cells and seeds, in whole tiles, and the same number of seeds for each device."""
    devices = jax.local_device_count()
    wide, deep = batch.whole_tiles(wide, math.ceil(seeds / devices))
    return wide, devices * deep


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
    return {key: getattr(result.info, key) for key in keys} | final
