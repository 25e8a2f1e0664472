"""The plan of a step: which rollouts it trains on, in which order and with which advantage, and why others are left out.

It is committed before the step (ledger.py).
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from statistics import stdev
from typing import Any

import torch

from ...environments.shaping import RAW, SHAPED
from ...store.ids import hash_id
from .advantages import ZERO_STD, shaped_reward
from .algorithms.reinforce_pp import whiten
from .config import GrpoConfig
from .credit import credited
from .custom import code_hashes
from .learner.batch import split_micro_batches

PLANNED_COLUMNS = [
    "rollout_id",
    "slot_id",
    "attempt",
    "episode_id",
    "agent",
    "branch",
    "trainable",
    "gaps",
    "sample_index",
    "task_id",
    "group_id",
    "environment",
    "scorer",
    "status",
    "error_type",
    "stop_reason",
    "reward",
    "reward_components",
    "turn_rewards",
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


STEP_SETTINGS: Any = {
    "loss_fn": True,
    "policy": {
        "optimizer": True,
        "max_grad_norm": True,
        "precision": True,
        "shared_prefix": True,
        "router_replay": True,
        "lora": True,
        "generation": {"temperature"},
    },
    "grpo": {
        "advantage",
        "normalize_rewards",
        "normalize_components",
        "use_leave_one_out_baseline",
        "whiten_advantages",
        "overlong_filtering",
        "use_dynamic_sampling",
        "reward_shaping",
        "turn_rewards",
        "num_updates_per_batch",
        "seed",
    },
}
"""The settings that a step depends on, besides where it runs."""


@dataclass(frozen=True)
class PlanEntry:
    """One rollout of the step.

    Attributes:
        reward: What was compared within the group: the verdict after shaping, rounded to float32; the verdict where nothing was compared.
        advantage: Rounded to float32, as it is stored; None when the rollout took no part in its group's statistics.
        reason: Why it is left out; None when it is trained on.
        micro_batch: From 0; None when left out.
        turn_advantages: Of each turn, rounded to float32, where advantages are by turn (`advantage` is their mean); None elsewhere.
        teacher_logprobs: Parallel to the rollout's logprobs, of a rollout that is trained on with a teacher; None elsewhere.
    """

    rollout_id: str
    group_id: str
    reward: float | None
    advantage: float | None
    kept: bool
    reason: str | None
    micro_batch: int | None = None
    turn_advantages: tuple[float, ...] | None = None
    teacher_logprobs: tuple[float, ...] | None = None


BESIDE_ENTRIES = ("turn_advantages", "teacher_logprobs")
"""What the table keeps in columns of their own, parallel to the entries; null where no entry has any."""


@dataclass(frozen=True)
class BatchPlan:
    """A row of `batch_plans`.

    Attributes:
        policy_version: Optimizer steps behind the weights that the step changes.
        entries: Those trained on in training order, then those left out.
        settings: What the step depends on; see step_settings.
    """

    run_id: str
    step: int
    policy_version: int
    entries: tuple[PlanEntry, ...]
    seed: int
    settings: dict[str, Any]

    @property
    def mixed(self) -> bool:
        """Whether the run has several environments."""
        return "mixture" in self.settings

    def to_row(self) -> dict[str, Any]:
        """The table row."""
        entries = [asdict(entry) for entry in self.entries]
        beside = {name: [entry.pop(name) for entry in entries] for name in BESIDE_ENTRIES}
        return {
            "row_id": plan_id(self.run_id, self.step),
            "run_id": self.run_id,
            "step": self.step,
            "policy_version": self.policy_version,
            "entries": entries,
            **{name: lists if any(one is not None for one in lists) else None for name, lists in beside.items()},
            "seed": self.seed,
            "settings": json.dumps(self.settings, sort_keys=True),
            "created_at": datetime.now(UTC),
        }


def step_settings(config: GrpoConfig, model_hash: str, task_ids: Sequence[str]) -> dict[str, Any]:
    """BatchPlan.settings: JSON types.

    Returns:
        `algorithm` (its preset's name), `model_hash` of the model the run started from, STEP_SETTINGS as far as they differ from the defaults, `sha256` of the user's code by setting, the step's `task_ids` in order, and `plan`: `token_budget` (padded tokens of a
        micro-batch) and `keep_groups` (rollouts of one prompt stay in one micro-batch where they fit).
    """
    return {
        "algorithm": config.algorithm,
        "model_hash": model_hash,
        **config.model_dump(mode="json", exclude_defaults=True, include=STEP_SETTINGS),
        "sha256": code_hashes(config),
        "task_ids": list(task_ids),
        "plan": {"token_budget": config.policy.train_mb_tokens, "keep_groups": config.policy.shared_prefix},
    }


def plan_id(run_id: str, step: int) -> str:
    """Key of a step's plan."""
    return hash_id(run_id, step)


