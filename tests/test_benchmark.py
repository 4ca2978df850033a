"""The benchmarks against published numbers, hand-solved cases, single programs and brute force."""

import doctest
import time
from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import linprog

from envs.catalogue import find
from experiments.results import benchmark
from experiments.results.benchmark import best_deployment, fluid, fluid_epochs, per_task_value

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


@pytest.mark.parametrize(
    ("size", "wanted", "best"),
    [
        (3, [0.6260, 0.6716], [
            {"Yi-34B-Chat", "gpt-3.5-turbo-1106", "claude-instant-v1"},
            {"gpt-4-1106-preview", "Yi-34B-Chat", "gpt-3.5-turbo-1106"},
        ]),
        (4, [0.6309, 0.6716], None),
    ],
)  # fmt: skip
def test_routerbench_staged_finds_the_best_deployments_itself(routerbench, size, wanted, best):
    """Every query is answered (a target of 1 on service 1), two runs at 3e-4 and 1e-3 USD a query."""
    result = best_deployment(
        routerbench.quality, routerbench.cost_usd[:, None], np.ones((11, 1)), [[0.6], [2.0]], [1.0], np.full(11, 0.4),
        np.ones((1, 11), dtype=bool), [[2000.0], [2000.0]], size,
    )  # fmt: skip
    assert result.feasible.all()
    assert result.value[:, 0] == pytest.approx(wanted, abs=0.51e-4)
    assert result.total == pytest.approx(2000 * np.array(wanted), abs=0.11)
    supports = [{routerbench.names[i].split("/")[-1] for i in np.flatnonzero(share)} for share in result.share[:, 0]]
    assert all(len(support) <= size for support in supports)
    if best:
        assert supports == best


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
    """(value, shortfall) of one run: the program as written, and where it has no solution the two steps in words."""
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
        return -plain.fun, 0.0
    slack = np.concatenate([np.zeros(len(limits)), -np.ones(len(target))])[:, None]
    wide, limit = np.concatenate([rows, slack], axis=1), np.concatenate([limits, -target])
    least = linprog(np.append(0 * reward, 1), A_ub=wide, b_ub=limit, bounds=[*bounds, (0, None)])
    best = linprog(np.append(-reward, 0), A_ub=wide, b_ub=limit, bounds=[*bounds, (0, least.fun + 1e-9)])
    return -best.fun, least.fun


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
    np.testing.assert_array_equal(result.feasible, [shortfall == 0 for _, shortfall in oracle])
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


# A changing inventory


def changing(**change):
    """Two free models, the second twice as good and there from the second epoch on; 10 tasks before, 30 after."""
    return {
        "reward": [0.4, 0.8], "consumption": np.zeros((2, 0)), "service": np.zeros((2, 0)), "budget": np.zeros((1, 0)),
        "target": [], "throughput": [1.0, 1.0], "available": [[True, False], [True, True]], "demand": [[10.0, 30.0]],
    } | change  # fmt: skip


def both(**change):
    arguments = changing(**change)
    return fluid_epochs(**arguments), best_deployment(**arguments, max_deployed=None)


def test_a_newcomer_serves_from_its_first_round():
    for result in both():
        np.testing.assert_allclose(result.value, [[0.4, 0.8]])
        np.testing.assert_allclose(result.share, [[[1, 0], [0, 1]]], atol=1e-12)
        np.testing.assert_allclose(result.total, [28.0])
        assert result.feasible.all()


def test_a_retired_model_serves_no_more():
    """The better model goes; throughput 0.7 leaves the rest to the other while it is there."""
    for result in both(available=[[True, True], [True, False]], throughput=[0.5, 0.7]):
        np.testing.assert_allclose(result.value, [[0.7 * 0.8 + 0.3 * 0.4, 0.5 * 0.4]])
        np.testing.assert_allclose(result.share, [[[0.3, 0.7], [0.5, 0.0]]], atol=1e-9)


def test_only_the_fluid_benchmark_saves_for_a_newcomer():
    """Both models cost 1, 20 units for 40 tasks: spread, each task gets half; saved, 20 go to the newcomer."""
    fluid_result, staged_result = both(consumption=[[1.0], [1.0]], budget=[[20.0]])
    np.testing.assert_allclose(staged_result.value, [[0.2, 0.4]])
    np.testing.assert_allclose(staged_result.total, [14.0])
    np.testing.assert_allclose(fluid_result.value, [[0.0, 0.8 * 2 / 3]], atol=1e-9)
    np.testing.assert_allclose(fluid_result.total, [16.0])


