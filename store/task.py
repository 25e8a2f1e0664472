"""Tasks and verdicts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..base.remembered import remembered
from .ids import canonical_json, hash_id, hash_text, task_id
from .messages import Message


def _tools_text(tools: tuple[Mapping[str, Any], ...]) -> str:
    return canonical_json([dict(tool) for tool in tools])


_tools_json = remembered(_tools_text, 64)


@dataclass(frozen=True)
class Task:
    """One task of an environment.

    Attributes:
        messages: The prompt: system and user messages.
        tools: Tool schemas in OpenAI chat form (`{"type": "function", "function": {...}}`), in order.
        ground_truth: JSON value the verifier needs; None when the source has none.
        state: JSON value of the initial state where the environment does not hold it itself.
        difficulty: The generator's own label, None when unknown.
        extra: The source's other fields, kept as they were.
    """

    environment: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    ground_truth: Any = None
    state: Any = None
    split: str = "train"
    category: str | None = None
    difficulty: float | None = None
    source_key: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def prompt_id(self) -> str:
        """Content address of messages and tools."""
        messages = canonical_json([message.to_openai() for message in self.messages])
        return hash_text(
            f'["prompt",{messages},{_tools_json(self.tools)}]'
        )  # `ids.prompt_id`, the tools encoded once for all tasks

    @cached_property
    def state_hash(self) -> str | None:
        """Hash of the initial state, None when the task has none of its own."""
        return None if self.state is None else hash_id(self.state)

    @cached_property
    def task_id(self) -> str:
        """Content address of the task."""
        return task_id(self.environment, self.prompt_id, self.ground_truth, self.state_hash)


@dataclass(frozen=True)
class Score:
    """A verdict.

    Attributes:
        components: (name, value, weight) of its parts.
    """

    reward: float
    passed: bool
    scorer: str
    scorer_version: str
    components: tuple[tuple[str, float, float], ...] = ()
