"""What a policy knows when it decides: the problem, what it has seen of each model, and how sure it is."""

from dataclasses import dataclass

import jax

from bandits.estimators.confidence import Bounds
from bandits.estimators.statistics import Statistics
from envs.types import Observation, Problem, Truth


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Estimates:
    """What deployment and routing rules alike may use."""

    problem: Problem
    observation: Observation
    statistics: Statistics
    bounds: Bounds
    key: jax.Array  # a key for rules that randomise
    truth: Truth | None  # true means, for clairvoyant rules only

    @property
    def num_resources(self) -> int:
        """P."""
        return self.problem.budget.shape[0]

    @property
    def budget_per_task(self) -> jax.Array:
        """[P] budget for each task of the expected demand; inf where unlimited."""
        return self.problem.budget / self.problem.expected_demand

    @property
    def reward_mean(self) -> jax.Array:
        """[M] empirical mean reward."""
        return self.statistics.mean[:, 0]

    @property
    def consumption_mean(self) -> jax.Array:
        """[M, P] empirical mean consumption, normalised units."""
        return self.statistics.mean[:, 1 : 1 + self.num_resources]

    @property
    def reward_upper(self) -> jax.Array:
        """[M] UCB of reward."""
        return self.bounds.upper[:, 0]

    @property
    def consumption_lower(self) -> jax.Array:
        """[M, P] LCB of consumption."""
        return self.bounds.lower[:, 1 : 1 + self.num_resources]

    @property
    def service_upper(self) -> jax.Array:
        """[M, C] UCB of service."""
        return self.bounds.upper[:, 1 + self.num_resources :]

    @property
    def service_lower(self) -> jax.Array:
        """[M, C] LCB of service."""
        return self.bounds.lower[:, 1 + self.num_resources :]