def test_a_cap_on_deployments_that_binds():
    """Throughput 0.4, 0.4 and 0.5 on rewards 0.9, 0.8 and 0.5: one slot 0.36, two 0.68, three 0.68 + 0.2 * 0.5."""
    world = changing(
        reward=[0.9, 0.8, 0.5], consumption=np.zeros((3, 0)), service=np.zeros((3, 0)), throughput=[0.4, 0.4, 0.5],
        available=np.ones((1, 3), dtype=bool), demand=[[10.0]],
    )  # fmt: skip
    totals = [best_deployment(**world, max_deployed=slots).total[0] for slots in (1, 2, 3, 9, None)]
    np.testing.assert_allclose(totals, [3.6, 6.8, 7.8, 7.8, 7.8])


def test_one_slot_takes_the_model_that_suits_the_budget():
    """At 0.5 a task the dear model earns 0.45 alone and 0.6 with the free one, which alone earns 0.3."""
    world = changing(
        reward=[0.3, 0.9], consumption=[[0.0], [1.0]], budget=[[5.0], [np.inf]], demand=[[10.0], [10.0]],
        available=[[True, True]],
    )  # fmt: skip
    one, two = (best_deployment(**world, max_deployed=slots) for slots in (1, 2))
    np.testing.assert_allclose(one.value[:, 0], [0.45, 0.9])
    np.testing.assert_allclose(two.value[:, 0], [0.6, 0.9])


def test_a_target_that_one_epoch_cannot_meet():
    """Service 0.2 and 1, target 0.5. Over the whole run the second epoch makes up for the first; alone it cannot."""
    world = {"reward": [0.9, 0.1], "service": [[0.2], [1.0]], "target": [0.5], "demand": [[10.0, 10.0]]}
    fluid_result, staged_result = both(**world)
    assert staged_result.feasible.tolist() == [[False, True]]
    np.testing.assert_allclose(staged_result.value, [[0.9, 0.9 * 0.625 + 0.1 * 0.375]])
    assert fluid_result.feasible.tolist() == [[True, True]]
    np.testing.assert_allclose(fluid_result.value, [[0.9, 0.9 * 0.25 + 0.1 * 0.75]])
    np.testing.assert_allclose(fluid_result.total, [12.0])
    never, _ = both(**world | {"target": [0.7]})
    assert never.feasible.tolist() == [[False, False]]
    np.testing.assert_allclose(never.share, [[[1, 0], [0, 1]]], atol=1e-7)


def test_two_targets_and_one_slot_share_no_shortfall():
    """Targets 0.8 and 0.6, each served by its own model: alone, the first misses the second by 0.6, less than 0.8."""
    world = changing(reward=[0.1, 0.9], service=np.eye(2), target=[0.8, 0.6], available=[[True, True]], demand=[[1.0]])
    one = best_deployment(**world, max_deployed=1)
    assert not one.feasible[0, 0]
    np.testing.assert_allclose(one.share[0, 0], [1, 0], atol=1e-7)
    two = best_deployment(**world, max_deployed=2)
    np.testing.assert_allclose(two.share[0, 0], [0.6, 0.4], atol=1e-7)


def test_epochs_without_models_without_demand_and_runs_without_tasks():
    inventory, demand = [[False, False], [True, False], [True, True]], [[5.0, 10.0, 0.0], [0.0, 0.0, 0.0]]
    service = {"budget": np.zeros((2, 0)), "service": [[0.9], [0.9]], "available": inventory, "demand": demand}
    fluid_result, staged_result = both(**service, target=[0.5])
    np.testing.assert_allclose(staged_result.value, [[0.0, 0.4, 0.8], [0.0, 0.0, 0.0]])
    assert staged_result.feasible.tolist() == [[False, True, True], [True, True, True]]
    assert (staged_result.share[0, 0] == 0).all()
    assert (staged_result.share[1] == 0).all()
    np.testing.assert_allclose(staged_result.total, [4.0, 0.0])
    # 0.9 for ten tasks of fifteen is 0.6 of all; the last epoch has no task and gets no share.
    assert fluid_result.feasible.all()
    np.testing.assert_allclose(fluid_result.value, [[0.0, 0.4, 0.0], [0.0, 0.0, 0.0]])
    for result in both(**service, target=[0.0]):
        assert result.feasible.all()


