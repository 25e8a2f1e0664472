"""From whole prompts repeated at every model call to one sequence: the first prompt, then what each call added."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class TokenCall:
    """What one model call saw and sampled. `logprobs` is parallel to `generation`."""

    prompt: list[int]
    generation: list[int]
    logprobs: list[float]


@dataclass
class Linear:
    """One trajectory as the store keeps it.

    Attributes:
        prompt: The first call's prompt.
        token_ids: Everything after it, tool results included.
        loss_mask: Parallel to token_ids: 1 where the policy sampled.
        logprobs: One per sampled token, in order.
    """

    prompt: list[int]
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


def linearise(calls: Sequence[TokenCall]) -> Linear | None:
    """Joins calls into one sequence; None when a prompt does not begin with all tokens before it.

    Raises ValueError for logprobs that are missing or not numbers: such a rollout cannot be trained on and is better set aside.
    """
    linear = Linear(calls[0].prompt)
    seen = calls[0].prompt
    for call in calls:
        if len(call.logprobs) != len(call.generation):
            raise ValueError(f"{len(call.generation)} generated tokens have {len(call.logprobs)} logprobs")
        if any(not math.isfinite(value) for value in call.logprobs):
            raise ValueError("a logprob is not a finite number")
        if call.prompt[: len(seen)] != seen:
            return None
        added = call.prompt[len(seen) :]
        linear.token_ids += added + call.generation
        linear.loss_mask += [0] * len(added) + [1] * len(call.generation)
        linear.logprobs += call.logprobs
        seen = call.prompt + call.generation
    return linear
