"""One group: the rollouts of a prompt that were sampled together, what their batch made of them, and where they part."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from ..base.errors import StoreNotFound
from .filters import PLANNED
from .reader import Reader
from .rollout import task_of

SHOWN = 64
"""Rollouts whose messages are sent; the numbers of the others are."""
_MESSAGES, _CHARACTERS = 40, 2_000  # of a stretch of the tree, and of a text in it
_COLUMNS = (
    "rollout_id", "run_id", "step", "task_id", "prompt_id", "slot_id", "sample_index", "attempt", "agent", "branch", "trainable", "status", "error_type", "reward", "passed",
    "policy_version", "n_turns", "n_tool_calls", "n_tool_errors", "n_tokens",
)  # fmt: skip

Message = Mapping[str, Any]


def group(reader: Reader, group_id: str) -> dict[str, Any]:
    """A group with everything that its page shows. Raises StoreNotFound.

    Returns:
        group_id, run_id, step, task; rows (one a rollout, by sample, agent, branch and attempt, with advantage, kept, reason, trained and `final`: whether it counts);
        n, mean, std (divisor n), zero_variance (null without two rewards) and passed, over the final rollouts of trained agents, the main branch of each, as the view `groups` counts them;
        left_out (reason → rollouts); tree (see `tree`); shown (rollouts in the tree); near (previous, next, position from 0, total among the run's groups).
    """
    found = reader.rows("SELECT rollout_id FROM rollouts WHERE group_id = $group", group=group_id)
    rows = reader.rollouts([row["rollout_id"] for row in found], _COLUMNS)
    if not rows:
        raise StoreNotFound(f"There is no group {group_id!r} in {reader.store.uri}.", "A rollout's page links to its group.")  # fmt: skip
    rows.sort(key=lambda row: (row["sample_index"] or 0, row["agent"] or "", row["branch"] or 0, row["attempt"] or 0, row["rollout_id"]))  # fmt: skip
    _plan(reader, group_id, rows)
    _finals(rows)
    first = rows[0]
    talks = _talks(reader, rows[:SHOWN])
    left_out: dict[str, int] = {}
    for row in rows:
        if row["kept"] is False:
            reason = row["reason"] or "no reason noted"
            left_out[reason] = left_out.get(reason, 0) + 1
    return {
        "group_id": group_id,
        "run_id": first["run_id"],
        "step": first["step"],
        "task": task_of(reader, first["task_id"]),
        "rows": rows,
        "left_out": left_out,
        "tree": tree(talks),
        "shown": len(talks),
        "near": _near(reader, first["run_id"], group_id),
        **_numbers(rows),
    }


def tree(talks: Mapping[str, Sequence[Message]]) -> dict[str, Any]:
    """What several rollouts say, each stretch that some share once.

    Args:
        talks: rollout_id → its messages, the prompt's first; at least one.

    Returns:
        A node: rollouts (ids that go through it), messages (the stretch that these share, at most 40 with texts of at most 2,000 characters and `more`, the characters cut off),
        hidden (messages of the stretch beyond these), first (position of its first message), ends (ids that end with it), children (nodes, in the order of their first rollout).
    """
    keys = {rollout_id: [_key(message) for message in talk] for rollout_id, talk in talks.items()}
    return _node(talks, keys, list(talks), 0)


def _node(talks: Mapping[str, Sequence[Message]], keys: Mapping[str, list[str]], ids: list[str], start: int) -> dict[str, Any]:  # fmt: skip
    lead = ids[0]
    shortest = min(len(keys[one]) for one in ids)
    end = start
    while end < shortest and all(keys[one][end] == keys[lead][end] for one in ids):
        end += 1
    branches: dict[str, list[str]] = {}
    for one in ids:
        if len(keys[one]) > end:
            branches.setdefault(keys[one][end], []).append(one)
    # The loop above ended because some rollout ends or parts here: every branch is smaller than this node, or the only one beside an end.
    return {
        "rollouts": ids,
        "first": start,
        "messages": [_cut(message) for message in talks[lead][start : min(end, start + _MESSAGES)]],
        "hidden": max(0, end - start - _MESSAGES),
        "ends": [one for one in ids if len(keys[one]) == end],
        "children": [_node(talks, keys, branch, end) for branch in branches.values()],
    }


def _key(message: Message) -> str:
    """What two messages share to be the same: not the ids of calls, which every rollout makes anew."""
    calls = [(call["name"], call["arguments"]) for call in message["tool_calls"] or ()]
    return repr((message["role"], message["text"], message["reasoning"], message["parts"], calls))


def _cut(message: Message) -> dict[str, Any]:
    more = 0

    def short(text: str | None) -> str | None:
        nonlocal more
        more += max(0, len(text or "") - _CHARACTERS)
        return text and text[:_CHARACTERS]

    calls = [{"id": None, "name": call["name"], "arguments": short(call["arguments"])} for call in message["tool_calls"] or ()]  # fmt: skip
    texts = {name: short(message[name]) for name in ("text", "reasoning", "parts")}
    return {"role": message["role"], "tool_calls": calls, "tool_call_id": None, "more": more} | texts


def _talks(reader: Reader, rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Message]]:
    ids = [row["rollout_id"] for row in rows]
    followed = {row["rollout_id"]: row["messages"] or [] for row in reader.rollouts(ids, ["rollout_id", "messages"])}
    prompts = sorted({row["prompt_id"] for row in rows if row["prompt_id"]})
    query = "SELECT prompt_id, messages FROM prompts WHERE list_contains($ids::VARCHAR[], prompt_id)"
    prompts_of = {row["prompt_id"]: row["messages"] or [] for row in reader.rows(query, ids=prompts)}
    return {
        row["rollout_id"]: [*prompts_of.get(row["prompt_id"], ()), *followed.get(row["rollout_id"], ())] for row in rows
    }


def _plan(reader: Reader, group_id: str, rows: Sequence[dict[str, Any]]) -> None:
    """Adds what the last batch of the rollouts' own run made of each."""
    runs = sorted({row["run_id"] for row in rows})
    narrow = PLANNED.replace("unnest(entries)", "unnest(list_filter(entries, lambda e: e.group_id = $group OR list_contains($ids::VARCHAR[], e.rollout_id)))")  # fmt: skip
    narrow = narrow.replace("FROM batch_plans", "FROM batch_plans WHERE list_contains($runs::VARCHAR[], run_id)")
    query = f"""SELECT p.run_id AS run_id, p.step AS batch_step, p.rollout_id AS rollout_id, plan_version, advantage, kept, reason, o.rollout_id IS NOT NULL AS trained
    FROM {narrow} AS p
    LEFT JOIN (SELECT DISTINCT run_id, step, rollout_id FROM training_outcomes WHERE list_contains($ids::VARCHAR[], rollout_id)) AS o
      ON o.run_id = p.run_id AND o.step = p.step AND o.rollout_id = p.rollout_id
    ORDER BY p.step"""
    ids = [row["rollout_id"] for row in rows]
    planned = {(row["run_id"], row["rollout_id"]): row for row in reader.rows(query, group=group_id, runs=runs, ids=ids)}  # fmt: skip
    for row in rows:
        plan = planned.get((row["run_id"], row["rollout_id"]), {})
        row |= {name: plan.get(name) for name in ("batch_step", "advantage", "kept", "reason", "trained")}


def _finals(rows: Sequence[dict[str, Any]]) -> None:
    """Marks the last attempt of each slot, as the view `final_rollouts` chooses it."""
    last: dict[Any, dict[str, Any]] = {}
    for row in sorted(rows, key=lambda row: (row["attempt"] or 0, row["rollout_id"])):
        last[row["slot_id"] or row["rollout_id"], row["agent"], row["branch"]] = row
    chosen = {row["rollout_id"] for row in last.values()}
    for row in rows:
        row["final"] = row["rollout_id"] in chosen


def _numbers(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    counted = [row for row in rows if row["final"] and row["trainable"] is not False and not row["branch"]]
    rewards = [row["reward"] for row in counted if row["reward"] is not None]
    judged = [row["passed"] for row in counted if row["passed"] is not None]
    return {
        "n": len(counted),
        "n_scored": len(rewards),
        "n_judged": len(judged),
        "n_passed": sum(judged),
        "mean": fmean(rewards) if rewards else None,
        "std": pstdev(rewards) if rewards else None,
        "zero_variance": min(rewards) == max(rewards) if len(rewards) > 1 else None,
    }


def _near(reader: Reader, run_id: str, group_id: str) -> dict[str, Any]:
    query = "SELECT group_id FROM rollouts WHERE run_id = $run AND group_id IS NOT NULL GROUP BY group_id ORDER BY min(step) NULLS FIRST, group_id"
    ids = reader.cached(("groups", run_id), lambda: [row["group_id"] for row in reader.rows(query, run=run_id)])
    at = ids.index(group_id)
    return {
        "previous": ids[at - 1] if at else None,
        "next": ids[at + 1] if at + 1 < len(ids) else None,
        "position": at,
        "total": len(ids),
    }
