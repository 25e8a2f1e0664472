"""The server's routes. Every v1 route also exists below `/rollouts/{id}`, so that a base URL alone names the rollout."""

import hmac
import sys
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from aiohttp import web

from ..base.web import foreign
from ..policies.engines.base import EngineGone
from .answers import KnownHistory, ModelAnswer
from .backends import Backend, TokenBackend
from .bodies import Body, body_of
from .bounds import MAX_BODY, MAX_IDS, Bodies, beside, in_time, refuse_many
from .conversations import Conversations
from .errors import ApiError, as_api_error, refused
from .events import ChatEvents, CompletionEvents, EventWriter
from .kept import KeptResponses
from .messages import MessageEvents, error_body, message_head, message_reply, read_message_request
from .read_so_far import ReadSoFar, is_ids
from .replies import chat_reply, completion_reply
from .request import ModelRequest, read_chat, read_completion
from .response_events import ResponseEvents
from .responses import read_response, response_head, response_reply
from .rows import MAIN
from .service import Caller, Service
from .streaming import EventStream, Sink
from .verdicts import read_ending, read_score

_MAX_NAME = 200
_WITHOUT_KEY = ("/health",)
Answers = Coroutine[Any, Any, list[ModelAnswer]]
ROLLOUT = web.RequestKey("rollout", str)
"""The rollout that a request's key is for, where keys are of rollouts."""
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Api:
    """The handlers and what they need.

    Attributes:
        model: The name the model is served under.
        api_key: The key that clients must send; None needs no key.
        rollout_of_key: Gives the rollout that a key is for, in place of one key for all: a request is recorded under the rollout of its key, whatever
            other id it names. None is returned for an unknown key, "" for a key of all rollouts, whose requests name one.
        id_fields: Headers and fields of the body that name the rollout of calls without an id.
        conversations: Gives calls without an id the rollout whose conversation they continue, or a new one; None leaves them without.
        require_id: Refuse calls without a rollout id.
        on_engine_gone: Called when the engine has ended and no request can succeed.
        names: Names by which the server is reached, as in base.web.foreign; None takes any, for a server with a key.
    """

    service: Service
    model: str
    api_key: str | None
    require_id: bool
    on_engine_gone: Callable[[EngineGone], None]
    names: frozenset[str] | None = None
    rollout_of_key: Callable[[str], str | None] | None = None
    id_fields: Sequence[str] = ()
    conversations: Conversations | None = None
    bodies: Bodies = field(default_factory=Bodies)
    kept: KeptResponses = field(default_factory=KeptResponses)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """`/v1/chat/completions`."""
        body, size = await self._body(request)
        parsed = await beside(size, read_chat, body, self._read_before(request, body))
        caller = self._caller(request, body, parsed)
        parsed = _with_tokens(parsed, caller)
        if parsed.stream:
            events = ChatEvents(parsed, caller.model or self.model, self._text)
            return await self._stream(request, events, caller, lambda sink: self._answers(parsed, caller, sink))
        answers = await self._answers(parsed, caller)
        return web.json_response(
            chat_reply(parsed, answers, caller.model or self.model, self._text), headers=_id_header(caller)
        )

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """`/v1/completions`."""
        body, size = await self._body(request)
        parsed = await beside(size, read_completion, body)
        caller = self._caller(request, body)
        parsed = _with_tokens(parsed, caller)
        if parsed.stream:
            events = CompletionEvents(parsed, caller.model or self.model, self._text)
            return await self._stream(request, events, caller, lambda sink: self.service.completion(parsed, caller, sink))  # fmt: skip
        answers = await self.service.completion(parsed, caller)
        return web.json_response(
            completion_reply(parsed, answers, caller.model or self.model, self._text), headers=_id_header(caller)
        )

    async def responses(self, request: web.Request) -> web.StreamResponse:
        """`/v1/responses`."""
        body, size = await self._body(request)
        response = await beside(size, read_response, body, self.kept, self._read_before(request, body))
        caller = self._caller(request, body, response.parsed)
        parsed = _with_tokens(response.parsed, caller)
        begun = response_head(parsed, body, caller.model or self.model)

        def finished(answer: ModelAnswer) -> dict[str, Any]:
            reply = response_reply(parsed, begun, answer)
            if begun["store"]:
                self.kept.put(reply["id"], response.items, reply["output"], size)
            return reply

        if parsed.stream:
            events = ResponseEvents(parsed, begun, finished)
            return await self._stream(request, events, caller, lambda sink: self._answers(parsed, caller, sink))
        (answer,) = await self._answers(parsed, caller)
        return web.json_response(finished(answer), headers=_id_header(caller))

    async def messages(self, request: web.Request) -> web.StreamResponse:
        """`/v1/messages`."""
        body, size = await self._body(request)
        parsed = await beside(size, read_message_request, body, self._read_before(request, body))
        caller = self._caller(request, body, parsed)
        if parsed.stream:
            events = MessageEvents(parsed, caller.model or self.model)
            return await self._stream(request, events, caller, lambda sink: self._answers(parsed, caller, sink))
        (answer,) = await self._answers(parsed, caller)
        reply = message_reply(parsed, answer, message_head(caller.model or self.model))
        return web.json_response(reply, headers=_id_header(caller))

    async def count_tokens(self, request: web.Request) -> web.StreamResponse:
        """`/v1/messages/count_tokens`: the number of tokens of the next prompt."""
        body, size = await self._body(request)
        parsed = await beside(size, read_message_request, body)
        return web.json_response({"input_tokens": await beside(size, self.service.count, parsed)})

    async def _answers(self, parsed: ModelRequest, caller: Caller, sink: Sink | None = None) -> list[ModelAnswer]:
        answers = await self.service.chat(parsed, caller, sink)
        if self.conversations is not None and caller.rollout_id is not None:
            self.conversations.answered(caller.rollout_id)
        return answers

    async def _stream(
        self, request: web.Request, events: EventWriter, caller: Caller, answer: Callable[[Sink], Answers]
    ) -> web.StreamResponse:
        stream = EventStream(request, events, _id_header(caller))
        return await stream.run(answer(stream), self._note_failure)

    def _note_failure(self, error: Exception) -> None:
        if isinstance(error, EngineGone):
            self.on_engine_gone(error)

    async def models(self, request: web.Request) -> web.StreamResponse:
        """`/v1/models`: the model and the adapters beside it, with the hashes of tokenizer and template."""
        cards = [
            self._card(name, backend)
            for name, backend in {self.model: self.service.backend, **self.service.adapters}.items()
        ]
        return web.json_response({"object": "list", "data": cards})

    def _card(self, name: str, backend: Backend) -> dict[str, Any]:
        tokenizer_hash, template_hash = backend.policy.token_identity or (None, None)
        card = {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "rollhouse",
            "root": self.model,
            "max_model_len": backend.max_model_len,
            "policy_id": backend.policy.policy_id,
            "tokenizer_hash": tokenizer_hash,
            "template_hash": template_hash,
        }
        return card if name == self.model else card | {"parent": self.model}

    def _adapter(self, body: Body) -> str | None:
        """The adapter that a request names; None for the model itself. Where adapters are served, raises ApiError (404) for any other name."""
        name, adapters = body.get("model"), self.service.adapters
        if not adapters or name in (None, self.model):
            return None
        if not isinstance(name, str) or name not in adapters:
            raise ApiError(404, f"There is no model {name!r}. Models are {', '.join([self.model, *adapters])}.", "model_not_found")  # fmt: skip
        return name

    async def tokenize(self, request: web.Request) -> web.StreamResponse:
        """`/tokenize`: the tokens of a text (`prompt`), or of `messages` and `tools` as the next prompt."""
        body, size = await self._body(request)
        return web.json_response(await beside(size, self._tokenized, body))

    def _tokenized(self, body: Body) -> dict[str, Any]:
        backend = self.service.backend
        if "messages" in body:
            generation_prompt = body.get("add_generation_prompt") is not False
            parsed = read_chat(body)
            prefix = parsed.prefix
            known = (
                KnownHistory(parsed.messages)
                if prefix is None
                else KnownHistory(parsed.messages, prefix.length, prefix.token_ids, False)
            )
            chat = backend.chat_of(parsed) if isinstance(backend, TokenBackend) else None
            tokens = backend.prompt_ids(known, parsed.tools, generation_prompt, chat)
        elif isinstance(body.get("prompt"), str):
            tokens = backend.tokenize(body["prompt"], body.get("add_special_tokens") is not False)
        else:
            raise refused("`/tokenize` needs `messages`, or a `prompt` that is a string.")
        texts = [self._text([token]) for token in tokens] if body.get("return_token_strs") else None
        return {"count": len(tokens), "max_model_len": backend.max_model_len, "tokens": tokens, "token_strs": texts}

    async def detokenize(self, request: web.Request) -> web.StreamResponse:
        """`/detokenize`."""
        body, size = await self._body(request)
        return web.json_response({"prompt": await beside(size, self._detokenized, body)})

    def _detokenized(self, body: Body) -> str:
        refuse_many(body.get("tokens"), MAX_IDS, "tokens")
        if not is_ids(body.get("tokens")):
            raise refused("`tokens` must be a list of token ids.")
        return self._text(body["tokens"])

    async def health(self, request: web.Request) -> web.StreamResponse:
        """`/health`."""
        return web.json_response({"status": "ok"})

    async def finish(self, request: web.Request) -> web.StreamResponse:
        """`/rollouts/{id}/finish`."""
        body, size = await self._body(request)
        ending = await beside(size, read_ending, body)
        return web.json_response(await self.service.recorder.finish(_path_id(request), ending))

    async def score(self, request: web.Request) -> web.StreamResponse:
        """`/rollouts/{id}/score`."""
        body, size = await self._body(request)
        score = await beside(size, read_score, body)
        return web.json_response(await self.service.recorder.score(_path_id(request), score))

    async def rollout(self, request: web.Request) -> web.StreamResponse:
        """`/rollouts/{id}`."""
        return web.json_response(self.service.recorder.state(_path_id(request)))

    async def _body(self, request: web.Request) -> tuple[Body, int]:
        """The body and its size in bytes. An empty one is an empty object. Raises ApiError."""
        # A browser lets only pages of this origin send JSON without a preflight, so no other web page can use a server on this machine.
        if request.content_type != "application/json":
            raise ApiError(415, "The body must be JSON: send the header Content-Type: application/json.", "not_json")
        size = min(request.content_length if request.content_length is not None else MAX_BODY, MAX_BODY)
        async with self.bodies.room(size):
            raw = await in_time(request.read())
            return await beside(len(raw), body_of, raw), len(raw)

    def _caller(self, request: web.Request, body: Body, parsed: ModelRequest | None = None) -> Caller:
        """Who calls; a conversation that names no rollout may have one of its own."""
        name, agent = self._named(request, body)
        model = self._adapter(body)
        if name is None and self.conversations is not None and parsed is not None:
            name = self.conversations.rollout_of(parsed, agent, model)
        if name is None and self.require_id:
            raise refused("This server requires a rollout id with every call: send the header X-Rollout-Id, or use /rollouts/ID/v1 as base URL.", "rollout_id_required")  # fmt: skip
        return Caller(name, agent, model)

    def _named(self, request: web.Request, body: Body) -> tuple[str | None, str]:
        """The rollout, None for none, and the agent that a request names."""
        metadata = body.get("metadata")
        fields = metadata if isinstance(metadata, dict) else {}
        found = [request.get(ROLLOUT), request.match_info.get("rollout"), request.headers.get("X-Rollout-Id"), body.get("rollout_id"), fields.get("rollout_id")]  # fmt: skip
        found += [_named_in(request, body, one) for one in self.id_fields]
        name = next((_name(one) for one in found if one is not None), None)
        agents = [request.match_info.get("agent"), request.headers.get("X-Agent"), fields.get("agent")]
        return name, next((_name(one) for one in agents if one is not None), MAIN)

    def _read_before(self, request: web.Request, body: Body) -> ReadSoFar | None:
        """What was read of the last request of the same rollout and agent, for this request alone."""
        name, agent = self._named(request, body)
        rollout = None if name is None else self.service.recorder.opened(name)
        return None if rollout is None else rollout.read.pop(agent, None)

    def _text(self, token_ids: list[int]) -> str:
        backend = self.service.backend
        # An endpoint's vocabulary is not known: its tokens are shown as ids.
        return backend.detokenize(token_ids) if isinstance(backend, TokenBackend) else " ".join(map(str, token_ids))

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Checks the key, and turns every exception into an error that an OpenAI client understands."""
        try:
            stranger = foreign(request.headers, self.names)
            if stranger is not None:
                raise ApiError(403, f"{stranger} Use the address that `rollhouse serve` printed.", "forbidden")
            if request.path not in _WITHOUT_KEY:
                self._check_key(request)
            return await handler(request)
        except web.HTTPException as error:
            failure = ApiError(error.status, error.reason or "The request failed.", "http_error")
            if isinstance(error, web.HTTPRequestEntityTooLarge):
                failure = ApiError(413, f"The body is larger than {MAX_BODY >> 20} MB.", "too_large")
            elif error.status == 404:
                failure = ApiError(404, f"There is no route {request.path}.", "not_found")
        except Exception as error:
            self._note_failure(error)
            failure = as_api_error(error)
            if failure.status == 500:
                traceback.print_exception(error, file=sys.stderr)
        body = error_body(failure) if "/v1/messages" in request.path else failure.body()
        return web.json_response(body, status=failure.status)

    def _check_key(self, request: web.Request) -> None:
        if self.api_key is None and self.rollout_of_key is None:
            return
        kind, _, sent = request.headers.get("Authorization", "").partition(" ")
        sent = sent.strip() if kind.lower() == "bearer" else request.headers.get("X-Api-Key", "").strip()
        if self.rollout_of_key is not None:
            name = self.rollout_of_key(sent)
            right = name == "" or (name is not None and request.match_info.get("rollout", name) == name)
            if name:
                request[ROLLOUT] = name
        else:
            # Compared in constant time, so that response times do not reveal the key.
            right = hmac.compare_digest(sent.encode(errors="replace"), str(self.api_key).encode())
        if not right:
            raise ApiError(401, "The API key is missing or wrong: send it as `Authorization: Bearer KEY` or `X-Api-Key: KEY`.", "invalid_api_key")  # fmt: skip


def make_app(api: Api) -> web.Application:
    """The application with its routes."""
    app = web.Application(client_max_size=MAX_BODY, middlewares=[api.guard])
    v1 = {"chat/completions": api.chat, "completions": api.completions, "responses": api.responses, "messages": api.messages, "messages/count_tokens": api.count_tokens}  # fmt: skip
    plain = {"tokenize": api.tokenize, "detokenize": api.detokenize}
    for base in ("", "/rollouts/{rollout}", "/rollouts/{rollout}/agents/{agent}"):
        for name, handler in v1.items():
            app.router.add_post(f"{base}/v1/{name}", handler)
        app.router.add_get(f"{base}/v1/models", api.models)
        for name, handler in plain.items():
            app.router.add_post(f"{base}/{name}", handler)
            app.router.add_post(f"{base}/v1/{name}", handler)
    app.router.add_get("/health", api.health)
    app.router.add_get("/rollouts/{rollout}", api.rollout)
    app.router.add_post("/rollouts/{rollout}/finish", api.finish)
    app.router.add_post("/rollouts/{rollout}/score", api.score)
    return app


def _id_header(caller: Caller) -> dict[str, str]:
    """The rollout that a call was recorded under; an id outside Latin-1 cannot be a header."""
    name = caller.rollout_id
    return {"X-Rollout-Id": name} if name is not None and name.isascii() else {}


def _with_tokens(parsed: ModelRequest, caller: Caller) -> ModelRequest:
    """The request with `show_tokens` settled: outside a rollout a client needs them to continue its conversation, inside one the server has them."""
    return replace(parsed, show_tokens=caller.rollout_id is None) if parsed.show_tokens is None else parsed


def _named_in(request: web.Request, body: Body, field: str) -> str | None:
    """The value of a header, or of a field of the body, its parts with dots between them; None where it is absent or no text."""
    value: Any = request.headers.get(field)
    if value is None:
        value = body
        for part in field.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    return str(value) if isinstance(value, (str, int)) and value != "" else None


def _path_id(request: web.Request) -> str:
    return _name(request.match_info["rollout"])


def _name(given: Any) -> str:
    name = str(given)
    if not 0 < len(name) <= _MAX_NAME or not name.isprintable():
        raise refused(f"A rollout id or agent name must have 1 to {_MAX_NAME} printable characters.")
    return name
