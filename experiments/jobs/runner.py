"""Running a study: which chunks are simulated, what is stored as it comes, and what is made of it at the end."""

import json
import os
from collections.abc import Collection
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
from experiments.jobs import checkpoint, chunks, parts, simulator, warning_log
from experiments.jobs.chunks import Chunk
from experiments.jobs.parts import Part
from experiments.jobs.queue import Task, Work, WorkItem
from experiments.jobs.simulator import Programs, Simulator
from experiments.jobs.warning_log import Log
from experiments.results import cell_file, measure, overwrite, study_folder, study_record
from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo
from experiments.results.events import EventLog
from experiments.results.leases import Leases


class Progress(simulator.Progress, Protocol):
    """What a display of a running study is told."""

    def begin(self, cells_done: int, cells_total: int, decisions: int) -> None: ...

    def warn(self, text: str) -> None: ...

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


def run(study: StudyConfig, planned: list[Cell], folder: Path, log: EventLog, progress: Progress) -> Outcome:
    """Simulate what is missing in ``folder`` and read the rest; every cell is stored as soon as it is done.

    Other processes may be at work in the same folder: each chunk of seeds is simulated by one of them.
    """
    with Leases(folder) as leases:
        return _run(study, planned, folder, leases, log, progress)


def simulate_again(study: StudyConfig, planned: list[Cell], folder: Path, cell: str) -> CellResult:
    """What a study makes of one of its cells, whose whole item is simulated; nothing is read or stored."""
    silent = simulator.Silent()
    simulating = Simulator(replace(study, checkpoint_minutes=None), folder, silent, silent)
    group, item, pieces = next(
        (group, item, pieces)
        for number, group in enumerate(cells.groups(planned))
        for item, pieces in chunks.items(study, number, group)
        if cell in item.cells
    )
    programs, (wide, _), place = simulating.compile(group), chunks.shape(study, group), item.cells.index(cell)
    with ThreadPoolExecutor(cores()) as pool:
        simulated = list(pool.map(lambda chunk: simulating.simulate(programs, chunk, wide)[0], pieces))
    mine = jax.tree.map(lambda leaf: leaf[:, place], chunks.join(simulated))
    marks, seeds = simulating.marks(pieces[0]), np.arange(study.seeds)
    return measure.cell_result(pieces[0].cells[place], mine, marks, seeds, 0.0, {})


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
    runner.forget_stored()
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


class _Shelf:
    """The stored cells of a folder, of which some may have to be made anew."""

    on_disk = True

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

    on_disk = False

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

    def acquire(self, name: str, cells: Collection[str] = (), seeds: range | None = None) -> bool:
        """Everything is ours."""
        return True

    def release(self, name: str) -> None:
        """Nobody waits for it."""

    def others(self) -> set[str]:
        """Nobody else leases anything."""
        return set()


