"""Growth exponents with intervals, and the small statistics that the tables use."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special  # scipy.stats takes half a second to import

_FEWEST = 3  # horizons of a fit: any two points lie on a line
_BLOCK = 4_000_000  # indices drawn at once: bounds the memory of a bootstrap with many runs


@dataclass(frozen=True, kw_only=True)
class ExponentFit:
    """How fast a mean grows with the horizon: the slope of log(mean over runs) on log(horizon), with its uncertainty.

    Without a slope every number of the fit is NaN and ``in_words`` says what is known; :meth:`to_dict` turns NaN into
    None.
    """

    slope: float  # over every usable horizon
    interval: tuple[float, float]
    intercept: float  # natural logarithm of the mean at horizon 1
    local_slopes: tuple[float, ...]  # [H - 1] between neighbouring usable horizons
    local_intervals: tuple[tuple[float, float], ...]  # [H - 1]
    tail: int  # usable horizons in the tail fit
    tail_slope: float
    tail_interval: tuple[float, float]
    expected: float | None
    tolerance: float
    level: float  # confidence level of all intervals
    verdict: str | None  # "consistent", "exceeds", "undecided"; None where no exponent is expected
    horizons: tuple[float, ...]  # [H] usable, increasing
    means: tuple[float, ...]  # [H]
    dropped: tuple[dict[str, Any], ...]  # horizon, mean, why
    in_words: str  # what is known where there is no slope, such as "zero from T = 4,000 on"; empty where there is one
    nonpositive_share: tuple[dict[str, float], ...]  # horizon, share of runs <= 0; every horizon
    resamples: int
    resamples_dropped: int  # resamples without a logarithm at some usable horizon
    note: str

    @property
    def has_slope(self) -> bool:
        """Whether there is a slope; else ``in_words`` says what is known."""
        return not math.isnan(self.slope)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; NaN becomes None."""
        return {
            "slope": _plain(self.slope),
            "interval": _plain_pair(self.interval),
            "intercept": _plain(self.intercept),
            "local_slopes": [_plain(value) for value in self.local_slopes],
            "local_intervals": [_plain_pair(pair) for pair in self.local_intervals],
            "tail": self.tail,
            "tail_slope": _plain(self.tail_slope),
            "tail_interval": _plain_pair(self.tail_interval),
            "expected": self.expected,
            "tolerance": self.tolerance,
            "level": self.level,
            "verdict": self.verdict,
            "horizons": list(self.horizons),
            "means": list(self.means),
            "dropped": [dict(entry) for entry in self.dropped],
            "in_words": self.in_words,
            "nonpositive_share": [dict(entry) for entry in self.nonpositive_share],
            "resamples": self.resamples,
            "resamples_dropped": self.resamples_dropped,
            "note": self.note,
        }


@dataclass(frozen=True, kw_only=True)
class _Sample:
    """What a fit works on: usable horizons, their runs, and bootstrap means."""

    horizons: np.ndarray  # [H]
    runs: list[np.ndarray]  # H arrays of runs
    means: np.ndarray  # [H]
    resampled: np.ndarray  # [B, H] log means, NaN where the resampled mean is not positive


