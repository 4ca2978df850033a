"""Routing rules: each against its twin in NumPy on recorded rounds, and all against one table of duties."""

import doctest
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.estimators import confidence
from bandits.estimators.confidence import Bounds
from bandits.estimators.statistics import Statistics
from bandits.forecasting.base import Forecast
from bandits.routing import ROUTING, RoutingView, fill
from bandits.solvers import lp
from bandits.solvers.mix import Mix
from envs.types import Observation, Problem, Truth
from tests import oracles, worlds

SHIPPED = sorted(name for name, rule in ROUTING.items() if rule.__module__.startswith("bandits."))
NO_RADIUS: dict[str, dict[str, float]] = {"copac_ucb": {"delta": 1.0}, "oa_ucb": {"delta": 1.0}}  # rules with their own
ROUNDS = 256
MODELS, PADDED = 5, 6


# Rules applied to many views at once, through one program each.
@cache
def decider(name: str) -> tuple[Callable[[Any, RoutingView], jax.Array], list[int]]:
    """(a compiled function (rule, views) -> [N, M] first decisions, the traces it took)."""
    traces: list[int] = []

    def one(rule: Any, view: RoutingView) -> jax.Array:
        return rule.decide(rule.init(view.problem, view.truth), view)[0]

    @jax.jit
    def many(rule: Any, views: RoutingView) -> jax.Array:
        traces.append(1)
        return jax.vmap(one, (None, 0))(rule, views)

    return many, traces


def decide(name: str, views: RoutingView, rule: Any = None) -> np.ndarray:
    """[N, M] shares of a rule with its defaults; only clairvoyant rules are shown the truth."""
    rule = ROUTING[name]() if rule is None else rule
    shown = replace(views, resolve=np.ones(len(views.observation.t), bool))
    shown = shown if ROUTING[name].clairvoyant else replace(shown, truth=None)
    return np.asarray(decider(name)[0](_numbers(rule), shown))


def _numbers(rule: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), rule)


# Twins.
class Recording:
    """One cell's rounds, with beliefs rebuilt from raw feedback and not from the engine's statistics."""

    def __init__(self, cell: int, world: Any, seen: Any) -> None:
        self.world = world
        self.views = jax.tree.map(lambda leaf: np.asarray(leaf[cell]), seen.view)
        self.shares = np.asarray(seen.shares[cell], float)
        self.duals = np.asarray(seen.duals[cell], float)
        self.total_demand = float(seen.feedback.demand[cell].sum())
        feedback = jax.tree.map(lambda leaf: np.asarray(leaf[cell], float), seen.feedback)
        problem = world.problem
        self.budget, self.target = np.asarray(problem.budget, float), np.asarray(problem.target, float)
        self.caps = np.where(problem.exists, np.asarray(problem.throughput, float), 0.0)
        ones = np.ones((PADDED, 1))
        bound = np.asarray(problem.consumption_bound, float)
        self.beliefs = oracles.Beliefs(np.hstack([ones, bound, ones, ones]))
        self.gamma = oracles.level(0.25, MODELS, ROUNDS)
        self.rounds = [self._round(t, feedback) for t in range(ROUNDS)]

    def _round(self, t: int, feedback: Any) -> dict[str, np.ndarray]:
        samples = [np.array(rows) for rows in self.beliefs.samples]
        lower, upper = oracles.bounds(samples, self.beliefs.ceiling, self.gamma)
        now = self.views.observation
        known = {
            "lower": lower,
            "upper": upper,
            "count": self.beliefs.count(),
            "mean": self.beliefs.mean(),
            "caps": oracles.affordable_caps(
                self.caps,
                np.asarray(self.world.problem.consumption_bound, float),
                self.budget - np.asarray(now.spent[t], float),
                float(self.views.demand[t]),
            ),
            "targets": oracles.resolving_targets(
                self.budget,
                np.asarray(now.spent[t], float),
                self.target,
                np.asarray(now.service_so_far[t], float),
                float(now.demand_so_far[t]),
                float(self.views.remaining_demand[t]),
            ),
        }
        outcome = np.concatenate([[feedback.reward[t]], feedback.consumption[t], feedback.service[t]])
        self.beliefs.see(worlds.tasks_served(feedback, PADDED)[t], np.tile(outcome, (PADDED, 1)))
        return known

    def shown(self) -> RoutingView:
        """The recorded views, completed by what clairvoyant rules are told."""
        world = self.world
        told = Truth(
            reward=world.reward_mean,
            consumption=world.consumption_mean,
            service=world.service_mean,
            total_demand=np.float32(self.total_demand),
        )
        truth = jax.tree.map(lambda leaf: np.broadcast_to(leaf, (ROUNDS, *np.shape(leaf))), told)
        return replace(self.views, truth=truth, key=jax.random.split(jax.random.key(0), ROUNDS))


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    """One run of primal_dual_resolving in each of four worlds with two constraints of each kind, caps and padding."""
    varied = ((2e-4, 0.9, "before"), (1e-4, 0.5, "after"), (2e-3, 0.99, "before"), (4e-4, 0.0, "after"))
    made = [
        worlds.world(
            models=MODELS,
            padded=PADDED,
            horizon=ROUNDS,
            budget_per_task=budget,
            target=target,
            demand_seen=moment,
            **worlds.TWO_OF_EACH,
        )
        for budget, target, moment in varied
    ]
    seen = worlds.record(made, worlds.policy("primal_dual_resolving"), ROUNDS)
    return [Recording(cell, world, seen) for cell, world in enumerate(made)]


