"""The first line of a command: what is about to be simulated, said before JAX is imported, which takes seconds.

The configuration has not been validated yet, so nothing here relies on the types that it should have.
"""

import math
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from envs.errors import InputError
from experiments.config import texts
from experiments.results import study_folder


def line(given: Mapping[str, Any]) -> str | None:
    """What a resolved configuration asks for: its policies, settings, runs and rounds, and the results folder.

    None where one of these is not what it must be; the command is refused as soon as that can be explained.

    >>> asked = {"name": "pilot", "policies": ["ucb1", "uniform"], "sweep": {"horizon": [10, 2000]}, "seeds": 4}
    >>> line({**asked, "out": "results/pilot"})
    'pilot: 2 policies x 2 settings (horizon), 4 runs each, up to 2,000 rounds; into results/pilot'
    >>> line({**asked, "out": "results/pilot", "seeds": -1})
    """
    try:
        plain = texts.readable(given)
        folder = texts.text(plain["out"], "out") if plain["out"] is not None else study_folder.default(plain)
        axes = dict(_axes(plain["sweep"]))
        factors = [
            _counted(1 if plain.get("routing") is not None else _size(plain["policies"]), "policy", "policies"),
            *(_counted(_size(plain[key]), key[:-1], key) for key in ("worlds", "demands") if plain.get(key)),
            *([_settings(axes, plain["sweep"].get("mode"))] if axes else []),
        ]
        rounds = max(map(_whole, axes.get("horizon") or [plain.get("horizon")]))
        runs = _counted(_whole(plain["seeds"]), "run", "runs")
    except (AttributeError, InputError, KeyError, OverflowError, TypeError, ValueError):
        return None
    return f"{plain['name']}: {' x '.join(factors)}, {runs} each, up to {rounds:,} rounds; into {Path(folder)}"


def _axes(sweep: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """(path, values) of every axis that is swept."""
    for key, value in sweep.items():
        if isinstance(value, Mapping):
            yield from _axes(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", value


def _settings(axes: Mapping[str, list[Any]], mode: Any) -> str:
    sizes = [_size(values) for values in axes.values()]
    return f"{_counted(max(sizes) if mode == 'zip' else math.prod(sizes), 'setting', 'settings')} ({', '.join(axes)})"


def _size(value: Any) -> int:
    if isinstance(value, Sized) and len(value):
        return len(value)
    raise ValueError("nothing to simulate")


def _whole(value: Any) -> int:
    if isinstance(value, int | float) and value >= 1 and float(value).is_integer():
        return int(value)
    raise ValueError("not a number of rounds or runs")


def _counted(number: int, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
