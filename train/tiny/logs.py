"""The training data of the tiny policy: the script's rollouts as token sequences, with a mask of the script's tokens."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ...environments.workplace_mini import run_tool
from ...policies.scripted import DONE
from ...store.messages import Message, ToolCall
from ...store.task import Task


@dataclass(frozen=True)
class Example:
    """Token ids, and a parallel mask: 1 for a token of the script, which is learned."""

    token_ids: list[int]
    mask: list[int]


def script_rollout(task: Task, omit_last: bool = False) -> list[Message]:
    """Everything after the prompt when the script plays the ground truth, one call per turn, and ends with the text DONE.

    With `omit_last` the script omits the last call and ends with DONE all the same.
    """
    state = copy.deepcopy(task.state)
    messages: list[Message] = []
    for number, call in enumerate(task.ground_truth[: -1 if omit_last else None]):
        tool_call = ToolCall(f"call_{number}", call["name"], call["arguments"])
        messages.append(Message("assistant", None, (tool_call,)))
        messages.append(
            Message("tool", run_tool(state, call["name"], tool_call.parsed()).text, tool_call_id=tool_call.id)
        )
    return [*messages, Message("assistant", DONE)]


def whole(tokenizer: Any, task: Task, rollout: list[Message]) -> Example:
    """The rollout as the policy sees it: tools, request, turns. Every assistant turn is learned."""
    return _render(tokenizer, [*task.messages, *rollout], list(task.tools))


def compact(tokenizer: Any, task: Task, rollout: list[Message]) -> list[Example]:
    """One sequence per assistant turn, without the tools: short, so that copying is learned sooner. Only the last turn is learned."""
    sequences = []
    for number, message in enumerate(rollout):
        if message.role == "assistant":
            sequence = _render(tokenizer, [*task.messages, *rollout[: number + 1]], None)
            earlier = _render(tokenizer, [*task.messages, *rollout[:number]], None)
            mask = [0] * len(earlier.mask) + sequence.mask[len(earlier.mask) :]
            sequences.append(Example(sequence.token_ids, mask))
    return sequences


def _render(tokenizer: Any, messages: Sequence[Message], tools: list | None) -> Example:
    rendered = tokenizer.apply_chat_template(
        [message.to_openai() for message in messages],
        tools=tools,
        return_dict=True,
        return_assistant_tokens_mask=True,
    )
    return Example(list(rendered["input_ids"]), list(rendered["assistant_masks"]))
