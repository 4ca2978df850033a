"""Which models exist when: arrivals and retirements, made on the host for one horizon and handed over as data.

Rounds are counted from 0; a model is available in rounds arrival, ..., retirement - 1. Patterns scale with the horizon,
so that a sweep over horizons keeps its shape.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from envs.catalogue import Catalogue
from envs.errors import InputError
from envs.timeline import Timeline, stage_start

NEVER = np.iinfo(np.int32).max
ARRIVALS = ("start", "catalogue", "even", "poisson", "after_stage", "given")
ORDERS = ("listed", "released")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Inventory:
    """When each model exists."""

    arrival: jax.Array  # [M] int32, first round; NEVER for padding
    retirement: jax.Array  # [M] int32, first round without it; NEVER if it stays


@dataclass(frozen=True, kw_only=True)
class ArrivalPattern:
    """How models come and go. Shares are of the horizon."""

    arrivals: str  # one of ARRIVALS
    arrival_order: str  # one of ORDERS: who comes first in the generated patterns
    arrival_span: float  # the last arrival of catalogue, even and poisson
    initial_models: int  # how many are there from round 0 in catalogue, even, poisson and after_stage
    arrival_seed: int  # of poisson
    arrival_at: tuple[float, ...]  # given: each model's arrival in [0, 1), in the order of the catalogue
    retirement_at: tuple[float | None, ...]  # given: each model's retirement in (0, 1], None for never; () for none
    lifetime: float | None  # of every model after its arrival, None for ever; not for given


def available(inventory: Inventory, t: jax.Array) -> jax.Array:
    """[M] bool, the models that exist in round t."""
    return (inventory.arrival <= t) & (t < inventory.retirement)


def build(pattern: ArrivalPattern, catalogue: Catalogue, horizon: int, stages: int, padded: int) -> Inventory:
    """The inventory of ``catalogue`` over a horizon, padded with models that never exist.

    InputError: a pattern that does not fit the catalogue, or a model that retires before it arrives.
    """
    arrival, retirement = _rounds(pattern, catalogue, horizon, stages)
    for name, start, end in zip(catalogue.names, arrival, retirement, strict=True):
        if end <= start:
            raise InputError(
                f"{name} would retire at round {end}, before or as it arrives at round {start}; "
                "let it retire later (env.retirement_at, env.lifetime, or the catalogue's dates)"
            )
    if not (arrival == 0).any():
        raise InputError("env.arrival_at: no model is there at round 0; let at least one arrive at 0")
    missing = np.full(padded - len(arrival), NEVER)
    return Inventory(
        arrival=np.concatenate([arrival, missing]).astype(np.int32),  # type: ignore[arg-type]
        retirement=np.concatenate([retirement, missing]).astype(np.int32),  # type: ignore[arg-type]
    )


def changes(inventory: Inventory, horizon: int) -> np.ndarray:
    """[2M] int32, the rounds within (0, T) at which the inventory changes, ascending, then NEVER; on the host."""
    rounds = np.concatenate([np.asarray(inventory.arrival), np.asarray(inventory.retirement)])
    return np.sort(np.where((rounds > 0) & (rounds < horizon), rounds, NEVER)).astype(np.int32)


def timeline(inventory: Inventory, horizon: int, stages: int, resolve_every: int) -> Timeline:
    """The timeline of runs with this inventory, as NumPy arrays; ``resolve_every`` may be NEVER."""
    rounds = (horizon, stages, changes(inventory, horizon), resolve_every)
    names = ("horizon", "stages", "changes", "resolve_every")
    leaves = {name: np.asarray(value, np.int32) for name, value in zip(names, rounds, strict=True)}
    return Timeline(**leaves)  # type: ignore[arg-type]


def _rounds(pattern: ArrivalPattern, catalogue: Catalogue, horizon: int, stages: int) -> tuple[np.ndarray, np.ndarray]:
    """(arrival [N], retirement [N]), whole rounds."""
    number = catalogue.num_models
    if pattern.arrivals == "given":
        return _given(pattern, catalogue, horizon)
    if pattern.arrivals != "start" and not 1 <= pattern.initial_models <= number:
        raise InputError(
            f"env.initial_models is {pattern.initial_models}; it must be between 1 and the {number} models"
        )
    never = np.full(number, NEVER)
    if pattern.arrivals == "catalogue":
        arrival, retirement = _from_dates(pattern, catalogue, horizon)
    elif pattern.arrivals == "start":
        arrival, retirement = np.zeros(number, np.int64), never
    else:
        arrival, retirement = np.zeros(number, np.int64), never
        late = _order(pattern, catalogue)[pattern.initial_models :]
        arrival[late] = _newcomers(pattern, len(late), horizon, stages)
    if pattern.lifetime is not None:
        retirement = np.minimum(retirement, arrival + math.ceil(round(pattern.lifetime * horizon, 6)))
    return arrival, retirement


def _newcomers(pattern: ArrivalPattern, number: int, horizon: int, stages: int) -> np.ndarray:
    """[J] rounds at which the newcomers arrive, in order."""
    first = np.arange(1, number + 1)
    last = pattern.arrival_span * horizon
    if pattern.arrivals == "even":
        rounds = np.round(first * last / max(number, 1))
    elif pattern.arrivals == "poisson":
        # Given their number, the arrivals of a Poisson process are independent and uniform.
        rounds = np.sort(np.random.default_rng(pattern.arrival_seed).uniform(0.0, last, number))
    else:
        rounds = np.asarray(stage_start(horizon, stages, first * stages // (number + 1))) + 1
    return np.clip(rounds, 1, max(horizon - 1, 1)).astype(np.int64)


def _order(pattern: ArrivalPattern, catalogue: Catalogue) -> np.ndarray:
    """[N] rows of the catalogue, first comer first; models without a date come last."""
    listed = np.arange(catalogue.num_models)
    return listed if pattern.arrival_order == "listed" else np.argsort(catalogue.released, kind="stable")


def _from_dates(pattern: ArrivalPattern, catalogue: Catalogue, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Dates scaled so that the last of the initial models comes at round 0 and the last release at the span's end."""
    released = catalogue.released
    if np.isnan(released).any():
        unknown = catalogue.names[int(np.flatnonzero(np.isnan(released))[0])]
        raise InputError(f"env.arrivals=catalogue: {catalogue.path} has no release date for {unknown}; give one")
    start = np.sort(released)[pattern.initial_models - 1]
    days = max(released.max() - start, 1.0)
    scale = pattern.arrival_span * horizon / days
    arrival = np.round(np.maximum(released - start, 0.0) * scale).astype(np.int64)
    retired = np.where(np.isnan(catalogue.retired), np.inf, np.round((catalogue.retired - start) * scale))
    return arrival, np.minimum(retired, NEVER).astype(np.int64)


def _given(pattern: ArrivalPattern, catalogue: Catalogue, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    number = catalogue.num_models
    ends: Sequence[float | None] = pattern.retirement_at or (None,) * number
    for key, values in (("arrival_at", pattern.arrival_at), ("retirement_at", ends)):
        if len(values) != number:
            raise InputError(f"env.{key} holds {len(values)} values; it must hold one for each of the {number} models")
    if pattern.lifetime is not None:
        raise InputError("env.lifetime does not go with env.arrivals=given; give env.retirement_at in its place")
    arrival = np.round(np.asarray(pattern.arrival_at) * horizon).astype(np.int64)
    retirement = [NEVER if end is None else round(end * horizon) for end in ends]
    return arrival, np.asarray(retirement, np.int64)
