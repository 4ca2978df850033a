"""The words that worlds and policies share.

Axis letters: M models (padded; ``Problem.exists`` marks the real ones), P packing resources, C covering metrics.
Consumption is in *normalised units*: one unit is the worst case of one task of the dearest model, for each resource
on its own. Everything here is a pytree of arrays for ONE run; batching is always outside.
"""

from dataclasses import dataclass

import jax


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Problem:
    """What the policy is told before the first round."""

    horizon: jax.Array  # [] int32, number of rounds T
    exists: jax.Array  # [M] bool, false for padding
    budget: jax.Array  # [P] total budget B_i, normalised units; inf where unlimited
    target: jax.Array  # [C] wanted service per task, in [0, 1]
    consumption_bound: jax.Array  # [M, P] known worst case of one task, in [0, 1]; 0 for what is free
    throughput: jax.Array  # [M] cap on the share of a round's tasks, in (0, 1]
    budget_hard: jax.Array  # [] bool, true where the world refuses what might not fit
    max_deployed: jax.Array  # [] int32, how many models may be live at once
    expected_demand: jax.Array  # [] nominal total demand over the horizon (a planner's figure, not the truth)
    demand_bound: jax.Array  # [] the most tasks that one round can bring


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Truth:
    """What only clairvoyant references and oracle forecasters are told."""

    reward: jax.Array  # [M] true mean reward
    consumption: jax.Array  # [M, P] true mean consumption (of the bounded distribution)
    service: jax.Array  # [M, C] true mean service
    total_demand: jax.Array  # [] realised total demand of this run


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Observation:
    """What the policy sees at the start of a round."""

    t: jax.Array  # [] int32, rounds completed so far
    demand: jax.Array  # [] q_t, tasks arriving this round; meaningful only where demand_seen
    demand_seen: jax.Array  # [] bool, false where q_t is revealed after choosing
    profile: jax.Array  # [] nominal demand of this round (what a planner expects)
    available: jax.Array  # [M] bool, models that exist now
    deployed: jax.Array  # [M] bool, models that are live and so can serve this round
    demand_so_far: jax.Array  # [] tasks arrived in earlier rounds
    spent: jax.Array  # [P] normalised units
    remaining: jax.Array  # [P] budget left, normalised units
    service_so_far: jax.Array  # [C] sum of q_s g_s over earlier rounds


@jax.tree_util.register_dataclass
@dataclass(frozen=True, kw_only=True)
class Feedback:
    """What the policy sees after a round: one model serves all of it, and only what that one did is seen."""

    demand: jax.Array  # [] q_t
    model: jax.Array  # [] int32, the model that served; -1 where none did
    reward: jax.Array  # [] reward per task, in [0, 1]; 0, like the two below, where nothing was served
    consumption: jax.Array  # [P] consumption per task, at most the model's consumption_bound
    service: jax.Array  # [C] service per task, in [0, 1]
