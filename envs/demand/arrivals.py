"""Demand: a process and the counts around its rate; from a configuration to both."""

import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import parameters
from envs.demand.base import NEGLIGIBLE, NOT_NEGATIVE, OPTIONS, POSITIVE, PROCESSES, Process, State
from envs.demand.counts import COUNTS, LARGEST_COUNT, gamma_factor, poisson
from envs.errors import InputError, nearest


# Demand.
@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Demand:
    """Tasks a round: a process and the law of the counts around its rate."""

    process: Process
    counts: str = field(metadata={"static": True})  # one of COUNTS; "none" gives the rate itself
    dispersion: jax.Array  # [] negative binomial only: variance = rate + dispersion rate^2
    maximum: jax.Array  # [] cap on the tasks of a round, which fixed-point running totals need

    def init(self, key: jax.Array) -> State:
        """The process's state before round 0."""
        return self.process.init(key)

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """The planner's expected tasks [] of round t (see ``Process.profile``), ignoring the cap."""
        return self.process.profile(t, horizon)

    def step(self, state: State, t: jax.Array, horizon: jax.Array, key: jax.Array) -> tuple[State, jax.Array]:
        """One round.

        A run's tasks do not depend on the other runs of its batch, but for the last bit of a rate: XLA on a CPU rounds
        exp otherwise in batches that are no multiple of its vector width.

        Args:
            state: as ``init`` or the last ``step`` returned it.
            t: [] int32, rounds completed so far.
            horizon: [] int32, rounds of the run.
            key: a key for this round alone.

        Returns:
            The next state, and q_t [] tasks in [0, maximum]: whole numbers unless ``counts`` is "none".
        """
        # Folded in, not split: what a process or law leaves unused is dropped, and a key costs as much as a uniform.
        key_rate, key_mixing, key_count = (jax.random.fold_in(key, use) for use in range(3))
        state, tasks = self.process.step(state, t, horizon, key_rate)
        if self.counts == "none":
            return state, jnp.clip(tasks, 0, self.maximum)
        if self.counts == "negative_binomial":
            tasks = tasks * gamma_factor(key_mixing, self.dispersion, tasks.dtype)
        return state, jnp.clip(poisson(key_count, tasks), 0, jnp.floor(self.maximum))


CHUNK = 1 << 16


@jax.jit
def _profile_chunk(demand: Demand, first: jax.Array, horizon: jax.Array) -> jax.Array:
    """[CHUNK] profiles of the rounds from ``first`` on; those past the horizon mean nothing."""
    return jax.vmap(demand.profile, in_axes=(0, None))(first + jnp.arange(CHUNK, dtype=jnp.int32), horizon)


def expected_total(demand: Demand, horizon: int) -> float:
    """The nominal tasks of a whole run: the sum of ``profile`` over its rounds, added in float64; the cap is ignored.

    Example:
        >>> expected_total(build("constant", {"mean": 20}), 1500)
        30000.0
    """
    total = 0.0
    for first in range(0, horizon, CHUNK):
        chunk = np.asarray(_profile_chunk(demand, jnp.int32(first), jnp.int32(horizon)), dtype=np.float64)
        total += float(chunk[: horizon - first].sum())
    return total


# Reading.
def resolve(values: Mapping[str, Any]) -> dict[str, Any]:
    """The process's name under "process", its parameters and the ``OPTIONS`` as plain values, given or default.

    ``maximum`` stays None where it is. InputError: an unknown process or key, a key missing, or a value that its key
    does not allow; what must fit together, and a trace's file, are looked at by ``build``.
    """
    kind: type[Process] = PROCESSES.find(values.get("process"), "demand.process")
    given = {**OPTIONS, **{key: value for key, value in values.items() if key != "process"}}
    _check_keys(str(values["process"]), kind, given)
    maximum = given["maximum"]
    return {
        "process": values["process"],
        **kind.resolve({key: value for key, value in given.items() if key not in OPTIONS}),
        "counts": _counts(given["counts"]),
        "dispersion": parameters.checked(NOT_NEGATIVE, given["dispersion"], "demand.dispersion"),
        "maximum": None if maximum is None else parameters.checked(POSITIVE, maximum, "demand.maximum"),
    }


