"""Langfuse exports: observations with the traces' fields, and scores, as Parquet, JSONL, JSON or CSV; a file or the export's folder.

The older export has `traces/` and `observations/` apart. A generation is a model call; those of one trace are joined to conversations.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from . import dataset_files
from .grouping import grouped
from .lines import Line, Quarantine
from .model_calls import ModelCall
from .rollout import FileRollout, Row
from .sample import FileSample
from .storing import Source
from .traces import Judgement, ids_above, rollouts_of_trace, time_of
from .values import present, read_json

_GENERATIONS = ("GENERATION",)
_SUFFIXES = (".parquet", ".jsonl", ".json", ".csv", ".gz", ".zst")
_ABOUT = ("session_id", "user_id", "trace_name", "name", "environment", "release", "tags", "metadata")
_PARAMETERS = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "seed": "sampling_seed"}  # fmt: skip


def signs(sample: FileSample) -> str | None:
    """Rows of observations, or a folder of them."""
    if sample.have("trace_id", "type", "input", "output") or sample.have("traceId", "type", "input", "output"):
        return "its rows are observations of traces (trace_id, type, input, output)"
    if sample.kind == "folder" and any(name.startswith("observations") for name in sample.members):
        return "it has a folder of observations"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The observations of each trace, with its scores; memory holds the scores and what else is known of traces."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.suffix in _SUFFIXES)
    scores: dict[str, list[Row]] = {}
    traces: dict[str, Row] = {}
    for file in files:
        if _kind(file, path) == "scores":
            for _, row in dataset_files.records(file, quarantine):
                score = _score(row)
                scores.setdefault(str(_get(score, "trace_id") or _get(score, "session_id")), []).append(score)
        elif _kind(file, path) == "traces":
            for _, row in dataset_files.records(file, quarantine):
                traces[str(row.get("id"))] = {name: row[name] for name in row if name not in ("input", "output")}

    def rows() -> Iterator[tuple[Line, Row]]:
        done = 0
        for file in files:
            if _kind(file, path) == "observations":
                yield from dataset_files.records(file, quarantine)
            done += file.stat().st_size
            if on_progress:
                on_progress(done)

    used: set[str] = set()
    for line, observations in grouped(rows(), lambda row: str(_get(row, "trace_id"))):
        id = str(_get(observations[0], "trace_id"))
        session = _get(observations[0], "session_id") or _get(traces.get(id, {}), "session_id")
        judged = scores.get(id, []) + (scores.get(str(session), []) if session else [])
        used |= {id, str(session)}
        yield line, {"trace_id": id, "observations": observations, "scores": judged, "trace": traces.get(id)}
    left = sum(len(found) for id, found in scores.items() if id not in used)
    if left:
        quarantine.passed_over["scores_without_trace"] = left


def _score(row: Row) -> Row:
    """A score with the ids of what it judges; later versions of the API give them as its subject."""
    subject = _value(row.get("subject"))
    if not isinstance(subject, dict):
        return row
    kind = str(subject.get("kind")).lower()
    return {**row, "trace_id": _get(subject, "trace_id"), f"{kind}_id": subject.get("id")}


def _kind(file: Path, root: Path) -> str:
    """What a file of the export's folder holds: observations, scores or traces. A file alone holds observations."""
    if not root.is_dir():
        return "observations"
    names = file.relative_to(root).as_posix()
    return next(
        (kind for kind in ("scores", "traces") if names.startswith(kind) or f"/{kind}" in names), "observations"
    )


def _get(row: Row, name: str) -> Any:
    """A field, in the export's spelling or the API's."""
    head, *rest = name.split("_")
    value = row.get(name)
    return value if value is not None else row.get(head + "".join(part.title() for part in rest))


