"""Demand: profiles against plain NumPy, laws against theory, and the promises about batches, horizons and bad input.

Statistical bounds are five standard errors of fixed seeds: a right program fails one such check with a chance of 6e-7,
and the whole file (some 40 of them) with a chance of 2e-5, decided once and for all by the seeds.
"""

import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import yaml

from envs.demand import base as module
from envs.demand import trace
from envs.demand.arrivals import Demand, build, expected_total
from envs.demand.base import PROCESSES
from envs.demand.counts import poisson
from envs.demand.trace import Trace
from envs.errors import InputError
from envs.parameters import number

REPOSITORY = Path(__file__).parents[1]
DATA = REPOSITORY.parent / "shared" / "data"
SIGMAS = 5.0
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="the recorded traces are not here")


@pytest.fixture(scope="module", autouse=True)
def strict_rank() -> Any:
    """Silent broadcasting between ranks hides bugs: refused in this file, whoever runs it."""
    with jax.numpy_rank_promotion("raise"):
        yield


def config(name: str, **changes: Any) -> dict[str, Any]:
    """A process's own yaml with some entries changed."""
    return yaml.safe_load((REPOSITORY / "conf" / "demand" / f"{name}.yaml").read_text()) | changes


@pytest.fixture(scope="module")
def trace_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A short recorded series with a gap in it."""
    path = tmp_path_factory.mktemp("traces") / "trace.csv"
    path.write_text("minute,requests\n0,4\n1,0\n2,10\n3,2\n")
    return str(path)


@pytest.fixture(params=sorted(PROCESSES))
def any_config(request: pytest.FixtureRequest, trace_path: str) -> dict[str, Any]:
    """Each process's yaml in turn; the trace gets a file."""
    return config(request.param, **({"path": trace_path} if request.param == "trace" else {}))


def make(name: str, **changes: Any) -> Demand:
    """The demand of a changed yaml."""
    return build(name, config(name, **changes))


def one_run(demand: Demand, key: jax.Array, horizon: jax.Array, length: int) -> jax.Array:
    """[length] tasks of one run, keyed as the simulator keys them."""
    key_init, key_rounds = jax.random.split(key)

    def advance(state: Any, t: jax.Array) -> tuple[Any, jax.Array]:
        return demand.step(state, t, horizon, jax.random.fold_in(key_rounds, t))

    return jax.lax.scan(advance, demand.init(key_init), jnp.arange(length, dtype=jnp.int32))[1]


batch_of_runs = jax.jit(jax.vmap(one_run, in_axes=(None, 0, None, None)), static_argnums=3)
position = jax.jit(trace._position, static_argnums=2)
profile_of = jax.jit(lambda demand, rounds, horizon: jax.vmap(demand.profile, in_axes=(0, None))(rounds, horizon))


def simulate(demand: Demand, runs: int, length: int, seed: int) -> np.ndarray:
    """[runs, length] tasks in float64."""
    keys = jax.random.split(jax.random.key(seed), runs)
    return np.asarray(batch_of_runs(demand, keys, jnp.int32(length), length), dtype=np.float64)


def profile(demand: Demand, horizon: int, rounds: np.ndarray | None = None) -> np.ndarray:
    """Profile of some or all rounds in float64."""
    wanted = np.arange(horizon) if rounds is None else rounds
    padded = np.pad(wanted, (0, -wanted.size % 4096), mode="edge")  # few shapes, so few programs to compile
    found = profile_of(demand, jnp.asarray(padded, jnp.int32), jnp.int32(horizon))
    return np.asarray(found, dtype=np.float64)[: wanted.size]


def assert_near(found: float, expected: float, standard_error: float) -> None:
    """Within SIGMAS standard errors."""
    assert abs(found - expected) <= SIGMAS * standard_error, (found, expected, standard_error)


def assert_mean_of_runs(tasks: np.ndarray, expected: float) -> None:
    """The mean of independent runs [R, T], with the standard error that the runs themselves show."""
    means = tasks.mean(axis=1)
    assert_near(means.mean(), expected, means.std(ddof=1) / math.sqrt(means.size) + 1e-6 * expected)


