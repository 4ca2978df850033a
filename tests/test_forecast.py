"""Forecasters against plain NumPy loops of the same rules, brute-force sums, and the published figures."""

import csv
import dataclasses
import decimal
import doctest
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml

from bandits.forecasting import base as module
from bandits.forecasting import seasonal_naive
from bandits.forecasting.base import (
    FORECASTERS,
    Forecast,
    Forecaster,
    Hint,
    build,
    forecaster,
    nominal_demand,
    remaining_demand,
    steady,
)
from bandits.forecasting.holt import damped_trend_sum
from bandits.forecasting.profile import Profile
from bandits.forecasting.seasons import Season
from bandits.sums import CompensatedSum
from envs.errors import InputError
from envs.types import Problem
from tests import worlds
from tests.conftest import ROOT

CONFIGS = ROOT / "conf" / "forecaster"
FLOAT = jnp.asarray(0.0).dtype
EXACT = 1e-9 if jax.config.jax_enable_x64 else 2e-5  # relative, for rules of a few operations a round
ROUNDS = 120
LONG = 10**7
# Small shapes keep the brute-force loops and the compilations short.
SMALL = {
    "holt": {"smoothing": 0.4, "trend_smoothing": 0.2, "damping": 0.9},
    "holt_winters": {"trend_smoothing": 0.1, "damping": 0.9, "period": 7, "season_capacity": 10},
    "seasonal_naive": {"period": 7, "season_capacity": 10},
    "ar": {"order": 3, "forgetting": 0.99},
    "noisy_oracle": {"noise": 0.0, "bias": 0.1},
}
LEARNERS = sorted(set(FORECASTERS) - {"oracle", "noisy_oracle", "past_only"})


def small(name):
    return build(name, SMALL.get(name, {}))


def problem_of(horizon, expected):
    return Problem(
        horizon=jnp.asarray(horizon, jnp.int32),
        exists=jnp.ones(1, bool),
        budget=jnp.ones(1),
        target=jnp.ones(0),
        consumption_bound=jnp.ones((1, 1)),
        throughput=jnp.ones(1),
        budget_hard=jnp.ones((), bool),
        max_deployed=jnp.ones((), jnp.int32),
        expected_demand=jnp.asarray(expected, FLOAT),
        demand_bound=jnp.asarray(expected, FLOAT),
    )


def rollout(rule, problem, demand, profile, key):
    """Forecasts [T] of one run; its total is that of ``demand`` [T], and ``problem.horizon`` may be longer."""
    total = jnp.sum(demand)

    def step(carry, x):
        state, so_far = carry
        t, q, nominal = x
        hint = Hint(total=total, next=q, so_far=so_far) if rule.needs_hint else None
        predicted = rule.predict(state, t, problem, nominal, hint, jax.random.fold_in(key, t))
        return (rule.update(state, q, nominal), so_far + q), predicted

    rounds = jnp.arange(demand.shape[0], dtype=jnp.int32)
    (state, _), predicted = jax.lax.scan(step, (rule.init(problem), jnp.zeros_like(total)), (rounds, demand, profile))
    return state, predicted


compiled = jax.jit(rollout)
learn = jax.jit(lambda rule, state, demand: rule.update(state, demand, demand))
predict = jax.jit(lambda rule, state, t, problem: rule.predict(state, t, problem, problem.expected_demand, None, None))
batched = jax.jit(jax.vmap(rollout, in_axes=(None, None, 0, 0, None)))


def run(rule, demand, horizon=None, expected=None, profile=None):
    demand = np.asarray(demand, np.float64)
    horizon = len(demand) if horizon is None else horizon
    expected = 1.1 * demand.mean() * horizon if expected is None else expected
    profile = np.full(len(demand), expected / horizon) if profile is None else profile
    problem = problem_of(horizon, expected)
    demand, profile = jnp.asarray(demand, FLOAT), jnp.asarray(profile, FLOAT)
    state, predicted = compiled(rule, problem, demand, profile, jax.random.key(3))
    return state, np.asarray(predicted.next, np.float64), np.asarray(predicted.remaining, np.float64)


def random_demand(seed=0, rounds=ROUNDS):
    generator = np.random.default_rng(seed)
    wave = 20 + 8 * np.sin(2 * np.pi * np.arange(rounds) / 7)
    return np.maximum(wave + 4 * generator.standard_normal(rounds), 0.0)


@functools.cache
def real_demand(pool):
    file = ROOT.parent / "shared" / "data" / "servegen_rate_10min.csv"
    if not file.is_file():
        pytest.skip("the shared data are not beside this checkout")
    with file.open() as lines:
        return np.array([float(row["total_rate_req_per_s"]) for row in csv.DictReader(lines) if row["pool"] == pool])


