"""Inspect logs: `.eval` archives in both layouts of a sample, one member or chunks, and `.json`; a sample is a rollout. There are no token ids."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..base.errors import FormatError
from ..store.reading import MessageReader, split_prompt
from ..store.tool_schemas import read_tools
from .files import opened
from .inspect_archive import Archive
from .lines import Line, Quarantine
from .rollout import FileRollout, Row, take_keepsake, unread_fields
from .sample import FileSample
from .storing import Source
from .values import present

_FORMAT = "inspect"
_MONOLITH = re.compile(r"samples/.*_epoch_\d+\.json")
_SHELL = re.compile(r"samples/(.*_epoch_\d+)/sample\.json")
_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}
_ATTACHED = "attachment://"
_PLACED = {
    "id", "epoch", "uuid", "input", "target", "messages", "output", "scores", "metadata", "events", "attachments", "events_data", "message_refs",
    "started_at", "completed_at", "total_time", "error", "limit", "choices",
}  # fmt: skip
# Kept in `extra`: what a sample cost, and the log's own structure.
_BOOKKEEPING = {"model_usage", "role_usage", "working_time", "timelines", "completed", "summary", "setup", "turn_count"}


def signs(sample: FileSample) -> str | None:
    """An archive with a header or a journal, or a JSON log."""
    if sample.kind == "zip" and {"header.json", "_journal/start.json"} & set(sample.members):
        return "it is an archive with the header and samples of an Inspect log"
    if sample.kind == "folder" and any(name.endswith(".eval") for name in sample.members):
        return "it has .eval files"
    if sample.kind == "object" and sample.have("eval.task", "eval.model", "status"):
        return "it is an object with the eval, status and samples of an Inspect log"
    return None


def held(rollout: FileRollout) -> set[str]:
    """The columns it has a place for."""
    return {
        "environment", "policy_id", "reward", "scorer", "status", "error_message", "stop_reason", "temperature", "top_p", "top_k", "max_tokens",
        "started_at", "duration_s", "task.ground_truth",
    }  # fmt: skip


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The samples of a log, or of a folder of logs, each with its `eval`. A sample that cannot be read is set aside."""
    done = 0
    for file in [path] if path.is_file() else sorted((*path.rglob("*.eval"), *path.rglob("*.json"))):
        size = file.stat().st_size
        found = _of_archive(file, quarantine) if file.suffix != ".json" else _of_json(file)
        for number, record in found:
            yield Line(number, "", False, done, file), record
        done += size
        if on_progress:
            on_progress(done)


def _of_archive(file: Path, quarantine: Quarantine) -> Iterator[tuple[int, Row]]:
    try:
        archive = Archive(file)
    except Exception as error:
        raise FormatError(f"{file} is not an Inspect log: {error}.", "Check the file and the format's name.") from error
    with archive:
        header = archive.json("header.json")
        unfinished = header is None
        header = header or archive.json("_journal/start.json") or {}
        for number, name in enumerate(archive.names, start=1):
            try:
                if _MONOLITH.fullmatch(name):
                    sample = archive.json(name)
                elif found := _SHELL.fullmatch(name):
                    sample = _of_chunks(archive, f"samples/{found[1]}")
                else:
                    continue
            except (ValueError, TypeError, KeyError, IndexError) as error:
                quarantine.add(Line(number, "", False, 0, file), f"{name} cannot be read ({error})")
                continue
            yield number, {"eval": header.get("eval") or {}, "sample": sample, "unfinished": unfinished}


def _of_chunks(archive: Archive, prefix: str) -> Row:
    """A sample that lies in chunks. Its messages are ranges of a list that its chunks hold; of the events the first chunk is read, for the tools."""
    shell = archive.json(f"{prefix}/sample.json")
    pool = _sequence(archive, f"{prefix}/messages/")
    messages = [message for start, end in shell.get("message_refs") or [[0, len(pool)]] for message in pool[start:end]]
    attached = _sequence(archive, f"{prefix}/attachments/")
    return {
        **shell,
        "messages": messages,
        "metadata": archive.json(f"{prefix}/metadata.json") or shell.get("metadata") or {},
        "events": archive.json(f"{prefix}/events/0.json") or [],
        "attachments": {str(index): text for index, text in enumerate(attached)},
    }


