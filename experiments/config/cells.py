"""From a study's cells to arrays: identity, instances, policies, and the groups that share one compiled program."""

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bandits.deployment import DEPLOYMENT
from bandits.estimators.confidence import Confidence
from bandits.forecasting.base import FORECASTERS
from bandits.policy import Policy
from bandits.routing import ROUTING
from envs import build as instances
from envs import catalogue as catalogues
from envs import inventory
from envs.build import Instance
from envs.catalogue import Catalogue
from envs.demand import arrivals
from envs.errors import InputError
from envs.timeline import Timeline
from experiments import interrupt
from experiments.config import rule_errors, sources
from experiments.config.study import REGISTRIES, CellConfig, StudyConfig

FORMAT = 6  # of the results; part of every cell's identity


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell, ready to be simulated."""

    config: CellConfig
    id: str  # hash of everything its results depend on
    # What it is made of, every value given or default, in groups; what code and files that depends on.
    parameters: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, dict[str, Any]] = field(default_factory=dict)
    stream: int  # which random stream its runs draw from
    instance: Instance
    policy: Policy  # NumPy leaves
    models_padded: int
    timeline: Timeline  # NumPy leaves; cells of a batch must have the same


def build(study: StudyConfig) -> list[Cell]:
    """All cells of a study, in the order of its sweep, each with its world and policy.

    Models are padded to the largest number that one of the study's worlds has anywhere in the sweep.
    """
    _read_catalogue.cache_clear()  # a study reads each file once, and as it is now
    padded: dict[str | None, int] = {}
    for cell in interrupt.looking(study.cells):
        padded[cell.world] = max(_catalogue(cell).num_models, padded.get(cell.world, 0))
    worlds: dict[str, Instance] = {}
    contents: dict[str, str] = {}
    configs = interrupt.looking(study.cells)
    return [_cell(study, config, padded[config.world], worlds, contents) for config in configs]


def record(cells: Sequence[Cell]) -> dict[str, Any]:
    """What a folder records of a study's cells: their ids, spaces between, and what they depend on -> its digest."""
    code: dict[str, str] = {}
    for cell in cells:
        code |= sources.components(cell.sources)
    return {"cells": " ".join(cell.id for cell in cells), "code": dict(sorted(code.items()))}


def groups(cells: Iterable[Cell]) -> list[list[Cell]]:
    """Cells that share a static signature (the structure and shapes of their pytrees), in order of first appearance."""
    found: dict[Any, list[Cell]] = {}
    for cell in cells:
        leaves, structure = jax.tree.flatten((cell.instance.world, cell.policy))
        signature = (structure, tuple((np.shape(leaf), np.asarray(leaf).dtype) for leaf in leaves))
        found.setdefault(signature, []).append(cell)
    return list(found.values())


def stack(cells: list[Cell]) -> tuple[Any, Any]:
    """(worlds, policies) with a leading cell axis."""
    pairs = [(cell.instance.world, cell.policy) for cell in cells]
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *pairs)


def _cell(
    study: StudyConfig, config: CellConfig, padded: int, worlds: dict[str, Instance], contents: dict[str, str]
) -> Cell:
    catalogue = _catalogue(config)
    dtype = np.float64 if study.precision == "float64" else np.float32
    demand_identity = _demand_identity(config)
    world_identity = sources.digest(
        [_catalogue_identity(catalogue), asdict(config.env), demand_identity, config.horizon]
    )
    if world_identity not in worlds:
        with _representable(config):
            demand = _demand(config)
            world = instances.build(catalogue, demand, config.horizon, config.env, padded, dtype)
            _refuse_infinite(world.world)
        worlds[world_identity] = world
    found = _sources(config, contents)
    identity = {
        "format": FORMAT,
        "policy": asdict(replace(config.policy, forecaster=None)),
        "code": {kind: sources.code(found[kind]) for kind in ("engine", *REGISTRIES)},
        "world": world_identity,
        "forecaster": config.forecaster,
        "seeds": study.seeds,
        "root_seed": study.root_seed,
        "eval_rounds": [study.eval_rounds, study.eval_spacing],
        "precision": study.precision,
    }
    # Policies, budgets and targets share their streams, so that they are compared on the same demand and luck.
    stream = sources.digest([_catalogue_identity(catalogue), demand_identity, config.horizon])
    with _representable(config):
        policy = _policy(config, dtype)
    return Cell(
        config=config,
        id=sources.digest(identity)[:16],
        parameters=_parameters(study, config),
        sources=found,
        stream=int(stream[:8], 16),
        instance=worlds[world_identity],
        policy=policy,
        models_padded=padded,
        timeline=_timeline(config.horizon, worlds[world_identity], policy),
    )


@contextmanager
def _representable(config: CellConfig) -> Iterator[None]:
    """InputError where numbers, each fine alone, are together too large or too small to compute with."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            yield
    except (ArithmeticError, RuntimeWarning) as error:
        extremes = ", ".join(_extremes({"env": asdict(config.env), "demand": config.demand}))
        if rule_errors.is_theirs(error):
            raise
        raise InputError(
            f"{extremes or 'env and demand'}: too large or too small to compute with ({error}); give moderate numbers"
        ) from error


def _refuse_infinite(world: Any) -> None:
    for path, leaf in jax.tree.leaves_with_path(world):
        if np.issubdtype(np.asarray(leaf).dtype, np.floating) and not np.isfinite(leaf).all():
            raise FloatingPointError(f"{jax.tree_util.keystr(path, simple=True, separator='.')} is not finite")


def _extremes(value: Any, where: str = "") -> Iterator[str]:
    """The numbers that may be why: "demand.noise is 1e+300"."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield from _extremes(entry, f"{where}.{key}" if where else str(key))
    elif isinstance(value, int | float) and value and not 1e-6 <= abs(value) <= 1e6:
        yield f"{where} is {value:g}"


