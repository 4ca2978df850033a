"""Compiled programs are kept between starts, safely, and never change a result."""

import os
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.engine import program_cache
from experiments.jobs import warning_log


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No cache of the test run's, and afterwards the settings as they were."""
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    names = ("dir", "persistent_cache_min_compile_time_secs", "persistent_cache_min_entry_size_bytes")
    names = tuple(name if name.startswith("persistent") else f"compilation_cache_{name}" for name in names)
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.experimental.compilation_cache.compilation_cache.reset_cache()


def folders(root: Path) -> set[str]:
    return {entry.name for entry in root.iterdir() if entry.is_dir()}


def old_folder(root: Path, name: str, size: int, age: float) -> None:
    (root / name).mkdir(parents=True)
    (root / name / "a-cache").write_bytes(b"0" * size)
    (root / name / "used").touch()
    os.utime(root / name / "used", (time.time() - age, time.time() - age))


def test_the_folder_follows_the_user_s_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert program_cache.enable(True) is None
    folder = Path(jax.config.jax_compilation_cache_dir)
    assert folder.parent == tmp_path / "llm-bandits" / "programs"
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_prefer_vector_width=128")
    assert program_cache.enable(str(tmp_path / "mine")) is None
    other = Path(jax.config.jax_compilation_cache_dir)
    assert other.parent == tmp_path / "mine"
    assert other.name != folder.name  # other flags, other programs
    assert program_cache.enable(False) is None
    assert jax.config.jax_compilation_cache_dir is None


def test_a_folder_that_the_user_gave_jax_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "theirs"))
    before = jax.config.jax_compilation_cache_dir
    assert program_cache.enable(str(tmp_path / "ours")) is None
    assert jax.config.jax_compilation_cache_dir == before
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("case", ["a file in its place", "full", "no home"])
def test_where_nothing_can_be_kept_it_says_so(case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    setting: bool | str = str(tmp_path / "cache")
    if case == "a file in its place":
        (tmp_path / "cache").write_text("")
    elif case == "full":
        monkeypatch.setattr(program_cache.shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    else:
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setenv("HOME", "/dev/null/nowhere")
        setting = True
    said = program_cache.enable(setting)
    assert said is not None
    assert "cannot be kept" in said
    assert jax.config.jax_compilation_cache_dir is None


def test_all_folders_together_stay_small(tmp_path: Path) -> None:
    old_folder(tmp_path, "oldest", 900, 3e5)
    old_folder(tmp_path, "old", 900, 2e5)
    old_folder(tmp_path, "running", 900, 10.0)
    (tmp_path / "somebody's").mkdir()  # not ours: without our mark
    assert program_cache.enable(str(tmp_path), most_bytes=2000) is None
    current = Path(jax.config.jax_compilation_cache_dir).name
    assert folders(tmp_path) == {"old", "running", "somebody's", current}
    (tmp_path / current / "b-cache").write_bytes(b"0" * 3000)
    assert program_cache.enable(str(tmp_path), most_bytes=2000) is None
    assert folders(tmp_path) == {"running", "somebody's", current}
    assert not (tmp_path / current / "b-cache").exists()


def test_a_program_is_found_again_and_a_damaged_one_costs_a_compilation(tmp_path: Path) -> None:
    assert program_cache.enable(str(tmp_path)) is None
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    folder = Path(jax.config.jax_compilation_cache_dir)

    def fresh() -> float:
        jax.experimental.compilation_cache.compilation_cache.reset_cache()
        return float(jax.jit(lambda x: jnp.sin(x) * 12345.0)(1.0))

    first = fresh()
    entries = list(folder.glob("*-cache"))
    assert entries
    assert fresh() == first
    for entry in entries:
        entry.write_bytes(entry.read_bytes()[:-20])
    told: list[str] = []
    log = SimpleNamespace(write=lambda event, **fields: None)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with warning_log.logged(log, told.append):
            assert fresh() == first
    assert len(told) == 1
    assert told[0].startswith("a program in the cache was damaged")
    assert fresh() == first
