"""How a group of cells is cut: items of cells side by side, and for each item chunks of seeds.

What lies side by side follows from the whole study and the device, and never from what happens to be missing, because
the last bit of a result may depend on its place in a batch.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import jax
import numpy as np

from experiments.config import cells, rule_errors
from experiments.config.cells import Cell
from experiments.config.study import StudyConfig
from experiments.engine import batch
from experiments.engine.rollout import Snapshot
from experiments.jobs.queue import WorkItem

_CPU_ROWS, _ACCELERATOR_ROWS = 2048, 65536  # runs of a chunk, for each device
_COPIES = 32  # of a run's state that a chunk may need at once; 5 (uniform) to 20 (stageroute) were measured


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """Cells and consecutive seeds that are simulated in one go; padding repeats and does not count."""

    cells: list[Cell]
    seeds: np.ndarray  # [S] padded
    real_seeds: int

    @property
    def decisions(self) -> int:
        """How many decisions it holds."""
        return sum(cell.config.horizon for cell in self.cells) * self.real_seeds


def shape(study: StudyConfig, group: list[Cell]) -> tuple[int, int]:
    """(cells, seeds) of a chunk: one shape for a whole group, so that it compiles once.

    It depends on the study and the device alone, so that a study that is gone on with has the same chunks. Every device
    gets the same number of seeds. On a CPU a chunk is no wider than one tile of ``experiments.engine.batch``, so that a
    study of fewer or more cells needs no other program than the one that is in the cache.
    """
    rows = study.chunk_rows or _rows(group) * jax.local_device_count()
    seeds = min(study.seeds, rows)
    widest = max(len(same) for same in _by_timeline(group))
    if study.chunk_rows is None:
        widest, _ = batch.tile_shape(widest, math.ceil(seeds / jax.local_device_count()))
    return whole(max(1, min(widest, rows // seeds)), seeds)


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


def whole(wide: int, seeds: int) -> tuple[int, int]:
    """At least so many cells and seeds, in whole tiles, and the same number of seeds for each device."""
    devices = jax.local_device_count()
    wide, deep = batch.whole_tiles(wide, math.ceil(seeds / devices))
    return wide, devices * deep


def items(study: StudyConfig, number: int, group: list[Cell]) -> Iterator[tuple[WorkItem, list[Chunk]]]:
    """The items of the group of this number, shortest horizon first, and each one's chunks in the order of seeds."""
    wide, deep = shape(study, group)
    for same in _by_timeline(group):
        for some in split(same, wide):
            ids = tuple(cell.id for cell in some)
            lows = range(0, study.seeds, deep)
            chunks = [
                Chunk(cells=some, seeds=np.arange(low, low + deep), real_seeds=min(deep, study.seeds - low))
                for low in lows
            ]
            digest = hashlib.sha256(" ".join(ids).encode()).hexdigest()[:16]
            seeds = tuple(range(low, low + chunk.real_seeds) for low, chunk in zip(lows, chunks, strict=True))
            yield WorkItem(id=digest, group=number, cells=ids, chunks=seeds), chunks


def _by_timeline(group: list[Cell]) -> list[list[Cell]]:
    """Cells that can be simulated side by side, shortest horizon first."""
    found: dict[Any, list[Cell]] = {}
    for cell in sorted(group, key=lambda cell: cell.config.horizon):
        key = tuple(np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(cell.timeline))
        found.setdefault(key, []).append(cell)
    return list(found.values())


def padded(some: list[Cell], number: int) -> list[Cell]:
    """So many cells, the first one repeated."""
    return (some + [some[0]] * number)[:number]


def seeds_halved(chunk: Chunk, deep: int) -> list[Chunk]:
    """Chunks of ``deep`` seeds with all of a chunk's real ones."""
    first = int(chunk.seeds[0])
    lows = range(0, chunk.real_seeds, deep)
    return [
        replace(chunk, seeds=np.arange(first + low, first + low + deep), real_seeds=min(deep, chunk.real_seeds - low))
        for low in lows
    ]


def split(some: list[Cell], wide: int) -> list[list[Cell]]:
    """Cells, so many at a time."""
    return [some[low : low + wide] for low in range(0, len(some), wide)]


def beside(snapshots: list[Snapshot]) -> Snapshot:
    """Chunks of cells side by side, [E, cells, ...]."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1), *snapshots)


def join(snapshots: list[Snapshot]) -> Snapshot:
    """Chunks of seeds side by side: books are concatenated, beliefs (already weighted) added, both in this order."""
    if len(snapshots) == 1:
        return snapshots[0]
    joined: dict[str, Any] = {}
    for name in vars(snapshots[0]):
        values = [getattr(seen, name) for seen in snapshots]
        if name in batch.BELIEFS:
            joined[name] = np.sum(values, axis=0)
        else:
            joined[name] = jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=2), *values)
    return Snapshot(**joined)
