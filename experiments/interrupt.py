"""Stopping a study politely: signals set a flag, and every long step looks at it.

A handler never raises, because what it raises may fall into a callback that swallows it. Long steps call ``check``,
which raises ``Interrupted`` where they are; whoever waits does so with ``pause`` or ``awaited``. Work under way is not
torn: threads inside ``stoppable`` save what they have at their next stop, those inside ``finishing`` end, and the main
thread gives both a few seconds. Where nothing looks at the flag for too long, a thread ends the process.
"""

import os
import selectors
import signal
import threading
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, wait
from contextlib import ExitStack, contextmanager
from time import monotonic, sleep
from types import FrameType
from typing import Any, TypeVar

PATIENCE = 20.0  # seconds that work under way is given; schedulers kill 30 s after the first signal
GRACE = 5.0  # further seconds in which the process is to end by itself
HURRY = 2.0  # seconds after a second signal, which an impatient person sends

_POLL_SECONDS = 0.2  # between two looks at the flag while waiting
_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)
_Value = TypeVar("_Value")


class Interrupted(KeyboardInterrupt):
    """The study was asked to stop; what can be gone on with is saved."""


class _State:
    """What the process knows about being stopped."""

    def __init__(self) -> None:
        self.changed, self.working = threading.Condition(), 0
        self.requested, self.hurried, self.exit_code = False, False, 128 + signal.SIGINT
        self.before: dict[int, Any] = {}  # the handlers in whose place ours are


_state = _State()


def request() -> None:
    """Ask the study to stop at the next look of every step, checkpoints saved.

    For schedulers' own handlers and other threads; does not wait. ``settle`` does.
    """
    _state.requested = True  # no lock: a signal handler may run while this very thread holds it


def requested() -> bool:
    """Whether the study was asked to stop."""
    return _state.requested


def check() -> None:
    """Raise ``Interrupted`` if the study was asked to stop. To be called by every step that may take long."""
    if _state.requested:
        raise Interrupted


def looking(values: Iterable[_Value]) -> Iterator[_Value]:
    """The values one by one, with a ``check`` before each."""
    for value in values:
        check()
        yield value


def pause(seconds: float) -> None:
    """Sleep, and raise ``Interrupted`` soon after the study was asked to stop."""
    until = monotonic() + seconds
    check()
    while (left := until - monotonic()) > 0:
        sleep(min(left, _POLL_SECONDS))
        check()


def awaited(future: "Future[_Value]") -> _Value:
    """A future's result, or what it raised; ``Interrupted`` soon after the study was asked to stop."""
    while not future.done():
        check()
        wait([future], _POLL_SECONDS)
    return future.result()


def exit_code() -> int:
    """128 and the number of the last signal that asked to stop, as shells have it; as for SIGINT if it was none."""
    return _state.exit_code


def handler_before(number: int) -> Any:
    """Who handles a signal when we do not."""
    return _state.before.get(number, signal.getsignal(number))


@contextmanager
def stoppable() -> Iterator[None]:
    """Work that looks at ``requested`` every few seconds, and is waited for. Not begun once a stop was requested."""
    check()
    with finishing():
        yield


@contextmanager
def finishing() -> Iterator[None]:
    """Work that is soon done, would be lost, and is waited for."""
    with _state.changed:
        _state.working += 1
    try:
        yield
    finally:
        with _state.changed:
            _state.working -= 1
            _state.changed.notify_all()


def settle(seconds: float = PATIENCE) -> bool:
    """Request a stop and wait for the work under way; False if it took longer, or a second signal came."""
    request()
    until = monotonic() + seconds
    with _state.changed:
        while _state.working and not _state.hurried and (left := until - monotonic()) > 0:
            _state.changed.wait(min(left, _POLL_SECONDS))
        return _state.working == 0


@contextmanager
def signals(taken: Collection[int] = (), leave: Callable[[], None] | None = None) -> Iterator[None]:
    """SIGINT and SIGTERM request a stop; a second one asks for it at once.

    So do signals that are ``taken`` from whoever handles them, but for the haste: a scheduler may announce an end more
    than once, and is not impatient as a person is. Other handlers that somebody else has installed are left as they
    are, and so are signals that were ignored when the process began, as a script's ``&`` has it for SIGINT. Nothing is
    changed where this is not the main thread. Afterwards all is as it was before, but for ``exit_code``.

    ``leave`` must end the process. A thread calls it where the process is still here ``PATIENCE + GRACE`` seconds after
    the first signal, or ``HURRY`` after a second one; it may be that the main thread is in code that looks at nothing.
    """
    _state.exit_code = 128 + signal.SIGINT
    handlers: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        mine = (number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) in _DEFAULTS)
        handlers = dict.fromkeys(mine, _on_signal) | dict.fromkeys(taken, _on_notice)
    with ExitStack() as stack:
        _state.before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            if leave is not None and handlers:
                impatient = {number for number in handlers if handlers[number] is _on_signal}
                stack.enter_context(_last_resort(handlers.keys(), impatient, leave))
            yield
        finally:
            before, _state.before = _state.before, {}
            for number, handler in before.items():
                signal.signal(number, handler)
            _state.requested = _state.hurried = False


def _on_signal(number: int, frame: FrameType | None) -> None:
    _state.hurried = _state.requested
    _state.exit_code = 128 + number
    request()


def _on_notice(number: int, frame: FrameType | None) -> None:
    if not _state.requested or number != signal.SIGTERM:  # which says less than the others
        _state.exit_code = 128 + number
    request()


@contextmanager
def _last_resort(mine: Collection[int], impatient: Collection[int], leave: Callable[[], None]) -> Iterator[None]:
    """Call ``leave`` in a thread where the process outlives a signal for too long, whatever the main thread is at."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # written to also when no handler gets to run
    watch = threading.Thread(target=_watch, args=(reading, mine, impatient, leave), name="interrupt", daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(writing)
        watch.join()
        os.close(reading)


def _watch(reading: int, mine: Collection[int], impatient: Collection[int], leave: Callable[[], None]) -> None:
    deadline: float | None = None
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while selector.select(None if deadline is None else max(0.0, deadline - monotonic())):
            if not (numbers := os.read(reading, 64)):
                return  # nobody waits for signals any more
            for number in filter(mine.__contains__, numbers):
                if deadline is None:
                    deadline = monotonic() + PATIENCE + GRACE
                elif number in impatient:
                    deadline = min(deadline, monotonic() + HURRY)
    leave()
