"""Programming tasks in a sandbox."""

from .environment import SandboxEnvironment

__all__ = ["SandboxEnvironment"]
