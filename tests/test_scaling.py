"""Exponents recover known growth, say when they cannot, and never hide a run."""

import json
import math
import time

import numpy as np
import pytest
from scipy import optimize, stats

from experiments.report.scaling import fit_exponent, mean_band, mean_interval

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
    exact = fit_exponent(HORIZONS, np.repeat((HORIZONS ** (2 / 3) + 3 * HORIZONS**0.5)[:, None], 2, axis=1))
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
    samples = [[-1.0, -1.0], [0.0, 0.0], [10.0, 10.0], [20.0, 20.0], [40.0, 40.0]]
    fit = fit_exponent([1, 2, 100, 400, 1600], samples)
    assert fit.horizons == (100.0, 400.0, 1600.0)
    assert fit.dropped == (
        {"horizon": 1.0, "mean": -1.0, "why": "negative"},
        {"horizon": 2.0, "mean": 0.0, "why": "zero"},
    )
    assert [entry["share"] for entry in fit.nonpositive_share] == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert fit.slope == pytest.approx(0.5)
    assert "2 of 5 horizons" in fit.note


def test_nonpositive_resamples_are_counted_and_stop_a_verdict() -> None:
    """Seven runs at 60 and one at -100: a resample that draws the one three times or more has no logarithm."""
    fit = fit_exponent([100, 200, 300, 400], [[-100.0] + [60.0] * 7] * 4, expected=5.0, level=0.8)
    assert np.isfinite(fit.interval).all()
    assert np.isfinite(fit.local_intervals).all()
    chance = 1 - stats.binom.cdf(2, 8, 1 / 8) ** 4
    assert abs(fit.resamples_dropped / 999 - chance) < 5 * math.sqrt(chance * (1 - chance) / 999)
    assert f"{fit.resamples_dropped} of 999 resamples" in fit.note
    assert fit.verdict == "undecided"


def wave(mean: float, runs: int = 16, spread: float = 0.1) -> list[float]:
    """Runs around a mean."""
    return (mean * (1 + spread * np.sin(np.arange(runs)))).tolist()


FEW = [5.0, *[0.0] * 15]  # one run of sixteen: positive only because it is cut off at zero
MANY_AT_ZERO = [*[5.0] * 7, *[0.0] * 9]  # significantly above zero, but most runs are at zero


