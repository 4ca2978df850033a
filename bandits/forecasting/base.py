"""Demand forecasters: what the next round brings, and all the rounds that are left.

Each forecaster watches one run through a state of constant size, so a run of any length costs the same memory. Numbers
(smoothing, period, noise) are traced and sweepable without recompiling; only what sets a shape is static.

A forecaster of one's own is a class and a decorator, inside this package or outside it::

    @forecaster("mine")
    class Mine(Forecaster):
        optimism: Number = number(1.2, low=0.0)

        def init(self, problem):
            return nominal_demand(problem)

        def learn(self, state, demand, profile):
            return demand

        def outlook(self, state, now):
            return steady(self.optimism * state, now)

Sources: Hyndman and Athanasopoulos, *Forecasting: Principles and Practice* (3rd ed., 2021), "FPP" below; Gardner,
*Exponential smoothing: the state of the art, part II* (2006).

>>> import jax.numpy as jnp
>>> problem = Problem(horizon=jnp.int32(4), exists=jnp.ones(1, bool), budget=jnp.ones(1), target=jnp.ones(0),
...     consumption_bound=jnp.ones((1, 1)), throughput=jnp.ones(1), expected_demand=jnp.asarray(40.0),
...     budget_hard=jnp.array(True), max_deployed=jnp.int32(1), demand_bound=jnp.asarray(40.0))
>>> ewma = build("ewma", {"smoothing": 0.5})
>>> state = ewma.init(problem)
>>> for demand in (10.0, 20.0):
...     state = ewma.update(state, jnp.asarray(demand), profile=jnp.asarray(10.0))
>>> forecast = ewma.predict(state, jnp.int32(2), problem, jnp.asarray(10.0), hint=None, key=jax.random.key(0))
>>> print(forecast.next, forecast.remaining)
15.0 30.0
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bandits import contract
from envs import parameters
from envs.parameters import choice, number
from envs.registry import Registry
from envs.types import Problem

Number = jax.Array | float


REFRESH = ("every", "powers_of_two")


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is predicted at the start of a round; nonnegative and finite."""

    next: jax.Array  # [] demand q_t of this round, tasks
    remaining: jax.Array  # [] demand of this round and all later ones, tasks; below 0 where more came than a total kept


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Hint:
    """What only oracles are told."""

    total: jax.Array  # [] realised total demand of the run
    next: jax.Array  # [] the true q_t of this round
    so_far: jax.Array  # [] demand of the earlier rounds


@dataclass(frozen=True, kw_only=True)
class Now:
    """The start of a round, as ``Forecaster.outlook`` sees it."""

    t: jax.Array  # [] int32, rounds completed
    rounds_left: jax.Array  # [] int32, this round included
    nominal: jax.Array  # [] a planner's demand per round
    expected_demand: jax.Array  # [] a planner's total over the horizon
    profile: jax.Array  # [] a planner's demand of this round
    hint: Hint | None  # for oracles only
    key: jax.Array  # typed key of this round, for noisy oracles


