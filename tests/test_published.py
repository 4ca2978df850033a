"""Published rules: draw for draw the same run as their twins in NumPy, and the invariants that their papers state."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from bandits.agent import Learner
from envs import draws, ledger
from envs.edge_cloud import World
from tests import oracles, twins, worlds

INSTANCES, ROUNDS, MODELS, PADDED = 24, 400, 4, 5
FORECASTS = {"exact": "oracle", "mean": "running_mean"}


def instance(seed: int) -> World:
    """A random world with P and C of 1 or 2: what is not limited has an infinite budget or a target of 0."""
    generator = np.random.default_rng([12, seed])
    made = worlds.world(
        models=worlds.catalogue_of(generator.random(MODELS), 10.0 ** generator.uniform(-4.5, -3, MODELS)),
        padded=PADDED,
        horizon=ROUNDS,
        demand={"mean": float(generator.uniform(1, 6)), "maximum": 24.0},
        dtype=np.float64,
        budget_per_task=10.0 ** generator.uniform(-4, -2.8),
        resources={"energy_wh": float(generator.uniform(0.1, 0.5))},
        budget_rule="cross",
        target=float(generator.uniform(0.3, 0.95)),
        latency_slo_s=float(generator.uniform(1, 10)),
        floors={"quality": float(generator.uniform(0.2, 0.8))},
        quality_noise="beta",
        demand_seen=str(generator.choice(["before", "after"])),
    )
    budget, target = np.array(made.problem.budget), np.array(made.problem.target)
    if seed % 2:
        budget[1] = np.inf
    if seed // 2 % 2:
        target[1] = 0.0
    limit = ledger.limit(budget, float(made.quanta))
    return replace(made, budget=limit, problem=replace(made.problem, budget=budget, target=target))


def slots(world: World, demand: np.ndarray, uniforms: np.ndarray) -> twins.Slots:
    """The same world for a twin, without its padding."""
    real, problem = slice(0, MODELS), world.problem
    return twins.Slots(
        reward=np.asarray(world.reward_table)[real],
        table=np.asarray(world.consumption_table)[real],
        bound=np.asarray(problem.consumption_bound)[real],
        service=np.asarray(world.service_mean)[real],
        service_is_reward=np.asarray(world.service_is_reward),
        budget=np.asarray(problem.budget),
        budget_quanta=list(ledger.host_units(world.budget)),
        quanta=float(world.quanta),
        target=np.asarray(problem.target),
        demand_bound=float(problem.demand_bound),
        nominal=float(problem.expected_demand) / ROUNDS,
        demand=demand,
        uniforms=uniforms,
    )


def recorded(learners: list[Learner]) -> tuple[Any, list[twins.Slots]]:
    """Records [cells, rounds] in float64 of one learner in each instance, and the instances for twins."""
    made = [instance(seed) for seed in range(len(learners))]
    with jax.enable_x64(True):
        seen = worlds.record(made, learners, ROUNDS)
        keys = worlds.record_keys(len(made))
        number = 3 + made[0].service_mean.shape[1]
        each = jnp.tile(jnp.arange(ROUNDS, dtype=jnp.int32), len(made))
        drawn = jax.vmap(lambda key, t: draws.uniforms(key, t, number, jnp.dtype("float64")))(
            jnp.repeat(keys, ROUNDS), each
        )
        uniforms = np.asarray(drawn).reshape(len(made), ROUNDS, number)
    demand = np.asarray(seen.feedback.demand, np.float64)
    return seen, [slots(world, demand[cell], uniforms[cell]) for cell, world in enumerate(made)]


def assert_same_run(seen: Any, cell: int, trace: twins.Trace, world: twins.Slots, *, duals: bool = True) -> None:
    """Choices and spending to the bit; duals to the rounding of the service in the books, which is in quanta."""
    assert (np.asarray(seen.feedback.model[cell]) == trace.model).all()
    before = np.vstack([np.zeros((1, len(world.budget))), np.array(trace.spent, float)[:-1] / world.quanta])
    assert (np.asarray(seen.view.observation.spent[cell]) == before).all()
    if duals:
        np.testing.assert_allclose(seen.duals[cell], trace.duals, rtol=1e-7, atol=1e-8)


def copac_numbers(seed: int) -> dict[str, float]:
    """Constants of copac_ucb that let its prices matter within a short run."""
    generator = np.random.default_rng([13, seed])
    return {
        "eta_scale": float(10.0 ** generator.uniform(0, 2)),
        "delta": float(np.exp(-generator.uniform(0.1, 6))),
        "radius_variance": float(generator.uniform(0.2, 3)),
        "radius_linear": float(generator.uniform(0.1, 5)),
    }


@pytest.mark.parametrize(
    ("name", "targets", "dual_signal", "forecast"),
    [
        ("copac_ucb", "static", "bounds", "exact"),
        ("copac_ucb", "literal", "bounds", "mean"),
        ("copac_ucb", "resolving", "realised", "mean"),
        ("oa_ucb", "static", "bounds", "mean"),
    ],
)
def test_copac_ucb_and_oa_ucb_are_their_twin_draw_for_draw(
    name: str, targets: str, dual_signal: str, forecast: str
) -> None:
    options = {"targets": targets, "dual_signal": dual_signal}
    numbers = [copac_numbers(seed) for seed in range(INSTANCES)]
    learners = [
        worlds.learner(name, forecaster=FORECASTS[forecast], dtype=np.float64, **given, **options) for given in numbers
    ]
    seen, made = recorded(learners)
    stopped = 0
    for cell, world in enumerate(made):
        rule = twins.Copac(world, **numbers[cell], **options, covers=name == "copac_ucb")
        trace = twins.play(world, rule, forecast=forecast)
        assert_same_run(seen, cell, trace, world)
        assert (trace.duals >= 0).all() and (trace.duals.sum(axis=1) <= rule.reach * (1 + 1e-12)).all()
        stopped += trace.model[-1] == -1
    assert 0 < stopped < INSTANCES
    assert (np.ptp(seen.duals, axis=1).max(axis=0) > 0.05).sum() >= (4 if name == "copac_ucb" else 2)  # prices moved


def confidence_numbers(seed: int) -> dict[str, float]:
    generator = np.random.default_rng([14, seed])
    return {"confidence": float(generator.uniform(0.02, 0.5)), "kappa": float(generator.uniform(0.5, 2))}


def test_pd_bwk_is_its_twin_draw_for_draw() -> None:
    numbers = [confidence_numbers(seed) for seed in range(INSTANCES)]
    learners = [worlds.learner("pd_bwk", confidence=given, dtype=np.float64) for given in numbers]
    seen, made = recorded(learners)
    for cell, world in enumerate(made):
        trace = twins.play(world, twins.PdBwK(world, **numbers[cell]), forecast="mean")
        assert_same_run(seen, cell, trace, world)
    assert (np.ptp(seen.duals, axis=1).max(axis=0) > 0.01).sum() >= 3


def program_numbers(name: str, seed: int) -> dict[str, float]:
    generator = np.random.default_rng([15, seed])
    if name == "ad_ucb":
        return {"gamma": float(generator.choice([0.0, 1e-3, 0.1, 1.0]))}  # with 0 it is `static`
    return {
        "radius_scale": float(generator.uniform(0.02, 0.3)),
        "reward_variation": float(generator.choice([0.0, 5.0, 40.0])),
        "consumption_variation": float(generator.choice([0.0, 10.0])),
    }


def optima(programs: list[twins.Program]) -> np.ndarray:
    """[n] values by HiGHS, all in one block-diagonal program."""
    blocks, right, cost, box = [], [], [], []
    for program in programs:
        wanted = np.minimum(program.wanted, program.service.max(axis=0))
        rows, limits = oracles.soft_rows(program.consumption, program.service, program.spending, wanted)
        blocks.append(rows)
        right.append(limits)
        cost.append(np.concatenate([-program.reward, np.full(len(wanted), 5.0)]))
        box += [(0.0, 1.0)] * len(program.reward) + [(0.0, None)] * len(wanted)
    solved = linprog(
        np.concatenate(cost),
        A_ub=sparse.block_diag(blocks, format="csr"),
        b_ub=np.concatenate(right),
        bounds=box,
        options=oracles.TIGHT,
    )
    assert solved.status == 0, solved.message
    return -(solved.x * np.concatenate(cost)).reshape(len(programs), -1).sum(axis=1)


def attained(program: twins.Program, x: np.ndarray) -> float:
    """The value of a mix in a slot's program; -inf where it breaks a row."""
    wanted = np.minimum(program.wanted, program.service.max(axis=0))
    feasible = (x >= 0).all() and x.sum() <= 1 + 1e-9 and (program.consumption.T @ x <= program.spending + 1e-9).all()
    return oracles.soft_value(x, program.reward, program.service, wanted) if feasible else -np.inf


