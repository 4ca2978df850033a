"""Parameters of rules as dataclass fields: numbers are traced leaves, choices are static.

A number can be swept without recompiling; a choice changes the program and so compiles anew.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from envs.errors import InputError, nearest


def number(default: float, *, low: float = -math.inf, high: float = math.inf, whole: bool = False) -> Any:
    """A numeric parameter with its allowed range (both ends included); InputError where the default lies outside."""
    field: Any = dataclasses.field(default=default, metadata={"low": low, "high": high, "whole": whole})
    _check(field, default, "the default of a number(...)")
    return field


def choice(default: str, options: tuple[str, ...]) -> Any:
    """A parameter that selects one of a few programs; InputError where the default is none of them."""
    field: Any = dataclasses.field(default=default, metadata={"static": True, "options": options})
    _check(field, default, "the default of a choice(...)")
    return field


def names(cls: type) -> list[str]:
    """The names of a rule's parameters."""
    return [field.name for field in dataclasses.fields(cls)]


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of ``cls`` from plain values; InputError names ``where`` and the key."""
    known = {field.name: field for field in dataclasses.fields(cls)}
    for key, value in values.items():
        if key not in known:
            raise InputError(f"{where}: unknown parameter {key!r}; {nearest(key, list(known))}")
        _check(known[key], value, f"{where}.{key}")
    for key, field in known.items():
        if key not in values and field.default is dataclasses.MISSING:
            raise InputError(
                f"{where}.{key} of {cls.__name__} has no default; declare it with number(...) or choice(...)"
            )
    return cls(**values)


def _check(field: dataclasses.Field, value: Any, where: str) -> None:
    if "options" in field.metadata:
        if value not in field.metadata["options"]:
            raise InputError(f"{where} is {value!r}; it must be one of {', '.join(field.metadata['options'])}")
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where} is {value!r}; it must be a finite number")
    if field.metadata.get("whole") and value != int(value):
        raise InputError(f"{where} is {value}; it must be a whole number")
    low, high = field.metadata.get("low", -math.inf), field.metadata.get("high", math.inf)
    if not low <= value <= high:
        raise InputError(f"{where} is {value}; it must lie in [{low:g}, {high:g}]")
