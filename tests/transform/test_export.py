"""Versions as files: what each consumer reads in them."""

import json
from pathlib import Path

import pytest
from rollhouse.base.errors import ConfigError, EmptyDataset
from rollhouse.store.messages import Message
from rollhouse.transform import materialize
from rollhouse.transform.build import build_dpo, build_grpo, build_sft
from rollhouse.transform.explain import diff, diff_rows
from rollhouse.transform.export import export_dataset
from rollhouse.transform.materialize import iter_dpo, iter_sft
from rollhouse.transform.options import DpoOptions, GrpoOptions, SftOptions
from rollhouse.transform.versions import get_dataset


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def said(text: str) -> list[dict]:
    return [Message("assistant", text).to_row()]


def fill(filled) -> str:
    """Two tasks with tools, each solved and failed; one of plain answers."""
    for task in ("a", "b"):
        filled.rollout(task, 1.0)
        filled.rollout(task, 0.0, 1)
    filled.task("plain", tools=())
    filled.rollout("plain", 1.0, messages=said("Paris."), n_tool_calls=0)
    filled.rollout("plain", 0.0, 1, messages=said("Rome."), n_tool_calls=0)
    return filled.snapshot()


def test_demonstrations(filled, tmp_path) -> None:
    demos = build_sft(filled.store, "demos", fill(filled))
    openai = export_dataset(filled.store, demos, "openai", tmp_path / "openai.jsonl")
    assert openai.rows == 3 and not openai.left_out
    for row in lines(tmp_path / "openai.jsonl"):
        assert row["messages"][-1]["role"] == "assistant"
        calls = [call for message in row["messages"] for call in message.get("tool_calls", [])]
        assert bool(calls) == ("tools" in row)
        for call in calls:
            assert call["type"] == "function" and call["function"]["arguments"].startswith('{ "to":"')
    export_dataset(filled.store, demos, "nemo-messages", tmp_path / "nemo.jsonl")
    rows = lines(tmp_path / "nemo.jsonl")
    assert {tuple(row) for row in rows} == {("messages", "tools")} and [row["tools"] for row in rows].count(None) == 1
    calls = [call for row in rows for message in row["messages"] for call in message["tool_calls"] or ()]
    assert calls and all(isinstance(call["function"]["arguments"], dict) for call in calls)
    trl = export_dataset(filled.store, demos, "trl-messages", tmp_path / "trl.parquet")
    assert trl.rows == 3
    plain = export_dataset(filled.store, build_sft(filled.store, "p", "s1"), "trl", tmp_path / "trl.jsonl")
    assert plain.rows == 3 and set(lines(tmp_path / "trl.jsonl")[0]) >= {"prompt", "completion", "tools", "rollout_id"}
    with pytest.raises(EmptyDataset, match="3 rows"):
        export_dataset(filled.store, demos, "nemo-response", tmp_path / "no.jsonl")
    assert not (tmp_path / "no.jsonl").exists()
    with pytest.raises(ConfigError, match="Formats are trl, trl-messages"):
        export_dataset(filled.store, demos, "nemo-binary", tmp_path / "no.jsonl")
    with pytest.raises(ConfigError, match="cannot be written as Parquet"):
        export_dataset(filled.store, demos, "openai", tmp_path / "no.parquet")


def test_a_file_is_what_its_name_says(filled, tmp_path) -> None:
    filled.rollout("a", 1.0)
    demos = build_sft(filled.store, "demos", filled.snapshot())
    with pytest.raises(ConfigError, match=r"Unsupported extension \.csv"):
        export_dataset(filled.store, demos, "trl", tmp_path / "demos.csv")
    assert not list(tmp_path.glob("demos*"))


def test_a_plain_question_and_answer_is_a_response(filled, tmp_path) -> None:
    filled.task("q", tools=(), system=None, text="Capital of France?")
    filled.rollout("q", 1.0, messages=said("Paris."), n_tool_calls=0)
    demos = build_sft(filled.store, "demos", filled.snapshot())
    export_dataset(filled.store, demos, "nemo-response", tmp_path / "r.jsonl")
    assert lines(tmp_path / "r.jsonl") == [{"input": "Capital of France?", "output": "Paris."}]


def test_pairs(filled, tmp_path) -> None:
    pairs = build_dpo(filled.store, "pairs", fill(filled))
    export_dataset(filled.store, pairs, "nemo-preference", tmp_path / "p.jsonl")
    for row in lines(tmp_path / "p.jsonl"):
        assert [message["role"] for message in row["context"]] == ["system", "user"]
        assert [completion["rank"] for completion in row["completions"]] == [0, 1]
    binary = export_dataset(filled.store, pairs, "nemo-binary", tmp_path / "b.jsonl")
    assert binary.rows == 1 and binary.left_out == {"a side is more than one plain answer": 2}
    (row,) = lines(tmp_path / "b.jsonl")
    assert (row["chosen"], row["rejected"]) == ("Paris.", "Rome.")
    assert export_dataset(filled.store, pairs, "trl", tmp_path / "p.parquet").rows == 3


