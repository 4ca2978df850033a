"""The log of a study: one JSON object a line."""

import json
import math
import os
import socket
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

_OWN_FIELDS = ("time", "event", "process", "uptime_s")  # of every line


_MOST_VALUES = 64  # of an array in a line of JSON


_LINE_BREAKS = {code: f"\\u{code:04x}" for code in (0x85, 0x2028, 0x2029)}  # that JSON allows and line readers split at


class EventLog:
    """JSON lines: one object a line, appended whole, readable with ``tail -f`` while the study runs.

    Each line is one ``write`` to a file opened for appending, so that several processes may log to one local file. A
    full disk costs lines, never the study: the first failure is told once on stderr.

    Example:
        >>> import tempfile
        >>> log = EventLog(Path(tempfile.mkdtemp()) / "events.jsonl")
        >>> log.write("cell", policy="ucb", regret=float("nan"))
        >>> list(json.loads(log.path.read_text(encoding="utf-8")).items())[1:4]
        [('event', 'cell'), ('policy', 'ucb'), ('regret', None)]
    """

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self._host, self._began = socket.gethostname(), monotonic()
        self._warned = False
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        self._torn = _ends_within_a_line(self.path)

    def write(self, event: str, /, **fields: Any) -> None:
        """Append ``{"time": now in UTC, "event": event, ..., "process": "host:pid", "uptime_s": seconds}``.

        Wall clocks jump and differ between machines: ``uptime_s``, since this log was opened, does not. NaN and
        infinity become null, NumPy and JAX values become numbers and lists (large arrays their shape and type),
        whatever else JSON lacks its ``str``. A field with one of the four names gets an underscore behind its own.
        """
        record: dict[str, Any] = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event}
        for name, value in fields.items():
            record[f"{name}_" if name in _OWN_FIELDS else name] = plain(value)
        uptime = round(monotonic() - self._began, 3)
        record |= {"process": f"{self._host}:{os.getpid()}", "uptime_s": uptime}
        line = json.dumps(record, ensure_ascii=False, allow_nan=False).translate(_LINE_BREAKS) + "\n"
        # A torn line before this one, of a full disk or a killed process, costs itself and not this one.
        content = ("\n" * self._torn + line).encode("utf-8", "backslashreplace")
        try:
            written = self._append(content)
        except OSError as error:
            self._warn(error.strerror or type(error).__name__)
            return
        self._torn = written < len(content)
        if self._torn:
            self._warn("only part of a line was written")

    def _append(self, content: bytes) -> int:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        try:
            handle = os.open(self.path, flags, 0o666)
        except FileNotFoundError:  # the folder has vanished
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path, flags, 0o666)
        try:
            return os.write(handle, content)
        finally:
            os.close(handle)

    def _warn(self, reason: str) -> None:
        if not self._warned and sys.stderr is not None:
            with suppress(OSError, ValueError):
                print(f"warning: cannot log to {self.path}: {reason}; going on without", file=sys.stderr)
        self._warned = True


def plain(value: Any) -> Any:
    """What strict JSON can hold: NaN and infinity become None, arrays lists, unknown things their ``str``.

    Example:
        >>> plain({"mean": np.float32(0.5), "runs": np.arange(3), "bound": float("inf"), "curve": np.zeros((9, 9))})
        {'mean': 0.5, 'runs': [0, 1, 2], 'bound': None, 'curve': {'shape': [9, 9], 'dtype': 'float64'}}
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(entry) for entry in value]
    return _plain_array(value) if hasattr(value, "__array__") else str(value)


def _plain_array(value: Any) -> Any:
    try:
        array = np.asarray(value)
    except Exception:  # for example a JAX array on a device that is gone
        return str(value)
    if array.size > _MOST_VALUES:
        return {"shape": list(array.shape), "dtype": str(array.dtype)}
    if array.ndim == 0:
        single = array.item()
        return str(single) if hasattr(single, "__array__") else plain(single)
    return [plain(entry) for entry in array]


def _ends_within_a_line(path: Path) -> bool:
    try:
        size = path.stat().st_size  # zero for devices and pipes, which must not be read
        if size == 0:
            return False
        with path.open("rb") as stream:
            stream.seek(size - 1)
            return stream.read(1) != b"\n"
    except OSError:
        return False
