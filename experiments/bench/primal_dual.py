"""What people would use instead of this project's primal-dual loop: Numba, NumPy over runs, plain Python, MABWiser.

All but MABWiser play the rule ``primal_dual_resolving`` with its defaults and the ``oracle`` forecaster on the world of
``experiments.bench.instance``: as one task arrives in every round, the demand to come in round t is horizon - t. They
differ from the engine in random numbers and rounding alone, so their totals agree in law. Each is written as well as
its style allows, and all but ``python_anew`` know what follows for this rule in this world:

- a model's bounds change only when it served, so they are kept, and renewed for the served model alone (the engine does
  that, too);
- a model that no longer fits in the budget never fits again, so its UCB_r becomes -inf once and for all;
- models are tried in the order of their numbers, so one pointer says which is next;
- the best model with cap a serves with probability a, the next one with what is left, so ranks after the first are
  only looked at where the uniform asks for them (or as many as the caps can ask for).

Numba and MABWiser are imported inside the functions: they come with the extra ``bench``.
"""

import random
from functools import cache
from typing import Any

import numpy as np

from experiments.bench.instance import Plain, Totals

COVERING_GAIN, COVERING_CAP = 3.0, 5.0
SMALLEST_SPENDING = 1e-9


def gamma(instance: Plain) -> float:
    """The exploration level, confidence · log(3 M T)."""
    return float(instance.confidence * np.log(3.0 * len(instance.reward) * instance.horizon))


def step_size(instance: Plain) -> float:
    """The dual step, eta / sqrt(T)."""
    return float(instance.eta / np.sqrt(instance.horizon))


# Numba, many runs in step.
LANES = 64  # runs a block: a multiple of every vector width; their state of some 30 KB stays in the first cache
_PRICE, _COVER, _LAST, _PICK, _QUALITY, _MET, _PLACE = (row * LANES for row in range(7))  # _PICK.._PLACE: uniforms
_COUNT, _SUM_R, _SUM_C, _SUM_G = (row * LANES for row in range(7, 11))  # statistics of the model that serves
_REWARD, _COST, _SERVICE, _BOUND = (row * LANES for row in range(11, 15))  # its outcome and its worst case
_UPPER_R, _LOWER_C, _UPPER_G = (row * LANES for row in range(15, 18))  # its renewed bounds
_LEFT = 18 * LANES  # its budget's rest
_LANE_ROWS = 19
_CHOSEN, _LEADER, _RANKED = (row * LANES for row in range(3))


