"""What a run with ``force=true`` has still to replace."""

from collections.abc import Iterable
from pathlib import Path

from envs.errors import InputError
from experiments.results import layout
from experiments.results.cell_file import version_id
from experiments.results.disk import write_atomically
from experiments.results.layout import OVERWRITE, DamagedError
from experiments.results.leases import Leases
from experiments.results.study_record import unwritable


def begin_overwrite(folder: Path, cells: Iterable[str], mine: Leases) -> bool:
    """Note which version of each cell is to be replaced, unless that is noted already: what was begun goes on.

    Whether something new was noted.
    """
    try:
        with mine.exclusively("redo"):
            known = pending(folder)
            noted = {cell: version_id(folder, cell) for cell in cells if cell not in known} | known
            if noted != known:
                write_atomically(folder / OVERWRITE, layout.overwrite_text(noted))
            return noted != known
    except OSError as error:
        raise unwritable(folder, error) from error


def pending(folder: Path) -> dict[str, str | None]:
    """Cell id -> the version_id of what is to be replaced, None where nothing was there.

    InputError where the note is damaged: it decides which results are old, and nobody else knows.
    """
    try:
        return layout.read_overwrite(folder)
    except (DamagedError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        path = folder / OVERWRITE
        raise InputError(f"out: {path} is damaged ({why}); delete it, and give force=true to begin anew") from error


def end_overwrite(folder: Path) -> None:
    """Forget an overwrite that is complete."""
    noted = pending(folder)
    if noted and all(version_id(folder, cell) not in (None, old) for cell, old in noted.items()):
        (folder / OVERWRITE).unlink(missing_ok=True)
