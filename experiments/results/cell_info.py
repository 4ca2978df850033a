"""What a cell is, and what it was made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class CellInfo:
    """What is known of a cell before any of its numbers; plain values only, so that files can hold it as JSON."""

    cell: str  # id: a hash of everything the results depend on
    policy: str
    routing: str | None = None
    deployment: str | None = None
    env: str | None = None  # the world's name, else its catalogue
    demand: str | None = None  # the demand's name in the study, else its process
    forecaster: str | None = None
    num_models: int | None = None
    horizon: int  # rounds
    budget: float | None = None  # of money for the whole run, USD; None without one
    budget_per_task: float | None = None  # USD; None without one
    target: float | None = None  # wanted share of tasks within the latency limit; None without a latency target
    stages: int | None = None  # None in cells from before there were stages
    max_deployed: int | None = None  # None: all models may be live at once
    arrivals: str | None = None  # the pattern in which models arrive
    clairvoyant: bool = False  # whether the policy knows the true means
    benchmark_feasible: bool | None = None  # whether budget and targets can be met at all
    wall_s: float | None = None
    swept: dict[str, Any] = field(default_factory=dict)  # axis -> this cell's value
    # Every value given or default, under "routing", "deployment", "confidence", "forecaster", "demand" and "env", and
    # beside them "root_seed" and what else the whole study shares.
    parameters: dict[str, Any] = field(default_factory=dict)
    sources: dict[str, Any] = field(default_factory=dict)  # digests of code, texts of users' files: config.sources
    versions: dict[str, Any] = field(default_factory=dict)
    published: Mapping[str, float] | None = None  # the end points to compare with; never in a cell's file

    def to_json(self) -> dict[str, Any]:
        """The fields by name; ``published`` only where there is something."""
        told = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return told if self.published is not None else {name: told[name] for name in told if name != "published"}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "CellInfo":
        """What a file tells, of whatever version; TypeError where it lacks what every cell has."""
        return cls(**{entry.name: told[entry.name] for entry in fields(cls) if entry.name in told})
