"""The Python API: studies from Python, and their results as tables; ``docs/example_api.py`` shows it.

``experiments`` and ``llm_bandits`` have the same names, and import this package with the first one that is used.
"""

from envs.errors import InputError
from experiments.api.results import Difference, Results
from experiments.api.settings import DEFAULT
from experiments.api.studies import FailedCellsError, load_study, run_study, simulate

__all__ = [
    "DEFAULT",
    "Difference",
    "FailedCellsError",
    "InputError",
    "Results",
    "load_study",
    "run_study",
    "simulate",
]
