"""The best few models to deploy: StageRoute's mixed-integer program, exact or with a proven gap.

``best_support`` solves eq. 3 of Li, Li, *Near-Optimal Online Deployment and Routing for Streaming LLMs* (StageRoute,
arXiv 2506.17254, ICLR 2026), with covering rows for service targets:

    max reward·d   s.t.   cost_i·d <= budget_i,   service_j·d >= target_j,   Σ d = 1,
                          0 <= d_m <= throughput_m z_m,   Σ z = min(max_deployed, number available),   z binary.

A slot may stay empty (z = 1, d = 0), so the last row says that at most that many models get a share. The method is
branch and bound, best bound first (A. Land, A. Doig, 1960; L. Wolsey, *Integer Programming*, 1998, chapter 7), on which
models are in and which are out. The bound of a node is the LP with z relaxed to d / cap, which is one more row: the sum
of d / cap over undecided models is at most the number of slots left. Three things keep the trees small: a basic
solution of an LP with few rows has few fractional d; each node derives smaller caps from its rows before it relaxes z;
a model that another one dominates is used only where that one is used to its cap.

All sizes are static, so the search runs inside jit and vmap; the LPs of a step are one batched call.

Axis letters: M models, P resources, C services, A = P + C rows, E = C + 1 elastic variables, O open nodes, W nodes a
step.
"""

from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import TypeAlias

import jax
import jax.numpy as jnp

from bandits.solvers import lp

_LinearProgram: TypeAlias = tuple[jax.Array, ...]  # objective, matrix, bound, upper, slack

# What is optimised: the reward or, where no mix satisfies all rows, the shortfall of service, then the excess of cost.
_REWARD, _SHORTFALL, _EXCESS = 0, 1, 2
# What a node has decided about a model.
_FREE, _IN, _OUT = 0, 1, 2


class Status(IntEnum):
    """How a search ended.

    OPTIMAL: all rows hold and no mix is better. INFEASIBLE: no mix satisfies all rows; this one violates them least.
    NODE_LIMIT: there was no room or time to finish, and ``gap`` says what may be missing; where no mix that satisfies
    all rows had been found by then, this is one that violates them little.
    """

    OPTIMAL = 0
    INFEASIBLE = 1
    NODE_LIMIT = 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Support:
    """The best deployment for one set of estimates. Always finite, whatever the status."""

    deployed: jax.Array  # [M] bool, the models with a share; at most max_deployed, slots may be empty
    shares: jax.Array  # [M] the mix d
    value: jax.Array  # [] reward . d
    gap: jax.Array  # [] >= 0, proven: what a better mix could add to value or, where INFEASIBLE, mend; 0 is exact
    status: jax.Array  # [] int32, a Status
    nodes: jax.Array  # [] int32, nodes whose LP was solved


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Program:
    """The program, all of whose rows are packing rows and finite."""

    reward: jax.Array  # [M]
    rows: jax.Array  # [A, M] cost of each resource, then minus each service; 0 where there is no model
    bound: jax.Array  # [A]
    yields: jax.Array  # [A] int32, the goal from which on the row is elastic
    caps: jax.Array  # [M] 0 where there is no model
    total: jax.Array  # [] what the shares sum to: 1, or what the largest caps can make up
    slots: jax.Array  # [] int32
    dominates: jax.Array  # [M, M] bool: the first is as good as the second in everything; of equals, the lower number
    relief: jax.Array  # [A, E] what the elastic variables, one a service and one for all resources, add to the rows
    most_relief: jax.Array  # [E]
    serve_all: bool = field(metadata={"static": True})  # whether the shares sum to the total, or to no more than it


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Search:
    """What a search carries. A node is int8 [M]: each model free, in or out."""

    nodes: jax.Array  # [O, M]
    bound: jax.Array  # [O] no mix of the node scores more; -inf where there is no node
    guesses: jax.Array  # [W, M] bool, supports to try as they are; empty for none
    goal: jax.Array  # [] int32, what is optimised
    score: jax.Array  # [] of the best mix so far, -inf for none
    shares: jax.Array  # [M] that mix
    lost: jax.Array  # [] largest bound of the nodes that were dropped unsolved
    undecided: jax.Array  # [] bool, whether an earlier goal was given up before its tree was closed
    spent: jax.Array  # [] int32, nodes solved for this goal
    spent_before: jax.Array  # [] int32, for earlier goals
    done: jax.Array  # [] bool


