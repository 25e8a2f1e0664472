"""A policy behind OpenAI-compatible endpoints: what is asked, how it is sent, and the tokens of those that show them."""

from .policy import OpenAIPolicy

__all__ = ["OpenAIPolicy"]
