"""Deterministic ids. They name the slot a row fills, except for prompts and tasks, which are named by content."""

import hashlib
import json
import re
from typing import Any

PLAIN_ID = r"^[0-9A-Za-z_][0-9A-Za-z_.:@#=+~,-]*$"
"""The form of most ids, for RE2, which takes it in microseconds; the letters of all languages and a length would cost a thousand times that."""
_ID = re.compile(r"[\w][\w.:@#=+~,-]{0,199}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")


def has_id_form(text: Any) -> bool:
    """Whether a value can be an id: 1 to 200 letters, digits and `_.:@#=+~,-`, the first a letter, a digit or `_`. So it is no path."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def file_name(text: Any) -> str:
    """A file's name for an id: the id itself when it is a plain name, else its hash. It never has a folder in it."""
    return text if isinstance(text, str) and _FILE_NAME.fullmatch(text) else hash_id(str(text))


def canonical_json(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values give equal text on every machine."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def hash_id(*parts: Any) -> str:
    """128 bits of SHA-256 over the canonical JSON of `parts`, as 32 hex digits."""
    return hash_text(canonical_json(list(parts)))


def hash_text(text: str) -> str:
    """128 bits of SHA-256 over a text, as 32 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def prompt_id(messages: list[dict], tools: list[dict]) -> str:
    """The content address of a prompt: its messages (OpenAI shape) and its tools, in order, whole schemas."""
    return hash_id("prompt", messages, tools)


def task_id(environment: str, prompt: str, ground_truth: Any, state_hash: str | None) -> str:
    """The content address of a task: environment, `prompt_id`, truth and the hash of the initial state."""
    return hash_id("task", environment, prompt, ground_truth, state_hash)


def slot_id(run_id: str, step: int | None, task: str, sample_index: int) -> str:
    """A rollout's place in its run, whichever attempt filled it."""
    return hash_id("slot", run_id, -1 if step is None else step, task, sample_index)


def rollout_id(run_id: str, step: int | None, task: str, sample_index: int, attempt: int = 0) -> str:
    """One attempt at one slot. Two equal rollouts at temperature 0 are two rollouts."""
    return hash_id("rollout", run_id, -1 if step is None else step, task, sample_index, attempt)


def group_id(run_id: str, step: int | None, task: str) -> str:
    """The rollouts of one task that were sampled together and are compared with each other."""
    return hash_id("group", run_id, -1 if step is None else step, task)
