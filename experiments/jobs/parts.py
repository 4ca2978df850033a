"""Parts: chunks of seeds that are simulated, kept on disk until all chunks of their cells are, whoever simulated them.

``<out>/checkpoints/<item>/part-<identity>.npz`` holds the snapshots of one chunk, without the state of its runs, in
the form of a checkpoint (``experiments.jobs.checkpoint``): a manifest of the same name, ``.json``, is written after it,
and one without the other counts for nothing. The name says whose the part is and what program computed it, so that
another program's part is another file.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.engine.rollout import Snapshot
from experiments.jobs import checkpoint
from experiments.results.layout import PART


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a chunk gave."""

    seen: Snapshot  # [E, cells, seeds, ...]; beliefs [E, cells, ...] are terms of a sum over the chunks
    seconds: float  # that it took


def file_name(identity: dict[str, Any]) -> str:
    """The manifest of the part with this identity (``checkpoint.identity``)."""
    return f"{PART}{checkpoint.digest(identity)}.json"


def there(folder: Path) -> set[str]:
    """The manifests of the parts in an item's folder, whoever wrote them."""
    with suppress(OSError), os.scandir(folder) as entries:
        return {entry.name for entry in entries if entry.name.startswith(PART) and entry.name.endswith(".json")}
    return set()


def save(folder: Path, identity: dict[str, Any], part: Part, decisions: int) -> None:
    """Write a part, of so many decisions. OSError where it cannot be written."""
    about = {"identity": identity, "seconds": part.seconds, "decisions": decisions}
    checkpoint.write(folder / file_name(identity), about, checkpoint.named("seen", part.seen))


def read(folder: Path, identity: dict[str, Any], like: Snapshot, tell: Callable[..., None]) -> Part | None:
    """A part; None where there is none.

    ``like`` has the pytree and the dtypes of a snapshot. A part that is damaged is set aside
    (``tell("part_damaged", checkpoint=path, error=why)``).
    """
    path = folder / file_name(identity)
    try:
        about, arrays = checkpoint.read(path)
        if (about["format"], about["identity"]) != (checkpoint.FORMAT, identity):
            raise ValueError("it is another chunk's")
        return Part(seen=checkpoint.tree("seen", like, arrays), seconds=float(about["seconds"]))
    except FileNotFoundError as error:
        if not path.exists():
            return None
        why: Exception = error
    except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        why = error
    checkpoint.set_aside(folder, path)
    tell("part_damaged", checkpoint=str(path), error=f"{type(why).__name__}: {why}")
    return None
