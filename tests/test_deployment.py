"""Deployment rules: each against its twin, and all against one table of duties.

The rules in whole runs are in ``test_staged``.
"""

import doctest
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from functools import cache
from itertools import combinations
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from bandits.deployment import DEPLOYMENT, DeploymentView, first
from bandits.routing import ROUTING
from tests import oracles, test_routing

SHIPPED = sorted(name for name, rule in DEPLOYMENT.items() if rule.__module__.startswith("bandits."))
SEARCHING = ("clairvoyant", "stageroute")  # they contain a branch and bound, which takes long to compile
VIEWS = test_routing.ROUNDS
MODELS, PADDED, RESOURCES, METRICS = 5, 6, 2, 1
FALSE_ALARM = 1e-4


# Rules applied to many views at once, through one program each.
@cache
def decider(name: str) -> tuple[Callable[[Any, DeploymentView], tuple[jax.Array, jax.Array]], list[int]]:
    """(a compiled function (rule, views) -> (deployed [N, M], gap [N]) of first decisions, the traces it took)."""
    traces: list[int] = []

    def one(rule: Any, view: DeploymentView) -> tuple[jax.Array, jax.Array]:
        view = replace(view, key=jax.random.key(view.key))
        deployed, state = rule.decide(rule.init(view.problem, view.truth), view)
        return deployed, rule.gap(state)

    @jax.jit
    def many(rule: Any, views: DeploymentView) -> tuple[jax.Array, jax.Array]:
        traces.append(1)
        return jax.vmap(one, (None, 0))(rule, views)

    return many, traces


def shown(name: str, views: DeploymentView) -> DeploymentView:
    return views if DEPLOYMENT[name].clairvoyant else replace(views, truth=None)


def numbers(rule: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), rule)


def decide(name: str, views: DeploymentView, rule: Any = None) -> np.ndarray:
    """[N, M] what a rule with its defaults deploys; only clairvoyant rules are shown the truth."""
    made = numbers(DEPLOYMENT[name]() if rule is None else rule)
    deployed, gap = decider(name)[0](made, shown(name, views))
    assert (np.asarray(gap) == 0).all()
    return np.asarray(deployed)


@cache
def random_views(
    models: int = MODELS,
    padded: int = PADDED,
    resources: int = RESOURCES,
    metrics: int = METRICS,
    *,
    ties: bool = True,
    seed: int = 0,
) -> DeploymentView:
    """[VIEWS] views with budgets from hopeless to ample, reachable and unreachable targets and any ``max_deployed``.

    In place of a key there is its seed.
    """
    made = test_routing.random_views(models, padded, resources, metrics, ties=ties, seed=seed)
    generator = np.random.default_rng([seed, models, padded])
    problem = replace(
        made.problem,
        max_deployed=generator.integers(1, models + 1, VIEWS).astype(np.int32),
        budget=(100 * generator.uniform(0.02, 1.0, (VIEWS, resources))).astype(np.float32),
        target=generator.uniform(0.0, 0.9, (VIEWS, metrics)).astype(np.float32),
        throughput=generator.uniform(0.25, 1.0, (VIEWS, padded)).astype(np.float32),
    )
    kept = {field.name: getattr(made, field.name) for field in fields(DeploymentView)}
    return DeploymentView(**{**kept, "problem": problem, "key": np.arange(VIEWS, dtype=np.uint32)})


def take(views: DeploymentView, number: int) -> DeploymentView:
    return jax.tree.map(lambda leaf: leaf[number], views)


def known(views: DeploymentView, number: int) -> dict[str, Any]:
    """What eq. 3 is about, of one view, in float64: r, c, g, b, target, caps, slots."""
    problem, limits = views.problem, views.bounds
    last = 1 + problem.budget.shape[1]
    return {
        "r": np.asarray(limits.upper[number, :, 0], float),
        "c": np.asarray(limits.lower[number, :, 1:last], float),
        "g": np.asarray(limits.upper[number, :, last:], float),
        "b": np.asarray(problem.budget[number], float) / float(problem.expected_demand[number]),
        "target": np.asarray(problem.target[number], float),
        "caps": np.where(views.observation.available[number], np.asarray(problem.throughput[number], float), 0.0),
        "slots": int(problem.max_deployed[number]),
    }


