"""The rivals of the LP loops and solvers play the same game: against the engine and against HiGHS."""

from dataclasses import replace
from functools import cache

import jax
import numpy as np
import pytest

from envs import ledger
from experiments.bench import instance, lp_loops, solvers
from tests import worlds

pytestmark = pytest.mark.rival

HORIZON = 200
# With the usual 0.25 all models look perfect for most of so short a run, and a solver's choice among ties shows.
CONFIDENCE = 0.02
SIGMAS = 4.5  # 18 means are compared: a false alarm in 8000 sets of seeds
RUNS = {"highs_loop": 6, "highspy_loop": 120, "numba_simplex": 4096}


def plain(confidence=CONFIDENCE):
    return replace(instance.plain(HORIZON), confidence=confidence)


def policy(rule):
    return worlds.policy(rule, forecaster="oracle", confidence={"confidence": CONFIDENCE})


@cache
def engine(rule):
    """Totals [runs] by name."""
    world = instance.world(HORIZON)
    seen = worlds.play(world, policy(rule), runs=1024, marks=(HORIZON,))
    assert seen.invalid.sum() == 0
    scales = {"reward": world.scale, "spent": world.consumption_scale, "service": world.scale, "served": world.scale}
    totals = {name: ledger.host_value(getattr(seen.world, name), scale)[0, 0] for name, scale in scales.items()}
    return {name: total if name == "reward" else total.sum(axis=-1) for name, total in totals.items()}


def loop(name, rule, given):
    if name != "highs_loop":
        pytest.importorskip("highspy" if name == "highspy_loop" else "numba")
    return getattr(lp_loops, name)(given, RUNS[name], 7, rule=rule)


@pytest.mark.parametrize("rule", lp_loops.RULES)
@pytest.mark.parametrize("name", list(RUNS))
def test_a_loop_earns_and_spends_what_the_engine_does(name, rule):
    found, ours = loop(name, rule, plain()), engine(rule)
    assert (found.spent <= plain().budget).all()
    for quantity, ones in ours.items():
        theirs = getattr(found, quantity)
        error = ones.std() * np.sqrt(1 / len(ones) + 1 / len(theirs))
        assert abs(theirs.mean() - ones.mean()) < SIGMAS * error, quantity


@pytest.mark.parametrize("rule", lp_loops.RULES)
def test_numba_spends_the_budget_and_no_more(rule):
    given = plain(confidence=0.25)
    found = loop("numba_simplex", rule, given)
    assert (found.spent <= given.budget).all()
    # Only models that fit are tried: what remains is less than the cheapest one's worst case.
    short = found.served < HORIZON / 2
    assert short.any()
    assert (found.spent[short] > given.budget - given.cost_bound.min()).mean() > 0.99


def test_a_run_does_not_depend_on_how_many_there_are():
    pytest.importorskip("numba")
    few, many = (lp_loops.numba_simplex(plain(), runs, 3) for runs in (5, 50))
    np.testing.assert_array_equal(few.spent, many.spent[:5])
    other = lp_loops.numba_simplex(plain(), 5, 4)
    assert (other.spent != few.spent).all()


def test_an_unknown_rule_is_refused():
    with pytest.raises(ValueError, match="copac"):
        lp_loops.highs_loop(plain(), 1, 0, rule="copac")


@cache
def recorded():
    return worlds.record([instance.world(HORIZON)], policy("lp_resolving"), HORIZON)


def decided(rule):
    """[T, M] what the engine's rule decides on the recorded beliefs."""
    if rule == "lp_resolving":
        return np.asarray(recorded().shares, float)[0]
    view = jax.tree.map(lambda leaf: leaf[0], replace(recorded().view, resolve=np.ones((1, HORIZON), bool)))
    made = worlds.policy(rule).routing
    decide = jax.jit(jax.vmap(lambda one: made.decide(made.init(one.problem, None), one)[0]))
    return np.asarray(decide(view), float)


