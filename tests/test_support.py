"""``best_support`` against HiGHS (``scipy.optimize.milp``), enumeration of supports, and the literature's numbers.

Most tests share one compiled program: 20 models (fewer are padded), two resources, one service, a batch of 300.
"""

import itertools
from functools import cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from bandits.solvers.support import Status, Support, best_support
from envs import catalogue
from experiments.results import benchmark

BATCH, MODELS = 300, 20
KINDS = ("one", "0.4", "0.25", "just enough", "mixed")


class Instance(NamedTuple):
    reward: np.ndarray  # [M]
    cost: np.ndarray  # [M, P]
    budget: np.ndarray  # [P]
    caps: np.ndarray  # [M]
    service: np.ndarray  # [M, C]
    target: np.ndarray  # [C]
    slots: int


def random_instance(rng, num_models, resources, services, slots, kind):
    """Independent, frontier-like, strongly correlated or tied data, at a tight or a loose budget."""
    style = rng.integers(4)
    if style == 0:
        reward, cost = rng.random(num_models), rng.random((num_models, resources))
    elif style == 1:
        reward = rng.random(num_models)
        cost = reward[:, None] ** rng.uniform(0.5, 3) * np.exp(rng.normal(0, 0.2, (num_models, resources)))
    elif style == 2:
        reward = rng.uniform(0.2, 1, num_models)
        cost = reward[:, None] + 0.02 * rng.random((num_models, resources))
    else:
        reward = rng.integers(2, 5, num_models) / 4
        cost = rng.integers(0, 4, (num_models, resources)) / 4
    caps = {
        "one": np.ones(num_models),
        "0.4": np.full(num_models, 0.4),
        "0.25": np.full(num_models, 0.25),
        "just enough": np.full(num_models, 1 / slots),
        "mixed": rng.uniform(0.15, 1, num_models),
    }[kind]
    cost = cost / max(cost.max(), 1e-3)
    service = rng.random((num_models, services))
    budget = np.quantile(cost, rng.uniform(0.05, 0.8), axis=0) * rng.choice([1.0, 1.0, 0.9])
    target = np.quantile(service, rng.uniform(0.1, 0.7), axis=0)
    return Instance(reward, cost, budget, caps, service, target, slots)


