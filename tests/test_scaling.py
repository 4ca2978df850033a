"""Exponents recover known growth, say when they cannot, and never hide a run."""

import json
import math
import time

import numpy as np
import pytest

from experiments.scaling import fit_exponent, mean_band, mean_interval

HORIZONS = np.array([1000, 2000, 4000, 8000, 16000, 32000, 64000, 128000])


def lognormal(mean: np.ndarray, runs: int, generator: np.random.Generator, spread: float = 0.3) -> np.ndarray:
    """[H, R] positive samples with the given means and coefficient of variation about ``spread``."""
    return mean[:, None] * np.exp(spread * generator.standard_normal((len(mean), runs)) - spread**2 / 2)


@pytest.mark.parametrize("runs", [16, 64])
def test_interval_covers_a_pure_power_law(runs: int) -> None:
    """400 data sets, nominal 0.95: the count misses by less than 4 sigma (false alarm 6e-5 if coverage is exact)."""
    generator = np.random.default_rng(7)
    trials, hits, tail_hits = 400, 0, 0
    for trial in range(trials):
        samples = lognormal(HORIZONS ** (2 / 3), runs, generator)
        fit = fit_exponent(HORIZONS, samples, resamples=499, seed=trial)
        hits += fit.interval[0] <= 2 / 3 <= fit.interval[1]
        tail_hits += fit.tail_interval[0] <= 2 / 3 <= fit.tail_interval[1]
    bound = 4 * math.sqrt(0.95 * 0.05 / trials)
    assert abs(hits / trials - 0.95) < bound
    assert abs(tail_hits / trials - 0.95) < bound


def test_noise_free_data_gives_exact_slopes() -> None:
    samples = np.repeat((3.0 * HORIZONS**0.6)[:, None], 5, axis=1)
    fit = fit_exponent(HORIZONS, samples)
    assert fit.slope == pytest.approx(0.6, abs=1e-12)
    assert fit.intercept == pytest.approx(math.log(3.0), abs=1e-10)
    np.testing.assert_allclose(fit.local_slopes, 0.6, atol=1e-12)
    np.testing.assert_allclose(fit.local_intervals, 0.6, atol=1e-12)
    np.testing.assert_allclose([*fit.interval, *fit.tail_interval, fit.tail_slope], 0.6, atol=1e-12)
    assert (fit.tail, fit.note, fit.verdict) == (4, "", None)


def test_lower_order_term_fools_the_global_slope_more_than_the_tail() -> None:
    """T^(2/3) + 3 T^(1/2): the narrow global interval excludes 2/3; the tail is closer, local slopes still climb."""
    generator = np.random.default_rng(3)
    fit = fit_exponent(HORIZONS, lognormal(HORIZONS ** (2 / 3) + 3 * HORIZONS**0.5, 256, generator, 0.1))
    assert fit.interval[1] < 2 / 3
    assert fit.slope < fit.tail_slope < 2 / 3
    exact = fit_exponent(HORIZONS, (HORIZONS ** (2 / 3) + 3 * HORIZONS**0.5)[:, None])
    assert (np.diff(exact.local_slopes) > 0).all()


def test_agrees_with_numpy_polyfit_and_a_plain_bootstrap() -> None:
    generator = np.random.default_rng(11)
    samples = lognormal(HORIZONS**0.5, 40, generator)
    fit = fit_exponent(HORIZONS, samples, resamples=3000)
    slope, intercept = np.polyfit(np.log(HORIZONS), np.log(samples.mean(axis=1)), 1)
    assert (fit.slope, fit.intercept) == pytest.approx((slope, intercept))
    slopes = []
    for _ in range(3000):
        means = [generator.choice(row, size=row.size).mean() for row in samples]
        slopes.append(np.polyfit(np.log(HORIZONS), np.log(means), 1)[0])
    width = np.quantile(slopes, 0.975) - np.quantile(slopes, 0.025)
    assert fit.interval[1] - fit.interval[0] == pytest.approx(width, rel=0.1)


@pytest.mark.parametrize(
    ("power", "expected", "verdict"),
    [(0.5, 0.5, "consistent"), (0.7, 0.5, "exceeds"), (0.55, 0.5, "undecided"), (0.3, 0.5, "consistent")],
)
def test_verdicts(power: float, expected: float, verdict: str) -> None:
    samples = lognormal(HORIZONS**power, 64, np.random.default_rng(5), 0.1)
    assert fit_exponent(HORIZONS, samples, expected=expected).verdict == verdict


def test_nonpositive_means_are_dropped_and_listed() -> None:
    samples = [[-1.0, -3.0], [0.0, 0.0], [10.0, 10.0], [20.0, 20.0], [-1.0, 81.0]]
    fit = fit_exponent([1, 2, 100, 400, 1600], samples)
    assert fit.horizons == (100.0, 400.0, 1600.0)
    assert fit.dropped == (
        {"horizon": 1.0, "mean": -2.0, "why": "negative mean"},
        {"horizon": 2.0, "mean": 0.0, "why": "zero mean"},
    )
    assert [entry["share"] for entry in fit.nonpositive_share] == [1.0, 1.0, 0.0, 0.0, 0.5]
    assert fit.slope == pytest.approx(0.5)
    assert "2 of 5 horizons" in fit.note


