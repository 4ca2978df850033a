"""Settings of XLA's compiler, which reads them once: when JAX first uses a device."""

import os

_FLAGS = {
    # Loops become one function instead of a chain of small programs, each with a fixed price. The limit is on the bytes
    # a loop touches; loops over a tile of runs (experiments.engine.batch) are meant, whatever their number of models.
    "--xla_backend_extra_options": "xla_cpu_small_while_loop_byte_threshold=1000000000",
    "--xla_cpu_prefer_vector_width": "512",  # where the processor has registers that wide
    # LLVM's -O2: a third less to compile than XLA's default -O3, and loops as fast.
    "--xla_backend_optimization_level": "2",
}


def foreign_flags(given: str) -> list[str]:
    """Those of ``XLA_FLAGS`` that are not ours."""
    ours = {f"{flag}={value}" for flag, value in _FLAGS.items()}
    return [flag for flag in given.split() if flag not in ours]


def prepare() -> None:
    """Make loops over many runs fast on CPUs. Flags that the user has set in ``XLA_FLAGS`` stay as they are.

    Results do not depend on it. It has no effect once JAX has used a device.
    """
    given = os.environ.get("XLA_FLAGS", "")
    missing = [f"{flag}={value}" for flag, value in _FLAGS.items() if flag not in given]
    os.environ["XLA_FLAGS"] = " ".join([*given.split(), *missing])
