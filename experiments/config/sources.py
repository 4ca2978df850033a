"""The code that results depend on, as SHA-256 digests: each rule's own files, and what all cells share.

A module that registers rules, and that no shared module imports, counts for the cells that use its rules. Everything
else in ``envs`` and ``bandits``, and what decides numbers in ``experiments``, is the *engine*: it counts for every
cell. What reads configurations, stores, displays or publishes is left out.
"""

import ast
import hashlib
import inspect
import json
import marshal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from types import CodeType
from typing import Any

import jax

from experiments.config.study import REGISTRIES

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bandits", "envs", "experiments")
PROGRAM = "the program"  # the engine, in words
NUMERIC = (
    "config/cells",
    "engine/batch",
    "engine/compiler",
    "engine/deployment_regret",
    "engine/rollout",
    "engine/vectorize",
    "results/benchmark",
    "results/measure",
    "results/metrics/measured",
)
_INSTALLED = tuple({Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")})


@cache
def engine() -> str:
    """A digest of the code that all cells share."""
    return digest({name: _sha256(path) for name, path in _engine_modules().items()})


@cache
def everything() -> str:
    """A digest of all our sources, for what only this very program can read: compiled programs and checkpoints."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return digest({_name(file): _sha256(file) for file in files})


def of(kind: str, name: str) -> dict[str, Any]:
    """The code of a registered class; ``kind`` is a key of ``REGISTRIES``.

    ``name``; ``sha256`` of the file that defines it; ``imports``, module -> SHA-256 of what that file imports besides
    the engine and installed packages; ``text``, the file's content where it is a user's, else None.
    """
    return {"name": name, **_found(REGISTRIES[kind][name])}


def code(source: Mapping[str, Any]) -> str:
    """A digest of what ``of`` found."""
    return digest([source["sha256"], source.get("imports", {})])


def components(found: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What a cell depends on, in words -> its digest, from the sources of a cell."""
    words = {kind: registry.kind for kind, registry in REGISTRIES.items()}
    return {
        f"{words.get(kind, kind)} {source['name']}" if "name" in source else PROGRAM: code(source)
        for kind, source in found.items()
    }


def digest(value: Any) -> str:
    """SHA-256 of a plain value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()


@cache
def _found(cls: type) -> Mapping[str, Any]:
    source = _source(cls.__module__)
    if source is None:  # typed into an interpreter
        return {"sha256": digest(_typed(cls)), "imports": {}, "text": _typed(cls)}
    text = None if _is_ours(cls.__module__) else source.read_text(encoding="utf-8", errors="replace")
    return {"sha256": _sha256(source), "imports": dict(_imports(cls.__module__)), "text": text}


@cache
def _imports(module: str) -> Mapping[str, str]:
    """Module -> SHA-256 of what a module imports, and what that imports in turn, but for engine and installed ones."""
    found: dict[str, str] = {}
    left = [module]
    while left:
        for name in _imported(left.pop()):
            source = _source(name)
            if name == module or name in found or source is None or name in _engine_modules():
                continue
            if _is_ours(name) or not any(source.is_relative_to(folder) for folder in _INSTALLED):
                found[name] = _sha256(source)
                left.append(name)
    return found


@cache
def _engine_modules() -> dict[str, Path]:
    """Name -> file of every module of the engine."""
    files = [file for package in ("bandits", "envs") for file in (ROOT / package).rglob("*.py")]
    files += [ROOT / "experiments" / f"{name}.py" for name in NUMERIC]
    modules = {_name(file): file for file in sorted(files)}
    parts = {cls.__module__ for registry in REGISTRIES.values() for cls in registry.values()} & modules.keys()
    shared = modules.keys() - parts
    while more := {name for module in shared for name in _imported(module)} & (parts - shared):
        shared |= more
    return {name: file for name, file in modules.items() if name in shared}


@cache
def _imported(module: str) -> frozenset[str]:
    """The names that a module's file imports, of which some are modules and some are what modules hold."""
    source = _source(module)
    assert source is not None
    package = module if source.name == "__init__.py" else module.rpartition(".")[0]
    return frozenset(_names(ast.parse(source.read_bytes()), package))


def _names(tree: ast.AST, package: str) -> Iterator[str]:
    for node in _statements(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield start
            yield from (f"{start}.{alias.name}" for alias in node.names)


def _statements(tree: ast.AST) -> Iterator[ast.AST]:
    """All statements of a module, those within others too; expressions, which are most of a tree, import nothing."""
    left = [tree]
    while left:
        node = left.pop()
        yield node
        for block in ("body", "orelse", "finalbody", "handlers", "cases"):
            inner = getattr(node, block, ())
            left.extend(inner if isinstance(inner, list) else ())  # a lambda's body is an expression


def _source(module: str) -> Path | None:
    """A module's file, where it has one."""
    if _is_ours(module):
        stem = ROOT.joinpath(*module.split("."))
        file = stem / "__init__.py" if stem.is_dir() else stem.with_suffix(".py")
    else:
        place = getattr(sys.modules.get(module), "__file__", None)
        if place is None or not place.endswith(".py"):
            return None
        file = Path(place).resolve()
    return file if file.is_file() else None


def _name(file: Path) -> str:
    """The module that a file of ours is."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES


def _typed(cls: type) -> str:
    """The code of a class that no file holds: its text, as far as the interpreter has kept it, else its bytes."""
    try:
        return inspect.getsource(cls)
    except (OSError, TypeError):
        methods = {name: value.__code__ for name, value in vars(cls).items() if inspect.isfunction(value)}
        return "\n".join([cls.__qualname__, *(f"{name}: {_typed_method(code)}" for name, code in methods.items())])


def _typed_method(code: CodeType) -> str:
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):
        return marshal.dumps(code).hex()


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def versions() -> dict[str, Any]:
    """What computes results here: packages, Python, device, and the git revision of a checkout."""
    found: dict[str, Any] = {name: metadata.version(name) for name in ("jax", "jaxlib", "numpy", "optax", "scipy")}
    found |= {"python": sys.version.split()[0], "device": str(jax.devices()[0].device_kind)}
    try:
        found["llm_bandits"] = metadata.version("llm-bandits")
    except metadata.PackageNotFoundError:
        found["llm_bandits"] = "not installed"
    if (ROOT / ".git").exists():
        found["git"] = _git("rev-parse", "HEAD")
        found["git_dirty"] = bool(_git("status", "--porcelain", "--untracked-files=no"))
    return found


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()
