"""Rivals of the solvers themselves: a batch of small linear programs, or of deployment problems, and nothing around it.

Every solver takes a whole batch as NumPy arrays and returns the objective values [B], so that what it costs can be
printed beside how far it is from HiGHS. Times are the caller's to take: what compiles does so in the first call of a
shape.
"""

import logging
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp

from bandits.solvers import lp
from bandits.solvers.support import Support, best_support
from experiments.bench import lp_loops

SIZES = ((11, 3), (16, 4), (32, 6), (64, 8))  # models, rows
DEPLOYMENTS = ((11, 3), (20, 5), (60, 5))  # models, most deployed

PENALTY = 5.0
MPAX_TOLERANCE, MPAX_ITERATIONS = 1e-6, 100_000


@dataclass(frozen=True, kw_only=True)
class Programs:
    """B linear programs: max objective·x, matrix x <= bound, 0 <= x <= upper."""

    objective: np.ndarray  # [B, n]
    matrix: np.ndarray  # [B, m, n]
    bound: np.ndarray  # [B, m]
    upper: np.ndarray  # [B, n]


@dataclass(frozen=True, kw_only=True)
class Deployments:
    """B deployment problems of M models, one resource and one service (``bandits.solvers.support``)."""

    reward: np.ndarray  # [B, M]
    cost: np.ndarray  # [B, M]
    budget: np.ndarray  # [B]
    throughput: np.ndarray  # [B, M]
    service: np.ndarray  # [B, M]
    target: np.ndarray  # [B]
    max_deployed: int


def instances(batch: int, n_models: int, rows: int, seed: int) -> Programs:
    """Random LPs as ``lp_resolving`` has them: resources, elastic targets (a further variable each), sum of the shares.

    Dear models are better and slower. Bounds are those after a hundred to ten thousand trials of each model, when one
    is at 1 now and then; the budget allows something between the cheapest models and the dearest.
    """
    rng = np.random.default_rng(seed)
    num_services = (rows - 1) // 2
    num_resources = rows - 1 - num_services
    quality = rng.uniform(0.2, 0.9, (batch, n_models))
    level = 3.0 / 10 ** rng.uniform(2, 4, (batch, 1, n_models))

    cost = np.exp(rng.normal(3 * (quality[:, None] - 0.9), 0.5, (batch, num_resources, n_models)))
    cost = 0.25 * cost / cost.max(axis=2, keepdims=True)
    service = np.clip(rng.normal(1.1 - 0.4 * quality[:, None], 0.15, (batch, num_services, n_models)), 0.05, 0.99)
    reward_upper = np.minimum(quality + np.sqrt(level[:, 0] * quality) + level[:, 0], 1)
    cost_lower = np.maximum(cost - 4 * cost * (np.sqrt(level / 4) + level), 0)  # the worst case is four times the mean
    service_upper = np.minimum(service + np.sqrt(level * service) + level, 1)
    cheap, dear = np.quantile(cost, 0.1, axis=2), np.quantile(cost, 0.9, axis=2)
    spending = cheap + rng.random((batch, num_resources)) * (dear - cheap)
    wanted = np.minimum(rng.uniform(0.6, 0.95, (batch, num_services)), service_upper.max(axis=2))
    caps = np.where(rng.random((batch, n_models)) < 0.4, 0.6, 1.0)
    ones = np.ones((batch, 1, n_models))
    slack_columns = np.zeros((batch, rows, num_services))
    slack_columns[:, num_resources : rows - 1] = -np.eye(num_services)
    return Programs(
        objective=np.concatenate([reward_upper, np.full((batch, num_services), -PENALTY)], axis=1),
        matrix=np.concatenate([np.concatenate([cost_lower, -service_upper, ones], axis=1), slack_columns], axis=2),
        bound=np.concatenate([spending, -wanted, np.ones((batch, 1))], axis=1),
        upper=np.concatenate([caps, wanted], axis=1),
    )


# Linear programs.
@jax.jit
def _maximize_all(objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array) -> jax.Array:
    solution = jax.vmap(lp.maximize)(objective, matrix, bound, upper)
    return jnp.where(solution.status == lp.Status.OPTIMAL, solution.value, jnp.nan)


def ours(programs: Programs, dtype: type = np.float32) -> np.ndarray:
    """``bandits.solvers.lp.maximize`` under jit and vmap, from the arrays on the host to the values on the host."""
    with jax.enable_x64(dtype == np.float64):
        return np.asarray(_maximize_all(*_operands(programs, dtype)))


