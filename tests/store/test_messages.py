"""Messages keep what they were given, through the OpenAI form and through a table."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.store.appending import append_rows, to_arrow
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.reading import read_message

# Surrogates cannot be encoded, so no file or socket can bring one in.
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
ARGUMENTS = TEXT.filter(lambda text: text.strip() not in ("", "null"))
CALLS = st.lists(st.builds(ToolCall, id=TEXT.filter(bool), name=TEXT, arguments=ARGUMENTS), max_size=3, unique_by=lambda call: call.id).map(tuple)  # fmt: skip
# A list of text alone is text.
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}
PARTS = st.lists(st.fixed_dictionaries({"type": st.just("text"), "text": TEXT}), max_size=2).map(
    lambda parts: json.dumps([*parts, IMAGE], ensure_ascii=False)
)
ROLES = st.sampled_from(["system", "user", "assistant", "tool"])
OPTIONAL = {"tool_calls": CALLS, "reasoning": st.none() | TEXT}
MESSAGES = st.one_of(
    st.builds(Message, ROLES, text=st.none() | TEXT, **OPTIONAL), st.builds(Message, ROLES, parts=PARTS, **OPTIONAL)
)


@given(MESSAGES)
def test_openai_form_round_trips(message: Message) -> None:
    again = read_message(json.loads(json.dumps(message.to_openai())))
    assert again == message


@given(st.lists(MESSAGES, max_size=4))
def test_rows_round_trip_through_arrow(messages: list[Message]) -> None:
    row = {"prompt_id": "p", "messages": [message.to_row() for message in messages]}
    stored = to_arrow("prompts", [row]).to_pylist()[0]["messages"]
    assert [Message.from_row(message) for message in stored] == messages


@settings(max_examples=5, deadline=None)
@given(st.lists(MESSAGES, min_size=1, max_size=4))
def test_rows_round_trip_through_lance(tmp_path_factory: pytest.TempPathFactory, messages: list[Message]) -> None:
    store = LanceStore.create(tmp_path_factory.mktemp("store"))
    append_rows(store, "prompts", [{"prompt_id": "p", "messages": [message.to_row() for message in messages]}])
    stored = store.read("prompts").to_pylist()[0]["messages"]
    assert [Message.from_row(message) for message in stored] == messages


def test_arguments_stay_byte_for_byte() -> None:
    broken = '{"a": 1, "a" :2,}'
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": broken}}
    message = read_message({"role": "assistant", "content": None, "tool_calls": [call]})
    assert message.tool_calls[0].arguments == broken
    assert message.to_openai()["tool_calls"] == [call]
    with pytest.raises(ValueError):
        message.tool_calls[0].parsed()
    with pytest.raises(ValueError, match="not an object"):
        ToolCall("c", "f", "[1]").parsed()


def test_flat_calls_and_object_arguments_are_read() -> None:
    message = read_message({"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {"é": 1}}]})
    assert message.tool_calls == (ToolCall("call_0", "f", '{"é": 1}'),)
    assert message.text == ""
