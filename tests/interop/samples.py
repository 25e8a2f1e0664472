"""Invented files in the shapes that other tools write, one function a format, each with all that the format can hold."""

import json
import zipfile
from pathlib import Path
from typing import Any

Row = dict[str, Any]

TOOL = {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}}  # fmt: skip
CHAT_TOOL = {"type": "function", "function": TOOL}


def write_lines(path: Path, rows: list[Row]) -> Path:
    """A JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_json(path: Path, value: Any) -> Path:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1))
    return path


# Claude Code


def claude_line(number: int, parent: int | None, role: str, content: Any, **more: Any) -> Row:
    """A line of a session; uuids are u1, u2, …."""
    message: Row = {"role": role, "content": content, **more.pop("message", {})}
    return {
        "type": role, "uuid": f"u{number}", "parentUuid": None if parent is None else f"u{parent}", "sessionId": "s-1", "isSidechain": False,
        "timestamp": f"2026-08-01T10:00:{number:02d}.000Z", "cwd": "/home/ann/shop", "version": "2.1.0", "gitBranch": "main", "message": message, **more,
    }  # fmt: skip


def reply(id: str, stop: str | None = None) -> Row:
    """The fields of a reply beside role and content."""
    usage = {"input_tokens": 5, "output_tokens": 7}
    return {"message": {"id": id, "model": "claude-x", "type": "message", "stop_reason": stop, "usage": usage}}


def claude_session() -> list[Row]:
    """Thinking, text and two calls on lines of one reply; results that fork; a rewind; a compaction; a sub-agent started."""
    use = [{"type": "tool_use", "id": f"toolu_{n}", "name": name, "input": given} for n, (name, given) in enumerate((("Bash", {"command": "ls"}), ("Read", {"path": "a"})))]  # fmt: skip
    task = {"type": "tool_use", "id": "toolu_9", "name": "Task", "input": {"subagent_type": "explorer", "prompt": "Find it."}}  # fmt: skip
    return [
        {"type": "file-history-snapshot", "messageId": "x", "snapshot": {}},
        claude_line(1, None, "user", "List the files."),
        claude_line(2, 1, "assistant", [{"type": "thinking", "thinking": "Two calls.", "signature": "zz"}], **reply("m1")),
        claude_line(3, 2, "assistant", [{"type": "text", "text": "I look."}], **reply("m1")),
        claude_line(4, 3, "assistant", [use[0]], **reply("m1")),
        claude_line(5, 4, "assistant", [use[1]], **reply("m1", "tool_use")),
        claude_line(6, 4, "user", [{"type": "tool_result", "tool_use_id": "toolu_0", "content": "a.py"}]),
        claude_line(7, 5, "user", [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "no such file", "is_error": True}]),
        {"type": "progress", "uuid": "u8", "parentUuid": "u7", "sessionId": "s-1", "data": {}},
        claude_line(9, 8, "assistant", [{"type": "text", "text": "There is a.py."}], **reply("m2", "end_turn")),
        claude_line(10, 9, "user", "Delete it."),
        claude_line(11, 10, "assistant", [{"type": "text", "text": "Sure?"}], **reply("m3", "end_turn")),
        claude_line(12, 9, "user", "Have an agent read it."),
        claude_line(13, 12, "assistant", [task], **reply("m4", "tool_use")),
        claude_line(14, 13, "user", [{"type": "tool_result", "tool_use_id": "toolu_9", "content": "It prints."}], toolUseResult={"agentId": "b7", "status": "completed"}),
        claude_line(15, 14, "assistant", [{"type": "text", "text": "It prints."}], **reply("m5", "end_turn")),
        {"type": "system", "subtype": "compact_boundary", "uuid": "u16", "parentUuid": None, "logicalParentUuid": "u15", "sessionId": "s-1",
         "compactMetadata": {"trigger": "auto", "preTokens": 100}},
        claude_line(17, 16, "user", "Summary: a.py prints.", isCompactSummary=True),
        claude_line(18, 17, "assistant", [{"type": "text", "text": "Go on?"}], **reply("m6", "end_turn")),
    ]  # fmt: skip


def claude_code(folder: Path) -> Path:
    """A session and the file of its sub-agent."""
    agent = [
        claude_line(1, None, "user", "Find it.", agentId="b7", isSidechain=True),
        claude_line(2, 1, "assistant", [{"type": "text", "text": "It prints."}], agentId="b7", isSidechain=True, **reply("n1", "end_turn")),
    ]  # fmt: skip
    write_lines(folder / "agent-b7.jsonl", agent)
    return write_lines(folder / "s-1.jsonl", claude_session())


# Codex


def codex_line(second: int, kind: str, **payload: Any) -> Row:
    """A line of a session."""
    return {"timestamp": f"2026-08-01T10:00:{second:02d}.000Z", "type": kind, "payload": payload}


def codex_said(second: int, role: str, text: str) -> Row:
    """A message."""
    kind = "output_text" if role == "assistant" else "input_text"
    return codex_line(second, "response_item", type="message", role=role, content=[{"type": kind, "text": text}])


def codex_session() -> list[Row]:
    """Reasoning, a call with its output, usage, and a compaction."""
    usage = {"last_token_usage": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}}
    return [
        codex_line(0, "session_meta", id="c-1", timestamp="2026-08-01T10:00:00Z", cwd="/home/ann", originator="codex_cli", cli_version="0.50",
                   instructions="You code.", source="cli", git={"branch": "main"}),
        codex_line(1, "turn_context", model="gpt-x", approval_policy="never", sandbox_policy={"mode": "read-only"}, effort="low"),
        codex_said(2, "user", "1 + 2?"),
        codex_line(2, "event_msg", type="user_message", message="1 + 2?"),
        codex_line(3, "response_item", type="reasoning", summary=[{"type": "summary_text", "text": "Add them."}], encrypted_content="gAAA"),
        codex_line(4, "response_item", type="function_call", name="shell", arguments='{"command":  ["expr"]}', call_id="call_1"),
        codex_line(5, "response_item", type="function_call_output", call_id="call_1", output="3"),
        codex_line(5, "event_msg", type="token_count", info=usage),
        codex_said(6, "assistant", "It is 3."),
        codex_line(6, "event_msg", type="agent_message", message="It is 3."),
        codex_line(7, "compacted", message="", replacement_history=[{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Sum was 3."}]}]),
        codex_said(8, "user", "And 4?"),
        codex_said(9, "assistant", "4 it is."),
    ]  # fmt: skip


def codex(folder: Path) -> Path:
    """A session."""
    return write_lines(folder / "rollout-2026-08-01T10-00-00-c-1.jsonl", codex_session())


# Inspect


def inspect_sample(epoch: int = 1) -> Row:
    """A sample with a call and two scores."""
    call = {"id": "c1", "function": "add", "arguments": {"a": 1, "b": 2}, "type": "function"}
    last = {"id": "i4", "role": "assistant", "content": "It is 3.", "source": "generate", "model": "small"}
    output = {"model": "small", "choices": [{"message": last, "stop_reason": "stop"}]}
    return {
        "id": "sum-1", "epoch": epoch, "uuid": f"uuid-{epoch}", "input": "1 + 2?", "target": "3",
        "messages": [
            {"id": "i0", "role": "system", "content": "Be brief."},
            {"id": "i1", "role": "user", "content": "attachment://k1", "source": "input"},
            {"id": "i2", "role": "assistant", "content": [{"type": "reasoning", "reasoning": "Add them."}, {"type": "text", "text": ""}],
             "source": "generate", "tool_calls": [call], "model": "small"},
            {"id": "i3", "role": "tool", "content": "3", "tool_call_id": "c1", "function": "add"},
            last,
        ],
        "output": output, "attachments": {"k1": "1 + 2?"},
        "scores": {"includes": {"value": "C", "answer": "3", "explanation": "It is 3."}, "brief": {"value": 0.25}},
        "metadata": {"source": "school"}, "store": {}, "events": [{"event": "model", "model": "small", "tools": [TOOL], "output": output}],
        "model_usage": {"small": {"input_tokens": 9, "output_tokens": 4, "total_tokens": 13}},
        "started_at": "2026-08-01T10:00:00+00:00", "completed_at": "2026-08-01T10:00:02+00:00", "total_time": 2.0, "working_time": 1.5,
    }  # fmt: skip


INSPECT_EVAL = {"eval_id": "e1", "run_id": "r1", "task": "sums", "task_id": "t1", "created": "2026-08-01T10:00:00+00:00", "model": "small",
                "dataset": {"name": "sums", "samples": 1}, "model_generate_config": {"temperature": 0.5, "max_tokens": 64, "seed": 7}, "config": {"epochs": 2}}  # fmt: skip


def inspect(folder: Path) -> Path:
    """An archive whose first sample is one member and whose second lies in chunks."""
    path = folder / "sums.eval"
    path.parent.mkdir(parents=True, exist_ok=True)
    chunked = inspect_sample(2)
    messages, events, attachments = (chunked.pop(name) for name in ("messages", "events", "attachments"))
    messages[1]["content"] = "attachment://0"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("_journal/start.json", json.dumps({"version": 2, "eval": INSPECT_EVAL, "plan": {}}))
        archive.writestr("samples/sum-1_epoch_1.json", json.dumps(inspect_sample()))
        prefix = "samples/sum-1_epoch_2"
        archive.writestr(f"{prefix}/sample.json", json.dumps({**chunked, "message_refs": [[1, 6]]}))
        archive.writestr(
            f"{prefix}/messages/0.json", json.dumps([{"role": "user", "content": "of a branch"}, *messages[:2]])
        )
        archive.writestr(f"{prefix}/messages/3.json", json.dumps(messages[2:]))
        archive.writestr(f"{prefix}/events/0.json", json.dumps(events))
        archive.writestr(f"{prefix}/attachments/0.json", json.dumps(list(attachments.values())))
        archive.writestr("header.json", json.dumps({"version": 2, "status": "success", "eval": INSPECT_EVAL}))
    return path


# Trainers


def verl(folder: Path) -> Path:
    """A dump with two rollouts of one sample."""
    rows = [
        {
            "input": "user\n1 + 2?",
            "output": "It is 3.",
            "gts": "3",
            "score": 1.0,
            "step": 4,
            "acc": 1.0,
            "pred": "3",
            "uid": f"a_b_{n}_0",
        }
        for n in range(2)
    ]
    return write_lines(folder / "4.jsonl", rows)


def prime_node(parent: int | None, message: Row, token_ids: list[int], sampled: bool = False) -> Row:
    """A node of a trace."""
    told = {"message": message, "sampled": sampled, "token_ids": token_ids, "mask": [sampled] * len(token_ids)}
    return {**told, "logprobs": [-0.5] * len(token_ids) if sampled else []} | (
        {} if parent is None else {"parent": parent}
    )


def prime_trace(**more: Any) -> Row:
    """A trace of one call of a tool."""
    call = {"id": "c1", "name": "add", "arguments": '{"a": 1, "b": 2}'}
    return {
        "version": 1, "id": "t1", "task": {"type": "Sums", "data": {"answer": "3"}, "key": "k"}, "agent": {"name": "solver", "trainable": True}, "tools": [TOOL],
        "nodes": [
            prime_node(None, {"role": "user", "content": "1 + 2?"}, [1, 2]),
            prime_node(0, {"role": "assistant", "reasoning_content": "Add.", "tool_calls": [call]}, [3, 4], True),
            prime_node(1, {"role": "tool", "tool_call_id": "c1", "content": "3"}, [5]),
            prime_node(2, {"role": "assistant", "content": "It is 3."}, [6], True),
        ],
        "calls": [{"node": 1, "model": "small", "sampling": {"temperature": 0.7}, "finish_reason": "stop"}], "rewards": {"exact": {"score": 1.0, "weight": 1.0}},
        "metrics": {}, "is_completed": True, "ok": True, "stop_condition": "done", "timing": {"start": 1760000000.0}, **more,
    }  # fmt: skip


def prime_rl(folder: Path) -> Path:
    """The rollouts of a step: two episodes, of which one was trained on."""

    def episode(id: str) -> Row:
        return {
            "id": id,
            "env": {"id": "sums"},
            "group": {"id": "g"},
            "run": {"id": "r"},
            "ok": True,
            "traces": [prime_trace(id=f"t-{id}")],
        }

    place = folder / "rollouts" / "step_7" / "train"
    write_lines(place / "all" / "traces.jsonl", [episode("e1"), episode("e2")])
    write_lines(place / "effective" / "traces.jsonl", [episode("e2")])
    return folder


def slime_samples() -> list[Row]:
    """A sample of a single response, and one with messages and a tool's tokens."""
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a": 1, "b": 2}'}}
    said = [{"role": "assistant", "reasoning_content": "Add.", "content": "", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "c1", "content": "3"}, {"role": "assistant", "content": "It is 3."}]  # fmt: skip
    asked = [{"role": "user", "content": "1 + 2?"}]
    common = {"group_index": 0, "label": "3", "loss_mask": None, "weight_versions": ["5"], "status": "completed", "rollout_id": None, "remove_sample": False}  # fmt: skip
    return [
        {**common, "index": 0, "prompt": "user: 1 + 2?", "tokens": [1, 2, 3, 4], "response": "It is 3.", "response_length": 2, "reward": 1.0, "rollout_log_probs": [-0.1, -0.2], "metadata": {}},
        {**common, "index": 1, "prompt": asked, "tokens": [1, 2, 3, 4, 5, 6], "response": "…", "response_length": 4, "loss_mask": [1, 1, 0, 1], "reward": {"score": 1.0, "format": 0.5},
         "rollout_log_probs": [-0.1, -0.2, 0.0, -0.4], "rollout_id": 9, "metadata": {"messages": [*asked, *said], "tools": [CHAT_TOOL]}},
    ]  # fmt: skip