def assert_best(index: np.ndarray, caps: np.ndarray, shares: np.ndarray, tolerance: float = 2e-5) -> None:
    """``shares`` are those of the greedy fill, or (where two models tie within rounding) worth as much."""
    ours = oracles.greedy_fill(index, caps)
    if not np.allclose(shares, ours, atol=1e-6):
        useful = np.where(caps > 0, index, 0.0)
        assert useful @ shares == pytest.approx(useful @ ours, rel=tolerance, abs=tolerance)
        assert (shares >= 0).all() and (shares <= caps + 1e-6).all() and shares.sum() <= 1 + 1e-6


def test_recorded_beliefs_are_those_rebuilt_from_raw_feedback(recordings: list[Recording]) -> None:
    for recording in recordings:
        for t, known in enumerate(recording.rounds):
            real = slice(0, MODELS)
            np.testing.assert_allclose(recording.views.bounds.lower[t][real], known["lower"][real], atol=2e-5)
            np.testing.assert_allclose(recording.views.bounds.upper[t][real], known["upper"][real], atol=2e-5)
            assert (recording.views.statistics.count[t] == known["count"]).all()


def test_demand_is_forecast_where_it_is_not_seen(recordings: list[Recording]) -> None:
    for recording in recordings:
        now = recording.views.observation
        hidden = not bool(recording.world.demand_seen)
        so_far = np.asarray(now.demand_so_far, float)
        t = np.arange(ROUNDS)
        mean = np.where(t > 0, so_far / np.maximum(t, 1), recording.world.problem.expected_demand / ROUNDS)
        assert (now.demand == 0).all() if hidden else (now.demand > 0).any()
        next_demand = mean if hidden else now.demand
        np.testing.assert_allclose(recording.views.demand, next_demand, rtol=1e-5)
        np.testing.assert_allclose(recording.views.remaining_demand, next_demand + mean * (ROUNDS - t - 1), rtol=1e-4)


