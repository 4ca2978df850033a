"""The timeline against plain enumeration: every round of many runs, and a few rounds of the longest run there is."""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from envs import timeline as timelines
from envs.inventory import NEVER
from envs.timeline import Timeline, stage_start

CHANGES, LONGEST = 6, 40
ANSWERS = ("stage_began", "epoch_began", "next_boundary", "epoch")


def timeline(horizon: int, stages: int, changes: list[int]) -> Timeline:
    padded = sorted(changes) + [NEVER] * (CHANGES - len(changes))
    numbers = {"horizon": horizon, "stages": stages, "changes": padded, "resolve_every": 1}
    return Timeline(**{name: np.asarray(value, np.int32) for name, value in numbers.items()})


@cache
def asked() -> Callable[[Timeline, np.ndarray], dict[str, jax.Array]]:
    """{answer: [N, R]} for N timelines at the rounds [R]."""

    def one(timeline: Timeline, t: jax.Array) -> dict[str, jax.Array]:
        return {name: getattr(timelines, name)(timeline, t) for name in ANSWERS}

    return jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))


def answers(many: list[Timeline], rounds: np.ndarray) -> dict[str, np.ndarray]:
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *many)
    return jax.tree.map(np.asarray, asked()(stacked, np.asarray(rounds, np.int32)))


def starts_of(horizon: int, stages: int) -> list[int]:
    """First rounds of the stages, laid end to end: the first ``horizon % stages`` are one round longer."""
    starts, t = [], 0
    for stage in range(stages):
        starts.append(t)
        t += horizon // stages + (stage < horizon % stages)
    assert t == horizon
    return starts


def enumerated(horizon: int, stages: int, changes: list[int], t: int) -> dict[str, int]:
    starts = starts_of(horizon, stages)
    happening = [change for change in changes if change < horizon]
    boundaries = {*starts, *happening}
    return {
        "stage_began": max(start for start in starts if start <= t),
        "epoch_began": max(boundary for boundary in boundaries if boundary <= t),
        "next_boundary": min((boundary for boundary in boundaries if boundary > t), default=horizon),
        "epoch": sum(change <= t for change in changes),
    }


def described() -> list[tuple[int, int, list[int]]]:
    """(T, K, changes): every T up to 13 with every K, no changes and random ones; then longer runs and corner cases."""
    generator = np.random.default_rng(3)
    found: list[tuple[int, int, list[int]]] = []
    for horizon in range(1, 14):
        for stages in range(1, horizon + 1):
            number = int(generator.integers(0, CHANGES + 1))
            found.append((horizon, stages, []))
            found.append((horizon, stages, generator.integers(0, horizon + 3, number).tolist()))
    for _ in range(150):
        horizon = int(generator.integers(14, LONGEST + 1))
        stages = int(generator.choice([1, 2, 3, 7, horizon - 1, horizon, generator.integers(1, horizon + 1)]))
        starts = starts_of(horizon, stages)
        at_a_start, twice = int(generator.choice(starts)), int(generator.integers(1, horizon))
        past = [horizon, horizon + 5, NEVER]
        anywhere = generator.integers(1, horizon, 2).tolist()
        changes = [at_a_start, twice, twice, *anywhere, int(generator.choice(past))]
        found.append((horizon, stages, changes))
    return found


def test_every_round_is_as_enumerated() -> None:
    cases = described()
    rounds = np.arange(LONGEST)
    found = answers([timeline(*case) for case in cases], rounds)
    compared = 0
    for number, (horizon, stages, changes) in enumerate(cases):
        for t in range(horizon):
            expected = enumerated(horizon, stages, changes, t)
            assert {name: int(found[name][number, t]) for name in ANSWERS} == expected, (horizon, stages, changes, t)
            compared += 1
    assert compared > 4000


def test_walking_from_boundary_to_boundary_visits_each_once_and_ends_at_the_horizon() -> None:
    for (horizon, stages, changes), made in zip(described(), map(clock_of, described()), strict=True):
        following = answers([made], np.arange(LONGEST))["next_boundary"][0]
        visited = [0]
        while visited[-1] < horizon:
            visited.append(int(following[visited[-1]]))
        happening = {change for change in changes if 0 <= change < horizon}
        assert visited == sorted({0, *starts_of(horizon, stages), *happening, horizon})


def clock_of(case: tuple[int, int, list[int]]) -> Timeline:
    return timeline(*case)


@pytest.mark.parametrize(("horizon", "stages"), [(10, 1), (10, 3), (10, 10), (12, 4), (13, 12), (1, 1)])
def test_a_stage_begins_at_the_horizon_too_which_ends_the_last_one(horizon: int, stages: int) -> None:
    found = answers([timeline(horizon, stages, [])], np.array([horizon]))
    assert found["stage_began"][0, 0] == horizon


def test_stage_starts_on_the_host_are_those_of_the_device() -> None:
    for horizon, stages, _ in described():
        starts = stage_start(horizon, stages, np.arange(stages + 1))
        assert np.asarray(starts).tolist() == [*starts_of(horizon, stages), horizon]
        assert [int(stage_start(horizon, stages, k)) for k in range(stages + 1)] == np.asarray(starts).tolist()


@pytest.mark.parametrize("horizon", [2**31 - 2, 10**7 + 1])
@pytest.mark.parametrize("exponent", [0.0, 1 / 3, 0.9, 1.0])
def test_the_longest_runs_do_not_overflow(horizon: int, exponent: float) -> None:
    """In Python's whole numbers, which have no end."""
    stages = min(round(horizon**exponent), horizon)
    length, longer = divmod(horizon, stages)
    change = horizon - 2
    rounds = [0, 1, horizon // 3, longer * (length + 1) - 1, longer * (length + 1), horizon - 2, horizon - 1]
    rounds = [t for t in rounds if 0 <= t < horizon]
    found = answers([timeline(horizon, stages, [change])], np.array(rounds))
    for i, t in enumerate(rounds):
        early = longer * (length + 1)
        stage = t // (length + 1) if t < early else longer + (t - early) // length
        began = int(stage_start(horizon, stages, stage))
        ends = int(stage_start(horizon, stages, stage + 1))
        assert began == stage * length + min(stage, longer) and began <= t < ends
        assert int(found["stage_began"][0, i]) == began
        assert int(found["epoch_began"][0, i]) == (max(began, change) if t >= change else began)
        assert int(found["next_boundary"][0, i]) == (min(ends, change) if t < change else ends)
        assert int(found["epoch"][0, i]) == (t >= change)


def test_a_clock_without_any_change_or_room_for_one_works() -> None:
    """No models, no changes: the extremes over an empty axis are those of the stages alone."""
    bare = jax.tree.map(jnp.asarray, timeline(9, 2, []))
    empty: Any = Timeline(
        horizon=bare.horizon, stages=bare.stages, changes=jnp.zeros(0, jnp.int32), resolve_every=bare.resolve_every
    )
    for t in range(9):
        expected = enumerated(9, 2, [], t)
        assert {name: int(getattr(timelines, name)(empty, jnp.int32(t))) for name in ANSWERS} == expected