def numba_parallel(instance: Plain, runs: int, seed: int, *, dtype: type = np.float32) -> Totals:
    """Numba on all cores, blocks of ``LANES`` runs in step, so that LLVM vectorises over runs: the fastest rival.

    Each step of a round is a loop over the lanes of a block without branches; only looking up and writing back the
    served model's row is scalar. Learning is in ``dtype``, whose sums stop growing at 2^24 rounds in float32; budgets
    are float64. Random numbers: a hand-written xoshiro128+ a lane, seeded by splitmix64, four uniforms of 24 bits a
    round; it vectorises, which ``np.random`` (a Mersenne Twister a thread) does not. ``fastmath`` is off: lanes are
    independent, so vectorising needs no leave to reorder sums. The first call for a shape compiles: some seconds.
    """
    models, knots = instance.cost_table.shape
    kernel = _lanes_kernel(models, _ranks(instance.caps), knots - 1, dtype)
    # One model more, which nobody can see: those who decline are served by it, and no lane needs a branch.
    bound: np.ndarray = np.append(instance.cost_bound, 0.0).astype(dtype)
    caps: np.ndarray = np.append(instance.caps, 0.0).astype(dtype)
    facts: np.ndarray = np.stack([instance.reward, instance.service, instance.cost_bound], axis=1)
    facts = np.append(facts, np.zeros((1, 3)), axis=0).astype(dtype).ravel()
    table: np.ndarray = np.append(instance.cost_table, np.zeros((1, knots)), axis=0).astype(dtype).ravel()
    blocks = -(-runs // LANES)
    totals = np.empty((4, blocks * LANES))
    kernel(
        blocks,
        _stream(seed),
        instance.horizon,
        instance.budget,
        _numbers(instance, dtype),
        facts,
        caps,
        table,
        bound,
        totals,
    )
    reward, spent, served_well, served = totals[:, :runs]
    return Totals(reward=reward, spent=spent, service=served_well, served=served)


@cache
def _lanes_kernel(num_models: int, ranks: int, cells: int, dtype: type) -> Any:
    """The compiled loop for these shapes. Shapes are constants in it, so loops over models unroll.

    Rows of all kinds lie in flat buffers at constant offsets: LLVM then sees that they do not overlap.
    """
    import numba  # type: ignore[import-not-found,import-untyped,unused-ignore]

    # Divisions without a check for zero, which would be a branch in every loop.
    inlined = numba.njit(error_model="numpy", forceinline=True)
    real: Any = dtype
    whole, word, long = np.int32, np.uint32, np.uint64
    zero, one, smallest = real(0), real(1), real(SMALLEST_SPENDING)
    gain, cap_on_cover = real(COVERING_GAIN), real(COVERING_CAP)
    unit, wide_unit = real(2.0**-24), real(2.0**-24 * cells)
    never = real(np.inf)
    rows = num_models + 1
    lower_c, upper_g = rows * LANES, 2 * rows * LANES  # in ``bounds``, after UCB_r
    word_1, word_2, word_3 = LANES, 2 * LANES, 3 * LANES

    @inlined
    def uniform_bits(a: Any, b: Any, c: Any, d: Any) -> Any:  # xoshiro128+
        bits = word(word(a + d) >> word(8))
        shifted = word(b << word(9))
        c, d = word(c ^ a), word(d ^ b)
        b, a = word(b ^ c), word(a ^ d)
        c = word(c ^ shifted)
        d = word(word(d << word(11)) | word(d >> word(21)))
        return whole(bits), a, b, c, d

    @inlined
    def draw(state: Any, lane: Any) -> None:
        for i in range(LANES):
            a, b, c, d = state[i], state[word_1 + i], state[word_2 + i], state[word_3 + i]
            bits, a, b, c, d = uniform_bits(a, b, c, d)
            lane[_PICK + i] = real(bits) * unit
            bits, a, b, c, d = uniform_bits(a, b, c, d)
            lane[_QUALITY + i] = real(bits) * unit
            bits, a, b, c, d = uniform_bits(a, b, c, d)
            lane[_MET + i] = real(bits) * unit
            bits, a, b, c, d = uniform_bits(a, b, c, d)
            lane[_PLACE + i] = real(bits) * wide_unit
            state[i], state[word_1 + i], state[word_2 + i], state[word_3 + i] = a, b, c, d

    @inlined
    def explore(bounds: Any, lane: Any, model: Any, untried: Any, caps: Any) -> Any:
        """Try each model once: where one is untried, it serves with its cap, or nobody does."""
        exploring = False
        for i in range(LANES):
            while untried[i] < num_models and bounds[untried[i] * LANES + i] < zero:
                untried[i] += 1
            if untried[i] < num_models:
                exploring = True
                if lane[_PICK + i] < caps[untried[i]]:
                    model[_CHOSEN + i] = untried[i]
                    untried[i] += 1
                lane[_PICK + i] = never
        return exploring

    @inlined
    def rank_two(bounds: Any, lane: Any, model: Any) -> None:
        """The two best, the lower number where two are equal; nobody where there is none above 0."""
        for i in range(LANES):
            price, cover = lane[_PRICE + i], lane[_COVER + i]
            best, second = zero, zero
            leader, runner_up = whole(num_models), whole(num_models)
            for m in range(num_models):
                at = m * LANES + i
                index = bounds[at] - price * bounds[lower_c + at] + cover * bounds[upper_g + at]
                leads = index > best
                runner_up = leader if leads else (whole(m) if index > second else runner_up)
                leader = whole(m) if leads else leader
                second = max(second, min(index, best))
                best = max(index, best)
            lane[_LAST + i] = second
            model[_LEADER + i], model[_RANKED + i] = leader, runner_up

    @inlined
    def rank_next(bounds: Any, lane: Any, model: Any) -> None:
        """The best of those ranked after the last one: a smaller index, or the same and a larger number."""
        for i in range(LANES):
            price, cover = lane[_PRICE + i], lane[_COVER + i]
            last, number = lane[_LAST + i], model[_RANKED + i]
            best, which = zero, whole(num_models)
            for m in range(num_models):
                at = m * LANES + i
                index = bounds[at] - price * bounds[lower_c + at] + cover * bounds[upper_g + at]
                better = (index > best) & ((index < last) | ((index == last) & (whole(m) > number)))
                which = whole(m) if better else which
                best = index if better else best
            lane[_LAST + i], model[_RANKED + i] = best, which

    @inlined
    def choose(lane: Any, model: Any, caps: Any) -> None:
        """One of the two best, by what is left of the uniform; a lane that has been decided has none left."""
        for i in range(LANES):
            pick, leader, runner_up = lane[_PICK + i], model[_LEADER + i], model[_RANKED + i]
            over = pick - caps[leader]
            chosen = runner_up if over < caps[runner_up] else whole(num_models)
            chosen = leader if over < zero else chosen
            model[_CHOSEN + i] = chosen if pick < one else model[_CHOSEN + i]
            lane[_PICK + i] = over - caps[runner_up] if chosen == num_models else never

    @inlined
    def choose_next(lane: Any, model: Any, caps: Any) -> None:
        for i in range(LANES):
            cap = caps[model[_RANKED + i]]
            chosen = lane[_PICK + i] < cap
            model[_CHOSEN + i] = model[_RANKED + i] if chosen else model[_CHOSEN + i]
            lane[_PICK + i] = never if chosen else lane[_PICK + i] - cap

    @inlined
    def serve(lane: Any, model: Any, seen: Any, facts: Any, table: Any) -> None:
        for i in range(LANES):
            m = np.int64(model[_CHOSEN + i])
            place = lane[_PLACE + i]
            cell = min(np.int64(place), np.int64(cells - 1))
            low, high = table[m * (cells + 1) + cell], table[m * (cells + 1) + cell + 1]
            bound = facts[3 * m + 2]
            lane[_REWARD + i] = one if lane[_QUALITY + i] < facts[3 * m] else zero
            lane[_SERVICE + i] = one if lane[_MET + i] < facts[3 * m + 1] else zero
            lane[_COST + i] = min(low + (high - low) * (place - real(cell)), bound)
            lane[_BOUND + i] = bound
            at = 4 * (i * rows + m)
            lane[_COUNT + i], lane[_SUM_R + i] = seen[at], seen[at + 1]
            lane[_SUM_C + i], lane[_SUM_G + i] = seen[at + 2], seen[at + 3]

    @inlined
    def learn(lane: Any, level: Any) -> None:
        for i in range(LANES):
            count = lane[_COUNT + i] + one
            sum_r = lane[_SUM_R + i] + lane[_REWARD + i]
            sum_c = lane[_SUM_C + i] + lane[_COST + i]
            sum_g = lane[_SUM_G + i] + lane[_SERVICE + i]
            lane[_COUNT + i], lane[_SUM_R + i], lane[_SUM_C + i], lane[_SUM_G + i] = count, sum_r, sum_c, sum_g
            inverse = one / count
            width = level * inverse
            width_c = width * lane[_BOUND + i]
            r, c, g = sum_r * inverse, sum_c * inverse, sum_g * inverse
            lane[_UPPER_R + i] = min(r + np.sqrt(width * r) + width, one)
            lane[_LOWER_C + i] = max(c - np.sqrt(width_c * c) - width_c, zero)
            lane[_UPPER_G + i] = min(g + np.sqrt(width * g) + width, one)

    @inlined
    def remember(bounds: Any, lane: Any, model: Any, seen: Any) -> None:
        for i in range(LANES):
            m = np.int64(model[_CHOSEN + i])
            at = 4 * (i * rows + m)
            seen[at], seen[at + 1] = lane[_COUNT + i], lane[_SUM_R + i]
            seen[at + 2], seen[at + 3] = lane[_SUM_C + i], lane[_SUM_G + i]
            at = m * LANES + i
            bounds[at], bounds[lower_c + at] = lane[_UPPER_R + i], lane[_LOWER_C + i]
            bounds[upper_g + at] = lane[_UPPER_G + i]

    @inlined
    def move_prices(lane: Any, left: Any, tally: Any, inverse: Any, due: Any, step: Any) -> None:
        """The round's targets and one dual step."""
        for i in range(LANES):  # on its own: float64 would halve the width of the rest
            lane[_LEFT + i] = real(left[i])
        for i in range(LANES):
            spending = max(min(lane[_LEFT + i] * inverse, one), smallest)
            wanted = min(max((due - real(tally[LANES + i])) * inverse, zero), one)
            largest = one / spending
            relative = lane[_PRICE + i] * spending + step * (lane[_COST + i] * largest - one)
            lane[_PRICE + i] = min(max(relative, zero), one) * largest
            cover = lane[_COVER + i] + gain * step * (wanted - lane[_SERVICE + i])
            lane[_COVER + i] = min(max(cover, zero), cap_on_cover)

    @inlined
    def enter(lane: Any, model: Any, left: Any, tally: Any, fitting: Any) -> Any:
        """The books; whether in some lane a model has become too dear."""
        for i in range(LANES):
            tally[i] += whole(lane[_REWARD + i])
            tally[LANES + i] += whole(lane[_SERVICE + i])
        for i in range(LANES):
            tally[2 * LANES + i] += whole(model[_CHOSEN + i] < num_models)
        dear = whole(0)
        for i in range(LANES):
            left[i] -= np.float64(lane[_COST + i])
            dear |= whole(left[i] < fitting[i])
        return dear != 0

    @inlined
    def drop_dear(bounds: Any, left: Any, fitting: Any, bound: Any) -> None:
        """The guard of the hard budget: a model whose worst case does not fit is never proposed again."""
        for i in range(LANES):
            if left[i] < fitting[i]:
                fitting[i] = -1.0
                for m in range(num_models):
                    if bound[m] > left[i]:
                        bounds[m * LANES + i] = -never
                    else:
                        fitting[i] = max(fitting[i], np.float64(bound[m]))

    @numba.njit(parallel=True, error_model="numpy")
    def kernel(
        blocks: Any,
        stream: Any,
        horizon: Any,
        budget: Any,
        numbers: Any,
        facts: Any,
        caps: Any,
        table: Any,
        bound: Any,
        totals: Any,
    ) -> None:
        level, step, due = numbers[0], numbers[1], numbers[2]
        for block in numba.prange(blocks):
            bounds = np.zeros(3 * rows * LANES, real)
            bounds[: rows * LANES] = one
            bounds[2 * rows * LANES :] = one
            lane = np.zeros(_LANE_ROWS * LANES, real)
            seen = np.zeros(4 * rows * LANES, real)
            model = np.zeros(3 * LANES, whole)
            tally = np.zeros(3 * LANES, whole)
            untried = np.zeros(LANES, whole)
            left = np.full(LANES, budget)
            fitting = np.full(LANES, np.inf)  # the dearest worst case that still fits
            drop_dear(bounds, left, fitting, bound)
            state = np.empty(4 * LANES, word)
            for i in range(LANES):
                for part in range(4):  # splitmix64
                    bits = stream + long(4 * (block * LANES + i) + part + 1) * long(0x9E3779B97F4A7C15)
                    bits = (bits ^ (bits >> long(30))) * long(0xBF58476D1CE4E5B9)
                    bits = (bits ^ (bits >> long(27))) * long(0x94D049BB133111EB)
                    state[part * LANES + i] = word((bits ^ (bits >> long(31))) >> long(32))
            exploring = True
            for t in range(horizon):
                draw(state, lane)
                model[:LANES] = whole(num_models)
                if exploring:
                    exploring = explore(bounds, lane, model, untried, caps)
                rank_two(bounds, lane, model)
                choose(lane, model, caps)
                for _ in range(ranks - 2):
                    rank_next(bounds, lane, model)
                    choose_next(lane, model, caps)
                serve(lane, model, seen, facts, table)
                learn(lane, level)
                remember(bounds, lane, model, seen)
                move_prices(lane, left, tally, one / real(horizon - t), due, step)
                if enter(lane, model, left, tally, fitting):
                    drop_dear(bounds, left, fitting, bound)
            for i in range(LANES):
                run = block * LANES + i
                totals[0, run], totals[1, run] = tally[i], budget - left[i]
                totals[2, run], totals[3, run] = tally[LANES + i], tally[2 * LANES + i]

    return kernel


def _ranks(caps: np.ndarray) -> int:
    """How many models at most share a round: as many of the smallest caps as fill it."""
    filling = int(np.count_nonzero(np.cumsum(np.sort(caps)) < 1.0)) + 1
    return min(filling, len(caps))


def _numbers(instance: Plain, dtype: type) -> Any:
    """[3] gamma, the dual step, and the service wanted by the end."""
    return np.array([gamma(instance), step_size(instance), instance.target * instance.horizon]).astype(dtype)


def _stream(seed: int) -> np.uint64:
    return np.uint64(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])


