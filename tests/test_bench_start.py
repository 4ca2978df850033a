"""What the bench says of starting up: a second start finds the program that the first one compiled."""

import pytest

from experiments.bench.__main__ import programs_made

pytestmark = pytest.mark.rival


def test_a_second_start_is_quicker() -> None:
    first, second = programs_made({"uniform": ("uniform", "everything")}, repeats=1)
    assert (first.who, second.who) == ("first start", "second start")
    assert first.work == second.work == "Start-up: uniform"
    assert second.rate > first.rate
