"""Warm start: the first batches are groups of stored rollouts that the learner could have sampled itself.

They were sampled by other weights. The loss corrects for that by the engine's stored logprobs, as it does for age.
"""

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from ...base.errors import ConfigError
from ...store.lance_store import quote
from ...store.runs import get_run
from .ledger import prompt_key, prompt_tokens
from .plan import PLANNED_COLUMNS, episodes_of, verdict_values

if TYPE_CHECKING:
    from ...policies.chat import ChatFormat
    from ...store.lance_store import LanceStore
    from ...store.task import Task
    from .config import GrpoConfig

_JUDGED = [*(name for name in PLANNED_COLUMNS if name != "logprobs"), "run_id", "prompt_id", "tokenizer_hash", "template_hash", "temperature", "top_p", "top_k", "min_p", "logprobs_mode", "started_at"]  # fmt: skip
_TOKENS = ["rollout_id", "token_ids", "loss_mask", "logprobs"]
_GROUPS_AT_ONCE = 8
"""Groups that the learner scores at once."""

Row = dict[str, Any]


class Scores(Protocol):
    """What warm start needs of a learner."""

    def logprobs(
        self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]], temperature: float = 1.0
    ) -> list[list[float]]:
        """See Learner."""
        ...


@dataclass(frozen=True)
class WarmBatch:
    """A batch from history.

    Attributes:
        rollouts: Rows with PLANNED_COLUMNS and run_id, of one group after the other.
        tasks: The groups' tasks, in order.
        left_out: Rollouts that were considered and not used, by reason.
        record: To be joined to the plan's settings: `rollouts_of`, the runs the rollouts are of, and `warm_start`.
        metrics: `warm/…`: groups, rollouts, left_out and the mean over rollouts of |log of the geometric mean ratio|.
    """

    rollouts: list[Row]
    tasks: list["Task"]
    left_out: dict[str, int]
    record: dict[str, Any]
    metrics: dict[str, float]


def refuse_bad_warm_start(store: "LanceStore", config: "GrpoConfig") -> None:
    """Raises StoreNotFound for an unknown run, ConfigError when the loss does not correct for rollouts of other weights."""
    warm, loss = config.grpo.warm_start, config.loss_fn
    for run_id in warm.runs:
        get_run(store, run_id)
    if warm.runs and loss.old_logprobs == "learner" and not loss.use_importance_sampling_correction:
        raise ConfigError(
            "grpo.warm_start trains on rollouts of other weights, and the loss does not correct for them.",
            "Set loss_fn.use_importance_sampling_correction=true, or loss_fn.old_logprobs=engine.",
        )


def warm_batch(
    store: "LanceStore",
    config: "GrpoConfig",
    run_id: str,
    step: int,
    tasks: Sequence["Task"],
    chat: "ChatFormat",
    learner: Scores,
) -> WarmBatch | None:
    """Groups of stored rollouts for step `step` (from 1), None when the step is to generate: warm start is off or over, or history has no group.

    Used are rollouts of `grpo.warm_start.runs` whose task is in the prompt set, that were sampled with the policy's tokenizer, template and
    temperature and without filters, that have a reward, tokens and logprobs, and that the learner as it is now finds likely: the geometric
    mean over a rollout's tokens of exp(learner - engine) is within [1 / max_ratio, max_ratio]. The newest groups come first; each task at most
    once a batch, each group at most once a run; of a group at most num_generations_per_prompt episodes, at least two, whose rewards are not all equal; an episode comes with all its rows that fit.

    Args:
        tasks: The prompt set.
    """
    warm = config.grpo.warm_start
    if not warm.runs or step > warm.num_steps:
        return None
    left_out: Counter[str] = Counter()
    by_id = {task.task_id: task for task in tasks}
    rows = [row for row in _stored(store, warm.runs, _used_before(store, run_id, step))]
    fitting = []
    for row in rows:
        reason = _unfit(row, config, by_id, chat)
        left_out.update([reason] if reason else [])
        fitting += [] if reason else [row]
    chosen, distances = _choose(store, config, _groups(fitting), learner, left_out)
    if not chosen:
        return None
    used = [row for group in chosen for row in group]
    reasons = {reason: n for reason, n in left_out.items() if n}
    record = {
        "rollouts_of": sorted({row["run_id"] for row in used}),
        "warm_start": {"max_ratio": warm.max_ratio, "left_out": reasons},
    }
    metrics = {
        "warm/groups": float(len(chosen)),
        "warm/rollouts": float(len(used)),
        "warm/left_out": float(sum(left_out.values())),
        "warm/log_ratio": math.fsum(distances) / len(distances),
    }
    return WarmBatch(used, [by_id[group[0]["task_id"]] for group in chosen], reasons, record, metrics)


