"""Being asked to stop: signals, requests, and work under way that is waited for."""

import gc
import os
import signal
import threading
import time
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from experiments import interrupt
from tests.processes import usual_signals


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    """However the suite was started."""
    with usual_signals(), interrupt.signals():
        yield


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_sets_a_flag_that_steps_look_at(number: signal.Signals, code: int) -> None:
    for _ in range(2):
        signal.raise_signal(number)
        assert interrupt.requested() and interrupt.exit_code() == code
        with pytest.raises(interrupt.Interrupted):
            interrupt.check()
        with pytest.raises(interrupt.Interrupted):
            interrupt.pause(60)
        with pytest.raises(interrupt.Interrupted):
            interrupt.awaited(Future())
        with pytest.raises(interrupt.Interrupted):
            list(interrupt.looking([1]))


class Referred:
    """What a weak reference may refer to."""


@pytest.mark.parametrize("how", ["weakref", "finalizer", "collector"])
def test_no_callback_swallows_a_signal(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever is raised in one of these is printed and forgotten by Python."""

    def asked(*_: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    referred = Referred()
    if how == "weakref":
        reference = weakref.ref(referred, asked)
        del referred
        assert reference() is None
    elif how == "finalizer":
        Referred.__del__ = asked  # type: ignore[attr-defined]
        del referred
        del Referred.__del__  # type: ignore[attr-defined]
    else:
        gc.callbacks.append(asked)
        gc.collect()
        gc.callbacks.remove(asked)
    assert interrupt.requested() and interrupt.exit_code() == 143
    assert capfd.readouterr().err == ""


def test_waiting_ends_with_a_signal_or_what_is_waited_for() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert interrupt.awaited(pool.submit(lambda: 3)) == 3
        with pytest.raises(TimeoutError):
            interrupt.awaited(pool.submit(raising))
    threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    with pytest.raises(interrupt.Interrupted):
        interrupt.awaited(Future())
    assert time.monotonic() - began < 2


def raising() -> None:
    raise TimeoutError


def test_handlers_are_given_back() -> None:
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with interrupt.signals(leave=raising):
            assert signal.getsignal(signal.SIGTERM) is ours
            assert interrupt.handler_before(signal.SIGTERM) is signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGTERM, ours)


def test_what_is_ignored_or_somebody_else_s_stays() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, lambda *_: interrupt.request())
    try:
        with interrupt.signals():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGTERM)
            assert interrupt.requested()
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def inside() -> None:
        with interrupt.signals(leave=raising):
            seen.append(signal.getsignal(signal.SIGTERM))

    ours = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [ours]


def test_work_under_way_is_waited_for_and_none_is_begun() -> None:
    begun, ended = threading.Event(), threading.Event()

    def work() -> None:
        with interrupt.stoppable():
            begun.set()
            while not interrupt.requested():
                time.sleep(0.01)
        with interrupt.finishing():
            time.sleep(0.1)
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(5)
    assert interrupt.settle(10.0)
    thread.join()
    assert ended.is_set()
    with pytest.raises(interrupt.Interrupted), interrupt.stoppable():
        pytest.fail("begun")
    with pytest.raises(interrupt.Interrupted):
        interrupt.check()


@pytest.mark.parametrize("second_signal", [False, True])
def test_patience_has_an_end(second_signal: bool) -> None:
    release = threading.Event()

    def work() -> None:
        with interrupt.stoppable():
            release.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    while not interrupt._state.working:
        time.sleep(0.01)
    if second_signal:
        signal.raise_signal(signal.SIGTERM)
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM)).start()
    began = time.monotonic()
    assert not interrupt.settle(60.0 if second_signal else 0.05)
    assert time.monotonic() - began < 5
    release.set()
    thread.join()


@pytest.mark.parametrize("numbers", [[signal.SIGTERM], [signal.SIGINT, signal.SIGINT]])
def test_a_step_that_looks_at_nothing_is_left(monkeypatch: pytest.MonkeyPatch, numbers: list[int]) -> None:
    """After the patience, or soon after a second signal."""
    monkeypatch.setattr(interrupt, "PATIENCE", 0.0 if len(numbers) == 1 else 600.0)
    monkeypatch.setattr(interrupt, "GRACE", 0.1)
    monkeypatch.setattr(interrupt, "HURRY", 0.1)
    left = threading.Event()
    with usual_signals(), interrupt.signals(leave=left.set):
        for number in numbers:
            assert not left.is_set()
            signal.raise_signal(number)
        assert left.wait(10)


def test_a_process_that_ends_in_time_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interrupt, "PATIENCE", 0.0)
    monkeypatch.setattr(interrupt, "GRACE", 0.3)
    left = threading.Event()
    with usual_signals(), interrupt.signals(leave=left.set):
        signal.raise_signal(signal.SIGTERM)
    assert not left.wait(0.5)