class _Runner:
    """Simulates what is missing; what several threads share is kept here.

    An item of which a cell is missing is simulated whole. One of several chunks is shared by processes: a chunk's part
    is kept on disk, and one process stores the cells when the last part is there.
    """

    def __init__(self, study: StudyConfig, shelf: _Shelf, leases: Leases, planned: list[Cell]) -> None:
        self.study, self.shelf = study, shelf
        self.folder, self.log, self.progress = shelf.folder, shelf.log, shelf.progress
        self.groups = cells.groups(planned)
        self.wide = [chunks.shape(study, group)[0] for group in self.groups]
        self.simulator = Simulator(study, self.folder, self.log, self.progress)
        self.programs: dict[int, Programs] = {}
        self.benchmarks: dict[Any, Any] = {}
        self.failed: dict[str, str] = {}  # cell id -> error
        self.clipping: set[str] = set()  # rules whose shares had to be cut, and which people know of
        self.decisions = 0
        self.lock, self.writing, self.keeping = Lock(), Lock(), Lock()  # keeping: for unwritten and damaged parts
        self.simulators = ThreadPoolExecutor(cores())
        self.chunks: dict[str, list[Chunk]] = {}  # of each item
        self.identities: dict[str, list[dict[str, Any]]] = {}  # of each chunk of the items of several
        self.unwritten: dict[tuple[str, int], Part] = {}  # parts that could not be written, by item and chunk
        self.damaged: set[tuple[str, int]] = set()  # parts that can neither be read nor be set aside
        # Shards that start together begin with different programs; from there on leases divide the chunks.
        first = (study.shard or 0) % len(self.groups)
        order = [*range(first, len(self.groups)), *range(first)]
        planned_items = [item for number in order for item in self._items(number)]
        self.forget_stored(planned_items)
        self.items = [item for item in planned_items if self._missing(item)]
        self.simulator.programs_needed = self.groups_left()
        leaves = study.shard is not None
        told = self._missing, self._found, self._waiting, self._simulated
        self.work = Work(self.items, leases, *told, leaves=leaves, slots=cores())

    def decisions_left(self) -> int:
        """How many decisions the missing chunks hold."""
        return sum(
            chunk.decisions
            for item in self.items
            for there in [self._simulated(item)]
            for number, chunk in enumerate(self.chunks[item.id])
            if number not in there
        )

    def groups_left(self) -> int:
        """How many static groups have something missing."""
        return len({item.group for item in self.items})

    def forget_stored(self, items: list[WorkItem] | None = None) -> None:
        """Remove what a process that was killed, or was slow, has left of items that are stored."""
        if self.shelf.on_disk and checkpoint.are_there(self.folder):
            for item in self.items if items is None else items:
                if not self._missing(item):
                    checkpoint.discard(self.folder, item.cells)

    def outcome(self, results: list[CellResult], failed: dict[str, str], left: int, seconds: float) -> Outcome:
        """What running gave, with what this process has counted."""
        return Outcome(
            cells=results,
            failed=failed,
            left=left,
            compilations=self.simulator.compilations,
            cached=self.simulator.cached,
            compile_seconds=self.simulator.compile_seconds,
            run_seconds=seconds,
            decisions=self.decisions,
        )

    def run(self) -> None:
        """Until nothing is left that this process could do."""
        # A program runs on one CPU core, and so does its compilation: several side by side use them all. One worker
        # more, so that a core has its next chunk while a worker stores its last one.
        number = cores() + 1
        workers = ThreadPoolExecutor(number)
        try:
            for worker in [workers.submit(self._work) for _ in range(number)]:
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

    def _items(self, number: int) -> list[WorkItem]:
        """The items of a group, the longest first, so that none is left at the end."""
        found = []
        for item, pieces in chunks.items(self.study, number, self.groups[number]):
            self.chunks[item.id] = pieces
            found.append(item)
            if len(pieces) > 1:
                ids = [[cell.id for cell in chunks.padded(chunk.cells, self.wide[number])] for chunk in pieces]
                self.identities[item.id] = list(map(checkpoint.identity, ids, (chunk.seeds for chunk in pieces)))
        return found[::-1]

    def _missing(self, item: WorkItem) -> list[str]:
        return [cell for cell in item.cells if not self.shelf.has(cell)]

    def _found(self, ids: list[str]) -> None:
        for _ in ids:
            self.progress.cell_done()

    def _waiting(self) -> None:
        self.progress.note("waiting for other processes, which are at work on what is left")

    def _folder(self, item: WorkItem) -> Path:
        return checkpoint.item_folder(self.folder, item.cells)

    def _simulated(self, item: WorkItem) -> set[int]:
        """The chunks of an item that have a part."""
        names = parts.there(self._folder(item)) if self.shelf.on_disk else set()
        identities = self.identities.get(item.id, [])
        written = {number for number, mine in enumerate(identities) if parts.file_name(mine) in names}
        with self.keeping:
            unreadable = {number for number in written if (item.id, number) in self.damaged}
            return written - unreadable | {number for name, number in self.unwritten if name == item.id}

    def _work(self) -> None:
        """What one worker does. One group's error costs that group's unfinished cells and nothing else."""
        while (task := self.work.take()) is not None:
            again = False
            try:
                with warning_log.working_on(task.item.cells):
                    again = self._do(task)
            except BaseException as error:  # a user's rule may raise anything
                if rule_errors.is_request_to_stop(error):
                    raise
                self._give_up(task.item.group, error)
            finally:
                if self.work.give_back(task, again=again):
                    self.programs.pop(task.item.group, None)

    def _do(self, task: Task) -> bool:
        """Whether the item has to be merged again."""
        if task.chunk is None:
            return self._merge(task.item)
        part = self._simulate(task.item, task.chunk)
        self.work.played(task)
        with interrupt.finishing():  # what is simulated is not lost
            if task.stores:
                self._store_item(task.item, [part])
            else:
                self._keep(task.item, task.chunk, part)
        return False

    def _simulate(self, item: WorkItem, number: int) -> Part:
        group, chunk = self.groups[item.group], self.chunks[item.id][number]
        if item.group not in self.programs:  # only the group's first worker comes here then
            self.programs[item.group] = self.simulator.compile(group)
            self.work.compiled(item.group)
        self.progress.note(f"{group[0].config.policy.name}: {len(group)} cells")
        # In a copy of this thread's context, which knows whose warnings they are.
        programs, wide = self.programs[item.group], self.wide[item.group]
        simulate = partial(copy_context().run, self.simulator.simulate, programs, chunk, wide)
        simulating = self.simulators.submit(simulate)
        try:
            seen, seconds = simulating.result()
        finally:
            simulating.cancel()
        with self.lock:
            self.decisions += chunk.decisions
        return Part(seen=seen, seconds=seconds)

    def _keep(self, item: WorkItem, number: int, part: Part) -> None:
        """Write a part; one that cannot be written is kept here, and others do not know of it."""
        identity, folder = self.identities[item.id][number], self._folder(item)
        if not self.shelf.on_disk:
            with self.keeping:
                self.unwritten[item.id, number] = part
            return
        try:
            parts.save(folder, identity, part, self.chunks[item.id][number].decisions)
        except OSError as error:
            with self.keeping:
                self.unwritten[item.id, number] = part
            self._tell(item, "part_failed", error=error.strerror or type(error).__name__)
        else:
            with self.keeping:
                self.damaged.discard((item.id, number))
            checkpoint.forget(folder, identity)
        if not self._missing(item):  # another process took this one for dead, and was quicker
            checkpoint.discard(self.folder, item.cells)

    def _merge(self, item: WorkItem) -> bool:
        """Store an item from the parts of all its chunks. Whether one of them is gone, and is to be simulated again."""
        like = batch.snapshot_like(*cells.stack(self.chunks[item.id][0].cells[:1]))
        found = [self._part(item, number, like) for number in range(len(item.chunks))]
        whole = [part for part in found if part is not None]
        if len(whole) < len(found):
            return True
        with interrupt.finishing():
            self._store_item(item, whole)
        with self.keeping:
            for number in range(len(item.chunks)):
                self.unwritten.pop((item.id, number), None)
        return False

    def _part(self, item: WorkItem, number: int, like: Any) -> Part | None:
        """A part, which is set aside where it is damaged."""
        if (item.id, number) in self.unwritten:
            return self.unwritten[item.id, number]
        interrupt.check()
        folder, identity = self._folder(item), self.identities[item.id][number]
        found = parts.read(folder, identity, like, partial(self._tell, item))
        if found is None and parts.file_name(identity) in parts.there(folder):  # on a disk that is read-only, say
            with self.keeping:
                self.damaged.add((item.id, number))
        return found

    def _tell(self, item: WorkItem, event: str, **fields: Any) -> None:
        """What went wrong with a part."""
        name = self.groups[item.group][0].config.policy.name
        self.log.write(event, policy=name, cells=list(item.cells), **fields)
        self.progress.note(f"{name}: {event.replace('_', ' ')}: {fields.get('checkpoint', '')} {fields['error']}")

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

    def _store_item(self, item: WorkItem, simulated: list[Part]) -> None:
        """Store each cell of an item that is missing, from the parts of all seeds; the others stay as they are."""
        some = self.chunks[item.id][0].cells
        marks, seeds = self.simulator.marks(self.chunks[item.id][0]), np.arange(self.study.seeds)
        joined = chunks.join([part.seen for part in simulated])
        wall = sum(part.seconds for part in simulated) / len(some)
        missing = self._missing(item)
        for number, cell in enumerate(some):
            if cell.id not in missing:
                continue
            mine = jax.tree.map(lambda leaf, number=number: leaf[:, number], joined)
            with self.lock, warning_log.working_on([cell.id]):
                result = measure.cell_result(cell, mine, marks, seeds, wall, self.benchmarks)
            self._store(cell, replace(result, study=self.shelf.about))
        if not self._missing(item):  # what could not be written need not be simulated from its beginning again
            self.shelf.discard_checkpoints(list(item.cells))

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


def _parts_of(cell: Cell) -> list[Any]:
    """What of a cell a user may have written."""
    policy = cell.policy
    return [policy.routing, policy.deployment, policy.forecaster, cell.instance.world.demand.process]


def _announcement(result: CellResult) -> dict[str, Any]:
    """The line about a finished cell in ``events.jsonl``."""
    keys = ("cell", "policy", "horizon", "budget_per_task", "target", "num_models", "swept", "wall_s")
    final = {
        f"{name}_mean": float(result.final(name).mean()) for name in ("reward", "regret", "violation", "overspend")
    }
    return {key: getattr(result.info, key) for key in keys} | final
