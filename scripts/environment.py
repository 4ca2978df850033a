"""Make, renew and find the project's own virtual environment, from the committed lock files.

The folder is ``.venv``, or ``.venv-3.12`` and the like where ``PYTHON`` names an interpreter. A stamp, written last,
says what the folder holds; a folder without one was left half-made and is made again. Standard library only.
"""

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-extras.lock")
EXTRAS = ("cuda", "cuda12", "tpu", "slurm", "joblib", "xarray")
FOUNDATION = ("root", "python", "locks", "installer")  # where one of these changed, nothing is built upon
Stamp = dict[str, str | bool]


class SetupError(Exception):
    """The environment cannot be made; the text says why and what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the path of the environment's Python."""
    parser = argparse.ArgumentParser(prog="environment", description=__doc__)
    parser.add_argument("--dev", action="store_true", help="with the tests' tools")
    parser.add_argument("--bench", action="store_true", help="with the rivals of the speed bench")
    given = parser.parse_args(arguments)
    try:
        print(ready(given.dev, given.bench))
    except SetupError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def ready(dev: bool, bench: bool) -> Path:
    """Return the Python of an environment that matches the locks, made or renewed first where it does not."""
    folder = ROOT / (f".venv-{sys.version_info[0]}.{sys.version_info[1]}" if os.environ.get("PYTHON") else ".venv")
    python = folder / "bin" / "python"
    with locked(folder) as lock:
        found = read_stamp(folder) if python.exists() else {}
        wanted = wanted_stamp(found, dev, bench)
        if found != wanted:
            renew(folder, found, wanted, lock)
    return python


def wanted_stamp(found: Stamp, dev: bool, bench: bool) -> Stamp:
    """Return what the environment is to hold: what was asked for now, on top of what was asked for before."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python = str(base if base.exists() else sys.executable)
    extra = os.environ.get("LLM_BANDITS_EXTRA", "")
    if extra not in ("", "none") and not set(extra.split(",")) <= set(EXTRAS):
        raise SetupError(f"LLM_BANDITS_EXTRA={extra} is none, or some of {', '.join(EXTRAS)} with commas between.")
    extra = {"": str(found.get("extra", "")), "none": ""}.get(extra, extra)
    if bench and "bench" not in extra.split(","):
        extra = f"{extra},bench".lstrip(",")
    return {
        "root": str(ROOT),  # an environment that was moved or copied does not work
        "python": python if os.environ.get("PYTHON") else found.get("python", python),
        "locks": digest(*LOCKS),
        "installer": found.get("installer", ""),
        "project": digest("pyproject.toml"),
        "dev": dev or found.get("dev", False),
        "extra": extra,
    }


def renew(folder: Path, found: Stamp, wanted: Stamp, lock: int) -> None:
    """Install what is missing, from nothing unless what is there can be built upon."""
    began = time.monotonic()
    complete = {**found, "project": ""} == {**wanted, "project": ""}
    if not complete:
        say(f"installing the locked packages into {folder.name}, once; this takes a minute or two ...")
    stamp_path(folder).unlink(missing_ok=True)
    complaints = []
    for installer in ("uv", "pip") if shutil.which("uv") else ("pip",):  # pip knows settings that uv does not
        wanted = {**wanted, "installer": installer}
        kept = str(wanted["extra"]).startswith(str(found.get("extra", "")))
        grown = all(found.get(key) == wanted[key] for key in FOUNDATION) and kept
        steps = [] if grown else empty_environment(folder, wanted)
        steps += installation(folder, wanted, only_project=grown and complete)
        try:
            for step in steps:
                call(step, lock)
        except subprocess.CalledProcessError as error:
            complaints.append(f"{installer} could not install:\n{error.stdout}".rstrip())
            found = {}
        else:
            temporary = stamp_path(folder).with_suffix(".new")
            temporary.write_text(json.dumps(wanted, indent=1))
            temporary.replace(stamp_path(folder))
            if not complete:
                say(f"ready after {time.monotonic() - began:.0f} s")
            return
    raise SetupError("\n".join([*complaints, "The packages could not be installed; the next start will try again."]))


def empty_environment(folder: Path, wanted: Stamp) -> list[list[str]]:
    """Clear the folder and return the commands that make an empty environment there."""
    for old in folder.iterdir():
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        elif old != lock_path(folder):
            old.unlink()
    python = str(wanted["python"])
    if wanted["installer"] == "pip":
        return [[python, "-I", "-m", "venv", str(folder)]]
    return [["uv", "venv", "--quiet", "--allow-existing", "--no-project", "--python", python, str(folder)]]


def installation(folder: Path, wanted: Stamp, only_project: bool) -> list[list[str]]:
    """Return the commands that install the locked packages, the project, and what its extras need."""
    python = str(folder / "bin" / "python")
    if wanted["installer"] == "pip":
        tool = [python, "-I", "-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
    else:
        tool = ["uv", "pip", "install", "--quiet", "--python", python]
    packages = [*tool, "-r", "requirements-dev.lock" if wanted["dev"] else "requirements.lock"]
    project = [*tool, "--no-deps", "-e", "."]
    extras = [*tool, "-c", "requirements-extras.lock", "-e", f".[{wanted['extra']}]"]
    if only_project:
        return [project]
    return [packages, project, *([extras] if wanted["extra"] else [])]


def call(command: list[str], lock: int) -> None:
    """Run a command at the project's root; it holds the lock too, so that it is never overtaken where we are killed."""
    subprocess.run(
        command,
        cwd=ROOT,
        check=True,
        text=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=[lock],
    )


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the folder's lock; a folder that somebody else made is left alone."""
    folder.mkdir(exist_ok=True)
    if not lock_path(folder).exists() and any(folder.iterdir()):
        raise SetupError(f"{folder} was not made by scripts/run: rename or remove it, and start again.")
    with lock_path(folder).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another start that is installing ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock.fileno()


def lock_path(folder: Path) -> Path:
    """Return the file whose lock guards the folder; its presence also says that the folder is ours."""
    return folder / "llm-bandits.lock"


def stamp_path(folder: Path) -> Path:
    """Return the file that says what the folder holds."""
    return folder / "llm-bandits.json"


def read_stamp(folder: Path) -> Stamp:
    """Return what the folder holds; empty where nothing trustworthy says so."""
    try:
        version_id: Stamp = json.loads(stamp_path(folder).read_text())
    except (OSError, ValueError):
        return {}
    return version_id


def digest(*names: str) -> str:
    """Return one hash over files at the project's root."""
    return hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in names)).hexdigest()


def say(text: str) -> None:
    """Tell the user, out of the way of the standard output."""
    print(f"llm-bandits: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
