"""From a reader's rollouts to rows of the store: ids, the task, the verdict, tokens, and the overlay for what columns do not say."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from ..store.ids import canonical_json, hash_id, prompt_id, task_id
from ..store.messages import Message
from ..store.tables import TABLES
from .overlay import SAME, difference
from .rollout import Rollout, Row, text_of

SCORER_VERSION = "imported"
_TOOL_ERRORS = ('{"error":', '{"detail":', '{"output":"Error executing tool')
_FLOATS = [field.name for field in TABLES["rollouts"].schema if field.type == pa.float32()]


@dataclass
class Source:
    """What is known about a file besides its records.

    Attributes:
        format: Its name, part of every id.
        run_id: The import run.
        environment: The environment its user named; None to take it from the records.
        source_run: The run its user says the records come from; None to take it from the records.
        tasks: Task ids that have a truth, by (environment, prompt_id).
        companion: What a format's reader needs of files beside the file.
        occurrences: How often each record without a key was seen so far.
        group_sizes: Rollouts so far of each group.
    """

    format: str
    run_id: str
    environment: str | None = None
    source_run: str | None = None
    tasks: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    companion: Any = None
    occurrences: Counter[str] = field(default_factory=Counter)
    group_sizes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class StoreRows:
    """What one rollout becomes; None where it has nothing to say."""

    rollout: Row
    prompt: Row
    task: Row | None
    prompt_tokens: Row | None
    score: Row | None


def to_rows(
    rollouts: Sequence[Rollout],
    record: Row,
    source: Source,
    build: Callable[[list[Rollout]], Row] | None,
    wanted: Callable[[Row, Row], Row] | None = None,
) -> list[StoreRows]:
    """The rows of one record's rollouts.

    Args:
        build: The format's writer of one record; None when what the columns do not say is in the rollouts' `extra` already.
        wanted: What an export shall give back, of what `build` gave and the record; None is the record.

    Raises KeyError, TypeError, ValueError or AttributeError for what is not of the format.
    """
    content = None
    if any(rollout.source_key is None for rollout in rollouts):
        content = hash_id(_canonical(record))
        content = [content, source.occurrences[content]]
        source.occurrences[content[0]] += 1
    rows = [_place(rollout, index, content, source) for index, rollout in enumerate(rollouts)]
    if build is not None:
        # The task may come from the store or from a companion file: what the record itself says of it is part of the overlay.
        stored = [replace(rollout, task=None, columns=_as_stored(rollout.columns)) for rollout in rollouts]
        built = build(stored)
        overlay = difference(built, wanted(built, record) if wanted else record)
        # Even when there is no difference: the name says that this format gives the record back.
        rollouts[0].extra[source.format] = {} if overlay is SAME else overlay
    return [_finish(rollout, *row) for rollout, row in zip(rollouts, rows, strict=True)]


def _canonical(record: Row) -> str:
    try:
        return canonical_json(record)
    except TypeError:  # Parquet has values that JSON has not: times, for one
        return canonical_json(json.loads(json.dumps(record, default=str)))


def _place(rollout: Rollout, index: int, content: list[Any] | None, source: Source) -> tuple[Row, Row | None, Row | None]:  # fmt: skip
    """Fills in the columns an importer works out; returns the rows of prompt, task and prompt tokens."""
    columns = rollout.columns
    prompt = prompt_id([message.to_openai() for message in rollout.prompt], rollout.tools)
    columns["environment"] = source.environment or columns.get("environment") or "unknown"
    told = set(rollout.gaps)
    rollout.gaps |= _prompt_gaps(rollout)
    task, task_row = _task(rollout, columns["environment"], prompt, source)
    columns |= {"run_id": source.run_id, "task_id": task, "prompt_id": prompt}
    _identify(rollout, index, content, source)
    columns.setdefault("engine", source.format)
    columns.setdefault("status", "completed")
    for name, count in _counts(rollout.messages).items():
        columns.setdefault(name, count)
    _judge(rollout, source)
    prompt_row = {
        "prompt_id": prompt,
        "messages": [message.to_row() for message in rollout.prompt],
        "tools": json.dumps(rollout.tools, ensure_ascii=False),
    }
    tokens_row = _tokens(rollout, prompt, source.format)
    if rollout.complete:
        rollout.gaps = told
    return prompt_row, task_row, tokens_row


def _finish(rollout: Rollout, prompt: Row, task: Row | None, tokens: Row | None) -> StoreRows:
    row = {
        **rollout.columns,
        "messages": [message.to_row() for message in rollout.messages],
        "gaps": sorted(rollout.gaps),
        "extra": text_of(rollout.extra or None),
    }
    return StoreRows(row, prompt, task, tokens, _score(row))


def _prompt_gaps(rollout: Rollout) -> set[str]:
    gaps = set() if rollout.tools else {"no_tools"}
    has_system = any(message.role in ("system", "developer") for message in rollout.prompt)
    return gaps if has_system else gaps | {"no_system_prompt"}


def _task(rollout: Rollout, environment: str, prompt: str, source: Source) -> tuple[str, Row | None]:
    """The task's id, and its row unless the store has it: the one task of the prompt whose truth is known, else one without truth."""
    told = rollout.task or {}
    truth, state = told.get("ground_truth"), told.get("state")
    if truth is None:
        known = source.tasks.get((environment, prompt), set())
        if len(known) == 1:
            return next(iter(known)), None
        rollout.gaps.add("no_task")
    state_hash = None if state is None else hash_id(state)
    key = task_id(environment, prompt, truth, state_hash)
    row = {
        "task_id": key,
        "environment": environment,
        "prompt_id": prompt,
        "ground_truth": text_of(truth),
        "state_hash": state_hash,
        "state": text_of(state),
        "split": told.get("split") or "train",
        "category": told.get("category"),
        "difficulty": told.get("difficulty"),
        "source_key": None if told.get("source_key") is None else str(told["source_key"]),
        "extra": text_of(told.get("extra")),
        "created_at": datetime.now(UTC),
    }
    return key, row