def slime(folder: Path) -> Path:
    """A dump of one step."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"rollout_id": 3, "samples": slime_samples()}, folder / "3.pt")
    return folder / "3.pt"


def trackio(folder: Path) -> Path:
    """A project's database with one trace; JSON is stored as bytes."""
    import sqlite3

    folder.mkdir(parents=True, exist_ok=True)
    called = {"role": "assistant", "content": "", "reasoning_content": "Add.", "tool_calls": [chat_call()]}
    talk = [{"role": "user", "content": "1 + 2?"}, called, {"role": "tool", "tool_call_id": "c1", "content": "3"}, {"role": "assistant", "content": "It is 3."}]  # fmt: skip
    told = {"reward": 1.0, "advantage": 0.5, "tools": [CHAT_TOOL]}
    row = ("i1", "r1", "2026-08-01T10:00:00+00:00", "first", 3, "samples", 0, json.dumps(talk).encode(), json.dumps(told).encode())  # fmt: skip
    with sqlite3.connect(folder / "p.db") as base:
        base.execute(
            "CREATE TABLE traces (id TEXT PRIMARY KEY, run_id TEXT, timestamp TEXT, run_name TEXT, step INTEGER, key TEXT, trace_index INTEGER, messages TEXT, metadata TEXT)"
        )
        base.execute("INSERT INTO traces VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    base.close()
    return folder / "p.db"


# Logs of an API


def chat_call(name: str = "add", id: str = "c1") -> Row:
    """A tool call in chat form."""
    return {"id": id, "type": "function", "function": {"name": name, "arguments": '{"a": 1, "b": 2}'}}


def pairs(folder: Path) -> Path:
    """Two calls of one session in each of the three dialects."""
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"}]
    called = {"role": "assistant", "content": None, "reasoning_content": "Add.", "tool_calls": [chat_call()]}
    history = [
        *asked,
        {name: called[name] for name in ("role", "content", "tool_calls")},
        {"role": "tool", "tool_call_id": "c1", "content": "3"},
    ]
    request = {"model": "small", "temperature": 0.5, "tools": [CHAT_TOOL], "max_tokens": 64}
    usage = {"prompt_tokens": 9, "completion_tokens": 4}
    chat = [
        {
            "request": {**request, "messages": asked},
            "response": {
                "id": "r1",
                "model": "small-1",
                "created": 1760000000,
                "usage": usage,
                "choices": [{"index": 0, "message": called, "finish_reason": "tool_calls"}],
            },
        },
        {
            "reward": 1.0,
            "request": {**request, "messages": history},
            "response": {
                "id": "r2",
                "model": "small-1",
                "created": 1760000002,
                "choices": [
                    {"index": 0, "message": {"role": "assistant", "content": "It is 3."}, "finish_reason": "stop"}
                ],
            },
        },
    ]
    items = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Add."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1, "b": 2}'},
    ]
    responses_request = {
        "model": "small",
        "instructions": "Be brief.",
        "tools": [{"type": "function", **TOOL}],
        "max_output_tokens": 64,
    }
    answer = {"type": "function_call_output", "call_id": "c1", "output": "3"}
    said = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "It is 3."}]}]
    responses = [
        {
            "request": {**responses_request, "input": "1 + 2?"},
            "response": {"id": "r1", "model": "small-1", "status": "completed", "output": items},
        },
        {
            "request": {**responses_request, "input": [{"role": "user", "content": "1 + 2?"}, *items, answer]},
            "response": {"id": "r2", "model": "small-1", "status": "completed", "output": said},
        },
    ]
    use = [
        {"type": "thinking", "thinking": "Add.", "signature": "zz"},
        {"type": "tool_use", "id": "c1", "name": "add", "input": {"a": 1, "b": 2}},
    ]
    schema = {"name": "add", "description": "Adds.", "input_schema": TOOL["parameters"]}
    anthropic_request = {
        "model": "small",
        "system": [{"type": "text", "text": "Be brief."}],
        "tools": [schema],
        "max_tokens": 64,
    }
    result = [{"type": "tool_result", "tool_use_id": "c1", "content": "3"}]
    anthropic = [
        {"request": {**anthropic_request, "messages": asked[1:]}, "response": {"id": "r1", "model": "small-1", "type": "message", "role": "assistant", "content": use, "stop_reason": "tool_use"}},
        {"request": {**anthropic_request, "messages": [asked[1], {"role": "assistant", "content": use}, {"role": "user", "content": result}]},
         "response": {"id": "r2", "model": "small-1", "type": "message", "role": "assistant", "content": [{"type": "text", "text": "It is 3."}], "stop_reason": "end_turn"}},
    ]  # fmt: skip
    named = {"chat": chat, "responses": responses, "anthropic": anthropic}
    return write_lines(
        folder / "calls.jsonl", [{"session_id": name, **call} for name, calls in named.items() for call in calls]
    )


