"""The best few models to deploy: StageRoute's mixed-integer program, exact or with a proven gap.

``best_support`` solves eq. 3 of StageRoute (Li, Li, *Near-Optimal Online Deployment and Routing for Streaming LLMs*,
arXiv 2506.17254, ICLR 2026), with the covering rows of arXiv 2606.17489 added:

    max reward·d   s.t.   cost_i·d <= budget_i,   service_j·d >= target_j,   Σ d = 1,
                          0 <= d_m <= throughput_m z_m,   Σ z = min(max_deployed, number available),   z binary.

Empty slots cost nothing, so the last row says that at most that many models get a share. The method is branch and bound,
best bound first (A. Land and A. Doig, 1960; L. Wolsey, *Integer Programming*, 1998, chapter 7), over which models are in
and out. The bound of a node is the LP with z relaxed to d / cap, one more row: Σ d / cap <= slots left over the models
still undecided. Two things keep the trees small: each node derives caps from its own budget and target rows, which makes
that row tight, and a model that another one dominates is used only where its dominator is used to its cap.

Everything has a static size, so the search runs inside jit and vmap, and all LPs of a step are one batched call.

Axis letters: M models, P resources, C services, A = P + C rows, W nodes a step, O open nodes.
"""

from dataclasses import dataclass, replace
from enum import IntEnum

import jax
import jax.numpy as jnp

from bandits import lp

_FREE, _IN, _OUT = 0, 1, 2


class Status(IntEnum):
    """How a search ended.

    OPTIMAL: no mix is better. INFEASIBLE: no mix satisfies all rows, and this is the least violating one.
    NODE_LIMIT: ``max_nodes`` did not suffice; ``gap`` says what may be missing. Where no feasible mix was found until
    then, the least violating one found takes its place.
    """

    OPTIMAL = 0
    INFEASIBLE = 1
    NODE_LIMIT = 2


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Support:
    """The best deployment for one set of estimates. Always finite, whatever the status."""

    deployed: jax.Array  # [M] bool, the models with a share; at most max_deployed
    shares: jax.Array  # [M] the mix d
    value: jax.Array  # [] reward . d
    gap: jax.Array  # [] >= 0: no mix is better by more, in reward or, where INFEASIBLE, in violation; 0 is exact
    status: jax.Array  # [] int32, a Status
    nodes: jax.Array  # [] int32, nodes looked at


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Program:
    """The program with all its rows as packing rows and its infinities gone."""

    reward: jax.Array  # [M]
    rows: jax.Array  # [A, M] consumption, then minus service; 0 where not available
    bound: jax.Array  # [A]
    scale: jax.Array  # [A] what a violation of 1 means: the largest entry of a resource's row, 1 for a service
    caps: jax.Array  # [M] 0 where not available
    total: jax.Array  # [] what the shares sum to: 1, or less if the largest caps cannot make up 1
    slots: jax.Array  # [] int32
    dominates: jax.Array  # [M, M] bool, whether the first is at least as good as the second in everything


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class _Search:
    """What branch and bound carries. A node decides for each model: free, in or out."""

    open: jax.Array  # [O, M] int8 nodes
    bound: jax.Array  # [O] of an open node, -inf where there is none
    guesses: jax.Array  # [W, M] bool, supports to try as they are
    phase: jax.Array  # [] int32, see _objective
    best: jax.Array  # [] objective of the best mix of this phase, -inf where there is none
    shares: jax.Array  # [M] that mix
    lost: jax.Array  # [] largest bound among nodes for which there was no room
    ceiling: jax.Array  # [] bound on the reward where feasibility was left undecided, else -inf
    nodes: jax.Array  # [] int32, in this phase
    earlier: jax.Array  # [] int32, nodes of earlier phases
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
    max_nodes: int | jax.Array = 2000,
    max_open: int = 128,
    width: int = 2,
) -> Support:
    cost = jnp.asarray(cost)
    cost = cost[:, None] if cost.ndim == 1 else cost
    service = jnp.zeros((cost.shape[0], 0), cost.dtype) if service is None else service
    target = jnp.zeros(0, cost.dtype) if target is None else target
    dtype = jnp.result_type(reward, cost, budget, throughput, service, target, jnp.float32)
    reward, cost, throughput, service, target = (jnp.asarray(a, dtype) for a in (reward, cost, throughput, service, target))
    budget = jnp.atleast_1d(jnp.asarray(budget, dtype))
    max_deployed = jnp.asarray(max_deployed, jnp.int32)
    program = _program(reward, cost, budget, service, target, throughput, available, max_deployed)
    num_services = target.shape[0]
    limit = jnp.asarray(max_nodes, jnp.int32)
    search = jax.lax.while_loop(
        lambda search: ~search.done,
        lambda search: _step(program, search, limit, num_services, width),
        _start(program, max_open, width),
    )
    return _support(program, search)


