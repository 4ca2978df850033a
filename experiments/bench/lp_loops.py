"""Rivals of the LP rules' loops: COPAC's LP and StageRoute's, round by round, without this project's engine.

Both rules are those of ``bandits.routing`` with their defaults, where the total demand is known exactly (one task a
round). A round's LP is, with RHO, G, CAP as in ``bandits.targets`` and U, L the confidence bounds:

    max U_r·x - 5 z   s.t.   L_c·x <= RHO,   U_g·x + z >= G,   Σ x <= 1 (StageRoute: = 1),   0 <= x <= CAP, z >= 0.

``highs_loop`` is what one writes first: Python, and HiGHS for every LP; ``highspy_loop`` is its second version.
``numba_simplex`` is what one writes for speed:
machine code, all cores, a simplex method of its own that starts each round from the last round's basis.

Where an LP has several best mixes a rival may choose another one than the engine: same rule, different luck.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from scipy.optimize import linprog

from experiments.bench.instance import Plain, Totals

PENALTY = 5.0
RULES = ("lp_resolving", "stageroute")

_ROWS = 3  # spending, service, sum of the shares
_SINGULAR = 1e-10  # determinant of a basis, whose entries are at most 1
_PIVOT, _FEASIBLE, _DUAL_FEASIBLE = 1e-9, 1e-10, 1e-12
_PATIENCE, _MOST_STEPS = 40, 400  # steps until lowest indices are chosen, which cannot cycle; until it is given up
_INFEASIBLE, _GIVEN_UP = -1, -2
_BLOCK, _WORTH_A_CORE = 16, 1000  # LPs a task, and a core, when there is a batch of them


def highs_loop(instance: Plain, runs: int, seed: int, *, rule: str = "lp_resolving") -> Totals:
    """A Python loop over runs and rounds that hands each LP to HiGHS through ``scipy.optimize.linprog``.

    About a millisecond a round, nearly all of it SciPy's: for few runs and rounds. One core.
    """
    return _played(instance, runs, seed, rule, highs_mix)


def highspy_loop(instance: Plain, runs: int, seed: int, *, rule: str = "lp_resolving") -> Totals:
    """The same loop, but with HiGHS's own interface: one model for all rounds, changed in place, warm basis.

    Some twenty times faster than ``highs_loop``. One core. Needs the extra ``bench``.
    """
    return _played(instance, runs, seed, rule, HighspyMix(len(instance.caps)))


def numba_simplex(instance: Plain, runs: int, seed: int, *, rule: str = "lp_resolving") -> Totals:
    """Numba over all cores, a run a task: float64, no allocation in the loop, one model's bounds renewed a round.

    The LP is solved by a dual simplex method for three rows and boxed variables, whose bases are inverted in closed
    form. A round starts from the last one's basis, which changed data leave dual feasible once variables are moved to
    their other bound; most rounds only price. The first call compiles. Needs the extra ``bench``.
    """
    totals = np.zeros((4, runs))
    tables = np.ascontiguousarray(instance.cost_table)
    gamma = instance.confidence * np.log(3.0 * len(instance.caps) * instance.horizon)
    limits = (instance.budget, instance.target, instance.horizon, float(gamma))
    models = (instance.reward, instance.cost_bound, tables, instance.service, instance.caps)
    given_up = _compiled()(*models, *limits, _serves_all(rule), np.uint64(seed), totals)
    if given_up:
        raise ArithmeticError(f"{given_up} linear programs were not solved within {_MOST_STEPS} steps")
    return Totals(reward=totals[0], spent=totals[1], service=totals[2], served=totals[3])


def numba_batch(objective: np.ndarray, matrix: np.ndarray, bound: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """[B] values of max objective·x, matrix x <= bound, 0 <= x <= upper with three rows, by the same simplex method.

    Each LP starts from its slacks, since it has no last round. Small batches are not worth a second core. NaN where
    there is no solution.
    """
    numba, values = _numba(), np.empty(len(objective))
    threads = numba.get_num_threads()
    numba.set_num_threads(min(threads, 1 + len(objective) // _WORTH_A_CORE))
    try:
        _compiled_batch()(objective, matrix, bound, upper, values)
    finally:
        numba.set_num_threads(threads)
    return values


def _serves_all(rule: str) -> bool:
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; it must be one of {RULES}")
    return rule == "stageroute"


# HiGHS for every round.
_Mix: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, float, float, np.ndarray, bool], np.ndarray]


def _played(instance: Plain, runs: int, seed: int, rule: str, mix: _Mix) -> Totals:
    rows = [_play(instance, np.random.default_rng([seed, run]), _serves_all(rule), mix) for run in range(runs)]
    reward, spent, service, served = np.array(rows, float).reshape(runs, 4).T
    return Totals(reward=reward, spent=spent, service=service, served=served)


def _play(
    instance: Plain, generator: np.random.Generator, serve_all: bool, mix: _Mix
) -> tuple[float, float, float, int]:
    """(reward, spent, service, served) of one run. No LP is solved while ``lp_resolving`` has models to try."""
    models, horizon = len(instance.caps), instance.horizon
    gamma = instance.confidence * np.log(3.0 * models * horizon)
    cost_bound = instance.cost_bound.tolist()
    upper_r, lower_c, upper_g = np.ones(models), np.zeros(models), np.ones(models)
    count, mean = np.zeros(models, int), np.zeros((3, models))
    reward, spent, service = 0.0, 0.0, 0.0
    for t in range(horizon):
        caps = np.where(instance.cost_bound <= instance.budget - spent, instance.caps, 0.0)
        untried = np.flatnonzero((count == 0) & (caps > 0))
        if len(untried) and not serve_all:
            shares = np.where(np.arange(models) == untried[0], caps, 0.0)
        elif serve_all:
            spending = min(instance.budget / horizon, 1.0)
            shares = mix(upper_r, lower_c, upper_g, spending, instance.target, caps, True)
        else:
            spending = min((instance.budget - spent) / (horizon - t), 1.0)
            wanted = min(max((instance.target * horizon - service) / (horizon - t), 0.0), 1.0)
            shares = mix(upper_r, lower_c, upper_g, spending, wanted, caps, False)
        model = int(np.searchsorted(np.cumsum(shares), generator.random(), side="right"))
        if model == models or spent + cost_bound[model] > instance.budget:
            continue
        won = float(generator.random() < instance.reward[model])
        cost = float(_sampled(instance.cost_table[model], generator.random(), cost_bound[model]))
        met = float(generator.random() < instance.service[model])
        reward, spent, service = reward + won, spent + cost, service + met
        count[model] += 1
        upper_r[model] = _renew(mean[0], model, count[model], won, 1.0, gamma, 1.0)
        lower_c[model] = _renew(mean[1], model, count[model], cost, cost_bound[model], gamma, -1.0)
        upper_g[model] = _renew(mean[2], model, count[model], met, 1.0, gamma, 1.0)
    return reward, spent, service, int(count.sum())


def highs_mix(
    reward: np.ndarray,
    cost: np.ndarray,
    service: np.ndarray,
    spending: float,
    wanted: float,
    caps: np.ndarray,
    serve_all: bool,
) -> np.ndarray:
    """[M] the best mix of a round by HiGHS; where all are to be served and the budget forbids it, the cheapest."""
    wanted = min(wanted, float(np.max(service, where=caps > 0, initial=0.0)))
    objective = np.append(-reward, PENALTY)
    rows = np.array([[*cost, 0.0], [*-service, -1.0], [*np.ones(len(caps)), 0.0]])
    box = np.stack([np.zeros(len(caps) + 1), np.append(caps, wanted)], axis=1)
    if serve_all:
        total = min(float(caps.sum()), 1.0)
        solved = linprog(objective, rows[:2], [spending, -wanted], rows[2:], [total], box, method="highs")
        if solved.status == 2:
            return _cheapest_mix(cost, caps)
    else:
        solved = linprog(objective, rows, [spending, -wanted, 1.0], bounds=box, method="highs")
    if solved.status != 0:
        raise ArithmeticError(f"HiGHS: {solved.message}")
    return np.clip(solved.x[:-1], 0.0, caps)


class HighspyMix:
    """``highs_mix`` by one HiGHS model, in which only what differs from the last call is changed."""

    def __init__(self, models: int) -> None:
        import highspy  # type: ignore[import-untyped, import-not-found]

        solver: Any = highspy.Highs()
        self._solver, self._infeasible = solver, highspy.HighsModelStatus.kInfeasible
        self._optimal, self._unlimited = highspy.HighsModelStatus.kOptimal, highspy.kHighsInf
        for option, value in {"output_flag": False, "presolve": "off", "solver": "simplex", "threads": 1}.items():
            solver.setOptionValue(option, value)
        for _ in range(models + 1):
            solver.addVar(0.0, 1.0)
        solver.changeColCost(models, PENALTY)
        entries = np.arange(models + 1, dtype=np.int32), np.append(np.full(models, 1e-3), -1.0)
        solver.addRow(-self._unlimited, 1.0, models, entries[0][:models], entries[1][:models])
        solver.addRow(-self._unlimited, 0.0, models + 1, *entries)
        solver.addRow(-self._unlimited, 1.0, models, entries[0][:models], np.ones(models))
        self._columns, self._rows = entries[0], np.arange(3, dtype=np.int32)
        self._given = np.full((3, models), np.nan)

    def __call__(
        self,
        reward: np.ndarray,
        cost: np.ndarray,
        service: np.ndarray,
        spending: float,
        wanted: float,
        caps: np.ndarray,
        serve_all: bool,
    ) -> np.ndarray:
        """[M] the best mix of a round; where all are to be served and the budget forbids it, the cheapest."""
        solver, models = self._solver, len(caps)
        given = np.stack([reward, cost, service])
        for m in np.flatnonzero(np.any(given != self._given, axis=0)).tolist():
            solver.changeColCost(m, -reward[m])
            solver.changeCoeff(0, m, cost[m])
            solver.changeCoeff(1, m, -service[m])
        self._given = given
        wanted = min(wanted, float(np.max(service, where=caps > 0, initial=0.0)))
        solver.changeColsBounds(models + 1, self._columns, np.zeros(models + 1), np.append(caps, wanted))
        total = min(float(caps.sum()), 1.0) if serve_all else 1.0
        lower = np.array([-self._unlimited, -self._unlimited, total if serve_all else -self._unlimited])
        solver.changeRowsBounds(3, self._rows, lower, np.array([spending, -wanted, total]))
        solver.run()
        status = solver.getModelStatus()
        if serve_all and status == self._infeasible:
            return _cheapest_mix(cost, caps)
        if status != self._optimal:
            raise ArithmeticError(f"HiGHS: {solver.modelStatusToString(status)}")
        return np.clip(solver.getSolution().col_value[:models], 0.0, caps)


def _cheapest_mix(cost: np.ndarray, caps: np.ndarray) -> np.ndarray:
    """[M] all to the cheapest models, each up to its cap."""
    order = np.argsort(cost, kind="stable")
    before = np.cumsum(caps[order]) - caps[order]
    shares = np.zeros_like(caps)
    shares[order] = np.clip(1.0 - before, 0.0, caps[order])
    return shares


def _sampled(table: np.ndarray, uniform: float, bound: float) -> float:
    """One draw from a quantile table [knots]."""
    position = uniform * (len(table) - 1)
    below = int(position)
    return min(table[below] + (table[below + 1] - table[below]) * (position - below), bound)


# Numba. The functions below are compiled as they stand; they also run as plain Python, where nothing is fast.
@cache
def _numba() -> Any:
    """Numba, told that it may compile what it is asked to call below."""
    import numba  # type: ignore[import-untyped, import-not-found]
    from numba.extending import register_jitable  # type: ignore[import-untyped, import-not-found]

    inner = (_play_fast, _simplex, _invert, _leaving, _entering, _shares, _cheapest, _renew, _mixed, _uniform, _sampled)
    for function in inner:
        register_jitable(error_model="numpy")(function)
    return numba


@cache
def _compiled_batch() -> Any:
    numba = _numba()
    simplex, prange = _simplex, numba.prange

    @numba.njit(parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, misc, unused-ignore]
    def solve(objective: Any, matrix: Any, bound: Any, upper: Any, values: Any) -> Any:
        number, slack = objective.shape
        blocks = (number + _BLOCK - 1) // _BLOCK
        for block in prange(blocks):
            size = slack + _ROWS
            cost, rows, box = np.zeros(size), np.zeros((_ROWS, size)), np.ones(size)
            inverse, value = np.zeros((_ROWS, _ROWS)), np.zeros(_ROWS)
            reduced, push = np.zeros(size), np.zeros(size)
            basis, basic, at_upper = np.zeros(_ROWS, np.int64), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
            for i in range(_ROWS):
                rows[i, slack + i] = 1.0
            for k in range(block * _BLOCK, min((block + 1) * _BLOCK, number)):
                basic[:] = False
                for i in range(_ROWS):
                    basis[i], basic[slack + i] = slack + i, True
                cost[:slack], rows[:, :slack], box[:slack] = objective[k], matrix[k], upper[k]
                for i in range(_ROWS):  # the most that is left of a row
                    box[slack + i] = bound[k, i]
                    for j in range(slack):
                        box[slack + i] -= min(rows[i, j], 0.0) * box[j]
                steps = simplex(cost, rows, box, bound[k], basis, basic, at_upper, inverse, value, reduced, push, slack)
                values[k] = np.nan
                if steps >= 0:
                    values[k] = 0.0
                    for j in range(slack):
                        if at_upper[j] and not basic[j]:
                            values[k] += cost[j] * box[j]
                    for i in range(_ROWS):
                        values[k] += cost[basis[i]] * value[i]

    return solve


@cache
def _compiled() -> Any:
    """The whole simulation in machine code: (models, limits, rule, seed, totals [4, runs]) -> LPs given up."""
    numba = _numba()
    play_fast, prange = _play_fast, numba.prange

    @numba.njit(parallel=True, error_model="numpy")  # type: ignore[untyped-decorator, misc, unused-ignore]
    def simulate(
        reward: Any,
        cost_bound: Any,
        tables: Any,
        service: Any,
        caps: Any,
        budget: Any,
        target: Any,
        horizon: Any,
        gamma: Any,
        serve_all: Any,
        seed: Any,
        totals: Any,
    ) -> Any:
        given_up = 0
        for run in prange(totals.shape[1]):
            given_up += play_fast(
                reward, cost_bound, tables, service, caps, budget, target, horizon, gamma, serve_all, seed, run, totals
            )
        return given_up

    return simulate


def _play_fast(
    reward: np.ndarray,
    cost_bound: np.ndarray,
    tables: np.ndarray,
    service: np.ndarray,
    caps: np.ndarray,
    budget: float,
    target: float,
    horizon: int,
    gamma: float,
    serve_all: bool,
    seed: np.uint64,
    run: int,
    totals: np.ndarray,
) -> int:
    """Play one run into ``totals[:, run]``; returns how many LPs were given up.

    The LP's variables are the M shares, the missed service z, and a slack a row: N = M + 4 columns. All that a round
    changes in it is the column of the model that served last, right-hand sides and a few limits.
    """
    models = len(caps)
    z, slack, size = models, models + 1, models + 1 + _ROWS
    objective, matrix, upper = np.zeros(size), np.zeros((_ROWS, size)), np.zeros(size)
    right, inverse, value = np.zeros(_ROWS), np.zeros((_ROWS, _ROWS)), np.zeros(_ROWS)
    reduced, push, shares = np.zeros(size), np.zeros(size), np.zeros(models)
    basis, basic, at_upper = np.zeros(_ROWS, np.int64), np.zeros(size, np.bool_), np.zeros(size, np.bool_)
    count, mean = np.zeros(models, np.int64), np.zeros((3, models))
    for m in range(models):  # never tried: [0, ceiling]
        objective[m], matrix[0, m], matrix[1, m], matrix[2, m], upper[m] = 1.0, 0.0, -1.0, 1.0, caps[m]
    objective[z], matrix[1, z] = -PENALTY, -1.0
    for i in range(_ROWS):
        matrix[i, slack + i], upper[slack + i] = 1.0, 1.0  # no slack can be larger, for no share or service is
        basis[i], basic[slack + i] = slack + i, True
    if serve_all:
        upper[slack + 2] = 0.0
    state = _mixed(_mixed(seed) + np.uint64(run))
    earned, spent, met, served, num_tried, given_up = 0.0, 0.0, 0.0, 0, 0, 0
    for t in range(horizon):
        left = budget - spent
        room = 0.0
        for m in range(models):
            upper[m] = caps[m] if cost_bound[m] <= left else 0.0
            room += upper[m]
        trial = -1
        if num_tried < models and not serve_all:
            for m in range(models):
                if count[m] == 0 and upper[m] > 0.0:
                    trial = m
                    break
        if trial >= 0:
            shares[:] = 0.0
            shares[trial] = upper[trial]
        else:
            if serve_all:
                spending, wanted = min(budget / horizon, 1.0), target
            else:
                spending = min(left / (horizon - t), 1.0)
                wanted = min(max((target * horizon - met) / (horizon - t), 0.0), 1.0)
            best = 0.0
            for m in range(models):
                if upper[m] > 0.0:
                    best = max(best, -matrix[1, m])
            wanted = min(wanted, best)
            upper[z], upper[slack] = wanted, spending
            right[0], right[1], right[2] = spending, -wanted, (min(room, 1.0) if serve_all else 1.0)
            steps = _simplex(
                objective, matrix, upper, right, basis, basic, at_upper, inverse, value, reduced, push, slack
            )
            if steps == _GIVEN_UP:
                given_up += 1
            if steps == _INFEASIBLE:
                _cheapest(matrix, upper, shares)
            else:
                _shares(upper, basis, basic, at_upper, value, shares)
        state += np.uint64(0x9E3779B97F4A7C15)
        below = _uniform(state)
        model = -1
        for m in range(models):
            below -= shares[m]
            if below < 0.0:
                model = m
                break
        if model < 0 or spent + cost_bound[model] > budget:
            continue
        state += np.uint64(0x9E3779B97F4A7C15)
        won = 1.0 if _uniform(state) < reward[model] else 0.0
        state += np.uint64(0x9E3779B97F4A7C15)
        cost = _sampled(tables[model], _uniform(state), cost_bound[model])
        state += np.uint64(0x9E3779B97F4A7C15)
        kept = 1.0 if _uniform(state) < service[model] else 0.0
        earned, spent, met, served = earned + won, spent + cost, met + kept, served + 1
        num_tried += count[model] == 0
        count[model] += 1
        objective[model] = _renew(mean[0], model, count[model], won, 1.0, gamma, 1.0)
        matrix[0, model] = _renew(mean[1], model, count[model], cost, cost_bound[model], gamma, -1.0)
        matrix[1, model] = -_renew(mean[2], model, count[model], kept, 1.0, gamma, 1.0)
    totals[0, run], totals[1, run], totals[2, run], totals[3, run] = earned, spent, met, served
    return given_up


def _renew(
    mean: np.ndarray, model: int, count: int, outcome: float, ceiling: float, gamma: float, sign: float
) -> float:
    """The model's upper (``sign`` 1) or lower (-1) bound after one more outcome; ``mean`` [M] is updated."""
    mean[model] += (outcome - mean[model]) / count
    share = gamma / count
    bound = mean[model] + sign * ceiling * (np.sqrt(share * mean[model] / ceiling) + share)
    return min(max(bound, 0.0), ceiling)


