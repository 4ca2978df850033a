"""Small worlds, policies and batches for tests; everything goes through the builders that studies use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bandits.deployment import DEPLOYMENT, DeploymentRule
from bandits.estimators.confidence import Confidence
from bandits.forecasting import base
from bandits.policy import Policy
from bandits.routing import ROUTING, RoutingRule, RoutingView
from envs import build as instances
from envs import catalogue as catalogues
from envs import inventory, ledger, parameters
from envs.build import EdgeCloud, Instance
from envs.catalogue import Catalogue
from envs.demand import arrivals
from envs.inventory import ArrivalPattern
from envs.timeline import Timeline
from envs.types import Feedback, Problem, Truth
from envs.world import World
from experiments.engine import batch, rollout
from experiments.engine.rollout import Snapshot

SETTINGS: dict[str, Any] = {
    "budget_per_task": 3.0e-4,
    "budget_usd": None,
    "cost_unit": None,
    "cost_cv": None,
    "latency_cv": None,
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
    "max_deployed": None,
    "stages": 1,
    "stage_exponent": 1 / 3,
    "deployment_cost_usd": 0.0,
}
SCHEDULE: dict[str, Any] = {
    "arrivals": "start",
    "arrival_order": "listed",
    "arrival_span": 0.6,
    "initial_models": 1,
    "arrival_seed": 0,
    "arrival_at": (),
    "retirement_at": (),
    "lifetime": None,
}
DEMAND: dict[str, Any] = {"process": "constant", "mean": 5.0, "counts": "poisson"}
TWO_OF_EACH: dict[str, Any] = {"resources": {"energy_wh": 0.3}, "floors": {"quality": 0.5}}
NONE_OF_EITHER: dict[str, Any] = {"budget_per_task": None, "target": None}


def catalogue(num_models: int = 4) -> Catalogue:
    """The first RouterBench models, with a column of energy that is not proportional to cost."""
    found = catalogues.find("routerbench").first(num_models)
    return replace(found, extras={**found.extras, "energy_wh": 0.1 + 0.4 * found.quality**2})


def settings(**overrides: Any) -> EdgeCloud:
    """Any of ``SETTINGS`` and ``SCHEDULE`` overridden."""
    schedule = ArrivalPattern(**{key: overrides.pop(key, value) for key, value in SCHEDULE.items()})
    return EdgeCloud(arrival_pattern=schedule, **{**SETTINGS, **overrides})


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
    process = arrivals.build(described["process"], described)
    return instances.build(chosen, process, horizon, settings(**overrides), padded or chosen.num_models, dtype)


def world(**overrides: Any) -> World:
    """The world of ``instance``."""
    return instance(**overrides).world


def limited(world: World, budget: np.ndarray, target: np.ndarray) -> World:
    """The world with other budgets [P], in normalised units and inf for none, and targets [C]."""
    problem = replace(world.problem, budget=budget, target=target)
    amount = [Fraction(2**200) if np.isinf(most) else Fraction(float(most)) for most in budget]
    return replace(world, problem=problem, budget=ledger.limit(amount, np.asarray(world.consumption_scale)))


def policy(
    routing: str | RoutingRule = "uniform",
    *,
    deployment: str | DeploymentRule = "everything",
    forecaster: str = "running_mean",
    confidence: Mapping[str, Any] | None = None,
    dtype: type = np.float32,
    **values: Any,
) -> Policy:
    """A policy with NumPy leaves, as studies make them."""
    made = Policy(
        deployment=deployment if isinstance(deployment, DeploymentRule) else DEPLOYMENT[deployment](),
        routing=routing if isinstance(routing, RoutingRule) else parameters.build(ROUTING[routing], values, routing),
        forecaster=base.build(forecaster, {}),
        confidence=parameters.build(Confidence, confidence or {}, "confidence"),
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf, dtype), made)


def stacked(items: Sequence[Any]) -> Any:
    """Equal pytrees with a leading axis."""
    return jax.tree.map(lambda *leaves: np.stack([np.asarray(leaf) for leaf in leaves]), *items)


_PROGRAMS: dict[Any, batch.Program] = {}


def program(worlds: World, policies: Policy, keys: jax.Array) -> batch.Program:
    """The compiled program of these shapes, shared by all tests of a process: compiling is what tests wait for."""
    leaves, structure = jax.tree.flatten((worlds, policies, keys))
    signature = (structure, *((np.shape(leaf), leaf.dtype) for leaf in leaves))
    if signature not in _PROGRAMS:
        _PROGRAMS[signature] = batch.compile_program(worlds, policies, keys)
    return _PROGRAMS[signature]


def arranged(
    worlds: World | Sequence[World],
    policies: Policy | Sequence[Policy],
    runs: int,
    root_seed: int = 0,
    streams: Sequence[int] | None = None,
    first_seed: int = 0,
) -> tuple[World, Policy, jax.Array]:
    """The arguments of a batch: worlds and policies stacked over cells, and keys [cells, runs]."""
    many = [items if isinstance(items, Sequence) else [items] for items in (worlds, policies)]
    number = max(len(items) for items in many)
    worlds, policies = (stacked(list(items) * (number // len(items))) for items in many)
    cells = np.asarray(range(number) if streams is None else streams, np.uint32)
    return worlds, policies, batch.run_keys(root_seed, cells, np.arange(first_seed, first_seed + runs))


def timeline(world: World, horizon: int, *, stages: int = 1, resolve_every: int = 1) -> Timeline:
    """The timeline of a world with its rounds cut off at ``horizon``."""
    return inventory.timeline(world.inventory, horizon, stages, resolve_every)


def play(
    worlds: World | Sequence[World],
    policies: Policy | Sequence[Policy],
    *,
    runs: int = 8,
    marks: Sequence[int] = (200,),
    root_seed: int = 0,
    streams: Sequence[int] | None = None,
    first_seed: int = 0,
    stages: int = 1,
    resolve_every: int = 1,
) -> Snapshot:
    """Snapshots [E, cells, runs, ...] (beliefs [E, cells, ...]) of one batch through ``experiments.engine.batch``.

    A single world or policy is repeated for as many cells as there are of the other. The first world sets the timeline.
    """
    first = worlds[0] if isinstance(worlds, Sequence) else worlds
    when = timeline(first, marks[-1], stages=stages, resolve_every=resolve_every)
    worlds, policies, keys = arranged(worlds, policies, runs, root_seed, streams, first_seed)
    compiled = program(worlds, policies, keys)
    return batch.simulate(compiled, worlds, policies, keys, np.full(runs, 1.0 / runs), when, marks)


def catalogue_of(
    quality: np.ndarray, cost_usd: np.ndarray, *, cost_cv: float = 0.5, cloud: np.ndarray | None = None
) -> Catalogue:
    """A catalogue of made-up models."""
    number = len(quality)
    known = catalogue(number)
    return replace(
        known,
        names=tuple(f"model-{m}" for m in range(number)),
        tier_cloud=np.ones(number, bool) if cloud is None else cloud,
        quality=np.asarray(quality, float),
        cost_usd=np.asarray(cost_usd, float),
        cost_cv=np.full(number, cost_cv),
        extras={"energy_wh": 0.1 + 0.4 * np.asarray(quality, float) ** 2},
    )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Reckless(RoutingRule):
    """Random shares far beyond every cap, sometimes not a number: what a broken rule of somebody's might do."""

    scale: float | jax.Array = 3.0
    broken: float | jax.Array = 0.0  # chance a round that the decision is not a number

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        uniform = jax.random.uniform(view.key, (view.caps.shape[0] + 1,), view.caps.dtype)
        return jnp.where(uniform[-1] < self.broken, jnp.nan, self.scale * uniform[:-1]), state


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Recorded:
    """What a rule was shown in a round, what it decided and what came of it."""

    view: RoutingView
    shares: jax.Array  # [M]
    feedback: Feedback
    duals: jax.Array  # [P + C] before the round