# tau2


def tau2(folder: Path) -> Path:
    """A simulation in which the agent and the user each call a tool."""
    messages = [
        {"role": "assistant", "content": "Hi! How can I help?", "turn_idx": 0},
        {"role": "user", "content": "1 + 2?", "turn_idx": 1},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "name": "add", "arguments": {"a": 1, "b": 2}, "requestor": "assistant"}],
         "raw_data": {"message": {"reasoning_content": "Add."}}, "usage": {"completion_tokens": 4}},
        {"role": "tool", "id": "c1", "content": "3", "requestor": "assistant", "error": False},
        {"role": "assistant", "content": "It is 3. Look at your phone.", "raw_data": {}},
        {"role": "user", "content": None, "tool_calls": [{"id": "u1", "name": "look", "arguments": {}, "requestor": "user"}]},
        {"role": "tool", "id": "u1", "content": "3", "requestor": "user", "error": False},
        {"role": "user", "content": "Right."},
        {"role": "assistant", "content": "Bye.", "raw_data": {}},
    ]  # fmt: skip
    simulation = {
        "id": "sim-1", "task_id": "t1", "trial": 1, "seed": 7, "start_time": "2026-08-01T10:00:00", "end_time": "2026-08-01T10:00:09", "duration": 9.0,
        "termination_reason": "user_stop", "agent_cost": 0.01, "reward_info": {"reward": 1.0, "reward_breakdown": {"DB": 1.0}, "db_check": {"db_match": True}}, "messages": messages,
    }  # fmt: skip
    info = {"git_commit": "abc", "num_trials": 2, "agent_info": {"llm": "small", "llm_args": {"temperature": 0.0}}, "environment_info": {"domain_name": "telecom", "policy": "Be kind.", "tool_defs": [CHAT_TOOL]}}  # fmt: skip
    tasks = [
        {"id": "t1", "user_scenario": {"instructions": "Ask."}, "evaluation_criteria": {"actions": [{"name": "add"}]}}
    ]
    return write_json(
        folder / "results.json", {"timestamp": "2026-08-01", "info": info, "tasks": tasks, "simulations": [simulation]}
    )


