"""Writing Inspect logs: a `.eval` archive with a sample for each rollout, which `inspect view` opens. Other columns travel in the sample's metadata."""

import json
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..base.errors import ConfigError
from ..store.ids import hash_id
from ..store.messages import Message
from .inspect_log import held
from .lines import whole_path
from .parts import image_url
from .rollout import FileRollout, Row, keepsake, text_of
from .values import read_json

_STOPS = {"stop", "max_tokens", "model_length", "tool_calls", "content_filter"}
_NO_TOKENS = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}


@dataclass
class _Log:
    """What the members at an archive's end hold of its samples."""

    summaries: list[Row] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    models: Counter[str] = field(default_factory=Counter)
    environments: Counter[str] = field(default_factory=Counter)
    epochs: Counter[str] = field(default_factory=Counter)


def write(episodes: Iterable[list[FileRollout]], path: Path, plain: bool = False) -> None:
    """Writes one archive. Raises ConfigError for a path that does not end in .eval."""
    if path.suffix != ".eval":
        raise ConfigError(f"{path} does not end in .eval.", "Inspect finds logs by that name.")
    log = _Log()
    with whole_path(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
        for rollouts in episodes:
            for rollout in rollouts:
                _add(archive, log, rollout, plain)
        header = _header(log)
        archive.writestr(
            "_journal/start.json", json.dumps({name: header[name] for name in ("version", "eval", "plan")})
        )
        archive.writestr("summaries.json", json.dumps(log.summaries))
        archive.writestr("header.json", json.dumps(header))


def _add(archive: zipfile.ZipFile, log: _Log, rollout: FileRollout, plain: bool) -> None:
    id = str(rollout.get("task_id"))
    log.epochs[id] += 1
    sample = _sample(rollout, id, log.epochs[id], plain)
    archive.writestr(f"samples/{id}_epoch_{log.epochs[id]}.json", json.dumps(sample, ensure_ascii=False))
    log.models[sample["output"]["model"]] += 1
    log.environments[rollout.get("environment") or "unknown"] += 1
    for name, score in sample["scores"].items():
        log.scores.setdefault(name, []).append(score["value"])
    names = ("id", "epoch", "target", "scores", "uuid", "started_at", "completed_at", "total_time")
    told = {name: sample[name] for name in names if sample.get(name) is not None}
    asked = sample["input"] if isinstance(sample["input"], str) else str(sample["input"][-1]["content"])
    log.summaries.append({**told, "input": asked[:500], "completed": True, "message_count": len(sample["messages"])})


def _sample(rollout: FileRollout, id: str, epoch: int, plain: bool) -> Row:
    model = rollout.get("policy_id") or "none"
    asked = [_message(message, f"{id}-{index}", None) for index, message in enumerate(rollout.prompt)]
    messages = [_message(message, f"{rollout.get('rollout_id')}-{index}", model) for index, message in enumerate(rollout.messages)]  # fmt: skip
    last = next((message for message in reversed(messages) if message["role"] == "assistant"), {"role": "assistant", "content": ""})  # fmt: skip
    stop = rollout.get("stop_reason")
    output = {"model": model, "choices": [{"message": last, "stop_reason": stop if stop in _STOPS else "unknown"}]}
    truth = (rollout.task or {}).get("ground_truth")
    target = truth if isinstance(truth, str) or (isinstance(truth, list) and all(isinstance(one, str) for one in truth)) else text_of(truth)  # fmt: skip
    started = rollout.get("started_at")
    scores = {rollout.get("scorer") or "reward": {"value": rollout.get("reward")}} if rollout.get("reward") is not None else {}  # fmt: skip
    sample: Row = {
        "id": id, "epoch": epoch, "uuid": rollout.get("rollout_id"), "input": asked or "", "target": target or "",
        "messages": [*asked, *messages], "output": output, "scores": scores, "store": {}, "model_usage": {model: _NO_TOKENS}, "attachments": {},
        "metadata": {} if plain else {"rollhouse": _kept(rollout)}, "events": [_model_event(rollout, asked, output, model)],
    }  # fmt: skip
    if started is not None:
        sample["started_at"] = started.isoformat()
    if rollout.get("duration_s") is not None:
        sample["total_time"] = rollout.get("duration_s")
    if rollout.get("status") in ("error", "aborted"):
        message = rollout.get("error_message") or rollout.get("status")
        sample["error"] = {"message": message, "traceback": "", "traceback_ansi": ""}
    elif rollout.get("status") in ("timeout", "truncated"):
        sample["limit"] = {"type": "time" if rollout.get("status") == "timeout" else "token", "limit": 0}
    return sample


def _kept(rollout: FileRollout) -> Row:
    """Everything a reader of ours needs to give the rollout back; also what the format holds in another form."""
    loose = {"status", "stop_reason", "error_message", "task.ground_truth", "scorer", "reward"}
    return keepsake(rollout, held(rollout) - loose)


def _message(message: Message, id: str, model: str | None) -> Row:
    role = "system" if message.role == "developer" else message.role
    told: Row = {"id": id, "role": role, "content": _content(message), "source": "generate" if model and role == "assistant" else "input"}  # fmt: skip
    if role == "assistant" and model:
        told["model"] = model
    if message.tool_calls:
        told["tool_calls"] = [_call(call.id, call.name, call.arguments) for call in message.tool_calls]
    return {**told, "tool_call_id": message.tool_call_id} if role == "tool" else told


def _call(id: str, name: str, arguments: str) -> Row:
    read = read_json(arguments)
    broken = {} if isinstance(read, dict) else {"parse_error": "The arguments are not a JSON object."}
    return {"id": id, "function": name, "arguments": read if isinstance(read, dict) else {"raw": arguments}, "type": "function", **broken}  # fmt: skip


def _content(message: Message) -> Any:
    parts = [_part(part) for part in json.loads(message.parts)] if message.parts else None
    if message.reasoning is None:
        return parts if parts is not None else message.text or ""
    said = parts if parts is not None else [{"type": "text", "text": message.text}] if message.text else []
    return [{"type": "reasoning", "reasoning": message.reasoning}, *said]


def _part(part: Row) -> Row:
    """A content part in Inspect's form: text and images; another one as its JSON."""
    if isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    url = image_url(part)
    return {"type": "text", "text": json.dumps(part)} if url is None else {"type": "image", "image": url}


def _model_event(rollout: FileRollout, asked: list[Row], output: Row, model: str) -> Row:
    """The event that names the tools."""
    tools = []
    for tool in rollout.tools:
        function = tool.get("function", tool)
        schema = function.get("parameters") or {}
        parameters = {"type": "object", "properties": schema.get("properties") or {}, "required": schema.get("required") or [], "additionalProperties": False}  # fmt: skip
        tools.append(
            {"name": function["name"], "description": function.get("description") or "", "parameters": parameters}
        )
    config = {name: value for name in ("temperature", "top_p", "top_k", "max_tokens") if (value := rollout.get(name)) is not None}  # fmt: skip
    at = (rollout.get("started_at") or datetime.fromtimestamp(0, UTC)).isoformat()
    return {
        "event": "model", "uuid": hash_id("event", rollout.get("rollout_id")), "timestamp": at, "working_start": 0, "model": model, "input": asked,
        "tools": tools, "tool_choice": "auto", "config": config, "output": output,
    }  # fmt: skip


def _header(log: _Log) -> Row:
    ids = list(log.epochs)
    task = next(iter(log.environments)) if len(log.environments) == 1 else "rollouts"
    model = next(iter(log.models)) if len(log.models) == 1 else "several"
    name = hash_id("inspect", task, model, ids)
    created = datetime.now(UTC).isoformat()
    scores = [
        {"name": scorer, "scorer": scorer, "scored_samples": len(values), "unscored_samples": 0, "params": {},
         "metrics": {"mean": {"name": "mean", "value": sum(values) / len(values), "params": {}}}}
        for scorer, values in log.scores.items()
    ]  # fmt: skip
    total = len(log.summaries)
    return {
        "version": 2,
        "status": "success",
        "eval": {
            "eval_id": name, "run_id": name, "task_id": name, "created": created, "task": task, "task_version": 0, "task_args": {}, "task_attribs": {},
            "dataset": {"name": task, "samples": len(ids), "sample_ids": ids, "shuffled": False}, "model": model,
            "config": {"epochs": max(log.epochs.values(), default=1)}, "packages": {},
        },
        "plan": {"name": "plan", "steps": [], "config": {}},
        "results": {"total_samples": total, "completed_samples": total, "scores": scores},
        "stats": {"started_at": created, "completed_at": created, "model_usage": {}},
    }  # fmt: skip
