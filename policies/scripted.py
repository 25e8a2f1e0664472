"""The scripted policy: plays the ground truth of a task, with mistakes at a given rate. No model is loaded."""

import json
from typing import Any

from ..base.errors import EngineError
from ..store.ids import hash_id
from ..store.messages import Message, ToolCall
from .types import Conversation, Sampling, Turn

DONE = "Done."


class ScriptedPolicy:
    """Plays each task's ground truth, one call a turn, then ends with `Done.`; a truth that is a string is answered as `\\boxed{answer}`.

    With probability `mistake_rate` it leaves out the last call, or answers wrongly. A hash of seed, task and sample index decides which rollouts
    have a mistake. A truth with more calls than turns is played several calls a turn.
    """

    engine = "scripted"
    token_identity = None
    version = 0

    def __init__(self, mistake_rate: float = 0.0, seed: int = 0, max_turns: int = 6) -> None:
        self.mistake_rate = mistake_rate
        self.seed = seed
        self.max_turns = max_turns
        self.policy_id = f"scripted-{mistake_rate:g}"

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """The next calls of the ground truth, or the closing message. `sampling` is not used."""
        answer = conversation.task.ground_truth
        if isinstance(answer, str) and not conversation.task.tools:
            wrong = " + 1" if self._errs(conversation) else ""
            return Turn(Message("assistant", rf"The answer is \boxed{{{answer}{wrong}}}."))
        truth = self._calls(conversation)
        played = sum(len(message.tool_calls) for message in conversation.messages)
        a_turn = max(1, -(-len(truth) // max(1, self.max_turns - 1)))
        calls = truth[played : played + a_turn]
        return Turn(Message("assistant", None, calls) if calls else Message("assistant", DONE))

    def _calls(self, conversation: Conversation) -> tuple[ToolCall, ...]:
        truth = conversation.task.ground_truth
        if not isinstance(truth, list):
            raise EngineError("The scripted engine needs a ground truth that is a list of calls.", "Use tasks that have one, or another engine.")  # fmt: skip
        calls = tuple(ToolCall(f"call_{i}", call["name"], _text(call["arguments"])) for i, call in enumerate(truth))
        return calls[:-1] if calls and self._errs(conversation) else calls

    def _errs(self, conversation: Conversation) -> bool:
        if self.mistake_rate <= 0:
            return False
        draw = int(hash_id(self.seed, conversation.task.task_id, conversation.sample_index)[:8], 16)
        return draw / 2**32 < self.mistake_rate


def _text(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
