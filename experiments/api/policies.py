"""Policies from a user's own instances: their classes are registered for as long as a study is planned and run."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeAlias

from bandits.deployment import DeploymentRule
from bandits.forecasting.base import Forecaster
from bandits.routing import RoutingRule
from envs.errors import InputError
from envs.registry import Registry
from experiments.config import rule_errors
from experiments.config.study import REGISTRIES

Policy: TypeAlias = str | Mapping[str, Any] | RoutingRule | tuple[str, Any]

_KINDS: dict[str, type] = {"routing": RoutingRule, "deployment": DeploymentRule, "forecaster": Forecaster}


@contextmanager
def lent(policies: Sequence[Policy]) -> Iterator[list[Any]]:
    """Policies as a configuration has them: names and mappings of names and numbers.

    A policy is a rule's name, a mapping as in the YAML, an instance of a routing rule, or a pair of a name and one of
    these. In a mapping, routing, deployment and forecaster may be instances, too. A class that no registry knows is
    registered under its own name, until the context ends. Whatever else was registered meanwhile goes with it.

    Raises:
        InputError: what is given is no policy, or the class of an instance is none that can be a rule.
    """
    if isinstance(policies, str | Mapping) or not isinstance(policies, Sequence):
        raise InputError(f"policies is {policies!r}; it must be a list, e.g. policies=['uniform', MyRule()]")
    with ExitStack() as kept:
        for registry in REGISTRIES.values():
            kept.enter_context(_restored(registry))
        modules: set[str] = set()
        made = [_mapping(policy, modules) for policy in policies]
        kept.enter_context(rule_errors.theirs(modules))
        yield _named_apart(made)


@contextmanager
def _restored(registry: Registry) -> Iterator[None]:
    before = dict(registry)
    try:
        yield
    finally:
        registry.clear()
        registry.update(before)


def _mapping(policy: Any, modules: set[str]) -> Any:
    """A policy as a configuration has it; ``modules`` is told where the user's classes are defined."""
    if isinstance(policy, str):
        return policy
    if isinstance(policy, tuple):
        if len(policy) != 2 or not isinstance(policy[0], str):
            raise InputError(
                f"policies holds {policy!r}; a pair is a name and a policy, e.g. ('patient', MyRule(eps=0.1))"
            )
        inner = _mapping(policy[1], modules)
        return {**({"routing": inner} if isinstance(inner, str) else inner), "name": policy[0]}
    if isinstance(policy, RoutingRule):
        return {"routing": _part("routing", policy, modules)}
    if not isinstance(policy, Mapping):
        known = "a rule's name, a mapping or an instance"
        wanted = f"an instance, {policy.__name__}(...)" if isinstance(policy, type) else known
        raise InputError(f"policies holds {policy!r}; each must be {wanted}")
    return {
        str(key): _part(key, value, modules) if isinstance(value, tuple(_KINDS.values())) else value
        for key, value in policy.items()
    }


def _part(kind: str, instance: Any, modules: set[str]) -> dict[str, Any]:
    """An instance as {name, parameters}, its class registered."""
    cls = type(instance)
    if not isinstance(instance, _KINDS.get(kind, ())):
        raise InputError(f"policies: {kind} is a {cls.__name__}, which is no {_word(kind)}")
    name = _registered(REGISTRIES[kind], cls, modules)
    return {"name": name} | {field.name: _plain(getattr(instance, field.name)) for field in dataclasses.fields(cls)}


def _word(kind: str) -> str:
    return REGISTRIES[kind].kind if kind in REGISTRIES else f"value of {kind}"


def _plain(value: Any) -> Any:
    """A parameter's value, JAX's and NumPy's numbers as Python's."""
    item: Callable[[], Any] | None = getattr(value, "item", None)
    return item() if item is not None and getattr(value, "size", 1) == 1 else value


def _registered(registry: Registry, cls: type, modules: set[str]) -> str:
    """The name of a class, which is registered where it is not."""
    for name, known in registry.items():
        if known is cls:
            return str(name)
    modules.add(cls.__module__)
    name, number = cls.__name__, 2
    while name in registry:
        name, number = f"{cls.__name__}-{number}", number + 1
    registry.register(name)(cls)
    return name


def _named_apart(policies: list[Any]) -> list[Any]:
    """Policies that were given without a name get the rule's, and those of one rule what tells them apart."""
    unnamed = [entry for entry in policies if isinstance(entry, dict) and "name" not in entry]
    rules = [entry["routing"] for entry in unnamed if isinstance(entry.get("routing"), dict)]
    for entry in unnamed:
        rule = entry.get("routing")
        if not isinstance(rule, dict):
            continue
        alike = [other for other in rules if other["name"] == rule["name"]]
        differing = [key for key in rule if any(other.get(key) != rule[key] for other in alike)]
        told = ", ".join(f"{key}={rule[key]}" for key in differing)
        entry["name"] = f"{rule['name']} ({told})" if told else rule["name"]
    return policies