# Numba, run by run.
def numba_run_by_run(instance: Plain, runs: int, seed: int, *, dtype: type = np.float32) -> Totals:
    """Numba on all cores as one would first write it: a run at a time from start to end, its scalars in registers.

    The branches of a round are taken as they come, so it does less arithmetic than ``numba_parallel``, but every step
    waits for the one before and half the branches cannot be predicted. Random numbers: xoshiro256+ seeded by
    splitmix64, two words a round. The first call for a ``dtype`` compiles: some seconds.
    """
    totals = np.empty((4, runs))
    arrays = (instance.reward, instance.service, instance.cost_bound, instance.caps, instance.cost_table)
    single: list[np.ndarray] = [values.astype(dtype) for values in arrays]
    kernel = _run_kernel(dtype)
    kernel(_stream(seed), instance.horizon, instance.budget, _numbers(instance, dtype), *single, totals)
    return Totals(reward=totals[0], spent=totals[1], service=totals[2], served=totals[3])


@cache
def _run_kernel(dtype: type) -> Any:
    """The compiled loop of this precision, for any shapes."""
    import numba  # type: ignore[import-not-found,import-untyped,unused-ignore]

    real: Any = dtype
    long = np.uint64
    zero, one, unit, never = real(0), real(1), real(2.0**-24), real(np.inf)
    gain, cap_on_cover, smallest = real(COVERING_GAIN), real(COVERING_CAP), real(SMALLEST_SPENDING)

    @numba.njit(error_model="numpy", forceinline=True)
    def word(a: Any, b: Any, c: Any, d: Any) -> Any:  # xoshiro256+
        bits = a + d
        shifted = b << long(17)
        c ^= a
        d ^= b
        b ^= c
        a ^= d
        c ^= shifted
        d = (d << long(45)) | (d >> long(19))
        return bits, a, b, c, d

    @numba.njit(error_model="numpy", forceinline=True)
    def two_uniforms(bits: Any) -> Any:
        return real(np.int64(bits >> long(40))) * unit, real(np.int64((bits >> long(16)) & long(0xFFFFFF))) * unit

    @numba.njit(parallel=True, error_model="numpy")
    def kernel(
        stream: Any,
        horizon: Any,
        budget: Any,
        numbers: Any,
        quality: Any,
        met: Any,
        bound: Any,
        caps: Any,
        table: Any,
        totals: Any,
    ) -> None:
        level, step, due = numbers[0], numbers[1], numbers[2]
        models, cells = len(quality), table.shape[1] - 1
        for run in numba.prange(totals.shape[1]):
            state = np.empty(4, np.uint64)
            for part in range(4):  # splitmix64
                bits = stream + long(4 * run + part + 1) * long(0x9E3779B97F4A7C15)
                bits = (bits ^ (bits >> long(30))) * long(0xBF58476D1CE4E5B9)
                bits = (bits ^ (bits >> long(27))) * long(0x94D049BB133111EB)
                state[part] = bits ^ (bits >> long(31))
            a, b, c, d = state[0], state[1], state[2], state[3]
            upper_r, lower_c, upper_g = np.ones(models, real), np.zeros(models, real), np.ones(models, real)
            seen = np.zeros((models, 4), real)
            price, cover, left, fitting = zero, zero, np.float64(budget), np.inf
            reward_so_far, service_so_far, served, untried = 0, 0, 0, 0
            for t in range(horizon):
                bits, a, b, c, d = word(a, b, c, d)
                pick, place = two_uniforms(bits)
                bits, a, b, c, d = word(a, b, c, d)
                u_quality, u_met = two_uniforms(bits)

                # The guard of the hard budget: a model whose worst case does not fit is never proposed again.
                if left < fitting:
                    fitting = -1.0
                    for m in range(models):
                        if bound[m] > left:
                            upper_r[m] = -never
                        else:
                            fitting = max(fitting, np.float64(bound[m]))
                while untried < models and upper_r[untried] < zero:
                    untried += 1
                chosen = -1
                if untried < models:
                    if pick < caps[untried]:
                        chosen = untried
                        untried += 1
                else:
                    last, number = never, -1
                    while pick < one:
                        best, which = zero, -1
                        for m in range(models):
                            index = upper_r[m] - price * lower_c[m] + cover * upper_g[m]
                            if index > best and (index < last or (index == last and m > number)):
                                best, which = index, m
                        if which < 0:
                            break
                        if pick < caps[which]:
                            chosen = which
                            break
                        pick -= caps[which]
                        last, number = best, which

                inverse = one / real(horizon - t)
                spending = max(min(real(left) * inverse, one), smallest)
                wanted = min(max((due - real(service_so_far)) * inverse, zero), one)
                cost, service = zero, zero
                if chosen >= 0:
                    reward = one if u_quality < quality[chosen] else zero
                    service = one if u_met < met[chosen] else zero
                    position = place * real(cells)
                    cell = min(np.int64(position), cells - 1)
                    low, high = table[chosen, cell], table[chosen, cell + 1]
                    cost = min(low + (high - low) * (position - real(cell)), bound[chosen])
                    seen[chosen, 0] += one
                    seen[chosen, 1] += reward
                    seen[chosen, 2] += cost
                    seen[chosen, 3] += service
                    share = one / seen[chosen, 0]
                    width = level * share
                    width_c = width * bound[chosen]
                    mean_r, mean_c, mean_g = seen[chosen, 1] * share, seen[chosen, 2] * share, seen[chosen, 3] * share
                    upper_r[chosen] = min(mean_r + np.sqrt(width * mean_r) + width, one)
                    lower_c[chosen] = max(mean_c - np.sqrt(width_c * mean_c) - width_c, zero)
                    upper_g[chosen] = min(mean_g + np.sqrt(width * mean_g) + width, one)
                    left -= np.float64(cost)
                    reward_so_far += int(reward)
                    service_so_far += int(service)
                    served += 1
                largest = one / spending
                price = min(max(price * spending + step * (cost * largest - one), zero), one) * largest
                cover = min(max(cover + gain * step * (wanted - service), zero), cap_on_cover)
            totals[0, run], totals[1, run] = reward_so_far, budget - left
            totals[2, run], totals[3, run] = service_so_far, served

    return kernel


