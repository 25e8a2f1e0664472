"""From a reader's rollouts to rows of the store: ids, the task, the verdict, tokens, and the overlay for what columns do not say."""

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from ..store.ids import canonical_json, hash_id
from ..store.rollout import Rollout
from ..store.tables import TABLES
from ..store.task import Prompt, Score, Task
from .overlay import SAME, difference
from .rollout import UNTRAINED, FileRollout, Row, unread_gaps

SCORER_VERSION = "imported"
_LARGEST = float(np.finfo(np.float32).max)
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
        map: The user's `--map`; None without one.
        companion: What a format's reader needs of files beside the file.
        reward_columns: Fields that the user names as rewards; none takes those whose name says so.
        occurrences: How often each record without a key was seen so far.
        group_sizes: Rollouts so far of each group.
        counts: What the format's reader counts, for the summary.
        contents: By id of a rollout that has a key, a hash of its record.
    """

    format: str
    run_id: str
    environment: str | None = None
    source_run: str | None = None
    tasks: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    map: str | None = None
    companion: Any = None
    reward_columns: tuple[str, ...] = ()
    occurrences: Counter[str] = field(default_factory=Counter)
    group_sizes: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    contents: dict[str, str] = field(default_factory=dict)


def to_store(
    rollouts: Sequence[FileRollout],
    record: Row,
    source: Source,
    build: Callable[[list[FileRollout]], Row] | None,
    wanted: Callable[[Row, Row], Row] | None = None,
) -> list[Rollout]:
    """One record's rollouts as the store takes them.

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
    tasks = [_place(rollout, index, content, source) for index, rollout in enumerate(rollouts)]
    _refuse_other_content(rollouts, record, source)
    if build is not None:
        # The task may come from the store or from a companion file: the record's own fields of it are part of the overlay.
        stored = [replace(rollout, task=None, columns=_as_stored(rollout.columns)) for rollout in rollouts]
        built = build(stored)
        overlay = difference(built, wanted(built, record) if wanted else record)
        # Even when there is no difference: the key marks that this format gives the record back.
        rollouts[0].extra[source.format] = {} if overlay is SAME else overlay
    else:
        _keep_unread(rollouts, source)
    for rollout in rollouts:
        if rollout.untrained:
            rollout.extra[UNTRAINED] = sorted(rollout.untrained)
    return [_finish(rollout, *task, source) for rollout, task in zip(rollouts, tasks, strict=True)]


def _keep_unread(rollouts: Sequence[FileRollout], source: Source) -> None:
    """Puts what no column took beside what the reader itself keeps, and names it in gaps."""
    for rollout in rollouts:
        if rollout.unread:
            rollout.extra[source.format] = {**(rollout.extra.get(source.format) or {}), "unread": rollout.unread}
            rollout.gaps |= unread_gaps(rollout.unread)


def _refuse_other_content(rollouts: Sequence[FileRollout], record: Row, source: Source) -> None:
    """Raises ValueError for a rollout whose key an earlier record with other content has: one of the two would be lost."""
    keyed = [rollout for rollout in rollouts if rollout.source_key is not None]
    content = hash_id(_canonical(record)) if keyed else ""
    for rollout in keyed:
        id = rollout.columns["rollout_id"]
        if source.contents.setdefault(id, content) != content:
            raise ValueError(f"its key {rollout.source_key!r} is that of an earlier line, whose content differs")


def _canonical(record: Row) -> str:
    try:
        return canonical_json(record)
    except TypeError:  # Parquet has values that JSON has not: times, for one
        return canonical_json(json.loads(json.dumps(record, default=str)))


def _place(rollout: FileRollout, index: int, content: list[Any] | None, source: Source) -> tuple[Prompt, Task | None]:
    """Fills in the columns an importer works out; returns the prompt and the task, None for one that the store has."""
    columns = rollout.columns
    prompt = Prompt(tuple(rollout.prompt), tuple(rollout.tools))
    columns["environment"] = source.environment or columns.get("environment") or "unknown"
    own_gaps = set(rollout.gaps)
    rollout.gaps |= _prompt_gaps(rollout)
    task_id, task = _task(rollout, columns["environment"], prompt, source)
    columns |= {"run_id": source.run_id, "task_id": task_id}
    _identify(rollout, index, content, source)
    columns.setdefault("engine", source.format)
    columns.setdefault("status", "completed")
    _judge(rollout, source)
    _tokens(rollout, source.format)
    if rollout.complete:
        rollout.gaps = own_gaps
    return prompt, task


