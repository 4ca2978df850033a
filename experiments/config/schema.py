"""What every key of the configuration may hold, as one table: the border that wrong types and numbers do not cross.

``TOP`` describes the keys of ``conf/config.yaml``, ``ENV`` those of ``conf/env``. Parameters of rules, forecasters and
demand processes are described where they are declared; what holds for every number, wherever it stands, is checked by
``check_numbers``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from envs.build import TOKENS_PER_PRICE
from envs.errors import InputError, nearest
from envs.inventory import ARRIVALS, ORDERS
from experiments.config import texts

LARGEST = 3.4e38  # that float32 holds
SMALLEST = 1.2e-38  # above 0; what is smaller is 0 to a device
MOST_MODELS = 100_000
MOST_CELLS = 100_000
_INT32 = 2**31 - 1
_SHOWN = 80  # characters of a value in a message


class Kind(Protocol):
    """What one key may hold."""

    @property
    def wanted(self) -> str:
        """What would be right, after "must be"."""

    def read(self, value: Any, where: str) -> Any:
        """The value as the rest of the program wants it; InputError names ``where``."""


@dataclass(frozen=True, kw_only=True)
class Number:
    """A finite number in [low, high], or (low, high] with ``above``."""

    low: float = -1e9
    high: float = 1e9
    above: bool = False
    or_null: bool = False

    @property
    def wanted(self) -> str:
        """See ``Kind``."""
        return "a finite number" + _or_null(self.or_null)

    def read(self, value: Any, where: str) -> float | None:
        """See ``Kind``."""
        if value is None and self.or_null:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(_float(value)):
            raise _wrong(where, value, self.wanted)
        check_size(value, where)
        if not self.low <= value <= self.high or (self.above and value == self.low):
            least = f"above {self.low:g}" if self.above else f"at least {self.low:g}"
            raise _wrong(where, value, f"{least} and at most {self.high:g}")
        return float(value)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """A whole number in [low, high]; 2.0 is one."""

    low: int
    high: int = _INT32
    or_null: bool = False

    @property
    def wanted(self) -> str:
        """See ``Kind``."""
        return "a whole number" + _or_null(self.or_null)

    def read(self, value: Any, where: str) -> int | None:
        """See ``Kind``."""
        if value is None and self.or_null:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise _wrong(where, value, self.wanted)
        if not self.low <= value <= self.high:
            raise _wrong(where, value, f"between {self.low} and {self.high}")
        return value


@dataclass(frozen=True, kw_only=True)
class Flag:
    """True or false."""

    wanted: str = "true or false"

    def read(self, value: Any, where: str) -> bool:
        """See ``Kind``."""
        if not isinstance(value, bool):
            raise _wrong(where, value, self.wanted)
        return value


@dataclass(frozen=True, kw_only=True)
class Text:
    """Text that is not empty."""

    wanted: str = "a name"
    or_null: bool = False

    def read(self, value: Any, where: str) -> str | None:
        """See ``Kind``."""
        if value is None and self.or_null:
            return None
        spelt = texts.spelt(value)
        if spelt is None or not spelt.strip():
            raise _wrong(where, value, self.wanted + _or_null(self.or_null))
        return spelt


@dataclass(frozen=True, kw_only=True)
class FlagOrText:
    """True or false, or text that is not empty."""

    wanted: str = "true, false or the path of a folder"

    def read(self, value: Any, where: str) -> bool | str:
        """See ``Kind``."""
        if isinstance(value, bool):
            return value
        return Text(wanted=self.wanted).read(value, where) or ""


@dataclass(frozen=True, kw_only=True)
class OneOf:
    """One of a few words."""

    options: tuple[str, ...]
    or_null: bool = False

    @property
    def wanted(self) -> str:
        """See ``Kind``."""
        return f"one of {', '.join(self.options)}" + _or_null(self.or_null)

    def read(self, value: Any, where: str) -> str | None:
        """See ``Kind``."""
        if value is None and self.or_null:
            return None
        if not isinstance(value, str) or value not in self.options:
            raise _wrong(where, value, self.wanted)
        return value


@dataclass(frozen=True, kw_only=True)
class Table:
    """A mapping from names to values of one kind, or of any."""

    values: Kind | None = None
    wanted: str = "a mapping"

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """See ``Kind``."""
        if not isinstance(value, Mapping):
            raise _wrong(where, value, f"{self.wanted}, e.g. {where}={{}}")
        if self.values is None:
            return dict(value)
        return {str(key): self.values.read(entry, f"{where}.{key}") for key, entry in value.items()}


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A list of values of one kind, or of any."""

    example: str
    values: Kind | None = None
    wanted: str = "a list"

    def read(self, value: Any, where: str) -> list[Any]:
        """See ``Kind``."""
        if not isinstance(value, list):
            raise _wrong(where, value, f"a list, e.g. {where}={self.example}")
        return list(value) if self.values is None else [self.values.read(entry, where) for entry in value]


