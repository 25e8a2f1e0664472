"""LangSmith runs, as `client.list_runs()` gives them or as the bulk export writes them: JSONL, JSON or Parquet.

Messages are OpenAI's, Anthropic's or LangChain's serialised ones. The llm runs of one trace are joined to conversations; feedback on its root is
its verdict.
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

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool", "function": "tool", "chat": "user", "developer": "developer"}  # fmt: skip
_REPLY = ("role", "content", "tool_calls", "function_call", "reasoning_content", "reasoning", "refusal")
# Parameters that have a column, or that concern the client alone.
_KNOWN = {"temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "seed", "model", "model_name", "tools", "functions", "_type", "stream"}  # fmt: skip
_SAMPLING = {"temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "max_tokens": "max_tokens", "max_completion_tokens": "max_tokens", "seed": "sampling_seed"}  # fmt: skip


def signs(sample: FileSample) -> str | None:
    """Rows of runs."""
    if sample.have("run_type", "inputs") and sample.any("trace_id"):
        return "its rows are runs with run_type, inputs and trace_id"
    return None


def records(
    path: Path, quarantine: Quarantine, on_progress: Callable[[int], None] | None = None
) -> Iterator[tuple[Line, Row]]:
    """The runs of each trace."""
    rows = dataset_files.records(path, quarantine, on_progress)
    for line, runs in grouped(rows, lambda run: str(run.get("trace_id") or run.get("id"))):
        yield line, {"runs": runs}


def read(trace: Row, source: Source) -> list[FileRollout]:
    """The rollouts of one trace."""
    runs = sorted(trace["runs"], key=lambda run: str(run.get("dotted_order") or run.get("start_time")))
    key = str(runs[0].get("trace_id") or runs[0].get("id"))
    by_id = {str(run.get("id")): run for run in runs}
    generations = [run for run in runs if run.get("run_type") == "llm"]
    answered = [run for run in generations if _field(run, "outputs") or run.get("error")]
    calls = [(_call(run), _agent(run, by_id)) for run in answered]
    for call, _ in calls:
        call.above = ids_above(call.id, lambda id: (by_id.get(str(id)) or {}).get("parent_run_id"))
    root = next((run for run in runs if not run.get("parent_run_id")), runs[0])
    judged = [
        Judgement(name, _average(stats), of=None if run is root else str(run.get("id")))
        for run in runs
        for name, stats in (_field(run, "feedback_stats") or {}).items()
    ]
    rollouts = rollouts_of_trace(key, calls, judged, source)
    about = {name: root[name] for name in ("name", "session_id", "reference_example_id", "tags") if root.get(name)}
    for rollout in rollouts:
        rollout.gaps |= {"calls_without_content"} if len(answered) < len(generations) else set()
        rollout.extra[source.format] |= {name: str(value) if name != "tags" else value for name, value in about.items()}
        if root.get("reference_example_id"):
            rollout.group_key = str(root["reference_example_id"])
            rollout.task = {"source_key": rollout.group_key}
    return rollouts


def _field(run: Row, name: str) -> Any:
    """A field that is an object, or its JSON text."""
    value = run.get(name)
    return read_json(value) if isinstance(value, str) else value


def _average(stats: Any) -> float | None:
    value = stats.get("avg") if isinstance(stats, dict) else stats
    return float(value) if isinstance(value, bool | int | float) else None


def _agent(run: Row, by_id: dict[str, Row]) -> str | None:
    """The name that LangGraph gives the agent, of the run or one above it."""
    at: Row | None = run
    for _ in range(len(by_id) + 1):
        if at is None:
            return None
        name = present(_field(at, "extra"), "metadata.lc_agent_name")
        if isinstance(name, str) and name:
            return name
        at = by_id.get(str(at.get("parent_run_id")))
    return None


def _call(run: Row) -> ModelCall:
    inputs, outputs, extra = (_field(run, name) or {} for name in ("inputs", "outputs", "extra"))
    parameters = extra.get("invocation_params") or {}
    asked = _unnested(inputs.get("messages", inputs.get("input", inputs.get("prompts", inputs.get("prompt")))))
    said, others = _reply(outputs)
    failed = bool(run.get("error"))
    said = [] if said is None and failed else said
    if asked is None or said is None:
        raise ValueError(f"run {run.get('id')} holds no messages")
    unread = {f"invocation_params.{name}": value for name, value in parameters.items() if name not in _KNOWN and value is not None}  # fmt: skip
    unread |= {"outputs.choices": others} if others else {}
    model = present(extra, "metadata.ls_model_name") or parameters.get("model") or parameters.get("model_name") or outputs.get("model")  # fmt: skip
    columns = {
        "policy_id": model, **{column: parameters[name] for name, column in _SAMPLING.items() if parameters.get(name) is not None},
        "status": "error" if failed else "completed", "error_type": "engine" if failed else None, "error_message": run.get("error") if failed else None,
    }  # fmt: skip
    usage = {name: run[name] for name in ("prompt_tokens", "completion_tokens", "total_cost") if run.get(name) is not None}  # fmt: skip
    tools = inputs.get("tools") or parameters.get("tools") or parameters.get("functions")
    messages = [chat(message) for message in asked] if isinstance(asked, list) else asked
    return ModelCall(messages, chat(said), inputs.get("system"), tools, columns, usage or None, str(run["id"]), time_of(run.get("start_time")), time_of(run.get("end_time")), unread=unread)  # fmt: skip


def _unnested(messages: Any) -> Any:
    """Messages that may lie one list deeper: LangChain batches them."""
    while isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], list):
        messages = messages[0]
    return messages[0] if isinstance(messages, list) and len(messages) == 1 and isinstance(messages[0], str) else messages  # fmt: skip


def _reply(outputs: Row) -> tuple[Any, list[Any]]:
    """The message in an llm run's outputs, of LangChain, OpenAI or Anthropic, and the other choices."""
    generations = outputs.get("generations")
    if isinstance(generations, list) and generations:
        first, *others = generations[0] if isinstance(generations[0], list) else generations
        return first.get("message") or {"role": "assistant", "content": first.get("text")}, others
    choices = outputs.get("choices")
    if isinstance(choices, list) and choices:
        return choices[0].get("message"), choices[1:]
    if "role" in outputs:
        return {name: value for name, value in outputs.items() if name in _REPLY}, []
    messages = outputs.get("message", outputs.get("messages", outputs.get("output")))
    return (messages[-1] if isinstance(messages, list) and messages else messages), []


