"""The Workplace Assistant: 27 tools over six tables, verified by final state, as NeMo Gym 0.4.0 has it (docs/environments.md)."""

from .environment import WorkplaceEnvironment

__all__ = ["WorkplaceEnvironment"]
