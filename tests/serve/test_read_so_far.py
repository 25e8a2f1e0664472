"""Requests of one conversation, read one after the other, are as if each was read alone."""

import json
from dataclasses import fields
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.policies.types import Sampling
from rollhouse.serve.calls import Call
from rollhouse.serve.errors import ApiError
from rollhouse.serve.history import OpenRollout, answering, conversation_keys
from rollhouse.serve.read_so_far import ReadSoFar
from rollhouse.serve.request import ModelRequest, read_chat
from rollhouse.store.messages import Message, ToolCall
from rollhouse.tests.serve.test_history import NOW

NAMES = st.sampled_from(["look", "go"])
ARGUMENTS = st.sampled_from(['{"a": 1, "b": true}', '{"b": true, "a": 1}', "{", {"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": True}])  # fmt: skip
IDS = st.sampled_from(["call_0", "call_1", "toolu_9", None])
TEXTS = st.sampled_from(["", "hm", "1", " hm ", None, [{"type": "text", "text": "in parts"}]])
TOKENS = st.sampled_from([{}, {}, {"prompt_token_ids": [1, 2], "generation_token_ids": [3]}, {"prompt_token_ids": [1], "generation_token_ids": ["x"]}])  # fmt: skip
MORE = st.sampled_from([{}, {}, {"name": "n"}, {"weight": 0}, {"weight": False}, {"reasoning_content": "so"}])
CALLS = st.lists(
    st.builds(lambda id, name, text: {"id": id, "type": "function", "function": {"name": name, "arguments": text}}, IDS, NAMES, ARGUMENTS),
    max_size=2,
)  # fmt: skip
MESSAGES = st.one_of(
    st.builds(lambda text, more: {"role": "user", "content": text, **more}, TEXTS, MORE),
    st.builds(lambda text, calls, tokens, more: {"role": "assistant", "content": text, "tool_calls": calls, **tokens, **more}, TEXTS, CALLS, TOKENS, MORE),
    st.builds(lambda text, id: {"role": "tool", "content": text, "tool_call_id": id}, TEXTS, IDS),
    st.just({"role": "nobody"}),
)  # fmt: skip
TOOLS: Any = [[], [{"type": "function", "function": {"name": "look"}}], [{"type": "custom", "name": "go"}, {"type": "web_search"}]]  # fmt: skip


@st.composite
def bodies(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Requests that mostly go on with the messages of the one before, and sometimes change, drop or reorder some."""
    found: list[dict[str, Any]] = []
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    for _ in range(draw(st.integers(2, 6))):
        messages = json.loads(json.dumps([*messages, *draw(st.lists(MESSAGES, max_size=3))]))
        change = draw(st.sampled_from(["none", "none", "none", "drop", "swap", "edit", "order"]))
        at = draw(st.integers(0, len(messages) - 1))
        if change == "drop" and len(messages) > 1:
            del messages[at]
        elif change == "swap":
            messages[0], messages[at] = messages[at], messages[0]
        elif change == "edit":
            messages[at]["content"] = draw(st.sampled_from(["edited", 1, True, 1.0]))
        elif change == "order":
            messages[at] = dict(reversed(messages[at].items()))
        required = draw(st.sampled_from([None, None, [1, 2, 3]]))
        found.append({"messages": messages, "tools": draw(st.sampled_from(TOOLS)), "required_prefix_token_ids": required})  # fmt: skip
    return found


def outcome(body: dict[str, Any], before: ReadSoFar | None) -> tuple[Any, ModelRequest | None]:
    """What a request is read as, or its error, in a form that can be compared."""
    try:
        parsed = read_chat(json.loads(json.dumps(body)), before)
    except ApiError as error:
        return error.message, None
    assert parsed.read is not None
    return [repr(getattr(parsed, one.name)) for one in fields(parsed) if one.compare] + [parsed.read.digest], parsed


@settings(max_examples=150, deadline=None)
@given(bodies())
def test_a_request_is_read_as_if_it_was_the_first(requests: list[dict[str, Any]]) -> None:
    read: ReadSoFar | None = None
    for body in requests:
        alone, _ = outcome(body, None)
        after, parsed = outcome(body, read)
        assert after == alone
        read = None if parsed is None else parsed.read


def test_only_new_messages_are_read() -> None:
    messages = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hm"}]
    first = read_chat({"messages": messages})
    second = read_chat({"messages": [*json.loads(json.dumps(messages)), {"role": "user", "content": "go on"}]}, first.read)  # fmt: skip
    assert second.read is first.read and all(one is other for one, other in zip(first.messages, second.messages, strict=False))  # fmt: skip
    assert len(second.messages) == 3 and len(first.messages) == 2
    tools = [{"type": "function", "function": {"name": "look"}}]
    assert read_chat({"messages": messages, "tools": tools}).tools is read_chat({"messages": messages, "tools": json.loads(json.dumps(tools))}).tools  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_keys_and_tokens_of_a_growing_rollout_are_those_of_a_whole_one(data: st.DataObject) -> None:
    rollout = OpenRollout("r")
    tools: Any = ({"type": "function", "function": {"name": "look"}},)
    for number in range(data.draw(st.integers(1, 8))):
        parent = data.draw(st.sampled_from([None, *range(number)]))
        offered = data.draw(st.sampled_from([tools, tools, ()]))
        new = [Message("user", data.draw(st.sampled_from(["a", "b"])))]
        before = [] if parent is None else rollout.conversation(rollout.calls[parent])
        keys = rollout._keys_of("main", offered, [*before, *new])
        assert keys == list(conversation_keys("main", offered, [*before, *new]))
        ids = [number] if data.draw(st.integers(0, 5)) else None
        call = Call(number, parent, "main", tuple(new), offered, Message("assistant", f"t{number}"), Sampling(), 9, NOW, 0.1, ids, ids, [], anew=data.draw(st.booleans()))  # fmt: skip
        rollout.add(call)
    whole = OpenRollout("r", list(rollout.calls))
    for call in rollout.calls:
        assert rollout.tokens(call) == whole.tokens(call) and rollout.history(call) == whole.history(call)
        path, tokens = whole.path(call), []
        for one in path:
            tokens = [*([] if one.anew else tokens), *(one.added_ids or ()), *(one.token_ids or ())]
        assert whole.tokens(call) == ([] if any(one.added_ids is None for one in path) else tokens)
    again = OpenRollout("r")
    for call in rollout.calls:
        again.add(Call.from_json(json.loads(json.dumps(call.to_json(None if call.parent is None else rollout.calls[call.parent]))), again.calls))  # fmt: skip
    assert again.calls == rollout.calls and list(again.ends()) == list(rollout.ends())


def test_a_result_gets_the_id_of_the_latest_call_that_has_its_id() -> None:
    sent = [Message("assistant", None, (ToolCall("x", "f", "{}"), ToolCall("y", "f", "{}"))), Message("assistant", None, (ToolCall("x", "f", "{}"),))]  # fmt: skip
    ours = [Message("assistant", None, (ToolCall("call_0", "f", "{}"), ToolCall("call_1", "f", "{}"))), Message("assistant", None, (ToolCall("call_2", "f", "{}"),))]  # fmt: skip
    new = [Message("tool", "1", tool_call_id=id) for id in ("x", "y", "z", None)]
    assert [one.tool_call_id for one in answering(new, sent, ours)] == ["call_2", "call_1", "z", None]
