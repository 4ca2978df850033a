"""The environment: do outcomes follow the stated laws, and can nothing make it overspend?

Statistical bounds hold with a chance of at least 1 - 1e-4 over the draw of the (fixed) seeds, each.
"""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from envs import keys as random_keys
from envs import ledger
from envs import world as edge_cloud
from envs.world import World
from tests import worlds
from tests.worlds import Reckless

pytestmark = pytest.mark.optimized  # what is exact must be so whatever the compiler does

DRAWS = 40_000
FALSE_ALARM = 1e-4
SIGMAS = float(stats.norm.isf(FALSE_ALARM / 2))


@jax.jit
def serve(world: World, shares: jax.Array, demand: jax.Array, keys: jax.Array) -> Any:
    """Feedback of one first round for each key."""

    def one(key: jax.Array) -> Any:
        state = edge_cloud.reset(world, key, deployment_matters=False)
        return edge_cloud.step(world, state, state.demand_state, demand, shares, jnp.int32(0), key)

    return jax.vmap(one)(keys)


def feedback_of(world: World, shares: np.ndarray, demand: float = 3.0, seed: int = 0, number: int = DRAWS) -> Any:
    """What came of ``number`` first rounds, with ``served`` [number, M] made of it."""
    keys = jax.random.split(jax.random.key(seed), number)
    made = serve(world, jnp.asarray(shares, jnp.float32), jnp.float32(demand), keys)
    seen = jax.device_get(made[1])
    return SimpleNamespace(**vars(seen), served=worlds.tasks_served(seen, len(shares)))


def ample(**overrides: Any) -> World:
    """Four models, two resources, two covering metrics, and more budget than can be spent."""
    fixed = {"budget_per_task": 1.0, "resources": {"energy_wh": 100.0}, "floors": {"quality": 0.5}}
    return worlds.world(**{"models": 4, "horizon": 1000, **fixed, **overrides})


@pytest.fixture(scope="module", params=["bernoulli", "beta"])
def noisy(request: pytest.FixtureRequest) -> tuple[World, Any]:
    world = ample(quality_noise=request.param)
    return world, feedback_of(world, np.full(4, 0.25))


def test_outcomes_have_the_true_means(noisy: tuple[World, Any]) -> None:
    world, seen = noisy
    for m in range(4):
        rows = seen.served[:, m] > 0
        for drawn, truth in (
            (seen.reward[rows][:, None], world.reward_mean[m, None]),
            (seen.consumption[rows], world.consumption_mean[m]),
            (seen.service[rows], world.service_mean[m]),
        ):
            error = np.maximum(drawn.std(axis=0), 1e-9) / np.sqrt(rows.sum())
            assert (np.abs(drawn.mean(axis=0) - truth) < SIGMAS * error + 1e-6).all()


def test_outcomes_stay_in_their_ranges(noisy: tuple[World, Any]) -> None:
    world, seen = noisy
    bound = np.asarray(world.problem.consumption_bound)[np.argmax(seen.served, axis=1)]
    assert (seen.consumption <= bound).all()
    assert (seen.consumption >= 0).all() and seen.consumption.max() > 0.5
    assert ((seen.reward >= 0) & (seen.reward <= 1)).all()
    assert np.isin(seen.service[:, 0], [0, 1]).all()
    np.testing.assert_array_equal(seen.service[:, 1], seen.reward)  # the floor on quality is quality itself
    if world.reward_table is None:
        assert np.isin(seen.reward, [0, 1]).all()


def test_beta_quality_has_the_stated_spread() -> None:
    seen = feedback_of(ample(quality_noise="beta", quality_concentration=3.0), np.array([0, 1, 0, 0]))
    mean = worlds.catalogue(4).quality[1]
    variance = mean * (1 - mean) / 4
    assert seen.reward.var() == pytest.approx(variance, rel=0.05)


def test_money_and_energy_of_one_task_rise_together() -> None:
    seen = feedback_of(ample(), np.array([0, 1, 0, 0]))
    assert stats.spearmanr(seen.consumption).statistic > 0.99