# NumPy over runs.
BLOCK = 8192  # runs at a time: enough to hide the calls, few enough for the second cache


def numpy_over_runs(instance: Plain, runs: int, seed: int) -> Totals:
    """NumPy, vectorised over runs, a Python loop over rounds: what a careful user writes without a compiler. One core.

    float32 but for the budget, models before runs so that inner loops are long, arrays preallocated, runs in blocks
    that fit in a cache.
    """
    sizes = [min(BLOCK, runs - first) for first in range(0, runs, BLOCK)]
    streams = np.random.SeedSequence(seed).spawn(len(sizes))
    parts = [
        _numpy_block(instance, size, np.random.default_rng(stream)) for size, stream in zip(sizes, streams, strict=True)
    ]
    reward, spent, service, served = np.concatenate(parts, axis=1)
    return Totals(reward=reward, spent=spent, service=service, served=served)


def _numpy_block(instance: Plain, runs: int, generator: np.random.Generator) -> np.ndarray:
    """[4, runs] totals of one block."""
    real: Any = np.float32
    models, horizon, cells = len(instance.reward), instance.horizon, instance.cost_table.shape[1] - 1
    quality, met, bound, caps = (
        values.astype(real) for values in (instance.reward, instance.service, instance.cost_bound, instance.caps)
    )
    table, number = instance.cost_table.astype(real).ravel(), np.arange(runs)
    level, step, due = real(gamma(instance)), real(step_size(instance)), instance.target * horizon
    upper_r, lower_c, upper_g = (np.full((models, runs), value, real) for value in (1.0, 0.0, 1.0))
    seen = np.zeros((4, models * runs), real)  # how often served, then sums of reward, cost and service
    index, term = np.empty((models, runs), real), np.empty((models, runs), real)
    price: Any = np.zeros(runs, real)
    cover: Any = np.zeros(runs, real)
    left, fitting = np.full(runs, instance.budget), np.full(runs, np.inf)
    uniform, untried, exploring = np.empty((4, runs), real), np.zeros(runs, np.intp), True
    totals = np.zeros((3, runs), real)  # reward, service, served: whole numbers, exact up to 2^24
    for t in range(horizon):
        dear = np.flatnonzero(left < fitting)
        if dear.size:
            fits = bound[:, None] <= left[dear]
            upper_r[:, dear] = np.where(fits, upper_r[:, dear], -np.inf)
            fitting[dear] = np.where(fits, bound[:, None], real(-1.0)).max(axis=0)

        generator.random(dtype=real, out=uniform)
        np.multiply(lower_c, price, out=index)
        np.subtract(upper_r, index, out=index)
        np.multiply(upper_g, cover, out=term)
        index += term
        best, model = _best(index)
        cap = np.where(best > 0, caps[model], real(0.0))
        serves = uniform[0] < cap
        _next_ranks(index, caps, uniform[0] - cap, model, serves)
        if exploring:
            exploring = _explore(upper_r, caps, uniform[0], untried, model, serves)

        position = uniform[1] * real(cells)
        cell = np.minimum(position.astype(np.intp), cells - 1)
        position -= cell
        at = model * (cells + 1)
        at += cell
        low = table[at]
        at += 1
        outcome = np.empty((3, runs), real)
        np.minimum(low + (table[at] - low) * position, bound[model], out=outcome[1])
        np.less(uniform[2], quality[model], out=outcome[0])
        np.less(uniform[3], met[model], out=outcome[2])
        outcome *= serves

        inverse = 1.0 / (horizon - t)
        spending = np.clip(left * inverse, SMALLEST_SPENDING, 1.0).astype(real)
        wanted = np.clip((real(due) - totals[1]) * real(inverse), 0.0, 1.0)
        price = np.clip(price * spending + step * (outcome[1] / spending - 1), 0.0, 1.0) / spending
        cover = np.clip(cover + real(COVERING_GAIN) * step * (wanted - outcome[2]), 0.0, real(COVERING_CAP))
        left -= outcome[1]
        totals += np.stack([outcome[0], outcome[2], serves])

        # Those who decline renew the bounds of a model with what they are already; but the untried have none.
        who = number if serves.all() else np.flatnonzero(serves)
        model = model[who]
        at = model * runs + who
        renewed = seen.take(at, axis=1)
        renewed[0] += 1
        renewed[1:] += outcome if len(who) == runs else outcome.take(who, axis=1)
        for row, values in zip(seen, renewed, strict=True):
            row[at] = values
        inverse_count = 1 / renewed[0]
        width = level * inverse_count
        width_c = width * bound[model]
        mean = renewed[1:] * inverse_count
        upper_r.reshape(-1)[at] = np.minimum(mean[0] + np.sqrt(width * mean[0]) + width, 1)
        lower_c.reshape(-1)[at] = np.maximum(mean[1] - np.sqrt(width_c * mean[1]) - width_c, 0)
        upper_g.reshape(-1)[at] = np.minimum(mean[2] + np.sqrt(width * mean[2]) + width, 1)
    return np.stack([totals[0], instance.budget - left, totals[1], totals[2]])


