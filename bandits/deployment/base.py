"""The contract of a deployment rule, and the registry that finds rules by name.

A rule is one file and one decorator, inside this package or outside it::

    @deployment_rule("mine")
    class Mine(DeploymentRule):
        def decide(self, state, view):
            return first(view.reward_upper, view.available, view.max_deployed), state
"""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bandits.view import Estimates
from envs.registry import Registry
from envs.types import Problem, Truth


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DeploymentView(Estimates):
    """All that a deployment rule may use at the start of a stage."""

    @property
    def available(self) -> jax.Array:
        """[M] bool, the models that can be deployed."""
        return self.observation.available

    @property
    def max_deployed(self) -> jax.Array:
        """[] int32, how many may be live at once."""
        return self.problem.max_deployed


class DeploymentRule:
    """Decides, at the start of each stage, which models are live in it. Frozen pytrees once registered.

    Fields made with ``number`` are traced and sweepable without recompiling, those made with ``choice`` are static.
    All methods are pure, for one run, and work under jit and vmap.
    """

    clairvoyant: ClassVar[bool] = False  # whether the rule is shown the true means and the realised total demand
    capped: ClassVar[bool] = True  # whether at most max_deployed of its models go live

    def init(self, problem: Problem, truth: Truth | None) -> Any:
        """The rule's own state before the first stage (any pytree of arrays of fixed shapes)."""
        return ()

    def decide(self, state: Any, view: DeploymentView) -> tuple[jax.Array, Any]:
        """(deployed [M] bool, state): the models that go live. The others are switched off.

        Only ``view.available`` ones can be, at most ``view.max_deployed`` of them: of more, those with the lowest
        numbers go live.
        """
        raise NotImplementedError

    def gap(self, state: Any) -> jax.Array:
        """[] the largest proven optimality gap of a decision so far; 0 for rules that do not optimise."""
        return jnp.zeros(())


class SearchingRule(DeploymentRule):
    """A rule that optimises and remembers the largest gap of its searches."""

    def init(self, problem: Problem, truth: Truth | None) -> jax.Array:
        """[] the largest gap so far."""
        return jnp.zeros((), problem.throughput.dtype)

    def gap(self, state: jax.Array) -> jax.Array:
        """[] the largest gap so far."""
        return state


DEPLOYMENT: Registry = Registry("deployment rule", DeploymentRule, reserved=("confidence",))
deployment_rule = DEPLOYMENT.register


def first(index: jax.Array, eligible: jax.Array, number: jax.Array) -> jax.Array:
    """[M] bool: the ``number`` eligible models of the largest index [M]; ties go to the lower number."""
    index = jnp.where(eligible, index, -jnp.inf)
    place = jnp.arange(index.shape[0])
    ahead = (index[None] > index[:, None]) | ((index[None] == index[:, None]) & (place[None] < place[:, None]))
    return eligible & (jnp.sum(ahead & eligible[None], axis=1) < number)
