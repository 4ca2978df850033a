"""Small worlds, learners and batches for tests; everything goes through the builders that studies use."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from bandits import forecast, parameters
from bandits.agent import Learner
from bandits.confidence import Confidence
from bandits.routing import ROUTING
from envs import catalogue as catalogues
from envs import demand as demands
from envs import instance as instances
from envs.catalogue import Catalogue
from envs.edge_cloud import World
from envs.instance import EdgeCloud, Instance
from experiments import batch
from experiments.rollout import Snapshot

SETTINGS: dict[str, Any] = {
    "budget_per_task": 3.0e-4,
    "resources": {},
    "budget_rule": "skip",
    "target": 0.7,
    "latency_slo_s": 6.0,
    "floors": {},
    "cloud_rtt_s": 0.1,
    "edge_throughput": 0.6,
    "cloud_throughput": 1.0,
    "quality_noise": "bernoulli",
    "quality_concentration": 4.0,
    "cost_bound_multiple": 4.0,
    "demand_seen": "before",
}
DEMAND: dict[str, Any] = {"process": "constant", "mean": 5.0, "counts": "poisson"}
TWO_OF_EACH: dict[str, Any] = {"resources": {"energy_wh": 0.3}, "floors": {"quality": 0.5}}
NONE_OF_EITHER: dict[str, Any] = {"budget_per_task": None, "target": None}


def catalogue(num_models: int = 4) -> Catalogue:
    """The first RouterBench models, with a column of energy that is not proportional to cost."""
    found = catalogues.find("routerbench").first(num_models)
    return replace(found, extras={**found.extras, "energy_wh": 0.1 + 0.4 * found.quality**2})


def settings(**overrides: Any) -> EdgeCloud:
    return EdgeCloud(**{**SETTINGS, **overrides})


def instance(
    *,
    models: Catalogue | int = 4,
    horizon: int = 200,
    padded: int | None = None,
    demand: Mapping[str, Any] | None = None,
    dtype: type = np.float32,
    **overrides: Any,
) -> Instance:
    """An instance of ``models`` with any of ``SETTINGS`` and ``DEMAND`` overridden."""
    chosen = catalogue(models) if isinstance(models, int) else models
    described = {**DEMAND, **(demand or {})}
    process = demands.build(described["process"], described)
    return instances.build(chosen, process, horizon, settings(**overrides), padded or chosen.num_models, dtype)


def world(**overrides: Any) -> World:
    """The world of ``instance``."""
    return instance(**overrides).world


def learner(
    rule: str = "uniform",
    *,
    forecaster: str = "running_mean",
    confidence: Mapping[str, Any] | None = None,
    dtype: type = np.float32,
    **values: Any,
) -> Learner:
    """A learner with NumPy leaves, as studies make them."""
    made = Learner(
        rule=parameters.build(ROUTING[rule], values, rule),
        forecaster=forecast.build(forecaster, {}),
        confidence=parameters.build(Confidence, confidence or {}, "confidence"),
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), made)


def stacked(items: Sequence[Any]) -> Any:
    """Equal pytrees with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *items)


def play(
    worlds: World | Sequence[World],
    learners: Learner | Sequence[Learner],
    *,
    runs: int = 8,
    marks: Sequence[int] = (200,),
    root_seed: int = 0,
    streams: Sequence[int] | None = None,
    first_seed: int = 0,
) -> Snapshot:
    """Snapshots [E, cells, runs, ...] (beliefs [E, cells, ...]) of one batch through ``experiments.batch``.

    A single world or learner is repeated for as many cells as there are of the other.
    """
    many = [w if isinstance(w, Sequence) else [w] for w in (worlds, learners)]
    number = max(len(items) for items in many)
    worlds, learners = (stacked(list(items) * (number // len(items))) for items in many)
    keys = batch.run_keys(
        root_seed,
        np.asarray(range(number) if streams is None else streams, np.uint32),
        np.arange(first_seed, first_seed + runs),
    )
    program = batch.compile_program(worlds, learners, keys)
    return batch.simulate(program, worlds, learners, keys, np.full(runs, 1.0 / runs), marks)