@pytest.mark.parametrize("name", ["ad_ucb", "lp_oracle", "lp_resolving", "stageroute", "sw_ucb"])
def test_rules_with_a_program_say_whether_it_was_decided(
    name: str, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An undecided one is served all the same, as far as the budget and the number of tasks allow."""
    views = replace(recordings[0].shown(), resolve=np.ones(ROUNDS, bool))
    view = jax.tree.map(lambda leaf: jnp.asarray(leaf[-1]), views)
    for status, gap in ((lp.Status.OPTIMAL, 0.0), (lp.Status.INACCURATE, 0.5), (lp.Status.STEP_LIMIT, 0.5)):
        numbers = {"value": 1.0, "residual": 0.0, "gap": gap, "status": status, "steps": 1}
        point = {"x": jnp.full(PADDED + 2, 0.25), "dual": jnp.ones(5)}
        found = lp.Solution(**point, **{key: jnp.asarray(number) for key, number in numbers.items()})
        monkeypatch.setattr(lp, "maximize", lambda *_, found=found, **__: found)
        rule = ROUTING[name]()
        shares, state = rule.decide(rule.init(view.problem, view.truth), view)
        assert bool(rule.undecided(state)) == (status != lp.Status.OPTIMAL)
        assert np.isfinite(shares).all()
        assert status == lp.Status.OPTIMAL or shares.sum() <= 1 + 1e-6


def test_uniform_is_its_twin(recordings: list[Recording]) -> None:
    for recording in recordings:
        expected = [oracles.uniform(known["caps"]) for known in recording.rounds]
        np.testing.assert_allclose(decide("uniform", recording.shown()), expected, atol=1e-7)


def test_ucb1_is_its_twin(recordings: list[Recording]) -> None:
    for recording in recordings:
        made = decide("ucb1", recording.shown())
        for t, known in enumerate(recording.rounds):
            trial = oracles.exploration(known["count"], known["caps"])
            if trial is not None:
                np.testing.assert_allclose(made[t], trial)
            else:
                assert_best(oracles.ucb1_index(known["mean"][:, 0], known["count"], t), known["caps"], made[t])


def test_greedy_value_per_cost_is_its_twin(recordings: list[Recording]) -> None:
    for recording in recordings:
        made = decide("greedy_value_per_cost", recording.shown())
        for t, known in enumerate(recording.rounds):
            trial = oracles.exploration(known["count"], known["caps"])
            if trial is not None:
                np.testing.assert_allclose(made[t], trial)
            else:
                index = oracles.value_per_cost(known["mean"][:, 0], known["mean"][:, 1:3], recording.budget)
                assert_best(index, known["caps"], made[t])


def test_best_fixed_is_its_twin(recordings: list[Recording]) -> None:
    for recording in recordings:
        shown = recording.shown()
        truth = jax.tree.map(lambda leaf: np.asarray(leaf[0], float), shown.truth)
        rho = recording.budget / truth.total_demand
        ours = oracles.best_fixed(truth.reward, truth.consumption, truth.service, rho, recording.target, recording.caps)
        np.testing.assert_allclose(decide("best_fixed", shown), np.broadcast_to(ours, (ROUNDS, PADDED)), atol=1e-7)


def assert_optimal(x: np.ndarray, ours: float, r: Any, c: Any, g: Any, rho: Any, wanted: Any, caps: Any) -> None:
    """x is feasible and worth as much as HiGHS's solution."""
    assert (x >= 0).all() and (x <= caps + 1e-6).all() and x.sum() <= 1 + 1e-6
    assert (c.T @ x <= rho * (1 + 1e-5) + 1e-7).all()
    assert oracles.soft_value(x, r, g, wanted) == pytest.approx(ours, abs=2e-5, rel=1e-5)


def test_lp_resolving_is_as_good_as_its_twin(recordings: list[Recording]) -> None:
    for recording in recordings:
        made = decide("lp_resolving", recording.shown()).astype(float)
        assert np.isfinite(made).all()
        for t, known in enumerate(recording.rounds):
            trial = oracles.exploration(known["count"], known["caps"])
            if trial is not None:
                np.testing.assert_allclose(made[t], trial)
                continue
            r, c, g = known["upper"][:, 0], known["lower"][:, 1:3], known["upper"][:, 3:]
            rho, wanted = known["targets"]
            rho = np.maximum(rho, 0.0)
            caps = known["caps"]
            wanted = np.minimum(wanted, g[caps > 0].max(axis=0, initial=0.0))
            ours, _ = oracles.soft_mix(r, c, g, rho, wanted, caps)
            assert_optimal(made[t], ours, r, c, g, rho, wanted, caps)


def test_lp_oracle_is_as_good_as_its_twin_and_keeps_reachable_targets(recordings: list[Recording]) -> None:
    reachable = 0
    for recording in recordings:
        shown = recording.shown()
        made = decide("lp_oracle", shown).astype(float)
        truth = jax.tree.map(lambda leaf: np.asarray(leaf[0], float), shown.truth)
        rho, target, caps = recording.budget / truth.total_demand, recording.target, recording.caps
        ours, _ = oracles.soft_mix(truth.reward, truth.consumption, truth.service, rho, target, caps)
        best = oracles.hard_mix(truth.reward, truth.consumption, truth.service, rho, target, caps)
        assert (made == made[0]).all()
        assert_optimal(made[0], ours, truth.reward, truth.consumption, truth.service, rho, target, caps)
        if best is not None:
            reachable += 1
            assert truth.reward @ made[0] == pytest.approx(best, abs=2e-5)
    assert 0 < reachable < len(recordings)


def test_primal_dual_resolving_is_its_twin(recordings: list[Recording]) -> None:
    """Index and shares at the prices the run had; ``test_dual`` holds the prices to their own equations."""
    for recording in recordings:
        declined = 0
        for t, known in enumerate(recording.rounds):
            trial = oracles.exploration(known["count"], known["caps"])
            if trial is not None:
                np.testing.assert_allclose(recording.shares[t], trial)
                continue
            packing, covering = recording.duals[t, :2], recording.duals[t, 2:]
            upper, lower = known["upper"], known["lower"]
            index = oracles.primal_dual_index(upper[:, 0], lower[:, 1:3], upper[:, 3:], packing, covering)
            assert_best(index, known["caps"], recording.shares[t])
            declined += recording.shares[t].sum() == 0
        assert np.ptp(recording.duals, axis=0).max() > 0


# fill.
def test_fill_is_the_best_and_prefers_the_lower_number() -> None:
    generator = np.random.default_rng(2)
    index = generator.normal(size=(300, 6)).round(1)  # rounding makes ties
    caps = np.where(generator.random((300, 6)) < 0.2, 0.0, generator.choice([0.1, 0.3, 0.6, 1.0], (300, 6)))
    made = np.asarray(jax.vmap(fill)(jnp.asarray(index, jnp.float32), jnp.asarray(caps, jnp.float32)))
    for row, cap, shares in zip(index, caps, made, strict=True):
        np.testing.assert_allclose(shares, oracles.greedy_fill(row, cap), atol=1e-6)
        assert row @ shares == pytest.approx(oracles.fill_by_linprog(row, cap), abs=1e-5)


def test_fill_that_may_not_decline_serves_all_by_the_order_of_the_index() -> None:
    generator = np.random.default_rng(3)
    index = generator.normal(size=(300, 6)).round(1)
    caps = np.where(generator.random((300, 6)) < 0.2, 0.0, generator.choice([0.1, 0.3, 0.6, 1.0], (300, 6)))
    serve_all = jax.vmap(lambda index, caps: fill(index, caps, decline=False))
    made = np.asarray(serve_all(jnp.asarray(index, jnp.float32), jnp.asarray(caps, jnp.float32)))
    for row, cap, shares in zip(index, caps, made, strict=True):
        np.testing.assert_allclose(shares, oracles.greedy_fill(row + 10, cap), atol=1e-6)
    assert np.asarray(fill(jnp.asarray([-1.0, jnp.nan, -2.0]), jnp.ones(3), decline=False)).tolist() == [1.0, 0.0, 0.0]


def test_fill_without_anything_useful_declines() -> None:
    assert not np.asarray(fill(jnp.asarray([0.0, -1.0, -jnp.inf]), jnp.ones(3))).any()
    assert not np.asarray(fill(jnp.ones(3), jnp.zeros(3))).any()


# The table: what every rule must do, on made-up views.
def random_views(
    models: int, padded: int, resources: int, metrics: int, *, ties: bool = True, seed: int = 0
) -> RoutingView:
    """[ROUNDS] views with anything in them that can occur: nothing tried, nothing available, budgets spent.

    Without ``ties`` every model was tried and no bound is cut off at 1.
    """
    generator = np.random.default_rng([seed, models, padded, resources, metrics])

    def uniform(*shape: int, low: float = 0.0) -> np.ndarray:
        return generator.uniform(low, 1.0, (ROUNDS, *shape)).astype(np.float32)

    exists = np.broadcast_to(np.arange(padded) < models, (ROUNDS, padded))
    rounds = generator.integers(1, 1000, ROUNDS).astype(np.int32)
    bound = np.where(exists[:, :, None], uniform(padded, resources, low=0.01), 1.0).astype(np.float32)
    count = np.where(exists, generator.integers(0 if ties else 1, 60, (ROUNDS, padded)), 0).astype(np.int32)
    ceiling = np.concatenate([np.ones((ROUNDS, padded, 1)), bound, np.ones((ROUNDS, padded, metrics))], axis=2)
    mean = (1.0 if ties else 0.9) * uniform(padded, 1 + resources + metrics) * ceiling * (count > 0)[:, :, None]
    statistics = Statistics(count=count, mean=mean.astype(np.float32), scatter=None)
    level = jnp.float32(1.0 if ties else 1e-3)
    limits = jax.vmap(lambda seen, top: confidence.bounds(confidence.Confidence(), seen, top, level))(
        statistics, jnp.asarray(ceiling, jnp.float32)
    )
    remaining = 100 * uniform()
    problem = Problem(
        horizon=rounds + 5,
        exists=exists,
        budget=100 * uniform(resources),
        target=uniform(metrics),
        consumption_bound=bound,
        throughput=uniform(padded, low=0.1),
        budget_hard=generator.random(ROUNDS) < 0.8,
        max_deployed=np.full(ROUNDS, padded, np.int32),
        expected_demand=np.full(ROUNDS, 100, np.float32),
        demand_bound=np.full(ROUNDS, 2, np.float32),
    )
    available = exists & (generator.random((ROUNDS, padded)) < 0.9)
    observation = Observation(
        t=rounds,
        demand=uniform(),
        demand_seen=np.ones(ROUNDS, bool),
        profile=uniform(),
        available=available,
        deployed=available & (generator.random((ROUNDS, padded)) < 0.9),
        demand_so_far=100 * uniform(),
        spent=problem.budget / 2,
        remaining=problem.budget / 2 * (uniform(1) < 0.9),
        service_so_far=50 * uniform(metrics),
    )
    truth = Truth(
        reward=uniform(padded),
        consumption=uniform(padded, resources) * bound,
        service=uniform(padded, metrics),
        total_demand=100 + 100 * uniform(),
    )
    return RoutingView(
        problem=problem,
        observation=observation,
        statistics=statistics,
        bounds=Bounds(lower=np.asarray(limits.lower), upper=np.asarray(limits.upper)),
        demand=observation.demand,
        total_demand=observation.demand_so_far + remaining,
        remaining_demand=remaining,
        forecast=Forecast(next=uniform(), remaining=remaining),
        resolve=np.ones(ROUNDS, bool),
        key=jax.random.split(jax.random.key(seed), ROUNDS),
        truth=truth,
    )


def permuted(views: RoutingView, order: np.ndarray) -> RoutingView:
    """The same views with the models in another order."""

    def move(leaf: Any) -> Any:
        swap = not isinstance(leaf, jax.Array) and leaf.ndim >= 2 and leaf.shape[1] == len(order)
        return leaf[:, order] if swap else leaf

    return jax.tree.map(move, views)


def assert_valid(shares: np.ndarray, views: RoutingView) -> None:
    caps = np.where(views.observation.deployed, views.problem.throughput, 0.0)
    assert np.isfinite(shares).all()
    assert (shares >= 0).all() and (shares <= caps + 1e-6).all() and (shares.sum(axis=1) <= 1 + 1e-5).all()
    assert not shares[caps == 0].any()


@pytest.mark.parametrize("name", SHIPPED)
def test_shares_are_on_the_simplex_and_under_their_caps(name: str) -> None:
    views = random_views(MODELS, PADDED, 2, 2)
    shares = decide(name, views)
    assert_valid(shares, views)
    assert shares.sum() > 0.1 * ROUNDS


@pytest.mark.parametrize("name", SHIPPED)
def test_one_model_and_no_constraints_work(name: str) -> None:
    views = random_views(1, 1, 0, 0)
    shares = decide(name, views)
    assert_valid(shares, views)
    assert (shares[:, 0] > 0).any()


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "sw_ucb"])  # whose own record is still empty
def test_permuting_the_models_permutes_the_shares(name: str) -> None:
    views = random_views(MODELS, PADDED, 2, 2, ties=False)
    order = np.array([3, 5, 0, 4, 2, 1])
    rule = ROUTING[name](**NO_RADIUS.get(name, {}))
    moved = decide(name, permuted(views, order), rule)
    np.testing.assert_allclose(moved, decide(name, views, rule)[:, order], atol=1e-4)


