"""The fluid benchmark against published numbers, hand-solved cases, single programs and brute force."""

import doctest
import time
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linprog

from envs.catalogue import find
from experiments import benchmark
from experiments.benchmark import fluid, per_task_value

NO_SERVICE = np.zeros((11, 0))


@pytest.fixture(scope="module")
def routerbench():
    return find("routerbench")


def value(models, budget, throughput, support=None):
    """StageRoute's V(b, S): money only, every query is answered."""
    caps = np.full(11, throughput)
    cost = models.cost_usd[:, None]
    return per_task_value(models.quality, cost, NO_SERVICE, [budget], [], caps, support, serve_all=True)


# Published numbers: design/literature.md c.5, RouterBench means, sum x = 1


@pytest.mark.parametrize(
    ("throughput", "budget", "wanted"),
    [
        (1.0, 1e-4, 0.4826), (1.0, 1.5e-4, 0.5782), (1.0, 2e-4, 0.6476), (1.0, 3e-4, 0.6519), (1.0, 5e-4, 0.6605),
        (1.0, 1e-3, 0.6821), (1.0, 1.5e-3, 0.7037), (1.0, 2e-3, 0.7253), (1.0, 3.292e-3, 0.7810), (1.0, 1.0, 0.7810),
        (0.4, 1e-4, 0.4709), (0.4, 1.5e-4, 0.5715), (0.4, 2e-4, 0.6165), (0.4, 3e-4, 0.6309), (0.4, 5e-4, 0.6429),
        (0.4, 1e-3, 0.6716), (0.4, 1.5e-3, 0.6955), (0.4, 2e-3, 0.6984), (0.25, 3e-4, 0.6102), (0.25, 1e-3, 0.6615),
    ],
)  # fmt: skip
def test_routerbench_values_are_those_of_the_literature_notes(routerbench, throughput, budget, wanted):
    mix = value(routerbench, budget, throughput)
    assert mix.feasible
    assert mix.value == pytest.approx(wanted, abs=0.51e-4)
    assert mix.share.sum() == pytest.approx(1, abs=1e-9)


def test_routerbench_mixes(routerbench):
    mix = value(routerbench, 1e-4, 1.0).share
    assert mix[routerbench.names.index("WizardLM/WizardLM-13B-V1.2")] == pytest.approx(0.761, abs=1e-3)
    assert mix[routerbench.names.index("zero-one-ai/Yi-34B-Chat")] == pytest.approx(0.239, abs=1e-3)


def test_routerbench_where_not_every_query_can_be_paid(routerbench):
    mix = value(routerbench, 1e-4, 0.25)
    assert not mix.feasible
    assert mix.share.sum() < 1
    assert mix.share @ routerbench.cost_usd <= 1e-4 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("size", "budget", "wanted", "best"),
    [
        (3, 3e-4, 0.6260, {"Yi-34B-Chat", "gpt-3.5-turbo-1106", "claude-instant-v1"}),
        (3, 1e-3, 0.6716, {"gpt-4-1106-preview", "Yi-34B-Chat", "gpt-3.5-turbo-1106"}),
        (4, 3e-4, 0.6309, None),
    ],
)
def test_routerbench_best_deployments(routerbench, size, budget, wanted, best):
    """The best support among the sets that hold Yi-34B, as every published optimum does."""
    yi = routerbench.names.index("zero-one-ai/Yi-34B-Chat")
    supports = [
        np.isin(np.arange(11), [yi, *rest]) for rest in combinations([i for i in range(11) if i != yi], size - 1)
    ]
    mixes = [(value(routerbench, budget, 0.4, support), support) for support in supports]
    top, support = max((pair for pair in mixes if pair[0].feasible), key=lambda pair: pair[0].value)
    assert top.value == pytest.approx(wanted, abs=0.51e-4)
    assert (top.share[~support] == 0).all()
    if best:
        assert {routerbench.names[i].split("/")[-1] for i in np.flatnonzero(support)} == best


# Hand-solved cases


def test_budget_mixes_two_models():
    """Half the queries can go to the dear model, the rest to the free one: 100 (0.5 * 0.8 + 0.5 * 0.2)."""
    result = fluid([0.2, 0.8], [[0.0], [1.0]], np.zeros((2, 0)), [[50.0]], [], [1, 1], [100.0])
    assert result.value == pytest.approx([50.0])
    np.testing.assert_allclose(result.share, [[0.5, 0.5]], atol=1e-9)
    np.testing.assert_allclose(result.spend, [[50.0]])
    assert result.feasible.all()
    assert result.service.shape == (1, 0)


