"""The prompts of a run over several environments: how many of each a step takes, and which."""

import random
from collections import Counter
from collections.abc import Mapping, Sequence

from ...environments.mixture import interleave
from ...store.task import Task
from ...transform.materialize import PromptSet
from .prompts import drawn_by_weight, part_of, spare_prompts


class MixedPrompts:
    """The prompts of each step, by the weights of their environments.

    Of the prompts of the first k steps each environment has its share of the weights, within one. The prompts of one environment come as
    `prompts_of_step` has them: epoch by epoch in a shuffled order, in the set's order where that is a curriculum, or drawn by the set's weights.
    The same arguments give the same prompts, whichever step is taken first. Not for several threads at once.
    """

    def __init__(self, items: Sequence[Task], weights: Mapping[str, float], size: int, seed: int) -> None:
        """
        Args:
            items: The prompt set; a PromptSet has an order or weights.
            weights: By environment; each has a prompt in the set.
            size: Prompts of a step.
        """
        self._size, self._seed = min(size, len(items)), seed
        self._parts = {name: part_of(items, name) for name in weights}
        self._queues = [_Queue(part, f"{seed}:{name}") for name, part in self._parts.items()]
        self._turns = interleave(list(weights.values()))
        self._steps: list[list[Task]] = []

    def of_step(self, step: int) -> list[Task]:
        """The prompts of optimizer step `step` (from 1), environment by environment. An environment with fewer prompts than its share gives all it has."""
        while len(self._steps) < step:
            counts = Counter(next(self._turns) for _ in range(self._size))
            number = len(self._steps) + 1
            self._steps.append([task for at, queue in enumerate(self._queues) for task in queue.take(number, counts[at])])  # fmt: skip
        return list(self._steps[step - 1])

    def spare(self, step: int, used: Sequence[Task], missing: Mapping[str, int]) -> list[Task]:
        """Further prompts in place of groups without spread, of the environments that these are of; see `spare_prompts`.

        Args:
            missing: Groups to replace, by environment.
        """
        return [
            task
            for name, part in self._parts.items()
            for task in spare_prompts(part, step, used, missing.get(name, 0), self._seed)
        ]


class _Queue:
    """The prompts of one environment on their way into steps."""

    def __init__(self, items: PromptSet, seed: str) -> None:
        self._items, self._seed = items, seed
        self._place, self._epoch = 0, 0
        self._order = self._shuffled()

    def take(self, step: int, n: int) -> list[Task]:
        """n prompts for a step, none twice; fewer when there are fewer."""
        items, n = self._items, min(n, len(self._items))
        if items.weights is not None and not items.in_order:
            return [items[place] for place in drawn_by_weight(items.weights, n, f"{self._seed}:{step}")]
        if not items.in_order and self._place + n > len(items):  # the epoch's rest is dropped
            self._place, self._epoch = 0, self._epoch + 1
            self._order = self._shuffled()
        start, self._place = self._place, self._place + n
        return [items[self._order[place % len(items)]] for place in range(start, start + n)]

    def _shuffled(self) -> list[int]:
        order = list(range(len(self._items)))
        if not self._items.in_order:
            random.Random(f"{self._seed}:{self._epoch}").shuffle(order)
        return order
