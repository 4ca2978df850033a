"""Made-up results with plausible curves: what figures and reports are tested on, without simulating anything."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.results.cell_file import CellResult
from experiments.results.cell_info import CellInfo

METRICS = (
    "reward",
    "reward_expected",
    "benchmark",
    "regret",
    "regret_realised",
    "violation",
    "violation_worst",
    "overspend",
    "declined",
    "refused",
    "invalid",
    "clipped",
    "served",
    "demand",
    "forecast_total",
    "forecast_error",
    "spent_money",
    "violation_latency",
    "dual_money",
    "dual_latency",
    "regret_waiting",
    "regret_deployment",
    "regret_routing",
    "benchmark_fluid",
    "activations",
    "evictions",
    "deployment_gap",
    "pace",
)
PARTS = ("regret_waiting", "regret_deployment", "regret_routing")
POWERS = {"ucb": 0.5, "thompson": 0.52, "explore_first": 0.67, "greedy": 0.9, "random": 1.0, "oracle": 0.0}
MEAN_DEMAND = 3.0


def make_cell(
    policy: str = "ucb",
    *,
    horizon: int = 1000,
    budget_per_task: float | None = 0.002,
    target: float | None = 0.8,
    runs: int = 8,
    marks: int = 25,
    models: Sequence[str] = ("edge-small", "edge-large", "cloud-mini", "cloud-pro"),
    clairvoyant: bool = False,
    seed: int = 0,
    **info: Any,
) -> CellResult:
    """One cell whose regret grows like t to the policy's power (:data:`POWERS`, 0.6 for other names)."""
    budget_digits = 0 if budget_per_task is None else round(1e7 * budget_per_task)
    generator = np.random.default_rng([seed, horizon, budget_digits, *policy.encode()])
    eval_rounds = np.unique(np.round(np.geomspace(1, horizon, marks)).astype(int))
    truth = _truth(len(models))
    return CellResult(
        info=replace(_info(policy, horizon, budget_per_task, target, clairvoyant, len(models)), **info),
        seeds=np.arange(runs),
        eval_rounds=eval_rounds,
        metrics=METRICS,
        curves=_curves(generator, policy, eval_rounds, budget_per_task, target, runs, horizon),
        models=tuple(models),
        estimates=("reward", "money", "latency"),
        benchmark_share=_mix(len(models), 0.0),
        truth=truth,
        extras=_always_there(len(models), horizon, len(eval_rounds), runs),
        **_beliefs(generator, eval_rounds, truth),
    )


def make_staged_cell(
    policy: str = "ucb",
    *,
    models: int | Sequence[str] = 11,
    max_deployed: int | None = 4,
    stages: int | None = None,
    arrivals: str = "even",
    parts: Sequence[float] = (0.2, 0.3, 0.5),
    linear: bool = False,
    seed: int = 0,
    **options: Any,
) -> CellResult:
    """A cell whose models come (the first five are there from the start) and go (the first retires at 70 %).

    ``parts`` are what waiting, deployment and routing have of regret; by default there are T^(1/3) stages. The models
    live are those with the largest weight, newer ones having more of it; a newcomer is first live and first serves most
    at the starts of the first and third stage after its arrival, and the last one never.
    """
    names = (
        [f"provider-{number}/model-{number * 7}b" for number in range(models)] if isinstance(models, int) else models
    )
    plain = make_cell(policy, models=names, seed=seed, **options)
    horizon, runs = int(plain.info.horizon), len(plain.seeds)
    stages = round(horizon ** (1 / 3)) if stages is None else stages
    marks = len(plain.eval_rounds)
    eval_rounds = np.linspace(horizon / marks, horizon, marks).astype(int) if linear else plain.eval_rounds
    there, arrival, retirement = _presence(len(names), horizon, eval_rounds)
    rank = there * (1.0 + np.arange(len(names)))
    cut = np.sort(rank, axis=1)[:, -min(max_deployed or len(names), len(names))][:, None]
    live = there * (rank >= cut)
    demand = plain.curve("demand").mean(axis=0)
    generator = np.random.default_rng([seed, *policy.encode()])
    served = live * generator.dirichlet(0.5 * np.ones(len(names)), marks)
    length, longer = divmod(horizon, stages)
    starts = np.arange(stages) * length + np.minimum(np.arange(stages), longer)
    after = np.minimum(np.searchsorted(starts, arrival), stages - 1)
    reached = {
        name: starts[np.minimum(after + lag, stages - 1)] for name, lag in (("first_live", 0), ("first_best", 2))
    }
    first = {name: np.tile(rounds, (runs, 1)) for name, rounds in reached.items()}
    for rounds in first.values():
        rounds[:, -1] = -1
    curves = plain.curves.copy()
    for name, part in zip(PARTS, parts, strict=True):
        curves[:, :, METRICS.index(name)] = part / sum(parts) * plain.curve("regret")
    begun = np.searchsorted(starts, eval_rounds, side="left")
    curves[:, :, METRICS.index("activations")] = 4.0 + 0.5 * begun
    curves[:, :, METRICS.index("evictions")] = 0.25 * begun
    curves[:, :, METRICS.index("deployment_gap")] = 0.01
    curves[:, :, METRICS.index("pace")] = 1.2
    changed = {"deployment": "stageroute", "stages": stages, "max_deployed": max_deployed, "arrivals": arrivals}
    return replace(
        plain,
        info=replace(plain.info, **changed | {name: options[name] for name in changed if name in options}),
        eval_rounds=eval_rounds,
        curves=curves,
        share=_so_far(served, demand),
        extras={
            "arrival": arrival,
            "retirement": retirement,
            "live": live * (0.6 if policy == "random" else 1.0),
            "oracle_share": _so_far(live / np.maximum(live.sum(axis=1, keepdims=True), 1), demand),
            **first,
        },
    )