def numba_three_rows(programs: Programs) -> np.ndarray:
    """The simplex method of ``lp_loops.numba_simplex``, over all cores: float64, and three rows only.

    Needs the extra ``bench``.
    """
    return lp_loops.numba_batch(*_fields(programs))


def highs_scipy(programs: Programs) -> np.ndarray:
    """``scipy.optimize.linprog`` (HiGHS), one LP after the other; presolve and all. NaN where it does not succeed."""
    values = np.full(len(programs.objective), np.nan)
    for k, (objective, matrix, bound, upper) in enumerate(zip(*_fields(programs), strict=True)):
        box = np.stack([np.zeros_like(upper), upper], axis=1)
        solved = linprog(-objective, matrix, bound, bounds=box, method="highs")
        values[k] = -solved.fun if solved.status == 0 else np.nan
    return values


def highspy_cold(programs: Programs) -> np.ndarray:
    """HiGHS through its own interface: one solver that is given one LP after the other, without presolve.

    What most of ``highs_scipy`` costs is SciPy and presolve. NaN where HiGHS does not succeed. Needs the extra
    ``bench``.
    """
    return _highspy(programs, warm=False)


def highspy_warm(programs: Programs) -> np.ndarray:
    """``highspy_cold``, but each solve starts from the last one's basis.

    Which pays where LPs are alike, as in consecutive rounds of a run, and not where each is another. Handing over whole
    LPs with a basis is faster than changing coefficients one by one.
    """
    return _highspy(programs, warm=True)


def _highspy(programs: Programs, *, warm: bool) -> np.ndarray:
    import highspy  # type: ignore[import-untyped, import-not-found]

    solver: Any = highspy.Highs()
    for option, value in {"output_flag": False, "presolve": "off", "solver": "simplex", "threads": 1}.items():
        solver.setOptionValue(option, value)
    number, m, n = programs.matrix.shape
    shape = (n, m, m * n, int(highspy.MatrixFormat.kRowwise), int(highspy.ObjSense.kMaximize), 0.0)
    start, index = np.arange(m + 1, dtype=np.int32) * n, np.tile(np.arange(n, dtype=np.int32), m)
    nothing, unlimited, continuous = np.zeros(n), np.full(m, -highspy.kHighsInf), np.zeros(n, np.int32)
    values, basis = np.full(number, np.nan), None
    for k in range(number):
        sides = (programs.objective[k], nothing, programs.upper[k], unlimited, programs.bound[k])
        solver.passModel(*shape, *sides, start, index, programs.matrix[k].ravel(), continuous)
        if warm and basis is not None:
            solver.setBasis(basis)
        solver.run()
        if solver.getModelStatus() == highspy.HighsModelStatus.kOptimal:
            values[k] = solver.getObjectiveValue()
        basis = solver.getBasis() if warm else None
    return values


def mpax_vmap(programs: Programs, dtype: type = np.float64, tolerance: float = MPAX_TOLERANCE) -> np.ndarray:
    """MPAX's raPDHG under jit and vmap, dense matrices: a first-order method made for large LPs.

    ``tolerance`` is relative and absolute, for gap and feasibility: the value is as exact as that and may lie above
    the true one. The batch takes as many steps as its slowest member, at most ``MPAX_ITERATIONS``. Needs the extra
    ``bench``.
    """
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        with jax.enable_x64(dtype == np.float64), jax.numpy_rank_promotion("allow"):
            return np.asarray(_mpax(tolerance)(*_operands(programs, dtype)))
    finally:  # MPAX puts a handler of its own in the place of the root logger's
        root.handlers[:] = handlers
        root.setLevel(level)


@cache
def _mpax(tolerance: float) -> Any:
    from mpax import create_lp, raPDHG  # type: ignore[import-untyped, import-not-found]

    # Infeasibility is not looked for: there is always a mix.
    options = {"eps_abs": tolerance, "eps_rel": tolerance, "iteration_limit": MPAX_ITERATIONS}
    solver = raPDHG(verbose=False, jit=True, infeasibility_detection=False, **options)

    def one(objective: jax.Array, matrix: jax.Array, bound: jax.Array, upper: jax.Array) -> jax.Array:
        no_rows, none = jnp.zeros((0, objective.shape[0]), objective.dtype), jnp.zeros(0, objective.dtype)
        lower = jnp.zeros_like(upper)
        problem = create_lp(-objective, no_rows, none, -matrix, -bound, lower, upper, use_sparse_matrix=False)
        return objective @ solver.optimize(problem).primal_solution

    return jax.jit(jax.vmap(one))