def _finish(rollout: FileRollout, prompt: Prompt, task: Task | None, source: Source) -> Rollout:
    columns = {name: value for name, value in rollout.columns.items() if value is not None}
    found = Rollout(
        messages=rollout.messages,
        prompt=prompt,
        task=task,
        prompt_token_ids=rollout.prompt_ids,
        gaps=sorted(rollout.gaps),
        extra=rollout.extra,
        **columns,
    )
    found.stop_reason = rollout.get("stop_reason")  # null where the source has none
    if found.reward is not None:
        config = hash_id(source.format, source.source_run)
        components: Any = tuple(found.reward_components or ())
        score = Score(found.reward, bool(found.passed), found.scorer or "", found.scorer_version or "", components, config_hash=config)  # fmt: skip
        found.scores = [score]
    found.scores += [_verdict(each, source) for each in rollout.verdicts]
    return found


def _verdict(told: Row, source: Source) -> Score:
    """The verdict of another scorer than the one that counts."""
    parts: Any = tuple((part["name"], part["value"], part["weight"]) for part in told["components"])
    config = hash_id(source.format, source.source_run)
    return Score(told["reward"], told["reward"] >= 1.0, told["scorer"], SCORER_VERSION, parts, config_hash=config)


def _prompt_gaps(rollout: FileRollout) -> set[str]:
    gaps = set() if rollout.tools else {"no_tools"}
    has_system = any(message.role in ("system", "developer") for message in rollout.prompt)
    return gaps if has_system else gaps | {"no_system_prompt"}


def _task(rollout: FileRollout, environment: str, prompt: Prompt, source: Source) -> tuple[str, Task | None]:
    """The task's id, and the task unless the store has it: the one task of the prompt whose truth is known, else one without truth."""
    fields = rollout.task or {}
    truth, key = fields.get("ground_truth"), fields.get("source_key")
    if truth is None:
        known = source.tasks.get((environment, prompt.prompt_id), set())
        if len(known) == 1:
            return next(iter(known)), None
        rollout.gaps.add("no_task")
    task = Task.of(
        environment,
        prompt,
        ground_truth=truth,
        state=fields.get("state"),
        split=fields.get("split") or "train",
        category=fields.get("category"),
        difficulty=fields.get("difficulty"),
        source_key=None if key is None else str(key),
        extra=fields.get("extra") or {},
    )
    return task.task_id, task


def _identify(rollout: FileRollout, index: int, content: list[Any] | None, source: Source) -> None:
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


def _judge(rollout: FileRollout, source: Source) -> None:
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


def _tokens(rollout: FileRollout, source_format: str) -> None:
    """Fills in the token columns that no source has."""
    columns = rollout.columns
    if columns.get("token_ids") is None:
        if columns.get("prefix_ok") is None:
            rollout.gaps.add("no_token_ids")
        return
    if any(not math.isfinite(value) for value in columns.get("logprobs") or ()):
        raise ValueError("a logprob is not a finite number")
    if any(abs(value) > _LARGEST for value in columns.get("logprobs") or ()):
        raise ValueError("a logprob is too large for its column")
    if rollout.prompt_ids is None:
        rollout.gaps.add("no_prompt_tokens")
        return
    # Where no source names the tokenizer and the template: named after the model, and after the tokens the prompt became.
    columns.setdefault("tokenizer_hash", f"{source_format}:{columns.get('policy_id')}")
    columns.setdefault("template_hash", hash_id("prompt tokens", rollout.prompt_ids))


def _as_float32(value: Any) -> float:
    if abs(float(value)) > _LARGEST:
        raise ValueError("a number is too large for its column")
    return float(np.float32(value))


def _as_stored(columns: Row) -> Row:
    """The columns as they will be read again: some numbers have 32 bits there."""
    stored = {**columns}
    for name in _FLOATS:
        if stored.get(name) is not None:
            stored[name] = _as_float32(stored[name])
    if stored.get("logprobs") is not None:
        stored["logprobs"] = np.asarray(stored["logprobs"], dtype=np.float32).tolist()
    return stored