def best_support(
    reward: jax.Array,
    cost: jax.Array,
    budget: jax.Array,
    throughput: jax.Array,
    available: jax.Array,
    max_deployed: jax.Array,
    *,
    service: jax.Array | None = None,
    target: jax.Array | None = None,
    serve_all: bool = True,
    max_nodes: int | jax.Array = 1000,
    max_open: int = 256,
    width: int = 2,
) -> Support:
    """The mix of at most ``max_deployed`` models with the largest reward within budget and targets.

    Where no mix is, the least violating one: the one with the smallest sum of missed service within the budget; if the
    budget cannot be met either, the cheapest one whatever its service: the smallest excess of the worst resource, as a
    share of the dearest model's cost. Where even the largest caps sum to less than 1, the shares sum to that much, and
    the status is INFEASIBLE. "Exact" is up to rounding: 5e-6 (float32) or 1e-10 (float64) of the largest reward.
    Among equal models the lowest number is used first; equal inputs give equal outputs.

    Args:
      reward: [M] finite, as all that follows; UCBs in StageRoute.
      cost: [M] or [M, P] per task; LCBs in StageRoute.
      budget: [] or [P] per task, in the unit of cost; may be infinite.
      throughput: [M] largest share of each model, in [0, 1].
      available: [M] bool; nothing else about a model that is not available matters.
      max_deployed: [] int32.
      service: [M, C] >= 0, with ``target`` [C]; none when not given.
      target: [C] least mean service.
      serve_all: whether Σ d = 1, as in the paper, or Σ d <= 1, where tasks may be declined (static).
      max_nodes: nodes after which each of the three goals is given up.
      max_open: nodes kept, the best ones (static).
      width: nodes solved at a time (static).

    Raises:
      ValueError: shapes that do not fit each other.

    >>> cheap_and_good = jnp.array([0.5, 0.9]), jnp.array([0.2, 1.0])
    >>> best_support(*cheap_and_good, 0.6, jnp.ones(2), jnp.ones(2, bool), 2).deployed
    Array([ True,  True], dtype=bool)
    """
    dtype = jnp.result_type(reward, cost, budget, throughput, jnp.float32)
    cost, budget = jnp.asarray(cost, dtype), jnp.asarray(budget, dtype)
    cost, budget = (cost[:, None] if cost.ndim == 1 else cost), (budget[None] if budget.ndim == 0 else budget)
    service = jnp.zeros((cost.shape[0], 0), dtype) if service is None else jnp.asarray(service, dtype)
    target = jnp.zeros(0, dtype) if target is None else jnp.asarray(target, dtype)
    reward, throughput = jnp.asarray(reward, dtype), jnp.asarray(throughput, dtype)
    available = jnp.asarray(available, bool)
    _check_shapes(reward, cost, budget, throughput, available, service, target)
    slots = jnp.asarray(max_deployed, jnp.int32)
    caps = jnp.where(available, throughput, 0)
    program = _program(reward, cost, budget, caps, slots, service, target, serve_all)
    limit = jnp.asarray(max_nodes, jnp.int32)
    start = _start(program, max_open, width)
    search = jax.lax.while_loop(lambda search: ~search.done, lambda search: _step(program, search, limit), start)
    return _support(program, search)


