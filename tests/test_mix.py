"""The best mix of models: on every shipped catalogue against HiGHS, and what happens where the solver has no answer."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from bandits.solvers import lp, mix
from envs import catalogue, outcomes
from experiments.engine import deployment_regret
from tests import studies, worlds

MODELS = 56  # of the largest catalogue; the others are padded
SLOS = {
    "copac_paper": (1.0, 10.0, 30.0),
    "frugalgpt": (0.3, 0.7, 0.8, 1.0, 5.0),
    "paretobandit": (0.3, 0.7, 1.0, 8.0),
    "routerbench": (0.3, 1.0, 6.0),
}
TARGETS = (0.0, 0.3, 0.5, 0.8, 0.99)
BUDGETS = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-1)  # USD per task
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}  # of the sizes of the value's terms


def test_the_grid_has_every_shipped_catalogue() -> None:
    assert set(SLOS) == set(catalogue.shipped())


@cache
def grid() -> tuple[np.ndarray, ...]:
    """(reward, consumption, service, spending, wanted, caps) of every case, as ``mix.soft_mix`` takes them."""
    cases = []
    for name, slos in SLOS.items():
        models = catalogue.find(name)
        world = worlds.instance(models=models, padded=MODELS, dtype=np.float64)
        network = np.where(models.tier_cloud, worlds.SETTINGS["cloud_rtt_s"], 0.0)
        caps = np.where(world.world.problem.exists, world.world.problem.throughput, 0.0)
        for slo in slos:
            met = outcomes.service_probability(models.latency_s, models.latency_cv, network, slo)
            service = np.pad(met, (0, MODELS - len(met)))[:, None]
            for target in TARGETS:
                for budget in BUDGETS:
                    means = world.world.reward_mean, world.world.consumption_mean, service
                    cases.append((*means, np.minimum(budget / world.unit, 1.0), np.array([target]), caps))
    reward, consumption, service, spending, wanted, caps = (np.stack(part) for part in zip(*cases, strict=True))
    return reward, consumption, service, spending, wanted, caps


def by_highs(case: tuple[np.ndarray, ...], penalty: float) -> tuple[float, float]:
    """(value, size of its terms) of one case; the budget's row is in units of the budget, as HiGHS's tolerance asks."""
    reward, consumption, service, spending, wanted, caps = (part.astype(float) for part in case)
    affordable = np.where(spending > 0, caps, np.where(consumption[:, 0] > 0, 0.0, caps))
    unit = np.where(spending > 0, spending, 1.0)
    rows = np.block([[(consumption / unit).T, np.zeros((1, 1))], [-service.T, -np.eye(1)], [np.ones(len(reward)), 0.0]])
    objective = np.append(reward, -penalty)
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    found = linprog(
        -objective,
        A_ub=rows,
        b_ub=np.concatenate([spending / unit, -wanted, [1.0]]),
        bounds=[(0.0, most) for most in np.append(affordable, wanted)],
        options=tight,
    )
    assert found.status == 0, found.message
    return -found.fun, float(np.abs(objective) @ found.x)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
def test_every_shipped_catalogue_agrees_with_highs(dtype: str) -> None:
    """Services from 1e-126 (1e-37) to 1, budgets from none to plenty, targets from none to out of reach."""
    cases = tuple(part.astype(dtype) for part in grid())
    assert cases[2][cases[2] > 0].min() < {"float32": 1e-34, "float64": 1e-120}[dtype]
    with jax.enable_x64(dtype == "float64"):
        solve = jax.jit(jax.vmap(mix.soft_mix, in_axes=(0,) * 6 + (None,)))
        solution = jax.device_get(solve(*map(jnp.asarray, cases), jnp.asarray(5.0, dtype)))
    assert np.all(solution.status == lp.Status.OPTIMAL)
    chosen = np.arange(len(cases[0])) if dtype == "float64" else np.arange(0, len(cases[0]), 3)
    value, size = np.array([by_highs(tuple(part[k] for part in cases), 5.0) for k in chosen]).T
    assert np.all(np.abs(solution.value[chosen] - value) <= TOLERANCE[dtype] * size)
    assert np.mean(solution.x[:, :MODELS].sum(axis=1) > 0.5) > 0.4


@pytest.mark.slow
def test_the_clairvoyant_rule_earns_what_scipy_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """FrugalGPT's models at 0.8 s: most of them meet it with probabilities down to 1e-37, and half the tasks should."""
    budgets = "sweep.budget_per_task=[1e-5,1e-4,1e-3]"
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        command.done(
            *("env=frugalgpt", "env.latency_slo_s=0.8", "env.target=0.5", "policies=[lp_oracle]", "demand=constant"),
            *("demand.counts=poisson", budgets, "horizon=300", "seeds=16", "out=study"),
        )
        rows = studies.rows(tmp_path / "study")
    assert {row["invalid"] for row in rows} == {0}
    for budget in (1e-5, 1e-4, 1e-3):
        mine = [row for row in rows if row["budget_per_task"] == budget]
        shares = np.array([row["reward_expected"] / row["benchmark"] for row in mine])
        assert len(mine) == 16
        assert 0.95 < shares.mean() < 1.01


