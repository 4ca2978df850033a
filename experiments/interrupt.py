"""Stopping a study politely: a request that simulating threads look at between two steps, and signals that make one.

Work under way is never torn: threads inside ``stoppable`` save what they have at their next stop and raise
``Interrupted``, and the main thread gives them a few seconds before the process ends.
"""

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE = 20.0  # seconds that work under way is given; schedulers kill 30 s after the first signal

_DEFAULTS = (signal.SIG_DFL, signal.default_int_handler)


class Interrupted(KeyboardInterrupt):
    """The study was asked to stop; what can be gone on with is saved."""


class _State:
    """What the process knows about being stopped."""

    def __init__(self) -> None:
        self.changed, self.working = threading.Condition(), 0
        self.requested, self.exit_code = False, 128 + signal.SIGINT


_state = _State()


def request() -> None:
    """Ask the study to stop at the next stop of every thread, carries saved.

    For schedulers' own handlers and other threads; does not wait. ``settle`` does.
    """
    _state.requested = True  # no lock: a signal handler may run while this very thread holds it


def requested() -> bool:
    """Whether the study was asked to stop."""
    return _state.requested


def check() -> None:
    """Raise ``Interrupted`` if the study was asked to stop."""
    if _state.requested:
        raise Interrupted


def exit_code() -> int:
    """128 and the number of the last signal that asked to stop, as shells have it; as for SIGINT if it was none."""
    return _state.exit_code


@contextmanager
def stoppable() -> Iterator[None]:
    """Work that looks at ``requested`` every few seconds, and is waited for. Not begun once a stop was requested."""
    check()
    with _state.changed:
        _state.working += 1
    try:
        yield
    finally:
        with _state.changed:
            _state.working -= 1
            _state.changed.notify_all()


def settle(seconds: float = PATIENCE) -> bool:
    """Request a stop and wait for the work under way; False if it took longer than that many seconds."""
    request()
    with _state.changed:
        return _state.changed.wait_for(lambda: _state.working == 0, seconds)


@contextmanager
def signals(taken: Collection[int] = ()) -> Iterator[None]:
    """SIGINT and SIGTERM request a stop and raise ``Interrupted`` in the main thread, each time they come.

    So does the first of the signals that are ``taken`` from whoever handles them: a scheduler may announce an end more
    than once, and is not impatient as a person is. Other handlers that somebody else has installed, and
    signals that are ignored, are left as they are; so is everything where this is not the main thread. Afterwards all
    is as it was before, but for ``exit_code``.
    """
    _state.exit_code = 128 + signal.SIGINT
    before = {}
    if threading.current_thread() is threading.main_thread():
        mine = (number for number in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(number) in _DEFAULTS)
        handlers = dict.fromkeys(mine, _on_signal) | dict.fromkeys(taken, _on_notice)
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        _state.requested = False
        for number, handler in before.items():
            signal.signal(number, handler)


def _on_signal(number: int, frame: FrameType | None) -> None:
    _state.exit_code = 128 + number
    request()
    raise Interrupted


def _on_notice(number: int, frame: FrameType | None) -> None:
    first = not _state.requested
    if first or number != signal.SIGTERM:  # which says less than the others
        _state.exit_code = 128 + number
    if first:
        request()
        raise Interrupted