def _simplex(
    objective: np.ndarray,
    matrix: np.ndarray,
    upper: np.ndarray,
    right: np.ndarray,
    basis: np.ndarray,
    basic: np.ndarray,
    at_upper: np.ndarray,
    inverse: np.ndarray,
    value: np.ndarray,
    reduced: np.ndarray,
    push: np.ndarray,
    slack: int,
) -> int:
    """Exchanges until ``basis`` is optimal for max objective·x, matrix x = right, 0 <= x <= upper; negative: it failed.

    Bounded dual simplex, prices and point computed anew in each step. ``basis`` [3], ``basic`` and ``at_upper`` [N] are
    where the last LP ended, any will do; ``value`` [3] of the basic variables is left behind. Steepest edge, and the
    ratio test that lets variables pass to their other bound.
    """
    for step in range(_MOST_STEPS):
        singular = _invert(matrix, basis, inverse)
        if singular and step == 0:  # another model's column may have become this one's
            for i in range(_ROWS):
                basic[basis[i]] = False
            for i in range(_ROWS):
                basis[i] = slack + i
                basic[slack + i] = True
            _invert(matrix, basis, inverse)
        c_0, c_1, c_2 = objective[basis[0]], objective[basis[1]], objective[basis[2]]
        y_0 = c_0 * inverse[0, 0] + c_1 * inverse[1, 0] + c_2 * inverse[2, 0]
        y_1 = c_0 * inverse[0, 1] + c_1 * inverse[1, 1] + c_2 * inverse[2, 1]
        y_2 = c_0 * inverse[0, 2] + c_1 * inverse[1, 2] + c_2 * inverse[2, 2]
        b_0, b_1, b_2 = right[0], right[1], right[2]
        for j in range(len(objective)):
            reduced[j] = objective[j] - y_0 * matrix[0, j] - y_1 * matrix[1, j] - y_2 * matrix[2, j]
        for j in range(len(objective)):
            if basic[j]:
                continue
            if reduced[j] > _DUAL_FEASIBLE:
                at_upper[j] = True
            elif reduced[j] < -_DUAL_FEASIBLE:
                at_upper[j] = False
            if at_upper[j]:
                b_0 -= matrix[0, j] * upper[j]
                b_1 -= matrix[1, j] * upper[j]
                b_2 -= matrix[2, j] * upper[j]
        for i in range(_ROWS):
            value[i] = inverse[i, 0] * b_0 + inverse[i, 1] * b_1 + inverse[i, 2] * b_2
        row = _leaving(upper, basis, inverse, value, step >= _PATIENCE)
        if row < 0:
            return step
        column = _entering(matrix, upper, basic, at_upper, inverse, value, reduced, push, basis, row, step >= _PATIENCE)
        if column < 0:
            return _INFEASIBLE
        at_upper[basis[row]] = value[row] > 0.0
        basic[basis[row]], basic[column] = False, True
        basis[row] = column
    return _GIVEN_UP


