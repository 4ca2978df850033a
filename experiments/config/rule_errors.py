"""Errors in a user's rule: whether an error is one, and one sentence with its place and what to write instead."""

import inspect
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import jax

from bandits.contract import ContractError
from envs.errors import InputError
from experiments import interrupt

USER_MODULE = "llm_bandits_user_rules_"  # begins the name of a user's file as a module
_user_modules: set[str] = set()  # further modules of the user's, see ``theirs``
_LONGEST = 300  # characters of an error's own words
_LATER = "a value that is known only when the compiled study runs"
_ADVICE: dict[str, str] = {
    "TracerBoolConversionError": f"`if`, `while`, `and` or `or` on {_LATER}; use jnp.where or jax.lax.cond",
    "TracerIntegerConversionError": f"an index or a length from {_LATER}; use jnp.take, jnp.where or envs.rows.pick",
    "TracerArrayConversionError": f"NumPy on {_LATER}; use jax.numpy (jnp) instead",
    "ConcretizationTypeError": f"float(), int(), bool(), .item() or a shape from {_LATER}; keep it an array, use jnp",
    "NonConcreteBooleanIndexError": f"a selection by {_LATER}; use jnp.where(mask, value, 0)",
    "UnexpectedTracerError": "a value of one round was kept outside; return it as part of the state",
    "FrozenInstanceError": "a rule cannot change itself; return what it remembers as its state",
    "RecursionError": "a method calls itself without end",
    "SystemExit": "a rule must not leave the program; remove sys.exit",
    "KeyboardInterrupt": "a rule must not interrupt the program",
}


@contextmanager
def theirs(modules: Iterable[str]) -> Iterator[None]:
    """For a while these modules, which the user has imported or is running, are the user's like files of rules."""
    more = set(modules) - _user_modules
    _user_modules.update(more)
    try:
        yield
    finally:
        _user_modules.difference_update(more)


def is_request_to_stop(error: BaseException) -> bool:
    """Whether the study was asked to stop; a rule's own code may raise KeyboardInterrupt, too."""
    return isinstance(error, interrupt.Interrupted) or (isinstance(error, KeyboardInterrupt) and not is_theirs(error))


def is_theirs(error: BaseException) -> bool:
    """Whether the error was raised in a user's file, or by what it calls."""
    return any(True for _ in _their_frames(error))


def sentence(error: BaseException, parts: Sequence[Any] = ()) -> str:
    """What went wrong, in one line: "file, line n, in Class.method: error; what to use instead".

    Args:
        error: as it was caught, with its traceback.
        parts: the rules and the forecaster that were at work, for errors that are raised where one of them is called.
    """
    if isinstance(error, ContractError):
        return f"{_place_of(error.part, error.method)}: it {error.text}"
    for part, method, text in _called_wrongly(error, parts):
        return f"{_place_of(part, method)}: {text}"
    frames = list(_their_frames(error))
    said = _words(error)
    if not frames:
        return said
    frame, line = frames[-1]
    place = f"{shortened(frame.f_code.co_filename)}, line {line}, in {_method(frame)}"
    return f"{place}: {said}"


@contextmanager
def refused() -> Iterator[None]:
    """A user's code that fails while a configuration is understood: InputError."""
    try:
        yield
    except InputError:
        raise
    except BaseException as error:
        if is_request_to_stop(error) or not is_theirs(error):
            raise
        raise InputError(f"rules: {sentence(error)}") from error


def record(error: BaseException) -> str:
    """The whole traceback, for the log."""
    return "".join(traceback.format_exception(error))


def _words(error: BaseException) -> str:
    name = type(error).__name__
    advice = next((_ADVICE[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _ADVICE), None)
    if isinstance(error, jax.errors.JAXTypeError | jax.errors.JAXIndexError) and advice:
        return f"{name}: {advice}"  # JAX's own words go on for a page
    text = " ".join(str(error).split())[:_LONGEST]
    return ": ".join(part for part in (name, text) if part) + (f"; {advice}" if advice else "")


def _their_frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    """Frames of users' files, with their lines, that an error or what it came from went through; the innermost last."""
    found: BaseException | None = error
    while found is not None:
        frames = [
            (frame, line)
            for frame, line in traceback.walk_tb(found.__traceback__)
            if _is_their_module(str(frame.f_globals.get("__name__", "")))
            and not frame.f_code.co_filename.startswith("<")  # what dataclasses generate
        ]
        if frames:
            yield from frames
            return
        found = found.__cause__ or found.__context__


def _is_their_module(name: str) -> bool:
    return name.startswith(USER_MODULE) or name in _user_modules


def _method(frame: FrameType) -> str:
    return frame.f_code.co_qualname.replace(".<locals>", "")


def _called_wrongly(error: BaseException, parts: Sequence[Any]) -> Iterator[tuple[Any, str, str]]:
    """(part, method, sentence) of a method that is missing, or that takes other arguments than it is given."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, NotImplementedError) and frames:
        base, _, method = frames[-1].f_code.co_qualname.rpartition(".")
        for part in parts:
            if base in {kind.__name__ for kind in type(part).__mro__[1:]}:
                yield part, "", f"class {type(part).__name__} has no method {method}; write {_signature(part, method)}"
    asked = re.match(r"(?:\w+\.)*(\w+)\.(\w+)\(\) (?:takes|missing|got) ", str(error))
    if isinstance(error, TypeError) and asked and not any(True for _ in _their_frames(error)):
        for part in parts:
            if asked[1] == type(part).__name__:
                yield part, asked[2], f"{str(error).splitlines()[0]}; write {_signature(part, asked[2])}"


def _signature(part: Any, method: str) -> str:
    """How the contract writes the head of a method."""
    kinds = [kind for kind in type(part).__mro__[1:] if method in vars(kind)]
    names = ", ".join(inspect.signature(vars(kinds[-1])[method]).parameters) if kinds else "self, ..."
    return f"def {method}({names})"


def _place_of(part: Any, method: str) -> str:
    """Where a method, or the class itself, is defined."""
    code = getattr(getattr(type(part), method, None), "__code__", None)
    if code is not None:
        return f"{shortened(code.co_filename)}, line {code.co_firstlineno}, in {type(part).__name__}.{method}"
    try:
        file, (_, line) = inspect.getsourcefile(type(part)), inspect.getsourcelines(type(part))
        return f"{shortened(str(file))}, line {line}"
    except (OSError, TypeError):
        return type(part).__name__


def shortened(path: str) -> str:
    """A file's name as messages give it: relative to the working directory where it lies below."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except (OSError, ValueError):
        return path
