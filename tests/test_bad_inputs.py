"""Wrong values at every key, wrong paths, wrong environment variables: one sentence each."""

import copy
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from envs.errors import InputError
from experiments.config import cells, schema, sizes
from experiments.config import study as study_config
from experiments.report import dashboards
from tests import studies

ROOT = Path(__file__).resolve().parent.parent
INFINITE = [math.inf, -math.inf, math.nan]
UNFIT = [1e39, -1e39, 1e-46, 10**400, -(10**400)]  # for float32
NO_NUMBER: list[Any] = [True, "x", "3", "", [1], [[1]], {}, {"a": 1}]
NO_TEXT: list[Any] = [None, 3, 2.5, True, [], ["a"], {}, {"a": "b"}, ""]
NO_LIST: list[Any] = [None, 3, True, "x", {}, {"a": 1}]
NO_MAPPING: list[Any] = [None, 3, True, "x", [], [1]]
NUMBER = [*NO_NUMBER, *INFINITE, *UNFIT]
WHOLE = [*NUMBER, 2.5, 10**20, -(10**20), 10**12 * 10**8]
WORD = [*NO_TEXT, "nonsense", "a\nb"]

# Keys of the base configuration, each with what it must not hold.
WRONG: dict[str, list[Any]] = {
    "horizon": [None, *WHOLE, 0, -1, 10**12],
    "seeds": [None, *WHOLE, 0, -1, 10**9],
    "root_seed": [None, *WHOLE, -1, 2**32],
    "eval_rounds": [None, *WHOLE, 0, 1, 10**9],
    "eval_spacing": WORD,
    "precision": [*WORD, 32, "float16"],
    "chunk_rows": [*WHOLE, 0, -1],
    "checkpoint_minutes": [*NUMBER, -1],
    "force": [None, 0, 1, 2.5, "true", "yes", "", [], [True], {}],
    "extend": [None, 0, 1, 2.5, "true", "yes", "", [], [True], {}],
    "shard": [*WHOLE, -1],
    "expected_exponents": [3, True, "x", [], [1]],
    "expected_exponents.uniform": NO_MAPPING,
    "expected_exponents.uniform.regret": [None, *NUMBER],
    "published": [*NO_LIST, [3], [{"regret": "x"}], [{"policy": "uniform"}]],
    "program_cache": [None, "", [], {}],
    "demands": NO_MAPPING,
    "demands.a": [*NO_MAPPING, {}],
    "worlds": NO_MAPPING,
    "worlds.a": [*NO_MAPPING, {}, {"target": 0.5}],
    "rules": NO_LIST,
    "rules.0": [*NO_TEXT, "missing.py", "~nouser/x.py", "a\0b.py", "a" * 5000 + ".py", "a_file/x.py", "/"],
    "policies": [*NO_LIST, []],
    "policies.0": [None, 3, True, [], {}, "", "nonsense", {"routing": 3}, {"routing": ["uniform"]}],
    "deployment": WORD,
    "routing": [3, True, ["uniform"], {}, "", "nonsense"],
    "env": NO_MAPPING,
    "demand": NO_MAPPING,
    "forecaster": NO_MAPPING,
    "policy": NO_MAPPING,
    "sweep": NO_MAPPING,
    "tracker": [*NO_MAPPING, {}],
    "tracker.name": WORD,
    "env.catalogue": [*NO_TEXT, "nonsense", "~nouser/x", "a\0b", "a" * 5000, "a_file/x", "/"],
    "env.num_models": [*WHOLE, 0, 99, 10**9],
    "env.first_quality": [*NUMBER, -0.1, 1.1, 0.5],
    "env.quality_gap": [*NUMBER, -0.1, 1.1, 0.5],
    "env.budget_per_task": [*NUMBER, 0, -1, 1e10],
    "env.budget_usd": [*NUMBER, 0, -1, 1e16, 10.0],  # beside a budget per task
    "env.cost_unit": [3, True, [], {}, "", "nonsense", "per_token"],  # this catalogue has no prices of tokens
    "env.cost_cv": [*NUMBER, -0.1],
    "env.latency_cv": [*NUMBER, -0.1],
    "env.resources": NO_MAPPING,
    "env.resources.energy_wh": [None, *NUMBER, 0, -1],
    "env.budget_rule": WORD,
    "env.target": [*NUMBER, -0.1, 1.1],
    "env.latency_slo_s": [None, *NUMBER, 0, -1],
    "env.floors": NO_MAPPING,
    "env.floors.quality": [None, *NUMBER, -0.1, 1.1],
    "env.cloud_rtt_s": [None, *NUMBER, -1],
    "env.edge_throughput": [None, *NUMBER, 0, 1.1],
    "env.cloud_throughput": [None, *NUMBER, 0, 1.1],
    "env.quality_noise": WORD,
    "env.quality_concentration": [None, *NUMBER, 0],
    "env.cost_bound_multiple": [None, *NUMBER, 0.5],
    "env.demand_seen": WORD,
    "env.arrivals": WORD,
    "env.arrival_order": WORD,
    "env.arrival_span": [None, *NUMBER, 0, 1.1],
    "env.initial_models": [None, *WHOLE, 0],
    "env.arrival_seed": [None, *WHOLE, -1],
    "env.arrival_at": [*NO_LIST, ["x"], [None], [True], [[0.5]], [2]],
    "env.retirement_at": [*NO_LIST, ["x"], [True], [[0.5]], [-1]],
    "env.lifetime": [*NUMBER, 0],
    "env.max_deployed": [*WHOLE, 0, 99],
    "env.stages": [*WHOLE, 0, 10**12],
    "env.stage_exponent": [None, *NUMBER, -0.1, 1.1],
    "env.deployment_cost_usd": [None, *NUMBER, -1],
    "demand.process": WORD,
    "demand.mean": [None, *NUMBER, 0, -1],
    "demand.counts": WORD,
    "demand.dispersion": [None, *NUMBER, -1],
    "demand.maximum": [*NUMBER, 0, -1, 1],
    "forecaster.name": WORD,
    "forecaster.upward_bias": [None, *NUMBER, -1],
    "sweep.mode": [3, True, [], {}, "nonsense"],
    "sweep.horizon": [3, True, "x", {"a": 1}, [], [None], [True], ["x"], [[1]], [{}], [0], [math.inf], [10**12]],
    "sweep.target": [3, "x", {"a": 1}, [], ["x"], [[1]], [1.1], [math.nan], [1e-46]],
    "sweep.budget_per_task": [3, "x", {"a": 1}, [], ["x"], [0], [1e39], [1e-46], [-1]],
    "sweep.num_models": [3, "x", [], ["x"], [0], [2.5], [99]],
    "sweep.policy": [3, True, "x", [1]],
    "sweep.policy.eta": [3, "x", [], ["x"], [None], [[1]], [-1], [1e39]],
    "sweep.env": [3, True, "x", [1]],
    "sweep.env.budget_rule": [3, "skip", [], ["x"], [["skip"]], [3]],
    "sweep.env.floors": [3, [3], [{"quality": "x"}]],
    "sweep.demand.mean": [3, "x", [], ["x"], [0], [math.inf]],
    "sweep.demand.process": ["x", ["x"], [3], [["constant"]]],
    "sweep.forecaster.upward_bias": [3, "x", [], ["x"], [None], [-1]],
}
# A key of its own group file: (arguments, key, what it must not hold).
OF_GROUPS: list[tuple[str, str, list[Any]]] = [
    ("demand=diurnal", "demand.period", [None, *NUMBER, 0]),
    ("demand=diurnal", "demand.weekend", [None, *NUMBER, -1]),
    ("demand=sinusoid", "demand.noise", [None, *NUMBER, -1, 100, 1e30]),
    ("demand=walk", "demand.step_size", [None, *NUMBER, -1, 1e30]),
    ("demand=shocks", "demand.high", [None, *NUMBER, 0]),
    ("demand=mmpp", "demand.ratio", [None, *NUMBER, 0.5]),
    ("demand=trend", "demand.slope", [None, *NUMBER, 2]),
    ("demand=trace", "demand.path", [*NO_TEXT, "missing", "~nouser/x", "a\0b", "a" * 5000, "a_file/x", "/"]),
    ("forecaster=ewma", "forecaster.smoothing", [None, *NUMBER, 2]),
    ("forecaster=ar", "forecaster.order", [None, *WHOLE, 0, 1000]),
    ("forecaster=seasonal_naive", "forecaster.period", [None, *WHOLE, 0]),
    ("tracker=wandb", "tracker.mode", [3, True, [], {}, "nonsense"]),
    ("tracker=wandb", "tracker.project", [*NO_TEXT, "a/b", "a" * 129]),
    ("tracker=wandb", "tracker.entity", [3, True, [], {}, "", "a/b"]),
    ("tracker=wandb", "tracker.tags", [3, True, "x", {"a": 1}, [3], [[]], [""], ["a" * 65]]),
]