def test_only_the_model_that_served_is_seen(noisy: tuple[World, Any]) -> None:
    world, _ = noisy
    seen = feedback_of(world, np.full(4, 0.2))
    serving = (seen.served > 0).sum(axis=1)
    assert np.isin(serving, [0, 1]).all() and (serving == 0).any()
    assert np.isin(seen.served, [0.0, 3.0]).all()
    for name in ("reward", "consumption", "service"):
        assert not getattr(seen, name)[serving == 0].any()


@pytest.mark.parametrize(
    "shares", [[0.25, 0.25, 0.25, 0.25], [0.05, 0.6, 0.0, 0.15], [0.0, 0.0, 0.0, 0.0], [0.6, 0.3, 0.05, 0.05]]
)
def test_shares_are_honoured(shares: list[float]) -> None:
    seen = feedback_of(ample(), np.array(shares), seed=5)
    counts = np.append((seen.served > 0).sum(axis=0), (seen.served == 0).all(axis=1).sum())
    expected = DRAWS * np.append(shares, max(1 - sum(shares), 0.0))
    drawn = expected > 1e-2
    assert counts[~drawn].sum() == 0
    if drawn.sum() > 1:
        assert stats.chisquare(counts[drawn], expected[drawn] * counts.sum() / expected.sum()).pvalue > FALSE_ALARM


def test_caps_hold_against_a_rule_that_ignores_them() -> None:
    world = ample(edge_throughput=0.3)  # models 0, 2 and 3 are at the edge
    seen = feedback_of(world, np.array([5.0, 0.0, 0.0, 0.0]))
    assert (seen.served[:, 0] > 0).mean() == pytest.approx(0.3, abs=SIGMAS * np.sqrt(0.21 / DRAWS))
    everything = feedback_of(world, np.full(4, 7.0))
    share = (everything.served > 0).mean(axis=0)
    np.testing.assert_allclose(share, np.array([0.3, 1.0, 0.3, 0.3]) / 1.9, atol=SIGMAS * 0.5 / np.sqrt(DRAWS))
    negative = feedback_of(world, np.array([-3.0, 0.5, -1.0, 0.0]))
    assert (negative.served > 0).mean(axis=0)[1] == pytest.approx(0.5, abs=SIGMAS * 0.5 / np.sqrt(DRAWS))


def test_padding_never_serves() -> None:
    seen = feedback_of(ample(padded=6), np.full(6, 1.0), number=4000)
    assert not seen.served[:, 4:].any() and (seen.served.sum(axis=1) > 0).all()


@pytest.mark.parametrize("demand", [3.0, 0.0])
def test_the_null_action_gives_nothing(demand: float) -> None:
    shares = np.zeros(4) if demand else np.array([0.0, 1.0, 0.0, 0.0])
    seen = feedback_of(ample(), shares, demand, number=200)
    assert (seen.demand == demand).all()
    for name in ("served", "reward", "consumption", "service"):
        assert not getattr(seen, name).any()


def test_the_model_that_the_uniform_number_falls_on_serves_whatever_the_rounding() -> None:
    """Shares a, b with a a hair above the uniform number, where (a + b) - b rounds to exactly that number."""
    world = ample(edge_throughput=1.0)
    for seed in range(60):
        key = jax.random.split(jax.random.key(seed), 1)
        number = 3 + world.service_mean.shape[1]
        uniform = np.asarray(random_keys.uniforms(key[0], jnp.int32(0), number, jnp.dtype("float32")))[0]
        first = np.nextafter(uniform, np.float32(1))
        second = np.float32(0.9) - first
        after = np.float32(first + second)
        if not 0.2 < uniform < 0.5 or np.float32(after - second) > uniform:
            continue
        made = jax.device_get(serve(world, jnp.asarray([first, second, 0, 0], jnp.float32), jnp.float32(3.0), key)[1])
        assert made.model[0] == 0
        return
    pytest.fail("no seed gave the rounding that this test is about")


def test_shares_that_fill_a_round_serve_it_whatever_the_uniform_number() -> None:
    """The largest number below 1, times a sum of 1 or more, never rounds up to that sum."""
    world = ample(edge_throughput=1.0)
    largest = jnp.float32(1 - 2**-24)
    generator = np.random.default_rng(2)
    for _ in range(200):
        shares = generator.random(4).astype(np.float32)
        shares *= np.float32(generator.uniform(1, 2)) / min(shares.sum(), np.float32(1))
        if np.minimum(shares, 1).sum() >= 1:
            drawn, _ = edge_cloud._draw_model(world, world.problem.exists, jnp.asarray(shares), largest)
            assert drawn < 4


