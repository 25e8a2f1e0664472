"""What no column takes is named in a gap and kept; what a source says of a part is not said of the whole; what was not the policy's is not learned."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rollhouse.interop.config import ImportConfig
from rollhouse.interop.detect import detect
from rollhouse.interop.exporting import export_file
from rollhouse.interop.importing import ImportSummary, run_import
from rollhouse.queries.session import sql
from rollhouse.store.adding import add_rollouts
from rollhouse.store.lance_store import LanceStore
from rollhouse.store.rollout import Rollout
from rollhouse.store.snapshots import create_snapshot
from rollhouse.tests.interop import samples
from rollhouse.transform.build import build_sft
from rollhouse.transform.materialize import iter_sft
from rollhouse.transform.options import SftOptions

Row = dict[str, Any]
HI, HELLO = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}


@pytest.fixture
def stores(tmp_path: Path) -> Iterator[Any]:
    """Imports a file into a store of its own."""
    numbers = iter(range(100))

    def read_in(path: Path, format: str | None = None, **options: Any) -> tuple[LanceStore, ImportSummary]:
        store = LanceStore.create(tmp_path / f"store-{next(numbers)}")
        return store, run_import(store, format, path, ImportConfig(**options))

    yield read_in


def rows(store: LanceStore, columns: str, order: str = "1") -> list[Row]:
    return sql(store, f"select {columns} from rollouts order by {order}").to_pylist()


def test_choices_failed_calls_and_scores_of_parts(stores: Any, tmp_path: Path) -> None:
    """A trace with a call of two choices, one that failed, and one without content; a score of the trace and one of a call."""
    common = {"trace_id": "t", "type": "GENERATION", "model_parameters": '{"temperature": 0.5, "stop": "x"}'}
    choices = {"choices": [{"message": HELLO}, {"message": {**HELLO, "content": "Hey."}}]}
    asked = [HI, HELLO, {"role": "user", "content": "Bye"}]
    observations = [
        {**common, "id": "o1", "start_time": "1", "input": json.dumps([HI]), "output": json.dumps(choices)},
        {**common, "id": "o2", "start_time": "2", "input": json.dumps([{"role": "user", "content": "Other"}]), "output": None, "level": "ERROR", "status_message": "overloaded"},
        {**common, "id": "o3", "start_time": "3", "input": json.dumps(asked), "output": None, "level": "ERROR", "status_message": "overloaded"},
        {**common, "id": "o4", "start_time": "4", "input": json.dumps(asked), "output": json.dumps({"role": "assistant", "content": "Bye."})},
        {**common, "id": "o5", "start_time": "5", "input": None, "output": None},
    ]  # fmt: skip
    scores = [
        {"trace_id": "t", "name": "reward", "value": 1.0},
        {"name": "tone", "value": 0.5, "subject": {"kind": "observation", "id": "o4", "traceId": "t"}},
    ]
    samples.write_lines(tmp_path / "e" / "observations" / "1.jsonl", observations)
    samples.write_lines(tmp_path / "e" / "scores" / "1.jsonl", scores)
    store, summary = stores(tmp_path / "e")
    assert (summary.format, summary.added) == ("langfuse", 2)
    assert summary.counts == {}
    failed, done = rows(store, "status, error_message, reward, n_turns, gaps, extra", "status desc")
    assert (failed["status"], failed["error_message"], failed["n_turns"]) == ("error", "overloaded", 1)
    assert (done["status"], done["error_message"], done["n_turns"], done["reward"]) == ("completed", None, 3, 1.0)
    assert {"calls_without_content", "unread:calls[].output.choices", "unread:calls[].model_parameters.stop"} <= set(done["gaps"])  # fmt: skip
    assert json.loads(done["extra"])["langfuse"]["unread"]["calls[0].output.choices"] == choices["choices"][1:]
    verdicts = sql(
        store, "select scores.scorer, status from scores join rollouts using (rollout_id) order by all"
    ).to_pylist()
    assert [(row["scorer"], row["status"]) for row in verdicts] == [("reward", "completed"), ("reward", "error"), ("tone", "completed")]  # fmt: skip
    # A file alone holds observations, whatever its name.
    alone = samples.write_lines(tmp_path / "traces.jsonl", observations[:1])
    assert stores(alone)[1].added == 1


def test_further_choices_of_spans_and_feedback_on_runs(stores: Any, tmp_path: Path) -> None:
    said = [{"role": "assistant", "parts": [{"type": "text", "content": text}]} for text in ("One.", "Two.")]
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.request.stop_sequences": "x", "gen_ai.input.messages": json.dumps([HI]), "gen_ai.output.messages": json.dumps(said)}  # fmt: skip
    judged = [{"name": "gen_ai.evaluation.result", "attributes": [{"key": f"gen_ai.evaluation.{key}", "value": samples.otlp_value(value)} for key, value in (("name", "reward"), ("score.value", 0.5))]}]  # fmt: skip
    spans = [
        samples.otlp_span("a" * 32, 1, {"gen_ai.operation.name": "invoke_agent"}),
        samples.otlp_span("a" * 32, 2, attributes, 1, judged),
        samples.otlp_span(
            "a" * 32, 3, {**attributes, "gen_ai.input.messages": json.dumps([{**HI, "content": "2"}])}, 1
        ),
    ]
    file = samples.write_lines(tmp_path / "t.jsonl", [{"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}])
    store, summary = stores(file)
    assert [row["reward"] for row in rows(store, "reward", "reward nulls last")] == [0.5, None]
    assert summary.gaps["unread:calls[].gen_ai.output.messages"] == 2
    assert summary.gaps["unread:calls[].gen_ai.request.stop_sequences"] == 2
    runs = [json.loads(line) for line in samples.langsmith(tmp_path / "l").read_text().splitlines()]
    runs[2]["feedback_stats"] = {"polite": {"avg": 0.25}}
    store, _ = stores(samples.write_lines(tmp_path / "runs.jsonl", runs))
    found = sql(store, "select scorer from scores order by 1").to_pylist()
    assert [row["scorer"] for row in found] == ["polite", "reward", "tone"]


def test_pairs_keep_what_they_do_not_read(stores: Any, tmp_path: Path) -> None:
    pair = {
        "request": {"model": "m", "messages": [HI], "stop": ["x"], "stream": True},
        "response": {"choices": [{"message": HELLO, "logprobs": {"content": [{"token": "H", "logprob": -0.1}]}}]},
        "feedback": "good", "stars": 4,
    }  # fmt: skip
    store, summary = stores(samples.write_lines(tmp_path / "p.jsonl", [pair]), reward_column=["stars"])
    assert {"unread:calls[].request.stop", "unread:calls[].feedback", "logprobs_without_ids"} <= set(summary.gaps)
    [row] = rows(store, "reward, extra")
    assert row["reward"] == 4.0
    assert json.loads(row["extra"])["pairs"]["unread"] == {"calls[0].request.stop": ["x"], "calls[0].feedback": "good"}


def test_a_dump_of_miles_with_its_conversations(stores: Any, tmp_path: Path) -> None:
    import numpy as np
    import torch

    talk = [
        {"role": "system", "content": "Be brief."},
        HI,
        {"role": "assistant", "content": "<tool_call>{}</tool_call>"},
    ]
    sample = {**samples.slime_samples()[0], "index": 7, "prompt": "<s>Hi", "reward": {"score": 1.0, "style": 0.5}, "remove_sample": True, "metadata": {}}  # fmt: skip
    arrays = {"rollout_routed_experts": np.zeros((1, 1, 1), np.int32), "teacher_log_probs": [0.0], "loss_mask": [1, 0]}
    for folder in ("rollout_data", "train_data", "policy_loss_debug"):
        (tmp_path / "d" / folder).mkdir(parents=True)
    torch.save({"rollout_id": 3, "samples": [sample | arrays]}, tmp_path / "d" / "rollout_data" / "3.pt")
    torch.save({"samples": [{"index": 0}]}, tmp_path / "d" / "train_data" / "3_0.pt")
    torch.save({"samples": [{"index": 0}]}, tmp_path / "d" / "policy_loss_debug" / "rank_0_call_0.pt")
    samples.write_lines(tmp_path / "d" / "trajectory" / "3.jsonl", [{"sample_index": 7, "messages": talk}])
    store, summary = stores(tmp_path / "d", reward_column=["style"])
    assert (summary.format, summary.added, summary.bad) == ("slime", 1, 0)
    assert {"calls_in_text", "not_kept:rollout_routed_experts", "not_kept:teacher_log_probs", "unread:remove_sample"} <= set(summary.gaps)  # fmt: skip
    assert rows(store, "reward, len(reward_components) n, step") == [{"reward": 0.5, "n": 2, "step": 3}]
    [prompt] = store.read("prompts").to_pylist()
    assert [message["text"] for message in prompt["messages"]] == ["Be brief.", "Hi"]


def test_simulations_in_files_of_their_own(stores: Any, tmp_path: Path) -> None:
    whole = json.loads(samples.tau2(tmp_path).read_text())
    signature = {"name": "add", "doc": 'def add(a):\n    """Adds.\n\n    Args:\n        a: One.\n    """', "params": {"type": "object", "properties": {"a": {"type": "integer"}}}}  # fmt: skip
    whole["info"]["environment_info"]["tool_defs"] = {"add": signature}
    [simulation] = whole.pop("simulations")
    simulation["termination_reason"] = "context_window_exceeded"
    index = [{"id": "sim-1", "task_id": "t1", "trial": 1}, {"id": "gone", "task_id": "t1", "trial": 2}]
    samples.write_json(tmp_path / "d" / "results.json", {**whole, "simulation_index": index})
    samples.write_json(tmp_path / "d" / "simulations" / "sim-1.json", simulation)
    for place in (tmp_path / "d", tmp_path / "d" / "results.json"):
        store, summary = stores(place, max_bad=0.5)
        assert (summary.format, summary.added, summary.bad) == ("tau2", 1, 1)
        assert "simulations/gone.json" in Path(summary.quarantine or "").read_text()
        assert rows(store, "status, stop_reason") == [{"status": "truncated", "stop_reason": "context_window_exceeded"}]
    [tool] = json.loads(store.read("prompts").to_pylist()[0]["tools"])
    assert tool["function"] == {"name": "add", "description": "Adds.", "parameters": signature["params"]}


def test_columns_and_csv(stores: Any, tmp_path: Path) -> None:
    talk = [{"role": "system", "content": "Be brief."}, HI, HELLO]
    row = {"conversations": talk, "system": "Be long.", "source": "web", "reward": 1}
    store, summary = stores(samples.write_lines(tmp_path / "a.jsonl", [row]))
    assert {"two_system_prompts", "unread:system", "unread:source"} <= set(summary.gaps)
    assert json.loads(rows(store, "extra")[0]["extra"])["columns"] == {"system": "Be long.", "source": "web"}
    (tmp_path / "a.csv").write_bytes(b"prompt,completion\nHi,Gh\xe9nt\nHi,a,b\n")
    _, summary = stores(tmp_path / "a.csv", "columns", max_bad=0.5)
    assert (summary.added, summary.bad, summary.gaps["surrogates_replaced"]) == (1, 1, 1)


def demonstrations(store: LanceStore) -> list[frozenset[int]]:
    create_snapshot(store, "s")
    return [each.untrained for each in iter_sft(store, build_sft(store, "d", "s", SftOptions(require_reward=False)))]


def test_replies_that_are_not_to_be_learned_from(stores: Any, tmp_path: Path) -> None:
    talk = [HI, {**HELLO, "weight": 0}, HI, HELLO]
    store, _ = stores(samples.write_lines(tmp_path / "a.jsonl", [{"conversations": talk}]))
    assert demonstrations(store) == [frozenset({1})]
    store, _ = stores(samples.write_lines(tmp_path / "b.jsonl", [{"messages": json.dumps(talk)}]))
    assert demonstrations(store) == [frozenset({1})]
    store, _ = stores(samples.write_lines(tmp_path / "c.jsonl", [{"prompt": [HI], "completion": [{**HELLO, "train": False}, HI, HELLO]}]))  # fmt: skip
    assert demonstrations(store) == [frozenset({1})]
    nodes = [
        {"message": HI}, {"parent": 0, "message": HELLO, "sampled": True},
        {"parent": 1, "message": {**HELLO, "content": "Put there."}, "sampled": False}, {"parent": 2, "message": HELLO, "sampled": True, "is_content": [True]},
    ]  # fmt: skip
    episode = {"id": "e", "traces": [{"id": "t", "nodes": nodes, "is_timeout": True, "mood": "good"}]}
    store, summary = stores(samples.write_lines(tmp_path / "d.jsonl", [episode]), "verifiers")
    assert {"unread:nodes[].is_content", "unread:mood"} <= set(summary.gaps)
    assert rows(store, "status, extra")[0]["status"] == "timeout"
    assert json.loads(rows(store, "extra")[0]["extra"])["untrained"] == [2]


IMAGE = "data:image/png;base64,AAAA"


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": IMAGE}},
        {"type": "input_image", "image_url": IMAGE},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    ],
)
def test_images_have_the_form_of_each_dialect(tmp_path: Path, part: Row) -> None:
    from openai.types.responses import ResponseInputParam
    from pydantic import TypeAdapter

    asked = [{"role": "user", "content": [{"type": "text", "text": "See:"}, part]}, HELLO]
    add_rollouts(store := LanceStore.create(tmp_path / "store"), [Rollout(messages=asked)], "r")
    written = {}
    for name in ("nemo-gym", "openai-chat", "openai-finetuning", "atif"):
        export_file(store, name, tmp_path / f"{name}.jsonl")
        [line] = (tmp_path / f"{name}.jsonl").read_text().splitlines()
        written[name] = json.loads(line)
    request = written["nemo-gym"]["responses_create_params"]["input"]
    TypeAdapter(ResponseInputParam).validate_python(request, strict=True)
    assert request[0]["content"] == [{"type": "input_text", "text": "See:"}, {"type": "input_image", "image_url": IMAGE, "detail": "auto"}]  # fmt: skip
    for name in ("openai-chat", "openai-finetuning"):
        assert written[name]["messages"][0]["content"][1] == {"type": "image_url", "image_url": {"url": IMAGE}}
    image = written["atif"]["steps"][0]["message"][1]
    assert image == {"type": "image", "source": {"media_type": "image/png", "path": IMAGE}}


def test_fine_tuning_files_teach_the_policys_words_alone(tmp_path: Path) -> None:
    prompt = [HI, {**HELLO, "reasoning_content": "Greet."}, HI]
    call = {"role": "assistant", "content": None, "tool_calls": [samples.chat_call()]}
    made = Rollout.from_dict({"prompt": {"messages": prompt}, "messages": [call, {"role": "tool", "tool_call_id": "c1", "content": ""}, HELLO]})  # fmt: skip
    add_rollouts(store := LanceStore.create(tmp_path / "store"), [made], "r")
    summary = export_file(store, "openai-finetuning", tmp_path / "a.jsonl")
    assert summary.lost["messages.reasoning"] == 1
    messages = json.loads((tmp_path / "a.jsonl").read_text())["messages"]
    assert [message.get("weight") for message in messages] == [None, 0, None, None, None, None]
    assert messages[4]["content"] == ""


def test_a_log_of_inspect_that_holds_more_calls(stores: Any, tmp_path: Path) -> None:
    sample = samples.inspect_sample()
    other = {"choices": [{"message": {"id": "x9", "role": "assistant", "content": "Another agent's."}}, {"message": {"id": "x8"}}]}  # fmt: skip
    sample["events"].append({"event": "model", "model": "small", "output": other})
    sample["messages"][-1]["source"] = None
    log = samples.write_json(tmp_path / "log.json", {"version": 2, "status": "success", "eval": samples.INSPECT_EVAL, "samples": [sample]})  # fmt: skip
    assert detect(log).format == "inspect"
    assert {"model_calls_left_out", "other_choices_left_out"} <= set(stores(log)[1].gaps)


def test_what_failed_before_a_reply_is_a_rollout(stores: Any, tmp_path: Path) -> None:
    sample = samples.inspect_sample() | {"error": {"message": "gone"}, "scores": {}}
    sample["messages"], sample["output"] = sample["messages"][:2], {"model": "small", "choices": []}
    log = samples.write_json(tmp_path / "log.json", {"version": 2, "status": "error", "eval": samples.INSPECT_EVAL, "samples": [sample]})  # fmt: skip
    whole = json.loads(samples.tau2(tmp_path / "t").read_text())
    whole["simulations"][0] |= {"termination_reason": "infrastructure_error", "messages": whole["simulations"][0]["messages"][:2]}  # fmt: skip
    for file, message in ((log, "gone"), (samples.write_json(tmp_path / "tau2.json", whole), "infrastructure_error")):
        store, summary = stores(file)
        assert (summary.added, summary.bad) == (1, 0)
        assert rows(store, "status, error_message, len(messages) n") == [{"status": "error", "error_message": message, "n": 0}]  # fmt: skip


def test_scores_of_traces_that_a_folder_lacks_are_counted(stores: Any, tmp_path: Path) -> None:
    folder = samples.langfuse(tmp_path / "export")
    (folder / "scores_more.jsonl").write_text(json.dumps({"id": "s9", "traceId": "elsewhere", "name": "good", "value": 1}) + "\n")  # fmt: skip
    _, summary = stores(folder, "langfuse")
    assert summary.counts == {"scores_without_trace": 1}


def test_a_logprob_that_its_column_cannot_hold_sets_the_record_aside(stores: Any, tmp_path: Path) -> None:
    folder = samples.prime_rl(tmp_path / "run")
    for path in folder.rglob("*.jsonl") if folder.is_dir() else [folder]:
        path.write_text(path.read_text().replace("-0.5", "-1e300", 1))
    store, summary = stores(folder, "prime-rl", max_bad=1.0)
    assert summary.bad >= 1 and "too large for its column" in Path(summary.quarantine or "").read_text()
    kept = [value for row in rows(store, "logprobs", "rollout_id") for value in row["logprobs"] or ()]
    assert all(abs(value) < 10 for value in kept), "no infinity was stored"
