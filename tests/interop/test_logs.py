"""Logs and exports of other tools: each is known by its look, comes in once, and says the same conversation."""

import json
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from rollhouse.base.errors import FormatError, SchemaMismatch
from rollhouse.cli.main import app
from rollhouse.interop.config import ImportConfig
from rollhouse.interop.detect import detect
from rollhouse.interop.formats import FORMATS as FILE_FORMATS
from rollhouse.interop.importing import import_file, rollouts_of, run_import
from rollhouse.interop.lines import BadLine, Quarantine
from rollhouse.interop.storing import Source
from rollhouse.queries.session import sql
from rollhouse.store.lance_store import LanceStore
from rollhouse.tests.interop import samples
from typer.testing import CliRunner

Row = dict[str, Any]

FORMATS = {
    "claude-code": samples.claude_code, "codex": samples.codex, "inspect": samples.inspect, "verl": samples.verl, "prime-rl": samples.prime_rl,
    "slime": samples.slime, "pairs": samples.pairs, "tau2": samples.tau2, "otel": samples.otel, "langfuse": samples.langfuse, "langsmith": samples.langsmith, "trackio": samples.trackio,
}  # fmt: skip
ARGUMENTS = {"a": 1, "b": 2}


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """One store with every sample, each imported by a run of its format's name without the format being named."""
    folder = tmp_path_factory.mktemp("logs")
    store = LanceStore.create(folder / "store")
    files = {name: write(folder / name) for name, write in FORMATS.items()}
    summaries = {name: run_import(store, None, file, ImportConfig(run=name)) for name, file in files.items()}
    rows = {name: sql(store, f"select * from rollouts where run_id = '{name}'").to_pylist() for name in files}  # fmt: skip
    return SimpleNamespace(store=store, files=files, summaries=summaries, rows=rows)


def test_every_format_is_known_by_its_look_and_comes_in_once(imported: SimpleNamespace) -> None:
    for name, summary in imported.summaries.items():
        assert (summary.format, summary.bad, summary.torn) == (name, 0, 0) and summary.added == len(imported.rows[name])
    for name, file in imported.files.items():
        again = import_file(imported.store, name, file)
        assert (again.added, again.present) == (0, imported.summaries[name].added), name


def test_folders_are_known_too(imported: SimpleNamespace) -> None:
    for name in ("claude-code", "codex", "inspect", "verl", "slime"):
        folder = imported.files[name].parent
        assert detect(folder).format == name
        summary = import_file(imported.store, name, folder)
        assert (summary.added, summary.present) == (0, imported.summaries[name].added), name
    with pytest.raises(FormatError, match=r"calls\.jsonl"):
        detect(imported.files["pairs"].parent)


def test_every_format_says_the_same_conversation(imported: SimpleNamespace) -> None:
    for name in ("inspect", "prime-rl", "pairs", "otel", "langfuse", "langsmith", "tau2", "slime", "trackio"):
        row = imported.rows[name][-1]
        called, answered, *_ = row["messages"]
        [call] = called["tool_calls"]
        assert (call["name"], json.loads(call["arguments"])) == ("add", ARGUMENTS), name
        assert answered["role"] == "tool" and answered["text"] == "3" and answered["tool_call_id"] == call["id"], name
        assert row["messages"][2]["text"].startswith("It is 3."), name
        assert (row["n_tool_calls"], row["n_tool_errors"], row["status"]) == (1, 0, "completed"), name
        reasons = {other["messages"][0]["reasoning"] for other in imported.rows[name]} - {None}
        assert len(reasons) == 1 and reasons.pop().startswith("Add"), name
        [prompt] = sql(imported.store, f"select * from prompts where prompt_id = '{row['prompt_id']}'").to_pylist()
        assert prompt["messages"][-1]["text"] == "1 + 2?", name
        [tool] = json.loads(prompt["tools"])
        assert tool["type"] == "function" and tool["function"]["name"] == "add", name
        assert set(tool["function"]["parameters"]["properties"]) == {"a", "b"}, name
    for name in ("verl", "slime", "prime-rl", "inspect", "tau2", "langfuse", "langsmith"):
        assert {(row["reward"], row["passed"]) for row in imported.rows[name]} == {(1.0, True)}, name


