"""How a rule or forecaster declares its parameters, and how one is built from plain values; see ``envs.parameters``."""

from envs.parameters import build, choice, number

__all__ = ["build", "choice", "number"]