def test_nonpositive_resamples_are_counted_and_stop_a_verdict() -> None:
    samples = np.zeros((4, 16))
    samples[:, 0] = [10.0, 20.0, 30.0, 40.0]
    fit = fit_exponent([100, 200, 300, 400], samples, expected=5.0)
    assert np.isfinite(fit.interval).all()
    assert np.isfinite(fit.local_intervals).all()
    chance = 1 - (1 - (15 / 16) ** 16) ** 4
    assert abs(fit.resamples_dropped / 999 - chance) < 5 * math.sqrt(chance * (1 - chance) / 999)
    assert f"{fit.resamples_dropped} of 999 resamples" in fit.note
    assert fit.verdict == "undecided"


def test_one_usable_horizon_has_no_slope() -> None:
    fit = fit_exponent([10, 20], [[-1.0, -1.0], [4.0, 5.0]], expected=0.5)
    assert math.isnan(fit.slope)
    plain = fit.to_dict()
    assert (plain["slope"], plain["interval"], plain["verdict"]) == (None, [None, None], "undecided")
    assert plain["local_slopes"] == []
    assert "1 usable horizon: there is no slope" in fit.note


def test_no_usable_horizon() -> None:
    fit = fit_exponent([10, 20], np.zeros((2, 3)))
    assert (fit.to_dict()["slope"], fit.tail, len(fit.dropped)) == (None, 0, 2)


def test_one_run_a_horizon_has_a_slope_but_no_interval() -> None:
    fit = fit_exponent([10, 1000], [[1.0], [10.0]], expected=0.5)
    assert fit.slope == pytest.approx(0.5)
    assert math.isnan(fit.interval[0])
    assert fit.verdict == "undecided"
    assert "one run" in fit.note


def test_to_dict_is_plain_json() -> None:
    samples = lognormal(HORIZONS**0.5, 8, np.random.default_rng(0))
    plain = fit_exponent(HORIZONS, samples, expected=0.5).to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain


def test_seeds_reproduce_and_order_does_not_matter() -> None:
    samples = lognormal(HORIZONS**0.5, 8, np.random.default_rng(0))
    assert fit_exponent(HORIZONS, samples, seed=4) == fit_exponent(HORIZONS, samples, seed=4)
    assert fit_exponent(HORIZONS, samples, seed=4) == fit_exponent(HORIZONS[::-1], samples[::-1], seed=4)
    assert fit_exponent(HORIZONS, samples, seed=4).interval != fit_exponent(HORIZONS, samples, seed=5).interval


def test_run_counts_may_differ_and_tail_may_be_chosen() -> None:
    fit = fit_exponent([10, 100, 1000], [[1.0, 1.0], [2.0] * 7, [8.0] * 3], tail=2)
    assert fit.tail_slope == pytest.approx(math.log10(4))
    assert fit_exponent([10, 100, 1000], [[1.0], [2.0], [8.0]], tail=9).tail == 3


@pytest.mark.parametrize(
    ("horizons", "samples", "options", "message"),
    [
        ([10, 20, 30], [[1.0], [2.0]], {}, "3 horizons, 2 sets"),
        ([10], [[1.0]], {}, "at least two horizons"),
        ([10, 10], [[1.0], [2.0]], {}, "distinct"),
        ([0, 10], [[1.0], [2.0]], {}, "positive"),
        ([10, 20], [[1.0], [math.nan]], {}, "horizon 20 hold NaN"),
        ([10, 20], [[1.0], []], {}, "non-empty"),
        ([10, 20], [1.0, 2.0], {}, "non-empty"),
        ([10, 20], [[1.0], [2.0]], {"level": 1.0}, "level"),
        ([10, 20], [[1.0], [2.0]], {"resamples": 0}, "resamples"),
        ([10, 20], [[1.0], [2.0]], {"tail": 1}, "tail"),
        ([10, 20], [[1.0], [2.0]], {"tolerance": -0.1}, "tolerance"),
        ([10, 20], [[1.0], [2.0]], {"expected": math.nan}, "expected"),
    ],
)
def test_bad_input_is_refused(horizons: list[float], samples: list, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_exponent(horizons, samples, **options)


def test_is_fast() -> None:
    samples = lognormal(HORIZONS**0.5, 64, np.random.default_rng(0))
    fit_exponent(HORIZONS, samples)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        fit_exponent(HORIZONS, samples)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def test_many_runs_are_resampled_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = lognormal(HORIZONS**0.5, 32, np.random.default_rng(0))
    whole = fit_exponent(HORIZONS, samples)
    monkeypatch.setattr("experiments.scaling._BLOCK", 100)
    assert fit_exponent(HORIZONS, samples).interval == pytest.approx(whole.interval, abs=0.02)


def test_mean_interval() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    radius = 3.182446305 * math.sqrt(5 / 3) / 2
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - radius, 2.5 + radius))
    np.testing.assert_equal(mean_interval([7.0]), (7.0, math.nan, math.nan))
    band = mean_band(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(band[0], [2.0, 5.0])
    np.testing.assert_allclose(band[2] - band[1], [2 * 12.706204736, 0.0])


@pytest.mark.parametrize(
    ("samples", "level", "message"),
    [([], 0.95, "at least one"), ([math.nan], 0.95, "NaN"), ([[1.0]], 0.95, "one axis"), ([1.0, 2.0], 0.0, "level")],
)
def test_mean_interval_refuses(samples: list, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(samples, level)
