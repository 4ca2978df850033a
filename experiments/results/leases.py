"""Leases: processes that share a results folder divide its work among themselves, without a server.

A lease on NAME is a file ``leases/NAME.<generation>``, made with ``O_CREAT | O_EXCL``: of several processes exactly
one makes it, on local disks and on NFS. Whoever made the highest generation owns NAME. A dead owner's lease is taken
over by making the next generation, which again exactly one process does. While a process owns anything it counts in
``leases/<token>.beat``.

An owner is dead when it ran on this very machine and is gone, or when its count has not moved for ``stale_seconds`` of
the observer's own monotonic clock. Wall clocks are never compared: they jump, and differ between machines. Taking a
living process for dead is harmless, since both write the same results and every file is written whole.
"""

import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event, RLock, Thread
from time import monotonic
from types import TracebackType

from experiments import interrupt

LEASES = "leases"
BEAT_SECONDS = 3.0  # between two counts of an owner
STALE_SECONDS = 30.0  # without a count, after which an owner is taken for dead
_CLAIM = re.compile(r"(.+)\.(\d+)")
_PROCESS = re.compile(r"([0-9a-f]{8})-(\d+)-(\d+)")


def process() -> str:
    """Which process this is: machine (as far as process numbers mean the same), number, and when it was started."""
    return f"{_machine()}-{os.getpid()}-{_started(os.getpid()) or 0}"


def is_here(identity: str) -> bool:
    """Whether the process named at the start of ``identity`` runs on this machine."""
    found = _PROCESS.match(identity)
    return found is not None and found[1] == _machine() and not is_gone(identity)


def is_gone(identity: str) -> bool:
    """Whether the process named at the start of ``identity`` has surely ended; False if it ran elsewhere."""
    found = _PROCESS.match(identity)
    if not found or found[1] != _machine():
        return False
    number, started = int(found[2]), int(found[3])
    if Path("/proc/self/stat").exists():
        return _started(number) != started
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except OSError:
        pass  # it is there, and somebody else's
    return False


@cache
def _machine() -> str:
    """Eight hex digits of the host, its boot and its process namespace."""
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def _started(number: int) -> int | None:
    """When a process was started, in the kernel's ticks; None if it is not there or has ended."""
    try:
        words = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if words[0] in "ZX" else int(words[19])


def _remove(path: Path) -> None:
    """Remove a file where that is possible."""
    with suppress(OSError):
        path.unlink(missing_ok=True)


@dataclass(frozen=True, kw_only=True)
class _Owner:
    """What a lease says of the one who made it."""

    token: str  # starts with its process
    cells: frozenset[str]
    seeds: range | None  # of these cells; None for all

    def makes(self, cells: Collection[str], seeds: range | None) -> bool:
        """Whether some of these seeds of one of these cells."""
        apart = self.seeds is not None and seeds is not None and not _overlap(self.seeds, seeds)
        return not apart and not self.cells.isdisjoint(cells)


def _overlap(one: range, other: range) -> bool:
    return max(one.start, other.start) < min(one.stop, other.stop)


