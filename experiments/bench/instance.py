"""The one world that all rivals of a loop play: RouterBench's models, one task a round, money and a latency target."""

from dataclasses import dataclass, replace

import numpy as np

from envs import build as instances
from envs import catalogue as catalogues
from envs.build import EdgeCloud
from envs.demand import arrivals
from envs.inventory import ArrivalPattern
from envs.world import World

BUDGET_USD, TARGET = 3.0e-4, 0.85
CONFIDENCE, ETA = 0.25, 0.3


@dataclass(frozen=True, kw_only=True)
class Plain:
    """The world as plain arrays, for rivals: M models, one resource, one covering metric, demand 1 in every round.

    A round: the rule names a share for each model; one model, or none, is drawn from them; its quality is Bernoulli,
    its cost is drawn from its quantile table (linear between equally spaced knots), its service is Bernoulli. A
    dispatch whose worst case does not fit in what is left of the budget is declined.
    """

    reward: np.ndarray  # [M] true mean, Bernoulli
    cost_bound: np.ndarray  # [M] known worst case; the dearest model's is 1
    cost_table: np.ndarray  # [M, knots] quantiles
    service: np.ndarray  # [M] true mean, Bernoulli
    caps: np.ndarray  # [M] largest share
    budget: float  # total, in units of the dearest model's worst case
    target: float  # wanted mean service
    horizon: int  # rounds
    confidence: float  # gamma = confidence · log(3 M T)
    eta: float  # dual step size


@dataclass(frozen=True, kw_only=True)
class Totals:
    """What each run came to after the whole horizon, [runs] each."""

    reward: np.ndarray
    spent: np.ndarray  # in units of the dearest model's worst case
    service: np.ndarray
    served: np.ndarray  # rounds not declined


def world(horizon: int, dtype: type = np.float32) -> World:
    """The engine's own form of it."""
    process = arrivals.build("constant", {"process": "constant", "mean": 1.0, "counts": "none"})
    catalogue = catalogues.find("routerbench")
    return instances.build(catalogue, process, horizon, _settings(), catalogue.num_models, dtype).world


def plain(horizon: int) -> Plain:
    """The rivals' form of it, float64."""
    made = world(horizon, np.float64)
    return Plain(
        reward=np.asarray(made.reward_mean),
        cost_bound=np.asarray(made.problem.consumption_bound)[:, 0],
        cost_table=np.asarray(made.consumption_table)[:, 0],
        service=np.asarray(made.service_mean)[:, 0],
        caps=np.asarray(made.problem.throughput),
        budget=float(made.problem.budget[0]),
        target=TARGET,
        horizon=horizon,
        confidence=CONFIDENCE,
        eta=ETA,
    )


def shortened(instance: Plain, rounds: int) -> Plain:
    """The same world cut off after ``rounds``: for rivals too slow to play it to the end."""
    return replace(instance, budget=instance.budget * rounds / instance.horizon, horizon=rounds)


def _settings() -> EdgeCloud:
    schedule = ArrivalPattern(
        arrivals="start",
        arrival_order="listed",
        arrival_span=0.6,
        initial_models=1,
        arrival_seed=0,
        arrival_at=(),
        retirement_at=(),
        lifetime=None,
    )
    return EdgeCloud(
        budget_per_task=BUDGET_USD,
        budget_usd=None,
        cost_unit=None,
        cost_cv=None,
        latency_cv=None,
        resources={},
        budget_rule="skip",
        target=TARGET,
        latency_slo_s=6.0,
        floors={},
        cloud_rtt_s=0.1,
        edge_throughput=0.6,
        cloud_throughput=1.0,
        quality_noise="bernoulli",
        quality_concentration=4.0,
        cost_bound_multiple=4.0,
        demand_seen="before",
        arrival_pattern=schedule,
        max_deployed=None,
        stages=None,
        stage_exponent=1 / 3,
        deployment_cost_usd=0.0,
    )
