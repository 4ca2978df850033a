"""Small linear programs with boxed variables, solved by the thousand.

``maximize`` solves one LP; batching is outside, by ``jax.vmap``. The method is the bounded dual simplex with the
bound-flipping ratio test and dual steepest edge pricing (A. Koberstein, *The Dual Simplex Method, Techniques for a Fast
and Stable Implementation*, thesis, Paderborn 2005; D. Bertsimas and J. Tsitsiklis, *Introduction to Linear
Optimization*, 1997, sections 3.3 and 4.5). Every variable is boxed, so every basis can be made
dual feasible by moving variables to their other bound: there is no first phase, any basis is a start, and infeasibility
is a row for which no column is left.

Only the basis and its small inverse are carried from step to step. Prices, reduced costs and the point are recomputed
from the data in each step and each carries a running bound on its own rounding error, which is what it is compared
with; the inverse is corrected by one Newton-Schulz step after each exchange. So nothing accumulates, no tolerance is
absolute, and the final point is that of the final basis in the original data.

Inside, the batch is the *last* axis ("lanes"): sums over rows and variables are then plain elementwise work that
vectorises over lanes on CPU and GPU alike. ``vmap`` of ``maximize``, however nested, becomes more lanes. Lanes take
steps together until the slowest is done; on CPU in blocks that fit the cache, one after the other on one core.
Infeasible lanes cost their block a second solve, for the point of least violation. ``jax.shard_map`` needs
``check_vma=False``.

Axis letters: n variables, m rows, N = n + m with the slacks, L lanes.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import partial, reduce

import jax
import jax.numpy as jnp

from bandits.storage import Stored, storage, surely

_GENEROUS = 16  # rounding errors of a sum, in units in the last place of its largest terms
_BISECTIONS = 5  # not a function of the size: padding must not change the choice


class Status(IntEnum):
    """How a solve ended.

    OPTIMAL: ``x`` is an optimal vertex, feasible up to rounding. INFEASIBLE: no point satisfies all rows, even when a
    relative violation of 1e-9 (float64) or 2e-5 (float32) is forgiven; ``x`` has the least total violation, rows
    weighed by their scale. Also an LP with NaN or misplaced infinities; then ``x`` is 0 and ``residual`` 1. STEP_LIMIT:
    ``max_steps`` exchanges did not suffice, or rounding spoilt a nearly singular basis; ``x`` is within its bounds and
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
    dual: jax.Array  # [m] shadow price of each row, >= 0 (any sign for an equality); meaningful only where OPTIMAL
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
    resting: jax.Array  # [N, L] value of the non-basic variables, 0 for basic ones
    right: jax.Array  # [m, L] what the basic variables have to make up
    value: jax.Array  # [m, L] of the basic variables
    slop: jax.Array  # [m, L] rounding error that value may carry


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


@jax.custom_batching.custom_vmap
def _solve_lanes(
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    slack: jax.Array,
    limit: jax.Array,
) -> Solution:
    """``maximize`` with a trailing lane axis on every argument and result."""
    operands = (objective, matrix, bound, upper, slack, limit)
    if len(bound) == 0:  # one row that never binds, so that no axis is empty
        nothing = jnp.zeros((1, *limit.shape), bound.dtype)
        solution = _solve_lanes(objective, jnp.zeros_like(objective)[None], nothing, upper, nothing, limit)
        return replace(solution, dual=solution.dual[:0])
    if len(limit) <= _block_size(matrix):
        return _solve(*operands)
    return jax.lax.platform_dependent(*operands, cpu=_solve_in_blocks, default=_solve)