class Leases:
    """What this process owns of a folder that others may be working on. To be used in a ``with``."""

    def __init__(
        self, folder: Path, *, beat_seconds: float = BEAT_SECONDS, stale_seconds: float = STALE_SECONDS
    ) -> None:
        self.folder = folder / LEASES
        self.beat_seconds, self.stale_seconds = beat_seconds, stale_seconds
        self.token = f"{process()}-{secrets.token_hex(4)}"
        self._owned: dict[str, int] = {}  # name -> generation
        self._watched: dict[str, tuple[bytes, float]] = {}  # token -> its count, and since when it has been that
        self._counted: set[str] = set()  # tokens whose count has moved since our first look
        self._lock, self._stopped = RLock(), Event()
        self._beating: Thread | None = None

    def __enter__(self) -> "Leases":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Give everything back."""
        with self._lock:
            self._stopped.set()
            for name in list(self._owned):
                self.release(name)
            _remove(self._beat_file())
        if self._beating is not None:
            self._beating.join()
        with suppress(OSError):
            self.folder.rmdir()  # succeeds where nobody else owns anything

    def acquire(self, name: str, cells: Collection[str] = (), seeds: range | None = None) -> bool:
        """Try to own ``name``, under which these ``seeds`` (None: all) of ``cells`` are to be made.

        False where somebody alive owns it, or makes one of these seeds under another name. OSError where leases cannot
        be written.
        """
        with self._lock:
            generation = self._next_generation(name)
            if generation is None or not self._make(name, generation, cells, seeds):
                return False
            self._owned[name] = generation
            if self._is_contested(name, generation, cells, seeds):
                self.release(name)
                return False
            return True

    def release(self, name: str) -> None:
        """Give back what is owned; the dead owners' leases before it go, too. Nothing happens where it is not ours.

        A lease that cannot be removed is seen to be ours, and dead, later.
        """
        with self._lock:
            for generation in range(self._owned.pop(name, -1) + 1):
                _remove(self._path(name, generation))

    @contextmanager
    def exclusively(self, name: str) -> Iterator[None]:
        """Wait until ``name`` is ours, and own it for a while."""
        while not self.acquire(name):
            interrupt.pause(0.05)
        try:
            yield
        finally:
            self.release(name)

    def others(self) -> set[str]:
        """Names that somebody else has leased, dead or alive."""
        with self._lock:
            return self._standing().keys() - self._owned.keys()

    def is_at_work(self, name: str) -> bool:
        """Whether the owner of ``name`` is known to live: its process is here, or has counted since our first look."""
        with self._lock:
            generation = self._standing().get(name)
            return generation is not None and self._is_alive(self._path(name, generation))

    def are_in_work(self, cells: Collection[str], seeds: range | None = None) -> bool:
        """Whether somebody else who is known to live makes some of these seeds (None: any) of one of these cells."""
        with self._lock:
            standing = self._standing()
            theirs = [self._path(name, standing[name]) for name in standing.keys() - self._owned.keys()]
            return any(self._makes(path, cells, seeds) and self._is_alive(path) for path in theirs)

    def tidy(self) -> None:
        """Remove what processes that are surely gone have left here."""
        with self._lock:
            for name, generation in self._standing().items():
                owner = self._owner(self._path(name, generation))
                if owner is not None and is_gone(owner.token):
                    for number in range(generation + 1):
                        _remove(self._path(name, number))
            for path in self.folder.glob("*.beat"):
                if is_gone(path.name):
                    _remove(path)

    def _path(self, name: str, generation: int) -> Path:
        return self.folder / f"{name}.{generation}"

    def _beat_file(self, token: str | None = None) -> Path:
        return self.folder / f"{token or self.token}.beat"

    def _standing(self) -> dict[str, int]:
        """Name -> highest generation."""
        found: dict[str, int] = {}
        with suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if lease := _CLAIM.fullmatch(entry.name):
                    found[lease[1]] = max(int(lease[2]), found.get(lease[1], 0))
        return found

    def _next_generation(self, name: str) -> int | None:
        """The generation that would own ``name``; None while somebody alive owns it."""
        highest = self._standing().get(name)
        if highest is None:
            return 0
        return highest + 1 if self._is_dead(self._path(name, highest)) else None

    def _make(self, name: str, generation: int, cells: Collection[str], seeds: range | None) -> bool:
        """Whether it was us who made this lease."""
        self._begin_beating()
        path = self._path(name, generation)
        content = {"token": self.token, "host": platform.node(), "pid": os.getpid(), "cells": sorted(cells)}
        content |= {"seeds": None if seeds is None else [seeds.start, seeds.stop]}
        self.folder.mkdir(parents=True, exist_ok=True)  # it may have vanished
        try:
            handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(json.dumps(content).encode())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return True

    def _is_contested(self, name: str, generation: int, cells: Collection[str], seeds: range | None) -> bool:
        """Whether somebody alive was quicker: a higher generation, or makes the same runs in items of another shape."""
        standing = self._standing()
        if standing.get(name, generation) > generation:
            return True
        for other in standing.keys() - self._owned.keys():
            path = self._path(other, standing[other])
            if self._makes(path, cells, seeds) and not self._is_dead(path):
                return True
        return False

    def _makes(self, lease: Path, cells: Collection[str], seeds: range | None) -> bool:
        """Whether it is a lease on some of these runs."""
        owner = self._owner(lease)
        return owner is not None and owner.makes(cells, seeds)

    def _is_alive(self, lease: Path) -> bool:
        """Whether that is known; not the opposite of being dead."""
        owner = self._owner(lease)
        if owner is None or self._is_dead(lease):
            return False
        return is_here(owner.token) or owner.token in self._counted

    def _owner(self, lease: Path) -> _Owner | None:
        """Who made a lease; None if it is gone, or still being written."""
        try:
            content = json.loads(lease.read_bytes())
            seeds = content.get("seeds")
            return _Owner(
                token=str(content["token"]),
                cells=frozenset(content["cells"]),
                seeds=None if seeds is None else range(*map(int, seeds)),
            )
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def _is_dead(self, lease: Path) -> bool:
        owner = self._owner(lease)
        if owner is not None and is_gone(owner.token):
            return True
        count = b""
        with suppress(OSError):
            count = self._beat_file(owner.token).read_bytes() if owner is not None else b""
        watched = lease.name if owner is None else owner.token
        known, since = self._watched.get(watched, (None, 0.0))
        if known != count:
            if known:
                self._counted.add(watched)
            self._watched[watched] = count, monotonic()
            return False
        return monotonic() - since >= self.stale_seconds

    def _begin_beating(self) -> None:
        if self._beating is not None:
            return
        counted = False
        while not counted:  # until our count keeps the folder from being removed by one who leaves
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(FileNotFoundError):
                self._count(0)
                counted = True
        self._beating = Thread(target=self._beat, name="leases", daemon=True)
        self._beating.start()

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(self.beat_seconds):
            count += 1
            with self._lock, suppress(OSError):
                if not self._stopped.is_set():
                    self._count(count)

    def _count(self, count: int) -> None:
        """Written over in place, which a full disk does not mind; opened anew, which tells other machines."""
        handle = os.open(self._beat_file(), os.O_CREAT | os.O_WRONLY, 0o666)
        try:
            os.write(handle, f"{count:012d}".encode())
        finally:
            os.close(handle)
