"""The nouns of collection: tasks, turns, verdicts, and the three things that meet in an episode."""

from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

from ..store.ids import canonical_json, hash_id, hash_text, task_id
from ..store.messages import Message
from .remembered import remembered


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
class Sampling:
    """How a policy samples. `seed` None lets the engine choose; `top_k` -1 and `min_p` 0 are off."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    max_tokens: int = 256
    seed: int | None = None


@dataclass(frozen=True)
class VersionSpan:
    """From token position `start` on (until the next span), tokens came from policy version `version`."""

    start: int
    version: int


@dataclass(frozen=True)
class Turn:
    """What a policy answered in one model call.

    Attributes:
        token_ids: The sampled tokens, end-of-turn token included; None when the policy shows none.
        logprobs: Parallel to token_ids, probabilities sampled from; None when the policy shows none.
        version_spans: Starts are relative to this turn's token_ids; at least one span.
        stop_reason: `stop`, or `length` when the token limit cut it.
        parse_failures: Tool calls in the text that could not be read as one.
        retries: Requests sent again before this answer came.
    """

    message: Message
    token_ids: list[int] | None = None
    logprobs: list[float] | None = None
    version_spans: tuple[VersionSpan, ...] = (VersionSpan(0, 0),)
    stop_reason: str = "stop"
    parse_failures: int = 0
    retries: int = 0


@dataclass(frozen=True)
class Done:
    """What `Session.step` returns when the episode is over.

    Attributes:
        reason: `stop`, or `length` (the token limit cut the turn). The limit on turns is the agent loop's.
        messages: Tool results of the last turn, where its calls were still executed; they belong to the conversation.
    """

    reason: str = "stop"
    messages: tuple[Message, ...] = ()


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


@dataclass
class Conversation:
    """One episode as it grows: the prompt's messages, what followed, and, for token engines, the tokens of both.

    Attributes:
        task: What is being solved.
        messages: Everything after the prompt, in order.
        prompt_ids: The rendered prompt; None until tokens were observed, and always for a policy that shows none.
        token_ids: Everything after the prompt, tool results included; only ever appended to.
        loss_mask: Parallel to token_ids.
        logprobs: One per sampled token.
        version_spans: Starts are positions in token_ids, oldest first.
        prefix_ok: Whether every prompt so far began with all tokens before it. A policy that builds prompts from tokens leaves it.
        gaps: What the policy did not tell (`no_logprobs`, …); stored with the rollout.
        token_identity: Tokenizer and template of these tokens, where a policy knows them only from what it saw; None is the policy's own.
        logprobs_mode: `processed`, the probabilities sampled from; None where that is not known.
        sample_index: Which repeat of the task this is (a scripted policy may vary with it).
    """

    task: Task
    messages: list[Message] = field(default_factory=list)
    prompt_ids: list[int] | None = None
    token_ids: list[int] = field(default_factory=list)
    loss_mask: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    version_spans: list[VersionSpan] = field(default_factory=list)
    prefix_ok: bool = True
    gaps: list[str] = field(default_factory=list)
    token_identity: tuple[str | None, str | None] | None = None
    logprobs_mode: str | None = "processed"
    sample_index: int = 0


class Policy(Protocol):
    """Answers a conversation."""

    engine: str
    """vllm, torch, openai or scripted; stored with each rollout."""

    @property
    def policy_id(self) -> str:
        """Weights hash of a loaded model, run_id of an online run, or an endpoint's model name."""
        ...

    @property
    def token_identity(self) -> tuple[str | None, str | None] | None:
        """Hashes of the tokenizer and of the chat template its tokens come from; None when it shows no tokens."""
        ...

    @property
    def version(self) -> int:
        """Optimizer steps behind its weights now; 0 for a policy without weights of its own."""
        ...

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """The next assistant message. A policy that shows tokens also extends the conversation's by what it rendered and sampled."""
        ...


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