@cache
def instances():
    rng = np.random.default_rng(20260211)
    made = []
    for i in range(BATCH):
        num_models, slots = int(rng.integers(3, 9) if i % 4 == 0 else rng.integers(9, 21)), int(rng.integers(1, 7))
        made.append(random_instance(rng, num_models, 1 + i % 2, (i // 2) % 2, slots, KINDS[i % len(KINDS)]))
    return made


def padded(given, num_models=MODELS, resources=2, services=1):
    """The same program with unavailable models, full of tempting numbers, and rows that never bind."""
    more, rows, targets = (
        num_models - len(given.reward),
        resources - given.cost.shape[1],
        services - len(given.target),
    )
    return (
        np.pad(given.reward, (0, more), constant_values=9.0),
        np.pad(np.pad(given.cost, ((0, 0), (0, rows))), ((0, more), (0, 0)), constant_values=-9.0),
        np.pad(given.budget, (0, rows), constant_values=1.0),
        np.pad(given.caps, (0, more), constant_values=1.0),
        np.arange(num_models) < len(given.reward),
        given.slots,
        np.pad(np.pad(given.service, ((0, 0), (0, targets))), ((0, more), (0, 0)), constant_values=9.0),
        np.pad(given.target, (0, targets)),
        1000,
    )


@jax.jit
@jax.vmap
def solve_batch(reward, cost, budget, caps, available, slots, service, target, max_nodes):
    return best_support(
        reward, cost, budget, caps, available, slots, service=service, target=target, max_nodes=max_nodes
    )


def solve_padded(arguments, precision=np.float64):
    """Support of NumPy arrays for up to BATCH tuples of arguments."""
    filled = [*arguments, *[arguments[0]] * (BATCH - len(arguments))]
    stacked = [np.stack(values) for values in zip(*filled, strict=True)]
    with jax.enable_x64(precision == np.float64):
        types = {"f": precision, "i": jnp.int32, "b": bool}
        cast = [jnp.asarray(array, types[array.dtype.kind]) for array in stacked]
        result = jax.tree.map(np.asarray, solve_batch(*cast))
    return jax.tree.map(lambda a: a[: len(arguments)], result)


@cache
def solved(precision=np.float64):
    return solve_padded([padded(given) for given in instances()], precision)


def row(support, i):
    return jax.tree.map(lambda a: a[i], support)


def program(given, goal):
    """(objective, rows, upper, num_models) of the MILP over d, z and one elastic variable a service and a budget."""
    num_models, resources, services = len(given.reward), given.cost.shape[1], len(given.target)
    unit = np.where(given.cost.max(0) > 0, given.cost.max(0), 1.0)
    blank = np.zeros
    spend = np.c_[given.cost.T, blank((resources, num_models + services)), -unit[:, None]]
    serve = np.c_[given.service.T, blank((services, num_models)), np.eye(services), blank((services, 1))]
    link = np.c_[np.eye(num_models), -np.diag(given.caps), blank((num_models, services + 1))]
    total = np.r_[np.ones(num_models), blank(num_models + services + 1)][None]
    count = np.r_[blank(num_models), np.ones(num_models), blank(services + 1)][None]
    mass = min(1.0, np.sort(given.caps)[::-1][: given.slots].sum())
    rows = [
        LinearConstraint(spend, -np.inf, given.budget),
        LinearConstraint(serve, given.target, np.inf),
        LinearConstraint(link, -np.inf, 0),
        LinearConstraint(total, mass, mass),
        LinearConstraint(count, 0, given.slots),
    ]
    elastic = {"reward": (0, 0), "shortfall": (1, 0), "excess": (1, np.inf)}[goal]
    upper = np.r_[given.caps, np.ones(num_models), np.full(services, elastic[0]), elastic[1]]
    objective = {
        "reward": np.r_[-given.reward, blank(num_models + services + 1)],
        "shortfall": np.r_[blank(2 * num_models), np.ones(services), 0],
        "excess": np.r_[blank(2 * num_models + services), 1],
    }[goal]
    return objective, [r for r in rows if r.A.shape[0]], upper, num_models


def highs(given, goal="reward"):
    """The optimum of a goal, None where it is infeasible."""
    objective, rows, upper, num_models = program(given, goal)
    integral = np.r_[np.zeros(num_models), np.ones(num_models), np.zeros(len(upper) - 2 * num_models)]
    found = milp(
        objective, integrality=integral, bounds=Bounds(0, upper), constraints=rows, options={"mip_rel_gap": 0.0}
    )
    assert found.status in (0, 2), found.message
    return abs(found.fun) if found.status == 0 else None


def enumerated(given):
    """The best value over all supports, None where none is feasible. Written apart from ``program``."""
    best, num_models = None, len(given.reward)
    for chosen in itertools.combinations(range(num_models), min(given.slots, num_models)):
        chosen = list(chosen)
        found = linprog(
            -given.reward[chosen],
            np.r_[given.cost[chosen].T, -given.service[chosen].T],
            np.r_[given.budget, -given.target],
            np.ones((1, len(chosen))),
            [1.0],
            [(0, cap) for cap in given.caps[chosen]],
        )
        if found.status == 0 and (best is None or -found.fun > best):
            best = -found.fun
    return best


def violation(given, shares):
    """(worst relative excess, sum of shortfalls) of shares [M]."""
    unit = np.where(given.cost.max(0) > 0, given.cost.max(0), 1.0)
    excess = np.maximum((shares @ given.cost - given.budget) / unit, 0).max(initial=0)
    return excess, np.maximum(given.target - shares @ given.service, 0).sum()


def assert_consistent(given, found: Support, tolerance):
    """What every answer satisfies, feasible or not."""
    num_models = len(given.reward)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    assert not found.deployed[num_models:].any()
    np.testing.assert_array_equal(found.deployed, found.shares > 0)
    assert found.deployed.sum() <= given.slots
    shares = found.shares[:num_models]
    assert np.all(shares <= given.caps + tolerance)
    mass = min(1.0, np.sort(given.caps)[::-1][: given.slots].sum())
    assert shares.sum() == pytest.approx(mass, abs=tolerance)
    assert found.value == pytest.approx(shares @ given.reward, abs=tolerance)
    if found.status == Status.OPTIMAL:
        assert max(violation(given, shares)) <= tolerance


# float32: an LP whose rows are nearly parallel is solved to a few 1e-5 only.
@pytest.mark.parametrize(
    ("precision", "tolerance"), [(np.float64, 1e-7), pytest.param(np.float32, 3e-4, marks=pytest.mark.slow)]
)
def test_agrees_with_highs(precision, tolerance):
    support = solved(precision)
    infeasible = 0
    for i, given in enumerate(instances()):
        found, expected = row(support, i), optimum(i)
        assert_consistent(given, found, tolerance)
        assert found.gap == 0, i
        if expected is None:
            infeasible += 1
            assert found.status == Status.INFEASIBLE, i
        else:
            assert found.status == Status.OPTIMAL, i
            assert found.value == pytest.approx(expected, abs=tolerance), i
    assert 30 < infeasible < 180  # both kinds are tested


@cache
def optimum(i):
    given = instances()[i]
    mass = np.sort(given.caps)[::-1][: given.slots].sum()
    return highs(given) if mass >= 1 - 1e-12 else None


def test_infeasible_programs_are_violated_least():
    kinds = {"shortfall": 0, "excess": 0}
    for i, given in enumerate(instances()):
        if optimum(i) is not None or highs(given) is not None:  # feasible, or short of caps alone
            continue
        excess, shortfall = violation(given, row(solved(), i).shares[: len(given.reward)])
        expected = highs(given, "shortfall") if len(given.target) else None
        if expected is not None:
            kinds["shortfall"] += 1
            assert excess <= 1e-9
            assert shortfall == pytest.approx(expected, abs=1e-7), i
        else:
            kinds["excess"] += 1
            assert excess == pytest.approx(highs(given, "excess"), abs=1e-7), i
    assert min(kinds.values()) >= 5


def test_agrees_with_enumeration():
    small = [i for i, given in enumerate(instances()) if len(given.reward) <= 8][:60]
    for i in small:
        expected, found = enumerated(instances()[i]), row(solved(), i)
        if expected is None:
            assert found.status == Status.INFEASIBLE
        else:
            assert found.value == pytest.approx(expected, abs=1e-7)


def test_permuting_models_permutes_the_answer():
    rng = np.random.default_rng(5)
    orders = [rng.permutation(MODELS) for _ in instances()]
    permuted = []
    for given, order in zip(instances(), orders, strict=True):
        reward, cost, budget, caps, available, slots, service, target, nodes = padded(given)
        permuted.append(
            (reward[order], cost[order], budget, caps[order], available[order], slots, service[order], target, nodes)
        )
    found = solve_padded(permuted)
    same = 0
    for i, order in enumerate(orders):
        before, after = row(solved(), i), row(found, i)
        assert after.status == before.status
        if before.status == Status.OPTIMAL:
            assert after.value == pytest.approx(before.value, abs=1e-8)
            same += np.array_equal(after.deployed, before.deployed[order])
    assert same > 0.7 * np.sum(solved().status == Status.OPTIMAL)  # a quarter of the instances is full of ties


def routerbench(budget, slots, cap):
    models = catalogue.find("routerbench")
    count = models.num_models
    return models.names, Instance(
        models.quality, models.cost_usd[:, None], np.array([budget]), np.full(count, cap), np.zeros((count, 0)),
        np.zeros(0), slots,
    )  # fmt: skip


ROUTERBENCH = [  # budget in USD a query, max_deployed, cap, value, and a part of each name in the support
    (3e-4, 3, 0.4, 0.6260, {"Yi", "gpt-3.5", "claude-instant"}),
    (1e-3, 3, 0.4, 0.6716, {"gpt-4", "Yi", "gpt-3.5"}),
    (3e-4, 4, 0.4, 0.6309, None),
    (1e-3, 4, 0.4, 0.6716, {"gpt-4", "Yi", "gpt-3.5"}),
    (3e-4, 3, 1.0, 0.6519, {"gpt-4", "Yi"}),
    (1e-3, 2, 1.0, 0.6821, {"gpt-4", "Yi"}),
    (1e-4, 2, 1.0, 0.4826, {"Wizard", "Yi"}),
    (5e-3, 1, 1.0, 0.7810, {"gpt-4"}),
    (1e-3, 11, 0.25, 0.6615, None),
    (2e-3, 11, 0.4, 0.6984, None),
]


@pytest.mark.parametrize("precision", [np.float64, pytest.param(np.float32, marks=pytest.mark.slow)])
def test_routerbench_numbers(precision):
    """literature.md, c.5: values of the best deployments of the 11 RouterBench models."""
    cases = [routerbench(*case[:3]) for case in ROUTERBENCH]
    support = solve_padded([padded(given) for _, given in cases], precision)
    for i, (_, _, _, value, words) in enumerate(ROUTERBENCH):
        found, (names, _) = row(support, i), cases[i]
        assert (found.status, found.gap) == (Status.OPTIMAL, 0)
        assert found.value == pytest.approx(value, abs=6e-5)
        chosen = [name.lower() for name, live in zip(names, found.deployed, strict=False) if live]
        if words is not None:
            assert len(chosen) == len(words)
            assert all(any(word.lower() in name for name in chosen) for word in words), chosen


def no_service(num_models):
    return np.zeros((num_models, 0)), np.zeros(0)


def test_ties_go_to_the_lowest_number():
    given = Instance(np.full(9, 0.5), np.full((9, 1), 0.1), np.array([0.2]), np.full(9, 0.4), *no_service(9), 4)
    best_last = given._replace(reward=np.r_[np.full(8, 0.5), 0.9])
    nothing_known = given._replace(reward=np.ones(9), cost=np.zeros((9, 1)), caps=np.ones(9), slots=2)
    support = solve_padded([padded(each) for each in (given, best_last, nothing_known)])
    for i, expected in enumerate([{0, 1, 2}, {0, 1, 8}, {0}]):
        assert set(np.flatnonzero(row(support, i).deployed)) == expected


def test_degenerate_programs_stay_finite():
    cost = np.array([[1.0], [0.4], [0.1]])
    base = Instance(np.array([0.9, 0.5, 0.3]), cost, np.array([0.5]), np.ones(3), *no_service(3), 2)
    cases = {
        "unlimited": base._replace(budget=np.array([np.inf])),
        "overspent": base._replace(budget=np.array([-1.0])),
        "unreachable": base._replace(service=np.array([[0.2], [0.4], [0.6]]), target=np.array([0.8])),
        "no caps": base._replace(caps=np.zeros(3)),
        "no slots": base._replace(slots=0),
        "short of caps": base._replace(caps=np.full(3, 0.3), budget=np.array([0.9])),
        "free": base._replace(cost=np.zeros((3, 1)), budget=np.zeros(1)),
    }
    arguments = [padded(given) for given in cases.values()]
    nobody = padded(base)
    arguments.append((*nobody[:4], np.zeros(MODELS, bool), *nobody[5:]))
    support = solve_padded(arguments)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(support))
    found = {name: row(support, i) for i, name in enumerate([*cases, "nobody"])}
    assert {name for name in found if found[name].status == Status.OPTIMAL} == {"unlimited", "free"}
    assert found["unlimited"].value == found["free"].value == 0.9
    assert list(np.flatnonzero(found["overspent"].deployed)) == [2]  # the cheapest
    np.testing.assert_allclose(found["unreachable"].shares[:3], [0, 0, 1])  # the best service
    np.testing.assert_allclose(found["short of caps"].shares[:3], [0.3, 0.3, 0])
    assert not any(found[name].deployed.any() for name in ("no caps", "no slots", "nobody"))


def test_few_nodes_leave_a_valid_gap():
    limit = 3
    support = solve_padded([(*padded(given)[:-1], limit) for given in instances()])
    for i, given in enumerate(instances()):
        found, expected = row(support, i), optimum(i)
        assert found.nodes <= 3 * (limit + 1)
        if expected is None:
            assert found.status != Status.OPTIMAL
            continue
        assert found.status != Status.INFEASIBLE and (found.status != Status.OPTIMAL or found.gap == 0), i
        assert expected <= found.value + found.gap + 1e-7, i
        if max(violation(given, found.shares[: len(given.reward)])) <= 1e-9:  # else the limit came before such a mix
            assert found.value - 1e-7 <= expected, i
    assert np.sum(support.gap > 0) > 30 and np.sum(support.status == Status.OPTIMAL) > 30


@pytest.mark.slow
def test_large_programs_have_a_valid_gap():
    """60 models, 5 deployed; half of them may look at 5 nodes only."""
    rng = np.random.default_rng(11)
    count = 40
    made = [random_instance(rng, 60, 1, 0, 5, KINDS[(i // 2) % len(KINDS)]) for i in range(count)]
    arguments = [padded(given, 60, 1, 0) for given in made]
    limits = jnp.where(jnp.arange(count) % 2 == 0, 5, 1000)
    stacked = [np.stack(values) for values in zip(*arguments, strict=True)][:-1]
    with jax.enable_x64(True):
        support = jax.tree.map(np.asarray, solve_batch(*map(jnp.asarray, stacked), limits))
    for i, given in enumerate(made):
        found, expected = row(support, i), highs(given)
        assert found.nodes <= 3 * (int(limits[i]) + 1)
        if expected is None:
            assert found.status != Status.OPTIMAL
            continue
        assert found.status == (Status.OPTIMAL if found.gap == 0 else Status.NODE_LIMIT)
        assert found.value - 1e-7 <= expected <= found.value + found.gap + 1e-7
        if limits[i] == 1000:
            assert found.gap <= 0.01 * found.value
    assert np.any(support.gap > 0)


@pytest.mark.slow
def test_one_program_serves_every_cap_and_single_padded_runs_equal_an_unpadded_batch():
    traces = []

    def one(reward, cost, budget, slots):
        traces.append(1)
        size = reward.shape[0]
        return best_support(reward, cost, budget, jnp.full(size, 0.5), jnp.arange(size) < 5, slots)

    rng = np.random.default_rng(3)
    reward, cost = jnp.asarray(rng.random((10, 6)), jnp.float32), jnp.asarray(rng.random((10, 6)), jnp.float32)
    slots, budget = jnp.arange(10, dtype=jnp.int32) % 5 + 1, jnp.linspace(0.1, 0.8, 10, dtype=jnp.float32)
    single = jax.jit(one)
    runs = [single(reward[i], cost[i], budget[i], slots[i]) for i in range(10)]
    assert len(traces) == 1
    batch = jax.jit(jax.vmap(one))(reward[:, :5], cost[:, :5], budget, slots)
    assert len({int(run.status) for run in runs}) > 1
    for i, run in enumerate(runs):
        np.testing.assert_array_equal(run.deployed, np.append(batch.deployed[i], False))
        np.testing.assert_allclose(run.shares[:5], batch.shares[i], atol=1e-6)
        assert (run.status, run.nodes) == (batch.status[i], batch.nodes[i])


def test_shapes_are_checked():
    ones = jnp.ones(3)
    with pytest.raises(ValueError, match="batches go through"):
        best_support(ones, jnp.ones((3, 2)), jnp.ones(1), ones, ones > 0, jnp.int32(1))
    with pytest.raises(ValueError, match="expected"):
        best_support(ones, ones, jnp.ones(()), ones, ones > 0, jnp.int32(1), service=jnp.ones((3, 1)))


@pytest.mark.slow
def test_declining_is_allowed_where_it_pays():
    """Without serve_all the value is that of the `best_deployment` benchmark, found in another way."""
    given = [one for one in instances() if len(one.target) == 0][:40]
    filled = [np.stack(values) for values in zip(*map(padded, given), strict=True)]
    with jax.enable_x64(True):
        reward, cost, budget, caps, available, slots, service, target, _ = map(jnp.asarray, filled)
        solve = jax.jit(
            jax.vmap(lambda *a: best_support(*a[:6], service=a[6], target=a[7], serve_all=False, max_nodes=1000))
        )
        found = jax.tree.map(
            np.asarray, solve(reward, cost, budget, caps, available, slots.astype(jnp.int32), service, target)
        )
    declined = 0
    for i, one in enumerate(given):
        arguments = one.reward, one.cost, np.zeros((len(one.reward), 0)), one.budget[None], [], one.caps
        ideal = benchmark.best_deployment(
            *arguments, np.ones((1, len(one.reward)), bool), np.ones((1, 1)), int(one.slots)
        )
        assert found.status[i] == Status.OPTIMAL and found.gap[i] == 0
        assert found.value[i] == pytest.approx(ideal.value[0, 0], abs=1e-7), i
        assert (found.shares[i] > 0).sum() <= one.slots
        declined += found.shares[i].sum() < 1 - 1e-6
    assert declined > 3
