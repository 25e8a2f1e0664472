"""The tiny policy: a Qwen3-shaped model of under two million parameters that learns tool calls from scratch in minutes."""

from .base import base_policy

__all__ = ["base_policy"]
