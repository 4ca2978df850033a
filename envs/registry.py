"""One registry for everything that is found by name: routing and deployment rules, forecasters, demand processes.

A class enters by its decorator, inside this package or in a file of the user's::

    @routing_rule("mine")
    class Mine(RoutingRule): ...

The decorator makes it a frozen pytree dataclass. A name is given once: a second class of that name is refused, whoever
registers it.
"""

import dataclasses
import importlib
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from envs.errors import InputError, nearest
from envs.parameters import wanted
from envs.pytree import register_nominal_pytree

C = TypeVar("C", bound=type)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parameter:
    """One parameter of a registered class."""

    name: str
    default: Any  # None where it must be given
    allowed: str  # what its value must do, e.g. "lie in [0, 1]"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Description:
    """A registered class in words."""

    name: str
    summary: str  # the first line of its docstring
    parameters: tuple[Parameter, ...]


class Registry(dict[str, Any]):
    """Name -> class, of one kind."""

    def __init__(
        self,
        kind: str,
        base: type,
        *,
        reserved: Iterable[str] = (),
        keys: Iterable[str] = ("name",),
        renamed: Mapping[str, str] | None = None,
    ) -> None:
        """``kind`` as in "routing rule"; members derive from ``base``.

        ``reserved`` names mean something else where members are named in a configuration, and ``keys`` beside a
        member's parameters: neither a member nor a parameter may be called so. ``renamed`` gives the new names of
        members that were once called otherwise.
        """
        super().__init__()
        self.renamed = dict(renamed or {})
        self.kind, self.base, self.reserved, self.keys_beside = kind, base, frozenset(reserved), frozenset(keys)

    def register(self, name: str) -> Callable[[C], C]:
        """Class decorator: make the class a frozen pytree dataclass and register it under ``name``.

        InputError where the name is taken or cannot be one, or the class cannot be a member.
        """

        def enter(cls: C) -> C:
            self._refuse_name(name)
            if not issubclass(cls, self.base):
                raise InputError(f"{cls.__name__} is no {self.kind}: it must derive from {self.base.__name__}")
            made = _as_pytree(cls)
            for field in dataclasses.fields(made):  # type: ignore[arg-type]
                if field.metadata and field.name in self.keys_beside:
                    raise InputError(
                        f"{self.kind} {name!r}: a parameter cannot be called {field.name!r}, which is a key beside them"
                    )
            self[name] = made
            return made

        return enter

    def find(self, name: Any, where: str) -> type:
        """The class of that name; InputError names ``where``, the place of the name, and the nearest name there is."""
        self.refuse_renamed(name, where)
        if not isinstance(name, str) or name not in self:
            raise InputError(f"{where} is {name!r}, which is no {self.kind}; {nearest(str(name), list(self))}")
        found: type = self[name]
        return found

    def refuse_renamed(self, name: Any, where: str) -> None:
        """InputError where a member is called by its old name."""
        if isinstance(name, str) and name in self.renamed and name not in self:
            raise InputError(f"{where}: the {self.kind} {name!r} is now called {self.renamed[name]!r}")

    def discover(self, package: str) -> None:
        """Import every module of a package, whose decorators register what it holds."""
        for module in pkgutil.iter_modules(sys.modules[package].__path__):
            importlib.import_module(f"{package}.{module.name}")

    def forget(self, module: str) -> None:
        """Remove what a module (or all whose names begin so) has registered."""
        for name in [name for name, cls in self.items() if cls.__module__.startswith(module)]:
            del self[name]

    def describe(self) -> list[Description]:
        """Every member in words, by name."""
        return [describe(name, cls) for name, cls in sorted(self.items())]

    def _refuse_name(self, name: Any) -> None:
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w-]*", name):
            raise InputError(f"a {self.kind} cannot be called {name!r}; use letters, digits, - and _")
        if name in self.reserved:
            raise InputError(f"a {self.kind} cannot be called {name!r}, which has another meaning; choose another name")
        if name in self:
            place = getattr(sys.modules.get(self[name].__module__), "__file__", None)
            where = f" (in {Path(place).name})" if place else ""
            raise InputError(f"there is a {self.kind} called {name!r} already{where}; choose another name")


def describe(name: str, cls: type) -> Description:
    """A class with parameters in words."""
    parameters = [
        Parameter(
            name=field.name,
            default=None if field.default is dataclasses.MISSING else field.default,
            allowed=wanted(field.metadata),
        )
        for field in dataclasses.fields(cls)
        if field.metadata or field.default is not dataclasses.MISSING
    ]
    summary = (cls.__doc__ or "").strip().partition("\n")[0]
    return Description(name=name, summary=summary, parameters=tuple(parameters))


def _as_pytree(cls: C) -> C:
    """The class as a frozen pytree dataclass; one that is a dataclass already stays it."""
    if "__dataclass_fields__" not in vars(cls):
        cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)  # type: ignore[assignment]
    return register_nominal_pytree(cls)
