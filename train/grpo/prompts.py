"""Which prompts a step uses: a pure function of the set, the seed and the step, so that two runs of one recipe agree."""

import random
from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def prompts_of_step(items: Sequence[Item], step: int, size: int, seed: int) -> list[Item]:
    """The prompts of optimizer step `step` (from 1).

    Epoch by epoch the set is shuffled and cut into batches of `size`; what is left over at an epoch's end sits that
    epoch out, so that no step has one prompt twice. A set smaller than `size` gives all of it every step.
    """
    size = min(size, len(items))
    epoch, batch = divmod(step - 1, len(items) // size)
    order = list(range(len(items)))
    random.Random(f"{seed}:{epoch}").shuffle(order)
    return [items[position] for position in order[batch * size : (batch + 1) * size]]
