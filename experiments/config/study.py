"""Configuration: a plain mapping, as Hydra composes it, becomes validated frozen dataclasses, once.

Nothing downstream reads a DictConfig. Every refusal is an ``InputError`` with one sentence.
"""

import difflib
import hashlib
import importlib.util
import itertools
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from bandits.deployment import DEPLOYMENT
from bandits.estimators.confidence import Confidence
from bandits.forecasting import base
from bandits.forecasting.base import FORECASTERS
from bandits.routing import ROUTING
from envs import files, parameters
from envs.build import EdgeCloud
from envs.catalogue import GENERATED
from envs.demand import arrivals
from envs.demand.base import PROCESSES
from envs.errors import InputError, nearest
from envs.inventory import ArrivalPattern
from envs.registry import Registry
from experiments.config import hints, rule_errors, schema
from experiments.config.axes import SHORT_AXES, SWEPT_GROUPS
from experiments.config.rule_errors import USER_MODULE
from experiments.config.schema import shown
from experiments.config.texts import readable
from experiments.config.texts import text as _text

_LONGEST_NAME = 200  # bytes; names of files end at 255
_LONG_AXES = {path: axis for axis, path in SHORT_AXES.items()}
REGISTRIES: dict[str, Registry] = {
    "routing": ROUTING,
    "deployment": DEPLOYMENT,
    "forecaster": FORECASTERS,
    "demand": PROCESSES,
}
# Keys of earlier versions, and what to do instead.
_GONE = {
    "claims": "is now called expected_exponents and is given by policy, e.g. "
    "expected_exponents={lp_resolving: {regret: 0.5}}",
    "distributed": "is gone: start the same command with the same out=DIR on every host, and they share all cells and "
    "seeds; see docs/cluster.md",
    "checkpoints": "is now called eval_rounds, e.g. eval_rounds=32",
    "checkpoint_spacing": "is now called eval_spacing, e.g. eval_spacing=linear",
}
CONFIDENCE = "confidence"  # the part of a policy that is no rule, where parameters are given by part


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A named policy: a deployment and a routing rule, confidence and, if it differs, its own forecaster.

    Parameters are all there, given or default.
    """

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
    demand_name: str | None  # the same of its demand
    catalogue: str
    num_models: int | None
    first_quality: float | None  # of a generated catalogue
    quality_gap: float | None
    env: EdgeCloud
    demand: dict[str, Any]  # all parameters, given or default; the process's name under "process"
    forecaster: dict[str, Any]  # the policy's own, or the study's: all parameters, and "name"
    horizon: int
    swept: dict[str, float | int | str | None]  # axis -> this cell's value


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A whole study, validated."""

    name: str
    cells: tuple[CellConfig, ...]
    seeds: int
    root_seed: int
    eval_rounds: int
    eval_spacing: str
    precision: str
    chunk_rows: int | None
    checkpoint_minutes: float | None  # between two checkpoints of a chunk; None: none is saved
    program_cache: bool | str  # keep compiled programs: in the user's cache folder, not at all, or in this folder
    out: str | None
    force: bool  # make the cells anew that are there already
    extend: bool  # add this study to the one that the folder holds
    shard: int | None  # which of several processes this is: where it begins, and that it does not wait for the others
    tracker: dict[str, Any]
    expected_exponents: dict[str, dict[str, float]]  # policy -> "regret", "violation" -> exponent
    rules: tuple[str, ...]
    plain: dict[str, Any]  # the resolved configuration, for the record


