"""Names and paths as text, from where they are given to where they are stored.

YAML and Hydra read ``20240601``, ``1e3`` or ``yes`` as numbers and truth values, also where a name is meant; and there
are characters that YAML, JSON and CSV readers change or refuse. Both are decided here, before anything else sees the
text.
"""

import re
from collections.abc import Mapping
from typing import Any

from envs.errors import InputError

# Control characters, line ends, byte-order marks, noncharacters and halves of surrogate pairs.
_NOT_KEPT = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff\ud800-\udfff]")


def text(value: Any, where: str) -> str:
    """A name or path; a number or truth value is spelt out again. InputError for anything else."""
    spelt_out = spelt(value)
    if not spelt_out:
        raise InputError(f"{where} is {value!r}; it must be a name")
    return spelt_out


def spelt(value: Any) -> str | None:
    """Text as it is, a number or truth value spelt out; None for anything else."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else None


def readable(value: Any, where: str = "") -> Any:
    """A copy of a configuration of plain values whose keys are text.

    Raises:
        InputError: a key or value holds a character that text files do not keep.
    """
    if isinstance(value, Mapping):
        entries = {text(key, f"a key of {where or 'the configuration'}"): entry for key, entry in value.items()}
        return {readable(key, where): readable(entry, f"{where}.{key}".lstrip(".")) for key, entry in entries.items()}
    if isinstance(value, list):
        return [readable(entry, where) for entry in value]
    if isinstance(value, str) and (found := _NOT_KEPT.search(value)):
        raise InputError(
            f"{where or 'a key'}: {value!a} holds the character U+{ord(found[0]):04X}, which text files do not "
            "keep; write it as one line of printable text"
        )
    return value
