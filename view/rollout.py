"""One rollout: prompt, messages, verdicts, and its use in training and datasets."""

import json
from collections.abc import Sequence
from typing import Any

from ..base.errors import StoreNotFound
from ..store.tables import ROLLOUTS
from . import labels
from .filters import PLANNED
from .reader import Reader

# Token lists, which the tokens page reads.
_TOKEN_COLUMNS = {"token_ids", "loss_mask", "logprobs"}
_COLUMNS = [column.name for column in ROLLOUTS.columns if column.name not in _TOKEN_COLUMNS]


def find(reader: Reader, rollout_id: str, columns: Sequence[str] = _COLUMNS) -> dict[str, Any]:
    """Columns of a rollout (all but its token lists). Raises StoreNotFound."""
    rows = reader.rollouts([rollout_id], columns)
    if not rows:
        raise StoreNotFound(
            f"There is no rollout {rollout_id!r} in {reader.store.uri}.", "Search for it on the rollouts page."
        )
    return rows[0]


def details(reader: Reader, rollout_id: str) -> dict[str, Any]:
    """rollout (its columns without tokens), prompt (messages, tools as a list), task (ground_truth parsed), scores, evaluations, labels."""
    rollout = find(reader, rollout_id)
    return {
        "rollout": rollout,
        "prompt": _prompt(reader, rollout["prompt_id"]),
        "task": task_of(reader, rollout["task_id"]),
        "scores": _scores(reader, rollout_id),
        "evaluations": _evaluations(reader, rollout_id),
        "labels": labels.of_rollout(reader, rollout_id),
    }


def lineage(reader: Reader, rollout_id: str) -> dict[str, Any]:
    """The uses of the rollout, and related rollouts.

    Returns:
        samples (one entry per batch plan that names it), checkpoints (of runs that trained on it), datasets (versions that hold it or left it out, and
        why), group, relatives (other rows of its episode, other attempts).
    """
    columns = ["rollout_id", "run_id", "step", "task_id", "group_id", "episode_id", "slot_id", "policy_version"]
    rollout = find(reader, rollout_id, columns)
    planned = samples(reader, rollout_id)
    return {
        "rollout_id": rollout_id,
        "samples": planned,
        "checkpoints": _checkpoints(reader, planned),
        "datasets": _datasets(reader, rollout),
        "group": _group(reader, rollout),
        "relatives": _relatives(reader, rollout),
    }


def parsed(text: str | None) -> Any:
    """Parsed JSON; text that is not JSON is returned unchanged."""
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text


def _prompt(reader: Reader, prompt_id: str | None) -> dict[str, Any]:
    row = reader.row("SELECT messages, tools FROM prompts WHERE prompt_id = $id", id=prompt_id) or {}
    return {"messages": row.get("messages") or [], "tools": parsed(row.get("tools")) or []}


def task_of(reader: Reader, task_id: str | None) -> dict[str, Any] | None:
    """The task with its JSON read, None where the store does not hold it."""
    columns = "task_id, environment, ground_truth, state, split, category, difficulty, source_key, extra"
    row = reader.row(f"SELECT {columns} FROM tasks WHERE task_id = $id", id=task_id)
    return row and row | {name: parsed(row[name]) for name in ("ground_truth", "state", "extra")}


def _scores(reader: Reader, rollout_id: str) -> list[dict[str, Any]]:
    query = """SELECT scorer, scorer_version, reward, passed, components, rationale, error_type, config_hash, run_id, created_at
    FROM scores WHERE rollout_id = $id ORDER BY created_at"""
    return reader.rows(query, id=rollout_id)


def samples(reader: Reader, rollout_id: str) -> list[dict[str, Any]]:
    """One entry per batch plan that names the rollout: advantage, whether it was kept, the reason if not, and the outcome."""
    query = """SELECT p.run_id AS run_id, p.step AS step, plan_version, advantage, kept, reason, o.rollout_id IS NOT NULL AS trained, ratio_mean, clipped_share
    FROM (
      SELECT run_id, step, policy_version AS plan_version, unnest(list_filter(entries, lambda e: e.rollout_id = $id), recursive := true) FROM batch_plans
    ) AS p LEFT JOIN (
      SELECT run_id, step, rollout_id, ratio_mean, clipped_share FROM training_outcomes WHERE rollout_id = $id
      QUALIFY row_number() OVER (PARTITION BY run_id, step ORDER BY incarnation DESC, use_index DESC) = 1
    ) AS o ON o.run_id = p.run_id AND o.step = p.step
    ORDER BY p.run_id, p.step"""
    return reader.rows(query, id=rollout_id)


def _checkpoints(reader: Reader, planned: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first checkpoint that each run saved after a step that trained on the rollout, and how many followed it."""
    found = []
    for sample in planned:
        if sample["trained"]:
            query = "SELECT checkpoint_id, step FROM checkpoints WHERE run_id = $run AND step >= $step ORDER BY step, incarnation DESC"
            saved = reader.rows(query, run=sample["run_id"], step=sample["step"])
            found += [
                row | {"run_id": sample["run_id"], "trained_at": sample["step"], "later": len(saved) - 1}
                for row in saved[:1]
            ]
    return found


def _datasets(reader: Reader, rollout: dict[str, Any]) -> list[dict[str, Any]]:
    query = """SELECT name, version, kind, snapshot, run_id,
      list_filter(rows, lambda x: x.rollout_id = $id OR (kind = 'grpo' AND x.task_id = $task))[1] AS entry,
      list_filter(dropped, lambda x: x.id = $id OR x.id = $task)[1].reason AS reason
    FROM datasets ORDER BY created_at"""
    rows = reader.rows(query, id=rollout["rollout_id"], task=rollout["task_id"])
    for row in rows:
        entry = row.pop("entry")
        row |= {
            "inside": entry is not None,
            "row": (entry or {}).get("row"),
            "role": (entry or {}).get("role"),
            "weight": (entry or {}).get("weight"),
        }
    return rows


def _evaluations(reader: Reader, rollout_id: str) -> list[dict[str, Any]]:
    query = "SELECT run_id, benchmark, category, case_id, mode, sample, passed, score FROM evaluations WHERE rollout_id = $id"
    return reader.rows(query, id=rollout_id)


def _group(reader: Reader, rollout: dict[str, Any]) -> list[dict[str, Any]]:
    if rollout["group_id"] is None:
        return []
    narrow = PLANNED.replace("FROM batch_plans", "FROM batch_plans WHERE run_id = $run AND step = $step")
    query = f"""SELECT r.rollout_id AS rollout_id, sample_index, attempt, status, reward, passed, n_turns, advantage, kept, reason
    FROM (SELECT rollout_id, sample_index, attempt, status, reward, passed, n_turns FROM rollouts WHERE group_id = $group) AS r
    LEFT JOIN (SELECT rollout_id, advantage, kept, reason FROM {narrow}) AS p ON p.rollout_id = r.rollout_id
    ORDER BY sample_index, attempt LIMIT 256"""
    return reader.rows(query, group=rollout["group_id"], run=rollout["run_id"], step=rollout["step"])


def _relatives(reader: Reader, rollout: dict[str, Any]) -> list[dict[str, Any]]:
    query = """SELECT rollout_id, agent, branch, attempt, status, reward, slot_id = $slot AS same_slot
    FROM rollouts WHERE (episode_id = $episode OR slot_id = $slot) AND rollout_id <> $id ORDER BY agent, branch, attempt LIMIT 100"""
    return reader.rows(query, episode=rollout["episode_id"], slot=rollout["slot_id"], id=rollout["rollout_id"])