def chat(message: Any) -> Any:
    """A message of LangChain, serialised as a constructor or as a dict with `type`, in chat form; another one as it is."""
    if not isinstance(message, dict):
        return message
    kind, told = message.get("type"), message
    if message.get("type") == "constructor" and isinstance(message.get("kwargs"), dict):
        told = message["kwargs"]
        named = str((message.get("id") or [""])[-1]).removesuffix("Chunk").removesuffix("Message").lower()
        kind = told.get("type") or named
    elif isinstance(message.get("data"), dict):
        told = message["data"]
    elif "role" in message or kind not in _ROLES:
        return message
    kwargs = told.get("additional_kwargs") or {}
    calls = [{"id": call.get("id"), "name": call["name"], "arguments": call.get("args")} for call in told.get("tool_calls") or ()]  # fmt: skip
    calls = calls or kwargs.get("tool_calls") or []
    reasoning = kwargs.get("reasoning_content")
    content = told.get("content")
    if calls and isinstance(content, list):
        # Anthropic's blocks repeat the calls.
        content = [part for part in content if not (isinstance(part, dict) and part.get("type") == "tool_use")]
    found: Row = {"role": _ROLES.get(str(kind).removesuffix("chunk"), "user"), "content": content, "reasoning_content": reasoning}  # fmt: skip
    if calls:
        found["tool_calls"] = calls
    if found["role"] == "tool":
        found |= {"tool_call_id": told.get("tool_call_id"), "name": told.get("name"), "is_error": told.get("status") == "error"}  # fmt: skip
    return found
