"""Configuration: a plain mapping, as Hydra composes it, becomes validated frozen dataclasses, once.

Nothing downstream reads a DictConfig. Every refusal is an ``InputError`` with one sentence.
"""

import hashlib
import importlib.util
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bandits import parameters
from bandits.confidence import Confidence
from bandits.deployment import DEPLOYMENT
from bandits.forecast import FORECASTERS
from bandits.routing import ROUTING
from envs.catalogue import GENERATED
from envs.errors import InputError, nearest
from envs.instance import TOKENS_PER_PRICE, EdgeCloud
from envs.inventory import ARRIVALS, ORDERS, Schedule

PRECISIONS = ("float32", "float64")
_GROUPS = ("env", "demand", "forecaster", "policy", "sweep", "tracker")
_TOP = (
    *("name", "policies", "deployment", "routing", "rules", "horizon", "seeds", "root_seed", "checkpoints"),
    *("checkpoint_spacing", "precision", "chunk_rows", "checkpoint_minutes", "out", "force", "extend", "shard"),
    "distributed",  # read by experiments.hosts, before anything else
)
_KNOWN = (*_GROUPS, *_TOP, "claims", "worlds")
_CATALOGUE = ("catalogue", "num_models", "first_quality", "quality_gap")
SHORT_AXES = {
    "horizon": "horizon",
    "num_models": "env.num_models",
    "target": "env.target",
    "budget_per_task": "env.budget_per_task",
}
_USER_MODULE = "llm_bandits_user_rules_"
_CHOICES = {
    "budget_rule": ("skip", "stop", "cross", "average"),
    "quality_noise": ("bernoulli", "beta"),
    "demand_seen": ("before", "after"),
}


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A named learner: a deployment and a routing rule, confidence and, if it differs, its own forecaster."""

    name: str
    deployment: str
    deployment_parameters: dict[str, Any]
    routing: str
    parameters: dict[str, Any]  # of the routing rule
    confidence: dict[str, Any]
    forecaster: dict[str, Any] | None  # None takes the study's


@dataclass(frozen=True, kw_only=True)
class CellConfig:
    """One cell: one policy in one world at one horizon. All values are plain."""

    policy: PolicyConfig
    world: str | None  # its name, where the study has several
    catalogue: str
    num_models: int | None
    first_quality: float | None  # of a generated catalogue
    quality_gap: float | None
    env: EdgeCloud
    demand: dict[str, Any]
    forecaster: dict[str, Any]  # the policy's own, or the study's
    horizon: int
    swept: dict[str, float | int | str | None]  # axis -> this cell's value


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A whole study, validated."""

    name: str
    cells: tuple[CellConfig, ...]
    seeds: int
    root_seed: int
    checkpoints: int
    checkpoint_spacing: str
    precision: str
    chunk_rows: int | None
    checkpoint_minutes: float | None  # between two saved carries of a chunk; None: none is saved
    out: str | None
    force: bool  # make the cells anew that are there already
    extend: bool  # add this study to the one that the folder holds
    shard: int | None  # which of several processes this is: where it begins, and that it does not wait for the others
    tracker: dict[str, Any]
    claims: dict[str, float]
    rules: tuple[str, ...]
    plain: dict[str, Any]  # the resolved configuration, for the record


