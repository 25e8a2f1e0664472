"""Files as people have them: other dialects, encodings and containers, null keys, keys that repeat."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollhouse.base.errors import FormatError
from rollhouse.environments.tasks_file import row_from_task, task_from_row
from rollhouse.interop.exporting import export_file
from rollhouse.interop.importing import import_file
from rollhouse.queries.named import run_query
from rollhouse.queries.session import sql
from rollhouse.store.adding import add_rollouts
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.rollout import Rollout

Row = dict[str, Any]


def write(path: Path, *rows: Row) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(question: str = "Hi", answer: str = "Hello.", **fields: Any) -> Row:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}], **fields}


def turns(store: LanceStore, columns: str = "role, text") -> list[Any]:
    return [tuple(row.values()) for row in sql(store, f"SELECT {columns} FROM turns ORDER BY position").to_pylist()]


def test_containers_and_encodings(store: LanceStore, tmp_path: Path) -> None:
    lines = "".join(json.dumps(chat(str(number))) + "\n" for number in range(3)).encode()
    objects = [json.loads(line) for line in lines.splitlines()]
    with pa.CompressedOutputStream(str(tmp_path / "a.jsonl.zst"), "zstd") as file:
        file.write(lines)
    files = {
        "plain.jsonl": lines,
        "a.jsonl.gz": gzip.compress(lines),
        "bom.jsonl": b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n"),
        "array.json": json.dumps(objects, indent=1).encode(),
        "one_line.json": json.dumps(objects).encode(),
        "pretty.json": b"\n".join(json.dumps(one, indent=2).encode() for one in objects),
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    for number, name in enumerate((*files, "a.jsonl.zst")):
        summary = import_file(store, "openai-chat", tmp_path / name)
        assert (summary.rows, summary.bad, summary.added) == (3, 0, 0 if number else 3), name
    (tmp_path / "torn.gz").write_bytes(gzip.compress(lines)[:-20])
    with pytest.raises(FormatError, match="damaged or incomplete"):
        import_file(store, "openai-chat", tmp_path / "torn.gz")
    (tmp_path / "wide.jsonl").write_text(lines.decode(), encoding="utf-16")
    with pytest.raises(FormatError, match="UTF-16"):
        import_file(store, "openai-chat", tmp_path / "wide.jsonl")
    (tmp_path / "open.json").write_text(json.dumps(objects)[:-60])
    assert import_file(store, "openai-chat", tmp_path / "open.json", max_bad=0.5).bad == 1


def test_what_is_no_text_is_replaced_and_said(store: LanceStore, tmp_path: Path) -> None:
    raw = json.dumps(chat("half \ud8a0", "nul \0 €")).encode() + b"\n" + json.dumps(chat("Gh?nt")).encode().replace(b"?", b"\xe9") + b"\n"  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(raw)
    summary = import_file(store, "openai-chat", tmp_path / "a.jsonl")
    assert (summary.added, summary.gaps["surrogates_replaced"]) == (2, 2)
    texts = {text for _, text in turns(store)}
    assert {"half \ufffd", "nul \0 €", "Gh\ufffdnt"} <= texts


def test_only_named_fields_are_rewards(store: LanceStore, tmp_path: Path) -> None:
    rows = [chat("a", num_tokens=1840, source="web"), chat("b", reward=0.5), chat("c", score=True), chat("d", resolved=True, speed=2)]  # fmt: skip
    for format_name in ("openai-chat", "trl"):
        import_file(store, format_name, write(tmp_path / "a.jsonl", *rows), name=format_name)
        found = sql(store, f"SELECT reward, gaps FROM rollouts WHERE run_id = '{format_name}'").to_pylist()
        assert sorted(str(row["reward"]) for row in found) == ["0.5", "1.0", "None", "None"]
        assert any({"no_reward", "unread:num_tokens", "unread:source"} <= set(row["gaps"]) for row in found)
    summary = import_file(LanceStore.create(tmp_path / "s"), "trl", write(tmp_path / "b.jsonl", rows[3]), reward_columns=("resolved", "speed"))  # fmt: skip
    assert summary.added == 1 and "no_reward" not in summary.gaps
    assert sql(LanceStore.open(tmp_path / "s"), "SELECT reward, len(reward_components) n FROM rollouts").to_pylist() == [{"reward": 3.0, "n": 2}]  # fmt: skip


def test_a_table_of_structs_has_no_foreign_keys(store: LanceStore, tmp_path: Path) -> None:
    def row(name: str, arguments: Row) -> Row:
        schema = {"type": "object", "properties": {key: {"type": "string"} for key in arguments}}
        said = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}  # fmt: skip
        return {"messages": [{"role": "user", "content": "?", "tool_calls": None}, said], "tools": [{"type": "function", "function": {"name": name, "parameters": schema}}]}  # fmt: skip

    pq.write_table(pa.Table.from_pylist([row("weather", {"town": "Ghent"}), row("add", {"a": "2", "b": "3"})]), tmp_path / "a.parquet")  # fmt: skip
    import_file(store, "trl", tmp_path / "a.parquet")
    calls = sql(store, "SELECT unnest(tool_calls) c FROM turns").to_pylist()
    assert sorted(call["c"]["arguments"] for call in calls) == ['{"a": "2", "b": "3"}', '{"town": "Ghent"}']
    tools = [json.loads(row["tools"]) for row in store.read("prompts", ["tools"]).to_pylist()]
    assert sorted(list(tool[0]["function"]["parameters"]["properties"]) for tool in tools) == [["a", "b"], ["town"]]


def test_two_lines_of_one_key_are_told_apart(store: LanceStore, tmp_path: Path) -> None:
    rows = [{"prompt": "?", "completion": text, "rollout_id": "r1", "run_id": "x"} for text in ("a", "b", "a")]
    summary = import_file(store, "trl", write(tmp_path / "a.jsonl", *rows), max_bad=0.5)
    assert (summary.added, summary.present, summary.bad) == (1, 1, 1)
    assert "its key 'r1' is that of an earlier line, whose content differs" in Path(summary.quarantine or "").read_text()  # fmt: skip


def result(question: str, **fields: Any) -> Row:
    said = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "4"}]}]
    return {"responses_create_params": {"input": [{"role": "user", "content": question}]}, "response": {"output": said}, **fields}  # fmt: skip


def test_inputs_are_never_joined_on_null(store: LanceStore, tmp_path: Path) -> None:
    inputs = write(tmp_path / "in.jsonl", *({"responses_create_params": {"input": question}, "ground_truth": truth} for question, truth in (("2+2?", "4"), ("3+3?", "6"), ("twice", "1"), ("twice", "2"))))  # fmt: skip
    rows = [result("2+2?", reward=1.0), result("5+5?", reward=0.0), result("twice", reward=0.0)]
    summary = import_file(store, "nemo-gym", write(tmp_path / "a.jsonl", *rows), inputs=inputs)
    assert summary.counts == {"input_by_prompt": 1, "without_input": 2} and summary.gaps["no_task"] == 2
    assert sql(store, "SELECT ground_truth FROM tasks WHERE ground_truth IS NOT NULL").to_pylist() == [{"ground_truth": '"4"'}]  # fmt: skip
    indexed = [result("7?", _ng_task_index=0, _ng_rollout_index=0), result("8?", _ng_task_index=0, _ng_rollout_index=1)]
    planned = [{**{name: row[name] for name in ("_ng_task_index", "_ng_rollout_index")}, "responses_create_params": {"input": "7?"}, "ground_truth": "7"} for row in indexed]  # fmt: skip
    summary = import_file(store, "nemo-gym", write(tmp_path / "b.jsonl", *indexed), inputs=write(tmp_path / "in2.jsonl", *planned))  # fmt: skip
    assert summary.counts == {"input_by_index": 1, "without_input": 1}


def test_failed_attempts_of_one_id_are_rows(store: LanceStore, tmp_path: Path) -> None:
    write(tmp_path / "a_failures.jsonl", *(result("?", _ng_rollout_id="r", _ng_failure_class="timeout", error=why) for why in ("slow", "slower")))  # fmt: skip
    summary = import_file(store, "nemo-gym", write(tmp_path / "a.jsonl", result("?", _ng_rollout_id="r", reward=1.0)))
    assert (summary.added, summary.bad) == (3, 0)
    rows = store.read("rollouts", ["slot_id", "attempt", "status"]).to_pylist()
    assert len({row["slot_id"] for row in rows}) == 1 and sorted(row["attempt"] for row in rows) == [0, 1, 2]


def test_calls_and_instructions_in_a_prompt(store: LanceStore, tmp_path: Path) -> None:
    items = [
        {"role": "user", "content": "2+2?"},
        {"type": "function_call", "call_id": "c0", "name": "calc", "arguments": '{"x": "2+2"}'},
        {"type": "function_call_output", "call_id": "c0", "output": "4"},
        {"role": "assistant", "content": "4."},
        {"role": "user", "content": "and 3+3?"},
    ]
    row = result("?", reward=1.0)
    row["responses_create_params"] = {"input": items, "instructions": "Be brief."}
    import_file(store, "nemo-gym", write(tmp_path / "a.jsonl", row))
    assert [role for role, _ in turns(store)] == ["system", "user", "assistant", "tool", "assistant", "user", "assistant"]  # fmt: skip
    task = task_from_row({"responses_create_params": row["responses_create_params"], "ground_truth": 6}, "x")
    assert task.messages[0] == Message("system", "Be brief.") and task_from_row(row_from_task(task), "x").messages == task.messages  # fmt: skip
    calls = Rollout(messages=[Message("assistant", "6")], prompt=task.prompt, reward=1.0)
    add_rollouts(third := LanceStore.create(tmp_path / "third"), [calls], "mine")
    export_file(third, "nemo-gym", tmp_path / "out.jsonl")
    told = json.loads((tmp_path / "out.jsonl").read_text())["responses_create_params"]["input"]
    assert [item.get("type") for item in told] == ["message", "message", "function_call", "function_call_output", "message", "message"]  # fmt: skip


def trajectory(**fields: Any) -> Row:
    def metrics(prompt: list[int], sampled: list[int]) -> Row:
        return {"prompt_token_ids": prompt, "completion_token_ids": sampled, "logprobs": [-0.5] * len(sampled)}

    call = {"tool_call_id": "c1", "function_name": "ls", "arguments": {}}
    return {
        "schema_version": "ATIF-v1.8", "session_id": "run-1", "trajectory_id": "t1", "agent": {"name": "main", "version": "1", "model_name": "tiny"},
        "steps": [
            {"step_id": 1, "source": "user", "message": "List."},
            {"step_id": 2, "source": "agent", "message": "Copied.", "is_copied_context": True},
            {"step_id": 3, "source": "agent", "message": "", "tool_calls": [call], "llm_call_count": 1, "observation": {"results": [{"content": "a.txt"}]}, "metrics": metrics([1, 2], [3, 4])},
            {"step_id": 4, "source": "system", "message": "Context is short.", "observation": {"results": [{"content": "compacted"}]}},
            {"step_id": 5, "source": "agent", "message": "One.", "metrics": metrics([1, 2, 3, 4, 5], [6])},
        ],
        **fields,
    }  # fmt: skip


def test_atif_of_today(store: LanceStore, tmp_path: Path) -> None:
    inner = trajectory(trajectory_id="t2", agent={"name": "helper", "version": "1"})
    outer = [trajectory(subagent_trajectories=[inner]), trajectory(trajectory_id="t3")]
    file = write(tmp_path / "a.jsonl", *outer)
    assert (import_file(store, "atif", file).added, import_file(store, "atif", file).added) == (3, 0)
    rows = sql(store, "SELECT agent, episode_id, token_ids, loss_mask, len(logprobs) n, n_prompt_tokens FROM rollouts").to_pylist()  # fmt: skip
    assert sorted(row["agent"] for row in rows) == ["helper", "main", "main"] and len({row["episode_id"] for row in rows}) == 2  # fmt: skip
    assert all((row["token_ids"], row["loss_mask"], row["n"], row["n_prompt_tokens"]) == ([3, 4, 5, 6], [1, 1, 0, 1], 3, 2) for row in rows)  # fmt: skip
    told = turns(store, "DISTINCT position, in_prompt, role, text")
    assert [one[1:] for one in told] == [
        (True, "user", "List."), (True, "assistant", "Copied."), (False, "assistant", None), (False, "tool", "a.txt"),
        (False, "system", "Context is short."), (False, "system", "compacted"), (False, "assistant", "One."),
    ]  # fmt: skip
    export_file(store, "atif", tmp_path / "out.jsonl")
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sorted(written, key=str) == sorted(outer, key=str)
    add_rollouts(mine := LanceStore.create(tmp_path / "mine"), [Rollout(messages=[Message("user", "?"), Message("assistant", "!")], prompt_token_ids=None)], "m")  # fmt: skip
    export_file(mine, "atif", tmp_path / "mine.jsonl")
    ours = json.loads((tmp_path / "mine.jsonl").read_text())
    assert (ours["schema_version"], ours["session_id"], ours["steps"][1]["llm_call_count"]) == ("ATIF-v1.8", "m", 1)


def test_a_branch_has_the_tools_of_its_root(store: LanceStore, tmp_path: Path) -> None:
    nodes = [
        {"message": {"role": "user", "content": "?"}, "sampled": False, "tools": [{"name": "inner"}]},
        {"parent": 0, "message": {"role": "assistant", "content": "!"}, "sampled": True, "trainer_logprobs": [-0.1], "entropies": [0.2]},
    ]  # fmt: skip
    episode = {"id": "e", "traces": [{"id": "t", "tools": [{"name": "inner"}, {"name": "outer"}], "nodes": nodes}]}
    summary = import_file(store, "verifiers", write(tmp_path / "a.jsonl", episode))
    assert [tool["function"]["name"] for tool in json.loads(store.read("prompts").to_pylist()[0]["tools"])] == ["inner"]
    assert {"unread:nodes[].trainer_logprobs", "unread:nodes[].entropies"} <= set(summary.gaps)


def test_queries_pair_repeated_ids_by_position(store: LanceStore) -> None:
    """Stores of earlier versions hold `call_0` in every turn."""

    def turn(town: str, *answers: str) -> list[Message]:
        call = Message("assistant", None, (ToolCall("call_0", "weather", json.dumps({"town": town})),))
        return [call, *(Message("tool", answer, tool_call_id="call_0") for answer in answers)]

    twice = Message("assistant", None, (ToolCall("x", "f", "{}"), ToolCall("x", "g", "{}")))
    answers = [Message("tool", text, tool_call_id="x") for text in ("fine", "error: no")]
    talk = [Message("user", "?"), *turn("Gent", "Error: no such town"), *turn("Lyon"), *turn("Ghent", "rain"), twice, *answers]  # fmt: skip
    add_rollouts(store, [Rollout(messages=talk)], "old")
    found = {row["tool"]: row for row in run_query(store, "tool_errors").to_pylist()}
    assert {tool: (row["calls"], row["errors"], row["unanswered"]) for tool, row in found.items()} == {"weather": (3, 1, 1), "f": (1, 0, 0), "g": (1, 1, 0)}  # fmt: skip
    failing = run_query(store, "failing_tool_calls").to_pylist()
    assert [(row["tool"], row["arguments"]) for row in failing] == [("g", "{}"), ("weather", '{"town": "Gent"}')]
