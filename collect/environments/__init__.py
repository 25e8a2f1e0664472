"""Environments: where tasks come from, what the tools do, and how an episode is judged."""