def make_plan(
    run_id: str,
    step: int,
    rollouts: Sequence[Mapping[str, Any]],
    config: GrpoConfig,
    settings: dict[str, Any],
    kl: Mapping[str, float] | None = None,
) -> BatchPlan:
    """The plan of one step over rollout rows (columns PLANNED_COLUMNS), of which each slot's last attempt counts.

    An episode has one reward, one place in its group and one advantage, however many rows it has; each of its rows that can be trained on
    carries that advantage.

    Args:
        settings: See BatchPlan.
        kl: By rollout_id, the KL to the reference (k1 summed over sampled tokens), of every rollout that can be trained on; needed with
            loss_fn.use_kl_in_reward.

    Raises ValueError when it is needed and missing.
    """
    episodes = sorted(episodes_of(rollouts), key=lambda rows: (rows[0]["group_id"], rows[0]["sample_index"]))
    ordered = [row for rows in episodes for row in rows]
    entries = _judge(episodes, config, kl or {})

    kept = [position for position, entry in enumerate(entries) if entry.kept]
    lengths = [ordered[position]["n_prompt_tokens"] + ordered[position]["n_tokens"] for position in kept]
    groups = [ordered[position]["group_id"] for position in kept] if config.policy.shared_prefix else None
    trained = [
        replace(entries[kept[position]], micro_batch=number)
        for number, batch in enumerate(split_micro_batches(lengths, config.policy.train_mb_tokens, groups))
        for position in batch
    ]
    left_out = [entry for entry in entries if not entry.kept]
    last = {row["rollout_id"] for row in ordered}
    superseded = [
        PlanEntry(row["rollout_id"], row["group_id"], row["reward"], None, False, "a later attempt took its place")
        for row in rollouts
        if row["rollout_id"] not in last
    ]
    return BatchPlan(run_id, step, step - 1, tuple(trained + left_out + superseded), config.grpo.seed, settings)