@cache
def composed(*arguments: str) -> dict[str, Any]:
    return studies.plain(*arguments)


def changed(plain: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with one value put at a path, whatever is there."""
    made = copy.deepcopy(plain)
    *groups, key = path.split(".")
    place: Any = made
    for group in groups:
        place = place.setdefault(group, {})
    if key == "0":
        place[:] = [value]
    else:
        place[key] = value
    return made


def understood(plain: dict[str, Any], folder: Path) -> None:
    """All that a command looks at before it simulates, but for its folder."""
    settings = study_config.study_from(plain)
    sizes.check(settings, cells.build(settings))
    dashboards.settings_from(settings.tracker, settings.name, folder)


def refusal(plain: dict[str, Any], folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        understood(plain, folder)
    text = str(refused.value)
    assert len(text) < 700 and "Traceback" not in text and "\n" not in text and "\0" not in text
    return text


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working directory but for one file, which stays so."""
    studies.write(tmp_path, {"a_file": ""})
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["a_file"]


def named(path: str) -> str:
    """How a message must name a key: without the place in a list, and a swept one at least by its last part."""
    parts = [part for part in path.split(".") if part != "0"]
    return parts[-1] if parts[0] == "sweep" or parts[0] == "worlds" else ".".join(parts)


@pytest.mark.parametrize("path", WRONG)
def test_a_wrong_value_is_refused_with_its_key(folder: Path, path: str) -> None:
    plain = composed("policies=[uniform,primal_dual_resolving]")
    for value in WRONG[path]:
        text = refusal(changed(plain, path, value), folder)
        assert named(path) in text or str(value) in text, (value, text)


@pytest.mark.parametrize(
    ("argument", "path", "values"), OF_GROUPS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_wrong_value_of_a_group_is_refused_with_its_key(folder: Path, argument: str, path: str, values: list) -> None:
    for value in values:
        assert path.partition(".")[0] in refusal(changed(composed(argument), path, value), folder), value


def leaves(value: Any, path: str = "") -> Iterator[str]:
    """The paths of everything within a configuration, groups among them."""
    if isinstance(value, dict):
        for key, entry in value.items():
            yield f"{path}.{key}".lstrip(".")
            yield from leaves(entry, f"{path}.{key}".lstrip("."))


def test_a_sweep_too_large_is_refused_before_it_is_expanded(folder: Path) -> None:
    horizons, targets = list(range(10, 3210)), [place / 4000 for place in range(3200)]
    swept = {"mode": "product", "horizon": horizons, "target": targets}
    text = refusal(changed(composed("policies=[uniform]"), "sweep", swept), folder)
    assert "3200 of horizon x 3200 of target" in text and "10,240,000 cells" in text and "100,000" in text


JUNK: list[Any] = [
    *NUMBER,
    *NO_TEXT,
    *(
        0,
        1,
        -1,
        0.5,
        2,
        7,
        1e-30,
        1e30,
        1e6,
        -0.0,
        3.0,
        10**6,
        2**31,
        "uniform",
        "start",
        "a/b",
        "../x",
        "\n",
        "\0",
        "é",
    ),
    *(
        [0, 0.5],
        [{}],
        [[[]]],
        [None, None],
        ["uniform", 3],
        {"": 1},
        {"name": "oracle"},
        {"quality": 0.5},
        {"a": {"b": 1}},
    ),
]


@pytest.mark.parametrize("argument", ["demand=diurnal", "demand=mmpp", "forecaster=holt_winters", "env=streaming"])
def test_anything_anywhere_is_accepted_or_refused(folder: Path, argument: str) -> None:
    """Random values at random keys, one or two at once: no other error, whatever they are."""
    generator = random.Random(argument)
    plain = composed(argument, "policies=[lp_resolving,primal_dual_resolving]")
    paths = [path for path in leaves(plain) if path != "out"]
    for _ in range(120):
        made = plain
        for path in generator.sample(paths, generator.choice([1, 1, 2])):
            if isinstance(made.get(path.partition(".")[0]), dict) or "." not in path:
                made = changed(made, path, generator.choice(JUNK))
        with suppress(InputError):
            understood(made, folder)


def test_every_key_is_tried() -> None:
    tried = {path.partition(".")[0] for path in WRONG}
    assert schema.TOP.keys() <= tried | {"name", "out"}  # tried in test_config
    assert {f"env.{key}" for key in schema.ENV} <= WRONG.keys()


# What others read from the environment, each in a process of its own; the words that its sentence must hold.
VARIABLES = {
    "JAX_PLATFORMS=cuda,nonsense": ["JAX_PLATFORMS", "'cuda,nonsense'", "JAX_PLATFORMS=cpu"],
    "JAX_ENABLE_X64=maybe": ["JAX_ENABLE_X64", "'maybe'"],
    "JAX_DISABLE_JIT=1": ["JAX_DISABLE_JIT"],
    "XLA_FLAGS=--nonsense": ["XLA_FLAGS", "'--nonsense'", "Unknown flag"],
    "XLA_FLAGS=nonsense": ["XLA_FLAGS", "'nonsense'", "neither a flag"],
}


@pytest.mark.parametrize("variable", VARIABLES)
def test_a_wrong_environment_variable_is_refused_by_its_name(folder: Path, variable: str) -> None:
    name, _, value = variable.partition("=")
    ran = in_environment({name: value})
    assert ran.returncode == 2
    studies.at_most_opening(ran.stdout)
    studies.one_sentence(ran.stderr, *VARIABLES[variable])


def test_what_others_read_otherwise_does_not_matter(folder: Path) -> None:
    """A study is refused for its own fault: no variable came first, and none added a line."""
    (flags := folder / "a_file").write_text("--xla_force_host_platform_device_count=1\n", encoding="utf-8")
    odd = {"HYDRA_FULL_ERROR": "x", "MPLBACKEND": "nonsense", "COLUMNS": "x", "TMPDIR": "/nowhere", "LC_ALL": "nowhere"}
    more = {
        "OMP_NUM_THREADS": "x",
        "TF_CPP_MIN_LOG_LEVEL": "x",
        "CUDA_VISIBLE_DEVICES": "x",
        "PYTHONIOENCODING": "ascii",
    }
    ran = in_environment({**odd, **more, "XLA_FLAGS": str(flags), "JAX_PLATFORMS": "cpu"}, "horizon=0")
    assert ran.returncode == 2
    studies.at_most_opening(ran.stdout)
    studies.one_sentence(ran.stderr, "horizon is 0")


def in_environment(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "experiments.cli.run", *studies.merged("out=out", *arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
