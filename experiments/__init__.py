"""Studies: configuration, batched simulation, benchmarks, results, pictures and trackers.

``from experiments import simulate, run_study, load_study`` is the Python API, see ``experiments.api``; the same names
are in ``llm_bandits``. Importing this package alone is cheap: JAX is imported with the first of them.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from experiments.api import (
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
    if name == "__version__":
        from importlib import metadata

        try:
            return metadata.version("llm-bandits")
        except metadata.PackageNotFoundError:  # sources on the path, nothing installed
            return "0+unknown"
    return getattr(importlib.import_module("experiments.api"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
