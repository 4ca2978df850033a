"""Many runs at once: cells × seeds through one compiled program, walked from one evaluation round to the next.

A *batch* is several cells that share a static signature and a timeline, times several seeds. Worlds and policies carry
a leading cell axis; on the device runs carry a leading cell axis and seeds as the last one
(``experiments.engine.vectorize``), in what comes back a leading (cell, seed) pair. Horizons share the executable
because the loop bounds are traced and unbatched. The host walks from one evaluation round to the next and stops every
few seconds in between, which gives progress, memory that does not grow with the horizon, checkpoints and a study that
can be interrupted. Stops leave no trace in the results.

Seeds are spread over all local devices. Nothing is communicated between them: means over runs are taken on the host, so
they are the same for any number of devices.
"""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bandits.policy import Policy
from envs.timeline import Timeline
from envs.world import World
from experiments.engine import program_cache, rollout
from experiments.engine.checkpoint_state import Checkpoint
from experiments.engine.vectorize import vmap_last

BELIEFS = ("lower", "upper", "covered")  # of a snapshot: what is kept as a mean over runs
STOP_SECONDS = 2.0  # the host regains control about this often

_DEVICES = "runs"  # the mesh axis that seeds are spread over

_LANES = 64  # runs side by side on a CPU core: four vectors of the widest registers, and a state that stays near

_traces = 0
_tracing = Lock()


def traces() -> int:
    """How often the simulation has been traced in this process: once a static group."""
    return _traces


def eval_rounds(horizon: int, number: int, spacing: str = "log") -> np.ndarray:
    """At most ``number`` distinct rounds, ``log`` or ``linear``-ly spaced, the last one the horizon."""
    space = np.geomspace(1, horizon, number) if spacing == "log" else np.linspace(horizon / number, horizon, number)
    marks = np.unique(np.maximum(np.round(space), 1).astype(np.int64))
    return np.unique(np.append(marks[marks <= horizon], horizon))


def run_keys(root_seed: int, cells: np.ndarray, seeds: np.ndarray) -> jax.Array:
    """[cells, seeds] typed keys: fold_in(fold_in(root, cell), run)."""
    root = jax.random.key(root_seed, impl="threefry2x32")  # the same on every machine
    over_seeds = jax.vmap(jax.random.fold_in, (None, 0))
    key_cells = jax.vmap(jax.random.fold_in, (None, 0))(root, jnp.asarray(cells, jnp.uint32))
    return jax.vmap(over_seeds, (0, None))(key_cells, jnp.asarray(seeds, jnp.uint32))


def _start_runs(worlds: World, policies: Policy, keys: jax.Array, horizon: jax.Array) -> rollout.RunState:
    """The states before the first round, [cells, ..., seeds]."""

    def one(key: jax.Array, world: World, policy: Policy) -> rollout.RunState:
        return rollout.start(world, policy, key, horizon)

    over_seeds = _over_cells(one, (True, False, False))
    return _tile_by_tile(lambda keys, *cells: over_seeds(horizon >= 0, keys, *cells), keys, (worlds, policies))


def _advance_runs(
    worlds: World,
    policies: Policy,
    keys: jax.Array,
    state: rollout.RunState,
    timeline: Timeline,
    first: jax.Array,
    stop: jax.Array,
) -> tuple[rollout.RunState, rollout.Snapshot]:
    """Play rounds first, ..., stop - 1, and look: states [cells, ..., seeds], snapshots [cells, seeds, ...].

    Why states have seeds last: see ``experiments.engine.vectorize``.
    """
    global _traces
    _traces += 1

    def one(
        state: rollout.RunState, key: jax.Array, world: World, policy: Policy
    ) -> tuple[rollout.RunState, rollout.Snapshot]:
        state = rollout.advance(world, policy, key, state, timeline, first, stop)
        return state, rollout.snapshot(world, policy, state, timeline, stop)

    over_seeds = _over_cells(one, (True, True, False, False))
    state, seen = _tile_by_tile(
        lambda runs, *cells: over_seeds(stop >= 0, *runs, *cells), (state, keys), (worlds, policies)
    )
    return state, jax.tree.map(lambda leaf: jnp.moveaxis(leaf, -1, 1), seen)


def _over_cells(one: Callable[..., Any], batched: tuple[bool, ...]) -> Callable[..., Any]:
    """``vmap_last(one, batched)`` with a leading axis of cells on all arguments and results.

    Cells are mapped before lanes are read, while the program is small; one alone is not, which is smaller still.
    """

    def mapped(always: jax.Array, *arguments: Any) -> Any:
        if jax.tree.leaves(arguments)[0].shape[0] > 1:
            return vmap_last(jax.vmap(one), batched)(always, *arguments)
        alone = jax.tree.map(lambda leaf: leaf[0], arguments)
        return jax.tree.map(lambda leaf: leaf[None], vmap_last(one, batched)(always, *alone))

    return mapped


_start = jax.jit(_start_runs)
_advance = jax.jit(_advance_runs, donate_argnames="state")


