"""From a catalogue and a few numbers to a ``World``: units, tables, true means. Host side, float64 until the end."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np

from envs import inventory, ledger, outcomes
from envs.catalogue import Catalogue
from envs.demand.arrivals import Demand, expected_total
from envs.errors import InputError, nearest
from envs.inventory import ArrivalPattern, Inventory
from envs.types import Problem
from envs.world import World

MONEY = "money"
LATENCY = "latency"
PRICE, TOKENS = "usd_per_1k_tokens", "mean_tokens"  # columns of catalogues whose costs depend on env.cost_unit
TOKENS_PER_PRICE = {"per_1k_tokens": 1000.0, "per_token": 1.0}  # what the column of prices is taken to be for

_SMALLEST_SHARE = 1e-30  # of the largest worst case: float32 ends at 1e-38


@dataclass(frozen=True, kw_only=True)
class EdgeCloud:
    """What distinguishes one edge-cloud world from another, apart from its catalogue and demand."""

    budget_per_task: float | None  # USD per task of expected demand; None for no money budget
    budget_usd: float | None  # USD for the whole run, in place of budget_per_task
    cost_unit: str | None  # per_1k_tokens | per_token: costs are prices times tokens; None: the catalogue's cost_usd
    cost_cv: float | None  # of every model's cost; None: the catalogue's
    latency_cv: float | None  # of every model's latency; None: the catalogue's
    resources: Mapping[str, float]  # further hard budgets a task, by catalogue column
    budget_rule: str  # skip | stop | cross | average
    target: float | None  # share of tasks wanted within latency_slo_s; None for none
    latency_slo_s: float
    floors: Mapping[str, float]  # further soft targets, by catalogue column in [0, 1]
    cloud_rtt_s: float
    edge_throughput: float
    cloud_throughput: float
    quality_noise: str  # bernoulli | beta
    quality_concentration: float
    cost_bound_multiple: float  # a task's worst case, as a multiple of the model's mean; see also cost_max_usd
    demand_seen: str  # before | after
    arrival_pattern: ArrivalPattern  # which models exist when
    max_deployed: int | None  # models live at once; None for all
    stages: int | None  # maintenance windows K; None takes round(T^stage_exponent)
    stage_exponent: float
    deployment_cost_usd: float  # for each model that is switched on


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A world with what it takes to read its results: names and units."""

    world: World  # NumPy leaves, ready to be stacked over cells
    models: tuple[str, ...]  # the real models; padding has no name
    resources: tuple[str, ...]  # P names
    services: tuple[str, ...]  # C names
    unit: np.ndarray  # [P] what one normalised unit is worth (USD for money)
    budget: np.ndarray  # [P] total budget in that unit's own terms (USD for money)
    expected_demand: float
    stages: int  # K


@dataclass(frozen=True, kw_only=True)
class _Constraints:
    """A family of constraints on the N models of the catalogue."""

    names: tuple[str, ...]  # K
    mean: np.ndarray  # [N, K] mean consumption in its own unit, or mean service
    limit: np.ndarray  # [K] budget per task, or target


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """The form of a world's arrays: so many models, and numbers of one type."""

    padded: int
    dtype: type

    def rows(self, values: np.ndarray, fill: float = 0.0) -> np.ndarray:
        """[N, ...] -> [padded, ...]."""
        return _pad(np.asarray(values), self.padded, fill).astype(self.dtype)


@dataclass(frozen=True, kw_only=True)
class _Drawn:
    """What tasks may give and cost, on the N models of the catalogue."""

    reward_mean: np.ndarray  # [N]
    reward_table: np.ndarray | None  # [N, knots] where rewards are no Bernoulli variables
    resources: _Constraints
    services: _Constraints
    unit: np.ndarray  # [P] in the resource's own unit
    bound: np.ndarray  # [N, P] worst case of one task, in units
    consumption_table: np.ndarray  # [N, P, knots] in units


@dataclass(frozen=True, kw_only=True)
class _Accounts:
    """How amounts of the P resources are counted in whole quanta (see ``envs.ledger``)."""

    scale: float  # of tasks
    consumption_scale: np.ndarray  # [P]
    budget: np.ndarray  # [P] total, in the resource's own unit
    fee: np.ndarray  # [P] of switching a model on, in the resource's own unit