def test_sessions_of_claude_code(imported: SimpleNamespace, tmp_path: Path) -> None:
    rows = sorted(imported.rows["claude-code"], key=lambda row: (row["agent"], row["branch"]))
    assert [(row["agent"], row["branch"], row["n_turns"]) for row in rows] == [("explorer", 0, 1), ("main", 0, 3), ("main", 1, 4), ("main", 2, 1)]  # fmt: skip
    assert len({row["episode_id"] for row in rows}) == 1 and len({row["slot_id"] for row in rows}) == 4
    _, first, second, compacted = rows
    reply, found, missing = first["messages"][:3]
    assert (reply["reasoning"], reply["text"], [call["name"] for call in reply["tool_calls"]]) == ("Two calls.", "I look.", ["Bash", "Read"])  # fmt: skip
    assert [found["tool_call_id"], missing["tool_call_id"]] == ["toolu_0", "toolu_1"] and found["text"] == "a.py"
    assert [message["text"] for message in first["messages"][-2:]] == ["Delete it.", "Sure?"]
    assert second["messages"][-1]["text"] == "It prints." and compacted["messages"][-1]["text"] == "Go on?"
    assert {"no_system_prompt", "no_tools", "no_reward"} <= set(first["gaps"])
    # The session goes on: the longer path is a later attempt at its slot, the others are there.
    grown = [*samples.claude_session(), samples.claude_line(19, 18, "user", "Yes."), samples.claude_line(20, 19, "assistant", "Done.", **samples.reply("m7", "end_turn"))]  # fmt: skip
    samples.claude_code(tmp_path)
    samples.write_lines(tmp_path / "s-1.jsonl", grown)
    store = LanceStore.create(tmp_path / "store")
    import_file(store, "claude-code", imported.files["claude-code"])
    summary = import_file(store, "claude-code", tmp_path)
    assert (summary.added, summary.present) == (1, 3)
    final = sql(store, "select messages[-1].text as last from final_rollouts where branch = 2").to_pylist()
    assert final == [{"last": "Done."}]


def test_sessions_of_codex(imported: SimpleNamespace, tmp_path: Path) -> None:
    first, second = sorted(imported.rows["codex"], key=lambda row: row["branch"])
    called, answered, said = first["messages"]
    assert called["reasoning"] == "Add them." and called["tool_calls"][0]["arguments"] == '{"command":  ["expr"]}'
    assert (answered["text"], said["text"], first["policy_id"], first["stop_reason"]) == (
        "3",
        "It is 3.",
        "gpt-x",
        None,
    )
    assert [message["text"] for message in second["messages"]] == ["4 it is."] and "encrypted_reasoning" in first[
        "gaps"
    ]
    undone = [*samples.codex_session()[:10], samples.codex_line(7, "event_msg", type="thread_rolled_back", num_turns=1), samples.codex_said(8, "user", "2 + 2?"), samples.codex_said(9, "assistant", "4.")]  # fmt: skip
    store = LanceStore.create(tmp_path / "store")
    import_file(store, "codex", samples.write_lines(tmp_path / "rollout-a.jsonl", undone))
    rows = sql(store, "select branch, n_turns, messages[-1].text as last from rollouts order by branch").to_pylist()
    assert rows == [{"branch": 0, "n_turns": 2, "last": "It is 3."}, {"branch": 1, "n_turns": 1, "last": "4."}]


def test_logs_of_inspect(imported: SimpleNamespace, tmp_path: Path) -> None:
    rows = sorted(imported.rows["inspect"], key=lambda row: row["sample_index"])
    assert [(row["sample_index"], row["temperature"], row["sampling_seed"], row["duration_s"]) for row in rows] == [(0, 0.5, 7, 2.0), (1, 0.5, 7, 2.0)]  # fmt: skip
    assert len({row["group_id"] for row in rows}) == 1 and rows[0]["scorer"] == "includes"
    scores = sql(imported.store, "select scores.scorer, scores.reward from scores join rollouts using (rollout_id) where engine = 'inspect' order by 1").to_pylist()  # fmt: skip
    assert [(row["scorer"], row["reward"]) for row in scores] == [("brief", 0.25)] * 2 + [("includes", 1.0)] * 2
    [task] = sql(imported.store, f"select ground_truth, extra from tasks where task_id = '{rows[0]['task_id']}'").to_pylist()  # fmt: skip
    assert (task["ground_truth"], json.loads(task["extra"])) == ('"3"', {"metadata": {"source": "school"}})
    # A member that Zstandard compressed, and a log that was not finished.
    packed = zstandard_archive(tmp_path / "z.eval", samples.inspect_sample(3))
    store = LanceStore.create(tmp_path / "store")
    summary = import_file(store, "inspect", packed)
    assert (summary.added, summary.bad) == (1, 0) and "unfinished_log" in summary.gaps
    failed = {**samples.inspect_sample(4), "error": {"message": "gone"}, "scores": {"includes": {"value": "I"}}}
    log = samples.write_json(tmp_path / "log.json", {"version": 2, "status": "success", "eval": samples.INSPECT_EVAL, "samples": [failed]})  # fmt: skip
    assert detect(log).format == "inspect"
    import_file(store, "inspect", log)
    found = sql(store, "select status, reward, error_message from rollouts where status = 'error'").to_pylist()
    assert found == [{"status": "error", "reward": 0.0, "error_message": "gone"}]


