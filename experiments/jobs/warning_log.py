"""What a running study warns of: an event with the cells it belongs to, and one line for people, each once."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import Lock
from typing import Any, Protocol, TextIO

from experiments.engine import program_cache

_cells_at_work: ContextVar[tuple[str, ...]] = ContextVar("cells_at_work", default=())


class Log(Protocol):
    """Where events go."""

    def write(self, event: str, /, **fields: Any) -> None: ...


@contextmanager
def working_on(cells: Sequence[str]) -> Iterator[None]:
    """What is warned of in this context belongs to these cells."""
    token = _cells_at_work.set(tuple(cells))
    try:
        yield
    finally:
        _cells_at_work.reset(token)


@contextmanager
def logged(log: Log, tell: Callable[[str], None]) -> Iterator[None]:
    """Python's warnings become events and lines, instead of tearing the display."""
    told: set[str] = set()
    lock, usual = Lock(), warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        first = (str(message).splitlines() or [""])[0]
        explained = program_cache.explained(first)
        text = f"{category.__name__}: {first}" if explained == first else explained
        with lock:
            if text in told:
                return
            told.add(text)
        where, cells = f"{Path(filename).name}:{lineno}", _cells_at_work.get()
        log.write("warning", text=text, where=where, cells=list(cells))
        tell(f"{text} ({where}{', cell ' + cells[0] if cells else ''})")

    warnings.showwarning = show
    try:
        yield
    finally:
        warnings.showwarning = usual
