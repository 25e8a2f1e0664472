"""Environments that live elsewhere: behind HTTP, or in another package."""
