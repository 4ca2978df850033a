"""The rivals of the primal-dual loop play the same rule in the same world as the engine."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest

from envs import ledger
from experiments.bench import instance as instances
from experiments.bench import primal_dual
from experiments.bench.instance import Plain
from experiments.bench.primal_dual import Totals
from tests import worlds

pytestmark = pytest.mark.rival

HORIZON, RUNS, PYTHON_RUNS = 2000, 512, 64
SHORT, MANY_RUNS = 500, 4096  # where the prices' speed matters most, and runs enough to see it
SIGMAS = 4.8  # 48 means and 36 variances are compared with the engine's: a false alarm in 7000 sets of seeds

RIVALS: dict[str, tuple[Callable[..., Totals], int, dict[str, Any]]] = {
    "numba float32": (primal_dual.numba_parallel, RUNS, {}),
    "numba float64": (primal_dual.numba_parallel, RUNS, {"dtype": np.float64}),
    "numba run by run float32": (primal_dual.numba_run_by_run, RUNS, {}),
    "numba run by run float64": (primal_dual.numba_run_by_run, RUNS, {"dtype": np.float64}),
    "numpy": (primal_dual.numpy_over_runs, RUNS, {}),
    "python": (primal_dual.python_loop, PYTHON_RUNS, {}),
}
EVERY_RIVAL = pytest.mark.parametrize("name", RIVALS)


def play(name: str, instance: Plain, *, runs: int | None = None, seed: int = 0) -> Totals:
    if name.startswith("numba"):
        pytest.importorskip("numba")
    rival, most, options = RIVALS[name]
    return rival(instance, most if runs is None else runs, seed, **options)


@cache
def engine(horizon: int, runs: int) -> Totals:
    """The engine's totals, played once for all rivals."""
    policy = worlds.policy(
        "primal_dual_resolving", forecaster="oracle", confidence={"confidence": instances.CONFIDENCE}, eta=instances.ETA
    )
    world = instances.world(horizon)
    end = worlds.play(world, policy, runs=runs, marks=(horizon,), root_seed=1).world
    scales = {"reward": world.scale, "spent": world.consumption_scale, "service": world.scale, "served": world.scale}
    read = {name: ledger.host_value(getattr(end, name), scale)[0, 0] for name, scale in scales.items()}
    return Totals(
        reward=read["reward"], spent=read["spent"][:, 0], service=read["service"][:, 0], served=read["served"].sum(1)
    )


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Between two means, in standard errors of their difference."""
    return abs(ours.mean() - theirs.mean()) / np.sqrt(ours.var() / len(ours) + theirs.var() / len(theirs))


def spread_distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The same between two variances."""
    return distance((ours - ours.mean()) ** 2, (theirs - theirs.mean()) ** 2)


@EVERY_RIVAL
@pytest.mark.parametrize(("horizon", "runs"), [(SHORT, MANY_RUNS), (HORIZON, RUNS)])
def test_totals_agree_with_the_engine_in_law(name: str, horizon: int, runs: int) -> None:
    rival_runs = PYTHON_RUNS if name == "python" else 2 * runs
    theirs, ours = play(name, instances.plain(horizon), runs=rival_runs), engine(horizon, runs)
    for field in ("reward", "spent", "service", "served"):
        assert distance(getattr(ours, field), getattr(theirs, field)) < SIGMAS, field
    # Totals that agree in the mean alone could come of a broken generator: of runs or outcomes that go together.
    for field in ("reward", "service"):
        assert spread_distance(getattr(ours, field), getattr(theirs, field)) < SIGMAS, field
    assert spread_distance(ours.reward + ours.service, theirs.reward + theirs.service) < SIGMAS


@EVERY_RIVAL
@pytest.mark.parametrize("horizon", [1, 60, HORIZON])
def test_nobody_overspends(name: str, horizon: int) -> None:
    """Over 60 rounds the dearest models soon stop fitting; of a budget for 1 round only two models ever fit."""
    instance = instances.plain(horizon)
    totals = play(name, instance, seed=1)
    assert np.all(totals.spent <= instance.budget)
    for amount in (totals.reward, totals.service):
        assert np.all((amount >= 0) & (amount <= totals.served))
    assert np.all(totals.served <= horizon)
    if horizon == 60:
        assert np.all(totals.spent > 0.2 * instance.budget)


@EVERY_RIVAL
def test_runs_differ_and_seeds_repeat(name: str) -> None:
    instance = instances.plain(300)
    first, again, other = (play(name, instance, runs=70, seed=seed) for seed in (5, 5, 6))
    assert first.spent.shape == (70,)
    np.testing.assert_array_equal(first.spent, again.spent)
    # Costs are continuous: equal sums would come of equal random numbers.
    assert len(np.unique(np.concatenate([first.spent, other.spent]))) == 140


@pytest.mark.parametrize("name", [name for name in RIVALS if name != "python"])
def test_caps_that_need_many_models_a_round(name: str) -> None:
    """Caps of 0.25 and 0.3 share a round among four models: more ranks than in the world of the bench.

    Four comparisons a rival of numbers around zero, 4.8 standard errors: a false alarm in 30,000 sets of seeds.
    """
    usual = instances.plain(500)
    instance = replace(usual, caps=np.where(usual.caps < 1, 0.3, 0.25))
    theirs, plain = play(name, instance, runs=256), play("python", instance, runs=64, seed=1)
    for field in ("reward", "spent", "service", "served"):
        assert distance(getattr(plain, field), getattr(theirs, field)) < SIGMAS, field


def test_what_is_computed_anew_in_every_round_is_what_was_kept() -> None:
    instance = instances.shortened(instances.plain(HORIZON), 300)
    kept, anew = (loop(instance, 3, 4) for loop in (primal_dual.python_loop, primal_dual.python_anew))
    for field in ("reward", "spent", "service", "served"):
        np.testing.assert_array_equal(getattr(kept, field), getattr(anew, field))


def test_mabwiser_plays_every_round_and_nothing_is_forbidden() -> None:
    pytest.importorskip("mabwiser")
    totals = primal_dual.mabwiser_ucb(instances.shortened(instances.plain(HORIZON), 40), 2, 0)
    np.testing.assert_array_equal(totals.served, 40.0)
    assert np.all((totals.reward > 0) & (totals.reward < 40) & (totals.spent > 0))
