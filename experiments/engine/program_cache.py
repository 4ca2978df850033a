"""Compiled programs kept on disk, so that a second start of a study need not compile again.

JAX's persistent compilation cache does the work. This module chooses its folder, which depends on everything that a
compiled program depends on besides its own text: jax, jaxlib, the processor, XLA's flags and our sources. It bounds the
size of all such folders together, and it says once, and only once, why nothing can be kept.
"""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.monitoring

from experiments.config import sources

MOST_BYTES = 512 * 2**20  # of all folders together
_NEEDED_BYTES = 64 * 2**20  # free space without which nothing is written: some twenty programs
_SECONDS_TO_COMPILE = 0.2  # what compiles faster is not worth a file
_RECENT = 3600.0  # a folder used within so many seconds may belong to a running process
_USED = "used"  # its time of change is when a folder was last used
_HIT = "/jax/compilation_cache/cache_hits"  # an event of JAX
_READING, _WRITING = "Error reading persistent compilation cache", "Error writing persistent compilation cache"


def enable(setting: bool | str, most_bytes: int = MOST_BYTES) -> str | None:
    """Keep compiled programs in the user's cache folder (True), in another folder (its path), or not at all (False).

    Returns a sentence for the user where programs were to be kept and cannot be; the study then runs without. A folder
    that the user chose with ``JAX_COMPILATION_CACHE_DIR`` is left to JAX.
    """
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    if setting is False:
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    root = user_folder() if setting is True else Path(setting).expanduser().absolute()
    try:
        folder = root / _key()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _USED).touch()
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
        if shutil.disk_usage(folder).free < _NEEDED_BYTES:
            raise OSError(None, "the disk is almost full")
        _prune(root, folder, most_bytes)
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home folder
        reason = getattr(error, "strerror", None) or str(error)
        jax.config.update("jax_compilation_cache_dir", None)
        return f"compiled programs cannot be kept in {root} ({reason}); the next start will compile them again"
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _SECONDS_TO_COMPILE)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return None


def explained(warning: str) -> str:
    """One of JAX's warnings about the cache in our words, the same for every program; any other text as it is.

    JAX never replaces an entry that it could not read, so the folder is emptied for the next start.
    """
    if _WRITING in warning:
        return "compiled programs could not be written to the cache; the next start will compile them again"
    if _READING in warning:
        folder = jax.config.values.get("jax_compilation_cache_dir")
        for entry in Path(folder).glob("*-cache") if folder and not os.environ.get("JAX_COMPILATION_CACHE_DIR") else ():
            with suppress(OSError):
                entry.unlink()
        return "a program in the cache was damaged; the cache was emptied, and the program is compiled again"
    return warning


@contextmanager
def hits() -> Iterator[list[str]]:
    """What this thread reads from the cache, in place of compiling it, until the block ends."""
    found: list[str] = []
    thread = threading.get_ident()

    def listen(event: str, **_: Any) -> None:
        if event == _HIT and threading.get_ident() == thread:
            found.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_listener(listen)


def user_folder() -> Path:
    """Where this user's compiled programs lie, by the custom of the platform."""
    chosen = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(chosen):
        base = Path(chosen)
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path.home() / ".cache"
    return base / "llm-bandits" / "programs"


def _key() -> str:
    """What compiled programs depend on besides their own text."""
    parts = [metadata.version("jax"), metadata.version("jaxlib"), platform.machine(), _processor()]
    parts += [os.environ.get("XLA_FLAGS", ""), sources.everything()]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
    """The processor's model and instruction sets: a program may use all that the compiling machine has."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
        return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))
    return platform.processor()


def _prune(root: Path, current: Path, most_bytes: int) -> None:
    """Remove what was used longest ago until all folders together are small enough; one process at a time does it."""
    with _alone(root) as alone:
        if not alone:
            return
        folders = [entry for entry in root.iterdir() if entry.is_dir() and (entry / _USED).exists()]
        sizes = {folder: _size(folder) for folder in folders}
        excess = sum(sizes.values()) - most_bytes
        for folder in sorted(folders, key=_last_used):
            if excess > 0 and folder != current and time.time() - _last_used(folder) > _RECENT:
                shutil.rmtree(folder, ignore_errors=True)
                excess -= sizes[folder]
        entries = sorted(current.glob("*-cache"), key=lambda entry: entry.stat().st_mtime)
        for entry in entries:
            if excess > 0:
                excess -= entry.stat().st_size
                entry.unlink(missing_ok=True)


@contextmanager
def _alone(root: Path) -> Iterator[bool]:
    """Whether no other process is removing anything in this folder; where files cannot be locked, nobody removes."""
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield False
        return
    with (root / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        yield True


def _last_used(folder: Path) -> float:
    return (folder / _USED).stat().st_mtime


def _size(folder: Path) -> int:
    return sum(entry.stat().st_size for entry in folder.iterdir() if entry.is_file())
