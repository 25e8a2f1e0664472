"""A session made of tools: what the policy calls is executed, and what the tools answer goes back to it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..store.messages import Message, ToolCall
from .types import Done, Score, Turn


@dataclass(frozen=True)
class ToolOutput:
    """What one call gave: the text the policy sees, and whether that text reports an error."""

    text: str
    failed: bool = False


class ToolSession:
    """One episode over tools.

    A turn without a tool call ends the episode, except one that holds reasoning only; so does a turn that the token
    limit cut (its calls are not executed). How many turns there may be is the agent loop's to say.

    Attributes:
        calls: Every call the policy made, in order, executed or not.
        n_tool_errors: Calls answered by an error: unreadable arguments, an unknown tool, a tool that failed.
    """

    def __init__(
        self,
        execute: Callable[[str, Any], ToolOutput],
        score: Callable[[Sequence[ToolCall]], Score],
    ) -> None:
        """`execute` gets a tool's name and the parsed arguments (any JSON value); `score` judges the calls made."""
        self.calls: list[ToolCall] = []
        self.n_tool_errors = 0
        self._execute = execute
        self._score = score

    async def step(self, turn: Turn) -> list[Message] | Done:
        """Executes the turn's calls and returns their outputs as tool messages, or Done."""
        message = turn.message
        self.calls.extend(message.tool_calls)
        if turn.stop_reason == "length":
            return Done("length")
        if not message.tool_calls and not _reasoning_only(message):
            return Done("stop")
        return [Message("tool", self._answer(call), tool_call_id=call.id) for call in message.tool_calls]

    def verify(self) -> Score:
        """The verdict on the calls made so far."""
        return self._score(self.calls)

    def close(self) -> None:
        """Frees the session's state."""
        self._execute = _closed

    def _answer(self, call: ToolCall) -> str:
        try:
            arguments = json.loads(call.arguments)
        except (ValueError, TypeError, RecursionError) as error:
            output = ToolOutput(json.dumps({"error": f"Invalid tool call arguments: {error!r}"}), failed=True)
        else:
            output = self._execute(call.name, arguments)
        self.n_tool_errors += output.failed
        return output.text


def _reasoning_only(message: Message) -> bool:
    return message.reasoning is not None and message.text is None and message.parts is None


def _closed(name: str, arguments: Any) -> ToolOutput:
    raise RuntimeError("The session is closed.")