def zstandard_archive(path: Path, sample: Row) -> Path:
    """An archive as inspect-ai writes it, with the compression method 93; Python's zipfile can neither write nor read it."""
    entries, directory, data = [], b"", b""
    for name, value in (("_journal/start.json", {"version": 2, "eval": samples.INSPECT_EVAL}), ("samples/sum-1_epoch_3.json", sample)):  # fmt: skip
        plain = json.dumps(value).encode()
        packed = pa.compress(plain, codec="zstd", asbytes=True)
        sizes = struct.pack("<IIIHH", 0, len(packed), len(plain), len(name), 0)
        entries.append((len(data), name, sizes))
        data += b"PK\x03\x04" + struct.pack("<HHHHH", 20, 0, 93, 0, 0) + sizes + name.encode() + packed
    for offset, name, sizes in entries:
        directory += b"PK\x01\x02" + struct.pack("<HHHHHH", 20, 20, 0, 93, 0, 0) + sizes + struct.pack("<HHHII", 0, 0, 0, 0, offset) + name.encode()  # fmt: skip
    end = struct.pack("<HHHHIIH", 0, 0, len(entries), len(entries), len(directory), len(data), 0)
    path.write_bytes(data + directory + b"PK\x05\x06" + end)
    return path


def test_dumps_of_trainers(imported: SimpleNamespace, tmp_path: Path) -> None:
    import torch

    first, second = sorted(imported.rows["slime"], key=lambda row: row["n_tool_calls"])
    assert (first["token_ids"], first["loss_mask"], first["n_prompt_tokens"], first["policy_version"]) == ([3, 4], [1, 1], 2, 5)  # fmt: skip
    assert second["loss_mask"] == [1, 1, 0, 1] and len(second["logprobs"]) == 3 and first["step"] == 3
    prime = imported.rows["prime-rl"]
    assert {(row["step"], row["episode_id"], tuple(row["token_ids"])) for row in prime} == {(7, "e1", (3, 4, 5, 6)), (7, "e2", (3, 4, 5, 6))}  # fmt: skip
    assert {(row["step"], row["sample_index"]) for row in imported.rows["verl"]} == {(4, 0), (4, 1)}
    assert len({row["group_id"] for row in imported.rows["verl"]}) == 1
    alone = {
        **samples.prime_trace(),
        "kind": "eval",
        "env_name": "sums",
        "group_id": "g",
        "policy_version": 4,
        "eval_step": 8,
    }
    store = LanceStore.create(tmp_path / "store")
    file = samples.write_lines(tmp_path / "traces.jsonl", [alone])
    assert detect(file).format == "prime-rl" and import_file(store, "prime-rl", file).added == 1
    found = sql(store, "select step, policy_version, environment, split from rollouts join tasks using (task_id, environment)").to_pylist()  # fmt: skip
    assert found == [{"step": 8, "policy_version": 4, "environment": "sums", "split": "validation"}]
    # A pickle that runs code is refused before it runs.
    torch.save({"samples": [Hostile()]}, tmp_path / "bad.pt")
    with pytest.raises(FormatError, match="more than tensors"):
        import_file(store, "slime", tmp_path / "bad.pt")


class Hostile:
    """Unpickling it would run a command."""

    def __reduce__(self) -> Any:
        import os

        return os.system, ("true",)


def test_calls_of_an_api(imported: SimpleNamespace, tmp_path: Path) -> None:
    assert [row["n_turns"] for row in imported.rows["pairs"]] == [2, 2, 2]
    assert {row["policy_id"] for row in imported.rows["pairs"]} == {"small-1"}
    lines = [{name: value for name, value in json.loads(text).items() if name != "session_id"} for text in imported.files["pairs"].read_text().splitlines()]  # fmt: skip
    forked = json.loads(json.dumps(lines[0]))
    forked["response"]["choices"].append({"index": 1, "message": {"role": "assistant", "content": "Three."}, "finish_reason": "length"})  # fmt: skip
    store = LanceStore.create(tmp_path / "store")
    summary = import_file(store, "pairs", samples.write_lines(tmp_path / "a.jsonl", [*lines, forked]))
    assert (summary.rows, summary.added) == (7, 8) and summary.gaps["calls_not_joined"] == 3
    found = sql(store, "select status, stop_reason from rollouts where messages[1].text = 'Three.'").to_pylist()
    assert found == [{"status": "truncated", "stop_reason": "length"}]
    failed = {"request": lines[0]["request"], "response": {"error": {"message": "overloaded"}}}
    import_file(store, "pairs", samples.write_lines(tmp_path / "b.jsonl", [failed]))
    assert sql(store, "select error_message from rollouts where status = 'error'").to_pylist() == [{"error_message": "overloaded"}]  # fmt: skip