def study_from(given: Mapping[str, Any]) -> StudyConfig:
    """Validate a resolved configuration and expand its sweep."""
    plain: dict[str, Any] = readable(given)
    for key, instead in _GONE.items():
        if plain.pop(key, None) is not None:
            raise InputError(f"{key} {instead}")
    _refuse_unknown(plain, schema.TOP, "")
    if plain.get("expected_exponents") is None:
        plain["expected_exponents"] = {}
    values = schema.read(schema.TOP, plain)
    schema.check_numbers(plain)
    for registry in REGISTRIES.values():  # a study knows the files that it names, whatever was loaded before
        registry.forget(USER_MODULE)
    plain["rules"] = values["rules"]
    for group in ("demand", "forecaster", "tracker"):
        hints.misplaced(group, plain[group])
    for path in values["rules"]:
        load_rules(path)
    plain["name"] = _name(plain["name"])
    _check_shared(plain["policy"])
    axes = _axes(plain["sweep"], plain)
    worlds = _named_or(plain["worlds"], plain["env"])
    demands = _named_or(plain["demands"], plain["demand"])
    for label in plain["demands"]:
        if "process" not in plain["demands"][label]:
            raise InputError(f"demands.{label}.process is missing; give a demand process, as conf/demand/ has them")
    policies = 1 if plain["routing"] is not None else len(plain["policies"])
    _refuse_too_many(axes, plain["sweep"].get("mode", "product"), len(worlds) * len(demands), policies)
    cells: dict[str, CellConfig] = {}
    for (name, env), (label, demand) in itertools.product(worlds.items(), demands.items()):
        world = {**plain, "env": env, "demand": demand}
        for swept in _combinations(axes, plain["sweep"].get("mode", "product")):
            variant = _with(world, {_axis_path(axis): value for axis, value in swept.items()})
            for cell in _cells(variant, name, label, swept):
                cells.setdefault(repr(cell), cell)
    return StudyConfig(
        name=plain["name"],
        cells=tuple(cells.values()),
        **{key: values[key] for key in ("seeds", "root_seed", "eval_rounds", "eval_spacing", "precision")},
        **{
            key: values[key]
            for key in ("chunk_rows", "checkpoint_minutes", "program_cache", "force", "extend", "shard")
        },
        out=None if plain["out"] is None else _text(plain["out"], "out"),
        tracker=dict(plain["tracker"]),
        expected_exponents=_expected_exponents(plain, values["expected_exponents"]),
        rules=tuple(plain["rules"]),
        plain=plain,
    )


