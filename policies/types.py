"""The nouns of a policy: how it samples, what it answers, and the conversation it answers to."""

from dataclasses import dataclass, field
from typing import Protocol

from ..store.messages import Message
from ..store.rollout import VersionSpan
from ..store.task import Task


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
