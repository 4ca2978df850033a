"""What somebody may have meant by a key that does not exist: the full path of one that does."""

import dataclasses
from collections.abc import Iterable
from difflib import get_close_matches

from bandits.deployment import DEPLOYMENT
from bandits.estimators.confidence import Confidence
from bandits.forecasting.base import FORECASTERS
from bandits.routing import ROUTING
from envs.demand.base import OPTIONS, PROCESSES
from envs.errors import InputError, nearest
from experiments.config import schema
from experiments.config.axes import SHORT_AXES

_TRACKER = ("name", "project", "entity", "mode", "tags")
_MOST = 3  # places that are named at most


def hint(key: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown key.

    A key that exists elsewhere is named with its full path, then one of this group that is spelt nearly so, then one
    elsewhere that is.

    Args:
        key: as it was given, within its group.
        known: the keys of its group.
        prefix: the group and a dot; "sweep." looks among what can be swept.
    """
    known = list(known)
    swept = prefix.startswith("sweep.")
    meant = _places(key.rpartition(".")[2], swept)
    if not meant and not get_close_matches(key, known, n=1):
        names = {path.rpartition(".")[2] for path in _paths(swept)}
        meant = [path for name in get_close_matches(key, names, n=1, cutoff=0.8) for path in _places(name, swept)]
    if not meant and not get_close_matches(key, known, n=1):
        meant = get_close_matches(f"{prefix}{key}", _paths(swept), n=1, cutoff=0.8)
    meant = [path for path in meant if path != f"{prefix}{key}"]
    return f"did you mean {' or '.join(map(repr, meant[:_MOST]))}?" if meant else nearest(key, known)


def misplaced(group: str, keys: Iterable[str]) -> None:
    """InputError for a key that no member of a group has and that stands elsewhere."""
    there = {path.rpartition(".")[2] for path in _paths(swept=False) if path.startswith(f"{group}.")}
    for key in keys:
        if key not in there and _places(str(key), swept=False):
            raise InputError(f"unknown key {group}.{key}; {hint(str(key), there, f'{group}.')}")


def _places(name: str, swept: bool) -> list[str]:
    return [path for path in _paths(swept) if path.rpartition(".")[2] == name]


def _paths(swept: bool) -> list[str]:
    """Full paths of all keys, those of every rule, forecaster and demand among them."""
    groups: dict[str, Iterable[str]] = {
        "env": schema.ENV,
        "policy": [
            *(f"confidence.{key}" for key in _fields([Confidence])),
            *(f"{rule}.{key}" for rules in (ROUTING, DEPLOYMENT) for rule in rules for key in _fields([rules[rule]])),
        ],
        "demand": dict.fromkeys(
            ["process", *OPTIONS, *(key for keys in [kind.keys() for kind in PROCESSES.values()] for key in keys)]
        ),
        "forecaster": ["name", *_fields(FORECASTERS.values())],
    }
    paths = [f"{group}.{key}" for group, keys in groups.items() for key in keys]
    axes = [f"sweep.{axis}" for axis in SHORT_AXES]
    if swept:
        return [*axes, *(f"sweep.{path}" for path in paths if path not in SHORT_AXES.values())]
    return [*schema.TOP, *axes, *paths, "sweep.mode", *(f"tracker.{key}" for key in _TRACKER)]


def _fields(classes: Iterable[type]) -> list[str]:
    return list(dict.fromkeys(field.name for cls in classes for field in dataclasses.fields(cls)))