def _expected_exponents(plain: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """By policy; a routing rule's name may stand there also where this study leaves that rule out."""
    listed = [_named(entry) for entry in plain["policies"]]
    known = sorted({*ROUTING, *(str(name) for name in listed if name is not None)})
    expected: dict[str, dict[str, float]] = {}
    for policy, exponents in given.items():
        where = f"expected_exponents.{policy}"
        if policy not in known:
            ROUTING.refuse_renamed(policy, where)
            raise InputError(f"{where}: there is no policy {policy!r}; {nearest(policy, known)}")
        expected[policy] = schema.Table(values=schema.Number()).read(exponents, where)
        _refuse_unknown(exponents, ("regret", "violation"), f"{where}.")
    return expected


def _named(entry: Any) -> Any:
    """What an entry of the policies is called; None where it has no name."""
    return entry.get("name", entry.get("routing")) if isinstance(entry, Mapping) else entry


def load_rules(path: str) -> None:
    """Import a user's rule file; its decorators register what it defines. A file of the same content is loaded once.

    The module is named by the file's content, which is what identifies a user's rule (see
    ``experiments.config.sources``).
    """
    file = files.reachable(path, "rules")
    if not file.is_file() or file.suffix != ".py":
        raise InputError(f"rules: {path!r} is no Python file; give the path of a .py file that registers a rule")
    name = f"{USER_MODULE}{hashlib.sha256(files.content(file, 'the rules', 'a Python file')).hexdigest()}"
    known = _registered()
    if any(cls.__module__ == name for cls in known):
        return
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    already = name in sys.modules
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except InputError as error:
        _forget(name)
        raise InputError(f"rules: {path}: {error}") from error
    except BaseException as error:
        _forget(name)
        if rule_errors.is_request_to_stop(error):
            raise
        raise InputError(f"rules: {path} could not be loaded: {rule_errors.sentence(error)}") from error
    if _registered() == known and not already:
        raise InputError(
            f"rules: {path} registers nothing; decorate a class with @routing_rule, @deployment_rule, @forecaster or "
            "@demand_process"
        )


def _forget(module: str) -> None:
    """What a file had registered before it failed."""
    for registry in REGISTRIES.values():
        registry.forget(module)


def _registered() -> list[type]:
    return [cls for registry in REGISTRIES.values() for cls in registry.values()]


def _named_or(several: Mapping[str, Any], single: Any) -> dict[str | None, Any]:
    """Name -> each of several worlds or demands; the study's single one has no name."""
    return {str(name): one for name, one in several.items()} or {None: single}


def _cells(
    plain: Mapping[str, Any], world: str | None, demand_name: str | None, swept: dict[str, Any]
) -> list[CellConfig]:
    DEPLOYMENT.find(plain["deployment"], "deployment")
    if plain["routing"] is not None:
        ROUTING.find(plain["routing"], "routing")
    policies = [plain["routing"]] if plain["routing"] is not None else plain["policies"]
    if not policies:
        raise InputError("policies is empty; give at least one, e.g. policies=[lp_resolving,uniform]")
    _refuse_unknown(plain["env"], schema.ENV, "env.")
    env = schema.read(schema.ENV, plain["env"], "env")
    for group, key in (("demand", "process"), ("forecaster", "name")):
        _text(plain[group].get(key), f"{group}.{key}")
    plain = {**plain, **{group: _named_as_text(plain[group], group) for group in ("demand", "forecaster")}}
    if plain["demand"].get("path") is not None:
        files.reachable(_text(plain["demand"]["path"], "demand.path"), "demand.path")
    chosen = [_policy(entry, plain["deployment"], plain["policy"], swept) for entry in policies]
    arriving, study_forecaster = arrivals.resolve(plain["demand"]), base.resolve(plain["forecaster"])
    made = [
        CellConfig(
            policy=policy,
            world=world,
            demand_name=demand_name,
            **_catalogue(env),
            env=_edge_cloud(env),
            demand=arriving,
            forecaster=policy.forecaster or study_forecaster,
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


def _named_as_text(values: Mapping[str, Any], group: str) -> dict[str, Any]:
    """A group of the configuration with text where it names a rule, a file or a column."""
    names = {key: values[key] for key in ("process", "name", "path", "column") if values.get(key) is not None}
    return {**values, **{key: _text(value, f"{group}.{key}") for key, value in names.items()}}


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
    if group != "policy":
        return True
    rule, _, key = key.partition(".")
    parts = (
        (policy.routing, policy.parameters),
        (policy.deployment, policy.deployment_parameters),
        (CONFIDENCE, policy.confidence),
    )
    return any(rule == name and key in known for name, known in parts)


def _check_shared(values: Mapping[str, Any]) -> None:
    """Refuse a shared parameter that its rule does not have or allow, whether a policy uses the rule or not."""
    for rule, given in values.items():
        for key, value in _by_parameter(rule, given, f"policy.{rule}").items():
            cls = _owner(rule, key, f"policy.{rule}.{key}")
            parameters.checked(_allowed(cls)[key], value, f"policy.{rule}.{key}")


def _classes(rule: str) -> list[type]:
    """What ``policy.<rule>`` may mean: a routing rule, a deployment rule, or both; or the confidence."""
    found = [registry[rule] for registry in (ROUTING, DEPLOYMENT) if rule in registry]
    return [Confidence] if rule == CONFIDENCE else found


def _allowed(cls: type) -> dict[str, Mapping[str, Any]]:
    """What each parameter of a rule allows."""
    return {field.name: field.metadata for field in fields(cls)}


def _by_parameter(rule: str, given: Any, where: str) -> Mapping[str, Any]:
    """What is given for a rule's parameters; InputError where there is no such rule, or no mapping."""
    _refuse_unknown_rule(rule, where)
    if not isinstance(given, Mapping):
        known = [f"{where}.{name}" for cls in _classes(rule) for name in parameters.names(cls)]
        hint = f"write {' or '.join(known)}" if known else f"{rule!r} has no parameters"
        raise InputError(f"{where} is {given!r}; it must be a mapping of parameters; {hint}")
    return given


def _refuse_unknown_rule(rule: str, where: str) -> None:
    if _classes(rule):
        return
    ROUTING.refuse_renamed(rule, where)
    owners: dict[str, list[str]] = {}
    for known in (CONFIDENCE, *dict.fromkeys((*ROUTING, *DEPLOYMENT))):
        for cls in _classes(known):
            for key in parameters.names(cls):
                owners.setdefault(key, []).append(f"{where.removesuffix(rule)}{known}.{key}")
    if rule in owners:
        raise InputError(f"{where}: parameters are given by rule; write {' or '.join(owners[rule])}")
    match = difflib.get_close_matches(rule, owners, n=1, cutoff=0.6)
    hint = f"did you mean {owners[match[0]][0]}?" if match else nearest(rule, [*ROUTING, *DEPLOYMENT, CONFIDENCE])
    raise InputError(f"unknown key {where}; parameters are written {where.removesuffix(rule)}RULE.PARAMETER; {hint}")


def _owner(rule: str, key: str, where: str) -> type:
    """The class that has the parameter ``policy.<rule>.<key>``."""
    found = [cls for cls in _classes(rule) if key in parameters.names(cls)]
    if len(found) > 1:
        raise InputError(
            f"{where}: the routing rule and the deployment rule {rule!r} both have {key!r}; give it to one of them in "
            f"a policy, e.g. {{routing: {{name: {rule}, {key}: ...}}}}"
        )
    if not found:
        known = [name for cls in _classes(rule) for name in parameters.names(cls)]
        hint = nearest(str(key), known) if known else f"{rule!r} has no parameters"
        raise InputError(f"unknown key {where}; {hint}")
    return found[0]


def _edge_cloud(values: Mapping[str, Any]) -> EdgeCloud:
    """From the values that ``schema.ENV`` describes."""
    nested = [field.name for field in fields(ArrivalPattern)]
    lists = {key: tuple(values[key]) for key in ("arrival_at", "retirement_at")}
    own = [field.name for field in fields(EdgeCloud) if field.name != "arrival_pattern"]
    per_task, total = values["budget_per_task"], values["budget_usd"]
    if per_task is not None and total is not None:
        raise InputError(
            f"env.budget_per_task is {per_task} and env.budget_usd is {total}; give one of them, and null for the other"
        )
    return EdgeCloud(
        arrival_pattern=ArrivalPattern(**{key: values[key] for key in nested} | lists),
        **{key: values[key] for key in own},
    )


def _policy(entry: Any, deployment: str, shared: Mapping[str, Any], swept: Mapping[str, Any]) -> PolicyConfig:
    """A policy from a routing rule's name or a mapping {name, routing, deployment, confidence, forecaster, parameters}.

    A swept parameter wins over the mapping's, which wins over the shared one, which wins over the class's default.
    """
    if not isinstance(entry, str | Mapping):
        raise InputError(f"policies holds {entry!r}; each must be a rule's name or a mapping {{name, routing, ...}}")
    own: dict[str, Any] = {"routing": entry} if isinstance(entry, str) else dict(entry)
    given = {
        "routing": _part(own.pop("routing", own.get("name")), "routing"),
        "deployment": _part(own.pop("deployment", deployment), "deployment"),
        CONFIDENCE: dict(own.pop(CONFIDENCE)) if isinstance(own.get(CONFIDENCE), Mapping) else {},
    }
    chosen = {"routing": given["routing"].pop("name"), "deployment": given["deployment"].pop("name")}
    parts: dict[str, tuple[str, type]] = {
        "routing": (chosen["routing"], ROUTING.find(chosen["routing"], "policies: routing")),
        "deployment": (chosen["deployment"], DEPLOYMENT.find(chosen["deployment"], "policies: deployment")),
        CONFIDENCE: (CONFIDENCE, Confidence),
    }
    name = _text(own.pop("name", chosen["routing"]), "policies: name")
    forecaster = own.pop("forecaster", None)
    _distribute(own, given, parts, name)
    values: dict[str, dict[str, Any]] = {}
    for part, (rule, cls) in parts.items():
        known = parameters.names(cls)
        mine = {key: value for key, value in given[part].items() if f"policy.{rule}.{key}" not in swept}
        theirs = {key: value for key, value in shared.get(rule, {}).items() if key in known}
        values[part] = parameters.resolve(cls, theirs | mine, f"policies.{name}")
    return PolicyConfig(
        name=name,
        deployment=chosen["deployment"],
        deployment_parameters=values["deployment"],
        routing=chosen["routing"],
        parameters=values["routing"],
        confidence=values[CONFIDENCE],
        forecaster=None if forecaster is None else _own_forecaster(forecaster, f"policies.{name}.forecaster"),
    )


def _part(given: Any, kind: str) -> dict[str, Any]:
    """A rule's name, or {name, parameters}, as the latter."""
    found = {"name": given} if isinstance(given, str) else given
    if not isinstance(found, Mapping) or not isinstance(found.get("name"), str):
        raise InputError(f"policies: {kind} is {given!r}; it must be a rule's name, or a mapping {{name, parameters}}")
    return dict(found)


def _distribute(
    flat: Mapping[str, Any], given: dict[str, dict[str, Any]], parts: Mapping[str, tuple[str, type]], policy: str
) -> None:
    """Hand the flat parameters of a policy's mapping to the one of its parts that has them."""
    names = {part: parameters.names(cls) for part, (_, cls) in parts.items()}
    for key, value in flat.items():
        having = [part for part, known in names.items() if key in known]
        if not having:
            known = [*(name for part in names.values() for name in part), *parts, "name", "forecaster"]
            raise InputError(f"unknown key policies.{policy}.{key}; {nearest(str(key), sorted(set(known)))}")
        if len(having) > 1:
            forms = " or ".join(_nested(part, parts[part][0], key) for part in having)
            raise InputError(f"policies.{policy}.{key}: {' and '.join(having)} both have it; write {forms}")
        if key in given[having[0]]:
            raise InputError(f"policies.{policy}.{key} is given twice; give it once")
        given[having[0]][key] = value


def _nested(part: str, rule: str, key: str) -> str:
    """How a part's parameter is given unmistakably."""
    return f"{part}: {{{key}: ...}}" if part == CONFIDENCE else f"{part}: {{name: {rule}, {key}: ...}}"


def _own_forecaster(given: Any, where: str) -> dict[str, Any]:
    found = {"name": given} if isinstance(given, str) else _mapping(given, where)
    _text(found.get("name"), f"{where}.name")
    return base.resolve(_named_as_text(found, where), where)


def _axes(sweep: Mapping[str, Any], plain: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Flat axes `policy.ucb1.width`, `horizon`, ... with their values; a null axis is not swept."""
    axes: dict[str, list[Any]] = {}
    for key, value in sweep.items():
        if key == "mode":
            _one_of(value, "sweep.mode", ("product", "zip"))
        elif isinstance(value, Mapping) and key not in SHORT_AXES:
            if key not in SWEPT_GROUPS:
                raise InputError(f"sweep.{key} cannot be swept; {nearest(key, list(SWEPT_GROUPS))}")
            for axis, values in (_policy_axes(value) if key == "policy" else value).items():
                path = f"{key}.{axis}"
                if _LONG_AXES.get(path) in axes and values is not None:
                    raise InputError(f"sweep.{path} and sweep.{_LONG_AXES[path]} are one axis; give it once")
                axes |= {_LONG_AXES.get(path, path): values} if values is not None else {}
        elif value is not None:
            if key in SWEPT_GROUPS:
                raise InputError(f"sweep.{key} is {shown(value)}; it must be a mapping, as in sweep.{key}.KEY=[1,2]")
            if key not in SHORT_AXES:
                known = [*SHORT_AXES, *SWEPT_GROUPS, "mode"]
                raise InputError(f"sweep.{key} is no axis; {hints.hint(str(key), known, 'sweep.')}")
            if key in axes:
                raise InputError(f"sweep.{key} and sweep.{SHORT_AXES[key]} are one axis; give it once")
            axes[key] = value
    for axis, values in axes.items():
        if not isinstance(values, list):
            raise InputError(f"sweep.{axis} is {shown(values)}; it must be a list, e.g. sweep.{axis}=[{shown(values)}]")
        if not values:
            raise InputError(f"sweep.{axis} is empty; give at least one value, or leave the axis out")
        _refuse_unknown_axis(axis, plain)
    return axes


def _policy_axes(given: Mapping[str, Any]) -> dict[str, Any]:
    """`<rule>.<parameter>` -> values."""
    axes: dict[str, Any] = {}
    for rule, inner in given.items():
        if inner is None:
            continue
        for key, values in _by_parameter(rule, inner, f"sweep.policy.{rule}").items():
            _owner(rule, key, f"sweep.policy.{rule}.{key}")
            axes[f"{rule}.{key}"] = values
    return axes


def _refuse_unknown_axis(axis: str, plain: Mapping[str, Any]) -> None:
    group, _, key = _axis_path(axis).partition(".")
    if not key or group == "policy":
        return
    known = set(plain[group])
    for kind, name in (("demand", "process"), ("forecaster", "name")):
        if group == kind and plain[group].get(name) in REGISTRIES[kind]:
            known |= set(parameters.names(REGISTRIES[kind][plain[group][name]]))
    if key not in known:
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
        group, _, rest = path.partition(".")
        changed[group] = _with(changed.get(group, {}), {rest: value}) if rest else value
    return changed


def _refuse_unknown(given: Mapping[str, Any], known: Iterable[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            raise InputError(f"unknown key {prefix}{key}; {hints.hint(str(key), sorted(known), prefix)}")


def _name(value: Any) -> str:
    name = _text(value, "name")
    if "/" in name or len(name.encode()) > _LONGEST_NAME:
        raise InputError(
            f"name is {shown(name)}; it names a folder, so it must hold no slash and at most {_LONGEST_NAME} bytes"
        )
    return name


def _mapping(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InputError(f"{where} is {shown(value)}; it must be a mapping, e.g. {where}={{}}")
    return value


def _one_of(value: Any, where: str, options: Sequence[str]) -> str:
    if value not in options:
        raise InputError(f"{where} is {shown(value)}; it must be one of {', '.join(options)}")
    return value