def test_no_run():
    for result in both(budget=np.zeros((0, 0)), demand=np.zeros((0, 2))):
        assert result.value.shape == (0, 2)
        assert result.share.shape == (0, 2, 2)


def random_epochs(seed, models, resources, metrics, runs, epochs):
    """A random world; budgets and targets such that some runs are feasible and some are not."""
    rng = np.random.default_rng(seed)
    available = rng.random((epochs, models)) < 0.8
    demand = rng.uniform(1, 100, (runs, epochs))
    per_task = rng.random((runs, resources)) ** 2 * 0.6
    per_task[rng.random((runs, resources)) < 0.1] = np.inf
    budget = per_task * demand.sum(axis=1, keepdims=True)
    return random_world(rng, models, resources, metrics), {"available": available, "demand": demand, "budget": budget}


def brute_force(world, per_task, available, slots):
    """(value, shortfall) of the best support by trying them all."""
    models = np.flatnonzero(available)
    tried = [
        one_program(world | {"throughput": np.where(np.isin(np.arange(len(available)), s), world["throughput"], 0.0)},
                    per_task)
        for s in combinations(models, min(slots, len(models)))
    ]  # fmt: skip
    least = min(shortfall for _, shortfall in tried)
    return max(value for value, shortfall in tried if shortfall <= least + 1e-9), least


@pytest.mark.parametrize(
    ("resources", "metrics", "slots"),
    [(1, 0, 1), (1, 0, 2), (1, 1, 2), (1, 1, 3), (2, 1, 2), (2, 2, 3), (0, 2, 2), (2, 2, 1), (3, 1, 4)],
)
def test_staged_equals_brute_force_over_all_supports(resources, metrics, slots):
    world, runs = random_epochs(resources + 10 * metrics + 100 * slots, 6, resources, metrics, 5, 3)
    result = best_deployment(**world, **runs, max_deployed=slots)
    per_task = runs["budget"] / runs["demand"].sum(axis=1, keepdims=True)
    oracle = np.array([[brute_force(world, b, here, slots) for here in runs["available"]] for b in per_task])
    np.testing.assert_array_equal(result.feasible, oracle[:, :, 1] == 0)
    np.testing.assert_allclose(result.value, oracle[:, :, 0], atol=2e-7)
    shortfall = (world["target"] - result.share @ world["service"]).max(axis=2, initial=0)
    np.testing.assert_allclose(shortfall, oracle[:, :, 1], atol=2e-9)
    assert (np.count_nonzero(result.share, axis=2) <= slots).all()
    assert (result.share[:, ~runs["available"]] == 0).all()
    assert (result.share <= world["throughput"]).all()
    assert (result.share @ world["consumption"] <= per_task[:, None] * (1 + 1e-9) + 1e-9).all()


def whole_run(world, budget, available, demand):
    """(total value, shortfall a task) of one run: the program of ``fluid_epochs`` written out, one block an epoch."""
    reward = (demand[:, None] * world["reward"]).ravel()
    flows = [np.concatenate([q * matrix for q in demand]).T for matrix in (world["consumption"], world["service"])]
    sums = np.repeat(np.eye(len(demand)), len(world["reward"]), axis=1)
    short = np.concatenate([np.zeros(len(budget) + len(sums)), np.full(len(flows[1]), -demand.sum())])[:, None]
    rows = np.concatenate([np.concatenate([flows[0], sums, -flows[1]]), short], axis=1)
    limit = np.concatenate([budget, np.ones(len(sums)), -demand.sum() * world["target"]])
    rows, limit = rows[np.isfinite(limit)], limit[np.isfinite(limit)]
    upper = (available * world["throughput"]).ravel()
    bounds = [(0, cap) for cap in upper]
    least = linprog(np.append(0 * reward, 1), A_ub=rows, b_ub=limit, bounds=[*bounds, (0, None)]).fun
    slack = (0, least + 1e-9 if least > 1e-9 else 0)
    return -linprog(np.append(-reward, 0), A_ub=rows, b_ub=limit, bounds=[*bounds, slack]).fun, least


