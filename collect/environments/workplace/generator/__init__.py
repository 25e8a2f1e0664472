"""Tasks and tables of our own for workplace, from a seed."""

from .tables import generate_tables
from .tasks import HELD_OUT, KINDS, difficulty, generate_tasks

__all__ = ["HELD_OUT", "KINDS", "difficulty", "generate_tables", "generate_tasks"]
