"""From keywords to a configuration: the one that ``scripts/run`` composes, with Python's values set in it."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
import numpy as np
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.version import VersionBase
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from envs.errors import InputError
from experiments.config import hints, schema
from experiments.config.axes import SHORT_AXES, SWEPT_GROUPS

GROUPS = ("env", "demand", "forecaster")  # a keyword may name a file in conf/<group>, or hold a mapping of its keys
OF_FOLDERS = ("out", "force", "extend", "shard", "tracker")  # keys without a meaning in memory
_PATHS = {**SHORT_AXES, "catalogue": "env.catalogue"}  # keyword -> where it stands in the configuration
_AXES = {path: axis for axis, path in SHORT_AXES.items()}


class Default(enum.Enum):
    """The type of ``DEFAULT``."""

    DEFAULT = "the configuration's"

    def __repr__(self) -> str:
        return "DEFAULT"


DEFAULT = Default.DEFAULT  # the configuration's own value; None would be a value: null


def composed(arguments: Sequence[str]) -> dict[str, Any]:
    """The resolved configuration that the command line makes of these arguments; Hydra's state stays as it was.

    InputError says what is wrong with an argument.
    """
    with _hydra_untouched():
        from experiments.cli import run  # a Hydra application, which sets Hydra's version when it is imported

        try:
            overrides = run.open_overrides(arguments)
            with hydra.initialize_config_module("conf", version_base="1.3"):
                found = hydra.compose("config", overrides=overrides)
            plain: dict[str, Any] = OmegaConf.to_container(found, resolve=True)  # type: ignore[assignment]
            return plain
        except (HydraException, OmegaConfBaseException) as error:
            raise InputError(run.sentence(error)) from error


@contextmanager
def _hydra_untouched() -> Iterator[None]:
    """Afterwards Hydra is as it was before, also where the caller is a Hydra application."""
    state, version = GlobalHydra.instance(), VersionBase.instance()
    before = state.hydra, version.getbase()
    state.hydra = None
    try:
        yield
    finally:
        GlobalHydra.set_instance(state)
        state.hydra, version.version_base = before


def configuration(given: Mapping[str, Any]) -> dict[str, Any]:
    """``conf/config.yaml`` without a study, and these settings in it.

    Args:
        given: dotted key -> plain value. A list for a key that can be swept is an axis of the sweep.

    Raises:
        InputError: an unknown key, or a value that is no plain one. Values are checked by ``study_from``.
    """
    files = {group: given[group] for group in GROUPS if isinstance(given.get(group), str)}
    plain = composed(["~study", *(f"{group}={name}" for group, name in files.items())])
    set_before: set[str] = set()
    for path, value in _flat({key: value for key, value in given.items() if key not in files}):
        if path in set_before:
            raise InputError(f"{path} is given twice; give it once")
        set_before.add(path)
        _put(plain, path, value)
    return plain


def collected(keywords: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Keywords and dotted overrides as one mapping, ``DEFAULT`` left out; InputError for a key that cannot be one."""
    if not isinstance(overrides, Mapping):
        raise InputError(
            f"overrides is {overrides!r}; it must be a mapping of keys, as in overrides={{'env.target': 0.9}}"
        )
    chosen = [(key, value) for source in (keywords, overrides) for key, value in source.items() if value is not DEFAULT]
    found: dict[str, Any] = {}
    for key, value in chosen:
        path = _known(str(key))
        if path in found:
            raise InputError(f"{key} is given twice; give it once")
        found[path] = value
    return found


def _known(key: str) -> str:
    """Where a keyword stands in the configuration."""
    top = key.partition(".")[0]
    if top in OF_FOLDERS:
        raise InputError(f"{top} is for studies with a folder, and simulate keeps results in memory; use run_study")
    if top == "study":
        raise InputError("study is for run_study, as in run_study('default', out=...); simulate takes its parts")
    if key not in _PATHS and top not in schema.TOP:
        raise InputError(f"unknown keyword {key}; {hints.hint(key, [*schema.TOP, *_PATHS, 'overrides', 'progress'])}")
    return _PATHS.get(key, key)


def _flat(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Mappings of groups key by key: dotted path -> plain value."""
    for path, value in given.items():
        depth = {**dict.fromkeys(GROUPS, 1), "policy": 2}.get(path.partition(".")[0], 0)
        if isinstance(value, Mapping) and path.count(".") < depth:
            yield from _flat({f"{path}.{key}": entry for key, entry in value.items()})
        else:
            yield path, _plain(value, path)


def _put(plain: dict[str, Any], path: str, value: Any) -> None:
    if isinstance(value, list) and _is_axis(path):
        path = f"sweep.{_AXES.get(path, path)}"
    if path == "sweep" and isinstance(value, Mapping):
        plain["sweep"] |= value
        return
    *groups, key = path.split(".")
    place = plain
    for group in groups:
        place = place.setdefault(group, {})
        if not isinstance(place, dict):
            raise InputError(f"unknown key {path}; {group} is no group of keys")
    place[key] = value


def _is_axis(path: str) -> bool:
    """Whether a list for this key means several cells."""
    group, _, key = path.partition(".")
    if path in _AXES:
        return True
    itself_a_list = group == "env" and isinstance(schema.ENV.get(key), schema.Listed)
    return group in SWEPT_GROUPS and bool(key) and not itself_a_list


def _plain(value: Any, where: str) -> Any:
    """A value as YAML could hold it; InputError where it could not."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist(), where)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(entry, f"{where}.{key}") for key, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(entry, where) for entry in value]
    more = "; write it to a CSV file, and give its path" if where == "env.catalogue" else ""
    raise InputError(f"{where} is a {type(value).__name__}, and must be a number, text, a list or a mapping{more}")
