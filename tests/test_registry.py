"""One registry for all that is found by name: its decorators, its collisions, its parameters, and users' files."""

import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandits.deployment import DEPLOYMENT
from bandits.estimators.confidence import Confidence
from bandits.routing import ROUTING, RoutingRule
from envs.errors import InputError
from envs.parameters import choice, number
from envs.registry import Registry, describe
from experiments.config import sources
from experiments.config import study as study_config
from experiments.config.study import REGISTRIES, CellConfig
from tests import studies

HEADER = """
import jax.numpy as jnp
from bandits.deployment import DeploymentRule, deployment_rule
from bandits.forecasting.base import Forecaster, forecaster, nominal_demand, steady
from envs.parameters import choice, number
from bandits.routing import RoutingRule, routing_rule
from envs.demand.base import Process, demand_process
"""
ROUTES = """
@routing_rule("{name}")
class {title}(RoutingRule):
    {fields}

    def decide(self, state, view):
        return 0.5 * view.caps, state
"""
DEPLOYS = """
@deployment_rule("{name}")
class {title}Deployment(DeploymentRule):
    {fields}

    def decide(self, state, view):
        return view.available, state
"""
FORECASTS = """
@forecaster("{name}")
class {title}Forecaster(Forecaster):
    {fields}

    def init(self, problem):
        return nominal_demand(problem)

    def outlook(self, state, now):
        return steady(state, now)
"""
ARRIVES = """
@demand_process("{name}")
class {title}Demand(Process):
    mean: float = number(20.0, low=0.0, above=True)
    {fields}
"""
KINDS = {"routing": ROUTES, "deployment": DEPLOYS, "forecaster": FORECASTS, "demand": ARRIVES}
SHIPPED = {"routing": "ucb1", "deployment": "greedy", "forecaster": "running_mean", "demand": "constant"}


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    yield
    for registry in REGISTRIES.values():
        registry.forget(study_config.USER_MODULE)


def source(kind: str, name: str = "mine", fields: str = "pass", title: str = "Mine") -> str:
    return KINDS[kind].format(name=name, fields=fields, title=title)


def write(folder: Path, *texts: str) -> list[str]:
    """Files with these classes; returns their paths."""
    studies.write(folder, {f"file{number}.py": HEADER + text for number, text in enumerate(texts)})
    return [str(folder / f"file{number}.py") for number in range(len(texts))]


def load(*paths: str) -> None:
    for path in paths:
        study_config.load_rules(path)


def cells(*arguments: str, **changes: Any) -> tuple[CellConfig, ...]:
    return study_config.study_from(studies.plain(*arguments) | changes).cells


# Collisions.
@pytest.mark.parametrize("kind", KINDS)
def test_a_shipped_name_is_taken(tmp_path: Path, kind: str) -> None:
    before = dict(REGISTRIES[kind])
    (path,) = write(tmp_path, source(kind, "extra", title="Extra") + source(kind, SHIPPED[kind]))
    with pytest.raises(InputError, match=rf"file0\.py: there is a .* called '{SHIPPED[kind]}' already \(in \w+\.py\)"):
        load(path)
    assert REGISTRIES[kind] == before  # nothing of a file that is refused stays


@pytest.mark.parametrize("kind", KINDS)
def test_two_files_or_one_cannot_give_a_name_twice(tmp_path: Path, kind: str) -> None:
    first, other = write(tmp_path, source(kind), source(kind, fields="warmth: float = number(0.5)"))
    with pytest.raises(InputError, match=r"file1\.py: there is a .* called 'mine' already \(in file0\.py\)"):
        load(first, other)
    (twice,) = write(tmp_path / "twice", source(kind, "ours") + source(kind, "ours", title="Other"))
    with pytest.raises(InputError, match=r"file0\.py: there is a .* called 'ours' already"):
        load(twice)


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_file_again_is_no_collision(tmp_path: Path, kind: str) -> None:
    first, same = write(tmp_path, source(kind), source(kind))
    load(first, same, first)
    assert REGISTRIES[kind]["mine"].__module__.startswith(study_config.USER_MODULE)


def test_a_study_knows_its_own_files_only(tmp_path: Path) -> None:
    one, other = write(tmp_path, source("routing"), source("routing", fields="warmth: float = number(0.5)"))
    for path, values in ((one, {}), (other, {"warmth": 0.5}), (one, {})):
        (cell,) = cells(f"rules=['{path}']", "policies=[mine]")
        assert cell.policy.parameters == values
    with pytest.raises(InputError, match="'mine', which is no routing rule"):
        cells("policies=[mine]")


def test_one_name_of_two_kinds_is_no_collision(tmp_path: Path) -> None:
    load(*write(tmp_path, "".join(source(kind) for kind in KINDS)))
    assert all("mine" in registry for registry in REGISTRIES.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_may_register_any_of_them_alone(tmp_path: Path, kind: str) -> None:
    load(*write(tmp_path, source(kind)))
    assert [known for known, registry in REGISTRIES.items() if "mine" in registry] == [kind]


def test_a_file_that_registers_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"registers nothing; .*@routing_rule, .*@demand_process"):
        load(*write(tmp_path, ""))