# Traces


def otlp_value(value: Any) -> Row:
    """A value in OTLP's JSON."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, list):
        return {"arrayValue": {"values": [otlp_value(item) for item in value]}}
    return (
        {"intValue": str(value)}
        if isinstance(value, int)
        else {"doubleValue": value}
        if isinstance(value, float)
        else {"stringValue": value}
    )


def otlp_span(
    trace: str, number: int, attributes: Row, parent: int | None = None, events: list[Row] | None = None
) -> Row:
    """A span."""
    at = 1760000000_000000000 + number * 1_000_000_000
    listed = [{"key": key, "value": otlp_value(value)} for key, value in attributes.items()]
    told = {"traceId": trace, "spanId": f"{number:016x}", "name": "chat", "startTimeUnixNano": str(at), "endTimeUnixNano": str(at + 500_000_000), "attributes": listed, "events": events or [], "status": {}}  # fmt: skip
    return told if parent is None else {**told, "parentSpanId": f"{parent:016x}"}


def otel_traces() -> list[list[Row]]:
    """One conversation with the GenAI conventions and one with OpenInference's attributes."""
    user, call = {"role": "user", "parts": [{"type": "text", "content": "1 + 2?"}]}, {"type": "tool_call", "id": "c1", "name": "add", "arguments": {"a": 1, "b": 2}}  # fmt: skip
    called = {
        "role": "assistant",
        "parts": [{"type": "reasoning", "content": "Add."}, call],
        "finish_reason": "tool_call",
    }
    answered = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": "3"}]}
    said = {"role": "assistant", "parts": [{"type": "text", "content": "It is 3."}], "finish_reason": "stop"}
    common = {"gen_ai.operation.name": "chat", "gen_ai.request.model": "small", "gen_ai.request.temperature": 0.5, "gen_ai.usage.input_tokens": 9, "gen_ai.response.finish_reasons": ["stop"],
              "gen_ai.system_instructions": json.dumps([{"type": "text", "content": "Be brief."}]), "gen_ai.tool.definitions": json.dumps([{"type": "function", **TOOL}])}  # fmt: skip
    judged = [{"name": "gen_ai.evaluation.result", "timeUnixNano": "1", "attributes": [{"key": f"gen_ai.evaluation.{key}", "value": otlp_value(value)} for key, value in (("name", "reward"), ("score.value", 1.0))]}]  # fmt: skip
    genai = [
        otlp_span("a" * 32, 1, {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "solver", "gen_ai.conversation.id": "conv"}, events=judged),
        otlp_span("a" * 32, 2, {**common, "gen_ai.input.messages": json.dumps([user]), "gen_ai.output.messages": json.dumps([called])}, 1),
        otlp_span("a" * 32, 3, {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "add"}, 1),
        otlp_span("a" * 32, 4, {**common, "gen_ai.input.messages": json.dumps([user, {**called, "parts": [call]}, answered]), "gen_ai.output.messages": json.dumps([said])}, 1),
    ]  # fmt: skip
    asked = {"llm.input_messages.0.message.role": "system", "llm.input_messages.0.message.content": "Be brief.", "llm.input_messages.1.message.role": "user", "llm.input_messages.1.message.content": "1 + 2?"}  # fmt: skip

    def called_at(place: str) -> Row:
        return {f"{place}.message.role": "assistant", f"{place}.message.tool_calls.0.tool_call.id": "c1", f"{place}.message.tool_calls.0.tool_call.function.name": "add", f"{place}.message.tool_calls.0.tool_call.function.arguments": '{"a": 1, "b": 2}'}  # fmt: skip

    kind = {"openinference.span.kind": "LLM", "llm.model_name": "small", "llm.invocation_parameters": '{"temperature": 0.5}', "llm.token_count.prompt": 9, "llm.tools.0.tool.json_schema": json.dumps(CHAT_TOOL)}  # fmt: skip
    result = {"llm.input_messages.3.message.role": "tool", "llm.input_messages.3.message.tool_call_id": "c1", "llm.input_messages.3.message.content": "3"}  # fmt: skip
    phoenix = [
        otlp_span("b" * 32, 1, {**kind, **asked, **called_at("llm.output_messages.0")}),
        otlp_span("b" * 32, 2, {**kind, **asked, **called_at("llm.input_messages.2"), **result, "llm.output_messages.0.message.role": "assistant", "llm.output_messages.0.message.content": "It is 3."}),
    ]  # fmt: skip
    return [genai, phoenix]


