"""Deployment rules, found by name in ``DEPLOYMENT``; importing this package registers those that ship with it."""

from bandits.deployment.base import DEPLOYMENT, DeploymentRule, DeploymentView, deployment_rule, first

DEPLOYMENT.discover(__name__)

__all__ = ["DEPLOYMENT", "DeploymentRule", "DeploymentView", "deployment_rule", "first"]
