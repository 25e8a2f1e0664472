"""Scorers as a user writes them, for the tests of rescoring."""

import os
from typing import Any

from rollhouse.store.task import Score, Task


def short(task: Task | None, rollout: dict[str, Any]) -> Score | None:
    """Few model calls are good."""
    good = rollout["n_turns"] <= 2
    return Score(float(good), good, "short", "1", (("turns", float(rollout["n_turns"]), 1.0),))


def picky(task: Task | None, rollout: dict[str, Any]) -> Score | None:
    """Says nothing about solved rollouts and breaks on the others."""
    if rollout["passed"]:
        return None
    raise ValueError("never seen this")


def deadly(task: Task | None, rollout: dict[str, Any]) -> Score | None:
    """Takes its process with it."""
    os._exit(9)
