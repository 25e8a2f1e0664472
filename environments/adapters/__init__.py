"""Environments behind HTTP, or of another package."""