# Profiles: plain twins.
def twin(name: str, p: dict[str, Any], t: np.ndarray, horizon: int) -> np.ndarray:
    """The profile from its formula, float64."""
    if name == "sinusoid":
        return p["mean"] * (1 + p["amplitude"] * np.sin(2 * np.pi * (t / p["period"] + p["phase"])))
    if name == "diurnal":
        day = t / p["period"]
        wave = 1 + p["amplitude"] * np.sin(2 * np.pi * (day + p["phase"]))
        wave += p["amplitude_second"] * np.sin(2 * np.pi * (2 * day + p["phase_second"]))
        factor = np.where(np.floor(day) % 7 >= 5, p["weekend"], 1.0)
        return p["mean"] * wave * factor * 7 / (5 + 2 * p["weekend"])
    if name == "trend":
        return p["mean"] * (1 + p["slope"] * ((2 * t + 1) / horizon - 1))
    if name == "normal":
        return np.full(t.shape, above_zero(p["mean"], math.sqrt(p["variance"])))
    if name == "autoregressive":
        return autoregressive_means(p, t)
    return np.full(t.shape, p["mean"])


def above_zero(mean: float, deviation: float) -> float:
    """E max(X, 0) of a normal variate, by quadrature."""
    if deviation == 0:
        return max(mean, 0.0)
    top = max(mean + 12 * deviation, 0.0)
    return scipy.integrate.quad(lambda x: x * scipy.stats.norm.pdf(x, mean, deviation), 0, top, epsabs=1e-12)[0]


def autoregressive_means(p: dict[str, Any], t: np.ndarray) -> np.ndarray:
    """The expected rate of rounds 0, 1, ..., from the recursion of mean and variance."""
    mean, variance = p["constant"] / (1 - p["coefficient"]), p["noise"] ** 2 / (1 - p["coefficient"] ** 2)
    if p["start"] is not None:
        mean, variance = p["start"], 0.0
    found = []
    for _ in range(int(t.max()) + 1):
        found.append(above_zero(mean, math.sqrt(variance)) if len(found) < 60 else found[-1])
        mean, variance = p["constant"] + p["coefficient"] * mean, p["coefficient"] ** 2 * variance + p["noise"] ** 2
    return np.array(found)[t]


@pytest.mark.parametrize("name", sorted(set(PROCESSES) - {"trace"}))
@pytest.mark.parametrize("horizon", [1, 2016])
def test_profile_equals_its_formula(name: str, horizon: int) -> None:
    rounds = np.arange(horizon)
    np.testing.assert_allclose(profile(make(name), horizon), twin(name, config(name), rounds, horizon), rtol=2e-6)


# Time: the longest horizon that a configuration may have, and where float32 stops counting.
LONGEST = 2**31 - 2
LATE = np.unique([t + d for t in (0, 2**24, 2**28, 5 * 10**8, LONGEST - 4) for d in range(-3, 4) if t + d >= 0])
PERIODS = (1.0, 3.0, 144.0, 144.1, 0.7, 1440.5, 999_983.0, 1e9)


def exact_turn(t: int, period: float) -> Fraction:
    """t / period modulo 1, for the period as it is written."""
    return Fraction(int(t)) / Fraction(repr(period)) % 1


def exact_profile(name: str, p: dict[str, Any], t: int, horizon: int) -> float:
    """The profile with its phases in exact arithmetic."""
    if name == "trend":
        return p["mean"] * float(1 + Fraction(p["slope"]) * (Fraction(2 * t + 1, horizon) - 1))
    if name == "sinusoid":
        return p["mean"] * (1 + p["amplitude"] * math.sin(2 * math.pi * (exact_turn(t, p["period"]) + p["phase"])))
    day = Fraction(int(t)) / Fraction(repr(p["period"]))
    wave = 1 + p["amplitude"] * math.sin(2 * math.pi * (day % 1 + p["phase"]))
    wave += p["amplitude_second"] * math.sin(2 * math.pi * (2 * day % 1 + p["phase_second"]))
    return p["mean"] * wave * (p["weekend"] if day % 7 >= 5 else 1.0) * 7 / (5 + 2 * p["weekend"])


@pytest.mark.parametrize(("double", "tolerance"), [(False, 3e-6), (True, 1e-12)])
@pytest.mark.parametrize("name", ["sinusoid", "diurnal", "trend"])
def test_profile_is_exact_to_the_last_round_of_the_longest_horizon(name: str, double: bool, tolerance: float) -> None:
    with jax.enable_x64(double):
        for period in PERIODS if name != "trend" else (None,):
            changes = {} if period is None else {"period": period}
            # Boundaries of days and weeks are where a phase that is a little wrong shows most.
            days = (5, 7, 5 + 7 * 10**3, 5 + 7 * 10**5, 7 * 10**6)
            edges = (
                [] if period is None else [math.ceil(Fraction(repr(period)) * day) + d for day in days for d in (-1, 0)]
            )
            rounds = np.array([*LATE, *(t for t in edges if 0 <= t < LONGEST)])
            expected = [exact_profile(name, config(name, **changes), int(t), LONGEST) for t in rounds]
            found = profile(make(name, **changes), LONGEST, rounds)
            np.testing.assert_allclose(found, expected, rtol=tolerance, atol=20 * tolerance, err_msg=str(period))