def build(
    catalogue: Catalogue, demand: Demand, horizon: int, settings: EdgeCloud, padded: int, dtype: type
) -> Instance:
    """The world of ``catalogue`` padded to ``padded`` models, its budget sized for the demand that a planner expects.

    InputError: a resource or floor that the catalogue has no column for, an expected demand of zero, or stages, caps
    and arrivals that do not fit the horizon, the catalogue or each other.
    """
    layout = _Layout(padded=padded, dtype=dtype)
    catalogue = _priced(catalogue, settings)
    stages = _stages(settings, horizon)
    present = inventory.build(settings.arrival_pattern, catalogue, horizon, stages, padded)
    throughput = _throughput(catalogue, settings)
    max_deployed = _max_deployed(settings, catalogue, throughput)
    total = _expected_total(demand, horizon)
    if settings.budget_usd is not None:
        settings = replace(settings, budget_per_task=settings.budget_usd / total)
    drawn = _drawn(catalogue, settings, dtype)
    accounts = _accounts(drawn, settings, horizon * float(demand.maximum), total, catalogue.num_models * stages)
    problem = Problem(
        horizon=np.int32(horizon),
        exists=_pad(np.ones(catalogue.num_models, bool), padded, False),
        budget=(accounts.budget / drawn.unit).astype(dtype),
        target=drawn.services.limit.astype(dtype),
        consumption_bound=layout.rows(drawn.bound, 1.0),
        throughput=layout.rows(throughput, 1.0),
        budget_hard=np.bool_(settings.budget_rule in ("skip", "stop")),
        max_deployed=np.int32(max_deployed),
        expected_demand=dtype(total),
        demand_bound=dtype(float(demand.maximum)),
    )
    deployment_matters = _deployment_matters(settings, present, horizon, max_deployed, catalogue.num_models)
    return Instance(
        world=_world(problem, demand, present, deployment_matters, settings, drawn, accounts, layout),
        models=catalogue.names,
        resources=drawn.resources.names,
        services=drawn.services.names,
        unit=drawn.unit,
        budget=accounts.budget,
        expected_demand=total,
        stages=stages,
    )


def _expected_total(demand: Demand, horizon: int) -> float:
    total = expected_total(demand, horizon)
    if total <= 0:
        raise InputError(f"demand: the expected demand over {horizon} rounds is 0; raise demand.mean")
    return total


def _drawn(catalogue: Catalogue, settings: EdgeCloud, dtype: type) -> _Drawn:
    reward_table: np.ndarray | None = None
    if settings.quality_noise == "beta":
        reward_table = outcomes.beta_table(catalogue.quality, settings.quality_concentration).astype(dtype)
    reward_mean = catalogue.quality if reward_table is None else outcomes.table_mean(reward_table)
    resources = _resources(catalogue, settings)
    services = _services(catalogue, settings, reward_mean)
    unit, bound = _worst_cases(catalogue, settings, resources)
    # One token count drives every resource of a task, so all share the catalogue's spread of cost.
    table = outcomes.bounded_gamma_table(resources.mean / unit, catalogue.cost_cv[:, None], bound)
    return _Drawn(
        reward_mean=reward_mean,
        reward_table=reward_table,
        resources=resources,
        services=services,
        unit=unit,
        bound=bound,
        consumption_table=table.astype(dtype),
    )


def _accounts(drawn: _Drawn, settings: EdgeCloud, most: float, expected: float, switches: int) -> _Accounts:
    """``most`` tasks at the worst, ``expected`` ones, and at most so many ``switches`` of a model."""
    fee = _deployment_cost(settings, drawn.resources)
    paid = switches * fee / drawn.unit
    return _Accounts(
        scale=ledger.scale(most),
        consumption_scale=np.array([ledger.scale(most + float(amount)) for amount in paid]),
        budget=drawn.resources.limit * expected,
        fee=fee,
    )


