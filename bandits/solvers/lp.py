"""Small linear programs with boxed variables, solved by the thousand, each answer checked against its data.

``maximize`` solves one LP; batching is outside, by ``jax.vmap``. The method is the bounded dual simplex with the
bound-flipping ratio test and dual steepest edge pricing (A. Koberstein, *The Dual Simplex Method, Techniques for a Fast
and Stable Implementation*, thesis, Paderborn 2005; D. Bertsimas and J. Tsitsiklis, *Introduction to Linear
Optimization*, 1997, sections 3.3 and 4.5). Every variable is boxed, so every basis can be made dual feasible by moving
variables to their other bound: there is no first phase, and any basis is a start.

A row for which no column is left starts the search for the point of least violation, in the same loop: there the
structural variables are worth nothing, and a row's slack may leave its box at a price, so that its worth is concave and
piecewise linear. The prices of that point are weights under which the rows contradict each other (Farkas).

Only the basis and its small inverse are carried from step to step. Prices, reduced costs and the point are recomputed
from the data in each step and each carries a running bound on its own rounding error, which is what it is compared
with; the inverse is corrected by one Newton-Schulz step after each exchange. So nothing accumulates, and no tolerance
is absolute. How a solve ended is not believed: OPTIMAL and INFEASIBLE are verdicts on the final point and prices, from
the data as they were given. A lane without a verdict goes on with more care: it refines the point with residuals
in twice the digits, and takes less for rounding. So does one that has gone on for long, which rounding may be sending
in circles. Of two points without a verdict the better one is the answer.

Units are chosen by what a variable can do to a row, given the box and what the rows leave of it: an entry however small
decides nothing beside a larger one of its row. They are powers of two, so that scaling is exact.

Inside, the batch is the *last* axis ("lanes"): sums over rows and variables are then plain elementwise work that
vectorises over lanes on CPU and GPU alike. ``vmap`` of ``maximize``, however nested, becomes more lanes. Lanes take
steps together until the slowest is done; on CPU in tiles that fit the cache, one after the other on one core.
``jax.shard_map`` needs ``check_vma=False``.

Axis letters: n variables, m rows, N = n + m with the slacks, L lanes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from functools import reduce
from itertools import pairwise
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from bandits.solvers.materialize import Materialize, materializer, opaque_true

_GENEROUS = 16  # rounding errors of a sum, in units in the last place of its largest terms
_REFINEMENTS = 3  # each gains the digits that a basis leaves of working precision
# Not functions of the size: padding must not change the choice.
_BISECTIONS = 5
_LONG = 20  # exchanges after which a lane takes more care
_NOTHING = -(1 << 20)  # the binary exponent of 0

_SPECK = 1 / 256  # what is far below the units that matter, which are 1
_BEYOND = 8.0  # no feasible point has a scaled variable this large
# What a lane is doing: solving, looking for the least violation, solving with that much violation forgiven.
_SOLVING, _MENDING, _FORGIVING = 0, 1, 2
# How it goes: a basis to be improved, one that is optimal, a row without a column to mend it.
_RUNNING, _SETTLED, _STUCK = 0, 1, 2
# What is taken for rounding, in units in the last place of the terms: at first, and by careful lanes.
_CARE = (16.0, 1.0)


class Status(IntEnum):
    """How a solve ended.

    OPTIMAL: ``x`` is feasible and ``dual`` proves it optimal, both up to rounding (checked). INFEASIBLE: ``dual``
    proves that no point satisfies all rows (checked), even when a relative violation of 1e-9 (float64) or 2e-5
    (float32) is forgiven; ``x`` has the least total violation, each row in units of the power of two that its largest
    entry reaches. Also an LP with NaN or misplaced infinities; then ``x`` is 0 and ``residual`` 1.
    STEP_LIMIT: ``max_steps`` exchanges did not suffice. INACCURATE: rounding kept a nearly singular LP from a verdict.
    In the last two cases ``x`` is within its bounds, ``residual`` says how far it is from feasible, and ``gap`` how far
    it may be from optimal.
    """

    OPTIMAL = 0
    INFEASIBLE = 1
    STEP_LIMIT = 2
    INACCURATE = 3


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Solution:
    """The answer for one LP. Always finite, whatever the status."""

    x: jax.Array  # [n] within [0, upper]
    value: jax.Array  # [] objective . x
    status: jax.Array  # [] int32, a Status
    dual: (
        jax.Array
    )  # [m] >= 0, any sign where slack is finite: OPTIMAL: shadow prices; INFEASIBLE: weights of the proof
    residual: jax.Array  # [] largest violation of a row, as a share of |bound| + sum |matrix x| of that row, in [0, 1]
    gap: jax.Array  # [] what better points dual leaves possible, as a share of that and of sum |objective x|, in [0, 1]
    steps: jax.Array  # [] int32, basis exchanges


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Program:
    """A scaled LP: max objective . x, matrix x + slack = bound, 0 <= x <= upper, 0 <= slack <= room."""

    objective: jax.Array  # [n, L]
    matrix: jax.Array  # [m, n, L]
    bound: jax.Array  # [m, L]
    upper: jax.Array  # [n, L]
    room: jax.Array  # [m, L]
    above: jax.Array  # [m, L] how far below 0 a slack can get, that is, the row above its bound
    below: jax.Array  # [m, L] how far above its room a slack can get; 0 where there is no such limit
    weight: jax.Array  # [m, L] what a unit of violation counts
    ranged: jax.Array  # [m, L] bool, whether the slack was limited


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _State:
    """A basis, with what is cheaper to carry than to look up again.

    A slack's value lies on one of three pieces: out of its box below 0, in it, above its room. Their ends are numbered
    0 to 3. ``place`` is the end where a slack rests or, where it is basic, the piece that it is on: 0 to 2.
    """

    columns: jax.Array  # [m, L] int32, the basic variable of each row
    basic: jax.Array  # [N, L] bool
    at_upper: jax.Array  # [n, L] bool, where a non-basic variable rests
    place: jax.Array  # [m, L] int32, of each slack
    basis: jax.Array  # [m, m, L] basis[:, k] is the column of columns[k]
    inverse: jax.Array  # [m, m, L]
    objective: jax.Array  # [m, L] of the basic variables, 0 for slacks
    upper: jax.Array  # [m, L] of the basic variables, 0 for slacks
    steps: jax.Array  # [L] int32
    ending: jax.Array  # [L] int32, how it goes
    phase: jax.Array  # [L] int32, what it is doing
    care: jax.Array  # [L] int32, 0 or 1: careful
    forgiven: jax.Array  # [m, L] by how much each row may be violated


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Point:
    """The basic solution of a state, primal and dual."""

    price: jax.Array  # [m, L]
    worth: jax.Array  # [m, L] of the basic variables, in the objective of the lane's phase
    reduced: jax.Array  # [n, L] reduced costs; exactly 0 where basic or below rounding
    at_upper: jax.Array  # [n, L] bool, made dual feasible
    place: jax.Array  # [m, L] int32, made dual feasible
    to_slope: tuple[
        jax.Array, ...
    ]  # 3 [m, L], what each price lacks to the worth of its slack on each piece; 0 below rounding
    ends: tuple[jax.Array, ...]  # 4 [m, L], of the pieces
    resting: jax.Array  # [n, L] value of the non-basic variables, 0 for basic ones
    right: jax.Array  # [m, L] what the basic variables have to make up
    lower: jax.Array  # [m, L] of the basic variables
    upper: jax.Array  # [m, L] of the basic variables
    value: jax.Array  # [m, L] of the basic variables
    slop: jax.Array  # [m, L] rounding error that value may carry


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What was found, in scaled units, and the verdict on it."""

    x: jax.Array  # [n, L]
    price: jax.Array  # [m, L]
    status: jax.Array  # [L]
    residual: jax.Array  # [L]
    gap: jax.Array  # [L]
    steps: jax.Array  # [L]


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Moves:
    """What each variable that is not basic could do for the row that leaves."""

    push: jax.Array  # [N, L] how much it mends the row per unit that it moves; 0 where it does not
    distance: jax.Array  # [N, L] its reduced cost
    length: jax.Array  # [N, L] how far it can move
    upwards: jax.Array  # [m, L] bool, which way each slack would move
    piece: jax.Array  # [m, L] int32, and on which piece


