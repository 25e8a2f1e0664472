"""A trajectory out of the tokens of single calls. An endpoint renders every prompt again, so it is checked that each continues the last.

What is stored is what the engine saw in its last call. A token counts as sampled (loss_mask 1) only where the engine sampled it after exactly
the tokens that stand before it:

- A prompt that begins with all tokens before it continues them; what it adds is context.
- One that does not is a break. It is noted as `prefix:turn2@137`: in the prompt of the second call, the token at position 137 (of prompt
  and all, from 0) is the first to differ. From there on the tokens become those of the new prompt, as context; what was sampled behind that position
  was sampled after other tokens and is dropped.
- One that already differs within the task's own prompt cannot be stored beside the other rollouts of the task: the calls before it stay.
- A call without tokens is a break too, noted as `no_tokens:turn2`. If a later prompt holds its tokens, they are context.
"""

from ...store.messages import VersionSpan
from ..types import Conversation
from .reply import CallTokens


def add_call(conversation: Conversation, call: CallTokens | None, turn: int) -> None:
    """Extends the conversation by one call's prompt and sample.

    Args:
        call: None when the endpoint showed no tokens for it.
        turn: Number of the call, from 1.
    """
    if call is None:
        if conversation.prompt_ids is not None:
            conversation.prefix_ok = False
            conversation.gaps.append(f"no_tokens:turn{turn}")
        return
    if conversation.prompt_ids is None:
        if turn > 1:  # the task's prompt by itself was never seen
            return
        conversation.prompt_ids = list(call.prompt_ids)
    n_prompt = len(conversation.prompt_ids)
    before = conversation.prompt_ids + conversation.token_ids
    if call.prompt_ids[: len(before)] != before:
        position = _first_difference(before, call.prompt_ids)
        conversation.prefix_ok = False
        conversation.gaps.append(f"prefix:turn{turn}@{position}")
        if position < n_prompt:
            return
        _cut(conversation, position - n_prompt)
    context = call.prompt_ids[n_prompt + len(conversation.token_ids) :]
    conversation.token_ids += context
    conversation.loss_mask += [0] * len(context)
    conversation.version_spans = [VersionSpan(0, 0)]  # an endpoint does not report versions
    conversation.token_ids += call.token_ids
    conversation.loss_mask += [1] * len(call.token_ids)
    conversation.logprobs += call.logprobs


def _cut(conversation: Conversation, kept: int) -> None:
    """Keeps only the first `count` tokens after the prompt."""
    del conversation.logprobs[sum(conversation.loss_mask[:kept]) :]
    del conversation.token_ids[kept:], conversation.loss_mask[kept:]


def _first_difference(one: list[int], other: list[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((position for position, (a, b) in pairs if a != b), min(len(one), len(other)))