def _world(
    problem: Problem,
    demand: Demand,
    present: Inventory,
    deployment_matters: bool,
    settings: EdgeCloud,
    drawn: _Drawn,
    accounts: _Accounts,
    layout: _Layout,
) -> World:
    rows, scale = layout.rows, accounts.consumption_scale
    return World(
        problem=problem,
        demand=demand,
        inventory=present,
        deployment_matters=deployment_matters,
        demand_seen=np.bool_(settings.demand_seen == "before"),
        stop_when_refused=np.bool_(settings.budget_rule == "stop"),
        stop_when_crossed=np.bool_(settings.budget_rule == "cross"),
        scale=layout.dtype(accounts.scale),
        consumption_scale=scale.astype(layout.dtype),
        budget=ledger.limit(_exactly(accounts.budget, drawn.unit), scale),
        deployment_cost=ledger.fee(_exactly(accounts.fee, drawn.unit), scale),
        reward_mean=rows(drawn.reward_mean),
        consumption_mean=rows(outcomes.table_mean(drawn.consumption_table)),
        service_mean=rows(drawn.services.mean),
        consumption_table=rows(drawn.consumption_table),
        reward_table=None if drawn.reward_table is None else rows(drawn.reward_table),
        service_is_reward=np.array([name == "quality" for name in drawn.services.names], bool),
    )


def _priced(catalogue: Catalogue, settings: EdgeCloud) -> Catalogue:
    """The catalogue with the costs and spreads that the settings ask for."""
    number = catalogue.num_models
    given = {"cost_cv": settings.cost_cv, "latency_cv": settings.latency_cv}
    changed = {name: np.full(number, value) for name, value in given.items() if value is not None}
    if settings.cost_unit is not None:
        price = _column(catalogue, PRICE, f"env.cost_unit={settings.cost_unit}")
        tokens = _column(catalogue, TOKENS, f"env.cost_unit={settings.cost_unit}")
        changed["cost_usd"] = price * tokens / TOKENS_PER_PRICE[settings.cost_unit]
        changed["cost_max_usd"] = np.full(number, np.nan)  # that of the catalogue is in its own costs
    return replace(catalogue, **changed)


def _stages(settings: EdgeCloud, horizon: int) -> int:
    """The number of maintenance windows, K."""
    if settings.stages is None:
        return min(max(round(horizon**settings.stage_exponent), 1), horizon)
    if settings.stages > horizon:
        raise InputError(f"env.stages is {settings.stages}; it must be at most the {horizon} rounds of the horizon")
    return settings.stages


def _throughput(catalogue: Catalogue, settings: EdgeCloud) -> np.ndarray:
    """[N] caps: the catalogue's own column if it has one, else by tier."""
    given = catalogue.extras.get("throughput")
    if given is None:
        return np.where(catalogue.tier_cloud, settings.cloud_throughput, settings.edge_throughput)
    if given.dtype.kind != "f" or not ((given > 0) & (given <= 1)).all():
        raise InputError(f"{catalogue.path}: column 'throughput' must hold a number in (0, 1] for every model")
    return given


def _max_deployed(settings: EdgeCloud, catalogue: Catalogue, throughput: np.ndarray) -> int:
    """How many models may be live at once."""
    number, most = catalogue.num_models, settings.max_deployed
    if most is None:
        return number
    if most > number:
        raise InputError(f"env.max_deployed is {most}; it must be at most the {number} models of {catalogue.path}")
    reach = float(np.sort(throughput)[-most:].sum())
    if reach < 1.0 - 1e-9:
        raise InputError(
            f"env.max_deployed={most}: the largest throughput caps of {most} models sum to {reach:g}, so they cannot "
            "serve all demand; raise max_deployed or the caps (env.edge_throughput, env.cloud_throughput)"
        )
    return most


def _deployment_matters(settings: EdgeCloud, present: Inventory, horizon: int, max_deployed: int, number: int) -> bool:
    """Whether what can serve ever changes, is capped, or costs something to switch on."""
    comes_or_goes = (present.arrival[:number] > 0) | (present.retirement[:number] < horizon)
    return bool(comes_or_goes.any() or max_deployed < number or settings.deployment_cost_usd > 0)


def _exactly(amount: np.ndarray, unit: np.ndarray) -> list[Fraction]:
    """Amounts [P] in normalised units, without rounding."""
    return [Fraction(float(a)) / Fraction(float(u)) for a, u in zip(amount, unit, strict=True)]