def test_target_costs_reward():
    """Service 0.5 needs half the tasks on the fast model; the throughput cap of 0.4 on it cannot be met."""
    world = {"reward": [0.9, 0.1], "consumption": np.zeros((2, 0)), "service": [[0.0], [1.0]], "target": [0.5]}
    free = fluid(**world, budget=np.zeros((1, 0)), throughput=[1, 1], demand=[10])
    assert free.value == pytest.approx([5.0])
    assert free.feasible.all()
    np.testing.assert_allclose(free.service, [[5.0]])
    capped = fluid(**world, budget=np.zeros((1, 0)), throughput=[1, 0.4], demand=[10])
    assert not capped.feasible.any()
    np.testing.assert_allclose(capped.share, [[0.6, 0.4]], atol=1e-8)


def test_the_null_action_is_there():
    """A budget of 0 declines everything; caps that add up to less than 1 decline the rest."""
    result = fluid([0.5], [[1.0]], np.zeros((1, 0)), [[0.0], [3.0], [np.inf]], [], [0.6], [10.0, 10.0, 10.0])
    np.testing.assert_allclose(result.value, [0.0, 1.5, 3.0], atol=1e-9)
    np.testing.assert_allclose(result.share[:, 0], [0.0, 0.3, 0.6], atol=1e-9)


def test_no_demand_is_worth_nothing():
    result = fluid([0.5], [[1.0]], [[1.0]], [[4.0], [4.0]], [0.5], [1.0], [0.0, 8.0])
    np.testing.assert_allclose(result.value, [0.0, 2.0])
    assert result.feasible.all()
    assert (result.share[0] == 0).all()
    assert (result.spend[0] == 0).all()


def test_two_conflicting_targets_share_the_shortfall():
    """Targets 0.8 and 0.6, each served by its own model alone: least largest shortfall 0.2 at x = (0.6, 0.4)."""
    result = fluid([0.1, 0.9], np.zeros((2, 0)), np.eye(2), np.zeros((1, 0)), [0.8, 0.6], [1, 1], [1.0])
    assert not result.feasible[0]
    np.testing.assert_allclose(result.share, [[0.6, 0.4]], atol=1e-8)


def test_least_shortfall_comes_before_reward_and_reward_breaks_the_tie():
    """Nobody reaches 0.9; models 1 and 2 come closest (0.7) and model 2 earns more."""
    service = [[0.6], [0.7], [0.7], [0.7]]
    mix = per_task_value([1.0, 0.2, 0.3, 0.1], [[0.1]] * 4, service, [1.0], [0.9], np.ones(4))
    assert not mix.feasible
    assert mix.value == pytest.approx(0.3, abs=1e-6)
    np.testing.assert_allclose(mix.share, [0, 0, 1, 0], atol=1e-6)


def test_a_target_at_its_very_limit_is_feasible():
    """Exactly reachable, and at a price per unit of service far above the first guess."""
    mix = per_task_value([1.0, 0.0], np.zeros((2, 0)), [[0.7], [0.7 + 1e-5]], [], [0.7 + 1e-5], np.ones(2))
    assert mix.feasible
    np.testing.assert_allclose(mix.share, [0, 1], atol=1e-3)
    halfway = per_task_value([1.0, 0.0], np.zeros((2, 0)), [[0.7], [0.7 + 1e-5]], [], [0.7 + 5e-6], np.ones(2))
    assert halfway.feasible
    assert halfway.value == pytest.approx(0.5, abs=1e-3)


def test_no_resource_no_metric_no_run():
    unlimited = fluid([0.5, 0.7], np.zeros((2, 0)), np.zeros((2, 0)), np.zeros((3, 0)), [], [1, 0.5], [1.0, 2.0, 0.0])
    np.testing.assert_allclose(unlimited.value, [0.6, 1.2, 0.0])
    nothing = fluid([0.5], [[0.1]], [[1.0]], np.zeros((0, 1)), [0.5], [1.0], [])
    assert nothing.value.shape == (0,)
    assert nothing.spend.shape == (0, 1)


