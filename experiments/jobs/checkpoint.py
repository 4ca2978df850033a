"""Checkpoints on disk: what a chunk of runs is within its horizon, so that a long cell goes on where it was stopped.

``<out>/checkpoints/<item>/<chunk>-<rounds>.npz`` holds the leaves of the state and of the snapshots so far. A manifest
of the same name, ``.json``, is written after it and says what they are, whose they are, and their SHA-256. Both are
atomic, the last two are kept, and all of an item's are removed when its cells are stored. Nothing is pickled. A chunk
that is done is a part (``experiments.jobs.parts``) and needs its checkpoints no more.
"""

import hashlib
import io
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from experiments import interrupt
from experiments.config import sources
from experiments.engine.checkpoint_state import Checkpoint
from experiments.results import disk
from experiments.results.layout import CHECKPOINTS, DAMAGED

FORMAT = 1
_KEPT = 2


def item_folder(out: Path, cells: Sequence[str]) -> Path:
    """Where the checkpoints of an item of cells lie, given the cells' ids."""
    return out / CHECKPOINTS / digest(list(cells))


def identity(cells: Sequence[str], seeds: np.ndarray) -> dict[str, Any]:
    """Whose a checkpoint is and what computed it: it is gone on with only by the very same.

    ``cells`` are the ids of a batch's cells, ``seeds`` the consecutive numbers of its runs, both with padding.
    """
    return {
        "cells": list(cells),
        "seeds": [int(seeds[0]), int(seeds[-1])],
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "program": sources.everything(),  # a checkpoint means nothing to another one
    }


def save(folder: Path, identity: dict[str, Any], checkpoint: Checkpoint) -> None:
    """Write a checkpoint and forget all but the last two of the same identity. OSError where it cannot be written."""
    arrays = named("state", jax.device_get(jax.tree.map(_raw, checkpoint.state)))
    if checkpoint.seen:
        arrays |= named("seen", jax.tree.map(lambda *leaves: np.stack(leaves), *checkpoint.seen))
    about = {"rounds": checkpoint.rounds, "eval_rounds": len(checkpoint.seen), "identity": identity}
    write(folder / f"{_chunk(identity)}-{checkpoint.rounds:012d}.json", about, arrays)
    _forget_older(folder, identity)