def build(name: str, values: Mapping[str, Any]) -> Demand:
    """The demand that a config describes, checked on the host.

    A ``maximum`` of null is set where a round passes it with a chance of about exp(-30): the process's ``peak``, plus
    the sub-gamma tail bounds of the counts around it (Boucheron, Lugosi, Massart 2013, sections 2.4 and 2.8).

    Args:
        name: a key of ``PROCESSES``.
        values: every parameter of the process without a default, and any other of it and of ``counts``,
            ``dispersion``, ``maximum``. The config's own ``process`` entry may stay in.

    Raises:
        InputError: an unknown process or key, a key missing, or a value that its key does not allow.

    Example:
        >>> float(build("trend", {"mean": 20, "slope": 0.25, "noise": 0.0}).profile(0, 2))
        17.5
    """
    given = resolve({**values, "process": name})
    options = {key: given.pop(key) for key in OPTIONS}
    process = PROCESSES[given.pop("process")].from_parameters(given)
    if type(process).average is Process.average and getattr(process, "mean", None) is None:
        raise InputError(f"demand process {name!r} has no `mean`, the tasks a round that every process must tell")
    mixed = options["dispersion"] if options["counts"] == "negative_binomial" else 0.0
    maximum = _maximum(options, process, mixed)
    leaves: Process = jax.tree.map(_leaf, process.prepared())
    return Demand(
        process=leaves, counts=options["counts"], dispersion=_leaf(options["dispersion"]), maximum=_leaf(maximum)
    )


def _leaf(value: jax.Array | np.ndarray | float) -> jax.Array:
    """A number as an array of the default precision."""
    return jnp.asarray(value, jnp.result_type(float))


def _check_keys(name: str, kind: type[Process], given: Mapping[str, Any]) -> None:
    """Refuses keys that the process does not have and asks for those that are missing."""
    known = kind.keys()
    optional = [entry.name for entry in fields(kind) if entry.default is not MISSING]  # type: ignore[arg-type]
    for key in given:
        if key not in known and key not in OPTIONS:
            raise InputError(f"demand.{key} is no parameter of {name!r}; {nearest(str(key), [*known, *OPTIONS])}")
    for key in known:
        if key not in given and key not in optional:
            raise InputError(f"demand.{key} is missing; process {name!r} needs {', '.join(known)}.")


def _counts(value: Any) -> str:
    """The name of a law of counts, checked."""
    if value not in COUNTS:
        raise InputError(f"demand.counts is {value!r}, which is no law of counts; {nearest(str(value), list(COUNTS))}")
    return str(value)


def _maximum(given: Mapping[str, Any], process: Process, dispersion: float) -> float:
    """The cap on a round's tasks, checked, or the default one."""
    counted, mean = given["counts"] != "none", process.average()
    if given["maximum"] is not None:
        maximum = float(given["maximum"])
    elif counted and process.peak() > LARGEST_COUNT:
        raise InputError(
            f"demand.mean={mean:g} lets the rate of a round reach {process.peak():g} tasks, but a round can count at "
            f"most {LARGEST_COUNT:.0f}; lower it, or set demand.counts=none."
        )
    else:
        maximum = _practical_maximum(process.peak(), dispersion) if counted else math.ceil(process.peak())
        maximum = min(maximum, LARGEST_COUNT) if counted else maximum
    if maximum < mean:
        raise InputError(f"demand.maximum is {maximum:g}, but it must be at least the mean, {mean:g}.")
    if counted and maximum > LARGEST_COUNT:
        raise InputError(f"demand.maximum is {maximum:g}, but a round can count at most {LARGEST_COUNT:.0f} tasks.")
    return maximum


def _practical_maximum(peak: float, dispersion: float) -> float:
    """A cap that counts pass with a chance of about exp(-NEGLIGIBLE), at a rate of at most ``peak``."""
    mixed = peak * (1 + math.sqrt(2 * NEGLIGIBLE * dispersion) + NEGLIGIBLE * dispersion)
    return float(math.ceil(mixed + math.sqrt(2 * NEGLIGIBLE * mixed) + NEGLIGIBLE / 3))