@pytest.mark.parametrize("name", SHIPPED)
def test_numbers_change_without_a_new_trace(name: str) -> None:
    views = random_views(MODELS, PADDED, 2, 2)
    decide(name, views)
    before = len(decider(name)[1])
    other = random_views(MODELS, PADDED, 2, 2, seed=1)
    changed = jax.tree.map(lambda leaf: 1.5 * leaf + 0.01, ROUTING[name]())
    assert_valid(decide(name, other, changed), other)
    assert len(decider(name)[1]) == before


def test_a_choice_does_take_a_new_trace() -> None:
    views = random_views(MODELS, PADDED, 2, 2)
    decide("primal_dual_resolving", views)
    before = len(decider("primal_dual_resolving")[1])
    decide("primal_dual_resolving", views, ROUTING["primal_dual_resolving"](covering="pessimistic"))
    assert len(decider("primal_dual_resolving")[1]) == before + 1


@pytest.mark.parametrize("name", SHIPPED)
def test_the_docstring_has_an_example_that_runs(name: str) -> None:
    rule = ROUTING[name]
    found = doctest.DocTestFinder(recurse=False).find(rule, name, globs=vars(sys.modules[rule.__module__]).copy())
    assert found and found[0].examples
    results = [doctest.DocTestRunner().run(each) for each in found]
    assert sum(result.failed for result in results) == 0


