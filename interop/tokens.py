"""From whole prompts repeated at every model call to one sequence: the first prompt, then what each call added."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

from ..store.items import TokenCall
from .rollout import FileRollout


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


def place_calls(rollout: FileRollout, calls: Sequence[TokenCall]) -> None:
    """Fills in the token columns. Without logprobs of every call there are none of any; calls that do not continue each other leave a gap.

    Raises ValueError for logprobs that are not parallel to their tokens.
    """
    known = all(call.logprobs for call in calls)
    linear = linearise(calls if known else [TokenCall(call.prompt, call.generation, [0.0] * len(call.generation)) for call in calls])  # fmt: skip
    if linear is None:
        rollout.gaps.add("prompts_not_contiguous")
        rollout.columns["prefix_ok"] = False
        return
    rollout.prompt_ids = linear.prompt
    rollout.columns |= {"token_ids": linear.token_ids, "loss_mask": linear.loss_mask, "prefix_ok": True}
    if known:
        rollout.columns["logprobs"] = linear.logprobs
    else:
        rollout.gaps.add("no_logprobs")


def calls_of(rollout: FileRollout) -> list[TokenCall] | None:
    """The other way: what each model call saw and sampled, one call an assistant message, in order.

    None when that is not known: no tokens, no logprobs, no prompt, or not as many sampled stretches as assistant messages.
    """
    token_ids, mask, logprobs = (rollout.get(name) for name in ("token_ids", "loss_mask", "logprobs"))
    if token_ids is None or mask is None or logprobs is None or rollout.prompt_ids is None:
        return None
    calls, at, sampled = [], 0, 0
    for is_sampled, stretch in groupby(mask):
        length = len(list(stretch))
        if is_sampled:
            generation, values = token_ids[at : at + length], logprobs[sampled : sampled + length]
            calls.append(TokenCall(rollout.prompt_ids + token_ids[:at], generation, values))
            sampled += length
        at += length
    if len(calls) != sum(message.role == "assistant" for message in rollout.messages):
        return None
    # Tokens after the last call have no place in any call.
    return calls if calls and mask[-1] else None
