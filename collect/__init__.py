"""Policies and engines, environments and their scorers, the agent loop, the runner and re-scoring."""