def maximize(
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    *,
    slack: jax.Array | None = None,
    max_steps: int | jax.Array | None = None,
) -> Solution:
    """Maximise ``objective . x`` subject to ``bound - slack <= matrix x <= bound`` and ``0 <= x <= upper``.

    Args:
      objective: [n] finite.
      matrix: [m, n] finite; m may be 0.
      bound: [m] of any sign; finite, or +inf for a row that does not count.
      upper: [n] finite and >= 0. A variable with ``upper`` 0 is padding: it never matters. Neither does an all-zero row
        with ``bound`` >= 0.
      slack: [m] >= 0, how far each row may stay below its bound: 0 makes it an equality; +inf when not given.
      max_steps: basis exchanges allowed; 10 (n + m) + 20 when not given.

    Returns:
      A ``Solution``. Equal inputs give equal outputs; among equal choices the lowest index goes first.

    Raises:
      ValueError: shapes that do not fit each other.
    """
    dtype = jnp.result_type(objective, matrix, bound, upper, jnp.float32)
    slack = jnp.full_like(bound, jnp.inf) if slack is None else slack
    operands = tuple(jnp.asarray(array, dtype) for array in (objective, matrix, bound, upper, slack))
    num_rows, num_variables = _sizes(*operands)
    limit = jnp.asarray(10 * (num_rows + num_variables) + 20 if max_steps is None else max_steps, jnp.int32)
    lanes = _solve_lanes(*(array[..., None] for array in (*operands, limit)))
    return jax.tree.map(lambda array: array[..., 0], lanes)


def _sizes(
    objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array, slack: jax.Array
) -> tuple[int, int]:
    """The numbers of rows and variables, if the shapes agree."""
    fits = matrix.shape == (*bound.shape, *objective.shape) and matrix.ndim == 2
    if not fits or objective.shape != upper.shape or bound.shape != slack.shape:
        raise ValueError(
            f"objective {objective.shape}, matrix {matrix.shape}, bound {bound.shape}, upper {upper.shape}, slack "
            f"{slack.shape}: expected [n], [m, n], [m], [n], [m]; batches go through jax.vmap"
        )
    return matrix.shape[0], matrix.shape[1]


def _solve_lanes(
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    slack: jax.Array,
    limit: jax.Array,
) -> Solution:
    """``maximize`` with a trailing lane axis on every argument and result."""
    if len(bound) == 0:  # one row that never binds, so that no axis is empty
        nothing = jnp.zeros((1, *limit.shape), bound.dtype)
        solution = _solve_lanes(objective, jnp.zeros_like(objective)[None], nothing, upper, nothing, limit)
        return replace(solution, dual=solution.dual[:0])
    results = _PRIMITIVE.bind(objective, matrix, bound, upper, slack, limit)
    return Solution(**dict(zip(_RESULTS, results, strict=True)))


def _result_shapes(
    objective: Any, matrix: Any, bound: Any, upper: Any, slack: Any, limit: Any
) -> list[jax.core.ShapedArray]:
    """The shapes of the fields of a ``Solution`` with lanes."""
    real, lanes = objective.dtype, limit.shape
    shapes = {
        "x": (objective.shape, real),
        "value": (lanes, real),
        "status": (lanes, jnp.int32),
        "dual": (bound.shape, real),
        "residual": (lanes, real),
        "gap": (lanes, real),
        "steps": (lanes, jnp.int32),
    }
    return [jax.core.ShapedArray(shape, jnp.dtype(kind)) for shape, kind in (shapes[name] for name in _RESULTS)]


def _merge_lanes(operands: Sequence[jax.Array], axes: Sequence[int | None]) -> tuple[list[jax.Array], list[int]]:
    """The batching rule: a mapped axis becomes more lanes."""
    size = next(operand.shape[axis] for operand, axis in zip(operands, axes, strict=True) if axis is not None)

    def merge(operand: jax.Array, axis: int | None) -> jax.Array:
        stacked = jnp.broadcast_to(operand, (size, *operand.shape)) if axis is None else jnp.moveaxis(operand, axis, 0)
        vmap_last = jnp.moveaxis(stacked, 0, -2)
        return vmap_last.reshape(*vmap_last.shape[:-2], -1)

    def split(result: jax.Array) -> jax.Array:
        return jnp.moveaxis(result.reshape(*result.shape[:-1], size, -1), -2, 0)

    merged = _PRIMITIVE.bind(*map(merge, operands, axes))
    return [split(result) for result in merged], [0] * len(merged)


def _refuse_derivatives(primals: Sequence[Any], tangents: Sequence[Any]) -> Any:
    raise NotImplementedError("bandits.solvers.lp.maximize has no derivatives: its answer jumps from vertex to vertex")


def _fields(solution: Solution) -> list[jax.Array]:
    return [getattr(solution, name) for name in _RESULTS]


def _tile_size(matrix: jax.Array) -> int:
    """How many lanes a CPU should work on at a time: about as many as its cache holds, a power of two."""
    rows, variables = matrix.shape[0], matrix.shape[0] + matrix.shape[1]
    lane_bytes = matrix.dtype.itemsize * (rows * variables + 3 * rows * rows + 12 * variables)
    return 1 << max(5, ((1 << 16) // lane_bytes).bit_length() - 1)


def _solve_in_tiles(*operands: jax.Array) -> Solution:
    """``_solve``, one tile of lanes after the other, each for as many steps as its own slowest lane needs."""
    lanes, size = operands[-1].shape[-1], _tile_size(operands[1])
    if lanes <= size:
        return _solve(*operands)
    tiles = -(-lanes // size)

    def split(operand: jax.Array) -> jax.Array:
        padded = jnp.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, tiles * size - lanes)])
        return jnp.moveaxis(padded.reshape(*operand.shape[:-1], tiles, size), -2, 0)

    def join(result: jax.Array) -> jax.Array:
        vmap_last = jnp.moveaxis(result, 0, -2)
        return vmap_last.reshape(*vmap_last.shape[:-2], -1)[..., :lanes]

    return jax.tree.map(join, jax.lax.map(lambda tile: _solve(*tile), tuple(map(split, operands))))