@dataclass(frozen=True, kw_only=True)
class Free:
    """Whatever a part of the program reads itself."""

    wanted: str = "as conf/config.yaml shows"

    def read(self, value: Any, where: str) -> Any:
        """See ``Kind``."""
        return value


POINT_NAMES = ("policy", "routing", "demand", "env")  # of the cells that a published end point belongs to
POINT_QUANTITIES = ("regret", "violation_per_round")


@dataclass(frozen=True, kw_only=True)
class Point:
    """A published end point: names of the cells it belongs to, and numbers (see ``experiments.report.published``)."""

    wanted: str = f"a mapping with {' or '.join(POINT_QUANTITIES)}"

    def read(self, value: Any, where: str) -> dict[str, Any]:
        """See ``Kind``."""
        if not isinstance(value, Mapping) or not set(value) & set(POINT_QUANTITIES):
            raise _wrong(where, value, self.wanted)
        kinds: dict[str, Kind] = dict.fromkeys(POINT_NAMES, Text()) | dict.fromkeys(POINT_QUANTITIES, Number())
        for key in value:
            if key not in kinds:
                raise InputError(f"unknown key {where}.{key}; {nearest(str(key), list(kinds))}")
        return {key: kinds[key].read(entry, f"{where}.{key}") for key, entry in value.items()}


