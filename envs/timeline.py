"""The two timelines of a run: rounds, and the stages (maintenance windows) they are divided into.

Stage k of K starts at round k · ⌊T/K⌋ + min(k, T mod K): all stages are equally long, the first ones by one round
longer where K does not divide T. A *boundary* is a round at which what can serve may change: a stage's start or a
model's arrival or retirement. All runs of a batch share one timeline, so what hangs on it stays a true branch.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Timeline:
    """When things happen; never batched."""

    horizon: jax.Array  # [] int32, number of rounds T
    stages: jax.Array  # [] int32, number of stages K, 1 <= K <= T
    changes: jax.Array  # [2M] int32, rounds at which a model arrives or retires, ascending; at or past T: not at all
    resolve_every: jax.Array  # [] int32, rounds between two solves of rules that solve on the shared timeline


def stage_start(horizon: int, stages: int, stage: int | np.ndarray) -> int | np.ndarray:
    """The first round of a stage, or of many [...]; stage K starts at T. On the host, in whole numbers."""
    return stage * (horizon // stages) + np.minimum(stage, horizon % stages)


def stage_began(timeline: Timeline, t: jax.Array) -> jax.Array:
    """[] int32, the first round of the stage that round t lies in."""
    length, longer = timeline.horizon // timeline.stages, timeline.horizon % timeline.stages
    early = longer * (length + 1)  # the first round of the first stage of plain length
    into = jnp.where(t < early, t % (length + 1), (t - early) % length)
    return t - into


def epoch_began(timeline: Timeline, t: jax.Array) -> jax.Array:
    """[] int32, the latest boundary that is not after round t."""
    changed = jnp.max(jnp.where(timeline.changes <= t, timeline.changes, 0), initial=0)
    return jnp.maximum(changed, stage_began(timeline, t))


def next_boundary(timeline: Timeline, t: jax.Array) -> jax.Array:
    """[] int32, the first boundary after round t, or the horizon."""
    length, longer = timeline.horizon // timeline.stages, timeline.horizon % timeline.stages
    began = stage_began(timeline, t)
    following = began + length + (began < longer * (length + 1))
    change = jnp.min(
        jnp.where(timeline.changes > t, timeline.changes, timeline.horizon), initial=np.iinfo(np.int32).max
    )
    return jnp.minimum(jnp.minimum(following, change), timeline.horizon)


def epoch(timeline: Timeline, t: jax.Array) -> jax.Array:
    """[] int32, how many of ``changes`` have happened by round t: the number of its span of constant inventory."""
    return jnp.sum(timeline.changes <= t, dtype=jnp.int32)
