"""``vmap`` with the batch as the *last* axis of everything inside: what makes a loop over many runs vectorise.

Rules, worlds and forecasters are written for one run. ``jax.vmap`` puts runs first, so that a run's handful of models
is the innermost axis, which compilers for CPUs do not turn into vector instructions. Here the program of one run is
traced once and read back operation by operation, each applied to arrays whose last axis are the runs ("lanes"): sums
over models become a few vector additions. Operations without a reading of their own go through ``jax.vmap``, so nothing
is left out; random bits are those of ``jax.random`` (Threefry-2x32, Salmon et al., SC 2011), for all lanes at once.

What XLA would otherwise compute again for each use (sums, words of random bits) is stored; see
``bandits.solvers.materialize``. What nobody but one sum needs is not: it is made entry by entry, where each is added.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import accumulate
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from bandits.solvers.materialize import Materialize, materializer

_Entries: TypeAlias = Callable[[int, int], jax.Array]
_Reading: TypeAlias = Callable[[Any, list[Any], "_Width"], list[Any] | None]

_LONGEST = 128  # entries of an axis whose reduction is written out
_MUCH = 4  # operations that are not done again for each use, or for each entry of an axis
_HASH = 60  # operations of a Threefry-2x32
_ELEMENTWISE = frozenset(
    [
        *("abs", "add", "add_any", "and", "atan2", "bitcast_convert_type", "cbrt", "ceil", "clamp", "clz"),
        *("convert_element_type", "copy", "cos", "cosh", "digamma", "div", "eq", "erf", "erf_inv", "erfc", "exp"),
        *("exp2", "expm1", "floor", "ge", "gt", "integer_pow", "is_finite", "le", "lgamma", "log", "log1p"),
        *("logistic", "lt", "max", "min", "mul", "ne", "neg", "nextafter", "not", "or", "population_count", "pow"),
        *("real", "reduce_precision", "rem", "round", "rsqrt", "select_n", "shift_left", "shift_right_arithmetic"),
        *("shift_right_logical", "sign", "sin", "sinh", "sqrt", "square", "stop_gradient", "sub", "tan", "tanh"),
        "xor",
    ]
)
_CHEAP = frozenset(
    [
        *("abs", "add", "and", "clamp", "convert_element_type", "eq", "ge", "gt", "is_finite", "le", "lt", "max"),
        *("min", "mul", "ne", "neg", "not", "or", "select_n", "sub", "xor"),
    ]
)  # of the elementwise ones: may be computed once more rather than be read
_COMPARISONS = frozenset(["eq", "ge", "gt", "le", "lt", "ne"])
_FOLDS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "reduce_sum": lax.add,
    "reduce_max": lax.max,
    "reduce_min": lax.min,
    "reduce_and": lax.bitwise_and,
    "reduce_or": lax.bitwise_or,
}
_RUNNING = {"cumsum": lax.add, "cummax": lax.max, "cummin": lax.min}
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "custom_jvp_call": "call_jaxpr"}


@dataclass(frozen=True)
class _Width:
    """How many lanes there are, and how to compute something for them once."""

    size: int
    stored: Materialize


class _Lanes:
    """A value that differs between runs: an array with a trailing axis of lanes, or random keys as raw words.

    ``entries`` makes its k-th entry along an axis from entries of what it was made of, where that is cheap; it is asked
    only if the value is used once, or is ``free``.
    """

    def __init__(
        self, array: jax.Array, *, key: bool = False, entries: _Entries | None = None, free: bool = False, work: int = 0
    ) -> None:
        self.array = array  # [..., L]; of keys uint32 [2, ..., L]
        self.key = key
        self.entries = entries
        self.free = free
        self.once = True
        self.work = work  # operations since something was stored

    def entry(self, axis: int, k: int) -> jax.Array:
        """The k-th entry along an axis, [..., L]; of what has no axes, itself."""
        if self.array.ndim == 1:
            return self.array
        if self.entries is None or not (self.once or self.free):
            return lax.index_in_dim(self.array, k, axis, keepdims=False)
        return self.entries(axis, k)

    def stored(self, width: _Width) -> "_Lanes":
        """The same value, kept."""
        return _Lanes(width.stored(lambda: self.array))

    def settled(self) -> "_Lanes":
        """The same value, to be read as it is: where it would be computed anew is within a loop or a branch."""
        return _Lanes(self.array, key=self.key)


def vmap_last(function: Callable[..., Any], batched: Sequence[bool]) -> Callable[..., Any]:
    """``function`` of one run, mapped over the last axis of the arguments that are ``batched``, and of all results.

    The mapped function takes ``always`` [] first (see ``bandits.solvers.materialize``), then the arguments: pytrees of
    arrays. Those not batched are shared by all runs. Random keys are batched along their only axis.
    """

    def mapped(always: jax.Array, *arguments: Any) -> Any:
        pairs = list(zip(arguments, batched, strict=True))
        size = next(leaf.shape[-1] for given, many in pairs if many for leaf in jax.tree.leaves(given))
        singles = [jax.tree.map(_single, given) if many else given for given, many in pairs]
        closed, shape = jax.make_jaxpr(function, return_shape=True)(*singles)
        inputs = [_lane(leaf) if many else leaf for given, many in pairs for leaf in jax.tree.leaves(given)]
        width = _Width(size, materializer(always))
        results = _evaluate(closed.jaxpr, closed.consts, inputs, width)
        return jax.tree.unflatten(jax.tree.structure(shape), [_unlane(_spread(value, width)) for value in results])

    return mapped


def _single(leaf: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape[:-1], leaf.dtype)


def _lane(leaf: jax.Array) -> _Lanes:
    if not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return _Lanes(leaf)
    return _Lanes(jnp.moveaxis(jax.random.key_data(leaf), -1, 0), key=True)


def _unlane(value: _Lanes) -> jax.Array:
    return jax.random.wrap_key_data(jnp.moveaxis(value.array, 0, -1), impl="threefry2x32") if value.key else value.array


def _spread(value: Any, width: _Width) -> _Lanes:
    """A value as lanes; a shared one is the same in all of them."""
    if isinstance(value, _Lanes):
        return value

    def spread(shared: Any) -> jax.Array:
        return lax.broadcast_in_dim(shared, (*jnp.shape(shared), width.size), range(jnp.ndim(shared)))

    def entries(axis: int, k: int) -> jax.Array:
        return spread(value[(slice(None),) * axis + (k,)])

    return _Lanes(spread(value), entries=entries, free=True)


def _evaluate(program: core.Jaxpr, consts: Sequence[Any], inputs: Sequence[Any], width: _Width) -> list[Any]:
    """The results of a traced program, each shared or ``_Lanes``."""
    known: dict[Any, Any] = {}
    atoms = [*(atom for equation in program.eqns for atom in equation.invars), *program.outvars]
    uses = Counter(atom for atom in atoms if not isinstance(atom, core.Literal))

    def read(atom: Any) -> Any:
        return atom.val if isinstance(atom, core.Literal) else known[atom]

    def keep(variables: Sequence[Any], values: Sequence[Any]) -> None:
        for variable, value in zip(variables, values, strict=True):
            if isinstance(value, _Lanes):
                value = value.stored(width) if value.work > _MUCH and uses[variable] > 1 else value
                value.once = value.once and uses[variable] <= 1
            known[variable] = value

    keep((*program.constvars, *program.invars), (*consts, *inputs))
    for equation in program.eqns:
        keep(equation.outvars, _apply(equation, [read(atom) for atom in equation.invars], width))
    return [read(atom) for atom in program.outvars]


def _apply(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    """The results of one operation."""
    name, parameters = equation.primitive.name, equation.params
    if name in _CALLS:
        inner = parameters[_CALLS[name]]
        closed = inner if hasattr(inner, "consts") else core.ClosedJaxpr(inner, ())
        return _evaluate(closed.jaxpr, closed.consts, inputs, width)
    if name == "while":
        return _while(equation, inputs, width)
    if name == "cond" and not isinstance(inputs[0], _Lanes):
        return _cond(equation, inputs, width)
    if not any(isinstance(value, _Lanes) for value in inputs):
        return [_counted_up(equation)] if name == "iota" else _bound(equation, inputs)
    reading = _READINGS.get(name)
    if any(isinstance(value, _Lanes) and value.key for value in inputs) and not name.startswith("random_"):
        found = _word_by_word(equation, inputs, width, reading) if reading else None
    else:
        found = reading(equation, inputs, width) if reading else None
    return _fallback(equation, inputs, width) if found is None else found


def _bound(equation: Any, inputs: Sequence[Any]) -> list[Any]:
    """The results of one operation as it stands."""
    results = equation.primitive.bind(*inputs, **equation.primitive.get_bind_params(equation.params))
    return list(results) if equation.primitive.multiple_results else [results]


def _counted_up(equation: Any) -> np.ndarray:
    """0, 1, 2, ... along an axis, known while the program is made: its entries are constants."""
    shape, axis = equation.params["shape"], equation.params["dimension"]
    return np.indices(shape)[axis].astype(equation.params["dtype"])


def _fallback(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    """Through ``jax.vmap``, which wants lanes first."""
    values = [_unlane(value) if isinstance(value, _Lanes) else value for value in inputs]
    axes = [-1 if isinstance(value, _Lanes) else None for value in inputs]
    results = jax.vmap(lambda *one: _bound(equation, one), axes, 0)(*values)
    return [_lane(jnp.moveaxis(result, 0, -1)) for result in results]


def _word_by_word(equation: Any, inputs: list[Any], width: _Width, reading: _Reading) -> list[Any] | None:
    """Moving random keys about is moving each of their two words about."""
    split = [
        [_Lanes(word) for word in _slices(value.array, 0)] if isinstance(value, _Lanes) and value.key else None
        for value in inputs
    ]
    moved = []
    for word in range(2):
        mine = [value if words is None else words[word] for value, words in zip(inputs, split, strict=True)]
        result = reading(equation, mine, width)
        if result is None:
            return None
        moved.append(result[0].array)
    return [_Lanes(jnp.stack(moved), key=True)]


def _arrays(inputs: list[Any], width: _Width) -> list[jax.Array]:
    return [_spread(value, width).array for value in inputs]


def _elementwise(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    values, name = [_spread(value, width) for value in inputs], equation.primitive.name

    def applied(arrays: Sequence[jax.Array]) -> jax.Array:
        shape = np.broadcast_shapes(*(array.shape for array in arrays))
        # Scalars go with any shape: literals, and the choice of select_n.
        return equation.primitive.bind(*(jnp.broadcast_to(a, shape) for a in arrays), **equation.params)

    def entries(axis: int, k: int) -> jax.Array:
        return applied([value.entry(axis, k) for value in values])

    # Masks are compared anew wherever they are used: that is less work than to keep them as bytes.
    free = name in _COMPARISONS and not all(isinstance(value, _Lanes) for value in inputs)
    return [
        _Lanes(
            applied([value.array for value in values]),
            entries=entries if name in _CHEAP else None,
            free=free,
            work=1 + sum(value.work for value in values),
        )
    ]


def _broadcast(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    (value,), shape = inputs, equation.params["shape"]
    dimensions = equation.params["broadcast_dimensions"]

    if value.work >= _MUCH and np.prod(shape) * width.size > value.array.size:
        value = value.stored(width)

    def spread(array: jax.Array, shape: tuple[int, ...], dimensions: Sequence[int]) -> jax.Array:
        return lax.broadcast_in_dim(array, (*shape, width.size), (*dimensions, len(shape)))

    def entries(axis: int, k: int) -> jax.Array:
        rest = [d - (d > axis) for d in dimensions if d != axis]
        array = value.array
        if axis in dimensions:
            own = dimensions.index(axis)
            array = value.entry(own, k if value.array.shape[own] == shape[axis] else 0)
        return spread(array, (*shape[:axis], *shape[axis + 1 :]), rest)

    return [_Lanes(spread(value.array, shape, dimensions), entries=entries, free=True, work=value.work)]


def _reshape(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    return [_Lanes(lax.reshape(inputs[0].array, (*equation.params["new_sizes"], width.size)))]


def _squeeze(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    return [_Lanes(lax.squeeze(inputs[0].array, equation.params["dimensions"]))]


def _expand(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    return [_Lanes(lax.expand_dims(inputs[0].array, equation.params["dimensions"]))]


def _transpose(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    order = equation.params["permutation"]
    return [_Lanes(lax.transpose(inputs[0].array, (*order, len(order))))]


def _slice(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    given = equation.params
    strides = None if given["strides"] is None else (*given["strides"], 1)
    limits = (*given["limit_indices"], width.size)
    return [_Lanes(lax.slice(inputs[0].array, (*given["start_indices"], 0), limits, strides))]


def _concatenate(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    arrays = _arrays(inputs, width)
    return [_Lanes(width.stored(lambda: lax.concatenate(arrays, equation.params["dimension"])))]


def _slices(array: jax.Array, axis: int) -> list[jax.Array]:
    return [lax.index_in_dim(array, k, axis, keepdims=False) for k in range(array.shape[axis])]


def _as_it_stands(equation: Any, inputs: list[Any]) -> list[Any]:
    """Axes are counted from the front, so an operation along one of them needs no change."""
    return [_Lanes(equation.primitive.bind(inputs[0].array, **equation.params))]


def _entries(value: _Lanes, axis: int) -> list[jax.Array]:
    return [value.entry(axis, k) for k in range(value.array.shape[axis])]


def _fold(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    (value,), operation = inputs, _FOLDS[equation.primitive.name]
    axes, shape = sorted(equation.params["axes"], reverse=True), inputs[0].array.shape
    if not axes or not all(0 < shape[axis] <= _LONGEST for axis in axes):
        return _as_it_stands(equation, inputs)

    def folded() -> jax.Array:
        last = reduce(operation, _entries(value, axes[0]))
        return reduce(lambda part, axis: reduce(operation, _slices(part, axis)), axes[1:], last)

    alone = all(shape[axis] == 1 for axis in axes)
    return [_Lanes(folded() if alone else width.stored(folded))]


def _running(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    (value,), axis, order = inputs, equation.params["axis"], -1 if equation.params["reverse"] else 1
    if not 0 < value.array.shape[axis] <= _LONGEST:
        return _as_it_stands(equation, inputs)

    def summed() -> list[jax.Array]:
        return list(accumulate(_entries(value, axis)[::order], _RUNNING[equation.primitive.name]))[::order]

    sums = width.stored(summed)
    whole = width.stored(lambda: jnp.stack(sums, axis))

    def entries(along: int, k: int) -> jax.Array:
        return sums[k] if along == axis else lax.index_in_dim(whole, k, along, keepdims=False)

    return [_Lanes(whole, entries=entries, free=True)]


def _arg(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    array, (axis,) = inputs[0].array, equation.params["axes"]
    if not 0 < array.shape[axis] <= _LONGEST or not jnp.issubdtype(array.dtype, jnp.floating):
        return _as_it_stands(equation, inputs)
    better = lax.gt if equation.primitive.name == "argmax" else lax.lt

    def place() -> jax.Array:
        best, *others = _entries(inputs[0], axis)
        found = jnp.zeros(best.shape, equation.params["index_dtype"])
        for k, other in enumerate(others, 1):
            wins = better(other, best) | (jnp.isnan(other) & ~jnp.isnan(best))
            best, found = jnp.where(wins, other, best), jnp.where(wins, k, found)
        return found

    return [_Lanes(width.stored(place))]


def _fold_in(equation: Any, inputs: list[Any], width: _Width) -> list[Any] | None:
    """New keys: Threefry of (0, data) under the old ones, as ``jax.random.fold_in``."""
    key, data = inputs
    if not isinstance(key, _Lanes):
        return None
    word = (data.array if isinstance(data, _Lanes) else jnp.asarray(data)[..., None]).astype(jnp.uint32)

    def folded() -> jax.Array:
        words = jnp.broadcast_to(word, key.array.shape[1:])
        return jnp.stack(_threefry(key.array[0], key.array[1], jnp.zeros_like(words), words))

    return [_Lanes(width.stored(folded), key=True)]


def _split(equation: Any, inputs: list[Any], width: _Width) -> list[Any] | None:
    """Keys [..., shape] from each one, as ``jax.random.split`` with partitionable Threefry."""
    key, shape = inputs[0], equation.params["shape"]
    if not jax.config.jax_threefry_partitionable:  # type: ignore[attr-defined]
        return None
    return [_Lanes(width.stored(lambda: jnp.stack(_counted(key.array, shape))), key=True)]


def _counted(keys: jax.Array, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array]:
    """Threefry of 0, 1, 2, ... under each of the keys [2, ..., L], two words [..., shape, L]."""
    *outer, lanes = keys.shape[1:]
    whole = (*outer, *shape, lanes)
    first, second = (jnp.broadcast_to(word.reshape((*outer, *(1 for _ in shape), lanes)), whole) for word in keys)
    count = jnp.arange(int(np.prod(shape)), dtype=jnp.uint32).reshape((*(1 for _ in outer), *shape, 1))
    return _threefry(first, second, jnp.zeros(whole, jnp.uint32), jnp.broadcast_to(count, whole))


def _threefry_words(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    """Two words [..., L], as ``threefry2x32_p``."""
    arrays = _arrays(inputs, width)
    shape = np.broadcast_shapes(*(array.shape for array in arrays))
    return [_Lanes(word, work=_HASH) for word in _threefry(*(jnp.broadcast_to(array, shape) for array in arrays))]


def _unwrap(equation: Any, inputs: list[Any], width: _Width) -> list[Any] | None:
    """The two words of each key."""
    return [_Lanes(jnp.moveaxis(inputs[0].array, 0, -2))]


def _stack(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    arrays = _arrays(inputs, width)
    return [_Lanes(width.stored(lambda: jnp.stack(arrays, equation.params["axis"])))]


def _bits(equation: Any, inputs: list[Any], width: _Width) -> list[Any] | None:
    """Random 32-bit words [..., shape, L], as ``jax.random.bits`` with partitionable Threefry."""
    key, shape = inputs[0], equation.params["shape"]
    if equation.params["bit_width"] != 32 or not jax.config.jax_threefry_partitionable:  # type: ignore[attr-defined]
        return None

    def drawn() -> jax.Array:
        high, low = _counted(key.array, shape)
        return high ^ low

    return [_Lanes(width.stored(drawn))]


def _threefry(key_1: jax.Array, key_2: jax.Array, word_1: jax.Array, word_2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Threefry-2x32, twenty rounds, written out so that it vectorises."""
    keys = (key_1, key_2, key_1 ^ key_2 ^ np.uint32(0x1BD11BDA))
    x, y = word_1 + keys[0], word_2 + keys[1]
    for group in range(5):
        for turn in ((13, 15, 26, 6), (17, 29, 16, 24))[group % 2]:
            x = x + y
            y = x ^ ((y << np.uint32(turn)) | (y >> np.uint32(32 - turn)))
        x, y = x + keys[(group + 1) % 3], y + keys[(group + 2) % 3] + np.uint32(group + 1)
    return x, y