def fit_exponent(
    horizons: Sequence[float] | np.ndarray,
    samples: Sequence[Sequence[float] | np.ndarray] | np.ndarray,
    *,
    expected: float | None = None,
    tolerance: float = 0.05,
    level: float = 0.95,
    resamples: int = 999,
    seed: int = 0,
    tail: int | None = None,
) -> ExponentFit:
    """Fit mean(T) = exp(intercept) * T^slope on logarithms, with a run bootstrap stratified by horizon.

    Beware of lower-order terms. Where the mean is a*T^p + b*T^q with q < p, the global slope lies between q and p and
    its narrow interval can exclude p altogether: the bootstrap knows the noise of the runs, not the bias of the model.
    Read ``local_slopes`` (do they still drift?) and trust ``tail_slope`` more. The verdict therefore uses the tail
    only, and asks a one-sided question: does the mean grow no faster than T^expected?

    There is a slope where at least three horizons, the longest among them, are distinguishable from zero: Student's
    interval of the mean lies above zero, and so do at least half of the runs. (Where most runs are at zero, the mean of
    a quantity that is cut off at zero says how often it was cut off, not how it grows. Where the longest horizon is at
    zero, the others describe how the quantity vanished, not how it grows.) Else ``in_words`` says what is known, and
    there is no number.

    The points must be separate horizons, each with its own runs. Marks within one run are not horizons: they are
    correlated, and a policy tuned for T behaves differently at t < T than one tuned for t.

    Args:
        horizons: [H] positive, at least two, distinct; in any order (they are sorted).
        samples: [H, R], or H arrays of run values whose lengths may differ.
        expected: the exponent to check against, or None.
        tolerance: how far above ``expected`` the tail may lie and still count as consistent.
        level: confidence level of the intervals.
        resamples: bootstrap resamples.
        seed: of the bootstrap; equal seeds give equal intervals.
        tail: number of largest usable horizons in the tail fit, at least 3; by default max(3, ceil(H / 2)), at most H.

    Returns:
        The fit. Horizons that are not distinguishable from zero leave it and are listed in ``dropped``; one run alone
        distinguishes nothing. Resamples whose mean is not positive are left out and counted; where more than half of
        ``1 - level`` of them are, the interval is too narrow to judge by and the verdict is "undecided". A mean that is
        zero in all runs, or below zero beyond its interval, at the longest horizon is "consistent" with any exponent.

    Raises:
        ValueError: mismatched lengths, fewer than two horizons, duplicate or nonpositive horizons, NaN or infinite
            samples, or an option out of range.

    Example:
        >>> fit = fit_exponent([100, 400, 1600], [[10.0, 10.0], [20.0, 20.0], [40.0, 40.0]], expected=0.5)
        >>> round(fit.slope, 3), fit.verdict
        (0.5, 'consistent')

    """
    _check_options(level=level, resamples=resamples, tail=tail, tolerance=tolerance, expected=expected)
    ordered, runs = _check_data(horizons, samples)
    return _fit(
        ordered, runs, expected=expected, tolerance=tolerance, level=level, resamples=resamples, seed=seed, tail=tail
    )


def mean_interval(
    samples: Sequence[float] | np.ndarray, level: float = 0.95, *, most: float | None = None
) -> tuple[float, float, float]:
    """Mean of R runs and its interval, (mean, low, high): :func:`mean_band` of one column.

    Raises:
        ValueError: no samples, NaN or infinite samples, more than one axis, samples outside [0, ``most``], or a level
            outside (0, 1).

    Example:
        >>> [round(end, 3) for end in mean_interval([1.0, 1.0, 1.0, 0.9], most=1.0)]
        [0.975, 0.756, 0.998]
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"samples must have one axis, the runs; they have {values.ndim}")
    mean, low, high = mean_band(values[:, None], level, most=most)
    return float(mean[0]), float(low[0]), float(high[0])


def mean_band(
    samples: np.ndarray, level: float = 0.95, *, most: float | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean of each column of [R, E] over its R runs, and the interval of that mean: three arrays [E].

    The interval is for the mean, not for a single run. With R = 1 there is no spread to learn from: low and high are
    NaN. Runs that are all equal give an interval without width.

    Quantities of any sign (``most`` None) have Student's t interval. Quantities in [0, ``most``] have a score
    interval, which never leaves that range: every m with (mean - m)^2 <= q^2 v m (1 - m / most) / R, where q is
    Student's quantile with R - 1 degrees of freedom and v the sample variance divided by mean (1 - mean / most). For
    shares this is Wilson's interval [1] with the effective sample size mean (1 - mean) / (variance / R), as it is used
    for proportions in clustered samples [2]; ``most`` = infinity is its limit, where the variance is proportional to
    the mean. No random numbers are drawn.

    [1] Wilson (1927), "Probable inference, the law of succession, and statistical inference".
    [2] Dean and Pagano (2015), "Evaluating confidence interval methods for binomial proportions in clustered surveys".

    Raises:
        ValueError: no samples, NaN or infinite samples, samples outside [0, ``most``], or a level outside (0, 1).
    """
    values = np.asarray(samples, dtype=np.float64)
    if values.shape[0] == 0:
        raise ValueError("an interval needs at least one run")
    if not np.isfinite(values).all():
        raise ValueError("samples hold NaN or infinite values")
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if most is not None and not ((values >= 0).all() and (values <= most).all()):
        raise ValueError(f"samples must lie between 0 and {most:g}; they span {values.min():g} to {values.max():g}")
    count, mean = values.shape[0], values.mean(axis=0)
    if count == 1:
        return mean, np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    radius = special.stdtrit(count - 1, (1 + level) / 2) * values.std(axis=0, ddof=1) / math.sqrt(count)
    if most is None:
        return mean, mean - radius, mean + radius
    mean = np.minimum(mean, most)  # a sum may round upwards
    return mean, *_score_ends(mean, radius, most)


