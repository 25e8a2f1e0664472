"""An environment whose verdicts a rubric is added to."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from ..policies.types import Turn
from ..store.ids import hash_id
from ..store.messages import Message
from ..store.task import Score, Task
from .rubric import RubricSettings, beside_verifier, grade
from .types import Done, Environment, Session


class JudgedEnvironment:
    """An environment whose sessions are also graded by a rubric. A judge that fails makes the rollout an error of the verifier, without a reward.

    Attributes:
        name: The environment's.
        state_hash: Of the environment's state and the rubric.
    """

    def __init__(self, inner: Environment, rubric: RubricSettings) -> None:
        self.name = inner.name
        self.state_hash = hash_id(getattr(inner, "state_hash", None), rubric.identity)
        self._inner = inner
        self._rubric = rubric

    def tasks(self, split: str) -> Iterable[Task]:
        """The environment's tasks."""
        return self._inner.tasks(split)

    async def start(self, task: Task) -> "JudgedSession":
        """A session of the environment."""
        return JudgedSession(await _settled(self._inner.start(task)), self._rubric, task)


class JudgedSession:
    """A session whose messages are kept for the judge."""

    def __init__(self, inner: Session, rubric: RubricSettings, task: Task) -> None:
        self._inner: Any = inner
        self._rubric = rubric
        self._task = task
        self._messages: list[Message] = []

    @property
    def n_tool_errors(self) -> int:
        """Of the session."""
        return getattr(self._inner, "n_tool_errors", 0)

    @property
    def tool_seconds(self) -> Mapping[str, float]:
        """Of the session."""
        return getattr(self._inner, "tool_seconds", {})

    @property
    def tool_limit_s(self) -> float | None:
        """Of the session."""
        return getattr(self._inner, "tool_limit_s", None)

    @tool_limit_s.setter
    def tool_limit_s(self, value: float | None) -> None:
        if hasattr(self._inner, "tool_limit_s"):
            self._inner.tool_limit_s = value

    async def step(self, turn: Turn) -> list[Message] | Done:
        """The session's answer."""
        self._messages.append(turn.message)
        answer = await self._inner.step(turn)
        self._messages += answer if isinstance(answer, list) else answer.messages
        return answer

    async def verify(self) -> Score:
        """The session's verdict with the rubric's. Raises JudgeError."""
        own = await _settled(self._inner.verify())
        return beside_verifier(self._rubric, own, await grade(self._rubric, self._task.messages, self._messages))

    async def close(self) -> None:
        """Closes the session."""
        self._messages.clear()
        await _settled(self._inner.close())


async def _settled(value: Any) -> Any:
    return await value if inspect.isawaitable(value) else value
