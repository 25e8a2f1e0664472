"""Which prompts a step uses: a pure function of the set, the seed and the step, so that two runs of one recipe agree."""

import math
import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def prompts_of_step(items: Sequence[Item], step: int, size: int, seed: int) -> list[Item]:
    """The prompts of optimizer step `step` (from 1).

    Epoch by epoch the set is shuffled and cut into batches of `size`; what is left over at an epoch's end sits that
    epoch out, so that no step has one prompt twice. A set smaller than `size` gives all of it every step. A PromptSet
    that is a curriculum is not shuffled; one with weights has no epochs: each step draws anew, by weight.
    """
    size = min(size, len(items))
    weights: list[float] | None = getattr(items, "weights", None)  # only a PromptSet has a schedule
    in_order: bool = getattr(items, "in_order", False)
    order = list(range(len(items)))
    if weights is not None and not in_order:
        return [items[position] for position in _drawn(weights, size, f"{seed}:{step}")]
    epoch, batch = divmod(step - 1, len(items) // size)
    if not in_order:
        random.Random(f"{seed}:{epoch}").shuffle(order)
    return [items[position] for position in order[batch * size : (batch + 1) * size]]


def _drawn(weights: Sequence[float], size: int, seed: str) -> list[int]:
    """Positions drawn without replacement, by weight (Efraimidis and Spirakis 2006): the greatest of log(u) / weight."""
    chance = random.Random(seed)
    keys = [math.log(1.0 - chance.random()) / weight if weight > 0 else -math.inf for weight in weights]
    return sorted(range(len(keys)), key=lambda position: keys[position], reverse=True)[:size]


def spare_prompts(items: Sequence[Item], step: int, used: Sequence[Item], size: int, seed: int) -> list[Item]:
    """The next `size` prompts that take the place of those whose groups taught nothing; fewer when the set has no more.

    They come from an order of the whole set that is the step's own, so that what the steps consume by themselves never depends on
    rewards. `used` are the step's prompts so far, which do not come again.
    """
    order = list(range(len(items)))
    random.Random(f"{seed}:{step}:spare").shuffle(order)
    taken = {id(item) for item in used}
    return [items[position] for position in order if id(items[position]) not in taken][:size]
