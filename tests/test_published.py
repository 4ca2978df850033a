"""Published rules: draw for draw the same run as their twins in NumPy, and the invariants that their papers state."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linprog

from bandits.policy import Policy
from envs import catalogue as catalogues
from envs import keys as random_keys
from envs import ledger
from envs.world import World
from experiments.results import benchmark
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
    return worlds.limited(made, budget, target)


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
        target=np.asarray(problem.target),
        demand_bound=float(problem.demand_bound),
        nominal=float(problem.expected_demand) / ROUNDS,
        demand=demand,
        uniforms=uniforms,
    )


def recorded(policies: list[Policy]) -> tuple[Any, list[twins.Slots]]:
    """Records [cells, rounds] in float64 of one policy in each instance, and the instances for twins."""
    made = [instance(seed) for seed in range(len(policies))]
    with jax.enable_x64(True):
        seen = worlds.record(made, policies, ROUNDS)
        keys = worlds.record_keys(len(made))
        number = 3 + made[0].service_mean.shape[1]
        each = jnp.tile(jnp.arange(ROUNDS, dtype=jnp.int32), len(made))
        drawn = jax.vmap(lambda key, t: random_keys.uniforms(key, t, number, jnp.dtype("float64")))(
            jnp.repeat(keys, ROUNDS), each
        )
        uniforms = np.asarray(drawn).reshape(len(made), ROUNDS, number)
    demand = np.asarray(seen.feedback.demand, np.float64)
    return seen, [slots(world, demand[cell], uniforms[cell]) for cell, world in enumerate(made)]


def assert_same_run(seen: Any, cell: int, trace: twins.Trace, *, duals: bool = True) -> None:
    """Choices to the bit; duals and spending to the rounding of the engine's books, which are in quanta."""
    assert (np.asarray(seen.feedback.model[cell]) == trace.model).all()
    np.testing.assert_allclose(seen.view.observation.spent[cell], trace.spent, rtol=1e-6, atol=1e-5)
    if duals:
        np.testing.assert_allclose(seen.duals[cell], trace.duals, rtol=1e-6, atol=1e-6)


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
        pytest.param("copac_ucb", "static", "bounds", "exact", marks=pytest.mark.slow),
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
    policies = [
        worlds.policy(name, forecaster=FORECASTS[forecast], dtype=np.float64, **given, **options) for given in numbers
    ]
    seen, made = recorded(policies)
    stopped = 0
    for cell, world in enumerate(made):
        rule = twins.Copac(world, **numbers[cell], **options, covers=name == "copac_ucb")
        trace = twins.play(world, rule, forecast=forecast)
        assert_same_run(seen, cell, trace)
        assert (trace.duals >= 0).all() and (trace.duals.sum(axis=1) <= rule.reach * (1 + 1e-12)).all()
        stopped += trace.model[-1] == -1
    assert 0 < stopped < INSTANCES
    assert (np.ptp(seen.duals, axis=1).max(axis=0) > 0.05).sum() >= (4 if name == "copac_ucb" else 2)  # prices moved


def confidence_numbers(seed: int) -> dict[str, float]:
    generator = np.random.default_rng([14, seed])
    return {"confidence": float(generator.uniform(0.02, 0.5)), "kappa": float(generator.uniform(0.5, 2))}


