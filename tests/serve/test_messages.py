"""Anthropic's Messages API, used by its real client."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from anthropic import Anthropic, BadRequestError, DefaultHttpxClient
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.serve.running import Server, serving
from rollhouse.tests.serve.scripted import call, scripted_policy

TOOLS: Any = [{"name": "look", "description": "Looks.", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}]  # fmt: skip
TURN = f"<think>\nHm.\n</think>\n\nI look.\n{call('look', at='door')}\n{call('look', at='hall')}"
ASKED: Any = [{"role": "user", "content": "hello"}]


def client_of(server: Server, path: str = "", **settings: Any) -> Anthropic:
    """A client without retries."""
    http = DefaultHttpxClient(verify=False)
    return Anthropic(base_url=server.url + path, max_retries=0, http_client=http, **{"api_key": "none", **settings})


def said(prompt: str) -> str:
    return "It is shut." if "tool_response" in prompt else TURN


@pytest.fixture(scope="module")
def talking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose model thinks, calls twice, and answers."""
    with serving(LanceStore.create(tmp_path_factory.mktemp("messages") / "store"), scripted_policy(said)) as server:
        yield server


@pytest.mark.parametrize("streams", [False, True])
def test_a_conversation_with_tools_is_one_row(talking: Server, streams: bool) -> None:
    name = f"talk-{streams}"
    client = client_of(talking, f"/rollouts/{name}")
    how: Any = {"model": "m", "max_tokens": 500, "tools": TOOLS, "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}]}  # fmt: skip

    def turn(messages: Any) -> Any:
        # The mark of a cache moves from call to call, and is no part of the prompt.
        marked = [{**TOOLS[0], "cache_control": {"type": "ephemeral"}}] if len(messages) == 1 else TOOLS
        asked: Any = {**how, "tools": marked, "messages": messages}
        if not streams:
            return client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            events = [event.type for event in stream]
            assert events[0] == "message_start" and "content_block_delta" in events and events[-1] == "message_stop"
            return stream.get_final_message()

    first = turn(ASKED)
    assert [block.type for block in first.content] == ["thinking", "text", "tool_use", "tool_use"]
    assert (first.content[0].thinking, first.content[1].text) == ("Hm.", "I look.")
    assert [block.input for block in first.content[2:]] == [{"at": "door"}, {"at": "hall"}]
    assert (first.stop_reason, first.usage.output_tokens > 50, first.usage.input_tokens > 5) == ("tool_use", True, True)
    results = [{"type": "tool_result", "tool_use_id": block.id, "content": [{"type": "text", "text": "shut"}]} for block in first.content[2:]]  # fmt: skip
    messages = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    assert client.messages.count_tokens(model="m", messages=messages, tools=TOOLS).input_tokens > first.usage.input_tokens  # fmt: skip
    second = turn(messages)
    assert (second.content[0].text, second.stop_reason) == ("It is shut.", "end_turn")
    finished = talking.post(f"/rollouts/{name}/finish", {"reward": 1}).json()
    assert [(row["n_turns"], row["prefix_ok"]) for row in finished["rows"]] == [(2, True)]
    assert talking.post(f"/rollouts/{name}/score", {"reward": 1, "scorer": "flush"}).status_code == 200
    (row,) = talking.rows(rollout_id=finished["rows"][0]["rollout_id"])
    assert row["gaps"] == [] and [message["role"] for message in row["messages"]] == ["assistant", "tool", "tool", "assistant"]  # fmt: skip
    (prompt,) = talking.store.read("prompts", filter=f"prompt_id = '{row['prompt_id']}'").to_pylist()
    assert [message["role"] for message in prompt["messages"]] == ["system", "user"]


def test_stop_texts_limits_and_broken_arguments(tmp_path: Path) -> None:
    broken = '<tool_call>\n{"name": "look", "arguments": {"at": oops}}\n</tool_call>'
    policy = scripted_policy(lambda prompt: "So be it." if "oops" in prompt.rsplit("<|im_start|>user", 1)[0] else (broken if "break" in prompt else "One STOP two"))  # fmt: skip
    with serving(LanceStore.create(tmp_path / "store"), policy) as server:
        client = client_of(server, "/rollouts/a")
        how: Any = {"model": "m", "messages": ASKED}
        stopped = client.messages.create(**how, max_tokens=99, stop_sequences=["STOP"])
        assert (stopped.stop_reason, stopped.stop_sequence, stopped.content[0].text) == (
            "stop_sequence",
            "STOP",
            "One ",
        )  # type: ignore[union-attr]
        assert client.messages.create(**how, max_tokens=3).stop_reason == "max_tokens"
        client = client_of(server, "/rollouts/b")
        asked: Any = [{"role": "user", "content": [{"type": "text", "text": "please"}, {"type": "text", "text": "break"}]}]  # fmt: skip
        bad: Any = client.messages.create(model="m", max_tokens=99, messages=asked, tools=TOOLS)
        assert bad.content[0].input == {"invalid_json": '{"at": oops}'}
        result = {"type": "tool_result", "tool_use_id": bad.content[0].id, "content": "not JSON", "is_error": True}
        messages = [*asked, {"role": "assistant", "content": bad.content}, {"role": "user", "content": [result]}]
        client.messages.create(model="m", max_tokens=99, messages=messages, tools=TOOLS)
        assert [row["n_turns"] for row in server.post("/rollouts/b/finish").json()["rows"]] == [2]
        assert "please\nbreak" in policy.token_engine.seen[-1]  # type: ignore[attr-defined]


def test_errors_and_keys_have_anthropics_form(tmp_path: Path) -> None:
    store = LanceStore.create(tmp_path / "store")
    with serving(store, scripted_policy(["Done."], max_model_len=50), api_key="sesame") as server:
        client = client_of(server, api_key="sesame")
        assert client.messages.create(model="m", max_tokens=9, messages=ASKED).content
        assert client_of(server, api_key=None, auth_token="sesame").messages.create(model="m", max_tokens=9, messages=ASKED).content  # fmt: skip
        with pytest.raises(BadRequestError, match="prompt is too long"):
            client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x" * 60}])
        reply = server.post("/v1/messages", {"messages": ASKED}, headers={"X-Api-Key": "wrong"})
        assert reply.status_code == 401 and reply.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize(
    ("body", "gap"),
    [
        ({"thinking": {"type": "adaptive"}}, "ignored:thinking"),
        ({"output_config": {"effort": "low"}}, "ignored:output_config.effort"),
        ({"context_management": {"edits": [1]}}, "ignored:context_management"),
        ({"tools": [*TOOLS, {"type": "web_search_20250305", "name": "web_search"}]}, "dropped_tool:web_search_20250305"),
        ({"tools": TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}}, "ignored:tool_choice.disable_parallel_tool_use"),
        ({"betas_of_tomorrow": 1}, "ignored:betas_of_tomorrow"),
        ({"tools": [{**TOOLS[0], "defer_loading": True}]}, "ignored:tools.defer_loading"),
    ],
)  # fmt: skip
def test_what_has_no_effect_is_named(talking: Server, body: dict[str, Any], gap: str) -> None:
    name = gap.replace(":", "-")
    reply = talking.post(f"/rollouts/{name}/v1/messages", {"model": "m", "max_tokens": 9, "messages": ASKED, **body})
    assert reply.status_code == 200, reply.text
    finished = talking.post(f"/rollouts/{name}/finish", {"reward": 1}).json()
    assert talking.post(f"/rollouts/{name}/score", {"reward": 1, "scorer": "flush"}).status_code == 200
    assert talking.rows(rollout_id=finished["rows"][0]["rollout_id"])[0]["gaps"] == [gap]