def _next_ranks(index: np.ndarray, caps: np.ndarray, over: np.ndarray, model: np.ndarray, serves: np.ndarray) -> None:
    """Where the best model does not serve, perhaps the next one does: ``model`` and ``serves`` [runs] in place."""
    who = np.flatnonzero(~serves)
    index, over, last = index.take(who, axis=1), over[who], model[who]
    while who.size:
        index[last, np.arange(who.size)] = -np.inf
        best, last = _best(index)
        cap = np.where(best > 0, caps[last], 0)
        taken = over < cap
        model[who[taken]], serves[who[taken]] = last[taken], True
        over = over - cap
        others = np.flatnonzero(~taken & (best > 0) & (over < 1))
        index, over, last, who = index.take(others, axis=1), over[others], last[others], who[others]


def _best(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest of each column and where it is first.

    Maxima of small whole numbers use vector instructions, which argmax along columns does not: it takes thrice as long.
    """
    models = len(index)
    best = index.max(axis=0)
    places = np.multiply(index == best, np.arange(models, 0, -1, dtype=np.int16)[:, None], dtype=np.int16)
    return best, models - places.max(axis=0).astype(np.intp)


def _explore(
    upper_r: np.ndarray,
    caps: np.ndarray,
    uniform: np.ndarray,
    untried: np.ndarray,
    model: np.ndarray,
    serves: np.ndarray,
) -> bool:
    """Where a model was never tried, the first of those serves with its cap, or nobody does; whether there was any."""
    models = len(caps)
    while True:
        who = np.flatnonzero(untried < models)
        gone = who[upper_r[untried[who], who] < 0]
        if not gone.size:
            break
        untried[gone] += 1
    model[who] = untried[who]
    serves[who] = uniform[who] < caps[model[who]]
    untried[who] += serves[who]
    return bool(who.size)


# Plain Python.
class PrimalDual:
    """The rule as bandit libraries write theirs: ``select`` an arm, ``update`` it with what came of it."""

    def __init__(self, instance: Plain) -> None:
        models = len(instance.reward)
        self.horizon, self.budget, self.due = instance.horizon, instance.budget, instance.target * instance.horizon
        self.level, self.step = gamma(instance), step_size(instance)
        self.caps, self.bound = instance.caps.tolist(), instance.cost_bound.tolist()
        self.upper_r, self.lower_c, self.upper_g = [1.0] * models, [0.0] * models, [1.0] * models
        self.count, self.sum_r, self.sum_c, self.sum_g = [0] * models, [0.0] * models, [0.0] * models, [0.0] * models
        self.open, self.untried, self.dearest = list(range(models)), list(range(models)), np.inf
        self.price, self.cover, self.spent, self.service, self.t = 0.0, 0.0, 0.0, 0.0, 0

    def select(self, uniform: float) -> int | None:
        """The model of this round, or None to decline."""
        left, bound, caps = self.budget - self.spent, self.bound, self.caps
        if left < self.dearest:  # the guard of the hard budget
            self.open = [m for m in self.open if bound[m] <= left]
            self.dearest = max((bound[m] for m in self.open), default=0.0)
            self.untried = [m for m in self.untried if bound[m] <= left]
        if self.untried:
            return self.untried[0] if uniform < caps[self.untried[0]] else None
        price, cover, upper_r, lower_c, upper_g = self.price, self.cover, self.upper_r, self.lower_c, self.upper_g
        index = {m: upper_r[m] - price * lower_c[m] + cover * upper_g[m] for m in self.open}
        while index and uniform < 1:
            best = max(index, key=index.__getitem__)
            if index[best] <= 0:
                return None
            if uniform < caps[best]:
                return best
            uniform -= caps[best]
            del index[best]
        return None

    def update(self, model: int | None, reward: float, cost: float, service: float) -> None:
        """Learn from the round; ``model`` None was declined."""
        to_come = self.horizon - self.t
        spending = max(min((self.budget - self.spent) / to_come, 1.0), SMALLEST_SPENDING)
        wanted = min(max((self.due - self.service) / to_come, 0.0), 1.0)
        if model is not None:
            self._learn(model, reward, cost, service)
        relative = self.price * spending + self.step * (cost / spending - 1)
        self.price = min(max(relative, 0.0), 1.0) / spending
        self.cover = min(max(self.cover + COVERING_GAIN * self.step * (wanted - service), 0.0), COVERING_CAP)
        self.t += 1

    def _learn(self, model: int, reward: float, cost: float, service: float) -> None:
        self._add(model, reward, cost, service)
        self._bound(model)

    def _add(self, model: int, reward: float, cost: float, service: float) -> None:
        if self.untried and self.untried[0] == model:
            del self.untried[0]
        self.count[model] += 1
        self.sum_r[model] += reward
        self.sum_c[model] += cost
        self.sum_g[model] += service
        self.spent += cost
        self.service += service

    def _bound(self, model: int) -> None:
        """Renew the bounds of a model that has served."""
        count = self.count[model]
        width = self.level / count
        width_c = width * self.bound[model]
        r, c, g = self.sum_r[model] / count, self.sum_c[model] / count, self.sum_g[model] / count
        self.upper_r[model] = min(r + (width * r) ** 0.5 + width, 1.0)
        self.lower_c[model] = max(c - (width_c * c) ** 0.5 - width_c, 0.0)
        self.upper_g[model] = min(g + (width * g) ** 0.5 + width, 1.0)


class Anew(PrimalDual):
    """The same rule, every index computed in every round, as ``IndexPolicy`` of SMPyBandits and its kin do."""

    def select(self, uniform: float) -> int | None:
        """The model of this round, or None to decline."""
        for model in self.open:
            if self.count[model]:
                self._bound(model)
        return super().select(uniform)

    def _learn(self, model: int, reward: float, cost: float, service: float) -> None:
        self._add(model, reward, cost, service)


class Arms:
    """The world, one round at a time, in Python numbers."""

    def __init__(self, instance: Plain, seed: np.random.SeedSequence) -> None:
        self.uniform = random.Random(int(seed.generate_state(1, np.uint64)[0])).random
        self.quality, self.met = instance.reward.tolist(), instance.service.tolist()
        self.table, self.cells = instance.cost_table.tolist(), instance.cost_table.shape[1] - 1

    def pull(self, model: int) -> tuple[float, float, float]:
        """(reward, cost, service) of one task."""
        position = self.uniform() * self.cells
        cell = int(position)
        low, high = self.table[model][cell], self.table[model][cell + 1]
        reward = 1.0 if self.uniform() < self.quality[model] else 0.0
        service = 1.0 if self.uniform() < self.met[model] else 0.0
        return reward, low + (high - low) * (position - cell), service


def python_loop(instance: Plain, runs: int, seed: int) -> Totals:
    """Plain Python, one run at a time, tuned: only what changed is computed. One core.

    Python numbers and lists: on eleven models each call of NumPy costs more than the loop it would replace. To be timed
    on few runs and rounds (``instance.shortened``) and scaled per decision.
    """
    return _python_loop(PrimalDual, instance, runs, seed)


def python_anew(instance: Plain, runs: int, seed: int) -> Totals:
    """Plain Python as bandit libraries write it: a policy object that computes all indices in every round. One core."""
    return _python_loop(Anew, instance, runs, seed)


def _python_loop(rule: type[PrimalDual], instance: Plain, runs: int, seed: int) -> Totals:
    totals = np.zeros((4, runs))
    for run, stream in enumerate(np.random.SeedSequence(seed).spawn(runs)):
        policy, arms = rule(instance), Arms(instance, stream)
        for _ in range(instance.horizon):
            model = policy.select(arms.uniform())
            reward, cost, service = arms.pull(model) if model is not None else (0.0, 0.0, 0.0)
            policy.update(model, reward, cost, service)
            totals[0, run] += reward
        totals[1:, run] = policy.spent, policy.service, sum(policy.count)
    return Totals(reward=totals[0], spent=totals[1], service=totals[2], served=totals[3])


def mabwiser_ucb(instance: Plain, runs: int, seed: int) -> Totals:
    """MABWiser's UCB1 through ``fit``, ``predict`` and ``partial_fit``: *a different, simpler rule*, for scale only.

    It maximises reward and knows neither budget nor target nor caps, so it serves every round and overspends; what it
    used is entered all the same. To be timed on a few hundred rounds and scaled per decision. One core.
    """
    from mabwiser.mab import MAB, LearningPolicy  # type: ignore[import-not-found,import-untyped,unused-ignore]

    totals = np.zeros((4, runs))
    models = list(range(len(instance.reward)))
    for run, stream in enumerate(np.random.SeedSequence(seed).spawn(runs)):
        arms = Arms(instance, stream)
        bandit = MAB(models, LearningPolicy.UCB1(alpha=1.0), seed=int(stream.generate_state(1)[0]))
        first = [arms.pull(model) for model in models[: instance.horizon]]
        totals[:3, run] = np.sum(first, axis=0)
        bandit.fit(decisions=models[: instance.horizon], rewards=[reward for reward, _, _ in first])
        for _ in range(instance.horizon - len(first)):
            model = bandit.predict()
            outcome = arms.pull(model)
            bandit.partial_fit(decisions=[model], rewards=[outcome[0]])
            totals[:3, run] += outcome
    return Totals(reward=totals[0], spent=totals[1], service=totals[2], served=np.full(runs, float(instance.horizon)))
