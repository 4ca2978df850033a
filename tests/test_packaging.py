"""What a user installs: complete, declared, locked, and free of this machine."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("bandits", "conf", "envs", "experiments")
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-extras.lock")
EXTRAS = ("cuda", "cuda12", "tpu", "slurm", "joblib", "xarray")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def git_files():
    """Return what git tracks or would track, relative to the root."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout")
    return [name for name in listed.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel with the backend installed here: no network."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return zipfile.ZipFile(next(folder.glob("*.whl")))


def test_wheel_holds_every_file_of_every_package(wheel):
    """But for the bench, whose rivals are for a checkout."""
    expected = {name for name in git_files() if name.split("/")[0] in PACKAGES}
    expected -= {name for name in expected if name.startswith("experiments/bench/")}
    expected |= {"llm_bandits/__init__.py", "llm_bandits/py.typed"}  # the Python API under the distribution's name
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected
    for name in ("conf/config.yaml", "bandits/routing/__init__.py", "envs/types.py", "experiments/cli/run.py"):
        assert name in packed
    assert any(re.fullmatch(r"envs/catalogues/\w+\.csv", name) for name in packed)


def test_every_folder_with_python_files_is_a_package():
    folders = {(ROOT / name).parent for name in git_files() if name.endswith(".py") and name.split("/")[0] in PACKAGES}
    assert not [folder for folder in folders if not (folder / "__init__.py").exists()]


def test_wheel_declares_the_command_and_the_license(wheel):
    (metadata,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    text = wheel.read(metadata).decode()
    assert "License-Expression: Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text
    commands = wheel.read(metadata.replace("METADATA", "entry_points.txt")).decode()
    assert "llm-bandits = experiments.cli.run:main" in commands
    for name in ("replay", "report", "status", "sync"):
        assert f"llm-bandits-{name} = experiments.cli.commands:{name}" in commands


def locked(name, python):
    """Return the versions that one lock gives to a Python on Linux."""
    environment = {**default_environment(), "python_version": python, "python_full_version": f"{python}.0"}
    environment |= {"sys_platform": "linux", "platform_system": "Linux", "platform_machine": "x86_64"}
    pins = {}
    for line in (ROOT / name).read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate(environment):
                assert canonicalize_name(requirement.name) not in pins, f"two versions of {requirement.name}"
                (pin,) = requirement.specifier
                assert pin.operator == "=="
                pins[canonicalize_name(requirement.name)] = pin.version
    return pins


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_locks_fit_the_project_and_each_other(python):
    run, dev, extras = (locked(name, python) for name in LOCKS)
    for lock, requirements in (
        (run, PROJECT["dependencies"]),
        (dev, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]),
        (extras, [line for extra in EXTRAS for line in PROJECT["optional-dependencies"][extra]]),
    ):
        for requirement in map(Requirement, requirements):
            assert requirement.specifier.contains(lock[canonicalize_name(requirement.name)]), requirement
    assert run.items() <= dev.items()
    assert run.items() <= extras.items()


def test_citation_agrees_with_the_project():
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"version: {PROJECT['version']}\n" in citation
    assert f"license: {PROJECT['license']}\n" in citation


# Written so that this file does not hold what it looks for.
TRACES = ["/" + "work/", "/" + "root/", "/" + "home/", "/" + "tmp/env", "/" + "opt/", "pypi" + "-more", "pypi" + ".org"]
TRACES += ["files." + "pythonhosted", "--" + "index-url", "--" + "extra-index-url", "--" + "find-links"]


def test_no_file_names_this_machine_or_a_registry():
    found = []
    for name in git_files():
        data = (ROOT / name).read_bytes()
        if b"\0" not in data:
            found += [f"{name}: {trace}" for trace in TRACES if trace.encode() in data]
    assert not found


@pytest.mark.parametrize("name", ["run", "test", "lock", "environment"])
def test_scripts_are_executable_and_parse(name):
    script = ROOT / "scripts" / name
    assert script.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_environment_of_another_maker_is_left_alone(tmp_path):
    """A folder named .venv that scripts/run did not make is refused, not replaced."""
    copy = tmp_path / "a b"
    (copy / "scripts").mkdir(parents=True)
    for name in ("scripts/run", "scripts/environment", "scripts/environment.py", "pyproject.toml", *LOCKS):
        target = copy / name
        target.write_bytes((ROOT / name).read_bytes())
        target.chmod(0o755)
    mine = copy / ".venv" / "mine"
    mine.parent.mkdir()
    mine.touch()
    clean = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}
    started = subprocess.run([copy / "scripts" / "run"], env=clean, capture_output=True, text=True)
    assert started.returncode == 2
    assert "was not made by scripts/run" in started.stderr
    assert mine.exists()
