"""Environment variables that JAX, XLA and others read, checked before they do: a wrong one may end the process."""

import os
import re
import subprocess
import sys
from pathlib import Path

from envs.errors import InputError
from experiments.engine import compiler

_FLAGS = "XLA_FLAGS"
_LOG_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_LONGEST = 200  # characters of somebody else's words
_TRIAL = "import jax; jax.devices()"

_good: str | None = None  # the flags that were tried


def check() -> None:
    """Before JAX is imported, in every process. InputError names the variable that is wrong."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors reach us instead of Hydra's own printer
    os.environ["MPLBACKEND"] = "agg"  # figures are files
    if os.environ.get(_LOG_LEVEL) not in ("0", "1", "2", "3"):
        os.environ[_LOG_LEVEL] = "3"  # XLA's own alarms, as about slow compiling; what matters comes as an error
    _check_flags()
    compiler.prepare()


def use_devices() -> None:
    """Have JAX find its devices; InputError where it finds none that it may use."""
    import jax

    try:
        jax.devices()
    except Exception as error:  # of several kinds, as the plugin of each platform likes
        reason = " ".join(str(error).partition("(set JAX_PLATFORMS")[0].split())[:_LONGEST]
        given = os.environ.get("JAX_PLATFORMS")
        what = f"JAX_PLATFORMS is {given!r}, and JAX finds no such device here" if given else "JAX finds no device"
        told = f" ({reason})" if reason else ""
        raise InputError(f"{what}{told}; JAX_PLATFORMS=cpu uses the processor") from error


def _check_flags() -> None:
    """XLA ends the process where it does not know a flag, so another process tries them first."""
    global _good
    given = os.environ.get(_FLAGS, "").strip()
    if given and not given.startswith("-"):  # a file of flags, to which ours could not be added
        try:
            given = os.environ[_FLAGS] = " ".join(Path(given).read_text().split())
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it is no text file"
            raise InputError(
                f"{_FLAGS} is {given[:_LONGEST]!r}, neither a flag (--name=value) nor a file of flags ({reason})"
            ) from error
    if given == _good or not compiler.foreign_flags(given):
        return
    tried = subprocess.run(
        *([sys.executable, "-c", _TRIAL],), env={**os.environ, "JAX_PLATFORMS": "cpu"}, capture_output=True, text=True
    )
    if tried.returncode and _FLAGS in tried.stderr:
        told = re.search(rf"(Unknown flags? in {_FLAGS}.*)", tried.stderr)
        reason = told[1].strip() if told else "a value does not suit its flag"
        raise InputError(f"{_FLAGS} is {given[:_LONGEST]!r}, which XLA does not accept ({reason}); correct or unset it")
    _good = given


def import_jax() -> None:
    """Import JAX, which reads its variables then. InputError names one that it does not accept."""
    try:
        import jax
    except ValueError as error:
        said = str(error)
        named = [name for name in os.environ if name.startswith("JAX_") and name.lower() in said.lower()]
        if not named:
            raise
        raise InputError(
            f"{named[0]} is {os.environ[named[0]]!r}, which JAX does not accept; correct or unset it"
        ) from error
    if jax.config.values["jax_disable_jit"]:
        raise InputError("JAX_DISABLE_JIT is set, and studies are compiled programs; unset it")