# The twins: each is given the demand seen so far, replays it from the start in float64 and lists the rounds left one by
# one. No closed forms, no running sums.
def flat(value, left):
    return [value] * left


def twin_last_value(seen, left, nominal, profile, rule):
    return flat(seen[-1] if seen else nominal, left)


def twin_running_mean(seen, left, nominal, profile, rule):
    return flat(sum(seen) / len(seen) if seen else nominal, left)


def twin_ewma(seen, left, nominal, profile, rule):
    level = seen[0] if seen else nominal
    for q in seen[1:]:
        level = rule.smoothing * q + (1 - rule.smoothing) * level
    return flat(level, left)


def line(seen, nominal, rule):
    level, trend = (seen[0] if seen else nominal), 0.0
    for q in seen[1:]:
        before = level
        level = rule.smoothing * q + (1 - rule.smoothing) * (level + rule.damping * trend)
        trend = rule.trend_smoothing * (level - before) + (1 - rule.trend_smoothing) * rule.damping * trend
    return level, trend


def ahead(level, trend, left, rule):
    path = []
    for _ in range(left):
        level, trend = level + rule.damping * trend, rule.damping * trend
        path.append(level)
    return path


def twin_holt(seen, left, nominal, profile, rule):
    return ahead(*line(seen, nominal, rule), left, rule)


def twin_holt_winters(seen, left, nominal, profile, rule):
    season = [0.0] * rule.period
    level, trend = nominal, 0.0
    for t, q in enumerate(seen):
        place, before = t % rule.period, level
        if t == 0:
            level = q
        else:
            level = rule.smoothing * (q - season[place]) + (1 - rule.smoothing) * (level + rule.damping * trend)
            trend = rule.trend_smoothing * (level - before) + (1 - rule.trend_smoothing) * rule.damping * trend
        season[place] = rule.season_smoothing * (q - level) + (1 - rule.season_smoothing) * season[place]
    path = ahead(level, trend, left, rule)
    return [value + season[(len(seen) + h) % rule.period] for h, value in enumerate(path)]


def twin_seasonal_naive(seen, left, nominal, profile, rule):
    latest = {t % rule.period: q for t, q in enumerate(seen)}
    mean = sum(latest.values()) / len(latest) if latest else nominal
    return [latest.get((len(seen) + h) % rule.period, mean) for h in range(left)]


def twin_ar(seen, left, nominal, profile, rule):
    """Solves the weighted least squares of ``fit_ar`` anew, and recurses."""
    weights = fit_ar(seen, nominal, rule)
    lags = (seen[::-1] + [nominal] * rule.order)[: rule.order]
    ceiling = 2.0 * max(seen) if seen else 2.0 * nominal
    path = []
    for _ in range(50):
        value = min(max(weights[0] + sum(w * lag for w, lag in zip(weights[1:], lags, strict=True)), 0.0), ceiling)
        path.append(value)
        lags = [value, *lags[:-1]]
    persistence = sum(weights[1:])
    reverts = 1.0 - persistence >= 0.02
    long_run = min(max(weights[0] / (1.0 - persistence), 0.0), ceiling) if reverts else path[-1]
    return (path + flat(long_run, max(left - 50, 0)))[:left]


def fit_ar(seen, nominal, rule):
    """Least squares with weights forgetting^age and a prior that is forgotten alike, by the normal equations.

    This is what the recursion computes as long as the limit on its covariance does not bind, as here.
    """
    size = rule.order + 1
    precision, centre = np.eye(size) / rule.prior_variance, np.eye(size)[1]
    moment = precision @ centre
    for t in range(rule.order, len(seen)):
        features = np.array([1.0, *[seen[t - lag] / nominal for lag in range(1, size)]])
        precision = rule.forgetting * precision + np.outer(features, features)
        moment = rule.forgetting * moment + features * seen[t] / nominal
    weights = np.linalg.solve(precision, moment)
    return [weights[0] * nominal, *weights[1:]]


def twin_profile(seen, left, nominal, profile, rule):
    prior = rule.prior_rounds * nominal
    scale = (sum(seen) + prior) / (sum(profile[: len(seen)]) + prior)
    return [scale * value for value in profile[len(seen) :]]


@pytest.mark.parametrize("source", ["random", "real"])
@pytest.mark.parametrize("name", LEARNERS)
def test_step_for_step_like_a_plain_loop(name, source):
    demand = random_demand() if source == "random" else real_demand("m-large")[:ROUNDS]
    rule = small(name)
    profile = demand.mean() * (1 + 0.5 * np.cos(np.arange(ROUNDS)))
    expected = profile.sum()
    _, following, remaining = run(rule, demand, expected=expected, profile=profile)
    twin = globals()[f"twin_{name}"]
    tolerance = EXACT if name != "ar" else max(EXACT * 1e2, 1e-6)
    for t in range(ROUNDS):
        path = twin(list(demand[:t]), ROUNDS - t, expected / ROUNDS, list(profile), rule)
        np.testing.assert_allclose(following[t], max(path[0], 0.0), rtol=tolerance, atol=tolerance * demand.mean())
        np.testing.assert_allclose(
            remaining[t], max(sum(path), 0.0), rtol=tolerance, atol=tolerance * demand.mean() * (ROUNDS - t)
        )


