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
        set: Name of the set: `bfcl`, `validation`, `test` or the stem of a file's name.
        id: Id of the case within the set.
        text: The user messages.
        tools: (name, sorted parameter names) of each tool.
        calls: (name, arguments) of each true call; an argument has a tuple of accepted values, each as JSON text.
    """

    set: str
    id: str
    text: str
    tools: tuple[tuple[str, tuple[str, ...]], ...] = ()
    calls: tuple[tuple[str, dict[str, tuple[str, ...]]], ...] = ()


def store_references(store: LanceStore, snapshot: str, split: str) -> Iterator[Reference]:
    """The tasks of a split at a snapshot, without tools, because all splits of an environment share them."""
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
    """The cases of a JSONL file. A line has `text`, `prompt`, `messages` or `question`, and optionally `id`, `tools` and `ground_truth`.

    Raises:
        FormatError: A line has no text, or there is no such file.
    """
    for line, row in read_objects(Path(path), None):
        content = next((row[name] for name in ("text", "prompt", "messages", "question") if row.get(name)), None)
        if content is None:
            raise FormatError(f"Line {line.number} of {path} has no text.", "Add text, prompt or messages.")
        text = content if isinstance(content, str) else user_text(content)
        tools = tuple(signature(tool) for tool in row.get("tools") or ())
        calls = tuple(true_calls(row.get("ground_truth")))
        yield Reference(Path(path).stem, str(row.get("id", line.number)), text, tools, calls)


def user_text(messages: list[dict[str, Any]]) -> str:
    """The text of the user messages, in stored or in chat form."""
    texts = [message.get("text", message.get("content")) for message in messages if message.get("role") == "user"]
    return "\n".join(text if isinstance(text, str) else "" for text in texts)


def signature(tool: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The name and the sorted parameter names of a tool, in lower case."""
    function = function_of(tool)
    parameters = (function.get("parameters") or {}).get("properties") or {}
    return (function.get("name") or "").lower(), tuple(sorted(name.lower() for name in parameters))


def true_calls(truth: Any) -> Iterator[tuple[str, dict[str, tuple[str, ...]]]]:
    """The calls with arguments at any depth of a ground truth: `{name, arguments}`, where arguments is an object or its JSON text."""
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
    """A value as normalized JSON text, for comparison."""
    text = value.strip().lower() if isinstance(value, str) else value
    return json.dumps(text, sort_keys=True, ensure_ascii=False)