# The table: what every rule must do.
@pytest.mark.parametrize("name", SHIPPED)
def test_only_available_models_and_no_more_than_may_be(name: str) -> None:
    views = random_views()
    deployed = decide(name, views)
    available = np.asarray(views.observation.available)
    assert deployed.shape == (VIEWS, PADDED) and deployed.dtype == bool
    assert not (deployed & ~available).any()
    most = np.minimum(views.problem.max_deployed, available.sum(axis=1))
    if DEPLOYMENT[name].capped:
        assert (deployed.sum(axis=1) <= most).all()
    else:
        assert (deployed == available).all()
    if name not in ("clairvoyant", "everything"):  # the clairvoyant one has nothing to try out
        assert (deployed.sum(axis=1) == most).all()
    assert (deployed.any(axis=1) == available.any(axis=1)).all()


@pytest.mark.parametrize("name", [name for name in SHIPPED if name != "uniform"])
def test_permuting_the_models_permutes_the_deployment(name: str) -> None:
    views = random_views(ties=False)
    order = np.array([3, 5, 0, 4, 2, 1])
    before, after = decide(name, views), decide(name, test_routing.permuted(views, order))
    same = (after == before[:, order]).all(axis=1)
    if name in SEARCHING:  # of hopeless programs there may be several that are violated least
        same |= [not feasible(views, number, clairvoyant=name == "clairvoyant") for number in range(VIEWS)]
        assert not np.all([not feasible(views, n, clairvoyant=name == "clairvoyant") for n in range(VIEWS)])
    assert same.all(), np.flatnonzero(~same)


def solved(views: DeploymentView, number: int, *, clairvoyant: bool) -> tuple[float, np.ndarray] | None:
    found = known(views, number)
    if clairvoyant:
        truth = jax.tree.map(lambda leaf: np.asarray(leaf[number], float), views.truth)
        b = np.asarray(views.problem.budget[number], float) / truth.total_demand
        found |= {"r": truth.reward, "c": truth.consumption, "g": truth.service, "b": b}
    return oracles.best_deployment(**found, serve_all=not clairvoyant)


def feasible(views: DeploymentView, number: int, *, clairvoyant: bool) -> bool:
    return solved(views, number, clairvoyant=clairvoyant) is not None


def with_more_padding(views: DeploymentView, more: int) -> DeploymentView:
    """The same views with ``more`` models that do not exist."""
    models = views.problem.exists.shape[1]

    def grown(leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) or leaf.ndim < 2 or leaf.shape[1] != models:
            return leaf
        return np.pad(leaf, [(0, 0), (0, more)] + [(0, 0)] * (leaf.ndim - 2))

    made = jax.tree.map(grown, views)
    missing = np.arange(models + more) >= models
    problem = replace(
        made.problem,
        throughput=np.where(missing[None], np.float32(1), made.problem.throughput),
        consumption_bound=np.where(missing[None, :, None], np.float32(1), made.problem.consumption_bound),
    )
    upper = np.where(missing[None, :, None], np.float32(1), made.bounds.upper)
    return replace(made, problem=problem, bounds=replace(made.bounds, upper=upper))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name == "stageroute" else [])  # its programs are large
        for name in SHIPPED
        if name != "clairvoyant"  # the same search as stageroute's
    ],
)
@pytest.mark.parametrize("ties", [True, False])
def test_padding_changes_nothing(name: str, ties: bool) -> None:
    bare = random_views(MODELS, MODELS, ties=ties)
    plain, padded = decide(name, bare), decide(name, with_more_padding(bare, 1))
    assert not padded[:, MODELS:].any()
    np.testing.assert_array_equal(padded[:, :MODELS], plain)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_decision_does_not_depend_on_its_place_in_the_batch(name: str) -> None:
    views = random_views()
    moved = jax.tree.map(lambda leaf: leaf[::-1], views)
    np.testing.assert_array_equal(decide(name, moved)[::-1], decide(name, views))


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in SEARCHING])
def test_a_decision_is_the_same_without_jit_and_vmap(name: str) -> None:
    views = random_views()
    batched, rule = decide(name, views), numbers(DEPLOYMENT[name]())
    for number in range(0, VIEWS, 16):
        view = jax.tree.map(jnp.asarray, take(shown(name, views), number))
        view = replace(view, key=jax.random.key(number))
        alone, _ = rule.decide(rule.init(view.problem, view.truth), view)
        np.testing.assert_array_equal(alone, batched[number])