def solution(**changes: float) -> lp.Solution:
    """A solution of one model and one service, optimal unless changed."""
    numbers = {"value": 0.5, "status": lp.Status.OPTIMAL, "residual": 0.0, "gap": 0.0, "steps": 3, **changes}
    scalars = {name: jnp.asarray(number) for name, number in numbers.items()}
    return lp.Solution(x=jnp.array([0.5, 0.0]), dual=jnp.array([1.0, 2.0, 3.0]), **scalars)


def test_usable_is_what_was_measured_and_not_a_flag() -> None:
    assert mix.usable(solution())
    assert mix.usable(solution(status=lp.Status.INACCURATE, residual=1e-4, gap=1e-4))
    assert not mix.usable(solution(status=lp.Status.INACCURATE, gap=0.5))  # feasible, and far from optimal
    assert not mix.usable(solution(status=lp.Status.STEP_LIMIT, residual=0.1))
    assert not mix.usable(solution(status=lp.Status.INFEASIBLE, residual=1e-4, gap=1.0))
    np.testing.assert_array_equal(mix.prices(solution(gap=0.5)), 0.0)


ONE = jnp.array([0.5]), jnp.array([[0.1]]), jnp.array([[0.9]]), jnp.array([0.2]), jnp.array([0.3]), jnp.ones(1)


def test_an_undecided_program_is_served_as_far_as_budgets_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Declining would teach nothing, and the same program would come back; its round is counted all the same."""
    best = jax.jit(mix.elastic_mix)(*ONE, jnp.asarray(5.0))
    assert best.shares == 1 and not best.undecided
    for spending, wanted in ((0.2, 0.5), (0.025, 0.25), (0.0, 0.0)):  # a model that costs 0.1 at a share of 0.5
        monkeypatch.setattr(lp, "maximize", lambda *_, **__: solution(status=lp.Status.INACCURATE, gap=0.5))
        some = mix.elastic_mix(*ONE[:3], jnp.array([spending]), *ONE[4:], jnp.asarray(5.0))
        assert some.undecided
        np.testing.assert_allclose(some.shares, [wanted], rtol=1e-6)
        np.testing.assert_array_equal(some.prices, 0.0)


def test_an_undecided_point_has_no_more_shares_than_tasks() -> None:
    wide = replace(solution(status=lp.Status.STEP_LIMIT, residual=0.5), x=jnp.array([1.0, 0.6, 0.9, 0.0]))
    some = mix.chosen(wide, jnp.zeros((3, 1)), jnp.ones(1))
    np.testing.assert_allclose(some.shares, np.array([1.0, 0.6, 0.9]) / 2.5, rtol=1e-6)


def test_without_an_answer_the_worth_of_a_deployment_is_not_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    world = worlds.world(models=1)
    world = replace(world, **{name: jnp.asarray(getattr(world, name)) for name in ("reward_mean", "service_mean")})
    books = deployment_regret.open_books(world)
    live, demand = jnp.ones(1, bool), jnp.asarray(1000.0, jnp.float32)
    assert np.isfinite(jax.jit(deployment_regret.appraise)(books, world, live, demand).value)
    monkeypatch.setattr(lp, "maximize", lambda *_, **__: solution(status=lp.Status.INACCURATE, gap=0.5))
    assert np.isnan(deployment_regret.appraise(books, world, live, demand).value)
