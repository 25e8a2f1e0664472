"""Code that runs in the worker processes of `patterns`, imported by its folder."""
