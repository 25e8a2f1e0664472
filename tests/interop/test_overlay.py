"""An overlay gives the wanted value back, whatever the two values are."""

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st
from rollhouse.interop.overlay import SAME, difference, lay_over
from rollhouse.interop.responses import flat_tools, input_items, output_items
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.reading import MessageReader
from rollhouse.store.tool_schemas import read_tools

KEYS = st.sampled_from(["a", "b", "$gone", "$at", "$is", "0"])
SCALARS = st.none() | st.booleans() | st.integers(-2, 2) | st.sampled_from([0.5, 1.0]) | st.text(max_size=2)
JSON = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12)  # fmt: skip


def strictly(left: Any, right: Any) -> bool:
    """Equal as JSON: 1 and 1.0 are, 1 and true are not."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(strictly(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(strictly, left, right))
    return left == right


@given(JSON, JSON)
@example([{"$gone": None, "a": True}], [{"$gone": None, "a": 1}])
@example([{"$gone": [[True]]}], [{"$gone": [[1]]}])
@example([], {"$gone": None})
@example(1, {})
def test_it_gives_the_wanted_value_back(built: Any, wanted: Any) -> None:
    overlay = difference(built, wanted)
    given_back = built if overlay is SAME else lay_over(built, overlay)
    assert strictly(given_back, wanted)


@given(JSON)
def test_equal_values_need_none(value: Any) -> None:
    assert difference(value, value) is SAME


TEXTS = st.text(alphabet="ab \n", max_size=4)
CALLS = st.builds(ToolCall, st.text("xyz", min_size=1, max_size=3), st.text("fg", min_size=1, max_size=2), TEXTS)
ASSISTANTS = st.builds(
    Message,
    st.just("assistant"),
    st.none() | TEXTS,
    st.lists(CALLS, max_size=3).map(tuple),
    st.none(),
    reasoning=st.none() | TEXTS,
)
OTHERS = st.builds(Message, st.just("user"), TEXTS) | st.builds(
    Message, st.just("tool"), st.none() | TEXTS, st.just(()), st.text("xyz", min_size=1, max_size=3)
)


@given(st.lists(st.builds(Message, st.sampled_from(["system", "user"]), TEXTS), max_size=3), st.lists(st.tuples(ASSISTANTS, OTHERS), max_size=4))  # fmt: skip
def test_chat_to_responses_to_chat(prompt: list[Message], turns: list[tuple[Message, Message]]) -> None:
    """Also where the content is null. Two assistant messages in a row cannot be told apart, so the turns alternate."""
    said = [message.to_openai() for turn in turns for message in turn]
    messages = MessageReader().read(said)
    assert MessageReader().read_items(output_items(messages)) == messages
    assert MessageReader().read(input_items([*prompt, *messages])) == [*prompt, *messages]


def test_tools_both_ways() -> None:
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}, "strict": None}}]
    assert read_tools(flat_tools(tools)) == tools