def _check_shapes(
    reward: jax.Array,
    cost: jax.Array,
    budget: jax.Array,
    throughput: jax.Array,
    available: jax.Array,
    service: jax.Array,
    target: jax.Array,
) -> None:
    size = reward.shape
    fits = throughput.shape == available.shape == size and len(size) == 1
    if not fits or cost.shape != size + budget.shape or service.shape != size + target.shape:
        raise ValueError(
            f"reward {size}, cost {cost.shape}, budget {budget.shape}, throughput {throughput.shape}, "
            f"available {available.shape}, service {service.shape}, target {target.shape}: "
            "expected [M], [M, P], [P], [M], [M], [M, C], [C]; batches go through jax.vmap"
        )


def _program(
    reward: jax.Array,
    cost: jax.Array,
    budget: jax.Array,
    caps: jax.Array,
    max_deployed: jax.Array,
    service: jax.Array,
    target: jax.Array,
    serve_all: bool,
) -> _Program:
    """The rows in one form; ``caps`` are 0 where there is no model."""
    live = caps > 0
    reward = jnp.where(live, reward, 0)
    rows = jnp.where(live[None], jnp.concatenate([cost, -service], axis=1).T, 0)
    slots = jnp.minimum(max_deployed, jnp.sum(live, dtype=jnp.int32))
    total = jnp.minimum(1, jnp.sum(jnp.where(_first(caps, slots), caps, 0)))
    dearest = jnp.max(rows[: budget.shape[0]], axis=1, initial=0)
    bound = jnp.concatenate([jnp.minimum(budget, dearest), -target])
    unit = jnp.where(dearest > 0, dearest, 1)
    missing = jnp.maximum(total * jnp.max(rows, axis=1, initial=0) - bound, 0)
    missing_cost, missing_service = missing[: budget.shape[0]] / unit, missing[budget.shape[0] :]
    relief = jnp.concatenate([
        jnp.concatenate([jnp.zeros((budget.shape[0], target.shape[0]), rows.dtype), -unit[:, None]], axis=1),
        jnp.concatenate([-jnp.eye(target.shape[0], dtype=rows.dtype), jnp.zeros_like(target)[:, None]], axis=1),
    ])  # fmt: skip
    return _Program(
        reward=reward,
        rows=rows,
        bound=bound,
        yields=jnp.where(jnp.arange(bound.shape[0]) < budget.shape[0], _EXCESS, _SHORTFALL),
        caps=caps,
        total=total,
        slots=slots,
        dominates=_dominance(jnp.concatenate([reward[None], -rows, caps[None]]), live),
        relief=relief,
        most_relief=jnp.concatenate([missing_service, jnp.max(missing_cost, initial=0)[None]]),
        serve_all=serve_all,
    )


def _dominance(merits: jax.Array, live: jax.Array) -> jax.Array:
    """[M, M] whether the first model is as good as the second in all merits [., M]; of equals, the lower number.

    Moving the second one's share to the first, up to the first one's cap, loses nothing and takes no more slots.
    """
    as_good = jnp.all(merits[:, :, None] >= merits[:, None, :], axis=0) & live[:, None] & live[None]
    number = jnp.arange(live.shape[0])
    return as_good & (~as_good.T | (number[:, None] < number[None]))


def _first(rank: jax.Array, count: jax.Array) -> jax.Array:
    """[M] bool: the ``count`` largest of ``rank`` [M]; of equals, the lower number."""
    number = jnp.arange(rank.shape[0])
    ahead = (rank[None] > rank[:, None]) | ((rank[None] == rank[:, None]) & (number[None] < number[:, None]))
    return jnp.sum(ahead, axis=1) < count


def _negligible(dtype: jnp.dtype) -> float:
    """The share of a cap, or of the largest reward, that is taken for rounding."""
    return 1e-10 if dtype == jnp.float64 else 5e-6