def without_stages(cell: CellResult) -> CellResult:
    """The cell as it would have been stored before there were stages."""
    kept = [number for number, name in enumerate(METRICS) if number < METRICS.index("regret_waiting")]
    names = ("routing", "stages", "max_deployed", "arrivals")
    return replace(
        cell,
        info=replace(cell.info, **dict.fromkeys(names)),
        metrics=METRICS[: len(kept)],
        curves=cell.curves[:, :, kept],
        extras={},
    )


def make_study(
    policies: Sequence[str] = ("ucb", "thompson", "explore_first", "greedy"),
    budgets: Sequence[float | None] = (0.001, 0.002, 0.004),
    horizons: Sequence[int] = (1000, 4000, 16000, 64000),
    *,
    oracle: bool = True,
    **options: Any,
) -> list[CellResult]:
    """Every policy at every budget and horizon, and a clairvoyant one."""
    names = [*policies, "oracle"] if oracle else policies
    return [
        make_cell(name, budget_per_task=budget, horizon=horizon, clairvoyant=name == "oracle", **options)
        for budget in budgets
        for horizon in horizons
        for name in names
    ]


def _info(
    policy: str, horizon: int, budget: float | None, target: float | None, clairvoyant: bool, num_models: int
) -> CellInfo:
    return CellInfo(
        cell=f"{policy}-{horizon}-{budget}",
        policy=policy,
        routing=policy,
        deployment="everything",
        stages=round(horizon ** (1 / 3)),
        max_deployed=None,
        arrivals="start",
        env="edge_cloud",
        demand="poisson",
        forecaster="ewma",
        num_models=num_models,
        horizon=horizon,
        budget=None if budget is None else budget * MEAN_DEMAND * horizon,
        budget_per_task=budget,
        target=target,
        clairvoyant=clairvoyant,
        benchmark_feasible=True,
        wall_s=0.25,
        swept={"horizon": horizon, "budget_per_task": budget},
    )


