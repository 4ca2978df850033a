"""The LP solver against HiGHS, hand-solved cases, and what it promises about padding, batches and bad instances.

HiGHS gets the numbers after rounding to the dtype under test, so that only the solver is judged. Values are compared
relative to ``|objective| . x`` at the optimum: a relative error of each term, which no choice of units can hide or blow
up. The badly scaled instances are the well-scaled ones with rows, columns and objective multiplied by powers of two
between 1e-6 and 1e6, which is exact: HiGHS solves the originals, and the values must agree to the same tolerance.
HiGHS drops entries below 1e-9 and its tolerances are absolute, so it is given units of its own: of what a variable can
reach within the box and each row, and of the most that one variable adds to a row.
"""

import functools
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from scipy.optimize import linprog

from bandits.solvers import lp

BATCH, NUM_VARIABLES, NUM_ROWS = 300, 11, 3
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}
FORGIVEN = {"float32": 2e-5, "float64": 1e-9}
Instances = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # objective [B, n], matrix [B, m, n], bound, upper


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Iterator[str]:
    with jax.enable_x64(request.param == "float64"):
        yield request.param


TRACES: list[str] = []


@functools.cache
def _solver(dtype: str) -> Callable[..., lp.Solution]:
    """One compiled program a dtype: every test that can, asks for the same shapes."""

    def solve(steps: jax.Array, *operands: jax.Array) -> lp.Solution:
        TRACES.append(dtype)
        return jax.vmap(functools.partial(lp.maximize, max_steps=steps))(*operands)

    return jax.jit(solve)


def _solve(instances: Instances, dtype: str, steps: int = 200) -> lp.Solution:
    """Solve a batch of at most BATCH instances of at most the common size, by padding to it."""
    objective, matrix, bound, upper = (np.asarray(array, dtype) for array in instances)
    batch, rows, variables = matrix.shape
    more, idle, fixed = (0, BATCH - batch), (0, NUM_ROWS - rows), (0, NUM_VARIABLES - variables)
    padded = (
        np.pad(objective, (more, fixed)),
        np.pad(matrix, (more, idle, fixed)),
        np.pad(bound, (more, idle)),
        np.pad(upper, (more, fixed)),
    )
    solution = _solver(dtype)(jnp.int32(steps), *map(jnp.asarray, padded))
    cut = jax.tree.map(lambda array: np.asarray(array)[:batch], solution)
    return lp.replace(cut, x=cut.x[:, :variables], dual=cut.dual[:, :rows])


def _solve_one(objective: list, matrix: list, bound: list, upper: list, dtype: str) -> lp.Solution:
    single = tuple(np.asarray(array, float)[None] for array in (objective, matrix, bound, upper))
    return jax.tree.map(lambda array: array[0], _solve(single, dtype))