def _identify(rollout: Rollout, index: int, content: list[Any] | None, source: Source) -> None:
    """Ids that stay the same when the file is imported again, renamed or grown."""
    columns = rollout.columns
    run = source.source_run or rollout.source_run
    if rollout.source_key is not None:
        key = hash_id(source.format, run, rollout.source_key)
    else:
        key = hash_id(source.format, run, *(content or ()), *([index] if index else []))
    named = [] if rollout.group_key is None else [rollout.group_key]
    group = hash_id(source.format, run, columns["task_id"], columns.get("policy_id"), *named)
    columns.setdefault("rollout_id", key)
    columns.setdefault("group_id", group)
    columns.setdefault("slot_id", columns["rollout_id"])
    columns.setdefault("episode_id", columns["rollout_id"])
    if columns.get("sample_index") is None:
        columns["sample_index"] = source.group_sizes[columns["group_id"]]
    source.group_sizes[columns["group_id"]] += 1
    for name, value in (("attempt", 0), ("agent", "main"), ("branch", 0), ("trainable", True)):
        if columns.get(name) is None:
            columns[name] = value


def _counts(messages: list[Message]) -> Row:
    calls = [call for message in messages for call in message.tool_calls]
    outputs = [message.text or "" for message in messages if message.role == "tool"]
    return {
        "n_turns": sum(message.role == "assistant" for message in messages),
        "n_tool_calls": len(calls),
        "n_tool_errors": sum(text.startswith(_TOOL_ERRORS) for text in outputs),
        "n_parse_failures": sum(not _parses(call.arguments) for call in calls),
    }


def _parses(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _judge(rollout: Rollout, source: Source) -> None:
    columns = rollout.columns
    if columns.get("reward") is None:
        columns["reward"] = None
        rollout.gaps.add("no_reward")
        return
    columns["reward"] = float(columns["reward"])
    for name, value in (("passed", columns["reward"] >= 1.0), ("reward_components", []), ("scorer", source.format),
                        ("scorer_version", SCORER_VERSION)):  # fmt: skip
        if columns.get(name) is None:
            columns[name] = value
    columns["_score_config"] = hash_id(source.format, source.source_run)


def _score(row: Row) -> Row | None:
    config = row.pop("_score_config", None)
    if config is None:
        return None
    return {
        "row_id": hash_id(row["rollout_id"], row["scorer"], row["scorer_version"], config),
        "rollout_id": row["rollout_id"],
        "scorer": row["scorer"],
        "scorer_version": row["scorer_version"],
        "config_hash": config,
        "reward": row["reward"],
        "passed": row["passed"],
        "components": row["reward_components"],
        "run_id": row["run_id"],
        "created_at": datetime.now(UTC),
    }


def _tokens(rollout: Rollout, prompt: str, source_format: str) -> Row | None:
    """Fills in the token columns; returns the prompt's tokens as a row."""
    columns = rollout.columns
    if columns.get("token_ids") is None:
        if columns.get("prefix_ok") is None:
            rollout.gaps.add("no_token_ids")
        return None
    if any(not math.isfinite(value) for value in columns.get("logprobs") or ()):
        raise ValueError("a logprob is not a finite number")
    columns.setdefault("prefix_ok", True)
    columns["n_tokens"] = len(columns["token_ids"])
    columns["n_sampled_tokens"] = sum(columns["loss_mask"])
    if rollout.prompt_ids is None:
        rollout.gaps.add("no_prompt_tokens")
        return None
    columns["n_prompt_tokens"] = len(rollout.prompt_ids)
    # Where nobody says which tokenizer and template these are: named after the model, and after the tokens the prompt became.
    columns.setdefault("tokenizer_hash", f"{source_format}:{columns.get('policy_id')}")
    columns.setdefault("template_hash", hash_id("prompt tokens", rollout.prompt_ids))
    hashes = {name: columns[name] for name in ("tokenizer_hash", "template_hash")}
    return {"prompt_id": prompt, **hashes, "token_ids": rollout.prompt_ids}


def _as_stored(columns: Row) -> Row:
    """The columns as they will be read again: some numbers have 32 bits there."""
    stored = {**columns}
    for name in _FLOATS:
        if stored.get(name) is not None:
            stored[name] = float(np.float32(stored[name]))
    if stored.get("logprobs") is not None:
        stored["logprobs"] = np.asarray(stored["logprobs"], dtype=np.float32).tolist()
    return stored
