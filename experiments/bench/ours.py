"""The engine's own loop, driven as a study drives it: chunks of runs side by side, one a core."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from bandits.deployment import DEPLOYMENT
from bandits.estimators.confidence import Confidence
from bandits.forecasting import base
from bandits.policy import Policy
from bandits.routing import ROUTING
from envs import inventory, ledger
from envs.timeline import Timeline
from experiments.bench import instance
from experiments.bench.instance import Totals
from experiments.engine import batch
from experiments.engine.batch import Program
from experiments.jobs import runner


@dataclass(frozen=True, kw_only=True)
class Loop:
    """A compiled loop over a chunk of runs; ``program.compile_seconds`` is kept apart from every time."""

    program: Program
    worlds: Any
    policies: Any
    timeline: Timeline
    lanes: int  # runs of a chunk


def loop(rule: str, horizon: int, lanes: int, deployment: str = "everything") -> Loop:
    """Two rules with their defaults and the total demand known, over ``horizon`` rounds; float32."""
    world = instance.world(horizon)
    policy = Policy(
        deployment=DEPLOYMENT[deployment](),
        routing=ROUTING[rule](),
        forecaster=base.build("oracle", {}),
        confidence=Confidence(confidence=instance.CONFIDENCE),
    )
    worlds, policies = jax.tree.map(lambda leaf: np.asarray(leaf)[None], (world, _float32(policy)))
    program = batch.compile_program(worlds, policies, batch.run_keys(0, np.zeros(1, np.uint32), np.arange(lanes)))
    resolve_every = int(getattr(policy.routing, "resolve_every", inventory.NEVER))
    timeline = inventory.timeline(world.inventory, horizon, 1, resolve_every)
    return Loop(program=program, worlds=worlds, policies=policies, timeline=timeline, lanes=lanes)


def _float32(policy: Policy) -> Policy:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), policy)


def play(made: Loop, runs: int) -> Totals:
    """Play ``runs`` runs, a multiple of the lanes, to the horizon."""
    weights = np.full(made.lanes, 1.0 / made.lanes)
    marks = np.array([int(made.timeline.horizon)])

    def chunk(first: int) -> Any:
        keys = batch.run_keys(0, np.zeros(1, np.uint32), np.arange(first, first + made.lanes))
        return batch.simulate(made.program, made.worlds, made.policies, keys, weights, made.timeline, marks)

    with ThreadPoolExecutor(runner.cores()) as pool:
        seen = list(pool.map(chunk, range(0, runs, made.lanes)))
    world = made.worlds

    def total(name: str, scale: np.ndarray = world.scale[0]) -> np.ndarray:
        """[runs, ...] of one book; every chunk is one cell."""
        return np.concatenate([ledger.host_value(getattr(one.world, name), scale)[-1, 0] for one in seen])

    return Totals(
        reward=total("reward"),
        spent=total("spent", world.consumption_scale[0])[:, 0],
        service=total("service")[:, 0],
        served=total("served").sum(axis=1),
    )
