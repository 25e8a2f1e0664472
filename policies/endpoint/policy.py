"""The policy behind one or several OpenAI-compatible endpoints."""

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

from ...base.errors import EngineError
from ...base.http import error_text
from ...base.remembered import remembered
from ...store.ids import hash_id
from ...store.pairing import unique_ids
from ...store.task import Task
from ..config import EndpointSettings
from ..engines.base import EngineRefused
from ..types import Conversation, Sampling, Turn
from .pool import Endpoint, EndpointPool
from .reply import CallTokens, Reply, read_reply
from .tokens import add_call

_SHOW_TOKENS = ("vllm", "rollhouse")  # `owned_by` of servers that return tokens on request
_ASK_FOR_TOKENS = {"logprobs": True, "return_token_ids": True}
_LIST_LIMIT_S = 10.0
_KEPT_PROMPTS = 512
_KEPT_TOOLS = 32


class OpenAIPolicy:
    """A model behind one or several OpenAI-compatible chat endpoints.

    The conversation gets tokens from endpoints that return token ids and logprobs, see `tokens`; from others, messages only.

    Attributes:
        policy_id: The name of the model.
        urls: URLs of the endpoints.
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
        """Requests each endpoint's list of models, so that a wrong URL fails at once.

        Args:
            url: One URL, or several with commas between them.
            model: The name it is served under; None is the first model of the first endpoint.
            api_key: None is $OPENAI_API_KEY; sent with every request and stored nowhere.

        Raises MissingExtra, ConfigError for an invalid URL, and EngineError for an endpoint that does not answer or does not serve the model.
        """
        self._settings = settings or EndpointSettings()
        key = (api_key or os.environ.get("OPENAI_API_KEY") or "").strip()
        self._pool = EndpointPool([one.strip() for one in url.split(",")], key or None, self._settings)
        self.urls = [endpoint.url for endpoint in self._pool.endpoints]
        cards = _run_apart(self._cards())
        self.policy_id = model or _first_model(cards, self.urls)
        served = [next((card for card in of if card.get("id") == self.policy_id), {}) for of in cards]
        if model is None and not all(served):
            raise EngineError(f"The endpoint {self.urls[served.index({})]} does not serve {self.policy_id!r}, as {self.urls[0]} does.", "Name a model with --model that all of them serve.")  # fmt: skip
        mode = self._settings.tokens
        asks = mode == "require" or (mode == "auto" and all(card.get("owned_by") in _SHOW_TOKENS for card in served))
        self._encoder = RequestEncoder(self.policy_id, {**(_ASK_FOR_TOKENS if asks else {}), **self._settings.extra_body})  # fmt: skip
        # rollhouse returns the probabilities sampled from; others may return those before temperature and filters.
        self._is_ours = all(card.get("owned_by") == "rollhouse" for card in served)
        self.token_identity = _identity(served) if mode != "off" else None

    async def respond(self, conversation: Conversation, sampling: Sampling) -> Turn:
        """One chat completion. Raises EngineRefused (PromptTooLong), EngineGone and EngineError as `EndpointPool.post` does."""
        return (await self.answer(conversation, sampling, {}))[0]

    async def answer(
        self, conversation: Conversation, sampling: Sampling, fields: Mapping[str, Any]
    ) -> tuple[Turn, Reply]:
        """As `respond`, with the whole reply. `fields` replace those of the request; one that is None is left out."""
        body = self._encoder.body(conversation, sampling, self._tokens_so_far(conversation), fields)
        reply, retries = await self._pool.post("/chat/completions", body, read_reply)
        message = unique_ids(reply.message, [*conversation.task.messages, *conversation.messages])
        tokens = self._tokens(conversation, reply, sampling)
        if tokens is None:
            return Turn(message, stop_reason=reply.stop_reason, retries=retries), reply
        turn = Turn(message, tokens.token_ids, tokens.logprobs, stop_reason=reply.stop_reason, retries=retries)
        return turn, reply

    def _tokens_so_far(self, conversation: Conversation) -> list[int]:
        """Tokens that a rollhouse server uses in place of rendering the history again; empty for other servers, and before the first turn."""
        if not self._is_ours or conversation.prompt_ids is None:
            return []
        return conversation.prompt_ids + conversation.token_ids

    def _tokens(self, conversation: Conversation, reply: Reply, sampling: Sampling) -> CallTokens | None:
        if self._settings.tokens == "off":
            return None
        if reply.tokens is None and self._settings.tokens == "require":
            raise EngineRefused(
                "The endpoint returns no token ids with logprobs.",
                "Serve the model with `rollhouse serve` or vLLM, or set endpoint.tokens=auto.",
            )
        first = conversation.prompt_ids is None
        add_call(conversation, reply.tokens, 1 + sum(message.role == "assistant" for message in conversation.messages))
        if first and conversation.prompt_ids is not None:
            conversation.token_identity = self.token_identity or (
                # Tokenizer and template are not known: named after the model, and after the tokens of the prompt.
                f"openai:{self.policy_id}",
                hash_id("prompt tokens", conversation.prompt_ids),
            )
            plain = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (1.0, 1.0, -1, 0.0)
            conversation.logprobs_mode = "processed" if plain or self._is_ours else None
        return reply.tokens

    async def _cards(self) -> list[list[dict[str, Any]]]:
        """Each endpoint's list of models; empty where it has none."""
        return await asyncio.gather(*map(self._models, self._pool.endpoints))

    async def _models(self, endpoint: Endpoint) -> list[dict[str, Any]]:
        status, body = await self._pool.get(endpoint, "/models", _LIST_LIMIT_S)
        if status in (401, 403):
            raise EngineError(f"Authentication failed at {endpoint.url}: {error_text(status, b'')}.", "Set OPENAI_API_KEY to its key.")  # fmt: skip
        try:
            cards = json.loads(body)["data"] if status == 200 else []
            return [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]
        except (ValueError, KeyError, TypeError):
            return []