@pytest.mark.parametrize("name", [name for name in SHIPPED if name not in SEARCHING])
def test_one_model_and_no_constraints_work(name: str) -> None:
    views = random_views(1, 1, 0, 0)
    np.testing.assert_array_equal(decide(name, views), views.observation.available)


@pytest.mark.parametrize("name", SHIPPED)
def test_where_nothing_is_available_nothing_is_deployed(name: str) -> None:
    views = random_views()
    nobody = replace(views.observation, available=np.zeros((VIEWS, PADDED), bool))
    assert not decide(name, replace(views, observation=nobody)).any()


@pytest.mark.parametrize("name", SHIPPED)
def test_numbers_change_without_a_new_trace(name: str) -> None:
    decide(name, random_views())
    before = len(decider(name)[1])
    changed = jax.tree.map(lambda leaf: 1.5 * leaf + 0.01, DEPLOYMENT[name]())
    other = random_views(seed=1)
    deployed = decide(name, other, changed)
    assert not (deployed & ~other.observation.available).any()
    assert len(decider(name)[1]) == before


@pytest.mark.parametrize("name", SHIPPED)
def test_the_docstring_has_an_example_that_runs(name: str) -> None:
    rule = DEPLOYMENT[name]
    found = doctest.DocTestFinder(recurse=False).find(rule, name, globs=vars(sys.modules[rule.__module__]).copy())
    assert found and found[0].examples
    assert sum(doctest.DocTestRunner().run(each).failed for each in found) == 0


def test_rules_differ_in_structure_whatever_their_fields() -> None:
    """jit's cache looks programs up by structure, so the rules of both kinds must all differ."""
    rules = {f"deployment {name}": rule() for name, rule in DEPLOYMENT.items()}
    rules |= {f"routing {name}": rule() for name, rule in ROUTING.items()}
    structures = {name: jax.tree.structure(rule) for name, rule in rules.items()}
    assert [(a, b) for a in structures for b in structures if a < b and structures[a] == structures[b]] == []


def test_first_takes_the_largest_and_of_equals_the_lower_number() -> None:
    generator = np.random.default_rng(8)
    index = generator.integers(0, 4, (400, 6)).astype(np.float32)
    eligible = generator.random((400, 6)) < 0.7
    number = generator.integers(-1, 8, 400).astype(np.int32)
    found = np.asarray(jax.vmap(first)(index, eligible, number))
    for row, able, most, chosen in zip(index, eligible, number, found, strict=True):
        ranked = sorted(np.flatnonzero(able), key=lambda m: (-row[m], m))
        assert np.flatnonzero(chosen).tolist() == sorted(ranked[: max(most, 0)])


# Twins.
def test_greedy_is_its_twin() -> None:
    for views in (random_views(), random_views(ties=False)):
        deployed = decide("greedy", views)
        cut = 0
        for number in range(VIEWS):
            found = known(views, number)
            index = oracles.value_ratio(found["r"], found["c"], found["b"])
            present = found["caps"] > 0
            chosen, left_out = index[deployed[number]], index[present & ~deployed[number]]
            assert len(chosen) == min(found["slots"], present.sum())
            if len(left_out):
                cut += 1
                assert chosen.min() >= left_out.max() * (1 - 1e-5)
        assert cut > 0.3 * VIEWS


def test_a_resource_that_is_ample_is_not_the_scarcest() -> None:
    """Money 0.5 a task, energy 5 a task: the first model uses 0.4 of its scarcest budget, the second 0.6.

    That energy is more than any task can use makes it no scarcer.
    """
    views = view_of(
        r=[0.9, 0.9], c=[[0.2, 0.9], [0.3, 0.1]], g=[[1.0], [1.0]], b=[0.5, 5.0], target=[0.0], caps=[1, 1], slots=1
    )
    assert np.flatnonzero(decide("greedy", views)[0]).tolist() == [0]