def _linear_program(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    """Lanes are where the solver wants them: the axis before them, of its own lanes, joins them."""
    arrays = _arrays(inputs, width)
    own = arrays[-1].shape[0]
    results = equation.primitive.bind(*(array.reshape((*array.shape[:-2], own * width.size)) for array in arrays))
    return [_Lanes(result.reshape((*result.shape[:-1], own, width.size))) for result in results]


def _while(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    """A loop; where its end differs between lanes it goes on until all are done, and who is done keeps what it has."""
    given = equation.params
    inputs = _settled(inputs)
    number_cond, number_body = given["cond_nconsts"], given["body_nconsts"]
    cond_consts, body_consts = inputs[:number_cond], inputs[number_cond : number_cond + number_body]
    carry = inputs[number_cond + number_body :]
    body, cond = given["body_jaxpr"], given["cond_jaxpr"]
    spread = [isinstance(value, _Lanes) for value in carry]
    while True:  # until no more of the carry turns out to differ between lanes
        marked = _marked(body, [*body_consts, *_masked(carry, spread)])
        grown = [one or other for one, other in zip(spread, marked, strict=True)]
        if grown == spread:
            break
        spread = grown
    apart = _marked(cond, [*cond_consts, *_masked(carry, spread)])[0] or bool(cond.out_avals[0].shape)
    if apart:
        spread = [True] * len(carry)
    keys = [isinstance(value, _Lanes) and value.key for value in carry]

    def pack(values: Sequence[Any]) -> list[Any]:
        return [_spread(v, width).array if many else v for v, many in zip(values, spread, strict=True)]

    def unpack(values: Sequence[Any]) -> list[Any]:
        return [_Lanes(v, key=key) if many else v for v, many, key in zip(values, spread, keys, strict=True)]

    def going(values: Sequence[Any]) -> Any:
        return _evaluate(cond.jaxpr, cond.consts, [*cond_consts, *unpack(values)], width)[0]

    def go_on(values: Sequence[Any]) -> jax.Array:
        return jnp.any(_spread(going(values), width).array) if apart else going(values)

    def step(values: Sequence[Any]) -> list[Any]:
        stepped = pack(_evaluate(body.jaxpr, body.consts, [*body_consts, *unpack(values)], width))
        if not apart:
            return stepped
        active = _spread(going(values), width).array

        def moved(new: jax.Array, old: jax.Array, key: bool) -> jax.Array:
            own, outer = new.ndim - active.ndim - key, active.shape[:-1]
            mask = active.reshape((*(1,) * key, *outer, *(1,) * own, width.size))
            return jnp.where(jnp.broadcast_to(mask, new.shape), new, old)

        return list(map(moved, stepped, values, keys))

    return unpack(lax.while_loop(go_on, step, pack(carry)))


def _cond(equation: Any, inputs: list[Any], width: _Width) -> list[Any]:
    """A branch that all lanes take together."""
    index, operands = inputs[0], _settled(inputs[1:])
    branches = equation.params["branches"]
    marked = [_marked(branch, operands) for branch in branches]
    spread = [any(flags) for flags in zip(*marked, strict=True)]
    keys: list[bool] = []

    def taken(branch: Any) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            results = _evaluate(branch.jaxpr, branch.consts, operands, width)
            keys[:] = [isinstance(value, _Lanes) and value.key for value in results]
            return [_spread(v, width).array if many else v for v, many in zip(results, spread, strict=True)]

        return run

    results = lax.switch(index, [taken(branch) for branch in branches])
    return [_Lanes(v, key=key) if many else v for v, many, key in zip(results, spread, keys, strict=True)]


def _settled(values: Sequence[Any]) -> list[Any]:
    return [value.settled() if isinstance(value, _Lanes) else value for value in values]


def _masked(values: Sequence[Any], spread: Sequence[bool]) -> list[Any]:
    return [many if many else value for value, many in zip(values, spread, strict=True)]


def _marked(closed: core.ClosedJaxpr, inputs: Sequence[Any]) -> list[bool]:
    """Which results differ between lanes, where those inputs do that are ``True`` or ``_Lanes``."""
    known = dict.fromkeys(closed.jaxpr.constvars, False)
    given = [value is True or isinstance(value, _Lanes) for value in inputs]
    known |= dict(zip(closed.jaxpr.invars, given, strict=True))
    for equation in closed.jaxpr.eqns:
        differs = any(known[atom] for atom in equation.invars if not isinstance(atom, core.Literal))
        known |= dict.fromkeys(equation.outvars, differs)
    return [False if isinstance(atom, core.Literal) else known[atom] for atom in closed.jaxpr.outvars]


_READINGS: dict[str, _Reading] = {
    **dict.fromkeys(_ELEMENTWISE, _elementwise),
    "broadcast_in_dim": _broadcast,
    "reshape": _reshape,
    "squeeze": _squeeze,
    "expand_dims": _expand,
    "transpose": _transpose,
    "slice": _slice,
    "concatenate": _concatenate,
    "argmax": _arg,
    "argmin": _arg,
    "random_fold_in": _fold_in,
    "random_bits": _bits,
    "random_split": _split,
    "random_unwrap": _unwrap,
    "linear_program": _linear_program,
    "stack": _stack,
    "threefry2x32": _threefry_words,
    **dict.fromkeys(_FOLDS, _fold),
    **dict.fromkeys(_RUNNING, _running),
}