def study_from(plain: Mapping[str, Any]) -> StudyConfig:
    """Validate a resolved configuration and expand its sweep."""
    _refuse_unknown(plain, _KNOWN, "")
    for key in _KNOWN:
        if key not in plain:
            raise InputError(f"{key} is missing; conf/config.yaml shows every key")
    for key in (*_GROUPS, "claims", "worlds"):
        _mapping(plain[key], key)
    for path in _list(plain["rules"], "rules"):
        load_rules(_text(path, "rules: a file"))
    axes = _axes(plain["sweep"], plain)
    cells: dict[str, CellConfig] = {}
    for name, env in (plain["worlds"] or {None: plain["env"]}).items():
        world = {**plain, "env": env}
        for swept in _combinations(axes, plain["sweep"].get("mode", "product")):
            variant = _with(world, {_axis_path(axis): value for axis, value in swept.items()})
            for cell in _cells(variant, name, swept):
                cells.setdefault(repr(cell), cell)
    return StudyConfig(
        name=_name(plain["name"]),
        cells=tuple(cells.values()),
        seeds=_integer(plain["seeds"], "seeds", 1),
        root_seed=_integer(plain["root_seed"], "root_seed", 0, 2**32 - 1),
        checkpoints=_integer(plain["checkpoints"], "checkpoints", 2),
        checkpoint_spacing=_one_of(plain["checkpoint_spacing"], "checkpoint_spacing", ("log", "linear")),
        precision=_one_of(plain["precision"], "precision", PRECISIONS),
        chunk_rows=None if plain["chunk_rows"] is None else _integer(plain["chunk_rows"], "chunk_rows", 1),
        checkpoint_minutes=_minutes(plain["checkpoint_minutes"]),
        out=None if plain["out"] is None else _text(plain["out"], "out"),
        force=_flag(plain["force"], "force"),
        extend=_flag(plain["extend"], "extend"),
        shard=None if plain["shard"] is None else _integer(plain["shard"], "shard", 0),
        tracker=dict(plain["tracker"]),
        claims=_claims(plain["claims"]),
        rules=tuple(plain["rules"]),
        plain=dict(plain),
    )


def _minutes(value: Any) -> float | None:
    return None if value is None else _real(value, "checkpoint_minutes", 0.0)


def _claims(given: Mapping[str, Any]) -> dict[str, float]:
    _refuse_unknown(given, ("regret", "violation"), "claims.")
    return {key: _real(value, f"claims.{key}") for key, value in given.items()}


def load_rules(path: str) -> None:
    """Import a user's rule file; its decorators register what it defines.

    The module is named by the file's content, which is what identifies a user's rule (see ``source_of``).
    """
    file = Path(path).expanduser()
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"rules: {path!r} is no Python file; give the path of a .py file that registers a rule")
    name = f"{_USER_MODULE}{hashlib.sha256(file.read_bytes()).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    already = spec.name in sys.modules
    known = _registered()
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        raise InputError(f"rules: {path} could not be loaded: {type(error).__name__}: {text}") from error
    if _registered() == known and not already:
        raise InputError(
            f"rules: {path} registers nothing; decorate a class with @routing_rule, @deployment_rule or @forecaster"
        )


def _registered() -> list[type]:
    return [*ROUTING.values(), *DEPLOYMENT.values(), *FORECASTERS.values()]


def source_of(cls: type) -> str | None:
    """The digest of the user's file that defines a rule or forecaster; None for what ships with the package."""
    return cls.__module__.removeprefix(_USER_MODULE) if cls.__module__.startswith(_USER_MODULE) else None


def _cells(plain: Mapping[str, Any], world: str | None, swept: dict[str, Any]) -> list[CellConfig]:
    _one_of(plain["deployment"], "deployment", list(DEPLOYMENT))
    if plain["routing"] is not None and plain["routing"] not in ROUTING:
        raise InputError(f"routing: there is no rule {plain['routing']!r}; {nearest(plain['routing'], list(ROUTING))}")
    policies = [plain["routing"]] if plain["routing"] is not None else _list(plain["policies"], "policies")
    if not policies:
        raise InputError("policies is empty; give at least one, e.g. policies=[copac_lp,uniform]")
    _check_shared(plain["policy"])
    env = plain["env"]
    for key in ("catalogue", "num_models"):
        if key not in env:
            raise InputError(f"env.{key} is missing; conf/env/routerbench.yaml shows every key")
    for group, key in (("demand", "process"), ("forecaster", "name")):
        _text(plain[group].get(key), f"{group}.{key}")
    if plain["demand"].get("path") is not None:
        _text(plain["demand"]["path"], "demand.path")
    chosen = [_policy(entry, plain["deployment"], plain["policy"], swept) for entry in policies]
    made = [
        CellConfig(
            policy=policy,
            world=world,
            **_catalogue(env),
            env=_edge_cloud(env),
            demand=dict(plain["demand"]),
            forecaster=dict(policy.forecaster or plain["forecaster"]),
            horizon=_integer(plain["horizon"], "horizon", 1, 2**31 - 2),
            swept={axis: value for axis, value in swept.items() if _concerns(axis, policy)},
        )
        for policy in chosen
    ]
    names = [cell.policy.name for cell in made]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"policies: two are called {name!r}; give each mapping a `name` of its own")
    return made


