"""Demand processes, one a file, found by name in ``base.PROCESSES``; importing this package registers them."""

from envs.demand.base import PROCESSES

PROCESSES.discover(__name__)

__all__ = ["PROCESSES"]