def test_past_only_expects_nothing_more():
    demand = random_demand()
    _, following, remaining = run(small("past_only"), demand, expected=20.0 * ROUNDS)
    np.testing.assert_array_equal(remaining, 0.0)
    np.testing.assert_allclose(following[1:], np.cumsum(demand)[:-1] / np.arange(1, ROUNDS), rtol=EXACT)
    assert following[0] == 20.0


@functools.partial(jax.jit, static_argnums=0)
def kept_totals(name, demand):
    """[T] totals that a rule predicts, with its total kept between powers of two, and what is said to remain [T]."""
    rule = build(name, SMALL.get(name, {}) | {"refresh": "powers_of_two"})
    problem, total = problem_of(ROUNDS, 20.0 * ROUNDS), jnp.sum(demand)

    def step(carry, x):
        state, so_far, kept = carry
        t, q = x
        hint = Hint(total=total, next=q, so_far=so_far) if rule.needs_hint else None
        fresh = rule.predict(state, t, problem, jnp.full_like(q, 20.0), hint, jax.random.key(0))
        shown, kept = rule.keep(kept, fresh, t, so_far)
        return (rule.update(state, q, jnp.full_like(q, 20.0)), so_far + q, kept), (kept, shown.remaining, fresh)

    start = (rule.init(problem), jnp.zeros_like(total), jnp.zeros_like(total))
    return jax.lax.scan(step, start, (jnp.arange(ROUNDS, dtype=jnp.int32), demand))[1]


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_a_total_is_kept_between_powers_of_two(name):
    demand = random_demand()
    kept, remaining, fresh = kept_totals(name, jnp.asarray(demand, FLOAT))
    before = np.concatenate([[0.0], np.cumsum(demand)[:-1]])
    every = before + np.asarray(fresh.remaining, np.float64)
    latest = [0, *(2 ** int(math.log2(t)) for t in range(1, ROUNDS))]
    np.testing.assert_allclose(kept, every[latest], rtol=EXACT)
    np.testing.assert_allclose(before + remaining, every[latest], rtol=EXACT)
    if name == "past_only":
        np.testing.assert_allclose(np.asarray(kept)[[0, 1, 2, 4, 64]], before[[0, 1, 2, 4, 64]], rtol=EXACT)


@pytest.mark.parametrize("refresh", module.REFRESH)
def test_the_past_alone_is_wrong_by_what_is_to_come(refresh):
    """COPAC's AR(1) figure: an error of 1 - t/T at the refreshes, in a run where q_t is seen after choosing."""
    world = worlds.world(demand={"mean": 4.0, "counts": "none"}, demand_seen="after", horizon=64)
    policy = dataclasses.replace(worlds.policy(), forecaster=build("past_only", {"refresh": refresh}))
    view = jax.tree.map(lambda leaf: np.asarray(leaf)[0], worlds.record([world], policy, 64).view)
    rounds = np.arange(64)
    latest = rounds if refresh == "every" else np.array([0, *(2 ** int(math.log2(t)) for t in rounds[1:])])
    np.testing.assert_allclose(1 - view.total_demand / (4.0 * 64), 1 - latest / 64, atol=1e-6)
    np.testing.assert_allclose(view.observation.demand_so_far + view.forecast.remaining, 4.0 * latest, atol=1e-4)


def test_oracle_tells_the_truth():
    demand = random_demand()
    _, following, remaining = run(small("oracle"), demand)
    np.testing.assert_allclose(following, demand, rtol=1e-6)
    np.testing.assert_allclose(remaining, np.cumsum(demand[::-1])[::-1], rtol=EXACT, atol=EXACT * demand.sum())


def test_oracles_say_when_they_are_given_no_hint():
    with pytest.raises(ValueError, match="needs a hint"):
        small("oracle").predict((), 0, problem_of(3, 3.0), 1.0, None, jax.random.key(0))


@pytest.mark.parametrize("surprise", [1.0, 50.0])
@pytest.mark.parametrize("name", LEARNERS)
def test_constant_demand_is_foretold_to_any_horizon(name, surprise):
    level = 13.7
    rule = build(name, SMALL.get(name, {}) | ({"prior_rounds": 0.0} if name == "profile" else {}))
    for horizon in (ROUNDS, LONG):
        _, following, remaining = run(rule, np.full(ROUNDS, level), horizon, expected=surprise * level * horizon)
        np.testing.assert_allclose(following[8:], level, rtol=1e-5)
        np.testing.assert_allclose(remaining[8:], level * (horizon - np.arange(8, ROUNDS)), rtol=2e-5)


