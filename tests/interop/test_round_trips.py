"""What was imported from a format comes out of the store as it was; what was collected comes back from every format that carries it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rollhouse.interop.exporting import ExportSummary, export_file
from rollhouse.interop.importing import ImportSummary, import_file
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

Episode = dict[str, Any]


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def same(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> bool:
    """Whether they are equal as JSON, in any order: a store keeps rollouts in no promised one."""
    rest = list(right)
    for record in left:
        if record not in rest:
            return False
        rest.remove(record)
    return not rest


def there_and_back(store: LanceStore, format_name: str, file: Path, records: list[Any], **options: Any) -> list[Any]:
    """Imports records from a JSONL file and gives those of the export."""
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    summary = import_file(store, format_name, file, **options)
    assert (summary.rows, summary.bad) == (len(records), 0), summary
    exported = export_file(store, format_name, file.with_name("exported.jsonl"))
    assert exported.lost == {}
    return lines(Path(exported.file))


def test_nemo_gym_comes_back_with_its_nulls_tokens_and_odd_fields(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    first, second = rows.tokens([1, 2], [10, 11]), rows.tokens([1, 2, 10, 11, 3, 4], [12], -0.1)
    sampled = rows.items(first, second)
    split = rows.items(rows.tokens([1, 2], [10, 11]), rows.tokens([1, 2, 99, 3], [12]))
    text_last = [rows.items()[1], {**rows.items()[3], "content": [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "no"}]}]  # fmt: skip
    objects = [{**rows.items()[1], "arguments": {"a": 1}}, {**rows.items()[2], "output": [{"type": "input_text", "text": "3"}], "call_id": None}]  # fmt: skip
    records = [
        rows.result(),
        rows.result(sampled, reward=0.1, accuracy=1, note={"$is": None, "deep": [True, 1, {}]}),
        rows.result(split, reward=None, _ng_rollout_index=3),
        rows.result(text_last, reward_components={"format": {"score": 0.5, "weight": 0.2}}),
        rows.result(objects, reward_components=[{"name": "format", "value": 1}]),
        rows.result([], mask_sample=False, agent_ref={"name": "x"}, _ng_attempt_index=2),
    ]
    del records[0]["_ng_rollout_index"]
    records[1]["responses_create_params"]["input"] = "1 + 2?"
    records[2]["responses_create_params"]["input"][1]["content"] = [{"type": "input_text", "text": "1"}, {"type": "input_text", "text": " + 2"}]  # fmt: skip
    records[3]["response"]["tools"] = []
    assert same(there_and_back(store, "nemo-gym", tmp_path / "a.jsonl", records), records)


def test_the_older_shape_comes_back_in_todays(store: LanceStore, tmp_path: Path) -> None:
    output = [{"name": "add", "arguments": {"a": 1}}, {"output": "3"}, {"content": "It is 3."}]
    older = {"responses_create_params": {"input": "1 + 2?"}, "output": output, "reward": 0.1, "accuracy": 1, "note": "x"}  # fmt: skip
    [row] = there_and_back(store, "nemo-gym", tmp_path / "a.jsonl", [older])
    call, answer, closing = row["response"]["output"]
    assert (call["type"], call["name"], json.loads(call["arguments"])) == ("function_call", "add", {"a": 1})
    assert (answer["type"], answer["output"], answer["call_id"]) == ("function_call_output", "3", call["call_id"])
    assert closing["content"][0]["text"] == "It is 3." and closing["role"] == "assistant"
    assert (row["reward"], row["accuracy"], row["note"]) == (0.1, 1, "x") and "output" not in row
    assert row["responses_create_params"]["temperature"] is None


CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":  1}'}}
CHATS = [
    {"messages": [{"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": None, "tool_calls": [CALL]},
                  {"role": "tool", "content": "3", "tool_call_id": "c1"}, {"role": "assistant", "content": ""}],
     "tools": [{"type": "function", "function": {"name": "add", "parameters": {"$ref": "#/$at"}}}]},
    {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}], "name": "Ann"},
                  {"role": "assistant", "content": "Hi", "reasoning_content": "", "weight": 0}, {"role": "user", "content": "Bye"},
                  {"role": "assistant", "tool_calls": [{"name": "wave", "arguments": {"hand": "left"}}]}, {"role": "tool", "content": "ok"}],
     "model": "small", "metadata": {"$gone": ["x"]}},
]  # fmt: skip


def test_chats_come_back(store: LanceStore, tmp_path: Path) -> None:
    assert same(there_and_back(store, "openai-chat", tmp_path / "a.jsonl", CHATS), CHATS)
    [flat] = [row for row in store.read("rollouts").to_pylist() if row["policy_id"] == "small"]
    gaps = ["args_reserialized", "no_call_ids", "no_reward", "no_task", "no_token_ids", "no_tools"]
    assert flat["gaps"] == [*gaps, "unread:messages[].name", "unread:messages[].weight", "unread:metadata"]
    assert flat["messages"][2]["tool_calls"] == [{"id": "call_0", "name": "wave", "arguments": '{"hand": "left"}'}]
    assert flat["messages"][3]["tool_call_id"] == "call_0"


def node(parent: int | None, message: dict[str, Any], prefix: list[int], sampled: list[int] | None = None) -> Episode:
    found = {"message": message, "sampled": sampled is not None, "token_ids": prefix + (sampled or []),
             "mask": [False] * len(prefix) + [True] * len(sampled or []), "logprobs": [-0.123457] * len(sampled or [])}  # fmt: skip
    return found if parent is None else {**found, "parent": parent}


def trace(nodes: list[Episode], id: str = "t1", **fields: Any) -> Episode:
    tool = {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}
    call = {"node": 1, "model": "small", "sampling": {"temperature": 0.7}, "finish_reason": "stop", "usage": {"prompt_tokens": 3}}  # fmt: skip
    return {
        "version": 1, "id": id, "verifiers": {"version": "0.3"}, "task": {"type": "Sums", "data": {"answer": 3}, "key": "k"},
        "agent": {"name": "solver", "trainable": True, "config": {"harness": "x"}}, "tools": [tool], "nodes": nodes, "calls": [call],
        "rewards": {"exact": {"score": 1.0, "weight": 0.5}, "late": None}, "metrics": {"length": 12.0}, "info": {"seed": 1},
        "is_completed": True, "ok": True, "stop_condition": "done", "timing": {"start": 1760000000.25}, **fields,
    }  # fmt: skip


def episode(traces: list[Episode], id: str = "e1") -> Episode:
    work = {"type": "train", "step": 4, "policy": {"start": 3, "end": 4}}
    return {"id": id, "env": {"id": "sums", "name": "Sums"}, "task": {"type": "Sums", "data": {"answer": 3}, "key": "k"},
            "group": {"id": "g1"}, "run": {"type": "train", "id": "r1", "work": work}, "ok": True, "traces": traces}  # fmt: skip


ASKED, SAID = {"role": "user", "content": "1 + 2?"}, {"role": "assistant", "content": "It is 3."}
CALLED = {"role": "assistant", "tool_calls": [{"id": "c1", "name": "add", "arguments": "{}"}]}
ANSWERED = {"role": "tool", "tool_call_id": "c1", "content": "3"}
LINEAR = [node(None, ASKED, [1, 2]), node(0, CALLED, [3], [10, 11]), node(1, ANSWERED, [4]), node(2, SAID, [5], [12])]
LINEAR[1]["advantages"] = [0.5, 0.5]


def test_episodes_come_back(store: LanceStore, tmp_path: Path) -> None:
    forked = [*LINEAR, node(0, {"role": "assistant", "content": "Seven."}, [3], [13])]
    silent = [{"message": message, "sampled": index == 1, **({"parent": 0} if index else {})} for index, message in enumerate((ASKED, SAID))]  # fmt: skip
    episodes = [
        episode([trace(LINEAR)]),
        episode([trace(LINEAR, "t2"), trace(silent, "t3", agent={"name": "critic"}, rewards={})], "e2"),
        episode([trace(forked, "t4")], "e3"),
        episode([trace([], "t5", ok=False, is_completed=False, errors=[{"type": "SandboxError", "message": "gone"}])], "e4"),
    ]  # fmt: skip
    assert same(there_and_back(store, "verifiers", tmp_path / "a.jsonl", episodes), episodes)
    found = {(row["episode_id"], row["agent"], row["branch"]): row for row in store.read("rollouts").to_pylist()}
    assert sorted(found) == [("e1", "solver", 0), ("e2", "critic", 0), ("e2", "solver", 0), ("e3", "solver", 0), ("e3", "solver", 1), ("e4", "solver", 0)]  # fmt: skip
    first = found["e1", "solver", 0]
    assert (first["token_ids"], first["loss_mask"]) == ([10, 11, 4, 5, 12], [1, 1, 0, 0, 1])
    assert first["n_prompt_tokens"] == 3 and len(first["logprobs"]) == 3
    assert (first["reward"], first["step"], first["policy_version"], first["policy_version_last"]) == (0.5, 4, 3, 4)
    assert first["reward_components"] == [{"name": "exact", "value": 1.0, "weight": 0.5}, {"name": "length", "value": 12.0, "weight": None}]  # fmt: skip
    assert "logprobs" not in first["extra"], "tokens are stored once"
    assert found["e3", "solver", 1]["token_ids"] == [13]
    assert len({row["group_id"] for row in found.values() if row["n_turns"]}) == 1, "one group, one task, one model"
    failed = found["e4", "solver", 0]
    assert (failed["status"], failed["error_type"], failed["error_message"]) == ("error", "SandboxError", "gone")
    assert found["e2", "critic", 0]["token_ids"] is None


def test_part_of_an_episode_is_told_by_its_columns(store: LanceStore, tmp_path: Path) -> None:
    forked = [*LINEAR, node(0, {"role": "assistant", "content": "Seven."}, [3], [13])]
    there_and_back(store, "verifiers", tmp_path / "a.jsonl", [episode([trace(forked)])])
    export_file(store, "verifiers", tmp_path / "part.jsonl", where="branch = 1")
    [part] = lines(tmp_path / "part.jsonl")
    [only] = part["traces"]
    assert [node["message"]["content"] for node in only["nodes"]] == ["1 + 2?", "Seven."]
    assert [node["token_ids"] for node in only["nodes"]] == [[1, 2], [3, 13]]


def trajectory(session: str = "s1", **fields: Any) -> Episode:
    call = {"tool_call_id": "c1", "function_name": "add", "arguments": {"a": 1}}
    result = {"source_call_id": "c1", "content": "3"}
    metrics = {"prompt_tokens": 9, "completion_tokens": 2, "completion_token_ids": [5, 6], "logprobs": [-0.1, -0.2]}
    return {
        "schema_version": "ATIF-v1.5", "session_id": session,
        "agent": {"name": "solver", "version": "2", "model_name": "small", "tool_definitions": [{"type": "function", "function": {"name": "add"}}]},
        "steps": [
            {"step_id": 1, "source": "system", "message": "Be exact."},
            {"step_id": 2, "source": "user", "message": "1 + 2?", "timestamp": "2026-01-01T00:00:00Z"},
            {"step_id": 3, "source": "agent", "message": "", "reasoning_content": "Easy.", "tool_calls": [call],
             "observation": {"results": [result, {"content": None}]}, "metrics": metrics, "model_name": "small"},
            {"step_id": 4, "source": "agent", "message": [{"type": "text", "text": "It is 3."}]},
        ],
        "final_metrics": {"total_steps": 4}, **fields,
    }  # fmt: skip


def test_trajectories_come_back(store: LanceStore, tmp_path: Path) -> None:
    plain = [trajectory(), trajectory("s2", notes="x", extra={"job": 1})]
    assert same(there_and_back(store, "atif", tmp_path / "a.jsonl", plain), plain)
    row = store.read("rollouts").to_pylist()[0]
    assert [message["role"] for message in row["messages"]] == ["assistant", "tool", "assistant"]
    assert row["messages"][0]["tool_calls"][0]["arguments"] == '{"a": 1}' and row["messages"][0]["text"] is None
    assert {"args_reserialized", "no_reward"} <= set(row["gaps"])


def test_a_folder_of_trajectories_is_followed_over_files(store: LanceStore, tmp_path: Path) -> None:
    copied = {"step_id": 1, "source": "user", "message": "1 + 2?", "is_copied_context": True}
    more = {"step_id": 2, "source": "agent", "message": "Bye."}
    reference = [{"session_id": "s9", "trajectory_path": "sub.json"}]
    main = trajectory(continued_trajectory_ref="more.json")
    main["steps"][2]["observation"]["results"][0]["subagent_trajectory_ref"] = reference
    files = {"main": main, "more": trajectory(steps=[copied, more]), "sub": trajectory("s9")}
    folder = tmp_path / "in"
    folder.mkdir()
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "broken.json").write_text("{")
    summary = import_file(store, "atif", folder, max_bad=0.5)
    assert (summary.added, summary.bad) == (2, 1)
    found = store.read("rollouts").to_pylist()
    assert len({row["episode_id"] for row in found}) == 1
    assert sorted(row["messages"][-1]["text"] for row in found) == ["Bye.", "It is 3."]
    export_file(store, "atif", tmp_path / "out")
    again = {file["session_id"]: file for file in map(json.loads, [path.read_text() for path in (tmp_path / "out").iterdir()])}  # fmt: skip
    assert again["s9"] == files["sub"]
    assert again["s1"]["steps"] == [*main["steps"], more]
    assert import_file(LanceStore.create(tmp_path / "other"), "atif", tmp_path / "out").added == 2


IMPORTS: dict[str, Callable[[], list[Any]]] = {
    "openai-chat": lambda: [*CHATS, CHATS[0]],
    "verifiers": lambda: [episode([trace(LINEAR, f"t{n}")], f"e{n}") for n in range(3)],
    "atif": lambda: [trajectory(f"s{n}") for n in range(3)],
    "trl": lambda: [{"prompt": "1 + 2?", "completion": "3", "reward": reward} for reward in (0.0, 1.0, 1.0)],
    "verifiers-v0": lambda: [{"example_id": 1, "prompt": [ASKED], "completion": [SAID], "reward": reward} for reward in (0.0, 1.0, 1.0)],
}  # fmt: skip


@pytest.mark.parametrize("format_name", IMPORTS)
def test_again_renamed_or_grown_adds_only_what_is_new(store: LanceStore, tmp_path: Path, format_name: str) -> None:
    *most, last = [json.dumps(record) + "\n" for record in IMPORTS[format_name]()]
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text("".join(most) + last[: len(last) // 2])
    summary = import_file(store, format_name, first)
    assert (summary.added, summary.torn, summary.bad) == (2, 1, 0)
    assert import_file(store, format_name, first).added == 0
    second.write_text("".join([*most, last]))
    assert import_file(store, format_name, second).added == 1
    assert import_file(store, format_name, second).present == 3
    assert store.lance_dataset("rollouts").count_rows() == 3


BAD = {
    "openai-chat": ({"messages": [{"role": "user", "content": "Hi"}]}, "There is no assistant message"),
    "trl": ({"prompt": "Hi"}, "'completion' is missing"),
    "verifiers": ({"id": "e", "traces": []}, "the episode has no trace"),
    "verifiers-v0": ({"prompt": "Hi", "completion": "Hi"}, "'example_id' is missing"),
    "atif": ({"session_id": "s"}, "'steps' is missing"),
}


@pytest.mark.parametrize("format_name", BAD)
def test_a_bad_line_is_set_aside_with_its_reason(store: LanceStore, tmp_path: Path, format_name: str) -> None:
    record, reason = BAD[format_name]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in (IMPORTS[format_name]()[0], record)))
    summary = import_file(store, format_name, file, max_bad=0.5)
    [entry] = lines(Path(summary.quarantine or ""))
    assert (summary.added, summary.bad, entry["line"]) == (1, 1, 2) and reason in entry["reason"]


@pytest.fixture
def collected(tmp_path: Path) -> LanceStore:
    """A store with three rollouts of its own: two that went well and one that failed."""
    store = LanceStore.create(tmp_path / "collected")
    with start_run(store, "collect", "own") as run, RolloutWriter(store, run) as writer:
        good = {"n_prompt_tokens": 3, "tokenizer_hash": "tok", "template_hash": "tpl", "prefix_ok": True, "reward_components": [
            {"name": "sum", "value": 1.0, "weight": None}, {"name": "style", "value": 0.5, "weight": 0.1}]}  # fmt: skip
        failed = {"status": "error", "stop_reason": "error", "error_type": "engine", "error_message": "gone", "messages": [],
                  "token_ids": [], "loss_mask": [], "logprobs": [], "reward": None, "passed": None, "n_turns": 0, "n_tool_calls": 0,
                  "n_tokens": 0, "n_sampled_tokens": 0, "scorer": None, "scorer_version": None, "version_spans": [], "prefix_ok": True}  # fmt: skip
        for index, columns in enumerate((good, {**good, "temperature": 0.5, "step": 3}, failed)):
            writer.add(sum_rollout("own", index, **columns))
    return store


# Worked out anew, or about the place rather than the content.
NEW_IDS = {"rollout_id", "slot_id", "run_id", "group_id", "episode_id", "extra", "gaps"}


@pytest.mark.parametrize("format_name", ["nemo-gym", "verifiers", "atif", "parquet"])
def test_what_was_collected_comes_back_from_formats_that_carry_it(collected: LanceStore, store: LanceStore, tmp_path: Path, format_name: str) -> None:  # fmt: skip
    file = tmp_path / ("out.parquet" if format_name == "parquet" else "out.jsonl")
    exported = export_file(collected, format_name, file)
    assert (exported.rollouts, exported.lost) == (3, {})
    summary = import_file(store, format_name, file)
    assert (summary.added, summary.bad) == (3, 0)
    order = [("sample_index", "ascending")]
    before, after = (place.read("rollouts").sort_by(order).to_pylist() for place in (collected, store))
    for old, new in zip(before, after, strict=True):
        changed = {name: (old[name], new[name]) for name in old if name not in NEW_IDS and old[name] != new[name] and (old[name] or new[name])}  # fmt: skip
        assert changed == {}
    assert [row["token_ids"] for row in store.read("prompt_tokens").to_pylist()] == [[1, 2, 3]]
    assert store.read("tasks").to_pylist()[0]["ground_truth"] == '{"answer": 3}'


def test_parquet_keeps_the_ids(collected: LanceStore, store: LanceStore, tmp_path: Path) -> None:
    file, again = tmp_path / "a.parquet", tmp_path / "b.parquet"
    export_file(collected, "parquet", file)
    assert import_file(collected, "parquet", file).added == 0
    import_file(store, "parquet", file)
    ids = [sorted(place.read("rollouts")["rollout_id"].to_pylist()) for place in (collected, store)]
    assert ids[0] == ids[1]
    export_file(store, "parquet", again)
    import pyarrow.parquet as pq

    tables = [pq.read_table(path).sort_by("rollout_id").to_pylist() for path in (file, again)]
    for old, new in zip(*tables, strict=True):
        assert {name for name in old if old[name] != new[name] and (old[name] or new[name])} == set()


def test_nemo_gym_files_beside(collected: LanceStore, tmp_path: Path) -> None:
    export_file(collected, "nemo-gym", tmp_path / "out.jsonl")
    results, inputs, failures = (lines(tmp_path / f"out{name}.jsonl") for name in ("", "_materialized_inputs", "_failures"))  # fmt: skip
    assert [(row["_ng_task_index"], row["_ng_rollout_index"]) for row in inputs] == [(0, 0), (0, 1), (0, 2)]
    assert [row["_ng_rollout_index"] for row in results] == [0, 1] and [row["_ng_rollout_index"] for row in failures] == [2]  # fmt: skip
    assert inputs[0]["ground_truth"] == results[0]["ground_truth"] == {"answer": 3}
    assert (failures[0]["_ng_failure_class"], failures[0]["response"]["error"]["message"]) == ("engine", "gone")
    call, answer, closing = results[0]["response"]["output"]
    assert (call["prompt_token_ids"], call["generation_token_ids"]) == ([1, 2, 3], [10, 11])
    assert (closing["prompt_token_ids"], closing["generation_log_probs"]) == ([1, 2, 3, 10, 11, 12], [-0.125])
    assert "prompt_token_ids" not in answer and results[0]["response"]["tools"][0]["name"] == "add"
    assert results[0]["reward_components"] == {"sum": {"value": 1.0, "weight": None}, "style": {"value": 0.5, "weight": 0.1}}  # fmt: skip


def test_failed_attempts_share_the_slot_of_the_result(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    results = [rows.result(), rows.result(_ng_rollout_index=1)]
    attempt = {"responses_create_params": rows.params(), "_ng_task_index": 0, "_ng_rollout_index": 0, "_ng_failure_class": "timeout", "error": "too slow"}  # fmt: skip
    bare = {name: value for name, value in attempt.items() if name != "responses_create_params"} | {
        "_ng_rollout_index": 5
    }
    planned = {
        "responses_create_params": rows.params(),
        "_ng_task_index": 0,
        "_ng_rollout_index": 5,
        "ground_truth": [3],
    }
    rows.write(tmp_path / "a_materialized_inputs.jsonl", [planned])
    rows.write(tmp_path / "a_failures.jsonl", [attempt, attempt, bare])
    rows.write(tmp_path / "a.jsonl", results)
    assert import_file(store, "nemo-gym", tmp_path / "a.jsonl").added == 5
    assert import_file(store, "nemo-gym", tmp_path / "a.jsonl").added == 0
    from rollhouse.queries.session import sql

    found = sql(store, "SELECT sample_index, attempt, status, error_type FROM final_rollouts ORDER BY 1").to_pylist()
    assert [tuple(row.values()) for row in found] == [(0, 2, "completed", None), (1, 0, "completed", None), (5, 0, "error", "timeout")]  # fmt: skip
    assert {row["error_message"] for row in store.read("rollouts").to_pylist()} == {None, "too slow"}
    export_file(store, "nemo-gym", tmp_path / "b.jsonl")
    assert same(lines(tmp_path / "b.jsonl"), results)
    assert same(lines(tmp_path / "b_failures.jsonl"), [attempt, attempt, bare])


def test_the_real_nemo_gym_files_come_back(store: LanceStore, conformance: Path, tmp_path: Path) -> None:
    for name in ("example_rollouts", "rollouts_plain", "rollouts_with_token_ids"):
        place = LanceStore.create(tmp_path / name)
        file = conformance / f"{name}.jsonl"
        import_file(place, "nemo-gym", file)
        export_file(place, "nemo-gym", tmp_path / file.name)
        assert same(lines(tmp_path / file.name), lines(file))


def test_summaries_have_the_fields_people_script_against() -> None:
    assert list(ImportSummary("r", "f").__dict__) == ["run_id", "file", "rows", "added", "present", "torn", "bad", "quarantine", "gaps", "counts", "format", "redacted"]  # fmt: skip
    assert list(ExportSummary("f").__dict__) == ["file", "rollouts", "left_out", "lost"]