def test_traces(imported: SimpleNamespace) -> None:
    solver, phoenix = sorted(imported.rows["otel"], key=lambda row: row["agent"], reverse=True)
    assert (solver["agent"], solver["reward"], solver["scorer"], phoenix["agent"], phoenix["reward"]) == ("solver", 1.0, "reward", "main", None)  # fmt: skip
    for name in ("langfuse", "langsmith"):
        scores = sql(imported.store, f"select scores.scorer, scores.reward from scores join rollouts using (rollout_id) where engine = '{name}' order by 1").to_pylist()  # fmt: skip
        assert [(row["scorer"], row["reward"]) for row in scores] == [("reward", 1.0), ("tone", 0.5)]
    assert imported.rows["langfuse"][0]["duration_s"] == 3.0 and imported.rows["langfuse"][0]["temperature"] == 0.5
    [told] = imported.rows["tau2"]
    assert [message["role"] for message in told["messages"]] == ["assistant", "tool", "assistant", "user", "assistant"]
    assert "user_tools_left_out" in told["gaps"] and told["sample_index"] == 1


SECRET = "sk-ant-api03-" + "a" * 24


def test_redacting(tmp_path: Path) -> None:
    session = samples.claude_session()
    session[6]["message"]["content"][0]["content"] = f"ANTHROPIC_API_KEY={SECRET}\nDB_PASSWORD=hunter2222"
    session[4]["message"]["content"][0]["input"] = {
        "command": "curl -H 'Authorization: Bearer abcdefghijklmnop' x",
        "token": "t0ps3cret",
    }
    file = samples.write_lines(tmp_path / "s.jsonl", session)
    file.write_text(file.read_text() + f'{{"broken": "{SECRET}"\n{{}}\n')
    arguments = ["import", str(file), "--redact", "--max-bad", "1", "--store", str(tmp_path / "store"), "--format", "json"]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    [summary] = json.loads(result.stdout)
    assert summary["format"] == "claude-code" and "claude-code: its lines have uuid" in result.stderr
    assert summary["redacted"]["anthropic_key"] >= 2 and summary["redacted"]["bearer"] >= 1 and summary["bad"] == 1
    told = json.dumps(LanceStore.open(tmp_path / "store").read("rollouts", ["messages", "extra"]).to_pylist())
    quarantined = Path(summary["quarantine"]).read_text()
    for secret in (SECRET, "hunter2222", "abcdefghijklmnop", "t0ps3cret"):
        assert secret not in told + quarantined
    assert "[REDACTED:anthropic_key]" in told and "[REDACTED:anthropic_key]" in quarantined


def test_what_no_format_fits(tmp_path: Path) -> None:
    odd = samples.write_lines(tmp_path / "odd.jsonl", [{"colour": "red", "size": 3}])
    result = CliRunner().invoke(app, ["import", str(odd), "--store", str(tmp_path / "store")])
    assert result.exit_code == 2 and "colour, size" in result.stderr and "--map" in result.stderr
    (tmp_path / "text.txt").write_text("Dear Ann,\n")
    for path, says in ((tmp_path / "text.txt", "neither JSON"), (tmp_path / "none.jsonl", "There is no file")):
        with pytest.raises(FormatError, match=says):
            detect(path)


def test_records_that_are_not_of_the_format_are_set_aside_with_a_reason(
    imported: SimpleNamespace, tmp_path: Path
) -> None:
    """Each value of each sample in turn is something else: nothing but bad lines comes of it, told in words about the record."""
    reasons = []
    for name in ("codex", "claude-code", "pairs", "otel", "langsmith", "tau2", "verl", "langfuse"):
        file = imported.files[name] if name != "langfuse" else imported.files[name] / "observations_v2" / "1.jsonl"
        text = file.read_text()
        rows = [json.loads(text)] if name == "tau2" else [json.loads(line) for line in text.splitlines()]
        for broken in [{**row, key: wrong} for row in rows[:3] for key in row for wrong in (7, ["x"], "x", None)]:
            path = tmp_path / "broken.jsonl"
            samples.write_json(path, broken) if name == "tau2" else samples.write_lines(path, [broken])
            quarantine, source = Quarantine(tmp_path / "quarantine.jsonl"), Source(name, "run")
            for _, record in FILE_FORMATS[name].records(path, quarantine, None):
                try:
                    rollouts_of(record, FILE_FORMATS[name], source)
                except (BadLine, SchemaMismatch) as error:
                    reasons.append(str(error))
            if quarantine.count:
                reasons += [json.loads(line)["reason"] for line in quarantine.path.read_text().splitlines()]
    assert len(reasons) > 100
    assert not [reason for reason in reasons if "object has no attribute" in reason or "indices" in reason]
