"""Prompts, their tokens, tasks and verdicts: what a rollout refers to. Each class is the definition of a table."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Annotated, Any, NamedTuple

import pyarrow as pa

from ..base.remembered import remembered
from .content import refuse_unknown
from .ids import canonical_json, hash_id, hash_text, task_id
from .messages import Message
from .reading import read_messages
from .schema import Stored, Table, json_object_text, json_text

_DOUBLE = pa.float64()


def _plain_tools(tools: Any) -> list[dict[str, Any]]:
    return [dict(tool) for tool in tools]


# Tasks share their tools, so each tuple of tools is encoded once.
_canonical_tools: Callable[[Any], str] = remembered(lambda tools: canonical_json(_plain_tools(tools)), 64)
_tools_text: Callable[[Any], str] = remembered(lambda tools: json.dumps(_plain_tools(tools), ensure_ascii=False), 64)


def _prompt_id(prompt: Any) -> str:
    # `ids.prompt_id`, without encoding the tools again.
    messages = canonical_json([message.to_openai() for message in prompt.messages])
    return hash_text(f'["prompt",{messages},{_canonical_tools(prompt.tools)}]')


def _read_messages(of: Any) -> None:
    """Replaces chat messages in OpenAI form by `Message` objects, and lists by tuples."""
    messages = of.messages
    if not isinstance(messages, tuple) or not all(isinstance(message, Message) for message in messages):
        object.__setattr__(of, "messages", tuple(read_messages(messages, on_unknown=refuse_unknown)))
    if not isinstance(of.tools, tuple):
        object.__setattr__(of, "tools", tuple(of.tools or ()))


@dataclass(frozen=True)
class Prompt:
    """One distinct prompt.

    Attributes:
        prompt_id: Content address of messages and tools.
        messages: System and user messages, as `Message` objects or in OpenAI chat form.
        tools: Tool schemas in OpenAI chat form (`{"type": "function", "function": {...}}`), in order.
    """

    prompt_id: Annotated[str, Stored("hash of messages and tools")] = field(
        init=False, compare=False, repr=False, default=cached_property(_prompt_id)  # type: ignore[assignment]
    )  # fmt: skip
    messages: Annotated[tuple[Message, ...], Stored("system and user messages")]
    tools: Annotated[
        tuple[Mapping[str, Any], ...],
        Stored("JSON list of tool schemas in OpenAI chat form", text=_tools_text),
    ] = ()

    def __post_init__(self) -> None:
        _read_messages(self)

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Prompt":
        """A row of `prompts`. Its prompt_id is the stored one."""
        tools = row.get("tools")
        messages = tuple(Message.from_row(message) for message in row.get("messages") or ())
        prompt = cls(messages, tuple(json.loads(tools)) if tools else ())
        prompt.__dict__["prompt_id"] = row["prompt_id"]
        return prompt


def _tokens_id(tokens: "PromptTokens") -> str:
    return hash_id(tokens.prompt_id, tokens.tokenizer_hash, tokens.template_hash)


@dataclass(frozen=True)
class PromptTokens:
    """The tokens of a prompt under one tokenizer and chat template."""

    row_id: Annotated[str, Stored("H(prompt_id, tokenizer_hash, template_hash)")] = field(
        init=False, compare=False, repr=False, default=cached_property(_tokens_id)  # type: ignore[assignment]
    )  # fmt: skip
    prompt_id: Annotated[str, Stored("row of `prompts`")]
    tokenizer_hash: Annotated[str | None, Stored("as in `rollouts`")]
    template_hash: Annotated[str | None, Stored("as in `rollouts`")]
    token_ids: Annotated[list[int], Stored("the rendered prompt", zstd=True)]


@dataclass(frozen=True)
class Task:
    """One task of an environment.

    Attributes:
        messages: The prompt: system and user messages, as `Message` objects or in OpenAI chat form.
        tools: Tool schemas in OpenAI chat form (`{"type": "function", "function": {...}}`), in order.
        ground_truth: JSON value the verifier needs; None when the source has none.
        state: JSON value of the initial state where the environment does not hold it itself.
        difficulty: The generator's own label, None when unknown.
        extra: The source's other fields, unchanged.
        created_at: When it entered the store; None is now.
    """

    task_id: Annotated[str, Stored("hash of environment, prompt_id, ground truth and state_hash")] = field(
        init=False, compare=False, repr=False, default=cached_property(lambda task: _task_id(task))  # type: ignore[assignment]
    )  # fmt: skip
    environment: Annotated[str, Stored("name of the environment")]
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    prompt_id: Annotated[str, Stored("row of `prompts`")] = field(
        init=False, compare=False, repr=False, default=cached_property(lambda task: task.prompt.prompt_id)  # type: ignore[assignment]
    )  # fmt: skip
    ground_truth: Annotated[Any, Stored("JSON for the scorer; null if the source has none", text=json_text)] = None
    state_hash: Annotated[
        str | None, Stored("null if the environment needs no state")
    ] = field(
        init=False, compare=False, repr=False, default=cached_property(lambda task: _state_hash(task))  # type: ignore[assignment]
    )  # fmt: skip
    state: Annotated[Any, Stored("JSON of the initial state, unless the environment holds it", text=json_text)] = None
    split: Annotated[str, Stored("train, validation or test")] = "train"
    category: Annotated[str | None, Stored("kind of task")] = None
    difficulty: Annotated[float | None, Stored("the generator's label; null if unknown")] = None
    source_key: Annotated[str | None, Stored("its key in the source")] = None
    extra: Annotated[Mapping[str, Any], Stored("JSON of other fields of the source", text=json_object_text)] = field(
        default_factory=dict
    )
    created_at: Annotated[datetime | None, Stored("time of writing")] = field(default=None, compare=False)

    def __post_init__(self) -> None:
        _read_messages(self)

    @cached_property
    def prompt(self) -> Prompt:
        """Its prompt."""
        return Prompt(self.messages, self.tools)

    @classmethod
    def of(cls, environment: str, prompt: Prompt, **fields: Any) -> "Task":
        """A task of a prompt; `fields` are the constructor's."""
        task = cls(environment, prompt.messages, prompt.tools, **fields)
        task.__dict__["prompt"] = prompt
        return task

    @classmethod
    def from_row(cls, row: Mapping[str, Any], prompt: Prompt) -> "Task":
        """A row of `tasks`, and its prompt. Its task_id, prompt_id and state_hash are the stored ones."""

        def value(text: str | None) -> Any:
            return None if text is None else json.loads(text)

        task = cls(
            environment=row["environment"],
            messages=prompt.messages,
            tools=prompt.tools,
            ground_truth=value(row["ground_truth"]),
            state=value(row["state"]),
            split=row["split"] or "train",
            category=row["category"],
            difficulty=row["difficulty"],
            source_key=row["source_key"],
            extra=value(row["extra"]) or {},
            created_at=row["created_at"],
        )
        task.__dict__.update({name: row[name] for name in ("task_id", "prompt_id", "state_hash")}, prompt=prompt)
        return task