def _catalogue(env: Mapping[str, Any]) -> dict[str, Any]:
    """Which models there are: the fields of a ``CellConfig``."""
    name = _text(env["catalogue"], "env.catalogue")
    number = None if env["num_models"] is None else _integer(env["num_models"], "env.num_models", 1)
    numbers: dict[str, Any] = {"first_quality": None, "quality_gap": None}
    for key in numbers:
        value = env[key]
        if name in GENERATED:
            numbers[key] = _real(value, f"env.{key}", 0.0, 1.0)
        elif value is not None:
            raise InputError(
                f"env.{key} is for generated catalogues ({', '.join(GENERATED)}); {name} has its own quality"
            )
    if name in GENERATED and number is None:
        raise InputError(f"env.num_models is null; the generated catalogue {name!r} needs a number of models")
    return {"catalogue": name, "num_models": number, **numbers}


def _concerns(axis: str, policy: PolicyConfig) -> bool:
    """Whether a swept axis changes this policy's cells at all."""
    group, _, key = axis.partition(".")
    if group == "forecaster":
        return policy.forecaster is None
    return group != "policy" or any(
        key in known for known in (policy.parameters, policy.deployment_parameters, policy.confidence)
    )


def _check_shared(values: Mapping[str, Any]) -> None:
    """Refuse a shared parameter that no rule has or that a rule which has it does not allow, used here or not."""
    _refuse_unknown(values, _policy_parameters(), "policy.")
    classes: list[type] = [Confidence, *ROUTING.values(), *DEPLOYMENT.values()]
    for cls in classes:
        parameters.build(cls, {key: values[key] for key in parameters.names(cls) if key in values}, "policy")


def _edge_cloud(env: Mapping[str, Any]) -> EdgeCloud:
    nested = [field.name for field in fields(Schedule)]
    known = [field.name for field in fields(EdgeCloud) if field.name != "schedule"] + nested
    _refuse_unknown(env, [*known, *_CATALOGUE], "env.")
    for key in (*known, *_CATALOGUE):
        if key not in env:
            raise InputError(f"env.{key} is missing; conf/env/routerbench.yaml shows every key")
    for key, options in _CHOICES.items():
        _one_of(env[key], f"env.{key}", options)
    for key in ("resources", "floors"):
        _mapping(env[key], f"env.{key}")
    numbers: dict[str, Any] = {
        "cloud_rtt_s": _real(env["cloud_rtt_s"], "env.cloud_rtt_s", 0.0),
        "cost_bound_multiple": _real(env["cost_bound_multiple"], "env.cost_bound_multiple", 1.0),
    }
    for key in ("latency_slo_s", "quality_concentration"):
        numbers[key] = _real(env[key], f"env.{key}", 0.0, above=True)
    for key in ("edge_throughput", "cloud_throughput"):
        numbers[key] = _real(env[key], f"env.{key}", 0.0, 1.0, above=True)
    for key in ("cost_cv", "latency_cv"):
        numbers[key] = None if env[key] is None else _real(env[key], f"env.{key}", 0.0)
    if env["cost_unit"] is not None:
        _one_of(env["cost_unit"], "env.cost_unit", list(TOKENS_PER_PRICE))
    budget, whole, target = env["budget_per_task"], env["budget_usd"], env["target"]
    values: dict[str, Any] = {
        "budget_per_task": None if budget is None else _real(budget, "env.budget_per_task", 0.0, 1e9, above=True),
        "budget_usd": None if whole is None else _real(whole, "env.budget_usd", 0.0, 1e15, above=True),
        "cost_unit": env["cost_unit"],
        "resources": {k: _real(v, f"env.resources.{k}", 0.0, 1e9, above=True) for k, v in env["resources"].items()},
        "target": None if target is None else _real(target, "env.target", 0.0, 1.0),
        "floors": {k: _real(v, f"env.floors.{k}", 0.0, 1.0) for k, v in env["floors"].items()},
    }
    if budget is not None and whole is not None:
        raise InputError(
            f"env.budget_per_task is {budget} and env.budget_usd is {whole}; give one of them and set the other to null"
        )
    most, stages = env["max_deployed"], env["stages"]
    values |= {
        "schedule": _schedule(env),
        "max_deployed": None if most is None else _integer(most, "env.max_deployed", 1),
        "stages": None if stages is None else _integer(stages, "env.stages", 1),
        "stage_exponent": _real(env["stage_exponent"], "env.stage_exponent", 0.0, 1.0),
        "deployment_cost_usd": _real(env["deployment_cost_usd"], "env.deployment_cost_usd", 0.0, 1e9),
    }
    return EdgeCloud(**values, **numbers, **{key: env[key] for key in _CHOICES})