def _timeline(horizon: int, instance: Instance, policy: Policy) -> Timeline:
    """Rules without ``resolve_every`` are told to solve only where what is live changes."""
    resolve_every = min(int(getattr(policy.routing, "resolve_every", inventory.NEVER)), inventory.NEVER)
    return inventory.timeline(instance.world.inventory, horizon, instance.stages, resolve_every)


def _sources(config: CellConfig, contents: dict[str, str]) -> dict[str, dict[str, Any]]:
    """The code of the engine and of each of a cell's parts, by kind, and the content of the files that it reads.

    ``contents`` keeps the digests of catalogues.
    """
    names = {
        "routing": config.policy.routing,
        "deployment": config.policy.deployment,
        "forecaster": config.forecaster["name"],
        "demand": config.demand["process"],
    }
    found = {kind: sources.of(kind, name) for kind, name in names.items()}
    found["engine"] = {"sha256": sources.engine()}
    if config.catalogue not in catalogues.GENERATED:
        if config.catalogue not in contents:
            contents[config.catalogue] = sources.digest(_catalogue_identity(_read_catalogue(config.catalogue)))
        found["catalogue"] = {"name": config.catalogue, "sha256": contents[config.catalogue]}
    if config.demand.get("path"):
        found["trace"] = {"name": config.demand["path"], "sha256": _demand_identity(config)["path"]}
    return found


def _parameters(study: StudyConfig, config: CellConfig) -> dict[str, Any]:
    """Everything that a cell is made of, as plain values; what was asked for is one way among many to say it."""
    policy, world = config.policy, asdict(config.env)
    chosen = {name: getattr(config, name) for name in ("catalogue", "num_models", "first_quality", "quality_gap")}
    return {
        "routing": {"name": policy.routing, **policy.parameters},
        "deployment": {"name": policy.deployment, **policy.deployment_parameters},
        "confidence": dict(policy.confidence),
        "forecaster": dict(config.forecaster),
        "demand": dict(config.demand),
        "env": chosen | world.pop("arrival_pattern") | world,
        "horizon": config.horizon,
        "seeds": study.seeds,
        "root_seed": study.root_seed,
        "eval_rounds": study.eval_rounds,
        "eval_spacing": study.eval_spacing,
        "precision": study.precision,
    }


def _policy(config: CellConfig, dtype: type) -> Policy:
    given, chosen = dict(config.forecaster), config.policy
    policy = Policy(
        deployment=DEPLOYMENT[chosen.deployment](**chosen.deployment_parameters),
        routing=ROUTING[chosen.routing](**chosen.parameters),
        forecaster=FORECASTERS[given.pop("name")](**given),
        confidence=Confidence(**chosen.confidence),
    )
    for path, leaf in jax.tree.leaves_with_path(policy):
        if isinstance(leaf, bool) or not isinstance(leaf, int | float | np.ndarray | jax.Array):
            part, _, name = jax.tree_util.keystr(path, simple=True, separator=".").partition(".")
            owner = type(getattr(policy, part)).__name__
            raise InputError(
                f"policy ({config.policy.name}): {name} of {owner} is {leaf!r}, which is no number; declare parameters "
                "with number(...) or choice(...)"
            )
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), policy)


def _catalogue(config: CellConfig) -> Catalogue:
    if config.catalogue in catalogues.GENERATED:
        made = config.num_models, config.first_quality, config.quality_gap
        return catalogues.generated(config.catalogue, *made)  # type: ignore[arg-type]
    found = _read_catalogue(config.catalogue)
    return found if config.num_models is None else found.first(config.num_models)


@cache
def _read_catalogue(name: str) -> Catalogue:
    return catalogues.find(name)


def _demand(config: CellConfig) -> arrivals.Demand:
    return arrivals.build(config.demand["process"], config.demand)


def _demand_identity(config: CellConfig) -> dict[str, Any]:
    """The demand's parameters, with the content of a trace in place of its path."""
    identity = dict(config.demand)
    if identity.get("path"):
        file = Path(identity["path"]).expanduser()
        identity["path"] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    return identity


def _catalogue_identity(catalogue: Catalogue) -> list[Any]:
    columns = (getattr(catalogue, name) for name in ("tier_cloud", "quality", "cost_usd", "cost_cv"))
    more = (getattr(catalogue, name) for name in ("latency_s", "latency_cv"))
    extras = [[name, values.tolist()] for name, values in sorted(catalogue.extras.items()) if values.dtype.kind == "f"]
    partial = catalogue.released, catalogue.retired, catalogue.cost_max_usd
    known = [[None if np.isnan(value) else value for value in values] for values in partial]
    return [list(catalogue.names), *(column.tolist() for column in (*columns, *more)), extras, known]