@pytest.mark.parametrize("rows", [1, 2, 7, 1000, 65_537])
@pytest.mark.parametrize("horizon", [1, 2, 999, 2**24 + 1, 2**28 + 3, 5 * 10**8, LONGEST])
def test_a_round_falls_on_the_right_rows_at_any_horizon(rows: int, horizon: int) -> None:
    for t in {min(max(int(t), 0), horizon - 1) for t in (*LATE, horizon // 3, horizon // 2, horizon - 2, horizon - 1)}:
        whole, rest = position(t, horizon, rows)
        assert divmod(t * rows, horizon) == (int(whole), int(rest))


@pytest.mark.parametrize(("double", "tolerance"), [(False, 1e-6), (True, 1e-13)])
def test_trace_is_exact_to_the_last_round_of_the_longest_horizon(double: bool, tolerance: float) -> None:
    counts = np.random.default_rng(4).integers(0, 50, 1007) * 1.0
    with jax.enable_x64(double):
        for horizon in (2**24 + 5, 2**28 + 3, 5 * 10**8, LONGEST):
            rounds = np.unique(np.concatenate([LATE[horizon > LATE], horizon * np.arange(1, 1007) // 1007]))
            expected = []
            for t in rounds.tolist():
                begin, end = Fraction(t * 1007, horizon), Fraction((t + 1) * 1007, horizon)
                middle = Fraction(min(math.floor(begin) + 1, end))
                later = Fraction(counts[math.floor(middle)]) * (end - middle) if end > middle else 0
                part = Fraction(counts[math.floor(begin)]) * (middle - begin) + later
                expected.append(float(part * horizon / 1007 * 20 / Fraction(counts.mean())))
            np.testing.assert_allclose(profile(replay(counts, 20.0), horizon, rounds), expected, rtol=tolerance)


@pytest.mark.parametrize(("name", "horizon"), [("sinusoid", 1440), ("diurnal", 2016), ("trend", 777)])
def test_profile_averages_to_the_mean(name: str, horizon: int) -> None:
    assert profile(make(name), horizon).mean() == pytest.approx(20.0, rel=1e-6)


def test_diurnal_profile_never_falls_below_zero() -> None:
    demand = make("diurnal", amplitude=0.5, amplitude_second=0.5, phase=0.0, phase_second=0.125, period=8)
    lowest = profile(make("diurnal", amplitude=1.0, amplitude_second=0.0), 1008).min()
    assert 0 <= lowest < 0.1
    assert profile(demand, 100).min() >= 0


# Counts.
def test_poisson_matches_the_exact_law() -> None:
    draw = jax.jit(jax.vmap(poisson, in_axes=(0, None)))
    for seed, rate in enumerate((0.05, 3.0, 15.9, 16.1, 20.0, 400.5)):
        keys = jax.random.split(jax.random.key(seed), 200_000)
        counts = np.asarray(draw(keys, jnp.asarray(rate, jnp.result_type(float))), dtype=np.int64)
        law = scipy.stats.poisson(rate)
        assert_near(counts.mean(), rate, math.sqrt(rate / counts.size))
        fourth = rate * (1 + 3 * rate)
        assert_near(counts.var(), rate, math.sqrt((fourth - rate**2) / counts.size))
        assert chi_square(counts, law) > 1e-6, rate


def chi_square(counts: np.ndarray, law: Any) -> float:
    """The p-value of Pearson's test with tails pooled to at least 20 expected counts in each cell."""
    edges = np.arange(law.ppf(20 / counts.size), law.isf(20 / counts.size) + 1)
    expected = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]])) * counts.size
    observed = np.bincount(np.searchsorted(edges, counts), minlength=expected.size)
    kept = expected > 0
    return float(scipy.stats.chisquare(observed[kept], expected[kept], sum_check=False).pvalue)


def test_poisson_at_the_edges() -> None:
    draw = jax.jit(jax.vmap(poisson))
    rates = jnp.asarray([0.0, 1e-30, jnp.nan, 2.0**24, 1e30], jnp.result_type(float))
    zero, almost_zero, missing, large, larger = np.asarray(draw(jax.random.split(jax.random.key(0), 5), rates))
    assert zero == 0 and almost_zero == 0 and math.isnan(missing)
    assert_near(large, 2.0**24, 2.0**12)
    assert_near(larger, 2.0**24, 2.0**12)


@pytest.mark.parametrize("dispersion", [0.0, 0.2, 3.0])
def test_negative_binomial_has_the_stated_law(dispersion: float) -> None:
    counts = simulate(make("constant", counts="negative_binomial", dispersion=dispersion), 250, 200, seed=2).ravel()
    rate, variance = 20.0, 20.0 + dispersion * 400
    law = scipy.stats.nbinom(1 / dispersion, 1 / (1 + dispersion * rate)) if dispersion else scipy.stats.poisson(rate)
    assert_near(counts.mean(), rate, math.sqrt(variance / counts.size))
    kurtosis = 3 + float(law.stats(moments="k"))
    assert_near(counts.var(), variance, variance * math.sqrt((kurtosis - 1) / counts.size))
    assert chi_square(counts.astype(np.int64), law) > 1e-6
    default = build("constant", config("constant", counts="negative_binomial", dispersion=dispersion)).maximum
    assert counts.max() < float(default)
    assert law.sf(float(default)) < math.exp(-30)


def test_counts_are_whole_and_capped() -> None:
    tasks = simulate(make("constant", maximum=22.5), 10, 500, seed=3)
    assert tasks.max() == 22 and tasks.min() >= 0
    np.testing.assert_array_equal(tasks, np.round(tasks))
    assert simulate(make("constant", counts="none", maximum=20), 2, 5, seed=3).tolist() == [[20.0] * 5] * 2


# Processes: laws.
@pytest.mark.parametrize("name", ["sinusoid", "diurnal", "trend"])
def test_noise_keeps_the_mean_and_has_its_size(name: str) -> None:
    factor = simulate(make(name, counts="none", noise=0.3), 100, 1000, seed=5) / profile(make(name), 1000)
    assert_near(factor.mean(), 1.0, math.sqrt(math.expm1(0.09) / factor.size))
    assert_near(np.log(factor).std(), 0.3, 0.3 / math.sqrt(2 * factor.size))
    silent = simulate(make(name, counts="none", noise=0), 100, 1000, seed=5)
    np.testing.assert_allclose(silent[0], profile(make(name), 1000), rtol=1e-6)


def test_walk_is_stationary_and_forgets_at_its_rate() -> None:
    tasks = simulate(make("walk", counts="none", step_size=0.1, reversion=0.05), 4000, 41, seed=6)
    variance = 0.01 / (1 - 0.95**2)
    logs = np.log(tasks / 20) + variance / 2
    for t in (0, 40):
        assert_near(tasks[:, t].mean(), 20, 20 * math.sqrt(math.expm1(variance) / 4000))
        assert_near(logs[:, t].var(), variance, variance * math.sqrt(2 / 4000))
    for lag in (1, 10, 40):
        expected = 0.95**lag
        found = np.corrcoef(logs[:, 0], logs[:, lag])[0, 1]
        assert_near(found, expected, (1 - expected**2) / math.sqrt(4000))


def test_mmpp_spends_its_time_as_it_should() -> None:
    tasks = simulate(make("mmpp", counts="none"), 2000, 201, seed=7)
    quiet = 20 / (1 + 4 / 6)
    busy = tasks > 2 * quiet
    np.testing.assert_allclose(tasks, np.where(busy, 5 * quiet, quiet), rtol=1e-6)
    for t in (0, 200):
        assert_near(busy[:, t].mean(), 1 / 6, math.sqrt(5 / 36 / 2000))
    was_busy, is_busy = busy[:, :-1], busy[:, 1:]
    for before, chance in ((False, 0.02), (True, 0.1)):
        switched = (is_busy != was_busy)[was_busy == before]
        assert_near(switched.mean(), chance, math.sqrt(chance * (1 - chance) / switched.size))
    assert_mean_of_runs(tasks, 20.0)


@pytest.mark.parametrize(("mean", "variance"), [(2.0, 0.5), (0.5, 4.0), (3.0, 0.0)])
def test_normal_is_a_normal_variate_cut_at_zero(mean: float, variance: float) -> None:
    demand = make("normal", mean=mean, variance=variance)
    tasks = simulate(demand, 200, 500, seed=11)
    law = scipy.stats.norm(mean, math.sqrt(variance)) if variance else None
    exact = above_zero(mean, math.sqrt(variance))
    assert expected_total(demand, 500) == pytest.approx(500 * exact, rel=1e-6)
    assert_near(tasks.mean(), exact, tasks.std() / math.sqrt(tasks.size) + 1e-6)
    assert tasks.min() >= 0 and tasks.max() <= float(demand.maximum)
    if law is not None:
        cut = law.cdf(0)
        assert_near((tasks == 0).mean(), cut, math.sqrt(cut * (1 - cut) / tasks.size))
        above = tasks[tasks > 0]
        assert scipy.stats.kstest((law.cdf(above) - cut) / (1 - cut), "uniform").pvalue > 1e-6
        assert law.sf(float(demand.maximum)) < math.exp(-30)
        assert abs(np.corrcoef(tasks[:, :-1].ravel(), tasks[:, 1:].ravel())[0, 1]) < SIGMAS / math.sqrt(tasks.size)


AUTOREGRESSIVE = [
    {},
    {"coefficient": -0.7, "noise": 0.6},
    {"coefficient": 0.9, "noise": 1.0, "constant": 0.2},  # cut in a fifth of the rounds
    {"start": 9.0},
    {"start": 0.0, "coefficient": -0.9, "noise": 0.1},
]


@pytest.mark.parametrize("changes", AUTOREGRESSIVE)
def test_autoregressive_follows_its_recursion_draw_for_draw(changes: dict[str, Any]) -> None:
    p, horizon = config("autoregressive", **changes), 400
    demand = make("autoregressive", **changes)
    key = jax.random.key(12)
    found = np.asarray(batch_of_runs(demand, key[None], jnp.int32(horizon), horizon), np.float64)[0]
    key_init, key_rounds = jax.random.split(key)
    level, spread = p["constant"] / (1 - p["coefficient"]), p["noise"] / math.sqrt(1 - p["coefficient"] ** 2)
    value = level + spread * float(jax.random.normal(key_init)) if p["start"] is None else p["start"]
    keys = jax.vmap(lambda t: jax.random.fold_in(jax.random.fold_in(key_rounds, t), 0))(jnp.arange(horizon))
    for t, deviate in enumerate(np.asarray(jax.vmap(jax.random.normal)(keys), np.float64)):
        assert found[t] == pytest.approx(max(value, 0.0), rel=1e-4, abs=1e-4), t
        value = p["constant"] + p["coefficient"] * value + p["noise"] * deviate


@pytest.mark.parametrize("changes", AUTOREGRESSIVE)
def test_autoregressive_has_the_expected_mean_in_every_round(changes: dict[str, Any]) -> None:
    demand = make("autoregressive", **changes)
    tasks = simulate(demand, 4000, 30, seed=13)
    expected = autoregressive_means(config("autoregressive", **changes), np.arange(30))
    np.testing.assert_allclose(profile(demand, 30), expected, rtol=1e-5, atol=1e-5)
    for t in range(30):
        assert_near(tasks[:, t].mean(), expected[t], tasks[:, t].std() / math.sqrt(4000) + 1e-5)
    assert tasks.max() < float(demand.maximum)
    late = profile(demand, LONGEST, LATE[-4:])
    settled = autoregressive_means(config("autoregressive", **changes | {"start": None}), np.zeros(1, int))
    np.testing.assert_allclose(late, settled[0], rtol=1e-5)


def test_shocks_jump_seldom_and_keep_the_mean() -> None:
    tasks = simulate(make("shocks", counts="none", probability=0.01), 1000, 301, seed=8)
    average = 2.7 / math.log(10)
    jumps = tasks[:, 1:] != tasks[:, :-1]
    assert_near(jumps.mean(), 0.01, math.sqrt(0.01 * 0.99 / jumps.size))
    for t in (0, 300):
        ranks = np.log(tasks[:, t] / 20 * average / 0.3) / math.log(10)
        assert ranks.min() > -1e-5 and ranks.max() < 1 + 1e-5
        assert scipy.stats.kstest(ranks, "uniform").pvalue > 1e-6
    assert_mean_of_runs(tasks, 20.0)


def test_shocks_between_equal_levels_are_constant() -> None:
    tasks = simulate(make("shocks", counts="none", low=2, high=2, probability=0.5), 2, 20, seed=9)
    np.testing.assert_allclose(tasks, 20.0, rtol=1e-6)


def test_rates_have_the_expected_total_and_never_pass_the_peak(any_config: dict[str, Any]) -> None:
    demand = build(any_config["process"], any_config | {"counts": "none"})
    tasks = simulate(demand, 300, 500, seed=10)
    assert_mean_of_runs(tasks, expected_total(demand, 500) / 500)
    assert tasks.max() <= math.ceil(float(demand.maximum))
    uncapped = build(any_config["process"], any_config | {"counts": "none", "maximum": 1e6})
    np.testing.assert_array_equal(simulate(uncapped, 300, 500, seed=10), tasks)


# Traces.
def replayed(counts: np.ndarray, horizon: int, mean: float) -> np.ndarray:
    """[T] the resampled trace by overlapping intervals one by one, in exact integers where it matters."""
    rows = counts.size
    cumulative = np.concatenate([[0.0], np.cumsum(counts)])
    edges = [(t * rows // horizon, t * rows % horizon / horizon) for t in range(horizon + 1)]
    at_edges = np.array([cumulative[i] + (counts[i] * part if part else 0.0) for i, part in edges])
    return np.diff(at_edges) * mean * horizon / cumulative[-1]


def replay(counts: np.ndarray, mean: float | None = None) -> Demand:
    """The uncapped rate of a series."""
    none = jnp.zeros(())
    return Demand(process=Trace.replay(counts, mean), counts="none", dispersion=none, maximum=none + jnp.inf)


@pytest.mark.parametrize("horizon", [1, 3, 7, 999, 1000, 1001, 2000, 77_777])
def test_trace_is_resampled_exactly(horizon: int) -> None:
    counts = np.random.default_rng(0).poisson(30, 1000) * np.random.default_rng(1).integers(0, 2, 1000) * 1.0
    found = profile(replay(counts, 20.0), horizon)
    np.testing.assert_allclose(found, replayed(counts, horizon, 20.0), rtol=2e-6, atol=1e-9)
    assert found.sum() == pytest.approx(20.0 * horizon, rel=1e-6)


def test_long_trace_loses_nothing_on_short_or_huge_horizons() -> None:
    counts = np.random.default_rng(2).gamma(0.3, 1e4, 1_000_000)
    demand = replay(counts)
    short = profile(demand, 1000)
    np.testing.assert_allclose(short, counts.reshape(1000, 1000).mean(axis=1), rtol=2e-6)
    horizon = 10_000_000
    rounds = np.concatenate([np.arange(20), np.arange(5_000_000, 5_000_020), np.arange(horizon - 20, horizon)])
    np.testing.assert_allclose(profile(demand, horizon, rounds), counts[rounds // 10], rtol=2e-6)
    near = horizon - 3  # no longer a multiple: rounds straddle rows
    rounds = np.random.default_rng(3).integers(0, near, 2000)
    begin, end = rounds * 1_000_000, (rounds + 1) * 1_000_000
    first, last = counts[begin // near], counts[np.minimum(end // near, 999_999)]
    straddling = (first * (near - begin % near) + last * (end % near)) / 1e6
    expected = np.where(begin // near == end // near, first, straddling)
    np.testing.assert_allclose(profile(demand, near, rounds), expected, rtol=2e-6)


def test_trace_keeps_its_own_mean_or_takes_one(trace_path: str) -> None:
    assert profile(make("trace", path=trace_path), 4).tolist() == [4.0, 0.0, 10.0, 2.0]
    assert profile(make("trace", path=trace_path), 2).tolist() == [2.0, 6.0]
    assert profile(make("trace", path=trace_path, mean=8), 8).tolist() == [8.0, 8.0, 0.0, 0.0, 20.0, 20.0, 4.0, 4.0]
    assert profile(make("trace", path=trace_path), 3).tolist() == pytest.approx([3.0, 5.0, 4.0])


@needs_data
@pytest.mark.parametrize(
    ("file", "column", "average"),
    [
        ("azure2023_conv_per_minute.csv", "requests", 328.2),
        ("servegen_rate_10min.csv", "total_rate_req_per_s", 661.9),
        ("burstgpt1_week1_minute_tokens_per_s.csv", "tokens_per_s", 28.03),
    ],
)
def test_real_traces_replay(file: str, column: str, average: float) -> None:
    demand = make("trace", path=str(DATA / file), column=column)
    lines = [line.split(",") for line in (DATA / file).read_text().splitlines()]
    own = np.mean([float(cells[lines[0].index(column)]) for cells in lines[1:]])
    assert own == pytest.approx(average, rel=1e-2)
    for horizon in (100, 20_000):
        assert expected_total(demand, horizon) == pytest.approx(own * horizon, rel=1e-6)


# Promises.
def run_of_batch(demand: Demand, runs: slice) -> np.ndarray:
    """[runs, 50] tasks of some of 16 runs, simulated as a batch of their own."""
    keys = jax.random.split(jax.random.key(11), 16)[runs]
    return np.asarray(batch_of_runs(demand, keys, jnp.int32(50), 50), dtype=np.float64)


@pytest.mark.parametrize("name", ["sinusoid", "shocks", "walk", "mmpp"])
def test_a_rate_does_not_depend_on_its_batch(name: str) -> None:
    demand = make(name, counts="none")  # one process for each way to step; the others draw nothing of their own
    # Within rounding: XLA compiles exp for 5 lanes otherwise than for 16, and its last bit differs.
    np.testing.assert_allclose(run_of_batch(demand, slice(3, 8)), run_of_batch(demand, slice(None))[3:8], rtol=1e-6)


def test_counts_do_not_depend_on_their_batch() -> None:
    # Negative binomial goes through every sampler: normal, gamma and the Poisson search.
    demand = make("walk", counts="negative_binomial", dispersion=0.2)
    np.testing.assert_array_equal(run_of_batch(demand, slice(7, 8)), run_of_batch(demand, slice(None))[7:8])


def test_expected_total_adds_up_the_profile(any_config: dict[str, Any]) -> None:
    demand = build(any_config["process"], any_config)
    for horizon in (1, 1500, 70_000):
        assert expected_total(demand, horizon) == pytest.approx(profile(demand, horizon).sum(), rel=1e-9)


def test_expected_total_of_ten_million_rounds_is_accurate() -> None:
    horizon = 10_000_000
    week = twin("diurnal", config("diurnal"), np.arange(1008), horizon)
    expected = week.sum() * (horizon // 1008) + week[: horizon % 1008].sum()
    assert expected_total(make("diurnal"), horizon) == pytest.approx(expected, rel=2e-7)


def count_traces(function: Callable[..., Any]) -> tuple[Any, list[int]]:
    """The jitted function and a counter of its traces."""
    traces = [0]

    def counted(*arguments: Any) -> Any:
        traces[0] += 1
        return function(*arguments)

    return jax.jit(counted), traces


def step_once(demand: Demand, t: jax.Array, horizon: jax.Array, key: jax.Array) -> jax.Array:
    """One round from a fresh state."""
    key_init, key_round = jax.random.split(key)
    return demand.step(demand.init(key_init), t, horizon, key_round)[1]


def test_numbers_and_horizons_change_without_a_new_program(any_config: dict[str, Any]) -> None:
    name, any_config = any_config["process"], any_config | {"counts": "none"}
    step, traces = count_traces(step_once)
    step(build(name, any_config), jnp.int32(0), jnp.int32(100), jax.random.key(12))
    level = "constant" if name == "autoregressive" else "mean"
    for mean, horizon in ((5, 200), (40.5, 7)):
        demand = build(name, any_config | {level: mean, "maximum": 99, "dispersion": 0.5})
        changed = jax.tree.map(lambda leaf: leaf * 0.5, demand)
        step(changed, jnp.int32(3), jnp.int32(horizon), jax.random.key(12))
    assert traces == [1]
    step.eval_shape(build(name, any_config | {"counts": "poisson"}), jnp.int32(0), jnp.int32(100), jax.random.key(12))
    assert traces == [2], "the law of counts is the program's shape: the counter must see a new one"


def test_leaves_follow_the_default_precision(any_config: dict[str, Any]) -> None:
    demand = build(any_config["process"], any_config)
    wanted = jnp.result_type(float)
    assert {leaf.dtype for leaf in jax.tree.leaves(demand)} == {wanted}
    assert jax.eval_shape(step_once, demand, jnp.int32(0), jnp.int32(9), jax.random.key(0)).dtype == wanted
    assert jax.eval_shape(demand.profile, jnp.int32(0), jnp.int32(9)).dtype == wanted


def test_every_key_is_in_its_yaml_with_a_comment(any_config: dict[str, Any]) -> None:
    name = any_config["process"]
    assert set(any_config) == {"process", *PROCESSES[name].keys(), *module.OPTIONS}
    assert {path.stem for path in (REPOSITORY / "conf" / "demand").glob("*.yaml")} == set(PROCESSES)
    lines = (REPOSITORY / "conf" / "demand" / f"{name}.yaml").read_text().splitlines()
    assert all("  # " in line for line in lines if not line.startswith(("#", "process:")))


def test_a_process_from_outside_needs_one_class() -> None:
    try:

        @module.demand_process("alternating")
        class Alternating(module.Process):
            mean: jax.Array | float = number(3.0, low=0.0, above=True)

            def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
                return self.mean * 2 * (t % 2)

        assert profile(build("alternating", {}), 4).tolist() == [0.0, 6.0, 0.0, 6.0]
        assert profile(build("alternating", {"mean": 1}), 4).tolist() == [0.0, 2.0, 0.0, 2.0]
    finally:
        PROCESSES.pop("alternating")


# Bad input.
BAD: list[tuple[str, dict[str, Any], str]] = [
    ("diurnl", {}, "demand.process is 'diurnl', which is no demand process; did you mean 'diurnal'?"),
    ("constant", {"meen": 3}, "demand.meen is no parameter of 'constant'; did you mean 'mean'?"),
    ("constant", {"mean": "20"}, "demand.mean is '20'; it must be a finite number"),
    ("constant", {"mean": None}, "demand.mean is None; it must be a finite number"),
    ("constant", {"mean": True}, "demand.mean is True; it must be a finite number"),
    ("constant", {"mean": math.nan}, "demand.mean is nan; it must be a finite number"),
    ("constant", {"mean": math.inf}, "demand.mean is inf; it must be a finite number"),
    ("constant", {"mean": -1}, "demand.mean is -1; it must be above 0"),
    ("sinusoid", {"amplitude": 1.5}, "demand.amplitude is 1.5; it must lie in [0, 1]"),
    ("sinusoid", {"period": 0}, "demand.period is 0; it must be above 0"),
    ("sinusoid", {"noise": -0.1}, "demand.noise is -0.1; it must lie in [0, inf]"),
    (
        "diurnal",
        {"amplitude": 0.7, "amplitude_second": 0.6},
        "demand.amplitude and demand.amplitude_second add up to 1.3, but at most 1 keeps the rate from falling below"
        " zero.",
    ),
    ("trend", {"slope": -2}, "demand.slope is -2; it must lie in [-1, 1]"),
    ("shocks", {"probability": 1.1}, "demand.probability is 1.1; it must lie in [0, 1]"),
    ("shocks", {"low": 4}, "demand.low is 4, but it must be at most demand.high, which is 3."),
    ("normal", {"variance": -1}, "demand.variance is -1; it must lie in [0, inf]"),
    (
        "normal",
        {"mean": 0.5, "variance": 100, "maximum": 1},
        "demand.maximum is 1, but it must be at least the mean, 4.24441.",
    ),
    (
        "autoregressive",
        {"coefficient": -1},
        "demand.coefficient is -1, but it must lie between -1 and 1 and be neither: demand would have no mean.",
    ),
    ("autoregressive", {"coefficient": 1.5}, "demand.coefficient is 1.5; it must lie in [-1, 1]"),
    ("autoregressive", {"start": -1}, "demand.start is -1; it must lie in [0, inf]"),
    ("walk", {"reversion": 0}, "demand.reversion is 0; it must be above 0 and at most 1"),
    ("mmpp", {"ratio": 0.5}, "demand.ratio is 0.5; it must lie in [1, inf]"),
    (
        "mmpp",
        {"rise": 0, "fall": 0},
        "demand.rise and demand.fall are both 0, but one must be above 0 for a mean to exist.",
    ),
    (
        "constant",
        {"counts": "poison"},
        "demand.counts is 'poison', which is no law of counts; did you mean 'poisson'?",
    ),
    ("constant", {"dispersion": -1}, "demand.dispersion is -1; it must lie in [0, inf]"),
    ("constant", {"maximum": 0}, "demand.maximum is 0; it must be above 0"),
    ("constant", {"maximum": 19}, "demand.maximum is 19, but it must be at least the mean, 20."),
    ("constant", {"maximum": 1e8}, "demand.maximum is 1e+08, but a round can count at most 16777216 tasks."),
    (
        "constant",
        {"mean": 2e7},
        "demand.mean=2e+07 lets the rate of a round reach 2e+07 tasks, but a round can count at most 16777216; lower"
        " it, or set demand.counts=none.",
    ),
    ("trace", {}, "demand.path is None, but it must be a CSV file."),
    ("trace", {"path": "a.csv", "column": 3}, "demand.column is 3, but it must be the name of a column of the file."),
]


@pytest.mark.parametrize(("name", "changes", "sentence"), BAD)
def test_bad_parameters_get_one_clear_sentence(name: str, changes: dict[str, Any], sentence: str) -> None:
    parameters = config(name if name in PROCESSES else "constant", **changes)
    with pytest.raises(InputError) as caught:
        build(name, parameters)
    assert str(caught.value) == sentence


def test_a_missing_parameter_is_asked_for() -> None:
    parameters = config("trend")
    del parameters["slope"]
    with pytest.raises(InputError, match=r"^demand\.slope is missing; process 'trend' needs mean, slope, noise\.$"):
        build("trend", parameters)
