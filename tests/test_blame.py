"""A user's rule that fails costs its own cells, and the message says where and what to write instead."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from bandits.forecasting.base import FORECASTERS
from tests import studies
from tests.studies import CommandLine

HEAD = """import sys

import jax
import jax.numpy as jnp
import numpy as np

from bandits.deployment import DeploymentRule, deployment_rule
from bandits.forecasting.base import Forecaster, forecaster, steady
from envs.parameters import choice, number
from bandits.routing import RoutingRule, routing_rule


"""
ROUTING = (
    HEAD
    + """@routing_rule("mine")
class Mine(RoutingRule):
"""
)
DECIDE = "    def decide(self, state, view):\n        "
ON_ITS_LINE = "mine.py, line 16, in Mine.decide: "
LATER = "known only when the compiled study runs; "
TRACED: dict[str, tuple[str, list[str]]] = {
    "if": (
        "if view.demand > 3:\n            return view.caps, state",
        ["TracerBool", LATER + "use jnp.where or jax.lax.cond"],
    ),
    "while": ("while view.demand > 3: pass", ["TracerBool", "jnp.where"]),
    "float": ("return float(view.demand) * view.caps, state", ["Concretization", "float()", LATER, "jnp"]),
    "item": ("return view.demand.item() * view.caps, state", ["Concretization", ".item()"]),
    "range": ("for _ in range(view.observation.t): pass", ["TracerInteger", "a length"]),
    "index": ("return [1, 2][view.observation.t] * view.caps, state", ["TracerInteger", "an index", "jnp.take"]),
    "numpy": ("return np.sort(view.caps), state", ["TracerArray", "NumPy", "jax.numpy"]),
    "mask": ("return view.caps[view.caps > 0], state", ["NonConcreteBoolean", "jnp.where(mask, value, 0)"]),
    "raise": ("raise RuntimeError('several\\nlines')", ["RuntimeError: several lines"]),
    "exit": ("sys.exit(3)", ["SystemExit: 3", "sys.exit"]),
    "interrupt": ("raise KeyboardInterrupt", ["KeyboardInterrupt"]),
    "recursion": ("return self.decide(state, view)", ["RecursionError"]),
    "memory": ("raise MemoryError('mine')", ["MemoryError: mine"]),
    "base": ("raise BaseException('mine')", ["BaseException: mine"]),
    "name": ("return view.capz, state", ["AttributeError", "'capz'"]),
    "frozen": ("self.x = 3", ["FrozenInstanceError", "return what it remembers as its state"]),
    "shapes": ("return view.caps + jnp.zeros(3), state", ["TypeError", "(3,)"]),
}
KEEP = "every round must keep the structure, shapes and types that init returned"
CONTRACT: dict[str, tuple[str, list[str]]] = {
    "no decide": (
        "    warmth: float = number(0.5)\n",
        ["mine.py, line 13: class Mine has no method decide", "def decide(self, state, view)"],
    ),
    "arity": (
        "    def decide(self, view): ...\n",
        ["line 15, in Mine.decide", "takes 2 positional arguments", "def decide(self, state, view)"],
    ),
    "arity of init": ("    def init(self): ...\n", ["line 15, in Mine.init", "def init(self, problem, truth)"]),
    "arity of update": (
        DECIDE + "return view.caps, state\n\n    def update(self, state): ...\n",
        ["line 18, in Mine.update", "def update(self, state, view, feedback)"],
    ),
    "no pair": (DECIDE + "return view.caps\n", ["in Mine.decide: it returned an array", "a pair, (shares, state)"]),
    "nothing": (DECIDE + "pass\n", ["it returned nothing", "a pair, (shares, state)"]),
    "three": (DECIDE + "return view.caps, state, 3\n", ["it returned 3 values", "a pair"]),
    "column": (DECIDE + "return view.caps[:, None], state\n", ["(11, 1)", "shares, a float array of shape (11,)"]),
    "number": (DECIDE + "return 0.5, state\n", ["a float;", "shares, a float array of shape (11,)"]),
    "bools": (DECIDE + "return view.caps > 0, state\n", ["bool of shape (11,)", "a float array"]),
    "structure": (DECIDE + "return view.caps, (view.demand,)\n", ["the state (float32[],) after ()", KEEP]),
    "type": (
        "    def init(self, problem, truth): return jnp.int32(0)\n\n" + DECIDE + "return view.caps, state + 0.5\n",
        ["line 17, in Mine.decide: it returned state as float32[] after int32[]", KEEP],
    ),
    "update's state": (
        DECIDE + "return view.caps, state\n\n    def update(self, state, view, feedback): return None\n",
        ["line 18, in Mine.update", "the state None after ()", KEEP],
    ),
    "a note that is not taken out": (
        DECIDE
        + "return view.caps, (view.demand,)\n\n    def update(self, state, view, feedback): return (*state, 1.0)\n",
        ["line 18, in Mine.update", "the state (float32[], float32[]) after ()", KEEP],
    ),
    "words": (
        "    def init(self, problem, truth): return 'warm'\n\n" + DECIDE + "return view.caps, state\n",
        ["in Mine.init: it returned state as a str"],
    ),
    "prices": (
        DECIDE + "return view.caps, state\n\n    def duals(self, state, problem): return jnp.zeros(17)\n",
        ["in Mine.duals", "one price per constraint, a float array of shape (2,)"],
    ),
}
LOADED: dict[str, tuple[str, list[str]]] = {
    "syntax": ("def (", ["SyntaxError", "line"]),
    "name": ("nothing", ["line 13", "NameError", "'nothing'"]),
    "import": ("import nothing_like_it", ["line 13", "ModuleNotFoundError", "nothing_like_it"]),
    "exit": ("sys.exit(3)", ["line 13", "SystemExit"]),
    "interrupt": ("raise KeyboardInterrupt", ["line 13", "KeyboardInterrupt"]),
    "nothing": ("print('nothing')", ["registers nothing", "@routing_rule"]),
    "default": (
        '@routing_rule("mine")\nclass Mine(RoutingRule):\n    a: float = number(5.0, low=0.0, high=1.0)',
        ["5.0", "[0, 1]"],
    ),
    "choice": (
        '@routing_rule("mine")\nclass Mine(RoutingRule):\n    a: str = choice("c", ("a", "b"))',
        ["'c'", "a, b"],
    ),
    "mutable": ('@routing_rule("mine")\nclass Mine(RoutingRule):\n    a: list = []', ["line 13", "mutable default"]),
    "no default": ('@routing_rule("mine")\nclass Mine(RoutingRule):\n    a: float', ["a of Mine has no default"]),
    "text": (
        '@routing_rule("mine")\nclass Mine(RoutingRule):\n    a: str = "x"',
        ["'x'", "number(...)", "choice(...)"],
    ),
    "post": (
        '@routing_rule("mine")\nclass Mine(RoutingRule):\n    def __post_init__(self): sys.exit(3)',
        ["mine.py, line 15, in Mine.__post_init__: SystemExit"],
    ),
}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[CommandLine]:
    with studies.command_line(tmp_path, monkeypatch, capfd) as command:
        yield command


def failed(call: CommandLine, content: str, *arguments: str) -> str:
    """What is said of a rule whose only cell fails; its traceback is in the log alone."""
    studies.write(call.folder, {"mine.py": content})
    ran = call("rules=[mine.py]", "out=out", *arguments)
    assert ran.code == 1
    (line,) = ran.err.splitlines()
    assert "Traceback" not in ran.err + ran.out and len(line) < 500
    lines = (call.folder / "out/events.jsonl").read_text(encoding="utf-8").splitlines()
    (event,) = (event for text in lines if (event := json.loads(text))["event"] == "failed")
    assert event["traceback"].startswith("Traceback") and event["error"] in line
    return line


@pytest.mark.parametrize("name", TRACED)
def test_an_error_while_tracing_is_told_with_its_place_and_a_way_out(call: CommandLine, name: str) -> None:
    body, words = TRACED[name]
    said = failed(call, ROUTING + DECIDE + body + "\n", "policies=[mine]")
    assert ON_ITS_LINE in said
    assert not [word for word in words if word not in said], said


@pytest.mark.parametrize("name", CONTRACT)
def test_a_broken_contract_is_told_with_its_place_and_what_is_right(call: CommandLine, name: str) -> None:
    body, words = CONTRACT[name]
    said = failed(call, ROUTING + body, "policies=[mine]")
    assert not [word for word in words if word not in said], said


def test_decide_may_leave_a_note_for_update(call: CommandLine) -> None:
    """Compared over the whole round: the state that init made is back after update, whatever decide adds for it."""
    started = "    def init(self, problem, truth): return jnp.float32(0)\n\n"
    noted = DECIDE + "return view.caps / 11, {'sum': state, 'demand': view.demand}\n\n"
    summed = "    def update(self, state, view, feedback): return state['sum'] + state['demand']\n\n"
    shown = (
        "    def duals(self, state, problem):\n"
        "        return jnp.full(problem.budget.shape[0] + problem.target.shape[0], state)\n"
    )
    studies.write(call.folder, {"mine.py": ROUTING + started + noted + summed + shown})
    call.done("rules=[mine.py]", "policies=[mine]", "horizon=20", "demand.mean=5", "out=out")
    for row in studies.rows(call.folder / "out"):
        assert row["dual_money"] == pytest.approx(20 * 5)


@pytest.mark.parametrize("name", LOADED)
def test_a_file_that_cannot_be_used_is_refused(call: CommandLine, name: str) -> None:
    body, words = LOADED[name]
    studies.write(call.folder, {"mine.py": HEAD + body + "\n"})
    ran = call("rules=[mine.py]", "policies=[mine]")
    assert ran.code == 2
    studies.one_sentence(ran.err, *words)
    assert not (call.folder / "results").exists()


def test_other_rules_are_simulated_all_the_same(call: CommandLine) -> None:
    said = failed(call, ROUTING + DECIDE + "sys.exit(3)\n", "policies=[mine,uniform]")
    assert "failed: mine, cell" in said
    assert len(list((call.folder / "out/cells").glob("*.npz"))) == 1


def test_many_cells_that_fail_alike_are_told_in_one_line(call: CommandLine) -> None:
    swept = ("sweep.target=[0.1,0.2,0.3]", "sweep.horizon=[20,30]")
    said = failed(call, ROUTING + DECIDE + "sys.exit(3)\n", "policies=[mine]", *swept)
    assert said.startswith("failed: mine, 6 cells: ")


def test_a_deployment_rule_and_a_forecaster_fail_as_a_routing_rule_does(call: CommandLine) -> None:
    deployment = (
        HEAD + '@deployment_rule("mine")\nclass Mine(DeploymentRule):\n' + DECIDE + "return view.reward_upper, state\n"
    )
    said = failed(call, deployment, "deployment=mine")
    assert "in Mine.decide: it returned float32 of shape (11,); it must return what is deployed, a bool array" in said
    methods = "    def init(self, problem): return ()\n\n    def outlook(self, now): ...\n"
    studies.write(call.folder, {"mine.py": HEAD + '@forecaster("mine")\nclass Mine(Forecaster):\n' + methods})
    ran = call("rules=[mine.py]", "forecaster.name=mine", "out=other")
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert "line 17, in Mine.outlook" in ran.err and "def outlook(self, state, now)" in ran.err
    assert "mine" in FORECASTERS
