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

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bandits import contract
from bandits.sums import CompensatedSum
from envs import parameters
from envs.errors import InputError
from envs.parameters import choice, number
from envs.registry import Registry
from envs.types import Problem

Number = jax.Array | float

REFRESH = ("every", "powers_of_two")

SIMULATED_STEPS = 50  # of an autoregression, before its long-run mean takes over
CEILING = 2.0  # no autoregression predicts a round above this multiple of the largest demand seen
_SERIES_TERMS = 10  # of the damped trend's sum; with the argument below 1 the next term is under 1e-9


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


def _toward(old: jax.Array, new: jax.Array, weight: Number) -> jax.Array:
    return old + weight * (new - old)


@forecaster("oracle")
class Oracle(Forecaster):
    """The truth: this round's demand and the realised total less what has arrived."""

    needs_hint: ClassVar[bool] = True

    def init(self, problem: Problem) -> Any:
        """No state."""
        return ()

    def outlook(self, state: Any, now: Now) -> Forecast:
        """Exact but for one rounding of the total, which the floor at this round's own demand repairs at the end."""
        hint = _given(now.hint)
        return Forecast(next=hint.next, remaining=jnp.maximum(hint.total - hint.so_far, hint.next))


@forecaster("noisy_oracle")
class NoisyOracle(Forecaster):
    """The true total Q times 1 + bias + noise · ξ_t / (t + 1)^decay, with a fresh error ξ_t each round.

    The advice of Lyu and Cheung, *Bandits with Knapsacks: Advice on Time-Varying Demands* (ICML 2023): decay 0 never
    improves, decay 1/2 does as data would make it. ξ is a standard normal truncated at ±2, or uniform on [-1, 1]. What
    remains is the estimated total less what has arrived; this round's demand is q_t times the same factor.
    """

    needs_hint: ClassVar[bool] = True

    bias: Number = number(0.0, low=-1.0)
    noise: Number = number(0.2, low=0.0)
    decay: Number = number(0.0, low=0.0)
    uniform: Number = number(0, low=0, high=1, whole=True)

    def init(self, problem: Problem) -> Any:
        """No state."""
        return ()

    def outlook(self, state: Any, now: Now) -> Forecast:
        """The perturbed truth."""
        hint = _given(now.hint)
        shrink = (now.t + 1).astype(now.nominal.dtype) ** -jnp.asarray(self.decay, now.nominal.dtype)
        factor = jnp.maximum(1.0 + self.bias + self.noise * shrink * self._error(now), 0.0)
        return Forecast(next=factor * hint.next, remaining=factor * hint.total - hint.so_far)

    def _error(self, now: Now) -> jax.Array:
        """ξ_t []; both kinds come from one draw, the normal by inverting its distribution function."""
        draw = jax.random.uniform(now.key, dtype=now.nominal.dtype, minval=-1.0)
        root_two = 2.0**0.5
        normal = root_two * jax.lax.erf_inv(draw * jax.lax.erf(jnp.full_like(draw, root_two)))
        return jnp.where(jnp.asarray(self.uniform) > 0.5, draw, normal)


def _given(hint: Hint | None) -> Hint:
    if hint is None:
        raise ValueError("an oracle forecaster needs a hint in every call of predict")
    return hint


@forecaster("last_value")
class LastValue(Forecaster):
    """Every round left will be like the last one (the naive method, FPP 5.2)."""

    def init(self, problem: Problem) -> jax.Array:
        """[] the last demand; nominal before there is one."""
        return nominal_demand(problem)

    def outlook(self, state: jax.Array, now: Now) -> Forecast:
        """A flat line."""
        return steady(state, now)

    def learn(self, state: jax.Array, demand: jax.Array, profile: jax.Array) -> jax.Array:
        """Only the newest counts."""
        return demand


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class MeanState:
    """All demand so far."""

    demand: CompensatedSum
    rounds: jax.Array  # [] int32