@pytest.mark.parametrize("name", LEARNERS)
def test_the_planners_figure_stands_in_before_anything_is_seen(name):
    _, following, remaining = run(small(name), random_demand(), horizon=50, expected=400.0)
    np.testing.assert_allclose([following[0], remaining[0]], [8.0, 400.0], rtol=1e-6)


ADVERSARIAL = {
    "zeros": np.zeros(ROUNDS),
    "spike": np.where(np.arange(ROUNDS) == 40, 1e6, 0.0),
    "jumps": np.where(np.arange(ROUNDS) % 3 == 0, 1e6, 1e-3),
    "fall": np.linspace(1e6, 0, ROUNDS),
    "collapse": np.where(np.arange(ROUNDS) < 30, 2.0 ** np.arange(ROUNDS).clip(max=30), 0.0),
    "growth": 1.2 ** np.arange(ROUNDS),
    "random": random_demand(),
}


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_always_finite_and_nonnegative(name):
    demand = jnp.asarray(np.stack(list(ADVERSARIAL.values())), FLOAT)
    for horizon, expected in ((ROUNDS, 0.0), (10**7, 1.0), (10**7, 1e12)):
        problem = problem_of(horizon, expected)
        for profile in (jnp.full_like(demand, nominal_demand(problem)), 0.0 * demand):
            _, predicted = batched(small(name), problem, demand, profile, jax.random.key(0))
            for values in (predicted.next, predicted.remaining):
                assert bool(jnp.all(jnp.isfinite(values)))
                assert bool(jnp.all(values >= 0.0))