@pytest.mark.parametrize(("resources", "metrics", "seed"), [(1, 0, 0), (1, 1, 1), (2, 2, 2), (0, 2, 3)])
def test_fluid_epochs_equals_the_program_as_written(resources, metrics, seed):
    world, runs = random_epochs(seed, 5, resources, metrics, 20, 4)
    runs["available"][3] = runs["available"][1]
    result = fluid_epochs(**world, **runs)
    budgets = runs["budget"]
    oracle = [whole_run(world, b, runs["available"], q) for b, q in zip(budgets, runs["demand"], strict=True)]
    np.testing.assert_allclose(result.total, [best for best, _ in oracle], rtol=1e-6)
    np.testing.assert_array_equal(result.feasible, [[least <= 1e-9] * 4 for _, least in oracle])
    assert (result.share[:, ~runs["available"]] == 0).all()
    assert (result.share <= world["throughput"]).all()
    assert (result.share.sum(axis=2) <= 1 + 1e-12).all()
    spend = np.einsum("rg,rgm,mp->rp", runs["demand"], result.share, world["consumption"])
    assert (spend <= budgets * (1 + 1e-9) + 1e-7).all()
    np.testing.assert_array_equal(result.share[:, 1], result.share[:, 3])


@pytest.mark.parametrize(("resources", "metrics", "seed"), [(1, 1, 0), (2, 2, 1)])
def test_one_inventory_is_the_fluid_benchmark(resources, metrics, seed):
    """In one epoch, or in several of the same models whatever their demand."""
    world, runs = random_epochs(seed, 6, resources, metrics, 30, 3)
    runs["available"][:] = True
    wanted = fluid(**world, budget=runs["budget"], demand=runs["demand"].sum(axis=1))
    for result in (fluid_epochs(**world, **runs), best_deployment(**world, **runs, max_deployed=None)):
        np.testing.assert_allclose(result.total, wanted.value, rtol=1e-8)
        np.testing.assert_allclose(result.value, (wanted.share @ world["reward"])[:, None].repeat(3, axis=1), rtol=1e-8)
        np.testing.assert_array_equal(result.feasible, wanted.feasible[:, None].repeat(3, axis=1))
    runs |= {"available": runs["available"][:1], "demand": runs["demand"].sum(axis=1, keepdims=True)}
    for result in (fluid_epochs(**world, **runs), best_deployment(**world, **runs, max_deployed=6)):
        np.testing.assert_allclose(result.total, wanted.value, rtol=1e-8)