def _sequence(archive: Archive, prefix: str) -> list[Any]:
    """The items of a sequence; each chunk is named by the index of its first."""
    starts = [name[len(prefix) : -len(".json")] for name in archive.names if name.startswith(prefix)]
    return [
        item
        for start in sorted(int(start) for start in starts if start.isdigit())
        for item in archive.json(f"{prefix}{start}.json")
    ]


def _of_json(file: Path) -> Iterator[tuple[int, Row]]:
    import ijson

    with opened(file) as (stream, _):
        spec = next(ijson.items(stream, "eval", use_float=True), {})
    with opened(file) as (stream, _):
        for number, sample in enumerate(ijson.items(stream, "samples.item", use_float=True), start=1):
            yield number, {"eval": spec, "sample": sample}


def read(record: Row, source: Source) -> list[FileRollout]:
    """One sample."""
    spec: Row = record["eval"]
    sample: Row = record["sample"]
    gaps = {"unfinished_log"} if record.get("unfinished") else set()
    events = [event for event in sample.get("events") or () if event.get("event") == "model"]
    tools = read_tools(next((event["tools"] for event in events if event.get("tools")), None))
    reader = MessageReader(gaps, tools)
    listed = _restored(sample["messages"], sample.get("attachments") or {})
    prompt, messages = _split(listed, reader, failed=bool(sample.get("error") or sample.get("limit")))
    config = (spec.get("model_generate_config") or {}) | ((events[0].get("config") or {}) if events else {})
    rollout = FileRollout(prompt, tools, messages, gaps=reader.gaps, unread=reader.unread)
    rollout.gaps |= _left_out(sample, events, listed)
    if any(message.get("source") == "generate" for message in listed) and len(prompt) + len(messages) == len(listed):
        # Replies that a solver or another input put there are not the model's.
        rollout.untrained = {at for at, message in enumerate(listed) if at >= len(prompt) and message.get("role") == "assistant" and message.get("source") not in ("generate", None)}  # fmt: skip
    rollout.source_run = spec.get("run_id")
    rollout.source_key = sample.get("uuid") or [spec.get("eval_id"), sample["id"], sample["epoch"]]
    rollout.group_key = sample["id"]
    rollout.columns = {
        "environment": spec.get("task"), "policy_id": present(sample, "output.model") or spec.get("model"), "sample_index": sample["epoch"] - 1,
        **{name: config.get(name) for name in ("temperature", "top_p", "top_k", "max_tokens")}, "sampling_seed": config.get("seed"),
        "started_at": datetime.fromisoformat(sample["started_at"]) if sample.get("started_at") else None, "duration_s": sample.get("total_time"),
        **_ending(sample),
    }  # fmt: skip
    scores = [(name, *_value(score)) for name, score in (sample.get("scores") or {}).items()]
    if scores:
        [(name, reward, parts), *others] = scores
        rollout.columns |= {"reward": reward, "reward_components": parts, "scorer": name}
        rollout.verdicts = [{"scorer": name, "reward": reward, "components": parts} for name, reward, parts in others if reward is not None]  # fmt: skip
    if any(choice.get("logprobs") for choice in (sample.get("output") or {}).get("choices") or ()):
        rollout.gaps.add("logprobs_without_ids")
    metadata = dict(sample.get("metadata") or {})
    kept = metadata.pop("rollhouse", None)
    target = sample.get("target")
    more = {name: value for name, value in (("metadata", metadata), ("choices", sample.get("choices"))) if value}
    rollout.task = {"ground_truth": target or None, "source_key": str(sample["id"]), "extra": more}
    about = {name: spec[name] for name in ("eval_id", "task_args", "revision", "packages") if spec.get(name)}
    rest = {name: value for name, value in sample.items() if name not in _PLACED and value not in (None, {}, [])}
    rollout.gaps |= unread_fields(rest, _BOOKKEEPING)
    rollout.extra = {_FORMAT: {**about, **rest, **({"scores": sample["scores"]} if sample.get("scores") else {})}}
    if kept:
        take_keepsake(rollout, kept)
    return [rollout]