@pytest.mark.parametrize(
    ("name", "targets"),
    [("ad_ucb", "static_epsilon"), ("ad_ucb", "resolving"), ("sw_ucb", "")],
)
def test_ad_ucb_and_sw_ucb_solve_the_programs_of_their_twins_and_draw_from_the_solution(
    name: str, targets: str
) -> None:
    """Where a program has several solutions, solvers differ; the twin then follows ours, once it is seen to be best."""
    options = {"targets": targets} if targets else {}
    belief = {"confidence": 0.1, "kappa": 1.5}
    numbers = [program_numbers(name, seed) for seed in range(INSTANCES // 2)]
    learners = [worlds.learner(name, confidence=belief, dtype=np.float64, **given, **options) for given in numbers]
    seen, made = recorded(learners)
    for cell, world in enumerate(made):
        given = numbers[cell]
        rule = (
            twins.AdUCB(world, **belief, targets=targets, **given) if targets else twins.SwUCB(world, *given.values())
        )
        followed = twins.Follows(rule, np.asarray(seen.shares[cell])[:, :MODELS])
        assert_same_run(seen, cell, twins.play(world, followed, forecast="mean"), world, duals=False)
        slots_solved = list(followed.programs)
        best = optima(list(followed.programs.values()))
        ours = [attained(followed.programs[t], followed.shares[t]) for t in slots_solved]
        np.testing.assert_allclose(ours, best, atol=1e-7)
