"""Processes that run studies, started quickly: forked from one that has imported everything and computed nothing."""

import hashlib
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Child:
    """One command line in a process of its own."""

    number: int
    said: Path  # what it wrote on stdout and stderr
    code_file: Path  # where it leaves its exit code, unless it is killed

    def is_there(self) -> bool:
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        return True

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Kill it and see it gone; nothing happens where it has ended by itself."""
        if self.is_there():
            os.kill(self.number, number)
        self.ended()

    def ended(self, seconds: float = 120.0) -> int | None:
        """Wait for its end. The exit code; None if it was killed."""
        until = time.monotonic() + seconds
        while self.is_there():
            assert time.monotonic() < until, self.said.read_text()
            time.sleep(0.005)
        return int(self.code_file.read_text()) if self.code_file.exists() else None


@dataclass(kw_only=True)
class Nursery:
    """Starts children."""

    parent: subprocess.Popen[str]
    folder: Path
    started: int = 0

    def start(self, folder: Path, *arguments: str, prepare: str = "") -> Child:
        """``llm-bandits`` with these arguments in this folder; ``prepare`` is Python to be executed before."""
        self.started += 1
        said, code_file = (self.folder / f"{self.started}.{kind}" for kind in ("said", "code"))
        assert self.parent.stdin is not None and self.parent.stdout is not None
        wanted = {"folder": str(folder), "arguments": arguments, "said": str(said), "code_file": str(code_file)}
        self.parent.stdin.write(json.dumps(wanted | {"prepare": prepare}) + "\n")
        self.parent.stdin.flush()
        return Child(number=int(self.parent.stdout.readline()), said=said, code_file=code_file)


@contextmanager
def usual_signals() -> Iterator[None]:
    """SIGINT and SIGTERM do what they usually do, also in processes that are started now.

    A suite that is started in the background, by a script or a runner, inherits that SIGINT is ignored.
    """
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def nursery(folder: Path) -> Iterator[Nursery]:
    """The parent of all children; they share the compilation cache of the whole test run."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "NO_COLOR": "1",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with usual_signals():
        parent = subprocess.Popen([sys.executable, "-m", "tests.processes"], cwd=ROOT, env=environment, **streams)
    try:
        yield Nursery(parent=parent, folder=folder)
    finally:
        parent.communicate()


def play_once(folder: str) -> None:
    """Simulate what no process has simulated before, and keep it in ``folder``; else take it from there.

    For tests of what happens to files: most of a tiny study's time goes into tracing its program.
    """
    import jax
    import numpy as np

    from experiments.engine import batch

    compile_program, simulate = batch.compile_program, batch.simulate

    def played(
        program: Any, worlds: Any, policies: Any, keys: Any, *rest: Any, progress: Any, checkpointer: Any
    ) -> Any:
        told = jax.tree.leaves((worlds, policies, jax.random.key_data(keys), rest))
        identity = hashlib.sha256(str(jax.tree.structure(policies)).encode())
        for leaf in map(np.asarray, told):
            identity.update(leaf.tobytes())
        path = Path(folder, identity.hexdigest())
        if not path.exists():
            seen = simulate(compile_program(worlds, policies, keys), worlds, policies, keys, *rest)
            mine = path.with_suffix(f".{os.getpid()}")
            mine.write_bytes(pickle.dumps(seen))
            mine.rename(path)
        progress(int(rest[1].horizon))
        return pickle.loads(path.read_bytes())

    Path(folder).mkdir(exist_ok=True)
    batch.compile_program = lambda *_: SimpleNamespace(compile_seconds=0.0, cached=False)
    batch.simulate = played


_CHANGES = ("open", "write", "fsync", "replace", "unlink", "mkdir", "rmdir")  # of ``os``: what changes a disk


def die_at(number: int, kind: str | None = None, suffix: str = "") -> None:
    """Kill this process, as SIGKILL does, in place of its ``number``-th change of the disk, and say which that was.

    Counted are changes of one kind, or of all, whose last path ends so. Of a write, half is done before.
    """
    changes = itertools.count(1)
    write = os.write

    def failing(name: str, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(*given: Any, **named: Any) -> Any:
            path = str(given[1] if name == "replace" else given[0])
            counted = kind in (None, name) and path.endswith(suffix) and (name != "open" or given[1] & os.O_CREAT)
            if counted and next(changes) == number:
                if name == "write":
                    change(given[0], given[1][: len(given[1]) // 2])
                write(1, f"killed at {name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
            return change(*given, **named)

        return changed

    for name in _CHANGES:
        setattr(os, name, failing(name, getattr(os, name)))


def _serve() -> None:
    """Fork a child for every line of stdin, and say its number."""
    from experiments.cli import run
    from experiments.report import page

    page.write = lambda results, record, found, folder: folder / "report.html"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are buried by the kernel
    for line in sys.stdin:
        wanted = json.loads(line)
        child = os.fork()
        if child:
            print(child, flush=True)
        else:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _run(run.main, **wanted)


def _run(main: Any, folder: str, arguments: list[str], said: str, code_file: str, prepare: str) -> None:
    handle = os.open(said, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(handle, stream)
    os.chdir(folder)
    sys.argv[1:] = arguments
    code, leave = 0, os._exit

    def left(code: int) -> None:
        Path(code_file).write_text(str(code))
        leave(code)

    os._exit = left  # type: ignore[assignment]
    try:
        exec(prepare, dict(globals()))  # one namespace, so that its functions see its names
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    sys.stdout.flush()
    left(code)


if __name__ == "__main__":
    _serve()