@pytest.mark.parametrize(
    ("samples", "words", "verdict"),
    [
        ([wave(9), [0.0] * 16, [0.0] * 16, [0.0] * 16], "zero from T = 4,000 on", "consistent"),
        ([wave(9), wave(4), [0.0] * 16, [0.0] * 16], "zero from T = 16,000 on", "consistent"),
        ([wave(9), wave(4), wave(2), [0.0] * 16], "zero at T = 64,000", "consistent"),
        ([[0.0] * 16] * 4, "zero at every horizon", "consistent"),
        ([wave(-9), wave(-4), wave(-2), wave(-7)], "negative at every horizon", "consistent"),
        ([wave(9), wave(4), wave(-2), wave(-7)], "negative from T = 16,000 on", "consistent"),
        ([wave(9), wave(4), wave(2), FEW], "within noise of zero at T = 64,000", "undecided"),
        ([wave(9), wave(4), wave(2), MANY_AT_ZERO], "within noise of zero at T = 64,000", "undecided"),
        ([FEW, FEW, FEW, FEW], "within noise of zero at every horizon", "undecided"),
        ([[0.0] * 16, FEW, wave(4), wave(9)], "above zero at 2 of 4 horizons only", "undecided"),
        ([[1.0], [2.0], [4.0], [8.0]], "one run: no slope", "undecided"),
        ([[0.0], [0.0], [0.0], [0.0]], "one run: no slope", "undecided"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_words_take_the_place_of_every_number(samples: list, words: str, verdict: str) -> None:
    plain = fit_exponent([1000, 4000, 16000, 64000], samples, expected=0.5).to_dict()
    assert (plain["in_words"], plain["verdict"]) == (words, verdict)
    assert (plain["slope"], plain["interval"], plain["intercept"]) == (None, [None, None], None)
    assert (plain["tail_slope"], plain["tail_interval"], plain["tail"]) == (None, [None, None], 0)
    assert plain["local_slopes"] == plain["local_intervals"] == plain["horizons"] == plain["means"] == []
    assert plain["note"] == ""


def test_two_horizons_are_no_series() -> None:
    fit = fit_exponent([1000, 4000], [wave(2), wave(4)])
    assert (fit.in_words, fit.to_dict()["slope"]) == ("2 horizons: no slope", None)
    assert fit_exponent([1000, 4000, 16000], [wave(2), wave(4), wave(8)]).in_words == ""


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
    fit = fit_exponent([1, 10, 100, 1000], [[1.0, 1.0], [1.0, 1.0], [2.0] * 7, [8.0] * 3], tail=3)
    assert fit.tail_slope == pytest.approx(math.log10(8) / 2)
    assert fit_exponent([10, 100, 1000], [[1.0, 1.0], [2.0, 2.0], [8.0, 8.0]], tail=9).tail == 3


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
        ([10, 20], [[1.0], [2.0]], {"tail": 2}, "tail"),
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
    monkeypatch.setattr("experiments.report.scaling._BLOCK", 100)
    assert fit_exponent(HORIZONS, samples).interval == pytest.approx(whole.interval, abs=0.02)


def test_mean_interval() -> None:
    mean, low, high = mean_interval([1.0, 2.0, 3.0, 4.0])
    radius = 3.182446305 * math.sqrt(5 / 3) / 2
    assert (mean, low, high) == pytest.approx((2.5, 2.5 - radius, 2.5 + radius))
    np.testing.assert_equal(mean_interval([7.0]), (7.0, math.nan, math.nan))
    band = mean_band(np.array([[1.0, 5.0], [3.0, 5.0]]))
    np.testing.assert_allclose(band[0], [2.0, 5.0])
    np.testing.assert_allclose(band[2] - band[1], [2 * 12.706204736, 0.0])


@pytest.mark.parametrize("most", [1.0, 4.0, math.inf])
@pytest.mark.parametrize("runs", [2, 3, 64])
def test_score_intervals_are_the_roots_of_their_definition(most: float, runs: int) -> None:
    generator = np.random.default_rng(runs)
    scale = min(most, 10.0)
    samples = scale * np.concatenate([generator.random((runs, 20)), generator.beta(0.1, 9.0, (runs, 20))], axis=1)
    mean, low, high = mean_band(samples, most=most)
    for values, centre, left, right in zip(samples.T, mean, low, high, strict=True):
        assert 0 <= left <= centre <= right <= most
        quantile = stats.t.ppf(0.975, runs - 1)
        dispersion = values.var(ddof=1) / (centre * (1 - centre / most))
        miss = lambda m: (centre - m) ** 2 - quantile**2 * dispersion * m * (1 - m / most) / runs  # noqa: B023, E731
        ends = [optimize.brentq(miss, 1e-300, centre), optimize.brentq(miss, centre, min(most, 1e9))]
        assert [left, right] == pytest.approx(ends, rel=1e-6, abs=1e-12)


def test_a_share_of_runs_has_wilson_s_interval() -> None:
    """Runs that are 0 or 1, with the effective sample size R - 1 and Student's quantile, in Wilson's own formula."""
    hits, runs = 3, 20
    quantile, size, share = stats.t.ppf(0.975, runs - 1), runs - 1, hits / runs
    centre = (share + quantile**2 / (2 * size)) / (1 + quantile**2 / size)
    half = quantile * math.sqrt(share * (1 - share) / size + quantile**2 / (4 * size**2)) / (1 + quantile**2 / size)
    found = mean_interval([1.0] * hits + [0.0] * (runs - hits), most=1.0)
    assert found == pytest.approx((share, centre - half, centre + half))


def test_intervals_of_equal_runs_and_of_one_run() -> None:
    assert mean_interval([0.0] * 5, most=1.0) == (0.0, 0.0, 0.0)
    assert mean_interval([1.0] * 5, most=1.0) == (1.0, 1.0, 1.0)
    assert mean_interval([0.3] * 5, most=1.0) == pytest.approx((0.3, 0.3, 0.3))
    np.testing.assert_equal(mean_interval([0.5], most=1.0), (0.5, math.nan, math.nan))
    for samples in ([-0.1, 0.5], [0.5, 1.1]):
        with pytest.raises(ValueError, match="between 0 and 1"):
            mean_interval(samples, most=1.0)


@pytest.mark.parametrize(
    ("name", "most", "draw", "mean"),
    [
        ("near one", 1.0, lambda generator, size: generator.beta(30, 1, size), 30 / 31),
        ("rare", 1.0, lambda generator, size: generator.beta(0.3, 5, size), 0.3 / 5.3),
        ("skewed", math.inf, lambda generator, size: generator.exponential(1.0, size), 1.0),
        ("cut off", math.inf, lambda generator, size: np.maximum(generator.standard_normal(size), 0), 0.39894228),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_score_intervals_cover_at_least_as_often_as_student_s(name: str, most: float, draw, mean: float) -> None:
    """Eight skewed runs: both miss the nominal 0.95; neither end leaves the range, and coverage does not get worse."""
    samples = draw(np.random.default_rng(1), (8, 4000))
    found = []
    for band in (mean_band(samples, most=most), mean_band(samples)):
        found.append(((band[1] <= mean) & (mean <= band[2])).mean())
    assert found[0] > max(found[1], 0.86)


@pytest.mark.parametrize(
    ("samples", "level", "message"),
    [([], 0.95, "at least one"), ([math.nan], 0.95, "NaN"), ([[1.0]], 0.95, "one axis"), ([1.0, 2.0], 0.0, "level")],
)
def test_mean_interval_refuses(samples: list, level: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mean_interval(samples, level)