def _reach(matrix: np.ndarray, bound: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """[n] the box, and what each row by itself leaves of it."""
    room = bound - np.minimum(matrix, 0) @ upper
    room = np.maximum(room, (np.abs(bound) + np.abs(np.minimum(matrix, 0)) @ upper) / 1024)
    leaves = np.where((matrix > 0) & (room > 0)[:, None], room[:, None] / np.where(matrix > 0, matrix, 1), np.inf)
    return np.minimum(upper, leaves.min(axis=0, initial=np.inf))


def _highs(
    objective: np.ndarray, matrix: np.ndarray, bound: np.ndarray, upper: np.ndarray
) -> tuple[bool, float, float]:
    """Whether the LP is feasible, its value, and |objective| . x."""
    matrix = np.where(upper > 0, matrix, 0)
    column = np.where(upper > 0, _reach(matrix, bound, upper), 1)
    largest = np.abs(matrix * column).max(axis=1, initial=0)
    row = np.where(largest > 0, 1 / np.where(largest > 0, largest, 1), 1)
    unit = np.abs(objective * column).max() or 1
    options = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    result = linprog(
        -objective * column / unit,
        A_ub=matrix * column * row[:, None],
        b_ub=bound * row,
        bounds=np.stack([np.zeros_like(upper), upper / column], axis=1),
        options=options,
    )
    assert result.status in (0, 2), result.message
    if result.status == 2:
        return False, 0.0, 0.0
    return True, float(objective @ (result.x * column)), float(np.abs(objective) @ (result.x * column))


def _random(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    matrix, upper = rng.normal(size=(batch, m, n)), rng.uniform(0.1, 2, size=(batch, n))
    inside = np.einsum("bmn,bn->bm", matrix, upper * rng.uniform(size=(batch, n)))
    return rng.normal(size=(batch, n)), matrix, inside + rng.uniform(-0.5, 0.5, size=(batch, m)), upper


def _copac(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """A share of each model, packing rows, and one covering row with an elastic variable, which comes last."""
    matrix = np.zeros((batch, m, n))
    matrix[:, 0, :-1] = 1
    matrix[:, 1:-1, :-1] = rng.uniform(size=(batch, m - 2, n - 1))
    matrix[:, -1, :-1] = -rng.uniform(size=(batch, n - 1))
    matrix[:, -1, -1] = -1
    target = rng.uniform(0.2, 0.95, size=(batch, 1))
    bound = np.concatenate([np.ones((batch, 1)), rng.uniform(0.1, 0.6, size=(batch, m - 2)), -target], axis=1)
    objective = np.concatenate([rng.uniform(size=(batch, n - 1)), np.full((batch, 1), -10.0)], axis=1)
    upper = np.concatenate([rng.uniform(0.2, 1, size=(batch, n - 1)), target], axis=1)
    return objective, matrix, bound, upper


def _degenerate(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Small whole numbers: many ties, many bases for one vertex, many optimal vertices."""
    draw = functools.partial(rng.integers, endpoint=True)
    shapes = ((-1, 2, (batch, n)), (-1, 1, (batch, m, n)), (-1, 1, (batch, m)), (0, 2, (batch, n)))
    objective, matrix, bound, upper = (draw(low, high, size=shape).astype(float) for low, high, shape in shapes)
    return objective, matrix, bound, upper


def _tied(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Each variable is one of three kinds, so that most have twins."""
    objective, matrix, _, upper = _random(rng, batch, n, m)
    kind = rng.integers(0, 3, size=(batch, n))
    matrix = np.take_along_axis(matrix, kind[:, None], axis=2)
    inside = np.einsum("bmn,bn->bm", matrix, upper * rng.uniform(size=(batch, n)))
    return np.take_along_axis(objective, kind, axis=1), matrix, inside + rng.uniform(-0.3, 0.3, inside.shape), upper


def _padded(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Fixed variables, empty columns and empty rows."""
    objective, matrix, bound, upper = _random(rng, batch, n, m)
    empty_row = rng.uniform(size=bound.shape) < 0.3
    empty = empty_row[..., None] | (rng.uniform(size=upper.shape) < 0.3)[:, None]
    bound = np.where(empty_row, np.maximum(bound, 0), bound)
    return objective, np.where(empty, 0, matrix), bound, np.where(rng.uniform(size=upper.shape) < 0.4, 0, upper)


def _strained(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Bounds low enough that many instances are infeasible, some barely."""
    objective, matrix, bound, upper = _random(rng, batch, n, m)
    matrix = np.where(rng.uniform(size=matrix.shape) < 0.5, matrix, 0)
    return objective, matrix, bound - rng.uniform(0, 0.4, bound.shape) * np.abs(matrix).sum(axis=2), upper


def _inside(
    rng: np.random.Generator, objective: np.ndarray, matrix: np.ndarray, upper: np.ndarray, strain: float
) -> Instances:
    """Rows that a point well within the box meets with room to spare, and in a tenth of the cases none can meet."""
    point = upper * rng.uniform(0.2, 0.8, size=upper.shape)
    reached, size = np.einsum("bmn,bn->bm", matrix, point), np.einsum("bmn,bn->bm", np.abs(matrix), point)
    lowest = np.einsum("bmn,bn->bm", np.minimum(matrix, 0), upper)
    hopeless = (rng.uniform(size=reached.shape) < 0.1) & (rng.uniform(size=(len(upper), 1)) < 0.3)
    bound = np.where(hopeless, lowest - 0.05 * size, reached + rng.uniform(-strain, 0.5, reached.shape) * size)
    return objective, matrix, bound, upper


def _decades(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Entries over 40 orders of magnitude."""
    matrix = rng.choice([-1.0, 1.0], size=(batch, m, n)) * 10.0 ** rng.uniform(-37, 3, size=(batch, m, n))
    return _inside(rng, rng.normal(size=(batch, n)), matrix, rng.uniform(0.1, 2, size=(batch, n)), 0.2)


def _covered(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """As ``_copac``, with services and costs that fade away: the programs of a tight latency target."""
    objective, matrix, bound, upper = _copac(rng, batch, n, m)
    faint = rng.uniform(size=(batch, 1, n - 1)) < 0.6
    matrix[:, 1:, :-1] *= np.where(faint, 10.0 ** rng.uniform(-37, 0, size=(batch, m - 1, n - 1)), 1)
    bound[:, 1:-1] *= 10.0 ** rng.uniform(-6, 0, size=(batch, m - 2))
    return objective, matrix, bound, upper


def _faint(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Rows and columns that are all but zero."""
    rows = np.where(rng.uniform(size=(batch, m, 1)) < 0.4, 10.0 ** rng.uniform(-16, -5, size=(batch, m, 1)), 1)
    columns = np.where(rng.uniform(size=(batch, 1, n)) < 0.4, 10.0 ** rng.uniform(-16, -5, size=(batch, 1, n)), 1)
    matrix = rng.normal(size=(batch, m, n)) * rows * columns
    return _inside(rng, rng.normal(size=(batch, n)), matrix, rng.uniform(0.1, 2, size=(batch, n)), 0.1)


def _parallel(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Rows that equal the first, or its negative, but for a hundredth."""
    matrix = rng.normal(size=(batch, m, n))
    near = 1 + 10.0 ** rng.uniform(-3, -1.5, size=(batch, 1, 1)) * rng.normal(size=(batch, m - 1, n))
    matrix[:, 1:] = matrix[:, :1] * near * rng.choice([-1.0, 1.0], size=(batch, m - 1, 1))
    return _inside(rng, rng.normal(size=(batch, n)), matrix, rng.uniform(0.1, 2, size=(batch, n)), 0.0)


def _boundless(rng: np.random.Generator, batch: int, n: int, m: int) -> Instances:
    """Boxes from 1e-12 to 1e12 under packing rows, which alone bound the wide ones."""
    objective, matrix, upper = rng.normal(size=(batch, n)), rng.uniform(0.1, 1, size=(batch, m, n)), np.ones((batch, n))
    upper *= 10.0 ** np.where(rng.uniform(size=(batch, n)) < 0.5, rng.uniform(-12, 12, size=(batch, n)), 0)
    bound = rng.uniform(0.1, 2, size=(batch, m)) * rng.choice(
        [-1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0], size=(batch, m)
    )
    return objective, matrix, bound, upper


FAMILIES = {
    "random": _random,
    "copac": _copac,
    "degenerate": _degenerate,
    "tied": _tied,
    "padded": _padded,
    "strained": _strained,
    "decades": _decades,
    "covered": _covered,
    "faint": _faint,
    "parallel": _parallel,
    "boundless": _boundless,
}
ILL = {"parallel": 10.0}  # multiples of the tolerance: what is asked for depends on the last digits of what is given


def _draw(family: str, dtype: str, n: int = NUM_VARIABLES, m: int = NUM_ROWS) -> Instances:
    rng = np.random.default_rng([list(FAMILIES).index(family), n, m])
    objective, matrix, bound, upper = (array.astype(dtype) for array in FAMILIES[family](rng, BATCH, n, m))
    return objective, matrix, bound, upper


@functools.cache
def _oracle(family: str, dtype: str, n: int = NUM_VARIABLES, m: int = NUM_ROWS) -> tuple[np.ndarray, ...]:
    """Feasibility [B], value [B] and size of the value's terms [B]."""
    rows = zip(*(array.astype(float) for array in _draw(family, dtype, n, m)), strict=True)
    feasible, value, size = zip(*(_highs(*row) for row in rows), strict=True)
    return np.array(feasible), np.array(value), np.array(size)


def _assert_agrees(solution: lp.Solution, value: np.ndarray, family: str, dtype: str, *shape: int) -> None:
    """Same statuses, and values within the tolerance."""
    feasible, wanted, size = _oracle(family, dtype, *shape)
    np.testing.assert_array_equal(solution.status, np.where(feasible, lp.Status.OPTIMAL, lp.Status.INFEASIBLE))
    error = np.abs(value - wanted)[feasible]
    tolerance = ILL.get(family, 1.0) * TOLERANCE[dtype]
    assert np.all(error <= tolerance * size[feasible]), np.max(error / np.maximum(size[feasible], 1e-300))
    assert np.all(solution.residual[feasible] <= 0.1 * FORGIVEN[dtype])
    assert np.all(solution.gap[feasible] <= FORGIVEN[dtype])
    assert np.all(solution.residual[~feasible] > FORGIVEN[dtype])


def _assert_sound(solution: lp.Solution, upper: np.ndarray) -> None:
    for array in jax.tree.leaves(solution):
        assert np.all(np.isfinite(array))
    assert np.all((solution.x >= 0) & (solution.x <= upper))
    assert np.all(solution.dual >= 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_highs(family: str, dtype: str) -> None:
    instances = _draw(family, dtype)
    solution = _solve(instances, dtype)
    _assert_sound(solution, instances[3])
    _assert_agrees(solution, solution.value.astype(float), family, dtype)
    feasible = _oracle(family, dtype)[0]
    assert feasible.mean() > 0.2
    assert (family in ("strained", "degenerate")) <= (feasible.mean() < 0.95)


@pytest.mark.parametrize("family", FAMILIES)
def test_units_do_not_matter(family: str, dtype: str) -> None:
    rng = np.random.default_rng(5)
    objective, matrix, bound, upper = _draw(family, dtype)
    row, column, unit = (2.0 ** rng.integers(-20, 21, size=shape) for shape in (bound.shape, upper.shape, BATCH))
    scaled = (
        objective * column * unit[:, None],
        matrix * row[..., None] * column[:, None],
        bound * row,
        upper / column,
    )
    solution = _solve(scaled, dtype)
    _assert_sound(solution, scaled[3])
    _assert_agrees(solution, solution.value / unit, family, dtype)


@pytest.mark.slow
def test_larger_programs_agree_with_highs() -> None:
    with jax.enable_x64(True):
        instances = _draw("copac", "float64", 16, 4)
        solution = jax.tree.map(np.asarray, jax.jit(jax.vmap(lp.maximize))(*map(jnp.asarray, instances)))
    _assert_sound(solution, instances[3])
    _assert_agrees(solution, solution.value, "copac", "float64", 16, 4)


# Programs of ``lp_resolving`` that once were undecided in float32: reward, cost, service, then spending and wanted. The
# row of services is the negative of the row of shares: exactly for some models, almost for others.
UNDECIDED = {
    "a reduced cost that rounding made 0": """
    0.62998366 0.83040047 0.6765133 0.6456279 0.632283 0.6613112 0.6849408 0.750725 0.7241703 0.6398983 0.6397773
    0 0.20564632 0.01243373 0.0020098 0 0.01545765 0.0114364 0.110743 0.11739472 0.00296598 0
    1 0.4415254 0.99592924 1 1 0.96433604 0.89012384 0.6877948 0.76990527 1 1
    0.07464029 0.8564323
    """,
    "a degenerate vertex, 0.6 of each of two twins": """
    0.86702186 1 0.87759674 0.86702186 0.86675537 0.85713476 0.88578224 0.9079487 0.9297915 0.83677053 0.86702186
    0 0 0.0077509508 0 0 0.008807359 0.008661481 0.03684774 0.07227418 0 0
    1 0.65345025 1 1 1 1 0.9953524 0.93855196 0.85191786 1 1
    0.31205815 1
    """,
    "another, with four models almost as good": """
    0.64572966 1 0.650705 0.6502664 0.6502664 0.6664543 0.7427348 0.86824846 0.79867566 0.62263083 0.64572966
    0 0.025518447 0.004113272 0 0 0.013884184 0.008678568 0.08627627 0.06068065 0 0
    1 0.5137316 1 1 1 0.99665576 0.93319607 0.7639873 0.84560484 1 1
    0.2544293 1
    """,
    "another, where few models are free": """
    0.7298992 1 0.74292004 0.7341287 0.7341287 0.74647963 0.80393374 0.82476115 0.9778935 0.6502664 0.7019021
    0 0.08583705 0.008493144 0.00079246704 0.0022699637 0.012048371 0.010916487 0.040564954 0.076264314 0 0
    1 0.5847502 1 1 1 0.997483 0.9815225 0.9738802 0.68968225 1 1
    0.48038298 1
    """,
    "a circle of six steps, as good columns were taken for rounding": """
    0.74486935 0.97210133 0.81064945 0.75593406 0.8024124 0.8055398 0.8123411 0.85159385 0.8822578 0.77088654 0.6502471
    0 0.08999163 0.009172113 0 0.0056502996 0.010455466 0.009547314 0.06658748 0.078319915 0 0
    1 0.52559125 1 0.99947923 1 0.99917805 0.9973468 0.8976164 0.834408 1 1
    0.16757971 0.99933773
    """,
}


def _around(name: str, number: int) -> Instances:
    """A program, and others in which all numbers, the bounds, the matrix or the objective differ a little.

    Half of the services that are 1 remain so.
    """
    reward, cost, service, bounds = (np.array(line.split(), float) for line in UNDECIDED[name].strip().splitlines())
    rng = np.random.default_rng(11)
    caps = np.array([0.6, 1, 0.6, 0.6, 1, 1, 1, 1, 1, 1, 0.6])
    scale = np.concatenate([np.zeros(1), 10.0 ** rng.uniform(-8, -1.3, number - 1)])[:, None]
    part = rng.integers(0, 4, (number, 1))

    def near(exact: np.ndarray, own: int) -> np.ndarray:
        moves = scale * ((part == 0) | (part == own))
        return exact * (1 + moves * rng.normal(size=(number, *exact.shape)))

    (spending, wanted), one = near(bounds, 1).T, np.ones((number, 1))
    wanted = np.minimum(wanted, 1)
    offered = np.minimum(near(service, 2), 1)
    offered = np.where((service == 1) & (rng.uniform(size=offered.shape) < 0.5), 1, offered)
    rows = [near(cost, 2), 0 * one], [-offered, -one], [np.ones_like(offered), 0 * one]
    matrix = np.stack([np.concatenate(row, axis=1) for row in rows], axis=1)
    upper = np.concatenate([np.broadcast_to(caps, offered.shape), wanted[:, None]], axis=1)
    objective = np.concatenate([near(reward, 3), -5 * one], axis=1)
    return objective, matrix, np.stack([spending, -wanted, np.ones(number)], axis=1), upper


def _assert_decided(number: int, checked: int, dtype: str) -> None:
    """All of ``number`` programs around each have a verdict, and the values of some are those of HiGHS."""
    solve = jax.jit(jax.vmap(lp.maximize))
    for name in UNDECIDED:
        instances = tuple(array.astype(dtype) for array in _around(name, number))
        solution = jax.device_get(solve(*map(jnp.asarray, instances)))
        _assert_sound(solution, instances[3])
        assert np.all(solution.status == lp.Status.OPTIMAL), name
        assert solution.steps.mean() < 25, name
        rows = zip(*(array[:checked].astype(float) for array in instances), strict=True)
        _, wanted, size = map(np.array, zip(*(_highs(*row) for row in rows), strict=True))
        assert np.all(np.abs(solution.value[:checked] - wanted) <= 10 * TOLERANCE[dtype] * size), name


def test_rows_that_are_nearly_parallel_leave_no_program_undecided(dtype: str) -> None:
    _assert_decided(2048, 50, dtype)


@pytest.mark.slow
@pytest.mark.optimized  # compiled as in studies; without optimizations two of these 102,400 have no verdict in float32
def test_rows_that_are_nearly_parallel_leave_none_of_many_programs_undecided(dtype: str) -> None:
    _assert_decided(20480, 500, dtype)


def test_a_budget_that_is_just_missed_leaves_no_program_undecided(dtype: str) -> None:
    """All are to be served by three models, at most 0.4 by each, and two of them cost almost the same.

    The first is a program of StageRoute's, whose deployment costs what the budget allows to the last digits. The price
    of such a row is large: what is forgiven of it would be a gain of up to a half.
    """
    number, rng = 4096, np.random.default_rng(12)
    near = 1 + np.append(0, 10.0 ** rng.uniform(-5, -1, number - 1))[:, None] * rng.normal(size=(number, 3))
    cost = np.array([0.012617189, 0.01690755, 0.016900921]) * near
    reward = np.array([0.70961565, 0.65579236, 0.615587]) * near[::-1]
    missing = 10.0 ** rng.uniform(-8, -2, number) * rng.choice([-1, 1], number)
    budget = np.sort(cost, axis=1) @ [0.4, 0.4, 0.2] * (1 - missing)
    budget[0] = 0.015188335
    one = np.ones((number, 1))
    instances = reward, np.stack([cost, 0 * cost + 1], axis=1), np.append(budget[:, None], one, axis=1), 0 * cost + 0.4
    operands = (*instances, np.broadcast_to([np.inf, 0], (number, 2)))
    solution = jax.device_get(_ranged_solver(dtype)(*(jnp.asarray(array, dtype) for array in operands)))
    assert np.isin(solution.status, [lp.Status.OPTIMAL, lp.Status.INFEASIBLE]).all()
    rounding = 100 * np.finfo(dtype).eps
    assert np.all(solution.status[missing < -rounding] == lp.Status.OPTIMAL)
    assert np.all(solution.status[missing > 10 * FORGIVEN[dtype] + rounding] == lp.Status.INFEASIBLE)
    assert np.all(solution.residual[solution.status == lp.Status.OPTIMAL] <= FORGIVEN[dtype] + rounding)


def test_an_attempt_makes_no_answer_worse() -> None:
    """A verdict counts; of two answers without one, the closer; and what was not tried again stays as it is."""

    def answer(status: tuple[int, ...], gap: tuple[float, ...]) -> lp._Answer:
        numbers = jnp.asarray(gap, jnp.float32)
        same = {"x": numbers[None], "price": numbers[None], "residual": numbers / 2, "gap": numbers}
        return lp._Answer(**same, status=jnp.asarray(status), steps=jnp.asarray(status))

    limit, unclear, optimal, infeasible = lp.Status.STEP_LIMIT, lp.Status.INACCURATE, lp.Status.OPTIMAL, 1
    old = answer((unclear, unclear, unclear, limit, unclear), (0.25, 0.5, 0.125, 0.75, 0.5))
    new = answer((limit, limit, optimal, unclear, infeasible), (0.5, 0.25, 0.5, 0.5, 1.0))
    kept = lp._better(jnp.array([True, True, True, False, True]), new, old)
    np.testing.assert_array_equal(kept.gap, [0.25, 0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(kept.x[0], kept.gap)
    np.testing.assert_array_equal(kept.status, [limit, limit, optimal, limit, infeasible])


def test_lowest_index_rule_alone_finds_the_optimum(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule that breaks cycles, which ordinary instances never reach."""
    monkeypatch.setattr(lp, "_patience", lambda num_variables: 0)
    with jax.enable_x64(True):
        instances = _draw("degenerate", "float64")
        usual = _solve(instances, "float64")
        # Less than a block of lanes, of another shape: nothing that JAX has traced before comes back.
        parts = [[jnp.asarray(array[part::5]) for array in instances] for part in range(5)]
        solve = jax.jit(jax.vmap(lp.maximize))
        solutions = [jax.tree.map(np.asarray, solve(*part)) for part in parts]
    for part, solution in enumerate(solutions):
        np.testing.assert_array_equal(solution.status, usual.status[part::5])
        optimal = solution.status == lp.Status.OPTIMAL
        np.testing.assert_allclose(solution.value[optimal], usual.value[part::5][optimal], rtol=1e-9, atol=1e-9)
    assert sum(solution.steps.sum() for solution in solutions) > usual.steps.sum()


def test_strong_duality(dtype: str) -> None:
    """Objective = dual . bound + sum of upper [reduced cost]_+, and only binding rows have a price."""
    for family in ("random", "copac", "tied", "decades", "covered", "faint"):
        objective, matrix, bound, upper = (array.astype(float) for array in _draw(family, dtype))
        solution = _solve((objective, matrix, bound, upper), dtype)
        dual = solution.dual.astype(float)
        rent = np.maximum(objective - np.einsum("bm,bmn->bn", dual, matrix), 0)
        dual_value = (dual * bound).sum(axis=1) + (rent * upper).sum(axis=1)
        size = (dual * np.abs(bound)).sum(axis=1) + (np.abs(objective) * upper).sum(axis=1)
        optimal = solution.status == lp.Status.OPTIMAL
        assert np.all(np.abs(dual_value - solution.value)[optimal] <= TOLERANCE[dtype] * size[optimal])
        slack = bound - np.einsum("bmn,bn->bm", matrix, solution.x.astype(float))
        row_size = np.abs(bound) + np.einsum("bmn,bn->bm", np.abs(matrix), upper)
        assert np.all((dual * slack)[optimal] <= TOLERANCE[dtype] * ((dual + 1) * row_size)[optimal])


def test_fractional_knapsack_by_hand(dtype: str) -> None:
    """Best ratio first: all of the second, then 1.5 of the first at weight 2."""
    solution = _solve_one([3, 5, 1], [[2, 1, 1]], [4], [2, 1, 3], dtype)
    np.testing.assert_allclose(solution.x, [1.5, 1, 0], rtol=1e-6)
    np.testing.assert_allclose(solution.value, 9.5, rtol=1e-6)
    np.testing.assert_allclose(solution.dual, [1.5], rtol=1e-6)
    assert solution.status == lp.Status.OPTIMAL
    assert solution.x.dtype == solution.value.dtype == dtype


def test_router_by_hand(dtype: str) -> None:
    """Two models: reward 1 at cost 1, and 0.4 at cost 0.2; a share of 1, a budget of 0.6: half and half."""
    solution = _solve_one([1, 0.4], [[1, 1], [1, 0.2]], [1, 0.6], [1, 1], dtype)
    np.testing.assert_allclose(solution.x, [0.5, 0.5], rtol=1e-6)
    np.testing.assert_allclose(solution.dual, [0.25, 0.75], rtol=1e-5)


def test_no_binding_row_gives_the_best_corner(dtype: str) -> None:
    solution = _solve_one([1, -1, 0, 2], [[1, 1, 1, 1]], [100], [2, 3, 4, 5], dtype)
    np.testing.assert_array_equal(solution.x, [2, 0, 0, 5])
    assert (solution.value, solution.steps, solution.residual) == (12, 0, 0)
    np.testing.assert_array_equal(solution.dual, [0])


def test_infinite_bound_is_an_idle_row(dtype: str) -> None:
    solution = _solve_one([1, 1], [[1, 1], [-1, 5]], [1.5, np.inf], [1, 1], dtype)
    np.testing.assert_allclose(solution.value, 1.5)
    np.testing.assert_allclose(solution.dual, [1, 0])
    assert solution.status == lp.Status.OPTIMAL


def test_twins_go_in_the_order_of_their_indices(dtype: str) -> None:
    solution = _solve_one([1, 1, 1, 1], [[1, 1, 1, 1]], [1], [1, 1, 1, 1], dtype)
    again = _solve_one([1, 1, 1, 1], [[1, 1, 1, 1]], [1], [1, 1, 1, 1], dtype)
    np.testing.assert_allclose(solution.value, 1)
    np.testing.assert_array_equal(solution.x, again.x)
    assert np.count_nonzero(solution.x) == 1


def test_order_of_variables_does_not_matter(dtype: str) -> None:
    rng = np.random.default_rng(8)
    for family in ("tied", "degenerate"):
        objective, matrix, bound, upper = _draw(family, dtype)
        order = rng.permutation(NUM_VARIABLES)
        straight = _solve((objective, matrix, bound, upper), dtype)
        permuted = _solve((objective[:, order], matrix[..., order], bound, upper[:, order]), dtype)
        np.testing.assert_array_equal(straight.status, permuted.status)
        optimal = straight.status == lp.Status.OPTIMAL
        size = (np.abs(objective) * upper).sum(axis=1)
        assert np.all(np.abs(straight.value - permuted.value)[optimal] <= TOLERANCE[dtype] * size[optimal])


def test_infeasible_point_has_the_least_violation(dtype: str) -> None:
    """One row: the least violation is bound minus the lowest the row can be."""
    rng = np.random.default_rng(2)
    matrix, upper = rng.normal(size=(BATCH, 1, 4)), rng.uniform(0.1, 2, size=(BATCH, 4))
    lowest = (np.minimum(matrix, 0) * upper[:, None]).sum(axis=2)
    bound = lowest - rng.uniform(0.01, 1, size=(BATCH, 1))
    solution = _solve((rng.normal(size=(BATCH, 4)), matrix, bound, upper), dtype)
    _assert_sound(solution, upper.astype(dtype))
    assert np.all(solution.status == lp.Status.INFEASIBLE)
    reached = np.einsum("bmn,bn->bm", matrix, solution.x.astype(float))
    np.testing.assert_allclose(reached, lowest, rtol=1e-5, atol=1e-6)


def test_contradicting_rows_share_out_no_more_than_needed(dtype: str) -> None:
    """x1 + x2 <= 1 against x1 + x2 >= 1.5: half a unit is missing, wherever it is booked."""
    solution = _solve_one([1, 2], [[1, 1], [-1, -1]], [1, -1.5], [1, 1], dtype)
    total = float(solution.x.sum())
    assert solution.status == lp.Status.INFEASIBLE
    assert 1 - 1e-6 <= total <= 1.5 + 1e-6
    assert solution.residual > 0.01


@pytest.mark.parametrize("family", ["strained", "degenerate", "decades", "covered"])
def test_infeasible_is_proven(family: str, dtype: str) -> None:
    """The dual weighs the rows so that they ask for less than the box can give (Farkas)."""
    objective, matrix, bound, upper = (array.astype(float) for array in _draw(family, dtype))
    solution = _solve((objective, matrix, bound, upper), dtype)
    for k in np.flatnonzero(solution.status == lp.Status.INFEASIBLE):
        dual = solution.dual[k].astype(float)
        slope = dual @ matrix[k]
        rounding = 1e3 * np.finfo(dtype).eps * (dual @ np.abs(matrix[k]) @ upper[k] + dual @ np.abs(bound[k]))
        assert np.minimum(slope, 0) @ upper[k] > dual @ bound[k] - rounding, k
        assert dual.max() > 0


def _weights(matrix: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """[m] what a unit of violation counts: the inverse of the power of two that the row's largest entry reaches."""
    largest = np.abs(np.where(upper > 0, matrix, 0)).max(axis=1)
    return np.where(largest > 0, 2.0 ** -np.floor(np.log2(np.where(largest > 0, largest, 1))), 1)


def _least_violation(matrix: np.ndarray, low: np.ndarray, high: np.ndarray, upper: np.ndarray) -> float:
    """The least weighted sum of violations of ``low <= matrix x <= high``, by HiGHS; ``low`` may be -inf."""
    rows, weight, within = len(high), _weights(matrix, upper), np.isfinite(low)
    above, below, none = -np.eye(rows), -np.eye(rows)[within], np.zeros((within.sum(), rows))
    found = linprog(
        np.concatenate([np.zeros(len(upper)), weight, weight]),
        A_ub=np.block([[matrix, above, np.zeros((rows, rows))], [-matrix[within], none, below]]),
        b_ub=np.concatenate([high, -low[within]]),
        bounds=[(0.0, most) for most in upper] + [(0.0, None)] * (2 * rows),
    )
    assert found.status == 0, found.message
    return float(found.fun)


@pytest.mark.parametrize("family", ["strained", "degenerate", "tied", "ranged"])
def test_the_least_violation_is_that_of_highs(family: str, dtype: str) -> None:
    """Several rows at once, equalities and ranges among them."""
    if family == "ranged":
        instances, slack = _ranged(np.random.default_rng(9), BATCH)
        instances = (*instances[:2], instances[2] - 2.0, instances[3])
    else:
        instances = _draw(family, dtype)
        slack = np.full(instances[2].shape, np.inf)
    instances = tuple(np.asarray(array, dtype) for array in instances)
    slack = np.asarray(slack, dtype)
    solution = jax.device_get(_ranged_solver(dtype)(*map(jnp.asarray, (*instances, slack))))
    infeasible = np.flatnonzero(solution.status == lp.Status.INFEASIBLE)
    assert len(infeasible) > {"tied": 3}.get(family, 30)
    for k in infeasible:
        _, matrix, bound, upper = (array[k].astype(float) for array in instances)
        low, reached = bound - slack[k], matrix @ solution.x[k].astype(float)
        violation = np.maximum(np.maximum(reached - bound, low - reached), 0)
        wanted = _least_violation(matrix, low, bound, upper)
        size = (_weights(matrix, upper) * (np.abs(bound) + np.abs(matrix) @ upper)).sum()
        assert _weights(matrix, upper) @ violation <= wanted + TOLERANCE[dtype] * size, k


def test_impossible_empty_row_is_infeasible(dtype: str) -> None:
    solution = _solve_one([1, 1], [[0, 0], [1, 1]], [-1, 1], [1, 1], dtype)
    assert solution.status == lp.Status.INFEASIBLE
    assert solution.residual == 1
    assert np.all(np.isfinite(solution.x))


def test_hair_width_band_around_infeasibility(dtype: str) -> None:
    """x >= 1 with x <= 1: a bound missed by far less than the forgiven share is met, by far more is not."""
    for share, status in ((0.05, lp.Status.OPTIMAL), (20, lp.Status.INFEASIBLE)):
        solution = _solve_one([1], [[-1]], [-1 - share * FORGIVEN[dtype]], [1], dtype)
        assert solution.status == status
        assert solution.x[0] == 1


def test_improper_numbers_mark_only_their_own_row(dtype: str) -> None:
    clean = _draw("copac", dtype)
    dirty = tuple(array.copy() for array in clean)
    dirty[0][3, 2], dirty[1][5, 1, 4], dirty[2][7, 0], dirty[3][9, 1] = np.nan, np.inf, -np.inf, np.nan
    wanted, got = _solve(clean, dtype), _solve(dirty, dtype)
    bad = np.isin(np.arange(BATCH), [3, 5, 7, 9])
    assert np.all(got.status[bad] == lp.Status.INFEASIBLE)
    assert np.all(got.residual[bad] == 1)
    for left, right in zip(jax.tree.leaves(wanted), jax.tree.leaves(got), strict=True):
        np.testing.assert_array_equal(left[~bad], right[~bad])
        assert np.all(np.isfinite(right))


def test_step_limit_is_reported(dtype: str) -> None:
    instances = _draw("copac", dtype)
    full = _solve(instances, dtype)
    for limit in (0, 2):
        short = _solve(instances, dtype, steps=limit)
        _assert_sound(short, instances[3])
        assert np.all(short.steps <= limit)
        unfinished = full.steps > limit
        assert unfinished.any()
        assert np.all(short.status[unfinished] == lp.Status.STEP_LIMIT)


def test_steps_stay_few(dtype: str) -> None:
    assert _solve(_draw("copac", dtype), dtype).steps.mean() < 5
    assert _solve(_draw("degenerate", dtype), dtype).steps.max() < 25


def test_padding_changes_nothing() -> None:
    objective, matrix, bound, upper = _draw("copac", "float32")
    rng = np.random.default_rng(4)
    slots, rows = [0, 1, 3, 4, 5, 7, 8, 9, 10, 11, 13], [0, 1, 3]
    wide = rng.normal(size=(BATCH, 14)).astype("float32")  # whatever a padded variable's objective is
    tall = rng.normal(size=(BATCH, 5, 14)).astype("float32")
    tall[:, [2, 4]] = 0
    for slot, column in enumerate(slots):
        wide[:, column], tall[:, rows, column] = objective[:, slot], matrix[..., slot]
    high, top = np.zeros((BATCH, 5), "float32"), np.zeros((BATCH, 14), "float32")
    high[:, 2] = 2
    high[:, rows], top[:, slots] = bound, upper
    short = _solve((objective, matrix, bound, upper), "float32")
    padded = jax.tree.map(np.asarray, jax.jit(jax.vmap(lp.maximize))(wide, tall, high, top))
    for name in ("value", "status", "residual", "steps"):
        np.testing.assert_array_equal(getattr(short, name), getattr(padded, name))
    np.testing.assert_array_equal(short.x, padded.x[:, slots])
    np.testing.assert_array_equal(short.dual, padded.dual[:, rows])
    assert not np.delete(padded.x, slots, axis=1).any()
    assert not np.delete(padded.dual, rows, axis=1).any()


@pytest.mark.slow
def test_alone_in_a_batch_and_in_nested_batches_the_same() -> None:
    """Also with an operand that the inner batch shares, and more lanes than one block holds."""
    objective, matrix, bound, upper = map(jnp.asarray, _draw("copac", "float32"))
    batch = _solve((objective, matrix, bound, upper), "float32")
    alone = jax.jit(lp.maximize)
    for row in range(5):
        single = alone(objective[row], matrix[row], bound[row], upper[row])
        jax.tree.map(np.testing.assert_array_equal, single, jax.tree.map(lambda array, row=row: array[row], batch))
    twice = jnp.broadcast_to(bound[:, None], (BATCH, 4, NUM_ROWS)).swapaxes(0, 1)
    assert lp._tile_size(jnp.zeros((NUM_ROWS, NUM_VARIABLES), "float32")) < 4 * BATCH
    inner = jax.vmap(lp.maximize, in_axes=(0, 0, 0, 0))
    nested = jax.jit(jax.vmap(inner, in_axes=(None, None, 0, None)))(objective, matrix, twice, upper)
    for copy in range(4):
        jax.tree.map(np.testing.assert_array_equal, jax.tree.map(lambda array, copy=copy: array[copy], nested), batch)


@pytest.mark.slow
def test_no_rows_and_one_variable() -> None:
    nothing = jax.jit(lp.maximize)(jnp.array([1.0, -1.0]), jnp.zeros((0, 2)), jnp.zeros(0), jnp.array([3.0, 2.0]))
    np.testing.assert_array_equal(nothing.x, [3, 0])
    assert nothing.dual.shape == (0,)
    assert (nothing.value, nothing.status, nothing.residual) == (3, lp.Status.OPTIMAL, 0)
    one = jax.jit(lp.maximize)(jnp.array([2.0]), jnp.array([[4.0]]), jnp.array([2.0]), jnp.array([3.0]))
    np.testing.assert_allclose((one.x[0], one.value, one.dual[0]), (0.5, 1, 0.5))


def test_new_data_do_not_trace_again() -> None:
    for family in FAMILIES:
        _solve(_draw(family, "float32"), "float32")
    assert TRACES.count("float32") == 1
    _solver("float32").trace(jnp.int32(1), *(jnp.asarray(array[:5]) for array in _draw("random", "float32")))
    assert TRACES.count("float32") == 2  # the count does see a new trace
    TRACES.remove("float32")


def test_runs_inside_a_loop_under_vmap() -> None:
    """As in a simulation: the budget left shrinks from round to round, and each run has its own."""
    objective, matrix, bound, upper = (jnp.asarray(array[:4]) for array in _draw("copac", "float32"))

    def run(objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array) -> jax.Array:
        def body(step: jax.Array, total: jax.Array) -> jax.Array:
            shrunk = bound.at[1].multiply(1 - 0.1 * step)
            return total + lp.maximize(objective, matrix, shrunk, upper).value

        return jax.lax.fori_loop(0, 3, body, jnp.zeros(()))

    totals = jax.jit(jax.vmap(run))(objective, matrix, bound, upper)
    wanted = sum(
        _solve((objective, matrix, bound.at[:, 1].multiply(1 - 0.1 * step), upper), "float32").value
        for step in range(3)
    )
    np.testing.assert_allclose(totals, wanted, rtol=1e-6)


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_lowers_for_every_platform(platform: str) -> None:
    operands = [jnp.asarray(array[:600]) for array in _draw("random", "float32")]
    lowered = jax.jit(jax.vmap(lp.maximize)).trace(*operands).lower(lowering_platforms=(platform,)).as_text()
    assert ("optimization_barrier" in lowered) == (platform != "cpu")


@pytest.mark.slow
def test_one_export_serves_several_platforms() -> None:
    """The CPU solves in blocks, others do not: each platform gets its own method."""
    operands = [jnp.asarray(array[:300]) for array in _draw("random", "float32")]
    solve = jax.jit(lambda *operands: jax.vmap(lp.maximize)(*operands).value)
    exported = export.export(solve, platforms=("cpu", "cuda", "tpu"))(*operands)
    assert "optimization_barrier" in exported.mlir_module()
    np.testing.assert_array_equal(exported.call(*operands), solve(*operands))


def test_the_method_is_traced_once_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many loops, branches and maps are around it, and however often it is used."""
    traces, method = [], lp._solve

    def counted(*operands: jax.Array) -> lp.Solution:
        traces.append(operands[-1].shape)
        return method(*operands)

    monkeypatch.setattr(lp, "_solve", counted)
    objective, matrix, bound, upper = (jnp.asarray(array[:4]) for array in _draw("copac", "float32"))

    def run(objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array) -> jax.Array:
        def body(total: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
            value = lp.maximize(objective, matrix, bound, upper).value
            again = jax.lax.cond(step > 0, lambda: lp.maximize(objective, matrix, bound, upper).value, lambda: value)
            return total + value + again, value

        return jax.lax.scan(body, jnp.zeros(()), jnp.arange(3.0))[0]

    each = jax.vmap(run, (None, 0, 0, 0))
    jax.jit(jax.vmap(each, (0, None, None, None))).lower(objective, matrix, bound, upper)
    assert traces == [(16,)]


@pytest.mark.slow
def test_without_jit_and_with_operands_batched_along_any_axis() -> None:
    objective, matrix, bound, upper = (jnp.asarray(array[:6]) for array in _draw("copac", "float32"))
    wanted = jax.jit(jax.vmap(lp.maximize))(objective, matrix, bound, upper)
    moved = jax.vmap(lp.maximize, (1, 2, 0, 1))(objective.T, jnp.moveaxis(matrix, 0, 2), bound, upper.T)
    jax.tree.map(np.testing.assert_array_equal, moved, wanted)
    alone = lp.maximize(objective[0], matrix[0], bound[0], upper[0])
    jax.tree.map(np.testing.assert_array_equal, alone, jax.tree.map(lambda array: array[0], wanted))


def test_within_shard_map() -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("runs",))
    operands = [jnp.asarray(array[:6]) for array in _draw("copac", "float32")]
    spec = jax.sharding.PartitionSpec("runs")
    spread = jax.shard_map(jax.vmap(lp.maximize), mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(spread)(*operands), jax.jit(jax.vmap(lp.maximize))(*operands))


def test_derivatives_are_refused() -> None:
    objective, matrix, bound, upper = (jnp.asarray(array[0]) for array in _draw("copac", "float32"))
    with pytest.raises(NotImplementedError, match="no derivatives"):
        jax.grad(lambda bound: lp.maximize(objective, matrix, bound, upper).value)(bound)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[m, n\]"):
        lp.maximize(jnp.ones(3), jnp.ones((2, 4)), jnp.ones(2), jnp.ones(3))
    with pytest.raises(ValueError, match="vmap"):
        lp.maximize(jnp.ones((5, 3)), jnp.ones((5, 2, 3)), jnp.ones((5, 2)), jnp.ones((5, 3)))


def _ranged(rng: np.random.Generator, batch: int) -> tuple[Instances, np.ndarray]:
    """Instances with a slack: equalities, ranges and plain rows, mixed."""
    instances = _random(rng, batch, NUM_VARIABLES, NUM_ROWS)
    kind = rng.integers(0, 3, size=(batch, NUM_ROWS))
    return instances, np.select([kind == 0, kind == 1], [np.zeros(kind.shape), rng.uniform(0, 1, kind.shape)], np.inf)


@functools.cache
def _ranged_solver(dtype: str) -> Callable[..., lp.Solution]:
    """The compiled program with slacks."""
    return jax.jit(jax.vmap(lambda *operands: lp.maximize(*operands[:4], slack=operands[4])))


def test_equalities_and_ranges_agree_with_highs(dtype: str) -> None:
    rng = np.random.default_rng(7)
    instances, slack = _ranged(rng, BATCH)
    rounded = [np.asarray(array, dtype).astype(float) for array in (*instances, slack)]
    operands = (jnp.asarray(array, dtype) for array in (*instances, slack))
    solution = jax.device_get(_ranged_solver(dtype)(*operands))
    for k in range(BATCH):
        objective, matrix, bound, upper, room = (array[k] for array in rounded)
        low = np.isfinite(room)
        both = np.concatenate([matrix, -matrix[low]]), np.concatenate([bound, (room - bound)[low]])
        feasible, value, size = _highs(objective, *both, upper)
        if feasible:
            assert solution.status[k] == lp.Status.OPTIMAL, k
            assert abs(solution.value[k] - value) <= TOLERANCE[dtype] * size, k
            assert (solution.dual[k][np.isinf(room)] >= 0).all(), k
            _assert_priced(solution, k, *(array[k] for array in rounded), TOLERANCE[dtype])
        else:
            assert solution.status[k] == lp.Status.INFEASIBLE, k
            assert ((solution.x[k] >= 0) & (solution.x[k] <= upper.astype(dtype))).all(), k


def _assert_priced(
    solution: lp.Solution,
    k: int,
    objective: np.ndarray,
    matrix: np.ndarray,
    bound: np.ndarray,
    upper: np.ndarray,
    room: np.ndarray,
    tolerance: float,
) -> None:
    """Strong duality: a negative price is that of a range's lower end."""
    dual = solution.dual[k].astype(float)
    rent = np.maximum(objective - dual @ matrix, 0) @ upper
    end = np.where(dual < 0, bound - np.where(np.isinf(room), 0, room), bound)
    size = np.abs(dual) @ (np.abs(bound) + np.abs(matrix) @ upper) + np.abs(objective) @ upper
    assert abs(dual @ end + rent - solution.value[k]) <= tolerance * size, k


def _solve_ranged_one(
    objective: list[float],
    matrix: list[list[float]],
    bound: list[float],
    upper: list[float],
    slack: list[float],
    dtype: str,
) -> lp.Solution:
    """One instance with slacks, padded to the common sizes, through the common program."""
    more, idle = (0, NUM_VARIABLES - len(upper)), (0, NUM_ROWS - len(bound))
    padded = (
        np.pad(objective, more),
        np.pad(matrix, (idle, more)),
        np.pad(bound, idle),
        np.pad(upper, more),
        np.pad(slack, idle, constant_values=np.inf),
    )
    batch = (jnp.asarray(np.broadcast_to(array, (BATCH, *array.shape)), dtype) for array in padded)
    solution = jax.tree.map(lambda array: np.asarray(array)[0], _ranged_solver(dtype)(*batch))
    return lp.replace(solution, x=solution.x[: len(upper)], dual=solution.dual[: len(bound)])


def test_the_price_of_an_equality_may_be_negative(dtype: str) -> None:
    solution = _solve_ranged_one([-1.0, -3.0], [[1.0, 1.0]], [1.0], [0.4, 1.0], [0.0], dtype)
    assert solution.status == lp.Status.OPTIMAL
    np.testing.assert_allclose(solution.x, [0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(solution.dual, [-3.0], rtol=1e-6)


def test_an_impossible_equality_gives_the_nearest_point(dtype: str) -> None:
    """Too little to make up the sum: everything at its cap violates least."""
    solution = _solve_ranged_one([1.0, 1.0], [[1.0, 1.0]], [1.0], [0.25, 0.5], [0.0], dtype)
    assert solution.status == lp.Status.INFEASIBLE
    np.testing.assert_allclose(solution.x, [0.25, 0.5])


def test_an_equality_out_of_reach_beside_an_elastic_row_is_proven_infeasible(dtype: str) -> None:
    """The shares cannot sum to 1; once the slack of such a row, which has no inside, was taken for stuck."""
    matrix = [[-0.16, -0.42, -1.0], [1.0, 1.0, 0.0]]
    solution = _solve_ranged_one([0.0, 0.0, -1.0], matrix, [-0.54, 1.0], [0.48, 0.42, 0.54], [np.inf, 0.0], dtype)
    assert solution.status == lp.Status.INFEASIBLE
    assert solution.dual[1] < 0
    np.testing.assert_allclose(solution.x[:2], [0.48, 0.42], rtol=1e-6)