def _schedule(env: Mapping[str, Any]) -> Schedule:
    arrivals = [_real(at, "env.arrival_at", 0.0, 1.0) for at in _list(env["arrival_at"], "env.arrival_at")]
    ends = _list(env["retirement_at"], "env.retirement_at")
    lifetime = env["lifetime"]
    return Schedule(
        arrivals=_one_of(env["arrivals"], "env.arrivals", ARRIVALS),
        arrival_order=_one_of(env["arrival_order"], "env.arrival_order", ORDERS),
        arrival_span=_real(env["arrival_span"], "env.arrival_span", 0.0, 1.0, above=True),
        initial_models=_integer(env["initial_models"], "env.initial_models", 1),
        arrival_seed=_integer(env["arrival_seed"], "env.arrival_seed", 0),
        arrival_at=tuple(arrivals),
        retirement_at=tuple(None if at is None else _real(at, "env.retirement_at", 0.0) for at in ends),
        lifetime=None if lifetime is None else _real(lifetime, "env.lifetime", 0.0, above=True),
    )


def _policy_parameters() -> set[str]:
    """Every parameter that some rule, or the confidence, has."""
    rules: list[type] = [*ROUTING.values(), *DEPLOYMENT.values()]
    return set(parameters.names(Confidence)).union(*(parameters.names(rule) for rule in rules))


def _policy(entry: Any, deployment: str, shared: Mapping[str, Any], swept: Mapping[str, Any]) -> PolicyConfig:
    """A policy from a routing rule's name, or a mapping {name, routing, deployment, forecaster, parameters}.

    A swept parameter wins over the mapping's, which wins over the shared one.
    """
    if not isinstance(entry, str | Mapping):
        raise InputError(f"policies holds {entry!r}; each must be a rule's name or a mapping {{name, routing, ...}}")
    own: dict[str, Any] = {"routing": entry} if isinstance(entry, str) else dict(entry)
    routing = own.pop("routing", own.get("name"))
    deployment = own.pop("deployment", deployment)
    name = own.pop("name", routing)
    forecaster = own.pop("forecaster", None)
    registries: tuple[tuple[str, Any, Mapping[str, type]], ...] = (
        ("routing", routing, ROUTING),
        ("deployment", deployment, DEPLOYMENT),
    )
    for kind, rule, registry in registries:
        if not isinstance(rule, str):
            raise InputError(f"policies: {kind} is {rule!r}; it must be a rule's name")
        if rule not in registry:
            what = "rule" if kind == "routing" else "deployment rule"
            raise InputError(f"policies: there is no {what} {rule!r}; {nearest(rule, list(registry))}")
    classes: tuple[type, ...] = (ROUTING[routing], DEPLOYMENT[deployment], Confidence)
    mine, theirs, ours = (parameters.names(cls) for cls in classes)
    _refuse_unknown(own, [*mine, *theirs, *ours, "name", "routing", "deployment", "forecaster"], f"policies.{name}.")
    swept_names = {axis.removeprefix("policy.") for axis in swept if axis.startswith("policy.")}
    values = {**shared, **{key: value for key, value in own.items() if key not in swept_names}}
    for cls, keys in zip(classes, (mine, theirs, ours), strict=True):
        parameters.build(cls, {k: values[k] for k in keys if k in values}, f"policy ({name})")
    if isinstance(forecaster, str):
        forecaster = {"name": forecaster}
    if forecaster is not None:
        _text(_mapping(forecaster, f"policies.{name}.forecaster").get("name"), f"policies.{name}.forecaster.name")
    return PolicyConfig(
        name=_text(name, "policies: name"),
        deployment=deployment,
        deployment_parameters={k: values[k] for k in theirs if k in values},
        routing=routing,
        parameters={k: values[k] for k in mine if k in values},
        confidence={k: values[k] for k in ours if k in values},
        forecaster=None if forecaster is None else dict(forecaster),
    )