def _deployment_cost(settings: EdgeCloud, resources: _Constraints) -> np.ndarray:
    """[P] what switching a model on costs, in each resource's own unit: money alone."""
    if settings.deployment_cost_usd > 0 and MONEY not in resources.names:
        raise InputError("env.deployment_cost_usd is charged to the money budget; give env.budget_per_task too")
    return np.array([settings.deployment_cost_usd if name == MONEY else 0.0 for name in resources.names])


def _worst_cases(catalogue: Catalogue, settings: EdgeCloud, resources: _Constraints) -> tuple[np.ndarray, np.ndarray]:
    """(unit [P] in the resource's own unit, worst case of one task [N, P] in that unit, of which the largest is 1).

    A resource that nobody consumes has the unit 1. InputError where consumptions lie too far apart for float32.
    """
    bound = settings.cost_bound_multiple * resources.mean
    if MONEY in resources.names:
        known, money = catalogue.cost_max_usd, resources.names.index(MONEY)
        bound[:, money] = np.where(np.isnan(known), bound[:, money], known)
    largest = bound.max(axis=0, initial=0.0)
    unit = np.where(largest > 0, largest, 1.0)
    share = resources.mean / unit
    if ((resources.mean > 0) & ~(share > _SMALLEST_SHARE)).any():
        row, column = np.argwhere((resources.mean > 0) & ~(share > _SMALLEST_SHARE))[0]
        raise InputError(
            f"{catalogue.path}: {catalogue.names[row]} needs {resources.mean[row, column]:g} of "
            f"{resources.names[column]}, less than {_SMALLEST_SHARE:g} of the largest worst case, "
            f"{largest[column]:g}; use 0 for what is free"
        )
    return unit, bound / unit


def _pad(values: np.ndarray, padded: int, fill: float | bool) -> np.ndarray:
    """[N, ...] -> [padded, ...]."""
    missing = np.full((padded - values.shape[0], *values.shape[1:]), fill, values.dtype)
    return np.concatenate([values, missing])


def _resources(catalogue: Catalogue, settings: EdgeCloud) -> _Constraints:
    """Money first, then the resources named by their column."""
    names, means, limits = [], [], []
    if settings.budget_per_task is not None:
        names, means, limits = [MONEY], [catalogue.cost_usd], [settings.budget_per_task]
    for column, amount in sorted(settings.resources.items()):
        mean = _column(catalogue, column, f"env.resources.{column}")
        if not (mean >= 0).all():
            raise InputError(
                f"env.resources.{column}: column {column!r} of {catalogue.path} must be >= 0 for every model"
            )
        names.append(column)
        means.append(mean)
        limits.append(amount)
    return _family(names, means, limits, catalogue.num_models)


def _services(catalogue: Catalogue, settings: EdgeCloud, reward_mean: np.ndarray) -> _Constraints:
    """The latency target first, then the floors named by their column; `quality` is the realised reward itself."""
    names, means, limits = [], [], []
    if settings.target is not None:
        network = np.where(catalogue.tier_cloud, settings.cloud_rtt_s, 0.0)
        met = outcomes.service_probability(catalogue.latency_s, catalogue.latency_cv, network, settings.latency_slo_s)
        names, means, limits = [LATENCY], [met], [settings.target]
    for column, wanted in sorted(settings.floors.items()):
        mean = reward_mean if column == "quality" else _column(catalogue, column, f"env.floors.{column}")
        if not ((mean >= 0) & (mean <= 1)).all():
            raise InputError(f"env.floors.{column}: column {column!r} of {catalogue.path} must lie in [0, 1]")
        names.append(column)
        means.append(mean)
        limits.append(wanted)
    return _family(names, means, limits, catalogue.num_models)


def _family(names: list[str], means: list[np.ndarray], limits: list[float], num_models: int) -> _Constraints:
    mean = np.stack(means, axis=1) if means else np.zeros((num_models, 0))
    return _Constraints(names=tuple(names), mean=mean, limit=np.array(limits, float))


def _column(catalogue: Catalogue, column: str, where: str) -> np.ndarray:
    numeric = [name for name, values in catalogue.extras.items() if values.dtype.kind == "f"]
    if column not in numeric:
        known = nearest(column, numeric) if numeric else "it has no further numeric columns"
        raise InputError(f"{where}: {catalogue.path} has no numeric column {column!r}; {known}")
    return catalogue.extras[column]
