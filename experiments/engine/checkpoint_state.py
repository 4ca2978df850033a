"""The state of a batch between two rounds."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A chunk of runs between two rounds."""

    rounds: int  # played
    state: Any  # pytree of arrays
    seen: list[Any]  # a snapshot for every evaluation round so far, NumPy arrays