def _axes(sweep: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Flat axes `policy.eta`, `horizon`, ... with their values; a null axis is not swept."""
    axes: dict[str, list[Any]] = {}
    for key, value in sweep.items():
        if key == "mode":
            _one_of(value, "sweep.mode", ("product", "zip"))
        elif isinstance(value, Mapping):
            if key not in ("policy", "demand", "forecaster", "env"):
                raise InputError(
                    f"sweep.{key} cannot be swept; {nearest(key, ['policy', 'demand', 'forecaster', 'env'])}"
                )
            axes |= {f"{key}.{inner}": values for inner, values in value.items() if values is not None}
        elif value is not None:
            if key not in SHORT_AXES:
                known = [*SHORT_AXES, "policy", "demand", "forecaster", "env", "mode"]
                raise InputError(f"sweep.{key} is no axis; {nearest(key, known)}")
            axes[key] = value
    for axis, values in axes.items():
        if not isinstance(values, list):
            raise InputError(f"sweep.{axis} is {values!r}; it must be a list, e.g. sweep.{axis}=[{values}]")
        if not values:
            raise InputError(f"sweep.{axis} is empty; give at least one value, or leave the axis out")
        _refuse_unknown_axis(axis, plain)
    return axes


def _refuse_unknown_axis(axis: str, plain: Mapping[str, Any]) -> None:
    group, _, key = _axis_path(axis).partition(".")
    known = _policy_parameters() if group == "policy" else set(plain[group]) if key else set()
    if key and key not in known:
        raise InputError(f"sweep.{axis}: {group} has no parameter {key!r}; {nearest(key, sorted(known))}")


def _combinations(axes: Mapping[str, list[Any]], mode: str) -> list[dict[str, Any]]:
    if mode == "product" or not axes:
        return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    lengths = {axis: len(values) for axis, values in axes.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"sweep.mode=zip pairs the axes, so they must be equally long; they are {lengths}")
    return [dict(zip(axes, values, strict=True)) for values in zip(*axes.values(), strict=True)]


def _axis_path(axis: str) -> str:
    return SHORT_AXES.get(axis, axis)


def _with(plain: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the configuration with dotted paths set."""
    changed = dict(plain)
    for path, value in values.items():
        group, _, key = path.partition(".")
        changed[group] = {**changed[group], key: value} if key else value
    return changed


def _refuse_unknown(given: Mapping[str, Any], known: Sequence[str] | set[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            raise InputError(f"unknown key {prefix}{key}; {nearest(str(key), sorted(known))}")


def _real(value: Any, where: str, low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> float:
    """A finite number within [low, high], or (low, high] with ``above``."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where} is {value!r}; it must be a finite number")
    if not low <= value <= high or (above and value == low):
        least = f"above {low:g}" if above else f"at least {low:g}"
        raise InputError(
            f"{where} is {value}; it must be {least}" + (f" and at most {high:g}" if high < math.inf else "")
        )
    return float(value)


def _integer(value: Any, where: str, low: int, high: int = 2**31 - 1) -> int:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{where} is {value!r}; it must be a whole number")
    if not low <= value <= high:
        raise InputError(f"{where} is {value}; it must be between {low} and {high}")
    return value


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{where} is {value!r}; it must be true or false")
    return value


def _name(value: Any) -> str:
    if "/" in _text(value, "name"):
        raise InputError(f"name is {value!r}; it must hold no slash, since it names a folder")
    return str(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} is {value!r}; it must be a name")
    return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {value!r}; it must be a mapping, e.g. {where}={{}}")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise InputError(f"{where} is {value!r}; it must be a list, e.g. {where}=[{value}]")
    return value


def _one_of(value: Any, where: str, options: Sequence[str]) -> str:
    if value not in options:
        raise InputError(f"{where} is {value!r}; it must be one of {', '.join(options)}")
    return value