def _invert(matrix: np.ndarray, basis: np.ndarray, inverse: np.ndarray) -> bool:
    """The inverse of three columns of ``matrix``, by cofactors; whether they are dependent."""
    a, b, c = basis[0], basis[1], basis[2]
    a_0, a_1, a_2 = matrix[0, a], matrix[1, a], matrix[2, a]
    b_0, b_1, b_2 = matrix[0, b], matrix[1, b], matrix[2, b]
    c_0, c_1, c_2 = matrix[0, c], matrix[1, c], matrix[2, c]
    x_0, x_1, x_2 = b_1 * c_2 - b_2 * c_1, b_2 * c_0 - b_0 * c_2, b_0 * c_1 - b_1 * c_0
    determinant = a_0 * x_0 + a_1 * x_1 + a_2 * x_2
    if abs(determinant) < _SINGULAR:
        return True
    scale = 1.0 / determinant
    inverse[0, 0], inverse[0, 1], inverse[0, 2] = x_0 * scale, x_1 * scale, x_2 * scale
    inverse[1, 0] = (c_1 * a_2 - c_2 * a_1) * scale
    inverse[1, 1] = (c_2 * a_0 - c_0 * a_2) * scale
    inverse[1, 2] = (c_0 * a_1 - c_1 * a_0) * scale
    inverse[2, 0] = (a_1 * b_2 - a_2 * b_1) * scale
    inverse[2, 1] = (a_2 * b_0 - a_0 * b_2) * scale
    inverse[2, 2] = (a_0 * b_1 - a_1 * b_0) * scale
    return False


