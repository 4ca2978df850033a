"""Deployment rules, found by name in ``DEPLOYMENT``; importing this package registers those that ship with it."""

from bandits.deployment import clairvoyant, everything, greedy, stageroute, uniform  # noqa: F401
from bandits.deployment.base import DEPLOYMENT, DeploymentRule, DeploymentView, deployment_rule, first

__all__ = ["DEPLOYMENT", "DeploymentRule", "DeploymentView", "deployment_rule", "first"]
