"""``python -m experiments.bench.starting ROUTING DEPLOYMENT``: CPU seconds that one program takes to make.

Traced, lowered and compiled, or read from the compilation cache that ``JAX_COMPILATION_CACHE_DIR`` names. A process of
its own, because what was traced once is not traced again.
"""

import sys
from time import process_time

from experiments.bench import ours
from experiments.engine import compiler

PROGRAMS = {
    "primal-dual": ("primal_dual_resolving", "everything"),
    "an LP a round": ("lp_resolving", "everything"),
    "StageRoute with its deployment": ("stageroute", "stageroute"),
}
HORIZON, LANES = 1000, 64  # LANES: one block of runs, as a study has it


def main() -> None:
    """Print the seconds."""
    compiler.prepare()
    routing, deployment = sys.argv[1:]
    began = process_time()
    ours.loop(routing, HORIZON, LANES, deployment)
    print(process_time() - began)


if __name__ == "__main__":
    main()