TOP: dict[str, Kind] = {
    "env": Table(),
    "demand": Table(),
    "forecaster": Table(),
    "policy": Table(),
    "sweep": Table(),
    "tracker": Table(),
    "name": Free(),
    "policies": Listed(example="[lp_resolving]"),
    "deployment": Text(wanted="a deployment rule's name"),
    "routing": Text(wanted="a routing rule's name", or_null=True),
    "rules": Listed(example="[my_rule.py]", values=Text(wanted="the path of a Python file")),
    "horizon": Whole(low=1, high=_INT32 - 1),
    "seeds": Whole(low=1),
    "root_seed": Whole(low=0, high=2**32 - 1),
    "eval_rounds": Whole(low=2, high=1_000_000),
    "eval_spacing": OneOf(options=("log", "linear")),
    "precision": OneOf(options=("float32", "float64")),
    "chunk_rows": Whole(low=1, or_null=True),
    "checkpoint_minutes": Number(low=0.0, or_null=True),
    "out": Free(),
    "force": Flag(),
    "extend": Flag(),
    "shard": Whole(low=0, or_null=True),
    "expected_exponents": Table(),
    "program_cache": FlagOrText(),
    "published": Listed(example="[{policy: copac_ucb, regret: 8600}]", values=Point()),
    "worlds": Table(values=Table()),
    "demands": Table(values=Table()),
}
_SHARE = Number(low=0.0, high=1.0)
_POSITIVE_SHARE = Number(low=0.0, high=1.0, above=True)
_AMOUNT = Number(low=0.0, above=True)
ENV: dict[str, Kind] = {
    "catalogue": Text(wanted="the name of a catalogue, or the path of a CSV file"),
    "num_models": Whole(low=1, high=MOST_MODELS, or_null=True),
    "first_quality": Number(low=0.0, high=1.0, or_null=True),
    "quality_gap": Number(low=0.0, high=1.0, or_null=True),
    "budget_per_task": Number(low=0.0, above=True, or_null=True),
    "budget_usd": Number(low=0.0, high=1e15, above=True, or_null=True),
    "cost_unit": OneOf(options=tuple(TOKENS_PER_PRICE), or_null=True),
    "cost_cv": Number(low=0.0, or_null=True),
    "latency_cv": Number(low=0.0, or_null=True),
    "resources": Table(values=_AMOUNT),
    "budget_rule": OneOf(options=("skip", "stop", "cross", "average")),
    "target": Number(low=0.0, high=1.0, or_null=True),
    "latency_slo_s": _AMOUNT,
    "floors": Table(values=_SHARE),
    "cloud_rtt_s": Number(low=0.0),
    "edge_throughput": _POSITIVE_SHARE,
    "cloud_throughput": _POSITIVE_SHARE,
    "quality_noise": OneOf(options=("bernoulli", "beta")),
    "quality_concentration": _AMOUNT,
    "cost_bound_multiple": Number(low=1.0),
    "demand_seen": OneOf(options=("before", "after")),
    "arrivals": OneOf(options=ARRIVALS),
    "arrival_order": OneOf(options=ORDERS),
    "arrival_span": _POSITIVE_SHARE,
    "initial_models": Whole(low=1),
    "arrival_seed": Whole(low=0),
    "arrival_at": Listed(example="[0.25, 0.5]", values=_SHARE),
    "retirement_at": Listed(example="[0.5, null]", values=Number(low=0.0, or_null=True)),
    "lifetime": Number(low=0.0, above=True, or_null=True),
    "max_deployed": Whole(low=1, or_null=True),
    "stages": Whole(low=1, or_null=True),
    "stage_exponent": _SHARE,
    "deployment_cost_usd": Number(low=0.0),
}


def read(kinds: Mapping[str, Kind], given: Mapping[str, Any], group: str = "") -> dict[str, Any]:
    """Every key of a table from a mapping that must have all of them; InputError names the first that is wrong."""
    prefix = f"{group}." if group else ""
    for key in kinds:
        if key not in given:
            shown = "conf/env/routerbench.yaml" if group else "conf/config.yaml"
            raise InputError(f"{prefix}{key} is missing; {shown} shows every key")
    return {key: kind.read(given[key], f"{prefix}{key}") for key, kind in kinds.items()}


def check_numbers(value: Any, where: str = "") -> None:
    """InputError where a finite number anywhere in a configuration is none that float32 tells from 0 and infinity."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            check_numbers(entry, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for entry in value:
            check_numbers(entry, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        check_size(value, where)


def check_size(value: float, where: str) -> None:
    """InputError where a finite number is too large for float32, or so small that it would be 0."""
    size = abs(_float(value))
    whole = isinstance(value, int)
    if (whole or math.isfinite(value)) and (size > LARGEST or 0 < size < SMALLEST):
        raise _wrong(where, value, f"0, or between {SMALLEST:g} and {LARGEST:g} in size, as float32 holds")


def shown(value: Any) -> str:
    """A value as a configuration writes it, in one line of bounded length."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and abs(value) >= 10**_SHOWN:  # Python refuses to write very long numbers
        return f"a number of more than {_SHOWN} digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _float(value: float) -> float:
    """As a float; infinite where a whole number is larger than any."""
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _or_null(allowed: bool) -> str:
    return " or null" if allowed else ""


def _wrong(where: str, value: Any, wanted: str) -> InputError:
    return InputError(f"{where} is {shown(value)}; it must be {wanted}")