def _stored(store: "LanceStore", runs: Sequence[str], used: set[str]) -> list[Row]:
    named = ", ".join(quote(run) for run in runs)
    rows = store.read("rollouts", _JUDGED, f"run_id in ({named})").to_pylist()
    rows = [row | {"slot_id": row["slot_id"] or row["rollout_id"]} for row in rows]
    return [dict(row) for rows in episodes_of(rows) for row in rows if row["rollout_id"] not in used]


def _used_before(store: "LanceStore", run_id: str, step: int) -> set[str]:
    """Rollouts in the plans of the run's earlier steps."""
    where = f"run_id = {quote(run_id)} and step < {step}"
    plans = store.read("batch_plans", ["entries", "settings"], where).to_pylist()
    return {e["rollout_id"] for plan in plans if "warm_start" in json.loads(plan["settings"]) for e in plan["entries"]}


def _unfit(row: Row, config: "GrpoConfig", tasks: dict[str, "Task"], chat: "ChatFormat") -> str | None:
    """Why a rollout cannot be trained on, before the learner scores it; None when it can."""
    generation = config.policy.generation
    if row["task_id"] not in tasks:
        return "not in the prompt set"
    if row["group_id"] is None or row["trainable"] is False:
        return "not of a group"
    if row["status"] not in ("completed", "truncated") or row["reward"] is None or not math.isfinite(row["reward"]):
        return "no reward"
    if config.grpo.turn_rewards != "off" and not row["turn_rewards"]:
        return "no turn rewards"
    if not row["n_sampled_tokens"] or row["tokenizer_hash"] is None or not row["prefix_ok"]:
        return "no tokens"
    if (row["tokenizer_hash"], row["template_hash"]) != (chat.tokenizer_hash, chat.template_hash):
        return "another tokenizer or template"
    filtered = (row["top_p"] or 1) < 1 or (row["top_k"] or -1) > 0 or (row["min_p"] or 0) > 0
    if filtered or row["temperature"] is None or abs(row["temperature"] - generation.temperature) > 1e-6:
        return "sampled with other settings"
    if row["logprobs_mode"] not in (None, "processed") and generation.temperature != 1:
        return "sampled with other settings"
    if (row["n_prompt_tokens"] or 0) + row["n_tokens"] > config.policy.max_total_sequence_length:
        return "too long"
    return None


def _groups(rows: Sequence[Row]) -> list[list[Row]]:
    """The rollouts by group, the newest group first, each in the order of its samples."""
    groups: dict[str, list[Row]] = {}
    for row in sorted(rows, key=lambda row: (row["sample_index"] or 0, row["rollout_id"])):
        groups.setdefault(row["group_id"], []).append(row)

    def age(group: list[Row]) -> tuple[float, str]:
        return -max(row["started_at"].timestamp() if row["started_at"] else 0.0 for row in group), group[0]["group_id"]

    return sorted(groups.values(), key=age)