def _first_model(cards: list[list[dict[str, Any]]], urls: list[str]) -> str:
    if not cards[0]:
        raise EngineError(f"The endpoint {urls[0]} serves no model.", "Check the URL (it usually ends in /v1), or name the model with --model.")  # fmt: skip
    return cards[0][0]["id"]


def _identity(cards: list[dict[str, Any]]) -> tuple[str, str] | None:
    """Hashes of tokenizer and template, if all endpoints report the same ones."""
    found = {(card.get("tokenizer_hash"), card.get("template_hash")) for card in cards}
    tokenizer, template = found.pop()
    return (tokenizer, template) if not found and isinstance(tokenizer, str) and isinstance(template, str) else None


def _run_apart(work: Any) -> Any:
    """The result of a coroutine, also where an event loop is running."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


class RequestEncoder:
    """Encodes conversations as bodies of chat requests for one model. Repeated parts are encoded once: the tools of a task are tens of kilobytes.

    JSON escapes whatever is not ASCII, so that any text a model wrote can be sent back. `fields` go into every request.
    """

    def __init__(self, model: str, fields: Mapping[str, Any]) -> None:
        self._start = _json({"model": model, **fields})[:-1]
        self._tools = remembered(_encoded_tools, _KEPT_TOOLS)
        self._prompt = remembered(self._encoded_prompt, _KEPT_PROMPTS)

    def body(
        self,
        conversation: Conversation,
        sampling: Sampling,
        tokens_so_far: Sequence[int] = (),
        fields: Mapping[str, Any] = MappingProxyType({}),
    ) -> bytes:
        """The request for the next turn. `tokens_so_far` are requested as the beginning of its prompt; `fields` as in `OpenAIPolicy.answer`."""
        task = conversation.task
        messages = b"".join(b"," + _json(message.to_openai()) for message in conversation.messages)
        if not task.messages:
            messages = messages[1:]
        settings: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_tokens": sampling.max_tokens,
        }
        # Not in OpenAI's own API: sent only when they are on, and an endpoint that does not know them may refuse.
        if sampling.top_k != -1:
            settings["top_k"] = sampling.top_k
        if sampling.min_p:
            settings["min_p"] = sampling.min_p
        if sampling.seed is not None:
            settings["seed"] = sampling.seed
        if tokens_so_far:
            settings["required_prefix_token_ids"] = list(tokens_so_far)
        settings = {name: value for name, value in {**settings, **fields}.items() if value is not None}
        return b"".join((self._start, self._prompt(task), messages, b"]", _following(settings)))

    def _encoded_prompt(self, task: Task) -> bytes:
        tools = self._tools(task.tools) if task.tools else b""
        messages = b",".join(_json(message.to_openai()) for message in task.messages)
        return tools + b',"messages":[' + messages


def _encoded_tools(tools: tuple[Mapping[str, Any], ...]) -> bytes:
    return b',"tools":' + _json([dict(tool) for tool in tools])


def _following(fields: Mapping[str, Any]) -> bytes:
    """The rest of an object behind other fields."""
    return b"," + _json(fields)[1:] if fields else b"}"


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
