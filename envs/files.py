"""The one gate for paths that people give: what cannot be a path, or cannot be entered, is refused in one sentence."""

import errno
import os
from pathlib import Path

from envs.errors import InputError

_LONGEST_NAME = 255  # bytes, of usual file systems
_SHOWN = 200  # characters of a path in a message


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


def content(text: str | Path, what: str, wanted: str) -> bytes:
    """The bytes of a regular file, ``~`` expanded; InputError says that ``what`` cannot be read, and what is wanted."""
    try:
        path = Path(text).expanduser()
        if not path.exists() or path.is_file():  # of a pipe there might never be an end
            return path.read_bytes()
        reason = "it is a folder" if path.is_dir() else "it is no regular file"
    except (OSError, RuntimeError, ValueError) as error:
        reason = _reason(error)
    raise InputError(f"cannot read {what} {_shown(text)}: {reason}; give the path of {wanted}")


def _refused(path: str | Path, where: str, error: Exception) -> InputError:
    return InputError(f"{where}: {_shown(path)} cannot be opened ({_reason(error)}); give another path")


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _shown(path: str | Path) -> str:
    text = repr(str(path))
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
