"""The optimization of a stored run once more, without an engine."""