def test_rules_differ_in_structure_whatever_their_fields() -> None:
    """jit's cache looks programs up by structure: two rules that compare equal may be mistaken for each other."""
    structures = {name: jax.tree.structure(rule()) for name, rule in ROUTING.items()}
    same = [(a, b) for a in structures for b in structures if a < b and structures[a] == structures[b]]
    assert same == []


# StageRoute's routing rule.
def routed(views: RoutingView, number: int) -> dict[str, np.ndarray]:
    """What eq. 7 is about, of one view, in float64: r, c, g, b, wanted, caps."""
    problem, now = views.problem, views.observation
    resources = problem.budget.shape[1]
    upper, lower = np.asarray(views.bounds.upper[number], float), np.asarray(views.bounds.lower[number], float)
    caps = np.where(now.deployed[number], np.asarray(problem.throughput[number], float), 0.0)
    if problem.budget_hard[number]:
        bound, remaining = (
            np.asarray(problem.consumption_bound[number], float),
            np.asarray(now.remaining[number], float),
        )
        caps = oracles.affordable_caps(caps, bound, remaining, float(views.demand[number]))
    g = upper[:, 1 + resources :]
    offered = np.where(caps[:, None] > 0, g, 0.0).max(axis=0)
    return {
        "r": upper[:, 0],
        "c": lower[:, 1 : 1 + resources],
        "g": g,
        "b": np.asarray(problem.budget[number], float) / float(problem.expected_demand[number]),
        "wanted": np.minimum(np.asarray(problem.target[number], float), offered),
        "caps": caps,
    }


