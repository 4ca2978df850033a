"""Saved checkpoints: where a run is stopped, saved, damaged or gone on with leaves no trace in what it gives."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import interrupt
from experiments.engine import batch
from experiments.engine.checkpoint_state import Checkpoint
from experiments.engine.rollout import Snapshot
from experiments.jobs import checkpoint
from experiments.jobs.checkpoint import Checkpointer
from experiments.results import layout
from tests import worlds

RUNS, HORIZON = 3, 90
MARKS = np.array([1, 20, 47, HORIZON])
IDENTITY = {"cells": ["a", "b"], "seeds": [0, 1, 2], "backend": "cpu", "jax": "1", "program": "p"}
SEEN: dict[str, Any] = {"mean": np.zeros(2)}
STAGED: dict[str, Any] = {"arrivals": "even", "arrival_span": 0.7, "stages": 4, "max_deployed": 2, "lifetime": 0.6}
SETUPS = {
    "fixed": ("primal_dual_resolving", "everything", {}, 1),
    "staged": ("uniform", "greedy", STAGED, 4),
}


class Stopped(Exception):
    """The process is gone."""


Simulate = Callable[..., Snapshot]


@pytest.fixture(scope="module", params=["fixed", pytest.param("staged", marks=pytest.mark.slow)])
def simulate(request: pytest.FixtureRequest) -> Simulate:
    """The same batch, played with any checkpointer."""
    routing, deployment, schedule, stages = SETUPS[request.param]
    made = [worlds.world(horizon=HORIZON, budget_per_task=budget, **schedule) for budget in (1e-4, 1e-3)]
    arguments = worlds.arranged(made, worlds.policy(routing, deployment=deployment), RUNS)
    timeline = worlds.timeline(made[0], HORIZON, stages=stages)
    program, weights = worlds.program(*arguments), np.full(RUNS, 1 / RUNS)

    def play(checkpointer: Any = None) -> Snapshot:
        return batch.simulate(program, *arguments, weights, timeline, MARKS, checkpointer=checkpointer)

    return play


@pytest.fixture(scope="module")
def straight(simulate: Simulate) -> Snapshot:
    return simulate()


@pytest.fixture
def told() -> list[tuple[str, dict[str, Any]]]:
    return []


@pytest.fixture
def tell(told: list[tuple[str, dict[str, Any]]]) -> Callable[..., None]:
    return lambda event, **fields: told.append((event, fields))


@pytest.fixture(autouse=True)
def not_asked_to_stop() -> Iterator[None]:
    with interrupt.signals():
        yield


def random_stops(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    """Stops anywhere, in place of those that the machine's speed would give."""
    draw = np.random.default_rng(seed)

    class Restless(batch.StepBudget):
        def __init__(self) -> None:
            self.took(0, 0.0)

        def took(self, rounds: int, seconds: float) -> None:
            self.rounds = int(draw.integers(1, 12))

    monkeypatch.setattr(batch, "StepBudget", Restless)


def assert_same_bits(left: Any, right: Any) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for mine, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert (mine.dtype, mine.shape) == (other.dtype, other.shape)
        assert np.asarray(mine).tobytes() == np.asarray(other).tobytes()


class StopAt(Checkpointer):
    """A checkpointer that saves at every stop, in a process that ends at the first one at or after ``rounds``."""

    rounds = HORIZON

    def stopped(self, checkpoint: Checkpoint, *, last: bool) -> None:
        super().stopped(checkpoint, last=last)
        if checkpoint.rounds >= self.rounds:
            raise Stopped


def checkpointer(folder: Path, tell: Callable[..., None], rounds: int = HORIZON + 1) -> Checkpointer:
    made = StopAt(folder / "item", IDENTITY, 0.0, half=True, tell=tell)
    made.rounds = rounds
    return made