def test_what_is_no_number_becomes_the_planners_figure():
    class Broken(Forecaster):
        def outlook(self, state, now):
            return Forecast(next=now.nominal * jnp.nan, remaining=now.nominal * jnp.inf)

    predicted = Broken().predict((), 0, problem_of(4, 8.0), 2.0, None, None)
    assert float(predicted.next) == 2.0
    assert float(predicted.remaining) == float(jnp.finfo(FLOAT).max)


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_a_run_is_the_same_in_any_batch(name):
    rows = np.stack([random_demand(seed) for seed in range(len(ADVERSARIAL))])
    demand = jnp.asarray(rows, FLOAT)
    problem, key = problem_of(ROUNDS, 20.0 * ROUNDS), jax.random.key(1)
    _, together = batched(small(name), problem, demand, demand, key)
    _, alone = compiled(small(name), problem, demand[2], demand[2], key)
    # The compiler may fuse a multiplication and an addition in one and not in the other.
    np.testing.assert_allclose(together.next[2], alone.next, rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(together.remaining[2], alone.remaining, rtol=EXACT, atol=EXACT * 20 * ROUNDS)


def test_no_two_rules_share_a_structure():
    """Or else ``jit`` may answer for one rule with the program of another."""
    structures = [jax.tree.structure(small(name)) for name in sorted(FORECASTERS)]
    for row, structure in enumerate(structures):
        assert [structure == other for other in structures] == [column == row for column in range(len(structures))]


def traced_fields(rule):
    return [field.name for field in dataclasses.fields(rule) if not field.metadata.get("static")]


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_numbers_change_without_recompiling_and_shapes_do_not(name):
    traces = []

    @jax.jit
    def first(rule, demand):
        traces.append(name)
        problem = problem_of(9, 90.0)
        hint = Hint(total=demand * 9, next=demand, so_far=demand)
        state = rule.update(rule.init(problem), demand, demand)
        return rule.predict(state, jnp.int32(1), problem, demand, hint, jax.random.key(0)).remaining

    rule = small(name)
    for field in traced_fields(rule):
        value = getattr(rule, field)
        first.eval_shape(dataclasses.replace(rule, **{field: type(value)(value * 0.5 if value else 1)}), 3.0)
    assert len(traces) == 1
    for number, field in enumerate([field for field in dataclasses.fields(rule) if field.metadata.get("static")]):
        value = getattr(rule, field.name)
        other = "powers_of_two" if value == "every" else value + 1
        first.eval_shape(dataclasses.replace(rule, **{field.name: other}), 3.0)
        assert len(traces) == 2 + number


@pytest.mark.parametrize("name", ["holt_winters", "seasonal_naive"])
def test_periods_sweep_as_a_stacked_float_leaf(name):
    rules = [dataclasses.replace(small(name), period=period) for period in (1, 4, 10)]
    stacked = jax.tree.map(lambda *leaves: jnp.asarray(np.array(leaves, FLOAT)), *rules)
    demand = jnp.asarray(random_demand(), FLOAT)
    arguments = (problem_of(ROUNDS, 20.0 * ROUNDS), demand, demand, jax.random.key(0))
    _, together = jax.jit(jax.vmap(rollout, in_axes=(0, None, None, None, None)))(stacked, *arguments)
    for row, rule in enumerate(rules):
        _, alone = compiled(rule, *arguments)
        np.testing.assert_allclose(together.remaining[row], alone.remaining, rtol=EXACT, atol=EXACT * 20 * ROUNDS)


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_states_keep_their_types_in_float32_even_where_float64_is_on(name):
    problem = dataclasses.replace(problem_of(9, 90.0), expected_demand=jnp.asarray(90.0, jnp.float32))
    rule, demand = small(name), jnp.asarray(3.0, jnp.float32)
    before = jax.eval_shape(rule.init, problem)
    after = jax.eval_shape(rule.update, before, demand, demand)
    assert after == before
    hint = Hint(total=demand * 9, next=demand, so_far=demand)
    predicted = jax.eval_shape(rule.predict, after, jnp.int32(1), problem, demand, hint, jax.random.key(0))
    assert (predicted.next.dtype, predicted.remaining.dtype) == (jnp.float32, jnp.float32)
    assert (predicted.next.shape, predicted.remaining.shape) == ((), ())


@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_upward_bias_raises_what_remains_and_nothing_else(name):
    demand = random_demand()
    _, following, remaining = run(small(name), demand)
    _, same, raised = run(dataclasses.replace(small(name), upward_bias=0.25), demand)
    np.testing.assert_array_equal(same, following)
    np.testing.assert_allclose(raised, 1.25 * remaining, rtol=1e-6)


def test_remaining_demand_counts_this_round_once():
    predicted = Forecast(next=jnp.asarray(5.0), remaining=jnp.asarray(50.0))
    assert float(remaining_demand(predicted, jnp.asarray(8.0), jnp.asarray(True))) == 53.0
    assert float(remaining_demand(predicted, jnp.asarray(8.0), jnp.asarray(False))) == 50.0
    exhausted = Forecast(next=jnp.asarray(5.0), remaining=jnp.asarray(0.0))
    assert float(remaining_demand(exhausted, jnp.asarray(8.0), jnp.asarray(True))) == 8.0
    assert float(remaining_demand(exhausted, jnp.asarray(8.0), jnp.asarray(False))) == 5.0


# Long runs.
@pytest.mark.parametrize("damping", [0.0, 0.5, 0.9, 0.98, 0.9999, 1 - 2e-6, 1 - 6e-8, 1.0])
def test_damped_trend_sum_at_any_length(damping):
    damping = float(np.asarray(damping, FLOAT))
    for rounds in (0, 1, 2, 3, 12, 49, 51, 5000, 499_999, 500_001, 3_000_000):
        steps = np.arange(1, rounds + 1, dtype=np.float64)
        expected = np.sum((rounds + 1 - steps) * damping**steps)
        found = damped_trend_sum(jnp.asarray(damping, FLOAT), jnp.asarray(float(rounds), FLOAT))
        np.testing.assert_allclose(float(found), expected, rtol=2e-9 if jax.config.jax_enable_x64 else 4e-6)


@pytest.mark.parametrize("rounds", [2**24 + 1, 2**28 + 1, 5 * 10**8, 2**31 - 2])
@pytest.mark.parametrize("damping", [0.0, 0.98, 0.9999, 1 - 6e-8, 1.0])
def test_damped_trend_sum_at_the_longest_horizons(damping, rounds):
    damping = float(np.asarray(damping, FLOAT))
    with decimal.localcontext(prec=80):
        factor = decimal.Decimal(damping)
        rest = 1 - factor
        expected = (
            factor / rest * (rounds - factor * (1 - factor**rounds) / rest) if rest else rounds * (rounds + 1) / 2
        )
    found = damped_trend_sum(jnp.asarray(damping, FLOAT), jnp.asarray(rounds).astype(FLOAT))
    np.testing.assert_allclose(float(found), float(expected), rtol=2e-9 if jax.config.jax_enable_x64 else 4e-6)


@pytest.mark.parametrize("left", [0, 1, 6, 7, 1000, 10**7])
@pytest.mark.parametrize("horizon", [2**24 + 3, 2**28 + 5, 5 * 10**8, 2**31 - 2])
def test_a_season_adds_up_the_rounds_left_at_any_time(horizon, left):
    """The state that a run of ``horizon`` rounds has with ``left`` of them left, set by hand."""
    values = np.array([3.0, 1.0, 4.0, 1.5, 9.0, 2.5, 6.0, 0, 0, 0])
    now = horizon - left
    problem = problem_of(horizon, 100.0)
    assert int(Season.start(10, jnp.int32(7), problem).piece_rounds) == horizon % 7
    piece = sum(values[(now + h) % 7] for h in range(left % 7))
    season = Season(
        values=jnp.asarray(values, FLOAT),
        current=jnp.asarray(values[now % 7], FLOAT),
        phase=jnp.int32(now % 7),
        piece_rounds=jnp.int32(left % 7),
        total=CompensatedSum(total=jnp.asarray(values.sum(), FLOAT), lost=jnp.zeros((), FLOAT)),
        piece=CompensatedSum(total=jnp.asarray(piece, FLOAT), lost=jnp.zeros((), FLOAT)),
    )
    state = seasonal_naive.SeasonalNaiveState(season=season, rounds=jnp.int32(7))
    predicted = predict(small("seasonal_naive"), state, now, problem)
    np.testing.assert_allclose(float(predicted.remaining), left // 7 * values.sum() + piece, rtol=3e-7)
    assert float(predicted.next) == values[now % 7]


def pattern(t):
    """A demand of period 7 around 100 that no float32 holds exactly."""
    return 100.0 + 0.1 * (t % 7)


def pattern_sum(start, stop):
    return math.fsum(pattern(t) for t in range(start, stop))


@functools.partial(jax.jit, static_argnums=2)
def advance(rule, state, rounds):
    def step(t, state):
        demand = jnp.asarray(100.0 + 0.1 * (t % 7), FLOAT)
        return rule.update(state, demand, 0.5 * demand)

    return jax.lax.fori_loop(0, rounds, step, state)


LATE = 700_000  # rounds simulated at the end of a run of LONG, from a state set by hand


@pytest.mark.parametrize("name", ["running_mean", "profile"])
def test_sums_do_not_drift_over_ten_million_rounds(name):
    before = LONG - LATE
    weekly = pattern_sum(0, 7)
    total = CompensatedSum.zero(jnp.zeros((), FLOAT)).add(jnp.asarray(weekly * (before // 7), FLOAT))
    total = total.add(jnp.asarray(pattern_sum(0, before % 7), FLOAT))
    half = CompensatedSum(total=0.5 * total.total, lost=0.5 * total.lost)
    problem = problem_of(LONG + 10_000, 0.5 * weekly / 7 * (LONG + 10_000))
    rule = small(name)
    state = rule.init(problem)
    if name == "running_mean":
        state = dataclasses.replace(state, demand=total, rounds=jnp.asarray(before, jnp.int32))
    else:
        state = dataclasses.replace(state, demand=total, profile=half)
    state = advance(rule, state, LATE)
    predicted = rule.predict(state, LONG, problem, jnp.asarray(50.0, FLOAT), None, None)
    seen = weekly * (before // 7) + pattern_sum(0, before % 7) + weekly * (LATE // 7)
    mean = seen / LONG
    if name == "running_mean":
        np.testing.assert_allclose(float(predicted.remaining), mean * 10_000, rtol=1e-6)
    else:
        # The planner's total is itself known to half a unit in the last place only, of 5e8.
        np.testing.assert_allclose(float(predicted.remaining), mean * 10_000, atol=2.5 * np.spacing(np.float32(5e8)))


@pytest.mark.parametrize("name", ["holt_winters", "seasonal_naive"])
def test_season_sums_stay_exact_over_long_runs(name):
    rule, rounds, horizon = small(name), 300_000, LONG
    spike = jnp.asarray(1e6, FLOAT)  # leaves residue in a plain running sum
    problem = problem_of(horizon, 100.3 * horizon)
    state = advance(rule, rule.update(rule.init(problem), spike, spike), rounds)
    values = np.asarray(state.season.values, np.float64)[: rule.period]
    places = (rounds + 1 + np.arange((horizon - rounds - 1) % rule.period)) % rule.period
    np.testing.assert_allclose(float(state.season.total.total), values.sum(), rtol=EXACT, atol=1e-5)
    np.testing.assert_allclose(float(state.season.piece.total), values[places].sum(), rtol=EXACT, atol=1e-5)
    predicted = rule.predict(state, rounds + 1, problem, spike, None, None)
    np.testing.assert_allclose(float(predicted.remaining), 100.3 * (horizon - rounds - 1), rtol=1e-5)


def test_plain_float32_sums_would_fail_the_same_check():
    plain = jax.lax.fori_loop(0, LATE, lambda t, total: total + jnp.float32(100.1), jnp.float32(1e9))
    exact = 1e9 + LATE * float(np.float32(100.1))
    assert abs(float(plain) - exact) / exact > 1e-4


def test_season_needs_no_full_period_to_start():
    problem = problem_of(2, 4.0)
    season = Season.start(5, jnp.int32(5), problem)
    season = season.replace(jnp.asarray(3.0, FLOAT), jnp.int32(5))
    assert float(season.sum(jnp.int32(1), jnp.int32(5))) == 0.0


def test_autoregression_stays_sensible_when_unstable():
    rule, problem = small("ar"), problem_of(1000, 10_000.0)
    state = learn(rule, rule.init(problem), jnp.asarray(10.0, FLOAT))
    for weights in ([1.0, 3.0, 0.0, 0.0], [0.0, -5.0, 0.0, 0.0], [-1e30, 1e30, 1e30, -1e30], [1.0, 1.0, 0.0, 0.0]):
        wild = dataclasses.replace(state, weights=jnp.asarray(weights, FLOAT))
        predicted = predict(rule, wild, 1, problem)
        assert 0.0 <= float(predicted.next) <= 20.0
        assert 0.0 <= float(predicted.remaining) <= 20.0 * 999 * (1 + 1e-6)


def test_autoregression_that_overflows_starts_again():
    rule, problem = small("ar"), problem_of(1000, 10_000.0)
    one = jnp.asarray(10.0, FLOAT)
    state = functools.reduce(lambda state, _: learn(rule, state, one), range(5), rule.init(problem))
    lost = learn(rule, dataclasses.replace(state, weights=state.weights * jnp.nan), one)
    np.testing.assert_array_equal(lost.weights, [0.0, 1.0, 0.0, 0.0])


def test_autoregression_survives_a_long_calm():
    rule, problem = small("ar"), problem_of(LONG, 100.0 * LONG)
    state = advance(rule, rule.init(problem), 100_000)
    assert float(jnp.trace(state.covariance)) <= 400.0 * (1 + 1e-5)
    assert float(jnp.min(jnp.linalg.eigvalsh(state.covariance))) > -1e-3
    calm = predict(rule, state, 100_000, problem)
    np.testing.assert_allclose(float(calm.next), pattern(100_000), rtol=2e-3)


# Noise.
@pytest.mark.parametrize(("uniform", "variance"), [(1, 1 / 3), (0, 0.7737413)])
def test_noisy_oracle_has_the_stated_bias_noise_and_shrinkage(uniform, variance):
    draws, total, t = 20_000, 1e4, jnp.int32(24)
    problem = problem_of(100, total)
    hint = Hint(total=jnp.asarray(total), next=jnp.asarray(7.0), so_far=jnp.asarray(0.0))
    predict = jax.jit(jax.vmap(lambda rule, key: rule.predict((), t, problem, 1.0, hint, key), in_axes=(None, 0)))
    for decay in (0.0, 0.5):
        rule = build("noisy_oracle", {"bias": 0.2, "noise": 0.3, "decay": decay, "uniform": uniform})
        predicted = predict(rule, jax.random.split(jax.random.key(11), draws))
        size = 0.3 * 25**-decay
        error = (np.asarray(predicted.remaining, np.float64) / total - 1.2) / size
        limit = 1.0 if uniform else 2.0
        assert np.abs(error).max() <= limit * (1 + 1e-4)
        assert np.abs(error).max() > 0.98 * limit
        # Five standard errors: a false alarm in 10^6 seeds. The fourth moment is at most limit² times the second.
        assert abs(error.mean()) < 5 * math.sqrt(variance / draws)
        assert abs(error.var() - variance) < 5 * math.sqrt(limit**2 * variance / draws)
        np.testing.assert_allclose(np.asarray(predicted.next) / 7.0, 1.2 + size * error, rtol=1e-5)


def test_noisy_oracle_cannot_owe_demand():
    rule = build("noisy_oracle", {"bias": -0.5, "noise": 0.0})
    hint = Hint(total=jnp.asarray(100.0), next=jnp.asarray(10.0), so_far=jnp.asarray(80.0))
    predicted = rule.predict((), jnp.int32(8), problem_of(10, 100.0), 10.0, hint, jax.random.key(0))
    assert float(predicted.remaining) == 0.0
    assert float(predicted.next) == 5.0


# Published figures (literature.md d.5): error of one step over demand, after two seasons.
@pytest.mark.parametrize(
    ("pool", "name", "published"),
    [
        ("m-large", "last_value", 0.104),
        ("m-large", "ar", 0.108),
        ("m-large", "seasonal_naive", 0.373),
        ("m-small", "last_value", 0.088),
        ("m-small", "seasonal_naive", 0.213),
    ],
)
def test_one_step_errors_on_real_traffic(pool, name, published):
    demand = real_demand(pool)
    _, following, _ = run(build(name, {}), demand)
    error = np.abs(following - demand)[288:].sum() / demand[288:].sum()
    assert error == pytest.approx(published, abs=0.003)


def test_total_errors_on_real_traffic():
    demand = real_demand("m-large")
    for name, published in (("running_mean", (0.36, 0.13, 0.07, 0.06)), ("last_value", (-0.37, -0.07, 0.20, 0.04))):
        _, _, remaining = run(build(name, {}), demand)
        rounds = [int(len(demand) * share) for share in (0.1, 0.25, 0.5, 0.75)]
        errors = [(demand[:t].sum() + remaining[t]) / demand.sum() - 1.0 for t in rounds]
        np.testing.assert_allclose(errors, published, atol=0.006)


# Configuration.
@pytest.mark.parametrize("name", sorted(FORECASTERS))
def test_every_forecaster_has_a_commented_config_of_its_defaults(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    values = yaml.safe_load(text)
    assert values.pop("name") == name
    rule = build(name, values)
    assert values == {field.name: getattr(rule, field.name) for field in dataclasses.fields(rule)}
    assert rule == FORECASTERS[name]()
    assert all(" # " in row for row in text.splitlines())
    assert values.get("period", 144) == 144


def test_every_config_has_a_forecaster():
    assert {file.stem for file in CONFIGS.glob("*.yaml")} == set(FORECASTERS)


@pytest.mark.parametrize(
    ("name", "values", "sentence"),
    [
        ("ewmaa", {}, "forecaster.name is 'ewmaa', which is no forecaster; did you mean 'ewma'?"),
        (None, {}, "forecaster.name is None, which is no forecaster; known: ar, ewma"),
        ("ewma", {"smothing": 0.1}, "forecaster: unknown parameter 'smothing'; did you mean 'smoothing'?"),
        ("ewma", {"smoothing": 1.5}, "forecaster.smoothing is 1.5; it must lie in [0, 1]"),
        ("ewma", {"smoothing": math.nan}, "forecaster.smoothing is nan; it must be a finite number"),
        ("ewma", {"smoothing": "fast"}, "forecaster.smoothing is 'fast'; it must be a finite number"),
        ("ewma", {"smoothing": None}, "forecaster.smoothing is None; it must be a finite number"),
        ("last_value", {"upward_bias": -0.1}, "forecaster.upward_bias is -0.1; it must lie in [0, inf]"),
        ("holt", {"damping": 1.01}, "forecaster.damping is 1.01; it must lie in [0, 1]"),
        ("ar", {"order": 2.5}, "forecaster.order is 2.5; it must be a whole number"),
        ("ewma", {"refresh": "often"}, "forecaster.refresh is 'often'; it must be one of every, powers_of_two"),
        ("ar", {"order": 0}, "forecaster.order is 0; it must lie in [1, 64]"),
        ("ar", {"forgetting": 0.1}, "forecaster.forgetting is 0.1; it must lie in [0.5, 1]"),
        ("noisy_oracle", {"noise": -1}, "forecaster.noise is -1; it must lie in [0, inf]"),
        ("noisy_oracle", {"bias": -2}, "forecaster.bias is -2; it must lie in [-1, inf]"),
        ("noisy_oracle", {"uniform": True}, "forecaster.uniform is True; it must be a finite number"),
        ("holt_winters", {"period": 0}, "forecaster.period is 0; it must lie in [1, 1.04858e+06]"),
        (
            "seasonal_naive",
            {"period": 145},
            "forecaster.period is 145; it must not exceed forecaster.season_capacity, which is 144",
        ),
    ],
)
def test_bad_input_is_named_in_one_sentence(name, values, sentence):
    with pytest.raises(InputError) as caught:
        build(name, values)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)


def test_whole_numbers_may_be_written_as_floats():
    assert build("ar", {"order": 2.0}) == build("ar", {"order": 2})


def test_a_forecaster_of_ones_own_is_one_decorator():
    try:

        @forecaster("doubled")
        class Doubled(Forecaster):
            factor: float = module.number(2.0, low=0.0)

            def init(self, problem):
                return nominal_demand(problem)

            def learn(self, state, demand, profile):
                return demand

            def outlook(self, state, now):
                return steady(self.factor * state, now)

        _, following, remaining = run(build("doubled", {"factor": 3.0}), [1.0, 2.0, 4.0])
        np.testing.assert_allclose(following[1:], [3.0, 6.0])
        np.testing.assert_allclose(remaining[1:], [6.0, 6.0])
    finally:
        FORECASTERS.pop("doubled")


def test_the_examples_run():
    results = doctest.testmod(module)
    assert results.attempted > 5
    assert results.failed == 0


def test_profile_scale_is_one_before_data_and_the_ratio_after():
    rule = Profile(prior_rounds=0.0)
    _, following, remaining = run(rule, [3.0, 3.0, 3.0], expected=6.0, profile=[2.0, 1.0, 3.0])
    np.testing.assert_allclose(following, [2.0, 1.5, 6.0], rtol=1e-6)
    np.testing.assert_allclose(remaining, [6.0, 6.0, 6.0], rtol=1e-6)
