"""The plan of a step: which rollouts it trains on, in which order and with which advantage, and why others are left out.

It is committed before the step (ledger.py).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ...store.ids import hash_id
from .advantages import group_advantages
from .batch import split_micro_batches

PLANNED_COLUMNS = [
    "rollout_id",
    "slot_id",
    "attempt",
    "sample_index",
    "task_id",
    "group_id",
    "status",
    "error_type",
    "stop_reason",
    "reward",
    "passed",
    "prefix_ok",
    "logprobs",
    "n_prompt_tokens",
    "n_tokens",
    "n_sampled_tokens",
    "n_turns",
    "n_tool_calls",
    "n_tool_errors",
    "n_parse_failures",
    "policy_version",
    "duration_s",
]


@dataclass(frozen=True)
class Entry:
    """One rollout of the step.

    Attributes:
        advantage: Rounded to float32, as it is stored; None when the rollout took no part in its group's statistics.
        reason: Why it is left out; None when it is trained on.
        micro_batch: From 0; None when left out.
    """

    rollout_id: str
    group_id: str
    reward: float | None
    advantage: float | None
    kept: bool
    reason: str | None
    micro_batch: int | None = None


@dataclass(frozen=True)
class BatchPlan:
    """A row of `batch_plans`.

    Attributes:
        policy_version: Optimizer steps behind the weights that the step changes.
        entries: Those trained on in training order, then those left out.
        settings: What the step depends on: algorithm, learner settings, the prompts' order.
    """

    run_id: str
    step: int
    policy_version: int
    entries: tuple[Entry, ...]
    seed: int
    settings: dict[str, Any]

    def to_row(self) -> dict[str, Any]:
        """The table row."""
        return {
            "row_id": plan_id(self.run_id, self.step),
            "run_id": self.run_id,
            "step": self.step,
            "policy_version": self.policy_version,
            "entries": [asdict(entry) for entry in self.entries],
            "seed": self.seed,
            "settings": json.dumps(self.settings, sort_keys=True),
            "created_at": datetime.now(UTC),
        }


@dataclass(frozen=True)
class PlanOptions:
    """How a batch is made of rollouts; the fields are those of the `grpo` and `policy` sections."""

    normalize: bool = True
    leave_one_out: bool = False
    overlong_filtering: bool = False
    token_budget: int = 8192
    keep_groups: bool = True  # in one micro-batch where they fit, so that their prompt is computed once


def plan_id(run_id: str, step: int) -> str:
    """Key of a step's plan."""
    return hash_id(run_id, step)


def make_plan(
    run_id: str, step: int, rollouts: Sequence[Mapping[str, Any]], options: PlanOptions, seed: int, settings: dict
) -> BatchPlan:
    """The plan of one step over rollout rows (columns PLANNED_COLUMNS), of which each slot's last attempt counts."""
    last = {row["slot_id"]: row for row in sorted(rollouts, key=lambda row: row["attempt"])}
    ordered = sorted(last.values(), key=lambda row: (row["group_id"], row["sample_index"]))
    entries = _judge(ordered, options)

    kept = [position for position, entry in enumerate(entries) if entry.kept]
    lengths = [ordered[position]["n_prompt_tokens"] + ordered[position]["n_tokens"] for position in kept]
    groups = [ordered[position]["group_id"] for position in kept] if options.keep_groups else None
    trained = [
        replace(entries[kept[position]], micro_batch=number)
        for number, batch in enumerate(split_micro_batches(lengths, options.token_budget, groups))
        for position in batch
    ]
    left_out = [entry for entry in entries if not entry.kept]
    superseded = [
        Entry(row["rollout_id"], row["group_id"], row["reward"], None, False, "a later attempt took its place")
        for row in rollouts
        if last[row["slot_id"]] is not row
    ]
    return BatchPlan(run_id, step, step - 1, tuple(trained + left_out + superseded), seed, settings)


def _judge(rollouts: Sequence[Mapping[str, Any]], options: PlanOptions) -> list[Entry]:
    """An entry a rollout, in order, without micro-batches."""
    import torch

    numbers = {group: number for number, group in enumerate(dict.fromkeys(row["group_id"] for row in rollouts))}
    rewards = [math.nan if _no_verdict(row) else row["reward"] for row in rollouts]
    found = group_advantages(
        torch.tensor(rewards, dtype=torch.float64),
        torch.tensor([numbers[row["group_id"]] for row in rollouts], dtype=torch.int64),
        normalize=options.normalize,
        leave_one_out=options.leave_one_out,
    )
    entries = []
    columns = (found.values_B.float().tolist(), found.zero_std_B.tolist(), found.sizes_B.tolist())
    for row, advantage, flat, size in zip(rollouts, *columns, strict=True):
        reason = _no_verdict(row) or _untrainable(row, options)
        if reason is None and flat:
            reason = "zero_std" if size > 1 else "alone in its group"
        known = None if math.isnan(advantage) else advantage
        entries.append(Entry(row["rollout_id"], row["group_id"], row["reward"], known, reason is None, reason))
    return entries


def _no_verdict(row: Mapping[str, Any]) -> str | None:
    """Why the rollout takes no part in its group's statistics, None when it does."""
    if row["status"] not in ("completed", "truncated"):
        return f"{row['status']}: {row['error_type']}" if row["error_type"] else row["status"]
    if row["reward"] is None or not math.isfinite(row["reward"]):
        return "no reward"
    return None


def _untrainable(row: Mapping[str, Any], options: PlanOptions) -> str | None:
    """Why a rollout whose reward counts is not trained on, None when it is."""
    if not row["n_sampled_tokens"] or row["logprobs"] is None:
        return "no sampled tokens"
    if not row["prefix_ok"]:
        return "a prompt did not begin with the tokens before it"
    if not all(map(math.isfinite, row["logprobs"])):
        return "a logprob is not finite"
    if options.overlong_filtering and row["status"] == "truncated":
        return "truncated"
    return None
