"""Datasets in whatever columns they have their conversations."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollhouse.base.errors import ConfigError, FormatError
from rollhouse.interop.columns import parse_map
from rollhouse.interop.config import ImportConfig
from rollhouse.interop.importing import ImportSummary, run_import
from rollhouse.interop.toolace import parse_calls
from rollhouse.queries.session import sql
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.interop import samples

Row = dict[str, Any]

XLAM_TOOL = {"name": "add", "description": "Adds.", "parameters": {"a": {"type": "int", "description": "One."}, "b": {"type": "int, optional", "default": "0"}}}  # fmt: skip
ACE_TOOL = {"name": "Sum API", "description": "Adds.", "parameters": {"type": "dict", "properties": {"a": {"type": "int"}, "b": {"type": "int"}}, "required": ["a"]}, "required": None}  # fmt: skip
TALK = [{"role": "system", "content": "Fix it."}, {"role": "user", "content": [{"type": "text", "text": "1 + 2?"}]},
        {"role": "assistant", "content": "", "reasoning_content": "Add.", "tool_calls": [samples.chat_call()]}, {"role": "tool", "content": "3", "tool_call_id": "c1"}, {"role": "assistant", "content": "3."}]  # fmt: skip


def xlam(folder: Path) -> Path:
    rows = [{"id": n, "query": f"{n} + 2?", "answers": json.dumps([{"name": "add", "arguments": {"a": n, "b": 2}}]), "tools": json.dumps([XLAM_TOOL])} for n in range(2)]  # fmt: skip
    return samples.write_json(folder / "xlam.json", rows)


def toolace(folder: Path) -> Path:
    system = f"You call functions. Here is a list of them in JSON format:\n{json.dumps([ACE_TOOL])}\nAnswer briefly."
    turns = [("user", "1 + 2, 3 + 4?"), ("assistant", "[Sum API(a=1, b=2), Sum API(a=3, b=4)]"), ("tool", json.dumps([{"name": "Sum API", "results": 3}, {"name": "Sum API", "results": 7}])), ("assistant", "3 and 7.")]  # fmt: skip
    return samples.write_json(folder / "ace.json", [{"system": system, "conversations": [{"from": who, "value": said} for who, said in turns]}])  # fmt: skip


def sharegpt(folder: Path) -> Path:
    turns = [("human", "1 + 2?"), ("function_call", json.dumps({"name": "add", "arguments": {"a": 1, "b": 2}})), ("observation", "3"), ("gpt", "3.")]  # fmt: skip
    row = {"conversations": [{"from": who, "value": said} for who, said in turns], "system": "Fix it.", "tools": json.dumps([samples.TOOL])}  # fmt: skip
    return samples.write_lines(folder / "share.jsonl", [row])


def swe(folder: Path) -> Path:
    rows = [{"messages": json.dumps(TALK), "instance_id": "a__b-1", "resolved": solved, "model": "m", "traj_id": f"t{solved}"} for solved in (True, False)]  # fmt: skip
    path = folder / "swe.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def openhands(folder: Path) -> Path:
    return samples.write_lines(folder / "oh.jsonl", [{"trajectory": TALK, "instance_id": "a__b-1", "resolved": 1, "tools": [samples.CHAT_TOOL]}])  # fmt: skip


def read_in(tmp_path: Path, file: Path | str, **options: Any) -> tuple[LanceStore, ImportSummary]:
    """A store with the file, which no import of a second time adds to."""
    store = LanceStore.create(tmp_path / "store")
    summary = run_import(store, None, file, ImportConfig(**options))
    assert summary.bad == 0 and run_import(store, None, file, ImportConfig(**options)).added == 0
    return store, summary


QUERY = """select reward, policy_id, n_tool_calls, messages, gaps, group_id, prompts.messages as prompt, prompts.tools as tools, ground_truth
from rollouts join prompts using (prompt_id) join tasks using (task_id) order by reward"""


@pytest.mark.parametrize("write", [xlam, toolace, sharegpt, swe, openhands])
def test_known_datasets(tmp_path: Path, write: Any) -> None:
    store, summary = read_in(tmp_path, write(tmp_path))
    found = sql(store, QUERY.replace("select reward", "select rollouts.reward").replace("messages, gaps", "rollouts.messages, gaps")).to_pylist()  # fmt: skip
    assert summary.format == "columns" and len(found) == summary.added
    row = found[-1]
    call = row["messages"][0]["tool_calls"][0]
    assert call["name"] in ("add", "Sum API") and set(json.loads(call["arguments"])) == {"a", "b"}
    if write is not swe:
        [tool] = json.loads(row["tools"])
        assert tool["function"]["parameters"]["properties"]["a"]["type"] == "integer"
    if write is xlam:
        assert tool["function"]["parameters"]["required"] == ["a"]
        assert json.loads(row["ground_truth"])[0]["name"] == "add" and row["prompt"][0]["text"].endswith("+ 2?")
    if write is toolace:
        assert [message["tool_call_id"] for message in row["messages"][1:3]] == [call["id"] for call in row["messages"][0]["tool_calls"]]  # fmt: skip
        assert row["messages"][2]["text"] == '{"name": "Sum API", "results": 7}'
        assert "Sum API" not in row["prompt"][0]["text"] and row["prompt"][0]["text"].endswith("Answer briefly.")
    if write in (swe, openhands):
        assert row["prompt"][1]["text"] == "1 + 2?" and row["reward"] == 1.0
    if write is swe:
        assert [other["reward"] for other in found] == [0.0, 1.0] and row["policy_id"] == "m"
        assert found[0]["group_id"] == row["group_id"]


def test_columns_that_the_user_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"talk": json.dumps(TALK), "judge": {"score": "0.5"}, "who": "m", "n": 3, "split": "x"}]
    csv = tmp_path / "a.csv"
    csv.write_text('talk,judge,who\n"' + rows[0]["talk"].replace('"', '""') + '","{""score"": 0.5}",m\n')
    (tmp_path / "ann").mkdir()
    samples.write_lines(tmp_path / "ann" / "chats" / "train.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mapped = "messages=talk, reward=judge.score,model=who"
    for number, file in enumerate((csv, samples.write_lines(tmp_path / "a.jsonl", rows), "hf:ann/chats")):
        folder = tmp_path / str(number)
        store, _ = read_in(folder, file, map=mapped)
        [row] = store.read("rollouts", ["reward", "policy_id", "n_turns"]).to_pylist()
        assert (row["reward"], row["policy_id"], row["n_turns"]) == (0.5, "m", 2)
    with pytest.raises(ConfigError, match="colour"):
        parse_map("colour=x")
    with pytest.raises(FormatError, match="cannot be read"):
        run_import(LanceStore.create(tmp_path / "other"), None, "hf:ann/chats@never", ImportConfig(map=mapped))


def test_calls_that_stand_in_text() -> None:
    names = ["Sum API", "f"]
    for text, calls in (
        (
            '[Sum API(a="x, y)", b=[1, {"c": true}]), f()]',
            [("Sum API", {"a": "x, y)", "b": [1, {"c": True}]}), ("f", {})],
        ),
        ("[f(class='it\\'s', n=-1, t=(1, None))]", [("f", {"class": "it's", "n": -1, "t": [1, None]})]),
        ("[f(a=g(1))]", None),
        ("[f(a=__import__('os'))]", None),
        ("[unknown(a=1)]", None),
        ("[f(a=1)", None),
        ("[f(a=1)] and more", None),
        ("[" * 5000 + "f(a=1)" + "]" * 5000, None),
    ):
        assert parse_calls(text, names) == calls
