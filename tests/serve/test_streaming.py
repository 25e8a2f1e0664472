"""Answers that are sent while they are sampled, and clients that go away in the middle of one."""

import contextlib
import http.client
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from rollhouse.base.errors import EngineError
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.serve.running import Server, serving
from rollhouse.tests.serve.scripted import call, scripted_policy

LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
ASKED: Any = [{"role": "user", "content": "hello"}]
TURN = f"<think>\nHm.\n</think>\n\nI look.\n{call('look', at='door', n=[1, 2])}"


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose tokens take 2 ms each."""
    store = LanceStore.create(tmp_path_factory.mktemp("slow") / "store")
    with serving(store, scripted_policy([TURN], token_s=0.002)) as server:
        yield server


def lines(server: Server, path: str, body: dict[str, Any]) -> Iterator[str]:
    """The lines of a streamed answer."""
    with httpx.stream("POST", server.url + path, json={**body, "stream": True}, verify=False, timeout=60) as reply:
        assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/event-stream")
        yield from reply.iter_lines()


def until(done: Callable[[], bool]) -> None:
    """Waits for something that happens soon."""
    for _ in range(3000):
        if done():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


def test_a_chat_comes_in_pieces(slow: Server) -> None:
    how: dict[str, Any] = {"model": "m", "messages": ASKED, "tools": [LOOK]}
    whole = slow.client.chat.completions.create(**how).choices[0]
    chunks = list(slow.client.chat.completions.create(**how, stream=True, stream_options={"include_usage": True}))
    deltas = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
    assert "".join(delta.content or "" for delta in deltas) == whole.message.content == "I look."
    assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "Hm."
    calls = [one for delta in deltas for one in delta.tool_calls or ()]
    assert (calls[0].id, calls[0].function.name) == (whole.message.tool_calls[0].id, "look")
    assert "".join(one.function.arguments for one in calls) == whole.message.tool_calls[0].function.arguments
    assert len(chunks) > 30 and chunks[-1].usage.completion_tokens > 50
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "tool_calls"


def test_a_response_comes_in_pieces(slow: Server) -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
    with slow.client.responses.stream(model="m", input="hello", tools=[tool]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_response()
    assert [item.type for item in final.output] == ["reasoning", "message", "function_call"]
    assert final.output_text == "I look." and json.loads(final.output[2].arguments) == {"at": "door", "n": [1, 2]}
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"
    assert kinds.count("response.output_text.delta") > 3 < kinds.count("response.function_call_arguments.delta")
    assert kinds.count("response.output_item.added") == kinds.count("response.output_item.done") == 3


def test_a_completion_comes_in_pieces_and_ends_at_a_stop_text(slow: Server) -> None:
    pieces = list(slow.client.completions.create(model="m", prompt="x", stream=True, stop=["look"], max_tokens=500))
    assert "".join(piece.choices[0].text for piece in pieces) == TURN.split("look")[0] and len(pieces) > 20
    assert pieces[-1].choices[0].finish_reason == "stop"


def test_headers_come_before_the_first_token(tmp_path: Path) -> None:
    with serving(LanceStore.create(tmp_path / "store"), scripted_policy(["Done."], token_s=0.5)) as server:
        start = time.monotonic()
        first = next(lines(server, "/v1/chat/completions", {"model": "m", "messages": ASKED}))
        assert '"role":"assistant"' in first and time.monotonic() - start < 2.5  # six tokens take three seconds


def test_what_was_sampled_before_the_client_went_away_is_recorded_as_that(tmp_path: Path) -> None:
    policy = scripted_policy(lambda prompt: "Done." if "again" in prompt else "a" * 3000, token_s=0.005)
    with serving(LanceStore.create(tmp_path / "store"), policy) as server:
        got = 0
        for line in lines(server, "/rollouts/away/v1/chat/completions", {"model": "m", "messages": ASKED}):
            got += '"content":"a"' in line
            if got == 5:
                break  # the connection is closed
        until(lambda: server.get("/rollouts/away").json().get("calls") == 1)
        again = [*ASKED, {"role": "user", "content": "again"}]
        server.openai("/rollouts/away/v1").chat.completions.create(model="m", messages=again)
        server.post("/rollouts/away/finish", {"reward": 1})
        assert server.post("/rollouts/away/score", {"reward": 1, "scorer": "flush"}).status_code == 200
        rows = {row["stop_reason"]: row for row in server.rows()}
    (cut,) = [row for row in server.rows() if "cancelled" in row["gaps"]]
    (kept,) = [row for row in server.rows() if "cancelled" not in row["gaps"]]
    text = cut["messages"][-1]["text"]
    assert text == "a" * len(text) and 5 <= len(text) < 2000 and rows
    assert cut["n_sampled_tokens"] == len(text) and (cut["trainable"], kept["trainable"]) == (False, True)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": ASKED}),
        ("/v1/completions", {"prompt": "hello"}),
        ("/v1/responses", {"input": "hello"}),
        ("/v1/messages", {"messages": ASKED, "max_tokens": 5000}),
    ],
    ids=["chat", "completions", "responses", "messages"],
)
def test_a_client_that_goes_away_ends_a_request_that_does_not_stream(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    policy = scripted_policy(["a" * 3000, "Done."], token_s=0.005)
    engine: Any = policy.token_engine
    with serving(LanceStore.create(tmp_path / "store"), policy) as server:
        place = httpx.URL(server.url)
        with contextlib.closing(http.client.HTTPConnection(place.host, place.port)) as connection:
            content = json.dumps({"model": "m", **body})
            connection.request("POST", f"/rollouts/away{path}", content, {"Content-Type": "application/json"})
            until(lambda: engine.reported > 5)
        until(lambda: server.get("/rollouts/away").json().get("calls") == 1)
        assert len(engine.seen) == 1
        assert server.post("/rollouts/away/finish", {"status": "aborted"}).status_code == 200
        assert server.post("/rollouts/away/score", {"reward": 1, "scorer": "flush"}).status_code == 200
        (row,) = server.rows()
    text = row["messages"][-1]["text"]
    assert 5 < len(text) < 3000 and text == "a" * len(text)
    assert row["n_sampled_tokens"] == len(text) and (row["trainable"], "cancelled" in row["gaps"]) == (False, True)


def test_a_refused_request_has_its_status_and_a_late_failure_is_an_event(tmp_path: Path) -> None:
    policy = scripted_policy(["Done."])
    engine: Any = policy.token_engine
    with serving(LanceStore.create(tmp_path / "store"), policy) as server:
        how: dict[str, Any] = {"model": "m", "stream": True}
        with pytest.raises(openai.BadRequestError):
            server.client.chat.completions.create(**how, messages=ASKED, audio={"voice": "x", "format": "wav"})
        engine.max_model_len = 8
        with pytest.raises(openai.BadRequestError) as raised:
            server.client.chat.completions.create(**how, messages=ASKED)
        assert raised.value.code == "context_length_exceeded"
        engine.max_model_len = 1000

        async def fails(*_: Any) -> None:
            raise EngineError("It broke.", "Mend it.")

        engine.generate = fails
        with pytest.raises(openai.APIError, match="It broke"):
            list(server.client.chat.completions.create(**how, messages=ASKED))