def test_more_slots_never_hurt():
    """Less shortfall, or as little and no less reward; from some number on nothing changes."""
    world, runs = random_epochs(21, 8, 2, 2, 12, 4)
    results = [best_deployment(**world, **runs, max_deployed=slots) for slots in (1, 2, 3, 4, 8, None)]
    short = [(world["target"] - result.share @ world["service"]).max(axis=2, initial=0) for result in results]
    for i in range(len(results) - 1):
        assert (short[i + 1] <= short[i] + 2e-9).all()
        assert not (results[i].feasible & ~results[i + 1].feasible).any()
        equal = np.abs(short[i + 1] - short[i]) <= 2e-9
        assert (results[i + 1].value >= results[i].value - 1e-7)[equal].all()
    assert 0 < results[1].feasible.sum() < results[-1].feasible.sum()
    np.testing.assert_allclose(results[-2].value, results[-1].value, atol=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_planning_the_whole_run_earns_no_less_than_the_best_stages(seed):
    world, runs = random_epochs(seed, 7, 1 + seed % 2, seed % 3, 20, 5)
    whole, stages = fluid_epochs(**world, **runs), best_deployment(**world, **runs, max_deployed=3)
    feasible = stages.feasible.all(axis=1)
    assert feasible.any()
    assert whole.feasible[feasible].all()
    assert (whole.total >= stages.total * (1 - 1e-9))[feasible].all()


def test_equal_programs_are_solved_once(monkeypatch):
    """Runs of one unlimited budget and epochs of one inventory: as many programs as there are inventories."""
    seen = []
    real = benchmark._solve_block

    def counted(world, programs, *rest):
        seen.append(len(programs.budget))
        return real(world, programs, *rest)

    monkeypatch.setattr(benchmark, "_solve_block", counted)
    inventory = [[True, False], [True, True], [True, False]]
    arguments = {"consumption": [[0.5], [1.0]], "available": inventory, "demand": np.ones((50, 3))}
    budget = np.geomspace(3, 300, 50)[:, None]
    both(**arguments, budget=np.full((50, 1), np.inf))
    assert seen == [1, 2]
    both(**arguments, budget=budget)
    assert seen == [1, 2, 1, 2]


def test_sixty_four_runs_of_twelve_epochs_in_seconds(routerbench):
    """Generous for a loaded machine: measured 0.4 s at most, over caps from 2 to 5 and throughput 0.25 to 1."""
    rng = np.random.default_rng(0)
    demand = rng.uniform(100, 1000, (64, 12))
    arrival = rng.permutation(11)
    available = arrival < 3 + np.arange(12)[:, None]
    available[8:, arrival == 0] = False
    budget = rng.uniform(1e-4, 2e-3, (64, 1)) * demand.sum(axis=1, keepdims=True)
    service = np.array([0.95, 0.55, 0.8, 0.93, 0.88, 0.9, 0.92, 0.55, 0.5, 0.7, 0.85])[:, None]
    world = (routerbench.quality, routerbench.cost_usd[:, None], service, budget, [0.8], np.full(11, 0.4), available)
    start = time.perf_counter()
    result = best_deployment(*world, demand, 3)
    elapsed = time.perf_counter() - start
    assert 0 < result.feasible.sum() < result.feasible.size
    assert elapsed < 8
    assert (np.diff(result.value[:, :8], axis=1) >= -1e-7)[result.feasible[:, :7]].all()


@pytest.mark.parametrize(
    "change",
    [
        {"reward": [0.5]},
        {"demand": [10.0, 30.0]},
        {"demand": [[10.0, 30.0, 5.0]]},
        {"demand": [[10.0, np.inf]]},
        {"demand": [[10.0, -1.0]]},
        {"budget": [[1.0]]},
        {"budget": np.zeros((2, 0))},
        {"available": [True, True]},
        {"available": [[True], [True]]},
        {"available": [[1.0, 0.5], [1.0, 1.0]]},
        {"available": np.zeros((0, 2), dtype=bool), "demand": np.zeros((1, 0))},
    ],
)
def test_epochs_that_disagree_are_refused(change):
    arguments = changing(**change)
    with pytest.raises(ValueError, match=r"must be|disagree"):
        fluid_epochs(**arguments)
    with pytest.raises(ValueError, match=r"must be|disagree"):
        best_deployment(**arguments, max_deployed=2)


def test_no_slot_is_refused():
    with pytest.raises(ValueError, match="max_deployed must be None or at least 1, not 0"):
        best_deployment(**changing(), max_deployed=0)


def test_examples():
    assert doctest.testmod(benchmark).failed == 0


def test_benchmarks_without_the_null_action_and_without_constraints() -> None:
    generator = np.random.default_rng(5)
    models, runs = 4, 6
    reward, cost = generator.uniform(size=models), generator.uniform(0.1, 1.0, (models, 1))
    met, caps, demand = generator.uniform(size=(models, 1)), np.array([1.0, 0.5, 0.5, 1.0]), np.full(runs, 50.0)
    budget = np.linspace(0.05, 1.0, runs)[:, None] * 50.0
    target = [0.9 * met.mean()]
    value = benchmark.serving_all(reward, cost, met, budget, target, caps, demand)
    grid = np.stack(np.meshgrid(*[np.linspace(0, cap, 41) for cap in caps[:-1]], indexing="ij"), -1).reshape(-1, 3)
    last = 1.0 - grid.sum(axis=1)
    mixes = np.concatenate([grid, last[:, None]], axis=1)[(last >= 0) & (last <= 1)]
    mixes = mixes[mixes @ met[:, 0] >= target[0]]
    for total, found in zip(budget[:, 0], value, strict=True):
        allowed = mixes[50.0 * mixes @ cost[:, 0] <= total]
        if len(allowed):
            assert 50.0 * (allowed @ reward).max() <= found + 1e-9
            assert found <= 50.0 * (allowed @ reward).max() + 50.0 * 3 / 40
    assert np.isnan(value[0])
    assert not np.isnan(value[-1])
    best = benchmark.unconstrained(reward, caps, demand)
    assert (np.nan_to_num(value) <= best + 1e-9).all()
    expected = linprog(-reward, A_ub=np.ones((1, models)), b_ub=[1.0], bounds=[(0, cap) for cap in caps]).fun
    np.testing.assert_allclose(best, -50.0 * expected)