def _solve(
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    slack: jax.Array,
    limit: jax.Array,
) -> Solution:
    """All lanes in step with each other."""
    stored = materializer(opaque_true(upper[0]))
    proper = stored(lambda: _proper(objective, matrix, bound, upper, slack))
    sane = stored(lambda: _sanitised(proper, objective, matrix, bound, upper, slack))
    program, row, column, unit = _scaled(*sane, stored=stored)
    found = _answer(program, limit, stored)
    x = stored(lambda: jnp.clip(_times_power(found.x, column), 0, sane[3]))
    largest = jnp.finfo(bound.dtype).max
    return Solution(
        x=x,
        value=_total(sane[0] * x),
        status=jnp.where(proper, found.status, Status.INFEASIBLE).astype(jnp.int32),
        dual=jnp.clip(_times_power(found.price, unit[None] - row), -largest, largest),
        residual=jnp.where(proper, found.residual, 1),
        gap=jnp.where(proper, found.gap, 1),
        steps=found.steps,
    )


def _proper(objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array, slack: jax.Array) -> jax.Array:
    """[L] bool, which lanes hold proper numbers."""
    numbers = _smallest(jnp.isfinite(objective) & jnp.isfinite(upper)) & _smallest(_smallest(jnp.isfinite(matrix)))
    return numbers & _smallest(jnp.isfinite(bound) | (bound == jnp.inf)) & _smallest(slack >= 0)


def _sanitised(
    proper: jax.Array,
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    slack: jax.Array,
) -> tuple[jax.Array, ...]:
    """The operands without improper lanes, idle rows, fixed variables and numbers too small to be normal."""
    objective, matrix, bound, upper = map(_normal, (objective, matrix, bound, upper))
    idle = bound == jnp.inf
    live = proper[None] & (upper > 0)
    bound = jnp.where(proper[None] & ~idle, bound, 0)
    matrix = jnp.where(live[None] & ~idle[:, None], matrix, 0)
    slack = jnp.where(proper[None] & ~idle, slack, jnp.inf)
    return jnp.where(live, objective, 0), matrix, bound, jnp.where(live, upper, 0), slack