def _program(reward, cost, budget, service, target, throughput, available, max_deployed):
    caps = jnp.where(available, throughput, 0)
    live = caps > 0
    rows = jnp.where(live[None, :], jnp.concatenate([cost, -service], axis=1).T, 0)
    reward = jnp.where(live, reward, 0)
    dearest = jnp.max(rows[: cost.shape[1]], axis=1, initial=0)
    slots = jnp.minimum(max_deployed, jnp.sum(live, dtype=jnp.int32))
    total = jnp.minimum(1, jnp.sum(jnp.where(_largest(caps, slots), caps, 0)))
    bound = jnp.concatenate([jnp.minimum(budget, dearest), -target])
    scale = jnp.concatenate([jnp.where(dearest > 0, dearest, 1), jnp.ones_like(target)])
    good = jnp.concatenate([reward[None], -rows, caps[None]])
    as_good = jnp.all(good[:, :, None] >= good[:, None, :], axis=0) & live[:, None] & live[None, :]
    number = jnp.arange(len(reward))
    dominates = as_good & (~as_good.T | (number[:, None] < number[None, :]))
    return _Program(reward=reward, rows=rows, bound=bound, scale=scale, caps=caps, total=total, slots=slots, dominates=dominates)


def _largest(score, count):
    number = jnp.arange(len(score))
    ahead = (score[None, :] > score[:, None]) | ((score[None, :] == score[:, None]) & (number[None, :] < number[:, None]))
    return jnp.sum(ahead, axis=1) < count


def _root(program):
    above = jnp.sum(program.dominates, axis=0)
    mass = jnp.sum(jnp.where(program.dominates, program.caps[:, None], 0), axis=0)
    out = (program.caps <= 0) | (above >= program.slots) | (mass >= program.total)
    return jnp.where(out, _OUT, _FREE).astype(jnp.int8)


def _start(program, max_open, width):
    dtype, size = program.reward.dtype, program.reward.shape[0]
    nothing = jnp.asarray(-jnp.inf, dtype)
    zero = jnp.zeros((), jnp.int32)
    search = _Search(
        open=jnp.zeros((max_open, size), jnp.int8), bound=jnp.full(max_open, nothing),
        guesses=jnp.zeros((width, size), bool),
        phase=zero, best=nothing, shares=jnp.zeros(size, dtype), lost=nothing, ceiling=nothing, nodes=zero, earlier=zero,
        done=zero > 0,
    )
    return _restart(program, search)


def _restart(program, search):
    first = jnp.arange(search.open.shape[0]) == 0
    return replace(
        search,
        open=jnp.where(first[:, None], _root(program)[None], 0).astype(jnp.int8),
        bound=jnp.where(first, jnp.finfo(program.reward.dtype).max, -jnp.inf),
        guesses=jnp.broadcast_to(_largest(program.caps, program.slots), search.guesses.shape),
        lost=jnp.full_like(search.lost, -jnp.inf),
        nodes=jnp.zeros_like(search.nodes),
        earlier=search.earlier + search.nodes,
    )


