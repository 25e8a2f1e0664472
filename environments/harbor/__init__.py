"""Task folders of Harbor."""

from .environment import HarborEnvironment

__all__ = ["HarborEnvironment"]