def _start(program: _Program, max_open: int, width: int) -> _Search:
    num_models, nothing = program.reward.shape[0], jnp.full_like(program.total, -jnp.inf)
    blank = _Search(
        nodes=jnp.zeros((max_open, num_models), jnp.int8),
        bound=jnp.full((max_open,), -jnp.inf, nothing.dtype),
        guesses=jnp.zeros((width, num_models), bool),
        goal=jnp.full_like(program.slots, _REWARD),
        score=nothing,
        shares=jnp.zeros_like(program.reward),
        lost=nothing,
        undecided=jnp.zeros_like(program.slots, bool),
        spent=jnp.zeros_like(program.slots),
        spent_before=jnp.zeros_like(program.slots),
        done=jnp.zeros_like(program.slots, bool),
    )
    return _restart(program, blank)


def _restart(program: _Program, search: _Search) -> _Search:
    """The search with its root as the only node, for the goal it names."""
    ahead = jnp.sum(program.dominates, axis=0)
    mass = jnp.sum(jnp.where(program.dominates, program.caps[:, None], 0), axis=0)
    useless = (program.caps <= 0) | (ahead >= program.slots) | (mass >= program.total)
    is_root = jnp.arange(search.bound.shape[0]) == 0
    roomiest = _first(program.caps, program.slots)  # some mix of these sums to the total, so the last goal is reached
    most = jnp.where(search.goal == _REWARD, _most(program), 0)
    first_guess = jnp.arange(search.guesses.shape[0]) == 0
    return replace(
        search,
        nodes=jnp.where(is_root[:, None] & useless[None], _OUT, _FREE).astype(jnp.int8),
        bound=jnp.where(is_root, most, -jnp.inf),
        guesses=first_guess[:, None] & roomiest[None],
        lost=jnp.full_like(search.lost, -jnp.inf),
        spent=jnp.zeros_like(search.spent),
        spent_before=search.spent_before + search.spent,
    )


def _most(program: _Program) -> jax.Array:
    """[] reward of giving all to the best model, which no mix surpasses."""
    lowest = jnp.finfo(program.reward.dtype).min
    best = jnp.max(jnp.where(program.caps > 0, program.reward, lowest))
    return jnp.where(program.slots > 0, best * program.total, 0)


def _step(program: _Program, search: _Search, limit: jax.Array) -> _Search:
    """Solve the most promising nodes and the last step's guesses, keep the best mix, branch."""
    width, num_models = search.guesses.shape
    parent_bound, place = jax.lax.top_k(search.bound, width)
    nodes = search.nodes[place]
    active = (parent_bound > _cutoff(program, search)) & ~search.done
    caps = jax.vmap(lambda node: _tight_caps(program, node, search.goal))(nodes)
    solution = _solve(program, search, nodes, caps, active)
    mixes = solution.x[:, :num_models]
    mixes = jnp.where(mixes > _negligible(mixes.dtype) * program.caps[None], mixes, 0)
    # What has no verdict keeps its parent's bound: it is divided further or, where it cannot be, widens the gap.
    solved = solution.status == lp.Status.OPTIMAL
    whole = solved & (jnp.sum(mixes > 0, axis=1) <= program.slots)
    impossible = solution.status[:width] == lp.Status.INFEASIBLE
    bound = jnp.where(solved[:width], jnp.minimum(parent_bound, solution.value[:width]), parent_bound)
    bound = jnp.where(active & ~whole[:width] & ~impossible, bound, -jnp.inf)
    decided = ~jnp.any(nodes == _FREE, axis=1)
    children, guesses = jax.vmap(lambda *node: _branch(program, *node))(nodes, mixes[:width], caps)
    search = replace(
        _keep_best(search, jnp.where(whole, solution.value, -jnp.inf), mixes),
        bound=search.bound.at[place].set(-jnp.inf),
        guesses=guesses & (bound > -jnp.inf)[:, None],
        lost=jnp.maximum(search.lost, jnp.max(jnp.where(decided, bound, -jnp.inf))),
        spent=search.spent + jnp.sum(active, dtype=jnp.int32),
    )
    bound = jnp.where(decided, -jnp.inf, bound)
    search = _insert(search, children.reshape(2 * width, num_models), jnp.repeat(bound, 2))
    return _conclude(program, search, limit)