def _leaving(upper: np.ndarray, basis: np.ndarray, inverse: np.ndarray, value: np.ndarray, cautious: bool) -> int:
    """The row furthest out of its box along its edge, or that of the lowest variable; -1 if none is."""
    row, most = -1, 0.0
    for i in range(_ROWS):
        excess = max(-value[i], value[i] - upper[basis[i]])
        if excess > _FEASIBLE:
            steepness = inverse[i, 0] ** 2 + inverse[i, 1] ** 2 + inverse[i, 2] ** 2
            score = 1.0 / (1.0 + basis[i]) if cautious else excess * excess / steepness
            if score > most:
                row, most = i, score
    return row


def _entering(
    matrix: np.ndarray,
    upper: np.ndarray,
    basic: np.ndarray,
    at_upper: np.ndarray,
    inverse: np.ndarray,
    value: np.ndarray,
    reduced: np.ndarray,
    push: np.ndarray,
    basis: np.ndarray,
    row: int,
    cautious: bool,
) -> int:
    """The column that takes the row's place, -1 for none; those that it passes on the way change their bound."""
    rising = value[row] < 0.0
    shortfall = -value[row] if rising else value[row] - upper[basis[row]]
    w_0, w_1, w_2 = inverse[row, 0], inverse[row, 1], inverse[row, 2]
    for j in range(len(push)):
        gain = w_0 * matrix[0, j] + w_1 * matrix[1, j] + w_2 * matrix[2, j]
        push[j] = gain if at_upper[j] == rising else -gain
    for j in range(len(push)):
        if basic[j] or upper[j] <= 0.0:
            push[j] = 0.0
    while True:
        column, least = -1, np.inf
        for j in range(len(push)):
            if push[j] > _PIVOT:
                ratio = abs(reduced[j]) / push[j]
                if ratio < least:
                    column, least = j, ratio
        if column < 0 or cautious:
            return column
        shortfall -= push[column] * upper[column]
        if shortfall <= 0.0:
            return column
        push[column] = 0.0
        at_upper[column] = not at_upper[column]