@pytest.mark.parametrize("ties", [True, False])
def test_stageroute_routes_as_well_as_the_linear_program(ties: bool) -> None:
    """Everyone is served within the budget, or else as cheaply as can be."""
    views = random_views(MODELS, PADDED, 2, 2, ties=ties)
    made = decide("stageroute", views).astype(float)
    kinds = {"optimal": 0, "cheapest": 0, "short of caps": 0, "target missed": 0}
    for number, shares in enumerate(made):
        found = routed(views, number)
        caps, wanted = found["caps"], found["wanted"]
        total = min(1.0, caps.sum())
        assert (shares >= 0).all() and (shares <= caps + 1e-6).all()
        assert shares.sum() == pytest.approx(total, abs=1e-5)
        best = oracles.full_mix(**found, penalty=5.0)
        if best is None:
            kinds["cheapest"] += 1
            cheapest = oracles.cheapest_mix(found["c"], found["b"], caps)
            share = oracles.scarcest_share(found["c"], found["b"])
            assert share @ shares == pytest.approx(share @ cheapest, rel=1e-4), number
            continue
        kinds["optimal"] += 1
        kinds["short of caps"] += total < 1
        value = oracles.soft_value(shares, found["r"], found["g"], wanted)
        assert value == pytest.approx(best[0], abs=1e-5, rel=1e-5), number
        assert (found["c"].T @ shares <= found["b"] * (1 + 1e-5) + 1e-6).all()
        kinds["target missed"] += bool((found["g"].T @ shares < wanted - 1e-3).any())
    assert min(kinds.values()) >= 5, kinds


