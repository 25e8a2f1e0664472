"""How endpoints are asked."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ...base.errors import ConfigError


@dataclass(frozen=True)
class EndpointSettings:
    """How endpoints are asked. Times are seconds.

    Attributes:
        concurrency: Requests in flight at one endpoint; others wait their turn.
        timeout_s: Of one request, from its sending to the last byte of the answer.
        max_retries: How often a request is sent again after 429, 5xx, a timeout, a broken connection or an answer that is none.
        backoff_s, backoff_max_s: The n-th retry waits backoff_s * 2^(n-1), at most backoff_max_s, of which a random part up to half is
            left out. What an endpoint asks for with Retry-After holds back every request to it for so long.
        breaker_failures: After so many failures in a row an endpoint is left alone.
        breaker_pause_s: For so long; then one request tries whether it is back.
        gone_after_s: When every endpoint has been left alone for so long, the run ends.
        tokens: `auto` asks for token ids and logprobs where the endpoint says it is vLLM or rollhouse, and takes those shown unasked;
            `require` asks and refuses an answer without them; `off` does neither.
        extra_body: Further fields of every request, for example `{"chat_template_kwargs": {"enable_thinking": false}}`.
    """

    concurrency: int = 1024
    timeout_s: float = 300.0
    max_retries: int = 5
    backoff_s: float = 0.5
    backoff_max_s: float = 30.0
    breaker_failures: int = 10
    breaker_pause_s: float = 5.0
    gone_after_s: float = 300.0
    tokens: Literal["auto", "off", "require"] = "auto"
    extra_body: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError for a value out of range."""
        if self.tokens not in ("auto", "off", "require"):
            raise ConfigError(f"endpoint.tokens is {self.tokens!r}.", "It is auto, off or require.")
        for name, least in (("concurrency", 1), ("max_retries", 0), ("breaker_failures", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"endpoint.{name} is {getattr(self, name)}.", f"It is at least {least}.")
        for name in ("timeout_s", "backoff_s", "backoff_max_s", "breaker_pause_s", "gone_after_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"endpoint.{name} is {getattr(self, name)}.", "It is a number of seconds above 0.")

    def backoff(self, retry: int) -> float:
        """The longest pause before the retry of that number, counted from 1."""
        return min(self.backoff_max_s, self.backoff_s * 2.0 ** min(retry - 1, 60))