def _state_hash(task: Task) -> str | None:
    return None if task.state is None else hash_id(task.state)


def _task_id(task: Task) -> str:
    return task_id(task.environment, task.prompt_id, task.ground_truth, task.state_hash)


class Component(NamedTuple):
    """A named part of a verdict. `weight` is its factor in the reward; None when the source has none."""

    name: str
    value: Annotated[float | None, Stored(type=_DOUBLE)]
    weight: Annotated[float | None, Stored(type=_DOUBLE)] = None


def _score_id(score: "Score") -> str:
    return hash_id(score.rollout_id, score.scorer, score.scorer_version, score.config_hash)


NO_SETTINGS = hash_id({})
"""The config_hash of a scorer without settings."""


@dataclass(frozen=True)
class Score:
    """A verdict. An environment returns one without the keyword-only fields; they say what it is about once it is stored.

    Attributes:
        components: (name, value, weight) of its parts.
        rationale: Why, in a judge's words; None without any.
        turn_rewards: The reward of each turn (model call), in order; None when turns are not judged apart. Stored with the rollout, not with the verdict.
        rollout_id: The rollout that was scored.
        config_hash: Hash of the scorer's settings.
        error_type: Why there is no verdict; None when there is one.
        created_at: When it was given; None is now.
    """

    reward: Annotated[float, Stored("null if scoring failed")]
    passed: Annotated[bool, Stored("whether the task is solved")]
    scorer: Annotated[str, Stored("its name")]
    scorer_version: Annotated[str, Stored("its version")]
    components: Annotated[
        tuple[tuple[str, float, float], ...], Stored("parts of the reward", like=list[Component])
    ] = ()
    rationale: Annotated[str | None, Stored("why, in a judge's words; null without any")] = field(
        default=None, kw_only=True
    )
    turn_rewards: tuple[float, ...] | None = field(default=None, kw_only=True)
    rollout_id: Annotated[str | None, Stored("row of `rollouts`")] = field(default=None, kw_only=True)
    config_hash: Annotated[str, Stored("hash of its settings")] = field(default=NO_SETTINGS, kw_only=True)
    error_type: Annotated[str | None, Stored("why scoring failed")] = field(default=None, kw_only=True)
    run_id: Annotated[str | None, Stored("the run that wrote it")] = field(default=None, kw_only=True)
    created_at: Annotated[datetime | None, Stored("time of writing")] = field(default=None, kw_only=True, compare=False)
    row_id: Annotated[str, Stored("H(rollout_id, scorer, scorer_version, config_hash)")] = field(
        init=False, compare=False, repr=False, default=cached_property(_score_id)  # type: ignore[assignment]
    )  # fmt: skip

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> "Score":
        """A row of `scores`. Reward and passed are None where the rollout could not be scored."""
        components = tuple((part["name"], part["value"], part["weight"]) for part in row["components"] or ())
        names = ("rationale", "rollout_id", "config_hash", "error_type", "run_id", "created_at")
        return cls(
            row["reward"],
            row["passed"],
            row["scorer"],
            row["scorer_version"],
            components,
            **{name: row[name] for name in names},
        )

    def about(self, rollout_id: str, run_id: str, config_hash: str = NO_SETTINGS) -> "Score":
        """The verdict as one on a rollout, given now by a run."""
        return Score(
            self.reward, self.passed, self.scorer, self.scorer_version, self.components,
            rationale=self.rationale, rollout_id=rollout_id, config_hash=config_hash, run_id=run_id, created_at=datetime.now(UTC),
        )  # fmt: skip


PROMPTS = Table.of_class("prompts", "One distinct prompt.", "prompt_id", Prompt)
PROMPT_TOKENS = Table.of_class(
    "prompt_tokens", "Token ids of a prompt under one tokenizer and template.", "row_id", PromptTokens
)
TASKS = Table.of_class("tasks", "One task of an environment.", "task_id", Task)
SCORES = Table.of_class(
    "scores",
    "One verdict of one scorer version under one configuration on one rollout.",
    "row_id",
    Score,
    order=("row_id", "rollout_id", "scorer", "scorer_version", "config_hash", "reward", "passed", "components"),
)