@forecaster("running_mean")
class RunningMean(Forecaster):
    """Every round left will be like the average so far (the mean method, FPP 5.2)."""

    def init(self, problem: Problem) -> MeanState:
        """Nothing seen."""
        return MeanState(demand=CompensatedSum.zero(nominal_demand(problem)), rounds=jnp.zeros((), jnp.int32))

    def outlook(self, state: MeanState, now: Now) -> Forecast:
        """A flat line; the total over the count, since averaging step by step stalls in float32."""
        return steady(self.average(state, now), now)

    def average(self, state: MeanState, now: Now) -> jax.Array:
        """[] the mean so far; nominal before there is one."""
        mean = state.demand.total / jnp.maximum(state.rounds, 1)
        return jnp.where(state.rounds > 0, mean, now.nominal)

    def learn(self, state: MeanState, demand: jax.Array, profile: jax.Array) -> MeanState:
        """One more round."""
        return MeanState(demand=state.demand.add(demand), rounds=state.rounds + 1)


@forecaster("past_only")
class PastOnly(RunningMean):
    """The total is what has come so far, as if nothing remained: the forecast that COPAC's AR(1) figure plots.

    Of a steady demand it misses a share 1 - t/T. The next round is expected to be like the average so far.
    """

    def outlook(self, state: MeanState, now: Now) -> Forecast:
        """Nothing remains."""
        return Forecast(next=self.average(state, now), remaining=jnp.zeros_like(now.nominal))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class LevelState:
    """A smoothed level."""

    level: jax.Array  # [] tasks per round; nominal until the first demand replaces it
    seen: jax.Array  # [] bool, whether any demand has been seen


@forecaster("ewma")
class Ewma(Forecaster):
    """Exponentially weighted moving average (simple exponential smoothing, FPP 8.1), started at the first demand."""

    smoothing: Number = number(0.3, low=0.0, high=1.0)

    def init(self, problem: Problem) -> LevelState:
        """The nominal level."""
        return LevelState(level=nominal_demand(problem), seen=jnp.zeros((), bool))

    def outlook(self, state: LevelState, now: Now) -> Forecast:
        """A flat line."""
        return steady(state.level, now)

    def learn(self, state: LevelState, demand: jax.Array, profile: jax.Array) -> LevelState:
        """Move the level toward the demand."""
        level = jnp.where(state.seen, _toward(state.level, demand, self.smoothing), demand)
        return LevelState(level=level, seen=jnp.ones_like(state.seen))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class TrendState:
    """A smoothed level and its slope."""

    level: jax.Array  # [] tasks per round; nominal until the first demand replaces it
    trend: jax.Array  # [] tasks per round, per round
    seen: jax.Array  # [] bool, whether any demand has been seen


@forecaster("holt")
class Holt(Forecaster):
    """Holt's damped linear trend (Gardner and McKenzie, 1985; FPP 8.2), started flat at the first demand.

    h rounds ahead it expects level + trend (φ + φ² + ... + φ^h), φ the damping. The total over the rounds left is
    clipped at zero as a whole, not round by round.
    """

    smoothing: Number = number(0.3, low=0.0, high=1.0)
    trend_smoothing: Number = number(0.05, low=0.0, high=1.0)
    damping: Number = number(0.98, low=0.0, high=1.0)

    def init(self, problem: Problem) -> Any:
        """The nominal level, no trend."""
        nominal = nominal_demand(problem)
        return TrendState(level=nominal, trend=jnp.zeros_like(nominal), seen=jnp.zeros((), bool))

    def outlook(self, state: Any, now: Now) -> Forecast:
        """The damped line, summed in closed form."""
        rounds_left = now.rounds_left.astype(now.nominal.dtype)
        rise = damped_trend_sum(jnp.asarray(self.damping, now.nominal.dtype), rounds_left)
        return Forecast(
            next=state.level + self.damping * state.trend,
            remaining=state.level * rounds_left + state.trend * rise,
        )

    def learn(self, state: Any, demand: jax.Array, profile: jax.Array) -> Any:
        """The error-correction form, in which a constant demand gives no error and so, exactly, no trend."""
        damped = self.damping * state.trend
        correction = self.smoothing * (demand - state.level - damped)
        return TrendState(
            level=jnp.where(state.seen, state.level + damped + correction, demand),
            trend=jnp.where(state.seen, damped + self.trend_smoothing * correction, 0.0),
            seen=jnp.ones_like(state.seen),
        )


