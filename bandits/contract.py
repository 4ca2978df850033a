"""What rules and forecasters must return, checked while their program is traced: a sentence in place of a loop's error.

Nothing of it is left in the compiled program.
"""

from typing import Any

import jax
import jax.numpy as jnp


class ContractError(TypeError):
    """A method returned what its contract does not allow; the text says what it did and what it must do."""

    def __init__(self, part: Any, method: str, text: str) -> None:
        super().__init__(f"{type(part).__name__}.{method} {text}")
        self.part, self.method, self.text = part, method, text


def decided(part: Any, returned: Any, what: str) -> tuple[Any, Any]:
    """(decision, state) that ``decide`` returned; ``what`` names the decision."""
    if not isinstance(returned, tuple) or len(returned) != 2:
        kind = f"{len(returned)} values" if isinstance(returned, tuple) else _named(returned)
        raise ContractError(part, "decide", f"returned {kind}; it must return a pair, ({what}, state)")
    return returned


def array(part: Any, method: str, value: Any, what: str, shape: tuple[int, ...], kind: Any) -> jax.Array:
    """``value`` if it is an array of this shape and kind of number (``jnp.floating`` or ``jnp.bool_``)."""
    wanted = f"{what}, {'a bool' if kind is jnp.bool_ else 'a float'} array of shape {shape}"
    if not hasattr(value, "dtype"):
        raise ContractError(part, method, f"returned {_named(value)}; it must return {wanted}")
    if value.shape != shape or not jnp.issubdtype(value.dtype, kind):
        found = f"{value.dtype} of shape {value.shape}"
        raise ContractError(part, method, f"returned {found}; it must return {wanted}")
    return jnp.asarray(value)


def kept(part: Any, method: str, before: Any, after: Any) -> Any:
    """The state ``after`` a method, if it is as the one ``before``: the same structure, shapes and types."""
    old, new = jax.tree.leaves_with_path(before), jax.tree.leaves_with_path(after)
    advice = "every round must keep the structure, shapes and types that init returned"
    if not same_structure(before, after):
        raise ContractError(part, method, f"returned the state {_kind(after)} after {_kind(before)}; {advice}")
    for (path, was), (_, becomes) in zip(old, new, strict=True):
        if _differs(was, becomes):
            name = f"state{jax.tree_util.keystr(path)}"
            raise ContractError(part, method, f"returned {name} as {_kind(becomes)} after {_kind(was)}; {advice}")
    return after


def kept_over_round(part: Any, before: Any, decided: Any, updated: Any) -> Any:
    """The state ``updated`` at the end of a round, if it is as the one ``before``.

    In between, ``decided`` may hold more: what ``decide`` notes for the ``update`` of the same round. Where ``update``
    hands on what it was given, ``decide`` is named.
    """
    handed_on = _kind(decided) == _kind(updated)
    return kept(part, "decide" if handed_on else "update", before, updated)


def same_structure(before: Any, after: Any) -> bool:
    """Whether two pytrees differ in their leaves alone."""
    return bool(jax.tree.structure(before) == jax.tree.structure(after))  # type: ignore[operator]


def begun(part: Any, state: Any) -> Any:
    """The state that ``init`` returned, if it is made of arrays and numbers."""
    for path, leaf in jax.tree.leaves_with_path(state):
        if not _numeric(leaf):
            name = f"state{jax.tree_util.keystr(path)}"
            raise ContractError(
                part, "init", f"returned {name} as {_named(leaf)}; a state is made of arrays and numbers"
            )
    return state


def _numeric(leaf: Any) -> bool:
    return isinstance(leaf, bool | int | float) or hasattr(leaf, "dtype")


def _differs(was: Any, becomes: Any) -> bool:
    """Whether a loop would refuse the change; the type of a Python number gives way to that of an array."""
    if not _numeric(becomes) or jnp.shape(was) != jnp.shape(becomes):
        return True
    weak = isinstance(was, bool | int | float) or getattr(was, "weak_type", False)
    before = jnp.result_type(was, becomes) if weak else jnp.result_type(was)
    return before != jnp.result_type(becomes)


def _named(value: Any) -> str:
    if isinstance(value, jax.Array):
        return "an array"
    return "nothing" if value is None else f"a {type(value).__name__}"


def _kind(value: Any) -> str:
    """A state's types and shapes in short, e.g. (float32[11], int32[])."""

    def leaf(value: Any) -> str:
        return f"{jnp.result_type(value)}{list(jnp.shape(value))}" if _numeric(value) else _named(value)

    return str(jax.tree.map(leaf, value)).replace("'", "")