@dataclass(frozen=True, kw_only=True)
class Forecaster:
    """Predicts demand within one run. Subclasses become frozen pytrees when registered with ``forecaster``.

    The caller uses ``init``, then ``predict`` at the start of every round and ``update`` at its end, once each, so that
    after t rounds the state has seen q_0 .. q_{t-1}. A subclass supplies ``init``, ``outlook`` and ``learn``, all pure,
    for one run, under jit and vmap, in the float type of ``problem.expected_demand``. What they return may be negative
    or not a number: ``predict`` clips at zero and puts the planner's nominal figure in the place of what is no number.
    """

    needs_hint: ClassVar[bool] = False  # whether ``predict`` must be given a Hint

    upward_bias: Number = number(0.0, low=0.0)  # the remaining demand is multiplied by 1 + this
    refresh: str = choice("every", REFRESH)  # the rounds in which the total is predicted anew

    def init(self, problem: Problem) -> Any:
        """The state before the first round: any pytree of arrays of fixed shapes."""
        raise NotImplementedError

    def outlook(self, state: Any, now: Now) -> Forecast:
        """The rule itself: the forecast before bias and clipping."""
        raise NotImplementedError

    def learn(self, state: Any, demand: jax.Array, profile: jax.Array) -> Any:
        """The state after a round that brought ``demand`` [] where a planner expected ``profile`` []."""
        return state

    def check(self) -> None:
        """Raise InputError where parameters, each fine alone, do not fit together."""

    def predict(
        self, state: Any, t: jax.Array, problem: Problem, profile: jax.Array, hint: Hint | None, key: jax.Array
    ) -> Forecast:
        """The forecast at the start of round ``t`` [] int32, before its demand is known.

        ``profile`` [] is the nominal demand of the round, ``hint`` is read only where ``needs_hint``, and ``key`` only
        by noisy oracles.
        """
        nominal = nominal_demand(problem)
        rounds_left = _rounds_left(problem, t)
        now = Now(
            t=t,
            rounds_left=rounds_left,
            nominal=nominal,
            expected_demand=jnp.asarray(problem.expected_demand, nominal.dtype),
            profile=profile,
            hint=hint,
            key=key,
        )
        forecast: Any = self.outlook(state, now)
        if not isinstance(forecast, Forecast):
            text = f"returned a {type(forecast).__name__}; it must return a Forecast, as steady(level, now) makes one"
            raise contract.ContractError(self, "outlook", text)
        for name in ("next", "remaining"):
            if jnp.shape(getattr(forecast, name)) != ():
                text = f"returned {name} of shape {jnp.shape(getattr(forecast, name))}; it must be one number"
                raise contract.ContractError(self, "outlook", text)
        return Forecast(
            next=_sensible(forecast.next, nominal),
            remaining=_sensible((1.0 + self.upward_bias) * forecast.remaining, nominal * rounds_left),
        )

    def keep(
        self, kept: jax.Array | None, forecast: Forecast, t: jax.Array, so_far: jax.Array
    ) -> tuple[Forecast, jax.Array | None]:
        """(the forecast whose total obeys ``refresh``, that total [] for the next round).

        With ``powers_of_two`` the total, ``so_far`` [] (demand of earlier rounds) and what remains, is predicted anew
        after t = 0, 1, 2, 4, 8, ... rounds and kept in between, as in COPAC's experiments (arXiv 2606.17489); ``next``
        is predicted anew every round. With ``every`` there is nothing to keep.
        """
        if self.refresh == "every":
            return forecast, kept
        assert kept is not None
        total = jnp.where(t & (t - 1) == 0, so_far + forecast.remaining, kept)
        return Forecast(next=forecast.next, remaining=total - so_far), total

    def update(self, state: Any, demand: jax.Array, profile: jax.Array) -> Any:
        """The state after a round with true demand ``demand`` []; every leaf keeps its type, as loops require."""
        after = self.learn(state, demand, profile)
        if contract.same_structure(state, after):
            after = jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), after, state)
        return contract.kept(self, "learn", state, after)


FORECASTERS: Registry = Registry("forecaster", Forecaster)


forecaster = FORECASTERS.register


def resolve(values: Mapping[str, Any], where: str = "forecaster") -> dict[str, Any]:
    """Name and every parameter of a forecaster as plain values, given or default; InputError says what is wrong.

    ``values`` are its ``name`` and any of its parameters, and ``where`` is their place in the configuration.
    """
    given = dict(values)
    name = given.pop("name", None)
    cls = FORECASTERS.find(name, f"{where}.name")
    found = parameters.resolve(cls, given, where)
    cls(**found).check()
    return {"name": name, **found}


def build(name: str, values: Mapping[str, Any]) -> Forecaster:
    """The forecaster ``name`` with parameters ``values`` (its name not among them); InputError says what is wrong."""
    found = resolve({"name": name, **values})
    built: Forecaster = FORECASTERS[found.pop("name")](**found)
    return built


def remaining_demand(forecast: Forecast, demand: jax.Array, demand_seen: jax.Array) -> jax.Array:
    """R_t []: demand still to come, this round's included, never below this round's own.

    Where the round's demand [] is seen it replaces its forecast; elsewhere ``demand`` is not read.
    """
    later = jnp.maximum(forecast.remaining - forecast.next, 0.0)
    return jnp.where(demand_seen, demand + later, jnp.maximum(forecast.remaining, forecast.next))


def nominal_demand(problem: Problem) -> jax.Array:
    """[] a planner's demand per round: the forecast of one who has seen nothing."""
    per_round = problem.expected_demand * 1.0 / jnp.maximum(problem.horizon, 1)
    return _sensible(per_round, jnp.zeros_like(per_round))


def steady(level: jax.Array, now: Now) -> Forecast:
    """The same demand ``level`` [] in every round left."""
    return Forecast(next=level, remaining=level * now.rounds_left)


def _rounds_left(problem: Problem, t: jax.Array) -> jax.Array:
    return jnp.maximum(jnp.asarray(problem.horizon, jnp.int32) - jnp.asarray(t, jnp.int32), 0)


def _sensible(value: jax.Array, fallback: jax.Array) -> jax.Array:
    """``value`` clipped to [0, largest finite], or ``fallback`` where it is not a number; in the fallback's type."""
    known = jnp.where(jnp.isnan(value), fallback, value).astype(fallback.dtype)
    return jnp.clip(known, 0.0, jnp.finfo(fallback.dtype).max)


def toward(old: jax.Array, new: jax.Array, weight: Number) -> jax.Array:
    """``old``, moved by a share ``weight`` of the way to ``new``."""
    return old + weight * (new - old)