# Oracles


def random_world(rng, models, resources, metrics):
    return {
        "reward": rng.random(models),
        "consumption": rng.random((models, resources)) ** 3,
        "service": rng.random((models, metrics)),
        "target": rng.uniform(0.2, 0.9, metrics),
        "throughput": rng.uniform(0.2, 1.0, models),
    }


def one_program(world, per_task):
    """(value, feasible) of one run: the program as written, and where it has no solution the two steps in words."""
    reward, service, target = world["reward"], world["service"], world["target"]
    budget_rows = world["consumption"].T[np.isfinite(per_task)]
    ones = np.ones((1, len(reward)))
    rows, limits = (
        np.concatenate([budget_rows, ones, -service.T]),
        np.concatenate([per_task[np.isfinite(per_task)], [1.0]]),
    )
    bounds = [(0, cap) for cap in world["throughput"]]
    plain = linprog(-reward, A_ub=rows, b_ub=np.concatenate([limits, -target]), bounds=bounds)
    if plain.status == 0:
        return -plain.fun, True
    slack = np.concatenate([np.zeros(len(limits)), -np.ones(len(target))])[:, None]
    wide, limit = np.concatenate([rows, slack], axis=1), np.concatenate([limits, -target])
    least = linprog(np.append(0 * reward, 1), A_ub=wide, b_ub=limit, bounds=[*bounds, (0, None)])
    best = linprog(np.append(-reward, 0), A_ub=wide, b_ub=limit, bounds=[*bounds, (0, least.fun + 1e-9)])
    return -best.fun, False


@pytest.mark.parametrize(("resources", "metrics", "seed"), [(1, 1, 0), (2, 2, 1), (1, 3, 2), (3, 0, 3), (0, 2, 4)])
def test_many_runs_at_once_equal_single_programs(resources, metrics, seed):
    """Feasible and infeasible runs side by side, finite and infinite budgets, runs that repeat."""
    rng = np.random.default_rng(seed)
    world = random_world(rng, 6, resources, metrics)
    demand = rng.uniform(1, 1000, 80)
    per_task = rng.random((80, resources)) ** 2 * 0.6
    per_task[rng.random((80, resources)) < 0.1] = np.inf
    per_task[1::7] = per_task[0]
    result = fluid(**world, budget=per_task * demand[:, None], demand=demand)
    oracle = [one_program(world, row) for row in per_task]
    np.testing.assert_array_equal(result.feasible, [feasible for _, feasible in oracle])
    np.testing.assert_allclose(result.value / demand, [best for best, _ in oracle], atol=2e-7)
    if metrics and resources:
        assert 0 < result.feasible.sum() < 80
    assert (result.share >= 0).all()
    assert (result.share <= world["throughput"]).all()
    assert (result.share.sum(axis=1) <= 1 + 1e-12).all()
    assert (result.spend <= per_task * demand[:, None] * (1 + 1e-9) + 1e-9).all()


def test_a_run_does_not_depend_on_its_neighbours(routerbench, monkeypatch):
    rng = np.random.default_rng(5)
    service = np.array([0.95, 0.55, 0.8, 0.93, 0.88, 0.9, 0.92, 0.55, 0.5, 0.7, 0.85])[:, None]
    cost = routerbench.cost_usd[:, None] / routerbench.cost_usd.max()
    budget, demand = rng.uniform(0.005, 0.3, (60, 1)) * 100, np.full(60, 100.0)
    arguments = (routerbench.quality, cost, service), ([0.8], np.full(11, 0.4))
    together = fluid(*arguments[0], budget, *arguments[1], demand)
    assert 0 < together.feasible.sum() < 60
    monkeypatch.setattr(benchmark, "BLOCK_ENTRIES", 1)
    alone = fluid(*arguments[0], budget, *arguments[1], demand)
    np.testing.assert_allclose(alone.value, together.value, rtol=1e-7)
    np.testing.assert_array_equal(alone.feasible, together.feasible)