def _score_ends(mean: np.ndarray, radius: np.ndarray, most: float) -> tuple[np.ndarray, np.ndarray]:
    """Low and high [E] of the score interval within [0, most], from Student's radius [E]."""
    room = mean * (1 - mean / most)  # what the variance is taken to be proportional to
    spread = np.where(room > 0, radius**2 / np.where(room > 0, room, 1.0), 0.0)
    twice = 2 * mean + spread + np.sqrt(spread**2 + 4 * spread * room)  # the larger root times 2 (1 + spread / most)
    low = 2 * mean**2 / np.where(twice > 0, twice, 1.0)  # the product of the roots is mean^2 / (1 + spread / most)
    high = twice / (2 * (1 + spread / most))
    return np.minimum(low, mean), np.clip(high, mean, most)


def _check_options(*, level: float, resamples: int, tail: int | None, tolerance: float, expected: float | None) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must lie between 0 and 1, not {level}")
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, not {resamples}")
    if tail is not None and tail < _FEWEST:
        raise ValueError(f"tail must hold at least {_FEWEST} horizons, not {tail}")
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be zero or more, not {tolerance}")
    if expected is not None and not math.isfinite(expected):
        raise ValueError(f"expected must be a finite exponent, not {expected}")


def _check_data(
    horizons: Sequence[float] | np.ndarray, samples: Sequence[Sequence[float] | np.ndarray] | np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Sorted horizons [H] and their runs, or a ValueError."""
    points = np.asarray(horizons, dtype=np.float64)
    runs = [np.asarray(values, dtype=np.float64) for values in samples]
    if points.ndim != 1 or len(points) != len(runs):
        raise ValueError(f"there must be one set of runs a horizon: {points.size} horizons, {len(runs)} sets")
    if len(points) < 2:
        raise ValueError(f"an exponent needs at least two horizons, not {len(points)}")
    if not (np.isfinite(points).all() and (points > 0).all()):
        raise ValueError("horizons must be positive and finite")
    if len(np.unique(points)) < len(points):
        raise ValueError("horizons must be distinct; pool the runs of a repeated one first")
    for horizon, values in zip(points, runs, strict=True):
        if values.ndim != 1 or values.size == 0:
            raise ValueError(f"horizon {horizon:g} needs a non-empty list of run values, not shape {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"the samples of horizon {horizon:g} hold NaN or infinite values")
    order = np.argsort(points)
    return points[order], [runs[i] for i in order]


def _fit(
    horizons: np.ndarray,
    runs: list[np.ndarray],
    *,
    expected: float | None,
    tolerance: float,
    level: float,
    resamples: int,
    seed: int,
    tail: int | None,
) -> ExponentFit:
    """:func:`fit_exponent` of checked data."""
    standing = [_standing(values, level) for values in runs]
    in_words = _in_words(horizons, standing)
    above = np.array([found == "above" and not in_words for found in standing])
    sample = _usable(horizons, runs, above, resamples=resamples, seed=seed)
    count = len(sample.runs)
    length = min(max(_FEWEST, math.ceil(count / 2)) if tail is None else tail, count)
    last, pairs = slice(count - length, count), [slice(i, i + 2) for i in range(count - 1)]
    slope, intercept = _line(sample, slice(0, count))
    tail_interval = _slope_interval(sample, last, level)
    lost = np.isnan(sample.resampled)
    too_many = count > 0 and bool(lost[:, last].any(axis=1).mean() > (1 - level) / 2)
    return ExponentFit(
        slope=slope,
        interval=_slope_interval(sample, slice(0, count), level),
        intercept=intercept,
        local_slopes=tuple(_line(sample, pair)[0] for pair in pairs),
        local_intervals=tuple(_slope_interval(sample, pair, level) for pair in pairs),
        tail=length,
        tail_slope=_line(sample, last)[0],
        tail_interval=tail_interval,
        expected=expected,
        tolerance=tolerance,
        level=level,
        verdict=_verdict(tail_interval, standing[-1], expected, tolerance, too_many),
        horizons=tuple(sample.horizons.tolist()),
        means=tuple(sample.means.tolist()),
        dropped=_dropped(horizons, runs, standing),
        in_words=in_words,
        nonpositive_share=_nonpositive_share(horizons, runs),
        resamples=resamples,
        resamples_dropped=int(lost.any(axis=1).sum()),
        note=_note(horizons, sample),
    )


_SPELT = {"zero": "zero", "below": "negative", "unclear": "within noise of zero"}


def _standing(values: np.ndarray, level: float) -> str:
    """How runs stand to zero: "above", "zero", "below", "unclear", or "single" where one run cannot tell."""
    if len(values) == 1:
        return "single"
    if not values.any():
        return "zero"
    _, low, high = mean_interval(values, level)
    if low > 0 and (values > 0).mean() >= 0.5:
        return "above"
    return "below" if high < 0 else "unclear"


def _in_words(horizons: np.ndarray, standing: list[str]) -> str:
    """Why there is no slope, in words that say what is known; empty where there is one."""
    last, count = standing[-1], len(standing)
    if last == "single":
        return "one run: no slope"
    if last == "above":
        known = standing.count("above")
        if known >= _FEWEST:
            return ""
        return f"{count} horizons: no slope" if count < _FEWEST else f"above zero at {known} of {count} horizons only"
    begin = next(place for place in range(count) if all(found == last for found in standing[place:]))
    if begin == 0:
        return f"{_SPELT[last]} at every horizon"
    where = f"T = {horizons[begin]:,.0f}"
    return f"{_SPELT[last]} at {where}" if begin == count - 1 else f"{_SPELT[last]} from {where} on"


def _usable(horizons: np.ndarray, runs: list[np.ndarray], above: np.ndarray, *, resamples: int, seed: int) -> _Sample:
    """The horizons that enter the fit, with their bootstrap."""
    kept = [values for values, usable in zip(runs, above, strict=True) if usable]
    return _Sample(
        horizons=horizons[above],
        runs=kept,
        means=np.array([values.mean() for values in kept]),
        resampled=_bootstrap_log_means(kept, resamples=resamples, seed=seed),
    )


def _bootstrap_log_means(runs: list[np.ndarray], *, resamples: int, seed: int) -> np.ndarray:
    """[B, H] logarithms of resampled means, NaN where a mean is not positive. Each horizon is resampled on its own."""
    generator = np.random.default_rng(seed)
    means = np.empty((resamples, len(runs)))
    for column, values in enumerate(runs):
        rows = max(1, _BLOCK // len(values))
        for start in range(0, resamples, rows):
            size = (min(rows, resamples - start), len(values))
            picks = generator.integers(len(values), size=size, dtype=np.int32)
            means[start : start + rows, column] = values[picks].mean(axis=1)
    positive = means > 0
    return np.where(positive, np.log(np.where(positive, means, 1.0)), np.nan)


def _line(sample: _Sample, part: slice) -> tuple[float, float]:
    """Slope and intercept over some of the horizons; NaN without horizons."""
    x, y = np.log(sample.horizons[part]), np.log(sample.means[part])
    if len(x) == 0:
        return math.nan, math.nan
    centred = x - x.mean()
    slope = float(centred @ y / (centred @ centred))
    return slope, float(y.mean() - slope * x.mean())


def _slope_interval(sample: _Sample, part: slice, level: float) -> tuple[float, float]:
    """Bootstrap interval of the slope over some of the horizons, NaN where there is none.

    Percentiles are widened for few runs (Hesterberg 2015, "What teachers should know about the bootstrap", the expanded
    percentile interval): resampling n runs understates the variance by (n - 1) / n and ignores its own uncertainty.
    """
    counts = [len(values) for values in sample.runs[part]]
    if not counts:
        return math.nan, math.nan
    logs = sample.resampled[:, part]
    logs = logs[~np.isnan(logs).any(axis=1)]
    if len(logs) == 0:
        return math.nan, math.nan
    x = np.log(sample.horizons[part])
    centred = x - x.mean()
    slopes = logs @ centred / (centred @ centred)
    fewest = min(counts)
    quantile = special.stdtrit(sum(counts) - len(counts), (1 + level) / 2) * math.sqrt(fewest / (fewest - 1))
    low, high = np.quantile(slopes, special.ndtr([-quantile, quantile]))
    return float(low), float(high)


def _verdict(
    interval: tuple[float, float], longest: str, expected: float | None, tolerance: float, too_many_lost: bool
) -> str | None:
    if expected is None:
        return None
    if longest in ("zero", "below"):
        return "consistent"
    limit = expected + tolerance
    if too_many_lost or math.isnan(interval[0]):
        return "undecided"
    if interval[1] <= limit:
        return "consistent"
    return "exceeds" if interval[0] > limit else "undecided"


_WHY = {**_SPELT, "single": "one run"}  # a horizon left the fit


def _dropped(horizons: np.ndarray, runs: list[np.ndarray], standing: Sequence[str]) -> tuple[dict[str, Any], ...]:
    return tuple(
        {"horizon": float(horizon), "mean": float(values.mean()), "why": _WHY[found]}
        for horizon, values, found in zip(horizons, runs, standing, strict=True)
        if found != "above"
    )


def _nonpositive_share(horizons: np.ndarray, runs: list[np.ndarray]) -> tuple[dict[str, float], ...]:
    return tuple(
        {"horizon": float(horizon), "share": float((values <= 0).mean())}
        for horizon, values in zip(horizons, runs, strict=True)
    )


def _note(horizons: np.ndarray, sample: _Sample) -> str:
    """What a reader of a slope has to know, in sentences; empty if nothing, or if there is no slope."""
    parts = []
    count, given = len(sample.horizons), len(horizons)
    if 0 < count < given:
        parts.append(f"{given - count} of {given} horizons are not distinguishable from zero and left the fit.")
    lost = np.isnan(sample.resampled).any(axis=1)
    if lost.any():
        parts.append(
            f"{int(lost.sum())} of {len(lost)} resamples had a mean that is not positive and were left out: "
            "intervals are too narrow."
        )
    return " ".join(parts)


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def _plain_pair(pair: tuple[float, float]) -> list[float | None]:
    return [_plain(pair[0]), _plain(pair[1])]
