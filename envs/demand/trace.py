"""A recorded demand, replayed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from envs import csv_table, files, parameters
from envs.demand.base import POSITIVE, Process, demand_process
from envs.errors import InputError


@demand_process("trace")
class Trace(Process):
    """A recorded series of L counts stretched over the horizon: round t of T covers [t L / T, (t + 1) L / T).

    Within a row the rate is constant, and the whole is scaled so that the run's total is ``mean`` T. The rate of a
    round costs two look-ups, however many rows it covers. Build it with ``Trace.replay``.
    """

    mean: jax.Array  # [] tasks a round
    counts: jax.Array  # [L] the recorded rows, scaled to at most 1
    cumulative: jax.Array  # [2, L + 1] sum of the rows before each, as a float and what that float's rounding lost

    @classmethod
    def replay(cls, counts: np.ndarray, mean: float | None = None) -> "Trace":
        """A trace from host counts [L], not all zero; ``mean`` tasks a round, or None for the rows' own mean."""
        # Only ratios matter. A power of two changes no digit and keeps a series of any size within float32.
        scaled = np.ldexp(np.asarray(counts, np.float64), -int(np.frexp(np.max(counts))[1]))
        exact = np.concatenate([np.zeros(1), np.cumsum(scaled)])
        dtype = jnp.result_type(float)
        # Two floats a sum: one float32 alone would lose a row's worth of tasks in a sum over 10^4 rows.
        leading = exact.astype(dtype)
        cumulative = np.stack([leading, (exact - leading).astype(dtype)])
        return cls(  # type: ignore[call-arg]
            mean=jnp.asarray(np.mean(counts) if mean is None else mean, dtype),
            counts=jnp.asarray(scaled, dtype),
            cumulative=jnp.asarray(cumulative),
        )

    def profile(self, t: jax.Array, horizon: jax.Array) -> jax.Array:
        """See ``Process.profile``."""
        rows = self.counts.shape[0]
        begin, begin_part = _position(t, horizon, rows)
        horizon = jnp.asarray(horizon).astype(jnp.uint32)
        end = begin + ((begin_part + rows) // horizon).astype(jnp.int32)
        end_part = (begin_part + rows) % horizon
        first, last = self.counts[begin], self.counts[jnp.minimum(end, rows - 1)]
        # Widths are in T-ths of a row, of which a round has L: whole numbers, so nothing is lost or counted twice.
        dtype = self.counts.dtype
        between = self.cumulative[:, end] - self.cumulative[:, jnp.minimum(begin + 1, end)]
        parts = first * (horizon - begin_part).astype(dtype) + last * end_part.astype(dtype)
        spanning = parts + jnp.sum(between) * jnp.asarray(horizon, dtype)
        tasks = jnp.where(begin == end, first * rows, spanning)
        return self.mean * (tasks / jnp.sum(self.cumulative[:, -1]))

    def peak(self) -> float:
        """See ``Process.peak``."""
        counts = np.asarray(self.counts, np.float64)
        return float(self.mean) * float(counts.max() / counts.mean())

    @classmethod
    def keys(cls) -> list[str]:
        """See ``Process.keys``."""
        return ["path", "column", "mean"]

    @classmethod
    def resolve(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """See ``Process.resolve``."""
        for key in ("path", "column"):
            if not isinstance(given[key], str | Path):
                wanted = "a CSV file" if key == "path" else "the name of a column of the file"
                raise InputError(f"demand.{key} is {given[key]!r}, but it must be {wanted}.")
        mean = given["mean"]
        return {
            "path": str(given["path"]),
            "column": str(given["column"]),
            "mean": None if mean is None else parameters.checked(POSITIVE, mean, "demand.mean"),
        }

    @classmethod
    def from_parameters(cls, values: Mapping[str, Any]) -> "Process":
        """See ``Process.from_parameters``."""
        counts = read_trace(values["path"], values["column"])
        if values["mean"] is not None:
            return cls.replay(counts, values["mean"])
        mean = float(np.sum(counts / counts.size))
        if not 1e-30 <= mean <= 1e30:
            raise InputError(
                f"demand.mean is null, so it is the mean of column {values['column']!r} of {values['path']}, "
                f"which is {mean:g}; give demand.mean as a number of tasks per round."
            )
        return cls.replay(counts)


def _position(t: jax.Array, horizon: jax.Array, rows: int) -> tuple[jax.Array, jax.Array]:
    """t rows / horizon as (whole rows [] int32, remainder [] uint32 in horizon-ths of a row), exact.

    t rows needs up to 62 bits, so the division goes through the bits of ``rows`` one by one; horizons below 2^31.
    """
    t, horizon = jnp.asarray(t).astype(jnp.uint32), jnp.asarray(horizon).astype(jnp.uint32)
    whole = rest = jnp.zeros_like(t)
    for bit in f"{rows:b}":
        whole, rest = _reduced(2 * whole, 2 * rest, horizon)
        if bit == "1":
            whole, rest = _reduced(whole, rest + t, horizon)
    return whole.astype(jnp.int32), rest


def _reduced(whole: jax.Array, rest: jax.Array, horizon: jax.Array) -> tuple[jax.Array, jax.Array]:
    """whole + rest / horizon with the rest below the horizon; it must be below twice the horizon."""
    over = rest >= horizon
    return whole + over, jnp.where(over, rest - horizon, rest)


def read_trace(path: str | Path, column: str) -> np.ndarray:
    """One column of counts [L] float64 from a CSV file with a header line, one row per interval, in order.

    Raises:
        InputError: a file that is no such table (see ``envs.csv_table``), a column that is not there, a cell that is no
            count, or nothing to replay.
    """
    content = files.content(path, "the trace of demand.path", "a CSV file")
    table = csv_table.parse(content, str(path), [column], row="interval", where="demand.column: ", skip_empty=False)
    counts = table.numbers(column, lambda count: count >= 0, "a count of at least 0")
    if not counts.any():
        raise InputError(f"demand.path: column {column!r} of {path} is zero in every row; one count must be above 0.")
    return counts
