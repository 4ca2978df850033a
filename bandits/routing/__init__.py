"""Routing rules, found by name in ``ROUTING``; importing this package registers those that ship with it."""

from bandits.routing import (  # noqa: F401
    ad_ucb,
    best_fixed,
    copac_lp,
    copac_primal_dual,
    copac_ucb,
    greedy_value_per_cost,
    lp_oracle,
    oa_ucb,
    pd_bwk,
    stageroute,
    sw_ucb,
    ucb1,
    uniform,
)
from bandits.routing.base import ROUTING, RoutingRule, View, fill, routing_rule, try_each_once

__all__ = ["ROUTING", "RoutingRule", "View", "fill", "routing_rule", "try_each_once"]
