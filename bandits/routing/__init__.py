"""Routing rules, found by name in ``ROUTING``; importing this package registers those that ship with it."""

from bandits.routing.base import ROUTING, RoutingRule, RoutingView, fill, routing_rule, try_each_once

ROUTING.discover(__name__)

__all__ = ["ROUTING", "RoutingRule", "RoutingView", "fill", "routing_rule", "try_each_once"]