def write(path: Path, about: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write arrays, and then the manifest at ``path`` with what it says about them. OSError where that fails."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    content = buffer.getvalue()
    manifest = {"format": FORMAT, **about, "leaves": _described(arrays)}
    manifest["sha256"] = _checksum(manifest, content)
    disk.write_atomically(path.with_suffix(".npz"), content)
    disk.write_atomically(path, json.dumps(manifest).encode())


def latest(
    folder: Path, identity: dict[str, Any], state: Any, seen: Any, tell: Callable[..., None]
) -> Checkpoint | None:
    """The last checkpoint that is whole; None to begin with the first round.

    ``state`` and ``seen`` are pytrees of the shapes and dtypes that are expected. A damaged checkpoint is set aside
    (``tell("checkpoint_damaged", checkpoint=path, error=why)``); one that another program has written, or that has
    other shapes, is left where it is (``tell("checkpoint_ignored", checkpoint=path)``).
    """
    raw = jax.eval_shape(lambda tree: jax.tree.map(_raw, tree), state)
    for path in _manifests(folder, identity):
        try:
            manifest, arrays = read(path)
        except (OSError, KeyError, TypeError, ValueError, RecursionError) as error:
            set_aside(folder, path)
            tell("checkpoint_damaged", checkpoint=str(path), error=f"{type(error).__name__}: {error}")
            continue
        if not _fits(manifest, identity, raw, seen):
            tell("checkpoint_ignored", checkpoint=str(path))
            continue
        known = jax.tree.map(_typed, state, tree("state", raw, arrays))
        stacked = tree("seen", seen, arrays) if manifest["eval_rounds"] else None
        marks = [jax.tree.map(lambda leaf, i=i: leaf[i], stacked) for i in range(manifest["eval_rounds"])]
        return Checkpoint(rounds=manifest["rounds"], state=known, seen=marks)
    return None


def are_there(out: Path) -> bool:
    """Whether a folder has checkpoints."""
    return (out / CHECKPOINTS).is_dir()


def discard(out: Path, cells: Sequence[str]) -> None:
    """Remove the checkpoints of an item of cells, which is stored."""
    folder = item_folder(out, cells)
    if folder.is_dir():
        shutil.rmtree(folder, ignore_errors=True)
        with suppress(OSError):  # others are there
            folder.parent.rmdir()


def forget(folder: Path, identity: dict[str, Any]) -> None:
    """Remove the checkpoints of a chunk, whose part is kept."""
    _forget_older(folder, identity, kept=0)


def discard_all(out: Path) -> None:
    """Remove all checkpoints of a folder, whose cells are to be made anew."""
    shutil.rmtree(out / CHECKPOINTS, ignore_errors=True)


class Checkpointer:
    """Saves the checkpoint of one chunk every so many minutes, and where the study is asked to stop."""

    def __init__(
        self, folder: Path, identity: dict[str, Any], minutes: float | None, *, half: bool, tell: Callable[..., None]
    ) -> None:
        """``minutes`` None: nothing is saved or read. ``half`` of a chunk, which is no part yet, is saved when done."""
        self.folder, self.identity, self.minutes, self.half, self.tell = folder, identity, minutes, half, tell
        self.saved = monotonic()
        self.warned = False

    def resume(self, state: Any, seen: Any) -> Checkpoint | None:
        """The chunk's last checkpoint."""
        if self.minutes is None:
            return None
        found = latest(self.folder, self.identity, state, seen, self.tell)
        if found is not None:
            self.tell("resumed", rounds=found.rounds)
        return found

    def stopped(self, checkpoint: Checkpoint, *, last: bool) -> None:
        """Save if it is time to. Interrupted where the study was asked to stop."""
        asked = interrupt.requested()
        if self.minutes is not None and (asked or (last and self.half) or (not last and self._due(self.minutes))):
            self._save(checkpoint)
        if asked:
            raise interrupt.Interrupted

    def _due(self, minutes: float) -> bool:
        return monotonic() - self.saved >= 60 * minutes

    def _save(self, checkpoint: Checkpoint) -> None:
        """A checkpoint that cannot be written costs nothing but itself."""
        self.saved = monotonic()
        try:
            save(self.folder, self.identity, checkpoint)
        except OSError as error:
            if not self.warned:
                self.tell("checkpoint_failed", error=error.strerror or type(error).__name__)
            self.warned = True


def _raw(leaf: Any) -> Any:
    """Typed random keys as their words; anything else as it is."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _typed(like: Any, array: np.ndarray) -> Any:
    """An array read back as the leaf that it was."""
    return jax.random.wrap_key_data(jnp.asarray(array), impl="threefry2x32") if _is_key(like) else array


def _is_key(leaf: Any) -> bool:
    return bool(jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def named(prefix: str, tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by name."""
    return {prefix + keystr(path): leaf for path, leaf in tree_flatten_with_path(tree)[0]}


def tree(prefix: str, like: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The pytree that ``named`` took apart; dtypes that NumPy lacks come back as plain bytes."""
    leaves = [arrays[name].view(leaf.dtype) for name, leaf in named(prefix, like).items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _described(arrays: dict[str, Any]) -> dict[str, Any]:
    return {name: [str(array.dtype), list(array.shape)] for name, array in arrays.items()}


def _fits(manifest: dict[str, Any], identity: dict[str, Any], state: Any, seen: Any) -> bool:
    """Whether a checkpoint is this chunk's, from this very program, and of these shapes."""
    if (manifest["format"], manifest["identity"]) != (FORMAT, identity):
        return False
    expected = _described(named("state", state))
    looked = named("seen", seen) if manifest["eval_rounds"] else {}
    leaves = dict(manifest["leaves"])
    return leaves.keys() == expected.keys() | looked.keys() and all(leaves[k] == expected[k] for k in expected)


def read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A checkpoint's manifest and arrays; the arrays of another format are not looked at."""
    manifest = _read_manifest(path)
    if manifest["format"] != FORMAT:
        return manifest, {}
    content = path.with_suffix(".npz").read_bytes()
    if manifest.pop("sha256") != _checksum(manifest, content):
        raise ValueError("its checksum is not the manifest's")
    with np.load(io.BytesIO(content), allow_pickle=False) as data:
        return manifest, {name: data[name] for name in data.files}


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(manifest, dict):
        raise ValueError("the manifest is not one")
    return manifest


def _checksum(manifest: dict[str, Any], content: bytes) -> str:
    """Of the arrays and of what is said about them."""
    said = json.dumps(manifest, sort_keys=True).encode()
    return hashlib.sha256(said + b"\0" + content).hexdigest()


def _manifests(folder: Path, identity: dict[str, Any]) -> list[Path]:
    """The manifests of a chunk, whoever wrote them, newest first."""
    return sorted(folder.glob(f"{_chunk(identity)}-*.json"), reverse=True)


def _forget_older(folder: Path, identity: dict[str, Any], kept: int = _KEPT) -> None:
    ours = []
    for path in _manifests(folder, identity):
        with suppress(OSError, KeyError, TypeError, ValueError, RecursionError):  # set aside when it is needed
            if _read_manifest(path)["identity"] == identity:
                ours.append(path)
    for path in ours[kept:]:
        for file in (path, path.with_suffix(".npz")):
            with suppress(OSError):
                file.unlink(missing_ok=True)


def set_aside(folder: Path, path: Path) -> None:
    """Move a checkpoint to where nobody looks for one, under a name that is free."""
    damaged = folder.parent / DAMAGED
    number = len(list(damaged.glob(f"{path.stem}.*.json")))
    for part in (path, path.with_suffix(".npz")):
        with suppress(OSError):  # half of it was lost, another process was quicker, or the disk is full
            damaged.mkdir(exist_ok=True)
            os.replace(part, damaged / f"{part.stem}.{number}{part.suffix}")


def _chunk(identity: dict[str, Any]) -> str:
    return digest([identity["cells"], identity["seeds"]])


def digest(value: Any) -> str:
    """16 hex digits of a plain value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]
