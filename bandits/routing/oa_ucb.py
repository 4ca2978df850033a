"""OA-UCB: bandits with knapsacks under advice on total demand; what COPAC-UCB adds covering rows to.

Source: Lyu, Cheung, *Bandits with Knapsacks: Advice on Time-Varying Demands* (ICML 2023, arXiv 2302.04182).
"""

import jax
import jax.numpy as jnp

from bandits.routing.base import routing_rule
from bandits.routing.copac_ucb import CopacUCB
from envs.types import Problem


@routing_rule("oa_ucb")
class OaUCB(CopacUCB):
    """COPAC-UCB without covering rows, its prices in {μ >= 0, ‖μ‖₁ <= 1}; blind to service targets.

    The constants are recalled from the published paper. The start 1/d is COPAC-UCB's, and ours here.

    >>> OaUCB().radius_linear
    4.0
    """

    def _rows(self, problem: Problem) -> jax.Array:
        """[P + C] bool: packing alone."""
        return jnp.concatenate([jnp.isfinite(problem.budget), jnp.zeros_like(problem.target, bool)])

    def _reach(self, problem: Problem) -> jax.Array:
        """[] the largest sum of the prices, 1."""
        return jnp.ones((), problem.throughput.dtype)
