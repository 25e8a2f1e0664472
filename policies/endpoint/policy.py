"""The policy behind one or several OpenAI-compatible endpoints."""

import asyncio
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ...base.errors import EngineError
from ...store.ids import hash_id
from ..config import EndpointSettings
from ..engines.base import EngineRefused
from ..types import Conversation, Sampling, Turn
from .http import what_it_said
from .pool import Endpoint, EndpointPool
from .reply import CallTokens, Reply, read_reply
from .request import RequestEncoder
from .tokens import add_call

_SHOW_TOKENS = ("vllm", "rollhouse")  # `owned_by` of servers that show tokens when they are asked to
_ASK_FOR_TOKENS = {"logprobs": True, "return_token_ids": True}
_LIST_LIMIT_S = 10.0


class OpenAIPolicy:
    """Answers from OpenAI-compatible chat endpoints that serve one model.

    Of an endpoint that shows token ids and logprobs the conversation gets its tokens, see `tokens`; of others it has messages only.

    Attributes:
        policy_id: The name of the model.
        urls: Addresses of the endpoints, least busy first asked.
    """

    engine = "openai"
    version = 0

    def __init__(
        self,
        url: str,
        model: str | None = None,
        settings: EndpointSettings | None = None,
        api_key: str | None = None,
    ) -> None:
        """Asks each endpoint for its models, so that a wrong address is known at once.

        Args:
            url: One address, or several with commas between them.
            model: The name it is served under; None is the first model of the first endpoint.
            api_key: None is OPENAI_API_KEY of the environment; sent with every request and kept nowhere else.

        Raises MissingExtra, ConfigError for an address that is none, and EngineError for one that does not answer or does not serve the model.
        """
        self._settings = settings or EndpointSettings()
        key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        self._pool = EndpointPool([one.strip() for one in url.split(",")], key or None, self._settings)
        self.urls = [endpoint.url for endpoint in self._pool.endpoints]
        cards = _in_a_loop_of_its_own(self._cards())
        self.policy_id = model or _first_model(cards, self.urls)
        served = [next((card for card in of if card.get("id") == self.policy_id), {}) for of in cards]
        if model is None and not all(served):
            raise EngineError(f"The endpoint {self.urls[served.index({})]} does not serve {self.policy_id!r}, as {self.urls[0]} does.", "Name a model that all of them serve with --model.")  # fmt: skip
        mode = self._settings.tokens
        asks = mode == "require" or (mode == "auto" and all(card.get("owned_by") in _SHOW_TOKENS for card in served))
        self._encoder = RequestEncoder(self.policy_id, {**(_ASK_FOR_TOKENS if asks else {}), **self._settings.extra_body})  # fmt: skip
        # rollhouse gives the probabilities sampled from; others may give those before temperature and filters.
        self._is_ours = all(card.get("owned_by") == "rollhouse" for card in served)
        self.token_identity = _identity(served) if mode != "off" else None

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """One chat completion. Raises EngineRefused (PromptTooLong), EngineGone and EngineError as `EndpointPool.post` does."""
        body = self._encoder.body(conversation, sampling, self._tokens_so_far(conversation))
        reply, retries = await self._pool.post("/chat/completions", body, read_reply)
        tokens = self._tokens(conversation, reply, sampling)
        if tokens is None:
            return Turn(reply.message, stop_reason=reply.stop_reason, retries=retries)
        return Turn(reply.message, tokens.token_ids, tokens.logprobs, stop_reason=reply.stop_reason, retries=retries)

    def _tokens_so_far(self, conversation: Conversation) -> list[int]:
        """What a server of ours is to use in place of the history it would render anew; empty for others, and before the first turn."""
        if not self._is_ours or conversation.prompt_ids is None:
            return []
        return conversation.prompt_ids + conversation.token_ids

    def _tokens(self, conversation: Conversation, reply: Reply, sampling: Sampling) -> CallTokens | None:
        if self._settings.tokens == "off":
            return None
        if reply.tokens is None and self._settings.tokens == "require":
            raise EngineRefused(
                "The endpoint shows no token ids with their logprobs.",
                "Serve the model with `rollhouse serve` or vLLM, or ask without them: endpoint.tokens=auto.",
            )
        first = conversation.prompt_ids is None
        add_call(conversation, reply.tokens, 1 + sum(message.role == "assistant" for message in conversation.messages))
        if first and conversation.prompt_ids is not None:
            conversation.token_identity = self.token_identity or (
                # Nobody says which tokenizer and template these are: named after the model, and after the tokens the prompt became.
                f"openai:{self.policy_id}",
                hash_id("prompt tokens", conversation.prompt_ids),
            )
            plain = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, -1, 0.0)
            conversation.logprobs_mode = "processed" if plain or self._is_ours else None
        return reply.tokens

    async def _cards(self) -> list[list[dict[str, Any]]]:
        """What each endpoint lists as its models; nothing where it has no such list."""
        return await asyncio.gather(*map(self._models, self._pool.endpoints))

    async def _models(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        status, body = await self._pool.get(endpoint, "/models", _LIST_LIMIT_S)
        if status in (401, 403):
            raise EngineError(f"The endpoint {endpoint.url} lets nobody in: {what_it_said(status, b'')}.", "Set OPENAI_API_KEY to its key.")  # fmt: skip
        try:
            cards = json.loads(body)["data"] if status == 200 else []
            return [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]
        except (ValueError, KeyError, TypeError):
            return []


def _first_model(cards: list[list[dict[str, Any]]], urls: list[str]) -> str:
    if not cards[0]:
        raise EngineError(f"The endpoint {urls[0]} serves no model.", "Check the address (it usually ends in /v1), or name the model with --model.")  # fmt: skip
    return cards[0][0]["id"]


def _identity(cards: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Hashes of tokenizer and template, where all endpoints tell them and tell the same."""
    told = {(card.get("tokenizer_hash"), card.get("template_hash")) for card in cards}
    tokenizer, template = told.pop()
    return (tokenizer, template) if not told and isinstance(tokenizer, str) and isinstance(template, str) else None


def _in_a_loop_of_its_own(work: Any) -> Any:
    """The result of a coroutine, also where a loop is running already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()
