"""The plan of a step: which rollouts it trains on, in which order and with which advantage, and why others are left out.

It is committed before the step (ledger.py).
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from statistics import stdev
from typing import Any

from ...store.ids import hash_id
from .algorithm.advantages import ZERO_STD, group_advantages, whiten
from .algorithm.shaping import ShapingOptions, shaped_reward
from .learner.batch import split_micro_batches

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
    "reward_components",
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
        reward: What was compared within the group: the verdict after shaping, rounded to float32; the verdict where nothing was compared.
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
    """How a batch is made of rollouts.

    Attributes:
        normalize, leave_one_out: As in group_advantages.
        whiten: Advantages are whitened over the sampled tokens of what is trained on.
        overlong_filtering: Truncated rollouts count in their group and are not trained on.
        dynamic_sampling: Groups whose rewards are all equal before shaping are left out even when shaping tells their rollouts apart.
        keep_flat: Groups without spread are trained on with advantage 0, for a loss that has more than its policy term (KL, entropy).
        token_budget: Padded tokens of a micro-batch.
        keep_groups: In one micro-batch where they fit, so that their prompt is computed once.
    """

    normalize: bool = True
    leave_one_out: bool = False
    whiten: bool = False
    overlong_filtering: bool = False
    dynamic_sampling: bool = False
    keep_flat: bool = False
    shaping: ShapingOptions = field(default_factory=ShapingOptions)
    token_budget: int = 8192
    keep_groups: bool = True


def plan_id(run_id: str, step: int) -> str:
    """Key of a step's plan."""
    return hash_id(run_id, step)


def make_plan(
    run_id: str,
    step: int,
    rollouts: Sequence[Mapping[str, Any]],
    options: PlanOptions,
    seed: int,
    settings: dict,
    kl: Mapping[str, float] | None = None,
) -> BatchPlan:
    """The plan of one step over rollout rows (columns PLANNED_COLUMNS), of which each slot's last attempt counts.

    Args:
        kl: By rollout_id, the KL to the reference (k1 summed over sampled tokens). Needed with shaping.kl_coef, of every rollout that can be trained on.

    Raises ValueError when it is needed and not there.
    """
    last = last_attempts(rollouts)
    ordered = sorted(last.values(), key=lambda row: (row["group_id"], row["sample_index"]))
    entries = _judge(ordered, options, kl or {})

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


def last_attempts(rollouts: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    """slot_id → the row of its last attempt."""
    return {row["slot_id"]: row for row in sorted(rollouts, key=lambda row: row["attempt"])}


def groups_with_spread(rollouts: Sequence[Mapping[str, Any]]) -> set[str]:
    """Groups whose verdicts, before any shaping, are not all equal: those that dynamic sampling keeps. Rows as in make_plan."""
    verdicts: dict[str, list[float]] = {}
    for row in last_attempts(rollouts).values():
        if _no_verdict(row) is None:
            verdicts.setdefault(row["group_id"], []).append(row["reward"])
    return {group for group, rewards in verdicts.items() if len(rewards) > 1 and stdev(rewards) > ZERO_STD}


def _judge(rollouts: Sequence[Mapping[str, Any]], options: PlanOptions, kl: Mapping[str, float]) -> list[Entry]:
    """An entry a rollout, in order, without micro-batches."""
    import torch

    numbers = {group: number for number, group in enumerate(dict.fromkeys(row["group_id"] for row in rollouts))}
    compared = [_compared(row, options, kl) for row in rollouts]
    rewards_B = torch.tensor(compared, dtype=torch.float32)
    groups_B = torch.tensor([numbers[row["group_id"]] for row in rollouts], dtype=torch.int64)
    found = group_advantages(rewards_B, groups_B, normalize=options.normalize, leave_one_out=options.leave_one_out)
    told_apart = groups_with_spread(rollouts) if options.dynamic_sampling else set(numbers)
    reasons = [
        _no_verdict(row) or _untrainable(row, options) or ("its KL is not finite" if math.isnan(reward) else None)
        for row, reward in zip(rollouts, compared, strict=True)
    ]
    for position, (row, flat, size) in enumerate(
        zip(rollouts, found.zero_std_B.tolist(), found.sizes_B.tolist(), strict=True)
    ):
        if reasons[position] is None and (row["group_id"] not in told_apart or (flat and not options.keep_flat)):
            reasons[position] = "zero_std" if size > 1 else "alone in its group"

    values_B = found.values_B
    if options.whiten:
        trained_B = torch.tensor([reason is None for reason in reasons], dtype=torch.bool) & ~found.zero_std_B
        tokens_B = torch.tensor([row["n_sampled_tokens"] or 0 for row in rollouts], dtype=torch.int64)
        values_B = torch.where(found.zero_std_B, values_B, whiten(values_B, tokens_B * trained_B))
    return [
        Entry(
            row["rollout_id"],
            row["group_id"],
            row["reward"] if math.isnan(reward) else reward,
            None if math.isnan(advantage) else advantage,
            reason is None,
            reason,
        )
        for row, reward, advantage, reason in zip(
            rollouts, rewards_B.tolist(), values_B.float().tolist(), reasons, strict=True
        )
    ]


def _compared(row: Mapping[str, Any], options: PlanOptions, kl: Mapping[str, float]) -> float:
    """The shaped reward, NaN for a rollout without a verdict or with a KL that is not finite. What cannot be trained on has no KL: the learner never scores it."""
    if _no_verdict(row):
        return math.nan
    known = kl.get(row["rollout_id"])
    if options.shaping.kl_coef and known is None and _untrainable(row, options) is None:
        raise ValueError(f"the reward of rollout {row['rollout_id']} is to be shaped by its KL, which is not known")
    reward = shaped_reward(row, options.shaping, known or 0.0)
    return reward if math.isfinite(reward) else math.nan


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