def read(trace: Row, source: Source) -> list[FileRollout]:
    """The rollouts of one trace."""
    observations = sorted(trace["observations"], key=lambda row: str(_get(row, "start_time")))
    by_id = {row.get("id"): row for row in observations}
    generations = [row for row in observations if row.get("type") in _GENERATIONS]
    answered = [row for row in generations if row.get("output") or row.get("level") == "ERROR"]
    calls = [(_call(row), _agent(row, by_id)) for row in answered]
    for call, _ in calls:
        call.above = ids_above(call.id, lambda id: _get(by_id.get(id) or {}, "parent_observation_id"))
    judged = [_judgement(row) for row in trace["scores"]]
    rollouts = rollouts_of_trace(trace["trace_id"], calls, judged, source)
    about = {name: value for name in _ABOUT if (value := _get(observations[0], name) or _get(trace.get("trace") or {}, name))}  # fmt: skip
    for rollout in rollouts:
        rollout.extra[source.format] |= about
        rollout.gaps |= {"calls_without_content"} if len(answered) < len(generations) else set()
    return rollouts


def _call(row: Row) -> ModelCall:
    asked, said, parameters = (_value(_get(row, name)) for name in ("input", "output", "model_parameters"))
    told: Row = parameters if isinstance(parameters, dict) else {}
    tools = _value(_get(row, "tool_definitions"))
    tools = [{"name": name, **(_value(tool) if isinstance(_value(tool), dict) else {})} for name, tool in tools.items()] if isinstance(tools, dict) else tools  # fmt: skip
    system = None
    if isinstance(asked, dict):
        tools = asked.get("tools") or tools
        system = asked.get("system")
        asked = asked.get("messages", asked.get("input", asked if "role" in asked else None))
    failed = row.get("level") == "ERROR"
    unread: Row = {f"model_parameters.{name}": value for name, value in told.items() if name not in _PARAMETERS and value is not None}  # fmt: skip
    if isinstance(said, dict):
        said, others = _reply(said)
        unread |= {"output.choices": others} if others else {}
    said = [] if said is None and failed else said
    if asked is None or said is None:
        raise ValueError(f"generation {row.get('id')} holds no messages")
    columns = {
        "policy_id": _get(row, "provided_model_name") or row.get("model"), **{column: _number(told.get(name)) for name, column in _PARAMETERS.items() if told.get(name) is not None},
        "status": "error" if failed else "completed", "error_type": "engine" if failed else None, "error_message": _get(row, "status_message") if failed else None,
    }  # fmt: skip
    usage = _value(_get(row, "usage_details"))
    return ModelCall(asked, said, system, tools, columns, usage if isinstance(usage, dict) and usage else None, row.get("id"),
                     time_of(_get(row, "start_time")), time_of(_get(row, "end_time")), unread=unread)  # fmt: skip


def _reply(said: Row) -> tuple[Any, list[Any]]:
    """The message in a reply: itself, or what a provider's response wraps it in; and the other choices."""
    if "role" in said or ("content" in said and "choices" not in said):
        return {"role": "assistant", **{name: said[name] for name in said if name in ("content", "tool_calls", "function_call", "reasoning_content", "reasoning", "refusal")}}, []  # fmt: skip
    choices = said.get("choices")
    if isinstance(choices, list) and choices:
        return choices[0].get("message"), choices[1:]
    return said.get("output", said.get("messages", said.get("completion"))), []


def _value(value: Any) -> Any:
    """A field: JSON text as what it holds, other text as it is."""
    if not isinstance(value, str):
        return value
    read = read_json(value)
    return read if isinstance(read, dict | list) else value


def _number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    read = read_json(value)
    return read if isinstance(read, int | float) else None


def _agent(row: Row, by_id: Row) -> str | None:
    """The name of the nearest agent above; None where there is none."""
    at = by_id.get(_get(row, "parent_observation_id"))
    for _ in range(len(by_id)):
        if at is None or at.get("type") == "AGENT":
            break
        at = by_id.get(_get(at, "parent_observation_id"))
    return at.get("name") if at is not None and at.get("type") == "AGENT" else None


def _judgement(row: Row) -> Judgement:
    value = _number(row.get("value"))
    number = float(value) if isinstance(value, int | float) else None
    label = present(row, "string_value") or row.get("stringValue")
    # A score of a session is of more than this trace.
    return Judgement(str(row.get("name")), number, label, row.get("comment"), _get(row, "observation_id") or (None if _get(row, "trace_id") else "session"))  # fmt: skip
