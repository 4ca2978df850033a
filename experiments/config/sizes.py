"""What a study will need of the machine's memory, estimated before anything is simulated."""

import os
from contextlib import suppress
from pathlib import Path

import jax

from envs.errors import InputError
from experiments.config import rule_errors
from experiments.config.cells import Cell
from experiments.config.study import StudyConfig

_METRICS = 12  # of every run at every evaluation round, at least
_ESTIMATES = 3  # numbers that a run keeps of every quantity of every model: a mean and two bounds
_COPIES = 5  # of what a run remembers that a program needs at once, at least; up to 20 were measured
_DOUBLE = 8  # bytes
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_USUAL_ROWS = 2048  # runs at once where ``chunk_rows`` is null


def check(study: StudyConfig, planned: list[Cell]) -> None:
    """InputError where a study's results, or what its runs remember, cannot fit in this machine's memory.

    Both are least amounts: what is refused does not fit, what passes may still be simulated in smaller parts.
    """
    _check_results(study, planned)
    if jax.default_backend() == "cpu":  # an accelerator says itself what does not fit
        _check_runs(study, planned)


def memory() -> int:
    """Bytes of memory that this process may use at most."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, ValueError):
        return min(physical, int(_CGROUP_LIMIT.read_text()))
    return physical


def _check_results(study: StudyConfig, planned: list[Cell]) -> None:
    """All results are in memory together when tables and figures are made."""
    marks = sum(min(study.eval_rounds, cell.config.horizon) for cell in planned)
    a_seed = marks * _METRICS * _DOUBLE
    if a_seed * study.seeds > memory():
        raise InputError(
            f"seeds: {study.seeds:,} seeds at {study.eval_rounds:,} eval_rounds of {len(planned):,} cells make results "
            f"of at least {_gigabytes(a_seed * study.seeds)}, and this machine has {_gigabytes(memory())} of memory; "
            f"fewer seeds (about {max(1, memory() // (2 * a_seed)):,}), eval_rounds or cells fit"
        )


def _check_runs(study: StudyConfig, planned: list[Cell]) -> None:
    """What runs that are simulated at once remember is in memory together, several times."""
    rows = min(study.chunk_rows or _USUAL_ROWS, study.seeds * len(planned))
    for cell in {str(cell.config.forecaster): cell for cell in planned}.values():
        truth = cell.instance.world.reward_mean.nbytes * (
            1 + len(cell.instance.resources) + len(cell.instance.services)
        )
        each = _COPIES * (_bytes_of_forecaster(cell) + _ESTIMATES * truth)
        if rows * each > memory():
            raise InputError(
                f"chunk_rows: {rows:,} runs at once remember at least {_gigabytes(rows * each)}, and this "
                f"machine has {_gigabytes(memory())} of memory; chunk_rows={max(1, memory() // (2 * each))} fits"
            )


def _bytes_of_forecaster(cell: Cell) -> int:
    """What the forecaster of one run remembers: the one part whose size a parameter sets."""
    problem, policy = cell.instance.world.problem, cell.policy
    try:
        state = jax.eval_shape(lambda: policy.forecaster.init(problem))
    except BaseException as error:  # of a user's rule, whose cells fail when its program is compiled
        if rule_errors.is_request_to_stop(error):
            raise
        return 0
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))


def _gigabytes(number: int) -> str:
    return f"{number / 2**30:,.3g} GB"
