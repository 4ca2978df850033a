"""This round's targets: what may be spent and what service is wanted per task, given what is left.

Source: reconstruction of S1 (arXiv 2606.17489) from its abstract and nearest kin; re-solving on the remaining budget
as in Ferreira, Simchi-Levi, Wang (2018) and UCB-ALP (Wu et al., NeurIPS 2015), advice on demand as in Lyu, Cheung
(ICML 2023).
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

if TYPE_CHECKING:  # rules import this module
    from bandits.routing.base import RoutingView


def round_targets(view: "RoutingView", targets: str) -> tuple[jax.Array, jax.Array]:
    """(spending [P], service [C]) per task of this round.

    ``resolving``: rho = (B - spent) / R_t and g = clip((target (so far + R_t) - service so far) / R_t, 0, 1), with R_t
    the predicted remaining demand. ``static``: rho = B / Q and g = target, with Q the predicted total. No task uses
    more than 1, so rho is cut there: a larger one never binds, and an unlimited budget stays finite.
    """
    observation, problem = view.observation, view.problem
    remaining = jnp.maximum(view.remaining_demand, jnp.finfo(view.remaining_demand.dtype).tiny)
    if targets == "static":
        total = jnp.maximum(view.total_demand, jnp.finfo(view.total_demand.dtype).tiny)
        return jnp.clip(problem.budget / total, 0.0, 1.0), problem.target
    spending = jnp.clip(observation.remaining / remaining, 0.0, 1.0)
    total = observation.demand_so_far + view.remaining_demand
    wanted = (problem.target * total - observation.service_so_far) / remaining
    return spending, jnp.clip(wanted, 0.0, 1.0)
