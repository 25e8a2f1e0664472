"""The interface of token engines: token ids in, sampled token ids with their logprobs out, weights changed while it runs."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from ...base.errors import EngineError
from ...store.messages import VersionSpan
from ..types import Sampling


class EngineGone(EngineError):
    """The engine's process or its stepping thread has ended: no later request can succeed."""


class EngineRefused(EngineError):
    """The engine refuses this request for good; other requests may succeed.

    `error_type` is stored with the rollout or case that it ends.
    """

    error_type = "engine_refused"


class PromptTooLong(EngineRefused):
    """The conversation does not fit into the engine's context."""

    error_type = "prompt_too_long"


@dataclass(frozen=True)
class SampledTokens:
    """The result of one request.

    Attributes:
        token_ids: The sampled tokens, the stop token included.
        logprobs: Parallel to token_ids: log-probability under the distribution sampled from (after temperature and filters).
        version_spans: Weights version from position `start` of token_ids on, oldest first; at least one.
        stop_reason: `stop` at a stop token, `length` at the token limit.
        top: Parallel to token_ids: at each position the `sampling.top_logprobs` likeliest tokens with their logprobs, likeliest first; None when
            none were requested.
        routes: Experts that the engine chose for every position but the last, prompt included: an array [positions, layers, chosen]; None where it does not
            return them.
    """

    token_ids: list[int]
    logprobs: list[float]
    version_spans: tuple[VersionSpan, ...]
    stop_reason: str
    top: list[list[tuple[int, float]]] | None = None
    routes: Any = None


OnTokens = Callable[[list[int], list[float], int], None]
"""Takes tokens as they are sampled, their logprobs, and the version of the weights; called in the event loop of the request."""


class TokenEngine(Protocol):
    """Token ids in, token ids out. All requests may be in flight at once; each raises EngineError, or EngineGone for good. A request that is cancelled ends.

    Two attributes are optional: `streams` (False): whether `generate` has the argument `on_tokens`, and `shapes` (none): the names of the settings of
    Shaping, and `top_logprobs`, that the engine has.
    """

    kind: str
    """`vllm` or `torch`; stored with each rollout."""
    version: int
    """Version of the weights loaded last: optimizer steps since the run's start, 0 for the model it was opened with."""
    max_model_len: int
    """Most prompt and sampled tokens together."""

    async def generate(self, prompt_ids: list[int], sampling: Sampling) -> SampledTokens:
        """Samples until a stop token or `sampling.max_tokens`."""
        ...

    async def score(self, token_ids: list[int]) -> list[float]:
        """Parallel to token_ids: natural log-probability of each token given those before it, at temperature 1; the first is 0.0."""
        ...

    async def load_weights(self, path: str, version: int) -> None:
        """Loads a safetensors file or a model folder. Requests in flight go on: their later tokens come from the new weights alone."""
        ...

    def close(self) -> None:
        """Ends the engine's threads or processes."""
        ...


def version_spans(starts: list[tuple[int, int]]) -> tuple[VersionSpan, ...]:
    """Spans from (start, version) marks in order; of marks at one position the last holds."""
    kept: dict[int, int] = {}
    for start, version in starts:
        kept[start] = version
    return tuple(VersionSpan(start, version) for start, version in kept.items())
