"""Files that are there whole or not at all."""

import errno
import os
import secrets
import sys
from contextlib import suppress
from pathlib import Path

from experiments.results import leases


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file whole or not at all, so that a loss of power does not undo it either.

    A file that holds this already is left as it is, so that a folder that lacks nothing need not be writable. The
    file's folder is made again where it vanished. Permissions follow the process's umask.
    """
    if _holds(path, content):
        return
    temporary = path.parent / f".{path.name}.{leases.process()}.{secrets.token_hex(4)}"
    try:
        with os.fdopen(_created(temporary), "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        sync_folder(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def _holds(path: Path, content: bytes) -> bool:
    try:
        return path.stat().st_size == len(content) and path.is_file() and path.read_bytes() == content
    except OSError:
        return False


def _created(path: Path) -> int:
    """A handle of a new file, its folder made where there is none."""
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    try:
        return os.open(path, flags, 0o666)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o666)


def write_informing(path: Path, content: bytes) -> None:
    """``write_atomically`` for a file that only informs: a folder in its place costs the file and no more."""
    try:
        write_atomically(path, content)
    except IsADirectoryError:
        warn(f"{path} is a folder, where a file should be; going on without that file")


def warn(text: str) -> None:
    """One line on stderr."""
    if sys.stderr is not None:
        print(f"warning: {text}", file=sys.stderr)


def sync_folder(folder: Path) -> None:
    """Make a file's new name last, where the file system knows how."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
