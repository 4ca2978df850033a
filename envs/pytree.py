"""Pytree registration for classes that choose the program: rules, forecasters, demand processes."""

import dataclasses
from typing import Any, TypeVar

import jax

T = TypeVar("T", bound=type)


def register_nominal_pytree(cls: T) -> T:
    """Register a frozen dataclass as a pytree whose structure equals that of no other class.

    ``jax.tree_util.register_dataclass`` would not do: in jax 0.10 the structures of two classes it registered compare
    equal when their static values and numbers of leaves do. Their hashes differ, but the cache of ``jit`` compares part
    of a hash only, so that now and then a call for one rule would run the program compiled for another. A class that
    is registered apart already stays as it is.
    """
    if vars(cls).get("_registered_apart"):
        return cls
    fields = dataclasses.fields(cls)
    data = [field.name for field in fields if not field.metadata.get("static")]
    static = [field.name for field in fields if field.metadata.get("static")]

    def flatten(rule: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
        leaves = [(jax.tree_util.GetAttrKey(name), getattr(rule, name)) for name in data]
        return leaves, (cls, *(getattr(rule, name) for name in static))

    def unflatten(auxiliary: tuple[Any, ...], leaves: Any) -> Any:
        return cls(**dict(zip(data, leaves, strict=True)), **dict(zip(static, auxiliary[1:], strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    cls._registered_apart = True  # type: ignore[attr-defined]
    return cls
