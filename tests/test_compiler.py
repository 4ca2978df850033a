"""Compiler settings make runs fast, never different."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest

from experiments.engine import compiler

ROOT = Path(__file__).resolve().parent.parent
PLAIN = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=0 --xla_cpu_prefer_vector_width=128"
STUDY = ("policies=[lp_resolving]", "seeds=3", "horizon=300", "env.num_models=5", "tracker=jsonl")


def test_flags_of_the_user_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=256 --xla_dump_to=somewhere")
    compiler.prepare()
    once = os.environ["XLA_FLAGS"]
    assert once.startswith("--xla_cpu_prefer_vector_width=256 --xla_dump_to=somewhere --xla_backend_extra_options=")
    assert "512" not in once
    compiler.prepare()
    assert os.environ["XLA_FLAGS"] == once


@pytest.mark.slow
def test_runs_are_the_same_without_them(tmp_path: Path) -> None:
    for name, flags in (("fast", ""), ("plain", PLAIN)):
        command = [sys.executable, "-m", "experiments.cli.run", *STUDY, f"out={tmp_path / name}"]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "XLA_FLAGS": flags}, check=True, capture_output=True)
    fast, plain = (pyarrow.parquet.read_table(tmp_path / name / "results.parquet") for name in ("fast", "plain"))
    assert fast["cell"] == plain["cell"]
    for name in ("reward", "served", "spent_money", "violation", "regret", "overspend"):
        np.testing.assert_allclose(fast[name].to_numpy(), plain[name].to_numpy(), rtol=1e-6, atol=1e-6, err_msg=name)
