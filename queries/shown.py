"""Anything in a store, as people look at it: what its id stands for, its facts, and tables of what belongs to it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import zip_longest
from typing import Any

from ..base.errors import StoreNotFound
from ..base.html import html_table
from ..store.checkpoint_paths import located
from ..store.lance_store import LanceStore, quote
from ..store.messages import Message
from ..store.naming import Named, named
from .rollouts import load_rollout
from .run_list import listed_runs
from .session import sql

_LISTED = 50
"""Rows of a table that grows with the store: rollouts of a group, a task or a dataset."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Shown:
    """What an id stands for.

    Attributes:
        kind: checkpoint, run, dataset, snapshot, rollout, group or task.
        id: The whole id.
        facts: What is known of the thing itself, by name; what is not known is left out.
        parts: Tables of what belongs to it, by title: lists of rows with the same keys.
    """

    kind: str
    id: str
    facts: Row
    parts: dict[str, list[Row]] = field(default_factory=dict)

    def to_json(self) -> Row:
        """One object: kind, id, facts and parts."""
        return asdict(self)

    def _repr_html_(self) -> str:
        """For notebooks: the facts, then a table for each part."""
        facts = [{"what": name, "value": value} for name, value in self.facts.items()]
        tables = [html_table(facts, title=f"{self.kind} {self.id}"), *(html_table(rows, title=title) for title, rows in self.parts.items())]  # fmt: skip
        return "\n".join(tables)


def shown(store: LanceStore, name: str, kind: str | None = None) -> Shown:
    """What the name stands for: a whole id, the beginning of one, `latest`, RUN/step_N. With a `kind`, it is a whole id of that kind.

    Raises StoreNotFound with similar names, and ConfigError that lists what begins so when several do.
    """
    found = named(store, name) if kind is None else Named(kind, name)
    return _SHOWN[found.kind](store, found)


def _rollout(store: LanceStore, found: Named) -> Shown:
    rollout = load_rollout(store, found.id)
    row = rollout.to_row()
    facts = {name: row[name] for name in _ROLLOUT if row[name] is not None}
    if (gap := rollout.text_gap()) is not None:
        facts["token_text"] = f"none: {gap}"
    if rollout.task is not None and rollout.task.ground_truth is not None:
        facts["ground_truth"] = rollout.task.ground_truth
    prompt = rollout.prompt.messages if rollout.prompt is not None else ()
    used = sql(store, "SELECT run_id, step, advantage, kept, reason, trained FROM training_samples WHERE rollout_id = $id ORDER BY run_id, step", params={"id": found.id})  # fmt: skip
    verdicts = [{"scorer": score.scorer, "version": score.scorer_version, "reward": score.reward, "passed": score.passed, "components": [list(part) for part in score.components], "rationale": score.rationale} for score in rollout.scores]  # fmt: skip
    tokens = [asdict(token) for token in rollout.tokens()]
    parts = {
        "messages": [_message(message) for message in (*prompt, *rollout.messages)],
        "calls": _calls(rollout.messages, rollout.task.ground_truth if rollout.task is not None else None),
        "verdicts": verdicts,
        "training": used.to_pylist(),
        "tokens": tokens,
    }
    return Shown("rollout", found.id, facts, {title: rows for title, rows in parts.items() if rows})


_ROLLOUT = (
    "run_id", "step", "task_id", "group_id", "sample_index", "attempt", "environment", "policy_id", "policy_version", "engine", "status", "stop_reason",
    "error_type", "error_message", "reward", "passed", "reward_components", "rationale", "n_turns", "n_tool_calls", "n_tool_errors", "n_prompt_tokens", "n_sampled_tokens",
    "started_at", "duration_s", "gaps",
)  # fmt: skip


def _message(message: Message) -> Row:
    calls = [{"name": call.name, "arguments": call.arguments} for call in message.tool_calls]
    return {"role": message.role, "text": message.text, "reasoning": message.reasoning, "calls": calls or None}


def _calls(messages: Sequence[Message], truth: Any) -> list[Row]:
    """The calls of a rollout in order, beside those of the ground truth where it is a list of calls."""
    made = [f"{call.name} {call.arguments}" for message in messages for call in message.tool_calls]
    listed = truth if isinstance(truth, list) else []
    wanted = [f"{call['name']} {call.get('arguments')}" for call in listed if isinstance(call, dict) and "name" in call]
    return [{"number": number, "call": call, "truth": right} for number, (call, right) in enumerate(zip_longest(made, wanted), start=1)]  # fmt: skip


def _group(store: LanceStore, found: Named) -> Shown:
    query = """
        SELECT r.rollout_id, r.run_id, r.step, r.sample_index, r.attempt, r.task_id, r.status, r.reward, r.passed, r.n_turns, s.advantage, s.kept, s.reason
        FROM rollouts r LEFT JOIN training_samples s ON s.rollout_id = r.rollout_id AND s.run_id = r.run_id
        WHERE r.group_id = $id ORDER BY r.sample_index, r.attempt"""
    rows = sql(store, query, params={"id": found.id}).to_pylist()
    facts = _shared(rows, "run_id", "step", "task_id") | _rates(rows)
    return Shown("group", found.id, facts, {"rollouts": rows[:_LISTED]})


