"""Several processes play one study together, each on its own devices: ``jax.distributed``, for one giant batch.

Runs tell each other nothing, so devices need not either. The first process leads: it alone looks at the folder, says
which item of cells is next, stores, logs and shows. Every process plays its share of the item's seeds, and sends what
it saw to the first. Words and arrays go through the key-value store of JAX's coordination service, which waits as long
as a share takes, needs no memory on a device, and ends all processes when one of them dies.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import count, zip_longest
from threading import Thread
from time import monotonic
from typing import Any

import jax
import numpy as np

from envs.errors import InputError, nearest
from experiments import interrupt
from experiments.config import rule_errors
from experiments.jobs.warning_log import Log

JOIN_SECONDS = 300  # that the processes are given to find each other

_KEYS = ("coordinator", "processes", "process")
_FORM = "distributed={coordinator: HOST:PORT, processes: N, process: I}"
_POLL_SECONDS = 1.0  # between two looks at whether to go on waiting
_MOST_PROCESSES = 65536
_PIECE = 1 << 24  # bytes sent at once
_ROOT = "llm-bandits"

Part = tuple[Any, float]  # a pytree of arrays, and how many seconds it took


class OtherProcessError(RuntimeError):
    """What went wrong in another process."""


@dataclass(kw_only=True)
class _Team:
    """This process among the others."""

    process: int
    processes: int
    store: Any  # the client of the coordination service
    tasks: Iterator[int] = field(default_factory=count)  # the number of the next one

    def set(self, key: str, content: bytes) -> None:
        self.store.key_value_set_bytes(f"{_ROOT}/{key}", content)

    def get(self, key: str, seconds: float) -> bytes | None:
        """What is set under a key within so many seconds."""
        try:
            return bytes(self.store.blocking_key_value_get_bytes(f"{_ROOT}/{key}", int(1000 * seconds)))
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise
            return None

    def awaited(self, key: str) -> bytes:
        """What is set under a key, however long that takes; an error where somebody has left instead."""
        while (content := self.get(key, _POLL_SECONDS)) is None:
            interrupt.check()
            for who, why in self.store.key_value_dir_get(f"{_ROOT}/gone/"):
                raise OtherProcessError(f"process {who.rpartition('/')[2]} has left: {why}")
        return content

    def taken(self, key: str) -> bytes:
        """``awaited``, and removed."""
        content = self.awaited(key)
        self.store.key_value_delete(f"{_ROOT}/{key}")
        return content


_team: _Team | None = None


def processes() -> int:
    """How many play together; 1 for a process that is alone."""
    return _team.processes if _team else 1


def leads() -> bool:
    """Whether this process is the first one, or alone."""
    return _team is None or _team.process == 0


def share(first: int, number: int) -> tuple[int, int]:
    """(first, number) of this process's seeds, of so many from ``first`` on."""
    process = _team.process if _team else 0
    least, more = divmod(number, processes())
    return first + process * least + min(process, more), least + (process < more)


@contextmanager
def joined(given: Any) -> Iterator[None]:
    """Be one of several processes, as the configuration's ``distributed`` says; alone where that is null.

    To be entered before anything uses a device. InputError where ``given`` makes no sense, or where the others are not
    found.
    """
    global _team
    settings = _settings(given)
    if settings is None:
        yield
        return
    _team = _connected(settings)
    try:
        yield
    except KeyboardInterrupt:
        _wait_until_settled(_team)
        raise
    except BaseException as error:
        leave(f"{type(error).__name__}: {error}")
        raise
    leave()


def leave(why: str = "") -> None:
    """Part, all processes together; nothing happens where this one is alone.

    The first process tells the others that nothing is left to do. Another one that says ``why`` it leaves is missed.
    """
    global _team
    if _team is None:
        return
    if leads():
        _team.set(f"task/{next(_team.tasks)}", b"")
    elif why:
        _team.set(f"gone/{_team.process}", why.encode())
    jax.distributed.shutdown()
    _team = None


def together(name: str, play: Callable[[], list[Part]], log: Log) -> list[Part]:
    """The parts of all processes, in the order of their seeds; to be called by the first process.

    Args:
        name: of the task, for the others.
        play: plays this process's parts of it.
        log: is told what the others have to log.

    Raises:
        OtherProcessError: another process could not play its parts.
    """
    if _team is None:
        return play()
    number = next(_team.tasks)
    _team.set(f"task/{number}", name.encode())
    failure: BaseException | None = None
    mine: list[Part] = []
    try:
        mine = play()
    except BaseException as error:  # a user's rule may raise anything
        if rule_errors.is_request_to_stop(error):
            raise
        failure = error
    theirs = [_received(_team, f"part/{number}/{other}", other, log) for other in range(1, _team.processes)]
    if failure is not None:
        raise failure
    like = jax.tree.structure(mine[0][0])
    shares = [mine, *([(jax.tree.unflatten(like, leaves), seconds) for leaves, seconds in their()] for their in theirs)]
    return [part for parts in zip_longest(*shares) for part in parts if part is not None]


def follow(play: Callable[[str], list[Part]], told: "Told") -> None:
    """Play this process's parts of every task that the first process names, until there are none."""
    assert _team is not None
    for number in _team.tasks:
        if not (name := _team.awaited(f"task/{number}").decode()):
            return
        try:
            parts, error = play(name), None
        except BaseException as failure:
            if rule_errors.is_request_to_stop(failure):
                raise
            parts, error = [], rule_errors.sentence(failure)
        _send(_team, f"part/{number}/{_team.process}", parts, {"error": error, "events": told.taken()})