def _shares(
    upper: np.ndarray,
    basis: np.ndarray,
    basic: np.ndarray,
    at_upper: np.ndarray,
    value: np.ndarray,
    shares: np.ndarray,
) -> None:
    """The mix [M] of a basis."""
    for m in range(len(shares)):
        shares[m] = upper[m] if at_upper[m] and not basic[m] else 0.0
    for i in range(_ROWS):
        if basis[i] < len(shares):
            shares[basis[i]] = min(max(value[i], 0.0), upper[basis[i]])


def _cheapest(matrix: np.ndarray, upper: np.ndarray, shares: np.ndarray) -> None:
    """All to the cheapest models, each up to its cap."""
    shares[:] = 0.0
    room = 1.0
    while room > 0.0:
        cheapest, least = -1, np.inf
        for m in range(len(shares)):
            if upper[m] > 0.0 and shares[m] == 0.0 and matrix[0, m] < least:
                cheapest, least = m, matrix[0, m]
        if cheapest < 0:
            return
        shares[cheapest] = min(upper[cheapest], room)
        room -= shares[cheapest]


def _mixed(state: np.uint64) -> np.uint64:
    """A state's random word: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    word = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))


def _uniform(state: np.uint64) -> float:
    """In [0, 1), 53 random bits."""
    return float(_mixed(state) >> np.uint64(11)) * 2.0**-53
