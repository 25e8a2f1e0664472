"""Whatever a readable record holds, its rollouts' columns and `extra` give it back."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rollhouse.interop.formats import FORMATS
from rollhouse.interop.importing import rollouts_of
from rollhouse.interop.lines import BadLine
from rollhouse.interop.overlay import lay_over
from rollhouse.interop.rollout import FileRollout
from rollhouse.interop.storing import Source
from rollhouse.store.messages import Message
from rollhouse.store.rows import rollout_rows

TEXT = st.text(max_size=3)
ODD = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-1, 1) | TEXT, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2), max_leaves=4)  # fmt: skip
CONTENT = st.none() | TEXT | st.lists(st.fixed_dictionaries({"type": TEXT}, optional={"text": TEXT, "url": ODD}), max_size=2)  # fmt: skip


def with_more(required: dict[str, Any], **optional: Any) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(required, optional={**optional, "unheard": ODD})


CALL = with_more({"function": with_more({"name": TEXT, "arguments": TEXT | st.dictionaries(TEXT, ODD, max_size=2)})}, id=TEXT, type=TEXT)  # fmt: skip
CHAT = with_more({"role": st.sampled_from(["system", "user", "assistant", "tool"])}, content=CONTENT, tool_calls=st.none() | st.lists(CALL, max_size=2), tool_call_id=st.none() | TEXT, reasoning_content=st.none() | TEXT)  # fmt: skip
CHATS = with_more({"messages": st.lists(CHAT, max_size=5)}, tools=st.lists(with_more({"name": TEXT}), max_size=2), model=ODD)  # fmt: skip

TOKENS = st.lists(st.integers(0, 3), max_size=3)
SAMPLED = {"prompt_token_ids": TOKENS, "generation_token_ids": TOKENS, "generation_log_probs": st.lists(st.floats(-9, 0), max_size=3)}  # fmt: skip
ITEM = (
    with_more({"type": st.just("message")}, role=st.just("assistant"), content=CONTENT, **SAMPLED)
    | with_more({"type": st.just("function_call"), "name": TEXT, "arguments": TEXT}, call_id=TEXT, **SAMPLED)
    | with_more({"type": st.just("function_call_output"), "output": CONTENT}, call_id=TEXT)
    | with_more({"type": st.just("reasoning")}, summary=st.lists(with_more({"text": TEXT}), max_size=2), **SAMPLED)
)
RESULTS = with_more(
    {
        "responses_create_params": with_more({"input": TEXT | st.lists(with_more({"role": TEXT, "content": CONTENT}), max_size=2)}, temperature=st.none() | st.floats(0, 2)),
        "response": with_more({"output": st.lists(ITEM, max_size=4)}, model=st.none() | TEXT, tools=st.none() | st.lists(ODD, max_size=1)),
    },
    reward=st.none() | st.floats(-1, 1) | st.integers(0, 1),
    reward_components=st.dictionaries(TEXT, st.floats(0, 1), max_size=2),
    _ng_rollout_index=st.none() | st.integers(0, 3),
)  # fmt: skip


def given_back(format_name: str, record: dict[str, Any]) -> dict[str, Any] | None:
    """The record by way of rows as a store has them; None for one that is refused."""
    format = FORMATS[format_name]
    try:
        rows = rollout_rows(rollouts_of(record, format, Source(format_name, "run")), "run")
        batches = rows.batches()
        [stored], [prompt] = batches["rollouts"].to_pylist(), batches["prompts"].to_pylist()
    except (BadLine, ValueError):
        return None
    messages, extra = stored.pop("messages"), json.loads(stored.pop("extra"))
    rollout = FileRollout(
        [Message.from_row(row) for row in prompt["messages"]],
        json.loads(prompt["tools"]),
        [Message.from_row(row) for row in messages],
        stored,
        rows.prompt_tokens[0].token_ids if rows.prompt_tokens else None,
        extra=extra,
    )
    assert format.record is not None
    return lay_over(format.record([rollout]), extra[format_name])


@settings(max_examples=150, deadline=None)
@given(CHATS)
def test_any_chat(record: dict[str, Any]) -> None:
    assert given_back("openai-chat", record) in (record, None)


@settings(max_examples=150, deadline=None)
@given(RESULTS)
def test_any_result(record: dict[str, Any]) -> None:
    assert given_back("nemo-gym", record) in (record, None)


def test_such_records_are_read() -> None:
    """So that the two above do not hold because everything is refused."""
    chat = {"messages": [{"role": "user"}, {"role": "assistant", "unheard": 1}], "unheard": [True]}
    result = {"responses_create_params": {"input": "x"}, "response": {"output": [{"type": "message"}]}, "reward": 0.3}
    assert given_back("openai-chat", chat) == chat and given_back("nemo-gym", result) == result