def _cutoff(program: _Program, search: _Search) -> jax.Array:
    """[] what a node must promise to be worth solving."""
    unit = jnp.where(search.goal == _REWARD, jnp.max(jnp.abs(program.reward), initial=0), 1)
    return search.score + _negligible(unit.dtype) * unit


def _tight_caps(program: _Program, node: jax.Array, goal: jax.Array) -> jax.Array:
    """[M] largest shares that the caps and each single row allow at a node; 0 for models that are out.

    A model with entry a in a row gets at most (bound - total a_min) / (a - a_min), the rest going to the smallest entry
    a_min among those that are not out, or to nobody. The LP knows that already, but with these caps its z = d / cap is
    larger. They are kept above a thousandth of the cap, for the sake of the LP's scaling.
    """
    caps = jnp.where(node != _OUT, program.caps, 0)
    least = jnp.min(jnp.where(caps > 0, program.rows, jnp.inf), axis=1)
    least = jnp.where(least < jnp.inf, least, 0)
    least = least if program.serve_all else jnp.minimum(least, 0)
    rounding = 16 * jnp.finfo(caps.dtype).eps * (jnp.abs(program.bound) + jnp.abs(least))
    room = program.bound - program.total * least + rounding
    rise = program.rows - least[:, None]
    binding = (goal < program.yields)[:, None] & (rise * caps[None] > room[:, None])
    share = jnp.where(binding, room[:, None] / jnp.where(binding, rise, 1), 1)
    return jnp.clip(jnp.min(share, axis=0, initial=1), 1e-3 * caps, caps)


def _solve(program: _Program, search: _Search, nodes: jax.Array, caps: jax.Array, active: jax.Array) -> lp.Solution:
    """The LPs of the nodes [W, M] with their tight caps, then those of the guesses, in one batch [2 W]."""
    undecided = (nodes == _FREE) & (caps > 0)
    weight = jnp.where(undecided, 1 / jnp.where(undecided, caps, 1), 0)
    left = program.slots - jnp.sum(nodes == _IN, axis=1, dtype=jnp.int32)
    allowed = jnp.concatenate([nodes != _OUT, search.guesses])
    weight = jnp.concatenate([weight, jnp.zeros_like(weight)])
    left = jnp.concatenate([left, jnp.full_like(left, program.slots)])
    wanted = jnp.concatenate([active, jnp.any(search.guesses, axis=1) & ~search.done])

    def solve(allowed: jax.Array, weight: jax.Array, left: jax.Array, wanted: jax.Array) -> lp.Solution:
        upper = jnp.where(allowed, program.caps, 0)
        *arguments, slack = _linear_program(program, search.goal, upper, weight, left)
        # In a batch, runs that are done would otherwise be solved again and again until the last one is.
        return lp.maximize(*arguments, slack=slack, max_steps=jnp.where(wanted, 10 * sum(arguments[1].shape) + 20, 0))

    return jax.vmap(solve)(allowed, weight, left, wanted)


def _linear_program(
    program: _Program, goal: jax.Array, caps: jax.Array, weight: jax.Array, left: jax.Array
) -> _LinearProgram:
    """max reward·d - relief s.t. the rows less their relief, Σ d = total, weight·d <= left, 0 <= d <= caps."""
    kinds = jnp.where(jnp.arange(program.most_relief.shape[0]) < program.most_relief.shape[0] - 1, _SHORTFALL, _EXCESS)
    relief_price = jnp.where(goal == kinds, -1, 0).astype(caps.dtype)
    sums = jnp.stack([jnp.ones_like(caps), weight])
    no_relief = jnp.zeros((2, kinds.shape[0]), caps.dtype)
    rows = program.bound.shape[0] + 2
    return (
        jnp.concatenate([jnp.where(goal == _REWARD, program.reward, 0), relief_price]),
        jnp.block([[program.rows, program.relief], [sums, no_relief]]),
        jnp.concatenate([program.bound, jnp.stack([program.total, left.astype(caps.dtype)])]),
        jnp.concatenate([caps, jnp.where(goal >= kinds, program.most_relief, 0)]),
        jnp.where(program.serve_all & (jnp.arange(rows) == rows - 2), 0, jnp.inf).astype(caps.dtype),
    )