def test_stops_leave_no_trace(simulate: Simulate, straight: Snapshot, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        random_stops(monkeypatch, seed)
        assert_same_bits(simulate(), straight)


def test_a_run_that_is_killed_time_and_again_gives_the_same(
    simulate: Simulate, straight: Snapshot, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tell: Any, told: list[Any]
) -> None:
    random_stops(monkeypatch, 5)
    for rounds in (1, 15, 20, 33, 70, HORIZON):
        with pytest.raises(Stopped):
            simulate(checkpointer(tmp_path, tell, rounds))
    assert_same_bits(simulate(checkpointer(tmp_path, tell)), straight)
    resumed = [fields["rounds"] for event, fields in told if event == "resumed"]
    assert len(resumed) == len(told) == 6 and resumed == sorted(resumed) and resumed[-1] == HORIZON
    assert len(list((tmp_path / "item").glob("*.npz"))) == len(list((tmp_path / "item").glob("*.json"))) == 2


def test_a_carry_holds_the_checkpoints_so_far(simulate: Simulate, tmp_path: Path, tell: Any) -> None:
    with pytest.raises(Stopped):
        simulate(checkpointer(tmp_path, tell, 20))
    found = checkpoint.latest(tmp_path / "item", IDENTITY, *templates(simulate), tell)
    assert found is not None and found.rounds == 20 and len(found.seen) == 2


def templates(simulate: Simulate) -> tuple[Any, Any]:
    """Shapes and dtypes of the state and of the snapshot."""
    asked: list[Any] = []

    class LaunchRequest(Checkpointer):
        def resume(self, state: Any, seen: Any) -> None:
            asked.extend((state, seen))
            raise Stopped

    with pytest.raises(Stopped):
        simulate(LaunchRequest(Path(), IDENTITY, None, half=False, tell=print))
    return asked[0], asked[1]


def test_a_request_to_stop_saves_and_interrupts(simulate: Simulate, straight: Snapshot, tmp_path: Path) -> None:
    told: list[Any] = []

    def patient() -> Checkpointer:
        return Checkpointer(
            tmp_path / "item", IDENTITY, 60.0, half=False, tell=lambda *event, **fields: told.append(event)
        )

    interrupt.request()
    with pytest.raises(interrupt.Interrupted):
        simulate(patient())
    with interrupt.signals():
        pass  # afterwards the request is forgotten, as in a new process
    assert_same_bits(simulate(patient()), straight)
    assert told == [("resumed",)]


def test_nothing_is_saved_where_it_is_switched_off_or_not_yet_time(simulate: Simulate, tmp_path: Path) -> None:
    for minutes in (None, 60.0):
        simulate(Checkpointer(tmp_path / "item", IDENTITY, minutes, half=False, tell=print))
    assert not list(tmp_path.iterdir())


def test_a_carry_that_cannot_be_written_is_told_once_and_costs_nothing(
    simulate: Simulate, straight: Snapshot, tmp_path: Path, tell: Any, told: list[Any]
) -> None:
    (tmp_path / "item").write_text("not a folder")
    assert_same_bits(simulate(checkpointer(tmp_path, tell)), straight)
    assert [event for event, _ in told] == ["checkpoint_failed"]


# Files.
def state(rounds: int) -> dict[str, jax.Array]:
    """Every kind of leaf that a rule's state may have."""
    return {
        "key": jax.random.split(jax.random.key(rounds), 3),
        "half": jnp.full((2, 3), rounds, jnp.bfloat16),
        "flag": jnp.array(True),
        "none": jnp.zeros((0, 3)),
    }


def save(folder: Path, rounds: int, identity: dict[str, Any] = IDENTITY) -> None:
    seen = [{"mean": np.array([mark, rounds])} for mark in range(2)]
    checkpoint.save(folder / "item", identity, Checkpoint(rounds=rounds, state=state(rounds), seen=seen))


def latest(folder: Path, tell: Any, identity: dict[str, Any] = IDENTITY, like: Any = None) -> Checkpoint | None:
    shapes = jax.eval_shape(lambda: state(0)) if like is None else like
    return checkpoint.latest(folder / "item", identity, shapes, SEEN | {"mean": np.zeros(2, int)}, tell)


def files(folder: Path, suffix: str) -> list[Path]:
    return sorted((folder / "item").glob(f"*{suffix}"))


def test_what_is_saved_is_read_back(tmp_path: Path, tell: Any, told: list[Any]) -> None:
    assert latest(tmp_path, tell) is None
    for rounds in (5, 70, 123456):
        save(tmp_path, rounds)
    found = latest(tmp_path, tell)
    assert found is not None and found.rounds == 123456 and not told
    wanted = state(123456)
    assert found.state.keys() == wanted.keys() and found.state["key"].dtype == wanted["key"].dtype
    assert (jax.random.key_data(found.state["key"]) == jax.random.key_data(wanted["key"])).all()
    for name in ("half", "flag", "none"):
        assert found.state[name].dtype == wanted[name].dtype
        np.testing.assert_array_equal(found.state[name], wanted[name])
    assert [seen["mean"].tolist() for seen in found.seen] == [[0, 123456], [1, 123456]]
    assert [int(path.stem[-12:]) for path in files(tmp_path, ".json")] == [70, 123456]
    assert not any(b"pickle" in path.read_bytes() for path in files(tmp_path, ".npz"))


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "truncated arrays": lambda path: path.with_suffix(".npz").write_bytes(truncated(path.read_bytes())),
    "truncated manifest": lambda path: path.write_bytes(truncated(path.read_bytes())),
    "lost arrays": lambda path: path.with_suffix(".npz").unlink(),
    "empty manifest": lambda path: path.write_bytes(b""),
    "binary manifest": lambda path: path.write_bytes(b"\xff\xfe"),
    "a list": lambda path: path.write_text("[]"),
    "other rounds": lambda path: path.write_text(path.read_text().replace('"rounds": 9', '"rounds": 8')),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_carry_is_set_aside_for_the_one_before(
    tmp_path: Path, tell: Any, told: list[Any], damage: str
) -> None:
    for rounds in (5, 9):
        save(tmp_path, rounds)
    newest = files(tmp_path, ".json")[-1]
    DAMAGES[damage](newest)
    found = latest(tmp_path, tell)
    assert found is not None and found.rounds == 5
    ((event, fields),) = told
    assert event == "checkpoint_damaged" and fields["checkpoint"] == str(newest) and fields["error"]
    assert len(files(tmp_path, ".json")) == len(files(tmp_path, ".npz")) == 1
    aside = {path.suffix for path in (tmp_path / checkpoint.DAMAGED).iterdir()}
    assert aside == ({".json"} if damage == "lost arrays" else {".json", ".npz"})
    DAMAGES[damage](files(tmp_path, ".json")[-1])
    assert latest(tmp_path, tell) is None or damage == "other rounds"


@pytest.mark.parametrize("suffix", [".npz", ".json"])
def test_no_flipped_bit_is_gone_on_with(tmp_path: Path, tell: Any, suffix: str) -> None:
    """Whatever is read is what was written; a flip in the format's number alone makes it another format's."""
    save(tmp_path, 9)
    (path,) = files(tmp_path, suffix)
    whole, draw = path.read_bytes(), np.random.default_rng(0)
    for place in draw.integers(0, len(whole), 60):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(draw.integers(8))
        save(tmp_path, 9)
        path.write_bytes(flipped)
        assert latest(tmp_path, tell) is None, place


def test_another_program_s_carry_is_ignored_and_kept(tmp_path: Path, tell: Any, told: list[Any]) -> None:
    save(tmp_path, 7)
    newer = {**IDENTITY, "jax": "2"}
    assert latest(tmp_path, tell, newer) is None
    assert [event for event, _ in told] == ["checkpoint_ignored"]
    for rounds in (3, 4, 5):
        save(tmp_path, rounds, newer)
    for identity, rounds in ((newer, 5), (IDENTITY, 7)):
        found = latest(tmp_path, tell, identity)
        assert found is not None and found.rounds == rounds
    other_shape = jax.eval_shape(lambda: state(0) | {"flag": jnp.zeros(2, bool)})
    assert latest(tmp_path, tell, like=other_shape) is None
    path = files(tmp_path, ".json")[-1]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    assert latest(tmp_path, tell) is None
    assert {event for event, _ in told} == {"checkpoint_ignored"} and len(files(tmp_path, ".json")) == 3


def test_carries_go_when_their_cells_are_stored(tmp_path: Path) -> None:
    for cells in (["a"], ["b"]):
        folder = checkpoint.item_folder(tmp_path, cells)
        checkpoint.save(folder, IDENTITY, Checkpoint(rounds=1, state=state(1), seen=[]))
    checkpoint.discard(tmp_path, ["a"])
    assert list((tmp_path / layout.CHECKPOINTS).iterdir()) == [checkpoint.item_folder(tmp_path, ["b"])]
    checkpoint.discard(tmp_path, ["b"])
    assert not list(tmp_path.iterdir())
    checkpoint.discard(tmp_path, ["c"])


def test_a_carry_belongs_to_its_cells_its_runs_and_the_sources() -> None:
    usual = checkpoint.identity(["a", "b"], np.arange(4))
    assert usual == json.loads(json.dumps(usual)) == checkpoint.identity(["a", "b"], np.arange(4))
    assert usual != checkpoint.identity(["b", "a"], np.arange(4))
    assert usual != checkpoint.identity(["a", "b"], np.arange(1, 5))
    assert len(usual["program"]) == 64