@_solve_lanes.def_vmap
def _merge_lanes(axis_size: int, batched: list[bool], *operands: jax.Array) -> tuple[Solution, Solution]:
    """A mapped axis becomes more lanes."""

    def merge(operand: jax.Array, is_batched: bool) -> jax.Array:
        stacked = operand if is_batched else jnp.broadcast_to(operand[None], (axis_size, *operand.shape))
        lanes_last = jnp.moveaxis(stacked, 0, -2)
        return lanes_last.reshape(*lanes_last.shape[:-2], -1)

    def split(result: jax.Array) -> jax.Array:
        return jnp.moveaxis(result.reshape(*result.shape[:-1], axis_size, -1), -2, 0)

    merged = _solve_lanes(*map(merge, operands, batched))
    return jax.tree.map(split, merged), jax.tree.map(lambda _: True, merged)


def _block_size(matrix: jax.Array) -> int:
    """How many lanes a CPU should work on at a time: about as many as its cache holds, a power of two."""
    rows, variables = matrix.shape[0], matrix.shape[0] + matrix.shape[1]
    lane_bytes = matrix.dtype.itemsize * (rows * variables + 3 * rows * rows + 12 * variables)
    return 1 << max(5, ((1 << 16) // lane_bytes).bit_length() - 1)


def _solve_in_blocks(*operands: jax.Array) -> Solution:
    """``_solve``, one block of lanes after the other, each for as many steps as its own slowest lane needs."""
    lanes, size = operands[-1].shape[-1], _block_size(operands[1])
    blocks = -(-lanes // size)

    def split(operand: jax.Array) -> jax.Array:
        padded = jnp.pad(operand, [(0, 0)] * (operand.ndim - 1) + [(0, blocks * size - lanes)])
        return jnp.moveaxis(padded.reshape(*operand.shape[:-1], blocks, size), -2, 0)

    def join(result: jax.Array) -> jax.Array:
        lanes_last = jnp.moveaxis(result, 0, -2)
        return lanes_last.reshape(*lanes_last.shape[:-2], -1)[..., :lanes]

    return jax.tree.map(join, jax.lax.map(lambda block: _solve(*block), tuple(map(split, operands))))


def _solve(
    objective: jax.Array,
    matrix: jax.Array,
    bound: jax.Array,
    upper: jax.Array,
    slack: jax.Array,
    limit: jax.Array,
) -> Solution:
    """All lanes in step with each other."""
    stored = storage(surely(upper[0]))
    proper = stored(lambda: _proper(objective, matrix, bound, upper, slack))
    objective, matrix, bound, upper, slack = stored(lambda: _sanitised(proper, objective, matrix, bound, upper, slack))
    program, row_scale, column_scale, unit = _scaled(objective, matrix, bound, upper, slack, stored)
    state = _simplex(program, objective > 0, limit, stored)
    scaled_x, price = _vertex(program, state, stored)
    x = stored(lambda: jnp.clip(scaled_x * column_scale, 0, upper))
    stuck = state.status == Status.INFEASIBLE
    hopeless = stored(lambda: stuck & (_residual(matrix, bound, slack, x) > _forgiven(bound.dtype)))

    def mended() -> jax.Array:
        scaled = _least_violation(program, objective > 0, jnp.where(hopeless, limit, 0), stored)
        return jnp.where(hopeless[None], jnp.clip(scaled * column_scale, 0, upper), x)

    x = jax.lax.cond(jnp.any(hopeless), mended, lambda: x)
    residual = stored(lambda: _residual(matrix, bound, slack, x))
    status = jnp.where(stuck & ~hopeless, Status.OPTIMAL, state.status)
    spoilt = (status == Status.OPTIMAL) & (residual > _forgiven(bound.dtype))
    status = jnp.where(spoilt, Status.STEP_LIMIT, status)
    return Solution(
        x=x,
        value=_total(objective * x),
        status=jnp.where(proper, status, Status.INFEASIBLE).astype(jnp.int32),
        dual=jnp.where(slack > 0, jnp.maximum(price, 0), price) * row_scale * unit[None],
        residual=jnp.where(proper, residual, 1),
        steps=state.steps,
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
    """The operands without improper lanes, idle rows and fixed variables."""
    idle = bound == jnp.inf
    live = proper[None] & (upper > 0)
    bound = jnp.where(proper[None] & ~idle, bound, 0)
    matrix = jnp.where(live[None] & ~idle[:, None], matrix, 0)
    slack = jnp.where(proper[None], slack, jnp.inf)
    return jnp.where(live, objective, 0), matrix, bound, jnp.where(live, upper, 0), slack


def _scaled(
    objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array, slack: jax.Array, stored: Stored
) -> tuple[_Program, jax.Array, jax.Array, jax.Array]:
    """The LP in well-scaled units, with slacks, and the scales: rows [m, L], columns [n, L], objective [L].

    Geometric-mean equilibration (Fulkerson and Wolfe 1962), rounded to powers of two: multiplying by them is exact.
    """
    row_scale, column_scale = _equilibration(jnp.abs(matrix), stored)
    matrix = stored(lambda: matrix * row_scale[:, None] * column_scale[None])
    bound, objective, upper = stored(lambda: (bound * row_scale, objective * column_scale, upper / column_scale))
    unit = stored(lambda: _power_of_two(_largest(jnp.abs(objective))))
    # No point in the box needs more slack than this, so the bound is idle; it only makes the slack a boxed variable.
    idle = 1 + jnp.maximum(bound - _times(jnp.minimum(matrix, 0), upper), 0)
    identity = jnp.eye(len(bound), dtype=bound.dtype)[:, :, None]
    program = _Program(
        objective=jnp.concatenate([objective / unit[None], jnp.zeros_like(bound)]),
        matrix=jnp.concatenate([matrix, jnp.broadcast_to(identity, (len(bound), *bound.shape))], axis=1),
        bound=bound,
        upper=jnp.concatenate([upper, jnp.minimum(idle, slack * row_scale)]),
    )
    return stored(lambda: (program, row_scale, column_scale, unit))


def _equilibration(size: jax.Array, stored: Stored) -> tuple[jax.Array, jax.Array]:
    """Scales of rows [m, L] and columns [n, L] that bring the non-zero sizes [m, n, L] near 1 and none far above."""
    column_scale = jnp.ones_like(size[0])
    for _ in range(2):
        row_scale = 1 / stored(partial(_middle, size, column_scale[None], 1))
        column_scale = 1 / stored(partial(_middle, size, row_scale[:, None], 0))
    return 1 / stored(lambda: _power_of_two(_largest(size * column_scale[None], 1))), column_scale


def _simplex(program: _Program, at_upper: jax.Array, limit: jax.Array, stored: Stored) -> _State:
    """The final state of the dual simplex from the slack basis."""
    rest = jnp.concatenate([at_upper, jnp.zeros_like(program.bound, bool)])
    state = _slack_basis(program, rest)
    patience = _patience(len(program.upper))

    def running(state: _State) -> jax.Array:
        return jnp.any((state.status == Status.STEP_LIMIT) & (state.steps < limit))

    def step(state: _State) -> _State:
        return _exchange(program, state, limit, patience, stored)

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


def _point(program: _Program, state: _State, stored: Stored) -> _Point:
    """The basic solution, from the data: only the inverse comes from earlier steps. Prices are refined once."""
    tolerance = _rounding(program.bound.dtype)
    price = stored(lambda: _total(state.objective[:, None] * state.inverse))
    price = _refined(state, price, stored)
    load = stored(lambda: _total(jnp.abs(state.objective[:, None] * state.inverse)))
    reduced = stored(lambda: _reduced(program, state, price, load))
    at_upper = (reduced > 0) | (state.at_upper & (reduced == 0))
    resting = stored(lambda: jnp.where(at_upper & ~state.basic, program.upper, 0))
    right = stored(lambda: program.bound - _times(program.matrix, resting))
    value = stored(lambda: _times(state.inverse, right))
    size = stored(lambda: jnp.abs(program.bound) + _times(jnp.abs(program.matrix), resting))
    load = stored(lambda: size + _times(jnp.abs(state.basis), jnp.abs(value)))
    slop = stored(lambda: tolerance * _times(jnp.abs(state.inverse), load))
    return _Point(price=price, reduced=reduced, at_upper=at_upper, resting=resting, right=right, value=value, slop=slop)


def _refined(state: _State, price: jax.Array, stored: Stored) -> jax.Array:
    """Prices [m, L] nearer to those that pay for the basic variables, which rows that are almost parallel spoil."""
    unpaid = stored(lambda: state.objective - _total(state.basis * price[:, None]))
    return stored(lambda: price + _total(unpaid[:, None] * state.inverse))


def _reduced(program: _Program, state: _State, price: jax.Array, load: jax.Array) -> jax.Array:
    """Reduced costs [N, L], given the refined prices [m, L] and the sums of their terms' absolute values [m, L].

    What rounding may have made is 0: a short sum's error, and the prices', which after refinement is some units in the
    last place of their terms. Zeros that are none let the method go in circles, and so do signs that are noise; who
    goes on for too long is no longer given the benefit of the doubt.
    """
    reduced = program.objective - _total(price[:, None] * program.matrix)
    size = jnp.abs(price) + load / _GENEROUS
    noise = jnp.abs(program.objective) + _total(size[:, None] * jnp.abs(program.matrix))
    patient = state.steps < _patience(len(program.upper))
    noise = jnp.where(patient[None], _rounding(price.dtype) * noise, 0)
    return jnp.where(state.basic | (jnp.abs(reduced) <= noise), 0, reduced)


def _exchange(program: _Program, state: _State, limit: jax.Array, patience: int, stored: Stored) -> _State:
    """One step: recompute the point, choose a row that leaves and a column that enters."""
    point = _point(program, state, stored)
    cautious = state.steps >= patience
    row, shortfall, rising = _leaving_row(state, point, cautious, stored)
    push = _push(program, state, point, row, rising, stored)
    column, flipped = _entering_column(program, point, push, shortfall, cautious, stored)
    running = (state.status == Status.STEP_LIMIT) & (state.steps < limit)
    wrong, found = shortfall > 0, column >= 0
    status = jnp.where(wrong, Status.INFEASIBLE, Status.OPTIMAL)
    status = jnp.where(running & ~(wrong & found), status, state.status).astype(jnp.int32)
    pivoting = stored(lambda: running & wrong & found)
    moved = _pivoted(program, state, row, column, stored)
    leaving = _indices(flipped) == _pick(state.columns, row)[None]
    moved = replace(moved, at_upper=jnp.where(leaving, ~rising[None], point.at_upper ^ flipped))

    def choose(new: jax.Array, old: jax.Array) -> jax.Array:
        return jnp.where(pivoting.reshape((1,) * (new.ndim - 1) + (-1,)), new, old)

    return replace(jax.tree.map(choose, moved, state), status=status)


def _leaving_row(
    state: _State, point: _Point, cautious: jax.Array, stored: Stored
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The row [m, L] (one-hot) furthest out of its box, by how much [L] (0: none is), and whether it must rise [L]."""
    excess = stored(lambda: jnp.maximum(-point.value, point.value - state.upper))
    wrong = excess > point.slop

    def score() -> jax.Array:
        steepness = _total(state.inverse * state.inverse, 1)
        careful = 1 / (1 + state.columns.astype(excess.dtype))
        return jnp.where(wrong, jnp.where(cautious[None], careful, excess * excess / steepness), -1)

    scores = stored(score)
    row = stored(lambda: _first(scores == _largest(scores)[None]))
    return stored(lambda: (row, _pick(jnp.where(wrong, excess, 0), row), _pick(point.value, row) < 0))


def _push(
    program: _Program, state: _State, point: _Point, row: jax.Array, rising: jax.Array, stored: Stored
) -> jax.Array:
    """How much each variable [N, L] mends the row per unit that it leaves its bound; 0 where it does not."""
    weights = stored(lambda: _pick(state.inverse, row[:, None]))
    heaviest = stored(lambda: _largest(jnp.abs(weights)))  # no weight is more exact than this one

    def push() -> jax.Array:
        alpha = _total(weights[:, None] * program.matrix)
        noise = _rounding(weights.dtype) * heaviest[None] * _total(jnp.abs(program.matrix))
        gain = jnp.where(point.at_upper == rising[None], alpha, -alpha)
        return jnp.where(~state.basic & (program.upper > 0) & (gain > noise), gain, 0)

    return stored(push)


def _entering_column(
    program: _Program, point: _Point, push: jax.Array, shortfall: jax.Array, cautious: jax.Array, stored: Stored
) -> tuple[jax.Array, jax.Array]:
    """The index of the column that enters [L], -1 for none, and those that flip to their other bound on the way [N, L].

    The bound-flipping ratio test: columns in the order of their ratios are flipped as long as flipping all earlier ones
    leaves a shortfall; the next one enters, or a slightly earlier one if its own push would make a poor pivot.
    """
    eligible = push > 0
    ratio = stored(lambda: jnp.where(eligible, jnp.abs(point.reduced) / jnp.where(eligible, push, 1), jnp.inf))
    reach = stored(lambda: push * program.upper)
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


def _passable(ratio: jax.Array, reach: jax.Array, shortfall: jax.Array, stored: Stored) -> jax.Array:
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


def _pivoted(program: _Program, state: _State, row: jax.Array, column: jax.Array, stored: Stored) -> _State:
    """The state after the variable ``column`` has taken the place of ``row`` in the basis."""
    index = _indices(program.upper)
    chosen = index == column[None]
    entering = stored(lambda: _pick(program.matrix, chosen[None], axis=1))
    direction = stored(lambda: _times(state.inverse, entering))
    pivot = _pick(direction, row)
    pivot_row = stored(lambda: _pick(state.inverse, row[:, None]) / jnp.where(pivot == 0, 1, pivot)[None])
    basis = stored(lambda: jnp.where(row[None], entering[:, None], state.basis))
    inverse = stored(
        lambda: jnp.where(row[:, None], pivot_row[None], state.inverse - direction[:, None] * pivot_row[None])
    )
    leaving = index == _pick(state.columns, row)[None]
    return replace(
        state,
        columns=jnp.where(row, column[None], state.columns),
        basic=(state.basic & ~leaving) | chosen,
        basis=basis,
        inverse=_corrected(inverse, basis, stored),
        objective=jnp.where(row, _pick(program.objective, chosen)[None], state.objective),
        upper=jnp.where(row, _pick(program.upper, chosen)[None], state.upper),
        steps=state.steps + 1,
    )


def _corrected(inverse: jax.Array, basis: jax.Array, stored: Stored) -> jax.Array:
    """One Newton-Schulz step towards the inverse of ``basis``, unless ``inverse`` is too far off for it to converge."""
    identity = jnp.eye(len(basis), dtype=basis.dtype)[:, :, None]
    error = stored(lambda: identity - _matmul(basis, inverse))
    converging = stored(lambda: _largest(_total(jnp.abs(error))) < 0.5)
    return stored(lambda: inverse + jnp.where(converging[None, None], _matmul(inverse, error), 0))


def _vertex(program: _Program, state: _State, stored: Stored) -> tuple[jax.Array, jax.Array]:
    """The structural variables [n, L], refined twice, and the row prices [m, L] of the final basis."""
    point = _point(program, state, stored)
    missing = stored(lambda: point.right - _times(state.basis, point.value))
    nearer = stored(lambda: point.value + _times(state.inverse, missing))
    still_missing = stored(lambda: point.right - _times(state.basis, nearer))
    value = stored(lambda: nearer + _times(state.inverse, still_missing))
    snapped = jnp.where(jnp.abs(value) <= point.slop, 0, value)  # so that a row of zeros is met exactly
    snapped = jnp.where(jnp.abs(snapped - state.upper) <= point.slop, state.upper, snapped)
    n = len(point.resting) - len(value)

    def placed(basic: jax.Array) -> jax.Array:
        x = point.resting
        for k in range(len(basic)):
            x = jnp.where(_indices(x) == state.columns[k][None], basic[k][None], x)
        return x[:n]

    exact, plain = stored(lambda: (placed(snapped), jnp.clip(placed(value), 0, program.upper[:n])))
    # In a nearly singular basis the rounding bound is wide, and snapping by that much would break other rows.
    rows = program.matrix[:, :n], program.bound, program.upper[n:]
    worse = stored(lambda: _residual(*rows, exact) > _forgiven(value.dtype) / 4)
    return jnp.where(worse[None], plain, exact), point.price


def _least_violation(program: _Program, at_upper: jax.Array, limit: jax.Array, stored: Stored) -> jax.Array:
    """The point [n, L] of least total violation of the scaled rows."""
    n = len(at_upper)
    matrix, slack = program.matrix[:, :n], program.matrix[:, n:]
    above = jnp.maximum(_times(jnp.maximum(matrix, 0), program.upper[:n]) - program.bound, 0)
    lowest = _times(jnp.minimum(matrix, 0), program.upper[:n])
    below = jnp.maximum(program.bound - program.upper[n:] - lowest, 0)  # 0 where the slack is as good as unlimited
    price = -jnp.ones_like(above)
    elastic = _Program(
        objective=jnp.concatenate([jnp.zeros_like(program.upper[:n]), price, price, jnp.zeros_like(above)]),
        matrix=jnp.concatenate([matrix, -slack, slack, slack], axis=1),
        bound=program.bound,
        upper=jnp.concatenate([program.upper[:n], above, below, program.upper[n:]]),
    )
    start = jnp.concatenate([at_upper, jnp.zeros_like(above, bool), jnp.zeros_like(below, bool)])
    x, _ = _vertex(elastic, _simplex(elastic, start, limit, stored), stored)
    return x[:n]


def _residual(matrix: jax.Array, bound: jax.Array, slack: jax.Array, x: jax.Array) -> jax.Array:
    """The largest violation [L] of a row, as a share of the size of its terms."""
    size = jnp.abs(bound) + _times(jnp.abs(matrix), x)
    excess = _times(matrix, x) - bound
    return _largest(jnp.maximum(jnp.maximum(excess, -excess - slack), 0) / jnp.where(size > 0, size, 1))


def _patience(num_variables: int) -> int:
    """Steps after which only lowest indices are chosen, so that no cycle can last (Bland 1977)."""
    return 3 * num_variables + 10


def _rounding(dtype: jnp.dtype) -> float:
    """A generous multiple of the rounding error of a short sum, relative to the sum of its absolute terms."""
    return _GENEROUS * float(jnp.finfo(dtype).eps)


def _forgiven(dtype: jnp.dtype) -> float:
    """The relative violation below which a row without a column to mend it counts as satisfied."""
    return 1e-9 if dtype == jnp.float64 else 2e-5


def _middle(size: jax.Array, scale: jax.Array, axis: int) -> jax.Array:
    """The geometric middle of the non-zero scaled sizes along an axis, as a power of two; 1 where all are zero."""
    scaled = size * scale
    least = _smallest(jnp.where(scaled > 0, scaled, jnp.inf), axis)
    return _power_of_two(jnp.sqrt(_largest(scaled, axis)) * jnp.sqrt(jnp.where(least < jnp.inf, least, 0)))


def _power_of_two(size: jax.Array) -> jax.Array:
    """The power of two nearest to ``size``; 1 for 0."""
    limits = jnp.finfo(size.dtype)
    bounded = jnp.clip(size, 2.0 ** (limits.minexp // 2), 2.0 ** (limits.maxexp // 2))
    return jnp.where(size > 0, jax.lax.reduce_precision(bounded, limits.nexp, 0), 1)


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
