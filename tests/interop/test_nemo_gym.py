"""Result rows of NeMo Gym, in every shape, become rollouts."""

import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.base.errors import FormatError
from rollhouse.interop.nemo_gym import ImportSummary, import_nemo_gym
from rollhouse.store.ids import prompt_id, task_id
from rollhouse.store.lance_store import LanceStore


def bring_in(store: LanceStore, rows: Any, path: Path, lines: list[Any], **options: Any) -> tuple[ImportSummary, list[dict[str, Any]]]:  # fmt: skip
    summary = import_nemo_gym(store, rows.write(path, lines), **options)
    return summary, store.read("rollouts").to_pylist()


def test_a_row_becomes_messages_a_verdict_and_references(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(accuracy=0.5)])
    said = [(message["role"], message["text"]) for message in rollout["messages"]]
    assert said == [("assistant", None), ("tool", '{"output":3}'), ("assistant", "It is 3.")]
    first = rollout["messages"][0]
    assert first["reasoning"] == "Easy."
    assert first["tool_calls"] == [{"id": "c1", "name": "add", "arguments": '{"a": 1,  "b": 2}'}]
    assert rollout["messages"][1]["tool_call_id"] == "c1"
    assert (rollout["reward"], rollout["passed"], rollout["policy_id"]) == (1.0, True, "little")
    assert rollout["reward_components"] == [{"name": "accuracy", "value": 0.5, "weight": None}]
    assert (rollout["temperature"], rollout["top_p"], rollout["max_tokens"]) == (1.0, 1.0, None)
    assert (rollout["n_turns"], rollout["n_tool_calls"], rollout["status"]) == (2, 1, "completed")
    assert (rollout["environment"], rollout["engine"]) == ("calculator_agent", "nemo-gym")
    assert rollout["token_ids"] is None and rollout["prefix_ok"] is None
    assert rollout["gaps"] == ["call_boundaries_inferred", "no_inputs_file", "no_task", "no_token_ids"]
    [score] = store.read("scores").to_pylist()
    assert (score["rollout_id"], score["reward"], score["components"]) == (
        rollout["rollout_id"], 1.0, rollout["reward_components"],
    )  # fmt: skip


def test_the_prompt_is_the_one_a_task_file_gives(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result()])
    [prompt] = store.read("prompts").to_pylist()
    tools = json.loads(prompt["tools"])
    assert tools[0]["function"]["name"] == "add" and "name" not in tools[0]
    messages = [{"role": "system", "content": "You calculate."}, {"role": "user", "content": "1 + 2?"}]
    assert prompt["prompt_id"] == rollout["prompt_id"] == prompt_id(messages, tools)


def test_extra_holds_the_rest_and_no_second_copy_of_the_tools(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(note="kept", accuracy=0.5)])
    extra = json.loads(rollout["extra"])["nemo-gym"]
    assert (extra["_ng_task_index"], extra["note"]) == (0, "kept")
    assert extra["response"]["usage"] == {"input_tokens": 9} and "tools" not in extra["response"]
    assert extra["response"]["output"]["$at"]["1"] == {"id": "f1"}
    assert "It is 3." not in rollout["extra"] and "Adds." not in rollout["extra"]


def test_tokens_become_one_sequence(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    output = rows.items(rows.tokens([1, 2], [10, 11]), rows.tokens([1, 2, 10, 11, 3, 4], [12], -0.25))
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(output)])
    assert rollout["token_ids"] == [10, 11, 3, 4, 12]
    assert rollout["loss_mask"] == [1, 1, 0, 0, 1]
    assert rollout["logprobs"] == [-0.5, -0.5, -0.25]
    assert (rollout["n_prompt_tokens"], rollout["n_sampled_tokens"], rollout["prefix_ok"]) == (2, 3, True)
    assert rollout["gaps"] == ["no_inputs_file", "no_task"]
    [tokens] = store.read("prompt_tokens").to_pylist()
    assert tokens["token_ids"] == [1, 2] and tokens["template_hash"] == rollout["template_hash"]