def tile_shape(cells: int, seeds: int) -> tuple[int, int]:
    """(cells, seeds) that are simulated side by side: on a CPU about as many as its nearest cache holds, else all."""
    if jax.default_backend() != "cpu":
        return cells, seeds
    deep = -(-seeds // -(-seeds // _LANES))
    wide = max(1, _LANES // deep)
    return -(-cells // -(-cells // wide)), deep


def whole_tiles(cells: int, seeds: int) -> tuple[int, int]:
    """The smallest batch of at least that many cells and seeds that consists of whole tiles."""
    wide, deep = tile_shape(cells, seeds)
    return -(-cells // wide) * wide, -(-seeds // deep) * deep


def _tile_by_tile(function: Callable[..., Any], runs: Any, cells: Any) -> Any:
    """``function`` of the leaves [cells, ..., seeds] of ``runs`` and [cells, ...] of ``cells``, a tile at a time."""
    width, depth = jax.tree.leaves(cells)[0].shape[0], jax.tree.leaves(runs)[0].shape[-1]
    wide, deep = tile_shape(width, depth)
    if (wide, deep) == (width, depth) or width % wide or depth % deep:  # of whole tiles only
        return function(runs, *cells)

    def split(leaf: jax.Array) -> jax.Array:
        parted = leaf.reshape((width // wide, wide, *leaf.shape[1:-1], depth // deep, deep))
        return jnp.moveaxis(parted, -2, 1)

    def joined(leaf: jax.Array) -> jax.Array:
        together = jnp.moveaxis(leaf, 1, -2)
        return together.reshape((width, *together.shape[2:-2], depth))

    def over_seeds(tile: tuple[Any, Any]) -> Any:
        return jax.lax.map(lambda part: function(part, *tile[1]), tile[0])

    tiles = jax.tree.map(lambda leaf: leaf.reshape((width // wide, wide, *leaf.shape[1:])), cells)
    return jax.tree.map(joined, jax.lax.map(over_seeds, (jax.tree.map(split, runs), tiles)))


@dataclass(frozen=True, kw_only=True)
class Program:
    """The compiled simulation of one static group at one batch shape."""

    start: Any
    advance: Any
    state: rollout.RunState  # shapes and dtypes
    seen: rollout.Snapshot  # shapes and dtypes
    compile_seconds: float
    cached: bool  # read from the cache on disk, not compiled

    def placed(self, *arguments: Any) -> Any:
        """The first of the arguments of ``advance`` on the devices where it wants them."""
        return jax.device_put(arguments, self.advance.input_shardings[0][: len(arguments)])


def compile_program(
    worlds: World, policies: Policy, keys: jax.Array, begun: Callable[[], None] = lambda: None
) -> Program:
    """Compile once for a batch shape; horizons, budgets and every other number are arguments.

    Seeds are spread over all local devices, whose number must divide theirs. ``begun`` is called when the work begins:
    of several threads one traces at a time, while others compile or simulate. Tracing is Python, which no two threads
    run at once, so that traces side by side would all be ready as late as the last one.
    """
    with _tracing, _uncollected():
        began = perf_counter()
        begun()
        rounds = jnp.zeros((), jnp.int32)
        state = jax.eval_shape(_start, worlds, policies, keys, rounds)
        start, advance = (_start, _advance) if jax.local_device_count() == 1 else _over_devices(state)
        changes = jnp.zeros(2 * worlds.reward_mean.shape[1], jnp.int32)
        timeline = Timeline(horizon=rounds, stages=rounds, changes=changes, resolve_every=rounds)
        starting = start.lower(worlds, policies, keys, rounds)
        advancing = advance.lower(worlds, policies, keys, state, timeline, rounds, rounds)
    started = starting.compile()
    with program_cache.hits() as hits:
        advanced = advancing.compile()
    return Program(
        start=started,
        advance=advanced,
        state=state,
        seen=advancing.out_info[1],
        compile_seconds=perf_counter() - began,
        cached=bool(hits),
    )


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage in cycles: tracing makes a million objects, nearly all of which live to its end."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def bytes_a_run(worlds: World, policies: Policy) -> int:
    """Size of the state of one run, for worlds and policies with a leading axis of one cell."""
    keys = run_keys(0, np.zeros(1, np.uint32), np.zeros(1, int))
    rounds = jnp.zeros((), jnp.int32)
    state = jax.eval_shape(_start_runs, worlds, policies, keys, rounds)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def snapshot_like(worlds: World, policies: Policy) -> rollout.Snapshot:
    """The pytree and dtypes of snapshots of worlds and policies [cells, ...], whatever their shapes; traces little."""
    world, policy = jax.tree.map(lambda leaf: leaf[0], (worlds, policies))
    rounds = jnp.zeros((), jnp.int32)
    changes = jnp.zeros(2 * worlds.reward_mean.shape[1], jnp.int32)
    timeline = Timeline(horizon=rounds, stages=rounds, changes=changes, resolve_every=rounds)

    def look(key: jax.Array, rounds: jax.Array) -> rollout.Snapshot:
        return rollout.snapshot(world, policy, rollout.start(world, policy, key, rounds), timeline, rounds)

    return jax.eval_shape(look, run_keys(0, np.zeros(1, np.uint32), np.zeros(1, int))[0, 0], rounds)


def _over_devices(state: rollout.RunState) -> tuple[Any, Any]:
    """``_start`` and ``_advance`` with the seeds of each device computed there."""
    mesh = Mesh(np.array(jax.local_devices()), (_DEVICES,))
    same, second = PartitionSpec(), PartitionSpec(None, _DEVICES)
    last = jax.tree.map(lambda leaf: PartitionSpec(*[None] * (leaf.ndim - 1), _DEVICES), state)

    def spread(function: Callable[..., Any], given: tuple[Any, ...], made: Any, donated: tuple[int, ...] = ()) -> Any:
        mapped = jax.shard_map(function, mesh=mesh, in_specs=given, out_specs=made, check_vma=False)
        inputs, outputs = jax.tree.map(partial(NamedSharding, mesh), (given, made))
        return jax.jit(mapped, in_shardings=inputs, out_shardings=outputs, donate_argnums=donated)

    start = spread(_start_runs, (same, same, second, same), last)
    advance = spread(_advance_runs, (same, same, second, last, same, same, same), (last, second), donated=(3,))
    return start, advance


class Checkpointer(Protocol):
    """What may keep a batch within its horizon, for a later process to go on with."""

    def resume(self, state: rollout.RunState, seen: rollout.Snapshot) -> Checkpoint | None:
        """What to go on with; the arguments tell shapes and dtypes. None to begin with the first round."""

    def stopped(self, carry: Checkpoint, *, last: bool) -> None:
        """Told at every stop, of arrays that are on the device; what it raises ends the simulation."""


class StepBudget:
    """How many rounds to play to the next stop, from how long the last ones took."""

    def __init__(self) -> None:
        self.rounds = 512

    def took(self, rounds: int, seconds: float) -> None:
        """Aim at ``STOP_SECONDS``, but trust few rounds only so far."""
        wanted = int(rounds * STOP_SECONDS / max(seconds, 1e-9))
        self.rounds = max(1, min(wanted, 8 * max(rounds, self.rounds)))


def simulate(
    program: Program,
    worlds: World,
    policies: Policy,
    keys: jax.Array,
    weights: np.ndarray,
    timeline: Timeline,
    marks: np.ndarray,
    progress: Callable[[int], None] = lambda rounds: None,
    checkpointer: Checkpointer | None = None,
) -> rollout.Snapshot:
    """Snapshots at every mark, stacked on the host along a leading evaluation round axis [E, ...].

    All cells share the ``timeline``; the last mark is its horizon. Books are [E, cells, seeds, ...], beliefs weighted
    means over seeds, [E, cells, ...]. ``weights`` [seeds] sum to 1 over the seeds that count and are 0 for padding.
    ``progress`` is told the rounds played since the last stop, ``checkpointer`` is asked at every one.
    """
    timeline = jax.tree.map(lambda rounds: np.asarray(rounds, np.int32), timeline)
    carry = checkpointer.resume(program.state, program.seen) if checkpointer else None
    if carry is None:
        carry = Checkpoint(
            rounds=0, state=program.start(*program.placed(worlds, policies, keys), timeline.horizon), seen=[]
        )
    elif carry.rounds:
        progress(carry.rounds)
    first, seen, pace = carry.rounds, carry.seen, StepBudget()
    *fixed, state, timeline = program.placed(worlds, policies, keys, carry.state, timeline)
    del carry  # its state is given away below
    for mark in marks[len(seen) :]:
        while first < mark:
            began, stop = perf_counter(), min(first + pace.rounds, int(mark))
            state, looked = program.advance(*fixed, state, timeline, np.int32(first), np.int32(stop))
            if stop == mark:
                seen.append(_mean_beliefs(jax.device_get(looked), weights))
            jax.block_until_ready(state)
            pace.took(stop - first, perf_counter() - began)
            progress(stop - first)
            first = stop
            if checkpointer:
                checkpointer.stopped(Checkpoint(rounds=first, state=state, seen=seen), last=first == marks[-1])
    return jax.tree.map(lambda *leaves: np.stack(leaves), *seen)


def _mean_beliefs(seen: rollout.Snapshot, weights: np.ndarray) -> rollout.Snapshot:
    """Beliefs [cells, ...] from [cells, seeds, ...]; seeds of weight 0 are left out, whatever they hold."""
    real = np.flatnonzero(weights)
    share = np.asarray(weights, np.float64)[real]

    def mean(values: np.ndarray) -> np.ndarray:
        return np.einsum("s,cs...->c...", share, values[:, real]).astype(values.dtype)

    means: dict[str, Any] = {name: mean(getattr(seen, name)) for name in BELIEFS}
    return replace(seen, **means)