# What can be registered.
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (source("routing", "confidence"), "cannot be called 'confidence'"),
        (source("routing", "a.b"), "cannot be called 'a.b'"),
        (source("routing", ""), "cannot be called ''"),
        (source("routing", fields="name: float = number(1.0)"), "a parameter cannot be called 'name'"),
        (source("demand", fields="process: float = number(1.0)"), "a parameter cannot be called 'process'"),
        (source("demand", fields="maximum: float = number(1.0)"), "a parameter cannot be called 'maximum'"),
        ("@routing_rule('mine')\nclass Mine:\n    pass\n", "must derive from RoutingRule"),
    ],
)
def test_what_cannot_be_a_member_is_refused_in_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(InputError) as caught:
        load(*write(tmp_path, text))
    assert sentence in str(caught.value) and "file0.py" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("more", ["", "@dataclass(frozen=True, kw_only=True)\n", "@register_nominal_pytree\n"])
def test_one_decorator_is_enough_and_the_others_do_no_harm(tmp_path: Path, more: str) -> None:
    imports = "from dataclasses import dataclass\nfrom envs.pytree import register_nominal_pytree\n"
    more += "@dataclass(frozen=True, kw_only=True)\n" if "nominal" in more else ""
    text = imports + source("demand", fields="height: float = number(2.0)").replace("class ", f"{more}class ")
    (path,) = write(tmp_path, text)
    plain = studies.plain("demand=constant", "demand.process=mine", f"rules=['{path}']", "demand.height=5")
    (cell,) = study_config.study_from(plain).cells
    assert cell.demand == {"process": "mine", "mean": 20.0, "height": 5.0} | {
        "counts": "none",
        "dispersion": 0.0,
        "maximum": None,
    }
    assert studies.cells.build(study_config.study_from(plain))[0].instance.world.demand.process.height == 5.0


def test_a_registry_describes_its_members() -> None:
    registry = Registry("routing rule", RoutingRule)

    @registry.register("mine")
    class Mine(RoutingRule):
        """One line.

        And more.
        """

        warmth: float = number(0.5, low=0.0, high=1.0)
        size: float = number(low=0.0, above=True)
        mode: str = choice("slow", ("slow", "fast"))

    (about,) = registry.describe()
    assert (about.name, about.summary) == ("mine", "One line.")
    assert [(entry.name, entry.default, entry.allowed) for entry in about.parameters] == [
        ("warmth", 0.5, "lie in [0, 1]"),
        ("size", None, "be above 0"),
        ("mode", "slow", "be one of slow, fast"),
    ]


# Parameters belong to their rule.
def test_a_rule_s_own_default_is_what_runs(tmp_path: Path) -> None:
    fields = "width: float = number(0.5)\n    kappa: float = number(7.0)\n    floor: float = number(3.0)"
    (path,) = write(tmp_path, source("routing", fields=fields))
    (mine, ucb1) = cells(f"rules=['{path}']", "policies=[mine,ucb1]", "policy.ucb1.width=3")
    assert mine.policy.parameters == {"width": 0.5, "kappa": 7.0, "floor": 3.0}
    assert mine.policy.confidence["kappa"] == 1.0
    assert ucb1.policy.parameters == {"width": 3.0}


AWKWARD = ("horizon", "budget", "seed", "policy", "env", "target", "num_models", "cell", "demand", "stages", "regret")


@pytest.mark.parametrize("name", AWKWARD)
def test_a_parameter_may_be_called_like_anything_else(tmp_path: Path, name: str) -> None:
    (path,) = write(tmp_path, source("routing", fields=f"{name}: float = number(1.0)"))
    found = cells(f"rules=['{path}']", "policies=[mine,uniform]", f"sweep.policy.mine.{name}=[3,4]")
    assert [cell.policy.parameters.get(name) for cell in found] == [3.0, None, 4.0]
    assert [cell.swept for cell in found] == [{f"policy.mine.{name}": 3}, {}, {f"policy.mine.{name}": 4}]
    flat = cells(f"rules=['{path}']", f"policies=[{{name: a, routing: mine, {name}: 5}}]", f"policy.mine.{name}=6")
    assert flat[0].policy.parameters == {name: 5.0}


def test_a_key_that_two_parts_have_is_refused_with_the_remedy(tmp_path: Path) -> None:
    both = "floor: float = number(1.0)"
    (path,) = write(tmp_path, source("routing", fields=both) + source("deployment", fields=both))
    rules, pair = f"rules=['{path}']", "routing: mine, deployment: mine"
    with pytest.raises(InputError, match=r"policies\.a\.floor: routing and deployment both have it; write routing: {n"):
        cells(rules, f"policies=[{{name: a, {pair}, floor: 2}}]")
    for shared in ("policy.mine.floor=2", "sweep.policy.mine.floor=[2]"):
        with pytest.raises(InputError, match=r"policy\.mine\.floor: the routing rule and the deployment rule"):
            cells(rules, f"policies=[{{name: a, {pair}}}]", shared)
    nested = "routing: {name: mine, floor: 2}, deployment: {name: mine, floor: 3}, confidence: {kappa: 4}"
    (cell,) = cells(rules, f"policies=[{{name: a, {nested}}}]")
    assert (cell.policy.parameters, cell.policy.deployment_parameters) == ({"floor": 2.0}, {"floor": 3.0})
    assert cell.policy.confidence["kappa"] == 4.0