def _left_out(sample: Row, events: list[Row], listed: list[Row]) -> set[str]:
    """Gaps for replies that the sample's messages do not hold: of other agents, of a history that was compacted, further choices."""
    told = {message.get("id") for message in listed}
    outputs = [event.get("output") or {} for event in events]
    made = [present(choice, "message.id") for output in outputs for choice in (output.get("choices") or ())[:1]]
    gaps = {"model_calls_left_out"} if any(id is not None and id not in told for id in made) else set()
    choices = [len(output.get("choices") or ()) for output in (*outputs, sample.get("output") or {})]
    return gaps | ({"other_choices_left_out"} if max(choices) > 1 else set())


def _split(listed: list[Row], reader: MessageReader, failed: bool) -> tuple[list[Any], list[Any]]:
    """What was asked, and everything from the first message on that the model made: an input may hold examples of replies. A sample that failed
    may lack a reply."""
    at = next((index for index, message in enumerate(listed) if message.get("role") == "assistant" and message.get("source") == "generate"), None)  # fmt: skip
    chat = [_chat(message, reader.gaps) for message in listed]
    if at is None and failed and not any(message.get("role") == "assistant" for message in listed):
        return reader.read(chat), []
    return split_prompt(reader.read(chat)) if at is None else (reader.read(chat[:at]), reader.read(chat[at:]))


def _chat(message: Row, gaps: set[str]) -> Row:
    calls = message.get("tool_calls") or ()
    if any(call.get("parse_error") for call in calls):
        gaps.add("call_parse_errors")
    told: Row = {"role": message["role"], "content": message.get("content")}
    if calls:
        told["tool_calls"] = [{"id": call.get("id"), "name": call["function"], "arguments": call.get("arguments")} for call in calls]  # fmt: skip
    if message["role"] == "tool":
        told |= {"tool_call_id": message.get("tool_call_id"), "name": message.get("function")}
        error = message.get("error")
        told |= {"is_error": True, "content": message.get("content") or error.get("message")} if error else {}
    return told


def _restored(value: Any, attached: Mapping[str, str]) -> Any:
    """The value with the texts that it refers to."""
    if isinstance(value, str):
        return attached.get(value[len(_ATTACHED) :], value) if value.startswith(_ATTACHED) else value
    if isinstance(value, list):
        return [_restored(item, attached) for item in value]
    return {name: _restored(item, attached) for name, item in value.items()} if isinstance(value, dict) else value


def _value(score: Row) -> tuple[float | None, list[Row]]:
    """A score as a reward and its parts: grades as numbers, an object as parts without a reward, other text as none."""
    value = score.get("value")
    if isinstance(value, Mapping):
        parts = [(name, _number(part)) for name, part in value.items()]
        return None, [{"name": name, "value": part, "weight": None} for name, part in parts if part is not None]
    return _number(value), []


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        return _GRADES.get(value)
    number = float(value) if isinstance(value, bool | int | float) else math.nan
    return number if math.isfinite(number) else None


def _ending(sample: Row) -> Row:
    if error := sample.get("error"):
        return {"status": "error", "error_type": "environment", "error_message": error.get("message"), "stop_reason": "error"}  # fmt: skip
    if limit := sample.get("limit"):
        kind = limit.get("type") if isinstance(limit, dict) else limit
        return {"status": "timeout" if kind in ("time", "working") else "truncated", "stop_reason": str(kind)}
    choices = (sample.get("output") or {}).get("choices") or [{}]
    stop = choices[0].get("stop_reason")
    return {"status": "truncated" if stop in ("max_tokens", "model_length") else "completed", "stop_reason": stop}