def _keep_best(search: _Search, scores: jax.Array, mixes: jax.Array) -> _Search:
    """The search with the first of the best mixes [., M], if its score is better than the best so far."""
    winner = jnp.argmax(scores)
    better = scores[winner] > search.score
    return replace(
        search,
        score=jnp.where(better, scores[winner], search.score),
        shares=jnp.where(better, mixes[winner], search.shares),
    )


def _branch(program: _Program, node: jax.Array, mix: jax.Array, caps: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the two children [2, M] of a node, a support [M] to try): by the free model with the largest fractional z."""
    z = jnp.where(caps > 0, mix / jnp.where(caps > 0, caps, 1), 0)
    free = node == _FREE
    number = jnp.arange(node.shape[0])
    pivot = jnp.argmax(jnp.where(free, jnp.where(z < 1 - 1e-6, z, 0), -1))
    inside = jnp.where(free & (program.dominates[:, pivot] | (number == pivot)), _IN, node)
    full = jnp.sum(inside == _IN) >= program.slots
    inside = jnp.where(full & (inside == _FREE), _OUT, inside)
    outside = jnp.where(free & (program.dominates[pivot] | (number == pivot)), _OUT, node)
    preference = jnp.where(node == _IN, jnp.inf, jnp.where(free, z, -1))
    return jnp.stack([inside, outside]).astype(jnp.int8), _first(preference, program.slots) & (node != _OUT)


def _insert(search: _Search, children: jax.Array, bound: jax.Array) -> _Search:
    """The search with the children [., M], in the place of the least promising nodes where there is no room."""
    negative, place = jax.lax.top_k(-search.bound, bound.shape[0])
    better = bound > -negative
    return replace(
        search,
        nodes=search.nodes.at[place].set(jnp.where(better[:, None], children, search.nodes[place])),
        bound=search.bound.at[place].set(jnp.maximum(bound, -negative)),
        lost=jnp.maximum(search.lost, jnp.max(jnp.minimum(bound, -negative))),
    )


def _conclude(program: _Program, search: _Search, limit: jax.Array) -> _Search:
    """Go on, stop, or turn to the next goal where this one has no mix."""
    promising = jnp.max(search.bound) > _cutoff(program, search)
    over = ~promising | (search.spent >= limit)
    hopeless = over & (search.score == -jnp.inf) & (search.goal < _EXCESS)
    given_up = promising | (search.lost > -jnp.inf)
    following = replace(search, goal=search.goal + 1, undecided=search.undecided | given_up)
    following = _restart(program, following)
    stopped = replace(search, done=over)
    return jax.tree.map(lambda new, old: jnp.where(hopeless, new, old), following, stopped)


def _support(program: _Program, search: _Search) -> Support:
    value = jnp.sum(program.reward * search.shares)
    bound = jnp.maximum(jnp.max(search.bound), search.lost)
    gap = jnp.where(bound > _cutoff(program, search), bound - search.score, 0)
    gap = jnp.where(search.undecided, jnp.maximum(_most(program) - value, 0), gap)
    short = program.serve_all & (program.total < 1 - _negligible(value.dtype))
    status = jnp.where(short | (search.goal > _REWARD), Status.INFEASIBLE, Status.OPTIMAL)
    unfinished = search.undecided | ((search.goal == _REWARD) & (gap > 0))
    return Support(
        deployed=search.shares > 0,
        shares=search.shares,
        value=value,
        gap=gap,
        status=jnp.where(unfinished, Status.NODE_LIMIT, status).astype(jnp.int32),
        nodes=search.spent_before + search.spent,
    )
