"""What is written for other tools is loaded by them, or by the packages that define their formats."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from rollhouse.interop.detect import detect
from rollhouse.interop.exporting import export_file
from rollhouse.interop.importing import import_file
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.messages import Message, ToolCall
from rollhouse.store.runs import start_run
from rollhouse.store.writer import RolloutWriter
from rollhouse.tests.rows import sum_rollout

Row = dict[str, Any]

CALLS = (ToolCall("call_0", "add", '{"a": 1, "b": 2}'), ToolCall("call_1", "add", '{"a": 3,  "b": 0}'))
TALK = [
    Message("assistant", None, CALLS, reasoning="Both."),
    Message("tool", "3", tool_call_id="call_0"),
    Message("tool", "3", tool_call_id="call_1"),
    Message("assistant", "Both are 3."),
]


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> LanceStore:
    """A store with two rollouts of one task, and one that broke off at a call that is no JSON."""
    store = LanceStore.create(tmp_path_factory.mktemp("collected") / "store")
    broken = [Message("assistant", "I add.", (ToolCall("call_0", "add", '{"a": 1'),))]
    with start_run(store, "collect", "first", {}) as run, RolloutWriter(store, run, journal=False) as writer:
        kept = {"token_ids": [10, 11, 12, 13, 14], "loss_mask": [1, 1, 0, 0, 1], "temperature": 0.5}
        writer.add_many([
            sum_rollout(run.run_id, 0, messages=TALK, **kept), sum_rollout(run.run_id, 1),
            sum_rollout(run.run_id, 2, messages=broken, status="truncated", reward=0.0, passed=False, token_ids=None, loss_mask=None, logprobs=None, prompt_token_ids=None),
        ])  # fmt: skip
        run.finish({})
    return store


def rows(store: LanceStore, *names: str) -> list[Row]:
    return sorted((row for row in store.read("rollouts", ["sample_index", *names]).to_pylist()), key=lambda row: row["sample_index"])  # fmt: skip


def lines(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("file", ["traces.json", "traces.jsonl", "log.eval"])
def test_what_carries_everything_comes_back(collected: LanceStore, tmp_path: Path, file: str) -> None:
    name = "inspect" if file.endswith(".eval") else "otel"
    summary = export_file(collected, name, tmp_path / file)
    assert (summary.rollouts, summary.lost) == (3, {})
    assert detect(tmp_path / file).format == name
    other = LanceStore.create(tmp_path / "store")
    assert import_file(other, name, tmp_path / file).added == 3
    columns = ("reward", "passed", "status", "stop_reason", "token_ids", "loss_mask", "logprobs", "policy_id", "temperature", "scorer", "started_at")  # fmt: skip
    for back, mine in zip(rows(other, *columns), rows(collected, *columns), strict=True):
        assert {key: value for key, value in back.items() if value != mine[key]} == {}
    ours, theirs = (rows(store, "messages") for store in (collected, other))
    for mine, back in zip(ours, theirs, strict=True):
        told = [json.loads(call["arguments"]) for message in back["messages"] for call in message["tool_calls"] if name == "inspect"]  # fmt: skip
        if name == "otel":
            assert mine["messages"] == back["messages"]
        else:  # arguments are objects there
            assert [message["text"] or "" for message in mine["messages"]] == [message["text"] or "" for message in back["messages"]]  # fmt: skip
            assert told in ([{"a": 1, "b": 2}, {"a": 3, "b": 0}], [{"a": 1, "b": 2}], [{"raw": '{"a": 1'}])
    assert sum(export_file(collected, name, tmp_path / f"plain-{file}", plain=True).lost.values()) > 0


def test_opentelemetry_reads_the_traces(collected: LanceStore, tmp_path: Path) -> None:
    from google.protobuf import json_format
    from opentelemetry.proto.trace.v1.trace_pb2 import TracesData

    export_file(collected, "otel", tmp_path / "traces.json")
    told = json.loads((tmp_path / "traces.json").read_text())
    for resource in told["resourceSpans"]:
        for span in resource["scopeSpans"][0]["spans"]:
            for name in {"traceId", "spanId", "parentSpanId"} & span.keys():
                # OTLP's JSON has hexadecimal ids where protobuf's has base64.
                span[name] = base64.b64encode(bytes.fromhex(span[name])).decode()
    spans = [span for resource in json_format.ParseDict(told, TracesData()).resource_spans for span in resource.scope_spans[0].spans]  # fmt: skip
    assert {len(span.trace_id) for span in spans} == {16} and {len(span.span_id) for span in spans} == {8}
    names = [span.name for span in spans]
    assert names.count("invoke_agent main") == 3 and names.count("chat scripted") == 5 and names.count("execute_tool add") == 3  # fmt: skip
    by_parent = {span.parent_span_id for span in spans} - {b""}
    assert by_parent == {span.span_id for span in spans if span.name == "invoke_agent main"}


@pytest.mark.system
def test_inspect_reads_its_logs(collected: LanceStore, tmp_path: Path) -> None:
    log = pytest.importorskip("inspect_ai.log")
    export_file(collected, "inspect", tmp_path / "log.eval")
    header = log.read_eval_log(str(tmp_path / "log.eval"), header_only=True)
    assert (header.status, header.eval.task, header.results.total_samples) == ("success", "calculator", 3)
    samples = list(log.read_eval_log_samples(str(tmp_path / "log.eval")))
    assert sorted(sample.epoch for sample in samples) == [1, 2, 3]
    assert {sample.messages[1].tool_calls[0].function for sample in samples} == {"add"}
    assert len(log.read_eval_log_sample_summaries(str(tmp_path / "log.eval"))) == 3


def test_sharegpt(collected: LanceStore, tmp_path: Path) -> None:
    from trl.data_utils import maybe_convert_to_chatml

    summary = export_file(collected, "sharegpt", tmp_path / "a.jsonl")
    assert summary.rollouts == 2 and summary.left_out == {"arguments are not a JSON object": 1}
    assert summary.lost["messages.reasoning beside calls"] == 1 and summary.lost["messages.tool_calls.id"] == 2
    [two] = [line for line in lines(tmp_path / "a.jsonl") if "Both" in line["conversations"][-1]["value"]]
    assert [turn["from"] for turn in two["conversations"]] == ["human", "function_call", "observation", "gpt"]
    assert [call["arguments"] for call in json.loads(two["conversations"][1]["value"])] == [{"a": 1, "b": 2}, {"a": 3, "b": 0}]  # fmt: skip
    chat = maybe_convert_to_chatml({"conversations": two["conversations"]})
    assert chat["messages"][-1]["content"] == "Both are 3."
    other = LanceStore.create(tmp_path / "store")
    assert detect(tmp_path / "a.jsonl").format == "columns" and import_file(other, "sharegpt", tmp_path / "a.jsonl").added == 2  # fmt: skip
    assert {row["n_tool_calls"] for row in other.read("rollouts", ["n_tool_calls"]).to_pylist()} == {1, 2}


def test_openai_takes_the_lines_for_finetuning(collected: LanceStore, tmp_path: Path) -> None:
    from openai.types.chat import ChatCompletionFunctionToolParam, ChatCompletionMessageParam
    from pydantic import ConfigDict, TypeAdapter

    summary = export_file(collected, "openai-finetuning", tmp_path / "a.jsonl")
    assert summary.rollouts == 2 and summary.left_out == {"arguments are not a JSON object": 1}
    assert summary.lost["messages.reasoning"] == 1
    read = lines(tmp_path / "a.jsonl")
    for line in read:
        TypeAdapter(list[ChatCompletionMessageParam], config=ConfigDict(extra="forbid")).validate_python(
            line["messages"]
        )
        TypeAdapter(list[ChatCompletionFunctionToolParam]).validate_python(line["tools"])
        assert line["messages"][-1]["role"] == "assistant" and "reasoning_content" not in str(line)
    assert sorted(line["parallel_tool_calls"] for line in read) == [False, True]


def test_verl_prompts(collected: LanceStore, tmp_path: Path) -> None:
    from datasets import load_dataset

    summary = export_file(collected, "verl-prompt", tmp_path / "a.parquet")
    assert summary.lost["messages"] == 3 and "task_id" not in summary.lost
    data = load_dataset("parquet", data_files=str(tmp_path / "a.parquet"), split="train", cache_dir=str(tmp_path))
    [row] = data.to_list()
    assert row["prompt"] == [{"role": "user", "content": "Add 1 and 2."}] and row["data_source"] == "calculator"
    assert row["reward_model"] == {"style": "rule", "ground_truth": '{"answer": 3}'} and row["extra_info"]["index"] == 0