def _curves(
    generator: np.random.Generator,
    policy: str,
    eval_rounds: np.ndarray,
    budget: float | None,
    target: float | None,
    runs: int,
    horizon: int,
) -> np.ndarray:
    """[R, E, K]"""
    power = POWERS.get(policy, 0.6)
    rounds = np.broadcast_to(eval_rounds.astype(float), (runs, len(eval_rounds)))
    wiggle = 1 + 0.15 * generator.standard_normal((runs, 1)) + 0.01 * generator.standard_normal(rounds.shape)
    demand = MEAN_DEMAND * rounds + np.sqrt(rounds) * generator.standard_normal((runs, 1))
    demand = np.maximum.accumulate(np.maximum(demand, 0.5), axis=1)
    value = 0.6 + 0.3 * min(1.0, (0.002 if budget is None else budget) / 0.004)
    benchmark = value * demand
    regret = np.minimum(0.8 * rounds**power * wiggle, 0.9 * benchmark)
    if power == 0.0:
        regret = 0.3 * np.sqrt(rounds) * generator.standard_normal((runs, 1)) * 0.1
    reward = benchmark - regret
    noise = np.sqrt(rounds) * 0.2 * generator.standard_normal((runs, 1))
    worst = 0.0 if target is None else 1.0
    violation = worst * np.maximum(0.0, 0.3 * rounds ** min(power, 0.7) * wiggle - 0.2 * generator.random((runs, 1)))
    spend = (0.002 if budget is None else 0.96 * budget) * demand * np.clip(wiggle, 0.8, 1.0)
    error = 0.6 * rounds**-0.35 * np.abs(1 + 0.5 * generator.standard_normal((runs, 1)))
    total = demand[:, -1:] * (1 + error * np.sign(generator.standard_normal((runs, 1))))
    declined = 0.01 * demand
    columns = {
        "reward": reward + noise,
        "reward_expected": reward,
        "benchmark": benchmark,
        "regret": regret,
        "regret_realised": regret - noise,
        "violation": violation,
        "violation_worst": 1.1 * violation,
        "overspend": np.zeros(rounds.shape),
        "declined": declined,
        "refused": 0.5 * declined,
        "invalid": np.zeros(rounds.shape),
        "clipped": np.zeros(rounds.shape),
        "served": demand - declined,
        "demand": demand,
        "forecast_total": total,
        "forecast_error": error,
        "spent_money": spend,
        "violation_latency": violation,
        "dual_money": 0.5 * (1 - np.exp(-rounds / horizon)),
        "dual_latency": np.full(rounds.shape, np.nan),
        "regret_waiting": np.zeros(rounds.shape),
        "regret_deployment": np.zeros(rounds.shape),
        "regret_routing": regret,
        "benchmark_fluid": benchmark,
        "activations": np.full(rounds.shape, 4.0),
        "evictions": np.zeros(rounds.shape),
        "deployment_gap": np.zeros(rounds.shape),
        "pace": np.full(rounds.shape, 0.99),
    }
    return np.stack([columns[name] for name in METRICS], axis=-1)


def _always_there(num_models: int, horizon: int, marks: int, runs: int) -> dict[str, np.ndarray]:
    """What a cell says of its models when all are there from the start and always live."""
    mix = _mix(num_models, 0.0)
    return {
        "arrival": np.zeros(num_models, int),
        "retirement": np.full(num_models, horizon),
        "live": np.ones((marks, num_models)),
        "oracle_share": np.tile(mix, (marks, 1)),
        "first_live": np.zeros((runs, num_models), int),
        "first_best": np.where(np.arange(num_models) == mix.argmax(), 0, -1) * np.ones((runs, 1), int),
    }


def _presence(num_models: int, horizon: int, eval_rounds: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[E, M] 1 where a model is there, and the rounds [M] from which it is there and gone."""
    number = np.arange(num_models)
    arrival = np.where(number < 5, 0, (number - 4) * horizon // (num_models - 3))
    retirement = np.where(number == 0, int(0.7 * horizon), horizon)
    rounds = eval_rounds[:, None] - 1
    return ((rounds >= arrival) & (rounds < retirement)).astype(float), arrival, retirement


def _so_far(share: np.ndarray, demand: np.ndarray) -> np.ndarray:
    """[E, M] shares of all demand so far, from those of each evaluation interval."""
    return np.asarray(np.cumsum(share * np.diff(demand, prepend=0.0)[:, None], axis=0) / demand[:, None])


def _truth(num_models: int) -> np.ndarray:
    """[M, 3] mean reward, cost in USD and service."""
    rank = (np.arange(num_models) + 1) / num_models
    return np.stack([0.35 + 0.55 * rank, 2e-4 * 40.0**rank, 1.0 - 0.4 * rank], axis=1)


def _mix(num_models: int, blur: float) -> np.ndarray:
    """[M] shares that sum to 0.98: some demand is declined."""
    weight = np.exp(-np.abs(np.arange(num_models) - 0.6 * num_models))
    mix = (1 - blur) * weight / weight.sum() + blur / num_models
    return 0.98 * mix


def _beliefs(generator: np.random.Generator, eval_rounds: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    blur = eval_rounds[:, None] ** -0.3
    share = np.stack([_mix(len(truth), float(value)) for value in blur[:, 0]])
    radius = np.minimum(1.0, 1.5 / np.sqrt(1 + eval_rounds[:, None] * share))[:, :, None] * truth[None] * 0.6
    centre = truth[None] + 0.4 * radius * generator.standard_normal(radius.shape)
    return {
        "share": share,
        "lower": np.maximum(centre - radius, 0.0),
        "upper": centre + radius,
        "coverage": np.clip(1 - 0.05 * generator.random(radius.shape), 0, 1),
    }
