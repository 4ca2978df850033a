"""The one gate for paths that people give: what cannot be a path, or cannot be entered, is refused in one sentence."""

import errno
import os
from pathlib import Path

from envs.errors import InputError

_LONGEST_NAME = 255  # bytes, of usual file systems
_SHOWN = 80  # characters of a path in a message


def reachable(text: str | Path, where: str) -> Path:
    """A path with ``~`` expanded. Whether there is anything does not matter, but there could be.

    Raises:
        InputError: names ``where``: no such user, a character or a length that no path has, a file where a folder would
            be, a folder that may not be entered.
    """
    try:
        path = Path(text).expanduser()
        if any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):  # also where its folder is not there yet
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        os.lstat(path)
    except FileNotFoundError:
        return path
    except (OSError, RuntimeError, ValueError) as error:
        raise _refused(text, where, error) from error
    return path


def content(path: Path, where: str) -> bytes:
    """The bytes of a regular file; InputError names ``where``."""
    try:
        if path.exists() and not path.is_file():
            raise InputError(f"{where}: {_shown(path)} is no regular file; give the path of one")
        return path.read_bytes()
    except OSError as error:
        raise _refused(path, where, error) from error


def _refused(path: str | Path, where: str, error: Exception) -> InputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InputError(f"{where}: {_shown(path)} cannot be opened ({reason}); give another path")


def _shown(path: str | Path) -> str:
    text = repr(str(path))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