def _choose(
    store: "LanceStore", config: "GrpoConfig", groups: Sequence[list[Row]], learner: Scores, left_out: Counter[str]
) -> tuple[list[list[Row]], list[float]]:
    """Groups for one batch, and |log of the geometric mean ratio| of each rollout in them."""
    wanted, size = config.grpo.num_prompts_per_step, config.grpo.num_generations_per_prompt
    bound = math.log(config.grpo.warm_start.max_ratio)
    chosen: dict[str, list[Row]] = {}
    distances: list[float] = []
    for group, logs in _measured(store, config, _teaching(groups, config.grpo.turn_rewards, left_out), learner):
        if len(chosen) == wanted:
            break
        near = [(row, abs(log)) for row, log in zip(group, logs, strict=True) if abs(log) <= bound]
        left_out["ratio out of bounds"] += len(group) - len(near)
        episodes = list(dict.fromkeys(_episode(row) for row, _ in near))[:size]
        taken = [(row, distance) for row, distance in near if _episode(row) in episodes]
        rewards = {_compared(row, config.grpo.turn_rewards) for row, _ in taken}
        if group[0]["task_id"] in chosen or len(rewards) < 2:
            left_out["rewards are equal"] += len(near) if len(rewards) < 2 else 0
            continue
        chosen[group[0]["task_id"]] = [row for row, _ in taken]
        distances += [distance for _, distance in taken]
    return list(chosen.values()), distances


def _episode(row: Row) -> str:
    return row["episode_id"] or row["rollout_id"]


def _compared(row: Row, turn_rewards: str) -> tuple[float, ...]:
    return (row["reward"],) if turn_rewards == "off" else tuple(verdict_values(row, turn_rewards))


def _teaching(groups: Sequence[list[Row]], turn_rewards: str, left_out: Counter[str]) -> Iterator[list[Row]]:
    for group in groups:
        if len({_compared(row, turn_rewards) for row in group}) > 1:
            yield group
        else:
            left_out["rewards are equal"] += len(group)


def _measured(
    store: "LanceStore", config: "GrpoConfig", groups: Iterator[list[Row]], learner: Scores
) -> Iterator[tuple[list[Row], list[float]]]:
    """Each group with the log of each rollout's geometric mean ratio; a few groups at a time, as they are needed."""
    some: list[list[Row]] = []
    for group in groups:
        some.append(group)
        if len(some) == _GROUPS_AT_ONCE:
            yield from _score(store, config, some, learner)
            some = []
    yield from _score(store, config, some, learner)


def _score(
    store: "LanceStore", config: "GrpoConfig", groups: Sequence[list[Row]], learner: Scores
) -> Iterator[tuple[list[Row], list[float]]]:
    rows = [row for group in groups for row in group]
    if not rows:
        return
    names = ", ".join(quote(row["rollout_id"]) for row in rows)
    runs = ", ".join(quote(run) for run in {row["run_id"] for row in rows})
    where = f"run_id in ({runs}) and rollout_id in ({names})"
    tokens = {row["rollout_id"]: row for row in store.read("rollouts", _TOKENS, where).to_pylist()}
    prompts = prompt_tokens(store, rows)
    for row in rows:
        row |= tokens[row["rollout_id"]]
    sequences = [(prompts[prompt_key(row)], row["token_ids"]) for row in rows]
    logs = {
        row["rollout_id"]: _log_ratio(row, found)
        for row, found in zip(rows, learner.logprobs(sequences, config.policy.generation.temperature), strict=True)
    }
    for group in groups:
        yield group, [logs[row["rollout_id"]] for row in group]


def _log_ratio(row: Row, learned: Sequence[float]) -> float:
    """Log of the geometric mean of exp(learner - engine) over the sampled tokens; infinite when one has no finite logprob."""
    ours = [value for value, sampled in zip(learned, row["loss_mask"], strict=True) if sampled]
    if row["logprobs"] is None or len(ours) != len(row["logprobs"]):
        return math.inf
    log = math.fsum(a - b for a, b in zip(ours, row["logprobs"], strict=True)) / len(ours)
    return log if math.isfinite(log) else math.inf
