"""The learning rate as a function of the step."""

import math

from .settings import LearnerSettings


def learning_rate(step: int, settings: LearnerSettings) -> float:
    """The learning rate of step `step`, the first being 1.

    It rises linearly over `warmup_steps`, reaching `lr` with the last of them. Then it stays (`constant`), or falls to `min_lr` over
    `decay_steps`, in a line or in half a cosine, and stays there.

    Raises ValueError for a schedule that is none, and for one that falls without decay_steps.
    """
    if step <= settings.warmup_steps:
        return settings.lr * step / settings.warmup_steps
    if settings.lr_schedule == "constant":
        return settings.lr
    if not settings.decay_steps:
        raise ValueError(f"the schedule {settings.lr_schedule} needs decay_steps")
    done = min(1.0, (step - settings.warmup_steps) / settings.decay_steps)
    if settings.lr_schedule == "linear":
        left = 1 - done
    elif settings.lr_schedule == "cosine":
        left = (1 + math.cos(math.pi * done)) / 2
    else:
        raise ValueError(f"there is no schedule {settings.lr_schedule!r}")
    return settings.min_lr + (settings.lr - settings.min_lr) * left
