"""Simulating chunks: a group's programs, chunks that are halved where memory is short, checkpoints within a chunk."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, Protocol

import jax
import numpy as np

from experiments import interrupt
from experiments.config import cells, rule_errors
from experiments.config.cells import Cell
from experiments.config.study import StudyConfig
from experiments.engine import batch
from experiments.engine.batch import Program
from experiments.engine.rollout import Snapshot
from experiments.jobs import checkpoint, chunks
from experiments.jobs.chunks import Chunk
from experiments.jobs.warning_log import Log


class Progress(Protocol):
    """What a display is told of a simulation."""

    def note(self, text: str) -> None: ...

    def compiling(self, program: str) -> None: ...

    def compiled(self, program: str, how: str) -> None: ...

    def played(self, decisions: int) -> None: ...


class Silent:
    """A log and a display that nobody looks at."""

    def write(self, event: str, /, **fields: Any) -> None:
        """Nothing, as all below."""

    def note(self, text: str) -> None: ...

    def compiling(self, program: str) -> None: ...

    def compiled(self, program: str, how: str) -> None: ...

    def played(self, decisions: int) -> None: ...


class Programs:
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


class Simulator:
    """Compiles and simulates; counts what it has compiled. Shared by threads."""

    def __init__(self, study: StudyConfig, folder: Path, log: Log, progress: Progress) -> None:
        self.study, self.folder, self.log, self.progress = study, folder, log, progress
        self.programs_needed = 0  # by the study, as far as is known
        self.compilations, self.cached, self.compile_seconds = 0, 0, 0.0
        self.begun, self.lock, self.preparing = 0, Lock(), Lock()

    def compile(self, group: list[Cell]) -> Programs:
        """The group's programs, the one for its chunks compiled if memory allows; smaller ones follow when needed."""
        programs = Programs(partial(self._compiled, group))
        try:
            programs.compiled(*chunks.shape(self.study, group))
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            if not _out_of_memory(error):
                raise
        interrupt.check()
        return programs

    def simulate(self, programs: Programs, chunk: Chunk, wide: int) -> tuple[Snapshot, float]:
        """(snapshots [E, cells, seeds, ...] of a chunk, seconds it took).

        Padding seeds are cut off; beliefs are this chunk's terms of means over all the study's seeds.
        """
        with interrupt.stoppable():
            began = perf_counter()
            folder = checkpoint.item_folder(self.folder, [cell.id for cell in chunk.cells])
            return self._fitted(programs, chunk, wide, folder, half=False), perf_counter() - began

    def marks(self, chunk: Chunk) -> np.ndarray:
        """[E] the chunk's evaluation rounds."""
        return batch.eval_rounds(chunk.cells[0].config.horizon, self.study.eval_rounds, self.study.eval_spacing)

    def _compiled(self, group: list[Cell], wide: int, deep: int) -> Program:
        name = group[0].config.policy.name
        with self.preparing:  # in turn: programs are ready in the order of the study
            worlds, policies = cells.stack(chunks.padded(group, wide))
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

    def _fitted(self, programs: Programs, chunk: Chunk, wide: int, folder: Path, *, half: bool) -> Snapshot:
        """The snapshots of a chunk, or of half of one, which is simulated in halves where it does not fit in memory."""
        rows = wide * len(chunk.seeds)
        if rows <= programs.most_rows:
            try:
                return self._played(programs.compiled(wide, len(chunk.seeds)), chunk, wide, folder, half=half)
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                if not _out_of_memory(error):
                    raise
            # The failed attempt's arrays are given back only now that its error is forgotten.
            if programs.reduce(rows):
                name = chunk.cells[0].config.policy.name
                self.log.write("chunk_halved", policy=name, rows=rows)
                self.progress.note(f"{name}: {rows} runs at once do not fit in memory; going on with half as many")
        if len(chunk.seeds) > jax.local_device_count():
            _, deep = chunks.whole(wide, math.ceil(len(chunk.seeds) / 2))
            halves = chunks.seeds_halved(chunk, deep)
            return chunks.join([self._fitted(programs, one, wide, folder, half=True) for one in halves])
        if wide > 1:
            wide = math.ceil(wide / 2)
            halves = [replace(chunk, cells=some) for some in chunks.split(chunk.cells, wide)]
            return chunks.beside([self._fitted(programs, one, wide, folder, half=True) for one in halves])
        raise MemoryError("not even one run fits in the device's memory")

    def _played(self, program: Program, chunk: Chunk, wide: int, folder: Path, *, half: bool) -> Snapshot:
        padded = chunks.padded(chunk.cells, wide)
        worlds, policies = cells.stack(padded)
        streams = np.array([cell.stream for cell in padded], np.uint32)
        keys = batch.run_keys(self.study.root_seed, streams, chunk.seeds)
        real = np.arange(len(chunk.seeds)) < chunk.real_seeds
        weights = np.where(real, 1.0 / self.study.seeds, 0.0)
        per_round = len(chunk.cells) * chunk.real_seeds
        seen = batch.simulate(
            *(program, worlds, policies, keys, weights, padded[0].timeline, self.marks(chunk)),
            progress=lambda rounds: self.progress.played(rounds * per_round),
            checkpointer=self._checkpointer(chunk, [cell.id for cell in padded], folder, half=half),
        )
        books = {name: value for name, value in vars(seen).items() if name not in batch.BELIEFS}
        kept = jax.tree.map(lambda leaf: leaf[:, :, : chunk.real_seeds], books)
        return replace(seen, **kept)

    def _checkpointer(self, chunk: Chunk, padded: list[str], folder: Path, *, half: bool) -> checkpoint.Checkpointer:
        name = chunk.cells[0].config.policy.name

        def tell(event: str, **fields: Any) -> None:
            self.log.write(event, policy=name, cells=[cell.id for cell in chunk.cells], **fields)
            if "error" in fields:
                self.progress.note(
                    f"{name}: {event.replace('_', ' ')}: {fields.get('checkpoint', '')} {fields['error']}"
                )

        identity = checkpoint.identity(padded, chunk.seeds)
        return checkpoint.Checkpointer(folder, identity, self.study.checkpoint_minutes, half=half, tell=tell)


def _out_of_memory(error: Exception) -> bool:
    return (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)) and not rule_errors.is_theirs(error)
