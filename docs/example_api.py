"""Studies from Python: a rule of one's own beside shipped ones, without a folder and without Hydra.

Runs as it stands: ``python docs/example_api.py``.
"""

from dataclasses import dataclass
from typing import Any

import jax

from bandits.routing import RoutingRule, RoutingView, fill, try_each_once
from envs.parameters import number
from experiments import Results, simulate


@dataclass(frozen=True, kw_only=True)
class PriceAverse(RoutingRule):
    """argmax UCB_r - aversion · LCB_c of the first resource."""

    aversion: float = number(
        1.0, low=0.0
    )  # reward given up per unit of consumption; traced, so it costs no compilation

    def decide(self, state: Any, view: RoutingView) -> tuple[jax.Array, Any]:
        """All to the best index, up to its cap."""
        index = view.reward_upper - self.aversion * view.consumption_lower[:, 0]
        return try_each_once(view, fill(index, view.affordable_caps)), state


def main() -> Results:
    """Two budgets and two horizons; three policies, two of which are instances of one class."""
    results = simulate(
        catalogue="routerbench",
        policies=["uniform", PriceAverse(aversion=0.5), ("stingy", PriceAverse(aversion=5.0))],
        horizon=[200, 1000],
        budget_per_task=[3e-4, 1e-3],  # USD
        seeds=8,
    )
    print(results)

    # One row a run: to_arrow(), or to_pandas() and to_xarray() where these are installed.
    table = results.select(policy="stingy", horizon=1000).to_arrow()
    print(table.select(["policy", "budget_per_task", "seed", "regret", "spent"]).slice(0, 3).to_pylist())

    # Policies meet the same demand and luck, seed by seed, so they are compared in pairs.
    print(results.difference("stingy", "uniform", metric="reward_share", horizon=1000, budget_per_task=3e-4))

    # Curves [seeds, evaluation rounds] of one cell; every metric is a sum up to the round.
    (cell,) = results.select(policy="PriceAverse", horizon=1000, budget_per_task=1e-3).cells
    print(cell.eval_rounds[-3:], cell.curve("regret")[:, -3:].mean(axis=0).round(1))

    print(results.provenance["versions"])
    return results


if __name__ == "__main__":
    main()