def _task(store: LanceStore, found: Named) -> Shown:
    (row,) = store.read("tasks", filter=f"task_id = {quote(found.id)}").to_pylist()
    facts = {name: row[name] for name in ("environment", "split", "category", "difficulty", "ground_truth", "prompt_id", "source_key") if row.get(name) is not None}  # fmt: skip
    prompts = store.read("prompts", filter=f"prompt_id = {quote(row['prompt_id'])}").to_pylist()
    messages = [_message(Message.from_row(message)) for prompt in prompts for message in prompt["messages"]]
    query = """
        SELECT run_id, count(*) AS rollouts, avg(reward) AS mean_reward, avg(passed::INT) AS pass_rate
        FROM final_rollouts WHERE task_id = $id GROUP BY run_id ORDER BY run_id"""
    runs = sql(store, query, params={"id": found.id}).to_pylist()
    return Shown("task", found.id, facts, {"messages": messages, "runs": runs} if runs else {"messages": messages})


def _run(store: LanceStore, found: Named) -> Shown:
    run = next(one for one in listed_runs(store) if one["run_id"] == found.id)
    kept = ("kind", "status", "started_at", "finished_at", "incarnation", "rollouts", "mean_reward")
    facts = {name: run[name] for name in kept if run[name] is not None}
    query = """
        SELECT name, arg_max(value, (step, incarnation)) AS last, max(step) AS step
        FROM metrics WHERE run_id = $id GROUP BY name ORDER BY name"""
    parts = {
        "settings": [{"setting": key, "value": value} for key, value in _leaves(run["config"])],
        "summary": [{"what": key, "value": value} for key, value in (run["summary"] or {}).items()],
        "metrics": sql(store, query, params={"id": found.id}).to_pylist(),
        "checkpoints": [_checkpoint_row(row) for row in _checkpoints(store, f"run_id = {quote(found.id)}")],
    }
    return Shown("run", found.id, facts, {title: rows for title, rows in parts.items() if rows})


def _checkpoint(store: LanceStore, found: Named) -> Shown:
    rows = _checkpoints(store, f"checkpoint_id = {quote(found.id)}")
    if not rows:
        raise StoreNotFound(f"There is no checkpoint {found.id!r} in {store.uri}.", "`rollhouse show RUN` lists those of a run.")  # fmt: skip
    row = max(rows, key=lambda one: one["incarnation"])
    folder = located(store, row)
    kept = ("run_id", "step", "weights_hash", "parent_hash", "dataset", "created_at")
    facts = {name: row[name] for name in kept if row[name] is not None}
    facts["folder"] = "not there, or not of this run" if folder is None else str(folder)
    metrics = [{"name": name, "value": value} for name, value in json.loads(row["metrics"] or "{}").items()]
    return Shown("checkpoint", found.id, facts, {"metrics": metrics} if metrics else {})


def _checkpoints(store: LanceStore, where: str) -> list[Row]:
    return sorted(
        store.read("checkpoints", filter=where).to_pylist(), key=lambda row: (row["incarnation"], row["step"])
    )


def _checkpoint_row(row: Row) -> Row:
    return {name: row[name] for name in ("checkpoint_id", "step", "weights_hash", "metrics", "created_at")}


def _dataset(store: LanceStore, found: Named) -> Shown:
    name, _, version = found.id.partition("@")
    rows = store.read("datasets", filter=f"name = {quote(name)}").to_pylist()
    row = next((one for one in rows if str(one["version"]) == version), None) or max(rows, key=lambda one: one["version"])  # fmt: skip
    kept = ("kind", "snapshot", "scorer", "n_rows", "fingerprint", "code_version", "run_id", "created_at")
    facts = {key: row[key] for key in kept if row.get(key) is not None}
    recipe = [{"setting": key, "value": value} for key, value in _leaves(json.loads(row["recipe"] or "{}"))]
    parts = {"recipe": recipe, "rows": (row["rows"] or [])[:_LISTED]}
    return Shown("dataset", f"{name}@{row['version']}", facts, {title: rows for title, rows in parts.items() if rows})


def _snapshot(store: LanceStore, found: Named) -> Shown:
    (row,) = store.read("snapshots", filter=f"name = {quote(found.id)}").to_pylist()
    facts = {name: value for name, value in row.items() if name not in ("name", "versions") and value is not None}
    counts = [{"table": entry["table"], "version": entry["version"], "rows": store.lance_dataset_version(entry["table"], entry["version"]).count_rows()} for entry in row["versions"]]  # fmt: skip
    return Shown("snapshot", found.id, facts, {"tables": counts})


def _shared(rows: list[Row], *names: str) -> Row:
    """What all rows have alike."""
    return {name: rows[0][name] for name in names if rows and all(row[name] == rows[0][name] for row in rows)}


def _rates(rows: list[Row]) -> Row:
    rewards = [row["reward"] for row in rows if row["reward"] is not None]
    passed = [row["passed"] for row in rows if row["passed"] is not None]
    facts: Row = {"rollouts": len(rows)}
    if rewards:
        facts["mean_reward"] = sum(rewards) / len(rewards)
    if passed:
        facts["pass_rate"] = sum(passed) / len(passed)
    return facts


def _leaves(values: Any, prefix: str = "") -> list[tuple[str, Any]]:
    """`section.key` and value of nested settings that are set; what is empty or null is left out."""
    found: list[tuple[str, Any]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        elif value not in (None, [], ""):
            found.append((f"{prefix}{key}", value))
    return found


_SHOWN: dict[str, Callable[[LanceStore, Named], Shown]] = {
    "rollout": _rollout,
    "group": _group,
    "task": _task,
    "run": _run,
    "checkpoint": _checkpoint,
    "dataset": _dataset,
    "snapshot": _snapshot,
}
