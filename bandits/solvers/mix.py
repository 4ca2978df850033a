"""The best mix of models for one task, as a linear program: what most rules solve."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from bandits.solvers import lp
from envs.types import Problem

_NEGLIGIBLE = 1e-3  # relative violation of a row, and relative gap


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Mix:
    """What a rule takes from its linear program, and can hold until the next one."""

    shares: jax.Array  # [M]
    prices: jax.Array  # [P + C] shadow prices of budgets and targets; 0 where there are none
    undecided: jax.Array  # [] bool, whether the solver could not tell how good the shares are


def nothing(problem: Problem) -> Mix:
    """The mix before the first program."""
    none = jnp.zeros_like(problem.throughput)
    rows = problem.budget.shape[0] + problem.target.shape[0]
    return Mix(shares=none, prices=jnp.zeros(rows, none.dtype), undecided=jnp.zeros((), bool))


def soft_mix(
    reward: jax.Array,
    consumption: jax.Array,
    service: jax.Array,
    spending: jax.Array,
    wanted: jax.Array,
    caps: jax.Array,
    penalty: jax.Array,
    *,
    serve_all: bool = False,
) -> lp.Solution:
    """max reward·x - penalty Σ z s.t. consumption_i·x <= spending_i, service_j·x + z_j >= wanted_j, Σ x <= 1, x <= α.

    Shapes [M], [M, P], [M, C], [P], [C], [M], []. The slack z_j <= wanted_j makes every target elastic, so that the
    problem is always feasible; the first M entries of the solution are the mix, the rows are ordered as above.
    ``serve_all`` asks for Σ x = min(1, Σ α), which not every budget allows.
    """
    num_models, num_services = service.shape
    num_resources = spending.shape[0]
    objective = jnp.concatenate([reward, jnp.full(num_services, -1.0, reward.dtype) * penalty])
    slack_columns = jnp.zeros((num_resources, num_services), reward.dtype)
    matrix = jnp.concatenate(
        [
            jnp.concatenate([consumption.T, slack_columns], axis=1),
            jnp.concatenate([-service.T, -jnp.eye(num_services, dtype=reward.dtype)], axis=1),
            (jnp.arange(num_models + num_services) < num_models).astype(reward.dtype)[None, :],
        ]
    )
    total = jnp.minimum(jnp.sum(caps), 1.0) if serve_all else jnp.ones((), reward.dtype)
    bound = jnp.concatenate([spending, -wanted, total[None]])
    # The last row, the sum of the shares, must be met exactly where all are to be served.
    is_last = jnp.arange(bound.shape[0]) == bound.shape[0] - 1
    slack = jnp.where(is_last, 0.0, jnp.inf).astype(reward.dtype) if serve_all else None
    return lp.maximize(objective, matrix, bound, jnp.concatenate([caps, wanted]), slack=slack)


def usable(solution: lp.Solution) -> jax.Array:
    """[] bool: the solution is optimal, or misses that by a hair, as where two rows are nearly parallel.

    Targets are soft and the world guards the budget, so such a mix is as good as another. The status alone would not
    do: what the solver cannot decide may be as good as optimal, or nowhere near it.
    """
    return (solution.residual < _NEGLIGIBLE) & (solution.gap < _NEGLIGIBLE)


def prices(solution: lp.Solution) -> jax.Array:
    """[rows] the shadow prices of a usable solution; 0 where there are none."""
    return jnp.where(usable(solution), solution.dual, 0.0)


def reachable(wanted: jax.Array, service: jax.Array, caps: jax.Array) -> jax.Array:
    """[C] ``wanted``, but no more than the best model with a cap [M] offers of each service [M, C]."""
    return jnp.minimum(wanted, jnp.max(jnp.where(caps[:, None] > 0, service, 0.0), axis=0, initial=0.0))


def elastic_mix(
    reward: jax.Array,
    consumption: jax.Array,
    service: jax.Array,
    spending: jax.Array,
    wanted: jax.Array,
    caps: jax.Array,
    penalty: jax.Array,
) -> Mix:
    """The mix of ``soft_mix`` with what is ``wanted`` cut to what can be reached."""
    solution = soft_mix(reward, consumption, service, spending, reachable(wanted, service, caps), caps, penalty)
    return chosen(solution, consumption, spending)


def chosen(solution: lp.Solution, consumption: jax.Array, spending: jax.Array) -> Mix:
    """The mix of a solution of ``soft_mix``.

    Where the solver could not decide, it is the point that it got to, cut to what the budgets allow: feasible, as the
    targets are soft, if perhaps not the best. To decline instead would teach nothing, so that the same program came
    back in the next round. Such a round is counted as ``invalid``.
    """
    shares = solution.x[: consumption.shape[0]]
    used = jnp.append(jnp.sum(consumption * shares[:, None], axis=0), jnp.sum(shares))
    most = jnp.append(spending, jnp.ones((), shares.dtype))
    fitting = jnp.min(jnp.where(used > most, most / jnp.where(used > most, used, 1.0), 1.0))
    undecided = ~usable(solution)
    return Mix(
        shares=jnp.where(undecided, fitting * shares, shares),
        prices=prices(solution)[:-1],
        undecided=undecided,
    )
