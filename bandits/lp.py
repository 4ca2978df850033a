"""Small linear programs with boxed variables, solved by the thousand.

``maximize`` solves one LP; batching is outside, by ``jax.vmap``. The method is the bounded dual simplex with the
bound-flipping ratio test and dual steepest edge pricing (A. Koberstein, *The Dual Simplex Method, Techniques for a Fast
and Stable Implementation*, thesis, Paderborn 2005, sections 3.1, 3.3 and 6.2; D. Bertsimas and J. Tsitsiklis,
*Introduction to Linear Optimization*, 1997, sections 3.3 and 4.5). Every variable is boxed, so every basis can be made
dual feasible by moving variables to their other bound: there is no first phase, any basis is a start, and infeasibility
is a row for which no column is left.

Only the basis and its small inverse are carried from step to step. Prices, reduced costs and the point are recomputed
from the data in each step and each carries a running bound on its own rounding error, which is what it is compared
with; the inverse is corrected by one Newton-Schulz step after each exchange. So nothing accumulates, no tolerance is
absolute, and the final point is that of the final basis in the original data.

Inside, the batch is the *last* axis ("lanes"): sums over rows and variables are then plain elementwise work that
vectorises over lanes on CPU and GPU alike. ``vmap`` of ``maximize``, however nested, becomes more lanes.

Axis letters: n variables, m rows, N = n + m with the slacks, L lanes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import IntEnum
from functools import reduce

import jax
import jax.numpy as jnp


class Status(IntEnum):
    """How a solve ended.

    OPTIMAL: ``x`` is an optimal vertex, feasible up to rounding. INFEASIBLE: no point satisfies all rows, even when a
    relative violation of 1e-9 (float64) or 2e-5 (float32) is forgiven; ``x`` has the least total violation, rows
    weighed by their scale. STEP_LIMIT: ``max_steps`` exchanges did not suffice; ``x`` is within its bounds and
    ``residual`` says how far it is from feasible.
    """

    OPTIMAL = 0
    INFEASIBLE = 1
    STEP_LIMIT = 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Solution:
    """The answer for one LP. Always finite, whatever the status."""

    x: jax.Array  # [n] within [0, upper]
    value: jax.Array  # [] objective . x
    status: jax.Array  # [] int32, a Status
    dual: jax.Array  # [m] shadow price of each row, >= 0; meaningful only where OPTIMAL
    residual: jax.Array  # [] largest violation of a row, as a share of |bound| + sum |matrix x| of that row, in [0, 1]
    steps: jax.Array  # [] int32, basis exchanges


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Program:
    """A scaled LP with its slacks: max objective . x, matrix x = bound, 0 <= x <= upper."""

    objective: jax.Array  # [N, L]
    matrix: jax.Array  # [m, N, L]
    bound: jax.Array  # [m, L]
    upper: jax.Array  # [N, L]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _State:
    """A basis, with what is cheaper to carry than to look up again."""

    columns: jax.Array  # [m, L] int32, the basic variable of each row
    basic: jax.Array  # [N, L] bool
    at_upper: jax.Array  # [N, L] bool, where a non-basic variable rests
    basis: jax.Array  # [m, m, L] basis[:, k] is the matrix column of columns[k]
    inverse: jax.Array  # [m, m, L]
    objective: jax.Array  # [m, L] of the basic variables
    upper: jax.Array  # [m, L] of the basic variables
    status: jax.Array  # [L] int32; STEP_LIMIT while running
    steps: jax.Array  # [L] int32


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Point:
    """The basic solution of a state, primal and dual."""

    price: jax.Array  # [m, L]
    reduced: jax.Array  # [N, L] reduced costs; exactly 0 where basic or below rounding
    at_upper: jax.Array  # [N, L] bool, made dual feasible
    value: jax.Array  # [m, L] of the basic variables
    slop: jax.Array  # [m, L] rounding error that value may carry


def maximize(
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    *,
    max_steps: int | jax.Array | None = None,
) -> Solution:
    """Maximise ``objective . x`` subject to ``matrix x <= bound`` and ``0 <= x <= upper``.

    Args:
      objective: [n] finite.
      matrix: [m, n] finite; m may be 0.
      bound: [m] finite, of any sign.
      upper: [n] finite and >= 0. A variable with ``upper`` 0 is padding: it never matters. Neither does an all-zero row
        with ``bound`` >= 0.
      max_steps: basis exchanges allowed; 10 (n + m) + 20 when not given.

    Returns:
      A ``Solution``. Equal inputs give equal outputs; among equal choices the lowest index goes first.

    Raises:
      ValueError: shapes that do not fit each other.
    """
    dtype = jnp.result_type(objective, matrix, bound, upper, jnp.float32)
    operands = tuple(jnp.asarray(array, dtype) for array in (objective, matrix, bound, upper))
    num_rows, num_variables = _sizes(*operands)
    limit = jnp.asarray(10 * (num_rows + num_variables) + 20 if max_steps is None else max_steps, jnp.int32)
    lanes = _solve_lanes(*(array[..., None] for array in (*operands, limit)))
    return jax.tree.map(lambda array: array[..., 0], lanes)


def _sizes(objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array) -> tuple[int, int]:
    """The numbers of rows and variables, if the shapes agree."""
    if matrix.ndim != 2 or objective.shape != upper.shape or matrix.shape != (*bound.shape, *objective.shape):
        raise ValueError(
            f"objective {objective.shape}, matrix {matrix.shape}, bound {bound.shape}, upper {upper.shape}: "
            "expected [n], [m, n], [m], [n]; batches go through jax.vmap"
        )
    return matrix.shape[0], matrix.shape[1]


@jax.custom_batching.custom_vmap
def _solve_lanes(
    objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array, limit: jax.Array
) -> Solution:
    """``maximize`` with a trailing lane axis on every argument and result."""
    if matrix.shape[0] == 0:  # one row that never binds, so that no axis is empty
        matrix, bound = jnp.zeros_like(objective)[None], jnp.zeros_like(limit, objective.dtype)[None]
        solution = _solve_lanes(objective, matrix, bound, upper, limit)
        return replace(solution, dual=solution.dual[:0])
    live = upper > 0
    objective, matrix = jnp.where(live, objective, 0), jnp.where(live, matrix, 0)
    program, row_scale, column_scale, unit = _scaled(objective, matrix, bound, upper)
    state = _simplex(program, objective > 0, limit)
    x, price = _vertex(program, state)
    residual = _residual(matrix, bound, jnp.clip(x * column_scale, 0, upper))
    hopeless = (state.status == Status.INFEASIBLE) & (residual > _forgiven(bound.dtype))
    status = jnp.where((state.status == Status.INFEASIBLE) & ~hopeless, Status.OPTIMAL, state.status)
    x = jax.lax.cond(jnp.any(hopeless), _least_violation, lambda x, *_: x, x, program, objective > 0, hopeless, limit)
    x = jnp.clip(x * column_scale, 0, upper)
    return Solution(
        x=x,
        value=_total(objective * x),
        status=status.astype(jnp.int32),
        dual=jnp.maximum(price * row_scale * unit[None], 0),
        residual=_residual(matrix, bound, x),
        steps=state.steps,
    )


@_solve_lanes.def_vmap
def _merge_lanes(axis_size: int, batched: list[bool], *operands: jax.Array) -> tuple[Solution, Solution]:
    """A mapped axis becomes more lanes."""

    def merge(operand: jax.Array, is_batched: bool) -> jax.Array:
        stacked = operand if is_batched else jnp.broadcast_to(operand[None], (axis_size, *operand.shape))
        return jnp.moveaxis(stacked, 0, -2).reshape(*operand.shape[is_batched:-1], -1)

    def split(result: jax.Array) -> jax.Array:
        return jnp.moveaxis(result.reshape(*result.shape[:-1], axis_size, -1), -2, 0)

    merged = _solve_lanes(*map(merge, operands, batched))
    return jax.tree.map(split, merged), jax.tree.map(lambda _: True, merged)


def _scaled(
    objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array
) -> tuple[_Program, jax.Array, jax.Array, jax.Array]:
    """The LP in well-scaled units, with slacks, and the scales: rows [m, L], columns [n, L], objective [L].

    Geometric-mean equilibration (Fulkerson and Wolfe 1962), rounded to powers of two: multiplying by them is exact.
    """
    size = jnp.abs(matrix)
    row_scale, column_scale = jnp.ones_like(bound), jnp.ones_like(upper)
    for _ in range(2):
        row_scale = row_scale * _balance((size * row_scale[:, None] * column_scale[None]).swapaxes(0, 1))
        column_scale = column_scale * _balance(size * row_scale[:, None] * column_scale[None])
    row_scale = row_scale / _power_of_two(_largest((size * row_scale[:, None] * column_scale[None]).swapaxes(0, 1)))
    matrix, bound = matrix * row_scale[:, None] * column_scale[None], bound * row_scale
    objective, upper = objective * column_scale, upper / column_scale
    unit = _power_of_two(_largest(jnp.abs(objective)))
    identity = jnp.broadcast_to(jnp.eye(len(bound), dtype=bound.dtype)[:, :, None], (len(bound), *bound.shape))
    # No point in the box needs more slack than this, so the bound is idle; it only makes the slack a boxed variable.
    idle = 1 + jnp.maximum(bound - _total((jnp.minimum(matrix, 0) * upper[None]).swapaxes(0, 1)), 0)
    program = _Program(
        objective=jnp.concatenate([objective / unit[None], jnp.zeros_like(bound)]),
        matrix=jnp.concatenate([matrix, identity], axis=1),
        bound=bound,
        upper=jnp.concatenate([upper, idle]),
    )
    return program, row_scale, column_scale, unit


def _simplex(program: _Program, at_upper: jax.Array, limit: jax.Array) -> _State:
    """The final state of the dual simplex from the slack basis."""
    rest = jnp.concatenate([at_upper, jnp.zeros_like(program.bound, bool)])
    state = _slack_basis(program, rest)
    patience = 3 * len(program.upper) + 10

    def running(state: _State) -> jax.Array:
        return jnp.any((state.status == Status.STEP_LIMIT) & (state.steps < limit))

    def step(state: _State) -> _State:
        return _exchange(program, state, limit, patience)

    return jax.lax.while_loop(running, step, state)


def _slack_basis(program: _Program, at_upper: jax.Array) -> _State:
    num_rows, lanes = program.bound.shape
    num_variables = len(program.upper) - num_rows
    columns = num_variables + jnp.arange(num_rows, dtype=jnp.int32)
    identity = program.matrix[:, num_variables:]
    return _State(
        columns=jnp.broadcast_to(columns[:, None], (num_rows, lanes)),
        basic=jnp.broadcast_to(_indices(program.upper) >= num_variables, program.upper.shape),
        at_upper=at_upper,
        basis=identity,
        inverse=identity,
        objective=jnp.zeros_like(program.bound),
        upper=program.upper[num_variables:],
        status=jnp.full(lanes, Status.STEP_LIMIT, jnp.int32),
        steps=jnp.zeros(lanes, jnp.int32),
    )


def _point(program: _Program, state: _State) -> _Point:
    """The basic solution, from the data: only the inverse comes from earlier steps."""
    tolerance = _rounding(program.bound.dtype)
    price = _total(state.objective[:, None] * state.inverse)
    terms = price[:, None] * program.matrix
    reduced = program.objective - _total(terms)
    noise = tolerance * (jnp.abs(program.objective) + _total(jnp.abs(terms)))
    reduced = jnp.where(state.basic | (jnp.abs(reduced) <= noise), 0, reduced)
    at_upper = (reduced > 0) | (state.at_upper & (reduced == 0))
    resting = jnp.where(at_upper & ~state.basic, program.upper, 0)
    terms = (program.matrix * resting[None]).swapaxes(0, 1)
    right = program.bound - _total(terms)
    value = _times(state.inverse, right)
    load = jnp.abs(program.bound) + _total(jnp.abs(terms)) + _times(jnp.abs(state.basis), jnp.abs(value))
    slop = tolerance * _times(jnp.abs(state.inverse), load)
    return _Point(price=price, reduced=reduced, at_upper=at_upper, value=value, slop=slop)


def _exchange(program: _Program, state: _State, limit: jax.Array, patience: int) -> _State:
    """One step: recompute the point, choose a row that leaves and a column that enters."""
    point = _point(program, state)
    running = (state.status == Status.STEP_LIMIT) & (state.steps < limit)
    cautious = state.steps >= patience  # lowest indices only: cannot cycle (Bland 1977)
    row, shortfall, rising = _leaving_row(state, point, cautious)
    wrong = shortfall > 0
    push = _push(program, state, point, row, rising)
    column, flipped = _entering_column(program, point, push, shortfall, cautious)
    found = _any(column)
    pivoting = running & wrong & found
    status = jnp.where(running & ~wrong, Status.OPTIMAL, state.status)
    status = jnp.where(running & wrong & ~found, Status.INFEASIBLE, status)
    moved = _pivoted(program, state, point, row, column, flipped, rising)
    
    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(pivoting.reshape((1,) * (new.ndim - 1) + (-1,)), new, old)

    chosen = jax.tree.map(choose, moved, state)
    return replace(chosen, status=status.astype(jnp.int32), steps=state.steps + pivoting.astype(jnp.int32))


def _leaving_row(state: _State, point: _Point, cautious: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The row [m, L] one-hot that is furthest out of its box, by how much [L], and whether it must rise [L]."""
    below, above = -point.value, point.value - state.upper
    violation = jnp.maximum(below, above)
    wrong = violation > point.slop
    steepness = _total((state.inverse * state.inverse).swapaxes(0, 1))
    score = jnp.where(wrong, violation * violation / steepness, -1)
    score = jnp.where(cautious[None] & wrong, 1 / (1 + state.columns.astype(score.dtype)), score)
    row = _first(score == _largest(score)[None])
    return row, _pick(jnp.where(wrong, violation, 0), row), _any(row & (below > 0))


