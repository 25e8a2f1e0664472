"""math: a question, one answer in `\\boxed{}`, and the verdict of math-verify."""

from .environment import MathEnvironment

__all__ = ["MathEnvironment"]