def test_pd_bwk_is_its_twin_draw_for_draw() -> None:
    numbers = [confidence_numbers(seed) for seed in range(INSTANCES)]
    policies = [worlds.policy("pd_bwk", confidence=given, dtype=np.float64) for given in numbers]
    seen, made = recorded(policies)
    for cell, world in enumerate(made):
        trace = twins.play(world, twins.PdBwK(world, **numbers[cell]), forecast="mean")
        assert_same_run(seen, cell, trace)
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
        A_ub=sparse.block_diag([sparse.csr_array(block) for block in blocks], format="csr"),
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
    [pytest.param("ad_ucb", "static_epsilon", marks=pytest.mark.slow), ("ad_ucb", "resolving"), ("sw_ucb", "")],
)
def test_ad_ucb_and_sw_ucb_solve_the_programs_of_their_twins_and_draw_from_the_solution(
    name: str, targets: str
) -> None:
    """Where a program has several solutions, solvers differ; the twin then follows ours, once it is seen to be best."""
    options = {"targets": targets} if targets else {}
    belief = {"confidence": 0.1, "kappa": 1.5}
    numbers = [program_numbers(name, seed) for seed in range(INSTANCES // 2)]
    policies = [worlds.policy(name, confidence=belief, dtype=np.float64, **given, **options) for given in numbers]
    seen, made = recorded(policies)
    for cell, world in enumerate(made):
        given = numbers[cell]
        rule = (
            twins.AdUCB(world, **belief, targets=targets, **given) if targets else twins.SwUCB(world, *given.values())
        )
        followed = twins.Follows(rule, np.asarray(seen.shares[cell])[:, :MODELS])
        assert_same_run(seen, cell, twins.play(world, followed, forecast="mean"), duals=False)
        slots_solved = list(followed.programs)
        best = optima(list(followed.programs.values()))
        ours = [attained(followed.programs[t], followed.shares[t]) for t in slots_solved]
        np.testing.assert_allclose(ours, best, atol=1e-7)


def test_with_slack_budgets_and_no_target_copac_ucb_plays_ucb1_with_its_radius() -> None:
    made = [worlds.limited(instance(seed), np.array([1e9, 1e9]), np.zeros(2)) for seed in range(INSTANCES)]
    numbers = [copac_numbers(seed) for seed in range(INSTANCES)]
    policies = [worlds.policy("copac_ucb", forecaster="oracle", dtype=np.float64, **given) for given in numbers]
    with jax.enable_x64(True):
        seen = worlds.record(made, policies, ROUNDS)
    model, reward = np.asarray(seen.feedback.model), np.asarray(seen.feedback.reward)
    for cell, given in enumerate(numbers):
        count, mean = np.zeros(MODELS, int), np.zeros(MODELS)
        for t in range(ROUNDS):
            played = np.maximum(count, 1)
            level = -np.log(given["delta"])
            wide = twins.radius(mean, played, level, given["radius_variance"], given["radius_linear"])
            index = np.where(count > 0, np.minimum(mean + wide, 1.0), 1.0)
            chosen = int(model[cell, t])
            if chosen >= 0:  # a round without demand teaches nothing
                assert index[chosen] >= index.max() - 1e-6  # what is left of the prices times q̄/1e9
                count[chosen] += 1
                mean[chosen] += (reward[cell, t] - mean[chosen]) / count[chosen]


def test_on_the_two_model_instance_the_spend_rate_tends_to_the_budget() -> None:
    """(reward, cost) = (1, 1) and (1/2, 0) with half a unit per task: the best mix plays both equally often."""
    horizon = 20_000
    world = worlds.world(
        models=worlds.catalogue_of(np.array([1.0, 0.5]), np.array([1.0, 0.1]), cost_cv=0.0),
        horizon=horizon,
        demand={"mean": 1.0, "counts": "none"},
        budget_per_task=0.5,
        target=None,
        budget_rule="cross",
        cost_bound_multiple=1.0,
        demand_seen="after",
    )
    free = np.array([[1.0], [0.0]], np.float32)
    world = replace(
        world,
        consumption_mean=free * world.consumption_mean,
        consumption_table=free[:, :, None] * world.consumption_table,
    )
    policies = [worlds.policy("copac_ucb", forecaster="oracle", delta=delta) for delta in (1e-6, 0.2)]
    marks = (100, 1000, 9000, 18000, horizon)
    seen = worlds.play([world, world], policies, runs=4, marks=marks)
    spent = ledger.host_value(seen.world.spent, world.consumption_scale)[..., 0]  # [E, cells, runs]
    rate = np.diff(spent, axis=0) / np.diff(marks)[:, None, None]
    late = rate[2]  # rounds 9,000 to 18,000
    assert (np.abs(late[0] - 0.5) < 0.05).all() and (np.abs(late[1] - 0.5) < 0.02).all()
    assert (np.abs(late - 0.5) < np.abs(rate[0] - 0.5)).all()  # after 1,000 rounds it is farther off


@pytest.mark.parametrize(("unit", "divisor"), [("per_token", 1.0), ("per_1k_tokens", 1000.0)])
def test_the_papers_world_has_its_prices_budget_and_delays(unit: str, divisor: float) -> None:
    made = worlds.instance(
        models=catalogues.find("copac_paper"),
        horizon=10_000,
        demand={"mean": 2.0},
        budget_per_task=None,
        budget_usd=8000.0,
        cost_unit=unit,
        latency_cv=0.8,
        cost_bound_multiple=2.5,
        target=0.8,
        latency_slo_s=180.0,
    )
    assert made.budget.tolist() == pytest.approx([8000.0])
    printed = {  # accuracy, mean delay in seconds, USD per 1k tokens, mean tokens
        "gemma2-2b": (0.77, 281.92, 0.005, 168.29),
        "llama3.2-1b": (0.84, 84.43, 0.015, 124.67),
        "qwen2.5-0.5b": (0.54, 41.05, 0.001, 209.98),
        "qwen2.5-1.5b": (0.27, 111.53, 0.003, 130.84),
    }
    quality, delay, price, tokens = np.array([printed[name] for name in made.models]).T
    np.testing.assert_allclose(made.world.reward_mean, quality, rtol=1e-6)
    mean = np.asarray(made.world.consumption_mean, float)[:, 0] * made.unit[0]
    np.testing.assert_allclose(mean, price * tokens / divisor, rtol=0.01)  # the bound takes a little off the mean
    assert made.unit[0] == pytest.approx(2.5 * 0.015 * 124.67 / divisor)
    met = oracles.met_probability(delay, np.full(4, 0.8), np.zeros(4), 180.0)
    np.testing.assert_allclose(made.world.service_mean[:, 0], met, rtol=1e-5)


TRIAL = {  # of an independent simulation in NumPy: constants of copac_ucb, forecaster, reward/LP, violation per slot
    "as published": ({}, "oracle", 0.443, 1.05),
    "eta x 10": ({"eta_scale": 10.0}, "oracle", 0.477, 1.01),
    "eta x 10, L/8": ({"eta_scale": 10.0, "delta": np.exp(-12.4 / 8)}, "oracle", 0.764, 0.45),
    "realised": ({"eta_scale": 10.0, "delta": np.exp(-12.4 / 8), "dual_signal": "realised"}, "oracle", 0.963, -0.10),
    "resolving": ({"eta_scale": 10.0, "delta": np.exp(-12.4 / 8), "targets": "resolving"}, "oracle", 0.977, -0.07),
    "literal": ({"targets": "literal"}, "oracle", 0.667, 0.48),
    "past demand only": ({}, "past_only", 0.357, 1.15),
}


@pytest.mark.slow
@pytest.mark.parametrize("row", TRIAL)
def test_an_independent_trial_of_the_published_rule_is_reproduced(row: str) -> None:
    """The paper's world per token, 64 runs: rewards to .005 and violations to .01, some five standard errors."""
    rule, forecaster, reward_share, violation = TRIAL[row]
    horizon, runs = 10_000, 64
    made = worlds.instance(
        models=catalogues.find("copac_paper"),
        horizon=horizon,
        demand={"process": "normal", "mean": 2.0, "variance": 0.5, "counts": "none", "maximum": 5.34},
        budget_per_task=None,
        budget_usd=8000.0,
        cost_unit="per_token",
        cost_bound_multiple=2.5,
        target=0.8,
        latency_slo_s=180.0,
        edge_throughput=1.0,
        budget_rule="cross",
        demand_seen="after",
    )
    world = made.world
    policy = worlds.policy("copac_ucb", forecaster=forecaster, **{"delta": float(np.exp(-12.4)), **rule})
    books = worlds.play(world, policy, runs=runs, marks=(horizon,)).world
    demand, served, service = (
        ledger.host_value(getattr(books, name), world.scale)[0, 0] for name in ("demand", "served", "service")
    )
    reward = served @ np.asarray(world.reward_mean, float)
    best = benchmark.fluid(
        reward=np.asarray(world.reward_mean, float),
        consumption=np.asarray(world.consumption_mean, float),
        service=np.asarray(world.service_mean, float),
        throughput=np.ones(4),
        budget=np.broadcast_to(made.budget / made.unit, (runs, 1)),
        target=np.array([0.8]),
        demand=demand,
    )
    assert (reward / best.value).mean() == pytest.approx(reward_share, abs=0.005)
    assert (0.8 * demand - service[:, 0]).mean() / horizon == pytest.approx(violation, abs=0.01)