def _hard(program, phase, num_services):
    number = jnp.arange(program.bound.shape[0])
    is_service = number >= program.bound.shape[0] - num_services
    return jnp.where(is_service, phase < 1, phase < 2)


def _relaxed(program, state, phase, num_services):
    """LP arguments of a node."""
    allowed = state != _OUT
    free = state == _FREE
    left = program.slots - jnp.sum(state == _IN, dtype=jnp.int32)
    hard = _hard(program, phase, num_services)
    caps = jnp.where(allowed & (~free | (left > 0)), program.caps, 0)
    least = jnp.min(jnp.where(caps > 0, program.rows, jnp.inf), axis=1)
    rise = program.rows - least[:, None]
    room = program.bound - program.total * least
    binding = hard[:, None] & (caps > 0)[None] & (rise * program.caps[None] > room[:, None])
    tight = jnp.min(jnp.where(binding, room[:, None] / jnp.where(binding, rise, 1), jnp.inf), axis=0)
    tight = jnp.clip(tight, 1e-3 * caps, caps)
    weight = jnp.where(free & (tight > 0), 1 / jnp.where(tight > 0, tight, 1), 0)
    return _arguments(program, caps, weight, left, phase, num_services), tight


def _arguments(program, caps, weight, left, phase, num_services):
    size, num_rows = program.reward.shape[0], program.bound.shape[0]
    dtype = program.reward.dtype
    is_service = jnp.arange(num_rows) >= num_rows - num_services
    # elastic columns: one per service, one for all resources
    most = jnp.maximum(jnp.sum(jnp.maximum(program.rows, 0) , axis=1) * 0 + jnp.max(program.rows, axis=1, initial=-jnp.inf) * program.total - program.bound, 0) / program.scale
    most_service = jnp.where(phase >= 1, most[num_rows - num_services :], 0)
    most_resource = jnp.where(phase >= 2, jnp.max(jnp.where(is_service, 0, most), initial=0), 0)
    objective = jnp.concatenate([
        jnp.where(phase == 0, program.reward, 0),
        jnp.where(phase == 1, -jnp.ones(num_services, dtype), 0),
        jnp.where(phase == 2, -jnp.ones(1, dtype), 0),
    ])
    elastic = jnp.concatenate([
        -(jnp.arange(num_rows)[:, None] == num_rows - num_services + jnp.arange(num_services)[None]).astype(dtype),
        jnp.where(is_service, 0, -program.scale)[:, None],
    ], axis=1)
    sums = jnp.stack([jnp.ones(size, dtype), -jnp.ones(size, dtype), weight])
    matrix = jnp.concatenate([
        jnp.concatenate([program.rows, elastic], axis=1),
        jnp.concatenate([sums, jnp.zeros((3, num_services + 1), dtype)], axis=1),
    ])
    bound = jnp.concatenate([program.bound, jnp.stack([program.total, -program.total, left.astype(dtype)])])
    upper = jnp.concatenate([caps, most_service, most_resource[None]])
    return objective, matrix, bound, upper


def _negligible(dtype):
    return 1e-10 if dtype == jnp.float64 else 5e-6


def _cutoff(program, search):
    unit = jnp.where(search.phase == 0, jnp.max(jnp.abs(program.reward), initial=0), 1)
    return search.best + _negligible(program.reward.dtype) * unit


