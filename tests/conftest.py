"""Every test runs with JAX's strictest checks, without a display and without the network.

Compiling is what tests wait for. Programs are compiled in a hurry, except for tests marked ``optimized`` and where
``JAX_DISABLE_MOST_OPTIMIZATIONS=0``; all processes of a test run share one cache of them; and workers get the files
that take longest first (``--dist=loadfile --no-loadscope-reorder``).
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

os.environ["MPLBACKEND"] = "Agg"
os.environ["WANDB_MODE"] = "offline"  # for the processes that tests start, too
os.environ["WANDB_SILENT"] = "true"

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # one cache for all processes of a test run, and for that run alone
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="llm-bandits-programs-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

from experiments.engine import compiler

compiler.prepare()

jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parent.parent
DURATIONS = ROOT / "test-durations.txt"
IN_A_HURRY = jax.config.read("jax_disable_most_optimizations")
LONGEST = (  # files, by how long they take; a worker that began one of them last would be waited for
    *("test_run", "test_lp", "test_faults", "test_study", "test_figures", "test_batch", "test_staged", "test_routing"),
    *("test_deployment", "test_support", "test_devices", "test_commands", "test_trackers", "test_damage"),
)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of measured traces beside the repository; it is not part of it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data are not beside this checkout")
    return folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take longest first."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Set how hard the compiler tries, before any fixture compiles something."""
    hurry = IN_A_HURRY and item.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", hurry)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Write the seconds of every file and of every test, the longest first, to ``test-durations.txt``."""
    seconds: dict[str, float] = {}
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if type(report) is pytest.TestReport:  # and not of a part of a test, whose time is in the test's
            for name in (report.nodeid.partition("::")[0], report.nodeid):
                seconds[name] = seconds.get(name, 0.0) + report.duration
    lines = [f"{took:8.2f} {name}" for name, took in sorted(seconds.items(), key=lambda pair: -pair[1])]
    DURATIONS.write_text("\n".join(lines) + "\n", encoding="utf-8")