def test_a_round_that_does_not_fit_is_declined_and_one_that_just_fits_is_served() -> None:
    world = ample()
    worst = Fraction(float(np.float32(3) * world.problem.consumption_bound[1, 0]))
    quantum = 1 / Fraction(ledger.quanta(world.budget, world.consumption_scale)[0])
    for spare, served in ((0, 3.0), (-1, 0.0)):
        tight = ledger.limit([worst + spare * quantum, Fraction(1000)], world.consumption_scale)
        changed = jax.tree.map(jnp.asarray, replace(world, budget=tight))
        key = jax.random.split(jax.random.key(0), 1)
        books, seen = serve(changed, jnp.asarray([0.0, 1.0, 0.0, 0.0]), jnp.float32(3.0), key)
        assert worlds.tasks_served(seen, 4).sum() == served
        assert ledger.host_value(books.refused, world.scale)[0] == 3.0 - served


# Whole runs: many random worlds through one program.
CELLS, RUNS, MARKS = 16, 6, (1, 40, 120, 240)


def random_world(seed: int, **overrides: Any) -> World:
    """Budgets from hopeless to ample, under either rule, with random models."""
    generator = np.random.default_rng(seed)
    return worlds.world(
        models=worlds.catalogue_of(
            generator.random(4), 10.0 ** generator.uniform(-5, -2, 4), cloud=generator.random(4) < 0.5
        ),
        horizon=240,
        demand={"maximum": 32.0},
        **{
            "budget_per_task": 10.0 ** generator.uniform(-6, -2),
            "resources": {"energy_wh": generator.uniform(0.01, 0.6)},
            "budget_rule": generator.choice(["skip", "stop"]),
            "cost_bound_multiple": generator.uniform(1, 6),
            "target": generator.random(),
            "floors": {"quality": generator.random()},
            "edge_throughput": generator.uniform(0.2, 1),
            "cloud_throughput": generator.uniform(0.2, 1),
            **overrides,
        },
    )


@pytest.fixture(scope="module")
def reckless() -> tuple[list[World], Any]:
    made = [random_world(seed, budget_rule=("skip", "stop")[seed % 2]) for seed in range(CELLS)]
    return made, worlds.play(made, worlds.policy(Reckless()), runs=RUNS, marks=MARKS)


def test_no_run_ever_spends_a_quantum_too_much(reckless: tuple[list[World], Any]) -> None:
    made, seen = reckless
    spent = ledger.host_units(seen.world.spent)  # [E, cells, runs, P]
    budget = np.stack([ledger.host_units(world.budget) for world in made])[None, :, None]
    assert (spent <= budget).all()
    used = (spent[-1] / np.maximum(budget[0], 1)).max(axis=-1)
    refused = ledger.host_units(seen.world.refused)[-1]
    assert (refused > 0).mean() > 0.5 and (used > 0.5).mean() > 0.3  # the guard was put to the test


def test_stop_ends_a_run_at_its_first_refusal_and_skip_does_not(reckless: tuple[list[World], Any]) -> None:
    made, seen = reckless
    refused = ledger.host_units(seen.world.refused)
    served = ledger.host_units(seen.world.served).sum(axis=-1)
    stops = np.array([bool(world.stop_when_refused) for world in made])
    assert (np.asarray(seen.world.stopped) == ((refused > 0) & stops[None, :, None])).all()
    goes_on = served[-1] > served[-2]
    assert not goes_on[(refused[-2] > 0) & stops[:, None]].any()
    assert goes_on[(refused[-2] > 0) & ~stops[:, None]].any()


def test_the_books_balance(reckless: tuple[list[World], Any]) -> None:
    made, seen = reckless
    scale = np.array([world.scale for world in made])[None, :, None]
    demand, refused, reward = (
        worlds.exactly(getattr(seen.world, name), scale) for name in ("demand", "refused", "reward")
    )
    served = worlds.exactly(seen.world.served, scale[..., None]).sum(axis=-1)
    assert (served + refused <= demand).all() and (reward <= served).all()
    for tasks in (demand, served, refused, reward):
        assert (tasks % worlds.FINE == 0).all()