def _scaled(
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    slack: jax.Array,
    *,
    stored: Materialize,
) -> tuple[_Program, jax.Array, jax.Array, jax.Array]:
    """The LP in units of what matters, and these: binary exponents of rows [m, L], columns [n, L], objective [L].

    A column's unit is what its variable can reach, a row's the most that one variable adds to it, so no scaled entry
    exceeds 4.
    """
    most, widest = _most(bound.dtype), _widest(bound.dtype)
    entry = stored(lambda: _exponent(matrix))
    column = stored(lambda: _column_exponents(entry, matrix, bound, upper, slack, stored))
    row = stored(lambda: _largest(entry + column[None], 1))
    row = jnp.where(row > _NOTHING // 2, row, jnp.maximum(_exponent(bound), -most))
    unit = stored(lambda: _largest(_exponent(objective) + column))
    unit = jnp.where(unit > _NOTHING // 2, unit, 0)

    def numbers() -> tuple[jax.Array, ...]:
        return (
            _times_power(objective, column - unit[None]),
            _times_power(matrix, column[None] - row[:, None]),
            jnp.clip(_times_power(bound, -row), -widest, widest),
            jnp.minimum(_times_power(upper, -column), widest),
            _power(jnp.clip(row - jnp.maximum(_largest(entry, 1), -most), -most // 2, most // 2), bound.dtype),
        )

    objective, matrix, bound, upper, weight = stored(numbers)
    lowest, highest = stored(lambda: _extremes(matrix, upper))

    def program() -> _Program:
        # No point in the box needs more slack than this, so the bound is idle; it only boxes the slack.
        idle = 1 + jnp.maximum(bound - lowest, 0)
        room = jnp.minimum(idle, _times_power(slack, -row))
        ranged = slack < jnp.inf
        # At the point of least violation no row is violated by more than all of them are where x is 0.
        missing = jnp.maximum(-bound, 0) + jnp.where(ranged, jnp.maximum(bound - room, 0), 0)
        worst = 2 * _total(weight * missing)[None] / weight
        return _Program(
            objective=objective,
            matrix=matrix,
            bound=bound,
            upper=upper,
            room=room,
            above=jnp.clip(highest - bound, 0, worst),
            below=jnp.where(ranged, jnp.clip(bound - room - lowest, 0, worst), 0),
            weight=weight,
            ranged=ranged,
        )

    return stored(program), row, column, unit


def _extremes(matrix: jax.Array, upper: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The least and the most that the box allows of each row [m, L]."""
    return _times(jnp.minimum(matrix, 0), upper), _times(jnp.maximum(matrix, 0), upper)


def _column_exponents(
    entry: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array, slack: jax.Array, stored: Materialize
) -> jax.Array:
    """[n, L] e such that no feasible point has x >= 2^(e + 1), from the box and from each row by itself.

    A row that leaves no room at all says nothing of units.
    """
    lowest, highest = stored(lambda: _extremes(matrix, upper))

    def room(limit: jax.Array, others: jax.Array) -> jax.Array:
        size = jnp.abs(limit) + jnp.abs(others)
        exponent = _exponent(jnp.maximum(limit - others, size / 1024))  # what cancels leaves no more accurate digits
        return jnp.where(exponent > _NOTHING // 2, exponent, -_NOTHING)

    above, below = stored(lambda: (room(bound, lowest), room(slack - bound, -highest)))
    left = jnp.where(matrix > 0, above[:, None], below[:, None])
    reach = jnp.where(entry > _NOTHING // 2, left - entry, -_NOTHING)
    own = _exponent(upper)
    own = jnp.where(own > _NOTHING // 2, own, 0)
    return jnp.minimum(own, _smallest(reach))


def _answer(program: _Program, limit: jax.Array, stored: Materialize) -> _Answer:
    """The simplex method from the slack basis, again for the lanes that have no verdict yet."""
    lanes, nothing = program.bound.shape[-1], jnp.zeros_like(program.bound[0])
    blank = _Answer(
        x=jnp.zeros_like(program.upper),
        price=jnp.zeros_like(program.bound),
        status=jnp.full(lanes, Status.INACCURATE, jnp.int32),
        residual=nothing + jnp.inf,
        gap=nothing + jnp.inf,
        steps=jnp.zeros(lanes, jnp.int32),
    )

    def attempt(carry: tuple[_State, _Answer]) -> tuple[_State, _Answer]:
        state = _simplex(program, carry[0], limit, stored)
        x, price = _vertex(program, state, stored)
        state, answer = _judged(program, state, limit, x, price, stored)
        return state, _better(carry[0].ending == _RUNNING, answer, carry[1])

    def unjudged(carry: tuple[_State, _Answer]) -> jax.Array:
        return jnp.any(carry[0].ending == _RUNNING)

    return jax.lax.while_loop(unjudged, attempt, (_slack_basis(program), blank))[1]


def _simplex(program: _Program, state: _State, limit: jax.Array, stored: Materialize) -> _State:
    """The state after as many exchanges as each lane needs."""
    patience = _patience(len(state.basic))

    def running(state: _State) -> jax.Array:
        return jnp.any((state.ending == _RUNNING) & (state.steps < limit))

    def step(state: _State) -> _State:
        return _exchange(program, state, limit, patience, stored)

    return jax.lax.while_loop(running, step, state)


def _slack_basis(program: _Program) -> _State:
    (num_rows, lanes), num_variables = program.bound.shape, len(program.upper)
    columns = num_variables + jnp.arange(num_rows, dtype=jnp.int32)
    identity = jnp.broadcast_to(jnp.eye(num_rows, dtype=program.bound.dtype)[:, :, None], (num_rows, num_rows, lanes))
    is_slack = jnp.arange(num_variables + num_rows) >= num_variables
    return _State(
        columns=jnp.broadcast_to(columns[:, None], (num_rows, lanes)),
        basic=jnp.broadcast_to(is_slack[:, None], (num_variables + num_rows, lanes)),
        at_upper=program.objective > 0,
        place=jnp.ones((num_rows, lanes), jnp.int32),
        basis=identity,
        inverse=identity,
        objective=jnp.zeros_like(program.bound),
        upper=jnp.zeros_like(program.bound),
        steps=jnp.zeros(lanes, jnp.int32),
        ending=jnp.full(lanes, _RUNNING, jnp.int32),
        phase=jnp.full(lanes, _SOLVING, jnp.int32),
        care=jnp.zeros(lanes, jnp.int32),
        forgiven=jnp.zeros_like(program.bound),
    )


def _point(program: _Program, state: _State, stored: Materialize) -> _Point:
    """The basic solution, from the data: only the inverse comes from earlier steps. Prices are refined once.

    So are values in careful lanes, see ``_refined``.
    """
    n = len(program.upper)
    mending = state.phase == _MENDING
    cap = jnp.where(mending[None], program.weight, jnp.inf)
    slopes = cap, jnp.zeros_like(cap), -cap
    low, high = -state.forgiven, program.room + state.forgiven
    ends = low - program.above, low, high, high + program.below

    def boxes() -> tuple[jax.Array, ...]:
        pieces = (_choose(state.place, *parts) for parts in (slopes, ends[:-1], ends[1:]))
        worth, bottom, top = (_by_row(program, state, values) for values in pieces)
        objective = jnp.where(mending[None] & (state.columns < n), 0, state.objective)
        upper = jnp.where(mending[None], state.upper, jnp.minimum(state.upper, _BEYOND))
        return objective + worth, bottom, upper + top

    objective, lower, upper = stored(boxes)

    def prices() -> tuple[jax.Array, jax.Array]:
        terms = objective[:, None] * state.inverse
        return _total(terms), _total(jnp.abs(terms))

    price, load = stored(prices)
    unpaid = stored(lambda: objective - _total(state.basis * price[:, None]))
    price = stored(lambda: price + _total(unpaid[:, None] * state.inverse))
    reduced, to_slope = stored(lambda: _reduced(program, state, price, load, slopes, mending))
    at_upper = (reduced > 0) | (state.at_upper & (reduced == 0))
    above = [(gap > 0) | ((gap == 0) & (state.place > k)) for k, gap in enumerate(to_slope)]
    place = sum(one.astype(jnp.int32) for one in above)
    place = jnp.where(state.basic[n:], state.place, place)

    def rests() -> tuple[jax.Array, ...]:
        resting = jnp.where(at_upper & ~state.basic[:n], _upper(program, state), 0)
        slack = jnp.where(state.basic[n:], 0, _choose(place, *ends))
        right = program.bound - _times(program.matrix, resting) - slack
        return resting, slack, right, jnp.abs(program.bound) + _times(jnp.abs(program.matrix), resting) + jnp.abs(slack)

    resting, slack, right, size = stored(rests)
    value = stored(lambda: _times(state.inverse, right))
    load = stored(lambda: size + _times(jnp.abs(state.basis), jnp.abs(value)))
    value, slop = _refined(program, state, (resting, slack), value, load)
    return _Point(
        price=price,
        worth=objective,
        reduced=reduced,
        at_upper=at_upper,
        place=place,
        to_slope=to_slope,
        ends=ends,
        resting=resting,
        right=right,
        lower=lower,
        upper=upper,
        value=value,
        slop=slop,
    )


def _refined(
    program: _Program, state: _State, fixed: tuple[jax.Array, jax.Array], value: jax.Array, load: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The values of the basic variables [m, L] and their rounding errors, for careful lanes as good as the data allow.

    An inverse in working precision loses as many digits as the basis is close to singular. Newton steps get them back
    where what is missing is computed in twice the digits (iterative refinement; N. Higham, *Accuracy and Stability of
    Numerical Algorithms*, 2002, chapter 12). What is left is the rounding of the values, and at most the last step.
    ``fixed`` are the other variables, structural [n, L] and slacks [m, L]; ``load`` [m, L] is the size of each row.
    """
    careful = (state.care > 0)[None]

    def plain() -> tuple[jax.Array, jax.Array]:
        return value, _tolerance(state, value.dtype)[None] * (_times(jnp.abs(state.inverse), load) + _SPECK)

    def newton(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        step = _times(state.inverse, _missing(program, state, *fixed, carry[0]))
        return carry[0] + step, step

    def refined() -> tuple[jax.Array, jax.Array]:
        exact, last = jax.lax.fori_loop(0, _REFINEMENTS, newton, (value, jnp.zeros_like(value)))
        error = jnp.finfo(value.dtype).eps * (4 * jnp.abs(exact) + _SPECK) + jnp.abs(last)
        return jnp.where(careful, exact, value), jnp.where(careful, error, plain()[1])

    return jax.lax.cond(jnp.any(careful), refined, plain)


def _missing(program: _Program, state: _State, resting: jax.Array, slack: jax.Array, value: jax.Array) -> jax.Array:
    """bound - slack - matrix resting - basis value [m, L], computed in twice the digits."""
    matrix = jnp.concatenate([program.matrix, state.basis], axis=1)
    return _remainder(program.bound, -slack, matrix, jnp.concatenate([resting, value]))


def _remainder(first: jax.Array, second: jax.Array, matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """first + second - matrix vector [a, L], of a matrix [a, b, L], computed in twice the digits.

    Products and sums keep their rounding errors (T. Ogita, S. Rump, S. Oishi, *Accurate sum and dot product*, SIAM J.
    Sci. Comput. 2005). Each product is one of halves of the digits and so is exact, whether or not the compiler fuses
    it into a sum.
    """
    columns_in_halves, factors_in_halves = _halves(matrix), _halves(-vector)

    def add(sums: tuple[jax.Array, jax.Array], term: jax.Array) -> tuple[jax.Array, jax.Array]:
        total = sums[0] + term
        part = total - sums[0]
        return total, sums[1] + ((sums[0] - (total - part)) + (term - part))

    def add_column(k: jax.Array, sums: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        columns = [jax.lax.dynamic_index_in_dim(half, k, 1, keepdims=False) for half in columns_in_halves]
        factors = [jax.lax.dynamic_index_in_dim(half, k, 0) for half in factors_in_halves]
        return reduce(add, [column * factor for column in columns for factor in factors], sums)

    start = add((first, jnp.zeros_like(first)), second)
    total, error = jax.lax.fori_loop(0, matrix.shape[1], add_column, start)
    return total + error


def _upper(program: _Program, state: _State) -> jax.Array:
    """[n, L] how far structural variables may go: where all rows are to hold, no further than they let them."""
    return jnp.where(state.phase[None] == _MENDING, program.upper, jnp.minimum(program.upper, _BEYOND))


def _reduced(
    program: _Program,
    state: _State,
    price: jax.Array,
    load: jax.Array,
    slopes: tuple[jax.Array, ...],
    mending: jax.Array,
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Reduced costs [n, L], and of slacks 3 [m, L], given the refined prices and the sums of their terms' sizes.

    What rounding may have made is 0: a short sum's error, and the prices', which after refinement is some units in the
    last place of their terms. Zeros that are none let the method go in circles, and so do signs that are noise; who
    goes on for too long is no longer given the benefit of the doubt.
    """
    patient = state.steps < _patience(len(state.basic))
    tolerance = jnp.where(patient, _tolerance(state, price.dtype), 0)
    size = jnp.abs(price) + load / _GENEROUS
    objective = jnp.where(mending[None], 0, program.objective)
    reduced = objective - _total(price[:, None] * program.matrix)
    noise = jnp.abs(objective) + _total(size[:, None] * jnp.abs(program.matrix))
    reduced = jnp.where(state.basic[: len(reduced)] | (jnp.abs(reduced) <= tolerance[None] * noise), 0, reduced)

    def to(slope: jax.Array) -> jax.Array:
        noise = jnp.where(jnp.isfinite(slope), jnp.abs(slope), 0) + size
        return jnp.where(jnp.abs(slope - price) <= tolerance[None] * noise, 0, slope - price)

    return reduced, tuple(map(to, slopes))


def _exchange(program: _Program, state: _State, limit: jax.Array, patience: int, stored: Materialize) -> _State:
    """One step: recompute the point, choose a row that leaves and a column that enters; with care after many."""
    point = _point(program, state, stored)
    cautious = state.steps >= patience
    row, shortfall, rising = _leaving_row(state, point, cautious, stored)
    left = _indices(state.basic) == _pick(state.columns, row)[None]
    move = _moves(program, state, point, row, rising, left, stored)
    column, flipped = _entering_column(move, shortfall, _pick(point.slop, row), cautious, stored)
    running = (state.ending == _RUNNING) & (state.steps < limit)
    wrong, found = shortfall > 0, column >= 0
    pivoting = stored(lambda: running & wrong & found)
    at_upper, place = _rests(point, move, column, flipped, left, rising)
    moved = replace(_pivoted(program, state, row, column, left, stored), at_upper=at_upper, place=place)

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(pivoting.reshape((1,) * (new.ndim - 1) + (-1,)), new, old)

    ending = jnp.where(running & ~pivoting, jnp.where(wrong, _STUCK, _SETTLED), state.ending)
    after = jax.tree.map(choose, moved, state)
    care = jnp.where(after.steps >= _LONG, jnp.maximum(after.care, 1), after.care)
    return replace(after, ending=ending.astype(jnp.int32), care=care)


def _by_row(program: _Program, state: _State, values: jax.Array) -> jax.Array:
    """[m, L] values of slacks, at the rows where they are basic; 0 at the others."""
    slacks = len(program.upper) + jnp.arange(len(values), dtype=jnp.int32)
    return _pick(values[None], state.columns[:, None] == slacks[None, :, None], 1)


def _leaving_row(
    state: _State, point: _Point, cautious: jax.Array, stored: Materialize
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The row [m, L] (one-hot) furthest out of its box, by how much [L] (0: none is), and whether it must rise [L]."""
    excess = stored(lambda: jnp.maximum(point.lower - point.value, point.value - point.upper))
    wrong = excess > point.slop

    def score() -> jax.Array:
        steepness = _total(state.inverse * state.inverse, 1)
        careful = 1 / (1 + state.columns.astype(excess.dtype))
        bounded = jnp.minimum(excess, _widest(excess.dtype))
        square = bounded * bounded / jnp.minimum(steepness, jnp.finfo(excess.dtype).max)
        return jnp.where(wrong, jnp.where(cautious[None], careful, square), -1)

    scores = stored(score)
    row = stored(lambda: _first(scores == _largest(scores)[None]))
    rising = point.value < point.lower
    return stored(lambda: (row, _pick(jnp.where(wrong, excess, 0), row), _largest(row & rising)))


def _moves(
    program: _Program,
    state: _State,
    point: _Point,
    row: jax.Array,
    rising: jax.Array,
    left: jax.Array,
    stored: Materialize,
) -> _Moves:
    """What each variable can do for the row; a slack that leaves may stay, on its next piece."""
    n = len(program.upper)
    weights = stored(lambda: _pick(state.inverse, row[:, None]))
    tolerance = _tolerance(state, weights.dtype)

    mass = stored(lambda: _total(jnp.abs(weights)[:, None] * jnp.abs(state.basis)))

    def blur() -> jax.Array:
        doubt = _total(mass[:, None] * jnp.abs(state.inverse))
        return tolerance[None] * (jnp.where(state.care[None] == 0, doubt, jnp.abs(weights)) + _SPECK)

    noise = stored(blur)

    def structural() -> jax.Array:
        alpha = _total(weights[:, None] * program.matrix)
        gain = jnp.where(point.at_upper == rising[None], alpha, -alpha)
        real = gain > _total(noise[:, None] * jnp.abs(program.matrix))
        return jnp.where(~state.basic[:n] & (program.upper > 0) & real, gain, 0)

    def slacks() -> tuple[jax.Array, ...]:
        upwards = (weights < 0) == rising[None]
        piece = jnp.where(upwards, point.place + left[n:], point.place - 1)
        no_inside = (piece == 1) & (point.ends[1] == point.ends[2])  # an equality's slack, which is never in its box
        piece = jnp.where(no_inside, jnp.where(upwards, 2, 0), piece)
        distance = jnp.abs(_choose(piece, *point.to_slope))
        length = _choose(piece, *(end - start for start, end in pairwise(point.ends)))
        real = (~state.basic[n:] | left[n:]) & (piece >= 0) & (piece <= 2) & (jnp.abs(weights) > noise)
        usable = real & (length > 0) & (distance < jnp.inf)
        return upwards, piece, jnp.where(usable, distance, 0), length, jnp.where(usable, jnp.abs(weights), 0)

    upwards, piece, distance, length, push = stored(slacks)
    return _Moves(
        push=stored(lambda: jnp.concatenate([structural(), push])),
        distance=jnp.concatenate([jnp.abs(point.reduced), distance]),
        length=jnp.concatenate([_upper(program, state), length]),
        upwards=upwards,
        piece=piece,
    )


def _entering_column(
    move: _Moves, shortfall: jax.Array, rounding: jax.Array, cautious: jax.Array, stored: Materialize
) -> tuple[jax.Array, jax.Array]:
    """The index of the column that enters [L], -1 for none, and those that flip to their other bound on the way [N, L].

    The bound-flipping ratio test: columns in the order of their ratios are flipped as long as flipping all earlier ones
    leaves a shortfall; the next one enters, or a slightly earlier one if its own push would make a poor pivot.
    """
    push = move.push
    reach = stored(lambda: push * move.length)
    eligible = reach > rounding[None]
    ratio = stored(lambda: jnp.where(eligible, move.distance / jnp.where(eligible, push, 1), jnp.inf))
    passed = jnp.where(cautious, -1, _passable(ratio, reach, shortfall, stored))
    reached = stored(lambda: _smallest(jnp.where(ratio > passed[None], ratio, jnp.inf)))
    candidate = eligible & (ratio <= reached[None])
    solid = stored(lambda: jnp.where(cautious, 0, 0.01 * _largest(jnp.where(candidate, push, 0))))
    last = stored(lambda: _largest(jnp.where(candidate & (push >= solid[None]), ratio, -1)))
    rank = stored(lambda: jnp.where(eligible & (ratio == last[None]), jnp.where(cautious[None], 1, push), 0))
    best = stored(lambda: _largest(rank))
    column = stored(lambda: _smallest(jnp.where(rank == best[None], _indices(rank), len(rank))))
    column = jnp.where(best > 0, column, -1)
    return column, eligible & (ratio < last[None])


def _passable(ratio: jax.Array, reach: jax.Array, shortfall: jax.Array, stored: Materialize) -> jax.Array:
    """A ratio [L] such that flipping every column up to it leaves a shortfall; -1 if not even the first may flip.

    Bisection between breakpoints at the mean, weighted by reach, of those still in doubt: each round is one pass, and
    a handful of rounds find the last such ratio or one just before it, which is as valid.
    """
    low, high = jnp.full_like(shortfall, -1), jnp.full_like(shortfall, jnp.inf)
    for _ in range(_BISECTIONS):

        def middle(low: jax.Array = low, high: jax.Array = high) -> jax.Array:
            doubtful = (ratio > low[None]) & (ratio < high[None])
            weight = _total(jnp.where(doubtful, reach, 0))
            moment = _total(jnp.where(doubtful, reach * ratio, 0))
            return jnp.where(weight > 0, moment / jnp.where(weight > 0, weight, 1), low)

        guess = stored(middle)

        def narrowed(low: jax.Array = low, high: jax.Array = high, guess: jax.Array = guess) -> tuple[jax.Array, ...]:
            enough = _total(jnp.where(ratio <= guess[None], reach, 0)) >= shortfall
            return jnp.where(enough, low, guess), jnp.where(enough, guess, high)

        low, high = stored(narrowed)
    return low


def _pivoted(
    program: _Program, state: _State, row: jax.Array, column: jax.Array, left: jax.Array, stored: Materialize
) -> _State:
    """The state after the variable ``column`` has taken the place of the one that ``left`` the basis."""
    n = len(program.upper)
    chosen = _indices(state.basic) == column[None]
    own = chosen[n:].astype(program.matrix.dtype)
    entering = stored(lambda: _pick(program.matrix, chosen[None, :n], axis=1) + own)
    direction = stored(lambda: _times(state.inverse, entering))
    pivot = _pick(direction, row)
    pivot_row = stored(lambda: _pick(state.inverse, row[:, None]) / jnp.where(pivot == 0, 1, pivot)[None])
    basis = stored(lambda: jnp.where(row[None], entering[:, None], state.basis))
    inverse = stored(
        lambda: jnp.where(row[:, None], pivot_row[None], state.inverse - direction[:, None] * pivot_row[None])
    )
    return replace(
        state,
        columns=jnp.where(row, column[None], state.columns),
        basic=(state.basic & ~left) | chosen,
        basis=basis,
        inverse=_corrected(inverse, basis, stored),
        objective=jnp.where(row, _pick(program.objective, chosen[:n])[None], state.objective),
        upper=jnp.where(row, _pick(program.upper, chosen[:n])[None], state.upper),
        steps=state.steps + 1,
    )


def _rests(
    point: _Point, move: _Moves, column: jax.Array, flipped: jax.Array, left: jax.Array, rising: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Where variables rest after a pivot: what flipped is at its other end, what left at the one that it had passed."""
    n = len(point.at_upper)
    entered = _indices(flipped) == column[None]
    at_upper = jnp.where(left[:n], ~rising[None], point.at_upper ^ flipped[:n])
    place = jnp.where(flipped[n:], jnp.where(move.upwards, move.piece + 1, move.piece), point.place)
    place = jnp.where(left[n:], jnp.where(rising[None], point.place, point.place + 1), place)
    return at_upper, jnp.where(entered[n:], move.piece, place)


def _corrected(inverse: jax.Array, basis: jax.Array, stored: Materialize) -> jax.Array:
    """One Newton-Schulz step towards the inverse of ``basis``, unless ``inverse`` is too far off for it to converge."""
    identity = jnp.eye(len(basis), dtype=basis.dtype)[:, :, None]
    error = stored(lambda: identity - _matmul(basis, inverse))
    converging = stored(lambda: _largest(_total(jnp.abs(error))) < 0.5)
    return stored(lambda: inverse + jnp.where(converging[None, None], _matmul(inverse, error), 0))


def _vertex(program: _Program, state: _State, stored: Materialize) -> tuple[jax.Array, jax.Array]:
    """The point [n, L], refined twice, and the row prices [m, L] of the final basis."""
    point = _point(program, state, stored)
    missing = stored(lambda: point.right - _times(state.basis, point.value))
    nearer = stored(lambda: point.value + _times(state.inverse, missing))
    still_missing = stored(lambda: point.right - _times(state.basis, nearer))
    careful = (state.care > 0)[None]
    value = stored(lambda: jnp.where(careful, point.value, nearer + _times(state.inverse, still_missing)))
    snapped = jnp.where(jnp.abs(value - point.lower) <= point.slop, point.lower, value)
    snapped = jnp.where(jnp.abs(snapped - point.upper) <= point.slop, point.upper, snapped)

    def placed(basic: jax.Array) -> jax.Array:
        x = point.resting
        for k in range(len(basic)):
            x = jnp.where(_indices(x) == state.columns[k][None], basic[k][None], x)
        return jnp.clip(x, 0, program.upper)

    exact, plain = stored(lambda: (placed(snapped), placed(value)))
    # In a nearly singular basis the rounding bound is wide, and snapping by that much would break other rows.
    worse = stored(lambda: _residual(program, *_activity(program, exact)) > _forgiven(value.dtype) / 4)
    price = _refined_prices(state, point)
    return jnp.where(worse[None], plain, exact), jnp.where(program.ranged, price, jnp.maximum(price, 0))


def _refined_prices(state: _State, point: _Point) -> jax.Array:
    """The row prices [m, L], for careful lanes as good as the data allow; see ``_refined``.

    Two basic columns that are almost the same leave their prices to a quotient of small differences, of which sums in
    working precision keep few digits.
    """
    careful = (state.care > 0)[None]
    columns = jnp.swapaxes(state.basis, 0, 1)

    def newton(_: int, price: jax.Array) -> jax.Array:
        unpaid = _remainder(point.worth, jnp.zeros_like(point.worth), columns, price)
        return price + _total(unpaid[:, None] * state.inverse)

    def refined() -> jax.Array:
        return jnp.where(careful, jax.lax.fori_loop(0, _REFINEMENTS, newton, point.price), point.price)

    return jax.lax.cond(jnp.any(careful), refined, lambda: point.price)


def _activity(program: _Program, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By how much each row exceeds its bound [m, L], and the size of its terms [m, L]."""
    return (
        _times(program.matrix, x) - program.bound,
        _times(jnp.abs(program.matrix), x) + jnp.abs(program.bound),
    )


def _residual(program: _Program, excess: jax.Array, size: jax.Array) -> jax.Array:
    """The largest violation [L] of a row, as a share of the size of its terms."""
    return _largest(jnp.maximum(jnp.maximum(excess, -excess - program.room), 0) / jnp.where(size > 0, size, 1))


def _judged(
    program: _Program, state: _State, limit: jax.Array, x: jax.Array, price: jax.Array, stored: Materialize
) -> tuple[_State, _Answer]:
    """The verdict on a point and its prices, from the data alone, and what a lane without one does next."""
    forgiven = _forgiven(x.dtype)
    excess, size = stored(lambda: _activity(program, x))
    reduced = stored(lambda: _certain(program, program.objective, price))
    residual = stored(lambda: _residual(program, excess, size))
    gap = stored(lambda: _gap(program, x, price, reduced, _unforgiven(program, state, price, excess), size))
    mending, forgiving = state.phase == _MENDING, state.phase == _FORGIVING
    # What is forgiven is the least violation and its rounding, see below, which may be all that may be forgiven.
    feasible = residual <= jnp.where(forgiving, forgiven + _rounding(x.dtype), forgiven)
    optimal = feasible & (gap <= forgiven)
    contradiction = stored(lambda: _contradicts(program, price))
    impossible = mending & (state.ending == _SETTLED) & (residual > forgiven) & contradiction
    over = state.steps >= limit
    failure = jnp.where(over & (state.ending == _RUNNING), Status.STEP_LIMIT, Status.INACCURATE)
    status = jnp.where(optimal, Status.OPTIMAL, jnp.where(impossible, Status.INFEASIBLE, failure))
    answer = _Answer(
        x=x,
        price=price,
        status=status.astype(jnp.int32),
        residual=residual,
        gap=jnp.where(impossible, 1, gap),
        steps=state.steps,
    )
    slight = mending & (residual <= forgiven)
    violation = jnp.maximum(jnp.maximum(excess, -excess - program.room), 0) + _rounding(x.dtype) * size
    return _following(state, ~optimal & ~impossible & ~over, slight, violation), answer


def _better(tried: jax.Array, new: _Answer, old: _Answer) -> _Answer:
    """The new answer where one was ``tried`` [L], unless it is undecided and the old one closer to a verdict."""
    undecided = (new.status != Status.OPTIMAL) & (new.status != Status.INFEASIBLE)
    closer = jnp.maximum(old.residual, old.gap) < jnp.maximum(new.residual, new.gap)
    answer = jax.tree.map(lambda one, other: jnp.where(tried & ~(undecided & closer), one, other), new, old)
    return replace(
        answer, status=jnp.where(tried, new.status, old.status), steps=jnp.where(tried, new.steps, old.steps)
    )


def _following(state: _State, open_: jax.Array, slight: jax.Array, violation: jax.Array) -> _State:
    """What lanes without a verdict do next.

    Stuck: look for the least violation. That is slight: forgive it. Else: take more care.
    """
    stuck = (state.phase == _SOLVING) & (state.ending == _STUCK)
    phase = jnp.where(stuck, _MENDING, jnp.where(slight, _FORGIVING, _SOLVING))
    care = jnp.where(stuck | slight, state.care, state.care + 1)
    again = open_ & (care < len(_CARE))
    return replace(
        state,
        ending=jnp.where(again, _RUNNING, jnp.maximum(state.ending, _SETTLED)).astype(jnp.int32),
        phase=jnp.where(again, phase, state.phase).astype(jnp.int32),
        care=jnp.where(again, care, state.care).astype(jnp.int32),
        forgiven=jnp.where(again[None], jnp.where(slight[None], violation, 0), state.forgiven),
        place=jnp.where((again & ~stuck)[None], 1, state.place),
    )


def _certain(program: _Program, objective: jax.Array, price: jax.Array) -> jax.Array:
    """Reduced costs [n, L]; 0 where rounding may have made them."""
    reduced = objective - _total(price[:, None] * program.matrix)
    noise = jnp.abs(objective) + _total(jnp.abs(price)[:, None] * jnp.abs(program.matrix))
    return jnp.where(jnp.abs(reduced) <= _rounding(price.dtype) * noise, 0, reduced)


def _unforgiven(program: _Program, state: _State, price: jax.Array, excess: jax.Array) -> jax.Array:
    """How far each row [m, L] is from the end that its price is paid for; nowhere within what is forgiven beyond it.

    Where no point meets all rows, the best of those that miss them by that little is what is looked for. Nearly
    parallel rows have large prices, at which even that little would count as a gain that no point can have.
    """
    at_bound = excess - jnp.clip(excess, 0, state.forgiven)
    below = excess + program.room
    at_lower = below - jnp.clip(below, -state.forgiven, 0)
    return jnp.abs(jnp.where(price > 0, at_bound, at_lower))


def _gap(
    program: _Program, x: jax.Array, price: jax.Array, reduced: jax.Array, apart: jax.Array, size: jax.Array
) -> jax.Array:
    """What a point [n, L] may be away from the optimum [L], as a share of that and of the sizes of its value's terms.

    By weak duality: what a variable with a reduced cost could still gain, what is paid for rows that do not bind, and
    what was gained by rows that are violated. What rounding may have made counts as 0.
    """
    loss = _total(jnp.where(reduced > 0, reduced * jnp.maximum(_reach(program) - x, 0), -reduced * x))
    loss = loss + _total(jnp.abs(price) * jnp.where(apart > _rounding(x.dtype) * size, apart, 0))
    return loss / jnp.where(loss > 0, loss + _total(jnp.abs(program.objective) * x), 1)


def _contradicts(program: _Program, price: jax.Array) -> jax.Array:
    """Whether rows weighed by prices [m, L] ask for less than the least that the box allows (Farkas) [L]."""
    tolerance = _rounding(price.dtype)
    terms = price[:, None] * program.matrix
    slope = _total(terms) - tolerance * _total(jnp.abs(terms))
    asked = price * jnp.where(price > 0, program.bound, program.bound - program.room)
    return _total(jnp.minimum(slope, 0) * _reach(program)) > _total(asked) + tolerance * _total(jnp.abs(asked))


def _reach(program: _Program) -> jax.Array:
    """What no feasible point exceeds, as columns are scaled."""
    return jnp.minimum(program.upper, 4)


def _patience(num_variables: int) -> int:
    """Steps after which only lowest indices are chosen, so that no cycle can last (Bland 1977)."""
    return 3 * num_variables + 10


def _rounding(dtype: jnp.dtype) -> float:
    """A generous multiple of the rounding error of a short sum, relative to the sum of its absolute terms."""
    return _GENEROUS * float(jnp.finfo(dtype).eps)


def _tolerance(state: _State, dtype: jnp.dtype) -> jax.Array:
    """What a lane [L] takes for rounding, relative to the sum of the absolute terms of a sum."""
    return jnp.finfo(dtype).eps * _choose(state.care, *(jnp.array(units, dtype) for units in _CARE))


def _most(dtype: jnp.dtype) -> int:
    """The binary exponent of the largest scaled number: its square is finite."""
    return jnp.finfo(dtype).maxexp // 2 - 4


def _widest(dtype: jnp.dtype) -> float:
    """The largest scaled number."""
    return 2.0 ** _most(dtype)


def _forgiven(dtype: jnp.dtype) -> float:
    """The relative violation and gap below which a point counts as feasible and as optimal."""
    return 1e-9 if dtype == jnp.float64 else 2e-5


def _normal(array: jax.Array) -> jax.Array:
    """The array with 0 for what is too small to be normal, which processors may take for 0 or not."""
    return jnp.where(jnp.abs(array) < jnp.finfo(array.dtype).tiny, 0, array)


def _exponent(array: jax.Array) -> jax.Array:
    """The binary exponent, rounded down, of each absolute value; of 0, very low."""
    limits, integer = jnp.finfo(array.dtype), jnp.dtype(f"int{8 * array.dtype.itemsize}")
    bits = jax.lax.bitcast_convert_type(jnp.abs(array), integer)
    exponent = jax.lax.shift_right_logical(bits, jnp.array(limits.nmant, integer)).astype(jnp.int32)
    return jnp.where(exponent > 0, exponent - (limits.maxexp - 1), _NOTHING)


def _power(exponent: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """2^exponent, of int32 within the range of normal numbers."""
    limits, integer = jnp.finfo(dtype), jnp.dtype(f"int{8 * jnp.dtype(dtype).itemsize}")
    bits = (exponent + (limits.maxexp - 1)).astype(integer)
    return jax.lax.bitcast_convert_type(jax.lax.shift_left(bits, jnp.array(limits.nmant, integer)), dtype)


def _halves(array: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The upper half of each number's digits, and what is left of it."""
    integer = jnp.dtype(f"int{8 * array.dtype.itemsize}")
    lower_digits = jnp.array((1 << (jnp.finfo(array.dtype).nmant // 2 + 1)) - 1, integer)
    bits = jax.lax.bitcast_convert_type(array, integer)
    upper = jax.lax.bitcast_convert_type(bits & ~lower_digits, array.dtype)
    return upper, array - upper


def _times_power(array: jax.Array, exponent: jax.Array) -> jax.Array:
    """``array`` 2^exponent, exact unless the result is out of range; in two steps, for the sake of large exponents."""
    most = jnp.finfo(array.dtype).maxexp - 2
    half = jnp.clip(exponent // 2, -most, most)
    return array * _power(half, array.dtype) * _power(jnp.clip(exponent - half, -most, most), array.dtype)


def _indices(array: jax.Array) -> jax.Array:
    return jnp.arange(len(array), dtype=jnp.int32)[:, None]


def _total(array: jax.Array, axis: int = 0) -> jax.Array:
    """Sum over an axis, in order: written out, it fuses and vectorises, and padding adds exact zeros."""
    return reduce(jax.lax.add, _slices(array, axis))


def _largest(array: jax.Array, axis: int = 0) -> jax.Array:
    return reduce(jax.lax.max, _slices(array, axis))


def _smallest(array: jax.Array, axis: int = 0) -> jax.Array:
    return reduce(jax.lax.min, _slices(array, axis))


def _slices(array: jax.Array, axis: int = 0, *, keep: bool = False) -> list[jax.Array]:
    return [jax.lax.index_in_dim(array, k, axis, keep) for k in range(array.shape[axis])]


def _first(mask: jax.Array) -> jax.Array:
    """Only the first True along the first axis."""
    index = jnp.where(mask, _indices(mask), len(mask))
    return index == _smallest(index)[None]


def _choose(index: jax.Array, *parts: jax.Array) -> jax.Array:
    """The part that an index counted from 0 asks for."""
    chosen = parts[-1]
    for number, part in reversed(list(enumerate(parts[:-1]))):
        chosen = jnp.where(index == number, part, chosen)
    return chosen


def _pick(array: jax.Array, chosen: jax.Array, axis: int = 0) -> jax.Array:
    """The entry along the axis where ``chosen`` is one-hot; 0 where nothing is chosen."""
    pairs = zip(_slices(array, axis), _slices(chosen, axis), strict=True)
    return reduce(jax.lax.add, [jnp.where(mask, entry, 0) for entry, mask in pairs])


def _times(matrix: jax.Array, vector: jax.Array) -> jax.Array:
    """Matrix [a, b, L] times vector [b, L]."""
    pairs = zip(_slices(matrix, 1), _slices(vector, keep=True), strict=True)
    return reduce(jax.lax.add, [column * factor for column, factor in pairs])


def _matmul(left: jax.Array, right: jax.Array) -> jax.Array:
    """Matrix [a, b, L] times matrix [b, c, L]."""
    pairs = zip(_slices(left, 1, keep=True), _slices(right, keep=True), strict=True)
    return reduce(jax.lax.add, [column * row for column, row in pairs])


# A primitive is traced as one operation, however many loops and maps are around it; the method itself is traced once
# for each shape, when the program is lowered for its platform.
_RESULTS = tuple(field.name for field in fields(Solution))
_PRIMITIVE = Primitive("linear_program")
_PRIMITIVE.multiple_results = True
_PRIMITIVE.def_impl(jax.jit(_PRIMITIVE.bind))
_PRIMITIVE.def_abstract_eval(_result_shapes)
batching.primitive_batchers[_PRIMITIVE] = _merge_lanes
ad.primitive_jvps[_PRIMITIVE] = _refuse_derivatives
mlir.register_lowering(_PRIMITIVE, mlir.lower_fun(lambda *operands: _fields(_solve(*operands))))
mlir.register_lowering(_PRIMITIVE, mlir.lower_fun(lambda *operands: _fields(_solve_in_tiles(*operands))), "cpu")
