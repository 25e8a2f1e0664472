"""Evaluation cases that training prompts are compared with."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..base.errors import FormatError
from ..interop.lines import read_objects
from ..store.lance_store import LanceStore, quote
from .schemas import function_of

OWN_SPLITS = ("validation", "test")


@dataclass(frozen=True)
class Reference:
    """One case of an evaluation set.

    Attributes:
        set: The set's name: `bfcl`, `validation`, a file's stem.
        id: The case's.
        text: What the user says.
        tools: (name, sorted parameter names) of its tools.
        calls: (name, arguments) of its true calls; the value of an argument is a tuple of those accepted, as JSON.
    """

    set: str
    id: str
    text: str
    tools: tuple[tuple[str, tuple[str, ...]], ...] = ()
    calls: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = ()


def store_references(store: LanceStore, snapshot: str, split: str) -> Iterator[Reference]:
    """The tasks of a split at a snapshot. Their tools are left out: an environment's splits share them."""
    rows = store.read(
        "tasks", ["task_id", "prompt_id", "ground_truth"], f"split = {quote(split)}", snapshot
    ).to_pylist()
    wanted = {row["prompt_id"] for row in rows}
    prompts = {
        row["prompt_id"]: row["messages"]
        for batch in store.batches("prompts", ["prompt_id", "messages"], at=snapshot)
        for row in batch.to_pylist()
        if row["prompt_id"] in wanted
    }
    for row in rows:
        text = user_text(prompts.get(row["prompt_id"]) or [])
        calls = true_calls(json.loads(row["ground_truth"])) if row["ground_truth"] else ()
        yield Reference(split, row["task_id"], text, (), tuple(calls))


def file_references(path: str) -> Iterator[Reference]:
    """The cases of a JSONL file: `text`, `prompt` or `messages`; and where it has them `id`, `tools`, `ground_truth`.

    Raises FormatError for a line without a text, or when there is no such file.
    """
    for line, row in read_objects(Path(path), None):
        said = next((row[name] for name in ("text", "prompt", "messages", "question") if row.get(name)), None)
        if said is None:
            raise FormatError(f"Line {line.number} of {path} has no text.", "Give text, prompt or messages.")
        text = said if isinstance(said, str) else user_text(said)
        tools = tuple(signature(tool) for tool in row.get("tools") or ())
        calls = tuple(true_calls(row.get("ground_truth")))
        yield Reference(Path(path).stem, str(row.get("id", line.number)), text, tools, calls)


def user_text(messages: list[dict[str, Any]]) -> str:
    """What users say in messages, stored or in chat form."""
    said = [message.get("text", message.get("content")) for message in messages if message.get("role") == "user"]
    return "\n".join(text if isinstance(text, str) else "" for text in said)


def signature(tool: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A tool's name and sorted parameter names, in lower case."""
    function = function_of(tool)
    parameters = (function.get("parameters") or {}).get("properties") or {}
    return (function.get("name") or "").lower(), tuple(sorted(name.lower() for name in parameters))


def true_calls(truth: Any) -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    """The calls with arguments that a ground truth holds, wherever they are: `{name, arguments}`, the arguments an object or its JSON."""
    if isinstance(truth, list):
        for entry in truth:
            yield from true_calls(entry)
    elif isinstance(truth, dict):
        arguments = truth.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments)
            except ValueError:
                arguments = None
        if isinstance(truth.get("name"), str) and isinstance(arguments, dict) and arguments:
            yield truth["name"].lower(), {key: (value_key(value),) for key, value in arguments.items()}
        else:
            for value in truth.values():
                yield from true_calls(value) if isinstance(value, (list, dict)) else ()


def value_key(value: Any) -> str:
    """A value in the one form in which it is compared."""
    text = value.strip().lower() if isinstance(value, str) else value
    return json.dumps(text, sort_keys=True, ensure_ascii=False)
