"""Configuration: a plain mapping, as Hydra composes it, becomes validated frozen dataclasses, once.

Nothing downstream reads a DictConfig. Every refusal is an ``InputError`` with one sentence.
"""

import hashlib
import importlib.util
import itertools
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bandits import parameters
from bandits.confidence import Confidence
from bandits.deployment import DEPLOYMENT
from bandits.forecast import FORECASTERS
from bandits.routing import ROUTING
from envs import files
from envs.catalogue import GENERATED
from envs.errors import InputError, nearest
from envs.instance import EdgeCloud
from envs.inventory import Schedule
from experiments import blame, hints, schema
from experiments.blame import USER_MODULE
from experiments.schema import SHORT_AXES, SWEPT_GROUPS, shown

_CATALOGUE = ("catalogue", "num_models", "first_quality", "quality_gap")


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
    _refuse_unknown(plain, schema.TOP, "")
    values = schema.read(schema.TOP, plain)
    schema.check_numbers(plain)
    for group in ("demand", "forecaster", "tracker"):
        hints.misplaced(group, plain[group])
    for path in values["rules"]:
        load_rules(path)
    axes = _axes(plain["sweep"], plain)
    worlds: dict[str | None, Any] = {str(name): env for name, env in plain["worlds"].items()}
    worlds = worlds or {None: plain["env"]}
    policies = 1 if plain["routing"] is not None else len(plain["policies"])
    _refuse_too_many(axes, plain["sweep"].get("mode", "product"), len(worlds), policies)
    cells: dict[str, CellConfig] = {}
    for name, env in worlds.items():
        world = {**plain, "env": env}
        for swept in _combinations(axes, plain["sweep"].get("mode", "product")):
            variant = _with(world, {_axis_path(axis): value for axis, value in swept.items()})
            for cell in _cells(variant, name, swept):
                cells.setdefault(repr(cell), cell)
    return StudyConfig(
        name=_name(plain["name"]),
        cells=tuple(cells.values()),
        **{key: values[key] for key in ("seeds", "root_seed", "checkpoints", "checkpoint_spacing", "precision")},
        **{key: values[key] for key in ("chunk_rows", "checkpoint_minutes", "force", "extend", "shard")},
        out=None if plain["out"] is None else _text(plain["out"], "out"),
        tracker=dict(plain["tracker"]),
        claims=_claims(values["claims"]),
        rules=tuple(plain["rules"]),
        plain=dict(plain),
    )


def _claims(given: dict[str, float]) -> dict[str, float]:
    _refuse_unknown(given, ("regret", "violation"), "claims.")
    return given


def load_rules(path: str) -> None:
    """Import a user's rule file; its decorators register what it defines.

    The module is named by the file's content, which is what identifies a user's rule (see ``source_of``).
    """
    file = files.reachable(path, "rules")
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"rules: {path!r} is no Python file; give the path of a .py file that registers a rule")
    name = f"{USER_MODULE}{hashlib.sha256(files.content(file, 'rules')).hexdigest()}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    already = spec.name in sys.modules
    known = _registered()
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        if blame.is_request_to_stop(error):
            raise
        raise InputError(f"rules: {path} could not be loaded: {blame.sentence(error)}") from error
    if _registered() == known and not already:
        raise InputError(
            f"rules: {path} registers nothing; decorate a class with @routing_rule, @deployment_rule or @forecaster"
        )


def _registered() -> list[type]:
    return [*ROUTING.values(), *DEPLOYMENT.values(), *FORECASTERS.values()]


def source_of(cls: type) -> str | None:
    """The digest of the user's file that defines a rule or forecaster; None for what ships with the package."""
    return cls.__module__.removeprefix(USER_MODULE) if cls.__module__.startswith(USER_MODULE) else None


