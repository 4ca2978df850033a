"""Quantile tables against scipy's distributions, and the chance of meeting a latency target."""

import doctest
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, optimize, stats

from envs import outcomes
from envs.errors import InputError
from envs.outcomes import beta_table, bounded_gamma_table, service_probability, table_mean

CVS = [1e-4, 0.05, 0.5, 1.0, 3.0, 10.0]


def clipped_gamma_mean(mean, cv, bound):
    """Mean of min(X, bound) as the integral of the survival function: another route than the table takes."""
    law = stats.gamma(1 / cv**2, scale=mean * cv**2)
    inner = {point for point in law.isf([1e-15, 1e-9, 1e-3, 0.1, 0.5, 0.9, 1 - 1e-3, 1 - 1e-9]) if 0 < point < bound}
    return sum(integrate.quad(law.sf, a, b, limit=500)[0] for a, b in pairwise([0.0, *sorted(inner), bound]))


def parent_mean(mean, cv, bound):
    """The mean of the Gamma whose minimum with ``bound`` has this mean."""
    low, high = np.log(mean) - 1e-6, np.log(1e8 * bound)
    return np.exp(optimize.brentq(lambda log: clipped_gamma_mean(np.exp(log), cv, bound) - mean, low, high))


def largest_probability_gap(table, law, upper):
    """Largest |P(X <= x) - p| over the table's values x = Q(p) that lie below ``upper``."""
    probability = (np.arange(20_000) + 0.5) / 20_000
    value = np.interp(probability * (len(table) - 1), np.arange(len(table)), table)
    inside = (value < upper) & (value > 1e-290)
    return np.abs(law.cdf(value[inside]) - probability[inside]).max(initial=0.0)


@pytest.mark.parametrize("cv", [0.0, 1e-5, *CVS, 100.0, 1000.0])
@pytest.mark.parametrize("multiple", [1.0, 1 + 1e-8, 1.001, 1.2, 4.0, 100.0, 1e8])
def test_a_bounded_gamma_keeps_its_mean(cv, multiple):
    mean = 3.7e-5
    table = bounded_gamma_table(mean, cv, mean * multiple)
    assert table_mean(table) == pytest.approx(mean, rel=1e-9)
    assert table_mean(table.astype(np.float32)) == pytest.approx(mean, rel=1e-7)
    assert table.min() >= 0
    assert table.max() <= mean * multiple
    assert (np.diff(table) >= 0).all()


@pytest.mark.parametrize("cv", [0.05, 0.5, 1.0, 1.56, 3.0])
@pytest.mark.parametrize("bound", [0.12, 0.25, 0.4, 5.0])
def test_gamma_table_is_that_of_a_clipped_gamma(cv, bound):
    parent = parent_mean(0.1, cv, bound)
    law = stats.gamma(1 / cv**2, scale=parent * cv**2)
    table = bounded_gamma_table(0.1, cv, bound)
    assert parent >= 0.1 * (1 - 1e-6)
    assert largest_probability_gap(table, law, bound) < 1.5 / 1024
    atom = (table == bound).mean()
    assert atom == pytest.approx(law.sf(bound), abs=2 / 1024)


def test_far_more_spread_than_a_bound_allows_becomes_a_coin_flip():
    table = bounded_gamma_table(0.1, 1000.0, 0.4)
    assert np.isin(np.round(table, 3), [0.0, 0.4]).mean() > 0.99
    assert (table > 0.39).mean() == pytest.approx(0.25, abs=2 / 1024)


def test_gamma_bound_is_reached_exactly_and_never_passed():
    rng = np.random.default_rng(0)
    mean, cv = rng.uniform(0.01, 1, 200), rng.uniform(0.3, 3, 200)
    bound = mean * rng.uniform(1, 6, 200)
    table = bounded_gamma_table(mean, cv, bound)
    assert (table.max(axis=1) <= bound).all()
    clipped = stats.gamma(1 / cv**2, scale=mean * cv**2).sf(bound) > 2 / 1024  # of the parent even more
    assert clipped.sum() > 50
    assert (table.max(axis=1) == bound)[clipped].all()


def test_gamma_table_is_vectorised_over_models():
    mean, cv, bound = np.array([0.2, 0.05, 0.0]), np.array([0.5, 0.0, 2.0]), np.array([0.4, 1.0, 1.0])
    table = bounded_gamma_table(mean, cv, bound)
    assert table.shape == (3, 1025)
    assert table.dtype == np.float64
    for i in range(3):
        np.testing.assert_array_equal(table[i], bounded_gamma_table(mean[i], cv[i], bound[i]))
    assert table_mean(table).shape == (3,)
    assert bounded_gamma_table(mean, 0.5, 1.0, knots=17).shape == (3, 17)


def test_coefficient_of_variation_zero_is_a_constant():
    assert (bounded_gamma_table(0.3, 0.0, 1.0) == 0.3).all()
    assert (bounded_gamma_table(0.3, 0.7, 0.3) == 0.3).all()
    assert (bounded_gamma_table(0.0, 0.5, [0.2, 0.0]) == 0.0).all()
    np.testing.assert_allclose(bounded_gamma_table(0.3, 1.01e-5, 1.0), 0.3, rtol=1e-4)


@pytest.mark.parametrize("knots", [2, 3, 9, 1025])
def test_the_mean_does_not_depend_on_the_number_of_knots(knots):
    for cv, bound in ((0.5, 0.25), (3.0, 0.25), (0.5, 100.0)):
        assert table_mean(bounded_gamma_table(0.1, cv, bound, knots)) == pytest.approx(0.1, rel=1e-9)
    assert table_mean(beta_table(0.8, 0.3, knots)) == pytest.approx(0.8, rel=1e-9)