def _step(program, search, limit, num_services, width):
    size = program.reward.shape[0]
    parents, which = jax.lax.top_k(search.bound, width)
    states = search.open[which]
    active = parents > _cutoff(program, search)
    search = replace(search, bound=search.bound.at[which].set(-jnp.inf))

    def node(state):
        return _relaxed(program, state, search.phase, num_services)

    def guess(chosen):
        caps = jnp.where(chosen, program.caps, 0)
        return _arguments(program, caps, jnp.zeros_like(caps), program.slots, search.phase, num_services)

    arguments, tight = jax.vmap(node)(states)
    arguments = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), arguments, jax.vmap(guess)(search.guesses))
    solution = jax.vmap(lp.maximize)(*arguments)
    mixes = solution.x[:, :size]
    mixes = jnp.where(mixes > _negligible(mixes.dtype) * program.caps[None], mixes, 0)
    fits = (jnp.sum(mixes > 0, axis=1) <= program.slots) & (solution.status == lp.Status.OPTIMAL)
    scores = jnp.where(fits, solution.value, -jnp.inf)
    winner = jnp.argmax(scores)
    better = scores[winner] > search.best
    search = replace(
        search,
        best=jnp.where(better, scores[winner], search.best),
        shares=jnp.where(better, mixes[winner], search.shares),
        nodes=search.nodes + jnp.sum(active, dtype=jnp.int32),
    )
    bounds = jnp.where(solution.status[:width] == lp.Status.OPTIMAL, jnp.minimum(parents, solution.value[:width]), parents)
    closed = (solution.status[:width] == lp.Status.INFEASIBLE) | fits[:width] | ~active
    bounds = jnp.where(closed, -jnp.inf, bounds)
    children, guesses = jax.vmap(lambda *a: _children(program, *a))(states, mixes[:width], tight)
    search = _store(replace(search, guesses=guesses), children.reshape(-1, size), jnp.repeat(bounds, 2))
    return _next_phase(program, search, limit, num_services)


def _children(program, state, mix, tight):
    z = jnp.where(tight > 0, mix / jnp.where(tight > 0, tight, 1), 0)
    free = state == _FREE
    score = jnp.where(free & (mix > 0), z * jnp.maximum(1 - z, 0) + 1e-6, -1)
    branch = jnp.argmax(score)
    inside = jnp.where(free & (program.dominates[:, branch] | (jnp.arange(len(mix)) == branch)), _IN, state)
    outside = jnp.where(free & (program.dominates[branch] | (jnp.arange(len(mix)) == branch)), _OUT, state)
    rank = jnp.where(state == _IN, 3, jnp.where(state == _OUT, -1, z))
    return jnp.stack([inside, outside]).astype(jnp.int8), _largest(rank, program.slots) & (state != _OUT)


def _store(search, children, bounds):
    lowest, where = jax.lax.top_k(-search.bound, len(bounds))
    lowest = -lowest
    write = bounds > lowest
    return replace(
        search,
        open=search.open.at[where].set(jnp.where(write[:, None], children, search.open[where])),
        bound=search.bound.at[where].set(jnp.maximum(bounds, lowest)),
        lost=jnp.maximum(search.lost, jnp.max(jnp.minimum(bounds, lowest))),
    )


def _next_phase(program, search, limit, num_services):
    top = jnp.maximum(jnp.max(search.bound), search.lost)
    opened = jnp.max(search.bound) > _cutoff(program, search)
    over = ~opened | (search.nodes >= limit)
    found = search.best > -jnp.inf
    move = over & ~found & (search.phase < 2)
    ceiling = jnp.where(move & (top > -jnp.inf) & (search.phase == 0), top, search.ceiling)
    moved = _restart(program, replace(search, ceiling=ceiling, phase=search.phase + (1 if num_services else 2)))
    stay = replace(search, done=over)
    return jax.tree.map(lambda a, b: jnp.where(move, a, b), moved, stay)


def _support(program, search):
    value = jnp.sum(program.reward * search.shares)
    top = jnp.maximum(jnp.max(search.bound), search.lost)
    gap = jnp.where(top > _cutoff(program, search), top - search.best, 0)
    gap = jnp.maximum(gap, jnp.where(search.ceiling > -jnp.inf, jnp.maximum(search.ceiling - value, 0), 0))
    undecided = (search.ceiling > -jnp.inf) | ((search.phase == 0) & (gap > 0))
    short = program.total < 1 - 1e-5
    status = jnp.where(undecided, Status.NODE_LIMIT, jnp.where((search.phase > 0) | short, Status.INFEASIBLE, Status.OPTIMAL))
    return Support(deployed=search.shares > 0, shares=search.shares, value=value, gap=gap, status=status.astype(jnp.int32), nodes=search.nodes + search.earlier)
