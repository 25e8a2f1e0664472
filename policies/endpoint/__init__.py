"""A policy behind OpenAI-compatible endpoints: requests, how they are sent, and the tokens of endpoints that return them."""

from .policy import OpenAIPolicy

__all__ = ["OpenAIPolicy"]
