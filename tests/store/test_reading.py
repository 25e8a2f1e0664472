"""One reader for all dialects: the same conversation is the same rollout, whoever wrote it down."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.base.errors import SchemaMismatch
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.reading import MessageReader, read_message, read_messages
from rollhouse.store.rollout import Rollout
from rollhouse.store.tool_schemas import read_tools

Chat = dict[str, Any]
WORDS = st.text('aé \n"{', min_size=1, max_size=5)
VALUES = st.none() | st.booleans() | st.integers(-3, 3) | WORDS | st.lists(st.integers(0, 3), max_size=2)
ARGUMENTS = st.dictionaries(st.sampled_from("xyz"), VALUES, max_size=3)


TOOLS = [{"type": "function", "function": {"name": name, "parameters": {"properties": {key: {} for key in "xyz"}}}} for name in "fgh"]  # fmt: skip


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """A system prompt or none, then questions; each turn is text, or calls of different tools that are answered."""
    talk = [Message("system", draw(WORDS))] if draw(st.booleans()) else []
    for number in range(draw(st.integers(1, 3))):
        talk.append(Message("user", draw(WORDS)))
        names = draw(st.lists(st.sampled_from("fgh"), max_size=2, unique=True))
        reasoning = draw(st.none() | WORDS)
        if names:
            calls = [
                ToolCall(f"c{number}{name}", name, json.dumps(draw(ARGUMENTS), ensure_ascii=False)) for name in names
            ]
            talk.append(Message("assistant", draw(st.none() | WORDS), tuple(calls), reasoning=reasoning))
            talk += [Message("tool", draw(WORDS), tool_call_id=call.id) for call in draw(st.permutations(calls))]
            reasoning = draw(st.none() | WORDS)
        talk.append(Message("assistant", draw(WORDS), reasoning=reasoning))
    return talk


def name_of(talk: list[Message], id: str | None) -> str:
    return next(call.name for message in talk for call in message.tool_calls if call.id == id)


def chat(talk: list[Message]) -> list[Chat]:
    return [message.to_openai() for message in talk]


def with_calls(talk: list[Message], change: Callable[[Chat], Any]) -> list[Chat]:
    said = chat(talk)
    for message in said:
        if "tool_calls" in message:
            message["tool_calls"] = [change(call) for call in message["tool_calls"]]
    return said


def json_texts(talk: list[Message]) -> Any:
    return json.dumps([json.dumps(message) for message in with_calls(talk, json.dumps)])


def objects(talk: list[Message]) -> Any:
    return with_calls(talk, lambda call: {"id": call["id"], "name": call["function"]["name"], "args": json.loads(call["function"]["arguments"])})  # fmt: skip


def by_name(talk: list[Message]) -> Any:
    """No ids: a result names its tool, and legacy `function_call` holds a single call."""
    said = with_calls(talk, lambda call: {"function": call["function"]})
    for message, original in zip(said, talk, strict=True):
        if original.role == "tool":
            del message["tool_call_id"]
            message |= {"role": "function", "name": name_of(talk, original.tool_call_id)}
        if len(original.tool_calls) == 1:
            message["function_call"] = message.pop("tool_calls")[0]["function"]
    return said


def repeated_ids(talk: list[Message]) -> Any:
    """Ids count from 0 in every turn."""
    ids: dict[str | None, str] = {}
    for message in talk:
        ids |= {call.id: f"call_{number}" for number, call in enumerate(message.tool_calls)}
    said = with_calls(talk, lambda call: {**call, "id": ids[call["id"]]})
    return [{**one, "tool_call_id": ids[one["tool_call_id"]]} if "tool_call_id" in one else one for one in said]


def parts(talk: list[Message]) -> Any:
    return [{**message, "content": message["content"] and [{"type": "text", "text": message["content"], "cache": None}]} for message in chat(talk)]  # fmt: skip


def renamed_reasoning(name: str) -> Callable[[list[Message]], Any]:
    def written(talk: list[Message]) -> Any:
        detailed = {"reasoning_details": lambda text: [{"type": "reasoning.text", "text": text}], "thinking_blocks": lambda text: [{"type": "thinking", "thinking": text}]}  # fmt: skip
        said = chat(talk)
        for message in said:
            if "reasoning_content" in message:
                message[name] = detailed.get(name, lambda text: text)(message.pop("reasoning_content"))
        return said

    return written


def anthropic(talk: list[Message]) -> Any:
    said: list[Chat] = []
    for message in talk:
        if message.role == "tool":
            block = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": [{"type": "text", "text": message.text}]}  # fmt: skip
            if said[-1]["role"] == "user":
                said[-1]["content"].append(block)
            else:
                said.append({"role": "user", "content": [block]})
            continue
        blocks = [{"type": "thinking", "thinking": message.reasoning}] if message.reasoning is not None else []
        blocks += [{"type": "text", "text": message.text}] if message.text is not None else []
        blocks += [{"type": "tool_use", "id": call.id, "name": call.name, "input": call.parsed()} for call in message.tool_calls]  # fmt: skip
        said.append({"role": message.role, "content": blocks})
    return said


def responses(talk: list[Message]) -> Any:
    items: list[Chat] = []
    for message in talk:
        if message.role == "tool":
            items.append({"type": "function_call_output", "call_id": message.tool_call_id, "output": message.text})
        elif message.role != "assistant":
            items.append({"role": message.role, "content": [{"type": "input_text", "text": message.text}]})
        else:
            if message.reasoning is not None:
                items.append({"type": "reasoning", "id": "r", "summary": [], "content": [{"type": "reasoning_text", "text": message.reasoning}]})  # fmt: skip
            if message.text is not None:
                items.append({"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": message.text, "annotations": []}]})  # fmt: skip
            items += [{"type": "function_call", "id": "fc", "call_id": call.id, "name": call.name, "arguments": call.arguments} for call in message.tool_calls]  # fmt: skip
    return items


def telemetry(talk: list[Message]) -> Any:
    said: list[Chat] = []
    for message in talk:
        if message.role == "tool":
            said.append({"role": "tool", "parts": [{"type": "tool_call_response", "id": message.tool_call_id, "response": message.text}]})  # fmt: skip
            continue
        blocks = [{"type": "reasoning", "content": message.reasoning}] if message.reasoning is not None else []
        blocks += [{"type": "text", "content": message.text}] if message.text is not None else []
        blocks += [{"type": "tool_call", "id": call.id, "name": call.name, "arguments": call.parsed()} for call in message.tool_calls]  # fmt: skip
        said.append({"role": message.role, "parts": blocks})
    return said


DIALECTS: dict[str, Callable[[list[Message]], Any]] = {
    "chat": chat, "json texts": json_texts, "objects": objects, "by name": by_name, "repeated ids": repeated_ids, "parts": parts,
    "anthropic": anthropic, "telemetry": telemetry, "responses": responses,
    **{name: renamed_reasoning(name) for name in ("reasoning", "thinking", "reasoning_details", "thinking_blocks")},
}  # fmt: skip


def meaning(talk: list[Message]) -> list[Any]:
    """A conversation without the ids of calls: results name the position of their call."""
    calls = {call.id: position for position, call in enumerate(call for message in talk for call in message.tool_calls)}
    assert len(calls) == sum(len(message.tool_calls) for message in talk), "ids are unique"
    return [
        (message.role, message.text, message.parts, message.reasoning, [(call.name, call.parsed()) for call in message.tool_calls],
         None if message.tool_call_id is None else calls[message.tool_call_id])
        for message in talk
    ]  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(conversations())
def test_one_conversation_is_one_rollout_in_every_dialect(talk: list[Message]) -> None:
    wanted = Rollout(messages=talk)
    for name, write in DIALECTS.items():
        reader = MessageReader(tools=TOOLS)
        found = reader.read(write(talk))
        assert meaning(found) == meaning(talk), name
        assert reader.unread == {} and "results_without_calls" not in reader.gaps, (name, reader.unread, reader.gaps)
        if isinstance(said := write(talk), list):
            made = Rollout(messages=said)
            assert made.prompt == wanted.prompt and (made.n_turns, made.n_tool_calls) == (wanted.n_turns, wanted.n_tool_calls)  # fmt: skip


@pytest.mark.parametrize("written", ["", "  ", None, {}, "null", "{}"])
def test_a_call_without_arguments_has_an_empty_object(written: Any) -> None:
    call = {"id": "c", "function": {"name": "now", "arguments": written}}
    assert read_message({"role": "assistant", "tool_calls": [call]}).tool_calls == (ToolCall("c", "now", "{}"),)
    bare = {"id": "c", "function": {"name": "now"}}
    assert read_message({"role": "assistant", "tool_calls": [bare]}).tool_calls[0].parsed() == {}


def test_results_without_ids_answer_in_order_unless_they_name_their_tool() -> None:
    calls = [{"id": "a", "function": {"name": "weather"}}, {"id": "b", "function": {"name": "time"}}]
    before = [{"role": "user", "content": "?"}, {"role": "assistant", "tool_calls": calls}]
    named = read_messages([*before, {"role": "tool", "name": "time", "content": "10:42"}, {"role": "tool", "name": "weather", "content": "rain"}])  # fmt: skip
    assert [message.tool_call_id for message in named[2:]] == ["b", "a"]
    plain = read_messages([*before, {"role": "tool", "content": "rain"}, {"role": "tool", "content": "10:42"}])
    assert [message.tool_call_id for message in plain[2:]] == ["a", "b"]
    gaps: set[str] = set()
    late = read_messages([*before, {"role": "assistant", "content": "So."}, {"role": "tool", "tool_call_id": "zz", "content": "?"}], gaps)  # fmt: skip
    assert late[-1].tool_call_id == "zz" and "results_without_calls" in gaps


def test_a_repeated_id_is_paired_after_its_call() -> None:
    def turn(town: str, answer: str | None) -> list[Chat]:
        call = {"id": "call_0", "function": {"name": "weather", "arguments": json.dumps({"town": town})}}
        return [{"role": "assistant", "tool_calls": [call]}, *([{"role": "tool", "tool_call_id": "call_0", "content": answer}] if answer else [])]  # fmt: skip

    found = read_messages([*turn("Gent", None), {"role": "user", "content": "Again."}, *turn("Ghent", "rain"), *turn("Lyon", "sun")])  # fmt: skip
    ids = [call.id for message in found for call in message.tool_calls]
    assert len(set(ids)) == 3 and [message.tool_call_id for message in found if message.role == "tool"] == ids[1:]
    both = read_messages([{"role": "assistant", "tool_calls": [{"id": "x", "name": "f"}, {"id": "x", "name": "g"}]}, {"role": "tool", "tool_call_id": "x", "content": "1"}, {"role": "tool", "tool_call_id": "x", "content": "2"}])  # fmt: skip
    assert [message.tool_call_id for message in both[1:]] == [call.id for call in both[0].tool_calls]


def test_what_a_call_held_stays_and_what_a_table_filled_goes() -> None:
    tools = read_tools([
        {"name": "weather", "parameters": {"properties": {"town": {"type": "string"}, "a": None}}},
        {"type": "function", "function": {"name": "add", "parameters": {"properties": {"a": {"type": "integer"}, "town": None}}}},
    ])  # fmt: skip
    assert [list(tool["function"]["parameters"]["properties"]) for tool in tools] == [["town"], ["a"]]
    calls = [{"id": "1", "name": "weather", "arguments": {"town": "Ghent", "a": None}}, {"id": "2", "name": "add", "arguments": {"a": None, "town": None}}, {"id": "3", "name": "add", "arguments": '{"a": null, "town": null}'}]  # fmt: skip
    [message] = MessageReader(tools=tools).read([{"role": "assistant", "tool_calls": calls}])
    assert [call.parsed() for call in message.tool_calls] == [{"town": "Ghent"}, {"a": None}, {"a": None, "town": None}]
    [unknown] = MessageReader().read([{"role": "assistant", "tool_calls": [calls[0], {"name": "add", "arguments": {"a": 1, "town": None}}]}])  # fmt: skip
    assert [call.parsed() for call in unknown.tool_calls] == [{"town": "Ghent"}, {"a": 1}]


def test_words_errors_and_media() -> None:
    refused = read_message({"role": "assistant", "content": None, "refusal": "I cannot."})
    assert refused.text == "I cannot."
    image = {"type": "image_url", "image_url": {"url": "data:x"}}
    shown = read_message({"role": "user", "content": [{"type": "text", "text": "What?"}, image]})
    assert shown.text is None and json.loads(shown.parts or "") == [{"type": "text", "text": "What?"}, image]
    gaps: set[str] = set()
    [_, failed] = read_messages([{"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "is_error": True, "content": "no such town"}]}], gaps)  # fmt: skip
    assert (failed.role, failed.text, failed.tool_call_id) == (
        "tool",
        "Error: no such town",
        "t",
    ) and "errors_marked" in gaps
    assert read_message({"role": "tool", "content": "price 5\udcb2 m", "tool_call_id": "c"}).text == "price 5\ufffd m"
    # A question that happens to be JSON is a question.
    assert read_messages('[{"town": "Ghent"}]') == [Message("user", '[{"town": "Ghent"}]')]


def test_what_no_field_takes_is_named() -> None:
    reader = MessageReader()
    reader.read([{"role": "user", "content": "x", "name": "ann", "audio": None}, {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", "signature": "s"}]}])  # fmt: skip
    assert reader.unread == {"messages[0].name": "ann", "messages[1].content[0].signature": "s"}
    assert {"unread:messages[].name", "unread:messages[].content[].signature"} <= reader.all_gaps()


@pytest.mark.parametrize(("value", "reason"), [
    ("[1, 2", None), ([1], r"messages\[0\] is a int, not a message"), ([{"role": 3}], r"messages\[0\]\.role is 3"), ([{"content": "x"}], r"role is missing"),
    ([{"role": "assistant", "tool_calls": "no"}], r"tool_calls is text that is not JSON"), ([{"role": "assistant", "tool_calls": ["no"]}], r"tool_calls\[0\] is not a tool call"),
    ([{"role": "assistant", "tool_calls": [{"id": "c"}]}], r"name is missing"), ([{"role": "user", "content": [3]}], r"content\[0\] is a int"), (3, "messages is a int"),
])  # fmt: skip
def test_what_is_no_conversation_is_refused_with_its_path(value: Any, reason: str | None) -> None:
    if reason is None:
        assert read_messages(value) == [Message("user", value)]
        return
    with pytest.raises(SchemaMismatch, match=reason):
        read_messages(value)


def test_calls_that_a_table_left_unfilled_are_none() -> None:
    nothing = {"name": None, "arguments": None}
    for calls in ({}, "", "[]", [None], [{}], [{"id": None, "type": None, "function": nothing}]):
        [message] = read_messages([{"role": "assistant", "content": "a", "tool_calls": calls, "function_call": nothing}])  # fmt: skip
        assert (message.text, message.tool_calls) == ("a", ()), calls