def test_what_nemo_rl_s_loaders_take(filled, tmp_path) -> None:
    """Its datasets read the files with `load_dataset("json")` and take these keys, of these types."""
    from datasets import load_dataset

    filled.task("q", tools=(), system=None, text="Capital of France?")
    filled.rollout("q", 1.0, messages=said("Paris."), n_tool_calls=0)
    snapshot = fill(filled)
    demos, pairs = build_sft(filled.store, "demos", snapshot), build_dpo(filled.store, "pairs", snapshot)
    rows = {}
    for format, dataset in {"openai": demos, "nemo-response": demos, "nemo-preference": pairs, "nemo-binary": pairs}.items():  # fmt: skip
        path = tmp_path / f"{format}.jsonl"
        exported = export_dataset(filled.store, dataset, format, path)
        loaded = load_dataset("json", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
        assert len(loaded) == exported.rows > 0
        rows[format] = lines(path)
    assert all(set(row) == {"input", "output"} for row in rows["nemo-response"])
    assert all(isinstance(value, str) for row in rows["nemo-response"] for value in row.values())
    for row in rows["nemo-binary"]:
        assert set(row) == {"prompt", "chosen", "rejected"} and is_chat(row["prompt"])
        assert isinstance(row["chosen"], str) and isinstance(row["rejected"], str)
    for row in rows["nemo-preference"]:
        assert {"context", "completions"} <= set(row) <= {"context", "completions", "tools"} and is_chat(row["context"])
        assert [set(side) for side in row["completions"]] == [{"rank", "completion"}] * 2
        assert [side["rank"] for side in row["completions"]] == [0, 1]
        assert all(is_chat(side["completion"]) and side["completion"][0]["role"] == "assistant" for side in row["completions"])  # fmt: skip
    for row in rows["openai"]:
        assert {"messages"} <= set(row) <= {"messages", "tools"} and is_chat(row["messages"])
        assert all(tool["type"] == "function" for tool in row.get("tools", []))


def is_chat(messages: object) -> bool:
    """Whether this is a list of messages whose content is text (or, of a call, nothing)."""
    assert isinstance(messages, list) and messages
    return all(
        message["role"] in ("system", "user", "assistant", "tool")
        and (isinstance(message.get("content"), str) or bool(message.get("tool_calls")))
        for message in messages
    )


def test_prompts_with_their_truth_and_weight(filled, tmp_path) -> None:
    prompts = build_grpo(filled.store, "prompts", fill(filled), GrpoOptions(weights="variance"))
    export_dataset(filled.store, prompts, "trl", tmp_path / "g.jsonl")
    rows = lines(tmp_path / "g.jsonl")
    assert [row["task_id"] for row in rows] == [row["task_id"] for row in prompts.references.to_dicts()]
    assert all(row["weight"] == 1.0 and json.loads(row["ground_truth"]) for row in rows)


def test_materialising_reads_a_few_rows_at_a_time(filled, monkeypatch) -> None:
    monkeypatch.setattr(materialize, "_ROWS_AT_ONCE", (1, 2))
    monkeypatch.setattr(materialize, "_BYTES_AT_ONCE", 1 << 20)
    taken: list[int] = []
    get = materialize._Lookup.get
    monkeypatch.setattr(materialize._Lookup, "get", lambda self, keys, **more: taken.append(len(keys)) or get(self, keys, **more))  # fmt: skip
    snapshot = fill(filled)
    demos, pairs = build_sft(filled.store, "demos", snapshot), build_dpo(filled.store, "pairs", snapshot)
    assert [row.rollout_id for row in iter_sft(filled.store, demos)] == [
        row["rollout_id"] for row in demos.references.to_dicts()
    ]
    assert max(taken) == 2, "small rows are read together, as many as may be"
    taken.clear()
    monkeypatch.setattr(materialize, "_BYTES_AT_ONCE", 1)
    sides = [side.rollout_id for pair in iter_dpo(filled.store, pairs) for side in (pair.chosen, pair.rejected)]
    assert sides == [row["rollout_id"] for row in pairs.references.to_dicts()] and max(taken) == 1, "large ones are not"


def test_two_versions_compared(filled) -> None:
    snapshot = fill(filled)
    build_sft(filled.store, "demos", snapshot)
    build_sft(filled.store, "demos", snapshot, SftOptions(max_rows=1, seed=3))
    one, two = get_dataset(filled.store, "demos@1"), get_dataset(filled.store, "demos@2")
    found = diff(one, two)
    assert (found["in_both"], found["only_left"], found["only_right"]) == (1, 2, 0)
    assert {row["option"] for row in found["recipe"]} == {"max_rows", "seed"}
    assert found["reasons"] == [{"side": "only_left", "reason": "over 1 rows", "n": 2}]
    assert {row["only_in"] for row in diff_rows(one, two)} == {"demos@1"} and len(diff_rows(one, two)) == 2
    same = diff(one, one)
    assert same["in_both"] == 3 and same["reordered"] == 0 and not same["recipe"] and not same["reasons"]


def test_pairs_and_kinds_compared(filled) -> None:
    snapshot = fill(filled)
    one = build_dpo(filled.store, "pairs", snapshot)
    two = build_dpo(filled.store, "pairs", snapshot, DpoOptions(max_pairs=1))
    assert diff(one, two)["only_left"] == 2
    with pytest.raises(ConfigError, match=r"of kind dpo and .* of kind sft"):
        diff(one, build_sft(filled.store, "demos", snapshot))