def otel(folder: Path) -> Path:
    """Two traces, a line each."""
    return write_lines(folder / "traces.jsonl", [{"resourceSpans": [{"resource": {}, "scopeSpans": [{"scope": {"name": "x"}, "spans": spans}]}]} for spans in otel_traces()])  # fmt: skip


def langfuse(folder: Path) -> Path:
    """An export's folder: a trace of an agent with two generations, and a score."""
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "1 + 2?"}]
    called = {"role": "assistant", "content": None, "tool_calls": [chat_call()], "reasoning_content": "Add."}
    history = [*asked, {**called, "reasoning_content": None}, {"role": "tool", "tool_call_id": "c1", "content": "3"}]
    common = {"trace_id": "t1", "type": "GENERATION", "parent_observation_id": "o0", "provided_model_name": "small", "model_parameters": '{"temperature": 0.5}', "level": "DEFAULT", "usage_details": {"input": 9, "output": 4}}  # fmt: skip
    rows = [
        {**common, "id": "o0", "type": "AGENT", "parent_observation_id": "", "name": "solver", "start_time": "2026-08-01 10:00:00.000000", "end_time": "2026-08-01 10:00:05.000000", "input": "1 + 2?", "output": "3"},
        {**common, "id": "o1", "name": "llm", "start_time": "2026-08-01 10:00:01.000000", "end_time": "2026-08-01 10:00:02.000000", "input": json.dumps({"messages": asked, "tools": [CHAT_TOOL]}), "output": json.dumps(called)},
        {**common, "id": "o2", "name": "llm", "start_time": "2026-08-01 10:00:03.000000", "end_time": "2026-08-01 10:00:04.000000", "input": json.dumps({"messages": history, "tools": [CHAT_TOOL]}), "output": json.dumps({"role": "assistant", "content": "It is 3."})},
    ]  # fmt: skip
    write_lines(folder / "observations_v2" / "1.jsonl", rows)
    write_lines(folder / "scores" / "1.jsonl", [{"id": "s1", "trace_id": "t1", "name": "reward", "value": 1.0, "source": "EVAL"}, {"id": "s2", "trace_id": "t1", "name": "tone", "value": 0.5, "comment": "dry"}])  # fmt: skip
    return folder