@pytest.mark.parametrize("rule", lp_loops.RULES)
def test_each_round_of_the_engine_is_as_good_as_the_loops_would_play_it(rule):
    """Values of the mixes, on the engine's own beliefs: mixes may differ where several are best."""
    serve_all = rule == "stageroute"
    seen = recorded()
    decisions = decided(rule)
    given, view = plain(), seen.view
    remaining, service = (
        np.asarray(x, float)[0, :, 0] for x in (view.observation.remaining, view.observation.service_so_far)
    )
    lower, upper = (np.asarray(side, float)[0] for side in (view.bounds.lower, view.bounds.upper))
    tried = np.asarray(view.statistics.count)[0].min(axis=1) > 0
    pytest.importorskip("highspy")
    makers = [lp_loops.highs_mix, lp_loops.HighspyMix(len(given.caps))]
    compared = 0
    for t in range(HORIZON):
        if not (tried[t] or serve_all):
            continue
        caps = np.where(given.cost_bound <= remaining[t], given.caps, 0.0)
        left = HORIZON - t
        spending = given.budget / HORIZON if serve_all else remaining[t] / left
        wanted = given.target if serve_all else np.clip((given.target * HORIZON - service[t]) / left, 0, 1)
        r, c, g = upper[t, :, 0], lower[t, :, 1], upper[t, :, 2]
        shares = decisions[t]
        found = [make(r, c, g, spending, wanted, caps, serve_all) for make in makers]
        worth = [mix @ r - 5 * max(min(wanted, g[caps > 0].max(initial=0)) - mix @ g, 0) for mix in (shares, *found)]
        np.testing.assert_allclose(worth, worth[0], atol=2e-5)
        compared += 1
    assert compared > HORIZON / 2


def test_the_small_simplex_agrees_with_highs_from_any_basis():
    """One LP after the other, each another: every start is a basis of foreign data."""
    batch, models, slack = 400, 11, 12
    given = solvers.instances(batch, models, 3, 5)
    truth, size = solvers.highs_scipy(given), slack + 3
    basis, basic = np.arange(slack, size), np.arange(size) >= slack
    at_upper, inverse, value = np.zeros(size, bool), np.zeros((3, 3)), np.zeros(3)
    reduced, push, total = np.zeros(size), np.zeros(size), 0
    for k in range(batch):
        objective = np.append(given.objective[k], np.zeros(3))
        matrix = np.concatenate([given.matrix[k], np.eye(3)], axis=1)
        upper = np.concatenate([given.upper[k], [given.bound[k, 0], 1.0, 1.0]])
        steps = lp_loops._simplex(
            objective, matrix, upper, given.bound[k], basis, basic, at_upper, inverse, value, reduced, push, slack
        )
        x = np.where(at_upper & ~basic, upper, 0.0)
        x[basis] = value
        assert 0 <= steps < 30
        assert (x >= -1e-9).all() and (x <= upper + 1e-9).all()
        np.testing.assert_allclose(matrix @ x, given.bound[k], atol=1e-9)
        np.testing.assert_allclose(objective @ x, truth[k], atol=1e-8)
        total += steps
    assert total > batch


def relative(found, truth):
    return np.max(np.abs(found - truth) / np.abs(truth))


@pytest.mark.parametrize("size", solvers.SIZES)
def test_highs_agrees_with_itself(size):
    pytest.importorskip("highspy")
    given = solvers.instances(40, *size, 0)
    assert given.matrix.shape[1] == size[1]
    truth = solvers.highs_scipy(given)
    assert relative(solvers.highspy_cold(given), truth) < 1e-7
    assert relative(solvers.highspy_warm(given), truth) < 1e-7
    assert truth.std() > 0.02 and np.mean(truth > 0.999) < 0.3  # no toys


def test_our_solver_agrees_with_highs():
    given = solvers.instances(200, 11, 3, 0)
    assert relative(solvers.ours(given), solvers.highs_scipy(given)) < 1e-4


def test_numba_agrees_with_highs():
    pytest.importorskip("numba")
    given = solvers.instances(201, 11, 3, 0)
    assert relative(solvers.numba_three_rows(given), solvers.highs_scipy(given)) < 1e-8


def test_mpax_agrees_with_highs_to_its_tolerance():
    pytest.importorskip("mpax")
    given = solvers.instances(40, 11, 3, 0)
    truth = solvers.highs_scipy(given)
    # Its tolerance is per row, and a missed target has a price of 5.
    assert relative(solvers.mpax_vmap(given), truth) < 1e-4


def test_deployments_agree_with_milp():
    given = solvers.deployments(40, 11, 3, 0)
    truth = solvers.support_milp(given)
    assert np.isfinite(truth).all()
    assert relative(solvers.support_ours(given), truth) < 1e-5