def test_what_is_not_a_number_costs_its_own_round_and_run_only(reckless: tuple[list[World], Any]) -> None:
    made, before = reckless
    broken = [3, 8]
    policies = [worlds.policy(Reckless(broken=0.4 if cell in broken else 0.0)) for cell in range(CELLS)]
    seen = worlds.play(made, policies, runs=RUNS, marks=MARKS)
    others = np.setdiff1d(np.arange(CELLS), broken)
    for name in ("demand", "served", "refused", "reward", "spent", "service"):
        old, new = (ledger.host_units(getattr(snapshot.world, name)) for snapshot in (before, seen))
        assert (old[:, others] == new[:, others]).all()
    assert (seen.invalid[:, others] == 0).all()
    chance = stats.binom(MARKS[-1], 0.4)
    counts = seen.invalid[-1][broken]
    assert (counts >= chance.ppf(1e-5)).all() and (counts <= chance.isf(1e-5)).all()
    assert np.isfinite(seen.lower).all() and np.isfinite(seen.upper).all()
    everything = ledger.host_units(before.world.demand)
    assert (everything == ledger.host_units(seen.world.demand)).all()


@pytest.fixture(scope="module")
def insistent() -> tuple[list[World], Any, Any]:
    """Worlds under each rule, a record of a policy that wants to serve every round, and its books."""
    made = [random_world(seed, budget_rule=rule) for seed in (1, 4) for rule in ("skip", "stop", "cross")]
    always = worlds.policy(Reckless(scale=1000.0))
    return made, worlds.record(made, always, 120), worlds.play(made, always, runs=1, marks=(120,))


def test_refused_counts_exactly_what_the_guard_declined(insistent: tuple[list[World], Any, Any]) -> None:
    """Recomputed round by round from a record, in integers."""
    made, seen, snapshot = insistent
    for cell, world in enumerate(made):
        demand = seen.feedback.demand[cell]
        served = np.where(seen.feedback.model[cell] >= 0, demand, 0.0)
        caps = np.minimum(np.asarray(world.problem.throughput), 1.0)
        declined = demand - served
        refused = ledger.host_value(snapshot.world.refused, world.scale)[0, cell, 0]
        if caps.sum() >= 1:  # shares fill the round, so whatever was not served was refused
            assert refused == declined.sum()
        else:
            assert 0 < refused <= declined.sum()


def test_cross_serves_the_round_that_overspends_and_none_after_it(insistent: tuple[list[World], Any, Any]) -> None:
    """The crossing round is charged and served, its reward does not count."""
    made, seen, snapshot = insistent
    crossings = 0
    for cell, world in enumerate(made):
        if not world.stop_when_crossed:
            continue
        feedback = jax.tree.map(lambda leaf, cell=cell: np.asarray(leaf[cell]), seen.feedback)
        spent = np.cumsum(feedback.demand[:, None].astype(float) * feedback.consumption, axis=0)
        over = (spent > np.asarray(world.problem.budget)).any(axis=1)
        crossing = int(np.argmax(over)) if over.any() else len(over)
        crossings += crossing < len(over) - 1
        assert (feedback.model[crossing + 1 :] == -1).all()
        earned = (feedback.demand * feedback.reward)[:crossing].sum()
        books = jax.tree.map(lambda leaf, cell=cell: leaf[0, cell, 0], snapshot.world)
        assert ledger.host_value(books.reward, world.scale) == earned
        np.testing.assert_allclose(ledger.host_value(books.spent, world.consumption_scale), spent[-1], rtol=1e-5)
        assert ledger.host_value(books.refused, world.scale) == feedback.demand[crossing + 1 :].sum()
    assert crossings == 2


@pytest.mark.parametrize("moment", ["before", "after"])
def test_demand_is_shown_only_when_it_is_known(moment: str) -> None:
    world = jax.tree.map(jnp.asarray, worlds.world(demand_seen=moment))
    state = edge_cloud.reset(world, jax.random.key(0), deployment_matters=False)
    observation = edge_cloud.observe(world, state, jnp.int32(0), jnp.float32(7.0))
    assert bool(observation.demand_seen) == (moment == "before")
    assert float(observation.demand) == (7.0 if moment == "before" else 0.0)
