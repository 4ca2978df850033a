"""The Python API under the distribution's own name: ``from llm_bandits import simulate``; see ``experiments.api``.

An installation puts this package at the top level. It needs ``bandits``, ``conf``, ``envs`` and ``experiments`` of the
same installation, which a package of one of these names in the working folder would hide; that is refused.
"""

import importlib
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments import (
        DEFAULT,
        Difference,
        FailedCellsError,
        InputError,
        Results,
        load_study,
        run_study,
        simulate,
    )

    __version__: str

_PARTS = {"bandits": "policy.py", "conf": "config.yaml", "envs": "world.py", "experiments": "api"}


def _refuse_others() -> None:
    """ImportError where one of our packages is hidden by somebody else's."""
    for name, inside in _PARTS.items():
        spec = importlib.util.find_spec(name)
        place = None if spec is None or spec.origin is None else Path(spec.origin).parent
        if place is None or not (place / inside).exists():
            raise ImportError(
                f"llm_bandits needs its own package {name!r}, and {place or 'another one'} comes first on sys.path; "
                "start Python with -P, or rename that package"
            )


_refuse_others()
__all__ = [
    "DEFAULT",
    "Difference",
    "FailedCellsError",
    "InputError",
    "Results",
    "__version__",
    "load_study",
    "run_study",
    "simulate",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("experiments"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