def test_sampling_with_one_uniform_gives_the_table_mean():
    """4.5 standard errors: a false alarm in 150,000."""
    table = bounded_gamma_table(0.1, 1.0, 0.25)
    place = np.random.default_rng(3).random(200_000) * 1024
    low = place.astype(int)
    sample = table[low] + (place - low) * (table[low + 1] - table[low])
    error = sample.std() / np.sqrt(len(sample))
    assert abs(sample.mean() - table_mean(table)) < 4.5 * error


@pytest.mark.parametrize("mean", [0.01, 0.306, 0.781, 0.99])
@pytest.mark.parametrize("concentration", [1e-6, 0.01, 0.34, 1.0, 5.0, 1e3, 1e7])
def test_beta_table_has_the_exact_mean_and_stays_in_the_unit_interval(mean, concentration):
    table = beta_table(mean, concentration)
    assert table_mean(table) == pytest.approx(mean, rel=1e-8)
    assert table.min() >= 0
    assert table.max() <= 1
    assert (np.diff(table) >= 0).all()
    samples = (np.arange(200_000) + 0.5) / 200_000 * 1024
    spread = np.interp(samples, np.arange(1025), table).std()
    assert spread == pytest.approx(np.sqrt(mean * (1 - mean) / (1 + concentration)), rel=0.02)


@pytest.mark.parametrize(("mean", "concentration"), [(0.3, 1.0), (0.5, 2.0), (0.7, 6.0), (0.9, 80.0)])
def test_beta_table_is_close_in_distribution(mean, concentration):
    law = stats.beta(mean * concentration, (1 - mean) * concentration)
    assert largest_probability_gap(beta_table(mean, concentration), law, 1.0) < 1.5 / 1024


def test_beta_of_certain_quality_is_a_constant_and_models_do_not_mix():
    table = beta_table([0.0, 1.0, 0.6, 0.6], [2.0, 2.0, 1e12, 2.0])
    assert table.shape == (4, 1025)
    assert (table[0] == 0).all()
    assert (table[1] == 1).all()
    assert (table[2] == 0.6).all()
    np.testing.assert_array_equal(table[3], beta_table(0.6, 2.0))


def test_service_probability_is_that_of_the_log_normal():
    mean, cv, network, slo = 2.5, 0.7, 0.1, 3.0
    sigma = np.sqrt(np.log(1 + cv**2))
    law = stats.lognorm(sigma, scale=mean / np.sqrt(1 + cv**2))
    assert (law.mean(), law.std()) == pytest.approx((mean, mean * cv))
    assert service_probability(mean, cv, network, slo) == pytest.approx(law.cdf(slo - network), rel=1e-12)


def test_service_probability_at_the_edges():
    assert service_probability(2.0, 0.0, 0.5, 2.5) == 1
    assert service_probability(2.0, 0.0, 0.5, 2.4) == 0
    assert service_probability(2.0, 0.5, 3.0, 3.0) == 0
    assert service_probability(2.0, 0.5, 3.0, 1.0) == 0
    assert service_probability(2.0, 0.5, 0.1, np.inf) == 1
    assert service_probability(2.0, 0.0, 0.1, np.inf) == 1
    assert service_probability(2.0, 1e-6, 0.0, 2.1) == 1
    probability = service_probability(np.array([0.5, 2.0, 20.0]), np.array([0.5, 0.0, 3.0]), 0.05, 4.0)
    assert probability.shape == (3,)
    assert (np.diff(probability) <= 0).sum() >= 1
    assert ((probability >= 0) & (probability <= 1)).all()


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda: bounded_gamma_table(-0.1, 0.5, 1.0), "mean"),
        (lambda: bounded_gamma_table(0.1, [0.5, np.nan], 1.0), "cv"),
        (lambda: bounded_gamma_table(0.1, 0.5, 0.0), "bound"),
        (lambda: bounded_gamma_table([0.1, 0.2], 0.5, [1.0, 0.19]), "bound must be finite and >= the mean, not 0.19"),
        (lambda: bounded_gamma_table(0.1, 0.5, np.inf), "bound"),
        (lambda: bounded_gamma_table(0.1, 0.5, 1.0, knots=1), "knots"),
        (lambda: beta_table(1.2, 2.0), "mean"),
        (lambda: beta_table(0.5, 0.0), "concentration"),
        (lambda: service_probability(0.0, 0.5, 0.0, 1.0), "latency_mean"),
        (lambda: service_probability(1.0, -0.5, 0.0, 1.0), "latency_cv"),
    ],
)
def test_arguments_out_of_range_are_named(call, word):
    with pytest.raises(InputError, match=word):
        call()


@pytest.mark.parametrize("spread", [(0.5, 4.0), (10.0, 1e4)])
def test_every_step_of_the_uniform_together_has_the_mean_of_the_table(spread):
    """All 2^24 numbers that a uniform of float32 can be, drawn once each."""
    cv, multiple = spread
    table = jnp.asarray(bounded_gamma_table(1e-3, cv, 1e-3 * multiple), jnp.float32)
    drawn = jax.jit(jax.vmap(lambda uniform: outcomes.sample(table[None], 0, uniform)))
    steps = np.arange(2**24, dtype=np.float32) * np.float32(2**-24)
    mean = np.mean([np.asarray(drawn(part)).mean(dtype=np.float64) for part in np.split(steps, 16)])
    assert mean == pytest.approx(table_mean(np.asarray(table)), rel=2e-8)
    assert mean == pytest.approx(1e-3, rel=1e-7)


def test_examples():
    assert doctest.testmod(outcomes).failed == 0
