"""What the generator's kinds are made of: draws that are the same on every Python, problems, and numbers as LaTeX."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeVar

Item = TypeVar("Item")
Number = int | Fraction


class MathDraw:
    """Random choices from a seed. Only `random.Random.random` is used, whose values Python promises not to change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed).random

    def integer(self, low: int, high: int) -> int:
        """From low to high, both included."""
        return low + int(self._random() * (high - low + 1))

    def nonzero(self, size: int) -> int:
        """From -size to size, but not 0."""
        value = self.integer(1, size)
        return value if self._random() < 0.5 else -value

    def one(self, items: Sequence[Item]) -> Item:
        """One of the items."""
        return items[self.integer(0, len(items) - 1)]

    def some(self, items: Sequence[Item], count: int) -> list[Item]:
        """So many different ones, in random order."""
        left = list(items)
        return [left.pop(self.integer(0, len(left) - 1)) for _ in range(count)]


@dataclass(frozen=True)
class Problem:
    """One problem in several wordings.

    Attributes:
        key: The numbers that make it; with its kind they tell it from all others, however it is worded.
        wordings: Texts of which one is asked.
        answer: Exact; a text is LaTeX.
    """

    key: tuple
    wordings: tuple[str, ...]
    answer: Number | str


def latex(value: Number | str) -> str:
    """An exact number as LaTeX; a text as it is."""
    if isinstance(value, str):
        return value
    value = Fraction(value)
    if value.denominator == 1:
        return str(value.numerator)
    return rf"{'-' if value < 0 else ''}\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"


def signed(value: Number) -> str:
    """With its sign, as a later term of a sum: ` + 3`, ` - 3`."""
    return f" {'-' if value < 0 else '+'} {latex(abs(value))}"


def term(coefficient: int, name: str, first: bool = False) -> str:
    """`3x`, `-x`; as a later term ` + 3x`, and nothing for 0."""
    if coefficient == 0:
        return ""
    size = "" if abs(coefficient) == 1 else str(abs(coefficient))
    if first:
        return f"{'-' if coefficient < 0 else ''}{size}{name}"
    return f" {'-' if coefficient < 0 else '+'} {size}{name}"


def linear(coefficients: Sequence[int], names: Sequence[str]) -> str:
    """`2x - y + 3z`; at least one coefficient is not 0."""
    text = ""
    for coefficient, name in zip(coefficients, names, strict=True):
        text += term(coefficient, name, first=not text)
    return text
