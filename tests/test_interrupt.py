"""Being asked to stop: signals, requests, and work under way that is waited for."""

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from experiments import interrupt


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    with interrupt.signals():
        yield


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)
    time.sleep(5)  # cut short by the handler, where one raises


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_asks_to_stop_each_time_it_comes(number: signal.Signals, code: int) -> None:
    for _ in range(2):
        with pytest.raises(interrupt.Interrupted):
            send(number)
        assert interrupt.requested()
        assert interrupt.exit_code() == code


def test_handlers_are_given_back() -> None:
    ours = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with interrupt.signals():
            assert signal.getsignal(signal.SIGTERM) is ours
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
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
        with interrupt.signals():
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
            time.sleep(0.1)
            ended.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert begun.wait(5)
    assert interrupt.settle(10.0)
    assert ended.is_set()
    thread.join()
    with pytest.raises(interrupt.Interrupted), interrupt.stoppable():
        pytest.fail("begun")
    with pytest.raises(interrupt.Interrupted):
        interrupt.check()


def test_patience_has_an_end() -> None:
    release = threading.Event()

    def work() -> None:
        with interrupt.stoppable():
            release.wait(10)

    thread = threading.Thread(target=work)
    thread.start()
    while not interrupt._state.working:
        time.sleep(0.01)
    assert not interrupt.settle(0.05)
    release.set()
    thread.join()