def view_of(**given: Any) -> DeploymentView:
    """[VIEWS] equal views of these bounds, budgets and caps, with the shapes that the compiled rules know."""
    views, models = random_views(), len(given["r"])
    arrays = {name: np.asarray(values, np.float32) for name, values in given.items()}

    def rows(values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        filled = np.full((PADDED, *values.shape[1:]), fill, np.float32)
        filled[:models] = values
        return np.broadcast_to(filled, (VIEWS, *filled.shape))

    there = rows(np.ones(models)) > 0
    upper = np.concatenate([rows(arrays["r"][:, None]), np.ones((VIEWS, PADDED, RESOURCES)), rows(arrays["g"])], axis=2)
    lower = np.concatenate([rows(0 * arrays["r"][:, None]), rows(arrays["c"]), rows(0 * arrays["g"])], axis=2)
    problem = replace(
        views.problem,
        exists=there,
        budget=np.broadcast_to(100 * arrays["b"], (VIEWS, RESOURCES)),
        target=np.broadcast_to(arrays["target"], (VIEWS, METRICS)),
        throughput=rows(arrays["caps"], 1.0),
        max_deployed=np.full(VIEWS, given["slots"], np.int32),
    )
    return replace(
        views,
        problem=problem,
        observation=replace(views.observation, available=there, deployed=there),
        bounds=replace(views.bounds, lower=lower.astype(np.float32), upper=upper.astype(np.float32)),
    )


def test_stageroute_deploys_a_support_as_good_as_the_integer_program_s() -> None:
    reached = 0
    for views in (random_views(), random_views(ties=False)):
        deployed = decide("stageroute", views)
        for number in range(VIEWS):
            best = solved(views, number, clairvoyant=False)
            if best is None:
                continue
            found = known(views, number)
            assert deployed[number].sum() == min(found["slots"], (found["caps"] > 0).sum())
            limits = found["r"], found["c"], found["g"], found["b"] + 1e-6, found["target"] - 1e-6
            ours = oracles.full_mix(*limits, np.where(deployed[number], found["caps"], 0.0))
            assert ours is not None, number
            assert ours[0] == pytest.approx(best[0], abs=1e-5), number
            reached += 1
    assert 0.2 * 2 * VIEWS < reached < 1.8 * VIEWS  # budgets and targets that nobody can meet are there, too


def test_the_clairvoyant_deploys_a_support_as_good_as_the_integer_program_s() -> None:
    """That of the staged benchmark, which may decline tasks."""
    views, reached = random_views(ties=False), 0
    deployed = decide("clairvoyant", views)
    for number in range(VIEWS):
        best = solved(views, number, clairvoyant=True)
        if best is None:
            continue
        truth = jax.tree.map(lambda leaf, number=number: np.asarray(leaf[number], float), views.truth)
        b = np.asarray(views.problem.budget[number], float) / truth.total_demand + 1e-6
        caps = np.where(deployed[number], known(views, number)["caps"], 0.0)
        target = known(views, number)["target"] - 1e-6
        ours = oracles.hard_mix(truth.reward, truth.consumption, truth.service, b, target, caps)
        assert ours is not None and best[0] - 1e-5 <= ours <= best[0] + 1e-4, (
            number
        )  # the room for rounding is worth some
        reached += 1
    assert reached > 30


def filling(views: DeploymentView, number: int, deployed: np.ndarray) -> tuple[float, float] | None:
    """(least UCB_r - λ·LCB_c + ν·UCB_g of the models that fill up, largest of those left out), None without either.

    λ and ν are the prices in the program that the support is the answer to, which serves everyone.
    """
    found, best = known(views, number), solved(views, number, clairvoyant=False)
    assert best is not None
    support = best[1] > 1e-7
    assert (deployed | ~support).all()
    fill, out = deployed & ~support, (found["caps"] > 0) & ~deployed
    if not fill.any() or not out.any():
        return None
    r, c, g = found["r"], found["c"], found["g"]
    solution = oracles.full_mix(r, c, g, found["b"], found["target"], np.where(support, found["caps"], 0.0))
    assert solution is not None
    index = r - c @ solution[2] + g @ solution[3]
    return index[fill].min(), index[out].max()


def test_stageroute_fills_empty_slots_by_the_priced_index() -> None:
    views = random_views(ties=False)
    ample = replace(views, problem=replace(views.problem, target=np.zeros((VIEWS, METRICS), np.float32)))
    deployed, compared = decide("stageroute", ample), 0
    for number in range(VIEWS):
        if feasible(ample, number, clairvoyant=False):
            pair = filling(ample, number, deployed[number])
            if pair is not None:
                compared += 1
                assert pair[0] >= pair[1] - 1e-4, number
    assert compared > 30


PRICED: dict[str, dict[str, Any]] = {
    # Support {0, 1}, half of it forced by the wish to serve everyone: λ = 0.8 / 0.5 = 1.6, not 0.9.
    # Index of 2: 0.70 - 1.6 * 0.90 = -0.74, of 3: 0.15 - 1.6 * 0.55 = -0.73.
    "everyone must be served": {
        "r": [0.9, 0.1, 0.7, 0.15],
        "c": [[1.0, 0.0], [0.5, 0.0], [0.9, 0.0], [0.55, 0.0]],
        "g": [[1.0], [1.0], [1.0], [1.0]],
        "b": [0.6, 1.0],
        "target": [0.0],
    },
    # Support {0, 1} at service 0.5: ν = 0.8 / 0.2 = 4.
    # Index of 2: 0.60 + 4 * 0.41 = 2.24, of 3: 0.11 + 4 * 0.55 = 2.31.
    "a dear target": {
        "r": [0.9, 0.1, 0.6, 0.11],
        "c": [[0.0, 0.0]] * 4,
        "g": [[0.4], [0.6], [0.41], [0.55]],
        "b": [1.0, 1.0],
        "target": [0.5],
    },
}


@pytest.mark.parametrize("case", PRICED)
def test_the_prices_of_empty_slots_are_those_of_the_program_that_chose_the_support(case: str) -> None:
    views = view_of(**PRICED[case], caps=[1, 1, 1, 1], slots=3)
    best = solved(views, 0, clairvoyant=False)
    assert best is not None and np.flatnonzero(best[1] > 1e-7).tolist() == [0, 1]
    pair = filling(views, 0, np.isin(np.arange(PADDED), [0, 1, 3]))
    assert pair is not None and pair[0] > pair[1]  # the twin says 3
    assert np.flatnonzero(decide("stageroute", views)[0]).tolist() == [0, 1, 3]


def test_newcomers_get_the_slots_that_the_support_leaves_empty() -> None:
    """The best known model is all of the support; one never tried comes before one known to be poor."""
    views = view_of(
        r=[0.9, 0.3, 1.0, 0.5], c=[[0.2, 0.2]] * 4, g=[[1.0]] * 4, b=[1, 1], target=[0.0], caps=[1, 1, 1, 1], slots=2
    )
    assert np.flatnonzero(decide("stageroute", views)[0]).tolist() == [0, 2]


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_uniform_draws_every_subset_equally_often(slots: int) -> None:
    """A chi-square test for each number of slots; a false alarm has a chance of 1e-4."""
    views = random_views()
    available = np.broadcast_to(np.arange(PADDED) != 2, (VIEWS, PADDED))  # 5 of 6
    problem = replace(views.problem, max_deployed=np.full(VIEWS, slots, np.int32))
    base = replace(views, observation=replace(views.observation, available=available), problem=problem)
    draws = [
        decide("uniform", replace(base, key=np.arange(VIEWS, dtype=np.uint32) + np.uint32(VIEWS * seed)))
        for seed in range(40)
    ]
    codes = np.concatenate(draws) @ 2 ** np.arange(PADDED)
    subsets = [sum(2**m for m in chosen) for chosen in combinations([0, 1, 3, 4, 5], slots)]
    counts = np.array([(codes == subset).sum() for subset in subsets])
    assert counts.sum() == len(codes) == 40 * VIEWS
    assert stats.chisquare(counts).pvalue > FALSE_ALARM
