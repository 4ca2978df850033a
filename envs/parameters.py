"""Parameters of registered classes as dataclass fields: numbers are traced leaves, choices are static.

A number can be swept without recompiling; a choice changes the program and so compiles anew.
"""

import dataclasses
import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

from envs.errors import InputError, nearest


def span(
    *, low: float = -math.inf, high: float = math.inf, above: bool = False, whole: bool = False, static: bool = False
) -> dict[str, Any]:
    """The numbers that a field allows, as its metadata; see ``number``."""
    return {"low": low, "high": high, "above": above, "whole": whole, "static": static}


def number(
    default: Any = dataclasses.MISSING,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    above: bool = False,
    whole: bool = False,
    static: bool = False,
) -> Any:
    """A numeric parameter; without a default it must be given.

    Its range is [low, high], without ``low`` itself where ``above``. ``whole`` is for whole numbers, ``static`` for
    those that set a shape and so are no leaf. InputError: the default lies outside.
    """
    metadata = span(low=low, high=high, above=above, whole=whole, static=static)
    field: Any = dataclasses.field(default=default, metadata=metadata)
    if default is not dataclasses.MISSING:
        checked(field.metadata, default, "the default of a number(...)")
    return field


def choice(default: str, options: tuple[str, ...]) -> Any:
    """A parameter that selects one of a few programs."""
    field: Any = dataclasses.field(default=default, metadata={"static": True, "options": options})
    checked(field.metadata, default, "the default of a choice(...)")
    return field


def names(cls: type) -> list[str]:
    """The names of a class's parameters."""
    return [field.name for field in dataclasses.fields(cls)]


def resolve(cls: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every parameter of ``cls`` as a plain value (float, int where whole, str where chosen), given or its default.

    InputError names ``where`` and the key.
    """
    known = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key not in known:
            raise InputError(f"{where}: unknown parameter {key!r}; {nearest(str(key), list(known))}")
    for name, field in known.items():
        if name not in values and field.default is dataclasses.MISSING:
            declare = "" if field.metadata else " here; declare it with number(...) or choice(...)"
            why = f"{name} of {cls.__name__} has no default{declare}"
            raise InputError(f"{where}.{name} is missing; it must be given, since {why}")
        if not field.metadata and isinstance(field.default, str):
            raise InputError(f"{where}.{name} is {field.default!r}; declare it with number(...) or choice(...)")
    return {
        name: checked(field.metadata, values.get(name, field.default), f"{where}.{name}")
        for name, field in known.items()
    }


def build(cls: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of ``cls`` from plain values; InputError names ``where`` and the key."""
    return cls(**resolve(cls, values, where))


def checked(allowed: Mapping[str, Any], value: Any, where: str) -> Any:
    """A value that a field's metadata allows, as a plain one; InputError says what would be right."""
    if "options" in allowed:
        if value not in allowed["options"]:
            raise InputError(f"{where} is {value!r}; it must be one of {', '.join(allowed['options'])}")
        return value
    # True is a number to Python and never what the user meant.
    number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    if not math.isfinite(number):
        raise InputError(f"{where} is {value!r}; it must be a finite number")
    if allowed.get("whole") and not number.is_integer():
        raise InputError(f"{where} is {value}; it must be a whole number")
    low, high = allowed.get("low", -math.inf), allowed.get("high", math.inf)
    if not low <= number <= high or (allowed.get("above") and number == low):
        raise InputError(f"{where} is {value}; it must {wanted(allowed)}")
    return int(number) if allowed.get("whole") else number


def wanted(allowed: Mapping[str, Any]) -> str:
    """What a field's metadata asks for, as the end of a sentence."""
    if "options" in allowed:
        return f"be one of {', '.join(allowed['options'])}"
    low, high = allowed.get("low", -math.inf), allowed.get("high", math.inf)
    if allowed.get("above"):
        return f"be above {low:g}" + ("" if math.isinf(high) else f" and at most {high:g}")
    return f"lie in [{low:g}, {high:g}]"
