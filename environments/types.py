"""The interface of environments: tasks, and sessions that run and judge them."""

from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ..policies.types import Turn
from ..store.messages import Message
from ..store.task import Score, Task


@dataclass(frozen=True)
class Done:
    """What `Session.step` returns when the episode is over.

    Attributes:
        reason: `stop`, or `length` (the token limit cut the turn). The limit on turns is the agent loop's.
        messages: Tool results of the last turn, where its calls were still executed; they belong to the conversation.
    """

    reason: str = "stop"
    messages: tuple[Message, ...] = ()


class Session(Protocol):
    """One episode of one task. Starting it costs microseconds, closing it frees what it held.

    An episode also reads these attributes where a session has them: `n_tool_errors: int`, calls answered by an error;
    `tool_seconds: dict[str, float]`, the slowest call so far of each tool. It sets `tool_limit_s: float | None`, seconds one call may
    take, where there is such an attribute.
    """

    async def step(self, turn: Turn) -> list[Message] | Done:
        """The messages that answer the turn (tool results, a new user turn), or Done."""
        ...

    def verify(self) -> Score | Awaitable[Score]:
        """The verdict on what was done so far. Raises nothing for a bad policy: that is a reward of 0."""
        ...

    def close(self) -> Awaitable[None] | None:
        """Frees the session's state."""
        ...


class Environment(Protocol):
    """Gives tasks and sessions."""

    name: str

    def tasks(self, split: str) -> Iterable[Task]:
        """The tasks of `train`, `validation` or `test`, in a stated order."""
        ...

    def start(self, task: Task) -> Session | Awaitable[Session]:
        """A fresh session of the task."""
        ...
