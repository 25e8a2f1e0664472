"""Rollouts that a server has open, read from its journal while it writes it."""

from pathlib import Path
from typing import Any

from rollhouse.policies.types import Sampling
from rollhouse.queries.sql_store import SqlStore
from rollhouse.serve.calls import Call, CallFiles
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run

from .conftest import STARTED, serving


def call(number: int, parent: int | None, messages: tuple[Message, ...], answer: Message, **fields: Any) -> Call:
    return Call(number, parent, "main", messages, (), answer, Sampling(), None, STARTED, 0.1, **fields)


def test_open_rollouts_are_shown_with_their_messages_so_far(tmp_path: Path) -> None:
    store = SqlStore.create(tmp_path / "store")
    with start_run(store, "collect", "agents", {}):
        files = CallFiles(store, "agents")
        asks = Message("assistant", None, tool_calls=(ToolCall("c1", "add", '{"a": 1}'),))
        files.add_call("one", call(0, None, (Message("user", "1 + 1?"),), asks, token_ids=[1, 2, 3]))
        files.add_call("one", call(1, 0, (Message("tool", "2", tool_call_id="c1"),), Message("assistant", "2"), token_ids=[4]))  # fmt: skip
        files.add_call("two", call(0, None, (Message("user", "hi"),), Message("assistant", "hello")))
        path = next(path for path in (files.folder or tmp_path).glob("*.jsonl") if "1 + 1?" in path.read_text())
        whole = path.read_bytes()
        path.write_bytes(whole + b'{"call": {"number"')  # the server is writing it
        for site in serving({"store": store}):
            answer = site.json("/api/store/in-flight/agents")
            assert answer["total"] == 2
            one, two = sorted(answer["rows"], key=lambda row: row["name"])
            assert (one["calls"], one["tokens"], two["calls"], two["tokens"]) == (2, 4, 1, None)
            assert [(message["role"], message["text"]) for message in one["messages"]] == [
                ("user", "1 + 1?"),
                ("assistant", None),
                ("tool", "2"),
                ("assistant", "2"),
            ]
            assert one["messages"][1]["tool_calls"] == [{"id": "c1", "name": "add", "arguments": '{"a": 1}'}]
            assert path.read_bytes().startswith(whole) and len(path.read_bytes()) > len(whole), "nothing was cut off"
            files.remove("one")
            files.remove("two")
            assert site.json("/api/store/in-flight/agents") == {"total": 0, "rows": []}
            assert site.json("/api/store/in-flight/absent")["total"] == 0