def _fields(programs: Programs) -> tuple[np.ndarray, ...]:
    return programs.objective, programs.matrix, programs.bound, programs.upper


def _operands(programs: Programs, dtype: type) -> list[jax.Array]:
    return [jnp.asarray(field, dtype) for field in _fields(programs)]


# Deployment.
def deployments(batch: int, n_models: int, max_deployed: int, seed: int) -> Deployments:
    """Random problems as StageRoute poses them, all feasible.

    Budget and target are what some random mix of ``max_deployed`` models uses and offers; the best one does better.
    """
    rng = np.random.default_rng(seed)
    quality = rng.uniform(0.2, 0.9, (batch, n_models))
    reward = np.minimum(quality + rng.exponential(0.05, quality.shape), 1)
    cost = np.exp(rng.normal(3 * (quality - 0.9), 0.5))
    cost = 0.25 * cost / cost.max(axis=1, keepdims=True) * rng.uniform(0.5, 1, quality.shape)
    service = np.clip(rng.normal(1.15 - 0.4 * quality, 0.15), 0.05, 1)
    throughput = np.where(rng.random(quality.shape) < 0.4, 0.6, 1.0)
    members = np.argsort(rng.random(quality.shape), axis=1)[:, :max_deployed]
    mix = np.zeros_like(quality)
    np.put_along_axis(mix, members, rng.dirichlet(np.full(max_deployed, 10.0), batch), axis=1)
    mix = np.minimum(mix, throughput)
    mix += (1 - mix.sum(axis=1, keepdims=True)) * (mix > 0) / max_deployed  # a cap was in the way: rare
    return Deployments(
        reward=reward,
        cost=cost,
        budget=1.001 * np.sum(mix * cost, axis=1),
        throughput=throughput,
        service=service,
        target=0.999 * np.sum(mix * service, axis=1),
        max_deployed=max_deployed,
    )


@partial(jax.jit, static_argnames="max_deployed")
def _support_all(
    reward: jax.Array,
    cost: jax.Array,
    budget: jax.Array,
    throughput: jax.Array,
    service: jax.Array,
    target: jax.Array,
    *,
    max_deployed: int,
) -> Support:
    everything, most = jnp.ones(reward.shape[1:], bool), jnp.int32(max_deployed)

    def one(
        reward: jax.Array, cost: jax.Array, budget: jax.Array, caps: jax.Array, service: jax.Array, target: jax.Array
    ) -> Support:
        return best_support(reward, cost, budget, caps, everything, most, service=service[:, None], target=target[None])

    return jax.vmap(one)(reward, cost, budget, throughput, service, target)


def support_ours(problems: Deployments, dtype: type = np.float32) -> np.ndarray:
    """``bandits.solvers.support.best_support`` under jit and vmap; NaN where the search was cut short."""
    given = (problems.reward, problems.cost, problems.budget, problems.throughput, problems.service, problems.target)
    with jax.enable_x64(dtype == np.float64):
        found = _support_all(*(jnp.asarray(array, dtype) for array in given), max_deployed=problems.max_deployed)
        return np.where(np.asarray(found.status) == lp.Status.OPTIMAL, np.asarray(found.value), np.nan)


def support_milp(problems: Deployments) -> np.ndarray:
    """``scipy.optimize.milp`` (HiGHS), one problem after the other, to a gap of 0; NaN where it does not succeed.

    In the variables (d, z): cost·d <= budget, service·d >= target, Σ d = 1, d <= throughput z, Σ z <= max_deployed.
    """
    number, models = problems.reward.shape
    integrality = np.repeat([0, 1], models)
    values, nothing = np.full(number, np.nan), np.zeros(models)
    rows = np.zeros((4 + models, 2 * models))
    rows[2, :models], rows[3, models:], rows[4:, :models] = 1.0, 1.0, np.eye(models)
    lower, upper = np.full(4 + models, -np.inf), np.zeros(4 + models)
    for k in range(number):
        rows[0, :models], rows[1, :models] = problems.cost[k], problems.service[k]
        rows[4:, models:] = -np.diag(problems.throughput[k])
        lower[1:3] = problems.target[k], 1.0
        upper[:4] = problems.budget[k], np.inf, 1.0, problems.max_deployed
        solved = milp(
            np.concatenate([-problems.reward[k], nothing]),
            constraints=LinearConstraint(rows, lower, upper),
            integrality=integrality,
            bounds=Bounds(0.0, np.concatenate([problems.throughput[k], np.ones(models)])),
            options={"mip_rel_gap": 0.0},
        )
        values[k] = -solved.fun if solved.status == 0 else np.nan
    return values
