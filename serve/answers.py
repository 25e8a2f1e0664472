"""A model's answer to one request, what of it was sampled so far, and the conversation that it answers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..policies.engines.base import SampledTokens, version_spans
from ..policies.turn_stream import Piece
from ..store.messages import Message, VersionSpan


@dataclass(frozen=True)
class ModelAnswer:
    """The input and output of one model call.

    Attributes:
        message: The sampled message; for a completion only its `text` is used.
        prompt_ids: Tokens of the prompt; None when the endpoint does not return them.
        token_ids: The sampled tokens; None when the endpoint does not return them.
        logprobs: Parallel to token_ids.
        top: Parallel to token_ids: the likeliest tokens with their logprobs; None when they are not wanted.
        usage: Token counts that an endpoint reports, in OpenAI's form; None where the tokens themselves are known.
        shown_logprobs: An endpoint's own list of logprobs.
        stop_text: The client's stop text that ended the answer.
        stream_differs: Whether what was sent in pieces is not the beginning of the answer.
    """

    message: Message
    prompt_ids: list[int] | None
    token_ids: list[int] | None
    logprobs: list[float] | None
    version_spans: tuple[VersionSpan, ...]
    stop_reason: str
    parse_failures: int = 0
    retries: int = 0
    token_identity: tuple[str | None, str | None] | None = None
    logprobs_mode: str | None = "processed"
    top: list[list[tuple[int, float]]] | None = None
    usage: Mapping[str, Any] | None = None
    shown_logprobs: list[dict[str, Any]] | None = None
    stop_text: str | None = None
    stream_differs: bool = False


@dataclass
class SampledSoFar:
    """What of one answer was sampled, for a request that may be cancelled.

    Attributes:
        logprobs: Parallel to token_ids.
        marks: (position in token_ids, version of the weights from there on).
    """

    prompt_ids: list[int] | None = None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    marks: list[tuple[int, int]] = field(default_factory=list)

    def add(self, token_ids: list[int], logprobs: list[float], version: int) -> None:
        """As engines report tokens."""
        if not self.marks or self.marks[-1][1] != version:
            self.marks.append((len(self.token_ids), version))
        self.token_ids += token_ids
        self.logprobs += logprobs

    def as_sampled(self, stop_reason: str) -> SampledTokens:
        """As the engine's result."""
        return SampledTokens(self.token_ids, self.logprobs, version_spans(self.marks or [(0, 0)]), stop_reason)


Give = Callable[[Sequence[Piece]], None]
"""Takes pieces of an answer while it is sampled."""
Begin = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class KnownHistory:
    """The conversation of a request, and the tokens that stand for its beginning.

    Attributes:
        messages: All of them, the recorded ones as they were recorded.
        length: Number of messages that `token_ids` stand for.
        token_ids: Prompt and sampled tokens of these messages; empty when they are not known.
        trusted: Whether the tokens were recorded here, not sent by the client.
    """

    messages: Sequence[Message]
    length: int = 0
    token_ids: Sequence[int] = ()
    trusted: bool = True