def langchain(kind: str, **kwargs: Any) -> Row:
    """A serialised message of LangChain."""
    return {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", kind], "kwargs": kwargs}


def langsmith(folder: Path) -> Path:
    """A trace of a chain with two llm runs, whose messages LangChain serialised."""
    asked = [
        langchain("SystemMessage", content="Be brief.", type="system"),
        langchain("HumanMessage", content="1 + 2?", type="human"),
    ]
    called = langchain("AIMessage", content="", type="ai", tool_calls=[{"name": "add", "args": {"a": 1, "b": 2}, "id": "c1", "type": "tool_call"}], additional_kwargs={"reasoning_content": "Add."})  # fmt: skip
    result = langchain("ToolMessage", content="3", type="tool", tool_call_id="c1", name="add", status="success")
    said = langchain("AIMessage", content="It is 3.", type="ai")
    extra = {"metadata": {"ls_model_name": "small"}, "invocation_params": {"temperature": 0.5, "tools": [CHAT_TOOL]}}

    def run(number: int, kind: str, inputs: Row, outputs: Row, **more: Any) -> Row:
        at = f"2026-08-01T10:00:0{number}.000000"
        return {"id": f"run-{number}", "trace_id": "run-0", "parent_run_id": "run-0" if number else None, "dotted_order": f"{number}", "run_type": kind, "name": kind, "start_time": at,
                "end_time": f"2026-08-01T10:00:0{number}.500000", "inputs": inputs, "outputs": outputs, "extra": extra, "error": None, "prompt_tokens": 9, **more}  # fmt: skip

    runs = [
        run(
            0,
            "chain",
            {"q": "1 + 2?"},
            {"a": "3"},
            feedback_stats={"reward": {"n": 1, "avg": 1.0}, "tone": {"n": 1, "avg": 0.5}},
        ),
        run(1, "llm", {"messages": [asked]}, {"generations": [[{"message": called, "text": ""}]]}),
        run(
            2,
            "llm",
            {"messages": [[*asked, called, result]]},
            {"generations": [[{"message": said, "text": "It is 3."}]]},
        ),
    ]
    return write_lines(folder / "runs.jsonl", runs)
