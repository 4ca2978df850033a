"""The first line of a command: what is about to be simulated, said before JAX is imported, which takes seconds.

The configuration has not been validated yet, so nothing here relies on the types that it should have.
"""

from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import Any

from envs.errors import InputError
from experiments import study_folder, texts


def line(plain: Mapping[str, Any]) -> str:
    """What a resolved configuration asks for: its policies, settings, runs and rounds, and the results folder.

    >>> asked = {"name": "pilot", "policies": ["ucb1", "uniform"], "sweep": {"horizon": [10, 2000]}, "seeds": 4}
    >>> line({**asked, "out": "results/pilot"})
    'pilot: 2 policies x 2 settings (horizon), 4 runs each, up to 2,000 rounds; into results/pilot'
    """
    axes = dict(_axes(plain.get("sweep")))
    horizons = axes.get("horizon") or [plain.get("horizon")]
    factors = [
        _counted(1 if plain.get("routing") is not None else _size(plain.get("policies")), "policy", "policies"),
        *(_counted(_size(plain[key]), key[:-1], key) for key in ("worlds", "demands") if plain.get(key)),
        *([_settings(axes, _entry(plain.get("sweep"), "mode"))] if axes else []),
    ]
    rounds = max((value for value in horizons if isinstance(value, int | float)), default=0)
    runs = _counted(plain.get("seeds"), "run", "runs")
    folder = f"; into {_folder(plain)}" if _folder(plain) else ""
    return f"{plain.get('name')}: {' x '.join(factors)}, {runs} each, up to {rounds:,.0f} rounds{folder}"


def _axes(sweep: Any, prefix: str = "") -> Iterator[tuple[str, list[Any]]]:
    """(path, values) of every axis that is swept."""
    for key, value in sweep.items() if isinstance(sweep, Mapping) else ():
        if isinstance(value, Mapping):
            yield from _axes(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield f"{prefix}{key}", value


def _settings(axes: Mapping[str, list[Any]], mode: Any) -> str:
    number = 1
    for values in axes.values():
        number = max(number, len(values)) if mode == "zip" else number * len(values)
    return f"{_counted(number, 'setting', 'settings')} ({', '.join(axes)})"


def _folder(plain: Mapping[str, Any]) -> Path | str | None:
    """Where results will go; None where the configuration is one that will be refused."""
    try:
        return texts.spelt(plain["out"]) or study_folder.default(plain)
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _entry(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _size(value: Any) -> int:
    return len(value) if isinstance(value, Sized) else 0


def _counted(number: Any, one: str, several: str) -> str:
    return f"{number} {one if number == 1 else several}"