def _push(program: _Program, state: _State, point: _Point, row: jax.Array, rising: jax.Array) -> jax.Array:
    """How much each variable [N, L] mends the row per unit that it leaves its bound; 0 where it does not."""
    weights = _pick(state.inverse, row[:, None])
    terms = weights[:, None] * program.matrix
    alpha = _total(terms)
    push = jnp.where(point.at_upper == rising[None], alpha, -alpha)
    free = ~state.basic & (program.upper > 0)
    return jnp.where(free & (push > _rounding(push.dtype) * _total(jnp.abs(terms))), push, 0)


def _entering_column(
    program: _Program, point: _Point, push: jax.Array, shortfall: jax.Array, cautious: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The column that enters and those that flip to their other bound on the way, [N, L] each, the first one-hot.

    The bound-flipping ratio test: columns in the order of their ratios (then of their indices) are flipped as long as
    flipping all earlier ones leaves a shortfall.
    """
    eligible = push > 0
    ratio = jnp.where(eligible, jnp.abs(point.reduced) / jnp.where(eligible, push, 1), jnp.inf)
    reach = push * program.upper
    index = _indices(ratio)
    passed = jnp.zeros_like(ratio)
    for k in range(len(ratio)):
        earlier = jnp.where(index > k, ratio[k][None] <= ratio, ratio[k][None] < ratio)
        passed = passed + jnp.where(earlier, reach[k][None], 0)
    reachable = eligible & ((passed == 0) | ((passed < shortfall[None]) & ~cautious[None]))
    reachable = jnp.where(cautious[None], eligible & (ratio == _smallest(ratio)[None]), reachable)
    solid = reachable & (push >= 0.01 * _largest(jnp.where(reachable, push, 0))[None])
    last = _largest(jnp.where(solid, ratio, -1))[None]
    tied = solid & (ratio == last)
    column = jnp.where(cautious[None], _first(tied), jnp.flip(_first(jnp.flip(tied, 0)), 0))
    position = _pick(index, column)[None]
    flipped = eligible & ((ratio < last) | ((ratio == last) & (index < position))) & ~cautious[None]
    return column, flipped


def _pivoted(
    program: _Program,
    state: _State,
    point: _Point,
    row: jax.Array,
    column: jax.Array,
    flipped: jax.Array,
    rising: jax.Array,
) -> _State:
    """The state after ``column`` has taken the place of ``row`` in the basis."""
    entering = _pick(program.matrix.swapaxes(0, 1), column[:, None])
    direction = _times(state.inverse, entering)
    pivot = _pick(direction, row)
    pivot_row = _pick(state.inverse, row[:, None]) / jnp.where(pivot == 0, 1, pivot)[None]
    inverse = jnp.where(row[:, None], pivot_row[None], state.inverse - direction[:, None] * pivot_row[None])
    basis = jnp.where(row[None], entering[:, None], state.basis)
    index = _indices(column)
    leaving = index == _pick(state.columns, row)[None]
    return _State(
        columns=jnp.where(row, _pick(index, column)[None], state.columns),
        basic=(state.basic & ~leaving) | column,
        at_upper=jnp.where(leaving, ~rising[None], point.at_upper ^ flipped),
        basis=basis,
        inverse=_corrected(inverse, basis),
        objective=jnp.where(row, _pick(program.objective, column)[None], state.objective),
        upper=jnp.where(row, _pick(program.upper, column)[None], state.upper),
        status=state.status,
        steps=state.steps,
    )


def _corrected(inverse: jax.Array, basis: jax.Array) -> jax.Array:
    """One Newton-Schulz step towards the inverse of ``basis``, unless ``inverse`` is too far off for it to converge."""
    identity = jnp.eye(len(basis), dtype=basis.dtype)[:, :, None]
    error = identity - _matmul(basis, inverse)
    converging = _largest(_total(jnp.abs(error))) < 0.5
    return inverse + jnp.where(converging[None, None], _matmul(inverse, error), 0)


def _vertex(program: _Program, state: _State) -> tuple[jax.Array, jax.Array]:
    """The structural variables [n, L] and the row prices [m, L] of the final basis, refined once."""
    point = _point(program, state)
    index = _indices(program.upper)
    resting = jnp.where(point.at_upper & ~state.basic, program.upper, 0)
    right = program.bound - _total((program.matrix * resting[None]).swapaxes(0, 1))
    value = point.value + _times(state.inverse, right - _times(state.basis, point.value))
    error = state.objective - _total(state.basis * point.price[:, None])
    price = point.price + _total(error[:, None] * state.inverse)
    for k in range(len(value)):
        resting = jnp.where(index == state.columns[k][None], value[k][None], resting)
    return resting[: len(program.upper) - len(program.bound)], price


def _least_violation(
    _: jax.Array, program: _Program, at_upper: jax.Array, hopeless: jax.Array, limit: jax.Array
) -> jax.Array:
    """The point [n, L] of least total violation of the scaled rows, where ``hopeless``; elsewhere the one passed in."""
    num_rows, num_all = len(program.bound), len(program.upper)
    num_variables = num_all - num_rows
    matrix, slack = program.matrix[:, :num_variables], program.matrix[:, num_variables:]
    most = jnp.maximum(_total((jnp.maximum(matrix, 0) * program.upper[None, :num_variables]).swapaxes(0, 1)) - program.bound, 0)
    elastic = _Program(
        objective=jnp.concatenate([jnp.zeros_like(at_upper, most.dtype), -jnp.ones_like(most), jnp.zeros_like(most)]),
        matrix=jnp.concatenate([matrix, -slack, slack], axis=1),
        bound=program.bound,
        upper=jnp.concatenate([program.upper[:num_variables], most, program.upper[num_variables:] + most]),
    )
    start = jnp.concatenate([at_upper, jnp.zeros_like(most, bool)])
    x, _price = _vertex(elastic, _simplex(elastic, start, jnp.where(hopeless, limit, 0)))
    return jnp.where(hopeless[None], x[:num_variables], _)


def _residual(matrix: jax.Array, bound: jax.Array, x: jax.Array) -> jax.Array:
    """The largest violation [L] of a row, as a share of the size of its terms."""
    terms = (matrix * x[None]).swapaxes(0, 1)
    size = jnp.abs(bound) + _total(jnp.abs(terms))
    return _largest(jnp.maximum(_total(terms) - bound, 0) / jnp.where(size > 0, size, 1))


def _rounding(dtype: jnp.dtype) -> float:
    """A generous multiple of the rounding error of a short sum, relative to the sum of its absolute terms."""
    return 16 * float(jnp.finfo(dtype).eps)


def _forgiven(dtype: jnp.dtype) -> float:
    """The relative violation below which a row without a column to mend it counts as satisfied."""
    return 1e-9 if dtype == jnp.float64 else 2e-5


def _balance(size: jax.Array) -> jax.Array:
    """One over the geometric middle of the non-zero sizes along the first axis, as a power of two."""
    least = reduce(jnp.minimum, list(jnp.where(size > 0, size, jnp.inf)))
    return 1 / _power_of_two(jnp.sqrt(_largest(size)) * jnp.sqrt(jnp.where(least < jnp.inf, least, 0)))


def _power_of_two(size: jax.Array) -> jax.Array:
    """The power of two nearest to ``size``; 1 for 0."""
    limits = jnp.finfo(size.dtype)
    bounded = jnp.clip(size, 2.0 ** (limits.minexp // 2), 2.0 ** (limits.maxexp // 2))
    return jnp.where(size > 0, jax.lax.reduce_precision(bounded, limits.nexp, 0), 1)


def _indices(array: jax.Array) -> jax.Array:
    return jnp.arange(len(array), dtype=jnp.int32)[:, None]


def _total(array: jax.Array) -> jax.Array:
    """Sum over the first axis, in order: written out, it fuses and vectorises, and padding adds exact zeros."""
    return reduce(lambda left, right: left + right, list(array))


def _largest(array: jax.Array) -> jax.Array:
    return reduce(jnp.maximum, list(array))


def _smallest(array: jax.Array) -> jax.Array:
    return reduce(jnp.minimum, list(array))


def _any(array: jax.Array) -> jax.Array:
    return reduce(jnp.logical_or, list(array))


def _first(mask: jax.Array) -> jax.Array:
    """Only the first True along the first axis."""
    index = jnp.where(mask, _indices(mask), len(mask))
    return mask & (index == _smallest(index)[None])


def _pick(array: jax.Array, chosen: jax.Array) -> jax.Array:
    """The entry along the first axis where ``chosen`` is one-hot; 0 where nothing is chosen."""
    return _total(jnp.where(chosen, array, 0))


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Matrix [a, b, L] times vector [b, L]."""
    return _total((matrix * vector[None]).swapaxes(0, 1))


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    """Matrix [a, b, L] times matrix [b, c, L]."""
    return _total(left.swapaxes(0, 1)[:, :, None] * right[:, None])
