"""Runs last against ``jax.vmap``: operation by operation, and whole runs of every rule, whose books agree exactly."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bandits.routing import ROUTING
from bandits.solvers import lp
from envs import ledger
from envs.keys import uniforms
from experiments.engine import rollout
from experiments.engine.vectorize import vmap_last
from tests import worlds

pytestmark = pytest.mark.optimized  # what is exact must be so whatever the compiler does

LANES, MODELS, CELLS = 7, 5, 3
RUNS, HORIZON = 16, 120


def loop(x: jax.Array, number: jax.Array) -> jax.Array:
    """A loop that all lanes leave together, whose carry comes to differ between lanes only on the way."""
    return jax.lax.fori_loop(0, number, lambda k, carry: (carry[0] * 0.5 + x, carry[0]), (jnp.zeros(MODELS), x))[1]


def search(x: jax.Array, number: jax.Array) -> jax.Array:
    """A loop that each lane leaves when it is done."""
    return jax.lax.while_loop(lambda carry: carry[0] > 0.1, lambda carry: (carry[0] / 2, carry[1] + 1), (x[0], 0.0))[1]


def program(x: jax.Array, number: jax.Array) -> jax.Array:
    """A small LP, whose own batching is part of it."""
    return lp.maximize(x, jnp.ones((1, MODELS)), jnp.ones(1), jnp.ones(MODELS)).x


OPERATIONS: dict[str, Callable[[jax.Array, jax.Array], Any]] = {
    "sums": lambda x, n: (x.sum(), (x[:, None] * x[None]).sum(axis=0), jnp.outer(x, x).max(axis=(0, 1))),
    "nothing": lambda x, n: (x[:0].sum(), x[:0].max(initial=0)),
    "all and any": lambda x, n: (jnp.all(x > 0), jnp.any(x[None] > x[:, None], axis=1)),
    "running": lambda x, n: (jnp.cumsum(x), jax.lax.cumsum(x, reverse=True), jax.lax.cummax(x)),
    "long": lambda x, n: (jnp.cumsum(jnp.tile(x, 40)), jnp.tile(x, 40).sum()),
    "best": lambda x, n: (jnp.argmax(x), jnp.argmin(jnp.round(x)), jnp.argmax(x.at[2].set(jnp.nan)), jnp.argmax(x > 0)),
    "shapes": lambda x, n: (x.reshape(1, MODELS).T, x[::-1][1:3], jnp.concatenate([x, jnp.ones(2)]), jnp.stack([x, x])),
    "choice": lambda x, n: (jnp.where(x.sum() > 0, x, -x), jnp.clip(x, -0.5, 0.5), x**2, jnp.sign(x)),
    "lookup": lambda x, n: (jnp.arange(10.0)[jnp.argmax(x)], x[jnp.argmax(x)], jnp.sort(x), x @ x),
    "sums of sums": lambda x, n: (
        jnp.sum(jnp.cumsum(jnp.clip(x, 0, 1)) <= x.max()),
        jnp.sum(jnp.cumsum(x)[None], axis=1),
    ),
    "sums of choices": lambda x, n: (
        jnp.sum(jnp.where(jnp.arange(MODELS) == jnp.argmax(x), x * x, 0)),
        jnp.sum(jnp.where((x > 0)[:, None], jnp.stack([x, x + n]).T, jnp.ones((MODELS, 1))), axis=0),
        jnp.max(jnp.where(jnp.sum(x) > 0, x, n), initial=-1.0),
        jnp.sum(x[:1]),
    ),
    "used twice": lambda x, n: (
        jnp.sum(jnp.exp(jnp.sin(x) * x + 1) * x),
        jnp.exp(jnp.sin(x) * x + 1)[None] * x[:, None],
    ),
    "shared": lambda x, n: (n + 1, jnp.arange(3) * n, x * n),
    "loop": loop,
    "search": search,
    "branch": lambda x, n: jax.lax.cond(n > 2, lambda: x * 2, lambda: jnp.zeros(MODELS)),
    "own branch": lambda x, n: jax.lax.cond(x[0] > 0, lambda: x * 2, lambda: x - 1),
    "program": program,
}


def assert_same(ours: Any, theirs: Any) -> None:
    """Lanes last and runs first agree; sums may be taken in another order."""
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(np.moveaxis(np.asarray(mine), -1, 0), np.asarray(other), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_are_those_of_vmap(name: str) -> None:
    x = jax.random.normal(jax.random.key(3), (LANES, MODELS))
    operation, number = OPERATIONS[name], jnp.int32(3)
    lanes = jax.jit(vmap_last(operation, (True, False)))
    assert_same(lanes(number >= 0, x.T, number), jax.jit(jax.vmap(operation, (0, None)))(x, number))


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "program")) for n in OPERATIONS])
def test_operations_of_several_cells_are_those_of_vmap(name: str) -> None:
    """Cells first, mapped by ``jax.vmap`` within the program that is read: [cells, ..., lanes]."""
    x = jax.random.normal(jax.random.key(4), (LANES, CELLS, MODELS))
    operation, number = jax.vmap(OPERATIONS[name], (0, None)), jnp.int32(3)
    lanes = jax.jit(vmap_last(operation, (True, False)))
    assert_same(lanes(number >= 0, jnp.moveaxis(x, 0, -1), number), jax.jit(jax.vmap(operation, (0, None)))(x, number))


def draws(key: jax.Array, t: jax.Array) -> Any:
    """Words, numbers and keys from one key, each key used once."""
    round_key = jax.random.fold_in(key, t)
    first, second, third = jax.random.split(jax.random.fold_in(round_key, 0), 3)
    return (
        jax.random.key_data(jax.random.fold_in(round_key, 1)),
        jax.random.bits(first, (4,)),
        jax.random.uniform(second, (3, 2)),
        jax.random.poisson(third, 30.0),
        uniforms(key, t, 5, jnp.dtype("float32")),
    )


@pytest.fixture
def keys_used_twice() -> Iterator[None]:
    """No check of key reuse: runs do replay their demand from the same keys, on purpose."""
    with jax.debug_key_reuse(False):
        yield


@pytest.mark.usefixtures("keys_used_twice")
def test_random_bits_are_those_of_jax() -> None:
    keys = jax.random.split(jax.random.key(5), LANES)
    ours = jax.jit(vmap_last(draws, (True, False)))(jnp.array(True), keys, jnp.int32(12))
    assert_same(ours, jax.jit(jax.vmap(draws, (0, None)))(keys, jnp.int32(12)))


@pytest.mark.usefixtures("keys_used_twice")
def test_random_bits_of_several_cells_are_those_of_jax() -> None:
    keys = jax.random.split(jax.random.key(8), (CELLS, LANES))
    several = jax.vmap(draws, (0, None))
    ours = jax.jit(vmap_last(several, (True, False)))(jnp.array(True), keys, jnp.int32(12))
    assert_same(ours, jax.jit(jax.vmap(several, (1, None)))(keys, jnp.int32(12)))


@pytest.mark.usefixtures("keys_used_twice")
def test_keys_of_several_cells_can_be_carried_as_long_as_each_wants() -> None:
    def carried(key: jax.Array, rounds: jax.Array) -> jax.Array:
        return jax.lax.while_loop(
            lambda c: c[0] < rounds, lambda c: (c[0] + 1, jax.random.fold_in(c[1], c[0])), (0, key)
        )[1]

    keys, rounds = jax.random.split(jax.random.key(9), (CELLS, LANES)), jnp.arange(CELLS)
    several = jax.vmap(carried)
    ours = jax.jit(vmap_last(several, (True, False)))(jnp.array(True), keys, rounds)
    theirs = jax.vmap(several, (1, None), 1)(keys, rounds)
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


def test_keys_can_be_carried_and_come_back_as_keys() -> None:
    def carried(key: jax.Array, rounds: jax.Array) -> jax.Array:
        return jax.lax.fori_loop(0, rounds, lambda t, key: jax.random.fold_in(key, t), key)

    keys = jax.random.split(jax.random.key(6), LANES)
    ours = jax.jit(vmap_last(carried, (True, False)))(jnp.array(True), keys, jnp.int32(3))
    theirs = jax.vmap(carried, (0, None))(keys, jnp.int32(3))
    np.testing.assert_array_equal(jax.random.key_data(ours), jax.random.key_data(theirs))


SAME_OPERATIONS = {"ad_ucb": "lp_resolving", "oa_ucb": "copac_ucb"}  # rules that bring no operation beyond another's
OWN_OPERATIONS = [
    name for name, rule in ROUTING.items() if rule.__module__.startswith("bandits.") and name not in SAME_OPERATIONS
]
QUICK = ("primal_dual_resolving", "ucb1")  # the operations of every rule's parts are compared one by one above


@pytest.mark.usefixtures("keys_used_twice")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in OWN_OPERATIONS]
)
def test_whole_runs_are_those_of_vmap(name: str) -> None:
    """Noisy demand, a latency target, a budget that binds: every book, and every belief."""
    demand = {"process": "mmpp", "mean": 5.0, "counts": "poisson", "ratio": 5.0, "rise": 0.02, "fall": 0.1}
    world = jax.tree.map(jnp.asarray, worlds.world(horizon=HORIZON, demand=demand, budget_per_task=2e-4))
    policy = jax.tree.map(jnp.asarray, worlds.policy(name))
    timeline = jax.tree.map(jnp.asarray, worlds.timeline(worlds.world(horizon=HORIZON), HORIZON))

    def run(key: jax.Array, horizon: jax.Array) -> rollout.Snapshot:
        state = rollout.start(world, policy, key, horizon)
        state = rollout.advance(world, policy, key, state, timeline, jnp.int32(0), horizon)
        return rollout.snapshot(world, policy, state, timeline, horizon)

    keys, horizon = jax.random.split(jax.random.key(7), RUNS), jnp.int32(HORIZON)
    ours = jax.jit(vmap_last(run, (True, False)))(horizon >= 0, keys, horizon)
    theirs = jax.jit(jax.vmap(run, (0, None)))(keys, horizon)
    for books in ("demand", "served", "refused", "reward", "spent", "service"):
        mine, other = (ledger.host_units(getattr(seen.world, books)) for seen in (ours, theirs))
        assert (np.moveaxis(mine, -1, 0) == other).all(), books
    for beliefs in ("lower", "upper", "duals"):
        mine, other = (np.asarray(getattr(seen, beliefs)) for seen in (ours, theirs))
        np.testing.assert_allclose(np.moveaxis(mine, -1, 0), other, rtol=1e-5, atol=1e-6, err_msg=beliefs)