def episodes_of(rollouts: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """The rows of each slot's last attempt by episode, in the order of their first rows; an episode's main row comes first.

    The main row is the one whose rollout_id is the episode's, else the lowest branch.
    """
    last: dict[str, int] = {}
    for row in rollouts:
        last[row["slot_id"]] = max(row["attempt"] or 0, last.get(row["slot_id"], 0))
    episodes: dict[str, list[Mapping[str, Any]]] = {}
    for row in rollouts:
        if (row["attempt"] or 0) == last[row["slot_id"]]:
            episodes.setdefault(row["episode_id"] or row["slot_id"], []).append(row)
    return [sorted(rows, key=_place_in_episode) for rows in episodes.values()]


def _place_in_episode(row: Mapping[str, Any]) -> tuple[bool, int, str]:
    return row["rollout_id"] != row["episode_id"], row["branch"] or 0, row["agent"] or ""


def groups_with_spread(rollouts: Sequence[Mapping[str, Any]], turn_rewards: str = "off") -> set[str]:
    """Groups whose raw verdicts are not all equal: those that dynamic sampling keeps. Penalties for length or turns are no spread. Rows as in make_plan.

    Args:
        turn_rewards: grpo.turn_rewards.
    """
    verdicts: dict[str, list[list[float]]] = {}
    for rows in episodes_of(rollouts):
        if _no_part(rows, turn_rewards) is None:
            verdicts.setdefault(rows[0]["group_id"], []).append(verdict_values(rows[0], turn_rewards))
    together = {
        group: [one for values in found for one in values] for group, found in verdicts.items() if len(found) > 1
    }
    return {group for group, values in together.items() if stdev(values) > ZERO_STD}


def verdict_values(row: Mapping[str, Any], turn_rewards: str) -> list[float]:
    """The numbers of a verdict that are compared within its group, before shaping: the reward, the sum of turn rewards, or each of them."""
    if turn_rewards == "off":
        return [raw_verdict(row)]
    return list(row["turn_rewards"]) if turn_rewards == "turn" else [math.fsum(row["turn_rewards"])]


def raw_verdict(row: Mapping[str, Any]) -> float:
    """The environment's own reward of a rollout, before the shaping of its environment."""
    if (row["scorer"] or "").endswith(SHAPED):
        return next(part["value"] for part in row["reward_components"] if part["name"] == RAW)
    return row["reward"]


def _judge(
    episodes: Sequence[Sequence[Mapping[str, Any]]], config: GrpoConfig, kl: Mapping[str, float]
) -> list[PlanEntry]:
    """An entry per row of each episode, in order, without micro-batches. Tensors have a value per episode."""
    grpo, mains = config.grpo, [rows[0] for rows in episodes]
    rewards_B = torch.tensor([_compared(rows, config, kl) for rows in episodes], dtype=torch.float32)
    tokens_B = torch.tensor([sum(row["n_sampled_tokens"] or 0 for row in rows if _may_learn(row)) for rows in episodes], dtype=torch.int64)  # fmt: skip
    found, turns = credited(mains, rewards_B, tokens_B, config)
    spread = {row["group_id"] for row in mains}
    if grpo.use_dynamic_sampling:
        spread = groups_with_spread([row for rows in episodes for row in rows], grpo.turn_rewards)
    reasons = [
        _of_its_group(main, reward, flat and not has_more_terms(config), size, spread)
        for main, reward, flat, size in zip(
            mains, rewards_B.tolist(), found.zero_std_B.tolist(), found.sizes_B.tolist(), strict=True
        )
    ]
    left_out = [
        [_no_part(rows, grpo.turn_rewards) or _untrainable(row, grpo.overlong_filtering) or of_all for row in rows]
        for rows, of_all in zip(episodes, reasons, strict=True)
    ]
    values_B = found.values_B
    if grpo.whiten_advantages:
        trained_B = torch.tensor([None in whys for whys in left_out], dtype=torch.bool) & ~found.zero_std_B
        values_B = torch.where(found.zero_std_B, values_B, whiten(values_B, tokens_B * trained_B))
    return [
        PlanEntry(
            row["rollout_id"],
            row["group_id"],
            row["reward"] if math.isnan(reward) else reward,
            None if math.isnan(advantage) else advantage,
            why is None,
            why,
            turn_advantages=by_turn,
        )
        for rows, whys, reward, advantage, by_turn in zip(
            episodes, left_out, rewards_B.tolist(), values_B.float().tolist(), turns, strict=True
        )
        for row, why in zip(rows, whys, strict=True)
    ]


def _of_its_group(main: Mapping[str, Any], reward: float, flat: bool, size: int, spread: Collection[str]) -> str | None:
    """Why an episode with a verdict is left out as a whole, None when it is not.

    Args:
        reward: What was compared; NaN for nothing.
        flat: Whether its group has no spread and the loss no other term.
        spread: Groups that are kept.
    """
    if math.isnan(reward):
        return "its KL is not finite"
    if flat or main["group_id"] not in spread:
        return "zero_std" if size > 1 else "alone in its group"
    return None


def has_more_terms(config: GrpoConfig) -> bool:
    """Whether the loss has more than its policy term (KL, entropy, a teacher), so that groups without spread are trained on with advantage 0."""
    loss = config.loss_fn
    return (
        loss.entropy_bonus > 0
        or loss.teacher.model is not None
        or (loss.reference_policy_kl_penalty > 0 and not loss.use_kl_in_reward)
    )


def kl_off_rewards(config: GrpoConfig) -> float:
    """Weight of the KL to the reference that is taken off rewards; 0 takes none off."""
    return config.loss_fn.reference_policy_kl_penalty if config.loss_fn.use_kl_in_reward else 0.0


def _compared(rows: Sequence[Mapping[str, Any]], config: GrpoConfig, kl: Mapping[str, float]) -> float:
    """The shaped reward of an episode; NaN without a verdict or with a KL that is not finite.

    What cannot be trained on has no KL: the learner never scores it.
    """
    main, coefficient = rows[0], kl_off_rewards(config)
    if _no_part(rows, config.grpo.turn_rewards):
        return math.nan
    if config.grpo.turn_rewards != "off":
        main = {**main, "reward": math.fsum(main["turn_rewards"])}
    for row in rows if coefficient else ():
        if row["rollout_id"] not in kl and _untrainable(row, config.grpo.overlong_filtering) is None:
            raise ValueError(f"the reward of rollout {row['rollout_id']} is to be shaped by its KL, which is not known")
    known = sum(kl.get(row["rollout_id"], 0.0) for row in rows if _may_learn(row))
    reward = shaped_reward(
        main, config.grpo.reward_shaping, config.policy.max_total_sequence_length, coefficient * known
    )
    return reward if math.isfinite(reward) else math.nan


def _may_learn(row: Mapping[str, Any]) -> bool:
    """Whether the row is of the policy that is trained, and its answers were used."""
    return row["trainable"] is not False


def _no_part(rows: Sequence[Mapping[str, Any]], turn_rewards: str) -> str | None:
    """Why an episode has no part in its group's statistics, None when it has."""
    why = _no_verdict(rows[0])
    if why is not None or turn_rewards == "off":
        return why
    if not rows[0].get("turn_rewards"):
        return "no turn rewards"
    return "its turns are in several rows" if turn_rewards == "turn" and len(rows) > 1 else None


def has_verdict(row: Mapping[str, Any]) -> bool:
    """Whether the rollout has a part in its group's statistics."""
    return _no_verdict(row) is None


def _no_verdict(row: Mapping[str, Any]) -> str | None:
    """Why the rollout has no part in its group's statistics, None when it has."""
    if row["status"] not in ("completed", "truncated"):
        return f"{row['status']}: {row['error_type']}" if row["error_type"] else row["status"]
    if row["reward"] is None or not math.isfinite(row["reward"]):
        return "no reward"
    return None


def _why_not(gaps: Sequence[str]) -> str:
    """Why a row with `trainable` false is not trained on."""
    if any(gap.startswith("distribution:") for gap in gaps):
        return "sampled from a distribution that the learner does not compute"
    return "a retry whose answer was not used" if "retry" in gaps else "not the agent being trained"


def _untrainable(row: Mapping[str, Any], overlong_filtering: bool) -> str | None:
    """Why a rollout whose reward counts is not trained on, None when it is."""
    if not _may_learn(row):
        return _why_not(row["gaps"] or ())
    if not row["n_sampled_tokens"] or row["logprobs"] is None:
        return "no sampled tokens"
    if not row["prefix_ok"]:
        return "a prompt did not begin with the tokens before it"
    if not all(map(math.isfinite, row["logprobs"])):
        return "a logprob is not finite"
    if overlong_filtering and row["status"] == "truncated":
        return "truncated"
    return None