def test_a_rule_s_parameter_called_confidence_is_told_from_the_confidence(tmp_path: Path) -> None:
    (path,) = write(tmp_path, source("routing", fields="confidence: float = number(1.0)"))
    with pytest.raises(InputError, match=r"routing and confidence both have it; write .* or confidence: {confidence"):
        cells(f"rules=['{path}']", "policies=[{routing: mine, confidence: 2}]")
    (cell,) = cells(f"rules=['{path}']", "policies=[{routing: {name: mine, confidence: 2}, confidence: {kappa: 3}}]")
    assert cell.policy.parameters == {"confidence": 2.0}
    assert (cell.policy.confidence["kappa"], cell.policy.confidence["confidence"]) == (3.0, 0.25)


def test_one_name_may_be_a_routing_and_a_deployment_rule_with_parameters_of_their_own() -> None:
    policies = "policies=[{name: a, routing: stageroute, deployment: stageroute}]"
    (cell,) = cells(policies, "policy.stageroute.penalty=2", "policy.stageroute.max_nodes=50")
    assert (cell.policy.parameters["penalty"], cell.policy.deployment_parameters["max_nodes"]) == (2.0, 50)


def test_a_value_given_twice_is_refused() -> None:
    with pytest.raises(InputError, match=r"policies\.a\.width is given twice"):
        cells("policies=[{name: a, routing: {name: ucb1, width: 1}, width: 2}]")
    with pytest.raises(InputError, match=r"sweep\.env\.target and sweep\.target are one axis"):
        cells("sweep.target=[0.5]", "sweep.env.target=[0.6]")


def test_an_axis_has_one_name_however_it_is_spelt() -> None:
    assert [cell.swept for cell in cells("sweep.env.target=[0.5]")] == [{"target": 0.5}]


def test_a_user_s_demand_may_be_swept_beyond_what_the_yaml_names(tmp_path: Path) -> None:
    (path,) = write(tmp_path, source("demand", fields="height: float = number(2.0)"))
    found = cells(f"rules=['{path}']", "demand=constant", "demand.process=mine", "sweep.demand.height=[1,3]")
    assert [cell.demand["height"] for cell in found] == [1.0, 3.0]


# Imports.
def test_every_module_can_be_imported_first() -> None:
    root = sources.ROOT
    files = [file for package in ("envs", "bandits") for file in sorted((root / package).rglob("*.py"))]
    names = [sources._name(file) for file in files]
    program = (
        "import importlib, sys\n"
        f"for name in {names}:\n"
        "    for known in [known for known in sys.modules if known.partition('.')[0] in ('envs', 'bandits')]:\n"
        "        del sys.modules[known]\n"
        "    importlib.import_module(name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr


def test_what_decides_numbers_is_in_the_engine() -> None:
    """Whatever a module of the engine imports of ours is in it too, or named here with its reason."""
    elsewhere = {
        *(
            "experiments.config.study",
            "experiments.results.cell_file",
            "experiments.results.cell_info",
            "experiments.results.metrics",
            "experiments.results.metrics.base",
            "experiments.engine.checkpoint_state",
        ),  # values, results and checkpoints, as they are
        *("experiments.config.rule_errors", "experiments.interrupt"),  # errors and signals
        *("experiments.config.sources", "experiments"),
        *("experiments.config", "experiments.engine", "experiments.results"),  # a docstring each
        "experiments.engine.program_cache",  # how programs are kept and announced
    }
    engine = set(sources._engine_modules())
    imported = {name for module in engine for name in sources._imported(module)}
    ours = {name for name in imported if sources._is_ours(name) and sources._source(name)}
    assert ours - engine <= elsewhere
    assert {importlib.import_module(cls.__module__).__name__ for cls in ROUTING.values()} & engine == set()


def test_a_rule_built_on_another_depends_on_it() -> None:
    assert sources.of("routing", "ucb1")["imports"] == {}
    assert sources.of("routing", "oa_ucb")["imports"].keys() == {"bandits.routing.copac_ucb"}


# What is written down.
def test_the_page_of_rules_tells_every_parameter_as_it_is() -> None:
    sections = (sources.ROOT / "docs" / "rules.md").read_text(encoding="utf-8").split("\n## ")[1:]
    for section, described in zip(
        sections, (ROUTING.describe(), DEPLOYMENT.describe(), [describe("confidence", Confidence)]), strict=True
    ):
        rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in section.splitlines() if "|" in line][
            2:
        ]
        told: list[tuple[str, str, str, str]] = []
        for rule, parameter, default, allowed, meaning in rows:
            told.append((rule or told[-1][0], parameter, default, allowed))
            assert meaning
        wanted = []
        for about in described:
            entries = [(about.name, entry.name, str(entry.default), entry.allowed) for entry in about.parameters]
            wanted += entries or [(about.name, "", "", "")]
        assert told == wanted
