"""Many runs at once: cells × seeds through one compiled program, walked checkpoint by checkpoint from the host.

A *batch* is a block of cells that share a static signature and a clock, times a block of seeds. Worlds and learners
carry a leading cell axis; on the device runs carry a leading cell axis and seeds as the last one
(``experiments.lanes``), in what comes back a leading (cell, seed) pair. Horizons share the executable because the loop
bounds are traced and unbatched. The host walks from checkpoint to checkpoint, which gives progress and memory that does
not grow with the horizon.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bandits.agent import Learner
from envs.clock import Clock
from envs.edge_cloud import World
from experiments import rollout
from experiments.lanes import lanes_last

BELIEFS = ("lower", "upper", "covered")  # of a snapshot: what is kept as a mean over runs

_LANES = 64  # runs side by side on a CPU core: four vectors of the widest registers, and a state that stays near

_traces = 0


def traces() -> int:
    """How often the simulation has been traced in this process: once a static group."""
    return _traces


def checkpoints(horizon: int, number: int, spacing: str = "log") -> np.ndarray:
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


@jax.jit
def _start(worlds: World, learners: Learner, keys: jax.Array, horizon: jax.Array) -> rollout.RunState:
    """The states before the first round, [cells, ..., seeds]."""

    def one(key: jax.Array, world: World, learner: Learner) -> rollout.RunState:
        return rollout.start(world, learner, key, horizon)

    over_seeds = lanes_last(one, (True, False, False))
    over_cells = jax.vmap(over_seeds, (None, 0, 0, 0))
    return _block_by_block(lambda keys, *cells: over_cells(horizon >= 0, keys, *cells), keys, (worlds, learners))


@partial(jax.jit, donate_argnames="state")
def _advance(
    worlds: World,
    learners: Learner,
    keys: jax.Array,
    weights: jax.Array,
    state: rollout.RunState,
    clock: Clock,
    first: jax.Array,
    stop: jax.Array,
) -> tuple[rollout.RunState, rollout.Snapshot]:
    """Play to the next checkpoint; beliefs come back as weighted means over seeds, the books run by run.

    States and books are [cells, ..., seeds]: see ``experiments.lanes``.
    """
    global _traces
    _traces += 1

    def one(
        state: rollout.RunState, key: jax.Array, world: World, learner: Learner
    ) -> tuple[rollout.RunState, rollout.Snapshot]:
        state = rollout.advance(world, learner, key, state, clock, first, stop)
        return state, rollout.snapshot(world, learner, state)

    over_seeds = lanes_last(one, (True, True, False, False))
    over_cells = jax.vmap(over_seeds, (None, 0, 0, 0, 0))
    state, seen = _block_by_block(
        lambda runs, *cells: over_cells(stop >= 0, *runs, *cells), (state, keys), (worlds, learners)
    )

    def mean(values: jax.Array) -> jax.Array:
        return jnp.tensordot(values, weights, 1, precision="highest")

    fields = vars(seen)
    return state, rollout.Snapshot(**{**fields, **{k: mean(fields[k]) for k in BELIEFS}})


def block_shape(cells: int, seeds: int) -> tuple[int, int]:
    """(cells, seeds) that are simulated side by side: on a CPU about as many as its nearest cache holds, else all."""
    if jax.default_backend() != "cpu":
        return cells, seeds
    deep = -(-seeds // -(-seeds // _LANES))
    wide = max(1, _LANES // deep)
    return -(-cells // -(-cells // wide)), deep


def whole_blocks(cells: int, seeds: int) -> tuple[int, int]:
    """The smallest batch of at least that many cells and seeds that consists of whole blocks."""
    wide, deep = block_shape(cells, seeds)
    return -(-cells // wide) * wide, -(-seeds // deep) * deep


def _block_by_block(function: Callable[..., Any], runs: Any, cells: Any) -> Any:
    """``function`` of the leaves [cells, ..., seeds] of ``runs`` and [cells, ...] of ``cells``, a block at a time."""
    width, depth = jax.tree.leaves(cells)[0].shape[0], jax.tree.leaves(runs)[0].shape[-1]
    wide, deep = block_shape(width, depth)
    if (wide, deep) == (width, depth):
        return function(runs, *cells)

    def split(leaf: jax.Array) -> jax.Array:
        parted = leaf.reshape((width // wide, wide, *leaf.shape[1:-1], depth // deep, deep))
        return jnp.moveaxis(parted, -2, 1)

    def joined(leaf: jax.Array) -> jax.Array:
        together = jnp.moveaxis(leaf, 1, -2)
        return together.reshape((width, *together.shape[2:-2], depth))

    def over_seeds(block: tuple[Any, Any]) -> Any:
        return jax.lax.map(lambda part: function(part, *block[1]), block[0])

    blocks = jax.tree.map(lambda leaf: leaf.reshape((width // wide, wide, *leaf.shape[1:])), cells)
    return jax.tree.map(joined, jax.lax.map(over_seeds, (jax.tree.map(split, runs), blocks)))


@dataclass(frozen=True, kw_only=True)
class Program:
    """The compiled simulation of one static group at one batch shape."""

    start: Any
    advance: Any
    compile_seconds: float


def compile_program(worlds: World, learners: Learner, keys: jax.Array) -> Program:
    """Compile once for a batch shape; horizons, budgets and every other number are arguments."""
    began = perf_counter()
    rounds = jnp.zeros((), jnp.int32)
    weights = jnp.zeros(keys.shape[1], worlds.reward_mean.dtype)
    start = _start.lower(worlds, learners, keys, rounds).compile()
    state = jax.eval_shape(_start, worlds, learners, keys, rounds)
    changes = jnp.zeros(2 * worlds.reward_mean.shape[1], jnp.int32)
    clock = Clock(horizon=rounds, stages=rounds, changes=changes, resolve_every=rounds)
    advance = _advance.lower(worlds, learners, keys, weights, state, clock, rounds, rounds).compile()
    return Program(start=start, advance=advance, compile_seconds=perf_counter() - began)


def simulate(
    program: Program,
    worlds: World,
    learners: Learner,
    keys: jax.Array,
    weights: np.ndarray,
    clock: Clock,
    marks: np.ndarray,
    progress: Callable[[int], None] = lambda rounds: None,
) -> rollout.Snapshot:
    """Snapshots at every mark, stacked on the host along a leading checkpoint axis [E, ...].

    All cells share the ``clock``; the last mark is its horizon.
    ``weights`` [seeds] sum to 1 over the seeds that count and are 0 for padding. ``progress`` is told the rounds played
    after each checkpoint.
    """
    device_clock = jax.tree.map(lambda rounds: jnp.asarray(rounds, jnp.int32), clock)
    state = program.start(worlds, learners, keys, device_clock.horizon)
    device_weights = jnp.asarray(weights, worlds.reward_mean.dtype)
    snapshots, first = [], 0
    for mark in marks:
        bounds = jnp.asarray(first, jnp.int32), jnp.asarray(mark, jnp.int32)
        state, seen = program.advance(worlds, learners, keys, device_weights, state, device_clock, *bounds)
        snapshots.append(runs_first(jax.device_get(seen)))
        progress(int(mark) - first)
        first = int(mark)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *snapshots)


def runs_first(seen: rollout.Snapshot) -> rollout.Snapshot:
    """Books [cells, seeds, ...] from [cells, ..., seeds], on the host."""
    fields = vars(seen)
    books = {name: value for name, value in fields.items() if name not in BELIEFS}
    return rollout.Snapshot(**{**fields, **jax.tree.map(lambda leaf: np.moveaxis(leaf, -1, 1), books)})
