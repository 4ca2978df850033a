"""Every test runs with JAX's strictest checks, without a display and without the network."""

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

import jax
import pytest

from experiments import compiler

compiler.prepare()

jax.config.update("jax_debug_key_reuse", True)
jax.config.update("jax_numpy_rank_promotion", "raise")

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of measured traces beside the repository; it is not part of it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data are not beside this checkout")
    return folder