_noted: list[Any] = []  # what a Recorder has noted while the round is traced, for the code around that round


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Recorder(RoutingRule):
    """A rule that notes each round beside the rule that it wraps, whose state it leaves alone."""

    inner: RoutingRule

    @property
    def clairvoyant(self) -> bool:
        return self.inner.clairvoyant

    def init(self, problem: Problem, truth: Truth | None) -> Any:
        return self.inner.init(problem, truth)

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        shares, after = self.inner.decide(state, view)
        _noted.append((shares, self.inner.duals(state, view.problem)))
        return shares, after

    def update(self, state: Any, view: RoutingView, feedback: Feedback) -> Any:
        shares, duals = _noted.pop()
        # The key is left out: it is consumed, and one per round must not leave the loop.
        _noted.append(Recorded(view=replace(view, key=None), shares=shares, feedback=feedback, duals=duals))
        return self.inner.update(state, view, feedback)


FINE = 2**160  # parts of a unit in which every quantum is whole


def exactly(total: ledger.Total, scale: Any) -> np.ndarray:
    """A total [...] in ``FINE`` parts of a unit, as Python integers; ``scale`` broadcasts."""
    parts = np.vectorize(lambda quanta: FINE // int(quanta), otypes=[object])(ledger.quanta(total, scale))
    return ledger.host_units(total).astype(object) * parts


def tasks_served(feedback: Feedback, models: int) -> np.ndarray:
    """[..., models] tasks that each model served."""
    mine = np.asarray(feedback.model)[..., None] == np.arange(models)
    return np.where(mine, np.asarray(feedback.demand)[..., None], 0.0)


def record(worlds: Sequence[World], made: Policy | Sequence[Policy], rounds: int, *, root_seed: int = 0) -> Recorded:
    """[cells, rounds, ...] records of one run in each world, played by the engine's own ``_round``.

    ``made`` is one policy for all worlds, or one for each.
    """
    policies = stacked(made if isinstance(made, Sequence) else [made] * len(worlds))

    def one(world: World, made: Policy, key: jax.Array) -> Recorded:
        watched = replace(made, routing=Recorder(inner=made.routing))

        def body(state: rollout.RunState, t: jax.Array) -> tuple[rollout.RunState, Recorded]:
            state = rollout._round(world, watched, key, state, t, t == 0)
            return state, _noted.pop()

        start = rollout.start(world, watched, key, world.problem.horizon)
        return jax.lax.scan(body, start, jnp.arange(rounds, dtype=jnp.int32))[1]

    return jax.device_get(jax.jit(jax.vmap(one))(stacked(worlds), policies, record_keys(len(worlds), root_seed)))


def record_keys(number: int, root_seed: int = 0) -> jax.Array:
    """[cells] keys of the runs that ``record`` plays."""
    return batch.run_keys(root_seed, np.arange(number, dtype=np.uint32), np.zeros(1, int))[:, 0]