def test_brute_force_over_a_grid():
    """Three models, every mix in steps of 1/60: the optimum is no less, and no more than the grid's own coarseness."""
    rng = np.random.default_rng(11)
    steps = 60
    grid = np.array([(i, j, k) for i in range(61) for j in range(61 - i) for k in range(61 - i - j)]) / steps
    seen = []
    for _ in range(12):
        world = random_world(rng, 3, 1, 1)
        per_task = rng.uniform(0.05, 0.5, 1)
        allowed = (grid @ world["consumption"] <= per_task).all(axis=1) & (grid <= world["throughput"]).all(axis=1)
        covered = allowed & (grid @ world["service"] >= world["target"]).all(axis=1)
        mix = per_task_value(budget_per_task=per_task, **world)
        if covered.any():
            best = (grid[covered] @ world["reward"]).max()
            assert mix.feasible
            assert best - 1e-9 <= mix.value <= best + 0.1
        if not mix.feasible:
            assert not covered.any()
            shortfall = (world["target"] - mix.share @ world["service"]).max()
            assert shortfall <= (world["target"] - grid[allowed] @ world["service"]).min() + 1e-9
        seen.append(mix.feasible)
    assert 0 < sum(seen) < 12


def test_scale_of_money_does_not_matter(routerbench):
    """USD or thousandths of a micro-dollar: the same mix."""
    cost, caps = routerbench.cost_usd[:, None], np.full(11, 0.4)
    values = [
        per_task_value(routerbench.quality, cost * unit, NO_SERVICE, [3e-4 * unit], [], caps).value
        for unit in (1, 1e9, 1e-6)
    ]
    assert values == pytest.approx([values[0]] * 3, rel=1e-7)


def test_a_call_that_fails_is_halved(monkeypatch):
    """A solver that refuses more than one run at a time costs speed, not answers."""
    real = benchmark.linprog

    def refuses_many(objective, **arguments):
        if len(objective) > 3:
            return type("Result", (), {"status": 4, "message": "numerical difficulties"})
        return real(objective, **arguments)

    monkeypatch.setattr(benchmark, "linprog", refuses_many)
    budget, demand = np.linspace(1, 9, 9)[:, None], np.full(9, 10.0)
    result = fluid([0.2, 0.8], [[0.0], [1.0]], np.zeros((2, 0)), budget, [], [1, 1], demand)
    np.testing.assert_allclose(result.value, 2 + 0.6 * np.linspace(1, 9, 9))
    monkeypatch.setattr(benchmark, "linprog", lambda *_, **__: type("Result", (), {"status": 4, "message": "no"}))
    with pytest.raises(RuntimeError, match="HiGHS failed on a benchmark at per-task budget"):
        fluid([0.2, 0.8], [[0.0], [1.0]], np.zeros((2, 0)), budget, [], [1, 1], demand)


def test_ten_thousand_runs_in_seconds(routerbench):
    """Generous for a loaded machine: measured about 40 us a run where budgets differ and 1 us where they repeat."""
    cost = routerbench.cost_usd[:, None] / routerbench.cost_usd.max()
    service = np.linspace(0.95, 0.5, 11)[:, None]
    demand = np.random.default_rng(0).uniform(500, 1500, 10_000)
    start = time.perf_counter()
    result = fluid(routerbench.quality, cost, service, np.full((10_000, 1), 100.0), [0.7], np.full(11, 0.4), demand)
    elapsed = time.perf_counter() - start
    assert result.feasible.all()
    assert np.isfinite(result.value).all()
    assert elapsed < 8
    # More demand on the same budget never earns less.
    assert (np.diff(result.value[np.argsort(demand)]) >= -1e-6).all()


@pytest.mark.parametrize(
    "change",
    [
        {"reward": [0.5]},
        {"target": [0.5, 0.5]},
        {"budget": [[1.0]]},
        {"demand": [1.0]},
        {"demand": [1.0, np.nan]},
        {"budget": [[1.0], [-1.0]]},
        {"budget": [[1.0], [np.nan]]},
        {"consumption": [[0.1], [np.nan]]},
        {"throughput": [1.0, -0.1]},
    ],
)
def test_arguments_that_disagree_are_refused(change):
    good = {
        "reward": [0.5, 0.6], "consumption": [[0.1], [0.2]], "service": [[1.0], [0.5]], "budget": [[1.0], [2.0]],
        "target": [0.5], "throughput": [1.0, 1.0], "demand": [10.0, 20.0],
    }  # fmt: skip
    fluid(**good)
    with pytest.raises(ValueError, match=r"must be|disagree"):
        fluid(**(good | change))


def test_examples():
    assert doctest.testmod(benchmark).failed == 0
