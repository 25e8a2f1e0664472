"""Who answers: the script and its mistakes, an endpoint that fails and recovers, and a model whose context fills."""

import asyncio
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from rollhouse.collect.chat import ChatFormat
from rollhouse.collect.engines.base import EngineRefused, PromptTooLong
from rollhouse.collect.engines.torch_engine import TorchEngine
from rollhouse.collect.policies import DONE, OpenAIPolicy, ScriptedPolicy, TokenPolicy
from rollhouse.collect.types import Conversation, Sampling, Task
from rollhouse.store.errors import EngineError
from rollhouse.store.messages import Message, ToolCall

TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


def task(calls: int, name: str = "do it") -> Task:
    truth = [{"name": f"f{i}", "arguments": json.dumps({"i": i}) if i % 2 else {"i": i}} for i in range(calls)]
    return Task("test", (Message("user", name),), (TOOL,), ground_truth=truth)


def play(policy: ScriptedPolicy, what: Task, sample: int = 0) -> list[Message]:
    conversation = Conversation(what, sample_index=sample)
    while not conversation.messages or conversation.messages[-1].tool_calls:
        conversation.messages.append(asyncio.run(policy.respond(conversation, Sampling())).message)
    return conversation.messages


def called(messages: list[Message]) -> list[str]:
    return [call.name for message in messages for call in message.tool_calls]


def test_the_script_plays_one_call_a_turn_and_says_it_is_done() -> None:
    messages = play(ScriptedPolicy(), task(3))
    assert [len(message.tool_calls) for message in messages] == [1, 1, 1, 0]
    assert messages[1].tool_calls == (ToolCall("call_1", "f1", '{"i": 1}'),) and messages[-1].text == DONE


@pytest.mark.parametrize(("calls", "turns"), [(0, 6), (1, 6), (5, 6), (6, 6), (12, 6), (40, 6), (12, 20), (3, 1)])
def test_the_script_fits_any_truth_into_the_turns_allowed(calls: int, turns: int) -> None:
    messages = play(ScriptedPolicy(max_turns=turns), task(calls))
    assert called(messages) == [f"f{i}" for i in range(calls)] and len(messages) <= max(2, turns)


def test_mistakes_leave_out_the_last_call_at_their_rate_and_the_same_ones_each_time() -> None:
    tasks = [task(2, f"task {i}") for i in range(150)]

    def wrong(rate: float, seed: int) -> list[tuple[int, int]]:
        policy = ScriptedPolicy(rate, seed)
        played = {(i, sample): called(play(policy, one, sample)) for i, one in enumerate(tasks) for sample in (0, 1)}
        assert set(map(tuple, played.values())) <= {("f0",), ("f0", "f1")}
        return [slot for slot, names in played.items() if len(names) == 1]

    chosen = wrong(0.3, 0)
    assert 0.2 < len(chosen) / 300 < 0.4
    assert wrong(0.3, 0) == chosen != wrong(0.3, 1)
    assert {i for i, sample in chosen if sample == 0} != {i for i, sample in chosen if sample == 1}
    assert wrong(0.0, 0) == [] and len(wrong(1.0, 0)) == 300


def test_the_script_needs_a_list_of_calls() -> None:
    with pytest.raises(EngineError, match="no ground truth"):
        asyncio.run(ScriptedPolicy().respond(Conversation(Task("test", (), (), ground_truth="42")), Sampling()))


class Endpoint(BaseHTTPRequestHandler):
    """Answers what the test put into `replies`, oldest first; the last is repeated."""

    protocol_version = "HTTP/1.1"
    replies: list[tuple[int, dict[str, Any]]]
    asked: list[dict[str, Any]]

    def do_GET(self) -> None:
        self._send(
            200, {"object": "list", "data": [{"id": "served", "object": "model", "created": 0, "owned_by": "x"}]}
        )

    def do_POST(self) -> None:
        self.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self._send(*(self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]))

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[tuple[str, type[Endpoint]]]:
    handler = type("Handler", (Endpoint,), {"replies": [], "asked": []})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", handler
        server.shutdown()


def completion(message: dict[str, Any], reason: str = "stop") -> tuple[int, dict[str, Any]]:
    choice = {"index": 0, "message": {"role": "assistant", **message}, "finish_reason": reason}
    return 200, {"id": "1", "object": "chat.completion", "created": 0, "model": "served", "choices": [choice]}


def test_an_endpoint_is_asked_with_tools_and_survives_a_failure(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, handler = endpoint
    call = {"id": "c9", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
    handler.replies += [(503, {"error": "busy"}), completion({"content": None, "tool_calls": [call]}, "tool_calls"), completion({"content": "cut"}, "length")]  # fmt: skip
    policy = OpenAIPolicy(url)
    assert policy.policy_id == "served" and policy.url.endswith("/v1")
    conversation = Conversation(task(1))
    turn = asyncio.run(policy.respond(conversation, Sampling(0.5, max_tokens=7, seed=3)))
    assert turn.message == Message("assistant", None, (ToolCall("c9", "f", '{"x": 1}'),))
    assert turn.token_ids is None and turn.stop_reason == "stop" and len(handler.asked) == 2
    conversation.messages += [turn.message, Message("tool", "ok", tool_call_id="c9")]
    assert asyncio.run(policy.respond(conversation, Sampling())).stop_reason == "length"
    first, last = handler.asked[1], handler.asked[-1]
    assert (first["temperature"], first["max_tokens"], first["seed"], first["tools"]) == (0.5, 7, 3, [TOOL])
    assert [message["role"] for message in last["messages"]] == ["user", "assistant", "tool"]


def test_what_an_endpoint_refuses_is_told_from_no_answer(endpoint: tuple[str, type[Endpoint]]) -> None:
    url, handler = endpoint
    handler.replies += [(400, {"error": {"message": "no such tool"}})]
    with pytest.raises(EngineRefused, match="no such tool") as refused:
        asyncio.run(OpenAIPolicy(url).respond(Conversation(task(1)), Sampling()))
    assert len(handler.asked) == 1, "a 400 is not tried again"
    assert not isinstance(refused.value, PromptTooLong)
    handler.replies[:] = [(400, {"error": {"message": "This model's maximum context length is 512 tokens."}})]
    with pytest.raises(PromptTooLong):
        asyncio.run(OpenAIPolicy(url).respond(Conversation(task(1)), Sampling()))
    handler.replies[:] = [(503, {"error": "busy"})]
    with pytest.raises(EngineError, match="503") as down:
        asyncio.run(OpenAIPolicy(url, retries=0).respond(Conversation(task(1)), Sampling()))
    assert not isinstance(down.value, EngineRefused)
    with pytest.raises(EngineError, match="does not answer"):
        OpenAIPolicy("http://127.0.0.1:9")


def test_a_full_context_is_an_empty_turn_cut_by_length(random_models: tuple[Path, Path]) -> None:
    chat = ChatFormat.of(random_models[0])
    what = task(1)
    engine = TorchEngine(random_models[0], max_model_len=len(chat.prompt_ids(what)) + 3)
    policy, conversation = TokenPolicy(engine, chat, "any"), Conversation(what)
    turn = asyncio.run(policy.respond(conversation, Sampling(max_tokens=50, seed=0)))
    assert turn.token_ids is not None and len(turn.token_ids) <= 3
    conversation.messages += [turn.message, Message("tool", "a long answer", tool_call_id="call_0")]
    turn = asyncio.run(policy.respond(conversation, Sampling(max_tokens=50, seed=0)))
    assert (turn.token_ids, turn.stop_reason) == ([], "length")
