"""Policies: sampling settings, turns, and the conversation that a turn continues."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ..store.messages import Message, VersionSpan

if TYPE_CHECKING:
    from ..store.task import Task


@dataclass(frozen=True)
class Shaping:
    """Settings that change the distribution in a way that a learner does not compute: what is sampled under them is not trained on.

    Attributes:
        logit_bias: (token id, value added to its logit).
        min_tokens: No stop token before so many tokens.
        constraint: (kind, value): the answer has this form. Kinds and values are those of vLLM's structured outputs: `json` (a JSON schema as text),
            `json_object` (empty), `regex`, `choice` (a JSON list as text), `grammar`, `structural_tag` (JSON text).
    """

    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    constraint: tuple[str, str] | None = None

    def names(self) -> list[str]:
        """The settings that are on."""
        return [name for name, default in vars(PLAIN).items() if getattr(self, name) != default]


PLAIN = Shaping()


@dataclass(frozen=True)
class Sampling:
    """How a policy samples. `seed` None lets the engine choose; `top_k` -1 and `min_p` 0 are off.

    Attributes:
        shaping: Engines take the settings that their attribute `shapes` names.
        top_logprobs: Number of the likeliest tokens to return at each position, beside the sampled one.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = -1
    min_p: float = 0.0
    max_tokens: int = 256
    seed: int | None = None
    shaping: Shaping = PLAIN
    top_logprobs: int = 0


@dataclass(frozen=True)
class Turn:
    """One model call's answer.

    Attributes:
        token_ids: The sampled tokens, end-of-turn token included; None when the policy returns none.
        logprobs: Parallel to token_ids, probabilities sampled from; None when the policy returns none.
        version_spans: Starts are relative to this turn's token_ids; at least one span.
        stop_reason: `stop`, or `length` when the token limit cut it.
        parse_failures: Number of tool calls in the text that could not be parsed.
        retries: Number of times the request was sent again.
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
        task: The task.
        messages: Everything after the prompt, in order.
        prompt_ids: The rendered prompt; None until tokens were observed, and always for a policy without tokens.
        token_ids: Everything after the prompt, tool results included; only ever appended to.
        loss_mask: Parallel to token_ids.
        logprobs: One per sampled token.
        version_spans: Starts are positions in token_ids, oldest first.
        prefix_ok: Whether every prompt so far began with all tokens before it. Always true for a policy that builds prompts from tokens.
        gaps: Names of values that the policy did not return (`no_logprobs`, …); stored with the rollout.
        token_identity: Tokenizer and template of these tokens, where they are known only from responses; None is the policy's own.
        logprobs_mode: `processed`: probabilities of the distribution sampled from; None when that is not known.
        sample_index: The repeat of the task (the scripted policy varies with it).
        routes: SampledTokens.routes of the last turn, from the first token of the prompt on; None when the engine returned none.
    """

    task: "Task"
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
    routes: Any = None


class Policy(Protocol):
    """Returns the next turn of a conversation."""

    engine: str
    """vllm, torch, openai or scripted; stored with each rollout."""

    @property
    def policy_id(self) -> str:
        """Weights hash of a loaded model, run_id of an online run, or an endpoint's model name."""
        ...

    @property
    def token_identity(self) -> tuple[str | None, str | None] | None:
        """Hashes of the tokenizer and of the chat template its tokens come from; None when it returns no tokens."""
        ...

    @property
    def version(self) -> int:
        """Optimizer steps behind its weights now; 0 for a policy without weights of its own."""
        ...

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """The next assistant message. A policy with tokens also appends what it rendered and sampled to the conversation's tokens."""
        ...