def _cells(plain: Mapping[str, Any], world: str | None, swept: dict[str, Any]) -> list[CellConfig]:
    _one_of(plain["deployment"], "deployment", list(DEPLOYMENT))
    if plain["routing"] is not None and plain["routing"] not in ROUTING:
        raise InputError(f"routing: there is no rule {plain['routing']!r}; {nearest(plain['routing'], list(ROUTING))}")
    policies = [plain["routing"]] if plain["routing"] is not None else plain["policies"]
    if not policies:
        raise InputError("policies is empty; give at least one, e.g. policies=[copac_lp,uniform]")
    _check_shared(plain["policy"])
    _refuse_unknown(plain["env"], schema.ENV, "env.")
    env = schema.read(schema.ENV, plain["env"], "env")
    for group, key in (("demand", "process"), ("forecaster", "name")):
        _text(plain[group].get(key), f"{group}.{key}")
    if plain["demand"].get("path") is not None:
        files.reachable(_text(plain["demand"]["path"], "demand.path"), "demand.path")
    chosen = [_policy(entry, plain["deployment"], plain["policy"], swept) for entry in policies]
    made = [
        CellConfig(
            policy=policy,
            world=world,
            **_catalogue(env),
            env=_edge_cloud(env),
            demand=dict(plain["demand"]),
            forecaster=dict(policy.forecaster or plain["forecaster"]),
            horizon=schema.TOP["horizon"].read(plain["horizon"], "horizon"),
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
    name, number = env["catalogue"], env["num_models"]
    files.reachable(name, "env.catalogue")
    numbers: dict[str, Any] = {"first_quality": env["first_quality"], "quality_gap": env["quality_gap"]}
    for key, value in numbers.items():
        if name in GENERATED and value is None:
            raise InputError(f"env.{key} is null; the generated catalogue {name!r} needs a number in [0, 1]")
        if name not in GENERATED and value is not None:
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


def _edge_cloud(values: Mapping[str, Any]) -> EdgeCloud:
    """From the values that ``schema.ENV`` describes."""
    nested = [field.name for field in fields(Schedule)]
    lists = {key: tuple(values[key]) for key in ("arrival_at", "retirement_at")}
    own = [field.name for field in fields(EdgeCloud) if field.name != "schedule"]
    return EdgeCloud(
        schedule=Schedule(**{key: values[key] for key in nested} | lists),
        **{key: values[key] for key in own},
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
        elif isinstance(value, Mapping) and key not in SHORT_AXES:
            if key not in SWEPT_GROUPS:
                raise InputError(f"sweep.{key} cannot be swept; {nearest(key, list(SWEPT_GROUPS))}")
            axes |= {f"{key}.{inner}": values for inner, values in value.items() if values is not None}
        elif value is not None:
            if key in SWEPT_GROUPS:
                raise InputError(f"sweep.{key} is {shown(value)}; it must be a mapping, as in sweep.{key}.KEY=[1,2]")
            if key not in SHORT_AXES:
                known = [*SHORT_AXES, *SWEPT_GROUPS, "mode"]
                raise InputError(f"sweep.{key} is no axis; {hints.hint(str(key), known, 'sweep.')}")
            axes[key] = value
    for axis, values in axes.items():
        if not isinstance(values, list):
            raise InputError(f"sweep.{axis} is {shown(values)}; it must be a list, e.g. sweep.{axis}=[{shown(values)}]")
        if not values:
            raise InputError(f"sweep.{axis} is empty; give at least one value, or leave the axis out")
        _refuse_unknown_axis(axis, plain)
    return axes


def _refuse_unknown_axis(axis: str, plain: Mapping[str, Any]) -> None:
    group, _, key = _axis_path(axis).partition(".")
    known = _policy_parameters() if group == "policy" else set(plain[group]) if key else set()
    if key and key not in known:
        raise InputError(f"sweep.{axis}: {group} has no parameter {key!r}; {hints.hint(key, sorted(known), 'sweep.')}")


def _refuse_too_many(axes: Mapping[str, list[Any]], mode: str, worlds: int, policies: int) -> None:
    """Before a sweep is expanded: cells that nobody waits for are refused while they are only a number."""
    lengths = [len(values) for values in axes.values()]
    combined = math.prod(lengths) if mode == "product" else max(lengths, default=1)
    number = combined * worlds * max(policies, 1)
    if number > schema.MOST_CELLS:
        swept = " x ".join(f"{len(values)} of {axis}" for axis, values in axes.items())
        raise InputError(
            f"sweep: {swept}, {policies} policies and {worlds} worlds are {number:,} cells; "
            f"at most {schema.MOST_CELLS:,} fit in one study, so sweep over fewer values"
        )


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


def _refuse_unknown(given: Mapping[str, Any], known: Iterable[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            raise InputError(f"unknown key {prefix}{key}; {hints.hint(str(key), sorted(known), prefix)}")


def _name(value: Any) -> str:
    if "/" in _text(value, "name"):
        raise InputError(f"name is {value!r}; it must hold no slash, since it names a folder")
    return str(value)


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} is {shown(value)}; it must be a name")
    return value


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {shown(value)}; it must be a mapping, e.g. {where}={{}}")
    return value


def _one_of(value: Any, where: str, options: Sequence[str]) -> str:
    if value not in options:
        raise InputError(f"{where} is {shown(value)}; it must be one of {', '.join(options)}")
    return value
