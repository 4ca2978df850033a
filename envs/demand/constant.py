"""The same rate in every round."""

from dataclasses import field

import jax

from envs.demand.base import POSITIVE, Process, demand_process


@demand_process("constant")
class Constant(Process):
    """The same rate in every round."""

    mean: jax.Array = field(metadata=POSITIVE)  # [] tasks a round
