"""Random choices that are the same on every machine and every version of Python."""

import random
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class OfficeDraw:
    """Choices from a seed. Built on `random.Random.random` alone, the one method whose sequence Python promises to keep."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed).random

    def below(self, limit: int) -> int:
        """An integer from 0 to limit - 1."""
        return int(self._random() * limit)

    def between(self, least: int, most: int) -> int:
        """An integer from least to most, both possible."""
        return least + self.below(most - least + 1)

    def chance(self, share: float) -> bool:
        """True in that share of cases."""
        return self._random() < share

    def pick(self, options: Sequence[T]) -> T:
        """One of the options."""
        return options[self.below(len(options))]

    def sample(self, options: Sequence[T], count: int) -> list[T]:
        """`count` different positions of the options, in random order."""
        rest = list(options)
        return [rest.pop(self.below(len(rest))) for _ in range(count)]