def damped_trend_sum(damping: jax.Array, rounds: jax.Array) -> jax.Array:
    """Σ_{h=1..H} (φ + ... + φ^h) [] for φ = ``damping`` in [0, 1] and H = ``rounds`` >= 0 as a float.

    With x = 1 - φ this is φ/x (H - φ (1 - φ^H)/x), whose differences cancel as x nears 0. Where H x < 1 the binomial
    series φ [C(H+1, 2) - C(H+1, 3) x + C(H+1, 4) x² - ...] is used instead: exact at φ = 1 and for small H.
    """
    complement = 1.0 - damping
    series = jnp.ones_like(rounds)
    for term in reversed(range(1, _SERIES_TERMS + 1)):
        series = 1.0 - complement * (rounds - term) / (term + 2) * series
    near_one = damping * rounds * (rounds + 1.0) / 2.0 * series
    divisor = jnp.where(complement > 0, complement, 1.0)
    elsewhere = damping / divisor * (rounds - damping * (1.0 - damping**rounds) / divisor)
    return jnp.where(rounds * complement < 1.0, near_one, elsewhere)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Season:
    """One value per round of a season, with the sums a forecast needs, each kept by O(1) work a round.

    The rounds left are some full seasons and a last piece. The end of the run being fixed, that piece loses one round
    at its near end every round, and is a whole season less a round after it was empty.

    The present round's value is carried beside the others: a round then writes the array once and reads it once, in
    that order, which XLA does in place. Reading before writing made it copy the array every round.
    """

    values: jax.Array  # [season_capacity] zero where not yet set; only the first ``period`` are used
    current: jax.Array  # [] the value of the present round
    phase: jax.Array  # [] int32, the present round's place in the season
    piece_rounds: jax.Array  # [] int32, rounds left modulo the period
    total: CompensatedSum  # of a whole season
    piece: CompensatedSum  # of the rounds from the present one through the last piece

    @classmethod
    def start(cls, capacity: int, period: jax.Array, problem: Problem) -> "Season":
        """A season of zeros, at its first round."""
        zero = jnp.zeros_like(nominal_demand(problem))
        return cls(
            values=jnp.zeros((capacity,), zero.dtype),
            current=zero,
            phase=jnp.zeros((), jnp.int32),
            piece_rounds=jnp.asarray(problem.horizon, jnp.int32) % period,
            total=CompensatedSum.zero(zero),
            piece=CompensatedSum.zero(zero),
        )

    def replace(self, value: jax.Array, period: jax.Array) -> "Season":
        """Set the present round's value [] and go on to the next round."""
        value = value.astype(self.values.dtype)
        values = jax.lax.dynamic_update_index_in_dim(self.values, value, self.phase, axis=0)
        phase = jnp.where(self.phase + 1 == period, 0, self.phase + 1)
        whole_next = self.piece_rounds == 0
        piece = jax.tree.map(functools.partial(jnp.where, whole_next), self.total, self.piece)
        return Season(
            values=values,
            current=jax.lax.dynamic_index_in_dim(values, phase, keepdims=False),
            phase=phase,
            piece_rounds=jnp.where(whole_next, period, self.piece_rounds) - 1,
            total=self.total.add(-self.current).add(value),
            piece=piece.add(-self.current),
        )

    def sum(self, rounds_left: jax.Array, period: jax.Array) -> jax.Array:
        """[] the values of all ``rounds_left`` [] int32 rounds."""
        return (rounds_left // period) * self.total.total + self.piece.total


def _check_period(period: Number, season_capacity: int) -> None:
    if period > season_capacity:
        raise InputError(
            f"forecaster.period is {period}; it must not exceed forecaster.season_capacity, which is {season_capacity}"
        )


def _traced_period(period: Number, season_capacity: int) -> jax.Array:
    """[] int32: leaves travel as floats, and a sweep cannot leave the buffer."""
    return jnp.clip(jnp.round(jnp.asarray(period)).astype(jnp.int32), 1, season_capacity)


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class HoltWintersState:
    """A trend line through the deseasonalised demand, and the season around it."""

    line: TrendState
    season: Season


@forecaster("holt_winters")
class HoltWinters(Holt):
    """Additive Holt-Winters (Winters, 1960; FPP 8.3) with a damped trend, off by default.

    The season starts at zero and its place p learns γ (q - level) + (1 - γ) s_p, with the level just updated. O(1) work
    a round, sums over the rounds left included; memory is ``season_capacity``, of which ``period`` is used.
    """

    trend_smoothing: Number = number(0.0, low=0.0, high=1.0)
    season_smoothing: Number = number(0.25, low=0.0, high=1.0)
    period: Number = number(144, low=1, high=2**20, whole=True)
    season_capacity: int = number(144, low=1, high=2**20, whole=True, static=True)

    def check(self) -> None:
        """The season must fit."""
        _check_period(self.period, self.season_capacity)

    def init(self, problem: Problem) -> HoltWintersState:
        """The nominal level, no trend, no season."""
        period = _traced_period(self.period, self.season_capacity)
        season = Season.start(self.season_capacity, period, problem)
        return HoltWintersState(line=super().init(problem), season=season)

    def outlook(self, state: HoltWintersState, now: Now) -> Forecast:
        """Line plus season."""
        line = super().outlook(state.line, now)
        seasonal = state.season.sum(now.rounds_left, _traced_period(self.period, self.season_capacity))
        return Forecast(next=line.next + state.season.current, remaining=line.remaining + seasonal)

    def learn(self, state: HoltWintersState, demand: jax.Array, profile: jax.Array) -> HoltWintersState:
        """The line learns from demand less season, then the season from demand less level."""
        season = state.season.current
        line = super().learn(state.line, demand - season, profile)
        value = _toward(season, demand - line.level, self.season_smoothing)
        period = _traced_period(self.period, self.season_capacity)
        return HoltWintersState(line=line, season=state.season.replace(value, period))


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class SeasonalNaiveState:
    """The latest season."""

    season: Season
    rounds: jax.Array  # [] int32, rounds seen; no longer counted once a season is full


@forecaster("seasonal_naive")
class SeasonalNaive(Forecaster):
    """Every round left will be like the same round of the latest season (FPP 5.2).

    In the first season, the rounds not yet seen are expected to be like the mean of those that were. O(1) work a round;
    memory is ``season_capacity``, of which ``period`` is used.
    """

    period: Number = number(144, low=1, high=2**20, whole=True)
    season_capacity: int = number(144, low=1, high=2**20, whole=True, static=True)

    def check(self) -> None:
        """The season must fit."""
        _check_period(self.period, self.season_capacity)

    def init(self, problem: Problem) -> SeasonalNaiveState:
        """Nothing seen."""
        period = _traced_period(self.period, self.season_capacity)
        season = Season.start(self.season_capacity, period, problem)
        return SeasonalNaiveState(season=season, rounds=jnp.zeros((), jnp.int32))

    def outlook(self, state: SeasonalNaiveState, now: Now) -> Forecast:
        """The season's values, and the mean in the places still empty."""
        period = _traced_period(self.period, self.season_capacity)
        mean = jnp.where(state.rounds > 0, state.season.total.total / jnp.maximum(state.rounds, 1), now.nominal)
        unseen = period - state.rounds
        unseen_ahead = (now.rounds_left // period) * unseen + jnp.minimum(state.season.piece_rounds, unseen)
        return Forecast(
            next=jnp.where(unseen > 0, mean, state.season.current),
            remaining=state.season.sum(now.rounds_left, period) + mean * unseen_ahead,
        )

    def learn(self, state: SeasonalNaiveState, demand: jax.Array, profile: jax.Array) -> SeasonalNaiveState:
        """Replace the oldest round by the newest."""
        period = _traced_period(self.period, self.season_capacity)
        return SeasonalNaiveState(
            season=state.season.replace(demand, period), rounds=jnp.minimum(state.rounds + 1, period)
        )


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class AutoregressiveState:
    """Weights of an autoregression and what recursive least squares needs; p is its order."""

    weights: jax.Array  # [p + 1] the intercept in units of ``scale``, then lag 1, lag 2, ...
    covariance: jax.Array  # [p + 1, p + 1] of the weights, in units of the noise variance
    lags: jax.Array  # [p] the latest demands in units of ``scale``, newest first
    scale: jax.Array  # [] tasks, fixed for the run: keeps the numbers near 1
    peak: jax.Array  # [] tasks, the largest demand seen
    rounds: jax.Array  # [] int32, rounds seen; no longer counted once there are p lags


@forecaster("ar")
class Autoregressive(Forecaster):
    """AR(p) with intercept, fitted by recursive least squares with forgetting (Ljung and Söderström, 1983).

    The prior is "like the last round", of variance ``prior_variance``. The first ``SIMULATED_STEPS`` rounds are
    recursed one by one; later ones are at the long-run mean w_0 / (1 - Σ w), or, where Σ w is so near or above 1 that
    the recursion would not have got there, at the last recursed value. So that an unstable fit stays sensible, every
    recursed value and the mean lie in [0, ``CEILING`` times the largest demand seen].

    Forgetting without news would inflate the covariance for ever: its trace is kept at or below the prior's. A fit that
    overflows returns to the prior.
    """

    order: int = number(3, low=1, high=64, whole=True, static=True)
    forgetting: Number = number(0.995, low=0.5, high=1.0)
    prior_variance: Number = number(100.0, low=1e-6, high=1e6)

    def init(self, problem: Problem) -> AutoregressiveState:
        """The prior, with lags as if every earlier round had been nominal."""
        nominal = nominal_demand(problem)
        scale = jnp.where(nominal > 0, nominal, 1.0)
        return AutoregressiveState(
            weights=self._prior_weights(nominal),
            covariance=self._prior_covariance(nominal),
            lags=jnp.full((self.order,), nominal / scale),
            scale=scale,
            peak=nominal,
            rounds=jnp.zeros((), jnp.int32),
        )

    def _prior_weights(self, like: jax.Array) -> jax.Array:
        return jnp.zeros((self.order + 1,), like.dtype).at[1].set(1.0)

    def _prior_covariance(self, like: jax.Array) -> jax.Array:
        return jnp.asarray(self.prior_variance, like.dtype) * jnp.eye(self.order + 1, dtype=like.dtype)

    def outlook(self, state: AutoregressiveState, now: Now) -> Forecast:
        """Recursion, then the long run."""
        ceiling = CEILING * state.peak / state.scale
        persistence = jnp.sum(state.weights[1:])

        def step(index: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            lags, total = carry
            value = jnp.clip(state.weights[0] + jnp.sum(state.weights[1:] * lags), 0.0, ceiling)
            total = total + jnp.where(index < now.rounds_left, value, 0.0)
            return jnp.concatenate([value[None], lags[:-1]]), total

        first, _ = step(jnp.zeros((), jnp.int32), (state.lags, jnp.zeros_like(ceiling)))
        lags, total = jax.lax.fori_loop(0, SIMULATED_STEPS, step, (state.lags, jnp.zeros_like(ceiling)), unroll=10)
        reverts = (1.0 - persistence) * SIMULATED_STEPS >= 1.0
        mean = jnp.clip(state.weights[0] / jnp.where(reverts, 1.0 - persistence, 1.0), 0.0, ceiling)
        later = jnp.maximum(now.rounds_left - SIMULATED_STEPS, 0) * jnp.where(reverts, mean, lags[0])
        return Forecast(next=state.scale * first[0], remaining=state.scale * (total + later))

    def learn(self, state: AutoregressiveState, demand: jax.Array, profile: jax.Array) -> AutoregressiveState:
        """One step of least squares, once there are p lags to explain the demand by."""
        value = demand / state.scale
        features = jnp.concatenate([jnp.ones((1,), state.lags.dtype), state.lags])
        weights, covariance = recursive_least_squares(
            state.weights, state.covariance, features, value, jnp.asarray(self.forgetting, value.dtype)
        )
        largest_trace = self.prior_variance * (self.order + 1)
        covariance = covariance * jnp.minimum(largest_trace / jnp.maximum(jnp.trace(covariance), 1e-30), 1.0)
        sound = jnp.isfinite(jnp.sum(weights)) & jnp.isfinite(jnp.sum(covariance))
        fitted = state.rounds >= self.order

        def keep(new: jax.Array, old: jax.Array, prior: jax.Array) -> jax.Array:
            return jnp.where(fitted, jnp.where(sound, new, prior), old)

        return AutoregressiveState(
            weights=keep(weights, state.weights, self._prior_weights(state.scale)),
            covariance=keep(covariance, state.covariance, self._prior_covariance(state.scale)),
            lags=jnp.concatenate([value[None], state.lags[:-1]]),
            scale=state.scale,
            peak=jnp.where(state.rounds > 0, jnp.maximum(state.peak, demand), demand),
            rounds=jnp.minimum(state.rounds + 1, self.order),
        )


def recursive_least_squares(
    weights: jax.Array, covariance: jax.Array, features: jax.Array, outcome: jax.Array, forgetting: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(weights [n], covariance [n, n]) after explaining ``outcome`` [] by ``features`` [n].

    The covariance is updated in Joseph's form (Bucy and Joseph, 1968), which stays positive in float32 where the short
    form does not. Products are written as sums: a GPU would round the inputs of small matrix products to 10 bits.
    """
    direction = jnp.sum(covariance * features[None, :], axis=1)
    gain = direction / (forgetting + jnp.sum(features * direction))
    rest = jnp.eye(features.shape[0], dtype=features.dtype) - gain[:, None] * features[None, :]
    half = jnp.sum(rest[:, :, None] * covariance[None, :, :], axis=1)
    joseph = jnp.sum(half[:, None, :] * rest[None, :, :], axis=2) + forgetting * gain[:, None] * gain[None, :]
    error = outcome - jnp.sum(weights * features)
    return weights + gain * error, 0.5 * (joseph + joseph.T) / forgetting


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class ProfileState:
    """What came, and what a planner had expected to come."""

    demand: CompensatedSum
    profile: CompensatedSum


@forecaster("profile")
class Profile(Forecaster):
    """A planner's known profile, scaled by demand so far over profile so far (a ratio estimator).

    The scale starts at 1, worth ``prior_rounds`` nominal rounds of data. The profile still to come is
    ``expected_demand`` less the profile so far: the profile must sum to it over the horizon.
    """

    prior_rounds: Number = number(1.0, low=0.0)

    def init(self, problem: Problem) -> ProfileState:
        """Nothing seen."""
        empty = CompensatedSum.zero(nominal_demand(problem))
        return ProfileState(demand=empty, profile=empty)

    def outlook(self, state: ProfileState, now: Now) -> Forecast:
        """The scaled profile; the floor at this round's own repairs the rounding of the total at the end."""
        prior = self.prior_rounds * now.nominal
        expected = state.profile.total + prior
        known = expected > 0
        scale = jnp.where(known, (state.demand.total + prior) / jnp.where(known, expected, 1.0), 1.0)
        to_come = jnp.maximum(state.profile.short_of(now.expected_demand), now.profile)
        return Forecast(next=scale * now.profile, remaining=scale * to_come)

    def learn(self, state: ProfileState, demand: jax.Array, profile: jax.Array) -> ProfileState:
        """One more round."""
        return ProfileState(demand=state.demand.add(demand), profile=state.profile.add(profile))