def test_prompts_that_do_not_continue_keep_their_own_tokens(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    output = rows.items(rows.tokens([1, 2], [10, 11]), rows.tokens([1, 2, 99, 3], [12]))
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(output)])
    assert rollout["prefix_ok"] is False and rollout["token_ids"] is None
    assert "prompts_not_contiguous" in rollout["gaps"]
    items = json.loads(rollout["extra"])["nemo-gym"]["response"]["output"]["$at"]
    assert items["1"]["prompt_token_ids"] == [1, 2] and items["3"]["prompt_token_ids"] == [1, 2, 99, 3]
    assert items["3"]["generation_log_probs"] == [-0.5]


def test_two_calls_with_tokens_are_told_apart(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    thought = {"type": "reasoning", "summary": [], **rows.tokens([1], [5])}
    said = {"type": "message", "content": [{"type": "output_text", "text": "Yes"}], **rows.tokens([1, 5], [6])}
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result([thought, said])])
    assert [message["text"] for message in rollout["messages"]] == [None, "Yes"]
    assert (rollout["n_turns"], rollout["loss_mask"]) == (2, [1, 1])


def test_the_older_shape(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    output = [
        {"name": "add", "arguments": {"a": 1}},
        {"output": "3"},
        {"content": "It is 3."},
    ]
    row = {"responses_create_params": {"input": "1 + 2?"}, "output": output, "reward": 0.5, "accuracy": 1}
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [row])
    assert rollout["messages"][0]["tool_calls"] == [{"id": "call_0", "name": "add", "arguments": '{"a": 1}'}]
    assert rollout["messages"][1]["tool_call_id"] == "call_0"
    assert (rollout["messages"][2]["text"], rollout["reward"], rollout["passed"]) == ("It is 3.", 0.5, False)
    assert rollout["gaps"] == [
        "args_reserialized", "no_call_ids", "no_inputs_file", "no_system_prompt", "no_task", "no_token_ids", "no_tools",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"incomplete_details": {"reason": "max_output_tokens"}}, "truncated", "length"),
        ({"error": {"message": "overloaded"}}, "error", "error"),
        ({}, "completed", "stop"),
    ],
)
def test_how_it_ended(store: LanceStore, rows: Any, tmp_path: Path, changes: dict, status: str, reason: str) -> None:
    row = rows.result()
    row["response"] |= changes
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [row])
    assert (rollout["status"], rollout["stop_reason"]) == (status, reason)
    assert rollout["error_message"] == ("overloaded" if status == "error" else None)


def test_ending_with_a_tool_is_the_turn_limit(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(rows.items()[:3])])
    assert (rollout["status"], rollout["stop_reason"]) == ("truncated", "max_turns")


def test_again_renamed_or_grown_adds_only_what_is_new(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    lines = [rows.result(), rows.result(), rows.result(reward=0.0, _ng_rollout_index=1)]
    summary, rollouts = bring_in(store, rows, tmp_path / "a.jsonl", lines)
    assert (summary.added, len({row["rollout_id"] for row in rollouts})) == (3, 3)
    assert len({row["group_id"] for row in rollouts}) == 1
    for path, grown in ((tmp_path / "a.jsonl", []), (tmp_path / "b.jsonl", [rows.result(question="2 + 2?")])):
        summary, rollouts = bring_in(store, rows, path, lines + grown)
        assert (summary.added, summary.present) == (len(grown), 3)
    assert len(rollouts) == 4 and store.read("scores").num_rows == 4
    assert store.read("prompts").num_rows == store.read("tasks").num_rows == 2
    summary, _ = bring_in(store, rows, tmp_path / "a.jsonl", lines, source_run="elsewhere")
    assert summary.added == 3


def test_truths_come_from_the_inputs_beside(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    inputs = {"_ng_task_index": 0, "_ng_rollout_index": 0, "id": 7, "ground_truth": [{"name": "add"}], "category": "sums", "environment_name": "calculator"}  # fmt: skip
    rows.write(tmp_path / "a_materialized_inputs.jsonl", [inputs])
    _, [rollout] = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result()])
    [task] = store.read("tasks").to_pylist()
    assert task["task_id"] == task_id("calculator", rollout["prompt_id"], [{"name": "add"}], None)
    assert (json.loads(task["ground_truth"]), task["category"], task["source_key"]) == ([{"name": "add"}], "sums", "7")
    assert rollout["task_id"] == task["task_id"]
    assert "no_task" not in rollout["gaps"] and "no_inputs_file" not in rollout["gaps"]