class Told:
    """A log and a display of a process that has neither: what it would log goes to the first one with its parts."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def write(self, event: str, /, **fields: Any) -> None:
        """An event of the log."""
        self.events.append((event, fields))

    def taken(self) -> list[tuple[str, dict[str, Any]]]:
        """The events since the last time."""
        events, self.events = self.events, []
        return events

    def begin(self, cells_done: int, cells_total: int, decisions: int) -> None:
        """Not shown, nor is what follows."""

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...

    def compiling(self, program: str) -> None: ...

    def compiled(self, program: str, how: str) -> None: ...

    def played(self, decisions: int) -> None: ...

    def cell_done(self) -> None: ...


def _send(team: _Team, key: str, parts: Sequence[Part], said: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    for tree, _ in parts:
        for leaf in jax.tree.leaves(tree):
            np.save(buffer, leaf, allow_pickle=False)
    content = buffer.getbuffer()
    pieces = range(0, len(content), _PIECE)
    for number, low in enumerate(pieces):
        team.set(f"{key}/{number}", bytes(content[low : low + _PIECE]))
    shape = [(len(jax.tree.leaves(tree)), seconds) for tree, seconds in parts]
    team.set(f"{key}/head", json.dumps(said | {"parts": shape, "pieces": len(pieces)}, default=str).encode())


def _received(team: _Team, key: str, sender: int, log: Log) -> Callable[[], list[tuple[list[np.ndarray], float]]]:
    """Take what a process sent; its leaves, or its error, come when asked for."""
    head = json.loads(team.taken(f"{key}/head"))
    content = io.BytesIO(b"".join(team.taken(f"{key}/{number}") for number in range(head["pieces"])))
    for event, fields in head["events"]:
        log.write(event, **fields, sent_by=sender)

    def parts() -> list[tuple[list[np.ndarray], float]]:
        if head["error"]:
            raise OtherProcessError(f"process {sender}: {head['error']}")
        return [
            ([np.load(content, allow_pickle=False) for _ in range(leaves)], seconds)
            for leaves, seconds in head["parts"]
        ]

    return parts


def _wait_until_settled(team: _Team) -> None:
    """The first process ends last, for the others are ended with it: they may still be saving."""
    until = monotonic() + interrupt.PATIENCE
    with suppress(jax.errors.JaxRuntimeError):
        if team.process:
            team.set(f"settled/{team.process}", b"")
        for other in range(1, team.processes if team.process == 0 else 0):
            while team.get(f"settled/{other}", _POLL_SECONDS) is None and monotonic() < until:
                pass


def _connected(settings: dict[str, Any]) -> _Team:
    # Its handler would take SIGTERM, after which we save what we have (experiments.interrupt).
    jax.config.update("jax_enable_preemption_service", False)
    failures: list[Exception] = []

    def connect() -> None:
        try:
            jax.distributed.initialize(**settings, initialization_timeout=2 * JOIN_SECONDS)
        except Exception as error:
            failures.append(error)

    connecting = Thread(target=connect, daemon=True)  # it cannot be told to stop, and would not let signals in
    connecting.start()
    until = monotonic() + JOIN_SECONDS
    while connecting.is_alive() and monotonic() < until:
        interrupt.check()
        connecting.join(_POLL_SECONDS)
    if connecting.is_alive():
        print(f"error: distributed: not all processes were there within {JOIN_SECONDS} s", file=sys.stderr, flush=True)
        os._exit(2)  # JAX would end the process with a stack trace, sooner or later
    if failures:
        reason = (str(failures[0]).splitlines() or [""])[0]
        what = "the first process could not begin" if settings else f"no cluster was found; describe it with {_FORM}"
        raise InputError(f"distributed: {what} ({reason})") from failures[0]
    from jax._src.distributed import global_state  # the store has no public name

    return _Team(process=jax.process_index(), processes=jax.process_count(), store=global_state.client)


def _settings(given: Any) -> dict[str, Any] | None:
    """The arguments of ``jax.distributed.initialize``; None for a process that is alone."""
    if given is None or given is False:
        return None
    if given is True:
        return {}
    if not isinstance(given, dict):
        raise InputError(f"distributed is {given!r}; it must be null, true (the cluster is found) or as in {_FORM}")
    for key in given:
        if key not in _KEYS:
            raise InputError(f"distributed.{key}: there is no such key; {nearest(str(key), list(_KEYS))}")
    for key in _KEYS:
        if given.get(key) is None:
            raise InputError(f"distributed.{key} is missing; write {_FORM}")
    coordinator, number, process = (given[key] for key in _KEYS)
    host, _, port = coordinator.rpartition(":") if isinstance(coordinator, str) else ("", "", "")
    if not (host and port.isdecimal() and 0 < int(port) < 65536):
        raise InputError(f"distributed.coordinator is {coordinator!r}; it must be HOST:PORT of the first process")
    if type(number) is not int or not 1 <= number <= _MOST_PROCESSES:
        raise InputError(f"distributed.processes is {number!r}; it must be a whole number from 1 to {_MOST_PROCESSES}")
    if type(process) is not int or not 0 <= process < number:
        raise InputError(f"distributed.process is {process!r}; it must be a whole number from 0 to {number - 1}")
    return {"coordinator_address": coordinator, "num_processes": number, "process_id": process}