def test_the_cheapest_mix_looks_at_the_scarcest_resource() -> None:
    """Money 0.1 a task, energy 5 a task: the first model uses twice the budget of money, the second 3 times."""
    views = random_views(MODELS, PADDED, 2, 2)
    live = np.broadcast_to(np.arange(PADDED) < 2, (ROUNDS, PADDED))
    lower = np.zeros((ROUNDS, PADDED, 5), np.float32)
    lower[:, :2, 1:3] = [[0.2, 0.9], [0.3, 0.1]]
    problem = replace(
        views.problem,
        budget=np.broadcast_to(np.float32([10.0, 500.0]), (ROUNDS, 2)),
        throughput=np.ones((ROUNDS, PADDED), np.float32),
        budget_hard=np.zeros(ROUNDS, bool),
    )
    ample = replace(
        views,
        problem=problem,
        observation=replace(views.observation, deployed=live),
        bounds=replace(views.bounds, lower=lower, upper=np.ones_like(lower)),
    )
    scarce = replace(problem, budget=np.broadcast_to(np.float32([10.0, 4.0]), (ROUNDS, 2)))
    energy_first = replace(ample, problem=scarce)
    np.testing.assert_allclose(decide("stageroute", energy_first)[0], [0, 1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(decide("stageroute", ample)[0], [1, 0, 0, 0, 0, 0], atol=1e-6)


def test_between_two_solves_the_old_mix_is_kept() -> None:
    views = random_views(MODELS, PADDED, 2, 2)
    held = replace(views, truth=None, resolve=np.bool_(False))
    generator = np.random.default_rng(4)
    mix = generator.dirichlet(np.ones(PADDED), ROUNDS).astype(np.float32)
    prices = generator.random((ROUNDS, 4)).astype(np.float32)
    rule = _numbers(ROUTING["stageroute"]())
    axes = replace(jax.tree.map(lambda leaf: 0, held), resolve=None)
    decided = jax.jit(jax.vmap(lambda state, view: rule.decide(state, view), (0, axes)))
    old = Mix(shares=mix, prices=prices, undecided=np.zeros(len(mix), bool))
    shares, kept = decided(old, held)
    np.testing.assert_array_equal(kept.shares, mix)
    np.testing.assert_array_equal(kept.prices, prices)
    caps = np.stack([routed(views, number)["caps"] for number in range(ROUNDS)])
    np.testing.assert_allclose(shares, np.minimum(mix, caps), rtol=1e-6)  # but never what cannot serve
    again, solved_anew = decided(old, replace(held, resolve=np.bool_(True)))
    assert (np.asarray(solved_anew.shares) != mix).any(axis=1).all()
    np.testing.assert_allclose(again, decide("stageroute", views), atol=1e-6)