def test_without_truth_the_one_task_of_the_prompt_is_joined(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(ground_truth=[1], category="x")])
    _, rollouts = bring_in(store, rows, tmp_path / "b.jsonl", [rows.result(reward=0.0)])
    assert len({row["task_id"] for row in rollouts}) == 1
    bring_in(store, rows, tmp_path / "c.jsonl", [rows.result(ground_truth=[2])])
    _, rollouts = bring_in(store, rows, tmp_path / "d.jsonl", [rows.result(reward=0.25)])
    [ambiguous] = [row for row in rollouts if row["reward"] == 0.25]
    assert "no_task" in ambiguous["gaps"]


BAD = {
    "{": "not JSON",
    "[1]": "not a JSON object",
    '{"reward": 1}': "'responses_create_params' is missing",
    '{"responses_create_params": {"input": "x"}, "response": {}, "output": []}': None,
    '{"responses_create_params": {"input": "x"}, "output": [], "reward": NaN}': "reward is nan",
    '{"responses_create_params": {"input": "x"}, "output": [], "reward": "high"}': "could not convert",
    '{"responses_create_params": {"input": "x"}, "output": [{"type": "message", "content": "a", "prompt_token_ids": [1],'
    ' "generation_token_ids": [2], "generation_log_probs": [NaN]}]}': "not a finite number",
    '{"responses_create_params": {"input": "x"}, "output": [{"type": "message", "content": "a", "prompt_token_ids": [1],'
    ' "generation_token_ids": [2, 3], "generation_log_probs": [0]}]}': "2 generated tokens have 1 logprobs",
}  # fmt: skip


@pytest.mark.parametrize(("line", "reason"), [(line, reason) for line, reason in BAD.items() if reason])
def test_bad_lines_are_set_aside(store: LanceStore, rows: Any, tmp_path: Path, line: str, reason: str) -> None:
    summary, rollouts = bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(), line, rows.result(reward=0.0)], max_bad=0.5)  # fmt: skip
    assert (summary.rows, summary.added, summary.bad, len(rollouts)) == (2, 2, 1, 2)
    [entry] = [json.loads(text) for text in Path(summary.quarantine or "").read_text().splitlines()]
    assert entry["line"] == 2 and reason in entry["reason"] and entry["text"] == line + "\n"
    with pytest.raises(FormatError, match="Line 2"):
        bring_in(store, rows, tmp_path / "b.jsonl", [rows.result(), line], strict=True)


def test_too_many_bad_lines_fail_after_the_good_ones_are_in(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"1 of 3 lines .* are bad"):
        bring_in(store, rows, tmp_path / "a.jsonl", [rows.result(), "{", rows.result(reward=0.0)])
    assert store.read("rollouts").num_rows == 2


def test_a_torn_last_line_is_not_done_yet(store: LanceStore, rows: Any, tmp_path: Path) -> None:
    path = rows.write(tmp_path / "a.jsonl", [rows.result(), rows.result(reward=0.0)])
    path.write_text(path.read_text()[:-9])
    summary = import_nemo_gym(store, path, strict=True)
    assert (summary.added, summary.torn, summary.bad) == (1, 1, 0)
    rows.write(path, [rows.result(), rows.result(reward=0.0)])
    assert import_nemo_gym(store, path).added == 1


def test_the_real_files(store: LanceStore, conformance: Path) -> None:
    file = conformance / "example_rollouts.jsonl"
    first, again = import_nemo_gym(store, file), import_nemo_gym(store, file)
    assert (first.rows, first.added, again.added, again.present) == (5, 5, 0, 5)
    plain = import_nemo_gym(store, conformance / "rollouts_plain.jsonl")
    assert plain.added == 2 and plain.gaps["no_token_ids"] == 2
    assert import_nemo_gym(store, conformance / "rollouts_with_token_ids.jsonl").added == 2
    rollouts = store.read("rollouts").to_pylist()
    assert {row["environment"] for row in rollouts} == {"workplace"} and {row["status"] for row in rollouts} == {"completed"}  # fmt: skip
    with_tokens = [row for row in rollouts if row["token_ids"] is not None]
    assert [(row["n_prompt_tokens"], row["n_tokens"], row["n_sampled_tokens"]) for row in with_tokens] == [(2300, 160, 120)] * 2  # fmt: skip
    assert all(row["prefix_ok"] and len(row["logprobs"]) == 120 for row in with_tokens)
    assert max(len(row["extra"]) for row in rollouts) < 3000
