"""workplace-mini: a frozen small office for the demo and the tests, learnable by a model of a million parameters."""

from .environment import MiniEnvironment, final_state, run_tool

__all__ = ["MiniEnvironment", "final_state", "run_tool"]
